"""Runs tests/support/soak.py for some minutes and says what is left behind."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]

from sidestep.run.steps import steps  # noqa: E402
from support import soak  # noqa: E402
from support.proxy import share_confdir  # noqa: E402


@click.command()
@click.option("--minutes", default=10.0, show_default=True)
@click.option("--rate", default=20.0, show_default=True, help="cases a second")
@click.option("--seed", default=1, show_default=True)
def main(minutes: float, rate: float, seed: int) -> None:
    """Memory, descriptors, tasks, permits, calls in flight and tables are at the end as they were at the start."""
    console = Console(highlight=False, soft_wrap=True)

    def tell(text: str) -> None:
        console.print(text, markup=False)

    with tempfile.TemporaryDirectory() as folder:
        share_confdir(Path(folder) / "conf")
        seconds = minutes * 60
        with steps(console, round(seconds)) as step:
            place = Path(folder) / "soak"
            first, last, report = soak.run(place, seconds=seconds, seed=seed, rate=rate, tell=tell, second=step)
    tell(f"at the end: {last}")
    kinds = ", ".join(f"{kind} {count}" for kind, count in report.kinds.items())
    tell(f"{report.cases} cases ({kinds}), slowest {report.slowest:.1f} s")
    grown = {k: (first.tables.get(k, 0), v) for k, v in last.tables.items() if v > first.tables.get(k, 0)}
    tell(f"tables that are fuller: {', '.join(f'{k} {a} to {b}' for k, (a, b) in grown.items()) or 'none'}")
    tell(f"{len(report.findings)} findings")
    for finding in report.findings[:20]:
        tell(f"  {finding[:4_000]}")
    raise SystemExit(bool(report.findings))


if __name__ == "__main__":
    main()
