"""The one door for numbers from outside: each has a range, and what lies beyond it, or is no number, is none.

Pure. A number that is read somewhere else, by `int` or `float`, can be infinite, negative, of a thousand digits, or no
number at all, and fail far from where it came in.
"""

from __future__ import annotations

import re
from typing import Any

MAX_COUNT = 10**12
"""More tokens than any answer can cost."""
MAX_INDEX = 1_000
"""No API gives so many answers to one call: OpenAI's `n` ends at 128."""
MAX_LENGTH = 200
"""Characters of a time or a number in words; the longest in use, a date with its time zone's name, has about sixty."""

_DECIMAL = re.compile(r"[0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20}")


def count(value: Any) -> int:
    """A count as JSON has it: whole, not negative, at most MAX_COUNT; else 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT else 0


def index(value: Any) -> int:
    """A place in a list, as JSON has it; the first where it is none. What is beyond MAX_INDEX is all one place."""
    # First what nearly all events have.
    return value if value.__class__ is int and 0 <= value <= MAX_INDEX else min(count(value), MAX_INDEX)


def decimal(text: str | None) -> float | None:
    """A number in ASCII digits, not negative, less than 10^20, perhaps with blanks around it; None if it is none."""
    # Blanks, not all that `strip` takes off: beside a control character stands no number.
    if text is None or len(text) > MAX_LENGTH or _DECIMAL.fullmatch(text.strip(" \t")) is None:
        return None
    return float(text)
