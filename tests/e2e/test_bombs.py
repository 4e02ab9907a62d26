"""Answers that would become gigabytes: they pass as they came, and the proxy stays small."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from functools import cache

import brotli  # type: ignore[import-untyped]
import pytest

from support.encodings import zstd
from support.provider import Behaviour, Provider
from support.proxy import Mitmdump
from support.raw import Wire, chat
from support.settings import config, key_of, route, table

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]
APP = "http://app.test/v1"
SIZE = 1 << 30
BEARABLE = 256 << 20


def _content(stream: bool) -> bytes:
    piece = b'{"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"%s"}}]}'
    return b"data: " + piece % (b"a" * 900) + b"\n\n" if stream else b" " * 1000


@cache
def bomb(encoding: str, stream: bool) -> bytes:
    """Small, and a gigabyte when it is read."""
    unit = _content(stream) * 1000
    repeat = SIZE // len(unit)
    if encoding == "gzip":
        # The same compressed block again and again; nobody reads so far that the checksum would matter.
        c = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        block = c.compress(unit) + c.flush(zlib.Z_FULL_FLUSH)
        return gzip.compress(b"")[:10] + block * repeat
    if encoding == "br":
        b = brotli.Compressor(quality=1)
        parts: list[bytes] = [b.process(unit) for _ in range(repeat)]
        return b"".join([*parts, b.finish()])
    z = zstd.ZstdCompressor()
    return b"".join(z.compress(unit) for _ in range(repeat)) + z.flush()


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd"])
@pytest.mark.parametrize(("status", "stream"), [(200, False), (200, True), (400, False)])
def test_a_bomb_passes_unread(provider: Make, proxy: Start, encoding: str, status: int, stream: bool) -> None:
    """Byte for byte, judged by its status alone, without the memory that reading it would take."""
    a = provider("a")
    body = bomb(encoding, stream)
    kind = "text/event-stream" if stream else "application/json"
    headers = {"content-type": kind, "content-encoding": encoding}
    a.default = Behaviour(status=status, body=body, headers=headers)
    m = proxy(route("chat", a, intercept=APP))
    before = m.peak_memory
    with Wire(m, timeout=60) as wire:
        got, fields, answer = wire.send(chat(APP, stream=stream)).answer()
    assert (got, fields["content-encoding"], fields["x-sidestep-attempts"]) == (status, encoding, f"a:{status}")
    assert answer == body
    assert m.peak_memory - before < BEARABLE
    assert m.provider("a")["failure_count"] == 0


def test_a_bomb_in_the_request_is_not_read(provider: Make, proxy: Start) -> None:
    """The app's own compressed body goes to its own provider as it is."""
    a = provider("a")
    a.default = Behaviour(body=b'{"choices":[{"message":{"content":"x"}}]}')
    m = proxy(config("chat", a, own=a))
    before = m.peak_memory
    body = bomb("gzip", False)
    head = chat(a.url()).partition(b"\r\n\r\n")[0].rpartition(b"\r\n")[0]
    with Wire(m, timeout=60) as wire:
        wire.send(head + b"\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        assert wire.answer()[0] == 200
    assert a.requests[0].body == body
    assert m.peak_memory - before < BEARABLE


def test_a_bomb_that_begins_with_our_key_is_withheld(provider: Make, proxy: Start) -> None:
    """What is read of an error before it becomes too much is enough to find a key in it."""
    a = provider("a")
    z = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    body = z.compress(f'{{"error":{{"message":"bad key {key_of("a")}"}}}}'.encode())
    body += b"".join(z.compress(bytes(1 << 20)) for _ in range(100)) + z.flush()
    a.default = Behaviour(status=400, body=body, headers={"content-encoding": "gzip"})
    m = proxy(route("chat", a, intercept=APP))
    with Wire(m, timeout=60) as wire:
        status, fields, answer = wire.send(chat(APP)).answer()
    assert (status, fields.get("content-encoding")) == (400, None)
    assert b"withheld" in answer
    assert key_of("a").encode() not in answer


def _endless(head: bytes) -> Behaviour:
    return Behaviour(raw=head + b"\r\n", endless=b"y" * 65536)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: compress\r\n",
    ],
    ids=["an error", "an encoding that is not read"],
)
def test_an_endless_answer_is_not_collected(provider: Make, proxy: Start, head: bytes) -> None:
    """What goes on unread reaches the app while it comes."""
    a = provider("a")
    a.default = _endless(head)
    m = proxy(route("chat", a, intercept=APP))
    before = m.peak_memory
    with Wire(m, timeout=60) as wire:
        wire.send(chat(APP, stream=True)).head()
        left = 2 * BEARABLE
        while left > 0:
            more = wire.sock.recv(1 << 20)
            assert more
            left -= len(more)
    assert m.peak_memory - before < BEARABLE


def test_an_error_that_stalls_has_reached_the_app_as_far_as_it_came(provider: Make, proxy: Start) -> None:
    """The app sees the status and what there was; then the wire is cut."""
    a = provider("a")
    a.default = Behaviour(status=400, raw=b"HTTP/1.1 400 Bad\r\ncontent-length: 99\r\n\r\n" + b'{"error', stall=True)
    m = proxy(table("timeouts", {"idle": 0.5}) + route("chat", a, intercept=APP))
    with Wire(m) as wire:
        status, fields = wire.send(chat(APP)).head()
        assert (status, fields["x-sidestep-attempts"]) == (400, "a:400")
        assert wire.rest() == b'{"error'
