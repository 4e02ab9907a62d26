"""What the workers of one port leave for one another, so that each can show the figures of all, and how they ask for
it to be left anew: a file and a socket for each, in a folder of their user's alone that their supervisor has made and
takes away. Nobody waits for anybody: what is asked for is there a moment later, or it is not.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import Any

import msgspec

DATAGRAM_BYTES = 4096
DATAGRAMS = 64
"""Read at a time."""
BEFORE = "before"
"""How the file of a worker that has ended ends: its successor goes on counting from there."""


class Asked(msgspec.Struct, frozen=True):
    """The latest question of a worker: in which of its lives, and the how many-th."""

    life: str
    count: int


class Figures(msgspec.Struct, frozen=True):
    """Of one worker. `picture` and `parts`: what `overview` shows, and what it takes to add it to others'. `metrics`:
    in Prometheus' text format. `held` and `mode`: what a user has set. `heard`: of each worker the latest question that
    was heard before this was left."""

    picture: dict[str, Any]
    parts: dict[str, Any]
    metrics: str
    held: dict[str, str]
    mode: str
    heard: dict[int, Asked]


class Said(msgspec.Struct, frozen=True):
    """One worker to another: leave your figures. `metrics`: these too. `hold` and `mode`: and do what a user has asked
    for: how to hold which provider, and the mode."""

    worker: int
    asked: Asked
    metrics: bool = False
    hold: tuple[str, str] | None = None
    mode: str | None = None


def leave(folder: Path, number: int, figures: Figures) -> None:
    """In place of what it left before. OSError: the folder is gone."""
    new = folder / f"{number}.new"
    new.write_bytes(msgspec.json.encode(figures))
    os.replace(new, folder / str(number))


def left(folder: Path, number: int) -> Figures | None:
    """What a worker that runs has left."""
    return _read(folder / str(number))


def left_before(folder: Path, number: int) -> Figures | None:
    """What one of this number had left that has ended."""
    return _read(folder / f"{number}.{BEFORE}")


def _read(path: Path) -> Figures | None:
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode(path.read_bytes(), type=Figures)
    return None


def ended(folder: str, number: int) -> None:
    """A worker is gone: what it has counted is kept for the one in its place."""
    with contextlib.suppress(OSError):
        os.replace(os.path.join(folder, str(number)), os.path.join(folder, f"{number}.{BEFORE}"))


def is_first(folder: Path, what: str) -> bool:
    """Whether no worker has said this yet: of what all of them find, one tells. `what`: a name for a file."""
    try:
        os.close(os.open(folder / f"said-{what}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return False
    except OSError:
        pass
    return True


class Door:
    """Where a worker is asked. State: the socket."""

    def __init__(self, folder: Path, number: int) -> None:
        """OSError: there can be none, as where the folder's path is too long."""
        self._folder = folder
        path = folder / f"{number}.s"
        path.unlink(missing_ok=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self.socket.setblocking(False)
            self.socket.bind(str(path))
        except OSError:
            self.socket.close()
            raise

    def say(self, number: int, said: Said) -> None:
        """To one who may hang, or be gone: then it hears nothing."""
        with contextlib.suppress(OSError):
            self.socket.sendto(msgspec.json.encode(said), str(self._folder / f"{number}.s"))

    def hear(self) -> list[Said]:
        found = []
        with contextlib.suppress(OSError):
            for _ in range(DATAGRAMS):
                data = self.socket.recv(DATAGRAM_BYTES)
                with contextlib.suppress(msgspec.DecodeError):
                    found.append(msgspec.json.decode(data, type=Said))
        return found

    def close(self) -> None:
        self.socket.close()
