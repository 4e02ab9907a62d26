"""Recipes of one provider's answers: which bytes go over the wire and when, and what an app should make of them.

What can be odd about an answer is in `oddities`; here is the plain one, its content encoding and its framing.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum

import brotli  # type: ignore[import-untyped]

from support.calls import DIALECT
from support.encodings import zstd
from support.operations import OPERATIONS, grammar_for
from support.provider import Behaviour, Grammar, grammar


class Act(Enum):
    """What a provider does on the wire other than send and wait."""

    CLOSE = "close"
    RESET = "reset"
    STALL = "stall"


Step = bytes | float | Act
"""Bytes to send, seconds to wait, or what else is done."""

PATHS = {
    "chat": "/chat/completions",
    "responses": "/responses",
    "messages": "/v1/messages",
    "gemini": "/v1beta/models/gemini-2.5-pro:{method}",
}
LONG_PACES = ("long silence with pings", "long silence")
STREAM_TYPE, WHOLE_TYPE = "text/event-stream", "application/json"
RESET_AFTER = 0.15
"""Seconds before a reset, which may overtake what was sent just before it."""

WIRES = ("h1 to h1", "h2 to h1", "h2 to h2")


@dataclass(frozen=True)
class Part:
    """A piece of a body, an event or a part of a whole answer; and how long its provider waits before it."""

    data: bytes
    content: bool = False
    wait: float = 0.0
    broken: bool = False
    """No SDK can parse it."""
    comes_with: str = ""
    """The event's name in these tests: before, token, finish, terminal, error, other."""


@dataclass
class Asking:
    """How the request for it is sent."""

    method: str = ""
    version: str = "1.1"
    headers: list[tuple[str, str]] = field(default_factory=list)
    chunked: bool = False
    encode: Callable[[bytes], bytes] | None = None
    fields: bytes = b""
    """More fields of the JSON body."""


@dataclass
class Recipe:
    """One answer. `parts`: its body before framing and content encoding."""

    api: str
    """One of those that the SDKs are tested with, or an operation of `operations`."""
    stream: bool
    wire: str = WIRES[0]
    asking: Asking = field(default_factory=lambda: Asking())
    spare: bool = False
    """A stand-in is there, and well."""
    status: int = 200
    reason: str = "OK"
    content_type: str | None = None
    headers: list[tuple[str, str]] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    text: str = ""
    """What an app reads of it, where it is an answer."""
    framing: str = "chunked"
    encoding: str = ""
    before_head: list[Step] = field(default_factory=list)
    instead: list[Step] | None = None
    """In place of head and body."""
    end: Act | None = None
    """In place of the body's proper end."""
    promised: int | None = None
    """A Content-Length that the body does not reach."""
    pieces: Callable[[bytes], list[bytes]] | None = None
    """How the bytes of the body are cut for sending."""
    first: Recipe | None = None
    """What the provider does at the first attempt alone: asked again it gives this answer."""
    earlier: Recipe | None = None
    """The answer to the request that goes before on the same connection."""
    breaks_idle: bool = False
    """The connection of the earlier request breaks when it is used again."""
    oddities: dict[str, str] = field(default_factory=dict)
    faults: set[str] = field(default_factory=set)
    """What keeps it from being a whole good answer: words that the names of betterments look for."""

    @property
    def dialect(self) -> str:
        return OPERATIONS[self.api].dialect if self.api in OPERATIONS else DIALECT[self.api]

    @property
    def form(self) -> str:
        """Of its body: `events`, `array`, `json`, `text`, `bytes`."""
        if self.api in OPERATIONS:
            return OPERATIONS[self.api].stream_form if self.stream else OPERATIONS[self.api].form
        return "events" if self.stream else "json"

    @property
    def method(self) -> str:
        return self.asking.method or (OPERATIONS[self.api].method if self.api in OPERATIONS else "POST")

    @property
    def is_flowing(self) -> bool:
        """An app can use it from its first byte on."""
        return self.stream or self.form == "bytes"

    @property
    def path(self) -> str:
        if self.api in OPERATIONS:
            return (self.stream and OPERATIONS[self.api].stream_path) or OPERATIONS[self.api].path
        method = "streamGenerateContent?alt=sse" if self.stream else "generateContent"
        return PATHS[self.api].format(method=method)

    @property
    def grammar(self) -> Grammar:
        return grammar_of(self.api, self.request())

    @property
    def long(self) -> bool:
        return self.oddities.get("pace", "") in LONG_PACES

    @property
    def suspects(self) -> list[str]:
        """The oddities, each as one word for all that are alike."""
        return [f"{k}={v.partition(',')[0].partition(' in pieces')[0]}" for k, v in self.oddities.items()]

    def __str__(self) -> str:
        odd = ", ".join(f"{k}={v}" for k, v in self.oddities.items()) or "nothing odd"
        return f"{self.api} {'streamed' if self.stream else 'whole'}: {odd}"

    def request(self) -> bytes:
        """The body of the request that it answers."""
        body = self._request()
        if self.asking.fields and body.startswith(b"{"):
            body = b"{" + self.asking.fields + b", " + body[1:]
        return body

    def sent(self) -> bytes:
        """The same as it is sent."""
        return self.request() if self.asking.encode is None else self.asking.encode(self.request())

    @property
    def request_type(self) -> str:
        return OPERATIONS[self.api].request_type if self.api in OPERATIONS else WHOLE_TYPE

    def _request(self) -> bytes:
        if self.api in OPERATIONS:
            return OPERATIONS[self.api].body(stream=self.stream)
        match self.api:
            case "gemini":
                body: dict[str, object] = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
            case "responses":
                body = {"model": "gpt-4o", "input": "hi", "stream": self.stream}
            case _:
                body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], "stream": self.stream}
                if self.api == "messages":
                    body |= {"model": "claude-opus-4-8", "max_tokens": 99}
        return json.dumps(body).encode()

    # --- bytes

    def encoded(self) -> list[Part]:
        """The parts in the content encoding, each flushed so that it can be read as soon as it has come."""
        return ENCODE[self.encoding](self.parts)

    @property
    def content_at(self) -> int:
        """How many bytes of the body as it is sent hold the first content; of a whole answer all."""
        total = 0
        parts = self.encoded()
        for part in parts:
            total += len(part.data)
            if part.content and self.is_flowing:
                return total
        return total

    def steps(self) -> list[Step]:
        if self.instead is not None:
            return [*self.before_head, *self.instead]
        parts = self.encoded()
        length = sum(len(p.data) for p in parts)
        fields = list(self.headers)
        if self.content_type is not None:
            fields.insert(0, ("Content-Type", self.content_type))
        if self.encoding:
            fields.append(("Content-Encoding", _ENCODING_NAMES.get(self.encoding, self.encoding)))
        bodiless = self.status in (204, 304) or self.method == "HEAD"
        match self.framing:
            case _ if bodiless:
                parts = []
            case "length" | "length, then close":
                fields.append(("Content-Length", str(length if self.promised is None else self.promised)))
                if "close" in self.framing:
                    fields.append(("Connection", "close"))
            case "chunked, then close":
                fields += [("transfer-encoding", "Chunked"), ("connection", "Close")]
            case "close" | "old close":
                fields.append(("Connection", "close"))
            case "trailers":
                fields += [("Trailer", "X-Checksum"), ("Transfer-Encoding", "chunked")]
            case _:
                fields.append(("Transfer-Encoding", "chunked"))
        version = "HTTP/1.0" if self.framing == "old close" else "HTTP/1.1"
        head = f"{version} {self.status} {self.reason}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields) + "\r\n"
        steps: list[Step] = [*self.before_head, head.encode("latin-1")]
        chunked = self.framing in ("chunked", "chunked, then close", "extended chunks", "trailers") and not bodiless
        sign = b"%x;x=1;y\r\n%s\r\n" if self.framing == "extended chunks" else b"%x\r\n%s\r\n"
        for part in parts:
            if part.wait:
                steps.append(part.wait)
            for piece in self.pieces(part.data) if self.pieces is not None else [part.data]:
                if piece:
                    steps.append(sign % (len(piece), piece) if chunked else piece)
        if bodiless:
            steps.append(Act.CLOSE)
        elif self.end is not None:
            steps += [RESET_AFTER, self.end] if self.end is Act.RESET else [self.end]
        elif chunked:
            steps.append(b"0\r\nX-Checksum: 1\r\n\r\n" if self.framing == "trailers" else b"0\r\n\r\n")
        if steps[-1] not in (*Act,) and "close" in self.framing:
            steps.append(Act.CLOSE)
        return steps


_OPERATIONS = {
    "chat": "chat/completions",
    "responses": "responses",
    "messages": "messages",
    "gemini": "generateContent",
}


def grammar_of(api: str, request: bytes, tokens: int = 6, by: str = "A") -> Grammar:
    if api in OPERATIONS:
        return grammar_for(api, request, Behaviour(tokens=tokens), by)
    return grammar(_OPERATIONS[api], by, request, Behaviour(tokens=tokens))


# --- content encodings


def _flushed(make: Callable[[], tuple[Callable[[bytes], bytes], Callable[[bool], bytes]]]) -> _Encode:
    """An encoder of parts out of a compressor's `compress` and its `flush(last)`."""

    def encode(parts: list[Part]) -> list[Part]:
        compress, flush = make()
        out = [replace(p, data=compress(p.data) + flush(False)) for p in parts]
        last = flush(True)
        return [*out[:-1], replace(out[-1], data=out[-1].data + last)] if out else [Part(last)]

    return encode


_Encode = Callable[[list[Part]], list[Part]]


def _zlib(bits: int) -> Callable[[], tuple[Callable[[bytes], bytes], Callable[[bool], bytes]]]:
    def make() -> tuple[Callable[[bytes], bytes], Callable[[bool], bytes]]:
        c = zlib.compressobj(wbits=bits)
        return c.compress, lambda last: c.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)

    return make


def _br() -> tuple[Callable[[bytes], bytes], Callable[[bool], bytes]]:
    c = brotli.Compressor()
    return c.process, lambda last: c.finish() if last else c.flush()


def _zstd() -> tuple[Callable[[bytes], bytes], Callable[[bool], bytes]]:
    c = zstd.ZstdCompressor()
    return c.compress, lambda last: c.flush(c.FLUSH_FRAME if last else c.FLUSH_BLOCK)


def _members(parts: list[Part]) -> list[Part]:
    return [replace(p, data=gzip.compress(p.data, mtime=0)) for p in parts]


def _frames(parts: list[Part]) -> list[Part]:
    return [replace(p, data=zstd.compress(p.data)) for p in parts]


def _as_it_is(parts: list[Part]) -> list[Part]:
    return parts


ENCODE: dict[str, _Encode] = {
    "": _as_it_is,
    "identity": _as_it_is,
    "gzip": _flushed(_zlib(31)),
    "GZip": _flushed(_zlib(31)),
    "gzip members": _members,
    "deflate": _flushed(_zlib(15)),
    "raw deflate": _flushed(_zlib(-15)),
    "br": _flushed(_br),
    "zstd": _flushed(_zstd),
    "zstd frames": _frames,
    "x-unknown": _as_it_is,
}
_ENCODING_NAMES = {"gzip members": "gzip", "raw deflate": "deflate", "zstd frames": "zstd"}


def plain(api: str, *, stream: bool, by: str = "A") -> Recipe:
    """A good answer with nothing odd, of a provider of that name."""
    r = Recipe(api, stream, content_type=STREAM_TYPE if stream else WHOLE_TYPE)
    if api in OPERATIONS:
        operation = OPERATIONS[api]
        r.stream = stream = operation.stream_only or (stream and bool(operation.stream_form))
        r.content_type = STREAM_TYPE if r.form == "events" else operation.answer_type
    g = grammar_of(api, r.request(), by=by)
    r.text = "".join(g.tokens)
    if r.form in ("bytes", "text"):
        r.parts = [Part(g.token(i), content=True, wait=0.01, comes_with="whole") for i in range(len(g.tokens))]
        return r
    if not stream:
        r.framing = "length"
        r.parts = [Part(json.dumps(g.whole()).encode(), content=True, comes_with="whole")]
        return r
    r.parts = [Part(d, comes_with="before") for d in g.before()]
    tokens = [Part(g.token(i), content=True, wait=0.01, comes_with="token") for i in range(len(g.tokens))]
    r.parts += tokens
    r.parts += [Part(d, comes_with="finish") for d in g.finish()]
    r.parts += [Part(d, comes_with="terminal") for d in g.terminal()]
    return r
