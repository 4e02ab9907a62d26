"""What the parts of the addon have in common."""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mitmproxy.log import ALERT

from sidestep import handover
from sidestep.breaker.bounded import Bounded
from sidestep.overview import Overview
from sidestep.routing.engine import Engine
from sidestep.telemetry import Trace

if TYPE_CHECKING:
    from sidestep.calls.others import Others

logger = logging.getLogger(__name__)

QUIET_SECONDS = 10.0
"""After a line of the log no other of its kind."""
STANDING = ("circuit of ", "cooldown of ")
"""How the kinds of news begin after which another provider may serve."""
MAX_KINDS = 1_000
KINDS_BYTES = 1 << 20


class Tracing(Protocol):
    """Who is told of calls that are over (`otel.py`)."""

    def ended(self, told: Trace, headers: Iterable[tuple[str, str]], offset: float) -> None: ...


class Core:
    """State: the engine, once there is a configuration; the one clock; client connections whose layers are ours; by
    address how the last TLS handshake there failed, in mitmproxy's words and in ours; bugs that were logged; by kind of
    news when it was last told, and how many were not since; what there is to see for those who look, and the token with
    which they may change something; who traces calls, if anybody does; the other workers, where this process is one of
    several."""

    def __init__(self) -> None:
        self.engine: Engine | None = None
        self.clock: Callable[[], float] = time.monotonic
        self.overview = Overview(lambda: self.clock(), time.time)
        self.token = secrets.token_urlsafe(16) if handover.share is None else handover.share.token
        self.tracing: Tracing | None = None
        self.others: Others | None = None
        self.adopted: set[str] = set()
        self.handshakes: Bounded[tuple[str, int], tuple[str, str]] = Bounded(MAX_KINDS, KINDS_BYTES)
        self._logged: set[str] = set()
        self._told: Bounded[str, tuple[float, int]] = Bounded(MAX_KINDS, KINDS_BYTES, lambda _: 100)

    def tell(self, kind: str, text: str, level: int = logging.INFO, facts: Mapping[str, Any] | None = None) -> None:
        """Log a line; of one kind one in ten seconds, with how many were left out before it. `facts`: what a program
        that reads the log is told beside the words."""
        now = self.clock()
        if self.engine is not None and kind.startswith(STANDING):
            self.overview.look(self.engine)
        at, left_out = self._told.get(kind) or (-math.inf, 0)
        if now - at < QUIET_SECONDS:
            self._told.put(kind, (at, left_out + 1))
            return
        self._told.put(kind, (now, 0))
        text += f" (and {left_out} more like this before)" if left_out else ""
        self.overview.told(text, logging.getLevelName(level).lower())
        logger.log(level, f"sidestep: {text}", extra={"sidestep": facts or {"event": _event_of(kind)}})

    def say(self, text: str) -> None:
        """Log what a user has brought about."""
        self.overview.told(text)
        if self.engine is not None:
            self.overview.look(self.engine)
        logger.log(ALERT, f"sidestep: {text}")

    def log_bug(self, where: str, error: Exception) -> None:
        """Log a bug of ours once: type and place, for its text might quote a key or a prompt."""
        at = error.__traceback__
        while at is not None and at.tb_next is not None:
            at = at.tb_next
        place = "?" if at is None else f"{Path(at.tb_frame.f_code.co_filename).name}:{at.tb_lineno}"
        key = f"{where} {type(error).__name__} {place}"
        if key not in self._logged:
            self._logged.add(key)
            logger.error(f"sidestep: internal error in {where} ({type(error).__name__} at {place}); passing through")


def _event_of(kind: str) -> str:
    """A word for what happened: `cooldown`, `hedge`, or the state that a circuit is in now."""
    word = kind.partition(" of ")[0]
    return kind.rpartition(": ")[2] if word == "circuit" else word
