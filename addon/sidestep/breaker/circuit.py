"""One circuit: closed, open, half-open, and the permits it gives.

Pure: no mitmproxy, no clock, no I/O. `now` is seconds of a monotonic clock. What an outcome is was judged before;
which provider to ask instead is decided elsewhere.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Literal, Protocol

import msgspec

from sidestep.breaker.outcomes import Kind, Outcome
from sidestep.breaker.window import Window

YEAR = 31_536_000
"""Longest time that may be configured: an endless one (`inf`) could not be told as a Retry-After."""
DAY = 86_400.0
"""Longest lease: one that never ended would keep its place for ever."""

Positive = Annotated[float, msgspec.Meta(gt=0, le=YEAR)]
AtLeastOne = Annotated[int, msgspec.Meta(ge=1, le=10**12)]

JITTER = 0.1
"""The open time varies by this share, so that many processes do not probe in step."""


class CircuitSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `[circuit]` table. Times in seconds."""

    failure_threshold: AtLeastOne = 3
    failure_rate: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    window_seconds: Positive = 60
    min_requests: AtLeastOne = 20
    open_seconds: Positive = 15
    open_seconds_max: Positive = 300
    half_open_probes: AtLeastOne = 1
    probe_wait_seconds: Annotated[float, msgspec.Meta(ge=0, le=YEAR)] = 10
    scope: Literal["provider", "model"] = "model"


class State(enum.StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"
    DISABLED = "disabled"


class Trigger(enum.Enum):
    """What can change the state."""

    TRIPPED = "tripped"
    TIME_CAME = "time_came"
    PROBE_SUCCEEDED = "probe_succeeded"
    PROBE_FAILED = "probe_failed"
    HELD_OPEN = "held_open"
    HELD_DISABLED = "held_disabled"
    RELEASED = "released"
    TOLD_OPEN = "told_open"
    TOLD_CLOSED = "told_closed"


TRANSITIONS: dict[tuple[State, Trigger], State] = {
    (State.CLOSED, Trigger.TRIPPED): State.OPEN,
    (State.OPEN, Trigger.TIME_CAME): State.HALF_OPEN,
    (State.HALF_OPEN, Trigger.PROBE_SUCCEEDED): State.CLOSED,
    (State.HALF_OPEN, Trigger.PROBE_FAILED): State.OPEN,
    **{(state, Trigger.HELD_OPEN): State.FORCED_OPEN for state in State},
    **{(state, Trigger.HELD_DISABLED): State.DISABLED for state in State},
    (State.FORCED_OPEN, Trigger.RELEASED): State.CLOSED,
    (State.DISABLED, Trigger.RELEASED): State.CLOSED,
    (State.CLOSED, Trigger.TOLD_OPEN): State.OPEN,
    (State.HALF_OPEN, Trigger.TOLD_OPEN): State.OPEN,
    (State.OPEN, Trigger.TOLD_CLOSED): State.CLOSED,
    (State.HALF_OPEN, Trigger.TOLD_CLOSED): State.CLOSED,
}
"""Every legal transition."""

OWN_EVIDENCE = frozenset({Trigger.TRIPPED, Trigger.PROBE_SUCCEEDED, Trigger.PROBE_FAILED})
"""What other processes may want to know."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why no permit was given. `retry_after`: seconds until asking again makes sense, None if unknown."""

    reason: Literal["open", "probing", "forced_open", "recovering"]
    retry_after: float | None


@dataclass(slots=True, eq=False)
class Permit:
    """Leave to make one attempt. It counts only at the circuit that gave it: a reload may have replaced that."""

    circuit: Circuit = field(repr=False)
    generation: int
    probe: bool
    granted_at: float
    lease_until: float
    settled: bool = False
    claim: str = ""
    """What names this probe to other processes; empty where they were not asked."""
    success_at: float | None = None
    failures_before: int = 0
    success_serial: int = -1


class Listener(Protocol):
    """Who tells other processes of a circuit. None of it waits, and none of it changes the circuit."""

    def turned(self, circuit: Circuit, now: float) -> None:
        """It has opened or closed on evidence of its own."""

    def probing(self, circuit: Circuit, now: float) -> str:
        """It gives a probe's permit; what that is called elsewhere."""

    def probed(self, circuit: Circuit, claim: str) -> None:
        """The permit of such a name has come back, or its lease is over."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What an operator would ask for. Times in seconds from now."""

    state: State
    failure_count: int
    successes: int
    failures: int
    open_age: float | None
    """Since it was last closed; a probe that failed does not begin it anew. None unless open or half-open."""
    retry_after: float | None
    permits_out: int
    probes_out: int
    generation: int
    times_opened: int
    last_failure: str
    """Why the latest failure that counted was one, empty before the first."""


class Circuit:
    """State: the state and its generation, consecutive failures and why the latest, the window, permits out and a time
    before which no lease of theirs ends, since when it is no longer closed and when it may be probed (with a doubled
    open time, and with the plain one), the open time that applies next, how many permits at a time the ramp after
    closing allows, until when; the times of its latest success and failure and of the first failure in a row, until
    when another process probes, and whether it was such a one that opened it."""

    def __init__(self, settings: CircuitSettings, *, jitter: Callable[[], float]) -> None:
        """`jitter` gives numbers from 0 to 1."""
        self.settings = settings
        self._jitter = jitter
        self._state = State.CLOSED
        self._generation = 0
        self._failures = 0
        self._serial = 0
        self._window = Window(settings.window_seconds)
        self._permits: set[Permit] = set()
        self._first_lease = math.inf
        self._opened_at = 0.0
        self._open_until = 0.0
        self._plain_until = 0.0
        self._open_seconds = settings.open_seconds
        self._times_opened = 0
        self._last_failure = ""
        self._ramp = 1
        self._ramp_until = -math.inf
        self.listener: Listener | None = None
        self.well_at = -math.inf
        self.failed_at = -math.inf
        self.first_failure_at = -math.inf
        self.is_hearsay = False
        self._probed_elsewhere_until = -math.inf

    # --- asking

    def state(self, now: float) -> State:
        """The state now: an open circuit whose time has come is half-open."""
        if self._state is State.OPEN and now >= self._open_until:
            self._apply(Trigger.TIME_CAME, now)
        return self._state

    def admit(self, now: float, lease_seconds: float, *, insist: bool = False) -> Permit | Refusal:
        """A permit, or why there is none. No lease is longer than a day. `insist`: see `refusal`."""
        if lease_seconds <= 0:
            raise ValueError(f"expected a lease above 0 seconds, found {lease_seconds}")
        refusal = self.refusal(now, insist=insist)
        if refusal is not None:
            return refusal
        return self.grant(now, lease_seconds)

    def grant(self, now: float, lease_seconds: float) -> Permit:
        """A permit, for one whom nothing has just been refused."""
        if self._state is State.OPEN:  # insisted on, after the plain open time
            self._apply(Trigger.TIME_CAME, now)
        probe = self._state is State.HALF_OPEN
        lease = lease_seconds if lease_seconds < DAY else DAY  # nan as well
        permit = Permit(self, self._generation, probe, now, now + lease)
        if probe and self.listener is not None:
            permit.claim = self.listener.probing(self, now)
        self._permits.add(permit)
        self._first_lease = min(self._first_lease, permit.lease_until)
        return permit

    def refusal(self, now: float, *, insist: bool = False) -> Refusal | None:
        """Why `admit` would give no permit now, None if it would.

        `insist`: no other provider is left to ask. What only prefers others does not refuse then: the doubled part of
        an open time, which spares apps a slow probe while others answer them, and the ramp after closing.
        """
        self._expire(now)
        state = self.state(now)
        if state is State.CLOSED and now >= self._ramp_until:
            return None
        match state:
            case State.FORCED_OPEN:
                return Refusal("forced_open", None)
            case State.OPEN:
                until = self._plain_until if insist else self._open_until
                return Refusal("open", until - now) if now < until else None
            case State.HALF_OPEN:
                probes = self._probes()
                if len(probes) >= self.settings.half_open_probes:
                    return Refusal("probing", min(p.lease_until for p in probes) - now)
                if now < self._probed_elsewhere_until:
                    return Refusal("probing", self._probed_elsewhere_until - now)
            case State.CLOSED if not insist and self._out() >= self._ramp:
                return Refusal("recovering", self._ramp_until - now)
        return None

    # --- settling

    def settle(self, permit: Permit, outcome: Outcome, now: float) -> bool:
        """Give a permit back with its outcome. False if it was settled before, its lease had ended, or another
        circuit gave it."""
        self._expire(now)
        if permit.settled or permit.circuit is not self:
            return False
        permit.settled = True
        self._permits.discard(permit)
        self._give_back(permit)
        self.state(now)
        if permit.generation != self._generation:
            return True
        if permit.probe:
            self._settle_probe(permit, outcome, now)
        elif outcome.kind is Kind.SUCCESS:
            self._count_success(permit, now)
        elif outcome.kind is Kind.FAILURE:
            self._count_failure(outcome, now)
        elif outcome.kind is Kind.SLOW:
            self._count_slow(outcome, now)
        return True

    def _settle_probe(self, permit: Permit, outcome: Outcome, now: float) -> None:
        if outcome.kind is Kind.FAILURE:
            self._failed(outcome, now)
            if outcome.slow:
                doubled = min(self._open_seconds * 2, self.settings.open_seconds_max)
                self._open_seconds = max(self._open_seconds, doubled)
            self._apply(Trigger.PROBE_FAILED, now)
        elif outcome.kind is Kind.SUCCESS or (outcome.kind is Kind.NEUTRAL and outcome.alive):
            self._apply(Trigger.PROBE_SUCCEEDED, now)
            self._begin_ramp(now)
            permit.generation = self._generation
            if outcome.kind is Kind.SUCCESS:
                self._count_success(permit, now)

    def _begin_ramp(self, now: float) -> None:
        # One at a time at first, and one more with each success: twice as many with each round of answers.
        self._ramp = 1
        self._ramp_until = now + self.settings.open_seconds

    def amend(self, permit: Permit, outcome: Outcome, now: float) -> bool:
        """Take back the success of a permit: its stream failed after its first content, or was slow. False if it
        changes nothing, because there is no such success or the circuit has changed state since."""
        self.state(now)
        if permit.success_at is None or permit.circuit is not self or outcome.kind not in (Kind.FAILURE, Kind.SLOW):
            return False
        success_at, permit.success_at = permit.success_at, None
        if permit.generation != self._generation:
            return False
        self._window.take_back_success(success_at)
        if outcome.kind is Kind.SLOW:
            self._count_slow(outcome, now)
            return True
        if permit.success_serial == self._serial:
            # No other success since: the failures before it stand in one row with those after it.
            self._failures += permit.failures_before
        self._count_failure(outcome, now)
        return True

    def _count_success(self, permit: Permit, now: float) -> None:
        self._serial += 1
        self._ramp += 1
        self.well_at = now
        permit.success_at = now
        permit.success_serial = self._serial
        permit.failures_before = self._failures
        self._failures = 0
        self._window.success(now)

    def _count_failure(self, outcome: Outcome, now: float) -> None:
        self._failed(outcome, now)
        self._window.failure(now)
        self._trip_if_due(now)

    def _failed(self, outcome: Outcome, now: float) -> None:
        if not self._failures:
            self.first_failure_at = now
        self.failed_at = now
        self._failures += 1
        self._last_failure = outcome.words

    def _count_slow(self, outcome: Outcome, now: float) -> None:
        self._last_failure = outcome.words
        self._window.failure(now)
        self._trip_if_due(now)

    def _trip_if_due(self, now: float) -> None:
        if self._state is not State.CLOSED:
            return
        totals = self._window.totals(now)
        rate_reached = (
            totals.attempts >= self.settings.min_requests and totals.failure_rate >= self.settings.failure_rate
        )
        if self._failures >= self.settings.failure_threshold or rate_reached:
            self._apply(Trigger.TRIPPED, now)

    # --- what other processes tell

    def told_open(self, now: float, seconds: float, since_first_failure: float) -> bool:
        """Another process has found it failing, `since_first_failure` seconds ago for the first time, and asks it again
        in so many seconds. Whether it is open for that.

        Where there has been a success since then, it is no more than two failures would be: one of its own opens it.
        What is open, or is being probed, stays as it is: hearsay stamps no opening time anew.
        """
        state = self.state(now)
        if seconds <= 0 or state not in (State.CLOSED, State.HALF_OPEN):
            return False
        if state is State.HALF_OPEN and self._probes():
            return False
        if state is State.CLOSED and self.well_at > now - since_first_failure:
            self._failures = max(self._failures, self.settings.failure_threshold - 1)
            return False
        self._apply(Trigger.TOLD_OPEN, now)
        self._open_until = self._plain_until = now + min(seconds, self.settings.open_seconds_max * (1 + JITTER))
        self.is_hearsay = True
        return True

    def told_closed(self, now: float) -> bool:
        """Another process has had an answer to its probe. Whether that closes it; with the ramp of a probe of its
        own."""
        if self.state(now) not in (State.OPEN, State.HALF_OPEN):
            return False
        self._apply(Trigger.TOLD_CLOSED, now)
        self._begin_ramp(now)
        return True

    def told_probing(self, now: float, seconds: float) -> None:
        """Another process probes it, for so long at most."""
        self._probed_elsewhere_until = now + seconds

    @property
    def own_opening(self) -> tuple[float, float] | None:
        """When it was found failing for the first time, and when it may be probed; None unless it is open on evidence
        of its own."""
        if self._state is not State.OPEN or self.is_hearsay:
            return None
        return self.first_failure_at, self._open_until

    # --- by hand

    def hold(self, state: Literal[State.FORCED_OPEN, State.DISABLED] | State | None, now: float = 0.0) -> None:
        """Hold the state by hand, or give it back (None).

        Given back, it is closed with clean counts: what was known before the hold is old, and the next attempts
        tell soon enough.
        """
        if state is None:
            if self._state in (State.FORCED_OPEN, State.DISABLED):
                self._apply(Trigger.RELEASED, now)
        elif state is State.FORCED_OPEN:
            self._apply(Trigger.HELD_OPEN, now)
        elif state is State.DISABLED:
            self._apply(Trigger.HELD_DISABLED, now)
        else:
            raise ValueError(f"expected forced_open or disabled, found {state}")

    # --- inside

    def _apply(self, trigger: Trigger, now: float) -> None:
        after = TRANSITIONS.get((self._state, trigger))
        if after is None:
            raise ValueError(f"illegal transition: {trigger.value} in {self._state}")
        if after is self._state:
            return
        if self._state is State.CLOSED:
            self._opened_at = now
        self._state = after
        self._generation += 1
        self.is_hearsay = False
        self._probed_elsewhere_until = -math.inf
        if after is State.OPEN:
            spread = 1 + JITTER * (2 * self._jitter() - 1)
            self._open_until = now + self._open_seconds * spread
            self._plain_until = now + self.settings.open_seconds * spread
            self._times_opened += trigger is not Trigger.TOLD_OPEN
        elif after is State.CLOSED:
            self._failures = 0
            self._window.clear()
            self._open_seconds = self.settings.open_seconds
        if self.listener is not None and trigger in OWN_EVIDENCE:
            self.listener.turned(self, now)

    def _give_back(self, permit: Permit) -> None:
        if permit.claim and self.listener is not None:
            self.listener.probed(self, permit.claim)

    def _probes(self) -> list[Permit]:
        return [p for p in self._permits if p.probe and p.generation == self._generation]

    def _out(self) -> int:
        """Permits out that were given since the state last changed."""
        return sum(p.generation == self._generation for p in self._permits)

    def _expire(self, now: float) -> None:
        if now < self._first_lease:
            return
        for permit in [p for p in self._permits if now >= p.lease_until]:
            permit.settled = True
            self._permits.discard(permit)
            self._give_back(permit)
        self._first_lease = min((p.lease_until for p in self._permits), default=math.inf)

    def snapshot(self, now: float) -> Snapshot:
        refusal = self.refusal(now)
        state = self._state
        totals = self._window.totals(now)
        return Snapshot(
            state,
            self._failures,
            totals.successes,
            totals.failures,
            now - self._opened_at if state in (State.OPEN, State.HALF_OPEN) else None,
            None if refusal is None or state is State.CLOSED else refusal.retry_after,
            len(self._permits),
            len(self._probes()),
            self._generation,
            self._times_opened,
            self._last_failure,
        )

    def __repr__(self) -> str:
        return (
            f"Circuit({self._state}, failures={self._failures}, permits={len(self._permits)},"
            f" generation={self._generation})"
        )
