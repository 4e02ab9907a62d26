"""A provider that misbehaves on command: a real HTTP server on a random loopback port.

Speaks chat completions, Responses, Messages and Gemini, whole and streamed, over HTTP/1.1. It runs in a thread
of its own, so that tests may block; it is written on bare sockets, so that it can break HTTP where a provider would.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import wsproto
import wsproto.events

from support.encodings import zstd


@dataclass
class Behaviour:
    """What the provider does with one request. Without a field set: a good answer."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """Instead of the answer; for an error status by default the dialect's error body."""
    code: str | None = None
    """An error code or type in the error body."""
    message: str = "it went wrong"
    reset: bool = False
    """Close with RST before any header."""
    silent: bool = False
    """Never answer."""
    headers_then_silent: bool = False
    pings_only: bool = False
    """Lifecycle events and pings, never content."""
    pings: int = 0
    """So many pings before the first token …"""
    ping_seconds: float = 1
    """… each after so long."""
    tokens: int = 6
    pace: float = 0
    """Seconds between tokens."""
    cut_after: int | None = None
    """Tokens after which the connection is cut."""
    cut_by: Literal["reset", "close"] = "reset"
    """With a RST, which may overtake what was sent just before, or with a FIN, which does not."""
    end_after: int | None = None
    """Tokens after which the stream ends cleanly, without finish and terminal event."""
    no_done: bool = False
    """All tokens and the finish, but not the terminal marker."""
    stall_after: int | None = None
    error_after: int | None = None
    """Tokens after which an error event comes."""
    malformed_at: int | None = None
    """The token that is no JSON."""
    malformed_before: int | None = None
    """The token before which comes one event more, which is no JSON."""
    amid: bytes | None = None
    """These bytes before the third token."""
    finish: str | None = None
    """Why it stopped, where that is not for the usual reason."""
    last: Literal["cut", "stall"] | None = None
    """What comes in place of the body's last byte and the end of its message."""
    drip: bool = False
    """A whole answer of which nothing but a byte comes every 20 ms."""
    delay: float = 0
    """Seconds before the headers."""
    gate: threading.Event | None = None
    """Wait for it before the headers."""
    gate_at: int | None = None
    """Wait for the gate before this token instead."""
    content_encoding: str | None = None
    close_delimited: bool = False
    raw: bytes | None = None
    """These bytes, head and all, in place of any answer; then the connection is closed."""
    endless: bytes | None = None
    """After `raw`: this, again and again, until the client leaves."""
    rest: bytes | None = None
    """After `raw`: these bytes, for which the gate is waited for, and for nothing else."""
    stall: bool = False
    """After `raw`: nothing more, until the client leaves."""
    informational: bool = False
    """A 103 before the answer."""
    talk: Callable[[str], list[str] | None] | None = None
    """Take the WebSocket that the request asks for: what is said to each message; None: cut the connection."""

    @property
    def waits(self) -> bool:
        """It lets its client wait until that gives up: a test wants a short deadline for it. Every other provider of
        a test keeps the usual ones, which no busy machine misses."""
        return (
            self.silent
            or self.headers_then_silent
            or self.pings_only
            or self.stall_after is not None
            or self.stall
            or self.gate is not None
            or self.gate_at is not None
        )


@dataclass
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    at: float
    raw_head: bytes
    connection: int
    client_left: threading.Event = field(default_factory=threading.Event)
    waits: bool = False
    """What there is of an answer that stalls has been sent."""
    pieces: int = 0
    """Pings, or bytes of a dripping answer, that were sent so far."""

    def header(self, name: str) -> str | None:
        return next((v for k, v in self.headers if k.lower() == name.lower()), None)

    @property
    def json(self) -> Any:
        return json.loads(zstd.decompress(self.body) if self.header("content-encoding") == "zstd" else self.body)


class Provider:
    """Use as a context manager. `url` is the base URL for a dialect; `requests` what came."""

    def __init__(self, name: str, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        self.name = name
        self.tls = tls
        self.host = host
        self.requests: list[Seen] = []
        self.script: deque[Behaviour] = deque()
        self.default = Behaviour()
        self.chooser: Callable[[Seen], Behaviour] | None = None
        self.arrived = threading.Semaphore(0)
        self.in_flight = 0
        self.port = port
        self._connections = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop: asyncio.AbstractEventLoop
        self._server: asyncio.Server | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"provider {name}", daemon=True)

    # --- life

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)

    def _run(self) -> None:
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        self._ready.set()
        try:
            self._loop.run_forever()
        finally:
            if self._server is not None:
                self._server.close()
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            for writer in self._writers:
                writer.transport.abort()
            self._loop.run_until_complete(asyncio.gather(*tasks, asyncio.sleep(0.01), return_exceptions=True))
            self._loop.close()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._connection, self.host, self.port, ssl=self.tls, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Stop listening: connections are refused."""

        async def close() -> None:
            assert self._server is not None
            self._server.close()

        asyncio.run_coroutine_threadsafe(close(), self._loop).result(5)

    def listen_again(self) -> None:
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(5)

    def cut_all(self) -> None:
        """Reset every connection, amid whatever it carries."""

        def cut() -> None:
            for writer in list(self._writers):
                self._rst(writer)

        self._loop.call_soon_threadsafe(cut)

    def hang_up_all(self) -> None:
        """Close every connection as a server does that ends in good order, amid whatever it carries."""

        def close() -> None:
            for writer in list(self._writers):
                writer.close()

        self._loop.call_soon_threadsafe(close)

    # --- what tests use

    @property
    def origin(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"

    def url(self, dialect: str = "openai") -> str:
        return self.origin + ("/v1" if dialect == "openai" else "")

    def then(self, *behaviours: Behaviour) -> Self:
        """The next requests' behaviours, in order; after them the default's."""
        self.script.extend(behaviours)
        return self

    def wait_for_request(self, timeout: float = 10) -> Seen:
        assert self.arrived.acquire(timeout=timeout), f"no request reached {self.name}"
        return self.requests[-1]

    @property
    def count(self) -> int:
        return len(self.requests)

    # --- the wire

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        number = self._connections
        self._writers.add(writer)
        try:
            while (seen := await self._read(reader, number)) is not None:
                self.requests.append(seen)
                behaviour = self._choose(seen)
                self.in_flight += 1
                self.arrived.release()
                try:
                    if not await self._answer(seen, behaviour, reader, writer):
                        break
                except ConnectionError:
                    seen.client_left.set()
                    raise
                finally:
                    self.in_flight -= 1
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, TimeoutError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def _choose(self, seen: Seen) -> Behaviour:
        if self.script:
            return self.script.popleft()
        return self.chooser(seen) if self.chooser is not None else self.default

    async def _read(self, reader: asyncio.StreamReader, number: int) -> Seen | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        lines = head.decode("latin-1").split("\r\n")
        method, path, _ = lines[0].split(" ", 2)
        headers = [(k, v.strip()) for k, _, v in (line.partition(":") for line in lines[1:] if line)]
        body = b""
        fields = {k.lower(): v for k, v in headers}
        if "content-length" in fields:
            body = await reader.readexactly(int(fields["content-length"]))
        elif fields.get("transfer-encoding") == "chunked":
            while size := int(await reader.readline(), 16):
                body += await reader.readexactly(size)
                await reader.readline()
            await reader.readline()
        return Seen(method, path, headers, body, time.monotonic(), head, number)

    async def _answer(
        self, seen: Seen, b: Behaviour, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request; False if the connection is over."""
        watching = asyncio.ensure_future(self._watch_client(seen, reader))
        try:
            if b.delay:
                await asyncio.wait({watching}, timeout=b.delay)
            if b.gate is not None and b.gate_at is None and b.rest is None:
                await self._pass(b.gate, seen)
            if b.reset:
                self._rst(writer)
                return False
            if b.silent:
                await watching
                return False
            if b.informational:
                writer.write(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")
                await writer.drain()
            if b.raw is not None:
                writer.write(b.raw)
                if b.rest is not None:
                    assert b.gate is not None
                    await self._pass(b.gate, seen)
                    writer.write(b.rest)
                while b.endless is not None:
                    writer.write(b.endless)
                    await writer.drain()
                if b.stall:
                    await watching
                return False
            if b.talk is not None:
                watching.cancel()
                await self._talk(seen, b.talk, reader, writer)
                return False
            dialect, operation, stream = _kind(seen)
            if b.status >= 400:
                body = b.body if b.body is not None else error_body(dialect, b)
                await self._whole(writer, b, body, "application/json")
                return True
            if b.body is not None or not stream:
                body = b.body if b.body is not None else self._answer_body(dialect, operation, seen, b)
                kind = b.headers.get("content-type", "application/json")
                cut, stall = b.cut_after is not None or b.last == "cut", b.headers_then_silent or b.last == "stall"
                if cut or stall or b.drip:
                    writer.write(_head(b, kind, f"content-length: {len(body)}\r\n"))
                    if b.drip:
                        await self._drip(writer, seen, body)
                        return False
                    writer.write(body[: -1 if b.last is not None else len(body) // 2])
                    await writer.drain()
                    if cut:
                        self._cut(b, writer)
                    else:
                        await self._stall(seen, watching)
                    return False
                await self._whole(writer, b, body, kind)
                return True
            return await self._stream(seen, b, dialect, operation, writer, watching)
        finally:
            watching.cancel()

    @staticmethod
    async def _watch_client(seen: Seen, reader: asyncio.StreamReader) -> None:
        # At most one byte of a pipelined request would be lost; the clients here do not pipeline.
        # A reset is an exception on the reader, not an end.
        while not reader.at_eof() and reader.exception() is None:
            await asyncio.sleep(0.005)
            if reader._buffer:  # type: ignore[attr-defined]
                return
        seen.client_left.set()

    @staticmethod
    async def _pass(gate: threading.Event, seen: Seen) -> None:
        while not gate.is_set() and not seen.client_left.is_set():
            await asyncio.sleep(0.005)

    def _cut(self, b: Behaviour, writer: asyncio.StreamWriter) -> None:
        if b.cut_by == "reset":
            self._rst(writer)
        else:
            writer.close()

    @staticmethod
    def _rst(writer: asyncio.StreamWriter) -> None:
        sock = writer.get_extra_info("socket")
        if writer.transport.is_closing():
            return
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    @staticmethod
    async def _stall(seen: Seen, watching: asyncio.Future[None]) -> None:
        await asyncio.sleep(0.02)  # who carries it on, in this same loop, has done so
        seen.waits = True
        await watching

    @staticmethod
    async def _drip(writer: asyncio.StreamWriter, seen: Seen, body: bytes) -> None:
        for at in range(len(body) - 1):
            if seen.client_left.is_set():
                return
            writer.write(body[at : at + 1])
            await writer.drain()
            seen.pieces += 1
            await asyncio.sleep(0.02)

    @staticmethod
    async def _whole(writer: asyncio.StreamWriter, b: Behaviour, body: bytes, kind: str) -> None:
        writer.write(_head(b, kind, f"content-length: {len(body)}\r\n") + body)
        await writer.drain()

    async def _talk(
        self,
        seen: Seen,
        talk: Callable[[str], list[str] | None],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        ws = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        ws.receive_data(seen.raw_head)
        for _ in ws.events():
            writer.write(ws.send(wsproto.events.AcceptConnection()))
        text = ""
        while data := await reader.read(65536):
            ws.receive_data(data)
            for event in ws.events():
                match event:
                    case wsproto.events.TextMessage(data=piece, message_finished=whole):
                        text += piece
                        if not whole:
                            continue
                        said, text = talk(text), ""
                        if said is None:
                            self._rst(writer)
                            return
                        for message in said:
                            writer.write(ws.send(wsproto.events.TextMessage(message)))
                    case wsproto.events.Ping() | wsproto.events.CloseConnection():
                        writer.write(ws.send(event.response()))
            await writer.drain()

    async def _stream(
        self,
        seen: Seen,
        b: Behaviour,
        dialect: str,
        operation: str,
        writer: asyncio.StreamWriter,
        watching: asyncio.Future[None],
    ) -> bool:
        chunked = not b.close_delimited
        writer.write(
            _head(b, "text/event-stream", "transfer-encoding: chunked\r\n" if chunked else "connection: close\r\n")
        )
        await writer.drain()

        async def send(data: bytes) -> None:
            writer.write(b"%x\r\n%s\r\n" % (len(data), data) if chunked else data)
            await writer.drain()

        if b.headers_then_silent:
            await self._stall(seen, watching)
            return False
        grammar = _GRAMMARS[operation](self.name, seen, b)
        for event in grammar.before():
            await send(event)
        if b.pings_only:
            while not seen.client_left.is_set():
                await send(grammar.ping())
                seen.pieces += 1
                await asyncio.sleep(0.02)
            return False
        for _ in range(b.pings):
            await asyncio.sleep(b.ping_seconds)
            await send(grammar.ping())
        for i in range(b.tokens):
            if b.gate is not None and b.gate_at == i:
                await self._pass(b.gate, seen)
            if b.pace:
                await asyncio.sleep(b.pace)
            if b.cut_after == i:
                self._cut(b, writer)
                return False
            if b.stall_after == i:
                await self._stall(seen, watching)
                return False
            if b.amid is not None and i == 2:
                await send(b.amid)
            if b.error_after == i:
                await send(grammar.error(b))
                break
            if b.end_after == i:
                break
            if b.malformed_before == i:
                await send(grammar.malformed())
            await send(grammar.malformed() if b.malformed_at == i else grammar.token(i))
        else:
            rest = grammar.finish() + ([] if b.no_done else grammar.terminal())
            if b.last is not None:
                rest[-1] = rest[-1][:-1]
            for event in rest:
                await send(event)
            if b.last == "cut":
                self._cut(b, writer)
            elif b.last == "stall":
                await self._stall(seen, watching)
            if b.last is not None:
                return False
        if chunked:
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        return chunked

    def _answer_body(self, dialect: str, operation: str, seen: Seen, b: Behaviour) -> bytes:
        return json.dumps(_GRAMMARS[operation](self.name, seen, b).whole()).encode()


def _head(b: Behaviour, kind: str, more: str) -> bytes:
    headers = {"content-type": kind, **b.headers}
    lines = "".join(f"{k}: {v}\r\n" for k, v in headers.items())
    return f"HTTP/1.1 {b.status} Whatever\r\n{lines}{more}\r\n".encode()


def _kind(seen: Seen) -> tuple[str, str, bool]:
    path = seen.path.partition("?")[0]
    if path.endswith(("/messages", "/count_tokens")):
        dialect, operation = "anthropic", path.rpartition("/")[2]
    elif ":" in path.rpartition("/")[2]:
        dialect, operation = "gemini", "generateContent"
        return dialect, operation, path.endswith(":streamGenerateContent")
    else:
        dialect, operation = "openai", path.partition("/v1/")[2] or path.removeprefix("/backend-api/codex").lstrip("/")
    if operation not in _GRAMMARS:
        operation = "other"
    try:
        body = seen.json
    except ValueError:
        body = None
    stream = isinstance(body, dict) and body.get("stream") is True
    return dialect, operation, stream


def error_body(dialect: str, b: Behaviour) -> bytes:
    match dialect:
        case "anthropic":
            body: Any = {"type": "error", "error": {"type": b.code or "api_error", "message": b.message}}
        case "gemini":
            body = {"error": {"code": b.status, "message": b.message, "status": b.code or "INTERNAL"}}
        case _:
            error = {"message": b.message, "type": b.code or "server_error", "param": None, "code": b.code}
            body = {"error": error}
    return json.dumps(body).encode()


def text_of(name: str, b: Behaviour) -> str:
    """What a good answer of this provider says."""
    return "".join(words(name, b))


def words(name: str, b: Behaviour) -> Iterator[str]:
    if b.tokens:
        yield name
    yield from (f" w{i}" for i in range(1, b.tokens))


class Grammar:
    def __init__(self, name: str, seen: Seen, b: Behaviour) -> None:
        self.name = name
        self.b = b
        self.tokens = list(words(name, b))
        try:
            self.asked: dict[str, Any] = json.loads(seen.body)
        except ValueError:
            self.asked = {}
        self.model = self.asked.get("model") or "m"

    def before(self) -> list[bytes]:
        return []

    def ping(self) -> bytes:
        return b": ping\n\n"

    def finish(self) -> list[bytes]:
        return []

    def terminal(self) -> list[bytes]:
        return []

    def error(self, b: Behaviour) -> bytes:
        return b"data: " + error_body("openai", b) + b"\n\n"

    def token(self, i: int) -> bytes:
        raise NotImplementedError

    def malformed(self) -> bytes:
        return b"data: {not json\n\n"

    def whole(self) -> Any:
        raise NotImplementedError


class _Chat(Grammar):
    def event(self, **more: Any) -> bytes:
        body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": self.model}
        return b"data: " + json.dumps({**body, **more}).encode() + b"\n\n"

    def chunk(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        return self.event(choices=[{"index": 0, "delta": delta, "finish_reason": finish}])

    @property
    def usage(self) -> dict[str, int]:
        return {"prompt_tokens": 7, "completion_tokens": self.b.tokens, "total_tokens": 7 + self.b.tokens}

    def before(self) -> list[bytes]:
        return [self.chunk({"role": "assistant", "content": ""})]

    def token(self, i: int) -> bytes:
        return self.chunk({"content": self.tokens[i]})

    def finish(self) -> list[bytes]:
        stop = self.chunk({}, self.b.finish or "stop")
        if not (self.asked.get("stream_options") or {}).get("include_usage"):
            return [stop]
        return [stop, self.event(choices=[], usage=self.usage)]

    def terminal(self) -> list[bytes]:
        return [b"data: [DONE]\n\n"]

    def whole(self) -> Any:
        message = {"role": "assistant", "content": "".join(self.tokens)}
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": self.model,
            "choices": [{"index": 0, "message": message, "finish_reason": self.b.finish or "stop"}],
            "usage": self.usage,
        }


class _Responses(Grammar):
    def event(self, kind: str, **more: Any) -> bytes:
        body = {"type": kind, "sequence_number": 0, **more}
        return f"event: {kind}\ndata: {json.dumps(body)}\n\n".encode()

    def response(self, status: str, output: list[Any]) -> dict[str, Any]:
        usage = {
            "input_tokens": 7,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": self.b.tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 7 + self.b.tokens,
        }
        return {
            "id": f"resp_{self.name}",
            "object": "response",
            "created_at": 1,
            "model": self.model,
            "status": status,
            "output": output,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": usage if status == "completed" else None,
        }

    def message(self, text: str) -> dict[str, Any]:
        content = [{"type": "output_text", "text": text, "annotations": []}]
        return {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": content}

    def before(self) -> list[bytes]:
        item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        part = {"type": "output_text", "text": "", "annotations": []}
        return [
            self.event("response.created", response=self.response("in_progress", [])),
            self.event("response.in_progress", response=self.response("in_progress", [])),
            self.event("response.output_item.added", output_index=0, item=item),
            self.event("response.content_part.added", item_id="msg_1", output_index=0, content_index=0, part=part),
        ]

    def token(self, i: int) -> bytes:
        place = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "logprobs": []}
        return self.event("response.output_text.delta", delta=self.tokens[i], **place)

    def terminal(self) -> list[bytes]:
        whole = self.message("".join(self.tokens))
        return [
            self.event("response.output_item.done", output_index=0, item=whole),
            self.event("response.completed", response=self.response("completed", [whole])),
        ]

    def error(self, b: Behaviour) -> bytes:
        return self.event("error", code=b.code or "server_error", message=b.message, param=None)

    def whole(self) -> Any:
        return self.response("completed", [self.message("".join(self.tokens))])


class _Messages(Grammar):
    def event(self, kind: str, **more: Any) -> bytes:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **more})}\n\n".encode()

    def message(self, content: list[Any], stop: str | None, output: int) -> dict[str, Any]:
        return {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": stop,
            "stop_sequence": None,
            "usage": {"input_tokens": 7, "output_tokens": output},
        }

    def before(self) -> list[bytes]:
        return [
            self.event("message_start", message=self.message([], None, 1)),
            self.event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
            self.event("ping"),
        ]

    def ping(self) -> bytes:
        return self.event("ping")

    def malformed(self) -> bytes:
        # The SDK reads no data of an event without a name.
        return b"event: content_block_delta\ndata: {not json\n\n"

    def token(self, i: int) -> bytes:
        return self.event("content_block_delta", index=0, delta={"type": "text_delta", "text": self.tokens[i]})

    def finish(self) -> list[bytes]:
        usage = {"output_tokens": self.b.tokens}
        return [
            self.event("content_block_stop", index=0),
            self.event(
                "message_delta",
                delta={"stop_reason": self.b.finish or "end_turn", "stop_sequence": None},
                usage=usage,
            ),
        ]

    def terminal(self) -> list[bytes]:
        return [self.event("message_stop")]

    def error(self, b: Behaviour) -> bytes:
        return self.event("error", error={"type": b.code or "overloaded_error", "message": b.message})

    def whole(self) -> Any:
        content = [{"type": "text", "text": "".join(self.tokens)}]
        return self.message(content, self.b.finish or "end_turn", self.b.tokens)


class _CountTokens(Grammar):
    def whole(self) -> Any:
        return {"input_tokens": 7}


class _Gemini(Grammar):
    def body(self, text: str, finish: str | None) -> dict[str, Any]:
        candidate: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
        if finish:
            candidate["finishReason"] = finish
        usage = {"promptTokenCount": 7, "candidatesTokenCount": self.b.tokens, "totalTokenCount": 7 + self.b.tokens}
        return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "m"}

    def token(self, i: int) -> bytes:
        # Gemini has no terminal event: its last chunk bears the finish reason.
        last = i == self.b.tokens - 1
        return b"data: " + json.dumps(self.body(self.tokens[i], "STOP" if last else None)).encode() + b"\r\n\r\n"

    def ping(self) -> bytes:
        return b"\r\n"

    def error(self, b: Behaviour) -> bytes:
        return (
            b"data: " + error_body("gemini", Behaviour(status=503, code="UNAVAILABLE", message=b.message)) + b"\r\n\r\n"
        )

    def whole(self) -> Any:
        return self.body("".join(self.tokens), "STOP")


class _Other(Grammar):
    def whole(self) -> Any:
        data = [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}]
        return {"object": "list", "data": data, "model": self.model, "by": self.name, "usage": {"prompt_tokens": 1}}


_GRAMMARS: dict[str, type[Grammar]] = {
    "chat/completions": _Chat,
    "responses": _Responses,
    "messages": _Messages,
    "count_tokens": _CountTokens,
    "generateContent": _Gemini,
    "other": _Other,
}


def grammar(operation: str, name: str, body: bytes, b: Behaviour) -> Grammar:
    """How a provider of this name words its answer to a request's body."""
    return _GRAMMARS[operation](name, Seen("POST", "", [], body, 0, b"", 0), b)


def main() -> None:
    """Run as a process of its own, to be killed: prints its port, then serves slow streams for ever."""
    with Provider("mortal") as provider:
        provider.chooser = lambda seen: Behaviour(tokens=10_000, pace=0.002)
        print(provider.port, flush=True)
        provider._thread.join()


if __name__ == "__main__":
    main()
