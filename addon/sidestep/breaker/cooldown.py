"""Limits: until when a provider would rather not be asked, and for what.

Pure: no mitmproxy, no clock, no I/O. `now` is seconds of a monotonic clock. A cooldown is a preference: it sends a call
to another provider and refuses none. It is beside the circuits and never changes one.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from sidestep.breaker.bounded import Bounded, short
from sidestep.breaker.outcomes import Outcome

FIRST_SECONDS = 5.0
"""After a 429 that names no time."""
LONGEST_SECONDS = 60.0
"""The doubling of the above ends here."""
ANNOUNCED_MAX_SECONDS = 86_400.0
"""An announced end is believed up to a day: a broken header must not ban a provider for ever."""
FORESEEN = "limit_foreseen"
"""The reason while a provider that answers has said that its limit is used up."""
MAX_COOLDOWNS = 5_000
"""An app that makes up models or keys must not fill the memory: the ones not used for longest go first."""
COOLDOWNS_BYTES = 4 << 20
MAX_FAMILIES = 16
"""Families of models with windows of their own; Claude's plans have two or three."""


class Subject(NamedTuple):
    """What a limit belongs to. Operation and model are None for one that is the whole account's."""

    provider: str
    credential: str = ""
    """A fingerprint of what was sent; empty for the one credential that the provider's configuration gives it."""
    operation: str | None = None
    model: str | None = None

    @property
    def account(self) -> Subject:
        return Subject(self.provider, self.credential)

    def of_family(self, family: str) -> Subject:
        """The same account's models whose names hold this word."""
        return Subject(self.provider, self.credential, None, f"*{family}*")


def subject(provider: str, credential: str, operation: str, model: str | None) -> Subject:
    """The narrowest subject of a call, with names of a bounded length."""
    return Subject(provider, short(credential), operation, None if model is None else short(model))


class Source(enum.IntEnum):
    """Where a cooldown comes from, the weightiest last."""

    FORESEEN = 0
    """A good answer said that the limit is used up now."""
    GUESSED = 1
    """A refusal that named no time."""
    ANNOUNCED = 2
    """A refusal that named its time, or whose kind does not end soon."""


@dataclass(frozen=True, slots=True)
class Cooling:
    """What holds now: seconds until the latest deadline, and why."""

    seconds: float
    reason: str
    source: Source


class Cooldown:
    """State: the deadline with its reason, the length of the next one that no refusal announces and until when such
    a one holds, when a limit was foreseen and until when."""

    __slots__ = ("_backoff_until", "_foreseen_at", "_foreseen_until", "_next", "_reason", "_source", "_until")

    def __init__(self) -> None:
        self._until = -math.inf
        self._reason = ""
        self._source = Source.GUESSED
        self._next = FIRST_SECONDS
        self._backoff_until = -math.inf
        self._foreseen_at = -math.inf
        self._foreseen_until = -math.inf

    def start(self, now: float, seconds: float | None, reason: str) -> None:
        """Pass over until `now + seconds`; the later of two deadlines wins. None: 5 s, doubling to 60 s."""
        source = Source.ANNOUNCED
        if seconds is None or not math.isfinite(seconds):
            source = Source.GUESSED
            if now < self._backoff_until:
                return  # one burst of refusals counts once
            seconds = self._next
            self._next = min(self._next * 2, LONGEST_SECONDS)
            self._backoff_until = now + seconds
        self._hold(now, seconds, reason, source)

    def told(self, now: float, told: Cooling) -> None:
        """Another process was refused, or foresees a limit: the later of two deadlines wins. How long the next limit is
        that no refusal announces is each process's own."""
        if told.source is Source.FORESEEN:
            self.foresee(now, told.seconds)
        else:
            self._hold(now, told.seconds, told.reason, told.source)

    def _hold(self, now: float, seconds: float, reason: str, source: Source) -> None:
        until = now + min(max(0.0, seconds), ANNOUNCED_MAX_SECONDS)
        if until > self._until:
            self._until = until
            self._reason = reason
            self._source = source

    def foresee(self, at: float, seconds: float) -> None:
        """An answer whose head came at `at` said that a limit is used up, and for how long."""
        until = at + min(max(0.0, seconds), ANNOUNCED_MAX_SECONDS)
        self._foreseen_at = max(at, self._foreseen_at)
        self._foreseen_until = max(until, self._foreseen_until)

    def succeeded(self, asked_at: float = -math.inf) -> None:
        """The provider answered a request sent at `asked_at`: the next unannounced cooldown starts small again, and
        a limit foreseen before that was none."""
        self._next = FIRST_SECONDS
        if asked_at > self._foreseen_at:
            self._foreseen_until = -math.inf

    def cooling(self, now: float) -> Cooling | None:
        """What holds now, None if nothing does."""
        until = max(self._until, self._foreseen_until)
        if now >= until:
            return None
        if now >= self._until:
            return Cooling(until - now, FORESEEN, Source.FORESEEN)
        return Cooling(until - now, self._reason, self._source)

    def __repr__(self) -> str:
        return f"Cooldown(until={self._until:.3f}, reason={self._reason!r})"


class Cooldowns:
    """State: the cooldowns by what they belong to, and the families of models that any of them is for."""

    def __init__(self) -> None:
        self._families: set[str] = set()
        self._of: Bounded[Subject, Cooldown] = Bounded(MAX_COOLDOWNS, COOLDOWNS_BYTES)

    def start(self, limited: Subject, outcome: Outcome, now: float) -> Subject | None:
        """A call for this subject was refused with this outcome; what the limit belongs to.

        One that was refused for its own size begins none: it says nothing of smaller ones.
        """
        if outcome.size_limited:
            return None
        blamed = limited.account if outcome.account else limited
        if outcome.family and (outcome.family in self._families or len(self._families) < MAX_FAMILIES):
            self._families.add(outcome.family)
            blamed = limited.of_family(outcome.family)
        self._cooldown(blamed).start(now, outcome.cooldown_seconds, outcome.reason)
        return blamed

    def foresee(self, limited: Subject, at: float, seconds: float) -> None:
        self._cooldown(limited).foresee(at, seconds)

    def told(self, limited: Subject, told: Cooling, now: float) -> None:
        """Another process has met this limit."""
        self._cooldown(limited).told(now, told)

    def met(self, limited: Subject, now: float) -> Cooling | None:
        """The limit of just this subject that holds now."""
        cooldown = self._of.get(limited)
        return None if cooldown is None else cooldown.cooling(now)

    def knows_family(self, family: str) -> None:
        """Windows of the plans are for models of this family alone."""
        if len(self._families) < MAX_FAMILIES:
            self._families.add(family)

    def succeeded(self, answered: Subject, asked_at: float) -> None:
        if not self._of:
            return
        for each in self.over(answered):
            if (cooldown := self._of.get(each)) is not None:
                cooldown.succeeded(asked_at)

    def find(self, asked: Subject, now: float) -> Cooling | None:
        """What speaks against a call for this subject: its own limit, and that of the account. The latest deadline
        counts, and the weightiest source."""
        if not self._of:
            return None
        found = [
            cooling
            for each in self.over(asked)
            if (cooldown := self._of.use(each)) is not None and (cooling := cooldown.cooling(now)) is not None
        ]
        if len(found) < 2:
            return found[0] if found else None
        latest = max(found, key=lambda cooling: cooling.seconds)
        return Cooling(latest.seconds, latest.reason, max(cooling.source for cooling in found))

    def over(self, asked: Subject) -> list[Subject]:
        """All whose limits are limits of this one too."""
        over = [asked, asked.account]
        if self._families and asked.model is not None:
            model = asked.model.lower()
            over += [asked.of_family(family) for family in self._families if family in model]
        return over

    def of(self, provider: str, now: float) -> dict[Subject, Cooling]:
        """All that hold at a provider now, the longest first."""
        found = {
            each: cooling
            for each, cooldown in self._of.items()
            if each.provider == provider and (cooling := cooldown.cooling(now)) is not None
        }
        return dict(sorted(found.items(), key=lambda item: -item[1].seconds))

    def keep(self, wanted: Callable[[str], bool]) -> None:
        """Forget those of other providers."""
        self._of.keep(lambda each, _: wanted(each.provider))

    def _cooldown(self, each: Subject) -> Cooldown:
        cooldown = self._of.use(each)
        if cooldown is None:
            cooldown = Cooldown()
            self._of.put(each, cooldown)
        return cooldown
