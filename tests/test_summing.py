"""Pictures of several workers as one."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from sidestep import overview, siblings
from sidestep.breaker.circuit import State
from sidestep.breaker.outcomes import Kind, Outcome, Then
from sidestep.breaker.windows import Standing, Window
from sidestep.overview import Overview, of_workers
from sidestep.routing.recent import CALLS
from sidestep.summing import Part, whole
from support.world import World, toml
from test_overview import provider, story

LIMITED = Outcome(Kind.COOLDOWN, "rate_limit", Then.NEXT, 429, 7.5)


class Worker:
    """State: an engine, and what is seen of it."""

    def __init__(self, number: int, began: float = 1000.0) -> None:
        circuit = '[circuit]\nfailure_threshold = 1\nopen_seconds = 20\nscope = "provider"'
        self.number = number
        self.world = World(toml("priority", circuit, a="", b=""))
        self.world.now = began
        self.view = Overview(lambda: self.world.now, lambda: self.world.now + 5000)

    def calls(self, count: int, result: str = "answered", waited: float = 0.5) -> None:
        engine = self.world.engine
        for _ in range(count):
            engine.requests_total["openai", result] += 1
            engine.recent.ended(story(result), waited, self.world.now, result=result)
            engine.recent.began("a", waited)

    def part(self, *, lives: bool = True) -> Part:
        """As it is left, and read."""
        self.view.changed()
        engine = self.world.engine
        seen = self.view.picture(engine), overview.parts(engine, self.world.now)
        picture, parts = json.loads(json.dumps(seen))
        return Part(self.number, picture, parts, lives)


def summed(*parts: Part) -> dict[str, Any]:
    return whole(parts)[0]


def test_what_is_counted_is_added_up() -> None:
    """Calls, tokens, money, minutes, waits: as if one had counted all."""
    one, two, all_of_them = Worker(1), Worker(2), Worker(0)
    for worker in (one, two, all_of_them):
        worker.world.engine.cost_total["a"] = 0.25 if worker.number else 0.5  # type: ignore[assignment]
        worker.world.engine.tokens_total["a", "input"] = 10 if worker.number else 20
    for workers in ((one, all_of_them), (two, all_of_them)):
        for worker in workers:
            worker.calls(2, waited=0.2)
            worker.calls(1, "failed", 3.0)
    p, expected = summed(one.part(), two.part()), all_of_them.part().picture
    for what in ("totals", "hour", "status", "in_flight", "started"):
        assert p[what] == expected[what], what
    for name in ("a", "b"):
        assert provider(p, name) == provider(expected, name)


def test_the_last_calls_are_those_of_all_with_their_worker() -> None:
    one, two = Worker(1), Worker(2)
    for _ in range(CALLS):
        for worker in (one, two):
            worker.world.now += 1
            worker.calls(1)
    two.view.told("something")
    two.world.now += 0.5
    p = summed(one.part(), two.part())
    assert len(p["calls"]) == CALLS
    assert {c["worker"] for c in p["calls"]} == {1, 2}
    assert p["calls"] == sorted(p["calls"], key=lambda c: -c["at"])
    assert [(e["worker"], e["text"]) for e in p["events"]] == [(2, "something")]


def test_minutes_of_one_that_has_left_them_in_the_minute_before() -> None:
    one, two = Worker(1, 1000.0), Worker(2, 1000.0)
    two.calls(3)
    late = two.part()
    one.world.now += 60
    one.calls(1)
    p = summed(one.part(), late)
    assert (p["hour"]["calls"][-2:], p["hour"]["p50_ms"][-2:].count(None)) == ([3, 1], 0)


def test_where_they_differ_the_worst_speaks_with_its_number() -> None:
    one, two = Worker(1), Worker(2)
    one.calls(1)
    w = two.world
    exchange = w.exchange()
    assert exchange.next(w.now)
    w.fail(exchange, Outcome(Kind.FAILURE, "http_5xx", Then.NEXT, 503))
    p = summed(one.part(), two.part())
    route = p["routes"][0]
    assert (p["status"], route["status"], route["served_by"]) == ("degraded", "degraded", "a, b")
    assert route["because"].startswith("at worker 2: a's circuit opened")
    a = provider(p, "a")
    assert (a["state"], a["words"].endswith("(at worker 2)"), a["attempts"], a["failed"]) == ("open", True, 1, 1)
    assert a["last_error"]["words"] == "answered 503"


def test_where_they_agree_it_is_told_as_of_one() -> None:
    one, two = Worker(1), Worker(2)
    for worker in (one, two):
        worker.world.engine.hold("a", State.FORCED_OPEN)
    p = summed(one.part(), two.part())
    assert p["routes"][0] == one.part().picture["routes"][0]
    assert provider(p, "a")["words"] == "held open by hand: it gets no calls"


def test_a_limit_that_one_has_met_is_told_with_its_number() -> None:
    one, two = Worker(1), Worker(2)
    two.world.limit("a", 7.5)
    assert provider(summed(one.part(), two.part()), "a")["words"].endswith("(at worker 2)")


def test_plans_are_told_once_for_each_account() -> None:
    """As the one has them that knows of more use."""
    one, two = Worker(1), Worker(2)
    for worker, used in ((one, 0.4), (two, 0.6)):
        w = worker.world
        account = w.subject("a").account
        w.engine.plans.told(account, (Window("5h", "", Standing.ALLOWED, used, 300.0),), w.now)
        w.engine.plans.told(
            account._replace(credential=f"k{worker.number}"), (Window("7d", "", Standing.ALLOWED, used, 300.0),), w.now
        )
    plans = provider(summed(one.part(), two.part()), "a")["plans"]
    assert [(windows[0]["window"], windows[0]["used"]) for windows in plans] == [("5h", 0.6), ("7d", 0.4), ("7d", 0.6)]


def test_of_one_that_has_ended_only_what_it_has_counted_counts() -> None:
    """And its successor adds that to its own, so that it is told on and on."""
    one, two = Worker(1), Worker(2)
    one.calls(1)
    two.calls(4)
    two.world.engine.hold("a", State.FORCED_OPEN)
    gone = two.part(lives=False)
    p = summed(one.part(), gone)
    assert (p["totals"]["calls"], p["status"], provider(p, "a")["state"]) == (5, "ok", "closed")
    successor = Worker(2, 1030.0)
    successor.calls(2)
    for _ in range(2):
        picture, parts = json.loads(json.dumps(whole((successor.part(), gone))))
        gone = Part(2, picture, parts, lives=False)
    assert [c["worker"] for c in picture["calls"]] == [2] * 8
    assert (picture["totals"]["calls"], picture["started"]) == (8, 6000.0)
    p = summed(one.part(), Part(2, picture, parts))
    assert p["totals"]["calls"] == 9
    assert sum(p["hour"]["calls"]) == 9
    assert len({(c["worker"], c["run"], c["number"]) for c in p["calls"]}) == 7  # of one, gone and successor


def test_the_store_is_out_of_reach_where_it_is_for_any() -> None:
    one, two = Worker(1), Worker(2)
    for worker, state in ((one, "together"), (two, "alone")):
        part = worker.part()
        fleet = {"state": state, "group": "g", "store": "s", "heard_seconds_ago": 3.0, "name": "x/1", "members": []}
        part.picture["fleet"] = {**fleet, "shared": {}, "words": state}
        worker.last = part  # type: ignore[attr-defined]
    p = summed(one.last, two.last)  # type: ignore[attr-defined]
    assert (p["fleet"]["state"], p["fleet"]["alone"]) == ("alone", [2])
    assert p["fleet"]["words"] == "alone, group g by s: the store has not answered for 3 s at worker 2"
    two.last.picture["fleet"]["state"] = "together"  # type: ignore[attr-defined]
    assert summed(one.last, two.last)["fleet"]["state"] == "together"  # type: ignore[attr-defined]


def test_workers_in_a_sentence() -> None:
    assert of_workers({}) is None
    serves = {"state": "serves", "calls": 3, "failed": 0, "in_flight": 0, "mode": "enforce"}
    found: dict[str, Any] = {"mode": "enforce", "workers": [{"number": 1, **serves}, {"number": 2, **serves}]}
    assert of_workers(found) == (True, "2 workers serve (calls: 3, 3)")
    found["workers"][0]["mode"] = "off"
    assert of_workers(found) == (False, "2 workers serve (calls: 3, 3); worker 1 has mode off")
    found["workers"][0] = {"number": 1, "state": "starting"}
    found["workers"][1] |= {"state": "silent", "silent_seconds": 4}
    assert of_workers(found) == (
        False,
        "0 of 2 workers serve (calls: 3); worker 1 is being started; "
        "worker 2 has not answered for 4 s: what it counted until then is in here",
    )


def test_figures_are_read_as_they_were_left(tmp_path: Any) -> None:
    """None, of one that has left none or nonsense; kept for its successor when it has ended."""
    figures = siblings.Figures({"run": "x"}, {}, "text", {"a": "open"}, "off", {2: siblings.Asked("l", 3)})
    assert siblings.left(tmp_path, 1) is None
    siblings.leave(tmp_path, 1, figures)
    assert siblings.left(tmp_path, 1) == figures
    siblings.ended(str(tmp_path), 1)
    siblings.ended(str(tmp_path), 1)  # its successor has left none yet
    assert (siblings.left(tmp_path, 1), siblings.left_before(tmp_path, 1)) == (None, figures)
    (tmp_path / "1").write_bytes(msgspec.json.encode({"run": 1}))
    assert siblings.left(tmp_path, 1) is None


def test_one_of_all_tells(tmp_path: Any) -> None:
    assert [siblings.is_first(tmp_path, what) for what in ("x", "x", "y")] == [True, False, True]
    assert siblings.is_first(tmp_path / "gone", "x")
