"""What is known of people's plans: the windows that each credential's answers have told of.

Pure: no mitmproxy, no clock, no I/O. `now` is seconds of a monotonic clock. A plan is the app's own credential like any
other: it is known by a fingerprint, and by what its own provider says of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sidestep.breaker.bounded import Bounded
from sidestep.breaker.cooldown import Subject
from sidestep.breaker.windows import MAX_WINDOWS, Window, is_news, nearly_used_up

MAX_PLANS = 1_000
PLANS_BYTES = 4 << 20
WINDOW_BYTES = 400


class Plans:
    """State: by account the windows it was told to have, and when."""

    def __init__(self) -> None:
        self._of: Bounded[Subject, tuple[float, tuple[Window, ...]]] = Bounded(
            MAX_PLANS, PLANS_BYTES, lambda entry: WINDOW_BYTES * (1 + len(entry[1]))
        )

    def told(self, asked: Subject, windows: tuple[Window, ...], now: float) -> None:
        """An answer to a call for this subject has told of these windows."""
        if windows:
            self._of.put(asked.account, (now, windows))

    def heard(self, account: Subject, window: Window, now: float) -> bool:
        """Another process was told of this window by an answer; whether that is news. It ends no earlier than was known
        of it."""
        known = {w.name: w for w in self.windows(account, now)}
        before = known.get(window.name)
        if window.resets_in is None:
            return False
        if before is not None and before.resets_in is not None:
            if not is_news(window.level, window.resets_in, before.level, before.resets_in):
                return False
            window = replace(window, resets_in=max(window.resets_in, before.resets_in))
        known[window.name] = window
        if len(known) <= MAX_WINDOWS:
            self._of.put(account, (now, tuple(known.values())))
        return True

    def windows(self, account: Subject, now: float) -> tuple[Window, ...]:
        """Those that have not begun anew since they were told of, with the seconds until they do."""
        told_at, windows = self._of.get(account) or (now, ())
        return tuple(_aged(windows, now - told_at))

    def nearly_used_up(self, asked: Subject, now: float) -> Window | None:
        """The window that a call for this subject would use up soon, None if there is none."""
        return nearly_used_up(self.windows(asked.account, now), asked.model) if self._of else None

    def of(self, provider: str, now: float) -> list[tuple[Window, ...]]:
        """Those of each account at a provider."""
        return [found for account in self._accounts(provider) if (found := self.windows(account, now))]

    def accounts(self, provider: str, now: float) -> list[str]:
        """Whose these are, in the same order: fingerprints."""
        return [account.credential for account in self._accounts(provider) if self.windows(account, now)]

    def _accounts(self, provider: str) -> list[Subject]:
        return [account for account, _ in self._of.items() if account.provider == provider]

    def keep(self, providers: set[str]) -> None:
        """Forget those of others."""
        self._of.keep(lambda account, _: account.provider in providers)


def _aged(windows: tuple[Window, ...], seconds: float) -> Iterator[Window]:
    for window in windows:
        if window.resets_in is None:
            yield window
        elif window.resets_in > seconds:
            yield replace(window, resets_in=window.resets_in - seconds)
