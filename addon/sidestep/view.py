"""The content view `LLM`: a request or an answer of any dialect as a conversation, in mitmweb and mitmproxy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from mitmproxy import http
from mitmproxy.contentviews import Contentview, Metadata
from mitmproxy.flow import Flow
from mitmproxy.websocket import WebSocketMessage

from sidestep.breaker.outcomes import reason_in_words, refusal_in_words
from sidestep.dialects.transcript import read, read_messages

LARGE = 4 << 20
"""Chosen by itself only for bodies up to this size (bytes): it reads all of them."""


class LLM(Contentview):
    """Chosen by itself for what Sidestep has routed."""

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        if metadata.websocket_message is not None:
            return _message(metadata.flow, metadata.websocket_message)
        found = read(data)
        if found is None:
            raise ValueError("no call to an LLM and no answer of one")
        story = None if metadata.flow is None else metadata.flow.metadata.get("sidestep")
        return "\n".join([*(told(story) if isinstance(story, dict) else ()), str(found)])

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        if metadata.websocket_message is not None:
            story = _response_of(metadata.flow, metadata.websocket_message)
            return 2.0 if story is not None and len(data) <= LARGE else -1.0
        routed = metadata.flow is not None and "sidestep" in metadata.flow.metadata
        whole = isinstance(metadata.http_message, http.Message) and 0 < len(data) <= LARGE
        return 2.0 if routed and whole and read(data) is not None else -1.0


# --- messages of a WebSocket


def _responses(flow: Flow | None) -> list[dict[str, Any]]:
    story = None if flow is None else flow.metadata.get("sidestep")
    told = story.get("responses") if isinstance(story, dict) else None
    return [r for r in told if isinstance(r, dict)] if isinstance(told, list) else []


def _response_of(flow: Flow | None, message: WebSocketMessage) -> dict[str, Any] | None:
    """The response that a message has asked for, or the last message of which it is."""
    which = "asked" if message.from_client else "ended"
    return next((r for r in _responses(flow) if r.get(which) == message.timestamp), None)


def _message(flow: Flow | None, message: WebSocketMessage) -> str:
    """What asks for a response, as a conversation, and its last message, as the whole answer; its story above both."""
    story = _response_of(flow, message)
    found = read(message.content)
    said = message.content.decode("utf-8", "replace") if found is None else str(found)
    if story is None:
        return said
    if not message.from_client:
        answer = read_messages(*_answer(flow, story, message))
        said = str(answer) if answer.turns or answer.facts else said
    return "\n".join([*told_response(flow, story), said])


def _answer(flow: Flow | None, story: dict[str, Any], last: WebSocketMessage) -> tuple[list[bytes], Any]:
    """The provider's messages since it was asked, and the lane that they are to be of."""
    assert isinstance(flow, http.HTTPFlow)
    assert flow.websocket is not None
    asked = story.get("asked") or 0
    messages = [m for m in flow.websocket.messages if asked <= m.timestamp <= last.timestamp]
    try:
        lane = json.loads(last.content).get("stream_id")
    except (ValueError, RecursionError, AttributeError):
        lane = None
    return [m.content for m in messages if not m.from_client], lane


def told_response(flow: Flow | None, response: dict[str, Any]) -> Iterator[str]:
    """The same of one response of a WebSocket as `told` says of a call: the first one also tells of the handshake."""
    try:
        lines = [_attempt(response, first="first message", named=response["model"])]
        lines += [f"   {note}" for note in response["notes"]]
        if counted := _counted([response]):
            lines.append(counted)
        if flow is not None and response is _responses(flow)[0]:
            story = flow.metadata["sidestep"]
            by = story["provider"]
            before = [a for a in story["attempts"] if a["provider"] != by]
            lines += [f"before its handshake: {_attempt(a)}" for a in before]
            lines += _refused(story)
            if advice := story.get("advice"):
                lines.append(advice)
        yield from [*lines, ""]
    except (KeyError, TypeError, ValueError, AttributeError):
        return


# --- the story of a call, on top of it


def told(story: dict[str, Any]) -> Iterator[str]:
    """Who answered and how fast, what was tried before and in how many milliseconds, who was not asked and why. A story
    that was saved by another version may lack something."""
    try:
        yield from [*_lines(story), ""]
    except (KeyError, TypeError, ValueError, AttributeError):
        return


def _lines(story: dict[str, Any]) -> Iterator[str]:
    attempts, asked = story["attempts"], story["model"]
    by = story["provider"]
    answer = next((a for a in reversed(attempts) if a["provider"] == by and a["outcome"] in (None, "success")), None)
    line = f"{story['result']}: {story['route']}" + (f" {asked}" if asked else "")
    line += f" → {by or 'nobody'}"
    if answer is not None and answer["model"] not in (None, asked):
        line += f" {answer['model']}"
    yield line
    if counted := _counted(attempts):
        yield counted
    if url := story.get("url"):
        yield f"called: {url}"
    for number, attempt in enumerate(attempts, 1):
        yield f"{number}. {_attempt(attempt)}"
        for note in attempt["notes"]:
            yield f"   {note}"
    yield from _refused(story)
    if advice := story.get("advice"):
        yield advice


def _counted(attempts: list[dict[str, Any]]) -> str:
    tokens = [a["tokens"] for a in attempts if a["tokens"]]
    cost = sum(a["cost"] or 0 for a in attempts)
    if not tokens and not cost:
        return ""
    counted = f"{sum(t['input'] for t in tokens)} tokens in, {sum(t['output'] for t in tokens)} out"
    return counted + (f", ${cost:.6f}" if cost else "")


def _refused(story: dict[str, Any]) -> list[str]:
    return [f"not asked: {refusal_in_words(r['provider'], r['reason'])}" for r in story["refused"]]


def _attempt(attempt: dict[str, Any], first: str = "headers", named: str | None = None) -> str:
    """`first`: what of an answer comes first. `named`: what is told in place of its status."""
    reason = attempt["reason"]
    if reason is None:
        ended = "not over"
    elif reason == "http_5xx":
        ended = "an error of the server"
    else:
        good = attempt["outcome"] == "success"
        ended = "good" if good else reason_in_words(reason, attempt["status"], attempt.get("cause"))
    named = named or str(attempt["status"] or "")
    parts = [attempt["provider"], *([named] if named else []), ended]
    times = [f"begun at {attempt['started_ms']:.0f} ms"]
    for name, what in (("headers_ms", first), ("content_ms", "first content"), ("end_ms", "end")):
        if attempt[name] is not None:
            times.append(f"{what} after {attempt[name]:.0f}")
    return f"{' '.join(parts)} ({', '.join(times)})"
