"""Mixed failures and leaving clients at a steady pace for as long as one likes; then all is as it was at the start.

The cases are those of `hostility`. Half of the time the circuits and cooldowns decide who is asked, half of the time
all are asked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from support.hostility import FLAT_BYTES, ORDER, Place, Report, Run, place, told
from support.waiting import until

AT_ONCE = 12
TURN_SECONDS = 10.0
"""After so long the circuits are held, or given back."""
QUIET_SECONDS = 20.0
"""What may take until the last connection is closed: providers that stall do so for three."""
MOST_ENTRIES = 1_024
"""Of a table that has no bound in bytes."""
MOST_BYTES = 33 << 20
MOVES = 4
"""By which descriptors and tasks may differ: what asks is one itself."""


@dataclass
class State:
    """What a process holds."""

    memory: int
    descriptors: int
    tasks: int
    tables: dict[str, int] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.memory / 1e6:.1f} MB, {self.descriptors} descriptors, {self.tasks} tasks"


def state(where: Place) -> State:
    found = told(where.m)
    descriptors = len([*Path(f"/proc/{where.m.process.pid}/fd").iterdir()])
    return State(where.m.memory, descriptors, found["tasks"], found["tables"])


def run(
    folder: Path,
    *,
    seconds: float,
    seed: int = 1,
    rate: float = 20,
    tell: Callable[[str], object] = lambda _: None,
    second: Callable[[str], object] = lambda _: None,
) -> tuple[State, State, Report]:
    """State at the start, once each kind has been there; at the end; and what was wrong. `rate`: cases a second.
    `second` is called with what is there in each second of it."""
    report = Report()
    free = threading.Semaphore(AT_ONCE)
    with place(folder) as where, ThreadPoolExecutor(AT_ONCE) as pool:
        running = Run(where, seed, report)

        def one(number: int) -> None:
            try:
                running.one(ORDER[number % len(ORDER)], number)
            finally:
                free.release()

        def pass_through(numbers: range, until_done: Callable[[], bool]) -> None:
            for number in numbers:
                if until_done():
                    break
                due = time.monotonic() + 1 / rate
                free.acquire()
                pool.submit(one, number)
                time.sleep(max(0.0, due - time.monotonic()))
            for _ in range(AT_ONCE):
                free.acquire()
            free.release(AT_ONCE)

        pass_through(range(5 * len(ORDER)), lambda: False)
        _settle(where, running, "the warm-up")
        first = state(where)
        tell(f"at the start: {first}")
        began, turn, minute, seen = time.monotonic(), 0, 0, 0

        def done() -> bool:
            nonlocal turn, minute, seen
            gone = time.monotonic() - began
            while seen < gone:
                seen += 1
                second(f"{report.cases} cases")
            if gone // TURN_SECONDS > turn:
                turn += 1
                where.hold("auto" if turn % 2 else "disable")
            if gone // 60 > minute:
                minute += 1
                tell(f"after {minute} min, {report.cases} cases: {state(where)}")
            return gone >= seconds

        pass_through(range(5 * len(ORDER), 1 << 40), done)
        where.hold("disable")
        _settle(where, running, "all")
        until(lambda: _is_quiet(first, state(where)), "descriptors and tasks are as they were", QUIET_SECONDS)
        last = state(where)
    report.growth = last.memory - first.memory
    report.findings += differences(first, last)
    return first, last, report


def _settle(where: Place, running: Run, cases: str) -> None:
    running.after(cases)
    where.m.health()


def _is_quiet(first: State, last: State) -> bool:
    return last.descriptors <= first.descriptors + MOVES and last.tasks <= first.tasks + MOVES


def differences(first: State, last: State) -> list[str]:
    """What is not as it was, and is no table within its bound."""
    found = []
    if last.memory - first.memory > FLAT_BYTES:
        found.append(f"resident memory has grown from {first.memory / 1e6:.1f} to {last.memory / 1e6:.1f} MB")
    if not _is_quiet(first, last):
        found.append(f"{last}, at the start {first}")
    for name, size in last.tables.items():
        if size <= first.tables.get(name, 0):
            continue
        if name.endswith(" bytes"):
            if size > MOST_BYTES:
                found.append(f"{name}: {size}")
        elif any(part in name for part in LIVE) or (f"{name} bytes" not in last.tables and size > MOST_ENTRIES):
            found.append(f"{name}: {size} entries, at the start {first.tables.get(name, 0)}")
    return found


LIVE = (".sessions", ".live", ".in_flight")
"""Tables of what is under way: these are empty again."""
