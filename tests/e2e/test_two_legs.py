"""Two attempts of one call, at every stage they can be in, over both HTTP versions: one answer, one winner, nothing
left out, and no byte of the one that lost."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import trustme

from support.apps import WAYS, App, H1App, H2App
from support.h2client import said
from support.h2provider import H2Provider
from support.holes import Hole
from support.provider import Behaviour, Provider, text_of
from support.proxy import Mitmdump
from support.settings import inline, route, table
from support.waiting import until

Version = Literal["h1", "h2"]
VERSIONS: tuple[Version, ...] = ("h1", "h2")
AFTER_SECONDS = 0.4
GOOD = Behaviour()
NEVER = threading.Event()
LEGS = {
    "before the head": Behaviour(silent=True),
    "after the head": Behaviour(headers_then_silent=True),
    "held back": Behaviour(gate_at=0, gate=NEVER),
}
STEER = '''
import asyncio, os
from pathlib import Path


class Steer:
    """What a user of mitmweb does by hand, at a call that names it in its field `user`."""

    def request(self, flow):
        self.at("request", flow)

    def responseheaders(self, flow):
        self.at("responseheaders", flow)

    def at(self, place, flow):
        what, _, name = (flow.request.json().get("user") or "").partition(" ")
        if what == "kill" and place == "request":
            self.task = asyncio.create_task(self.when(name, flow.kill))
        elif what == place:
            flow.intercept()
            Path(os.environ["STEER"], name + ".held").touch()
            self.task = asyncio.create_task(self.when(name, flow.resume))

    async def when(self, name, act):
        while not Path(os.environ["STEER"], name).exists():
            await asyncio.sleep(0.01)
        act()


addons = [Steer()]
'''


@dataclass
class World:
    """State: what is asked, of which each call has a name of its own."""

    m: Mitmdump
    folder: Path
    pairs: dict[Version, tuple[Provider, Provider]]
    names: Iterator[int] = field(default_factory=itertools.count)

    def pair(self, version: Version, a: Behaviour = GOOD, b: Behaviour = GOOD) -> tuple[Provider, Provider]:
        for p, behaviour in zip(self.pairs[version], (a, b), strict=True):
            p.requests.clear()
            p.default = behaviour
            p.arrived = threading.Semaphore(0)
        return self.pairs[version]

    def app(self, version: Version, host: str = "") -> App:
        return (H1App if version == "h1" else H2App)(self.m, host or f"{version}.test")

    def ask(self, app: App, what: str = "nothing") -> str:
        """Send a call; its name. Of its model nothing has been learnt."""
        name = f"call-{next(self.names)}"
        app.send(stream=True, model=name, user=f"{what} {name}")
        return name

    def let(self, name: str) -> None:
        (self.folder / name).touch()

    def is_clean(self, version: Version) -> None:
        until(lambda: self.m.health()["in_flight"] == 0, "no attempt is in flight")
        providers = self.m.health()["providers"]
        assert [name for name, p in providers.items() if p["permits_out"] or p["in_flight"]] == []
        assert {p["state"] for p in providers.values()} == {"closed"}
        for p in self.pairs[version]:
            until(lambda p=p: p.in_flight == 0, f"no request stays with {p.name}")  # type: ignore[misc]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder, ca = tmp_path_factory.mktemp("legs"), trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    (folder / "steer.py").write_text(STEER)
    with ExitStack() as stack:
        makes: dict[Version, Callable[[str], Provider]] = {"h1": Provider, "h2": lambda name: H2Provider(name, ca)}
        holes: dict[Version, Literal["full", "mute"]] = {"h1": "full", "h2": "mute"}
        pairs: dict[Version, tuple[Provider, Provider]] = {}
        texts = [
            table("hedge", {"after_seconds": AFTER_SECONDS, "max_share": 1}),
            table("attempts", {"backoff_seconds": 0.02, "per_provider": 1}),
            table("circuit", {"failure_threshold": 10_000, "min_requests": 10_000}),
        ]
        for version, make in makes.items():
            a, b = (stack.enter_context(make(name)) for name in "ab")
            pairs[version] = a, b
            scheme = "http" if version == "h1" else "https"
            texts.append(route("chat", a, b, intercept=f"{scheme}://{version}.test/v1", suffix=f"-{version}"))
            hole = Hole(holes[version])
            stack.callback(hole.close)
            hole.fill()
            nowhere = Provider("a", tls=a.tls)
            nowhere.port = hole.port
            intercept = f"{scheme}://{version}-hole.test/v1"
            patient = inline(timeouts={"connect": 20})
            texts.append(route("chat", nowhere, b, intercept=intercept, suffix=f"-{version}-hole", extra=patient))
        options = ("--set", f"ssl_verify_upstream_trusted_ca={folder / 'ca.pem'}", "-s", str(folder / "steer.py"))
        m = stack.enter_context(Mitmdump(folder, "\n".join(texts), *options, env={"STEER": str(folder)}))
        yield World(m, folder, pairs)


def both_are_asked(a: Provider, b: Provider) -> None:
    a.wait_for_request()
    b.wait_for_request()


@pytest.mark.parametrize("version", VERSIONS)
def test_connecting(version: Version, world: World) -> None:
    _, b = world.pair(version)
    with world.app(version, f"{version}-hole.test") as app:
        world.ask(app)
        answer = app.answer()
    assert (answer.status, said(answer)) == (200, text_of("b", GOOD))
    assert answer.headers["x-sidestep-attempts"] == f"a-{version}-hole:slow, b-{version}-hole:200"
    assert b.count == 1
    world.is_clean(version)


@pytest.mark.parametrize("leg", LEGS)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_late_one_is_overtaken(version: Version, leg: str, world: World) -> None:
    a, b = world.pair(version, LEGS[leg])
    with world.app(version) as app:
        world.ask(app)
        answer = app.answer()
        assert (answer.status, said(answer)) == (200, text_of("b", GOOD))
        assert answer.headers["x-sidestep-attempts"] == f"a-{version}:slow, b-{version}:200"
        assert a.requests[0].client_left.wait(5)
        world.is_clean(version)
        a.default = GOOD
        world.ask(app)  # what carried the call carries the next one
        assert said(app.answer()) == text_of("a", GOOD)
    assert (a.count, b.count) == (2, 1)


@pytest.mark.parametrize("leg", LEGS)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_late_one_is_first_after_all(version: Version, leg: str, world: World) -> None:
    come = threading.Event()
    a, b = world.pair(version, Behaviour(gate=come, gate_at=0), LEGS[leg])
    with world.app(version) as app:
        world.ask(app)
        both_are_asked(a, b)
        come.set()
        answer = app.answer()
    assert (answer.status, said(answer)) == (200, text_of("a", GOOD))
    assert b.requests[0].client_left.wait(5)
    world.is_clean(version)


@pytest.mark.parametrize("place", ["heads", "contents"])
@pytest.mark.parametrize("version", VERSIONS)
def test_both_at_the_same_moment(version: Version, place: str, world: World) -> None:
    for _ in range(5):
        come = threading.Event()
        same = Behaviour(tokens=40, gate=come, gate_at=0 if place == "contents" else None)
        a, b = world.pair(version, same, same)
        with world.app(version) as app:
            world.ask(app)
            both_are_asked(a, b)
            come.set()
            answer = app.answer()
        winner = answer.headers["x-sidestep-provider"][0]
        assert (answer.status, said(answer)) == (200, text_of(winner, same))
        assert answer.body.count(b"[DONE]") == 1
        world.is_clean(version)
        assert (a.count, b.count) == (1, 1)


BROKEN = {
    "a status": (Behaviour(status=503), 503),
    "a reset": (Behaviour(reset=True), 502),
    "a cut": (Behaviour(cut_after=0), 502),
}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("version", VERSIONS)
def test_both_fail(version: Version, how: str, world: World) -> None:
    """In one breath: the app gets one answer, which is the last word."""
    come = threading.Event()
    behaviour, status = BROKEN[how]
    fails = Behaviour(gate=come, status=behaviour.status, reset=behaviour.reset, cut_after=behaviour.cut_after)
    a, b = world.pair(version, fails, fails)
    with world.app(version) as app:
        world.ask(app)
        both_are_asked(a, b)
        come.set()
        answer = app.answer()
        assert (answer.status, answer.reset) == (status, None), answer
        world.is_clean(version)
        a.default = GOOD
        world.ask(app)
        assert said(app.answer()) == text_of("a", GOOD)
    assert (a.count, b.count) == (2, 1)


@pytest.mark.parametrize("leg", LEGS)
@pytest.mark.parametrize(("version", "way"), [(v, w) for v in VERSIONS for w in WAYS[v]])
def test_the_app_leaves(version: Version, way: str, leg: str, world: World) -> None:
    a, b = world.pair(version, LEGS[leg], LEGS[leg])
    with world.app(version) as app:
        world.ask(app)
        both_are_asked(a, b)
        app.leave(way)
        for p in (a, b):
            assert p.requests[0].client_left.wait(5)
        world.is_clean(version)


@pytest.mark.parametrize("leg", LEGS)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_flow_is_killed(version: Version, leg: str, world: World) -> None:
    a, b = world.pair(version, LEGS[leg], LEGS[leg])
    with world.app(version) as app:
        name = world.ask(app, "kill")
        both_are_asked(a, b)
        world.let(name)
        try:
            assert app.answer().reset is not None
        except EOFError:
            assert version == "h1"  # a cut connection
        for p in (a, b):
            assert p.requests[0].client_left.wait(5)
        world.is_clean(version)


@pytest.mark.parametrize("place", ["request", "responseheaders"])
@pytest.mark.parametrize("version", VERSIONS)
def test_the_flow_is_intercepted_and_resumed(version: Version, place: str, world: World) -> None:
    """The time for which a user holds a call is no provider's: it makes nobody late."""
    come = threading.Event()
    a, b = world.pair(version, Behaviour(gate=come, gate_at=0))
    with world.app(version) as app:
        name = world.ask(app, place)
        until((world.folder / f"{name}.held").exists, "it is intercepted")
        if place == "request":
            assert (a.count, b.count) == (0, 0)
        else:
            assert (a.count, b.count) == (1, 1)
            come.set()  # what lost, or has not yet, says something all the same
        world.let(name)
        answer = app.answer()
    assert (answer.status, said(answer)) == (200, text_of("b", GOOD))
    assert answer.headers["x-sidestep-attempts"] == f"a-{version}:slow, b-{version}:200"
    come.set()
    world.is_clean(version)
