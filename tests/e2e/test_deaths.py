"""Providers that die and clients that leave, many of each, at random moments: nothing leaks, nobody is wronged."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from support.provider import Behaviour, Provider
from support.proxy import Mitmdump, clean_env
from support.raw import Wire, chat
from support.settings import config, route, table
from support.waiting import until

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]

GROWTH = 24 * 1024 * 1024
"""Bytes that a proxy may hold more after hundreds of broken streams: caches fill, buffers are pooled."""
TESTS = Path(__file__).resolve().parents[1]


@contextmanager
def mortal() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A provider in a process of its own that streams without end."""
    command = [sys.executable, "-m", "support.provider"]
    env = clean_env(PYTHONPATH=str(TESTS))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline())
        finally:
            with suppress(ProcessLookupError):
                process.kill()


def test_providers_killed_mid_stream(proxy: Start) -> None:
    """200 streams whose provider is killed: each ends with an error event, each counts once, nothing stays out."""
    rng = random.Random(7)
    texts = [table("circuit", {"failure_threshold": 10_000, "min_requests": 10_000})]
    kills, streams = 20, 10
    with proxy_over_mortals(proxy, texts, kills) as (m, ports):
        for number, (process, _) in enumerate(ports):
            ended: list[bytes] = []
            begun = threading.Semaphore(0)

            def read(number: int = number, ended: list[bytes] = ended, begun: threading.Semaphore = begun) -> None:
                with Wire(m) as wire:
                    wire.send(chat(f"http://m{number}.test/v1", stream=True))
                    assert wire.head()[0] == 200
                    wire.until(b" w5")
                    begun.release()
                    ended.append(_chunked_rest(wire))

            threads = [threading.Thread(target=read) for _ in range(streams)]
            for thread in threads:
                thread.start()
            for _ in range(streams):
                assert begun.acquire(timeout=10)
            threading.Event().wait(rng.uniform(0, 0.02))
            os.kill(process.pid, signal.SIGKILL)
            for thread in threads:
                thread.join(10)
            assert len(ended) == streams
            for end in ended:
                assert b'"error"' in end, end[-300:]
                assert end.endswith(b"0\r\n\r\n"), end[-300:]
            status = m.provider(f"mortal{number}")
            assert (status["failures"], status["successes"]) == (streams, 0)
        health = m.health()
        assert health["in_flight"] == 0
        assert sum(p["permits_out"] for p in health["providers"].values()) == 0


def _chunked_rest(wire: Wire) -> bytes:
    data = wire._rest
    while not data.endswith(b"0\r\n\r\n"):
        more = wire.sock.recv(65536)
        if not more:
            break
        data += more
    return data


@contextmanager
def proxy_over_mortals(
    proxy: Start, texts: list[str], count: int
) -> Iterator[tuple[Mitmdump, list[tuple[subprocess.Popen[str], int]]]]:
    from contextlib import ExitStack

    with ExitStack() as stack:
        made = [stack.enter_context(mortal()) for _ in range(count)]
        for i, (_, port) in enumerate(made):
            stand_in = Provider("mortal")
            stand_in.port = port
            texts.append(route("chat", stand_in, intercept=f"http://m{i}.test/v1", suffix=str(i)))
        yield proxy("\n".join(texts)), made


def test_clients_that_leave(provider: Make, proxy: Start) -> None:
    """200 clients that leave at random moments of a stream: neutral, not counted, nothing stays out, memory is back."""
    a = provider("a")
    a.default = Behaviour(tokens=400)
    m = proxy(config("chat", a, own=a))
    rng = random.Random(11)

    def leave_once() -> None:
        with Wire(m) as wire:
            wire.send(chat(a.url(), stream=True))
            for _ in range(rng.randrange(0, 6)):
                wire.sock.recv(rng.randrange(1, 3000))
            if rng.random() < 0.5:
                wire.reset()

    def many(count: int) -> None:
        def some() -> None:
            for _ in range(count // 10):
                leave_once()

        threads = [threading.Thread(target=some) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

    many(200)
    until(lambda: m.health()["in_flight"] == 0, "all attempts are over")
    before = m.memory
    many(200)
    until(lambda: m.health()["in_flight"] == 0, "all attempts are over")
    status = m.provider("a")
    assert (status["state"], status["failures"], status["permits_out"]) == ("closed", 0, 0)
    assert m.memory - before < GROWTH
    with Wire(m) as wire:
        a.default = Behaviour()
        assert wire.send(chat(a.url())).answer()[0] == 200
    until(lambda: a.in_flight == 0, "no request stays with the provider")


def test_deaths_at_every_stage(provider: Make, proxy: Start) -> None:
    """Whatever stage a client leaves or a provider dies at, the permit comes back and no vote is wrong."""
    a = provider("a")
    stages = [
        (Behaviour(silent=True), (False, True)),
        (Behaviour(headers_then_silent=True), (False, True)),
        (Behaviour(pings_only=True), (True,)),
        (Behaviour(stall_after=2), (True,)),
    ]
    m = proxy(config("chat", a, own=a))
    for stage, kinds in stages:
        for stream in kinds:
            for abrupt in (False, True):
                a.default = stage
                a.arrived = threading.Semaphore(0)
                with Wire(m) as wire:
                    wire.send(chat(a.url(), stream=stream))
                    seen = a.wait_for_request()
                    if stage.stall_after:
                        wire.until(b"w1")
                    if abrupt:
                        wire.reset()
                assert seen.client_left.wait(5), (stage, stream, abrupt)
    until(lambda: m.health()["in_flight"] == 0, "all attempts are over")
    status = m.provider("a")
    assert (status["state"], status["failures"], status["permits_out"]) == ("closed", 0, 0)
