"""A real mitmdump with the addon, as a process of its own on a free port."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self

from support.ready import Forked, Ready
from support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
ADDON = ROOT / "addon" / "main.py"
MITMDUMP = str(Path(sys.executable).parent / "mitmdump")
FORBIDDEN = ("Traceback", "mitmproxy has crashed", "Addon error", "internal error", "Task exception was never")

# Credentials of whoever runs the tests must not decide what the tests see.
_KEYS = re.compile(r"_API_KEY$|^(HTTPS?|ALL|NO)_PROXY$|^OTEL_", re.IGNORECASE)


def clean_env(**more: str) -> dict[str, str]:
    """The environment without anybody's keys and proxies."""
    kept = {k: v for k, v in os.environ.items() if not _KEYS.search(k) and k != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, **more}


class Mitmdump:
    """Use as a context manager. Its output is collected; a traceback in it fails the test at the end."""

    def __init__(
        self,
        folder: Path,
        config: str | None,
        *options: str,
        script: Path | None = ADDON,
        env: dict[str, str] | None = None,
        listen: str = "127.0.0.1",
        port_in: str = r"HTTP\(S\) proxy.*",
    ) -> None:
        """`port_in`: the words in which mitmproxy names the mode whose port is meant; the page is asked for over an
        HTTP proxy alone."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.confdir = CONFDIR if CONFDIR is not None else folder / "conf"
        self.config = folder / "sidestep.toml"
        self.may_complain = False
        self._port_in = port_in
        command = [MITMDUMP, "--listen-host", listen, "--listen-port", "0"]
        command += ["--set", f"confdir={self.confdir}"]
        if not any("flow_detail" in option for option in options):
            command += ["--set", "flow_detail=0"]
        if script is not None:
            command += ["-s", str(script)]
            if config is not None:
                self.config.write_text(config)
                command += ["--set", f"sidestep_config={self.config}"]
        self._command = [*command, *options]
        self.has_addon = any("addon/main.py" in a for a in self._command)
        (folder / "run").mkdir(mode=0o700, exist_ok=True)
        private = {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder / "run")}
        self._env = clean_env(PYTHONUNBUFFERED="1", **{**private, **(env or {})})
        self._in_own_env = env is not None
        self.lines: list[str] = []
        self._said: int | None = None
        self.port = 0
        self._news = threading.Condition()
        self._ended = False
        self._stopped = False

    def start(self) -> Self:
        self.process = self._started()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def _started(self) -> subprocess.Popen[str] | Forked:
        # What is imported may depend on the environment.
        plain = not self._in_own_env and self._command[0] == MITMDUMP
        if READY is not None and plain and READY.is_here:
            return READY.start(self._command, self._env, self.folder)
        return subprocess.Popen(
            self._command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._env,
            cwd=self.folder,
        )

    def __enter__(self) -> Self:
        self.start()
        try:
            found = self.wait_for_log(rf"{self._port_in} listening at .*:(\d+)", 60)
            self.port = int(found[1])
            if "HTTP" in self._port_in and self.has_addon:
                self.health()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        code = self.stop()
        if code < 0 and not self._stopped:
            raise AssertionError(f"mitmdump was ended by signal {-code}, and not by its test:\n{self.log}")
        if kind is None and not self.may_complain:
            bad = [line for line in self.lines[: self._said] if any(word in line for word in FORBIDDEN)]
            assert not bad, self.log

    def stop(self) -> int:
        if self.process.poll() is None:
            # What mitmproxy says of connections that are open when it is ended is not looked at.
            self._said = len(self.lines)
            self._stopped = True
            self.process.terminate()
        try:
            code = self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait(5)
        self._reader.join(5)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def wait_for_log(self, pattern: str, timeout: float = 10) -> re.Match[str]:
        found: list[re.Match[str]] = []

        def look() -> bool:
            match = re.search(pattern, self.log)
            if match:
                found.append(match)
            return bool(match) or self._ended

        with self._news:
            self._news.wait_for(look, timeout)
        ended = f" (it has ended: {self.process.wait(5)})" if self._ended else ""
        assert found, f"no {pattern!r}{ended} in:\n{self.log}"
        return found[0]

    # --- the outside

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        """For the page's buttons, as the log tells it."""
        return self.wait_for_log(r"what happens is shown at \S+/#(\S+)")[1]

    @property
    def ca(self) -> Path:
        return self.confdir / "mitmproxy-ca-cert.pem"

    @property
    def client_env(self) -> dict[str, str]:
        """What an unmodified program needs: proxy and CA, nothing else."""
        return {"HTTPS_PROXY": self.url, "HTTP_PROXY": self.url, "SSL_CERT_FILE": str(self.ca)}

    @property
    def memory(self) -> int:
        """Resident bytes of the process."""
        return self._memory("VmRSS")

    @property
    def peak_memory(self) -> int:
        """The most that ever was resident."""
        return self._memory("VmHWM")

    def _memory(self, field: str) -> int:
        fields = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{field}:\s+(\d+) kB", fields)[1]) * 1024  # type: ignore[index]

    def page(self, path: str) -> tuple[int, bytes]:
        # Not `urllib.request`: it reads the system's CAs each time.
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            connection.request("GET", f"http://sidestep.internal{path}", headers={"connection": "close"})
            answer = connection.getresponse()
            return answer.status, answer.read()

    def health(self) -> dict[str, Any]:
        health: dict[str, Any] = json.loads(self.page("/health")[1])
        return health

    def settled(self) -> dict[str, Any]:
        """What `/health` says of all providers once nothing is under way."""
        last: dict[str, Any] = {}

        def over() -> bool:
            last.update(self.health())
            return bool(last["in_flight"] == 0)

        until(over, "no attempt is in flight")
        found: dict[str, Any] = last["providers"]
        return found

    def provider(self, name: str) -> dict[str, Any]:
        status: dict[str, Any] = self.health()["providers"][name]
        return status


def by_hand(tool: str, folder: Path, text: str, *options: str, **env: str) -> Mitmdump:
    """`sidestep dump` or `sidestep web`, as a user starts it."""
    m = Mitmdump(folder, text, *options, env={"PYTHONPATH": str(ROOT / "addon"), **env})
    place = m._command.index("-s")
    m._command[place : place + 2] = []
    m._command[0:1] = [sys.executable, "-m", "sidestep", tool]
    return m


def children(m: Mitmdump, words: str) -> list[int]:
    """Processes that it has started whose command line holds these words, in the order in which they were started."""
    found = Path(f"/proc/{m.process.pid}/task/{m.process.pid}/children").read_text().split()
    return [int(pid) for pid in found if words in Path(f"/proc/{pid}/cmdline").read_text()]


CONFDIR: Path | None = None
"""One CA for a whole test run, made by the first proxy: generating keys is slow."""


READY: Ready | None = None
"""Set for a test run: mitmdump is loaded once for all its starts."""


def share_confdir(folder: Path) -> None:
    global CONFDIR
    CONFDIR = folder
