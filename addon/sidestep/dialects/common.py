"""What the dialects share: reading JSON without touching it, and the frame of their stream readers.

Pure: no mitmproxy, no clock, no I/O, no single dialect's grammar.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator
from typing import Any

import msgspec

from sidestep.breaker import numbers
from sidestep.breaker.outcomes import NO_ERROR, ErrorFacts, ErrorKind
from sidestep.dialects.base import Answer
from sidestep.dialects.errors import facts_in
from sidestep.dialects.lenient import STRICTLY_UNREADABLE, UnreadableError, strict

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_items = msgspec.json.Decoder(list[msgspec.Raw])
_any = msgspec.json.Decoder()
encode = msgspec.json.Encoder().encode

UNREADABLE = STRICTLY_UNREADABLE
_CHARSET = re.compile(r"charset=\"?([\w.:-]{1,40})", re.IGNORECASE)
_READ_CHARSETS = ("", "utf-8", "utf8", "us-ascii", "ascii")
_LEADING = b" \t\r\n\xef\xbb\xbf"
MAX_IDS = 64
"""Identifiers remembered of one answer."""
UNSIGNED = "unsigned:"
"""How the name of reasoning begins that no issuer has signed: it is named by its text."""


# --- JSON, untouched


LONG = 1 << 20
"""Strings longer than this (bytes) are no identifiers and no signatures: a document, an image."""
_BYTES_A_QUOTE = 256


def pruned(body: bytes) -> bytes:
    """What is to be read of a request: without the insides of its long strings, each of which would have to be
    searched several times. The very same bytes if there are none, or too many quotes to tell quickly.

    What lies between two quotes is the inside of a string, or a part of it; it is left out but for the backslashes
    at its end, which belong to the quote.
    """
    if len(body) < LONG:
        return body
    kept: list[bytes] = []
    start = at = 0
    for _ in range(len(body) // _BYTES_A_QUOTE):
        quote = body.find(b'"', at)
        if quote < 0:
            kept.append(body[start:])
            return b"".join(kept)
        if quote - at > LONG:
            end = quote
            while body[end - 1] == 0x5C:
                end -= 1
            kept += (body[start:at], b"...")  # it is not empty
            start = end
        at = quote + 1
    return body


def fields_of(body: bytes | msgspec.Raw) -> dict[str, msgspec.Raw] | None:
    """The fields of a JSON object, each with its own bytes; None if it is no object."""
    try:
        return _fields.decode(body)
    except UNREADABLE:
        return None


def items_of(raw: bytes | msgspec.Raw | None) -> list[msgspec.Raw]:
    """The items of a JSON array, each with its own bytes; empty if it is no array."""
    try:
        return [] if raw is None else _items.decode(raw)
    except UNREADABLE:
        return []


def value_of(raw: msgspec.Raw | bytes | None) -> Any:
    """A JSON value, None if there is none or it cannot be read."""
    try:
        return None if raw is None else _any.decode(raw)
    except UNREADABLE:
        return None


def text_of(raw: msgspec.Raw | None) -> str | None:
    value = value_of(raw)
    return value if isinstance(value, str) and value else None


int_of = numbers.count
"""A count in a JSON value; 0 where there is none."""


def asks_for_stream(raw: msgspec.Raw | None) -> bool:
    """Whether a request's flag asks for a stream, also where it is a word or a number that some servers take."""
    return value_of(raw) in (True, "true", "True", "1")


def with_fields(body: bytes, model: str | None, drop: Collection[str], *, add: bool = False) -> bytes:
    """A JSON body with another model and without some fields; the very same bytes if nothing changes. `add`: also
    where it names none."""
    if model is None and not drop:
        return body
    fields = fields_of(body)
    if fields is None:
        return body
    changed = False
    if model is not None and (add or "model" in fields) and value_of(fields.get("model")) != model:
        fields["model"] = msgspec.Raw(encode(model))
        changed = True
    for name in drop:
        changed = fields.pop(name, None) is not None or changed
    return encode(fields) if changed else body


def dicts_in(value: Any, skip: frozenset[str] = frozenset()) -> Iterator[dict[str, Any]]:
    """Every object inside a JSON value in reading order, not descending into the keys in `skip`."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            yield item
            stack.extend(reversed([v for k, v in item.items() if k not in skip and isinstance(v, (dict, list))]))
        elif isinstance(item, list):
            stack.extend(reversed([v for v in item if isinstance(v, (dict, list))]))


def bounded(ids: list[str]) -> tuple[str, ...]:
    """Each identifier once, the last ones of too many."""
    return tuple(dict.fromkeys(ids))[-MAX_IDS:]


def digest(*parts: bytes) -> str:
    """A short stable name for some bytes."""
    return hasher(b"\0".join(parts)).hexdigest()


def hasher(data: bytes = b"") -> hashlib.blake2b:
    """Makes the same name of bytes that come in pieces."""
    return hashlib.blake2b(data, digest_size=16)


_STRUCTURE = frozenset({"type", "object", "index", "role", "revised_prompt"})
"""What stands in a frame around what is said."""


def holds(value: Any) -> bool:
    """Whether there is anything in a JSON value but the frame of it."""
    if isinstance(value, dict):
        return any(k not in _STRUCTURE and holds(v) for k, v in value.items())
    if isinstance(value, list):
        # A number that is none (NaN) is read as nothing.
        return any(item is None or holds(item) for item in value)
    return value is not None and value != ""


def is_error(value: Any) -> bool:
    """Whether a field named for errors tells of one: some servers always send it, with nothing or zeros in it."""
    return any(value.values()) if isinstance(value, dict) else bool(value)


def media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def charset_of(content_type: str) -> str:
    """The declared character set, empty if there is none."""
    found = _CHARSET.search(content_type)
    return found[1].lower() if found else ""


# --- whole answers


def is_page(body: bytes) -> bool:
    """A page in place of an answer, whatever it calls itself."""
    return body[:200].lstrip(_LEADING).startswith(b"<")


def answer_fields(content_type: str, body: bytes) -> dict[str, msgspec.Raw] | None:
    """The fields of a JSON object that any of the official SDKs could read; None if it is none."""
    # What is inside a field is looked at later: there no other character set would be tried any more.
    fields = fields_of(body) if _is_utf8(body) else None
    if fields is not None or not body:
        return fields
    try:
        return fields_of(strict(body, charset_of(content_type)))
    except UnreadableError:
        return None


def _is_utf8(body: bytes) -> bool:
    if body.isascii():
        return True
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def not_read(content_type: str, body: bytes) -> Answer:
    """What a 2xx body is that is no JSON object: nothing, a page, broken JSON, JSON of another kind; or a form that
    is not known here."""
    start = body[:200].lstrip(_LEADING)
    if not start or is_page(body):
        return Answer(good=False)
    kind = media_type(content_type)
    known = kind == "text/event-stream" or "html" in kind
    known = known or ("json" in kind and charset_of(content_type) in _READ_CHARSETS)
    return Answer(good=False, unread=not known and not start.startswith((b"{", b"[")))


def no_answer(body: bytes) -> Answer:
    """A 2xx body that is no answer, with the error that it holds, if it does."""
    error = facts_in(0, body)
    return Answer(good=False, error=None if error is NO_ERROR else error)


BROKEN_DOWN = frozenset(
    {
        *("error", "network_error", "abort", "aborted", "timeout", "server_error", "internal_error"),
        *("upstream_error", "insufficient_system_resource", "failed"),
    }
)
"""Reasons for an end that say that the provider has broken down: `error` of OpenRouter, vLLM and Cohere, `abort` of
vLLM and SGLang, `network_error` of Zhipu, `insufficient_system_resource` of DeepSeek."""


def broke_down(reason: Any) -> bool:
    """Whether a finish reason says that the provider has broken down, in any dialect's spelling."""
    return isinstance(reason, str) and reason.lower() in BROKEN_DOWN


BREAKDOWN = ErrorFacts(ErrorKind.SERVER, "the provider ended its answer with an error")


# --- streams


def texts(*values: Any) -> list[str]:
    return [v for v in values if isinstance(v, str) and v]
