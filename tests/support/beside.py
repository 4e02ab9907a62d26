"""What one input costs a proxy, in its processor's time and in its memory: for comparing a mitmdump with Sidestep to a
bare one in the same run.

Wall-clock time is not looked at: it tells of the machine, and of who else is busy on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from support.proxy import Mitmdump

LEAST_SECONDS = 0.006
"""About what the smallest call takes through a bare mitmdump of an idle machine; less cannot be told from noise."""
LEAST_BYTES = 4 << 20
"""Memory comes from the system in such portions, and what others have left is used first."""


@dataclass(frozen=True)
class Cost:
    """Seconds of the processor, bytes by which the peak of resident memory rose."""

    seconds: float
    bytes: int

    def at_least(self, other: Cost) -> Cost:
        """The larger of the two, in each."""
        return Cost(max(self.seconds, other.seconds), max(self.bytes, other.bytes))

    def is_of_the_order_of(self, other: Cost, factor: float) -> bool:
        """Whether it is less than so many times the other."""
        return self.seconds < factor * max(other.seconds, LEAST_SECONDS) and self.bytes < factor * max(
            other.bytes, LEAST_BYTES
        )


def cost_of(m: Mitmdump, act: Callable[[Mitmdump], object]) -> Cost:
    """What `act` costs this proxy."""
    pid = m.process.pid
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew (proc(5))
    memory, began = m.peak_memory, _seconds(pid)
    act(m)
    return Cost(_seconds(pid) - began, max(0, m.peak_memory - memory))


def _seconds(pid: int) -> float:
    """The processor's time that a process has had: its clock's number is made of its id (clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | 2)
