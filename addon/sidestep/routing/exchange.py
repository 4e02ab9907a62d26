"""One routed request from arrival to its end: whom to ask next, how long to wait, when to give up.

Pure: decides and returns what to do (`Attempt`, `Wait`, `Exhausted`); sending, waiting and answering are done
outside. Time is an argument.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from sidestep.breaker.outcomes import Kind, Outcome, Then
from sidestep.breaker.ratelimits import exhausted
from sidestep.dialects.base import Call, Conversation
from sidestep.dialects.conversations import conversation_of
from sidestep.routing.engine import Attempt, Engine, Refused
from sidestep.routing.prices import context_window
from sidestep.routing.strategies import pace_key
from sidestep.routing.table import Candidate, Match, Plan

LEASE_MARGIN_SECONDS = 30.0
"""On top of what the timeouts allow: a lease must not end before the attempt that holds it."""
NEVER_AGAIN = float("inf")
"""A provider that cannot answer this request, whatever it does for others."""
RECOVERY_LOOK_SECONDS = 0.25
"""A circuit becomes half-open without telling anybody: look this often."""
RECOVERY_WAITS = 3
"""How many times `wait_seconds` a request waits for others to find a provider that has recovered: where all circuits
are open, the one of the provider that is well may be the last to let a probe through."""
HOPE_SECONDS = 60.0
"""Who has not answered anybody for so long is down, and is not waited for."""
WAIT_MARGIN_SECONDS = 0.005
"""Timers may fire a little early; asking a moment too soon would waste the only wait."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Ask again after so many seconds; earlier if the engine's circuits change and `on_change` is set."""

    seconds: float
    reason: str
    on_change: bool = False


@dataclass(frozen=True, slots=True)
class Exhausted:
    """Nobody is left to ask. `refused`: those not asked, and why."""

    refused: tuple[Refused, ...]

    @property
    def retry_after(self) -> float | None:
        """Seconds until the first of them may be asked."""
        return min((r.retry_after for r in self.refused if r.retry_after is not None), default=None)


Next = Attempt | Wait | Exhausted


class Exchange:
    """State: candidates spent, tries per candidate, the attempt under way, waits taken, the budget's end."""

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
    ) -> None:
        """`body_bytes`: the size of the request's body, from which its tokens are estimated."""
        self.id = "sx-" + secrets.token_hex(8)
        self.engine = engine
        self.match = match
        self.call = call
        self.arrived = now
        self.attempts: list[Attempt] = []
        self.notes: list[str] = []
        self.refused: tuple[Refused, ...] = ()
        settings = engine.settings
        self.limits = settings.attempts
        self.deadline = now + settings.attempts.total_seconds
        self._jitter = jitter
        self._tries: dict[str, int] = {}
        self._spent: dict[str, float] = {}
        self._again: tuple[Candidate, float, str] | None = None
        self._refusal_wait_until: float | None = None
        self._recovery_wait_until: float | None = None
        self._probe_wait_until: float | None = None
        self._doubled = False
        self._repaired = False
        self._in_company = False
        """Whether other requests were under way with this one."""
        self._scope = (match.route.name, call.model)
        self._first = plan.candidates[0] if plan.candidates else None
        self.plan = plan if len(plan.candidates) < 2 else self._in_order(plan, body_bytes, now)

    @property
    def current(self) -> Attempt | None:
        """The latest attempt."""
        return self.attempts[-1] if self.attempts else None

    @property
    def trail(self) -> str:
        """What `x-sidestep-attempts` says."""
        return ", ".join(a.label for a in self.attempts)

    # --- in which order

    def _in_order(self, plan: Plan, body_bytes: int, now: float) -> Plan:
        """The plan in the order in which its candidates are asked: by the route's strategy, and before all others
        the provider that the conversation stays with, if it would take it."""
        engine, route = self.engine, self.match.route
        keeper = self._keeper(plan, now)
        candidates: Sequence[Candidate] = plan.candidates
        if route.strategy != "priority" and self.call.pin is None and not self.call.sealed:
            candidates = engine.strategist.order(
                route.strategy,
                route.name,
                self.call,
                body_bytes,
                candidates,
                lambda candidate: engine.would_admit(candidate, now),
                engine.out,
                now,
                spoken_for=keeper is not None,
            )
        if keeper is not None:
            candidates = [keeper, *(c for c in candidates if c is not keeper)]
        # Neither a strategy nor a stay brings a provider before those that honour more of what is sealed.
        candidates = sorted(candidates, key=lambda c: c.tier)
        return Plan(tuple(candidates), plan.pinned, plan.passthrough)

    def _keeper(self, plan: Plan, now: float) -> Candidate | None:
        """The candidate that the conversation stays with, None if it is not to be asked now."""
        if not self.engine.conversations.any(now) or (conversation := self.conversation) is None:
            return None
        name = self.engine.conversations.keeper(self._scope, conversation, now)
        found = next((c for c in plan.candidates if c.provider.name == name), None)
        return found if found is not None and self.engine.would_admit(found, now) else None

    @cached_property
    def conversation(self) -> Conversation | None:
        """Which conversation this call belongs to; read when first asked for."""
        return conversation_of(self.call.messages)

    # --- whom to ask

    def next(self, now: float) -> Next:
        """What to do now that no attempt is under way."""
        if len(self.attempts) >= self.limits.max or now >= self.deadline:
            return Exhausted(self.refused)
        self._in_company = self._in_company or len(self.engine.live) > 1
        if self._again is not None:
            candidate, at, reason = self._again
            if now < at:
                return Wait(at - now, reason)
            self._again = None
            if isinstance(attempt := self._ask(candidate, now), Attempt):
                return attempt
        refused: list[Refused] = []
        for candidate in self.plan.candidates:
            if candidate.provider.name in self._spent:
                continue
            answer = self._ask(candidate, now)
            if isinstance(answer, Attempt):
                return answer
            refused.append(answer)
        self.refused = tuple(refused)
        return (
            self._despite_limits(now)
            or self._despite_doubling(now)
            or self._last_resort(now)
            or self._wait_for(refused, now)
            or Exhausted(self.refused)
        )

    def _despite_limits(self, now: float) -> Attempt | None:
        """Before the app is refused, or made to wait: whom only a limit seen coming keeps back may still answer."""
        for candidate in self.plan.candidates:
            if candidate.provider.name not in self._spent and self.engine.foresees_limit(candidate, now):
                answer = self._ask(candidate, now, last_resort=True)
                if isinstance(answer, Attempt):
                    return answer
        return None

    def _despite_doubling(self, now: float) -> Attempt | None:
        """A doubled open time spares apps slow probes while somebody else answers them. Here nobody does, and other
        requests meet the same: one of them probes after the plain open time."""
        self._doubled = False
        if not self._may_hope(now):
            return None
        for candidate in self.plan.candidates:
            name = candidate.provider.name
            if self._spent.get(name) == NEVER_AGAIN or (seconds := self.engine.hasten(candidate, now)) is None:
                continue
            self._doubled = True
            if seconds == 0 and isinstance(answer := self._ask(candidate, now), Attempt):
                self._spent.pop(name, None)
                self._tries[name] = 1
                return answer
        return None

    def _last_resort(self, now: float) -> Attempt | None:
        """Everybody who could be asked has failed this request: before the app sees it, ask again who is seen to
        have recovered, and whom only a guessed cooldown keeps back."""
        if not self.attempts:
            return None
        for candidate in self.plan.candidates:
            name = candidate.provider.name
            if name in self._spent and not self._has_recovered(candidate, now):
                continue
            answer = self._ask(candidate, now, last_resort=True)
            if isinstance(answer, Attempt):
                self._spent.pop(name, None)
                self._tries[name] = 1
                return answer
        return None

    def _ask(self, candidate: Candidate, now: float, *, last_resort: bool = False) -> Attempt | Refused:
        answer = self.engine.admit(candidate, now, self._lease(candidate), last_resort=last_resort)
        if isinstance(answer, Attempt):
            self.attempts.append(answer)
            self._refusal_wait_until = self._recovery_wait_until = None
            name = candidate.provider.name
            self._tries[name] = self._tries.get(name, 0) + 1
        return answer

    def _lease(self, candidate: Candidate) -> float:
        t = candidate.provider.timeouts
        first = t.first_byte + t.first_content if self.call.stream else t.headers
        return t.connect + first + t.idle + LEASE_MARGIN_SECONDS

    def _wait_for(self, refused: list[Refused], now: float) -> Wait | None:
        """Whether waiting for one of these is worth it: a probe that is out, or a short time."""
        probing = [r for r in refused if r.reason == "probing"]
        if probing:
            if self._probe_wait_until is None:
                names = {r.provider for r in probing}
                seconds = max(
                    c.provider.circuit.probe_wait_seconds for c in self.plan.candidates if c.provider.name in names
                )
                self._probe_wait_until = min(now + seconds, self.deadline)
            if now < self._probe_wait_until:
                return Wait(self._probe_wait_until - now, "probe", on_change=True)
        if self._refusal_wait_until is None:
            times = [r.retry_after for r in refused if r.retry_after is not None and r.reason != "probing"]
            if times and (seconds := min(times)) <= self.limits.wait_seconds and now + seconds < self.deadline:
                self._refusal_wait_until = now + seconds + WAIT_MARGIN_SECONDS
        if self._refusal_wait_until is not None and now < self._refusal_wait_until:
            return Wait(self._refusal_wait_until - now, "refused", on_change=True)
        return self._wait_for_recovery(now)

    def _wait_for_recovery(self, now: float) -> Wait | None:
        """With other requests under way, one of them may find a provider that has recovered."""
        begun = self.attempts or self._doubled or self._refusal_wait_until is not None
        if not begun or not self._may_hope(now):
            return None
        if self._recovery_wait_until is None:
            self._recovery_wait_until = min(now + RECOVERY_WAITS * self.limits.wait_seconds, self.deadline)
        if now < self._recovery_wait_until:
            return Wait(min(RECOVERY_LOOK_SECONDS, self._recovery_wait_until - now), "recovery", on_change=True)
        return None

    # --- what came of it

    def settled(self, attempt: Attempt, headers: Mapping[str, str], now: float, wall_now: float) -> None:
        """The attempt has got its outcome, or another one: what that teaches for later calls. `headers` of its answer,
        by lower-case name. `wall_now`: Unix time, against which dates in them are read."""
        kind = None if attempt.outcome is None else attempt.outcome.kind
        if kind is Kind.SUCCESS:
            self._answered(attempt, headers, now, wall_now)
        elif kind is Kind.FAILURE:
            self._broke(attempt)

    def _answered(self, attempt: Attempt, headers: Mapping[str, str], now: float, wall_now: float) -> None:
        engine, provider = self.engine, attempt.candidate.provider
        began = now if attempt.headers_at is None else attempt.headers_at
        seconds = exhausted(headers, wall_now - (now - began))
        if seconds is not None:
            engine.cooldown(provider.name).foresee(began, seconds)
        if len(self.plan.candidates) < 2:
            return
        if self.match.route.strategy == "fastest" and attempt.content_at is not None:
            key = pace_key(attempt.candidate, self.call)
            engine.strategist.paces.measured(key, attempt.content_at - attempt.started, now)
        stays = engine.conversations
        # Where providers go by their order, a conversation with the first of them needs no memory of it.
        in_order = self.match.route.strategy == "priority" and attempt.candidate is self._first
        if (not in_order or stays.any(now)) and (conversation := self.conversation) is not None:
            stays.answered(self._scope, conversation, provider.name, provider.routing.stick_seconds, now)

    def _broke(self, attempt: Attempt) -> None:
        """It may have begun to answer before: a stream that broke off keeps no conversation."""
        stays = self.engine.conversations
        if stays and len(self.plan.candidates) > 1 and (conversation := self.conversation) is not None:
            stays.broke(self._scope, conversation, attempt.candidate.provider.name)

    def failed(self, attempt: Attempt, outcome: Outcome, now: float) -> None:
        """The attempt ended, with this outcome, without the app having seen a byte: remember what may follow."""
        candidate = attempt.candidate
        name = candidate.provider.name
        if outcome.kind is Kind.FAILURE and self.match.route.strategy == "fastest":
            self.engine.strategist.paces.failed(pace_key(candidate, self.call), now - attempt.started, now)
        limits = candidate.provider.attempts
        tries_left = self._tries.get(name, 0) < limits.per_provider
        if outcome.then is Then.RETRY and tries_left:
            pause = limits.backoff_seconds * (0.5 + self._jitter())
            self._again = (candidate, now + pause, "backoff")
        elif (
            outcome.then is Then.WAIT
            and tries_left
            and outcome.cooldown_seconds is not None
            and outcome.cooldown_seconds <= limits.wait_seconds
            and now + outcome.cooldown_seconds < self.deadline
        ):
            self._again = (candidate, now + outcome.cooldown_seconds, "rate_limit")
        elif outcome.then is Then.REPAIR and self._repair(candidate, now):
            pass
        elif outcome.then is Then.LARGER:
            self._spend_not_larger_than(candidate)
        else:
            # One that cannot serve this request is not asked again; one that failed is as a last resort, and only
            # should it be seen to have recovered.
            curable = outcome.kind is Kind.FAILURE or outcome.reason == "rate_limit"
            self._spent[name] = now if curable else NEVER_AGAIN

    def _has_recovered(self, candidate: Candidate, now: float) -> bool:
        """Whether a provider that failed this request has answered somebody else since, or its circuit wants it
        probed. One whose circuit did not open is worth a look after the time that it would have been open: where
        many share the providers, nobody else may be left to find out."""
        name = candidate.provider.name
        failed_at = self._spent[name]
        if failed_at == NEVER_AGAIN:
            return False
        if self.engine.last_well.get(name, failed_at) > failed_at or self.engine.wants_probe(candidate, now):
            return True
        return now - failed_at >= candidate.provider.circuit.open_seconds and self._may_hope(now)

    def _may_hope(self, now: float) -> bool:
        """Whether somebody is likely to be found well soon: there are others who look, and lately one of those who may
        answer this has answered somebody. Where all have been down for long, the app is told so at once."""
        answered = self.engine.last_well
        return self._in_company and any(
            answered.get(name, -NEVER_AGAIN) >= now - HOPE_SECONDS and self._spent.get(name) != NEVER_AGAIN
            for name in (c.provider.name for c in self.plan.candidates)
        )

    def may_move_on(self, outcome: Outcome) -> bool:
        """Whether this outcome leaves it to us to ask again; otherwise the app gets the answer."""
        if outcome.then is Then.HAND_OVER:
            return False
        if outcome.then is Then.REPAIR and self._again is None:
            return self.current is not None and not self.current.candidate.own
        return not (self.plan.pinned and outcome.then is Then.LARGER)

    def _repair(self, candidate: Candidate, now: float) -> bool:
        """Once a request, a provider that refuses sealed reasoning is asked again without what it was not itself seen
        to issue, which is left out of every later copy as well; without all of it where it was all its own."""
        left = [name for name in self.call.sealed if name not in candidate.leaves_out]
        if self._repaired or not left or candidate.provider.routing.sealed != "drop":
            return False
        self._repaired = True
        issued_by = {name: self.engine.issuer_of(name) for name in left}
        name_here = candidate.provider.name
        others = [name for name, by in issued_by.items() if by is None or by.provider != name_here]
        self.engine.disown(others)
        leaves_out = candidate.leaves_out.union(others or left)
        self._again = (replace(candidate, leaves_out=leaves_out), now, "sealed")
        return True

    def _spend_not_larger_than(self, candidate: Candidate) -> None:
        limit = context_window(candidate.provider, candidate.model)
        for other in self.plan.candidates:
            window = context_window(other.provider, other.model)
            if other is candidate or window is None or (limit is not None and window <= limit):
                self._spent[other.provider.name] = NEVER_AGAIN

    def rank(self, outcome: Outcome) -> int:
        """How fit a failed answer is to be handed to the app when nobody could do better.

        The original 400 about a context that is too long stands above all, an answer about a credential or a
        model name of ours below all: it would blame the app for our configuration.
        """
        if outcome.reason == "context_too_long":
            return 2
        return 0 if outcome.reason in ("credential", "unknown_model") else 1
