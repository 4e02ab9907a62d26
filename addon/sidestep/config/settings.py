"""The typed settings that everything else goes by, and their defaults.

Pure. How they are read from a file, and what is wrong with one, is told elsewhere.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Annotated, Literal, NoReturn

import msgspec

from sidestep.breaker.circuit import YEAR, CircuitSettings
from sidestep.config.urls import BaseURL

Seconds = Annotated[float, msgspec.Meta(gt=0, le=YEAR)]
SecondsOrNone = Annotated[float, msgspec.Meta(ge=0, le=YEAR)]
Positive = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
NotNegative = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
AtLeastOne = Annotated[int, msgspec.Meta(ge=1, le=10**12)]

DIALECT_NAMES = ("openai", "anthropic", "gemini")
STRATEGIES = ("priority", "weighted", "cheapest", "fastest")
MODES = ("enforce", "observe", "off")


class Secret:
    """A key. It shows itself only where it is asked for by name."""

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

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not to be saved")


class AttemptSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `[attempts]` table. Times in seconds."""

    max: AtLeastOne = 6
    per_provider: AtLeastOne = 2
    backoff_seconds: SecondsOrNone = 0.25
    wait_seconds: SecondsOrNone = 3
    wait_for_reset_seconds: SecondsOrNone = 0
    total_seconds: Seconds = 600


class TimeoutSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `[timeouts]` table, in seconds."""

    connect: Seconds = 5
    first_byte: Seconds = 60
    headers: Seconds = 600
    first_content: Seconds = 300
    idle: Seconds = 60


class StreamSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `[stream]` table."""

    commit: Literal["first_content", "complete"] = "first_content"
    hold_bytes: AtLeastOne = 10_485_760


class RoutingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `[routing]` table."""

    stick_seconds: SecondsOrNone = 300
    sealed: Literal["drop", "pin"] = "drop"


class HedgeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `[hedge]` table: a second attempt beside one that is late."""

    enabled: bool = True
    after_seconds: Positive = 10
    """Streamed calls of which too little is known yet: seconds without a byte of the body."""
    max_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.05
    """Second attempts as a share of requests."""


class ProxySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `[proxy]` table."""

    allow_clients: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    forward_headers: tuple[str, ...] = ()
    forward_parameters: tuple[str, ...] = ()
    response_headers: bool = True
    tunnel_others: bool = False


class FleetSettings(msgspec.Struct, frozen=True):
    """The `[fleet]` table: which proxies share what they know, and through which Valkey or Redis."""

    url: Secret
    """It may hold a password."""
    group: str
    secret: Secret
    """What the store holds is named by digests under it."""
    place: str
    """The server as it may be shown."""
    secret_from: str
    """`the file`, an environment variable, or `the providers' keys`."""


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """USD per million tokens."""

    input: NotNegative = 0
    output: NotNegative = 0


TABLES: dict[str, type[msgspec.Struct]] = {
    "circuit": CircuitSettings,
    "attempts": AttemptSettings,
    "timeouts": TimeoutSettings,
    "stream": StreamSettings,
    "routing": RoutingSettings,
    "hedge": HedgeSettings,
}
"""Tables of the file that can also be set on one provider."""


class Provider(msgspec.Struct, frozen=True):
    """A provider as it is used in one dialect, with the tables that apply to it. One of several dialects has one for
    each, of the same name: what is known of them, circuits, cooldowns, times, is known of the name.

    Without `api_key` the app's own credential stays, or none is sent at all (`auth` is `none`).
    """

    name: str
    dialect: str
    base_url: BaseURL
    api_key: Secret | None
    key_from: str
    """The environment variable that the key comes from, or `the file`; empty without one."""
    auth: str
    models: tuple[tuple[str, str], ...]
    only: tuple[str, ...] | None
    drop_fields: frozenset[str]
    headers: tuple[tuple[str, Secret], ...]
    issuer: str
    issuer_is_known: bool
    """The file or the catalog tells it; otherwise it is the provider's own name."""
    weight: float
    price: Price | None
    context_window: Mapping[str, int]
    circuit: CircuitSettings
    attempts: AttemptSettings
    timeouts: TimeoutSettings
    stream: StreamSettings
    routing: RoutingSettings
    hedge: HedgeSettings
    last_resort: bool = False
    """Its answers are far from those that were asked for: better than none."""

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
    """Those of one name stand for it in a dialect each."""
    routes: tuple[Route, ...]
    local: tuple[Provider, ...]
    """Servers of this machine that are asked last once they were seen to answer (`local`)."""
    circuit: CircuitSettings
    attempts: AttemptSettings
    timeouts: TimeoutSettings
    stream: StreamSettings
    routing: RoutingSettings
    hedge: HedgeSettings
    proxy: ProxySettings
    fleet: FleetSettings | None = None

    @property
    def by_name(self) -> dict[str, tuple[Provider, ...]]:
        """Each provider in all its dialects."""
        found: dict[str, tuple[Provider, ...]] = {}
        for provider in self.providers:
            found[provider.name] = (*found.get(provider.name, ()), provider)
        return found
