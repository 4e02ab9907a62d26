"""The page that people look at: its files, as they are sent to a browser. All that moves in it is in `page.js`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


@dataclass(frozen=True, slots=True)
class File:
    content: bytes
    type: str


def file(path: str) -> File | None:
    """What is at this path, None if nothing is."""
    if path not in _FILES:
        return None
    name, kind = _FILES[path]
    return File((Path(__file__).parent / name).read_bytes(), kind)
