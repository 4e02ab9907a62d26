"""Answers of Sidestep's own: errors in the client's dialect, and the pages of `sidestep.internal`.

No policy and no state; what is said about the providers comes from `status`.
"""

from __future__ import annotations

import json
import math

from mitmproxy import http

from sidestep import status
from sidestep.breaker.outcomes import ErrorKind
from sidestep.dialects.base import Dialect
from sidestep.routing.engine import Engine, Refused
from sidestep.routing.exchange import Exchange, Exhausted

INTERNAL_HOST = "sidestep.internal"


def error(dialect: Dialect, code: int, kind: ErrorKind, message: str, **headers: str) -> http.Response:
    """An error response that the dialect's SDK raises as its own API error."""
    fields = {"content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
    return http.Response.make(code, dialect.phrase_error(code, kind, message), fields)


def exhausted(exchange: Exchange) -> http.Response:
    """No provider is left to ask: 503 when none was asked, else 502, or 504 for a timeout; 426 to a WebSocket
    handshake, on which the clients that can come back over HTTP."""
    dialect = exchange.match.dialect
    refused = exchange.refused
    why = "; ".join(_reason(r) for r in refused)
    if exchange.call.is_websocket:
        return error(dialect, 426, ErrorKind.SERVER, f"no provider takes this WebSocket now: {why or 'see HTTP'}")
    if not exchange.attempts:
        seconds = Exhausted(refused).retry_after
        headers = {} if seconds is None else {"retry_after": str(max(1, math.ceil(seconds)))}
        return error(dialect, 503, ErrorKind.OVERLOADED, f"no provider may be asked now: {why}", **headers)
    last = exchange.attempts[-1].outcome
    code = 504 if last is not None and last.reason == "timeout" else 502
    text = f"no provider gave an answer: {exchange.trail}" + (f"; not asked: {why}" if why else "")
    return error(dialect, code, ErrorKind.SERVER, text)


def _reason(refused: Refused) -> str:
    if refused.reason == "probing":
        return f"{refused.provider} is being probed"
    when = "" if refused.retry_after is None else f", may be asked in {math.ceil(refused.retry_after)} s"
    return f"{refused.provider} is {refused.reason}{when}"


_OURS = {
    # No other page may load, frame or keep one of ours; without this it could tell 200 from 503 by what loads.
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def forbidden(text: str) -> http.Response:
    """In place of a page of ours."""
    return http.Response.make(403, text.encode() + b"\n", {"content-type": "text/plain", **_OURS})


def page(request: http.Request, engine: Engine, now: float, *, details: bool) -> http.Response:
    """What `sidestep.internal` says; to HEAD without its body. `details`: False to a client that may use no key, which
    learns whether calls are served, and nothing else."""
    response = _page(request, engine, now) if details else _word(request, engine, now)
    response.headers.update(_OURS)
    if request.method == "HEAD":
        response.data.content = b""
    return response


def _word(request: http.Request, engine: Engine, now: float) -> http.Response:
    if request.method not in ("GET", "HEAD") or request.path.partition("?")[0] != "/health":
        text = b"only /health is for this client: see allow_clients in sidestep's [proxy] table\n"
        return http.Response.make(403, text, {"content-type": "text/plain"})
    code, body = status.health(engine, now)
    text = json.dumps({"status": body["status"]}, indent=1).encode()
    return http.Response.make(code, text, {"content-type": "application/json"})


def _page(request: http.Request, engine: Engine, now: float) -> http.Response:
    path = request.path.partition("?")[0]
    if request.method not in ("GET", "HEAD"):
        return http.Response.make(405, b"only GET\n", {"content-type": "text/plain", "allow": "GET, HEAD"})
    match path:
        case "/health":
            code, body = status.health(engine, now)
            text = json.dumps(body, indent=1).encode()
            return http.Response.make(code, text, {"content-type": "application/json"})
        case "/metrics":
            return http.Response.make(200, status.metrics(engine, now), {"content-type": status.METRICS_TYPE})
        case "/":
            return http.Response.make(200, status.page(engine, now), {"content-type": "text/html; charset=utf-8"})
        case _:
            return http.Response.make(404, b"/, /health and /metrics are here\n", {"content-type": "text/plain"})
