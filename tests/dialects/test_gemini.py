"""The Gemini dialect: recognising, reading, rewriting, judging, phrasing."""

from __future__ import annotations

import functools
import json
from base64 import b64encode
from typing import Any

import httpx
import pytest
from google import genai
from google.genai import errors as genai_errors
from google.genai import types

from sidestep.breaker.outcomes import ErrorKind
from sidestep.dialects.base import Answer, Call, Mark, PinKind, Usage
from sidestep.dialects.common import BREAKDOWN, digest
from sidestep.dialects.conversations import conversation_of
from sidestep.dialects.gemini import BAD_OUTPUT, Gemini
from sidestep.dialects.reader import Reader
from support import corpus

GEMINI = Gemini()
JSON = "application/json; charset=UTF-8"
SSE = "text/event-stream"
CALL = Call("gemini", "streamGenerateContent", "m", stream=True)
STREAM = corpus.stream("gemini.streamGenerateContent.stream.sse")
ARRAY = corpus.stream("gemini.streamGenerateContent.stream.json")
TAIL = "/v1beta/models/gemini-2.5-flash:streamGenerateContent"


def read(body: Any, tail: str = TAIL) -> Call:
    operation = GEMINI.operation("POST", tail)
    assert operation is not None
    return GEMINI.read(operation, tail, "alt=sse", JSON, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("method", "tail", "operation"),
    [
        ("POST", "/v1beta/models/g:generateContent", "generateContent"),
        ("POST", "/v1/models/g:streamGenerateContent", "streamGenerateContent"),
        ("POST", "/v1alpha/models/g:embedContent", "embedContent"),
        ("POST", "/v1beta/models/g:batchEmbedContents", "batchEmbedContents"),
        ("POST", "/v1beta/models/g:countTokens", "countTokens"),
        ("POST", "/models/g:countTokens", "countTokens"),
        ("POST", "/v1/publishers/google/models/g:embedContent", "embedContent"),
        ("POST", "/v1beta1/projects/p/locations/l/publishers/google/models/g:countTokens", "countTokens"),
        ("POST", "/v1beta/tunedModels/g:generateContent", None),
        ("POST", "/v1beta/models/g:batchGenerateContent", None),
        ("POST", "/v1beta/models/g:predictLongRunning", None),
        ("POST", "/v1beta/models/g:generateContent/", None),
        ("POST", "/v1beta/models/g", None),
        ("GET", "/v1beta/models/g:generateContent", None),
        ("GET", "/v1beta/models", None),
        ("POST", "/v1beta/cachedContents", None),
        ("POST", "/upload/v1beta/files", None),
        ("POST", "/v1beta/models/google%2Fgemma3%3A27b:countTokens", "countTokens"),
        *[
            ("POST", f"{tail}:generateContent", None)
            for tail in (
                *("/v1beta/../models/g", "/../../models/g", "/v1beta/./models/g", "/v1beta/%2e%2e/models/g"),
                *("/v1beta/%2E./models/g", "/v1beta/..;/models/g", "/v1beta/..%2fadmin/models/g", "/a\\..\\b/models/g"),
                *("/v1beta/..%5c/models/g", "/v1beta//models/g", "/v1beta/models/..", "/v1beta/models/%2e%2e"),
                *("/v1beta/models/..%2f..%2fx", "/v1beta/models/a%2f..%2f..%2fx", "/v1beta/models/%252e%252e"),
                *("/v1beta/models/a%5c..%5cx", "/v1beta/models/a%3fkey=x", "/v1beta/models/a%23"),
                *("/v1beta/models/a%00", "/v1beta/;k=v/models/g", "/v1beta/models/a;k=v", "/user@host/models/g"),
                "/v1beta/models/%ff",
            )
        ],
    ],
)
def test_operations(method: str, tail: str, operation: str | None) -> None:
    """Stateless inference with a base model is routed, and nothing else."""
    assert GEMINI.operation(method, tail) == operation


def test_read() -> None:
    """The model and whether it streams stand in the path."""
    assert read({"generationConfig": {"maxOutputTokens": 9}}) == Call(
        "gemini", "streamGenerateContent", "gemini-2.5-flash", stream=True, max_output_tokens=9
    )
    assert read({}, "/v1beta/models/a%2Fb:countTokens") == Call("gemini", "countTokens", "a/b", stream=False)


SIGNED = {"contents": [{"parts": [{"text": "a", "thoughtSignature": "s1"}]}, {"parts": [{"thought_signature": "s2"}]}]}


@pytest.mark.parametrize(
    ("body", "pin"),
    [
        ({"cachedContent": "cachedContents/c1"}, (PinKind.STATE, ("cachedContents/c1",))),
        ({"contents": [{"parts": [{"fileData": {"fileUri": "files/f1"}}]}]}, (PinKind.STATE, ("files/f1",))),
        ({"contents": [{"parts": [{"file_data": {
            "file_uri": "https://generativelanguage.googleapis.com/v1beta/files/f1"}}]}]},
         (PinKind.STATE, ("https://generativelanguage.googleapis.com/v1beta/files/f1",))),
        ({"contents": [{"parts": [{"fileData": {"fileUri": "https://example.com/files/f1"}}]}]}, None),
        ({"contents": [{"parts": [{"fileData": {"fileUri": "https://youtu.be/x"}}]}]}, None),
        ({"tools": [{"fileSearch": {"fileSearchStoreNames": ["fileSearchStores/s"]}}]},
         (PinKind.STATE, ("fileSearchStores/s",))),
        (SIGNED, None),
        ({"contents": [{"parts": [{"functionCall": {"args": {"fileUri": "files/f1"}}}]}]}, None),
        ({"contents": [{"parts": [{"text": 'a "cachedContent": "c" of "fileUri"'}]}]}, None),
        ({**SIGNED, "cachedContent": "c"}, (PinKind.STATE, ("c",))),
    ],
    ids=lambda v: json.dumps(v)[:60] if isinstance(v, dict) else "",
)  # fmt: skip
def test_pins(body: dict[str, Any], pin: tuple[PinKind, tuple[str, ...]] | None) -> None:
    """Caches, files and stores tie a call to a provider; thought signatures and talk do not."""
    found = read(body).pin
    assert (None if found is None else (found.kind, found.ids)) == pin


def test_sealed() -> None:
    """A signature is named by itself, the newest first; a dummy, in whatever form, is none."""
    assert read(SIGNED).sealed == (digest(b"s2"), digest(b"s1"))
    dummies = [b"skip_thought_signature_validator", b"context_engineering_is_the_way_to_go"]
    for dummy in (form for d in dummies for form in (d, b64encode(d), b64encode(d).rstrip(b"="))):
        assert read({"contents": [{"parts": [{"thoughtSignature": dummy.decode()}]}]}).sealed == ()


def test_conversation() -> None:
    """Every turn after the first bears the same key."""
    user, model = ({"role": r, "parts": [{"text": r}]} for r in ("user", "model"))
    first = conversation_of(read({"contents": [user]}).messages)
    second = conversation_of(read({"contents": [user, model, user]}).messages)
    third = conversation_of(read({"contents": [user, model, user, model, user]}).messages)
    assert first is not None
    assert second is not None
    assert third is not None
    assert read({"contents": [user]}, "/models/m:countTokens").messages is None
    assert first.opening == second.opening == third.opening
    assert first.answered is None
    assert second.answered == third.answered is not None


def test_rewriting() -> None:
    """Another model goes into the path and wherever the body repeats it; all else stays byte for byte."""
    body = b'{"contents": [ 1.0 ], "safetySettings":[]}'
    tail, same = GEMINI.rewrite(CALL, TAIL, JSON, body, "google/x", [])
    assert tail == "/v1beta/models/google%2Fx:streamGenerateContent"
    assert same is body
    assert GEMINI.rewrite(CALL, TAIL, JSON, body, None, ["safetySettings"]) == (TAIL, b'{"contents":[ 1.0 ]}')
    found = read({}, TAIL)
    assert GEMINI.rewrite(found, TAIL, JSON, body, "gemini-2.5-flash", []) == (TAIL, body)
    batch = b'{"requests":[{"model":"models/a","content":{"model": "models/a" }},{"content":{}}]}'
    assert GEMINI.rewrite(CALL, "/v1/models/a:batchEmbedContents", JSON, batch, "b", []) == (
        "/v1/models/b:batchEmbedContents",
        b'{"requests":[{"model":"models/b","content":{"model": "models/a" }},{"content":{}}]}',
    )
    count = b'{"generateContentRequest":{"model":"models/a","contents":[]}}'
    assert GEMINI.rewrite(CALL, "/v1/models/a:countTokens", JSON, count, "b", [])[1] == count.replace(b"/a", b"/b")


# --- streams


@pytest.mark.parametrize(
    ("data", "content_type"),
    [(STREAM, SSE), (STREAM.replace(b"\r\n", b"\n"), SSE), (STREAM.replace(b"\r\n", b"\r"), SSE), (ARRAY, JSON)],
)
def test_streams_at_every_cut(data: bytes, content_type: str) -> None:
    """Wherever a stream is cut up, each event means the same, and the raws joined are the stream."""
    for parts in corpus.cuts(data):
        reader = GEMINI.reader(CALL, content_type)
        events = corpus.run(reader, parts)
        assert b"".join(e.raw for e in events) == data
        assert corpus.marks([e for e in events if e.mark is not Mark.LIFECYCLE]) == "CT"
        assert (reader.finished, reader.answered, reader.content, reader.pending) == (True, True, True, 0)
        assert (reader.usage, reader.model) == (Usage(4, 16), "gemini-2.5-flash")
        assert reader.ids == (digest(b"CiQB"),)


@pytest.mark.parametrize(("data", "content_type"), [(STREAM.rstrip(), SSE), (ARRAY.rstrip(b"\n]"), JSON)])
def test_a_stream_that_was_cut_off_is_never_finished(data: bytes, content_type: str) -> None:
    """Short of the last candidate's finish reason nothing looks complete."""
    for at in range(len(data)):
        reader = GEMINI.reader(CALL, content_type)
        events = corpus.run(reader, [data[:at]])
        assert not reader.finished
        assert b"".join(e.raw for e in events) == data[:at]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ('{"candidates":[{"content":{"parts":[{"text":"a"}]}}]}', (Mark.CONTENT, None)),
        ('{"candidates":[{"content":{"parts":[{"text":"a","thought":true}]}}]}', (Mark.CONTENT, None)),
        ('{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f"}}]}}]}', (Mark.CONTENT, None)),
        ('{"candidates":[{"content":{"parts":[{"text":""}]}}]}', (Mark.LIFECYCLE, None)),
        ('{"candidates":[{"content":{"role":"model"}}]}', (Mark.LIFECYCLE, None)),
        ('{"candidates":[{"finishReason":"SAFETY"}]}', (Mark.TERMINAL, None)),
        ('{"candidates":[{"content":{"parts":[{"text":"a"}]},"finishReason":"STOP"}]}', (Mark.TERMINAL, None)),
        ('{"candidates":[{"content":{"parts":[{"text":"a"}]}},{"index":1,"finishReason":"STOP"}]}',
         (Mark.CONTENT, None)),
        ('{"promptFeedback":{"blockReason":"SAFETY"}}', (Mark.TERMINAL, None)),
        ('{"usageMetadata":{"promptTokenCount":3}}', (Mark.LIFECYCLE, None)),
        ('{"candidates":"x"}', (Mark.LIFECYCLE, None)),
        ("3", (Mark.LIFECYCLE, None)),
        ("{not json", (Mark.MALFORMED, None)),
        ('{"error":{"code":503,"message":"m","status":"UNAVAILABLE"}}', (Mark.ERROR, ErrorKind.OVERLOADED)),
        ('{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED"}}', (Mark.ERROR, ErrorKind.RATE_LIMIT)),
        ('{"error":{"code":500,"message":"m","status":"INTERNAL"}}', (Mark.ERROR, ErrorKind.SERVER)),
    ],
)  # fmt: skip
def test_events(data: str, expected: tuple[Mark, ErrorKind | None]) -> None:
    """What each chunk means as the first of a stream."""
    reader = GEMINI.reader(CALL, SSE)
    (found,) = reader.feed(b"data: " + data.encode() + b"\r\n\r\n")
    assert (found.mark, None if found.error is None else found.error.kind) == expected
    assert reader.content is (found.mark in (Mark.CONTENT, Mark.TERMINAL))


def chunk(*candidates: Any, **more: Any) -> dict[str, Any]:
    return {"candidates": list(candidates), **more}


def says(text: str = "a", index: int = 0, **more: Any) -> dict[str, Any]:
    return {"index": index, "content": {"parts": [{"text": text}]}, **more}


def calls(*parts: Any, **more: Any) -> dict[str, Any]:
    return {"content": {"parts": [{"functionCall": p} for p in parts]}, **more}


L, C, T = Mark.LIFECYCLE, Mark.CONTENT, Mark.TERMINAL
COUNTS = {
    "promptTokenCount": 1,
    "toolUsePromptTokenCount": 2,
    "candidatesTokenCount": 3,
    "thoughtsTokenCount": 4,
    "cachedContentTokenCount": 5,
}
OPEN = (False, False, None, None, ())


@pytest.mark.parametrize(
    ("chunks", "marks", "known"),
    [
        ([chunk(says()), chunk({"finishReason": "STOP"})], [C, T], (True, False, None, None, ())),
        ([chunk(says(finishReason="")), chunk(says(finishReason="FINISH_REASON_UNSPECIFIED"))], [C, C], OPEN),
        ([chunk(says(), says(index=1)), chunk({"index": 1, "finishReason": "STOP"})], [C, C], OPEN),
        (
            [chunk({"content": 5}, 5, {"content": {"parts": 5}}, {"content": {"parts": [5, {"thought": True}]}})],
            [L],
            OPEN,
        ),
        # A candidate that says nothing ends well where its reason, or the counts, tell that it may.
        ([chunk({"finishReason": "STOP"})], [T], (True, False, None, None, ())),
        ([chunk(says(finish_reason="STOP"))], [T], (True, False, None, None, ())),
        ([chunk({"finishReason": "STOP"}, usageMetadata={})], [T], (True, False, Usage(0, 0, 0), None, ())),
        (
            [chunk({"finishReason": "STOP"}, usageMetadata={"promptTokenCount": 1})],
            [L],
            (False, False, Usage(1, 0, 0), None, ()),
        ),
        (
            [chunk({"finishReason": "STOP"}, usageMetadata={"thoughtsTokenCount": 1})],
            [T],
            (True, False, Usage(0, 1, 0), None, ()),
        ),
        (
            [chunk({"finishReason": "MAX_TOKENS"}, usageMetadata={"promptTokenCount": 1})],
            [T],
            (True, False, Usage(1, 0, 0), None, ()),
        ),
        ([chunk({"finishReason": "ERROR"})], [BREAKDOWN], OPEN),
        ([chunk({"finishReason": "MALFORMED_FUNCTION_CALL"})], [BAD_OUTPUT], OPEN),
        ([chunk(says(), {"finishReason": "MALFORMED_RESPONSE", "index": 1})], [C], OPEN),
        ([chunk(says()), chunk({"finishReason": "MALFORMED_RESPONSE"})], [C, T], (True, False, None, None, ())),
        ([chunk(says(finishReason="MALFORMED_RESPONSE"))], [T], (True, False, None, None, ())),
        # The usage and the model that were told last.
        (
            [
                chunk(usageMetadata=COUNTS, modelVersion="g1"),
                chunk(usageMetadata=5, modelVersion="g2"),
                chunk(modelVersion=5),
            ],
            [L, L, L],
            (False, False, Usage(3, 7, 5), "g2", ()),
        ),
        # A tool call may come in pieces.
        ([chunk(calls({"name": "f"}))], [C], OPEN),
        ([chunk(calls({"name": "f", "willContinue": True}))], [C], (False, True, None, None, ())),
        ([chunk(calls({"name": "f", "willContinue": False}))], [C], OPEN),
        ([chunk(calls({"willContinue": True}, {"name": "g"}))], [C], OPEN),
        ([chunk(calls({"name": "f"}, {"willContinue": True}))], [C], (False, True, None, None, ())),
        ([chunk(calls({"willContinue": True})), chunk(says())], [C, C], (False, True, None, None, ())),
        ([chunk(calls({"willContinue": True})), chunk(calls({"name": "f"}))], [C, C], OPEN),
        (
            [chunk(calls({"willContinue": True})), chunk({"finishReason": "STOP"})],
            [C, T],
            (True, False, None, None, ()),
        ),
        # Signatures are named in either spelling, dummies are not.
        (
            [
                chunk({"content": {"parts": [{"text": "a", "thoughtSignature": "s1"}]}}),
                chunk({"content": {"parts": [{"text": "", "thought_signature": "s2"}]}}),
                chunk({"content": {"parts": [{"text": "a", "thoughtSignature": "skip_thought_signature_validator"}]}}),
            ],
            [C, L, C],
            (False, False, None, None, (digest(b"s1"), digest(b"s2"))),
        ),
        ([{"promptFeedback": {"blockReason": "x"}}], [T], (True, False, None, None, ())),
        ([{"promptFeedback": {"blockReason": ""}}, {"promptFeedback": "blockReason"}], [L, L], OPEN),
    ],
)
def test_streams_chunk_by_chunk(chunks: list[Any], marks: list[Any], known: tuple[Any, ...]) -> None:
    """What each means after those before it; then whether it has finished, calls a tool, its usage, its model and the
    names of its signatures."""
    reader = GEMINI.reader(CALL, SSE)
    assert isinstance(reader, Reader)
    found = [reader.feed(b"data: " + json.dumps(c).encode() + b"\n\n") for c in chunks]
    assert [f[0].error or f[0].mark for f in found] == marks
    assert (reader.finished, reader.calling, reader.usage, reader.model, reader.ids) == known


@pytest.mark.parametrize(
    ("data", "raises"),
    [
        ({"error": {"code": 400, "message": "x"}}, True),
        ({"error": {"code": 399, "message": "x"}}, False),
        ({"error": {"code": "400", "message": "x"}}, False),
        ({"error": "x"}, False),
    ],
)
def test_what_the_sdk_raises_from(data: Any, raises: bool) -> None:
    """Without a code of 400 or more the Python SDK makes an answer of an error."""
    (found,) = GEMINI.reader(CALL, SSE).feed(b"data: " + json.dumps(data).encode() + b"\n\n")
    assert (found.mark, found.raises) == (Mark.ERROR, raises)


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (
            chunk(
                {"content": {"parts": [{"text": "a", "thoughtSignature": "s"}]}}, usageMetadata=COUNTS, modelVersion="g"
            ),
            Answer(True, None, Usage(3, 7, 5), "g", (digest(b"s"),)),
        ),
        (
            chunk({"content": {"parts": [{"text": "a", "thought_signature": "s"}]}}),
            Answer(True, None, None, None, (digest(b"s"),)),
        ),
        (chunk({"finishReason": "STOP"}, says(), 5), Answer(True, None, None, None, ())),
        (chunk({"finishReason": "ERROR"}, says()), Answer(good=False, error=BREAKDOWN)),
        (chunk({"finishReason": "MALFORMED_RESPONSE"}), Answer(good=False, error=BAD_OUTPUT)),
        (chunk({"finishReason": "MALFORMED_RESPONSE"}, says()), Answer(True, None, None, None, ())),
        (chunk({"finishReason": "STOP"}, usageMetadata={"promptTokenCount": 1}), Answer(good=False)),
        (chunk({"finishReason": ""}, {"finishReason": "STOP"}), Answer(True, None, None, None, ())),
        (chunk(), Answer(good=False)),
        ({}, Answer(good=False)),
    ],
)
def test_whole_answers(body: Any, answer: Answer) -> None:
    """As a stream's chunks are, all at once."""
    whole = Call("gemini", "generateContent", "m", stream=False)
    assert GEMINI.judge_answer(whole, JSON, json.dumps(body).encode()) == answer


def test_a_finish_reason_in_every_chunk() -> None:
    """It ends the answer only where nothing is said after it without one."""
    reader = GEMINI.reader(CALL, SSE)
    reader.feed(b'data: {"candidates":[{"content":{"parts":[{"text":"a"}]},"finishReason":"STOP"}]}\n\n')
    assert reader.finished
    reader.feed(b'data: {"candidates":[{"content":{"parts":[{"text":"b"}]}}]}\n\n')
    assert not reader.finished


def test_an_error_in_place_of_an_array() -> None:
    """A lone object is read whole, at every cut."""
    data = b'{"error": {"code": 429, "message": "m", "status": "RESOURCE_EXHAUSTED", "details": [{"a": {}}]}}\n'
    for parts in corpus.cuts(data):
        reader = GEMINI.reader(CALL, JSON)
        events = [e for e in corpus.run(reader, parts) if e.mark is not Mark.LIFECYCLE]
        assert [(e.mark, e.error and e.error.kind) for e in events] == [(Mark.ERROR, ErrorKind.RATE_LIMIT)]
        assert reader.error_event(ErrorKind.SERVER, "x") == b""


def test_array_errors_leave_valid_json() -> None:
    """Wherever an array breaks off, our error is its last element."""
    for at in range(len(ARRAY)):
        reader = GEMINI.reader(CALL, JSON)
        sent = b"".join(e.raw for e in corpus.run(reader, [ARRAY[:at]]) if e.mark is not Mark.MALFORMED)
        if reader.finished:
            continue
        document = json.loads(sent + reader.error_event(ErrorKind.OVERLOADED, "cut"))
        assert document[-1] == {"error": {"code": 503, "message": "sidestep: cut", "status": "UNAVAILABLE"}}


@pytest.mark.parametrize(("end", "raises"), [(b"", False), (b"]", True), (b"\n]\n", True)])
def test_a_providers_error_in_an_array_is_used_with_the_arrays_end_alone(end: bytes, raises: bool) -> None:
    """Else ours takes its place, whose end is there."""
    reader = GEMINI.reader(CALL, JSON)
    error = b',\n{"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}'
    sent, told = reader.feed(b'[{"candidates":[{"content":{"parts":[{"text":"a"}]}}]}' + error + end)[:2]
    assert (told.mark, told.raises) == (Mark.ERROR, raises)
    assert json.loads(sent.raw + (told.raw + end if raises else reader.error_event(ErrorKind.OVERLOADED, "x")))


def test_a_malformed_element_takes_no_bracket_with_it() -> None:
    """The first one is an error, for nothing valid could follow; a later one is dropped with its comma."""
    (first,) = GEMINI.reader(CALL, JSON).feed(b"[{nonsense}")
    assert first.mark is Mark.ERROR
    events = GEMINI.reader(CALL, JSON).feed(b"[{},{nonsense},{}]")
    kept = b"".join(e.raw for e in events if e.mark is not Mark.MALFORMED)
    assert json.loads(kept) == [{}, {}]


# --- whole answers and errors


@pytest.mark.parametrize(
    ("operation", "body", "good", "kind"),
    [
        ("generateContent", b'{"candidates":[{"finishReason":"SAFETY"}]}', True, None),
        ("generateContent", b'{"candidates":[{}]}', False, None),
        ("generateContent", b'{"promptFeedback":{"blockReason":"SAFETY"}}', True, None),
        ("generateContent", b'{"usageMetadata":{}}', False, None),
        ("generateContent", b"", False, None),
        ("generateContent", b"<!doctype html>", False, None),
        ("generateContent", b'{"error":{"code":503,"message":"m"}}', False, ErrorKind.OVERLOADED),
        ("countTokens", b'{"totalTokens":3}', True, None),
        ("embedContent", b'{"embedding":{"values":[0.5]}}', True, None),
        ("embedContent", b'{"embedding":{}}', False, None),
        ("embedContent", b'{"embedding":{"values":[]}}', False, None),
        ("batchEmbedContents", b'{"embeddings":[{}]}', False, None),
        ("embedContent", b'{"usageMetadata":{}}', False, None),
        ("batchEmbedContents", b'{"embeddings":[{"values":[0.5]}]}', True, None),
        ("batchEmbedContents", b'{"embeddings":[]}', False, None),
        ("batchEmbedContents", b"[]", False, None),
    ],
)
def test_judging(operation: str, body: bytes, good: bool, kind: ErrorKind | None) -> None:
    """A 2xx is an answer only if it holds what its operation is asked for."""
    answer = GEMINI.judge_answer(Call("gemini", operation, "m", stream=False), JSON, body)
    assert (answer.good, None if answer.error is None else answer.error.kind) == (good, kind)


@pytest.mark.parametrize(("status", "kind", "body"), corpus.errors("gemini"))
def test_errors(status: int, kind: str, body: bytes) -> None:
    """What those who speak the dialect say when they refuse."""
    assert GEMINI.read_error(status, {}, body).kind == kind


# --- what the SDK makes of our words


answers: list[httpx.Response] = []
"""What the next request is answered with."""


@functools.cache
def sdk() -> genai.Client:
    """One for all: to make one takes more than a hundred calls."""
    http = httpx.Client(transport=httpx.MockTransport(lambda _: answers.pop()))
    options = types.HttpOptions(base_url="http://x", httpx_client=http)
    return genai.Client(api_key="k", vertexai=False, http_options=options)


def ask(status: int, content_type: str, body: bytes) -> list[Any]:
    answers[:] = [httpx.Response(status, headers={"content-type": content_type}, content=body)]
    seen: list[Any] = []
    try:
        for chunk in sdk().models.generate_content_stream(model="m", contents="x"):
            seen.append(chunk.text)
    except genai_errors.APIError as e:
        seen.append(e)
    return seen


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_the_sdk_raises_our_error_events(end: bytes) -> None:
    """Wherever a stream breaks off, the official SDK ends it with its own API error, bearing our text."""
    data = STREAM.replace(b"\r\n", end)
    for at in range(3, len(data), 61):
        reader = GEMINI.reader(CALL, SSE)
        sent = [e.raw for e in corpus.run(reader, [data[:at]]) if e.mark is not Mark.MALFORMED]
        if reader.finished:
            continue
        seen = ask(200, SSE, b"".join(sent) + reader.error_event(ErrorKind.SERVER, "the stream was cut"))
        assert isinstance(seen[-1], genai_errors.ServerError), (at, seen)
        assert seen[-1].message == "sidestep: the stream was cut"


@pytest.mark.parametrize("kind", ErrorKind)
def test_the_sdk_raises_our_errors(kind: ErrorKind) -> None:
    """A JSON error of ours is the official SDK's own API error, whole or as an event."""
    (error,) = ask(503, JSON, GEMINI.phrase_error(503, kind, "nobody left"))
    assert (type(error), error.code, error.message) == (genai_errors.ServerError, 503, "sidestep: nobody left")
    (error,) = ask(200, SSE, GEMINI.phrase_error_event(CALL, kind, "nobody left"))
    assert error.message == "sidestep: nobody left"


def test_the_sdk_ignores_keep_alives() -> None:
    """A held-back stream with keep-alives before it gives the same chunks; an array stays JSON."""
    beats = GEMINI.keep_alive(CALL) * 3
    assert ask(200, SSE, beats + STREAM) == ask(200, SSE, STREAM) == ["Zwei", ' } ] " \\']
    assert json.loads(beats + ARRAY) == json.loads(ARRAY)


@pytest.mark.parametrize(
    ("host", "tail", "there"),
    [
        (
            "aiplatform.googleapis.com",
            "/v1beta/models/g:countTokens",
            "/v1beta1/publishers/google/models/g:countTokens",
        ),
        ("aiplatform.googleapis.com", "/v1/models/g:generateContent", "/v1/publishers/google/models/g:generateContent"),
        ("us-east5-aiplatform.googleapis.com", "/v1/models/g:x", "/v1/publishers/google/models/g:x"),
        ("generativelanguage.googleapis.com", "/v1beta1/publishers/google/models/g:x", "/v1beta/models/g:x"),
        (
            "generativelanguage.googleapis.com",
            "/v1/projects/p/locations/global/publishers/google/models/g:x",
            "/v1/models/g:x",
        ),
        ("elsewhere.test", "/v1beta/models/g:x", "/v1beta/models/g:x"),
        ("aiplatform.googleapis.com", "/v1beta1/publishers/google/models/g:x", "/v1beta1/publishers/google/models/g:x"),
    ],
)
def test_the_two_platforms_of_google_name_their_paths_differently(host: str, tail: str, there: str) -> None:
    assert GEMINI.address_at(host, "", tail, "alt=sse", alike=True) == (there, "alt=sse")
