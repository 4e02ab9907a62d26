"""Blame is as narrow as the evidence: whose limit, whose failure, and for which other calls it is no reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sidestep import status
from sidestep.breaker import judging
from sidestep.breaker.circuit import State
from sidestep.breaker.outcomes import Kind, Outcome, Then
from sidestep.routing import engine as engine_room
from sidestep.routing.engine import Attempt
from sidestep.routing.exchange import Exchange, Exhausted
from support.world import CHAT, World

LIMITED = Outcome(Kind.COOLDOWN, "rate_limit", Then.NEXT, 429, 60)
SPENT = Outcome(Kind.COOLDOWN, "quota", Then.NEXT, 429, 600)
DOWN = Outcome(Kind.FAILURE, "http_5xx", Then.NEXT, 503)
EMBEDDINGS = "/v1/embeddings"
OWN_THEN_B = """
circuit = { failure_threshold = 2 }

[[providers]]
name = "own"
dialect = "openai"
base_url = "http://app.test/v1"

[[providers]]
name = "b"
dialect = "openai"
base_url = "http://b.test/v1"
api_key = "k"

[[routes]]
intercept = ["http://app.test/v1"]
providers = ["own", "b"]
"""
ALONE = """
circuit = { failure_threshold = 2 }

[[providers]]
name = "own"
dialect = "openai"
base_url = "http://app.test/v1"

[[routes]]
intercept = ["http://app.test/v1"]
providers = ["own"]
"""


def asked(world: World, exchange: Exchange) -> str:
    answer = exchange.next(world.now)
    assert isinstance(answer, Attempt), answer
    return answer.candidate.provider.name


def meets(world: World, outcome: Outcome, model: str = "m", path: str = CHAT, credential: str = "x") -> Exchange:
    """A call to which the first provider asked answers so."""
    exchange = world.exchange({"model": model}, path, credential)
    asked(world, exchange)
    world.fail(exchange, outcome)
    return exchange


@pytest.mark.parametrize("outcome", [LIMITED, replace(LIMITED, cooldown_seconds=None), SPENT])
@pytest.mark.parametrize(
    ("model", "path", "credential"),
    [("m", CHAT, "x"), ("n", CHAT, "x"), ("m", EMBEDDINGS, "x"), ("m", CHAT, "y")],
    ids=["the same", "another model", "another operation", "another key"],
)
def test_one_provider_alone_that_limits_a_call_is_sent_the_next(
    outcome: Outcome, model: str, path: str, credential: str
) -> None:
    """Whatever is asked after a 429, it is sent at once, and the provider's own answer is the app's."""
    world = World(ALONE)
    assert isinstance(meets(world, outcome).next(world.now), Exhausted)
    exchange = world.exchange({"model": model}, path, credential)
    assert asked(world, exchange) == "own"
    world.settle(exchange)
    assert exchange.trail == "own:200"


@pytest.mark.parametrize(
    ("outcome", "other", "goes_to"),
    [
        (LIMITED, {}, "b"),
        (LIMITED, {"model": "n"}, "own"),
        (LIMITED, {"path": EMBEDDINGS}, "own"),
        (LIMITED, {"credential": "y"}, "own"),
        (replace(LIMITED, size_limited=True), {}, "own"),
        (SPENT, {"model": "n"}, "b"),
        (SPENT, {"path": EMBEDDINGS}, "b"),
        (replace(LIMITED, account=True), {"model": "n"}, "b"),
        (SPENT, {"credential": "y"}, "own"),
        (replace(LIMITED, account=True), {"credential": "y"}, "own"),
    ],
)
def test_a_limit_moves_only_the_calls_that_it_is_about(outcome: Outcome, other: dict[str, Any], goes_to: str) -> None:
    """A limit of the account moves all of its calls, any other the same model and operation; another app's key none."""
    world = World(OWN_THEN_B)
    meets(world, outcome)
    call = {"model": "m", "path": CHAT, "credential": "x"} | other
    exchange = world.exchange({"model": call["model"]}, call["path"], call["credential"])
    assert asked(world, exchange) == goes_to


def test_the_spent_quota_of_one_app_moves_no_other() -> None:
    """Two apps with keys of their own, in turns."""
    world = World(OWN_THEN_B)
    meets(world, SPENT, credential="x")
    for credential, name in (("y", "own"), ("x", "b")) * 3:
        exchange = world.exchange(None, CHAT, credential)
        assert asked(world, exchange) == name
        world.settle(exchange)


def test_a_key_of_ours_is_one_for_all_apps() -> None:
    """Its limit is no different for another app: the app's own key is not what was sent."""
    world = World(OWN_THEN_B)
    world.engine.hold("own", State.FORCED_OPEN)
    meets(world, SPENT, credential="x")
    world.engine.hold("own", None)
    world.call(failing="own")
    exchange = world.exchange(None, CHAT, "y")
    assert [c.provider.name for c in exchange.plan.candidates] == ["own", "b"]
    assert not world.engine.would_admit(
        exchange.plan.candidates[1], exchange.subject(exchange.plan.candidates[1]), 1000
    )


def test_a_limit_foreseen_is_as_narrow() -> None:
    """A good answer that says that its limit is used up speaks of its own model, operation and key."""
    world = World(OWN_THEN_B)
    exchange = world.exchange(None, CHAT, "x")
    asked(world, exchange)
    world.settle(exchange, headers={"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "60s"})
    assert asked(world, world.exchange(None, CHAT, "x")) == "b"
    for body, path, credential in (({"model": "n"}, CHAT, "x"), (None, EMBEDDINGS, "x"), (None, CHAT, "y")):
        assert asked(world, world.exchange(body, path, credential)) == "own"


# --- circuits


def test_a_model_that_is_down_keeps_no_other_from_its_provider() -> None:
    """Its circuit is its own; that the provider cannot be reached is for all its models."""
    world = World(OWN_THEN_B)
    for _ in range(2):
        meets(world, DOWN)
    assert asked(world, world.exchange({"model": "m"})) == "b"
    assert asked(world, world.exchange({"model": "n"})) == "own"
    for _ in range(2):
        meets(world, judging.CONNECT, "n")
    assert asked(world, world.exchange({"model": "o"})) == "b"


def test_with_one_circuit_for_all_a_model_stands_for_its_provider() -> None:
    """`scope = "provider"`, where that is wished."""
    world = World(OWN_THEN_B.replace("failure_threshold = 2", 'failure_threshold = 2, scope = "provider"'))
    for _ in range(2):
        meets(world, DOWN)
    assert asked(world, world.exchange({"model": "n"})) == "b"
    (own, _) = world.engine.settings.providers
    assert "models" not in status.provider_status(world.engine, own, world.now)


def test_circuits_of_made_up_models_push_out_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider's own stays, and so does that of a model in use."""
    monkeypatch.setattr(engine_room, "MAX_CIRCUITS", 5)
    world = World(OWN_THEN_B)
    for _ in range(2):
        meets(world, DOWN)
    for i in range(100):
        exchange = world.exchange({"model": f"made up {i}" * 1000})
        assert asked(world, exchange) == "own"
        world.settle(exchange)
        assert asked(world, world.exchange()) == "b"
    (own, _) = world.engine.settings.providers
    circuits = world.engine.circuits_of_models(own)
    assert len(circuits) < 5
    assert "m" in circuits
    assert all(len(model) <= 256 for model in circuits)


# --- what is seen


def test_the_state_of_a_provider_is_the_worst_of_its_circuits() -> None:
    """Its models are listed; only a provider that would take no call at all is down."""
    world = World(ALONE)
    (own,) = world.engine.settings.providers
    for _ in range(2):
        meets(world, DOWN)
    world.settle(next_of(world, "n"))
    seen = status.provider_status(world.engine, own, world.now)
    assert (seen["state"], seen["models"]) == ("open", {"m": "open", "n": "closed"})
    assert (seen["successes"], seen["failures"], seen["failure_count"], seen["retry_after"]) == (1, 2, 2, 15)
    assert status.health(world.engine, world.now)[0] == 200
    for _ in range(2):
        meets(world, DOWN, "n")
    assert status.health(world.engine, world.now)[0] == 503
    world.now += 15
    for model in "mn":
        exchange = next_of(world, model)
        world.settle(exchange)
    for _ in range(2):
        meets(world, judging.CONNECT, "n")
    seen = status.provider_status(world.engine, own, world.now)
    assert (seen["state"], seen["models"]) == ("open", {"m": "closed", "n": "closed"})
    assert (seen["successes"], seen["failures"]) == (2, 2)
    assert status.health(world.engine, world.now)[0] == 503


def test_a_provider_is_held_by_hand_with_all_its_circuits() -> None:
    """Those that exist and those to come."""
    world = World(ALONE)
    (own,) = world.engine.settings.providers
    meets(world, DOWN)
    world.engine.hold("own", State.FORCED_OPEN)
    for model in "mn":
        assert isinstance(world.exchange({"model": model}).next(world.now), Exhausted)
    assert status.provider_status(world.engine, own, world.now)["state"] == "forced_open"
    world.engine.hold("own", State.DISABLED)
    for model in "mn":
        for _ in range(3):
            meets(world, DOWN, model)
    world.engine.hold("own", None)
    seen = status.provider_status(world.engine, own, world.now)
    assert (seen["state"], seen["failures"]) == ("closed", 0)


def test_limits_are_told_with_the_longest_first() -> None:
    """How long, why, and how many there are."""
    world = World(ALONE)
    (own,) = world.engine.settings.providers
    meets(world, LIMITED, credential="x")
    meets(world, SPENT, credential="y")
    cooldown = status.provider_status(world.engine, own, world.now)["cooldown"]
    assert cooldown == {"seconds": 600, "reason": "quota", "limits": 2}


def next_of(world: World, model: str) -> Exchange:
    exchange = world.exchange({"model": model})
    asked(world, exchange)
    return exchange
