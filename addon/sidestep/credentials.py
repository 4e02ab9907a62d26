"""What is a credential: in header fields, query parameters and subprotocols; taking them off, and putting them on.

No mitmproxy: fields are pairs of bytes.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from secrets import token_bytes

from sidestep.config.settings import Provider
from sidestep.config.urls import is_credential

CREDENTIAL_HEADERS = frozenset(
    {
        b"authorization",
        b"proxy-authorization",
        b"x-api-key",
        b"api-key",
        b"x-goog-api-key",
        b"cookie",
        b"openai-organization",
        b"openai-project",
        b"chatgpt-account-id",
        b"x-goog-user-project",
    }
)
"""Headers that bear a credential or name an account, in every dialect (clients-facts)."""
CREDENTIAL_WORDS = (b"auth", b"api-key", b"api_key", b"apikey", b"token", b"secret", b"credential", b"cookie")
"""A header whose name contains one of these is taken for a credential too."""
ACCOUNT_SUBPROTOCOLS = (b"openai-organization.", b"openai-project.")
SECRET_LENGTH = 8
"""Shorter values are no keys; looking for them would find them everywhere."""
_FINGERPRINT_KEY = token_bytes(32)
"""Of this process alone: a fingerprint of a key is worth nothing elsewhere."""

Field = tuple[bytes, bytes]


class FieldKind(enum.Enum):
    """What a header's name says of it."""

    OTHER = 0
    CREDENTIAL = 1
    SUBPROTOCOL = 2
    EXPECT = 3
    CONTENT_TYPE = 4
    CONTENT_ENCODING = 5


_KINDS = {
    b"sec-websocket-protocol": FieldKind.SUBPROTOCOL,
    b"expect": FieldKind.EXPECT,
    b"content-type": FieldKind.CONTENT_TYPE,
    b"content-encoding": FieldKind.CONTENT_ENCODING,
}


@lru_cache(maxsize=1024)
def kind_of(name: bytes) -> FieldKind:
    name = name.lower()
    if name in CREDENTIAL_HEADERS or any(word in name for word in CREDENTIAL_WORDS):
        return FieldKind.CREDENTIAL
    return _KINDS.get(name, FieldKind.OTHER)


def bears_credential(field: Field) -> bool:
    """Whether a header field is, or holds, a credential of the app."""
    kind = kind_of(field[0])
    return kind is FieldKind.CREDENTIAL or (kind is FieldKind.SUBPROTOCOL and any(secret_subprotocols(field[1])))


def secret_subprotocols(value: bytes) -> list[bool]:
    """Which of the subprotocols offered are a credential. Browsers cannot set headers on a WebSocket: OpenAI's Realtime
    takes the key, the organisation and the project as subprotocols."""
    lowered = value.lower()
    if b"." not in lowered:
        return []
    return [
        entry.strip().startswith(ACCOUNT_SUBPROTOCOLS) or any(word in entry for word in CREDENTIAL_WORDS)
        for entry in lowered.split(b",")
    ]


def public_part(field: Field) -> Field | None:
    """What is left of a field that bears a credential: of subprotocols those that are none."""
    if kind_of(field[0]) is not FieldKind.SUBPROTOCOL:
        return None
    entries = zip(field[1].split(b","), secret_subprotocols(field[1]), strict=False)
    kept = [entry.strip() for entry, secret in entries if not secret]
    return (field[0], b", ".join(kept)) if kept else None


def without_credentials(path: str) -> str:
    """A path without the query parameters that bear a credential; the rest byte for byte."""
    bare, mark, query = path.partition("?")
    if not mark:
        return path
    kept = [part for part in query.split("&") if not is_credential(part)]
    return f"{bare}?{'&'.join(kept)}" if kept else bare


def with_credentials(path: bytes, original: bytes) -> bytes:
    """A path that was rewritten, with the query parameters that bear a credential in the original."""
    secret = [part for part in original.partition(b"?")[2].split(b"&") if is_credential(as_text(part))]
    return path + (b"&" if b"?" in path else b"?") + b"&".join(secret) if secret else path


def fingerprint(fields: Iterable[Field], path: bytes) -> str:
    """A short name of the credential in these header fields and in this path's query: the same for the same one in this
    process, and nothing can be learnt from it. Empty where there is none. Cookies do not count, for servers renew
    them while the key stays the same.
    """
    digest = blake2b(key=_FINGERPRINT_KEY, digest_size=16)
    parts = [name.lower() + b":" + value for name, value in fields if name.lower() != b"cookie"]
    parts += [part for part in path.partition(b"?")[2].split(b"&") if is_credential(as_text(part))]
    for part in sorted(parts):
        digest.update(len(part).to_bytes(8) + part)
    return digest.hexdigest() if parts else ""


def as_text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def as_bytes(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def with_secrets(fields: tuple[Field, ...], secrets: tuple[tuple[int, Field], ...]) -> tuple[Field, ...]:
    """Header fields with the credentials put back at the places they stood at."""
    whole = list(fields)
    for place, field in secrets:
        part = public_part(field)
        if part is not None and part in whole:
            whole[whole.index(part)] = field
        else:
            whole.insert(place, field)
    return tuple(whole)


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
