"""Credentials stay put: strings that nothing else holds appear nowhere that they must not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from mitmproxy import io

from support.calls import APP_KEY, OFFICIAL, Client
from support.provider import Behaviour, Provider
from support.proxy import Mitmdump
from support.raw import Wire, chat
from support.settings import key_of, route, table

APIS = ("chat", "responses", "messages", "gemini")
Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]


def test_no_credential_gets_out(provider: Make, proxy: Start, tmp_path: Path) -> None:
    """After failures of every kind, in all dialects, own provider included, each key was seen by its host only."""
    own, a, b = provider("own"), provider("a"), provider("b")
    echo = {"message": f"Incorrect API key provided: {key_of('a')}", "code": "invalid_api_key"}
    failures = [
        Behaviour(status=503),
        Behaviour(status=500, body=f"<html>{key_of('a')}</html>".encode()),
        Behaviour(status=401, message=echo["message"], code="invalid_api_key"),
        Behaviour(status=429),
        Behaviour(status=402, message=f"no money for {key_of('a')}"),
        Behaviour(status=400, message=f"bad request with {key_of('a')}"),
        Behaviour(status=404, message=f"not here, {key_of('a')}"),
        Behaviour(reset=True),
        Behaviour(silent=True),
        Behaviour(cut_after=2),
        Behaviour(stall_after=2),
        Behaviour(error_after=2, message=f"died with {key_of('a')}"),
        Behaviour(error_after=0, message=f"died with {key_of('a')}"),
        Behaviour(malformed_at=2),
        Behaviour(body=b"<html>nope</html>", headers={"content-type": "text/html"}),
        Behaviour(),
    ]
    texts = [
        table("circuit", {"failure_threshold": 2, "open_seconds": 0.05}),
        table("timeouts", {"first_byte": 0.3, "headers": 0.3, "first_content": 0.3, "idle": 0.3}),
        table("attempts", {"backoff_seconds": 0.01, "wait_seconds": 0.2}),
        route("chat", own, a, own=own, suffix="o"),
        route("chat", a, b, suffix="c"),
        route("messages", a, b, suffix="m"),
        route("gemini", a, b, suffix="g"),
    ]
    saved = tmp_path / "saved.mitm"
    m = proxy("\n".join(texts), "-w", str(saved), "--set", "termlog_verbosity=debug", "--set", "flow_detail=4")
    m.may_complain = True  # mitmproxy's own view of a body that is no JSON
    answers: list[str] = []
    with Client(m) as app, Client(m, {"openai": own.url()}) as own_app:
        for failure in failures:
            for failing, other in (({own, a}, {b}), ({a, b}, {own})):
                for p in failing:
                    p.default = failure
                for p in other:
                    p.default = Behaviour()
                for stream in (False, True):
                    for caller, api in [*((app, api) for api in APIS), (own_app, "chat")]:
                        with suppress(AttributeError, ValueError):  # a page of HTML is what the app would read
                            result = caller.call(api, stream=stream)
                            answers += [str(result.error), repr(result.headers), result.text]
            with Wire(m) as wire:
                answers.append(repr(wire.send(chat(OFFICIAL["openai"], key=APP_KEY)).answer()))
        pages = [m.page(path)[1] for path in ("/", "/health", "/metrics")]
    m.stop()
    canaries = {"app": APP_KEY, "a": key_of("a"), "b": key_of("b")}
    with saved.open("rb") as f:
        assert len([flow for flow in io.FlowReader(f).stream() if "sidestep" in flow.metadata]) > 100
    places = {
        "log": m.log.encode(),
        "flow file": saved.read_bytes(),
        "answers": "\n".join(answers).encode(),
        "pages": b"\n".join(pages),
    }
    for where, text in places.items():
        for whose, canary in canaries.items():
            at = text.find(canary.encode())
            assert at < 0, (f"the key of {whose} is in the {where}", text[max(0, at - 300) : at + 40])
    for p, allowed in ((own, "app"), (a, "a"), (b, "b")):
        assert p.requests
        for seen in p.requests:
            for whose, canary in canaries.items():
                if whose != allowed:
                    assert canary.encode() not in seen.raw_head + seen.body
    assert any(APP_KEY.encode() in seen.raw_head for seen in own.requests)


@pytest.mark.parametrize("status", [200, 400, 500])
def test_a_head_that_repeats_our_key_does_not_reach_the_app(provider: Make, proxy: Start, status: int) -> None:
    """A field or a reason phrase with our key in it is left out, whatever the status."""
    a = provider("a")
    key, body = key_of("a").encode(), b'{"choices":[{"message":{"content":"x"}}]}'
    head = b"HTTP/1.1 %d %s\r\nx-echo: Bearer %s\r\nx-other: 1\r\ncontent-length: %d\r\n\r\n"
    a.default = Behaviour(raw=head % (status, key, key, len(body)) + body)
    m = proxy(route("chat", a, intercept="http://app.test/v1"))
    with Wire(m) as wire:
        data = wire.send(chat("http://app.test/v1")).until(b"\r\n\r\n")
    assert data.startswith(b"HTTP/1.1 %d" % status)
    assert b"x-other" in data
    assert key not in data


@pytest.mark.parametrize("status", [400, 500])
def test_a_long_error_that_repeats_our_key_is_withheld(provider: Make, proxy: Start, status: int) -> None:
    """An error too long to be held whole is looked through as far as it was held."""
    a = provider("a")
    a.default = Behaviour(status=status, body=b'{"error":"bad key %s"}' % key_of("a").encode() + b" " * (3 << 20))
    m = proxy(route("chat", a, intercept="http://app.test/v1"))
    with Wire(m) as wire:
        for _ in range(2):
            got, _, answer = wire.send(chat("http://app.test/v1")).answer()
            assert got == status
            assert key_of("a").encode() not in answer
            assert b'"error"' in answer
