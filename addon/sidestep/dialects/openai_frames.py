"""What is said over a WebSocket of the OpenAI dialect: the messages of the Responses API and of Realtime.

Pure: no mitmproxy, no clock, no I/O, no verdict. Grammar after OpenAI's reference of both APIs' WebSocket events, and
of the error frames of the ChatGPT backend as public clients read them. A message is one event, alike to those of a
stream; but one socket bears many responses, some of them at the same time: in lanes of their own (`stream_id`), or, in
Realtime, outside of the conversation.
"""

from __future__ import annotations

import enum
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from sidestep.breaker.outcomes import NO_ERROR, ErrorFacts, ErrorKind
from sidestep.dialects import common
from sidestep.dialects.base import Mark
from sidestep.dialects.bodies import NotReadError, fields_in, model_in, value_in
from sidestep.dialects.bounds import is_crowded
from sidestep.dialects.common import items_of, value_of
from sidestep.dialects.errors import facts_in
from sidestep.dialects.openai_streams import EventReader, decoded
from sidestep.dialects.reader import Malformed, decode_event

REALTIME = "realtime.websocket"
RESPONSES = "responses.websocket"

READ_BYTES = 4 << 20
"""A longer message of a provider is not decoded: its first and last words say what it is. The longest bear images."""
ASKED_BYTES = 32 << 20
"""Likewise one of the app: no event of a stream that is longer is read either."""
FOLLOWED = 32
"""Responses that are followed at a time; OpenAI has at most 16 of a socket under way."""
MAX_CHUNKS = 256
"""Events read of one message."""
MAX_HEADERS = 100
"""Header fields read of an error frame."""

_ASKS = ("response.create", "response.append")
_ENDS = frozenset(
    {"response.completed", "response.done", "response.incomplete", "response.cancelled", "response.failed"}
)
_SOCKETS_OWN = re.compile(r"websocket_\w{1,40}_limit_reached")
"""Codes about this connection: its hour is over, it has too many lanes. Some bear the status 429."""
_ABOUT_THE_MESSAGE = frozenset(
    {
        ErrorKind.CONTEXT_TOO_LONG,
        ErrorKind.INVALID,
        ErrorKind.LACKS,
        ErrorKind.SEALED,
        ErrorKind.UNKNOWN_MODEL,
    }
)
"""Kinds of errors about something that the app has sent."""

_EDGE = 2_048
_NAME = rb'"type"\s{0,8}:\s{0,8}"([\w.]{1,80})"'
_SCALAR = rb'"\w{1,40}"\s{0,8}:\s{0,8}(?:"[^"\\]{0,200}"|-?[\d.]{1,20}|true|false|null)'
_FIRST = re.compile(rb"\s{0,8}\{\s{0,8}(?:" + _SCALAR + rb"\s{0,8},\s{0,8}){0,6}?" + _NAME)
_LAST = re.compile(_NAME + rb"\s{0,8}(?:,\s{0,8}" + _SCALAR + rb"\s{0,8}){0,6}\}\s{0,8}\Z")


class Sign(enum.Enum):
    """What a message of the provider means for a response."""

    NOTHING = "nothing"
    """It lives on: a lifecycle event, or a message that belongs to no response."""
    CONTENT = "content"
    DONE = "done"
    """Its terminal event."""
    HOLLOW = "hollow"
    """It claims to be complete, and there was nothing in it."""
    WARM = "warm"
    """The same, where the app has asked for no more."""
    CANCELLED = "cancelled"
    """By the app, or because its user spoke."""
    FAILED = "failed"
    """An error, of the response or without one."""
    UNREAD = "unread"
    """A message in a form that is not known here."""


_LAST_SIGNS = frozenset({Sign.DONE, Sign.HOLLOW, Sign.WARM, Sign.CANCELLED, Sign.FAILED, Sign.UNREAD})


class Reply:
    """One response under way. State: its id and the app's name for the message that asked for it, as far as they are
    known; its lane; whether nothing but its end is to come; whether the provider has begun it; its reader."""

    __slots__ = ("asked_by", "begun", "id", "lane", "reader", "warms")

    def __init__(self, lane: str = "", *, asked_by: str = "", warms: bool = False) -> None:
        self.id = ""
        self.lane = lane
        self.asked_by = asked_by
        self.warms = warms
        self.begun = False
        self.reader = EventReader(lambda *_: b"", "responses")


@dataclass(frozen=True, slots=True)
class Said:
    """What one message of the provider says, and of which response; `reply` None: of none that is followed.

    `error`, with FAILED. `body` and `headers`: what else the message says that may name a time, or a plan's windows.
    """

    sign: Sign
    reply: Reply | None = None
    error: ErrorFacts = NO_ERROR
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


NOTHING = Said(Sign.NOTHING)


class _Ask(msgspec.Struct):
    type: Any = None
    stream_id: Any = None
    event_id: Any = None
    generate: Any = None


class _Frame(msgspec.Struct):
    type: Any = None
    stream_id: Any = None
    response_id: Any = None
    response: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()
    status: Any = None
    status_code: Any = None
    headers: msgspec.Raw = msgspec.Raw()
    body: msgspec.Raw = msgspec.Raw()
    chunks: msgspec.Raw = msgspec.Raw()
    rate_limits: msgspec.Raw = msgspec.Raw()


class _Head(msgspec.Struct):
    id: Any = None
    status: Any = None
    error: Any = None
    status_details: Any = None


_ask = msgspec.json.Decoder(_Ask)
_frame = msgspec.json.Decoder(_Frame)
_head = msgspec.json.Decoder(_Head)


def is_object(content: bytes) -> bool:
    """Whether a message looks like one of these APIs'."""
    return content[:64].lstrip(b" \t\r\n\xef\xbb\xbf").startswith(b"{")


def is_ambiguous(content: bytes) -> bool:
    """Whether servers may read a message of the app in different ways, or more is in it than is read."""
    try:
        _, fields = fields_in(content)
        model_in(fields)
        kind = value_in(fields.get("type"))
    except NotReadError:
        return True
    return kind in _ASKS and not any(b'"%s"' % ask.encode() in content for ask in _ASKS)  # by another spelling


class FrameReader:
    """One socket. State: the responses under way, the oldest first; the ids of the last ones that were given up, of
    which more may come."""

    def __init__(self, operation: str) -> None:
        self.open: list[Reply] = []
        self._given_up: deque[str] = deque(maxlen=FOLLOWED)
        self._realtime = operation == REALTIME

    def asked(self, content: bytes) -> Reply | None:
        """The app sends this text: the response that it asks for, None if it asks for none."""
        if len(content) > ASKED_BYTES:
            return self._follow(Reply()) if _kind_of(content) in _ASKS else None
        if b'"response.create"' not in content and b'"response.append"' not in content:
            return None  # nearly all that Realtime's apps send is sound
        ask = decoded(_ask, content)
        if ask is None or ask.type not in _ASKS:
            return None
        return self._follow(Reply(_text(ask.stream_id), asked_by=_text(ask.event_id), warms=ask.generate is False))

    def came(self, content: bytes) -> list[Said]:
        """The provider has sent this text, which may bear several events. What comes of a response after its end is
        NOTHING."""
        if len(content) > READ_BYTES or is_crowded(content):
            return [self._closed(self._glance(content))]
        try:
            frame = decode_event(_frame, content)
        except Malformed:
            frame = None
        if frame is None:
            return [self._closed(self._unread())]
        said = [self._closed(self._read(frame, content))]
        # The ChatGPT backend sends several events at once.
        for chunk in items_of(frame.chunks or None)[:MAX_CHUNKS]:
            inner = decoded(_frame, chunk)
            if inner is not None:
                said.append(self._closed(self._read(inner, bytes(chunk))))
        return said

    def unread(self) -> list[Said]:
        """The provider has sent something that is no text of these APIs."""
        return [self._closed(self._unread())]

    def _closed(self, said: Said) -> Said:
        if said.reply is not None and said.sign in _LAST_SIGNS:
            self.open.remove(said.reply)
        return said

    def _unread(self) -> Said:
        return Said(Sign.UNREAD, self._given_up_on(self.open[0] if self.open else None))

    def _given_up_on(self, reply: Reply | None) -> Reply | None:
        if reply is not None and reply.id:
            self._given_up.append(reply.id)
        return reply

    def give_up(self, reply: Reply) -> None:
        """It is not followed any more: more may come of it."""
        self._given_up_on(reply)
        self.open.remove(reply)

    def _follow(self, reply: Reply) -> Reply | None:
        if len(self.open) >= FOLLOWED:
            return None
        self.open.append(reply)
        return reply

    # --- a message

    def _read(self, frame: _Frame, content: bytes) -> Said:
        kind = _text(frame.type)
        has_error = bool(value_of(frame.error or None))
        if kind == "error" or (not kind and has_error):
            return self._failed(frame, content)
        if kind == "codex.rate_limits":
            return Said(Sign.NOTHING, headers=_windows_in(frame.rate_limits))
        if not kind.startswith("response."):
            return NOTHING
        head = decoded(_head, frame.response) or _Head()
        reply = self._reply_of(kind, _text(frame.response_id) or _text(head.id), _text(frame.stream_id))
        if reply is None:
            return NOTHING
        reply.begun = True
        if kind in _ENDS:
            return self._ended(reply, kind, head, content)
        if has_error:
            return self._failed(frame, content, reply)
        mark = reply.reader.read(b"", content)[0]
        if mark is not Mark.CONTENT:
            return Said(Sign.NOTHING, reply)
        reply.reader.content = True
        return Said(Sign.CONTENT, reply)

    def _reply_of(self, kind: str, name: str, lane: str) -> Reply | None:
        """The response that an event belongs to: by its id, else the oldest of its lane."""
        if name and name in self._given_up:
            if kind != "response.created":
                return None
            self._given_up.remove(name)
        found = next((r for r in self.open if name and r.id == name), None)
        if found is None:
            found = next((r for r in self.open if r.lane == lane and not (name and r.id)), None)
        if found is None and kind == "response.created":
            found = self._follow(Reply(lane))  # Realtime answers when its user falls silent
        if found is not None and name:
            found.id = name
        return found

    def _ended(self, reply: Reply, kind: str, head: _Head, content: bytes) -> Said:
        details = head.status_details if isinstance(head.status_details, dict) else {}
        if kind == "response.failed" or head.status == "failed":
            error = head.error or details.get("error")
            told = common.encode({"error": error}) if error else b""
            facts = facts_in(0, told) if told else common.BREAKDOWN
            return Said(Sign.FAILED, reply, facts, told)
        if kind == "response.cancelled" or head.status == "cancelled":
            return Said(Sign.CANCELLED, reply)
        reader = reply.reader
        mark = reader.read(b"", content)[0]
        if mark is Mark.TERMINAL or reader.content:
            return Said(Sign.DONE, reply)
        return Said(Sign.WARM if reply.warms else Sign.HOLLOW, reply)

    # --- errors

    def _failed(self, frame: _Frame, content: bytes, reply: Reply | None = None) -> Said:
        error = value_of(frame.error or None) or value_of(frame.body or None)
        status = frame.status if isinstance(frame.status, int) else frame.status_code
        facts = facts_in(0, common.encode({"status": status, "error": error}) if error else content)
        if _is_the_sockets(error):
            facts = ErrorFacts(ErrorKind.INVALID, facts.message)
        if reply is None:
            reply = self._given_up_on(self._blamed(frame, error, facts))
        return Said(Sign.FAILED, reply, facts, content, _headers_in(frame.headers))

    def _blamed(self, frame: _Frame, error: Any, facts: ErrorFacts) -> Reply | None:
        """The response that an error ends. In Realtime most are about some other message of the app, and end none."""
        if not self._realtime:
            name, lane = _text(frame.response_id), _text(frame.stream_id)
            found = self._reply_of("error", name, lane)
            return found or (self.open[0] if self.open and not lane else None)
        if facts.kind not in _ABOUT_THE_MESSAGE:
            return self.open[0] if self.open else None
        named = _text(error.get("event_id")) if isinstance(error, dict) else ""
        waiting = [r for r in self.open if not r.begun]
        if named:
            return next((r for r in waiting if r.asked_by == named), None)
        return next(iter(waiting), None)

    # --- messages that are too long to be read

    def _glance(self, content: bytes) -> Said:
        kind = _kind_of(content)
        reply = self.open[0] if self.open else None
        if kind == "error" or kind == "response.failed":
            return Said(Sign.FAILED, reply)
        if kind in _ENDS:
            return Said(Sign.DONE, reply) if reply is not None else NOTHING
        if not kind:
            return self._unread()
        if reply is None or not kind.startswith("response."):
            return NOTHING
        reply.begun = reply.reader.content = True
        return Said(Sign.CONTENT, reply)


def _kind_of(content: bytes) -> str:
    """The type of a message by its edges; empty if it does not stand there."""
    found = _FIRST.match(content[:_EDGE]) or _LAST.search(content[-_EDGE:])
    return "" if found is None else found[1].decode("ascii", "replace")


def _is_the_sockets(error: Any) -> bool:
    code = error.get("code") or error.get("type") if isinstance(error, dict) else None
    return isinstance(code, str) and _SOCKETS_OWN.fullmatch(code) is not None


def _headers_in(raw: msgspec.Raw) -> dict[str, str]:
    """The header fields that an error frame quotes: the ones that its answer would have had over HTTP."""
    told = value_of(raw or None)
    fields = list(told.items())[:MAX_HEADERS] if isinstance(told, dict) else []
    return {k.lower(): str(v) for k, v in fields if isinstance(v, (str, int, float)) and len(str(v)) < 1_000}


def _windows_in(raw: msgspec.Raw) -> dict[str, str]:
    """The windows of a ChatGPT plan that an event tells of, as the header fields of an answer do."""
    told = value_of(raw or None)
    fields: dict[str, str] = {}
    for which in ("primary", "secondary"):
        window = told.get(which) if isinstance(told, dict) else None
        for name in ("used_percent", "window_minutes", "reset_at", "reset_after_seconds"):
            value = window.get(name) if isinstance(window, dict) else None
            if isinstance(value, (int, float)):
                fields[f"x-codex-{which}-{name.replace('_', '-')}"] = str(value)
    return fields


def _text(value: Any) -> str:
    return value if isinstance(value, str) and len(value) <= 256 else ""
