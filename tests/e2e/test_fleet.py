"""Several real proxies that share what they know through one real Valkey."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support.fleet import Store, ask, state, together, until
from support.provider import Behaviour, Provider
from support.proxy import Mitmdump
from support.settings import config

Make = Callable[..., Provider]
Fleet = Callable[..., list[Mitmdump]]
BAD = Behaviour(status=503)
HEARD_SECONDS = 1.5


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store


@pytest.fixture
def fleet(stack: ExitStack, tmp_path: Path, store: Store) -> Fleet:
    """Start so many proxies with one configuration; they have heard of the store when this returns."""

    def start(count: int, *providers: Provider, **tables: Any) -> list[Mitmdump]:
        text = config("chat", *providers, own=providers[0], fleet={"url": store.url}, **tables)
        proxies = [stack.enter_context(Mitmdump(tmp_path / f"p{i}", text)) for i in range(count)]
        together(*proxies)
        return proxies

    return start


def test_what_opens_at_one_is_open_at_all_and_closes_with_its_probe(provider: Make, fleet: Fleet) -> None:
    """Three failures at one process: the other is open within 1.5 s, and has not asked the provider itself. The first
    one's probe succeeds: closed at both."""
    a, b = provider("a"), provider("b")
    one, two = fleet(2, a, b, circuit={"open_seconds": 4}, attempts={"per_provider": 1})
    assert ask(two, a, "first") == (200, "a:200")
    a.then(BAD, BAD, BAD)
    for i in range(3):
        assert ask(one, a, f"u{i}") == (200, "a:503, b:200")
    opened = time.monotonic()
    until(lambda: state(two, "a") == "open", HEARD_SECONDS)
    assert ask(two, a, "u3") == (200, "b:200")
    assert (two.provider("a")["failures"], a.count) == (0, 4)
    two.wait_for_log("a .*is not asked for [1-4] s: another process has found it failing")
    until(lambda: state(one, "a") == "half_open", 6)
    assert 3.5 < time.monotonic() - opened < 5
    assert ask(one, a, "u4") == (200, "a:200")
    until(lambda: state(two, "a") == "closed", HEARD_SECONDS)
    assert ask(two, a, "u5") == (200, "a:200")
    assert a.count == 6
