"""mitmproxy messages ↔ plain facts: what is the app's own host's off and on, a request pointed at another provider.

mitmproxy's public types only. No policy: which provider is asked was decided before.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha1
from typing import Any

from mitmproxy import http
from mitmproxy.net.http import url

from sidestep.calls.decoding import IDENTITY, EncodingError, TooMuchError, decoder
from sidestep.config.urls import is_credential
from sidestep.credentials import (
    Field,
    as_bytes,
    as_text,
    copies_to_find,
    credential_fields,
    fingerprint,
)
from sidestep.dialects import code_assist, sealed
from sidestep.dialects.base import Call
from sidestep.dialects.bodies import NotReadError
from sidestep.dialects.common import READ_CHARSETS, charset_of
from sidestep.forwarding import FRAMING, AllowList, FieldKind, Kept, with_kept, with_parameters
from sidestep.routing.table import Candidate, Match

# Enumerations are slow to look into, and this is done for each field.
_FORWARDED, _KEPT = FieldKind.FORWARDED, FieldKind.KEPT
_CREDENTIAL, _SUBPROTOCOL = FieldKind.CREDENTIAL, FieldKind.SUBPROTOCOL
MAX_HEAD_BYTES = 64 << 10
MAX_FIELDS = 500
MAX_NAME_BYTES = 256
"""Of a head that is read. Servers take 8 to 64 KB, and a hundred fields or some more."""
FIELD_BYTES = 130
"""Of the objects that a header field is made of (CPython 3.12), besides its name and its value."""
MAX_AUTHORITY_BYTES = 300
"""A name has 253 characters at most (RFC 1035, 2.3.4, without the lengths), a port five."""


def _host_in(authority: bytes) -> str:
    if len(authority) > MAX_AUTHORITY_BYTES:
        return ""
    return url.parse_authority(as_text(authority.rpartition(b"@")[2]), check=False)[0]


_kept_host_in = lru_cache(maxsize=1024)(_host_in)


def authority_of(request: http.Request) -> bytes | None:
    """The host, and the port if it is given, by which the app calls its server."""
    data = request.data
    if data.authority and data.http_version.startswith((b"HTTP/2", b"HTTP/3")):
        return data.authority
    for name, value in data.headers.fields:
        if len(name) == 4 and name.lower() == b"host":
            return value
    return None


def host_of(request: http.Request, *, keep: bool) -> str:
    """The host that the app meant: mitmproxy's `pretty_host`, with less to do; empty for a name that can be none.
    `keep`: what is read now is not to be read again; for clients whose calls concern us."""
    authority = authority_of(request)
    if authority is None:
        return request.data.host
    return _kept_host_in(authority) if keep and len(authority) <= MAX_AUTHORITY_BYTES else _host_in(authority)


def is_overlong(request: http.Request) -> bool:
    """Whether a head is longer than that of any call: servers refuse such a one, and it is not looked into."""
    data = request.data
    left = MAX_HEAD_BYTES - len(data.path)
    for name, value in data.headers.fields:
        if len(name) > MAX_NAME_BYTES:
            return True
        left -= len(name) + len(value)
    return left < 0 or len(data.headers.fields) > MAX_FIELDS


@dataclass(slots=True)
class Original:
    """A request as the app sent it, what goes to its own host alone apart. Never shown, never saved."""

    allowed: AllowList
    scheme: bytes
    host: str
    port: int
    path: bytes
    authority: bytes
    whole: tuple[Field, ...] = ()
    """All header fields, as they came."""
    fields: tuple[Field, ...] = ()
    """Those that any provider gets."""
    kept: tuple[Kept, ...] = ()
    bare_path: bytes = b""
    kept_parameters: tuple[str, ...] = ()
    content_type: str = ""
    content_encoding: str = ""
    origin: bytes | None = None
    fetch_site: bytes | None = None
    """What a browser says of the page that asks."""
    by_name: bool = False
    """The app has looked its server up by itself and given an address, which proves nothing: its own provider is asked
    by name."""
    trailers: http.Headers | None = None
    body: bytes | None = None
    sent_body: bytes | None = None
    """The body that was last put on the flow in its place."""
    at_end: tuple[tuple[Any, ...], tuple[Field, ...]] | None = None
    """Where the flow led when its call was over, and its header fields: what differs from them later was edited."""

    @classmethod
    def take(cls, request: http.Request, allowed: AllowList) -> Original:
        data = request.data
        original = cls(allowed, data.scheme, data.host, data.port, data.path, data.authority, bare_path=data.path)
        if b"?" in data.path:
            original._divide(())
        copies = original._read(data.headers.fields)
        if copies and b"?" in original.bare_path:
            original._divide(copies)
        return original

    def _divide(self, copies: tuple[bytes, ...]) -> None:
        bare, kept = self.allowed.divided(as_text(self.path), copies)
        if kept:
            self.bare_path, self.kept_parameters = as_bytes(bare), tuple(kept)

    def _read(self, fields: tuple[Field, ...]) -> tuple[bytes, ...]:
        """What was found to be secret is returned."""
        self._sort(fields, ())
        if copies := copies_to_find(self._credentials(), self.kept_parameters):
            everything = b"\n".join([value for _, value in self.fields])
            if any(copy in everything for copy in copies):
                # The app may have repeated its key in a field of another name.
                self._sort(fields, copies)
        return copies

    def _sort(self, fields: tuple[Field, ...], copies: tuple[bytes, ...]) -> None:
        allowed, known = self.allowed, self.allowed.known
        shown: list[Field] = []
        kept: list[Kept] = []
        unplaced = 0
        self.content_type = self.content_encoding = ""
        for field in fields:
            name, value = field
            kind = known.get(name) or allowed.kind_of(name)
            if copies and name.lower() not in FRAMING and any(copy in value for copy in copies):
                kind = _KEPT if kind is _FORWARDED else kind
            if kind is not _FORWARDED:
                if kind is FieldKind.CONTENT_TYPE:
                    self.content_type = value.decode("latin-1")
                part = allowed.forwarded_part(kind, field)
                if part is not field:
                    kept.append(Kept(len(shown) + len(kept) - unplaced, field, part, kind))
                    if kind is FieldKind.ORIGIN:
                        self.origin = value
                    elif kind is FieldKind.FETCH_SITE:
                        self.fetch_site = value
                    if part is None:
                        continue
                    unplaced += 1  # it takes one place, and stands in both lists
                    field = part
                elif kind is FieldKind.EXPECT:
                    unplaced += 1  # mitmproxy itself answers it and takes it off: it holds no place
                elif kind is FieldKind.CONTENT_ENCODING:
                    self.content_encoding = value.decode("latin-1").strip().lower()
            shown.append(field)
        self.whole, self.fields, self.kept = fields, tuple(shown), tuple(kept)

    def refresh(self, request: http.Request, *, strips: bool) -> None:
        """Take over what other addons changed between the headers and the whole request. `strips`: what goes to the
        app's own host alone is taken off the flow."""
        self.body = request.data.content
        self.trailers = request.data.trailers
        if strips:
            request.data.trailers = None
        fields = request.data.headers.fields
        if fields is self.fields:
            return
        before = self.kept if strips else ()
        self._read(fields)
        names = {k.field[0].lower() for k in self.kept}
        self.kept = (*(k for k in before if k.field[0].lower() not in names), *self.kept)
        self.whole = with_kept(self.fields, self.kept)
        if strips:
            request.data.headers.fields = self.fields

    @property
    def weight(self) -> int:
        """About the bytes of memory that it takes."""
        heads = 2 * len(self.path) + sum(len(name) + len(value) + FIELD_BYTES for name, value in self.whole)
        bodies = len(self.body or b"")
        if self.sent_body is not None and self.sent_body is not self.body:
            bodies += len(self.sent_body)
        return heads + bodies

    def fingerprint(self) -> str:
        """Stands for the app's own credential where nothing but its sameness counts."""
        return fingerprint(self._credentials(), self.kept_parameters)

    def strip(self, request: http.Request) -> None:
        """Take off the flow what goes to the app's own host alone; `outgoing` puts it back on what is sent."""
        request.data.headers.fields = self.fields
        request.data.path = self.bare_path

    def restore(self, request: http.Request, *, whole: bool) -> None:
        """Make the flow what the app sent, with or without what goes to its own host alone."""
        data = request.data
        data.scheme, data.host, data.port = self.scheme, self.host, self.port
        data.authority = self.authority
        data.path = self.path if whole else self.bare_path
        data.headers.fields = self.whole if whole else self.fields
        data.trailers = self.trailers if whole else None
        if self.body is not None:
            data.content = self.body

    def over(self, request: http.Request) -> None:
        """Note what the flow is when its call is over."""
        self.at_end = _way(request), request.data.headers.fields

    def replay(self, request: http.Request) -> None:
        """Make a flow that was over what the app sent, for one more time; but for what somebody has edited of it since.
        Where that leads elsewhere, nothing goes along that is for the app's own host alone."""
        way, now = _way(request), request.data.headers.fields
        before, fields = (way, now) if self.at_end is None else self.at_end
        self.restore(request, whole=True)
        data = request.data
        if way != before:
            data.scheme, data.host, data.port, data.authority, data.path = way
            if way[:3] != (self.scheme, self.host, self.port):
                data.headers.fields, data.trailers = now, None
                return
            data.path = with_parameters(data.path, self.kept_parameters)
        edited = _edited(fields, now)
        kept = [field for field in self.whole if field[0].lower() not in edited]
        data.headers.fields = (*kept, *(field for field in now if field[0].lower() in edited))

    def said(self) -> bytes:
        """All that the app has said, to find something in it."""
        fields = [part for field in self.whole for part in field]
        return b"\n".join([self.path, *fields, readable_body(self)])

    @property
    def harmless(self) -> tuple[Kept, ...]:
        """What is no credential among that which goes to the app's own host alone."""
        return tuple(k for k in self.kept if k.part is None and k.kind is not FieldKind.CREDENTIAL)

    def _credentials(self) -> list[Field]:
        return [k.field for k in self.kept if k.kind is _CREDENTIAL or k.kind is _SUBPROTOCOL]


def _way(request: http.Request) -> tuple[Any, ...]:
    data = request.data
    return data.scheme, data.host, data.port, data.authority, data.path


def _edited(before: tuple[Field, ...], now: tuple[Field, ...]) -> set[bytes]:
    """The names, in lower case, of the fields that differ."""
    if before == now:
        return set()
    told = [[(name.lower(), value) for name, value in fields] for fields in (before, now)]
    names = {name for fields in told for name, _ in fields}
    return {n for n in names if [v for name, v in told[0] if name == n] != [v for name, v in told[1] if name == n]}


def readable_body(original: Original) -> bytes:
    """The body as the dialect reads it, decoded where it is compressed. NotReadError: it cannot be decoded."""
    body = original.body or b""
    if charset_of(original.content_type) not in READ_CHARSETS:
        raise NotReadError("its body has a character set that is not read")
    if original.content_encoding in IDENTITY:
        return body
    decode = decoder(original.content_encoding)
    if decode is None:
        raise NotReadError("its body has a content encoding that is not known")
    try:
        return decode(body)
    except EncodingError:
        raise NotReadError("its body is not in its content encoding") from None
    except TooMuchError:
        raise NotReadError("its compressed body becomes more than is read") from None


def copied(request: http.Request) -> http.Request:
    """A request of its own, whose head can be changed without the other's."""
    # Not `request.copy()`: it goes over every field by way of the saved form, body included.
    copy = http.Request.__new__(http.Request)
    copy.data = http.RequestData.__new__(http.RequestData)
    copy.data.__dict__.update(request.data.__dict__)
    headers = copy.data.headers = http.Headers.__new__(http.Headers)
    headers.fields = request.data.headers.fields
    return copy


def point_at(request: http.Request, original: Original, match: Match, call: Call, candidate: Candidate) -> None:
    """Make the flow's request the one that this candidate gets, without any credential."""
    original.restore(request, whole=False)
    provider, data = candidate.provider, request.data
    base = provider.base_url
    if candidate.own and (provider.api_key is not None or provider.headers or original.by_name):
        # A key of ours goes to the provider's own address, whatever address the app connected to.
        data.scheme, data.host, data.port = base.scheme.encode("ascii"), base.host, base.port
    # A provider of another layout does not find it in the address.
    model = candidate.model if candidate.model != call.model or (call.unnamed and not candidate.own) else None
    if candidate.own and model is None and not provider.drop_fields and not candidate.leaves_out:
        return
    _rewrite_body(request, original, match, call, model, candidate)
    if candidate.own:
        return
    data.scheme, data.host, data.port = base.scheme.encode("ascii"), base.host, base.port
    authority = base.authority.encode("ascii" if base.authority.isascii() else "idna")
    if data.authority:
        data.authority = authority
    _readdress(data.headers, authority, uncompressed=call.stream or call.in_envelope)


def _readdress(headers: http.Headers, authority: bytes, *, uncompressed: bool) -> None:
    """Header fields for another host. `uncompressed`: ask for an answer that is not."""
    fields: list[Field] = []
    for field in headers.fields:
        size = len(field[0])
        if size == 4 and field[0].lower() == b"host":
            field = (field[0], authority)
        elif uncompressed and size == 15 and field[0].lower() == b"accept-encoding":
            field, uncompressed = (field[0], b"identity"), False
        fields.append(field)
    if uncompressed:
        fields.append((b"accept-encoding", b"identity"))
    headers.fields = tuple(fields)


def _rewrite_body(
    request: http.Request,
    original: Original,
    match: Match,
    call: Call,
    model: str | None,
    candidate: Candidate,
) -> None:
    provider, leaves_out = candidate.provider, candidate.leaves_out
    _, mark, query = as_text(request.data.path).partition("?")
    tail = match.tail
    stands_in = sealed.may_demand(call, candidate.target)
    encoded = original.content_encoding not in IDENTITY
    opens = call.in_envelope and not candidate.own
    if model is not None or provider.drop_fields or leaves_out or stands_in or opens or (encoded and not candidate.own):
        readable = body = readable_body(original)
        if call.in_envelope:
            tail, body = code_assist.taken_out(tail, call.model or "", body)
        if leaves_out or stands_in:
            body = sealed.unsealed(call, candidate.target, body, leaves_out)
        if model is not None or provider.drop_fields:
            tail, body = match.dialect.rewrite(call, tail, original.content_type, body, model, provider.drop_fields)
        if call.in_envelope and candidate.own:
            tail, body = match.tail, code_assist.put_back(readable, body, model)
        # The app knows that its own provider reads this encoding; of another that is not known.
        if body != readable or (encoded and not candidate.own and readable):
            if encoded:
                del request.headers["content-encoding"]
            request.data.content = body
            if "content-length" in request.headers:
                request.headers["content-length"] = str(len(body))
    if model is not None:
        query = match.dialect.rewrite_query(call, query, model)
    if not candidate.own:
        base = provider.base_url
        alike = base.path == match.intercept.path
        tail, asked = match.dialect.address_at(base.host, base.path, tail, query, alike=alike)
        asked = base.merged(asked)
        if asked != query:
            query, mark = asked, "?" if asked else ""
    request.data.path = as_bytes(provider.base_url.join(tail) + mark + query)


def outgoing(
    request: http.Request, original: Original, candidate: Candidate, *, to_http1: bool, to_proxy: bool
) -> http.Request:
    """A copy of the request's head as it is sent, with the credential; the flow never bears it. `to_proxy`: another
    proxy gets it in absolute form, without a CONNECT."""
    fields = request.data.headers.fields
    trailers = None
    sent = copied(request)
    if candidate.own_credential:
        trailers = original.trailers
        fields = original.whole if fields is original.fields else with_kept(fields, original.kept)
        if original.kept_parameters:
            as_sent = sent.data.path == original.bare_path
            sent.data.path = original.path if as_sent else with_parameters(sent.data.path, original.kept_parameters)
    elif candidate.own:
        # The app's own host, with a key of ours in place of the app's credential.
        fields = with_kept(fields, original.harmless)
        parameters = [p for p in original.kept_parameters if not is_credential(p)]
        sent.data.path = with_parameters(sent.data.path, parameters)
    if not candidate.own_credential and candidate.provider.dialect == "anthropic":
        fields = tuple(_without_oauth(fields))
    if not candidate.own_credential and to_proxy:
        fields += tuple(k.field for k in original.kept if k.field[0].lower() == b"proxy-authorization")
    if not candidate.own and not to_proxy and not request.is_http2:
        sent.data.authority = b""  # absolute form is for proxies
    added = credential_fields(candidate.provider)
    if added:
        names = [name for name, _ in added]
        fields = (*[f for f in fields if f[0].lower() not in names], *added)
    content = request.data.content
    if to_http1 and content and _LENGTHS.isdisjoint([f[0].lower() for f in fields]):
        fields = (*fields, (b"content-length", b"%d" % len(content)))
    sent.data.headers.fields = fields
    sent.data.content = None
    sent.data.trailers = trailers
    return sent


def _without_oauth(fields: tuple[Field, ...]) -> Iterator[Field]:
    """Header fields without Anthropic's betas of a plan (`oauth-2025-04-20`): they speak of the app's own credential,
    and go where that goes."""
    for name, value in fields:
        if len(name) == _BETA_LENGTH and b"oauth-" in value and name.lower() == _BETA:
            value = b",".join(beta for beta in value.split(b",") if not beta.strip().startswith(b"oauth-"))
            if not value:
                continue
        yield name, value


_BETA = b"anthropic-beta"
_BETA_LENGTH = len(_BETA)


def answers_handshake(request: http.Request, response: http.Response) -> bool:
    """Whether a 101 takes the WebSocket that was asked for: a client must not speak over one that does not (RFC 6455,
    4.1)."""
    if response.headers.get("upgrade", "").strip().lower() != "websocket":
        return False
    nonce = request.headers.get("sec-websocket-key")
    if nonce is None:
        return True  # nobody can tell
    digest = sha1((nonce.strip() + _WEBSOCKET_GUID).encode("latin-1", "replace"), usedforsecurity=False).digest()
    accepted: str = response.headers.get("sec-websocket-accept", "")
    return accepted.strip() == b64encode(digest).decode("ascii")


_WEBSOCKET_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""What a server adds to the key of a handshake (RFC 6455, 1.3)."""


_LENGTHS = frozenset({b"content-length", b"transfer-encoding"})
