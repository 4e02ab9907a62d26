"""Apps that can be made to leave, over both HTTP versions, with the same words."""

from __future__ import annotations

import socket
import struct
from typing import Any, Self

from support import raw
from support.h2client import H2Client, Stream
from support.proxy import Mitmdump


class H1App:
    """An app that speaks HTTP/1.1 to the proxy, in clear."""

    def __init__(self, m: Mitmdump, host: str) -> None:
        self._url = f"http://{host}/v1"
        self._wire = raw.Wire(m)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._wire.sock.close()

    def send(self, *, stream: bool, **more: Any) -> None:
        self._wire.send(raw.chat(self._url, stream=stream, **more))

    def until(self, mark: bytes) -> None:
        self._wire.peek(mark)

    def take_some(self) -> None:
        self._wire.sock.recv(3000)

    def answer(self) -> Stream:
        status, headers, body = self._wire.answer()
        return Stream(0, status, headers, body, ended=True)

    def leave(self, how: str) -> None:
        if how == "reset":
            self._wire.reset()
        else:
            self._wire.sock.close()


class H2App:
    """An app that speaks HTTP/2 to the proxy."""

    def __init__(self, m: Mitmdump, host: str) -> None:
        self._client = H2Client(m, host)
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.sock.close()

    def send(self, *, stream: bool, **more: Any) -> None:
        self._number = self._client.chat(stream=stream, **more)

    def until(self, mark: bytes) -> None:
        self._client.until(self._number, mark)

    def take_some(self) -> None:
        self._client._receive()

    def answer(self) -> Stream:
        return self._client.answer(self._number)

    def leave(self, how: str) -> None:
        if how == "cancel":
            self._client.cancel(self._number)
        elif how == "reset":
            # Beneath TLS, without a word.
            self._client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._client.sock.close()
        else:
            self._client.sock.close()


App = H1App | H2App
WAYS = {"h1": ("close", "reset"), "h2": ("close", "reset", "cancel")}
"""How an app can leave."""
