"""The `[fleet]` table: which Valkey or Redis proxies share what they know through, under which secret.

Pure: the environment is an argument. A URL may hold a password, so that no problem quotes one.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from typing import Any

from sidestep.config.problems import in_words
from sidestep.config.providers import ProviderReader
from sidestep.config.settings import FleetSettings, Provider, Secret
from sidestep.config.stores import AddressError, address_of
from sidestep.config.values import REFERENCE

GROUP = "sidestep"
SECRET_LENGTH = 16
"""Characters of a secret at least: base URLs are known, so that a short one could be found by trying."""
_KEYS = ("url", "group", "secret")
_GROUP = re.compile(r"[A-Za-z0-9._-]{1,64}")


class FleetReader(ProviderReader):
    """State: as of the base."""

    def fleet(self, raw: Any, providers: Sequence[Provider]) -> FleetSettings | None:
        """None: there is no URL, or something is wrong."""
        before = len(self.problems)
        values = dict(self.mapping(raw, "fleet"))
        self.known_keys(values, "fleet", _KEYS)
        group = values.get("group", GROUP)
        if not isinstance(group, str) or not _GROUP.fullmatch(group):
            self.problem("fleet.group", "up to 64 letters, digits, dots, hyphens and underscores", in_words(group))
        url, _ = self._expanded(values, "url")
        place = None if url is None else self._place(url)
        secret, secret_from = self._expanded(values, "secret")
        if secret is not None and len(secret) < SECRET_LENGTH and not REFERENCE.search(secret):
            self.problem("fleet.secret", f"at least {SECRET_LENGTH} characters", str(len(secret)))
        if "secret" not in values and url is not None:
            secret, secret_from = _derived(providers), "the providers' keys"
            if secret is None:
                hint = 'write secret = "${NAME}", with at least 16 random characters in that variable of each proxy'
                self.problem("fleet.secret", "a secret, for there is no key to make one from", "none", hint)
        if len(self.problems) > before or url is None or secret is None or place is None:
            return None
        return FleetSettings(Secret(url), str(group), Secret(secret), place, secret_from)

    def _expanded(self, values: dict[str, Any], key: str) -> tuple[str | None, str]:
        """A text in which references to the environment expand, and where it comes from."""
        if key not in values:
            return None, ""
        text = values[key]
        if not isinstance(text, str) or not text.strip():
            self.problem(f"fleet.{key}", "a text", in_words(text))
            return None, ""
        return self.expand(text, f"fleet.{key}"), " and ".join(REFERENCE.findall(text)) or "the file"

    def _place(self, url: str) -> str | None:
        """The server of a URL, without what may be a password."""
        if REFERENCE.fullmatch(url):
            return url  # with an environment of references alone, to tell what a file reaches
        try:
            return address_of(url).place
        except AddressError as e:
            self.problem("fleet.url", e.expected, e.found, e.hint)
            return None


def _derived(providers: Sequence[Provider]) -> str | None:
    """A secret that proxies with the same keys come to by themselves; None: there is no key."""
    keys = sorted({p.api_key.reveal() for p in providers if p.api_key is not None})
    if not keys:
        return None
    return hmac.new(b"sidestep fleet", "\n".join(keys).encode(), hashlib.sha256).hexdigest()
