"""Whom a route's strategy asks first, and who follows."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestep import status
from sidestep.breaker import judging
from sidestep.breaker.circuit import State
from sidestep.routing import strategies
from sidestep.routing.engine import Attempt
from sidestep.routing.strategies import BUSY, EXPLORE_SHARE, STALE_SECONDS, UNMEASURED_SECONDS, PaceKey, Paces, Turns
from support.world import HALF, World, toml, user

CYCLE_WEIGHTS = st.lists(st.integers(1, 12), min_size=1, max_size=7)


# --- weighted


def test_the_sequence_that_nginx_documents() -> None:
    """The example in nginx's change: weights of 5, 1 and 1 give a a b a c a a."""
    turns = Turns()
    assert "".join(turns.choose("r", {"a": 5, "b": 1, "c": 1}) for _ in range(14)) == "aabacaa" * 2


@given(CYCLE_WEIGHTS, st.integers(1, 3))
def test_turns_are_exact_over_a_cycle_and_never_cluster(weights: list[int], cycles: int) -> None:
    """Over as many calls as the weights sum up to, each gets its weight; on the way nobody is a whole call ahead."""
    turns, total, taken = Turns(), sum(weights), Counter[str]()
    named = {str(i): float(w) for i, w in enumerate(weights)}
    for count in range(1, total * cycles + 1):
        taken[turns.choose("r", named)] += 1
        assert all(taken[name] < count * weight / total + 1 for name, weight in named.items())
        if count % total == 0:
            assert all(taken[name] == weight * count / total for name, weight in named.items())


@given(CYCLE_WEIGHTS, st.data())
def test_who_was_away_gets_no_burst(weights: list[int], data: st.DataObject) -> None:
    """While some are not able to take a turn the others share by weight; nobody saves turns up meanwhile."""
    turns = Turns()
    named = {str(i): float(w) for i, w in enumerate(weights)}
    able = dict(list(named.items())[: data.draw(st.integers(1, len(named)))])
    taken = Counter(turns.choose("r", able) for _ in range(int(sum(able.values())) * 3))
    assert taken == {name: weight * 3 for name, weight in able.items()}
    after = Counter(turns.choose("r", named) for _ in range(sum(weights)))
    assert after == named


def test_routes_take_turns_apart() -> None:
    """A route's calls do not use up the turns of another's."""
    turns = Turns()
    both = [(turns.choose("r", {"a": 1, "b": 1}), turns.choose("s", {"a": 1, "b": 1})) for _ in range(2)]
    assert both == [("a", "a"), ("b", "b")]


def test_weighted_calls() -> None:
    """Calls are shared by weight; who follows on a failure goes by weight too."""
    world = World(toml("weighted", a="weight = 1", b="weight = 3", c="weight = 2"))
    assert [world.order() for _ in range(6)] == ["bca", "cba", "abc", "bca", "cba", "bca"]


def test_weighted_passes_over_whom_nobody_may_ask() -> None:
    """An open circuit and a cooldown take no turn; with nobody able the order is that of the weights."""
    world = World(toml("weighted", a="weight = 1", b="weight = 3", c="weight = 2"))
    world.engine.hold("b", State.FORCED_OPEN)
    assert Counter(world.order()[0] for _ in range(6)) == {"a": 2, "c": 4}
    world.limit("c", 60)
    assert [world.order() for _ in range(3)] == ["abc", "abc", "abc"]
    world.engine.hold("a", State.FORCED_OPEN)
    assert world.order() == "bca"
    world.engine.hold("a", None)
    world.engine.hold("b", None)
    world.now += 60
    assert Counter(world.order()[0] for _ in range(6)) == {"a": 1, "b": 3, "c": 2}


# --- cheapest


def test_cheapest_goes_by_this_requests_size() -> None:
    """A long question goes where input is cheap, a long answer where output is; unknown prices come last."""
    text = toml(
        "cheapest",
        u="",
        a="price = { input = 1, output = 100 }",
        v="",
        b="price = { input = 50, output = 1 }",
        c="price = { input = 60, output = 110 }",
    )
    world = World(text)
    assert world.order({"messages": [user("x" * 40_000)], "max_tokens": 10}) == "abcuv"
    assert world.order({"messages": [user("x" * 40_000)], "max_tokens": 6000}) == "bacuv"
    assert world.order({"max_tokens": 5000}) == "bacuv"
    # Without a limit of its own: 500 tokens. 26 400 bytes are 6 600 tokens.
    rest = len(b'{"model": "m", "messages": [{"role": "user", "content": ""}]}')
    even = 4 * 99 * 500 // 49
    assert world.order({"messages": [user("x" * (even + 40 - rest))]}) == "abcuv"
    assert world.order({"messages": [user("x" * (even - 40 - rest))]}) == "bacuv"


def test_cheapest_by_the_price_list() -> None:
    """Without a price of its own the price list counts, by what the provider calls the model; equal ones keep
    their order."""
    world = World(toml("cheapest", a='models = { "m" = "gpt-4o" }', b='models = { "m" = "gpt-4o-mini" }', c="", d=""))
    assert world.order() == "bacd"


# --- fastest

KEYS: list[PaceKey] = [(name, "m", "chat", False) for name in "abc"]


def settled(*seconds: float, now: float = 0) -> Paces:
    paces = Paces()
    for key, time in zip(KEYS, seconds, strict=False):
        paces.measured(key, time, now)
    return paces


LOOKS = 40
"""After so many looks at a provider 0.7**40 of what was measured before is left: of 100 s less than 0.1 ms."""
LOOK_EVERY = round(1 / EXPLORE_SHARE)
"""Calls from one look to the next."""


@given(st.lists(st.integers(1, 3000), min_size=2, max_size=3, unique=True), st.floats(0, 100))
def test_fastest_converges(milliseconds: list[int], before: float) -> None:
    """Whatever was measured before, after 40 looks at each of the others nearly all go to the fastest."""
    truth = [n / 1000 for n in milliseconds]
    keys = KEYS[: len(truth)]
    paces, now = settled(*[before] * len(truth)), 0.0
    rolls = itertools.cycle([0.0, *[0.5] * (LOOK_EVERY - 1)])
    chosen: list[int] = []
    for _ in range((len(truth) - 1) * LOOKS * LOOK_EVERY + 10 * LOOK_EVERY):
        now += STALE_SECONDS
        i = paces.choose(keys, {}, now, lambda: next(rolls))
        paces.measured(keys[i], truth[i], now)
        chosen.append(i)
    best = min(range(len(truth)), key=truth.__getitem__)
    assert chosen[-10 * LOOK_EVERY :].count(best) >= 10 * (LOOK_EVERY - 1)
    assert paces.ranked(keys) == sorted(range(len(truth)), key=truth.__getitem__)


def test_who_was_never_measured_is_tried_once_in_a_while() -> None:
    """Each unmeasured provider gets one call, not all of them: it may be slow, or failing."""
    world = World(toml("fastest", a="", b="", c=""))
    assert [world.order()[0] for _ in range(5)] == ["a", "b", "c", "a", "a"]
    world = World(toml("fastest", a="", b="", c=""))
    assert world.call(seconds=0.2) == "a"
    assert [world.call(failing="b"), world.call(seconds=0.3), world.call()] == ["ba", "c", "a"]
    world.now += UNMEASURED_SECONDS
    assert [world.call(failing="b"), world.call()] == ["ba", "a"]


def test_a_look_at_those_not_seen_for_long() -> None:
    """A share of the calls goes to who was not measured for a while: the one not seen for longest."""
    paces = settled(1, 2, 3)
    paces.measured(KEYS[1], 2, 5)
    low = lambda: EXPLORE_SHARE - 0.001  # noqa: E731
    assert paces.choose(KEYS, {}, STALE_SECONDS - 0.1, low) == 0
    assert paces.choose(KEYS, {}, STALE_SECONDS + 0.1, lambda: EXPLORE_SHARE) == 0
    assert paces.choose(KEYS, {}, STALE_SECONDS + 0.1, low) == 2
    assert paces.choose(KEYS, {}, STALE_SECONDS + 0.1, low) == 0, "one look is enough"
    assert paces.choose(KEYS, {}, STALE_SECONDS + 5.1, low) == 1


def test_a_provider_that_has_become_fast_is_found() -> None:
    """After a slow time a provider comes back, by the looks at it alone."""
    paces, now = settled(1, 20), 0.0
    rolls = itertools.cycle([0.01, *[0.5] * 19])
    for _ in range(2000):
        now += 1
        i = paces.choose(KEYS[:2], {}, now, lambda: next(rolls))
        paces.measured(KEYS[i], (1, 0.5)[i], now)
    assert paces.ranked(KEYS[:2]) == [1, 0]


SECONDS = st.integers(0, 500).map(lambda tenths: tenths / 10)
"""Times that differ by more than what rounding takes from a mean."""


@given(SECONDS, st.lists(SECONDS, max_size=10))
def test_failures_never_make_a_provider_look_fast(pace: float, failures: list[float]) -> None:
    """A failure, however quick, cannot move a provider forward; a slow one moves it back."""
    paces = settled(pace, pace)
    for seconds in failures:
        before = paces.overall("a")
        paces.failed(KEYS[0], seconds, 1)
        assert paces.overall("a") == before
    slower = any(seconds > pace for seconds in failures)
    assert paces.ranked(KEYS[:2]) == ([1, 0] if slower else [0, 1])
    paces.failed(KEYS[2], 0, 1)
    assert paces.ranked(KEYS)[-1] == 2, "who never answered stays unmeasured"


def test_a_quick_failure_is_no_pace() -> None:
    """Through a whole call: a provider that fails at once is not the fastest, one that times out gets slower."""
    world = World(toml("fastest", "[circuit]\nfailure_threshold = 99", a="", b=""))
    world.call(seconds=2)
    world.call(seconds=1)
    assert world.order() == "ba"
    for _ in range(3):
        assert world.call(failing="b", seconds=2) == "ba"
    assert world.order() == "ba", "failures at once say nothing"
    exchange = world.exchange()
    attempt = exchange.next(world.now)
    assert isinstance(attempt, Attempt)
    world.now += 20
    world.fail(exchange, judging.TIMEOUT)
    assert world.order() == "ab"


def test_streams_and_whole_answers_are_not_compared() -> None:
    """The first content of a whole answer is its end: each kind of call has its own averages."""
    world = World(toml("fastest", a="", b=""))
    for seconds in (1, 2):
        world.call(seconds=seconds)
    for seconds in (2, 1):
        world.call({"stream": True}, seconds=seconds)
    assert world.order() == "ab"
    assert world.order({"stream": True}) == "ba"
    assert world.order({"model": "n"}) == "ab", "another model: unmeasured"
    assert world.order({"model": "n"}) == "ba"


@pytest.mark.parametrize(
    ("out", "roll", "chosen"),
    [
        ({}, 0.0, 0),
        ({"a": BUSY - 1}, 0.99, 0),
        ({"a": BUSY}, 0.2, 1),  # 1 s times 9 against 2 s times 1
        ({"a": BUSY}, 0.9, 2),  # drawn: c, 3 s times 1
        ({"a": BUSY, "b": 4}, 0.2, 0),  # 9 s against 10 s
        ({"a": BUSY, "b": 3}, 0.2, 1),  # 9 s against 8 s
    ],
)
def test_two_choices_once_many_are_out(out: dict[str, int], roll: float, chosen: int) -> None:
    """With many attempts out at the fastest it is compared with one other drawn at random, by load and pace."""
    assert settled(1, 2, 3).choose(KEYS, out, 1, lambda: roll) == chosen


@pytest.mark.parametrize(
    ("seconds", "out", "chosen"),
    [
        ((1, 3), {"a": BUSY, "b": 2}, 0),  # 9 s each: the fastest
        ((1, 3), {"a": BUSY, "b": 1}, 1),
        ((0, 0), {"a": BUSY, "b": 7}, 1),  # no time at all counts as a millisecond
        ((0, 0.0091), {"a": BUSY}, 0),
        ((0, 0.0089), {"a": BUSY}, 1),
        ((1,), {"a": 100}, 0),  # there is no other
    ],
)
def test_of_two_the_shorter_wait(seconds: tuple[float, ...], out: dict[str, int], chosen: int) -> None:
    """The wait is the pace times the calls out and this one; of equal waits the fastest is asked."""
    keys = KEYS[: len(seconds)]
    assert settled(*seconds).choose(keys, out, 1, lambda: 0.99) == chosen


def test_a_look_is_due_at_its_time() -> None:
    """After ten seconds for one never measured, after thirty for one that was, and then not again at once."""
    paces = settled(1, 2)
    assert paces.choose(KEYS, {}, 100, HALF) == 2
    assert paces.choose(KEYS, {}, 100 + UNMEASURED_SECONDS - 0.1, HALF) == 0
    assert paces.choose(KEYS, {}, 100 + UNMEASURED_SECONDS, HALF) == 2
    paces = settled(1, 2)
    assert [paces.choose(KEYS[:2], {}, at, lambda: 0.0) for at in (29.9, 30, 59.9, 60)] == [0, 1, 0, 1]
    assert settled(1).choose(KEYS[:1], {}, 100, lambda: 0.0) == 0


def test_an_average_moves_by_three_tenths() -> None:
    """Of each new time; a failure counts where it took longer."""
    paces = settled(1)
    paces.measured(KEYS[0], 2, 0)
    assert paces.overall("a") == pytest.approx(1.3)
    paces.measured(("a", "n", "chat", True), 2.3, 0)
    assert paces.overall("a") == pytest.approx(1.6)
    assert paces.overall("b") is None


def test_load_spreads_by_pace() -> None:
    """A burst that nobody answers yet spreads over equal providers evenly, over others by their pace."""
    rolls = itertools.cycle([0.1, 0.3, 0.5, 0.7, 0.9])
    world = World(toml("fastest", a="", b="", c=""), lambda: next(rolls))
    for _ in range(3):
        world.call(seconds=1)
    for _ in range(90):
        assert isinstance(world.exchange().next(world.now), Attempt)
    assert sum(world.engine.out.values()) == len(world.engine.in_flight) == 90
    assert all(24 <= count <= 36 for count in world.engine.out.values())
    world = World(toml("fastest", a="", b=""), lambda: next(rolls))
    world.call(seconds=1)
    world.call(seconds=4)
    for _ in range(100):
        world.exchange().next(world.now)
    assert 15 <= world.engine.out["b"] <= 25


def test_paces_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """An app that makes up models pushes out the averages not used for longest."""
    monkeypatch.setattr(strategies, "MAX_PACES", 3)
    paces = Paces()
    for name in "abcad":
        paces.measured((name, None, "", False), 1, 0)
    assert {key[0] for key, _ in paces._paces.items()} == {"a", "c", "d"}


# --- all of them


def test_priority_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """In file order nobody's circuit, pace or conversation is looked at, nor anything remembered."""
    world = World(toml("priority", a="weight = 1", b="weight = 9"))

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("it was asked")

    monkeypatch.setattr(world.engine, "would_admit", never)
    monkeypatch.setattr(world.engine.strategist, "order", never)
    monkeypatch.setattr("sidestep.routing.ordering.conversation_of", never)
    exchange = world.exchange({"messages": [user("hi"), {"role": "assistant", "content": "yes"}, user("so?")]})
    assert "".join(c.provider.name for c in exchange.plan.candidates) == "ab"
    assert isinstance(exchange.next(world.now), Attempt)
    world.settle(exchange)
    assert (len(world.engine.conversations), world.engine.strategist.paces.overall("a")) == (0, None)


@pytest.mark.parametrize("strategy", ["weighted", "cheapest", "fastest"])
def test_a_pinned_call_ignores_strategy(strategy: str) -> None:
    """What one provider holds is asked of that one, and takes nobody's turn."""
    a, b = "price = { input = 9, output = 9 }", "weight = 5\nprice = { input = 1, output = 1 }"
    world = World(toml(strategy, a=a, b=b))
    world.engine.issued(("file-1",), world.engine.settings.providers[0])
    content = [{"type": "file", "file": {"file_id": "file-1"}}]
    for _ in range(6):
        assert world.order({"messages": [{"role": "user", "content": content}]}) == "a"
    assert world.order({"messages": [user("free")]})[0] == ("a" if strategy == "fastest" else "b")


def test_what_was_learnt_survives_a_reload() -> None:
    """Turns and averages of unchanged providers are kept, those of changed ones forgotten."""
    text = toml("weighted", a="", b="", c="")
    world = World(text)
    assert [world.order()[0] for _ in range(2)] == ["a", "b"]
    world.reload(text)
    assert [world.order()[0] for _ in range(2)] == ["c", "a"]
    world.reload(toml("weighted", a="", b="drop_fields = ['x']", c=""))
    assert world.order()[0] == "c", "the credit of b was forgotten"
    turns = Turns()
    turns.choose("r", {"a": 1, "b": 1})
    turns.keep({"s"}, {"a", "b"})
    assert turns.choose("r", {"a": 1, "b": 1}) == "a", "a route that is gone has no credit"

    world = World(toml("fastest", a="", b=""))
    world.call(seconds=2)
    world.call(seconds=1)
    world.reload(toml("fastest", a="", b="", c=""))
    assert world.call(seconds=9) == "c"
    assert world.order() == "bac"
    world.reload(toml("fastest", a="", b="drop_fields = ['x']", c=""))
    assert world.engine.strategist.paces.overall("b") is None
    assert world.engine.strategist.paces.overall("a") == 2
    assert world.order() == "bac", "unmeasured: it is tried"
    assert world.order() == "acb"


@pytest.mark.parametrize("observed", [False, True])
def test_attempts_in_flight_are_counted_by_provider(observed: bool) -> None:
    """The counter that load is read off is what is in flight, whatever ends an attempt, and empty at the end."""
    world = World(toml("priority", a="", b=""))
    engine = world.engine
    candidates = world.exchange().plan.candidates
    attempts = []
    for i in range(6):
        candidate, subject = candidates[i % 2], world.subject("ab"[i % 2])
        found = engine.look_on(candidate, subject, 0) if observed else engine.admit(candidate, subject, 0, 60)
        assert isinstance(found, Attempt)
        attempts.append(found)
    assert engine.out == {"a": 3, "b": 3}
    assert status.provider_status(engine, engine.settings.providers[0], 0)["in_flight"] == 3
    for attempt in attempts:
        engine.settle(attempt, judging.TIMEOUT, 1)
        engine.ended(attempt, 1)
        engine.ended(attempt, 1)
    assert engine.out == {}


def test_health_shows_the_pace() -> None:
    """The moving average over all of a provider's models, once there is one."""
    world = World(toml("fastest", a="", b=""), HALF)
    world.call(seconds=2)
    a, b = (status.provider_status(world.engine, p, world.now) for p in world.engine.settings.providers)
    assert a["first_content_ms"] == 2000
    assert "first_content_ms" not in b
