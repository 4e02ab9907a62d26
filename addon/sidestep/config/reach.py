"""What a configuration reaches: where calls go, what of the user's goes along, and who may use the keys.

Pure. A file of a folder is trusted to reach what it reached when the user said so, and nothing else: an edit that
reaches nothing new needs no second word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256

from sidestep.config import catalog, keys, reading
from sidestep.config.settings import Provider, Settings
from sidestep.config.urls import BaseURL
from sidestep.config.values import REFERENCE

WRITTEN_KEY = "a key written in the file"
ALL_KEYS = "the providers' keys"
OTHERS = "other providers than the app's own"
OF_PROVIDERS = "what is known of providers"


_VENDORS = {catalog.own_variable(name) for name in catalog.OFFICIAL}


class _References(Mapping[str, str]):
    """An environment in which each variable holds the reference to itself: settings read with it tell what would go
    where, and nothing of the real one is in them. The key of a provider of the catalog goes by its usual name, whether
    that variable holds it or the one for Sidestep alone: it goes to the same place."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __getitem__(self, name: str) -> str:
        if keys.is_for_sidestep(name) and name not in _VENDORS and f"${{{name}}}" not in self._text:
            raise KeyError(name)
        # A key has to be printable ASCII; the name of a variable need not be.
        return f"${{{name.encode('unicode_escape').decode('ascii')}}}"

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def reach(text: str, source: str) -> frozenset[str]:
    """Each thing that a configuration's text reaches, as `what → where`. ConfigError: it cannot be read."""
    return frozenset(_reached(reading.parse(text, _References(text), source)))


def _reached(settings: Settings) -> Iterator[str]:
    for route in settings.routes:
        for intercept in route.intercepts:
            for provider in (*route.providers, *(p for p in settings.local if p.dialect == route.dialect)):
                yield f"{intercept} → {_place(provider.base_url)}"
    for provider in settings.providers:
        for what in _goes_along(provider):
            yield f"{what} → {_place(provider.base_url)}"
    proxy = settings.proxy
    # By a name of this proxy's a page of the web may ask it, too, where the name comes to resolve to it.
    for whose in (*proxy.allow_clients, *proxy.hosts):
        yield f"{whose} → {ALL_KEYS}"
    for what in (*map(str.lower, proxy.forward_headers), *proxy.forward_parameters):
        yield f"{what} → {OTHERS}"
    if (fleet := settings.fleet) is not None:
        yield f"{OF_PROVIDERS} → {fleet.place}"
        for name in REFERENCE.findall(fleet.url.reveal()):
            yield f"${{{name}}} → {fleet.place}"


def _goes_along(provider: Provider) -> Iterator[str]:
    key = None if provider.api_key is None else provider.api_key.reveal()
    if key is not None and not REFERENCE.search(key):
        # Calls are seen by whoever owns the key.
        yield WRITTEN_KEY
    for name, value in provider.headers:
        # Relays are told by such fields where a call goes on to, and whose it is. The value may be a secret.
        digest = sha256(value.reveal().encode()).hexdigest()
        yield f"the header {name}?{digest}"
    for text in (key or "", *(value.reveal() for _, value in provider.headers)):
        yield from (f"${{{name}}}" for name in REFERENCE.findall(text))


def _place(base: BaseURL) -> str:
    """A base URL with its query: at a relay that may say where calls go on to."""
    return f"{base}?{base.query}" if base.query else str(base)


def in_words(reached: str) -> str:
    """One of them as it is shown: without the query of a base URL, and the digest of a header's value."""
    what, arrow, where = reached.partition(" → ")
    return what.partition("?")[0] + arrow + where.partition("?")[0]
