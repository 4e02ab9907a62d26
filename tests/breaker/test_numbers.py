"""Numbers from outside."""

from __future__ import annotations

from typing import Any

import pytest

from sidestep.breaker.numbers import MAX_COUNT, MAX_INDEX, MAX_LENGTH, count, decimal, index


@pytest.mark.parametrize(
    ("value", "counted", "indexed"),
    [
        (0, 0, 0),
        (7, 7, 7),
        (1_000, 1_000, 1_000),
        (1_001, 1_001, 1_000),
        (MAX_INDEX + 1, MAX_INDEX + 1, MAX_INDEX),
        (MAX_COUNT, MAX_COUNT, MAX_INDEX),
        (MAX_COUNT + 1, 0, 0),
        (10**308, 0, 0),
        (-1, 0, 0),
        (True, 0, 0),
        *((value, 0, 0) for value in (1.0, float("nan"), float("inf"), "1", None, [1], {"a": 1})),
    ],
    ids=repr,
)
def test_counts_and_places(value: Any, counted: int, indexed: int) -> None:
    """A whole number in its range, and nothing that only resembles one."""
    assert (count(value), index(value)) == (counted, indexed)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("0", 0.0), ("5", 5.0), (" 5\t", 5.0), ("5.", 5.0), (".5", 0.5), ("05.50", 5.5), ("9" * 20, 1e20)),
        *((text, None) for text in ("", " ", "-1", "+1", "1e3", "0x1", "1_0", "nan", "inf", "1,5", "1 2", "١٢")),
        # To `float` these are blanks.
        *((f"5{c}", None) for c in "\x00\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u2003\u3000"),
        *((f"{c}5", None) for c in "\x00\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u2003\u3000"),
        *(("9" * 21, None), ("9" * 309, None), ("9" * 5000, None), (" " * MAX_LENGTH + "5", None), (None, None)),
        (" " * (MAX_LENGTH - 1) + "5", 5.0),
    ],
    ids=repr,
)
def test_decimals(text: str | None, value: float | None) -> None:
    """ASCII digits with at most one point; blanks around it are spaces and tabs."""
    assert decimal(text) == value
