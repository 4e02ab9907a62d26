"""What things are called in the store: digests under the group's secret, so that nothing can be read from them.

Pure. The same thing has the same name in every process of the group, whatever its configuration calls it: a provider is
known by where it is and how it is spoken to, a credential by what is sent.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from hashlib import blake2b, sha256

from sidestep.breaker.cooldown import Subject
from sidestep.config.settings import Provider, Settings
from sidestep.credentials import credential_fields

DIGEST_BYTES = 12
"""Of a name: 96 bits keep some thousand things apart for good."""


def key_of(secret: str, purpose: str) -> bytes:
    """A key of its own for each purpose."""
    return hmac.new(secret.encode(), purpose.encode(), sha256).digest()


class Names:
    """State: the group, the key, and what each provider is, by its name here."""

    def __init__(self, group: str, secret: str) -> None:
        # In a Cluster all keys with one tag lie in one slot, as scripts need it.
        self._group = f"{{{group}}}"
        self._key = key_of(secret, "names")
        self.table = tuple(f"{self._group}:{part}" for part in "mezx")
        self.channel = f"{self._group}:n"
        self.members = tuple(f"{self._group}:{part}" for part in "wd")
        self._providers: dict[str, str] = {}
        self._credentials: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def learn(self, settings: Settings) -> None:
        """Which providers there are."""
        self._providers, self._credentials = {}, {}
        seen: dict[str, int] = {}
        for name, spoken in settings.by_name.items():
            places = self._digest(text for p in sorted(spoken, key=lambda p: p.dialect) for text in _place(p))
            # Several of one place, with a key each, are told apart by their order.
            nth = seen[places] = seen.get(places, 0) + 1
            self._providers[name] = self._digest((places, str(nth)))
            sent = {field for p in spoken for field in credential_fields(p)}
            self._credentials[name] = self._digest(f"{n!r}{v!r}" for n, v in sorted(sent))
        self._names = {digest: name for name, digest in self._providers.items()}

    def name_of(self, digest: str) -> str | None:
        """What a provider of the store is called here; None: there is none here."""
        return self._names.get(digest)

    def circuit(self, provider: str, model: str | None) -> str:
        return "c" + self._digest((self._providers.get(provider, provider), *(() if model is None else (model,))))

    def limit(self, subject: Subject) -> str:
        credential = subject.credential or self._credentials.get(subject.provider, "")
        where = self._providers.get(subject.provider, subject.provider)
        return "k" + self._digest((where, credential, *(f"{part!r}" for part in (subject.operation, subject.model))))

    def window(self, account: Subject, name: str) -> str:
        return "w" + self._digest((self.limit(account), name))

    def hand(self, provider: str) -> str:
        return "h" + self._digest((self._providers.get(provider, provider),))

    @property
    def mode(self) -> str:
        return "m" + self._digest(("mode",))

    @property
    def stays(self) -> str:
        """The entry that says that conversations stay anywhere."""
        return "s" + self._digest(("stays",))

    def probes(self, circuit: str) -> str:
        """The key of the probes of a circuit of this name."""
        return f"{self._group}:p:{circuit}"

    def stay(self, route: str, model: str | None, conversation: bytes) -> str:
        return f"{self._group}:s:" + self._digest((route, repr(model), conversation.hex()))

    def digest_of(self, provider: str) -> str:
        """What a provider is called in the store."""
        return self._providers.get(provider, "")

    def issued(self, identifier: str) -> str:
        return f"{self._group}:i:" + self._digest((identifier,))

    def _digest(self, parts: Iterable[str]) -> str:
        digest = blake2b(key=self._key, digest_size=DIGEST_BYTES)
        for part in parts:
            data = part.encode("utf-8", "surrogatepass")
            digest.update(b"%d:" % len(data) + data)
        return digest.hexdigest()


def _place(provider: Provider) -> tuple[str, str, str]:
    return provider.dialect, str(provider.base_url), provider.base_url.query
