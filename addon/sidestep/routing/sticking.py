"""Which provider a conversation stays with: the one that last answered it, for it holds the prompt cache; and where it
is at home.

Pure: no mitmproxy, no I/O; time is an argument. Holds digests, never a word of a prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from sidestep.breaker.bounded import Bounded, bytes_of
from sidestep.dialects.base import Conversation

MAX_CONVERSATIONS = 10_000
"""The one not answered for longest goes first. An entry takes about half a kilobyte."""
CONVERSATION_BYTES = 8 << 20

Scope = tuple[str, str | None]
"""Route and model: another model has another cache."""


@dataclass(frozen=True, slots=True)
class Stay:
    """Who answered last, until when that counts (monotonic seconds), how far the conversation was, whom it would be
    with had nobody failed; of the last answer the tokens of its prompt, and those of them that came from the cache."""

    provider: str
    until: float
    length: int
    end: bytes
    home: str
    prompt: int = 0
    cached: int = 0


class Conversations:
    """State: the stays by scope and digest, the latest answered last."""

    def __init__(self) -> None:
        self._stays: Bounded[tuple[Scope, bytes], Stay] = Bounded(
            MAX_CONVERSATIONS, CONVERSATION_BYTES, lambda stay: bytes_of(stay) + bytes_of(stay.end)
        )

    def any(self, now: float) -> bool:
        """Whether any conversation stays anywhere. Forgets the oldest whose time is over."""
        while (oldest := self._stays.oldest()) is not None:
            key, stay = oldest
            if now < stay.until:
                return True
            self._stays.pop(key)
        return False

    def answered(
        self,
        scope: Scope,
        conversation: Conversation,
        provider: str,
        seconds: float,
        now: float,
        *,
        home: str | None = None,
    ) -> None:
        """This provider answered, and keeps the conversation for so long. `home`: None where that is who answered it
        first."""
        key = scope, conversation.answered or conversation.opening
        if seconds <= 0:
            self._stays.pop(key)
            return
        if home is None:
            before = next(self._of(scope, conversation), None)
            home = provider if before is None or conversation.answered is None else before.home
        self._stays.put(key, Stay(provider, now + seconds, conversation.length, conversation.end, home))

    def told(self, scope: Scope, digest: bytes, stay: Stay) -> None:
        """Another process says where a conversation stays of which nothing is known here."""
        if self._stays.get((scope, digest)) is None:
            self._stays.put((scope, digest), stay)

    def latest(self, scope: Scope, conversation: Conversation) -> Stay | None:
        """What was noted last of a conversation."""
        return self._stays.get((scope, conversation.answered or conversation.opening))

    def used(self, scope: Scope, conversation: Conversation, provider: str, prompt: int, cached: int) -> None:
        """What the answer of this provider has taken."""
        key = scope, conversation.answered or conversation.opening
        stay = self._stays.get(key)
        if stay is not None and stay.provider == provider:
            self._stays.put(key, replace(stay, prompt=prompt, cached=cached))

    def _of(self, scope: Scope, conversation: Conversation) -> Iterator[Stay]:
        for digest in (conversation.answered, conversation.opening):
            stay = None if digest is None else self._stays.get((scope, digest))
            if stay is not None:
                yield stay

    def broke(self, scope: Scope, conversation: Conversation, provider: str) -> None:
        """The answer of this provider broke off: it does not keep the conversation."""
        key = scope, conversation.answered or conversation.opening
        stay = self._stays.get(key)
        if stay is not None and stay.provider == provider:
            self._stays.pop(key)

    def stay(self, scope: Scope, conversation: Conversation, now: float) -> Stay | None:
        """Where a conversation stays; None for a first turn, which stays nowhere.

        A call counts as a later turn only if it is longer than the last one answered, or that one again: the
        examples that some apps put into every prompt look like a conversation, but never grow.
        """
        if conversation.answered is None:
            return None
        for stay in self._of(scope, conversation):
            if now >= stay.until:
                continue
            again = conversation.length == stay.length and conversation.end == stay.end
            return stay if again or conversation.length > stay.length else None
        return None

    def staying(self, route: str, now: float) -> Counter[str]:
        """How many of a route's conversations would go on at each provider."""
        return Counter(s.provider for ((of, _), _), s in self._stays.items() if of == route and now < s.until)

    def keep(self, providers: Collection[str]) -> None:
        """Forget everything but the stays with these."""
        self._stays.keep(lambda _, stay: stay.provider in providers)

    def __len__(self) -> int:
        return len(self._stays)
