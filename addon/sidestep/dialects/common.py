"""What the dialects share: reading JSON without touching it, and the frame of their stream readers.

Pure: no mitmproxy, no clock, no I/O, no single dialect's grammar.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Collection, Iterator
from typing import Any

import msgspec

from sidestep.breaker.outcomes import NO_ERROR, ErrorFacts, ErrorKind
from sidestep.dialects.base import Answer, Conversation, Event, Mark, Usage
from sidestep.dialects.errors import facts_in
from sidestep.dialects.sse import ArrayScanner, EventScanner, Scanned

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_items = msgspec.json.Decoder(list[msgspec.Raw])
_any = msgspec.json.Decoder()
encode = msgspec.json.Encoder().encode

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
MAX_IDS = 64
"""Identifiers remembered of one answer."""
OPENING_MESSAGES = 8
"""Messages of the user before the first answer that are looked into: agents send their surroundings as some."""
END_LETTERS = 16_384
"""Of a text longer than two of these, only so much of its beginning and of its end is looked at: bodies may have
megabytes, and a conversation is told by less."""
END_BYTES = 65_536
"""The same for whatever else a message holds."""
_ANSWERING = frozenset({"assistant", "model", "tool", "function"})
_KEY = secrets.token_bytes(32)
"""Digests of what people say are keyed: nobody can look for a sentence in the memory of another process."""


class _Turn(msgspec.Struct):
    role: Any = None
    type: Any = None


_turn = msgspec.json.Decoder(_Turn)


# --- JSON, untouched


LONG = 1 << 20
"""Strings longer than this (bytes) are no identifiers and no signatures: a document, an image."""
_BYTES_A_QUOTE = 256


def pruned(body: bytes) -> bytes:
    """What is to be read of a request: without the insides of its long strings, each of which would have to be
    searched several times. The very same bytes if there are none, or too many quotes to tell quickly.

    What lies between two quotes is the inside of a string, or a part of it; it is left out but for the backslashes
    at its end, which belong to the quote.
    """
    if len(body) < LONG:
        return body
    kept: list[bytes] = []
    start = at = 0
    for _ in range(len(body) // _BYTES_A_QUOTE):
        quote = body.find(b'"', at)
        if quote < 0:
            kept.append(body[start:])
            return b"".join(kept)
        if quote - at > LONG:
            end = quote
            while body[end - 1] == 0x5C:
                end -= 1
            kept += (body[start:at], b"...")  # it is not empty
            start = end
        at = quote + 1
    return body


def fields_of(body: bytes | msgspec.Raw) -> dict[str, msgspec.Raw] | None:
    """The fields of a JSON object, each with its own bytes; None if it is no object."""
    try:
        return _fields.decode(body)
    except UNREADABLE:
        return None


def items_of(raw: bytes | msgspec.Raw | None) -> list[msgspec.Raw]:
    """The items of a JSON array, each with its own bytes; empty if it is no array."""
    try:
        return [] if raw is None else _items.decode(raw)
    except UNREADABLE:
        return []


def value_of(raw: msgspec.Raw | bytes | None) -> Any:
    """A JSON value, None if there is none or it cannot be read."""
    try:
        return None if raw is None else _any.decode(raw)
    except UNREADABLE:
        return None


def text_of(raw: msgspec.Raw | None) -> str | None:
    value = value_of(raw)
    return value if isinstance(value, str) and value else None


def int_of(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def with_fields(body: bytes, model: str | None, drop: Collection[str]) -> bytes:
    """A JSON body with another model and without some fields; the very same bytes if nothing changes."""
    if model is None and not drop:
        return body
    fields = fields_of(body)
    if fields is None:
        return body
    changed = False
    if model is not None and "model" in fields and value_of(fields["model"]) != model:
        fields["model"] = msgspec.Raw(encode(model))
        changed = True
    for name in drop:
        changed = fields.pop(name, None) is not None or changed
    return encode(fields) if changed else body


def dicts_in(value: Any, skip: frozenset[str] = frozenset()) -> Iterator[dict[str, Any]]:
    """Every object inside a JSON value in reading order, not descending into the keys in `skip`."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            yield item
            stack.extend(reversed([v for k, v in item.items() if k not in skip and isinstance(v, (dict, list))]))
        elif isinstance(item, list):
            stack.extend(reversed([v for v in item if isinstance(v, (dict, list))]))


def bounded(ids: list[str]) -> tuple[str, ...]:
    """Each identifier once, the last ones of too many."""
    return tuple(dict.fromkeys(ids))[-MAX_IDS:]


def digest(*parts: bytes) -> str:
    """A short stable name for some bytes."""
    return hashlib.blake2b(b"\0".join(parts), digest_size=16).hexdigest()


def conversation_of(messages: msgspec.Raw | None) -> Conversation | None:
    """Which conversation these messages belong to; None where there are none.

    What the user said before the first answer stands for it, without the cache marks that wander from turn to turn.
    Not the system prompt: coding agents put the date, or a checksum of the request, into it.
    """
    if messages is None:
        return None
    items = items_of(messages)
    if not items:
        said = text_of(messages)  # a Responses call may have one string for its input
        if said is None:
            return None
        items = [msgspec.Raw(encode({"content": said}))]
    opening: list[msgspec.Raw] = []
    answer = None
    for item in items:
        speaker = _speaker(item)
        if speaker == "user" and len(opening) < OPENING_MESSAGES:
            opening.append(item)
        elif speaker == "answer" and opening:
            answer = item
            break
    gists = [_gist(item) for item in opening or items[:1]]
    return Conversation(
        opening=_keyed(gists),
        answered=None if answer is None else _keyed([*gists, _gist(answer)]),
        length=len(items),
        end=_keyed([bytes(items[-1])]),
    )


def _speaker(item: msgspec.Raw) -> str:
    """`user`, `answer` (of the model, or of a tool that it called), or somebody else."""
    try:
        turn = _turn.decode(item)
    except UNREADABLE:
        return ""
    if turn.role is None:
        # An item of the Responses API that is no message is a piece of an answer; Gemini's user needs no role.
        return "user" if turn.type in (None, "message") else "" if turn.type == "item_reference" else "answer"
    return "user" if turn.role == "user" else "answer" if turn.role in _ANSWERING else ""


def _gist(item: msgspec.Raw) -> bytes:
    """What a message says, the same whether its text stands alone or in a block, and whatever is cached of it."""
    message = value_of(item)
    if not isinstance(message, dict):
        return bytes(item)
    content = message.get("content", message.get("parts"))
    if content is None:
        content = {k: v for k, v in message.items() if k != "status"}
    blocks = [_without_marks(block) for block in (content if isinstance(content, list) else [content])]
    try:
        return encode([blocks, message.get("tool_calls")])
    except (ValueError, OverflowError, RecursionError):
        return bytes(item)


def _without_marks(block: Any) -> Any:
    text = block.get("text") if isinstance(block, dict) else block
    if isinstance(text, str):
        return text if len(text) <= 2 * END_LETTERS else [text[:END_LETTERS], len(text), text[-END_LETTERS:]]
    return {k: v for k, v in block.items() if k != "cache_control"} if isinstance(block, dict) else block


def _keyed(parts: list[bytes]) -> bytes:
    """A digest that means nothing outside this process. Of what is long, its ends and its length are taken."""
    digest = hashlib.blake2b(key=_KEY, digest_size=16)
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part if len(part) <= 2 * END_BYTES else part[:END_BYTES] + part[-END_BYTES:])
    return digest.digest()


def media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def is_html(content_type: str, body: bytes) -> bool:
    if "html" in media_type(content_type):
        return True
    return body[:200].lstrip()[:15].lower().startswith((b"<!doctype html", b"<html"))


def no_answer(body: bytes) -> Answer:
    """A 2xx body that is no answer, with the error that it holds, if it does."""
    error = facts_in(0, body)
    return Answer(good=False, error=None if error is NO_ERROR else error)


# --- streams


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
