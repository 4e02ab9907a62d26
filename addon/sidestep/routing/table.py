"""Which route a URL belongs to, and which providers may answer a call, in order.

Pure: no mitmproxy, no clock, no I/O. Whether a provider's circuit lets a call through is asked later, by
`exchange`; this room only says who may be asked at all, and why the others may not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sidestep.breaker.bounded import Bounded, bytes_of
from sidestep.config.settings import Provider, Route
from sidestep.config.urls import BaseURL
from sidestep.dialects import DIALECTS
from sidestep.dialects.base import Call, Dialect, PinKind

KEPT_CANDIDATES = 1_000
"""An app may make up models without end."""
CANDIDATES_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Match:
    """A request that lies under an intercept and names a routed operation."""

    route: Route
    intercept: BaseURL
    tail: str
    operation: str
    dialect: Dialect

    @property
    def addressed(self) -> str:
        """Whom the app addressed: a provider of the route, or the host where none of them is it."""
        own = (p.name for p in self.route.providers if p.base_url == self.intercept)
        return next(own, self.intercept.host)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A provider that may answer a call, and what it calls the model."""

    provider: Provider
    model: str | None
    own: bool
    """The app addressed this provider itself."""

    @property
    def own_credential(self) -> bool:
        """The app's own credential stays on an attempt at this provider."""
        return self.own and self.provider.api_key is None and self.provider.auth != "none"


@dataclass(frozen=True, slots=True)
class Plan:
    """Who may answer, in order. `passthrough`: nobody here may, so the call goes where the app sent it."""

    candidates: tuple[Candidate, ...]
    pinned: bool = False
    passthrough: bool = False


def _bytes_of(candidates: tuple[Candidate, ...]) -> int:
    return sum(bytes_of(candidate) + bytes_of(candidate.model) for candidate in candidates)


class RouteTable:
    """Routes by the origin of their intercepts; a longer base path wins over a shorter one."""

    __slots__ = ("_by_port", "_candidates")

    def __init__(self, routes: Iterable[Route]) -> None:
        self._candidates: Bounded[tuple[str, BaseURL, str | None, bool], tuple[Candidate, ...]] = Bounded(
            KEPT_CANDIDATES, CANDIDATES_BYTES, _bytes_of
        )
        self._by_port: dict[tuple[str, int], list[tuple[BaseURL, Route]]] = {}
        for route in routes:
            for base in route.intercepts:
                self._by_port.setdefault((base.host, base.port), []).append((base, route))
        for entries in self._by_port.values():
            entries.sort(key=lambda entry: -len(entry[0].path))

    def lies_under(self, host: str, port: int) -> bool:
        """Whether any intercept has this host and port (what must not be tunnelled unopened)."""
        return (host.lower(), port) in self._by_port

    def candidates(self, match: Match, model: str | None, *, trusted_client: bool) -> tuple[Candidate, ...]:
        """Who may be asked for a model, in the route's order. Kept, for apps ask for the same few models."""
        key = (match.route.name, match.intercept, model, trusted_client)
        found = self._candidates.use(key)
        if found is None:
            found = tuple(
                Candidate(provider, None if model is None else provider.target_model(model), own)
                for provider in match.route.providers
                if provider.serves(model)
                for own in (provider.base_url == match.intercept,)
                if trusted_client or provider.api_key is None
            )
            self._candidates.put(key, found)
        return found

    def match(self, method: str, scheme: str, host: str, port: int, path: str) -> Match | None:
        """The route of a request, None if it is not a routed call. `path` may carry a query."""
        entries = self._by_port.get((host.lower(), port))
        if entries is None:
            return None
        bare = path.partition("?")[0]
        for base, route in entries:
            tail = base.tail_of(scheme, host, port, bare)
            if tail is None:
                continue
            dialect = DIALECTS[route.dialect]
            operation = dialect.operation(method, tail)
            return None if operation is None else Match(route, base, tail, operation, dialect)
        return None


def plan(
    candidates: tuple[Candidate, ...],
    call: Call,
    *,
    issuer_of: Callable[[str], str | None],
    knows_model: Callable[[Provider, str], bool] | None,
) -> Plan:
    """Which of a route's candidates may answer this call, in the route's order.

    `issuer_of`: the name of the provider seen to have issued an identifier. `knows_model`: False while a provider is
    known not to have a model; None: nobody is known to lack any.
    """
    if call.pin is not None:
        return _pinned(candidates, call, issuer_of)
    if knows_model is not None:
        known = tuple(c for c in candidates if c.model is None or knows_model(c.provider, c.model))
        # A provider said to lack the model is passed over only while somebody else may have it.
        candidates = known or candidates
    return Plan(candidates, passthrough=not candidates)


def _pinned(candidates: tuple[Candidate, ...], call: Call, issuer_of: Callable[[str], str | None]) -> Plan:
    assert call.pin is not None
    holder = next((name for i in call.pin.ids if (name := issuer_of(i)) is not None), None)
    chosen = [c for c in candidates if c.provider.name == holder] if holder else []
    if not chosen:
        chosen = [c for c in candidates if c.own]
    if call.pin.kind is PinKind.SIGNATURE:
        # Without a holder and without the own provider among the candidates there is nobody to go by.
        if chosen:
            issuer = chosen[0].provider.issuer
            chosen = [c for c in candidates if c.provider.issuer == issuer]
        return Plan(tuple(chosen), passthrough=not chosen)
    return Plan(tuple(chosen[:1]), pinned=True, passthrough=not chosen)
