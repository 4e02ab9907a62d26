"""The scanners: any bytes, cut anywhere, give the same events, and the events give the bytes back."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestep.sse import ArrayScanner, EventScanner, Scanned

PIECES = st.sampled_from(
    [
        b"data: x",
        b"data:",
        b"\n",
        b"\r",
        b"\r\n",
        b"event: e",
        b": c",
        b"\xe2\x80\xa8",
        b"\xef\xbb\xbf",
        b"id: 1",
        b"\n\n",
    ]
)


def scan(data: bytes, cuts: list[int]) -> tuple[list[Scanned], bytes]:
    scanner = EventScanner()
    events: list[Scanned] = []
    places = sorted({0, len(data), *(c % (len(data) + 1) for c in cuts)})
    for begin, end in itertools.pairwise(places):
        events += scanner.feed(data[begin:end])
    rest = scanner.close()
    if rest is not None:
        events.append(rest)
    return events, b"".join(e.raw for e in events)


def meaning(events: list[Scanned]) -> list[tuple[bytes, bytes]]:
    return [(e.name, e.data) for e in events if e.data]


@given(st.lists(PIECES, max_size=30).map(b"".join), st.lists(st.integers(0, 200), max_size=20))
def test_cuts_change_nothing(data: bytes, cuts: list[int]) -> None:
    """The raws joined are the input, and the events are the same, wherever the stream was cut."""
    whole, back = scan(data, [])
    cut, back_cut = scan(data, cuts)
    assert back == back_cut == data
    assert meaning(cut) == meaning(whole)


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=20))
def test_no_byte_is_lost(data: bytes, cuts: list[int]) -> None:
    """Even of what is no event stream at all."""
    assert scan(data, cuts)[1] == data


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_line_ends(end: bytes) -> None:
    """LF, CR and CR LF end lines alike; an event that ends in bare CRs is not held back."""
    scanner = EventScanner()
    events = scanner.feed(end.join([b"event: a", b"data: 1", b"data:2", b"", b""]))
    assert [(e.name, e.data) for e in events] == [(b"a", b"1\n2")]
    assert scanner.pending == 0


def test_mixed_line_ends() -> None:
    """The line ends of one stream may differ from line to line."""
    scanner = EventScanner()
    events = scanner.feed(b"data: 1\r\ndata: 2\n\rdata: 3\r\r\ndata: 4\n\n")
    assert meaning(events) == [(b"", b"1\n2"), (b"", b"3"), (b"", b"4")]


def test_line_separators_inside_json_are_no_line_ends() -> None:
    """U+2028 and U+0085 belong to the text."""
    scanner = EventScanner()
    data = "\u2028 \u0085 \x0b \x0c".encode()
    assert scanner.feed(b"data: " + data + b"\n\n")[0].data == data


def test_an_event_without_its_blank_line_is_found_at_the_end() -> None:
    """What is left when a stream ends is read as an event."""
    scanner = EventScanner()
    assert scanner.feed(b"data: [DONE]") == []
    rest = scanner.close()
    assert rest is not None
    assert rest.data == b"[DONE]"


class _Counting(bytearray):
    """Counts the bytes that `find` looks at."""

    looked = 0

    def find(self, sub: bytes, start: int = 0) -> int:  # type: ignore[override]
        type(self).looked += len(self) - start
        return super().find(sub, start)


def test_a_long_event_in_small_pieces_costs_linear_work() -> None:
    """Each byte of an event that comes in many pieces is searched a bounded number of times."""
    scanner = EventScanner()
    scanner._buffer = _Counting()
    pieces = 2000
    scanner.feed(b"data: ")
    for _ in range(pieces):
        scanner.feed(b"x" * 1000)
    events = scanner.feed(b"\n\n")
    assert len(events[0].data) == pieces * 1000
    assert _Counting.looked < pieces * 1000 * 1.1


ELEMENTS = st.lists(
    st.dictionaries(st.text(max_size=5), st.text(max_size=8) | st.lists(st.integers(), max_size=3)), max_size=6
)


@given(ELEMENTS, st.sampled_from([None, 1]), st.lists(st.integers(0, 400), max_size=20))
def test_an_array_gives_its_elements_wherever_it_is_cut(
    elements: list[dict[str, object]], indent: int | None, cuts: list[int]
) -> None:
    """Each element once, whole, in order, and the bytes back."""
    data = json.dumps(elements, indent=indent).encode()
    scanner = ArrayScanner()
    found: list[Scanned] = []
    places = sorted({0, len(data), *(c % (len(data) + 1) for c in cuts)})
    for begin, end in itertools.pairwise(places):
        found += scanner.feed(data[begin:end])
    rest = scanner.close()
    found += [] if rest is None else [rest]
    assert b"".join(e.raw for e in found) == data
    assert [json.loads(e.data) for e in found if e.data] == elements
    assert scanner.closed
