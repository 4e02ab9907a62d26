"""Which providers have just failed a call that is made again."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from sidestep.routing.repeats import REPEAT_SECONDS, Repeats, digest, said_in
from support.world import answer, user

CALL = ("chat", "key", b"hi")
FAILED = frozenset({"a", "b"})


def test_a_call_is_remembered_for_half_a_minute() -> None:
    repeats = Repeats()
    assert repeats.failed_at(*CALL, 0.0) == frozenset()
    repeats.failed(*CALL, FAILED, 100.0)
    assert repeats.failed_at(*CALL, 100.0) == FAILED
    assert repeats.failed_at(*CALL, 100.0 + REPEAT_SECONDS - 0.1) == FAILED
    assert repeats.failed_at(*CALL, 100.0 + REPEAT_SECONDS) == frozenset()
    assert REPEAT_SECONDS == 30


@pytest.mark.parametrize("other", [("responses", "key", b"hi"), ("chat", "other", b"hi"), ("chat", "key", b"ho")])
def test_another_call_is_none_of_it(other: tuple[str, str, bytes]) -> None:
    """Another operation, another app's, other words: neither is its failure this one's, nor its answer."""
    repeats = Repeats()
    repeats.failed(*CALL, FAILED, 0.0)
    assert repeats.failed_at(*other, 0.0) == frozenset()
    repeats.answered(*other)
    assert repeats.failed_at(*CALL, 0.0) == FAILED
    repeats.answered(*CALL)
    assert (repeats.failed_at(*CALL, 0.0), len(repeats)) == (frozenset(), 0)


def test_a_call_that_nobody_failed_is_not_kept() -> None:
    repeats = Repeats()
    repeats.failed(*CALL, frozenset(), 0.0)
    assert len(repeats) == 0


def test_what_stands_for_a_call_is_short() -> None:
    """However long it is, and whatever is in it."""
    assert len(digest("chat", "\ud800", b"x" * 100_000)) == 16


@pytest.mark.parametrize(
    ("messages", "alike"),
    [
        (None, False),
        ([user("a")], False),
        ([user("a"), answer("b"), user("c")], True),
    ],
)
def test_what_of_a_call_is_said_again(messages: Any, alike: bool) -> None:
    """All of it; of a conversation of several turns what tells that from others, whatever came after."""

    def said(after: list[Any], body: bytes) -> bytes:
        return said_in(None if messages is None else msgspec.Raw(json.dumps(messages + after).encode()), body)

    assert (said([], b"one") == said([answer("d")], b"two")) is alike
    assert alike or said([], b"one") == b"one"
