"""Where a store is and how it is spoken to, out of `[fleet] url`.

Pure. A URL may hold a password, so that no problem quotes a part of it, and nothing is shown but `Address.place`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

_TLS = {"redis": False, "rediss": True, "valkey": False, "valkeys": True}
_SENTINEL = "+sentinel"
SCHEMES = (*_TLS, "unix", *(f"{scheme}{_SENTINEL}" for scheme in _TLS))
PORT = 6379
SENTINEL_PORT = 26379
_PARAMETERS = ("username", "password", "db")
_TLS_PARAMETERS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
_SENTINEL_PARAMETERS = ("sentinel_username", "sentinel_password")
_VALUES = {
    "db": re.compile(r"[0-9]{1,6}"),
    "ssl_cert_reqs": re.compile(r"required|none"),
    "ssl_check_hostname": re.compile(r"true|false"),
}
_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[^\[\]:,\s]+))(?::(?P<port>[0-9]{1,5}))?")
_ENCODED = "in a user or a password, : / ? # @ % are written as %3A %2F %3F %23 %40 %25"

Host = tuple[str, int]


class AddressError(Exception):
    """What was expected, what was found, and a hint; none quotes the URL."""

    def __init__(self, expected: str, found: str, hint: str = "") -> None:
        super().__init__(expected)
        self.expected = expected
        self.found = found
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Tls:
    """Whose certificate is taken, and what is shown for one's own."""

    ca: str | None
    """A file of CAs that are trusted; None: the machine's."""
    certificate: str | None
    key: str | None
    is_verified: bool
    checks_host: bool


@dataclass(frozen=True, slots=True)
class Address:
    """One server, any node of a Cluster, or the Sentinels that know which server it is."""

    place: str
    """As it may be shown."""
    hosts: tuple[Host, ...]
    """One; several Sentinels; none: a socket."""
    options: dict[str, Any]
    """In the words of the client library: `username`, `password`, `db`, of a socket its `path`."""
    tls: Tls | None = None
    service: str = ""
    """What Sentinels call it; empty: there are none."""
    sentinel: tuple[str | None, str | None] = (None, None)
    """User and password for the Sentinels themselves."""

    def __repr__(self) -> str:
        return f"Address({self.place})"


def address_of(url: str) -> Address:
    """AddressError: what is wrong with it."""
    scheme, has_scheme, rest = url.partition("://")
    kind = scheme.removesuffix(_SENTINEL)
    if scheme not in SCHEMES or not has_scheme:
        known = ", ".join(f"{s}://" for s in SCHEMES)
        raise AddressError(f"a URL that begins with one of {known}", "another one" if has_scheme else "none")
    try:
        parts = urlsplit(f"redis://{rest}")
    except ValueError:
        raise AddressError("a URL with a host name", "one that cannot be read", _ENCODED) from None
    if "#" in rest:
        raise AddressError("a URL without a fragment", "one with a #", _ENCODED)
    is_tls, has_sentinels = _TLS.get(kind, False), kind != scheme
    options = _parameters(parts.query, is_tls=is_tls, has_sentinels=has_sentinels)
    tls = _tls(options) if is_tls else None
    login, _, netloc = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    options |= {k: unquote(v) for k, v in (("username", user), ("password", password)) if v}
    sentinel = options.pop("sentinel_username", None), options.pop("sentinel_password", None)
    if scheme == "unix":
        if netloc or not parts.path.strip("/"):
            raise AddressError("the path of a socket, as in unix:///run/valkey.sock", "none")
        socket = unquote(parts.path)
        return Address(f"unix://{socket}", (), {**options, "path": socket})
    hosts = _hosts(netloc, SENTINEL_PORT if has_sentinels else PORT)
    path = [unquote(part) for part in parts.path.split("/") if part]
    service = ""
    if has_sentinels:
        if not path:
            raise AddressError("a service after the hosts, as in redis+sentinel://h1,h2/mymaster", "none")
        service = path.pop(0)
    elif len(hosts) > 1:
        raise AddressError("one host", "several", "Sentinels are named as in redis+sentinel://h1,h2/mymaster")
    if path:
        [database, *more] = path
        if more or not _VALUES["db"].fullmatch(database):
            raise AddressError("the number of a database at the end, as in redis://host:6379/0", "none", _ENCODED)
        options["db"] = int(database)
    shown = ",".join(f"[{name}]:{port}" if ":" in name else f"{name}:{port}" for name, port in hosts)
    place = "/".join(part for part in (f"{scheme}://{shown}", service, str(options.get("db", 0))) if part)
    return Address(place, hosts, options, tls, service, sentinel)


def _hosts(text: str, port: int) -> tuple[Host, ...]:
    found: list[Host] = []
    for part in text.split(","):
        match = _HOST.fullmatch(part)
        number = int((match and match["port"]) or port)
        if match is None or not 0 < number < 65536:
            raise AddressError("a URL with a host name, and a port from 1 to 65535 if any", "none", _ENCODED)
        found.append((match["v6"] or match["name"], number))
    return tuple(found)


def _parameters(query: str, *, is_tls: bool, has_sentinels: bool) -> dict[str, Any]:
    allowed = (*_PARAMETERS, *(_TLS_PARAMETERS if is_tls else ()), *(_SENTINEL_PARAMETERS if has_sentinels else ()))
    found: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True))
    if not found.keys() <= set(allowed):
        raise AddressError(f"no parameter but {', '.join(allowed)}", "another one", _ENCODED)
    for name, values in _VALUES.items():
        if name in found and not values.fullmatch(found[name]):
            raise AddressError(f"for {name} {values.pattern.replace('|', ' or ')}", "something else")
    if "db" in found:
        found["db"] = int(found["db"])
    return found


def _tls(options: dict[str, Any]) -> Tls:
    ca, certificate, key = (options.pop(name, None) for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"))
    is_verified = options.pop("ssl_cert_reqs", "required") == "required"
    checks_host = options.pop("ssl_check_hostname", "true") == "true" and is_verified
    return Tls(ca, certificate, key, is_verified, checks_host)
