"""What is known of a WebSocket of the Responses API before anything is said over it: its handshake names neither the
model nor what is gone on from.

Pure: no mitmproxy, no I/O; time is an argument. Where its responses would fail, and another provider may take the call
over HTTP, the handshake is better refused: clients that are told so (426) ask over HTTP, and there a provider that
fails can be replaced within the call.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from sidestep.breaker.bounded import Bounded, short
from sidestep.breaker.outcomes import Kind, Outcome
from sidestep.config.settings import Route
from sidestep.dialects.base import Call
from sidestep.dialects.openai_frames import RESPONSES
from sidestep.routing.table import Candidate, Plan

REMEMBERED = 1_000
"""Apps whose model, and conversations whose failure, is remembered."""
REMEMBERED_BYTES = 1 << 20
OPERATION = "responses"
"""What is asked for over the socket, as it is called over HTTP."""

Asker = tuple[str, str]
"""A route, and the fingerprint of an app's own credential; empty where none of its providers is asked with that."""


@dataclass(frozen=True, slots=True)
class Handshake:
    """One handshake. `expected`: the model that is likely to be asked for. `conversation`: a name for the one that it
    says it goes on with, empty if it does not say. `has_choice`: over HTTP there is more than one provider."""

    expected: str | None
    conversation: str
    has_choice: bool

    def first_call(self, candidate: Candidate) -> Candidate | None:
        """What is likely to be asked of the candidate first; None if nothing is known."""
        if self.expected is None:
            return None
        return replace(candidate, model=candidate.provider.target_model(self.expected))

    def better_over_http(self, plan: Plan, ends: Iterable[Outcome | None]) -> bool:
        """Whether the providers against which nothing speaks take no WebSocket, or not this one, though they may take
        the calls themselves. `ends`: how they have answered the handshake."""
        if not self.has_choice or plan.pinned:
            return self.has_choice
        return any(end is not None and end.kind is Kind.NEUTRAL and end.status is not None for end in ends)


class Sockets:
    """State: the model that each app asked for last, of the Responses API; until when a conversation is better gone on
    with over HTTP (monotonic seconds)."""

    def __init__(self) -> None:
        self._models: Bounded[Asker, str] = Bounded(REMEMBERED, REMEMBERED_BYTES)
        self._broken: Bounded[str, float] = Bounded(REMEMBERED, REMEMBERED_BYTES)

    def asks(self, asker: Asker, model: str) -> None:
        """This app asks for a model."""
        self._models.put(asker, short(model))

    def failed(self, conversation: str, until: float) -> None:
        """A response of this conversation has failed."""
        self._broken.put(conversation, until)

    def is_broken(self, conversation: str, now: float) -> bool:
        until = self._broken.get(conversation)
        return until is not None and now < until

    def met(self, call: Call, route: Route, asker: Asker, conversation: str) -> Handshake | None:
        """A call has come: what is known of it if it is such a handshake. Any other is remembered."""
        if call.operation == RESPONSES:
            expected = self._models.use(asker) if call.model is None else None
            return Handshake(expected, conversation, len(route.providers) > 1)
        if call.operation == OPERATION and call.model is not None:
            self.asks(asker, call.model)
        return None
