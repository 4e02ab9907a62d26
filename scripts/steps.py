"""What is under way, of a script that takes longer: a bar on a terminal, plain lines now and then elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

PAUSE_SECONDS = 10.0
"""Between two lines."""


@contextlib.contextmanager
def steps(console: Console, total: int) -> Iterator[Callable[[str], None]]:
    """Gives what is to be told of each step as it begins."""
    if not console.is_terminal:
        count, told = 0, time.monotonic()

        def say(what: str) -> None:
            nonlocal count, told
            count += 1
            if time.monotonic() - told >= PAUSE_SECONDS:
                told = time.monotonic()
                console.print(f"{count} of {total}: {what}", markup=False, soft_wrap=True)

        yield say
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total, completed=-1)

        def show(what: str) -> None:
            progress.update(task, description=what[:60], advance=1)

        yield show
