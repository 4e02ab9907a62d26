"""Reads a stream of events for one dialect: what is content, what ends it, what it cost.

Pure: no mitmproxy, no clock, no I/O.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec

from sidestep.breaker.outcomes import ErrorFacts, ErrorKind
from sidestep.dialects.base import Event, Mark, Usage
from sidestep.dialects.bounds import MAX_VALUES, is_crowded
from sidestep.dialects.common import BREAKDOWN, MAX_IDS, UNREADABLE
from sidestep.dialects.errors import facts_in
from sidestep.dialects.lenient import MAX_BYTES, UnreadableError, strict
from sidestep.dialects.sse import ArrayScanner, EventScanner, Scanned


class Malformed(Exception):  # noqa: N818  # an answer, not an error of ours
    """The data of an event is no JSON."""


def decode_event[T](decoder: msgspec.json.Decoder[T], data: bytes) -> T | None:
    """The data of an event as a struct, None if it is JSON of another shape.

    Malformed is raised only for what no SDK can read either.
    """
    try:
        return decoder.decode(data)
    except UNREADABLE:  # a ValidationError too: it says nothing of what follows
        pass
    if len(data) > MAX_BYTES:
        return None  # more than is read: others may read it
    try:
        return decoder.decode(strict(data))
    except UnreadableError:
        raise Malformed from None
    except UNREADABLE:
        return None


SLOW_WORK = 8
SLOW_BYTES = 200
"""What reading JSON that is not strict takes, in events: so many, and one more for so many bytes."""


_CALLS = (
    b'"tool_calls"',
    b'"function',
    b'"partial_json"',
    b'"tool_use"',
    b'"arguments"',
    b"function_call",
    b"json_delta",
)
"""Words of an event that bears a piece of a tool call."""
HALF_A_CALL = ErrorFacts(ErrorKind.SERVER, "a piece of a tool call cannot be read")
"""Left out, half an argument would look whole and be run."""

Reading = tuple[Mark, ErrorFacts | None]


LIFECYCLE: Reading = (Mark.LIFECYCLE, None)


CONTENT: Reading = (Mark.CONTENT, None)


TERMINAL: Reading = (Mark.TERMINAL, None)


BROKE_DOWN: Reading = (Mark.ERROR, BREAKDOWN)
"""A finish reason that says so."""


def error_reading(data: bytes) -> Reading:
    """The meaning of an error event."""
    return Mark.ERROR, facts_in(0, data)


class Reader:
    """What all readers share; `read` gives each event its meaning.

    State: the scanner, what was seen so far, whether the last event lacked its end, whether a part of the present one
    was given out ahead, whether an error has come: what follows one is not read, and after the terminal event there is
    none. Memory is bounded by the largest single event.
    """

    def __init__(
        self, phrase: Callable[[ErrorKind, str], bytes], scanner: EventScanner | ArrayScanner | None = None
    ) -> None:
        """`phrase`: the dialect's error event for this call."""
        self._scanner = EventScanner() if scanner is None else scanner
        self._phrase = phrase
        self._open_end = b""
        self._given = False
        self._over = False
        self.finished = False
        self.content = False
        self.dropped = False
        """An event was MALFORMED: something is missing."""
        self.usage: Usage | None = None
        self.model: str | None = None
        self.work = 0
        self.limit = sys.maxsize
        self.bug: Exception | None = None
        self._ids: dict[str, None] = {}

    def read(self, name: bytes, data: bytes) -> Reading:
        """The meaning of one event that has data. May raise Malformed."""
        raise NotImplementedError

    def decoded[T](self, decoder: msgspec.json.Decoder[T], data: bytes) -> T | None:
        """`decode_event`, with the work counted that it takes."""
        try:
            return decoder.decode(data)
        except UNREADABLE:
            self.work += SLOW_WORK + len(data) // SLOW_BYTES
            return None if self.work > self.limit else decode_event(decoder, data)

    def raises(self, name: bytes, data: bytes) -> bool:
        """Whether the official SDK raises its own API error from an event that has the meaning of one."""
        raise NotImplementedError

    @property
    def calling(self) -> bool:
        """A tool call has begun and is not complete."""
        return False

    @property
    def answered(self) -> bool:
        return self.finished

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self._ids)

    @property
    def pending(self) -> int:
        return self._scanner.pending

    def work_in(self, data: bytes) -> int:
        return self._scanner.work_in(data)

    def feed(self, data: bytes) -> list[Event]:
        scanned = self._scanner.feed(data)
        self.work += len(scanned) * self._scanner.WORK
        if self._given and scanned:
            return [self._rest_of(scanned[0]), *map(self._event, scanned[1:])]
        return [self._event(s) for s in scanned]

    def give(self) -> bytes:
        self._given = True
        return self._scanner.give()

    def _rest_of(self, scanned: Scanned) -> Event:
        """An event whose beginning is with the app: it can neither be left out nor replaced."""
        self._given = not scanned.whole
        event = self._event(scanned)
        if event.mark is Mark.MALFORMED:
            return Event(event.raw, Mark.LIFECYCLE)
        return replace(event, raises=True) if event.mark is Mark.ERROR else event

    def skim(self, data: bytes) -> bool:
        if self._over or not self._scanner.at_rest or not data.endswith(b"\n\n") or b"\r" in data:
            return False
        if len(data) > MAX_VALUES:
            return False
        before = self.content
        events = data[:-2].split(b"\n\n")
        self.work += len(events)
        for event in events:
            name = b""
            if event.startswith(b"event: "):
                head, _, event = event.partition(b"\n")
                name = head[7:]
            if not event.startswith(b"data: ") or b"\n" in event:
                break
            try:
                mark = self.read(name, event[6:])[0]
            except Malformed:
                break
            if mark is Mark.CONTENT or mark is Mark.TERMINAL:
                self.content = True
            elif mark is not Mark.LIFECYCLE:
                break
        else:
            return True
        self.content = before
        return False

    def close(self) -> list[Event]:
        rest = self._scanner.close()
        if rest is None:
            return []
        event = self._rest_of(rest) if self._given else self._event(rest)
        if event.mark is not Mark.MALFORMED:
            self._open_end = event.raw[-1:]
        return [event]

    def release(self) -> bytes:
        return self._scanner.release()

    def error_event(self, kind: ErrorKind, message: str) -> bytes:
        if self._given:
            return b""  # half an event is with the app
        phrased = self._phrase(kind, message)
        if self._open_end:
            return (b"\n" if self._open_end in b"\r\n" else b"\n\n") + phrased
        return phrased

    def note_ids(self, *identifiers: Any) -> None:
        for identifier in identifiers:
            if isinstance(identifier, str) and identifier and len(self._ids) < MAX_IDS:
                self._ids[identifier] = None

    def end(self) -> Reading:
        """A terminal event that bears no content: where there was none before, it ends no answer."""
        if not self.content:
            return LIFECYCLE
        self.finished = True
        return TERMINAL

    def _event(self, scanned: Scanned) -> Event:
        try:
            return self._meaning(scanned)
        except Exception as e:
            # A bug of ours stops no answer: what could not be read goes on as it came.
            self.bug, self.content = e, True
            return Event(scanned.raw, Mark.CONTENT)

    def _meaning(self, scanned: Scanned) -> Event:
        raw, name, data, whole = scanned
        if self._over or is_crowded(data):
            return Event(raw, Mark.LIFECYCLE)
        if not data and name != b"error":
            # Of an event that was cut off before its data, the SDKs would make one without any once anything follows.
            return Event(raw, Mark.LIFECYCLE if whole or self.finished or not raw.strip() else Mark.MALFORMED)
        try:
            mark, error = self.read(name, data)
        except Malformed:
            if name != b"error" or not whole:
                if whole and (self.calling or any(word in data for word in _CALLS)):
                    return self._error(raw, HALF_A_CALL)
                self.dropped = True
                return Event(raw, Mark.MALFORMED)
            mark, error = error_reading(data)
        if mark is Mark.CONTENT or mark is Mark.TERMINAL:
            self.content = True
        if mark is not Mark.ERROR:
            return Event(raw, mark)
        if self.finished:
            return Event(raw, Mark.LIFECYCLE)
        return self._error(raw, error, raises=self.raises(name, data))

    def _error(self, raw: bytes, error: ErrorFacts | None, *, raises: bool = False) -> Event:
        self._over = True
        return Event(raw, Mark.ERROR, error, raises)
