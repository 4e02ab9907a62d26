"""The short way through a stream comes to the same end as the long one, and a pruned body says the same."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestep.dialects import DIALECTS
from sidestep.dialects.base import Call, Mark, StreamReader
from sidestep.dialects.bodies import LONG, pruned
from support import corpus

STREAMS = sorted(p.name for p in corpus.FOLDER.glob("*.sse"))


def reader_of(name: str) -> StreamReader:
    dialect, operation = name.split(".")[:2]
    operation = operation.replace("_", "/", 1) if dialect == "openai" else operation
    return DIALECTS[dialect].reader(Call(dialect, operation, "m", stream=True), "text/event-stream")


def state(reader: StreamReader) -> tuple[object, ...]:
    return reader.finished, reader.answered, reader.content, reader.usage, reader.model, reader.ids, reader.pending


def feed(reader: StreamReader, data: bytes) -> bytes:
    return b"".join(e.raw for e in reader.feed(data) if e.mark is not Mark.MALFORMED)


def compare(name: str, parts: list[bytes]) -> int:
    """How many of the parts were skimmed."""
    short, long = reader_of(name), reader_of(name)
    skimmed = 0
    for part in parts:
        expected = feed(long, part)
        if short.skim(part):
            skimmed += 1
            assert part == expected
        else:
            assert feed(short, part) == expected
        assert state(short) == state(long)
    assert [e.raw for e in short.close()] == [e.raw for e in long.close()]
    return skimmed


@pytest.mark.parametrize("name", STREAMS)
def test_a_skimmed_stream_leaves_the_same_behind(name: str) -> None:
    """Event by event, several at a time, and cut at random; with a comment, a broken event and an error among them."""
    data = corpus.stream(name).replace(b"\r\n", b"\n")
    events = [e + b"\n\n" for e in data.split(b"\n\n") if e]
    assert compare(name, events) >= len(events) - 2
    for more in (
        b": comment\n\n",
        b"data: {broken\n\n",
        b'data: {"error": {"message": "no"}}\n\n',
        b"id: 1\ndata: {}\n\n",
    ):
        assert compare(name, [*events[:3], more, *events[3:]]) >= 1
        compare(name, [b"".join(events[:3]), more + b"".join(events[3:])])
    rng = random.Random(1)
    for _ in range(50):
        places = sorted(rng.sample(range(1, len(data)), 4))
        compare(name, [data[i:j] for i, j in zip([0, *places], [*places, len(data)], strict=True)])


def test_windows_line_ends_take_the_long_way() -> None:
    """A CR may be half of a line end: what bears one is not skimmed."""
    name = "openai.chat_completions.stream.sse"
    data = corpus.stream(name).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    assert compare(name, [e + b"\r\n\r\n" for e in data.split(b"\r\n\r\n") if e]) == 0


STRINGS = st.text(alphabet='a"\\\n\u00e9}{[:', max_size=12)


@given(STRINGS, STRINGS, st.booleans())
def test_a_pruned_body_is_the_same_but_for_its_longest_strings(before: str, after: str, escaped: bool) -> None:
    """Whatever stands beside a long string, and around its quotes, is still there."""
    document = {
        "model": before,
        "input": [{"text": before + "x" * (LONG + 9) + after}, {"id": after}],
        "n": [1.5, None],
    }
    body = json.dumps(document, ensure_ascii=escaped).encode()
    assert len(pruned(body)) < LONG
    found = json.loads(pruned(body))
    assert found["input"].pop(0)["text"]
    document["input"].pop(0)  # type: ignore[attr-defined]
    assert found == document


def test_what_is_not_pruned_comes_back_as_it_is() -> None:
    """Short bodies, bodies that are no JSON, and bodies of many short strings."""
    for body in (b"", b'{"a": 1}', b"x" * (LONG + 9), b'"' * (LONG + 9), json.dumps(["y" * 50] * 50_000).encode()):
        assert pruned(body) == body
