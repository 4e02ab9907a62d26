"""What has happened lately: the last calls, the minutes of an hour, quantiles."""

from __future__ import annotations

from typing import Any

import pytest

from sidestep.routing.recent import CALLS, CAUSES, FINE, MINUTES, Recent, added, quantile

STORY: dict[str, Any] = {"model": "m"}


def test_the_last_calls_are_kept_with_their_numbers() -> None:
    """So many of them, and no model's name is longer than two hundred characters."""
    recent = Recent()
    for i in range(CALLS + 2):
        recent.ended(STORY, None, float(i), result="answered")
    assert [(number, at) for number, at, _ in recent.calls] == [(i + 1, float(i)) for i in range(2, CALLS + 2)]
    for model, kept in ((None, None), ("x" * 200, "x" * 200), ("x" * 199 + "yz", "x" * 199 + "y")):
        recent.ended({"model": model, "route": "r"}, None, 0.0, result="answered")
        assert recent.calls[-1][2] == {"model": kept, "route": "r"}


def test_each_minute_counts_its_own_calls() -> None:
    """By the clock's minutes, the present one last; one in which there was nothing is empty."""
    recent = Recent()
    for now, result, waited in (
        (59.9, "answered", 0.01),
        (60.0, "failed", None),
        (119.9, "rerouted", 0.011),
        (240.0, "left", 1e9),
    ):
        recent.ended(STORY, waited, now, result=result)
    hour = recent.hour(240.0)
    assert [minute.number for minute in hour] == list(range(4 - MINUTES + 1, 5))
    assert [(m.calls, m.failed, m.rerouted) for m in hour[-5:]] == [
        *((1, 0, 0), (2, 1, 1), (0, 0, 0), (0, 0, 0), (1, 0, 0)),
    ]
    within = [{place: count for place, count in enumerate(m.waits) if count} for m in hour[-5:]]
    assert within == [{0: 1}, {1: 1}, {}, {}, {len(FINE): 1}]
    assert recent.hour(240.0 + 60 * (MINUTES - 1))[0].calls == 1
    assert not any(m.calls for m in recent.hour(240.0 + 60 * MINUTES))


def test_so_many_causes_are_remembered() -> None:
    """Further ones are passed over; those that are known go on being counted."""
    recent = Recent()
    for _ in range(2):
        for i in range(CAUSES + 1):
            recent.failed(str(i))
    assert recent.causes == {str(i): 2 for i in range(CAUSES)}


def test_how_soon_each_provider_begins() -> None:
    recent = Recent()
    for provider, waited in (("a", 0.0), ("a", 0.012), ("b", 0.012), ("a", 1e9)):
        recent.began(provider, waited)
    assert {name: (counts[:3], counts[-1], len(counts)) for name, counts in recent.waits.items()} == {
        "a": ([1, 1, 0], 1, len(FINE) + 1),
        "b": ([0, 1, 0], 0, len(FINE) + 1),
    }
    assert FINE[0] == 0.01
    assert 500 < FINE[-1] < 600, "nine minutes"


@pytest.mark.parametrize(
    ("share", "counts", "value"),
    [
        (0.5, [0, 4, 4, 0], 2.0),
        (0.25, [0, 4, 4, 0], 1.5),
        (0.75, [0, 4, 4, 0], 3.0),
        (1.0, [0, 4, 4, 0], 4.0),
        (0.5, [8, 0, 0, 0], 0.5),
        (0.5, [2, 0, 2, 0], 1.0),
        (0.9, [1, 1, 1, 7], 4.0),
        (0.0, [0, 4, 4, 0], None),
        (0.5, [0, 0, 0, 0], None),
    ],
)
def test_quantiles(share: float, counts: list[int], value: float | None) -> None:
    """Evenly between the bounds; beyond the last one that."""
    assert quantile(share, counts, (1.0, 2.0, 4.0)) == value


def test_several_histograms_are_one() -> None:
    assert added([], 3) == [0, 0, 0]
    assert added([[1, 2, 3], [4, 5]], 3) == [5, 7, 3]
