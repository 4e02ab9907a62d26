"""Compressed bodies: read at every cut, and never more of them than is bearable."""

from __future__ import annotations

import gzip
import random
import tracemalloc
import zlib
from collections.abc import Callable

import brotli  # type: ignore[import-untyped]
import pytest

from sidestep.calls import decoding
from sidestep.calls.decoding import EncodingError, TooMuchError, decoded_start, decoder
from support.encodings import zstd


def _raw_deflate(data: bytes) -> bytes:
    c = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return c.compress(data) + c.flush()


ENCODINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "zlib": ("deflate", zlib.compress),
    "raw deflate": ("deflate", _raw_deflate),
    "br": ("br", lambda data: brotli.compress(data, quality=3)),
    "zstd": ("zstd", zstd.compress),
}
NOISE = random.Random(7).randbytes(5000)
BODY = NOISE + b"data: {}\n\n" * 30_000 + NOISE


@pytest.fixture(params=ENCODINGS)
def encoding(request: pytest.FixtureRequest) -> tuple[str, Callable[[bytes], bytes]]:
    return ENCODINGS[request.param]


def _read(name: str, body: bytes, size: int) -> bytes:
    decode = decoder(name)
    assert decode is not None
    return b"".join(decode(body[at : at + size]) for at in range(0, len(body), size))


@pytest.mark.parametrize("size", [1, 7, 511, 4096, 1 << 20])
def test_any_cut_of_a_body_reads_the_same(encoding: tuple[str, Callable[[bytes], bytes]], size: int) -> None:
    name, compress = encoding
    assert _read(name, compress(BODY), size) == BODY


@pytest.mark.parametrize("size", [1, 512, 1 << 20])
def test_a_zstd_body_of_several_frames_is_one_body(size: int) -> None:
    frames = zstd.compress(b"one ") + zstd.compress(b"two ") + zstd.compress(NOISE)
    assert _read("zstd", frames, size) == b"one two " + NOISE


@pytest.mark.parametrize("size", [1, 512, 1 << 20])
@pytest.mark.parametrize("after", [b"", b"\0" * 100_000, b"garbage" * 20_000])
def test_a_gzip_body_of_several_members_is_one_body_whatever_follows_it(size: int, after: bytes) -> None:
    members = gzip.compress(b"one ") + gzip.compress(b"") + gzip.compress(NOISE)
    assert _read("gzip", members + after, size) == b"one " + NOISE


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_endless_members_are_not_read_without_end(encoding: str) -> None:
    empty = {"gzip": gzip.compress(b""), "zstd": zstd.compress(b"")}[encoding]
    decode = decoder(encoding)
    assert decode is not None
    with pytest.raises(TooMuchError):
        decode(empty * (decoding.MAX_MEMBERS + 1))


def test_what_is_no_compressed_body_is_said_to_be_none(encoding: tuple[str, Callable[[bytes], bytes]]) -> None:
    decode = decoder(encoding[0])
    assert decode is not None
    with pytest.raises(EncodingError):
        decode(b"<html>" * 200)


def test_exactly_the_bound_is_read_and_a_byte_more_is_not(encoding: tuple[str, Callable[[bytes], bytes]]) -> None:
    name, compress = encoding
    body = compress(BODY)
    decode = decoder(name, at_most=len(BODY))
    assert decode is not None
    assert decode(body) == BODY
    decode = decoder(name, at_most=len(BODY) - 1)
    assert decode is not None
    with pytest.raises(TooMuchError):
        decode(body)


def test_the_bound_holds_over_many_pieces(encoding: tuple[str, Callable[[bytes], bytes]]) -> None:
    name, compress = encoding
    body = compress(BODY)
    decode = decoder(name, at_most=len(BODY) // 2)
    assert decode is not None
    pieces = [body[at : at + 100] for at in range(0, len(body), 100)]
    with pytest.raises(TooMuchError):
        b"".join(map(decode, pieces))


def test_one_piece_has_a_bound_of_its_own(encoding: tuple[str, Callable[[bytes], bytes]]) -> None:
    name, compress = encoding
    decode = decoder(name, at_once=1000)
    assert decode is not None
    with pytest.raises(TooMuchError):
        decode(compress(BODY))


def test_a_bomb_takes_no_memory(encoding: tuple[str, Callable[[bytes], bytes]]) -> None:
    _takes_no_memory(*encoding)


def test_a_bomb_takes_no_memory_where_brotli_knows_no_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_BROTLI_IS_BOUNDED", False)
    _takes_no_memory("br", lambda data: brotli.compress(data, quality=3))


def _takes_no_memory(name: str, compress: Callable[[bytes], bytes]) -> None:
    """All of it in one go, and nothing but the bound and what one slice can become is there of it."""
    bomb = compress(bytes(128 << 20))
    tracemalloc.start()
    try:
        decode = decoder(name, at_most=1 << 20)
        assert decode is not None
        with pytest.raises(TooMuchError):
            decode(bomb)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert len(decoded_start(name, bomb)) < 64 << 20


@pytest.mark.parametrize("size", [10, 1 << 20])
def test_few_bytes_become_little(encoding: tuple[str, Callable[[bytes], bytes]], size: int) -> None:
    """However they come: a megabyte, and for each byte what such bytes become that mean something."""
    name, compress = encoding
    bomb = compress(bytes(20 << 20))
    decode = decoder(name)
    assert decode is not None
    sizes: list[int] = []
    with pytest.raises(TooMuchError) as raised:
        sizes.extend(len(decode(bomb[at : at + size])) for at in range(0, len(bomb), size))
    read = sum(sizes) + len(raised.value.read)
    assert read <= decoding.FREE_BYTES + decoding.DECODED_PER_BYTE * len(bomb) + (16 << 20 if name == "br" else 1)
    some = bytes(decoding.FREE_BYTES)
    assert _read(name, compress(some), size) == some


def test_a_stream_that_was_compressed_whole_is_read(encoding: tuple[str, Callable[[bytes], bytes]]) -> None:
    """Nothing that is compressed becomes more of itself than that, but for what says nothing."""
    name, compress = encoding
    draw = random.Random(7)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 7))) for _ in range(1000)]
    head = b'data: {"id":"chatcmpl-9xyzABCDEFGHIJ","object":"chat.completion.chunk","created":1700000000,"choices":'
    rest = b'[{"index":0,"delta":{"content":" %s"},"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
    stream = b"".join(head + rest % draw.choice(words).encode() for _ in range(20_000))
    assert len(stream) > 3 * decoding.FREE_BYTES
    assert _read(name, compress(stream), 1000) == stream


def test_the_start_of_what_cannot_be_read_is_itself() -> None:
    assert decoded_start("", b"plain") == b"plain"
    assert decoded_start("x-unknown", b"whatever") == b"whatever"
    assert decoded_start("gzip", b"no gzip") == b"no gzip"
    assert decoded_start("gzip", gzip.compress(b"text")) == b"text"
