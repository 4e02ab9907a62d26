"""Reads `[[routes]]`: which calls may be answered by which providers, and in which dialect.

Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sidestep.config import catalog
from sidestep.config.problems import did_you_mean, in_words
from sidestep.config.providers import Intercepts, ProviderReader
from sidestep.config.settings import DIALECT_NAMES, STRATEGIES, Provider, Route
from sidestep.config.urls import BaseURL

_ROUTE_KEYS = ("name", "dialect", "intercept", "providers", "strategy")

Spoken = Mapping[str, Mapping[str, str]]
"""By the name of a provider, its base URLs by dialect, as they are written."""


def dialects_of(raw: Mapping[str, Any], spoken: Spoken) -> dict[str, list[str]]:
    """The dialects of a route, each with its intercepts: one that all its providers speak. Where that leaves several,
    each intercept is of the dialect that is known to be spoken there; of which it is not, it is of the first one's."""
    texts = strings_in(raw.get("intercept"))
    members = [spoken[name] for name in strings_in(raw.get("providers")) if spoken.get(name)]
    common = [d for d in members[0] if all(d in m for m in members)] if members else []
    if "dialect" in raw:
        common = [d for d in common if d == raw["dialect"]]
    if len(common) < 2:
        return dict.fromkeys(common, texts)
    known = [[d for d in common if d in _spoken_at(text, members)] for text in texts]
    usual = next((found[0] for found in known if found), common[0])
    groups: dict[str, list[str]] = {}
    for text, found in zip(texts, known, strict=True):
        for dialect in found or [usual]:
            groups.setdefault(dialect, []).append(text)
    return groups or {usual: []}


def intercepts_of(groups: Sequence[Mapping[str, list[str]]], raw_routes: Sequence[Mapping[str, Any]]) -> Intercepts:
    """The base URLs whose calls may reach each provider. What is wrong with them is reported elsewhere. `groups`: of
    each route, what `dialects_of` says."""
    found: dict[tuple[str, str], set[BaseURL]] = {}
    for raw, dialects in zip(raw_routes, groups, strict=True):
        for name in strings_in(raw.get("providers")):
            for dialect, texts in dialects.items():
                found.setdefault((name, dialect), set()).update(_places(texts))
    return found


def usual_intercepts(spoken: Spoken, dialects: Collection[str]) -> Intercepts:
    """The same where there are no routes: each dialect's official base URL, and those of plans."""
    found: dict[tuple[str, str], set[BaseURL]] = {}
    for name, bases in spoken.items():
        for dialect in bases:
            if dialect in dialects:
                official = [] if name in catalog.PLANS else [catalog.OFFICIAL[dialect]]
                plans = [base for of, base in _plans_of(dialect, name) if of in spoken]
                found[name, dialect] = set(_places([*official, *plans]))
    return found


def _plans_of(dialect: str, name: str) -> Iterator[tuple[str, str]]:
    """The plans, each with its base URL, whose calls may go to a provider: a vendor's own takes the credential of the
    app that addresses it, and no other's."""
    for plan, (of, base) in catalog.PLANS.items():
        if of == dialect and name not in catalog.OFFICIAL and (name == plan or name not in catalog.PLANS):
            yield plan, base


def usual_routes(providers: Sequence[Provider], dialects: Collection[str]) -> tuple[Route, ...]:
    """One a dialect: its official base URL, its providers in their order. One a plan: first its own provider, then
    those that have a key."""
    homes = [(dialect, dialect, catalog.OFFICIAL[dialect]) for dialect in DIALECT_NAMES if dialect in dialects]
    homes += [(plan, *home) for plan, home in catalog.PLANS.items() if plan in {p.name for p in providers}]
    routes = []
    for name, dialect, base in homes:
        speakers = [p for p in providers if p.dialect == dialect]
        if name in catalog.PLANS:
            speakers = [p for p in speakers if any(name == plan for plan, _ in _plans_of(dialect, p.name))]
            speakers.sort(key=lambda p: p.name != name)
        else:
            speakers = [p for p in speakers if p.name not in catalog.PLANS]
        if speakers:
            routes.append(Route(name, dialect, (BaseURL.parse(base),), tuple(speakers), STRATEGIES[0]))
    return tuple(routes)


class RouteReader(ProviderReader):
    """State: as of the base."""

    def routes(
        self,
        raw_routes: list[dict[str, Any]],
        groups: Sequence[Mapping[str, list[str]]],
        providers: tuple[Provider, ...],
        spoken: Spoken,
    ) -> tuple[Route, ...]:
        """`groups`: of each, what `dialects_of` says."""
        by_name: dict[str, dict[str, Provider]] = {}
        for p in providers:
            by_name.setdefault(p.name, {})[p.dialect] = p
        routes: list[Route] = []
        claimed: dict[tuple[BaseURL, str], str] = {}
        taken = {r["name"] for r in raw_routes if isinstance(r.get("name"), str)}
        for i, (raw, dialects) in enumerate(zip(raw_routes, groups, strict=True)):
            path = f"routes[{i}]"
            self.known_keys(raw, path, _ROUTE_KEYS)
            strategy = self.choice(raw, "strategy", path, STRATEGIES) or STRATEGIES[0]
            wanted = self.choice(raw, "dialect", path, DIALECT_NAMES)
            members = self.members(raw, path, by_name, list(spoken))
            if members and not dialects:
                self.no_dialect(path, wanted, {d for n in strings_in(raw.get("providers")) for d in spoken.get(n, ())})
            intercepts = self.intercepts(raw, path, dialects, claimed)
            name = self.string(raw, "name", path)
            if name is not None and any(r.name == name for r in routes):
                self.problem(f"{path}.name", "a name of its own", f"{name!r} again")
            for dialect in dialects:
                found = tuple(m[dialect] for m in members if dialect in m)
                if not found:
                    continue
                if name is None:
                    own_name = _free_name(dialect, taken)
                else:
                    own_name = name if name not in {r.name for r in routes} else _free_name(f"{name}-{dialect}", taken)
                taken.add(own_name)
                routes.append(Route(own_name, dialect, tuple(intercepts[dialect]), found, strategy))
        return tuple(routes)

    def no_dialect(self, path: str, wanted: str | None, spoken: Collection[str]) -> None:
        if wanted is None:
            self.problem(f"{path}.providers", "providers of one dialect", ", ".join(sorted(spoken)))
        else:
            self.problem(f"{path}.dialect", "one that all its providers speak", in_words(wanted))

    def intercepts(
        self,
        raw: dict[str, Any],
        path: str,
        dialects: Mapping[str, list[str]],
        claimed: dict[tuple[BaseURL, str], str],
    ) -> dict[str, list[BaseURL]]:
        """By dialect. `claimed`: where each base of each dialect stands already. Two dialects may share one."""
        texts = self.strings(raw, "intercept", path)
        if texts == () or "intercept" not in raw:
            self.problem(f"{path}.intercept", "at least one base URL", "none")
        bases: dict[str, list[BaseURL]] = {dialect: [] for dialect in dialects}
        for i, text in enumerate(texts or ()):
            where = f"{path}.intercept[{i}]"
            base = self.url(text, where)
            if base is None:
                continue
            if base.query:
                hint = "calls are told apart by their path; a query belongs in base_url"
                self.problem(where, "a URL without query", f"one after {str(base)!r}", hint)
                continue
            here = [dialect for dialect, of_it in dialects.items() if text in of_it]
            same = [claimed[base, dialect] for dialect in here if (base, dialect) in claimed]
            if same:
                hint = "this one would never get a call"
                self.problem(where, "a base URL of its own", f"{text!r}, which {same[0]} has too", hint)
                continue
            claimed.update(((base, dialect), where) for dialect in here)
            for dialect in here:
                bases[dialect].append(base)
        return bases

    def members(
        self, raw: dict[str, Any], path: str, by_name: Mapping[str, Mapping[str, Provider]], names: list[str]
    ) -> list[Mapping[str, Provider]]:
        wanted = self.strings(raw, "providers", path)
        if wanted == () or "providers" not in raw:
            self.problem(f"{path}.providers", "at least one provider", "none")
        members: list[Mapping[str, Provider]] = []
        for i, name in enumerate(wanted or ()):
            where = f"{path}.providers[{i}]"
            if name in (wanted or ())[:i]:
                self.problem(where, "each provider once", f"{name!r} again")
            elif name in by_name:
                members.append(by_name[name])
            elif name not in self.broken:
                hint = did_you_mean(name, names) or "it needs a [[providers]] table"
                self.problem(where, "a known provider", in_words(name), hint)
        return members


def _free_name(name: str, taken: set[str]) -> str:
    """The name, or name-2, name-3 …"""
    free, number = name, 1
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free


def _spoken_at(text: str, members: Sequence[Mapping[str, str]]) -> set[str]:
    """The dialects that are known to be spoken at a base URL: by the catalog, and by a route's own providers."""
    for place in _places([text]):
        here = {d for member in members for d, base in member.items() if place in set(_places([base]))}
        return here | _known_places().get(place, set())
    return set()


@lru_cache(maxsize=1)
def _known_places() -> dict[BaseURL, set[str]]:
    found: dict[BaseURL, set[str]] = {}
    for entry in catalog.CATALOG.values():
        for dialect, text in entry.base_urls.items():
            found.setdefault(BaseURL.parse(text), set()).add(dialect)
    return found


def strings_in(value: object) -> list[str]:
    return [v for v in value if isinstance(v, str)] if isinstance(value, list) else []


def _places(texts: Collection[str]) -> Iterator[BaseURL]:
    for text in texts:
        try:
            yield BaseURL.parse(text).place
        except ValueError:
            continue
