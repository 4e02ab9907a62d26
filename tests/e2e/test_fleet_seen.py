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
