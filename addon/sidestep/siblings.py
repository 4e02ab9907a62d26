"""What the workers of one port leave for one another, so that each can show the figures of all: a file for each, in a
folder of their user's alone that their supervisor has made and takes away.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec


class Figures(msgspec.Struct, frozen=True):
    """Of one worker. `metrics`: in Prometheus' text format."""

    calls: int
    failed: int
    metrics: str


def leave(folder: Path, number: int, figures: Figures) -> None:
    """In place of what it left before. OSError: the folder is gone."""
    new = folder / f"{number}.new"
    new.write_bytes(msgspec.json.encode(figures))
    os.replace(new, folder / str(number))


def left(folder: Path, workers: int) -> dict[int, Figures]:
    """Of those that have left any, by number."""
    found = {}
    for number in range(1, workers + 1):
        with contextlib.suppress(OSError, msgspec.DecodeError):
            found[number] = msgspec.json.decode((folder / str(number)).read_bytes(), type=Figures)
    return found
