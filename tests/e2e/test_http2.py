"""HTTP/2 on the app's side, and HTTP/1.1 or HTTP/2 on the providers': many calls share one connection, none another's
fate."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import trustme

from support.h2client import H2Client, Stream, events, said
from support.h2provider import H2Provider
from support.provider import Behaviour, Provider, Seen, text_of
from support.proxy import Mitmdump
from support.settings import inline, key_of, route, table
from support.waiting import until

Make = Callable[..., Provider]

CANCEL = 8
GOOD = Behaviour()
FAST = {"first_byte": 0.4, "headers": 0.4, "first_content": 0.4, "idle": 0.4}
FIRM = {"first_byte": 0.4, "headers": 0.4, "idle": 10}
"""No patience with who says nothing, all with who has begun."""


@dataclass
class World:
    """Providers of one HTTP version, and a proxy that trusts them. The app has hosts to call under a name for each
    test: `before0.h1.test`."""

    version: str
    m: Mitmdump
    a: Provider
    b: Provider
    few: Provider
    """Takes two streams at a time, where it speaks HTTP/2."""
    one: Provider
    """Takes one."""

    def host(self, name: str, i: int = 0) -> str:
        return f"{name}{i}.{self.version}.test"

    def health(self, name: str, i: int = 0) -> dict[str, dict[str, Any]]:
        """What `/health` says of a row's providers once nothing is under way."""
        health: dict[str, Any] = {}

        def over() -> bool:
            health.update(self.m.health())
            return bool(health["in_flight"] == 0)

        until(over, "no attempt is in flight")
        assert [p["permits_out"] for p in health["providers"].values()] == [0] * len(health["providers"])
        row = _suffix(self.version, name, i)
        return {k.removesuffix(row): v for k, v in health["providers"].items() if k.endswith(row)}

    def state(self, name: str) -> dict[str, Any]:
        """What `/health` says of a row's first provider now."""
        return self.m.provider("a" + _suffix(self.version, name, 0))


def _suffix(version: str, name: str, i: int) -> str:
    return f"-{name}{i}-{version}"


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, World]]:
    """One proxy for all tests of this file."""
    authority, folder = trustme.CA(), tmp_path_factory.mktemp("http2")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    with ExitStack() as stack:
        one: list[Provider] = [stack.enter_context(Provider(name)) for name in "abab"]
        limits = (100, 100, 2, 1)
        two: list[Provider] = [
            stack.enter_context(H2Provider(n, authority, max_streams=k)) for n, k in zip("abaa", limits, strict=True)
        ]
        mute = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        stand_in = H2Provider("a", authority)
        stand_in.port = mute.getsockname()[1]
        texts = [
            table("attempts", {"backoff_seconds": 0.02}),
            table("circuit", {"failure_threshold": 1000, "min_requests": 1000}),
            table("timeouts", {"connect": 1.1}),
        ]
        for version, (a, b, few, last) in {"h1": one, "h2": two}.items():

            def add(
                name: str, *providers: Provider, at: int = 0, rows: int = 1, version: str = version, **tables: Any
            ) -> None:
                own = {providers[0].name: inline(**tables)}
                for i in range(at, at + rows):
                    intercept = f"https://{name}{i}.{version}.test/v1"
                    texts.append(
                        route("chat", *providers, intercept=intercept, suffix=_suffix(version, name, i), extra=own)
                    )

            for i, row in enumerate(ROWS):
                add("before", a, b, at=2 * i, rows=2, timeouts=FAST if row.behaviour.waits else {})
            add("keys", a, b)
            for i, behaviour in enumerate(AFTER_CONTENT.values()):
                add("after", a, b, at=i, timeouts=FAST if behaviour.waits else {})
            add("parallel", a, b)
            add("cancel", a, b, rows=len(STAGES))
            add("backoff", a, b, attempts={"backoff_seconds": 0.5})
            add("drop", a)
            add("hasty", a, b, rows=2)
            if version == "h2":
                add("siblings", a, b, timeouts=FIRM)
                add("few", few, b, timeouts=FIRM)
                add("queue", last)
                add("mute", stand_in, b)
                add("goaway", a, b, rows=len(BEFORE_CONTENT), attempts={"per_provider": 1})
                add("restart", a, b)
                add("late", a, b)
        trust = ("--set", f"ssl_verify_upstream_trusted_ca={folder / 'ca.pem'}")
        m = stack.enter_context(Mitmdump(folder / "proxy", "\n".join(texts), *trust))
        yield {"h1": World("h1", m, *one), "h2": World("h2", m, *two)}


def _fresh(world: World) -> World:
    for p in (world.a, world.b, world.few, world.one):
        p.requests.clear()
        p.script.clear()
        p.default, p.chooser = GOOD, None
        p.arrived = threading.Semaphore(0)
        if isinstance(p, H2Provider):
            p.resets.clear()
            p.connections = 0
    return world


@pytest.fixture(params=["h1", "h2"])
def world(request: pytest.FixtureRequest, worlds: dict[str, World]) -> World:
    return _fresh(worlds[request.param])


@pytest.fixture
def h2_world(worlds: dict[str, World]) -> World:
    return _fresh(worlds["h2"])


def _trail(answer: Stream) -> str:
    """What each provider did, by its short name."""
    steps = answer.headers.get("x-sidestep-attempts", "").split(", ")
    return ", ".join(f"{name.partition('-')[0]}:{how}" for name, _, how in (step.rpartition(":") for step in steps))


@dataclass(frozen=True)
class Row:
    name: str
    behaviour: Behaviour
    tries: int
    trail: str
    failures: int
    cooldown: str | None = None


ROWS = [
    Row("503", Behaviour(status=503), 2, "a:503, a:503, b:200", 2),
    Row("reset", Behaviour(reset=True), 2, "a:connect, a:connect, b:200", 2),
    Row("silent", Behaviour(silent=True), 1, "a:timeout, b:200", 1),
    Row("headers, then silent", Behaviour(headers_then_silent=True), 1, "a:timeout, b:200", 1),
    Row("cut before content", Behaviour(cut_after=0, cut_by="close"), 1, "a:bad_response, b:200", 1),
    Row("429", Behaviour(status=429), 1, "a:429, b:200", 0, "rate_limit"),
]


def test_failures_before_content_reach_no_h2_app(world: World, subtests: pytest.Subtests) -> None:
    """Whole or streamed, over either HTTP version upstream, the app sees one good answer and the record is right."""
    a, b = world.a, world.b
    cases = [(row, stream) for row in ROWS for stream in (False, True)]
    for i, (row, stream) in enumerate(cases):
        with subtests.test(row=row.name, stream=stream), H2Client(world.m, world.host("before", i)) as app:
            a.requests.clear()
            b.requests.clear()
            a.default = row.behaviour
            answer = app.answer(app.chat(stream=stream))
            assert (answer.status, answer.reset) == (200, None)
            assert said(answer) == text_of("b", GOOD)
            assert (b"[DONE]" in answer.body) is stream
            assert _trail(answer) == row.trail
            assert answer.headers["x-sidestep-provider"] == f"b{_suffix(world.version, 'before', i)}"
            assert (a.count, b.count) == (row.tries, 1)
            health = world.health("before", i)
            assert health["a"]["failures"] == row.failures
            assert (health["a"]["cooldown"] or {}).get("reason") == row.cooldown
            assert health["b"]["successes"] == 1
            # The connection that saw all this is as good as new.
            a.default = GOOD
            assert said(app.answer(app.chat(stream=stream))) in (text_of("a", GOOD), text_of("b", GOOD))


def test_only_the_providers_keys_travel(world: World) -> None:
    """In HTTP/2 too each provider gets its own key on each attempt, and the app's from nobody."""
    a, b = world.a, world.b
    a.default = Behaviour(status=503)
    with H2Client(world.m, world.host("keys")) as app:
        assert app.answer(app.chat(key="sk-app-CANARY")).status == 200
    assert [s.header("authorization") for s in a.requests] == [f"Bearer {key_of('a')}"] * 2
    assert [s.header("authorization") for s in b.requests] == [f"Bearer {key_of('b')}"]
    for seen in a.requests + b.requests:
        assert b"sk-app-CANARY" not in seen.raw_head + seen.body


AFTER_CONTENT = {
    "cut": Behaviour(cut_after=3, cut_by="close"),
    "ended early": Behaviour(end_after=3),
    "stalled": Behaviour(stall_after=3),
    "error event": Behaviour(error_after=3, message="it died"),
}


def test_a_stream_that_breaks_after_content_ends_in_an_error_event(world: World, subtests: pytest.Subtests) -> None:
    """What came stays, an error event follows, the HTTP/2 stream ends well, and the next on its connection is whole."""
    a, b = world.a, world.b
    for i, (name, behaviour) in enumerate(AFTER_CONTENT.items()):
        with subtests.test(name), H2Client(world.m, world.host("after", i)) as app:
            a.default = behaviour
            answer = app.answer(app.chat(stream=True))
            assert (answer.status, answer.reset) == (200, None)
            assert said(answer) == "a w1 w2"
            assert "error" in list(events(answer))[-1]
            status = world.health("after", i)["a"]
            assert (status["failures"], status["successes"]) == (1, 0)
            a.default = GOOD
            again = app.answer(app.chat(stream=True, user="another"))  # the same again would not be asked of it first
            assert (said(again), b"[DONE]" in again.body) == (text_of("a", GOOD), True)
    assert b.count == 0


def test_twenty_parallel_streams_have_twenty_fates(world: World) -> None:
    """On one client connection each call fails over, breaks or succeeds by itself, and gets the answer to itself."""
    fates = [
        Behaviour(),
        Behaviour(status=503),
        Behaviour(tokens=40, pace=0.005),
        Behaviour(cut_after=3, cut_by="close"),
        Behaviour(reset=True),
    ]
    a, b = world.a, world.b
    a.chooser = lambda seen: fates[int(seen.json["user"]) % 5]
    b.chooser = lambda seen: Behaviour(tokens=7 + int(seen.json["user"]))
    with H2Client(world.m, world.host("parallel"), timeout=5) as app:
        numbers = [app.chat(stream=i % 2 == 0, user=str(i)) for i in range(20)]
        for i, number in reversed(list(enumerate(numbers))):
            answer = app.answer(number)
            fate, stream = fates[i % 5], i % 2 == 0
            assert (answer.status, answer.reset) == (200, None), (i, answer)
            if fate.cut_after and stream:
                assert said(answer) == "a w1 w2"
                assert b'"error"' in answer.body
                continue
            failed_over = fate.reset or fate.status != 200 or fate.cut_after is not None
            expected = text_of("b", Behaviour(tokens=7 + i)) if failed_over else text_of("a", fate)
            assert said(answer) == expected, (i, answer)
            assert _trail(answer).rpartition(", ")[2] == ("b:200" if failed_over else "a:200")
    health = world.health("parallel")
    # Four calls of each fate; a 503 and a reset are tried twice.
    assert health["a"]["failures"] == 8 + 8 + 4
    assert health["a"]["successes"] == 8
    assert (health["b"]["failures"], health["b"]["successes"]) == (0, 10)


def test_giving_one_stream_up_leaves_its_siblings_alone(h2_world: World) -> None:
    """A silent attempt is reset by itself: a sibling on the same upstream connection goes on and ends whole."""
    gate = threading.Event()
    a = h2_world.a
    assert isinstance(a, H2Provider)
    slow = Behaviour(gate=gate, gate_at=2)
    a.chooser = lambda seen: slow if seen.json["user"] == "slow" else Behaviour(silent=True)
    with H2Client(h2_world.m, h2_world.host("siblings")) as app:
        stays = app.chat(stream=True, user="slow")
        app.until(stays, b" w1")
        given_up = [app.chat(stream=stream, user="silent") for stream in (False, True)]
        for number in given_up:
            assert said(app.answer(number)) == text_of("b", GOOD)
        gate.set()
        assert said(app.answer(stays)) == text_of("a", GOOD)
    assert (a.connections, a.resets) == (1, [CANCEL, CANCEL])
    status = h2_world.health("siblings")["a"]
    assert (status["failures"], status["successes"]) == (2, 1)


def test_waiting_for_a_free_upstream_stream_is_no_silence(h2_world: World) -> None:
    """Calls that a provider's limit of concurrent streams keeps waiting inside the proxy longer than `first_byte` are
    answered by that provider and counted as no failure."""
    a, b = h2_world.few, h2_world.b
    with H2Client(h2_world.m, h2_world.host("few")) as app:
        # The provider's settings are known once it has answered something.
        assert app.answer(app.chat()).status == 200
        a.default = Behaviour(pace=0.05)
        numbers = [app.chat(stream=True, user=str(i)) for i in range(8)]
        for number in numbers:
            answer = app.answer(number)
            assert (said(answer), _trail(answer)) == (text_of("a", GOOD), "a:200")
    status = h2_world.health("few")["a"]
    assert (status["failures"], status["successes"], b.count) == (0, 9, 0)


# --- clients that leave one stream

STAGES = [
    ("before headers", Behaviour(silent=True), False, b""),
    ("before headers, streamed", Behaviour(silent=True), True, b""),
    ("in a held whole answer", Behaviour(headers_then_silent=True), False, b""),
    ("in a held stream", Behaviour(headers_then_silent=True), True, b""),
    ("in held lifecycle events", Behaviour(pings_only=True), True, b""),
    ("mid-stream", Behaviour(stall_after=2), True, b" w1"),
    ("mid-stream, flowing", Behaviour(tokens=10_000, pace=0.001), True, b" w9"),
]


def test_a_cancelled_stream_gives_its_permit_back(world: World, subtests: pytest.Subtests) -> None:
    """Whatever stage the app cancels a call at, the provider is told, the permit is back, nobody is blamed, nobody
    else is asked, and a call beside it is answered."""
    a, b, m = world.a, world.b, world.m
    for i, (name, behaviour, stream, mark) in enumerate(STAGES):
        with subtests.test(name), H2Client(m, world.host("cancel", i)) as app:
            a.arrived = threading.Semaphore(0)
            a.chooser = _by_user(behaviour)
            number = app.chat(stream=stream, user="leaves")
            a.wait_for_request()
            if mark:
                app.until(number, mark)
            elif not behaviour.silent:
                # What the provider has sent is held back in the proxy: give it the time to get there.
                threading.Event().wait(0.05)
            assert m.health()["in_flight"] == 1
            app.cancel(number)
            until(lambda: a.in_flight == 0, "no request stays with the provider")
            status = world.health("cancel", i)["a"]
            assert (status["state"], status["failures"]) == ("closed", 0)
            assert said(app.answer(app.chat(stream=stream, user="stays"))) == text_of("a", GOOD)
    assert b.count == 0
    if isinstance(a, H2Provider):
        assert a.resets == [CANCEL] * len(STAGES)


def _by_user(behaviour: Behaviour) -> Callable[[Seen], Behaviour]:
    return lambda seen: behaviour if seen.json["user"] == "leaves" else GOOD


def test_a_stream_cancelled_during_a_backoff_asks_nobody_again(world: World) -> None:
    """The app leaves between two attempts: no further one is sent, and none is counted against a provider."""
    a, b = world.a, world.b
    a.chooser = _by_user(Behaviour(status=503))
    with H2Client(world.m, world.host("backoff")) as app:
        number = app.chat(stream=True, user="leaves")
        a.wait_for_request()
        until(lambda: world.state("backoff")["failures"] == 1, "the first attempt has failed")
        app.cancel(number)
        # Longer than the longest backoff: nothing may come of it.
        threading.Event().wait(0.9)
        assert (a.count, b.count) == (1, 0)
        assert world.health("backoff")["a"]["failures"] == 1
        assert said(app.answer(app.chat(user="stays"))) == text_of("a", GOOD)


def test_a_stream_cancelled_while_connecting_asks_nobody(h2_world: World) -> None:
    """The app leaves while a provider's TLS handshake hangs: nobody is blamed and the next one never hears of it."""
    m, b = h2_world.m, h2_world.b
    with H2Client(m, h2_world.host("mute")) as app:
        number = app.chat(stream=True)
        until(lambda: m.health()["in_flight"] == 1, "the attempt has begun")
        app.cancel(number)
        until(lambda: m.health()["in_flight"] == 0, "its permit is back before the handshake is given up", 0.8)
        assert h2_world.health("mute")["a"]["failures"] == 0
        assert b.count == 0
        answer = app.answer(app.chat())
        assert (said(answer), _trail(answer)) == (text_of("b", GOOD), "a:connect, a:connect, b:200")


def test_a_cancelled_stream_in_mitmproxys_queue_leaves_no_trace(h2_world: World) -> None:
    """The app leaves while its call waits for a free upstream stream: the permit is back and the others go on."""
    gate = threading.Event()
    a, m = h2_world.one, h2_world.m
    with H2Client(m, h2_world.host("queue")) as app:
        assert app.answer(app.chat()).status == 200
        a.default = Behaviour(gate=gate, gate_at=2)
        first = app.chat(stream=True)
        app.until(first, b" w1")
        queued, last = app.chat(stream=True, user="queued"), app.chat(stream=True, user="last")
        until(lambda: m.health()["in_flight"] == 3, "three attempts are under way")
        app.cancel(queued)
        until(lambda: m.health()["in_flight"] == 2, "the cancelled one is over")
        gate.set()
        assert said(app.answer(first)) == said(app.answer(last)) == text_of("a", GOOD)
        assert said(app.answer(app.chat())) == text_of("a", GOOD)
    status = h2_world.health("queue")["a"]
    assert (status["failures"], status["successes"]) == (0, 4)


def test_an_app_that_drops_its_connection_leaves_nothing(world: World) -> None:
    """Ten calls at several stages end with their connection: all permits are back, no failure is counted."""
    fates = [Behaviour(silent=True), Behaviour(pings_only=True), Behaviour(stall_after=2)]
    a = world.a
    a.chooser = lambda seen: fates[int(seen.json["user"]) % 3]
    # Not more than five connections: mitmproxy makes no more to one HTTP/1.1 address.
    count = 10 if world.version == "h2" else 5
    for _ in range(8):
        with H2Client(world.m, world.host("drop")) as app:
            numbers = [app.chat(stream=True, user=str(i)) for i in range(count)]
            for _ in numbers:
                a.wait_for_request()
            app.until(numbers[2], b" w1")
    status = world.health("drop")["a"]
    assert (status["state"], status["failures"]) == ("closed", 0)
    until(lambda: a.in_flight == 0, "no request stays with the provider")


@pytest.mark.parametrize("own_streams", [True, False], ids=["streams alone", "with their connection"])
def test_streams_that_are_reset_as_soon_as_they_are_opened(world: World, own_streams: bool) -> None:
    """The request and its end come in one piece, or the head alone, or the end a moment later; many times over. All
    permits are back, neutral, and whoever is there meanwhile is answered."""
    a, b, m = world.a, world.b, world.m
    row = int(own_streams)
    a.chooser = _by_user(Behaviour(silent=True))
    head = (("content-type", "application/json"), ("content-length", "9999"))
    with H2Client(m, world.host("hasty", row)) as other:
        for _ in range(4):
            with H2Client(m, world.host("hasty", row)) as app:
                for _ in range(10):
                    with app.in_one_breath():
                        numbers = [app.chat(stream=i % 2 == 0, user="leaves") for i in range(3)]
                        numbers.append(app.send("/v1/chat/completions", b"{", *head, ends=False))
                        for number in numbers:
                            app.cancel(number)
                    late = app.chat(stream=True, user="leaves")
                    app.cancel(late)
                if own_streams:
                    assert said(app.answer(app.chat(user="stays"))) == text_of("a", GOOD)
            assert said(other.answer(other.chat(user="stays"))) == text_of("a", GOOD)
    status = world.health("hasty", row)["a"]
    assert (status["state"], status["failures"], status["failure_count"]) == ("closed", 0, 0)
    assert status["totals"]["failure"] == status["totals"]["cooldown"] == 0
    assert status["totals"]["success"] == (8 if own_streams else 4)
    until(lambda: a.in_flight == 0, "no request stays with the provider")
    assert b.count == 0


# --- GOAWAY

BEFORE_CONTENT = [
    ("before headers", Behaviour(silent=True), "a:connect, b:200"),
    ("after headers", Behaviour(headers_then_silent=True), "a:bad_response, b:200"),
    ("in lifecycle events", Behaviour(pings_only=True), "a:bad_response, b:200"),
]


def test_a_goaway_before_content_fails_over(h2_world: World, subtests: pytest.Subtests) -> None:
    """All streams that a GOAWAY takes before content are answered by the next provider."""
    a = h2_world.a
    assert isinstance(a, H2Provider)
    for i, (name, behaviour, trail) in enumerate(BEFORE_CONTENT):
        with subtests.test(name), H2Client(h2_world.m, h2_world.host("goaway", i)) as app:
            a.arrived = threading.Semaphore(0)
            a.default = behaviour
            numbers = [app.chat(stream=True, user=str(n)) for n in range(3)]
            for _ in numbers:
                a.wait_for_request()
            if not behaviour.silent:
                threading.Event().wait(0.05)
            a.go_away()
            for number in numbers:
                answer = app.answer(number)
                assert (said(answer), _trail(answer)) == (text_of("b", GOOD), trail)
            status = h2_world.health("goaway", i)["a"]
            assert (status["failures"], status["successes"]) == (3, 0)


def test_a_goaway_is_retried_at_the_same_provider(h2_world: World) -> None:
    """A provider that restarts its connections answers the second attempt, over a new one."""
    a, b = h2_world.a, h2_world.b
    assert isinstance(a, H2Provider)
    a.then(Behaviour(silent=True))
    with H2Client(h2_world.m, h2_world.host("restart")) as app:
        number = app.chat(stream=True)
        a.wait_for_request()
        a.go_away()
        answer = app.answer(number)
    assert (said(answer), _trail(answer)) == (text_of("a", GOOD), "a:connect, a:200")
    assert (a.connections, b.count) == (2, 0)


def test_a_goaway_after_content_ends_in_an_error_event(h2_world: World) -> None:
    """A stream that a GOAWAY cuts is not made to look complete, and one that was done stays good."""
    a = h2_world.a
    assert isinstance(a, H2Provider)
    a.then(GOOD, Behaviour(stall_after=3))
    with H2Client(h2_world.m, h2_world.host("late")) as app:
        whole = app.answer(app.chat(stream=True))
        number = app.chat(stream=True)
        app.until(number, b" w2")
        a.go_away()
        broken = app.answer(number)
    assert (said(whole), b'"error"' in whole.body) == (text_of("a", GOOD), False)
    assert (said(broken), broken.reset) == ("a w1 w2", None)
    assert "error" in list(events(broken))[-1]
    status = h2_world.health("late")["a"]
    assert (status["failures"], status["successes"]) == (1, 1)
