"""Calls and answers as people read them."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from mitmproxy.contentviews import Metadata
from mitmproxy.test import tflow

from sidestep.dialects.transcript import read
from sidestep.view import LLM
from support import corpus
from support.provider import Provider
from support.proxy import Mitmdump
from support.raw import Wire, chat
from support.settings import config

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


def test_mitmdump_shows_it(provider: Callable[..., Provider], proxy: Callable[..., Mitmdump]) -> None:
    """With bodies in its output, mitmdump prints the conversation, and not the JSON."""
    a = provider("a")
    m = proxy(config("chat", a, own=a), "--set", "flow_detail=3")
    with Wire(m) as wire:
        wire.send(chat(a.url())).answer()
    m.wait_for_log(r"── user\s+hi")
    m.wait_for_log(r"── assistant\s+a w1 w2")
