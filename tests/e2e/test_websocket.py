"""WebSocket handshakes of `responses` and `realtime`: they fail over like calls; afterwards frames pass both ways."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest
from mitmproxy import io
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, TextMessage

from support.proxy import Mitmdump
from support.raw import Wire
from support.settings import key_of, table
from support.waiting import until

Start = Callable[..., Mitmdump]

APP_KEY = "sk-app-CANARY-0123456789"
NONCE = base64.b64encode(b"sixteen bytes !!").decode()
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
FAST = [
    table("timeouts", {"connect": 1, "first_byte": 0.5, "headers": 0.5, "idle": 0.5}),
    table("attempts", {"backoff_seconds": 0.02, "wait_seconds": 0}),
]
PATHS = ["/v1/responses", "/v1/realtime?model=gpt-realtime"]


def accept_of(nonce: str) -> str:
    return base64.b64encode(hashlib.sha1((nonce + GUID).encode()).digest()).decode()


@dataclass
class Handshake:
    """A handshake as it arrived."""

    path: str
    headers: dict[str, str]
    raw: bytes
    frames: list[str] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)


class Echo:
    """A provider on a thread: answers a handshake as told, then sends every message back with its name before it.

    `answer`: an HTTP status, or "silent" or "reset". The message `die` makes it reset the connection, `vanish` end it,
    `close` and a code close the WebSocket.
    """

    def __init__(self, name: str, answer: int | str = 101) -> None:
        self.name = name
        self.answer = answer
        self.headers: dict[str, str] = {}
        self.seen: list[Handshake] = []
        self.open: list[socket.socket] = []
        self.arrived = threading.Semaphore(0)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.threads = [threading.Thread(target=self._listen, daemon=True)]

    def __enter__(self) -> Self:
        self.threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        for sock in self.open:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(5)

    def refuse(self) -> None:
        """Stop listening."""
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _listen(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.open.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self.threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        handshake: Handshake | None = None
        try:
            with sock:
                while (raw := _head(sock)) is not None:
                    handshake = self._read(raw)
                    self.seen.append(handshake)
                    self.arrived.release()
                    if not self._answer(sock, handshake):
                        return
        except OSError:
            pass
        finally:
            if handshake is not None:
                handshake.left.set()

    def _read(self, raw: bytes) -> Handshake:
        lines = raw.decode("latin-1").split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines[1:] if line)
        return Handshake(lines[0].split()[1], {k.lower(): v for k, v in fields.items()}, raw)

    def _answer(self, sock: socket.socket, handshake: Handshake) -> bool:
        """Answer one request; False if the connection is over."""
        match self.answer:
            case "reset":
                _reset(sock)
            case "silent":
                sock.recv(1)
            case 101:
                accept = accept_of(handshake.headers["sec-websocket-key"])
                fields = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accept}
                lines = "".join(f"{k}: {v}\r\n" for k, v in {**fields, **self.headers}.items())
                sock.sendall(f"HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n".encode())
                self._echo(sock, handshake)
            case status:
                body = json.dumps({"error": {"message": f"no from {self.name}", "type": "x", "code": None}})
                head = f"HTTP/1.1 {status} No\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                sock.sendall((head + body).encode())
                return True
        return False

    def _echo(self, sock: socket.socket, handshake: Handshake) -> None:
        ws = Connection(ConnectionType.SERVER)
        binary = b""
        while data := sock.recv(65536):
            ws.receive_data(data)
            for event in ws.events():
                match event:
                    case TextMessage(data="die"):
                        _reset(sock)
                        return
                    case TextMessage(data="vanish"):
                        return
                    case TextMessage(data=str(text)) if text.startswith("close "):
                        code = int(text.split()[1])
                        # wsproto sends no close frame without a code, which stands for 1005.
                        sock.sendall(b"\x88\x00" if code == 1005 else ws.send(CloseConnection(code, "enough")))
                    case TextMessage(data=text):
                        handshake.frames.append(text)
                        sock.sendall(ws.send(TextMessage(f"{self.name}: {text}")))
                    case BytesMessage(data=some, message_finished=whole):
                        binary += some
                        if whole:
                            sock.sendall(ws.send(BytesMessage(self.name.encode() + binary)))
                            binary = b""
                    case CloseConnection():
                        if ws.state is not ConnectionState.CLOSED:
                            sock.sendall(ws.send(event.response()))
                        return


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def _head(sock: socket.socket) -> bytes | None:
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        if not more:
            return None
        data += more
    return data


class App(Wire):
    """A WebSocket client behind the proxy."""

    def __init__(self, m: Mitmdump, host: str = "row0.test", path: str = "/v1/responses", **headers: str) -> None:
        super().__init__(m, timeout=10)
        self.ws = Connection(ConnectionType.CLIENT)
        fields = {
            "Host": host,
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": NONCE,
            "Authorization": f"Bearer {APP_KEY}",
            **{k.replace("_", "-"): v for k, v in headers.items()},
        }
        lines = "".join(f"{k}: {v}\r\n" for k, v in fields.items() if v)
        self.send(f"GET http://{host}{path} HTTP/1.1\r\n{lines}\r\n".encode())

    def shake(self) -> dict[str, str]:
        """The head of a handshake that was taken."""
        status, headers = self.head()
        assert status == 101, (status, headers, self._rest)
        assert headers["sec-websocket-accept"] == accept_of(NONCE)
        return headers

    def say(self, event: Event) -> None:
        self.send(self.ws.send(event))

    def hear(self) -> Event:
        """The next event of the WebSocket."""
        while True:
            if self._rest:
                self.ws.receive_data(self._rest)
                self._rest = b""
            for event in self.ws.events():
                return event
            data = self.sock.recv(65536)
            if not data:
                raise EOFError("the proxy closed the connection")
            self.ws.receive_data(data)

    def ask(self, text: str) -> str:
        self.say(TextMessage(text))
        heard = self.hear()
        assert isinstance(heard, TextMessage)
        return heard.data


def config(*providers: Echo, rows: int = 1, tables: list[str] | None = None) -> str:
    """A route to these providers for each of `row0.test`, `row1.test` …"""
    texts = list(FAST if tables is None else tables)
    for i in range(rows):
        for p in providers:
            base = f'dialect = "openai"\nbase_url = "http://127.0.0.1:{p.port}/v1"\napi_key = "{key_of(p.name)}"\n'
            texts.append(f'[[providers]]\nname = "{p.name}{i}"\n{base}')
        names = ", ".join(f'"{p.name}{i}"' for p in providers)
        texts.append(f'[[routes]]\nintercept = ["http://row{i}.test/v1"]\nproviders = [{names}]\n')
    return "\n".join(texts)


@pytest.fixture
def a() -> Iterator[Echo]:
    with Echo("a") as echo:
        yield echo


@pytest.fixture
def b() -> Iterator[Echo]:
    with Echo("b") as echo:
        yield echo


def _settled(m: Mitmdump) -> dict[str, dict[str, object]]:
    """What `/health` says of each provider once nothing is under way."""
    until(lambda: m.health()["in_flight"] == 0, "no attempt is in flight")
    health = m.health()
    assert [p["permits_out"] for p in health["providers"].values()] == [0] * len(health["providers"])
    return dict(health["providers"])


@pytest.mark.parametrize("path", PATHS)
def test_frames_pass_both_ways(path: str, a: Echo, proxy: Start) -> None:
    """Text, binary and large messages and the close come through unchanged; no permit is held meanwhile."""
    m = proxy(config(a))
    with App(m, path=path) as app:
        headers = app.shake()
        assert headers["x-sidestep-provider"] == "a0"
        assert app.ask("hello") == "a: hello"
        app.say(BytesMessage(b"\x00\xff" * 40_000))
        heard: list[bytes] = []
        while sum(map(len, heard)) < 80_001:
            event = app.hear()
            assert isinstance(event, BytesMessage)
            heard.append(bytes(event.data))
        assert b"".join(heard) == b"a" + b"\x00\xff" * 40_000
        status = m.provider("a0")
        assert (status["in_flight"], status["permits_out"], status["successes"]) == (1, 0, 1)
        app.say(CloseConnection(1000, "bye"))
        closed = app.hear()
        assert isinstance(closed, CloseConnection)
        assert closed.code == 1000
    assert a.seen[0].path == path
    assert a.seen[0].left.wait(5)
    status = _settled(m)["a0"]
    assert (status["successes"], status["failures"]) == (1, 0)


FAILURES: list[tuple[str, int | str, int, str, int, str | None]] = [
    # name, answer, times asked, trail, failures, cooldown
    ("503", 503, 2, "a:503, a:503, b:101", 2, None),
    ("500", 500, 2, "a:500, a:500, b:101", 2, None),
    ("reset", "reset", 2, "a:connect, a:connect, b:101", 2, None),
    ("silent", "silent", 1, "a:timeout, b:101", 1, None),
    ("429", 429, 1, "a:429, b:101", 0, "rate_limit"),
    ("401", 401, 1, "a:401, b:101", 0, "credential"),
]


def test_a_failed_handshake_goes_to_the_next(a: Echo, b: Echo, proxy: Start, subtests: pytest.Subtests) -> None:
    """Whatever the first provider does to the handshake, the app gets one 101, and all its frames go to the second."""
    m = proxy(config(a, b, rows=len(FAILURES)))
    for i, (name, answer, tries, trail, failures, cooldown) in enumerate(FAILURES):
        with subtests.test(name), App(m, f"row{i}.test") as app:
            a.seen.clear()
            b.seen.clear()
            a.answer = answer
            headers = app.shake()
            assert headers["x-sidestep-attempts"].replace(f"{i}:", ":") == trail
            assert headers["x-sidestep-provider"] == f"b{i}"
            assert [app.ask(f"m{n}") for n in range(3)] == ["b: m0", "b: m1", "b: m2"]
            assert (len(a.seen), len(b.seen)) == (tries, 1)
            assert [h.frames for h in a.seen] == [[]] * tries
            status = m.provider(f"a{i}")
            assert (status["failures"], (status["cooldown"] or {}).get("reason")) == (failures, cooldown)
    _settled(m)


def test_a_refused_handshake_goes_to_the_next(a: Echo, b: Echo, proxy: Start) -> None:
    """A provider that nobody listens at is tried twice, then the next one takes the WebSocket."""
    a.refuse()
    m = proxy(config(a, b))
    with App(m) as app:
        assert app.shake()["x-sidestep-attempts"] == "a0:connect, a0:connect, b0:101"
        assert app.ask("hello") == "b: hello"


def test_the_own_provider_is_untouched(a: Echo, proxy: Start) -> None:
    """A handshake to a provider that bears the app's own credential leaves byte for byte as the app sent it."""
    base = f"http://127.0.0.1:{a.port}/v1"
    text = f'[[providers]]\nname = "own"\ndialect = "openai"\nbase_url = "{base}"\n'
    m = proxy("\n".join([*FAST, text, f'[[routes]]\nintercept = ["{base}"]\nproviders = ["own"]\n']))
    protocols = f"realtime, openai-insecure-api-key.{APP_KEY}"
    with App(m, f"127.0.0.1:{a.port}", PATHS[1], Sec_WebSocket_Protocol=protocols) as app:
        app.shake()
        assert app.ask("hello") == "a: hello"
    assert a.seen[0].path == PATHS[1]
    assert list(a.seen[0].headers.items()) == [
        ("host", f"127.0.0.1:{a.port}"),
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", NONCE),
        ("authorization", f"Bearer {APP_KEY}"),
        ("sec-websocket-protocol", protocols),
    ]


def test_each_provider_gets_its_own_key(a: Echo, b: Echo, proxy: Start) -> None:
    """On each handshake there is the provider's own key, and the app's nowhere, not even as a subprotocol."""
    a.answer = 503
    m = proxy(config(a, b), "--set", "flow_detail=4", "--set", "termlog_verbosity=debug")
    protocols = f"realtime, openai-insecure-api-key.{APP_KEY}, openai-beta.realtime-v1"
    with App(m, path=PATHS[1], Sec_WebSocket_Protocol=protocols, OpenAI_Organization="org-CANARY") as app:
        app.shake()
        assert app.ask("hello") == "b: hello"
    assert len(a.seen) == 2
    for p in (a, b):
        for seen in p.seen:
            assert seen.headers["authorization"] == f"Bearer {key_of(p.name)}"
            assert APP_KEY.encode() not in seen.raw
            assert b"org-CANARY" not in seen.raw
            assert seen.headers["host"] == f"127.0.0.1:{p.port}"
    _settled(m)
    m.stop()
    for secret in (APP_KEY, key_of("a"), key_of("b")):
        assert secret not in m.log


def _refusal(m: Mitmdump, host: str) -> dict[str, object]:
    with App(m, host) as app:
        status, headers, body = app.answer()
        assert status == 426, (status, body)
        assert headers["content-type"] == "application/json"
        error = json.loads(body)["error"]
        assert isinstance(error["message"], str)
        return dict(error)


def test_the_app_gets_426_when_all_fail(a: Echo, b: Echo, proxy: Start, subtests: pytest.Subtests) -> None:
    """With every provider failing the handshake gets a 426 in the dialect, on which clients come back over HTTP."""
    answers: list[int | str] = ["reset", "silent", 503, "refused"]
    m = proxy(config(a, b, rows=len(answers)))
    for i, answer in enumerate(answers):
        with subtests.test(str(answer)):
            for p in (a, b):
                p.answer = answer
                if answer == "refused":
                    p.refuse()
            _refusal(m, f"row{i}.test")
            health = _settled(m)
            assert health[f"a{i}"]["failures"]
            assert health[f"b{i}"]["failures"]


def test_the_app_gets_426_when_all_circuits_are_open(a: Echo, b: Echo, proxy: Start) -> None:
    """With every circuit open the handshake gets its 426 at once, and nobody is asked."""
    a.answer = b.answer = 503
    m = proxy(config(a, b, tables=[*FAST, table("circuit", {"failure_threshold": 1, "open_seconds": 60})]))
    with App(m) as app:
        assert app.answer()[0] in (426, 503)
    asked = len(a.seen) + len(b.seen)
    error = _refusal(m, "row0.test")
    assert "a0's circuit is open" in str(error["message"])
    assert "b0's circuit is open" in str(error["message"])
    assert len(a.seen) + len(b.seen) == asked


def test_the_providers_own_no_is_handed_over(a: Echo, b: Echo, proxy: Start) -> None:
    """A 4xx about the handshake itself comes back as it is and counts nothing; where a provider takes no WebSocket the
    next one may."""
    m = proxy(config(a, b))
    a.answer = 400
    with App(m) as app:
        got, _, body = app.answer()
    assert (got, json.loads(body)["error"]["message"]) == (400, "no from a")
    assert len(b.seen) == 0
    a.answer = 426
    with App(m) as app:
        app.shake()
    health = _settled(m)
    assert (health["a0"]["failures"], health["a0"]["state"], len(b.seen)) == (0, "closed", 1)


ENDS: list[tuple[str, int | None, str, str | None]] = [
    # what the provider does, the code that the app sees, the last word on it, the note on the flow
    ("die", None, "truncated", "the provider vanished without closing the WebSocket"),
    ("vanish", None, "truncated", "the provider vanished without closing the WebSocket"),
    ("close 1011", 1011, "stream_error", "the provider closed the WebSocket with code 1011"),
    ("close 1012", 1012, "stream_error", "the provider closed the WebSocket with code 1012"),
    ("close 1013", 1013, "stream_error", "the provider closed the WebSocket with code 1013"),
    ("close 1008", 1008, "ok", "the provider closed the WebSocket with code 1008"),
    ("close 4000", 4000, "ok", "the provider closed the WebSocket with code 4000"),
    ("close 1000", 1000, "ok", None),
    ("close 1001", 1001, "ok", None),
    ("close 1005", 1005, "ok", None),
]


def test_how_a_websocket_ends(a: Echo, proxy: Start, tmp_path: Path, subtests: pytest.Subtests) -> None:
    """The app sees the end that the provider made, and none that it did not make; who vanishes or closes for troubles
    of its own is blamed, and the flow tells how it ended."""
    saved = tmp_path / "saved.mitm"
    m = proxy(config(a, rows=len(ENDS)), "-w", str(saved))
    for i, (end, code, reason, _) in enumerate(ENDS):
        with subtests.test(end):
            with App(m, f"row{i}.test") as app:
                app.shake()
                assert app.ask("hello") == "a: hello"
                app.say(TextMessage(end))
                if code is None:
                    with pytest.raises((EOFError, ConnectionError)):
                        app.hear()
                else:
                    closed = app.hear()
                    assert isinstance(closed, CloseConnection)
                    assert (closed.code, closed.reason) == (code, "" if "1005" in end else "enough")
            status = _settled(m)[f"a{i}"]
            failed = int(reason != "ok")
            assert (status["failures"], status["successes"]) == (failed, 1 - failed)
    m.stop()
    with saved.open("rb") as f:
        flows = [flow for flow in io.FlowReader(f).stream() if "sidestep" in flow.metadata]
    stories = {flow.metadata["sidestep"]["provider"]: flow for flow in flows}
    for i, (end, _, reason, note) in enumerate(ENDS):
        flow = stories[f"a{i}"]
        (attempt,) = flow.metadata["sidestep"]["attempts"]
        assert (attempt["reason"], attempt["notes"]) == (reason, [note] if note else []), end
        assert (", 1 failed (" in flow.comment) is (reason != "ok"), flow.comment


OFFERS = [
    # what the app offers, what another provider gets
    (f"realtime, openai-insecure-api-key.{APP_KEY}, openai-beta.realtime-v1", "realtime, openai-beta.realtime-v1"),
    (f"Realtime ,OpenAI-Insecure-API-Key.{APP_KEY}", "Realtime"),
    ("realtime,openai-organization.org-CANARY,openai-project.proj-CANARY", "realtime"),
    (f"openai-insecure-api-key.{APP_KEY}", None),
    ("realtime,  openai-beta.realtime-v1", "realtime,  openai-beta.realtime-v1"),
]


def test_subprotocols(a: Echo, proxy: Start, tmp_path: Path) -> None:
    """Another provider gets the subprotocols that are neither key nor account, and its choice reaches the app."""
    saved = tmp_path / "saved.mitm"
    m = proxy(config(a), "-w", str(saved))
    for offered, expected in OFFERS:
        a.headers = {} if expected is None else {"Sec-WebSocket-Protocol": expected.split(",")[0].strip()}
        with App(m, path=PATHS[1], Sec_WebSocket_Protocol=offered, X_Note=f"my key is {APP_KEY}") as app:
            headers = app.shake()
            assert app.ask("hello") == "a: hello"
        seen = a.seen[-1]
        assert seen.headers.get("sec-websocket-protocol") == expected
        assert headers.get("sec-websocket-protocol") == a.headers.get("Sec-WebSocket-Protocol")
        assert b"CANARY" not in seen.raw.replace(key_of("a").encode(), b"")
    _settled(m)
    m.stop()
    assert b"CANARY" not in saved.read_bytes()


def test_the_model_in_the_query_is_mapped(a: Echo, b: Echo, proxy: Start) -> None:
    """A provider that calls the model by another name is asked for it by that; what else goes there stays."""
    a.answer = 503
    text = config(a, b).replace('name = "b0"\n', 'name = "b0"\nmodels = { "gpt-*" = "our/gpt *" }\n')
    m = proxy(text)
    with App(m, path="/v1/realtime?intent=a%20b&model=gpt-realtime&models=gpt-x") as app:
        assert app.shake()["x-sidestep-provider"] == "b0"
    assert {h.path for h in a.seen} == {"/v1/realtime?intent=a%20b&model=gpt-realtime"}
    assert [h.path for h in b.seen] == ["/v1/realtime?intent=a%20b&model=our%2Fgpt%20realtime"]


def test_a_handshake_for_one_provider_goes_to_no_other(a: Echo, b: Echo, proxy: Start) -> None:
    """A second connection to a conversation is taken by its own provider or by none."""
    a.answer = 503
    base = f"http://127.0.0.1:{a.port}/v1"
    text = config(b) + f'[[providers]]\nname = "own"\ndialect = "openai"\nbase_url = "{base}"\n'
    text += f'[[routes]]\nintercept = ["{base}"]\nproviders = ["b0", "own"]\n'
    with App(proxy(text), host=f"127.0.0.1:{a.port}", path="/v1/realtime?call_id=rtc_1") as app:
        assert app.head()[0] == 426
    assert {h.path for h in a.seen} == {"/v1/realtime?call_id=rtc_1"}
    assert b.seen == []


CREATE = '{"type": "response.create", "model": "gpt-5", "input": [{"model": "gpt-5", "n": 1.50}], "store": false}'


def test_the_model_in_a_frame_is_mapped(a: Echo, b: Echo, proxy: Start) -> None:
    """The Responses API names the model in each message that asks for an answer: a provider that calls it by another
    name, or takes not all fields, gets it so, its values byte for byte; all other messages pass as they are."""
    a.answer = 503
    text = config(a, b).replace(
        'name = "b0"\n', 'name = "b0"\nmodels = { "gpt-*" = "our/*" }\ndrop_fields = ["store"]\n'
    )
    others = ['{"type": "response.cancel" }', "no JSON", '{"model": "o9", "n": 1}']
    m = proxy(text)
    with App(m) as app:
        app.shake()
        mapped = '{"type":"response.create","model":"our/5","input":[{"model": "gpt-5", "n": 1.50}]}'
        assert [app.ask(CREATE) for _ in range(2)] == [f"b: {mapped}"] * 2
        assert [app.ask(text) for text in others] == [f"b: {text}" for text in others]
        app.say(BytesMessage(CREATE.encode()))
        assert app.hear() == BytesMessage(bytearray(b"b" + CREATE.encode()))


def test_frames_without_a_mapping_are_untouched(a: Echo, b: Echo, proxy: Start) -> None:
    """Where the first provider takes the handshake, and calls the model as the app does, its messages are the app's."""
    text = config(a, b).replace('name = "b0"\n', 'name = "b0"\nmodels = { "gpt-*" = "our/*" }\n')
    with App(proxy(text)) as app:
        app.shake()
        assert app.ask(CREATE) == f"a: {CREATE}"


def test_a_frame_that_servers_may_read_in_different_ways_reaches_no_stand_in(a: Echo, b: Echo, proxy: Start) -> None:
    """The socket is closed instead, with the code on which a client comes again: over HTTP such a call goes home."""
    a.answer = 503
    with App(proxy(config(a, b))) as app:
        app.shake()
        assert app.ask(CREATE) == f"b: {CREATE}"
        app.say(TextMessage(CREATE.replace("{", '{"model": "o9", ', 1)))
        closed = app.hear()
        assert isinstance(closed, CloseConnection)
        assert closed.code == 1012
    assert b.seen[0].left.wait(5)


def test_a_mapped_model_leaves_the_apps_key_in_the_query(a: Echo, proxy: Start) -> None:
    """The own provider gets the app's credential, in the query too, when the model is another."""
    base = f"http://127.0.0.1:{a.port}/v1"
    text = f'[[providers]]\nname = "own"\ndialect = "openai"\nbase_url = "{base}"\nmodels = {{ "gpt" = "our" }}\n'
    m = proxy("\n".join([*FAST, text, f'[[routes]]\nintercept = ["{base}"]\nproviders = ["own"]\n']))
    with App(m, f"127.0.0.1:{a.port}", f"/v1/realtime?api_key={APP_KEY}&model=gpt") as app:
        app.shake()
    assert a.seen[0].path == f"/v1/realtime?model=our&api_key={APP_KEY}"


def test_an_end_without_fault_blames_nobody(a: Echo, proxy: Start, subtests: pytest.Subtests) -> None:
    """A close by the provider, or an app that just goes, leaves a success and nothing under way."""
    ends = ["close", "leave", "abrupt"]
    m = proxy(config(a, rows=len(ends)))
    for i, end in enumerate(ends):
        with subtests.test(end):
            with App(m, f"row{i}.test") as app:
                app.shake()
                assert app.ask("hello") == "a: hello"
                if end == "close":
                    app.say(TextMessage("close 4000"))
                    closed = app.hear()
                    assert isinstance(closed, CloseConnection)
                    assert (closed.code, closed.reason) == (4000, "enough")
                elif end == "abrupt":
                    app.reset()
            status = _settled(m)[f"a{i}"]
            assert (status["state"], status["failures"], status["successes"]) == ("closed", 0, 1)
            assert a.seen[i].left.wait(5)


def test_an_app_that_leaves_during_the_handshake_blames_nobody(a: Echo, b: Echo, proxy: Start) -> None:
    """The app goes while the provider has not answered yet: the permit is back and nobody else is asked."""
    a.answer = "silent"
    m = proxy(config(a, b, tables=[]))
    with App(m):
        assert a.arrived.acquire(timeout=5)
    status = _settled(m)["a0"]
    assert (status["state"], status["failures"], len(b.seen)) == ("closed", 0, 0)
    assert a.seen[0].left.wait(5)
