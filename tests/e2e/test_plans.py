"""Plans over a session: whose window is used up, when it is home again, and what the way there and back costs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from support.corporate import ConnectProxy
from support.internet import Internet
from support.provider import Behaviour, Provider, Seen
from support.proxy import ROOT, Mitmdump, clean_env
from support.waiting import until

HOST, OTHER_HOST = "api.anthropic.com", "openrouter.ai"
VENDOR_KEY = "sk-ant-api03-VENDOR-CANARY-0123456789"
OTHER_KEY = "sk-or-OTHER-CANARY-0123456789"
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
    """Anthropic's own host, which answers each credential in its own way, a key of one's own for the same host, and
    another provider."""

    def __init__(self, provider: Make, proxy: Start, folder: Path) -> None:
        self.answers: dict[str, Behaviour] = {}
        internet = Internet(folder)
        self.home = provider("home", tls=internet.tls(HOST))
        self.home.chooser = self._choose
        self.other = provider("other", tls=internet.tls(OTHER_HOST))
        self.other.default = answered()
        internet.places = {HOST: self.home.port, OTHER_HOST: self.other.port}
        env = {"SIDESTEP_ANTHROPIC_API_KEY": VENDOR_KEY, "SIDESTEP_OPENROUTER_API_KEY": OTHER_KEY}
        env["XDG_CONFIG_HOME"] = str(folder)
        self.proxy = proxy("local = false\n", *internet.options(), env=env)

    def _choose(self, seen: Seen) -> Behaviour:
        return self.answers.get(credential_of(seen), answered())

    def spent(self) -> dict[str, dict[str, Any]]:
        """By provider, as the page tells it."""
        return {each["name"]: each for each in json.loads(self.proxy.page("/state")[1])["providers"]}


def asked_by_shell(proxy: Mitmdump) -> dict[str, Any]:
    """What `sidestep status` tells."""
    command = [sys.executable, "-m", "sidestep", "status", "--json", "--url", proxy.url]
    env = clean_env(HOME=str(proxy.folder), PYTHONPATH=str(ROOT / "addon"))
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=True)
    picture: dict[str, Any] = json.loads(done.stdout)
    return picture


def credential_of(seen: Seen) -> str:
    return (seen.header("authorization") or seen.header("x-api-key") or "").removeprefix("Bearer ")


@pytest.fixture
def world(provider: Make, proxy: Start, tmp_path: Path) -> World:
    return World(provider, proxy, tmp_path)


def test_two_apps_have_two_plans(world: World) -> None:
    """What one has used up is the other's still; neither's token is sent for the other's call, nor to another host."""
    ada, bob = (App(world.proxy, token, name) for name, token in PLANS.items())
    assert (ada.turn(), bob.turn()) == ("anthropic:200", "anthropic:200")
    world.answers[PLANS["ADA"]] = used_up(int(time.time()) + 3600)
    assert (ada.turn(), bob.turn()) == ("anthropic:429, anthropic-key:200", "anthropic:200")
    assert (ada.turn(), bob.turn()) == ("anthropic-key:200", "anthropic:200")
    world.answers[VENDOR_KEY] = Behaviour(status=402, code="billing_error")
    assert (ada.turn(), bob.turn()) == ("anthropic-key:402, openrouter:200", "anthropic:200")
    assert (ada.turn(), bob.turn()) == ("openrouter:200", "anthropic:200")
    for seen in world.other.requests:
        assert "ADA" in str(seen.json["messages"])
        assert credential_of(seen) == OTHER_KEY
        assert f"{seen.raw_head!r}{seen.body!r}".count("CANARY") == 1
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
    told = {each["name"]: each for each in asked_by_shell(world.proxy)["providers"]}
    metrics = world.proxy.page("/metrics")[1].decode()
    spent = world.spent()
    for name, count in (("anthropic", 8 - len(away)), ("anthropic-key", len(away))):
        assert spent[name]["tokens"]["output"] == 20 * count
        assert spent[name]["cost"] > 0
        assert told[name]["cost"] == spent[name]["cost"]
        found = re.search(rf'^sidestep_cost_usd_total{{.*provider="{name}".*}} (\S+)$', metrics, re.MULTILINE)
        assert found is not None
        assert float(found[1]) == pytest.approx(spent[name]["cost"], abs=1e-5)
    assert spent["anthropic-key"]["tokens"]["cached"] == cached * len(away)
    assert spent["anthropic-key"]["saved"] > 0


EIGHT_TURNS = """
import httpx2
said = [{"role": "user", "content": "hi"}]
headers = {"x-api-key": "sk-ant-api03-APP-CANARY-0123456789", "anthropic-version": "2023-06-01"}
for turn in range(8):
    body = {"model": "claude-opus-4-8", "max_tokens": 99, "messages": said}
    with httpx2.Client(timeout=60) as http:
        answer = http.post("https://api.anthropic.com/v1/messages", json=body, headers=headers).raise_for_status()
    print(answer.headers["x-sidestep-provider"])
    said += [{"role": "assistant", "content": "well"}, {"role": "user", "content": f"and {turn}?"}]
"""


@pytest.mark.parametrize(("cached", "away"), [(1_000, (1, 2)), (100_000, (5,))])
def test_the_last_lines_of_a_run_tell_what_both_have_cost(
    cached: int, away: tuple[int, ...], provider: Make, tmp_path: Path
) -> None:
    internet = Internet(tmp_path)
    home = provider("home", tls=internet.tls(HOST))
    own: list[Seen] = []

    def choose(seen: Seen) -> Behaviour:
        if credential_of(seen) == VENDOR_KEY:
            return answered(cached)
        own.append(seen)
        return Behaviour(status=529) if len(own) in (4, 5) else answered()

    home.chooser = choose
    internet.options()
    with ConnectProxy(names={f"{HOST}:443": ("127.0.0.1", home.port)}, alone=True) as way:
        (tmp_path / "config.toml").write_text("local = false\n")
        keys = {"SIDESTEP_ANTHROPIC_API_KEY": VENDOR_KEY, "HTTPS_PROXY": way.url}
        env = clean_env(HOME=str(tmp_path), PYTHONPATH=str(ROOT / "addon"), **keys)
        env["SSL_CERT_FILE"] = str(tmp_path / "internet-ca.pem")
        command = [sys.executable, "-m", "sidestep", "run", "--config", str(tmp_path / "config.toml"), "--"]
        command += [sys.executable, "-c", EIGHT_TURNS]
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=80)
    assert done.returncode == 0, done.stderr
    turns = done.stdout.split()
    assert turns[3] == "anthropic-key"
    assert turns.count("anthropic-key") in away
    for name in ("anthropic", "anthropic-key"):
        count = turns.count(name)
        told = re.search(rf"^sidestep: {name} gave {count} answers?: (.*?), \$(\d\.\d+)", done.stderr, re.MULTILINE)
        assert told is not None, done.stderr
        assert told[1].endswith(f"{20 * count} out")
        assert float(told[2]) > 0
    assert re.search(rf"\({cached * turns.count('anthropic-key'):,} from the cache\).*saved by the cache", done.stderr)
