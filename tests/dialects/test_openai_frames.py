"""What the messages of a WebSocket say, of the Responses API and of Realtime, and of which response."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestep.breaker.outcomes import ErrorKind
from sidestep.dialects import openai_frames
from sidestep.dialects.base import Usage
from sidestep.dialects.errors import facts_of_words
from sidestep.dialects.openai_frames import REALTIME, RESPONSES, FrameReader, Said, Sign

CREATE = {"type": "response.create", "model": "gpt-5", "input": "hi"}
CREATED = {"type": "response.created", "response": {"id": "r1", "status": "in_progress"}}
CREATED_2: dict[str, Any] = {**CREATED, "response": {"id": "r2"}}
DELTA = {"type": "response.output_text.delta", "item_id": "i1", "delta": "well"}
MESSAGE = {"id": "i1", "type": "message", "content": [{"type": "output_text", "text": "well"}]}
USAGE = {"input_tokens": 7, "output_tokens": 3}
COMPLETED: dict[str, Any] = {
    "type": "response.completed",
    "response": {"id": "r1", "status": "completed", "model": "gpt-5-x", "output": [MESSAGE], "usage": USAGE},
}
HOLLOW = {"type": "response.completed", "response": {"id": "r1", "status": "completed", "output": [], "usage": None}}

N, C, D = Sign.NOTHING, Sign.CONTENT, Sign.DONE


def raw(message: Any) -> bytes:
    return message if isinstance(message, bytes) else json.dumps(message).encode()


def talk(operation: str, *messages: Any) -> tuple[FrameReader, list[Said]]:
    """A conversation: what the app says is a tuple, what the provider says is not."""
    reader = FrameReader(operation)
    said = []
    for message in messages:
        if isinstance(message, tuple):
            reader.asked(raw(message[0]))
        else:
            said += reader.came(raw(message))
    return reader, said


def signs(operation: str, *messages: Any) -> list[Sign]:
    return [s.sign for s in talk(operation, *messages)[1]]


def test_a_response_from_its_beginning_to_its_end() -> None:
    reader, said = talk(RESPONSES, (CREATE,), CREATED, DELTA, DELTA, COMPLETED)
    assert [s.sign for s in said] == [N, C, C, D]
    assert len({s.reply for s in said}) == 1
    assert reader.open == []
    reply = said[-1].reply
    assert reply is not None
    assert (reply.reader.usage, reply.reader.model) == (Usage(7, 3), "gpt-5-x")
    assert reply.reader.ids == ("r1", "i1")


ENDS: list[tuple[str, dict[str, Any], list[dict[str, Any]], Sign]] = [
    ("whole", CREATE, [COMPLETED], D),
    ("incomplete", CREATE, [{"type": "response.incomplete", "response": {"status": "incomplete"}}], D),
    ("hollow", CREATE, [CREATED, HOLLOW], Sign.HOLLOW),
    ("hollow after content", CREATE, [DELTA, HOLLOW], D),
    ("asked for nothing", {**CREATE, "generate": False}, [CREATED, HOLLOW], Sign.WARM),
    ("asked for nothing, given something", {**CREATE, "generate": False}, [DELTA, COMPLETED], D),
    ("cancelled", CREATE, [{"type": "response.cancelled", "response": {"id": "r1"}}], Sign.CANCELLED),
    ("failed", CREATE, [{"type": "response.failed", "response": {"status": "failed", "error": None}}], Sign.FAILED),
    ("an append", {"type": "response.append", "input": []}, [DELTA, COMPLETED], D),
]


@pytest.mark.parametrize(("ask", "messages", "sign"), [e[1:] for e in ENDS], ids=[e[0] for e in ENDS])
def test_how_a_response_ends(ask: dict[str, Any], messages: Sequence[Any], sign: Sign) -> None:
    """Whatever ends it, what comes of it later means nothing."""
    reader, said = talk(RESPONSES, (ask,), *messages)
    assert said[-1].sign is sign
    assert said[-1].reply is not None
    assert reader.open == []
    assert reader.came(raw(DELTA)) == [Said(N)]


ERRORS: list[tuple[dict[str, Any], ErrorKind]] = [
    ({"type": "error", "status": 503, "error": {"code": "server_is_overloaded"}}, ErrorKind.OVERLOADED),
    ({"type": "error", "status_code": 500}, ErrorKind.SERVER),
    ({"type": "error", "error": {"type": "server_error", "message": "The server had an error"}}, ErrorKind.SERVER),
    (
        {"type": "error", "status": 429, "error": {"type": "usage_limit_reached", "resets_in_seconds": 9}},
        ErrorKind.QUOTA,
    ),
    ({"type": "error", "status": 429, "error": {"code": "rate_limit_exceeded"}}, ErrorKind.RATE_LIMIT),
    ({"type": "error", "status": 429, "body": {"error": {"type": "usage_limit_reached"}}}, ErrorKind.QUOTA),
    ({"type": "error", "status": 429, "body": '{"error": {"type": "usage_limit_reached"}}'}, ErrorKind.QUOTA),
    ({"type": "error", "error": {"code": "insufficient_quota", "message": "You exceeded"}}, ErrorKind.QUOTA),
    ({"type": "error", "code": "invalid_prompt", "message": "flagged", "param": None}, ErrorKind.INVALID),
    ({"type": "error", "status": 400, "error": {"code": "previous_response_not_found"}}, ErrorKind.INVALID),
    ({"type": "error", "error": {"code": "previous_response_not_found", "message": "not found"}}, ErrorKind.INVALID),
    ({"type": "error", "status": 429, "error": {"code": "websocket_connection_limit_reached"}}, ErrorKind.INVALID),
    ({"type": "error", "error": {"code": "websocket_stream_limit_reached"}}, ErrorKind.INVALID),
    ({"type": "error", "status": 401, "error": {"code": "invalid_api_key"}}, ErrorKind.CREDENTIAL),
    ({"type": "error", "status": 400, "error": {"code": "context_length_exceeded"}}, ErrorKind.CONTEXT_TOO_LONG),
    ({"type": "error", "status": 404, "error": {"code": "model_not_found"}}, ErrorKind.UNKNOWN_MODEL),
    ({"error": {"message": "upstream connect error", "type": "x"}}, ErrorKind.SERVER),
    ({"type": "response.failed", "response": {"error": {"code": "server_error", "message": "x"}}}, ErrorKind.SERVER),
    ({"type": "response.failed", "response": {"error": {"code": "rate_limit_exceeded"}}}, ErrorKind.RATE_LIMIT),
    ({"type": "response.failed", "response": {"error": {"code": "bio_policy"}}}, ErrorKind.INVALID),
    ({"type": "response.failed", "response": {"error": {"code": "insufficient_quota"}}}, ErrorKind.QUOTA),
    ({"type": "response.failed", "response": {}}, ErrorKind.SERVER),
    (
        {
            "type": "response.done",
            "response": {"status": "failed", "status_details": {"error": {"code": "server_error"}}},
        },
        ErrorKind.SERVER,
    ),
    (
        {
            "type": "response.done",
            "response": {"status": "failed", "status_details": {"error": {"type": "insufficient_quota"}}},
        },
        ErrorKind.QUOTA,
    ),
]


@pytest.mark.parametrize(("frame", "kind"), ERRORS, ids=lambda value: json.dumps(value)[:80])
@pytest.mark.parametrize("before", [[], [CREATED], [CREATED, DELTA]], ids=["asked", "begun", "content"])
def test_what_an_error_says(frame: dict[str, Any], kind: ErrorKind, before: list[Any]) -> None:
    """And it ends the response that was under way."""
    reader, said = talk(RESPONSES, (CREATE,), *before, frame)
    assert (said[-1].sign, said[-1].error.kind) == (Sign.FAILED, kind)
    assert said[-1].reply is not None
    assert reader.open == []


def test_what_an_error_quotes() -> None:
    """The header fields that its answer would have had over HTTP, whatever their values are in JSON."""
    frame = {"type": "error", "status": 429, "error": {"code": "rate_limit_exceeded"}}
    headers = {"Retry-After": 7, "x-codex-primary-used-percent": "100.0", "x-list": ["a"], "x-long": "a" * 2_000}
    (said,) = talk(RESPONSES, (CREATE,), {**frame, "headers": headers})[1]
    assert said.headers == {"retry-after": "7", "x-codex-primary-used-percent": "100.0"}
    assert json.loads(said.body)["status"] == 429


# --- several at a time


def test_lanes_are_kept_apart() -> None:
    """Responses of two lanes come at the same time; an event without an id belongs to the oldest of its lane."""
    reader = FrameReader(RESPONSES)
    one = reader.asked(raw({**CREATE, "stream_id": "a"}))
    two = reader.asked(raw({**CREATE, "stream_id": "b"}))
    said = [
        reader.came(raw({**message, "stream_id": lane}))[0]
        for lane, message in [
            ("b", CREATED_2),
            ("a", CREATED),
            ("b", DELTA),
            ("a", {"type": "error", "status": 503}),
            ("b", {**COMPLETED, "response": {**COMPLETED["response"], "id": "r2"}}),
        ]
    ]
    assert [(s.reply, s.sign) for s in said] == [(two, N), (one, N), (two, C), (one, Sign.FAILED), (two, D)]


def test_of_one_lane_the_first_asked_for_comes_first() -> None:
    reader = FrameReader(RESPONSES)
    one, two = reader.asked(raw(CREATE)), reader.asked(raw(CREATE))
    assert one is not two
    assert reader.came(raw(COMPLETED))[0].reply is one
    assert reader.came(raw({**CREATED, "response": {"id": "r2"}}))[0].reply is two
    assert reader.open == [two]


def test_what_comes_of_a_response_after_an_error_ended_it_is_not_of_the_next() -> None:
    """Realtime says that a response has failed after it has told the error. An id may be used again."""
    reader, said = talk(RESPONSES, (CREATE,), CREATED, {"type": "error", "status": 503}, (CREATE,), COMPLETED)
    assert [s.sign for s in said] == [N, Sign.FAILED, N]
    assert len(reader.open) == 1
    assert [reader.came(raw(m))[0].sign for m in (CREATED, COMPLETED)] == [N, D]
    assert signs(RESPONSES, (CREATE,), CREATED, COMPLETED, (CREATE,), CREATED, COMPLETED, (CREATE,), COMPLETED) == [
        *(N, D, N, D),
        D,
    ]


def test_only_so_many_are_followed() -> None:
    reader = FrameReader(RESPONSES)
    assert [reader.asked(raw(CREATE)) is None for _ in range(40)] == [False] * 32 + [True] * 8


# --- Realtime


SOUND = {"type": "response.output_audio.delta", "response_id": "r1", "delta": "AAAA"}
SPOKEN = {"type": "response.done", "response": {"id": "r1", "status": "completed", "output": [MESSAGE], "usage": USAGE}}
REFUSED = {"type": "error", "error": {"type": "invalid_request_error", "code": "invalid_value", "message": "no"}}
BROKEN = {"type": "error", "error": {"type": "server_error", "code": None, "message": "The server had an error"}}


def naming(frame: dict[str, Any], event: str) -> dict[str, Any]:
    return {**frame, "error": {**frame["error"], "event_id": event}}


REALTIME_TALKS: list[tuple[str, list[Any], list[Sign]]] = [
    ("asked for", [({"type": "response.create"},), CREATED, SOUND, SPOKEN], [N, C, D]),
    ("begun by the provider itself", [CREATED, SOUND, SPOKEN], [N, C, D]),
    ("nothing is a response", [{"type": "session.created"}, {"type": "rate_limits.updated"}, SOUND], [N, N, N]),
    ("the app's other messages", [({"type": "input_audio_buffer.append", "audio": "response.create"},), SOUND], [N]),
    (
        "spoken over",
        [CREATED, {"type": "response.done", "response": {"id": "r1", "status": "cancelled"}}],
        [N, Sign.CANCELLED],
    ),
    ("refused for another message", [CREATED, REFUSED, SOUND, SPOKEN], [N, Sign.FAILED, C, D]),
    (
        "refused for another message, by its name",
        [({"type": "response.create", "event_id": "e1"},), naming(REFUSED, "e0"), CREATED, SOUND],
        [Sign.FAILED, N, C],
    ),
    (
        "a transcript failed",
        [CREATED, {"type": "conversation.item.input_audio_transcription.failed", "error": {"code": "x"}}],
        [N, N],
    ),
]


@pytest.mark.parametrize(("messages", "expected"), [t[1:] for t in REALTIME_TALKS], ids=[t[0] for t in REALTIME_TALKS])
def test_realtime(messages: list[Any], expected: list[Sign]) -> None:
    assert signs(REALTIME, *messages) == expected


@pytest.mark.parametrize(
    ("frame", "ends"),
    [(REFUSED, True), (naming(REFUSED, "e1"), True), (naming(REFUSED, "e0"), False), (BROKEN, True)],
)
def test_an_error_of_realtime_ends_a_response_that_has_not_begun(frame: dict[str, Any], ends: bool) -> None:
    """Where it may be about the message that asked for it."""
    reader, said = talk(REALTIME, ({"type": "response.create", "event_id": "e1"},), frame)
    assert (said[0].reply is not None, reader.open == []) == (ends, ends)


@pytest.mark.parametrize(("frame", "ends"), [(REFUSED, False), (naming(REFUSED, "e1"), False), (BROKEN, True)])
def test_a_response_of_realtime_that_has_begun_is_ended_by_the_providers_errors_alone(
    frame: dict[str, Any], ends: bool
) -> None:
    reader, said = talk(REALTIME, ({"type": "response.create", "event_id": "e1"},), CREATED, SOUND, frame)
    assert (said[-1].reply is not None, reader.open == []) == (ends, ends)


def test_several_events_in_one_message() -> None:
    """The ChatGPT backend sends them so; each is read as if it had come alone."""
    at_once = {"chunks": [{"type": "codex.rate_limits"}, CREATED, DELTA, COMPLETED]}
    reader, said = talk(RESPONSES, (CREATE,), at_once)
    assert [s.sign for s in said] == [N, N, N, C, D]
    assert reader.open == []
    assert signs(RESPONSES, (CREATE,), {"type": "codex.response.metadata", "chunks": [COMPLETED, 1, "x"]}) == [N, D]
    assert signs(RESPONSES, (CREATE,), {"chunks": {}}, {"chunks": [[]]}) == [N, N]


def test_a_plans_windows() -> None:
    """As the header fields of an answer tell them."""
    primary = {"used_percent": 98.5, "window_minutes": 300, "reset_at": 1_790_000_000, "x": "y"}
    (said,) = talk(RESPONSES, {"type": "codex.rate_limits", "rate_limits": {"primary": primary, "secondary": None}})[1]
    assert (said.sign, said.reply) == (N, None)
    assert said.headers == {
        "x-codex-primary-used-percent": "98.5",
        "x-codex-primary-window-minutes": "300",
        "x-codex-primary-reset-at": "1790000000",
    }


def test_the_windows_of_both_lengths() -> None:
    """What is no number tells nothing."""
    primary = {"used_percent": "98", "reset_after_seconds": 7}
    told = {"primary": primary, "secondary": {"used_percent": 1.5, "window_minutes": None}}
    (said,) = talk(RESPONSES, {"type": "codex.rate_limits", "rate_limits": told})[1]
    assert said.headers == {"x-codex-primary-reset-after-seconds": "7", "x-codex-secondary-used-percent": "1.5"}
    empty: tuple[Any, ...] = (None, [], "x")
    for nothing in empty:
        (said,) = talk(RESPONSES, {"type": "codex.rate_limits", "rate_limits": nothing})[1]
        assert said.headers == {}


ERROR = {"type": "error", "status": 503}


@pytest.mark.parametrize(
    ("frame", "ended"),
    [
        (ERROR, "a"),
        ({**ERROR, "stream_id": "b"}, "b"),
        ({**ERROR, "stream_id": "x"}, None),
        ({**ERROR, "response_id": "r2"}, "b"),
        ({**ERROR, "response_id": "r9"}, "a"),
        ({"type": "response.output_text.delta", "response_id": "r2", "error": {"code": "server_error"}}, "b"),
    ],
)
def test_which_of_several_responses_an_error_ends(frame: dict[str, Any], ended: str | None) -> None:
    """That which it names, or whose lane it is in; else the oldest."""
    reader = FrameReader(RESPONSES)
    replies = {lane: reader.asked(raw({**CREATE, "stream_id": lane})) for lane in "ab"}
    for lane, message in (("a", CREATED), ("b", CREATED_2)):
        reader.came(raw({**message, "stream_id": lane}))
    (said,) = reader.came(raw(frame))
    assert (said.sign, said.reply) == (Sign.FAILED, None if ended is None else replies[ended])
    assert reader.open == [reply for lane, reply in replies.items() if lane != ended]


@pytest.mark.parametrize(("length", "known"), [(256, True), (257, False)])
def test_a_name_that_is_too_long_is_none(length: int, known: bool) -> None:
    reader = FrameReader(RESPONSES)
    reply = reader.asked(raw({**CREATE, "stream_id": "x" * length}))
    assert reply is not None
    assert reply.lane == ("x" * length if known else "")


def test_what_is_given_up_is_not_followed_any_more() -> None:
    """What comes of it later is not of the next one in its lane."""
    reader = FrameReader(RESPONSES)
    one = reader.asked(raw(CREATE))
    two = reader.asked(raw(CREATE))
    assert one is not None
    reader.came(raw(CREATED))
    reader.give_up(one)
    assert reader.open == [two]
    assert [reader.came(raw({**m, "response_id": "r1"}))[0] for m in (DELTA, COMPLETED)] == [Said(N), Said(N)]
    assert reader.came(raw({**DELTA, "response_id": "r2"}))[0] == Said(C, two)


@pytest.mark.parametrize("value", ["x" * 999, 7, 7.5])
def test_header_fields_that_an_error_may_quote(value: str | float) -> None:
    """So many of them, and none that is longer."""
    fields = {"a": value, "b": "x" * 1_000, "c": None, **{f"h{i}": "1" for i in range(100)}}
    (said,) = talk(RESPONSES, (CREATE,), {**ERROR, "headers": fields})[1]
    assert said.headers == {"a": str(value), **{f"h{i}": "1" for i in range(97)}}


@pytest.mark.parametrize(
    ("content", "found"),
    [(b"{}", True), (b"\xef\xbb\xbf \r\n\t{", True), (b"[]", False), (b"", False), (b" " * 63 + b"{", True)],
)
def test_what_looks_like_a_message(content: bytes, found: bool) -> None:
    assert openai_frames.is_object(content) is found


@pytest.mark.parametrize(
    ("content", "ambiguous"),
    [
        (raw(CREATE), False),
        (b'{"type": "session.update"}', False),
        (b'{"type": "response\\u002ecreate"}', True),
        (b'{"type": "response.create", "type": "session.update"}', True),
        (b'{"type": "response.append", "model": "a", "model": "b"}', True),
        (b"no JSON", True),
    ],
)
def test_what_servers_may_read_in_different_ways(content: bytes, ambiguous: bool) -> None:
    """A name twice, or a type that is spelled in another way."""
    assert openai_frames.is_ambiguous(content) is ambiguous


# --- what is not read


@pytest.mark.parametrize("message", [b"no JSON", b'{"type": "response.create', b"[1]", b'"text"', b"", b"\xff\xfe{}"])
def test_what_is_no_message_of_these_apis(message: bytes) -> None:
    """Neither asks for anything nor answers; what was under way is not followed any more."""
    reader = FrameReader(RESPONSES)
    assert reader.asked(message) is None
    assert reader.came(message) == [Said(Sign.UNREAD)]
    reply = reader.asked(raw(CREATE))
    assert reader.came(message) == [Said(Sign.UNREAD, reply)]
    assert reader.open == []
    reply = reader.asked(raw(CREATE))
    assert reader.unread() == [Said(Sign.UNREAD, reply)]
    assert reader.open == []


def test_what_only_the_sdks_read_is_read() -> None:
    """NaN and lone surrogates are no JSON, and nothing to the SDKs."""
    frame = b'{"type": "response.output_text.delta", "delta": "\\ud800", "logprob": NaN}'
    assert signs(RESPONSES, (CREATE,), frame) == [C]


PAD = b"A" * (openai_frames.READ_BYTES + 1)
LONG: list[tuple[bytes, Sign]] = [
    (b'{"type":"response.image_generation_call.partial_image","partial_image_b64":"' + PAD + b'"}', C),
    (b'{ "sequence_number" : 4, "type" : "response.output_item.done","item":{"result":"' + PAD + b'"}}', C),
    (b'{"type":"response.completed","response":{"id":"r1","output":[{"result":"' + PAD + b'"}]}}', D),
    (b'{"response":{"output":[{"type":"x","result":"' + PAD + b'"}]},"type":"response.completed"}', D),
    (b'{"response":{"result":"' + PAD + b'"},"type":"response.done","event_id":"e"}', D),
    (b'{"type":"response.failed","response":{"input":"' + PAD + b'"}}', Sign.FAILED),
    (b'{"type":"error","input":"' + PAD + b'"}', Sign.FAILED),
    (b'{"type":"session.updated","input":"' + PAD + b'"}', N),
    (b'{"response":{"result":"' + PAD + b'","type":"response.completed"}}', Sign.UNREAD),
    (b'{"a":{"type":"response.completed"},"b":"' + PAD + b'"}', Sign.UNREAD),
    (b'{"b":"\\"type\\":\\"response.completed' + PAD + b'"}', Sign.UNREAD),
    (PAD, Sign.UNREAD),
]


@pytest.mark.parametrize(
    ("message", "sign"), LONG, ids=lambda value: str(value[:60]) if isinstance(value, bytes) else ""
)
def test_a_message_that_is_too_long_is_judged_by_its_edges(
    message: bytes, sign: Sign, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not decoded."""

    def never(*_: object) -> None:
        raise AssertionError("decoded")

    reader = FrameReader(RESPONSES)
    reader.asked(raw(CREATE))
    monkeypatch.setattr(openai_frames, "decode_event", never)
    monkeypatch.setattr(openai_frames, "decoded", never)
    assert [s.sign for s in reader.came(message)] == [sign]


IMAGE = b'{"type":"response.image_generation_call.partial_image","x":"' + PAD + b'"}'


def test_content_that_is_too_long_to_be_read_is_content() -> None:
    """What ends the response is no hollow end then, and an error about another message does not end it."""
    assert signs(RESPONSES, (CREATE,), IMAGE, HOLLOW) == [C, D]
    reader, said = talk(REALTIME, ({"type": "response.create"},), IMAGE, REFUSED)
    assert (said[-1].reply, len(reader.open)) == (None, 1)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (IMAGE, Said(N)),
        (b'{"type":"response.completed","x":"' + PAD + b'"}', Said(N)),
        (b'{"type":"error","x":"' + PAD + b'"}', Said(Sign.FAILED)),
        (PAD, Said(Sign.UNREAD)),
    ],
    ids=["content", "end", "error", "unread"],
)
def test_a_message_that_is_too_long_where_nothing_is_under_way(message: bytes, said: Said) -> None:
    assert FrameReader(RESPONSES).came(message) == [said]


def test_a_message_of_the_app_that_is_too_long_is_judged_by_its_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_frames, "ASKED_BYTES", 1_000)
    pad = b"A" * 1_000
    reader = FrameReader(RESPONSES)
    assert reader.asked(b'{"type":"response.create","input":"' + pad + b'"}') is not None
    assert reader.asked(b'{"type":"session.update","input":"' + pad + b'"}') is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda x: (
            st.lists(x)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "type",
                        "response",
                        "error",
                        "status",
                        "headers",
                        "body",
                        "response_id",
                        "stream_id",
                        "delta",
                        "id",
                        "output",
                        "item",
                        "status_details",
                        "code",
                        "usage",
                    ]
                ),
                x,
            )
        ),
    )
)
def test_whatever_comes_is_read(value: Any) -> None:
    """No message is an error of ours, and each leaves the responses under way in order."""
    for operation in (RESPONSES, REALTIME):
        for kind in ("response.created", "response.done", "error", "response.output_item.done"):
            reader = FrameReader(operation)
            reader.asked(raw(CREATE))
            message = {**value, "type": kind} if isinstance(value, dict) else value
            said = reader.came(raw(message))[0]
            assert (said.reply in reader.open) is (said.reply is not None and said.sign in (N, C))


# --- how it is closed


CLOSES = [
    ("invalid_request_error.invalid_api_key", ErrorKind.CREDENTIAL),
    ("invalid_request_error.model_not_found", ErrorKind.UNKNOWN_MODEL),
    ("invalid_request_error.beta_api_shape_disabled", ErrorKind.INVALID),
    ("insufficient_quota", ErrorKind.QUOTA),
    ("You exceeded your current quota, please check your plan", ErrorKind.QUOTA),
    ("rate_limit_exceeded", ErrorKind.RATE_LIMIT),
    ("server_error", ErrorKind.SERVER),
    ("Internal server error", ErrorKind.SERVER),
    ("overloaded", ErrorKind.OVERLOADED),
    ("enough", ErrorKind.NONE),
    ("see you soon", ErrorKind.NONE),
    ("", ErrorKind.NONE),
]


@pytest.mark.parametrize(("reason", "kind"), CLOSES)
def test_what_the_words_of_a_close_say(reason: str, kind: ErrorKind) -> None:
    assert facts_of_words(reason).kind is kind
