"""Gemini calls in the envelope of Gemini CLI's Google login."""

from __future__ import annotations

import json
import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestep.dialects import DIALECTS, code_assist
from sidestep.dialects.code_assist import Wrapper
from support import corpus

GEMINI = DIALECTS["gemini"]
TAIL = "/v1internal:{}"
INNER = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}], "generationConfig": {"maxOutputTokens": 9}}
ASKED = {"model": "gemini-2.5-pro", "project": "p", "request": INNER}
STREAM = corpus.stream("gemini.streamGenerateContent.stream.sse")


def read(body: Any, operation: str = "generateContent") -> Any:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return GEMINI.read(operation, TAIL.format(operation), "", "application/json", raw)


@pytest.mark.parametrize("operation", ["generateContent", "streamGenerateContent"])
def test_what_is_inside_is_read(operation: str) -> None:
    assert GEMINI.operation("POST", TAIL.format(operation)) == operation
    call = read(ASKED, operation)
    assert (call.model, call.stream, call.max_output_tokens) == ("gemini-2.5-pro", "stream" in operation, 9)
    assert (call.in_envelope, call.unread) == (True, "")
    assert json.loads(bytes(call.messages)) == INNER["contents"]


@pytest.mark.parametrize(
    "tail", ["/v1internal:loadCodeAssist", "/v1internal:countTokens", "/v1internal", "/v1internal:"]
)
def test_what_else_the_app_asks_there_is_no_call(tail: str) -> None:
    assert GEMINI.operation("POST", tail) is None


@pytest.mark.parametrize(
    "body",
    [{}, {"model": "m"}, {"request": INNER}, {"model": "m", "request": "x"}, {"model": 7, "request": INNER}, b"{"],
)
def test_what_is_no_envelope_is_not_read(body: Any) -> None:
    assert read(body).unread


@pytest.mark.parametrize("model", ["../../admin", "..", "..\\x", "%2e%2e/x", "a/../../b", "m?x=1", "m#x", "models/m;x"])
def test_a_model_that_would_lead_out_of_a_base_url_is_none(model: str) -> None:
    """Another provider finds it in the path."""
    call = read({**ASKED, "model": model})
    assert (call.model, call.unread) == (None, "its model is no name")


def test_it_is_taken_out_and_put_back() -> None:
    raw = json.dumps(ASKED).encode()
    tail, inner = code_assist.taken_out(TAIL.format("streamGenerateContent"), "a/b c", raw)
    assert (tail, json.loads(inner)) == ("/v1beta/models/a%2Fb%20c:streamGenerateContent", INNER)
    assert code_assist.put_back(raw, inner, None) == raw
    assert json.loads(code_assist.put_back(raw, b"{}", "other")) == {"model": "other", "project": "p", "request": {}}


def wrapped(parts: list[bytes], *, stream: bool) -> bytes:
    wrapper = Wrapper(stream=stream)
    return b"".join(wrapper.feed(part) for part in parts) + wrapper.end() + wrapper.end()


def events_in(data: bytes) -> list[Any]:
    lines = data.replace(b"\r\n", b"\n").split(b"\n")
    return [json.loads(line.removeprefix(b"data:")) for line in lines if line.startswith(b"data:")]


def test_each_event_gets_an_envelope_wherever_it_is_cut() -> None:
    plain = events_in(STREAM)
    whole = wrapped([STREAM], stream=True)
    assert events_in(whole) == [{"response": event} for event in plain]
    assert all(wrapped(parts, stream=True) == whole for parts in corpus.cuts(STREAM))


@given(
    st.lists(st.sampled_from([b"data:", b"data: {}", b"dat", b": x", b"\n", b"\r\n", b"\n\n", b"event: a", b"d", b" "]))
)
def test_lines_of_all_kinds(pieces: list[bytes]) -> None:
    """What is no event's data stays as it is, in its place."""
    data = b"".join(pieces)
    came = wrapped(pieces, stream=True)
    assert came == wrapped([data], stream=True)
    lines = data.replace(b"\r\n", b"\n").split(b"\n")
    expected = [
        b'data: {"response":' + said + b"}" if line[:5] == b"data:" and (said := line[5:].removeprefix(b" ")) else line
        for line in lines
    ]
    assert came.replace(b"\r\n", b"\n").split(b"\n") == expected


@pytest.mark.parametrize("line", [b"a\n", b"data: {}\n", b"data:\n", b"\r\n", b":\r"])
def test_many_short_lines_are_one_piece_of_work(line: bytes) -> None:
    """A provider that sends millions of them keeps nobody waiting."""
    calls = 0

    def count(frame: FrameType, *_: object) -> None:
        nonlocal calls
        calls += frame.f_globals["__name__"].startswith("sidestep.")  # not what the garbage collector calls meanwhile

    wrapper = Wrapper(stream=True)
    sys.setprofile(count)
    try:
        wrapper.feed(line * 10_000)
    finally:
        sys.setprofile(None)
    assert calls < 100


@pytest.mark.parametrize(("body", "found"), [(b'{"a":1}', {"response": {"a": 1}}), (b"\n {}", {"response": {}})])
def test_a_document_gets_one(body: bytes, found: Any) -> None:
    assert all(json.loads(wrapped(parts, stream=False)) == found for parts in corpus.cuts(body))
    assert wrapped([], stream=False) == b""


def test_an_answer_at_home_is_read_through_it() -> None:
    call = read(ASKED, "streamGenerateContent")
    plain = GEMINI.reader(call, "text/event-stream")
    marks = corpus.marks(corpus.run(plain, [STREAM]))
    reader = GEMINI.reader(call, "text/event-stream")
    assert corpus.marks(corpus.run(reader, [wrapped([STREAM], stream=True)])) == marks
    assert (reader.usage, reader.model, reader.finished) == (plain.usage, plain.model, plain.finished)
    assert reader.usage is not None


def test_envelopes_in_envelopes_are_not_opened_for_ever() -> None:
    deep = b'{"response":' * 50 + b"{}" + b"}" * 50
    reader = GEMINI.reader(read(ASKED, "streamGenerateContent"), "text/event-stream")
    assert corpus.marks(corpus.run(reader, [b"data: " + deep + b"\n\n"])) == "L"


@pytest.mark.parametrize(
    ("body", "good"),
    [
        ({"response": {"candidates": [{"content": {"parts": [{"text": "x"}]}, "finishReason": "STOP"}]}}, True),
        ({"response": {"candidates": []}}, False),
        ({"response": {}}, False),
        ({"error": {"code": 500}}, False),
    ],
)
def test_a_whole_answer_is_judged_by_what_is_inside(body: Any, good: bool) -> None:
    assert GEMINI.judge_answer(read(ASKED), "application/json", json.dumps(body).encode()).good == good
