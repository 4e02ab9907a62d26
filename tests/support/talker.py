"""A provider that is spoken to over a WebSocket and over HTTP at one address, as OpenAI is: it says what a test has
written down."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import zlib
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Self

from wsproto.connection import ConnectionType
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Request, TextMessage
from wsproto.extensions import PerMessageDeflate
from wsproto.handshake import H11Handshake

Word = dict[str, Any] | bytes | str | tuple[int, str] | threading.Event
"""A frame as JSON, as text or bytes; a close with its code and reason; `vanish`, `reset`; something to wait for."""
Turn = Sequence[Word]


def said(text: str = "well", name: str = "resp_1") -> list[Word]:
    """A good response."""
    item = {"id": f"msg_{name}", "type": "message", "content": [{"type": "output_text", "text": text}]}
    usage = {"input_tokens": 7, "output_tokens": 3}
    return [
        {"type": "response.created", "response": {"id": name, "status": "in_progress", "output": []}},
        {"type": "response.output_text.delta", "item_id": item["id"], "delta": text},
        {
            "type": "response.completed",
            "response": {"id": name, "status": "completed", "model": "gpt-5", "output": [item], "usage": usage},
        },
    ]


class Talker:
    """State: what it will say to each message that asks for a response, in order; then it says `said()`. `status`: of
    its answer to a handshake, `http` of that to a call. `accept`: what it says in place of the right token; `upgrade`
    likewise."""

    def __init__(self, name: str, *turns: Turn, status: int = 101, http: int = 200) -> None:
        self.name = name
        self.turns = deque(turns)
        self.status = status
        self.http = http
        self.accept: str | None = None
        self.upgrade = "websocket"
        self.body = b'{"error": {"message": "no", "type": "x", "code": null}}'
        self.kind = "application/json"
        self.handshakes: list[dict[str, str]] = []
        self.calls: list[dict[str, Any]] = []
        self.heard: list[str | bytes] = []
        self.compressed = False
        self.closed_with: list[int] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.sockets: list[socket.socket] = []
        self.threads = [threading.Thread(target=self._listen, daemon=True)]

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        self.threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self.listener, *self.sockets):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(5)

    def _listen(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.sockets.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self.threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, suppress(OSError):
            data = b""
            while True:
                while b"\r\n\r\n" not in data:
                    more = sock.recv(65536)
                    if not more:
                        return
                    data += more
                head, _, data = data.partition(b"\r\n\r\n")
                lines = head.decode("latin-1").split("\r\n")
                fields = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines[1:])}
                if "upgrade" in fields:
                    self.handshakes.append({"": lines[0], **fields})
                    if self.status == 101:
                        self._talk(sock, head + b"\r\n\r\n" + data)
                        return
                    sock.sendall(self._whole(self.status, self.kind, self.body))
                    continue
                size = int(fields.get("content-length", "0"))
                while len(data) < size:
                    data += sock.recv(65536)
                self.calls.append(json.loads(data[:size]))
                data = data[size:]
                sock.sendall(self._answer())

    def _answer(self) -> bytes:
        """Of a call over HTTP."""
        if self.http != 200:
            return self._whole(self.http, "application/json", self.body)
        events = b"".join(b"data: " + json.dumps(frame).encode() + b"\n\n" for frame in said(f"from {self.name}"))
        return self._whole(200, "text/event-stream", events)

    @staticmethod
    def _whole(status: int, kind: str, body: bytes) -> bytes:
        head = f"HTTP/1.1 {status} x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    # --- the WebSocket

    def _talk(self, sock: socket.socket, handshake: bytes) -> None:
        shaking = H11Handshake(ConnectionType.SERVER)
        shaking.receive_data(handshake)
        (request,) = shaking.events()
        assert isinstance(request, Request)
        deflate = PerMessageDeflate()
        answer = shaking.send(AcceptConnection(extensions=[deflate]))
        self.compressed = deflate.enabled()
        answer = re.sub(rb"(?i)(upgrade: )websocket", rb"\1" + self.upgrade.encode(), answer, count=1)
        if self.accept is not None:
            answer = re.sub(rb"(?i)(sec-websocket-accept: )[^\r]*", rb"\1" + self.accept.encode(), answer)
        sock.sendall(answer)
        ws = shaking.connection
        assert ws is not None
        message: list[str | bytes] = []
        while True:
            for event in ws.events():
                match event:
                    case CloseConnection():
                        self.closed_with.append(event.code)
                        with suppress(Exception):
                            sock.sendall(ws.send(event.response()))
                        return
                    case TextMessage(data=some) | BytesMessage(data=some):
                        message.append(some if isinstance(some, str) else bytes(some))
                        if event.message_finished:
                            whole = _joined(message)
                            message = []
                            self.heard.append(whole)
                            if not self._reply(sock, ws, whole):
                                return
            data = sock.recv(65536)
            if not data:
                return
            ws.receive_data(data)

    def _reply(self, sock: socket.socket, ws: Any, message: str | bytes) -> bool:
        """Say what comes next; False if the connection is over."""
        if isinstance(message, bytes) or '"response.create"' not in message:
            return True
        for word in self.turns.popleft() if self.turns else said():
            match word:
                case "vanish":
                    return False
                case "reset":
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    sock.close()
                    return False
                case (int() as code, str() as reason):
                    sock.sendall(ws.send(CloseConnection(code, reason)))
                case threading.Event():
                    word.wait(10)
                case bytes():
                    sock.sendall(ws.send(BytesMessage(word)))
                case str():
                    sock.sendall(ws.send(TextMessage(word)))
                case _:
                    sock.sendall(ws.send(TextMessage(json.dumps(word))))
        return True


def _joined(parts: list[str | bytes]) -> str | bytes:
    if isinstance(parts[0], str):
        return "".join(p for p in parts if isinstance(p, str))
    return b"".join(p for p in parts if isinstance(p, bytes))


def crc(data: str | bytes) -> int:
    """Stands for a message that is too long to be shown when it differs."""
    return zlib.crc32(data.encode() if isinstance(data, str) else data)
