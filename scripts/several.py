"""Several workers on one port beside one: requests and events a second, and each for a second of the workers' CPU."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.table import Table

from sidestep.run.steps import steps
from support.proxy import Mitmdump, by_hand

TICK = os.sysconf("SC_CLK_TCK")
CLIENTS = 16


class Figures(Protocol):
    rate: float
    events: float


Load = Callable[[Mitmdump, str, float], Figures]


def _cpu(m: Mitmdump) -> float:
    """Seconds that the proxy's processes have had, the supervisor's among them."""
    children = Path(f"/proc/{m.process.pid}/task/{m.process.pid}/children").read_text().split()
    total = 0
    for pid in (m.process.pid, *children):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICK


def report(
    console: Console, folder: Path, config: str, counts: Sequence[int], load: Load, rounds: int, seconds: float
) -> None:
    """Rounds alternate, and so does their order: a slow moment of the machine hits all of them."""
    rates: dict[tuple[str, int], list[float]] = {}
    each: dict[tuple[str, int], list[float]] = {}
    with ExitStack() as stack:
        proxies = {}
        for count in counts:
            m = stack.enter_context(by_hand("dump", folder / str(count), config, "--workers", str(count)))
            if count > 1:
                for number in range(1, count + 1):
                    m.wait_for_log(rf"\[{number}\].*what happens is shown", 60)
            proxies[count] = m
            for kind in ("whole", "stream"):
                load(m, kind, 1.0)
        with steps(console, 2 * rounds * len(counts)) as step:
            for number in range(rounds):
                for kind in ("whole", "stream"):
                    for count in counts if number % 2 else counts[::-1]:
                        step(f"{kind}: {count} worker{'s' * (count > 1)}")
                        before = _cpu(proxies[count])
                        figures = load(proxies[count], kind, seconds)
                        rate = figures.rate if kind == "whole" else figures.events
                        rates.setdefault((kind, count), []).append(rate)
                        each.setdefault((kind, count), []).append(rate * seconds / (_cpu(proxies[count]) - before))
    table = Table(f"{CLIENTS} clients", *(f"{count} worker{'s' * (count > 1)}" for count in counts))
    for kind, word in (("whole", "requests"), ("stream", "events")):
        for found, label in ((rates, f"{word}/s"), (each, f"{word} for a second of CPU")):
            values = [statistics.median(found[kind, count]) for count in counts]
            table.add_row(label, *(f"{value:.4g} (×{value / values[0]:.2f})" for value in values))
    console.print(table)
    console.print("The load and the provider share this machine's cores with the workers.")
