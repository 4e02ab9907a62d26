"""One routed flow: the request as the app sent it, its exchange, the attempt that the flow shows.

What the layer and the hooks share about a flow while it is live. No sending, no waiting, no mitmproxy.proxy.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from mitmproxy import http

from sidestep.breaker import judging
from sidestep.breaker.outcomes import ErrorKind, Outcome, Then
from sidestep.calls import clients, flows
from sidestep.config.advice import without_issuer
from sidestep.config.settings import Provider
from sidestep.forwarding import allow_list
from sidestep.leaks import Leaks
from sidestep.routing.engine import Attempt, Engine
from sidestep.routing.exchange import Exchange
from sidestep.routing.table import Match

if TYPE_CHECKING:
    from sidestep.calls.flight import Flight
    from sidestep.calls.frames import Frames

logger = logging.getLogger(__name__)

Clock = Callable[[], float]

LEFT_OUT = "reasoning of another issuer left out"


class Session:
    """State: the exchange once the body was read, the attempts under way, the one that the flow shows, the one that
    answered. `acting` is False where Sidestep only looks on (mode `observe`)."""

    def __init__(
        self,
        flow: http.HTTPFlow,
        match: Match,
        engine: Engine,
        clock: Clock,
        *,
        acting: bool,
        log_bug: Callable[[str, Exception], None] | None = None,
    ) -> None:
        """`log_bug`: told of bugs of ours that a call gets over."""
        self.flow = flow
        self.match = match
        self.engine = engine
        self.clock = clock
        self.acting = acting
        self._log_bug = log_bug
        proxy = engine.settings.proxy
        allowed = allow_list(match.dialect.name, proxy.forward_headers, proxy.forward_parameters)
        self.original = flows.Original.take(flow.request, allowed)
        self.exchange: Exchange | None = None
        self.flight: Flight | None = None
        self.flights: list[Flight] = []
        """The attempts that are not over."""
        self.answer: Attempt | None = None
        """The attempt whose answer the app gets; it need not be the latest. Of several over a WebSocket, one that tells
        what came of it."""
        self.frames: Frames | None = None
        """What goes over a WebSocket, once its handshake was taken."""
        self.kept_bytes = 0
        """Of the messages that mitmproxy keeps of that."""
        self.conversation = ""
        """A name for the conversation that a handshake says it goes on with."""
        self.broken_off = False
        """What the app gets is an error of Sidestep's own, or ends with one."""
        self.comes_again = False
        """It has failed over a WebSocket before any of its answer came, and its client asks again over HTTP, which is
        counted there."""
        self.held = False
        """It waits, or has waited, for a limit to end that may be far away: the app is kept waiting too."""
        self.app_left = False
        """The app's connection has ended before the call did, or its WebSocket amid a response."""
        self.direct_hosts: str | None = None
        """The user's NO_PROXY, where it is `sidestep run` that has put a proxy of the user's behind this one."""
        self.leaks = Leaks(engine.keys, self._said_by_app)
        """Finds what the app must not be told."""
        self.advice: str | None = None
        """In mode `observe`: what would have been done."""

    def __repr__(self) -> str:
        return f"Session({self.exchange!r}, {self.flight!r}, answered_by={self.answered_by and self.answered_by.name})"

    def got_over(self, where: str, bug: Exception) -> None:
        """A bug of ours has cost the call nothing but what would have been learnt from it."""
        if self._log_bug is None:
            raise bug
        self._log_bug(where, bug)

    @property
    def answered_by(self) -> Provider | None:
        return None if self.answer is None else self.answer.candidate.provider

    @property
    def attempt(self) -> Attempt | None:
        return None if self.flight is None else self.flight.attempt

    @property
    def is_websocket(self) -> bool:
        """The call is the handshake of a WebSocket."""
        return self.exchange is not None and self.exchange.call.is_websocket

    def _said_by_app(self) -> bytes:
        """All that the app has sent."""
        told = self.flow.websocket
        messages = [] if told is None else [m.content for m in told.messages if m.from_client]
        return b"\n".join([self.original.said(), *messages])

    def prepare(self, flight: Flight) -> None:
        """Make a request of its own for this attempt."""
        flight.made = flows.copied(self.flow.request)
        flows.point_at(flight.made, self.original, self.match, flight.exchange.call, flight.attempt.candidate)
        if flight.attempt.candidate.leaves_out:
            flight.note(LEFT_OUT)
            line = without_issuer(flight.provider)
            if line is not None and line not in self.engine.advised:
                self.engine.advised.add(line)
                logger.warning(f"sidestep: {line}")

    def show(self, flight: Flight) -> None:
        """Make the flow's request the one of this attempt."""
        assert flight.made is not None
        self.flight = flight
        self.flow.request.data = flight.made.data
        self.original.sent_body = flight.made.data.content

    def release(self) -> None:
        """Give the flow back as the app sent it, credential included: it goes where it was going."""
        self.drop(judging.INTERNAL)
        self.original.restore(self.flow.request, whole=True)

    def drop(self, outcome: Outcome) -> None:
        """Whatever is still open of this flow is closed with this outcome."""
        if self.frames is not None:
            self.frames.drop(outcome)
        for flight in tuple(self.flights):
            flight.drop(outcome)

    # --- an app that waits for a stream that is held back whole

    @property
    def keep_alive(self) -> bytes:
        """What keeps the app waiting while its whole stream is held back, or the call itself; empty if nothing does, or
        it is not."""
        return self.waiting if self.held or self._commit() == "complete" else b""

    @property
    def waiting(self) -> bytes:
        """What keeps an app waiting for its stream, and binds to no provider; empty if nothing does."""
        exchange = self.exchange
        if exchange is None or not exchange.call.stream:
            return b""
        if exchange.call.dialect == "gemini" and b"alt=sse" not in self.original.path:
            return b""  # a JSON array has no place for it
        return self.match.dialect.keep_alive(exchange.call)

    def _commit(self) -> str:
        stream = self.engine.settings.stream if self.flight is None else self.flight.provider.stream
        return stream.commit

    def made_up_response(self) -> http.Response:
        """Headers for an app that waits, before any provider has answered."""
        fields = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
        if self.exchange is not None and self.engine.settings.proxy.response_headers:
            fields["x-sidestep-request-id"] = self.exchange.id
        if self.flow.request.http_version != "HTTP/1.0":
            fields["transfer-encoding"] = "chunked"
        headers = http.Headers([(k.encode(), v.encode()) for k, v in fields.items()])
        return http.Response(b"HTTP/1.1", 200, b"OK", headers, None, None, time.time(), None)

    def phrase_exhausted(self) -> tuple[ErrorKind, str]:
        """What the app is told in band when no provider gave an answer."""
        trail = "" if self.exchange is None else self.exchange.trail
        return ErrorKind.SERVER, f"no provider gave an answer: {trail}"

    def error_event(self, kind: ErrorKind, message: str) -> bytes:
        """What ends the stream so that the app's SDK raises its own API error."""
        if self.flight is not None and self.flight.watch is not None:
            return self.flight.watch.error_event(kind, message)
        if self.exchange is None:
            return b""
        return self.match.dialect.phrase_error_event(self.exchange.call, kind, message)

    def is_to_be_cut(self, error: Outcome | None) -> bool:
        """Whether a cut connection ends best what the app has begun to read, for then it asks again. `error`: what the
        error that the provider itself has told says of it; the app gets that where it could not do better."""
        if not clients.asks_again_when_cut(self.flow.request.headers.get("user-agent", "")):
            return False
        if error is None:
            return True
        others = self.exchange is not None and len(self.exchange.plan.candidates) > 1
        return others and error.then is not Then.HAND_OVER
