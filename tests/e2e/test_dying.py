"""Apps that vanish and providers that die, at every stage of a call, over both HTTP versions on either side: no
traceback, no stuck stream, no wrong vote, and what comes after is answered.

`h1-h1`: what the app speaks, what the provider speaks; `tls` is HTTP/1.1 over TLS. There is no `h1-h2`: mitmproxy
offers a server the versions that its client speaks.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import trustme

from support.apps import WAYS, App, H1App, H2App
from support.h2client import H2Client, events, said
from support.h2provider import H2Provider, server_context
from support.holes import Hole
from support.provider import Behaviour, Provider, Seen, text_of
from support.proxy import FORBIDDEN, Mitmdump
from support.settings import inline, route, table
from support.waiting import has_been_read, until

Combo = Literal["h1-h1", "h1-tls", "h2-h1", "h2-h2"]
COMBOS: tuple[Combo, ...] = ("h1-h1", "h1-tls", "h2-h1", "h2-h2")
GOOD = Behaviour()
PIECES = 4
"""So many pings, or bytes of a dripping answer, and their head is long with the proxy."""


# --- what happens when


@dataclass(frozen=True)
class Stage:
    """How far a call has come. `behaviour` takes it there and no further."""

    name: str
    behaviour: Behaviour | None = None
    hole: Literal["mute", "full"] | None = None
    mark: bytes = b""
    """What the app has seen of its stream by then."""
    complete: bool = False
    """The whole stream is held back."""


BEFORE_CONNECT = Stage("before connect", hole="full")
IN_TLS = Stage("in TLS", hole="mute")
BEFORE_HEADERS = Stage("before headers", Behaviour(silent=True))
HELD_STREAM = Stage("in held-back content", Behaviour(pings_only=True))
HELD_WHOLE = Stage("in held-back content", Behaviour(drip=True))
HELD_COMPLETE = Stage("mid-stream, held back whole", Behaviour(stall_after=3), complete=True)
MID_STREAM = Stage("mid-stream", Behaviour(stall_after=3), mark=b" w2")
LAST_BYTE = Stage("at the last byte", Behaviour(last="stall"), mark=b'"stop"')
LAST_BYTE_WHOLE = Stage("at the last byte", Behaviour(last="stall"))
STREAMED = (BEFORE_CONNECT, IN_TLS, BEFORE_HEADERS, HELD_STREAM, HELD_COMPLETE, MID_STREAM, LAST_BYTE)
WHOLE = (BEFORE_CONNECT, IN_TLS, BEFORE_HEADERS, HELD_WHOLE, LAST_BYTE_WHOLE)


@dataclass(frozen=True)
class Case:
    """A stage of a call, and how it ends there. `number` names its host and the providers behind it: others share
    them, but for cases with a hole, each of which has its own."""

    number: int
    combo: Combo
    stage: Stage
    stream: bool
    how: str

    @property
    def id(self) -> str:
        return f"{self.combo}-{'stream' if self.stream else 'whole'}-{self.stage.name}-{self.how}"

    @property
    def host(self) -> str:
        return f"row{self.number}.test"


PATIENCE, FUZZ, TOGETHER_RESET, TOGETHER_CLOSE, BETWEEN, PLAIN, COMPLETE, HOLES = range(0, 80, 10)
"""Rows of the providers: from each of these on, one for each combination, and one for each hole."""


def _stages(combo: Combo) -> Iterator[tuple[Stage, bool]]:
    for stream, stages in ((True, STREAMED), (False, WHOLE)):
        for stage in stages:
            if combo in ("h1-h1", "h2-h1") and stage is IN_TLS:
                continue
            if combo == "h1-tls" and stage not in (IN_TLS, BEFORE_HEADERS, MID_STREAM, LAST_BYTE_WHOLE):
                continue  # nothing else depends on TLS
            yield stage, stream


def _cases(hows: Callable[[Combo, Stage], tuple[str, ...]], holes: int) -> list[Case]:
    """`holes`: the first row for them."""
    found: list[Case] = []
    rows = itertools.count(holes)
    for combo in COMBOS:
        for stage, stream in _stages(combo):
            shared = (COMPLETE if stage.complete else PLAIN) + COMBOS.index(combo)
            for how in hows(combo, stage):
                found.append(Case(shared if stage.hole is None else next(rows), combo, stage, stream, how))
    return found


LEAVING = _cases(lambda combo, stage: WAYS[combo[:2]], HOLES)
DYING = _cases(lambda combo, stage: ("reset",) if stage.hole else ("reset", "close"), HOLES + 100)


@dataclass
class World:
    m: Mitmdump
    providers: dict[str, tuple[Provider, Provider]]
    """The first and the second one, by what they speak."""
    holes: dict[int, Hole]

    def app(self, case: Case) -> App:
        return (H2App if case.combo.startswith("h2") else H1App)(self.m, case.host)

    def pair(self, combo: Combo) -> tuple[Provider, Provider]:
        a, b = self.providers[combo[3:]]
        for p in (a, b):
            p.requests.clear()
            p.script.clear()
            p.default, p.chooser = GOOD, None
            p.arrived = threading.Semaphore(0)
        return a, b

    def votes(self, number: int) -> tuple[Counter[str], Counter[str]]:
        """What has been counted for and against a row's two providers, once nothing is under way; no permit is out
        anywhere, no circuit but closed."""
        health: dict[str, Any] = {}

        def over() -> bool:
            health.update(self.m.health())
            return bool(health["in_flight"] == 0)

        until(over, "no attempt is in flight")
        providers = health["providers"]
        assert [name for name, p in providers.items() if p["permits_out"] or p["in_flight"] or p["cooldown"]] == []
        assert {p["state"] for p in providers.values()} == {"closed"}
        a, b = (providers[f"{name}-{number}"] for name in "ab")
        return tuple(Counter({word: p[word] for word in ("failures", "successes")}) for p in (a, b))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder, ca = tmp_path_factory.mktemp("dying"), trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    with ExitStack() as stack:

        def pair(make: Callable[[str], Provider]) -> tuple[Provider, Provider]:
            return stack.enter_context(make("a")), stack.enter_context(make("b"))

        providers = {
            "h1": pair(Provider),
            "tls": pair(lambda name: Provider(name, tls=server_context(ca))),
            "h2": pair(lambda name: H2Provider(name, ca)),
        }
        holes: dict[int, Hole] = {}
        texts = [
            table("timeouts", {"connect": 1.1}),
            table("attempts", {"backoff_seconds": 0.02}),
            table("circuit", {"failure_threshold": 10_000, "min_requests": 10_000, "window_seconds": 3600}),
        ]

        def add(number: int, a: Provider, b: Provider, **tables: Any) -> None:
            bases = (f"http://row{number}.test/v1", f"https://row{number}.test/v1")
            extra = {"a": inline(**tables)}
            texts.append(route("chat", a, b, intercept=bases, suffix=f"-{number}", extra=extra))

        for case in LEAVING + DYING:
            if case.stage.hole is not None:
                hole = holes[case.number] = Hole(case.stage.hole)
                stack.callback(hole.close)
                a, b = providers[case.combo[3:]]
                stand_in = Provider("a", tls=a.tls)
                stand_in.port = hole.port
                add(case.number, stand_in, b)
        for i, combo in enumerate(COMBOS):
            both = providers[combo[3:]]
            for first in (FUZZ, TOGETHER_RESET, TOGETHER_CLOSE, PLAIN):
                add(first + i, *both)
            add(PATIENCE + i, *both, timeouts={"first_byte": 0.3, "headers": 30})
            add(BETWEEN + i, *both, attempts={"backoff_seconds": 0.8})
            add(COMPLETE + i, *both, stream={"commit": "complete"})
        trust = ("--set", f"ssl_verify_upstream_trusted_ca={folder / 'ca.pem'}")
        m = stack.enter_context(Mitmdump(folder / "proxy", "\n".join(texts), *trust))
        yield World(m, providers, holes)


@pytest.fixture(autouse=True)
def _the_log_is_clean(world: World) -> Iterator[None]:
    """No test leaves a traceback, or a crash of a layer, in the proxy's log."""
    before = len(world.m.lines)
    yield
    bad = [line for line in world.m.lines[before:] if any(word in line for word in FORBIDDEN)]
    assert bad == [], "\n".join(world.m.lines[before:])


def _reach(world: World, case: Case, app: App, a: Provider) -> Seen | None:
    """Send the call and wait until it is where its stage says."""
    behaviour = case.stage.behaviour
    if behaviour is None:
        world.holes[case.number].fill()
        app.send(stream=case.stream)
        until(lambda: world.m.health()["in_flight"] == 1, "the attempt has begun")
        if case.stage is IN_TLS:
            assert world.holes[case.number].arrived.acquire(timeout=5)
        return None
    a.then(behaviour)
    app.send(stream=case.stream, user=case.id)  # rows share a number, and what failed would begin elsewhere
    seen = a.wait_for_request()
    if case.stage.mark:
        app.until(case.stage.mark)
    elif behaviour.pings_only or behaviour.drip:
        until(lambda: seen.pieces >= PIECES, "the provider has begun")
        until(lambda: has_been_read(a.port), "the proxy has read it")
    elif case.stage.complete:
        # What is held back shows as a success, for content has come.
        until(lambda: world.m.provider(f"a-{case.number}")["permits_out"] == 0, "content has come")
    elif not behaviour.silent:
        until(lambda: seen.waits, "the provider has sent what it will")
        until(lambda: has_been_read(a.port), "the proxy has read it")
    return seen


def _is_answered(app: App, stream: bool, name: str = "a") -> None:
    app.send(stream=stream, user="another")  # what failed, made again, would not be asked of the same provider first
    answer = app.answer()
    assert (answer.status, answer.reset, said(answer)) == (200, None, text_of(name, GOOD)), answer


@pytest.mark.parametrize("case", LEAVING, ids=lambda case: case.id)
def test_an_app_that_leaves(case: Case, world: World) -> None:
    """Whatever stage an app leaves at, its provider is told, nobody is blamed, nobody else is asked, and its next call
    is answered: on the same connection if it gave up only the one call, and on a new one."""
    a, b = world.pair(case.combo)
    before, other_before = world.votes(case.number)
    hole = world.holes.get(case.number)
    name = "a" if hole is None else "b"
    with world.app(case) as app:
        seen = _reach(world, case, app, a)
        app.leave(case.how)
        votes, other = world.votes(case.number)
        # Content that came counts, whatever the app does then.
        came = case.stream and (case.stage.mark or case.stage.complete)
        assert votes - before == Counter(successes=1 if came else 0) + Counter()
        assert (other, b.count) == (other_before, 0)
        if seen is not None:
            assert seen.client_left.wait(5), "the provider's request was not given up"
            assert a.count == 1
        if hole is not None:
            hole.slam()
        if case.how == "cancel":
            _is_answered(app, case.stream, name)
    with world.app(case) as app:
        _is_answered(app, not case.stream, name)
        _is_answered(app, case.stream, name)


@pytest.mark.parametrize("case", DYING, ids=lambda case: case.id)
def test_a_provider_that_dies(case: Case, world: World) -> None:
    """Whatever stage a provider dies at, with a reset or in good order, the app has a whole answer, or what came and
    an error event; the provider is blamed once for each connection that it broke, and the app's next calls are
    answered, on the same connection and on a new one."""
    a, _ = world.pair(case.combo)
    stage, hole = case.stage, world.holes.get(case.number)
    before, other_before = world.votes(case.number)
    with world.app(case) as app:
        if hole is not None:
            hole.slam()
            app.send(stream=case.stream)
        else:
            _reach(world, case, app, a)
            if case.how == "reset":
                a.cut_all()
            else:
                a.hang_up_all()
        answer = app.answer()
        assert (answer.status, answer.reset) == (200, None)
        trail = answer.headers["x-sidestep-attempts"].replace(f"-{case.number}", "")
        first, second = (now - then for now, then in zip(world.votes(case.number), (before, other_before), strict=True))
        votes = (first["failures"], first["successes"], second["successes"])
        text = text_of(trail.rpartition(", ")[2][0], GOOD)
        broken = False
        match stage.name:
            case "before connect" | "in TLS":
                expected = ("a:connect, a:connect, b:200", (2, 0, 1))
            case "before headers":
                expected = ("a:connect, a:200", (1, 1, 0))
            case "mid-stream":
                expected = ("a:200", (1, 0, 0))
                text, broken = "a w1 w2", True
            case "mid-stream, held back whole":
                expected = ("a:truncated, b:200", (1, 0, 1))
            case "at the last byte" if case.stream:
                expected = ("a:200", (0, 1, 0))
            case _:
                expected = ("a:bad_response, b:200", (1, 0, 1))
        assert (trail, votes) == expected
        assert (said(answer), any("error" in event for event in events(answer))) == (text, broken)
        assert (b"[DONE]" in answer.body) is (case.stream and not broken)
        assert second["failures"] == 0
        _is_answered(app, case.stream, "b" if hole else "a")
    with world.app(case) as app:
        _is_answered(app, not case.stream, "b" if hole else "a")


def _row(number: int, combo: Combo) -> Case:
    return Case(number + COMBOS.index(combo), combo, BEFORE_HEADERS, False, "close")


@pytest.mark.parametrize("combo", COMBOS)
def test_an_app_that_has_waited_too_long(combo: Combo, world: World) -> None:
    """An app that leaves after `first_byte` had passed without a byte says something of the provider."""
    a, _ = world.pair(combo)
    case = _row(PATIENCE, combo)
    a.default = Behaviour(silent=True)
    with world.app(case) as app:
        app.send(stream=False)
        a.wait_for_request()
        threading.Event().wait(0.6)  # twice as long as `first_byte`
        assert world.m.health()["in_flight"] == 1
        app.leave("close")
        votes, _ = world.votes(case.number)
    assert votes == Counter(failures=1, successes=0)
    metrics = world.m.page("/metrics")[1].decode()
    assert f'outcome="failure",provider="a-{case.number}",reason="timeout"}} 1.0' in metrics


@pytest.mark.parametrize("combo", ["h1-h1", "h2-h1", "h2-h2"])
def test_apps_that_leave_between_two_attempts(combo: Combo, world: World) -> None:
    """Apps that leave during a backoff, or while a short Retry-After is waited out: nobody is asked in their place, and
    nobody is blamed for more than he did."""
    a, b = world.pair(combo)
    case = _row(BETWEEN, combo)
    a.chooser = lambda seen: {
        "backoff": Behaviour(status=503),
        "wait": Behaviour(status=429, headers={"retry-after-ms": "1000"}),
    }.get(seen.json.get("user"), GOOD)
    calls = [*(("backoff", how) for how in WAYS[combo[:2]]), ("wait", "close")]
    with ExitStack() as stack:
        left: list[tuple[App, str]] = []
        for user, how in calls:
            app = world.app(case)
            stack.enter_context(app)
            app.send(stream=True, user=user)
            a.wait_for_request()
            left.append((app, how))
        until(lambda: world.m.health()["in_flight"] == 0, "all first attempts are over")
        for app, how in left:
            app.leave(how)
        # Longer than the longest backoff and than the wait: nothing may come of them.
        threading.Event().wait(1.3)
        assert (a.count, b.count) == (len(calls), 0)
    votes, _ = world.votes(case.number)
    assert votes == Counter(failures=len(calls) - 1, successes=0)
    with world.app(case) as app:
        _is_answered(app, True)


TOGETHER: dict[str, tuple[bool, Behaviour, str, tuple[str, ...]]] = {
    "silent": (True, Behaviour(silent=True), "", ("a:connect, a:200",)),
    "held": (True, Behaviour(pings_only=True), "", ("a:bad_response, b:200",)),
    "held whole": (False, Behaviour(drip=True), "", ("a:bad_response, b:200",)),
    "flowing": (True, Behaviour(stall_after=3), " w2", ("a:200",)),
    "done": (True, Behaviour(last="stall"), '"stop"', ("a:200",)),
}


@pytest.mark.parametrize("combo", ["h2-h1", "h2-h2"])
@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_provider_that_dies_under_many(combo: Combo, how: str, world: World) -> None:
    """Five calls of one app at five stages, when their provider dies: each goes on as if it were alone."""
    a, _ = world.pair(combo)
    case = _row(TOGETHER_RESET if how == "reset" else TOGETHER_CLOSE, combo)
    first = set(TOGETHER)

    def choose(seen: Seen) -> Behaviour:
        user = seen.json["user"]
        if user not in first:
            return GOOD
        first.discard(user)
        return TOGETHER[user][1]

    a.chooser = choose
    with H2Client(world.m, case.host) as app:
        numbers = {name: app.chat(stream=stream, user=name) for name, (stream, *_) in TOGETHER.items()}
        for _ in numbers:
            a.wait_for_request()
        for name, (_, _, mark, _) in TOGETHER.items():
            if mark:
                app.until(numbers[name], mark.encode())
        until(lambda: all(s.pieces >= PIECES for s in a.requests if "held" in s.json["user"]), "both have begun")
        until(lambda: has_been_read(a.port), "the proxy has read it")
        if how == "reset":
            a.cut_all()
        else:
            a.hang_up_all()
        for name, number in numbers.items():
            answer = app.answer(number)
            trail = answer.headers["x-sidestep-attempts"].replace(f"-{case.number}", "")
            assert (answer.status, answer.reset) == (200, None)
            assert trail in TOGETHER[name][3], name
            whole = text_of(trail.rpartition(", ")[2][0], GOOD)
            assert said(answer) == ("a w1 w2" if name == "flowing" else whole), name
            assert any("error" in event for event in events(answer)) is (name == "flowing"), name
        assert world.votes(case.number) == (Counter(failures=4, successes=2), Counter(failures=0, successes=2))
        assert said(app.answer(app.chat(user="later"))) == text_of("a", GOOD)


@pytest.mark.parametrize("combo", COMBOS)
def test_apps_that_leave_at_random(combo: Combo, world: World) -> None:
    """Eighty calls that are left at random moments of a stream: nobody is blamed, nothing stays out."""
    a, b = world.pair(combo)
    case = _row(FUZZ, combo)
    a.default = Behaviour(tokens=300, pace=0.001)
    wrong: list[BaseException] = []

    def leave(seed: int) -> None:
        rng = random.Random(f"{combo} {seed}")
        try:
            for _ in range(10):
                with world.app(case) as app:
                    app.send(stream=True)
                    for _ in range(rng.randrange(6)):
                        app.take_some()
                    app.leave(rng.choice(WAYS[combo[:2]]))
        except BaseException as e:
            wrong.append(e)

    _all_at_once(8, leave)
    assert wrong == []
    votes, _ = world.votes(case.number)
    assert (votes["failures"], b.count) == (0, 0)
    until(lambda: a.in_flight == 0, "no request stays with the provider")
    a.default = GOOD
    with world.app(case) as app:
        _is_answered(app, True)
        _is_answered(app, False)


@pytest.mark.parametrize("combo", COMBOS)
def test_a_provider_that_dies_at_random(combo: Combo, world: World) -> None:
    """While a provider's connections break every few dozen milliseconds each call ends: with a whole answer, or with a
    part of one and an error event."""
    a, _ = world.pair(combo)
    case = _row(FUZZ, combo)
    slow = a.default = Behaviour(tokens=30, pace=0.003)
    wrong: list[BaseException] = []
    over = threading.Event()
    whole = [text_of("a", slow), text_of("b", GOOD)]

    def ask(seed: int) -> None:
        rng = random.Random(f"{combo} {seed}")
        try:
            with world.app(case) as app:
                for i in range(8):
                    stream = rng.random() < 0.7
                    app.send(stream=stream, user=f"{seed}-{i}")
                    answer = app.answer()
                    assert (answer.status, answer.reset) == (200, None), answer
                    if any("error" in event for event in events(answer)):
                        assert whole[0].startswith(said(answer)), answer
                        assert b"[DONE]" not in answer.body
                    else:
                        assert said(answer) in whole, answer
        except BaseException as e:
            wrong.append(e)

    def kill() -> None:
        rng = random.Random(f"{combo} deaths")
        while not over.wait(rng.uniform(0.02, 0.12)):
            rng.choice((a.cut_all, a.hang_up_all))()

    killer = threading.Thread(target=kill)
    killer.start()
    _all_at_once(4, ask)
    over.set()
    killer.join(5)
    assert wrong == []
    assert world.votes(case.number)[1]["failures"] == 0
    a.default = GOOD
    with world.app(case) as app:
        _is_answered(app, True)
        _is_answered(app, False)


def _all_at_once(count: int, work: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a call never ended"
