"""What is wrong with a configuration, in words, and in which line it stands."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest

from sidestep.config.lines import line_of, name_at
from sidestep.config.problems import Problem, in_words, kind_in_words

Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=1, le=9)]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, "f: a.b: expected x, found y"),
        ({"path": ""}, "f: expected x, found y"),
        ({"hint": "z"}, "f: a.b: expected x, found y; z"),
        ({"line": 3}, "f: a.b: expected x, found y (line 3)"),
        ({"name": "n"}, "f: a.b: expected x, found y (n)"),
        ({"hint": "z", "line": 3, "name": "n"}, "f: a.b: expected x, found y; z (line 3, n)"),
    ],
)
def test_a_problem(more: dict[str, Any], words: str) -> None:
    assert str(Problem(**{"source": "f", "path": "a.b", "expected": "x", "found": "y", **more})) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": "secret"}, "a table"),
        (["secret"], "an array"),
        ("it's", '"it\'s"'),
        ("x" * 58, f"'{'x' * 58}'"),
        ("x" * 59, f"'{'x' * 56}…'"),
        (10**59, "1" + "0" * 59),
        (10**70, "1" + "0" * 59),
        (True, "true"),
    ],
)
def test_a_value(value: object, words: str) -> None:
    """Never what is inside a table or an array: that may be a key."""
    assert in_words(value) == words


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (bool, "x", "true or false"),
        (str, 5, "a string"),
        (tuple[str, ...], 5, "an array of strings"),
        (Literal["a", "b"], 5, "one of 'a', 'b'"),
        (Share, "x", "a number greater than 0"),
        (Share, -1, "a number greater than 0"),
        (Share, 1, "a number greater than 0"),
        (Share, 1.5, "a number greater than 0 and at most 1"),
        (Count, 0, "a whole number of at least 1"),
        (Count, 10, "a whole number of at least 1 and at most 9"),
        (Count, None, "a whole number of at least 1"),
    ],
)
def test_what_is_expected(kind: Any, value: Any, words: str) -> None:
    """The upper bound only where it is exceeded."""
    assert kind_in_words(kind, value) == words


TEXT = '''mode = "on"
[circuit]
open_seconds = 5

[[providers]]
name = "a"
"base_url" = "https://a.test"
models.x = """
mode = "of the text"
"""
models.y = "z"
[providers.attempts]
max = 3
[[providers]]
name = "b"
headers = { X = "y" }
  [ providers . circuit ]
  open_seconds = 9
[[routes]]
providers = ["a",
  "b"]
note = \'\'\'one line\'\'\'
strategy = 'x'
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("mode", 1),
        ("circuit", 2),
        ("circuit.open_seconds", 3),
        ("circuit.missing", 2),
        ("circuitry", None),
        ("provider", None),
        ("providers[0]", 5),
        ("providers[0].name", 6),
        ("providers[0].base_url", 7),
        ("providers[0].models.x", 8),
        ("providers[0].models.y", 11),
        ("providers[0].attempts.max", 13),
        ("providers[0].mode", 5),
        ("providers[1]", 14),
        ("providers[1].name", 15),
        ("providers[1].headers.X", 16),
        ("providers[1].circuit.open_seconds", 18),
        ("providers[2].name", None),
        ("routes[0].providers[1]", 20),
        ("routes[0].strategy", 23),
        ("missing", None),
    ],
)
def test_in_which_line(path: str, line: int | None) -> None:
    """Of what is there; else of the table that it would be in."""
    assert line_of(TEXT, path) == line


DATA: dict[str, Any] = {
    "providers": [{"name": "a"}, {"name": 5}, 5, {"name": "x" * 60}, {"name": "x" * 61}, {"name": "a\nb"}, {}],
    "routes": {"name": "r"},
}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("providers[0].base_url", "a"),
        ("providers[0]", "a"),
        *((f"providers[{i}].x", "") for i in (1, 2, 4, 5, 6, 7, 99)),
        ("providers[3].x", "x" * 60),
        ("routes[0].x", ""),
        ("circuit.x", ""),
    ],
)
def test_whose_it_is(path: str, name: str) -> None:
    """The name of the provider or route that it is in, as far as that can be shown."""
    assert name_at(DATA, path) == name
