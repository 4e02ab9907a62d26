"""Asks each provider for its list of models: whether its address, its key and the way to it are good.

Network, but no mitmproxy. No key ever appears in what comes back.
"""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import certifi

from sidestep.config import Provider

SECONDS = 10.0
AT_ONCE = 16
_LIST = {"openai": "/models", "anthropic": "/v1/models", "gemini": "/v1beta/models"}
"""Where each dialect lists models, after the base URL."""
_VERSION = ("anthropic-version", "2023-06-01")


@dataclass(frozen=True, slots=True)
class Probe:
    """`ok` is None where nothing was asked."""

    provider: str
    ok: bool | None
    text: str


def probe(providers: Iterable[Provider]) -> list[Probe]:
    """What each provider answers, in their order; all are asked at once."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(_probe, providers))


def _probe(provider: Provider) -> Probe:
    if provider.api_key is None and provider.auth != "none":
        return Probe(provider.name, None, "not asked: it is for the app's own credential")
    request = urllib.request.Request(str(provider.base_url) + _LIST[provider.dialect])  # noqa: S310  # http and https
    request.add_header("accept", "application/json")
    if provider.dialect == "anthropic":
        request.add_header(*_VERSION)
    for name, value in provider.headers:
        request.add_header(name, value.reveal())
    if provider.api_key is not None and provider.auth != "none":
        key = provider.api_key.reveal()
        bearer = provider.auth == "bearer"
        request.add_header("authorization" if bearer else provider.auth, f"Bearer {key}" if bearer else key)
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    # A redirect would take the key to another host.
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _NoRedirect)
    try:
        with opener.open(request, timeout=SECONDS) as answer:
            return Probe(provider.name, True, _count(answer.read(1 << 22)))
    except urllib.error.HTTPError as e:
        with e:
            return Probe(provider.name, False, f"HTTP {e.code}")
    except (OSError, ValueError) as e:
        reason = getattr(e, "reason", e)
        return Probe(provider.name, False, type(reason).__name__ if isinstance(reason, Exception) else str(reason))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def _count(body: bytes) -> str:
    try:
        found = json.loads(body)
    except ValueError:
        return "answered, but not in JSON"
    models = found.get("data", found.get("models")) if isinstance(found, dict) else found
    return f"{len(models)} models" if isinstance(models, list) else "answered"
