"""Text → frozen settings, with every problem and the place it is at.

Pure but for `load`, which reads one file. The environment is an argument. Single values are read in `values`; what a
setting does is elsewhere, and so is where the file lies.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sidestep.config import catalog, keys
from sidestep.config.problems import ConfigError, Problem, did_you_mean, in_words, kind_in_words, one_of
from sidestep.config.settings import (
    DIALECT_NAMES,
    MODES,
    STRATEGIES,
    TABLES,
    AtLeastOne,
    NotNegative,
    Positive,
    Price,
    Provider,
    ProxySettings,
    Route,
    Secret,
    Settings,
)
from sidestep.config.urls import BaseURL, is_credential
from sidestep.config.values import REFERENCE, Values

OWN_CREDENTIAL = "the app's own credential goes only to the host that the app addressed"

MAX_FILE_BYTES = 4 << 20
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A header name (RFC 9110, 5.6.2)."""
_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?:\.(?!-)[a-z0-9_-]{1,63})*")
_CREDENTIAL_HEADERS = ("authorization", "proxy-authorization", "cookie", "x-api-key", "x-goog-api-key", "api-key")
_FRAMING_HEADERS = (
    *("host", "content-length", "content-encoding", "transfer-encoding", "connection", "keep-alive"),
    *("te", "trailer", "upgrade", "expect"),
)


def load(path: Path, env: Mapping[str, str]) -> Settings:
    """The settings of a file. ConfigError: everything wrong with it."""
    return parse(text_of(path), env, str(path))


def text_of(path: Path) -> str:
    """The text of a file. ConfigError: it cannot be read."""
    source = str(path)
    try:
        with path.open("rb") as file:
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


def parse(text: str, env: Mapping[str, str], source: str = "<config>") -> Settings:
    """The settings of a TOML text. ConfigError: everything wrong with it."""
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as e:
        where = f"at the end, line {text.count(chr(10)) + 1}"
        raise _error(source, "TOML", f"a mistake: {e}".replace("at end of document", where)) from None
    return _Reader(source, env).settings(data)


def default(env: Mapping[str, str]) -> Settings:
    """What holds without any configuration: each dialect's own provider first, with the app's credential, then
    the catalog's providers whose keys are in the environment."""
    keyed = [name for name, entry in catalog.CATALOG.items() if _key_of(entry, env) is not None]
    names = dict.fromkeys((*DIALECT_NAMES, *keyed))
    return _Reader("the built-in catalog", env).settings({"providers": [{"name": name} for name in names]})


def describe(settings: Settings) -> list[str]:
    """A line a route: where its calls, and so people's prompts, may go."""
    lines = [] if settings.routes else [f"no calls are routed: there are no [[providers]] in {settings.source}"]
    for route in settings.routes:
        targets = ", ".join(f"{p.name} ({p.base_url.host})" for p in route.providers)
        intercepts = ", ".join(str(b) for b in route.intercepts)
        lines.append(f"calls to {intercepts} may go to {targets} [{route.strategy}, {settings.mode}]")
    return lines


def hosts(settings: Settings) -> list[str]:
    """Where calls, and so people's prompts, may go, each once."""
    return list(dict.fromkeys(p.base_url.authority for route in settings.routes for p in route.providers))


def _error(source: str, expected: str, found: str) -> ConfigError:
    return ConfigError((Problem(source, "", expected, found),))


def _key_of(entry: catalog.Entry, env: Mapping[str, str]) -> str | None:
    """The environment variable with the key of a catalog's provider."""
    return next((name for name in entry.env if keys.is_set(env, name)), None)


def _told(what: str, variables: Sequence[str]) -> str:
    return f"the environment variable {' or '.join(variables)} {what}" if variables else ""


_PROVIDER_KEYS = (
    *("name", "dialect", "base_url", "api_key", "auth", "models", "only", "drop_fields", "headers"),
    *("issuer", "weight", "price", "context_window"),
    *TABLES,
)
_ROUTE_KEYS = ("name", "intercept", "providers", "strategy")
_TOP_KEYS = ("mode", "providers", "routes", "proxy", *TABLES)


class _Reader(Values):
    """Walks a parsed file table by table. State: the problems met so far (in the base), and the
    providers that have some."""

    def __init__(self, source: str, env: Mapping[str, str]) -> None:
        super().__init__(source)
        self.env = env
        self.broken: set[str] = set()

    # --- the whole file

    def settings(self, data: dict[str, Any]) -> Settings:
        self.known_keys(data, "", _TOP_KEYS)
        mode = self.choice(data, "mode", "", MODES) or MODES[0]
        tables: dict[str, Any] = {name: self.table(kind(), data, name, "") for name, kind in TABLES.items()}
        proxy = self.table(ProxySettings(), data, "proxy", "")
        self.networks(proxy.allow_clients)
        self.additions(proxy)
        raw_providers = self.tables(data, "providers")
        raw_routes = self.tables(data, "routes")
        intercepts = _intercepts_by_provider(raw_providers or [], raw_routes or [])
        providers = self.providers(raw_providers or [], tables, intercepts)
        routes: tuple[Route, ...] = ()
        if raw_providers is not None and raw_routes is not None:
            names = [r["name"] for r in raw_providers if isinstance(r.get("name"), str)]
            routes = self.routes(raw_routes, providers, names) if raw_routes else _default_routes(providers)
        if self.problems:
            raise ConfigError(tuple(self.problems))
        return Settings(source=self.source, mode=mode, providers=providers, routes=routes, proxy=proxy, **tables)

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
            if not _TOKEN.fullmatch(name) or lowered in _FRAMING_HEADERS:
                self.problem(where, "a header name", in_words(name))
            elif lowered in _CREDENTIAL_HEADERS:
                self.problem(where, "a header that is no credential", in_words(name), OWN_CREDENTIAL)
        for i, name in enumerate(proxy.forward_parameters):
            where = f"proxy.forward_parameters[{i}]"
            if not name or set(name) & {*"?&=;#"} or not name.isprintable():
                self.problem(where, "the name of a query parameter", in_words(name))
            elif is_credential(name):
                self.problem(where, "a parameter that is no credential", in_words(name), OWN_CREDENTIAL)

    # --- providers

    def providers(
        self, raw_providers: list[dict[str, Any]], tables: dict[str, Any], intercepts: dict[str, set[BaseURL]]
    ) -> tuple[Provider, ...]:
        providers: list[Provider] = []
        first: dict[str, str] = {}
        for i, raw in enumerate(raw_providers):
            path = f"providers[{i}]"
            before = len(self.problems)
            self.known_keys(raw, path, _PROVIDER_KEYS)
            name = self.name(raw, path)
            if name is None:
                continue
            if name in first:
                self.problem(f"{path}.name", "a name of its own", f"{name!r} twice", f"{first[name]} has it too")
            first.setdefault(name, path)
            provider = self.provider(raw, path, name, tables, intercepts.get(name, set()))
            if len(self.problems) > before:
                self.broken.add(name)
            elif provider is not None:
                providers.append(provider)
        return tuple(providers)

    def name(self, raw: dict[str, Any], path: str) -> str | None:
        name = self.string(raw, "name", path)
        if name is None:
            if "name" not in raw:
                self.problem(f"{path}.name", "a name", "nothing")
            return None
        # It stands in response headers, in `a:503, b:200`.
        if (
            not name.strip()
            or name != name.strip()
            or not (name.isascii() and name.isprintable())
            or set(name) & {*",:"}
        ):
            self.problem(f"{path}.name", "a name of ASCII characters without commas and colons", in_words(name))
        return name

    def provider(
        self, raw: dict[str, Any], path: str, name: str, tables: dict[str, Any], intercepts: set[BaseURL]
    ) -> Provider | None:
        entry = catalog.CATALOG.get(name)
        dialect = self.choice(raw, "dialect", path, DIALECT_NAMES)
        if dialect is None and "dialect" not in raw:
            if entry is not None:
                dialect = entry.dialect
            else:
                self.problem(f"{path}.dialect", one_of(DIALECT_NAMES), "nothing")
        base_url = self.base_url(raw, path, name, entry)
        auth = self.auth(raw, path, entry, dialect)
        api_key = self.api_key(raw, path, entry, auth, base_url, intercepts)
        own_tables = {table: self.table(above, raw, table, path) for table, above in tables.items()}
        models = self.models(raw, path)
        only = self.strings(raw, "only", path)
        if only == ():
            self.problem(f"{path}.only", "at least one model", "an empty array")
        if only is None and entry is not None and entry.only is not None:
            # Who says what a model is called here means it to be asked for.
            only = (*entry.only, *(glob for glob, _ in models or ()))
        if models is None:
            models = () if entry is None else entry.models
        drop = self.strings(raw, "drop_fields", path)
        headers = self.headers(raw, path, auth)
        issuer = self.string(raw, "issuer", path)
        weight = self.number(raw, "weight", path, Positive, 1.0)
        price = self.price(raw, path)
        windows = self.windows(raw, path)
        if windows is None:
            windows = MappingProxyType({}) if entry is None else entry.context_window
        if dialect is None or base_url is None:
            return None
        issuer = issuer or (entry.issuer if entry is not None else None) or catalog.issuer_at(dialect, base_url.host)
        return Provider(
            name=name,
            dialect=dialect,
            base_url=base_url,
            api_key=api_key,
            auth=auth,
            models=models,
            only=only,
            drop_fields=frozenset(drop or ()),
            headers=headers,
            issuer=issuer or name,
            issuer_is_known=issuer is not None or entry is not None,
            weight=weight,
            price=price,
            context_window=windows,
            **own_tables,
        )

    def base_url(self, raw: dict[str, Any], path: str, name: str, entry: catalog.Entry | None) -> BaseURL | None:
        if "base_url" not in raw and entry is None:
            hint = did_you_mean(name, catalog.CATALOG)
            self.problem(f"{path}.base_url", f"a URL, since {name!r} is no name of the catalog", "nothing", hint)
            return None
        if "base_url" not in raw:
            assert entry is not None
            return BaseURL.parse(entry.base_url)
        text = self.string(raw, "base_url", path)
        return None if text is None else self.url(text, f"{path}.base_url")

    def url(self, text: str, path: str) -> BaseURL | None:
        try:
            return BaseURL.parse(text)
        except ValueError as e:
            expected, _, found = str(e).removeprefix("expected ").partition(", found ")
            self.problem(path, expected, found)
            return None

    def auth(self, raw: dict[str, Any], path: str, entry: catalog.Entry | None, dialect: str | None) -> str:
        """A scheme word (`bearer`, `none`) or the name of the header that bears the key."""
        auth = self.string(raw, "auth", path)
        if auth is None:
            if entry is not None and entry.auth and entry.dialect == dialect:
                # A key for one that needs none by itself: it does here.
                return entry.auth if entry.auth != "none" or "api_key" not in raw else catalog.AUTH_BY_DIALECT[dialect]
            return catalog.AUTH_BY_DIALECT[dialect or "openai"]
        if not _TOKEN.fullmatch(auth) or auth.lower() in _FRAMING_HEADERS:
            self.problem(f"{path}.auth", "bearer, none or a header name", in_words(auth))
        return auth.lower() if auth.lower() in ("bearer", "none") else auth

    def api_key(
        self,
        raw: dict[str, Any],
        path: str,
        entry: catalog.Entry | None,
        auth: str,
        base_url: BaseURL | None,
        intercepts: set[BaseURL],
    ) -> Secret | None:
        """The key to send; None: the app's own credential stays, or there is none.

        Only what the file says replaces the credential of a call that the provider was addressed by: a key that
        happens to be in the environment does not, so that such a call leaves as without Sidestep. Where a call to
        another host may reach the provider too, it needs a key.
        """
        where = f"{path}.api_key"
        if "api_key" in raw:
            text = raw["api_key"]
            if not isinstance(text, str):
                self.problem(where, "a string", type(text).__name__)
                return None
            if auth == "none":
                self.problem(where, 'no key, since auth = "none"', "one")
                return None
            if "$" in text and not REFERENCE.search(text):
                self.problem(where, "a key, or a reference written ${NAME}", "a $ without its braces")
                return None
            return self.secret(self.expand(text, where), where, REFERENCE.findall(text))
        if auth == "none" or base_url is None or intercepts == {base_url.place}:
            return None
        if entry is not None and entry.env:
            variable = _key_of(entry, self.env)
            if variable is not None:
                return self.secret(self.env[variable], where, [variable])
            blank = [name for name in entry.env if name in self.env]
            found = f"none: {' or '.join(blank or entry.env)} is {'blank' if blank else 'not set'}"
            expected = "a key"
        else:
            expected, found = 'a key or auth = "none"', "nothing"
        others = ", ".join(sorted(str(b) for b in intercepts - {base_url.place}))
        reached = f", and calls to {others} may reach this one" if others else ""
        self.problem(where, expected, found, OWN_CREDENTIAL + reached)
        return None

    def secret(self, value: str | None, path: str, variables: Sequence[str]) -> Secret | None:
        """`variables`: of the environment, that it was made from."""
        if value is None:
            return None
        value = value.strip()
        if not value:
            self.problem(path, "a key", "an empty string", _told("is blank", variables))
        elif not (value.isascii() and value.isprintable()):
            held = {name: self.env[name].strip() for name in variables}
            bad = [name for name, text in held.items() if not (text.isascii() and text.isprintable())]
            self.problem(path, "a key of printable ASCII characters", "others", _told("holds them", bad))
        return Secret(value)

    def expand(self, text: str, path: str) -> str | None:
        missing = dict.fromkeys(name for name in REFERENCE.findall(text) if name not in self.env)
        for name in missing:
            self.problem(path, f"the environment variable {name!r}", "it unset")
        return None if missing else REFERENCE.sub(lambda m: self.env[m[1]], text)

    def models(self, raw: dict[str, Any], path: str) -> tuple[tuple[str, str], ...] | None:
        if "models" not in raw:
            return None
        pairs = []
        for glob, target in self.mapping(raw["models"], f"{path}.models", "a table of names"):
            where = f"{path}.models.{glob}"
            if not isinstance(target, str) or not target:
                self.problem(where, "the provider's name of the model", in_words(target))
            elif self.has_reference(target, where):
                pass
            elif target.count("*") > 1:
                self.problem(where, "at most one * on the right", in_words(target))
            elif "*" in target and (glob.count("*") != 1 or set(glob) & {*"?["}):
                found = "? or [ beside it" if glob.count("*") == 1 else str(glob.count("*"))
                self.problem(where, f"exactly one * in {glob!r}", found, f"{target!r} repeats what it stood for")
            else:
                pairs.append((glob, target))
        return tuple(pairs)

    def headers(self, raw: dict[str, Any], path: str, auth: str) -> tuple[tuple[str, Secret], ...]:
        pairs = []
        for name, text in self.mapping(raw.get("headers", {}), f"{path}.headers"):
            where = f"{path}.headers.{name}"
            if not _TOKEN.fullmatch(name):
                self.problem(where, "a header name", in_words(name))
            elif name.lower() in _FRAMING_HEADERS:
                self.problem(where, "a header that may be set", in_words(name))
            elif name.lower() in _CREDENTIAL_HEADERS or name.lower() == auth.lower():
                self.problem(
                    where, "a header that is no credential", in_words(name), "a key belongs in api_key and auth"
                )
            elif not isinstance(text, str):
                self.problem(where, "a string", type(text).__name__)
            elif (value := self.expand(text, where)) is not None:
                if not (value.isascii() and value.isprintable()):
                    self.problem(where, "printable ASCII text", "others")
                pairs.append((name, Secret(value)))
        return tuple(pairs)

    def price(self, raw: dict[str, Any], path: str) -> Price | None:
        if "price" not in raw:
            return None
        price = self.table(Price(), raw, "price", path)
        if isinstance(raw["price"], dict):
            for name in ("input", "output"):
                if name not in raw["price"]:
                    self.problem(f"{path}.price.{name}", kind_in_words(NotNegative), "nothing")
        return price

    def windows(self, raw: dict[str, Any], path: str) -> Mapping[str, int] | None:
        if "context_window" not in raw:
            return None
        windows = {}
        for model, tokens in self.mapping(raw["context_window"], f"{path}.context_window"):
            where = f"{path}.context_window.{model}"
            windows[model] = self.value(tokens, AtLeastOne, where, "a whole number of tokens of at least 1")
        return MappingProxyType(windows)

    # --- routes

    def routes(
        self, raw_routes: list[dict[str, Any]], providers: tuple[Provider, ...], names: list[str]
    ) -> tuple[Route, ...]:
        by_name = {p.name: p for p in providers}
        routes: list[Route] = []
        claimed: dict[tuple[BaseURL, str], str] = {}
        taken = {r["name"] for r in raw_routes if isinstance(r.get("name"), str)}
        for i, raw in enumerate(raw_routes):
            path = f"routes[{i}]"
            self.known_keys(raw, path, _ROUTE_KEYS)
            strategy = self.choice(raw, "strategy", path, STRATEGIES) or STRATEGIES[0]
            members = self.members(raw, path, by_name, names)
            dialects = sorted({p.dialect for p in members})
            intercepts = self.intercepts(raw, path, dialects, claimed)
            if len(dialects) > 1:
                self.problem(f"{path}.providers", "providers of one dialect", ", ".join(dialects))
            name = self.string(raw, "name", path)
            if name is not None and any(r.name == name for r in routes):
                self.problem(f"{path}.name", "a name of its own", f"{name!r} again")
            if not members:
                continue
            if name is None:
                name = _free_name(dialects[0], taken)
                taken.add(name)
            routes.append(Route(name, dialects[0], intercepts, members, strategy))
        return tuple(routes)

    def intercepts(
        self, raw: dict[str, Any], path: str, dialects: list[str], claimed: dict[tuple[BaseURL, str], str]
    ) -> tuple[BaseURL, ...]:
        """`claimed`: where each base of each dialect stands already. Two dialects may share one."""
        texts = self.strings(raw, "intercept", path)
        if texts == () or "intercept" not in raw:
            self.problem(f"{path}.intercept", "at least one base URL", "none")
        bases = []
        for i, text in enumerate(texts or ()):
            where = f"{path}.intercept[{i}]"
            base = self.url(text, where)
            if base is None:
                continue
            if base.query:
                hint = "calls are told apart by their path; a query belongs in base_url"
                self.problem(where, "a URL without query", f"one after {str(base)!r}", hint)
                continue
            same = [claimed[base, dialect] for dialect in dialects if (base, dialect) in claimed]
            if same:
                hint = "this one would never get a call"
                self.problem(where, "a base URL of its own", f"{text!r}, which {same[0]} has too", hint)
                continue
            claimed.update(((base, dialect), where) for dialect in dialects)
            bases.append(base)
        return tuple(bases)

    def members(
        self, raw: dict[str, Any], path: str, by_name: dict[str, Provider], names: list[str]
    ) -> tuple[Provider, ...]:
        wanted = self.strings(raw, "providers", path)
        if wanted == () or "providers" not in raw:
            self.problem(f"{path}.providers", "at least one provider", "none")
        members: list[Provider] = []
        for i, name in enumerate(wanted or ()):
            where = f"{path}.providers[{i}]"
            if name in (wanted or ())[:i]:
                self.problem(where, "each provider once", f"{name!r} again")
            elif name in by_name:
                members.append(by_name[name])
            elif name not in self.broken:
                hint = did_you_mean(name, names) or "it needs a [[providers]] table"
                self.problem(where, "a known provider", in_words(name), hint)
        return tuple(members)


def _free_name(dialect: str, taken: set[str]) -> str:
    """The dialect, or dialect-2, dialect-3 …"""
    name, number = dialect, 1
    while name in taken:
        number += 1
        name = f"{dialect}-{number}"
    return name


def _default_routes(providers: tuple[Provider, ...]) -> tuple[Route, ...]:
    """One a dialect that has providers: its official base URL, its providers in their order."""
    routes = []
    for dialect in DIALECT_NAMES:
        members = tuple(p for p in providers if p.dialect == dialect)
        if members:
            routes.append(Route(dialect, dialect, (BaseURL.parse(catalog.OFFICIAL[dialect]),), members, STRATEGIES[0]))
    return tuple(routes)


def _intercepts_by_provider(
    raw_providers: list[dict[str, Any]], raw_routes: list[dict[str, Any]]
) -> dict[str, set[BaseURL]]:
    """The base URLs whose calls may reach each provider. What is wrong with them is reported elsewhere."""
    found: dict[str, set[BaseURL]] = {}
    for raw in raw_routes:
        for name in _strings_in(raw.get("providers")):
            found.setdefault(name, set()).update(_urls_in(raw.get("intercept")))
    if not raw_routes:
        for raw in raw_providers:
            for name in _strings_in([raw.get("name")]):
                entry = catalog.CATALOG.get(name)
                dialect = raw.get("dialect", None if entry is None else entry.dialect)
                found.setdefault(name, set()).update(_urls_in([catalog.OFFICIAL.get(str(dialect))]))
    return found


def _strings_in(value: object) -> list[str]:
    return [v for v in value if isinstance(v, str)] if isinstance(value, list) else []


def _urls_in(value: object) -> set[BaseURL]:
    bases = set()
    for text in _strings_in(value):
        try:
            bases.add(BaseURL.parse(text).place)
        except ValueError:
            continue
    return bases
