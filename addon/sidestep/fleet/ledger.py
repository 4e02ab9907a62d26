"""What this process has heard of the others, and what it has told them: generations, deadlines, what is told again.

Pure: time is an argument, messages are values. The store gives each piece of news its generation, so that no two
tellers make the same one and none runs back; a message that is lost, doubled or late changes nothing that a newer one
has said.
What an entry is about, a circuit or a limit, is known by whoever is told of its news.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sidestep.breaker.windows import is_news
from sidestep.fleet.scripts import Script

PULLED_AT_ONCE = 300
"""Entries of one answer: 5,000 in one would keep the store for 71 ms."""
MAX_ENTRIES = 20_000
MAX_WORD = 200
"""Characters of what stands in an entry, and of its name; ours have less than a hundred. What is longer is nobody's of
this group."""
GRAIN_MS = 50
"""A limit that ends so little later is no news: where all meet the same one, one tells."""
RETOLD_SECONDS = 0.5
"""What ends sooner is not told again to a store that has begun anew."""
_LEVEL = re.compile(r"plan ([0-9]{1,9}) ")
_WEIGHED = (Script.LATER, Script.WINDOW)
"""Where the store decides whose word counts, and not who had the last."""
EVIDENCE_SECONDS = 60.0
"""How long an answer or a failure says how it is with this process's own network."""


@dataclass(frozen=True, slots=True)
class Message:
    """What is to be said of an entry; a pull has none. `until`: monotonic seconds, `inf`: it stays."""

    script: Script
    entry: str = ""
    payload: str = ""
    until: float = math.inf
    token: str = ""
    base: int = 0
    epoch: str = ""
    level: int = 0


@dataclass(frozen=True, slots=True)
class News:
    """What another process has said. `seconds` are left of it, `inf`: it stays."""

    entry: str
    payload: str
    seconds: float


@dataclass(frozen=True, slots=True)
class _Heard:
    generation: int
    until: float
    token: str
    payload: str


class Ledger:
    """State: the store's epoch and version as far as they are known here, the newest that was heard of each entry, what
    this process has said itself."""

    def __init__(self, me: str) -> None:
        """`me`: what no other process is called."""
        self._me = me
        self._count = 0
        self.epoch = ""
        self.version = 0
        self._heard: dict[str, _Heard] = {}
        self._said: dict[str, Message] = {}
        self._retells = False

    # --- what is to be said

    def tell(self, entry: str, payload: str, until: float) -> Message:
        """Of a circuit, until then."""
        return self._say(Message(Script.TELL, entry, payload, until))

    def later(self, entry: str, payload: str, until: float, grain: float = 0.0) -> Message | None:
        """Of a limit; None: as much is known. `grain`: by how many seconds more it must be later to be news."""
        heard = self._heard.get(entry)
        if heard is not None and heard.until + max(grain, GRAIN_MS / 1000) >= until:
            return None
        return self._say(Message(Script.LATER, entry, payload, until))

    def window(self, entry: str, payload: str, level: int, until: float) -> Message | None:
        """Of a window of a plan, and how far it is used up; None: as much is known. `payload`: of three words at least,
        of which the second is that level."""
        heard = self._heard.get(entry)
        if heard is not None and not is_news(level, until, _level(heard.payload), heard.until):
            return None
        return self._say(Message(Script.WINDOW, entry, payload, until, level=level))

    def hand(self, entry: str, payload: str) -> Message:
        """What a user has set here."""
        return self._say(Message(Script.HAND, entry, payload))

    def overruled(self, entry: str) -> None:
        """What a user has set here was set otherwise elsewhere since: it is not told again."""
        self._said.pop(entry, None)

    def _say(self, message: Message) -> Message:
        self._count += 1
        heard = self._heard.get(message.entry)
        base = 0 if heard is None else heard.generation
        said = replace(message, token=f"{self._me}.{self._count}", base=base, epoch=self.epoch)
        if len(self._said) < MAX_ENTRIES:
            self._said[message.entry] = said
        return said

    def pull(self) -> Message:
        """What is new."""
        return Message(Script.PULL, epoch=self.epoch, base=self.version)

    def retell(self, now: float) -> list[Message]:
        """After the store has begun anew: all that this process has said and that still holds."""
        if not self._retells:
            return []
        self._retells = False
        holding = [m for m in self._said.values() if m.until > now + RETOLD_SECONDS]
        return [self._say(replace(m, token="")) for m in holding]

    # --- what was heard

    def pulled(self, answer: Sequence[Any], sent: float, now: float) -> tuple[list[News], bool]:
        """The answer to a pull that was sent then: what is new to this process, and whether there is more."""
        epoch, version, told, before = str(answer[0])[:MAX_WORD], int(answer[1]), answer[2], self.version
        if epoch != self.epoch:
            self._retells = bool(self.epoch) or bool(self._said)
            self.epoch, self.version, before = epoch, 0, -1
            self._heard.clear()
        self.version = max(self.version, version)
        news = [
            found
            for i in range(0, len(told) - 4, 5)
            if (found := self._hear(told[i], int(told[i + 1]), int(told[i + 2]), told[i + 3], told[i + 4], sent, now))
        ]
        self._forget(now)
        return news, len(told) >= 5 * PULLED_AT_ONCE and self.version > before

    def answered(
        self, said: Message, answer: Sequence[Any], sent: float, now: float
    ) -> tuple[News | None, Message | None]:
        """The answer to what was said: the news that stands in its place, or what is to be said once more."""
        taken, generation, left, token, payload, epoch = answer
        if epoch != self.epoch:
            return None, None  # of another life of the store: the next pull tells
        is_ours = str(token).startswith(f"{self._me}.")
        news = self._hear(said.entry, int(generation), int(left), token, payload, sent, now)
        if not int(taken) and is_ours and said.script is Script.TELL and self._said.get(said.entry) == said:
            return None, self._say(replace(said, token=""))  # an earlier word of our own stood there
        return news, None

    def _hear(
        self, entry: str, generation: int, left: int, token: str, payload: str, sent: float, now: float
    ) -> News | None:
        """None: it is not new, or it is our own."""
        if max(len(entry), len(token), len(payload)) > MAX_WORD:
            return None
        before = self._heard.get(entry)
        if before is not None and before.generation >= generation:
            return None
        # The rest counts from when it was asked for: never longer than the store has it.
        until = sent + left / 1000 if left else math.inf
        self._heard[entry] = _Heard(generation, until, token, payload)
        if token.startswith(f"{self._me}.") or until <= now:
            return None
        if (said := self._said.get(entry)) is not None and said.script not in _WEIGHED:
            del self._said[entry]  # the last word is another's
        return News(entry, payload, until - now)

    def known(self, entry: str, now: float) -> News | None:
        """What holds of an entry that this process has only now something of."""
        heard = self._heard.get(entry)
        if heard is None or heard.until <= now or heard.token.startswith(f"{self._me}."):
            return None
        return News(entry, heard.payload, heard.until - now)

    def _forget(self, now: float) -> None:
        if len(self._heard) > MAX_ENTRIES:
            holding = [(entry, heard) for entry, heard in self._heard.items() if heard.until > now]
            self._heard = dict(holding[-MAX_ENTRIES:])
        if len(self._said) >= MAX_ENTRIES:
            self._said = {entry: said for entry, said in self._said.items() if said.until > now}

    def lost(self) -> None:
        """Something that was said did not arrive: what still holds is told again after the next pull."""
        self._retells = True

    def holding(self, now: float) -> list[str]:
        """What is said that holds now."""
        return [heard.payload for heard in self._heard.values() if heard.until > now]

    @property
    def shared(self) -> int:
        """How many entries are known."""
        return len(self._heard)


def _level(payload: str) -> int:
    found = _LEVEL.match(payload)
    return 0 if found is None else int(found[1])


def is_suspect(evidence: Iterable[tuple[float, float]], now: float) -> bool:
    """Whether this process's own network may be down: several providers were asked lately, and each of them has failed
    since any of them last answered. `evidence`: when each answered and failed for the last time."""
    lately = [(well, failed) for well, failed in evidence if max(well, failed) > now - EVIDENCE_SECONDS]
    last_answer = max((well for well, _ in lately), default=-math.inf)
    return len(lately) > 1 and all(failed > last_answer for _, failed in lately)
