"""What has happened lately, for people to look at: the last calls, and the last hour minute by minute.

Pure: no clock, no I/O. Nothing is computed here while nobody looks: a call costs one entry and one count.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Any

CALLS = 50
MINUTES = 60
CAUSES = 20
"""Different ways in which calls have failed that are remembered."""
LONGEST_WORD = 200
"""Characters of what an app has chosen (a model's name) that are kept."""
FINE = tuple(0.01 * 1.25**i for i in range(50))
"""Upper bounds in seconds, a quarter apart each, from 10 ms to 9 minutes: a quantile is right to a tenth."""


class Minute:
    """State: which one it is (of the monotonic clock), its calls, those of them that failed, those that were rerouted,
    and how many of them had their first content within each bound of `FINE`."""

    __slots__ = ("calls", "failed", "number", "rerouted", "waits")

    def __init__(self, number: int) -> None:
        self.number = number
        self.calls = 0
        self.failed = 0
        self.rerouted = 0
        self.waits = [0] * (len(FINE) + 1)


class Recent:
    """State: the last calls, each with its number and when it ended; the last minutes in which there were any; how many
    calls there have been; why calls have failed, and how many for each reason; of each provider how many of its answers
    began within each bound of `FINE`, since the start."""

    def __init__(self) -> None:
        self.calls: deque[tuple[int, float, dict[str, Any]]] = deque(maxlen=CALLS)
        self.minutes: deque[Minute] = deque(maxlen=MINUTES)
        self.count = 0
        self.causes: Counter[str] = Counter()
        self.waits: dict[str, list[int]] = {}

    def ended(self, story: dict[str, Any], waited: float | None, now: float, *, result: str) -> None:
        """A call is over. `waited`: seconds from its arrival to its first content, None if there was none."""
        self.count += 1
        if len(story["model"] or "") > LONGEST_WORD:
            story = story | {"model": story["model"][:LONGEST_WORD]}
        self.calls.append((self.count, now, story))
        number = int(now // 60)
        if not self.minutes or self.minutes[-1].number != number:
            self.minutes.append(Minute(number))
        minute = self.minutes[-1]
        minute.calls += 1
        minute.failed += result == "failed"
        minute.rerouted += result == "rerouted"
        if waited is not None:
            minute.waits[bisect_left(FINE, waited)] += 1

    def failed(self, cause: str) -> None:
        """A call has failed, and why, in words."""
        if cause in self.causes or len(self.causes) < CAUSES:
            self.causes[cause] += 1

    def began(self, provider: str, waited: float) -> None:
        """A provider's answer has begun, so many seconds after it was asked."""
        counts = self.waits.get(provider)
        if counts is None:
            counts = self.waits[provider] = [0] * (len(FINE) + 1)
        counts[bisect_left(FINE, waited)] += 1

    def hour(self, now: float) -> list[Minute]:
        """The last 60 minutes, the present one last."""
        last = int(now // 60)
        found = {minute.number: minute for minute in self.minutes}
        return [found.get(n) or Minute(n) for n in range(last - MINUTES + 1, last + 1)]


def quantile(share: float, counts: Sequence[int], bounds: Sequence[float]) -> float | None:
    """The value in seconds below which this share of all lies, as Prometheus' `histogram_quantile` estimates it; None
    where there are none. `counts`: how many lie within each bound and not within the one before, then the rest."""
    wanted = share * sum(counts)
    if not wanted:
        return None
    before, low = 0, 0.0
    for count, bound in zip(counts, bounds, strict=False):
        if before + count >= wanted and count:
            return low + (bound - low) * (wanted - before) / count
        before, low = before + count, bound
    return bounds[-1]


def added(counts: Iterable[Sequence[int]], length: int) -> list[int]:
    """Several histograms as one."""
    total = [0] * length
    for each in counts:
        for place, count in enumerate(each):
            total[place] += count
    return total
