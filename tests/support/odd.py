"""JSON with one value replaced by an odd one, at every place of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

ODD = (
    *("1" * 20, "1" * 309, "-" + "1" * 309, "1" * 5000, "1e999", "NaN", "-Infinity", "1e-999", "-1", "1.5", "true"),
    *("null", "[]", "[[1]]", "{}", '{"a": 1}', '""', '"x"', '"\\ud800"', '"' + "9" * 400 + '"', "[" * 200 + "]" * 200),
)
"""JSON as Python's reader takes it: numbers beyond every type, none at all, and what is no number."""


def with_odd_values(value: Any) -> Iterator[tuple[str, bytes]]:
    """Where which odd value is, and the JSON with it."""
    for path in _paths(value):
        text = json.dumps(_put(value, path, "@"))
        for odd in ODD:
            yield f"{'.'.join(map(str, path))} = {odd[:12]}", text.replace('"@"', odd).encode()


def _paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths(inner, (*path, key))
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from _paths(inner, (*path, at))


def _put(value: Any, path: tuple[str | int, ...], new: Any) -> Any:
    if not path:
        return new
    first, *rest = path
    if isinstance(value, dict):
        return {key: _put(inner, tuple(rest), new) if key == first else inner for key, inner in value.items()}
    return [_put(inner, tuple(rest), new) if at == first else inner for at, inner in enumerate(value)]
