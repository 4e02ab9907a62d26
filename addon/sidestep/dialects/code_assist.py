"""Gemini CLI with a Google login: Gemini calls in an envelope, at an address of their own.

A request is `{"model", "project", "request": {a Gemini request}, …}`, each answer `{"response": {a Gemini answer}}`, as
the CLI's public code has it. Such a call stays as it is where it stays at home; another Gemini provider gets what is
inside, and what it answers is put into the envelope. Pure: no mitmproxy, no clock, no I/O.
"""

from __future__ import annotations

import re
from urllib.parse import quote

import msgspec

from sidestep.dialects import common
from sidestep.dialects.bodies import NotReadError

TAIL = re.compile(r"/v1internal:(?P<operation>generateContent|streamGenerateContent)")
_OPEN, _CLOSE = b'{"response":', b"}"
_DATA = b"data: "
"""With the blank, which the CLI looks for."""
_EVENT = re.compile(rb"(?<![^\r\n])data: ?+([^\r\n]++)")
_ENVELOPE = _DATA + _OPEN + rb"\1" + _CLOSE
_END_OF_LINE = re.compile(rb"[\r\n]")


def inside(fields: dict[str, msgspec.Raw]) -> bytes:
    """The Gemini request in an envelope. NotReadError: there is none."""
    inner = fields.get("request")
    if inner is None or not bytes(inner).lstrip().startswith(b"{"):
        raise NotReadError("it has no request in its envelope")
    return bytes(inner)


def taken_out(tail: str, model: str, body: bytes) -> tuple[str, bytes]:
    """Path and body of the call at the Gemini API."""
    found = TAIL.fullmatch(tail)
    fields = common.fields_of(body)
    assert found is not None
    assert fields is not None
    return f"/v1beta/models/{quote(model, safe='')}:{found['operation']}", inside(fields)


def put_back(body: bytes, inner: bytes, model: str | None) -> bytes:
    """The envelope with another request in it, and another model on it if one is given."""
    fields = common.fields_of(body)
    assert fields is not None
    if inside(fields) == inner and model is None:
        return body
    named = {} if model is None else {"model": msgspec.Raw(common.encode(model))}
    return common.encode({**fields, "request": msgspec.Raw(inner), **named})


class Wrapper:
    """Puts an answer of the Gemini API into envelopes as it flows: a document into one, of a stream each event.

    State: whether anything has come; of a stream the beginning of a line that may be an event's, and whether a line is
    one.
    """

    done = False
    """Each event needs one."""

    def __init__(self, *, stream: bool) -> None:
        self._stream = stream
        self._begun = False
        self._start = b""
        self._within: bool | None = None
        """None: at the start of a line."""

    def feed(self, data: bytes) -> bytes:
        """The same bytes in envelopes, as far as it is known where one begins."""
        if not self._stream:
            begun, self._begun = self._begun, self._begun or bool(data)
            return data if begun or not data else _OPEN + data
        before = b""
        if self._within is not None:
            if (end := _END_OF_LINE.search(data)) is None:
                return data
            before, data = data[: end.start()] + self._close(), data[end.start() :]
        data, self._start = self._start + data, b""
        whole = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        # All lines at once: a stream may have any number of short ones.
        return before + _EVENT.sub(_ENVELOPE, data[:whole]) + self._line(data[whole:])

    def _line(self, begun: bytes) -> bytes:
        """The beginning of a line."""
        if _DATA.startswith(begun):
            self._start = begun  # it may be an event's: more has to come
            return b""
        found = _EVENT.match(begun)
        self._within = found is not None
        return begun if found is None else _DATA + _OPEN + found[1]

    def _close(self) -> bytes:
        closed, self._within = _CLOSE if self._within else b"", None
        return closed

    def end(self) -> bytes:
        """What is left at the end."""
        if not self._stream:
            begun, self._begun = self._begun, False
            return _CLOSE if begun else b""
        start, self._start = self._start, b""
        return start + self._close()
