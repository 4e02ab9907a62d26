"""A provider passed over until a deadline: it asked for it, or the account does not allow more.

Pure: no mitmproxy, no clock, no I/O. `now` is seconds of a monotonic clock. A cooldown is beside the circuit and
never changes it.
"""

from __future__ import annotations

import math

FIRST_SECONDS = 5.0
"""After a 429 that names no time."""
LONGEST_SECONDS = 60.0
"""The doubling of the above ends here."""
ANNOUNCED_MAX_SECONDS = 86_400.0
"""An announced end is believed up to a day: a broken header must not ban a provider for ever."""
FORESEEN = "limit_foreseen"
"""The reason while a provider that answers has said that its limit is used up."""


class Cooldown:
    """State: the deadline with its reason, the length of the next one that nobody announces, and the time of a
    limit seen coming, which is kept apart: it holds back nobody who is the last to ask."""

    __slots__ = ("_backoff_until", "_foreseen_at", "_foreseen_until", "_next", "_reason", "_until")

    def __init__(self) -> None:
        self._until = -math.inf
        self._reason = ""
        self._next = FIRST_SECONDS
        self._backoff_until = -math.inf
        self._foreseen_at = -math.inf
        self._foreseen_until = -math.inf

    def start(self, now: float, seconds: float | None, reason: str) -> None:
        """Pass over until `now + seconds`; the later of two deadlines wins. None: 5 s, doubling to 60 s."""
        if seconds is None or not math.isfinite(seconds):
            if now < self._backoff_until:
                return  # one burst of refusals counts once
            seconds = self._next
            self._next = min(self._next * 2, LONGEST_SECONDS)
            self._backoff_until = now + seconds
        until = now + min(max(0.0, seconds), ANNOUNCED_MAX_SECONDS)
        if until > self._until:
            self._until = until
            self._reason = reason

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

    def is_guess(self, now: float) -> bool:
        """Whether the end that holds now was announced by nobody, or by no refusal."""
        announced = now < self._until and self._until > self._backoff_until
        return self.remaining(now) > 0 and not announced

    def is_foreseen(self, now: float) -> bool:
        """Whether nothing but a limit seen coming holds."""
        return self._until <= now < self._foreseen_until

    def remaining(self, now: float) -> float:
        return max(0.0, self._until - now, self._foreseen_until - now)

    def reason(self, now: float) -> str:
        return self._reason if now < self._until else FORESEEN if now < self._foreseen_until else ""

    def __repr__(self) -> str:
        return f"Cooldown(until={self._until:.3f}, reason={self._reason!r})"
