"""Reads compressed bodies beside their way through, a piece at a time. What is sent on stays compressed.

Pure: no mitmproxy, no I/O. Decoded bytes are bounded by the caller, piece by piece.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import brotli  # type: ignore[import-untyped]
import zstandard

Decoder = Callable[[bytes], bytes]


class EncodingError(Exception):
    """Bytes are not in the content encoding that they claim."""


IDENTITY = frozenset({"", "identity"})


def decoder(content_encoding: str) -> Decoder | None:
    """An incremental decoder for a Content-Encoding; None if it is one that is not read here.

    The decoder raises EncodingError on bytes that are not in that encoding.
    """
    match content_encoding.strip().lower():
        case "" | "identity":
            return bytes
        case "gzip" | "x-gzip":
            return _guarded(zlib.decompressobj(zlib.MAX_WBITS | 16).decompress)
        case "deflate":
            return _Deflate()
        case "br":
            return _guarded(brotli.Decompressor().process)
        case "zstd":
            return _guarded(zstandard.ZstdDecompressor().decompressobj().decompress)
        case _:
            return None


def _guarded(decompress: Callable[[bytes], bytes]) -> Decoder:
    def decode(data: bytes) -> bytes:
        try:
            return decompress(data)
        except (zlib.error, brotli.error, zstandard.ZstdError) as e:
            raise EncodingError(str(e)) from None

    return decode


class _Deflate:
    """`deflate` is zlib by the standard (RFC 9110, 8.4.1.2) and raw deflate from some servers."""

    __slots__ = ("_decompress",)

    def __init__(self) -> None:
        self._decompress: Callable[[bytes], bytes] | None = None

    def __call__(self, data: bytes) -> bytes:
        if self._decompress is None:
            if not data:
                return b""
            wrapped = data[0] & 0x0F == 8
            self._decompress = zlib.decompressobj(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS).decompress
        return _guarded(self._decompress)(data)
