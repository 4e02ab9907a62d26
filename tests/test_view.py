"""The content view: the story of a call on top of what it says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.contentviews import Metadata
from mitmproxy.test import tflow
from mitmproxy.websocket import WebSocketMessage
from wsproto.frame_protocol import Opcode

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
    assert lines[6:] == ["not asked: c's circuit is open", "set a key", ""]


@pytest.mark.parametrize(
    ("attempt", "words"),
    [
        ({"reason": "connect", "status": None, "cause": "connection refused"}, "a connection refused ("),
        ({"reason": "connect", "status": None, "cause": None}, "a could not be reached ("),
        ({"reason": "bad_response", "status": 101}, "a 101 gave no answer over its WebSocket ("),
        ({"reason": "bad_response", "status": 200}, "a 200 gave no answer in its 200 ("),
        ({"reason": None, "status": None, "outcome": None}, "a not over ("),
    ],
)
def test_an_attempt_says_its_cause(attempt: dict[str, Any], words: str) -> None:
    lines = list(told(STORY | {"attempts": [ATTEMPT | attempt]}))
    assert any(line.startswith(f"1. {words}") for line in lines), lines


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


# --- over a WebSocket


def frame(at: float, said: Any, *, by_client: bool = False) -> WebSocketMessage:
    content = said if isinstance(said, bytes) else json.dumps(said).encode()
    return WebSocketMessage(Opcode.TEXT, by_client, content, at)


def delta(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "response.output_text.delta", "delta": text, **more}


ASKED = frame(1.0, {"type": "response.create", "model": "m", "input": "hi there"}, by_client=True)
PIECES = [frame(1.1, delta("well ")), frame(1.2, delta("of another", stream_id="2")), frame(1.3, delta("done"))]
END = frame(1.4, {"type": "response.completed", "response": {"status": "completed"}})
RESPONSE = ANSWERED | {"asked": 1.0, "ended": 1.4, "label": "b:101", "status": 101, "notes": ["a note"]}


def socket(*responses: Any) -> http.HTTPFlow:
    flow = tflow.twebsocketflow()
    assert flow.websocket is not None
    flow.websocket.messages = [ASKED, *PIECES, END]
    flow.metadata["sidestep"] = STORY | {"responses": list(responses)}
    return flow


def shown(flow: http.HTTPFlow, message: WebSocketMessage) -> list[str]:
    return LLM().prettify(message.content, Metadata(flow=flow, websocket_message=message)).splitlines()


def test_what_asks_for_a_response_bears_its_story() -> None:
    """The first one also that of the handshake, and later ones not."""
    flow = socket(RESPONSE, RESPONSE | {"asked": 2.0, "ended": None})
    told = ["b n good (begun at 20 ms, first message after 12, first content after 40, end after 60)", "   a note"]
    told.append("7 tokens in, 2 out, $0.500000")
    lines = shown(flow, ASKED)
    assert lines[:3] == told
    assert lines[3].startswith("before its handshake: a 503 ")
    assert lines[4:6] == ["not asked: c's circuit is open", "set a key"]
    assert lines[6:] == ["", "model: m", "", "── user", "hi there"]
    later = frame(2.0, {"type": "response.create"}, by_client=True)
    assert shown(flow, later) == [*told, "", '{"type": "response.create"}']


def test_the_last_message_of_a_response_is_its_whole_answer() -> None:
    """Of its own lane; the messages before it stay as they are."""
    flow = socket(RESPONSE)
    assert shown(flow, END)[-5:] == ["", "finish: completed", "", "── assistant", "well done"]
    assert shown(flow, PIECES[0]) == [PIECES[0].text]
    view = LLM()
    chosen = [view.render_priority(m.content, Metadata(flow=flow, websocket_message=m)) > 0 for m in [ASKED, *PIECES]]
    assert chosen == [True, False, False, False]
    assert view.render_priority(END.content, Metadata(flow=flow, websocket_message=END)) > 0
    assert view.render_priority(END.content, Metadata(websocket_message=END)) < 0


def test_an_answer_that_is_told_at_its_end_alone() -> None:
    item = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "all at once"}]}
    whole = frame(1.5, {"type": "response.done", "response": {"output": [item]}})
    flow = socket(RESPONSE | {"asked": 1.45, "ended": 1.5})
    assert flow.websocket is not None
    flow.websocket.messages += [frame(1.46, b"no JSON"), whole]
    assert shown(flow, whole)[-2:] == ["── assistant", "all at once"]


@pytest.mark.parametrize("responses", [5, [5], [{"asked": 1.0}], [{"asked": 1.0, "notes": 5}]])
def test_a_socket_of_another_version_is_shown_as_it_is(responses: Any) -> None:
    flow = socket()
    flow.metadata["sidestep"]["responses"] = responses
    assert shown(flow, ASKED)[-2:] == ["── user", "hi there"]
    broken = frame(1.4, b"[")
    assert shown(socket(RESPONSE), broken)[-1] == "well done"
