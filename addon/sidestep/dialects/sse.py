"""Scans streams for their events, byte for byte: server-sent events, and JSON arrays sent piece by piece.

Pure: no mitmproxy, no clock, no I/O, no meaning. The raws of all events, joined, are the input. Each byte is
looked at a bounded number of times, however the stream is cut up.
"""

from __future__ import annotations

import enum
import re
from typing import NamedTuple

from sidestep.dialects.bounds import marks

_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?:\r\n|\n|\r)")
"""The end of a line and a line with nothing in it. Line ends are CR LF, LF or CR and nothing else
(WHATWG HTML, 9.2.5); the first is matched atomically, so that CR LF is never taken for two ends."""
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"
_CR, _LF = 0x0D, 0x0A

_OUTSIDE = re.compile(rb'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
"""Up to the next bracket, or to a text whose end has not come; whole texts are passed over."""
_INSIDE = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
"""Up to the quote that ends a text, or to a backslash after which nothing has come."""
_QUOTE, _BACKSLASH = 0x22, 0x5C
_OPENING = b"{["

MARKS_AN_EVENT = 16
MARKS_AN_ELEMENT = 2
"""Commas and brackets that take as long as an event does, in the data of one and in an array."""


_FIELDS = (b"data:", b"event:", b"id:", b"retry:")
_SIXTEEN = (b"\xff\xfe", b"\xfe\xff")
_BEGINNINGS = (*_FIELDS, *_SIXTEEN, _BOM)
"""What the first bytes of a body may be a part of."""


class Start(enum.Enum):
    """What a body's first bytes show it to be."""

    EVENTS = "events"
    OTHER = "other"
    UNREADABLE = "unreadable"
    """In a character set of two or four bytes a letter, in which no stream is read here."""


def look_at(start: bytes) -> Start | None:
    """What a body begins as, None while too little of it has come."""
    bare = start.lstrip(b"\r\n")
    if bare.startswith(_SIXTEEN) or b"\0" in bare[:4]:
        return Start.UNREADABLE
    text = bare.removeprefix(_BOM).lstrip(b"\r\n")
    if text.startswith((b":", *_FIELDS)):
        return Start.EVENTS
    if not text.strip() or any(known.startswith(text) for known in _BEGINNINGS):
        return None
    return Start.OTHER


class Scanned(NamedTuple):
    """One event: exactly the bytes that made it up, its name, and its data lines joined by LF."""

    raw: bytes
    name: bytes
    data: bytes
    whole: bool = True
    """False: the stream ended before the event did."""


class EventScanner:
    """Splits a stream into events.

    An event reaches to the end of its blank line. A CR that ends it is not waited upon: should an LF follow in
    the next piece, it comes as an event of its own, without name and data.

    State: the bytes of the event that is not complete, how many of them were given out already, how far they were
    searched, whether a CR is among them, whether the last event ended in a CR that an LF may yet follow, whether any
    event came before.
    """

    WORK = 1
    """What one event takes, in events."""
    __slots__ = ("_after_cr", "_begun", "_buffer", "_crs", "_given", "_searched")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._given = 0
        self._searched = 0
        self._crs = False
        self._after_cr = False
        self._begun = False

    @property
    def pending(self) -> int:
        """Bytes of an event that is not complete."""
        return len(self._buffer)

    @property
    def at_rest(self) -> bool:
        """Between two events: the next byte begins one."""
        return self._begun and not self._buffer and not self._after_cr

    @staticmethod
    def work_in(data: bytes) -> int:
        """About what reading these bytes takes, in events: the lines, and what their JSON may hold."""
        return (data.count(b"\n") + data.count(b"\r")) // 2 + marks(data) // MARKS_AN_EVENT

    def feed(self, data: bytes) -> list[Scanned]:
        """The events that these bytes complete."""
        if not data:
            return []
        events: list[Scanned] = []
        if self._after_cr:
            self._after_cr = False
            if data[0] == _LF:
                events.append(Scanned(b"\n", b"", b""))
                data = data[1:]
        buffer = self._buffer
        crs = b"\r" in data
        if not buffer and not crs:
            *whole, rest = data.split(b"\n\n")
            for event in whole:
                events.append(self._parse_lines(event))
            if rest:
                buffer += rest
                self._searched = len(rest) - rest.endswith(b"\n")
            return events
        buffer += data
        self._crs = self._crs or crs
        start = 0
        if self._crs:
            at = self._searched
            while (match := _BLANK_LINE.search(buffer, at)) is not None:
                at = match.end()
                events.append(self._parse(bytes(buffer[start:at])))
                start = at
            self._after_cr = 0 < start == len(buffer) and buffer[-1] == _CR
        else:
            at = self._searched
            while (end := buffer.find(b"\n\n", at)) >= 0:
                events.append(self._parse_lines(bytes(buffer[start:end])))
                start = at = end + 2
        if start:
            del buffer[:start]
            self._crs = self._crs and b"\r" in buffer
        # What is left holds no blank line, so that one can only begin with the line end that it ends in.
        self._searched = len(buffer) - (2 if buffer.endswith(b"\r\n") else buffer.endswith((b"\n", b"\r")))
        if start and self._given:
            events[0] = events[0]._replace(raw=events[0].raw[self._given :])
            self._given = 0
        return events

    def give(self) -> bytes:
        """The bytes of an event that is not complete, ahead of its end: its raw will be the rest."""
        given, self._given = self._given, len(self._buffer)
        return bytes(self._buffer[given:])

    def release(self) -> bytes:
        """The bytes of an event that is not complete, for good."""
        raw = bytes(self._buffer[self._given :])
        self._buffer.clear()
        self._given = self._searched = 0
        self._crs = False
        return raw

    def close(self) -> Scanned | None:
        """What is left at the end of the stream, None if nothing is."""
        if not self._buffer:
            return None
        scanned = self._parse(bytes(self._buffer))
        return scanned._replace(raw=self.release(), whole=False)

    def _parse_lines(self, event: bytes) -> Scanned:
        """An event without CRs, given without its blank line."""
        if event.startswith(b"data: "):
            if b"\n" not in event:
                self._begun = True
                return Scanned(event + b"\n\n", b"", event[6:])
        elif event.startswith(b"event: "):
            head, _, tail = event.partition(b"\n")
            if tail.startswith(b"data: ") and b"\n" not in tail:
                self._begun = True
                return Scanned(event + b"\n\n", head[7:], tail[6:])
        return self._parse(event + b"\n\n")

    def _parse(self, raw: bytes) -> Scanned:
        text = raw if self._begun else raw.removeprefix(_BOM)
        self._begun = True
        name = b""
        values: list[bytes] = []
        for line in _LINE_END.split(text):
            field, _, value = line.partition(b":")
            if field == b"data":
                values.append(value.removeprefix(b" "))
            elif field == b"event":
                name = value.removeprefix(b" ")
        return Scanned(raw, name, b"\n".join(values))


def _end_of(pattern: re.Pattern[bytes], buffer: bytearray, at: int) -> int:
    """Where what these patterns match ends, which may be where it begins."""
    match = pattern.match(buffer, at)
    return at if match is None else match.end()


class ArrayScanner:
    """Splits `[{…}, {…}]` into its elements as they come; a document that is one object is one element.

    The raw of an element begins with what stood between it and the one before. State: the bytes of the element that is
    not complete, how many of them were given out already, how far they were searched, the depth there and whether it is
    inside a string, the depth at which elements lie, where the present one began.
    """

    WORK = 6
    """What one element takes, in events."""
    __slots__ = ("_base", "_begin", "_buffer", "_depth", "_given", "_in_string", "_searched", "closed", "elements")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._given = 0
        self._searched = 0
        self._depth = 0
        self._in_string = False
        self._base: int | None = None
        self._begin = -1
        self.elements = 0
        """Elements completed."""
        self.closed = False
        """The array's closing bracket has been seen."""

    @property
    def pending(self) -> int:
        """Bytes of an element that is not complete."""
        return len(self._buffer)

    at_rest = False
    """Elements are not read in passing."""

    @property
    def alone(self) -> bool:
        """The document is no array but one object."""
        return self._base == 0

    @staticmethod
    def work_in(data: bytes) -> int:
        """About what reading these bytes takes, in events: each bracket is looked at, and may be an element's."""
        return marks(data) // MARKS_AN_ELEMENT

    def feed(self, data: bytes) -> list[Scanned]:
        """The elements that these bytes complete; the array's end comes as an event without data."""
        buffer = self._buffer
        buffer += data
        events: list[Scanned] = []
        start, at = 0, self._searched
        while not self.closed and at < len(buffer):
            at = _end_of(_INSIDE if self._in_string else _OUTSIDE, buffer, at)
            if at == len(buffer) or buffer[at] == _BACKSLASH:
                break
            byte = buffer[at]
            at += 1
            if byte == _QUOTE:
                self._in_string = not self._in_string
            elif byte in _OPENING:
                if self._base is None:
                    self._base = int(byte == _OPENING[1])
                if self._depth == self._base:
                    self._begin = at - 1
                self._depth += 1
            elif self._depth:
                self._depth -= 1
                if self._depth == self._base:
                    events.append(Scanned(bytes(buffer[start:at]), b"", bytes(buffer[self._begin : at])))
                    self.elements += 1
                    start, self._begin = at, -1
                elif self._depth == 0:
                    self.closed = True
        if self.closed and start < len(buffer):
            events.append(Scanned(bytes(buffer[start:]), b"", b""))
            start = at = len(buffer)
        if start:
            del buffer[:start]
            if self._begin >= 0:
                self._begin -= start
        self._searched = at - start
        if start and self._given:
            events[0] = events[0]._replace(raw=events[0].raw[self._given :])
            self._given = 0
        return events

    def give(self) -> bytes:
        """The bytes of an element that is not complete, ahead of its end: its raw will be the rest."""
        given, self._given = self._given, len(self._buffer)
        return bytes(self._buffer[given:])

    def release(self) -> bytes:
        """The bytes of an element that is not complete, for good."""
        raw = bytes(self._buffer[self._given :])
        self._buffer.clear()
        self._given = self._searched = 0
        return raw

    def close(self) -> Scanned | None:
        """What is left at the end of the stream, None if nothing is."""
        if not self._buffer:
            return None
        data = bytes(self._buffer)
        data = data[self._begin :] if self._begin >= 0 else data.strip()
        return Scanned(self.release(), b"", data, whole=False)
