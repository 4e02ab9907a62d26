"""Flows and sessions without a proxy; the one place that takes them from mitmproxy's own test helpers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mitmproxy import http
from mitmproxy.test import tflow

from sidestep.calls.session import Session
from sidestep.routing.engine import Attempt
from sidestep.routing.exchange import Exchange
from support.world import World


def flow_of(method: str = "POST", url: str = "http://app.test/v1/chat/completions") -> http.HTTPFlow:
    """A flow whose request is this one."""
    return tflow.tflow(req=http.Request.make(method, url))


def session_of(world: World, exchange: Exchange | None, flow: http.HTTPFlow, *, acting: bool = True) -> Session:
    """A session whose request has been read, and planned if there is an exchange."""
    planned = exchange or world.exchange()
    session = Session(flow, planned.match, world.engine, lambda: world.now, acting=acting)
    session.exchange = exchange
    return session


def ask(world: World, exchange: Exchange) -> Attempt:
    """The next attempt, begun."""
    attempt = exchange.next(world.now)
    assert isinstance(attempt, Attempt), attempt
    return attempt


def answered(flow: http.HTTPFlow, status: int = 200, fields: Mapping[str, Any] | None = None) -> http.Response:
    """The flow has an answer with this status."""
    flow.response = http.Response.make(status, b"", dict(fields or {}))
    return flow.response
