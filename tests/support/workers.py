"""Several workers on one port, and a connection to each."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from support.proxy import Mitmdump, by_hand, children
from support.raw import Wire


@contextmanager
def workers(folder: Path, text: str, *options: str, **env: str) -> Iterator[Mitmdump]:
    """Two of them."""
    with by_hand("dump", folder, text, "--workers", "2", *options, **env) as m:
        m.wait_for_log(r"\[2\].*what happens is shown", 60)
        yield m


def pids(m: Mitmdump) -> dict[int, int]:
    """Of the workers that run, by number."""
    return dict(enumerate(children(m, "sidestep.workers.worker"), 1))


def who_serves(m: Mitmdump, wire: Wire) -> int:
    """The worker's number."""
    return int(m.wait_for_log(rf"\[(\d)\]\S*\[127.0.0.1:{wire.sock.getsockname()[1]}\] client connect")[1])


def wires_at_both(m: Mitmdump, stack: ExitStack) -> dict[int, Wire]:
    """A connection to each worker: while the others stand still."""
    found: dict[int, Wire] = {}
    running = pids(m).values()
    for pid in running:
        others = [other for other in running if other != pid]
        try:
            for other in others:
                os.kill(other, signal.SIGSTOP)
            wire = stack.enter_context(Wire(m))
            found[who_serves(m, wire)] = wire
        finally:
            for other in others:
                os.kill(other, signal.SIGCONT)
    assert len(found) == len(running)
    return dict(sorted(found.items()))
