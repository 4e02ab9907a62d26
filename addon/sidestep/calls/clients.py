"""Who asks, and where its request goes: whether a call may use the providers' keys, and says something about them; and
what an app does when its answer breaks off.

A call that may not is none of Sidestep's: it goes where the app sent it, unread, and is no evidence about a provider.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection, Iterable
from functools import lru_cache

from mitmproxy import ctx, http
from mitmproxy.connection import Client
from mitmproxy.proxy.mode_specs import (
    LocalMode,
    RegularMode,
    ReverseMode,
    Socks5Mode,
    TransparentMode,
    TunMode,
    UpstreamMode,
    WireGuardMode,
)

from sidestep.config.urls import BaseURL

ACCEPTED_BY_THE_KERNEL = (RegularMode, UpstreamMode, ReverseMode, Socks5Mode, TransparentMode)
"""Modes whose clients' addresses are the kernel's word. Inside a tunnel a client gives itself the address it likes."""
CAPTURED = (TransparentMode, LocalMode, WireGuardMode, TunMode)
"""Modes that see to which address an app connects, and not under which name it looked that up."""
_APP_SCHEME = re.compile(rb"(?!(?:https?|wss?|blob|data|about|filesystem|null)\Z)[a-z][a-z0-9+.-]*(?<!-extension)")
"""The origins of programs that are made as a browser is: `app`, `tauri`, `vscode-webview`, `file`. No page of the web
can have one; a browser's extensions count as pages."""
_OWN_ENDINGS = (".localhost", ".internal")
"""Names that the public DNS never has (RFC 6761, 6.3; ICANN's resolution of 29 July 2024)."""
_DEFAULT_PORT = re.compile(rb":(?:80|443)\Z")


def may_use_keys(client: Client, networks: Iterable[str]) -> bool:
    """Whether provider keys may be used for this client. `networks`: those that were allowed to, in CIDR notation."""
    mode = client.proxy_mode
    address = address_of(client.peername[0]) if client.peername else None
    if address is not None and address.is_loopback and isinstance(mode, ACCEPTED_BY_THE_KERNEL):
        return True
    if "proxyauth" in ctx.options and ctx.options.proxyauth:
        return True
    if isinstance(mode, LocalMode):
        return True  # captured programs run on this machine, whatever address they seem to come from
    return is_listed(client, networks)


def is_listed(client: Client, networks: Iterable[str]) -> bool:
    """Whether a client's address is in one of these networks, in CIDR notation."""
    address = address_of(client.peername[0]) if client.peername else None
    allowed = (ipaddress.ip_network(n, strict=False) for n in networks)
    return address is not None and any(address.version == n.version and address in n for n in allowed)


_ASK_AGAIN_WHEN_CUT = ("claude-cli/",)
"""How the `user-agent` of such apps begins: Claude Code gives up on an error event that comes after a whole block of
its answer, and asks again up to ten times where the connection is cut (2.1.197, as observed)."""


def asks_again_when_cut(user_agent: str) -> bool:
    """Whether an app that has read a part of its answer is better off with a cut connection than with an error."""
    return user_agent.startswith(_ASK_AGAIN_WHEN_CUT)


def address_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that a text is, None if it is none."""
    return _address(text) if len(text) <= 60 else None


@lru_cache(maxsize=256)
def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0].removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


# --- where a request goes


def goes_to(flow: http.HTTPFlow, base: BaseURL) -> bool:
    """Whether the request, left alone, goes to the host of this base. That its `Host` says so is not enough: with
    `CONNECT stranger` it would go to the stranger. An address in place of the name is believed where TLS will prove the
    name, or where the app could give no name."""
    mode = flow.client_conn.proxy_mode
    if isinstance(mode, ReverseMode) or flow.is_replay == "request":
        return True  # the user has said where they go
    host, server = flow.request.data.host, flow.server_conn
    proven = False
    if server.address is not None and flow.request.data.scheme == b"https":
        # The name that mitmproxy asks its server for, and checks the certificate for.
        name = server.sni or flow.client_conn.sni or server.address[0]
        if name.lower() != base.host:
            return False
        proven = True
    if host.lower() == base.host:
        return True
    return address_of(host) is not None and (proven or isinstance(mode, CAPTURED))


def gives_an_address(flow: http.HTTPFlow, base: BaseURL) -> bool:
    """Whether an app that could have named its server has looked it up by itself."""
    return flow.request.data.host.lower() != base.host and not isinstance(
        flow.client_conn.proxy_mode, (ReverseMode, *CAPTURED)
    )


# --- browsers


def is_page(origin: bytes | None, fetch_site: bytes | None, authority: bytes) -> bool:
    """Whether a web page asks, and it is not one of the very server that it asks. Browsers alone say where a request
    comes from: by `Origin`, with every POST and every WebSocket, and by `Sec-Fetch-Site` (W3C Fetch Metadata) where
    they trust the server's address.

    `authority`: host and port by which the server was called. Some libraries for WebSockets name the server itself as
    the origin, and programs that are made as browsers are have origins of their own schemes.
    """
    if origin is not None:
        scheme, mark, rest = origin.strip().lower().partition(b"://")
        if mark and _APP_SCHEME.fullmatch(scheme):
            return False
        if not mark or _DEFAULT_PORT.sub(b"", rest) != _DEFAULT_PORT.sub(b"", authority.lower()):
            return True
    return fetch_site is not None and fetch_site.strip().lower() not in (b"none", b"same-origin")


def is_own_name(authority: bytes, names: Collection[str]) -> bool:
    """Whether a server of this machine may be called by this name. By any other it is reached from a page whose name
    has come to resolve to this machine (DNS rebinding), which browsers take for that page's own server.

    `names`: those of the user. A name without a dot belongs to nobody in the public DNS, and an address is no name.
    """
    host = authority.decode("latin-1").lower().rpartition("@")[2]
    if not host or address_of(host) is not None:
        return True
    host = re.sub(r":\d*\Z", "", host)
    if address_of(host) is not None:
        return True
    host = host.removesuffix(".")
    return "." not in host or host.endswith(_OWN_ENDINGS) or is_machine(host, names)


def is_machine(host: str, names: Collection[str]) -> bool:
    """Whether this name, in lower case, is this machine's."""
    return host == "localhost" or host.endswith(".localhost") or host in _names_of_machine() or host in names


@lru_cache(maxsize=1)
def _names_of_machine() -> frozenset[str]:
    name = socket.gethostname().lower()
    return frozenset({name, f"{name.partition('.')[0]}.local"})
