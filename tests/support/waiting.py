"""Waiting for something that another process will do, without guessing how long it takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_never = threading.Event()


def until(true: Callable[[], bool], what: str, seconds: float = 10) -> None:
    """Ask again and again until it is so; an assertion if it never is."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited {seconds} s in vain: {what}"
        _never.wait(0.01)
