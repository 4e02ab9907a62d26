"""The Anthropic dialect: Messages and token counting.

Pure: no mitmproxy, no clock, no I/O. Grammar after Anthropic's Messages API reference, streaming page included.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import msgspec

from sidestep.breaker.outcomes import ErrorFacts, ErrorKind
from sidestep.dialects import common, sealed_anthropic
from sidestep.dialects.acting import acts
from sidestep.dialects.base import Answer, Call, Mark, Pin, PinKind, StreamReader, Usage
from sidestep.dialects.bodies import NotReadError, fields_in, model_in, value_in
from sidestep.dialects.bounds import is_crowded
from sidestep.dialects.common import UNSIGNED, bounded, dicts_in, int_of, items_of, text_of, value_of
from sidestep.dialects.errors import facts_in
from sidestep.dialects.reader import (
    BROKE_DOWN,
    CONTENT,
    HALF_A_CALL,
    LIFECYCLE,
    Malformed,
    Reader,
    Reading,
    error_reading,
)

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
_STATE_WORDS = (b'"container"', b'"file_id"')


class _Event(msgspec.Struct):
    type: Any = None
    index: Any = 0
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

    def read(self, operation: str, tail: str, query: str, content_type: str, body: bytes, base: str = "") -> Call:
        try:
            body, fields = fields_in(body)
            model = model_in(fields)
            pin, sealed = _pin(fields, body)
        except NotReadError as e:
            return Call(self.name, operation, None, stream=False, unread=str(e))
        return Call(
            self.name,
            operation,
            model,
            stream=operation == "messages" and common.asks_for_stream(fields.get("stream")),
            pin=pin,
            sealed=sealed,
            max_output_tokens=int_of(value_of(fields.get("max_tokens"))) or None,
            messages=fields.get("messages") if operation == "messages" else None,
            acts=acts(fields, body),
        )

    def rewrite(
        self, call: Call, tail: str, content_type: str, body: bytes, model: str | None, drop: Collection[str]
    ) -> tuple[str, bytes]:
        return tail, common.with_fields(body, model, drop)

    def address_at(self, host: str, base: str, tail: str, query: str, *, alike: bool) -> tuple[str, str]:
        return tail, query

    def rewrite_query(self, call: Call, query: str, model: str) -> str:
        return query

    def reader(self, call: Call, content_type: str) -> StreamReader:
        return _MessageReader(partial(self.phrase_error_event, call))

    def is_stream(self, call: Call, content_type: str, start: bytes) -> bool:
        # The SDKs do not look at the type. What begins as a document is none, whatever it calls itself.
        return common.media_type(content_type) == "text/event-stream" and not start.lstrip().startswith(
            (b"{", b"[", b"<")
        )

    def judge_answer(self, call: Call, content_type: str, body: bytes) -> Answer:
        if is_crowded(body):
            return common.seen_from_outside(body, ("content",), lambda told: _usage(told, None))
        fields = common.answer_fields(content_type, body)
        if fields is None:
            return common.not_read(content_type, body)
        if common.is_error(value_of(fields.get("error"))) or text_of(fields.get("type")) == "error":
            return common.no_answer(body)
        if call.operation == "count_tokens":
            return Answer(good=True) if common.holds(value_of(fields.get("input_tokens"))) else common.no_answer(body)
        stop, told = value_of(fields.get("stop_reason")), value_of(fields.get("usage"))
        if common.broke_down(stop):
            return Answer(good=False, error=common.BREAKDOWN)
        says = any(_says_something(value_of(block)) for block in items_of(fields.get("content")))
        if not says and not (_is_list(fields.get("content")) and _ends_well(stop, told)):
            return common.no_answer(body)
        is_sealed = common.has_any(body, sealed_anthropic.WORDS)
        ids = sealed_anthropic.names(value_of(fields.get("content"))) if is_sealed else []
        container = value_of(fields.get("container"))
        if isinstance(container, dict) and isinstance(container.get("id"), str):
            ids.append(container["id"])
        return Answer(True, None, _usage(told, None), text_of(fields.get("model")), bounded(ids))

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> ErrorFacts:
        return facts_in(status, body)

    def phrase_error(self, status: int, kind: ErrorKind, message: str) -> bytes:
        return common.encode(_error(kind, message))

    def phrase_error_event(self, call: Call, kind: ErrorKind, message: str) -> bytes:
        return b"event: error\ndata: " + common.encode(_error(kind, message)) + b"\n\n"

    def keep_alive(self, call: Call) -> bytes:
        return b'event: ping\ndata: {"type": "ping"}\n\n'


def _error(kind: ErrorKind, message: str) -> dict[str, Any]:
    return {
        "type": "error",
        "error": {"type": _ERROR_TYPES.get(kind, "api_error"), "message": f"sidestep: {message}"},
    }


def _is_list(raw: msgspec.Raw | None) -> bool:
    return isinstance(value_of(raw), list)


def _says_something(block: Any) -> bool:
    """Whether a block is more than an empty text."""
    if not isinstance(block, dict):
        return False
    return block.get("type") not in (None, "text", "thinking") or any(v for k, v in block.items() if k != "type")


def _ends_well(stop: Any, usage: Any) -> bool:
    """Whether a message without content may be one: Claude's empty answers have a reason and some tokens. Not where it
    tells of a call of a tool, and there is none."""
    counts_none = isinstance(usage, dict) and usage.get("output_tokens") == 0
    return bool(stop) and stop != "tool_use" and not (stop == "end_turn" and counts_none)


def _usage(usage: Any, before: Usage | None) -> Usage | None:
    """Later reports are cumulative; one that leaves a count out keeps the earlier one."""
    if not isinstance(usage, dict):
        return before
    cached = int_of(usage.get("cache_read_input_tokens"))
    given = int_of(usage.get("input_tokens")) + cached + int_of(usage.get("cache_creation_input_tokens"))
    made = int_of(usage.get("output_tokens"))
    if before is None:
        return Usage(given, made, cached)
    return Usage(max(given, before.input), max(made, before.output), max(cached, before.cached))


def _pin(fields: Mapping[str, msgspec.Raw], body: bytes) -> tuple[Pin | None, tuple[str, ...]]:
    """What ties the call to one provider or issuer, and the names of its sealed pieces, the newest first."""
    is_sealed = common.has_any(body, sealed_anthropic.WORDS)
    if not is_sealed and not common.has_any(body, _STATE_WORDS):
        return None, ()
    conversation = [value_in(fields.get("system")), value_in(fields.get("messages"))]
    sealed = tuple(dict.fromkeys(reversed(sealed_anthropic.names(conversation[1])))) if is_sealed else ()
    ids: list[str] = []
    container = value_in(fields.get("container"))
    if isinstance(container, dict):
        skills = container.get("skills")
        for skill in skills if isinstance(skills, list) else ():
            # Anthropic's own skills are found wherever Claude is; others live with a workspace.
            if isinstance(skill, dict) and skill.get("type") == "custom":
                ids.append(skill.get("skill_id") or "")
        container = container.get("id")
    if isinstance(container, str) and container:
        ids.append(container)
    if ids:
        return Pin(PinKind.STATE, "container", bounded([i for i in ids if i])), sealed
    free = sealed_anthropic.FREE
    files = [b["file_id"] for b in dicts_in(conversation, free) if isinstance(b.get("file_id"), str) and b["file_id"]]
    if files:
        return Pin(PinKind.STATE, "file_id", bounded(files)), sealed
    if sealed and sealed_anthropic.is_bound(conversation[1]):
        return Pin(PinKind.SIGNATURE, "thinking", sealed), sealed
    return None, sealed


def _bytes_of(text: Any) -> bytes:
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else b""


class _MessageReader(Reader):
    """The event stream of Messages. State beside the base's: whether it has said why it stopped, the index of the
    tool call that has begun and not ended, and what the thinking of the block under way would be named by if no
    signature came."""

    _stopped = False
    _call: Any = None
    _thinking: hashlib.blake2b | None = None

    def raises(self, name: bytes, data: bytes) -> bool:
        return name == b"error"

    @property
    def calling(self) -> bool:
        return self._call is not None

    @property
    def answered(self) -> bool:
        return self.finished or self._stopped

    def read(self, name: bytes, data: bytes) -> Reading:
        if data == b"[DONE]":
            return LIFECYCLE
        try:
            event = self.decoded(_event, data)
        except Malformed:
            if name in (b"", b"ping") and not self.calling:
                return LIFECYCLE  # the SDKs pass it over unread
            raise
        if event is None:
            return LIFECYCLE if name != b"error" else error_reading(data)
        kind = event.type
        if kind == "content_block_delta":
            delta = event.delta
            if not isinstance(delta, dict):
                return LIFECYCLE
            self._note_delta(delta)
            if delta.get("type") == "input_json_delta" and self.dropped and not self.calling:
                return Mark.ERROR, HALF_A_CALL
            return CONTENT if any(v for k, v in delta.items() if k != "type") else LIFECYCLE
        if kind == "error" or name == b"error" or (event.error and not kind):
            return error_reading(data)
        if kind == "message_start":
            return self._start(event.message)
        if kind == "content_block_start":
            block = event.content_block
            if not isinstance(block, dict):
                return LIFECYCLE
            self._note_block(block)
            if isinstance(block.get("type"), str) and block["type"].endswith("tool_use"):
                self._call = 0 if event.index is None else event.index
            if block.get("type") in ("text", "thinking"):
                return CONTENT if block.get("text") or block.get("thinking") else LIFECYCLE
            return CONTENT
        if kind == "content_block_stop":
            self._call = None
            if self._thinking is not None:
                self.note_ids(UNSIGNED + self._thinking.hexdigest())
                self._thinking = None
            return LIFECYCLE
        if kind == "message_delta":
            self.usage = _usage(event.usage, self.usage)
            delta = event.delta if isinstance(event.delta, dict) else {}
            self._note_container(delta.get("container"))
            stop = delta.get("stop_reason")
            if common.broke_down(stop):
                return BROKE_DOWN
            if not stop or not (self.content or _ends_well(stop, event.usage)):
                return LIFECYCLE
            self._stopped = True
            return CONTENT
        if kind == "message_stop":
            return self.end()
        return LIFECYCLE

    def skim(self, data: bytes) -> bool:
        before = None if self._thinking is None else self._thinking.copy()
        if super().skim(data):
            return True
        self._thinking = before  # what was read of it is read again
        return False

    def _note_block(self, block: dict[str, Any]) -> None:
        self._thinking = None
        if block.get("type") == "thinking" and not block.get("signature"):
            self._thinking = common.hasher(_bytes_of(block.get("thinking")))
        else:
            self.note_ids(*sealed_anthropic.names(block))

    def _note_delta(self, delta: dict[str, Any]) -> None:
        signature, text = delta.get("signature"), delta.get("thinking")
        if isinstance(signature, str) and signature:
            self._thinking = None
            self.note_ids(*sealed_anthropic.names({"type": "thinking", "signature": signature}))
        elif self._thinking is not None:
            self._thinking.update(_bytes_of(text))

    def _start(self, message: Any) -> Reading:
        if isinstance(message, dict):
            self.usage = _usage(message.get("usage"), self.usage)
            if isinstance(message.get("model"), str):
                self.model = message["model"]
            self._note_container(message.get("container"))
        return LIFECYCLE

    def _note_container(self, container: Any) -> None:
        if isinstance(container, dict):
            self.note_ids(container.get("id"))
