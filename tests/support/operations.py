"""Calls other than those that the SDKs are tested with: what is asked, and how a good answer is worded.

An answer's `form` says what can be odd about it: `events`, `array` (a stream that is one JSON array), `json`, `text`,
`bytes`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from support.provider import Behaviour, Grammar, Seen, error_body, grammar

_HI = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
_GEMINI = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
_FORM = (
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\ngpt-4o-transcribe\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\x00\xff\r\n--b--\r\n'
)


@dataclass(frozen=True)
class Operation:
    """One of them. `request`: the fields of its body, or the body itself; `stream` is added to the fields."""

    dialect: str
    path: str
    request: Any = None
    form: str = "json"
    """Of its whole answer."""
    stream_form: str = ""
    """Of its stream; empty if it has none."""
    stream_path: str = ""
    stream_only: bool = False
    request_type: str = "application/json"
    answer_type: str = "application/json"
    method: str = "POST"

    def body(self, *, stream: bool) -> bytes:
        match self.request:
            case None:
                return b""
            case bytes():
                return self.request
            case _ if self.dialect == "openai" and self.stream_form:
                return json.dumps({**self.request, "stream": stream}).encode()
            case _:
                return json.dumps(self.request).encode()


class _Worded(Grammar):
    """Whole answers around some words."""

    def whole(self) -> Any:
        text = "".join(self.tokens)
        return {
            "embeddings": {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.1, -2e-7]}]},
            "moderations": {"id": text, "results": [{"flagged": False, "categories": {"violence": False}}]},
            "rerank": {"id": text, "results": [{"index": 0, "relevance_score": 0.5}]},
            "compact": {"id": text, "object": "response.compaction", "output": [{"type": "compaction", "id": text}]},
            "input_tokens": {"object": "response.input_tokens", "input_tokens": 7},
            "count_tokens": {"input_tokens": 7},
            "countTokens": {"totalTokens": 7, "promptTokensDetails": []},
            "embedContent": {"embedding": {"values": [0.1, 0.2]}},
            "models": {"object": "list", "data": [{"id": text, "object": "model"}]},
        }[self.name]


class _Completions(Grammar):
    def chunk(self, text: str, finish: str | None = None) -> bytes:
        choices = [{"index": 0, "text": text, "logprobs": None, "finish_reason": finish}]
        data = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": self.model, "choices": choices}
        return b"data: " + json.dumps(data).encode() + b"\n\n"

    def token(self, i: int) -> bytes:
        return self.chunk(self.tokens[i])

    def finish(self) -> list[bytes]:
        return [self.chunk("", "stop")]

    def terminal(self) -> list[bytes]:
        return [b"data: [DONE]\n\n"]

    def whole(self) -> Any:
        choices = [{"index": 0, "text": "".join(self.tokens), "finish_reason": "stop"}]
        return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": self.model, "choices": choices}


class _Images(Grammar):
    def event(self, kind: str, **more: Any) -> bytes:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **more})}\n\n".encode()

    def token(self, i: int) -> bytes:
        return self.event("image_generation.partial_image", b64_json=self.tokens[i], partial_image_index=i)

    def terminal(self) -> list[bytes]:
        return [self.event("image_generation.completed", b64_json="".join(self.tokens), usage={"total_tokens": 3})]

    def error(self, b: Behaviour) -> bytes:
        return self.event("error", error={"type": "x", "code": b.code, "message": b.message})

    def whole(self) -> Any:
        return {"created": 1, "data": [{"b64_json": "".join(self.tokens)}]}


class _Array(Grammar):
    """Gemini's stream without `alt=sse`."""

    def token(self, i: int) -> bytes:
        lines = grammar("generateContent", self.name, b"", self.b).token(i)
        data = lines.removeprefix(b"data: ").strip()
        return (b",\n" if i else b"[") + data

    def terminal(self) -> list[bytes]:
        return [b"\n]"]

    def ping(self) -> bytes:
        return b"\n"

    def error(self, b: Behaviour) -> bytes:
        return error_body("gemini", Behaviour(status=503, code="UNAVAILABLE", message=b.message))


class _Speech(Grammar):
    """Sound, in pieces."""

    def token(self, i: int) -> bytes:
        return b"\xff\xfb\x90\x00" + bytes(range(256)) * 3 + self.tokens[i].encode()


class _Transcript(Grammar):
    def token(self, i: int) -> bytes:
        return self.tokens[i].encode()


def _openai(path: str, **fields: Any) -> Operation:
    return Operation("openai", path, {"model": "gpt-4o", **fields})


OPERATIONS: dict[str, Operation] = {
    "completions": Operation("openai", "/completions", {"model": "m", "prompt": "hi"}, stream_form="events"),
    "images": Operation("openai", "/images/generations", {"model": "m", "prompt": "a cat"}, stream_form="events"),
    "embeddings": _openai("/embeddings", input="hi"),
    "moderations": _openai("/moderations", input="hi"),
    "rerank": _openai("/rerank", query="hi", documents=["a"]),
    "compact": _openai("/responses/compact", input="hi"),
    "input_tokens": _openai("/responses/input_tokens", input="hi"),
    "speech": Operation(
        "openai", "/audio/speech", {"model": "m", "input": "hi"}, form="bytes", answer_type="audio/mpeg"
    ),
    "transcript": Operation(
        "openai",
        "/audio/transcriptions",
        _FORM,
        form="text",
        request_type="multipart/form-data; boundary=b",
        answer_type="text/plain; charset=utf-8",
    ),
    "models": Operation("openai", "/models", method="GET"),
    "count_tokens": Operation("anthropic", "/v1/messages/count_tokens", _HI),
    "array": Operation(
        "gemini",
        "",
        _GEMINI,
        stream_form="array",
        stream_path="/v1beta/models/gemini-2.5-pro:streamGenerateContent",
        stream_only=True,
    ),
    "countTokens": Operation("gemini", "/v1beta/models/gemini-2.5-pro:countTokens", _GEMINI),
    "embedContent": Operation("gemini", "/v1beta/models/embed:embedContent", {"content": _GEMINI["contents"][0]}),
}
_GRAMMARS: dict[str, type[Grammar]] = {
    "completions": _Completions,
    "images": _Images,
    "array": _Array,
    "speech": _Speech,
    "transcript": _Transcript,
}


def grammar_for(name: str, body: bytes, b: Behaviour, by: str) -> Grammar:
    """How a provider `by` that name words its answer to this operation."""
    seen = Seen("POST", "", [], body, 0, b"", 0)
    if name in _GRAMMARS:
        return _GRAMMARS[name](by, seen, b)
    made = _Worded(by, seen, b)
    made.name = name
    return made
