"""How much is read of an answer, in time and in memory; what is not read goes on byte for byte."""

from __future__ import annotations

import gzip
import json
import time
import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from sidestep.breaker import judging
from sidestep.breaker.outcomes import Kind, Outcome
from sidestep.calls.holding import Do, Holding
from sidestep.calls.watching import WORK_A_SECOND, WORK_AT_ONCE, Shape, Watch
from sidestep.config.settings import TimeoutSettings
from sidestep.dialects import DIALECTS
from sidestep.dialects.base import Call

SSE, JSON = "text/event-stream", "application/json"
CHAT = b'data: {"choices":[{"index":0,"delta":{"content":"hello"}}]}\n\n'
CHAT_END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
MESSAGE = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"text":"hi"}}\n\n'
ELEMENT = b'{"candidates":[{"content":{"parts":[{"text":"hello"}],"role":"model"},"index":0}]},\r\n'
CALLS = {
    "openai": Call("openai", "chat/completions", "m", stream=True),
    "anthropic": Call("anthropic", "messages", "m", stream=True),
    "gemini": Call("gemini", "streamGenerateContent", "m", stream=True),
}


def watch_of(
    dialect: str = "openai",
    kind: str = SSE,
    *,
    stream: bool = True,
    status: int = 200,
    operation: str = "",
    **more: str,
) -> Watch:
    call = CALLS[dialect]
    if operation or not stream:
        call = Call(dialect, operation or call.operation, "m", stream=stream)
    fields = {"content-type": kind, **{name.replace("_", "-"): value for name, value in more.items()}}
    return Watch(
        DIALECTS[dialect],
        call,
        own_provider=False,
        own_credential=False,
        status=status,
        fields=tuple((name.encode(), value.encode()) for name, value in fields.items()),
        wall_now=0.0,
    )


def passed_on(watch: Watch, data: bytes, size: int = 60_000, seconds: float = 0.0) -> tuple[bytes, Outcome, float]:
    """What goes on of an answer that comes in so many seconds, its outcome, and the processor's seconds it took."""
    holding = Holding(watch, TimeoutSettings(), complete=False, hold_bytes=10 << 20, now=100.0)
    steps = [holding.begin()]
    began = time.process_time()
    for at in range(0, len(data), size):
        steps.append(holding.feed(data[at : at + size], 100.0 + seconds * at / len(data)))
    steps.append(holding.end(100.0 + seconds))
    spent = time.process_time() - began
    outcome = next(step.outcome for step in reversed(steps) if step.outcome is not None)
    return b"".join(step.data for step in steps), outcome, spent


# --- streams

FAST: dict[str, tuple[str, bytes, bytes]] = {
    "comments": ("openai", CHAT, b":\n\n" * 1_000_000),
    "blank lines": ("openai", CHAT, b"\n" * 3_000_000),
    "blank lines of CRs": ("openai", CHAT, b"\r" * 3_000_000),
    "blank lines of CRLFs": ("openai", CHAT, b"\r\n" * 1_500_000),
    "empty data": ("openai", CHAT, b"data\n\n" * 500_000),
    "empty objects": ("openai", CHAT, b"data: {}\n\n" * 300_000),
    "lines of one event": ("openai", CHAT, b"data:\n" * 500_000 + b"\n"),
    "lines of one event by CR": ("openai", CHAT, b"data:\r" * 500_000 + b"\r"),
    "no JSON": ("openai", CHAT, b"data: {no\n\n" * 300_000),
    "nearly JSON": ("openai", CHAT, b'data: {"x": NaN}\n\n' * 200_000),
    "events of lists": ("openai", CHAT, (b'data: {"choices":[{"delta":{"x":[' + b"[]," * 3000 + b"[]]}}]}\n\n") * 300),
    "one event of lists": ("openai", CHAT, b'data: {"choices":[{"delta":{"x":[' + b"[]," * 1_000_000 + b"[]]}}]}\n\n"),
    "one event of numbers": (
        "openai",
        CHAT,
        b'data: {"choices":[{"delta":{"x":[NaN' + b",1" * 1_500_000 + b"]}}]}\n\n",
    ),
    "ordinary events": ("openai", CHAT, CHAT * 50_000),
    "Claude's events": ("anthropic", MESSAGE, MESSAGE * 30_000),
    "Claude's pings": ("anthropic", MESSAGE, b"event: ping\ndata: {}\n\n" * 150_000),
    "objects in an array": ("gemini", b"[" + ELEMENT, b"{},\n" * 750_000 + b"{}]"),
    "brackets": ("gemini", b"[" + ELEMENT, b"[" * 1_500_000 + b"]" * 1_500_000 + b"]"),
    "texts in an array": ("gemini", b"[" + ELEMENT, b'{"a":[' + b'"\\"",' * 500_000 + b'""]}]'),
    "ordinary elements": ("gemini", b"[" + ELEMENT, ELEMENT * 35_000 + ELEMENT.replace(b",\r\n", b"]")),
}


@pytest.mark.parametrize(("size", "encoding"), [(60_000, ""), (60_000, "gzip"), (8 << 20, "")])
@pytest.mark.parametrize("name", FAST)
def test_a_stream_that_comes_faster_than_any_model_speaks(name: str, size: int, encoding: str) -> None:
    """It is read for a while, then passed on as it is: it takes a few times the time and the memory that its bytes do,
    and it is no failure."""
    dialect, first, rest = FAST[name]
    kind = JSON if dialect == "gemini" else SSE
    data = first + rest
    # Compressed in a way that is not suspicious by itself.
    packed = gzip.compress(data, 0) if encoding else data
    tracemalloc.start()
    try:
        got, outcome, spent = passed_on(watch_of(dialect, kind, content_encoding=encoding), packed, size)
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()
    assert len(packed) - len(got) < 200_000, "events that no SDK could read may be left out"
    assert outcome.kind is not Kind.FAILURE
    assert spent < 2


def test_all_of_a_stream_is_read_that_a_model_may_speak() -> None:
    """However long it is, and whichever way: that it breaks off is still seen after a hundred thousand events."""
    ways = (("openai", CHAT, 1), ("anthropic", MESSAGE, 10), ("gemini", b"data: " + ELEMENT[:-3] + b"\n\n", 500))
    for dialect, event, at_once in ways:
        watch = watch_of(dialect)
        seconds = 2 * 100_000 / WORK_A_SECOND
        holding = Holding(watch, TimeoutSettings(), complete=False, hold_bytes=10 << 20, now=0.0)
        holding.begin()
        for count in range(0, 100_000, at_once):
            piece = event * at_once
            if not (holding.skimmable and watch.skim(piece)):
                holding.feed(piece, seconds * count / 100_000)
        assert watch.shape is Shape.STREAM
        assert holding.end(seconds).do is Do.BREAK


@pytest.mark.parametrize(("count", "read"), [(WORK_AT_ONCE * 2 // 3, True), (WORK_AT_ONCE * 3 // 2, False)])
def test_so_many_events_are_read_at_once(count: int, read: bool) -> None:
    """What a proxy has kept, or a test gives, comes all at the same time."""
    watch = watch_of()
    holding = Holding(watch, TimeoutSettings(), complete=False, hold_bytes=100 << 20, now=0.0)
    holding.begin()
    holding.feed(CHAT * 10, 0.0)
    for piece in (CHAT * 400,) * ((count - 10) // 400):
        holding.feed(piece, 0.0)
    assert (watch.shape is Shape.STREAM) is read
    assert holding.end(0.0).do is (Do.BREAK if read else Do.FORWARD)


@pytest.mark.parametrize("hold_bytes", [1 << 20, 100 << 20])
def test_a_stream_that_is_held_whole_and_unpacked_goes_on_unpacked(hold_bytes: int) -> None:
    """Also where it is not read to its end: what the app gets is in one encoding from its beginning."""
    data = CHAT * 30_000 + CHAT_END
    packed = gzip.compress(data, 0)
    watch = Watch(
        DIALECTS["openai"],
        CALLS["openai"],
        own_provider=False,
        own_credential=False,
        status=200,
        fields=((b"content-type", SSE.encode()), (b"content-encoding", b"gzip")),
        wall_now=0.0,
        unwrap=True,
    )
    holding = Holding(watch, TimeoutSettings(), complete=True, hold_bytes=hold_bytes, now=0.0)
    steps = [holding.begin()]
    steps += [holding.feed(packed[at : at + 60_000], 0.0) for at in range(0, len(packed), 60_000)]
    steps.append(holding.end(0.0))
    assert b"".join(step.data for step in steps) == data
    assert watch.unwraps
    assert [step.do for step in steps].count(Do.RELEASE) == 1


# --- whole answers


def _logprobs(values: int) -> Iterator[dict[str, object]]:
    for i in range(values // 7):
        yield {"token": f"t{i}", "logprob": -0.5, "bytes": [1, 2, 3]}


GOOD: dict[str, tuple[str, str, dict[str, object]]] = {
    "logprobs": (
        "openai",
        "chat/completions",
        {"choices": [{"message": {"content": "hi"}, "logprobs": list(_logprobs(300_000))}]},
    ),
    "vectors": ("openai", "embeddings", {"data": [{"embedding": [0.5] * 1000}] * 300}),
    "words": ("openai", "audio/transcriptions", {"text": "hi", "words": [{"word": "a", "start": 1}] * 100_000}),
    "ranks": ("openai", "rerank", {"results": [{"index": 1, "relevance_score": 0.5}] * 100_000}),
    "a response": ("openai", "responses", {"output": [{"type": "message", "content": [{"x": [1] * 200_000}]}]}),
    "a message": ("anthropic", "messages", {"content": [{"type": "tool_use", "input": {"x": [1] * 200_000}}]}),
    "candidates": ("gemini", "generateContent", {"candidates": [{"content": {"parts": [{"x": [1] * 200_000}]}}]}),
    "Gemini's vectors": ("gemini", "batchEmbedContents", {"embeddings": [{"values": [0.5] * 1000}] * 300}),
}


@pytest.mark.parametrize("name", GOOD)
def test_an_answer_of_long_lists_is_good(name: str) -> None:
    """It is looked at from outside: what it holds, which model made it, what it cost. Without its list, or with an
    error, it is none."""
    dialect, operation, body = GOOD[name]
    usage = {"prompt_tokens": 5, "completion_tokens": 6, "input_tokens": 5, "output_tokens": 6}
    told: dict[str, object] = {"usage": usage, "model": "m-1"}
    if dialect == "gemini":
        told = {"usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 6}, "modelVersion": "m-1"}

    def judged(**changes: object) -> tuple[Outcome, Watch]:
        watch = watch_of(dialect, JSON, stream=False, operation=operation)
        answer = json.dumps({**body, **told, **changes}).encode()
        _, outcome, spent = passed_on(watch, answer)
        assert spent < 2
        return outcome, watch

    outcome, watch = judged()
    assert (outcome.kind, watch.unread) == (Kind.SUCCESS, False)
    assert watch.usage is not None
    assert (watch.usage.input, watch.usage.output, watch.model) == (5, 6, "m-1")
    assert judged(error={"message": "out of order"})[0].kind is Kind.FAILURE
    assert judged(error=None)[0].kind is Kind.SUCCESS
    empty: tuple[object, ...] = ([], {}, None)
    for hollow in empty:
        lists = {key: hollow for key in body if key != "text"} | {"filler": [1] * 200_000}
        if name != "words":
            assert judged(**lists)[0].kind is Kind.FAILURE


def _crowd(frame: bytes, unit: bytes, size: int) -> bytes:
    return frame.replace(b"?", unit * (size // len(unit)))


@pytest.mark.parametrize(
    ("make", "outcome"),
    [
        (lambda: _crowd(b'{"choices":[{"message":{"content":[?[]]}}]}', b"[],", 9_000_000), Kind.SUCCESS),
        (lambda: _crowd(b'{"choices":[{"message":{?"z":1}}]}', b'"a":1,', 9_000_000), Kind.SUCCESS),
        (lambda: _crowd(b'{?"choices":[{"message":{"content":"x"}}]}', b'"a":1,', 9_000_000), Kind.SUCCESS),
        (lambda: _crowd(b'{"choices":[?[]]}', b"[],", 9_000_000), Kind.SUCCESS),
        (lambda: _crowd(b'{"choices":[{"message":{"content":[NaN,?1]}}]}', b"1,", 9_000_000), Kind.NEUTRAL),
        (lambda: _crowd(b'{"choices":[{"message":{"content":"?\x01"}}]}', b"a", 9_000_000), Kind.NEUTRAL),
        (lambda: _crowd(b'\xef\xbb\xbf{"choices":[{"message":{"content":"?"}}]}', b"a", 9_000_000), Kind.NEUTRAL),
        (lambda: _crowd(b"data: {}\n\n?", b":\n\n", 9_000_000), Kind.NEUTRAL),
        (lambda: _crowd(b"[?[]]", b"[],", 9_000_000), Kind.NEUTRAL),
        (lambda: b"[" * 9_000_000, Kind.NEUTRAL),
    ],
)
def test_a_document_that_holds_too_much_passes(make: Callable[[], bytes], outcome: Kind) -> None:
    """Byte for byte, in the time that its bytes take."""
    body = make()
    tracemalloc.start()
    try:
        got, judged, spent = passed_on(watch_of(kind=JSON, stream=False), body)
        assert tracemalloc.get_traced_memory()[1] < 8 * len(body)
    finally:
        tracemalloc.stop()
    assert (got == body, judged.kind) == (True, outcome)
    assert spent < 1.6


@pytest.mark.parametrize("status", [400, 401, 429, 500])
@pytest.mark.parametrize(
    "body",
    [
        b'{"error":[' + b"[]," * 300_000 + b"[]]}",
        b'{"error":{' + b'"a":1,' * 150_000 + b'"b":1}}',
        b'{"error":{"message":"' + b"{[" * 400_000 + b'"}}',
        b"[" * 1_000_000,
        b'{"error":{"message":"wait ' + b"1 " * 450_000 + b'"}}',
        b"try again in " * 70_000,
    ],
)
def test_an_error_that_holds_too_much_is_read_as_words(status: int, body: bytes) -> None:
    watch = watch_of(kind=JSON, stream=False, status=status)
    tracemalloc.start()
    try:
        watch.feed(body)
        outcome = watch.judge_end()
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()
    assert outcome.status == status
    watch = watch_of(kind=JSON, stream=False, status=status)
    watch.feed(body)
    began = time.process_time()
    watch.judge_end()
    assert time.process_time() - began < 0.2


@pytest.mark.parametrize("name", ["retry-after", "retry-after-ms", "x-ratelimit-reset-requests", "ratelimit"])
@pytest.mark.parametrize("unit", ["1 ", "1s", "Mon, ", '"a";r=0;t=1,'])
def test_a_long_header_tells_no_time(name: str, unit: str) -> None:
    """It is not looked into."""
    watch = watch_of(kind=JSON, stream=False, status=429, **{name: unit * 200_000})
    began = time.process_time()
    assert name not in watch.headers
    assert watch.judge_end().cooldown_seconds is None
    assert time.process_time() - began < 0.2


def test_what_was_said_before_is_still_known() -> None:
    """A stream that is no longer read keeps what was read of it."""
    watch = watch_of()
    watch.feed(b'data: {"model":"m-2","choices":[{"delta":{"content":"x"}}],"usage":{"prompt_tokens":3}}\n\n')
    watch.feed(b":\n\n" * 100_000)
    assert watch.shape is Shape.FLOWING
    assert (watch.model, watch.usage and watch.usage.input, watch.judge_end()) == ("m-2", 3, judging.SUCCESS)
