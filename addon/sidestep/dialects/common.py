"""What the dialects share: reading JSON without touching it, and the frame of their stream readers.

Pure: no mitmproxy, no clock, no I/O, no single dialect's grammar.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

import msgspec

from sidestep.breaker import numbers
from sidestep.breaker.outcomes import NO_ERROR, ErrorFacts, ErrorKind
from sidestep.dialects.base import Answer, Usage
from sidestep.dialects.errors import facts_in, facts_of_words
from sidestep.dialects.lenient import STRICTLY_UNREADABLE, UnreadableError, is_too_much, strict

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_items = msgspec.json.Decoder(list[msgspec.Raw])
_any = msgspec.json.Decoder()
encode = msgspec.json.Encoder().encode

UNREADABLE = STRICTLY_UNREADABLE
_CHARSET = re.compile(r"charset=\"?([\w.:-]{1,40})", re.IGNORECASE)
READ_CHARSETS = ("", "utf-8", "utf8", "us-ascii", "ascii")
LEADING = b" \t\r\n\xef\xbb\xbf"
"""What may stand before a document: blanks, and a byte order mark."""
MAX_TOLD = 4096
"""Bytes of a report of tokens."""
MAX_IDS = 64
"""Identifiers remembered of one answer."""
UNSIGNED = "unsigned:"
"""How the name of reasoning begins that no issuer has signed: it is named by its text."""


# --- JSON, untouched


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


int_of = numbers.count
"""A count in a JSON value; 0 where there is none."""


def asks_for_stream(raw: msgspec.Raw | None) -> bool:
    """Whether a request's flag asks for a stream, also where it is a word or a number that some servers take."""
    return value_of(raw) in (True, "true", "True", "1")


def with_fields(body: bytes, model: str | None, drop: Collection[str], *, add: bool = False) -> bytes:
    """A JSON body with another model and without some fields; the very same bytes if nothing changes. `add`: also
    where it names none."""
    if model is None and not drop:
        return body
    fields = fields_of(body)
    if fields is None:
        return body
    changed = False
    if model is not None and (add or "model" in fields) and value_of(fields.get("model")) != model:
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
    return hasher(b"\0".join(parts)).hexdigest()


def hasher(data: bytes = b"") -> hashlib.blake2b:
    """Makes the same name of bytes that come in pieces."""
    return hashlib.blake2b(data, digest_size=16)


_STRUCTURE = frozenset({"type", "object", "index", "role", "revised_prompt"})
"""What stands in a frame around what is said."""


def holds(value: Any) -> bool:
    """Whether there is anything in a JSON value but the frame of it."""
    if isinstance(value, dict):
        return any(k not in _STRUCTURE and holds(v) for k, v in value.items())
    if isinstance(value, list):
        # A number that is none (NaN) is read as nothing.
        return any(item is None or holds(item) for item in value)
    return value is not None and value != ""


def is_error(value: Any) -> bool:
    """Whether a field named for errors tells of one: some servers always send it, with nothing or zeros in it."""
    return any(value.values()) if isinstance(value, dict) else bool(value)


def media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def charset_of(content_type: str) -> str:
    """The declared character set, empty if there is none."""
    found = _CHARSET.search(content_type)
    return found[1].lower() if found else ""


_MODEL = re.compile(r"[A-Za-z0-9_][\w .~@+:-]*(?:/[A-Za-z0-9_][\w .~@+:-]*)*", re.ASCII)


def is_model(name: str) -> bool:
    """Whether a name that stands in a path is a model's: no segment hides in it that leads out of the base URL (`..`,
    `%2e%2e`), and nothing else that a server may take for more than a name."""
    return _MODEL.fullmatch(name) is not None


# --- whole answers


def has_any(body: bytes, words: tuple[bytes, ...]) -> bool:
    """Whether any of these is in it: asked of every body, and so without a generator."""
    for word in words:  # noqa: SIM110
        if word in body:
            return True
    return False


def is_page(body: bytes) -> bool:
    """A page in place of an answer, whatever it calls itself."""
    return body[:200].lstrip(LEADING).startswith(b"<")


def nothing_in_words(body: bytes) -> str:
    """What came where an answer should have, if that has words of its own."""
    if not body.strip():
        return "gave an empty answer"
    return "gave a web page in place of an answer" if is_page(body) else ""


def answer_fields(content_type: str, body: bytes) -> dict[str, msgspec.Raw] | None:
    """The fields of a JSON object that any of the official SDKs could read; None if it is none."""
    # What is inside a field is looked at later: there no other character set would be tried any more.
    fields = fields_of(body) if _is_utf8(body) else None
    if fields is not None or not body:
        return fields
    try:
        return fields_of(strict(body, charset_of(content_type)))
    except UnreadableError:
        return None


def _is_utf8(body: bytes) -> bool:
    if body.isascii():
        return True
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


class _Outside(msgspec.Struct):
    """What an answer is told by if nothing is to be built of it: all else is passed over."""

    error: msgspec.Raw = msgspec.Raw()
    model: msgspec.Raw = msgspec.Raw()
    modelVersion: msgspec.Raw = msgspec.Raw()  # noqa: N815  # so Gemini spells it
    usage: msgspec.Raw = msgspec.Raw()
    usageMetadata: msgspec.Raw = msgspec.Raw()  # noqa: N815
    choices: msgspec.Raw = msgspec.Raw()
    output: msgspec.Raw = msgspec.Raw()
    data: msgspec.Raw = msgspec.Raw()
    results: msgspec.Raw = msgspec.Raw()
    content: msgspec.Raw = msgspec.Raw()
    candidates: msgspec.Raw = msgspec.Raw()
    embedding: msgspec.Raw = msgspec.Raw()
    embeddings: msgspec.Raw = msgspec.Raw()


_outside = msgspec.json.Decoder(_Outside)
_FILLED = re.compile(rb"\s*+(?:\[\s*+[^\]\s]|\{\s*+[^}\s])")


def is_filled(raw: msgspec.Raw | bytes) -> bool:
    """Whether a list or an object holds anything."""
    return _FILLED.match(raw) is not None


def seen_from_outside(body: bytes, wanted: Collection[str], usage: Callable[[Any], Usage | None]) -> Answer:
    """What an answer is that has more values than are built: logprobs and vectors are long lists of numbers. It is good
    where it holds one of the lists `wanted`, if any is, and no error."""
    try:
        found = _outside.decode(body)
    except UNREADABLE:
        return Answer(good=False, unread=True)
    hollow = wanted and not any(is_filled(getattr(found, name)) for name in wanted)
    if hollow or bytes(found.error) not in (b"", b"null"):
        return no_answer(body)
    told = found.usage or found.usageMetadata
    counted = usage(value_of(told)) if len(bytes(told)) <= MAX_TOLD else None
    return Answer(True, None, counted, text_of(found.model) or text_of(found.modelVersion))


def not_read(content_type: str, body: bytes) -> Answer:
    """What a 2xx body is that is no JSON object: nothing, a page, broken JSON, JSON of another kind; or a form that
    is not known here, or more than is read."""
    start = body[:200].lstrip(LEADING)
    if not start or is_page(body):
        return Answer(good=False)
    if start.startswith((b"{", b"[")) and is_too_much(body):
        return Answer(good=False, unread=True)
    kind = media_type(content_type)
    known = kind == "text/event-stream" or "html" in kind
    known = known or ("json" in kind and charset_of(content_type) in READ_CHARSETS)
    if known or start.startswith((b"{", b"[")):
        return Answer(good=False)
    if len(body) <= PLAIN_WORDS and (error := facts_of_words(body.decode("utf-8", "replace"))).kind in _FAILURES:
        return Answer(good=False, error=error)
    return Answer(good=False, unread=True)


PLAIN_WORDS = 200
"""What a proxy between says in plain words (`upstream connect error or disconnect/reset before headers`) is shorter."""
_FAILURES = frozenset({ErrorKind.SERVER, ErrorKind.OVERLOADED, ErrorKind.RATE_LIMIT, ErrorKind.QUOTA})


def no_answer(body: bytes) -> Answer:
    """A 2xx body that is no answer, with the error that it holds, if it does."""
    error = facts_in(0, body)
    return Answer(good=False, error=None if error is NO_ERROR else error)


BROKEN_DOWN = frozenset(
    {
        *("error", "network_error", "abort", "aborted", "timeout", "server_error", "internal_error"),
        *("upstream_error", "insufficient_system_resource", "failed"),
    }
)
"""Reasons for an end that say that the provider has broken down: `error` of OpenRouter, vLLM and Cohere, `abort` of
vLLM and SGLang, `network_error` of Zhipu, `insufficient_system_resource` of DeepSeek."""


def broke_down(reason: Any) -> bool:
    """Whether a finish reason says that the provider has broken down, in any dialect's spelling."""
    return isinstance(reason, str) and reason.lower() in BROKEN_DOWN


BREAKDOWN = ErrorFacts(ErrorKind.SERVER, "the provider ended its answer with an error")


# --- streams


def texts(*values: Any) -> list[str]:
    return [v for v in values if isinstance(v, str) and v]
