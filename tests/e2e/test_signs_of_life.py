"""An app that waits sees that its answer is being made, and is bound to no provider by that."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.calls import SDK_ERROR, Client
from support.provider import Behaviour, Provider, text_of
from support.proxy import Mitmdump
from support.raw import Wire, chat
from support.settings import inline, route, table

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]
APP = "http://app.test/v1"
PATIENCE = 4.0
"""Seconds after which `a`, which only pings, is given up; its signs of life are passed on from 2 s on."""
HOSTS = {
    "chat": {"openai": APP},
    "responses": {"openai": APP},
    "messages": {"anthropic": "http://app.test"},
    "gemini": {"gemini": "http://app.test"},
}


def _start(proxy: Start, a: Provider, b: Provider, api: str) -> Mitmdump:
    intercept = next(iter(HOSTS[api].values()))
    extra = {"a": inline(timeouts={"first_content": PATIENCE})}
    return proxy(
        "\n".join([table("attempts", {"backoff_seconds": 0.01}), route(api, a, b, intercept=intercept, extra=extra)])
    )


@pytest.mark.parametrize("api", HOSTS)
def test_another_provider_answers_an_app_that_has_seen_signs_of_life(api: str, provider: Make, proxy: Start) -> None:
    """The SDK reads one good stream, though the app's read timeout is shorter than the wait."""
    a, b = provider("a"), provider("b")
    a.default = Behaviour(pings_only=True)
    m = _start(proxy, a, b, api)
    with Client(m, HOSTS[api], timeout=3) as app:
        result = app.call(api, stream=True)
    assert result.error is None
    assert (result.text, b.count) == (text_of("b", Behaviour()), 1)
    assert result.headers["x-sidestep-attempts"] == "a:200"


@pytest.mark.parametrize("api", HOSTS)
def test_with_no_answer_at_all_the_sdk_raises_its_own_error(api: str, provider: Make, proxy: Start) -> None:
    """The head has gone out: an error's status cannot follow, an error event can."""
    a, b = provider("a"), provider("b")
    a.default, b.default = Behaviour(pings_only=True), Behaviour(status=503)
    m = _start(proxy, a, b, api)
    with Client(m, HOSTS[api], timeout=3) as app:
        result = app.call(api, stream=True)
    assert isinstance(result.error, SDK_ERROR[api])
    assert (result.text, b.count) == ("", 2)


def test_no_head_goes_out_while_no_provider_has_given_one(provider: Make, proxy: Start) -> None:
    """Silence is no sign: the app gets the status of the provider that answers."""
    a, b = provider("a"), provider("b")
    a.default, b.default = Behaviour(silent=True), Behaviour(status=400)
    extra = {"a": inline(timeouts={"first_byte": 3})}
    m = proxy(route("chat", a, b, intercept=APP, extra=extra))
    with Wire(m) as wire:
        status, headers, _ = wire.send(chat(APP, stream=True)).answer()
    assert (status, headers["x-sidestep-attempts"]) == (400, "a:timeout, b:400")


BODY = b'{"id":"c","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"late"}}]}'


def _blanks(server: socket.socket, over: threading.Event) -> None:
    """Answers one call with blanks, for as long as the app has not seen any, and then with a document."""
    client, _ = server.accept()
    with client:
        client.recv(65536)
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")
        while not over.wait(0.2):
            client.sendall(b"\n")
        client.sendall(BODY)


def test_blanks_before_a_document_are_signs_of_life(proxy: Start) -> None:
    """A whole answer of a provider that keeps its client waiting with blanks comes as it would have come."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        answering = threading.Thread(target=_blanks, args=(server, over))
        answering.start()
        base = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        text = f'[[providers]]\nname = "a"\ndialect = "openai"\nbase_url = "{base}"\nauth = "none"\n'
        m = proxy(text + f'[[routes]]\nintercept = ["{APP}"]\nproviders = ["a"]\n')
        with Wire(m) as wire:
            wire.send(chat(APP))
            status, headers = wire.head()
            wire.peek(b"\n")
            over.set()
            assert (status, headers["transfer-encoding"], headers["x-sidestep-provider"]) == (200, "chunked", "a")
            assert BODY in wire.until(b"0\r\n\r\n")
        answering.join()


EACH_ITS_OWN = {
    "openai": "http://openai.test/v1",
    "anthropic": "http://anthropic.test",
    "gemini": "http://gemini.test",
}
API_OF = {"openai": "chat", "anthropic": "messages", "gemini": "gemini"}


def _all_wait(proxy: Start, *providers: Provider, seconds: float, patience: float) -> None:
    """Every SDK waits for the content of one stream, by default settings; none may be without a byte for longer than
    `patience`."""
    m = proxy("".join(route(API_OF[d], *providers, intercept=u, suffix=f"-{d}") for d, u in EACH_ITS_OWN.items()))

    def ask(api: str) -> tuple[str, float, Exception | None, str]:
        began = time.monotonic()
        with Client(m, EACH_ITS_OWN, timeout=patience) as app:
            result = app.call(api, stream=True)
        return api, time.monotonic() - began, result.error, result.text

    with ThreadPoolExecutor(len(HOSTS)) as pool:
        for api, took, error, text in pool.map(ask, HOSTS):
            assert (api, error, text) == (api, None, text_of("a", Behaviour()))
            assert seconds <= took < 1.1 * seconds + 3, api  # each ping comes a little later than its second
    assert [p.count for p in providers] == [len(HOSTS), *[0] * (len(providers) - 1)]
    assert m.health()["in_flight"] == 0


def test_watchdogs_survive_a_wait_of_8_s_with_pings(provider: Make, proxy: Start) -> None:
    """A read timeout of 4 s, a ping each second: the app's own provider answers, as without Sidestep."""
    a, b = provider("a"), provider("b")
    a.default = Behaviour(pings=8)
    _all_wait(proxy, a, b, seconds=8, patience=4)


slow = pytest.mark.skipif(os.environ.get("SIDESTEP_SLOW") != "1", reason="takes over a minute: SIDESTEP_SLOW=1")


@slow
def test_watchdogs_survive_a_wait_of_60_s_with_pings(provider: Make, proxy: Start) -> None:
    signal.alarm(150)
    a, b = provider("a"), provider("b")
    a.default = Behaviour(pings=60)
    _all_wait(proxy, a, b, seconds=60, patience=4)


@slow
def test_a_watchdog_of_20_s_survives_60_s_of_rare_pings(provider: Make, proxy: Start) -> None:
    """As Claude Code's, where nobody else could be asked: each ping comes when it came."""
    signal.alarm(150)
    a = provider("a")
    a.default = Behaviour(pings=4, ping_seconds=15)
    _all_wait(proxy, a, seconds=60, patience=20)
