"""No word is cut, whatever the width; nothing is wider than the terminal but a word that is."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import click
import pytest
from click.testing import CliRunner
from rich.console import Console
from rich.text import Text

from sidestep.cli import main
from sidestep.run import streams
from sidestep.run.tables import Cell, Fitted, Prose

URL = "https://an-endpoint-with-a-long-name.example.test/openai/v1"
COLUMNS = ("provider", "base URL", "why")
ROWS: list[tuple[Cell, ...]] = [
    ("azure-east", URL, "a key in the file, which is asked when the first one has failed"),
    ("home", "https://a.test/v1", Text("the app addressed it", "green")),
]
LINE = f"calls to {URL} may go to azure-east, home and others: see sidestep explain"


def shown(what: Any, width: int, *, terminal: bool = True) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=terminal, no_color=True, color_system=None)
    console.print(what, soft_wrap=True)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def words(*texts: Any) -> set[str]:
    return {word for text in texts for word in str(text).split()}


@pytest.mark.parametrize("width", range(22, 160, 7))
def test_words_stay_whole_at_any_width(width: int) -> None:
    tables = shown(Fitted(COLUMNS, ROWS, below="base URL"), width)
    assert words(*tables) >= words(*(cell for row in ROWS for cell in row))
    prose = shown(Prose(LINE, 4), width)
    assert " ".join(" ".join(prose).split()) == LINE
    for line in (*tables, *prose):
        assert len(line) <= width or URL in line.split(), line


def test_what_does_not_fit_stands_below_its_row_and_then_apart() -> None:
    wide, below, apart = (shown(Fitted(COLUMNS, ROWS, below="base URL"), width) for width in (160, 60, 20))
    assert wide[1].split()[:2] == ["azure-east", URL]
    assert (below[0].split(), f"    {URL}" in below) == (["provider", "why"], True)
    assert apart[:3] == ["provider: azure-east", "  base URL:", f"    {URL}"]


def test_cells_are_wrapped_before_a_column_goes_elsewhere() -> None:
    assert shown(Fitted(("a", "b"), [("x", "two words")]), 9) == ["a  b", "x  two", "   words"]


@pytest.mark.parametrize("width", [10, 80])
def test_a_program_gets_a_line_in_one_piece(width: int) -> None:
    assert shown(Prose(f"{LINE}\n\n{LINE}"), width, terminal=False) == [LINE, "", LINE]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 77


def test_notes_and_errors_are_broken_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((30, 24)))
    monkeypatch.setattr(sys, "stderr", Terminal())
    told = streams.wrapped(LINE)
    assert (told.replace("\n", " "), URL in told.splitlines()) == (LINE, True)

    @main.command("fails", hidden=True)
    @click.option("--how")
    def fails(how: str) -> None:
        raise click.ClickException(LINE) if how == "so" else click.UsageError(LINE)

    try:
        for how, code in (("so", 1), ("otherwise", 2)):
            result = CliRunner().invoke(main, ["fails", "--how", how])
            assert (result.exit_code, result.output.endswith(f"Error: {LINE}\n")) == (code, True)  # no terminal
    finally:
        del main.commands["fails"]


def test_a_terminal_whose_size_is_not_known_is_a_usual_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> os.terminal_size:
        raise OSError

    monkeypatch.setattr(os, "get_terminal_size", refuse)
    assert max(map(len, streams.wrapped("word " * 40, Terminal()).splitlines())) <= streams.USUAL_WIDTH
