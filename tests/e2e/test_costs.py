"""What apps and providers send costs no order of magnitude more than it does without Sidestep, whatever it is."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import brotli  # type: ignore[import-untyped]
import pytest

from support.beside import Cost, cost_of
from support.encodings import zstd
from support.provider import Behaviour, Provider
from support.proxy import Mitmdump
from support.raw import Wire, request
from support.settings import config

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what a process costs is told by /proc")

FACTOR = 10
JSON = ("Content-Type", "application/json")
GOOD = b'{"choices":[{"message":{"content":"x"}}]}'
CALL = b'{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]}'
STREAMED = CALL[:-1] + b',"stream":true}'


@dataclass
class Pair:
    """A bare mitmdump and one with Sidestep, before a provider that the app addresses; a stand-in has a key."""

    own: Provider
    bare: Mitmdump
    ours: Mitmdump

    def compare(self, sent: bytes) -> None:
        def act(m: Mitmdump) -> None:
            with Wire(m, timeout=60) as wire:
                wire.send(sent).answer()

        for _ in range(5):  # what else the machine does only adds to it
            usual = self._smallest()
            without, within = cost_of(self.bare, act), cost_of(self.ours, act)
            if within.is_of_the_order_of(without.at_least(usual), FACTOR):
                return
        raise AssertionError((usual, without, within))

    def _smallest(self) -> Cost:
        """What the smallest call costs just now: on a busy machine, more than on another."""
        answered, self.own.default = self.own.default, Behaviour(body=GOOD)
        try:
            with Wire(self.bare) as wire:
                small = request(f"{self.own.url()}/chat/completions", CALL, JSON)
                return cost_of(self.bare, lambda _: wire.send(small).answer())
        finally:
            self.own.default = answered


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("costs")
    with ExitStack() as stack:
        own, b = stack.enter_context(Provider("own")), stack.enter_context(Provider("b"))
        text = config("chat", own, b, own=own, circuit={"failure_threshold": 1000, "min_requests": 1000})
        bare = stack.enter_context(Mitmdump(folder / "bare", None, script=None))
        ours = stack.enter_context(Mitmdump(folder / "ours", text))
        made = Pair(own, bare, ours)
        for m in (bare, ours):
            for _ in range(5):  # what is made once is made
                with Wire(m) as wire:
                    wire.send(request(f"{own.url()}/chat/completions", CALL, JSON)).answer()
        yield made


def _lists(count: int) -> bytes:
    return b'{"model":"gpt-4o","messages":[{"file_id":"a"}' + b",[]" * count + b"]}"


def _members(parts: list[bytes]) -> bytes:
    return b"".join(gzip.compress(part, 1) for part in parts)


def _encoded(name: str, body: bytes) -> tuple[bytes, tuple[tuple[str, str], ...]]:
    pack: dict[str, Callable[[bytes], bytes]] = {
        "gzip": lambda b: gzip.compress(b, 6),
        "deflate": zlib.compress,
        "br": lambda b: bytes(brotli.compress(b, quality=3)),
        "zstd": zstd.compress,
    }
    return pack[name](body), (JSON, ("Content-Encoding", name))


Request = tuple[bytes, tuple[tuple[str, str], ...]]
GZIP = (JSON, ("Content-Encoding", "gzip"))
FORM = (("Content-Type", "multipart/form-data; boundary=b"),)

REQUESTS: dict[str, Callable[[], Request]] = {
    # Values: read before it is known who calls, and built without a bound.
    "lists, gzip": lambda: _encoded("gzip", _lists(20_000_000)),
    "lists, deflate": lambda: _encoded("deflate", _lists(20_000_000)),
    "lists, br": lambda: _encoded("br", _lists(20_000_000)),
    "lists, zstd": lambda: _encoded("zstd", _lists(20_000_000)),
    "lists, plain": lambda: (_lists(2_000_000), (JSON,)),
    "lists, just few enough": lambda: (_lists(95_000), (JSON,)),
    "names": lambda: (b'{"model":"gpt-4o",' + b",".join(b'"k%d":1' % i for i in range(300_000)) + b"}", (JSON,)),
    "objects": lambda: (b'{"model":"gpt-4o","messages":[{"file_id":"a"}' + b',{"a":{}}' * 500_000 + b"]}", (JSON,)),
    "nested": lambda: (b'{"model":"gpt-4o","file_id":' + b"[" * 2_000_000 + b"]" * 2_000_000 + b"}", (JSON,)),
    "nested, just little enough": lambda: (
        b'{"model":"gpt-4o","messages":[' + b",".join([b'{"file_id":' + b"[" * 900 + b"]" * 900 + b"}"] * 50) + b"]}",
        (JSON,),
    ),
    # Texts.
    "a long text": lambda: (CALL.replace(b"hi", b"hello, you " * 500_000), (JSON,)),
    "backslashes": lambda: (CALL.replace(b"hi", b"\\\\" * 4_000_000), (JSON,)),
    "quotes": lambda: (CALL.replace(b"hi", b'\\"' * 4_000_000), (JSON,)),
    "escapes": lambda: (CALL.replace(b"hi", b"\\u00e9" * 1_000_000), (JSON,)),
    # Members of a compressed body, and what follows it.
    "members": lambda: (_members([CALL[:20], CALL[20:]]), GZIP),
    "many members": lambda: (_members([CALL]) + gzip.compress(b"") * 50_000, GZIP),
    "after the end": lambda: (_members([CALL]) + b"x" * 10_000_000, GZIP),
    # Forms.
    "parts": lambda: (b"--b\r\n\r\n\r\n" * 500_000 + b"--b--", FORM),
    "a long head": lambda: (b"--b\r\n" + b"content-disposition:" * 5_000 + b"\r\n\r\n\r\n--b--", FORM),
    # Heads.
    "a long name": lambda: (CALL, (JSON, ("X-" + "a" * 60_000, "a"))),
    "fields": lambda: (CALL, (JSON, *((f"X-A{i}", "abcdefgh") for i in range(2_500)))),
    "credentials": lambda: (CALL, (JSON, *((f"X-Auth-{i}", f"secret-{i:09}") for i in range(450)))),
    "credentials in parts": lambda: (
        CALL,
        (
            *(JSON, ("Accept", "00000000")),
            *((f"X-Key-{i}", ",".join(f"{i:03}{j:05}" for j in range(13))) for i in range(200)),
            *((f"X-Stainless-{i}", "a" * 20) for i in range(280)),
        ),
    ),
}
QUERIES = {
    "parameters": "?" + "a&" * 25_000,
    "credentials": "?" + "key=abcdefgh&" * 4_000,
    # Each may repeat each of the others.
    "different credentials": "?" + "".join(f"key={i:08}&" for i in range(2_000)) + "model=%41&" * 2_000,
    "credentials, and different parameters": "?"
    + "".join(f"key={i:08}&" for i in range(1_500))
    + "".join(f"model=%41{i:05}&" for i in range(1_500)),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request(name: str, pair: Pair) -> None:
    pair.own.default = Behaviour(body=GOOD)
    body, fields = REQUESTS[name]()
    operation = "audio/transcriptions" if fields is FORM else "chat/completions"
    pair.compare(request(f"{pair.own.url()}/{operation}", body, ("Authorization", "Bearer sk-app"), *fields))


@pytest.mark.parametrize("name", QUERIES)
def test_a_query(name: str, pair: Pair) -> None:
    pair.own.default = Behaviour(body=GOOD)
    pair.compare(request(f"{pair.own.url()}/chat/completions{QUERIES[name]}", CALL, JSON))


EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"hello"}}]}\n\n'
DONE = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


def answer(body: bytes, *fields: str, kind: str = "application/json", status: int = 200) -> bytes:
    lines = [f"HTTP/1.1 {status} x", f"content-type: {kind}", *fields, f"content-length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _streamed(body: bytes, *fields: str) -> bytes:
    return answer(EVENT + body, *fields, kind="text/event-stream")


STREAMS: dict[str, Callable[[], bytes]] = {
    "events": lambda: _streamed(EVENT * 60_000 + DONE),
    "empty events": lambda: _streamed(b"data: {}\n\n" * 300_000),
    "comments": lambda: _streamed(b":\n\n" * 1_000_000),
    "blank lines": lambda: _streamed(b"\n" * 2_000_000),
    "lines": lambda: _streamed(b"data:\n" * 1_000_000 + b"\n"),
    "one event of lists": lambda: _streamed(b'data: {"choices":[{"delta":{"a":[' + b"[]," * 2_000_000 + b"[]]}}]}\n\n"),
    "one event of NaN": lambda: _streamed(b'data: {"choices":[{"delta":{"a":[NaN' + b",1" * 2_000_000 + b"]}}]}\n\n"),
    "no JSON": lambda: _streamed(b"data: {no\n\n" * 100_000 + DONE),
    "compressed events": lambda: answer(
        gzip.compress(EVENT * 400_000 + DONE), "content-encoding: gzip", kind="text/event-stream"
    ),
    "compressed events, members": lambda: answer(
        _members([EVENT] * 20_000), "content-encoding: gzip", kind="text/event-stream"
    ),
    "compressed blank lines": lambda: answer(
        gzip.compress(EVENT + b"\n" * 60_000_000), "content-encoding: gzip", kind="text/event-stream"
    ),
}
WHOLE: dict[str, Callable[[], bytes]] = {
    "lists": lambda: answer(b'{"choices":[{"message":{"content":[' + b"[]," * 2_000_000 + b"[]]}}]}"),
    "lists, gzip": lambda: answer(
        gzip.compress(b'{"choices":[{"message":{"content":[' + b"[]," * 20_000_000 + b"[]]}}]}"),
        "content-encoding: gzip",
    ),
    "names": lambda: answer(b'{"choices":[{"message":{"content":"x"}}]' + b',"a":1' * 1_000_000 + b"}"),
    "NaN": lambda: answer(b'{"x":NaN,"choices":[{"message":{"content":[' + b"1," * 2_000_000 + b"1]}}]}"),
    "members": lambda: answer(_members([GOOD[:9], GOOD[9:]]), "content-encoding: gzip"),
    "many members": lambda: answer(gzip.compress(b" ") * 50_000, "content-encoding: gzip"),
    "after the end": lambda: answer(gzip.compress(GOOD) + b"x" * 9_000_000, "content-encoding: gzip"),
    "a page": lambda: answer(b"<html>" + b"x" * 9_000_000, kind="text/html"),
    "an error of lists": lambda: answer(b'{"error":[' + b"[]," * 300_000 + b"[]]}", status=400),
    "an error, gzip": lambda: answer(
        gzip.compress(b'{"error":[' + b"[]," * 20_000_000 + b"[]]}"), "content-encoding: gzip", status=400
    ),
    "an error of numbers": lambda: answer(b'{"error":{"message":"wait ' + b"1 " * 400_000 + b'"}}', status=400),
    "long times": lambda: answer(b"{}", "retry-after: " + "1 " * 200_000, "x-ratelimit-reset-a: " + "1s" * 200_000),
    "fields": lambda: answer(GOOD, *(f"x-ratelimit-reset-{i}: 5" for i in range(20_000))),
    "a long head": lambda: answer(GOOD, "x: " + "y" * 900_000),
    "a head without an end": lambda: b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 400_000,
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream(name: str, pair: Pair) -> None:
    pair.own.default = Behaviour(raw=STREAMS[name]())
    pair.compare(request(f"{pair.own.url()}/chat/completions", STREAMED, JSON))


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_answer(name: str, pair: Pair) -> None:
    pair.own.default = Behaviour(raw=WHOLE[name]())
    pair.compare(request(f"{pair.own.url()}/chat/completions", CALL, JSON))


HANDSHAKE = (
    *("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"),
    "Sec-WebSocket-Key: c2l4dGVlbiBieXRlcyAhIQ==",
)
TAKES = (
    b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: FjoRzSthtyVD3IVqV9Yev4arzAE=\r\n\r\n"
)
CLOSE = b"\x88\x02\x03\xe8"


def _frame(opcode: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 126 else b"\x7f" + size.to_bytes(8)
    return bytes([0x80 | opcode]) + length + content


FRAMES: dict[str, Callable[[], bytes]] = {
    "messages": lambda: _frame(1, b'{"type":"response.output_text.delta","delta":"a"}') * 3_000,
    "no JSON": lambda: _frame(1, b"{no") * 3_000,
    "pings": lambda: _frame(9, b"ping") * 3_000,
    "a message of lists": lambda: _frame(1, b'{"type":"response.created","a":[' + b"[]," * 1_000_000 + b"[]]}"),
    "a message in pieces": lambda: b"\x01\x01{" + b"\x00\x01 " * 50_000 + b"\x80\x01}",
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_socket(name: str, pair: Pair) -> None:
    pair.own.default = Behaviour(raw=TAKES + FRAMES[name]() + CLOSE)
    url, host = f"{pair.own.url()}/responses", f"Host: {pair.own.origin.removeprefix('http://')}"
    sent = "\r\n".join([f"GET {url} HTTP/1.1", host, *HANDSHAKE, "", ""]).encode()

    def read_all(m: Mitmdump) -> None:
        with Wire(m, timeout=60) as wire:
            assert wire.send(sent).head()[0] == 101
            wire.until(CLOSE)

    for _ in range(3):
        without, within = cost_of(pair.bare, read_all), cost_of(pair.ours, read_all)
        if within.is_of_the_order_of(without, FACTOR):
            return
    raise AssertionError((without, within))
