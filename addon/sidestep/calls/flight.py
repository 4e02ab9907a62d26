"""One attempt under way: everything that lives as long as it does, and nothing longer.

mitmproxy's public API only: what connections and streams are made of is the layer's to know. The engine's `Attempt` is
the record that stays; a `Flight` is born with it and dies when its last word is said.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import replace
from itertools import chain

from mitmproxy import http
from mitmproxy.connection import Connection, Server

from sidestep.breaker import judging
from sidestep.breaker.outcomes import ErrorFacts, ErrorKind, Kind, Outcome
from sidestep.calls import flows
from sidestep.calls.decoding import decoded_start
from sidestep.calls.holding import Do, Holding, Step
from sidestep.calls.session import Session
from sidestep.calls.watching import EVENT_STREAM, Shape, Watch
from sidestep.config.settings import Provider, TimeoutSettings
from sidestep.credentials import SECRET_LENGTH
from sidestep.dialects.base import Usage
from sidestep.dialects.code_assist import Wrapper
from sidestep.dialects.common import media_type
from sidestep.dialects.renaming import Renamer
from sidestep.no_proxy import is_direct
from sidestep.routing import prices
from sidestep.routing.engine import Attempt
from sidestep.routing.exchange import Exchange

logger = logging.getLogger(__name__)

REUSE_SECONDS = 2.0
"""A server that had closed an idle connection says so as soon as it is used again: some round trips, at most. One that
ends later has worked on the request."""
SIGN_SECONDS = 2.0
"""How long after a head the app may be left without a sign of life that its provider gives. Apps end a stream of which
no byte comes for a while: SDKs by their read timeout, coding agents after 20 s."""
LEAKED = "a key that it repeats was withheld"
SIGN_PAUSE_SECONDS = 0.5
"""How long after one sign of life the next one comes at the earliest."""
BLANK_BYTES = 64 << 10
"""Bytes of a whole answer that are looked at for whether they are blanks alone."""
HEAD_SECONDS = 5.0
"""How long a good head may be held back that nothing follows: it is a sign of life itself."""
NOTES = 20
"""Notes kept of one attempt."""


class Flight:
    """State: the request that is its own; the upstream stream's id and connection, once there are any; the answer so
    far (its head, what of its body is held back, whether it has ended), its watch and the policy that holds it; the
    deadline for the next sign of life (monotonic seconds, None: nothing bounds it), and from when on it is late."""

    def __init__(self, session: Session, exchange: Exchange, attempt: Attempt) -> None:
        self.session = session
        self.exchange = exchange
        self.attempt = attempt
        session.flights.append(self)
        self.made: http.Request | None = None
        self.watch: Watch | None = None
        self.holding: Holding | None = None
        self._reshaper: Wrapper | Renamer | None = None
        """Puts an answer into the envelope that the app expects, or its own name for the model into one."""
        self.up_id = 0
        self.is_sent = False
        self._renewed = False
        self._reused_at: float | None = None
        """When it went out on a connection that had been idle, for the first time."""
        self.connection: Connection | None = None
        self.server: Server | None = None
        """The connection that its answer came on, also when that is over."""
        self.deadline: float | None = None
        self.late_at: float | None = None
        """From when on another attempt is wanted beside it (monotonic seconds; None: none is)."""
        self.sign_at: float | None = None
        """When the app is told of the head, if nothing has come of it by then (monotonic seconds)."""
        self._signed_at = -math.inf
        self._document_at: float | None = None
        self._heard_at: float | None = None
        self._idle = self.timeouts.idle
        self.response: http.Response | None = None
        self.data: list[bytes] = []
        self._fed: list[bytes] = []
        self.size = 0
        """Bytes of its body that have come."""
        self.bodiless = False
        self.ended = False
        self._unpacked = False
        self.rank = 0
        """How fit this failed answer is to be the app's (`Exchange.rank`)."""

    def __repr__(self) -> str:
        at = "answering" if self.response is not None else "sent" if self.is_sent else "connecting"
        return f"Flight({self.attempt!r}, {at}{', ended' if self.ended else ''}, deadline={self.deadline})"

    @property
    def provider(self) -> Provider:
        return self.attempt.candidate.provider

    @property
    def timeouts(self) -> TimeoutSettings:
        return self.provider.timeouts

    # --- sending

    @property
    def request(self) -> http.Request:
        """Its own, or what scripts have made of the one that the flow shows."""
        return self.session.flow.request if self.made is None or self.session.flight is self else self.made

    @property
    def address(self) -> tuple[str, int]:
        return self.request.host, self.request.port

    def outgoing(self, *, to_http1: bool, to_proxy: bool) -> http.Request:
        """The request's head as it is sent, with the credential."""
        original = self.session.original
        return flows.outgoing(self.request, original, self.attempt.candidate, to_http1=to_http1, to_proxy=to_proxy)

    def passes_proxy_by(self) -> bool:
        """Whether it goes to its host directly, though there is a proxy behind this one."""
        request, direct_hosts = self.request, self.session.direct_hosts
        if request.host == "localhost":
            return True  # whatever that name means to another proxy
        return direct_hosts is not None and is_direct(direct_hosts, request.host, request.port)

    def sent(self, *, reused: bool) -> None:
        """The request has gone out, on a connection that had been idle or not: its provider is waited for."""
        self.is_sent = True
        self._reused_at = self.session.clock() if reused and not self._renewed else None
        call, timeouts = self.exchange.call, self.timeouts
        # Nothing is made for a handshake that would take time.
        soon = call.stream or call.is_websocket
        self.bound(self.session.clock() + (timeouts.first_byte if soon else timeouts.headers))

    @property
    def is_first_on_reuse(self) -> bool:
        """Whether it has just been sent on a connection that had been idle, and no byte has come."""
        at = self._reused_at
        return at is not None and self.response is None and self.session.clock() - at < REUSE_SECONDS

    def renew(self) -> None:
        """An idle connection broke when it was used again: it is sent once more, on another."""
        self._renewed = True
        self.is_sent = False
        self.note("an idle connection had ended: sent on a fresh one")

    def expect(self) -> None:
        """See from when on it is late, as far as that is known by now."""
        self.late_at = self.exchange.late_at(self.attempt, self._heard_at, self.session.clock())

    def bound(self, deadline: float | None) -> None:
        """Wait until then at most. While the app sees nothing of the answer, its request's budget ends all waiting."""
        held = self.holding is None or not self.holding.released
        self.deadline = min(deadline or self.exchange.deadline, self.exchange.deadline) if held else deadline

    # --- what comes back

    def open(self, response: http.Response) -> Watch:
        """The head of the answer has come."""
        session, exchange, attempt = self.session, self.exchange, self.attempt
        now = session.clock()
        if session.acting:
            self._scrub(response)
        attempt.headers_at = now
        attempt.status = response.status_code
        complete = session.acting and self.provider.stream.commit == "complete" and exchange.call.stream
        self.watch = Watch(
            session.match.dialect,
            exchange.call,
            own_provider=attempt.candidate.own,
            own_credential=attempt.candidate.own_credential,
            status=response.status_code,
            fields=response.data.headers.fields,
            wall_now=time.time(),
            unwrap=complete,
            sieve=session.leaks.sieve() if session.acting else None,
        )
        if session.acting and response.status_code < 300:
            self._reshaper = self._reshaper_for(self.watch)
        self.response = response
        self.holding = Holding(
            self.watch, self.timeouts, complete=complete, hold_bytes=self.provider.stream.hold_bytes, now=now
        )
        return self.watch

    def _reshaper_for(self, watch: Watch) -> Wrapper | Renamer | None:
        call, candidate, stream = self.exchange.call, self.attempt.candidate, watch.shape is Shape.STREAM
        if call.in_envelope and not candidate.own:
            return Wrapper(stream=stream)
        renamed = call.operation == "messages" and candidate.model is not None and call.model is not None
        if renamed and candidate.model != call.model and watch.plain and watch.shape in (Shape.STREAM, Shape.WHOLE):
            return Renamer(call.model or "", stream=stream)
        return None

    def answers(self, response: http.Response, *, bodiless: bool) -> Step:
        """The head of the answer has come: what is to be done about it."""
        self.open(response)
        if self.late_at is not None:
            self.expect()
        self.bodiless = bodiless
        assert self.holding is not None
        if isinstance(self._reshaper, Wrapper) and not self._fits_envelope(response):
            return Step(Do.FAIL, outcome=judging.BAD_HEAD)
        step = self._taken(self.holding.begin())
        if step.do is Do.HOLD and response.status_code < 300:
            self.sign_at = self.session.clock() + HEAD_SECONDS
        return step

    def _fits_envelope(self, response: http.Response) -> bool:
        """Whether it can be put into one: it is in no content encoding, and if it is a stream it comes as events."""
        assert self.watch is not None
        events = media_type(response.headers.get("content-type", "")) == EVENT_STREAM
        return self.watch.plain and events == (self.watch.shape is Shape.STREAM)

    def refused(self) -> Step:
        """What came in place of a head cannot be passed on."""
        return Step(Do.FAIL, outcome=judging.BAD_HEAD)

    def feed(self, data: bytes) -> Step:
        """Some bytes of its body have come."""
        assert self.holding is not None
        now = self.session.clock()
        self.size += len(data)
        if not self.holding.released:
            self._fed.append(data)
        if self.late_at is not None:
            self._heard_at = now
            self.expect()
            if self.late_at is not None and self.watch is not None and self.watch.shape is Shape.WHOLE and data.strip():
                # It is being sent, and late only once it pauses for as long as a whole one may take.
                self.late_at += now - self.attempt.started
        step = self._taken(self.holding.feed(data, now))
        if self.attempt.content_at is not None and step.do is Do.HOLD:
            # `commit = "complete"`: another one may be through before it.
            self.late_at = self.exchange.slow_at(self.attempt, self.size, now)
        return step

    def sign(self, data: bytes) -> bytes | None:
        """What tells the app that its answer is being made, now that `data` has come of it and is held back, or nothing
        for a while; empty where its head alone does. None: there is nothing to tell, or it is too early."""
        watch, came = self.watch, self.attempt.headers_at
        if watch is None or came is None or watch.status >= 300:
            return None
        now = self.session.clock()
        if data and self._is_document(data):
            # It can be told only by letting it go, unjudged. Most come in one piece.
            self._document_at = came = now if self._document_at is None else self._document_at
        if now - came < (SIGN_SECONDS if data else HEAD_SECONDS):
            return None
        self.sign_at = None
        if watch.shape is Shape.WHOLE:
            return data  # blanks before a document mean nothing, and any other document may follow them
        if now < self._signed_at + SIGN_PAUSE_SECONDS:
            return None  # one large event comes in many pieces
        self._signed_at = now
        return self.session.waiting if watch.shape is Shape.STREAM else b""

    def _is_document(self, data: bytes) -> bool:
        """Whether `data`, the latest that came, is of a whole answer's document: more than blanks before it."""
        watch = self.watch
        assert watch is not None
        if watch.shape is not Shape.WHOLE:
            return False
        if self._document_at is not None or self.size > BLANK_BYTES:
            return True
        if not watch.plain:
            assert self.response is not None
            data = decoded_start(self.response.headers.get("content-encoding", ""), b"".join(self.data))
        return bool(data.strip())

    @property
    def due(self) -> float | None:
        """When something of it has to be looked at, None: nothing bounds it."""
        at = self.deadline
        if self.late_at is not None and (at is None or self.late_at < at):
            at = self.late_at
        if self.sign_at is not None and (at is None or self.sign_at < at):
            at = self.sign_at
        return at

    def binds(self, data: bytes) -> bool:
        """Whether the app can be told of it only by letting it go: what can be told without is a 200, in no content
        encoding, of unknown length, and not yet begun."""
        watch = self.watch
        if watch is None or watch.status != 200 or not watch.plain:
            return True
        if watch.shape is Shape.WHOLE and data.strip():
            return True
        return self.session.flow.request.http_version == "HTTP/1.0"

    def vouch(self) -> Step:
        """Let go of it before its first content."""
        assert self.holding is not None
        return self._taken(self.holding.vouch(self.session.clock()))

    def head_alone(self) -> http.Response:
        """Its head, for an app that waits while the answer itself is still held back; another may follow it."""
        response, exchange = self.response, self.exchange
        assert response is not None
        left_out = {b"content-length", b"transfer-encoding"}
        if self.watch is not None and self.watch.unwraps:
            left_out.add(b"content-encoding")
        fields = [f for f in response.data.headers.fields if f[0].lower() not in left_out]
        if not self.attempt.candidate.own:
            fields = [f for f in fields if f[0].lower() in (b"content-type", b"cache-control")]
        if self.session.engine.settings.proxy.response_headers:
            fields.append((b"x-sidestep-request-id", exchange.id.encode()))
            if len(exchange.plan.candidates) == 1:
                fields.append((b"x-sidestep-provider", self.provider.name.encode()))
            trail = [a.label for a in exchange.attempts if a is not self.attempt] + [f"{self.provider.name}:200"]
            fields.append((b"x-sidestep-attempts", ", ".join(trail).encode()))
        fields.append((b"transfer-encoding", b"chunked"))
        return http.Response(b"HTTP/1.1", 200, b"OK", http.Headers(fields), None, None, time.time(), None)

    def end(self) -> Step:
        """It has ended by itself."""
        assert self.holding is not None
        self.connection = None  # nothing is left there to be cancelled
        return self._taken(self.holding.end(self.session.clock()))

    def broke(self, cause: str = "") -> Step:
        """The connection could not be made, or broke. `cause`: why it could not, in words."""
        self.connection = None
        if self.holding is None:
            return Step(Do.FAIL, outcome=replace(judging.CONNECT, cause=cause))
        return self._taken(self.holding.broke(self.session.clock()))

    def expired(self) -> Step:
        """The deadline has passed."""
        if self.holding is None:
            late = replace(judging.CONNECT, cause="timed out connecting")
            return Step(Do.FAIL, outcome=judging.TIMEOUT if self.is_sent else late)
        return self._taken(self.holding.expired(self.session.clock()))

    @property
    def skimmable(self) -> bool:
        done = self._reshaper is None or self._reshaper.done
        return self.holding is not None and done and self.holding.skimmable

    def skim(self, data: bytes) -> bool:
        """`feed`, for a piece of a stream that only has to be passed on; False if `feed` has to be asked. Nearly all
        that ever comes takes this way."""
        if self.watch is None or not self.watch.skim(data):
            return False
        self.size += len(data)
        if self.deadline is not None:
            self.deadline = self.session.clock() + self._idle
        return True

    def take_trailers(self, trailers: http.Headers) -> None:
        self.scrub_fields(trailers)
        if self.response is not None:
            self.response.trailers = trailers

    def _taken(self, step: Step) -> Step:
        """A step's part that concerns the record alone: it does not wait until the app can be told."""
        assert self.holding is not None
        self.bound(self.holding.deadline)
        self.ended = self.holding.ended
        if (reshaper := self._reshaper) is not None and (step.data or self.ended):
            step = replace(step, data=reshaper.feed(step.data) + (reshaper.end() if self.ended else b""))
        if step.do is not Do.HOLD:
            self.sign_at = None
        if step.do in (Do.HOLD, Do.RELEASE, Do.FAIL) and step.data:
            self.data.append(step.data)
        if step.note:
            self.note(step.note)
        if self.watch is not None and self.watch.leaked:
            self.tell_leak()
        if step.outcome is not None and step.do in (Do.HOLD, Do.RELEASE, Do.FORWARD):
            if step.ended:
                self.finish(step.outcome)
            else:
                self.settle(step.outcome)
        return step

    # --- settling: once; a success at first content may be taken back

    def settle(self, outcome: Outcome) -> None:
        """Give the attempt its outcome."""
        session, attempt = self.session, self.attempt
        now = session.clock()
        self.late_at = None
        if outcome.kind is Kind.SUCCESS and attempt.content_at is None:
            attempt.content_at = now
        earlier = attempt.outcome
        # An attempt that is over has had its last word: what breaks once the app has gone blames no provider.
        over = attempt.ended_at is not None
        taken_back = outcome.kind in (Kind.FAILURE, Kind.SLOW) and not over
        if earlier is None or (earlier.kind is Kind.SUCCESS and taken_back):
            session.engine.settle(attempt, outcome, now)
            try:
                told = self.watch.headers if self.watch and self.watch.tells_limits else {}
                self.exchange.settled(attempt, told, now, time.time())
            except Exception as e:
                session.got_over("settled", e)

    def finish(self, outcome: Outcome) -> None:
        """The attempt is over, with this as the last word on it: the one door for every end."""
        self.settle(outcome)
        engine, attempt = self.session.engine, self.attempt
        try:
            self._gather(outcome)
        except Exception as e:
            self.session.got_over("finish", e)
        if self in self.session.flights:
            self.session.flights.remove(self)
            if attempt.beside is not None:
                engine.hedge_ended(attempt, sent=self.is_sent)
        engine.ended(attempt, self.session.clock())

    def _gather(self, outcome: Outcome) -> None:
        """What the attempt has cost, and what it teaches."""
        engine, attempt, watch = self.session.engine, self.attempt, self.watch
        if watch is not None:
            watch.note_usage()
            self.take(watch.usage, watch.ids)
            other = self.exchange.outpaced_attempt
            if watch.usage is not None and other is not None and attempt in engine.in_flight:
                engine.wasted_tokens[other.candidate.provider.name] += watch.usage.input
            if watch.shape is Shape.STREAM and outcome.kind is Kind.SUCCESS and attempt in engine.in_flight:
                now = self.session.clock()
                if self.exchange.streamed(attempt, self.size, now):
                    self.note("far slower than is usual")
                    engine.slowed(attempt, now)
            if watch.bug is not None:
                self.note("a bug of Sidestep's: not all of it was read")
                self.session.got_over("reading", watch.bug)

    def outpaced(self, *, queued: bool) -> None:
        """Another attempt of this call has answered before it. `queued`: it has waited inside mitmproxy."""
        if self.is_sent and not queued:
            now = self.session.clock()
            self.exchange.outpaced(self.attempt, self.size, now)
            self.exchange.outdone(self.attempt, now)
        self.drop(judging.HEDGE_LOST if self.attempt.beside is not None or queued else judging.SLOW)

    def take(self, usage: Usage | None, ids: tuple[str, ...]) -> None:
        """What its answer has cost, and what a later call may name of it."""
        if usage is not None:
            self.attempt.usage = usage
            self.attempt.cost = prices.cost(self.provider, self.attempt.candidate.model, usage)
            self.attempt.saved = prices.saved(self.provider, self.attempt.candidate.model, usage)
            self.exchange.used(self.attempt)
        if ids:
            self.session.engine.issued(ids, self.provider)

    def drop(self, outcome: Outcome) -> None:
        """Close whatever is still open of the attempt, with this outcome."""
        if self.attempt.ended_at is None:
            self.finish(outcome)

    def note(self, text: str) -> None:
        """Something that the attempt's story should tell. Never a quotation."""
        notes = self.attempt.notes
        if len(notes) < NOTES and text not in notes[-1:]:
            notes.append(text)

    def client_gone(self) -> Outcome:
        """What the app's leaving says of the provider."""
        waited = self.session.clock() - self.attempt.started
        came = self.attempt.headers_at is not None
        return judging.judge_client_gone(waited, self.timeouts.first_byte, byte_came=came)

    # --- what the app is told

    def frame(self) -> None:
        """Make the head say what is sent: what of a body is decoded, or ends early, has another length."""
        watch, response = self.watch, self.response
        if watch is None or response is None:
            return
        headers = response.headers
        if watch.unwraps:
            del headers["content-encoding"]
        reshaped = watch.unwraps or self._reshaper is not None
        if reshaped and headers.pop("content-length", None) is not None and response.http_version == "HTTP/1.1":
            headers["transfer-encoding"] = "chunked"
        if self.ended and watch.announced is not None and self.session.flow.request.method != "HEAD":
            length = b"%d" % sum(map(len, self.data))
            if length != watch.announced and "content-length" in headers:
                headers["content-length"] = length.decode("ascii")

    def take_held(self) -> list[bytes]:
        """What was held back, to be passed on."""
        held, self.data, self._fed = self.data, [], []
        return held

    def as_it_came(self) -> None:
        """What has failed without a word may be the last one: then with all that a good answer would be rid of."""
        if self.watch is not None and not self.watch.begun and not self.watch.unwraps:
            self.data = self._fed

    def unpack(self) -> None:
        """Take a whole answer out of its content encoding: its head has gone out without."""
        watch, response = self.watch, self.response
        if watch is None or response is None or watch.plain or watch.unread or not self.ended:
            return
        self.data = [decoded_start(response.headers.pop("content-encoding", ""), b"".join(self.data))]
        self._unpacked = True

    @property
    def is_answer(self) -> bool:
        """Whether what is held is all that the provider has said: an answer that the app may get. A part of a stream is
        none: where it merely ends, it would look whole."""
        watch = self.watch
        if watch is not None and watch.leaked and watch.shape is not Shape.ERROR:
            return False
        if watch is not None and watch.shape is Shape.STREAM and watch.begun and not (watch.finished or watch.gave_up):
            return False
        return self.ended or (watch is not None and watch.gave_up)

    def how_broke(self, outcome: Outcome, error: ErrorFacts | None) -> str:
        """What is noted of a stream that broke after content: none of its provider's own words."""
        name = self.provider.name
        if error is None:
            return f"the stream from {name} {'went silent' if outcome.reason == 'timeout' else 'ended before its end'}"
        return f"{name} ended the stream with an error ({error.kind.value})"

    def phrase_broken(self, outcome: Outcome, error: ErrorFacts | None) -> tuple[ErrorKind, str]:
        """What the app is told of it."""
        if error is None:
            return ErrorKind.SERVER, self.how_broke(outcome, error)
        if not error.message or self.session.leaks.in_words(error.message.encode("utf-8", "replace")):
            return error.kind, f"{self.provider.name} ended the stream with an error"
        return error.kind, error.message

    def phrase_refused(self) -> tuple[ErrorKind, str] | None:
        """What its failed answer says, for an app that has been given a head already; None: nothing may be told."""
        watch, response = self.watch, self.response
        if watch is None or response is None:
            return None
        body = decoded_start(response.headers.get("content-encoding", ""), b"".join(self.data))
        error = watch.dialect.read_error(response.status_code, watch.headers, body)
        if not error.message or self.session.leaks.in_words(error.message.encode("utf-8", "replace")):
            return None
        return error.kind, f"{self.provider.name} answered {response.status_code}: {error.message}"

    def quotable(self, told: bytes) -> bytes:
        """A provider's own words, unless they repeat a key."""
        return b"" if self.session.leaks.in_words(told) else told

    @property
    def is_encoded(self) -> bool:
        """Whether its body goes on in a content encoding."""
        return self.watch is not None and not self.watch.plain and not self._unpacked

    def may_tell(self, step: Step) -> bool:
        """Whether a provider's error may go on as it comes: its words repeat no key."""
        words = b"" if step.error is None else step.error.message.encode("utf-8", "replace")
        return not self.session.leaks.in_words(step.told + words)

    def withhold_key(self) -> bool:
        """Put an error of ours in place of an error body that repeats a key. Whether that was needed."""
        response, body, leaks = self.response, b"".join(self.data), self.session.leaks
        assert response is not None
        assert self.watch is not None
        if not self.watch.leaked and not leaks.in_words(body):
            encoding = response.headers.get("content-encoding")
            if encoding is None or not leaks.in_words(decoded_start(encoding, body)):
                return False
        self.tell_leak()
        text = f"{self.provider.name} answered {response.status_code}; its words are withheld: they repeat a key"
        replaced = self.session.match.dialect.phrase_error(response.status_code, ErrorKind.SERVER, text)
        response.headers.pop("content-encoding", None)
        response.headers["content-type"] = "application/json"
        if "content-length" in response.headers:
            response.headers["content-length"] = str(len(replaced))
        self.data = [replaced]
        return True

    def _scrub(self, response: http.Response) -> None:
        """Take out of the head of an answer what repeats a key."""
        data = response.data
        if len(data.reason) >= SECRET_LENGTH and self.session.leaks.in_words(data.reason):
            data.reason = b""
            self.tell_leak()
        self.scrub_fields(data.headers)

    def scrub_fields(self, headers: http.Headers) -> None:
        """The same for header fields, and for trailers."""
        leaks, fields = self.session.leaks, headers.fields
        if leaks.in_words(b"\n".join(chain.from_iterable(fields))):
            headers.fields = tuple(field for field in fields if not leaks.in_words(b"\n".join(field)))
            self.tell_leak()

    def tell_leak(self) -> None:
        """It has repeated a key, which was withheld."""
        self.note(LEAKED)
        engine = self.session.engine
        line = f"{self.provider.name} repeats a provider's key in what it answers: that is withheld from the app"
        if line not in engine.advised:
            engine.advised.add(line)
            logger.error(f"sidestep: {line}")
