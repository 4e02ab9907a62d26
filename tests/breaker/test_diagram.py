"""The circuit's state diagram in addon/README.md."""

from __future__ import annotations

import runpy
from pathlib import Path

from sidestep.breaker.circuit import TRANSITIONS, State, Trigger

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "addon" / "README.md"
MADE = runpy.run_path(str(ROOT / "scripts" / "diagram.py"))


def test_the_page_has_the_diagram_of_the_table() -> None:
    """If this fails: ./scripts/diagram."""
    assert PAGE.read_text() == MADE["drawn"](PAGE.read_text())


def test_every_transition_is_an_arrow() -> None:
    """Each row of the table is drawn, by itself or as one arrow from any state, and nothing else is."""
    arrows = [line.strip() for line in MADE["diagram"]().splitlines() if "-->" in line]
    expected = {"[*] --> closed"}
    for (before, trigger), after in TRANSITIONS.items():
        everywhere = all(TRANSITIONS.get((state, trigger)) is after for state in State)
        expected.add(f"{'any' if everywhere else before} --> {after}: {trigger.value.replace('_', ' ')}")
    assert sorted(arrows) == sorted(expected)
    assert {trigger for _, trigger in TRANSITIONS} == set(Trigger)
