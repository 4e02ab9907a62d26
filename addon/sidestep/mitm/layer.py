"""One client connection: failover streams, connect timeouts, one timer for all deadlines, joined writes.

A `FailoverLayer` is mitmproxy's `HttpLayer` with another kind of stream.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

from mitmproxy.connection import Connection, ConnectionState, Server
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers.http import (
    GetHttpConnection,
    GetHttpConnectionCompleted,
    HttpLayer,
    RegisterHttpConnection,
)
from mitmproxy.proxy.layers.http._http1 import Http1Server
from mitmproxy.proxy.layers.http._http2 import Http2Client
from mitmproxy.proxy.tunnel import TunnelLayer

from sidestep.mitm.protocols import PatientHttp1Client, QuickHttp1Server
from sidestep.mitm.stream import (
    GRACE_SECONDS,
    QUEUED,
    TIMER_SLACK_SECONDS,
    Commands,
    Conductor,
    Expired,
    FailoverStream,
    Phase,
)

FIRST_WRITE_BYTES = 1024
"""A response's head with the first event of a stream."""
JUST_MADE_SECONDS = 0.25
"""How long the report of a connection that was made may take to arrive."""


class FailoverLayer(HttpLayer):
    """mitmproxy's HTTP layer with failover streams, connect timeouts, and one timer for all deadlines.

    State beside the base class's: the deadlines of connections being made, the armed timers.
    """

    conductor: Conductor
    clock: Callable[[], float]
    connecting: dict[Connection, tuple[float, float]]
    timers: dict[commands.Command, float]
    next_timer: float
    given_up: set[Connection]

    @classmethod
    def adopt(cls, layer: HttpLayer, conductor: Conductor, clock: Callable[[], float]) -> None:
        """Make a layer that has not started yet one of these, in its place."""
        layer.__class__ = cls
        assert isinstance(layer, cls)
        layer.conductor = conductor
        layer.clock = clock
        layer.connecting = {}
        layer.timers = {}
        layer.next_timer = math.inf
        layer.given_up = set()

    def make_stream(self, stream_id: int) -> Commands:
        stream = self.streams[stream_id] = FailoverStream(self.context.fork(), stream_id)
        stream.parent = self
        yield from self.event_to_child(stream, events.Start())

    def _handle_event(self, event: events.Event) -> Commands:
        if isinstance(event, events.Wakeup) and event.command in self.timers:
            yield from self._on_timer(event)
            return
        if isinstance(event, events.ConnectionEvent) and self._is_forgotten(event.connection):
            return
        yield from _joined(super()._handle_event(event))
        if isinstance(event, events.ConnectionClosed) and isinstance(event.connection, Server):
            self._forget(event.connection)
        elif isinstance(event, events.Start):
            server = self.connections[self.context.client]
            if type(server) is Http1Server:
                server.__class__ = QuickHttp1Server

    # --- connections

    def get_connection(self, event: GetHttpConnection, *, reuse: bool = True) -> Commands:
        stream = self.command_sources.get(event)
        known = tuple(self.waiting_for_establishment)
        yield from super().get_connection(event, reuse=reuse)
        if self.waiting_for_establishment and isinstance(stream, FailoverStream) and stream.session is not None:
            for connection in self.waiting_for_establishment:
                if connection not in known:
                    seconds = stream.session.timeouts.connect
                    self.connecting[connection] = (self.clock() + seconds, seconds)
                    yield from self.arm(self.clock() + seconds)

    def register_connection(self, command: RegisterHttpConnection) -> Commands:
        connection = command.connection
        self.connecting.pop(connection, None)
        self.given_up.discard(connection)
        if connection not in self.waiting_for_establishment:
            return  # who waited was told before
        # A kept error would be given at once to every later request of this client: a probe could never pass.
        connection.error = None
        if not command.err and not self.waiting_for_establishment[connection]:
            # Nobody wants it any more, and it holds one of the five places that there are for its address.
            yield commands.CloseConnection(self._outermost(connection))
        if not command.err:
            PatientHttp1Client.adopt(self.connections[connection].context.layers[-1])
        yield from super().register_connection(command)
        if command.err:
            self._forget(connection)

    def _outermost(self, connection: Connection) -> Connection:
        """The connection to the upstream proxy that this one is tunnelled through, or itself."""
        outermost = self.connections[connection]
        return outermost.tunnel_connection if isinstance(outermost, TunnelLayer) else connection

    def _forget(self, connection: Connection) -> None:
        if (
            connection.state is ConnectionState.CLOSED
            and connection is not self.context.server
            and connection not in self.waiting_for_establishment
        ):
            self.connections.pop(connection, None)

    def _is_forgotten(self, connection: Connection) -> bool:
        return (
            isinstance(connection, Server)
            and connection is not self.context.server
            and connection not in self.connections
        )

    def is_queued(self, connection: Connection, up_id: int | None) -> bool:
        """Whether a request still waits inside mitmproxy for a free HTTP/2 stream."""
        if (handler := self.connections.get(connection)) is None:
            return False
        client = handler.context.layers[-1]
        return isinstance(client, Http2Client) and up_id in client.stream_queue

    # --- one timer

    def arm(self, at: float) -> Commands:
        """See to it that a timer fires at this time (monotonic seconds) or before."""
        if self.next_timer <= at + TIMER_SLACK_SECONDS:
            return
        command = commands.RequestWakeup(max(0.0, at - self.clock()))
        self.timers[command] = self.next_timer = at
        yield command
        # `command_sources` would pin the stream that asked; the answer is caught before it is looked up.
        self.command_sources.pop(command, None)

    def _on_timer(self, event: events.Wakeup) -> Commands:
        self.timers.pop(event.command, None)
        self.next_timer = min(self.timers.values(), default=math.inf)
        self.command_sources.pop(event.command, None)
        now = self.clock() + TIMER_SLACK_SECONDS
        for connection, (at, seconds) in tuple(self.connecting.items()):
            if at > now:
                continue
            yield from self._connect_expired(connection, seconds)
        for stream in tuple(self._routed_streams()):
            if stream.keep_alive_at is not None and stream.keep_alive_at <= now:
                for sign in stream.signs_of_life():
                    yield from self.event_to_child(self.connections[self.context.client], sign)
            if stream.deadline is None or stream.deadline > now:
                continue
            if stream.phase is Phase.CONNECT:
                stream.deadline = None
                yield from self._queued_too_long(stream)
            elif stream._paused:
                # It waits for a hook, or somebody looks at it: nobody's silence. What came meanwhile comes first.
                stream.deadline = self.clock() + GRACE_SECONDS
            else:
                stream.deadline = min(stream.deadline, self.clock())
                yield from self.event_to_child(stream, Expired(stream.stream_id))
        pending = [at for at, _ in self.connecting.values()]
        for stream in self._routed_streams():
            pending += [at for at in (stream.deadline, stream.keep_alive_at) if at is not None]
        if pending:
            yield from self.arm(max(min(pending), self.clock() + TIMER_SLACK_SECONDS))

    def _queued_too_long(self, stream: FailoverStream) -> Commands:
        """The request's time ran out while it waited for a connection: it waits no longer."""
        for waiting in self.waiting_for_establishment.values():
            for command in waiting:
                if self.command_sources.get(command) is stream:
                    waiting.remove(command)
                    del self.command_sources[command]
                    yield from self.event_to_child(stream, GetHttpConnectionCompleted(command, (None, QUEUED)))
                    return

    def _connect_expired(self, connection: Connection, seconds: float) -> Commands:
        set_up = connection.timestamp_tcp_setup if isinstance(connection, Server) else None
        if connection.timestamp_start is None or (set_up is not None and time.time() - set_up < JUST_MADE_SECONDS):
            # Still queued inside mitmproxy for one of five places, or just made and not reported yet: to close
            # it then would cancel the report, and whoever waits for it would wait for ever.
            self.connecting[connection] = (self.clock() + min(seconds, GRACE_SECONDS), seconds)
        elif connection in self.connections and connection.state is not ConnectionState.CLOSED:
            self.connecting[connection] = (self.clock() + GRACE_SECONDS, seconds)
            yield commands.CloseConnection(self._outermost(connection))
        elif connection.timestamp_end is None and set_up is None and connection not in self.given_up:
            self.given_up.add(connection)
            self.connecting[connection] = (self.clock() + GRACE_SECONDS, seconds)
            yield commands.CloseConnection(self._outermost(connection))
        else:
            # Closed, and nobody was told: tell them.
            self.connecting.pop(connection, None)
            if connection in self.waiting_for_establishment:
                yield from self.register_connection(RegisterHttpConnection(connection, "connect timed out"))

    def _routed_streams(self) -> Iterator[FailoverStream]:
        for stream_id, stream in self.streams.items():
            if stream_id == stream.stream_id and isinstance(stream, FailoverStream):
                yield stream


def _joined(given: Commands) -> Commands:
    """The same commands, with what goes to one connection in a row sent as one: mitmproxy writes a head, its body
    and each piece of a stream by itself, at a system call each. The first words of many do not wait for the last:
    little is gathered first, then twice as much each time."""
    waiting: commands.SendData | None = None
    more: list[bytes] = []
    size, enough = 0, FIRST_WRITE_BYTES
    for command in given:
        if type(command) is commands.SendData:
            if waiting is None:
                waiting = command
                size = len(command.data)
                continue
            if waiting.connection is command.connection and size < enough:
                more.append(command.data)
                size += len(command.data)
                continue
            enough *= 2
        if waiting is not None:
            if more:
                waiting.data = b"".join((waiting.data, *more))
                more.clear()
            yield waiting
            waiting = None
        if type(command) is commands.SendData:
            waiting = command
            size = len(command.data)
        else:
            yield command
    if waiting is not None:
        if more:
            waiting.data = b"".join((waiting.data, *more))
        yield waiting
