"""A seeded chaos run: mixed requests, many at a time, against three providers of which one is healthy at each moment.

The others do anything: their conditions change every half to three seconds, in mid-answer too.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from support.calls import APIS, Client
from support.provider import Behaviour, Provider, Seen, text_of
from support.proxy import Mitmdump
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


def _is_the_sdks_own(error: BaseException | None) -> bool:
    return type(error).__module__.partition(".")[0] in ("openai", "anthropic", "google")


def run(folder: Path, *, requests: int, seed: int, commit: str, at_once: int = 50, patience: float = 1) -> Report:
    """The whole run; the report says what the apps saw and what was left behind. `patience`: every timeout, in
    seconds; where others share the cores, a healthy provider may take one to answer."""
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
        with Mitmdump(folder, "\n".join(texts)) as m:
            lock = threading.Lock()
            local = threading.local()
            apps: list[Client] = []
            good = {text_of(n, Behaviour()): n for n in "abc"}

            def call(number: int) -> None:
                if not hasattr(local, "app"):
                    local.app = Client(m)
                    apps.append(local.app)
                rng = random.Random(f"{seed} {number}")
                api, stream = rng.choice(APIS), rng.random() < 0.6
                result = local.app.call(api, stream=stream)
                with lock:
                    if result.error is None and result.text in good:
                        report.answered_by[good[result.text]] += 1
                    elif stream and result.text and commit == "first_content" and _is_the_sdks_own(result.error):
                        report.broken_streams += 1
                    else:
                        what = f"{result.error!r} {result.text!r} after {result.attempts}"
                        report.errors.append(f"#{number} {api} stream={stream}: {what}")

            began = time.monotonic()
            with Weather([a, b, c], seed, report), ThreadPoolExecutor(at_once) as pool:
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
