"""The streams of the OpenAI dialect, event by event: what each means, and what is known at the end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidestep.breaker.outcomes import ErrorFacts, ErrorKind
from sidestep.dialects.base import Call, Mark, Usage
from sidestep.dialects.common import BREAKDOWN, digest
from sidestep.dialects.openai import OpenAI
from sidestep.dialects.openai_streams import EventReader
from sidestep.dialects.reader import HALF_A_CALL, Reader

LIFECYCLE, CONTENT, TERMINAL, MALFORMED = Mark.LIFECYCLE, Mark.CONTENT, Mark.TERMINAL, Mark.MALFORMED
DONE = "[DONE]"
OPEN = (False, False, False, None, None, ())
"""What is known of an answer before it has said anything."""


def event(data: Any, name: str = "") -> bytes:
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def told(operation: str, *events: Any) -> tuple[list[Any], tuple[Any, ...]]:
    """What each event means, an error in its place; and whether it has finished, answered, calls a tool, its usage,
    its model and its identifiers."""
    reader = OpenAI().reader(Call("openai", operation, "m", stream=True), "text/event-stream")
    assert isinstance(reader, Reader)
    found = [reader.feed(event(*e) if isinstance(e, tuple) else event(e)) for e in events]
    assert all(len(f) == 1 for f in found)
    marks = [f[0].error or f[0].mark for f in found]
    return marks, (reader.finished, reader.answered, reader.calling, reader.usage, reader.model, reader.ids)


def choice(delta: Any = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"delta": delta, **more}]}


CALLED = {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": ""}}]}
GOES_ON = {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}
NOTHING = {"prompt_tokens": 3, "completion_tokens": 0}

CHATS: list[tuple[list[Any], list[Any], tuple[Any, ...]]] = [
    ([DONE], [LIFECYCLE], OPEN),
    ([choice({"content": "a"}), DONE], [CONTENT, TERMINAL], (True, True, False, None, None, ())),
    ([choice({"role": "assistant", "name": "n", "channel": "c"})], [LIFECYCLE], OPEN),
    ([choice({"refusal": "no"})], [CONTENT], OPEN),
    ([choice(5), choice()], [LIFECYCLE, LIFECYCLE], OPEN),
    (["5", "[]", {"choices": 5}], [LIFECYCLE] * 3, OPEN),
    # The model is the one told first; the usage the one told last that is one.
    (
        [{"model": "m1", "usage": USAGE}, {"model": "m2", "usage": "many"}],
        [LIFECYCLE, LIFECYCLE],
        (False, False, False, Usage(3, 2, 1), "m1", ()),
    ),
    ([{"model": 5}, {"model": "m2"}], [LIFECYCLE, LIFECYCLE], (False, False, False, None, "m2", ())),
    ([{"x_groq": {"usage": USAGE}}], [LIFECYCLE], (False, False, False, Usage(3, 2, 1), None, ())),
    (
        [{"usage": USAGE}, {"x_groq": {"id": "r"}}, {"x_groq": "r"}],
        [LIFECYCLE] * 3,
        (False, False, False, Usage(3, 2, 1), None, ()),
    ),
    # Sound is named by its id, once there is some.
    ([choice({"audio": {"id": "audio_1", "data": "x"}})], [CONTENT], (False, False, False, None, None, ("audio_1",))),
    ([choice({"audio": "x"}), choice({"audio": {}})], [CONTENT, LIFECYCLE], OPEN),
    # It is answered when every choice that began has given its reason.
    (
        [choice({"content": "a"}), choice({}, finish_reason="stop")],
        [CONTENT, CONTENT],
        (False, True, False, None, None, ()),
    ),
    (
        [choice({"content": "a"}), choice({"content": "b"}, index=1), choice({}, finish_reason="stop")],
        [CONTENT] * 3,
        OPEN,
    ),
    (
        [choice({"content": "a"}), choice({"content": "b"}, index=1)]
        + [choice({}, finish_reason="stop", index=i) for i in (1, 0)],
        [CONTENT] * 4,
        (False, True, False, None, None, ()),
    ),
    (
        [choice({"content": "a"}, index="x"), choice({}, finish_reason="stop")],
        [CONTENT, CONTENT],
        (False, True, False, None, None, ()),
    ),
    # A reason without content ends no answer if not one token was made.
    (
        [{**choice({}, finish_reason="stop"), "usage": NOTHING}, DONE],
        [LIFECYCLE, LIFECYCLE],
        (False, False, False, Usage(3, 0, 0), None, ()),
    ),
    (
        [choice({}, finish_reason="tool_calls"), DONE],
        [LIFECYCLE, LIFECYCLE],
        OPEN,
    ),
    (
        [
            {
                **choice({"content": ""}, finish_reason="stop"),
                "base_resp": {"status_code": 1002, "status_msg": "overloaded"},
            }
        ],
        [ErrorFacts(ErrorKind.OVERLOADED, "overloaded")],
        OPEN,
    ),
    (
        [{**choice({"content": "a"}), "base_resp": {"status_code": 1027, "status_msg": "x"}}],
        [CONTENT],
        OPEN,
    ),
    (
        [{**choice({}, finish_reason="length"), "usage": NOTHING}, DONE],
        [CONTENT, TERMINAL],
        (True, True, False, Usage(3, 0, 0), None, ()),
    ),
    (
        [{**choice({"content": "a"}, finish_reason="stop"), "usage": NOTHING}],
        [CONTENT],
        (False, True, False, Usage(3, 0, 0), None, ()),
    ),
    ([choice({}, finish_reason="stop")], [CONTENT], (False, True, False, None, None, ())),
    # Tool calls.
    ([choice(CALLED)], [CONTENT], (False, False, True, None, None, ())),
    (
        [choice(CALLED), choice(GOES_ON), choice({}, finish_reason="tool_calls")],
        [CONTENT] * 3,
        (False, True, False, None, None, ()),
    ),
    ([choice({"function_call": {"name": "f"}})], [CONTENT], (False, False, True, None, None, ())),
    (["{", choice(GOES_ON)], [MALFORMED, HALF_A_CALL], OPEN),
    (["{", choice({"function_call": {"arguments": "{"}})], [MALFORMED, HALF_A_CALL], OPEN),
    (["{", choice({"tool_calls": "x"})], [MALFORMED, HALF_A_CALL], OPEN),
    (["{", choice({"tool_calls": ["x", {"function": "x"}]})], [MALFORMED, HALF_A_CALL], OPEN),
    (["{", choice(CALLED), choice(GOES_ON)], [MALFORMED, CONTENT, CONTENT], (False, False, True, None, None, ())),
    (
        ["{", choice({"function_call": {"name": "f"}})],
        [MALFORMED, CONTENT],
        (False, False, True, None, None, ()),
    ),
    # Errors.
    ([{"error": {"message": "overloaded"}}], [ErrorFacts(ErrorKind.OVERLOADED, "overloaded")], OPEN),
    ([({"message": "overloaded"}, "error")], [ErrorFacts(ErrorKind.OVERLOADED, "overloaded")], OPEN),
    (
        [{"object": "error", "message": "server is busy"}],
        [ErrorFacts(ErrorKind.OVERLOADED, "server is busy")],
        OPEN,
    ),
    (
        [{"base_resp": {"status_code": 1002, "status_msg": "rate limit"}}],
        [ErrorFacts(ErrorKind.RATE_LIMIT, "rate limit")],
        OPEN,
    ),
    ([{"base_resp": {"status_code": 0}}, {"base_resp": "x"}], [LIFECYCLE, LIFECYCLE], OPEN),
    ([{**choice({"content": "a"}), "object": "error"}], [CONTENT], OPEN),
    ([choice({}, error={"message": "overloaded"})], [ErrorFacts(ErrorKind.OVERLOADED, "overloaded")], OPEN),
    ([choice({"content": "a"}, finish_reason="error"), choice({"content": "b"})], [BREAKDOWN, LIFECYCLE], OPEN),
]


@pytest.mark.parametrize(("events", "marks", "known"), CHATS)
def test_chat(events: list[Any], marks: list[Any], known: tuple[Any, ...]) -> None:
    assert told("chat/completions", *events) == (marks, known)


def test_completions() -> None:
    """The text of a legacy completion stands in the choice itself."""
    events = [{"model": "m1", "choices": [{"text": t, "index": 0, "finish_reason": f}]} for t, f in SAID]
    assert told("completions", *events, DONE) == (
        [LIFECYCLE, CONTENT, CONTENT, TERMINAL],
        (True, True, False, None, "m1", ()),
    )


SAID = [("", None), ("a", None), ("", "stop")]


OUTPUT = [
    {"id": "msg_1", "type": "message"},
    {"id": "rs_1", "type": "reasoning", "encrypted_content": "g"},
    {"id": "ci_1", "type": "code_interpreter_call", "container_id": "cntr_1"},
]
IDS = ("resp_1", "msg_1", "rs_1", digest(b"g"), "ci_1", "cntr_1")
RESPONSE = {"id": "resp_1", "model": "m1", "status": "completed", "usage": {"input_tokens": 3, "output_tokens": 2}}
SPENT = Usage(3, 2, 0)


def typed(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, **more}


EVENTS: list[tuple[str, list[Any], list[Any], tuple[Any, ...]]] = [
    (
        "responses",
        [
            typed("response.created", response={"id": "resp_1", "model": "m1", "output": []}),
            typed("response.output_text.delta", delta=""),
            typed("response.output_text.delta", delta="a"),
            typed("response.completed", response={**RESPONSE, "output": OUTPUT}),
        ],
        [LIFECYCLE, LIFECYCLE, CONTENT, TERMINAL],
        (True, True, False, SPENT, "m1", IDS),
    ),
    # The end is `response.completed`, not what some close the stream with.
    ("responses", [typed("x.delta", delta="a"), DONE], [CONTENT, LIFECYCLE], OPEN),
    ("responses", ["5", {"type": 5}, typed("response.created", response=5)], [LIFECYCLE] * 3, OPEN),
    (
        "responses",
        [typed("response.completed", response={"id": "resp_1", "model": 5, "output": []})],
        [LIFECYCLE],
        (False, False, False, None, None, ("resp_1",)),
    ),
    (
        "responses",
        [typed("response.completed", response={**RESPONSE, "output": []})],
        [TERMINAL],
        (True, True, False, SPENT, "m1", ("resp_1",)),
    ),
    ("responses", [typed("response.completed")], [TERMINAL], (True, True, False, None, None, ())),
    *(
        (
            "responses",
            [typed(f"response.{status}", response={"status": status})],
            [TERMINAL],
            (True, True, False, None, None, ()),
        )
        for status in ("incomplete", "cancelled")
    ),
    # An item is named when it comes; a tool call is under way from its beginning to its end.
    (
        "responses",
        [typed("response.output_item.added", item={"id": "fc_1", "type": "function_call"})],
        [LIFECYCLE],
        (False, False, True, None, None, ("fc_1",)),
    ),
    (
        "responses",
        [
            typed("response.output_item.added", item={"id": "fc_1", "type": "function_call"}),
            typed("response.function_call_arguments.delta", delta="{"),
            typed("response.output_item.done", item={"id": "fc_1", "type": "function_call"}),
        ],
        [LIFECYCLE, CONTENT, CONTENT],
        (False, False, False, None, None, ("fc_1",)),
    ),
    (
        "responses",
        [typed("response.function_call_arguments.delta", delta="{"), typed("response.output_text.delta", delta="a")],
        [CONTENT, CONTENT],
        (False, False, True, None, None, ()),
    ),
    (
        "responses",
        [
            typed("response.custom_tool_call_input.delta", delta="{"),
            typed("response.output_item.done", item={"id": "m", "type": 5}),
        ],
        [CONTENT, CONTENT],
        (False, False, True, None, None, ("m",)),
    ),
    (
        "responses",
        [typed("response.failed", response={"error": {"message": "overloaded"}})],
        [ErrorFacts(ErrorKind.OVERLOADED, "overloaded")],
        OPEN,
    ),
    ("responses", [typed("response.failed", message="x")], [ErrorFacts(ErrorKind.SERVER, "x")], OPEN),
    ("responses", [typed("error", message="overloaded")], [ErrorFacts(ErrorKind.OVERLOADED, "overloaded")], OPEN),
    ("responses", [({"message": "overloaded"}, "error")], [ErrorFacts(ErrorKind.OVERLOADED, "overloaded")], OPEN),
    ("responses", [{"error": {"message": "overloaded"}}], [ErrorFacts(ErrorKind.OVERLOADED, "overloaded")], OPEN),
    # Images.
    (
        "images/generations",
        [
            typed("image_generation.partial_image", b64_json="x"),
            typed("image_generation.completed", b64_json="y", usage={"input_tokens": 3, "output_tokens": 2}),
        ],
        [CONTENT, TERMINAL],
        (True, True, False, SPENT, None, ()),
    ),
    # Sound and its transcript.
    (
        "audio/speech",
        [
            typed("speech.audio.delta", audio="x"),
            typed("speech.audio.done", usage={"input_tokens": 3, "output_tokens": 2}),
        ],
        [CONTENT, TERMINAL],
        (True, True, False, SPENT, None, ()),
    ),
    (
        "audio/transcriptions",
        [typed("transcript.text.delta", delta="a"), typed("transcript.text.segment"), typed("transcript.text.done")],
        [CONTENT, CONTENT, TERMINAL],
        (True, True, False, None, None, ()),
    ),
    (
        "audio/transcriptions",
        [typed("transcript.text.delta", delta="a"), DONE],
        [CONTENT, TERMINAL],
        (True, True, False, None, None, ()),
    ),
    (
        "audio/transcriptions",
        [
            typed("transcription.language", audio_language="en"),
            typed("transcription.text.delta", text="Hi"),
            typed("transcription.done", text="Hi", usage={"input_tokens": 3, "output_tokens": 2}),
        ],
        [LIFECYCLE, CONTENT, TERMINAL],
        (True, True, False, SPENT, None, ()),
    ),
    # In other forms than OpenAI's: what says something is content.
    (
        "audio/transcriptions",
        [{"object": "transcription.chunk", "choices": [{"delta": {"content": "Hi"}}]}, {"choices": []}, DONE],
        [CONTENT, LIFECYCLE, TERMINAL],
        (True, True, False, None, None, ()),
    ),
    (
        "audio/transcriptions",
        [{"text": ""}, {"text": None}, {"text": "Hi"}, {"error": {"message": "overloaded"}}],
        [LIFECYCLE, LIFECYCLE, CONTENT, ErrorFacts(ErrorKind.OVERLOADED, "overloaded")],
        OPEN,
    ),
    (
        "audio/speech",
        [typed("speech.audio.delta", audio_data="x"), typed("speech.audio.delta", audio_data="")],
        [CONTENT, LIFECYCLE],
        OPEN,
    ),
    (
        "images/generations",
        [typed("image_generation.partial_succeeded", url="x"), typed("image_generation.completed")],
        [CONTENT, TERMINAL],
        (True, True, False, None, None, ()),
    ),
    ("responses", [{"text": "Hi"}, typed("response.new", url="x")], [LIFECYCLE, LIFECYCLE], OPEN),
]


@pytest.mark.parametrize(("operation", "events", "marks", "known"), EVENTS)
def test_events(operation: str, events: list[Any], marks: list[Any], known: tuple[Any, ...]) -> None:
    assert told(operation, *events) == (marks, known)


@pytest.mark.parametrize(("kind", "whole"), [({}, True), ({"type": "transcription.text.delta"}, False)])
def test_what_has_no_type_is_ended_by_its_connection(kind: dict[str, str], whole: bool) -> None:
    """Until then it is not whole, and one whose events have types never is without the last of them."""
    reader = EventReader(lambda kind, message: b"", "audio/transcriptions")
    reader.feed(event({"text": "Hi", **kind}))
    before = reader.answered
    reader.close()
    assert (before, reader.answered) == (False, whole)


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 2}, Usage(3, 2, 0)),
        ({"input_tokens": 3, "output_tokens": 2}, Usage(3, 2, 0)),
        (USAGE, Usage(3, 2, 1)),
        ({"input_tokens": 3, "input_tokens_details": {"cached_tokens": 2}}, Usage(3, 0, 2)),
        ({"prompt_tokens": 3, "prompt_cache_hit_tokens": 2}, Usage(3, 0, 2)),
        ({"prompt_tokens": 3, "prompt_tokens_details": 5}, Usage(3, 0, 0)),
        ({"prompt_tokens": 10**12, "completion_tokens": 10**12 + 1}, Usage(10**12, 0, 0)),
        ({"prompt_tokens": -1, "completion_tokens": True}, Usage(0, 0, 0)),
        ([], None),
        ({}, Usage(0, 0, 0)),
    ],
)
def test_usage(usage: Any, read: Usage | None) -> None:
    """Tokens in and out, and how many of them came from a cache, in every spelling."""
    assert told("chat/completions", {"usage": usage})[1][3] == read


@pytest.mark.parametrize(
    ("data", "raises"),
    [
        ({"error": {"message": "x"}}, True),
        ({"error": "x"}, True),
        ({"error": None}, False),
        ({"message": "x"}, False),
        ([], False),
    ],
)
@pytest.mark.parametrize("operation", ["chat/completions", "responses"])
def test_what_the_sdk_raises_from(operation: str, data: Any, raises: bool) -> None:
    """The SDKs raise for data with an `error` that is not empty, and pass other errors on as content."""
    reader = OpenAI().reader(Call("openai", operation, "m", stream=True), "text/event-stream")
    assert [(e.mark, e.raises) for e in reader.feed(event(data, "error"))] == [(Mark.ERROR, raises)]


@pytest.mark.parametrize("rest", [b": x\n", b"event: x\n", b"id: 7", b": x"])
def test_what_is_left_behind_the_end(rest: bytes) -> None:
    """A line or two without data go on as they came: amid a stream, they could become an event with what follows."""
    reader = OpenAI().reader(Call("openai", "chat/completions", "m", stream=True), "text/event-stream")
    reader.feed(event(choice({"content": "a"})))
    reader.feed(rest)
    assert [(e.raw, e.mark) for e in reader.close()] == [(rest, MALFORMED)]
    reader.feed(event(DONE))
    reader.feed(rest)
    assert [(e.raw, e.mark) for e in reader.close()] == [(rest, LIFECYCLE)]
