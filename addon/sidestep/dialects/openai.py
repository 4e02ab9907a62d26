"""The OpenAI dialect: chat completions, completions, Responses, embeddings, images, audio, moderations.

Pure: no mitmproxy, no clock, no I/O. Grammar after the API reference of OpenAI and the streams of those who
speak its dialect.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any
from urllib.parse import parse_qs, quote

import msgspec

from sidestep.breaker.outcomes import ErrorFacts, ErrorKind
from sidestep.dialects import common, sealed_openai
from sidestep.dialects.base import Answer, Call, Pin, PinKind, StreamReader, Usage
from sidestep.dialects.common import bounded, dicts_in, fields_of, int_of, items_of, text_of, texts, value_of
from sidestep.dialects.errors import facts_in
from sidestep.dialects.forms import Form
from sidestep.dialects.openai_pins import pin_of
from sidestep.dialects.reader import CONTENT, LIFECYCLE, TERMINAL, Reader, Reading, decode_event, error_reading

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
_LIMITS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
_WANTED = {"chat/completions": "choices", "completions": "choices", "responses": "output", "embeddings": "data"}
"""The field without which an answer is none."""

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

_SILENT = frozenset({"role", "name", "channel"})
"""Fields of a chat delta that say nothing to the app's user."""


class _Choice(msgspec.Struct):
    delta: Any = None
    text: Any = None
    finish_reason: Any = None
    index: Any = 0
    error: Any = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    error: Any = None
    usage: Any = None
    model: Any = None
    object: Any = None
    x_groq: Any = None


class _ResponseEvent(msgspec.Struct):
    type: Any = None
    delta: Any = None
    response: msgspec.Raw = msgspec.Raw()
    item: msgspec.Raw = msgspec.Raw()
    error: Any = None
    usage: Any = None


class _Response(msgspec.Struct):
    id: Any = None
    model: Any = None
    usage: Any = None
    output: msgspec.Raw = msgspec.Raw()


class _Item(msgspec.Struct):
    id: Any = None
    container_id: Any = None
    type: Any = None
    encrypted_content: Any = None
    content: msgspec.Raw = msgspec.Raw()

    @property
    def ids(self) -> list[str]:
        """What a later call may name it by."""
        sealed: list[str] = []
        if self.encrypted_content or self.type == "reasoning":
            item = {"type": self.type, "encrypted_content": self.encrypted_content, "content": value_of(self.content)}
            sealed = sealed_openai.names(item)
        return [*texts(self.id, self.container_id), *sealed]


_chunk = msgspec.json.Decoder(_Chunk)
_choices = msgspec.json.Decoder(list[_Choice])
_response_event = msgspec.json.Decoder(_ResponseEvent)
_response = msgspec.json.Decoder(_Response)
_item = msgspec.json.Decoder(_Item)


class OpenAI:
    """See `base.Dialect`."""

    name = "openai"

    def operation(self, method: str, tail: str) -> str | None:
        path = tail.removeprefix("/")
        if method == "POST":
            return path if path in OPERATIONS else None
        if method == "GET" and path in WEBSOCKETS:
            return f"{path}.websocket"
        return None

    def read(self, operation: str, tail: str, query: str, content_type: str, body: bytes) -> Call:
        if operation.endswith(".websocket"):
            asked = parse_qs(query)
            ids = tuple(asked.get("call_id", ()))
            # A second connection to a conversation that is held elsewhere, over WebRTC or by telephone.
            pin = Pin(PinKind.STATE, "call_id", ids) if ids else None
            return Call(self.name, operation, asked.get("model", [None])[0], stream=False, pin=pin)
        if _is_form(content_type):
            form = Form(content_type, body)
            model = form.text("model")
            # The models named whisper take the flag and answer in one piece.
            stream = (form.text("stream") or "").lower() in ("true", "1") and "whisper" not in (model or "")
            return Call(self.name, operation, model, stream=stream)
        body = common.pruned(body)
        fields = fields_of(body)
        if fields is None:
            return Call(self.name, operation, None, stream=False)
        stream = value_of(fields.get("stream")) is True
        if operation == "audio/speech":
            stream = text_of(fields.get("stream_format")) == "sse"
        limits = [int_of(value_of(fields[name])) for name in _LIMITS if name in fields]
        pin, sealed = pin_of(operation, fields, body)
        return Call(
            self.name,
            operation,
            text_of(fields.get("model")),
            stream=stream,
            pin=pin,
            sealed=sealed,
            max_output_tokens=next(filter(None, limits), None),
            messages=fields.get("input" if operation == "responses" else "messages"),
        )

    def rewrite(
        self, call: Call, tail: str, content_type: str, body: bytes, model: str | None, drop: Collection[str]
    ) -> tuple[str, bytes]:
        if _is_form(content_type):
            for name in drop:
                body = Form(content_type, body).without(name)
            return tail, body if model is None else Form(content_type, body).with_text("model", model)
        return tail, common.with_fields(body, model, drop)

    def tail_at(self, host: str, tail: str) -> str:
        return tail

    def rewrite_query(self, call: Call, query: str, model: str) -> str:
        if not call.operation.endswith(".websocket"):
            return query
        parts = query.split("&")
        return "&".join(f"model={quote(model, safe='')}" if p.partition("=")[0] == "model" else p for p in parts)

    def reader(self, call: Call, content_type: str) -> StreamReader:
        phrase = partial(self.phrase_error_event, call)
        if call.operation in ("chat/completions", "completions"):
            return _ChatReader(phrase)
        return _EventReader(phrase, call.operation)

    def is_stream(self, call: Call, content_type: str) -> bool:
        kind = common.media_type(content_type)
        if kind == "text/event-stream":
            return True
        # The SDKs do not look at the type: what was asked for as a stream and bears a vague one is read as one.
        vague = kind in ("", "text/plain", "application/octet-stream")
        return vague and call.stream and not call.operation.startswith("audio/")

    def judge_answer(self, call: Call, content_type: str, body: bytes) -> Answer:
        wanted = _WANTED.get(call.operation)
        if wanted == "choices" and (answer := _usual_answer(body)) is not None:
            return answer
        if not body.strip() or common.is_html(content_type, body):
            return Answer(good=False)
        fields = fields_of(body)
        if fields is None:
            # Sound, and transcripts as plain text, SRT or VTT.
            return Answer(good=call.operation.startswith("audio/") and "json" not in common.media_type(content_type))
        failed = call.operation == "responses" and text_of(fields.get("status")) == "failed"
        if failed or value_of(fields.get("error")) or text_of(fields.get("object")) == "error":
            return common.no_answer(body)
        if wanted is not None and wanted not in fields:
            return common.no_answer(body)
        if wanted == "choices" and (failure := _failed_choices(fields["choices"])) is not None:
            return failure
        ids: list[str] = []
        if call.operation == "responses":
            ids = texts(value_of(fields.get("id")), *_item_ids(fields["output"]))
        elif call.operation == "chat/completions" and b'"audio"' in body:
            ids = _audio_ids(value_of(fields["choices"]))
        usage = _usage(value_of(fields.get("usage")))
        return Answer(True, None, usage, text_of(fields.get("model")), bounded(ids))

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> ErrorFacts:
        return facts_in(status, body)

    def phrase_error(self, status: int, kind: ErrorKind, message: str) -> bytes:
        return common.encode({"error": _error(kind, message)})

    def phrase_error_event(self, call: Call, kind: ErrorKind, message: str) -> bytes:
        # The SDKs raise for any event whose data has an `error` that is not empty, in every API.
        error = _error(kind, message)
        if call.operation == "responses":
            event = {"type": "error", "code": error["code"], "message": error["message"], "param": None, "error": error}
            return b"event: error\ndata: " + common.encode(event) + b"\n\n"
        return b"data: " + common.encode({"error": error}) + b"\n\n"

    def keep_alive(self, call: Call) -> bytes:
        return b": keep-alive\n\n"


def _error(kind: ErrorKind, message: str) -> dict[str, Any]:
    return {
        "message": f"sidestep: {message}",
        "type": _ERROR_TYPES.get(kind, "server_error"),
        "param": None,
        "code": _CODES.get(kind),
    }


def _usual_answer(body: bytes) -> Answer | None:
    """Choices without an error among them, read in one go; None for all that takes a closer look."""
    answer = _decoded(_chunk, body)
    if answer is None or not answer.choices or answer.error or answer.object == "error":
        return None
    if any(c.error for c in answer.choices) or b'"audio"' in body:
        return None
    model = answer.model if isinstance(answer.model, str) and answer.model else None
    return Answer(True, None, _usage(answer.usage), model)


def _failed_choices(raw: msgspec.Raw) -> Answer | None:
    """What choices are no answer: none at all, or an aggregator's error in each."""
    try:
        choices = _choices.decode(raw)
    except msgspec.ValidationError:
        return None if items_of(raw) else Answer(good=False)
    except common.UNREADABLE:
        return Answer(good=False)
    if not choices:
        return Answer(good=False)
    if all(c.error for c in choices):
        return common.no_answer(common.encode({"error": choices[0].error}))
    return None


def _usage(usage: Any) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    cached = int_of(details.get("cached_tokens")) if isinstance(details, dict) else 0
    given = int_of(usage.get("prompt_tokens", usage.get("input_tokens")))
    made = int_of(usage.get("completion_tokens", usage.get("output_tokens")))
    return Usage(given, made, cached or int_of(usage.get("prompt_cache_hit_tokens")))


# --- what a later call may refer to, and what this one refers to


def _item_ids(output: msgspec.Raw) -> list[str]:
    """The output items of a response, and the containers that they ran in."""
    ids: list[str] = []
    for raw in items_of(output)[: common.MAX_IDS]:
        item = _decoded(_item, raw)
        if item is not None:
            ids += item.ids
    return ids


def _audio_ids(choices: Any) -> list[str]:
    """The spoken answers that a later call may refer to."""
    spoken = [d.get("audio") for d in dicts_in(choices, frozenset({"arguments"}))]
    return [i for a in spoken if isinstance(a, dict) for i in texts(a.get("id"))]


def _decoded[T](decoder: msgspec.json.Decoder[T], raw: msgspec.Raw | bytes) -> T | None:
    try:
        return decoder.decode(raw) if raw else None
    except common.UNREADABLE:
        return None


# --- streams


class _ChatReader(Reader):
    """Chat and legacy completions. State beside the base's: the choices begun and not finished, whether any
    has finished."""

    def __init__(self, phrase: Callable[[ErrorKind, str], bytes]) -> None:
        super().__init__(phrase)
        self._open: set[Any] = set()
        self._stopped = False

    @property
    def answered(self) -> bool:
        return self.finished or (self._stopped and not self._open)

    def read(self, name: bytes, data: bytes) -> Reading:
        if data.startswith(b"[DONE]"):
            return self.end()
        chunk = decode_event(_chunk, data)
        if name == b"error":
            return error_reading(data)
        if chunk is None:
            return LIFECYCLE
        choices = chunk.choices
        if chunk.error or (not choices and chunk.object == "error"):
            return error_reading(data)
        if self.model is None and isinstance(chunk.model, str):
            self.model = chunk.model
        if chunk.usage is not None:
            self.usage = _usage(chunk.usage) or self.usage
        elif isinstance(chunk.x_groq, dict):
            self.usage = _usage(chunk.x_groq.get("usage")) or self.usage
        reading = LIFECYCLE
        for choice in choices or ():
            if choice.error or choice.finish_reason == "error":
                return error_reading(common.encode({"error": choice.error}) if choice.error else b"")
            delta = choice.delta
            if isinstance(delta, dict):
                speaks = delta.get("content") or any(value for key, value in delta.items() if key not in _SILENT)
                if speaks and isinstance(audio := delta.get("audio"), dict):
                    self.note_ids(audio.get("id"))
            else:
                speaks = bool(choice.text)
            index = choice.index if isinstance(choice.index, int) else 0
            if choice.finish_reason:
                self._stopped = True
                self._open.discard(index)
                reading = CONTENT
            elif speaks:
                self._open.add(index)
                reading = CONTENT
        return reading


class _EventReader(Reader):
    """Responses, and the streams of images and audio, which are built like it: events with a `type`."""

    _COMPLETED = frozenset({"response.completed", "response.incomplete", "response.cancelled", "response.done"})
    _LAST = frozenset({"speech.audio.done", "transcript.text.done", "image_generation.completed"})

    def __init__(self, phrase: Callable[[ErrorKind, str], bytes], operation: str) -> None:
        super().__init__(phrase)
        self._operation = operation

    def read(self, name: bytes, data: bytes) -> Reading:
        if data.startswith(b"[DONE]"):
            # Some close a Responses stream with it; the end that the SDKs wait for is `response.completed`.
            return LIFECYCLE if self._operation == "responses" else self.end()
        event = decode_event(_response_event, data)
        if name == b"error":
            return error_reading(data)
        if event is None:
            return LIFECYCLE
        kind = event.type if isinstance(event.type, str) else ""
        if kind.endswith(".delta"):
            # Sound comes as `audio`.
            return CONTENT if event.delta or (not event.delta and b'"audio":' in data) else LIFECYCLE
        if kind == "error" or event.error:
            return error_reading(data)
        if kind == "response.failed":
            return error_reading(bytes(event.response) or data)
        response = _decoded(_response, event.response)
        if response is not None:
            self.note_ids(response.id)
            if isinstance(response.model, str):
                self.model = response.model
        if kind in self._COMPLETED:
            self.finished = True
            if response is not None:
                self.usage = _usage(response.usage) or self.usage
                self.note_ids(*_item_ids(response.output))
            return TERMINAL
        if kind in self._LAST:
            self.finished = True
            self.usage = _usage(event.usage) or self.usage
            return TERMINAL
        if event.item and (item := _decoded(_item, event.item)) is not None:
            self.note_ids(*item.ids)
        # A compaction, or a call of a tool of the provider's own, may come without any delta.
        if kind.endswith((".done", ".partial_image", ".segment")):
            return CONTENT
        return LIFECYCLE


# --- multipart bodies


def _is_form(content_type: str) -> bool:
    return common.media_type(content_type) == "multipart/form-data"
