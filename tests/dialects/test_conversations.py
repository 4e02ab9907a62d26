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


CALL = {"type": "function_call_output", "output": "4"}
RESULT = {"role": "user", "content": [{"type": "tool_result", "content": "4"}]}
GEMINIS = {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {}}}]}


@pytest.mark.parametrize(
    ("last", "opens"),
    [
        ([{"role": "user", "content": "a"}], True),
        ([{"parts": [{"text": "a"}]}], True),
        ([{"role": "user", "content": 'it said "tool_result" and \\"functionResponse\\"'}], True),
        ([{"role": "user", "content": "a"}, {"role": "system", "content": "mind the time"}], True),
        ([RESULT], False),
        ([RESULT, {"role": "system", "content": "mind the time"}], False),
        ([GEMINIS], False),
        ([CALL], False),
        ([{"role": "tool", "content": "4"}], False),
        ([{"role": "assistant", "content": "well"}], False),
        ([{"role": "system", "content": "x"}] * 9, False),
    ],
)
def test_whether_it_is_the_user_who_has_spoken_last(last: list[Any], opens: bool) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, *last]
    found = conversation_of(msgspec.Raw(json.dumps(messages).encode()))
    assert found is not None
    assert found.opens_turn is opens
