"""Several proxies that share one Valkey, and what a test does to that."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from sidestep.fleet.embedded import binary
from support.provider import Provider
from support.proxy import Mitmdump
from support.raw import Wire, chat


class Store:
    """A real server on a Unix socket, which can be killed, frozen and started anew, empty."""

    def __init__(self, folder: Path, env: dict[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._env = {**os.environ, **(env or {})}
        self.socket = folder / "s"
        self._folder = folder
        self.settings: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        server = binary()
        assert server is not None
        settings = {"port": "0", "unixsocket": str(self.socket), "dir": str(self._folder), "save": "", **self.settings}
        text = "".join(f'{k} "{v}"\n' for k, v in settings.items())
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(
            [server, "-"], stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, env=self._env
        )
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode())
        self._process.stdin.close()
        until(lambda: self.ask("PING") != b"")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self.socket.unlink(missing_ok=True)

    def freeze(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def ask(self, *words: str | bytes) -> bytes:
        """A command's answer as it comes; empty where there is none."""
        try:
            with self._connection() as asking:
                asking.sendall(_command(*words))
                asking.settimeout(2)
                return asking.recv(1 << 20)
        except OSError:
            return b""

    def lock(self, password: str) -> None:
        """Want another password from now on, and of all who are connected."""
        with self._connection() as asking:
            for command in (("CONFIG", "SET", "requirepass", password), ("CLIENT", "KILL", "TYPE", "normal")):
                asking.sendall(_command(*command))
                asking.settimeout(2)
                assert asking.recv(1 << 10)[:1] in b"+:"

    def _connection(self) -> socket.socket:
        asking = socket.socket(socket.AF_UNIX)
        try:
            asking.connect(str(self.socket))
        except OSError:
            asking.close()
            raise
        return asking

    @contextlib.contextmanager
    def watched(self) -> Iterator[Callable[[], bytes]]:
        """All that is sent to it meanwhile (`MONITOR`)."""
        with self._connection() as watching:
            watching.sendall(_command("MONITOR"))
            heard: list[bytes] = []

            def read() -> bytes:
                watching.settimeout(0.5)
                with contextlib.suppress(TimeoutError):
                    while data := watching.recv(1 << 20):
                        heard.append(data)
                return b"".join(heard)

            yield read

    def contents(self) -> bytes:
        """All keys and values, as the server shows them."""
        found = b""
        for key in self.ask("KEYS", "*").split(b"\r\n"):
            if key.startswith(b"{"):
                found += key + self.ask("DUMP", key)
                for command in (("HGETALL",), ("GET",), ("ZRANGE", "0", "-1")):
                    found += self.ask(command[0], key, *command[1:])
        return found


def _command(*words: str | bytes) -> bytes:
    parts = [word.encode() if isinstance(word, str) else word for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)


def until(found: Callable[[], Any], seconds: float = 10) -> Any:
    """What a look finds, as soon as it finds anything."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)
    return value


def together(*proxies: Mitmdump) -> None:
    """Wait until each has heard of the store."""
    for proxy in proxies:
        until(lambda p=proxy: p.health()["fleet"]["state"] == "together")  # type: ignore[misc]


def state(proxy: Mitmdump, name: str) -> str:
    found: str = proxy.provider(name)["state"]
    return found


def ask(proxy: Mitmdump, provider: Provider | str, user: str, **more: Any) -> tuple[int, str]:
    """A call's status and its attempts. Each has a user of its own: what is said again begins elsewhere."""
    base = provider if isinstance(provider, str) else provider.url()
    with Wire(proxy) as wire:
        status, headers, body = wire.send(chat(base, user=user, **more)).answer()
    json.loads(body)
    return status, headers["x-sidestep-attempts"]


def press(proxy: Mitmdump, path: str) -> None:
    """A button of its page."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)) as connection:
        connection.request("POST", f"http://sidestep.internal{path}", headers={"x-sidestep-token": proxy.token})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
