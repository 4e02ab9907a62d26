"""A seeded chaos run: mixed requests, many at a time, against three providers of which one is healthy at each moment.

The others do anything: their conditions change every half to three seconds, in mid-answer too.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from support.calls import APIS, DIALECT, Client
from support.provider import Behaviour, Provider, Seen, text_of
from support.proxy import Mitmdump, by_hand, children
from support.settings import route, table
from support.waiting import until

CONDITIONS: dict[str, Callable[[random.Random], Behaviour]] = {
    "500 once": lambda r: Behaviour(status=r.choice([500, 200, 200])),
    "503": lambda r: Behaviour(status=503),
    "529": lambda r: Behaviour(status=529),
    "429": lambda r: Behaviour(status=429),
    "429 short": lambda r: Behaviour(status=429, headers={"retry-after": "1"}),
    "reset": lambda r: Behaviour(reset=True),
    "silent": lambda r: Behaviour(silent=True),
    "slow headers": lambda r: Behaviour(headers_then_silent=True),
    "pings": lambda r: Behaviour(pings_only=True),
    "cut": lambda r: Behaviour(cut_after=r.randrange(6)),
    "ended": lambda r: Behaviour(end_after=r.randrange(6)),
    "stalled": lambda r: Behaviour(stall_after=r.randrange(6)),
    "error event": lambda r: Behaviour(error_after=r.randrange(6)),
    "html": lambda r: Behaviour(body=b"<html></html>", headers={"content-type": "text/html"}),
    "empty": lambda r: Behaviour(body=b""),
}


@dataclass
class Report:
    requests: int = 0
    errors: list[str] = field(default_factory=list)
    broken_streams: int = 0
    lost: int = 0
    """Calls on connections to a worker while that was killed."""
    killed: Counter[str] = field(default_factory=Counter)
    answered_by: Counter[str] = field(default_factory=Counter)
    conditions: Counter[str] = field(default_factory=Counter)
    growth: int = 0
    seconds: float = 0
    health: dict[str, object] = field(default_factory=dict)


class Weather:
    """Changes the providers' conditions until it is told to stop. One provider is always healthy."""

    def __init__(self, providers: list[Provider], seed: int, report: Report) -> None:
        self._random = random.Random(seed)
        self._providers = providers
        self._report = report
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Weather:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        healthy = self._random.choice(self._providers)
        while not self._stop.is_set():
            # The next healthy one is well before the last one may fall ill.
            following = self._random.choice(self._providers)
            following.chooser = None
            for p in self._providers:
                if p is following:
                    continue
                name = self._random.choice([*CONDITIONS, "healthy"])
                self._report.conditions[name] += 1
                p.chooser = None if name == "healthy" else self._condition(name)
                if p is healthy and self._random.random() < 0.5:
                    p.cut_all()
            healthy = following
            self._stop.wait(self._random.uniform(0.5, 3))

    def _condition(self, name: str) -> Callable[[Seen], Behaviour]:
        make, rng = CONDITIONS[name], random.Random(self._random.random())
        return lambda seen: make(rng)


class Reaper:
    """Kills a worker, or the store that they share, again and again until it is told to stop."""

    def __init__(self, m: Mitmdump, seed: int, report: Report) -> None:
        self._m = m
        self._random = random.Random(seed)
        self._report = report
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.times: list[float] = []

    def __enter__(self) -> Reaper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.wait(self._random.uniform(4, 8)):
            what = self._random.choice(["sidestep.workers.worker", "sidestep.workers.worker", "valkey-server"])
            found = children(self._m, what)
            if not found:
                continue
            if what != "valkey-server":
                self.times.append(time.monotonic())
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._random.choice(found), signal.SIGKILL)
            self._report.killed[what] += 1

    def killed_between(self, began: float, ended: float) -> bool:
        return any(began <= at <= ended + 1 for at in self.times)


_LOST = {"APIConnectionError", "ConnectError", "ReadError", "RemoteProtocolError", "WriteError", "ProxyError"}


def _is_cut(error: BaseException | None) -> bool:
    """Whether the connection to the proxy broke."""
    while error is not None:
        if type(error).__name__ in _LOST:
            return True
        error = error.__cause__ or error.__context__
    return False


def _in_words(error: BaseException | None) -> str:
    """With what is behind it: an SDK's own words say little."""
    found = []
    while error is not None:
        found.append(repr(error))
        error = error.__cause__ or error.__context__
    return " ← ".join(found)


def _is_the_sdks_own(error: BaseException | None) -> bool:
    return type(error).__module__.partition(".")[0] in ("openai", "anthropic", "google")


def run(
    folder: Path,
    *,
    requests: int,
    seed: int,
    commit: str,
    at_once: int = 50,
    patience: float = 1,
    workers: int = 1,
    tell: Callable[[str], object] = lambda _: None,
) -> Report:
    """The whole run; the report says what the apps saw and what was left behind. `patience`: every timeout, in
    seconds; where others share the cores, a healthy provider may take one to answer. `workers`: several share the
    port, and are killed. `tell` is called with each call's API as it ends."""
    limits = dict.fromkeys(("connect", "first_byte", "headers", "first_content", "idle"), patience)
    report = Report(requests=requests)
    texts = [
        table("circuit", {"open_seconds": 1}),
        table("attempts", {"max": 12}),
        table("timeouts", limits),
        table("stream", {"commit": commit}),
    ]
    with Provider("a") as a, Provider("b") as b, Provider("c") as c:
        for api, suffix in (("chat", "-o"), ("messages", "-m"), ("gemini", "-g")):
            texts.append(route(api, a, b, c, suffix=suffix))
        text = "\n".join(texts)
        proxy = Mitmdump(folder, text) if workers == 1 else by_hand("dump", folder, text, "--workers", str(workers))
        with proxy as m:
            for number in range(1, workers + 1 if workers > 1 else 1):
                m.wait_for_log(rf"\[{number}\].*what happens is shown", 60)
            m.may_complain = workers > 1
            reaper = Reaper(m, seed, report)
            lock = threading.Lock()
            local = threading.local()
            apps: list[Client] = []
            good = {text_of(n, Behaviour()): n for n in "abc"}

            def call(number: int) -> None:
                if not hasattr(local, "app"):
                    local.app, local.last = Client(m), {}
                    apps.append(local.app)
                rng = random.Random(f"{seed} {number}")
                api, stream = rng.choice(APIS), rng.random() < 0.6
                # Since the call before it to this host began: that one may have had its whole answer from a worker that
                # was dead when it was read, and its connection was idle from then on.
                began = time.monotonic()
                since, local.last[DIALECT[api]] = local.last.get(DIALECT[api], began), began
                result = local.app.call(api, stream=stream)
                tell(api)
                was_killed = reaper.killed_between(since, time.monotonic())
                with lock:
                    if result.error is None and result.text in good:
                        report.answered_by[good[result.text]] += 1
                    elif stream and result.text and commit == "first_content" and _is_the_sdks_own(result.error):
                        report.broken_streams += 1
                    elif was_killed and _is_cut(result.error):
                        report.lost += 1
                    else:
                        what = f"{_in_words(result.error)} {result.text!r} after {result.attempts}"
                        report.errors.append(f"#{number} {api} stream={stream}: {what}")

            began = time.monotonic()
            killing = reaper if workers > 1 else contextlib.nullcontext()
            with Weather([a, b, c], seed, report), killing, ThreadPoolExecutor(at_once) as pool:
                warm = requests // 2  # by then every bounded table has been in use for long
                list(pool.map(call, range(warm)))
                before = m.memory
                list(pool.map(call, range(warm, requests)))
            for app in apps:
                app.__exit__()
            report.seconds = time.monotonic() - began
            until(lambda: m.health()["in_flight"] == 0, "no attempt is in flight")
            report.health = m.health()
            report.growth = m.memory - before
    return report
