"""Multipart forms: reads and replaces single fields, the rest byte for byte.

Pure: no mitmproxy, no clock, no I/O.
"""

from __future__ import annotations

import re

_BOUNDARY = re.compile(r'boundary=(?:"([^"]+)"|([^";\s]+))', re.IGNORECASE)


class Form:
    """Reads, replaces and removes small text parts of a form; all else stays byte for byte."""

    def __init__(self, content_type: str, body: bytes) -> None:
        self._body = body
        found = _BOUNDARY.search(content_type)
        self._mark = b"--" + (found[1] or found[2]).encode("latin-1", "replace") if found else b""

    def _find(self, name: str) -> tuple[int, int, int] | None:
        """Where a part begins with its boundary, where its value begins, and where that ends."""
        if not self._mark:
            return None
        header = re.compile(
            rb'content-disposition:[^\r\n]*[;\s]name="?' + re.escape(name.encode()) + rb'"?(?:[;\r\n]|$)', re.IGNORECASE
        )
        body = self._body
        at = 0 if body.startswith(self._mark) else body.find(b"\r\n" + self._mark) + 2
        while at >= 0 and body.startswith(self._mark, at):
            begin = at + len(self._mark)
            end = body.find(b"\r\n" + self._mark, begin)
            if end < 0:
                return None
            head_end = body.find(b"\r\n\r\n", begin, end + 2)
            if head_end >= 0 and header.search(body[begin:head_end]):
                return at, min(head_end + 4, end), end
            at = end + 2
        return None

    def text(self, name: str) -> str | None:
        place = self._find(name)
        if place is None:
            return None
        return self._body[place[1] : place[2]].decode("utf-8", "replace").strip() or None

    def with_text(self, name: str, value: str, *, add: bool = False) -> bytes:
        """`add`: also where there is no such part."""
        place = self._find(name)
        if place is None and add and (at := self._body.find(self._mark)) >= 0 and self._mark:
            part = f'\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            return self._body[:at] + self._mark + part + self._body[at:]
        if place is None or self._body[place[1] : place[2]] == value.encode():
            return self._body
        return self._body[: place[1]] + value.encode() + self._body[place[2] :]

    def without(self, name: str) -> bytes:
        place = self._find(name)
        return self._body if place is None else self._body[: place[0]] + self._body[place[2] + 2 :]
