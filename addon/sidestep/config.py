"""Text → frozen settings, with every problem and the place it is at.

Pure but for `load`, which reads one file. The environment is an argument. What a setting does is elsewhere.
"""

from __future__ import annotations

import difflib
import fnmatch
import ipaddress
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import msgspec

from sidestep import catalog
from sidestep.circuit import CircuitSettings
from sidestep.urls import BaseURL

Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]

DIALECT_NAMES = ("openai", "anthropic", "gemini")
STRATEGIES = ("priority", "weighted", "cheapest", "fastest")

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A header name (RFC 9110, 5.6.2)."""
_REFERENCE = re.compile(r"\$\{([^}]*)\}")


class Secret:
    """A key. It shows itself only to who asks for it by name."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __reduce__(self) -> Any:
        raise TypeError("a secret is not to be saved")


class AttemptSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `[attempts]` table. Times in seconds."""

    max: AtLeastOne = 6
    per_provider: AtLeastOne = 2
    backoff_seconds: NotNegative = 0.25
    wait_seconds: NotNegative = 3
    total_seconds: Positive = 600


class TimeoutSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `[timeouts]` table, in seconds."""

    connect: Positive = 5
    first_byte: Positive = 60
    headers: Positive = 600
    first_content: Positive = 300
    idle: Positive = 60


class StreamSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `[stream]` table."""

    commit: Literal["first_content", "complete"] = "first_content"
    hold_bytes: AtLeastOne = 10_485_760


class RoutingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `[routing]` table."""

    stick_seconds: NotNegative = 300


class ProxySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `[proxy]` table."""

    allow_clients: tuple[str, ...] = ()
    response_headers: bool = True
    tunnel_others: bool = False


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """USD per million tokens."""

    input: NotNegative
    output: NotNegative


TABLES: dict[str, type[msgspec.Struct]] = {
    "circuit": CircuitSettings,
    "attempts": AttemptSettings,
    "timeouts": TimeoutSettings,
    "stream": StreamSettings,
    "routing": RoutingSettings,
}
"""Tables of the file that can also be set on one provider."""


class Provider(msgspec.Struct, frozen=True):
    """A provider as it is used, with the tables that apply to it."""

    name: str
    dialect: str
    base_url: BaseURL
    api_key: Secret | None
    auth: str
    models: tuple[tuple[str, str], ...]
    only: tuple[str, ...] | None
    drop_fields: frozenset[str]
    headers: tuple[tuple[str, Secret], ...]
    issuer: str
    weight: float
    price: Price | None
    context_window: dict[str, int]
    circuit: CircuitSettings
    attempts: AttemptSettings
    timeouts: TimeoutSettings
    stream: StreamSettings
    routing: RoutingSettings

    def serves(self, model: str | None) -> bool:
        """Whether it may be asked for this model."""
        if model is None or self.only is None:
            return True
        return any(fnmatch.fnmatchcase(model, glob) for glob in self.only)

    def target_model(self, model: str) -> str:
        """What it calls this model: an exact name before a glob, globs in their order."""
        for glob, target in self.models:
            if glob == model:
                return target
        for glob, target in self.models:
            if fnmatch.fnmatchcase(model, glob):
                return target.replace("*", _star(glob, model))
        return model


def _star(glob: str, model: str) -> str:
    """What the one `*` of a glob stood for."""
    before, _, after = glob.partition("*")
    return model[len(before) : len(model) - len(after)]


class Route(msgspec.Struct, frozen=True):
    """Intercepts, and the providers that may answer, in order."""

    name: str
    dialect: str
    intercepts: tuple[BaseURL, ...]
    providers: tuple[Provider, ...]
    strategy: str


class Settings(msgspec.Struct, frozen=True):
    """A whole configuration."""

    source: str
    mode: str
    providers: tuple[Provider, ...]
    routes: tuple[Route, ...]
    circuit: CircuitSettings
    attempts: AttemptSettings
    timeouts: TimeoutSettings
    stream: StreamSettings
    routing: RoutingSettings
    proxy: ProxySettings


class Problem(msgspec.Struct, frozen=True):
    """One thing wrong, at its place."""

    source: str
    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.source}: {self.path}: {self.text}" if self.path else f"{self.source}: {self.text}"


class ConfigError(Exception):
    """All that is wrong with a configuration. Never quotes an expanded secret."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(p) for p in problems))


def load(path: Path, env: Mapping[str, str]) -> Settings:
    """The settings of a file. ConfigError: everything wrong with it."""
    source = str(path)
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise ConfigError((Problem(source, "", "expected a file, found nothing there"),)) from None
    except IsADirectoryError:
        raise ConfigError((Problem(source, "", "expected a file, found a folder"),)) from None
    except UnicodeDecodeError as e:
        text = f"expected UTF-8 text, found byte {e.object[e.start]:#04x} at offset {e.start}"
        raise ConfigError((Problem(source, "", text),)) from None
    except OSError as e:
        raise ConfigError((Problem(source, "", f"expected a readable file, found: {e.strerror}"),)) from None
    return parse(text, env, source)


def parse(text: str, env: Mapping[str, str], source: str = "<config>") -> Settings:
    """The settings of a TOML text. ConfigError: everything wrong with it."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise ConfigError((Problem(source, "", f"expected TOML, found: {e}"),)) from None
    reader = _Reader(source, env)
    settings = reader.settings(data)
    if reader.problems:
        raise ConfigError(tuple(reader.problems))
    return settings


def default(env: Mapping[str, str]) -> Settings:
    """What holds without any configuration: each dialect's own provider first, with the app's credential, then
    the catalog's providers whose keys are in the environment."""
    reader = _Reader("the built-in catalog", env)
    names = [*DIALECT_NAMES]
    names += [n for n, e in catalog.CATALOG.items() if n not in names and any(env.get(v) for v in e.env)]
    settings = reader.settings({"providers": [{"name": name} for name in names]})
    if reader.problems:
        raise ConfigError(tuple(reader.problems))
    return settings


def describe(settings: Settings) -> list[str]:
    """A line a route: where its calls, and so people's prompts, may go."""
    lines = []
    for route in settings.routes:
        targets = ", ".join(f"{p.name} ({p.base_url.host})" for p in route.providers)
        intercepts = ", ".join(str(b) for b in route.intercepts)
        lines.append(f"calls to {intercepts} may go to {targets} [{route.strategy}, {settings.mode}]")
    return lines


def _found(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _words(kind: Any) -> str:
    """What a field's type expects, in words."""
    if isinstance(kind, type) and issubclass(kind, bool):
        return "true or false"
    args = getattr(kind, "__args__", ())
    metadata = getattr(kind, "__metadata__", ())
    base = getattr(kind, "__origin__", kind)
    if base is Literal:
        return "one of " + ", ".join(repr(a) for a in args)
    if base is tuple:
        return "an array of strings"
    word = {int: "a whole number", float: "a number", str: "a string"}.get(base, "a value of another type")
    for meta in metadata:
        if meta.gt is not None:
            word += f" greater than {meta.gt}"
        if meta.ge is not None:
            word += f" of at least {meta.ge}"
        if meta.le is not None:
            word += f" and at most {meta.le}"
    return word


def _unknown(key: str, known: list[str], what: str = "key") -> str:
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(sorted(known))}"
    return f"expected a known {what}, found {key!r}{hint}"


_PROVIDER_KEYS = [
    *("name", "dialect", "base_url", "api_key", "auth", "models", "only", "drop_fields", "headers"),
    *("issuer", "weight", "price", "context_window"),
    *TABLES,
]
_ROUTE_KEYS = ["name", "intercept", "providers", "strategy"]
_TOP_KEYS = ["mode", "providers", "routes", "proxy", *TABLES]


class _Reader:
    """Walks a parsed file table by table and collects problems on its way."""

    def __init__(self, source: str, env: Mapping[str, str]) -> None:
        self.source = source
        self.env = env
        self.problems: list[Problem] = []

    def problem(self, path: str, text: str) -> None:
        self.problems.append(Problem(self.source, path, text))

    # --- the whole file

    def settings(self, data: dict[str, Any]) -> Settings:
        for key in data:
            if key not in _TOP_KEYS:
                self.problem(key, _unknown(key, _TOP_KEYS))
        mode = self.choice(data, "mode", "mode", ("enforce", "observe", "off"), "enforce")
        tables: dict[str, Any] = {n: self.table(kind, data.get(n, {}), n) for n, kind in TABLES.items()}
        proxy = self.table(ProxySettings, data.get("proxy", {}), "proxy")
        assert isinstance(proxy, ProxySettings)
        for i, network in enumerate(proxy.allow_clients):
            try:
                ipaddress.ip_network(network, strict=False)
            except ValueError:
                self.problem(f"proxy.allow_clients[{i}]", f"expected a network such as 10.0.0.0/8, found {network!r}")
        raw_providers = self.tables(data, "providers")
        raw_routes = self.tables(data, "routes")
        intercepts_by_name = self.intercepts_of(raw_providers, raw_routes)
        providers: list[Provider] = []
        for i, raw in enumerate(raw_providers):
            provider = self.provider(raw, f"providers[{i}]", tables, intercepts_by_name)
            if provider is None:
                continue
            if any(p.name == provider.name for p in providers):
                self.problem(f"providers[{i}].name", f"expected a name of its own, found {provider.name!r} twice")
                continue
            providers.append(provider)
        routes = self.routes(raw_routes, raw_providers, providers)
        return Settings(source=self.source, mode=mode, providers=tuple(providers), routes=routes, proxy=proxy, **tables)

    def tables(self, data: dict[str, Any], key: str) -> list[dict[str, Any]]:
        raw = data.get(key, [])
        if not isinstance(raw, list) or not all(isinstance(r, dict) for r in raw):
            self.problem(key, f"expected tables headed [[{key}]], found {_found(raw)}")
            return []
        return raw

    def table(self, kind: type[msgspec.Struct], raw: Any, path: str) -> msgspec.Struct:
        """A table of plain settings; what is wrong in it stays at its default."""
        if not isinstance(raw, dict):
            self.problem(path, f"expected a table, found {_found(raw)}")
            return kind()
        hints = get_type_hints(kind, include_extras=True)
        good: dict[str, Any] = {}
        for key, value in raw.items():
            where = f"{path}.{key}"
            if key not in hints:
                self.problem(where, _unknown(key, list(hints)))
            elif self.has_reference(value, where):
                pass
            else:
                try:
                    good[key] = self.convert(value, hints[key])
                except (msgspec.ValidationError, ValueError):
                    self.problem(where, f"expected {_words(hints[key])}, found {_found(value)}")
        try:
            return kind(**good)
        except TypeError:
            missing = [f for f in kind.__struct_fields__ if f not in good and f not in raw]
            for name in missing:
                self.problem(f"{path}.{name}", f"expected {_words(hints[name])}, found nothing")
            return msgspec.convert(dict.fromkeys(kind.__struct_fields__, 0), kind)

    @staticmethod
    def convert(value: Any, kind: Any) -> Any:
        if isinstance(value, bool) and kind is not bool:
            raise ValueError
        if isinstance(value, float) and value != value:
            raise ValueError
        return msgspec.convert(value, kind)

    def has_reference(self, value: Any, path: str) -> bool:
        """`${…}` where it does not expand is a mistake, not a value."""
        if isinstance(value, str) and _REFERENCE.search(value):
            self.problem(path, "expected no ${…} here: environment references expand in api_key and headers only")
            return True
        return False

    # --- providers

    def provider(
        self,
        raw: dict[str, Any],
        path: str,
        tables: dict[str, Any],
        intercepts_by_name: dict[str, set[BaseURL]],
    ) -> Provider | None:
        before = len(self.problems)
        for key in raw:
            if key not in _PROVIDER_KEYS:
                self.problem(f"{path}.{key}", _unknown(key, _PROVIDER_KEYS))
        name = self.string(raw, "name", path)
        if name is None:
            if "name" not in raw:
                self.problem(f"{path}.name", "expected a name, found nothing")
            return None
        if not name or any(c in ",:\r\n" or not c.isprintable() for c in name):
            self.problem(f"{path}.name", f"expected a name without commas, colons and line ends, found {name!r}")
        entry = catalog.CATALOG.get(name)
        dialect = self.choice(
            raw, "dialect", f"{path}.dialect", DIALECT_NAMES, None if entry is None else entry.dialect
        )
        base_url = self.base_url(raw, path, name, entry)
        if dialect is None:
            if "dialect" not in raw:
                self.problem(f"{path}.dialect", f"expected one of {', '.join(DIALECT_NAMES)}, found nothing")
            dialect = "openai"
        auth = self.auth(raw, path, entry, dialect)
        intercepted = base_url is not None and base_url in intercepts_by_name.get(name, set())
        api_key = self.api_key(raw, path, name, entry, auth, intercepted=intercepted, base_url=base_url)
        own_tables: dict[str, Any] = {}
        for table, kind in TABLES.items():
            own = raw.get(table, {})
            if own and isinstance(own, dict):
                checked = self.table(kind, own, f"{path}.{table}")
                values = {f: getattr(checked, f) for f in own if f in kind.__struct_fields__}
                own_tables[table] = msgspec.structs.replace(tables[table], **values)
            else:
                if own != {}:
                    self.problem(f"{path}.{table}", f"expected a table, found {_found(own)}")
                own_tables[table] = tables[table]
        models = self.models(raw, path, entry)
        only = self.strings(raw, "only", path)
        drop = self.strings(raw, "drop_fields", path)
        headers = self.headers(raw, path)
        issuer = self.string(raw, "issuer", path)
        weight = self.number(raw, "weight", path, Positive, 1.0)
        price = None
        if "price" in raw:
            checked_price = self.table(Price, raw["price"], f"{path}.price")
            price = checked_price if isinstance(checked_price, Price) else None
        windows = self.windows(raw, path, entry)
        if len(self.problems) > before or base_url is None:
            return self.placeholder(name, dialect, base_url, own_tables)
        return Provider(
            name=name,
            dialect=dialect,
            base_url=base_url,
            api_key=api_key,
            auth=auth,
            models=models,
            only=only if only is not None or "only" in raw or entry is None else entry.only,
            drop_fields=frozenset(drop or ()),
            headers=headers,
            issuer=issuer or (entry.issuer if entry is not None and entry.issuer else name),
            weight=weight,
            price=price,
            context_window=windows,
            **own_tables,
        )

    def placeholder(self, name: str, dialect: str, base_url: BaseURL | None, tables: dict[str, Any]) -> Provider:
        """Stands for a provider that has problems, so that routes which name it have none of their own."""
        base = base_url or BaseURL("https", "invalid", 443, "")
        none: dict[str, int] = {}
        return Provider(name, dialect, base, None, "none", (), None, frozenset(), (), name, 1.0, None, none, **tables)

    def base_url(self, raw: dict[str, Any], path: str, name: str, entry: catalog.Entry | None) -> BaseURL | None:
        text = self.string(raw, "base_url", path)
        if text is None:
            if "base_url" in raw:
                return None
            if entry is None:
                names = list(catalog.CATALOG)
                close = difflib.get_close_matches(name, names, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                self.problem(f"{path}.base_url", f"expected a URL, since {name!r} is no name of the catalog{hint}")
                return None
            text = entry.base_url
        return self.url(text, f"{path}.base_url")

    def url(self, text: str, path: str) -> BaseURL | None:
        try:
            return BaseURL.parse(text)
        except ValueError as e:
            self.problem(path, str(e))
            return None

    def auth(self, raw: dict[str, Any], path: str, entry: catalog.Entry | None, dialect: str) -> str:
        auth = self.string(raw, "auth", path)
        if auth is None:
            return (entry.auth if entry is not None and entry.auth else "") or catalog.AUTH_BY_DIALECT[dialect]
        if not _TOKEN.fullmatch(auth):
            self.problem(f"{path}.auth", f"expected bearer, none or a header name, found {auth!r}")
        return auth

    def api_key(
        self,
        raw: dict[str, Any],
        path: str,
        name: str,
        entry: catalog.Entry | None,
        auth: str,
        *,
        intercepted: bool,
        base_url: BaseURL | None,
    ) -> Secret | None:
        where = f"{path}.api_key"
        if "api_key" in raw:
            text = raw["api_key"]
            if not isinstance(text, str):
                self.problem(where, f"expected a string, found {type(text).__name__}")
                return None
            if auth == "none":
                self.problem(where, 'expected no key, since auth = "none"')
                return None
            value = self.expand(text, where)
            if value is None:
                return None
            if not value.strip():
                self.problem(where, "expected a key, found an empty string")
            elif not value.isprintable() or not value.isascii():
                self.problem(where, "expected a key of printable ASCII characters, found others")
            return Secret(value)
        if auth == "none" or intercepted:
            # The app's own credential stays where the provider is the one that the app addresses.
            return None
        if entry is not None and entry.env:
            value = next((self.env[v] for v in entry.env if self.env.get(v)), None)
            if value is None:
                self.problem(where, f"expected a key, found none: {' or '.join(entry.env)} is not set")
                return None
            return Secret(value)
        if base_url is not None:
            self.problem(
                where,
                'expected a key or auth = "none", found nothing: the app\'s own credential goes only to the host '
                "that the app addressed",
            )
        return None

    def expand(self, text: str, path: str) -> str | None:
        missing = [n for n in _REFERENCE.findall(text) if n not in self.env]
        for name in missing:
            self.problem(path, f"expected the environment variable {name!r}, found it unset")
        if missing:
            return None
        return _REFERENCE.sub(lambda m: self.env[m[1]], text)

    def models(self, raw: dict[str, Any], path: str, entry: catalog.Entry | None) -> tuple[tuple[str, str], ...]:
        if "models" not in raw:
            return () if entry is None else entry.models
        value = raw["models"]
        if not isinstance(value, dict):
            self.problem(f"{path}.models", f"expected a table of names, found {_found(value)}")
            return ()
        pairs = []
        for glob, target in value.items():
            where = f"{path}.models.{glob}"
            if not isinstance(target, str) or not target:
                self.problem(where, f"expected the provider's name of the model, found {_found(target)}")
            elif self.has_reference(target, where):
                pass
            elif target.count("*") > 1:
                self.problem(where, f"expected at most one * in {target!r}")
            elif "*" in target and (glob.count("*") != 1 or any(c in glob for c in "?[")):
                self.problem(where, f"expected exactly one * in {glob!r}, since {target!r} repeats what it stood for")
            else:
                pairs.append((glob, target))
        return tuple(pairs)

    def headers(self, raw: dict[str, Any], path: str) -> tuple[tuple[str, Secret], ...]:
        value = raw.get("headers", {})
        if not isinstance(value, dict):
            self.problem(f"{path}.headers", f"expected a table of headers, found {_found(value)}")
            return ()
        pairs = []
        for name, text in value.items():
            where = f"{path}.headers.{name}"
            if not _TOKEN.fullmatch(name):
                self.problem(where, f"expected a header name, found {name!r}")
            elif name.lower() in ("host", "content-length", "transfer-encoding", "connection"):
                self.problem(where, f"expected a header that may be set, found {name!r}")
            elif not isinstance(text, str):
                self.problem(where, f"expected a string, found {_found(text)}")
            elif (expanded := self.expand(text, where)) is not None:
                if any(c in expanded for c in "\r\n\0") or not expanded.isascii():
                    self.problem(where, "expected ASCII text without line ends, found others")
                pairs.append((name, Secret(expanded)))
        return tuple(pairs)

    def windows(self, raw: dict[str, Any], path: str, entry: catalog.Entry | None) -> dict[str, int]:
        if "context_window" not in raw:
            return {} if entry is None else dict(entry.context_window)
        value = raw["context_window"]
        if not isinstance(value, dict):
            self.problem(f"{path}.context_window", f"expected a table of models, found {_found(value)}")
            return {}
        windows = {}
        for model, tokens in value.items():
            if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
                self.problem(
                    f"{path}.context_window.{model}",
                    f"expected a whole number of tokens of at least 1, found {_found(tokens)}",
                )
            else:
                windows[model] = tokens
        return windows

    # --- routes

    def intercepts_of(
        self, raw_providers: list[dict[str, Any]], raw_routes: list[dict[str, Any]]
    ) -> dict[str, set[BaseURL]]:
        """For each provider the base URLs that its routes intercept; problems are reported elsewhere."""

        def parsed(text: object) -> BaseURL | None:
            try:
                return BaseURL.parse(text) if isinstance(text, str) else None
            except ValueError:
                return None

        found: dict[str, set[BaseURL]] = {}
        if raw_routes:
            for raw in raw_routes:
                intercepts = raw.get("intercept", [])
                bases = {b for t in (intercepts if isinstance(intercepts, list) else []) if (b := parsed(t))}
                names = raw.get("providers", [])
                for name in names if isinstance(names, list) else []:
                    if isinstance(name, str):
                        found.setdefault(name, set()).update(bases)
            return found
        for raw in raw_providers:
            name = raw.get("name")
            if isinstance(name, str):
                entry = catalog.CATALOG.get(name)
                dialect = raw.get("dialect", None if entry is None else entry.dialect)
                if isinstance(dialect, str) and dialect in catalog.OFFICIAL:
                    found.setdefault(name, set()).add(BaseURL.parse(catalog.OFFICIAL[dialect]))
        return found

    def routes(
        self,
        raw_routes: list[dict[str, Any]],
        raw_providers: list[dict[str, Any]],
        providers: list[Provider],
    ) -> tuple[Route, ...]:
        if not raw_routes:
            made = []
            for dialect in DIALECT_NAMES:
                chosen = tuple(p for p in providers if p.dialect == dialect)
                if chosen:
                    base = BaseURL.parse(catalog.OFFICIAL[dialect])
                    made.append(Route(dialect, dialect, (base,), chosen, "priority"))
            return tuple(made)
        by_name = {p.name: p for p in providers}
        declared = [r["name"] for r in raw_providers if isinstance(r.get("name"), str)]
        routes: list[Route] = []
        claimed: dict[BaseURL, str] = {}
        for i, raw in enumerate(raw_routes):
            path = f"routes[{i}]"
            for key in raw:
                if key not in _ROUTE_KEYS:
                    self.problem(f"{path}.{key}", _unknown(key, _ROUTE_KEYS))
            strategy = self.choice(raw, "strategy", f"{path}.strategy", STRATEGIES, "priority")
            intercepts = self.intercepts(raw, path, claimed)
            members = self.members(raw, path, by_name, declared)
            dialects = sorted({p.dialect for p in members})
            if len(dialects) > 1:
                self.problem(f"{path}.providers", f"expected providers of one dialect, found {', '.join(dialects)}")
            name = self.string(raw, "name", path)
            dialect = dialects[0] if dialects else "openai"
            if name is None:
                taken = sum(1 for r in routes if r.dialect == dialect)
                name = dialect if not taken else f"{dialect}-{taken + 1}"
            if members and intercepts:
                routes.append(Route(name, dialect, intercepts, tuple(members), strategy or "priority"))
        return tuple(routes)

    def intercepts(self, raw: dict[str, Any], path: str, claimed: dict[BaseURL, str]) -> tuple[BaseURL, ...]:
        texts = self.strings(raw, "intercept", path)
        if not texts:
            if "intercept" not in raw or texts == ():
                self.problem(f"{path}.intercept", "expected at least one base URL, found none")
            return ()
        bases = []
        for i, text in enumerate(texts):
            where = f"{path}.intercept[{i}]"
            base = self.url(text, where)
            if base is None:
                continue
            if base in claimed:
                self.problem(where, f"expected a base URL of its own, found {text!r}, which {claimed[base]} has too")
                continue
            claimed[base] = where
            bases.append(base)
        return tuple(bases)

    def members(
        self, raw: dict[str, Any], path: str, by_name: dict[str, Provider], declared: list[str]
    ) -> list[Provider]:
        names = self.strings(raw, "providers", path)
        if not names:
            if "providers" not in raw or names == ():
                self.problem(f"{path}.providers", "expected at least one provider, found none")
            return []
        members = []
        for i, name in enumerate(names):
            where = f"{path}.providers[{i}]"
            if name in by_name:
                if by_name[name] in members:
                    self.problem(where, f"expected each provider once, found {name!r} again")
                members.append(by_name[name])
            elif name not in declared:
                self.problem(where, _unknown(name, declared, "provider"))
        return members

    # --- values

    def string(self, raw: dict[str, Any], key: str, path: str) -> str | None:
        value = raw.get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            self.problem(f"{path}.{key}", f"expected a string, found {_found(value)}")
            return None
        if self.has_reference(value, f"{path}.{key}"):
            return None
        return value

    def strings(self, raw: dict[str, Any], key: str, path: str) -> tuple[str, ...] | None:
        value = raw.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            self.problem(f"{path}.{key}", f"expected an array of strings, found {_found(value)}")
            return None
        if any(self.has_reference(v, f"{path}.{key}[{i}]") for i, v in enumerate(value)):
            return None
        return tuple(value)

    def number(self, raw: dict[str, Any], key: str, path: str, kind: Any, default: float) -> float:
        if key not in raw:
            return default
        try:
            return float(self.convert(raw[key], kind))
        except (msgspec.ValidationError, ValueError):
            self.problem(f"{path}.{key}", f"expected {_words(kind)}, found {_found(raw[key])}")
            return default

    def choice(self, raw: dict[str, Any], key: str, path: str, choices: tuple[str, ...], default: Any) -> Any:
        value = raw.get(key, default)
        if key in raw and (not isinstance(value, str) or value not in choices):
            self.problem(path, f"expected one of {', '.join(choices)}, found {_found(value)}")
            return default
        return value
