"""What the dialects share: reading JSON without touching it, stream readers, the words of error bodies.

Pure: no mitmproxy, no clock, no I/O, no single dialect's grammar.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

import msgspec

from sidestep.dialects.base import Answer, Event, Mark, Usage
from sidestep.outcomes import NO_ERROR, ErrorFacts, ErrorKind
from sidestep.sse import EventScanner, Scanned

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_any = msgspec.json.Decoder()
_encode = msgspec.json.Encoder().encode

MAX_MESSAGE = 2_000
"""Characters kept of a provider's error message."""
MAX_IDS = 64
"""Identifiers remembered of one answer."""


# --- JSON, untouched


def fields_of(body: bytes) -> dict[str, msgspec.Raw] | None:
    """The top-level fields of a JSON object, each with its own bytes; None if it is no object."""
    try:
        return _fields.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def value_of(raw: msgspec.Raw | bytes | None) -> Any:
    """A JSON value, None if there is none or it cannot be read."""
    if raw is None:
        return None
    try:
        return _any.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def text_of(raw: msgspec.Raw | None) -> str | None:
    value = value_of(raw)
    return value if isinstance(value, str) and value else None


def int_of(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def with_fields(body: bytes, model: str | None, drop: Collection[str]) -> bytes:
    """A JSON body with another model and without some fields; the very same bytes if nothing changes."""
    fields = fields_of(body)
    if fields is None:
        return body
    changed = False
    if model is not None and "model" in fields:
        fields["model"] = msgspec.Raw(_encode(model))
        changed = True
    for name in drop:
        changed = fields.pop(name, None) is not None or changed
    return _encode(fields) if changed else body


def dicts_in(value: Any, skip: frozenset[str] = frozenset()) -> Iterator[dict[str, Any]]:
    """Every object inside a JSON value, not descending into the keys in `skip`."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            yield item
            stack.extend(v for k, v in item.items() if k not in skip and isinstance(v, (dict, list)))
        elif isinstance(item, list):
            stack.extend(v for v in item if isinstance(v, (dict, list)))


def digest(*parts: bytes) -> str:
    """A short stable name for some bytes."""
    return hashlib.blake2b(b"\0".join(parts), digest_size=16).hexdigest()


def is_html(content_type: str, body: bytes) -> bool:
    if "html" in content_type.lower():
        return True
    return body.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html"))


# --- errors

_UNKNOWN_MODEL = re.compile(
    r"model[_ ]not[_ ]found|no such model|unknown model|invalid model|invalid_model|model\b.{0,120}?"
    r"(?:does not exist|doesn't exist|not found|is not found|not supported|not available|not a valid|unavailable)"
    r"|(?:not a valid|unknown|unsupported) model"
    r"|no endpoints found|models/\S+ is not found|^model: ",
    re.IGNORECASE | re.DOTALL,
)
_CONTEXT = re.compile(
    r"context[_ ]length|context window|maximum context|prompt is too long|input is too long|too many (?:input )?tokens"
    r"|exceeds? the (?:maximum|max|limit).{0,40}token|input token count|maximum (?:number of )?tokens|request_too_large"
    r"|exceed_context_size|input length and .?max_tokens.? exceed|reduce the length",
    re.IGNORECASE | re.DOTALL,
)
_QUOTA = re.compile(
    r"insufficient[_ ](?:quota|balance|credits?|funds)|exceeded your current quota|credit balance is too low"
    r"|billing|payment required|out of credits|spending limit|billing_error|not enough credits",
    re.IGNORECASE,
)
_CREDENTIAL = re.compile(
    r"invalid[_ ]api[_ ]key|incorrect api key|api key not valid|api_key_invalid|authentication|unauthorized"
    r"|invalid x-api-key",
    re.IGNORECASE,
)
_RATE = re.compile(r"rate[_ ]limit|resource_exhausted|too many requests|rate_limit_exceeded", re.IGNORECASE)
_OVERLOADED = re.compile(r"overloaded|unavailable|at capacity|server is busy", re.IGNORECASE)
_INVALID = re.compile(r"invalid_request|invalid_argument|bad request|content_policy|content_filter", re.IGNORECASE)


def error_words(body: bytes) -> tuple[str, str]:
    """The message and the codes of an error body, whatever its shape; empty where there are none."""
    data = value_of(body)
    if isinstance(data, list) and data:
        data = data[0]
    if not isinstance(data, dict):
        return "", ""
    error = data.get("error", data)
    if isinstance(error, str):
        return error[:MAX_MESSAGE], _joined(data)
    if not isinstance(error, dict):
        return "", ""
    message = error.get("message") or error.get("detail") or data.get("message") or data.get("detail") or ""
    reasons = (
        [d.get("reason") for d in error.get("details") or () if isinstance(d, dict)]
        if isinstance(error.get("details"), list)
        else []
    )
    words = " ".join([_joined(error), *(str(r) for r in reasons if r)])
    return (message if isinstance(message, str) else str(message))[:MAX_MESSAGE], words


def _joined(error: dict[str, Any]) -> str:
    return " ".join(str(error[k]) for k in ("code", "type", "status") if isinstance(error.get(k), (str, int)))


def facts_of(status: int, message: str, words: str) -> ErrorFacts:
    """What an error means: its codes are believed before its message. `status` 0: it came in a stream."""
    both = f"{words} {message}"
    if "insufficient_quota" in words or status == 402 or (status != 429 and _QUOTA.search(both)):
        return ErrorFacts(ErrorKind.QUOTA, message)
    if status == 429 and _QUOTA.search(words):
        return ErrorFacts(ErrorKind.QUOTA, message)
    if status in (0, 400, 404, 413, 422):
        if "context_length_exceeded" in words or (status in (0, 400, 413) and _CONTEXT.search(both)):
            return ErrorFacts(ErrorKind.CONTEXT_TOO_LONG, message)
        if _UNKNOWN_MODEL.search(words) or (status in (400, 404) and _UNKNOWN_MODEL.search(message)):
            return ErrorFacts(ErrorKind.UNKNOWN_MODEL, message)
    if status == 429 or _RATE.search(words):
        return ErrorFacts(ErrorKind.RATE_LIMIT, message)
    if status in (401, 403) or _CREDENTIAL.search(both if status in (0, 400) else words):
        return ErrorFacts(ErrorKind.CREDENTIAL, message)
    if status == 529 or _OVERLOADED.search(words):
        return ErrorFacts(ErrorKind.OVERLOADED, message)
    if (400 <= status < 500) or (status == 0 and _INVALID.search(words)):
        return ErrorFacts(ErrorKind.INVALID, message)
    return ErrorFacts(ErrorKind.SERVER, message)


def error_in(status: int, body: bytes) -> ErrorFacts:
    message, words = error_words(body)
    return facts_of(status, message, words)


def no_answer(body: bytes) -> Answer:
    """A 2xx body that is no answer, with the error that it holds, if it does."""
    message, words = error_words(body)
    return Answer(good=False, error=facts_of(0, message, words) if message or words else None)


# --- streams


class Reader:
    """What all readers of event streams share; `mark` gives each event its meaning.

    State: the scanner, what was seen so far. Memory is bounded by the largest single event.
    """

    def __init__(self, mark: Callable[[Any, bytes, bytes], tuple[Mark, ErrorFacts | None]]) -> None:
        self._scanner = EventScanner()
        self._mark = mark
        self.finished = False
        self.content = False
        self.usage: Usage | None = None
        self.model: str | None = None
        self._ids: dict[str, None] = {}

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self._ids)

    @property
    def pending(self) -> int:
        return self._scanner.pending

    def note_id(self, identifier: Any) -> None:
        if isinstance(identifier, str) and identifier and len(self._ids) < MAX_IDS:
            self._ids[identifier] = None

    def feed(self, data: bytes) -> list[Event]:
        return [self._event(scanned) for scanned in self._scanner.feed(data)]

    def close(self) -> list[Event]:
        rest = self._scanner.close()
        return [] if rest is None else [self._event(rest)]

    def _event(self, scanned: Scanned) -> Event:
        raw, name, data = scanned
        if not data:
            return Event(raw, Mark.LIFECYCLE)
        mark, error = self._mark(self, name, data)
        if mark is Mark.CONTENT or mark is Mark.TERMINAL:
            self.content = True
        return Event(raw, mark, error)


def unreadable(data: bytes) -> tuple[Mark, ErrorFacts | None]:
    """An event that is not of the expected shape: another shape of JSON, or no JSON at all."""
    try:
        _any.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Mark.MALFORMED, None
    return Mark.LIFECYCLE, None


def error_event_facts(data: bytes) -> ErrorFacts:
    """What an error event says."""
    message, words = error_words(data)
    return facts_of(0, message, words) if message or words else NO_ERROR
