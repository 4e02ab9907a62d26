"""What is known of the providers now: circuits, cooldowns, models they lack, which issued what.

One `Engine` a process. Pure: `now` is an argument, nothing here waits, nothing here knows mitmproxy. What one
request does with this knowledge is `exchange`; what people see of it is `status`.
"""

from __future__ import annotations

import math
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from sidestep.breaker.bounded import Bounded, short
from sidestep.breaker.circuit import Circuit, Refusal, State
from sidestep.breaker.cooldown import Cooldowns, Subject
from sidestep.breaker.guard import Guard, Pass
from sidestep.breaker.judging import OPENED, SLOW, UNKNOWN_MODEL_SECONDS
from sidestep.breaker.outcomes import Kind, Outcome
from sidestep.breaker.plans import Plans
from sidestep.breaker.windows import Window
from sidestep.config.settings import Provider, Settings
from sidestep.dialects.base import Usage
from sidestep.leaks import Keys
from sidestep.routing.histograms import Histograms
from sidestep.routing.lateness import Budget, CallKind, Hanging, Times
from sidestep.routing.recent import Recent
from sidestep.routing.repeats import Repeats
from sidestep.routing.sharing import Question, Sharing
from sidestep.routing.sockets import Sockets
from sidestep.routing.sticking import Conversations
from sidestep.routing.strategies import Strategist
from sidestep.routing.table import NOBODY, Candidate, Issued, RouteTable

ISSUED_IDS = 20_000
"""How many identifiers are remembered with their issuer; the oldest go first."""
ISSUED_BYTES = 8 << 20
UNKNOWN_MODELS = 1_000
UNKNOWN_BYTES = 1 << 20
MAX_CIRCUITS = 5_000
"""Circuits of models: an app that makes up models would fill the memory. The ones not used for longest go first."""
CIRCUIT_BYTES = 1_500
"""Of one, with its window: measured with `tracemalloc`."""
LOOK_ON_LEASE_SECONDS = 660.0
"""In mode `observe` nothing bounds an attempt but the app's own patience."""
JOURNAL = 200
"""Events kept for the status page."""

ModelKey = tuple[str, str]
"""A provider and what it calls a model."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a candidate is not asked now. `retry_after`: seconds until it may be, None if that is unknown."""

    provider: str
    reason: str
    retry_after: float | None


@dataclass(slots=True, eq=False)
class Attempt:
    """One request sent to one provider. Times are seconds of the monotonic clock."""

    candidate: Candidate
    subject: Subject
    """What a limit that it meets belongs to."""
    permit: Pass | None
    started: float
    beside: Attempt | None = field(default=None, repr=False)
    """The late attempt beside which it is made, if it is."""
    outcome: Outcome | None = None
    """The latest word on it: a success at first content can still turn into a failure."""
    status: int | None = None
    headers_at: float | None = None
    content_at: float | None = None
    ended_at: float | None = None
    usage: Usage | None = None
    cost: float | None = None
    times_like: CallKind | None = field(default=None, repr=False)
    """What its times are comparable with."""
    saved: float = 0.0
    """USD by which the prompt cache has made it cheaper."""
    notes: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        word = "pending" if self.outcome is None else self.outcome.label
        return f"{self.candidate.provider.name}:{word}"

    def __repr__(self) -> str:
        outcome = "pending" if self.outcome is None else f"{self.outcome.kind} {self.outcome.label}"
        candidate = self.candidate
        return f"Attempt({candidate.provider.name}, model={candidate.model!r}, {outcome}, status={self.status})"


class Engine:
    """The mutable knowledge behind all requests.

    State: circuits by provider, and by provider and model; cooldowns by what they belong to; attempts in flight; what
    the strategies have learnt; where conversations stay; models unknown to a provider (with the time until which);
    issuers by identifier; totals for metrics; a journal of events.
    """

    def __init__(self, settings: Settings, *, jitter: Callable[[], float] = random.random) -> None:
        self.settings = settings
        self.routes = RouteTable(settings.routes)
        self.keys = Keys.of(settings.providers)
        """What no app must be told."""
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
        self.first_content = Histograms()
        """From the sending of an attempt to its first content, by provider and form, `streamed` or `whole`: the first
        content of a whole answer is its end."""
        self.attempt_durations = Histograms()
        """From the sending of an attempt to its end, by provider and outcome."""
        self.durations = Histograms()
        """From a request's arrival to its end, by route and what came of it."""
        self.rerouted: Counter[tuple[str, str]] = Counter()
        """Requests answered by another provider than their own: which was addressed, and which answered."""
        self.tokens_total: Counter[tuple[str, str]] = Counter()
        self.cost_total: Counter[str] = Counter()
        self.journal: deque[tuple[float, str]] = deque(maxlen=JOURNAL)
        self.recent = Recent()
        self.last_error: dict[str, tuple[float, str]] = {}
        """Of each provider that has failed or refused, when it last did, and how, in words."""
        self.tell: Callable[[str, str], None] = lambda kind, text: None
        """Is told what an operator would want to know, as it happens: of what kind it is, and in words."""
        self.advised: set[str] = set()
        """Lines of advice that have been logged: each is told once."""
        self.changed: set[Callable[[], None]] = set()
        """Called whenever a settled attempt may have made room: requests that wait for a probe listen here."""
        self.cooldowns = Cooldowns()
        self.plans = Plans()
        self.times = Times()
        self.budget = Budget()
        self.hanging = Hanging()
        self.repeats = Repeats()
        self.hedges_total: Counter[tuple[str, str]] = Counter()
        """Attempts made beside a late one, by provider and by what came of them: `won`, `lost`, `failed`, `unsent`."""
        self.wasted_tokens: Counter[str] = Counter()
        self.cached_tokens: Counter[str] = Counter()
        self.saved_total: Counter[str] = Counter()
        """Tokens of prompts that a provider read for an answer that was wanted no longer, as the other one tells."""
        self._jitter = jitter
        self._reaching: dict[str, Circuit] = {}
        self._guards: Bounded[ModelKey, Guard] = Bounded(
            MAX_CIRCUITS, MAX_CIRCUITS * CIRCUIT_BYTES, lambda _: CIRCUIT_BYTES
        )
        self._held: dict[str, State] = {}
        self._unknown: Bounded[ModelKey, float] = Bounded(UNKNOWN_MODELS, UNKNOWN_BYTES)
        self._issuers: Bounded[str, Issued] = Bounded(ISSUED_IDS, ISSUED_BYTES)
        self.sockets = Sockets()
        self.sharing: Sharing | None = None
        """Who tells other processes, and hears from them."""

    def reconfigure(self, settings: Settings) -> None:
        """Take other settings; circuits and cooldowns of unchanged providers are kept."""
        kept = _unchanged(self.settings, settings)
        self._reaching = {name: circuit for name, circuit in self._reaching.items() if name in kept}
        self._guards.keep(lambda key, _: key[0] in kept)
        self.cooldowns.keep(lambda name: name in kept)
        names = settings.by_name
        self._held = {n: s for n, s in self._held.items() if n in names}
        self._unknown.keep(lambda key, _: key[0] in kept)
        self.conversations.keep(kept)
        self.strategist.keep({r.name for r in settings.routes}, kept)
        self.times.keep(kept)
        self.plans.keep(kept)
        self.last_error = {n: error for n, error in self.last_error.items() if n in names}
        if settings.mode != self.settings.mode:
            self.mode = settings.mode
        self.settings = settings
        self.routes = RouteTable(settings.routes)
        self.keys = Keys.of(settings.providers)

    @property
    def rerouted_total(self) -> int:
        return self.rerouted.total()

    def guard(self, provider: Provider, model: str | None) -> Guard:
        """The circuits that guard an attempt at this model there; made when first asked for."""
        by_model = provider.circuit.scope == "model"
        key = provider.name, short(model) if by_model and model is not None else ""
        guard = self._guards.use(key)
        if guard is None:
            reaching = self._reaching.get(provider.name)
            if reaching is None:
                reaching = self._reaching[provider.name] = self._circuit(provider)
                if self.sharing is not None:
                    self.sharing.guards(provider.name, None, reaching)
            answering = self._circuit(provider) if by_model else None
            if self.sharing is not None and answering is not None:
                self.sharing.guards(provider.name, key[1], answering)
            guard = Guard(reaching, answering)
            self._guards.put(key, guard)
        return guard

    def _circuit(self, provider: Provider) -> Circuit:
        circuit = Circuit(provider.circuit, jitter=self._jitter)
        if (state := self._held.get(provider.name)) is not None:
            circuit.hold(state)
        return circuit

    def circuit_of(self, provider: Provider) -> Circuit:
        """A provider's own circuit."""
        return self._reaching.get(provider.name) or self._circuit(provider)

    def circuits_of_models(self, provider: Provider) -> dict[str, Circuit]:
        """Those of its models that were asked for, the latest used last."""
        guards = ((model, guard.answering) for (name, model), guard in self._guards.items() if name == provider.name)
        return {model: circuit for model, circuit in guards if circuit is not None}

    def set_mode(self, mode: str, *, told: bool = False) -> None:
        """Enforce, observe or off: by hand, here and in all that share this. `told`: it was done in another process."""
        self.mode = mode
        if self.sharing is not None:
            self.sharing.mode_set(mode, told=told)

    @property
    def held(self) -> dict[str, State]:
        """The providers whose circuits are held by hand."""
        return dict(self._held)

    def hold(self, name: str, state: State | None, *, told: bool = False) -> None:
        """Hold all circuits of a provider by hand (`forced_open`, `disabled`), or give them back (None), with all that
        it has said of limits: one may have ended before its time. `told`: it was done in another process."""
        if self.sharing is not None:
            self.sharing.held(name, state, told=told)
        if state is None:
            self._held.pop(name, None)
            self.cooldowns.keep(lambda provider: provider != name)
            self.plans.keep({other for other in self.settings.by_name if other != name})
        else:
            self._held[name] = state
        if (circuit := self._reaching.get(name)) is not None:
            circuit.hold(state)
        for (owner, _), guard in self._guards.items():
            if owner == name and guard.answering is not None:
                guard.answering.hold(state)
        self.tell_changed()

    # --- permits

    def admit(
        self, candidate: Candidate, subject: Subject, now: float, lease_seconds: float, *, insist: bool = False
    ) -> Attempt | Refused:
        """An attempt with a permit, or why not. `insist`: no other candidate is left, so that only circuits refuse."""
        guard = self.guard(candidate.provider, candidate.model)
        refused = self._refusal(guard, candidate, subject, now, insist)
        if refused is not None:
            return refused
        return self._begin(Attempt(candidate, subject, guard.grant(now, lease_seconds), now))

    def admit_beside(
        self, late: Attempt, candidate: Candidate, subject: Subject, now: float, lease_seconds: float
    ) -> Attempt | None:
        """An attempt beside a late one, only where nothing at all speaks against it: a probe that is cancelled because
        the late one has answered would tell nothing."""
        guard = self.guard(candidate.provider, candidate.model)
        if not guard.is_closed(now) or self._refusal(guard, candidate, subject, now, False) is not None:
            return None
        return self._begin(Attempt(candidate, subject, guard.grant(now, lease_seconds), now, late))

    def slowed(self, attempt: Attempt, now: float) -> None:
        """Its answer was good, but came far more slowly than is usual: that counts towards the failure rate."""
        if attempt.permit is not None:
            attempt.permit.amend(SLOW, now)

    def hedge_ended(self, attempt: Attempt, *, sent: bool) -> None:
        """An attempt that was made beside another is over. `sent`: its request has gone out."""
        outcome = attempt.outcome
        if not sent:
            self.budget.give_back()
            result = "unsent"
        elif outcome is None or outcome.kind is Kind.NEUTRAL:
            result = "lost"
        else:
            result = "won" if outcome.kind is Kind.SUCCESS else "failed"
        self.hedges_total[(attempt.candidate.provider.name, result)] += 1

    def until_claimed(self, candidate: Candidate, subject: Subject, now: float, *, insist: bool = False) -> float:
        """Where `admit` would give a probe's permit: seconds to wait until it is known whether another process probes;
        0.0: go on."""
        if self.sharing is None:
            return 0.0
        guard = self.guard(candidate.provider, candidate.model)
        if self._refusal(guard, candidate, subject, now, insist) is not None:
            return 0.0
        probed = [c for c in guard.circuits if c.state(now) in (State.OPEN, State.HALF_OPEN)]
        return max((self.sharing.claim(circuit, now) for circuit in probed), default=0.0)

    def refusal(self, candidate: Candidate, subject: Subject, now: float, *, insist: bool = False) -> Refused | None:
        """Why `admit` would give no permit now, None if it would."""
        guard = self.guard(candidate.provider, candidate.model)
        return self._refusal(guard, candidate, subject, now, insist)

    def _refusal(
        self, guard: Guard, candidate: Candidate, subject: Subject, now: float, insist: bool
    ) -> Refused | None:
        name = candidate.provider.name
        if self.sharing is not None:
            self.sharing.asked(subject, now)
        refusal = guard.refusal(now, insist=insist)
        if refusal is not None:
            return Refused(name, refusal.reason, refusal.retry_after)
        if insist or guard.is_disabled(now) or (cooling := self.cooldowns.find(subject, now)) is None:
            return None
        return Refused(name, f"cooldown ({cooling.reason})", cooling.seconds)

    def would_admit(self, candidate: Candidate, subject: Subject, now: float) -> bool:
        """Whether a candidate would get a permit now, without taking one and without insisting."""
        return self.refusal(candidate, subject, now) is None

    def look_on(self, candidate: Candidate, subject: Subject, now: float) -> Attempt:
        """An attempt that is made whatever the circuits say, in mode `observe`; counted where they let it."""
        permit = self.guard(candidate.provider, candidate.model).admit(now, LOOK_ON_LEASE_SECONDS)
        return self._begin(Attempt(candidate, subject, None if isinstance(permit, Refusal) else permit, now))

    def _begin(self, attempt: Attempt) -> Attempt:
        self.in_flight.add(attempt)
        self.out[attempt.candidate.provider.name] += 1
        return attempt

    # --- over a WebSocket

    def pause(self, attempt: Attempt, now: float) -> None:
        """Its WebSocket is there, and nothing is asked for yet: no permit is held until something is. That the provider
        is reached has been shown; nothing else has."""
        if attempt.permit is not None:
            attempt.permit.settle(OPENED, now, status=attempt.status)
            attempt.permit = None
        self._leave(attempt)
        self.tell_changed()

    def resume(self, attempt: Attempt, now: float, lease_seconds: float) -> None:
        """Something is asked for over its WebSocket: it is under way whatever the circuits say, counted where they let
        it."""
        candidate = attempt.candidate
        permit = self.guard(candidate.provider, candidate.model).admit(now, lease_seconds, insist=True)
        attempt.permit = None if isinstance(permit, Refusal) else permit
        self._begin(attempt)

    def settle(self, attempt: Attempt, outcome: Outcome, now: float) -> None:
        """Give an attempt its outcome, its permit back; a second word on it can only take back a success."""
        earlier, attempt.outcome = attempt.outcome, outcome
        candidate, permit = attempt.candidate, attempt.permit
        name = candidate.provider.name
        if permit is not None:
            circuits = permit.circuits
            before = [circuit.state(now) for circuit in circuits]
            if earlier is None:
                status = outcome.status if attempt.status is None else attempt.status
                permit.settle(outcome, now, status=status)
            elif earlier.kind is Kind.SUCCESS and outcome.kind in (Kind.FAILURE, Kind.SLOW):
                permit.amend(outcome, now)
            else:
                attempt.outcome = earlier
                return
            for circuit, was in zip(circuits, before, strict=True):
                if (state := circuit.state(now)) is not was:
                    what = name if circuit is circuits[0] else f"{name} ({attempt.subject.model})"
                    self.journal.append((now, f"{what}: {was} → {state} ({outcome.reason})"))
                    self.tell(f"circuit of {what}: {state}", _changed(what, circuit, state, outcome, now))
        if outcome.kind is not Kind.SUCCESS and outcome.kind is not Kind.NEUTRAL:
            self.last_error[name] = now, outcome.words
        if outcome.kind is Kind.COOLDOWN:
            if (limited := self.cooldowns.start(attempt.subject, outcome, now)) is not None:
                if self.sharing is not None:
                    self.sharing.limited(limited, now)
                self.journal.append((now, f"{name}: cooldown ({outcome.reason})"))
                cooling = self.cooldowns.find(attempt.subject, now)
                seconds = "" if cooling is None else f" for {math.ceil(cooling.seconds)} s"
                self.tell(f"cooldown of {name}: {outcome.reason}", f"{name} is passed over{seconds}: {outcome.words}")
        elif outcome.kind is Kind.SUCCESS:
            self.cooldowns.succeeded(attempt.subject, attempt.started)
        elif outcome.reason == "unknown_model" and candidate.model is not None:
            self._unknown.put((name, short(candidate.model)), now + UNKNOWN_MODEL_SECONDS)
        self.tell_changed()

    def foresee(self, limited: Subject, at: float, seconds: float, now: float) -> None:
        """A good answer whose head came at `at` has said that a limit is used up, and for how long."""
        self.cooldowns.foresee(limited, at, seconds)
        if self.sharing is not None:
            self.sharing.limited(limited, now)

    def nearly_used_up(self, asked: Subject, now: float) -> Window | None:
        """The window of a plan that a call for this subject would use up soon, None if there is none."""
        if self.sharing is not None:
            self.sharing.asked(asked, now)
        return self.plans.nearly_used_up(asked, now)

    def plan_told(self, asked: Subject, windows: tuple[Window, ...], now: float) -> None:
        """An answer has told of the windows of a plan."""
        if windows:
            self.plans.told(asked, windows, now)
            if self.sharing is not None:
                self.sharing.planned(asked.account, windows, now)

    def ended(self, attempt: Attempt, now: float) -> None:
        """The attempt is over: nothing more comes of it. It must have been settled before."""
        if attempt.ended_at is not None:
            return
        attempt.ended_at = now
        name = attempt.candidate.provider.name
        if attempt.outcome is not None:
            self.attempts_total[(name, attempt.outcome.kind, attempt.outcome.reason)] += 1
            if attempt.outcome.reason != OPENED.reason:  # a WebSocket lasts as long as the app likes
                self.attempt_durations.took((name, attempt.outcome.kind), now - attempt.started)
        self._leave(attempt)
        if attempt.usage is not None:
            self.tokens_total[(name, "input")] += attempt.usage.input
            self.tokens_total[(name, "output")] += attempt.usage.output
            if attempt.usage.cached:
                self.cached_tokens[name] += attempt.usage.cached
                self.saved_total[name] += attempt.saved  # type: ignore[assignment]  # Counter adds floats as well
        if attempt.cost is not None:
            self.cost_total[name] += attempt.cost  # type: ignore[assignment]  # Counter adds floats as well

    def _leave(self, attempt: Attempt) -> None:
        """It is not under way."""
        if attempt not in self.in_flight:
            return
        self.in_flight.discard(attempt)
        name = attempt.candidate.provider.name
        self.out[name] -= 1
        if not self.out[name]:
            del self.out[name]

    def tell_changed(self) -> None:
        """What was refused may be granted now."""
        for listener in tuple(self.changed):
            listener()

    # --- what providers said

    def knows_model(self, provider: Provider, model: str, now: float) -> bool:
        until = self._unknown.get((provider.name, short(model)))
        return until is None or now >= until

    def lacking_models(self, now: float) -> Callable[[Provider, str], bool] | None:
        """`knows_model` at this time, None while no provider is known to lack a model."""
        if not self._unknown:
            return None
        return lambda provider, model: self.knows_model(provider, model, now)

    def lacked_models(self, name: str, now: float) -> dict[str, float]:
        """The models that a provider has said it does not have, and for how many seconds it is not asked for each."""
        return {m: until - now for (provider, m), until in self._unknown.items() if provider == name and until > now}

    def issued(self, ids: tuple[str, ...], provider: Provider) -> None:
        """Remember which provider issued these identifiers, for later calls that are pinned by them."""
        if self.sharing is not None:
            self.sharing.issued([i for i in ids if self._issuers.get(i) is None], provider.name)
        self.told_issued(ids, provider)

    def told_issued(self, ids: Iterable[str], provider: Provider) -> None:
        """The same, where another process says so."""
        self._note_issued(ids, Issued(provider.name, provider.issuer))

    def ask_issuers(self, ids: Iterable[str], now: float) -> Question | None:
        """Have other processes asked who has issued what is not known here; None: nobody need be asked."""
        if self.sharing is None:
            return None
        unknown = [i for i in ids if self._issuers.get(i) is None]
        return self.sharing.issuers(unknown, now) if unknown else None

    def disown(self, ids: Iterable[str], provider: str) -> list[str]:
        """A provider refuses these pieces. Those that it was not itself seen to issue: whosever they are, they are left
        out from now on."""
        issued_by = {identifier: self.issuer_of(identifier) for identifier in ids}
        others = [identifier for identifier, by in issued_by.items() if by is None or by.provider != provider]
        self._note_issued(others, NOBODY)
        return others

    def _note_issued(self, ids: Iterable[str], by: Issued) -> None:
        for identifier in ids:
            self._issuers.put(identifier, by)

    def issuer_of(self, identifier: str) -> Issued | None:
        """Who was seen to have issued it. What is asked for is kept: the copies of a conversation must stay alike."""
        return self._issuers.use(identifier)


def _unchanged(before: Settings, now: Settings) -> set[str]:
    """The names of providers that are what they were, in the dialects in which they were asked and are."""
    known = {(p.name, p.dialect): p for p in before.providers}
    shared = [(p, known[p.name, p.dialect]) for p in now.providers if (p.name, p.dialect) in known]
    return {p.name for p, _ in shared} - {p.name for p, was in shared if p != was}


def _changed(what: str, circuit: Circuit, state: State, outcome: Outcome, now: float) -> str:
    """A circuit's change, and what comes next."""
    if state is State.OPEN:
        again = circuit.snapshot(now).retry_after or 0.0
        return f"{what} is not asked for {math.ceil(again)} s: {outcome.words}"
    return f"{what} is asked again: it answers" if state is State.CLOSED else f"{what} is {state}: {outcome.words}"
