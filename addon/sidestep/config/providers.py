"""Reads `[[providers]]`: each table is a provider, with an endpoint for each dialect that it is asked in.

Pure: the environment is an argument. Where calls to a provider come from is told by `routes`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import msgspec

from sidestep.config import catalog, keys
from sidestep.config.catalog import Endpoint, Entry
from sidestep.config.problems import did_you_mean, in_words, kind_in_words, one_of
from sidestep.config.settings import (
    DIALECT_NAMES,
    TABLES,
    AtLeastOne,
    NotNegative,
    Positive,
    Price,
    Provider,
    Secret,
)
from sidestep.config.urls import BaseURL
from sidestep.config.values import REFERENCE, Values

OWN_CREDENTIAL = "the app's own credential goes only to the host that the app addressed"

LOADING_SECONDS = 300.0
"""A local server reads a model of some ten GB from the disk before its first word, and long prompts slowly."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""A name that a shell can give a variable."""
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A header name (RFC 9110, 5.6.2)."""
CREDENTIAL_HEADERS = ("authorization", "proxy-authorization", "cookie", "x-api-key", "x-goog-api-key", "api-key")
FRAMING_HEADERS = (
    *("host", "content-length", "content-encoding", "transfer-encoding", "connection", "keep-alive"),
    *("te", "trailer", "upgrade", "expect"),
)
PROVIDER_KEYS = (
    *("name", "dialect", "base_url", "base_urls", "api_key", "auth", "models", "only", "drop_fields", "headers"),
    *("issuer", "weight", "price", "context_window"),
    *TABLES,
)

Intercepts = Mapping[tuple[str, str], Collection[BaseURL]]
"""The base URLs whose calls may reach a provider, by its name and the dialect in which it is asked."""


def spoken(raw: Mapping[str, Any]) -> dict[str, str]:
    """The base URLs of a table by dialect, as they are written or as the catalog has them, the one first that a plain
    `base_url` would stand for. What is wrong with them is reported elsewhere."""
    entry = _entry(raw)
    known = {} if entry is None else entry.base_urls
    several, single, dialect = raw.get("base_urls"), raw.get("base_url"), raw.get("dialect")
    if several is not None:
        found = several.items() if isinstance(several, dict) else ()
        return {d: text for d, text in found if d in DIALECT_NAMES and isinstance(text, str)}
    if dialect is not None:
        known = {d: text for d, text in known.items() if d == dialect}
    if single is None:
        return known
    named = dialect if dialect in DIALECT_NAMES else next(iter(known), None)
    return {named: single} if named is not None and isinstance(single, str) else {}


def chosen(raw: Mapping[str, Any]) -> set[str]:
    """The dialects that a table is there for: those that it names, or the first of its entry in the catalog. In the
    others it stands in where there is a route for them."""
    found = list(spoken(raw))
    return set(found if raw.get("base_urls") is not None else found[:1])


def _entry(raw: Mapping[str, Any]) -> Entry | None:
    name = raw.get("name")
    return catalog.entry_of(name) if isinstance(name, str) else None


class ProviderReader(Values):
    """State: the environment; the names of providers that have problems."""

    def __init__(self, source: str, env: Mapping[str, str]) -> None:
        super().__init__(source)
        self.env = env
        self.broken: set[str] = set()

    def providers(
        self, raw_providers: list[dict[str, Any]], tables: dict[str, Any], intercepts: Intercepts
    ) -> tuple[Provider, ...]:
        """All of them, each for the dialects in which it is asked; one that no route names, for its first."""
        providers: list[Provider] = []
        first: dict[str, str] = {}
        for i, raw in enumerate(raw_providers):
            path = f"providers[{i}]"
            before = len(self.problems)
            self.known_keys(raw, path, PROVIDER_KEYS)
            name = self.name(raw, path)
            if name is None:
                continue
            if name in first:
                self.problem(f"{path}.name", "a name of its own", f"{name!r} twice", f"{first[name]} has it too")
            first.setdefault(name, path)
            found = self.provider(raw, path, name, tables, intercepts)
            if len(self.problems) > before:
                self.broken.add(name)
            else:
                providers += found
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
        self, raw: dict[str, Any], path: str, name: str, tables: dict[str, Any], intercepts: Intercepts
    ) -> list[Provider]:
        """One for each dialect in which it is asked: they have all in common but what an endpoint tells."""
        entry = catalog.entry_of(name)
        all_bases = self.base_urls(raw, path, name, entry)
        asked = [d for d in all_bases if (name, d) in intercepts] or list(all_bases)[:1]
        bases = {d: all_bases[d] for d in asked}
        endpoints = {d: _endpoint(entry, d) for d in bases}
        auths = self.auths(raw, path, endpoints)
        reached = {d: intercepts.get((name, d), ()) for d in bases}
        keyed = {d for d, base in bases.items() if self.needs_key(raw, entry, auths[d], reached[d], base)}
        api_key, key_from = self.api_key(raw, path, name, entry, auths, bases, keyed, reached)
        if entry is not None and entry.is_local:
            tables = _patient(tables)
        own_tables = {table: self.table(above, raw, table, path) for table, above in tables.items()}
        models = self.models(raw, path)
        only = self.strings(raw, "only", path)
        if only == ():
            self.problem(f"{path}.only", "at least one model", "an empty array")
        drop = self.strings(raw, "drop_fields", path)
        headers = self.headers(raw, path, auths.values())
        issuer = self.string(raw, "issuer", path)
        weight = self.number(raw, "weight", path, Positive, 1.0)
        price = self.price(raw, path)
        windows = self.windows(raw, path)
        found = []
        for dialect, base in bases.items():
            endpoint = endpoints[dialect]
            known = issuer or (endpoint and endpoint.issuer) or catalog.issuer_at(dialect, base.host)
            found.append(
                Provider(
                    name=name,
                    dialect=dialect,
                    base_url=base,
                    api_key=api_key if dialect in keyed else None,
                    key_from=key_from if dialect in keyed else "",
                    auth=auths[dialect],
                    models=models if models is not None else endpoint.models if endpoint is not None else (),
                    only=_only(only, models, endpoint),
                    drop_fields=frozenset(drop or ()),
                    headers=headers,
                    issuer=known or name,
                    issuer_is_known=known is not None or entry is not None,
                    weight=weight,
                    price=price,
                    context_window=windows,
                    **own_tables,
                )
            )
        return found

    # --- where it is

    def base_urls(self, raw: dict[str, Any], path: str, name: str, entry: Entry | None) -> dict[str, BaseURL]:
        """By dialect; those that are good."""
        if "base_urls" in raw:
            return self.several(raw, path)
        dialect = self.choice(raw, "dialect", path, DIALECT_NAMES)
        if dialect is None and "dialect" not in raw:
            dialect = None if entry is None else next(iter(entry.endpoints))
            if dialect is None:
                self.problem(f"{path}.dialect", one_of(DIALECT_NAMES), "nothing")
        if "base_url" in raw:
            text = self.string(raw, "base_url", path)
            base = None if text is None else self.url(text, f"{path}.base_url")
            return {} if base is None or dialect is None else {dialect: base}
        if entry is None:
            hint = did_you_mean(name, (*catalog.CATALOG, *catalog.ALIASES))
            self.problem(f"{path}.base_url", f"a URL, since {name!r} is no name of the catalog", "nothing", hint)
            return {}
        if dialect is not None and dialect not in entry.endpoints:
            speaks = " and ".join(entry.endpoints)
            self.problem(f"{path}.base_url", f"a URL, since the catalog knows {name!r} for {speaks} alone", "nothing")
        return {d: BaseURL.parse(text) for d, text in spoken(raw).items()}

    def several(self, raw: dict[str, Any], path: str) -> dict[str, BaseURL]:
        where = f"{path}.base_urls"
        if "base_url" in raw:
            self.problem(where, "either base_url or base_urls", "both")
        if "dialect" in raw:
            self.problem(f"{path}.dialect", "none, since base_urls names the dialects", in_words(raw["dialect"]))
        bases = {}
        for dialect, text in self.mapping(raw["base_urls"], where, "a table of base URLs by dialect"):
            if dialect not in DIALECT_NAMES:
                self.known_keys({dialect: text}, where, DIALECT_NAMES)
            elif (
                isinstance(good := self.value(text, str, f"{where}.{dialect}"), str)
                and (base := self.url(good, f"{where}.{dialect}")) is not None
            ):
                bases[dialect] = base
        if raw["base_urls"] == {}:
            self.problem(where, "at least one base URL", "an empty table")
        return bases

    def url(self, text: str, path: str) -> BaseURL | None:
        try:
            return BaseURL.parse(text)
        except ValueError as e:
            expected, _, found = str(e).removeprefix("expected ").partition(", found ")
            self.problem(path, expected, found)
            return None

    # --- who asks

    def auths(self, raw: dict[str, Any], path: str, endpoints: Mapping[str, Endpoint | None]) -> dict[str, str]:
        """By dialect a scheme word (`bearer`, `none`) or the name of the header that bears the key."""
        auth = self.string(raw, "auth", path)
        if auth is None:
            return {d: _usual_auth(d, endpoint, has_key="api_key" in raw) for d, endpoint in endpoints.items()}
        if not TOKEN.fullmatch(auth) or auth.lower() in FRAMING_HEADERS:
            self.problem(f"{path}.auth", "bearer, none or a header name", in_words(auth))
        return dict.fromkeys(endpoints, auth.lower() if auth.lower() in ("bearer", "none") else auth)

    @staticmethod
    def needs_key(
        raw: dict[str, Any], entry: Entry | None, auth: str, intercepts: Collection[BaseURL], base: BaseURL
    ) -> bool:
        """Only what the file says replaces the credential of a call that the provider was addressed by: a key that
        happens to be in the environment does not, so that such a call leaves as without Sidestep. Where a call to
        another host may reach the provider too, it needs a key."""
        if auth == "none" or "api_key" in raw:
            return "api_key" in raw
        return (entry is not None and entry.takes_key) or set(intercepts) != {base.place}

    def api_key(
        self,
        raw: dict[str, Any],
        path: str,
        name: str,
        entry: Entry | None,
        auths: Mapping[str, str],
        bases: Mapping[str, BaseURL],
        keyed: Collection[str],
        reached: Mapping[str, Collection[BaseURL]],
    ) -> tuple[Secret | None, str]:
        """The key, and where it comes from: the names of variables, or that it is written in the file. `keyed`: the
        dialects that need one; `reached`: whose calls may come in each."""
        where = f"{path}.api_key"
        if "api_key" in raw:
            text = raw["api_key"]
            if not isinstance(text, str):
                self.problem(where, "a string", type(text).__name__)
                return None, ""
            if "none" in auths.values():
                self.problem(where, 'no key, since auth = "none"', "one")
                return None, ""
            if "$" in text and not REFERENCE.search(text):
                self.problem(where, "a key, or a reference written ${NAME}", "a $ without its braces")
                return None, ""
            variables = REFERENCE.findall(text)
            return self.secret(self.expand(text, where), where, variables), " and ".join(variables) or "the file"
        if not keyed:
            return None, ""
        if entry is not None and entry.env:
            variable = keys.variable_of(name, entry, self.env)
            if variable is not None:
                return self.secret(self.env[variable], where, [variable]), variable
            blank = [v for v in entry.env if v in self.env]
            found = f"none: {' or '.join(blank or entry.env)} is {'blank' if blank else 'not set'}"
            expected = "a key"
        else:
            expected, found = 'a key or auth = "none"', "nothing"
        foreign = sorted(str(i) for d in keyed for i in reached[d] if i != bases[d].place)
        others = f", and calls to {', '.join(foreign)} may reach this one" if foreign else ""
        self.problem(where, expected, found, "" if entry and entry.takes_key else OWN_CREDENTIAL + others)
        return None, ""

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
            if _NAME.fullmatch(name):
                self.problem(path, f"the environment variable {name!r}", "it unset")
            else:
                self.problem(path, "a reference written ${NAME}", repr(f"${{{name}}}"), "it knows no defaults")
        return None if missing else REFERENCE.sub(lambda m: self.env[m[1]], text)

    def headers(self, raw: dict[str, Any], path: str, auths: Iterable[str]) -> tuple[tuple[str, Secret], ...]:
        pairs = []
        credentials = {*CREDENTIAL_HEADERS, *(auth.lower() for auth in auths)}
        for name, text in self.mapping(raw.get("headers", {}), f"{path}.headers"):
            where = f"{path}.headers.{name}"
            if not TOKEN.fullmatch(name):
                self.problem(where, "a header name", in_words(name))
            elif name.lower() in FRAMING_HEADERS:
                self.problem(where, "a header that may be set", in_words(name))
            elif name.lower() in credentials:
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

    # --- what it is asked for

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

    def price(self, raw: dict[str, Any], path: str) -> Price | None:
        if "price" not in raw:
            return None
        price = self.table(Price(), raw, "price", path)
        if isinstance(raw["price"], dict):
            for name in ("input", "output"):
                if name not in raw["price"]:
                    self.problem(f"{path}.price.{name}", kind_in_words(NotNegative), "nothing")
        return price

    def windows(self, raw: dict[str, Any], path: str) -> Mapping[str, int]:
        windows = {}
        for model, tokens in self.mapping(raw.get("context_window", {}), f"{path}.context_window"):
            where = f"{path}.context_window.{model}"
            windows[model] = self.value(tokens, AtLeastOne, where, "a whole number of tokens of at least 1")
        return MappingProxyType(windows)


def _endpoint(entry: Entry | None, dialect: str) -> Endpoint | None:
    """What the catalog knows of a provider in this dialect; of one that is asked in another than it knows, what it
    knows at all."""
    if entry is None:
        return None
    return entry.endpoints.get(dialect) or replace(next(iter(entry.endpoints.values())), auth="")


def _usual_auth(dialect: str, endpoint: Endpoint | None, *, has_key: bool) -> str:
    auth = "" if endpoint is None else endpoint.auth
    # A key for one that needs none by itself: it does here.
    return catalog.AUTH_BY_DIALECT[dialect] if not auth or (auth == "none" and has_key) else auth


def _only(
    only: tuple[str, ...] | None, models: tuple[tuple[str, str], ...] | None, endpoint: Endpoint | None
) -> tuple[str, ...] | None:
    if only is not None or endpoint is None or endpoint.only is None:
        return only
    # Who says what a model is called here means it to be asked for.
    return (*endpoint.only, *(glob for glob, _ in models or ()))


def _patient(tables: dict[str, Any]) -> dict[str, Any]:
    """The tables of a server that may have to load a model first: that is no failure, and no reason to ask another one
    beside it; nor is it asked beside others, which answer far better than it does, if more slowly."""
    timeouts, hedge = tables["timeouts"], tables["hedge"]
    first_byte, idle = max(timeouts.first_byte, LOADING_SECONDS), max(timeouts.idle, LOADING_SECONDS)
    return {
        **tables,
        "timeouts": msgspec.structs.replace(timeouts, first_byte=first_byte, idle=idle),
        "hedge": msgspec.structs.replace(hedge, enabled=False),
    }


def _told(what: str, variables: Sequence[str]) -> str:
    return f"the environment variable {' or '.join(variables)} {what}" if variables else ""
