"""A provider with a long tail and a good one behind it: what the app waits, and what that costs. See `bench --tail`."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]

from support.provider import Behaviour, Provider, Seen  # noqa: E402
from support.proxy import Mitmdump  # noqa: E402
from support.raw import chat  # noqa: E402
from support.settings import config  # noqa: E402

URL = "http://app.test/v1"
AT_ONCE = 40
USUAL_SECONDS, SPREAD = 0.25, 0.5
"""Of the time to first content: the median, and the deviation of its logarithm."""
HANGS, HANG_SECONDS = 0.02, 30.0


async def call(port: int) -> float:
    """Seconds until the first content of one call."""
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(chat(URL, stream=True))
        await reader.readuntil(b'"content":')
        seconds = time.monotonic() - began
        await reader.readuntil(b"[DONE]")
        return seconds
    finally:
        writer.close()


async def calls(port: int, count: int) -> list[float]:
    places = asyncio.Semaphore(AT_ONCE)

    async def one() -> float:
        async with places:
            return await call(port)

    return await asyncio.gather(*(one() for _ in range(count)))


def at(times: list[float], share: float) -> float:
    return sorted(times)[math.ceil(share * len(times)) - 1]


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
        times = asyncio.run(calls(m.port, count))
        metrics = [line for line in m.page("/metrics")[1].decode().splitlines() if line.startswith("sidestep_hedge")]
        states = {name: provider["state"] for name, provider in m.health()["providers"].items()}
    table = Table("", "p50 s", "p95 s", "p99 s", "longest s", title=f"{count} calls, {HANGS:.0%} of them hang")
    for name, values in (("as the provider answers", given), ("as the app is answered", times)):
        table.add_row(name, *(f"{at(values, share):.2f}" for share in (0.5, 0.95, 0.99, 1.0)))
    console.print(table)
    console.print(
        f"p99: ×{at(times, 0.99) / at(given, 0.99):.3f}; extra attempts: {(a.count + b.count) / count - 1:.2%}"
    )
    console.print(f"circuits: {states}", *metrics, sep="\n")


if __name__ == "__main__":
    report(Console(highlight=False, width=120), int(sys.argv[1]))
