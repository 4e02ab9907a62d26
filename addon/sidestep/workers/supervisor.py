"""The process that owns the listening sockets: it starts the workers, hands each the sockets that it asks for, replaces
one that dies and ends them all.

A worker asks when its mitmproxy listens, so that no option of mitmproxy's has to be understood here. One shared socket
rather than one for each worker (SO_REUSEPORT): what waits at one that hangs, or dies, is taken by the others.

Nothing of mitmproxy is imported, and one thread does it all: what it costs is little memory. Linux and macOS; Windows
cannot hand sockets on like this.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sidestep import siblings
from sidestep.fleet.embedded import Embedded, EmbeddedError, Store, private_folder
from sidestep.handover import WORKER
from sidestep.workers.crew import Action, Crew, End, Say, Start
from sidestep.workers.sockets import bind

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LINE_BYTES = 1 << 18
Key = tuple[str, str, int]
"""What a socket is for: mitmproxy's mode, host, port."""


@dataclass
class Process:
    """A worker's process. State: the line to it and what has come on it; the sockets it uses, and those that the one
    before it used, which are kept until it has asked for its own."""

    popen: subprocess.Popen[bytes]
    line: socket.socket
    heard: bytes = b""
    keys: set[Key] = field(default_factory=set)
    inherited: set[Key] = field(default_factory=set)


class Supervisor:
    """State: the crew, its processes by number, the sockets by what they are for, the configuration that is in force,
    as the workers tell it."""

    def __init__(self, count: int, command: Sequence[str]) -> None:
        """`command`: what starts a worker."""
        self.crew = Crew(count)
        self.command = command
        self.processes: dict[int, Process] = {}
        self.listeners: dict[Key, list[socket.socket]] = {}
        self.token = secrets.token_urlsafe(16)
        self.folder = str(private_folder())
        self.embedded = Embedded()
        self.store: Store | None = None
        self.kept: Any = None
        self.selector = selectors.DefaultSelector()
        self.signals, self._wake = socket.socketpair()

    def run(self) -> int:
        """Until all have ended; the exit code."""
        for end in (self.signals, self._wake):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        for number in (*STOPS, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        self.selector.register(self.signals, selectors.EVENT_READ, self._signalled)
        self._open_store()
        try:
            self._do(self.crew.begin())
            while not self.crew.is_over:
                left = None if self.crew.kill_at is None else max(0.0, self.crew.kill_at - time.monotonic())
                for key, _ in self.selector.select(left):
                    key.data()
                self._reap()
                self._do(self.crew.expired(time.monotonic()))
        finally:
            self.embedded.stop()
            shutil.rmtree(self.folder, ignore_errors=True)
        return self.crew.code

    def _open_store(self) -> None:
        """For what the workers know of the providers. It is advice: without it each learns for itself."""
        try:
            self.store = self.embedded.start()
        except EmbeddedError as e:
            say(f"workers learn each for itself which provider fails: {e}")

    def _do(self, actions: list[Action]) -> None:
        if self.crew.is_stopping and self.listeners:
            # Whoever comes now is refused, and not left waiting for somebody who has gone.
            for key in list(self.listeners):
                self._close(key)
        for action in actions:
            match action:
                case Start(number):
                    self._start(number)
                case End(number, at_once):
                    with contextlib.suppress(ProcessLookupError):
                        self.processes[number].popen.send_signal(signal.SIGKILL if at_once else signal.SIGTERM)
                case Say(text):
                    say(text)

    def _start(self, number: int) -> None:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, buffer, LINE_BYTES)  # what is said first waits until it has started
        before = self.processes.get(number)
        told: dict[str, Any] = {"number": number, "workers": self.crew.count, "pid": os.getpid(), "token": self.token}
        told |= {"folder": self.folder, "store": self.store, "kept": self.kept}
        ours.sendall(json.dumps(told).encode() + b"\n")
        with theirs:
            popen = subprocess.Popen(  # noqa: S603  # ourselves
                self.command,
                env={**os.environ, WORKER: str(theirs.fileno())},
                pass_fds=(theirs.fileno(),),
                # ^C on a terminal reaches the supervisor alone, which lets calls end.
                process_group=0,
            )
        process = Process(popen, ours)
        if before is not None:
            process.inherited = before.keys | before.inherited
        self.processes[number] = process
        self.selector.register(ours, selectors.EVENT_READ, lambda: self._heard(number, process))

    def _heard(self, number: int, process: Process) -> None:
        try:
            data = process.line.recv(65536)
        except OSError:
            data = b""
        if not data:
            self.selector.unregister(process.line)
            process.line.close()
            return
        *lines, process.heard = (process.heard + data).split(b"\n")
        for line in lines:
            with contextlib.suppress(OSError):  # it is gone, which its exit code tells
                self._asked(number, process, json.loads(line))

    def _asked(self, number: int, process: Process, asked: dict[str, Any]) -> None:
        if "listen" in asked:
            mode, host, port = asked["listen"]
            key = (str(mode), str(host), int(port))
            try:
                if key not in self.listeners:
                    self.listeners[key] = bind(key[1], key[2])
            except OSError as e:
                refusal = {"errno": e.errno, "error": e.strerror or str(e)}
                process.line.sendall(json.dumps(refusal).encode())
                return
            process.keys.add(key)
            socket.send_fds(process.line, [b"{}"], [s.fileno() for s in self.listeners[key]])
        elif "release" in asked:
            mode, host, port = asked["release"]
            process.keys.discard((str(mode), str(host), int(port)))
            self._close_unused()
        elif "keep" in asked:
            self.kept = asked["keep"]
        elif "ready" in asked:
            process.inherited.clear()
            self._close_unused()
            self._do(self.crew.ready(number, time.monotonic()))

    def _close_unused(self) -> None:
        used = {key for p in self.processes.values() for key in (*p.keys, *p.inherited)}
        for key in [key for key in self.listeners if key not in used]:
            self._close(key)

    def _close(self, key: Key) -> None:
        for listener in self.listeners.pop(key):
            listener.close()

    def _signalled(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in self.signals.recv(4096):
                if number in STOPS:
                    if not self.crew.is_stopping:
                        say(f"{signal.Signals(number).name}: calls may end, then all workers do (once more: at once)")
                    self._do(self.crew.stop(time.monotonic()))

    def _reap(self) -> None:
        try:
            if not self.crew.is_stopping and self.embedded.revive():
                say("what the workers share was lost with its server, which is started anew")
        except EmbeddedError as e:
            say(f"workers learn each for itself from now on: {e}")
        for number, process in list(self.processes.items()):
            if process.popen.returncode is None and (code := process.popen.poll()) is not None:
                siblings.ended(self.folder, number)
                self._do(self.crew.ended(number, code, time.monotonic()))


def say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(f"sidestep: {text}", file=sys.stderr, flush=True)  # noqa: T201


def main(arguments: Sequence[str]) -> int:
    """`N ARGUMENT…`: so many workers of mitmdump with these arguments."""
    code = "import sys; from sidestep.workers.worker import main; main(sys.argv[1:])"
    return Supervisor(int(arguments[0]), [sys.executable, "-P", "-c", code, *arguments[1:]]).run()
