"""`wait_for_reset_seconds`: calls that are held until a limit ends, and apps that do not give up meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from support.calls import DIALECT, Client
from support.h2client import H2Client, said
from support.provider import Behaviour, Provider, text_of
from support.proxy import Mitmdump
from support.raw import Wire, chat
from support.settings import route, table
from support.vendors import USED_UP
from support.waiting import until

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]
APP = "http://app.test/v1"
HOSTS = {"openai": APP, "anthropic": "http://app.test", "gemini": "http://app.test"}
HOLDS = table("attempts", {"wait_seconds": 0, "wait_for_reset_seconds": 60})
SECONDS = 7
"""A limit that outlasts a read timeout of 6 s, and the 5 s between two signs of life."""
LIMITED = Behaviour(status=429, headers={"retry-after": str(SECONDS)})


@pytest.mark.parametrize("api", ["chat", "messages", "gemini"])
def test_an_app_with_a_short_read_timeout_sees_it_through(api: str, provider: Make, proxy: Start) -> None:
    """Both the call that meets the limit, and one that comes while it holds."""
    a = provider("a")
    a.then(LIMITED)
    dialect = DIALECT[api]
    m = proxy(HOLDS + route(api, a, intercept=HOSTS[dialect]))
    began = time.monotonic()
    results = []

    def call() -> None:
        with Client(m, {dialect: HOSTS[dialect]}, timeout=6) as app:
            results.append(app.call(api, stream=True))

    first = threading.Thread(target=call)
    first.start()
    until(lambda: a.count == 1, "the limit is known")
    call()
    first.join(20)
    assert time.monotonic() - began > SECONDS - 1
    assert [(r.error, r.text) for r in results] == [(None, text_of("a", Behaviour()))] * 2
    assert a.count == 3
    assert "a call waits" in m.log


def test_a_whole_call_gets_its_answer_with_status_and_headers(provider: Make, proxy: Start) -> None:
    a, b = provider("a"), provider("b")
    soon = Behaviour(status=429, headers={"retry-after": "2"})
    a.then(soon)
    b.then(Behaviour(status=429, headers={"retry-after": "9"}))
    m = proxy(HOLDS + route("chat", a, b, intercept=APP))
    with Wire(m) as wire:
        status, headers, _ = wire.send(chat(APP)).answer()
    assert (status, headers["x-sidestep-attempts"]) == (200, "a:429, b:429, a:200")


@pytest.mark.parametrize(("api", "dialect"), [("messages", "anthropic"), ("responses", "openai"), ("gemini", "gemini")])
def test_the_window_of_a_plan_is_waited_for_by_the_call_that_finds_it_used_up(
    api: str, dialect: str, provider: Make, proxy: Start
) -> None:
    a, b = provider("a"), provider("b")
    m = proxy(HOLDS + route(api, a, b, intercept=HOSTS[dialect]))
    a.then(USED_UP[dialect](time.time() + 4))
    b.then(USED_UP[dialect](time.time() + 900))
    with Client(m, {dialect: HOSTS[dialect]}, timeout=20) as app:
        result = app.call(api, stream=False)
    assert (result.error, result.attempts) == (None, "a:429, b:429, a:200")


def test_without_it_the_app_is_told_at_once(provider: Make, proxy: Start) -> None:
    a = provider("a")
    a.default = LIMITED
    m = proxy(table("attempts", {"wait_seconds": 0}) + route("chat", a, intercept=APP))
    with Wire(m) as wire:
        status, headers, _ = wire.send(chat(APP, stream=True)).answer()
    assert (status, headers["retry-after"]) == (429, str(SECONDS))


def test_what_fails_in_the_end_is_told_in_band(provider: Make, proxy: Start) -> None:
    """The head has gone out."""
    a = provider("a")
    a.then(LIMITED)
    a.default = Behaviour(status=400, message="no such field")
    m = proxy(HOLDS + route("chat", a, intercept=APP))
    with Wire(m) as wire:
        status, _, body = wire.send(chat(APP, stream=True)).answer()
    assert status == 200
    assert (b'"error"' in body, b"a answered 400: no such field" in body) == (True, True), body
    assert a.count == 2


def test_another_that_gets_well_ends_the_wait(provider: Make, proxy: Start) -> None:
    a, b = provider("a"), provider("b")
    a.then(Behaviour(status=429, headers={"retry-after": "50"}))
    circuit = {"failure_threshold": 1, "open_seconds": 1}
    m = proxy(HOLDS + table("circuit", circuit) + route("chat", a, b, intercept=APP))
    b.then(Behaviour(status=503), Behaviour(status=503))
    began = time.monotonic()
    with Wire(m) as wire:
        status, headers, _ = wire.send(chat(APP)).answer()
        assert status == 503 or headers["x-sidestep-provider"] == "b"
        status, headers, _ = wire.send(chat(APP, user="another")).answer()
    assert (status, headers["x-sidestep-provider"]) == (200, "b")
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("leaves", ["the connection", "the stream"])
def test_an_app_that_leaves_ends_the_wait(leaves: str, provider: Make, proxy: Start) -> None:
    a = provider("a")
    a.default = Behaviour(status=429, headers={"retry-after": "50"})
    if leaves == "the connection":
        m = proxy(HOLDS + route("chat", a, intercept=APP))
        with Wire(m) as wire:
            wire.send(chat(APP, stream=True))
            until(lambda: "a call waits" in m.log, "it is held")
    else:
        m = proxy(HOLDS + route("chat", a, intercept="https://app.test/v1"))
        with H2Client(m, "app.test") as client:
            number = client.chat(stream=True)
            until(lambda: "a call waits" in m.log, "it is held")
            client.cancel(number)
            until(lambda: m.health()["in_flight"] == 0, "nothing waits")
            a.default = Behaviour()
            m.health()
    until(lambda: m.health()["in_flight"] == 0, "nothing waits")
    assert a.count == 1


def test_over_http_2_as_well(provider: Make, proxy: Start) -> None:
    a = provider("a")
    a.then(LIMITED)
    m = proxy(HOLDS + route("chat", a, intercept="https://app.test/v1"))
    with H2Client(m, "app.test") as client:
        answer = client.answer(client.chat(stream=True))
    assert (answer.status, said(answer)) == (200, text_of("a", Behaviour()))
