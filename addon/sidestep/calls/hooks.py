"""The way of a call through mitmproxy's hooks, in their order, and what the layer asks on that way.

A bug in any of them is logged once, and the request goes where the app sent it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Iterable
from dataclasses import replace

from mitmproxy import http
from mitmproxy.connection import Client
from mitmproxy.proxy.mode_specs import ReverseMode
from wsproto.frame_protocol import Opcode

from sidestep import telemetry
from sidestep.breaker import judging
from sidestep.breaker.bounded import Bounded
from sidestep.breaker.outcomes import ErrorKind, Result
from sidestep.calls import replies, story
from sidestep.calls.clients import gives_an_address, goes_to, may_use_keys
from sidestep.calls.entrance import Entrance
from sidestep.calls.flight import Flight
from sidestep.calls.flows import Original, host_of, is_overlong, readable_body
from sidestep.calls.frames import Frames, conversation_of
from sidestep.calls.pages import Later, Pages, asks_the_proxy
from sidestep.calls.session import Session
from sidestep.calls.shared import Core
from sidestep.calls.watching import Shape
from sidestep.credentials import Field
from sidestep.dialects.base import Call, Pin, PinKind
from sidestep.dialects.bodies import NotReadError
from sidestep.dialects.common import media_type
from sidestep.dialects.openai_frames import RESPONSES
from sidestep.routing import table
from sidestep.routing.engine import Attempt, Engine
from sidestep.routing.exchange import RESET, Exchange, Exhausted, Wait, new_id
from sidestep.routing.repeats import said_in

logger = logging.getLogger(__name__)

REPLAYABLE = 64
"""Finished requests whose originals are kept in memory, for `replay.client` to send them as the app did."""
REPLAYABLE_BYTES = 1 << 20
"""Larger bodies are not kept for a replay."""
REPLAYABLE_TOTAL = 32 << 20
"""Bytes of all that is kept."""
_STREAMS = frozenset({"text/event-stream", "application/x-ndjson", "application/vnd.amazon.eventstream"})
"""Types of what is sent piece by piece to be read so, by any host."""
ABOUT_THE_HOST = frozenset(
    {
        *(b"set-cookie", b"set-cookie2", b"clear-site-data", b"proxy-authenticate", b"proxy-authentication-info"),
        *(b"alt-svc", b"strict-transport-security", b"public-key-pins", b"expect-ct"),
        *(b"nel", b"report-to", b"reporting-endpoints"),
    }
)
"""What an answer says of the host that it comes from: how it is to be reached, to whom errors are reported, cookies. Of
another provider's that is not for the app, which takes it for its own host's word (RFC 6265, 6797, 7838; W3C Network
Error Logging)."""
KEPT_MESSAGES_BYTES = 64 << 20
"""Of what has gone over one WebSocket: mitmproxy would keep all of it."""


class Calls:
    """State: live sessions by flow id, originals of finished requests for a replay, the hosts that a user's proxy is
    not asked for, what was said of calls that are not read, and those of them whose answers have not begun, what tells
    web pages from programs."""

    name = "sidestep.calls"

    def __init__(self, core: Core) -> None:
        self.core = core
        self.sessions: dict[str, Session] = {}
        self.replayable: Bounded[str, Original] = Bounded(REPLAYABLE, REPLAYABLE_TOTAL, lambda o: o.weight)
        self.direct_hosts: str | None = None
        self._unread: set[str] = set()
        self._passing: set[str] = set()
        self._waiting: dict[Session, asyncio.Event] = {}
        self.entrance = Entrance()
        self.pages = Pages(core, self.entrance)

    def done(self) -> None:
        for session in self.sessions.values():
            session.drop(judging.KILLED)
            if session.frames is not None:
                self._finish(session)
        self.sessions.clear()

    def client_disconnected(self, client: Client) -> None:
        for flow_id, session in tuple(self.sessions.items()):
            if session.flow.client_conn.id == client.id:
                # No other hook tells of an app that leaves while its call waits in one of ours.
                del self.sessions[flow_id]
                session.drop(judging.CLIENT_GONE)
                self._leave(session)
                try:
                    self._finish(session)
                except Exception as e:
                    self.core.log_bug("client_disconnected", e)

    def left(self, flow: http.HTTPFlow) -> None:
        """The app does not want its answer any more; its connection may stay."""
        if (session := self.sessions.get(flow.id)) is not None and session in self._waiting:
            self._leave(session)

    def _leave(self, session: Session) -> None:
        session.app_left = True
        if (waiting := self._waiting.get(session)) is not None:
            waiting.set()

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        engine = self.core.engine
        if engine is None or engine.mode == "off" or flow.response or flow.error or not flow.live:
            return
        try:
            self._recognise(flow, engine)
        except Exception as e:
            self._fail_open(flow, "requestheaders", e)

    def _recognise(self, flow: http.HTTPFlow, engine: Engine) -> None:
        request = flow.request
        if flow.is_replay == "request" and (original := self.replayable.get(flow.id)) is not None:
            original.replay(request)
        if flow.client_conn.id not in self.core.adopted or not _has_a_say(flow, engine):
            return
        match = _match(flow, engine, _host_of(flow))
        if match is None or is_overlong(request):
            return
        acting = engine.mode == "enforce"
        session = Session(flow, match, engine, self.core.clock, acting=acting, log_bug=self.core.log_bug)
        if self.entrance.is_page(request, session.original, engine.settings.proxy.hosts):
            return
        session.original.by_name = gives_an_address(flow, match.intercept)
        session.direct_hosts = self.direct_hosts
        self.sessions[flow.id] = session
        if acting:
            request.stream = False
            session.original.strip(request)

    def request(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        if flow.response or flow.error or not flow.live or self.core.engine is None:
            return None
        try:
            session = self.sessions.get(flow.id)
            if session is None:
                self._answer_unrouted(flow, self.core.engine)
                return None
            if not self._plan(session):
                return None
            return self._advance(session, holds=False) if session.acting else None
        except Exception as e:
            self._fail_open(flow, "request", e)
            return None

    def _answer_unrouted(self, flow: http.HTTPFlow, engine: Engine) -> None:
        """Our own pages; and what is to be said to a client that may use no key, where a call takes one. All else goes
        where the app sent it."""
        has_a_say = _has_a_say(flow, engine)
        host = _host_of(flow, keep=has_a_say)
        if host == replies.INTERNAL_HOST:
            shown = self.pages.answer(flow.request, engine, details=has_a_say)
            flow.response = shown.make() if isinstance(shown, Later) else shown
        elif engine.mode == "enforce" and not has_a_say:
            match = _match(flow, engine, host)
            if match is not None and not match.takes_own_credential:
                text = "this client may not use the provider keys: see allow_clients in sidestep's [proxy] table"
                told = {"x_sidestep_request_id": new_id()} if engine.settings.proxy.response_headers else {}
                flow.response = replies.error(match.dialect, 403, ErrorKind.CREDENTIAL, text, **told)

    def _plan(self, session: Session) -> bool:
        """Read the call and choose the providers that may answer. False: it goes where the app sent it."""
        flow, match, engine = session.flow, session.match, session.engine
        if flow.is_replay == "request" and (before := self.replayable.get(flow.id)) is not None:
            if flow.request.raw_content == before.sent_body:
                flow.request.data.content = before.body
            elif "content-length" in flow.request.headers:  # edited since
                flow.request.headers["content-length"] = str(len(flow.request.raw_content or b""))
        session.original.refresh(flow.request, strips=session.acting)
        original = session.original
        query = flow.request.path.partition("?")[2]
        try:
            body = readable_body(original)
        except NotReadError as e:
            return self._pass_unread(session, str(e))
        call = match.read(query, original.content_type, body)
        if call.unread:
            return self._pass_unread(session, call.unread)
        if call.operation == RESPONSES:
            call = self._bound(session, call)
        now = self.core.clock()
        candidates = engine.routes.candidates(match, call.model)
        lacking = engine.lacking_models(now)
        home = match.home_issuer if call.sealed else ""

        def plan() -> table.Plan:
            return table.plan(candidates, call, home_issuer=home, issuer_of=engine.issuer_of, knows_model=lacking)

        question = None
        if engine.sharing is not None and (names := (*(() if call.pin is None else call.pin.ids), *call.sealed[:1])):
            question = engine.ask_issuers(names, now)
        chosen = plan()
        if chosen.passthrough:
            return self._pass_on(session)
        credential = original.fingerprint() if any(c.own_credential for c in chosen.candidates) else ""
        failed_at: frozenset[str] = frozenset()
        if engine.repeats:
            said = said_in(call.messages, original.body or b"")
            failed_at = engine.repeats.failed_at(call.operation, credential, said, now)
        session.exchange = Exchange(
            engine,
            match,
            call,
            chosen,
            now,
            body_bytes=len(body),
            credential=credential,
            failed_at=failed_at,
            conversation=session.conversation,
            question=question,
            replan=None if question is None else plan,
        )
        engine.live.add(session)
        if not session.acting:
            self._look_on(session)
        return True

    @staticmethod
    def _bound(session: Session, call: Call) -> Call:
        """A handshake that goes on with a conversation, pinned to the provider that it was last held with."""
        key = session.conversation = conversation_of(session.original, session.match.route.name)
        held = session.engine.issuer_of(key) if key else None
        if held is None or held.provider not in (p.name for p in session.match.route.providers):
            return call
        return replace(call, pin=Pin(PinKind.STATE, "conversation", (key,)))

    def _pass_on(self, session: Session) -> bool:
        """The call goes where the app sent it, as if there were no Sidestep."""
        if session.acting:
            session.release()
        del self.sessions[session.flow.id]
        return False

    def _pass_unread(self, session: Session, why: str) -> bool:
        """It is not known what the call asks for. Said once for each reason and route: an app may send many of them."""
        line = f"{session.match.route.name}: a call goes where the app sent it, without failover: {why}"
        if line not in self._unread:
            self._unread.add(line)
            logger.warning(f"sidestep: {line}")
        self._passing.add(session.flow.id)
        return self._pass_on(session)

    def _look_on(self, session: Session) -> None:
        """Mode `observe`: note what would be done, and judge the own provider by what the app gets."""
        exchange, now = session.exchange, self.core.clock()
        assert exchange is not None
        own = next((c for c in exchange.plan.candidates if c.own), None)
        first = exchange.first_choice(now)
        if first is None:
            session.advice = "sidestep would have answered 503: every provider is refused"
        elif first.provider.name != session.match.addressed:
            session.advice = f"sidestep would have asked {first.provider.name}"
        if session.advice is not None:
            logger.info(session.advice, extra={"client": session.flow.client_conn.peername})
        if own is not None:
            session.flight = Flight(session, exchange, exchange.look_on(own, now))
            session.answer = session.flight.attempt

    def _advance(self, session: Session, *, holds: bool = True) -> Awaitable[None] | None:
        """Make the flow the next attempt, or its end; a coroutine where that takes a wait. `holds`: a long one too,
        which is else left to `sidestep_next`, amid which the app can be given signs of life."""
        exchange = session.exchange
        assert exchange is not None
        step = exchange.next(self.core.clock())
        if isinstance(step, Wait):
            if step.reason == RESET and not holds:
                session.held = True
                return None
            return self._wait(session, step)
        self._apply(session, step)
        return None

    async def _wait(self, session: Session, step: Wait) -> None:
        exchange = session.exchange
        assert exchange is not None
        changed = self._waiting[session] = asyncio.Event()
        changes = session.engine.changed
        changes.add(changed.set)
        try:
            following: Attempt | Wait | Exhausted = step
            while isinstance(following, Wait):
                if following.reason == RESET:
                    session.held = True
                    self._tell_held(session, following)
                changed.clear()
                if following.on_change:
                    try:
                        async with asyncio.timeout(following.seconds):
                            await changed.wait()
                    except TimeoutError:
                        pass
                else:
                    await asyncio.sleep(following.seconds)
                if session.app_left:
                    return
                following = exchange.next(self.core.clock())
            self._apply(session, following)
        except Exception as e:
            self._fail_open(session.flow, "wait", e)
        finally:
            changes.discard(changed.set)
            del self._waiting[session]

    @staticmethod
    def _tell_held(session: Session, step: Wait) -> None:
        logger.info(f"sidestep: {session.match.route.name}: a call waits {step.seconds:.0f} s for a limit to end")

    def _apply(self, session: Session, step: Attempt | Exhausted) -> None:
        exchange = session.exchange
        assert exchange is not None
        if isinstance(step, Attempt):
            flight = Flight(session, exchange, step)
            if exchange.going_home == flight.provider.name and len(exchange.attempts) == 1:
                flight.note("home again")
                logger.info(
                    f"sidestep: {session.match.route.name}: a conversation is back home at {flight.provider.name}"
                )
            session.prepare(flight)
            session.show(flight)
        elif not exchange.attempts:
            session.flow.response = self.phrase_exhausted(session)

    def sidestep_next(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Our own hook: the attempt under way has failed."""
        session = self.sessions.get(flow.id)
        if session is None:
            return None
        try:
            return self._advance(session)
        except Exception as e:
            self.core.log_bug("sidestep_next", e)
            return None

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        session = self.sessions.get(flow.id)
        if session is None:
            self._let_flow(flow)
        if session is None or flow.response is None:
            return
        try:
            if session.flight is not None and session.flight.watch is None:
                self._record(session.flight, flow.response)
            told: tuple[Field, ...] = ()
            if session.acting and session.engine.settings.proxy.response_headers:
                told = story.headers(session)
            by = session.answered_by
            elsewhere = by is not None and by.base_url.place != session.match.intercept
            without = {*(ABOUT_THE_HOST if elsewhere else ()), *(name for name, _ in told)}
            fields = flow.response.data.headers.fields
            flow.response.data.headers.fields = (*(f for f in fields if f[0].lower() not in without), *told)
        except Exception as e:
            self.core.log_bug("responseheaders", e)

    def _let_flow(self, flow: http.HTTPFlow) -> None:
        """A stream that is none of our business: mitmproxy would collect it to its end, and an app that reads it word
        by word would get it at once, or never. A call that was not read may have asked for one in any form: its answer
        flows unless it tells its length."""
        engine, response = self.core.engine, flow.response
        passing = flow.id in self._passing
        self._passing.discard(flow.id)
        if engine is None or engine.mode == "off" or response is None or response.stream:
            return
        streams = media_type(response.headers.get("content-type", "")) in _STREAMS
        if streams or (passing and "content-length" not in response.headers):
            response.stream = True

    def _record(self, flight: Flight, response: http.Response) -> None:
        """Judge from the hooks alone what a layer of ours does not carry: mode `observe`."""
        watch = flight.open(response)
        if watch.shape is Shape.OPAQUE:
            if watch.status != 101:
                flight.settle(watch.judge_end())
        elif watch.shape in (Shape.STREAM, Shape.FLOWING):
            before = response.stream

            opened = self.core.clock()

            def look_on(data: bytes) -> bytes | Iterable[bytes]:
                try:
                    watch.seconds = self.core.clock() - opened
                    piece = watch.feed(data)
                    if piece.content:
                        flight.settle(watch.opening)
                    if piece.error is not None:
                        judge = watch.judge_break if watch.begun else watch.judge_error_event
                        flight.settle(judge(piece.error))
                except Exception as e:
                    self.core.log_bug("stream", e)
                return before(data) if callable(before) else data

            response.stream = look_on

    def response(self, flow: http.HTTPFlow) -> None:
        if flow.websocket is not None:
            return
        session = self.sessions.pop(flow.id, None)
        if session is None:
            return
        try:
            flight = session.flight
            watch = None if flight is None else flight.watch
            if flight is not None and watch is not None and flight.attempt in session.engine.in_flight:
                if watch.shape in (Shape.WHOLE, Shape.ERROR) and flow.response is not None and not session.acting:
                    watch.feed(flow.response.raw_content or b"")
                elif watch.shape is Shape.STREAM:
                    watch.rest()
                flight.finish(watch.judge_end())
            self._finish(session)
        except Exception as e:
            session.drop(judging.INTERNAL)
            self.core.log_bug("response", e)

    def error(self, flow: http.HTTPFlow) -> None:
        self._passing.discard(flow.id)
        session = self.sessions.pop(flow.id, None)
        if session is None:
            return
        try:
            session.drop(judging.CLIENT_GONE)
            self._finish(session)
        except Exception as e:
            self.core.log_bug("error", e)

    def websocket_start(self, flow: http.HTTPFlow) -> None:
        session = self.sessions.get(flow.id)
        if session is None or session.flight is None:
            return
        try:
            session.frames = Frames(session, session.flight)
        except Exception as e:
            self.core.log_bug("websocket_start", e)

    def websocket_message(self, flow: http.HTTPFlow) -> None:
        session, told = self.sessions.get(flow.id), flow.websocket
        if session is None or session.frames is None or told is None:
            return
        message = told.messages[-1]
        is_text = message.type is Opcode.TEXT
        try:
            session.kept_bytes += len(message.content)
            while session.kept_bytes > KEPT_MESSAGES_BYTES and len(told.messages) > 1:
                session.kept_bytes -= len(told.messages.pop(0).content)
            if message.from_client:
                content = session.frames.sent(message.content, is_text=is_text)
                if session.frames.closes:
                    message.drop()
                elif content is not message.content:
                    message.content = content
            elif not message.injected and not session.frames.came(message.content, is_text=is_text):
                message.drop()
        except Exception as e:
            self.core.log_bug("websocket_message", e)

    def websocket_end(self, flow: http.HTTPFlow) -> None:
        session, told = self.sessions.pop(flow.id, None), flow.websocket
        if session is None or told is None:
            return
        try:
            if session.frames is not None:
                reason = told.close_reason or ""
                session.frames.ended(told.close_code, reason, by_client=bool(told.closed_by_client))
            self._finish(session)
        except Exception as e:
            session.drop(judging.INTERNAL)
            self.core.log_bug("websocket_end", e)

    def _finish(self, session: Session) -> None:
        """The request is over: count it, tell its story, keep its original for a replay."""
        engine, exchange, flow = session.engine, session.exchange, session.flow
        engine.live.discard(session)
        if exchange is None:
            return
        result = story.result(session)
        engine.requests_total[(exchange.match.route.name, result)] += 1
        if not exchange.call.is_websocket:  # which lasts as long as the app likes
            engine.durations.took((exchange.match.route.name, result), self.core.clock() - exchange.arrived)
        if result is Result.REROUTED and session.answered_by is not None:
            engine.rerouted[(session.match.addressed, session.answered_by.name)] += 1
        now = self.core.clock()
        if (told := story.tell(session, result)) is not None:
            engine.recent.ended(told, _waited(session, exchange), now, result=result)
        if session.acting and result in (Result.REROUTED, Result.FAILED):
            kind, text = story.line(session, result)
            level = logging.INFO if result is Result.REROUTED else logging.WARNING
            self.core.tell(kind, text, level, story.facts(session, result))
            if result is Result.FAILED:
                engine.recent.failed(text)
        came_to_nothing = result in (Result.FAILED, Result.LEFT)
        if came_to_nothing or engine.repeats:
            call = exchange.call
            said = said_in(call.messages, session.original.body or b"")
            if came_to_nothing:
                engine.repeats.failed(call.operation, exchange.credential, said, exchange.failed_at(now), now)
            else:
                engine.repeats.answered(call.operation, exchange.credential, said)
        if self.core.tracing is not None:
            self._trace(session, exchange, result, now)
        if session.acting and len(session.original.body or b"") <= REPLAYABLE_BYTES:
            session.original.over(flow.request)
            self.replayable.put(flow.id, session.original)

    def _trace(self, session: Session, exchange: Exchange, result: Result, now: float) -> None:
        assert self.core.tracing is not None
        try:
            status = None if session.flow.response is None else session.flow.response.status_code
            told = telemetry.trace(exchange, session.answer, result, status, now)
            fields = session.original.fields  # what repeats a credential is told to nobody else
            headers = ((n.lower().decode("latin-1"), v.decode("latin-1")) for n, v in fields)
            self.core.tracing.ended(told, headers, time.time() - now)
        except Exception as e:
            self.core.log_bug("trace", e)

    # --- our own pages

    def is_own(self, request: http.Request, client: Client, server: str | None) -> bool:
        engine, host = self.core.engine, request.data.host if server is None else server
        if engine is None:
            return False
        if host == replies.INTERNAL_HOST:
            return True
        try:
            # The cheap question first: every call is asked.
            own_port = server is None and client.sockname is not None and request.data.port in (0, client.sockname[1])
            return own_port and asks_the_proxy(request, client, engine.settings.proxy.hosts)
        except Exception as e:
            self.core.log_bug("is_own", e)
            return False

    def show(self, flow: http.HTTPFlow) -> http.Response | Later:
        assert self.core.engine is not None
        try:
            return self.pages.answer(flow.request, self.core.engine, details=_has_a_say(flow, self.core.engine))
        except Exception as e:
            return self._no_page(e)

    def look(self, later: Later) -> http.Response | None:
        try:
            return later.look()
        except Exception as e:
            return self._no_page(e)

    def _no_page(self, error: Exception) -> http.Response:
        self.core.log_bug("page", error)
        return http.Response.make(500, b"see the log\n", {"content-type": "text/plain"})

    def event(self) -> bytes:
        assert self.core.engine is not None
        try:
            return self.pages.event(self.core.engine)
        except Exception as e:
            self.core.log_bug("event", e)
            return b": see the log\n\n"

    # --- what the layer asks and tells

    def called(self, request: http.Request) -> None:
        self.entrance.called(request)

    def session(self, flow: http.HTTPFlow) -> Session | None:
        session = self.sessions.get(flow.id)
        return session if session is not None and session.acting else None

    def beside(self, session: Session, late: Flight) -> Flight | None:
        """Another attempt beside one that is late, None if there is to be none."""
        exchange = session.exchange
        try:
            attempt = None if exchange is None else exchange.beside(late.attempt, self.core.clock())
            if exchange is None or attempt is None:
                return None
            flight = Flight(session, exchange, attempt)
            session.prepare(flight)
            waited, name = self.core.clock() - late.attempt.started, late.provider.name
            text = f"{name} has said nothing for {waited:.1f} s: {flight.provider.name} is asked beside it"
            self.core.tell(f"hedge of {name}", text)
            return flight
        except Exception as e:
            self.core.log_bug("beside", e)
            return None

    def unrouted(self, flow: http.HTTPFlow) -> None:
        if (session := self.sessions.pop(flow.id, None)) is not None:
            session.release()

    def broke(self, flow: http.HTTPFlow) -> None:
        session = self.sessions.get(flow.id)
        if session is not None and session.flight is not None:
            came = session.flight.attempt.headers_at is not None
            session.flight.settle(judging.TRUNCATED if came else judging.CONNECT)

    def handshake(self, address: tuple[str, int]) -> tuple[str, str]:
        return self.core.handshakes.get(address) or ("", "")

    def phrase_exhausted(self, session: Session) -> http.Response:
        assert session.exchange is not None
        # A client that names its conversation is one that comes back over HTTP.
        session.comes_again = session.is_websocket and session.conversation != ""
        session.broken_off = not session.comes_again
        return replies.exhausted(session.exchange)

    # --- helpers

    def _fail_open(self, flow: http.HTTPFlow, where: str, error: Exception) -> None:
        """A bug of ours: the request goes where the app sent it, with the app's credential."""
        self.core.log_bug(where, error)
        session = self.sessions.pop(flow.id, None)
        if session is not None:
            session.release()
            session.engine.live.discard(session)
            session.flight = None


def _waited(session: Session, exchange: Exchange) -> float | None:
    """Seconds from a call's arrival until the app had something of its answer."""
    answer = session.answer
    if answer is None or story.is_broken(answer):
        return None
    at = answer.ended_at if answer.content_at is None else answer.content_at
    return None if at is None else at - exchange.arrived


def _has_a_say(flow: http.HTTPFlow, engine: Engine) -> bool:
    """Whether the client may use keys: what another one sends, and what it is answered, changes nothing here."""
    return may_use_keys(flow.client_conn, engine.settings.proxy.allow_clients)


def _match(flow: http.HTTPFlow, engine: Engine, host: str) -> table.Match | None:
    """The route of a request, by its head alone; None, too, where it goes elsewhere than its `Host` says."""
    request = flow.request
    method = request.method
    if method == "GET" and request.headers.get("upgrade", "").lower() != "websocket":
        return None
    match = engine.routes.match(method, request.scheme, host, request.port, request.path)
    return match if match is not None and goes_to(flow, match.intercept) else None


def _host_of(flow: http.HTTPFlow, *, keep: bool = True) -> str:
    """The host that the app means. In reverse mode its Host header may name this proxy (`keep_host_header`)."""
    request = flow.request
    return request.host if isinstance(flow.client_conn.proxy_mode, ReverseMode) else host_of(request, keep=keep)
