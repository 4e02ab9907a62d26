"""The model's name in an answer, as the app knows it."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidestep.dialects.renaming import MAX_START, MAX_WHOLE, Renamer

START = {"type": "message_start", "message": {"id": "m", "model": "theirs", "content": [], "usage": {"model": 1}}}
PING = b'event: ping\ndata: {"type": "ping"}\n\n'
TOLD = b'event: content_block_start\ndata: {"content_block": {"input": {"model": "theirs"}}}\n\n'
STREAM = PING + b"event: message_start\ndata: " + json.dumps(START).encode() + b"\n\n" + TOLD


def renamed(body: bytes, *, stream: bool, size: int = 1 << 30, name: str = "mine") -> bytes:
    renamer = Renamer(name, stream=stream)
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(map(renamer.feed, pieces)) + renamer.end()


@pytest.mark.parametrize("size", [1, 2, 7, 50, 1_000])
def test_a_stream_bears_the_apps_name_for_its_model(size: int) -> None:
    """In its first event alone: what the model says of models stays."""
    assert renamed(STREAM, stream=True, size=size) == STREAM.replace(b'"theirs"', b'"mine"', 1)


def test_signs_of_life_are_not_kept() -> None:
    renamer = Renamer("mine", stream=True)
    assert renamer.feed(PING) == PING
    assert renamer.feed(b"event: message_sta") == b""
    assert not renamer.done
    assert renamer.feed(b'rt\ndata: {"model":"theirs') == b""
    assert renamer.feed(b'"}\n\n') == b'event: message_start\ndata: {"model":"mine"}\n\n'
    assert renamer.done
    assert renamer.feed(b'"model":"theirs"') == b'"model":"theirs"'


def test_a_document_bears_it_too() -> None:
    """At its top alone, and wherever in it."""
    whole = {"content": [{"type": "tool_use", "input": {"model": "theirs"}}], "model": "theirs", "n": 1.50}
    told = json.loads(renamed(json.dumps(whole).encode(), stream=False, size=5, name='a "name"'))
    assert told == {**whole, "model": 'a "name"'}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"<html>",
        b"[1]",
        b'{"model": "theirs',
        b'{"type": "message", "id": 5}',
        b"event: message_start\ndata: {}\n\n" + TOLD,
        b"event: message_start\ndata: " + b" " * 2 * MAX_START + b'{"model": "theirs"}',
        b"x" * 2 * MAX_START + b'xevent: message_start\ndata: {"model": "theirs"}',
        b"x" * MAX_WHOLE + b'{"model": "theirs"}',
    ],
    ids=range(10),
)
def test_what_bears_none_stays_as_it_is(body: bytes, stream: bool) -> None:
    assert renamed(body, stream=stream, size=4_096) == body


def test_no_more_is_kept_than_a_first_event_or_a_document() -> None:
    renamer = Renamer("mine", stream=True)
    assert renamer.feed(b"x" * MAX_START) == b""
    assert len(renamer.feed(b"x")) == MAX_START + 1
    renamer = Renamer("mine", stream=False)
    assert renamer.feed(b"x" * MAX_WHOLE) == b""
    assert len(renamer.feed(b"x")) == MAX_WHOLE + 1


PIECES = st.sampled_from(
    [b"message_start", b'"model"', b":", b" ", b"\n", b'"theirs"', b'"', b"\\", b"content_block", b"data: {", b"x"]
)


@given(st.lists(PIECES, max_size=30), st.integers(1, 40), st.booleans())
@example([b'"model"', b":", b'"theirs"', b"\n", b"message_start", b'"model"', b":", b'"theirs"'], 1, True)
@example([b"content_block", b"\n", b"message_start", b'"model"', b":", b'"theirs"'], 1, True)
def test_however_it_comes_it_is_the_same(pieces: list[bytes], size: int, stream: bool) -> None:
    """Nothing is lost but the name."""
    body = b"".join(pieces)
    told = renamed(body, stream=stream, size=size)
    assert told == renamed(body, stream=stream)
    if told != body:
        before, _, after = told.partition(b'"mine"')
        assert before.rstrip(b" \n:").endswith(b'"model"')
        assert (body[: len(before)], body[len(body) - len(after) :]) == (before, after)
