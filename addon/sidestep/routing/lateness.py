"""How long calls usually take to begin, and from when on one is late.

Pure: no mitmproxy, no clock, no I/O. `now` is seconds of a monotonic clock. Times are learnt for each provider, model,
kind of call (streamed or whole) and size class of the request: to the head of the answer, and to its first content.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Collection
from typing import NamedTuple

from sidestep.breaker.bounded import Bounded, short

HALF_LIFE_SECONDS = 600.0
"""What was seen this long ago counts half."""
STEP = 1.1
"""The buckets of a sketch grow by this factor: a time is told as it is or up to 10 % longer. The idea is that of
DDSketch (Masson, Rim and Lee, VLDB 2019)."""
LEAST_SECONDS, MOST_SECONDS = 0.001, 3_600.0
"""Times beyond these count as these."""
KNOWN_CALLS = 20.0
"""Of fewer calls, older ones counted less, too little is known."""
USUAL = 0.95
"""The share of calls that says what is usual. Not 0.99: where one call in fifty hangs, the 99th percentile is a hang
itself, and nothing would ever be late. The slowest twentieth is also about what the budget could ask a second time."""
LATE_FACTOR = 4.0
"""Later than this many times the usual is late …"""
LATE_LEAST_SECONDS = 1.0
"""… but never before so long."""
PACE_BYTES = 1_024
"""What a pace is told for; shorter streams say too little of it."""
SLOW_LEAST_SECONDS = 5.0
"""A stream may always pause so long."""
LEARNT_ANEW = 16
"""A quantile is looked up again after at most this many new times."""
SIZES = (4_096, 16_384, 65_536, 262_144, 1_048_576)
"""Bytes of a request where the next size class begins: a longer prompt takes longer to be read."""
MAX_KINDS = 1_000
KIND_BYTES = 9_700
"""Of three sketches, measured with `tracemalloc`."""
RESCALE_SECONDS = 40 * HALF_LIFE_SECONDS

_LOG_STEP = math.log(STEP)
BUCKETS = math.ceil(math.log(MOST_SECONDS / LEAST_SECONDS) / _LOG_STEP) + 1
_EMPTY = bytes(8 * BUCKETS)


class CallKind(NamedTuple):
    """Calls whose times are comparable."""

    provider: str
    model: str | None
    stream: bool
    size: int
    """The size class of the request."""


def kind_of(provider: str, model: str | None, *, stream: bool, body_bytes: int) -> CallKind:
    return CallKind(provider, None if model is None else short(model), stream, bisect_right(SIZES, body_bytes))


class Sketch:
    """The distribution of a time, of which some are only known to be longer than the wait that was cut short.

    State: by bucket the weights of the times that ended in it, and of those that were cut short there; the total; the
    time at which a weight is 1. Newer times weigh more, so that old ones fade without being touched.
    """

    __slots__ = ("_cut", "_ended", "_since", "_total")

    def __init__(self) -> None:
        self._ended = array("d", _EMPTY)
        self._cut = array("d", _EMPTY)
        self._total = 0.0
        self._since = 0.0

    def measured(self, seconds: float, now: float) -> None:
        """It took so long."""
        self._add(self._ended, seconds, now)

    def at_least(self, seconds: float, now: float) -> None:
        """It would have taken longer than this."""
        self._add(self._cut, seconds, now)

    def _add(self, into: array[float], seconds: float, now: float) -> None:
        if not self._total:
            self._since = now
        elif now - self._since > RESCALE_SECONDS:
            self._rescale(now)
        weight = math.exp2(max(0.0, (now - self._since) / HALF_LIFE_SECONDS))
        into[_bucket(seconds)] += weight
        self._total += weight

    def _rescale(self, now: float) -> None:
        """Weights would grow beyond all bounds: what is left of the old ones at `now`."""
        shrink = math.exp2((self._since - now) / HALF_LIFE_SECONDS)
        self._since = now
        self._total = 0.0
        for weights in (self._ended, self._cut):
            for bucket in range(BUCKETS):
                weights[bucket] *= shrink
            self._total += sum(weights)

    def calls(self, now: float) -> float:
        """How many times are known, older ones counted less."""
        return self._total * math.exp2(min(0.0, (self._since - now) / HALF_LIFE_SECONDS))

    def quantile(self, share: float) -> float | None:
        """The time within which this share of calls ends, by the product-limit estimator (Kaplan and Meier, JASA 1958):
        one that was cut short counts as open up to there, and says nothing of after. Where too many were cut short for
        an answer, the longest time that ended; None where none has."""
        at_risk = self._total
        beyond = 1.0
        longest: int | None = None
        for bucket, (ended, cut) in enumerate(zip(self._ended, self._cut, strict=True)):
            if ended:
                longest = bucket
                beyond *= max(0.0, 1.0 - ended / at_risk)
                if beyond <= 1.0 - share + 1e-9:
                    break
            at_risk -= ended + cut
            if at_risk <= 0.0:
                break
        return None if longest is None else _upper(longest)

    def __repr__(self) -> str:
        return f"Sketch(p50={self.quantile(0.5)}, p95={self.quantile(0.95)}, weight={self._total:.1f})"


def _bucket(seconds: float) -> int:
    seconds = min(max(LEAST_SECONDS, seconds), MOST_SECONDS)  # in this order nan is the least
    return math.ceil(math.log(seconds / LEAST_SECONDS) / _LOG_STEP)


def _upper(bucket: int) -> float:
    """The longest time that falls into it."""
    return LEAST_SECONDS * float(STEP**bucket)


class Learnt:
    """State: the sketch, what is usual by it, and how many times were learnt since that was looked up."""

    __slots__ = ("_new", "_usual", "sketch")

    def __init__(self) -> None:
        self.sketch = Sketch()
        self._usual: float | None = None
        self._new = 0

    def learn(self, seconds: float, now: float, *, cut_short: bool) -> None:
        if cut_short:
            self.sketch.at_least(seconds, now)
        else:
            self.sketch.measured(seconds, now)
        self._new += 1

    def usual(self, now: float) -> float | None:
        """Seconds within which nearly all ended; None while too little is known."""
        if self.sketch.calls(now) < KNOWN_CALLS:
            return None
        if self._usual is None or self._new >= LEARNT_ANEW:
            self._usual = self.sketch.quantile(USUAL)
            self._new = 0
        return self._usual

    def late_after(self, now: float) -> float | None:
        """Seconds; None while too little is known."""
        usual = self.usual(now)
        # What is usual is told as up to a step more than it is: nobody is to wait longer for that.
        return None if usual is None else max(LATE_LEAST_SECONDS, LATE_FACTOR * usual / STEP)


class Times:
    """State: what was learnt by kind of call: the time to the head of an answer and to its first content, and for each
    KiB of a stream after that."""

    def __init__(self) -> None:
        self._of: Bounded[CallKind, tuple[Learnt, Learnt, Learnt]] = Bounded(
            MAX_KINDS, 2 * MAX_KINDS * KIND_BYTES, lambda _: KIND_BYTES
        )

    def began(self, kind: CallKind, head_seconds: float, content_seconds: float, now: float) -> None:
        """An answer: its head and its first content came after so long."""
        head, content, _ = self._learnt(kind)
        head.learn(head_seconds, now, cut_short=False)
        content.learn(content_seconds, now, cut_short=False)

    def waited(self, kind: CallKind, head_seconds: float | None, seconds: float, now: float) -> None:
        """A wait for content that was given up after so long. `head_seconds`: when its head came, if it did."""
        head, content, _ = self._learnt(kind)
        head.learn(seconds if head_seconds is None else head_seconds, now, cut_short=head_seconds is None)
        content.learn(seconds, now, cut_short=True)

    def late_after(self, kind: CallKind, now: float, *, head_came: bool) -> float | None:
        """Seconds after its start from which on a call without a head, or without content, is late; None while too
        little is known."""
        learnt = self._of.get(kind)
        return None if learnt is None else learnt[head_came].late_after(now)

    def paced(self, kind: CallKind, size: int, seconds: float, now: float, *, cut_short: bool = False) -> None:
        """A stream of so many bytes took so long from its first content to its end; or longer than that."""
        if size >= PACE_BYTES:
            self._learnt(kind)[2].learn(seconds / size * PACE_BYTES, now, cut_short=cut_short)

    def slow_after(self, kind: CallKind, size: int, now: float) -> float | None:
        """Seconds after its first content from which on a stream of which so many bytes have come is slow; None while
        too little is known."""
        learnt = self._of.get(kind)
        usual = None if learnt is None else learnt[2].usual(now)
        return None if usual is None else SLOW_LEAST_SECONDS + LATE_FACTOR * usual * size / PACE_BYTES

    def usual(self, provider: str, now: float) -> dict[CallKind, tuple[float, float]]:
        """Times to first content of the kinds of calls of which enough is known there, the latest seen last: those of
        a half, and of nearly all."""
        found: dict[CallKind, tuple[float, float]] = {}
        for kind, (_, content, _) in self._of.items():
            if kind.provider != provider or (usual := content.usual(now)) is None:
                continue
            found[kind] = content.sketch.quantile(0.5) or usual, usual
        return found

    def keep(self, providers: Collection[str]) -> None:
        """Forget everything but these."""
        self._of.keep(lambda kind, _: kind.provider in providers)

    def _learnt(self, kind: CallKind) -> tuple[Learnt, Learnt, Learnt]:
        learnt = self._of.use(kind)
        if learnt is None:
            learnt = Learnt(), Learnt(), Learnt()
            self._of.put(kind, learnt)
        return learnt


BURST = 3.0
"""Extra attempts that may be made at once, before the share of requests counts."""


class Budget:
    """What may be spent on second attempts beside a late one: a token bucket. State: what it holds."""

    def __init__(self) -> None:
        self._holds = BURST

    def earn(self, share: float) -> None:
        """A request came for which a second attempt would be possible."""
        self._holds = min(BURST, self._holds + share)

    @property
    def enough(self) -> bool:
        """There is enough for one more attempt."""
        return round(self._holds, 6) >= 1.0

    def take(self) -> bool:
        """Whether there is enough for one more attempt, which is then taken."""
        if not self.enough:
            return False
        self._holds -= 1.0
        return True

    def give_back(self) -> None:
        """The attempt cost nobody anything, or the one beside which it was made has failed."""
        self._holds = min(BURST, self._holds + 1.0)

    def __repr__(self) -> str:
        return f"Budget({self._holds:.2f} of {BURST:.0f})"


HANGING_SECONDS = 300.0
"""How long it is held against a provider that it hung, if it is not seen to answer."""
TRIED_SECONDS = 15.0
"""How long after one call that it gets all the same the next one follows."""
MAX_HANGING = 1_000


class Hanging:
    """Providers that were clearly outdone: one asked beside them had content sooner than they had been given before
    that. Where nothing is left for a second attempt, a call that went to one of them would wait for its last deadline.

    State: by provider and model until when that counts, and from when on one more call may go there (0: that was not
    asked yet).
    """

    def __init__(self) -> None:
        self._of: Bounded[tuple[str, str | None], tuple[float, float]] = Bounded(MAX_HANGING, MAX_HANGING * 500)

    def outdone(self, provider: str, model: str | None, now: float) -> None:
        known = self._of.get((provider, model))
        self._of.put((provider, model), (now + HANGING_SECONDS, 0.0 if known is None else known[1]))

    def answered(self, provider: str, model: str | None) -> None:
        self._of.pop((provider, model))

    def avoids(self, provider: str, model: str | None, now: float, *, insured: bool) -> bool:
        """Whether a call had better go elsewhere. `insured`: another could be asked beside it. As long as all are, they
        need not; once one was not, one at a time of those that are goes there again."""
        known = self._of.get((provider, model))
        if known is None:
            return False
        until, again_at = known
        if now >= until:
            self._of.pop((provider, model))
            return False
        if not insured:
            self._of.put((provider, model), (until, again_at or now))
            return True
        if not again_at:
            return False
        if now < again_at:
            return True
        self._of.put((provider, model), (until, now + TRIED_SECONDS))
        return False

    def __len__(self) -> int:
        return len(self._of)
