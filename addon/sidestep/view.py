"""The content view `LLM`: a request or an answer of any dialect as a conversation, in mitmweb and mitmproxy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mitmproxy import http
from mitmproxy.contentviews import Contentview, Metadata

from sidestep.breaker.outcomes import NAMES
from sidestep.dialects.transcript import read

LARGE = 4 << 20
"""Chosen by itself only for bodies up to this size (bytes): it reads all of them."""


class LLM(Contentview):
    """Chosen by itself for what Sidestep has routed."""

    def prettify(self, data: bytes, metadata: Metadata) -> str:
        found = read(data)
        if found is None:
            raise ValueError("no call to an LLM and no answer of one")
        story = None if metadata.flow is None else metadata.flow.metadata.get("sidestep")
        return "\n".join([*(told(story) if isinstance(story, dict) else ()), str(found)])

    def render_priority(self, data: bytes, metadata: Metadata) -> float:
        routed = metadata.flow is not None and "sidestep" in metadata.flow.metadata
        whole = isinstance(metadata.http_message, http.Message) and 0 < len(data) <= LARGE
        return 2.0 if routed and whole and read(data) is not None else -1.0


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
    tokens = [a["tokens"] for a in attempts if a["tokens"]]
    cost = sum(a["cost"] or 0 for a in attempts)
    if tokens or cost:
        counted = f"{sum(t['input'] for t in tokens)} tokens in, {sum(t['output'] for t in tokens)} out"
        yield counted + (f", ${cost:.6f}" if cost else "")
    if url := story.get("url"):
        yield f"called: {url}"
    for number, attempt in enumerate(attempts, 1):
        yield f"{number}. {_attempt(attempt)}"
        for note in attempt["notes"]:
            yield f"   {note}"
    for refused in story["refused"]:
        yield f"not asked: {refused['provider']}, which is {refused['reason']}"
    if advice := story.get("advice"):
        yield advice


def _attempt(attempt: dict[str, Any]) -> str:
    reason = attempt["reason"]
    ended = "not over" if reason is None else "good" if attempt["outcome"] == "success" else NAMES.get(reason, reason)
    ended = "an error of the server" if reason == "http_5xx" else ended
    parts = [attempt["provider"], *([str(attempt["status"])] if attempt["status"] else []), ended]
    times = [f"begun at {attempt['started_ms']:.0f} ms"]
    for name, what in (("headers_ms", "headers"), ("content_ms", "first content"), ("end_ms", "end")):
        if attempt[name] is not None:
            times.append(f"{what} after {attempt[name]:.0f}")
    return f"{' '.join(parts)} ({', '.join(times)})"
