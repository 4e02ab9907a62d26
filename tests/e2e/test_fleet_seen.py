"""What a proxy tells of those that share what they know with it, and what it has heard of plans and conversations."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sidestep.fleet.scripts import Script
from support.fleet import Store, ask, together, until
from support.provider import Behaviour, Provider
from support.proxy import Mitmdump
from support.settings import config

Make = Callable[..., Provider]
HEARD_SECONDS = 1.5


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as found:
        yield found


@pytest.fixture
def two(store: Store, tmp_path: Path) -> Iterator[Callable[..., list[Mitmdump]]]:
    with ExitStack() as stack:

        def start(*providers: Provider, **tables: Any) -> list[Mitmdump]:
            text = config("chat", *providers, own=providers[0], fleet={"url": store.url}, **tables)
            found = [stack.enter_context(Mitmdump(tmp_path / f"p{i}", text)) for i in range(2)]
            together(*found)
            return found

        yield start


def fleet(m: Mitmdump) -> Any:
    return json.loads(m.page("/state")[1])["fleet"]


def test_each_tells_of_the_others(provider: Make, two: Callable[..., list[Mitmdump]], store: Store) -> None:
    """Who is there, with how many calls; what is shared; since when the store is out of reach."""
    a, b = provider("a"), provider("b")
    one, other = two(a, b, circuit={"failure_threshold": 1, "open_seconds": 60}, attempts={"per_provider": 1})
    a.then(Behaviour(status=503))
    assert ask(one, a, "u") == (200, "a:503, b:200")
    until(lambda: "degraded, 1 call)" in fleet(other)["words"], 15)
    assert f"this is {fleet(other)['name']}, beside 1 other ({fleet(one)['name']}: " in fleet(other)["words"]
    assert fleet(other)["words"].endswith("; shared: 1 open circuit")
    assert b"sidestep_fleet_members 2.0" in other.page("/metrics")[1]
    store.kill()
    until(lambda: ": the store has not answered for " in fleet(one)["words"])


def test_one_that_is_gone_is_forgotten(store: Store) -> None:
    """On the real server."""

    def here(name: str, ms: int) -> list[bytes]:
        keys = ("{g}:w", "{g}:d")
        answer = store.ask("EVAL", Script.HERE.value, "2", *keys, name, str(ms), f"ok {ms} 0", "2")
        return answer.split(b"\r\n")[2::2]

    assert here("aa", 60_000) == [b"aa", b"ok 60000 0"]
    here("bb", 1)
    until(lambda: b"bb" not in here("aa", 60_000))
    assert store.ask("HLEN", "{g}:d") == b":1\r\n"
    here("cc", 70_000)
    assert here("dd", 80_000) == [b"cc", b"ok 70000 0", b"dd", b"ok 80000 0"], "no more than were asked for"


def test_of_what_is_said_of_a_window_the_store_keeps_what_is_news(store: Store) -> None:
    """On the real server: more use of the same window, or a later one; its end is never earlier than it was."""
    count = 0

    def say(ms: int, level: int) -> tuple[bool, int, str]:
        """Whether it is taken, the seconds that are left, and what is known now."""
        nonlocal count
        count += 1
        keys = [f"{{g}}:{part}" for part in "mezx"]
        words = ["w", str(ms), str(level), "60000", f"me.{count}", f"plan {level} k 5h - allowed 1", "life", "{g}:n"]
        answer = store.ask("EVAL", Script.WINDOW.value, "4", *keys, *words).decode().split("\r\n")
        taken, _, left = (int(line[1:]) for line in answer[1:4])
        return bool(taken), round(left / 1000), answer[7].split(" ")[1]

    assert say(900_000, 50) == (True, 900, "50")
    assert say(900_000, 50) == (False, 900, "50")
    assert say(950_000, 40) == (False, 900, "50")
    assert say(850_000, 51) == (True, 900, "51")
    assert say(930_000, 52) == (True, 930, "52")
    assert say(800_000, 1_000_000) == (False, 930, "52")
    assert say(1_000_000, 0) == (True, 1000, "0")
    assert say(30 * 86_400_000, 0) == (True, 30 * 86_400, "0")
    assert say(1_000, 90) == (False, 30 * 86_400, "0")


def windows(m: Mitmdump, name: str) -> Any:
    found = next(p for p in json.loads(m.page("/state")[1])["providers"] if p["name"] == name)
    return [(w["window"], w["status"], w["used"]) for told in found["plans"] for w in told]


def test_a_plan_that_is_nearly_used_up_is_so_at_the_other_process(
    provider: Make, two: Callable[..., list[Mitmdump]], store: Store
) -> None:
    """New conversations of that credential go elsewhere there too, from its first call on, and no other's do; in the
    store is nothing of the credential."""
    a, b = provider("a"), provider("b")
    with store.watched() as heard:
        one, other = two(a, b)
        a.chooser = lambda seen: Behaviour(headers=nearly(0.985) if "SPENT" in str(seen.headers) else {})
        assert ask(one, a, "u1", key="sk-SPENT-CANARY") == (200, "a:200")
        until(lambda: fleet(other)["shared"] == {"plan window": 1}, HEARD_SECONDS)
        assert ask(other, a, "u2", key="sk-SPENT-CANARY") == (200, "b:200")
        assert ask(other, a, "u3", key="sk-OTHER-CANARY") == (200, "a:200")
        assert windows(other, "a") == [("primary", "allowed", 0.98)]
        sent = heard()
        held = store.contents()
    assert b"plan 98 k" in sent
    assert [word for word in (b"CANARY", b"127.0.0.1", b"sk-") if word in sent + held] == []


def nearly(used: float) -> dict[str, str]:
    """The primary window of a plan, of which that is used up."""
    return {
        "x-codex-primary-used-percent": f"{used * 100}",
        "x-codex-primary-window-minutes": "300",
        "x-codex-primary-reset-after-seconds": "9000",
    }


@pytest.mark.parametrize(("cached", "stays"), [(1_000, False), (150_000, True)])
def test_what_a_conversation_has_cached_elsewhere_is_known_at_the_other_process(
    cached: int, stays: bool, provider: Make, two: Callable[..., list[Mitmdump]]
) -> None:
    """A blip at home, and the conversation is with b: its next turn comes to the other process, and goes home unless b
    has its prompt in its cache."""
    a, b = provider("a"), provider("b")
    one, other = two(a, b, attempts={"per_provider": 1})
    usage = {"prompt_tokens": 200_000, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": cached}}
    choices = [{"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}]
    body = {"id": "c", "object": "chat.completion", "model": "gpt-4o", "choices": choices, "usage": usage}
    b.default = Behaviour(body=json.dumps(body).encode())
    roles = ("user", "assistant", "user")
    said = [{"role": role, "content": f"{role} {i}"} for i, role in enumerate(roles)]
    a.then(Behaviour(status=503))
    assert ask(one, a, "u", messages=said) == (200, "a:503, b:200")
    until(lambda: fleet(other)["entries"], HEARD_SECONDS)
    said += [{"role": "assistant", "content": "yes"}, {"role": "user", "content": "and?"}]
    assert ask(other, a, "u", messages=said) == (200, "b:200" if stays else "a:200")
