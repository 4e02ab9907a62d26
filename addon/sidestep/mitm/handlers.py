"""What has to be asked of, or told to, mitmproxy's handlers of client connections: the level below its layers."""

from __future__ import annotations

import asyncio
import socket
import struct
from asyncio.trsock import TransportSocket

from mitmproxy import ctx
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.connection import Connection, ConnectionState, Server
from mitmproxy.proxy import events
from mitmproxy.proxy.mode_servers import ProxyConnectionHandler
from mitmproxy.proxy.server import ConnectionHandler

from sidestep.calls.clients import address_of


def _handler_of(client: Connection) -> ConnectionHandler | None:
    """mitmproxy's handler of a client connection; None if it is gone, and for a replay, which has no client."""
    server = ctx.master.addons.get("proxyserver")
    return server.connections.get(client.id) if isinstance(server, Proxyserver) else None


def client_is_slow(client: Connection) -> bool:
    """Whether data for this client waits inside mitmproxy: then the provider's silence is ours."""
    if (handler := _handler_of(client)) is None or (io := handler.transports.get(client)) is None:
        return False
    # The streams of WireGuard and local mode do not tell.
    return isinstance(io.writer, asyncio.StreamWriter) and io.writer.transport.get_write_buffer_size() > 0


def was_reset(client: Connection, server: Connection) -> bool:
    """Whether a server connection, whose end the layers hear of now, was reset: mitmproxy tells them only that it is
    closed."""
    if (handler := _handler_of(client)) is None or (io := handler.transports.get(server)) is None:
        return False
    return isinstance(io.reader, asyncio.StreamReader) and isinstance(io.reader.exception(), ConnectionResetError)


def reset_at_end(client: Connection) -> None:
    """Let a client's connection end by a reset once it is closed: of a body that has no other end than that of its
    connection, nothing else tells that it broke off. What the client has not got yet of it may be lost."""
    if (handler := _handler_of(client)) is None or (io := handler.transports.get(client)) is None:
        return
    found = io.writer.transport.get_extra_info("socket") if isinstance(io.writer, asyncio.StreamWriter) else None
    if isinstance(found, TransportSocket):
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def asks_the_manager(client: Connection) -> bool:
    """Whether a client connection's hooks are given to the addon manager and to nobody else. That of a replay looks at
    them itself."""
    handler = _handler_of(client)
    return handler is not None and type(handler).handle_hook is ProxyConnectionHandler.handle_hook


def report_end(client: Connection, server: Server) -> None:
    """See to it that the layers hear of a server connection's end. To be called by the task that carries it.

    mitmproxy (12.2.3 at least) loses that end where the task is cancelled while it waits in a hook or for its turn
    to deliver an event: a reset while the proxy writes, a client that drops its connection. Whoever waits for that
    server would wait for ever, and its socket would stay open.
    """
    task = asyncio.current_task()
    handler = _handler_of(client)
    if task is None or handler is None:
        return

    def ended(_: object) -> None:
        if (io := handler.transports.pop(server, None)) is None:
            return  # it went the usual way
        server.state = ConnectionState.CLOSED
        if io.writer is not None:
            io.writer.close()
        telling = asyncio.ensure_future(handler.server_event(events.ConnectionClosed(server)))
        _telling.add(telling)
        telling.add_done_callback(_telling.discard)

    task.add_done_callback(ended)


def leads_back(server: Server) -> bool:
    """Whether a connection that is there leads to a port of this very proxy. mitmproxy refuses some names of it before
    it connects; any other (`127.1`, `0.0.0.0`, a name that a page has come to resolve to this machine) would be
    asked again and again, by itself, until there are no sockets left."""
    proxies = ctx.master.addons.get("proxyserver")
    if not isinstance(proxies, Proxyserver) or server.peername is None:
        return False
    there, port = address_of(server.peername[0]), server.peername[1]
    listening = (address_of(host) for host, p, *_ in proxies.listen_addrs() if p == port)
    return stays_here(server) and any(found is None or found.is_unspecified or found == there for found in listening)


def stays_here(server: Server) -> bool:
    """Whether a connection that is there leads to a port of this machine."""
    if server.peername is None or server.sockname is None:
        return False
    there = address_of(server.peername[0])
    return there is not None and (there.is_loopback or there == address_of(server.sockname[0]))


def close(client: Connection, server: Server) -> None:
    """End a server connection, as if its server had."""
    handler = _handler_of(client)
    if handler is not None and (io := handler.transports.get(server)) is not None and io.writer is not None:
        io.writer.close()


_telling: set[asyncio.Future[None]] = set()
