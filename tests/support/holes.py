"""Places that nobody serves."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from typing import Literal, Self


class Hole:
    """A port where connections come to nothing: `mute` takes them and says nothing, `full` does not even take them.
    Once it is `slammed` they are reset, what was there and what comes."""

    def __init__(self, kind: Literal["mute", "full"]) -> None:
        self._server = socket.create_server(("127.0.0.1", 0), backlog=0 if kind == "full" else 100)
        self.port: int = self._server.getsockname()[1]
        self._full = kind == "full"
        self._inside: list[socket.socket] = []
        self._slammed = False
        self.arrived = threading.Semaphore(0)
        if not self._full:
            threading.Thread(target=self._take, daemon=True).start()

    def fill(self) -> None:
        """Once a connection is not made at once, none is until this port is slammed."""
        while self._full:
            guest = socket.socket()
            self._inside.append(guest)
            assert len(self._inside) < 10, "this port takes whatever comes"
            guest.settimeout(0.05)
            try:
                guest.connect(("127.0.0.1", self.port))
            except TimeoutError:
                return

    def _take(self) -> None:
        with suppress(OSError):
            while True:
                guest, _ = self._server.accept()
                guest.settimeout(5)
                with suppress(OSError):
                    guest.recv(1)  # the first byte of its TLS handshake
                self._inside.append(guest)
                if self._slammed:
                    self._reset()
                self.arrived.release()

    def _reset(self) -> None:
        while self._inside:
            guest = self._inside.pop()
            with suppress(OSError):
                guest.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            guest.close()

    def slam(self) -> Self:
        self._slammed = True
        if self._full:
            self.close()
        else:
            self._reset()
        return self

    def close(self) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._reset()
