"""What the parts of the addon have in common."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from sidestep.routing.engine import Engine

logger = logging.getLogger(__name__)


class Core:
    """State: the engine, once there is a configuration; the one clock; client connections whose layers are ours; bugs
    that were logged."""

    def __init__(self) -> None:
        self.engine: Engine | None = None
        self.clock: Callable[[], float] = time.monotonic
        self.adopted: set[str] = set()
        self._logged: set[str] = set()

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
