"""A provider that speaks HTTP/2 over TLS: the same answers and most of the same misbehaviour, in frames.

Each stream is carried to `Provider`'s own HTTP/1.1 code over a socket pair and its answer is put into frames, so that
both speak from one script. What only HTTP/2 can do is here: a GOAWAY, a reset of one stream, a limit on
concurrent streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import trustme

from support.provider import Provider

_HOP_BY_HOP = frozenset({b"connection", b"transfer-encoding", b"keep-alive"})


def server_context(ca: trustme.CA, host: str = "127.0.0.1", *protocols: str) -> ssl.SSLContext:
    """A TLS server's context with a certificate of this CA; `protocols` for ALPN."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(host).configure_cert(context)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


class H2Provider(Provider):
    """As `Provider`, with the trailers of a request among its fields, named `trailer-…`. A `reset` or cut
    resets the stream and leaves the connection to the others.

    `connections` counts TLS connections; `Seen.connection` numbers streams here.
    """

    def __init__(self, name: str, ca: trustme.CA, host: str = "127.0.0.1", max_streams: int = 100) -> None:
        super().__init__(name, tls=server_context(ca, host, "h2"), host=host)
        self.max_streams = max_streams
        self.connections = 0
        self.resets: list[int] = []
        """Error codes of the streams that clients reset."""
        self._open: set[_Connection] = set()
        self._carrying: set[asyncio.Future[None]] = set()

    def go_away(self) -> None:
        """Tell every client, gracefully, that its connection takes no new streams."""
        done = threading.Event()

        def tell() -> None:
            for connection in self._open:
                connection.go_away()
            done.set()

        self._loop.call_soon_threadsafe(tell)
        assert done.wait(5)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        connection = _Connection(self, reader, writer)
        self._open.add(connection)
        try:
            await connection.serve()
        except (ConnectionError, ssl.SSLError, TimeoutError, h2.exceptions.ProtocolError):
            pass
        finally:
            self._open.discard(connection)
            self._writers.discard(writer)
            connection.end()
            writer.close()

    async def carry(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Both ends of a stream's way to the HTTP/1.1 code: ours; the other end is being served."""
        ours, theirs = socket.socketpair()
        # Its task may be cancelled at any of these waits: neither socket may stay.
        try:
            reader, writer = await asyncio.open_connection(sock=theirs)
        except BaseException:
            ours.close()
            theirs.close()
            raise
        task = asyncio.ensure_future(super()._connection(reader, writer))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)
        try:
            return await asyncio.open_connection(sock=ours)
        except BaseException:
            ours.close()
            raise


class _Connection:
    """One client. State: the protocol's state, a task and an HTTP/1.1 socket for each stream."""

    def __init__(self, provider: H2Provider, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.provider = provider
        self.reader = reader
        self.writer = writer
        config = h2.config.H2Configuration(client_side=False, header_encoding=None)
        self.h2 = h2.connection.H2Connection(config)
        # `update_settings` before `initiate_connection` leaves the client with the default of 100.
        limit = {h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: provider.max_streams}
        self.h2.local_settings = h2.settings.Settings(client=False, initial_values=limit)
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.bodies: dict[int, bytearray] = {}
        self.heads: dict[int, list[Any]] = {}
        self.room = asyncio.Event()

    async def serve(self) -> None:
        self.h2.initiate_connection()
        self.flush()
        while data := await self.reader.read(65536):
            for event in self.h2.receive_data(data):
                match event:
                    case h2.events.RequestReceived(stream_id=number, headers=headers):
                        self.heads[number] = list(headers or ())
                        self.bodies[number] = bytearray()
                    case h2.events.DataReceived(stream_id=number, data=piece):
                        self.bodies[number] += piece
                        self.h2.acknowledge_received_data(event.flow_controlled_length, number)
                    case h2.events.TrailersReceived(stream_id=number, headers=headers):
                        self.heads[number] += [(b"trailer-" + bytes(k), v) for k, v in headers or ()]
                    case h2.events.StreamEnded(stream_id=number):
                        self.tasks[number] = asyncio.ensure_future(self.answer(number))
                    case h2.events.StreamReset(stream_id=number, error_code=code):
                        self.provider.resets.append(int(code))
                        if (task := self.tasks.pop(number, None)) is not None:
                            task.cancel()
                    case h2.events.WindowUpdated() | h2.events.RemoteSettingsChanged():
                        self.room.set()
                    case h2.events.ConnectionTerminated():
                        return
            self.flush()

    def end(self) -> None:
        for task in self.tasks.values():
            task.cancel()

    def go_away(self) -> None:
        last = max(self.heads, default=0)
        self.h2.close_connection(last_stream_id=last)
        self.flush()

    def flush(self) -> None:
        data = self.h2.data_to_send()
        if data:
            self.writer.write(data)

    async def answer(self, number: int) -> None:
        reader, writer = await self.provider.carry()
        try:
            writer.write(_as_h1(self.heads.pop(number), bytes(self.bodies.pop(number))))
            await self.frames(number, reader)
        except (ConnectionError, asyncio.IncompleteReadError):
            # Where HTTP/1.1 breaks its connection, HTTP/2 breaks the stream.
            with contextlib.suppress(h2.exceptions.ProtocolError):
                self.h2.reset_stream(number, h2.errors.ErrorCodes.INTERNAL_ERROR)
                self.flush()
        except h2.exceptions.ProtocolError:
            pass
        finally:
            self.tasks.pop(number, None)
            writer.close()

    async def frames(self, number: int, reader: asyncio.StreamReader) -> None:
        while True:
            lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
            status = lines[0].split(b" ")[1]
            fields = [(k.lower(), v.strip()) for k, _, v in (line.partition(b":") for line in lines[1:] if line)]
            kept = [(k, v) for k, v in fields if k not in _HOP_BY_HOP]
            self.h2.send_headers(number, [(b":status", status), *kept])
            self.flush()
            if not status.startswith(b"1"):
                break
        given = dict(fields)
        if b"content-length" in given:
            left = int(given[b"content-length"])
            while left:
                piece = await reader.read(min(left, 65536))
                if not piece:
                    raise asyncio.IncompleteReadError(b"", left)
                left -= len(piece)
                await self.data(number, piece)
        elif given.get(b"transfer-encoding", b"").lower() == b"chunked":
            while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
                await self.data(number, await reader.readexactly(size))
                await reader.readexactly(2)
            trailers = []
            while line := (await reader.readuntil(b"\r\n")).strip():
                name, _, value = line.partition(b":")
                trailers.append((name.lower(), value.strip()))
            if trailers:
                self.h2.send_headers(number, trailers, end_stream=True)
                self.flush()
                return
        else:
            while piece := await reader.read(65536):
                await self.data(number, piece)
        self.h2.end_stream(number)
        self.flush()

    async def data(self, number: int, piece: bytes) -> None:
        while piece:
            size = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size, len(piece))
            if size <= 0:
                self.room.clear()
                await self.room.wait()
                continue
            self.h2.send_data(number, piece[:size])
            self.flush()
            piece = piece[size:]


def _as_h1(head: list[Any], body: bytes) -> bytes:
    pseudo = {bytes(k): bytes(v) for k, v in head if bytes(k).startswith(b":")}
    fields = [(bytes(k), bytes(v)) for k, v in head if not bytes(k).startswith(b":")]
    lines = [b"%s %s HTTP/1.1" % (pseudo[b":method"], pseudo[b":path"]), b"host: " + pseudo.get(b":authority", b"")]
    lines += [b"%s: %s" % (k, v) for k, v in fields if k not in (b"content-length", b"host")]
    lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
