"""Providers that a fuzzer writes the words of: what they do at each request is looked up by a mark in it.

Written on threads and bare sockets, so that nothing checks what they send.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import socket
import ssl
import struct
import threading
import time
from dataclasses import dataclass, field
from typing import Literal, Self

import h2.config
import h2.connection
import h2.events
from h2.exceptions import ProtocolError

MARK = re.compile(rb"case-(\w+)-")
End = Literal["keep", "close", "reset", "stall"]
STALL_SECONDS = 3


@dataclass
class Script:
    """What is done with one request: bytes, in these pieces, and how it ends. `upgrade`: after a good 101."""

    pieces: list[bytes] = field(default_factory=list)
    end: End = "keep"
    pause: float = 0
    upgrade: bool = False
    fields: list[tuple[str, str]] = field(default_factory=list)
    """Over HTTP/2: those of its head; what is sent are `pieces` of data, then."""
    frames: bytes = b""
    """Over HTTP/2: after that, as they are."""
    finish: bool = True


class Wild:
    """One provider. State: what it does, by mark; what it was sent, by mark; its connections."""

    def __init__(self, name: str, good: Script, tls: ssl.SSLContext | None = None) -> None:
        """`good`: what it does at any other request."""
        self.name = name
        self.good = good
        self.scripts: dict[str, Script] = {}
        self.asked: dict[str, bytes] = {}
        self.in_flight = 0
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def origin(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._listener, *list(self._open)):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            sock.settimeout(60)
            with contextlib.suppress(OSError, EOFError, ProtocolError, ValueError):
                if self._tls is None:
                    while self._one(sock):
                        pass
                else:
                    with self._tls.wrap_socket(sock, server_side=True) as tls:
                        self._frames(tls, sock)
        finally:
            self._open.discard(sock)
            sock.close()

    def _take(self, sent: bytes) -> Script:
        found = MARK.search(sent)
        mark = found[1].decode() if found is not None else ""
        if mark in self.scripts:
            self.asked[mark] = self.asked.get(mark, b"") + sent
        return self.scripts.get(mark, self.good)

    # --- HTTP/1.1

    def _one(self, sock: socket.socket) -> bool:
        """One request and its answer; whether the connection goes on."""
        data = b""
        sock.settimeout(STALL_SECONDS)  # where it keeps a connection whose end is awaited, that comes
        while b"\r\n\r\n" not in data:
            more = sock.recv(1 << 16)
            if not more:
                return False
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        chunked = re.search(rb"(?i)\r\ntransfer-encoding: *chunked", head)
        while (length is not None and len(body) < int(length[1])) or (chunked and b"0\r\n\r\n" not in body[-7:]):
            more = sock.recv(1 << 16)
            if not more:
                return False
            body += more
        script = self._take(head + b"\r\n\r\n" + body)
        if script.upgrade and (key := re.search(rb"(?i)\r\nsec-websocket-key: *(\S+)", head)) is not None:
            token = hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
            lines = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            sock.sendall(lines + b"Sec-WebSocket-Accept: " + base64.b64encode(token) + b"\r\n\r\n")
        for piece in script.pieces:
            sock.sendall(piece)
            if script.pause:
                time.sleep(script.pause)
        return self._end(sock, script)

    def _end(self, sock: socket.socket, script: Script) -> bool:
        match script.end:
            case "keep":
                return True
            case "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()
            case "close":
                # Not a reset, which an unread rest of the request would make of it.
                sock.shutdown(socket.SHUT_WR)
                sock.settimeout(1)
                while sock.recv(1 << 16):
                    pass
            case "stall":
                sock.settimeout(STALL_SECONDS)
                while sock.recv(1 << 16):
                    pass
        return False

    # --- HTTP/2

    def _frames(self, tls: ssl.SSLSocket, sock: socket.socket) -> None:
        config = h2.config.H2Configuration(
            client_side=False,
            normalize_outbound_headers=False,
            validate_outbound_headers=False,
            validate_inbound_headers=False,
        )
        connection = h2.connection.H2Connection(config)
        connection.initiate_connection()
        tls.sendall(connection.data_to_send())
        heard: dict[int, bytes] = {}
        while data := tls.recv(1 << 16):
            for event in connection.receive_data(data):
                match event:
                    case h2.events.RequestReceived(stream_id=number, headers=headers):
                        heard[number] = b"\n".join(bytes(k) + b": " + bytes(v) for k, v in headers or ())
                    case h2.events.DataReceived(stream_id=number, data=piece):
                        heard[number] += piece or b""
                        connection.acknowledge_received_data(event.flow_controlled_length, number)
                    case h2.events.StreamEnded(stream_id=number):
                        if not self._answer(connection, tls, number, self._take(heard.pop(number))):
                            tls.sendall(connection.data_to_send())
                            return
            tls.sendall(connection.data_to_send())

    def _answer(self, connection: h2.connection.H2Connection, tls: ssl.SSLSocket, number: int, script: Script) -> bool:
        connection.send_headers(number, script.fields or [(":status", "200"), ("content-type", "application/json")])
        for piece in script.pieces:
            for at in range(0, len(piece), 16_000):
                connection.send_data(number, piece[at : at + 16_000])
        if script.finish:
            connection.end_stream(number)
        tls.sendall(connection.data_to_send() + script.frames)
        match script.end:
            case "keep":
                return True
            case "stall":
                return True
            case "reset":
                connection.reset_stream(number, 2)
                return True
        return False
