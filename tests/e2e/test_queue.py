"""Requests that wait inside mitmproxy, which makes five connections to an address and no more for one client."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from support.h2client import H2Client
from support.provider import Behaviour, Provider, text_of
from support.proxy import Mitmdump
from support.settings import route, table
from support.waiting import until


def test_a_request_that_waits_for_a_connection_is_bounded_and_blames_nobody(
    provider: Callable[..., Provider], proxy: Callable[..., Mitmdump]
) -> None:
    """Five streams hold the five connections to the only provider: the sixth call ends with an error when its time is
    over. The five go on undisturbed, and so does what comes after them."""
    a = provider("a")
    gate = threading.Event()
    flowing = Behaviour(gate=gate, gate_at=2)
    a.default = flowing
    text = table("attempts", {"total_seconds": 1}) + route("chat", a, intercept="https://row0.test/v1")
    m = proxy(text)
    with H2Client(m, "row0.test", timeout=10) as app:
        holding = [app.chat(stream=True) for _ in range(5)]
        for number in holding:
            app.until(number, b" w1")
        began = time.monotonic()
        late = app.answer(app.chat())
        assert 0.9 < time.monotonic() - began < 4
        assert late.status in (502, 503, 504), late
        assert b'"error"' in late.body
        a.default = Behaviour()
        gate.set()
        for number in holding:
            assert text_of("a", flowing).encode().split()[-1] in app.answer(number).body
        again = app.answer(app.chat())
        assert (again.status, again.headers["x-sidestep-provider"]) == (200, "a")
    until(lambda: m.health()["in_flight"] == 0, "nothing is under way")
    status = m.provider("a")
    assert (status["failures"], status["permits_out"]) == (0, 0)
    assert a.count == 6
