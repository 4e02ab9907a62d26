"""Which workers are to be started, which ended, and when that is enough: a supervisor's decisions, without a process.

The first worker starts alone: it makes mitmproxy's CA where there is none (two that do so at once sign with different
ones), and what is wrong in a configuration is told once, not by each.
"""

from __future__ import annotations

from dataclasses import dataclass, field

EARLY_SECONDS = 5.0
"""A worker that ends so soon after it was ready has hardly worked."""
EARLY_ENDS = 3
"""So many early ends a worker, one after another, are no accident."""
DRAIN_SECONDS = 30.0
"""How long calls may go on after a worker was asked to end."""
KILL_SECONDS = DRAIN_SECONDS + 5.0


@dataclass(frozen=True, slots=True)
class Start:
    """Start this worker."""

    number: int


@dataclass(frozen=True, slots=True)
class End:
    """End this worker: let its calls end, or `at_once`."""

    number: int
    at_once: bool = False


@dataclass(frozen=True, slots=True)
class Say:
    """Tell the user."""

    text: str


Action = Start | End | Say


@dataclass(slots=True)
class _Worker:
    is_running: bool = False
    ready_at: float | None = None


@dataclass(slots=True)
class Crew:
    """State: the workers by number, from 1; how many early ends there were in a row; whether one has ever served; once
    the whole ends, when (monotonic seconds) what is left is killed, and the exit code."""

    count: int
    workers: dict[int, _Worker] = field(init=False)
    early: int = 0
    kill_at: float | None = None
    code: int = 0
    has_served: bool = False

    def __post_init__(self) -> None:
        self.workers = {number: _Worker() for number in range(1, self.count + 1)}

    @property
    def is_stopping(self) -> bool:
        return self.kill_at is not None

    @property
    def is_over(self) -> bool:
        return self.is_stopping and not any(w.is_running for w in self.workers.values())

    def begin(self) -> list[Action]:
        return self._started(1)

    def ready(self, number: int, now: float) -> list[Action]:
        """A worker serves."""
        self.workers[number].ready_at = now
        self.has_served = True
        if self.is_stopping:
            return []
        return [action for n, w in self.workers.items() if not w.is_running for action in self._started(n)]

    def ended(self, number: int, code: int, now: float) -> list[Action]:
        """A worker's process is gone. `code`: as of a process, negative for a signal."""
        worker = self.workers[number]
        served = None if worker.ready_at is None else now - worker.ready_at
        worker.is_running, worker.ready_at = False, None
        if self.is_stopping:
            return []
        if not self.has_served:
            # What it printed says why: an error, or what was asked for (`--version`).
            return self._stopped(now, code)
        if code == 0 and served is not None:
            return [Say(f"worker {number} was shut down: so are the others"), *self._stopped(now, 0)]
        how = f"ended with exit code {code}" if code >= 0 else f"was killed by signal {-code}"
        self.early = self.early + 1 if served is None or served < EARLY_SECONDS else 0
        if self.early >= EARLY_ENDS * self.count:
            why = f"worker {number} {how}, as workers did {self.early} times in a row right after their start"
            return [Say(f"{why}: giving up"), *self._stopped(now, code)]
        return [Say(f"worker {number} {how}; it is replaced"), *self._started(number)]

    def stop(self, now: float) -> list[Action]:
        """The whole is to end: at first each worker lets its calls end, a second time all end at once."""
        if self.is_stopping:
            self.kill_at = now
            return self._ends(at_once=True)
        return self._stopped(now, 0)

    def expired(self, now: float) -> list[Action]:
        """What does not end by itself is killed."""
        if self.kill_at is None or now < self.kill_at:
            return []
        self.kill_at = now + KILL_SECONDS
        return self._ends(at_once=True)

    def _started(self, number: int) -> list[Action]:
        self.workers[number].is_running = True
        return [Start(number)]

    def _stopped(self, now: float, code: int) -> list[Action]:
        self.kill_at = now + KILL_SECONDS
        self.code = code if code >= 0 else 128 - code
        return self._ends(at_once=False)

    def _ends(self, *, at_once: bool) -> list[Action]:
        return [End(number, at_once) for number, worker in self.workers.items() if worker.is_running]
