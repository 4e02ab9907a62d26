"""In which order the candidates of one call are asked. It orders and rules none out.

Pure: no mitmproxy, no clock, no I/O. Which of a route's providers are candidates is `table`'s to say, what a strategy
prefers `strategies`', whether one may be asked now the engine's, and what was tried already `exchange`'s.

There are three orders: `arranged` as the call arrives, by one key; for want of others by `reluctance`; and that of
those who may be asked `beside` an attempt that is late.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from sidestep.breaker.bounded import short
from sidestep.breaker.cooldown import Cooling, Source, Subject, subject
from sidestep.dialects.base import Call, Conversation
from sidestep.dialects.conversations import conversation_of
from sidestep.routing.engine import Engine, Refused
from sidestep.routing.prices import rates_at
from sidestep.routing.sticking import Scope, Stay
from sidestep.routing.table import Candidate, Match, Plan

CACHE_USD = 0.01
"""What a prompt cache must save for a conversation to stay away from home."""
CACHE_TOKENS = 10_000
"""The same in tokens, where prices are not known."""


@dataclass(frozen=True)
class Asked:
    """What is asked, and by whom. `credential`: a fingerprint of the app's own. `body_bytes`: the size of the request's
    body, from which its tokens are estimated. `failed_at`: providers that have just failed this very call."""

    match: Match
    call: Call
    credential: str = ""
    body_bytes: int = 0
    failed_at: frozenset[str] = frozenset()

    @cached_property
    def conversation(self) -> Conversation | None:
        """Which conversation this call belongs to; read when first asked for."""
        return conversation_of(self.call.messages)

    @cached_property
    def scope(self) -> Scope:
        """Within which a conversation is known again."""
        return self.match.route.name, None if self.call.model is None else short(self.call.model)

    def subject(self, candidate: Candidate, operation: str | None = None) -> Subject:
        """What a limit that this call meets at a candidate belongs to; `operation`: of what is asked for over a
        WebSocket."""
        credential = self.credential if candidate.own_credential else ""
        return subject(candidate.provider.name, credential, operation or self.call.operation, candidate.model)


@dataclass(frozen=True, slots=True)
class Order:
    """A plan in the order in which its candidates are asked."""

    plan: Plan
    stays_with: str | None = None
    """The provider that the conversation is with, which is asked first for that."""
    going_home: str | None = None
    """The provider that the conversation comes back to with this call."""


def arranged(engine: Engine, asked: Asked, plan: Plan, now: float, *, may_hedge: bool) -> Order:
    """A plan's candidates by the route's strategy; before all others the provider that the conversation stays with, if
    it would take it; after all others those that have just failed this very call. `may_hedge`: another attempt could be
    made beside one that is late."""
    if len(plan.candidates) < 2:
        return Order(plan)
    keeper, comes_home = _keeper(engine, asked, plan, now)
    hanging = _hanging(engine, asked, plan, now, may_hedge=may_hedge)
    home = keeper if comes_home and asked.conversation is not None and asked.conversation.opens_turn else None

    def place(c: Candidate) -> tuple[bool, bool, bool, int, bool, bool]:
        # Neither a strategy nor a stay brings a provider before those that honour more of what is sealed; only that
        # those have just failed does, and coming home, where no turn is under way that needs its reasoning.
        return (
            c.provider.name in asked.failed_at,
            c is not home,
            c.provider.last_resort,
            c.tier,
            bool(hanging) and (c.provider.name in hanging or not c.provider.hedge.enabled),
            c is not keeper,
        )

    candidates = sorted(_by_strategy(engine, asked, plan, now, spoken_for=keeper is not None), key=place)
    name = None if keeper is None else keeper.provider.name
    return Order(replace(plan, candidates=tuple(candidates)), name, name if comes_home else None)


def _by_strategy(engine: Engine, asked: Asked, plan: Plan, now: float, *, spoken_for: bool) -> Sequence[Candidate]:
    route, call = asked.match.route, asked.call
    if route.strategy == "priority" or call.pin is not None or call.sealed:
        return plan.candidates
    ordered = engine.strategist.order(
        route.strategy,
        route.name,
        call,
        asked.body_bytes,
        [c for c in plan.candidates if not c.provider.last_resort],
        lambda candidate: engine.would_admit(candidate, asked.subject(candidate), now),
        engine.out,
        now,
        spoken_for=spoken_for,
    )
    return [*ordered, *(c for c in plan.candidates if c.provider.last_resort)]


def _hanging(engine: Engine, asked: Asked, plan: Plan, now: float, *, may_hedge: bool) -> frozenset[str]:
    """The providers that this call had better not wait for: they hang, and no other may be asked beside them."""
    call = asked.call
    if not engine.hanging or call.pin is not None or plan.pinned or call.is_websocket:
        return frozenset()
    insured = may_hedge and engine.budget.enough

    def avoids(candidate: Candidate) -> bool:
        model = None if candidate.model is None else short(candidate.model)
        return engine.hanging.avoids(candidate.provider.name, model, now, insured=insured)

    return frozenset(c.provider.name for c in plan.candidates if c.provider.hedge.enabled and avoids(c))


def _keeper(engine: Engine, asked: Asked, plan: Plan, now: float) -> tuple[Candidate | None, bool]:
    """The candidate that the conversation stays with, None if it is not to be asked now, and whether it comes home
    there."""
    stays = engine.conversations
    if not stays.any(now) or (conversation := asked.conversation) is None:
        return None, False
    stay = stays.stay(asked.scope, conversation, now)
    if stay is None:
        return None, False

    def able(name: str) -> Candidate | None:
        found = next((c for c in plan.candidates if c.provider.name == name and not c.provider.last_resort), None)
        return found if found is not None and engine.would_admit(found, asked.subject(found), now) else None

    away, home = able(stay.provider), None if stay.home == stay.provider else able(stay.home)
    if home is None:
        return away, False
    # With the same turn again it also stays.
    if away is not None and (conversation.length <= stay.length or _is_worth_it(engine, asked, stay, home, away, now)):
        return away, False
    return home, True


def _is_worth_it(engine: Engine, asked: Asked, stay: Stay, home: Candidate, away: Candidate, now: float) -> bool:
    """Whether the prompt cache that a conversation has elsewhere is worth staying for: going home would cost more.
    What goes by a plan costs nothing more."""
    if engine.plans.windows(asked.subject(home).account, now):
        return False
    at_home, there = (rates_at(c.provider, c.model) for c in (home, away))
    if at_home is None or there is None:
        return stay.cached >= CACHE_TOKENS
    spent = (stay.prompt - stay.cached) * there.input + stay.cached * there.cached
    return stay.prompt * at_home.input - spent >= CACHE_USD


def first_in_route(plan: Plan, match: Match) -> Candidate | None:
    """Of a plan's candidates, which what is sealed may have brought into another order, the route's first."""
    if not any(c.tier for c in plan.candidates):
        return plan.candidates[0] if plan.candidates else None
    places = {id(provider): place for place, provider in enumerate(match.route.providers)}
    return min(plan.candidates, key=lambda c: places.get(id(c.provider), 0))


def reluctance(
    candidate: Candidate, refused: Refused | None, cooling: Cooling | None, *, has_failed: bool
) -> tuple[bool, bool, int, float, bool]:
    """The key by which candidates are sorted for want of others, those first that are the likeliest to answer soon: one
    that is merely recovering, then by the end of their limits, then one whose last probe was slow, and at last those
    that failed this request before (`has_failed`). `refused`: why it is not asked now, `cooling`: its limit."""
    source = -1 if cooling is None else min(cooling.source, Source.GUESSED)
    seconds = 0.0 if cooling is None else cooling.seconds
    if cooling is None and candidate.provider.last_resort:
        source, seconds = Source.FORESEEN, math.inf  # after a limit that was merely foreseen
    return has_failed, refused is not None and refused.reason == "open", source, seconds, not candidate.own


def beside(plan: Plan, late: Candidate, spent: Container[str]) -> list[Candidate]:
    """Who may be asked beside a candidate that is late. `spent`: the providers that have failed this request."""
    others = [
        c
        for c in plan.candidates
        # What is left out of a copy is missing from the conversation for good: not for the sake of some seconds.
        if c.provider is not late.provider and c.provider.name not in spent and c.tier == late.tier
        if c.provider.hedge.enabled
    ]
    # Where an address hangs, it hangs for all who are there.
    return sorted(others, key=lambda c: c.provider.base_url.place == late.provider.base_url.place)
