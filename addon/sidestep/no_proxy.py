"""NO_PROXY: which hosts are not reached by way of a user's own proxy."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from contextlib import suppress

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def no_proxy(env: Mapping[str, str], intercepted: Collection[str] = ()) -> list[str]:
    """The user's hosts that need no proxy, and the loopback's, save those whose calls are to be routed."""
    hosts = [h.strip() for h in users_no_proxy(env).split(",") if h.strip()]
    return [*hosts, *(h for h in LOOPBACK if h not in hosts and h not in intercepted)]


def users_no_proxy(env: Mapping[str, str]) -> str:
    return env.get("no_proxy") or env.get("NO_PROXY") or ""


def passed_by(env: Mapping[str, str], intercepted: Collection[tuple[str, int]]) -> list[str]:
    """The intercepted hosts whose calls never come to a proxy, for the user's NO_PROXY names them."""
    users = users_no_proxy(env)
    return sorted({host for host, port in intercepted if _names(users, host, port)})


def is_direct(no_proxy: str, host: str, port: int) -> bool:
    """Whether a host is reached without the user's proxy: one of this machine, or one that NO_PROXY names."""
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback) or _names(no_proxy, host, port)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _names(no_proxy: str, host: str, port: int) -> bool:
    """Whether NO_PROXY names this host, as curl, Go and Python read it."""
    host = host.lower().removesuffix(".")
    address = _address(host)
    for entry in no_proxy.lower().split(","):
        name = entry.strip()
        if name == "*":
            return True
        if address is not None and "/" in name:
            with suppress(ValueError):
                if address in ipaddress.ip_network(name, strict=False):
                    return True
            continue
        # An address of IPv6 has colons of its own, and brackets where a port follows.
        if name.count(":") == 1 or "]:" in name:
            name, _, wanted = name.rpartition(":")
            if wanted != str(port):
                continue
        name = name.strip("[]").removeprefix("*").removeprefix(".")
        if name and (host == name or (address is None and host.endswith(f".{name}"))):
            return True
    return False
