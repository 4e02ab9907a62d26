"""The Gemini dialect: the model in the path, streams as events and as one JSON array.

Pure: no mitmproxy, no clock, no I/O. Grammar after Google's Generative Language API reference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from sidestep.breaker import numbers
from sidestep.breaker.outcomes import ErrorFacts, ErrorKind
from sidestep.dialects import code_assist, common, sealed_gemini
from sidestep.dialects.acting import acts
from sidestep.dialects.base import Answer, Call, Event, Mark, Pin, PinKind, StreamReader, Usage
from sidestep.dialects.bodies import NotReadError, fields_in, model_in, named, value_in
from sidestep.dialects.bounds import is_crowded
from sidestep.dialects.common import bounded, dicts_in, fields_of, int_of, items_of, text_of, value_of
from sidestep.dialects.errors import facts_in
from sidestep.dialects.reader import (
    BROKE_DOWN,
    CONTENT,
    LIFECYCLE,
    TERMINAL,
    Reader,
    Reading,
    error_reading,
)
from sidestep.dialects.sse import ArrayScanner, Scanned

OPERATIONS = frozenset(
    {"generateContent", "streamGenerateContent", "embedContent", "batchEmbedContents", "countTokens"}
)
_EMBEDDED = {"embedContent": "embedding", "batchEmbedContents": "embeddings"}
"""What holds the vectors, without which an answer is none."""
_TALK = frozenset({"generateContent", "streamGenerateContent"})
_TAIL = re.compile(r"(?P<before>/(?:[A-Za-z0-9][\w.~-]*/)*models/)(?P<model>[^/:]+):(?P<operation>[A-Za-z]+)", re.ASCII)
_FILE = re.compile(r"(?:https?://generativelanguage\.googleapis\.com/(?:[^?#]*/)?)?files/")
"""Files of the Files API live with the key that uploaded them; other addresses are open to all."""
_PIN_WORDS = (
    *(b'"cachedContent"', b'"cached_content"', b'"fileUri"', b'"file_uri"'),
    *(b'"fileSearchStoreNames"', b'"file_search_store_names"', b'"thoughtSignature"', b'"thought_signature"'),
)
_MADE = ("candidatesTokenCount", "thoughtsTokenCount")
_BAD_OUTPUT = frozenset({"MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE", "UNEXPECTED_TOOL_CALL"})
"""By Google's documentation the model's own failure, and without any output: another attempt often does better."""
BAD_OUTPUT = ErrorFacts(ErrorKind.OUTPUT, "the model made a call of a tool that cannot be read")

VERTEX_HOST = "aiplatform.googleapis.com"
"""Gemini at Google's other platform: the same bodies, other paths."""
_AT_VERTEX = {"v1": "v1", "v1beta": "v1beta1", "v1alpha": "v1beta1"}
_AT_DEVELOPER = {"v1": "v1", "v1beta1": "v1beta"}
_DEVELOPER = re.compile(r"^/(v1|v1beta|v1alpha)/models/")
_VERTEX = re.compile(r"^/(v1|v1beta1)/(?:projects/[^/]+/locations/[^/]+/)?publishers/google/models/")

_STATUS = {
    ErrorKind.CREDENTIAL: (401, "UNAUTHENTICATED"),
    ErrorKind.RATE_LIMIT: (429, "RESOURCE_EXHAUSTED"),
    ErrorKind.QUOTA: (429, "RESOURCE_EXHAUSTED"),
    ErrorKind.INVALID: (400, "INVALID_ARGUMENT"),
    ErrorKind.CONTEXT_TOO_LONG: (400, "INVALID_ARGUMENT"),
    ErrorKind.UNKNOWN_MODEL: (404, "NOT_FOUND"),
    ErrorKind.OVERLOADED: (503, "UNAVAILABLE"),
}


class _Chunk(msgspec.Struct, rename="camel"):
    candidates: Any = None
    error: Any = None
    prompt_feedback: Any = None
    usage_metadata: Any = None
    model_version: Any = None
    response: msgspec.Raw = msgspec.Raw(b"")
    """The answer in an envelope."""


_chunk = msgspec.json.Decoder(_Chunk)


class Gemini:
    """See `base.Dialect`."""

    name = "gemini"

    def operation(self, method: str, tail: str) -> str | None:
        if method == "POST" and (enveloped := code_assist.TAIL.fullmatch(tail)) is not None:
            return enveloped["operation"]
        found = _TAIL.fullmatch(tail) if method == "POST" else None
        if found is None or found["operation"] not in OPERATIONS or not common.is_model(unquote(found["model"])):
            return None
        return found["operation"]

    def read(self, operation: str, tail: str, query: str, content_type: str, body: bytes, base: str = "") -> Call:
        found = _TAIL.fullmatch(tail)
        in_envelope = code_assist.TAIL.fullmatch(tail) is not None
        try:
            body, fields = fields_in(body)
            model = named(unquote(found["model"])) if found else None
            if in_envelope:
                model = model_in(fields)
                if model is None:
                    raise NotReadError("it names no model")
                if not common.is_model(model):  # for other providers it stands in the path
                    raise NotReadError("its model is no name")
                body, fields = fields_in(code_assist.inside(fields))
            pin, sealed = _pin(body)
        except NotReadError as e:
            return Call(self.name, operation, None, stream=False, unread=str(e))
        config = value_of(fields.get("generationConfig"))
        limit = int_of(config.get("maxOutputTokens")) if isinstance(config, dict) else 0
        return Call(
            self.name,
            operation,
            model,
            stream=operation == "streamGenerateContent",
            pin=pin,
            sealed=sealed,
            max_output_tokens=limit or None,
            messages=fields.get("contents") if operation in _TALK else None,
            in_envelope=in_envelope,
            acts=acts(fields),
        )

    def rewrite(
        self, call: Call, tail: str, content_type: str, body: bytes, model: str | None, drop: Collection[str]
    ) -> tuple[str, bytes]:
        if model is not None and model != call.model and (found := _TAIL.fullmatch(tail)) is not None:
            tail = f"{found['before']}{quote(model, safe='')}:{found['operation']}"
            body = _with_model(body, model)
        return tail, common.with_fields(body, None, drop)

    def address_at(self, host: str, base: str, tail: str, query: str, *, alike: bool) -> tuple[str, str]:
        if host == VERTEX_HOST or host.endswith("-" + VERTEX_HOST):
            return _DEVELOPER.sub(lambda m: f"/{_AT_VERTEX[m[1]]}/publishers/google/models/", tail), query
        return _VERTEX.sub(lambda m: f"/{_AT_DEVELOPER[m[1]]}/models/", tail), query

    def rewrite_query(self, call: Call, query: str, model: str) -> str:
        return query

    def reader(self, call: Call, content_type: str) -> StreamReader:
        if common.media_type(content_type) == "text/event-stream":
            return _GeminiReader(partial(self.phrase_error_event, call))
        return _ArrayReader(lambda kind, message: self.phrase_error(_STATUS.get(kind, (500,))[0], kind, message))

    def is_stream(self, call: Call, content_type: str, start: bytes) -> bool:
        # Without `alt=sse` it is a JSON array, or one object in its place, which the SDK reads in either form.
        begin = start.lstrip(common.LEADING)
        return begin.startswith((b"{", b"[")) or (
            common.media_type(content_type) == "text/event-stream" and not begin.startswith(b"<")
        )

    def judge_answer(self, call: Call, content_type: str, body: bytes) -> Answer:
        if is_crowded(body):
            return common.seen_from_outside(body, [_EMBEDDED.get(call.operation, "candidates")], _usage)
        fields = common.answer_fields(content_type, body)
        if fields is None:
            return common.not_read(content_type, body)
        if call.in_envelope and "response" in fields:
            return self.judge_answer(replace(call, in_envelope=False), content_type, bytes(fields["response"]))
        if common.is_error(value_of(fields.get("error"))) or not fields:
            return common.no_answer(body)
        if (wanted := _EMBEDDED.get(call.operation)) is not None and not common.holds(value_of(fields.get(wanted))):
            return common.no_answer(body)
        usage = value_of(fields.get("usageMetadata"))
        if call.operation in _TALK:
            candidates = [c for c in map(value_of, items_of(fields.get("candidates"))) if isinstance(c, dict)]
            if not candidates and not _blocked(value_of(fields.get("promptFeedback"))):
                return common.no_answer(body)
            if any(common.broke_down(_reason(c)) for c in candidates):
                return Answer(good=False, error=common.BREAKDOWN)
            if candidates and not any(_speaks(c) for c in candidates):
                if any(_reason(c) in _BAD_OUTPUT for c in candidates):
                    return Answer(good=False, error=BAD_OUTPUT)
                if not any(_ends_well(_reason(c), usage) for c in candidates):
                    return common.no_answer(body)
        signed = b'"thoughtSignature"' in body or b'"thought_signature"' in body
        ids = sealed_gemini.names(value_of(fields.get("candidates"))) if signed else []
        return Answer(True, None, _usage(usage), text_of(fields.get("modelVersion")), bounded(ids))

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> ErrorFacts:
        return facts_in(status, body)

    def phrase_error(self, status: int, kind: ErrorKind, message: str) -> bytes:
        word = _STATUS.get(kind, (status, "UNAVAILABLE" if status == 503 else "INTERNAL"))[1]
        return common.encode({"error": {"code": status, "message": f"sidestep: {message}", "status": word}})

    def phrase_error_event(self, call: Call, kind: ErrorKind, message: str) -> bytes:
        # The Python SDK raises for a chunk that begins with `error` and has a code of 400 or more.
        code, _ = _STATUS.get(kind, (500, "INTERNAL"))
        return b"data: " + self.phrase_error(code, kind, message) + b"\n\n"

    def keep_alive(self, call: Call) -> bytes:
        # The Python SDK takes a comment line for an answer and fails on it; all ignore an empty line.
        return b"\n"


def _with_model(body: bytes, model: str) -> bytes:
    """The body with another model wherever it repeats the path's, which it must agree with."""
    if b'"model"' not in body:
        return body
    fields = fields_of(body)
    if fields is None:
        return body
    fields = _renamed(fields, model)
    if "generateContentRequest" in fields:
        inner = fields_of(fields["generateContentRequest"])
        if inner is not None:
            fields["generateContentRequest"] = msgspec.Raw(common.encode(_renamed(inner, model)))
    if "requests" in fields:
        requests = [(raw, fields_of(raw)) for raw in items_of(fields["requests"])]
        renamed = [raw if request is None else _renamed(request, model) for raw, request in requests]
        fields["requests"] = msgspec.Raw(common.encode(renamed))
    return common.encode(fields)


def _renamed(fields: dict[str, msgspec.Raw], model: str) -> dict[str, msgspec.Raw]:
    named = text_of(fields.get("model"))
    if named is None:
        return fields
    prefix = "models/" if named.startswith("models/") else ""
    return {**fields, "model": msgspec.Raw(common.encode(prefix + model))}


def _blocked(feedback: Any) -> bool:
    return isinstance(feedback, dict) and bool(feedback.get("blockReason"))


def _speaks(candidate: dict[str, Any]) -> bool:
    content = candidate.get("content")
    parts = content.get("parts") if isinstance(content, dict) else None
    return isinstance(parts, list) and any(_says_something(p) for p in parts)


def _reason(candidate: dict[str, Any]) -> Any:
    """Why a candidate has ended, in the provider's word or number; None if it does not say."""
    reason = candidate.get("finishReason", candidate.get("finish_reason"))  # the Python SDK reads both
    return None if isinstance(reason, (dict, list)) else reason


def _ends_well(reason: Any, usage: Any) -> bool:
    """Whether a candidate that says nothing may be an answer: it has a reason, and where that is the ordinary one,
    a report that does not deny that anything was made. Counts of zero are left out of the report."""
    if reason in (None, "", "FINISH_REASON_UNSPECIFIED"):
        return False
    return reason != "STOP" or not isinstance(usage, dict) or not usage or any(usage.get(n) for n in _MADE)


def _usage(usage: Any) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    given = int_of(usage.get("promptTokenCount")) + int_of(usage.get("toolUsePromptTokenCount"))
    made = int_of(usage.get("candidatesTokenCount")) + int_of(usage.get("thoughtsTokenCount"))
    return Usage(given, made, int_of(usage.get("cachedContentTokenCount")))


def _pin(body: bytes) -> tuple[Pin | None, tuple[str, ...]]:
    """What ties the call to one provider, and the names of its signatures, the newest first."""
    if not common.has_any(body, _PIN_WORDS):
        return None, ()
    request = value_in(msgspec.Raw(body))
    caches: list[str] = []
    files: list[str] = []
    stores: list[str] = []
    for part in dicts_in(request, sealed_gemini.FREE):
        cache = part.get("cachedContent") or part.get("cached_content")
        if isinstance(cache, str):
            caches.append(cache)
        uri = part.get("fileUri") or part.get("file_uri")
        if isinstance(uri, str) and _FILE.match(uri):
            files.append(uri)
        names = part.get("fileSearchStoreNames") or part.get("file_search_store_names")
        if isinstance(names, list):
            stores += [n for n in names if isinstance(n, str) and n]
    sealed = tuple(dict.fromkeys(reversed(sealed_gemini.names(request))))
    for reason, ids in (("cachedContent", caches), ("fileUri", files), ("fileSearchStoreNames", stores)):
        if ids:
            return Pin(PinKind.STATE, reason, bounded(caches + files + stores)), sealed
    return None, sealed


class _GeminiReader(Reader):
    """Chunks of `streamGenerateContent`. There is no terminal event: the answer is whole when every candidate
    has its finish reason. State beside the base's: the candidates begun and not finished, whether a tool call
    that comes in pieces has begun and not ended, whether what is read comes out of an envelope."""

    _calls = False
    _inside = False

    def raises(self, name: bytes, data: bytes) -> bool:
        # The Python SDK takes the code from inside; without one it makes an answer of it.
        fields = common.answer_fields("", data)
        error = None if fields is None else value_of(fields.get("error"))
        return isinstance(error, dict) and isinstance(error.get("code"), int) and error["code"] >= 400

    @property
    def calling(self) -> bool:
        return self._calls

    def __init__(self, phrase: Callable[[ErrorKind, str], bytes], scanner: ArrayScanner | None = None) -> None:
        super().__init__(phrase, scanner)
        self._open: set[int] = set()

    def read(self, name: bytes, data: bytes) -> Reading:
        chunk = self.decoded(_chunk, data)
        if name == b"error":
            return error_reading(data)
        if chunk is None:
            return LIFECYCLE
        if chunk.error:
            return error_reading(data)
        if chunk.response and chunk.candidates is None and not self._inside:
            self._inside = True
            try:
                return self.read(name, bytes(chunk.response))
            finally:
                self._inside = False
        if isinstance(chunk.model_version, str):
            self.model = chunk.model_version
        if chunk.usage_metadata is not None:
            self.usage = _usage(chunk.usage_metadata) or self.usage
        candidates = chunk.candidates
        if b'"thoughtSignature"' in data or b'"thought_signature"' in data:
            self.note_ids(*sealed_gemini.names(candidates))
        if _blocked(chunk.prompt_feedback):
            self.finished = True
            return TERMINAL
        speaks = stopped = False
        for candidate in candidates if isinstance(candidates, list) else ():
            if not isinstance(candidate, dict):
                continue
            index = numbers.index(candidate.get("index"))
            reason = _reason(candidate)
            says = _speaks(candidate)
            if common.broke_down(reason):
                return BROKE_DOWN
            if reason in _BAD_OUTPUT and not (self.content or speaks or says):
                return Mark.ERROR, BAD_OUTPUT
            speaks = speaks or says
            if says and b'"functionCall"' in data:
                self._calls = b'"willContinue"' in data and _goes_on(candidate)
            if reason not in (None, "", "FINISH_REASON_UNSPECIFIED"):
                if not (self.content or speaks or _ends_well(reason, chunk.usage_metadata)):
                    continue
                stopped = True
                self._calls = False
                self._open.discard(index)
            elif says:
                # Some give every chunk a finish reason: what speaks on without one was not finished.
                self._open.add(index)
                self.finished = False
        if stopped and not self._open:
            self.finished = True
            return TERMINAL
        return CONTENT if speaks or stopped else LIFECYCLE


def _goes_on(candidate: dict[str, Any]) -> bool:
    """Whether the last tool call in a candidate comes in pieces, and more are to follow."""
    calls = [p.get("functionCall") for p in candidate["content"]["parts"] if isinstance(p, dict)]
    return bool(calls) and isinstance(calls[-1], dict) and bool(calls[-1].get("willContinue"))


def _says_something(part: Any) -> bool:
    return isinstance(part, dict) and any(
        v for k, v in part.items() if k not in ("thought", "thoughtSignature", "thought_signature")
    )


class _ArrayReader(_GeminiReader):
    """A stream that is one JSON array, sent piece by piece: what there is without `alt=sse`."""

    def __init__(self, phrase: Callable[[ErrorKind, str], bytes]) -> None:
        self._array = ArrayScanner()
        super().__init__(phrase, self._array)

    def error_event(self, kind: ErrorKind, message: str) -> bytes:
        """The array's last element, and its end."""
        if self._given or self._array.closed or self._array.alone:
            return b""
        return (b",\n" if self._array.elements else b"[") + self._phrase(kind, message) + b"]"

    def raises(self, name: bytes, data: bytes) -> bool:
        # The provider's own error is only good with the array's end, which may never come.
        return self._array.closed and super().raises(name, data)

    def _event(self, scanned: Scanned) -> Event:
        event = super()._event(scanned)
        if event.mark is Mark.MALFORMED and scanned.whole and scanned.raw.lstrip().startswith(b"["):
            # The array's opening bracket goes with it: nothing valid could follow.
            return Event(event.raw, Mark.ERROR, facts_in(0, b""))
        return event
