"""Whatever stands in a provider's answer where a number, a word or a list is expected: it stops no answer, and no
figure that comes of it is out of its range."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest

from sidestep.breaker.numbers import MAX_COUNT
from sidestep.breaker.ratelimits import MAX_SECONDS
from sidestep.calls.watching import Watch
from sidestep.dialects import DIALECTS
from sidestep.dialects.base import Call, Usage
from sidestep.routing import prices
from support import corpus
from support.odd import with_odd_values
from support.world import World, toml

STREAMS = {
    "openai.chat_completions.stream.sse": ("openai", "chat/completions"),
    "openai.completions.stream.sse": ("openai", "completions"),
    "openai.responses.stream.sse": ("openai", "responses"),
    "openai.images_generations.stream.sse": ("openai", "images/generations"),
    "openai.audio_speech.stream.sse": ("openai", "audio/speech"),
    "openai.audio_transcriptions.stream.sse": ("openai", "audio/transcriptions"),
    "anthropic.messages.stream.sse": ("anthropic", "messages"),
    "gemini.streamGenerateContent.stream.sse": ("gemini", "streamGenerateContent"),
}
CHAT: dict[str, Any] = {
    "id": "c",
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {"content": "hi", "tool_calls": [{"id": "x", "function": {"name": "f", "arguments": "{}"}}]},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}},
    "base_resp": {"status_code": 0},
}
CHUNK: dict[str, Any] = {
    "id": "c",
    "model": "m",
    "choices": [
        {
            "index": 0,
            "delta": {"content": "hi", "tool_calls": [{"index": 0, "function": {"name": "f"}}], "audio": {"id": "a"}},
            "finish_reason": "stop",
            "error": {"code": 0, "message": ""},
        }
    ],
    "usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}},
    "x_groq": {"usage": {"prompt_tokens": 1}},
}
RESPONSE: dict[str, Any] = {
    "id": "r",
    "model": "m",
    "status": "completed",
    "output": [{"type": "message", "id": "i", "content": [{"type": "output_text", "text": "hi"}]}],
    "usage": {"input_tokens": 9, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 1}},
}
MESSAGE: dict[str, Any] = {
    "id": "m",
    "model": "m",
    "content": [{"type": "text", "text": "hi"}, {"type": "thinking", "thinking": "t", "signature": "s"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 9, "output_tokens": 1, "cache_read_input_tokens": 1, "cache_creation_input_tokens": 1},
    "container": {"id": "c"},
}
GEMINI: dict[str, Any] = {
    "candidates": [
        {
            "index": 0,
            "content": {"parts": [{"text": "a", "thoughtSignature": "s"}, {"functionCall": {"willContinue": False}}]},
            "finishReason": "STOP",
        }
    ],
    "usageMetadata": {
        "promptTokenCount": 9,
        "candidatesTokenCount": 1,
        "cachedContentTokenCount": 1,
        "thoughtsTokenCount": 1,
        "toolUsePromptTokenCount": 1,
    },
    "modelVersion": "m",
    "promptFeedback": {"blockReason": ""},
}
WHOLE = {
    "chat/completions": ("openai", CHAT),
    "responses": ("openai", RESPONSE),
    "embeddings": ("openai", {"data": [{"index": 0, "embedding": [1.0]}], "usage": {"prompt_tokens": 1}}),
    "rerank": ("openai", {"results": [{"index": 0, "relevance_score": 1.0}]}),
    "messages": ("anthropic", MESSAGE),
    "count_tokens": ("anthropic", {"input_tokens": 1}),
    "generateContent": ("gemini", GEMINI),
    "countTokens": ("gemini", {"totalTokens": 1}),
}


def watched(call: Call, body: bytes, content_type: str, status: int = 200) -> Watch:
    """An answer that was read to its end without a bug of ours, with figures in their range."""
    watch = Watch(
        DIALECTS[call.dialect],
        call,
        own_provider=False,
        own_credential=False,
        status=status,
        fields=((b"content-type", content_type.encode()),),
        wall_now=1_790_000_000.0,
    )
    for at in range(0, len(body), 4096):
        watch.feed(body[at : at + 4096])
    watch.rest()
    watch.note_usage()
    outcome = watch.judge_end()
    if watch.bug is not None:
        raise watch.bug
    assert outcome.cooldown_seconds is None or 0 <= outcome.cooldown_seconds <= MAX_SECONDS
    usage = watch.usage
    if usage is not None:
        figures = (usage.input, usage.output, usage.cached)
        assert all(type(figure) is int and 0 <= figure <= 3 * MAX_COUNT for figure in figures)
        assert usage.cached <= usage.input
    return watch


def all_events() -> Iterator[tuple[Call, bytes, bytes, str]]:
    for name, (dialect, operation) in STREAMS.items():
        for found in re.finditer(rb"data: (\{.*\})", data := corpus.stream(name)):
            for where, odd in with_odd_values(json.loads(found[1])):
                call = Call(dialect, operation, "m", stream=True)
                yield call, data[: found.start(1)] + odd + data[found.end(1) :], odd, f"{name}: {where}"


def test_in_an_event_of_a_stream() -> None:
    """All the rest is read as ever, and the event with it goes on."""
    for call, body, odd, where in all_events():
        try:
            watched(call, body, "text/event-stream")
        except Exception as e:
            raise AssertionError(f"{where} ({odd[:100]!r})") from e


@pytest.mark.parametrize("operation", WHOLE)
def test_in_a_whole_answer(operation: str) -> None:
    dialect, answer = WHOLE[operation]
    for where, odd in with_odd_values(answer):
        try:
            watched(Call(dialect, operation, "m", stream=False), odd, "application/json")
        except Exception as e:
            raise AssertionError(where) from e


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (Call("openai", "chat/completions", "m", stream=True), CHUNK),
        (Call("gemini", "streamGenerateContent", "m", stream=True), GEMINI),
    ],
    ids=["chat", "gemini"],
)
def test_in_an_event_that_has_everything(call: Call, answer: Any) -> None:
    for where, odd in with_odd_values(answer):
        forms = [(b"data: " + odd + b"\n\n", "text/event-stream")]
        if call.dialect == "gemini":
            forms.append((b"[" + odd + b"]", "application/json"))
        for body, kind in forms:
            try:
                watched(call, body, kind)
            except Exception as e:
                raise AssertionError(where) from e


@pytest.mark.parametrize("dialect", DIALECTS)
def test_in_an_error(dialect: str) -> None:
    operation = {"openai": "chat/completions", "anthropic": "messages", "gemini": "generateContent"}[dialect]
    for status, _, body in corpus.errors(dialect):
        if body.startswith(b"{"):
            for where, odd in with_odd_values(json.loads(body)):
                try:
                    watched(Call(dialect, operation, "m", stream=False), odd, "application/json", status or 200)
                except Exception as e:
                    raise AssertionError(f"{status} {body!r}: {where}") from e


@pytest.mark.parametrize(
    "counts", [(0, 0, MAX_COUNT), (MAX_COUNT, MAX_COUNT, 0), (3 * MAX_COUNT, 2 * MAX_COUNT, MAX_COUNT)]
)
@pytest.mark.parametrize("price", ["", "price = { input = 1e9, output = 1e9 }", "price = { input = 0, output = 0 }"])
def test_what_it_costs(counts: tuple[int, int, int], price: str) -> None:
    """Never less than nothing, and never infinite: a counter that falls, or is no number, spoils all that is added."""
    provider = World(toml(a=price)).engine.settings.providers[0]
    cost = prices.cost(provider, "gpt-4o", Usage(*counts))
    assert cost is not None
    assert 0 <= cost < math.inf
