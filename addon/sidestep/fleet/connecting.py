"""Connections to a store: to one server, to the one that Sentinels name, or to the node of a Cluster that has the
group's keys. With `carrier` the only room that knows the client library.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any

from valkey.asyncio import Valkey
from valkey.asyncio.connection import Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection
from valkey.asyncio.retry import Retry
from valkey.backoff import NoBackoff

from sidestep.config.stores import Address, Host, Tls
from sidestep.fleet.causes import NoMasterError

CONNECT_SECONDS = 1.0
SENTINEL_SECONDS = 0.2
"""For one of them; who does not answer is asked last the next time."""
CLOSE_SECONDS = 0.2


class Connector:
    """State: which Sentinel is asked first, what TLS is spoken with."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._first = 0
        self._context: ssl.SSLContext | None = None

    async def open(self, node: Host | None = None) -> Valkey:
        """A client; it connects with its first command. `node`: of a Cluster, which another node has named."""
        if self.address.tls is not None:
            # Each time anew, for certificates are renewed; reading the machine's takes up to 50 ms.
            self._context = await asyncio.to_thread(_context, self.address.tls)
        if self.address.service:
            return self._client(await self._master())
        [host] = self.address.hosts or [None]
        if node is not None and host is not None:
            host = node[0] or host[0], node[1]  # a node that does not know its name: by the one that it is called here
        return self._client(host)

    async def _master(self) -> Host:
        """By the first Sentinel that knows it. NoMasterError, or whatever the last one that was asked failed with."""
        hosts, service = self.address.hosts, self.address.service
        failed: Exception = NoMasterError(service)
        for _ in hosts:
            sentinel: Any = self._client(hosts[self._first], of_sentinel=True)
            try:
                answer = await sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)
                if answer:
                    return str(answer[0]), int(answer[1])
                failed = NoMasterError(service)
            except Exception as e:
                failed = e
            finally:
                await close(sentinel)
            self._first = (self._first + 1) % len(hosts)
        raise failed

    def _client(self, host: Host | None, *, of_sentinel: bool = False) -> Valkey:
        options = dict(self.address.options)
        seconds = CONNECT_SECONDS
        if of_sentinel:
            seconds = SENTINEL_SECONDS
            options |= {"db": 0, "username": self.address.sentinel[0], "password": self.address.sentinel[1]}
        kind: Any = UnixDomainSocketConnection
        if host is not None:
            kind = Connection
            options |= {"host": host[0], "port": host[1]}
            if self._context is not None:
                kind = _SecureConnection
                options["context"] = self._context
        pool = ConnectionPool(
            connection_class=kind,
            decode_responses=True,
            encoding_errors="replace",  # else one byte in one value would cost the connection
            socket_timeout=seconds,
            socket_connect_timeout=seconds,
            # Else a server that is gone is tried for seconds.
            retry=Retry(NoBackoff(), 0),
            **options,
        )
        return Valkey.from_pool(pool)


class _SecureConnection(SSLConnection):
    """By a context of ours: the client's own takes any host's certificate unless it is told otherwise, and trusts the
    machine's CAs beside the one that is named."""

    def __init__(self, context: ssl.SSLContext, **options: Any) -> None:
        super().__init__(**options)
        self.ssl_context.context = context


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.ca)
    context.check_hostname = tls.checks_host
    context.verify_mode = ssl.CERT_REQUIRED if tls.is_verified else ssl.CERT_NONE
    if tls.certificate is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    return context


async def close(client: Valkey | None) -> None:
    if client is not None:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_SECONDS):
                await client.aclose()
