"""Clocks that are set while processes of a fleet run (libfaketime): nothing is told but what is left of a time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from support.clocks import Clock
from support.fleet import Store, ask, state, together, until
from support.provider import Behaviour, Provider
from support.proxy import Mitmdump
from support.settings import config

Make = Callable[..., Provider]
BAD = Behaviour(status=503)
HOUR = timedelta(hours=1)
CIRCUIT = {"failure_threshold": 1, "open_seconds": 4}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store


def fleet(
    stack: ExitStack, folder: Path, store: Store, *clocks: Clock | None, own: Provider, other: Provider
) -> list[Mitmdump]:
    """A proxy by each clock."""
    text = config("chat", own, other, own=own, fleet={"url": store.url}, circuit=CIRCUIT, attempts={"per_provider": 1})
    found = []
    for i, clock in enumerate(clocks):
        env = {} if clock is None else clock.env
        found.append(stack.enter_context(Mitmdump(folder / f"p{i}", text, env=env)))
    together(*found)
    return found


def left(m: Mitmdump) -> float:
    """For how many seconds more it does not ask a."""
    return m.provider("a")["retry_after"] or 0.0


def test_it_is_a_clock(tmp_path: Path) -> None:
    """What the others rely on: a process has the time that is set, while it runs, and its monotonic clock goes on."""
    clock = Clock(tmp_path / "clock")
    code = "import sys, time\nfor _ in sys.stdin: print(time.time(), time.monotonic(), flush=True)"
    pipe, env = subprocess.PIPE, {**os.environ, **clock.env}
    with subprocess.Popen([sys.executable, "-c", code], env=env, stdin=pipe, stdout=pipe, text=True) as told:
        assert told.stdin is not None
        assert told.stdout is not None

        def times() -> tuple[float, float]:
            told.stdin.write("\n")  # type: ignore[union-attr]
            told.stdin.flush()  # type: ignore[union-attr]
            wall, monotonic = map(float, told.stdout.readline().split())  # type: ignore[union-attr]
            return wall - time.time(), monotonic - time.monotonic()

        assert times() == pytest.approx((0, 0), abs=5)
        clock.set(-HOUR)
        until(lambda: times() == pytest.approx((-3600, 0), abs=5))
        told.stdin.close()


def test_a_clock_that_is_set_changes_nothing(provider: Make, stack: ExitStack, store: Store, tmp_path: Path) -> None:
    """One process's clock is set back an hour, then on by two: what the others tell it ends when it ends for them, and
    the other way round."""
    a, b = provider("a"), provider("b")
    clock = Clock(tmp_path / "clock")
    one, two = fleet(stack, tmp_path, store, None, clock, own=a, other=b)
    for m in (one, two):
        assert ask(m, a, f"first{m.port}") == (200, "a:200")
    clock.set(-HOUR)
    a.then(BAD)
    ask(one, a, "bad")
    opened = time.monotonic()
    until(lambda: state(two, "a") == "open", 1.5)
    clock.set(HOUR)
    assert state(two, "a") == "open"
    assert left(two) <= 5
    assert ask(two, a, "passed over") == (200, "b:200")
    until(lambda: state(two, "a") == "half_open", 6)
    assert 3 < time.monotonic() - opened < 6
    assert ask(two, a, "probe") == (200, "a:200")
    until(lambda: state(one, "a") == "closed", 1.5)
    a.then(Behaviour(status=429, headers={"retry-after": "60"}))
    clock.set(-HOUR)
    assert ask(two, a, "limited") == (200, "a:429, b:200")
    until(lambda: one.health()["fleet"]["entries"] > 1, 1.5)
    assert ask(one, a, "limited too") == (200, "b:200")
    assert 50 < one.provider("a")["cooldown"]["seconds"] <= 60
    assert 50 < two.provider("a")["cooldown"]["seconds"] <= 60


def test_the_stores_clock_is_set_back(provider: Make, stack: ExitStack, tmp_path: Path) -> None:
    """What it was told before that is not told for an hour more, and a probe whose process died then does not keep all
    others from probing for an hour."""
    a, b = provider("a"), provider("b")
    clock = Clock(tmp_path / "clock")
    store = stack.enter_context(Store(tmp_path / "store", env=clock.env))
    one, two = fleet(stack, tmp_path, store, None, None, own=a, other=b)
    ask(two, a, "first")
    a.then(BAD)
    ask(one, a, "bad")
    until(lambda: state(two, "a") == "open", 1.5)
    lease = store.ask("ZADD", "{sidestep}:p:" + entry(store), str(int(time.time() * 1000) + 10_000), "of.one-that-died")
    assert lease == b":1\r\n"
    clock.set(-HOUR)
    [three] = fleet(stack, tmp_path / "more", store, None, own=a, other=b)
    assert ask(three, a, "heard") == (200, "b:200")
    assert left(three) <= 5
    for m in (one, two, three):
        until(lambda m=m: state(m, "a") == "half_open", 6)  # type: ignore[misc]
    assert ask(two, a, "probe") == (200, "a:200")
    for m in (one, three):
        until(lambda m=m: state(m, "a") == "closed", 1.5)  # type: ignore[misc]


def entry(store: Store) -> str:
    """The circuit's that is open."""
    _, *words = store.ask("HGETALL", "{sidestep}:e").split(b"\r\n")
    [found] = [words[i - 2].decode() for i, word in enumerate(words) if b"|open " in word]
    return found
