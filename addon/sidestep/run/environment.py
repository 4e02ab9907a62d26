"""The environment variables that send a program through the proxy and let it trust it.

Pure: an environment comes in, the variables to set come out, in the order in which they are shown.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from urllib.parse import unquote, urlsplit

from sidestep.config import keys
from sidestep.no_proxy import no_proxy
from sidestep.run.trust import BUNDLE_VARIABLES, JAVA_PASSWORD, Trust

_OURS_IN_JAVA = re.compile(
    r"-D(?:https?\.(?:proxyHost|proxyPort|nonProxyHosts)|javax\.net\.ssl\.trustStore(?:Password|Type)?)="
)
_JAVA_WORD = re.compile(r"""(?:[^\s"']|"[^"]*"|'[^']*')+""")

HOLDERS_WORD = "SIDESTEP_TOKEN"
"""Holds what those who hold circuits by hand must know, where a user has set it."""


def variables(env: Mapping[str, str], port: int, trust: Trust, *, intercepted: Collection[str] = ()) -> dict[str, str]:
    """What to set for a proxy on this loopback port. `intercepted`: hosts that must not be passed by."""
    url = f"http://127.0.0.1:{port}"
    found: dict[str, str] = {}
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        found[name] = found[name.lower()] = url
    passed_by = no_proxy(env, intercepted)
    found["NO_PROXY"] = found["no_proxy"] = ",".join(passed_by)
    for name in BUNDLE_VARIABLES:
        found[name] = str(trust.bundle)
    found["NODE_USE_ENV_PROXY"] = "1"
    if trust.java is not None:  # without trust the proxy would only be in its way
        found["JAVA_TOOL_OPTIONS"] = java_options(env.get("JAVA_TOOL_OPTIONS", ""), port, trust.java, passed_by)
    return found


TIME_LIMITS_MS = {"API_TIMEOUT_MS": 600_000}
"""Variables by which programs are told how long an answer may take, with what it may by default: Claude Code's
(code.claude.com/docs/en/env-vars)."""


def time_limits(env: Mapping[str, str], held_seconds: float) -> dict[str, str]:
    """What to set so that a program waits for a call that is held for so long. What the user has set stays."""
    if not held_seconds:
        return {}
    return {name: str(usual + round(held_seconds * 1000)) for name, usual in TIME_LIMITS_MS.items() if name not in env}


def for_the_command(env: Mapping[str, str]) -> dict[str, str]:
    """What a command is given of an environment: all but the keys that are for Sidestep alone, and the token with which
    circuits are held. An app that finds a key may leave its plan for it."""
    return {name: value for name, value in env.items() if not (keys.is_for_sidestep(name) or name == HOLDERS_WORD)}


def java_options(users: str, port: int, store: PurePath, passed_by: Collection[str]) -> str:
    """JAVA_TOOL_OPTIONS: the user's own, then ours."""
    kept = [word for word in _JAVA_WORD.findall(users) if not _OURS_IN_JAVA.match(word.lstrip("\"'"))]
    hosts: list[str] = []
    for host in passed_by:
        if host == "*":
            hosts.append(host)
        elif host == "127.0.0.1":
            hosts.append("127.*")
        elif host == "::1":
            hosts.append("[::1]")
        elif "/" not in host:
            name = host.removeprefix("*").removeprefix(".")
            hosts += [name, f"*.{name}"] if host in (name, f".{name}") and host != "localhost" else [name]
    options = [f"-D{scheme}.proxy{key}" for scheme in ("http", "https") for key in ("Host=127.0.0.1", f"Port={port}")]
    options += [
        f"-Dhttp.nonProxyHosts={'|'.join(hosts)}",
        f"-Djavax.net.ssl.trustStore={store}",
        "-Djavax.net.ssl.trustStoreType=PKCS12",
        f"-Djavax.net.ssl.trustStorePassword={JAVA_PASSWORD}",
    ]
    return " ".join([*kept, *(f'"{o}"' if " " in o else o for o in options)])


@dataclass(frozen=True, slots=True)
class Upstream:
    """A proxy that the user had already. `auth` is `user:password`, apart from what is shown."""

    url: str
    auth: str | None = field(repr=False)


class UpstreamError(Exception):
    """The user's proxy is none that mitmproxy can go through."""


def upstream(env: Mapping[str, str]) -> Upstream | None:
    """The proxy that HTTPS calls go through already."""
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        if text := env.get(name, "").strip():
            return _upstream(name, text)
    return None


def _upstream(name: str, text: str) -> Upstream:
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port = parts.port
    except ValueError:
        raise UpstreamError(f"expected the URL of a proxy in {name}, found something else") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        found = f"{parts.scheme}://…" if parts.hostname else "something else"
        raise UpstreamError(
            f"expected an http:// or https:// proxy in {name}, for mitmproxy goes through no other, found {found}; "
            "to go without it, unset it for this command"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    auth = None
    if parts.username is not None:
        auth = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return Upstream(f"{parts.scheme}://{host}:{port or (443 if parts.scheme == 'https' else 80)}", auth)


# --- for a shell


def _sh(name: str, value: str) -> str:
    return f"export {name}={shlex.quote(value)}"


def _fish(name: str, value: str) -> str:
    # Inside single quotes fish knows two escapes only.
    text = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"set -gx {name} '{text}'"


def _powershell(name: str, value: str) -> str:
    text = value.replace("'", "''")
    return f"$env:{name} = '{text}'"


_LINES: dict[str, Callable[[str, str], str]] = {"sh": _sh, "fish": _fish, "powershell": _powershell}
_UNSET = {"sh": "unset {}", "fish": "set -e {}", "powershell": "Remove-Item Env:{}"}
SHELLS = (*_LINES, "json")


def phrase(found: Mapping[str, str], shell: str, *, unset: bool = False) -> str:
    """The variables as a text that this shell evaluates, or as JSON. `unset`: it takes them away."""
    if shell == "json":
        return json.dumps(dict(found), indent=1)
    names = [*found]
    if shell == "powershell":
        # Its variables do not tell upper from lower case.
        names = [n for n in names if n == n.upper()]
    return "\n".join(_UNSET[shell].format(name) if unset else _LINES[shell](name, found[name]) for name in names)
