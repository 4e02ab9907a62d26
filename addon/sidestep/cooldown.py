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


class Cooldown:
    """State: the deadline with its reason, and the length of the next one that nobody announces."""

    __slots__ = ("_backoff_until", "_next", "_reason", "_until")

    def __init__(self) -> None:
        self._until = -math.inf
        self._reason = ""
        self._next = FIRST_SECONDS
        self._backoff_until = -math.inf

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

    def succeeded(self) -> None:
        """The provider answered: the next unannounced cooldown starts small again."""
        self._next = FIRST_SECONDS

    def is_guess(self, now: float) -> bool:
        """Whether the end that holds now was announced by nobody."""
        return now < self._until <= self._backoff_until

    def remaining(self, now: float) -> float:
        return max(0.0, self._until - now)

    def reason(self, now: float) -> str:
        return self._reason if now < self._until else ""

    def __repr__(self) -> str:
        return f"Cooldown(until={self._until:.3f}, reason={self._reason!r})"
