"""Calls and answers as people read them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mitmproxy.contentviews import Metadata
from mitmproxy.test import tflow

from sidestep.dialects.transcript import read
from sidestep.view import LLM
from support import corpus
from support.odd import with_odd_values

REQUEST = {
    "model": "gpt-4o",
    "tools": [{"type": "function", "function": {"name": "weather"}}],
    "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "x"}}]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": '{"city":"Rome"}'}}]},
        {"role": "tool", "content": "sunny"},
    ],
}
MESSAGES = {
    "model": "claude",
    "system": [{"type": "text", "text": "be brief"}],
    "messages": [
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": [{"type": "thinking", "thinking": "hm"}, {"type": "tool_use", "name": "w", "input": {"a": 1}}],
        },
        {"role": "user", "content": [{"type": "tool_result", "content": "sunny"}]},
    ],
}
RESPONSES = {
    "instructions": "be brief",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "function_call", "name": "w", "arguments": "{}"},
        {"type": "function_call_output", "output": "sunny"},
    ],
}
GEMINI = {
    "systemInstruction": {"parts": [{"text": "be brief"}]},
    "contents": [
        {"role": "user", "parts": [{"text": "hi"}]},
        {"role": "model", "parts": [{"functionCall": {"name": "w", "args": {}}}]},
    ],
}
ANSWERS = [
    (
        {"choices": [{"message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}]},
        ("assistant", "yes"),
    ),
    ({"type": "message", "role": "assistant", "content": [{"type": "text", "text": "yes"}]}, ("assistant", "yes")),
    ({"output": [{"type": "message", "role": "assistant", "content": [{"text": "yes"}]}]}, ("assistant", "yes")),
    ({"candidates": [{"content": {"parts": [{"text": "yes"}]}}]}, ("model", "yes")),
]


def turns(body: object) -> list[tuple[str, str]]:
    found = read(json.dumps(body).encode())
    assert found is not None
    return found.turns


def test_requests() -> None:
    assert turns(REQUEST) == [
        ("system", "be brief"),
        ("user", "hi"),
        ("user", "(image_url)"),
        ("assistant calls weather", '{"city":"Rome"}'),
        ("tool", "sunny"),
    ]
    assert turns(MESSAGES) == [
        ("system", "be brief"),
        ("user", "hi"),
        ("assistant, thinking", "hm"),
        ("assistant calls w", '{"a": 1}'),
        ("user, result", "sunny"),
    ]
    assert turns(RESPONSES) == [
        ("instructions", "be brief"),
        ("user", "hi"),
        ("assistant calls w", "{}"),
        ("tool", "sunny"),
    ]
    assert turns(GEMINI)[:2] == [("system", "be brief"), ("user", "hi")]
    assert str(read(json.dumps(REQUEST).encode())).startswith(
        "model: gpt-4o\ntools: weather\n\n── system\nbe brief\n\n── user"
    )


@pytest.mark.parametrize(("body", "turn"), ANSWERS, ids=lambda v: str(v)[:20])
def test_answers(body: object, turn: tuple[str, str]) -> None:
    assert turns(body) == [turn]


WHOLE = [
    (
        [{"model": "m", "instructions": "i", "input": "hi", "tools": [{"name": "a"}, {"type": "b"}, {}, 5]}],
        "model: m\ntools: a, b\n\n── instructions\ni\n\n── user\nhi",
    ),
    (
        [{"modelVersion": "g", "system_instruction": {"text": "s"}, "contents": [{"parts": [{"text": "hi"}]}]}],
        "model: g\n\n── system\ns\n\n── user\nhi",
    ),
    (
        [{"messages": [{"content": "a", "reasoning": "r", "refusal": "no"}, {"role": "user", "content": ["x", 5]}]}],
        "── assistant, thinking\nr\n\n── assistant\na\n\n── assistant, refusal\nno",
    ),
    (
        [{"messages": [{"tool_calls": [{"function": {"name": "f", "arguments": {"ä": 1}}}, {}, 5]}]}],
        '── assistant calls f\n{"ä": 1}',
    ),
    (
        [{"choices": [{"text": "a", "finish_reason": "length"}], "usage": {"ü": 1}}],
        'finish: length\nusage: {"ü": 1}\n\n── assistant\na',
    ),
    (
        [{"type": "message", "content": "a", "stop_reason": "end_turn", "error": {}}],
        "finish: end_turn\n\n── assistant\na",
    ),
    ([{"type": "other", "content": "a", "error": "gone"}], "error: gone"),
    (
        [
            {
                "contents": [
                    {
                        "role": "model",
                        "parts": [
                            {"thought": True, "text": "hm"},
                            {"functionCall": {"name": "w", "args": {"a": 1}}},
                            {"functionResponse": {"response": {"b": 2}}},
                            {"inlineData": "x", "more": 1},
                        ],
                    }
                ]
            }
        ],
        '── model, thinking\nhm\n\n── model calls w\n{"a": 1}\n\n── model, result\n{"b": 2}\n\n'
        "── model\n(inlineData, more)",
    ),
    (
        [
            {
                "output": [
                    {"type": "reasoning", "summary": [{"text": "s"}]},
                    {"type": "reasoning", "content": [{"text": "t"}]},
                    {"type": "custom_tool_call", "name": "f", "input": "x"},
                    {"type": "custom_tool_call_output", "output": "y"},
                    {"type": "web_search_call"},
                    {"content": "a"},
                ]
            }
        ],
        "── assistant, thinking\ns\n\n── assistant, thinking\nt\n\n── assistant calls f\nx\n\n── tool\ny\n\n"
        "── assistant\n(web_search_call)\n\n── assistant\na",
    ),
    # An answer of Gemini's that came as an array, piece by piece.
    (
        [
            {"candidates": [{"content": {"parts": [{"text": "a", "thought": True}, {"text": "b"}]}}]},
            {
                "candidates": [
                    {"content": {"parts": [{"text": "c"}, {"functionCall": {"name": "w", "args": {"a": 1}}}]}}
                ]
            },
            {"candidates": [{"content": 5, "finishReason": "STOP"}], "usageMetadata": {"t": 1}},
        ],
        'finish: STOP\nusage: {"t": 1}\n\n── model, thinking\na\n\n── model\nbc\n\n── model calls w\n{"a": 1}',
    ),
]


@pytest.mark.parametrize(("documents", "text"), WHOLE)
def test_documents_as_they_are_shown(documents: list[object], text: str) -> None:
    """The facts a line each, then the turns; what says nothing is not shown."""
    assert str(read(json.dumps(documents).encode())) == text


STREAMS: list[tuple[list[Any], str]] = [
    (
        [
            {"model": "m", "choices": [{"delta": {"reasoning_content": "r"}}, 5]},
            {"choices": [{"delta": {"reasoning": "s", "content": ""}}]},
            {"choices": [{"delta": {"content": "a"}}]},
            {"choices": [{"delta": {"content": "b"}}]},
            {"choices": [{"delta": {"tool_calls": [{"function": {"name": "f", "arguments": "{"}}, {}]}}]},
            {"choices": [{"delta": {"tool_calls": [{"function": {"arguments": "}"}}]}}]},
            {"choices": [{"delta": {"tool_calls": [{"function": {"name": "f", "arguments": ""}}]}}]},
            {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"t": 1}},
        ],
        'model: m\nfinish: stop\nusage: {"t": 1}\n\n── assistant, thinking\nrs\n\n── assistant\nab\n\n'
        "── assistant calls f\n{}\n\n── assistant calls f",
    ),
    (
        [{"choices": [{"text": "a"}]}, {"choices": [{"text": "b"}]}, {"error": "gone"}],
        "error: gone\n\n── assistant\nab",
    ),
    (
        [
            {"type": "message_start", "message": {"model": "c"}},
            {"type": "message_start", "message": 5},
            {"type": "content_block_start", "content_block": {"type": "thinking"}},
            {"type": "content_block_delta", "delta": {"thinking": "hm"}},
            {"type": "content_block_delta", "delta": {"text": "a"}},
            {"type": "content_block_delta", "delta": {"text": "b"}},
            {"type": "content_block_delta", "delta": {"partial_json": "no call"}},
            {"type": "content_block_start", "content_block": {"type": "tool_use", "name": "w"}},
            {"type": "content_block_delta", "delta": {"partial_json": "{"}},
            {"type": "content_block_delta", "delta": {"partial_json": "}"}},
            {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usageMetadata": {"t": 1}},
        ],
        'model: c\nfinish: tool_use\nusage: {"t": 1}\n\n── assistant, thinking\nhm\n\n── assistant\nab\n\n'
        "── assistant calls w\n{}",
    ),
    (
        [
            {"type": "response.created", "response": {"model": "m", "status": "in_progress"}},
            {"type": "response.reasoning_summary_text.delta", "delta": "hm"},
            {"type": "response.reasoning_summary_text.done", "delta": "no"},
            {"type": "response.output_text.delta", "delta": "a"},
            {"type": "response.output_text.delta", "delta": "b"},
            {"type": "response.output_item.added", "item": {"type": "message", "name": "no"}},
            {"type": "response.output_item.added", "item": {"type": "function_call", "name": "w"}},
            {"type": "response.function_call_arguments.delta", "delta": "{"},
            {"type": "response.function_call_arguments.delta", "delta": "}"},
            {
                "type": "response.failed",
                "response": {"model": "n", "status": "failed", "usage": {"t": 1}, "error": {"code": "x"}},
            },
        ],
        'model: n\nfinish: failed\nusage: {"t": 1}\nerror: {"code": "x"}\n\n── assistant, thinking\nhm\n\n'
        "── assistant\nab\n\n── assistant calls w\n{}",
    ),
]


@pytest.mark.parametrize(("events", "text"), STREAMS)
@pytest.mark.parametrize("start", [b"", b": hello\n\n", b"event: x\ndata: {\n\ndata: [1]\n\n"])
@pytest.mark.parametrize("cut", [0, 2])
def test_streams_as_they_are_shown(events: list[Any], text: str, start: bytes, cut: int) -> None:
    """What is no object is passed over; a last event without its end is one."""
    body = start + b"".join(b"data: " + json.dumps(e).encode() + b"\n\n" for e in events)
    assert str(read(body[: len(body) - cut])) == text


@pytest.mark.parametrize(
    "name", sorted(p.name for p in corpus.FOLDER.glob("*.stream.*") if "image" not in p.name and "audio" not in p.name)
)
def test_streams_are_put_together(name: str) -> None:
    """The pieces of one who speaks become one turn; why it stopped and what it took are told."""
    found = read(corpus.stream(name))
    assert found is not None
    assert found.turns
    assert all(a[0] != b[0] for a, b in zip(found.turns, found.turns[1:], strict=False))
    assert "finish" in dict(found.facts)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b"hello", b"<html>", b"data: x\n\n", b'{"messages": 5}', b"\x00\xff"]
)
def test_what_is_no_conversation(body: bytes) -> None:
    assert read(body) is None


def test_the_view_is_chosen_for_what_was_routed() -> None:
    flow, view = tflow.tflow(), LLM()
    body = json.dumps(REQUEST).encode()
    metadata = Metadata(flow=flow, http_message=flow.request)
    assert view.name == "LLM"
    assert view.render_priority(body, metadata) < 0
    flow.metadata["sidestep"] = {}
    assert view.render_priority(body, metadata) > 1
    assert view.render_priority(b"hello", metadata) < 0
    assert "── tool\nsunny" in view.prettify(body, metadata)
    with pytest.raises(ValueError, match="no call"):
        view.prettify(b"hello", metadata)


@pytest.mark.parametrize("name", ["REQUEST", "MESSAGES", "RESPONSES", "chunk"])
def test_odd_values(name: str) -> None:
    """Whatever stands where a text or a tool is expected: what can be read is shown."""
    call = {"function": {"name": "f", "arguments": "{}"}}
    chunk = {
        "choices": [{"delta": {"content": "hi", "tool_calls": [call]}, "finish_reason": "stop"}],
        "usage": {"a": 1},
    }
    for where, odd in with_odd_values(chunk if name == "chunk" else globals()[name]):
        for body in (odd, b"data: " + odd + b"\n\n"):
            try:
                found = read(body)
                assert found is None or str(found).encode()
            except Exception as e:
                raise AssertionError(where) from e


@pytest.mark.parametrize(
    ("usage", "words"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}, "tokens: 3 in, 4 out"),
        (
            {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}, "completion_tokens": 4},
            "tokens: 3 in, 4 out, 2 read from a cache",
        ),
        (
            {"input_tokens": 1, "output_tokens": 2, "cache_creation_input_tokens": 5},
            "tokens: 1 in, 2 out, 5 written to a cache",
        ),
        ({"input_tokens": 1, "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 1}}, "1 for reasoning"),
        ({"input_tokens": "many", "input_tokens_details": 5}, '"many"'),
    ],
)
def test_usage_is_told_in_words(usage: dict[str, object], words: str) -> None:
    body = json.dumps({"choices": [{"text": "a"}], "usage": usage})
    assert words in str(read(body.encode()))
