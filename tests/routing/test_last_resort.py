"""A server of this machine that was found: for calls that nobody else takes, and for no other."""

from __future__ import annotations

import pytest

from sidestep.breaker import judging
from sidestep.breaker.circuit import State
from sidestep.breaker.outcomes import Kind, Outcome, Then
from sidestep.breaker.windows import Standing, Window
from sidestep.config import local
from sidestep.routing.engine import Attempt
from support.world import World, answer, toml, user

FIRST, SECOND = [user("hi")], [user("hi"), answer("ho"), user("and?")]
FORESEEN = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "60s"}


def world(names: str = "a", strategy: str = "priority", top: str = "") -> World:
    """These providers, and one that was found."""
    more = dict.fromkeys(names, 'models = { "gpt-4o" = "m" }')
    w = World(toml(strategy, f"local = true\n{top}", **more))
    w.engine.reconfigure(local.with_found(w.engine.settings, {"ollama": ["small"]}))
    return w


def call(w: World, messages: list[dict[str, str]] = FIRST, **more: str) -> str:
    return w.call({"model": "gpt-4o", "messages": messages}, **more)  # type: ignore[arg-type]


def test_it_is_asked_where_all_others_fail_or_refuse() -> None:
    """A failure, a refusal that was spoken, an open circuit."""
    w = world("ab")
    assert call(w) == "a"
    assert call(w, failing="ab") == "abollama"
    w = world()
    w.engine.hold("a", State.FORCED_OPEN)
    assert call(w) == "ollama"
    w = world()
    exchange = w.exchange({"model": "gpt-4o", "messages": FIRST})
    assert isinstance(exchange.next(w.now), Attempt)
    w.fail(exchange, Outcome(Kind.COOLDOWN, "rate_limit", Then.NEXT, 429, 60))
    assert call(w) == "ollama"


@pytest.mark.parametrize("near", ["a plan's window", "a limit", "an outage"])
def test_what_is_merely_near_sends_no_call_there(near: str) -> None:
    """A plan that is nearly used up, a limit that a good answer has foreseen, the ramp after an outage: the provider
    would answer, and its answer is the better one. With another that is no last resort the call goes there."""
    for names, taken in (("a", "a"), ("ab", "b")):
        w = world(names, top="[circuit]\nfailure_threshold = 1\n[routing]\nstick_seconds = 0\n")
        if near == "a plan's window":
            plan = (Window("5h", "", Standing.ALLOWED, 0.985, 900.0),)
            w.engine.plans.told(w.subject("a"), plan, w.now)
        elif near == "a limit":
            assert call(w, headers=FORESEEN) == "a"  # type: ignore[arg-type]
        else:
            assert call(w, failing="a") == ("aollama" if names == "a" else "ab")
            w.now += 20
            assert call(w) == "a"
            for _ in range(2):  # as many as the ramp lets through at a time
                assert isinstance(w.exchange({"model": "gpt-4o", "messages": FIRST}).next(w.now), Attempt)
        assert call(w) == taken
        assert call(w, failing=names).endswith("ollama")


def test_no_conversation_stays_there() -> None:
    """It goes home at its next turn once home is well."""
    w = world(top="[circuit]\nfailure_threshold = 9\n")
    assert call(w, SECOND, failing="a") == "aollama"
    assert call(w, SECOND) == "a"
    w = world("ab", top="[circuit]\nfailure_threshold = 9\n")
    assert call(w, SECOND, failing="a") == "ab"
    assert call(w, SECOND) == "b"


@pytest.mark.parametrize("strategy", ["weighted", "cheapest", "fastest"])
def test_no_strategy_brings_it_forward(strategy: str) -> None:
    """Whatever it costs, and however fast it is."""
    w = world("ab", strategy)
    assert {call(w)[0] for _ in range(20)} <= {"a", "b"}
    assert call(w, failing="ab").endswith("ollama")


def test_it_is_asked_beside_nobody() -> None:
    w = world()
    exchange = w.exchange({"model": "gpt-4o", "stream": True, "messages": FIRST})
    late = exchange.next(w.now)
    assert isinstance(late, Attempt)
    assert exchange.beside(late, w.now + 100) is None
    w.settle(exchange, judging.SUCCESS)
