"""Answers of Sidestep's own to calls: errors in the client's dialect. No policy and no state."""

from __future__ import annotations

import math

from mitmproxy import http

from sidestep.breaker.outcomes import ErrorKind, refusal_in_words
from sidestep.dialects.base import Dialect
from sidestep.routing.engine import Refused
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
        met = "; ".join(filter(None, (exchange.trail, why))) or "see HTTP"
        return error(dialect, 426, ErrorKind.SERVER, f"no provider takes this WebSocket now: {met}")
    if not exchange.attempts:
        seconds = Exhausted(refused).retry_after
        headers = {} if seconds is None else {"retry_after": str(max(1, math.ceil(seconds)))}
        return error(dialect, 503, ErrorKind.OVERLOADED, f"no provider may be asked now: {why}", **headers)
    last = exchange.attempts[-1].outcome
    code = 504 if last is not None and last.reason == "timeout" else 502
    text = f"no provider gave an answer: {exchange.trail}" + (f"; not asked: {why}" if why else "")
    return error(dialect, code, ErrorKind.SERVER, text)


def _reason(refused: Refused) -> str:
    words = refusal_in_words(refused.provider, refused.reason)
    if refused.reason == "probing":
        return words
    when = "" if refused.retry_after is None else f", may be asked in {math.ceil(refused.retry_after)} s"
    return f"{words}{when}"


def forbidden(text: str) -> http.Response:
    """In place of a page of ours."""
    return http.Response.make(403, text.encode() + b"\n", {"content-type": "text/plain"})
