"""One client connection: failover streams, connects that can be withdrawn, one timer for all deadlines, joined writes.

A `FailoverLayer` is mitmproxy's `HttpLayer` with another kind of stream.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

from mitmproxy.connection import Connection, ConnectionState, Server
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers.http import GetHttpConnection, HttpLayer, RegisterHttpConnection
from mitmproxy.proxy.layers.http._http2 import Http2Client
from mitmproxy.proxy.tunnel import TunnelLayer

from sidestep.mitm.flights import TIMER_SLACK_SECONDS, FreshConnection
from sidestep.mitm.protocols import AttentiveHttp2Server, DiscreetHttp2Client, PatientHttp1Client, QuickHttp1Server
from sidestep.mitm.stream import (
    GRACE_SECONDS,
    Commands,
    Conductor,
    Expired,
    FailoverStream,
)

FIRST_WRITE_BYTES = 1024
"""A response's head with the first event of a stream."""


AtOnce = Callable[[commands.StartHook], bool]
"""Carries out a hook. False: that is not all of it, mitmproxy is to wait for it as usual."""


def never(hook: commands.StartHook) -> bool:
    """All hooks are left to mitmproxy."""
    return False


class FailoverLayer(HttpLayer):
    """mitmproxy's HTTP layer with failover streams, connects that can be withdrawn, and one timer for all deadlines.

    State beside the base class's: the armed timers, the server connections that a request has gone out on, whether what
    is carried out now came from a server.
    """

    conductor: Conductor
    clock: Callable[[], float]
    at_once: AtOnce
    timers: dict[commands.Command, float]
    next_timer: float
    used: set[Connection]
    hears_server: bool

    @classmethod
    def adopt(
        cls,
        layer: HttpLayer,
        conductor: Conductor,
        clock: Callable[[], float],
        at_once: AtOnce = never,
    ) -> None:
        """Make a layer that has not started yet one of these, in its place."""
        layer.__class__ = cls
        assert isinstance(layer, cls)
        layer.conductor = conductor
        layer.clock = clock
        layer.at_once = at_once
        layer.timers = {}
        layer.next_timer = math.inf
        layer.used = set()
        layer.hears_server = False

    def make_stream(self, stream_id: int) -> Commands:
        stream = self.streams[stream_id] = FailoverStream(self.context.fork(), stream_id, self)
        yield from self.event_to_child(stream, events.Start())

    def _handle_event(self, event: events.Event) -> Commands:
        if isinstance(event, events.Wakeup) and event.command in self.timers:
            yield from self._on_timer(event)
            return
        if isinstance(event, events.ConnectionEvent) and self._is_forgotten(event.connection):
            return
        self.hears_server = isinstance(event, events.ConnectionEvent) and isinstance(event.connection, Server)
        yield from _joined(super()._handle_event(event))
        self.hears_server = False
        if isinstance(event, events.ConnectionClosed) and isinstance(event.connection, Server):
            self._forget(event.connection)
        elif isinstance(event, events.Start):
            server = self.connections[self.context.client]
            QuickHttp1Server.adopt(server)
            AttentiveHttp2Server.adopt(server)

    # --- connections

    def get_connection(self, event: GetHttpConnection, *, reuse: bool = True) -> Commands:
        yield from super().get_connection(event, reuse=reuse and not isinstance(event, FreshConnection))

    def is_idle(self, connection: Connection) -> bool:
        """Whether a connection has served before and nothing has come on it since it was idle: all that it carries now
        was sent at once, as the streams of an HTTP/2 app are that wakes up. From now on it has served."""
        served = connection in self.used
        self.used.add(connection)
        carried = (f for s in self._routed_streams() for f in s.flights.all() if f.connection is connection)
        return served and all(f.is_first_on_reuse for f in carried if f.is_sent)

    def register_connection(self, command: RegisterHttpConnection) -> Commands:
        connection = command.connection
        if connection not in self.waiting_for_establishment:
            return  # whoever asked for it has withdrawn
        # A kept error would be given at once to every later request of this client: a probe could never pass.
        connection.error = None
        if not command.err and not self.waiting_for_establishment[connection]:
            # No request wants it any more, and it holds one of the five places that there are for its address.
            yield commands.CloseConnection(self._outermost(connection))
        if not command.err:
            client = self.connections[connection].context.layers[-1]
            PatientHttp1Client.adopt(client)
            DiscreetHttp2Client.adopt(client)
        yield from super().register_connection(command)
        if command.err:
            self._forget(connection)

    def withdraw(self, asking: GetHttpConnection) -> Commands:
        """A connection is wanted no longer: if nothing else waits for it, its making is broken off."""
        self.command_sources.pop(asking, None)
        connection = self._asked_for(asking)
        if connection is None:
            return
        waiting = self.waiting_for_establishment[connection]
        waiting[:] = [other for other in waiting if other is not asking]
        outermost = self._outermost(connection)
        # One that waits in line for one of the five places is closed once it is made: broken off in the line its end
        # would never be reported, and a request that joined it meanwhile would wait for ever.
        if not waiting and outermost.timestamp_start is not None:
            del self.waiting_for_establishment[connection]
            self.connections.pop(connection, None)
            self.connections.pop(outermost, None)
            yield commands.CloseConnection(outermost)

    def connecting_for(self, asking: GetHttpConnection) -> float | None:
        """Seconds since the connection asked for began to be made; None while it waits for one of five places."""
        connection = self._asked_for(asking)
        began = None if connection is None else self._outermost(connection).timestamp_start
        return None if began is None else time.time() - began

    def _asked_for(self, asking: GetHttpConnection) -> Connection | None:
        # By identity: commands that ask for the same address are equal.
        found = (c for c, waiting in self.waiting_for_establishment.items() if any(a is asking for a in waiting))
        return next(found, None)

    def _outermost(self, connection: Connection) -> Connection:
        """The connection to the upstream proxy that this one is tunnelled through, or itself."""
        handler = self.connections[connection]
        return handler.tunnel_connection if isinstance(handler, TunnelLayer) else connection

    def _forget(self, connection: Connection) -> None:
        if (
            connection.state is ConnectionState.CLOSED
            and connection is not self.context.server
            and connection not in self.waiting_for_establishment
        ):
            self.connections.pop(connection, None)
            self.used.discard(connection)

    def _is_forgotten(self, connection: Connection) -> bool:
        return (
            isinstance(connection, Server)
            and connection is not self.context.server
            and connection not in self.connections
        )

    def queue_of(self, connection: Connection) -> dict[int, list[events.Event]]:
        """The requests that still wait for a free stream of an HTTP/2 connection, by upstream id."""
        client = self.connections[connection].context.layers[-1] if connection in self.connections else None
        return client.stream_queue if isinstance(client, Http2Client) else {}

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
        for stream in tuple(self._routed_streams()):
            if stream.keep_alive_at is not None and stream.keep_alive_at <= now:
                for sign in stream.signs_of_life():
                    yield from self.event_to_child(self.connections[self.context.client], sign)
            if stream.due > now:
                continue
            if stream._paused:
                stream.postpone(self.clock() + GRACE_SECONDS)
            else:
                yield from self.event_to_child(stream, Expired(stream.stream_id))
        due = min((stream.due for stream in self._routed_streams()), default=math.inf)
        if due < math.inf:
            yield from self.arm(max(due, self.clock() + TIMER_SLACK_SECONDS))

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
