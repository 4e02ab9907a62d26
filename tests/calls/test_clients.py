"""Who asks and where to: tables of clients, addresses and browsers' words."""

from __future__ import annotations

import socket

import pytest
from mitmproxy import http
from mitmproxy.proxy.mode_specs import ProxyMode
from mitmproxy.test import taddons

from sidestep.calls.clients import gives_an_address, goes_to, is_own_name, is_page, may_use_keys
from sidestep.config.urls import BaseURL
from support.flows import flow_of

# --- who asks

KERNEL = ["regular", "upstream:http://proxy.test", "reverse:https://api.test", "socks5", "transparent"]
TUNNELS = ["wireguard", "tun"]
LOOPBACK = ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "::1%lo"]


def flow_from(address: str, mode: str) -> http.HTTPFlow:
    flow = flow_of()
    flow.client_conn.peername = (address, 5555)
    flow.client_conn.proxy_mode = ProxyMode.parse(mode)
    return flow


@pytest.mark.parametrize("address", LOOPBACK)
def test_loopback_is_what_the_kernel_says(address: str) -> None:
    """A connection that it has accepted; not an address that a peer in a tunnel has given itself."""
    with taddons.context():
        for mode in KERNEL:
            assert may_use_keys(flow_from(address, mode).client_conn, []), mode
        for mode in TUNNELS:
            assert not may_use_keys(flow_from(address, mode).client_conn, []), mode


@pytest.mark.parametrize("mode", [*KERNEL, *TUNNELS])
def test_others_may_where_their_network_is_listed(mode: str) -> None:
    """Whatever the mode: a peer's address in a tunnel is the user's to believe."""
    with taddons.context():
        client = flow_from("10.1.2.3", mode).client_conn
        assert not may_use_keys(client, [])
        assert not may_use_keys(client, ["10.1.3.0/24", "fd00::/8"])
        assert may_use_keys(client, ["10.1.3.0/24", "10.1.2.0/24"])


def test_a_captured_program_runs_here() -> None:
    with taddons.context():
        assert may_use_keys(flow_from("10.1.2.3", "local").client_conn, [])


# --- where a request goes

API = BaseURL.parse("https://api.test/v1")
PLAIN = BaseURL.parse("http://api.test/v1")


@pytest.mark.parametrize(
    ("mode", "scheme", "host", "sni", "goes", "by_name"),
    [
        ("regular", "https", "api.test", None, True, False),
        ("regular", "https", "API.test", "api.TEST", True, False),
        ("regular", "https", "api.test", "stranger.test", False, None),
        ("regular", "https", "stranger.test", "api.test", False, None),
        ("regular", "https", "stranger.test", None, False, None),
        ("regular", "https", "192.0.2.1", "api.test", True, True),
        ("regular", "https", "192.0.2.1", None, False, None),
        ("regular", "https", "::1", "api.test", True, True),
        ("socks5", "https", "192.0.2.1", "api.test", True, True),
        ("regular", "http", "api.test", None, True, False),
        ("regular", "http", "stranger.test", None, False, None),
        ("regular", "http", "127.0.0.1", None, False, None),
        ("socks5", "http", "192.0.2.1", None, False, None),
        ("transparent", "http", "192.0.2.1", None, True, False),
        ("transparent", "https", "192.0.2.1", "api.test", True, False),
        ("transparent", "https", "192.0.2.1", "stranger.test", False, None),
        ("wireguard", "https", "192.0.2.1", None, False, None),
        ("local", "http", "192.0.2.1", None, True, False),
        ("reverse:https://api.test", "https", "api.test", "localhost", True, False),
    ],
)
def test_only_the_intercept_s_own_host_counts(
    mode: str, scheme: str, host: str, sni: str | None, goes: bool, by_name: bool | None
) -> None:
    """By its name, or by an address where TLS will prove the name, or where the app could not give one."""
    flow = flow_of(url=f"{scheme}://x/v1/chat/completions")
    flow.request.data.host = host
    flow.client_conn.proxy_mode = ProxyMode.parse(mode)
    flow.client_conn.sni = sni
    flow.server_conn.address = (host, 443)
    flow.server_conn.sni = None
    base = API if scheme == "https" else PLAIN
    assert goes_to(flow, base) is goes
    if by_name is not None:
        assert gives_an_address(flow, base) is by_name


def test_a_request_in_absolute_form_has_no_name_in_tls() -> None:
    """What the client's TLS was with is the proxy."""
    flow = flow_of(url="https://api.test/v1/chat/completions")
    flow.client_conn.sni = "proxy.test"
    flow.server_conn.address = None
    assert goes_to(flow, API)


# --- browsers

HERE = b"api.test:8443"


@pytest.mark.parametrize(
    ("origin", "site", "asks"),
    [
        (None, None, False),
        (None, b"none", False),
        (None, b"same-origin", False),
        (None, b"same-site", True),
        (None, b"cross-site", True),
        (None, b" Cross-Site ", True),
        (None, b"", True),
        (b"null", None, True),
        (b"", None, True),
        (b"*", None, True),
        (b"https://evil.test", None, True),
        (b"https://evil.test", b"same-origin", True),
        (b"https://api.test:8443", None, False),
        (b"http://API.test:8443", None, False),
        (b"https://api.test:8443", b"cross-site", True),
        (b"https://api.test", None, True),
        (b"https://api.test:8443.evil.test", None, True),
        (b"https://user@api.test:8443", None, True),
        (b"app://obsidian.md", b"cross-site", False),
        (b"tauri://localhost", b"cross-site", False),
        (b"vscode-webview://1ab2", None, False),
        (b"file://", None, False),
        (b"chrome-extension://abc", None, True),
        (b"moz-extension://abc", None, True),
        (b"blob://x", None, True),
        (b"data://x", None, True),
        (b"wss://evil.test", None, True),
        (b"://x", None, True),
        (b"ev il://x", None, True),
    ],
)
def test_what_a_web_page_looks_like(origin: bytes | None, site: bytes | None, asks: bool) -> None:
    """What a browser says of where a request comes from. Programs say nothing, or have schemes of their own."""
    assert is_page(origin, site, HERE) is asks


@pytest.mark.parametrize("port", [b"", b":80", b":443"])
def test_the_usual_port_may_be_left_out(port: bytes) -> None:
    assert not is_page(b"https://api.test", None, b"api.test" + port)
    assert not is_page(b"https://api.test" + port, None, b"api.test")


@pytest.mark.parametrize(
    "authority",
    [
        *(b"localhost", b"localhost:8081", b"LOCALHOST.:1", b"api.localhost:8081", b"host.docker.internal:80"),
        *(b"127.0.0.1:8081", b"192.168.0.7", b"[::1]:8081", b"::1", b"[fe80::1%eth0]:1", b"box", b"box:8081", b""),
        *(b"named.test", b"named.test:1", b"user:pass@localhost:1", socket.gethostname().encode()),
    ],
)
def test_names_of_this_machine(authority: bytes) -> None:
    """Addresses, names that the public DNS never has, and those that the user gives."""
    assert is_own_name(authority, {"named.test"})


@pytest.mark.parametrize(
    "authority",
    [
        *(b"evil.test", b"evil.test:8081", b"evil.test.", b"localhost.evil.test", b"127.0.0.1.evil.test:8081"),
        *(
            b"evil.local",
            b"notnamed.test",
            b"sub.named.test",
            b"localhost@evil.test",
            b"x" * 5000 + b".test",
            b"[evil.test]",
        ),
        *(b"\xff.test", b"1.2.3.4.5", b"internal.evil.test", b"x" * 5000 + b".test"),
    ],
)
def test_foreign_names(authority: bytes) -> None:
    """Any of them can be made to resolve to this machine."""
    assert not is_own_name(authority, {"named.test"})
