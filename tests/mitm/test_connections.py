"""Which layers become ours, and what is known of a client's socket."""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from unittest import mock

import pytest
from mitmproxy import options
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import Layer, NextLayer
from mitmproxy.proxy.layers import ClientTLSLayer, HttpLayer, ServerTLSLayer, TCPLayer
from mitmproxy.proxy.layers.http import HTTPMode
from mitmproxy.proxy.mode_servers import ProxyConnectionHandler
from mitmproxy.proxy.server import ConnectionIO
from mitmproxy.proxy.tunnel import LayerStack
from mitmproxy.test import taddons, tflow

from sidestep.calls.hooks import Calls
from sidestep.calls.shared import Core
from sidestep.mitm.connections import Connections
from sidestep.mitm.handlers import client_is_slow
from sidestep.mitm.layer import FailoverLayer, never


class Theirs(HttpLayer):
    """What an addon of somebody else's may use."""


def context() -> Context:
    made = Context(tflow.tclient_conn(), options.Options())
    for name in ("tcp_timeout", "proxy_debug"):
        if name not in made.options:
            made.options.add_option(name, bool, False, "")
    return made


def asked(connections: Connections, chosen: Layer, within: Context) -> None:
    """The hook, when another addon has chosen the layer before."""
    question = NextLayer(within)
    question.layer = chosen
    connections.next_layer(question)
    assert question.layer is chosen


def parts() -> tuple[Core, Connections]:
    core = Core()
    return core, Connections(core, Calls(core))


@pytest.mark.parametrize("tls", [False, True])
def test_a_layer_that_was_chosen_before_is_adopted(tls: bool) -> None:
    """The order of the addons does not decide whether a connection is routed."""
    core, connections = parts()
    within = context()
    stack = LayerStack()
    if tls:
        stack /= ServerTLSLayer(within)
        stack /= ClientTLSLayer(within)
    inner = HttpLayer(within, HTTPMode.regular)
    stack /= inner
    asked(connections, stack[0], within)
    assert type(inner) is FailoverLayer
    assert core.adopted == {within.client.id}


def test_what_is_not_adopted(caplog: pytest.LogCaptureFixture) -> None:
    """Another protocol's layer, one that has begun, and another addon's own kind, of which it is said once."""
    core, connections = parts()
    within = context()
    begun = HttpLayer(within, HTTPMode.regular)
    begun.connections[within.client] = TCPLayer(within)
    theirs = [Theirs(within, HTTPMode.regular) for _ in range(2)]
    with caplog.at_level(logging.INFO):
        for chosen in (TCPLayer(within), begun, *theirs):
            kind = type(chosen)
            asked(connections, chosen, within)
            assert type(chosen) is kind
    assert core.adopted == set()
    assert [r.levelname for r in caplog.records if "Theirs" in r.message] == ["WARNING"]
    assert len(caplog.records) == 1


def writer(waiting: int) -> Any:
    made = mock.create_autospec(asyncio.StreamWriter, instance=True)
    made.transport = mock.Mock()
    made.transport.get_write_buffer_size.return_value = waiting
    return made


@pytest.mark.parametrize(
    ("io", "slow"),
    [
        (ConnectionIO(writer=writer(1)), True),
        (ConnectionIO(writer=writer(0)), False),
        (ConnectionIO(writer=mock.Mock()), False),
        (ConnectionIO(), False),
        (None, False),
    ],
    ids=["waiting", "sent", "wireguard", "no writer", "closed"],
)
async def test_a_slow_client(io: ConnectionIO | None, slow: bool) -> None:
    """A client is slow while data waits for it; one that is gone is not, nor one whose socket does not tell."""
    server = Proxyserver()
    with taddons.context(server):
        client = tflow.tclient_conn()
        assert not client_is_slow(client)
        handler: Any = mock.Mock(transports={} if io is None else {client: io})
        server.connections[client.id] = handler
        assert client_is_slow(client) is slow


class Looks(ProxyConnectionHandler):
    """A handler of connections that sees each hook itself, as that of a replay does."""

    async def handle_hook(self, hook: Any) -> None:
        raise AssertionError


@pytest.mark.parametrize(("kind", "at_once"), [(ProxyConnectionHandler, True), (Looks, False), (None, False)])
async def test_hooks_are_carried_out_at_once_where_nobody_else_sees_them(kind: Any, at_once: bool) -> None:
    def ask(hook: Any) -> bool:
        raise AssertionError

    server = Proxyserver()
    with taddons.context(server):
        core = Core()
        within = context()
        if kind is not None:
            server.connections[within.client.id] = kind.__new__(kind)
        inner: Any = HttpLayer(within, HTTPMode.regular)
        asked(Connections(core, Calls(core), ask), inner, within)
        assert inner.at_once is (ask if at_once else never)
