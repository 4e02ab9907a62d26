"""The Anthropic dialect: Messages and token counting.

Pure. Grammar after Anthropic's Messages API reference, streaming page included.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from sidestep.dialects import common
from sidestep.dialects.base import Answer, Call, Mark, Pin, PinKind, StreamReader, Usage
from sidestep.dialects.common import Reader, dicts_in, digest, fields_of, int_of, text_of, value_of
from sidestep.outcomes import ErrorFacts, ErrorKind

OPERATIONS = {"/v1/messages": "messages", "/v1/messages/count_tokens": "count_tokens"}

_ERROR_TYPES = {
    ErrorKind.CREDENTIAL: "authentication_error",
    ErrorKind.RATE_LIMIT: "rate_limit_error",
    ErrorKind.QUOTA: "billing_error",
    ErrorKind.OVERLOADED: "overloaded_error",
    ErrorKind.INVALID: "invalid_request_error",
    ErrorKind.CONTEXT_TOO_LONG: "invalid_request_error",
    ErrorKind.UNKNOWN_MODEL: "not_found_error",
}
_PIN_WORDS = (b'"container"', b'"file_id"', b'"signature"', b'"redacted_thinking"')
_EMPTY_STARTS = ("text", "thinking")


class _Event(msgspec.Struct):
    type: Any = None
    message: Any = None
    delta: Any = None
    content_block: Any = None
    usage: Any = None
    error: Any = None


_event = msgspec.json.Decoder(_Event)


class Anthropic:
    """See `base.Dialect`."""

    name = "anthropic"

    def operation(self, method: str, tail: str) -> str | None:
        return OPERATIONS.get(tail) if method == "POST" else None

    def read(self, operation: str, tail: str, query: str, content_type: str, body: bytes) -> Call:
        fields = fields_of(body)
        if fields is None:
            return Call(self.name, operation, None, stream=False)
        return Call(
            self.name,
            operation,
            text_of(fields.get("model")),
            stream=operation == "messages" and value_of(fields.get("stream")) is True,
            pin=_pin(fields, body),
            max_output_tokens=int_of(value_of(fields.get("max_tokens"))) or None,
            conversation=_conversation(fields),
        )

    def rewrite(
        self, call: Call, tail: str, content_type: str, body: bytes, model: str | None, drop: Collection[str]
    ) -> tuple[str, bytes]:
        return tail, common.with_fields(body, model, drop)

    def reader(self, call: Call, content_type: str) -> StreamReader:
        return Reader(_mark)

    def is_stream(self, call: Call, content_type: str) -> bool:
        return "text/event-stream" in content_type.lower()

    def judge_answer(self, call: Call, content_type: str, body: bytes) -> Answer:
        fields = fields_of(body)
        if fields is None:
            return Answer(good=False)
        if "error" in fields or text_of(fields.get("type")) == "error":
            return common.no_answer(body)
        if ("input_tokens" if call.operation == "count_tokens" else "content") not in fields:
            return common.no_answer(body)
        ids = tuple(_signatures(value_of(fields.get("content")))) if b'"signature"' in body else ()
        usage = _usage(value_of(fields.get("usage")), None)
        container = value_of(fields.get("container"))
        if isinstance(container, dict) and isinstance(container.get("id"), str):
            ids += (container["id"],)
        return Answer(True, None, usage, text_of(fields.get("model")), ids)

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> ErrorFacts:
        return common.error_in(status, body)

    def phrase_error(self, status: int, kind: ErrorKind, message: str) -> bytes:
        return msgspec.json.encode(_error(kind, message))

    def phrase_error_event(self, call: Call, kind: ErrorKind, message: str) -> bytes:
        return b"event: error\ndata: " + msgspec.json.encode(_error(kind, message)) + b"\n\n"

    def keep_alive(self, call: Call) -> bytes:
        return b'event: ping\ndata: {"type": "ping"}\n\n'


def _error(kind: ErrorKind, message: str) -> dict[str, Any]:
    return {
        "type": "error",
        "error": {"type": _ERROR_TYPES.get(kind, "api_error"), "message": f"sidestep: {message}"},
    }


def _usage(usage: Any, before: Usage | None) -> Usage | None:
    """Later reports are cumulative; one that leaves a count out keeps the earlier one."""
    if not isinstance(usage, dict):
        return before
    cached = int_of(usage.get("cache_read_input_tokens"))
    given = int_of(usage.get("input_tokens")) + cached + int_of(usage.get("cache_creation_input_tokens"))
    made = int_of(usage.get("output_tokens"))
    if before is None:
        return Usage(given, made, cached)
    return Usage(given or before.input, made or before.output, cached or before.cached)


def _signatures(value: Any) -> list[str]:
    """Names for the signed pieces of thinking in some content."""
    found = []
    for block in dicts_in(value, frozenset({"input"})):
        signed = block.get("signature") or (block.get("data") if block.get("type") == "redacted_thinking" else None)
        if block.get("type") in ("thinking", "redacted_thinking") and isinstance(signed, str) and signed:
            found.append(digest(signed.encode()))
    return found[-common.MAX_IDS :]


def _pin(fields: Mapping[str, msgspec.Raw], body: bytes) -> Pin | None:
    if not any(word in body for word in _PIN_WORDS):
        return None
    container = value_of(fields.get("container"))
    if isinstance(container, dict):
        container = container.get("id")
    if isinstance(container, str) and container:
        return Pin(PinKind.STATE, "container", (container,))
    conversation = [value_of(fields.get("system")), value_of(fields.get("messages"))]
    files = [
        block["file_id"]
        for block in dicts_in(conversation, frozenset({"input"}))
        if isinstance(block.get("file_id"), str) and block["file_id"]
    ]
    if files:
        return Pin(PinKind.STATE, "file_id", tuple(files[: common.MAX_IDS]))
    signed = _signatures(conversation[1])
    return Pin(PinKind.SIGNATURE, "thinking", tuple(reversed(signed))) if signed else None


def _conversation(fields: Mapping[str, msgspec.Raw]) -> str | None:
    raw = fields.get("messages")
    if raw is None or b'"assistant"' not in bytes(raw):
        return None
    try:
        messages = msgspec.json.decode(raw, type=list[msgspec.Raw])
    except msgspec.DecodeError:
        return None
    # The first message alone: the cache marks in it may move from turn to turn, the system prompt's too.
    return digest(bytes(messages[0])) if len(messages) > 1 else None


def _mark(reader: Reader, name: bytes, data: bytes) -> tuple[Mark, ErrorFacts | None]:
    try:
        event = _event.decode(data)
    except msgspec.ValidationError:
        return Mark.LIFECYCLE, None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return common.unreadable(data)
    kind = event.type
    if kind == "content_block_delta":
        delta = event.delta if isinstance(event.delta, dict) else {}
        if delta.get("type") == "signature_delta" and isinstance(delta.get("signature"), str):
            reader.note_id(digest(delta["signature"].encode()))
        return Mark.CONTENT, None
    if kind == "error" or name == b"error":
        return Mark.ERROR, common.error_event_facts(data)
    if kind == "message_start" and isinstance(event.message, dict):
        reader.usage = _usage(event.message.get("usage"), reader.usage)
        if isinstance(event.message.get("model"), str):
            reader.model = event.message["model"]
        return Mark.LIFECYCLE, None
    if kind == "content_block_start" and isinstance(event.content_block, dict):
        block = event.content_block
        if block.get("type") == "redacted_thinking" and isinstance(block.get("data"), str):
            reader.note_id(digest(block["data"].encode()))
        return (Mark.LIFECYCLE if block.get("type") in _EMPTY_STARTS else Mark.CONTENT), None
    if kind == "message_delta":
        reader.usage = _usage(event.usage, reader.usage)
        delta = event.delta if isinstance(event.delta, dict) else {}
        return (Mark.CONTENT if delta.get("stop_reason") else Mark.LIFECYCLE), None
    if kind == "message_stop":
        reader.finished = True
        return Mark.TERMINAL, None
    return Mark.LIFECYCLE, None
