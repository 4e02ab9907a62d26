"""What of a request goes to a provider that is not the app's own: an allow list of header fields, query parameters and
subprotocols, for each dialect. All else stays with the host that the app addressed.

No list of credentials is ever complete; what a call needs can be listed. Pure: fields are pairs of bytes.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from sidestep.config.urls import parameter_of
from sidestep.credentials import Field, as_bytes, is_credential_header, names_a_credential

COMMON_HEADERS = frozenset(
    {
        # what the body is, and what the answer may be (RFC 9110, 8 and 12)
        *(b"content-length", b"content-language", b"transfer-encoding"),
        *(b"accept", b"accept-encoding", b"accept-language", b"accept-charset", b"cache-control", b"pragma"),
        # the connection, and a WebSocket's handshake (RFC 6455, 11.3)
        *(b"te", b"upgrade", b"priority", b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-extensions"),
        # which program asks: some servers go by it
        *(b"user-agent", b"x-app"),
        # tracing (W3C Trace Context, B3, Jaeger, Sentry, and those of the clouds). Not `baggage`, which holds whatever
        # an app puts there and is, by its specification, not for third parties
        *(b"traceparent", b"tracestate", b"b3", b"x-b3-traceid", b"x-b3-spanid", b"x-b3-parentspanid"),
        *(b"x-b3-sampled", b"x-b3-flags", b"uber-trace-id", b"sentry-trace", b"x-amzn-trace-id"),
        *(b"x-cloud-trace-context", b"x-request-id", b"x-client-request-id", b"x-correlation-id"),
    }
)
"""In every dialect, beside those that are read (`_READ`)."""
COMMON_PREFIX = b"x-stainless-"
"""The official SDKs' word about themselves: language, runtime, retries, timeouts (clients-facts)."""
HEADERS = {
    "openai": frozenset({b"openai-beta", b"openai-version", b"x-openai-client-user-agent"}),
    "anthropic": frozenset({b"anthropic-version", b"anthropic-beta", b"anthropic-dangerous-direct-browser-access"}),
    "gemini": frozenset({b"x-goog-api-client", b"x-goog-request-params", b"x-goog-fieldmask", b"x-server-timeout"}),
}
"""A dialect's own: its version, its betas, its SDKs' word about themselves."""
PARAMETERS = {
    "openai": frozenset({"model", "api-version", "deployment", "intent", "call_id", "beta"}),
    "anthropic": frozenset({"beta"}),
    "gemini": frozenset({"alt", "$alt", "fields", "$fields", "prettyPrint", "$prettyPrint", "$.xgafv"}),
}
"""Query parameters that change what is asked for, or in which form it comes."""
SUBPROTOCOLS = (b"realtime", b"openai-beta.")
"""OpenAI's Realtime: the protocol itself, and the beginning of its betas. Browsers cannot set header fields on a
WebSocket, so the key, the organisation and the project are offered as subprotocols too."""
HOP_BY_HOP = frozenset({b"keep-alive", b"close", b"upgrade", b"te"})
"""What a `connection` field may hold."""
NAME_LENGTH = 64
"""A longer name is on no list, and is not remembered."""
KNOWN_NAMES = 1024
"""Names that are remembered: apps repeat the same few, and may make up others without end."""


class FieldKind(enum.Enum):
    """What is done with a header field, by its name."""

    FORWARDED = 0
    """It goes to any provider."""
    KEPT = 1
    """It goes to the app's own host alone."""
    SUBPROTOCOL = 2
    CONNECTION = 3
    HOST = 4
    """Of these three a part may go: their values say."""
    EXPECT = 5
    CONTENT_TYPE = 6
    CONTENT_ENCODING = 7
    """Forwarded, and read."""
    CREDENTIAL = 8
    ORIGIN = 9
    FETCH_SITE = 10
    """Kept, and read: copies of the first are looked for, the others say whether a web page asks."""


_READ = {
    b"sec-websocket-protocol": FieldKind.SUBPROTOCOL,
    b"connection": FieldKind.CONNECTION,
    b"host": FieldKind.HOST,
    b"expect": FieldKind.EXPECT,
    b"content-type": FieldKind.CONTENT_TYPE,
    b"content-encoding": FieldKind.CONTENT_ENCODING,
    b"origin": FieldKind.ORIGIN,
    b"sec-fetch-site": FieldKind.FETCH_SITE,
}
_KEPT, _CREDENTIAL = FieldKind.KEPT, FieldKind.CREDENTIAL  # enumerations are slow to look into
FRAMING = frozenset(
    {
        *(b"host", b"content-type", b"content-length", b"content-encoding", b"transfer-encoding"),
        *(b"connection", b"upgrade", b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-protocol"),
    }
)
"""Without these a request is another, or none: copies of a credential are not looked for there."""


class AllowList:
    """Of one dialect, with what a configuration adds. State: the kinds of the names that were met (`known`)."""

    __slots__ = ("_headers", "_parameters", "known")

    def __init__(self, dialect: str, headers: Iterable[str] = (), parameters: Iterable[str] = ()) -> None:
        self._headers = COMMON_HEADERS | HEADERS[dialect] | {name.lower().encode("latin-1") for name in headers}
        self._parameters = PARAMETERS[dialect] | frozenset(parameters)
        self.known: dict[bytes, FieldKind] = {}

    def kind_of(self, name: bytes) -> FieldKind:
        """By a field's name, in any case."""
        kind = self.known.get(name) or self._look_up(name.lower())
        if len(name) <= NAME_LENGTH:
            if len(self.known) >= KNOWN_NAMES:
                self.known.clear()
            self.known[name] = kind
        return kind

    def _look_up(self, name: bytes) -> FieldKind:
        if (kind := _READ.get(name)) is not None:
            return kind
        listed = name.startswith(COMMON_PREFIX) and len(name) <= NAME_LENGTH and not names_a_credential(name)
        if listed or name in self._headers:
            return FieldKind.FORWARDED
        return FieldKind.CREDENTIAL if is_credential_header(name) else FieldKind.KEPT

    def forwarded_part(self, kind: FieldKind, field: Field) -> Field | None:
        """What of a field goes to any provider: all of it (the very same field), a part, or nothing."""
        name, value = field
        if kind is _KEPT or kind is _CREDENTIAL or kind is FieldKind.ORIGIN or kind is FieldKind.FETCH_SITE:
            return None
        if kind is FieldKind.CONTENT_TYPE:
            return (name, _media_type(value)) if b";" in value else field
        if kind is FieldKind.HOST and b"@" in value:
            return name, value.rpartition(b"@")[2]
        if kind is FieldKind.CONNECTION:
            return field if all(t.strip().lower() in HOP_BY_HOP for t in value.split(b",")) else None
        if kind is FieldKind.SUBPROTOCOL:
            offered = value.split(b",")
            kept = [entry for entry in offered if _is_forwarded(entry)]
            if len(kept) < len(offered):
                return (name, b", ".join(entry.strip() for entry in kept)) if kept else None
        return field

    def divided(self, path: str, copies: Iterable[bytes] = ()) -> tuple[str, list[str]]:
        """A path with those query parameters alone that go to any provider, which stay byte for byte, and the others.
        `copies`: what is known to be secret; a parameter that repeats it stays with the app's own host."""
        bare, _, query = path.partition("?")
        parts = query.split("&")
        forwarded = _without(copies, [part for part in parts if self._forwards(part)])
        if len(forwarded) == len(parts):
            return path, []
        known = set(forwarded)
        kept = [part for part in parts if part not in known]
        return f"{bare}?{'&'.join(forwarded)}" if forwarded else bare, kept

    def _forwards(self, part: str) -> bool:
        # Some servers part parameters by semicolons too; a second `=` or `?` is a query that was put together badly.
        value = part.partition("=")[2]
        return not part or (parameter_of(part) in self._parameters and not any(c in value for c in ";=?#"))


def _without(copies: Iterable[bytes], parts: list[str]) -> list[str]:
    """Those parameters that, as a server reads them, hold none of these. Each is decoded once."""
    if not copies:
        return parts
    read = {part: unquote_to_bytes(as_bytes(part)) for part in parts}
    whole = b"&".join(read.values())
    repeating = {part for copy in copies if copy in whole for part, text in read.items() if copy in text}
    return [part for part in parts if part not in repeating]


_PARAMETER = re.compile(rb';[^=;"]*+=\s*+(?:"(?:[^"\\]|\\.)*+"|[^;\s"]*+)')


def _media_type(value: bytes) -> bytes:
    """What says how a body is to be read: the type, and of its parameters the character set, and what divides its
    parts."""
    media = value.partition(b";")[0]
    kept = (b"charset", b"boundary") if media.strip().lower().startswith(b"multipart/") else (b"charset",)
    found = [p for p in _PARAMETER.findall(value) if p[1:].partition(b"=")[0].strip().lower() in kept]
    return b"".join([media, *found])


def _is_forwarded(entry: bytes) -> bool:
    """Whether a subprotocol goes to any provider."""
    entry = entry.strip().lower()
    return any(entry == known or (known.endswith(b".") and entry.startswith(known)) for known in SUBPROTOCOLS)


class Kept(NamedTuple):
    """A header field that goes to the app's own host alone: the place it stood at, and the part of it that any provider
    gets."""

    place: int
    field: Field
    part: Field | None
    kind: FieldKind


def with_kept(fields: tuple[Field, ...], kept: Iterable[Kept]) -> tuple[Field, ...]:
    """Header fields with those that were kept back at the places they stood at."""
    whole = list(fields)
    for each in kept:
        if each.part is not None and each.part in whole:
            whole[whole.index(each.part)] = each.field
        else:
            whole.insert(each.place, each.field)
    return tuple(whole)


def with_parameters(path: bytes, parameters: Iterable[str]) -> bytes:
    """A path with these parameters at the end of its query."""
    more = as_bytes("&".join(parameters))
    return path + (b"&" if b"?" in path else b"?") + more if more else path


@lru_cache(maxsize=16)
def allow_list(dialect: str, headers: tuple[str, ...], parameters: tuple[str, ...]) -> AllowList:
    """The one of a dialect under the settings in force."""
    return AllowList(dialect, headers, parameters)
