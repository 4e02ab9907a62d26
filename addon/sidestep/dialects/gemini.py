"""The Gemini dialect: the model in the path, SSE and JSON-array streams.

Pure. Grammar after Google's Generative Language API reference.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from sidestep.dialects import common
from sidestep.dialects.base import Answer, Call, Event, Mark, Pin, PinKind, StreamReader, Usage
from sidestep.dialects.common import Reader, dicts_in, digest, fields_of, int_of, value_of
from sidestep.outcomes import ErrorFacts, ErrorKind
from sidestep.sse import ArrayScanner, Scanned

OPERATIONS = frozenset(
    {"generateContent", "streamGenerateContent", "embedContent", "batchEmbedContents", "countTokens"}
)
_TAIL = re.compile(r"(?P<before>/.*?models/)(?P<model>[^/:]+):(?P<operation>[A-Za-z]+)")
_PIN_WORDS = (
    *(b'"cachedContent"', b'"cached_content"', b'"fileUri"', b'"file_uri"'),
    *(b'"thoughtSignature"', b'"thought_signature"'),
)

_STATUS = {
    ErrorKind.CREDENTIAL: (401, "UNAUTHENTICATED"),
    ErrorKind.RATE_LIMIT: (429, "RESOURCE_EXHAUSTED"),
    ErrorKind.QUOTA: (429, "RESOURCE_EXHAUSTED"),
    ErrorKind.INVALID: (400, "INVALID_ARGUMENT"),
    ErrorKind.CONTEXT_TOO_LONG: (400, "INVALID_ARGUMENT"),
    ErrorKind.UNKNOWN_MODEL: (404, "NOT_FOUND"),
    ErrorKind.OVERLOADED: (503, "UNAVAILABLE"),
}


class _Chunk(msgspec.Struct):
    candidates: Any = None
    error: Any = None
    promptFeedback: Any = None  # noqa: N815  # the field's own name
    usageMetadata: Any = None  # noqa: N815
    modelVersion: Any = None  # noqa: N815


_chunk = msgspec.json.Decoder(_Chunk)


class Gemini:
    """See `base.Dialect`."""

    name = "gemini"

    def operation(self, method: str, tail: str) -> str | None:
        found = _TAIL.fullmatch(tail) if method == "POST" else None
        if found is None or found["before"].endswith("tunedModels/"):
            return None
        return found["operation"] if found["operation"] in OPERATIONS else None

    def read(self, operation: str, tail: str, query: str, content_type: str, body: bytes) -> Call:
        found = _TAIL.fullmatch(tail)
        fields = fields_of(body) or {}
        config = value_of(fields.get("generationConfig"))
        limit = int_of(config.get("maxOutputTokens")) if isinstance(config, dict) else 0
        return Call(
            self.name,
            operation,
            unquote(found["model"]) if found else None,
            stream=operation == "streamGenerateContent",
            pin=_pin(fields, body),
            max_output_tokens=limit or None,
            conversation=_conversation(fields),
        )

    def rewrite(
        self, call: Call, tail: str, content_type: str, body: bytes, model: str | None, drop: Collection[str]
    ) -> tuple[str, bytes]:
        if model is not None and (found := _TAIL.fullmatch(tail)) is not None:
            tail = f"{found['before']}{quote(model, safe='')}:{found['operation']}"
        return tail, common.with_fields(body, None, drop)

    def reader(self, call: Call, content_type: str) -> StreamReader:
        return _SSEReader() if "text/event-stream" in content_type.lower() else _ArrayReader()

    def is_stream(self, call: Call, content_type: str) -> bool:
        kind = content_type.lower()
        return "text/event-stream" in kind or (call.stream and "json" in kind)

    def judge_answer(self, call: Call, content_type: str, body: bytes) -> Answer:
        fields = fields_of(body)
        if fields is None:
            return Answer(good=False)
        if "error" in fields:
            return common.no_answer(body)
        if call.operation == "generateContent" and not ("candidates" in fields or "promptFeedback" in fields):
            return common.no_answer(body)
        ids = tuple(_signatures(value_of(fields.get("candidates")))) if b"ignature" in body else ()
        model = value_of(fields.get("modelVersion"))
        return Answer(
            True,
            None,
            _usage(value_of(fields.get("usageMetadata"))),
            model if isinstance(model, str) else None,
            ids,
        )

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> ErrorFacts:
        return common.error_in(status, body)

    def phrase_error(self, status: int, kind: ErrorKind, message: str) -> bytes:
        word = _STATUS.get(kind, (status, "UNAVAILABLE" if status == 503 else "INTERNAL"))[1]
        return msgspec.json.encode({"error": {"code": status, "message": f"sidestep: {message}", "status": word}})

    def phrase_error_event(self, call: Call, kind: ErrorKind, message: str) -> bytes:
        code, _ = _STATUS.get(kind, (500, "INTERNAL"))
        return b"data: " + self.phrase_error(code, kind, message) + b"\n\n"

    def keep_alive(self, call: Call) -> bytes:
        # The Python SDK takes a comment line for an answer and fails on it; an empty line is ignored by all.
        return b"\n"


def _usage(usage: Any) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    made = int_of(usage.get("candidatesTokenCount")) + int_of(usage.get("thoughtsTokenCount"))
    return Usage(int_of(usage.get("promptTokenCount")), made, int_of(usage.get("cachedContentTokenCount")))


def _signatures(value: Any) -> list[str]:
    found = []
    for part in dicts_in(value, frozenset({"args", "response"})):
        signed = part.get("thoughtSignature") or part.get("thought_signature")
        if isinstance(signed, str) and signed:
            found.append(digest(signed.encode()))
    return found[-common.MAX_IDS :]


def _pin(fields: Mapping[str, msgspec.Raw], body: bytes) -> Pin | None:
    if not any(word in body for word in _PIN_WORDS):
        return None
    cached = value_of(fields.get("cachedContent")) or value_of(fields.get("cached_content"))
    if isinstance(cached, str):
        return Pin(PinKind.STATE, "cachedContent", (cached,))
    contents = value_of(fields.get("contents"))
    files = []
    for part in dicts_in(contents, frozenset({"args", "response"})):
        uri = part.get("fileUri") or part.get("file_uri")
        # Files of the Files API live with the key that uploaded them; other URIs can be read by anybody.
        if isinstance(uri, str) and ("/files/" in uri or uri.startswith("files/")):
            files.append(uri)
    if files:
        return Pin(PinKind.STATE, "fileUri", tuple(files[: common.MAX_IDS]))
    signed = _signatures(contents)
    return Pin(PinKind.SIGNATURE, "thoughtSignature", tuple(reversed(signed))) if signed else None


def _conversation(fields: Mapping[str, msgspec.Raw]) -> str | None:
    raw = fields.get("contents")
    if raw is None or b'"model"' not in bytes(raw):
        return None
    try:
        contents = msgspec.json.decode(raw, type=list[msgspec.Raw])
    except msgspec.DecodeError:
        return None
    return digest(bytes(contents[0])) if len(contents) > 1 else None


def _mark(reader: Reader, name: bytes, data: bytes) -> tuple[Mark, ErrorFacts | None]:
    try:
        chunk = _chunk.decode(data)
    except msgspec.ValidationError:
        return Mark.LIFECYCLE, None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return common.unreadable(data)
    if chunk.error:
        return Mark.ERROR, common.error_event_facts(data)
    if isinstance(chunk.modelVersion, str):
        reader.model = chunk.modelVersion
    reader.usage = _usage(chunk.usageMetadata) or reader.usage
    if b"ignature" in data:
        for name_of_signed in _signatures(chunk.candidates):
            reader.note_id(name_of_signed)
    if isinstance(chunk.promptFeedback, dict) and chunk.promptFeedback.get("blockReason"):
        reader.finished = True
        return Mark.TERMINAL, None
    candidates = (
        [c for c in chunk.candidates or () if isinstance(c, dict)] if isinstance(chunk.candidates, list) else []
    )
    if candidates and any(c.get("finishReason") for c in candidates):
        reader.finished = True
        return Mark.TERMINAL, None
    for candidate in candidates:
        content = candidate.get("content")
        parts = content.get("parts") if isinstance(content, dict) else None
        if isinstance(parts, list) and any(_says_something(p) for p in parts):
            return Mark.CONTENT, None
    return Mark.LIFECYCLE, None


def _says_something(part: Any) -> bool:
    return isinstance(part, dict) and any(v for k, v in part.items() if k not in ("thought", "thoughtSignature"))


class _SSEReader(Reader):
    def __init__(self) -> None:
        super().__init__(_mark)


class _ArrayReader(Reader):
    """A stream that is one JSON array, sent piece by piece: what it gives without `alt=sse`."""

    def __init__(self) -> None:
        super().__init__(_mark)
        self._array = ArrayScanner()

    @property
    def pending(self) -> int:
        return self._array.pending

    def feed(self, data: bytes) -> list[Event]:
        return [self._event(scanned) for scanned in self._array.feed(data)]

    def close(self) -> list[Event]:
        rest = self._array.close()
        return [] if rest is None else [self._event(Scanned(rest.raw, b"", rest.data))]

    def error_event(self, phrased: bytes) -> bytes:
        """An error as the array's last element."""
        return (b",\n" if self._array.elements else b"[") + phrased + b"]"
