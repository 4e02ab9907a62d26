"""`sidestep run`: a proxy of its own for one command, which gets the terminal, the signals and its exit code.

Processes and files; what the command's environment holds is `environment`, and what the proxy says comes from
`companion`.
"""

from __future__ import annotations

import errno
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from sidestep.config.locating import UPSTREAM_AUTH, find_config, load_settings
from sidestep.config.problems import ConfigError
from sidestep.config.settings import Settings
from sidestep.run import environment, trust
from sidestep.run.environment import CONTROL_FD, Upstream, UpstreamError

OURS_FAILED = 125
"""Exit code when the command was not started because of us, as of `env`, `nohup` and `timeout`."""
NOT_EXECUTABLE = 126
NOT_FOUND = 127

START_SECONDS = 60.0
REPORT_SECONDS = 5.0
STOP_SECONDS = 5.0
LOG_LINES = 20
"""How much of the log is shown where the proxy did not say itself why it ended."""


class RunError(Exception):
    """Why the command was not started."""

    def __init__(self, message: str, code: int = OURS_FAILED) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Wishes:
    """What was asked for on the command line."""

    web: bool = False
    keep: bool = False
    config: str = ""
    confdir: Path = trust.DEFAULT_CONFDIR


def run(command: Sequence[str], wishes: Wishes, script: Path, env: Mapping[str, str]) -> int:
    """Run the command behind a proxy of its own; its exit code."""
    try:
        if os.name != "posix":
            raise RunError("sidestep run needs Linux or macOS; elsewhere: sidestep dump, and sidestep env")
        _open_closed_streams()
        program = _find(command[0], env)
        settings = _settings(wishes, env)
        trust.check_place(wishes.confdir)
        with _interruptible():
            proxy = Proxy.start(wishes, script, env)
            try:
                return _run(proxy, program, command, wishes, settings, env)
            finally:
                proxy.stop()
    except trust.TrustError as e:
        _tell(str(e))
        return OURS_FAILED
    except RunError as e:
        _tell(str(e))
        return e.code
    except _Signalled as e:
        return 128 + e.number


def _find(name: str, env: Mapping[str, str]) -> str:
    """The program's path; before anything is started for it."""
    found = shutil.which(name, path=env.get("PATH", os.defpath))
    if found is not None:
        return found
    if shutil.which(name, mode=os.F_OK, path=env.get("PATH", os.defpath)) or (os.sep in name and Path(name).is_dir()):
        raise RunError(f"{name} is not executable", NOT_EXECUTABLE)
    raise RunError(f"{name or "''"}: no such command", NOT_FOUND)


def _open_closed_streams() -> None:
    """Whoever started us may have closed one of the three: what is opened next would take its number, and go to the
    command as such."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # it stays until the end


def _settings(wishes: Wishes, env: Mapping[str, str]) -> Settings:
    try:
        return load_settings(find_config(wishes.config), env)
    except ConfigError as e:
        raise RunError(str(e)) from None


def _run(
    proxy: Proxy,
    program: str,
    command: Sequence[str],
    wishes: Wishes,
    settings: Settings,
    env: Mapping[str, str],
) -> int:
    trusted = trust.prepare(wishes.confdir, env)
    if proxy.web is not None:
        _tell(f"mitmweb is at {proxy.web}")
    hosts = {base.host for route in settings.routes for base in route.intercepts}
    bases = {(base.host, base.port) for route in settings.routes for base in route.intercepts}
    if passed := environment.passed_by(env, bases):
        _tell(f"calls to {', '.join(passed)} go past Sidestep: NO_PROXY says so")
    child_env = {**env, **environment.variables(env, proxy.port, trusted, intercepted=hosts)}
    # Blocked from here on, so that none gets lost between the start and the wait.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    proxy.listen(at_once=not sys.stderr.isatty())
    try:
        child = _spawn(program, command, child_env, before)
    except FileNotFoundError:
        raise RunError(f"{command[0]}: the program that it names in its first line is not there", NOT_FOUND) from None
    except OSError as e:
        raise RunError(f"{command[0]} cannot be run: {e.strerror}", NOT_EXECUTABLE) from None
    code = _wait(child)
    report = proxy.report()
    for error in proxy.unsaid:
        _tell(error)
    if wishes.keep and report is not None:
        proxy.leave()
    if proxy.failed and not proxy.left:
        _tell(f"the proxy's log: {proxy.log}")
    _tell("the proxy ended before the command" if report is None else _closing_line(report))
    if proxy.left:
        _tell(
            f"the proxy stays at http://127.0.0.1:{proxy.port}, for other apps too: "
            f'eval "$(sidestep env --port {proxy.port})"; to stop it: kill {proxy.pid}; its log: {proxy.log}'
        )
    return code


def _spawn(program: str, command: Sequence[str], env: Mapping[str, str], mask: Collection[int]) -> int:
    """Start the command, with these signals blocked; its number."""
    try:
        return os.posix_spawn(program, [*command], env, setsigmask=mask, setsigdef=_IGNORED_BY_PYTHON)
    except OSError as e:
        if e.errno != errno.ENOEXEC:
            raise
    # A script that names no interpreter is the shell's, as for `execvp` and every shell.
    script = ["sh", program, *command[1:]]
    return os.posix_spawn("/bin/sh", script, env, setsigmask=mask, setsigdef=_IGNORED_BY_PYTHON)


def _closing_line(report: Mapping[str, Any]) -> str:
    summary = report["summary"] or {"calls": 0, "failed": 0, "rerouted": []}
    calls, rerouted = summary["calls"], summary["rerouted"]
    line = f"{calls} call{'' if calls == 1 else 's'}"
    line += f", {sum(r['count'] for r in rerouted)} rerouted, {summary['failed']} failed"
    if rerouted:
        line += f" ({', '.join(f'{r["from"]} → {r["to"]} {r["count"]}' for r in rerouted)})"
    elif not report.get("connections"):
        line += " (nothing came through the proxy)"
    return line


def _tell(text: str) -> None:
    text = text.removeprefix("sidestep: ")
    with suppress(OSError):
        print(f"sidestep: {text}", file=sys.stderr, flush=True)  # noqa: T201


# --- signals

_FORWARDED = frozenset(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGWINCH", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)
_WATCHED = _FORWARDED | ({signal.SIGCHLD} if hasattr(signal, "SIGCHLD") else frozenset())
_BY_TERMINAL = frozenset(getattr(signal, n) for n in ("SIGINT", "SIGQUIT", "SIGWINCH") if hasattr(signal, n))
_IGNORED_BY_PYTHON = [getattr(signal, n) for n in ("SIGPIPE", "SIGXFSZ") if hasattr(signal, n)]


class _Signalled(BaseException):
    """A signal that came before there was a command to give it to."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def _interruptible() -> Iterator[None]:
    """Until the command runs, signals end the start; what was begun is undone on the way."""

    def leave(number: int, _: object) -> NoReturn:
        raise _Signalled(number)

    deadly = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    before = {n: signal.signal(n, leave) for n in deadly if signal.getsignal(n) is not signal.SIG_IGN}
    # Where the default is to ignore, a blocked signal may not even be kept.
    before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        while signal.sigpending() & _WATCHED:
            signal.sigwait(_WATCHED)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _wait(child: int) -> int:
    """Wait for the child, giving it every signal that it has not had yet; its exit code as a shell tells it."""
    while True:
        number, had = _next_signal()
        if number == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
        elif not had:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(child, number)


def _next_signal() -> tuple[int, bool]:
    """A signal, and whether the terminal sent it: then the child, in the same group, has had it too."""
    if hasattr(signal, "sigwaitinfo"):
        info = signal.sigwaitinfo(_WATCHED)
        # Above zero: sent by the kernel, as the terminal's signals are.
        return info.si_signo, info.si_code > 0
    number = signal.sigwait(_WATCHED)
    return number, number in _BY_TERMINAL and _in_foreground()


def _in_foreground() -> bool:
    try:
        terminal = os.open(os.ctermid(), os.O_RDONLY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


# --- the proxy


class Proxy:
    """mitmdump or mitmweb in a session of its own. State: its process, the socket to its companion, errors that it
    reported and nobody was told yet."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket, log: Path) -> None:
        self.process = process
        self.log = log
        self.port = 0
        self.web: str | None = None
        self.left = False
        self.unsaid: list[str] = []
        self._control = control
        self._lines = control.makefile("rb")
        self._reports: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._failed = False

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def failed(self) -> bool:
        """Its log is worth reading."""
        return self._failed

    @classmethod
    def start(cls, wishes: Wishes, script: Path, env: Mapping[str, str]) -> Proxy:
        """Start it and wait until it listens. RunError: why it did not."""
        try:
            upstream = environment.upstream(env)
        except UpstreamError as e:
            raise RunError(str(e)) from None
        ours, theirs = socket.socketpair()
        proxy_env = {**env, CONTROL_FD: str(theirs.fileno()), "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}
        proxy_env[environment.FORCED_OPTIONS] = json.dumps(_forced(wishes))
        if upstream is not None:
            proxy_env[environment.DIRECT_HOSTS] = environment.users_no_proxy(env)
            if upstream.auth is not None:
                proxy_env[UPSTREAM_AUTH] = upstream.auth
        log, path = tempfile.mkstemp(prefix="sidestep-", suffix=".log")
        with theirs, os.fdopen(log, "wb") as file:
            process = subprocess.Popen(  # noqa: S603  # mitmproxy of this very installation
                _command(wishes, script, env, upstream),
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
                    self.port, self.web = message["ready"]["port"], message["ready"]["web"]
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
        """Take what the companion says from now on. `at_once`: errors are shown as they come; not on a terminal,
        which the command may be drawing on."""
        for error in self.unsaid if at_once else ():
            _tell(error)
        if at_once:
            self.unsaid.clear()
        threading.Thread(target=self._listen, args=(_tell if at_once else self.unsaid.append,), daemon=True).start()

    def _listen(self, show: Callable[[str], None]) -> None:
        seen: set[str] = set()
        for message in self._messages():
            if "report" in message:
                self._reports.put(message["report"])
                continue
            self._failed = self._failed or "error" in message
            for text in message.values():
                if text not in seen:
                    seen.add(text)
                    show(text)
        self._reports.put(None)

    def report(self) -> dict[str, Any] | None:
        """What came of the calls; None if the proxy is gone."""
        try:
            self._control.sendall(b"report\n")
            report = self._reports.get(timeout=REPORT_SECONDS)
        except (OSError, queue.Empty):
            report = None
        self._failed = self._failed or report is None
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


def _command(wishes: Wishes, script: Path, env: Mapping[str, str], upstream: Upstream | None) -> list[str]:
    tool = "mitmweb" if wishes.web else "mitmdump"
    companion = Path(__file__).with_name("companion.py")
    # -P: nothing in the folder that the command is started in is taken for a module of mitmproxy's.
    command = [sys.executable, "-P", "-c", f"from mitmproxy.tools.main import {tool}; {tool}()"]
    command += ["--server", "--listen-host", "127.0.0.1", "--listen-port", "0"]
    command += ["--mode", "regular" if upstream is None else f"upstream:{upstream.url}"]
    command += ["-s", str(companion), "-s", str(script), "--set", f"confdir={wishes.confdir.expanduser()}"]
    if wishes.web:
        # Streamed answers are kept to be looked at.
        command += ["--set", "store_streamed_bodies=true"]
        command += ["--no-web-open-browser", "--web-host", "127.0.0.1", "--web-port", str(_free_port())]
    roots = trust.upstream_roots(wishes.confdir, env)
    return command if roots is None else [*command, "--set", f"ssl_verify_upstream_trusted_ca={roots}"]


def _forced(wishes: Wishes) -> dict[str, Any]:
    """mitmproxy's options that must be as they are here: with `--set` the user's own config.yaml, made for other uses
    of mitmproxy, would have the last word."""
    options: dict[str, Any] = {"connection_strategy": "lazy", "sidestep_tunnel_others": "true"}
    if wishes.config:
        options["sidestep_config"] = str(find_config(wishes.config))
    if not wishes.web:
        # Addresses of calls can bear keys: they do not belong into a log.
        options["flow_detail"] = 0
    return options


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
