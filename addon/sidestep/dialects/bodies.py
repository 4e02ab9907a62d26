"""What is read of a request's body, and that it means one thing.

Pure: no mitmproxy, no clock, no I/O, no single dialect's grammar. A key of ours is used for a call only if it is known
which model it asks for and what binds it: what cannot be read, or what two readers would read differently, is said to
be so (`NotReadError`), and the call goes where the app sent it.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from sidestep.dialects.bounds import is_crowded
from sidestep.dialects.common import UNREADABLE, fields_of

MAX_MODEL = 512
"""Characters of a model's name; the longest in use have about a hundred."""
LONG = 1 << 20
"""Strings longer than this (bytes) are no identifiers and no signatures: a document, an image."""
_BYTES_A_QUOTE = 256
MAX_QUOTES = 20_000
"""Around names and texts of a body of which no more is looked at than its fields."""
_any = msgspec.json.Decoder()
_KEY = re.compile(rb'[ \t\r\n]*+[{,][ \t\r\n]*+"([^"\\]*+)"[ \t\r\n]*+:[ \t\r\n]*+')
_END = re.compile(rb"[ \t\r\n]*+}[ \t\r\n]*+")


class NotReadError(Exception):
    """A request that is not read; its text says why, and quotes nothing."""


def fields_in(body: bytes, *, looked_into: bool = True) -> tuple[bytes, dict[str, msgspec.Raw]]:
    """The fields of a request's body, each with its own bytes, and what these are slices of (`pruned`).

    `looked_into`: values are built of what the fields hold; else it may be any number of numbers. NotReadError: it is
    no JSON object that every reader takes for the same, or has more values than are built.
    """
    body = pruned(body)
    if is_crowded(body) and (looked_into or body.count(b'"') > MAX_QUOTES):
        raise NotReadError("its body has too many values")
    fields = fields_of(body)
    if fields is None:
        raise NotReadError("its body is no JSON object")
    if not _means_one_thing(body, fields):
        raise NotReadError("its body has a field twice, or a name spelled in an unusual way")
    return body, fields


def _means_one_thing(body: bytes, fields: dict[str, msgspec.Raw]) -> bool:
    """Of a field that is there twice, some readers take the first and some the last; and some, as Go's, take `Model`
    for `model`. The body is gone through by what was found of it: another value of the same name is in the way."""
    at = 0
    while (key := _KEY.match(body, at)) is not None:
        name = key[1].decode("utf-8", "replace")
        raw = fields.get(name)
        if raw is None or not body.startswith(raw, key.end()):
            return False
        if len(name) == 5 and name != "model" and name.lower() == "model":
            return False
        at = key.end() + memoryview(raw).nbytes
    return not fields or _END.fullmatch(body, at) is not None


def value_in(raw: msgspec.Raw | None) -> Any:
    """A field's value, None if it is absent. NotReadError: it is one that is not read here."""
    try:
        return None if raw is None else _any.decode(raw)
    except UNREADABLE:
        raise NotReadError("it has a value that cannot be read") from None


def model_in(fields: dict[str, msgspec.Raw]) -> str | None:
    """The model that is asked for, None if none is named. NotReadError: what is named is no name."""
    return named(value_in(fields.get("model")))


def named(model: Any) -> str | None:
    """The same, of a value that stood elsewhere."""
    if model is None or model == "":
        return None
    # What is asked for is shown in logs, pages and terminals, where control characters would be carried out.
    if not isinstance(model, str) or len(model) > MAX_MODEL or not model.isprintable():
        raise NotReadError("its model is no name")
    return model


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
            end = at + len(body[at:quote].rstrip(b"\\"))
            kept += (body[start:at], b"...")  # it is not empty
            start = end
        at = quote + 1
    return body
