"""`sidestep run`: a proxy of its own for one command, which gets the terminal, the signals and its exit code.

Processes and files; what the command's environment holds is `environment`, and what the proxy says comes from
`companion`.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sidestep import no_proxy
from sidestep.config.locating import choose, places
from sidestep.config.problems import ConfigError
from sidestep.config.settings import Settings
from sidestep.run import closing, doctor, environment, trust
from sidestep.run.proxy import INTERNAL_FAILURE, Proxy, RunError, RunOptions, say
from sidestep.run.signals import IGNORED_BY_PYTHON, WATCHED, Signalled, interruptible, wait_for

NOT_EXECUTABLE = 126
NOT_FOUND = 127


def run(command: Sequence[str], options: RunOptions, script: Path, env: Mapping[str, str]) -> int:
    """Run the command behind a proxy of its own; its exit code."""
    try:
        if os.name != "posix":
            raise RunError("sidestep run needs Linux or macOS; elsewhere: sidestep dump, and sidestep env")
        program = _find(command[0], env)
        settings = _settings(options, env)
        options = _with_place_for_the_ca(options)
        with interruptible():
            proxy = Proxy.start(options, script, env)
            try:
                return _run(proxy, program, command, options, settings, env)
            finally:
                proxy.stop()
    except trust.TrustError as e:
        say(str(e))
        return INTERNAL_FAILURE
    except RunError as e:
        say(str(e))
        return e.code
    except Signalled as e:
        return 128 + e.number


def _with_place_for_the_ca(options: RunOptions) -> RunOptions:
    """TrustError: the folder that was asked for cannot keep it."""
    try:
        trust.check_place(options.confdir)
        return options
    except trust.TrustError as e:
        if options.confdir != trust.DEFAULT_CONFDIR:
            raise
        # A home that cannot be written is usual in containers; the command alone has to trust this CA.
        other = replace(options, confdir=trust.another_place())
        trust.check_place(other.confdir)
        say(f"{str(e).partition(';')[0]}: it is kept in {other.confdir}")
        return other


def _find(name: str, env: Mapping[str, str]) -> str:
    """The program's path; before anything is started for it."""
    found = shutil.which(name, path=env.get("PATH", os.defpath))
    if found is not None:
        return found
    if shutil.which(name, mode=os.F_OK, path=env.get("PATH", os.defpath)) or (os.sep in name and Path(name).is_dir()):
        raise RunError(f"{name} is not executable", NOT_EXECUTABLE)
    raise RunError(f"{name or "''"}: no such command", NOT_FOUND)


def _settings(options: RunOptions, env: Mapping[str, str]) -> Settings:
    try:
        # Of a file that is not trusted the proxy tells.
        return choose(places(options.config)).settings(env)
    except ConfigError as e:
        raise RunError(str(e)) from None


def _run(
    proxy: Proxy,
    program: str,
    command: Sequence[str],
    options: RunOptions,
    settings: Settings,
    env: Mapping[str, str],
) -> int:
    trusted = trust.prepare(options.confdir, env)
    if proxy.web is not None:
        say(f"mitmweb is at {proxy.web}")
    intercepted = {base.host for route in settings.routes for base in route.intercepts}
    bases = {(base.host, base.port) for route in settings.routes for base in route.intercepts}
    passed = no_proxy.passed_by(env, bases)
    if passed and not options.quiet:
        say(f"calls to {', '.join(passed)} go past Sidestep: NO_PROXY says so")
    variables = environment.variables(env, proxy.port, trusted, intercepted=intercepted)
    held = max((p.attempts.wait_for_reset_seconds for p in settings.providers), default=0)
    child_env = {**environment.for_the_command(env), **variables, **environment.time_limits(env, held)}
    # Blocked from here on, so that none gets lost between the start and the wait.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    proxy.listen(at_once=not sys.stderr.isatty())
    for line in () if options.quiet else proxy.serves.splitlines():
        say(line)
    try:
        child = _spawn(program, command, child_env, before)
    except FileNotFoundError:
        raise RunError(f"{command[0]}: the program that it names in its first line is not there", NOT_FOUND) from None
    except OSError as e:
        raise RunError(f"{command[0]} cannot be run: {e.strerror}", NOT_EXECUTABLE) from None
    code = wait_for(child)
    report = proxy.report()
    for error in proxy.unsaid:
        say(error)
    summary = (report or {}).get("summary") or {}
    for cause in summary.get("causes", ()):
        if not proxy.has_told(cause["text"]):
            say(cause["text"] + (f" ({cause['count']} times)" if cause["count"] > 1 else ""))
    if options.keep and report is not None:
        proxy.leave()
    told = ["the proxy ended before the command"]
    if report is not None:
        old = "" if summary.get("calls") else doctor.old_node_of(program, env)
        told = [] if options.quiet else closing.lines(report, closing.Surroundings(intercepted, passed, old))
    *before_the_sum, last = told or [""]
    for line in before_the_sum:
        say(line)
    if proxy.failed and not proxy.left:
        say(f"the proxy's log: {proxy.log}")
    if last:
        say(last)
    if proxy.left:
        say(
            f"the proxy stays at http://127.0.0.1:{proxy.port}, for other apps too: "
            f'eval "$(sidestep env --port {proxy.port})"; to stop it: kill {proxy.pid}; its log: {proxy.log}'
        )
    return code


def _spawn(program: str, command: Sequence[str], env: Mapping[str, str], mask: Collection[int]) -> int:
    """Start the command, with these signals blocked; its number."""
    try:
        return os.posix_spawn(program, [*command], env, setsigmask=mask, setsigdef=IGNORED_BY_PYTHON)
    except OSError as e:
        if e.errno != errno.ENOEXEC:
            raise
    # A script that names no interpreter is the shell's, as for `execvp` and every shell.
    script = ["sh", program, *command[1:]]
    return os.posix_spawn("/bin/sh", script, env, setsigmask=mask, setsigdef=IGNORED_BY_PYTHON)
