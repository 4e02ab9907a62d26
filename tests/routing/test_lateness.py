"""What is usual, what is late, and what may be spent on it."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestep.routing.lateness import (
    BURST,
    HALF_LIFE_SECONDS,
    HANGING_SECONDS,
    KNOWN_CALLS,
    LATE_FACTOR,
    LATE_LEAST_SECONDS,
    MOST_SECONDS,
    STEP,
    TRIED_SECONDS,
    Budget,
    Hanging,
    Learnt,
    Sketch,
    Times,
    kind_of,
)

SECONDS = st.floats(0.002, 3_000)
CALLS = st.lists(SECONDS, min_size=1, max_size=200)


def exact(values: list[float], share: float) -> float:
    """The smallest of them that at least this share does not exceed."""
    return sorted(values)[math.ceil(share * len(values) - 1e-9) - 1]


@given(CALLS, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_a_quantile_is_known_to_within_a_step(values: list[float], share: float) -> None:
    sketch = Sketch()
    for value in values:
        sketch.measured(value, 0.0)
    found = sketch.quantile(share)
    assert found is not None
    assert exact(values, share) * (1 - 1e-9) <= found <= exact(values, share) * STEP * (1 + 1e-9)


@given(CALLS, st.floats(0, 1e7), st.floats(0, 1e7))
def test_time_fades_all_alike(values: list[float], at: float, later: float) -> None:
    sketch = Sketch()
    for value in values:
        sketch.measured(value, at)
    before = sketch.quantile(0.9)
    assert sketch.calls(at + later) == pytest.approx(len(values) * 0.5 ** (later / HALF_LIFE_SECONDS), abs=1e-9)
    assert sketch.quantile(0.9) == before


@given(CALLS, CALLS)
def test_what_is_long_past_counts_for_nothing(old: list[float], new: list[float]) -> None:
    sketch, fresh = Sketch(), Sketch()
    for value in old:
        sketch.measured(value, 0.0)
    for value in new:
        sketch.measured(value, 1e8)
        fresh.measured(value, 1e8)
    assert sketch.quantile(0.95) == fresh.quantile(0.95)
    assert sketch.calls(1e8) == pytest.approx(len(new))


@given(CALLS, st.lists(SECONDS, max_size=50))
def test_a_wait_that_was_cut_short_never_makes_the_usual_shorter(values: list[float], cut: list[float]) -> None:
    sketch, without = Sketch(), Sketch()
    for value in values:
        sketch.measured(value, 0.0)
        without.measured(value, 0.0)
    for value in cut:
        sketch.at_least(value, 0.0)
    found, before = sketch.quantile(0.9), without.quantile(0.9)
    assert found is not None
    assert before is not None
    assert found >= before


def test_one_that_was_cut_short_counts_up_to_there() -> None:
    """Ninety end after 1 s, ten wait for 5 s and are given up: that four fifths end within 1 s is known, and of the
    slowest only that they take more."""
    sketch = Sketch()
    for _ in range(90):
        sketch.measured(1.0, 0.0)
    for _ in range(10):
        sketch.at_least(5.0, 0.0)
    assert sketch.quantile(0.8) == pytest.approx(1.0, rel=STEP - 1)
    assert sketch.quantile(0.95) == pytest.approx(1.0, rel=STEP - 1)
    sketch.measured(9.0, 0.0)
    assert sketch.quantile(0.95) == pytest.approx(9.0, rel=STEP - 1)


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, 1e-300, 0.001])
def test_no_time_is_shorter_than_a_millisecond(seconds: float) -> None:
    sketch = Sketch()
    sketch.measured(seconds, 0.0)
    assert sketch.quantile(0.5) == 0.001


@pytest.mark.parametrize("odd", [0.0, -1.0, math.nan, math.inf, 1e300, 1e-300])
def test_odd_times_do_no_harm(odd: float) -> None:
    sketch = Sketch()
    sketch.measured(odd, 0.0)
    found = sketch.quantile(0.5)
    assert found is not None
    assert 0 < found <= MOST_SECONDS * STEP


def test_a_clock_that_stands_still_or_goes_back_does_no_harm() -> None:
    sketch = Sketch()
    for now in (100.0, 100.0, 50.0):
        sketch.measured(1.0, now)
    assert sketch.calls(100.0) == pytest.approx(3)


def learnt(values: list[float]) -> Learnt:
    made = Learnt()
    for value in values:
        made.learn(value, 0.0, cut_short=False)
    return made


def test_too_little_is_known_of_a_few_calls() -> None:
    assert learnt([1.0] * (int(KNOWN_CALLS) - 1)).late_after(0.0) is None
    assert learnt([1.0] * int(KNOWN_CALLS)).late_after(0.0) is not None
    assert learnt([1.0] * int(KNOWN_CALLS)).late_after(HALF_LIFE_SECONDS) is None


def test_late_is_four_times_the_usual_and_never_before_a_second() -> None:
    assert learnt([1.0] * 50).late_after(0.0) == pytest.approx(LATE_FACTOR, rel=STEP - 1)
    assert learnt([0.01] * 50).late_after(0.0) == LATE_LEAST_SECONDS


@given(st.lists(SECONDS, min_size=50, max_size=200))
def test_once_fifty_calls_were_seen_nothing_is_waited_for_longer_than_four_times_their_99th_percentile(
    values: list[float],
) -> None:
    late = learnt(values).late_after(0.0)
    assert late is not None
    assert late <= max(LATE_LEAST_SECONDS, LATE_FACTOR * exact(values, 0.99)) * (1 + 1e-9)


def test_one_call_in_fifty_that_hangs_does_not_make_hanging_usual() -> None:
    """The 99th percentile is a hang; what is late is not."""
    drawn = random.Random(7)
    values = [30.0 if drawn.random() < 0.02 else drawn.lognormvariate(math.log(0.5), 0.5) for _ in range(1_000)]
    made = learnt(values)
    late = made.late_after(0.0)
    assert late is not None
    assert late < 30 / 4
    assert exact(values, 0.99) == 30


def test_it_is_looked_up_again_as_more_is_learnt() -> None:
    made = learnt([1.0] * 50)
    before = made.late_after(0.0)
    for _ in range(200):
        made.learn(3.0, 0.0, cut_short=False)
    after = made.late_after(0.0)
    assert before is not None
    assert after == pytest.approx(3 * before, rel=2 * (STEP - 1))


def test_a_provider_that_has_become_slow_is_no_longer_late() -> None:
    """Its waits are cut short at first; it must not be hedged for ever. What answers after all says how slow it is."""
    made = learnt([0.5] * 100)
    for _ in range(100):
        made.learn(2.0, 0.0, cut_short=True)
        made.learn(4.0, 0.0, cut_short=False)
    late = made.late_after(0.0)
    assert late is not None
    assert late > 4.0


def test_kinds_are_learnt_apart_and_forgotten_with_their_provider() -> None:
    times = Times()
    streamed = kind_of("a", "m", stream=True, body_bytes=100)
    for _ in range(50):
        times.began(streamed, 0.5, 2.0, 0.0)
    head, content = (times.late_after(streamed, 0.0, head_came=came) for came in (False, True))
    assert head == pytest.approx(2.0, rel=STEP - 1)
    assert content == pytest.approx(8.0, rel=STEP - 1)
    others = [
        kind_of("b", "m", stream=True, body_bytes=100),
        kind_of("a", "n", stream=True, body_bytes=100),
        kind_of("a", None, stream=True, body_bytes=100),
        kind_of("a", "m", stream=False, body_bytes=100),
        kind_of("a", "m", stream=True, body_bytes=100_000),
    ]
    assert [times.late_after(kind, 0.0, head_came=True) for kind in others] == [None] * len(others)
    times.keep({"b"})
    assert times.late_after(streamed, 0.0, head_came=True) is None


def test_what_is_usual_at_a_provider() -> None:
    """Of its kinds of calls of which enough is known, wherever they stand among others."""
    times = Times()
    kinds = [kind_of(p, m, stream=True, body_bytes=1) for p, m in (("b", "m"), ("a", "few"), ("a", "m"), ("a", "n"))]
    for kind, calls in zip(kinds, (50, 5, 50, 50), strict=True):
        for seconds in (0.5,) * (calls - 10) + (2.0,) * 10:
            times.began(kind, 0.1, seconds, 0.0)
    found = times.usual("a", 0.0)
    assert list(found) == kinds[2:]
    for half, nearly_all in found.values():
        assert half == pytest.approx(0.5, rel=STEP - 1)
        assert nearly_all == pytest.approx(2.0, rel=STEP - 1)


@pytest.mark.parametrize(("size", "known"), [(1_023, False), (1_024, True)])
def test_of_short_streams_no_pace_is_learnt(size: int, known: bool) -> None:
    """Seconds a kibibyte; late is what takes four times as long, and five seconds."""
    times = Times()
    kind = kind_of("a", "m", stream=True, body_bytes=1)
    for _ in range(50):
        times.paced(kind, size, 2.0, 0.0)
    found = times.slow_after(kind, 4 * 1_024, 0.0)
    assert found == (pytest.approx(5 + 4 * 2.0 * 4, rel=STEP - 1) if known else None)


def test_a_wait_without_a_head_says_something_of_both() -> None:
    times = Times()
    kind = kind_of("a", "m", stream=True, body_bytes=100)
    for _ in range(50):
        times.began(kind, 0.5, 0.5, 0.0)
        times.waited(kind, None, 3.0, 0.0)
        times.waited(kind, 0.5, 3.0, 0.0)
    learnt = times._of.get(kind)
    assert learnt is not None
    head, content, _ = learnt
    assert head.sketch.calls(0.0) == content.sketch.calls(0.0) == pytest.approx(150)
    assert sum(head.sketch._cut) == pytest.approx(50)
    assert sum(content.sketch._cut) == pytest.approx(100)


def test_the_table_is_bounded() -> None:
    times = Times()
    for i in range(5_000):
        times.began(kind_of("a", f"model-{i}" * 50, stream=True, body_bytes=1), 0.1, 0.1, 0.0)
    assert len(times._of) <= 1_000
    assert times._of.bytes < 14 << 20


# --- the budget


def test_a_burst_and_then_a_share() -> None:
    budget = Budget()
    assert [budget.take() for _ in range(4)] == [True, True, True, False]
    for _ in range(19):
        budget.earn(0.05)
    assert not budget.take()
    budget.earn(0.05)
    assert budget.take()


def test_what_is_given_back_can_be_taken_again_and_no_more() -> None:
    budget = Budget()
    budget.give_back()
    assert repr(budget) == f"Budget({BURST:.2f} of 3)"
    assert budget.take()
    budget.give_back()
    assert [budget.take() for _ in range(4)] == [True, True, True, False]


@given(st.lists(st.sampled_from(["earn", "take", "back"]), max_size=300))
def test_never_more_than_the_share_of_requests_and_a_burst(steps: list[str]) -> None:
    budget, earned, taken, back = Budget(), 0, 0, 0
    for step in steps:
        if step == "earn":
            budget.earn(0.05)
            earned += 1
        elif step == "back" and back < taken:
            budget.give_back()
            back += 1
        elif step == "take":
            taken += budget.take()
        assert taken - back <= BURST + 0.05 * earned + 1e-6


# --- who hangs


def test_who_was_outdone_is_avoided_where_nothing_insures_a_call() -> None:
    """Then one call at a time goes there that is insured, until one is answered."""
    hanging = Hanging()
    assert not hanging.avoids("a", "m", 0, insured=False)
    hanging.outdone("a", "m", 0)
    assert [hanging.avoids("a", "m", 1, insured=True) for _ in range(3)] == [False] * 3
    assert [hanging.avoids("a", other, 1, insured=False) for other in ("m", "n", None)] == [True, False, False]
    assert [hanging.avoids("a", "m", 2, insured=True) for _ in range(3)] == [False, True, True]
    hanging.outdone("a", "m", 3)
    assert hanging.avoids("a", "m", 1.9 + TRIED_SECONDS, insured=True)
    assert hanging.avoids("a", "m", 2 + TRIED_SECONDS, insured=False)
    assert not hanging.avoids("a", "m", 2 + TRIED_SECONDS, insured=True)
    hanging.answered("a", "m")
    assert (len(hanging), hanging.avoids("a", "m", 20, insured=False)) == (0, False)


def test_what_is_held_against_one_that_hung_is_forgotten() -> None:
    hanging = Hanging()
    hanging.outdone("a", None, 0)
    assert hanging.avoids("a", None, HANGING_SECONDS - 1, insured=False)
    assert not hanging.avoids("a", None, HANGING_SECONDS, insured=False)
    assert len(hanging) == 0
