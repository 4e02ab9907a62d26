"""What other processes say of the windows of a plan."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestep.breaker.cooldown import Subject
from sidestep.breaker.plans import Plans
from sidestep.breaker.windows import MAX_WINDOWS, SAME_SECONDS, Standing, Window, is_news

ACCOUNT = Subject("a", "fingerprint")
WINDOW = Window("5h", "", Standing.ALLOWED, 0.5, 900.0)


@pytest.mark.parametrize(
    ("change", "known"),
    [
        ({"used": 0.51}, True),
        ({"used": 0.509}, False),
        ({"used": 0.4}, False),
        ({"used": None}, False),
        ({"standing": Standing.WARNING, "used": 0.1}, True),
        ({"standing": Standing.REJECTED, "used": None}, True),
        ({"resets_in": 900.0 + SAME_SECONDS + 1, "used": 0.0}, True),
        ({"resets_in": 900.0 - SAME_SECONDS - 1, "used": 1.0}, False),
        ({"resets_in": None, "used": 1.0}, False),
    ],
)
def test_more_use_or_a_later_window_is_news(change: dict[str, object], known: bool) -> None:
    plans = Plans()
    plans.told(ACCOUNT, (WINDOW,), 100.0)
    heard = replace(WINDOW, **change)  # type: ignore[arg-type]
    assert plans.heard(ACCOUNT, heard, 100.0) is known
    assert plans.windows(ACCOUNT, 100.0) == ((heard if known else WINDOW),)


def test_it_ends_no_earlier_than_was_known() -> None:
    plans = Plans()
    plans.told(ACCOUNT, (WINDOW,), 100.0)
    assert plans.heard(ACCOUNT, replace(WINDOW, used=0.9, resets_in=880.0), 110.0)
    assert plans.windows(ACCOUNT, 110.0) == (replace(WINDOW, used=0.9, resets_in=890.0),)


def test_others_of_the_account_stay_and_age() -> None:
    plans = Plans()
    week = Window("7d", "", Standing.WARNING, 0.9, 90_000.0)
    assert plans.heard(ACCOUNT, week, 100.0)
    assert plans.heard(ACCOUNT, WINDOW, 200.0)
    assert plans.windows(ACCOUNT, 300.0) == (replace(week, resets_in=89_800.0), replace(WINDOW, resets_in=800.0))
    for i in range(2 * MAX_WINDOWS):
        plans.heard(ACCOUNT, replace(WINDOW, name=f"w{i}"), 300.0)
    assert len(plans.windows(ACCOUNT, 300.0)) == MAX_WINDOWS


windows = st.builds(
    Window,
    name=st.just("5h"),
    family=st.just(""),
    standing=st.sampled_from(Standing),
    used=st.none() | st.floats(0, 2),
    resets_in=st.floats(1, 10_000),
)


@given(st.lists(windows, min_size=1, max_size=8))
def test_in_whatever_order_it_is_heard(told: list[Window]) -> None:
    """No end is ever cut short; said twice it is no news; and of windows that are one, or far apart, the last word does
    not depend on the order."""
    plans = Plans()
    ends = 0.0
    for window in told:
        plans.heard(ACCOUNT, window, 0.0)
        assert not plans.heard(ACCOUNT, window, 0.0)
        [found] = plans.windows(ACCOUNT, 0.0)
        assert found.resets_in is not None
        assert found.resets_in >= ends
        ends = found.resets_in
    apart = [replace(w, resets_in=math.ceil((w.resets_in or 0) / 1000) * 1000.0) for w in told]
    levels = set()
    for order in (apart, apart[::-1], sorted(apart, key=lambda w: w.level)):
        plans = Plans()
        for window in order:
            plans.heard(ACCOUNT, window, 0.0)
        [found] = plans.windows(ACCOUNT, 0.0)
        levels.add((found.level, found.resets_in))
    assert len(levels) == 1


def test_of_two_clocks_a_window_is_one() -> None:
    assert is_news(51, 1000.0, 50, 1000.0 + SAME_SECONDS)
    assert not is_news(50, 1000.0 + SAME_SECONDS, 50, 1000.0)
    assert is_news(0, 1001.0 + SAME_SECONDS, 50, 1000.0)
    assert not is_news(99, 1000.0, 50, 1001.0 + SAME_SECONDS)
