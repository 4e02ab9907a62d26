"""Clocks of processes, by libfaketime (Debian's package of that name), which need not be installed."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

LOOK_SECONDS = 1
"""So often the processes look: it makes them slow."""
_PLACES = ("/usr/lib/*/faketime", "/usr/lib/faketime", "/usr/local/lib/faketime")


def _library() -> Path | None:
    named = os.environ.get("SIDESTEP_FAKETIME")
    found = [Path(named)] if named else []
    for place in _PLACES:
        found += Path("/").glob(f"{place.lstrip('/')}/libfaketime.so.1")
    return next((path for path in found if path.is_file()), None)


class Clock:
    """The wall clock of processes that are started with `env`. The monotonic one goes on as it is."""

    def __init__(self, file: Path) -> None:
        library = _library()
        if library is None:
            pytest.skip("libfaketime is not here (SIDESTEP_FAKETIME names libfaketime.so.1)")
        self._file = file
        self.set(timedelta())
        self.env = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_CACHE_DURATION": str(LOOK_SECONDS),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def set(self, ahead: timedelta) -> None:
        """So much ahead of the true time, within LOOK_SECONDS."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead.total_seconds():+.0f}\n")
        new.replace(self._file)
