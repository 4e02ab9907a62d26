"""Several workers on one port, and a connection to each."""

from __future__ import annotations

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
    """A connection to each worker: of several that come at once they take turns."""
    found: dict[int, Wire] = {}
    for _ in range(20):
        for wire in [stack.enter_context(Wire(m)) for _ in range(8)]:
            found.setdefault(who_serves(m, wire), wire)
        if len(found) == 2:
            return found
    raise AssertionError("one worker takes all connections")
