"""How much later an app's first content comes when its first provider fails, by fault: see `bench --faults`.

Each fault has a route of its own, for cold (nothing learnt of its provider) and warm (30 good calls before), and for
both commit modes; all calls of a column run at the same time. What a good call takes is taken off.
"""

from __future__ import annotations

import logging
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import trustme
from rich.console import Console
from rich.table import Table

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]

from sidestep.run.steps import steps  # noqa: E402
from support.h2provider import server_context  # noqa: E402
from support.provider import Behaviour, Provider  # noqa: E402
from support.proxy import Mitmdump  # noqa: E402
from support.raw import Wire, chat  # noqa: E402
from support.settings import inline, key_of  # noqa: E402

WARM_CALLS = 30
FAULTS: dict[str, Behaviour | None] = {
    "none": Behaviour(),
    "refused": None,
    "TLS": None,
    "reset": Behaviour(reset=True),
    "500": Behaviour(status=500),
    "503": Behaviour(status=503),
    "429, a minute": Behaviour(status=429, headers={"retry-after": "60"}),
    "429, no time": Behaviour(status=429),
    "HTML": Behaviour(body=b"<html><body>busy</body></html>", headers={"content-type": "text/html"}),
    "silent before the head": Behaviour(silent=True),
    "silent before content": Behaviour(headers_then_silent=True),
    "cut before content": Behaviour(cut_after=0),
    "slow: a word in 2 s": Behaviour(pace=2.0, tokens=40),
}
GOOD = Behaviour(tokens=40)


def first_content(m: Mitmdump, url: str) -> float:
    """Seconds until the app has a word of its answer."""
    began = time.monotonic()
    with Wire(m, timeout=120) as wire:
        wire.send(chat(url, stream=True))
        wire.until(b'"content":')
    return time.monotonic() - began


class Bench:
    """State: a proxy and, for each fault, a provider that has it and a good one behind it."""

    def __init__(self, stack: ExitStack, folder: Path, *, warm: bool, commit: str) -> None:
        self.providers: dict[str, Provider] = {}
        folder.mkdir()
        trusted = trustme.CA()
        trusted.cert_pem.write_to_path(str(folder / "ca.pem"))
        good = stack.enter_context(Provider("good"))
        texts: list[str] = []
        for number, fault in enumerate(FAULTS):
            tls = server_context(trusted) if fault == "TLS" else None
            a = self.providers[fault] = stack.enter_context(Provider(f"a{number}", tls))
            a.default = good.default = GOOD
            url = a.url()
            more = inline(stream={"commit": commit})
            for name, base in ((f"a{number}", url), (f"b{number}", good.url())):
                texts.append(
                    f'[[providers]]\nname = "{name}"\ndialect = "openai"\nbase_url = "{base}"\n'
                    f'api_key = "{key_of(name)}"\n{more}'
                )
            texts.append(f'[[routes]]\nintercept = ["{self.url(fault)}"]\nproviders = ["a{number}", "b{number}"]\n')
        trusts = f"ssl_verify_upstream_trusted_ca={folder / 'ca.pem'}"
        self.m = stack.enter_context(Mitmdump(folder, "\n".join(texts), "--set", trusts))
        for fault in FAULTS if warm else ():
            for _ in range(WARM_CALLS):
                first_content(self.m, self.url(fault))
        for fault, behaviour in FAULTS.items():
            a = self.providers[fault]
            if behaviour is not None:
                a.default = behaviour
                continue
            a.refuse()
            a.cut_all()
            if fault == "TLS":
                a.tls = server_context(trustme.CA())  # one that nobody trusts
                a.listen_again()

    @staticmethod
    def url(fault: str) -> str:
        return f"http://f{list(FAULTS).index(fault)}.test/v1"

    def added(self) -> dict[str, float]:
        """Seconds that each fault costs."""
        healthy = statistics.median(first_content(self.m, self.url("none")) for _ in range(5))
        faults = [fault for fault in FAULTS if fault != "none"]
        with ThreadPoolExecutor(len(faults)) as pool:
            taken = pool.map(lambda fault: first_content(self.m, self.url(fault)), faults)
            return {fault: seconds - healthy for fault, seconds in zip(faults, taken, strict=True)}


def report(console: Console) -> dict[str, dict[str, float]]:
    """The table, and its figures by column and fault."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # streams that are cut off at the end
    columns: dict[str, dict[str, float]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        step = stack.enter_context(steps(console, 4))
        for commit, word in (("first_content", "live"), ("complete", "complete")):
            for warm in (False, True):
                name = f"{'warm' if warm else 'cold'}, {word}"
                step(name)
                with ExitStack() as one:
                    columns[name] = Bench(one, folder / name.replace(", ", "-"), warm=warm, commit=commit).added()
    table = Table("fault", *columns, title="seconds lost to a fault, until the app's first content")
    for fault in list(FAULTS)[1:]:
        row: list[Any] = [f"{figures[fault]:.2f}" for figures in columns.values()]
        table.add_row(fault, *row)
    console.print(table)
    return columns


if __name__ == "__main__":
    report(Console(highlight=False, width=None if sys.stdout.isatty() else 120))
