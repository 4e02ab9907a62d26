"""Connections that were idle and break when they are used again: nobody's failure, however many do so at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import trustme

from support import raw
from support.h2client import H2Client
from support.h2provider import H2Provider, server_context
from support.provider import Behaviour, Provider, Seen
from support.proxy import Mitmdump
from support.settings import route, table
from support.waiting import until

AT_ONCE = 6
WORKS_SECONDS = 3.0
"""Longer than the time in which the end of an idle connection comes to be known."""

How = Literal["close", "reset"]
Ask = Callable[[], list[tuple[int, bytes, str]]]


class Mortal(Provider):
    """Over HTTP/1.1; its connections that are doomed break at their next request."""

    def doom(self, how: How, gate: threading.Event | None = None) -> None:
        doomed = {seen.connection for seen in self.requests}
        dead = Behaviour(reset=True, gate=gate) if how == "reset" else Behaviour(raw=b"", gate=gate)
        self.chooser = lambda seen: dead if seen.connection in doomed else Behaviour()


class MortalH2(H2Provider):
    """Over HTTP/2, as well."""

    def doom(self, how: How, gate: threading.Event | None = None) -> None:
        done = threading.Event()

        def doom() -> None:
            for connection in self._open:

                async def die(number: int, connection: Any = connection) -> None:
                    if gate is not None:
                        await self._pass(gate, Seen("", "", [], b"", 0, b"", 0))
                    if how == "reset":
                        self._rst(connection.writer)
                    else:
                        connection.writer.close()

                connection.answer = die  # type: ignore[method-assign]
            done.set()

        self._loop.call_soon_threadsafe(doom)
        assert done.wait(5)


WIRES = ("h1", "tls", "h2", "streams of one h2")


class World:
    """State: the proxy, and for each case a provider of its own with a good one behind it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        ca = trustme.CA()
        ca.cert_pem.write_to_path(str(folder / "ca.pem"))
        self.b = stack.enter_context(Provider("b"))
        self.providers: dict[str, Any] = {}
        texts = [table("attempts", {"backoff_seconds": 0.02})]
        for number, (wire, what, alone) in enumerate(CASES):
            match wire:
                case "h1":
                    made: Provider = Mortal(f"a{number}")
                case "tls":
                    made = Mortal(f"a{number}", tls=server_context(ca, "127.0.0.1", "http/1.1"))
                case _:
                    made = MortalH2(f"a{number}", ca)
            a = self.providers[f"{wire} {what} {alone}"] = stack.enter_context(made)
            texts.append(route("chat", a, *(() if alone else (self.b,)), own=a, suffix="" if alone else f"-{number}"))
        trust = f"ssl_verify_upstream_trusted_ca={folder / 'ca.pem'}"
        self.m = stack.enter_context(Mitmdump(folder / "proxy", "\n".join(texts), "--set", trust))

    def status(self, a: Provider) -> dict[str, Any]:
        last: dict[str, Any] = {}

        def over() -> bool:
            last.update(self.m.health())
            return bool(last["in_flight"] == 0)

        until(over, "no attempt is in flight")
        return next(p for name, p in last["providers"].items() if name.partition("-")[0] == a.name)


CASES = [(wire, what, alone) for wire in WIRES for what in ("close", "reset") for alone in (True, False)]
CASES += [(wire, "works", True) for wire in ("h1", "h2")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("idle"), stack)


@contextmanager
def apps(world: World, a: Provider, wire: str, count: int) -> Iterator[Ask]:
    """Some apps' calls, all at once, each over a connection that stays: status, body and attempts."""
    with ExitStack() as stack:
        if wire == "h1":
            wires = [stack.enter_context(raw.Wire(world.m)) for _ in range(count)]

            def ask_one(wire: raw.Wire) -> tuple[int, bytes, str]:
                status, headers, body = wire.send(raw.chat(a.url())).answer()
                return status, body, headers["x-sidestep-attempts"]

            asks: list[Callable[[], tuple[int, bytes, str]]] = [partial(ask_one, wire) for wire in wires]
        elif wire == "streams of one h2":
            client = stack.enter_context(H2Client(world.m, "127.0.0.1", a.port))

            def ask_all() -> list[tuple[int, bytes, str]]:
                numbers = [client.chat() for _ in range(count)]
                answers = [client.answer(n) for n in numbers]
                return [(s.status or 0, s.body, s.headers.get("x-sidestep-attempts", "")) for s in answers]

            yield ask_all
            return
        else:
            clients = [stack.enter_context(H2Client(world.m, "127.0.0.1", a.port)) for _ in range(count)]

            def ask_h2(client: H2Client) -> tuple[int, bytes, str]:
                got = client.answer(client.chat())
                return got.status or 0, got.body, got.headers.get("x-sidestep-attempts", "")

            asks = [partial(ask_h2, client) for client in clients]
        with ThreadPoolExecutor(count) as pool:
            yield lambda: list(pool.map(lambda ask: ask(), asks))


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "with another"])
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("wire", WIRES)
def test_idle_connections_that_break_at_once(wire: str, how: How, alone: bool, world: World) -> None:
    """Six calls on connections that have become old are answered by the same provider, as one attempt each; no failure
    is counted, and its circuit stays closed."""
    a = world.providers[f"{wire} {how} {alone}"]
    with apps(world, a, wire, AT_ONCE) as ask:
        assert {status for status, _, _ in ask()} == {200}
        a.doom(how)
        answers = ask()
    name = next(n for n in world.m.health()["providers"] if n.partition("-")[0] == a.name)
    assert [(status, attempts) for status, _, attempts in answers] == [(200, f"{name}:200")] * AT_ONCE
    status = world.status(a)
    assert (status["state"], status["failures"], status["successes"]) == ("closed", 0, 2 * AT_ONCE)


@pytest.mark.parametrize("wire", ["h1", "h2"])
def test_a_provider_that_dies_at_work_has_failed(wire: str, world: World) -> None:
    """One that has taken a request on an old connection and dies after some seconds is no idle connection."""
    a = world.providers[f"{wire} works True"]
    gate = threading.Event()
    with apps(world, a, wire, 1) as ask:
        ask()
        a.doom("close", gate)
        timer = threading.Timer(WORKS_SECONDS, gate.set)
        timer.start()
        ((status, _, attempts),) = ask()
        timer.cancel()
    assert (status, attempts) == (200, f"{a.name}:connect, {a.name}:200")
    assert world.status(a)["failures"] == 1
