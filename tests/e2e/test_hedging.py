"""A provider that accepts a call and says nothing costs an app little: another one is asked beside it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trustme

from support.calls import Client
from support.h2client import H2Client, said
from support.h2provider import H2Provider
from support.provider import Behaviour, Provider, Seen, text_of
from support.proxy import Mitmdump
from support.raw import Wire, chat
from support.settings import route, table
from support.waiting import until

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]
APP = "http://app.test/v1"
HOSTS = {
    "chat": {"openai": APP},
    "responses": {"openai": APP},
    "messages": {"anthropic": "http://app.test"},
    "gemini": {"gemini": "http://app.test"},
}
SOON = {"after_seconds": 0.4}
SILENCES = {
    "before the head": Behaviour(silent=True),
    "after the head": Behaviour(headers_then_silent=True),
}


def start(proxy: Start, api: str, *providers: Provider, options: tuple[str, ...] = (), **tables: Any) -> Mitmdump:
    intercept = next(iter(HOSTS[api].values()))
    given = {"hedge": SOON, **tables}
    return proxy(
        "\n".join([*(table(n, t) for n, t in given.items()), route(api, *providers, intercept=intercept)]), *options
    )


def in_flight(m: Mitmdump) -> int:
    found: int = m.health()["in_flight"]
    return found


@pytest.mark.parametrize("silence", SILENCES)
@pytest.mark.parametrize("api", HOSTS)
def test_a_silent_provider_is_overtaken(api: str, silence: str, provider: Make, proxy: Start) -> None:
    a, b = provider("a"), provider("b")
    a.default = SILENCES[silence]
    m = start(proxy, api, a, b)
    with Client(m, HOSTS[api], timeout=20) as app:
        result = app.call(api, stream=True)
    assert (result.error, result.text) == (None, text_of("b", Behaviour()))
    assert (result.provider, result.attempts) == ("b", "a:slow, b:200")
    assert a.requests[0].client_left.wait(5), "the late attempt still runs"
    until(lambda: in_flight(m) == 0, "every attempt is over")
    assert m.health()["providers"]["a"]["state"] == "closed"


def test_over_http_2_only_its_stream_is_reset(provider: Make, proxy: Start, tmp_path: Path) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with H2Provider("a", ca) as a, H2Provider("b", ca) as b:
        a.default = Behaviour(silent=True)
        text = "\n".join([table("hedge", SOON), route("chat", a, b, intercept="https://app.test/v1")])
        m = proxy(text, "--set", f"ssl_verify_upstream_trusted_ca={tmp_path / 'ca.pem'}")
        with H2Client(m, "app.test") as app:
            answer = app.answer(app.chat(stream=True))
            assert (answer.headers["x-sidestep-attempts"], said(answer)) == ("a:slow, b:200", text_of("b", Behaviour()))
            assert a.requests[0].client_left.wait(5)
            a.default = Behaviour()
            assert app.answer(app.chat(stream=True)).headers["x-sidestep-attempts"] == "a:200"
        assert a.connections == 1


def test_what_is_usual_is_learnt_and_a_hang_costs_little_more(provider: Make, proxy: Start) -> None:
    """Whole answers too, of which nothing is late before some were seen; by default a second is the least."""
    a, b = provider("a"), provider("b")
    m = start(proxy, "chat", a, b, hedge={"after_seconds": 30})
    with Client(m, HOSTS["chat"], timeout=20) as app:
        for stream in (True, False):
            for _ in range(25):
                assert app.call("chat", stream=stream).provider == "a"
            a.script.append(Behaviour(silent=True))
            began = time.monotonic()
            result = app.call("chat", stream=stream)
            assert (result.error, result.attempts) == (None, "a:slow, b:200")
            assert 0.9 < time.monotonic() - began < 3
    (streamed, whole) = sorted(m.health()["providers"]["a"]["usual_first_content"], key=lambda u: not u["streamed"])
    assert (streamed["streamed"], whole["streamed"], streamed["model"]) == (True, False, "gpt-4o")


def test_when_all_are_slow_the_budget_holds_and_no_circuit_opens(provider: Make, proxy: Start) -> None:
    a, b = provider("a"), provider("b")
    m = start(proxy, "chat", a, b, hedge={"after_seconds": 0.2})

    a.default = b.default = Behaviour(delay=0.5)

    def call(_: int) -> bool:
        with Client(m, HOSTS["chat"], timeout=20) as app:
            return all(app.call("chat", stream=True).error is None for _ in range(6))

    with ThreadPoolExecutor(10) as pool:
        assert all(pool.map(call, range(10)))
    providers = m.health()["providers"]
    assert [providers[name]["state"] for name in ("a", "b")] == ["closed", "closed"]
    assert a.count + b.count - 60 <= 3 + 0.05 * 60


def test_a_brown_out_of_both_is_waited_out(provider: Make, proxy: Start) -> None:
    """Both become much slower than what was learnt, also where a busy machine has made that seem slow: few are asked
    twice, all answered, no circuit opens."""
    a, b = provider("a"), provider("b")
    drawn = random.Random(1)

    def slower(times: float) -> Callable[[Seen], Behaviour]:
        return lambda _: Behaviour(delay=times * drawn.uniform(0.1, 0.2))

    m = start(proxy, "chat", a, b, hedge={"after_seconds": 10})
    a.chooser = b.chooser = slower(1)

    def call(count: int) -> bool:
        with Client(m, HOSTS["chat"], timeout=20) as app:
            return all(app.call("chat", stream=True).error is None for _ in range(count))

    with ThreadPoolExecutor(20) as pool:
        assert all(pool.map(call, [2] * 20))
        assert (a.count, b.count) == (40, 0)
        a.chooser = b.chooser = slower(30)
        assert all(pool.map(call, [2] * 20))
    until(lambda: in_flight(m) == 0, "every attempt is over")
    assert 40 + 40 < a.count + b.count <= 40 + 40 + 3 + 0.05 * 40
    assert {name: p["state"] for name, p in m.health()["providers"].items()} == {"a": "closed", "b": "closed"}
    assert [line for line in m.lines if "is not asked for" in line] == []


def test_an_app_that_leaves_ends_both(provider: Make, proxy: Start) -> None:
    a, b = provider("a"), provider("b")
    a.default = b.default = Behaviour(silent=True)
    m = start(proxy, "chat", a, b)
    wire = Wire(m)
    wire.send(chat(APP, stream=True))
    until(lambda: a.count == b.count == 1, "both are asked")
    wire.reset()
    for each in (a, b):
        assert each.requests[0].client_left.wait(5)
    until(lambda: in_flight(m) == 0, "every attempt is over")
    assert {name: p["state"] for name, p in m.health()["providers"].items()} == {"a": "closed", "b": "closed"}
