"""Every mode of mitmproxy that an app may be put behind: the first provider fails, the second answers, circuits hold.

Those that need privileges live in network namespaces of their own and skip where the machine cannot make them.
"""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest
import trustme
from mitmproxy import io

from support.capture import Group, group
from support.corporate import ConnectProxy
from support.h2provider import server_context
from support.namespaces import SERVER, Networks, ip, networks, redirect_all_tcp
from support.provider import Behaviour, Provider, text_of
from support.proxy import Mitmdump, clean_env
from support.raw import Wire, chat, to_server
from support.settings import key_of, table
from support.waiting import until
from support.ways import connect, listening, plain, socks5, tls
from support.wireguard import ADDRESS, WireGuard, open_tun

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]

APP_KEY = "sk-app-CANARY-0123456789"
OFFICIAL = "https://api.openai.com/v1"
GOOD = Behaviour()
DOWN = Behaviour(status=500)
QUICK = [
    table("circuit", {"failure_threshold": 2, "open_seconds": 60}),
    table("attempts", {"per_provider": 1, "wait_seconds": 0}),
]


def config(own_base: str, b: Provider, *more: str) -> str:
    """`own` is what the app addresses, with the app's credential; then comes b, with a key."""
    return "\n".join(
        [
            *QUICK,
            *more,
            f'[[providers]]\nname = "own"\ndialect = "openai"\nbase_url = "{own_base}"\n',
            f'[[providers]]\nname = "b"\ndialect = "openai"\nbase_url = "{b.url()}"\napi_key = "{key_of("b")}"\n',
            f'[[routes]]\nintercept = ["{own_base}"]\nproviders = ["own", "b"]\n',
        ]
    )


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    @classmethod
    def read(cls, status: int, headers: dict[str, str], body: bytes, *, stream: bool) -> Answer:
        if status != 200:
            return cls(status, headers, body.decode())
        if not stream:
            return cls(status, headers, json.loads(body)["choices"][0]["message"]["content"])
        events = [line[6:] for line in body.decode().splitlines() if line.startswith("data: ")]
        assert events.pop() == "[DONE]"
        deltas = [choice["delta"] for event in events for choice in json.loads(event)["choices"]]
        return cls(status, headers, "".join(delta.get("content") or "" for delta in deltas))


def ask(sock: socket.socket, base: str, *, stream: bool, absolute: bool = False) -> Answer:
    """A chat completion over a connection that was made for it."""
    sent = chat(base, stream=stream, key=APP_KEY)
    with Wire.over(sock) as wire:
        return Answer.read(*wire.send(sent if absolute else to_server(sent)).answer(), stream=stream)


def fails_over(own: Provider, b: Provider, call: Callable[[bool], Answer]) -> None:
    """Two calls are saved by b, whole and streamed; then own's circuit is open and two more go to b at once."""
    own.default = DOWN
    for trail in ("own:500, b:200", "b:200"):
        for stream in (False, True):
            answer = call(stream)
            assert (answer.status, answer.text) == (200, text_of("b", GOOD))
            assert answer.headers["x-sidestep-attempts"] == trail
            assert answer.headers["x-sidestep-provider"] == "b"
            assert answer.headers["x-sidestep-request-id"].startswith("sx-")
    assert (own.count, b.count) == (2, 4)
    assert {seen.header("authorization") for seen in own.requests} == {f"Bearer {APP_KEY}"}
    assert {seen.header("authorization") for seen in b.requests} == {f"Bearer {key_of('b')}"}
    for seen in own.requests:
        assert key_of("b").encode() not in seen.raw_head
    for seen in b.requests:
        assert APP_KEY.encode() not in seen.raw_head
        assert seen.path == "/v1/chat/completions"
        assert seen.header("host") == f"{b.host}:{b.port}"


@pytest.fixture
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusting(ca: trustme.CA, tmp_path: Path) -> tuple[str, str]:
    """Options with which mitmproxy trusts the providers."""
    path = tmp_path / "providers-ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return "--set", f"ssl_verify_upstream_trusted_ca={path}"


def test_regular(ca: trustme.CA, trusting: tuple[str, str], provider: Make, proxy: Start) -> None:
    """As an HTTP proxy, over CONNECT and TLS."""
    own, b = provider("own", tls=server_context(ca)), provider("b", tls=server_context(ca))
    m = proxy(config(own.url(), b), *trusting)

    def call(stream: bool) -> Answer:
        sock = tls(connect(("127.0.0.1", m.port), (own.host, own.port)), m.ca, own.host)
        return ask(sock, own.url(), stream=stream)

    fails_over(own, b, call)


@pytest.mark.parametrize(("scheme", "keep_host"), [("http", "true"), ("https", "false")])
def test_reverse(
    scheme: str, keep_host: str, ca: trustme.CA, trusting: tuple[str, str], provider: Make, proxy: Start
) -> None:
    """As a server of its own: the app needs no CA and no proxy setting, only another base URL."""
    context = server_context(ca) if scheme == "https" else None
    own, b = provider("own", tls=context), provider("b")
    mode = ("--mode", f"reverse:{own.origin}@127.0.0.2:0", "--set", f"keep_host_header={keep_host}")
    m = proxy(config(own.url(), b), "--mode", "regular", *mode, *trusting)
    address = listening(m, "reverse proxy to .*")

    def call(stream: bool) -> Answer:
        return ask(plain(address), f"http://{address[0]}:{address[1]}/v1", stream=stream)

    fails_over(own, b, call)


def test_reverse_for_an_sdk(provider: Make, proxy: Start) -> None:
    """The official SDK with nothing but a base URL; the host that it stands for cannot be reached."""
    a = provider("a")
    text = f'[[providers]]\nname = "a"\ndialect = "openai"\nbase_url = "{a.url()}"\napi_key = "{key_of("a")}"\n'
    route = '[[routes]]\nintercept = ["https://api.openai.com/v1"]\nproviders = ["a"]\n'
    mode = "reverse:https://api.openai.com@127.0.0.2:0"
    m = proxy(text + route, "--mode", "regular", "--mode", mode)
    host, port = listening(m, "reverse proxy to .*")
    messages = [{"role": "user", "content": "hi"}]
    with openai.OpenAI(api_key=APP_KEY, base_url=f"http://{host}:{port}/v1", max_retries=0) as app:
        whole = app.chat.completions.create(model="gpt-4o", messages=messages)  # type: ignore[arg-type]
        assert whole.choices[0].message.content == text_of("a", GOOD)
    assert a.requests[0].header("authorization") == f"Bearer {key_of('a')}"


def test_socks5(ca: trustme.CA, trusting: tuple[str, str], provider: Make, proxy: Start) -> None:
    """As a SOCKS5 proxy, with TLS inside."""
    own, b = provider("own", tls=server_context(ca)), provider("b")
    m = proxy(config(own.url(), b), "--mode", "regular@127.0.0.1:0", "--mode", "socks5@127.0.0.2:0", *trusting)
    address = listening(m, "SOCKS v5 proxy")

    def call(stream: bool) -> Answer:
        return ask(tls(socks5(address, (own.host, own.port)), m.ca, own.host), own.url(), stream=stream)

    fails_over(own, b, call)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_socks5_for_a_program(provider: Make, proxy: Start) -> None:
    """curl, told of the proxy and our CA alone; the host that it asks for cannot be reached."""
    b = provider("b")
    m = proxy(config(OFFICIAL, b), "--mode", "regular@127.0.0.1:0", "--mode", "socks5@127.0.0.2:0")
    host, port = listening(m, "SOCKS v5 proxy")
    curl = ["curl", "-sSi", "--http1.1", "--socks5-hostname", f"{host}:{port}", "--cacert", str(m.ca)]
    fields = ["-H", f"Authorization: Bearer {APP_KEY}", "--json", '{"model": "gpt-4o", "messages": []}']
    command = [*curl, *fields, f"{OFFICIAL}/chat/completions"]
    ran = subprocess.run(command, capture_output=True, env=clean_env(), timeout=20)
    assert b"x-sidestep-attempts: own:connect, b:200" in ran.stdout, ran
    assert b.requests[0].header("authorization") == f"Bearer {key_of('b')}"


def test_socks5_with_a_password(provider: Make, tmp_path: Path) -> None:
    """Who knows the proxy's password may use the keys."""
    own, b = provider("own"), provider("b")
    options = ("--mode", "socks5@127.0.0.2:0", "--proxyauth", "it:secret-password")
    with Mitmdump(tmp_path / "proxy", config(own.url(), b), *options, port_in="SOCKS v5 proxy") as m:
        address = listening(m, "SOCKS v5 proxy")

        def call(stream: bool) -> Answer:
            return ask(socks5(address, (own.host, own.port), "it:secret-password"), own.url(), stream=stream)

        fails_over(own, b, call)
        assert "secret-password" not in str([seen.raw_head for seen in own.requests + b.requests])


def test_upstream(ca: trustme.CA, provider: Make, proxy: Start, tmp_path: Path) -> None:
    """Behind a company's proxy that opens TLS itself and wants a password: another mitmdump."""
    own, b = provider("own", tls=server_context(ca)), provider("b", tls=server_context(ca))
    asks = ("--proxyauth", "it:secret-password", "--set", "ssl_insecure=true", "--set", "flow_detail=1")
    company = Mitmdump(tmp_path / "company", None, *asks, script=None)
    with company:
        options = ("--mode", f"upstream:{company.url}", "--set", "upstream_auth=it:secret-password")
        m = proxy(config(own.url(), b), *options, "--set", f"ssl_verify_upstream_trusted_ca={company.ca}")

        def call(stream: bool) -> Answer:
            sock = tls(connect(("127.0.0.1", m.port), (own.host, own.port)), m.ca, own.host)
            return ask(sock, own.url(), stream=stream)

        fails_over(own, b, call)
        until(lambda: company.log.count("POST https://") == 6, "the company's proxy has told of all six requests")


def test_a_script_may_choose_the_upstream_proxy(provider: Make, proxy: Start, tmp_path: Path) -> None:
    """What mitmproxy's own example does in `request` holds for every attempt of the call."""
    own, b = provider("own"), provider("b")
    own.default = DOWN
    with ConnectProxy() as usual, ConnectProxy() as chosen:
        script = tmp_path / "choose.py"
        script.write_text(
            "from mitmproxy.connection import Server\n"
            "def request(flow):\n"
            "    flow.server_conn = Server(address=flow.server_conn.address)\n"
            f"    flow.server_conn.via = ('http', {chosen.address!r})\n"
        )
        m = proxy(config(own.url(), b), "--mode", f"upstream:{usual.url}", "-s", str(script))
        answer = ask(plain(("127.0.0.1", m.port)), own.url(), stream=False, absolute=True)
    assert answer.status == 200
    assert (own.count, b.count) == (1, 1)
    assert usual.forwarded + usual.tunnels == []
    assert len(chosen.forwarded + chosen.tunnels) == 2


@pytest.mark.parametrize(("own_tls", "b_tls"), [(False, False), (False, True), (True, False)])
def test_upstream_forms(
    own_tls: bool, b_tls: bool, ca: trustme.CA, trusting: tuple[str, str], provider: Make, proxy: Start
) -> None:
    """A company's proxy gets its password with every CONNECT and every absolute-form request, and nobody else does."""
    own = provider("own", tls=server_context(ca) if own_tls else None)
    b = provider("b", tls=server_context(ca) if b_tls else None)
    with ConnectProxy("it:secret-password") as company:
        options = ("--mode", f"upstream:{company.url}", "--set", "upstream_auth=it:secret-password")
        m = proxy(config(own.url(), b), *options, *trusting)

        def call(stream: bool) -> Answer:
            here = ("127.0.0.1", m.port)
            if not own_tls:
                return ask(plain(here), own.url(), stream=stream, absolute=True)
            return ask(tls(connect(here, (own.host, own.port)), m.ca, own.host), own.url(), stream=stream)

        fails_over(own, b, call)
    assert company.refusals == 0
    assert len([t for t in company.tunnels + company.forwarded if f":{own.port}" in t]) == 2
    assert len([t for t in company.tunnels + company.forwarded if f":{b.port}" in t]) == 4
    for seen in own.requests + b.requests:
        assert seen.header("proxy-authorization") is None
        assert seen.raw_head.startswith(b"POST /v1/")


def test_several_modes_at_once(provider: Make, proxy: Start) -> None:
    """One proxy in three modes has one circuit for each provider."""
    own, b = provider("own"), provider("b")
    modes = ["regular@127.0.0.1:0", f"reverse:{own.origin}@127.0.0.2:0", "socks5@127.0.0.3:0"]
    m = proxy(config(own.url(), b), *(word for mode in modes for word in ("--mode", mode)))
    reverse, socks = listening(m, "reverse proxy to .*"), listening(m, "SOCKS v5 proxy")
    ways: list[Callable[[bool], Answer]] = [
        lambda stream: ask(plain(("127.0.0.1", m.port)), own.url(), stream=stream, absolute=True),
        lambda stream: ask(plain(reverse), own.url(), stream=stream),
        lambda stream: ask(socks5(socks, (own.host, own.port)), own.url(), stream=stream),
    ]
    turns = iter([ways[1], ways[2], ways[0], ways[1]])
    fails_over(own, b, lambda stream: next(turns)(stream))
    for way in ways:
        assert way(False).headers["x-sidestep-attempts"] == "b:200"
    assert m.provider("own")["state"] == "open"


# --- modes that need privileges


HOST = "api.openai.com"
HTTPS = (SERVER, 443)


@pytest.fixture
def net() -> Iterator[Networks]:
    """Networks of the test's own, in which the test itself is where the proxy is; it skips where they cannot be had."""
    with networks() as made:
        yield made


def _behind(
    net: Networks, ca: trustme.CA, trusting: tuple[str, str], provider: Make, proxy: Start, mode: str, clients: str
) -> tuple[Mitmdump, Provider, Provider]:
    """A proxy whose clients believe that they speak with `own` at its own address."""
    own, b = provider("own", tls=server_context(ca, HOST), host=SERVER, port=443), provider("b")
    allowed = f'[proxy]\nallow_clients = ["{clients}"]\ntunnel_others = true\n'
    modes = ("--mode", "regular@127.0.0.1:8080", "--mode", mode, "-w", "saved.mitm")
    return proxy(config(OFFICIAL, b, allowed), *modes, *trusting), own, b


def _captured(net: Networks, m: Mitmdump, own: Provider, b: Provider, ca_file: str) -> None:
    """The client's calls are served by b, and what is no intercept passes unopened."""

    def call(stream: bool) -> Answer:
        with net.as_client():
            sock = plain(HTTPS)
        return ask(tls(sock, m.ca, HOST), OFFICIAL, stream=stream)

    fails_over(own, b, call)
    assert {seen.header("host") for seen in own.requests} == {HOST}
    with net.as_client():
        sock = plain(HTTPS)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        tls(sock, Path(ca_file), "other.test")  # the server itself answers, whose certificate is for another name
    m.stop()
    with (m.folder / "saved.mitm").open("rb") as f:
        assert {flow.comment for flow in io.FlowReader(f).stream()} >= {f"{HOST} → b after own:500"}


def test_transparent(net: Networks, ca: trustme.CA, trusting: tuple[str, str], provider: Make, proxy: Start) -> None:
    """As the gateway of another machine, whose traffic the kernel redirects."""
    net.join_by_cable()
    m, own, b = _behind(net, ca, trusting, provider, proxy, "transparent@0.0.0.0:8081", "192.0.2.0/24")
    redirect_all_tcp(8081)
    _captured(net, m, own, b, trusting[1].partition("=")[2])


def test_wireguard(net: Networks, ca: trustme.CA, trusting: tuple[str, str], provider: Make, proxy: Start) -> None:
    """As a WireGuard server: the client's whole traffic comes through the tunnel."""
    tun = open_tun(net)
    m, own, b = _behind(net, ca, trusting, provider, proxy, "wireguard@127.0.0.1:51820", f"{ADDRESS}/32")
    keys = json.loads((m.confdir / "wireguard.conf").read_text())
    with WireGuard(tun, ("127.0.0.1", 51820), keys["client_key"], keys["server_key"]):
        _captured(net, m, own, b, trusting[1].partition("=")[2])


def test_tun(net: Networks, ca: trustme.CA, trusting: tuple[str, str], provider: Make, proxy: Start) -> None:
    """As a network device that packets are routed to."""
    m, own, b = _behind(net, ca, trusting, provider, proxy, "tun:sidestep0", "192.0.2.0/24")
    m.wait_for_log("TUN interface created")
    ip(f"link set sidestep0 netns {net.path(net.client)}")
    with net.as_client():
        ip("addr add 192.0.2.2/32 dev sidestep0")
        ip("link set sidestep0 up")
        ip("route add default dev sidestep0")
    _captured(net, m, own, b, trusting[1].partition("=")[2])


def _is_capturing(captured: Group) -> bool:
    """Whether what the group sends arrives at the proxy; the kernel's part may come a moment after mitmproxy's."""
    end = time.monotonic() + 5
    page = ["curl", "-sS", "-m", "2", "--resolve", f"sidestep.internal:80:{SERVER}", "http://sidestep.internal/health"]
    while time.monotonic() < end:
        if b'"status": "ok"' in captured.run(*page):
            return True
    return False


def test_local_capture(
    net: Networks, ca: trustme.CA, trusting: tuple[str, str], provider: Make, tmp_path: Path
) -> None:
    """As one that captures a program of this machine, which may use the keys like any client of this machine."""
    own, b = provider("own", tls=server_context(ca, HOST), host=SERVER, port=443), provider("b")
    modes = ("--mode", "regular@127.0.0.1:8080", "--mode", "local:curl")
    m = Mitmdump(tmp_path / "proxy", config(OFFICIAL, b), *modes, *trusting)
    with group() as captured:
        captured.before(m)
        m.start()
        try:
            m.wait_for_log(r"Local redirector started|exiting\.\.\.|Error|error|refused|denied", 30)
            if not _is_capturing(captured):
                pytest.skip(f"nothing is captured here: {m.lines[-3:]}")

            def call(stream: bool) -> Answer:
                sent = chat(OFFICIAL, stream=stream, key=APP_KEY).partition(b"\r\n\r\n")[2].decode()
                curl = ["curl", "-sSi", "--http1.1", "--resolve", f"{HOST}:443:{SERVER}", "--cacert", str(m.ca)]
                fields = ["-H", f"Authorization: Bearer {APP_KEY}", "--json", sent]
                said = captured.run(*curl, *fields, f"{OFFICIAL}/chat/completions")
                assert said.startswith(b"HTTP/"), (said, m.log)
                head, _, body = said.partition(b"\r\n\r\n")
                lines = head.decode().split("\r\n")
                headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines[1:])}
                return Answer.read(int(lines[0].split()[1]), headers, body, stream=stream)

            fails_over(own, b, call)
        finally:
            m.stop()
