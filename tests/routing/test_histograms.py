"""Histograms: each value is counted once, within every bound that it does not exceed."""

from __future__ import annotations

import pytest

from sidestep.breaker import judging
from sidestep.routing.histograms import BOUNDS, Histograms
from support.flows import ask
from support.world import World, toml

KEY = ("a", "b")


@pytest.mark.parametrize(
    ("seconds", "above"),
    [(0.0, 0), (0.05, 0), (0.050001, 1), (1.0, 4), (600.0, len(BOUNDS) - 1), (600.1, len(BOUNDS)), (1e9, len(BOUNDS))],
)
def test_a_value_is_within_the_bounds_that_it_does_not_exceed(seconds: float, above: int) -> None:
    """As Prometheus has it: `le`. The last count is that of all."""
    times = Histograms()
    times.took(KEY, seconds)
    times.took(KEY, 0.0)
    assert list(times) == [(KEY, [1] * above + [2] * (len(BOUNDS) + 1 - above), seconds)]


def test_the_bounds_are_those_of_llm_calls() -> None:
    """From 50 ms to the ten minutes that SDKs wait by default, in order."""
    assert (BOUNDS[0], BOUNDS[-1]) == (0.05, 600)
    assert list(BOUNDS) == sorted(set(BOUNDS))


def test_each_answer_gives_its_time_to_first_content_once() -> None:
    """By provider and form; what failed before has none, and a stream that breaks later had one."""
    w = World(toml(a="", b=""))
    for stream in (False, True, True):
        exchange = w.exchange({"stream": stream})
        ask(w, exchange)
        w.now += 9
        w.fail(exchange, judging.TIMEOUT)
        ask(w, exchange)
        w.now += 0.3
        w.settle(exchange)
        w.now += 5
        w.settle(exchange, judging.TRUNCATED)
    found = {key: (counts[-1], counts[3], counts[2], round(total, 6)) for key, counts, total in w.engine.first_content}
    assert found == {("b", "whole"): (1, 1, 0, 0.3), ("b", "streamed"): (2, 2, 0, 0.6)}
