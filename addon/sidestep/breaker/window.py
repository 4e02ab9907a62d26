"""Rolling counts of successes and failures over time, in bounded memory. Knows no circuit and no clock.

Pure: no mitmproxy, no clock, no I/O. `now` is seconds of a monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass

BUCKETS = 20
"""The window moves in steps of a twentieth of its length."""
SHORTEST_STEP = 1e-6
"""Seconds: the number of a step has to be a number."""


@dataclass(frozen=True, slots=True)
class Totals:
    successes: int
    failures: int

    @property
    def attempts(self) -> int:
        return self.successes + self.failures

    @property
    def failure_rate(self) -> float:
        return self.failures / self.attempts if self.attempts else 0.0


class Window:
    """State: per bucket its number in time, its successes and its failures."""

    __slots__ = ("_epochs", "_failures", "_step", "_successes")

    def __init__(self, seconds: float) -> None:
        self._step = max(seconds / BUCKETS, SHORTEST_STEP)
        self.clear()

    def clear(self) -> None:
        self._epochs = [-1] * BUCKETS
        self._successes = [0] * BUCKETS
        self._failures = [0] * BUCKETS

    def success(self, now: float) -> None:
        self._successes[self._bucket(now)] += 1

    def failure(self, now: float) -> None:
        self._failures[self._bucket(now)] += 1

    def take_back_success(self, then: float) -> None:
        """A success recorded at `then` was none: forget it, if the window still knows it."""
        epoch = int(then // self._step)
        place = epoch % BUCKETS
        if self._epochs[place] == epoch and self._successes[place]:
            self._successes[place] -= 1

    def totals(self, now: float) -> Totals:
        oldest = int(now // self._step) - BUCKETS
        alive = [i for i, epoch in enumerate(self._epochs) if epoch > oldest]
        return Totals(sum(self._successes[i] for i in alive), sum(self._failures[i] for i in alive))

    def _bucket(self, now: float) -> int:
        epoch = int(now // self._step)
        place = epoch % BUCKETS
        if self._epochs[place] != epoch:
            self._epochs[place] = epoch
            self._successes[place] = self._failures[place] = 0
        return place
