"""The attempts of one call as mitmproxy's layer has them: their ids upstream, and what asks for their connections.

What an attempt is worth, and when it is begun or given up, is not decided here.
"""

from __future__ import annotations

import itertools
from typing import Protocol

from mitmproxy.connection import Connection
from mitmproxy.proxy import events, layer
from mitmproxy.proxy.layers.http import GetHttpConnection, GetHttpConnectionCompleted, HttpStream, SendHttp
from mitmproxy.proxy.layers.http._events import ErrorCode, RequestProtocolError

from sidestep.calls.flight import Flight

TIMER_SLACK_SECONDS = 0.05
"""A deadline this much earlier than the armed timer is worth a timer of its own."""

_upstream_ids = itertools.count(1 << 40)


class FreshConnection(GetHttpConnection):
    """A connection that shares no other's fate: neither one that exists nor one that is being made. No dataclass of its
    own: that would take the hash by identity away."""


class Carrier(Protocol):
    """What is asked of the layer that carries the attempts."""

    streams: dict[int, HttpStream]
    connections: dict[Connection, layer.Layer]

    def withdraw(self, asking: GetHttpConnection) -> layer.CommandGenerator[None]: ...

    def connecting_for(self, asking: GetHttpConnection) -> float | None: ...

    def queue_of(self, connection: Connection) -> dict[int, list[events.Event]]: ...


class Flights:
    """State: the attempts under way, and what asks for their connections, by upstream id.

    An id is of one attempt on one connection: whatever an abandoned one still sends finds nothing.
    """

    def __init__(self, stream: HttpStream, carrier: Carrier) -> None:
        """`stream`: the one that gets what comes for them."""
        self.by_id: dict[int, Flight] = {}
        self._asking: dict[int, GetHttpConnection] = {}
        self._stream = stream
        self._carrier = carrier

    def __contains__(self, flight: Flight) -> bool:
        return flight.up_id in self.by_id

    def __len__(self) -> int:
        return len(self.by_id)

    def all(self) -> tuple[Flight, ...]:
        """Those under way now, whatever becomes of one meanwhile."""
        return tuple(self.by_id.values())

    def begin(self, flight: Flight, asking: GetHttpConnection) -> None:
        """An attempt is under way from now on; `asking` is to bring its connection."""
        flight.up_id = next(_upstream_ids)
        self.by_id[flight.up_id] = flight
        self._asking[flight.up_id] = asking
        self._carrier.streams[flight.up_id] = self._stream

    def asker(self, answer: GetHttpConnectionCompleted) -> Flight | None:
        """The attempt that has asked for a connection, which need not be waited for any more."""
        # By identity: commands that ask for the same address are equal.
        up_id = next((i for i, asking in self._asking.items() if asking is answer.command), None)
        if up_id is None:
            return None
        del self._asking[up_id]
        return self.by_id[up_id]

    def is_queued(self, flight: Flight) -> bool:
        """Whether it waits inside mitmproxy: for one of the five places of its address, or for an HTTP/2 stream."""
        if (asking := self._asking.get(flight.up_id)) is not None:
            return self._carrier.connecting_for(asking) is None
        return flight.connection is not None and flight.up_id in self._carrier.queue_of(flight.connection)

    def spared(self, flight: Flight) -> float | None:
        """Seconds that an attempt may still take, for it has waited inside mitmproxy, for a connection or for an HTTP/2
        stream: no provider's silence. None: it has had its time."""
        asking, timeouts = self._asking.get(flight.up_id), flight.timeouts
        if asking is not None:
            left = timeouts.connect - (self._carrier.connecting_for(asking) or 0.0)
            return left if left > TIMER_SLACK_SECONDS else None
        return timeouts.first_byte if self.is_queued(flight) else None

    def cancel(self, flight: Flight) -> layer.CommandGenerator[None]:
        """Nothing more is wanted of an attempt."""
        carrier = self._carrier
        self.by_id.pop(flight.up_id, None)
        carrier.streams.pop(flight.up_id, None)
        flight.deadline = None
        asking, connection = self._asking.pop(flight.up_id, None), flight.connection
        flight.connection = None
        if asking is not None:
            yield from carrier.withdraw(asking)
        elif connection is not None and connection in carrier.connections:
            if connection.alpn == b"h2" and (
                not flight.is_sent or carrier.queue_of(connection).pop(flight.up_id, None) is not None
            ):
                return  # no stream of it was opened; a reset would wait in line behind the whole request
            # Also where it was not used: an HTTP/1 connection holds one of the five places for its address.
            yield SendHttp(RequestProtocolError(flight.up_id, "abandoned", ErrorCode.CANCEL), connection)

    def dropped(self) -> None:
        """The app's stream is gone: nothing that comes for them finds it."""
        for up_id in self.by_id:
            self._carrier.streams.pop(up_id, None)
