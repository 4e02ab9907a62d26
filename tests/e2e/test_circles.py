"""A request that leads back to the proxy's own port, by whatever spelling, goes round once: mitmproxy alone would ask
itself until there are no sockets left, and a web page can send such a request."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.provider import Behaviour, Provider, text_of
from support.proxy import Mitmdump
from support.raw import Wire, chat
from support.settings import config
from support.waiting import until

SPELT = ["127.1", "0.0.0.0", "2130706433", "0x7f.1"]
FORMS = {
    "origin": "GET /x HTTP/1.1\r\nHost: {there}\r\n\r\n",
    "absolute": "GET http://{there}/x HTTP/1.1\r\nHost: {there}\r\n\r\n",
    "tunnel": "CONNECT {there} HTTP/1.1\r\nHost: {there}\r\n\r\n",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("host", SPELT)
def test_it_goes_round_once(
    host: str, form: str, provider: Callable[..., Provider], proxy: Callable[..., Mitmdump]
) -> None:
    a = provider("a")
    m = proxy(config("chat", a))
    with Wire(m) as wire:
        there = f"{host}:{m.port}"
        wire.send(FORMS[form].format(there=there).encode())
        if form == "tunnel":
            wire.head()
            wire.send(f"GET /x HTTP/1.1\r\nHost: {there}\r\n\r\n".encode())
        assert wire.head()[0] in (400, 502)
    until(lambda: m.log.count("client disconnect") == m.log.count("client connect"), "no connection is left")
    assert m.log.count("client connect") <= 3  # the first looks whether the proxy listens
    with Wire(m) as wire:
        status, _, body = wire.send(chat("https://api.openai.com/v1")).answer()
    assert (status, text_of("a", Behaviour()).encode() in body) == (200, True)
