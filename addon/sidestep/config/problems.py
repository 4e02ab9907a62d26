"""What is wrong with a configuration, in words: the place, what was expected, what was found.

Pure.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, Literal

import msgspec


class Problem(msgspec.Struct, frozen=True):
    """One thing wrong: where, what was expected there, what was found."""

    source: str
    path: str
    expected: str
    found: str
    hint: str = ""
    line: int | None = None
    name: str = ""
    """Of the provider or route that it is in."""

    def __str__(self) -> str:
        where = f"{self.source}: {self.path}" if self.path else self.source
        hint = f"; {self.hint}" if self.hint else ""
        at = ", ".join([*([] if self.line is None else [f"line {self.line}"]), *([self.name] if self.name else [])])
        return f"{where}: expected {self.expected}, found {self.found}{hint}{f' ({at})' if at else ''}"


class ConfigError(Exception):
    """All that is wrong with a configuration, a line each. Never quotes an expanded secret."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(p) for p in problems))


def in_words(value: object) -> str:
    """A value of the file in words. Never what is inside a table or an array: that may be a key."""
    match value:
        case dict():
            return "a table"
        case list():
            return "an array"
        case bool():
            return str(value).lower()
        case str():
            text = repr(value)
            return text if len(text) <= 60 else text[:57] + "…'"
        case _:
            return str(value)[:60]


def kind_in_words(kind: Any, value: Any = None) -> str:
    """What a field's type expects, in words; an upper bound only where the value exceeds it."""
    base = getattr(kind, "__origin__", kind)
    if base is Literal:
        return one_of(map(repr, kind.__args__))
    word = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a string",
        tuple: "an array of strings",
    }[base]
    for meta in getattr(kind, "__metadata__", ()):
        if meta.gt is not None:
            word += f" greater than {meta.gt}"
        if meta.ge is not None:
            word += f" of at least {meta.ge}"
        if meta.le is not None and isinstance(value, int | float) and value > meta.le:
            word += f" and at most {meta.le}"
    return word


def one_of(choices: Iterable[str]) -> str:
    return "one of " + ", ".join(choices)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else ""
