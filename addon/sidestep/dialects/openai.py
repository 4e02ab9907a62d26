"""The OpenAI dialect: chat completions, completions, Responses, embeddings, images, audio, moderations; and what others
have added to it, Mistral's completions that fill a gap and the rerankers.

Pure: no mitmproxy, no clock, no I/O. Grammar after the API reference of OpenAI and the streams of servers that
speak its dialect.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any
from urllib.parse import parse_qs, quote

import msgspec

from sidestep.breaker.outcomes import ErrorFacts, ErrorKind
from sidestep.dialects import azure, common
from sidestep.dialects.acting import acts
from sidestep.dialects.base import WEBSOCKET, Answer, Call, Pin, PinKind, StreamReader
from sidestep.dialects.bodies import NotReadError, fields_in, model_in, named
from sidestep.dialects.bounds import is_crowded
from sidestep.dialects.common import bounded, dicts_in, int_of, items_of, text_of, texts, value_of
from sidestep.dialects.errors import facts_in
from sidestep.dialects.forms import Form
from sidestep.dialects.openai_pins import pin_of
from sidestep.dialects.openai_streams import (
    CHOICES,
    CHUNK,
    RESPONSE,
    ChatReader,
    EventReader,
    base_resp_failed,
    decoded,
    is_said,
    item_ids,
    says_nothing,
    usage_in,
)
from sidestep.dialects.sealed_openai import CHAT_WORDS, chat_names

OPERATIONS = frozenset(
    {
        "chat/completions",
        "completions",
        "embeddings",
        "moderations",
        "images/generations",
        "images/edits",
        "audio/speech",
        "audio/transcriptions",
        "audio/translations",
        "responses",
        "responses/compact",
        "responses/input_tokens",
        "fim/completions",
        "rerank",
    }
)
WEBSOCKETS = frozenset({"realtime", "responses"})
_LIMITS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
_WANTED = {
    "chat/completions": "choices",
    "completions": "choices",
    "fim/completions": "choices",
    "responses": "output",
    "responses/compact": "output",
    "embeddings": "data",
    "images/generations": "data",
    "images/edits": "data",
    "moderations": "results",
}
"""The list without which an answer is none."""
_PLAIN = frozenset({"embeddings", "completions", "fim/completions", "moderations", "rerank"})
"""Calls of which no more is looked at than the fields: what they hold may be long lists of numbers."""
_SAID = {"responses": "input", "responses/compact": "input"}
"""Where the conversation is, elsewhere than in `messages`."""
_CHATS = frozenset({"chat/completions", "completions", "fim/completions"})

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


class OpenAI:
    """See `base.Dialect`."""

    name = "openai"

    def operation(self, method: str, tail: str) -> str | None:
        path = azure.bare(tail).removeprefix("/")
        if method == "POST":
            return path if path in OPERATIONS else None
        if method == "GET" and path in WEBSOCKETS:
            return path + WEBSOCKET
        return None

    def read(self, operation: str, tail: str, query: str, content_type: str, body: bytes, base: str = "") -> Call:
        try:
            if operation.endswith(WEBSOCKET):
                return _handshake(operation, query)
            if _is_form(content_type):
                return _form(operation, content_type, body, base, tail)
            return _document(operation, body, base, tail)
        except NotReadError as e:
            return Call(self.name, operation, None, stream=False, unread=str(e))

    def rewrite(
        self, call: Call, tail: str, content_type: str, body: bytes, model: str | None, drop: Collection[str]
    ) -> tuple[str, bytes]:
        if _is_form(content_type):
            for name in drop:
                body = Form(content_type, body).without(name)
            if model is not None:
                body = Form(content_type, body).with_text("model", model, add=call.unnamed)
        else:
            body = common.with_fields(body, model, drop, add=call.unnamed)
        return tail if model is None else azure.renamed(tail, model), body

    def address_at(self, host: str, base: str, tail: str, query: str, *, alike: bool) -> tuple[str, str]:
        return (tail, query) if alike else azure.address_at(base, tail, query)

    def rewrite_query(self, call: Call, query: str, model: str) -> str:
        if not call.is_websocket:
            return query
        parts = query.split("&")
        return "&".join(f"model={quote(model, safe='')}" if p.partition("=")[0] == "model" else p for p in parts)

    def reader(self, call: Call, content_type: str) -> StreamReader:
        phrase = partial(self.phrase_error_event, call)
        if call.operation in _CHATS:
            return ChatReader(phrase)
        return EventReader(phrase, call.operation)

    def is_stream(self, call: Call, content_type: str, start: bytes) -> bool:
        # The SDKs do not look at the type. What begins as a document is none, whatever it calls itself.
        return common.media_type(content_type) == "text/event-stream" and not start.lstrip().startswith(
            (b"{", b"[", b"<")
        )

    def judge_answer(self, call: Call, content_type: str, body: bytes) -> Answer:
        wanted = _WANTED.get(call.operation)
        if is_crowded(body):
            lists = ("results", "data") if call.operation == "rerank" else (wanted,) if wanted else ()
            return common.seen_from_outside(body, lists, usage_in)
        if wanted == "choices" and (answer := _usual_answer(call.operation, body)) is not None:
            return answer
        fields = common.answer_fields(content_type, body)
        if fields is None:
            # Sound, and transcripts as plain text, SRT or VTT.
            if call.operation.startswith("audio/"):
                if not body.strip():  # of silence, a transcript as text is empty
                    return Answer(False, unread=call.operation != "audio/speech" and _is_text(content_type))
                if common.is_page(body):
                    return Answer(False)
                good = "json" not in common.media_type(content_type)
                return Answer(good, unread=not good and not body.lstrip().startswith(b"{"))
            if call.operation == "rerank" and items_of(body):
                # Hugging Face's server answers with the bare list.
                return Answer(good=True)
            return common.not_read(content_type, body)
        failed = call.operation == "responses" and text_of(fields.get("status")) == "failed"
        failed = failed or common.is_error(value_of(fields.get("error")))
        if failed or text_of(fields.get("object")) == "error" or not fields:
            return common.no_answer(body)
        if call.operation == "responses/input_tokens":
            return Answer(good=True) if common.holds(value_of(fields.get("input_tokens"))) else common.no_answer(body)
        if call.operation == "rerank":
            # Cohere, Jina and vLLM call them results, Voyage calls them data.
            wanted = "results" if "results" in fields else "data"
        if call.operation == "responses":
            response = decoded(RESPONSE, common.encode(fields))
            is_list = bytes(fields.get("output", b"")).startswith(b"[")
            if response is None or not is_list or says_nothing(response):
                return common.no_answer(body)
        elif wanted is not None and not any(common.holds(value_of(item)) for item in items_of(fields.get(wanted))):
            return common.no_answer(body)
        if wanted == "choices" and (failure := _failed_choices(call.operation, fields)) is not None:
            return failure
        ids: list[str] = []
        if call.operation in ("responses", "responses/compact"):
            response = decoded(RESPONSE, common.encode(fields))
            ids = [*([] if response is None else response.ids), *item_ids(fields["output"])]
        elif call.operation == "chat/completions":
            choices = value_of(fields["choices"])
            ids = [*(_audio_ids(choices) if b'"audio"' in body else ()), *_sealed_in(choices)]
        usage = usage_in(value_of(fields.get("usage")))
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


def _handshake(operation: str, query: str) -> Call:
    asked = parse_qs(query, keep_blank_values=True)
    models = asked.get("model", [None])
    if len(models) > 1:
        raise NotReadError("its query names a model twice")
    ids = tuple(filter(None, asked.get("call_id", ())))
    # A second connection to a conversation that is held elsewhere, over WebRTC or by telephone.
    pin = Pin(PinKind.STATE, "call_id", ids) if ids else None
    return Call(OpenAI.name, operation, named(models[0]), stream=False, pin=pin)


def _form(operation: str, content_type: str, body: bytes, base: str, tail: str) -> Call:
    form = Form(content_type, body)
    model, unnamed = azure.model_of(named(form.text("model")), base, tail)
    # The models named whisper take the flag and answer in one piece.
    stream = (form.text("stream") or "").lower() in ("true", "1") and "whisper" not in (model or "")
    return Call(OpenAI.name, operation, model, stream=stream, unnamed=unnamed)


def _document(operation: str, body: bytes, base: str, tail: str) -> Call:
    body, fields = fields_in(body, looked_into=operation not in _PLAIN)
    stream = common.asks_for_stream(fields.get("stream"))
    if operation == "audio/speech":
        stream = text_of(fields.get("stream_format")) == "sse"
    limits = [int_of(value_of(fields[name])) for name in _LIMITS if name in fields]
    pin, sealed = pin_of(operation, fields, body)
    model, unnamed = azure.model_of(None, base, tail)
    if not unnamed or value_of(fields.get("model")):
        model, unnamed = azure.model_of(model_in(fields), base, tail)
    return Call(
        OpenAI.name,
        operation,
        model,
        stream=stream,
        pin=pin,
        sealed=sealed,
        max_output_tokens=next(filter(None, limits), None),
        messages=fields.get(_SAID.get(operation, "messages")),
        unnamed=unnamed,
        acts=acts(fields),
    )


def _is_text(content_type: str) -> bool:
    kind = common.media_type(content_type)
    return kind.startswith("text/") and kind not in ("text/html", "text/event-stream")


def _error(kind: ErrorKind, message: str) -> dict[str, Any]:
    return {
        "message": f"sidestep: {message}",
        "type": _ERROR_TYPES.get(kind, "server_error"),
        "param": None,
        "code": _CODES.get(kind),
    }


def _usual_answer(operation: str, body: bytes) -> Answer | None:
    """Choices without an error among them, read in one go; None for all that takes a closer look."""
    answer = decoded(CHUNK, body)
    if answer is None or not answer.choices or answer.error or answer.base_resp or answer.object == "error":
        return None
    if any(c.error or common.broke_down(c.finish_reason) for c in answer.choices) or b'"audio"' in body:
        return None
    if common.has_any(body, CHAT_WORDS):
        return None
    if not any(is_said(operation, c, answer.usage) for c in answer.choices):
        return None
    model = answer.model if isinstance(answer.model, str) and answer.model else None
    return Answer(True, None, usage_in(answer.usage), model)


def _failed_choices(operation: str, fields: Mapping[str, msgspec.Raw]) -> Answer | None:
    """What choices are no answer: hollow ones, broken ones, or an aggregator's error in each."""
    try:
        choices = CHOICES.decode(fields["choices"])
    except common.UNREADABLE:
        return Answer(good=False)
    if all(c.error for c in choices):
        return common.no_answer(common.encode({"error": choices[0].error}))
    if any(common.broke_down(c.finish_reason) for c in choices):
        return Answer(good=False, error=common.BREAKDOWN)
    usage = value_of(fields.get("usage"))
    if not any(is_said(operation, c, usage) for c in choices):
        return Answer(good=False)
    told = value_of(fields.get("base_resp"))
    if base_resp_failed(told) and not any(common.holds(c.message) or common.holds(c.text) for c in choices):
        return common.no_answer(common.encode({"base_resp": told}))
    return None


# --- what a later call may refer to, and what this one refers to


def _sealed_in(choices: Any) -> list[str]:
    """The names of the sealed reasoning in whole answers."""
    return [name for c in choices if isinstance(c, dict) for name in chat_names(c.get("message"))]


def _audio_ids(choices: Any) -> list[str]:
    """The spoken answers that a later call may refer to."""
    spoken = [d.get("audio") for d in dicts_in(choices, frozenset({"arguments"}))]
    return [i for a in spoken if isinstance(a, dict) for i in texts(a.get("id"))]


# --- multipart bodies


def _is_form(content_type: str) -> bool:
    return common.media_type(content_type) == "multipart/form-data"
