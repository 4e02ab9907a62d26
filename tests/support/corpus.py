"""Streams and error bodies in the shapes that providers send them, and ways to cut them up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sidestep.dialects.base import Event, StreamReader

FOLDER = Path(__file__).parent.parent / "corpus"


def stream(name: str) -> bytes:
    return (FOLDER / name).read_bytes()


def errors(dialect: str) -> list[tuple[int, str, bytes]]:
    """Status, the kind that it is, body. Status 0: it came within a 2xx."""
    lines = [line.split("\t", 3) for line in (FOLDER / "errors.tsv").read_text().splitlines()]
    return [(int(status), kind, body.encode()) for name, status, kind, body in lines if name == dialect]


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """Whole, byte by byte, and in two at every place."""
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    for at in range(1, len(data)):
        yield [data[:at], data[at:]]


def run(reader: StreamReader, parts: list[bytes]) -> list[Event]:
    events = [event for part in parts for event in reader.feed(part)]
    return events + reader.close()


def marks(events: list[Event]) -> str:
    """The first letter of each mark, without blank lines: `L` lifecycle, `C` content, `T`, `E`, `M`."""
    return "".join(e.mark.name[0] for e in events if e.raw.strip(b"\r\n"))
