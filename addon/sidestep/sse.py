"""Scans streams for their events, byte for byte: server-sent events, and JSON arrays sent piece by piece.

Pure: no mitmproxy, no clock, no I/O, no meaning. The raws of all events, joined, are the input. Each byte is
looked at a bounded number of times, however it is cut up.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?:\r\n|\n|\r)")
"""The end of a line and a line with nothing in it. Line ends are CR LF, LF or CR and nothing else
(WHATWG HTML, 9.2.5); the first is matched atomically, so that CR LF is never taken for two ends."""
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"
_STRUCTURAL = re.compile(rb'["{}\[\]\\,]')


class Scanned(NamedTuple):
    """One event: exactly the bytes that made it up, its name and its data lines joined by LF."""

    raw: bytes
    name: bytes
    data: bytes


class EventScanner:
    """Splits a stream into events. State: the bytes of the event that is not complete, and how far they were
    searched."""

    __slots__ = ("_buffer", "_searched")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0

    @property
    def pending(self) -> int:
        """Bytes of an event that is not complete."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Scanned]:
        """The events that these bytes complete. An event ends with its blank line; an LF that turns out to
        belong to a CR before it opens the next event, where it means nothing."""
        buffer = self._buffer
        buffer += data
        events: list[Scanned] = []
        start = 0
        at = self._searched
        if b"\r" not in buffer:
            while (end := buffer.find(b"\n\n", at)) >= 0:
                end += 2
                events.append(_parse(bytes(buffer[start:end])))
                start = at = end
        else:
            while (match := _BLANK_LINE.search(buffer, at)) is not None:
                end = match.end()
                events.append(_parse(bytes(buffer[start:end])))
                start = at = end
        if start:
            del buffer[:start]
        # A blank line may have begun in the last two bytes; never resume between a CR and its LF.
        resume = max(0, len(buffer) - 2)
        if resume and buffer[resume - 1] == 0x0D and buffer[resume] == 0x0A:
            resume -= 1
        self._searched = resume
        return events

    def close(self) -> Scanned | None:
        """What is left at the end of the stream, None if nothing is."""
        if not self._buffer:
            return None
        raw = bytes(self._buffer)
        self._buffer.clear()
        self._searched = 0
        return _parse(raw)


def _parse(raw: bytes) -> Scanned:
    if raw.startswith(b"data: ") and raw.find(b"\n") == len(raw) - 2 and b"\r" not in raw:
        return Scanned(raw, b"", raw[6:-2])
    name = b""
    lines: list[bytes] = []
    for line in _LINE_END.split(raw.removeprefix(_BOM)):
        field, colon, value = line.partition(b":")
        if field == b"data":
            lines.append(value[1:] if value.startswith(b" ") else value)
        elif field == b"event" and colon:
            name = value[1:] if value.startswith(b" ") else value
    return Scanned(raw, name, b"\n".join(lines))


class ArrayScanner:
    """Splits `[{…}, {…}]` into its elements as they come. State: unfinished bytes, the depth, whether inside a
    string, where the element began."""

    __slots__ = ("_begin", "_buffer", "_depth", "_in_string", "_searched", "closed", "elements")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._depth = 0
        self._in_string = False
        self._begin = -1
        self.elements = 0
        """Elements completed."""
        self.closed = False
        """The array's closing bracket has been seen."""

    @property
    def pending(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Scanned]:
        """The elements that these bytes complete, each with what stood before it since the last one."""
        buffer = self._buffer
        buffer += data
        events: list[Scanned] = []
        start = 0
        at = self._searched
        while (match := _STRUCTURAL.search(buffer, at)) is not None:
            at = match.end()
            byte = buffer[match.start()]
            if byte == 0x5C:  # backslash: whatever follows is escaped
                if self._in_string:
                    if at == len(buffer):
                        at -= 1
                        break
                    at += 1
            elif byte == 0x22:
                self._in_string = not self._in_string
            elif self._in_string or byte == 0x2C:
                continue
            elif byte in (0x7B, 0x5B):
                self._depth += 1
                if self._depth == 2 and self._begin < 0:
                    self._begin = match.start()
            else:
                self._depth -= 1
                if self._depth == 1 and self._begin >= 0:
                    events.append(Scanned(bytes(buffer[start:at]), b"", bytes(buffer[self._begin : at])))
                    self.elements += 1
                    start = at
                    self._begin = -1
                elif self._depth == 0:
                    self.closed = True
        else:
            at = len(buffer)
        if self._begin >= 0:
            self._begin -= start
        del buffer[:start]
        self._searched = at - start
        if self.closed and buffer:
            events.append(Scanned(bytes(buffer), b"", b""))
            buffer.clear()
            self._searched = 0
        return events

    def close(self) -> Scanned | None:
        if not self._buffer:
            return None
        raw = bytes(self._buffer)
        self._buffer.clear()
        self._searched = 0
        return Scanned(raw, b"", b"" if self._begin < 0 else raw[self._begin :])
