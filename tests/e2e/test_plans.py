"""Plans over a session: whose window is used up, when it is home again, and what the way there and back costs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from support.internet import Internet
from support.provider import Behaviour, Provider, Seen
from support.proxy import Mitmdump
from support.waiting import until

HOST = "api.anthropic.com"
VENDOR_KEY = "sk-ant-api03-VENDOR-CANARY-0123456789"
PLANS = {name: f"sk-ant-oat01-PLAN-OF-{name}-CANARY-0123456789" for name in ("ADA", "BOB")}
Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]


def answered(cached: int = 0) -> Behaviour:
    """So many tokens of its prompt came from its cache."""
    usage = {"input_tokens": 500, "output_tokens": 20, "cache_read_input_tokens": cached}
    text = [{"type": "text", "text": "well"}]
    said = {"id": "msg", "type": "message", "role": "assistant", "model": "claude-opus-4-8", "content": text}
    return Behaviour(body=json.dumps({**said, "stop_reason": "end_turn", "usage": usage}).encode())


def used_up(until: int) -> Behaviour:
    """A window of five hours, until then (seconds since 1970)."""
    prefix = "anthropic-ratelimit-unified"
    headers = {f"{prefix}-status": "rejected", f"{prefix}-representative-claim": "five_hour"}
    headers |= {f"{prefix}-5h-status": "rejected", f"{prefix}-5h-utilization": "1.0", f"{prefix}-5h-reset": str(until)}
    return Behaviour(status=429, code="rate_limit_error", headers=headers)


class App:
    """Whoever has a credential, with a session that goes on. State: what was said so far."""

    def __init__(self, proxy: Mitmdump, credential: str, words: str = "hi") -> None:
        self._proxy, self._credential = proxy, credential
        self._said = [{"role": "user", "content": words}]

    def turn(self) -> str:
        """Who was asked."""
        body = {"model": "claude-opus-4-8", "max_tokens": 99, "messages": self._said}
        headers = {"authorization": f"Bearer {self._credential}", "anthropic-version": "2023-06-01"}
        # A connection each time: those to a host that `Internet` has found elsewhere are not used again, and mitmproxy
        # makes five of them for one client.
        with httpx2.Client(proxy=self._proxy.url, verify=str(self._proxy.ca), timeout=60) as http:
            answer = http.post(f"https://{HOST}/v1/messages", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        self._said += [{"role": "assistant", "content": "well"}, {"role": "user", "content": f"and {len(self._said)}?"}]
        return answer.headers["x-sidestep-attempts"]


class World:
    """Anthropic's own host, which answers each credential in its own way, and a key of one's own for the same host."""

    def __init__(self, provider: Make, proxy: Start, folder: Path) -> None:
        self.answers: dict[str, Behaviour] = {}
        internet = Internet(folder)
        self.home = provider("home", tls=internet.tls(HOST))
        self.home.chooser = self._choose
        internet.places = {HOST: self.home.port}
        env = {"SIDESTEP_ANTHROPIC_API_KEY": VENDOR_KEY, "XDG_CONFIG_HOME": str(folder)}
        self.proxy = proxy("local = false\n", *internet.options(), env=env)

    def _choose(self, seen: Seen) -> Behaviour:
        return self.answers.get(credential_of(seen), answered())

    def spent(self) -> dict[str, dict[str, Any]]:
        """By provider, as the page tells it."""
        return {each["name"]: each for each in json.loads(self.proxy.page("/state")[1])["providers"]}


def credential_of(seen: Seen) -> str:
    return (seen.header("authorization") or seen.header("x-api-key") or "").removeprefix("Bearer ")


@pytest.fixture
def world(provider: Make, proxy: Start, tmp_path: Path) -> World:
    return World(provider, proxy, tmp_path)


def test_two_apps_have_two_plans(world: World) -> None:
    """What one has used up is the other's still, and neither's token is sent for the other's call."""
    ada, bob = (App(world.proxy, token, name) for name, token in PLANS.items())
    assert (ada.turn(), bob.turn()) == ("anthropic:200", "anthropic:200")
    world.answers[PLANS["ADA"]] = used_up(int(time.time()) + 3600)
    assert (ada.turn(), bob.turn()) == ("anthropic:429, anthropic-key:200", "anthropic:200")
    assert (ada.turn(), bob.turn()) == ("anthropic-key:200", "anthropic:200")
    for seen in world.home.requests:
        whose = [name for name in PLANS if name in str(seen.json["messages"])]
        expected = {PLANS[whose[0]], VENDOR_KEY} if whose == ["ADA"] else {PLANS["BOB"]}
        assert credential_of(seen) in expected
        assert str(seen.headers).count("CANARY") == 1
    told = world.proxy.log + json.dumps(world.proxy.health()) + world.proxy.page("/metrics")[1].decode()
    assert "CANARY" not in told


def test_a_plan_is_home_again_within_a_turn_of_its_reset(world: World) -> None:
    app = App(world.proxy, PLANS["ADA"])
    assert app.turn() == "anthropic:200"
    reset = int(time.time()) + 10
    world.answers[PLANS["ADA"]] = used_up(reset)
    assert app.turn().endswith("anthropic:429, anthropic-key:200")
    assert app.turn() == "anthropic-key:200"
    del world.answers[PLANS["ADA"]]
    until(lambda: world.proxy.provider("anthropic")["cooldown"] is None, "its window begins anew", 20)
    assert time.time() >= reset
    assert app.turn() == "anthropic:200"


@pytest.mark.parametrize(("cached", "goes_home"), [(1_000, True), (100_000, False)])
def test_one_blip_in_a_conversation_of_eight_turns(cached: int, goes_home: bool, world: World) -> None:
    """Two turns away at most; but where the other one has cached a prompt worth more than a cent, it stays. What both
    have cost is told."""
    key = "sk-ant-api03-APP-CANARY-0123456789"
    world.answers[VENDOR_KEY] = answered(cached)
    app = App(world.proxy, key)
    turns = [app.turn() for _ in range(3)]
    world.answers[key] = Behaviour(status=529)
    turns.append(app.turn())
    del world.answers[key]
    turns += [app.turn() for _ in range(4)]
    assert turns[:3] == ["anthropic:200"] * 3
    assert turns[3].endswith("anthropic-key:200")
    away = [turn for turn in turns if turn.endswith("anthropic-key:200")]
    assert len(away) <= 2 if goes_home else turns[3:] == away
    spent = world.spent()
    for name, count in (("anthropic", 8 - len(away)), ("anthropic-key", len(away))):
        assert spent[name]["tokens"]["output"] == 20 * count
        assert spent[name]["cost"] > 0
    assert spent["anthropic-key"]["tokens"]["cached"] == cached * len(away)
    assert spent["anthropic-key"]["saved"] > 0
