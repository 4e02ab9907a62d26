"""Runs the comparison of tests/support/differential.py at full length and lists what is worse, by its kind."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]

from sidestep.run.steps import steps  # noqa: E402
from support import differential, oddities  # noqa: E402

EXAMPLES = 3


@click.command()
@click.option("--cases", default=1000, show_default=True, help="How many answers are compared.")
@click.option("--seed", default=1, show_default=True)
@click.option("--case", "number", type=int, help="Only the case of this number.")
@click.option("--only", help=f"Only answers with this oddity, or this value of it: {', '.join(oddities.KINDS)}.")
@click.option("--jobs", default=6, show_default=True, help="Cases at a time.")
@click.option("--verbose", is_flag=True, help="Both readings of each case that is worse; of a single case always.")
def main(cases: int, seed: int, number: int | None, only: str | None, jobs: int, verbose: bool) -> None:
    """The same provider, alone, behind a bare mitmdump and behind Sidestep: equal, better by a name, or worse."""
    if only is not None and only.partition("=")[0] not in oddities.KINDS:
        raise click.BadParameter(f"expected one of {', '.join(oddities.KINDS)}", param_hint="--only")
    console = Console(highlight=False, markup=False, soft_wrap=True)
    again = f"./scripts/differential --seed {seed}{f' --only {only!r}' if only else ''} --verbose --case"

    def tell(case: differential.Case) -> None:
        step(f"#{case.number} by {case.by}: {case.verdict.kind or case.verdict.name or 'equal'}")
        if number is not None or (case.verdict.worse and verbose):
            console.print(f"#{case.number} {case.recipe}")
            name = case.verdict.kind or case.verdict.name or "equal"
            console.print(f"  {case.by}: {name}\n  bare: {case.bare}\n  with Sidestep: {case.side}")

    numbers = range(cases) if number is None else [number]
    with tempfile.TemporaryDirectory() as folder, steps(console, len(numbers), ended=True) as step:
        every = differential.SDK_EVERY if number is None else 1
        made = {n: oddities.make(seed, n, only=only) for n in numbers}
        report = differential.run(Path(folder), made, jobs=jobs, sdk_every=every, tell=tell)
    better = sum(report.better.values())
    worse = len(report.worse)
    equal = len(report.cases) - better - worse
    console.print(
        f"seed {seed}: {len(report.cases)} comparisons in {report.seconds:.0f} s:"
        f" {equal} equal, {better} better, {worse} worse"
    )
    for name, count in report.better.most_common():
        console.print(f"  {count:5} {name}")
    for kind, found in report.kinds().items():
        console.print(f"{len(found):5} worse: {kind}")
        for case in found[:EXAMPLES]:
            console.print(f"        {again} {case.number}   # {case.recipe}")
    for line in sorted(report.complaints):
        console.print(f"worse: Sidestep's proxy said {line}")
    raise SystemExit(bool(worse or report.complaints))


if __name__ == "__main__":
    main()
