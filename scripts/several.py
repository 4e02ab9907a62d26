"""Several workers on one port beside one, two processes that know nothing of each other, and one that shares what it
knows through a store: requests and events a second, and each for a second of the processes' CPU.

The load and the provider share this machine's cores with the workers. So a second process takes time from those too,
and two that share nothing lose by it as two workers do: what workers cost is the difference to them. What two can
answer has a ceiling, which is told.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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
CORES = len(os.sched_getaffinity(0))


class Figures(Protocol):
    rate: float
    events: float


class Load(Protocol):
    def __call__(self, proxy: Mitmdump, kind: str, seconds: float, *, clients: int) -> Figures: ...


def _cpu(pid: int) -> float:
    """Seconds that the process has had, and those that it has started: a supervisor's workers."""
    total = 0
    for each in (str(pid), *Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICK


def _load_cpu(provider: int) -> float:
    """Seconds that the provider and the clients have had; the clients are children that have ended."""
    ended = os.times()
    return _cpu(provider) + ended.children_user + ended.children_system


def _rate(load: Load, proxies: Sequence[Mitmdump], kind: str, seconds: float) -> float:
    """Requests or events a second: the same clients, shared out among these."""
    with ThreadPoolExecutor(len(proxies)) as pool:
        found = list(pool.map(lambda m: load(m, kind, seconds, clients=CLIENTS // len(proxies)), proxies))
    return sum(figures.rate if kind == "whole" else figures.events for figures in found)


def report(
    console: Console,
    folder: Path,
    config: str,
    counts: Sequence[int],
    load: Load,
    provider: int,
    rounds: int,
    seconds: float,
) -> None:
    """Rounds alternate, and so does their order: a slow moment of the machine hits all of them.

    `provider`: its process."""
    rates: dict[tuple[str, str], list[float]] = {}
    each: dict[tuple[str, str], list[float]] = {}
    beside: dict[str, list[float]] = {}
    with ExitStack() as stack:
        proxies: dict[str, list[Mitmdump]] = {}

        def start(name: str, config: str, *options: str) -> Mitmdump:
            m = stack.enter_context(by_hand("dump", folder / name.replace(" ", "-"), config, *options))
            proxies.setdefault(name, []).append(m)
            return m

        for count in counts:
            m = start(f"{count} worker{'s' * (count > 1)}", config, "--workers", str(count))
            for number in range(1, count + 1) if count > 1 else ():
                m.wait_for_log(rf"\[{number}\].*what happens is shown", 60)
        for _ in range(2):
            start("2 apart", config)
        store = stack.enter_context(Store(folder / "store"))
        together(start("1 with a store", f'[fleet]\nurl = "{store.url}"\n{config}'))
        for some in proxies.values():
            for kind in ("whole", "stream"):
                _rate(load, some, kind, 1.0)
        with steps(console, 2 * rounds * len(proxies)) as step:
            for number in range(rounds):
                for kind in ("whole", "stream"):
                    for name in list(proxies)[:: 1 if number % 2 else -1]:
                        step(f"{kind}: {name}")
                        pids = [m.process.pid for m in proxies[name]]
                        before, load_before = sum(map(_cpu, pids)), _load_cpu(provider)
                        rate = _rate(load, proxies[name], kind, seconds)
                        spent = sum(map(_cpu, pids)) - before
                        rates.setdefault((kind, name), []).append(rate)
                        each.setdefault((kind, name), []).append(rate * seconds / spent)
                        if len(proxies[name]) == 1:
                            beside.setdefault(kind, []).append((_load_cpu(provider) - load_before) / (rate * seconds))
    table = Table(f"{CLIENTS} clients", *proxies)
    ceilings = []
    for kind, word in (("whole", "requests"), ("stream", "events")):
        for found, label in ((rates, f"{word}/s"), (each, f"{word} for a second of CPU")):
            values = [statistics.median(found[kind, name]) for name in proxies]
            table.add_row(label, *(f"{value:.4g} (×{value / values[0]:.2f})" for value in values))
        own, others = 1 / statistics.median(each[kind, next(iter(proxies))]), statistics.median(beside[kind])
        most = min(2.0, CORES * own / (own + others))
        ceilings.append(f"{word} ×{most:.2f} ({1e6 * own:.0f} µs of CPU each, and {1e6 * others:.0f} of the load's)")
    console.print(table)
    console.print(
        f"The load and the provider share {CORES} cores with the workers; two can answer at most {'; '.join(ceilings)}."
    )
