"""What it costs that somebody looks: the page open in a browser, and `/metrics` scraped each second."""

from __future__ import annotations

import contextlib
import http.client
import statistics
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

from rich.console import Console
from rich.table import Table

from sidestep.run.steps import steps


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


def report(console: Console, port: int, measure: Callable[[], Figures], rounds: int) -> None:
    """Rounds with and without alternate, and which comes first does too: a busy machine hits both alike."""
    found: dict[bool, list[Figures]] = {False: [], True: []}
    with steps(console, 2 * rounds) as step:
        for number in range(rounds):
            for watched in (False, True) if number % 2 else (True, False):
                step("somebody looks" if watched else "nobody looks")
                with looking(port) if watched else contextlib.nullcontext():
                    found[watched].append(measure())
    table = Table("1 KB prompt, 10 clients, 10 providers", "nobody looks", "page open, /metrics each second")
    for name, scale in (("rate", 1.0), ("cpu", 1e3)):
        alone, seen = (statistics.median(getattr(f, name) for f in found[w]) * scale for w in (False, True))
        label = {"rate": "requests/s", "cpu": "CPU ms/request"}[name]
        table.add_row(label, f"{alone:.4g}", f"{seen:.4g} ({(seen / alone - 1) * 100:+.1f} %)")
    console.print(table)
