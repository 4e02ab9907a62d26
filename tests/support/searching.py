"""How far hypothesis looks."""

from __future__ import annotations

from hypothesis import settings


def searching(share: float, stateful_step_count: int = 50) -> settings:
    """Settings of a test: so many times the examples of the profile that is loaded (tests/conftest.py)."""
    return settings(max_examples=round(share * settings().max_examples), stateful_step_count=stateful_step_count)
