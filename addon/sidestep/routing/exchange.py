"""One routed request from arrival to its end: which provider is asked next, how long to wait, when to give up.

Pure: decides and returns what to do (`Attempt`, `Wait`, `Exhausted`); sending, waiting and answering are done
outside. Time is an argument.

The providers are asked in three rounds. First those against which nothing speaks. Then, for want of others, those that
would rather not be asked: a ramp, a cooldown and the doubled part of an open time are preferences, only an open circuit
refuses. At last, where other requests are under way, those that failed this request and have had their circuit's open
time to recover.

Beside an attempt that is later than it should be a second one may be made, once a request. It takes no round: where it
or the late one fails, the other goes on.
"""

from __future__ import annotations

import math
import random
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from sidestep.breaker import judging
from sidestep.breaker.cooldown import FORESEEN, Source, Subject
from sidestep.breaker.outcomes import Kind, Outcome, Then
from sidestep.breaker.ratelimits import exhausted
from sidestep.breaker.windows import windows
from sidestep.dialects.base import Call, Conversation
from sidestep.routing import ordering
from sidestep.routing.engine import Attempt, Engine, Refused
from sidestep.routing.lateness import CallKind, kind_of
from sidestep.routing.ordering import Asked
from sidestep.routing.prices import context_window
from sidestep.routing.sharing import Question
from sidestep.routing.sockets import OPERATION
from sidestep.routing.strategies import pace_key
from sidestep.routing.table import Candidate, Match, Plan

LEASE_MARGIN_SECONDS = 30.0
"""On top of what the timeouts allow: a lease must not end before the attempt that holds it."""
NEVER_AGAIN = math.inf
"""A provider that cannot answer this request, whatever it does for others."""
LONG_SECONDS = 3.0
"""An app that leaves after so long without a word may have had its own time limit, and ask again."""
RECOVERY_WAITS = 3
"""How many times `wait_seconds` a request waits in company, where many share the place of one probe and its result may
be another failure."""
WAIT_MARGIN_SECONDS = 0.005
"""Timers may fire a little early; asking a moment too soon would waste the only wait."""
_PLAN = "plan ("
_MERE_PREFERENCES = ("recovering", _PLAN, f"cooldown ({FORESEEN})")
"""Why a provider that would answer is passed over: the ramp after an outage, and limits that are near."""
MAX_ATTEMPTS_KEPT = 50
"""Of one WebSocket, over which an app may ask for as much as it likes: the oldest good ones go first."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Ask again after so many seconds; earlier if the engine's circuits change and `on_change` is set."""

    seconds: float
    reason: str
    on_change: bool = False


RESET = "reset"
"""Why a call is held until a limit ends that may be far away."""


@dataclass(frozen=True, slots=True)
class _Held:
    """Since when a call is held, how many seconds of its own time it had left then, until when, and whose limit ends
    at that time."""

    since: float
    budget: float
    until: float = math.inf
    names: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Exhausted:
    """No provider is left to ask. `refused`: those not asked, and why."""

    refused: tuple[Refused, ...]

    @property
    def retry_after(self) -> float | None:
        """Seconds until the first of them may be asked, as far as that is known. One that is being probed may be at any
        moment: the lease says when that is over at the latest."""
        times = (0.0 if r.reason == "probing" else r.retry_after for r in self.refused)
        return min((seconds for seconds in times if seconds is not None), default=None)


Next = Attempt | Wait | Exhausted


def new_id() -> str:
    """An identity for a request."""
    return "sx-" + secrets.token_hex(8)


class Exchange:
    """State: tries by provider, when this request may ask a provider again that failed it, attempts made (and which of
    them beside a late one), waits taken, the budget's end."""

    def __init__(
        self,
        engine: Engine,
        match: Match,
        call: Call,
        plan: Plan,
        now: float,
        *,
        jitter: Callable[[], float] = random.random,
        body_bytes: int = 0,
        credential: str = "",
        failed_at: frozenset[str] = frozenset(),
        conversation: str = "",
        question: Question | None = None,
        replan: Callable[[], Plan] | None = None,
    ) -> None:
        """`body_bytes`: the size of the request's body, from which its tokens are estimated. `credential`: a
        fingerprint of the app's own. `failed_at`: providers that have just failed this very call. `conversation`: a
        name for the one that a WebSocket's handshake goes on with. `question`: other processes are asked for what the
        plan depends on, `replan`: makes it once they have answered."""
        self.id = new_id()
        self.engine = engine
        self.match = match
        self.call = call
        self.arrived = now
        self.attempts: list[Attempt] = []
        self.refused: tuple[Refused, ...] = ()
        settings = engine.settings
        self.limits = settings.attempts
        self.deadline = now + settings.attempts.total_seconds
        self._jitter = jitter
        self._tries: dict[str, int] = {}
        self._spent: dict[str, float] = {}
        self._again: tuple[Candidate, float, str] | None = None
        self._limit_wait_until: float | None = None
        self._probe_wait_until: float | None = None
        self._refusal_wait_until: float | None = None
        self._held: _Held | None = None
        self._repaired = False
        self._in_company = False
        """Whether other requests were under way with this one."""
        self.credential = credential
        self.asked = Asked(match, call, credential, body_bytes, failed_at)
        self.asker = (match.route.name, credential)
        self._handshake = engine.sockets.met(call, match.route, self.asker, conversation)
        self._hedge: Attempt | None = None
        self.outpaced_attempt: Attempt | None = None
        """One whose answer was wanted no longer, once it had been asked."""
        free = call.pin is None and not plan.pinned and not call.is_websocket and not call.acts
        self.may_hedge = free and len(plan.candidates) > 1
        """A second attempt could be made beside one that is late."""
        if self.may_hedge:
            engine.budget.earn(settings.hedge.max_share)
        self._question, self._replan = question, replan
        if question is None and engine.sharing is not None and len(plan.candidates) > 1:
            self._ask_where_it_stays(plan, now)
        self._arrange(plan, now)

    def _arrange(self, plan: Plan, now: float) -> None:
        self._first = ordering.first_in_route(plan, self.match)
        order = ordering.arranged(self.engine, self.asked, plan, now, may_hedge=self.may_hedge)
        self.plan = order.plan
        self.stays_with, self.going_home = order.stays_with, order.going_home

    @property
    def trail(self) -> str:
        """What `x-sidestep-attempts` says."""
        return ", ".join(a.label for a in self.attempts)

    def __repr__(self) -> str:
        return (
            f"Exchange({self.id}, route={self.match.route.name}, model={self.call.model!r}, [{self.trail}],"
            f" deadline={self.deadline:.3f})"
        )

    # --- what other processes know

    def _ask_where_it_stays(self, plan: Plan, now: float) -> None:
        """Where a later turn of a conversation comes to this process for the first time."""
        engine = self.engine
        if engine.sharing is None or not engine.sharing.any_stays(now):
            return
        conversation = self.asked.conversation
        if conversation is None or conversation.answered is None:
            return
        if engine.conversations.stay(self.asked.scope, conversation, now) is None:
            self._question = engine.sharing.where(self.asked.scope, conversation, now)
            self._replan = lambda: plan

    def _until_it_is_told(self, now: float) -> Wait | None:
        """A plan that depends on what others know is made anew when they have said it, or have not in time."""
        if self._question is None:
            return None
        if seconds := self._question.seconds(now):
            return Wait(seconds, "fleet", on_change=True)
        self._question = None
        if self._replan is not None and not self.attempts:
            plan = self._replan()
            if plan.candidates:
                self._arrange(plan, now)
        return None

    # --- which provider to ask

    def subject(self, candidate: Candidate, operation: str | None = None) -> Subject:
        """What a limit that this call meets at a candidate belongs to; `operation`: of what is asked for over a
        WebSocket."""
        return self.asked.subject(candidate, operation)

    def next(self, now: float) -> Next:
        """What to do now that no attempt is under way."""
        if len(self.attempts) >= self.limits.max or now >= self.deadline:
            return Exhausted(self.refused)
        shake = self._handshake
        if shake is not None and shake.has_choice and self.engine.sockets.is_broken(shake.conversation, now):
            return Exhausted(self.refused)
        self._in_company = self._in_company or len(self.engine.live) > 1
        if self._held is not None and now >= self._held.until:
            for name in self._held.names:
                self._spent.pop(name, None)
            self._held = replace(self._held, names=frozenset())
        return (
            self._until_it_is_told(now)
            or self._the_same_again(now)
            or self._preferred(now)
            or self._over_http()
            or self._for_want_of_others(now)
            or self._until_a_reset(now)
            or self._wait(now)
            or Exhausted(self.refused)
        )

    def _over_http(self) -> Exhausted | None:
        """The end of a handshake that is better refused: its client may come over HTTP."""
        shake = self._handshake
        if shake is None or not shake.better_over_http(self.plan, [a.outcome for a in self.attempts]):
            return None
        return Exhausted(self.refused)

    def first_choice(self, now: float) -> Candidate | None:
        """The candidate that a new request would be sent to now; None: all are refused."""
        able = [c for c in self.plan.candidates if self._refusal(c, now) is None]
        able = able or [c for c in self._reluctant(now) if self._refusal(c, now, insist=True) is None]
        return able[0] if able else None

    def _the_same_again(self, now: float) -> Attempt | Wait | None:
        if self._again is None:
            return None
        candidate, at, reason = self._again
        if now < at:
            return Wait(at - now, reason)
        answer = self._ask(candidate, now)
        if isinstance(answer, Wait):
            return answer
        self._again = None
        return answer if isinstance(answer, Attempt) else None

    def _preferred(self, now: float) -> Attempt | Wait | None:
        """The first in order against which nothing speaks."""
        self.refused = ()
        for candidate in self.plan.candidates:
            if candidate.provider.name not in self._spent:
                answer = self._spared(candidate, now) or self._held_back(candidate) or self._ask(candidate, now)
                if not isinstance(answer, Refused):
                    return answer
                self.refused = (*self.refused, answer)
        return None

    def _spared(self, candidate: Candidate, now: float) -> Refused | None:
        """A plan that is nearly used up is left to the conversations that it has begun."""
        window = self.engine.nearly_used_up(self.subject(candidate), now)
        if window is None or (self.asked.conversation is not None and self.asked.conversation.answered is not None):
            return None
        return Refused(candidate.provider.name, f"{_PLAN}{window.name} is nearly used up)", window.resets_in)

    def _held_back(self, candidate: Candidate) -> Refused | None:
        """A last resort is for calls that nobody else takes, not for those that another one would rather not have."""
        if candidate.provider.last_resort and any(r.reason.startswith(_MERE_PREFERENCES) for r in self.refused):
            return Refused(candidate.provider.name, "a last resort", None)
        return None

    def _for_want_of_others(self, now: float) -> Attempt | Wait | None:
        """The first of those that would rather not be asked, and that no open circuit refuses. One whose refusal named
        a time that comes soon is waited for, once."""
        refused: list[Refused] = []
        for candidate in self._reluctant(now):
            if (wait := self._until_its_limit_ends(candidate, now)) is not None:
                return wait
            if self._announced(candidate, now) is not None and (wait := self._until_a_reset(now)) is not None:
                return wait
            answer = self._ask(candidate, now, insist=True)
            if isinstance(answer, Wait):
                return answer
            if isinstance(answer, Attempt):
                self.refused = tuple(r for r in self.refused if r.provider != candidate.provider.name)
                return answer
            refused.append(answer)
        self.refused = tuple(refused)
        return None

    @property
    def _may_come_back(self) -> bool:
        """Whether those that failed this request may be asked once more when they have had time to recover. One that is
        held keeps an attempt for the end of the limit."""
        return self._in_company or (self._held is not None and len(self.attempts) + 1 < self.limits.max)

    def _reluctant(self, now: float) -> list[Candidate]:
        """The candidates that may be asked for want of others, in the order in which they are."""
        spent = self._spent
        left = [
            c
            for c in self.plan.candidates
            if (until := spent.get(c.provider.name)) is None or (self._may_come_back and now >= until)
        ]

        def reluctance(c: Candidate) -> tuple[bool, bool, int, float, bool]:
            cooling = self.engine.cooldowns.find(self.subject(c), now)
            return ordering.reluctance(c, self._refusal(c, now), cooling, has_failed=c.provider.name in spent)

        return sorted(left, key=reluctance)

    def _announced(self, candidate: Candidate, now: float) -> float | None:
        """Seconds until a limit ends that a candidate has told of itself."""
        cooling = self.engine.cooldowns.find(self.subject(candidate), now)
        return None if cooling is None or cooling.source is not Source.ANNOUNCED else cooling.seconds

    def _reset(self, candidate: Candidate, now: float) -> float | None:
        """The same of a limit. That a key may be another in a while is none."""
        cooling = self.engine.cooldowns.find(self.subject(candidate), now)
        return None if cooling is None or cooling.reason == "credential" else self._announced(candidate, now)

    def _until_a_reset(self, now: float) -> Wait | None:
        """Where the user would have it so, nobody is asked against a limit that ends soon enough: the call is held
        until the first does, and has as much time after that as it would have had before."""
        if self.call.is_websocket:
            return None
        held = self._held or _Held(now, self.deadline - now)
        ends: dict[str, float] = {}
        sooner: list[float] = []
        for candidate in self.plan.candidates:
            name, limits = candidate.provider.name, candidate.provider.attempts
            spent = self._spent.get(name, now)
            if spent == NEVER_AGAIN:
                continue
            seconds = self._reset(candidate, now) if limits.wait_for_reset_seconds else None
            refused = self._refusal(candidate, now, insist=True)
            if refused is not None:
                sooner.append(max(spent, now + (refused.retry_after or 0.0)))
            elif seconds is not None and now + seconds - held.since <= limits.wait_for_reset_seconds:
                ends[name] = now + seconds
            else:
                sooner.append(spent)
        if not ends:
            return None
        first = min(ends.values())
        self._held = replace(held, until=first, names=frozenset(name for name, at in ends.items() if at == first))
        self.deadline = max(self.deadline, first + held.budget)
        # Others that may be asked by then, as long as an attempt is left for the end of the limit.
        wake = min([first, *(at for at in sooner if at > now and self._may_come_back)])
        return Wait(wake - now + WAIT_MARGIN_SECONDS, RESET, on_change=True)

    def _until_its_limit_ends(self, candidate: Candidate, now: float) -> Wait | None:
        seconds = self._announced(candidate, now)
        if (
            seconds is None
            or seconds > candidate.provider.attempts.wait_seconds
            or now + seconds >= self.deadline
            or self._refusal(candidate, now, insist=True) is not None
        ):
            return None
        if self._limit_wait_until is None:
            self._limit_wait_until = now + seconds + WAIT_MARGIN_SECONDS
        left = self._limit_wait_until - now
        return Wait(left, "rate_limit", on_change=True) if left > 0 else None

    def _refusal(self, candidate: Candidate, now: float, *, insist: bool = False) -> Refused | None:
        refused = self.engine.refusal(candidate, self.subject(candidate), now, insist=insist)
        first = None if refused is not None or self._handshake is None else self._handshake.first_call(candidate)
        if first is None:
            return refused
        # A handshake takes nothing of what its responses will need, but it is of no use where they are refused.
        return self.engine.refusal(first, self.subject(first, OPERATION), now, insist=insist)

    def _ask(self, candidate: Candidate, now: float, *, insist: bool = False) -> Attempt | Refused | Wait:
        answer: Attempt | Refused | None = None
        if self._handshake is not None:
            answer = self._refusal(candidate, now, insist=insist)
        if answer is None:
            asked = self.subject(candidate)
            if seconds := self.engine.until_claimed(candidate, asked, now, insist=insist):
                return Wait(seconds, "claim", on_change=True)
            answer = self.engine.admit(candidate, asked, now, self._lease(candidate), insist=insist)
        if isinstance(answer, Attempt):
            name = candidate.provider.name
            self.attempts.append(answer)
            self._refusal_wait_until = None
            self._tries[name] = 1 if self._spent.pop(name, None) is not None else self._tries.get(name, 0) + 1
        return answer

    def look_on(self, candidate: Candidate, now: float) -> Attempt:
        """Mode `observe`: the attempt that is made whatever we think of it."""
        attempt = self.engine.look_on(candidate, self.subject(candidate), now)
        self.attempts.append(attempt)
        return attempt

    def over_socket(self, candidate: Candidate, operation: str, now: float, first: Attempt | None) -> Attempt:
        """A response is asked for over the WebSocket that this exchange has led to. `first`: the attempt that made it,
        as long as it stands for none."""
        attempt = Attempt(candidate, self.subject(candidate, operation), None, now, status=101)
        if first is not None:
            first.candidate, first.subject = attempt.candidate, attempt.subject
            attempt = first
        else:
            self.attempts.append(attempt)
            if len(self.attempts) > MAX_ATTEMPTS_KEPT:
                good = (i for i, a in enumerate(self.attempts) if a.outcome and a.outcome.kind is Kind.SUCCESS)
                del self.attempts[next(good, 0)]
        t = candidate.provider.timeouts
        self.engine.resume(attempt, now, t.first_byte + t.first_content + t.idle + LEASE_MARGIN_SECONDS)
        return attempt

    def _lease(self, candidate: Candidate) -> float:
        t = candidate.provider.timeouts
        if self.call.is_websocket:
            first = t.first_byte
        else:
            first = t.first_byte + t.first_content if self.call.stream else t.headers
        return t.connect + first + t.idle + LEASE_MARGIN_SECONDS

    def _wait(self, now: float) -> Wait | None:
        """Every provider that is left refuses: wait for the probe of one that is out, or for the first that may be
        asked again, if that is soon."""
        probing = {r.provider for r in self.refused if r.reason == "probing"}
        if probing:
            if self._probe_wait_until is None:
                candidates = self.plan.candidates
                seconds = max(c.provider.circuit.probe_wait_seconds for c in candidates if c.provider.name in probing)
                self._probe_wait_until = min(now + seconds, self.deadline)
            if now < self._probe_wait_until:
                return Wait(self._probe_wait_until - now, "probe", on_change=True)
        refused = [r for r in self.refused if r.reason != "probing"]
        times = [(r.retry_after, r.provider) for r in refused if r.retry_after is not None]
        if self._in_company:
            times += [(until - now, name) for name, until in self._spent.items() if until > now]
        longest = {c.provider.name: c.provider.attempts.wait_seconds for c in self.plan.candidates}
        soonest, name = min((t for t in times if t[0] <= longest[t[1]]), default=(math.inf, ""))
        if now + soonest >= self.deadline:
            return None
        if self._refusal_wait_until is None:
            patience = RECOVERY_WAITS * longest[name] if self._in_company else soonest
            self._refusal_wait_until = now + patience + WAIT_MARGIN_SECONDS
        left = self._refusal_wait_until - now
        return Wait(min(soonest + WAIT_MARGIN_SECONDS, left), "refused", on_change=True) if left > 0 else None

    # --- beside an attempt that is late

    def late_at(self, attempt: Attempt, heard_at: float | None, now: float) -> float | None:
        """From when on an attempt without content is later than it should be; None where no other would be asked
        beside it. `heard_at`: when the latest byte of its answer's body came, if one did."""
        if not self._may_hedge(attempt):
            return None
        learnt = self.engine.times.late_after(self._times(attempt), now, head_came=attempt.headers_at is not None)
        if learnt is not None:
            return attempt.started + learnt
        if not self.call.stream:
            return None  # how long it takes to make a whole answer is not known before one was seen
        return (attempt.started if heard_at is None else heard_at) + attempt.candidate.provider.hedge.after_seconds

    def slow_at(self, attempt: Attempt, size: int, now: float) -> float | None:
        """The same for a stream that is held back whole, of which so many bytes have come."""
        if not self._may_hedge(attempt):
            return None
        seconds = self.engine.times.slow_after(self._times(attempt), size, now)
        if seconds is None or attempt.content_at is None:
            return attempt.started + attempt.candidate.provider.hedge.after_seconds
        return attempt.content_at + seconds

    def _may_hedge(self, attempt: Attempt) -> bool:
        return self.may_hedge and self._hedge is None and attempt.candidate.provider.hedge.enabled

    def beside(self, late: Attempt, now: float) -> Attempt | None:
        """A second attempt, with a permit, while the late one goes on; once a request. None: nobody is to be asked."""
        if not self.may_hedge or self._hedge is not None:
            return None
        if len(self.attempts) >= self.limits.max or now >= self.deadline:
            return None
        if not self.engine.budget.take():
            return None
        for candidate in ordering.beside(self.plan, late.candidate, self._spent):
            attempt = self.engine.admit_beside(late, candidate, self.subject(candidate), now, self._lease(candidate))
            if attempt is not None:
                self._hedge = attempt
                self.attempts.append(attempt)
                self._tries[candidate.provider.name] = self._tries.get(candidate.provider.name, 0) + 1
                return attempt
        self.engine.budget.give_back()
        return None

    def streamed(self, attempt: Attempt, size: int, now: float) -> bool:
        """A stream of so many bytes has come to its end. Whether that was far slower than is usual."""
        if attempt.content_at is None:
            return False
        times, kind, seconds = self.engine.times, self._times(attempt), now - attempt.content_at
        slow_after = times.slow_after(kind, size, now)
        times.paced(kind, size, seconds, now)
        return slow_after is not None and seconds > slow_after

    def outpaced(self, attempt: Attempt, size: int, now: float) -> None:
        """Another attempt has answered before this one, of which so many bytes had come."""
        self.outpaced_attempt = attempt
        if attempt.content_at is not None:
            self.engine.times.paced(self._times(attempt), size, now - attempt.content_at, now, cut_short=True)
            return
        head = None if attempt.headers_at is None else attempt.headers_at - attempt.started
        self.engine.times.waited(self._times(attempt), head, now - attempt.started, now)

    def outdone(self, late: Attempt, now: float) -> None:
        """The attempt beside a late one has content before it. Where that took no longer than the late one had been
        given before, it is not that all are slow: that one hangs."""
        hedge = self._hedge
        if hedge is None or hedge.beside is not late or late.content_at is not None:
            return
        began = now if hedge.content_at is None else hedge.content_at
        if began - hedge.started <= hedge.started - late.started:
            kind = self._times(late)
            self.engine.hanging.outdone(kind.provider, kind.model, now)

    def _times(self, attempt: Attempt) -> CallKind:
        """What the times of an attempt are comparable with."""
        if attempt.times_like is None:
            provider, model = attempt.candidate.provider, attempt.candidate.model
            found = kind_of(provider.name, model, stream=self.call.stream, body_bytes=self.asked.body_bytes)
            attempt.times_like = found
        return attempt.times_like

    # --- what came of it

    def settled(self, attempt: Attempt, headers: Mapping[str, str], now: float, wall_now: float) -> None:
        """The attempt has got its outcome, or another one: what that teaches for later calls. `headers` of its answer,
        by lower-case name. `wall_now`: Unix time, against which dates in them are read."""
        kind = None if attempt.outcome is None else attempt.outcome.kind
        if kind is Kind.COOLDOWN and headers:
            self.engine.plan_told(attempt.subject, windows(headers, wall_now), now)
        if kind is Kind.SUCCESS:
            self._answered(attempt, headers, now, wall_now)
        elif kind is Kind.FAILURE:
            if attempt.outcome is judging.TIMEOUT and not self.call.is_websocket:
                self.outpaced(attempt, 0, now)
            self._broke(attempt)

    def _answered(self, attempt: Attempt, headers: Mapping[str, str], now: float, wall_now: float) -> None:
        engine, provider = self.engine, attempt.candidate.provider
        began = now if attempt.headers_at is None else attempt.headers_at
        content = None if attempt.content_at is None else attempt.content_at - attempt.started
        if self.call.is_websocket:
            content = None  # the first of its responses began with the handshake
        if content is not None:
            kind = self._times(attempt)
            engine.times.began(kind, began - attempt.started, content, now)
            if engine.hanging:
                engine.hanging.answered(kind.provider, kind.model)
        engine.plan_told(attempt.subject, windows(headers, wall_now) if headers else (), now)
        seconds = exhausted(headers, wall_now - (now - began))
        if seconds is not None:
            engine.foresee(attempt.subject, began, seconds, now)
        if content is not None:
            engine.first_content.took((provider.name, "streamed" if self.call.stream else "whole"), content)
            engine.recent.began(provider.name, content)
        if len(self.plan.candidates) < 2:
            return
        if self.match.route.strategy == "fastest" and content is not None:
            engine.strategist.paces.measured(pace_key(attempt.candidate, self.call), content, now)
        stays = engine.conversations
        # Where providers go by their order, a conversation with the first of them needs no memory of it.
        in_order = self.match.route.strategy == "priority" and attempt.candidate is self._first
        if (not in_order or stays.any(now)) and (conversation := self.asked.conversation) is not None:
            home = self._first.provider.name if self.match.route.strategy == "priority" and self._first else None
            seconds = provider.routing.stick_seconds
            stays.answered(self.asked.scope, conversation, provider.name, seconds, now, home=home)
            self._tell_stay(conversation)

    def _tell_stay(self, conversation: Conversation) -> None:
        """Other processes, of where a conversation stays."""
        sharing = self.engine.sharing
        if (
            sharing is not None
            and (stay := self.engine.conversations.latest(self.asked.scope, conversation)) is not None
        ):
            sharing.stays(self.asked.scope, conversation, stay)

    def used(self, attempt: Attempt) -> None:
        """An answer has told what it has taken."""
        stays, usage = self.engine.conversations, attempt.usage
        if usage is not None and stays and len(self.plan.candidates) > 1 and (conversation := self.asked.conversation):
            name = attempt.candidate.provider.name
            stays.used(self.asked.scope, conversation, name, usage.input, usage.cached)
            self._tell_stay(conversation)

    def _broke(self, attempt: Attempt) -> None:
        """It may have begun to answer before: a stream that broke off keeps no conversation."""
        stays = self.engine.conversations
        if stays and len(self.plan.candidates) > 1 and (conversation := self.asked.conversation) is not None:
            stays.broke(self.asked.scope, conversation, attempt.candidate.provider.name)

    def failed(self, attempt: Attempt, outcome: Outcome, now: float) -> None:
        """The attempt ended, with this outcome, without the app having seen a byte: remember what may follow."""
        candidate = attempt.candidate
        name = candidate.provider.name
        if self._hedge is not None and self._hedge.beside is attempt and outcome.kind is not Kind.NEUTRAL:
            self.engine.budget.give_back()  # it would have been asked anyway
        if outcome.kind is Kind.FAILURE and self.match.route.strategy == "fastest" and not self.call.is_websocket:
            self.engine.strategist.paces.failed(pace_key(candidate, self.call), now - attempt.started, now)
        limits = candidate.provider.attempts
        tries_left = self._tries.get(name, 0) < limits.per_provider and self._room_for_another(now)
        announced = outcome.cooldown_seconds
        if outcome.then is Then.RETRY and tries_left:
            pause = limits.backoff_seconds * (0.5 + self._jitter())
            self._again = (candidate, now + pause, "backoff")
        elif (
            outcome.then is Then.WAIT
            and tries_left
            and announced is not None
            and announced <= limits.wait_seconds
            and now + announced < self.deadline
        ):
            self._again = (candidate, now + announced, "rate_limit")
        elif outcome.then is Then.REPAIR and self._repair(candidate, now):
            pass
        elif outcome.then is Then.LARGER:
            self._spend_not_larger_than(candidate)
        else:
            passes = outcome.kind is Kind.FAILURE or judging.ends(outcome)
            pause = max(candidate.provider.circuit.open_seconds, announced or 0.0)
            self._spent[name] = now + pause if passes else NEVER_AGAIN

    def _room_for_another(self, now: float) -> bool:
        """Whether a second try leaves attempts enough for those providers that had none yet. Where they are more than a
        request may ask anyway, a second try is as good."""
        waiting = [
            c
            for c in self.plan.candidates
            if c.provider.name not in self._tries and c.provider.name not in self._spent
            if self._refusal(c, now, insist=True) is None
        ]
        left = self.limits.max - len(self.attempts)
        return left > len(waiting) or len(self.plan.candidates) > self.limits.max

    def failed_at(self, now: float) -> frozenset[str]:
        """The providers that have failed this request, or have left it without content for long. One that has said when
        to come back is known by its cooldown."""
        return frozenset(
            a.candidate.provider.name
            for a in self.attempts
            if a.outcome is not None
            and (
                a.outcome.kind in (Kind.FAILURE, Kind.SLOW) or (a.content_at is None and now - a.started > LONG_SECONDS)
            )
        )

    def may_move_on(self, attempt: Attempt, outcome: Outcome) -> bool:
        """Whether this outcome leaves it to us to ask again; otherwise the app gets the answer."""
        if outcome.then is Then.HAND_OVER:
            return False
        if outcome.then is Then.REPAIR and self._again is None:
            return not attempt.candidate.own
        return not (self.plan.pinned and outcome.then is Then.LARGER)

    def _repair(self, candidate: Candidate, now: float) -> bool:
        """Once a request, a provider that refuses sealed reasoning is asked again without what it was not itself seen
        to issue, which is left out of every later copy as well; without all of it where it was all its own."""
        left = [name for name in self.call.sealed if name not in candidate.leaves_out]
        if self._repaired or not left or candidate.provider.routing.sealed != "drop":
            return False
        self._repaired = True
        others = self.engine.disown(left, candidate.provider.name)
        repaired = replace(candidate, leaves_out=candidate.leaves_out.union(others or left))
        # However often this request comes back to it.
        candidates = tuple(repaired if c is candidate else c for c in self.plan.candidates)
        self.plan = replace(self.plan, candidates=candidates)
        self._again = (repaired, now, "sealed")
        return True

    def _spend_not_larger_than(self, candidate: Candidate) -> None:
        limit = context_window(candidate.provider, candidate.model)
        for other in self.plan.candidates:
            window = context_window(other.provider, other.model)
            if other is candidate or window is None or (limit is not None and window <= limit):
                self._spent[other.provider.name] = NEVER_AGAIN

    def rank(self, attempt: Attempt, outcome: Outcome) -> int:
        """How fit an attempt's answer is to be handed to the app when no provider could do better; of equals
        the first.

        What is said of the request itself stands above all, the original 400 about a context that is too long too; then
        what the provider said that the app addressed; an answer about a credential or a model name of ours below all:
        it would blame the app for our configuration.
        """
        own, renamed = attempt.candidate.own, attempt.candidate.model != self.call.model
        if outcome.reason in ("context_too_long", "client_error"):
            return 3
        if outcome.reason == "credential" or (outcome.reason == "unknown_model" and (renamed or not own)):
            return 0
        return 2 if own else 1
