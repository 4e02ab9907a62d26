"""A company's HTTP proxy, on threads: CONNECT and absolute-form requests, with a password if it has one."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import BinaryIO, Self

from support.ways import Address, basic


class ConnectProxy:
    """Use as a context manager. `names`: where names lead to that no resolver knows; with `alone`, to no others. What
    came is in `tunnels` and `forwarded` (the targets) and `heads`; `refusals` counts 407s."""

    def __init__(
        self, credentials: str | None = None, names: dict[str, Address] | None = None, *, alone: bool = False
    ) -> None:
        self.names = names or {}
        self.alone = alone
        self.tunnels: list[str] = []
        self.forwarded: list[str] = []
        self.heads: list[bytes] = []
        self.refusals = 0
        self._expected = None if credentials is None else basic(credentials)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: Address = self._listener.getsockname()
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._listen, daemon=True)]

    @property
    def url(self) -> str:
        return f"http://{self.address[0]}:{self.address[1]}"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        self._listener.close()

    def _listen(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._client, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _client(self, sock: socket.socket) -> None:
        self._open.add(sock)
        with contextlib.suppress(OSError), sock, sock.makefile("rb") as file:
            while (head := _head(file)) and self._request(sock, file, head):
                pass
        self._open.discard(sock)

    def _request(self, sock: socket.socket, file: BinaryIO, head: bytes) -> bool:
        """Serve one request; False if the connection is over."""
        self.heads.append(head)
        lines = head.decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ")
        fields = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines[1:] if line)}
        body = file.read(int(fields.get("content-length", "0")))
        if self._expected is not None and fields.get("proxy-authorization") != self._expected:
            self.refusals += 1
            no = b'HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm="it"\r\nContent-Length: 0\r\n\r\n'
            sock.sendall(no)
            return True
        if method == "CONNECT":
            self.tunnels.append(target)
            try:
                server = self._reach(target)
            except OSError:
                sock.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
                return True
            with server:
                sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                there = threading.Thread(target=_pipe, args=(sock, server), daemon=True)
                there.start()
                _pipe(server, sock)
                there.join(5)
            return False
        self.forwarded.append(target)
        authority, _, path = target.partition("://")[2].partition("/")
        kept = [line for line in lines[1:] if line and line.lower().split(":")[0] not in _HOPS]
        with self._reach(authority) as server:
            first = f"{method} /{path} HTTP/1.1"
            server.sendall("\r\n".join([first, *kept, "Connection: close", "", ""]).encode("latin-1") + body)
            # A server that takes no notice must not keep the client waiting for its next answer here.
            status, _, rest = server.recv(65536).partition(b"\r\n")
            sock.sendall(status + b"\r\nConnection: close\r\n" + rest)
            _pipe(server, sock)
        return False

    def _reach(self, authority: str) -> socket.socket:
        host, _, port = authority.partition(":")
        if self.alone and authority not in self.names:
            raise ConnectionRefusedError(authority)
        server = socket.create_connection(self.names.get(authority, (host, int(port or 80))), timeout=15)
        self._open.add(server)
        return server


_HOPS = ("proxy-authorization", "proxy-connection", "connection")


def _head(file: BinaryIO) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = file.readline()
        if not line:
            return b""
        head += line
    return head


def _pipe(source: socket.socket, sink: socket.socket) -> None:
    """Carry bytes to the end, and the end too."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
