"""Strategies, conversations that stay, and limits seen coming, through a real proxy and the official SDKs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from support.calls import APIS, DIALECT, Client
from support.provider import Behaviour, Provider
from support.proxy import Mitmdump
from support.settings import route, table

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]

USED_UP = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "60s"}


def host_of(row: str, api: str = "chat") -> str:
    return f"http://{row}.test" + ("/v1" if DIALECT[api] == "openai" else "")


def second_turn(api: str) -> dict[str, Any]:
    """What continues a conversation that began with the client's usual call."""
    if api == "gemini":
        words = (("user", "hi"), ("model", "yes"), ("user", "so?"))
        return {"contents": [{"role": r, "parts": [{"text": t}]} for r, t in words]}
    messages = [{"role": r, "content": t} for r, t in (("user", "hi"), ("assistant", "yes"), ("user", "so?"))]
    return {"input" if api == "responses" else "messages": messages}


def test_strategies(provider: Make, proxy: Start, subtests: pytest.Subtests) -> None:
    """One proxy, a route for each case."""
    a, b = provider("a"), provider("b")

    def row(name: str, strategy: str = "priority", extra: str = "", api: str = "chat", *of: Provider) -> str:
        text = route(api, *(of or (a, b)), intercept=host_of(name, api), suffix=f"-{name}", extra=extra)
        return f'{text}strategy = "{strategy}"\n'

    heavy = row("weighted", "weighted").replace('name = "a-weighted"\n', 'name = "a-weighted"\nweight = 3\n')
    cheap = row("cheapest", "cheapest", "price = { input = 1, output = 9 }\n")
    first, second = cheap.split('name = "b-cheapest"')
    cheap = first + 'name = "b-cheapest"' + second.replace("input = 1, output = 9", "input = 9, output = 1")
    texts = [heavy, cheap, row("fastest", "fastest"), row("limit"), row("alone", "priority", "", "chat", a)]
    texts += [row(f"stay-{api}", "priority", "", api) for api in APIS]
    text = "\n".join([table("attempts", {"backoff_seconds": 0.02}), *texts])
    m = proxy(text)

    def asked(app: Client, count: int, api: str = "chat", stream: bool = False, **more: Any) -> list[str]:
        results = [app.call(api, stream=stream, **more) for _ in range(count)]
        assert [r.error for r in results] == [None] * count
        return [(r.attempts or "").replace(":200", "").partition("-")[0] for r in results]

    with subtests.test("weighted"), Client(m, {"openai": host_of("weighted")}) as app:
        assert asked(app, 8) == ["a", "a", "b", "a"] * 2

    with subtests.test("cheapest"), Client(m, {"openai": host_of("cheapest")}) as app:
        assert asked(app, 2, max_tokens=2000) == ["b"] * 2
        long = [{"role": "user", "content": "x" * 40_000}]
        assert asked(app, 2, max_tokens=2000, messages=long) == ["a"] * 2

    with subtests.test("fastest"), Client(m, {"openai": host_of("fastest")}) as app:
        a.default, b.default = Behaviour(pace=0.2), Behaviour(pace=0.01)
        assert asked(app, 2, stream=True) == ["a", "b"]
        found = Counter(asked(app, 10, stream=True))
        assert found["b"] == 10, "looks are for those not seen for half a minute"
        slow, fast = (m.provider(f"{n}-fastest")["first_content_ms"] for n in "ab")
        assert fast < 200 <= slow < 600
        a.default = b.default = Behaviour()

    for stream in (False, True):
        with subtests.test("limit", stream=stream), Client(m, {"openai": host_of("limit")}) as app:
            if not stream:
                a.default = Behaviour(headers=USED_UP)
                assert asked(app, 1) == ["a"]
            assert asked(app, 2, stream=stream) == ["b", "b"]
            status = m.provider("a-limit")
            assert (status["state"], status["successes"], status["failures"]) == ("closed", 1, 0)
            assert status["cooldown"]["reason"] == "limit_foreseen"
            assert 50 < status["cooldown"]["seconds"] <= 60
            served = {r["served_by"]: r["status"] for r in m.health()["routes"].values()}
            assert served["b-limit"] == "degraded", "its calls do not go to the first"

    with subtests.test("alone"), Client(m, {"openai": host_of("alone")}) as app:
        a.default = Behaviour(headers=USED_UP)
        assert asked(app, 3) == ["a"] * 3
        assert m.provider("a-alone")["cooldown"]["reason"] == "limit_foreseen"
        a.default = Behaviour()

    for api in APIS:
        with subtests.test("stay", api=api), Client(m, {DIALECT[api]: host_of(f"stay-{api}", api)}) as app:
            assert asked(app, 1, api) == ["a"]
            a.then(Behaviour(status=503), Behaviour(status=503))
            assert app.call(api, stream=False).provider == f"b-stay-{api}"
            assert asked(app, 2, api) == ["a", "a"], "a single turn stays nowhere"
            a.then(Behaviour(status=503), Behaviour(status=503))
            assert app.call(api, stream=True, **second_turn(api)).provider == f"b-stay-{api}"
            assert asked(app, 2, api, **second_turn(api)) == ["b", "b"]
            assert asked(app, 1, api, stream=True, **second_turn(api)) == ["b"]
            assert asked(app, 1, api) == ["a"]

    with subtests.test("observe"), Client(m, {"openai": host_of("alone")}) as app:
        m.config.write_text('mode = "observe"\n' + text)
        m.wait_for_log("configuration reloaded")
        app.call("chat", stream=False)
        m.wait_for_log("sidestep would have asked a-alone")

    assert "is not there yet" not in m.log
    assert all(p["in_flight"] == p["permits_out"] == 0 for p in m.health()["providers"].values())
