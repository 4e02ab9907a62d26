"""Runs the chaos of tests/support/chaos.py at full length and says what came of it."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]

from sidestep.run.steps import steps  # noqa: E402
from support import chaos  # noqa: E402


@click.command()
@click.option("--requests", default=10_000, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--commit", type=click.Choice(["complete", "first_content", "both"]), default="both", show_default=True)
@click.option("--workers", default=1, show_default=True, help="So many share the port, and are killed now and then.")
def main(requests: int, seed: int, commit: str, workers: int) -> None:
    """10,000 mixed requests, 50 at a time, while the providers fall ill in turns."""
    console = Console(highlight=False)
    failed = False
    for each in ("complete", "first_content") if commit == "both" else (commit,):
        with tempfile.TemporaryDirectory() as folder, steps(console, requests, ended=True) as tell:
            place, count = Path(folder) / "proxy", requests
            report = chaos.run(place, requests=count, seed=seed, commit=each, workers=workers, tell=tell)
        providers = report.health["providers"]
        assert isinstance(providers, dict)
        out = sum(p["permits_out"] for p in providers.values())
        console.print(
            f"commit = {each}: {report.requests} requests in {report.seconds:.0f} s,"
            f" {len(report.errors)} errors, {report.broken_streams} streams broken after content,"
            f" answered by {dict(sorted(report.answered_by.items()))},"
            f" {out} permits out, {report.growth / 1e6:+.1f} MB"
        )
        if workers > 1:
            killed = {name.rpartition(".")[2]: count for name, count in report.killed.items()}
            console.print(f"  killed: {killed}; {report.lost} calls lost on connections to workers that were killed")
        for error in report.errors[:20]:
            console.print(f"  {error[:400]}")
        failed = failed or bool(report.errors) or out > 0
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
