"""Circuits at work: a real mitmdump, real servers, JSON and streams."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from support.calls import Client
from support.provider import Behaviour, Provider, text_of
from support.proxy import Mitmdump
from support.raw import Wire, chat
from support.settings import config
from support.waiting import until

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]

NO_RETRY: dict[str, Any] = {"attempts": {"per_provider": 1, "wait_seconds": 0}}
BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
GOOD = Behaviour()
DOWN = Behaviour(status=503)


@BOTH
def test_all_circuits_open_is_a_503_at_once(stream: bool, provider: Make, proxy: Start) -> None:
    """With every circuit open the app gets a 503 in its dialect, a request id and Retry-After; nobody is asked."""
    a, b = provider("a"), provider("b")
    a.default = b.default = DOWN
    m = proxy(config("chat", a, b, circuit={"failure_threshold": 1, "open_seconds": 30}, **NO_RETRY))
    with Client(m) as app:
        first = app.call("chat", stream=stream)
        assert first.status == 503
        assert first.attempts == "a:503, b:503"
        asked = a.count + b.count
        refused = app.call("chat", stream=stream)
    assert isinstance(refused.error, openai.InternalServerError)
    assert refused.status == 503
    assert a.count + b.count == asked
    assert refused.headers["x-sidestep-request-id"].startswith("sx-")
    assert refused.headers["x-sidestep-attempts"] == ""
    assert 20 <= int(refused.headers["retry-after"]) <= 33
    message = str(refused.error)
    assert "a's circuit is open" in message
    assert "b's circuit is open" in message
    status, page = m.page("/health")
    assert status == 503
    assert json.loads(page)["status"] == "unhealthy"


@BOTH
def test_an_open_circuit_is_skipped(stream: bool, provider: Make, proxy: Start) -> None:
    """While the first provider's circuit is open the next one answers, and the first is not asked."""
    a, b = provider("a"), provider("b")
    a.default = DOWN
    m = proxy(config("chat", a, b, circuit={"failure_threshold": 1, "open_seconds": 30}, **NO_RETRY))
    with Client(m) as app:
        assert app.call("chat", stream=stream).attempts == "a:503, b:200"
        for _ in range(3):
            result = app.call("chat", stream=stream)
            assert result.text == text_of("b", GOOD)
            assert result.attempts == "b:200"
    assert a.count == 1
    assert m.provider("a")["state"] == "open"
    assert m.health()["status"] == "degraded"


@BOTH
def test_success_is_recorded(stream: bool, provider: Make, proxy: Start) -> None:
    """Each answered call is one success, and nothing stays out."""
    a = provider("a")
    m = proxy(config("chat", a))
    with Client(m) as app:
        for _ in range(3):
            assert app.call("chat", stream=stream).text == text_of("a", GOOD)
    status = m.provider("a")
    assert (status["successes"], status["failures"], status["permits_out"], status["in_flight"]) == (3, 0, 0, 0)
    assert 'sidestep_attempts_total{outcome="success",provider="a",reason="ok"} 3.0' in m.page("/metrics")[1].decode()


@BOTH
def test_failure_is_recorded_and_opens(stream: bool, provider: Make, proxy: Start) -> None:
    """Each 5xx is one failure; the third in a row opens the circuit."""
    a = provider("a")
    a.default = DOWN
    m = proxy(config("chat", a, **NO_RETRY))
    with Client(m) as app:
        for n in range(1, 4):
            assert app.call("chat", stream=stream).status == 503
            assert m.provider("a")["failure_count"] == n
    assert m.provider("a")["state"] == "open"


@BOTH
def test_4xx_about_the_request_never_counts(stream: bool, provider: Make, proxy: Start) -> None:
    """The app's own mistakes come back as they are, once each, and never open a circuit."""
    a, b = provider("a"), provider("b")
    m = proxy(config("chat", a, b, own=a, circuit={"failure_threshold": 1}))
    statuses = (400, 401, 403, 404, 405, 413, 415, 422, 451)
    with Wire(m) as wire:
        for status in statuses:
            a.default = Behaviour(status=status, body=b'{"error": {"message": "no"}}')
            got, _, body = wire.send(chat(a.url(), stream=stream)).answer()
            assert (got, body) == (status, a.default.body)
    assert (a.count, b.count) == (len(statuses), 0)
    health = m.provider("a")
    assert (health["state"], health["failures"], health["permits_out"]) == ("closed", 0, 0)


def test_a_stream_is_a_success_at_its_first_content(provider: Make, proxy: Start) -> None:
    """While a long stream still runs its permit is back and its success is counted."""
    a = provider("a")
    gate = threading.Event()
    a.default = Behaviour(gate=gate, gate_at=3)
    m = proxy(config("chat", a))
    with Client(m) as app:
        stream = app.openai.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        pieces = iter(stream)
        while not next(pieces).choices[0].delta.content:
            pass
        status = m.provider("a")
        assert (status["successes"], status["permits_out"], status["in_flight"]) == (1, 0, 1)
        gate.set()
        assert len(list(pieces)) > 2
    until(lambda: m.health()["in_flight"] == 0, "the attempt has ended")


def test_a_stream_that_breaks_after_content_is_a_failure(provider: Make, proxy: Start) -> None:
    """Three streams cut after content open the circuit, and each ends for the app in its SDK's own error."""
    a = provider("a")
    a.default = Behaviour(cut_after=3)
    m = proxy(config("chat", a))
    with Client(m) as app:
        for n in range(1, 4):
            result = app.call("chat", stream=True)
            assert isinstance(result.error, openai.APIError)
            assert result.text == "a w1 w2"
            assert m.provider("a")["failure_count"] == n
    assert m.provider("a")["state"] == "open"


def _half_open(m: Mitmdump, name: str) -> None:
    until(lambda: m.provider(name)["state"] == "half_open", f"{name} is half-open")


@BOTH
def test_half_open_lets_one_of_fifty_probe(stream: bool, provider: Make, proxy: Start) -> None:
    """Of fifty requests at once exactly one probes; the others are answered by the next provider."""
    a, b = provider("a"), provider("b")
    a.then(DOWN)
    m = proxy(config("chat", a, b, circuit={"failure_threshold": 1, "open_seconds": 0.3}, **NO_RETRY))
    with Client(m) as app:
        app.call("chat", stream=stream)
    _half_open(m, "a")
    gate = threading.Event()
    a.default = Behaviour(gate=gate)
    answered = threading.Semaphore(0)

    def call(_: int) -> str:
        with Client(m) as app:
            text = app.call("chat", stream=stream).text
        answered.release()
        return text

    with ThreadPoolExecutor(50) as pool:
        calls = [pool.submit(call, i) for i in range(50)]
        for _ in range(49):
            assert answered.acquire(timeout=30)
        assert a.count == 2
        assert m.provider("a")["state"] == "half_open"
        gate.set()
        texts = [c.result() for c in calls]
    assert sorted(texts) == [text_of("a", GOOD)] + [text_of("b", GOOD)] * 49
    assert m.provider("a")["state"] == "closed"


def test_with_no_other_provider_requests_wait_for_the_probe(provider: Make, proxy: Start) -> None:
    """While the only provider is being probed the others wait for the probe's result, then all are answered."""
    a = provider("a")
    a.then(DOWN)
    m = proxy(config("chat", a, circuit={"failure_threshold": 1, "open_seconds": 0.3}, **NO_RETRY))
    with Client(m) as app:
        app.call("chat", stream=False)
    _half_open(m, "a")
    gate = threading.Event()
    a.then(Behaviour(gate=gate))
    a.arrived = threading.Semaphore(0)

    def call(_: int) -> str:
        with Client(m) as app:
            return app.call("chat", stream=False).text

    with ThreadPoolExecutor(10) as pool:
        calls = [pool.submit(call, i) for i in range(10)]
        a.wait_for_request()
        assert a.count == 2
        gate.set()
        assert {c.result() for c in calls} == {text_of("a", GOOD)}


@BOTH
def test_a_probe_decides(stream: bool, provider: Make, proxy: Start) -> None:
    """A failed probe reopens the circuit, a successful one closes it."""
    a = provider("a")
    a.then(DOWN, DOWN)
    m = proxy(config("chat", a, circuit={"failure_threshold": 1, "open_seconds": 0.3}, **NO_RETRY))
    with Client(m) as app:
        assert app.call("chat", stream=stream).status == 503
        _half_open(m, "a")
        assert app.call("chat", stream=stream).status == 503
        assert m.provider("a")["state"] == "open"
        _half_open(m, "a")
        assert app.call("chat", stream=stream).text == text_of("a", GOOD)
    assert m.provider("a")["state"] == "closed"


@BOTH
@pytest.mark.parametrize("moment", ["before headers", "in held content"])
def test_a_client_that_hangs_up_mid_probe_leaks_nothing(
    stream: bool, moment: str, provider: Make, proxy: Start
) -> None:
    """The probe's place is free again at once, the circuit unchanged, and the next request may probe."""
    if moment == "in held content" and not stream:
        behaviour = Behaviour(headers_then_silent=True)
    elif moment == "in held content":
        behaviour = Behaviour(pings_only=True)
    else:
        behaviour = Behaviour(silent=True)
    a = provider("a")
    a.then(DOWN, behaviour)
    m = proxy(config("chat", a, own=a, circuit={"failure_threshold": 1, "open_seconds": 0.3}, **NO_RETRY))
    with Wire(m) as wire:
        assert wire.send(chat(a.url(), stream=stream)).answer()[0] == 503
    _half_open(m, "a")
    a.arrived = threading.Semaphore(0)
    with Wire(m) as wire:
        wire.send(chat(a.url(), stream=stream))
        probe = a.wait_for_request()
        assert m.provider("a")["permits_out"] == 1
        wire.reset()
    until(lambda: m.health()["in_flight"] == 0, "the probe is over")
    status = m.provider("a")
    assert (status["state"], status["permits_out"]) == ("half_open", 0)
    assert probe.client_left.wait(5), "the provider's request was not given up"
    with Wire(m) as wire:
        assert wire.send(chat(a.url(), stream=stream)).answer()[0] == 200
    assert m.provider("a")["state"] == "closed"
