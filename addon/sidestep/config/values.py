"""Reads single values out of a parsed TOML file, and keeps each problem with its place.

Pure: no files, no environment, and nothing of what a value is for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, get_type_hints

import msgspec

from sidestep.config.problems import Problem, did_you_mean, in_words, kind_in_words, one_of

REFERENCE = re.compile(r"\$\{([^}]*)\}")
"""A reference to an environment variable."""


def at(path: str, key: str) -> str:
    """The path of a key in the table at `path`."""
    return f"{path}.{key}" if path else key


class Values:
    """State: the problems met so far. `homes`: where a key belongs, in words, that is known in one
    table alone."""

    homes: Mapping[str, str] = MappingProxyType({})

    def __init__(self, source: str) -> None:
        self.source = source
        self.problems: list[Problem] = []

    def problem(self, path: str, expected: str, found: str, hint: str = "") -> None:
        self.problems.append(Problem(self.source, path, expected, found, hint))

    def known_keys(self, raw: dict[str, Any], path: str, known: Iterable[str]) -> None:
        for key in raw:
            if key not in known:
                hint = self.homes.get(key) or did_you_mean(key, known) or f"known are {', '.join(sorted(known))}"
                self.problem(at(path, key), "a known key", in_words(key), hint)

    def tables(self, data: dict[str, Any], key: str) -> list[dict[str, Any]] | None:
        """An array of tables; None: it is something else."""
        raw = data.get(key, [])
        if not isinstance(raw, list):
            self.problem(key, f"tables headed [[{key}]]", in_words(raw))
            return None
        for i, item in enumerate(raw):
            if not isinstance(item, dict):
                self.problem(f"{key}[{i}]", f"a table headed [[{key}]]", in_words(item))
                return None
        return raw

    def table[T: msgspec.Struct](self, above: T, raw: dict[str, Any], key: str, path: str) -> T:
        """A table of plain settings over those `above` it; what is wrong in it changes nothing."""
        if key not in raw:
            return above
        hints = get_type_hints(type(above), include_extras=True)
        path = at(path, key)
        changes: dict[str, Any] = {}
        for name, value in self.mapping(raw[key], path):
            if name not in hints:
                self.known_keys({name: value}, path, hints)
            elif (good := self.value(value, hints[name], f"{path}.{name}")) is not None:
                changes[name] = good
        return msgspec.structs.replace(above, **changes)

    def mapping(self, raw: Any, path: str, words: str = "a table") -> Iterable[tuple[str, Any]]:
        if isinstance(raw, dict):
            return raw.items()
        self.problem(path, words, in_words(raw))
        return ()

    def value(self, value: Any, kind: Any, path: str, words: str = "") -> Any:
        """A value of this type; None: it is none."""
        if self.has_reference(value, path):
            return None
        # For msgspec a list is a good tuple and 1.0 a good int; infinity would be no limit at all.
        if not (isinstance(value, float) and not math.isfinite(value)):
            try:
                return msgspec.convert(value, kind)
            except (msgspec.ValidationError, OverflowError):
                pass
        self.problem(path, words or kind_in_words(kind, value), in_words(value))
        return None

    def has_reference(self, value: Any, path: str) -> bool:
        """`${…}` where it does not expand is a mistake, not a value."""
        if isinstance(value, list):
            found = [self.has_reference(v, f"{path}[{i}]") for i, v in enumerate(value)]
            return any(found)
        if isinstance(value, str) and REFERENCE.search(value):
            self.problem(path, "no ${…} here", in_words(value), "references expand in api_key and headers only")
            return True
        return False

    def string(self, raw: dict[str, Any], key: str, path: str) -> str | None:
        text: str | None = self.value(raw[key], str, at(path, key)) if key in raw else None
        return text

    def strings(self, raw: dict[str, Any], key: str, path: str) -> tuple[str, ...] | None:
        texts: tuple[str, ...] | None = self.value(raw[key], tuple[str, ...], at(path, key)) if key in raw else None
        return texts

    def number(self, raw: dict[str, Any], key: str, path: str, kind: Any, default: float) -> float:
        number: float | None = self.value(raw[key], kind, at(path, key)) if key in raw else None
        return default if number is None else number

    def choice(self, raw: dict[str, Any], key: str, path: str, choices: tuple[str, ...]) -> str | None:
        if key not in raw or self.has_reference(raw[key], at(path, key)):
            return None
        value = raw[key]
        if isinstance(value, str) and value in choices:
            return value
        hint = did_you_mean(value, choices) if isinstance(value, str) else ""
        self.problem(at(path, key), one_of(choices), in_words(value), hint)
        return None
