"""Who is calling: whether a client may use the providers' keys, and what it does when its answer breaks off."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

from mitmproxy import ctx
from mitmproxy.connection import Client
from mitmproxy.proxy.mode_specs import LocalMode


def may_use_keys(client: Client, networks: Iterable[str]) -> bool:
    """Whether provider keys may be used for this client. `networks`: those that were allowed to, in CIDR notation."""
    address = _address(client.peername[0]) if client.peername else None
    if address is not None and address.is_loopback:
        return True
    if "proxyauth" in ctx.options and ctx.options.proxyauth:
        return True
    if isinstance(client.proxy_mode, LocalMode):
        return True  # captured programs run on this machine, whatever address they seem to come from
    if address is None:
        return False
    allowed = (ipaddress.ip_network(n, strict=False) for n in networks)
    return any(address.version == n.version and address in n for n in allowed)


_ASK_AGAIN_WHEN_CUT = ("claude-cli/",)
"""How the `user-agent` of such apps begins: Claude Code gives up on an error event that comes after a whole block of
its answer, and asks again up to ten times where the connection is cut (2.1.197, as observed)."""


def asks_again_when_cut(user_agent: str) -> bool:
    """Whether an app that has read a part of its answer is better off with a cut connection than with an error."""
    return user_agent.startswith(_ASK_AGAIN_WHEN_CUT)


@lru_cache(maxsize=256)
def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """A client's address, None if it has none."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
