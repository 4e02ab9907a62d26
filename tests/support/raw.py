"""A client on bare sockets: sends exactly what it is told and keeps exactly what it gets."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any, Self

from support.proxy import Mitmdump


def request(url: str, body: bytes, *headers: tuple[str, str], method: str = "POST") -> bytes:
    """A proxy request in absolute form."""
    host = url.split("/", 3)[2]
    fields = [("Host", host), *headers, ("Content-Length", str(len(body)))]
    head = f"{method} {url} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields) + "\r\n"
    return head.encode() + body


def to_server(sent: bytes) -> bytes:
    """The same request in origin form, as it is sent where no HTTP proxy is addressed."""
    method, target, rest = sent.split(b" ", 2)
    return b" ".join((method, b"/" + target.split(b"/", 3)[3], rest))


def chat(url: str, *, stream: bool = False, key: str = "sk-app", **more: Any) -> bytes:
    """A chat completion request."""
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], **({"stream": True} if stream else {})}
    data = json.dumps({**body, **more}).encode()
    return request(
        f"{url}/chat/completions", data, ("Authorization", f"Bearer {key}"), ("Content-Type", "application/json")
    )


class Wire:
    """One connection to the proxy."""

    def __init__(self, proxy: Mitmdump, timeout: float = 15) -> None:
        self.sock = socket.create_connection(("127.0.0.1", proxy.port), timeout=timeout)
        self._rest = b""

    @classmethod
    def over(cls, sock: socket.socket) -> Self:
        """On a connection that was made elsewhere."""
        wire = cls.__new__(cls)
        wire.sock = sock
        wire._rest = b""
        return wire

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> Self:
        self.sock.sendall(data)
        return self

    def reset(self) -> None:
        """Leave as abruptly as a client can."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def until(self, mark: bytes) -> bytes:
        """What comes, up to and with these bytes."""
        data = self._rest
        while mark not in data:
            more = self.sock.recv(65536)
            if not more:
                raise EOFError(data.decode("latin-1"))
            data += more
        end = data.index(mark) + len(mark)
        self._rest = data[end:]
        return data[:end]

    def peek(self, mark: bytes) -> None:
        """Wait for these bytes, and leave them to be read."""
        while mark not in self._rest:
            more = self.sock.recv(65536)
            if not more:
                raise EOFError(self._rest.decode("latin-1"))
            self._rest += more

    def head(self) -> tuple[int, dict[str, str]]:
        lines = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines[1:] if line)
        return int(lines[0].split()[1]), {k.lower(): v for k, v in fields.items()}

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """A whole answer, its body without its chunks' frames."""
        status, headers = self.head()
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self.until(b"\r\n"), 16):
                body += self.exactly(size)
                self.until(b"\r\n")
            self.until(b"\r\n")
            return status, headers, body
        if "content-length" in headers:
            return status, headers, self.exactly(int(headers["content-length"]))
        return status, headers, self.rest()

    def exactly(self, size: int) -> bytes:
        data = self._rest
        while len(data) < size:
            more = self.sock.recv(65536)
            if not more:
                raise EOFError(data.decode("latin-1"))
            data += more
        self._rest = data[size:]
        return data[:size]

    def rest(self) -> bytes:
        data = self._rest
        while more := self.sock.recv(65536):
            data += more
        self._rest = b""
        return data
