"""Multipart forms (RFC 7578): reads and replaces single fields, the rest byte for byte.

Pure: no mitmproxy, no clock, no I/O.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from sidestep.dialects.bodies import NotReadError

MAX_PARTS = 1_000
"""Forms of these APIs have some tens of fields and files."""
MAX_HEAD = 16 << 10
"""Bytes of one part's header fields."""
_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,200})"|([^";\s]{1,200}))', re.IGNORECASE)
_AFTER_MARK = re.compile(rb"--|[ \t]*+(?=\r\n)")
_DISPOSITION = re.compile(rb"(?:^|\r\n)content-disposition:([^\r\n]*+)", re.IGNORECASE)
_UNUSUAL = re.compile(
    rb"\r\n[ \t]|content-transfer-encoding(?!:\s*+(?:binary|[78]bit)\b)|charset\s*+=(?!\s*+\"?(?:utf-?8|us-ascii)\b)",
    re.IGNORECASE,
)
"""A field that goes on in the next line, or a value in another form than it has to have: what browsers and SDKs never
send, and not all servers understand."""
_PARAMETER = re.compile(rb';\s*+([^=;\s"]++)\s*+=\s*+("(?:[^"\\]|\\.)*+"|[^;"\s]*+)')


class _Part(NamedTuple):
    name: bytes
    begin: int
    """Where its boundary begins."""
    value: int
    """Where its value begins."""
    end: int
    """Where that ends."""


class Form:
    """Reads, replaces and removes small text parts of a form; all else stays byte for byte."""

    def __init__(self, content_type: str, body: bytes) -> None:
        """NotReadError: readers may take it for different forms, or it has more than is read."""
        self._body = body
        self._mark = _mark(content_type)
        self._parts = _parts(self._mark, body)

    def _find(self, name: str) -> _Part | None:
        found = [part for part in self._parts if part.name == name.encode()]
        if len(found) > 1:
            raise NotReadError("its form has a field twice")
        return found[0] if found else None

    def text(self, name: str) -> str | None:
        """A field's text, None if there is none. NotReadError: there are several."""
        part = self._find(name)
        if part is None:
            return None
        return self._body[part.value : part.end].decode("utf-8", "replace").strip() or None

    def with_text(self, name: str, value: str, *, add: bool = False) -> bytes:
        """`add`: also where there is no such part."""
        part = self._find(name)
        if part is None and add and self._parts:
            at, mark = self._parts[0].begin, self._mark
            added = f'\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            return self._body[:at] + mark + added + self._body[at:]
        if part is None or self._body[part.value : part.end] == value.encode():
            return self._body
        return self._body[: part.value] + value.encode() + self._body[part.end :]

    def without(self, name: str) -> bytes:
        """The form without this field, however often it is there."""
        body = self._body
        for part in reversed(self._parts):
            if part.name == name.encode():
                body = body[: part.begin] + body[part.end + 2 :]
        return body


def _mark(content_type: str) -> bytes:
    """How each line begins that divides the parts."""
    boundaries = _BOUNDARY.findall(content_type)
    if len(boundaries) != 1:
        raise NotReadError("its form names no boundary, or several")
    return b"--" + "".join(boundaries[0]).encode("latin-1", "replace")


def _parts(mark: bytes, body: bytes) -> list[_Part]:
    line = b"\r\n" + mark
    begin = 0 if body.startswith(mark) else body.find(line) + 2
    parts: list[_Part] = []
    while body.startswith(mark, begin) and len(parts) <= MAX_PARTS:
        after = _AFTER_MARK.match(body, begin + len(mark))
        if after is None:
            break
        end = body.find(line, after.end())
        if after[0] == b"--":
            if end != -1:
                break  # more parts after the last one
            return parts
        # Where there are no header fields the blank line is the boundary's own.
        head = body.find(b"\r\n\r\n", after.end(), after.end() + MAX_HEAD)
        if end < 0 or not 0 <= head < end:
            break
        parts.append(_Part(_name_in(body[after.end() : head + 2]), begin, min(head + 4, end), end))
        begin = end + 2
    raise NotReadError("its form is not one that every reader takes for the same")


def _name_in(head: bytes) -> bytes:
    """The field that a part's header fields name; empty if they name none."""
    if _UNUSUAL.search(head):
        raise NotReadError("its form has a part whose header fields are unusual")
    dispositions = _DISPOSITION.findall(head)
    names = [(k.lower(), v) for d in dispositions for k, v in _PARAMETER.findall(d) if k.lower().startswith(b"name")]
    if not names:
        return b""
    if len(names) > 1 or names[0][0] != b"name" or b"\\" in names[0][1]:
        raise NotReadError("its form has a part whose name is spelled in an unusual way")
    name: bytes = names[0][1]
    return name.strip(b'"')
