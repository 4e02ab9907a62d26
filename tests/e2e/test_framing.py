"""On the app's connection one answer follows another: none begins inside another, no provider speaks out of turn."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from support.h2client import H2Client, said
from support.h2provider import H2Provider
from support.provider import Behaviour, Provider, text_of
from support.proxy import Mitmdump
from support.raw import Wire, chat, request
from support.settings import key_of, route, table

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]
APP_KEY = "sk-app-CANARY-0123456789"
QUICK = table("attempts", {"per_provider": 1, "backoff_seconds": 0.01}) + table("circuit", {"failure_threshold": 1000})
GOOD = Behaviour()


def settings(own: Provider, b: Provider, commit: str = "first_content") -> str:
    """b is asked before the one that the app addressed."""
    return (
        QUICK
        + table("stream", {"commit": commit})
        + f'[[providers]]\nname = "b"\ndialect = "openai"\nbase_url = "{b.url()}"\napi_key = "{key_of("b")}"\n'
        + f'[[providers]]\nname = "own"\ndialect = "openai"\nbase_url = "{own.url()}"\n'
        + f'[[routes]]\nintercept = ["{own.url()}"]\nproviders = ["b", "own"]\n'
    )


def event(text: str) -> bytes:
    return b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % text.encode()


END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
LURE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
"""What would be read as the answer to the next request."""
MALFORMED = b"data: {no\n\n"


def answer(body: bytes, *fields: str, length: int | None = None) -> Behaviour:
    lines = ["HTTP/1.1 200 OK", "content-type: text/event-stream", *fields]
    lines.append(f"content-length: {len(body) if length is None else length}")
    return Behaviour(raw="\r\n".join(lines).encode() + b"\r\n\r\n" + body, stall=True)


FRAMED = {
    "an event that is left out": answer(event("one") + MALFORMED + event("two") + END),
    "several": answer(MALFORMED + event("one") + MALFORMED * 50 + event("two") + END + MALFORMED),
    "the last one": answer(event("one") + END + MALFORMED[:-2]),
    "as long as an answer": answer(event("one") + b"data: {" + LURE.replace(b"\r\n", b"_") + b"\n\n" + END),
    "compressed": answer(gzip.compress(event("one") + event("two") + END), "content-encoding: gzip"),
    "compressed, with one that is left out": answer(
        gzip.compress(event("one") + MALFORMED + event("two") + END), "content-encoding: gzip"
    ),
    "compressed in two": answer(gzip.compress(event("one")) + gzip.compress(END), "content-encoding: gzip"),
    "compressed, and something after it": answer(gzip.compress(event("one") + END) + LURE, "content-encoding: gzip"),
    "more than its length": answer(event("one") + END + LURE, length=len(event("one") + END)),
    "an error in it": answer(event("one") + b'data: {"error":{"message":"no"}}\n\n' + LURE),
}


@pytest.mark.parametrize("commit", ["first_content", "complete"])
def test_an_answer_is_as_long_as_it_says(commit: str, provider: Make, proxy: Start, subtests: pytest.Subtests) -> None:
    """Whatever was left out of it or unpacked: the answer after it is that of the next request, or there is none."""
    own, b = provider("own"), provider("b")
    m = proxy(settings(own, b, commit))
    for name, behaviour in FRAMED.items():
        with subtests.test(name), Wire(m, timeout=10) as wire:
            b.then(behaviour)
            wire.send(chat(own.url(), stream=True, key=APP_KEY))
            try:
                status, fields, body = wire.answer()
            except EOFError:
                continue  # cut, because nothing else could end it
            assert (status, fields["x-sidestep-provider"]) in ((200, "b"), (200, "own"))
            if "content-encoding" in fields:
                body = gzip.decompress(body.partition(LURE)[0])
            assert b"one" in body or text_of("own", GOOD).split()[0].encode() in body
            status, fields, body = wire.send(chat(own.url(), key=APP_KEY, user=name)).answer()
            assert (status, fields["x-sidestep-provider"]) == (200, "b")
            assert text_of("b", GOOD).encode() in body
            wire.sock.settimeout(0.05)
            with pytest.raises(TimeoutError):
                wire.rest()


SWITCHES = {
    "a 101": b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    "a 101 with an answer behind it": b"HTTP/1.1 101 Go on\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n" + LURE,
    "a 101 without fields": b"HTTP/1.1 101 x\r\n\r\n",
    "a 101 after others": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\n\r\nHTTP/1.1 101 x\r\n\r\n",
    "a 101 with a length": b"HTTP/1.1 101 x\r\ncontent-length: 5\r\n\r\nhello",
    "a 099": b"HTTP/1.1 099 x\r\n\r\n",
    "a 000": b"HTTP/1.1 000 x\r\ncontent-length: 2\r\n\r\n{}",
    "another protocol": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" * 20 + b"\r\n\r\n",
}


ENDLESS = {
    "a compressed stream": ("chat/completions", "text/event-stream", "content-encoding: gzip", event("one")),
    "sound": ("audio/speech", "audio/mpeg", "x-a: b", b"\xff\xfb" * 600_000 + b"and this is the end of it"),
    "a document": ("chat/completions", "application/json", "x-a: b", b"[" + b"x" * 12_000_000 + b"this is the end"),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_what_breaks_off_is_seen_to_where_only_the_connection_ends_it(what: str, provider: Make, proxy: Start) -> None:
    """A body without a length and without chunks is whole where its connection ends well: so it does not."""
    a = provider("a")
    path, kind, field, body = ENDLESS[what]
    if "gzip" in field:
        packed = zlib.compressobj(wbits=31)
        body = packed.compress(body) + packed.flush(zlib.Z_SYNC_FLUSH)
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n{field}\r\nconnection: close\r\n\r\n"
    a.default = Behaviour(raw=head.encode() + body, stall=True)
    m = proxy(QUICK + table("timeouts", {"idle": 0.5}) + route("chat", a, intercept="http://app.test/v1"))
    asked = json.dumps({"model": "m", "input": "x", "voice": "v", "stream": "gzip" in field, "messages": []}).encode()
    with Wire(m) as wire:
        wire.send(request(f"http://app.test/v1/{path}", asked, ("Content-Type", "application/json")))
        got = wire.until(body[-20:])
        with pytest.raises(ConnectionResetError):
            wire.until(b"no more comes")
    assert b"a:200" in got


@pytest.mark.parametrize("stream", [False, True])
def test_nobody_switches_protocols_of_a_call(
    stream: bool, provider: Make, proxy: Start, subtests: pytest.Subtests
) -> None:
    """A stand-in that says so has failed; what the app sends next is a request of its own, and not that stand-in's."""
    own, b = provider("own"), provider("b")
    m = proxy(settings(own, b))
    for name, raw in SWITCHES.items():
        with subtests.test(name), Wire(m, timeout=10) as wire:
            b.then(Behaviour(raw=raw, stall=True))
            before = b.count
            for turn in range(2):
                status, fields, _ = wire.send(chat(own.url(), stream=stream, key=APP_KEY)).answer()
                assert (status, fields["x-sidestep-provider"]) == (200, ("own", "b")[turn])
            assert b.count == before + 2
            assert all(APP_KEY.encode() not in seen.raw_head + seen.body for seen in b.requests)


def test_the_apps_own_provider_switches_nothing_either(provider: Make, proxy: Start) -> None:
    """Where it is the only one, the app is told that it gave no answer, and its connection is as it was."""
    own = provider("own")
    text = f'[[providers]]\nname = "own"\ndialect = "openai"\nbase_url = "{own.url()}"\n'
    m = proxy(QUICK + text + f'[[routes]]\nintercept = ["{own.url()}"]\nproviders = ["own"]\n')
    with Wire(m, timeout=10) as wire:
        for raw in SWITCHES.values():
            own.then(Behaviour(raw=raw, stall=True))
            assert wire.send(chat(own.url())).answer()[0] == 502
            assert wire.send(chat(own.url())).answer()[0] == 200


@pytest.fixture
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize("stream", [False, True])
def test_over_http2(stream: bool, ca: trustme.CA, provider: Make, proxy: Start, tmp_path: Path) -> None:
    """An app that speaks HTTP/2, before stand-ins of either version: the other streams of its connection go on."""
    path = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    first = provider("b")
    with H2Provider("c", ca) as second:
        text = QUICK + route("chat", first, second, intercept="https://own.test/v1")
        m = proxy(text, "--set", f"ssl_verify_upstream_trusted_ca={path}")
        with H2Client(m, "own.test") as app:
            for raw in SWITCHES.values():
                first.then(Behaviour(raw=raw, stall=True))
                numbers = [app.chat(stream=stream) for _ in range(3)]
                answers = [app.answer(number) for number in numbers]
                assert [said(a) for a in answers].count(text_of("c", GOOD)) == 1
                assert [said(a) for a in answers].count(text_of("b", GOOD)) == 2
            for status in (101, 102, 199):
                first.then(Behaviour(status=500))
                second.then(Behaviour(raw=b"HTTP/1.1 %d x\r\n\r\n" % status + LURE))
                answer = app.answer(app.chat(stream=stream))
                assert (answer.status, answer.body) != (200, b"{}")
                assert said(app.answer(app.chat())) == text_of("b", GOOD)
    assert all(APP_KEY.encode() not in seen.raw_head for seen in first.requests + second.requests)
