"""What can be odd about a request. Each leaves it one that a provider answers, byte for byte as it was sent."""

from __future__ import annotations

import gzip
import random
import zlib

import brotli  # type: ignore[import-untyped]

from support.encodings import zstd
from support.recipes import WIRES, Recipe

_COMPRESS = {
    "gzip": lambda body: gzip.compress(body, mtime=0),
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstd.compress,
}
_FIELDS = {
    "unknown field": b'"x_new": {"deep": [1, null, true, "\\ud83d"]}',
    "large": b'"metadata": {"x": "' + b"y" * 400_000 + b'"}',
    "numbers": b'"temperature": 1.0, "top_p": 1e-1, "seed": 123456789012345678901234567890',
    "NaN": b'"x_score": NaN',
    "two of a name": b'"user": "a", "user": "b"',
}
_HEADERS = {
    "odd headers": [
        ("X-EMPTY", ""),
        ("x-twice", "1"),
        ("X-Twice", "2"),
        ("anthropic-beta", "a-2025-01-01,b"),
        ("OpenAI-Beta", "assistants=v2"),
        ("Cookie", "a=1; b=2"),
        ("X-Goog-Api-Client", "genai/1 gl-python/3.12"),
        ("X-Latin", "\xe9"),
    ],
    "no encoding": [("Accept-Encoding", "identity")],
    "closes": [("Connection", "close")],
    "expects": [("Expect", "100-continue")],
    "range": [("Range", "bytes=0-9"), ("If-None-Match", '"x"')],
}


def request(r: Recipe, rng: random.Random) -> str:
    names = [*_COMPRESS, *_FIELDS, *_HEADERS, "chunked", "HTTP/1.0", "HEAD", "GET"]
    name = rng.choice(names)
    is_json = r.request_type == "application/json" and r.method == "POST"
    if r.wire != WIRES[0] and name in ("expects", "closes", "chunked", "HTTP/1.0", "odd headers"):
        return "plain"  # HTTP/2 knows none of these, and puts cookies and names into a form of its own
    match name:
        case "HEAD" | "GET" if r.framing != "trailers":
            r.asking.method = name
        case "chunked" if r.method == "POST":
            r.asking.chunked = True
        case "HTTP/1.0":
            r.asking.version = "1.0"
        case _ if name in _COMPRESS and r.method == "POST":
            r.asking.encode = _COMPRESS[name]
            r.asking.headers.append(("Content-Encoding", name))
        case _ if name in _FIELDS and is_json:
            r.asking.fields = _FIELDS[name]
        case _ if name in _HEADERS:
            r.asking.headers += _HEADERS[name]
        case _:
            return "plain"
    return name
