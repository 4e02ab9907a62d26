"""The content view: the story of a call on top of what it says."""

from __future__ import annotations

from typing import Any

import pytest
from mitmproxy.contentviews import Metadata
from mitmproxy.test import tflow

from sidestep.view import LLM, told

ATTEMPT: dict[str, Any] = {
    "provider": "a",
    "status": 503,
    "outcome": "failure",
    "reason": "server_error",
    "model": "m",
    "notes": ["a note"],
    "tokens": None,
    "cost": None,
    "started_ms": 0.0,
    "headers_ms": 12.2,
    "content_ms": None,
    "end_ms": 13.0,
}
ANSWERED = {
    **ATTEMPT,
    "provider": "b",
    "status": 200,
    "outcome": "success",
    "reason": "ok",
    "model": "n",
    "notes": [],
    "tokens": {"input": 7, "output": 2},
    "cost": 0.5,
    "started_ms": 20.0,
    "content_ms": 40.0,
    "end_ms": 60.0,
}
STORY: dict[str, Any] = {
    "result": "rerouted",
    "route": "chat",
    "model": "m",
    "provider": "b",
    "url": "https://api.test/v1/chat/completions",
    "attempts": [ATTEMPT, ANSWERED],
    "refused": [{"provider": "c", "reason": "open"}],
    "advice": "set a key",
}


def test_a_story_says_who_answered_and_why_not_another() -> None:
    lines = list(told(STORY))
    assert lines[:3] == [
        "rerouted: chat m → b n",
        "7 tokens in, 2 out, $0.500000",
        "called: https://api.test/v1/chat/completions",
    ]
    assert lines[3].startswith("1. a 503 ")
    assert lines[3].endswith("(begun at 0 ms, headers after 12, end after 13)")
    assert lines[4] == "   a note"
    assert lines[5] == "2. b 200 good (begun at 20 ms, headers after 12, first content after 40, end after 60)"
    assert lines[6:] == ["not asked: c, which is open", "set a key", ""]


@pytest.mark.parametrize("lacking", ["attempts", "provider", "refused"])
def test_a_story_of_another_version_is_left_out(lacking: str) -> None:
    assert list(told({name: value for name, value in STORY.items() if name != lacking})) == []


def test_the_story_stands_above_the_conversation() -> None:
    flow = tflow.tflow(resp=True)
    data = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}'
    bare = LLM().prettify(data, Metadata(flow=flow))
    flow.metadata["sidestep"] = STORY
    assert LLM().prettify(data, Metadata(flow=flow)) == "\n".join([*told(STORY), bare])
    assert LLM().prettify(data, Metadata()) == bare


@pytest.mark.parametrize("story", [None, 5, {}, {"attempts": 5, "model": None, "provider": None}])
def test_what_stands_there_stops_no_view(story: object) -> None:
    flow = tflow.tflow()
    flow.metadata["sidestep"] = story
    assert "hi" in LLM().prettify(
        b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}', Metadata(flow=flow)
    )
