"""Bytes as nobody means them, drawn from a random generator: what fuzzing makes of good ones."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

from support.odd import ODD

TOKENS = (
    *(b"\0", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\n\n", b" ", b"\t", b"\xff", b"\xef\xbb\xbf", b"\xe2\x80\xa8"),
    *(b'"', b"\\", b"\\u0000", b"\\ud800", b"{", b"}", b"[", b"]", b"[" * 300, b",", b":", b"null", b"NaN", b"-"),
    *(b"data: ", b"data:", b"event: ", b"event: error\n", b": ", b"[DONE]", b"retry: 1\n", b"id: \0\n"),
    *(b"1" * 30, b"1e999", b"-1", b"0", b"%", b"%00", b"%2e%2e", b"..", b"/", b"?", b"#", b"&", b"=", b";", b"@"),
    *(b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd", b'"error"', b'"type":"error"', b'"model":"x",', b'"id":"resp_1",'),
    *(b"0\r\n\r\n", b"ffffffffffffffff\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 3\r\n"),
    *(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"<html>", b"x" * 5_000, b"\n" * 2_000),
)


def garbled(rng: random.Random, data: bytes, most: int = 4) -> bytes:
    """Up to so many changes: of bits, bytes, slices, with tokens that mean something to somebody."""
    for _ in range(rng.randint(0, most)):
        at = rng.randint(0, len(data))
        to = min(len(data), at + rng.choice([1, 1, 2, 7, 60, 1_000]))
        match rng.randrange(8):
            case 0 | 1 | 2:
                data = data[:at] + rng.choice(TOKENS) + data[at:]
            case 3 if data:
                at = min(at, len(data) - 1)
                data = data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
            case 4:
                data = data[:at] + data[to:]
            case 5:
                data = data[:to] + data[at:to] * rng.choice([1, 1, 20]) + data[to:]
            case 6:
                data = data[:at] + rng.randbytes(rng.randint(1, 12)) + data[to:]
            case _ if rng.random() < 0.3:
                data = data[:at]
    return data


def odd_json(rng: random.Random, value: Any) -> bytes:
    """JSON with an odd value or two in it."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    for _ in range(rng.randint(0, 2)):
        places = [*_places(value)]
        value = _put(value, rng.choice(places), "@odd@")
        text = json.dumps(value).replace('"@odd@"', rng.choice(ODD), 1)
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            break
    return text.encode("utf-8", "surrogatepass")


def _places(value: Any, path: tuple[Any, ...] = ()) -> Any:
    yield path
    if len(path) < 12 and isinstance(value, dict):
        for key, inner in value.items():
            yield from _places(inner, (*path, key))
    elif len(path) < 12 and isinstance(value, list):
        for at, inner in enumerate(value):
            yield from _places(inner, (*path, at))


def _put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    first, *rest = path
    if isinstance(value, dict):
        return {k: _put(v, tuple(rest), new) if k == first else v for k, v in value.items()}
    return [_put(v, tuple(rest), new) if at == first else v for at, v in enumerate(value)]


def pieces(rng: random.Random, data: bytes) -> list[bytes]:
    """Cut up as a network may."""
    match rng.randrange(4):
        case 0:
            return [data]
        case 1 if len(data) <= 3_000:
            return [data[i : i + 1] for i in range(len(data))]
        case _:
            cuts = sorted(rng.randint(0, len(data)) for _ in range(rng.randint(1, 12)))
            return [data[a:b] for a, b in itertools.pairwise([0, *cuts, len(data)])]
