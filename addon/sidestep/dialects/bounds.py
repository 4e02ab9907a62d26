"""How much a JSON text would build: told from its bytes, before anything is built of them.

Pure: no mitmproxy, no clock, no I/O. A few bytes of text become objects of many: an empty list takes 3 bytes there and
64 here (CPython 3.12), and each of them some hundred nanoseconds. What apps and providers send has a bound therefore.
"""

from __future__ import annotations

MAX_VALUES = 100_000
"""Values built of one body: about 10 MB, and 20 ms. Requests of a million tokens have some ten thousand."""
MAX_COUNTED = 8 << 20
"""A longer text (bytes) in which too much looks like values is not looked into more closely."""
_STRUCTURE = b",[{"
"""One of these stands before each value but the first, or before its key."""
_QUOTES_A_VALUE = 4
"""Around a key and around a value."""


def is_crowded(text: bytes, most: int = MAX_VALUES) -> bool:
    """Whether a JSON text holds more than so many values. In time that grows with its length alone."""
    if len(text) <= most or marks(text) <= most:
        return False
    if len(text) > MAX_COUNTED:
        return True
    # What people write is full of commas: only what stands between texts is counted.
    text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    if text.count(b'"') > _QUOTES_A_VALUE * most:
        return True
    return marks(b"".join(text.split(b'"')[::2])) > most


def marks(text: bytes) -> int:
    """How many values a JSON text may hold at the most; what stands in its texts is counted as well."""
    return len(text) - len(text.translate(None, _STRUCTURE))
