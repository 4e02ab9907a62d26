"""The three streams, as whoever started us has left them: closed ones, pipes whose reader has gone, terminals of any
width."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import textwrap
from typing import Any, NoReturn, TextIO

import click
from rich.console import Console
from rich.text import Text

from sidestep.run.tables import Prose

ENDED_BY_SIGPIPE = 141
"""What a shell says of a program that the signal has ended: 128+13."""
ENDED_BY_SIGINT = 130
"""The same of Ctrl-C: 128+2."""
USUAL_WIDTH = 80
UNFOLDED = 1000
"""Columns of what no terminal shows: so many that each row of a table is one line."""


def open_closed() -> None:
    """What is opened next would take the number of one that is closed, and go to programs that we start as such."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  # they stay until the end
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def end_of_pipe() -> NoReturn:
    """End as programs do that know of no such thing: whoever reads us has had enough."""
    raise SystemExit(ENDED_BY_SIGPIPE)


def let_go() -> None:
    """What could not be written would be tried again at the interpreter's end, and change the exit status."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def wrapped(text: str, stream: TextIO | None = None) -> str:
    """Lines for a stream (stderr), broken between words where it is a terminal; a word that is longer than that, an
    address mostly, stays whole, so that it can be copied."""
    stream = sys.stderr if stream is None else stream
    if not stream.isatty():
        return text
    try:
        width = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        width = USUAL_WIDTH
    kept = textwrap.TextWrapper(width or USUAL_WIDTH, break_long_words=False, break_on_hyphens=False)
    return "\n".join("\n".join(kept.wrap(line)) for line in text.splitlines())


def note(text: str) -> None:
    """Tell something beside what was asked for."""
    click.echo(wrapped(text), err=True)


class _Console(Console):
    def print(self, *objects: Any, **more: Any) -> None:
        """A line, by words; or what fits itself."""
        shown = [Prose(o) if isinstance(o, (str, Text)) else o for o in objects]
        super().print(*shown, soft_wrap=True, **more)

    def on_broken_pipe(self) -> None:
        raise  # rich calls it where it has caught it, and would end the program with 1


def console() -> Console:
    """For stdout: of a terminal's width, or unfolded for a file or a program."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # not every encoding has every letter of a path
    # Names may hold what rich takes for its own: `[/b]`, `:x:`.
    return _Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else UNFOLDED)
