"""In which order a route's providers are asked: by weight, by price, by pace. It orders and rules none out.

Pure: no mitmproxy, no I/O; time and randomness are arguments. Who may be asked is `routing`'s, whose circuit lets a
call through is the engine's, and which provider a conversation stays with is `sticking`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from sidestep.breaker.bounded import Bounded, short
from sidestep.dialects.base import Call, Usage
from sidestep.routing import prices
from sidestep.routing.table import Candidate

BYTES_PER_TOKEN = 4
"""Of English text, by OpenAI's help page "What are tokens and how to count them?" (1 token is about 4 characters)."""
ASSUMED_OUTPUT_TOKENS = 500
"""Where a request sets no limit of its own: about a page. An assumption."""

SAMPLE_SHARE = 0.3
"""How much the latest time counts in an average: the last six make up nine tenths of it."""
EXPLORE_SHARE = 0.05
"""Of the requests, this share looks for a provider that has become faster meanwhile."""
STALE_SECONDS = 30.0
"""A time measured longer ago is worth a new look."""
UNMEASURED_SECONDS = 10.0
"""One that has never answered is tried once in so long: it may be slow, or failing."""
BUSY = 8
"""Attempts out at the fastest provider from which on its load counts as well."""
LEAST_SECONDS = 0.001
MAX_PACES = 2_000
"""Averages kept, the latest used: an app that makes up models must not fill the memory."""
PACES_BYTES = 2 << 20

PaceKey = tuple[str, str | None, str, bool]
"""Provider, its model, operation, and whether streamed: the first content of a whole answer is its end."""


# --- cheapest


def cheapest(candidates: Sequence[Candidate], call: Call, body_bytes: int) -> list[Candidate]:
    """The candidates by what this request would cost there; those without a known price last, in their order."""
    usage = Usage(body_bytes // BYTES_PER_TOKEN, call.max_output_tokens or ASSUMED_OUTPUT_TOKENS)

    def dollars(candidate: Candidate) -> float:
        found = prices.cost(candidate.provider, candidate.model, usage)
        return math.inf if found is None else found

    return sorted(candidates, key=dollars)


# --- weighted


def by_weight(candidates: Sequence[Candidate]) -> list[Candidate]:
    return sorted(candidates, key=lambda c: -c.provider.weight)


class Turns:
    """Smooth weighted round robin, as nginx does it since 1.3.1 (`ngx_http_upstream_get_peer`): each gains its
    weight, the one with most is chosen and pays what all gained.

    State: the credit of each provider by route.
    """

    def __init__(self) -> None:
        self._credit: dict[str, dict[str, float]] = {}

    def choose(self, route: str, weights: Mapping[str, float]) -> str:
        """Whose turn it is among these; of equals the first."""
        credit = self._credit.setdefault(route, {})
        best = ""
        for name, weight in weights.items():
            credit[name] = credit.get(name, 0.0) + weight
            if not best or credit[name] > credit[best]:
                best = name
        credit[best] -= sum(weights.values())
        return best

    def keep(self, routes: Collection[str], providers: Collection[str]) -> None:
        """Forget everything but these."""
        self._credit = {
            route: {name: value for name, value in credit.items() if name in providers}
            for route, credit in self._credit.items()
            if route in routes
        }


# --- fastest


@dataclass(slots=True)
class Pace:
    """How soon a provider begins to answer. Times are seconds of the monotonic clock."""

    average: float | None = None
    """Seconds to the first content; None before the first answer."""
    looked_at: float = -math.inf
    """When it was last measured, or asked in order to be."""


class Paces:
    """State: moving averages of the time to first content."""

    def __init__(self) -> None:
        self._paces: Bounded[PaceKey, Pace] = Bounded(MAX_PACES, PACES_BYTES)
        self._overall: dict[str, float] = {}

    def measured(self, key: PaceKey, seconds: float, now: float) -> None:
        """An answer began after so long."""
        pace = self._pace(key)
        pace.looked_at = now
        pace.average = _moved(pace.average, seconds)
        self._overall[key[0]] = _moved(self._overall.get(key[0]), seconds)

    def failed(self, key: PaceKey, seconds: float, now: float) -> None:
        """A failure took so long: it can only make a provider look slower, and one that never answered stays
        unmeasured."""
        pace = self._paces.get(key)
        if pace is not None and pace.average is not None and seconds > pace.average:
            pace.looked_at = now
            pace.average = _moved(pace.average, seconds)

    def overall(self, provider: str) -> float | None:
        """A provider's moving average over all its models, None before its first measured answer."""
        return self._overall.get(provider)

    def ranked(self, keys: Sequence[PaceKey]) -> list[int]:
        """Indices of these from the fastest to the slowest, the unmeasured last."""
        averages = [math.inf if (pace := self._paces.get(key)) is None else _average(pace) for key in keys]
        return sorted(range(len(keys)), key=averages.__getitem__)

    def choose(self, keys: Sequence[PaceKey], out: Mapping[str, int], now: float, random: Callable[[], float]) -> int:
        """The index of the one to ask first. `out`: attempts under way by provider.

        It is the fastest, or the one that is due for a look. Once many requests are out there, the fastest is compared
        with one other drawn at random (two choices), and the one that promises the shorter wait for its load is asked.
        """
        ranked = self.ranked(keys)
        paces = [self._pace(key) for key in keys]
        due = self._due(paces, ranked[0], now, random)
        if due is None:
            return self._of_two(keys, paces, ranked, out, random)
        paces[due].looked_at = now
        return due

    @staticmethod
    def _due(paces: list[Pace], fastest: int, now: float, random: Callable[[], float]) -> int | None:
        """Who is to be looked at: one never measured, else now and then the one not seen for longest."""
        for i, pace in enumerate(paces):
            if pace.average is None and now - pace.looked_at >= UNMEASURED_SECONDS:
                return i
        if random() >= EXPLORE_SHARE:
            return None
        oldest = min((i for i in range(len(paces)) if i != fastest), key=lambda i: paces[i].looked_at, default=fastest)
        return oldest if now - paces[oldest].looked_at >= STALE_SECONDS else None

    @staticmethod
    def _of_two(
        keys: Sequence[PaceKey],
        paces: list[Pace],
        ranked: list[int],
        out: Mapping[str, int],
        random: Callable[[], float],
    ) -> int:
        first = ranked[0]
        load = out.get(keys[first][0], 0)
        if load < BUSY or len(ranked) < 2:
            return first
        other = ranked[1 + int(random() * (len(ranked) - 1))]

        def wait(i: int) -> float:
            average = paces[i].average
            known = paces[first].average if average is None else average
            return max(known or 0.0, LEAST_SECONDS) * (out.get(keys[i][0], 0) + 1)

        return other if wait(other) < wait(first) else first

    def _pace(self, key: PaceKey) -> Pace:
        pace = self._paces.use(key)
        if pace is None:
            pace = Pace()
            self._paces.put(key, pace)
        return pace

    def keep(self, providers: Collection[str]) -> None:
        """Forget everything but these."""
        self._paces.keep(lambda key, _: key[0] in providers)
        self._overall = {name: seconds for name, seconds in self._overall.items() if name in providers}


def pace_key(candidate: Candidate, call: Call) -> PaceKey:
    """What a candidate's time with this call is comparable with."""
    model = None if candidate.model is None else short(candidate.model)
    return candidate.provider.name, model, call.operation, call.stream


def _average(pace: Pace) -> float:
    return math.inf if pace.average is None else pace.average


def _moved(average: float | None, seconds: float) -> float:
    return seconds if average is None else average + SAMPLE_SHARE * (seconds - average)


# --- all of them


class Strategist:
    """Orders a call's candidates by its route's strategy. State: that of the strategies, over all calls."""

    def __init__(self, random: Callable[[], float]) -> None:
        """`random` gives numbers from 0 up to 1."""
        self.turns = Turns()
        self.paces = Paces()
        self._random = random

    def keep(self, routes: Collection[str], providers: Collection[str]) -> None:
        """Forget what was learnt of other routes and providers than these."""
        self.turns.keep(routes, providers)
        self.paces.keep(providers)

    def order(
        self,
        strategy: str,
        route: str,
        call: Call,
        body_bytes: int,
        candidates: Sequence[Candidate],
        may_be_asked: Callable[[Candidate], bool],
        out: Mapping[str, int],
        now: float,
        *,
        spoken_for: bool = False,
    ) -> Sequence[Candidate]:
        """All candidates in the strategy's order; one that would be refused now does not come first.

        `out`: attempts under way by provider. `spoken_for`: the call stays with a provider, so that it is no
        provider's turn or trial, and only those that would stand in are ordered.
        """
        if strategy == "priority":
            return candidates
        if strategy == "cheapest":
            return cheapest(candidates, call, body_bytes)
        weighted = strategy == "weighted"
        if weighted:
            ordered = by_weight(candidates)
        else:
            ordered = [candidates[i] for i in self.paces.ranked([pace_key(c, call) for c in candidates])]
        able = [] if spoken_for else [c for c in candidates if may_be_asked(c)]
        if not able:
            return ordered
        if weighted:
            turn = self.turns.choose(route, {c.provider.name: c.provider.weight for c in able})
            first = next(c for c in able if c.provider.name == turn)
        else:
            first = able[self.paces.choose([pace_key(c, call) for c in able], out, now, self._random)]
        return [first, *(c for c in ordered if c is not first)]
