"""What is a credential: telling one from another, finding copies of it, and putting a provider's on what is sent.

Which part of a request another provider gets at all is not decided by this (`forwarding`). No mitmproxy: fields are
pairs of bytes.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable
from contextlib import suppress
from hashlib import blake2b
from secrets import token_bytes

from sidestep.config.settings import Provider
from sidestep.config.urls import is_credential

CREDENTIAL_HEADERS = frozenset(
    {
        b"cookie",
        b"openai-organization",
        b"openai-project",
        b"chatgpt-account-id",
        b"x-goog-user-project",
    }
)
"""Headers that bear a credential or name an account and whose names do not tell (clients-facts)."""
CREDENTIAL_WORDS = (b"auth", b"key", b"token", b"secret", b"credential", b"jwt", b"cookie", b"passw")
"""A header whose name contains one of these is taken for a credential too."""
NO_CREDENTIALS = frozenset({b"sec-websocket-key", b"idempotency-key", b"x-idempotency-key"})
"""They contain one of these words, and something else for each request."""
ACCOUNT_WORDS = (b"account", b"assertion", b"cert", b"organi", b"pass", b"principal", b"project", b"session", b"sig")
"""Words in the names of headers that say whose a request is."""
SUBPROTOCOLS = b"sec-websocket-protocol"
"""Browsers cannot set header fields on a WebSocket: OpenAI's Realtime takes the key, the organisation and the project
as subprotocols, `openai-insecure-api-key.KEY`."""
SECRET_LENGTH = 8
"""Shorter values are no keys; looking for them would find them everywhere."""
_SEPARATORS = re.compile(rb"[\s,;\"']+")
_PART_OF = re.compile(rb"[\s,;\"']|=[^=]")
MAX_PARTS = 100
"""Of a field's value that are looked for."""
MAX_COPIES = 100
"""Strings that are looked for, in all: a head has room for thousands, and for thousands of places to look at."""
_FINGERPRINT_KEY = token_bytes(32)
"""Of this process alone, or of its fleet: a fingerprint of a key is worth nothing elsewhere."""

Field = tuple[bytes, bytes]


def is_credential_header(name: bytes) -> bool:
    """Whether a header of this name, in lower case, is taken for a credential."""
    return name in CREDENTIAL_HEADERS or (any(w in name for w in CREDENTIAL_WORDS) and name not in NO_CREDENTIALS)


def names_a_credential(name: bytes) -> bool:
    """Whether a header of this name, in lower case, may well bear a credential, or say whose the request is."""
    return is_credential_header(name) or any(word in name for word in ACCOUNT_WORDS)


def _names_an_account(entry: bytes) -> bool:
    return is_credential_header(entry) or entry.startswith((b"openai-organization.", b"openai-project."))


def copies_to_find(fields: Iterable[Field], parameters: Iterable[str]) -> tuple[bytes, ...]:
    """The secret strings in fields that bear a credential, and in those of these query parameters that do, to find
    copies of them: not more than MAX_COPIES, those of cookies last, which are many and of which few are keys."""
    found: list[bytes] = []
    for name, value in sorted(fields, key=_is_cookie):
        if len(name) == len(SUBPROTOCOLS) and name.lower() == SUBPROTOCOLS:
            entries = [entry.strip() for entry in value.split(b",")]
            found += [entry.partition(b".")[2] for entry in entries if _names_an_account(entry.lower())]
        else:
            found += _secrets_in(value)
    named = [as_bytes(part.partition("=")[2]) for part in parameters if is_credential(part)]
    secrets = dict.fromkeys([v for v in (*named, *found) if len(v) >= SECRET_LENGTH])
    return tuple(secrets)[:MAX_COPIES]


def _is_cookie(field: Field) -> bool:
    return field[0].lower() == b"cookie"


def _secrets_in(value: bytes) -> list[bytes]:
    """What may be secret in the value of a field that bears a credential: it all, without the name of its scheme, and
    where it has parts these too (cookies, `Token token="…"`); of `Basic` the user and the password."""
    scheme, _, given = value.rpartition(b" ")
    scheme = scheme.lower()
    if (not scheme or scheme == b"bearer") and _PART_OF.search(given) is None:
        return [given]
    if scheme == b"basic":
        with suppress(binascii.Error):
            return [given, *binascii.a2b_base64(given).split(b":", 1)]
    parts = _SEPARATORS.split(value, MAX_PARTS)[:MAX_PARTS]
    # Of `name=value` the value is what is secret.
    return [given, *(part.strip(b"=").partition(b"=")[2] or part for part in parts)]


def fingerprint(fields: Iterable[Field], parameters: Iterable[str]) -> str:
    """A short name of the credential in these header fields, which all bear one, and in those of these query parameters
    that do: the same for the same one in this process, and nothing can be learnt from it. Empty where there is none.
    Cookies do not count, for servers renew them while the key stays the same.
    """
    parts = [name.lower() + b":" + value for name, value in fields if name.lower() != b"cookie"]
    parts += [as_bytes(part) for part in parameters if is_credential(part)]
    if not parts:
        return ""
    digest = blake2b(key=_FINGERPRINT_KEY, digest_size=16)
    for part in sorted(parts):
        digest.update(len(part).to_bytes(8) + part)
    return digest.hexdigest()


def share_fingerprints(key: bytes) -> None:
    """From now on fingerprints are the same in all processes that have this key of 16 to 64 bytes."""
    global _FINGERPRINT_KEY
    _FINGERPRINT_KEY = key


def as_text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def as_bytes(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def credential_fields(provider: Provider) -> tuple[Field, ...]:
    """The header fields that a provider's configuration adds: its credential and its own headers."""
    key = provider.api_key
    if not provider.headers:  # the usual case, without a list
        if key is None or provider.auth == "none":
            return ()
        return (_credential(provider.auth, key.reveal()),)
    fields = [(n.lower().encode("latin-1"), v.reveal().encode("latin-1")) for n, v in provider.headers]
    if key is not None and provider.auth != "none":
        fields.append(_credential(provider.auth, key.reveal()))
    return tuple(fields)


def _credential(auth: str, key: str) -> Field:
    if auth == "bearer":
        return b"authorization", b"Bearer " + key.encode("latin-1")
    return auth.lower().encode("latin-1"), key.encode("latin-1")
