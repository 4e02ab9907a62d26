"""Reads compressed bodies beside their way through, a piece at a time. What is sent on stays compressed.

Pure: no mitmproxy, no I/O. What comes out is bounded: a few bytes may claim to be gigabytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import brotli  # type: ignore[import-untyped]
import zstandard

Decoder = Callable[[bytes], bytes]

DECODED_BYTES = 64 << 20
"""What a body may become; no answer that means something is longer."""

_BROTLI_IS_BOUNDED = hasattr(brotli.Decompressor, "can_accept_more_data")
_BROTLI_SLICE = 32
_ZSTD_SLICE = 512
"""Where the library takes no bound it is given little at a time: bytes that become some megabytes at the worst."""


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
    `at_most` in all or `at_once` in one go; after that it is of no use.
    """
    match content_encoding.strip().lower():
        case "" | "identity":
            return bytes
        case "gzip" | "x-gzip":
            decompress: _Decompress = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress
        case "deflate":
            decompress = _Deflate()
        case "br":
            process = brotli.Decompressor().process
            decompress = process if _BROTLI_IS_BOUNDED else _Sliced(process, _BROTLI_SLICE)
        case "zstd":
            decompress = _Sliced(_Zstd(), _ZSTD_SLICE)
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
    """State: how much may still come."""

    __slots__ = ("_at_once", "_decompress", "_left")

    def __init__(self, decompress: _Decompress, at_most: int, at_once: int) -> None:
        self._decompress = decompress
        self._left = at_most
        self._at_once = at_once

    def __call__(self, data: bytes) -> bytes:
        limit = min(self._left, self._at_once)
        try:
            decoded = self._decompress(data, limit + 1)
        except (zlib.error, brotli.error, zstandard.ZstdError) as e:
            raise EncodingError(str(e)) from None
        if len(decoded) > limit:
            raise TooMuchError(decoded)
        self._left -= len(decoded)
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


class _Zstd:
    """State: the frame that is being read. A body may have several (RFC 8878, 3)."""

    __slots__ = ("_frame",)

    def __init__(self) -> None:
        self._frame = zstandard.ZstdDecompressor().decompressobj()

    def __call__(self, data: bytes) -> bytes:
        decoded = b""
        while data:
            if self._frame.eof:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            decoded += self._frame.decompress(data)
            data = self._frame.unused_data if self._frame.eof else b""
        return decoded


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
