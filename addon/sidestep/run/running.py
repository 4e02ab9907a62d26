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
from typing import Any

from sidestep import no_proxy
from sidestep.config.locating import choose, places
from sidestep.config.problems import ConfigError
from sidestep.config.settings import Settings
from sidestep.run import environment, trust
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
    if passed := no_proxy.passed_by(env, bases):
        say(f"calls to {', '.join(passed)} go past Sidestep: NO_PROXY says so")
    variables = environment.variables(env, proxy.port, trusted, intercepted=intercepted)
    held = max((p.attempts.wait_for_reset_seconds for p in settings.providers), default=0)
    child_env = {**environment.for_the_command(env), **variables, **environment.time_limits(env, held)}
    # Blocked from here on, so that none gets lost between the start and the wait.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    proxy.listen(at_once=not sys.stderr.isatty())
    for line in proxy.serves.splitlines():
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
    if report is not None and not summary.get("calls"):
        places = ", ".join(sorted(intercepted)) or "any host: there is no route"
        say(
            f"no call was seen to {places}. Programs that take no proxy from the environment (Node.js before 22.21) "
            "need a base URL; sidestep doctor looks for other causes"
        )
    for each in summary.get("providers", ()):
        say(spent(each))
    if options.keep and report is not None:
        proxy.leave()
    if proxy.failed and not proxy.left:
        say(f"the proxy's log: {proxy.log}")
    say("the proxy ended before the command" if report is None else _closing_line(report))
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


def spent(told: Mapping[str, Any]) -> str:
    """What one provider has answered, and what for where that is known."""
    count, tokens, cost = told["answers"], told["tokens"], told["cost"]
    line = f"{told['name']} gave {count} answer{'' if count == 1 else 's'}"
    if any(tokens.values()):
        cached = f" ({tokens['cached']:,} from the cache)" if tokens["cached"] else ""
        line += f": {tokens['input']:,} tokens in{cached}, {tokens['output']:,} out"
    line += f", ${cost:.4f}" if cost else ""
    return line + (f", ${told['saved']:.4f} saved by the cache" if told["saved"] >= 0.0001 else "")


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


# --- signals


# --- the proxy
