"""Answers in a content encoding, with a length, or too large to be read: what goes on of them, and what they count."""

from __future__ import annotations

import gzip
import zlib

import pytest

from sidestep.breaker import judging
from sidestep.breaker.outcomes import ErrorKind, Kind
from sidestep.calls.decoding import EncodingError
from sidestep.calls.watching import DECODED_AT_ONCE, Watch
from sidestep.dialects import DIALECTS
from sidestep.dialects.base import Call
from support import corpus

CHAT = Call("openai", "chat/completions", "m", stream=True)
WHOLE = Call("openai", "chat/completions", "m", stream=False)
STREAM = corpus.stream("openai.chat_completions.stream.sse")
SSE, JSON = "text/event-stream", "application/json"


def watch(call: Call, kind: str, *, encoding: str = "", unwrap: bool = False, length: int | None = None) -> Watch:
    fields = [(b"content-type", kind.encode())]
    if encoding:
        fields.append((b"content-encoding", encoding.encode()))
    if length is not None:
        fields.append((b"content-length", b"%d" % length))
    return Watch(
        DIALECTS["openai"],
        call,
        own_provider=True,
        own_credential=True,
        status=200,
        fields=tuple(fields),
        wall_now=0.0,
        unwrap=unwrap,
    )


@pytest.mark.parametrize(
    ("encoding", "unwrap", "length", "told"),
    [
        ("", False, None, (True, True, False)),
        ("", False, 9, (True, False, False)),
        ("identity", True, None, (True, True, False)),
        ("gzip", False, None, (False, False, False)),
        ("gzip", True, None, (True, True, True)),
    ],
)
def test_what_may_be_added_to_it(
    encoding: str, unwrap: bool, length: int | None, told: tuple[bool, bool, bool]
) -> None:
    """Plain, extensible by an event of ours, decoded on its way."""
    seen = watch(CHAT, SSE, encoding=encoding, unwrap=unwrap, length=length)
    assert (seen.plain, seen.extensible, seen.unwraps) == told


def test_a_compressed_stream_that_is_passed_on_decoded() -> None:
    seen = watch(CHAT, SSE, encoding="gzip", unwrap=True)
    packed = gzip.compress(STREAM)
    forwarded = b"".join(seen.feed(packed[i : i + 11]).forward for i in range(0, len(packed), 11))
    assert forwarded + seen.rest().forward == STREAM
    assert seen.judge_end() is judging.SUCCESS


def _inflating(size: int) -> bytes:
    """A content, and then a comment that becomes this long."""
    c = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    event = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"w"}}]}\n\n'
    return c.compress(event + b":" + b" " * size + b"\n\n") + c.flush()


def test_a_compressed_stream_that_becomes_too_much_goes_on_unread() -> None:
    """As it is, and neither good nor bad; decoded it cannot go on, and ends with an error."""
    packed = _inflating(DECODED_AT_ONCE + 1)
    seen = watch(CHAT, SSE, encoding="gzip")
    piece = seen.feed(packed)
    assert (piece.forward, piece.content, piece.error, seen.unread) == (packed, True, None, True)
    assert seen.judge_end() is judging.UNREAD
    decoded = watch(CHAT, SSE, encoding="gzip", unwrap=True)
    error = decoded.feed(packed).error
    assert error is not None
    assert error.kind is ErrorKind.SERVER


def test_what_follows_an_error_is_decoded_to_a_bound() -> None:
    """After the provider's error nothing is read; where it is passed on decoded, that has a bound all the same."""
    c = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    first = c.compress(b'data: {"error":{"message":"no","type":"invalid_request_error"}}\n\n')
    first += c.flush(zlib.Z_SYNC_FLUSH)
    after = c.compress(b": more\n\n") + c.flush(zlib.Z_SYNC_FLUSH)
    bomb = c.compress(b" " * (DECODED_AT_ONCE + 1)) + c.flush()
    seen = watch(CHAT, SSE, encoding="gzip", unwrap=True)
    assert seen.feed(first).error is not None
    assert seen.gave_up
    assert seen.feed(after).forward == b": more\n\n"
    with pytest.raises(EncodingError):
        seen.feed(bomb)


def test_an_event_that_no_sdk_could_read_leaves_its_length_behind() -> None:
    """Where a length was announced blank lines keep it, amid a stream and at its end."""
    broken = b"data: {broken\n\n"
    data = STREAM[: STREAM.index(b"\n\n") + 2] + broken + STREAM[STREAM.index(b"\n\n") + 2 :] + b"data: {cut"
    seen = watch(CHAT, SSE, length=len(data))
    piece = seen.feed(data)
    forwarded = piece.forward + seen.rest().forward
    assert (len(forwarded), piece.dropped) == (len(data), 1)
    assert forwarded.replace(b"\n", b"") == STREAM.replace(b"\n", b"")


def test_an_error_that_is_all_that_came_at_the_end() -> None:
    """A last event without its blank line is an event all the same."""
    seen = watch(CHAT, SSE)
    told = b'data: {"error":{"message":"it broke","type":"server_error"}}'
    seen.feed(told)
    rest = seen.rest()
    assert (rest.error is not None and rest.error.message, rest.told) == ("it broke", told)
    assert seen.judge_end().reason == "bad_response"


def test_the_event_that_ends_it_is_of_its_dialect() -> None:
    """Before it has begun as well: the reader of a stream knows where it stands, else the dialect does."""
    fresh, begun = watch(CHAT, SSE), watch(CHAT, SSE)
    begun.feed(STREAM[:200])
    for seen in (fresh, begun):
        assert b'"sidestep: gone"' in seen.error_event(ErrorKind.SERVER, "gone")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (gzip.compress(b'{"choices":[{"message":{"content":"hi"}}]}', mtime=0), "ok"),
        (gzip.compress(b" " * (65 << 20), mtime=0), "unread"),
        (b"no gzip", "bad_response"),
    ],
    ids=["read", "too large", "none"],  # a compressed body holds the time, and several processes must agree
)
def test_a_compressed_document(body: bytes, reason: str) -> None:
    """Read to a bound; what is not in its encoding is no answer."""
    seen = watch(WHOLE, JSON, encoding="gzip")
    seen.feed(body)
    assert seen.judge_end().reason == reason


def test_sound_for_a_call_that_asked_for_a_stream() -> None:
    """Audio that comes as bytes, under whatever type, goes on as it comes."""
    call = Call("openai", "audio/speech", "m", stream=True)
    seen = watch(call, "application/octet-stream")
    piece = seen.feed(b"\x01\x02\x03" * 50)
    assert (piece.content, piece.forward, seen.judge_end().kind) == (True, b"\x01\x02\x03" * 50, Kind.SUCCESS)
