"""Calls of which it is not known what they ask for: they go where the app sent them, with the app's own credential."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from support.h2client import H2Client
from support.h2provider import H2Provider
from support.provider import Behaviour, Provider
from support.proxy import Mitmdump
from support.raw import Wire, request
from support.settings import key_of

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]
APP = "Bearer sk-app"
JSON = ("Content-Type", "application/json")
GOOD = b'{"model":"gpt-4o","messages":[]}'
PART = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n'

UNREAD: dict[str, tuple[bytes, tuple[tuple[str, str], ...]]] = {
    "a byte order mark": (b"\xef\xbb\xbf" + GOOD, (JSON,)),
    "UTF-16": (GOOD.decode().encode("utf-16"), (("Content-Type", "application/json; charset=utf-16"),)),
    "NaN": (b'{"model":"gpt-4o","messages":[],"temperature":NaN}', (JSON,)),
    "a doubled model": (b'{"model":"gpt-4o","messages":[],"model":"gpt-5-pro"}', (JSON,)),
    "a doubled model, spelled": (b'{"model":"gpt-4o","messages":[],"mod\\u0065l":"gpt-5-pro"}', (JSON,)),
    "a doubled model, in capitals": (b'{"model":"gpt-4o","messages":[],"MODEL":"gpt-5-pro"}', (JSON,)),
    "a model that is no name": (b'{"model":["gpt-4o"],"messages":[]}', (JSON,)),
    "no JSON": (b"model=gpt-4o", (JSON,)),
    "nothing": (b"", ()),
    "an unknown encoding": (GOOD, (JSON, ("Content-Encoding", "compress"))),
    "two encodings": (gzip.compress(gzip.compress(GOOD)), (JSON, ("Content-Encoding", "gzip, gzip"))),
    "not in its encoding": (GOOD, (JSON, ("Content-Encoding", "gzip"))),
    "a bomb": (gzip.compress(GOOD[:-1] + b" " * (20 << 20) + b"}"), (JSON, ("Content-Encoding", "gzip"))),
    "too many values": (b'{"model":"gpt-4o","messages":[' + b"[]," * 200_000 + b"[]]}", (JSON,)),
    "a doubled field of a form": (
        PART + PART.replace(b"\nm", b"\nn") + b"--b--",
        (("Content-Type", "multipart/form-data; boundary=b"),),
    ),
}


def settings(base: str, own: str, b: Provider) -> str:
    return (
        f'[[providers]]\nname = "own"\ndialect = "openai"\nbase_url = "{base}"\n{own}'
        f'[[providers]]\nname = "b"\ndialect = "openai"\nbase_url = "{b.url()}"\napi_key = "{key_of("b")}"\n'
        f'only = ["gpt-4o"]\nmodels = {{ "gpt-4o" = "mine" }}\n'
        f'[[routes]]\nintercept = ["{base}"]\nproviders = ["b", "own"]\n'
    )


@pytest.mark.parametrize("own_key", ["", f'api_key = "{key_of("own")}"\n'])
def test_it_goes_home_as_it_is(own_key: str, provider: Make, proxy: Start, subtests: pytest.Subtests) -> None:
    """Past whoever would be first, to whom the app addressed it, without a key of ours; home's answer is the app's, and
    says nothing of home to other calls."""
    own, b = provider("own"), provider("b")
    m = proxy(settings(own.url(), own_key, b))
    url = f"{own.url()}/chat/completions"
    before = m.health()
    for name, (body, fields) in UNREAD.items():
        with subtests.test(name), Wire(m) as wire:
            for behaviour in (Behaviour(), Behaviour(status=500), Behaviour(status=429, headers={"retry-after": "99"})):
                own.then(behaviour)
                status, got, _ = wire.send(request(url, body, ("Authorization", APP), *fields)).answer()
                assert (status, "x-sidestep-provider" in got) == (behaviour.status, False)
                seen = own.requests[-1]
                assert (seen.body, seen.header("authorization")) == (body, APP)
                assert seen.header("content-encoding") == dict(fields).get("Content-Encoding")
    assert own.count == 3 * len(UNREAD)
    assert b.count == 0
    assert m.health() == before
    with Wire(m) as wire:
        assert wire.send(request(url, GOOD, ("Authorization", APP), JSON)).answer()[1]["x-sidestep-provider"] == "b"
    assert b.requests[0].json["model"] == "mine"


def test_or_nowhere(provider: Make, proxy: Start, subtests: pytest.Subtests) -> None:
    """Where nothing answers at the address, as without Sidestep."""
    own, b = provider("own"), provider("b")
    m = proxy(settings("http://own.test/v1", "", b))
    for name, (body, fields) in UNREAD.items():
        with subtests.test(name), Wire(m) as wire:
            sent = request("http://own.test/v1/chat/completions", body, ("Authorization", APP), *fields)
            assert wire.send(sent).answer()[0] == 502
    assert (own.count, b.count) == (0, 0)
    said = [line for line in m.lines if "goes where the app sent it" in line]
    assert len(said) == len(set(said)) > 3, "each reason once"
    assert not [line for line in said if "gpt" in line]


def test_over_http2(ca: trustme.CA, provider: Make, proxy: Start, tmp_path: Path) -> None:
    """The same for an app that speaks HTTP/2, beside calls that are answered elsewhere."""
    path = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    b = provider("b")
    with H2Provider("own", ca) as own:
        m = proxy(settings(own.url(), "", b), "--set", f"ssl_verify_upstream_trusted_ca={path}")
        with H2Client(m, own.host, own.port) as client:
            numbers = []
            for body, fields in UNREAD.values():
                lower = [(name.lower(), value) for name, value in fields]
                length = ("content-length", str(len(body)))
                numbers.append(client.send("/v1/chat/completions", body, ("authorization", APP), length, *lower))
            good = client.chat()
            answers = [client.answer(number) for number in numbers]
            assert client.answer(good).headers["x-sidestep-provider"] == "b"
        assert [answer.status for answer in answers] == [200] * len(UNREAD)
        assert sorted(seen.body for seen in own.requests) == sorted(body for body, _ in UNREAD.values())
        assert {seen.header("authorization") for seen in own.requests} == {APP}
    assert b.count == 1


@pytest.fixture
def ca() -> trustme.CA:
    return trustme.CA()


def test_a_head_that_is_longer_than_any_calls(provider: Make, proxy: Start) -> None:
    """It is not looked into, and nothing of it is kept."""
    own, b = provider("own"), provider("b")
    m = proxy(settings(own.url(), "", b))
    own.default = Behaviour(body=json.dumps({"ok": True}).encode())
    heads: list[tuple[str, tuple[tuple[str, str], ...]]] = [
        ("", tuple((f"X-{i}", "a") for i in range(600))),
        ("", (("X-" + "a" * 300, "a"),)),
        ("?" + "a&" * 33_000, ()),
        ("", (("X-A", "a" * 60_000),)),
    ]
    for query, fields in heads:
        sent = request(f"{own.url()}/chat/completions{query}", GOOD, ("Authorization", APP), JSON, *fields)
        with Wire(m) as wire:
            status, got, _ = wire.send(sent).answer()
        # The last one is not too long.
        elsewhere = fields[:1] == heads[-1][1]
        assert (status, got.get("x-sidestep-provider")) == ((200, "b") if elsewhere else (status, None))
    assert b.count == 1


def test_its_answer_flows(provider: Make, proxy: Start) -> None:
    """Whether it asked for a stream is not known, nor in which form: a JSON array that comes piece by piece."""
    own, b = provider("own"), provider("b")
    m = proxy(settings(own.url(), "", b))
    gate = threading.Event()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    own.then(Behaviour(raw=head + b"5\r\n[1, 2\r\n", gate=gate, rest=b"3\r\n, 3\r\n1\r\n]\r\n0\r\n\r\n"))
    with Wire(m) as wire:
        wire.send(request(f"{own.url()}/chat/completions", GOOD[:-1] + b',"user":"a","user":"b"}', JSON)).head()
        assert wire.until(b"2\r\n") == b"5\r\n[1, 2\r\n"
        gate.set()
        assert wire.until(b"\r\n0\r\n\r\n").endswith(b"]\r\n0\r\n\r\n")
