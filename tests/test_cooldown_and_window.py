"""Cooldowns and the rolling window."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from sidestep.cooldown import ANNOUNCED_MAX_SECONDS, Cooldown
from sidestep.window import Window

SECONDS = st.floats(0, 1000)


@given(st.lists(st.tuples(SECONDS, SECONDS), min_size=1))
def test_the_later_of_two_deadlines_wins(starts: list[tuple[float, float]]) -> None:
    """Whatever comes in whatever order, the latest deadline holds, with its reason."""
    c = Cooldown()
    for i, (now, seconds) in enumerate(starts):
        c.start(now, seconds, str(i))
    latest = max(now + seconds for now, seconds in starts)
    assert c.remaining(0) == latest
    if latest > 0:
        now, seconds = starts[int(c.reason(0))]
        assert now + seconds == latest


def test_without_a_time_it_doubles_from_five_to_sixty_seconds() -> None:
    """Each refusal after the last cooldown's end doubles the next; a success starts small again."""
    c = Cooldown()
    now = 0.0
    for expected in (5, 10, 20, 40, 60, 60):
        c.start(now, None, "rate_limit")
        assert c.remaining(now) == expected
        now += expected
    c.succeeded()
    c.start(now, None, "rate_limit")
    assert c.remaining(now) == 5


def test_a_burst_of_refusals_counts_once() -> None:
    """A hundred 429s from one moment are one reason to wait, not a hundred."""
    c = Cooldown()
    for i in range(100):
        c.start(i / 1000, None, "rate_limit")
    assert c.remaining(0) == 5
    c.start(6, None, "rate_limit")
    assert c.remaining(6) == 10


def test_a_broken_time_bans_nobody_for_ever() -> None:
    """Infinite, negative and absurd times are bounded."""
    c = Cooldown()
    c.start(0, -5, "x")
    assert c.remaining(0) == 0
    c.start(0, math.inf, "x")
    assert c.remaining(0) == 5
    c.start(0, 1e12, "x")
    assert c.remaining(0) == ANNOUNCED_MAX_SECONDS
    assert c.reason(ANNOUNCED_MAX_SECONDS + 1) == ""


@given(st.lists(st.tuples(st.floats(0, 50), st.booleans())))
def test_the_window_counts_what_is_young_and_forgets_what_is_old(events: list[tuple[float, bool]]) -> None:
    """All of the last 9.5 s are counted, nothing older than 10 s."""
    window = Window(10)
    now = 0.0
    at: list[tuple[float, bool]] = []
    for step, good in events:
        now += step / 10
        at.append((now, good))
        if good:
            window.success(now)
        else:
            window.failure(now)
    totals = window.totals(now)
    for kind, count in ((True, totals.successes), (False, totals.failures)):
        young = sum(1 for t, good in at if good is kind and t > now - 9.5)
        alive = sum(1 for t, good in at if good is kind and t >= now - 10)
        assert young <= count <= alive


def test_a_success_taken_back_is_gone() -> None:
    """Also when the window has moved on meanwhile, and never below zero."""
    window = Window(10)
    window.success(1)
    window.take_back_success(1, 2)
    window.take_back_success(1, 2)
    assert window.totals(2).attempts == 0
    window.success(3)
    window.take_back_success(3, 30)
    window.success(33)
    assert window.totals(33).successes == 1
