"""Which providers have just failed a call that is made again: SDKs repeat what failed, by themselves, within seconds.

Pure: no mitmproxy, no clock, no I/O. `now` is seconds of a monotonic clock.
"""

from __future__ import annotations

from hashlib import blake2b

from sidestep.breaker.bounded import Bounded

REPEAT_SECONDS = 30.0
"""The official SDKs repeat after half a second to eight (`_calculate_retry_timeout`), or as long as an answer asks
for, which Sidestep has waited out itself."""
MAX_CALLS = 1_000
CALLS_BYTES = 1 << 20


def digest(operation: str, credential: str, body: bytes) -> bytes:
    """Stands for a call where nothing but its sameness counts."""
    return blake2b(f"{operation} {credential}\n".encode("utf-8", "replace") + body, digest_size=16).digest()


class Repeats:
    """State: who failed which call, until when that is remembered."""

    def __init__(self) -> None:
        self._failed: Bounded[bytes, tuple[float, frozenset[str]]] = Bounded(
            MAX_CALLS, CALLS_BYTES, lambda entry: 300 * (1 + len(entry[1]))
        )

    def failed(self, operation: str, credential: str, body: bytes, providers: frozenset[str], now: float) -> None:
        """This call has come to nothing, at these providers. `credential`: a fingerprint of the app's own."""
        if providers:
            self._failed.put(digest(operation, credential, body), (now + REPEAT_SECONDS, providers))

    def failed_at(self, operation: str, credential: str, body: bytes, now: float) -> frozenset[str]:
        """The providers that have just failed this very call."""
        if not self._failed:
            return frozenset()
        until, providers = self._failed.get(digest(operation, credential, body)) or (now, frozenset[str]())
        return providers if now < until else frozenset()
