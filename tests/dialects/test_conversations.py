"""What tells conversations apart, and what does not."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from sidestep.dialects.conversations import conversation_of


def opening(content: Any) -> bytes:
    found = conversation_of(msgspec.Raw(json.dumps([{"role": "user", "content": content}]).encode()))
    assert found is not None
    return found.opening


IMAGE = {"type": "image", "source": "x"}
MARK = {"cache_control": {"type": "ephemeral"}}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a", [{"type": "text", "text": "a", **MARK}], True),
        ([IMAGE], [{**IMAGE, **MARK}], True),
        ([IMAGE], [{**IMAGE, "source": "y"}], False),
        ([5], [6], False),
        # Of a long text only its ends and its length count.
        ("x" * 16_384 + "a" + "x" * 16_384, "x" * 16_384 + "b" + "x" * 16_384, True),
        ("x" * 16_384 + "a" + "x" * 16_383, "x" * 16_384 + "b" + "x" * 16_383, False),
        ("x" * 16_383 + "a" + "x" * 16_385, "x" * 16_383 + "b" + "x" * 16_385, False),
        ("x" * 16_385 + "a" + "x" * 16_383, "x" * 16_385 + "b" + "x" * 16_383, False),
        ("x" * 40_000, "x" * 40_001, False),
        # A number that cannot be written again: the bytes count.
        ([10**30], [10**30], True),
        ([10**30], [10**30 + 1], False),
    ],
)
def test_the_opening(one: Any, other: Any, same: bool) -> None:
    """It is what the user says first, however it is written, and 16 bytes long."""
    assert (opening(one) == opening(other)) is same
    assert len(opening(one)) == 16
