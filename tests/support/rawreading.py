"""What a client on bare sockets reads of one answer behind a proxy, over HTTP/1.1 or HTTP/2, and when it came."""

from __future__ import annotations

import bisect
import contextlib
import socket
import time
from dataclasses import dataclass, field
from typing import Any

import h2.events
import h2.exceptions

from support.h2client import H2Client
from support.proxy import Mitmdump

_HOP_BY_HOP = frozenset(
    {"connection", "transfer-encoding", "content-length", "keep-alive", "date", "trailer", "proxy-connection"}
)
"""What says how a message is framed between two neighbours; that the framing is right shows in how it is read."""


@dataclass
class Reading:
    """One answer as it was read. `arrivals`: seconds since the request, and the bytes of the body that were there."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    end: str = "no answer"
    """`clean`, `cut`, `stalled`; `no answer`: it ended before the head was there."""
    extra: bytes = b""
    """What came behind the end of the message."""
    interim: list[int] = field(default_factory=list)
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    head_at: float = 0
    done_at: float = 0

    def header(self, name: str) -> str | None:
        return next((v for k, v in self.headers if k.lower() == name), None)

    @property
    def shown(self) -> list[tuple[str, str]]:
        """The headers without those of the way and those that Sidestep adds."""
        return [(k, v) for k, v in self.headers if k.lower() not in _HOP_BY_HOP and not k.startswith("x-sidestep-")]

    @property
    def attempts(self) -> list[str]:
        told = self.header("x-sidestep-attempts")
        return [a.strip().partition(":")[2] for a in told.split(",")] if told else []

    def came_at(self, size: int) -> float | None:
        """When so many bytes of the body were there; with 0, when the head was."""
        if not size:
            return self.head_at
        at = bisect.bisect_left(self.arrivals, size, key=lambda a: a[1])
        return self.arrivals[at][0] if at < len(self.arrivals) else None

    def __str__(self) -> str:
        body = self.body if len(self.body) <= 1500 else self.body[:700] + b" ... " + self.body[-700:]
        fields = ", ".join(f"{k}: {v}" for k, v in self.headers)
        times = " ".join(f"{t:.2f}:{n}" for t, n in self.arrivals[:12])
        return (
            f"{self.status} {self.end}, head at {self.head_at:.2f} s, end at {self.done_at:.2f} s, {len(self.body)}"
            f" bytes ({times}){f', extra {self.extra!r}' if self.extra else ''}\n    {fields}\n    {body!r}"
        )


@dataclass(frozen=True)
class Turn:
    """One request. `patience`: how many seconds its answer may take. `chunked`: its length is not announced."""

    headers: list[tuple[str, str]]
    body: bytes
    patience: float
    method: str = "POST"
    version: str = "1.1"
    chunked: bool = False

    @property
    def expects(self) -> bool:
        return any(k.lower() == "expect" for k, _ in self.headers)


CONTINUE_SECONDS = 1.0
"""How long a client waits to be told to go on (RFC 9110, 10.1.1: not for ever)."""


class EndedError(Exception):
    """The connection ended, or the time was over."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


class H1Reader:
    """One connection to a proxy; a request after the other."""

    def __init__(self, proxy: Mitmdump) -> None:
        self.sock = socket.create_connection(("127.0.0.1", proxy.port), timeout=10)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""

    def close(self) -> None:
        self.sock.close()

    def ask(self, origin: str, path: str, turn: Turn) -> Reading:
        host = origin.partition("://")[2]
        fields = [("Host", host), *turn.headers]
        body = turn.body
        if turn.chunked:
            fields.append(("Transfer-Encoding", "chunked"))
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        elif body:
            fields.append(("Content-Length", str(len(body))))
        head = f"{turn.method} {origin}{path} HTTP/{turn.version}\r\n"
        head += "".join(f"{k}: {v}\r\n" for k, v in fields) + "\r\n"
        reading = Reading()
        began = time.monotonic()
        self._began, self._until = began, began + turn.patience
        self._bodiless = turn.method == "HEAD"
        try:
            self.sock.sendall(head.encode("latin-1"))
            if turn.expects:
                self.sock.settimeout(CONTINUE_SECONDS)
                with contextlib.suppress(TimeoutError):
                    self.sock.recv(1, socket.MSG_PEEK)
            self.sock.sendall(body)
            self._head(reading)
            self._body(reading)
            reading.end = "clean"
            reading.extra = self._rest
        except EndedError as e:
            reading.end = "no answer" if not reading.status and e.how == "cut" else e.how
        except OSError:
            reading.end = "cut" if reading.status else "no answer"
        reading.done_at = time.monotonic() - began
        return reading

    def _more(self) -> bytes:
        left = self._until - time.monotonic()
        if left <= 0:
            raise EndedError("stalled")
        self.sock.settimeout(left)
        try:
            return self.sock.recv(1 << 18)
        except TimeoutError:
            raise EndedError("stalled") from None
        except OSError:
            raise EndedError("cut") from None

    def _take_until(self, mark: bytes) -> bytes:
        while mark not in self._rest:
            more = self._more()
            if not more:
                raise EndedError("cut")
            self._rest += more
        data, _, self._rest = self._rest.partition(mark)
        return data

    def _head(self, reading: Reading) -> None:
        while True:
            lines = self._take_until(b"\r\n\r\n").decode("latin-1").split("\r\n")
            status = int(lines[0].split()[1])
            if status >= 200 or status == 101:
                break
            reading.interim.append(status)
        reading.status = status
        reading.head_at = time.monotonic() - self._began
        reading.headers = [(k, v.strip()) for k, _, v in (line.partition(":") for line in lines[1:])]

    def _body(self, reading: Reading) -> None:
        if reading.status in (204, 304) or self._bodiless:
            return
        if (reading.header("transfer-encoding") or "").lower() == "chunked":
            while size := int(self._take_until(b"\r\n").partition(b";")[0], 16):
                self._exactly(reading, size)
                if self._take_until(b"\r\n"):
                    raise EndedError("cut")
            while self._take_until(b"\r\n"):
                pass
        elif (length := reading.header("content-length")) is not None:
            self._exactly(reading, int(length))
        else:
            while piece := self._rest or self._more():
                self._rest = b""
                self._note(reading, [piece])

    def _exactly(self, reading: Reading, size: int) -> None:
        """Bytes of the body; what there is of them is noted as it comes."""
        pieces, have = [], 0
        try:
            while have < size:
                piece = self._rest or self._more()
                if not piece:
                    raise EndedError("cut")
                self._rest = piece[size - have :]
                pieces.append(piece[: size - have])
                have += len(pieces[-1])
                reading.arrivals.append((time.monotonic() - self._began, len(reading.body) + have))
        finally:
            reading.body += b"".join(pieces)

    def _note(self, reading: Reading, pieces: list[bytes]) -> None:
        reading.body += b"".join(pieces)
        reading.arrivals.append((time.monotonic() - self._began, len(reading.body)))


class H2Reader(H2Client):
    """One TLS connection through a proxy; a request after the other."""

    def __init__(self, proxy: Mitmdump, origin: str) -> None:
        super().__init__(proxy, "127.0.0.1", int(origin.rpartition(":")[2]), timeout=10)
        self._reading = Reading()
        received = self.connection.receive_data

        def tap(data: bytes) -> list[Any]:
            events = received(data)
            self._note(events)
            return events

        self.connection.receive_data = tap  # type: ignore[assignment, method-assign]

    def close(self) -> None:
        self.sock.close()

    def _note(self, events: list[Any]) -> None:
        now = time.monotonic() - self._began
        reading = self._reading
        for event in events:
            match event:
                case h2.events.InformationalResponseReceived(headers=headers):
                    reading.interim.append(int({str(k): str(v) for k, v in headers or ()}[":status"]))
                case h2.events.ResponseReceived(headers=headers):
                    fields = [(str(k), str(v)) for k, v in headers or ()]
                    reading.status, reading.head_at = int(dict(fields)[":status"]), now
                    reading.headers = [f for f in fields if not f[0].startswith(":")]
                case h2.events.DataReceived(data=piece):
                    total = (reading.arrivals[-1][1] if reading.arrivals else 0) + len(piece)
                    reading.arrivals.append((now, total))

    def ask(self, origin: str, path: str, turn: Turn) -> Reading:
        self._began = began = time.monotonic()
        self._reading = reading = Reading()
        number = 0
        try:
            fields = [(k.lower(), v) for k, v in turn.headers]
            if turn.body and not turn.chunked:
                fields.append(("content-length", str(len(turn.body))))
            number = self.send(path, turn.body, *fields, method=turn.method)
            stream = self.streams[number]
            while not stream.ended:
                self.sock.settimeout(max(0.001, began + turn.patience - time.monotonic()))
                self._receive()
            reading.end = "clean" if stream.reset is None else "cut"
        except TimeoutError:
            reading.end = "stalled"
        except (OSError, EOFError, h2.exceptions.ProtocolError):
            reading.end = "cut"
        if number:
            reading.body = self.streams[number].body
        if not reading.status and reading.end == "cut":
            reading.end = "no answer"
        reading.done_at = time.monotonic() - began
        return reading


def read(
    proxy: Mitmdump,
    origin: str,
    path: str,
    turns: list[Turn],
    *,
    http2: bool,
) -> list[Reading]:
    """The answers to some requests on one connection. Where a proxy closes it in between, the next request goes over a
    new one."""
    readings: list[Reading] = []
    with contextlib.ExitStack() as stack:
        reader: H1Reader | H2Reader | None = None
        for turn in turns:
            if reader is None or _ended(reader, readings[-1]):
                reader = H2Reader(proxy, origin) if http2 else H1Reader(proxy)
                stack.callback(reader.close)
            else:
                time.sleep(0.05)
            readings.append(reader.ask(origin, path, turn))
    return readings


def _ended(reader: H1Reader | H2Reader, last: Reading) -> bool:
    if isinstance(reader, H2Reader):
        return False if last.end == "clean" else reader.streams == {}
    if last.end != "clean" or (last.header("connection") or "").lower() == "close":
        return True
    if last.header("content-length") is None and (last.header("transfer-encoding") or "") != "chunked":
        return last.status not in (204, 304)
    reader.sock.settimeout(0.02)
    try:
        return reader.sock.recv(1, socket.MSG_PEEK) == b""
    except TimeoutError:
        return False
    except OSError:
        return True
