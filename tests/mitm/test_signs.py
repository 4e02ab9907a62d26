"""What an app sees of an answer that is slow to begin: as soon as its own watchdog could care, and bound to nobody."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest

from support.driver import Driver
from support.world import toml

MESSAGES = b'{"model":"m","messages":[{"role":"user","content":"hi"}]%s}'
GOOD = b'{"id":"c","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"hi"}}]}'
ROLE = b'data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
WORDS = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'
END = b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
LIFE = b": keep-alive\n\n"
LAST = b"0\r\n\r\n"


def _call(*, stream: bool, version: bytes = b"1.1") -> bytes:
    body = MESSAGES % (b',"stream":true' if stream else b"")
    return (
        b"POST http://app.test/v1/chat/completions HTTP/%s\r\nHost: app.test\r\nAuthorization: Bearer app-key-0123\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (version, len(body), body)
    )


def _head(kind: bytes, *more: bytes, status: bytes = b"200") -> bytes:
    fields = b"".join(f + b"\r\n" for f in (b"Content-Type: " + kind, *more, b"Transfer-Encoding: chunked"))
    return b"HTTP/1.1 " + status + b" OK\r\n" + fields + b"\r\n"


EVENTS, DOCUMENT = _head(b"text/event-stream"), _head(b"application/json")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _parted(sent: bytes) -> tuple[bytes, bytes]:
    """Head and body of what the app was sent so far."""
    head, _, rest = sent.partition(b"\r\n\r\n")
    body = b""
    while rest and rest != LAST:
        size, _, rest = rest.partition(b"\r\n")
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return head.lower(), body


@pytest.fixture
def driver() -> Driver:
    return Driver(toml("priority", "attempts = { per_provider = 1 }", a="", b=""))


@pytest.fixture
def alone() -> Driver:
    return Driver(toml("priority", "attempts = { per_provider = 1 }", a=""))


@pytest.mark.parametrize(
    "begun", [b"", _chunk(ROLE), _chunk(b"\n"), _chunk(b"da")], ids=["head", "role", "blank", "half"]
)
def test_silence_after_the_head_of_a_stream(begun: bytes, driver: Driver) -> None:
    """The app gets a head and one sign of life after five seconds, and another provider can still answer."""
    driver.says(driver.client, _call(stream=True))
    driver.says(driver.servers[0], EVENTS + begun)
    driver.passes(4.8)
    assert driver.answer() == b""
    driver.passes(0.3)
    head, body = _parted(told := driver.answer())
    assert (head[:12], body) == (b"http/1.1 200", LIFE)
    driver.passes(5)
    assert driver.answer() == b""  # what its provider keeps to itself is no sign
    driver.leaves(driver.servers[0])
    driver.says(driver.servers[1], EVENTS + _chunk(ROLE + WORDS) + _chunk(END) + LAST)
    _, body = _parted(told + driver.answer())
    assert body == LIFE + ROLE + WORDS + END


def _told_then_refused(driver: Driver, body: bytes) -> bytes:
    """What an app is sent whose first provider has given a head and no word, and whose second refuses its request."""
    driver.says(driver.client, _call(stream=True))
    driver.says(driver.servers[0], EVENTS)
    driver.passes(5.1)
    driver.leaves(driver.servers[0])
    head = b"HTTP/1.1 400 no\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    driver.says(driver.servers[1], head + body)
    return _parted(driver.answer())[1]


def test_a_refusal_after_a_head_was_told(driver: Driver) -> None:
    """Its status cannot be told any more, its words can."""
    error = {"message": "messages: it must not be empty", "type": "invalid_request_error", "code": None}
    sent = _told_then_refused(driver, json.dumps({"error": error}).encode())
    life, _, event = sent.partition(LIFE)
    told = json.loads(event.removeprefix(b"data: "))["error"]
    assert (life, told["type"]) == (b"", "invalid_request_error")
    assert told["message"] == "sidestep: b answered 400: messages: it must not be empty"


@pytest.mark.parametrize("body", [b"", b'{"error":{"message":"your key %s"}}' % b"k-of-b-0123456789"])
def test_a_refusal_that_cannot_be_repeated(body: bytes) -> None:
    """Because it says nothing, or too much: the trail says what was tried."""
    driver = Driver(
        toml("priority", "attempts = { per_provider = 1 }", a="", b="").replace('"k"', '"k-of-b-0123456789"')
    )
    sent = _told_then_refused(driver, body)
    assert b"no provider gave an answer: a:bad_response, b:400" in sent
    assert b"0123456789" not in sent


def test_a_large_first_event_that_comes_in_many_pieces(driver: Driver) -> None:
    """It is no reason for as many signs, but for some."""
    driver.says(driver.client, _call(stream=True))
    driver.says(driver.servers[0], EVENTS + _chunk(b'data: {"choices":[{"index":0,"delta":{"content":"'))
    for _ in range(40):
        driver.passes(0.1)
        driver.says(driver.servers[0], _chunk(b"x" * 10_000))
    assert 3 <= _parted(driver.answer())[1].count(LIFE) <= 5


def test_a_stream_that_has_begun_to_flow_gets_no_sign(driver: Driver) -> None:
    driver.says(driver.client, _call(stream=True))
    driver.says(driver.servers[0], EVENTS + _chunk(ROLE + WORDS))
    driver.answer()
    driver.passes(5.1)
    assert driver.answer() == b""


@pytest.mark.parametrize("encoding", [b"", b"gzip"])
def test_silence_after_the_head_of_a_document(encoding: bytes, driver: Driver) -> None:
    """The app gets the head, and then the document of whoever has one, in the form that the head tells."""
    driver.says(driver.client, _call(stream=False))
    driver.says(driver.servers[0], DOCUMENT)
    driver.passes(5.1)
    told = driver.answer()
    assert _parted(told) == (told[:-4].lower(), b"")
    driver.leaves(driver.servers[0])
    packed = gzip.compress(GOOD, mtime=0) if encoding else GOOD
    head = _head(b"application/json", *([b"Content-Encoding: gzip"] if encoding else []))
    driver.says(driver.servers[1], head + _chunk(packed) + LAST)
    head, body = _parted(told + driver.answer())
    assert (body, b"content-encoding" in head) == (GOOD, False)


def test_nobody_left_after_the_head_of_a_document(alone: Driver) -> None:
    """What cannot be told any more is cut: no answer ever looks complete."""
    alone.says(alone.client, _call(stream=False))
    alone.says(alone.servers[0], DOCUMENT)
    alone.passes(5.1)
    assert alone.answer()
    alone.leaves(alone.servers[0])
    assert alone.answer() == b""
    assert alone.client in alone.closed


def test_a_document_that_comes_slowly(driver: Driver) -> None:
    """It is let go as it comes, length and all, and judged at its end: a broken one is its provider's failure."""
    driver.says(driver.client, _call(stream=False))
    length = b"Content-Length: %d\r\n" % len(GOOD)
    driver.says(
        driver.servers[0], b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + length + b"\r\n" + GOOD[:9]
    )
    driver.passes(1.9)
    driver.says(driver.servers[0], GOOD[9:20])
    assert driver.answer() == b""
    driver.passes(0.2)
    driver.says(driver.servers[0], GOOD[20:30])
    sent = driver.answer()
    assert sent.endswith(b"\r\n\r\n" + GOOD[:30])
    assert b"\r\n" + length.lower() in sent.lower()
    driver.says(driver.servers[0], GOOD[30:])
    assert driver.answer() == GOOD[30:]
    assert driver.hooks[-1] == "response"
    assert _outcomes(driver) == ["success"]


BROKEN = b'{"error":{"message":"the provider behind it has failed","code":502}}'


@pytest.mark.parametrize(("seconds", "encoding"), [(1.9, b""), (3, b""), (7, b""), (1.9, b"gzip"), (4.8, b"gzip")])
def test_a_document_that_comes_late_is_judged(seconds: float, encoding: bytes, driver: Driver) -> None:
    """However long after its head: what is no answer goes to another provider."""
    driver.says(driver.client, _call(stream=False))
    packed = gzip.compress(BROKEN, mtime=0) if encoding else BROKEN
    length = b"Content-Length: %d\r\n" % len(packed) + (b"Content-Encoding: gzip\r\n" if encoding else b"")
    driver.says(driver.servers[0], b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + length + b"\r\n")
    driver.passes(seconds)
    driver.says(driver.servers[0], packed[:20])
    driver.passes(0.1)
    driver.says(driver.servers[0], packed[20:])
    driver.says(driver.servers[1], DOCUMENT + _chunk(GOOD) + LAST)
    assert _parted(driver.answer())[1] == GOOD
    assert _outcomes(driver) == ["failure"]


def test_a_document_that_comes_after_blanks_is_judged(driver: Driver) -> None:
    driver.says(driver.client, _call(stream=False))
    driver.says(driver.servers[0], DOCUMENT)
    for _ in range(8):
        driver.passes(1)
        driver.says(driver.servers[0], _chunk(b"\n"))
    told = driver.answer()
    driver.says(driver.servers[0], _chunk(BROKEN) + LAST)
    driver.says(driver.servers[1], DOCUMENT + _chunk(GOOD) + LAST)
    assert _parted(told + driver.answer())[1].lstrip() == GOOD


def test_blanks_in_a_content_encoding_are_no_document(driver: Driver) -> None:
    """They are let go as they come, as signs of life."""
    driver.says(driver.client, _call(stream=False))
    driver.says(driver.servers[0], _head(b"application/json", b"Content-Encoding: gzip"))
    packer = zlib.compressobj(wbits=31)
    sent = b""
    for _ in range(3):
        driver.passes(1)
        sent += (piece := packer.compress(b"\n") + packer.flush(zlib.Z_SYNC_FLUSH))
        driver.says(driver.servers[0], _chunk(piece))
    assert _parted(driver.answer())[1] == sent


def test_a_document_that_was_let_go_and_is_none(driver: Driver) -> None:
    driver.says(driver.client, _call(stream=False))
    driver.says(driver.servers[0], DOCUMENT + _chunk(b'{"choices":'))
    driver.passes(2.1)
    driver.says(driver.servers[0], _chunk(b" []}") + LAST)
    assert _parted(driver.answer())[1] == b'{"choices": []}'
    assert _outcomes(driver) == ["failure"]


def test_a_document_that_is_let_go_and_cut(driver: Driver) -> None:
    driver.says(driver.client, _call(stream=False))
    driver.says(driver.servers[0], DOCUMENT + _chunk(GOOD[:9]))
    driver.passes(2.1)
    driver.says(driver.servers[0], _chunk(GOOD[9:20]))
    assert _parted(driver.answer())[1] == GOOD[:20]
    driver.leaves(driver.servers[0])
    assert driver.client in driver.closed
    assert _outcomes(driver) == ["failure"]


def test_silence_in_a_content_encoding(driver: Driver) -> None:
    """Nothing can be put before what is compressed: it is let go, with the head that it came with."""
    driver.says(driver.client, _call(stream=True))
    packed = gzip.compress(ROLE + WORDS + END, mtime=0)
    driver.says(driver.servers[0], _head(b"text/event-stream", b"Content-Encoding: gzip"))
    driver.passes(5.1)
    told = driver.answer()
    assert b"content-encoding: gzip" in told.lower()
    driver.says(driver.servers[0], _chunk(packed) + LAST)
    assert _parted(told + driver.answer())[1] == packed


@pytest.mark.parametrize(
    "document",
    [GOOD, b'{"error":{"message":"blocked by our content policy","code":"content_filter"}}', b'{"choices":[]}'],
    ids=["answer", "refusal", "hollow"],
)
def test_a_document_in_place_of_a_stream_whose_head_was_told(document: bytes, alone: Driver) -> None:
    """What its own head announced may follow it, whatever it is."""
    alone.says(alone.client, _call(stream=True))
    alone.says(alone.servers[0], DOCUMENT)
    alone.passes(5.1)
    told = alone.answer()
    alone.says(alone.servers[0], _chunk(document) + LAST)
    assert _parted(told + alone.answer())[1] == LIFE + document


@pytest.mark.parametrize(("status", "version"), [(b"203", b"1.1"), (b"200", b"1.0")])
def test_a_head_that_is_told_only_with_what_follows(status: bytes, version: bytes, driver: Driver) -> None:
    """Another status than 200 is its provider's own, and an old app knows no chunks: the answer is let go."""
    driver.says(driver.client, _call(stream=True, version=version))
    driver.says(driver.servers[0], _head(b"text/event-stream", status=status) + _chunk(ROLE))
    driver.passes(5.1)
    sent = driver.answer()
    assert sent.split(b" ")[1] == status
    assert ROLE in sent


def _outcomes(driver: Driver) -> list[str]:
    """How the calls to `a` have ended."""
    a = driver.engine.settings.providers[0]
    assert not driver.engine.in_flight
    found = [c.snapshot(driver.now) for c in driver.engine.circuits_of_models(a).values()]
    return [w for s in found for w in ("success",) * s.successes + ("failure",) * s.failures]
