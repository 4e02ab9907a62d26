"""Text → frozen settings, with every problem and the place it is at.

Pure but for `load`, which reads one file. The environment is an argument. Single values are read in `values`, the
tables of `providers` and `routes` in rooms of their own; what a setting does is elsewhere, and so is where the file
lies.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec.structs import replace

from sidestep.config import catalog, keys, local
from sidestep.config.fleet import FleetReader
from sidestep.config.lines import line_of, name_at
from sidestep.config.problems import ConfigError, Problem, in_words
from sidestep.config.providers import (
    CREDENTIAL_HEADERS,
    FRAMING_HEADERS,
    OWN_CREDENTIAL,
    PROVIDER_KEYS,
    TOKEN,
    chosen,
    spoken,
)
from sidestep.config.routes import RouteReader, dialects_of, intercepts_of, usual_intercepts, usual_routes
from sidestep.config.settings import DIALECT_NAMES, MODES, TABLES, Provider, ProxySettings, Route, Settings
from sidestep.config.urls import is_credential

MAX_FILE_BYTES = 4 << 20
_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?:\.(?!-)[a-z0-9_-]{1,63})*")
_TOP_KEYS = ("mode", "local", "providers", "routes", "proxy", "fleet", *TABLES)
_PLAIN_TABLES: dict[str, type[msgspec.Struct]] = {**TABLES, "proxy": ProxySettings}
_HOMES = {key: f"it belongs in [{name}]" for name, kind in _PLAIN_TABLES.items() for key in kind.__struct_fields__}
_HOMES |= {"mode": (top := "it belongs at the top of the file"), "local": top}


def load(path: Path, env: Mapping[str, str]) -> Settings:
    """The settings of a file. ConfigError: everything wrong with it."""
    return parse(text_of(path), env, str(path))


def text_of(path: Path) -> str:
    """The text of a file. ConfigError: it cannot be read."""
    source = str(path)
    try:
        with open(path, "rb", opener=_at_once) as file:
            os.set_blocking(file.fileno(), True)
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise _error(source, f"a file of at most {MAX_FILE_BYTES >> 20} MB", "a larger one")
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        found = "nothing there"
    except IsADirectoryError:
        found = "a folder"
    except UnicodeDecodeError as e:
        raise _error(source, "UTF-8 text", f"byte {e.object[e.start]:#04x} at offset {e.start}") from None
    except OSError as e:
        found = f"one that cannot be read: {e.strerror}"
    except ValueError as e:
        found = f"a path that cannot be read: {e}"
    raise _error(source, "a file", found)


def _at_once(path: str, flags: int) -> int:
    """A pipe without anybody at its other end would be waited for without end."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def parse(text: str, env: Mapping[str, str], source: str = "<config>") -> Settings:
    """The settings of a TOML text. ConfigError: everything wrong with it."""
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as e:
        where = f"at the end, line {text.count(chr(10)) + 1}"
        raise _error(source, "TOML", f"a mistake: {e}".replace("at end of document", where)) from None
    try:
        return _Reader(source, env).settings(data)
    except ConfigError as e:
        problems = e.problems
    found = (replace(p, line=line_of(text, p.path), name=name_at(data, p.path)) for p in problems)
    raise ConfigError(tuple(found))


def default(env: Mapping[str, str]) -> Settings:
    """What holds without any configuration: each dialect's own provider first, with the app's credential, then
    the catalog's providers whose keys are in the environment."""
    return _Reader("the built-in catalog", env).settings({"local": True})


def usual_providers(env: Mapping[str, str]) -> list[dict[str, Any]]:
    """As in a file: each dialect's own provider, those of plans, then the catalog's whose keys are set."""
    keyed = [name for name, entry in catalog.CATALOG.items() if keys.variable_of(name, entry, env) is not None]
    return [{"name": name} for name in dict.fromkeys((*DIALECT_NAMES, *catalog.PLANS, *keyed))]


def describe(settings: Settings) -> list[str]:
    """A line a route: where its calls, and so people's prompts, may go."""
    lines = [] if settings.routes else [f"no calls are routed: there are no [[providers]] in {settings.source}"]
    for route in settings.routes:
        targets = ", ".join(f"{p.name} ({p.base_url.host})" for p in route.providers)
        intercepts = ", ".join(str(b) for b in route.intercepts)
        lines.append(f"calls to {intercepts} may go to {targets} [{route.strategy}, {settings.mode}]")
    if (fleet := settings.fleet) is not None:
        secret = f"secret: {fleet.secret_from}"
        lines.append(f"what is known of providers is shared in group {fleet.group} by {fleet.place} ({secret})")
    return lines


def hosts(settings: Settings) -> list[str]:
    """Where calls, and so people's prompts, may go, each once."""
    return list(dict.fromkeys(p.base_url.authority for route in settings.routes for p in route.providers))


def _error(source: str, expected: str, found: str) -> ConfigError:
    return ConfigError((Problem(source, "", expected, found),))


class _Reader(RouteReader, FleetReader):
    """Walks a parsed file table by table. State: as of the bases."""

    homes = MappingProxyType({key: home for key, home in _HOMES.items() if key not in PROVIDER_KEYS})

    # --- the whole file

    def settings(self, data: dict[str, Any]) -> Settings:
        self.known_keys(data, "", _TOP_KEYS)
        mode = self.choice(data, "mode", "", MODES) or MODES[0]
        uses_local = self.value(data["local"], bool, "local") if "local" in data else False
        tables: dict[str, Any] = {name: self.table(kind(), data, name, "") for name, kind in TABLES.items()}
        proxy = self.table(ProxySettings(), data, "proxy", "")
        self.networks(proxy.allow_clients)
        self.additions(proxy)
        raw_providers = self.tables(data, "providers")
        raw_routes = self.tables(data, "routes")
        if "local" in data and raw_providers == raw_routes == []:
            raw_providers = usual_providers(self.env)
        providers, routes = self.targets(raw_providers, raw_routes, tables)
        fleet = self.fleet(data["fleet"], providers) if "fleet" in data else None
        if self.problems:
            raise ConfigError(tuple(self.problems))
        return Settings(
            source=self.source,
            mode=mode,
            providers=providers,
            routes=routes,
            local=self.local_servers(routes, providers, tables) if uses_local else (),
            proxy=proxy,
            fleet=fleet,
            **tables,
        )

    def targets(
        self,
        raw_providers: list[dict[str, Any]] | None,
        raw_routes: list[dict[str, Any]] | None,
        tables: dict[str, Any],
    ) -> tuple[tuple[Provider, ...], tuple[Route, ...]]:
        """Where calls may go, and by which routes. None: there is something else in place of the tables."""
        bases = {raw["name"]: spoken(raw) for raw in raw_providers or () if isinstance(raw.get("name"), str)}
        groups = [dialects_of(raw, bases) for raw in raw_routes or ()]
        usual = {dialect for raw in raw_providers or () for dialect in chosen(raw)}
        intercepts = intercepts_of(groups, raw_routes) if raw_routes else usual_intercepts(bases, usual)
        providers = self.providers(raw_providers or [], tables, intercepts)
        if raw_providers is None or raw_routes is None:
            return providers, ()
        if not raw_routes:
            return providers, usual_routes(providers, usual)
        return providers, self.routes(raw_routes, groups, providers, bases)

    def local_servers(
        self, routes: Sequence[Route], providers: Sequence[Provider], tables: dict[str, Any]
    ) -> tuple[Provider, ...]:
        """The servers of this machine that may be used once they answer, in the dialects that are routed."""
        named, dialects = {p.name for p in providers}, {r.dialect for r in routes}
        raw = local.tables(self.env, named)
        found = self.providers(raw, tables, usual_intercepts({r["name"]: spoken(r) for r in raw}, dialects))
        return tuple(p for p in found if p.dialect in dialects)

    def networks(self, networks: tuple[str, ...]) -> None:
        for i, network in enumerate(networks):
            try:
                ipaddress.ip_network(network, strict=False)
            except ValueError:
                self.problem(f"proxy.allow_clients[{i}]", "a network such as 10.0.0.0/8", in_words(network))

    def additions(self, proxy: ProxySettings) -> None:
        """What the `[proxy]` table adds to the names that are known."""
        for i, host in enumerate(proxy.hosts):
            if not _HOST.fullmatch(host):
                self.problem(f"proxy.hosts[{i}]", "a host name in lower case, without a port", in_words(host))
        for i, name in enumerate(proxy.forward_headers):
            where, lowered = f"proxy.forward_headers[{i}]", name.lower()
            if not TOKEN.fullmatch(name) or lowered in FRAMING_HEADERS:
                self.problem(where, "a header name", in_words(name))
            elif lowered in CREDENTIAL_HEADERS:
                self.problem(where, "a header that is no credential", in_words(name), OWN_CREDENTIAL)
        for i, name in enumerate(proxy.forward_parameters):
            where = f"proxy.forward_parameters[{i}]"
            if not name or set(name) & {*"?&=;#"} or not name.isprintable():
                self.problem(where, "the name of a query parameter", in_words(name))
            elif is_credential(name):
                self.problem(where, "a parameter that is no credential", in_words(name), OWN_CREDENTIAL)
