"""A provider with a long tail and a good one behind it: what the app waits, and what that costs. See `bench --tail`."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]

from sidestep.run.steps import steps  # noqa: E402
from support.provider import Behaviour, Provider, Seen  # noqa: E402
from support.proxy import Mitmdump  # noqa: E402
from support.raw import chat  # noqa: E402
from support.settings import config  # noqa: E402

URL = "http://app.test/v1"
AT_ONCE = 40
USUAL_SECONDS, SPREAD = 0.25, 0.5
"""Of the time to first content: the median, and the deviation of its logarithm."""
HANGS, HANG_SECONDS = 0.02, 30.0
SLOWEST = 3
"""So many calls are told of one by one."""
LOGGED = re.compile(r"circuit|opens?\b|closed|half|cooldown")


class Answer(NamedTuple):
    """Of one call, by the time that its app waited: seconds until its first content, when it began (seconds of the
    run), and which providers were asked (`x-sidestep-attempts`)."""

    seconds: float
    began: float
    attempts: str


async def call(port: int, number: int, start: float) -> Answer:
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        # Each is a call of its own: one that is repeated begins elsewhere.
        writer.write(chat(URL, stream=True, user=f"u{number}", stream_options={"include_usage": True}))
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b'"content":')
        seconds = time.monotonic() - began
        await reader.readuntil(b"[DONE]")
        attempts = re.search(rb"(?i)x-sidestep-attempts: ([^\r]*)", head)
        return Answer(seconds, began - start, attempts[1].decode() if attempts else "?")
    finally:
        writer.close()


async def calls(port: int, count: int, tell: Callable[[str], None]) -> tuple[list[Answer], int]:
    """So many calls, each told as it ends; and how many more there were while the last of them were waited for. What
    may be spent on second attempts is earned by calls: without others after them the last ones would show nothing but
    that."""
    places = asyncio.Semaphore(AT_ONCE)
    start = time.monotonic()
    more = 0

    async def one(number: int) -> Answer:
        async with places:
            answer = await call(port, number, start)
            tell(f"answered after {answer.seconds:.1f} s")
            return answer

    async def goes_on() -> None:
        nonlocal more
        while not measured.done():
            more += 1
            await one(count + more)

    measured = asyncio.gather(*(one(number) for number in range(count)))
    others = [asyncio.create_task(goes_on()) for _ in range(AT_ONCE // 2)]
    answers = await measured
    await asyncio.gather(*others)
    return answers, more


def at(times: list[float], share: float) -> float:
    return sorted(times)[math.ceil(share * len(times)) - 1]


def counted(metrics: str, name: str, label: str) -> str:
    """What the values of a counter are, by one of its labels."""
    found = re.findall(rf'^{name}{{.*?{label}="(\w+)".*?}} (\S+)$', metrics, re.MULTILINE)
    return ", ".join(f"{float(value):,.0f} {word}" for word, value in found)


def report(console: Console, count: int, seed: int = 1) -> None:
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # streams that are cut off
    drawn = random.Random(seed)
    given: list[float] = []

    def choose(_: Seen) -> Behaviour:
        hangs = drawn.random() < HANGS
        given.append(HANG_SECONDS if hangs else drawn.lognormvariate(math.log(USUAL_SECONDS), SPREAD))
        return Behaviour(delay=given[-1], tokens=3)

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        a, b = (stack.enter_context(Provider(name)) for name in "ab")
        a.chooser = choose
        b.default = Behaviour(delay=USUAL_SECONDS, tokens=3)
        text = config("chat", a, b).replace("https://api.openai.com/v1", URL)
        m = stack.enter_context(Mitmdump(folder, text))
        step = stack.enter_context(steps(console, count, ended=True))
        answers, more = asyncio.run(calls(m.port, count, step))
        times = [answer.seconds for answer in answers]
        metrics = m.page("/metrics")[1].decode()
        told = [line for line in m.log.splitlines() if LOGGED.search(line)]
        states = {name: provider["state"] for name, provider in m.health()["providers"].items()}
    table = Table("", "p50 s", "p95 s", "p99 s", "longest s", title=f"{count} calls, {HANGS:.0%} of them hang")
    for name, values in (("as the provider answers", given), ("as the app is answered", times)):
        table.add_row(name, *(f"{at(values, share):.2f}" for share in (0.5, 0.95, 0.99, 1.0)))
    console.print(table)
    console.print(
        f"p99: ×{at(times, 0.99) / at(given, 0.99):.3f}; extra attempts: {(a.count + b.count) / (count + more) - 1:.2%}"
    )
    console.print(f"asked beside a late one: {counted(metrics, 'sidestep_hedges_total', 'result') or 'none'}")
    wasted = counted(metrics, "sidestep_hedge_wasted_tokens_total", "provider")
    console.print(f"tokens of prompts that were sent for nothing: {wasted or 'none'}; circuits: {states}")
    for answer in sorted(answers)[: -SLOWEST - 1 : -1]:
        console.print(f"waited {answer.seconds:.2f} s from {answer.began:.1f} s on: {answer.attempts}")
    for line in told:
        console.print(line, markup=False)


if __name__ == "__main__":
    report(Console(highlight=False, width=120), int(sys.argv[1]), *map(int, sys.argv[2:]))
