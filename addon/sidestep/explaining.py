"""Why a call would go where: the routing's own answer for one URL, in words.

Pure: no mitmproxy, no I/O, no state of circuits; it says who may be asked, not who would answer now.
"""

from __future__ import annotations

from typing import Any

from sidestep import routing
from sidestep.config import Provider, Settings
from sidestep.dialects.base import Call
from sidestep.urls import BaseURL


def explain(settings: Settings, url: str, model: str | None, method: str = "POST") -> dict[str, Any]:
    """What would become of a call to this URL. ValueError: it is no URL.

    `routed` says whether Sidestep would act on it; if not, `why` says why not. `providers` come in the order in which
    they would be asked with all circuits closed; `rejected` are those of the route that would not be, and why.
    """
    base = BaseURL.parse(url.partition("?")[0].partition("#")[0])
    path = base.path + ("/" if url.partition("?")[0].endswith("/") else "")
    table = routing.RouteTable(settings.routes)
    found: dict[str, Any] = {"url": url, "method": method, "model": model, "routed": False}
    match = table.match(method, base.scheme, base.host, base.port, path)
    if match is None:
        found["why"] = _why_not(settings, base, method)
        return found
    call = match.dialect.read(match.operation, match.tail, url.partition("?")[2], "", b"{}")
    asked = model if model is not None else call.model
    candidates = table.candidates(match, asked, trusted_client=True)
    call = Call(call.dialect, call.operation, asked, stream=call.stream)
    plan = routing.plan(candidates, call, issuer_of=lambda _: None, knows_model=None)
    found |= {
        "routed": not plan.passthrough,
        "route": match.route.name,
        "intercept": str(match.intercept),
        "operation": match.operation,
        "model": asked,
        "strategy": match.route.strategy,
        "providers": [_candidate(c) for c in plan.candidates],
        "rejected": [
            {"name": p.name, "why": _rejected(p, asked)}
            for p in match.route.providers
            if p not in [c.provider for c in plan.candidates]
        ],
    }
    if plan.passthrough:
        found["why"] = "no provider of its route may be asked for this model: it goes where the app sent it"
    return found


def _candidate(candidate: routing.Candidate) -> dict[str, Any]:
    provider = candidate.provider
    if provider.api_key is not None:
        credential = "a key of yours"
    else:
        credential = "the app's own" if candidate.own_credential else "none"
    return {
        "name": provider.name,
        "base_url": str(provider.base_url),
        "model": candidate.model,
        "own": candidate.own,
        "credential": credential,
    }


def _rejected(provider: Provider, model: str | None) -> str:
    if not provider.serves(model):
        return f"it may only be asked for {', '.join(provider.only or ())}"
    return "it may not be asked"


def _why_not(settings: Settings, base: BaseURL, method: str) -> str:
    here = [(i, r) for r in settings.routes for i in r.intercepts if i.host == base.host]
    if not here:
        known = ", ".join(str(i) for r in settings.routes for i in r.intercepts) or "none"
        return f"no intercept has the host {base.host}; there are: {known}"
    under = [(i, r) for i, r in here if i.tail_of(base.scheme, base.host, base.port, base.path) is not None]
    if not under:
        return f"it does not lie under {' or '.join(str(i) for i, _ in here)}"
    dialect = under[0][1].dialect
    return f"{method} {base.path} is none of the {dialect} calls that another provider can answer"
