"""Which providers have just failed a call that is made again: SDKs and agents repeat what failed, by themselves, within
seconds.

Pure: no mitmproxy, no clock, no I/O. `now` is seconds of a monotonic clock.
"""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from sidestep.breaker.bounded import Bounded
from sidestep.dialects.conversations import conversation_of

REPEAT_SECONDS = 30.0
"""The official SDKs repeat after half a second to eight (`_calculate_retry_timeout`), or as long as an answer asks
for, which Sidestep has waited out itself."""
MAX_CALLS = 1_000
CALLS_BYTES = 1 << 20


def said_in(messages: msgspec.Raw | None, body: bytes) -> bytes:
    """What of a call is said again where it is made again: all of its body; in a conversation of several turns what
    tells that, for agents ask again with what they have got of the answer, or want it in another form (Codex; Claude
    Code)."""
    conversation = conversation_of(messages)
    return body if conversation is None or conversation.answered is None else conversation.answered


def digest(operation: str, credential: str, said: bytes) -> bytes:
    """Stands for a call where nothing but its sameness counts."""
    return blake2b(f"{operation} {credential}\n".encode("utf-8", "replace") + said, digest_size=16).digest()


class Repeats:
    """State: who failed which call, until when that is remembered."""

    def __init__(self) -> None:
        self._failed: Bounded[bytes, tuple[float, frozenset[str]]] = Bounded(
            MAX_CALLS, CALLS_BYTES, lambda entry: 300 * (1 + len(entry[1]))
        )

    def __len__(self) -> int:
        return len(self._failed)

    def failed(self, operation: str, credential: str, said: bytes, providers: frozenset[str], now: float) -> None:
        """This call has come to nothing, at these providers. `credential`: a fingerprint of the app's own."""
        if providers:
            self._failed.put(digest(operation, credential, said), (now + REPEAT_SECONDS, providers))

    def answered(self, operation: str, credential: str, said: bytes) -> None:
        """It was answered."""
        self._failed.pop(digest(operation, credential, said))

    def failed_at(self, operation: str, credential: str, said: bytes, now: float) -> frozenset[str]:
        """The providers that have just failed this very call."""
        if not self._failed:
            return frozenset()
        until, providers = self._failed.get(digest(operation, credential, said)) or (now, frozenset[str]())
        return providers if now < until else frozenset()
