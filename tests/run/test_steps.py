"""What takes longer says what is under way."""

from __future__ import annotations

import io

from rich.console import Console

from sidestep.run.steps import steps


def told(*, terminal: bool, seconds: float, ended: bool = False) -> str:
    """What is shown of three steps that take so long each."""
    out, now = io.StringIO(), 0.0
    console = Console(file=out, force_terminal=terminal, width=80, color_system=None)
    with steps(console, 3, ended=ended, clock=lambda: now) as step:
        for name in ("one", "two", "three"):
            now += seconds
            step(name)
            console.print(f"found in {name}")
    return out.getvalue()


def test_lines_come_now_and_then() -> None:
    said = [f"found in {name}" for name in ("one", "two", "three")]
    assert told(terminal=False, seconds=1).splitlines() == said
    lines = told(terminal=False, seconds=6).splitlines()
    assert lines == ["found in one", "2 of 3: two", "found in two", "found in three"]


def test_a_terminal_gets_a_bar() -> None:
    """Which leaves room for what is printed, and goes at the end."""
    for ended in (False, True):
        shown = told(terminal=True, seconds=0, ended=ended)
        assert "found in one" in shown
        assert ("3/3" if ended else "2/3") in shown, "of the steps that have begun the last one is not over"
        assert shown.rstrip().endswith("\x1b[2K")
