"""One client request: sends attempts, watches what comes back, lets the app see one good answer.

It knows no circuit and no route: a `Session` says what the current attempt is, and the hook `sidestep_next` asks for
the next one. Each attempt has an upstream stream id of its own, so that whatever an abandoned one still sends finds
nobody. A stream whose flow is not routed behaves as mitmproxy's own.
"""

from __future__ import annotations

import enum
import itertools
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from mitmproxy import flow, http
from mitmproxy.connection import Connection
from mitmproxy.net.server_spec import ServerSpec
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers.http import (
    DropStream,
    GetHttpConnection,
    HTTPMode,
    HttpStream,
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
from mitmproxy.proxy.layers.http._hooks import HttpErrorHook, HttpRequestHook, HttpResponseHeadersHook

from sidestep.breaker import judging
from sidestep.breaker.outcomes import ErrorFacts, ErrorKind, Kind, Outcome, Then
from sidestep.calls.decoding import EncodingError
from sidestep.calls.session import Session
from sidestep.calls.watching import ERROR_BODY_BYTES, Piece, Shape, Watch
from sidestep.config.settings import Provider
from sidestep.mitm.handlers import client_is_slow
from sidestep.mitm.protocols import HonestWebsocketLayer

logger = logging.getLogger(__name__)

Commands = layer.CommandGenerator[None]

MAX_REQUEST_BYTES = 256 * 1024 * 1024
"""A routed request's body is kept to be sent again; a larger one goes where the app sent it."""
ERROR_BODY_SECONDS = 5.0
"""An error body that does not come in this time is judged by its status alone."""
GRACE_SECONDS = 1.0
"""How long a connection that was made, or closed by us, may take to be reported."""
KEEP_ALIVE_SECONDS = 5.0
"""While a whole stream is held back the app is sent a sign of life this often."""
TIMER_SLACK_SECONDS = 0.05
"""A deadline this much earlier than the armed timer is worth a timer of its own."""

QUEUED = "no connection was free in time"


_upstream_ids = itertools.count(1 << 40)


class Conductor(Protocol):
    """What the layer needs to know of the addon."""

    def session(self, flow: http.HTTPFlow) -> Session | None:
        """The session of a routed flow on which Sidestep acts."""
        ...

    def unrouted(self, flow: http.HTTPFlow) -> None:
        """The flow has become too large to be moved: it goes where the app sent it."""
        ...

    def broke(self, flow: http.HTTPFlow) -> None:
        """The provider's connection could not be made, or broke, under a flow that is only looked on."""
        ...

    def phrase_exhausted(self, session: Session) -> http.Response:
        """The answer when nobody is left to ask and nobody has answered."""
        ...


class Parent(Protocol):
    """What a stream needs to know of the layer that it is in."""

    conductor: Conductor
    streams: dict[int, HttpStream]
    connections: dict[Connection, layer.Layer]
    next_timer: float

    def arm(self, at: float) -> Commands: ...

    def is_queued(self, connection: Connection, up_id: int | None) -> bool: ...


@dataclass
class SidestepNextHook(commands.StartHook):
    """The attempt under way has failed: the addon makes the flow the next one, or leaves no attempt."""

    name = "sidestep_next"
    flow: http.HTTPFlow


@dataclass
class Expired(HttpEvent):
    """A deadline of this stream may have passed."""


class Phase(enum.Enum):
    IDLE = "idle"
    """No attempt is under way."""
    CONNECT = "connect"
    HEADERS = "headers"
    """Sent; waiting for the response headers."""
    HOLD = "hold"
    """Headers have come, held back until the answer is known to be one."""
    FLOW = "flow"
    """The app sees the answer."""


@dataclass(slots=True)
class Held:
    """An answer held back: its head, and what it would look like to the app so far."""

    headers: ResponseHeaders
    data: list[bytes]
    size: int = 0
    ended: bool = False
    rank: int = 0
    provider: Provider | None = None


class FailoverStream(HttpStream):
    """One client request. State: the session, the phase, the upstream id, the held answer, the best failed
    answer so far, the deadline of the phase, when to send the next sign of life (monotonic seconds),
    whether the app has been sent headers made up by us: from then on everything must end in band; whether
    the pieces of a flowing stream may take the short way; and the proxy behind this one, if there is one."""

    session: Session | None = None
    phase: Phase = Phase.IDLE
    up_id: int | None = None
    upstream: Connection | None = None
    held: Held | None = None
    best: Held | None = None
    deadline: float | None = None
    keep_alive_at: float | None = None
    made_up: bool = False
    dropped: bool = False
    asked_session: bool = False
    skims: bool = False
    via: ServerSpec | None = None
    parent: Parent

    # --- the way in and out: ids, credentials, and the guard

    def handle_event(self, event: events.Event) -> Commands:
        if self.phase is Phase.CONNECT and isinstance(event, RequestProtocolError) and self.session is not None:
            # It waits in line until the connection is made or not; the permit need not.
            self.session.drop(judging.CLIENT_GONE)
        if self.skims and type(event) is ResponseData and event.stream_id == self.up_id and self._skim(event):
            event.stream_id = self.stream_id
            yield SendHttp(event, self.context.client)
            return
        try:
            for command in super().handle_event(event):
                if isinstance(command, SendHttp):
                    if command.connection is not self.context.client:
                        if not self._addressed(command):
                            continue
                    elif self.made_up and isinstance(command.event, ResponseHeaders):
                        continue  # the app has headers already
                elif isinstance(command, DropStream):
                    self.dropped = True
                    if self.up_id is not None:
                        self.parent.streams.pop(self.up_id, None)
                yield command
        except Exception as e:
            if self.session is None:
                raise
            yield from self._crashed(e)

    def _addressed(self, command: SendHttp) -> bool:
        """Give an event for a server the attempt's own id; False if there is nobody to get it."""
        if command.connection not in self.parent.connections:
            return False
        if self.session is not None:
            if self.up_id is None:
                return False
            command.event.stream_id = self.up_id
        return True

    def _crashed(self, error: Exception) -> Commands:
        """A bug of ours ends this one call with an error; no piece of an answer is lost in silence."""
        session = self.session
        assert session is not None
        at = error.__traceback__
        while at is not None and at.tb_next is not None:
            at = at.tb_next
        place = "" if at is None else f" at {at.tb_frame.f_code.co_filename}:{at.tb_lineno}"
        # The text of an exception may quote a body or a key: its type and place tell enough.
        logger.error(f"sidestep: internal error ({type(error).__name__}{place}); one call was ended")
        self._paused = None
        self._paused_event_queue.clear()
        upstream, up_id = self.upstream, self.up_id
        parent = self.parent
        self.client_state = self.server_state = self.state_errored
        self.deadline = None
        session.drop(judging.OURS)
        self.flow.error = flow.Error("sidestep: internal error")
        self.flow.live = False
        if up_id is not None:
            parent.streams.pop(up_id, None)
            if upstream is not None and upstream in parent.connections:
                cancel = RequestProtocolError(up_id, "internal error", ErrorCode.CANCEL)
                yield SendHttp(cancel, upstream)
        self.session = None
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
        if isinstance(event, HttpEvent) and event.stream_id != self.stream_id:
            # Not in `handle_event`: an event may have waited there while its attempt was given up.
            if event.stream_id != self.up_id:
                return
            event.stream_id = self.stream_id
        if session is None or self.phase is Phase.IDLE:
            if not isinstance(event, Expired):
                yield from super()._handle_event(event)
        elif isinstance(event, ResponseTrailers) and self.context.client.alpn != b"h2":
            pass  # mitmproxy's HTTP/1 server cannot send them
        elif isinstance(event, Expired):
            yield from self._on_expired()
        elif isinstance(event, (RequestProtocolError, ResponseProtocolError)):
            yield from self.handle_protocol_error(event)
        elif self.phase is Phase.FLOW and isinstance(event, ResponseData):
            yield from self._on_flowing(event)
        elif self.phase is Phase.FLOW and isinstance(event, ResponseEndOfMessage):
            yield from self._on_flow_end(event)
        else:
            yield from super()._handle_event(event)

    # --- the request

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
                session.drop(judging.OURS)
                session.attempt = None
                yield from self._answer()
            elif session.attempt is None:
                self.session = None
                yield from self._send_unrouted()
            else:
                if session.complete and session.keep_alive:
                    self.keep_alive_at = session.clock() + KEEP_ALIVE_SECONDS
                    yield from self.parent.arm(self.keep_alive_at)
                # For all attempts: the connection of one may be direct, and a script may have chosen another proxy.
                self.via = self.flow.server_conn.via
                yield from self._attempt()
        else:
            yield from super().state_consume_request_body(event)

    def signs_of_life(self) -> Iterator[HttpEvent]:
        """What keeps the app from giving up while its whole answer is held back."""
        session = self.session
        if session is None or self.phase is Phase.FLOW:
            self.keep_alive_at = None
            return
        self.keep_alive_at = session.clock() + KEEP_ALIVE_SECONDS
        if not self.made_up:
            self.made_up = True
            yield ResponseHeaders(self.stream_id, session.made_up_response(), end_stream=False)
        yield ResponseData(self.stream_id, session.keep_alive)

    def _answer(self) -> Commands:
        """Give the client the response that was set, by us or by another addon."""
        assert self.flow.response is not None
        self.phase = Phase.IDLE
        self.flow.response.timestamp_start = time.time()
        yield HttpResponseHeadersHook(self.flow)
        if (yield from self.check_killed(True)):
            return
        yield from self.send_response()

    def _send_unrouted(self) -> Commands:
        """What the base class does once the request hook is over."""
        if (yield from self.make_server_connection()):
            request = self.flow.request
            yield from self._send(request, self.stream_id, self.context.server)

    def _send(self, head: http.Request, stream_id: int, server: Connection) -> Commands:
        content, trailers = self.flow.request.raw_content, self.flow.request.trailers
        if trailers and server.alpn != b"h2":
            trailers = None  # mitmproxy's HTTP/1 client cannot send them
        yield SendHttp(RequestHeaders(stream_id, head, not (content or trailers)), server)
        if content:
            yield SendHttp(RequestData(stream_id, content), server)
        if trailers:
            yield SendHttp(RequestTrailers(stream_id, trailers), server)
        yield SendHttp(RequestEndOfMessage(stream_id), server)

    # --- attempts

    def _attempt(self) -> Commands:
        """Send attempts until one has been sent whole, or nobody is left."""
        session = self.session
        assert session is not None
        while True:
            self.phase = Phase.CONNECT
            self.up_id = next(_upstream_ids)
            self.parent.streams[self.up_id] = self
            self.server_state = self.state_wait_for_response_headers
            self.held = None
            request = self.flow.request
            via = None if self.via is None or session.passes_proxy_by() else self.via
            yield from self._arm(math.inf)
            connection, error = yield GetHttpConnection(
                (request.host, request.port),
                request.scheme == "https",
                via,
                self.flow.server_conn.transport_protocol,
            )
            if error is None:
                self.upstream = connection
            if (yield from self.check_killed(True)):
                return
            if error is not None:
                if (yield from self._move_on(judging.QUEUED if error == QUEUED else judging.CONNECT)):
                    continue
                return
            self.context.server = self.flow.server_conn = connection
            self.phase = Phase.HEADERS
            to_proxy = self.mode is HTTPMode.upstream and via is not None and request.scheme == "http"
            head = session.outgoing(to_http1=connection.alpn != b"h2", to_proxy=to_proxy)
            timeouts = session.timeouts
            yield from self._arm(timeouts.first_byte if session.streaming else timeouts.headers)
            yield from self._send(head, self.up_id, connection)
            return

    def _abandon(self) -> Commands:
        """Nothing more is wanted of the attempt under way."""
        up_id, upstream = self.up_id, self.upstream
        phase_before = self.phase
        self.deadline = None
        self.phase = Phase.IDLE
        if up_id is None:
            return
        # A connection that was made for us and not used must be closed too: it would hold one of the five
        # places that mitmproxy has for an address. An HTTP/2 stream that was not opened needs no reset.
        unused_h2 = phase_before is Phase.CONNECT and upstream is not None and upstream.alpn == b"h2"
        ended = self.held is not None and self.held.ended
        if upstream is not None and not ended and not unused_h2:
            yield SendHttp(RequestProtocolError(up_id, "abandoned", ErrorCode.CANCEL), upstream)
        self.parent.streams.pop(up_id, None)
        self.up_id = None
        self.upstream = None

    def _move_on(self, outcome: Outcome) -> layer.CommandGenerator[bool]:
        """The attempt failed before the app saw a byte. True if the flow is now the next attempt."""
        session = self.session
        assert session is not None
        exchange, attempt = session.exchange, session.attempt
        assert exchange is not None
        assert attempt is not None
        if outcome.reason == "credential":
            logger.error(f"sidestep: {attempt.candidate.provider.name} refuses its key ({outcome.status})")
        self._keep_answer(exchange.rank(outcome))
        yield from self._abandon()
        self.held = None
        session.end(outcome)
        exchange.failed(attempt, outcome, session.clock())
        session.attempt = None
        if exchange.may_move_on(outcome):
            yield SidestepNextHook(self.flow)
            if (yield from self.check_killed(True)):
                return False
            if session.attempt is not None:
                return True
        yield from self._conclude()
        return False

    def _keep_answer(self, rank: int) -> None:
        held = self.held
        if held is None or not held.ended or held.headers.response.status_code < 400:
            return
        session = self.session
        assert session is not None
        assert session.attempt is not None
        held.rank = rank
        held.provider = session.attempt.candidate.provider
        if self.best is None or (rank >= self.best.rank and self.best.rank < 2):
            self.best = held

    def _conclude(self) -> Commands:
        """Nobody is left: the app gets the best failed answer, else an error of ours."""
        session = self.session
        assert session is not None
        self.phase = Phase.IDLE
        best, self.best = self.best, None
        if session.is_websocket:
            best = None  # on a 426 the clients that can come back over HTTP, on anything else they give up
        if self.made_up:
            kind, message = session.phrase_nobody()
            yield from self._close_in_band(message, session.error_event(kind, message))
            return
        if best is not None:
            session.answered_by = best.provider
            yield from self._withhold_key(best)
            yield from self._let_go(best)
            return
        self.flow.response = self.parent.conductor.phrase_exhausted(session)
        yield from self._answer()

    def _withhold_key(self, held: Held) -> Commands:
        """A provider that repeats our key to it is not quoted."""
        session = self.session
        assert session is not None
        if held.provider is None:
            return
        replaced = session.without_key(held.headers.response, b"".join(held.data), held.provider)
        if replaced is None:
            return
        held.data[:] = [replaced]
        if not held.ended:
            yield from self._abandon()
            held.ended = True
            assert session.attempt is not None
            assert session.attempt.outcome is not None
            session.end(session.attempt.outcome)

    def _let_go(self, held: Held) -> Commands:
        """Let the base class have a held answer, as if it came now."""
        if held.provider is not None and self.session is not None:
            self.session.scrub(held.headers.response, held.provider)
        self.server_state = super().state_wait_for_response_headers
        yield from super().state_wait_for_response_headers(held.headers)
        for data in held.data:
            if data and not self._is_over():
                yield from self.server_state(ResponseData(self.stream_id, data))
        held.data.clear()
        if held.ended and not self._is_over():
            yield from self.server_state(ResponseEndOfMessage(self.stream_id))

    def _is_over(self) -> bool:
        return self.server_state in (self.state_errored, self.state_done)

    # --- the answer, held back

    def state_wait_for_response_headers(self, event: events.Event) -> Commands:
        session = self.session
        if session is None or session.attempt is None:
            yield from super().state_wait_for_response_headers(event)
            return
        assert isinstance(event, ResponseHeaders)
        watch = session.open_watch(event.response)
        held = self.held = Held(event, [])
        self.phase = Phase.HOLD
        if watch.shape is Shape.OPAQUE:
            outcome = watch.judge_end()
            if outcome.kind is Kind.FAILURE:
                yield from self._failed(outcome)
                return
            session.settle(outcome)
            yield from self._commit(held)
            return
        timeouts = session.timeouts
        match watch.shape:
            case Shape.STREAM:
                yield from self._arm(timeouts.first_content)
            case Shape.ERROR:
                yield from self._arm(min(timeouts.idle, ERROR_BODY_SECONDS))
            case _:
                yield from self._arm(timeouts.idle)
        self.server_state = self.state_hold

    def state_hold(self, event: events.Event) -> Commands:
        session, held = self.session, self.held
        assert session is not None
        assert held is not None
        watch = session.watch
        assert watch is not None
        if isinstance(event, ResponseData):
            piece = self._read(watch, event.data)
            held.data.append(piece.forward)
            held.size += len(piece.forward)
            if watch.shape is Shape.WHOLE:
                yield from self._arm(session.timeouts.idle)
            if piece.content:
                session.settle(judging.SUCCESS)
            if session.complete and watch.shape is Shape.STREAM and held.size <= session.hold_bytes:
                yield from self._hold_whole(watch, held, piece)
            elif piece.content:
                yield from self._commit(held)
                if piece.error is not None:
                    yield from self._end_in_band(judging.STREAM_ERROR, piece.error)
            elif piece.error is not None:
                yield from self._failed(watch.judge_error_event(piece.error))
            elif watch.shape is Shape.ERROR and held.size > ERROR_BODY_BYTES:
                yield from self._judged(watch.judge_end(), held)
            elif held.size > session.hold_bytes:
                session.note("answer larger than hold_bytes: let go before it was known to be good")
                if watch.shape is Shape.WHOLE:
                    session.settle(judging.SUCCESS)
                    watch.let_flow()
                yield from self._commit(held)
        elif isinstance(event, ResponseEndOfMessage):
            rest = watch.rest()
            held.ended = True
            if rest.forward:
                held.data.append(rest.forward)
            if rest.error is not None and not watch.begun:
                yield from self._failed(watch.judge_error_event(rest.error))
            else:
                yield from self._judged(watch.judge_end(), held)
        else:
            assert isinstance(event, ResponseTrailers)
            held.headers.response.trailers = event.trailers

    def _hold_whole(self, watch: Watch, held: Held, piece: Piece) -> Commands:
        """`commit = "complete"`: nothing is let go before the stream's end."""
        session = self.session
        assert session is not None
        if piece.error is not None:
            begun = watch.begun
            yield from self._failed(judging.BROKEN_STREAM if begun else watch.judge_error_event(piece.error))
        elif watch.finished:
            yield from self._commit(held)
        elif watch.begun:
            yield from self._arm(session.timeouts.idle)

    def _judged(self, outcome: Outcome, held: Held) -> Commands:
        """A whole answer has its outcome: hand it over or move on."""
        session = self.session
        assert session is not None
        if outcome.reason == "truncated":
            yield from self._failed(judging.CUT_STREAM)
        elif self.made_up and outcome.kind is not Kind.SUCCESS:
            yield from self._failed(outcome)
        elif outcome.kind is Kind.SUCCESS or outcome.then is Then.HAND_OVER:
            if held.ended:
                session.end(outcome)
            else:
                session.settle(outcome)
            yield from self._commit(held)
        else:
            yield from self._failed(outcome)

    def _failed(self, outcome: Outcome) -> Commands:
        if (yield from self._move_on(outcome)):
            yield from self._attempt()

    def _commit(self, held: Held) -> Commands:
        """From here on the app sees this answer."""
        session = self.session
        assert session is not None
        watch = session.watch
        assert watch is not None
        self.held = None
        self.best = None
        assert session.attempt is not None
        session.answered_by = held.provider = session.attempt.candidate.provider
        if watch.shape is Shape.ERROR:
            yield from self._withhold_key(held)
        self.phase = Phase.FLOW
        if watch.plain and watch.shape is Shape.STREAM:
            held.headers.response.headers.pop("content-encoding", None)
        if watch.shape is not Shape.WHOLE and not held.ended and held.headers.response.status_code >= 200:
            held.headers.response.stream = True  # else mitmproxy would collect it, however long it becomes
        if watch.shape is Shape.OPAQUE:
            self.deadline = None
        else:
            yield from self._arm(session.timeouts.idle)
        yield from self._let_go(held)

    # --- the answer, flowing

    def _read(self, watch: Watch, data: bytes) -> Piece:
        session = self.session
        assert session is not None
        try:
            piece = watch.feed(data)
        except EncodingError:
            return Piece(data, error=ErrorFacts(ErrorKind.SERVER, "the answer is not in its content encoding"))
        if piece.dropped:
            session.note(f"{piece.dropped} event(s) that were no valid JSON dropped")
        return piece

    def _skim(self, event: ResponseData) -> bool:
        """Whether a piece of a flowing stream can go on as it is, with nothing to be done about it: the short way
        of nearly all that ever comes."""
        session = self.session
        if session is None or self._paused or self.phase is not Phase.FLOW:
            return False
        watch = session.watch
        try:
            if watch is None or not watch.skim(event.data):
                return False
        except Exception as e:
            logger.debug(f"sidestep: {type(e).__name__} while skimming a stream")
            return False  # the long way meets it again, and is guarded
        if self.deadline is not None:
            self.deadline = session.clock() + session.timeouts.idle
        return True

    def _may_skim(self, watch: Watch) -> bool:
        """Whether nobody else wants to see the pieces of this stream."""
        response = self.flow.response
        return (
            watch.skimmable
            and response is not None
            and response.stream is True
            and not self.context.options.store_streamed_bodies
        )

    def _on_flowing(self, event: ResponseData) -> Commands:
        session = self.session
        assert session is not None
        watch = session.watch
        assert watch is not None
        self.skims = self.skims or self._may_skim(watch)
        if self.deadline is not None:
            self.deadline = session.clock() + session.timeouts.idle
        if watch.shape is not Shape.STREAM:
            yield from self.server_state(event)
            return
        begun = watch.begun
        piece = self._read(watch, event.data)
        if piece.content and not begun:
            session.settle(judging.SUCCESS)
        if piece.forward:
            event.data = piece.forward
            yield from self.server_state(event)
        if piece.error is not None and not self._is_over():
            yield from self._end_in_band(judging.STREAM_ERROR, piece.error)

    def _on_flow_end(self, event: ResponseEndOfMessage) -> Commands:
        session = self.session
        assert session is not None
        watch = session.watch
        assert watch is not None
        self.deadline = None
        if watch.shape is Shape.STREAM:
            rest = watch.rest()
            if rest.error is not None:
                yield from self._end_in_band(judging.STREAM_ERROR, rest.error)
                return
            outcome = watch.judge_end()
            if outcome.kind is Kind.FAILURE:
                yield from self._end_in_band(judging.TRUNCATED, None)
                return
            session.end(outcome)
            if rest.forward:
                yield from self.server_state(ResponseData(self.stream_id, rest.forward))
        elif watch.shape is not Shape.OPAQUE:
            session.end(watch.judge_end())
        yield from self.server_state(event)

    def _end_in_band(self, outcome: Outcome, error: ErrorFacts | None) -> Commands:
        """The app has seen a part of the answer: an error event ends it, or else the wire is cut."""
        session = self.session
        assert session is not None
        watch, call = session.watch, session.call
        assert watch is not None
        assert call is not None
        response = self.flow.response
        kind, message = session.phrase_broken(outcome, error)
        session.end(outcome)
        session.note(message)
        yield from self._abandon()
        whole = watch.plain and response is not None and "content-length" not in response.headers
        last = session.error_event(kind, message)
        if last and (self.made_up or (whole and watch.shape is Shape.STREAM)):
            yield from self._close_in_band(message, last)
            return
        self.flow.error = flow.Error(message)
        self.flow.live = False
        over = self._is_over()
        self.client_state = self.server_state = self.state_done
        if not over:
            yield HttpErrorHook(self.flow)
            cut = ResponseProtocolError(self.stream_id, message, ErrorCode.CANCEL)
            yield SendHttp(cut, self.context.client)
            yield DropStream(self.stream_id)

    def _close_in_band(self, message: str, last: bytes) -> Commands:
        self.flow.error = flow.Error(message)
        self.flow.live = False
        over = self._is_over()
        self.client_state = self.server_state = self.state_done
        if over:
            return
        yield HttpErrorHook(self.flow)
        yield SendHttp(ResponseData(self.stream_id, last), self.context.client)
        yield DropStream(self.stream_id)
        yield SendHttp(ResponseEndOfMessage(self.stream_id), self.context.client)

    # --- ends that are nobody's message

    def handle_protocol_error(self, event: RequestProtocolError | ResponseProtocolError) -> Commands:
        session = self.session
        if session is None or self.phase is Phase.IDLE:
            if session is not None:
                session.drop(judging.CLIENT_GONE)
            elif isinstance(event, ResponseProtocolError):
                self.parent.conductor.broke(self.flow)
            yield from super().handle_protocol_error(event)
        elif isinstance(event, RequestProtocolError):
            self.deadline = None
            session.drop(session.client_gone())
            yield from super().handle_protocol_error(event)
        elif self.phase is Phase.FLOW:
            yield from self._cut(event)
        else:
            self.upstream = None
            yield from self._failed(self._broken())

    def _broken(self) -> Outcome:
        """The outcome of a connection that broke before the app saw a byte."""
        held = self.held
        if held is None:
            return judging.CONNECT
        status = held.headers.response.status_code
        session = self.session
        assert session is not None
        watch = session.watch
        if watch is not None and watch.shape is Shape.ERROR:
            return watch.judge_end()
        if watch is not None and watch.shape is Shape.STREAM and watch.begun:
            return judging.CUT_STREAM
        return judging.judge_no_answer(status)

    def _cut(self, event: ResponseProtocolError) -> Commands:
        """The provider's connection broke while the app was reading."""
        session = self.session
        assert session is not None
        watch = session.watch
        assert watch is not None
        self.upstream = None
        if watch.shape is Shape.STREAM:
            if watch.finished:
                # The answer is whole: that its transport ended badly is not the app's concern.
                yield from self._on_flow_end(ResponseEndOfMessage(self.stream_id))
            else:
                yield from self._end_in_band(judging.TRUNCATED, None)
            return
        session.end(judging.TRUNCATED)
        yield from super().handle_protocol_error(event)

    def check_killed(self, emit_error_hook: bool) -> layer.CommandGenerator[bool]:
        killed = yield from super().check_killed(emit_error_hook)
        session = self.session
        if killed and session is not None:
            by_us = self.flow.error is not None and self.flow.error.msg == flow.Error.KILLED_MESSAGE
            session.drop(judging.KILLED if by_us else judging.CLIENT_GONE)
            yield from self._abandon()
            yield DropStream(self.stream_id)
        return killed

    def flow_done(self) -> Commands:
        self.deadline = None
        if self.session is None:
            yield from super().flow_done()
            return
        if not self.flow.websocket:
            self.session.drop(judging.OURS)
        for command in super().flow_done():
            HonestWebsocketLayer.adopt(self.child_layer)
            yield command

    # --- deadlines

    def _arm(self, seconds: float) -> Commands:
        session = self.session
        assert session is not None
        assert session.exchange is not None
        at = session.clock() + seconds
        if self.phase is not Phase.FLOW:
            at = min(at, session.exchange.deadline)
        self.deadline = at
        if at + TIMER_SLACK_SECONDS < self.parent.next_timer:
            yield from self.parent.arm(at)

    def _on_expired(self) -> Commands:
        session = self.session
        assert session is not None
        now = session.clock()
        if self.deadline is None or now < self.deadline:
            return
        if self.phase is Phase.CONNECT:
            return
        upstream = self.upstream
        if self.phase is Phase.HEADERS and upstream is not None and self.parent.is_queued(upstream, self.up_id):
            if now >= session.exchange_deadline:
                yield from self._failed(judging.QUEUED)
            else:
                yield from self._arm(session.timeouts.first_byte)
            return
        if self.phase is Phase.FLOW:
            if client_is_slow(self.context.client):
                yield from self._arm(session.timeouts.idle)
                return
            watch = session.watch
            if watch is not None and watch.finished:
                yield from self._abandon_finished()
            else:
                yield from self._end_in_band(judging.STALLED, None)
        elif self.held is not None and session.watch is not None and session.watch.shape is Shape.ERROR:
            yield from self._judged(session.watch.judge_end(), self.held)
        else:
            yield from self._failed(judging.TIMEOUT)

    def _abandon_finished(self) -> Commands:
        """The answer is whole but its connection stays open: end it for the app."""
        up_id, upstream = self.up_id, self.upstream
        yield from self._on_flow_end(ResponseEndOfMessage(self.stream_id))
        if up_id is not None and upstream is not None:
            self.parent.streams.pop(up_id, None)
            if upstream in self.parent.connections:
                yield SendHttp(RequestProtocolError(up_id, "abandoned", ErrorCode.CANCEL), upstream)
