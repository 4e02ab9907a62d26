"""The whole picture as data: what the page and `sidestep status` make their words of."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidestep.breaker import judging
from sidestep.breaker.circuit import State
from sidestep.breaker.outcomes import Kind, Outcome, Result, Then
from sidestep.overview import EVENTS, Overview, lines_of, verdict
from sidestep.routing.recent import CALLS, FINE, Recent, quantile
from support.flows import ask
from support.world import World, toml

DOWN = Outcome(Kind.FAILURE, "http_5xx", Then.NEXT, 503)
LIMITED = Outcome(Kind.COOLDOWN, "rate_limit", Then.NEXT, 429, 7.5)


def world() -> World:
    circuit = '[circuit]\nfailure_threshold = 1\nopen_seconds = 20\nscope = "provider"'
    return World(toml("priority", circuit, a="", b=""))


def view(w: World) -> Overview:
    return Overview(lambda: w.now, lambda: w.now + 5000)


def provider(picture: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(p for p in picture["providers"] if p["name"] == name)
    return found


def story(result: str = "answered", model: str = "m") -> dict[str, Any]:
    attempt = {
        "provider": "a",
        "model": model,
        "outcome": "failure",
        "reason": "http_5xx",
        "status": 503,
        "cause": "",
        "started_ms": 10.0,
        "headers_ms": 2.0,
        "content_ms": None,
        "end_ms": 5.0,
        "tokens": None,
        "cost": None,
        "notes": [],
    }
    return {
        "request_id": "sx-1",
        "result": result,
        "route": "openai",
        "dialect": "openai",
        "operation": "chat",
        "model": model,
        "provider": "b",
        "attempts": [attempt],
        "refused": [],
    }


def test_an_outage_is_told_in_words_with_its_time() -> None:
    """Who serves since when, why, when it is tried again; and again who serves once it is over."""
    w = world()
    look = view(w)
    assert list(lines_of(look.picture(w.engine))) == [("ok", "openai calls are served by a")]
    w.now += 60
    exchange = w.exchange()
    ask(w, exchange)
    w.fail(exchange, DOWN)
    look.look(w.engine)
    w.now += 3
    picture = look.picture(w.engine)
    route = picture["routes"][0]
    assert (route["served_by"], route["since"], picture["now"]) == ("b", 6060.0, 6063.0)
    [(status, line)] = lines_of(picture)
    assert status == "degraded"
    assert line.startswith("openai calls are served by b: a's circuit opened 3 s ago: answered 503; tried again in ")
    a = provider(picture, "a")
    assert a["words"] == "not asked: answered 503; tried again in 17 s"
    assert a["last_error"] == {"at": 6060.0, "words": "answered 503"}
    assert (a["attempts"], a["failed"], a["error_share"]) == (1, 1, 1.0)


def test_what_a_person_holds_and_what_cools_down_is_told() -> None:
    w = world()
    w.engine.hold("a", State.FORCED_OPEN)
    assert provider(view(w).picture(w.engine), "a")["words"] == "held open by hand: it gets no calls"
    w.engine.hold("a", State.DISABLED)
    assert provider(view(w).picture(w.engine), "a")["words"] == "held by hand: it gets calls, whatever fails"
    w.engine.hold("a", None)
    exchange = w.exchange()
    ask(w, exchange)
    w.fail(exchange, LIMITED)
    assert provider(view(w).picture(w.engine), "a")["words"] == "passed over for 8 s: a rate limit"
    assert provider(view(w).picture(w.engine), "b")["words"] == "not asked yet"


def test_a_picture_serves_all_who_look_within_half_a_second() -> None:
    """However many look, and however often."""
    w = world()
    look = view(w)
    first = look.picture(w.engine)
    w.now += 0.4
    assert look.picture(w.engine) is first
    w.now += 0.1
    assert look.picture(w.engine) is not first


def test_calls_have_their_attempts_in_words_and_the_latest_comes_first() -> None:
    w = world()
    for number in range(CALLS + 10):
        w.engine.recent.ended(story(model=f"m{number}"), 0.1, w.now, result="rerouted")
    calls = view(w).picture(w.engine)["calls"]
    assert [calls[0]["number"], calls[-1]["number"], len(calls)] == [60, 11, CALLS]
    assert (calls[0]["model"], calls[0]["ms"], calls[0]["attempts"][0]["words"]) == ("m59", 15.0, "answered 503")


def test_what_an_app_makes_up_does_not_fill_the_memory() -> None:
    recent = Recent()
    recent.ended(story(model="x" * 1_000_000), None, 0.0, result="failed")
    assert len(recent.calls[0][2]["model"]) == 200


def test_the_last_hour_has_sixty_minutes_whatever_happened_in_them() -> None:
    w = world()
    w.now = 36000.0
    w.engine.recent.ended(story(), 0.1, w.now - 7200, result="answered")
    for _ in range(3):
        w.engine.recent.ended(story("failed"), None, w.now - 120, result="failed")
    w.engine.recent.ended(story("rerouted"), 2.0, w.now, result="rerouted")
    hour = view(w).picture(w.engine)["hour"]
    assert {len(hour[name]) for name in ("calls", "failed", "rerouted", "p50_ms")} == {60}
    assert (hour["calls"][-3:], sum(hour["calls"])) == ([3, 0, 1], 4)
    assert (sum(hour["failed"]), sum(hour["rerouted"])) == (3, 1)
    assert 1600 < hour["p50"] <= hour["p95"] < 2500
    assert hour["p50_ms"][-2] is None


def test_quantiles_lie_within_a_quarter_of_what_they_estimate() -> None:
    """And there is none where there is nothing."""
    for seconds in (0.02, 0.3, 4.0, 70.0):
        recent = Recent()
        for _ in range(100):
            recent.began("a", seconds)
        found = quantile(0.95, recent.waits["a"], FINE)
        assert found is not None
        assert seconds / 1.25 <= found <= seconds * 1.25
    assert quantile(0.5, [], FINE) is None
    assert quantile(0.5, [0, 0], FINE) is None
    assert quantile(0.5, [0] * len(FINE) + [1], FINE) == FINE[-1]


def test_the_picture_is_plain_data_even_of_a_busy_engine() -> None:
    w = world()
    exchange = w.exchange()
    ask(w, exchange)
    w.fail(exchange, judging.TIMEOUT)
    ask(w, exchange)
    look = view(w)
    look.told("something", "warning")
    told = json.loads(json.dumps(look.picture(w.engine)))
    assert told["events"] == [{"number": 1, "at": 6000.0, "level": "warning", "text": "something"}]
    assert told["in_flight"] == 1


@pytest.mark.parametrize(
    ("reason", "status", "words"),
    [
        (None, None, "not over"),
        (None, 200, "not over"),
        ("ok", 200, "ok"),
        ("http_5xx", 503, "answered 503"),
        ("invalid", 400, "answered 400"),
        ("odd", 399, "odd"),
        ("rate_limit", 429, "answered 429 (a rate limit)"),
        ("rate_limit", 200, "a rate limit"),
        ("bad_response", 200, "gave no answer in its 200"),
        ("timeout", None, "said nothing in time"),
    ],
)
def test_how_an_attempt_ended_in_words(reason: str | None, status: int | None, words: str) -> None:
    w = world()
    told = story()
    told["attempts"][0] |= {"reason": reason, "status": status, "end_ms": None}
    w.engine.recent.ended(told, 0.1, w.now, result="answered")
    [call] = view(w).picture(w.engine)["calls"]
    assert (call["attempts"][0]["words"], call["ms"]) == (words, 10.0)


def test_a_call_that_was_refused_everywhere_has_no_attempt() -> None:
    w = world()
    refused = [{"provider": "a", "reason": "forced_open"}, {"provider": "b", "reason": "cooldown"}]
    w.engine.recent.ended({**story("failed"), "attempts": [], "refused": refused}, None, w.now, result="failed")
    [call] = view(w).picture(w.engine)["calls"]
    assert (call["ms"], [r["reason"] for r in call["refused"]]) == (0, ["held open by hand", "cooldown"])


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 s"),
        (119.0, "119 s"),
        (119.5, "2 min"),
        (170.0, "3 min"),
        (7199.0, "120 min"),
        (7199.5, "2 h"),
        (12000.0, "3 h"),
    ],
)
def test_a_time_in_words(seconds: float, words: str) -> None:
    w = world()
    exchange = w.exchange()
    ask(w, exchange)
    w.fail(exchange, Outcome(Kind.COOLDOWN, "quota", Then.NEXT, 429, seconds))
    told = provider(view(w).picture(w.engine), "a")["words"]
    assert told == f"passed over for {words}: the account is spent or barred"


def test_the_figures_of_a_provider() -> None:
    """Failures and limits are errors; how long it took is told for the middle and for the late."""
    w = World(toml(a="", b=""))
    for outcome in (DOWN, LIMITED):
        exchange = w.exchange()
        ask(w, exchange)
        w.fail(exchange, outcome)
        w.now += 60
    exchange = w.exchange()
    ask(w, exchange)
    w.settle(exchange)
    w.engine.ended(exchange.attempts[-1], w.now)
    for seconds in (*[0.1] * 18, 10, 10):
        w.engine.recent.began("a", seconds)
    a = provider(view(w).picture(w.engine), "a")
    assert (a["attempts"], a["failed"], a["error_share"], a["words"]) == (3, 2, 0.6667, "well")
    assert 80 <= a["p50_ms"] <= 125
    assert 8000 <= a["p95_ms"] <= 12500
    assert provider(view(w).picture(w.engine), "b")["error_share"] is None


def test_the_totals() -> None:
    w = world()
    for result, count in ((Result.ANSWERED, 5), (Result.REROUTED, 2), (Result.FAILED, 1)):
        w.engine.requests_total["openai", result] += count
    w.engine.tokens_total["a", "input"] += 30
    w.engine.tokens_total["b", "input"] += 3
    w.engine.tokens_total["a", "output"] += 4
    w.engine.cost_total.update({"a": 0.12345678})
    totals = view(w).picture(w.engine)["totals"]
    assert totals == {
        "calls": 8,
        "answered": 5,
        "rerouted": 2,
        "failed": 1,
        "left": 0,
        "tokens": {"input": 33, "output": 4, "cached": 0},
        "cost": 0.123457,
        "saved": 0,
    }


def test_a_model_that_a_provider_lacks_is_told() -> None:
    w = world()
    for model, words in (("x", "has no x"), ("y", "has no x and 1 more")):
        exchange = w.exchange({"model": model})
        ask(w, exchange)
        w.fail(exchange, Outcome(Kind.NEUTRAL, "unknown_model", Then.NEXT, 404))
        assert provider(view(w).picture(w.engine), "a")["words"] == words


def test_what_was_told_is_seen_at_once() -> None:
    w = world()
    look = view(w)
    assert look.picture(w.engine)["events"] == []
    look.told("something")
    assert [e["text"] for e in look.picture(w.engine)["events"]] == ["something"]


def test_so_many_events_are_kept_and_the_latest_comes_first() -> None:
    w = world()
    look = view(w)
    for number in range(EVENTS + 1):
        look.told(f"{number}")
    events = look.picture(w.engine)["events"]
    assert [events[0]["number"], events[-1]["number"], len(events)] == [EVENTS + 1, 2, EVENTS]


def test_a_change_is_seen_at_once() -> None:
    w = world()
    look = view(w)
    first = look.picture(w.engine)
    look.changed()
    assert look.picture(w.engine) is not first


def test_a_circuit_that_tries_again_is_told() -> None:
    w = world()
    exchange = w.exchange()
    ask(w, exchange)
    w.fail(exchange, DOWN)
    w.now += 21
    told = provider(view(w).picture(w.engine), "a")
    assert (told["state"], told["words"]) == ("half_open", "being tried again: the next call shows whether it is well")


def test_a_call_lasts_until_its_last_attempt_has_ended() -> None:
    """Of two side by side, the later end."""
    w = world()
    told = story()
    told["attempts"] = [{**told["attempts"][0], "started_ms": s, "end_ms": e} for s, e in ((0.0, 9.0), (5.0, 2.0))]
    w.engine.recent.ended(told, 0.1, w.now, result="answered")
    assert view(w).picture(w.engine)["calls"][0]["ms"] == 9.0


def test_half_of_a_minutes_answers_came_so_soon() -> None:
    w = world()
    for seconds in (*[0.1] * 9, 10.0):
        w.engine.recent.ended(story(), seconds, w.now, result="answered")
    hour = view(w).picture(w.engine)["hour"]
    assert 80 <= hour["p50_ms"][-1] == hour["p50"] <= 125
    assert hour["p95"] > 8000


@pytest.mark.parametrize(
    ("stays", "words"),
    [
        ({}, ""),
        ({"b": 1}, "; 1 conversation stays with b"),
        ({"b": 1, "c": 2}, "; 1 conversation stays with b; 2 conversations stay with c"),
    ],
)
def test_where_conversations_stay(stays: dict[str, int], words: str) -> None:
    route = {"name": "openai", "served_by": "a", "because": "", "stays": stays}
    assert verdict(route) == f"openai calls are served by a{words}"
