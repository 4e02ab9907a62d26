"""The harness itself: what its providers say is what the official SDKs accept, and they misbehave as told.

Against plain mitmdump, without the addon: whatever fails here is no fault of Sidestep.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anthropic
import openai
import pytest
import trustme

from support.calls import APIS, DIALECT, OFFICIAL, Client
from support.h2client import H2Client
from support.h2provider import H2Provider, server_context
from support.provider import Behaviour, Provider, text_of
from support.proxy import Mitmdump
from support.raw import Wire, chat, request
from support.waiting import until

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]
BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])

SCRIPT = """
from pathlib import Path

PORT = Path(__file__).with_suffix(".port")


def requestheaders(flow):
    # Official hosts lead to the port that the test wrote down, under the name that the app called.
    if flow.request.pretty_host != "127.0.0.1":
        named = flow.request.host_header
        flow.request.scheme, flow.request.host, flow.request.port = "http", "127.0.0.1", int(PORT.read_text())
        flow.request.host_header = named


def responseheaders(flow):
    # By itself mitmdump would swallow each stream whole.
    flow.response.stream = True
"""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mitmdump]:
    """A mitmdump without the addon, one for all tests here: what is for 127.0.0.1 goes there untouched."""
    folder = tmp_path_factory.mktemp("plain")
    script = folder / "script.py"
    script.write_text(SCRIPT)
    with Mitmdump(folder, None, "--set", "connection_strategy=lazy", script=script) as m:
        yield m


@pytest.fixture
def diverted(plain: Mitmdump, provider: Make) -> tuple[Mitmdump, Provider]:
    """The same mitmdump, and the provider that official hosts lead to."""
    a: Provider = provider("alpha")
    (plain.folder / "script.port").write_text(str(a.port))
    return plain, a


@BOTH
@pytest.mark.parametrize("api", APIS)
def test_a_good_answer_is_good_to_the_official_sdk(api: str, stream: bool, provider: Make, plain: Mitmdump) -> None:
    """In every API, whole and streamed, the SDK reads exactly the text that was meant."""
    a = provider("alpha")
    a.default = Behaviour(tokens=60)
    with Client(plain, {DIALECT[api]: a.url(DIALECT[api])}) as app:
        result = app.call(api, stream=stream)
    assert result.error is None
    assert result.text == text_of("alpha", a.default)
    assert (result.pieces >= a.default.tokens) is stream


@BOTH
@pytest.mark.parametrize("api", APIS)
def test_official_hosts_are_reached_over_connect_and_tls(
    api: str, stream: bool, diverted: tuple[Mitmdump, Provider]
) -> None:
    """An app that calls the official https host is decrypted with the run's CA, and can be sent elsewhere."""
    m, a = diverted
    with Client(m) as app:
        assert app.call(api, stream=stream).text == text_of("alpha", Behaviour())
    assert a.requests[0].header("host") == urlsplit(OFFICIAL[DIALECT[api]]).hostname


@pytest.mark.parametrize("status", [400, 401, 429, 503])
@pytest.mark.parametrize("api", APIS)
def test_errors_are_the_sdks_own(api: str, status: int, provider: Make, plain: Mitmdump) -> None:
    """An error status raises the SDK's own error with that status and the provider's words."""
    a = provider("alpha")
    a.default = Behaviour(status=status, message="sorry about that")
    with Client(plain, {DIALECT[api]: a.url(DIALECT[api])}) as app:
        result = app.call(api, stream=False)
    assert result.status == status
    assert "sorry about that" in str(result.error)


@pytest.mark.parametrize("api", ["chat", "messages", "gemini"])
def test_an_error_event_raises(api: str, provider: Make, plain: Mitmdump) -> None:
    """An error event amid a stream raises in the SDKs that read such events."""
    a = provider("alpha")
    a.default = Behaviour(error_after=3)
    with Client(plain, {DIALECT[api]: a.url(DIALECT[api])}) as app:
        result = app.call(api, stream=True)
    assert result.error is not None
    assert result.text == "alpha w1 w2"


def test_count_tokens_and_embeddings(provider: Make, plain: Mitmdump) -> None:
    """The smaller endpoints answer in their formats too."""
    a = provider("alpha")
    with Client(plain, {"openai": a.url(), "anthropic": a.url("anthropic")}) as app:
        counted = app.anthropic.messages.count_tokens(model="c", messages=[{"role": "user", "content": "hi"}])
        embedded = app.openai.embeddings.create(model="e", input="hi", encoding_format="float")
    assert counted.input_tokens == 7
    assert embedded.data[0].embedding == [0.1, 0.2]


def direct(a: Provider, timeout: float = 5) -> socket.socket:
    """A connection to a provider, without any proxy."""
    return socket.create_connection((a.host, a.port), timeout=timeout)


def keep(a: Provider, *, stream: bool = True) -> socket.socket:
    """A connection on which a request was sent."""
    sock = direct(a)
    sock.sendall(chat(a.url(), stream=stream))
    return sock


def read_until(sock: socket.socket, mark: bytes) -> bytes:
    data = b""
    while mark not in data:
        more = sock.recv(65536)
        assert more, data
        data += more
    return data


def drain(sock: socket.socket) -> bytes:
    data = b""
    while more := sock.recv(65536):
        data += more
    return data


def test_a_reset_is_a_reset(provider: Make) -> None:
    """`reset` ends the connection with RST and not one byte."""
    a = provider("alpha")
    a.default = Behaviour(reset=True)
    with keep(a) as sock, pytest.raises(ConnectionResetError):
        sock.recv(1)


def test_a_cut_comes_after_its_tokens(provider: Make) -> None:
    """`cut_after` sends that many tokens, then RST."""
    a = provider("alpha")
    gate = threading.Event()
    a.default = Behaviour(cut_after=3, gate=gate, gate_at=3)
    with keep(a) as sock:
        data = read_until(sock, b" w2")
        gate.set()
        with pytest.raises(ConnectionResetError):
            drain(sock)
    assert b" w3" not in data


def test_a_stream_can_end_without_its_end(provider: Make) -> None:
    """`end_after` closes HTTP's framing well, but without finish reason and terminal event; `no_done` has the first."""
    a = provider("alpha")
    a.then(Behaviour(end_after=2), Behaviour(no_done=True), Behaviour())
    ends = []
    for _ in range(3):
        with keep(a) as sock:
            data = read_until(sock, b"\r\n0\r\n\r\n")
        ends.append((b'"stop"' in data, b"[DONE]" in data))
    assert ends == [(False, False), (True, False), (True, True)]


def test_a_gate_holds_an_answer_until_it_is_opened(provider: Make) -> None:
    """Nothing past the gate is sent before the test says so: no test has to guess a time."""
    a = provider("alpha")
    gate = threading.Event()
    a.default = Behaviour(gate=gate, gate_at=1)
    with keep(a) as sock:
        assert b" w1" not in read_until(sock, b"alpha")
        sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.settimeout(5)
        gate.set()
        read_until(sock, b"[DONE]")


def test_a_refusal_refuses_and_ends(provider: Make) -> None:
    """After `refuse` nobody gets a connection; after `listen_again` at the same place everybody does."""
    a = provider("alpha")
    port = a.port
    a.refuse()
    with pytest.raises(ConnectionRefusedError):
        direct(a)
    a.listen_again()
    assert a.port == port
    with keep(a) as sock:
        read_until(sock, b"[DONE]")


def test_a_malformed_event_is_one_event(provider: Make) -> None:
    """`malformed_at` spoils that token and no other."""
    a = provider("alpha")
    a.default = Behaviour(malformed_at=2, tokens=4)
    with keep(a) as sock:
        data = read_until(sock, b"[DONE]")
    assert [w in data for w in (b" w1", b" w2", b" w3", b"{not json")] == [True, False, True, True]


def test_an_answer_may_end_with_its_connection(provider: Make) -> None:
    """`close_delimited` sends neither length nor chunks."""
    a = provider("alpha")
    a.default = Behaviour(close_delimited=True)
    with keep(a) as sock:
        data = drain(sock)
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert b"content-length" not in head
    assert body.endswith(b"data: [DONE]\n\n")


def test_what_arrives_is_kept_as_it_came(provider: Make) -> None:
    """Order and case of headers, and the body's bytes, are recorded exactly."""
    a = provider("alpha")
    body = b'{"model":  "m", "messages": []}'
    sent = request(a.url() + "/chat/completions", body, ("X-ONE", "1"), ("x-two", "2"), ("X-one", "3"))
    with direct(a) as sock:
        sock.sendall(sent)
        read_until(sock, b"alpha")
    seen = a.requests[0]
    assert seen.raw_head + seen.body == sent
    assert seen.headers[1:4] == [("X-ONE", "1"), ("x-two", "2"), ("X-one", "3")]


def test_a_client_that_leaves_is_noticed(provider: Make) -> None:
    """A provider in mid-answer knows that its client hung up, and nothing stays in flight."""
    a = provider("alpha")
    a.default = Behaviour(silent=True)
    with keep(a):
        seen = a.wait_for_request()
        assert (a.in_flight, seen.client_left.is_set()) == (1, False)
    assert seen.client_left.wait(5)
    until(lambda: a.in_flight == 0, "in flight")


def test_behaviours_come_in_order_and_by_request(provider: Make) -> None:
    """Queued behaviours are used up in order; then the chooser decides by what was asked."""
    a = provider("alpha")
    a.then(Behaviour(status=500), Behaviour(status=429, headers={"retry-after": "7"}))
    a.chooser = lambda seen: Behaviour(status=418 if seen.json.get("stream") else 200)
    heads = []
    for stream in (True, True, True, False):
        with keep(a, stream=stream) as sock:
            heads.append(read_until(sock, b"\r\n\r\n").partition(b"\r\n\r\n")[0])
    assert [h.split()[1] for h in heads] == [b"500", b"429", b"418", b"200"]
    assert b"retry-after: 7" in heads[1]


def test_a_provider_speaks_tls(provider: Make, proxy: Start, tmp_path: Path) -> None:
    """With a certificate of the test's own CA a provider is an https one that mitmdump can be told to trust."""
    ca = trustme.CA()
    bundle = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(bundle))
    a = provider("alpha", tls=server_context(ca))
    m = proxy(None, "--set", f"ssl_verify_upstream_trusted_ca={bundle}", script=None)
    with Client(m, {"openai": a.url()}) as app:
        assert app.call("chat", stream=True).text == text_of("alpha", Behaviour())


@BOTH
def test_h2_clients_are_served(stream: bool, diverted: tuple[Mitmdump, Provider]) -> None:
    """The bare h2 client gets whole answers, several on one connection, whatever order they are read in."""
    m, a = diverted
    with H2Client(m, "api.openai.com") as client:
        numbers = [client.chat(stream=stream) for _ in range(4)]
        for number in reversed(numbers):
            answer = client.answer(number)
            assert (answer.status, answer.reset) == (200, None)
            assert (b"[DONE]" in answer.body) is stream
    assert a.count == 4


def test_an_h2_client_can_leave_one_stream(diverted: tuple[Mitmdump, Provider]) -> None:
    """A stream that is cancelled ends for its provider; the one beside it goes on."""
    m, a = diverted
    gate = threading.Event()
    a.default = Behaviour(gate=gate, gate_at=2)
    with H2Client(m, "api.openai.com") as client:
        gone, stays = client.chat(stream=True, user="gone"), client.chat(stream=True, user="stays")
        client.until(gone, b" w1")
        client.until(stays, b" w1")
        client.cancel(gone)
        left = next(s for s in a.requests if s.json["user"] == "gone")
        assert left.client_left.wait(5)
        gate.set()
        assert b"[DONE]" in client.answer(stays).body


def test_an_h2_body_may_exceed_the_window(diverted: tuple[Mitmdump, Provider]) -> None:
    """A large body waits for the window to open instead of breaking the protocol."""
    m, a = diverted
    padding = "x" * 1_000_000
    with H2Client(m, "api.openai.com") as client:
        assert client.answer(client.chat(user=padding)).status == 200
    assert a.requests[0].json["user"] == padding


@pytest.fixture
def h2(tmp_path: Path, proxy: Start) -> Iterator[tuple[H2Provider, H2Client]]:
    """An HTTP/2 provider and, on the other side of a mitmdump, an HTTP/2 client."""
    ca = trustme.CA()
    bundle = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(bundle))
    with H2Provider("alpha", ca) as a:
        script = tmp_path / "script.py"
        script.write_text(SCRIPT)
        m = proxy(None, "--set", f"ssl_verify_upstream_trusted_ca={bundle}", script=script)
        with H2Client(m, "127.0.0.1", a.port) as client:
            yield a, client


@BOTH
def test_an_h2_provider_serves_many_streams_on_one_connection(stream: bool, h2: tuple[H2Provider, H2Client]) -> None:
    """Both sides speak HTTP/2, and the answers are the same as over HTTP/1.1."""
    a, client = h2
    numbers = [client.chat(stream=stream, user=str(i)) for i in range(5)]
    answers = [client.answer(n) for n in numbers]
    assert {(s.status, s.reset, b"[DONE]" in s.body) for s in answers} == {(200, None, stream)}
    assert (a.count, a.connections) == (5, 1)
    assert {s.json["user"] for s in a.requests} == {"0", "1", "2", "3", "4"}


def test_an_h2_provider_breaks_one_stream(h2: tuple[H2Provider, H2Client]) -> None:
    """A cut resets its own stream; the one beside it is answered whole."""
    a, client = h2
    a.chooser = lambda seen: Behaviour(cut_after=3) if seen.json["user"] == "cut" else Behaviour(tokens=50)
    cut, good = client.chat(stream=True, user="cut"), client.chat(stream=True, user="good")
    assert client.answer(cut).reset is not None
    assert b"[DONE]" in client.answer(good).body
    assert a.connections == 1


def test_an_h2_provider_notices_who_leaves(h2: tuple[H2Provider, H2Client]) -> None:
    """A stream that the client cancels ends for the provider too, and nothing stays in flight."""
    a, client = h2
    gate = threading.Event()
    a.default = Behaviour(gate=gate, gate_at=2)
    client.cancel(client.until(client.chat(stream=True), b" w1").id)
    assert a.requests[0].client_left.wait(5)
    until(lambda: a.in_flight == 0, "in flight")
    assert a.resets == [8]


def test_an_h2_provider_says_goodbye(h2: tuple[H2Provider, H2Client]) -> None:
    """After GOAWAY a new request comes over a new connection."""
    a, client = h2
    assert client.answer(client.chat()).status == 200
    a.go_away()
    until(lambda: not a._open, "the old connection")
    assert client.answer(client.chat()).status == 200
    assert a.connections == 2


PROGRAM = """
import sys
from openai import OpenAI
from anthropic import Anthropic
print(OpenAI().chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
      .choices[0].message.content)
print(Anthropic().messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}])
      .content[0].text)
"""


def test_an_unmodified_program_needs_two_variables(diverted: tuple[Mitmdump, Provider]) -> None:
    """A program that knows nothing is intercepted by proxy and CA variables alone."""
    from support.proxy import clean_env

    m, _ = diverted
    env = clean_env(**m.client_env, OPENAI_API_KEY="sk-dummy", ANTHROPIC_API_KEY="sk-dummy")
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.split("\n")[:2] == [text_of("alpha", Behaviour())] * 2, done.stderr


def test_a_provider_dies_by_kill(plain: Mitmdump) -> None:
    """As a process of its own a provider can be killed in mid-stream, and the client sees the stream break."""
    command = [sys.executable, "-m", "support.provider"]
    folder = str(Path(__file__).parents[1])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder) as process:
        assert process.stdout is not None
        base = f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
        try:
            with Wire(plain) as wire:
                wire.send(chat(base, stream=True)).until(b" w20")
                process.kill()
                with pytest.raises((EOFError, ConnectionError)):
                    wire.until(b"[DONE]")
        finally:
            process.kill()


def test_a_traceback_in_the_log_fails_the_test(tmp_path: Path) -> None:
    """A proxy whose output holds a crash does not end quietly."""
    script = tmp_path / "crash.py"
    script.write_text("def running():\n    1 / 0\n")
    with pytest.raises(AssertionError, match="ZeroDivisionError"), Mitmdump(tmp_path / "p", None, script=script) as m:
        m.wait_for_log("ZeroDivisionError")


def test_the_sdks_do_not_repeat_on_their_own(provider: Make, plain: Mitmdump) -> None:
    """One call of a test's client is one request, so that what is counted is the proxy's doing."""
    a = provider("alpha")
    a.default = Behaviour(status=503)
    with Client(plain, {d: a.url(d) for d in OFFICIAL}) as app:
        errors: list[Any] = [app.call(api, stream=False).error for api in APIS]
    assert a.count == len(APIS)
    assert isinstance(errors[0], openai.InternalServerError)
    assert isinstance(errors[2], anthropic.APIStatusError)


def test_a_provider_that_is_not_there_is_mitmproxys_own_502(provider: Make, plain: Mitmdump) -> None:
    """Without the addon a refused connection reaches the app as a 502: what the addon is measured against."""
    a = provider("alpha")
    a.refuse()
    with Client(plain, {"openai": a.url()}) as app:
        assert app.call("chat", stream=False).status == 502
