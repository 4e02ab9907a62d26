"""An HTTP/2 client on a bare TLS socket behind the proxy: CONNECT, ALPN h2, then frames one by one.

For what the SDKs' clients cannot do: many streams on one connection, a reset of one of them, a window that
stays shut.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings

from support.proxy import Mitmdump

_RECEIVE = 65536


@dataclass
class Stream:
    """What came on one stream so far."""

    id: int
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)
    ended: bool = False
    reset: int | None = None
    """The error code, if the proxy reset it."""


def said(answer: Stream) -> str:
    """The text of a chat completion, whole or streamed."""
    if answer.headers.get("content-type", "").startswith("application/json"):
        return str(json.loads(answer.body)["choices"][0]["message"]["content"])
    return "".join(
        choice["delta"].get("content") or "" for event in events(answer) for choice in event.get("choices", ())
    )


def events(answer: Stream) -> Iterator[dict[str, Any]]:
    """The events of a streamed chat completion that are JSON."""
    for line in answer.body.split(b"\n\n"):
        data = line.removeprefix(b"data: ")
        if data.startswith(b"{"):
            yield json.loads(data)


class H2Client:
    """One connection. State: the socket, the protocol's state, the streams by id, whether what is sent waits."""

    def __init__(
        self, proxy: Mitmdump, host: str, port: int = 443, timeout: float = 15, ca: Path | None = None
    ) -> None:
        """`ca`: trusted in place of the proxy's."""
        self.host = host
        raw = socket.create_connection(("127.0.0.1", proxy.port), timeout=timeout)
        try:
            raw.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
            answer = b""
            while b"\r\n\r\n" not in answer:
                # One byte at a time: what follows belongs to TLS.
                byte = raw.recv(1)
                assert byte, f"the proxy hung up: {answer!r}"
                answer += byte
            assert b" 200 " in answer.split(b"\r\n")[0] + b" ", answer
            context = ssl.create_default_context(cafile=str(ca or proxy.ca))
            context.set_alpn_protocols(["h2"])
            self._begin(context.wrap_socket(raw, server_hostname=host))
        except BaseException:
            raw.close()
            raise

    @classmethod
    def over(cls, sock: ssl.SSLSocket, host: str) -> Self:
        """On a connection that was made elsewhere."""
        client = cls.__new__(cls)
        client.host = host
        client._begin(sock)
        return client

    def _begin(self, sock: ssl.SSLSocket) -> None:
        self.sock = sock
        self.streams: dict[int, Stream] = {}
        self._holds_back = False
        assert self.sock.selected_alpn_protocol() == "h2"
        self.connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="latin-1"))
        self.connection.initiate_connection()
        self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.sock.close()

    def send(
        self,
        path: str,
        body: bytes,
        *headers: tuple[str, str],
        method: str = "POST",
        ends: bool = True,
        trailers: tuple[tuple[str, str], ...] = (),
    ) -> int:
        """Begin a request; its stream's id. Bodies larger than the window are sent as it opens. `ends`: it is all."""
        number: int = self.connection.get_next_available_stream_id()
        head = [(":method", method), (":scheme", "https"), (":authority", self.host), (":path", path), *headers]
        self.streams[number] = Stream(number)
        self.connection.send_headers(number, head, end_stream=ends and not body)
        self._flush()
        while body:
            room = min(
                self.connection.local_flow_control_window(number), self.connection.max_outbound_frame_size, len(body)
            )
            if room <= 0:
                self._receive()
                continue
            piece, body = body[:room], body[room:]
            self.connection.send_data(number, piece, end_stream=ends and not body and not trailers)
            self._flush()
        if trailers:
            self.connection.send_headers(number, trailers, end_stream=True)
            self._flush()
        return number

    def chat(self, *, stream: bool = False, key: str = "sk-app", **more: Any) -> int:
        """Begin a chat completion; its stream's id."""
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], **more}
        if stream:
            body["stream"] = True
        data = json.dumps(body).encode()
        # As every real client does; without a length mitmproxy hands an HTTP/1.1 server no body at all.
        fields = (("content-type", "application/json"), ("content-length", str(len(data))))
        return self.send("/v1/chat/completions", data, ("authorization", f"Bearer {key}"), *fields)

    @contextlib.contextmanager
    def in_one_breath(self) -> Iterator[None]:
        """What is sent meanwhile goes out as one piece at the end."""
        self._holds_back = True
        yield
        self._holds_back = False
        self._flush()

    def cancel(self, number: int) -> None:
        """Leave one stream, and stay on the connection."""
        self.connection.reset_stream(number, h2.errors.ErrorCodes.CANCEL)
        self._flush()

    def until(self, number: int, mark: bytes) -> Stream:
        """Read until a stream's body holds these bytes."""
        stream = self.streams[number]
        while mark not in stream.body:
            assert not stream.ended, f"ended without {mark!r}: {stream}"
            self._receive()
        return stream

    def answer(self, number: int) -> Stream:
        """Read until a stream has ended, well or by a reset."""
        stream = self.streams[number]
        while not stream.ended:
            self._receive()
        return stream

    def _flush(self) -> None:
        data = b"" if self._holds_back else self.connection.data_to_send()
        if data:
            self.sock.sendall(data)

    def _receive(self) -> None:
        data = self.sock.recv(_RECEIVE)
        if not data:
            raise EOFError("the proxy closed the connection")
        for event in self.connection.receive_data(data):
            match event:
                case h2.events.ResponseReceived(stream_id=number, headers=headers):
                    stream = self.streams[number]
                    stream.headers = {str(k): str(v) for k, v in headers or ()}
                    stream.status = int(stream.headers.pop(":status"))
                case h2.events.DataReceived(stream_id=number, data=piece):
                    self.streams[number].body += piece
                    self.connection.acknowledge_received_data(event.flow_controlled_length, number)
                case h2.events.TrailersReceived(stream_id=number, headers=headers):
                    self.streams[number].trailers = {str(k): str(v) for k, v in headers or ()}
                case h2.events.StreamEnded(stream_id=number):
                    self.streams[number].ended = True
                case h2.events.StreamReset(stream_id=number, error_code=code):
                    if number in self.streams:
                        self.streams[number].ended = True
                        self.streams[number].reset = int(code)
                case h2.events.ConnectionTerminated():
                    raise EOFError(f"the proxy said GOAWAY: {event.error_code}")
        self._flush()
