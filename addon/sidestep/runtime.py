"""Proxies that run on this machine, and how they are found from a shell and by one another: each leaves a file that its
user alone may read, with its address, its ports and the token for its controls.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import warnings
from pathlib import Path

import msgspec
import platformdirs

MAX_FILES = 100
MAX_BYTES = 10_000
CONNECT_SECONDS = 5.0


class Running(msgspec.Struct, frozen=True):
    """A proxy that runs. `url`: the port at which its pages can be asked for, empty where no mode has one. `since`:
    seconds since 1970. `ports`: all at which it listens."""

    pid: int
    url: str
    token: str
    source: str = ""
    since: float = 0.0
    ports: tuple[int, ...] = ()

    def __repr__(self) -> str:
        return f"Running({self.pid}, {self.url})"


def folder() -> Path | None:
    """Where the files are; None where there is no folder that is the user's alone."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of a place that it does not use
            found = platformdirs.user_runtime_path("sidestep")
    except (RuntimeError, OSError):
        return None
    return found if found.is_absolute() else None


def _is_private(place: Path) -> bool:
    """A folder of this user, which no other one may read or write, in one that no other can replace it in."""
    try:
        own, above = place.lstat(), place.parent.stat()
    except OSError:
        return False
    user = os.getuid()
    theirs = above.st_uid not in (user, 0) or (above.st_mode & 0o022 and not above.st_mode & stat.S_ISVTX)
    return stat.S_ISDIR(own.st_mode) and own.st_uid == user and not own.st_mode & 0o077 and not theirs


def record(running: Running) -> Path | None:
    """Leave a file for a proxy; None where that cannot be done safely."""
    place = folder()
    if place is None or os.name != "posix":
        return None
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.mkdir(mode=0o700, exist_ok=True)
        if not _is_private(place):
            return None
        path = place / f"{running.pid}.json"
        path.unlink(missing_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
            file.write(msgspec.json.encode(running))
    except OSError:
        return None
    return path


def running() -> list[Running]:
    """The proxies of this user that run and can be asked, the latest last."""
    return [each for each in _all() if each.url]


def ports() -> frozenset[int]:
    """Those at which proxies of this user listen."""
    return frozenset(port for each in _all() for port in each.ports)


def _all() -> list[Running]:
    """Files of those that are gone are removed."""
    place = folder()
    if place is None or os.name != "posix" or not _is_private(place):
        return []
    found = []
    for path in sorted(place.glob("*.json"))[:MAX_FILES]:
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
                told = msgspec.json.decode(file.read(MAX_BYTES), type=Running)
        except (OSError, msgspec.DecodeError):
            continue
        if _lives(told.pid) and path.stem == str(told.pid):
            found.append(told)
        else:
            with contextlib.suppress(OSError):
                path.unlink()
    return sorted(found, key=lambda r: r.since)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def answers(port: int, host: str = "127.0.0.1") -> bool:
    """Whether somebody listens there."""
    try:
        with socket.create_connection((host, port), timeout=CONNECT_SECONDS):
            return True
    except OSError:
        return False
