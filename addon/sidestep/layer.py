"""Failover inside one request: sends attempts, watches what comes back, lets the app see one good answer.

The only room that imports `mitmproxy.proxy`. It knows no circuit and no route: a `Session` says what the
current attempt is, and the hook `sidestep_next` asks for the next one.

A `FailoverLayer` is mitmproxy's `HttpLayer` with another kind of stream; a stream whose flow is not routed
behaves as the base class does. Each attempt has an upstream stream id of its own, so that whatever an
abandoned one still sends finds nobody.
"""

from __future__ import annotations

import asyncio
import enum
import itertools
import logging
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from mitmproxy import ctx, flow, http
from mitmproxy.connection import Connection, ConnectionState, Server
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers.http import (
    DropStream,
    GetHttpConnection,
    GetHttpConnectionCompleted,
    HttpLayer,
    HTTPMode,
    HttpStream,
    RegisterHttpConnection,
    SendHttp,
)
from mitmproxy.proxy.layers.http._base import HttpEvent, ReceiveHttp
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
from mitmproxy.proxy.layers.http._http1 import Http1Client, Http1Server
from mitmproxy.proxy.layers.websocket import WebsocketEndHook, WebsocketLayer
from wsproto.connection import ConnectionState as WebsocketState

from sidestep import judging
from sidestep.config import Provider
from sidestep.decoding import EncodingError
from sidestep.outcomes import ErrorFacts, ErrorKind, Kind, Outcome, Then
from sidestep.session import Session
from sidestep.watching import ERROR_BODY_BYTES, Piece, Shape, Watch

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

INFORMATIONAL = re.compile(rb"HTTP/1\.[01] 1(?!01)\d\d[ \r\n]")

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
    whether the app has been sent headers made up by us: from then on everything must end in band; and whether
    the pieces of a flowing stream may take the short way."""

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
    parent: FailoverLayer

    # --- the way in and out: ids, credentials, and the guard

    def handle_event(self, event: events.Event) -> Commands:
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
            yield from self._arm(math.inf)
            connection, error = yield GetHttpConnection(
                (request.host, request.port),
                request.scheme == "https",
                self.flow.server_conn.via,
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
            to_proxy = self.mode is HTTPMode.upstream and request.scheme == "http"
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
            self._withhold_key(best)
            yield from self._let_go(best)
            return
        self.flow.response = self.parent.conductor.phrase_exhausted(session)
        yield from self._answer()

    def _withhold_key(self, held: Held) -> None:
        """A provider that repeats our key to it is not quoted."""
        session = self.session
        assert session is not None
        if held.provider is None or not held.ended:
            return
        replaced = session.without_key(held.headers.response, b"".join(held.data), held.provider)
        if replaced is not None:
            held.data[:] = [replaced]

    def _let_go(self, held: Held) -> Commands:
        """Let the base class have a held answer, as if it came now."""
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
            held.headers.response.trailers = getattr(event, "trailers", None)

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
        self.phase = Phase.FLOW
        self.held = None
        self.best = None
        assert session.attempt is not None
        session.answered_by = held.provider = session.attempt.candidate.provider
        if watch.shape is Shape.ERROR:
            self._withhold_key(held)
        if watch.plain and watch.shape is Shape.STREAM:
            held.headers.response.headers.pop("content-encoding", None)
        if watch.shape in (Shape.STREAM, Shape.FLOWING) and not held.ended:
            held.headers.response.stream = True
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


class PatientHttp1Client(Http1Client):
    """mitmproxy's HTTP/1 client takes a 103 for the answer itself; this one passes over all 1xx but 101. What has
    come of a body in one read it gives on in one piece, whatever the chunks it came in."""

    @classmethod
    def adopt(cls, client: layer.Layer) -> None:
        """Make a client that has read nothing yet one of these."""
        if type(client) is Http1Client:
            client.__class__ = cls
            client.state = client.read_headers

    def read_headers(self, event: events.ConnectionEvent) -> Commands:
        while isinstance(event, events.DataReceived) and self.request is not None:
            if INFORMATIONAL.match(bytes(self.buf)) is None or self.buf.maybe_extract_lines() is None:
                break
        yield from super().read_headers(event)

    def read_body(self, event: events.Event) -> Commands:
        pieces: list[bytes] = []
        for command in super().read_body(event):
            if type(command) is ReceiveHttp and type(command.event) is ResponseData:
                pieces.append(command.event.data)
                continue
            if pieces:
                yield self._received(pieces)
            yield command
        if pieces:
            yield self._received(pieces)

    def _received(self, pieces: list[bytes]) -> ReceiveHttp:
        assert self.stream_id is not None
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return ReceiveHttp(ResponseData(self.stream_id, data))


class QuickHttp1Server(Http1Server):
    """mitmproxy's HTTP/1 server looks through the response's headers for each piece of a body; this one once.

    State beside the base's: the response looked at last, whether it is sent in chunks.
    """

    looked_at: http.Response | None = None
    chunked: bool = False

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


class HonestWebsocketLayer(WebsocketLayer):
    """mitmproxy tells the app of a normal close when the server has vanished; this one cuts its connection as well."""

    @classmethod
    def adopt(cls, child: layer.Layer | None) -> None:
        """Make a layer that has not begun to relay one of these."""
        if type(child) is WebsocketLayer:
            child.__class__ = cls

    def relay_messages(self, event: events.Event) -> Commands:
        vanished = isinstance(event, events.ConnectionClosed) and event.connection == self.context.server
        if not vanished or self.server_ws.state is not WebsocketState.OPEN:
            yield from super().relay_messages(event)
            return
        data = self.flow.websocket
        assert data is not None
        data.timestamp_end = time.time()
        data.closed_by_client = False
        data.close_code = 1006
        data.close_reason = None
        for ws in (self.server_ws, self.client_ws):
            yield commands.CloseConnection(ws.conn)
        yield WebsocketEndHook(self.flow)
        self.flow.live = False
        self._handle_event = self.done


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
        tunnel: Connection = getattr(self.connections[connection], "tunnel_connection", connection)
        return tunnel

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
        handler = self.connections.get(connection)
        queue: Any = getattr(handler.context.layers[-1], "stream_queue", ()) if handler is not None else ()
        return up_id in queue

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
        if connection.timestamp_start is None or (set_up is not None and time.time() - set_up < GRACE_SECONDS):
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
    and each piece of a stream by itself, at a system call each."""
    waiting: commands.SendData | None = None
    more: list[bytes] = []
    for command in given:
        if type(command) is commands.SendData:
            if waiting is None:
                waiting = command
                continue
            if waiting.connection is command.connection:
                more.append(command.data)
                continue
        if waiting is not None:
            if more:
                waiting.data = b"".join((waiting.data, *more))
                more.clear()
            yield waiting
            waiting = None
        if type(command) is commands.SendData:
            waiting = command
        else:
            yield command
    if waiting is not None:
        if more:
            waiting.data = b"".join((waiting.data, *more))
        yield waiting


def _handler_of(client: Connection) -> Any:
    """mitmproxy's handler of a client connection, None if it is gone."""
    server: Any = ctx.master.addons.get("proxyserver")
    return server.connections.get(client.id)


def client_is_slow(client: Connection) -> bool:
    """Whether data for this client waits inside mitmproxy: then the provider's silence is ours."""
    try:
        writer = _handler_of(client).transports[client].writer
        size: int = writer.transport.get_write_buffer_size()
    except (AttributeError, KeyError):
        return False
    return size > 0


def see_off(client: Connection, server: Server) -> None:
    """See to it that the layers hear of a server connection's end. To be called by the task that carries it.

    mitmproxy (12.2.3 at least) loses that end where the task is cancelled while it waits in a hook or for its turn
    to deliver an event: a reset while the proxy writes, a client that drops its connection. Whoever waits for that
    server would wait for ever, and its socket would stay open.
    """
    task = asyncio.current_task()
    handler = _handler_of(client)
    if task is None or handler is None:
        return

    def ended(_: object) -> None:
        if (io := handler.transports.pop(server, None)) is None:
            return  # it went the usual way
        server.state = ConnectionState.CLOSED
        if io.writer is not None:
            io.writer.close()
        telling = asyncio.ensure_future(handler.server_event(events.ConnectionClosed(server)))
        _telling.add(telling)
        telling.add_done_callback(_telling.discard)

    task.add_done_callback(ended)


_telling: set[asyncio.Future[None]] = set()
