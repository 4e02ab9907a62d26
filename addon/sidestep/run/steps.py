"""What is under way, of whatever takes longer than a few seconds, a command of ours or a script: a bar on a terminal,
plain lines now and then elsewhere."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

PAUSE_SECONDS = 10.0
"""Between two lines."""
SHOWN_LETTERS = 60


@contextlib.contextmanager
def steps(
    console: Console, total: int, *, ended: bool = False, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[str], None]]:
    """Gives what is to be told of each step as it begins; with `ended`, as it ends: of several at a time. From any
    thread. What is printed meanwhile stands above the bar."""
    if not console.is_terminal:
        yield _in_lines(console, total, clock)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task, begins = progress.add_task("", total=total), not ended

        def show(what: str) -> None:
            nonlocal begins
            progress.update(task, description=what[:SHOWN_LETTERS], advance=0 if begins else 1)
            begins = False

        yield show


def _in_lines(console: Console, total: int, clock: Callable[[], float]) -> Callable[[str], None]:
    count, told, lock = 0, clock(), threading.Lock()

    def say(what: str) -> None:
        nonlocal count, told
        with lock:
            count += 1
            if (now := clock()) - told >= PAUSE_SECONDS:
                told = now
                console.print(f"{count} of {total}: {what}", markup=False, soft_wrap=True)

    return say
