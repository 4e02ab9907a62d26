"""The scanners: any bytes, cut anywhere, give the same events, and the events give the bytes back."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestep.dialects import sse
from sidestep.dialects.sse import ArrayScanner, EventScanner, Scanned, Start, look_at

PIECES = st.sampled_from(
    [
        *(b"data: x", b"data:", b"data", b"event: e", b"event:", b": c", b"id: 1", b"x"),
        *(b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n", b"\xe2\x80\xa8", b"\xef\xbb\xbf"),
    ]
)
CUTS = st.lists(st.integers(0, 400), max_size=20)


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    places = sorted({0, len(data), *(c % (len(data) + 1) for c in cuts)})
    return [data[begin:end] for begin, end in itertools.pairwise(places)]


def scan(scanner: EventScanner | ArrayScanner, parts: Iterable[bytes]) -> list[Scanned]:
    events = [event for part in parts for event in scanner.feed(part)]
    rest = scanner.close()
    assert scanner.pending == 0
    return events if rest is None else [*events, rest]


def meaning(events: list[Scanned]) -> list[tuple[bytes, bytes, bool]]:
    """What events say; an LF that follows a CR is one of its own where the stream was cut between them."""
    return [(e.name, e.data, e.whole) for e in events if e.raw.strip(b"\r\n")]


def reference(data: bytes) -> list[tuple[bytes, bytes]]:
    """The standard's own way: line by line."""
    found: list[tuple[bytes, bytes]] = []
    name, values = b"", list[bytes]()
    for line in re.split(rb"\r\n|\n|\r", data.removeprefix(b"\xef\xbb\xbf"))[:-1]:
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            if values:
                found.append((name, b"\n".join(values)))
            name, values = b"", []
        elif field == b"data":
            values.append(value)
        elif field == b"event":
            name = value
    return found


@given(st.lists(PIECES, max_size=30).map(b"".join), CUTS)
def test_cuts_change_nothing(data: bytes, cuts: list[int]) -> None:
    """The raws joined are the input, and the events are the same, wherever the stream was cut."""
    whole, cut = scan(EventScanner(), [data]), scan(EventScanner(), pieces(data, cuts))
    assert b"".join(e.raw for e in whole) == b"".join(e.raw for e in cut) == data
    assert meaning(cut) == meaning(whole)


@pytest.mark.parametrize("kind", [EventScanner, ArrayScanner])
@given(st.lists(PIECES, max_size=30).map(b"".join), CUTS, st.lists(st.booleans(), min_size=1, max_size=20))
def test_what_is_given_ahead(
    kind: type[EventScanner | ArrayScanner], data: bytes, cuts: list[int], ahead: list[bool]
) -> None:
    """Whenever the beginning of an event is taken, its raw is the rest, and it says the same."""
    if kind is ArrayScanner:
        data = b"[" + data.replace(b"data: ", b'{"a":1},').replace(b"event: ", b'"]') + b"]"
    scanner, events, taken = kind(), list[Scanned](), b""
    for number, part in enumerate(pieces(data, cuts)):
        found = scanner.feed(part)
        events += found
        taken += b"".join(e.raw for e in found)
        if ahead[number % len(ahead)]:
            taken += scanner.give()
    rest = scanner.close()
    events += [] if rest is None else [rest]
    assert taken + (b"" if rest is None else rest.raw) == data
    said = [(e.name, e.data, e.whole) for e in events if e.data]
    assert said == [(e.name, e.data, e.whole) for e in scan(kind(), [data]) if e.data]


@given(st.lists(PIECES, max_size=30).map(b"".join), CUTS)
def test_events_are_those_of_the_standard(data: bytes, cuts: list[int]) -> None:
    """What the scanner finds is what reading line by line finds."""
    events = scan(EventScanner(), pieces(data, cuts))
    assert [(e.name, e.data) for e in events if e.whole and e.data] == [e for e in reference(data) if e[1]]


@given(st.binary(max_size=200), CUTS)
def test_no_byte_is_lost(data: bytes, cuts: list[int]) -> None:
    """Even of what is no event stream at all."""
    assert b"".join(e.raw for e in scan(EventScanner(), pieces(data, cuts))) == data
    assert b"".join(e.raw for e in scan(ArrayScanner(), pieces(data, cuts))) == data


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_line_ends(end: bytes, size: int) -> None:
    """LF, CR and CR LF end lines alike, and an event is given out with the first byte that ends it."""
    scanner = EventScanner()
    data = end.join([b"event: a", b"data: 1", b"data:2", b"", b""])
    if end == b"\r\n":
        data = data[:-1]
    events = [e for i in range(0, len(data), size) for e in scanner.feed(data[i : i + size])]
    assert events == [Scanned(data, b"a", b"1\n2")]
    assert scanner.pending == 0
    assert scanner.feed(b"\n" if end == b"\r\n" else b"") == ([Scanned(b"\n", b"", b"")] if end == b"\r\n" else [])


def test_mixed_line_ends() -> None:
    """The line ends of one stream may differ from line to line."""
    events = EventScanner().feed(b"data: 1\r\ndata: 2\n\rdata: 3\r\r\ndata: 4\n\n")
    assert [e.data for e in events] == [b"1\n2", b"3", b"4"]


def test_line_separators_inside_json_are_no_line_ends() -> None:
    """U+2028 and U+0085 belong to the text."""
    data = "\u2028 \u0085 \x0b \x0c".encode()
    assert EventScanner().feed(b"data: " + data + b"\n\n")[0].data == data


@pytest.mark.parametrize(
    ("raw", "name", "data"),
    [
        (b": comment\n\n", b"", b""),
        (b": comment\ndata: 1\n\n", b"", b"1"),
        (b"data\n\n", b"", b""),
        (b"data:1\n\n", b"", b"1"),
        (b"data:  1 \n\n", b"", b" 1 "),
        (b"event: a\nevent: b\ndata: 1\n\n", b"b", b"1"),
        (b"event: a\nevent\ndata: 1\n\n", b"", b"1"),
        (b"data: 1\nevent: a\n\n", b"a", b"1"),
        (b"event: a\ndata: {\ndata: }\n\n", b"a", b"{\n}"),
        (b"id: 1\nretry: 3\ndata: 1\n\n", b"", b"1"),
        (b"\xef\xbb\xbfdata: 1\n\n", b"", b"1"),
        (b"dataset: 1\n\n", b"", b""),
    ],
)
def test_fields(raw: bytes, name: bytes, data: bytes) -> None:
    """Names, data, comments and the byte order mark are read as the standard says."""
    assert EventScanner().feed(raw) == [Scanned(raw, name, data)]


def test_a_byte_order_mark_counts_only_at_the_start() -> None:
    """Later on it is part of a field's name."""
    events = EventScanner().feed(b"data: 1\n\n\xef\xbb\xbfdata: 2\n\n")
    assert [e.data for e in events] == [b"1", b""]


def test_an_event_without_its_blank_line_is_found_at_the_end() -> None:
    """What is left when a stream ends is read as an event, and marked."""
    scanner = EventScanner()
    assert scanner.feed(b"data: 1\n\ndata: [DONE]") == [Scanned(b"data: 1\n\n", b"", b"1")]
    assert scanner.pending == len(b"data: [DONE]")
    assert scanner.close() == Scanned(b"data: [DONE]", b"", b"[DONE]", whole=False)


class _Counting(bytearray):
    """Counts the bytes that are looked at in the buffer."""

    looked = 0

    def find(self, sub: bytes, start: int = 0) -> int:  # type: ignore[override]
        _Counting.looked += len(self) - start
        return super().find(sub, start)

    def __contains__(self, item: object) -> bool:
        _Counting.looked += len(self)
        return super().__contains__(item)  # type: ignore[operator]


class _CountingPattern:
    def __init__(self, pattern: re.Pattern[bytes]) -> None:
        self.pattern = pattern

    def search(self, buffer: bytearray, at: int) -> re.Match[bytes] | None:
        found = self.pattern.search(buffer, at)
        _Counting.looked += (len(buffer) if found is None else found.end()) - at
        return found

    def match(self, buffer: bytearray, at: int) -> re.Match[bytes] | None:
        found = self.pattern.match(buffer, at)
        stop = at if found is None else found.end()
        # A text that has no end yet was gone through before the pattern came back to where it begins.
        _Counting.looked += (len(buffer) if buffer[stop : stop + 1] == b'"' else stop) - at
        return found


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_long_event_in_small_pieces_costs_linear_work(end: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte of an event that comes in many pieces is searched a bounded number of times."""
    scanner = EventScanner()
    scanner._buffer = _Counting()
    monkeypatch.setattr(sse, "_BLANK_LINE", _CountingPattern(sse._BLANK_LINE))
    monkeypatch.setattr(_Counting, "looked", 0)
    scanner.feed(b": c" + end + b"data: ")
    for _ in range(5000):
        assert scanner.feed(b"x" * 1000) == []
    (event,) = scanner.feed(end + end)
    assert len(event.data) == 5_000_000
    assert _Counting.looked < 5_000_000 * 1.01 + 100


def test_a_long_element_in_small_pieces_costs_linear_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are the bytes of a JSON array searched again with each piece, inside a string or outside."""
    monkeypatch.setattr(sse, "_INSIDE", _CountingPattern(sse._INSIDE))
    monkeypatch.setattr(sse, "_OUTSIDE", _CountingPattern(sse._OUTSIDE))
    monkeypatch.setattr(_Counting, "looked", 0)
    scanner = ArrayScanner()
    data = b'[{"a": "' + b"x\\\\" * 10_000 + b'", "b": [' + b"1, " * 10_000 + b"1]}]"
    events = [e for i in range(0, len(data), 100) for e in scanner.feed(data[i : i + 100])]
    assert len(events[0].data) == len(data) - 2
    assert _Counting.looked < len(data) * 1.02 + 200


ELEMENTS = st.lists(
    st.dictionaries(
        st.text(max_size=5), st.text(max_size=8) | st.lists(st.integers() | st.just({"[": "}"}), max_size=3)
    ),
    max_size=6,
)


@given(ELEMENTS, st.sampled_from([None, 1]), CUTS)
def test_an_array_gives_its_elements_wherever_it_is_cut(
    elements: list[dict[str, object]], indent: int | None, cuts: list[int]
) -> None:
    """Each element once, whole, in order, and the bytes back."""
    data = json.dumps(elements, indent=indent).encode() + b"\n"
    scanner = ArrayScanner()
    found = scan(scanner, pieces(data, cuts))
    assert b"".join(e.raw for e in found) == data
    assert [json.loads(e.data) for e in found if e.data] == elements
    assert all(e.whole for e in found)
    assert scanner.closed
    assert scanner.elements == len(elements)


def test_elements_bear_what_stood_before_them() -> None:
    """So that leaving one out leaves an array."""
    events = ArrayScanner().feed(b'[{"a":1}\n,\r\n{"b":2}\n]\n')
    assert events == [
        Scanned(b'[{"a":1}', b"", b'{"a":1}'),
        Scanned(b'\n,\r\n{"b":2}', b"", b'{"b":2}'),
        Scanned(b"\n]\n", b"", b""),
    ]


@given(CUTS)
def test_a_lone_object_is_one_element(cuts: list[int]) -> None:
    """An error object in place of the array is given out whole."""
    data = b' {"error": {"code": 429, "details": [{"a": {}}]}}'
    scanner = ArrayScanner()
    (event,) = scan(scanner, pieces(data, cuts))
    assert (event.data, event.whole, scanner.alone) == (data.strip(), True, True)


def test_a_cut_element_is_marked() -> None:
    """What an array that was cut off leaves is no whole element."""
    scanner = ArrayScanner()
    scanner.feed(b'[{"a":1},{"b":')
    assert scanner.close() == Scanned(b',{"b":', b"", b'{"b":', whole=False)


@pytest.mark.parametrize(
    ("parts", "events", "left"),
    [
        ([b"[{}"], [(b"[{}", b"{}")], (0, 1, False, False)),
        ([b"[{}", b",{", b"}]"], [(b"[{}", b"{}"), (b",{}", b"{}"), (b"]", b"")], (0, 2, True, False)),
        ([b"[{}, ", b"5, [1] ]x"], [(b"[{}", b"{}"), (b", 5, [1]", b"[1]"), (b" ]x", b"")], (0, 2, True, False)),
        ([b"[] "], [(b"[] ", b"")], (0, 0, True, False)),
        ([b"[]", b"x"], [(b"[]", b""), (b"x", b"")], (0, 0, True, False)),
        ([b"]{}}"], [(b"]{}", b"{}")], (1, 1, False, True)),
        ([b'{"a\\', b'"}": "]"}'], [(b'{"a\\"}": "]"}', b'{"a\\"}": "]"}')], (0, 1, False, True)),
        ([b'{"a\\\\"}', b"x"], [(b'{"a\\\\"}', b'{"a\\\\"}')], (1, 1, False, True)),
        ([b"[{", b"}{}"], [(b"[{}", b"{}"), (b"{}", b"{}")], (0, 2, False, False)),
    ],
)
def test_arrays_at_their_borders(
    parts: list[bytes], events: list[tuple[bytes, bytes]], left: tuple[int, int, bool, bool]
) -> None:
    """An element each, with what stood before it; what is left, how many there were, whether the array is closed, and
    whether it is none but one object."""
    scanner = ArrayScanner()
    found = [e for part in parts for e in scanner.feed(part)]
    assert found == [Scanned(raw, b"", data) for raw, data in events]
    assert (scanner.pending, scanner.elements, scanner.closed, scanner.alone) == left


@pytest.mark.parametrize(
    ("parts", "rest"),
    [
        ([b'[{"a":1} ', b', {"b":'], Scanned(b' , {"b":', b"", b'{"b":', whole=False)),
        ([b'[{"a":1}', b",\n5 "], Scanned(b",\n5 ", b"", b",\n5", whole=False)),
        ([b'[{"a":1}', b"]"], None),
        ([b" x"], Scanned(b" x", b"", b"x", whole=False)),
    ],
)
def test_what_is_left_of_an_array(parts: list[bytes], rest: Scanned | None) -> None:
    """The element that was cut off, without what stood before it; or what is no element at all."""
    scanner = ArrayScanner()
    for part in parts:
        scanner.feed(part)
    assert scanner.close() == rest
    assert (scanner.pending, scanner.close(), scanner.release()) == (0, None, b"")


@pytest.mark.parametrize(
    ("start", "found"),
    [
        (b"", None),
        (b"\r\n", None),
        (b"da", None),
        (b"\xef\xbb", None),
        (b"\xef\xbb\xbf", None),
        (b"\xef\xbb\xbf\ndata:", Start.EVENTS),
        (b"data:", Start.EVENTS),
        (b"data", None),
        (b"event: x", Start.EVENTS),
        (b"id:", Start.EVENTS),
        (b"retry:", Start.EVENTS),
        (b": x", Start.EVENTS),
        (b"{", Start.OTHER),
        (b"datum", Start.OTHER),
        (b"\xff\xfed", Start.UNREADABLE),
        (b"\xff", None),
        (b"\n\n\xff\xfed", Start.UNREADABLE),
        (b"\n\xffx", Start.OTHER),
        (b"\xfe\xff", Start.UNREADABLE),
        (b"{\0", Start.UNREADABLE),
        (b"{}x\0", Start.UNREADABLE),
        (b"{}xx\0", Start.OTHER),
    ],
)
def test_what_a_body_begins_as(start: bytes, found: Start | None) -> None:
    """Events, another document, or what is in no character set that is read here; None while it may be either."""
    assert look_at(start) is found


def test_a_stream_between_two_events() -> None:
    """It is at rest once an event has come and no part of the next one; a CR may yet be followed by its LF."""
    scanner = EventScanner()
    seen = [scanner.at_rest]
    for part in (b"data: a\n", b"\n", b"d", b"ata: b\r\r", b"\n", b"", b"x\r\n\r\n", b"x"):
        scanner.feed(part)
        seen.append(scanner.at_rest)
    assert seen == [False, False, True, False, False, True, True, True, False]
    assert (scanner.pending, scanner.release(), scanner.pending) == (1, b"x", 0)
    assert scanner.close() is None
