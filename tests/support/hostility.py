"""A real mitmdump with Sidestep between clients and providers that mean no good, or that break: each case is drawn from
a seed, and leaves nothing behind.

What must hold of every case is asked here: nobody waits for longer than the case itself lets one wait, an answer that
broke off never looks whole, no key and no provider's words are where they must not be. Of some together: nothing is in
flight, no permit is out, the log has no traceback.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import random
import re
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import h2.exceptions
import trustme
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage
from wsproto.utilities import RemoteProtocolError

from support import watcher
from support.calls import APP_KEY
from support.garble import garbled, pieces
from support.h2client import H2Client
from support.h2provider import server_context
from support.hostile import KINDS as HOSTILE
from support.provider import Behaviour, grammar
from support.proxy import FORBIDDEN, ROOT, Mitmdump
from support.raw import Wire, request
from support.rawreading import H1Reader, Reading, Turn
from support.settings import key_of, table
from support.waiting import until
from support.wild import End, Script, Wild

WORDS = b"WORDS-of-a-provider"
PATIENCE = 1.0
"""Every timeout of the proxy, in seconds."""
HANG_SECONDS = 5.0
"""What a case may take beyond the silence that it consists of."""
SILENCES = 3 * PATIENCE
"""The longest: of an attempt at each of two providers, and what of the first one's was noticed late."""
FLAT_BYTES = 24 << 20
"""By which the proxy may grow in the second half of a run: bounded tables that fill up, what the allocator keeps."""
AT_ONCE = 4
BATCH = 100

APIS: dict[str, tuple[str, str, str]] = {
    "chat": ("chat/completions", "/v1/chat/completions", "/v1/chat/completions"),
    "messages": ("messages", "/v1/messages", "/v1/messages"),
    "gemini": (
        "generateContent",
        "/v1beta/models/gemini-2.5-pro:generateContent",
        "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse",
    ),
}
ENDINGS = (b"[DONE]", b'_reason": "stop"', b'_reason": "end_turn"', b'finishReason": "STOP"', b'"error"')
"""What tells an app that an answer has ended, or has failed."""


ENDS = (OSError, EOFError, h2.exceptions.ProtocolError)
"""How a client learns that its connection is over."""


class FindingError(AssertionError):
    """Something that must not be."""


@dataclass
class Place:
    """The proxy and the providers of a run: `a` and `b` over HTTP/1.1, `h` over HTTP/2."""

    m: Mitmdump
    a: Wild
    b: Wild
    h: Wild
    held: bool = False
    """All are asked, whatever they did before; else as circuits and cooldowns have it."""

    def hold(self, how: str) -> None:
        """`disable` or `auto`."""
        self.held = False
        for name in "abh":
            sent = request(f"http://sidestep.internal/circuit/{how}/{name}", b"", ("x-sidestep-token", self.m.token))
            with Wire(self.m) as wire:
                assert wire.send(sent).answer()[0] == 200
        self.held = how == "disable"


@dataclass
class Report:
    cases: int = 0
    findings: list[str] = field(default_factory=list)
    slowest: float = 0
    growth: int = 0
    """Of resident memory, from half of the cases on, in bytes."""
    kinds: dict[str, int] = field(default_factory=dict)


# --- good answers


def asked(api: str, mark: str, stream: bool) -> tuple[str, bytes]:
    """Path and body of a call."""
    _, whole, streamed = APIS[api]
    if api == "gemini":
        body: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": f"case-{mark}-"}]}]}
    else:
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": f"case-{mark}-"}], "max_tokens": 9}
        if stream:
            body["stream"] = True
    return streamed if stream else whole, json.dumps(body).encode()


def answer(api: str, name: str, stream: bool) -> list[bytes]:
    """A good answer's body."""
    said = grammar(APIS[api][0], name, b"{}", Behaviour())
    if not stream:
        return [json.dumps(said.whole()).encode()]
    return [*said.before(), *(said.token(i) for i in range(6)), *said.finish(), *said.terminal()]


def head(stream: bool, *fields: str, status: str = "200 OK") -> bytes:
    kind = "text/event-stream" if stream else "application/json"
    return "\r\n".join([f"HTTP/1.1 {status}", f"content-type: {kind}", *fields, "", ""]).encode()


def chunked(parts: list[bytes]) -> list[bytes]:
    return [*(b"%x\r\n%s\r\n" % (len(part), part) for part in parts if part), b"0\r\n\r\n"]


def framed(rng: random.Random, parts: list[bytes], stream: bool) -> tuple[list[bytes], bool]:
    """A message over HTTP/1.1, and whether the end of its connection is the end of its body."""
    body, fields = b"".join(parts), []
    if rng.random() < 0.25:
        body, fields = gzip.compress(body), ["content-encoding: gzip"]
        parts = pieces(rng, body)
    match rng.randrange(4):
        case 0:
            return [head(stream, *fields, f"content-length: {len(body)}"), *parts], False
        case 1:
            return [head(stream, *fields, "connection: close"), *parts], True
        case _:
            return [head(stream, *fields, "transfer-encoding: chunked"), *chunked(parts)], False


def looks_whole(reading: Reading) -> bool:
    """Whether an app would take what it has read for an answer, or a failure, that is all there."""
    body = reading.body
    if reading.header("content-encoding") == "gzip":
        body = zlib.decompressobj(31).decompress(body)  # as far as it goes, as apps do
    if any(ending in body for ending in ENDINGS):
        return True
    try:
        json.loads(body)
    except ValueError:
        return False
    return True


# --- cases


def _hosts(api: str, alone: bool) -> str:
    return f"{'alone-' if alone else ''}{api}.test"


def _asks(place: Place, api: str, alone: bool, mark: str, stream: bool, *, http2: bool, host: str = "") -> Reading:
    """One call of an app that means well."""
    path, body = asked(api, mark, stream)
    host = host or _hosts(api, alone)
    fields = [("Authorization", f"Bearer {APP_KEY}"), ("Content-Type", "application/json")]
    patience = HANG_SECONDS + SILENCES
    if not http2:
        reader = H1Reader(place.m)
        try:
            return reader.ask(f"http://{host}", path, Turn(fields, body, patience))
        finally:
            reader.close()
    reading, began = Reading(), time.monotonic()
    try:
        with H2Client(place.m, host, timeout=patience) as client:
            fields = [(k.lower(), v) for k, v in fields]
            stream_ = client.answer(client.send(path, body, *fields, ("content-length", str(len(body)))))
            reading.status, reading.body = stream_.status or 0, stream_.body
            reading.headers = [*stream_.headers.items()]
            reading.end = "clean" if stream_.reset is None else "cut"
    except TimeoutError:
        reading.end = "stalled"
    except ENDS:
        reading.end = "cut"
    reading.done_at = time.monotonic() - began
    return reading


def _is_sound(place: Place, mark: str, reading: Reading, *, cut: bool, secret: bool = True) -> None:
    if reading.end == "stalled":
        raise FindingError(f"no end after {reading.done_at:.1f} s: {reading}")
    told = reading.body + repr(reading.headers).encode()
    for name in "abh":
        if secret and key_of(name).encode() in told:
            raise FindingError(f"the key of {name} came back: {reading}")
    if cut and reading.end == "clean" and reading.status == 200 and not looks_whole(reading):
        raise FindingError(f"it looks whole: {reading}")
    for provider in (place.a, place.b, place.h):
        if APP_KEY.encode() in provider.asked.get(mark, b""):
            raise FindingError(f"{provider.name} has got the app's key")


def _is_read(reading: Reading) -> bool:
    """Whether it was taken for good by what it says, so that it is known whether it says all."""
    return reading.attempts[-1:] == ["200"] and reading.header("content-encoding") is None


def _as_it_came(reading: Reading, until_close: dict[str, bytes | None], *, alone: bool) -> bool:
    """Whether an app has been given what only the end of its connection ends, unchanged, as there was nothing better:
    nothing tells whether that was meant to be its end. `until_close`: of each provider that broke off, by name, what
    it has sent of such a body; None for a body that says how long it is."""
    came = until_close.get(reading.header("x-sidestep-provider") or "")
    nobody_bettered = alone or len(until_close) > 1
    # Of what is sent just before a reset the end may not arrive.
    return came is not None and nobody_bettered and came.startswith(reading.body) and not _is_read(reading)


def cut(rng: random.Random, place: Place, mark: str) -> float:
    """A good answer that breaks off at any byte, at the first provider, perhaps at its stand-in too; else that one
    gives a whole one."""
    api, stream, alone = rng.choice([*APIS]), rng.random() < 0.7, rng.random() < 0.4
    broken = [place.a, place.b] if rng.random() < 0.3 else [place.a]
    place.b.scripts[mark] = Script([head(stream, "connection: close"), *answer(api, "b", stream)], "close")
    until_close: dict[str, bytes | None] = {}
    for provider in broken:
        parts, unbounded = framed(rng, answer(api, provider.name, stream), stream)
        whole = b"".join(parts)
        sent = whole[: rng.randint(0, len(whole) - 1)]
        end: End = rng.choice(["close", "close", "reset", "reset", "stall"])
        until_close[provider.name] = sent.partition(b"\r\n\r\n")[2] if unbounded else None
        provider.scripts[mark] = Script(pieces(rng, sent) if len(sent) < 400 else [sent], end, rng.choice([0, 0.001]))
    reading = _asks(place, api, alone, mark, stream, http2=rng.random() < 0.3)
    _is_sound(place, mark, reading, cut=not _as_it_came(reading, until_close, alone=alone))
    return reading.done_at


def _rude(rng: random.Random, data: bytes) -> bytes:
    """Garbled, at times with words of the provider's own, or with a key."""
    data = garbled(rng, data, 5)
    for words in (WORDS, key_of(rng.choice("ab")).encode()):
        if rng.random() < 0.3:
            at = rng.randint(0, len(data))
            data = data[:at] + words + data[at:]
    return data


def garbled_answer(rng: random.Random, place: Place, mark: str) -> float:
    """An answer of which nothing need be right."""
    api, stream = rng.choice([*APIS]), rng.random() < 0.7
    for provider in (place.a, place.b) if rng.random() < 0.4 else (place.a,):
        parts, _ = framed(rng, answer(api, provider.name, stream), stream)
        if rng.random() < 0.2:
            error = b'{"error":{"message":"%s","type":"x","code":"y"}}' % WORDS
            status = rng.choice([400, 401, 429, 500, 503, 529, 302, 101, 199, 999])
            parts = [head(False, f"content-length: {len(error)}", "retry-after: 1", status=f"{status} x"), error]
        if rng.random() < 0.5:
            parts = [_rude(rng, parts[0]), *parts[1:]]
        else:
            parts = [parts[0], _rude(rng, b"".join(parts[1:]))]
        end: End = rng.choice(ENDS_OF_ANSWERS)
        provider.scripts[mark] = Script(pieces(rng, b"".join(parts))[:200], end)
    reading = _asks(place, api, rng.random() < 0.4, mark, stream, http2=rng.random() < 0.3)
    packed = reading.header("content-encoding") not in (None, "", "identity")
    _is_sound(place, mark, reading, cut=False, secret=not packed)
    return reading.done_at


def answer_in_frames(rng: random.Random, place: Place, mark: str) -> float:
    """The same of a provider that speaks HTTP/2: fields, data and frames."""
    stream = rng.random() < 0.7
    body = b"".join(answer("chat", "h", stream))
    fields = [(":status", "200"), ("content-type", "text/event-stream" if stream else "application/json")]
    breaks = rng.random() < 0.5
    frames = b""
    end: End = rng.choice(ENDS_OF_ANSWERS)
    if breaks:
        body = body[: rng.randint(0, len(body) - 1)]
    else:
        body = _rude(rng, body)
        if rng.random() < 0.5:
            fields.insert(
                rng.randint(0, 2), (rng.choice([f"X-{WORDS.decode()}", ":status", "a b", "connection"]), WORDS.decode())
            )
        if rng.random() < 0.7:
            goaway = b"\0\0\x1b\x07\0\0\0\0\0" + struct.pack("!II", 1, 1) + WORDS
            good = b"\0\0\x03\0\0\0\0\0\x01abc" + goaway + b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x02"
            frames = garbled(rng, good, 3)
    place.h.scripts[mark] = Script([body], end, fields=fields, frames=frames, finish=not breaks and rng.random() < 0.5)
    host = rng.choice(["alone-h.test", "h.test"])
    reading = _asks(place, "chat", False, mark, stream, http2=True, host=host)
    _is_sound(place, mark, reading, cut=breaks and end != "keep")
    return reading.done_at


def garbled_request(rng: random.Random, place: Place, mark: str) -> float:
    """What a client sends that is no app: any request, garbled, and it leaves at any byte."""
    url = rng.choice(["http://chat.test/v1", "http://alone-chat.test/v1", f"{place.a.origin}/v1"])
    if rng.random() < 0.5:
        sent = rng.choice(HOSTILE)(rng, url)
    else:
        path, body = asked("chat", mark, rng.random() < 0.5)
        sent = garbled(
            rng,
            request(
                f"{url}{path.removeprefix('/v1')}",
                body,
                ("Authorization", f"Bearer {APP_KEY}"),
                ("Content-Type", "application/json"),
            ),
            5,
        )
    began = time.monotonic()
    got = b""
    with contextlib.suppress(OSError), Wire(place.m, timeout=2) as wire:
        for piece in pieces(rng, sent)[:300] if len(sent) < 20_000 else [sent]:
            wire.send(piece)
        leaves = rng.choice([0, 0.01, 0.3, 1.0])
        wire.sock.settimeout(leaves or 0.001)
        with contextlib.suppress(TimeoutError):
            while more := wire.sock.recv(1 << 16):
                got += more
        if rng.random() < 0.5:
            wire.reset()
    for name in "abh":
        if key_of(name).encode() in got:
            raise FindingError(f"the key of {name} came back: {got[:500]!r}")
    return time.monotonic() - began


def requests_in_frames(rng: random.Random, place: Place, mark: str) -> float:
    """A client's HTTP/2, garbled: frames of the protocol in any order, streams that are left at once."""
    began = time.monotonic()
    host = rng.choice(["chat.test", "h.test"])
    with contextlib.suppress(*ENDS, AssertionError), H2Client(place.m, host, timeout=1) as client:
        path, body = asked("chat", mark, True)
        kept: list[bytes] = []
        send = client.connection.data_to_send
        for _ in range(rng.randint(1, 5)):
            with client.in_one_breath():
                ends = rng.random() < 0.8
                number = client.send(path, body, ("authorization", f"Bearer {APP_KEY}"), ends=ends)
                if rng.random() < 0.4:
                    client.cancel(number)
                kept.append(send())
        for data in kept:
            client.sock.sendall(garbled(rng, data, rng.choice([0, 2])))
        client.sock.settimeout(rng.choice([0.001, 0.1, 0.5]))
        while client.sock.recv(1 << 16):
            pass
    return time.monotonic() - began


def _frame(rng: random.Random, content: bytes, *, masked: bool) -> bytes:
    opcode = rng.choice([1, 1, 1, 1, 2, 8, 9, 10, 0, 3])
    size = len(content)
    length = bytes([size]) if size < 126 else b"\x7e" + struct.pack("!H", size)
    first = bytes([(0x80 if rng.random() < 0.9 else 0) | opcode])
    if not masked:
        return first + length + content
    return first + bytes([length[0] | 0x80]) + length[1:] + b"\0\0\0\0" + content


_MESSAGES = (
    b'{"type":"response.create","model":"gpt-5","input":"hi","store":false}',
    b'{"type":"response.created","response":{"id":"resp_1","status":"in_progress","output":[]}}',
    b'{"type":"response.output_text.delta","item_id":"m","delta":"well"}',
    b'{"type":"response.completed","response":{"id":"resp_1","status":"completed","output":[],"usage":{}}}',
    b'{"type":"error","status":503,"error":{"code":"server_is_overloaded","message":"%s"}}' % WORDS,
    b"\x03\xe8bye",
)


def socket_of(rng: random.Random, place: Place, mark: str) -> float:
    """A WebSocket, with garbled frames from both sides, that ends at any byte."""
    said = b"".join(_frame(rng, rng.choice(_MESSAGES), masked=False) for _ in range(rng.randint(0, 6)))
    said = _rude(rng, said) if rng.random() < 0.5 else said
    place.a.scripts[mark] = Script(pieces(rng, said)[:100], rng.choice(["close", "reset", "stall"]), upgrade=True)
    lines = [
        f"GET http://chat.test/v1/responses?case-{mark}- HTTP/1.1",
        *("Host: chat.test", f"Authorization: Bearer {APP_KEY}", "Connection: Upgrade", "Upgrade: websocket"),
        *("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: c2l4dGVlbiBieXRlcyAhIQ==", f"x-request-id: case-{mark}-"),
    ]
    began = time.monotonic()
    got = b""
    with contextlib.suppress(OSError, EOFError, ValueError), Wire(place.m, timeout=HANG_SECONDS + SILENCES) as wire:
        wire.send("\r\n".join(lines).encode() + b"\r\n\r\n")
        if wire.head()[0] == 101:
            asks = b"".join(_frame(rng, rng.choice(_MESSAGES), masked=True) for _ in range(rng.randint(0, 4)))
            wire.send(garbled(rng, asks, rng.choice([0, 3])))
            wire.sock.settimeout(rng.choice([0.01, 0.3]))
            with contextlib.suppress(TimeoutError):
                got = wire.rest()
            if rng.random() < 0.3:
                wire.reset()
    if any(key_of(name).encode() in _messages_in(got) for name in "ab"):
        raise FindingError(f"a key came back: {got[:500]!r}")
    return time.monotonic() - began


def _messages_in(got: bytes) -> bytes:
    """What a WebSocket has said, a line each, as far as it is one. A frame's own bytes may spell a key with what
    follows: a length is a letter as well."""
    reader = Connection(ConnectionType.CLIENT)
    said = b""
    with contextlib.suppress(RemoteProtocolError):
        reader.receive_data(got)
        for event in reader.events():
            match event:
                case TextMessage() | BytesMessage():
                    data = event.data.encode() if isinstance(event, TextMessage) else bytes(event.data)
                    said += data + b"\n" * event.message_finished
                case CloseConnection():
                    said += (event.reason or "").encode() + b"\n"
                case _:
                    pass
    return said


PAGES = ("/", "/health", "/metrics", "/state", "/circuit/open/a")


def page(rng: random.Random, place: Place, mark: str) -> float:
    """What is asked of our own pages, garbled; they answer, or the connection ends."""
    where = rng.choice(["http://sidestep.internal", f"http://127.0.0.1:{place.m.port}"])
    method, path = rng.choice(["GET", "POST", "HEAD"]), rng.choice(PAGES)
    sent = request(f"{where}{path}", b"", ("Origin", "http://evil.test"), ("x-sidestep-token", mark), method=method)
    if where.endswith(str(place.m.port)) and rng.random() < 0.5:
        sent = sent.replace(where.encode(), b"", 1)
    began = time.monotonic()
    got = b""
    with contextlib.suppress(OSError), Wire(place.m, timeout=0.2) as wire:
        wire.send(garbled(rng, sent))
        with contextlib.suppress(TimeoutError):
            got = wire.rest()
    if any(key_of(name).encode() in got for name in "abh") or APP_KEY.encode() in got:
        raise FindingError(f"a key is on a page: {got[:500]!r}")
    return time.monotonic() - began


def good(rng: random.Random, place: Place, mark: str) -> float:
    """A call that is answered, by whom it may be."""
    api, stream = rng.choice([*APIS]), rng.random() < 0.5
    for provider in (place.a, place.b):
        parts, until_close = framed(rng, answer(api, provider.name, stream), stream)
        provider.scripts[mark] = Script([b"".join(parts)], "close" if until_close else "keep")
    held = place.held
    reading = _asks(place, api, False, mark, stream, http2=rng.random() < 0.3)
    _is_sound(place, mark, reading, cut=True)
    late = {"timeout", "connect"} & {*reading.attempts}  # where others use the machine a second is soon over
    if held and place.held and not late and (reading.status != 200 or reading.end != "clean"):
        raise FindingError(f"no answer: {reading}")
    return reading.done_at


def leaving(rng: random.Random, place: Place, mark: str) -> float:
    """An app that leaves: before the answer, or amid it; with its connection, or from one stream alone."""
    api = rng.choice([*APIS])
    for provider in (place.a, place.b):
        parts = chunked(answer(api, provider.name, True))
        pause, end = rng.choice([0.01, 0.05]), rng.choice(ENDS_OF_ANSWERS)
        provider.scripts[mark] = Script([head(True, "transfer-encoding: chunked"), *parts], end, pause)
    path, body = asked(api, mark, True)
    fields = [("authorization", f"Bearer {APP_KEY}"), ("content-type", "application/json")]
    began, host, seconds = time.monotonic(), _hosts(api, rng.random() < 0.3), rng.choice([0.001, 0.03, 0.1])
    with contextlib.suppress(*ENDS, AssertionError):  # where nobody is asked, nothing comes to wait for
        if rng.random() < 0.4:
            with H2Client(place.m, host, timeout=2) as client:
                number = client.send(path, body, *fields, ("content-length", str(len(body))))
                client.sock.settimeout(seconds)
                with contextlib.suppress(TimeoutError):
                    client.until(number, b"data:")
                client.cancel(number)
        else:
            with Wire(place.m, timeout=seconds) as wire:
                wire.send(request(f"http://{host}{path}", body, *fields))
                with contextlib.suppress(TimeoutError):
                    wire.until(rng.choice([b"HTTP", b"data:", b"data:", b"stop"]))
                if rng.random() < 0.5:
                    wire.reset()
    return time.monotonic() - began


ENDS_OF_ANSWERS: tuple[End, ...] = ("keep", "close", "reset", "stall")
Case = Callable[[random.Random, Place, str], float]
KINDS: dict[str, Case] = {
    "good": good,
    "leaving": leaving,
    "cut": cut,
    "answer": garbled_answer,
    "frames": answer_in_frames,
    "request": garbled_request,
    "requests": requests_in_frames,
    "socket": socket_of,
    "page": page,
}
ORDER = ("cut", "answer", "frames", "request", "good", "cut", "answer", "requests", "socket", "leaving", "cut", "page")


# --- the run


def _config(a: Wild, b: Wild, h: Wild) -> str:
    limits = dict.fromkeys(("connect", "first_byte", "headers", "first_content", "idle"), PATIENCE)
    texts = [
        table("timeouts", limits),
        table("attempts", {"max": 3, "per_provider": 1, "backoff_seconds": 0.01, "wait_seconds": 0}),
        table("hedge", {"enabled": False}),
    ]
    for p in (a, b, h):
        bases = f'openai = "{p.origin}/v1", anthropic = "{p.origin}", gemini = "{p.origin}"'
        texts.append(f'[[providers]]\nname = "{p.name}"\nbase_urls = {{ {bases} }}\napi_key = "{key_of(p.name)}"\n')
    for api, dialect in (("chat", "openai"), ("messages", "anthropic"), ("gemini", "gemini")):
        for names, alone in ((["a", "b"], False), (["a"], True)):
            tail = "/v1" if dialect == "openai" else ""
            bases = json.dumps([f"{scheme}://{_hosts(api, alone)}{tail}" for scheme in ("http", "https")])
            dialect_ = f'dialect = "{dialect}"\n'
            texts.append(f"[[routes]]\n{dialect_}intercept = {bases}\nproviders = {json.dumps(names)}\n")
    for names, host in ((["h"], "alone-h.test"), (["h", "b"], "h.test")):
        texts.append(f'[[routes]]\nintercept = ["https://{host}/v1"]\nproviders = {json.dumps(names)}\n')
    return "\n".join(texts)


@contextlib.contextmanager
def place(folder: Path) -> Iterator[Place]:
    ca = trustme.CA()
    folder.mkdir(parents=True, exist_ok=True)
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    with contextlib.ExitStack() as stack:
        made = []
        for name in "abh":
            body = answer("chat", name, False)[0]
            plain = Script([head(False, f"content-length: {len(body)}") + body])
            good = Script([body]) if name == "h" else plain
            tls = server_context(ca, "127.0.0.1", "h2") if name == "h" else None
            made.append(stack.enter_context(Wild(name, good, tls)))
        a, b, h = made
        trust = f"ssl_verify_upstream_trusted_ca={folder / 'ca.pem'}"
        options = ("-s", str(Path(watcher.__file__)), "--set", trust, "--set", "termlog_verbosity=debug")
        paths = os.pathsep.join([str(ROOT / "addon"), str(ROOT / "tests")])
        m = Mitmdump(folder / "proxy", _config(a, b, h), *options, env={"PYTHONPATH": paths})
        m.may_complain = True  # what it says is looked at here
        stack.enter_context(m)
        where = Place(m, a, b, h)
        where.hold("disable")
        yield where


def told(m: Mitmdump) -> dict[str, Any]:
    """What the watcher tells."""
    with Wire(m) as wire:
        found: dict[str, Any] = json.loads(wire.send(request(f"http://{watcher.HOST}/", b"", method="GET")).answer()[2])
    return found


SECRETS = {
    "words of a provider": WORDS.decode(),
    "the key of the app": APP_KEY,
    **{f"the key of {name}": key_of(name) for name in "abh"},
}
_OURS = re.compile(r"sidestep: internal error|/addon/sidestep/")


class Run:
    """State: the place, how much of the log was looked at."""

    def __init__(self, place: Place, seed: int, report: Report) -> None:
        self.place = place
        self.seed = seed
        self.report = report
        self._read = len(place.m.lines)
        self._lock = threading.Lock()

    def one(self, kind: str, number: int) -> None:
        rng = random.Random(f"{self.seed}:{kind}:{number}")
        mark = f"{kind}{number}"
        began = time.monotonic()
        try:
            seconds = KINDS[kind](rng, self.place, mark)
            if seconds > HANG_SECONDS + SILENCES:
                raise FindingError(f"it took {seconds:.1f} s")
        except FindingError as e:
            with self._lock:
                self.report.findings.append(f"{kind}:{number}: {e}")
        except Exception as e:
            with self._lock:
                self.report.findings.append(f"{kind}:{number}: {type(e).__name__}: {e}")
        finally:
            for provider in (self.place.a, self.place.b, self.place.h):
                provider.scripts.pop(mark, None)
                provider.asked.pop(mark, None)
            with self._lock:
                self.report.cases += 1
                self.report.kinds[kind] = self.report.kinds.get(kind, 0) + 1
                self.report.slowest = max(self.report.slowest, time.monotonic() - began)

    def after(self, cases: str) -> None:
        """What must hold once some cases are over."""
        m, found = self.place.m, self.report.findings
        try:
            until(lambda: m.health()["in_flight"] == 0, "nothing is in flight", 15)
        except AssertionError as e:
            found.append(f"after {cases}: {e}")
        out = {name: p["permits_out"] for name, p in m.health()["providers"].items() if p["permits_out"]}
        if out:
            found.append(f"after {cases}: permits are out: {out}")
        lines, self._read = m.lines[self._read :], len(m.lines)
        text = "\n".join(lines)
        for word in (*FORBIDDEN, _OURS.pattern):
            if re.search(word, text):
                at = next(i for i, line in enumerate(lines) if re.search(word, line))
                found.append(f"after {cases}: in the log: " + "\n".join(lines[max(0, at - 3) : at + 40]))
                break
        pages = [m.page(path)[1].decode() for path in ("/health", "/metrics", "/state")]
        everything = "\n".join([text, *told(m)["flows"], *pages])
        for name, secret in SECRETS.items():
            if (at := everything.find(secret)) >= 0:
                found.append(
                    f"after {cases}: {name}, in the log, a flow or a page: {everything[max(0, at - 400) : at + 100]}"
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.after("all")


def run(
    folder: Path,
    *,
    seed: int,
    count: int,
    only: tuple[str, int] | None = None,
    tell: Callable[[str], object] = lambda _: None,
) -> Report:
    """So many cases; or one alone, by kind and number. `tell` is called with each case's kind as it ends."""
    report = Report()
    with place(folder) as where:
        running = Run(where, seed, report)
        if only is not None:
            running.one(*only)
            running.after(f"{only[0]}:{only[1]}")
            return report

        def one(case: tuple[str, int]) -> None:
            running.one(*case)
            tell(case[0])

        cases = [(ORDER[i % len(ORDER)], i) for i in range(count)]
        half = 0
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for first in range(0, count, BATCH):
                batch = cases[first : first + BATCH]
                list(pool.map(one, batch))
                running.after(f"cases {first} to {first + len(batch) - 1}")
                if not half and first + BATCH >= count // 2:
                    told(where.m)
                    half = where.m.memory
        told(where.m)
        report.growth = where.m.memory - half
        if report.growth > FLAT_BYTES:
            report.findings.append(f"the second half has kept {report.growth / 1e6:.1f} MB")
    return report
