"""Two circuits guard an attempt: whether the provider is reached, and whether this model there answers."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sidestep.breaker.circuit import Circuit, CircuitSettings, Refusal, Snapshot, State
from sidestep.breaker.guard import Guard, Pass
from sidestep.breaker.judging import CLIENT_GONE, CONNECT, SUCCESS, TIMEOUT, TRUNCATED, judge_status
from sidestep.breaker.outcomes import Kind, Outcome
from support.searching import searching

LEASE = 100.0
DOWN = judge_status(503, own_provider=True, own_credential=True)
LIMITED = judge_status(429, own_provider=True, own_credential=True)
INVALID = judge_status(400, own_provider=True, own_credential=True)


def circuit(threshold: int = 1) -> Circuit:
    settings = CircuitSettings(failure_threshold=threshold, open_seconds=10, open_seconds_max=40)
    return Circuit(settings, jitter=lambda: 0.5)


class Provider:
    """A provider with two models."""

    def __init__(self, threshold: int = 1) -> None:
        self.reaching, self.m, self.n = (circuit(threshold) for _ in range(3))
        self.guards = {"m": Guard(self.reaching, self.m), "n": Guard(self.reaching, self.n)}

    def attempt(self, model: str, outcome: Outcome, now: float, *, status: int | None) -> None:
        permit = self.guards[model].admit(now, LEASE)
        assert isinstance(permit, Pass), permit
        permit.settle(outcome, now, status=status)

    def states(self, now: float) -> tuple[str, str, str]:
        return self.reaching.state(now), self.m.state(now), self.n.state(now)


@pytest.mark.parametrize(
    ("outcome", "status", "states"),
    [
        (CONNECT, None, ("open", "closed", "closed")),
        (TIMEOUT, None, ("open", "closed", "closed")),
        (TIMEOUT, 200, ("closed", "open", "closed")),
        (DOWN, 503, ("closed", "open", "closed")),
        (TRUNCATED, 200, ("closed", "open", "closed")),
        (LIMITED, 429, ("closed", "closed", "closed")),
        (CLIENT_GONE, None, ("closed", "closed", "closed")),
    ],
)
def test_a_failure_counts_where_it_belongs(outcome: Outcome, status: int | None, states: tuple[str, ...]) -> None:
    """Not reached: all its models. Reached: this model alone."""
    provider = Provider()
    provider.attempt("m", outcome, 0, status=status)
    assert provider.states(0) == states
    for model in "mn":
        is_open = states[0] == "open" or states["-mn".index(model)] == "open"
        assert (provider.guards[model].refusal(0) is not None) is is_open


def test_a_success_counts_in_both() -> None:
    """Each loses its failures in a row."""
    provider = Provider(3)
    for outcome, status in ((CONNECT, None), (DOWN, 503), (SUCCESS, 200)):
        provider.attempt("m", outcome, 0, status=status)
    assert [c.snapshot(0).failure_count for c in (provider.reaching, provider.m)] == [0, 0]
    assert [c.snapshot(0).failures for c in (provider.reaching, provider.m)] == [1, 1]
    assert provider.m.snapshot(0).successes == 1


@pytest.mark.parametrize(
    ("outcome", "status", "state"),
    [
        (SUCCESS, 200, "closed"),
        (INVALID, 400, "closed"),
        (TIMEOUT, 200, "closed"),
        (DOWN, 503, "half_open"),
        (LIMITED, 429, "half_open"),
        (CLIENT_GONE, None, "half_open"),
        (CONNECT, None, "open"),
    ],
)
def test_what_a_probe_says_of_a_provider_that_was_not_reached(outcome: Outcome, status: int | None, state: str) -> None:
    """Any answer that shows it alive closes its circuit, whatever was wrong with that model; a 5xx or a 429 gives the
    probe's place back."""
    provider = Provider(3)
    for _ in range(3):
        provider.attempt("m", CONNECT, 0, status=None)
    assert provider.states(10) == ("half_open", "closed", "closed")
    provider.attempt("m", outcome, 10, status=status)
    assert provider.states(10) == (state, "closed", "closed")
    assert provider.reaching.snapshot(10).probes_out == 0


def test_failures_of_one_kind_are_in_a_row_whatever_comes_between() -> None:
    """A 503 is no sign that a provider can be reached well, nor a reset one that its model answers."""
    provider = Provider(3)
    for outcome, status in ((CONNECT, None), (DOWN, 503)) * 2:
        provider.attempt("m", outcome, 0, status=status)
    assert provider.states(0) == ("closed", "closed", "closed")
    provider.attempt("m", CONNECT, 0, status=None)
    assert provider.states(0) == ("open", "closed", "closed")


def test_a_permit_may_be_a_probe_in_either_or_both() -> None:
    """Both half-open: one probe answers both questions. One half-open: the other counts it as usual."""
    provider = Provider()
    held = provider.guards["m"].admit(0, LEASE)
    provider.attempt("m", CONNECT, 0, status=None)
    assert isinstance(held, Pass)
    held.settle(DOWN, 0, status=503)
    assert provider.states(10) == ("half_open", "half_open", "closed")
    probe = provider.guards["m"].admit(10, LEASE)
    assert isinstance(probe, Pass)
    assert probe.answering is not None
    assert (probe.reaching.probe, probe.answering.probe) == (True, True)
    assert provider.guards["n"].refusal(10) == Refusal("probing", LEASE)
    probe.settle(SUCCESS, 11, status=200)
    assert provider.states(11) == ("closed", "closed", "closed")


def test_what_says_nothing_of_the_model_gives_its_probes_place_back() -> None:
    """A probe that did not reach its provider reopens the provider's circuit, and leaves that of the model."""
    provider = Provider()
    provider.attempt("m", DOWN, 0, status=503)
    provider.attempt("m", CONNECT, 10, status=None)
    assert provider.states(10) == ("open", "half_open", "closed")
    assert provider.m.snapshot(10).probes_out == 0


def test_a_broken_stream_is_taken_back_where_it_counted() -> None:
    """Its success at first content stays one for reaching the provider."""
    provider = Provider()
    permit = provider.guards["m"].admit(0, LEASE)
    assert isinstance(permit, Pass)
    permit.settle(SUCCESS, 0, status=200)
    permit.amend(TRUNCATED, 1)
    assert provider.states(1) == ("closed", "open", "closed")
    alone = Guard(circuit())
    permit = alone.admit(0, LEASE)
    assert isinstance(permit, Pass)
    permit.settle(SUCCESS, 0, status=200)
    permit.amend(TRUNCATED, 1)
    assert alone.reaching.state(1) is State.OPEN


@pytest.mark.parametrize("outcome", [CONNECT, DOWN])
def test_one_circuit_for_all_takes_every_outcome(outcome: Outcome) -> None:
    """With `scope = "provider"` there is one question."""
    guard = Guard(circuit())
    permit = guard.admit(0, LEASE)
    assert isinstance(permit, Pass)
    permit.settle(outcome, 0, status=outcome.status)
    assert guard.refusal(0) == Refusal("open", 10)


def test_of_two_refusals_the_longer_is_told() -> None:
    """Before it ends there is no use in asking."""
    provider = Provider()
    provider.attempt("m", DOWN, 0, status=503)
    held = provider.guards["n"].admit(4, LEASE)
    assert isinstance(held, Pass)
    held.settle(CONNECT, 4, status=None)
    assert provider.guards["m"].refusal(5) == Refusal("open", 9)
    provider.m.hold(State.FORCED_OPEN)
    assert provider.guards["m"].refusal(5) == Refusal("forced_open", None)


# --- properties

OUTCOMES = st.sampled_from([SUCCESS, CONNECT, TIMEOUT, TIMEOUT, DOWN, DOWN, TRUNCATED, LIMITED, INVALID, CLIENT_GONE])


STATUSES = st.sampled_from([None, None, 200, 400, 429, 503])


class GuardMachine(RuleBasedStateMachine):
    """Two models of one provider, in any order of asking, settling, forgetting, holding and waiting."""

    @initialize(threshold=st.integers(1, 3))
    def start(self, threshold: int) -> None:
        self.provider = Provider(threshold)
        self.now = 1000.0
        self.out: list[tuple[str, Pass]] = []
        self.done: list[Pass] = []

    def look(self) -> dict[str, Snapshot]:
        p = self.provider
        return {name: c.snapshot(self.now) for name, c in (("reaching", p.reaching), ("m", p.m), ("n", p.n))}

    @rule(seconds=st.one_of(st.floats(0, 3), st.floats(0, 50)))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        over = [(model, p) for model, p in self.out if self.now >= p.reaching.lease_until]
        self.out = [entry for entry in self.out if entry not in over]
        self.done += [p for _, p in over]

    @rule(model=st.sampled_from("mn"), lease=st.floats(1, 60), insist=st.booleans())
    def admit(self, model: str, lease: float, insist: bool) -> None:
        """Both circuits give a permit, or neither; only where both would."""
        before = self.look()
        guard = self.provider.guards[model]
        refusal = guard.refusal(self.now, insist=insist)
        both = [c.refusal(self.now, insist=insist) for c in guard.circuits]
        assert (refusal is None) is (both == [None, None])
        answer = guard.admit(self.now, lease, insist=insist)
        if isinstance(answer, Pass):
            assert refusal is None
            self.out.append((model, answer))
        else:
            assert answer == refusal
            assert self.look() == before

    @precondition(lambda self: self.out)
    @rule(data=st.data(), outcome=OUTCOMES, status=STATUSES)
    def settle(self, data: st.DataObject, outcome: Outcome, status: int | None) -> None:
        """A failure counts in one circuit, and never in that of the other model; a stale result changes nothing."""
        entry = data.draw(st.sampled_from(self.out))
        model, permit = entry
        other = "n" if model == "m" else "m"
        before = self.look()
        assert permit.answering is not None
        stale = {
            "reaching": permit.reaching.generation != before["reaching"].generation,
            model: permit.answering.generation != before[model].generation,
        }
        permit.settle(outcome, self.now, status=status)
        self.out.remove(entry)
        self.done.append(permit)
        after = self.look()
        assert after[other] == before[other]
        for name, is_stale in stale.items():
            if is_stale:
                assert self.counts(after[name]) == self.counts(before[name])
        failed = [name for name in stale if after[name].failure_count > before[name].failure_count]
        assert len(failed) <= (outcome.kind is Kind.FAILURE)
        if failed:
            unreached = status is None and outcome in (CONNECT, TIMEOUT)
            assert failed == ["reaching" if unreached else model]

    @staticmethod
    def counts(s: Snapshot) -> tuple[object, ...]:
        return (s.state, s.failure_count, s.successes, s.failures, s.open_age, s.generation, s.times_opened)

    @precondition(lambda self: self.done)
    @rule(data=st.data(), outcome=OUTCOMES, status=STATUSES)
    def settle_again(self, data: st.DataObject, outcome: Outcome, status: int | None) -> None:
        """Settled once, or forgotten until its lease was over: nothing more comes of it."""
        permit = data.draw(st.sampled_from(self.done))
        before = self.look()
        permit.settle(outcome, self.now, status=status)
        assert self.look() == before

    @rule(state=st.sampled_from([None, None, None, State.FORCED_OPEN, State.DISABLED]))
    def hold(self, state: Literal[State.FORCED_OPEN, State.DISABLED] | None) -> None:
        """By hand all circuits of a provider are held alike."""
        for each in (self.provider.reaching, self.provider.m, self.provider.n):
            each.hold(state, self.now)
        if state is not None:
            assert self.provider.states(self.now) == (state, state, state)

    @precondition(lambda self: self.provider.guards["m"].refusal(self.now) is not None)
    @rule(model=st.sampled_from("mn"), outcome=OUTCOMES, status=STATUSES)
    def probe_when_it_may(self, model: str, outcome: Outcome, status: int | None) -> None:
        """The time named is when it makes sense to ask again."""
        refusal = self.provider.guards[model].refusal(self.now)
        if refusal is None or refusal.retry_after is None:
            return
        self.wait(refusal.retry_after + 1e-6)
        answer = self.provider.guards[model].admit(self.now, 30.0)
        if isinstance(answer, Pass):
            answer.settle(outcome, self.now, status=status)
            self.done.append(answer)

    @invariant()
    def what_is_out_is_what_the_book_says(self) -> None:
        """No permit is stuck in either circuit, and of each at most one probe is out."""
        if not hasattr(self, "provider"):
            return
        seen = self.look()
        assert seen["reaching"].permits_out == len(self.out)
        for model in "mn":
            assert seen[model].permits_out == sum(m == model for m, _ in self.out)
        assert all(s.probes_out <= 1 for s in seen.values())

    def teardown(self) -> None:
        """All leases end: nothing is out, and what is not held open can be asked in the end."""
        if not hasattr(self, "provider"):
            return
        self.wait(61)
        assert all(s.permits_out == s.probes_out == 0 for s in self.look().values())
        for guard in self.provider.guards.values():
            if self.provider.reaching.state(self.now) is not State.FORCED_OPEN:
                assert guard.refusal(self.now) is None


GuardMachine.TestCase.settings = searching(1.5, stateful_step_count=40)
TestGuardMachine = GuardMachine.TestCase


def test_nothing_speaks_against_it_only_while_both_are_closed_and_past_their_ramp() -> None:
    provider = Provider()
    guard = provider.guards["m"]
    assert guard.is_closed(0)
    provider.attempt("m", DOWN, 0, status=503)
    assert not guard.is_closed(0)
    assert provider.guards["n"].is_closed(0)
    assert not guard.is_closed(10)
    provider.attempt("m", SUCCESS, 10, status=200)
    assert guard.is_closed(10)
    out = [guard.admit(10, LEASE), guard.admit(10, LEASE)]
    assert all(isinstance(permit, Pass) for permit in out)
    assert not guard.is_closed(10)
    assert guard.is_closed(25)
    provider.m.hold(State.DISABLED)
    assert guard.is_closed(25)
