"""Measures a bare mitmdump with a three-line rewriting script and Sidestep side by side, on the same load.

Rounds of the variants alternate, and each figure is the median of its rounds, so that a slow moment of the machine
hits all of them. The provider and the clients run in processes of their own.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]

from faults import report as report_faults  # noqa: E402
from several import CLIENTS  # noqa: E402
from several import report as report_workers  # noqa: E402
from tail import report as report_tail  # noqa: E402
from watched import report as report_watched  # noqa: E402

from sidestep.run.steps import steps  # noqa: E402
from support.proxy import ADDON, Mitmdump  # noqa: E402

HOST = "http://bench.test/v1"
PACKAGES = {"sidestep", *(p.name for p in (ADDON.parent / "sidestep").iterdir() if p.is_dir())}
"""Where our own functions are, by folder."""
TICK = os.sysconf("SC_CLK_TCK")
EVENT = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}\n\n'  # noqa: E501
LAST = b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
ANSWER = json.dumps(
    {"id": "c", "choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}]}
).encode()

REWRITE = """
class Rewrite:
    def request(self, flow):
        flow.request.scheme, flow.request.host, flow.request.port = "http", "127.0.0.1", {port}
    def responseheaders(self, flow):
        flow.response.stream = "event-stream" in flow.response.headers.get("content-type", "")
addons = [Rewrite()]
"""


# --- the provider


class Answers(asyncio.Protocol):
    """One connection. Without streams of asyncio's: what the provider costs, the proxy beside it has not."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.heard, self.wanted = transport, b"", 0

    def data_received(self, data: bytes) -> None:
        self.heard += data
        if len(self.heard) < self.wanted or b"\r\n\r\n" not in self.heard:
            return
        head = self.heard.partition(b"\r\n\r\n")[0]
        fields = dict(x.lower().split(b": ", 1) for x in head.split(b"\r\n")[1:] if x)
        self.wanted = len(head) + 4 + int(fields[b"content-length"])
        if len(self.heard) < self.wanted:
            return
        self.heard, self.wanted = b"", 0
        if events := int(fields.get(b"x-stainless-events", b"0")):
            self.task = asyncio.ensure_future(self.stream(events, b"x-stainless-hold" in fields))
        else:
            self.transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(ANSWER)
                + ANSWER
            )

    async def stream(self, events: int, hold: bool) -> None:
        write = self.transport.write
        write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        write(b"%x\r\n%s\r\n" % (len(EVENT), EVENT))
        if hold:
            return
        for _ in range(events):
            write(b"%x\r\n%s\r\n" % (len(EVENT), EVENT))
            await asyncio.sleep(0)
        write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(LAST), LAST))


def serve(pipe: Connection) -> None:
    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Answers, "127.0.0.1", 0, backlog=2048)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


# --- the clients


@dataclass
class Figures:
    """Seconds, and counts per second."""

    rate: float = 0
    p50: float = 0
    p99: float = 0
    first: float = 0
    gap: float = 0
    events: float = 0
    cpu: float = 0


def payload(size: int, *headers: str) -> bytes:
    body = json.dumps(
        {"model": "gpt-4o", "stream": bool(headers), "messages": [{"role": "user", "content": "x" * size}]}
    )
    head = f"POST {HOST}/chat/completions HTTP/1.1\r\nHost: bench.test\r\nContent-Type: application/json\r\n"
    return f"{head}{''.join(h + chr(13) + chr(10) for h in headers)}Content-Length: {len(body)}\r\n\r\n{body}".encode()


class Whole(asyncio.Protocol):
    """A client that asks again as soon as it is answered; `done` when the time is over."""

    def __init__(self, request: bytes, until: float, times: list[float]) -> None:
        self.request, self.until, self.times = request, until, times
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        self.heard, self.wanted, self.began = b"", 0, time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.heard += data
        if not self.wanted and b"\r\n\r\n" in self.heard:
            head = self.heard.partition(b"\r\n\r\n")[0].lower()
            assert b" 200 " in head[:15], head
            self.wanted = len(head) + 4 + int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        if not self.wanted or len(self.heard) < self.wanted:
            return
        now = time.perf_counter()
        self.times.append(now - self.began)
        if now < self.until:
            self.ask()
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.done.set_result(None)


async def _whole(port: int, request: bytes, until: float, times: list[float]) -> None:
    _, client = await asyncio.get_running_loop().create_connection(
        lambda: Whole(request, until, times), "127.0.0.1", port
    )
    await client.done


async def _stream(port: int, request: bytes, until: float, firsts: list[float], gaps: list[float]) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    count = 0
    while time.perf_counter() < until:
        began = time.perf_counter()
        writer.write(request)
        assert b" 200 " in (await reader.readuntil(b"\r\n\r\n"))[:15]
        await reader.readuntil(b"\n\n")
        firsts.append(time.perf_counter() - began)
        rest, before = b"", time.perf_counter()
        while not rest.endswith(b"0\r\n\r\n"):
            data = await reader.read(65536)
            now = time.perf_counter()
            pieces = data.count(b"data: ")
            if pieces:
                gaps.append((now - before) / pieces)
                before = now
            count += pieces
            rest = (rest + data)[-64:]
    writer.close()
    return count


def load(pipe: Connection, port: int, kind: str, size: int, clients: int, seconds: float) -> None:
    async def run() -> Figures:
        until = time.perf_counter() + seconds
        if kind == "whole":
            times: list[float] = []
            await asyncio.gather(*(_whole(port, payload(size), until, times) for _ in range(clients)))
            cuts = statistics.quantiles(times, n=100) if len(times) > 1 else times * 99
            return Figures(rate=len(times) / seconds, p50=cuts[49], p99=cuts[98])
        firsts: list[float] = []
        gaps: list[float] = []
        request = payload(size, "X-Stainless-Events: 200")
        counts = await asyncio.gather(*(_stream(port, request, until, firsts, gaps) for _ in range(clients)))
        return Figures(events=sum(counts) / seconds, first=statistics.median(firsts), gap=statistics.median(gaps))

    pipe.send(asyncio.run(run()))


def run_load(proxy: Mitmdump, kind: str, seconds: float, size: int = 1_000, clients: int = CLIENTS) -> Figures:
    """The load comes from a process of its own."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=load, args=(theirs, proxy.port, kind, size, clients, seconds))
    process.start()
    figures: Figures = ours.recv()
    process.join()
    return figures


# --- the proxies


@dataclass
class Variant:
    name: str
    proxy: Mitmdump
    rounds: dict[str, list[Figures]] = field(default_factory=dict)
    stream_bytes: float = 0

    def cpu(self) -> float:
        fields = Path(f"/proc/{self.proxy.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def measure(self, kind: str, size: int, clients: int, seconds: float) -> Figures:
        before = self.cpu()
        figures = run_load(self.proxy, kind, seconds, size, clients)
        done = figures.rate * seconds if kind == "whole" else figures.events * seconds
        figures.cpu = (self.cpu() - before) / max(1, done)
        return figures


def configuration(port: int, providers: int, *, down: bool) -> str:
    lines = []
    names = [f"p{i}" for i in range(providers)]
    for i, name in enumerate(names):
        target = 9 if down and i == 0 else port
        lines.append(f'[[providers]]\nname = "{name}"\ndialect = "openai"\napi_key = "bench-key-{i}"\n')
        lines.append(f'base_url = "http://127.0.0.1:{target}/v1"\n')
    lines.append(f'[[routes]]\nintercept = ["{HOST}"]\nproviders = {json.dumps(names)}\n')
    lines.append("[circuit]\nfailure_threshold = 1\nopen_seconds = 3600\nopen_seconds_max = 3600\n")
    return "".join(lines)


async def _hold(port: int, count: int) -> list[asyncio.StreamWriter]:
    writers = []
    for _ in range(count):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(payload(100, "X-Stainless-Events: 1", "X-Stainless-Hold: 1"))
        await reader.readuntil(b"\n\n")
        writers.append(writer)
    return writers


def open_streams(pipe: Connection, port: int, count: int) -> None:
    async def run() -> None:
        writers = await _hold(port, count)
        pipe.send(len(writers))
        await asyncio.get_running_loop().run_in_executor(None, pipe.recv)

    asyncio.run(run())


def memory_per_stream(variant: Variant, count: int) -> float:
    ours, theirs = multiprocessing.Pipe()
    before = variant.proxy.memory
    process = multiprocessing.Process(target=open_streams, args=(theirs, variant.proxy.port, count))
    process.start()
    ours.recv()
    grown = variant.proxy.memory - before
    ours.send(None)
    process.join()
    return grown / count


PAIRS_A_ROUND = 6
"""Of `--watched`, whose pairs are short: many of them tell more than long ones."""
Load = tuple[str, int, int, str]
LOADS: list[Load] = [
    ("whole", 1_000, 10, "1 KB prompt, 10 clients"),
    ("whole", 1_000, 1, "1 KB prompt, 1 client"),
    ("whole", 100_000, 4, "100 KB prompt"),
    ("whole", 5_000_000, 1, "5 MB prompt"),
    ("stream", 1_000, 10, "streams of 200 events, 10 clients"),
    ("stream", 1_000, 1, "streams of 200 events, 1 client"),
]


@click.command()
@click.option("--quick", is_flag=True, help="One short round.")
@click.option("--streams", default=1000, show_default=True, help="Open streams for the memory figure; 0: none.")
@click.option("--only", default="", help="Only the loads whose name holds this text.")
@click.option("--rounds", default=5, show_default=True, help="Rounds of 2 s a load and variant.")
@click.option("--faults", is_flag=True, help="Only the time that is lost to a fault, by fault.")
@click.option("--tail", default=0, help="Only so many calls at a provider of which one in fifty hangs.")
@click.option("--watched", is_flag=True, help="Only what it costs that the page is open and /metrics is scraped.")
@click.option("--workers", default=0, help="Only what up to so many workers on one port answer, beside one.")
@click.option("--profile", is_flag=True, help="Then show where the time goes, with 10 providers and bare.")
def main(
    quick: bool,
    streams: int,
    only: str,
    rounds: int,
    faults: bool,
    tail: int,
    watched: bool,
    workers: int,
    profile: bool,
) -> None:
    """Print Sidestep's figures beside those of a bare mitmdump, and their ratios."""
    if faults or tail:
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
        if faults:
            report_faults(console)
        if tail:
            report_tail(console, tail)
        return
    rounds, seconds = (1, 1.0) if quick else (rounds, 2.0)
    loads = [load for load in LOADS if only in load[3]]
    ours, theirs = multiprocessing.Pipe()
    provider = multiprocessing.Process(target=serve, args=(theirs,), daemon=True)
    provider.start()
    port = ours.recv()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        script = folder / "rewrite.py"
        script.write_text(REWRITE.format(port=port))

        def start(name: str, config: str | None) -> Variant:
            options = ["--set", "connection_strategy=lazy"] if config is None else []
            m = Mitmdump(folder / name.replace(" ", "-"), config, *options, script=script if config is None else ADDON)
            return Variant(name, stack.enter_context(m))

        if workers:
            counts = [count for count in (1, 2, 4, 8, 16, 32) if count <= workers]
            config = configuration(port, 10, down=False)
            report_workers(console, folder, config, counts, run_load, provider.pid or 0, rounds, seconds)
            provider.kill()
            return
        if watched:
            ten = start("10 providers", configuration(port, 10, down=False))
            ten.measure("whole", 1_000, 10, 2.0)
            pairs = PAIRS_A_ROUND * rounds
            report_watched(console, ten.proxy.port, ten.cpu, lambda: ten.measure("whole", 1_000, 10, seconds), pairs)
            provider.kill()
            return
        variants = [
            start("bare", None),
            start("1 provider", configuration(port, 1, down=False)),
            start("10 providers", configuration(port, 10, down=False)),
            start("100 providers", configuration(port, 100, down=False)),
            start("first is down", configuration(port, 10, down=True)),
        ]
        for variant in variants:  # warm up; opens the circuit of the one that is down
            variant.measure("whole", 1_000, 4, 1.0)
            variant.measure("stream", 1_000, 4, 0.5)
        # Before the loads: what they leave behind would be used again, and the figure say less than there is.
        for variant in variants if streams else ():
            variant.stream_bytes = memory_per_stream(variant, streams)
        with steps(console, rounds * len(loads) * len(variants)) as step:
            for _ in range(rounds):
                for kind, size, clients, label in loads:
                    for variant in variants:
                        step(f"{label}: {variant.name}")
                        variant.rounds.setdefault(label, []).append(variant.measure(kind, size, clients, seconds))
        report(console, variants, loads, streams)
        if profile:
            for load in loads:
                show_profile(console, folder, script, configuration(port, 10, down=False), load)
    provider.kill()


def sample(folder: Path, config: str | None, script: Path, load: Load) -> tuple[Figures, Counter[str], Counter[str]]:
    """Samples of a proxy under one load, as µs of CPU for each request or event."""
    kind, size, clients, _ = load
    out = folder / "samples.json"
    options = ["-s", str(Path(__file__).parent / "sampler.py"), "--set", "connection_strategy=lazy"]
    with Mitmdump(folder / "profile", config, *options, script=script, env={"SIDESTEP_SAMPLES": str(out)}) as m:
        figures = Variant("", m).measure(kind, size, clients, 5.0)
    own, within = (Counter(c) for c in json.loads(out.read_text()))
    each = figures.cpu * 1e6 / max(1, sum(own.values()))
    scaled_own, scaled_within = (Counter({k: v * each for k, v in c.items()}) for c in (own, within))
    return figures, scaled_own, scaled_within


def show_profile(console: Console, folder: Path, script: Path, config: str, load: Load) -> None:
    """Where Sidestep's time goes, beside the bare proxy's: a third more of it is the samplers' own."""
    bare, _, bare_within = sample(folder, None, script, load)
    ours, own, within = sample(folder, config, ADDON, load)
    what = "request" if load[0] == "whole" else "event"
    table = Table("µs within", "more than bare", "µs itself", "function", title=f"{load[3]}: CPU per {what}")
    table.add_row(f"{ours.cpu * 1e6:.1f}", f"{(ours.cpu - bare.cpu) * 1e6:+.1f}", "", "all")
    rows = sorted(within, key=lambda k: bare_within[k] - within[k])
    for name in [k for k in rows if k.partition("/")[0] in PACKAGES][:40]:
        table.add_row(f"{within[name]:.1f}", f"{within[name] - bare_within[name]:+.1f}", f"{own[name]:.1f}", name)
    console.print(table)


def report(console: Console, variants: list[Variant], loads: list[Load], streams: int) -> None:
    table = Table("load", "figure", *(v.name for v in variants))

    def row(label: str, name: str, key: str, scale: float, *, difference: bool = False) -> None:
        values = [statistics.median(getattr(f, key) for f in v.rounds[label]) * scale for v in variants]
        base = values[0]
        cells = [f"{base:.3g}"]
        cells += [f"{v:.3g} ({v - base:+.2g})" if difference else f"{v:.3g} (×{v / base:.3f})" for v in values[1:]]
        table.add_row(label, name, *cells)

    for kind, _, _, label in loads:
        if kind == "whole":
            row(label, "requests/s", "rate", 1)
            row(label, "p50 ms", "p50", 1e3, difference=True)
            row(label, "p99 ms", "p99", 1e3, difference=True)
            row(label, "CPU ms/request", "cpu", 1e3)
        else:
            row(label, "events/s", "events", 1)
            row(label, "first event ms", "first", 1e3, difference=True)
            row(label, "between events µs", "gap", 1e6, difference=True)
            row(label, "CPU µs/event", "cpu", 1e6)
    if streams:
        base = variants[0].stream_bytes
        cells = [f"{v.stream_bytes / 1024:.1f} ({(v.stream_bytes - base) / 1024:+.1f})" for v in variants[1:]]
        table.add_row(f"{streams} open streams", "KiB/stream", f"{base / 1024:.1f}", *cells)
    console.print(table)


if __name__ == "__main__":
    main()
