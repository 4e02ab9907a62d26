"""Waiting for something that another process will do, without guessing how long it takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

_never = threading.Event()


def has_been_read(port: int) -> bool:
    """Whether all that was sent from this loopback port has been read by who is connected to it."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, _, remote, _, queues, *_ = line.split()
        if int(remote.partition(":")[2], 16) == port and int(queues.partition(":")[2], 16):
            return False
    return True


def until(true: Callable[[], bool], what: str, seconds: float = 10) -> None:
    """Ask again and again until it is so; an assertion if it never is."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited {seconds} s in vain: {what}"
        _never.wait(0.01)
