"""The whole picture as data: what the page and `sidestep status` make their words of."""

from __future__ import annotations

import json
from typing import Any

from sidestep.breaker import judging
from sidestep.breaker.circuit import State
from sidestep.breaker.outcomes import Kind, Outcome, Then
from sidestep.overview import Overview, lines_of
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
