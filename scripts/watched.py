"""What it costs that somebody looks: the page open in a browser, and `/metrics` scraped each second."""

from __future__ import annotations

import contextlib
import http.client
import math
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from rich.console import Console
from rich.table import Table

from sidestep.run.steps import steps

IDLE_SECONDS = 10.0


class Figures(Protocol):
    rate: float
    cpu: float


def _page(port: int, done: threading.Event) -> None:
    """What the page does: it takes the events that are pushed."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", "/stream", headers={"accept": "text/event-stream"})
    answer = connection.getresponse()
    assert answer.status == 200, answer.status
    with contextlib.suppress(OSError):
        while not done.is_set() and answer.read1(1 << 16):
            pass
    connection.close()


def _scrape(port: int, done: threading.Event) -> None:
    while not done.wait(1):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            connection.request("GET", "/metrics")
            assert b"sidestep_requests_total" in connection.getresponse().read()


@contextlib.contextmanager
def looking(port: int) -> Iterator[None]:
    done = threading.Event()
    threads = [threading.Thread(target=act, args=(port, done)) for act in (_page, _scrape)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()


def report(console: Console, port: int, cpu: Callable[[], float], measure: Callable[[], Figures], pairs: int) -> None:
    """What looking takes of a proxy without calls, in CPU, which a busy machine blurs little; and pairs of rounds, with
    and without, of which now one comes first and now the other: what the machine does in the meantime hits both alike.
    What is told of them is what the second of a pair has cost of the first.

    `cpu`: seconds that the proxy's process has had."""
    idle = {}
    for watched in (False, True):
        with looking(port) if watched else contextlib.nullcontext():
            before = cpu()
            time.sleep(IDLE_SECONDS)
            idle[watched] = (cpu() - before) / IDLE_SECONDS
    found: list[dict[bool, Figures]] = []
    with steps(console, 2 * pairs) as step:
        for number in range(pairs):
            pair: dict[bool, Figures] = {}
            for watched in (False, True) if number % 2 else (True, False):
                step(f"pair {number + 1}: {'somebody looks' if watched else 'nobody looks'}")
                with looking(port) if watched else contextlib.nullcontext():
                    pair[watched] = measure()
            found.append(pair)
    title = f"1 KB prompt, 10 clients, 10 providers, {pairs} pairs"
    columns = (title, "nobody looks", "page open, /metrics each second", "difference in pairs, with its 95 % interval")
    table = Table(*columns)
    for name, label, scale in (("rate", "requests/s", 1.0), ("cpu", "CPU ms/request", 1e3)):
        alone, seen = (statistics.median(getattr(pair[w], name) for pair in found) * scale for w in (False, True))
        middle, half = interval([getattr(pair[True], name) / getattr(pair[False], name) - 1 for pair in found])
        told = f"{middle:+.1%} ({middle - half:+.1%} to {middle + half:+.1%})"
        table.add_row(label, f"{alone:.4g}", f"{seen:.4g}", told)
    console.print(table)
    console.print(
        f"Without calls: {1e3 * idle[False]:.1f} ms of CPU a second, and while somebody looks {1e3 * idle[True]:.1f}."
    )


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Their mean, and half of its 95 % interval by Student's t, whose quantile is that of Abramowitz and Stegun
    26.7.5."""
    count, z = len(values), statistics.NormalDist().inv_cdf(0.975)
    if count < 2:
        return values[0], math.inf
    free = count - 1
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * free**3)
    return statistics.fmean(values), t * statistics.stdev(values) / math.sqrt(count)
