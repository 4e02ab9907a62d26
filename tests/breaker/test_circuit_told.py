"""What a circuit makes of what other processes say of the same provider."""

from __future__ import annotations

from typing import Any

import pytest

from sidestep.breaker.circuit import Circuit, CircuitSettings, Permit, Refusal, State
from sidestep.breaker.cooldown import Cooldown, Cooling, Source
from sidestep.breaker.outcomes import Kind, Outcome

SUCCESS = Outcome(Kind.SUCCESS, "success", status=200)
FAILURE = Outcome(Kind.FAILURE, "http_5xx", status=500)


def make(**more: Any) -> Circuit:
    return Circuit(CircuitSettings(**more), jitter=lambda: 0.5)


def attempt(circuit: Circuit, outcome: Outcome, now: float) -> None:
    permit = circuit.admit(now, 100)
    assert isinstance(permit, Permit), permit
    circuit.settle(permit, outcome, now)


def test_told_open_is_open_for_as_long_as_the_teller_is() -> None:
    circuit = make()
    assert circuit.told_open(10, 7.5, 3)
    refusal = circuit.refusal(12)
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.retry_after) == ("open", 5.5)
    assert circuit.state(17.5) is State.HALF_OPEN
    assert circuit.snapshot(18).times_opened == 0
    assert circuit.own_opening is None


def test_what_has_answered_since_needs_one_failure_of_its_own() -> None:
    """A success after the teller's first failure: one failure opens it, in place of three."""
    circuit = make()
    attempt(circuit, SUCCESS, 8)
    assert not circuit.told_open(10, 15, since_first_failure=3)
    assert circuit.state(10) is State.CLOSED
    attempt(circuit, FAILURE, 11)
    assert circuit.state(11) is State.OPEN
    assert circuit.own_opening is not None


def test_what_has_answered_before_that_opens() -> None:
    circuit = make()
    attempt(circuit, SUCCESS, 6)
    assert circuit.told_open(10, 15, since_first_failure=3)


def test_hearsay_stamps_no_opening_anew() -> None:
    circuit = make(failure_threshold=1)
    attempt(circuit, FAILURE, 0)
    assert not circuit.told_open(5, 100, 1)
    assert circuit.state(15) is State.HALF_OPEN


def test_a_probe_of_its_own_goes_on() -> None:
    """Told that it is open while its own probe is out: the probe decides."""
    circuit = make(failure_threshold=1)
    attempt(circuit, FAILURE, 0)
    permit = circuit.admit(16, 100)
    assert isinstance(permit, Permit)
    assert not circuit.told_open(17, 15, 1)
    circuit.settle(permit, SUCCESS, 18)
    assert circuit.state(18) is State.CLOSED


@pytest.mark.parametrize("held", [State.FORCED_OPEN, State.DISABLED])
def test_what_is_held_by_hand_is_told_nothing(held: State) -> None:
    circuit = make()
    circuit.hold(held)
    assert not circuit.told_open(0, 15, 1)
    assert not circuit.told_closed(0)
    assert circuit.state(0) is held


def test_told_closed_lets_traffic_in_by_a_ramp() -> None:
    circuit = make(failure_threshold=1)
    attempt(circuit, FAILURE, 0)
    assert circuit.told_closed(1)
    first = circuit.admit(1, 100)
    assert isinstance(first, Permit)
    assert not first.probe
    second = circuit.admit(1, 100)
    assert isinstance(second, Refusal)
    assert second.reason == "recovering"
    assert not make().told_closed(0)


def test_while_another_probes_it_is_not_probed() -> None:
    """For as long as that is said, and not after the state has changed."""
    circuit = make(failure_threshold=1)
    attempt(circuit, FAILURE, 0)
    circuit.state(16)
    circuit.told_probing(16, 2)
    refusal = circuit.admit(17, 100)
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.retry_after) == ("probing", 1)
    permit = circuit.admit(18, 100)
    assert isinstance(permit, Permit)
    assert permit.probe


def test_an_opening_is_bounded_by_the_settings_here() -> None:
    circuit = make(open_seconds_max=20)
    assert circuit.told_open(0, 1e9, 1)
    assert circuit.state(22.1) is State.HALF_OPEN
    assert not make().told_open(0, 0, 1)


def test_the_later_end_of_a_limit_wins_and_the_next_guess_is_ones_own() -> None:
    """Told limits leave how long the next one is that no refusal announces."""
    cooldown = Cooldown()
    cooldown.told(0, Cooling(30, "quota", Source.ANNOUNCED))
    cooldown.told(1, Cooling(5, "rate_limit", Source.GUESSED))
    found = cooldown.cooling(2)
    assert found == Cooling(28, "quota", Source.ANNOUNCED)
    cooldown.told(2, Cooling(40, "rate_limit", Source.GUESSED))
    found = cooldown.cooling(2)
    assert found == Cooling(40, "rate_limit", Source.GUESSED)
    cooldown.start(50, None, "rate_limit")
    found = cooldown.cooling(50)
    assert found is not None
    assert found.seconds == 5


def test_a_limit_that_another_foresees_ends_with_an_answer_here() -> None:
    cooldown = Cooldown()
    cooldown.told(0, Cooling(30, "limit_foreseen", Source.FORESEEN))
    assert cooldown.cooling(1) == Cooling(29, "limit_foreseen", Source.FORESEEN)
    cooldown.succeeded(2)
    assert cooldown.cooling(3) is None
