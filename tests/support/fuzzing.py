"""Many cases of the pure rooms in a process of its own: none raises, takes long, or keeps memory."""

from __future__ import annotations

import ctypes
import gc
import random
import re
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from support.rooms import ROOMS

HANG_SECONDS = 5.0
"""Of the processor, for one case."""
FLAT_BYTES = 16 << 20
"""By which the second half of a run may grow: what the allocator does not give back."""


@dataclass
class Report:
    cases: int = 0
    findings: list[str] = field(default_factory=list)
    slowest: float = 0
    growth: int = 0


class TooLongError(Exception):
    """A case has had its time."""


def one(kind: str, number: int, seed: int) -> str | None:
    """What is wrong with one case; None: nothing."""

    def too_long(*_: object) -> None:
        raise TooLongError(f"more than {HANG_SECONDS} s of the processor")

    before = signal.signal(signal.SIGPROF, too_long)
    signal.setitimer(signal.ITIMER_PROF, HANG_SECONDS)
    try:
        ROOMS[kind](random.Random(f"{seed}:{kind}:{number}"))
    except Exception:
        return f"{kind}:{number}: {traceback.format_exc(limit=-6)}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    return None


def run(*, seed: int, count: int, tell: Callable[[str], object] = lambda _: None) -> Report:
    """So many cases, of all rooms in turns; `tell` is called with each room as its case begins."""
    report = Report()
    kinds = [*ROOMS]
    half = 0
    for number in range(count):
        tell(kinds[number % len(kinds)])
        began = time.process_time()
        wrong = one(kinds[number % len(kinds)], number, seed)
        report.slowest = max(report.slowest, time.process_time() - began)
        report.cases += 1
        if wrong is not None:
            report.findings.append(wrong)
        if number == count // 2:
            half = resident()
    report.growth = resident() - half
    if report.growth > FLAT_BYTES:
        report.findings.append(f"the second half has kept {report.growth / 1e6:.1f} MB")
    return report


def resident() -> int:
    """Bytes of this process, once what is free was given back."""
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    found = re.search(r"VmRSS:\s+(\d+) kB", status.read_text())
    return int(found[1]) * 1024 if found is not None else 0
