"""Checks that the tests run through enough of each folder: `[tool.sidestep.coverage-floors]` in pyproject.toml.

Takes the path of coverage's JSON report. A floor is the share of lines, in percent, of a folder or file of
addon/sidestep. What runs in other processes (real proxies, commands) is not measured: folders that the end-to-end tests
hold have no floor, or a low one.
"""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def share(files: dict[str, tuple[int, int]], place: str) -> float | None:
    """The percentage of a folder's or file's lines that were run; None if there is no such place."""
    counts = [found for path, found in files.items() if path == place or path.startswith(f"{place}/")]
    lines = sum(count for count, _ in counts)
    return 100 * sum(run for _, run in counts) / lines if lines else None


def main() -> int:
    report = json.loads(Path(sys.argv[1]).read_text())
    files = {
        Path(path).relative_to("addon/sidestep").as_posix(): (
            found["summary"]["num_statements"],
            found["summary"]["covered_lines"],
        )
        for path, found in report["files"].items()
    }
    floors = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["sidestep"]["coverage-floors"]
    problems = []
    for place, floor in floors.items():
        found = share(files, place)
        if found is None:
            problems.append(f"{place}: expected a folder or file of addon/sidestep, found none")
        elif found < floor:
            problems.append(f"{place}: expected {floor} % of its lines to be run by tests, found {found:.1f} %")
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print(f"coverage: {report['totals']['percent_covered']:.0f} % of all lines; all {len(floors)} floors are kept")
    return int(bool(problems))


if __name__ == "__main__":
    raise SystemExit(main())
