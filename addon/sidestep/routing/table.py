"""Which route a URL belongs to, and which providers may answer a call, in order.

Pure: no mitmproxy, no clock, no I/O. Whether a provider's circuit lets a call through is asked later, by
`exchange`; this room only says which provider may be asked at all, and why the others may not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from sidestep.breaker.bounded import Bounded, bytes_of
from sidestep.config import catalog
from sidestep.config.settings import Provider, Route
from sidestep.config.urls import BaseURL, canonical
from sidestep.dialects import DIALECTS, sealed
from sidestep.dialects.base import Call, Dialect, Pin, PinKind
from sidestep.dialects.common import UNSIGNED

KEPT_CANDIDATES = 1_000
"""An app may make up models without end."""
CANDIDATES_BYTES = 4 << 20


def addressed(route: Route, intercept: BaseURL) -> str:
    """Whom apps address by an intercept: a provider of its route, or the host where none of them is it."""
    return next((p.name for p in route.providers if p.base_url.place == intercept), intercept.host)


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
        """Whom the app addressed, in a word."""
        return addressed(self.route, self.intercept)

    def read(self, query: str, content_type: str, body: bytes) -> Call:
        """What the request asks for. `query`: without its `?`."""
        return self.dialect.read(self.operation, self.tail, query, content_type, body, self.intercept.path)

    @property
    def takes_own_credential(self) -> bool:
        """The app addressed a provider for which we have no key: as it is sent, the call is answered there."""
        return any(p.base_url.place == self.intercept and p.api_key is None for p in self.route.providers)

    @property
    def home_issuer(self) -> str:
        """The issuer of what the app brings along from before, as far as its address tells."""
        own = (p.issuer for p in self.route.providers if p.base_url.place == self.intercept)
        dialect = self.route.dialect
        known = catalog.issuer_at(dialect, self.intercept.host) or catalog.OFFICIAL_ISSUERS[dialect]
        return next(own, known)


class Issued(NamedTuple):
    """Who was seen to have issued an identifier, or a piece of reasoning."""

    provider: str
    issuer: str


NOBODY = Issued("", "")
"""A provider refused it, and no other one is known to have issued it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A provider that may answer a call, and what it calls the model."""

    provider: Provider
    model: str | None
    own: bool
    """The app addressed this provider itself."""
    leaves_out: frozenset[str] = frozenset()
    """The sealed pieces of the call that its issuer does not honour: they are left out of the copy that it gets."""
    tier: int = 0
    """0: it honours all that was issued of the call's sealed pieces; 1: some of it; 2: nothing of it."""

    @property
    def target(self) -> sealed.Target:
        return sealed.Target(self.provider.issuer, self.model, self.own)

    @property
    def own_credential(self) -> bool:
        """The app's own credential stays on an attempt at this provider."""
        return self.own and self.provider.api_key is None and self.provider.auth != "none"


@dataclass(frozen=True, slots=True)
class Plan:
    """Which providers may answer, in order. `passthrough`: none may, so the call goes where the app sent it."""

    candidates: tuple[Candidate, ...]
    pinned: bool = False
    passthrough: bool = False


def _bytes_of(candidates: tuple[Candidate, ...]) -> int:
    return sum(bytes_of(candidate) + bytes_of(candidate.model) for candidate in candidates)


class RouteTable:
    """Routes by the origin of their intercepts. Where a call lies under several, the longest base counts whose dialect
    knows it: one host may speak two dialects, at one base, or at bases of which one is the other's beginning."""

    __slots__ = ("_by_port", "_candidates")

    def __init__(self, routes: Iterable[Route]) -> None:
        self._candidates: Bounded[tuple[str, BaseURL, str | None], tuple[Candidate, ...]] = Bounded(
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
        return (canonical(host), port) in self._by_port

    def candidates(self, match: Match, model: str | None) -> tuple[Candidate, ...]:
        """Who may be asked for a model, in the route's order. Kept, for apps ask for the same few models."""
        key = (match.route.name, match.intercept, model)
        found = self._candidates.use(key)
        if found is None:
            found = tuple(
                Candidate(provider, None if model is None else provider.target_model(model), own)
                for provider in match.route.providers
                if provider.serves(model)
                for own in (provider.base_url.place == match.intercept,)
            )
            self._candidates.put(key, found)
        return found

    def match(self, method: str, scheme: str, host: str, port: int, path: str) -> Match | None:
        """The route of a request, None if it is not a routed call. `path` may carry a query."""
        entries = self._by_port.get((canonical(host), port))
        if entries is None:
            return None
        bare = path.partition("?")[0]
        for base, route in entries:
            tail = base.tail_of(scheme, host, port, bare)
            if tail is None:
                continue
            dialect = DIALECTS[route.dialect]
            operation = dialect.operation(method, tail)
            if operation is not None:
                return Match(route, base, tail, operation, dialect)
        return None


IssuerOf = Callable[[str], Issued | None]


def plan(
    candidates: tuple[Candidate, ...],
    call: Call,
    *,
    home_issuer: str,
    issuer_of: IssuerOf,
    knows_model: Callable[[Provider, str], bool] | None,
) -> Plan:
    """Which of a route's candidates may answer this call, in the route's order; those for whose copy something must be
    left out come last.

    `issuer_of`: the provider seen to have issued an identifier. `home_issuer`: the issuer of the sealed pieces of which
    that was not seen. `knows_model`: False while a provider is known not to have a model; None: no provider is known to
    lack any.
    """
    if call.sealed and candidates:
        if all(c.provider.issuer != home_issuer for c in candidates):
            # Then the app can only have it from one of these.
            home_issuer = candidates[0].provider.issuer
        candidates = _with_copies(candidates, call, home_issuer, issuer_of)
    if call.pin is not None and call.pin.kind is PinKind.STATE:
        return _pinned(candidates, call.pin, issuer_of)
    if call.sealed:
        chosen = () if call.pin is not None else _able(candidates, call)
        candidates = chosen or _of_issuer(candidates, call, home_issuer, issuer_of)
    if knows_model is not None:
        known = tuple(c for c in candidates if c.model is None or knows_model(c.provider, c.model))
        # A provider said to lack the model is passed over only while another may have it.
        candidates = known or candidates
    return Plan(candidates, passthrough=not candidates)


def _with_copies(
    candidates: tuple[Candidate, ...], call: Call, home_issuer: str, issuer_of: IssuerOf
) -> tuple[Candidate, ...]:
    """The candidates, each with what it does not get."""
    issuers: dict[str, str | None] = {}
    for name in call.sealed:
        found = issuer_of(name)
        unseen = None if name.startswith(UNSIGNED) else home_issuer
        issuers[name] = unseen if found is None else found.issuer
    # What was not signed, and not seen either, decides nothing: it is left out where it would be refused.
    known = set(issuers.values()) - {None}
    copies = []
    for candidate in candidates:
        issuer = candidate.provider.issuer
        out: frozenset[str] = frozenset()
        if candidate.provider.routing.sealed == "drop":
            out = frozenset(name for name, by in issuers.items() if sealed.is_foreign(name, by, issuer))
        tier = 0 if known <= {issuer} else 1 if issuer in known else 2
        copies.append(replace(candidate, leaves_out=out, tier=tier) if out or tier else candidate)
    return tuple(copies)


def _able(candidates: tuple[Candidate, ...], call: Call) -> tuple[Candidate, ...]:
    """Those that honour all of it, then those that can have a copy."""

    def may(candidate: Candidate) -> bool:
        if candidate.tier == 0:
            return True
        return candidate.provider.routing.sealed == "drop" and sealed.carries(call, candidate.target)

    return tuple(sorted((c for c in candidates if may(c)), key=lambda c: (c.provider.last_resort, c.tier)))


def _of_issuer(
    candidates: tuple[Candidate, ...], call: Call, home_issuer: str, issuer_of: IssuerOf
) -> tuple[Candidate, ...]:
    """Those that honour the latest piece: the call goes to no other."""
    latest = issuer_of(call.sealed[0])
    for issuer in (home_issuer if latest is None else latest.issuer, home_issuer):
        if chosen := tuple(c for c in candidates if c.provider.issuer == issuer):
            return chosen
    return ()


def _pinned(candidates: tuple[Candidate, ...], pin: Pin, issuer_of: IssuerOf) -> Plan:
    holder = next((found.provider for i in pin.ids if (found := issuer_of(i)) is not None), None)
    chosen = [c for c in candidates if c.provider.name == holder] or [c for c in candidates if c.own]
    return Plan(tuple(chosen[:1]), pinned=True, passthrough=not chosen)
