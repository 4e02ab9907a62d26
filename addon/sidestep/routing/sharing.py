"""What the engine says to whoever shares it with other processes, and asks it (`fleet/member.py`).

Pure. Every process decides alone and at once; what others know is advice. Nothing here waits: where another process has
to be asked, the answer is how many seconds to wait for it, and whoever waits is woken by `Engine.changed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sidestep.breaker.circuit import Circuit, State
from sidestep.breaker.cooldown import Subject
from sidestep.breaker.windows import Window
from sidestep.dialects.base import Conversation
from sidestep.routing.sticking import Scope, Stay


@dataclass(slots=True, eq=False)
class Question:
    """Other processes are asked. `until`: monotonic seconds; an answer is not waited for longer."""

    until: float
    answered: bool = False

    def seconds(self, now: float) -> float:
        """How long to wait still, 0.0: go on."""
        return 0.0 if self.answered else max(0.0, self.until - now)


class Sharing(Protocol):
    """None of these raises or waits. Times are seconds of the engine's clock."""

    @property
    def status(self) -> dict[str, Any]:
        """Plain data for those who look; `state`: `together`, or `alone` while the store is out of reach."""

    def guards(self, provider: str, model: str | None, circuit: Circuit) -> None:
        """A circuit was made, for a provider or, with a name, for a model there: what is known of it elsewhere, and
        from now on what it has to tell."""

    def claim(self, circuit: Circuit, now: float) -> float:
        """A probe is to be sent: how many seconds to wait until it is known whether another process sends one, 0.0:
        go on."""

    def asked(self, subject: Subject, now: float) -> None:
        """A call for this subject is to be sent: what limits of it are known elsewhere."""

    def limited(self, subject: Subject, now: float) -> None:
        """A limit of this subject was met, or is foreseen."""

    def planned(self, account: Subject, told: Sequence[Window], now: float) -> None:
        """An answer has told of these windows of an account's plan."""

    def stays(self, scope: Scope, conversation: Conversation, stay: Stay) -> None:
        """A conversation stays with a provider."""

    def any_stays(self, now: float) -> bool:
        """Whether any conversation stays anywhere."""

    def where(self, scope: Scope, conversation: Conversation, now: float) -> Question | None:
        """Where does a conversation stay that is not known here? The answer is there in `Engine.conversations`. None:
        nobody can be asked."""

    def issued(self, ids: Sequence[str], provider: str) -> None:
        """A provider has issued identifiers."""

    def issuers(self, ids: Sequence[str], now: float) -> Question | None:
        """Who has issued identifiers that are not known here? The answer is there in `Engine.issuer_of`."""

    def held(self, provider: str, state: State | None, *, told: bool) -> None:
        """Its circuits are held by hand, or given back. `told`: as another process says."""

    def mode_set(self, mode: str, *, told: bool) -> None:
        """By hand. `told`: as another process says."""
