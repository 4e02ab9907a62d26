"""Reads compressed bodies beside their way through, a piece at a time. What is sent on stays compressed.

Pure: no mitmproxy, no I/O. What comes out is bounded: a few bytes may claim to be gigabytes.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from typing import Protocol

import brotli  # type: ignore[import-untyped]

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Decoder = Callable[[bytes], bytes]

DECODED_BYTES = 64 << 20
"""What a body may become; no answer that means something is longer."""
FREE_BYTES = 1 << 20
"""What it may become of however few bytes."""
DECODED_PER_BYTE = 64
"""What each further byte of it may become. Streams of chat completions were seen to become 20 times what they are where
each event is compressed as it comes, and 70 times where they are compressed whole; text becomes 3 to 10 times."""

_BROTLI_IS_BOUNDED = hasattr(brotli.Decompressor, "can_accept_more_data")
_BROTLI_SLICE = 32
"""Where the library takes no bound it is given little at a time: bytes that become some megabytes at the worst."""
_MEMBER_SLICE = 64 << 10
MAX_MEMBERS = 4096
"""What follows a member's end is copied: a slice at most each time, and not without end."""


class EncodingError(Exception):
    """Bytes are not in the content encoding that they claim."""


class TooMuchError(Exception):
    """Bytes become more than they may. `read`: what came of them up to there."""

    def __init__(self, read: bytes) -> None:
        super().__init__("a compressed body becomes more than is read")
        self.read = read


IDENTITY = frozenset({"", "identity"})


def decoder(content_encoding: str, *, at_most: int = DECODED_BYTES, at_once: int = DECODED_BYTES) -> Decoder | None:
    """An incremental decoder for a Content-Encoding; None if it is one that is not read here.

    The decoder raises EncodingError on bytes that are not in that encoding, TooMuchError once they become more than
    `at_most` in all or `at_once` in one go, or than such bytes become that mean something; after that it is of no use.
    """
    match content_encoding.strip().lower():
        case "" | "identity":
            return bytes
        case "gzip" | "x-gzip":
            decompress: _Decompress = _Members(lambda: zlib.decompressobj(zlib.MAX_WBITS | 16))
        case "deflate":
            decompress = _Deflate()
        case "br":
            process = brotli.Decompressor().process
            decompress = process if _BROTLI_IS_BOUNDED else _Sliced(process, _BROTLI_SLICE)
        case "zstd":
            decompress = _Members(zstd.ZstdDecompressor)
        case _:
            return None
    return _Bounded(decompress, at_most, at_once)


def decoded_start(content_encoding: str, body: bytes) -> bytes:
    """What a whole body says, or as much of its beginning as is read; itself where it is not read at all."""
    decode = decoder(content_encoding)
    if decode is None:
        return body
    try:
        return decode(body)
    except TooMuchError as e:
        return e.read
    except EncodingError:
        return body


_Decompress = Callable[[bytes, int], bytes]
"""Some bytes decoded, to a length that is exceeded only where there is more, or where the library knows no bound."""


class _Bounded:
    """State: how much may still come, with `_due` more for each byte that comes in."""

    __slots__ = ("_at_once", "_decompress", "_due", "_left")

    def __init__(self, decompress: _Decompress, at_most: int, at_once: int) -> None:
        self._decompress = decompress
        self._left = at_most
        self._due = FREE_BYTES
        self._at_once = at_once

    def __call__(self, data: bytes) -> bytes:
        self._due += DECODED_PER_BYTE * len(data)
        limit = min(self._left, self._at_once, self._due)
        try:
            decoded = self._decompress(data, limit + 1)
        except (zlib.error, brotli.error, zstd.ZstdError) as e:
            raise EncodingError(str(e)) from None
        if len(decoded) > limit:
            raise TooMuchError(decoded)
        self._left -= len(decoded)
        self._due -= len(decoded)
        return decoded


class _Sliced:
    """State: a decompressor that knows no bound."""

    __slots__ = ("_decompress", "_size")

    def __init__(self, decompress: Callable[[bytes], bytes], size: int) -> None:
        self._decompress = decompress
        self._size = size

    def __call__(self, data: bytes, limit: int) -> bytes:
        if len(data) <= self._size:
            return self._decompress(data)
        found: list[bytes] = []
        for at in range(0, len(data), self._size):
            piece = self._decompress(data[at : at + self._size])
            found.append(piece)
            limit -= len(piece)
            if limit <= 0:
                break
        return b"".join(found)


class _Member(Protocol):
    """What zlib's and zstd's decompressors have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Members:
    """A body may be several gzip members (RFC 1952, 2.2) or zstd frames (RFC 8878, 3) in a row. What follows the last
    one and is none itself is passed over, as most clients do.

    State: the member that is being read, how many have ended, whether the rest is passed over.
    """

    __slots__ = ("_ended", "_member", "_new", "_over")

    def __init__(self, new: Callable[[], _Member]) -> None:
        self._new = new
        self._member = new()
        self._ended = 0
        self._over = False

    def __call__(self, data: bytes, limit: int) -> bytes:
        found: list[bytes] = []
        for at in range(0, len(data), _MEMBER_SLICE):
            rest = data[at : at + _MEMBER_SLICE]
            while rest and not self._over and limit > 0:
                if self._member.eof:
                    self._member = self._new()
                try:
                    piece = self._member.decompress(rest, limit)
                except (zlib.error, zstd.ZstdError):
                    if not self._ended:
                        raise
                    self._over = True
                    break
                found.append(piece)
                limit -= len(piece)
                rest = b""
                if self._member.eof:
                    self._ended += 1
                    rest = self._member.unused_data
                    if self._ended >= MAX_MEMBERS and rest:
                        raise TooMuchError(b"".join(found))
        return b"".join(found)


class _Deflate:
    """`deflate` is zlib by the standard (RFC 9110, 8.4.1.2) and raw deflate from some servers."""

    __slots__ = ("_decompress",)

    def __init__(self) -> None:
        self._decompress: _Decompress | None = None

    def __call__(self, data: bytes, limit: int) -> bytes:
        if self._decompress is None:
            if not data:
                return b""
            wrapped = data[0] & 0x0F == 8
            self._decompress = zlib.decompressobj(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS).decompress
        return self._decompress(data, limit)
