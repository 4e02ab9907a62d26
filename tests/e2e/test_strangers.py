"""Clients that may use no key: their calls pass as if Sidestep were not there, and change nothing of what it knows.

They are real ones, in a network namespace of their own; where the machine cannot make one the tests skip.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sidestep.fleet.scripts import Script
from support import tables
from support.collector import Collector
from support.fleet import Store, together
from support.hostile import hostile
from support.namespaces import GATEWAY, Networks, networks
from support.provider import Behaviour, Provider, Seen, text_of
from support.proxy import Mitmdump
from support.raw import Wire, chat, request, to_server
from support.settings import key_of, table
from support.waiting import until

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]
KEYED = "http://keyed.test/v1"
QUICK = table("circuit", {"failure_threshold": 2}) + table("attempts", {"wait_seconds": 0})


@pytest.fixture
def net() -> Iterator[Networks]:
    """Two networks and a cable; the proxy and the providers are in the first, strangers come from the second."""
    with networks() as made:
        made.join_by_cable()
        yield made


def settings(own: Provider, b: Provider, more: str = "") -> str:
    """`own` is addressed, with the app's own credential; b has a key of ours, as the only one at another intercept."""
    return "\n".join(
        [
            QUICK + more,
            f'[[providers]]\nname = "own"\ndialect = "openai"\nbase_url = "{own.url()}"\n',
            f'headers = {{ X-Ours = "{key_of("own")}" }}\n',
            f'[[providers]]\nname = "b"\ndialect = "openai"\nbase_url = "{b.url()}"\napi_key = "{key_of("b")}"\n',
            f'[[routes]]\nintercept = ["{own.url()}"]\nproviders = ["own", "b"]\n',
            f'[[routes]]\nintercept = ["{KEYED}"]\nproviders = ["b"]\n',
        ]
    )


def stranger(net: Networks, m: Mitmdump) -> Wire:
    with net.as_client():
        return Wire.over(socket.create_connection((GATEWAY, m.port), timeout=15))


@pytest.fixture
def start(net: Networks, proxy: Start) -> Callable[..., Mitmdump]:
    return lambda text, **more: proxy(text, "-s", str(Path(tables.__file__)), listen="0.0.0.0", **more)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store


@pytest.fixture
def collector(net: Networks) -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def known(m: Mitmdump) -> dict[str, Any]:
    """All that is known of the providers, and how large each table is."""
    with Wire(m) as wire:
        sizes = json.loads(wire.send(request("http://tables.test/", b"", method="GET")).answer()[2])
    return {**sizes, "health": m.health(), "metrics": m.page("/metrics")[1].decode().splitlines()}


def at_first(net: Networks, m: Mitmdump) -> dict[str, Any]:
    """The same, once a stranger has been there, our pages were read, and so was the price list."""
    with stranger(net, m) as wire:
        wire.send(request("http://sidestep.internal/health", b"", method="GET")).answer()
    until(lambda: known(m)["sidestep.routing.prices.rates"] > 0, "the price list is read")
    return known(m)


PROXYS = ("addon._tasks", "addon._quickened", "addon.core.overview.", "addon.core.engine.recent.")


def changed(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Without what belongs to the proxy as a whole: tasks, one entry for each kind of hook, what its page tells of the
    app's own calls."""
    return {
        name: (before.get(name), after.get(name))
        for name in before.keys() | after.keys()
        if before.get(name) != after.get(name) and not name.startswith(PROXYS)
    }


def test_calls_of_a_stranger_pass_as_they_are(net: Networks, provider: Make, start: Callable[..., Mitmdump]) -> None:
    """To whom they were addressed, with nothing of ours; what the provider does to them counts for no one else."""
    own, b = provider("own"), provider("b")
    m = start(settings(own, b))
    with Wire(m) as wire:
        assert wire.send(chat(own.url())).answer()[0] == 200
        assert wire.send(chat(KEYED)).answer()[0] == 200
    before = at_first(net, m)
    gate = [
        Behaviour(),
        Behaviour(status=429, headers={"retry-after": "86400"}),
        *[Behaviour(status=500)] * 5,
        Behaviour(status=401),
        Behaviour(reset=True),
        Behaviour(body=b"<html>"),
        Behaviour(headers={"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1h"}),
    ]
    for behaviour in gate:
        own.then(behaviour)
        with stranger(net, m) as wire:
            status, fields, _ = wire.send(chat(own.url(), key="sk-stranger", model="m")).answer()
        assert status == (502 if behaviour.reset else behaviour.status)
        assert not [name for name in fields if name.startswith("x-sidestep")]
        seen = own.requests[-1]
        assert seen.header("authorization") == "Bearer sk-stranger"
        assert key_of("own").encode() not in seen.raw_head
    own.then(Behaviour(tokens=9, pace=0.02), Behaviour(cut_after=2), Behaviour(stall_after=1))
    with stranger(net, m) as wire:
        got = wire.send(chat(own.url(), stream=True)).answer()[2]
        assert got.count(b"\n\n") > 9
    with stranger(net, m) as wire:
        wire.send(chat(own.url(), stream=True)).rest()
    with stranger(net, m) as wire:
        wire.send(chat(own.url(), stream=True))
        until(lambda: bool(own.requests) and own.requests[-1].waits, "the answer has stopped in the middle")
    assert changed(before, known(m)) == {}
    assert own.count == 1 + len(gate) + 3
    assert b.count == 1


def test_a_stranger_uses_no_key(net: Networks, provider: Make, start: Callable[..., Mitmdump]) -> None:
    """Where a call takes one it is refused, in the app's dialect; the pages tell one word."""
    own, b = provider("own"), provider("b")
    m = start(settings(own, b))
    before = at_first(net, m)
    with stranger(net, m) as wire:
        for _ in range(3):
            status, _, body = wire.send(chat(KEYED)).answer()
            assert (status, "allow_clients" in json.loads(body)["error"]["message"]) == (403, True)
        status, _, body = wire.send(request("http://sidestep.internal/health", b"", method="GET")).answer()
        assert (status, json.loads(body)) == (200, {"status": "ok"})
        for path in ("", "metrics"):
            status, _, body = wire.send(request(f"http://sidestep.internal/{path}", b"", method="GET")).answer()
            assert (status, b"own" in body) == (403, False)
    with stranger(net, m) as wire:
        handshake = f"GET {KEYED}/realtime?model=m HTTP/1.1\r\nHost: keyed.test\r\nUpgrade: websocket\r\n"
        assert wire.send(f"{handshake}Connection: upgrade\r\n\r\n".encode()).head()[0] == 403
    assert changed(before, known(m)) == {}
    assert (own.count, b.count) == (0, 0)


@pytest.mark.parametrize("mode", ["regular", "reverse"])
def test_a_stranger_is_led_to_no_other_proxy_of_this_machine(
    net: Networks, provider: Make, start: Callable[..., Mitmdump], tmp_path: Path, mode: str
) -> None:
    """Which would take it for a program of this machine. Other servers of this machine it reaches, as without us."""
    own, b = provider("own"), provider("b")
    m = start(settings(own, b))
    told = {"regular": r"HTTP\(S\) proxy", "reverse": "reverse proxy to .*"}[mode]
    more = () if mode == "regular" else ("--mode", "reverse:http://keyed.test")
    shared = {"XDG_RUNTIME_DIR": str(m.folder / "run")}
    with Mitmdump(tmp_path / "other", settings(own, b), *more, env=shared, port_in=told) as other:
        until(lambda: len(list((m.folder / "run").glob("**/*.json"))) == 2, "it can be found")
        for host in ("127.0.0.1", "127.1"):
            there = f"{host}:{other.port}"
            for before in (b"", f"CONNECT {there} HTTP/1.1\r\nHost: {there}\r\n\r\n".encode()):
                with stranger(net, m) as wire, contextlib.suppress(EOFError, ConnectionError):
                    if before:
                        wire.send(before).head()
                    sent = chat(f"http://{there}/v1").replace(f"Host: {there}".encode(), b"Host: keyed.test")
                    assert wire.send(to_server(sent) if before else sent).answer()[0] == 502
        with stranger(net, m) as wire:
            assert wire.send(chat(own.url())).answer()[0] == 200
    assert "was kept from the port of another proxy" in m.log
    assert b.count == 0


def test_rights_are_given_by_a_reload_and_taken_again(
    net: Networks, provider: Make, start: Callable[..., Mitmdump]
) -> None:
    """A connection that was open before may go on as it began; nothing is used that is not allowed now."""
    own, b = provider("own"), provider("b")
    m = start(settings(own, b))
    plain = m.config.read_text()
    with stranger(net, m) as old:
        assert old.send(chat(KEYED)).answer()[0] == 403
        m.config.write_text('[proxy]\nallow_clients = ["192.0.2.0/24"]\n' + plain)
        m.wait_for_log("configuration reloaded")
        with stranger(net, m) as new:
            status, _, body = new.send(chat(KEYED)).answer()
            assert (status, json.loads(body)["choices"][0]["message"]["content"]) == (200, text_of("b", Behaviour()))
            m.config.write_text(plain)
            until(lambda: m.log.count("configuration reloaded") == 2, "the rights are taken again")
            assert new.send(chat(KEYED)).answer()[0] == 403
            assert old.send(chat(KEYED)).answer()[0] == 403
    assert b.count == 1


def test_a_strangers_body_is_not_read(net: Networks, provider: Make, start: Callable[..., Mitmdump]) -> None:
    """Neither decoded nor looked into: what would become gigabytes costs the bytes that came."""
    own, b = provider("own"), provider("b")
    m = start(settings(own, b))
    before, memory = at_first(net, m), m.peak_memory
    bomb = gzip.compress(b'{"model":"m","messages":[{"file_id":"a"}' + b",[]" * (20 << 20) + b"]}")
    fields = ("Content-Type", "application/json"), ("Content-Encoding", "gzip")
    for base, status in ((own.url(), 200), (KEYED, 403)) * 3:
        with stranger(net, m) as wire:
            assert wire.send(request(f"{base}/chat/completions", bomb, *fields)).answer()[0] == status
    assert own.requests[-1].body == bomb
    assert m.peak_memory - memory < 16 << 20
    assert re.search("error", m.log, re.IGNORECASE) is None
    assert changed(before, known(m)) == {}


def _badly(seen: Seen) -> Behaviour:
    """What bad callers ask for, and good ones never get."""
    try:
        user = seen.json.get("user")
    except (ValueError, AttributeError, RecursionError):
        return Behaviour(body=b"{}")
    return {
        "429": Behaviour(status=429, headers={"retry-after": "86400"}),
        "500": Behaviour(status=500),
        "401": Behaviour(status=401),
        "cut": Behaviour(reset=True),
        "silent": Behaviour(silent=True),
        "html": Behaviour(body=b"<html>", headers={"content-type": "text/html"}),
        "limits": Behaviour(headers={"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "9h"}),
    }.get(user, Behaviour(body=b"{}"))


def _latencies(m: Mitmdump, url: str, until_done: Callable[[], bool]) -> list[float]:
    """Seconds of one app's calls, one after the other."""
    found: list[float] = []
    with Wire(m, timeout=30) as wire:
        while not until_done() or len(found) < 100:
            began = time.monotonic()
            status, fields, _ = wire.send(chat(url, user="good")).answer()
            found.append(time.monotonic() - began)
            assert (status, fields["x-sidestep-attempts"]) == (200, "b:200")
            time.sleep(0.005)
    return sorted(found)


SEED, HOSTILE = 10, 1_000


def test_a_thousand_hostile_requests_of_strangers(
    net: Networks, provider: Make, start: Callable[..., Mitmdump], store: Store, collector: Collector
) -> None:
    """What is known of the providers, the size of every table and other apps' waits are as they were before. Nobody is
    told of them: no other process, no collector."""
    own, b = provider("own"), provider("b")
    own.chooser = _badly
    m = start(settings(own, b, table("fleet", {"url": store.url})), env=collector.env())
    together(m)
    # mitmproxy says of its own what it thinks of such requests, with tracebacks at times.
    m.may_complain = True
    _latencies(m, KEYED, lambda: True)  # what is made once is made
    before_calls = _latencies(m, KEYED, lambda: True)
    calls = b.count
    before, memory = at_first(net, m), m.memory
    todo = iter(list(hostile(SEED, HOSTILE, (own.url(), KEYED))))
    taking = threading.Lock()
    sent = threading.Semaphore(0)

    def attack() -> None:
        while True:
            with taking:
                request, leaves = next(todo, (None, None))
            if request is None:
                return
            with contextlib.suppress(OSError, EOFError, ValueError, IndexError), stranger(net, m) as wire:
                wire.sock.settimeout(2 if leaves is None else leaves or 0.001)
                wire.send(request).head()
                if leaves == 0.0:
                    wire.reset()
            sent.release()

    attackers = [threading.Thread(target=attack) for _ in range(3)]
    for attacker in attackers:
        attacker.start()
    with store.watched() as heard:
        meanwhile = _latencies(m, KEYED, lambda: not any(attacker.is_alive() for attacker in attackers))
        asked = heard()
    for attacker in attackers:
        attacker.join()
    assert sent._value == HOSTILE
    until(lambda: own.in_flight == 0, "no call of a stranger is left")
    after = known(m)
    mine = len(meanwhile)
    assert b.count == calls + mine, "no key was used for a stranger"
    words = {line.split(b'"')[1] for line in asked.split(b"\r\n") if b'"' in line}
    assert Script.PULL.sha.encode() in asked
    assert words <= {b"EVALSHA", b"MONITOR", *LOOKS}, words
    # That it is there it says whatever it is asked.
    usual = Script.PULL, Script.HERE
    assert not any(script.sha.encode() in asked for script in Script if script not in usual)
    until(lambda: len(collector.calls()) == b.count, "only the app's own calls are told")
    # The app's own calls in the meantime have been counted; nothing else has.
    counted = {name: values for name, values in changed(before, after).items() if name not in ("health", "metrics")}
    assert counted == {}
    for state in (before, after):
        for status in state["health"]["providers"].values():
            assert (status["state"], status["failures"], status["cooldown"], status["permits_out"]) == (
                "closed",
                0,
                None,
                0,
            )
    totals = [state["health"]["providers"]["b"]["totals"] for state in (before, after)]
    assert totals[1] == {**totals[0], "success": totals[0]["success"] + mine}
    assert after["health"]["providers"]["own"] == before["health"]["providers"]["own"]
    assert m.memory - memory < 64 << 20
    assert meanwhile[int(0.99 * mine)] - before_calls[int(0.99 * len(before_calls))] < 0.05 * SLACK
    assert re.search("sidestep: internal error", m.log) is None


LOOKS = (b"TIME", b"HMGET", b"ZRANGE", b"HGET", b"HSTRLEN", b"ZADD", b"HSET", b"ZREM", b"HDEL", b"PEXPIRE")
"""What a pull does in the store, and saying that it is there."""
SLACK = 4
"""How many times the wait may be that was asked for: the attackers and the providers share the two cores."""
