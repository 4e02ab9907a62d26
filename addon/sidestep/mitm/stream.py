"""One client request: carries out what is decided elsewhere. Attempts are sent, fed with what comes back, cancelled.

It knows no circuit and no route, and what an answer is worth is `holding`'s to say: a `Session` says what the next
attempt is, the hook `sidestep_next` asks for it. Each attempt is a `Flight` with an upstream stream id of its own, so
that whatever an abandoned one still sends finds nothing. A stream whose flow is not routed behaves as mitmproxy's own.

An attempt must not wait while mitmproxy pauses this stream (for a hook, or while a user looks at it): connections are
asked for without a pause, what comes for an attempt is fed to it at once, and what has to be done about it queues.
"""

from __future__ import annotations

import collections
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from mitmproxy import flow, http
from mitmproxy.connection import Connection, Server
from mitmproxy.net.http.validate import validate_headers
from mitmproxy.net.server_spec import ServerSpec
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import (
    DropStream,
    GetHttpConnection,
    GetHttpConnectionCompleted,
    HTTPMode,
    SendHttp,
)
from mitmproxy.proxy.layers.http._base import HttpEvent
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    RequestTrailers,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
    ResponseTrailers,
)
from mitmproxy.proxy.layers.http._hooks import (
    HttpErrorHook,
    HttpRequestHeadersHook,
    HttpRequestHook,
    HttpResponseHeadersHook,
)
from mitmproxy.proxy.mode_specs import ReverseMode

from sidestep.breaker import judging
from sidestep.breaker.outcomes import Kind, Outcome
from sidestep.calls.flight import Flight
from sidestep.calls.flows import answers_handshake
from sidestep.calls.holding import Do, Step
from sidestep.calls.session import Session
from sidestep.calls.watching import Shape
from sidestep.mitm.causes import CLOSED, RESET, cause_of
from sidestep.mitm.flights import TIMER_SLACK_SECONDS, Carrier, Flights, FreshConnection
from sidestep.mitm.handlers import client_is_slow, reset_at_end, was_reset
from sidestep.mitm.pages import Host, PageStream
from sidestep.mitm.protocols import HonestWebsocketLayer, MalformedHeadError, Overdue, unquoted

logger = logging.getLogger(__name__)

Commands = layer.CommandGenerator[None]

MAX_REQUEST_BYTES = 256 * 1024 * 1024
"""A routed request's body is kept to be sent again; a larger one goes where the app sent it."""
GRACE_SECONDS = 1.0
"""How much longer a deadline waits that came while mitmproxy had paused the stream."""
KEEP_ALIVE_SECONDS = 5.0
"""While a whole stream is held back the app is sent a sign of life this often."""
ASK_AGAIN_SECONDS = 2.0
"""A call whose attempt is late is looked at so often: whether another one may be asked by now, and, while two are under
way, whether a user has killed the flow, of which mitmproxy tells nobody."""
FROM_SERVER = (ResponseData, ResponseTrailers, ResponseEndOfMessage, ResponseProtocolError)


class Conductor(Host, Protocol):
    """What the layer needs to know of the addon."""

    def session(self, flow: http.HTTPFlow) -> Session | None:
        """The session of a routed flow on which Sidestep acts."""
        ...

    def called(self, request: http.Request) -> None:
        """A request has come in reverse mode, as its client made it."""
        ...

    def left(self, flow: http.HTTPFlow) -> None:
        """The app does not want its answer any more."""
        ...

    def unrouted(self, flow: http.HTTPFlow) -> None:
        """The flow has become too large to be moved: it goes where the app sent it."""
        ...

    def broke(self, flow: http.HTTPFlow) -> None:
        """The provider's connection could not be made, or broke, under a flow that is only looked on."""
        ...

    def beside(self, session: Session, late: Flight) -> Flight | None:
        """Another attempt beside one that is late, None if there is to be none."""
        ...

    def handshake(self, address: tuple[str, int]) -> tuple[str, str]:
        """How the last TLS handshake with a server failed, in mitmproxy's words and in ours."""
        ...

    def phrase_exhausted(self, session: Session) -> http.Response:
        """The answer when no provider is left to ask and none has answered."""
        ...


class Parent(Carrier, Protocol):
    """What a stream needs to know of the layer that it is in."""

    conductor: Conductor
    next_timer: float
    at_once: Callable[[commands.StartHook], bool]
    hears_server: bool

    def arm(self, at: float) -> Commands: ...

    def is_idle(self, connection: Connection) -> bool: ...


@dataclass
class SidestepNextHook(commands.StartHook):
    """The attempt under way has failed: the addon makes the flow the next one, or leaves no attempt."""

    name = "sidestep_next"
    flow: http.HTTPFlow


_ASKING = HttpRequestHeadersHook, HttpRequestHook, SidestepNextHook


@dataclass
class Expired(HttpEvent):
    """A deadline of this stream may have passed."""


@dataclass
class _Head(ResponseHeaders):
    """Headers that the app gets before its answer: all later ones are left out."""


@dataclass
class News(HttpEvent):
    """Something has to be done about an attempt."""

    flight: Flight
    step: Step


class FailoverStream(PageStream):
    """One client request.

    State: the session; the attempts under way; the one whose answer the app sees, the best failed one so far; events
    that came while another was worked off; when to send the next sign of life (monotonic seconds); whether the app has
    been sent headers made up by us: from then on everything must end in band; the attempt whose head that was, if it
    was one's; whether pieces of a flowing stream may take the short way; the proxy behind this one, if there is one.
    """

    session: Session | None = None
    winner: Flight | None = None
    best: Flight | None = None
    keep_alive_at: float | None = None
    made_up: bool = False
    told: Flight | None = None
    dropped: bool = False
    asked_session: bool = False
    skims: bool = False
    busy: bool = False
    via: ServerSpec | None = None
    parent: Parent
    flights: Flights
    inbox: collections.deque[events.Event]

    def __init__(self, context: Context, stream_id: int, parent: Parent) -> None:
        super().__init__(context, stream_id)
        self.parent = parent
        self.flights = Flights(self, parent)
        self.inbox = collections.deque()

    # --- the way in and out: ids, the inbox, and the guard

    def handle_event(self, event: events.Event) -> Commands:
        if self.skims and type(event) is ResponseData and self._skim(event):
            event.stream_id = self.stream_id
            yield SendHttp(event, self.context.client)
            return
        if self.busy and not self._is_recursion(event):
            # A command of ours was answered at once (a connection to reuse): after what is under way.
            self.inbox.append(event)
            return
        nested, self.busy = self.busy, True
        try:
            self.inbox.appendleft(event)
            while self.inbox:
                for command in self._route(self.inbox.popleft()):
                    if isinstance(command, (SendHttp, DropStream)):
                        if self._addressed(command):
                            yield command
                    elif isinstance(command, commands.StartHook) and self._is_done(command):
                        self.inbox.append(events.HookCompleted(command, None))
                    else:
                        yield command
                if nested:
                    break
        except Exception as e:
            if self.session is None:
                raise
            yield from self._crashed(self.session, e)
        finally:
            self.busy = nested

    def _is_done(self, hook: commands.StartHook) -> bool:
        """Carry out a hook for which this stream is paused, and no layer inside it; whether that was all.

        Not one that leads to a request while a server is heard: at the end of its answer its connection is not ready
        for the next one (that of the next attempt, of a client that does not wait for answers) or is about to be
        closed.
        """
        if self.parent.hears_server and isinstance(hook, _ASKING):
            return False
        return hook.blocking is self and self.parent.at_once(hook)  # type: ignore[comparison-overlap]

    def _is_recursion(self, event: events.Event) -> bool:
        """Whether the base class gives itself a body that it has collected (`stream_large_bodies`): now, or it would
        come after what follows it."""
        return isinstance(event, (RequestData, ResponseData)) and event.stream_id == self.stream_id

    def _route(self, event: events.Event) -> Iterator[commands.Command]:
        """What belongs to an attempt goes there, even while the stream is paused; all else takes mitmproxy's way."""
        if isinstance(event, GetHttpConnectionCompleted):
            if (asker := self.flights.asker(event)) is not None:
                return self._connected(asker, *event.reply)
        elif isinstance(event, HttpEvent) and event.stream_id != self.stream_id:
            flight = self.flights.by_id.get(event.stream_id)
            if flight is None:
                return iter(())  # of an attempt that was given up
            event.stream_id = self.stream_id
            return self._received(flight, event)
        elif isinstance(event, RequestProtocolError) and self.session is not None and self.winner is None:
            # It may wait in line for a hook to end; the attempts, and their permits, need not, nor what that waits for.
            self.parent.conductor.left(self.flow)
            return itertools.chain(self._cancel_all(None), super().handle_event(event))
        if self.child_layer is not None and self.winner is not None:
            return self._relayed(event, self.winner)
        return super().handle_event(event)

    def _relayed(self, event: events.Event, winner: Flight) -> Commands:
        """Something goes over a WebSocket; or its provider, who must have spoken by now, has not."""
        frames = None if self.session is None else self.session.frames
        if not isinstance(event, Expired):
            yield from super().handle_event(event)
        elif frames is not None and self.flow.live:
            frames.expired()
            yield from super().handle_event(Overdue())
        yield from self._arm(winner)

    def _received(self, flight: Flight, event: HttpEvent) -> Commands:
        match event:
            case ResponseTrailers() if self.context.client.alpn != b"h2":
                return  # mitmproxy's HTTP/1 server cannot send them
            case ResponseTrailers() if flight is self.winner:
                flight.scrub_fields(event.trailers)
                yield from super().handle_event(event)
                return
            case _ if flight is self.winner:
                yield from super().handle_event(event)
                return
            case ResponseData():
                step = flight.feed(event.data)
            case ResponseEndOfMessage():
                step = flight.end()
            case ResponseHeaders() if self._is_refused(event.response):
                step = flight.refused()
            case ResponseHeaders():
                step = flight.answers(event.response, bodiless=event.end_stream)
            case ResponseTrailers():
                flight.take_trailers(event.trailers)
                return
            case MalformedHeadError() if flight.response is None:
                flight.connection = None
                step = flight.refused()
            case _ if self._broke_idle(flight):
                yield from self._renew(flight)
                return
            case _:
                step = flight.broke(self._broken(flight))
        if step.do is Do.HOLD:
            data = event.data if isinstance(event, ResponseData) else b""
            if (sign := flight.sign(data)) is not None:
                yield from self._tell(flight, data, sign)
            yield from self._arm(flight)
        else:
            yield from super().handle_event(News(self.stream_id, flight, step))

    def _tell(self, flight: Flight, data: bytes, sign: bytes) -> Commands:
        """The provider gives signs of life in a 200 of its own, but no content yet: the app gets them too, in a form
        that does not bind it to this provider; where there is none, it is let go."""
        if flight.binds(data):
            if not self._is_too_late(flight):
                yield from super().handle_event(News(self.stream_id, flight, flight.vouch()))
            return
        if not self.made_up:
            self.made_up, self.told = True, flight
            yield SendHttp(_Head(self.stream_id, flight.head_alone(), end_stream=False), self.context.client)
        if sign:
            yield SendHttp(ResponseData(self.stream_id, sign), self.context.client)

    def _is_refused(self, response: http.Response) -> bool:
        """Whether this head would not be passed on: the app would get a page of mitmproxy's in its place. A 101 to what
        was no handshake would make the app's next request a message to that server; a status has three digits
        (RFC 9110, 15)."""
        if response.status_code == 101:
            session = self.session
            return session is None or not session.is_websocket or not answers_handshake(session.flow.request, response)
        if not 100 <= response.status_code <= 999:
            return True
        if not self.context.options.validate_inbound_headers:
            return False
        try:
            validate_headers(response)
        except ValueError:
            return True
        return False

    def _broke_idle(self, flight: Flight) -> bool:
        """Whether an idle connection has ended just when it was used again, before any byte came."""
        connection = flight.connection
        return flight.is_first_on_reuse and connection is not None and not connection.connected

    def _renew(self, flight: Flight) -> Commands:
        """That was no provider's failure: the same attempt goes on, on a connection that is made for it, or, over
        HTTP/2, for all that shared the old one: there are five places for an address."""
        shared = flight.connection is not None and flight.connection.alpn == b"h2"
        flight.connection = None
        yield from self.flights.cancel(flight)
        flight.renew()
        yield from self._start(flight, GetHttpConnection if shared else FreshConnection)

    def _addressed(self, command: SendHttp | DropStream) -> bool:
        """Give what goes to a server the id of its attempt. False: it is not to be sent."""
        if isinstance(command, DropStream):
            self.dropped = True
            self.flights.dropped()
        elif command.connection is self.context.client:
            return not (self.made_up and type(command.event) is ResponseHeaders)  # the app has headers already
        elif command.connection not in self.parent.connections:
            return False
        elif self.session is not None and command.event.stream_id == self.stream_id:
            if self.winner is None:
                return False  # the base class speaks to what it takes for its server
            command.event.stream_id = self.winner.up_id
        return True

    def _crashed(self, session: Session, error: Exception) -> Commands:
        """A bug of ours ends this one call with an error; no piece of an answer is lost in silence."""
        at = error.__traceback__
        while at is not None and at.tb_next is not None:
            at = at.tb_next
        place = "" if at is None else f" at {at.tb_frame.f_code.co_filename}:{at.tb_lineno}"
        # The text of an exception may quote a body or a key: its type and place tell enough.
        logger.error(f"sidestep: internal error ({type(error).__name__}{place}); one call was ended")
        self._paused = None
        self._paused_event_queue.clear()
        self.inbox.clear()
        self.client_state = self.server_state = self.state_errored
        session.drop(judging.INTERNAL)
        session.broken_off = True
        self.flow.error = flow.Error("sidestep: internal error")
        self.flow.live = False
        self.session = None
        yield from self._cancel_all(judging.INTERNAL)
        if self.dropped:
            return  # the app has had its end
        yield SendHttp(
            ResponseProtocolError(self.stream_id, "sidestep: internal error", ErrorCode.GENERIC_SERVER_ERROR),
            self.context.client,
        )
        yield DropStream(self.stream_id)
        yield HttpErrorHook(self.flow)

    def _handle_event(self, event: events.Event) -> Commands:
        session = self.session
        if self.is_page:
            yield from self.page_event(event)
        elif session is None:
            if isinstance(event, (RequestProtocolError, ResponseProtocolError)):
                yield from self.handle_protocol_error(event)
            elif not isinstance(event, (Expired, News)):
                yield from super()._handle_event(event)
        elif isinstance(event, News):
            if event.flight is self.winner:
                yield from self._carry_out(session, event.flight, event.step)
            elif event.flight in self.flights and self.winner is None:
                yield from self._act(session, event.flight, event.step)
        elif isinstance(event, Expired):
            yield from self._on_expired(session)
        elif isinstance(event, FROM_SERVER) and self.winner is not None and self.winner not in self.flights:
            pass  # it waited here while its attempt was given up
        elif isinstance(event, (RequestProtocolError, ResponseProtocolError)):
            yield from self.handle_protocol_error(event)
        elif self.winner is not None and isinstance(event, ResponseData):
            yield from self._on_flowing(session, self.winner, event)
        elif self.winner is not None and isinstance(event, ResponseEndOfMessage):
            yield from self._carry_out(session, self.winner, self.winner.end())
        else:
            yield from super()._handle_event(event)

    # --- the request

    def state_wait_for_request_headers(self, event: RequestHeaders) -> Commands:
        if isinstance(self.context.client.proxy_mode, ReverseMode):
            self.parent.conductor.called(event.request)
        yield from super().state_wait_for_request_headers(event)

    def state_consume_request_body(self, event: events.Event) -> Commands:
        if not self.asked_session:
            self.asked_session = True
            self.session = self.parent.conductor.session(self.flow)
        session = self.session
        if session is None:
            yield from super().state_consume_request_body(event)
        elif isinstance(event, RequestData):
            # Not `check_body_size`: `stream_large_bodies` would start the request to the original host.
            self.request_body_buf += event.data
            if len(self.request_body_buf) > MAX_REQUEST_BYTES:
                self.session = None
                self.parent.conductor.unrouted(self.flow)
                yield from self.check_body_size(True)
        elif isinstance(event, RequestEndOfMessage):
            self.flow.request.timestamp_end = time.time()
            self.flow.request.data.content = bytes(self.request_body_buf)
            self.request_body_buf.clear()
            self.client_state = self.state_done
            yield HttpRequestHook(self.flow)
            if (yield from self.check_killed(True)):
                return
            if self.flow.response:
                session.drop(judging.INTERNAL)
                session.flight = None
                yield from self._answer()
            elif session.flight is None and not session.held:
                self.session = None
                yield from self._send_unrouted()
            else:
                if session.keep_alive:
                    yield from self._keep_alive(session)
                # For all attempts: the connection of one may be direct, and a script may have chosen another proxy.
                self.via = self.flow.server_conn.via
                if session.flight is None:
                    yield from self._ask_next(session)
                else:
                    yield from self._start(session.flight)
        else:
            yield from super().state_consume_request_body(event)

    def _keep_alive(self, session: Session) -> Commands:
        self.keep_alive_at = session.clock() + KEEP_ALIVE_SECONDS
        yield from self.parent.arm(self.keep_alive_at)

    def signs_of_life(self) -> Iterator[HttpEvent]:
        """What keeps the app from giving up while its whole answer is held back, or its call."""
        session = self.session
        if session is None or self.winner is not None:
            self.keep_alive_at = None
            return
        self.keep_alive_at = session.clock() + KEEP_ALIVE_SECONDS
        if not session.keep_alive:
            return  # what is waited for now is never long
        if not self.made_up:
            self.made_up = True
            yield ResponseHeaders(self.stream_id, session.made_up_response(), end_stream=False)
        yield ResponseData(self.stream_id, session.keep_alive)

    def _answer(self) -> Commands:
        """Give the client the response that was set, by us or by another addon."""
        assert self.flow.response is not None
        self.flow.response.timestamp_start = time.time()
        yield HttpResponseHeadersHook(self.flow)
        if (yield from self.check_killed(True)):
            return
        yield from self.send_response()

    def _send_unrouted(self) -> Commands:
        """What the base class does once the request hook is over."""
        if (yield from self.make_server_connection()):
            yield from self._send(self.flow.request, self.flow.request, self.stream_id, self.context.server)

    def _send(self, head: http.Request, request: http.Request, stream_id: int, server: Connection) -> Commands:
        content, trailers = request.raw_content, head.trailers
        if trailers and server.alpn != b"h2":
            trailers = None  # mitmproxy's HTTP/1 client cannot send them
        yield SendHttp(RequestHeaders(stream_id, head, not (content or trailers)), server)
        if content:
            yield SendHttp(RequestData(stream_id, content), server)
        if trailers:
            yield SendHttp(RequestTrailers(stream_id, trailers), server)
        yield SendHttp(RequestEndOfMessage(stream_id), server)

    # --- attempts

    def _start(self, flight: Flight, kind: type[GetHttpConnection] = GetHttpConnection) -> Commands:
        """Ask for a connection. The answer comes to `_connected`, perhaps before this is over."""
        request = flight.request
        self.server_state = self.state_wait_for_response_headers
        asking = kind(
            (request.host, request.port),
            request.scheme == "https",
            self._via(flight),
            self.flow.server_conn.transport_protocol,
        )
        # mitmproxy pauses a layer where this is True and it has not been taken over by another.
        asking.blocking = self  # type: ignore[assignment]
        self.flights.begin(flight, asking)
        flight.bound(flight.session.clock() + flight.timeouts.connect)
        flight.expect()
        yield from self._arm(flight)
        yield asking

    def _via(self, flight: Flight) -> ServerSpec | None:
        """The proxy that an attempt goes through."""
        return None if self.via is None or flight.passes_proxy_by() else self.via

    def _unconnected(self, flight: Flight, error: str | None) -> str:
        """Why the connection could not be made."""
        said, cause = self.parent.conductor.handshake((flight.request.host, flight.request.port))
        return cause if error and error == said else cause_of(error)

    def _broken(self, flight: Flight) -> str:
        """Why the connection has ended."""
        server = flight.server
        if server is None or server.connected:
            return "its stream was reset"
        return RESET if was_reset(self.context.client, server) else CLOSED

    def _connected(self, flight: Flight, connection: Connection | None, error: str | None) -> Commands:
        if connection is None:
            step = flight.broke(self._unconnected(flight, error))
            yield from super().handle_event(News(self.stream_id, flight, step))
            return
        flight.connection = connection
        if self.flow.error is not None:  # it was killed meanwhile
            yield from super().handle_event(Expired(self.stream_id))
            return
        assert isinstance(connection, Server)
        flight.server = connection
        if flight is flight.session.flight:
            self.context.server = self.flow.server_conn = connection
        to_proxy = self.mode is HTTPMode.upstream and self._via(flight) is not None and flight.request.scheme == "http"
        head = flight.outgoing(to_http1=connection.alpn != b"h2", to_proxy=to_proxy)
        flight.sent(reused=self.parent.is_idle(connection))
        yield from self._arm(flight)
        yield from self._send(head, flight.request, flight.up_id, connection)

    def _cancel_all(self, outcome: Outcome | None) -> Commands:
        """No attempt is wanted any more. None: the app has left, and each attempt's wait says what that means."""
        for flight in self.flights.all():
            flight.drop(flight.client_gone() if outcome is None else outcome)
            yield from self.flights.cancel(flight)

    def _act(self, session: Session, flight: Flight, step: Step) -> Commands:
        """An attempt whose answer the app has not seen has come to something."""
        outcome = step.outcome
        if self.flow.error is not None and (yield from self.check_killed(True)):
            return
        if step.do is Do.RELEASE and self.made_up and self.told is not flight:
            flight.unpack()
        alone = len(self.flights) == 1
        if step.do is Do.RELEASE and not self._is_too_late(flight) and (alone or _is_preferred(flight)):
            yield from self._commit(session, flight, step)
        else:
            yield from self._move_on(session, flight, judging.INTERNAL if outcome is None else outcome)

    def _is_too_late(self, flight: Flight) -> bool:
        """Whether the app has been given another head than this answer needs: an error's, a document's in place of a
        stream's, or that of a content encoding."""
        watch = flight.watch
        if not self.made_up or self.told is flight:
            return False
        if watch is None or watch.status >= 300 or flight.is_encoded:
            return True
        return flight.exchange.call.stream and watch.shape is not Shape.STREAM

    def _move_on(self, session: Session, flight: Flight, outcome: Outcome) -> Commands:
        """An attempt failed before the app saw a byte: the next one, or the end."""
        exchange = flight.exchange
        if outcome.reason == "credential":
            logger.error(f"sidestep: {flight.provider.name} refuses its key ({outcome.status})")
        self._keep_answer(flight, exchange.rank(flight.attempt, outcome))
        yield from self.flights.cancel(flight)
        flight.finish(outcome)
        exchange.failed(flight.attempt, outcome, session.clock())
        if other := next(iter(self.flights.all()), None):
            self._show(session, other)  # it goes on
            return
        session.flight = None
        if exchange.may_move_on(flight.attempt, outcome):
            yield from self._ask_next(session)
        else:
            yield from self._conclude(session)

    def _ask_next(self, session: Session) -> Commands:
        """Ask for the next attempt, which may take a wait, and make it; else that was the end."""
        if self.keep_alive_at is None and session.waiting:
            yield from self._keep_alive(session)
        yield SidestepNextHook(self.flow)
        if not session.keep_alive:
            self.keep_alive_at = None
        if (yield from self.check_killed(True)):
            return
        if session.flight is not None:
            yield from self._start(session.flight)
        else:
            yield from self._conclude(session)

    def _keep_answer(self, flight: Flight, rank: int) -> None:
        if not flight.is_answer or flight.response is None:
            return
        flight.ended = True
        flight.as_it_came()
        flight.rank = rank
        if self.best is None or rank > self.best.rank:
            self.best = flight

    def _conclude(self, session: Session) -> Commands:
        """No provider is left: the app gets the best failed answer, else an error of ours."""
        best, self.best = self.best, None
        if session.is_websocket:
            best = None  # on a 426 the clients that can come back over HTTP, on anything else they give up
        if self.made_up and (best is None or best is not self.told):
            kind, message = (best and best.phrase_refused()) or session.phrase_exhausted()
            session.broken_off = True
            last = session.error_event(kind, message) if session.waiting else b""
            yield from self._close_in_band("no provider has answered", last)
        elif best is not None:
            session.answer = best.attempt
            self._show(session, best)
            best.withhold_key()
            best.frame()
            yield from self._release(best)
        else:
            self.flow.response = self.parent.conductor.phrase_exhausted(session)
            yield from self._answer()

    def _commit(self, session: Session, flight: Flight, step: Step) -> Commands:
        """From here on the app sees this answer."""
        watch, response = flight.watch, flight.response
        assert watch is not None
        assert response is not None
        self.winner = flight  # before anything is yielded: what comes from now on follows what is held
        self.best = None
        flight.late_at = None
        for other in [f for f in self.flights.all() if f is not flight]:
            other.outpaced(queued=self.flights.is_queued(other))
            yield from self.flights.cancel(other)
        self._show(session, flight)
        session.answer = flight.attempt
        if watch.shape is Shape.ERROR and flight.withhold_key() and not flight.ended:
            yield from self.flights.cancel(flight)
            flight.ended = True
            flight.drop(flight.attempt.outcome or judging.INTERNAL)
        flight.frame()
        if not flight.ended and response.status_code >= 200:
            response.stream = True  # else mitmproxy would collect it, however long it becomes
        yield from self._arm(flight)
        goes_on = step.goes_on and flight.may_tell(step)
        if goes_on:
            flight.data.append(step.told)
        yield from self._release(flight)
        if step.error is not None and not goes_on and not self._is_over():
            yield from self._end_in_band(session, flight, judging.STREAM_ERROR, step)

    def _show(self, session: Session, flight: Flight) -> None:
        """Make the flow the one of this attempt."""
        if session.flight is not flight:
            session.show(flight)
            if flight.server is not None:
                self.context.server = self.flow.server_conn = flight.server

    def _release(self, flight: Flight) -> Commands:
        """Let the base class have a held answer, as if it came now."""
        assert flight.response is not None
        self.server_state = super().state_wait_for_response_headers
        yield from self.server_state(ResponseHeaders(self.stream_id, flight.response, flight.bodiless))
        for data in flight.take_held():
            if not self._is_over():
                yield from self.server_state(ResponseData(self.stream_id, data))
        if flight.ended and not self._is_over():
            yield from self.server_state(ResponseEndOfMessage(self.stream_id))

    def _is_over(self) -> bool:
        return self.server_state in (self.state_errored, self.state_done)

    # --- the answer, flowing

    def _skim(self, event: ResponseData) -> bool:
        """Whether a piece of a flowing stream can go on as it is, with nothing to be done about it: the short way
        of nearly all that ever comes."""
        winner = self.winner
        if winner is None or event.stream_id != winner.up_id or self._paused or self.busy or self.session is None:
            return False
        try:
            return winner.skim(event.data)
        except Exception as e:
            logger.debug(f"sidestep: {type(e).__name__} while skimming a stream")
            return False  # the long way meets it again, and is guarded

    def _may_skim(self, winner: Flight) -> bool:
        """Whether nothing else wants to see the pieces of this stream."""
        response = self.flow.response
        return (
            winner.skimmable
            and response is not None
            and response.stream is True
            and not self.context.options.store_streamed_bodies
        )

    def _on_flowing(self, session: Session, winner: Flight, event: ResponseData) -> Commands:
        self.skims = self.skims or self._may_skim(winner)
        yield from self._carry_out(session, winner, winner.feed(event.data))

    def _carry_out(self, session: Session, winner: Flight, step: Step) -> Commands:
        """Something has come of the answer that the app sees."""
        if step.do is Do.FORWARD and step.error is not None:
            if winner.may_tell(step):
                step = replace(step, data=step.data + step.told)
            else:
                step = replace(step, do=Do.BREAK, data=b"" if winner.is_encoded else step.data, told=b"")
        if step.data and not self._is_over():
            yield from self.server_state(ResponseData(self.stream_id, step.data))
        if self._is_over():
            return
        if step.do is Do.BREAK:
            yield from self._end_in_band(session, winner, step.outcome or judging.TRUNCATED, step)
        elif winner.ended:
            yield from self.server_state(ResponseEndOfMessage(self.stream_id))

    def _end_in_band(self, session: Session, winner: Flight, outcome: Outcome, step: Step) -> Commands:
        """The app has seen a part of the answer: an error event ends it, or else the wire is cut."""
        watch, response = winner.watch, self.flow.response
        assert watch is not None
        kind, message = winner.phrase_broken(outcome, step.error)
        how = winner.how_broke(outcome, step.error)
        winner.finish(outcome)
        winner.note(how)
        yield from self.flights.cancel(winner)
        extensible = watch.plain and watch.shape is Shape.STREAM
        extensible = extensible and response is not None and "content-length" not in response.headers
        told = winner.quotable(step.told)
        last = told or session.error_event(kind, message)
        judged = watch.judge_error_event(step.error) if told and step.error is not None else None
        made_up = self.made_up and watch.shape is Shape.STREAM
        if not (made_up or extensible) or session.is_to_be_cut(judged):
            last = b""
        yield from self._close_in_band(how, last)

    def _close_in_band(self, message: str, last: bytes) -> Commands:
        """End what the app has begun to read: with an event that its SDK raises from, or by cutting the wire.
        `message`: for the flow and the log, so in words of ours."""
        self.flow.error = flow.Error(message)
        self.flow.live = False
        over = self._is_over()
        self.client_state = self.server_state = self.state_done
        if over:
            return
        if self.context.options.store_streamed_bodies and self.flow.response is not None:
            # mitmproxy keeps a streamed body at its good end alone; of one that broke the app's user wants to see most.
            self.flow.response.data.content = bytes(self.response_body_buf) + last
            self.response_body_buf.clear()
        yield HttpErrorHook(self.flow)
        if not last:
            self._tell_by_the_wire()
            cut = ResponseProtocolError(self.stream_id, message, ErrorCode.CANCEL)
            yield SendHttp(cut, self.context.client)
            yield DropStream(self.stream_id)
            return
        yield SendHttp(ResponseData(self.stream_id, last), self.context.client)
        yield DropStream(self.stream_id)
        yield SendHttp(ResponseEndOfMessage(self.stream_id), self.context.client)

    def _tell_by_the_wire(self) -> None:
        """What the app has begun to read breaks off: that has to be seen where nothing but the end of the connection is
        the end of the body."""
        request, response = self.flow.request, self.flow.response
        fields = () if response is None else response.headers
        if not request.is_http2 and not ("content-length" in fields or "transfer-encoding" in fields):
            reset_at_end(self.context.client)

    # --- ends that are no message

    def handle_protocol_error(self, event: RequestProtocolError | ResponseProtocolError) -> Commands:
        session, winner = self.session, self.winner
        if session is None:
            if isinstance(event, ResponseProtocolError):
                self.parent.conductor.broke(self.flow)
        elif isinstance(event, RequestProtocolError):
            session.drop(judging.CLIENT_GONE if winner is None else winner.client_gone())
        elif winner is not None:
            step = winner.broke()
            if step.do is not Do.BREAK or (winner.watch is not None and winner.watch.shape is Shape.STREAM):
                yield from self._carry_out(session, winner, step)
                return
            winner.finish(step.outcome or judging.TRUNCATED)
            self._tell_by_the_wire()
        if session is not None and isinstance(event, ResponseProtocolError):
            # What mitmproxy says of it quotes what the server has sent.
            event = ResponseProtocolError(event.stream_id, "the answer broke off", event.code)
        yield from super().handle_protocol_error(event)

    def check_killed(self, emit_error_hook: bool) -> layer.CommandGenerator[bool]:
        killed = yield from super().check_killed(emit_error_hook)
        session = self.session
        if killed and session is not None:
            by_user = self.flow.error is not None and self.flow.error.msg == flow.Error.KILLED_MESSAGE
            outcome = judging.KILLED if by_user else judging.CLIENT_GONE
            session.drop(outcome)
            yield from self._cancel_all(outcome)
            yield DropStream(self.stream_id)
        return killed

    def flow_done(self) -> Commands:
        session, winner = self.session, self.winner
        if winner is not None:
            winner.deadline = None
        if session is None:
            yield from super().flow_done()
            return
        if not self.flow.websocket:
            session.drop(judging.INTERNAL)
        for command in super().flow_done():
            HonestWebsocketLayer.adopt(self.child_layer, session, None if winner is None else winner.tell_leak)
            yield unquoted(command)

    # --- deadlines

    @property
    def due(self) -> float:
        """When something has to be looked at again."""
        times = [f.due for f in self._awaited()]
        return min([t for t in (*times, self.keep_alive_at) if t is not None], default=math.inf)

    def _awaited(self) -> tuple[Flight, ...]:
        return self.flights.all() if self.winner is None else (self.winner,)

    def postpone(self, until: float) -> None:
        """The stream is paused, for a hook or because a user looks at it: that is no provider's silence."""
        for flight in self._awaited():
            if flight.deadline is not None and flight.deadline < until:
                flight.deadline = until
            if flight.late_at is not None and flight.late_at < until:
                flight.late_at = until
            if flight.sign_at is not None and flight.sign_at < until:
                flight.sign_at = until

    def _arm(self, flight: Flight) -> Commands:
        at = flight.due
        if at is not None and at + TIMER_SLACK_SECONDS < self.parent.next_timer:
            yield from self.parent.arm(at)

    def _on_expired(self, session: Session) -> Commands:
        if self.flow.error is not None and (yield from self.check_killed(True)):
            return
        now = session.clock()
        for flight in self._awaited():
            if flight not in self.flights:
                continue  # what came of the one before has ended it
            if flight.late_at is not None and now >= flight.late_at:
                yield from self._ask_another(session, flight)
            if flight.sign_at is not None and now >= flight.sign_at and (sign := flight.sign(b"")) is not None:
                yield from self._tell(flight, b"", sign)
            if flight.deadline is None or now < flight.deadline:
                continue
            if flight is self.winner:
                yield from self._gone_silent(session, flight, now)
            elif (seconds := self.flights.spared(flight)) is not None:
                if now >= flight.exchange.deadline:
                    yield from self._move_on(session, flight, judging.QUEUED)
                else:
                    flight.bound(now + seconds)
                    yield from self._arm(flight)
            else:
                yield from self._act(session, flight, flight.expired())

    def _ask_another(self, session: Session, late: Flight) -> Commands:
        """An attempt is later than it should be: another one is made beside it, if there may be one."""
        beside = self.parent.conductor.beside(session, late) if len(self.flights) == 1 else None
        late.late_at = session.clock() + ASK_AGAIN_SECONDS
        if beside is not None:
            yield from self._start(beside, FreshConnection if beside.address == late.address else GetHttpConnection)

    def _gone_silent(self, session: Session, winner: Flight, now: float) -> Commands:
        if client_is_slow(self.context.client):
            winner.bound(now + winner.timeouts.idle)
            yield from self._arm(winner)
            return
        yield from self._carry_out(session, winner, winner.expired())
        yield from self.flights.cancel(winner)  # where the answer is whole but its connection stays open


def _is_preferred(flight: Flight) -> bool:
    """Whether an answer is the app's although another attempt is still under way: an error is, where it is the word of
    the provider that the app addressed, or of the one that was late: the app would have it if no other were asked."""
    watch, outcome = flight.watch, flight.attempt.outcome
    good = watch is not None and watch.status < 400 and (outcome is None or outcome.kind is Kind.SUCCESS)
    return good or flight.attempt.candidate.own or flight.attempt.beside is None
