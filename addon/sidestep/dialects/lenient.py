"""JSON as the official SDKs read it, which is more than the standard allows.

Pure: no mitmproxy, no clock, no I/O. The strict reader is the quick way of nearly all bodies; what it refuses is
read once more by Python's own: NaN and Infinity, lone surrogates, control characters, a byte order mark, UTF-16 and
UTF-32, bytes that are no UTF-8 (which JavaScript's decoder replaces).
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import msgspec

from sidestep.dialects.bounds import is_crowded

_any = msgspec.json.Decoder()
_encode = msgspec.json.Encoder().encode

STRICTLY_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
MAX_BYTES = 4 << 20
"""What is not strict JSON and longer than this is not read: Python's reader is slow, and other calls wait for it."""
_CHARSETS = re.compile(
    r"utf-?(?:16|32)(?:-?[lb]e)?|iso-8859-\d{1,2}|latin-?1|(?:windows-|cp)125\d|gb(?:k|2312|18030)|big5|shift_jis|"
    r"euc-(?:jp|kr)|koi8-[ru]",
    re.IGNORECASE,
)
"""Declared character sets that are believed. Not whatever Python knows: some of its codecs are slow, some are no
character sets."""
_MAX_DIGITS = 300
"""A longer number is more than any reader's number can be."""


class UnreadableError(Exception):
    """No JSON for any reader."""


def is_too_much(data: bytes) -> bool:
    """Whether it is more than is read, so that it may be JSON for others."""
    return len(data) > MAX_BYTES or is_crowded(data)


def loads(data: bytes, charset: str = "") -> Any:
    """A JSON value as Python has it. `charset`: the one that was declared, if any. Numbers that are none are None."""
    if is_crowded(data):
        raise UnreadableError
    try:
        return _any.decode(data)
    except STRICTLY_UNREADABLE:
        return _loads(data, charset)


def strict(data: bytes, charset: str = "") -> bytes:
    """The same value in JSON that the strict reader takes; for those that want to read it once more."""
    try:
        return _encode(_loads(data, charset))
    except (UnicodeEncodeError, RecursionError, OverflowError):
        pass
    try:
        # A surrogate without its other half cannot be encoded.
        return json.dumps(_loads(data, charset), ensure_ascii=False).encode("utf-8", "replace")
    except RecursionError:
        raise UnreadableError from None


def _loads(data: bytes, charset: str) -> Any:
    if is_too_much(data):
        raise UnreadableError
    try:
        return json.loads(_text(data, charset), strict=False, parse_constant=_none, parse_int=_int, parse_float=_float)
    except (ValueError, RecursionError):
        raise UnreadableError from None


def _text(data: bytes, charset: str) -> str:
    if _CHARSETS.fullmatch(charset):
        try:
            return data.decode(charset)
        except (LookupError, ValueError):
            pass
    encoding = json.detect_encoding(data)
    return data.decode(encoding, "replace")


def _none(_: str) -> None:
    return None


def _int(digits: str) -> int | None:
    return int(digits) if len(digits) <= _MAX_DIGITS else None


def _float(digits: str) -> float | None:
    value = float(digits) if len(digits) <= _MAX_DIGITS else math.inf
    return value if math.isfinite(value) else None
