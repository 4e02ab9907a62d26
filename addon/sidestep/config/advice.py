"""What is no mistake in a configuration but worth a look, in words.

Pure: no environment, no I/O.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from sidestep.config import catalog
from sidestep.config.settings import Provider, Settings
from sidestep.config.urls import BaseURL

_ENDPOINTS = {
    "openai": re.compile(
        r"/(?:(?:chat/|fim/)?completions|responses(?:/\w+)?|embeddings|moderations|images/\w+|audio/\w+|rerank|models)$"
    ),
    "anthropic": re.compile(r"(?:/v\d+)?/(?:messages(?:/count_tokens)?|models)$"),
    "gemini": re.compile(r"(?:/v\d\w*)?/models(?:/[^/]+)?$"),
}
"""The ends of paths that a dialect's SDK puts behind its base URL."""
_VERSION = re.compile(r"/v\d\w*")


def left_out(settings: Settings, allow: Sequence[str], ignore: Sequence[str]) -> list[str]:
    """A line for each of mitmproxy's options by which calls to intercepts pass unopened. Both are its patterns."""
    lines = []
    places = dict.fromkeys(f"{i.host}:{i.port}" for route in settings.routes for i in route.intercepts)
    for name, patterns, opened_where_found in (("allow_hosts", allow, True), ("ignore_hosts", ignore, False)):
        found = [p for p in places if any(re.search(x, p, re.IGNORECASE) for x in patterns) is not opened_where_found]
        if patterns and found:
            hosts = ", ".join(p.rpartition(":")[0] for p in found)
            lines.append(
                f"mitmproxy's option {name} leaves out {hosts}: what goes there passes unopened, without failover"
            )
    return lines


def advice(settings: Settings) -> list[str]:
    """A line for each thing that is no mistake but worth a look."""
    lines = []
    if not settings.providers and settings.mode != "off":
        lines.append(f"{settings.source}: expected [[providers]], found none: no call is routed")
    routed = {p.name for route in settings.routes for p in route.providers}
    for provider in settings.providers:
        lines += _of_base(f"{provider.name}: base_url", provider.dialect, provider.base_url)
        if _lacks_deployment(provider, settings):
            lines.append(
                f"{provider.name}: base_url: expected a base URL with '/openai/v1', or with the deployment, such as "
                f"'https://{provider.base_url.authority}/openai/deployments/NAME?api-version=2024-10-21', found "
                f"'{provider.base_url}'"
            )
        for name in ("max", "total_seconds"):
            if getattr(provider.attempts, name) != getattr(settings.attempts, name):
                lines.append(
                    f"{provider.name}: attempts.{name}: expected in the [attempts] table alone, found here: it bounds "
                    "a whole request, whoever is asked, and changes nothing"
                )
        if provider.name not in routed:
            lines.append(f"{provider.name}: expected in the providers of a route, found in none: it is never asked")
    lines += in_the_clear(settings)
    for route in settings.routes:
        for base in route.intercepts:
            lines += _of_base(f"route {route.name}: intercept", route.dialect, base)
    stand_ins = [p for route in settings.routes if len(route.providers) > 1 for p in route.providers]
    lines += [line for p in stand_ins if (line := without_issuer(p)) is not None]
    return list(dict.fromkeys(lines))


def in_the_clear(settings: Settings) -> list[str]:
    """A line for each key and password that goes to another machine without TLS. It is said before the first call."""
    told = [
        f"{p.name}: base_url: expected https, for {what} to another machine, found '{p.base_url}': whoever is on "
        "the way can read it"
        for p in settings.providers
        if p.base_url.scheme == "http" and not _is_here(p.base_url.host) and (what := _goes_along(p))
    ]
    if (fleet := settings.fleet) is not None:
        url = urlsplit(fleet.url.reveal())
        if url.scheme in ("redis", "valkey") and url.password and not _is_here(url.hostname or ""):
            told.append(
                f"fleet.url: expected rediss://, for its password goes to another machine, found '{fleet.place}': "
                "whoever is on the way can read it"
            )
    return list(dict.fromkeys(told))


def _goes_along(provider: Provider) -> str:
    """What of the user's goes to a provider with each call, in words; empty: nothing that is secret by its place."""
    if provider.api_key is not None:
        return "its key goes"
    return "its own headers go" if provider.headers else ""


def _of_base(place: str, dialect: str, base: BaseURL) -> list[str]:
    """What is to be said of a base URL: it is what one gives the dialect's official SDK, which adds the rest."""
    shown = str(base)
    endpoint = _ENDPOINTS[dialect].search(shown)
    if endpoint is not None:
        expected = f"a base URL without the endpoint's path, such as '{shown[: endpoint.start()]}'"
    elif dialect == "openai":
        known = [e.base_urls[dialect] for e in catalog.CATALOG.values() if dialect in e.endpoints]
        here = [text for text in known if BaseURL.parse(text).origin == base.origin]
        if shown in known or _VERSION.search(base.path) or (base.path and not here) or catalog.is_azure(base.host):
            return []
        expected = f"a base URL with its version, such as '{here[0] if here else shown + '/v1'}'"
    elif _VERSION.fullmatch("/" + base.path.rpartition("/")[2]):
        expected = f"a base URL without its version, which calls bring along, such as '{shown.rpartition('/')[0]}'"
    else:
        return []
    return [f"{place}: expected {expected}, found '{shown}'"]


def _lacks_deployment(provider: Provider, settings: Settings) -> bool:
    """Whether a base URL at Azure leaves open which deployment is meant, and the calls that it gets do not say it."""
    base = provider.base_url
    if provider.dialect != "openai" or not catalog.is_azure(base.host) or base.path not in ("", "/openai"):
        return False
    intercepts = [i for route in settings.routes if provider in route.providers for i in route.intercepts]
    return any(i.path != base.path for i in intercepts)


def _is_here(host: str) -> bool:
    """Whether a host is this machine by its name or address alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def without_issuer(provider: Provider) -> str | None:
    """What is to be said of a provider of which it is not known whose reasoning it honours; None where it is known, or
    where apps' reasoning is every provider's own."""
    if provider.issuer_is_known or provider.dialect == "openai":
        return None
    usual = catalog.OFFICIAL_ISSUERS[provider.dialect]
    models = {"anthropic": "Claude", "gemini": "Gemini"}[provider.dialect]
    return (
        f"{provider.name} has no issuer: what other providers signed is left out of the calls that it gets; "
        f'issuer = "{usual}" if it serves {models} and takes what that has signed elsewhere'
    )
