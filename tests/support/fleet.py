"""Several proxies that share one Valkey, and what a test does to that."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import pytest

from sidestep.fleet.embedded import binary
from support.provider import Provider
from support.proxy import Mitmdump
from support.raw import Wire, chat


def server_of(kind: str) -> str:
    """`valkey`: what `--workers` would start; `redis`: Debian's, which knows TLS. Skips where there is none."""
    found = binary() if kind == "valkey" else shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        pytest.skip("there is no Valkey here" if kind == "valkey" else "there is no redis-server here")
    return found


def free_port(kept: set[int] | None = None) -> int:
    """One that nobody listens at, and not ten thousand more either: there a Cluster's nodes talk to each other."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as found:
            port: int = found.getsockname()[1]
        if port < 50_000 and port not in (kept := set() if kept is None else kept):
            kept.add(port)
            return port


_WORDS = {"user", "sentinel", "replicaof"}
"""Settings of several words."""


class Store:
    """A real server on a Unix socket, which can be killed, frozen and started anew, empty."""

    def __init__(
        self,
        folder: Path,
        kind: str = "valkey",
        env: dict[str, str] | None = None,
        flags: Sequence[str] = (),
        **settings: str,
    ) -> None:
        """`settings`: of the server, with _ for -."""
        folder.mkdir(parents=True, exist_ok=True)
        self._server = server_of(kind)
        self._env = {**os.environ, **(env or {})}
        self._flags = flags
        self.socket = folder / "s"
        self._folder = folder
        self.settings = {name.replace("_", "-"): value for name, value in settings.items()}
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
        settings = {"port": "0", "unixsocket": str(self.socket), "dir": str(self._folder), **self.settings}
        if not self._flags:
            settings["save"] = ""
        text = "".join(f"{k} {v if k in _WORDS else f'"{v}"'}\n" for k, v in settings.items())
        file = self._folder / "conf"  # a Sentinel writes what it learns into it
        file.write_text(text)
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(
            [self._server, str(file), *self._flags], stdout=quiet, stderr=quiet, env=self._env
        )
        try:
            until(lambda: self.ask("PING") != b"")
        except BaseException:
            self.kill()
            raise

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

    def ask(self, *words: str | bytes, password: str | None = None) -> bytes:
        """A command's answer as it comes; empty where there is none."""
        try:
            with self._connection() as asking:
                asking.settimeout(2)
                if password is not None:
                    asking.sendall(_command("AUTH", password))
                    asking.recv(1 << 10)
                asking.sendall(_command(*words))
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
