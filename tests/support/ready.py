"""mitmdump, about to start: a process that has loaded mitmproxy, which is two thirds of the work of a start, and forks.

What it forks is a process as the console script would be: with a pid, arguments, an environment, a folder and an output
of its own. Only what is read when mitmproxy is imported, and by Python itself, is as it was at the fork's parent.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, TextIO

MESSAGE_BYTES = 1 << 17


class Forked:
    """What `subprocess.Popen` is to a process that was started by us."""

    def __init__(self, pid: int, told: int, stdout: TextIO) -> None:
        """`told`: where the exit status is written once it has ended."""
        self.pid = pid
        self.stdout = stdout
        self.returncode: int | None = None
        self._told = told
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"mitmdump ({self.pid})", timeout or 0)
        return code

    def _ended(self, seconds: float | None) -> int | None:
        waiting = select.poll()
        with self._lock:
            if self.returncode is None:
                waiting.register(self._told, select.POLLIN)
                if waiting.poll(None if seconds is None else seconds * 1_000):
                    self.returncode = int(os.read(self._told, 100))
                    os.close(self._told)
            return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Ready:
    """The process that forks. It is started when first asked; what is forked is in its network namespace."""

    def __init__(self) -> None:
        self._network = _network()
        self._loaded: tuple[subprocess.Popen[bytes], socket.socket] | None = None
        self._lock = threading.Lock()

    @property
    def is_here(self) -> bool:
        """Whether what it starts is where who asks is."""
        return _network() == self._network

    def start(self, command: list[str], env: dict[str, str], cwd: Path) -> Forked:
        """mitmdump with these arguments, both its outputs in one."""
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            asked = self._loaded[1]
            (output, its_output), (told, tells) = os.pipe(), os.pipe()
            order = json.dumps({"command": command, "env": env, "cwd": str(cwd)}).encode()
            socket.send_fds(asked, [order], [its_output, tells])
            os.close(its_output)
            os.close(tells)
            return Forked(int(asked.recv(100)), told, open(output, encoding="utf-8"))

    def _load(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            command = [sys.executable, "-u", __file__, str(its.fileno())]
            return subprocess.Popen(command, pass_fds=[its.fileno()]), ours

    def close(self) -> None:
        """It ends once nobody can ask it any more."""
        if self._loaded is not None:
            self._loaded[1].close()
            self._loaded[0].wait(10)


def _network() -> str:
    return os.readlink("/proc/thread-self/ns/net")


def _wait(asks: socket.socket) -> dict[str, Any]:
    """Fork whenever that is asked for: the order is returned in the process that is to carry it out."""
    with selectors.DefaultSelector() as selector:
        selector.register(asks, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.data is not None:
                    selector.unregister(key.fd)
                    pid, tells = key.data
                    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    with contextlib.suppress(BrokenPipeError):
                        os.write(tells, str(code).encode())
                    os.close(tells)
                    os.close(key.fd)
                    continue
                order, files, _, _ = socket.recv_fds(asks, MESSAGE_BYTES, 2)
                if not order:
                    raise SystemExit
                output, tells = files
                if (pid := os.fork()) == 0:
                    for number in (1, 2):
                        os.dup2(output, number)
                    others = [fd for k in selector.get_map().values() if k.data for fd in (k.fd, k.data[1])]
                    for fd in (output, tells, *others):
                        os.close(fd)
                    asks.close()
                    found: dict[str, Any] = json.loads(order)
                    return found
                os.close(output)
                asks.send(str(pid).encode())
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, tells))


def main() -> None:
    import mitmproxy.tools.dump
    import mitmproxy.tools.main

    with contextlib.suppress(ImportError):  # what the addon needs of others' packages
        import msgspec  # noqa: F401
        import platformdirs  # noqa: F401
        import prometheus_client  # noqa: F401

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    order = _wait(socket.socket(fileno=int(sys.argv[1])))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    sys.argv = order["command"]
    sys.path[0] = os.path.dirname(sys.argv[0])
    sys.exit(mitmproxy.tools.main.mitmdump())


if __name__ == "__main__":
    main()
