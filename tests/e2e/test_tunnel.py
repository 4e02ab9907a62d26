"""TLS to hosts that are no intercept passes unopened; a client that does not take our certificate is told of once."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from support.calls import Client
from support.corporate import ConnectProxy
from support.h2client import H2Client
from support.h2provider import H2Provider, server_context
from support.provider import Behaviour, Provider, text_of
from support.proxy import Mitmdump
from support.raw import Wire, chat, to_server
from support.settings import config
from support.waiting import until
from support.ways import Address, connect, listening, plain, socks5, tls

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]
GOOD = Behaviour()
TUNNEL: dict[str, Any] = {"proxy": {"tunnel_others": True}}


@pytest.fixture
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(ca: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "other-ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture
def other(ca: trustme.CA, provider: Make) -> Provider:
    """A TLS server under no intercept."""
    return provider("other", tls=server_context(ca, "other.test"))


def _address(server: Provider) -> Address:
    return server.host, server.port


def _certificate(sock: ssl.SSLSocket) -> bytes:
    der = sock.getpeercert(binary_form=True)
    assert der is not None
    return der


def _own_certificate(server: Provider) -> bytes:
    """What a server shows who asks it directly."""
    with tls(plain(_address(server)), None, "other.test") as sock:
        return _certificate(sock)


def _ask(sock: ssl.SSLSocket) -> tuple[int, dict[str, str], bytes]:
    with Wire.over(sock) as wire:
        return wire.send(to_server(chat("https://other.test/v1", key="for-other"))).answer()


@pytest.mark.parametrize("strategy", ["lazy", "eager"])
def test_others_pass_unopened(strategy: str, other: Provider, ca_file: Path, provider: Make, proxy: Start) -> None:
    """Over CONNECT and SOCKS5, with and without SNI, the client meets the server itself; plain HTTP stays as it is, and
    our own hosts are opened, the proxy among them."""
    a = provider("a")
    modes = ("--mode", "regular@127.0.0.1:0", "--mode", "socks5@127.0.0.2:0")
    m = proxy(config("chat", a, **TUNNEL), *modes, "--set", f"connection_strategy={strategy}")
    ways = [(connect, ("127.0.0.1", m.port)), (socks5, listening(m, "SOCKS v5 proxy"))]
    certificate = _own_certificate(other)
    for way, address in ways:
        for sni in (True, False):
            with tls(way(address, _address(other)), ca_file, "other.test", sni=sni) as sock:
                assert _certificate(sock) == certificate
                status, headers, body = _ask(sock)
            assert (status, json.loads(body)["model"]) == (200, "gpt-4o")
            assert not [h for h in headers if h.startswith("x-sidestep")]
    assert [seen.header("authorization") for seen in other.requests] == ["Bearer for-other"] * 4
    if strategy == "eager":
        return  # neither of these hosts can be reached from here
    plainly = provider("plainly")
    with Wire(m) as wire:
        status, headers, _ = wire.send(chat(plainly.url())).answer()
    assert (status, [h for h in headers if h.startswith("x-sidestep")]) == (200, [])
    with Client(m) as app:
        for stream in (False, True):
            result = app.call("chat", stream=stream)
            assert (result.text, result.provider) == (text_of("a", GOOD), "a")
    inside = [tls(way(address, ("sidestep.internal", 443)), m.ca, "sidestep.internal") for way, address in ways]
    inside.append(tls(plain(("127.0.0.1", m.port)), m.ca, "proxy.test"))
    for sock, target in zip(inside, ["", "", "http://sidestep.internal"], strict=True):
        with Wire.over(sock) as wire:
            page = f"GET {target}/health HTTP/1.1\r\nHost: sidestep.internal\r\n\r\n"
            status, _, body = wire.send(page.encode()).answer()
            assert (status, json.loads(body)["status"]) == (200, "ok")


def test_http2_passes_unopened(ca: trustme.CA, ca_file: Path, provider: Make, proxy: Start) -> None:
    """An HTTP/2 client speaks HTTP/2 with the server itself, by address alone."""
    with H2Provider("other", ca) as other:
        m = proxy(config("chat", provider("a"), **TUNNEL))
        with H2Client(m, other.host, other.port, ca=ca_file) as client:
            assert _certificate(client.sock) == _own_certificate(other)
            answers = [client.answer(n) for n in [client.chat(), client.chat(stream=True)]]
    assert [answer.status for answer in answers] == [200, 200]
    assert not [h for answer in answers for h in answer.headers if h.startswith("x-sidestep")]


def test_the_configuration_and_the_option(other: Provider, ca_file: Path, provider: Make, proxy: Start) -> None:
    """By default all TLS is opened; a changed file is taken over, and the option stands above the file."""
    text = config("chat", provider("a"))
    m = proxy(text, "--set", "ssl_insecure=true")
    certificate = _own_certificate(other)

    def shown(through: Mitmdump) -> bytes:
        with tls(connect(("127.0.0.1", through.port), _address(other)), None, "other.test") as sock:
            found = _certificate(sock)
            assert _ask(sock)[0] == 200
        return found

    assert shown(m) != certificate
    m.config.write_text(text + "\n[proxy]\ntunnel_others = true\n")
    m.wait_for_log("configuration reloaded")
    assert shown(m) == certificate
    assert "tunnel_others" not in m.log
    for says, tunnelled in (("true", True), ("false", False)):
        file = text + f"\n[proxy]\ntunnel_others = {str(not tunnelled).lower()}\n"
        options = ("--set", f"sidestep_tunnel_others={says}", "--set", "ssl_insecure=true")
        with Mitmdump(m.folder.parent / says, file, *options) as chosen:
            assert (shown(chosen) == certificate) is tunnelled
    bad = Mitmdump(m.folder.parent / "bad", text, "--set", "sidestep_tunnel_others=maybe").start()
    assert bad.process.wait(30) != 0
    bad.stop()
    assert "sidestep_tunnel_others: expected true or false, found 'maybe'" in bad.log
    assert "Traceback" not in bad.log


def test_an_intercept_without_sni_is_known_by_its_address(ca: trustme.CA, provider: Make, proxy: Start) -> None:
    """A client that names nobody in its TLS is intercepted by the address it asked for."""
    a = provider("a", tls=server_context(ca))
    m = proxy(config("chat", a, own=a, **TUNNEL), "--set", "ssl_insecure=true")
    with (
        tls(connect(("127.0.0.1", m.port), _address(a)), m.ca, "127.0.0.1", sni=False) as sock,
        Wire.over(sock) as wire,
    ):
        status, headers, _ = wire.send(to_server(chat(a.url()))).answer()
    assert (status, headers["x-sidestep-provider"]) == (200, "a")


def test_others_pass_through_the_companys_proxy(other: Provider, ca_file: Path, provider: Make, proxy: Start) -> None:
    """In upstream mode what is not opened goes through the other proxy, with its password."""
    names = {"other.test:443": _address(other)}
    with ConnectProxy("it:secret-password", names) as corporate:
        options = ("--mode", f"upstream:{corporate.url}", "--set", "upstream_auth=it:secret-password")
        m = proxy(config("chat", provider("a"), **TUNNEL), *options)
        with tls(connect(("127.0.0.1", m.port), ("other.test", 443)), ca_file, "other.test") as sock:
            assert _certificate(sock) == _own_certificate(other)
            assert _ask(sock)[0] == 200
    assert (corporate.tunnels, corporate.refusals) == (["other.test:443"], 0)


def test_in_reverse_mode_all_is_ours(ca: trustme.CA, provider: Make, proxy: Start) -> None:
    """TLS to a reverse-mode port was meant for us, by whichever of the proxy's names the client has called."""
    a = provider("a", tls=server_context(ca))
    mode = f"reverse:{a.origin}@127.0.0.2:0"
    text = config("chat", a, own=a, proxy={"tunnel_others": True, "hosts": ["llm.test"]})
    m = proxy(text, "--mode", "regular", "--mode", mode, "--set", "ssl_insecure=true")
    address = listening(m, "reverse proxy to .*")
    with tls(plain(address), m.ca, "llm.test") as sock, Wire.over(sock) as wire:
        status, headers, _ = wire.send(to_server(chat("https://llm.test/v1"))).answer()
    assert (status, headers["x-sidestep-provider"]) == (200, "a")


def test_a_client_that_rejects_our_certificate(other: Provider, ca_file: Path, provider: Make, proxy: Start) -> None:
    """One line a host names the host, our CA's file and what to do; hosts that are not ours are not spoken of."""
    m = proxy(config("chat", provider("a")))
    for host, times in (("api.openai.com", 3), ("other.test", 1)):
        for _ in range(times):
            with pytest.raises(ssl.SSLError):
                tls(connect(("127.0.0.1", m.port), (host, 443)), ca_file, host)
    until(lambda: m.log.count("Client TLS handshake failed") == 4, "all handshakes are seen to have failed")
    lines = [line for line in m.lines if "does not trust our certificate" in line]
    (line,) = lines
    assert "api.openai.com" in line
    assert str(m.ca) in line
    assert {"SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"} <= set(re.findall(r"[A-Z_]{8,}", line))
