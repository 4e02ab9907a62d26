"""What is known of the providers now: circuits, cooldowns, models they lack, who issued what.

One `Engine` a process. Pure: `now` is an argument, nothing here waits, nothing here knows mitmproxy. What one
request does with this knowledge is `exchange`; what people see of it is `status`.
"""

from __future__ import annotations

import random
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from sidestep.breaker.circuit import Circuit, Permit, Refusal, State
from sidestep.breaker.cooldown import Cooldown
from sidestep.breaker.judging import UNKNOWN_MODEL_SECONDS
from sidestep.breaker.outcomes import Kind, Outcome
from sidestep.config.settings import Provider, Settings
from sidestep.dialects.base import Usage
from sidestep.routing.sticking import Conversations
from sidestep.routing.strategies import Strategist
from sidestep.routing.table import NOBODY, Candidate, Issued, RouteTable

ISSUED_IDS = 20_000
"""How many identifiers are remembered with their issuer; the oldest go first."""
UNKNOWN_MODELS = 1_000
MAX_CIRCUITS = 5_000
"""With a circuit per model an app that makes up models would fill the memory: the oldest go first."""
LOOK_ON_LEASE_SECONDS = 660.0
"""In mode `observe` nothing bounds an attempt but the app's own patience."""
JOURNAL = 200
"""Events kept for the status page."""

CircuitKey = tuple[str, str | None]


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a candidate may not be asked now. `retry_after`: seconds until it may, None if nobody knows."""

    provider: str
    reason: str
    retry_after: float | None


@dataclass(slots=True, eq=False)
class Attempt:
    """One request sent to one provider. Times are seconds of the monotonic clock."""

    candidate: Candidate
    permit: Permit | None
    started: float
    outcome: Outcome | None = None
    """The latest word on it: a success at first content can still turn into a failure."""
    status: int | None = None
    headers_at: float | None = None
    content_at: float | None = None
    ended_at: float | None = None
    usage: Usage | None = None
    cost: float | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        word = "pending" if self.outcome is None else self.outcome.label
        return f"{self.candidate.provider.name}:{word}"


class Engine:
    """The mutable knowledge behind all requests.

    State: circuits by key, cooldowns by provider, attempts in flight, what the strategies have learnt, where
    conversations stay, models unknown to a provider (with the time until which), issuers by identifier, totals for
    metrics, a journal of events.
    """

    def __init__(self, settings: Settings, *, jitter: Callable[[], float] = random.random) -> None:
        self.settings = settings
        self.routes = RouteTable(settings.routes)
        self.mode = settings.mode
        self.in_flight: set[Attempt] = set()
        self.out: Counter[str] = Counter()
        """How many of them each provider has."""
        self.strategist = Strategist(jitter)
        self.conversations = Conversations()
        self.live: set[object] = set()
        """Requests under way, whether or not an attempt of theirs is."""
        self.attempts_total: Counter[tuple[str, str, str]] = Counter()
        """Attempts that are over, by provider, outcome and reason."""
        self.requests_total: Counter[tuple[str, str]] = Counter()
        self.rerouted: Counter[tuple[str, str]] = Counter()
        """Requests answered by another provider than their own: who was addressed, who answered."""
        self.tokens_total: Counter[tuple[str, str]] = Counter()
        self.cost_total: Counter[str] = Counter()
        self.journal: deque[tuple[float, str]] = deque(maxlen=JOURNAL)
        self.advised: set[str] = set()
        """Lines of advice that have been logged: each is told once."""
        self.changed: set[Callable[[], None]] = set()
        """Called whenever a settled attempt may have made room: who waits for a probe listens here."""
        self.last_well: dict[str, float] = {}
        """When each provider last answered somebody; until it has, when it was asked first."""
        self._jitter = jitter
        self._circuits: dict[CircuitKey, Circuit] = {}
        self._cooldowns: dict[str, Cooldown] = {}
        self._held: dict[str, State] = {}
        self._unknown: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._issuers: OrderedDict[str, Issued] = OrderedDict()

    def reconfigure(self, settings: Settings) -> None:
        """Take other settings; circuits and cooldowns of unchanged providers are kept."""
        before = {p.name: p for p in self.settings.providers}
        kept = {p.name for p in settings.providers if before.get(p.name) == p}
        self._circuits = {k: c for k, c in self._circuits.items() if k[0] in kept}
        self._cooldowns = {n: c for n, c in self._cooldowns.items() if n in kept}
        names = {p.name for p in settings.providers}
        self.last_well = {n: at for n, at in self.last_well.items() if n in names}
        self._held = {n: s for n, s in self._held.items() if n in names}
        self._unknown = OrderedDict((k, v) for k, v in self._unknown.items() if k[0] in kept)
        self.conversations.keep(kept)
        self.strategist.keep({r.name for r in settings.routes}, kept)
        if settings.mode != self.settings.mode:
            self.mode = settings.mode
        self.settings = settings
        self.routes = RouteTable(settings.routes)

    @property
    def rerouted_total(self) -> int:
        return self.rerouted.total()

    def circuit(self, provider: Provider, model: str | None) -> Circuit:
        """The circuit that guards this model at this provider; made when first asked for."""
        key = (provider.name, model if provider.circuit.scope == "model" else None)
        circuit = self._circuits.get(key)
        if circuit is None:
            if len(self._circuits) >= MAX_CIRCUITS:
                self._circuits.pop(next(iter(self._circuits)))
            circuit = self._circuits[key] = Circuit(provider.circuit, jitter=self._jitter)
            if (state := self._held.get(provider.name)) is not None:
                circuit.hold(state)
        return circuit

    def circuits_of(self, provider: Provider) -> dict[str | None, Circuit]:
        """All circuits of a provider by model; at least the one for the provider as a whole."""
        if provider.circuit.scope == "provider":
            return {None: self.circuit(provider, None)}
        return {model: c for (name, model), c in self._circuits.items() if name == provider.name}

    def cooldown(self, name: str) -> Cooldown:
        cooldown = self._cooldowns.get(name)
        if cooldown is None:
            cooldown = self._cooldowns[name] = Cooldown()
        return cooldown

    def hold(self, name: str, state: State | None) -> None:
        """Hold a provider's circuits by hand (`forced_open`, `disabled`), or give them back (None)."""
        if state is None:
            self._held.pop(name, None)
        else:
            self._held[name] = state
        for (owner, _), circuit in self._circuits.items():
            if owner == name:
                circuit.hold(state)
        self._tell_changed()

    # --- permits

    def admit(
        self, candidate: Candidate, now: float, lease_seconds: float, *, last_resort: bool = False
    ) -> Attempt | Refused:
        """An attempt with a permit, or why not. `last_resort`: a cooldown that no refusal announced is ignored."""
        provider = candidate.provider
        circuit = self.circuit(provider, candidate.model)
        if circuit.state(now) is not State.DISABLED:
            cooldown = self.cooldown(provider.name)
            remaining = cooldown.remaining(now)
            overlooked = last_resort and cooldown.is_guess(now)
            # Who only foresees a limit may be asked in the end: what its circuit says weighs more.
            moot = cooldown.is_foreseen(now) and not circuit.would_admit(now)
            if remaining > 0 and not overlooked and not moot:
                return Refused(provider.name, f"cooldown ({cooldown.reason(now)})", remaining)
        permit = circuit.admit(now, lease_seconds)
        if isinstance(permit, Refusal):
            return Refused(provider.name, permit.reason, permit.retry_after)
        attempt = Attempt(candidate, permit, now)
        self.last_well.setdefault(provider.name, now)
        self.in_flight.add(attempt)
        self.out[provider.name] += 1
        return attempt

    def foresees_limit(self, candidate: Candidate, now: float) -> bool:
        """Whether nothing but a limit seen coming speaks against asking a candidate."""
        circuit = self.circuit(candidate.provider, candidate.model)
        return self.cooldown(candidate.provider.name).is_foreseen(now) and circuit.would_admit(now)

    def hasten(self, candidate: Candidate, now: float) -> float | None:
        """Do not wait for the candidate's doubled open time: seconds until a probe is let through, None if its open
        time was not doubled."""
        return self.circuit(candidate.provider, candidate.model).hasten(now)

    def wants_probe(self, candidate: Candidate, now: float) -> bool:
        """Whether the candidate's circuit is half-open with a place for a probe, and no cooldown speaks against it."""
        circuit = self.circuit(candidate.provider, candidate.model)
        cooling = self.cooldown(candidate.provider.name).remaining(now) > 0
        return not cooling and circuit.state(now) is State.HALF_OPEN and circuit.would_admit(now)

    def would_admit(self, candidate: Candidate, now: float) -> bool:
        """Whether a candidate would get a permit now, without taking one."""
        circuit = self.circuit(candidate.provider, candidate.model)
        if circuit.state(now) is State.DISABLED:
            return True
        return self.cooldown(candidate.provider.name).remaining(now) <= 0 and circuit.would_admit(now)

    def look_on(self, candidate: Candidate, now: float) -> Attempt:
        """An attempt that is made whatever the circuit says, in mode `observe`; counted where it lets it."""
        permit = self.circuit(candidate.provider, candidate.model).admit(now, LOOK_ON_LEASE_SECONDS)
        attempt = Attempt(candidate, permit if isinstance(permit, Permit) else None, now)
        self.in_flight.add(attempt)
        self.out[candidate.provider.name] += 1
        return attempt

    def settle(self, attempt: Attempt, outcome: Outcome, now: float) -> None:
        """Give an attempt its outcome, its permit back; a second word on it can only take back a success."""
        earlier, attempt.outcome = attempt.outcome, outcome
        provider = attempt.candidate.provider
        permit = attempt.permit
        if permit is not None:
            circuit = self.circuit(provider, attempt.candidate.model)
            before = circuit.state(now)
            if earlier is None:
                circuit.settle(permit, outcome, now)
            elif earlier.kind is Kind.SUCCESS and outcome.kind is Kind.FAILURE:
                circuit.amend(permit, outcome, now)
            else:
                attempt.outcome = earlier
                return
            if (after := circuit.state(now)) is not before:
                self.journal.append((now, f"{provider.name}: {before} → {after} ({outcome.reason})"))
        if outcome.kind is Kind.COOLDOWN:
            self.cooldown(provider.name).start(now, outcome.cooldown_seconds, outcome.reason)
            self.journal.append((now, f"{provider.name}: cooldown ({outcome.reason})"))
        elif outcome.kind is Kind.SUCCESS:
            self.last_well[provider.name] = now
            if provider.name in self._cooldowns:
                self._cooldowns[provider.name].succeeded(attempt.started)
        elif outcome.reason == "unknown_model" and attempt.candidate.model is not None:
            self._unknown[(provider.name, attempt.candidate.model)] = now + UNKNOWN_MODEL_SECONDS
            if len(self._unknown) > UNKNOWN_MODELS:
                self._unknown.popitem(last=False)
        self._tell_changed()

    def ended(self, attempt: Attempt, now: float) -> None:
        """The attempt is over: nothing more comes of it. It must have been settled before."""
        if attempt not in self.in_flight:
            return
        self.in_flight.discard(attempt)
        attempt.ended_at = now
        name = attempt.candidate.provider.name
        if attempt.outcome is not None:
            self.attempts_total[(name, attempt.outcome.kind, attempt.outcome.reason)] += 1
        self.out[name] -= 1
        if not self.out[name]:
            del self.out[name]
        if attempt.usage is not None:
            self.tokens_total[(name, "input")] += attempt.usage.input
            self.tokens_total[(name, "output")] += attempt.usage.output
        if attempt.cost is not None:
            self.cost_total[name] += attempt.cost  # type: ignore[assignment]  # Counter adds floats as well

    def _tell_changed(self) -> None:
        for listener in tuple(self.changed):
            listener()

    # --- what providers said

    def knows_model(self, provider: Provider, model: str, now: float) -> bool:
        until = self._unknown.get((provider.name, model))
        return until is None or now >= until

    def lacking_models(self, now: float) -> Callable[[Provider, str], bool] | None:
        """`knows_model` at this time, None while no provider is known to lack a model."""
        if not self._unknown:
            return None
        return lambda provider, model: self.knows_model(provider, model, now)

    def issued(self, ids: tuple[str, ...], provider: Provider) -> None:
        """Remember who issued these identifiers, for later calls that are pinned by them."""
        self._note_issued(ids, Issued(provider.name, provider.issuer))

    def disown(self, ids: Iterable[str]) -> None:
        """Remember that a provider refused these pieces as none of its issuer's: whosever they are, they are left out
        from now on."""
        self._note_issued(ids, NOBODY)

    def _note_issued(self, ids: Iterable[str], by: Issued) -> None:
        for identifier in ids:
            self._issuers[identifier] = by
            self._issuers.move_to_end(identifier)
        while len(self._issuers) > ISSUED_IDS:
            self._issuers.popitem(last=False)

    def issuer_of(self, identifier: str) -> Issued | None:
        """Who was seen to have issued it. What is asked for is kept: the copies of a conversation must stay alike."""
        found = self._issuers.get(identifier)
        if found is not None:
            self._issuers.move_to_end(identifier)
        return found
