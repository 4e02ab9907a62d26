"""Requests that nobody means well with, drawn from a seed: what one sends who wants a proxy to break, to freeze, to
fill its memory, to forget, or to think ill of a provider."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Callable, Iterator

from support.raw import chat, request

Draw = Callable[[random.Random, str], bytes]
JSON = ("Content-Type", "application/json")


def _body(rng: random.Random, user: str = "stranger") -> bytes:
    name = rng.choice(["gpt-4o", "m" * rng.randint(1, 100_000), f"made-up-{rng.random()}"])
    return chat("http://x/v1", model=name, stream=rng.random() < 0.5, user=user).partition(b"\r\n\r\n")[2]


def _post(url: str, body: bytes, *fields: tuple[str, str]) -> bytes:
    return request(f"{url}/chat/completions", body, ("Authorization", "Bearer sk-stranger"), *fields)


def _bomb(rng: random.Random, url: str) -> bytes:
    unit = rng.choice([b"[],", b"{},", b"1,", b'"",', b"[[[]]],"])
    body = b'{"model":"m","messages":[{"file_id":"a"},' + unit * (6_000_000 // len(unit)) + b"0]}"
    name, packed = rng.choice([("gzip", gzip.compress(body, 1)), ("deflate", zlib.compress(body, 1))])
    return _post(url, packed, JSON, ("Content-Encoding", name))


def _values(rng: random.Random, url: str) -> bytes:
    unit = rng.choice([b"[],", b'"k":1,', b"[[]],", b'"\\"",'])
    return _post(url, b'{"model":"m","input":[' + unit * rng.randint(1, 60_000) + b"0]}", JSON)


def _nested(rng: random.Random, url: str) -> bytes:
    depth = rng.randint(1, 100_000)
    return _post(url, b'{"model":"m","file_id":' + b"[" * depth + b"]" * rng.randint(0, depth) + b"}", JSON)


def _unlike(rng: random.Random, url: str) -> bytes:
    body = _body(rng)
    return _post(
        url,
        rng.choice(
            [
                b"\xef\xbb\xbf" + body,
                body.decode().encode("utf-16"),
                body[:-1] + b',"model":"gpt-4o"}',
                body[:-1] + b',"x":NaN}',
                body[: rng.randint(0, len(body))],
                rng.randbytes(rng.randint(0, 5_000)),
            ]
        ),
        JSON,
    )


def _form(rng: random.Random, url: str) -> bytes:
    head = rng.choice(
        [b"content-disposition:" * rng.randint(1, 2_000), b'content-disposition: form-data; name="model"']
    )
    body = (b"--b\r\n" + head + b"\r\n\r\nm\r\n") * rng.randint(1, 20) + b"--b--"
    return request(f"{url}/audio/transcriptions", body, ("Content-Type", "multipart/form-data; boundary=b"))


def _fields(rng: random.Random, url: str) -> bytes:
    count = rng.randint(1, 800)
    names = rng.choice(["X-{}", "X-Auth-{}", "Cookie{}", "X-Ratelimit-Reset-{}"])
    return _post(url, _body(rng), JSON, *((names.format(i), "v" * rng.randint(0, 200)) for i in range(count)))


def _credential(rng: random.Random, url: str) -> bytes:
    forged = rng.choice(["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via", "X-Sidestep-Provider"])
    return _post(url, _body(rng), JSON, (forged, "127.0.0.1"), ("X-Api-Key", f"k-{rng.random()}"))


def _host(rng: random.Random, url: str) -> bytes:
    named = rng.choice(["keyed.test", "sidestep.internal", "h" * rng.randint(1, 100_000), f"{rng.random()}.test", ""])
    host = url.split("/", 3)[2].encode()
    return _post(url, _body(rng), JSON).replace(b"Host: " + host, b"Host: " + named.encode(), 1)


def _page(rng: random.Random, url: str) -> bytes:
    path = rng.choice(["", "health", "metrics", "../health", "health?" + "a" * rng.randint(0, 10_000)])
    return request(f"http://sidestep.internal/{path}", b"", method=rng.choice(["GET", "HEAD", "POST", "DELETE"]))


def _session(rng: random.Random, url: str) -> bytes:
    """What belongs to a conversation, or to who issued something: it is looked for elsewhere."""
    name = rng.choice(["resp_1", f"resp_{rng.random()}", "r" * 10_000])
    said = [{"role": role, "content": f"{rng.random()}"} for role in ("user", "assistant", "user")]
    path, told = rng.choice(
        [
            ("responses", {"model": "m", "input": "hi", "previous_response_id": name}),
            ("responses", {"model": "m", "input": [{"type": "reasoning", "id": name, "encrypted_content": name}]}),
            ("chat/completions", {"model": "m", "messages": said}),
        ]
    )
    return request(f"{url}/{path}", json.dumps(told).encode(), JSON, ("Traceparent", f"00-{'1' * 32}-{'2' * 16}-01"))


def _handshake(rng: random.Random, url: str) -> bytes:
    host = url.split("/", 3)[2]
    path = rng.choice(["realtime?model=m", "responses", "realtime?" + "model=a&" * 1_000])
    lines = [f"GET {url}/{path} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: upgrade"]
    return "\r\n".join(
        [*lines, "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="]
    ).encode() + (b"\r\n\r\n" + rng.randbytes(rng.randint(0, 200)))


def _framing(rng: random.Random, url: str) -> bytes:
    whole = _post(url, _body(rng), JSON)
    chunked = b"Transfer-Encoding: chunked\r\n" + rng.choice([b"", b"Content-Length: 3\r\n"])
    return rng.choice(
        [
            whole[: rng.randint(0, len(whole))],
            whole.replace(b"Content-Length: ", b"Content-Length: -", 1),
            whole.replace(b"Content-Length: ", b"Content-Length: 9", 1),
            whole.replace(b"HTTP/1.1", rng.choice([b"HTTP/1.0", b"HTTP/9.9", b"\0"]), 1),
            whole.replace(b"Authorization", chunked + b"Authorization", 1),
            whole * 3,
            rng.randbytes(rng.randint(1, 3_000)) + b"\r\n\r\n",
        ]
    )


def _answered_badly(rng: random.Random, url: str) -> bytes:
    """What the provider answers is bad for whoever believes it."""
    return _post(url, _body(rng, user=rng.choice(["429", "500", "401", "cut", "silent", "html", "limits"])), JSON)


KINDS: tuple[Draw, ...] = (
    *(_bomb, _values, _nested, _unlike, _form, _fields, _credential, _host, _page, _handshake, _framing, _session),
    *(_answered_badly, _answered_badly),
)


def hostile(seed: int, count: int, urls: tuple[str, ...]) -> Iterator[tuple[bytes, float | None]]:
    """Requests as they are sent, and after how many seconds their client leaves (None: once it is answered)."""
    rng = random.Random(seed)
    for i in range(count):
        sent = KINDS[i % len(KINDS)](rng, rng.choice(urls))
        yield sent, rng.choice([None, None, None, 0.0, 0.05])
