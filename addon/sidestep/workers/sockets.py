"""Listening sockets, as a supervisor makes them for its workers."""

from __future__ import annotations

import errno
import socket

QUEUE = 1024
"""Connections that may wait to be taken."""
TRIES = 20


def bind(host: str, port: int) -> list[socket.socket]:
    """Listen at all addresses of a host, as `asyncio.start_server` does; port 0 is the same free one for all of them.
    OSError: why that cannot be."""
    if port:
        return _bind(host, port)
    for _ in range(TRIES):
        first = _bind(host, 0, only_one=True)
        free = first[0].getsockname()[1]
        first[0].close()
        try:
            return _bind(host, free)
        except OSError as e:
            if e.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, "no port is free for all addresses of the host")


def _bind(host: str, port: int, *, only_one: bool = False) -> list[socket.socket]:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    places = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    made: list[socket.socket] = []
    try:
        for family, address in places[:1] if only_one else places:
            try:
                made.append(_listener(family, address))
            except OSError as e:
                # Of two families a machine, or a container, may have but one.
                if e.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL) or len(places) == 1:
                    raise
                missing = e
        if not made:
            raise missing
    except OSError:
        for listener in made:
            listener.close()
        raise
    return made


def _listener(family: int, address: tuple[object, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.setblocking(False)
        listener.listen(QUEUE)
    except OSError:
        listener.close()
        raise
    return listener
