"""Fuzzes the pure rooms of tests/support/rooms.py and the proxy of tests/support/hostility.py; says what came of it.

A case is drawn from the seed, its kind and its number alone: `--case cut:17 --seed 2` is that one again.
"""

from __future__ import annotations

import importlib
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests")]

from sidestep.run.steps import steps  # noqa: E402
from support import fuzzing, hostility  # noqa: E402
from support.proxy import share_confdir  # noqa: E402
from support.rooms import ROOMS  # noqa: E402

SHOWN = 20
console = Console(highlight=False, soft_wrap=True)


@click.command()
@click.option("--pure", default=5_000, show_default=True, help="cases of the pure rooms")
@click.option("--live", default=500, show_default=True, help="cases of a real proxy")
@click.option("--seed", default=1, show_default=True)
@click.option("--case", "again", default="", help="one case alone: KIND:N")
@click.option("--guided", default=0, help="seconds of the pure rooms with atheris")
def main(pure: int, live: int, seed: int, again: str, guided: int) -> None:
    """Odd inputs: nothing raises, hangs, grows, looks whole that is not, or tells what it must not."""
    with tempfile.TemporaryDirectory() as folder:
        share_confdir(Path(folder) / "conf")
        if guided:
            _guided(guided, seed)
        elif again:
            raise SystemExit(bool(_again(Path(folder), again, seed)))
        else:
            raise SystemExit(bool(_all(Path(folder), pure, live, seed)))


def _again(folder: Path, again: str, seed: int) -> list[str]:
    kind, _, number = again.partition(":")
    if kind in ROOMS:
        wrong = fuzzing.one(kind, int(number), seed)
        return _tell([] if wrong is None else [wrong], f"case {again} of seed {seed}")
    if kind not in hostility.KINDS:
        raise click.BadParameter(f"expected one of {', '.join([*ROOMS, *hostility.KINDS])}, found {kind!r}")
    found = hostility.run(folder / "live", seed=seed, count=1, only=(kind, int(number))).findings
    return _tell(found, f"case {again} of seed {seed}")


def _all(folder: Path, pure: int, live: int, seed: int) -> list[str]:
    found: list[str] = []
    if pure:
        began = time.monotonic()
        with steps(console, pure) as step:
            of_rooms = fuzzing.run(seed=seed, count=pure, tell=step)
        found += _tell(
            of_rooms.findings,
            f"seed {seed}: {of_rooms.cases} cases of {len(ROOMS)} pure rooms in {time.monotonic() - began:.0f} s,"
            f" slowest {of_rooms.slowest * 1000:.0f} ms, {of_rooms.growth / 1e6:+.1f} MB in the second half",
        )
    if live:
        began = time.monotonic()
        with steps(console, live, ended=True) as step:
            of_proxy = hostility.run(folder / "live", seed=seed, count=live, tell=step)
        kinds = ", ".join(f"{kind} {count}" for kind, count in of_proxy.kinds.items())
        found += _tell(
            of_proxy.findings,
            f"seed {seed}: {of_proxy.cases} cases of a proxy ({kinds}) in {time.monotonic() - began:.0f} s,"
            f" slowest {of_proxy.slowest:.1f} s, {of_proxy.growth / 1e6:+.1f} MB in the second half",
        )
    return found


def _tell(findings: list[str], what: str) -> list[str]:
    console.print(f"{what}: {len(findings)} findings", markup=False)
    for finding in findings[:SHOWN]:
        console.print(f"  {finding[:4_000]}", markup=False)
    return findings


class Given(random.Random):
    """Draws what it was given, bit by bit; then what follows from it. State: the bytes, how many were drawn."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._data = data
        self._at = 0

    def getrandbits(self, k: int, /) -> int:
        size = (k + 7) // 8
        piece, self._at = self._data[self._at : self._at + size], self._at + size
        if len(piece) < size:
            return super().getrandbits(k)
        return int.from_bytes(piece) >> (size * 8 - k)

    def random(self) -> float:
        return self.getrandbits(32) / (1 << 32)


def _guided(seconds: int, seed: int) -> None:
    try:
        atheris: Any = importlib.import_module("atheris")
    except ImportError:
        console.print("atheris is not here: nothing was done")
        return
    kinds = [*ROOMS]
    for name, module in list(sys.modules.items()):
        if name.startswith("sidestep.") and module is not None:
            for key, value in list(vars(module).items()):
                if callable(value) and getattr(value, "__module__", "") == name and hasattr(value, "__code__"):
                    setattr(module, key, atheris.instrument_func(value))

    def room(data: bytes) -> None:
        if data:
            ROOMS[kinds[data[0] % len(kinds)]](Given(data[1:]))

    limits = [f"-max_total_time={seconds}", f"-seed={seed}", "-timeout=5", "-max_len=4096"]
    atheris.Setup([sys.argv[0], *limits], room)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
