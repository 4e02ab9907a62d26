"""Several workers on one port beside one, and one that shares what it knows through a store: requests and events a
second, and each for a second of the processes' CPU, which others that use the machine disturb little."""

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
from support.fleet import Store, together
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
    rates: dict[tuple[str, str], list[float]] = {}
    each: dict[tuple[str, str], list[float]] = {}
    with ExitStack() as stack:
        proxies: dict[str, Mitmdump] = {}
        for count in counts:
            m = stack.enter_context(by_hand("dump", folder / str(count), config, "--workers", str(count)))
            if count > 1:
                for number in range(1, count + 1):
                    m.wait_for_log(rf"\[{number}\].*what happens is shown", 60)
            proxies[f"{count} worker{'s' * (count > 1)}"] = m
        store = stack.enter_context(Store(folder / "store"))
        shared = f'[fleet]\nurl = "{store.url}"\n{config}'
        proxies["1 with a store"] = m = stack.enter_context(by_hand("dump", folder / "shared", shared))
        together(m)
        for m in proxies.values():
            for kind in ("whole", "stream"):
                load(m, kind, 1.0)
        with steps(console, 2 * rounds * len(proxies)) as step:
            for number in range(rounds):
                for kind in ("whole", "stream"):
                    for name in list(proxies)[:: 1 if number % 2 else -1]:
                        step(f"{kind}: {name}")
                        before = _cpu(proxies[name])
                        figures = load(proxies[name], kind, seconds)
                        rate = figures.rate if kind == "whole" else figures.events
                        rates.setdefault((kind, name), []).append(rate)
                        each.setdefault((kind, name), []).append(rate * seconds / (_cpu(proxies[name]) - before))
    table = Table(f"{CLIENTS} clients", *proxies)
    for kind, word in (("whole", "requests"), ("stream", "events")):
        for found, label in ((rates, f"{word}/s"), (each, f"{word} for a second of CPU")):
            values = [statistics.median(found[kind, name]) for name in proxies]
            table.add_row(label, *(f"{value:.4g} (×{value / values[0]:.2f})" for value in values))
    console.print(table)
    console.print("The load and the provider share this machine's cores with the workers.")
