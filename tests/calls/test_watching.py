"""A watch comes to the same verdict wherever an answer is cut up, and passes on what came."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from sidestep.breaker import judging
from sidestep.breaker.outcomes import ErrorKind, Kind, Outcome, Then
from sidestep.calls import watching
from sidestep.calls.watching import Shape, Watch
from sidestep.dialects import DIALECTS
from sidestep.dialects.base import Call
from support import corpus

NOW = 1_790_000_000.0
SSE = "text/event-stream"
JSON = "application/json"


@dataclass
class Seen:
    """What came of an answer: the bytes passed on before an error, what was told with it, how it ended."""

    forwarded: bytes = b""
    told: bytes = b""
    begun_at: int | None = None
    dropped: int = 0
    outcome: Outcome | None = None
    broken: bool = False
    raises: bool = False
    pieces: list[bytes] = field(default_factory=list)

    def summary(self) -> tuple[Any, ...]:
        """All that may not depend on where it was cut."""
        assert self.outcome is not None
        return self.forwarded, self.told, self.begun_at is not None, self.dropped, self.outcome, self.broken


def watch_of(
    call: Call, content_type: str | None, *, own: bool = True, status: int = 200, encoding: str = "", **headers: str
) -> Watch:
    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    if content_type is not None:
        fields.append((b"Content-Type", content_type.encode()))
    if encoding:
        fields.append((b"Content-Encoding", encoding.encode()))
    return Watch(
        DIALECTS[call.dialect],
        call,
        own_provider=own,
        own_credential=own,
        status=status,
        fields=tuple(fields),
        wall_now=NOW,
    )


def see(watch: Watch, parts: list[bytes]) -> Seen:
    """Feed an answer as a stream that acts on the watch does: it ends with an error."""
    seen = Seen()
    for at, part in enumerate(parts):
        piece = watch.feed(part)
        seen.forwarded += piece.forward
        seen.dropped += piece.dropped
        if piece.content and seen.begun_at is None:
            seen.begun_at = at
        if piece.error is not None:
            seen.told, seen.raises = piece.told + b"".join(parts[at + 1 :]), piece.raises
            seen.outcome = watch.judge_end()
            seen.broken = watch.begun
            return seen
    rest = watch.rest()
    seen.forwarded += rest.forward
    seen.told, seen.raises = rest.told, rest.raises
    seen.outcome = watch.judge_end()
    seen.broken = seen.outcome.reason == "truncated"
    return seen


def few_cuts(data: bytes) -> Iterator[list[bytes]]:
    """As `corpus.cuts`, in two only at every seventh place: enough for what is long."""
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    for at in range(1, len(data), 7):
        yield [data[:at], data[at:]]


# --- good streams

GOOD = sorted(p.name for p in corpus.FOLDER.glob("*.stream.*"))


def call_of(name: str, *, stream: bool = True) -> Call:
    dialect, operation = name.split(".")[:2]
    return Call(dialect, operation.replace("_", "/", 1) if dialect == "openai" else operation, "m", stream=stream)


@pytest.mark.parametrize("name", GOOD)
def test_good_streams_at_every_cut(name: str) -> None:
    """A good stream is a success, goes on byte for byte, and begins before it ends."""
    data, content_type = corpus.stream(name), SSE if name.endswith(".sse") else JSON
    for parts in corpus.cuts(data):
        watch = watch_of(call_of(name), content_type)
        seen = see(watch, parts)
        assert (seen.forwarded, seen.told, seen.dropped) == (data, b"", 0)
        assert seen.outcome == Outcome(Kind.SUCCESS, "ok", status=200)
        assert watch.finished
        assert len(parts) < 3 or (seen.begun_at is not None and seen.begun_at < len(parts) - 2)


TYPES = (
    *("application/x-ndjson", "application/json", "text/html; charset=utf-8", "application/stream+json"),
    *("Text/Event-Stream;Charset=UTF-8", "text/plain", "application/octet-stream", "x", "", None),
)


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize("name", [n for n in GOOD if n.endswith(".sse") and "audio" not in n])
def test_a_stream_under_another_type(name: str, content_type: str | None) -> None:
    """What was asked for as a stream and begins as one is one, whatever it calls itself, with a byte order mark too."""
    before = (b"", b"\xef\xbb\xbf", b"\n\n: hello\n\n")[TYPES.index(content_type) % 3]
    for data in {corpus.stream(name), before + corpus.stream(name)}:
        for parts in few_cuts(data):
            seen = see(watch_of(call_of(name), content_type), parts)
            assert (seen.forwarded, seen.outcome) == (data, Outcome(Kind.SUCCESS, "ok", status=200))


@pytest.mark.parametrize("name", GOOD)
def test_a_compressed_stream_goes_on_as_it_is(name: str) -> None:
    """It is read beside its way, or decoded for those that hold it back: the verdict is the same."""
    data, content_type = corpus.stream(name), SSE if name.endswith(".sse") else JSON
    packed = gzip.compress(data, mtime=0)
    for parts in few_cuts(packed):
        seen = see(watch_of(call_of(name), content_type, encoding="gzip"), parts)
        assert (seen.forwarded, seen.outcome) == (packed, Outcome(Kind.SUCCESS, "ok", status=200))
        held = Watch(
            DIALECTS[call_of(name).dialect],
            call_of(name),
            own_provider=True,
            own_credential=True,
            status=200,
            fields=((b"content-type", content_type.encode()), (b"content-encoding", b"gzip")),
            wall_now=NOW,
            unwrap=True,
        )
        seen = see(held, parts)
        assert (seen.forwarded, seen.outcome) == (data, Outcome(Kind.SUCCESS, "ok", status=200))


# --- kinds of misbehaviour, in each form of stream


def sse(data: Any, name: str = "") -> bytes:
    text = data if isinstance(data, str) else json.dumps(data)
    return ((f"event: {name}\n" if name else "") + f"data: {text}\n\n").encode()


def chat(delta: dict[str, Any], finish: str | None = None) -> bytes:
    return sse({"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def named(data: dict[str, Any]) -> bytes:
    return sse(data, data["type"])


def gemini(text: str | None = None, **more: Any) -> bytes:
    content = {} if text is None else {"content": {"parts": [{"text": text}], "role": "model"}}
    return sse({"candidates": [{**content, **more, "index": 0}]})


@dataclass(frozen=True)
class Form:
    """One API's stream in parts: what comes before content, content, and its end; and how it says certain things."""

    call: Call
    before: bytes
    words: tuple[bytes, bytes]
    end: bytes
    """Says why it stopped, and the terminal event."""
    hollow: bytes
    """An end that says of itself that there was nothing."""
    overloaded: bytes
    too_long: bytes
    broken: bytes
    """A finish reason that says that the provider broke down."""
    tool: tuple[bytes, bytes]
    """The beginning of a tool call and a piece of its arguments; empty where it comes whole."""
    raises: bool = True
    """The SDK raises from the error events above."""


TOO_LONG = "prompt is too long: 209000 tokens > 200000 maximum"
RESPONSE: dict[str, Any] = {"id": "r", "output": [], "usage": {"output_tokens": 0}}
CHAT = Form(
    Call("openai", "chat/completions", "m", stream=True),
    b": PROCESSING\n\n" + chat({"role": "assistant", "content": ""}),
    (chat({"content": "one "}), chat({"content": "two"})),
    chat({}, "stop") + b"data: [DONE]\n\n",
    sse({"choices": [], "usage": {"completion_tokens": 0}}) + b"data: [DONE]\n\n",
    sse({"error": {"message": "busy", "code": 503}}),
    sse({"error": {"message": TOO_LONG, "code": 400}}),
    chat({}, "network_error"),
    (
        chat({"tool_calls": [{"index": 0, "id": "t", "function": {"name": "rm", "arguments": ""}}]}),
        chat({"tool_calls": [{"index": 0, "function": {"arguments": '{"path": "/'}}]}),
    ),
)
RESPONSES = Form(
    Call("openai", "responses", "m", stream=True),
    named({"type": "response.created", "response": {"id": "r"}}) + named({"type": "response.in_progress"}),
    tuple(named({"type": "response.output_text.delta", "delta": w}) for w in ("one ", "two")),  # type: ignore[arg-type]
    named({"type": "response.completed", "response": {"id": "r", "output": [], "usage": {"output_tokens": 2}}}),
    named({"type": "response.completed", "response": {"status": "completed", **RESPONSE}}),
    named({"type": "error", "code": "server_error", "message": "busy"}),
    named({"type": "response.failed", "response": {"error": {"code": "context_length_exceeded", "message": "m"}}}),
    named({"type": "response.failed", "response": {"error": {"code": "server_error", "message": "m"}}}),
    (
        named({"type": "response.output_item.added", "item": {"type": "function_call", "id": "f"}}),
        named({"type": "response.function_call_arguments.delta", "delta": '{"path": "/'}),
    ),
    raises=False,
)
MESSAGES = Form(
    Call("anthropic", "messages", "m", stream=True),
    named({"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 1}}})
    + named({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
    + named({"type": "ping"}),
    tuple(  # type: ignore[arg-type]
        named({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": w}})
        for w in ("one ", "two")
    ),
    named({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}})
    + named({"type": "message_stop"}),
    named({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 0}})
    + named({"type": "message_stop"}),
    named({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
    named({"type": "error", "error": {"type": "invalid_request_error", "message": TOO_LONG}}),
    named({"type": "message_delta", "delta": {"stop_reason": "error"}}),
    (
        named({"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "name": "rm"}}),
        named(
            {
                "type": "content_block_delta",
                "index": 1,
                "delta": {"type": "input_json_delta", "partial_json": '{"path": "/'},
            }
        ),
    ),
)
GEMINI = Form(
    Call("gemini", "streamGenerateContent", "m", stream=True),
    sse({"candidates": [{"content": {"role": "model"}, "index": 0}]}),
    (gemini("one "), gemini("two")),
    gemini(finishReason="STOP"),
    sse({"candidates": [{"finishReason": "STOP"}], "usageMetadata": {"promptTokenCount": 3}}),
    sse({"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}),
    sse(
        {
            "error": {
                "code": 400,
                "message": "The input token count (2) exceeds the maximum",
                "status": "INVALID_ARGUMENT",
            }
        }
    ),
    gemini(finishReason="ERROR"),
    (
        sse({"candidates": [{"content": {"parts": [{"functionCall": {"name": "rm", "willContinue": True}}]}}]}),
        sse({"candidates": [{"content": {"parts": [{"functionCall": {"partialArgs": [], "willContinue": True}}]}}]}),
    ),
)
FORMS = [CHAT, RESPONSES, MESSAGES, GEMINI]
forms = pytest.mark.parametrize("form", FORMS, ids=lambda f: f.call.operation)

BROKEN = b'event: content_block_delta\ndata: {"choices":[{"index":0,"delta":{"content":"bro\n\n'
OK = Outcome(Kind.SUCCESS, "ok", status=200)
BAD = Outcome(Kind.FAILURE, "bad_response", Then.NEXT, 200)
UNREAD = Outcome(Kind.NEUTRAL, "unread", Then.HAND_OVER, 200)


def check(form: Form, data: bytes, *, own: bool = True, content_type: str | None = SSE) -> Seen:
    """What came of it, the same at every cut."""
    first = see(watch_of(form.call, content_type, own=own), [data])
    for parts in corpus.cuts(data):
        assert see(watch_of(form.call, content_type, own=own), parts).summary() == first.summary()
    return first


@forms
def test_empty(form: Form) -> None:
    """Nothing at all, blank lines, comments: no answer."""
    for data in (b"", b"\n\n", b": ping\n\n" * 3):
        assert check(form, data).outcome == BAD


@forms
def test_a_page(form: Form) -> None:
    """It is no answer, whatever it calls itself."""
    for content_type in ("text/html", SSE, JSON, None):
        seen = check(form, b"<!DOCTYPE html><html>Login</html>", content_type=content_type)
        assert seen.outcome == BAD


@forms
def test_hollow(form: Form) -> None:
    """A frame with nothing in it is no answer, with or without its end."""
    for data in (form.before, form.before + form.hollow, form.hollow):
        seen = check(form, data)
        assert (seen.outcome, seen.begun_at, seen.forwarded) == (BAD, None, data)


@forms
def test_signs_of_life_alone(form: Form) -> None:
    """Pings promise nothing."""
    pings = DIALECTS[form.call.dialect].keep_alive(form.call) * 5
    seen = check(form, form.before + pings)
    assert (seen.outcome, seen.begun_at) == (BAD, None)


@forms
def test_an_error_first(form: Form) -> None:
    """A failure told in place of content goes to the next provider."""
    seen = check(form, form.before + form.overloaded + form.end)
    assert (seen.outcome, seen.forwarded, seen.broken) == (BAD, form.before, False)


@forms
@pytest.mark.parametrize("own", [True, False])
def test_the_requests_own_fault(form: Form, own: bool) -> None:
    """It is handed over at once, and no byte of it is lost: what was held, what it is told with, and what follows."""
    after = b": that is all\n\n"
    seen = check(form, form.before + form.too_long + after, own=own)
    assert seen.outcome == Outcome(Kind.NEUTRAL, "context_too_long", Then.HAND_OVER, 200)
    assert (seen.forwarded, seen.told) == (form.before, form.too_long + after)
    assert seen.raises is (form.raises)
    watch = watch_of(form.call, SSE, own=own)
    watch.feed(form.before + form.too_long)
    assert watch.feed(after + BROKEN) == watching.Piece(after + BROKEN)
    assert watch.judge_end() == seen.outcome


@forms
def test_an_error_after_content(form: Form) -> None:
    """The stream is broken; what was said before it goes on."""
    data = form.before + form.words[0]
    seen = check(form, data + form.overloaded + form.end)
    assert (seen.outcome, seen.forwarded, seen.broken) == (judging.STREAM_ERROR, data, True)
    assert seen.told == form.overloaded + form.end


@forms
def test_a_finish_reason_that_is_an_error(form: Form) -> None:
    """It is a failure before content and after it."""
    assert check(form, form.before + form.broken + form.end).outcome == BAD
    seen = check(form, form.before + form.words[0] + form.broken + form.end)
    assert (seen.outcome, seen.broken) == (judging.STREAM_ERROR, True)


@forms
def test_cut(form: Form) -> None:
    """Before content it is no answer; after content it is cut off, and never whole."""
    whole = form.before + form.words[0] + form.words[1]
    for at in range(1, len(whole) + 1):
        watch = watch_of(form.call, SSE)
        seen = see(watch, [whole[:at]])
        assert seen.outcome is not None
        begun = watch.begun
        assert (seen.outcome.kind, seen.outcome.reason) == (Kind.FAILURE, "truncated" if begun else "bad_response")
        word = len(form.before + form.words[0])
        assert begun is (at >= word) or word - 2 <= at < word  # it lacks but its blank line
        assert whole.startswith(seen.forwarded)


@forms
def test_no_terminal_event(form: Form) -> None:
    """An answer that says why it stopped is whole without it; one that says nothing is cut."""
    reasons = form.end if form is GEMINI else form.end.split(b"\n\n")[0] + b"\n\n"
    assert check(form, form.before + form.words[0] + reasons).outcome == OK
    seen = check(form, form.before + form.words[0])
    assert seen.outcome == judging.TRUNCATED


@forms
def test_malformed_amid(form: Form) -> None:
    """An event that no SDK could read is left out of a good stream, and nothing else."""
    start, end = form.before + form.words[0], form.words[1] + form.end
    seen = check(form, start + BROKEN + end)
    assert (seen.outcome, seen.forwarded, seen.dropped) == (OK, start + end, 1)


@forms
def test_malformed_in_a_tool_call(form: Form) -> None:
    """Half an argument must not be run: inside a tool call a broken event breaks the stream."""
    data = form.before + form.words[0] + form.tool[0] + form.tool[1]
    seen = check(form, data + BROKEN + form.end)
    assert (seen.outcome, seen.forwarded, seen.broken) == (judging.STREAM_ERROR, data, True)


@pytest.mark.parametrize("form", [CHAT, MESSAGES], ids=lambda f: f.call.operation)
def test_a_tool_call_that_lost_its_beginning(form: Form) -> None:
    """Where the broken event may have begun it, the rest of a tool call breaks the stream."""
    data = form.before + form.words[0]
    seen = check(form, data + BROKEN + form.tool[1] + form.end)
    assert (seen.outcome, seen.forwarded, seen.dropped) == (judging.STREAM_ERROR, data, 1)


@forms
def test_odd_json_that_the_sdks_read(form: Form) -> None:
    """NaN, Infinity, a lone surrogate, bytes that are no UTF-8, a doubled key: nothing is left out."""
    for odd in (b"NaN", b"-Infinity", b'"\\ud83d"', b'"\xff"', b"1e999", b"9" * 400, b'"\x01"', b'1,"odd":2'):
        word = form.words[0].replace(b"data: {", b'data: {"odd":' + odd + b",")
        data = form.before + word + form.words[1] + form.end
        for parts in few_cuts(data):
            seen = see(watch_of(form.call, SSE), parts)
            assert (seen.outcome, seen.forwarded, seen.dropped) == (OK, data, 0), odd


@forms
def test_a_huge_event(form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is too long to be read goes on as it comes, before content and after it, and is no failure."""
    monkeypatch.setattr(watching, "MAX_EVENT_BYTES", 250)
    huge = form.words[0].replace(b"one ", b"o" * 300)
    for start, outcome in ((b"", UNREAD), (form.words[0], OK)):
        data = start + huge + form.end
        for at in (len(data), 300, 40, 7):
            parts = [data[i : i + at] for i in range(0, len(data), at)]
            seen = see(watch_of(form.call, SSE), parts)
            assert (seen.forwarded, seen.dropped) == (data, 0)
            assert seen.outcome in ((outcome, OK) if at >= 300 else (outcome,))


def test_a_long_event_that_is_read() -> None:
    """An image of 20 MB is an event like any other."""
    image = {"type": "response.image_generation_call.partial_image", "partial_image_b64": "A" * (20 << 20)}
    data = RESPONSES.before + named(image) + RESPONSES.end
    watch = watch_of(RESPONSES.call, SSE)
    seen = see(watch, [data[i : i + (1 << 20)] for i in range(0, len(data), 1 << 20)])
    assert (seen.forwarded == data, seen.outcome, watch.unread) == (True, OK, False)


@forms
def test_what_is_not_read(form: Form) -> None:
    """Another encoding, character set or form goes on as it comes, at once, with a verdict that is neither."""
    good = form.before + form.words[0] + form.end
    for data, content_type, encoding in (
        (good, SSE, "rot13"),
        (good.decode().encode("utf-16"), SSE, ""),
        (b'{"a": 1}\n{"b": 2}\n', "application/jsonl", ""),
    ):
        if form is GEMINI and "jsonl" in content_type:
            continue  # begins as its other form
        watch = watch_of(form.call, content_type, encoding=encoding)
        piece = watch.feed(data)
        assert piece.forward == data
        assert watch.shape is Shape.OPAQUE or piece.content
        assert watch.opening == watch.judge_end() == UNREAD


@forms
def test_words_in_place_of_a_stream(form: Form) -> None:
    """A text that is no page, no JSON and no stream is held to its end, then passed on unread."""
    seen = check(form, b"Come back tomorrow.", content_type="text/plain")
    assert (seen.outcome, seen.forwarded) == (UNREAD, b"Come back tomorrow.")


# --- whole answers

CHAT_BODY = {"id": "c", "choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}]}
RESPONSE_BODY = {"id": "r", "status": "completed", "output": [{"type": "message"}]}
MESSAGE_BODY = {"type": "message", "content": [{"type": "text", "text": "a"}], "stop_reason": "end_turn"}
GEMINI_BODY = {"candidates": [{"content": {"parts": [{"text": "a"}]}, "finishReason": "STOP"}]}
WHOLE = [
    (Call("openai", "chat/completions", "m", stream=False), CHAT_BODY),
    (Call("openai", "responses", "m", stream=False), RESPONSE_BODY),
    (Call("anthropic", "messages", "m", stream=False), MESSAGE_BODY),
    (Call("gemini", "generateContent", "m", stream=False), GEMINI_BODY),
]
whole = pytest.mark.parametrize(("call", "body"), WHOLE, ids=[w[0].operation for w in WHOLE])


def judged(call: Call, data: bytes, content_type: str | None = JSON, *, own: bool = True, **headers: str) -> Outcome:
    seen = see(watch_of(call, content_type, own=own, status=200, encoding="", **headers), [data[:7], data[7:]])
    assert seen.forwarded == data
    assert seen.outcome is not None
    return seen.outcome


@whole
def test_whole_answers_in_odd_forms(call: Call, body: dict[str, Any]) -> None:
    """What the SDKs can read is an answer, whatever it calls itself."""
    good = json.dumps(body).encode()
    for data, content_type in (
        (good, JSON),
        (good, "text/html"),
        (good, None),
        (b"\xef\xbb\xbf" + good, JSON),
        (b"\n \n" + good, JSON),
        (json.dumps(body).encode("utf-16"), JSON),
        (json.dumps({**body, "x": "é"}, ensure_ascii=False).encode("latin-1"), "application/json; charset=iso-8859-1"),
        (b'{"odd": [NaN, Infinity, -Infinity, 1e999], ' + good[1:], JSON),
        (b'{"odd": "\\ud83d", ' + good[1:], JSON),
    ):
        assert judged(call, data, content_type) == OK, (data, content_type)


@whole
def test_whole_answers_that_are_none(call: Call, body: dict[str, Any]) -> None:
    """Nothing, a page, broken JSON, JSON of another kind, an empty frame, an error."""
    for data in (
        *(
            b"",
            b"  \n",
            b"<html>x</html>",
            b"\xef\xbb\xbf<!doctype html>",
            json.dumps(body).encode()[:-1],
            b"[]",
            b"{}",
        ),
        *(b"null", b'{"id": "x"}', b'{"code": 500, "msg": "404 NOT_FOUND", "success": false}'),
        b'{"error": {"message": "The server had an error", "type": "server_error"}}',
    ):
        assert judged(call, data) == BAD, data
    assert judged(call, b"The page you want is not here", "text/html") == BAD


@whole
def test_whole_answers_that_are_not_read(call: Call, body: dict[str, Any]) -> None:
    """Another type, another character set, another encoding: neither good nor bad."""
    assert judged(call, b"words", "text/plain") == UNREAD
    assert judged(call, b"\x81\x82", "application/json; charset=x-unknown") == UNREAD
    assert judged(call, json.dumps(body).encode(), content_encoding="rot13") == UNREAD


@whole
def test_the_other_form(call: Call, body: dict[str, Any]) -> None:
    """A whole answer for a stream, and a stream for a whole answer, go to the next provider and blame none."""
    good = json.dumps(body).encode()
    asked = {"generateContent": "streamGenerateContent"}.get(call.operation, call.operation)
    streamed = Call(call.dialect, asked, "m", stream=True)
    other = judging.OTHER_FORM
    # Google's SDK reads one object in place of a stream.
    assert judged(streamed, good) == (OK if call.dialect == "gemini" else other)
    form = next(f for f in FORMS if f.call.operation == asked)
    assert judged(call, form.before + form.words[0] + form.end, SSE) == other
    assert judged(call, form.before + form.end.split(b"\n\n")[0][:9], SSE) == BAD
    assert judged(call, form.before + form.too_long, SSE).then is Then.HAND_OVER


def test_a_request_that_could_not_be_read() -> None:
    """Whether it asked for a stream is not known: what calls itself one is one."""
    call = Call("openai", "chat/completions", None, stream=False)
    data = CHAT.before + CHAT.words[0] + CHAT.end
    seen = see(watch_of(call, SSE), [data[:99], data[99:]])
    assert (seen.outcome, seen.begun_at is not None) == (OK, True)


def test_a_whisper_that_streams() -> None:
    """At OpenAI its models answer whole, at vLLM they do as they are asked: either is the answer."""
    call = Call("openai", "audio/transcriptions", "whisper-large-v3", stream=False)
    chunk = b'data: {"object":"transcription.chunk","choices":[{"delta":{"content":"Hi"}}]}\n\n'
    seen = see(watch_of(call, SSE), [chunk, b"data: [DONE]\n\n"])
    assert (seen.outcome, seen.begun_at is not None) == (OK, True)
    assert judged(call, b'{"text":"Hi"}') == OK


def choices(**choice: Any) -> dict[str, Any]:
    return {"choices": [choice], "usage": {"completion_tokens": 1}}


@pytest.mark.parametrize(
    ("number", "body", "good"),
    [
        (0, {"choices": None}, False),
        (0, {"choices": [None]}, False),
        (0, choices(message=None, finish_reason="stop"), False),
        (0, choices(finish_reason="stop"), False),
        (0, choices(message={"content": None}, finish_reason=None), False),
        (0, choices(message={"content": ""}, finish_reason="stop"), True),
        (0, {**choices(message={"content": ""}, finish_reason="stop"), "usage": {"completion_tokens": 0}}, False),
        (0, {**choices(message={"content": ""}, finish_reason="length"), "usage": {"completion_tokens": 0}}, True),
        (0, choices(message={"content": None, "tool_calls": [{"id": "t"}]}, finish_reason=None), True),
        (0, choices(message={"content": "half"}, finish_reason="network_error"), False),
        (0, choices(message={"content": "half"}, finish_reason="insufficient_system_resource"), False),
        (1, {"status": "completed", "output": None}, False),
        (1, {"status": "completed", "output": []}, False),
        (1, {"status": "completed", "output": [], "usage": {"output_tokens": 3}}, True),
        (1, {"status": "incomplete", "output": [], "incomplete_details": {"reason": "content_filter"}}, True),
        (1, {"status": "queued", "output": []}, True),
        (2, {"content": None, "stop_reason": "end_turn"}, False),
        (2, {"content": [], "stop_reason": None}, False),
        (2, {"content": [], "stop_reason": "end_turn", "usage": {"output_tokens": 2}}, True),
        (2, {"content": [], "stop_reason": "end_turn", "usage": {"output_tokens": 0}}, False),
        (2, {"content": [], "stop_reason": "max_tokens", "usage": {"output_tokens": 0}}, True),
        (2, {"content": [{"type": "text", "text": "half"}], "stop_reason": "error"}, False),
        (3, {"candidates": []}, False),
        (3, {"candidates": [], "promptFeedback": {"blockReason": "SAFETY"}}, True),
        (3, {"candidates": [{"content": {"role": "model"}}]}, False),
        (3, {"candidates": [{"finishReason": "STOP"}], "usageMetadata": {"promptTokenCount": 1}}, False),
        (3, {"candidates": [{"finishReason": "STOP"}], "usageMetadata": {"thoughtsTokenCount": 1}}, True),
        (3, {"candidates": [{"finishReason": "MAX_TOKENS"}], "usageMetadata": {"promptTokenCount": 1}}, True),
        (3, {"candidates": [{"finishReason": "OTHER"}]}, True),
    ],
)
def test_frames(number: int, body: dict[str, Any], good: bool) -> None:
    """A frame is an answer if it says something, or why it does not, and its own counts do not deny it."""
    assert judged(WHOLE[number][0], json.dumps(body).encode()) == (OK if good else BAD)


def test_a_tool_call_that_the_model_spoiled() -> None:
    """Google says that it is the model's doing: the next provider is asked, and none is blamed; after content it is an
    end like any other."""
    spoiled = {"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}]}
    expected = Outcome(Kind.NEUTRAL, "bad_output", Then.NEXT, 200)
    assert judged(WHOLE[3][0], json.dumps(spoiled).encode()) == expected
    assert check(GEMINI, sse(spoiled)).outcome == expected
    assert check(GEMINI, GEMINI.words[0] + sse(spoiled)).outcome == OK


# --- heads

ASKED = Call("openai", "chat/completions", "m", stream=False)
SPOKEN = Call("openai", "audio/speech", "m", stream=False)
HEARD = Call("openai", "audio/transcriptions", "m", stream=False)


@pytest.mark.parametrize(
    ("call", "status", "kind", "encoding", "shape"),
    [
        *((CHAT.call, status, SSE, "", Shape.OPAQUE) for status in (100, 101, 199, 300, 302, 399)),
        *((CHAT.call, status, SSE, "", Shape.STREAM) for status in (200, 201, 299)),
        *((CHAT.call, status, SSE, "rot13", Shape.ERROR) for status in (400, 404, 500, 599)),
        (CHAT.call, 200, SSE, "rot13", Shape.OPAQUE),
        (CHAT.call, 200, SSE, " GZIP ", Shape.STREAM),
        (CHAT.call, 200, JSON, "", Shape.STREAM),
        *((CHAT.call, 200, kind, "", Shape.FLOWING) for kind in ("audio/mpeg", "Video/mp4", "image/png; x=y")),
        (ASKED, 200, SSE, "", Shape.WHOLE),
        (ASKED, 200, "image/png", "", Shape.FLOWING),
        (ASKED, 200, "application/octet-stream", "", Shape.WHOLE),
        (Call("openai", "chat/completions", None, stream=False), 200, SSE, "", Shape.STREAM),
        (Call("openai", "chat/completions", None, stream=False), 200, JSON, "", Shape.WHOLE),
        (SPOKEN, 200, JSON, "", Shape.FLOWING),
        (HEARD, 200, JSON, "", Shape.WHOLE),
        (HEARD, 200, "application/octet-stream", "", Shape.FLOWING),
    ],
)
def test_how_an_answer_is_read(call: Call, status: int, kind: str, encoding: str, shape: Shape) -> None:
    """As its head says it: by its status, by what was asked for, by its type."""
    watch = watch_of(call, kind, status=status, encoding=encoding)
    assert watch.shape is shape
    assert watch.unread is (shape is Shape.OPAQUE and status == 200)


@pytest.mark.parametrize("status", [101, 204, 302])
@pytest.mark.parametrize("own", [True, False])
def test_what_only_its_head_tells(status: int, own: bool) -> None:
    """A redirection is the app's own provider's to make, and no other's."""
    watch = watch_of(CHAT.call, None, own=own, status=status)
    watch.feed(b"")
    watch.rest()
    good = status == 101 or (status == 302 and own)
    assert watch.judge_end() == (
        Outcome(Kind.SUCCESS, "ok", status=status) if good else judging.judge_no_answer(status)
    )


@pytest.mark.parametrize(
    ("name", "tells"),
    [
        ("x-ratelimit-remaining-requests", True),
        ("X-RateLimit-Reset", True),
        ("ratelimit", True),
        ("anthropic-ratelimit-tokens-reset", True),
        ("X-Codex-primary-used-percent", True),
        ("x-codec-primary", False),
        ("retry-after", False),
        ("", False),
    ],
)
@pytest.mark.parametrize("beside", ["x-request-id", "x-ratelimit-limit-tokens"])
def test_whether_a_head_speaks_of_limits(name: str, tells: bool, beside: str) -> None:
    """Any of its fields may, in whatever letters."""
    fields = ((name.encode(), b"1"), (beside.encode(), b"1"), (b"CONTENT-TYPE", SSE.encode()))
    watch = Watch(
        DIALECTS["openai"],
        CHAT.call,
        own_provider=True,
        own_credential=True,
        status=200,
        fields=(*fields, (b"Content-Lengths", b"9"), (b"content-lengtH", b"7"), (b"Content-Typo", b"x/y")),
        wall_now=NOW,
    )
    assert watch.tells_limits is (tells or "ratelimit" in beside)
    assert watch.announced == b"7"
    assert watch.shape is Shape.STREAM


def test_a_field_that_is_too_long_to_tell_anything() -> None:
    """It is as good as none."""
    watch = watch_of(CHAT.call, JSON, status=429, X_Some="a" * 1_024, X_More="b" * 1_025)
    assert watch.headers == {"content-type": JSON, "x-some": "a" * 1_024}


def test_what_is_skimmed() -> None:
    """Events of an answer that has begun, as it is: not before, and not in an encoding."""
    watch = watch_of(CHAT.call, SSE)
    assert not watch.skimmable
    watch.feed(CHAT.before)
    assert not watch.skimmable
    watch.feed(CHAT.words[0])
    assert watch.skimmable
    assert watch.skim(CHAT.words[1])
    assert not watch.skim(CHAT.words[1][:-1]), "half an event"
    packed = watch_of(CHAT.call, SSE, encoding="gzip")
    packed.feed(gzip.compress(CHAT.before + CHAT.words[0]))
    assert packed.begun
    assert not packed.skimmable


@pytest.mark.parametrize("call", [CHAT.call, MESSAGES.call, GEMINI.call], ids=lambda c: c.dialect)
@pytest.mark.parametrize("body", [b"", b"\n", b"da", b"\xef\xbb"])
def test_what_ends_before_it_shows_what_it_is(call: Call, body: bytes) -> None:
    """It is no stream that broke off, but a document: judged whole, and none of its bytes are lost."""
    watch = watch_of(call, SSE)
    assert watch.feed(body).forward == b""
    assert watch.rest().forward == body
    assert (watch.shape, watch.judge_end()) == (Shape.WHOLE, BAD)


# --- errors


def test_how_long_an_error_lasts() -> None:
    """It is told by headers, by the body, and in a stream by the words of the error."""
    limit = b'{"error": {"message": "Please try again in 7m12s.", "code": "rate_limit_exceeded"}}'
    for status, form in ((429, limit), (200, limit)):
        watch = watch_of(WHOLE[0][0], JSON, status=status)
        watch.feed(form)
        assert watch.judge_end() == Outcome(Kind.COOLDOWN, "rate_limit", Then.WAIT, status, 432.0)
    watch = watch_of(CHAT.call, SSE)
    piece = watch.feed(b"data: " + limit + b"\n\n")
    assert piece.error is not None
    assert watch.judge_error_event(piece.error).cooldown_seconds == 432.0
    watch = watch_of(WHOLE[0][0], JSON, status=429, retry_after="9")
    watch.feed(limit)
    assert watch.judge_end().cooldown_seconds == 9.0


@pytest.mark.parametrize("encoding", ["gzip", "rot13"])
def test_an_error_in_any_encoding(encoding: str) -> None:
    """Its status says enough where its words cannot be read."""
    body = b'{"error": {"message": "x", "code": "insufficient_quota"}}'
    watch = watch_of(CHAT.call, JSON, status=429, encoding=encoding)
    watch.feed(gzip.compress(body) if encoding == "gzip" else body)
    assert watch.judge_end().reason in ("quota", "rate_limit")
    assert watch.judge_end().kind is Kind.COOLDOWN


@pytest.mark.parametrize(("size", "reason"), [(1 << 20, "lacks"), ((1 << 20) + 1, "client_error")])
def test_an_error_that_is_too_long_to_read(size: int, reason: str) -> None:
    """Of one that says nothing in its first megabyte and goes on, the status alone decides."""
    seen = see(watch_of(CHAT.call, JSON, own=False, status=400), [b" " * size])
    assert seen.outcome == Outcome(Kind.NEUTRAL, reason, REASONS[reason], 400)


REASONS = {"lacks": Then.NEXT, "client_error": Then.HAND_OVER}


@pytest.mark.parametrize(
    ("body", "shape", "outcome"),
    [
        (b"\xff\xfb\x90", Shape.FLOWING, judging.SUCCESS),
        (b"<\x00\x01", Shape.FLOWING, judging.SUCCESS),
        (b"<!DOCTYPE html><p>sign in", Shape.WHOLE, judging.judge_no_answer(200)),
        (b'\n{"error": {"message": "internal error"}}', Shape.WHOLE, judging.judge_no_answer(200)),
        (b'data: {"type":"speech.audio.delta","audio":"x"}\n\n', Shape.WHOLE, judging.OTHER_FORM),
    ],
)
@pytest.mark.parametrize("kind", ["audio/mpeg", JSON, "text/html", None])
def test_what_comes_as_sound(kind: str | None, body: bytes, shape: Shape, outcome: Outcome) -> None:
    """Whatever it calls itself: a page or an error is held back, sound flows from its first byte on."""
    watch = watch_of(Call("openai", "audio/speech", "m", stream=False), kind)
    seen = see(watch, [body, b""])
    assert (watch.shape, seen.outcome) == (shape, outcome)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "gave an empty answer"),
        (b" \n", "gave an empty answer"),
        (b"<!DOCTYPE html><p>sign in", "gave a web page in place of an answer"),
        (b'{"choices": []}', "gave no answer in its 200"),
    ],
)
def test_what_came_in_place_of_an_answer_is_told(body: bytes, words: str) -> None:
    seen = see(watch_of(Call("openai", "chat/completions", "m", stream=False), JSON), [body, b""])
    assert seen.outcome == judging.judge_no_answer(200)
    assert seen.outcome.words == words


def _long_stream(words: bytes) -> bytes:
    return b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\ndata: {"choices":[{"index":0,"delta":' + words


DRAWN = b'{"content":"' + b"x" * 200_000
TALK = Call("openai", "chat/completions", "m", stream=True)


@pytest.mark.parametrize("size", [1_000, 70_000, 199_000])
@pytest.mark.parametrize("dialect", ["openai", "gemini"])
def test_a_long_event_goes_on_as_it_comes(size: int, dialect: str) -> None:
    """Amid an answer, byte for byte, and it is read all the same; a short one is kept to its end."""
    call, kind, data, last = TALK, SSE, _long_stream(DRAWN + b'"}}]}\n\n'), b"data: [DONE]\n\n"
    if dialect == "gemini":
        call, kind = Call("gemini", "streamGenerateContent", "m", stream=True), JSON
        part = b'{"candidates":[{"content":{"parts":[{"text":"%s"}]}}]}'
        data, last = b"[" + part % b"a" + b"," + part % (b"x" * 200_000), b',{"candidates":[{"finishReason":"STOP"}]}]'
    watch = watch_of(call, kind)
    at = data.index(b"xx") + size
    first = watch.feed(data[:at])
    assert len(first.forward) == (
        at if size > 64 << 10 else data.index(b"data", 9) if call is TALK else data.index(b",{")
    )
    assert first.content
    then = watch.feed(data[at:])
    assert first.forward + then.forward == data
    end = watch.feed(last)
    assert (end.forward, watch.rest().forward, watch.judge_end()) == (last, b"", judging.SUCCESS)


@pytest.mark.parametrize(
    ("rest", "error", "dropped"), [(b"}\n\n", False, 0), (b'"}}],"error":{"message":"m"}}\n\n', True, 0)]
)
def test_a_long_event_that_turns_out_bad(rest: bytes, error: bool, dropped: int) -> None:
    """Half of it is with the app, so that the other half goes there too."""
    watch = watch_of(TALK, SSE)
    data = _long_stream(DRAWN)
    given = watch.feed(data).forward
    assert given == data
    piece = watch.feed(rest)
    assert (piece.forward + piece.told, piece.error is not None, piece.raises, piece.dropped) == (
        rest,
        error,
        error,
        dropped,
    )


def test_a_long_event_that_is_cut() -> None:
    """Nothing valid can follow a half: the wire is cut."""
    for call, kind, start in ((TALK, SSE, _long_stream(DRAWN)), (LISTED, JSON, OPENED + b"x" * 200_000)):
        watch = watch_of(call, kind)
        assert watch.feed(start).forward == start
        assert watch.error_event(ErrorKind.SERVER, "cut") == b""
        assert watch.rest().forward == b""
        assert watch.error_event(ErrorKind.SERVER, "cut") == b""


LISTED = Call("gemini", "streamGenerateContent", "m", stream=True)
OPENED = b'[{"candidates":[{"content":{"parts":[{"text":"a"}]}}]},{"candidates":[{"content":{"parts":[{"text":"'


def test_an_array_may_begin_with_a_byte_order_mark() -> None:
    """As any document may."""
    call = Call("gemini", "streamGenerateContent", "m", stream=True)
    body = b"\xef\xbb\xbf" + corpus.stream("gemini.streamGenerateContent.stream.json")
    for parts in few_cuts(body):
        seen = see(watch_of(call, JSON), parts)
        assert (seen.forwarded, seen.outcome) == (body, judging.SUCCESS)
