"""What a provider says in its errors is for the app alone: not for the log, the flow's error or what we tell of it."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import pytest
import trustme
from h2.exceptions import ProtocolError
from mitmproxy import http, io

from support.h2client import H2Client
from support.h2provider import server_context
from support.provider import Behaviour, Provider
from support.proxy import Mitmdump
from support.raw import Wire, chat
from support.settings import key_of, route, table
from support.waiting import until

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]
WORDS = "WORDS-of-a-provider"
SAID = WORDS.encode()
APP = "http://api.openai.com/v1"
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'
ERROR = json.dumps({"error": {"message": WORDS, "type": WORDS, "code": WORDS}}).encode()
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
LONG = b'{"choices":[{"message":{"content":"' + b"x" * 2_000_000
"""Of a whole answer, longer than is held back."""


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


CASES: dict[str, Behaviour] = {
    "no head": Behaviour(raw=SAID + b"\r\n\r\n"),
    "half a head": Behaviour(raw=b"HTTP/1.1 200 OK\r\nx-words: " + SAID),
    "a line that is no field": Behaviour(raw=b"HTTP/1.1 200 OK\r\n" + SAID + b"\r\n\r\n"),
    "two lengths": Behaviour(raw=b"HTTP/1.1 200 OK\r\ncontent-length: " + SAID + b"\r\n\r\n"),
    "a chunk in a document": Behaviour(raw=WHOLE + chunk(LONG) + SAID + b"\r\n"),
    "a chunk in a stream": Behaviour(raw=STREAM + chunk(EVENT) + SAID + b"\r\n"),
    "a chunk before content": Behaviour(raw=STREAM + SAID + b"\r\n"),
    "an error event": Behaviour(raw=STREAM + chunk(EVENT) + chunk(b"data: " + ERROR + b"\n\n"), stall=True),
    "an error event before content": Behaviour(raw=STREAM + chunk(b"data: " + ERROR + b"\n\n"), stall=True),
    "an error": Behaviour(status=500, body=ERROR),
    "a refusal": Behaviour(status=400, body=ERROR),
    "a page": Behaviour(status=502, body=b"<html>" + SAID, headers={"content-type": "text/html"}),
    "out of turn": Behaviour(raw=WHOLE + chunk(b'{"choices":[]}') + b"0\r\n\r\n" + SAID, stall=True),
}


def told(m: Mitmdump, saved: Path) -> str:
    """All that is read by who reads logs, pages and metrics, and of a dump what is no message of the app's. (mitmproxy
    shows those as it is told to: a status line with its reason, for one.)"""
    until(lambda: m.health()["in_flight"] == 0, "all is over")
    pages = [m.page(path)[1].decode() for path in ("/", "/health", "/metrics", "/status", "/state")]
    m.stop()
    with saved.open("rb") as f:
        flows = [x for x in io.FlowReader(f).stream() if isinstance(x, http.HTTPFlow)]
    assert flows
    errors = [f"{flow.error} {flow.metadata} {flow.comment}" for flow in flows]
    return "\n".join([m.log, *pages, *errors])


@pytest.mark.parametrize("others", ["alone", "with another"])
@pytest.mark.parametrize("commit", ["first_content", "complete"])
def test_its_words_are_for_the_app_alone(
    provider: Make, proxy: Start, tmp_path: Path, commit: str, others: str
) -> None:
    saved = tmp_path / "saved"
    a, b = provider("a"), provider("b")
    config = table("attempts", {"per_provider": 1, "backoff_seconds": 0.01})
    config += table("circuit", {"failure_threshold": 1000}) + table("stream", {"commit": commit})
    names = ["a"] if others == "alone" else ["a", "b"]
    for p in (a, b):
        config += f'[[providers]]\nname = "{p.name}"\ndialect = "openai"\nbase_url = "{p.url()}"\n'
        config += f'api_key = "{key_of(p.name)}"\n'
    config += f'[[routes]]\nintercept = ["{APP}"]\nproviders = {json.dumps(names)}\n'
    m = proxy(config, "-w", str(saved), "--set", "termlog_verbosity=debug", "--set", "flow_detail=1")
    for name, behaviour in CASES.items():
        a.then(behaviour)
        with Wire(m) as wire, contextlib.suppress(EOFError, ConnectionError):
            wire.send(chat(APP, stream="event" in name or "stream" in name, user=name)).answer()
    assert a.count == len(CASES)
    assert WORDS not in told(m, saved)


# --- over HTTP/2


class Rude:
    """A server that ends its answer with words of its own: in a GOAWAY, or in a field that breaks the protocol."""

    def __init__(self, ca: trustme.CA, how: str) -> None:
        self.how = how
        self.asked = 0
        self._context = server_context(ca, "127.0.0.1", "h2")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError, ProtocolError), self._context.wrap_socket(sock, server_side=True) as tls:
                tls.settimeout(20)
                self._speak(tls)

    def _speak(self, tls: ssl.SSLSocket) -> None:
        config = h2.config.H2Configuration(
            client_side=False, normalize_outbound_headers=False, validate_outbound_headers=False
        )
        connection = h2.connection.H2Connection(config)
        connection.initiate_connection()
        tls.sendall(connection.data_to_send())
        while data := tls.recv(65536):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.StreamEnded):
                    self._answer(connection, event.stream_id)
            tls.sendall(connection.data_to_send())

    def _answer(self, connection: h2.connection.H2Connection, number: int) -> None:
        self.asked += 1
        head = [(":status", "200"), ("content-type", "text/event-stream")]
        if self.how.startswith("a field"):
            head.append((f"x-{WORDS}", "upper case"))
        connection.send_headers(number, head)
        if "content" in self.how:
            connection.send_data(number, EVENT)
        if "goes away" in self.how:
            connection.close_connection(additional_data=SAID, last_stream_id=number)
        elif "trailer" in self.how:
            connection.send_headers(number, [(f"x-{WORDS}", "upper case")], end_stream=True)


@pytest.fixture
def rude(stack: contextlib.ExitStack, ca: trustme.CA) -> Callable[[str], Rude]:
    def make(how: str) -> Rude:
        server = Rude(ca, how)
        stack.callback(server.close)
        return server

    return make


@pytest.fixture
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize("how", ["goes away", "content, then goes away", "a field", "content, then a trailer"])
def test_its_words_over_http_2(
    rude: Callable[[str], Rude], ca: trustme.CA, provider: Make, proxy: Start, tmp_path: Path, how: str
) -> None:
    saved, bundle = tmp_path / "saved", tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(bundle))
    server = rude(how)
    config = table("attempts", {"per_provider": 1, "backoff_seconds": 0.01})
    config += f'[[providers]]\nname = "a"\ndialect = "openai"\nbase_url = "{server.url}"\napi_key = "{key_of("a")}"\n'
    config += '[[routes]]\nintercept = ["https://api.openai.com/v1"]\nproviders = ["a"]\n'
    trust = f"ssl_verify_upstream_trusted_ca={bundle}"
    m = proxy(config, "-w", str(saved), "--set", trust, "--set", "termlog_verbosity=debug", "--set", "flow_detail=1")
    with H2Client(m, "api.openai.com") as client:
        client.answer(client.chat(stream=True))
    assert server.asked == 1
    assert WORDS not in told(m, saved)


# --- over a WebSocket


def frame(opcode: int, content: bytes, mask: bytes = b"") -> bytes:
    return bytes([0x80 | opcode, len(content) | (0x80 if mask else 0)]) + mask + content


def route_to(a: Provider) -> str:
    return route("chat", a, intercept=APP)


PING, CLOSE = 9, 8
TAKES = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"


def test_its_words_over_a_websocket(provider: Make, proxy: Start, tmp_path: Path) -> None:
    """Neither pings, of both sides, nor the names of extensions."""
    saved, a = tmp_path / "saved", provider("a")
    token = b"Sec-WebSocket-Accept: FjoRzSthtyVD3IVqV9Yev4arzAE=\r\nSec-WebSocket-Extensions: " + SAID
    closes = frame(PING, SAID) + frame(CLOSE, b"\x03\xf3")
    gate = threading.Event()
    a.default = Behaviour(raw=TAKES + token + b"\r\n\r\n", gate=gate, rest=closes)
    m = proxy(route_to(a), "-w", str(saved), "--set", "termlog_verbosity=debug", "--set", "flow_detail=1")
    lines = f"GET {APP}/realtime?model=m HTTP/1.1\r\nHost: api.openai.com\r\n"
    lines += "Upgrade: websocket\r\nConnection: Upgrade\r\n"
    with Wire(m) as wire:
        wire.send(lines.encode() + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c2l4dGVlbiBieXRlcyAhIQ==\r\n\r\n")
        assert wire.head()[0] == 101
        wire.send(frame(PING, SAID, b"\0\0\0\0"))
        m.wait_for_log("Received WebSocket ping from client")
        gate.set()
        rest = wire.rest()
        assert SAID in rest
    assert WORDS not in told(m, saved)


def test_a_head_that_cannot_be_read_is_not_quoted(provider: Make, proxy: Start) -> None:
    """A client's words may be its credential."""
    m = proxy(route_to(provider("a")))
    half = chat(APP, key=WORDS).partition(b"\r\n\r\n")[0]
    with Wire(m) as wire:
        wire.send(half).sock.shutdown(socket.SHUT_WR)
        assert wire.rest() == b""
    with Wire(m) as wire:
        wire.send(b"GET " + SAID + b" and more\r\n\r\n").rest()
    m.wait_for_log("(?s)no head of a request.*no head of a request")
    assert WORDS not in m.log
