"""The OpenAI dialect: chat completions, completions, Responses, embeddings, images, audio, moderations.

Pure. Grammar after the API reference of OpenAI and the streams of those who speak its dialect.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from sidestep.dialects import common
from sidestep.dialects.base import Answer, Call, Mark, Pin, PinKind, StreamReader, Usage
from sidestep.dialects.common import Reader, dicts_in, digest, fields_of, int_of, text_of, value_of
from sidestep.outcomes import ErrorFacts, ErrorKind

OPERATIONS = frozenset(
    {
        "chat/completions",
        "completions",
        "embeddings",
        "moderations",
        "images/generations",
        "audio/speech",
        "audio/transcriptions",
        "audio/translations",
        "responses",
    }
)
WEBSOCKETS = frozenset({"realtime", "responses"})

_ERROR_TYPES = {
    ErrorKind.CREDENTIAL: "authentication_error",
    ErrorKind.RATE_LIMIT: "rate_limit_error",
    ErrorKind.QUOTA: "insufficient_quota",
    ErrorKind.INVALID: "invalid_request_error",
    ErrorKind.CONTEXT_TOO_LONG: "invalid_request_error",
    ErrorKind.UNKNOWN_MODEL: "invalid_request_error",
}
_CODES = {
    ErrorKind.CONTEXT_TOO_LONG: "context_length_exceeded",
    ErrorKind.UNKNOWN_MODEL: "model_not_found",
    ErrorKind.QUOTA: "insufficient_quota",
    ErrorKind.RATE_LIMIT: "rate_limit_exceeded",
    ErrorKind.OVERLOADED: "overloaded",
}

_BOUNDARY = re.compile(r'boundary="?([^";,]+)"?', re.IGNORECASE)
_STATE_WORDS = (
    *(b'"previous_response_id"', b'"conversation"', b'"file_id"', b'"item_reference"', b'"container"'),
    *(b'"vector_store_ids"', b'"prompt"', b'"encrypted_content"'),
)


class _Choice(msgspec.Struct):
    delta: Any = None
    text: Any = None
    finish_reason: Any = None
    index: Any = 0


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    error: Any = None
    usage: Any = None
    model: Any = None


class _ResponseEvent(msgspec.Struct):
    type: Any = None
    delta: Any = None
    response: Any = None
    item: Any = None
    error: Any = None
    usage: Any = None


_chunk = msgspec.json.Decoder(_Chunk)
_response_event = msgspec.json.Decoder(_ResponseEvent)


class OpenAI:
    """See `base.Dialect`."""

    name = "openai"

    def operation(self, method: str, tail: str) -> str | None:
        path = tail.strip("/")
        if method == "POST":
            return path if path in OPERATIONS else None
        if method == "GET" and path in WEBSOCKETS:
            return f"{path}.websocket"
        return None

    def read(self, operation: str, tail: str, query: str, content_type: str, body: bytes) -> Call:
        if operation.endswith(".websocket"):
            found = re.search(r"(?:^|&)model=([^&]+)", query)
            return Call(self.name, operation, found[1] if found else None, stream=False)
        if content_type.lower().startswith("multipart/"):
            parts = _Multipart(content_type, body)
            return Call(
                self.name,
                operation,
                parts.text("model"),
                stream=(parts.text("stream") or "").lower() == "true",
            )
        fields = fields_of(body)
        if fields is None:
            return Call(self.name, operation, None, stream=False)
        stream = value_of(fields.get("stream")) is True
        if operation == "audio/speech":
            stream = text_of(fields.get("stream_format")) == "sse"
        limit = 0
        for name in ("max_completion_tokens", "max_output_tokens", "max_tokens"):
            if name in fields:
                limit = int_of(value_of(fields[name]))
                break
        return Call(
            self.name,
            operation,
            text_of(fields.get("model")),
            stream=stream,
            pin=_pin(operation, fields, body),
            max_output_tokens=limit or None,
            conversation=_conversation(operation, fields),
        )

    def rewrite(
        self, call: Call, tail: str, content_type: str, body: bytes, model: str | None, drop: Collection[str]
    ) -> tuple[str, bytes]:
        if content_type.lower().startswith("multipart/"):
            return tail, body if model is None else _Multipart(content_type, body).with_text("model", model)
        return tail, common.with_fields(body, model, drop)

    def reader(self, call: Call, content_type: str) -> StreamReader:
        if call.operation in ("chat/completions", "completions"):
            return _ChatReader()
        return Reader(_mark_response_event)

    def is_stream(self, call: Call, content_type: str) -> bool:
        return "text/event-stream" in content_type.lower()

    def judge_answer(self, call: Call, content_type: str, body: bytes) -> Answer:
        sound = call.operation == "audio/speech"
        if (sound or (call.operation.startswith("audio/") and "json" not in content_type.lower())) and (
            body and body.lstrip()[:1] != b"{"
        ):
            # Text formats (srt, vtt, text) and sound: anything but a page or nothing.
            return Answer(good=not common.is_html(content_type, body))
        fields = fields_of(body)
        if fields is None:
            return Answer(good=False)
        error = value_of(fields.get("error"))
        failed = call.operation == "responses" and text_of(fields.get("status")) == "failed"
        if error or failed:
            return common.no_answer(body)
        wanted = {"chat/completions": "choices", "completions": "choices", "responses": "output"}.get(call.operation)
        if wanted is not None and wanted not in fields:
            return common.no_answer(body)
        if wanted == "choices" and not value_of(fields["choices"]):
            return common.no_answer(body)
        ids = _ids_of(fields) if call.operation == "responses" else ()
        return Answer(True, None, _usage(value_of(fields.get("usage"))), text_of(fields.get("model")), ids)

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> ErrorFacts:
        return common.error_in(status, body)

    def phrase_error(self, status: int, kind: ErrorKind, message: str) -> bytes:
        return msgspec.json.encode({"error": _error(kind, message)})

    def phrase_error_event(self, call: Call, kind: ErrorKind, message: str) -> bytes:
        # The SDK raises for any event whose data has a truthy `error`, in every API.
        error = _error(kind, message)
        if call.operation == "responses":
            event = {"type": "error", "code": error["code"], "message": error["message"], "error": error}
            return b"event: error\ndata: " + msgspec.json.encode(event) + b"\n\n"
        return b"data: " + msgspec.json.encode({"error": error}) + b"\n\n"

    def keep_alive(self, call: Call) -> bytes:
        return b": keep-alive\n\n"


def _error(kind: ErrorKind, message: str) -> dict[str, Any]:
    return {
        "message": f"sidestep: {message}",
        "type": _ERROR_TYPES.get(kind, "server_error"),
        "param": None,
        "code": _CODES.get(kind),
    }


def _usage(usage: Any) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    cached = int_of(details.get("cached_tokens")) if isinstance(details, dict) else 0
    given = int_of(usage.get("prompt_tokens", usage.get("input_tokens")))
    made = int_of(usage.get("completion_tokens", usage.get("output_tokens")))
    return Usage(given, made, cached)


def _ids_of(response: Mapping[str, Any]) -> tuple[str, ...]:
    """What a later call may refer to: the response, its reasoning items."""
    ids = [value_of(response["id"]) if isinstance(response.get("id"), msgspec.Raw) else response.get("id")]
    output = response.get("output")
    if isinstance(output, msgspec.Raw):
        output = value_of(output)
    for item in output if isinstance(output, list) else ():
        if isinstance(item, dict):
            ids += [item.get("id"), item.get("container_id")]
    return tuple(i for i in ids if isinstance(i, str) and i)[: common.MAX_IDS]


# --- pins


def _pin(operation: str, fields: Mapping[str, msgspec.Raw], body: bytes) -> Pin | None:
    if not any(word in body for word in _STATE_WORDS):
        return None
    ids: list[str] = []
    reason = ""
    if operation == "responses":
        for name in ("previous_response_id", "conversation", "prompt"):
            value = value_of(fields.get(name))
            if isinstance(value, dict):
                value = value.get("id")
            if isinstance(value, str) and value:
                ids.append(value)
                reason = reason or name
    for tool in dicts_in(value_of(fields.get("tools")), frozenset({"parameters", "input_schema", "function"})):
        container = tool.get("container")
        if isinstance(container, str):
            ids.append(container)
            reason = reason or "container"
        if isinstance(container, dict) and container.get("file_ids"):
            ids += [i for i in container["file_ids"] if isinstance(i, str)]
            reason = reason or "file_id"
        if tool.get("vector_store_ids"):
            ids += [i for i in tool["vector_store_ids"] if isinstance(i, str)]
            reason = reason or "vector_store_ids"
    conversation = value_of(fields.get("input" if operation == "responses" else "messages"))
    for item in dicts_in(conversation, frozenset({"arguments"})):
        kind = item.get("type")
        if isinstance(file_id := item.get("file_id"), str) and file_id:
            ids.append(file_id)
            reason = reason or "file_id"
        elif kind == "item_reference":
            if isinstance(item.get("id"), str):
                ids.append(item["id"])
            reason = reason or "item_reference"
        elif kind in ("reasoning", "compaction") and item.get("encrypted_content"):
            if isinstance(item.get("id"), str):
                ids.append(item["id"])
            reason = reason or "encrypted_content"
    return Pin(PinKind.STATE, reason, tuple(dict.fromkeys(ids))[: common.MAX_IDS]) if reason else None


def _conversation(operation: str, fields: Mapping[str, msgspec.Raw]) -> str | None:
    """The beginning of a conversation of several turns: its first messages, up to the first answer."""
    raw = fields.get("input" if operation == "responses" else "messages")
    if raw is None or (b'"assistant"' not in bytes(raw) and b'"function_call' not in bytes(raw)):
        return None
    try:
        messages = msgspec.json.decode(raw, type=list[msgspec.Raw])
    except msgspec.DecodeError:
        return None
    return digest(*(bytes(m) for m in messages[:2])) if len(messages) > 2 else None


# --- streams


class _ChatReader(Reader):
    """Chat and legacy completions. Whole with `[DONE]`, and already once every choice has its finish reason:
    many who speak the dialect leave `[DONE]` out."""

    def __init__(self) -> None:
        super().__init__(_ChatReader.judge)
        self._open: set[Any] = set()

    def judge(self, name: bytes, data: bytes) -> tuple[Mark, ErrorFacts | None]:
        if data == b"[DONE]" or data.strip() == b"[DONE]":
            self.finished = True
            return Mark.TERMINAL, None
        try:
            chunk = _chunk.decode(data)
        except msgspec.ValidationError:
            return Mark.LIFECYCLE, None
        except (msgspec.DecodeError, UnicodeDecodeError):
            return common.unreadable(data)
        if chunk.error or name == b"error":
            return Mark.ERROR, common.error_event_facts(data)
        if self.model is None and isinstance(chunk.model, str):
            self.model = chunk.model
        if isinstance(chunk.usage, dict):
            self.usage = _usage(chunk.usage)
        mark = Mark.LIFECYCLE
        for choice in chunk.choices or ():
            if choice.finish_reason is not None:
                self._open.discard(choice.index)
                self.finished = not self._open
                mark = Mark.CONTENT
            elif not self.finished:
                self._open.add(choice.index)
            if choice.text or (isinstance(choice.delta, dict) and _says_something(choice.delta)):
                mark = Mark.CONTENT
        return mark, None


def _says_something(delta: dict[str, Any]) -> bool:
    return any(value for key, value in delta.items() if key != "role")


def _mark_response_event(reader: Reader, name: bytes, data: bytes) -> tuple[Mark, ErrorFacts | None]:
    """The Responses API, and the streams of images and audio that are built like it."""
    if data == b"[DONE]":
        reader.finished = True
        return Mark.TERMINAL, None
    try:
        event = _response_event.decode(data)
    except msgspec.ValidationError:
        return Mark.LIFECYCLE, None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return common.unreadable(data)
    kind = event.type if isinstance(event.type, str) else ""
    if kind == "error" or (event.error and not kind.startswith("response.")):
        return Mark.ERROR, common.error_event_facts(data)
    response = event.response if isinstance(event.response, dict) else {}
    if kind == "response.failed":
        return Mark.ERROR, common.error_event_facts(msgspec.json.encode(response))
    if response:
        reader.note_id(response.get("id"))
        if isinstance(response.get("model"), str):
            reader.model = response["model"]
    if kind in ("response.completed", "response.incomplete", "response.cancelled"):
        reader.finished = True
        reader.usage = _usage(response.get("usage")) or reader.usage
        for identifier in _ids_of(response):
            reader.note_id(identifier)
        return Mark.TERMINAL, None
    if kind.endswith(".done") and kind.startswith(("speech.audio", "transcript.text")):
        reader.finished = True
        reader.usage = _usage(event.usage) or reader.usage
        return Mark.TERMINAL, None
    if kind == "image_generation.completed":
        reader.finished = True
        return Mark.TERMINAL, None
    if isinstance(event.item, dict):
        reader.note_id(event.item.get("id"))
    if kind.endswith((".delta", ".partial_image")):
        return (
            Mark.CONTENT if event.delta or kind.endswith(".partial_image") or b'"audio"' in data else Mark.LIFECYCLE
        ), None
    if kind == "response.output_item.done":
        # A compaction or a tool call of the provider's own can come without any delta.
        return Mark.CONTENT, None
    return Mark.LIFECYCLE, None


# --- multipart bodies


class _Multipart:
    """Reads and replaces small text parts of a form without touching the rest."""

    def __init__(self, content_type: str, body: bytes) -> None:
        self._body = body
        found = _BOUNDARY.search(content_type)
        self._boundary = None if found is None else b"--" + found[1].strip().encode("latin-1", "replace")

    def _find(self, name: str) -> tuple[int, int] | None:
        """Where the value of a part begins and ends."""
        if self._boundary is None:
            return None
        header = re.compile(
            rb'content-disposition:[^\r\n]*\bname="?' + re.escape(name.encode()) + rb'"?(?:[;\r\n]|$)', re.I
        )
        at = self._body.find(self._boundary)
        while at >= 0:
            start = at + len(self._boundary)
            head_end = self._body.find(b"\r\n\r\n", start)
            at = self._body.find(b"\r\n" + self._boundary, start)
            if head_end < 0 or at < 0:
                return None
            if head_end < at and header.search(self._body[start : head_end + 2]):
                return head_end + 4, at
            at += 2
        return None

    def text(self, name: str) -> str | None:
        place = self._find(name)
        if place is None:
            return None
        return self._body[place[0] : place[1]].decode("utf-8", "replace").strip() or None

    def with_text(self, name: str, value: str) -> bytes:
        place = self._find(name)
        if place is None:
            return self._body
        return self._body[: place[0]] + value.encode() + self._body[place[1] :]
