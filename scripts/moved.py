"""Says which installed packages are of another version than scripts/constraints.txt has."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path


def main() -> None:
    pinned: dict[str, set[str]] = {}
    for line in (Path(__file__).parent / "constraints.txt").read_text().splitlines():
        if match := re.match(r"([a-z0-9.-]+)==([^ ;]+)", line):
            pinned.setdefault(match[1], set()).add(match[2])
    moved = []
    for distribution in metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.name).lower()
        if name in pinned and distribution.version not in pinned[name]:
            moved.append(f"{name} {' / '.join(sorted(pinned[name]))} -> {distribution.version}")
    print(f"versions that differ from scripts/constraints.txt: {', '.join(sorted(moved)) or 'none'}")


if __name__ == "__main__":
    main()
