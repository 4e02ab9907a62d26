"""Listening at sockets that another process owns, and what else several processes cannot each do as mitmproxy does."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from mitmproxy import ctx, log
from mitmproxy.addons import save
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.proxy.mode_servers import AsyncioServerInstance
from mitmproxy.proxy.mode_specs import ProxyMode

QUEUE = 1024
"""Connections that may wait to be taken."""


class Owner(Protocol):
    """Who owns the sockets. `key`: mitmproxy's mode, host, port."""

    def listen(self, key: tuple[str, str, int]) -> list[socket.socket]:
        """Sockets that listen there; waits. OSError: why there are none."""
        ...

    def release(self, key: tuple[str, str, int]) -> None:
        """They are used no longer."""
        ...


def share_sockets(owner: Owner) -> None:
    """From now on mitmproxy listens at the owner's sockets."""
    stop = AsyncioServerInstance._stop
    keys: dict[AsyncioServerInstance[Any], tuple[str, str, int]] = {}

    async def listen(self: AsyncioServerInstance[Any], host: str, port: int) -> list[asyncio.Server]:
        key = (self.mode.full_spec, host, port)
        listeners = await asyncio.to_thread(owner.listen, key)
        keys[self] = key
        # A backlog is two things: how many connections the kernel keeps waiting, and how many are taken at each
        # wake-up. With the usual 100 one worker takes the whole of a burst; with 1 they take turns. The kernel's queue,
        # which is the same for all, is made long again.
        servers = [await asyncio.start_server(self.handle_stream, sock=s, backlog=1) for s in listeners]
        for listener in listeners:
            listener.listen(QUEUE)
        return servers

    async def _stop(self: AsyncioServerInstance[Any]) -> None:
        await stop(self)
        if (key := keys.pop(self, None)) is not None:
            owner.release(key)

    AsyncioServerInstance.listen = listen  # type: ignore[assignment,method-assign]
    AsyncioServerInstance._stop = _stop  # type: ignore[method-assign]


def write_apart(number: int) -> None:
    """What flows are saved to bears the worker's number: two that write to one file destroy it."""
    path = save._path

    @functools.wraps(path)
    def own(spec: str) -> str:
        return f"{path(spec)}.{number}"

    save._path = own  # type: ignore[assignment]


def sign_log(number: int) -> None:
    """Each line of the log begins with the worker's number."""
    plain: Callable[[log.MitmFormatter, Any], str] = log.MitmFormatter.format
    log.MitmFormatter.format = lambda self, record: f"[{number}]{plain(self, record)}"  # type: ignore[method-assign]


def unshared(modes: Sequence[str]) -> str | None:
    """The first mode that one process alone can serve: all that does not listen for TCP alone."""
    return next((spec for spec in modes if ProxyMode.parse(spec).transport_protocol != "tcp"), None)


def stop_listening() -> None:
    """No new connections; those that are there go on."""
    for server in _servers():
        for listener in server._servers:
            listener.close()


def _servers() -> list[AsyncioServerInstance[Any]]:
    proxyserver = ctx.master.addons.get("proxyserver")
    found = list(proxyserver.servers) if isinstance(proxyserver, Proxyserver) else []
    return [server for server in found if isinstance(server, AsyncioServerInstance)]
