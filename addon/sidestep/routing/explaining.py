"""Why a call would go where: the routing's own answer for one URL, in words.

Pure: no mitmproxy, no I/O, no state of circuits; it says which provider may be asked, not which would answer now.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

from sidestep.config import catalog, keys, local
from sidestep.config.model_names import CHAT_FAMILIES
from sidestep.config.settings import Provider, Settings
from sidestep.config.urls import BaseURL
from sidestep.dialects import DIALECTS
from sidestep.dialects.base import Call
from sidestep.routing import table

_WEBSOCKET = {"ws": "http", "wss": "https"}


def explain(settings: Settings, url: str, model: str | None, method: str | None = None) -> dict[str, Any]:
    """What would become of a call to this URL, by default a POST, or a handshake where it is ws or wss. ValueError: it
    is no URL.

    `routed` says whether Sidestep would act on it; if not, `why` says why not. `providers` are in the order of the
    route, `rejected` are those of the route that would not be asked, and why. The query appears nowhere: it may hold
    a key.
    """
    bare, _, query = url.partition("#")[0].partition("?")
    scheme, mark, rest = bare.partition("://")
    websocket = scheme.lower() in _WEBSOCKET
    if not mark:
        bare = f"https://{bare}"
    elif websocket:
        bare = f"{_WEBSOCKET[scheme.lower()]}://{rest}"
    base = BaseURL.parse(bare)
    method = method or ("GET" if websocket else "POST")
    found: dict[str, Any] = {"url": str(base), "method": method, "model": model, "mode": settings.mode, "routed": False}
    if settings.mode == "off":
        return found | {"why": 'mode is "off"'}
    # A slash at the end is part of the path, and of no base URL.
    path = base.path + ("/" if bare.endswith("/") else "")
    routes = table.RouteTable(settings.routes)
    match = routes.match(method, base.scheme, base.host, base.port, path)
    read = None if match is None else match.read(_model_of(query), "", b"{}")
    if match is None or read is None or (read.is_websocket and not websocket):
        return found | {"why": _why_not(settings, base, path, method)}
    asked = model if model is not None else read.model
    call = Call(read.dialect, read.operation, asked, stream=read.stream)
    candidates = routes.candidates(match, asked)
    plan = table.plan(candidates, call, home_issuer=match.home_issuer, issuer_of=lambda _: None, knows_model=None)
    chosen = [c.provider for c in plan.candidates]
    found |= {
        "routed": not plan.passthrough,
        "route": match.route.name,
        "intercept": str(match.intercept),
        "operation": match.operation,
        "model": asked,
        "strategy": match.route.strategy,
        "providers": [_candidate(c) for c in plan.candidates],
        "rejected": [{"name": p.name, "why": _rejected(p, asked)} for p in match.route.providers if p not in chosen],
    }
    if plan.passthrough:
        found["why"] = "no provider of its route may be asked for this model"
    return found


def missing(settings: Settings, found: dict[str, Any], env: Mapping[str, str]) -> list[dict[str, str]]:
    """Which providers of the catalog could stand in as well, and what is missing for that. `found`: what `explain`
    said of a call that is routed."""
    route = next(r for r in settings.routes if r.name == found["route"])
    model = found["model"]
    used = {p.name for p in route.providers}
    keyed = {p.base_url for p in route.providers if p.api_key is not None}
    answers = {p.name for p in settings.providers}
    lacking = []
    for name, entry in catalog.CATALOG.items():
        endpoint = entry.endpoints.get(route.dialect)
        if endpoint is None or name in used or name in catalog.OFFICIAL or entry.is_plan:
            continue
        if BaseURL.parse(endpoint.base_url) in keyed:
            continue
        globs = CHAT_FAMILIES if entry.is_local else endpoint.only
        if model is not None and globs is not None and not any(fnmatch.fnmatchcase(model, glob) for glob in globs):
            continue
        looked_for = next((p for p in settings.local if p.name == name), None)
        variables = catalog.variables_of(name, entry)
        if looked_for is not None and name not in answers:
            why = f"no server with a chat model answers at {local.address(looked_for)}"
        elif entry.is_local or keys.variable_of(name, entry, env) is not None:
            why = f"{settings.source} does not name it"
        else:
            why = f"{variables[-1] if len(variables) < 3 else ' or '.join(variables[1:])} is not set"
        lacking.append({"name": name, "why": why})
    return lacking


def order(strategy: str) -> str:
    """What the order of the providers means."""
    return {
        "priority": "asked in this order",
        "weighted": "calls are shared out among them by weight",
        "cheapest": "the cheapest for the call first",
        "fastest": "the fastest of late first",
    }[strategy]


def _candidate(candidate: table.Candidate) -> dict[str, Any]:
    provider = candidate.provider
    if provider.api_key is not None:
        credential = f"a key of yours ({provider.auth})"
    else:
        credential = "the app's own" if candidate.own_credential else "none"
    return {
        "name": provider.name,
        "base_url": str(provider.base_url),
        "model": candidate.model,
        "own": candidate.own,
        "credential": credential,
        "why": _why(candidate),
    }


def _why(candidate: table.Candidate) -> str:
    """Why it is in the chain."""
    provider = candidate.provider
    if candidate.own_credential:
        return "the app addressed it: with the app's own credential"
    if provider.api_key is not None:
        key = "a key in the file" if provider.key_from == "the file" else f"your key in {provider.key_from}"
        return f"the app addressed it: with {key}" if candidate.own else key
    if provider.last_resort:
        return "it answers on this machine: for what nobody else takes"
    entry = catalog.entry_of(provider.name)
    return "a server of this machine" if entry is not None and entry.is_local else "it needs no key"


def _rejected(provider: Provider, model: str | None) -> str:
    if not provider.serves(model):
        return f"it may only be asked for {', '.join(provider.only or ())}"
    return "it may not be asked"


def _model_of(query: str) -> str:
    """The part of a query that a dialect reads: the rest may be a key."""
    return urlencode([(k, v) for k, v in parse_qsl(query) if k == "model"])


def _why_not(settings: Settings, base: BaseURL, path: str, method: str) -> str:
    bases = [(i, r.dialect) for r in settings.routes for i in r.intercepts]
    here = [(i, d) for i, d in bases if (i.host, i.port) == (base.host, base.port)]
    if not here and (meant := next((i for i, _ in bases if i.host == base.host), None)) is not None:
        return f"calls are looked for at {meant}, not at {base.scheme}://{base.authority}"
    if not here:
        return f"no intercept has the host {base.authority}; there are: {', '.join(str(i) for i, _ in bases) or 'none'}"
    under = [(i, d, tail) for i, d in here if (tail := i.tail_of(base.scheme, base.host, base.port, path)) is not None]
    if not under:
        return f"it does not lie under {' or '.join(str(i) for i, _ in here)}"
    # As the table does it: of each dialect the longest base counts.
    counts = {found[1]: found for found in sorted(under, key=lambda found: len(found[0].path))}.values()
    for intercept, dialect, tail in counts:
        for other, what in (("POST", "a POST"), ("GET", "a WebSocket handshake (wss://)")):
            if (other != method or other == "GET") and DIALECTS[dialect].operation(other, tail) is not None:
                return (
                    f"{method} {tail} under {intercept} is none of the calls that another provider could answer; "
                    f"{what} is"
                )
    none = ", and ".join(
        f"{tail} under {intercept} is none of the {dialect} calls" for intercept, dialect, tail in counts
    )
    return f"{none} that another provider could answer"
