"""In which order a call's candidates are asked: each reason in front of the next one, as one key has it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from sidestep.breaker.cooldown import Cooling, Source
from sidestep.config.settings import Provider
from sidestep.routing import ordering
from sidestep.routing.engine import Refused
from sidestep.routing.ordering import Asked
from sidestep.routing.table import Candidate, Plan
from support.world import World, answer, toml, user

TURN = {"messages": [user("hi"), answer("ho"), user("and?")]}


def changed(candidate: Candidate, **more: object) -> Candidate:
    return replace(candidate, provider=msgspec.structs.replace(candidate.provider, **more))


def without_hedge(candidate: Candidate) -> Candidate:
    return changed(candidate, hedge=msgspec.structs.replace(candidate.provider.hedge, enabled=False))


class Case:
    """One call that three providers may answer. State: what is asked, its plan."""

    def __init__(self, strategy: str = "priority", *, body: Mapping[str, Any] | None = None) -> None:
        self.world = World(toml(strategy, a="", b="", c=""))
        exchange = self.world.exchange(body)
        self.plan, self.asked = exchange.plan, Asked(exchange.match, exchange.call)

    def change(self, name: str, candidate: Candidate) -> None:
        self.plan = replace(
            self.plan, candidates=tuple(candidate if c.provider.name == name else c for c in self.plan.candidates)
        )

    def __getitem__(self, name: str) -> Candidate:
        return next(c for c in self.plan.candidates if c.provider.name == name)

    def stays(self, name: str, *, home: str) -> None:
        assert self.asked.conversation is not None
        stays = self.world.engine.conversations
        stays.answered(self.asked.scope, self.asked.conversation, name, 300, self.world.now, home=home)

    def order(self, *, may_hedge: bool = True) -> ordering.Order:
        return ordering.arranged(self.world.engine, self.asked, self.plan, self.world.now, may_hedge=may_hedge)

    def names(self, *, may_hedge: bool = True) -> str:
        return "".join(c.provider.name for c in self.order(may_hedge=may_hedge).plan.candidates)


def hang(case: Case, name: str) -> None:
    """So often has another one answered in its place that it is known to hang."""
    while not case.world.engine.hanging.avoids(name, "m", case.world.now, insured=False):
        case.world.engine.hanging.outdone(name, "m", case.world.now)


def fail(case: Case, name: str) -> None:
    case.asked = replace(case.asked, failed_at=frozenset({name}))


def last(case: Case, name: str) -> None:
    case.change(name, changed(case[name], last_resort=True))


def tier(case: Case, name: str) -> None:
    case.change(name, replace(case[name], tier=1))


REASONS = (fail, last, tier, hang)
"""For which a provider comes after others, the weightiest first."""


def test_with_nothing_against_any_the_route_has_its_order() -> None:
    """The plan's own order, and no stay."""
    case = Case()
    assert case.order() == ordering.Order(case.plan)


@pytest.mark.parametrize("reason", REASONS)
def test_each_reason_alone_puts_one_behind_the_others(reason: object) -> None:
    case = Case()
    assert callable(reason)
    reason(case, "a")
    assert case.names(may_hedge=False) == "bca"


@pytest.mark.parametrize(("weightier", "lighter"), tuple(itertools.combinations(REASONS, 2)))
def test_the_weightier_reason_puts_its_own_last(weightier: object, lighter: object) -> None:
    case = Case()
    assert callable(weightier)
    assert callable(lighter)
    weightier(case, "a")
    lighter(case, "b")
    assert case.names(may_hedge=False) == "cba"


@pytest.mark.parametrize("reason", REASONS)
def test_a_stay_outweighs_the_order_alone(reason: object) -> None:
    """A conversation stays with the provider that holds its cache, but for each of the reasons against that."""
    case = Case(body=TURN)
    case.stays("b", home="b")
    assert (case.names(), case.order().stays_with, case.order().going_home) == ("bac", "b", None)
    assert callable(reason)
    reason(case, "b")
    assert case.names(may_hedge=False) == "acb"


def test_where_one_hangs_those_beside_whom_no_other_is_asked_come_last_as_well() -> None:
    """A call that had gone there would have had nobody to save it."""
    case = Case()
    case.change("b", without_hedge(case["b"]))
    assert case.names(may_hedge=False) == "abc"
    hang(case, "a")
    assert case.names(may_hedge=False) == "cab"


def test_coming_home_outweighs_what_is_sealed_where_a_turn_is_opened() -> None:
    """Its reasoning is needed no longer."""
    case = Case(body=TURN)
    case.stays("b", home="a")
    longer = {"messages": [*TURN["messages"], answer("so"), user("then?")]}
    case.asked = Asked(case.asked.match, case.world.exchange(longer).call)
    tier(case, "a")
    found = case.order()
    assert (case.names(), found.stays_with, found.going_home) == ("abc", "a", "a")
    fail(case, "a")
    assert case.names() == "bca"


def test_amid_a_turn_what_is_sealed_outweighs_coming_home() -> None:
    case = Case(body=TURN)
    case.stays("b", home="a")
    amid = {"messages": [*TURN["messages"], answer("so"), {"role": "tool", "content": "found"}]}
    case.asked = Asked(case.asked.match, case.world.exchange(amid).call)
    assert (case.names(), case.order().going_home) == ("abc", "a")
    tier(case, "a")
    assert (case.names(), case.order().going_home) == ("bca", "a")


@pytest.mark.parametrize("refused", ["b", "ab", "a"])
def test_a_stay_is_for_one_that_would_take_the_call(refused: str) -> None:
    """Else the conversation comes home, if that would; else nobody keeps it. The same turn again stays away."""
    case = Case(body=TURN)
    case.stays("b", home="a")
    for name in refused:
        case.world.limit(name, 60)
    found = case.order()
    assert (found.stays_with, found.going_home) == {"b": ("a", "a"), "ab": (None, None), "a": ("b", None)}[refused]


def test_a_strategy_orders_no_last_resort() -> None:
    """Whatever its weight, it comes after the others and takes no turn from them."""
    case = Case("weighted")
    last(case, "a")
    assert {case.names() for _ in range(6)} == {"bca", "cba"}


def test_of_one_candidate_nothing_is_asked() -> None:
    case = Case(body=TURN)
    case.stays("b", home="a")
    plan = Plan(case.plan.candidates[1:2])
    case.plan = plan
    assert case.order() == ordering.Order(plan)


def test_for_want_of_others_the_likeliest_to_answer_soon_comes_first() -> None:
    """Recovering, limits by their end and by who says so, a last resort, a slow probe, a failure of this request."""
    a = Case()["a"]
    resort = changed(a, last_resort=True)
    slow = Refused("a", "open", 3.0)
    in_order = [
        ordering.reluctance(replace(a, own=True), None, None, has_failed=False),
        ordering.reluctance(a, Refused("a", "recovering", None), None, has_failed=False),
        ordering.reluctance(a, None, Cooling(9, "rate_limit", Source.FORESEEN), has_failed=False),
        ordering.reluctance(resort, None, None, has_failed=False),
        ordering.reluctance(a, None, Cooling(5, "rate_limit", Source.ANNOUNCED), has_failed=False),
        ordering.reluctance(a, None, Cooling(6, "rate_limit", Source.ANNOUNCED), has_failed=False),
        ordering.reluctance(a, slow, None, has_failed=False),
        ordering.reluctance(a, None, None, has_failed=True),
    ]
    assert sorted(in_order) == in_order
    assert in_order[3][3] == math.inf


def test_beside_a_late_one_another_address_comes_first() -> None:
    """None that has failed, none whose copy would lack more, none beside whom no other is asked; where an address
    hangs, it hangs for all who are there."""
    case = Case()
    at: Provider = case["a"].provider
    case.change("b", changed(case["b"], base_url=at.base_url))

    def names(*spent: str) -> str:
        return "".join(c.provider.name for c in ordering.beside(case.plan, case["a"], spent))

    assert (names(), names("c")) == ("cb", "b")
    case.change("b", without_hedge(case["b"]))
    assert names() == "c"
    tier(case, "c")
    assert names() == ""
