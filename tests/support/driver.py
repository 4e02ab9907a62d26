"""One client connection without sockets: events go into the layer, what it commands is carried out or kept."""

from __future__ import annotations

from collections import defaultdict, deque
from types import SimpleNamespace
from typing import Any

from mitmproxy import ctx
from mitmproxy.connection import Client, Connection, ConnectionState, Server
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import HttpLayer, HTTPMode

from sidestep.calls.hooks import Calls
from sidestep.calls.shared import Core
from sidestep.config import reading
from sidestep.mitm.layer import FailoverLayer
from sidestep.routing.engine import Engine

OPTIONS: Any = SimpleNamespace(
    body_size_limit=None,
    connection_strategy="lazy",
    http2=True,
    http2_ping_keepalive=58,
    normalize_outbound_headers=True,
    proxy_debug=False,
    rawtcp=True,
    store_streamed_bodies=False,
    stream_large_bodies=None,
    validate_inbound_headers=True,
    websocket=True,
)
"""mitmproxy's own as they are by default, of those that the layers look at."""
NO_MASTER: Any = SimpleNamespace(addons={})
"""Whoever asks it for the handler of a connection is told that there is none."""


class Driver:
    """State: the time, what was sent to whom, connections that are being made, timers; `connects` says whether the
    next ones are made at once."""

    def __init__(self, text: str, engine: Engine | None = None, *, at_once: bool = False) -> None:
        """`engine`: that of an earlier connection, where this is another one of the same proxy. `at_once`: hooks are
        carried out where they are met, else once all that was under way has been."""
        if not hasattr(ctx, "master"):
            ctx.master = NO_MASTER
        self.now = 1000.0
        self.connects = True
        self.sent: dict[Connection, bytes] = defaultdict(bytes)
        self.servers: list[Server] = []
        self.opening: list[commands.OpenConnection] = []
        self.closed: list[Connection] = []
        self.timers: list[commands.RequestWakeup] = []
        self.hooks: list[str] = []
        self.later: list[str] = []
        """Those of the hooks that were given to mitmproxy."""
        core = Core()
        core.clock = lambda: self.now
        self.engine = core.engine = engine or Engine(reading.parse(text, {}), jitter=lambda: 0.5)
        self.calls = Calls(core)
        self.client = Client(peername=("127.0.0.1", 1), sockname=("127.0.0.1", 2), state=ConnectionState.OPEN)
        core.adopted.add(self.client.id)
        layer: Any = HttpLayer(Context(self.client, OPTIONS), HTTPMode.regular)
        FailoverLayer.adopt(layer, self.calls, core.clock, *((self.ask,) if at_once else ()))
        self.layer: FailoverLayer = layer
        self.feed(events.Start())

    def feed(self, event: events.Event) -> None:
        waiting = deque([event])
        while waiting:
            for command in self.layer.handle_event(waiting.popleft()):
                if isinstance(command, commands.SendData):
                    self.sent[command.connection] += command.data
                elif isinstance(command, commands.OpenConnection):
                    command.connection.timestamp_start = 1.0
                    if self.connects:
                        waiting.append(self.connected(command))
                    else:
                        self.opening.append(command)
                elif isinstance(command, commands.CloseConnection):
                    command.connection.state = ConnectionState.CLOSED
                    self.closed.append(command.connection)
                elif isinstance(command, commands.RequestWakeup):
                    self.timers.append(command)
                elif isinstance(command, commands.StartHook):
                    self.later.append(command.name)
                    self.ask(command)
                    waiting.append(events.HookCompleted(command, None))

    def ask(self, hook: commands.StartHook) -> bool:
        self.hooks.append(hook.name)
        if (function := getattr(self.calls, hook.name, None)) is not None:
            assert function(*hook.args()) is None, "a hook that waits needs a proxy"
        return True

    def connected(self, command: commands.OpenConnection) -> events.OpenConnectionCompleted:
        """The connection that was asked for is there."""
        assert isinstance(command.connection, Server)
        command.connection.state = ConnectionState.OPEN
        self.servers.append(command.connection)
        return events.OpenConnectionCompleted(command, None)

    def says(self, connection: Connection, data: bytes) -> None:
        self.feed(events.DataReceived(connection, data))

    def leaves(self, connection: Connection) -> None:
        connection.state = ConnectionState.CLOSED
        self.feed(events.ConnectionClosed(connection))

    def passes(self, seconds: float) -> None:
        """Time goes by, and the timers that are due fire."""
        self.now += seconds
        timers, self.timers = self.timers, []
        for timer in timers:
            self.feed(events.Wakeup(timer))

    def answer(self) -> bytes:
        """What the app has been sent since it was asked last."""
        return self.sent.pop(self.client, b"")
