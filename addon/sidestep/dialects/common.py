"""What the dialects share: reading JSON without touching it, and the frame of their stream readers.

Pure: no mitmproxy, no clock, no I/O, no single dialect's grammar.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from typing import Any

import msgspec

from sidestep.breaker.outcomes import NO_ERROR
from sidestep.dialects.base import Answer
from sidestep.dialects.errors import facts_in

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_items = msgspec.json.Decoder(list[msgspec.Raw])
_any = msgspec.json.Decoder()
encode = msgspec.json.Encoder().encode

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
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


def int_of(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def with_fields(body: bytes, model: str | None, drop: Collection[str]) -> bytes:
    """A JSON body with another model and without some fields; the very same bytes if nothing changes."""
    if model is None and not drop:
        return body
    fields = fields_of(body)
    if fields is None:
        return body
    changed = False
    if model is not None and "model" in fields and value_of(fields["model"]) != model:
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


def media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def is_html(content_type: str, body: bytes) -> bool:
    if "html" in media_type(content_type):
        return True
    return body[:200].lstrip()[:15].lower().startswith((b"<!doctype html", b"<html"))


def no_answer(body: bytes) -> Answer:
    """A 2xx body that is no answer, with the error that it holds, if it does."""
    error = facts_in(0, body)
    return Answer(good=False, error=None if error is NO_ERROR else error)


# --- streams


def texts(*values: Any) -> list[str]:
    return [v for v in values if isinstance(v, str) and v]
