"""The OpenAI dialect: recognising, reading, rewriting, judging, phrasing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx2
import openai
import pytest

from sidestep.breaker.outcomes import ErrorFacts, ErrorKind
from sidestep.dialects.base import Answer, Call, Conversation, Mark, Pin, PinKind, Usage
from sidestep.dialects.common import BREAKDOWN, UNSIGNED, digest
from sidestep.dialects.conversations import conversation_of
from sidestep.dialects.openai import OpenAI
from support import corpus

OPENAI = OpenAI()
JSON = "application/json"
SSE = "text/event-stream; charset=utf-8"


def call(operation: str = "chat/completions", *, stream: bool = True) -> Call:
    return Call("openai", operation, "m", stream=stream)


def read(body: Any, operation: str = "chat/completions") -> Call:
    return OPENAI.read(operation, f"/{operation}", "", JSON, json.dumps(body).encode())


# --- operations


@pytest.mark.parametrize(
    ("method", "tail", "operation"),
    [
        ("POST", "/chat/completions", "chat/completions"),
        ("POST", "/completions", "completions"),
        ("POST", "/embeddings", "embeddings"),
        ("POST", "/moderations", "moderations"),
        ("POST", "/images/generations", "images/generations"),
        ("POST", "/audio/speech", "audio/speech"),
        ("POST", "/audio/transcriptions", "audio/transcriptions"),
        ("POST", "/audio/translations", "audio/translations"),
        ("POST", "/responses", "responses"),
        ("GET", "/responses", "responses.websocket"),
        ("GET", "/realtime", "realtime.websocket"),
        ("POST", "/realtime", None),
        ("GET", "/chat/completions", None),
        ("GET", "/responses/resp_1", None),
        ("POST", "/responses/resp_1/cancel", None),
        ("POST", "/responses/compact", "responses/compact"),
        ("POST", "/responses/input_tokens", "responses/input_tokens"),
        ("GET", "/responses/compact", None),
        ("POST", "/fim/completions", "fim/completions"),
        ("POST", "/rerank", "rerank"),
        ("POST", "/chat/completions/", None),
        ("POST", "//chat/completions", None),
        ("DELETE", "/responses", None),
        ("GET", "/models", None),
        ("POST", "/images/edits", "images/edits"),
        ("POST", "/images/variations", None),
        ("POST", "/files", None),
        ("POST", "/threads", None),
        ("POST", "/batches", None),
        ("POST", "", None),
    ],
)
def test_operations(method: str, tail: str, operation: str | None) -> None:
    """Stateless inference is routed, and nothing else."""
    assert OPENAI.operation(method, tail) == operation


# --- reading


def test_read() -> None:
    """Model, stream flag and output limit are read from the body."""
    assert read({"model": "gpt-4o", "stream": True, "max_tokens": 7, "messages": []}) == Call(
        "openai", "chat/completions", "gpt-4o", stream=True, max_output_tokens=7
    )
    assert read({"max_completion_tokens": 5, "max_tokens": None}).max_output_tokens == 5
    assert read({"input": "x", "stream_format": "sse"}, "audio/speech").stream
    assert OPENAI.read("realtime.websocket", "/realtime", "model=a%2Fb", "", b"").model == "a/b"


@pytest.mark.parametrize("query", ["model=a&model=b", "model=&model=a", "model=a&model="])
def test_a_handshake_that_names_two_models(query: str) -> None:
    """Which of them counts is the server's to say, also where one is blank."""
    read = OPENAI.read("realtime.websocket", "/realtime", query, "", b"")
    assert (read.model, read.unread) == (None, "its query names a model twice")


def test_a_handshake_that_joins_a_conversation() -> None:
    """It can only be taken by who holds the conversation."""
    handshake = OPENAI.read("realtime.websocket", "/realtime", "call_id=rtc_1", "", b"")
    assert handshake.pin == Pin(PinKind.STATE, "call_id", ("rtc_1",))
    assert OPENAI.read("realtime.websocket", "/realtime", "model=a&call_id=", "", b"").pin is None


def test_rewrite_query() -> None:
    """A handshake names its model in the query; what the query of a call says is not touched."""
    handshake = OPENAI.read("realtime.websocket", "/realtime", "model=a", "", b"")
    assert OPENAI.rewrite_query(handshake, "x=%20&model=a&y", "b/c d") == "x=%20&model=b%2Fc%20d&y"
    assert OPENAI.rewrite_query(handshake, "", "b") == ""
    assert OPENAI.rewrite_query(call(), "model=a", "b") == "model=a"


def test_fields_of_odd_types_are_absent() -> None:
    """A wrong type is the provider's to complain about."""
    body = {"model": None, "stream": [1], "max_tokens": True, "messages": {"role": "assistant"}, "tools": "file_id"}
    assert read(body) == Call("openai", "chat/completions", None, stream=False)


RESPONSES: list[tuple[dict[str, Any], tuple[str, tuple[str, ...]] | None]] = [
    ({"previous_response_id": "resp_1"}, ("previous_response_id", ("resp_1",))),
    ({"previous_response_id": None}, None),
    ({"conversation": "conv_1"}, ("conversation", ("conv_1",))),
    ({"conversation": {"id": "conv_1"}}, ("conversation", ("conv_1",))),
    ({"prompt": {"id": "pmpt_1", "version": "2"}}, ("prompt", ("pmpt_1",))),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, ("item_reference", ("msg_1",))),
    ({"input": [{"id": "msg_1"}]}, ("item_reference", ("msg_1",))),
    ({"input": [{"id": "msg_1", "type": None}]}, ("item_reference", ("msg_1",))),
    ({"input": [{"id": "msg_1", "role": "assistant", "content": "x"}]}, None),
    ({"input": [{"type": "image_generation_call", "id": "ig_1"}]}, ("image_generation_call", ("ig_1",))),
    ({"input": [{"type": "image_generation_call", "id": "ig_1", "result": "iVBO"}]}, None),
    ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f1"}]}]}, ("file_id", ("f1",))),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": None}]}]}, None),
    ({"input": [{"type": "reasoning", "id": "rs_1", "encrypted_content": "g"}]}, None),
    (
        {"input": [{"type": "compaction", "id": "cmp_1", "encrypted_content": "g"}]},
        ("encrypted_content", (digest(b"g"), "cmp_1")),
    ),
    ({"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}, ("reasoning", ("rs_1",))),
    ({"input": [{"type": "reasoning", "id": "rs_1", "content": [{"type": "reasoning_text"}]}]}, None),
    ({"tools": [{"type": "code_interpreter", "container": "cntr_1"}]}, ("container", ("cntr_1",))),
    ({"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}, None),
    (
        {"tools": [{"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["f1"]}}]},
        ("file_id", ("f1",)),
    ),
    (
        {"tools": [{"type": "file_search", "vector_store_ids": ["vs_1", "vs_2"]}]},
        ("vector_store_ids", ("vs_1", "vs_2")),
    ),
    ({"tools": [{"type": "shell", "environment": {"container_id": "cntr_1"}}]}, ("container", ("cntr_1",))),
    ({"input": [{"type": "program", "id": "pr_1", "code": "x", "fingerprint": "f"}]}, ("fingerprint", ("pr_1",))),
    ({"tools": [{"type": "mcp", "tunnel_id": "tun_1"}]}, ("tunnel_id", ("tun_1",))),
    ({"tools": [{"type": "mcp", "server_url": "https://mcp.test"}]}, None),
    ({"tools": [{"type": "shell", "environment": {"file_ids": ["f1"]}}]}, ("file_id", ("f1",))),
    (
        {"tools": [{"type": "shell", "environment": {"skills": [{"type": "skill_reference", "skill_id": "sk_1"}]}}]},
        ("skill", ("sk_1",)),
    ),
    ({"tools": [{"type": "shell", "environment": {"skills": [{"type": "inline", "name": "x"}]}}]}, None),
    ({"tools": [{"type": "function", "parameters": {"properties": {"file_id": {"default": "f1"}}}}]}, None),
    ({"background": True}, ("background", ())),
    ({"background": False, "store": True}, None),
    ({"input": 'my "file_id": "f1" and "previous_response_id"'}, None),
    ({"input": [{"type": "function_call", "arguments": '{"file_id": "f1"}', "call_id": "c"}]}, None),
    ({"input": [{"type": "message", "content": [{"annotations": [{"file_id": "f1"}]}]}]}, None),
    ({"metadata": {"file_id": "f1"}}, None),
    ({"conversation": {}, "prompt": "file_id", "input": 5, "tools": ["container", 5]}, None),
    ({"background": "yes"}, None),
    ({"background": True, "previous_response_id": "r"}, ("previous_response_id", ("r",))),
    ({"background": True, "conversation": "c"}, ("conversation", ("c",))),
    ({"input": [{"id": "msg_1", "type": "x"}]}, None),
    ({"input": [{"type": None, "reasoning": 1}, {"id": "a", "type": None, "role": "user"}]}, None),
    (
        {"input": [{"type": "reasoning", "id": "rs_1", "content": [], "encrypted_content": ""}]},
        ("reasoning", ("rs_1",)),
    ),
    ({"input": [{"type": "program", "id": "x"}]}, None),
    ({"input": [{"type": "program", "fingerprint": "f", "id": ""}]}, ("fingerprint", ())),
    ({"input": [{"type": "compaction", "id": "cmp_1"}]}, None),
    (
        {"input": [{"type": "context_compaction", "id": "c1", "encrypted_content": "g"}]},
        ("encrypted_content", (digest(b"g"), "c1")),
    ),
    ({"input": [{"type": "container_reference", "container_id": "cntr_1"}]}, ("container", ("cntr_1",))),
    ({"input": [{"role": "assistant", "audio": {"id": "a1"}, "id": "x"}]}, ("audio", ("a1",))),
    ({"input": [{"role": "user", "audio": {"id": "a1"}}, {"role": "assistant", "audio": "a1"}]}, None),
    ({"tools": [{"type": "x", "tunnel_id": "tun_1"}]}, None),
    ({"tools": [{"vector_store_ids": "vs_1"}]}, None),
    (
        {"tools": [5, {"environment": {"container_id": "c1", "file_ids": ["f1"]}}, {"container": "c2"}]},
        ("container", ("c1", "f1", "c2")),
    ),
    ({"tools": [{"input_image_mask": {"file_id": "f1"}}]}, ("file_id", ("f1",))),
    ({"tools": [{"input_image_mask": "file_id"}]}, None),
    ({"tools": [{"container": {"file_ids": "f1", "skills": ["skill_id"]}}]}, None),
    ({"tools": [{"container": {"skills": "skill_id"}}]}, None),
]


@pytest.mark.parametrize("operation", ["responses", "responses/compact", "responses/input_tokens"])
@pytest.mark.parametrize(("body", "pin"), RESPONSES, ids=lambda v: json.dumps(v)[:50])
def test_pins_of_responses(body: dict[str, Any], pin: tuple[str, tuple[str, ...]] | None, operation: str) -> None:
    """A call is tied to a provider by what it refers to, never by what it merely talks about."""
    found = read({"model": "m", **body}, operation).pin
    assert (None if found is None else (found.reason, found.ids)) == pin
    assert found is None or found.kind is PinKind.STATE


def test_sealed() -> None:
    """Reasoning is named by its seal, for apps leave ids out; by its text where it has none; the newest first."""
    first = {"type": "reasoning", "id": "rs_1", "encrypted_content": "g"}
    second = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "t"}]}
    names = (UNSIGNED + digest(b"t"), digest(b"g"))
    assert read({"model": "m", "input": [first, second]}, "responses").sealed == names
    answer = json.dumps({"id": "resp_1", "output": [first, second]}).encode()
    assert OPENAI.judge_answer(call("responses"), JSON, answer).ids == ("resp_1", "rs_1", names[1], names[0])
    reader = OPENAI.reader(call("responses"), "text/event-stream")
    for item in (first, second):
        event = {"type": "response.output_item.done", "item": item}
        reader.feed(b"data: " + json.dumps(event).encode() + b"\n\n")
    assert reader.ids == ("rs_1", names[1], names[0])


@pytest.mark.parametrize(
    ("operation", "body", "ids"),
    [
        ("chat/completions", {"messages": [{"content": [{"type": "file", "file": {"file_id": "f1"}}]}]}, ("f1",)),
        ("chat/completions", {"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}, ("audio_1",)),
        ("chat/completions", {"audio": {"voice": "alloy"}, "modalities": ["text", "audio"]}, None),
        ("chat/completions", {"messages": [{"content": [{"type": "input_audio", "input_audio": {}}]}]}, None),
        ("chat/completions", {"messages": [{"role": "user", "audio": {"id": "audio_1"}}]}, None),
        ("chat/completions", {"audio": {"voice": {"id": "voice_1"}}}, ("voice_1",)),
        ("chat/completions", {"audio": {"voice": {}}}, None),
        ("chat/completions", {"audio": "voice"}, None),
        ("audio/speech", {"voice": {"id": "voice_1"}}, ("voice_1",)),
        ("audio/speech", {"voice": {}}, None),
        ("audio/speech", {"voice": "alloy"}, None),
        ("completions", {"prompt": "x"}, None),
        (
            "images/edits",
            {"images": [{"image_url": "data:x"}, {"file_id": "f1"}], "mask": {"file_id": "f2"}},
            ("f1", "f2"),
        ),
        ("images/edits", {"images": [{"image_url": "data:x"}], "prompt": 'a "file_id"'}, None),
        ("rerank", {"documents": [{"file_id": "f1"}]}, None),
        ("images/generations", {"prompt": "x", "background": "transparent"}, None),
    ],
)
def test_pins_elsewhere(operation: str, body: dict[str, Any], ids: tuple[str, ...] | None) -> None:
    """Files, spoken answers and voices live with a provider too."""
    found = read(body, operation).pin
    assert (None if found is None else found.ids) == ids


def test_conversation() -> None:
    """Every turn after the first bears the same key, another conversation another one, a first turn none."""
    system, user, answer = ({"role": r, "content": r} for r in ("system", "user", "assistant"))
    more = {"role": "user", "content": "more"}

    def of(call: Call) -> Conversation:
        found = conversation_of(call.messages)
        assert found is not None
        return found

    first = of(read({"messages": [system, user]}))
    second = of(read({"messages": [system, user, answer, more]}))
    third = of(read({"messages": [system, user, answer, more, answer, user]}))
    other = of(read({"messages": [system, {"role": "user", "content": "b"}, answer, user]}))
    assert first.answered is None
    assert second.answered == third.answered is not None
    assert first.opening == second.opening == third.opening != other.opening
    assert other.answered not in (None, second.answered)
    assert (second.length, third.length) == (4, 6)
    assert second.end != third.end
    string = of(read({"input": "user"}, "responses"))
    listed = of(read({"input": [user, answer, user]}, "responses"))
    assert of(read({"input": [user, answer, user]}, "responses/compact")) == listed
    assert read({"input": [user, answer, user]}, "responses/input_tokens").messages is None
    assert string.answered is None
    assert string.opening == listed.opening == first.opening
    assert listed.answered == second.answered
    assert read({"input": ["embedded", "texts"]}, "embeddings").messages is None
    assert conversation_of(read({}).messages) is None


# --- rewriting

BODY = b'{ "stream" : true, "model":"gpt-4o" ,"x": 1.0e5, "y":"\\u00e9\\/", "big": 12345678901234567890, "store":true}'


def test_rewriting_touches_nothing_else() -> None:
    """Another model and a dropped field leave all other values byte for byte."""
    _, body = OPENAI.rewrite(call(), "/x", JSON, BODY, 'my "m', ["store", "absent"])
    assert body == b'{"stream":true,"model":"my \\"m","x":1.0e5,"y":"\\u00e9\\/","big":12345678901234567890}'


@pytest.mark.parametrize(("model", "drop"), [(None, []), (None, ["absent"]), ("gpt-4o", []), ("gpt-4o", ["absent"])])
def test_rewriting_nothing_gives_the_very_same_bytes(model: str | None, drop: list[str]) -> None:
    """Not even a copy."""
    assert OPENAI.rewrite(call(), "/x", JSON, BODY, model, drop) == ("/x", BODY)
    assert OPENAI.rewrite(call(), "/x", JSON, BODY, model, drop)[1] is BODY


FORM_TYPE = "multipart/form-data; boundary=----b1"
FORM = (
    b'------b1\r\nContent-Disposition: form-data; name="file"; filename="model"\r\nContent-Type: audio/wav\r\n\r\n'
    b'RIFF\x00name="model"\r\n\r\nx\r\n--\r\n'
    b'------b1\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
    b'------b1\r\ncontent-disposition: form-data; name="stream"\r\n\r\ntrue\r\n------b1--\r\n'
)


def test_forms() -> None:
    """Of a form exactly the part with the model is replaced, exactly a dropped part removed."""
    streamed = FORM.replace(b"whisper-1", b"gpt-4o-transcribe")
    found = OPENAI.read("audio/transcriptions", "/audio/transcriptions", "", FORM_TYPE, streamed)
    assert (found.model, found.stream) == ("gpt-4o-transcribe", True)
    assert OPENAI.rewrite(found, "/a", FORM_TYPE, streamed, "whisper-1", [])[1] == FORM
    assert OPENAI.rewrite(found, "/a", FORM_TYPE, streamed, "gpt-4o-transcribe", ["absent"])[1] is streamed
    without = OPENAI.rewrite(found, "/a", FORM_TYPE, FORM, None, ["stream"])[1]
    assert without == FORM.replace(b'------b1\r\ncontent-disposition: form-data; name="stream"\r\n\r\ntrue\r\n', b"")
    without = OPENAI.rewrite(found, "/a", FORM_TYPE, FORM, None, ["file"])[1]
    assert without.startswith(b'------b1\r\nContent-Disposition: form-data; name="model"')


def test_whisper_takes_the_stream_flag_and_does_not_stream() -> None:
    """Its answer in one piece is a good one."""
    assert not OPENAI.read("audio/transcriptions", "/audio/transcriptions", "", FORM_TYPE, FORM).stream


@pytest.mark.parametrize("at", [*range(0, len(FORM) - 4, 7), len(FORM) - 3])
def test_a_form_that_is_cut_off_is_not_read(at: int) -> None:
    assert OPENAI.read("audio/transcriptions", "/a", "", FORM_TYPE, FORM[:at]).unread
    assert OPENAI.read("audio/transcriptions", "/a", "", "multipart/form-data", FORM).unread


# --- streams

STREAMS = [
    ("chat/completions", "openai.chat_completions.stream.sse", "LCCCLT", Usage(19, 4, 8), "gpt-4o-mini-2024-07-18", ()),
    ("completions", "openai.completions.stream.sse", "LCCT", None, "gpt-3.5-turbo-instruct", ()),
    (
        "responses",
        "openai.responses.stream.sse",
        "LLLCLLCT",
        Usage(36, 87, 16),
        "gpt-5-mini-2025-08-07",
        ("resp_1", "rs_1", "msg_1"),
    ),
    ("audio/transcriptions", "openai.audio_transcriptions.stream.sse", "CT", Usage(20, 7), None, ()),
    ("audio/speech", "openai.audio_speech.stream.sse", "CT", Usage(14, 101), None, ()),
    ("images/generations", "openai.images_generations.stream.sse", "CT", Usage(50, 50), None, ()),
]


@pytest.mark.parametrize(("operation", "name", "expected", "usage", "model", "ids"), STREAMS)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_streams_at_every_cut(
    operation: str, name: str, expected: str, usage: Usage | None, model: str | None, ids: tuple[str, ...], end: bytes
) -> None:
    """Wherever a stream is cut up, each event means the same, and the raws joined are the stream."""
    data = corpus.stream(name).replace(b"\n", end)
    for parts in corpus.cuts(data):
        reader = OPENAI.reader(call(operation), SSE)
        events = corpus.run(reader, parts)
        assert b"".join(e.raw for e in events) == data
        assert corpus.marks(events) == expected
        assert (reader.finished, reader.answered, reader.content, reader.pending) == (True, True, True, 0)
        assert (reader.usage, reader.model, reader.ids) == (usage, model, ids)


@pytest.mark.parametrize(("operation", "name"), [(s[0], s[1]) for s in STREAMS])
def test_a_stream_that_was_cut_off_is_never_finished(operation: str, name: str) -> None:
    """Short of its last event's data nothing looks complete, and a half event at the end is malformed."""
    data = corpus.stream(name).rstrip(b"\n")
    for at in range(len(data)):
        reader = OPENAI.reader(call(operation), SSE)
        events = corpus.run(reader, [data[:at]])
        assert not reader.finished
        assert b"".join(e.raw for e in events) == data[:at]


def test_answered_but_not_finished() -> None:
    """Without `[DONE]` a chat stream is not finished, but has been answered once every choice stopped."""
    reader = OPENAI.reader(call(), SSE)

    def chunk(index: int, reason: str | None, text: str = "x") -> bytes:
        choice = {"index": index, "delta": {"content": text}, "finish_reason": reason}
        return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"

    story = []
    for index, reason in ((0, None), (1, None), (0, "stop"), (1, "length")):
        reader.feed(chunk(index, reason))
        story.append((reader.answered, reader.finished))
    assert story == [(False, False), (False, False), (False, False), (True, False)]


def meaning(data: str | bytes, operation: str = "chat/completions", name: str = "") -> tuple[Mark, ErrorKind | None]:
    text = data if isinstance(data, bytes) else data.encode()
    head = f"event: {name}\n".encode() if name else b""
    (event,) = OPENAI.reader(call(operation), SSE).feed(head + b"data: " + text + b"\n\n")
    return event.mark, None if event.error is None else event.error.kind


@pytest.mark.parametrize(
    ("delta", "mark"),
    [
        ('{"role":"assistant"}', Mark.LIFECYCLE),
        ('{"role":"assistant","content":""}', Mark.LIFECYCLE),
        ('{"role":"assistant","content":null,"refusal":null,"reasoning":null}', Mark.LIFECYCLE),
        ('{"role":"assistant","channel":"analysis"}', Mark.LIFECYCLE),
        ("{}", Mark.LIFECYCLE),
        ("null", Mark.LIFECYCLE),
        ('{"content":" "}', Mark.CONTENT),
        ('{"refusal":"I"}', Mark.CONTENT),
        ('{"reasoning":"a"}', Mark.CONTENT),
        ('{"reasoning_content":"a"}', Mark.CONTENT),
        ('{"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":""}}]}', Mark.CONTENT),
        ('{"function_call":{"name":"f"}}', Mark.CONTENT),
        ('{"audio":{"id":"a","transcript":"x"}}', Mark.CONTENT),
        ('{"content":"\\ud83d"}', Mark.CONTENT),
    ],
)
def test_chat_deltas(delta: str, mark: Mark) -> None:
    """Whatever speaks to the user, or for a tool, is content; a role is not."""
    assert meaning(f'{{"choices":[{{"index":0,"delta":{delta},"finish_reason":null}}]}}') == (mark, None)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ('{"choices":[],"prompt_filter_results":[{}]}', (Mark.LIFECYCLE, None)),
        ('{"choices":[],"usage":{"prompt_tokens":1}}', (Mark.LIFECYCLE, None)),
        ('{"choices":[{"index":0,"delta":{},"finish_reason":"content_filter"}]}', (Mark.CONTENT, None)),
        ('{"choices":3}', (Mark.LIFECYCLE, None)),
        ("[1]", (Mark.LIFECYCLE, None)),
        ("{not json", (Mark.MALFORMED, None)),
        ('{"choices":[{"delta":{"content":"x', (Mark.MALFORMED, None)),
        (b'{"choices":"\xff"', (Mark.MALFORMED, None)),
        ("[DONE]", (Mark.LIFECYCLE, None)),
        ('{"error":{"message":"m","type":"server_error"}}', (Mark.ERROR, ErrorKind.SERVER)),
        ('{"error":{"message":"m","code":429},"choices":[{"delta":{"content":""},"finish_reason":"error"}]}',
         (Mark.ERROR, ErrorKind.RATE_LIMIT)),
        ('{"choices":[{"error":{"code":502,"message":"m"},"delta":{},"finish_reason":"error"}]}',
         (Mark.ERROR, ErrorKind.SERVER)),
        ('{"error":"overloaded"}', (Mark.ERROR, ErrorKind.OVERLOADED)),
        ('{"error":null,"choices":[]}', (Mark.LIFECYCLE, None)),
        ('{"object":"error","message":"m","code":400}', (Mark.ERROR, ErrorKind.INVALID)),
    ],
)  # fmt: skip
def test_chat_events(data: str | bytes, expected: tuple[Mark, ErrorKind | None]) -> None:
    """Errors are told from content, what is no JSON from what is merely strange; `[DONE]` alone ends nothing."""
    assert meaning(data) == expected


def test_an_error_event_needs_no_json() -> None:
    """Its name says enough."""
    assert meaning("it broke", name="error") == (Mark.ERROR, ErrorKind.SERVER)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ('{"type":"response.refusal.delta","delta":"I"}', (Mark.CONTENT, None)),
        ('{"type":"response.reasoning_summary_text.delta","delta":"I"}', (Mark.CONTENT, None)),
        ('{"type":"response.function_call_arguments.delta","delta":"{"}', (Mark.CONTENT, None)),
        ('{"type":"response.output_text.delta","delta":""}', (Mark.LIFECYCLE, None)),
        ('{"type":"response.output_item.added","item":{"type":"message"}}', (Mark.LIFECYCLE, None)),
        ('{"type":"response.web_search_call.searching"}', (Mark.LIFECYCLE, None)),
        ('{"type":"response.incomplete","response":{"status":"incomplete","output":[]}}', (Mark.TERMINAL, None)),
        ('{"type":"response.failed","response":{"error":{"code":"rate_limit_exceeded","message":"m"}}}',
         (Mark.ERROR, ErrorKind.RATE_LIMIT)),
        ('{"type":"response.failed","response":{"error":{"code":"server_error","message":"m"}}}',
         (Mark.ERROR, ErrorKind.SERVER)),
        ('{"type":"error","code":"insufficient_quota","message":"m","param":null}', (Mark.ERROR, ErrorKind.QUOTA)),
        ('{"type":"response.mcp_call.failed"}', (Mark.LIFECYCLE, None)),
        ('{"type":"response.some_day","delta":"x"}', (Mark.LIFECYCLE, None)),
        ("[DONE]", (Mark.LIFECYCLE, None)),
        ("{", (Mark.MALFORMED, None)),
    ],
)  # fmt: skip
def test_responses_events(data: str, expected: tuple[Mark, ErrorKind | None]) -> None:
    """Deltas are content, the last event is terminal, a failed response is an error."""
    assert meaning(data, "responses") == expected


def test_comments_are_lifecycle() -> None:
    """And come out as they came in."""
    (event,) = OPENAI.reader(call(), SSE).feed(b": OPENROUTER PROCESSING\n\n")
    assert (event.raw, event.mark) == (b": OPENROUTER PROCESSING\n\n", Mark.LIFECYCLE)


@pytest.mark.parametrize(
    ("content_type", "start", "expected"),
    [
        (SSE, b"odd: field", True),
        (SSE, b'{"error": {}}', False),
        (SSE, b"<html>", False),
        ("text/plain", b"odd: field", False),
        (JSON, b"[", False),
        ("", b"x", False),
    ],
)
def test_what_is_a_stream(content_type: str, start: bytes, expected: bool) -> None:
    """Where the first bytes are no event's, only what says so, and does not begin as a document, is a stream."""
    assert OPENAI.is_stream(call(), content_type, start) is expected


@pytest.mark.parametrize(("flag", "expected"), [(True, True), (1, True), ("true", True), (False, False), (None, False)])
def test_the_stream_flag(flag: Any, expected: bool) -> None:
    """What some servers take for a flag asks for a stream too: the app then waits for one."""
    assert read({"stream": flag}).stream is expected


# --- whole answers


@pytest.mark.parametrize(
    ("operation", "content_type", "body", "good", "kind"),
    [
        ("chat/completions", JSON, b'{"choices":[{"message":{"content":"a"}}]}', True, None),
        ("chat/completions", JSON, b'{"choices":[]}', False, None),
        ("chat/completions", JSON, b'{"choices":null}', False, None),
        ("chat/completions", JSON, b'{"choices":[{"error":{"code":429,"message":"m"}}]}', False, ErrorKind.RATE_LIMIT),
        ("chat/completions", JSON, b'{"id":"x"}', False, None),
        ("chat/completions", JSON, b"", False, None),
        ("chat/completions", JSON, b"ok", False, None),
        ("chat/completions", JSON, b'{"choices":[{"message"', False, None),
        ("chat/completions", JSON, b"<html>x</html>", False, None),
        ("chat/completions", JSON, b'{"error":{"type":"insufficient_quota","message":"m"}}', False, ErrorKind.QUOTA),
        ("chat/completions", JSON, b'{"error":null,"choices":[{"message":{"content":"a"}}]}', True, None),
        ("responses", JSON, b'{"output":[],"status":"queued","error":null}', True, None),
        ("responses", JSON, b'{"output":[],"status":"failed","error":{"code":"server_error","message":"m"}}', False,
         ErrorKind.SERVER),
        ("responses", JSON, b'{"id":"x"}', False, None),
        ("embeddings", JSON, b'{"data":[{"embedding":[NaN]}]}', True, None),
        ("embeddings", JSON, b'{"data":[]}', False, None),
        ("embeddings", JSON, b'{"data":[null]}', False, None),
        ("embeddings", JSON, b'{"data":[{"object":"embedding","index":0,"embedding":[]}]}', False, None),
        ("embeddings", JSON, b'{"data":[{"object":"embedding","index":0,"embedding":null}]}', False, None),
        ("embeddings", JSON, b'{"data":[{"object":"embedding","index":0,"embedding":[0,0]}]}', True, None),
        ("embeddings", JSON, b'{"model":"m"}', False, None),
        ("moderations", JSON, b'{"results":[{"flagged":false}]}', True, None),
        ("moderations", JSON, b'{"results":[{}]}', False, None),
        ("fim/completions", JSON, b'{"choices":[{"message":{"content":"a"}}]}', True, None),
        ("fim/completions", JSON, b'{"choices":[{"message":{"content":""}}]}', False, None),
        ("rerank", JSON, b'{"results":[{"index":0,"relevance_score":0.5}]}', True, None),
        ("rerank", JSON, b'{"data":[{"index":0,"relevance_score":0.5}]}', True, None),
        ("rerank", JSON, b'[{"index":0,"score":0.5}]', True, None),
        ("rerank", JSON, b'{"results":[]}', False, None),
        ("rerank", JSON, b"[]", False, None),
        ("rerank", JSON, b'{"model":"m"}', False, None),
        ("responses/compact", JSON, b'{"output":[{"type":"compaction","encrypted_content":"x"}]}', True, None),
        ("responses/compact", JSON, b'{"output":[{"type":"compaction","encrypted_content":null}]}', False, None),
        ("responses/compact", JSON, b'{"object":"response.compaction","output":[]}', False, None),
        ("responses/compact", JSON, b'{"error":{"code":"server_error","message":"m"}}', False, ErrorKind.SERVER),
        ("responses/input_tokens", JSON, b'{"object":"response.input_tokens","input_tokens":0}', True, None),
        ("responses/input_tokens", JSON, b'{"object":"response.input_tokens"}', False, None),
        ("responses/input_tokens", JSON, b'{"input_tokens":null}', False, None),
        ("images/edits", JSON, b'{"data":[{"b64_json":"u"}]}', True, None),
        ("images/edits", JSON, b'{"data":[]}', False, None),
        ("images/generations", JSON, b'{"data":[{"url":"u"}]}', True, None),
        ("images/generations", JSON, b'{"data":null}', False, None),
        ("images/generations", JSON, b'{"data":[{}]}', False, None),
        ("images/generations", JSON, b'{"data":[{"b64_json":"","url":null,"revised_prompt":"x"}]}', False, None),
        ("images/generations", "text/html", b"{}", False, None),
        ("audio/speech", "audio/mpeg", b"\xff\xfb\x90", True, None),
        ("audio/speech", "audio/pcm", b"{\x00\x01", True, None),
        ("audio/speech", "audio/mpeg", b"", False, None),
        ("audio/speech", "", b"<!DOCTYPE html>", False, None),
        ("audio/speech", JSON, b'{"error":{"message":"m"}}', False, ErrorKind.SERVER),
        ("audio/transcriptions", "text/plain", b"1\n00:00 --> 00:01\nHi", True, None),
        ("audio/transcriptions", JSON, b"Hi", False, None),
    ],
)  # fmt: skip
def test_judging(operation: str, content_type: str, body: bytes, good: bool, kind: ErrorKind | None) -> None:
    """A 2xx is an answer only if it holds what its operation is asked for."""
    answer = OPENAI.judge_answer(call(operation, stream=False), content_type, body)
    assert (answer.good, None if answer.error is None else answer.error.kind) == (good, kind)


NO_TOKENS = {"prompt_tokens": 3, "completion_tokens": 0}
SPOKEN = {"message": {"content": None, "audio": {"id": "audio_1", "data": "x"}}}
GOOD, BAD = Answer(good=True), Answer(good=False)
HOLLOW = Answer(good=False, error=ErrorFacts(ErrorKind.SERVER))
"""Its status, whatever that is, is the only word that could tell of an error."""


@pytest.mark.parametrize(
    ("operation", "body", "answer"),
    [
        ("chat/completions", {"choices": [{"message": {"content": "a"}}], "model": 5}, GOOD),
        (
            "chat/completions",
            {"choices": [{"message": {"content": "a"}}], "model": "m1", "usage": {"prompt_tokens": 3}},
            Answer(True, None, Usage(3, 0, 0), "m1", ()),
        ),
        (
            "chat/completions",
            {"choices": [SPOKEN], "model": "m1", "usage": {"prompt_tokens": 3}},
            Answer(True, None, Usage(3, 0, 0), "m1", ("audio_1",)),
        ),
        ("chat/completions", {"choices": [{"message": {"content": "audio", "audio": {}}}]}, GOOD),
        ("chat/completions", {"choices": [{"message": {"role": "assistant", "content": ""}}]}, BAD),
        ("chat/completions", {"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]}, GOOD),
        (
            "chat/completions",
            {"choices": [{"message": {"content": ""}, "finish_reason": "stop"}], "usage": NO_TOKENS},
            BAD,
        ),
        (
            "chat/completions",
            {"choices": [{"message": {"content": ""}, "finish_reason": "length"}], "usage": NO_TOKENS},
            Answer(True, None, Usage(3, 0, 0)),
        ),
        ("chat/completions", {"choices": [{"message": {}}, {"message": {"content": "a"}}]}, GOOD),
        ("chat/completions", {"choices": [{"message": {"content": None}, "finish_reason": "tool_calls"}]}, BAD),
        ("chat/completions", {"choices": [{"message": {"content": "a"}, "finish_reason": "tool_calls"}]}, GOOD),
        ("chat/completions", {"choices": [{"message": {"content": [{"type": "text", "text": ""}]}}]}, BAD),
        ("chat/completions", {"choices": [{"message": {"content": [{"type": "text", "text": "a"}]}}]}, GOOD),
        ("chat/completions", {"choices": [{"message": {"content": "a"}}], "error": {"code": 0, "message": ""}}, GOOD),
        (
            "chat/completions",
            {
                "choices": [{"message": {"content": ""}, "finish_reason": "stop"}],
                "base_resp": {"status_code": 1002, "status_msg": "rate limit"},
            },
            Answer(good=False, error=ErrorFacts(ErrorKind.RATE_LIMIT, "rate limit")),
        ),
        (
            "chat/completions",
            {"choices": [{"message": {"content": "a"}}], "base_resp": {"status_code": 1027, "status_msg": "x"}},
            GOOD,
        ),
        ("chat/completions", {"choices": [{"message": {"content": "a"}}], "base_resp": {"status_code": 0}}, GOOD),
        ("chat/completions", {"choices": [{"message": "a"}]}, BAD),
        ("chat/completions", {"choices": [5]}, BAD),
        ("chat/completions", {"choices": [{"text": "a"}]}, BAD),
        ("chat/completions", {"choices": [{"message": {"content": "a"}}], "object": "error"}, BAD),
        (
            "chat/completions",
            {"choices": [{"error": {"message": "overloaded"}, "message": {"content": "a"}}]},
            Answer(good=False, error=ErrorFacts(ErrorKind.OVERLOADED, "overloaded")),
        ),
        (
            "chat/completions",
            {"choices": [{"error": {"message": "overloaded"}}, {"message": {"content": "a"}}]},
            GOOD,
        ),
        (
            "chat/completions",
            {"choices": [{"message": {"content": "a"}, "finish_reason": "error"}]},
            Answer(good=False, error=BREAKDOWN),
        ),
        (
            "chat/completions",
            {"choices": [{"message": {"content": "a"}, "finish_reason": "error"}, {"message": {"content": "b"}}]},
            Answer(good=False, error=BREAKDOWN),
        ),
        ("completions", {"choices": [{"text": "a"}]}, GOOD),
        ("completions", {"choices": [{"text": ""}]}, BAD),
        ("completions", {"choices": [{"message": {"content": "a"}}]}, BAD),
        ("responses", {"output": [], "status": "completed"}, HOLLOW),
        ("responses", {"output": [], "status": "completed", "usage": {"output_tokens": 0}}, HOLLOW),
        ("responses", {"output": []}, BAD),
        (
            "responses",
            {"id": "r", "output": [], "status": "completed", "usage": {"output_tokens": 1}},
            Answer(True, None, Usage(0, 1, 0), None, ("r",)),
        ),
        *(
            ("responses", {"output": [], "status": status}, GOOD)
            for status in ("queued", "in_progress", "incomplete", "cancelled")
        ),
        ("responses", {"output": "x", "status": "queued"}, HOLLOW),
        ("responses", {"output": [5]}, GOOD),
        ("responses", {"output": [None, {}]}, BAD),
        ("responses", {"output": [{"type": "reasoning", "summary": []}], "usage": {"output_tokens": 0}}, BAD),
        (
            "responses",
            {"output": [{"type": "reasoning", "summary": []}], "usage": {"output_tokens": 1}},
            Answer(True, None, Usage(0, 1, 0)),
        ),
        ("embeddings", {"output": [], "data": [], "status": "queued"}, HOLLOW),
    ],
)
def test_whole_answers(operation: str, body: Any, answer: Answer) -> None:
    """What is one, and what is told of it."""
    assert OPENAI.judge_answer(call(operation, stream=False), JSON, json.dumps(body).encode()) == answer


def test_what_an_answer_tells() -> None:
    """Usage, model, and the identifiers that a later call may refer to."""
    body = {
        "id": "resp_1",
        "model": "m",
        "output": [{"id": "rs_1"}, {"id": "ci_1", "container_id": "cntr_1"}],
        "usage": {"input_tokens": 3, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 2}},
    }
    answer = OPENAI.judge_answer(call("responses", stream=False), JSON, json.dumps(body).encode())
    assert (answer.usage, answer.model) == (Usage(3, 4, 2), "m")
    assert answer.ids == ("resp_1", "rs_1", "ci_1", "cntr_1")
    compaction = {"id": "resp_2", "output": [{"id": "cmp_1", "type": "compaction", "encrypted_content": "g"}]}
    answer = OPENAI.judge_answer(call("responses/compact", stream=False), JSON, json.dumps(compaction).encode())
    assert answer.ids == ("resp_2", "cmp_1", digest(b"g"))


def test_what_others_stream() -> None:
    """Edited images end with an event of their own, completions that fill a gap stream as chats do."""
    reader = OPENAI.reader(call("images/edits"), SSE)
    marks = [
        e.mark
        for kind in ("partial_image", "completed")
        for e in reader.feed(b'data: {"type":"image_edit.%s","b64_json":"x"}\n\n' % kind.encode())
    ]
    assert (marks, reader.finished) == ([Mark.CONTENT, Mark.TERMINAL], True)
    reader = OPENAI.reader(call("fim/completions"), SSE)
    (event,) = reader.feed(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n')
    assert event.mark is Mark.CONTENT


def test_edits_of_images_are_forms() -> None:
    """Model and stream flag are read from the form, and the model is replaced in it, the image byte for byte."""
    body = (
        b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\ngpt-image-1\r\n'
        b'--b\r\ncontent-disposition: form-data; name="stream"\r\n\r\ntrue\r\n'
        b'--b\r\ncontent-disposition: form-data; name="image[]"; filename="a.png"\r\n\r\n\x89PNG\r\n\x00\r\n--b--\r\n'
    )
    form = "multipart/form-data; boundary=b"
    found = OPENAI.read("images/edits", "/images/edits", "", form, body)
    assert found == Call("openai", "images/edits", "gpt-image-1", stream=True)
    rewritten = OPENAI.rewrite(found, "/images/edits", form, body, "mine", [])
    assert rewritten == ("/images/edits", body.replace(b"gpt-image-1", b"mine"))


@pytest.mark.parametrize(("body", "unread"), [(b"Hi", True), (b'{"text":', False), (b" ", False), (b"<html>", False)])
def test_text_or_sound_that_calls_itself_json(body: bytes, unread: bool) -> None:
    """It may be an answer for all that is known."""
    assert OPENAI.judge_answer(call("audio/transcriptions", stream=False), JSON, body) == Answer(False, unread=unread)


@pytest.mark.parametrize("body", [b"", b"\n", b" \r\n"])
@pytest.mark.parametrize(
    ("operation", "kind", "unread"),
    [
        ("audio/transcriptions", "text/plain; charset=utf-8", True),
        ("audio/translations", "text/srt", True),
        ("audio/transcriptions", "text/html", False),
        ("audio/transcriptions", SSE, False),
        ("audio/transcriptions", JSON, False),
        ("audio/transcriptions", "", False),
        ("audio/speech", "text/plain", False),
    ],
)
def test_the_transcript_of_silence_is_empty(operation: str, kind: str, unread: bool, body: bytes) -> None:
    """Where it is text, and calls itself so: no provider has failed for that."""
    assert OPENAI.judge_answer(call(operation, stream=False), kind, body) == Answer(False, unread=unread)


# --- errors


@pytest.mark.parametrize(("status", "kind", "body"), corpus.errors("openai"))
def test_errors(status: int, kind: str, body: bytes) -> None:
    """What those who speak the dialect say when they refuse."""
    assert OPENAI.read_error(status, {}, body).kind == kind


ODD = [
    *(b"", b"null", b"[]", b"[[]]", b'""', b"3", b"{", b'{"error":', b"\xff\xfe\x00", b"<html>", b'{"error":null}'),
    *(
        b'{"error":[]}',
        b'{"error":["x"]}',
        b'{"error":3}',
        b'{"error":{"message":{"a":[1]}}}',
        b'{"error":{"code":[]}}',
    ),
    *(b'{"errors":[{"code":10000,"message":"x"}]}', b'{"detail":[{"msg":"x","loc":["a"]}]}', b'{"message":["x",1]}'),
    *(b'{"error":"{\\"error\\":\\"{\\"}"}', b"[" * 100_000, b'{"error":' * 50_000, b'{"error":{"details":[1,{}]}}'),
    *(b'{"error":{"metadata":{"raw":3},"message":""}}', b'{"error":{"code":true,"type":null}}'),
]


@pytest.mark.parametrize("body", ODD, ids=lambda b: str(b[:30]))
@pytest.mark.parametrize("status", [0, 400, 404, 500])
def test_odd_errors_raise_nothing(body: bytes, status: int) -> None:
    """Whatever shape an error has, it is some kind, and an odd 404 says nothing of a model."""
    assert OPENAI.read_error(status, {}, body).kind is not ErrorKind.UNKNOWN_MODEL


def test_a_prompt_in_an_error_decides_nothing() -> None:
    """A message is judged by its beginning, and codes come first."""
    quoted = "Invalid parameter. " + "x" * 400 + " insufficient balance, model foo does not exist, prompt is too long"
    body = json.dumps({"error": {"message": quoted}}).encode()
    assert OPENAI.read_error(400, {}, body).kind is ErrorKind.INVALID


# --- what the SDK makes of our words


def sdk(answer: Callable[[httpx2.Request], httpx2.Response]) -> openai.OpenAI:
    client = httpx2.Client(transport=httpx2.MockTransport(answer))
    return openai.OpenAI(api_key="k", base_url="http://x/v1", max_retries=0, http_client=client)


def streamed(body: bytes) -> Callable[[httpx2.Request], httpx2.Response]:
    """A server whose every answer is this event stream."""
    return lambda _: httpx2.Response(200, headers={"content-type": SSE}, content=body)


def ask(client: openai.OpenAI, operation: str) -> list[Any]:
    seen: list[Any] = []
    stream: Any
    match operation:
        case "chat/completions":
            stream = client.chat.completions.create(model="m", messages=[], stream=True)
        case "completions":
            stream = client.completions.create(model="m", prompt="x", stream=True)
        case "responses":
            stream = client.responses.create(model="m", input="x", stream=True)
        case "images/generations":
            stream = client.images.generate(model="m", prompt="x", stream=True)
        case _:
            stream = client.audio.transcriptions.create(model="m", file=b"x", stream=True)
    try:
        for event in stream:
            seen.append(event)
    except openai.APIError as e:
        seen.append(e)
    return seen


@pytest.mark.parametrize(("operation", "name"), [(s[0], s[1]) for s in STREAMS if s[0] != "audio/speech"])
def test_the_sdk_raises_our_error_events(operation: str, name: str) -> None:
    """Wherever a stream breaks off, the official SDK ends it with its own API error, bearing our text."""
    data = corpus.stream(name)
    for at in range(0, len(data), 31):
        reader = OPENAI.reader(call(operation), SSE)
        sent = [e.raw for e in corpus.run(reader, [data[:at]]) if e.mark is not Mark.MALFORMED]
        if reader.finished:
            continue
        body = b"".join(sent) + reader.error_event(ErrorKind.SERVER, "azure: the stream was cut")
        client = sdk(streamed(body))
        seen = ask(client, operation)
        assert isinstance(seen[-1], openai.APIError)
        assert seen[-1].message == "sidestep: azure: the stream was cut"
        client.close()


@pytest.mark.parametrize("kind", ErrorKind)
def test_the_sdk_raises_our_errors(kind: ErrorKind) -> None:
    """A JSON error of ours is the official SDK's own API error."""
    body = OPENAI.phrase_error(503, kind, "nobody left")
    with (
        sdk(lambda _: httpx2.Response(503, json=json.loads(body))) as client,
        pytest.raises(openai.InternalServerError, match="sidestep: nobody left"),
    ):
        client.responses.create(model="m", input="x")


@pytest.mark.parametrize("operation", ["chat/completions", "responses", "images/generations"])
def test_the_sdk_ignores_keep_alives(operation: str) -> None:
    """A held-back stream with keep-alives before it gives the same events."""
    data = next(corpus.stream(s[1]) for s in STREAMS if s[0] == operation)
    beat = OPENAI.keep_alive(call(operation))
    plain, beaten = (ask(sdk(streamed(body)), operation) for body in (data, beat * 3 + data))
    assert plain == beaten


MUTE = {"type": "message", "content": [{"type": "output_text", "text": "", "annotations": []}]}


@pytest.mark.parametrize(
    ("item", "tokens", "good"),
    [
        (MUTE, 0, False),
        ({"type": "message", "content": []}, 0, False),
        (MUTE, 3, True),
        (MUTE, None, True),
        ({"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}, 0, True),
        ({"type": "function_call", "name": "f"}, 0, True),
    ],
)
def test_a_response_of_empty_messages(item: dict[str, Any], tokens: int | None, good: bool) -> None:
    """It is no answer where it says itself that no token was made, whole and streamed alike."""
    usage = None if tokens is None else {"output_tokens": tokens}
    response = {"id": "r", "status": "completed", "output": [item], "usage": usage}
    assert OPENAI.judge_answer(call("responses", stream=False), JSON, json.dumps(response).encode()).good is good
    ends = [
        {"type": "response.output_item.done", "item": item},
        {"type": "response.completed", "response": response},
    ]
    if item is MUTE:
        part = MUTE["content"][0]
        ends[:0] = [
            {"type": "response.output_text.done", "text": ""},
            {"type": "response.content_part.done", "part": part},
        ]
    reader = OPENAI.reader(call("responses"), SSE)
    for data in ends:
        reader.feed(b"data: " + json.dumps(data).encode() + b"\n\n")
    assert reader.content is good
