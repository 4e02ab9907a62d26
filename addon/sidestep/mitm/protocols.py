"""mitmproxy's protocol layers, mended where Sidestep needs it. They take the place of the original ones, before those
have begun.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from h2.errors import ErrorCodes
from h2.events import Event, StreamReset
from h11 import Data, EndOfMessage
from h11._readers import ChunkedReader
from h11._receivebuffer import ReceiveBuffer
from mitmproxy import http
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers.http._base import HttpEvent, ReceiveHttp
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    ResponseData,
    ResponseEndOfMessage,
    ResponseProtocolError,
)
from mitmproxy.proxy.layers.http._http1 import Http1Client, Http1Server
from mitmproxy.proxy.layers.http._http2 import Http2Client, Http2Server, StreamState
from mitmproxy.proxy.layers.websocket import WebsocketConnection, WebsocketEndHook, WebsocketLayer
from wsproto import events as wsevents
from wsproto.connection import ConnectionState as WebsocketState
from wsproto.events import CloseConnection

from sidestep.calls.frames import COME_AGAIN, VANISHED
from sidestep.calls.session import Session
from sidestep.leaks import Sieve

Commands = layer.CommandGenerator[None]


@dataclass
class MalformedHeadError(ResponseProtocolError):
    """The server has answered with what is no head of a response, or with one that cannot be passed on."""


GOING_AWAY, INTERNAL_ERROR = 1001, 1011
"""Close codes of a client and of a server (RFC 6455, 7.4.1)."""
INFORMATIONAL = re.compile(rb"HTTP/1\.[01] 1(?!01)\d\d[ \r\n]")
_TELLING_BYTES = len(b"HTTP/1.1 100 ")
MAX_INFORMATIONAL = 100
"""Informational heads before an answer: more lead to none."""
MAX_HEAD_BYTES = 1 << 20
"""Of one head that does not end. Clients and other proxies take 8 to 256 KB."""


_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
"""What a chunk begins with, in the form that nearly all have (RFC 9112, 7.1): without extensions."""


class JoinedChunks(ChunkedReader):
    """h11's reader of chunks gives them out one by one, in some ten steps each. This one gives out those that have come
    whole together: what it cannot read at a glance is for h11 to read.

    State beside the base's: how many are given out at once, next. Of what has come in one read the first does not wait
    for the others, then it is twice as many each time.
    """

    at_once: int

    @classmethod
    def adopt(cls, reader: object) -> None:
        """Make a reader of chunks one of these, to which something has come."""
        if isinstance(reader, ChunkedReader):
            reader.__class__ = cls
            assert isinstance(reader, cls)
            reader.at_once = 1

    def __call__(self, buf: ReceiveBuffer) -> Data | EndOfMessage | None:
        data, before = bytes(buf), self._bytes_to_discard
        if not data:
            return None
        if self._bytes_in_chunk or self._reading_trailer or not data.startswith(before):
            return super().__call__(buf)
        at, chunks = len(before), list[bytes]()
        while len(chunks) < self.at_once and (head := _CHUNK.match(data, at)) is not None:
            begin = head.end()
            end = begin + int(head[1], 16)
            if end == begin or data[end : end + 2] != b"\r\n":
                break
            chunks.append(data[begin:end])
            at = end + 2
        if not chunks:
            return super().__call__(buf)
        buf.maybe_extract_at_most(at)
        self._bytes_to_discard = b""
        self.at_once *= 2
        return Data(data=b"".join(chunks))


class PatientHttp1Client(Http1Client):
    """mitmproxy's HTTP/1 client takes a 103 for the answer itself; this one passes over all 1xx but 101, and over
    trailers. What has come of a body in one read it gives on in a few pieces, whatever the chunks it came in.

    State beside the base's: whether the head that is coming is an informational one (None: it is not known yet), how
    many of these there were before this answer.
    """

    is_informational: bool | None = None
    informational: int = 0

    @classmethod
    def adopt(cls, client: layer.Layer) -> None:
        """Make a client that has read nothing yet one of these."""
        if type(client) is Http1Client:
            client.__class__ = cls
            client.state = client.read_headers

    def read_headers(self, event: events.ConnectionEvent) -> Commands:
        awaited = isinstance(event, events.DataReceived) and self.request is not None
        if isinstance(event, events.DataReceived) and not awaited:
            yield commands.Log("A server has spoken out of turn: its connection is closed.")  # mitmproxy would quote it
            yield commands.CloseConnection(self.conn)
            return
        if awaited:
            self._pass_over_informational()
            if self.informational > MAX_INFORMATIONAL:
                yield from self._refuse()
                return
        for command in super().read_headers(event):
            if type(command) is ReceiveHttp:
                if type(command.event) is ResponseProtocolError:
                    error = command.event
                    if isinstance(event, events.DataReceived):  # it has said something, else it would just have gone
                        error = MalformedHeadError(error.stream_id, error.message, error.code)
                    yield ReceiveHttp(error)
                    continue
                self.is_informational = None
                self.informational = 0
            yield command
        reads_on = self.request is not None and self.state == self.read_headers
        if awaited and reads_on and len(self.buf) > MAX_HEAD_BYTES:
            yield from self._refuse()

    def _refuse(self) -> Commands:
        assert self.stream_id is not None
        self.state = self.done
        yield commands.CloseConnection(self.conn)
        text = "the server sends a head without an end"
        yield ReceiveHttp(MalformedHeadError(self.stream_id, text, ErrorCode.GENERIC_SERVER_ERROR))

    def _pass_over_informational(self) -> None:
        while self.informational <= MAX_INFORMATIONAL:
            if self.is_informational is None and len(self.buf) >= _TELLING_BYTES:
                # Not for each byte that comes: all that is there is copied.
                self.is_informational = INFORMATIONAL.match(bytes(self.buf)) is not None
            if not self.is_informational or self.buf.maybe_extract_lines() is None:
                return
            self.is_informational = None
            self.informational += 1

    def read_body(self, event: events.Event) -> Commands:
        JoinedChunks.adopt(self.body_reader)
        try:
            yield from super().read_body(event)
        except NotImplementedError:
            # So mitmproxy takes trailers, once it has read them. HTTP/1 clients are told of none: they are left out.
            assert self.stream_id is not None
            yield ReceiveHttp(ResponseEndOfMessage(self.stream_id))
            yield from self.mark_done(response=True)


class QuickHttp1Server(Http1Server):
    """mitmproxy's HTTP/1 server looks through the response's headers for each piece of a body; this one once. And it
    keeps heads that cannot be read out of the log.

    State beside the base's: the response looked at last, whether it is sent in chunks.
    """

    looked_at: http.Response | None = None
    chunked: bool = False

    @classmethod
    def adopt(cls, server: layer.Layer) -> None:
        """Make a server that has read nothing yet one of these."""
        if type(server) is Http1Server:
            server.__class__ = cls
            server.state = server.read_headers

    def read_headers(self, event: events.ConnectionEvent) -> Commands:
        for command in super().read_headers(event):
            if type(command) is commands.Log:  # mitmproxy quotes what there is of the head, credentials and all
                command = commands.Log("A client has sent no head of a request that can be read.")
            yield command

    def send(self, event: HttpEvent) -> Commands:
        if type(event) is not ResponseData or self.response is None:
            yield from super().send(event)
            return
        if self.looked_at is not self.response:
            self.looked_at = self.response
            self.chunked = "chunked" in self.response.headers.get("transfer-encoding", "").lower()
        data = event.data
        if data:  # an empty chunk would end the body
            yield commands.SendData(self.conn, b"%x\r\n%s\r\n" % (len(data), data) if self.chunked else data)


class AttentiveHttp2Server(Http2Server):
    """mitmproxy's HTTP/2 server does not hear of a reset that comes in one piece with the end of its request: such a
    call would be waited for as if its app were still there. This one tells of it. And it does not quote in the log what
    a client has sent."""

    @classmethod
    def adopt(cls, server: layer.Layer) -> None:
        """Make a server that has read nothing yet one of these."""
        if type(server) is Http2Server:
            server.__class__ = cls

    def handle_h2_event(self, event: Event) -> layer.CommandGenerator[bool]:
        if isinstance(event, StreamReset) and event.remote_reset:
            # It was forgotten as soon as it had ended. A stream that is done with is not there to be told.
            self.streams.setdefault(event.stream_id, StreamState.HEADERS_RECEIVED)
        return (yield from super().handle_h2_event(event))

    def protocol_error(self, message: str, error_code: int = ErrorCodes.PROTOCOL_ERROR) -> Commands:
        yield from super().protocol_error(message.partition(":")[0], error_code)


class DiscreetHttp2Client(Http2Client):
    """mitmproxy's HTTP/2 client quotes what the server has sent where it breaks the protocol or goes away: in the log,
    and in the error of each flow. This one says what has happened."""

    @classmethod
    def adopt(cls, client: layer.Layer) -> None:
        """Make a client that has read nothing yet one of these."""
        if type(client) is Http2Client:
            client.__class__ = cls

    def protocol_error(self, message: str, error_code: int = ErrorCodes.PROTOCOL_ERROR) -> Commands:
        yield from super().protocol_error(message.partition(":")[0], error_code)

    def close_connection(self, msg: str) -> Commands:
        yield from super().close_connection(msg.partition(":")[0])


class SiftedConnection(WebsocketConnection):
    """The server's side of a WebSocket, which ends where a message, a ping or a close repeats a key: to the app as if
    the server had closed it because of an error of its own (RFC 6455, 7.4.1). Nothing else can be said to all clients.
    """

    sieve: Sieve
    withheld: Callable[[], None]

    @classmethod
    def adopt(cls, connection: WebsocketConnection, sieve: Sieve, withheld: Callable[[], None]) -> None:
        """`withheld`: told once."""
        connection.__class__ = cls
        assert isinstance(connection, cls)
        connection.sieve, connection.withheld = sieve, withheld

    def events(self) -> Iterator[wsevents.Event]:
        for event in super().events():
            if self._repeats_key(event):
                self.withheld()
                yield wsevents.CloseConnection(INTERNAL_ERROR, "sidestep: it repeats a provider's key")
                return
            yield event

    def _repeats_key(self, event: wsevents.Event) -> bool:
        match event:
            case wsevents.Message():
                # Messages are passed on whole, however many frames they come in.
                found = self.sieve.feed(event.data.encode() if isinstance(event.data, str) else bytes(event.data))
                if event.message_finished:
                    self.sieve.rest()
                return found is None
            case wsevents.Ping() | wsevents.Pong():
                return self.sieve.finds(bytes(event.payload))
            case wsevents.CloseConnection():
                return self.sieve.finds((event.reason or "").encode())
        return False


class Overdue(events.Event):
    """A provider has been silent over a WebSocket for too long."""


_QUOTED = re.compile(r"""(?: \(payload:| b?['"]).*""", re.DOTALL)


def unquoted(command: commands.Command) -> commands.Command:
    """A line of the log without the bytes of a ping, or the name of an extension, that mitmproxy quotes in it."""
    return commands.Log(_QUOTED.sub("", command.message), command.level) if type(command) is commands.Log else command


class HonestWebsocketLayer(WebsocketLayer):
    """mitmproxy tells the app of a normal close when the server has vanished; this one cuts its connection as well. And
    it closes a socket whose client is to come back over HTTP.

    State beside the base's: the session, None where Sidestep does not act; what looks through what comes of the
    server, until it does.
    """

    session: Session | None = None
    sifting: tuple[Sieve, Callable[[], None]] | None = None

    @classmethod
    def adopt(cls, child: layer.Layer | None, session: Session, withheld: Callable[[], None] | None) -> None:
        """Make a layer that has not begun to relay one of these. `withheld`: told once, where a message repeats a
        key."""
        if type(child) is WebsocketLayer:
            child.__class__ = cls
            assert isinstance(child, cls)
            child.session = session
            child.sifting = None if withheld is None else (session.leaks.sieve(), withheld)

    def relay_messages(self, event: events.Event) -> Commands:
        if self.sifting is not None:
            SiftedConnection.adopt(self.server_ws, *self.sifting)
            self.sifting = None
        vanished = isinstance(event, events.ConnectionClosed) and event.connection == self.context.server
        if vanished and self.server_ws.state is WebsocketState.OPEN:
            yield from self._end(VANISHED, None)
            return
        if not isinstance(event, Overdue):
            for command in super().relay_messages(event):
                yield unquoted(command)
        frames = None if self.session is None else self.session.frames
        if frames is None or not frames.closes or self.client_ws.state is not WebsocketState.OPEN:
            return
        for ws, code in ((self.client_ws, COME_AGAIN), (self.server_ws, GOING_AWAY)):
            if ws.state is WebsocketState.OPEN:
                yield commands.SendData(ws.conn, ws.send(CloseConnection(code)))
        yield from self._end(COME_AGAIN, "")

    def _end(self, code: int, reason: str | None) -> Commands:
        data = self.flow.websocket
        assert data is not None
        data.timestamp_end = time.time()
        data.closed_by_client = False
        data.close_code = code
        data.close_reason = reason
        for ws in (self.server_ws, self.client_ws):
            yield commands.CloseConnection(ws.conn)
        yield WebsocketEndHook(self.flow)
        self.flow.live = False
        self._handle_event = self.done
