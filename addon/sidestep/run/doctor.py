"""`sidestep doctor`: what may keep an app's calls from going through Sidestep, or the proxy from starting; the cure."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sidestep import no_proxy, runtime
from sidestep.config import keys
from sidestep.config.locating import choose, places
from sidestep.config.problems import ConfigError
from sidestep.config.settings import Settings
from sidestep.run import closing, environment, trust

NODE_WITH_PROXY = (24, 0)
"""The first Node.js that goes through a proxy when `NODE_USE_ENV_PROXY` is set; 22.21 has it, too."""
NODE_22_WITH_PROXY = (22, 21)
ASK_SECONDS = 5.0
MITM_OPTIONS = ("allow_hosts", "ignore_hosts")


@dataclass(frozen=True, slots=True)
class Finding:
    """`ok`: None for a note, which may be as the user means it."""

    ok: bool | None
    text: str
    cure: str = ""


def examine(env: Mapping[str, str], port: int, confdir: Path) -> Iterator[Finding]:
    """All that was looked at, in the order in which it matters."""
    settings = None
    try:
        chosen = choose(places(""))
        settings = chosen.settings(env)
        if chosen.untrusted is not None:
            yield Finding(None, str(chosen.untrusted))
        yield Finding(True, f"configuration: {settings.source}")
    except ConfigError as e:
        yield Finding(False, f"the configuration has problems: {e}", "sidestep check tells them all")
    if settings is not None:
        yield from _providers(settings, env)
    yield from _ca(env, confdir)
    yield from _proxies(env, port, settings)
    yield from _port(port)
    yield from _node(env)
    yield from _mitmproxy(confdir)


def _providers(settings: Settings, env: Mapping[str, str]) -> Iterator[Finding]:
    for name, is_set in keys.of_catalog(env).items():
        if is_set:
            yield Finding(True, f"{name} is set")
    alone = [route for route in settings.routes if len(route.providers) == 1]
    for route in settings.routes:
        if route not in alone:
            yield Finding(True, f"{route.name} calls may go to {', '.join(p.name for p in route.providers)}")
    if alone:
        yield Finding(
            None,
            f"nothing can stand in for {', '.join(route.providers[0].name for route in alone)}",
            "set the key of another provider (sidestep providers lists them), or write a configuration: sidestep init",
        )


def _ca(env: Mapping[str, str], confdir: Path) -> Iterator[Finding]:
    ca = trust.ca_file(confdir)
    if not ca.exists():
        yield Finding(
            None, f"mitmproxy has no CA at {ca} yet", "its first start makes it, or: sidestep env --create-ca"
        )
        return
    yield Finding(True, f"mitmproxy's CA: {ca}")
    ours = _pem(ca)
    named: dict[str, list[str]] = {}
    for name in trust.BUNDLE_VARIABLES:
        if value := env.get(name):
            named.setdefault(value, []).append(name)
    for value, names in named.items():
        name = ", ".join(names)
        bundle = _pem(Path(value).expanduser())
        if bundle is None:
            yield Finding(
                False, f"{name}: {value} cannot be read", f"unset {' '.join(names)}, or name a file that is there"
            )
        elif ours is not None and ours.strip() in bundle:
            yield Finding(True, f"{value} holds it ({name})")
        else:
            yield Finding(
                None,
                f"{value}, which this shell's programs trust, does not hold it ({name})",
                'sidestep run and eval "$(sidestep env)" give programs a bundle that holds both',
            )


def _pem(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None


def _proxies(env: Mapping[str, str], port: int, settings: Settings | None) -> Iterator[Finding]:
    running = {r.url for r in runtime.running()}
    for each in runtime.running():
        yield Finding(True, f"a proxy with Sidestep runs at {each.url} ({each.source})")
    try:
        upstream = environment.upstream(env)
    except environment.UpstreamError as e:
        yield Finding(False, str(e), "unset it for the command, or name an http:// proxy")
        return
    if upstream is None:
        yield Finding(
            None, "this shell sends nothing through a proxy", 'sidestep run COMMAND, or eval "$(sidestep env)"'
        )
        return
    address = re.sub(r"\A\w+://", "", upstream.url)
    host, _, number = address.rpartition(":")
    is_local = host in ("127.0.0.1", "localhost", "[::1]")
    if is_local and (upstream.url in running or int(number) == port):
        if runtime.answers(int(number)):
            yield Finding(True, f"this shell's calls go through {upstream.url}")
        else:
            yield Finding(
                False,
                f"this shell sends its calls to {upstream.url}, where nobody listens: each of them fails",
                "start the proxy (sidestep dump), or undo it: unset HTTP_PROXY HTTPS_PROXY ALL_PROXY "
                "http_proxy https_proxy all_proxy",
            )
    else:
        reached = runtime.answers(int(number), host.strip("[]"))
        yield Finding(
            reached,
            f"this shell has a proxy already, {upstream.url}"
            + ("; sidestep run goes through it" if reached else ", which does not answer"),
            "" if reached else "unset HTTPS_PROXY, or ask who runs it",
        )
    if settings is not None:
        bases = {(base.host, base.port) for route in settings.routes for base in route.intercepts}
        if passed := no_proxy.passed_by(env, bases):
            yield Finding(
                None, f"NO_PROXY lets calls to {', '.join(passed)} go past a proxy", "take them out of NO_PROXY"
            )


def _port(port: int) -> Iterator[Finding]:
    if any(r.url.endswith(f":{port}") for r in runtime.running()):
        return
    if runtime.answers(port):
        yield Finding(
            False,
            f"another program listens on port {port}",
            f"start the proxy on another one (sidestep dump --listen-port {port + 1}; sidestep env --port {port + 1})",
        )
    else:
        yield Finding(True, f"port {port} is free")


def _node(env: Mapping[str, str]) -> Iterator[Finding]:
    program = shutil.which("node", path=env.get("PATH"))
    found = None if program is None else _version_of_node(program)
    if found is not None:
        text, fine = found
        told = f"Node.js {text}" + ("" if fine else " does not go through a proxy by itself")
        yield Finding(True if fine else None, told, "" if fine else closing.NODE_CURE)


def _version_of_node(program: str) -> tuple[str, bool] | None:
    """Its version, and whether it goes through a proxy that its environment names."""
    try:
        told = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=ASK_SECONDS)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.match(r"v(\d+)\.(\d+)", told.stdout)
    if found is None:
        return None
    version = int(found[1]), int(found[2])
    return told.stdout.strip(), version >= NODE_WITH_PROXY or NODE_22_WITH_PROXY <= version < (23, 0)


def old_node_of(program: str, env: Mapping[str, str]) -> str:
    """The version of the Node.js that runs a program, where it does not go through a proxy by itself; else empty."""
    path = Path(program)
    try:
        with path.open("rb") as file:
            first = file.readline(200)
    except OSError:
        return ""
    if path.name != "node":
        if not (first.startswith(b"#!") and b"node" in first):
            return ""
        program = shutil.which("node", path=env.get("PATH")) or ""
    found = _version_of_node(program) if program else None
    return "" if found is None or found[1] else found[0]


def _mitmproxy(confdir: Path) -> Iterator[Finding]:
    text = _pem(trust.folder_of(confdir) / "config.yaml")
    for name in MITM_OPTIONS:
        if text and re.search(rf"(?m)^{name}[ \t]*:(?![ \t]*\[\s*\])", text):
            yield Finding(
                None,
                f"mitmproxy's own config.yaml sets {name}: hosts that it leaves out are not intercepted",
                f"see that the hosts of your providers are not among them, or take {name} out",
            )
