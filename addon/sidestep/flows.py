"""mitmproxy messages ↔ plain facts: credentials off and on, a request pointed at another provider.

The only room besides `layer` and `addon` that knows mitmproxy's types. No policy: who is asked was decided
before.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote_plus

from mitmproxy import http

from sidestep.config import Provider
from sidestep.decoding import IDENTITY, EncodingError, decoder
from sidestep.dialects.base import Call
from sidestep.routing import Candidate, Match

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
CREDENTIAL_PARAMETERS = frozenset({"key", "api_key", "api-key", "apikey", "access_token", "token"})
"""Query parameters that bear a credential; Gemini's is `key`."""

SECRET_LENGTH = 8
"""Shorter values are no keys; looking for them would find them everywhere."""

Field = tuple[bytes, bytes]


@lru_cache(maxsize=1024)
def _is_credential_name(name: bytes) -> bool:
    name = name.lower()
    return name in CREDENTIAL_HEADERS or any(word in name for word in CREDENTIAL_WORDS)


def bears_credential(field: Field) -> bool:
    """Whether a header field is, or holds, a credential of the app."""
    if b"api-key" in field[1] and field[0].lower() == b"sec-websocket-protocol":
        # Browsers cannot set headers on a WebSocket: OpenAI's Realtime takes the key as a subprotocol.
        return True
    return _is_credential_name(field[0])


def without_credentials(path: str) -> str:
    """A path without the query parameters that bear a credential; the rest byte for byte."""
    bare, mark, query = path.partition("?")
    if not mark:
        return path
    kept = [
        part for part in query.split("&") if unquote_plus(part.partition("=")[0]).lower() not in CREDENTIAL_PARAMETERS
    ]
    return f"{bare}?{'&'.join(kept)}" if kept else bare


@dataclass(slots=True)
class Original:
    """A request as the app sent it, its credentials apart. Never shown, never saved."""

    scheme: str
    host: str
    port: int
    path: str
    authority: str
    fields: tuple[Field, ...]
    secrets: tuple[tuple[int, Field], ...]
    """Credential headers with the places they stood at."""
    bare_path: str
    body: bytes | None = None
    sent_body: bytes | None = None
    """The body that was last put on the flow in its place."""

    @classmethod
    def take(cls, request: http.Request) -> Original:
        fields = tuple(request.headers.fields)
        return cls(
            request.scheme,
            request.host,
            request.port,
            request.path,
            request.authority,
            tuple(f for f in fields if not bears_credential(f)),
            # mitmproxy itself answers an Expect and takes it off: it holds no place.
            tuple((i, f) for i, f in enumerate(f for f in fields if f[0].lower() != b"expect") if bears_credential(f)),
            without_credentials(request.path),
        )

    def refresh(self, request: http.Request) -> None:
        """Take over what other addons changed between the headers and the whole request."""
        fields = tuple(request.headers.fields)
        self.fields = tuple(f for f in fields if not bears_credential(f))
        set_since = tuple((i, f) for i, f in enumerate(fields) if bears_credential(f))
        if set_since:
            names = {f[0].lower() for _, f in set_since}
            self.secrets = (*(s for s in self.secrets if s[1][0].lower() not in names), *set_since)
            request.headers = http.Headers(self.fields)
        self.body = request.raw_content

    def strip(self, request: http.Request) -> None:
        """Take the app's credentials off the flow; `outgoing` puts them back on what is sent."""
        if self.secrets:
            request.headers = http.Headers(self.fields)
        if self.bare_path != self.path:
            request.path = self.bare_path

    def restore(self, request: http.Request, *, credentials: bool) -> None:
        """Make the flow what the app sent, with or without its credentials."""
        request.data.scheme = self.scheme.encode("ascii")
        request.data.host = self.host
        request.data.port = self.port
        request.data.authority = self.authority.encode("utf-8", "surrogateescape")
        request.path = self.path if credentials else self.bare_path
        request.headers = http.Headers(self.whole() if credentials else self.fields)
        if self.body is not None:
            request.data.content = self.body

    def whole(self) -> tuple[Field, ...]:
        """All header fields in their order."""
        return with_secrets(self.fields, self.secrets)

    @property
    def values(self) -> tuple[bytes, ...]:
        """The secret strings themselves, to find copies of them."""
        found = [value.rpartition(b" ")[2] for _, (_, value) in self.secrets]
        return tuple(v for v in found if len(v) >= SECRET_LENGTH)


def with_secrets(fields: tuple[Field, ...], secrets: tuple[tuple[int, Field], ...]) -> tuple[Field, ...]:
    """Header fields with the credentials put back at the places they stood at."""
    whole = list(fields)
    for place, field in secrets:
        whole.insert(place, field)
    return tuple(whole)


def readable_body(request: http.Request) -> bytes:
    """The body as the dialect reads it, decoded where it is compressed; empty if it cannot be read."""
    body = request.raw_content or b""
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding in IDENTITY:
        return body
    decode = decoder(encoding)
    if decode is None:
        return b""
    try:
        return decode(body)
    except EncodingError:
        return b""


def point_at(request: http.Request, original: Original, match: Match, call: Call, candidate: Candidate) -> None:
    """Make the flow's request the one that this candidate gets, without any credential."""
    original.restore(request, credentials=False)
    provider = candidate.provider
    if candidate.own and (provider.api_key is not None or provider.headers):
        # The route was found by the Host header: a key of ours goes to the provider's own address, whatever
        # address the app connected to.
        base = provider.base_url
        request.data.scheme, request.data.host, request.data.port = base.scheme.encode(), base.host, base.port
    model = candidate.model if candidate.model != call.model else None
    if candidate.own and model is None and not provider.drop_fields:
        return
    _rewrite_body(request, match, call, model, provider)
    if candidate.own:
        return
    headers = request.headers
    secrets = original.values
    if secrets and any(s in value for _, value in headers.fields for s in secrets):
        # The app repeated its key in a header of another name.
        headers.fields = tuple(f for f in headers.fields if not any(s in f[1] for s in secrets))
    base = provider.base_url
    request.data.scheme = base.scheme.encode("ascii")
    request.data.port = base.port
    request.host = base.host
    if call.stream:
        headers["accept-encoding"] = "identity"


def _rewrite_body(request: http.Request, match: Match, call: Call, model: str | None, provider: Provider) -> None:
    query = request.path.partition("?")[1] + request.path.partition("?")[2]
    tail = match.tail
    body = request.raw_content or b""
    compressed = request.headers.get("content-encoding", "").strip().lower() not in IDENTITY
    if model is not None or provider.drop_fields:
        readable = readable_body(request)
        content_type = request.headers.get("content-type", "")
        tail, rewritten = match.dialect.rewrite(call, tail, content_type, readable, model, provider.drop_fields)
        if rewritten != readable:
            body = rewritten
            if compressed:
                del request.headers["content-encoding"]
    if body != (request.raw_content or b""):
        request.data.content = body
        if "content-length" in request.headers:
            request.headers["content-length"] = str(len(body))
    request.path = provider.base_url.join(tail) + query


def outgoing(request: http.Request, original: Original, candidate: Candidate, *, to_http1: bool) -> http.Request:
    """A copy of the request's head as it is sent, with the credential; the flow never bears it."""
    provider = candidate.provider
    fields = tuple(request.headers.fields)
    path = request.data.path
    if candidate.own_credential:
        fields = with_secrets(fields, original.secrets)
        if request.path == original.bare_path:
            path = original.path.encode("utf-8", "surrogateescape")
    added = credential_fields(provider)
    if added:
        names = {name for name, _ in added}
        fields = tuple(f for f in fields if f[0].lower() not in names) + added
    headers = http.Headers()
    headers.fields = fields
    if to_http1 and "content-length" not in headers and "transfer-encoding" not in headers and request.raw_content:
        headers["content-length"] = str(len(request.raw_content))
    # Not `request.copy()`: it goes over every field by way of the saved form, body included.
    sent = http.Request.__new__(http.Request)
    sent.data = copy(request.data)
    sent.data.path = path
    sent.data.headers = headers
    sent.data.content = None
    sent.data.trailers = None
    return sent


def credential_fields(provider: Provider) -> tuple[Field, ...]:
    """The header fields that a provider's configuration adds: its credential and its own headers."""
    fields: list[Field] = [(n.lower().encode("latin-1"), v.reveal().encode("latin-1")) for n, v in provider.headers]
    if provider.api_key is not None and provider.auth != "none":
        key = provider.api_key.reveal()
        if provider.auth == "bearer":
            fields.append((b"authorization", b"Bearer " + key.encode("latin-1")))
        else:
            fields.append((provider.auth.lower().encode("latin-1"), key.encode("latin-1")))
    return tuple(fields)


def secrets_of(providers: Iterable[Provider]) -> tuple[bytes, ...]:
    """The strings that must appear nowhere: the providers' keys and the values of their own headers."""
    found: set[str] = set()
    for provider in providers:
        found.update(v.reveal() for _, v in provider.headers)
        if provider.api_key is not None:
            found.add(provider.api_key.reveal())
    return tuple(v.encode("utf-8", "replace") for v in found if len(v) >= SECRET_LENGTH)


def bears_secret(text: bytes, secrets: tuple[bytes, ...]) -> bool:
    """Whether a provider repeats a key in what it says."""
    return any(secret in text for secret in secrets)
