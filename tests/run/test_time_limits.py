"""How long the program of `sidestep run` waits for an answer."""

from __future__ import annotations

from sidestep.run.environment import time_limits


def test_a_program_waits_for_calls_that_are_held() -> None:
    """Claude Code gives up after ten minutes by default; what the user has set stays, and without a need nothing is."""
    assert time_limits({}, 0) == {}
    assert time_limits({}, 1_800.5) == {"API_TIMEOUT_MS": "2400500"}
    assert time_limits({"API_TIMEOUT_MS": "5000"}, 1_800) == {}
