"""In which line of a TOML text something is that a problem names by its path.

Pure. `tomllib` keeps no lines: they are looked for, by headers of tables and by what stands before an equals sign. What
is inside an inline table, or in an array over several lines, has the line of its key.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

_KEY = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_DOTTED = rf"{_KEY}(?:\s*\.\s*{_KEY})*"
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_DOTTED})\s*\]")
_ENTRY = re.compile(rf"\s*({_DOTTED})\s*=")


def line_of(text: str, path: str) -> int | None:
    """The line, counted from 1, of what is there, else of the table that it would be in, else of the first of what it
    would hold (`[[provider]]`); None: it is nowhere."""
    places = _places(text)
    found = next((number for number, place in places if place.startswith((f"{path}.", f"{path}["))), None)
    depth = -1
    for number, place in places:
        if len(place) > depth and (path == place or (path.startswith(place) and path[len(place)] in ".[")):
            found, depth = number, len(place)
    return found


def name_at(data: dict[str, Any], path: str) -> str:
    """The name of the provider or route that a path leads into; empty: it leads into none, or that has no name."""
    match = re.match(r"(providers|routes)\[(\d+)\]", path)
    tables = data.get(match[1]) if match else None
    if match is None or not isinstance(tables, list) or int(match[2]) >= len(tables):
        return ""
    table = tables[int(match[2])]
    name = table.get("name") if isinstance(table, dict) else None
    return name if isinstance(name, str) and name.isprintable() and len(name) <= 60 else ""


def _places(text: str) -> list[tuple[int, str]]:
    """Each header and each key with its path."""
    places = []
    counts: Counter[str] = Counter()
    table, closing = "", ""
    for number, line in enumerate(text.splitlines(), 1):
        if closing:
            closing = "" if closing in line else closing
            continue
        if header := _HEADER.match(line):
            table = _path(header[2])
            first, dot, rest = table.partition(".")
            if header[1] == "[[" and not dot:
                table = f"{first}[{counts[first]}]"
                counts[first] += 1
            elif counts[first]:
                table = f"{first}[{counts[first] - 1}]{dot}{rest}"
            places.append((number, table))
        elif entry := _ENTRY.match(line):
            key = _path(entry[1])
            places.append((number, f"{table}.{key}" if table else key))
        closing = next((q for q in ('"' * 3, "'" * 3) if line.count(q) % 2), "")
    return places


def _path(dotted: str) -> str:
    return ".".join(part.strip("\"'") for part in re.findall(_KEY, dotted))
