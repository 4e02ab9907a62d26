"""The Anthropic dialect: recognising, reading, rewriting, judging, phrasing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anthropic
import httpx2
import pytest

from sidestep.breaker.outcomes import ErrorKind
from sidestep.dialects.anthropic import Anthropic
from sidestep.dialects.base import Call, Mark, PinKind, Usage
from sidestep.dialects.common import BREAKDOWN, UNSIGNED, digest
from sidestep.dialects.conversations import conversation_of
from sidestep.dialects.reader import HALF_A_CALL, Reader
from support import corpus

ANTHROPIC = Anthropic()
JSON = "application/json"
SSE = "text/event-stream; charset=utf-8"
CALL = Call("anthropic", "messages", "m", stream=True)
STREAM = corpus.stream("anthropic.messages.stream.sse")


def read(body: Any) -> Call:
    return ANTHROPIC.read("messages", "/v1/messages", "beta=true", JSON, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("method", "tail", "operation"),
    [
        ("POST", "/v1/messages", "messages"),
        ("POST", "/v1/messages/count_tokens", "count_tokens"),
        ("POST", "/v1/messages/batches", None),
        ("POST", "/v1/messages/", None),
        ("GET", "/v1/messages", None),
        ("GET", "/v1/models", None),
        ("POST", "/v1/complete", None),
        ("POST", "/api/event_logging/v2/batch", None),
    ],
)
def test_operations(method: str, tail: str, operation: str | None) -> None:
    """Messages and the counting of their tokens are routed, and nothing else."""
    assert ANTHROPIC.operation(method, tail) == operation


def test_read() -> None:
    """Model, stream flag and output limit are read from the body; counting never streams."""
    body = {"model": "claude-x", "stream": True, "max_tokens": 7, "messages": []}
    assert read(body) == Call("anthropic", "messages", "claude-x", stream=True, max_output_tokens=7)
    assert not ANTHROPIC.read("count_tokens", "/x", "", JSON, json.dumps(body).encode()).stream


THOUGHT = {"type": "thinking", "thinking": "x", "signature": "sig1"}
HIDDEN = {"type": "redacted_thinking", "data": "sig2"}


@pytest.mark.parametrize(
    ("body", "pin"),
    [
        ({"container": "cont_1"}, (PinKind.STATE, ("cont_1",))),
        ({"container": {"id": "cont_1", "skills": []}}, (PinKind.STATE, ("cont_1",))),
        ({"container": {"skills": [{"type": "anthropic", "skill_id": "xlsx"}]}}, None),
        ({"container": {"skills": [{"type": "custom", "skill_id": "skill_1"}]}}, (PinKind.STATE, ("skill_1",))),
        ({"container": None}, None),
        ({"messages": [{"content": [{"type": "document", "source": {"type": "file", "file_id": "f1"}}]}]},
         (PinKind.STATE, ("f1",))),
        ({"messages": [{"content": [{"type": "container_upload", "file_id": "f1"}]}]}, (PinKind.STATE, ("f1",))),
        ({"messages": [{"content": [{"type": "tool_use", "input": {"file_id": "f1"}}]}]}, None),
        ({"messages": [{"content": 'a "file_id": "f1" and a "signature"'}]}, None),
        ({"tools": [{"input_schema": {"properties": {"signature": {"type": "string"}}}}], "messages": []}, None),
        ({"messages": [{"content": [THOUGHT]}, {"content": [HIDDEN]}]}, None),
        ({"messages": [{"content": [{"type": "web_search_tool_result", "content": [
            {"type": "web_search_result", "encrypted_content": "e1"}]}]}]}, (PinKind.SIGNATURE, (digest(b"e1"),))),
        ({"messages": [{"content": [{"type": "compaction", "content": None, "signature": "s3"}]}]},
         (PinKind.SIGNATURE, (digest(b"s3"),))),
        ({"messages": [{"content": [{"type": "advisor_tool_result", "content": {
            "type": "advisor_redacted_result", "encrypted_content": "e4"}}]}]}, (PinKind.SIGNATURE, (digest(b"e4"),))),
        ({"messages": [{"content": [{"type": "text", "text": "x", "citations": [
            {"type": "web_search_result_location", "encrypted_index": "e5"}]}]}]}, None),
        ({"messages": [{"content": [THOUGHT, {"type": "image", "source": {"type": "file", "file_id": "f1"}}]}]},
         (PinKind.STATE, ("f1",))),
    ],
    ids=lambda v: json.dumps(v)[:60] if isinstance(v, dict) else "",
)  # fmt: skip
def test_pins(body: dict[str, Any], pin: tuple[PinKind, tuple[str, ...]] | None) -> None:
    """Containers, files and skills tie a call to a provider, an open turn's sealed results to an issuer; talk and
    reasoning to none."""
    found = read({"model": "m", **body}).pin
    assert (None if found is None else (found.kind, found.ids)) == pin


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ([THOUGHT, HIDDEN], (digest(b"sig2"), digest(b"sig1"))),
        ([{**THOUGHT, "signature": ""}], (UNSIGNED + digest(b"x"),)),
        ([{"type": "thinking", "thinking": "x"}], (UNSIGNED + digest(b"x"),)),
        ([{"type": "compaction", "content": "x", "signature": "s3"}], (digest(b"s3"),)),
        ([{"type": "compaction", "content": "x", "signature": None}], (digest(b"x"),)),
        ([{"type": "text", "text": "x", "citations": [
            {"type": "web_search_result_location", "encrypted_index": "e5"}]}], (digest(b"e5"),)),
        ([{"type": "tool_use", "input": {"type": "thinking", "signature": "s"}}], ()),
        ("a thinking signature", ()),
    ],
    ids=lambda v: json.dumps(v)[:60] if isinstance(v, list) else "",
)  # fmt: skip
def test_sealed(content: Any, names: tuple[str, ...]) -> None:
    """What is sealed is named by its seal, what nobody signed by its text, the newest first; and so it is when it is
    issued, whole or streamed."""
    assert read({"model": "m", "messages": [{"role": "user", "content": "a"}, {"content": content}]}).sealed == names
    answer = {"type": "message", "model": "m", "content": content, "usage": {}}
    assert set(ANTHROPIC.judge_answer(read({}), JSON, json.dumps(answer).encode()).ids) == set(names)


@pytest.mark.parametrize(
    ("signature", "name"), [("sig", digest(b"sig")), ("", UNSIGNED + digest(b"hmm")), (None, UNSIGNED + digest(b"hmm"))]
)
def test_sealed_in_a_stream(signature: str | None, name: str) -> None:
    """A streamed block of thinking has the same name as in later calls, however its stream is cut."""
    events: list[dict[str, Any]] = [
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "h"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "mm"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": signature}},
        {"type": "content_block_stop", "index": 0},
    ]
    events = [e for e in events if signature is not None or "signature" not in e.get("delta", {})]
    data = b"".join(b"data: " + json.dumps(e).encode() + b"\n\n" for e in events)
    broken = b"data: {\n\n"
    for cut in range(len(data)):
        reader = ANTHROPIC.reader(read({"stream": True}), "text/event-stream")
        if not reader.skim(data[:cut] + broken):
            reader.feed(data[:cut])
        reader.feed(data[cut:])
        assert reader.ids == (name,)


def test_conversation() -> None:
    """Its key outlives cache marks that wander and a system prompt that changes."""
    cached = {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]}
    plain = {"role": "user", "content": [{"type": "text", "text": "a"}]}
    answer = {"role": "assistant", "content": "b"}
    first = conversation_of(read({"messages": [cached]}).messages)
    second = conversation_of(read({"system": "Monday", "messages": [cached, answer, plain]}).messages)
    third = conversation_of(read({"system": "Tuesday", "messages": [plain, answer, plain, answer, cached]}).messages)
    assert first is not None
    assert second is not None
    assert third is not None
    assert ANTHROPIC.read("count_tokens", "/t", "", JSON, json.dumps({"messages": [plain]}).encode()).messages is None
    assert first.opening == second.opening == third.opening
    assert first.answered is None
    assert second.answered == third.answered is not None


def test_rewriting() -> None:
    """Another model leaves all other values byte for byte; no other leaves the very same bytes."""
    body = b'{"model": "a","messages":[ {"role":"user"} ], "x":1.10}'
    assert ANTHROPIC.rewrite(CALL, "/t", JSON, body, "b", ["absent"]) == (
        "/t",
        b'{"model":"b","messages":[ {"role":"user"} ],"x":1.10}',
    )
    assert ANTHROPIC.rewrite(CALL, "/t", JSON, body, "a", [])[1] is body


# --- streams


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_streams_at_every_cut(end: bytes) -> None:
    """Wherever a stream is cut up, each event means the same, and the raws joined are the stream."""
    data = STREAM.replace(b"\n", end)
    for parts in corpus.cuts(data):
        reader = ANTHROPIC.reader(CALL, SSE)
        events = corpus.run(reader, parts)
        assert b"".join(e.raw for e in events) == data
        assert corpus.marks(events) == "LLLCCLLCLCT"
        assert (reader.finished, reader.answered, reader.content, reader.pending) == (True, True, True, 0)
        assert (reader.usage, reader.model) == (Usage(117, 15, 100), "claude-sonnet-4-5-20250929")
        assert reader.ids == (digest(b"EqQBCgIYAhIM"),)


def test_a_stream_that_was_cut_off_is_never_finished() -> None:
    """Short of `message_stop` nothing looks complete."""
    data = STREAM.rstrip(b"\n")
    for at in range(len(data)):
        reader = ANTHROPIC.reader(CALL, SSE)
        events = corpus.run(reader, [data[:at]])
        assert not reader.finished
        assert b"".join(e.raw for e in events) == data[:at]


def event(data: str, name: str = "x") -> bytes:
    return f"event: {name}\ndata: {data}\n\n".encode()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ('{"type":"ping"}', (Mark.LIFECYCLE, None)),
        ('{"type":"content_block_start","content_block":{"type":"text","text":""}}', (Mark.LIFECYCLE, None)),
        ('{"type":"content_block_start","content_block":{"type":"tool_use","name":"f","input":{}}}',
         (Mark.CONTENT, None)),
        ('{"type":"content_block_start","content_block":{"type":"redacted_thinking","data":"x"}}',
         (Mark.CONTENT, None)),
        ('{"type":"content_block_delta","delta":{"type":"text_delta","text":""}}', (Mark.LIFECYCLE, None)),
        ('{"type":"content_block_delta","delta":{"type":"text_delta","text":"\\ud83d"}}', (Mark.CONTENT, None)),
        ('{"type":"content_block_delta","delta":{"type":"input_json_delta","partial_json":"{"}}',
         (Mark.CONTENT, None)),
        ('{"type":"message_delta","delta":{"stop_reason":"refusal"}}', (Mark.CONTENT, None)),
        ('{"type":"message_delta","delta":{"stop_reason":null}}', (Mark.LIFECYCLE, None)),
        ('{"type":"message_stop"}', (Mark.LIFECYCLE, None)),
        ('{"type":"some_day"}', (Mark.LIFECYCLE, None)),
        ("[DONE]", (Mark.LIFECYCLE, None)),
        ("{not json", (Mark.MALFORMED, None)),
        ('{"type":"error","error":{"type":"overloaded_error","message":"m"}}', (Mark.ERROR, ErrorKind.OVERLOADED)),
        ('{"type":"error","error":{"type":"rate_limit_error","message":"m"}}', (Mark.ERROR, ErrorKind.RATE_LIMIT)),
        ('{"type":"error","error":{"type":"api_error","message":"m"}}', (Mark.ERROR, ErrorKind.SERVER)),
        ('{"type":"error","error":{"type":"authentication_error","message":"m"}}',
         (Mark.ERROR, ErrorKind.CREDENTIAL)),
        ('{"type":"error","error":{"type":"invalid_request_error","message":"m"}}', (Mark.ERROR, ErrorKind.INVALID)),
        ('{"error":{"message":"m"}}', (Mark.ERROR, ErrorKind.SERVER)),
    ],
)  # fmt: skip
def test_events(data: str, expected: tuple[Mark, ErrorKind | None]) -> None:
    """What each event means as the first of a stream."""
    (found,) = ANTHROPIC.reader(CALL, SSE).feed(event(data))
    assert (found.mark, None if found.error is None else found.error.kind) == expected


L, C, T = Mark.LIFECYCLE, Mark.CONTENT, Mark.TERMINAL
CALLS = {"type": "content_block_start", "index": 3, "content_block": {"type": "tool_use", "name": "f"}}
GOES_ON = {"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": "{"}}
TEXT = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a"}}
STOP = {"type": "content_block_stop"}
END = {"type": "message_stop"}
OPEN = (False, False, False, None, None, ())


def ended(reason: Any, **usage: int) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, **({"usage": usage} if usage else {})}


@pytest.mark.parametrize(
    ("events", "marks", "known"),
    [
        ([TEXT, END], [C, T], (True, True, False, None, None, ())),
        ([TEXT, ended("end_turn")], [C, C], (False, True, False, None, None, ())),
        ([TEXT, ended(None)], [C, L], OPEN),
        ([TEXT, ended("end_turn", output_tokens=0)], [C, C], (False, True, False, Usage(0, 0, 0), None, ())),
        ([ended("end_turn", output_tokens=0), END], [L, L], (False, False, False, Usage(0, 0, 0), None, ())),
        ([ended("end_turn", output_tokens=1), END], [C, T], (True, True, False, Usage(0, 1, 0), None, ())),
        ([ended("refusal", output_tokens=0), END], [C, T], (True, True, False, Usage(0, 0, 0), None, ())),
        ([TEXT, ended("error")], [C, BREAKDOWN], OPEN),
        ([CALLS], [C], (False, False, True, None, None, ())),
        ([{**CALLS, "index": None}], [C], (False, False, True, None, None, ())),
        ([CALLS, GOES_ON, STOP], [C, C, L], OPEN),
        ([{**CALLS, "content_block": {"type": "server_tool_use"}}], [C], (False, False, True, None, None, ())),
        ([{**CALLS, "content_block": {"type": 5}}, {**CALLS, "content_block": 5}], [C, L], OPEN),
        (["{", CALLS, GOES_ON], [Mark.MALFORMED, C, C], (False, False, True, None, None, ())),
        (["{", GOES_ON], [Mark.MALFORMED, HALF_A_CALL], OPEN),
        ([GOES_ON], [C], OPEN),
        ([{**GOES_ON, "delta": 5}, {**GOES_ON, "delta": {"type": "x", "text": ""}}, "5"], [L, L, L], OPEN),
        ([{**CALLS, "content_block": {"type": "text", "text": "a"}}], [C], OPEN),
        ([{**CALLS, "content_block": {"type": "thinking", "thinking": "a"}}], [C], OPEN),
        ([{**CALLS, "content_block": {"type": "thinking", "thinking": ""}}], [L], OPEN),
        # Model, container and usage come at the start; later counts go on from the earlier ones.
        (
            [
                {
                    "type": "message_start",
                    "message": {
                        "model": "m1",
                        "container": {"id": "cont_1"},
                        "usage": {"input_tokens": 5, "cache_read_input_tokens": 2, "output_tokens": 1},
                    },
                },
                ended(None, output_tokens=4),
            ],
            [L, L],
            (False, False, False, Usage(7, 4, 2), "m1", ("cont_1",)),
        ),
        (
            [ended(None, input_tokens=9, output_tokens=4), ended(None, input_tokens=3, cache_read_input_tokens=7)],
            [L, L],
            (False, False, False, Usage(10, 4, 7), None, ()),
        ),
        (
            [
                {"type": "message_delta", "delta": {"container": {"id": "cont_2"}}},
                {"type": "message_delta", "delta": 5},
            ],
            [L, L],
            (False, False, False, None, None, ("cont_2",)),
        ),
        (
            [
                {"type": "message_start", "message": {"model": 5, "container": "c"}},
                {"type": "message_start", "message": 5},
            ],
            [L, L],
            OPEN,
        ),
        # Thinking is named by its signature, or by its text where none came.
        (
            [
                {**CALLS, "content_block": {"type": "thinking", "thinking": "a"}},
                {**GOES_ON, "delta": {"type": "thinking_delta", "thinking": "b"}},
                STOP,
                STOP,
            ],
            [C, C, L, L],
            (False, False, False, None, None, (UNSIGNED + digest(b"ab"),)),
        ),
        (
            [
                {**CALLS, "content_block": {"type": "thinking", "thinking": "a"}},
                {**GOES_ON, "delta": {"type": "signature_delta", "signature": "sig"}},
                STOP,
            ],
            [C, C, L],
            (False, False, False, None, None, (digest(b"sig"),)),
        ),
        (
            [{**CALLS, "content_block": THOUGHT}, STOP, {**CALLS, "content_block": HIDDEN}],
            [C, L, C],
            (False, False, False, None, None, (digest(b"sig1"), digest(b"sig2"))),
        ),
    ],
)
def test_streams_event_by_event(events: list[Any], marks: list[Any], known: tuple[Any, ...]) -> None:
    """What each means after those before it; then whether it has finished, answered, calls a tool, its usage, its
    model and its identifiers."""
    reader = ANTHROPIC.reader(CALL, SSE)
    assert isinstance(reader, Reader)
    found = [reader.feed(event(e if isinstance(e, str) else json.dumps(e))) for e in events]
    assert [f[0].error or f[0].mark for f in found] == marks
    assert (
        reader.finished,
        reader.answered,
        reader.calling,
        reader.usage,
        reader.model,
        reader.ids,
    ) == known


def test_an_empty_answer_is_one() -> None:
    """A stop reason without any content block is an answer, whole with `message_stop`."""
    reader = ANTHROPIC.reader(CALL, SSE)
    events = reader.feed(
        event('{"type":"message_delta","delta":{"stop_reason":"end_turn"}}') + event('{"type":"message_stop"}')
    )
    assert [e.mark for e in events] == [Mark.CONTENT, Mark.TERMINAL]
    assert reader.finished


# --- whole answers and errors


@pytest.mark.parametrize(
    ("operation", "body", "good", "kind"),
    [
        ("messages", b'{"type":"message","content":[],"stop_reason":"end_turn"}', True, None),
        ("messages", b'{"type":"message","content":[]}', False, None),
        ("messages", b'{"content":[{"type":"text","text":""}],"stop_reason":"end_turn","usage":{"output_tokens":0}}',
         False, None),
        ("messages", b'{"content":[{"type":"text","text":""}],"stop_reason":"end_turn","usage":{"output_tokens":2}}',
         True, None),
        ("messages", b'{"content":[{"type":"text","text":""}]}', False, None),
        ("messages", b'{"content":[{"type":"thinking","thinking":"","signature":"s"}]}', True, None),
        ("messages", b'{"content":[{"type":"tool_use"}]}', True, None),
        ("messages", b'{"content":[null]}', False, None),
        ("messages", b'{"content":[{}],"stop_reason":"end_turn","usage":{"output_tokens":0}}', False, None),
        ("messages", b'{"content":[],"stop_reason":"tool_use","usage":{"output_tokens":9}}', False, None),
        ("messages", b'{"type":"message"}', False, None),
        ("messages", b"", False, None),
        ("messages", b"<html></html>", False, None),
        ("messages", b'{"content":[', False, None),
        ("messages", b'{"type":"error","error":{"type":"overloaded_error","message":"m"}}', False,
         ErrorKind.OVERLOADED),
        ("count_tokens", b'{"input_tokens":3}', True, None),
        ("count_tokens", b"{}", False, None),
        ("count_tokens", b'{"input_tokens":null}', False, None),
    ],
)  # fmt: skip
def test_judging(operation: str, body: bytes, good: bool, kind: ErrorKind | None) -> None:
    """A 2xx is an answer only if it holds what its operation is asked for."""
    answer = ANTHROPIC.judge_answer(Call("anthropic", operation, "m", stream=False), JSON, body)
    assert (answer.good, None if answer.error is None else answer.error.kind) == (good, kind)


def test_what_an_answer_tells() -> None:
    """Usage with cached input, and names for what a later call carries back."""
    body = {
        "model": "m",
        "content": [THOUGHT, HIDDEN],
        "container": {"id": "cont_1"},
        "usage": {
            "input_tokens": 1,
            "cache_read_input_tokens": 2,
            "cache_creation_input_tokens": 3,
            "output_tokens": 4,
        },
    }
    answer = ANTHROPIC.judge_answer(CALL, JSON, json.dumps(body).encode())
    assert (answer.usage, answer.model) == (Usage(6, 4, 2), "m")
    assert answer.ids == (digest(b"sig1"), digest(b"sig2"), "cont_1")


@pytest.mark.parametrize(("status", "kind", "body"), corpus.errors("anthropic"))
def test_errors(status: int, kind: str, body: bytes) -> None:
    """What those who speak the dialect say when they refuse."""
    assert ANTHROPIC.read_error(status, {}, body).kind == kind


# --- what the SDK makes of our words


@contextmanager
def sdk(status: int, content_type: str, body: bytes) -> Iterator[anthropic.Anthropic]:
    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, headers={"content-type": content_type}, content=body)

    with anthropic.Anthropic(
        api_key="k",
        base_url="http://x",
        max_retries=0,
        http_client=httpx2.Client(transport=httpx2.MockTransport(answer)),
    ) as client:
        yield client


def ask(body: bytes) -> list[Any]:
    with sdk(200, SSE, body) as client:
        stream = client.messages.create(model="m", max_tokens=1, messages=[], stream=True)
        seen: list[Any] = []
        try:
            for item in stream:
                seen.append(item)
        except anthropic.APIError as e:
            seen.append(e)
        return seen


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_the_sdk_raises_our_error_events(end: bytes) -> None:
    """Wherever a stream breaks off, the official SDK ends it with its own API error, bearing our text."""
    data = STREAM.replace(b"\n", end)
    for at in range(0, len(data), 29):
        reader = ANTHROPIC.reader(CALL, SSE)
        sent = [e.raw for e in corpus.run(reader, [data[:at]]) if e.mark is not Mark.MALFORMED]
        if reader.finished:
            continue
        seen = ask(b"".join(sent) + reader.error_event(ErrorKind.OVERLOADED, "the stream was cut"))
        assert isinstance(seen[-1], anthropic.APIStatusError), (at, seen[-1])
        assert "sidestep: the stream was cut" in seen[-1].message


@pytest.mark.parametrize("kind", ErrorKind)
def test_the_sdk_raises_our_errors(kind: ErrorKind) -> None:
    """A JSON error of ours is the official SDK's own API error."""
    with sdk(503, JSON, ANTHROPIC.phrase_error(503, kind, "nobody left")) as client:
        with pytest.raises(anthropic.APIStatusError, match="sidestep: nobody left") as e:
            client.messages.create(model="m", max_tokens=1, messages=[])
        assert e.value.status_code == 503


def test_the_sdk_ignores_keep_alives() -> None:
    """A held-back stream with keep-alives before it gives the same events."""
    assert ask(ANTHROPIC.keep_alive(CALL) * 3 + STREAM) == ask(STREAM)
