"""A proxy for one command: `sidestep run`, and the environment that sends any program through one (`sidestep env`).

Processes and signals; which provider answers is the addon's business, inside the proxy.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Self
from urllib.parse import unquote, urlsplit

import platformdirs

from sidestep import trust
from sidestep.answers import INTERNAL_HOST
from sidestep.locating import UPSTREAM_AUTH

START_SECONDS = 60.0
"""A proxy that is not ready by then never will be: a cold start takes about two seconds."""
STOP_SECONDS = 5.0
LOOK_SECONDS = 0.02
LOOPBACK = ("localhost", "127.0.0.1", "::1")

_LISTENING = re.compile(r"proxy[^\n]* listening at \S*?:(\d+)")
_WEB = re.compile(r"Web server listening at (http\S+)")
_FORWARDED = ("SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGCONT")
_FROM_THE_TERMINAL = ("SIGINT", "SIGQUIT")
"""Signals that a terminal sends to the whole group of processes in its foreground, the command among them."""


class StartError(Exception):
    """The proxy did not start. Its text is for people."""


def program(tool: str) -> Path:
    """One of mitmproxy's tools, of the same installation."""
    return Path(sys.executable).parent / tool


# --- the environment


def variables(port: int, bundle: Path, java: Path | None, env: Mapping[str, str]) -> dict[str, str]:
    """What a program needs in its environment to go through the proxy on this port and to trust it.

    `env`: the environment so far; what it says about exceptions and Java is kept.
    """
    proxy = f"http://127.0.0.1:{port}"
    given = env.get("NO_PROXY") or env.get("no_proxy") or ""
    exceptions = [name for part in given.split(",") if (name := part.strip())]
    direct = ",".join(dict.fromkeys((*LOOPBACK, *exceptions)))
    found = {"SIDESTEP_PROXY": proxy}
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "WSS_PROXY"):
        found[name] = found[name.lower()] = proxy
    found["NO_PROXY"] = found["no_proxy"] = direct
    found.update(dict.fromkeys(trust.BUNDLE_VARIABLES, str(bundle)))
    found["NODE_USE_ENV_PROXY"] = "1"
    options = [f"-D{scheme}.proxy{what}" for scheme in ("http", "https") for what in ("Host=127.0.0.1", f"Port={port}")]
    options.append("-Dhttp.nonProxyHosts=localhost|127.*|[::1]")
    if java is not None:
        options += [f"-Djavax.net.ssl.trustStore={java}", f"-Djavax.net.ssl.trustStorePassword={trust.JAVA_PASSWORD}"]
        options.append("-Djavax.net.ssl.trustStoreType=PKCS12")
    kept = env.get("JAVA_TOOL_OPTIONS", "")
    found["JAVA_TOOL_OPTIONS"] = " ".join(filter(None, (kept, *options)))
    return found


def for_shell(found: Mapping[str, str], shell: str) -> str:
    """The variables as commands of a shell, or as JSON."""
    match shell:
        case "json":
            return json.dumps(dict(found), indent=1)
        case "fish":
            quoted = {k: v.replace("\\", "\\\\").replace("'", "\\'") for k, v in found.items()}
            return "\n".join(f"set -gx {k} '{v}'" for k, v in quoted.items())
        case "powershell":
            return "\n".join("$env:{} = '{}'".format(k, v.replace("'", "''")) for k, v in found.items())
        case _:
            return "\n".join(f"export {k}={shlex.quote(v)}" for k, v in found.items())


# --- the proxy


@dataclass
class Proxy:
    """A mitmproxy that was started here."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int
    web: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def summary(self) -> dict[str, object] | None:
        """What it has done, None if it does not say."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": self.url}))
        try:
            with opener.open(f"http://{INTERNAL_HOST}/summary", timeout=STOP_SECONDS) as answer:
                found: dict[str, object] = json.load(answer)
                return found
        except (OSError, ValueError, urllib.error.URLError):
            return None

    def stop(self) -> None:
        if self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start(script: Path, *, web: bool = False, config: Path | None = None, env: Mapping[str, str]) -> Proxy:
    """Start a proxy with the addon on a free port of the loopback interface, and wait until it listens.

    A proxy that the environment names already stays behind it. StartError: what the proxy said instead.
    """
    ca = trust.authority()
    command = [str(program("mitmweb" if web else "mitmdump")), "-s", str(script)]
    command += ["--listen-host", "127.0.0.1", "--listen-port", "0", "--set", "sidestep_tunnel_others=true"]
    if web:
        command += ["--set", f"web_port={_free_port()}", "--set", "web_open_browser=false"]
    else:
        command += ["--set", "flow_detail=0"]
    if config is not None:
        command += ["--set", f"sidestep_config={config.absolute()}"]
    surroundings = {**env, "PYTHONUNBUFFERED": "1"}
    behind, secret = upstream(env)
    if behind is not None:
        command += ["--mode", f"upstream:{behind}"]
        if secret is not None:
            surroundings[UPSTREAM_AUTH] = secret
    if any(env.get(name) for name in trust.BUNDLE_VARIABLES):
        # Whoever stands behind may have an authority of its own.
        command += ["--set", f"ssl_verify_upstream_trusted_ca={trust.bundle(ca, env)}"]
    folder = Path(platformdirs.user_log_dir("sidestep"))
    folder.mkdir(parents=True, exist_ok=True)
    _forget_old_logs(folder)
    log = folder / f"run-{os.getpid()}.log"
    with log.open("wb") as out:
        # A session of its own: a Ctrl-C in the terminal is for the command.
        process = subprocess.Popen(  # noqa: S603  # mitmproxy itself, without a shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=surroundings,
            start_new_session=True,
        )
    try:
        found = _wait_until_it_listens(process, log, web=web)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return Proxy(process, log, int(found[0]), found[1])


def _wait_until_it_listens(process: subprocess.Popen[bytes], log: Path, *, web: bool) -> tuple[str, str | None]:
    end = time.monotonic() + START_SECONDS
    while True:
        ended = process.poll() is not None
        said = log.read_text("utf-8", "replace")
        port, page = _LISTENING.search(said), _WEB.search(said)
        if port is not None and (page is not None or not web) and not ended:
            return port[1], None if page is None else page[1]
        if ended or time.monotonic() > end:
            what = "ended" if ended else f"was not ready after {START_SECONDS:.0f} s"
            raise StartError(f"the proxy {what}; it said ({log}):\n{said.strip()}")
        time.sleep(LOOK_SECONDS)


def upstream(env: Mapping[str, str]) -> tuple[str | None, str | None]:
    """The proxy that the environment names, and its `user:password`. StartError for one that cannot be used."""
    names = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    name = next((n for n in names if env.get(n, "").strip()), None)
    if name is None:
        return None, None
    text = env[name].strip()
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port = parts.port
    except ValueError:
        raise StartError(f"{name}: expected the URL of a proxy, found one that cannot be read") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise StartError(f"{name}: expected the URL of an http or https proxy, found {parts.scheme}://…")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    secret = None
    if parts.username is not None:
        secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return f"{parts.scheme}://{host}:{port or (443 if parts.scheme == 'https' else 80)}", secret


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _forget_old_logs(folder: Path, keep: int = 20) -> None:
    logs = sorted(folder.glob("run-*.log"), key=lambda path: path.stat().st_mtime)
    for path in logs[:-keep]:
        path.unlink(missing_ok=True)


# --- the command


class Signals:
    """While it lasts, signals are for the command; those that come before there is one wait for it.

    State: those that wait, how to send one on, the handlers from before.
    """

    def __init__(self) -> None:
        self.waiting: list[int] = []
        self._send: Callable[[int], None] | None = None
        self._terminal = sys.stdin is not None and sys.stdin.isatty()
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        for name in _FORWARDED:
            if (number := getattr(signal, name, None)) is not None:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self._send is None:
            self.waiting.append(number)
        elif not (self._terminal and signal.Signals(number).name in _FROM_THE_TERMINAL):
            self._send(number)

    def give_to(self, child: subprocess.Popen[bytes]) -> None:
        self._send = child.send_signal
        while self.waiting:
            self._send(self.waiting.pop(0))


def run(command: Sequence[str], env: Mapping[str, str], signals: Signals) -> int:
    """Run a command in this terminal; its exit code, 128 and the number for a signal."""
    if signals.waiting:
        return 128 + signals.waiting[0]
    try:
        child = subprocess.Popen(command, env=dict(env))  # noqa: S603  # the very command that was asked for
    except FileNotFoundError:
        print(f"sidestep: {command[0]}: command not found", file=sys.stderr)  # noqa: T201
        return 127
    except OSError as e:
        print(f"sidestep: {command[0]}: {e.strerror}", file=sys.stderr)  # noqa: T201
        return 126
    signals.give_to(child)
    code = child.wait()
    return 128 - code if code < 0 else code


def closing_line(summary: Mapping[str, object] | None, log: Path) -> str:
    """What was rerouted, in one line."""
    if summary is None:
        return f"sidestep: the proxy had ended before the command; it said: {log}"
    calls, failed = summary.get("calls", 0), summary.get("failed", 0)
    moves = summary.get("rerouted")
    moves = moves if isinstance(moves, list) else []
    text = f"sidestep: {calls} call{'' if calls == 1 else 's'}, {sum(m['count'] for m in moves)} rerouted"
    if moves:
        text += " (" + ", ".join(f"{m['from']} → {m['to']} {m['count']}" for m in moves) + ")"
    return f"{text}, {failed} failed" if failed else text
