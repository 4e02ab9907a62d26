"""The circuit: first the defects measured in a neighbour, then its table, its scripts, its invariants."""

from __future__ import annotations

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sidestep.circuit import TRANSITIONS, Circuit, CircuitSettings, Permit, Refusal, State, Trigger
from sidestep.outcomes import Kind, Outcome

OK = Outcome(Kind.SUCCESS, "ok", status=200)
BAD = Outcome(Kind.FAILURE, "http_5xx", status=503)
SLOW = Outcome(Kind.FAILURE, "timeout")
GONE = Outcome(Kind.NEUTRAL, "client_gone")
REJECTED = Outcome(Kind.NEUTRAL, "client_error", status=400)
LIMITED = Outcome(Kind.COOLDOWN, "rate_limit", status=429)


def circuit(**more: object) -> Circuit:
    return Circuit(CircuitSettings(**{"failure_threshold": 3, "open_seconds": 10, **more}), jitter=lambda: 0.5)  # type: ignore[arg-type]


def permit(c: Circuit, now: float, lease: float = 100) -> Permit:
    given = c.admit(now, lease)
    assert isinstance(given, Permit)
    return given


def fail(c: Circuit, now: float, outcome: Outcome = BAD) -> None:
    c.settle(permit(c, now), outcome, now)


def opened(**more: object) -> Circuit:
    c = circuit(**more)
    for _ in range(3):
        fail(c, 0)
    assert c.state(0) is State.OPEN
    return c


def test_a_neutral_error_does_not_close_a_half_open_circuit() -> None:
    """A probe whose client went away says nothing: the circuit stays half-open and the place is free again."""
    c = opened()
    probe = permit(c, 10)
    c.settle(probe, GONE, 11)
    assert c.state(11) is State.HALF_OPEN
    assert permit(c, 11).probe


def test_half_open_admits_one_of_fifty() -> None:
    """Of fifty requests that ask a half-open circuit at once, one is let through."""
    c = opened()
    given = [c.admit(10, 100) for _ in range(50)]
    assert sum(isinstance(g, Permit) for g in given) == 1
    assert all(g.reason == "probing" for g in given if isinstance(g, Refusal))


def test_a_stale_success_does_not_close_a_circuit_whose_probe_is_out() -> None:
    """The result of an attempt from before the circuit opened does not vote on the probe that is out."""
    c = circuit()
    stale = permit(c, 0)
    for _ in range(3):
        fail(c, 0)
    probe = permit(c, 10)
    assert c.settle(stale, OK, 11)
    assert c.state(11) is State.HALF_OPEN
    c.settle(probe, BAD, 12)
    assert c.state(12) is State.OPEN


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("trigger", Trigger)
def test_every_transition_is_in_the_table_or_raises(state: State, trigger: Trigger) -> None:
    """The table says all there is: what is in it happens, anything else is a bug and raises."""
    c = circuit()
    c._state = state
    if (state, trigger) in TRANSITIONS:
        c._apply(trigger, 0)
        assert c._state is TRANSITIONS[(state, trigger)]
    else:
        with pytest.raises(ValueError, match="illegal transition"):
            c._apply(trigger, 0)


def test_opens_at_the_threshold_of_consecutive_failures() -> None:
    """A success in between starts the count again."""
    c = circuit()
    fail(c, 0)
    fail(c, 0)
    c.settle(permit(c, 0), OK, 0)
    fail(c, 0)
    fail(c, 0)
    assert c.state(0) is State.CLOSED
    fail(c, 0)
    assert c.state(0) is State.OPEN


def test_opens_at_the_failure_rate_over_the_window() -> None:
    """Half of at least twenty attempts in the window: no row of failures is needed."""
    c = circuit(failure_threshold=100, min_requests=20, failure_rate=0.5, window_seconds=60)
    for i in range(19):
        c.settle(permit(c, i), BAD if i % 2 else OK, i)
    assert c.state(19) is State.CLOSED
    fail(c, 19)
    assert c.state(19) is State.OPEN


def test_failures_that_left_the_window_do_not_count() -> None:
    """The rate is of the last `window_seconds` only."""
    c = circuit(failure_threshold=100, min_requests=4, failure_rate=0.5, window_seconds=60)
    for _ in range(3):
        fail(c, 0)
    for _ in range(3):
        c.settle(permit(c, 70), OK, 70)
    fail(c, 71)
    assert c.state(71) is State.CLOSED


@pytest.mark.parametrize("outcome", [GONE, REJECTED, LIMITED])
def test_what_is_no_failure_never_opens(outcome: Outcome) -> None:
    """4xx, cooldowns and clients that left open no circuit, however many."""
    c = circuit()
    for _ in range(100):
        c.settle(permit(c, 0), outcome, 0)
    assert c.state(0) is State.CLOSED
    assert c.snapshot(0).failures == 0


def test_a_probe_decides() -> None:
    """Success closes, failure reopens, an HTTP answer below 500 closes, a 429 only gives the place back."""
    for outcome, after in ((OK, State.CLOSED), (BAD, State.OPEN), (REJECTED, State.CLOSED), (LIMITED, State.HALF_OPEN)):
        c = opened()
        c.settle(permit(c, 10), outcome, 11)
        assert c.state(11) is after, outcome
        assert c.snapshot(11).permits_out == 0


def test_only_a_slow_probe_doubles_the_open_time() -> None:
    """A quick failure costs the app nothing; closing takes the open time back to its beginning."""
    c = opened(open_seconds_max=35)
    now = 10.0
    for outcome, wait in ((BAD, 10), (SLOW, 20), (BAD, 20), (SLOW, 35), (SLOW, 35)):
        c.settle(permit(c, now), outcome, now)
        refusal = c.admit(now, 1)
        assert isinstance(refusal, Refusal)
        assert refusal.retry_after == pytest.approx(wait)
        now += wait
    c.settle(permit(c, now), OK, now)
    for _ in range(3):
        fail(c, now)
    refusal = c.admit(now, 1)
    assert isinstance(refusal, Refusal)
    assert refusal.retry_after == pytest.approx(10)


def test_the_open_time_varies_by_a_tenth() -> None:
    """Many processes do not probe in step."""
    for jitter, seconds in ((0.0, 9.0), (1.0, 11.0)):
        c = Circuit(CircuitSettings(failure_threshold=1, open_seconds=10), jitter=lambda j=jitter: j)
        fail(c, 0)
        refusal = c.admit(0, 1)
        assert isinstance(refusal, Refusal)
        assert refusal.retry_after == pytest.approx(seconds)


def test_a_probe_that_is_never_reported_gives_its_place_back() -> None:
    """A lease ends; what comes after its end changes nothing."""
    c = opened()
    forgotten = permit(c, 10, lease=5)
    refusal = c.admit(12, 5)
    assert refusal == Refusal("probing", pytest.approx(3))
    second = permit(c, 15)
    assert second.probe
    assert not c.settle(forgotten, OK, 16)
    assert c.state(16) is State.HALF_OPEN


def test_a_permit_is_settled_once() -> None:
    """The second word on a permit is not heard."""
    c = circuit()
    p = permit(c, 0)
    assert c.settle(p, BAD, 0)
    assert not c.settle(p, BAD, 0)
    assert c.snapshot(0).failure_count == 1


def test_a_stream_that_breaks_after_its_first_content_counts_as_the_failure_it_is() -> None:
    """Three streams in a row that are cut after content open the circuit, though each had counted as success."""
    c = circuit()
    for i in range(3):
        p = permit(c, i)
        c.settle(p, OK, i)
        assert c.amend(p, BAD, i)
        assert not c.amend(p, BAD, i)
    assert c.state(3) is State.OPEN
    assert c.snapshot(3).successes == 0


def test_taking_back_a_success_keeps_another_one_that_came_since() -> None:
    """Failures in a row are counted as if the broken stream had never succeeded."""
    c = circuit()
    fail(c, 0)
    fail(c, 0)
    p = permit(c, 1)
    c.settle(p, OK, 1)
    c.settle(permit(c, 2), OK, 2)
    c.amend(p, BAD, 3)
    assert c.snapshot(3).failure_count == 1
    assert c.state(3) is State.CLOSED


def test_a_broken_probe_stream_counts_in_the_circuit_that_it_closed() -> None:
    """The probe's first content closes the circuit; its break is the first failure of the closed one."""
    c = opened()
    probe = permit(c, 10)
    c.settle(probe, OK, 10)
    assert c.state(10) is State.CLOSED
    assert c.amend(probe, BAD, 11)
    assert c.snapshot(11).failure_count == 1
    assert c.state(11) is State.CLOSED


def test_an_old_success_cannot_be_taken_back_after_the_state_changed() -> None:
    """The generation decides, for amendments too."""
    c = circuit()
    p = permit(c, 0)
    c.settle(p, OK, 0)
    for _ in range(3):
        fail(c, 1)
    assert not c.amend(p, BAD, 2)


def test_held_by_hand() -> None:
    """Forced open refuses without end, disabled lets through and counts, released starts afresh."""
    c = circuit()
    c.hold(State.FORCED_OPEN)
    assert c.admit(1e9, 1) == Refusal("forced_open", None)
    c.hold(State.DISABLED)
    for _ in range(10):
        fail(c, 0)
    assert c.snapshot(0).failures == 10
    assert c.snapshot(0).state is State.DISABLED
    c.hold(None)
    assert c.snapshot(0).state is State.CLOSED
    assert c.snapshot(0).failures == 0
    with pytest.raises(ValueError, match="expected forced_open or disabled"):
        c.hold(State.OPEN)


class CircuitMachine(RuleBasedStateMachine):
    """Any order of asking, settling, forgetting and waiting."""

    @initialize(probes=st.integers(1, 3), threshold=st.integers(1, 4))
    def start(self, probes: int, threshold: int) -> None:
        self.now = 0.0
        self.probes = probes
        made = CircuitSettings(
            failure_threshold=threshold, half_open_probes=probes, open_seconds=10, min_requests=5, failure_rate=0.6
        )
        self.c = Circuit(made, jitter=lambda: 0.5)
        self.out: list[Permit] = []

    @rule(lease=st.floats(0.5, 30))
    def ask(self, lease: float) -> None:
        before = self.c.state(self.now)
        answer = self.c.admit(self.now, lease)
        if isinstance(answer, Permit):
            assert before in (State.CLOSED, State.HALF_OPEN)
            assert answer.probe == (before is State.HALF_OPEN)
            self.out.append(answer)
        else:
            assert before in (State.OPEN, State.HALF_OPEN)
            assert answer.retry_after is not None
            assert answer.retry_after > 0

    @precondition(lambda self: self.out)
    @rule(data=st.data(), outcome=st.sampled_from([OK, BAD, SLOW, GONE, REJECTED, LIMITED]))
    def settle(self, data: st.DataObject, outcome: Outcome) -> None:
        p = data.draw(st.sampled_from(self.out))
        self.out.remove(p)
        before = self.c.snapshot(self.now)
        heard = self.c.settle(p, outcome, self.now)
        after = self.c.snapshot(self.now)
        if not heard or p.generation not in (before.generation, after.generation):
            assert (before.state, before.failure_count) == (after.state, after.failure_count)
        if outcome in (GONE, LIMITED):
            assert after.state is before.state
            assert after.failure_count == before.failure_count
        if before.state is State.OPEN:
            assert after.state is State.OPEN

    @rule(seconds=st.floats(0.01, 25))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def come_back_when_told(self) -> None:
        """A refusal says when to come back; then one is let in, or told a new time."""
        answer = self.c.admit(self.now, 5)
        if isinstance(answer, Permit):
            self.out.append(answer)
            return
        assert answer.retry_after is not None
        self.now += answer.retry_after + 1e-6
        again = self.c.admit(self.now, 5)
        if isinstance(again, Permit):
            self.out.append(again)
        else:
            assert again.reason == "probing"

    @invariant()
    def never_more_probes_than_allowed(self) -> None:
        if hasattr(self, "c"):
            snapshot = self.c.snapshot(self.now)
            assert snapshot.probes_out <= self.probes
            assert snapshot.permits_out <= len(self.out)

    def teardown(self) -> None:
        if hasattr(self, "c"):
            assert self.c.snapshot(self.now + 31).permits_out == 0, "a lease has not ended"


TestCircuitMachine = CircuitMachine.TestCase
TestCircuitMachine.settings = hypothesis_settings(max_examples=120, stateful_step_count=40, deadline=None)
