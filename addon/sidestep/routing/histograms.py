"""How long things take, as cumulative histograms: what Prometheus computes quantiles from.

Pure: no clock, no I/O, no word of who is asked next. Labels come from the configuration, never from an app: a
time series is kept for each.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Upper bounds in seconds: from a small model nearby to the longest that `[timeouts]` and SDKs wait by default."""


Labels = tuple[str, str]


class Histograms:
    """State: for each pair of labels how many were within each bound but not within the one before (in the last place:
    within none), and the sum of all in seconds."""

    __slots__ = ("_counts", "_sums")

    def __init__(self) -> None:
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}

    def took(self, key: Labels, seconds: float) -> None:
        """Something took so long."""
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = [0] * (len(BOUNDS) + 1)
            self._sums[key] = 0.0
        counts[bisect_left(BOUNDS, seconds)] += 1
        self._sums[key] += seconds

    def __iter__(self) -> Iterator[tuple[Labels, list[int], float]]:
        """Each pair with how many were within each bound, and within any, and the sum in seconds."""
        for key, counts in self._counts.items():
            yield key, list(accumulate(counts)), self._sums[key]
