"""Who serves a route's calls, and why not who should: whole verdicts."""

from __future__ import annotations

from typing import Any

import pytest

from sidestep.breaker import judging
from sidestep.breaker.circuit import State
from sidestep.breaker.outcomes import Kind, Outcome, Then
from sidestep.routing.engine import Attempt
from sidestep.routing.serving import Health, Serving, overall, serving
from support.flows import ask
from support.world import World, answer, toml, user

DOWN = Outcome(Kind.FAILURE, "http_5xx", Then.NEXT, 503)
SPENT = Outcome(Kind.COOLDOWN, "quota", Then.NEXT, 402, 600, account=True)
LACKS = Outcome(Kind.NEUTRAL, "unknown_model", Then.NEXT, 404)
LIMITED = Outcome(Kind.COOLDOWN, "rate_limit", Then.NEXT, 429, 12)
OK, DEGRADED, UNHEALTHY = Health.OK, Health.DEGRADED, Health.UNHEALTHY
WELL = Serving(OK, "a", None)


def world(names: str = "ab", strategy: str = "priority", scope: str = "model") -> World:
    circuit = f'[circuit]\nfailure_threshold = 1\nopen_seconds = 15\nscope = "{scope}"'
    return World(toml(strategy, circuit, **dict.fromkeys(names, "")))


def seen(w: World) -> Serving:
    return serving(w.engine, w.engine.settings.routes[0], w.now)


def meets(w: World, name: str, outcome: Outcome, model: str = "m") -> None:
    """A call for this model has come to this at a provider."""
    exchange = w.exchange({"model": model})
    candidate = next(c for c in exchange.plan.candidates if c.provider.name == name)
    attempt = w.engine.admit(candidate, exchange.subject(candidate), w.now, 60)
    assert isinstance(attempt, Attempt)
    exchange.attempts.append(attempt)
    w.fail(exchange, outcome)


def test_at_first_all_are_served_by_the_first() -> None:
    assert seen(world()) == WELL


def test_an_open_circuit_of_the_first_moves_its_calls() -> None:
    """Since when, why, and when it is tried again; then the next call is its probe, and all is well."""
    w = world()
    meets(w, "a", judging.CONNECT)
    w.now += 11.5
    assert seen(w) == Serving(DEGRADED, "b", "a's circuit opened 11 s ago: could not be reached; tried again in 4 s")
    w.now += 3.5
    assert seen(w) == WELL


def test_half_open_and_idle_is_well_however_long() -> None:
    """A model that nobody asks for any more keeps no route degraded."""
    w = world()
    meets(w, "a", DOWN, "old")
    meets(w, "a", judging.SUCCESS, "m")
    assert seen(w) == Serving(DEGRADED, "a", "a's circuit for old opened just now: answered 503; tried again in 15 s")
    w.now += 100_000
    assert w.engine.circuits_of_models(w.engine.settings.providers[0])["old"].state(w.now) is State.HALF_OPEN
    assert seen(w) == WELL


def test_while_it_is_probed_its_calls_go_elsewhere() -> None:
    """Alone it is waited for."""
    for names, found in (("ab", Serving(DEGRADED, "b", "a is being probed for m")), ("a", None)):
        w = world(names)
        meets(w, "a", DOWN)
        w.now += 15
        ask(w, w.exchange())
        assert seen(w) == (found or Serving(OK, "a", "a is being probed for m"))


def test_while_it_recovers_it_has_its_calls() -> None:
    """Those that it is spared for a moment are no reason to speak of."""
    w = world()
    meets(w, "a", DOWN)
    w.now += 15
    meets(w, "a", judging.SUCCESS)
    out = [ask(w, w.exchange()) for _ in "123"]
    assert [attempt.candidate.provider.name for attempt in out] == ["a", "a", "b"]
    assert seen(w) == WELL


def test_after_a_slow_probe_it_is_spared_longer_where_others_are() -> None:
    """For want of others it is asked after the plain open time, and so it has its calls; the latest failure is told."""
    for names, status, by in (("ab", DEGRADED, "b"), ("a", OK, "a")):
        w = world(names)
        meets(w, "a", judging.CONNECT)
        w.now += 15
        meets(w, "a", judging.TIMEOUT)
        w.now += 20
        assert seen(w) == Serving(status, by, "a's circuit opened 35 s ago: said nothing in time; tried again in 10 s")


@pytest.mark.parametrize("state", [State.FORCED_OPEN, State.OPEN, State.HALF_OPEN])
def test_a_stand_in_that_is_not_needed_changes_nothing(state: State) -> None:
    w = world()
    if state is State.FORCED_OPEN:
        w.engine.hold("b", state)
    else:
        meets(w, "b", judging.CONNECT)
        w.now += 15 if state is State.HALF_OPEN else 0
    assert seen(w) == WELL


def test_held_by_hand() -> None:
    w = world()
    w.engine.hold("a", State.FORCED_OPEN)
    assert seen(w) == Serving(DEGRADED, "b", "a is held open by hand")
    w.engine.hold("a", State.DISABLED)
    meets(w, "a", SPENT)
    assert seen(w) == WELL, "it is asked whatever it says"


def test_where_none_would_take_a_call() -> None:
    """Each says why."""
    w = world()
    w.engine.hold("a", State.FORCED_OPEN)
    meets(w, "b", DOWN)
    meets(w, "b", DOWN, "n")
    because = (
        "a is held open by hand. b's circuit for m (and 1 more) opened just now: answered 503; tried again in 15 s"
    )
    assert seen(w) == Serving(UNHEALTHY, None, because)
    w.now += 15
    assert seen(w) == Serving(DEGRADED, "b", "a is held open by hand")


def test_a_limit_moves_calls_and_refuses_none() -> None:
    """With another provider they go there; alone, or with none that takes any, they go where they should."""
    w = world()
    meets(w, "a", SPENT)
    because = "a cools down: quota; 600 s to go"
    assert seen(w) == Serving(DEGRADED, "b", because)
    w.engine.hold("b", State.FORCED_OPEN)
    assert seen(w) == Serving(OK, "a", because)
    w.engine.hold("b", None)
    meets(w, "b", LIMITED)
    because += ". b cools down for chat/completions, m: rate_limit; 12 s to go"
    assert seen(w) == Serving(DEGRADED, "b", because), "the first whose limit ends"


def test_a_limit_of_one_model_leaves_the_others() -> None:
    """Until the models that are asked for are all limited."""
    w = world()
    meets(w, "a", judging.SUCCESS, "n")
    meets(w, "a", LIMITED)
    because = "a cools down for chat/completions, m: rate_limit; 12 s to go"
    assert seen(w) == Serving(DEGRADED, "a", because)
    meets(w, "a", LIMITED, "n")
    assert seen(w) == Serving(DEGRADED, "b", f"{because} (and 1 more limits)")


def test_a_provider_that_lacks_all_that_is_asked_of_it_has_no_calls() -> None:
    """For as long as it is not asked; one that lacks a model beside others has all the rest."""
    w = world()
    meets(w, "a", LACKS)
    w.now += 60
    because = "a lacks m; asked for it again in 540 s"
    assert (w.order(), seen(w)) == ("b", Serving(DEGRADED, "b", because))
    meets(w, "a", judging.SUCCESS, "n")
    assert seen(w) == Serving(OK, "a", because)
    w.now += 540
    assert (w.order(), seen(w)) == ("ab", WELL)


def test_where_all_lack_it_all_are_asked() -> None:
    """Unless the one that may have it refuses: then there is nobody to ask."""
    w = world()
    meets(w, "a", LACKS)
    w.engine.hold("b", State.FORCED_OPEN)
    because = "a lacks m; asked for it again in 600 s. b is held open by hand"
    assert seen(w) == Serving(UNHEALTHY, None, because)
    w.engine.hold("b", None)
    meets(w, "b", LACKS)
    assert w.order() == "ab"
    found = seen(w)
    assert (found.status, found.served_by) == (OK, "a")


def test_conversations_that_stay_elsewhere_are_counted() -> None:
    """New calls go where they should, and so all is well; these are no new calls, for as long as they stay."""
    w = world()
    turns: dict[str, Any] = {"messages": [user("hi"), answer("well?"), user("go on")]}
    assert w.call(turns, failing="a") == "ab"
    assert (seen(w).served_by, seen(w).stays) == ("b", {})
    w.now += 15
    assert w.order(turns) == "ba"
    assert seen(w) == Serving(OK, "a", None, {"b": 1})
    w.now += 285
    assert seen(w) == WELL


def test_an_apps_own_key_is_named_as_such() -> None:
    """And by no more than that: not even by its fingerprint."""
    text = toml(a="", b="").replace('base_url = "http://a.test/v1"\napi_key = "k"', 'base_url = "http://app.test/v1"')
    w = World(text)
    exchange = w.exchange(credential="print")
    ask(w, exchange)
    w.fail(exchange, SPENT)
    assert seen(w) == Serving(DEGRADED, "b", "a cools down for an app's own key: quota; 600 s to go")


@pytest.mark.parametrize("strategy", ["weighted", "cheapest", "fastest"])
def test_where_calls_are_shared_any_provider_is_a_right_one(strategy: str) -> None:
    """Degraded only where something speaks against each."""
    w = world(strategy=strategy)
    assert seen(w) == Serving(OK, "a, b", None)
    meets(w, "a", judging.CONNECT)
    because = "a's circuit opened just now: could not be reached; tried again in 15 s"
    assert seen(w) == Serving(OK, "b", because)
    meets(w, "b", DOWN)
    meets(w, "b", judging.SUCCESS, "n")
    because += ". b's circuit for m opened just now: answered 503; tried again in 15 s"
    assert seen(w) == Serving(DEGRADED, "b", because)


def test_one_circuit_for_all_of_a_provider() -> None:
    w = world(scope="provider")
    meets(w, "a", DOWN)
    assert seen(w) == Serving(DEGRADED, "b", "a's circuit opened just now: answered 503; tried again in 15 s")


def test_modes_that_change_nothing() -> None:
    """Calls go to whom apps address, whatever is known of the providers; where it is looked on, that is told."""
    w = World(toml(a="", b="").replace("http://a.test/v1", "http://app.test/v1"))
    for name in "ab":
        w.engine.hold(name, State.FORCED_OPEN)
    w.engine.mode = "observe"
    because = "mode observe: calls go where apps send them, else to "
    assert seen(w) == Serving(OK, "a", because + "nobody: a is held open by hand. b is held open by hand")
    w.engine.hold("a", None)
    assert seen(w) == Serving(OK, "a", because + "a")
    w.engine.mode = "off"
    assert seen(w) == Serving(OK, "a", "mode off: calls go where apps send them")
    elsewhere = world()
    elsewhere.engine.mode = "off"
    assert seen(elsewhere).served_by == "app.test"


@pytest.mark.parametrize(
    ("statuses", "word"),
    [
        ([], OK),
        ([OK, OK], OK),
        ([OK, DEGRADED], DEGRADED),
        ([OK, UNHEALTHY], DEGRADED),
        ([DEGRADED, UNHEALTHY], DEGRADED),
        ([UNHEALTHY, UNHEALTHY], UNHEALTHY),
    ],
)
def test_one_word_for_all_routes(statuses: list[Health], word: Health) -> None:
    """Unhealthy only where no route has a provider that would take a call."""
    assert overall(Serving(s, None, None) for s in statuses) is word
