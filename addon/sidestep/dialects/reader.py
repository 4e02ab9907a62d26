"""Reads a stream of events for one dialect: what is content, what ends it, what it cost.

Pure: no mitmproxy, no clock, no I/O.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec

from sidestep.breaker.outcomes import ErrorFacts, ErrorKind
from sidestep.dialects.base import Event, Mark, Usage
from sidestep.dialects.common import MAX_IDS, UNREADABLE
from sidestep.dialects.errors import facts_in
from sidestep.dialects.sse import ArrayScanner, EventScanner, Scanned


class Malformed(Exception):  # noqa: N818  # an answer, not an error of ours
    """The data of an event is no JSON."""


def decode_event[T](decoder: msgspec.json.Decoder[T], data: bytes) -> T | None:
    """The data of an event as a struct, None if it is JSON of another shape.

    Malformed is raised only for what the SDKs cannot read either: Python's `json` takes lone surrogates, for one.
    """
    try:
        return decoder.decode(data)
    except UNREADABLE:  # a ValidationError too: it says nothing of what follows
        pass
    try:
        return decoder.decode(json.dumps(json.loads(data), ensure_ascii=False).encode("utf-8", "replace"))
    except msgspec.ValidationError:
        return None
    except (ValueError, RecursionError):
        raise Malformed from None


Reading = tuple[Mark, ErrorFacts | None]


LIFECYCLE: Reading = (Mark.LIFECYCLE, None)


CONTENT: Reading = (Mark.CONTENT, None)


TERMINAL: Reading = (Mark.TERMINAL, None)


def error_reading(data: bytes) -> Reading:
    """The meaning of an error event."""
    return Mark.ERROR, facts_in(0, data)


class Reader:
    """What all readers share; `read` gives each event its meaning.

    State: the scanner, what was seen so far, whether the last event lacked its end. Memory is bounded by the
    largest single event.
    """

    def __init__(
        self, phrase: Callable[[ErrorKind, str], bytes], scanner: EventScanner | ArrayScanner | None = None
    ) -> None:
        """`phrase`: the dialect's error event for this call."""
        self._scanner = EventScanner() if scanner is None else scanner
        self._phrase = phrase
        self._open_end = b""
        self.finished = False
        self.content = False
        self.usage: Usage | None = None
        self.model: str | None = None
        self._ids: dict[str, None] = {}

    def read(self, name: bytes, data: bytes) -> Reading:
        """The meaning of one event that has data. May raise Malformed."""
        raise NotImplementedError

    @property
    def answered(self) -> bool:
        return self.finished

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self._ids)

    @property
    def pending(self) -> int:
        return self._scanner.pending

    def feed(self, data: bytes) -> list[Event]:
        return [self._event(scanned) for scanned in self._scanner.feed(data)]

    def skim(self, data: bytes) -> bool:
        if not self._scanner.at_rest or not data.endswith(b"\n\n") or b"\r" in data:
            return False
        content = self.content
        for event in data[:-2].split(b"\n\n"):
            name = b""
            if event.startswith(b"event: "):
                head, _, event = event.partition(b"\n")
                name = head[7:]
            if not event.startswith(b"data: ") or b"\n" in event:
                return False
            try:
                mark = self.read(name, event[6:])[0]
            except Malformed:
                return False
            if mark is Mark.CONTENT or mark is Mark.TERMINAL:
                content = True
            elif mark is not Mark.LIFECYCLE:
                return False
        self.content = content
        return True

    def close(self) -> list[Event]:
        rest = self._scanner.close()
        if rest is None:
            return []
        event = self._event(rest)
        if event.mark is not Mark.MALFORMED:
            self._open_end = event.raw[-1:]
        return [event]

    def error_event(self, kind: ErrorKind, message: str) -> bytes:
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
        raw, name, data, whole = scanned
        if not data and name != b"error":
            # Of an event that was cut off before its data, the SDKs would make one without any.
            return Event(raw, Mark.LIFECYCLE if whole or not raw.strip() else Mark.MALFORMED)
        try:
            mark, error = self.read(name, data)
        except Malformed:
            if name != b"error" or not whole:
                return Event(raw, Mark.MALFORMED)
            mark, error = error_reading(data)
        if mark is Mark.CONTENT or mark is Mark.TERMINAL:
            self.content = True
        return Event(raw, mark, error)
