"""The two circuits that guard one attempt, and the pass that is a permit of each.

Pure: no mitmproxy, no clock, no I/O. Two questions have a circuit each: is the provider reached at all, and does this
model there answer? A model that is broken keeps no other from being asked, and a provider that cannot be reached is
found out once for all its models.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sidestep.breaker.circuit import Circuit, Permit, Refusal, State
from sidestep.breaker.outcomes import Kind, Outcome

NOT_REACHED = frozenset({"connect", "timeout"})
"""Reasons of a failure that, before any headers came, says that the provider was not reached."""

_NOTHING = Outcome(Kind.NEUTRAL, "not_reached")
"""No evidence about a model."""


@dataclass(slots=True, eq=False)
class Pass:
    """A permit of each circuit. Settled once, with one outcome."""

    reaching: Permit
    answering: Permit | None

    @property
    def circuits(self) -> tuple[Circuit, ...]:
        permits = (self.reaching,) if self.answering is None else (self.reaching, self.answering)
        return tuple(permit.circuit for permit in permits)

    def settle(self, outcome: Outcome, now: float, *, status: int | None) -> None:
        """Give it back. A failure counts in the circuit that it belongs to, a success in both.

        `status`: of the head that came, None: none came. To the provider's circuit an answer that failed is neutral:
        it shows that the provider is reached, and below 500 that it is alive.
        """
        first = second = outcome
        if self.answering is not None and outcome.kind is not Kind.SUCCESS:
            if outcome.kind is Kind.FAILURE and outcome.reason in NOT_REACHED and status is None:
                second = _NOTHING
            else:
                first = Outcome(Kind.NEUTRAL, outcome.reason, status=status)
        self.reaching.circuit.settle(self.reaching, first, now)
        if self.answering is not None:
            self.answering.circuit.settle(self.answering, second, now)

    def amend(self, outcome: Outcome, now: float) -> None:
        """Its answer broke off, or was slow, after its success was counted."""
        permit = self.answering or self.reaching
        permit.circuit.amend(permit, outcome, now)


@dataclass(slots=True, eq=False)
class Guard:
    """The provider's circuit, and that of the model there; None: one circuit for all."""

    reaching: Circuit = field(repr=False)
    answering: Circuit | None = field(default=None, repr=False)

    @property
    def circuits(self) -> tuple[Circuit, ...]:
        return (self.reaching,) if self.answering is None else (self.reaching, self.answering)

    def refusal(self, now: float, *, insist: bool = False) -> Refusal | None:
        """Why no permit would be given now: of two refusals the one that lasts longer."""
        first = self.reaching.refusal(now, insist=insist)
        if self.answering is None:
            return first
        second = self.answering.refusal(now, insist=insist)
        if first is None or second is None:
            return first or second
        if first.retry_after is None or second.retry_after is None:
            return first if first.retry_after is None else second
        return first if first.retry_after >= second.retry_after else second

    def admit(self, now: float, lease_seconds: float, *, insist: bool = False) -> Pass | Refusal:
        """Leave for one attempt, only where each circuit gives it; else none of them has given any."""
        refusal = self.refusal(now, insist=insist)
        if refusal is not None:
            return refusal
        return self.grant(now, lease_seconds)

    def grant(self, now: float, lease_seconds: float) -> Pass:
        """The same, for one whom nothing has just been refused."""
        answering = self.answering
        return Pass(
            self.reaching.grant(now, lease_seconds), None if answering is None else answering.grant(now, lease_seconds)
        )

    def is_closed(self, now: float) -> bool:
        """Nothing at all speaks against it: no circuit is open, is probed or lets traffic back in a ramp."""
        return all(c.state(now) in (State.CLOSED, State.DISABLED) for c in self.circuits) and self.refusal(now) is None

    def is_disabled(self, now: float) -> bool:
        """Held by hand so that it always lets through."""
        return self.reaching.state(now) is State.DISABLED
