"""The proxy of `sidestep run`: starts it, watches it, ends it."""

from __future__ import annotations

import json
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidestep import handover, no_proxy
from sidestep.config.locating import places
from sidestep.handover import CONTROL_FD, UPSTREAM_AUTH
from sidestep.run import environment, trust
from sidestep.run.environment import Upstream, UpstreamError
from sidestep.run.streams import wrapped

INTERNAL_FAILURE = 125
"""Exit code when the command was not started because of us, as of `env`, `nohup` and `timeout`."""
START_SECONDS = 60.0
REPORT_SECONDS = 5.0
STOP_SECONDS = 5.0
LOG_LINES = 20
"""How much of the log is shown where the proxy did not say itself why it ended."""


class RunError(Exception):
    """Why the command was not started."""

    def __init__(self, message: str, code: int = INTERNAL_FAILURE) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What was asked for on the command line."""

    web: bool = False
    keep: bool = False
    quiet: bool = False
    config: str = ""
    confdir: Path = trust.DEFAULT_CONFDIR


def say(text: str) -> None:
    text = text.removeprefix("sidestep: ")
    with suppress(OSError):
        print(wrapped(f"sidestep: {text}"), file=sys.stderr, flush=True)  # noqa: T201


class Proxy:
    """mitmdump or mitmweb in a session of its own. State: its process, the socket to its companion, what it said of
    itself when it was ready, errors that it reported and no user was told yet."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket, log: Path) -> None:
        self.process = process
        self.log = log
        self.port = 0
        self.web: str | None = None
        self.serves = ""
        self.left = False
        self.unsaid: list[str] = []
        self._control = control
        self._lines = control.makefile("rb")
        self._reports: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._failed = False
        self._seen: set[str] = set()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def failed(self) -> bool:
        """Its log is worth reading."""
        return self._failed

    @classmethod
    def start(cls, options: RunOptions, script: Path, env: Mapping[str, str]) -> Proxy:
        """Start it and wait until it listens. RunError: why it did not."""
        try:
            upstream = environment.upstream(env)
        except UpstreamError as e:
            raise RunError(str(e)) from None
        ours, theirs = socket.socketpair()
        proxy_env = {**env, CONTROL_FD: str(theirs.fileno()), "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}
        proxy_env[handover.FORCED_OPTIONS] = json.dumps(_forced(options))
        if upstream is not None:
            proxy_env[handover.DIRECT_HOSTS] = no_proxy.users_no_proxy(env)
            if upstream.auth is not None:
                proxy_env[UPSTREAM_AUTH] = upstream.auth
        log, path = tempfile.mkstemp(prefix="sidestep-", suffix=".log")
        with theirs, os.fdopen(log, "wb") as file:
            process = subprocess.Popen(  # noqa: S603  # mitmproxy of this very installation
                _command(options, script, env, upstream),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=proxy_env,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        proxy = cls(process, ours, Path(path))
        try:
            proxy._await_ready()
        except BaseException:
            proxy.stop()
            raise
        return proxy

    def _await_ready(self) -> None:
        self._control.settimeout(START_SECONDS)
        try:
            for message in self._messages():
                if "ready" in message:
                    ready = message["ready"]
                    self.port, self.web, self.serves = ready["port"], ready["web"], ready["serves"]
                    return
                self.unsaid += message.values()
        except TimeoutError:
            self.unsaid.append(f"it was not ready within {START_SECONDS:.0f} s")
        finally:
            self._control.settimeout(None)
        self._failed = True
        why = "\n".join(dict.fromkeys(self.unsaid)) or "\n".join(self.log.read_text().splitlines()[-LOG_LINES:])
        raise RunError(f"the proxy did not start: {why}\nits log: {self.log}")

    def _messages(self) -> Iterator[dict[str, Any]]:
        """What the companion says, until the proxy ends."""
        with suppress(ConnectionError):
            for line in self._lines:
                yield json.loads(line)

    def listen(self, *, at_once: bool) -> None:
        """Take what the companion says from now on; what it has said before is shown. `at_once`: errors are shown as
        they come; not on a terminal, which the command may be drawing on."""
        for error in dict.fromkeys(self.unsaid):
            say(error)
        self.unsaid.clear()
        threading.Thread(target=self._listen, args=(say if at_once else self.unsaid.append,), daemon=True).start()

    def _listen(self, show: Callable[[str], None]) -> None:
        for message in self._messages():
            if "report" in message:
                self._reports.put(message["report"])
                continue
            self._failed = self._failed or "error" in message
            for text in message.values():
                if text not in self._seen:
                    self._seen.add(text)
                    show(text)
        self._reports.put(None)

    def has_told(self, text: str) -> bool:
        """Whether the user was, or is about to be, told this."""
        return any(told.removeprefix("sidestep: ") == text for told in self._seen)

    def report(self) -> dict[str, Any] | None:
        """What came of the calls; None if the proxy is gone."""
        try:
            self._control.sendall(b"report\n")
            report = self._reports.get(timeout=REPORT_SECONDS)
        except (OSError, queue.Empty):
            report = None
        self._failed = self._failed or report is None or bool((report["summary"] or {}).get("failed"))
        return report

    def leave(self) -> None:
        """Let it run on."""
        with suppress(OSError):
            self._control.sendall(b"keep\n")
            self.left = True

    def stop(self) -> None:
        """End it, unless it is to stay; its log goes with it if there is nothing to read in it."""
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)
        if self.left:
            return
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if not self._failed:
            with suppress(OSError):
                self.log.unlink()


def _command(options: RunOptions, script: Path, env: Mapping[str, str], upstream: Upstream | None) -> list[str]:
    tool = "mitmweb" if options.web else "mitmdump"
    companion = Path(__file__).with_name("companion.py")
    # -P: nothing in the folder that the command is started in is taken for a module of mitmproxy's.
    command = [sys.executable, "-P", "-c", f"from mitmproxy.tools.main import {tool}; {tool}()"]
    command += ["--server", "--listen-host", "127.0.0.1", "--listen-port", "0"]
    command += ["--mode", "regular" if upstream is None else f"upstream:{upstream.url}"]
    command += ["-s", str(companion), "-s", str(script), "--set", f"confdir={trust.folder_of(options.confdir)}"]
    if options.web:
        # Streamed answers are kept to be looked at.
        command += ["--set", "store_streamed_bodies=true"]
        command += ["--no-web-open-browser", "--web-host", "127.0.0.1", "--web-port", str(_free_port())]
    roots = trust.upstream_roots(options.confdir, env)
    return command if roots is None else [*command, "--set", f"ssl_verify_upstream_trusted_ca={roots}"]


def trusted_upstream(arguments: Sequence[str], env: Mapping[str, str]) -> list[str]:
    """Arguments for one of mitmproxy's tools that is started by hand: it trusts on its way to the providers what the
    environment says (`SSL_CERT_FILE` and the like), unless its user has said what. TrustError: its CA has no place."""
    named = [a.partition("confdir=")[2] for a in arguments if a.startswith(("confdir=", "--set=confdir="))]
    confdir = Path(named[-1]) if named else trust.DEFAULT_CONFDIR
    if {"-h", "--help", "--version", "--options", "--commands"} & set(arguments):
        return []
    trust.check_place(confdir)
    told = trust.text_of(trust.folder_of(confdir) / "config.yaml")
    if any("ssl_verify_upstream_trusted" in text for text in (*arguments, told)):
        return []
    roots = trust.upstream_roots(confdir, env)
    return [] if roots is None else ["--set", f"ssl_verify_upstream_trusted_ca={roots}"]


def _forced(options: RunOptions) -> dict[str, Any]:
    """mitmproxy's options that must be as they are here: with `--set` the user's own config.yaml, made for other uses
    of mitmproxy, would have the last word."""
    forced: dict[str, Any] = {"connection_strategy": "lazy", "sidestep_tunnel_others": "true"}
    if options.config:
        forced["sidestep_config"] = str(places(options.config).named)
    if not options.web:
        # Addresses of calls can bear keys: they do not belong into a log.
        forced["flow_detail"] = 0
    return forced


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
