"""The rolling counts, against a plain list of everything that was recorded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidestep.breaker.window import BUCKETS, Totals, Window
from support.searching import searching

SECONDS = 60.0
STEP = SECONDS / BUCKETS


def test_counts_what_was_recorded() -> None:
    """Successes and failures are counted apart, and the rate is the failures' share."""
    window = Window(SECONDS)
    for _ in range(3):
        window.success(100)
    window.failure(101)
    assert window.totals(101) == Totals(successes=3, failures=1)
    assert (window.totals(101).attempts, window.totals(101).failure_rate) == (4, 0.25)


def test_empty_has_no_rate() -> None:
    """Without attempts the failure rate is 0, at whatever time it is asked."""
    for now in (0.0, 1.0, 1e9):
        assert Window(SECONDS).totals(now) == Totals(0, 0)
    assert Totals(0, 0).failure_rate == 0.0


def test_what_is_older_than_the_window_is_gone() -> None:
    """A result counts for the length of the window, less at most one step, and then no more."""
    window = Window(SECONDS)
    window.failure(0)
    assert window.totals(SECONDS - STEP) == Totals(0, 1)
    assert window.totals(SECONDS - 0.001) == Totals(0, 1)
    assert window.totals(SECONDS) == Totals(0, 0)


def test_moves_in_steps_of_a_twentieth() -> None:
    """Of a minute no result is forgotten more than 3 seconds early."""
    window = Window(60)
    window.failure(11.9)
    assert window.totals(68.9) == Totals(0, 1)


def test_a_bucket_used_again_forgets_its_earlier_turn() -> None:
    """A whole turn later the same bucket starts from nothing."""
    window = Window(SECONDS)
    window.failure(1)
    window.success(1)
    window.success(SECONDS + 1)
    assert window.totals(SECONDS + 1) == Totals(1, 0)


def test_a_success_is_taken_back() -> None:
    """A success taken back is out of the counts; nothing else is."""
    window = Window(SECONDS)
    window.success(0)
    window.success(10)
    window.failure(10)
    window.take_back_success(10)
    assert window.totals(20) == Totals(1, 1)


def test_a_success_that_the_window_forgot_is_not_taken_back_from_others() -> None:
    """Taking back what is too old takes nothing from the bucket's present turn."""
    window = Window(SECONDS)
    window.success(1)
    window.success(SECONDS + 1)
    window.take_back_success(1)
    assert window.totals(SECONDS + 1) == Totals(1, 0)


def test_cleared_is_empty() -> None:
    """After `clear` nothing counts, and nothing can be taken back below zero."""
    window = Window(SECONDS)
    window.success(5)
    window.clear()
    assert window.totals(5) == Totals(0, 0)
    window.take_back_success(5)
    window.failure(5)
    window.take_back_success(5)
    assert window.totals(5) == Totals(0, 1)


Event = tuple[str, float]
EVENTS = st.lists(st.tuples(st.sampled_from(["success", "failure", "take back"]), st.floats(0, 40)), max_size=40)


@searching(1.5)
@given(start=st.floats(0, 1e6), events=EVENTS)
def test_never_older_than_the_window_never_short_by_more_than_a_step(start: float, events: list[Event]) -> None:
    """The counts lie between those of the last 19 steps and those of the last 20, and memory does not grow."""
    window = Window(SECONDS)
    now = start
    kept: dict[str, list[float]] = {"success": [], "failure": []}
    for what, pause in events:
        now += pause
        if what == "success":
            window.success(now)
            kept["success"].append(now)
        elif what == "failure":
            window.failure(now)
            kept["failure"].append(now)
        elif kept["success"]:
            window.take_back_success(kept["success"].pop())
        totals = window.totals(now)
        for name, found in (("success", totals.successes), ("failure", totals.failures)):
            sure = sum(1 for then in kept[name] if now - then < SECONDS - STEP - 1e-6)
            possible = sum(1 for then in kept[name] if now - then < SECONDS + 1e-6)
            assert sure <= found <= possible
    assert len(window._epochs) == len(window._successes) == len(window._failures) == BUCKETS


def test_a_window_that_is_none() -> None:
    """Of a length next to nothing it forgets all at once, and counts nothing twice."""
    window = Window(5e-324)
    window.success(1e9)
    assert window.totals(1e9).attempts == 1
    assert window.totals(1e9 + 1).attempts == 0
