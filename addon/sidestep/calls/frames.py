"""One WebSocket after its handshake: each response asked for over it is an attempt, judged as a stream is.

No mitmproxy, no waiting. What passes is read and never held up: nothing of it can be asked of another provider. What
was learnt counts for the next call, and for the next handshake. Until something is asked for, no permit is held, and no
attempt is under way; the first response is the attempt that made the handshake.

Two messages are kept back where the client is one that comes back: the failure of a provider in place of a response,
where another one would take the call over HTTP, and the refusal of sealed reasoning that can be left out. Coding agents
give up at such a message, and ask again where their socket is closed; after a failure their next handshake is answered
426.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from sidestep.breaker import judging, windows
from sidestep.breaker.outcomes import NO_ERROR, ErrorFacts, ErrorKind, Kind, Outcome
from sidestep.breaker.ratelimits import retry_after
from sidestep.calls import story
from sidestep.calls.flight import Flight
from sidestep.calls.flows import Original
from sidestep.calls.session import LEFT_OUT, Session
from sidestep.dialects import common, sealed
from sidestep.dialects.base import Call
from sidestep.dialects.errors import facts_in, facts_of_words
from sidestep.dialects.openai_frames import (
    ASKED_BYTES,
    RESPONSES,
    FrameReader,
    Reply,
    Said,
    Sign,
    is_ambiguous,
    is_object,
)
from sidestep.routing import table
from sidestep.routing.sockets import OPERATION
from sidestep.routing.table import Candidate

logger = logging.getLogger(__name__)

STATUS = 101
"""Of the answer that all of them come in."""
QUIET_CLOSES = frozenset({1000, 1001, 1005})
"""Close codes (RFC 6455, 7.4): done, going away, none given."""
TROUBLE_CLOSES = frozenset({1011, 1012, 1013, 1014})
"""An internal error, a restart, overload, a bad gateway: the provider's own trouble, whatever it was doing."""
REFUSING_CLOSES = frozenset({1003, 1007, 1008, 1009, 1010})
"""About what the app has sent: its kind, its encoding, a policy, its size, an extension."""
STATUS_CLOSES = range(4400, 4600)
"""Of the codes that every server may give a meaning, those that many give the one of the HTTP status in them."""
VANISHED = 1006
COME_AGAIN = 1012
"""With it a socket is closed whose client is to come back (a restart, by its name): over HTTP, as it will be told."""
TOLD_RESPONSES = 200
"""The last ones of a socket that its story tells of."""
_PING_TIMEOUT = "ping timeout"
"""With it servers close that got no answer to their pings: it was the app that was silent."""

_CONVERSATION = frozenset({b"session-id", b"session_id", b"thread-id", b"conversation_id", b"conversation-id"})
"""Header fields of a handshake that name its conversation: Codex's, and of those that speak like it."""


def conversation_of(original: Original, route: str) -> str:
    """A name for the conversation that a handshake goes on with; empty if it does not say."""
    named = sorted((k.lower(), v) for k, v in original.whole if k.lower() in _CONVERSATION and v)
    return f"socket:{common.digest(route.encode(), *(part for field in named for part in field))}" if named else ""


class Turn:
    """One response, as an attempt. State: when it was asked for, when the provider was first and last heard, whether
    there was content, what of the call its provider must hold, what sealed pieces it was sent, and its story,
    which knows its messages by their times."""

    def __init__(self, flight: Flight, reply: Reply | None, now: float, held: tuple[str, ...] = ()) -> None:
        self.flight = flight
        self.reply = reply
        self.asked_at = now
        self.heard_at: float | None = None
        self.first_heard_at: float | None = None
        self.content = False
        self.held = held
        self.sealed: frozenset[str] = frozenset()
        self.story: dict[str, Any] = {"asked": None, "ended": None}

    @property
    def due(self) -> float | None:
        """When its provider must have said something, or some content, at the latest; None once it has."""
        if self.reply is None or self.content:
            return None
        timeouts = self.flight.timeouts
        return self.asked_at + (timeouts.first_byte if self.heard_at is None else timeouts.first_content)


class Frames:
    """State: the responses under way, by what reads them (None: talk that is not understood); the attempt that made the
    handshake, until it stands for a response; the model asked for last; whether the socket is to be closed."""

    def __init__(self, session: Session, flight: Flight) -> None:
        self.session = session
        self.turns: dict[Reply | None, Turn] = {}
        self._flight = flight
        self._exchange = flight.exchange
        self._candidate = flight.attempt.candidate
        self._first: Flight | None = flight
        self._model: str | None = None
        self.closes = False
        """The client is to come back: nothing more is passed on, and the socket is to be closed."""
        self.told: deque[dict[str, Any]] = deque(maxlen=TOLD_RESPONSES)
        """The stories of its responses."""
        operation = flight.exchange.call.operation
        self._asks_by_model = operation == RESPONSES
        self._operation = OPERATION if self._asks_by_model else operation
        self._reader = FrameReader(operation)
        session.engine.pause(flight.attempt, session.clock())
        session.engine.live.discard(session)

    # --- what passes

    def sent(self, content: bytes, *, is_text: bool) -> bytes:
        """The app sends a message: what the provider gets, the very same bytes where there is nothing to change."""
        if is_text and self._is_withheld(content):
            self.closes = True
            self._flight.note("a message was kept back that cannot be read, for the client to come again over HTTP")
            return content
        content = self._asked(content, is_text=is_text)
        self._bound()
        return content

    def _is_withheld(self, content: bytes) -> bool:
        """Whether it is not known what a message asks for: with a key of ours it goes to no provider."""
        ours = self.session.acting and not self._candidate.own_credential
        if not ours or not self._asks_by_model or not is_object(content):
            return False
        return len(content) > ASKED_BYTES or is_ambiguous(content)

    def _asked(self, content: bytes, *, is_text: bool) -> bytes:
        reply = self._reader.asked(content) if is_text else None
        if reply is None:
            if self._first is not None and not (is_text and is_object(content)):
                self._begin(None, self._candidate)
            return content
        if not self._asks_by_model or len(content) > ASKED_BYTES:
            self._begin(reply, self._candidate)
            return content
        match = self.session.match
        call = match.dialect.read(OPERATION, match.tail, "", "", content)
        if call.model is not None:
            provider = self._candidate.provider
            self._model = call.model
            self._candidate = Candidate(provider, provider.target_model(call.model), self._candidate.own)
            self.session.engine.sockets.asks(self._exchange.asker, call.model)
        turn = self._begin(reply, self._candidate, () if call.pin is None else call.pin.ids)
        return self._copy(turn, call, content) if self.session.acting else content

    def came(self, content: bytes, *, is_text: bool) -> bool:
        """The provider has sent a message. Whether the app gets it."""
        if self.closes:
            return False
        now = self.session.clock()
        for turn in self.turns.values():
            turn.heard_at = now  # also by what is not understood
            if turn.first_heard_at is None:
                turn.first_heard_at = now
        for said in self._reader.came(content) if is_text else self._reader.unread():
            self._heard(said)
        self._bound()
        return not self.closes

    def _heard(self, said: Said) -> None:
        turn = self.turns.get(said.reply)
        if turn is None and said.reply is not None:
            turn = self._begin(said.reply, self._candidate)
            turn.heard_at = turn.first_heard_at = turn.asked_at
        if turn is not None:
            turn.story["ended"] = self._stamp(by_client=False)  # until there is a later one
        if said.headers:
            self._tell_windows(said.headers)
        match said.sign:
            case Sign.CONTENT if turn is not None:
                self._answers(turn)
            case Sign.DONE if turn is not None:
                self._answers(turn)
                self._end(turn, judging.SUCCESS)
            case Sign.HOLLOW if turn is not None:
                self._end(turn, judging.judge_no_answer(STATUS))
            case Sign.WARM if turn is not None:
                self._end(turn, judging.OPENED)
            case Sign.CANCELLED if turn is not None:
                self._end(turn, judging.CANCELLED)
            case Sign.UNREAD if turn is not None and said.reply is None:
                self._answers(turn)
            case Sign.UNREAD if turn is not None:
                self._end(turn, judging.UNREAD)
            case Sign.FAILED:
                self._failed(turn, said)
        if turn is not None and said.reply is not None:
            self._send_elsewhere(turn)

    def _tell_windows(self, headers: Mapping[str, str]) -> None:
        """What the provider tells of a plan's windows."""
        subject = self._exchange.subject(self._candidate, self._operation)
        self.session.engine.plan_told(subject, windows.windows(headers, time.time()), self.session.clock())

    def expired(self) -> None:
        """A deadline has passed: of a provider that is silent. Should it speak yet, the app gets it."""
        now = self.session.clock()
        for turn in tuple(self.turns.values()):
            due = turn.due
            if turn.reply is not None and due is not None and due <= now:
                self._reader.give_up(turn.reply)
                self._end(turn, judging.TIMEOUT)
                self._send_elsewhere(turn)
        self._bound()

    def _bound(self) -> None:
        """When a provider must have spoken at the latest."""
        dues = [turn.due for turn in self.turns.values()]
        self._flight.deadline = min((due for due in dues if due is not None), default=None)

    def _send_elsewhere(self, turn: Turn) -> None:
        if self._is_better_elsewhere(turn):
            self.closes = self.session.comes_again = True
            turn.flight.note("its failure was kept back, for the client to come again over HTTP")

    def _repair(self, turn: Turn) -> None:
        """Its provider refuses sealed reasoning: it is left out once the client has come back."""
        session, provider = self.session, turn.flight.provider
        if not session.acting or not session.conversation or self.turns or provider.routing.sealed != "drop":
            return
        if session.engine.disown(turn.sealed, provider.name):
            self.closes = self.session.comes_again = True
            turn.flight.note("its refusal of sealed reasoning was kept back, for the client to come again")

    def _is_better_elsewhere(self, turn: Turn) -> bool:
        """Whether a response has failed before any of it came, another provider would take the call over HTTP, and the
        client comes back there: the one that names its conversation in its handshake."""
        session, provider = self.session, turn.flight.provider
        if not session.acting or not session.conversation or turn.content or self.turns:
            return False
        if not story.is_broken(turn.flight.attempt):
            return False
        engine, now = session.engine, session.clock()
        candidates = engine.routes.candidates(session.match, self._model)
        others = (c for c in candidates if c.provider is not provider)
        return any(engine.would_admit(c, self._exchange.subject(c, OPERATION), now) for c in others)

    def ended(self, code: int | None, reason: str, *, by_client: bool) -> None:
        """The socket is closed, with this code and these words (RFC 6455)."""
        turns = list(self.turns.values())
        if self.closes:
            pass  # by us
        elif by_client or code is None:
            self.session.app_left = any(turn.reply is not None for turn in turns)
            for turn in turns:
                self._end(turn, self._left(turn))
        else:
            error, breaks = _facts_of(code, reason)
            for turn in turns:
                self._note_close(turn.flight, code)
                known = turn.reply is not None
                lost = judging.TRUNCATED if turn.content else judging.judge_no_answer(STATUS)
                if error is not None:
                    self._end(turn, self._judge(turn, error, reason.encode("utf-8", "replace"), {}))
                elif known or code == VANISHED:
                    self._end(turn, lost if known else judging.TRUNCATED)
                else:
                    self._end(turn, judging.SUCCESS if turn.content else judging.OPENED)
            if not turns and error is not None:
                outcome = self._judge(None, error, reason.encode("utf-8", "replace"), {})
                if breaks or outcome.kind is Kind.COOLDOWN:
                    self._note_close(self._blame(outcome), code)
        self.drop(judging.OPENED)
        self._bound()

    def drop(self, outcome: Outcome) -> None:
        """Close whatever is still open, with this outcome."""
        self.session.app_left = self.session.app_left or any(turn.reply is not None for turn in self.turns.values())
        for turn in tuple(self.turns.values()):
            self._end(turn, outcome)
        if self._first is not None:
            self._first.finish(judging.OPENED)
            self._first = None

    # --- responses

    def _begin(self, reply: Reply | None, candidate: Candidate, held: tuple[str, ...] = ()) -> Turn:
        session, exchange = self.session, self._exchange
        now = session.clock()
        first, self._first = self._first, None
        attempt = exchange.over_socket(candidate, self._operation, now, None if first is None else first.attempt)
        flight = Flight(session, exchange, attempt) if first is None else first
        turn = self.turns[reply] = Turn(flight, reply, now, held)
        session.engine.live.add(session)
        turn.story["asked"] = self._stamp(by_client=True)
        self.told.append(turn.story)
        self._tell(turn)
        return turn

    def _stamp(self, *, by_client: bool) -> float | None:
        """The time of the message that is under way, if it is one of that side's."""
        told = self.session.flow.websocket
        last = told.messages[-1] if told is not None and told.messages else None
        return None if last is None or last.from_client is not by_client else last.timestamp

    def _tell(self, turn: Turn) -> None:
        """What has come of it by now, for who looks at the flow while its socket is open."""
        attempt, arrived = turn.flight.attempt, self._exchange.arrived
        turn.story.update(story.response(attempt, turn.asked_at, turn.first_heard_at, arrived))
        story.tell(self.session, story.result(self.session))

    def _answers(self, turn: Turn) -> None:
        """It has content."""
        if turn.content:
            return
        turn.content = True
        turn.flight.settle(judging.SUCCESS)
        engine, provider = self.session.engine, turn.flight.provider
        # It went on from what the call named: it holds it.
        held = tuple(name for name in turn.held if engine.issuer_of(name) is None)
        engine.issued((*held, self.session.conversation) if self.session.conversation else held, provider)

    def _end(self, turn: Turn, outcome: Outcome) -> None:
        """Nothing more comes of it."""
        self.turns.pop(turn.reply, None)
        flight, session = turn.flight, self.session
        if turn.reply is not None:
            reader = turn.reply.reader
            flight.take(reader.usage, reader.ids)
        flight.finish(outcome)
        if outcome.reason == "credential":
            logger.error(f"sidestep: {flight.provider.name} refuses its key")
        if story.is_broken(flight.attempt):
            if not story.is_broken(session.answer):
                session.answer = flight.attempt
            if session.conversation:
                until = session.clock() + flight.provider.circuit.open_seconds
                session.engine.sockets.failed(session.conversation, until)
        if not self.turns:
            session.engine.live.discard(session)
        self._tell(turn)

    def _blame(self, outcome: Outcome) -> Flight:
        """The provider has failed while nothing was asked of it."""
        turn = self._begin(None, self._candidate)
        self._end(turn, outcome)
        return turn.flight

    # --- verdicts

    def _failed(self, turn: Turn | None, said: Said) -> None:
        outcome = self._judge(turn, said.error, said.body, said.headers)
        if turn is not None:
            self._end(turn, outcome)
            if said.error.kind is ErrorKind.SEALED and not turn.content:
                self._repair(turn)
        elif outcome.kind is not Kind.NEUTRAL:
            self._blame(outcome)

    def _judge(self, turn: Turn | None, error: ErrorFacts, body: bytes, headers: Mapping[str, str]) -> Outcome:
        seconds, wall_now = None, time.time()
        if error.kind in (ErrorKind.RATE_LIMIT, ErrorKind.QUOTA):
            seconds = retry_after(headers, wall_now, body)
        candidate = self._candidate if turn is None else turn.flight.attempt.candidate
        outcome = judging.judge_no_answer(
            STATUS, error, own_provider=candidate.own, own_credential=candidate.own_credential, retry_after=seconds
        )
        if outcome.reason in ("rate_limit", "quota"):
            used_up = outcome.reason == "quota"
            limit = windows.limit(headers, wall_now, candidate.model, used_up=used_up)
            outcome = outcome if limit is None else judging.judge_plan(outcome, limit, candidate.model)
        broke = turn is not None and turn.content and outcome.kind is not Kind.NEUTRAL
        return judging.STREAM_ERROR if broke else outcome

    def _left(self, turn: Turn) -> Outcome:
        """The app has closed the socket while it was asking."""
        now, timeouts = self.session.clock(), turn.flight.timeouts
        if turn.reply is not None and turn.heard_at is not None and now - turn.heard_at >= timeouts.idle:
            return judging.STALLED
        return judging.judge_client_gone(now - turn.asked_at, timeouts.first_byte, byte_came=turn.heard_at is not None)

    @staticmethod
    def _note_close(flight: Flight, code: int) -> None:
        """The words of a close are not quoted: they may hold anything."""
        if code == VANISHED:
            flight.note("the provider vanished without closing the WebSocket")
        elif code not in QUIET_CLOSES:
            flight.note(f"the provider closed the WebSocket with code {code}")

    # --- copies

    def _copy(self, turn: Turn, call: Call, content: bytes) -> bytes:
        """The message as the provider takes it: its name of the model, without the fields that it rejects, without the
        sealed reasoning of another issuer."""
        session, candidate = self.session, self._candidate
        engine, match, provider = session.engine, session.match, candidate.provider
        leaves_out: frozenset[str] = frozenset()
        if call.sealed:
            candidates = engine.routes.candidates(match, call.model)
            plan = table.plan(
                candidates, call, home_issuer=match.home_issuer, issuer_of=engine.issuer_of, knows_model=None
            )
            found = next((c for c in plan.candidates if c.provider is provider), None)
            leaves_out = leaves_out if found is None else found.leaves_out
        turn.sealed = frozenset(call.sealed) - leaves_out
        body = content
        if leaves_out or (not candidate.own and sealed.may_demand(call, candidate.target)):
            body = sealed.unsealed(call, candidate.target, body, leaves_out)
        if leaves_out:
            turn.flight.note(LEFT_OUT)
        model = None if candidate.model == call.model else candidate.model
        return match.dialect.rewrite(call, match.tail, "", body, model, provider.drop_fields)[1]


def _facts_of(code: int, reason: str) -> tuple[ErrorFacts | None, bool]:
    """What a close says, None if it is no error; and whether it is one even where nothing was asked for."""
    if _PING_TIMEOUT in reason.lower():
        return ErrorFacts(ErrorKind.INVALID), False
    if code in STATUS_CLOSES:
        return facts_in(code - 4000, common.encode({"error": reason})), code >= 4500
    told = facts_of_words(reason)
    if code in TROUBLE_CLOSES:
        return (ErrorFacts(ErrorKind.SERVER) if told is NO_ERROR else told), True
    if told is not NO_ERROR:
        return told, False
    return (ErrorFacts(ErrorKind.INVALID) if code in REFUSING_CLOSES else None), False
