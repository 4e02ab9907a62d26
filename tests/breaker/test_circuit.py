"""The circuit: first the defects measured in neighbours, then its table, its rules, and its promises as properties."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sidestep.breaker.circuit import (
    DAY,
    TRANSITIONS,
    Circuit,
    CircuitSettings,
    Permit,
    Refusal,
    Snapshot,
    State,
    Trigger,
)
from sidestep.breaker.outcomes import Kind, Outcome
from support.searching import searching

SUCCESS = Outcome(Kind.SUCCESS, "success", status=200)
FAILURE = Outcome(Kind.FAILURE, "http_5xx", status=500)
SLOW = Outcome(Kind.FAILURE, "timeout")
LATE = Outcome(Kind.SLOW, "slow")
ALIVE = Outcome(Kind.NEUTRAL, "invalid", status=400)
GONE = Outcome(Kind.NEUTRAL, "client_gone")
RATE_LIMITED = Outcome(Kind.COOLDOWN, "rate_limit", status=429)
CREDENTIAL = Outcome(Kind.COOLDOWN, "credential", status=401)
QUOTA = Outcome(Kind.COOLDOWN, "quota", status=402)
COOLDOWNS = [RATE_LIMITED, CREDENTIAL, QUOTA]
LEASE = 100.0


def make(jitter: float = 0.5, **more: Any) -> Circuit:
    """A circuit with the defaults of the contract; jitter 0.5 is none."""
    return Circuit(CircuitSettings(**more), jitter=lambda: jitter)


def grant(circuit: Circuit, now: float, lease: float = LEASE) -> Permit:
    permit = circuit.admit(now, lease)
    assert isinstance(permit, Permit), permit
    return permit


def grant_insisting(circuit: Circuit, now: float) -> Permit:
    permit = circuit.admit(now, LEASE, insist=True)
    assert isinstance(permit, Permit)
    return permit


def refused_for(circuit: Circuit, now: float) -> float | None:
    refusal = circuit.admit(now, LEASE)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "open"
    return refusal.retry_after


def attempt(circuit: Circuit, outcome: Outcome, now: float) -> Permit:
    """Admit and settle at once."""
    permit = grant(circuit, now)
    assert circuit.settle(permit, outcome, now)
    return permit


def opened(now: float = 0.0, **more: Any) -> Circuit:
    circuit = make(**more)
    for _ in range(circuit.settings.failure_threshold):
        attempt(circuit, FAILURE, now)
    assert circuit.state(now) is State.OPEN
    return circuit


def counts(circuit: Circuit, now: float) -> tuple[int, int, int]:
    snapshot = circuit.snapshot(now)
    return snapshot.failure_count, snapshot.successes, snapshot.failures


# --- what was measured in a neighbour


@pytest.mark.parametrize("outcome", [GONE, *COOLDOWNS, Outcome(Kind.NEUTRAL, "conflict", status=429)])
def test_a_neutral_error_does_not_close_a_half_open_circuit(outcome: Outcome) -> None:
    """A probe that proved nothing gives its place back, and the circuit stays half-open."""
    circuit = opened()
    probe = grant(circuit, 15)
    generation = circuit.snapshot(15).generation
    assert circuit.settle(probe, outcome, 16)
    snapshot = circuit.snapshot(16)
    assert (snapshot.state, snapshot.probes_out, snapshot.generation) == (State.HALF_OPEN, 0, generation)
    assert grant(circuit, 16).probe


@pytest.mark.parametrize("probes", [1, 3])
def test_of_fifty_requests_in_half_open_only_the_probes_are_admitted(probes: int) -> None:
    """Half-open lets `half_open_probes` out at a time and no more."""
    circuit = opened(half_open_probes=probes)
    answers = [circuit.admit(15, LEASE) for _ in range(50)]
    assert [isinstance(a, Permit) and a.probe for a in answers] == [True] * probes + [False] * (50 - probes)
    assert set(answers[probes:]) == {Refusal("probing", LEASE)}


@pytest.mark.parametrize("outcome", [SUCCESS, ALIVE])
def test_a_stale_success_does_not_close_a_circuit_whose_probe_is_out(outcome: Outcome) -> None:
    """The result of an attempt that began before the last change of state does not change it."""
    circuit = make()
    stale = grant(circuit, 0)
    for _ in range(3):
        attempt(circuit, FAILURE, 0)
    probe = grant(circuit, 15)
    before = circuit.snapshot(16)
    assert circuit.settle(stale, outcome, 16)
    assert (before.state, before.permits_out) == (State.HALF_OPEN, 2)
    assert circuit.snapshot(16) == dataclasses.replace(before, permits_out=1)
    circuit.settle(probe, FAILURE, 17)
    assert circuit.state(17) is State.OPEN


# --- the table

C, O, H, F, D = State.CLOSED, State.OPEN, State.HALF_OPEN, State.FORCED_OPEN, State.DISABLED  # noqa: E741
LEGAL = {
    (C, "tripped"): O,
    (O, "time_came"): H,
    (C, "told_open"): O,
    (H, "told_open"): O,
    (O, "told_closed"): C,
    (H, "told_closed"): C,
    (H, "probe_succeeded"): C,
    (H, "probe_failed"): O,
    (C, "held_open"): F,
    (O, "held_open"): F,
    (H, "held_open"): F,
    (F, "held_open"): F,
    (D, "held_open"): F,
    (C, "held_disabled"): D,
    (O, "held_disabled"): D,
    (H, "held_disabled"): D,
    (F, "held_disabled"): D,
    (D, "held_disabled"): D,
    (F, "released"): C,
    (D, "released"): C,
}


@pytest.mark.parametrize("trigger", Trigger)
@pytest.mark.parametrize("state", State)
def test_every_pair_is_legal_by_the_table_or_raises(state: State, trigger: Trigger) -> None:
    """A legal trigger leads where the table says, under a new generation; any other raises, changing nothing."""
    circuit = make()
    circuit._state = state
    after = LEGAL.get((state, trigger.value))
    assert TRANSITIONS.get((state, trigger)) is after
    if after is None:
        with pytest.raises(ValueError, match=f"{trigger.value} in {state}"):
            circuit._apply(trigger, 0)
    else:
        circuit._apply(trigger, 0)
    assert circuit._state is (after or state)
    assert circuit._generation == (0 if after in (None, state) else 1)


# --- closed


def test_opens_after_consecutive_failures() -> None:
    """`failure_threshold` failures in a row open it, one fewer do not, and a success starts the row anew."""
    circuit = make()
    for outcome in (FAILURE, FAILURE, SUCCESS, FAILURE, SLOW):
        attempt(circuit, outcome, 0)
    assert circuit.state(0) is State.CLOSED
    attempt(circuit, FAILURE, 0)
    assert circuit.state(0) is State.OPEN


def test_opens_at_the_failure_rate() -> None:
    """The rate opens it once there are `min_requests` attempts, however the failures are spread."""
    circuit = make()
    for i in range(19):
        attempt(circuit, FAILURE if i % 2 else SUCCESS, i)
    assert (circuit.state(19), counts(circuit, 19)) == (State.CLOSED, (0, 10, 9))
    attempt(circuit, FAILURE, 19)
    assert circuit.state(19) is State.OPEN


def test_failures_older_than_the_window_do_not_make_a_rate() -> None:
    """What is older than `window_seconds` is no part of the rate."""
    circuit = make()
    for i in range(19):
        attempt(circuit, FAILURE if i % 2 else SUCCESS, 0)
    attempt(circuit, FAILURE, 60)
    assert (circuit.state(60), counts(circuit, 60)) == (State.CLOSED, (1, 0, 1))


def test_a_success_never_opens() -> None:
    """Even where it completes the number that the rate needs."""
    circuit = make()
    for i in range(20):
        attempt(circuit, SUCCESS if i % 2 else FAILURE, i)
    assert (circuit.state(20), counts(circuit, 20)) == (State.CLOSED, (0, 10, 10))


@pytest.mark.parametrize("outcome", [ALIVE, GONE, *COOLDOWNS])
def test_neutral_and_cooldown_count_nothing(outcome: Outcome) -> None:
    """In closed they neither add to a count nor break a row of failures."""
    circuit = make()
    attempt(circuit, FAILURE, 0)
    for _ in range(50):
        attempt(circuit, outcome, 0)
    assert (circuit.state(0), counts(circuit, 0)) == (State.CLOSED, (1, 0, 1))


# --- open


@pytest.mark.parametrize(("jitter", "seconds"), [(0.0, 13.5), (0.5, 15.0), (1.0, 16.5)])
def test_refuses_until_its_time_and_says_when(jitter: float, seconds: float) -> None:
    """Open lasts `open_seconds`, within 10 %; it refuses with the rest of it, and not a moment longer."""
    circuit = make(jitter)
    for _ in range(3):
        attempt(circuit, FAILURE, 0)
    assert refused_for(circuit, 0) == pytest.approx(seconds)
    assert circuit.refusal(seconds - 0.01) is not None
    assert refused_for(circuit, seconds - 0.01) == pytest.approx(0.01)
    assert circuit.refusal(seconds) is None
    assert grant(circuit, seconds).probe


def test_half_open_is_decided_when_asked() -> None:
    """No timer is needed: whoever asks after the time sees half-open."""
    circuit = opened()
    assert (circuit.state(14.9), circuit.state(15)) == (State.OPEN, State.HALF_OPEN)


# --- half-open


@pytest.mark.parametrize("outcome", [SUCCESS, ALIVE, Outcome(Kind.NEUTRAL, "unknown_model", status=404)])
def test_a_sign_of_life_closes_with_clean_counts(outcome: Outcome) -> None:
    """A probe's success, or an HTTP answer below 500 save 429, closes; nothing from before counts any more."""
    circuit = opened()
    attempt(circuit, outcome, 15)
    assert (circuit.state(15), counts(circuit, 15)) == (State.CLOSED, (0, int(outcome is SUCCESS), 0))
    assert not grant(circuit, 15).probe


def test_a_quick_failure_reopens_for_the_same_time_a_slow_one_for_twice() -> None:
    """Only a slow probe doubles the open time, up to its maximum; closing sets it back."""
    circuit = opened(open_seconds_max=50)
    now, waits = 0.0, []
    for outcome in (FAILURE, FAILURE, SLOW, FAILURE, SLOW, SLOW):
        now += circuit.snapshot(now).retry_after or 0
        attempt(circuit, outcome, now)
        waits.append(circuit.snapshot(now).retry_after)
    assert waits == [15, 15, 30, 30, 50, 50]
    now += 50
    attempt(circuit, SUCCESS, now)
    for _ in range(3):
        attempt(circuit, FAILURE, now)
    assert circuit.snapshot(now).retry_after == 15


def test_doubling_never_shortens() -> None:
    """An `open_seconds` above its maximum stays what it is when a probe was slow."""
    circuit = opened(open_seconds=400)
    attempt(circuit, SLOW, 400)
    assert circuit.snapshot(400).retry_after == 400


def test_the_doubled_part_of_an_open_time_refuses_none_that_insists() -> None:
    """Only that part: the plain open time refuses all. The next slow probe doubles on from what it was."""
    circuit = opened()
    assert circuit.refusal(1, insist=True) == Refusal("open", 14)
    attempt(circuit, SLOW, 15)
    assert circuit.refusal(20) == Refusal("open", 25)
    assert circuit.refusal(20, insist=True) == Refusal("open", 10)
    assert circuit.refusal(30) == Refusal("open", 15)
    assert circuit.state(30) is State.OPEN
    probe = circuit.admit(30, LEASE, insist=True)
    assert isinstance(probe, Permit)
    assert probe.probe
    assert circuit.refusal(30, insist=True) == Refusal("probing", LEASE)
    circuit.settle(probe, SLOW, 30)
    assert circuit.snapshot(30).retry_after == 60


def test_traffic_comes_back_in_a_ramp() -> None:
    """Closed by a probe it takes two at a time, then one more with each success; whoever insists is let through."""
    circuit = opened()
    attempt(circuit, SUCCESS, 15)
    out = [grant(circuit, 16) for _ in range(2)]
    assert circuit.refusal(16) == Refusal("recovering", 14)
    assert isinstance(circuit.admit(16, LEASE), Refusal)
    out.append(grant_insisting(circuit, 16))
    for round_of_answers in (5, 10, 20):
        for permit in out:
            circuit.settle(permit, SUCCESS, 17)
        out = []
        while isinstance(granted := circuit.admit(17, LEASE), Permit):
            out.append(granted)
        assert len(out) == round_of_answers
    assert circuit.snapshot(17).retry_after is None


def test_the_ramp_ends_after_an_open_time() -> None:
    """Whatever its requests take: after `open_seconds` all are let through."""
    circuit = opened()
    attempt(circuit, SUCCESS, 15)
    for _ in range(2):
        grant(circuit, 16, lease=600)
    assert circuit.refusal(29.9) is not None
    assert [grant(circuit, 30) for _ in range(50)]


def test_one_at_a_time_meets_no_ramp() -> None:
    """An app that waits for each answer has its provider back at once."""
    circuit = opened()
    for i in range(5):
        attempt(circuit, SUCCESS, 15 + i)


def test_permits_from_before_take_no_place_in_the_ramp() -> None:
    """What hung while the circuit was open is no part of the traffic that comes back."""
    circuit = make()
    for _ in range(5):
        grant(circuit, 0, lease=600)
    for _ in range(3):
        attempt(circuit, FAILURE, 0)
    attempt(circuit, SUCCESS, 15)
    grant(circuit, 16)


def test_the_first_probe_to_fail_reopens_whatever_the_others_say() -> None:
    """With several probes out the first result decides; the others are of another generation."""
    circuit = opened(half_open_probes=3)
    first, second, third = (grant(circuit, 15) for _ in range(3))
    circuit.settle(first, GONE, 16)
    assert circuit.state(16) is State.HALF_OPEN
    circuit.settle(second, FAILURE, 16)
    circuit.settle(third, SUCCESS, 17)
    snapshot = circuit.snapshot(17)
    assert (snapshot.state, snapshot.times_opened, snapshot.permits_out) == (State.OPEN, 2, 0)


def test_a_probe_of_an_earlier_round_holds_no_place() -> None:
    """Once a failure has reopened, the probes still out take no place from the next half-open round."""
    circuit = opened(half_open_probes=2)
    first = grant(circuit, 15)
    grant(circuit, 15)
    circuit.settle(first, FAILURE, 16)
    assert all(grant(circuit, 31).probe for _ in range(2))
    snapshot = circuit.snapshot(31)
    assert (snapshot.probes_out, snapshot.permits_out) == (2, 3)


def test_a_forgotten_probe_gives_its_place_back() -> None:
    """When a lease ends the next may probe, and the late result changes nothing."""
    circuit = opened()
    forgotten = grant(circuit, 15, lease=30)
    assert circuit.admit(44, LEASE) == Refusal("probing", 1)
    probe = grant(circuit, 45)
    assert probe.probe
    for outcome in (SUCCESS, FAILURE, ALIVE):
        assert not circuit.settle(forgotten, outcome, 46)
    snapshot = circuit.snapshot(46)
    assert (snapshot.state, snapshot.probes_out) == (State.HALF_OPEN, 1)


def test_the_refusal_names_the_lease_that_ends_first() -> None:
    """With several probes out, the time to come back is the end of the earliest lease."""
    circuit = opened(half_open_probes=2)
    grant(circuit, 15, lease=50)
    grant(circuit, 16, lease=9)
    assert circuit.admit(17, LEASE) == Refusal("probing", 8)


# --- permits


def test_settled_exactly_once() -> None:
    """Only the first word on a permit counts."""
    circuit = make()
    permit = grant(circuit, 0)
    assert circuit.settle(permit, SUCCESS, 1)
    assert permit.settled
    for _ in range(5):
        assert not circuit.settle(permit, FAILURE, 1)
    assert (circuit.state(1), counts(circuit, 1)) == (State.CLOSED, (0, 1, 0))


def test_a_permit_counts_only_where_it_was_given() -> None:
    """After a reload an attempt of the replaced circuit says nothing to the new one, neither first nor later."""
    replaced, circuit = make(failure_threshold=1), make(failure_threshold=1)
    before = circuit.snapshot(2)
    assert not circuit.settle(grant(replaced, 0), FAILURE, 2)
    assert not circuit.amend(attempt(replaced, SUCCESS, 0), FAILURE, 2)
    assert circuit.snapshot(2) == before


@pytest.mark.parametrize("lease", [DAY, 1e12, math.inf, math.nan])
def test_no_lease_is_longer_than_a_day(lease: float) -> None:
    """Every lease ends, whatever it was asked to be."""
    circuit = make()
    assert grant(circuit, 0, lease).lease_until == DAY
    assert circuit.snapshot(DAY - 1).permits_out == 1
    assert circuit.snapshot(DAY).permits_out == 0


@pytest.mark.parametrize("lease", [0.0, -1.0, -math.inf])
def test_a_lease_that_is_over_before_it_began_is_a_bug(lease: float) -> None:
    """It would let any number of probes out."""
    with pytest.raises(ValueError, match="expected a lease above 0 seconds"):
        make().admit(0, lease)


# --- a success taken back


SCRIPTS = {
    # what is settled in order, "*" the success that is taken back; consecutive, successes, failures after
    "*": (1, 0, 1),
    "FF*": (3, 0, 3),
    "FF*F": (4, 0, 4),
    "F*FF": (4, 0, 4),
    "FF*S": (1, 1, 3),
    "FF*FSF": (2, 1, 5),
    "S*": (1, 1, 1),
    "SFF*": (3, 1, 3),
}


@pytest.mark.parametrize(("script", "expected"), SCRIPTS.items())
def test_a_success_taken_back_counts_as_the_failure_that_it_was(script: str, expected: tuple[int, int, int]) -> None:
    """The row of failures becomes what it would have been without that success, the window as well."""
    circuit = make(failure_threshold=100)
    settled = {i: attempt(circuit, FAILURE if c == "F" else SUCCESS, i) for i, c in enumerate(script)}
    assert circuit.amend(settled[script.index("*")], SLOW, 30)
    assert counts(circuit, 30) == expected


def test_a_success_taken_back_may_open() -> None:
    """Where it completes the row, the circuit opens."""
    circuit = make()
    attempt(circuit, FAILURE, 0)
    attempt(circuit, FAILURE, 0)
    stream = attempt(circuit, SUCCESS, 0)
    assert circuit.amend(stream, SLOW, 5)
    assert circuit.state(5) is State.OPEN


def test_a_success_is_taken_back_once_and_only_by_a_failure() -> None:
    """A later success, neutral or cooldown takes nothing back; a second failure counts no more."""
    circuit = make(failure_threshold=100)
    stream = attempt(circuit, SUCCESS, 0)
    for outcome in (SUCCESS, GONE, ALIVE, *COOLDOWNS):
        assert not circuit.amend(stream, outcome, 1)
    assert circuit.amend(stream, SLOW, 1)
    assert not circuit.amend(stream, SLOW, 1)
    assert counts(circuit, 1) == (1, 0, 1)


def test_what_is_merely_slow_counts_in_the_window_and_in_no_row() -> None:
    """As it ends, and where it takes a success back: that one's row is broken all the same."""
    circuit = make(failure_threshold=2, min_requests=6, failure_rate=0.5)
    attempt(circuit, FAILURE, 0)
    stream = attempt(circuit, SUCCESS, 0)
    assert circuit.amend(stream, LATE, 1)
    assert not circuit.amend(stream, LATE, 1)
    attempt(circuit, LATE, 1)
    assert counts(circuit, 1) == (0, 0, 3)
    assert circuit.snapshot(1).last_failure == LATE.words
    for _ in range(2):
        attempt(circuit, SUCCESS, 1)
    assert circuit.state(1) is State.CLOSED
    attempt(circuit, LATE, 1)
    assert circuit.state(1) is State.OPEN, "half of so many were slow or failed"


def test_an_answer_that_was_slow_may_open() -> None:
    """Where it is found out only after its success was counted."""
    circuit = make(min_requests=2, failure_rate=1.0)
    attempt(circuit, LATE, 0)
    stream = attempt(circuit, SUCCESS, 0)
    assert circuit.state(0) is State.CLOSED
    assert circuit.amend(stream, LATE, 1)
    assert circuit.state(1) is State.OPEN


@pytest.mark.parametrize("outcome", [FAILURE, GONE, ALIVE, RATE_LIMITED])
def test_only_a_success_can_be_taken_back(outcome: Outcome) -> None:
    """A permit that had another outcome, or none yet, is not amended."""
    circuit = make(failure_threshold=100)
    permit = grant(circuit, 0)
    assert not circuit.amend(permit, SLOW, 0)
    circuit.settle(permit, outcome, 0)
    before = circuit.snapshot(1)
    assert not circuit.amend(permit, SLOW, 1)
    assert circuit.snapshot(1) == before


@pytest.mark.parametrize(("threshold", "state"), [(1, State.OPEN), (2, State.CLOSED)])
def test_the_success_that_closed_counts_as_one_failure(threshold: int, state: State) -> None:
    """A probe's success taken back is one failure in the freshly closed circuit; the row from before is gone."""
    circuit = opened(failure_threshold=threshold)
    probe = attempt(circuit, SUCCESS, 15)
    assert circuit.amend(probe, SLOW, 20)
    assert circuit.state(20) is state
    assert counts(circuit, 20) == (1, 0, 1)


def test_a_success_from_before_the_last_change_stays() -> None:
    """A stream that began before the circuit opened and breaks after it closed changes nothing."""
    circuit = make()
    stream = attempt(circuit, SUCCESS, 0)
    for _ in range(3):
        attempt(circuit, FAILURE, 0)
    assert not circuit.amend(stream, SLOW, 1)
    stream = attempt(circuit, SUCCESS, 15)
    for _ in range(3):
        attempt(circuit, FAILURE, 16)
    attempt(circuit, SUCCESS, 31)
    before = circuit.snapshot(32)
    assert not circuit.amend(stream, SLOW, 32)
    assert circuit.snapshot(32) == before


# --- by hand


def test_forced_open_always_refuses() -> None:
    """Held open it refuses for as long as it is held, and knows no time to come back."""
    circuit = make()
    circuit.hold(State.FORCED_OPEN)
    for now in (0, 1e3, 1e9):
        assert circuit.admit(now, LEASE) == Refusal("forced_open", None)


def test_disabled_lets_all_through_and_counts() -> None:
    """Held disabled it never opens; failures are counted all the same, and no permit is a probe."""
    circuit = make()
    circuit.hold(State.DISABLED)
    for _ in range(50):
        assert not attempt(circuit, FAILURE, 0).probe
    assert (circuit.state(0), counts(circuit, 0)) == (State.DISABLED, (50, 0, 50))


@pytest.mark.parametrize("held", [State.FORCED_OPEN, State.DISABLED])
@pytest.mark.parametrize("make_before", [make, opened])
def test_released_it_is_closed_with_clean_counts(make_before: Any, held: State) -> None:
    """Given back it starts afresh; what was asked before or during the hold no longer counts."""
    circuit: Circuit = make_before()
    circuit.hold(held)
    during = circuit.admit(0, LEASE)
    circuit.hold(None)
    assert (circuit.state(0), counts(circuit, 0)) == (State.CLOSED, (0, 0, 0))
    if isinstance(during, Permit):
        circuit.settle(during, FAILURE, 1)
    assert counts(circuit, 1) == (0, 0, 0)


def test_releasing_what_is_not_held_changes_nothing() -> None:
    """The command for it does not reset an open circuit."""
    circuit = opened()
    before = circuit.snapshot(1)
    circuit.hold(None)
    assert circuit.snapshot(1) == before


def test_holding_again_changes_nothing() -> None:
    """Held twice is held once: the permits given under the hold still count."""
    circuit = make()
    circuit.hold(State.DISABLED)
    permit = grant(circuit, 0)
    circuit.hold(State.DISABLED)
    circuit.settle(permit, FAILURE, 0)
    assert counts(circuit, 0) == (1, 0, 1)


@pytest.mark.parametrize("state", [State.CLOSED, State.OPEN, State.HALF_OPEN])
def test_only_the_operator_states_are_held(state: State) -> None:
    """The automatic states cannot be held by hand."""
    with pytest.raises(ValueError, match=f"found {state}"):
        make().hold(state)


# --- what is seen


def test_the_snapshot_tells_all() -> None:
    """Through a whole life every value is what an operator would count."""
    circuit = make()
    attempt(circuit, SUCCESS, 0)
    for _ in range(3):
        attempt(circuit, FAILURE, 1)
    grant(circuit, 16, lease=20)
    assert circuit.snapshot(18) == Snapshot(
        state=State.HALF_OPEN,
        failure_count=3,
        successes=1,
        failures=3,
        open_age=17,
        retry_after=18,
        permits_out=1,
        probes_out=1,
        generation=2,
        times_opened=1,
        last_failure=FAILURE.words,
    )
    assert repr(circuit) == "Circuit(half_open, failures=3, permits=1, generation=2)"
    assert make().snapshot(5) == Snapshot(State.CLOSED, 0, 0, 0, None, None, 0, 0, 0, 0, "")


# --- settings


def test_defaults_are_the_contract() -> None:
    """The `[circuit]` table, word for word."""
    assert msgspec.to_builtins(CircuitSettings()) == {
        "failure_threshold": 3,
        "failure_rate": 0.5,
        "window_seconds": 60,
        "min_requests": 20,
        "open_seconds": 15,
        "open_seconds_max": 300,
        "half_open_probes": 1,
        "probe_wait_seconds": 10,
        "scope": "model",
    }


@pytest.mark.parametrize(
    "bad",
    [
        {"failure_threshold": 0},
        {"failure_rate": 0},
        {"failure_rate": 1.01},
        {"window_seconds": 0},
        {"min_requests": 0},
        {"open_seconds": 0},
        {"open_seconds": math.inf},
        {"open_seconds": math.nan},
        {"open_seconds_max": -1},
        {"open_seconds_max": math.inf},
        {"half_open_probes": 0},
        {"half_open_probes": 1.5},
        {"probe_wait_seconds": -0.1},
        {"scope": "galaxy"},
        {"treshold": 3},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(bad: dict[str, object]) -> None:
    """A value outside its range, or a field that does not exist, is an error."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(bad, CircuitSettings)


@pytest.mark.parametrize("good", [{"failure_rate": 1}, {"probe_wait_seconds": 0}, {"scope": "provider"}], ids=str)
def test_settings_at_their_edges_are_taken(good: dict[str, object]) -> None:
    """The ends of a range belong to it."""
    msgspec.convert(good, CircuitSettings)


# --- properties

OUTCOMES = st.sampled_from([SUCCESS, FAILURE, FAILURE, FAILURE, SLOW, ALIVE, GONE, *COOLDOWNS])


class CircuitMachine(RuleBasedStateMachine):
    """Any order of asking, settling, amending, holding and waiting, beside a book of what is really out."""

    @initialize(
        probes=st.integers(1, 3),
        threshold=st.integers(1, 3),
        min_requests=st.integers(2, 8),
        jitter=st.floats(0, 1),
    )
    def start(self, probes: int, threshold: int, min_requests: int, jitter: float) -> None:
        self.circuit = make(
            jitter,
            half_open_probes=probes,
            failure_threshold=threshold,
            min_requests=min_requests,
            open_seconds=10,
            open_seconds_max=40,
        )
        self.now = 1000.0
        self.out: list[Permit] = []
        """Granted, not settled, lease not over: by the test's own book."""
        self.done: list[Permit] = []
        """Settled, or forgotten until their lease was over."""
        self.succeeded: list[Permit] = []
        """Settled with success and not taken back; each knows the generation in which it counted."""
        self.earliest = -math.inf
        """Before this time an open circuit must not admit."""
        self.last = self.circuit.snapshot(self.now)

    def look(self) -> Snapshot:
        """A snapshot. A generation has one state; one that just opened stays so for its time less 10 %."""
        snapshot = self.circuit.snapshot(self.now)
        assert (snapshot.generation == self.last.generation) is (snapshot.state is self.last.state)
        if snapshot.times_opened != self.last.times_opened:
            assert snapshot.state is State.OPEN
            self.earliest = self.now + 10 * 0.9 - 1e-6
        self.last = snapshot
        return snapshot

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        over = [p for p in self.out if self.now >= p.lease_until]
        self.out = [p for p in self.out if p not in over]
        self.done += over
        self.look()

    @rule(seconds=st.one_of(st.floats(0, 3), st.floats(0, 50)))
    def wait(self, seconds: float) -> None:
        self.pass_time(seconds)

    def ask(self, lease: float, *, insist: bool = False) -> Permit | Refusal:
        before = self.look()
        refusal = self.circuit.refusal(self.now, insist=insist)
        assert self.look() == before
        answer = self.circuit.admit(self.now, lease, insist=insist)
        after = self.look()
        if isinstance(answer, Permit):
            assert refusal is None
            assert before.state is not State.FORCED_OPEN
            # Insisting lets through before the doubled open time is over, and not before the plain one.
            assert before.state is not State.OPEN or insist
            assert answer.probe is (after.state is State.HALF_OPEN)
            assert (answer.generation, answer.granted_at) == (after.generation, self.now)
            if answer.probe:
                assert self.now >= self.earliest
            self.out.append(answer)
            return answer
        assert answer == refusal
        assert after == before
        if before.state is State.HALF_OPEN:
            assert answer.reason == "probing"
            assert before.probes_out == self.circuit.settings.half_open_probes
            ends = [p.lease_until for p in self.out if p.probe and p.generation == before.generation]
            assert answer.retry_after == min(ends) - self.now
        elif before.state is State.CLOSED:
            assert answer.reason == "recovering"
            assert not insist
            assert before.permits_out > 0
        else:
            assert (before.state, answer.reason) in ((State.OPEN, "open"), (State.FORCED_OPEN, "forced_open"))
        return answer

    @rule(lease=st.floats(0.1, 60), insist=st.booleans())
    def admit(self, lease: float, insist: bool) -> None:
        self.ask(lease, insist=insist)

    @rule(lease=st.floats(0.1, 60), insist=st.booleans())
    def refused_comes_back_at_the_time_named(self, lease: float, insist: bool) -> None:
        """A refusal says when to come back; then it is admitted, or refused with a new honest time."""
        refusal = self.ask(lease, insist=insist)
        if isinstance(refusal, Permit):
            return
        if refusal.reason == "forced_open":
            assert refusal.retry_after is None
            return
        assert refusal.retry_after is not None
        assert 0 < refusal.retry_after <= 60 + 1e-6  # rounded
        self.pass_time(refusal.retry_after + 1e-6)
        assert isinstance(self.ask(lease, insist=insist), Permit)

    @precondition(lambda self: self.out)
    @rule(data=st.data(), outcome=OUTCOMES)
    def settle(self, data: st.DataObject, outcome: Outcome) -> None:
        self.settle_one(data.draw(st.sampled_from(self.out)), outcome)

    def settle_one(self, permit: Permit, outcome: Outcome) -> None:
        before = self.look()
        stale = permit.generation != before.generation
        assert self.circuit.settle(permit, outcome, self.now)
        self.out.remove(permit)
        self.done.append(permit)
        after = self.look()
        if outcome is SUCCESS and not stale:
            self.succeeded.append(permit)
        assert after.permits_out == before.permits_out - 1
        if stale:
            self.same_but_for_places(before, after)
        elif outcome.kind in (Kind.NEUTRAL, Kind.COOLDOWN):
            if permit.probe and outcome is ALIVE:
                assert after.state is State.CLOSED
            else:
                self.same_but_for_places(before, after)
        elif permit.probe:
            assert after.state is (State.CLOSED if outcome is SUCCESS else State.OPEN)
        elif outcome is SUCCESS:
            assert (after.state, after.failure_count) == (before.state, 0)
            assert after.successes == before.successes + 1
        else:
            assert (after.failure_count, after.failures) == (before.failure_count + 1, before.failures + 1)

    @precondition(lambda self: self.done)
    @rule(data=st.data(), outcome=OUTCOMES)
    def settle_again(self, data: st.DataObject, outcome: Outcome) -> None:
        """A permit that was settled or whose lease is over changes nothing."""
        permit = data.draw(st.sampled_from(self.done))
        before = self.look()
        assert not self.circuit.settle(permit, outcome, self.now)
        assert self.look() == before

    @precondition(lambda self: self.done)
    @rule(data=st.data(), outcome=OUTCOMES)
    def amend(self, data: st.DataObject, outcome: Outcome) -> None:
        self.amend_one(data.draw(st.sampled_from(self.done)), outcome)

    @precondition(lambda self: self.succeeded)
    @rule(data=st.data())
    def break_a_stream(self, data: st.DataObject) -> None:
        self.amend_one(data.draw(st.sampled_from(self.succeeded)), SLOW)

    @rule(outcome=st.sampled_from([FAILURE, SUCCESS, SUCCESS]))
    def attempt(self, outcome: Outcome) -> None:
        """Ask and settle at once."""
        permit = self.ask(1.0)
        if isinstance(permit, Permit):
            self.settle_one(permit, outcome)

    def amend_one(self, permit: Permit, outcome: Outcome) -> None:
        """Only a success that counted in this very generation is taken back, and only once."""
        before = self.look()
        counts = permit in self.succeeded and permit.generation == before.generation
        changed = self.circuit.amend(permit, outcome, self.now)
        assert changed is (counts and outcome.kind is Kind.FAILURE)
        after = self.look()
        if permit in self.succeeded and outcome.kind is Kind.FAILURE:
            self.succeeded.remove(permit)
        if not changed:
            assert after == before
            return
        assert after.failure_count > before.failure_count
        assert after.failures == before.failures + 1
        assert before.successes - after.successes in (0, 1)

    @precondition(lambda self: self.last.state is State.CLOSED)
    @rule()
    def break_down(self) -> None:
        """Fail until it opens, so that the other rules often meet an open circuit."""
        while self.look().state is State.CLOSED:
            permit = self.ask(1.0, insist=True)
            assert isinstance(permit, Permit)
            assert self.circuit.settle(permit, FAILURE, self.now)
            self.out.remove(permit)
            self.done.append(permit)
        assert self.last.failure_count <= self.circuit.settings.failure_threshold

    @precondition(lambda self: self.last.state is State.OPEN)
    @rule(lease=st.floats(5, 60))
    def probe(self, lease: float) -> None:
        """Wait until it may be asked, and ask."""
        assert self.last.retry_after is not None
        self.pass_time(self.last.retry_after + 1e-6)
        permit = self.ask(lease)
        assert isinstance(permit, Permit)
        assert permit.probe

    @precondition(lambda self: self.last.state in (State.FORCED_OPEN, State.DISABLED))
    @rule()
    def release(self) -> None:
        self.hold_or_release(None)

    @rule(state=st.sampled_from([None, None, None, None, State.FORCED_OPEN, State.DISABLED]))
    def hold(self, state: State | None) -> None:
        self.hold_or_release(state)

    def hold_or_release(self, state: State | None) -> None:
        before = self.look()
        self.circuit.hold(state)
        after = self.look()
        if state is not None:
            assert after.state is state
        elif before.state in (State.FORCED_OPEN, State.DISABLED):
            assert (after.state, after.failure_count, after.failures) == (State.CLOSED, 0, 0)
        else:
            assert after == before

    @staticmethod
    def same_but_for_places(before: Snapshot, after: Snapshot) -> None:
        def rest(s: Snapshot) -> tuple[object, ...]:
            return (s.state, s.failure_count, s.successes, s.failures, s.open_age, s.generation, s.times_opened)

        assert rest(after) == rest(before)

    @invariant()
    def what_is_out_is_what_the_book_says(self) -> None:
        snapshot = self.look()
        assert snapshot.permits_out == len(self.out) == len(self.circuit._permits)
        probes = [p for p in self.out if p.probe and p.generation == snapshot.generation]
        assert snapshot.probes_out == len(probes) <= self.circuit.settings.half_open_probes

    def teardown(self) -> None:
        """All leases end: nothing is out any more, and an automatic circuit can be asked again."""
        if not hasattr(self, "circuit"):
            return
        self.pass_time(61)
        snapshot = self.look()
        assert (snapshot.permits_out, snapshot.probes_out) == (0, 0)
        if snapshot.state is not State.FORCED_OPEN:
            assert isinstance(self.circuit.admit(self.now, LEASE), Permit)


CircuitMachine.TestCase.settings = searching(2, stateful_step_count=40)
TestCircuitMachine = CircuitMachine.TestCase
