"""The streams of the OpenAI dialect, and what its whole answers share with them.

Pure: no mitmproxy, no clock, no I/O. Grammar after the API reference of OpenAI and the streams of those that speak
its dialect.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from sidestep.breaker import numbers
from sidestep.breaker.outcomes import ErrorKind
from sidestep.dialects import common, sealed_openai
from sidestep.dialects.base import Event, Mark, Usage
from sidestep.dialects.common import int_of, items_of, texts, value_of
from sidestep.dialects.reader import (
    BROKE_DOWN,
    CONTENT,
    HALF_A_CALL,
    LIFECYCLE,
    TERMINAL,
    Reader,
    Reading,
    error_reading,
)

_COUNTS = ("completion_tokens", "output_tokens")
_CALL_DELTAS = frozenset({"response.function_call_arguments.delta", "response.custom_tool_call_input.delta"})
_CALLED = ("tool_calls", "function_call")
_SILENT = frozenset({"role", "name", "channel"})
"""Fields of a chat delta that say nothing to the app's user."""


class Choice(msgspec.Struct):
    delta: Any = None
    message: Any = None
    text: Any = None
    finish_reason: Any = None
    index: Any = 0
    error: Any = None


class Chunk(msgspec.Struct):
    choices: list[Choice] | None = None
    error: Any = None
    usage: Any = None
    model: Any = None
    object: Any = None
    x_groq: Any = None
    base_resp: Any = None


class _ResponseEvent(msgspec.Struct):
    type: Any = None
    delta: Any = None
    response: msgspec.Raw = msgspec.Raw()
    item: msgspec.Raw = msgspec.Raw()
    error: Any = None
    usage: Any = None
    text: Any = None
    part: Any = None


class Response(msgspec.Struct):
    id: Any = None
    model: Any = None
    usage: Any = None
    status: Any = None
    conversation: Any = None
    output: msgspec.Raw = msgspec.Raw()

    @property
    def ids(self) -> list[str]:
        """What a later call may name it by, save its items."""
        conversation = self.conversation
        return texts(self.id, conversation.get("id") if isinstance(conversation, dict) else conversation)


class _Item(msgspec.Struct):
    id: Any = None
    type: Any = None
    container_id: Any = None
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


class _Media(msgspec.Struct):
    """What an event of sound, a transcript or images holds where it is in no form of OpenAI's: vLLM sends a transcript
    as chunks of a chat, Speaches as bare objects with a text, Volcengine an image as a URL."""

    text: msgspec.Raw = msgspec.Raw()
    choices: msgspec.Raw = msgspec.Raw()
    audio: msgspec.Raw = msgspec.Raw()
    audio_data: msgspec.Raw = msgspec.Raw()
    b64_json: msgspec.Raw = msgspec.Raw()
    url: msgspec.Raw = msgspec.Raw()

    @property
    def says(self) -> bool:
        held = (self.text, self.choices, self.audio, self.audio_data, self.b64_json, self.url)
        return any(memoryview(raw).nbytes > 4 or bytes(raw) not in _EMPTY for raw in held)


_EMPTY = (b"", b"null", b'""', b"[]", b"{}")
CHUNK = msgspec.json.Decoder(Chunk)
CHOICES = msgspec.json.Decoder(list[Choice])
_response_event = msgspec.json.Decoder(_ResponseEvent)
RESPONSE = msgspec.json.Decoder(Response)
_item = msgspec.json.Decoder(_Item)
_media = msgspec.json.Decoder(_Media)


def decoded[T](decoder: msgspec.json.Decoder[T], raw: msgspec.Raw | bytes) -> T | None:
    try:
        return decoder.decode(raw) if raw else None
    except common.UNREADABLE:
        return None


def is_said(operation: str, choice: Choice, usage: Any) -> bool:
    """Whether a choice is an answer: it says something, or says why it does not, and the tokens do not deny it."""
    said = choice.text if operation == "completions" else choice.message
    if not isinstance(said, str if operation == "completions" else dict):
        return False
    if said if isinstance(said, str) else any(k not in _SILENT and common.holds(v) for k, v in said.items()):
        return True
    return bool(choice.finish_reason) and ends_well(choice.finish_reason, usage)


def ends_well(reason: Any, usage: Any) -> bool:
    """Whether an end without a word may be one. Not where it tells of a call of a tool, and there is none; nor where
    the tokens deny that anything was made."""
    return reason not in _CALLED and not (reason == "stop" and counts_none(usage))


def counts_none(usage: Any) -> bool:
    """A report that says that not one token was made."""
    counts = [usage[name] for name in _COUNTS if name in usage] if isinstance(usage, dict) else []
    return bool(counts) and not any(counts)


def says_nothing(response: Response) -> bool:
    """Whether a response is an empty frame: without output, or with empty messages alone, though it claims to be
    complete, and without tokens."""
    if response.status in ("queued", "in_progress", "incomplete", "cancelled"):
        return False
    usage = response.usage
    if items := [value_of(item) for item in items_of(response.output)]:
        return not any(items) or (counts_none(usage) and all(_is_mute(i) or _is_thoughtless(i) for i in items))
    return not isinstance(usage, dict) or not any(usage.get(name) for name in _COUNTS)


def _is_mute(item: Any) -> bool:
    """Whether an output item is a message without a word."""
    if not isinstance(item, dict) or item.get("type") != "message":
        return False
    content = item.get("content")
    return not content or (isinstance(content, list) and all(_is_empty_text(part) for part in content))


def _is_thoughtless(item: Any) -> bool:
    """Whether an output item is reasoning without a thought."""
    if not isinstance(item, dict) or item.get("type") != "reasoning":
        return False
    return not any(item.get(name) for name in ("summary", "content", "encrypted_content"))


def _is_empty_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "output_text" and not part.get("text")


def usage_in(usage: Any) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    cached = int_of(details.get("cached_tokens")) if isinstance(details, dict) else 0
    given = int_of(usage.get("prompt_tokens", usage.get("input_tokens")))
    made = int_of(usage.get("completion_tokens", usage.get("output_tokens")))
    return Usage(given, made, cached or int_of(usage.get("prompt_cache_hit_tokens")))


def item_ids(output: msgspec.Raw) -> list[str]:
    """The output items of a response, and the containers that they ran in."""
    ids: list[str] = []
    for raw in items_of(output)[: common.MAX_IDS]:
        item = decoded(_item, raw)
        if item is not None:
            ids += item.ids
    return ids


class ChatReader(Reader):
    """Chat and legacy completions. State beside the base's: the choices begun and not finished, those of them that
    call a tool, whether any has finished."""

    def __init__(self, phrase: Callable[[ErrorKind, str], bytes]) -> None:
        super().__init__(phrase)
        self._open: set[Any] = set()
        self._calls: set[Any] = set()
        self._stopped = False

    def raises(self, name: bytes, data: bytes) -> bool:
        return raises_openai(data)

    @property
    def calling(self) -> bool:
        return bool(self._calls)

    @property
    def answered(self) -> bool:
        return self.finished or (self._stopped and not self._open)

    def read(self, name: bytes, data: bytes) -> Reading:
        if data.startswith(b"[DONE]"):
            return self.end()
        chunk = self.decoded(CHUNK, data)
        if name == b"error":
            return error_reading(data)
        if chunk is None:
            return LIFECYCLE
        choices = chunk.choices
        if chunk.error or (not choices and chunk.object == "error"):
            return error_reading(data)
        if base_resp_failed(chunk.base_resp) and not any(common.holds(c.delta) or c.text for c in choices or ()):
            return error_reading(common.encode({"base_resp": chunk.base_resp}))
        if self.model is None and isinstance(chunk.model, str):
            self.model = chunk.model
        if chunk.usage is not None:
            self.usage = usage_in(chunk.usage) or self.usage
        elif isinstance(chunk.x_groq, dict):
            self.usage = usage_in(chunk.x_groq.get("usage")) or self.usage
        reading = LIFECYCLE
        for choice in choices or ():
            if choice.error or (choice.finish_reason and common.broke_down(choice.finish_reason)):
                return error_reading(common.encode({"error": choice.error})) if choice.error else BROKE_DOWN
            delta = choice.delta
            index = numbers.index(choice.index)
            if isinstance(delta, dict):
                speaks = delta.get("content") or any(value for key, value in delta.items() if key not in _SILENT)
                if speaks and isinstance(audio := delta.get("audio"), dict):
                    self.note_ids(audio.get("id"))
                if not sealed_openai.SEALING.isdisjoint(delta):
                    self.note_ids(*sealed_openai.chat_names(delta))
                if speaks and (delta.get("tool_calls") or delta.get("function_call")):
                    if self.dropped and index not in self._calls and not _begins_call(delta):
                        return Mark.ERROR, HALF_A_CALL
                    self._calls.add(index)
            else:
                speaks = bool(choice.text)
            if choice.finish_reason:
                self._open.discard(index)
                self._calls.discard(index)
                if self.content or speaks or ends_well(choice.finish_reason, chunk.usage):
                    self._stopped = True
                    reading = CONTENT
            elif speaks:
                self._open.add(index)
                reading = CONTENT
        return reading


def raises_openai(data: bytes) -> bool:
    """The SDKs raise for any event whose data has an `error` that is not empty, in every API."""
    fields = common.answer_fields("", data)
    return fields is not None and bool(value_of(fields.get("error")))


def base_resp_failed(told: Any) -> bool:
    """MiniMax' way to tell an error inside a 200."""
    return isinstance(told, dict) and bool(told.get("status_code"))


def _begins_call(delta: dict[str, Any]) -> bool:
    """Whether a piece of a tool call says which tool is called."""
    calls = delta.get("tool_calls") or [{"function": delta.get("function_call")}]
    functions = [c.get("function") for c in calls if isinstance(c, dict)] if isinstance(calls, list) else []
    return any(isinstance(f, dict) and f.get("name") for f in functions)


class EventReader(Reader):
    """Responses, and the streams of images and audio, which are built like it: events with a `type`. State beside
    the base's: whether a tool call has begun and not ended, whether what is said has no type, so that no event is known
    that ends it, and its connection does."""

    _COMPLETED = frozenset({"response.completed", "response.incomplete", "response.cancelled", "response.done"})
    _LAST = frozenset(
        {
            *("speech.audio.done", "transcript.text.done", "transcription.done"),  # the last: Mistral's
            *("image_generation.completed", "image_edit.completed"),
        }
    )

    def __init__(self, phrase: Callable[[ErrorKind, str], bytes], operation: str) -> None:
        super().__init__(phrase)
        self._operation = operation
        self._calls = False
        self._untyped = False

    def raises(self, name: bytes, data: bytes) -> bool:
        return raises_openai(data)

    @property
    def calling(self) -> bool:
        return self._calls

    def close(self) -> list[Event]:
        events = super().close()
        self.finished = self.finished or self._untyped
        return events

    def read(self, name: bytes, data: bytes) -> Reading:
        if data.startswith(b"[DONE]"):
            # Some close a Responses stream with it; the end that the SDKs wait for is `response.completed`.
            return LIFECYCLE if self._operation == "responses" else self.end()
        event = self.decoded(_response_event, data)
        if name == b"error":
            return error_reading(data)
        if event is None:
            return LIFECYCLE
        kind = event.type if isinstance(event.type, str) else ""
        if kind.endswith(".delta"):
            self._calls = self._calls or kind in _CALL_DELTAS
            # Sound comes as `audio`.
            if event.delta or b'"audio":' in data:
                return CONTENT
            return self._in_other_form(kind, data)
        if kind == "error" or event.error:
            return error_reading(data)
        if kind == "response.failed":
            return error_reading(bytes(event.response) or data)
        response = decoded(RESPONSE, event.response)
        if response is not None:
            self.note_ids(*response.ids)
            if isinstance(response.model, str):
                self.model = response.model
        if kind in self._COMPLETED:
            if not self.content and response is not None and says_nothing(response):
                return LIFECYCLE
            self.finished = True
            if response is not None:
                self.usage = usage_in(response.usage) or self.usage
                self.note_ids(*item_ids(response.output))
            return TERMINAL
        if kind in self._LAST:
            self.finished = True
            self.usage = usage_in(event.usage) or self.usage
            return TERMINAL
        if event.item and (item := decoded(_item, event.item)) is not None:
            self.note_ids(*item.ids)
            if isinstance(item.type, str) and item.type.endswith("_call"):
                self._calls = kind == "response.output_item.added"
        if _ends_mute(kind, event):
            return LIFECYCLE
        # A compaction, or a call of a tool of the provider's own, may come without any delta.
        if kind.endswith((".done", ".partial_image", ".segment")):
            return CONTENT
        return self._in_other_form(kind, data)

    def _in_other_form(self, kind: str, data: bytes) -> Reading:
        if self._operation == "responses":
            return LIFECYCLE
        media = decoded(_media, data)
        if media is None or not media.says:
            return LIFECYCLE
        self._untyped = self._untyped or not kind
        return CONTENT


def _ends_mute(kind: str, event: _ResponseEvent) -> bool:
    """Whether an event tells the end of what says nothing."""
    match kind:
        case "response.output_text.done":
            return not event.text
        case "response.content_part.done":
            return _is_empty_text(event.part)
        case "response.output_item.done":
            return _is_mute(value_of(event.item))
    return False
