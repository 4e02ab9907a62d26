"""JSON that only the official SDKs can read."""

from __future__ import annotations

from typing import Any

import pytest

from sidestep.dialects import lenient
from sidestep.dialects.lenient import UnreadableError, loads, strict


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"[NaN, Infinity, -Infinity]", [None, None, None]),
        (b"[NaN, 1e999, 1.5]", [None, None, 1.5]),
        (b"[NaN, " + b"9" * 300 + b"]", [None, int("9" * 300)]),
        (b"[NaN, " + b"9" * 301 + b"]", [None, None]),
        (b'"\x01"', "\x01"),
    ],
)
def test_loads(data: bytes, value: Any) -> None:
    """Numbers that are none are None."""
    assert loads(data) == value


def test_what_is_too_long_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lenient, "MAX_BYTES", 5)
    assert strict(b"[NaN]") == b"[null]"
    with pytest.raises(UnreadableError):
        strict(b"[NaN ]")
