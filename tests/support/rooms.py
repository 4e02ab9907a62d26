"""The pure rooms under odd inputs: each draws one, and asserts what holds whatever comes.

A room raises where something is wrong. That none takes long, or keeps memory, is for who calls them.
"""

from __future__ import annotations

import base64
import gzip
import random
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import brotli  # type: ignore[import-untyped]

from sidestep.breaker import ratelimits, windows
from sidestep.breaker.outcomes import ErrorKind
from sidestep.breaker.ratelimits import MAX_SECONDS
from sidestep.calls import watching
from sidestep.calls.decoding import EncodingError, TooMuchError, decoded_start, decoder
from sidestep.calls.holding import Do, Holding
from sidestep.calls.watching import Watch
from sidestep.config import reading
from sidestep.config.problems import ConfigError
from sidestep.config.settings import TimeoutSettings
from sidestep.config.urls import BaseURL
from sidestep.dialects import DIALECTS, sealed, transcript
from sidestep.dialects.base import Call, Dialect, StreamReader
from sidestep.dialects.conversations import conversation_of
from sidestep.dialects.openai_frames import FrameReader, is_ambiguous, is_object
from sidestep.dialects.sealed import Target, unsealed
from sidestep.dialects.sse import ArrayScanner, EventScanner
from sidestep.forwarding import AllowList, FieldKind
from sidestep.leaks import Keys, Leaks, Searcher
from support import corpus
from support.encodings import zstd
from support.garble import garbled, odd_json, pieces

Room = Callable[[random.Random], None]
NOW = 1_790_000_000.0
JSON, SSE = "application/json", "text/event-stream"
KEY = b"sk-proj-CANARY8GhTx29KfLwZq0"
ISSUERS = ("openai", "anthropic", "google", "deepseek", "east.azure.com", "gateway.test")

_SEALED = {"type": "thinking", "thinking": "t", "signature": "S" * 40}
REQUESTS: dict[str, list[tuple[str, Any]]] = {
    "openai": [
        (
            "/chat/completions",
            {
                "model": "gpt-4o",
                "stream": True,
                "stream_options": {"include_usage": True},
                "messages": [
                    {"role": "system", "content": "s"},
                    {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "file", "file_id": "f-1"}]},
                    {"role": "assistant", "content": "a", "reasoning_details": [{"type": "x", "data": "gAAAAA"}]},
                    {"role": "tool", "tool_call_id": "c1", "content": "1"},
                ],
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
                "max_tokens": 100,
                "user": "u",
            },
        ),
        (
            "/responses",
            {
                "model": "gpt-5",
                "previous_response_id": "resp_1",
                "input": [
                    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
                    {"type": "reasoning", "id": "rs_1", "encrypted_content": "gAAAAABx", "summary": []},
                    {"type": "function_call_output", "call_id": "c", "output": "1"},
                    {"type": "item_reference", "id": "msg_1"},
                ],
                "tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}, {"type": "code_interpreter"}],
                "store": False,
                "include": ["reasoning.encrypted_content"],
            },
        ),
        ("/embeddings", {"model": "text-embedding-3", "input": ["a", "b"], "encoding_format": "float"}),
        ("/images/generations", {"model": "gpt-image-1", "prompt": "p", "stream": True, "n": 2}),
    ],
    "anthropic": [
        (
            "/v1/messages",
            {
                "model": "claude-opus-4",
                "max_tokens": 9,
                "stream": True,
                "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
                "messages": [
                    {"role": "user", "content": "hi"},
                    {"role": "assistant", "content": [_SEALED, {"type": "redacted_thinking", "data": "D" * 40}]},
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "1"}]},
                    {"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]},
                ],
                "tools": [{"name": "f", "input_schema": {"type": "object"}, "defer_loading": True}],
                "container": "c_1",
            },
        ),
        ("/v1/messages/count_tokens", {"model": "claude-opus-4", "messages": [{"role": "user", "content": "hi"}]}),
    ],
    "gemini": [
        (
            "/v1beta/models/gemini-2.5-pro:streamGenerateContent",
            {
                "contents": [
                    {"role": "user", "parts": [{"text": "hi"}, {"fileData": {"fileUri": "https://x/files/1"}}]},
                    {"role": "model", "parts": [{"functionCall": {"name": "f"}, "thoughtSignature": "S" * 40}]},
                ],
                "cachedContent": "cachedContents/1",
                "generationConfig": {"maxOutputTokens": 9},
            },
        ),
        ("/v1beta/models/gemini-2.5-pro:embedContent", {"content": {"parts": [{"text": "hi"}]}}),
    ],
}
ANSWERS: dict[str, list[Any]] = {
    "openai": [
        {"id": "c", "model": "m", "choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}]},
        {"id": "r", "object": "response", "status": "completed", "output": [{"type": "message", "content": []}]},
        {"object": "list", "data": [{"embedding": [0.5], "index": 0}], "usage": {"prompt_tokens": 5}},
    ],
    "anthropic": [
        {"id": "m", "type": "message", "model": "m", "content": [{"type": "text", "text": "x"}]}
        | {"stop_reason": "end_turn", "usage": {"input_tokens": 1, "output_tokens": 2}},
        {"input_tokens": 14},
    ],
    "gemini": [
        {"candidates": [{"content": {"parts": [{"text": "x"}]}, "finishReason": "STOP"}], "modelVersion": "m"}
        | {"usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2}},
    ],
}
STREAMS: dict[str, list[tuple[str, str]]] = {
    "openai": [
        ("/chat/completions", "openai.chat_completions.stream.sse"),
        ("/completions", "openai.completions.stream.sse"),
        ("/responses", "openai.responses.stream.sse"),
        ("/images/generations", "openai.images_generations.stream.sse"),
        ("/audio/speech", "openai.audio_speech.stream.sse"),
        ("/audio/transcriptions", "openai.audio_transcriptions.stream.sse"),
    ],
    "anthropic": [("/v1/messages", "anthropic.messages.stream.sse")],
    "gemini": [
        ("/v1beta/models/m:streamGenerateContent", "gemini.streamGenerateContent.stream.sse"),
        ("/v1beta/models/m:streamGenerateContent", "gemini.streamGenerateContent.stream.json"),
    ],
}
FORM = (
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\0\xff\r\n--b--\r\n'
)
HEADERS = (
    *("retry-after", "retry-after-ms", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    *("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens", "ratelimit"),
    *("ratelimit-policy", "ratelimit-reset", "anthropic-ratelimit-requests-reset", "x-codex-primary-used-percent"),
    *("anthropic-ratelimit-unified-status", "anthropic-ratelimit-unified-reset", "x-codex-primary-reset-at"),
    *("anthropic-ratelimit-unified-5h-utilization", "anthropic-ratelimit-unified-7d-status"),
    *("anthropic-ratelimit-unified-7d-reset", "x-codex-primary-window-minutes", "x-codex-active-limit"),
)
VALUES = (
    *("0", "1", "20", "0.5", "-1", "1e9", "1e999", "nan", "inf", "1" * 400, "6m0s", "1h2m3s4ms", "Sun, 06 Nov 2094"),
    *("2026-11-26T21:00:00Z", "9999-99-99T99:99:99Z", "Sun, 06 Nov 2094 08:49:37 GMT", "1790000100", "rejected"),
    *("allowed_warning", '"a";r=0;t=5', '"default";q=100;w=60', "", " ", "\0", "\x1f1", "²", "١", "ﬁ", "\udcff"),
)


def _dialect(rng: random.Random) -> Dialect:
    return DIALECTS[rng.choice([*DIALECTS])]


def _asked(rng: random.Random, dialect: Dialect) -> tuple[str, str, str, bytes]:
    """Tail, query, content type and body of a request."""
    tail, asked = rng.choice(REQUESTS[dialect.name])
    kind, body = JSON, odd_json(rng, asked)
    if dialect.name == "openai" and rng.random() < 0.15:
        tail, kind, body = "/audio/transcriptions", "multipart/form-data; boundary=b", FORM
    if rng.random() < 0.35:
        body = garbled(rng, body)
    if rng.random() < 0.05:
        body = body.decode("utf-8", "replace").encode(rng.choice(["utf-16", "utf-8-sig", "utf-32"]))
    if rng.random() < 0.15:
        tail = garbled(rng, tail.encode(), 2).decode("latin-1")
    if rng.random() < 0.1:
        kind = garbled(rng, kind.encode(), 2).decode("latin-1")
    query = rng.choice(["", "alt=sse", "key=x&alt=sse", "api-version=1", "model=m", "a" * 100, "%", "&&=&"])
    return tail, query, kind, body


def _call(rng: random.Random, dialect: Dialect) -> tuple[Call, str, str, bytes]:
    tail, query, kind, body = _asked(rng, dialect)
    operation = dialect.operation("POST", tail)
    if operation is None:
        tail, _ = REQUESTS[dialect.name][0]
        operation = dialect.operation("POST", tail)
        assert operation is not None
    return dialect.read(operation, tail, query, kind, body), tail, kind, body


def requests(rng: random.Random) -> None:
    """What a request asks for; its rewritten copy asks for the same of another model."""
    dialect = _dialect(rng)
    call, tail, kind, body = _call(rng, dialect)
    assert call.model is None or len(call.model) <= 512 or "models/" in tail
    if call.unread:
        return
    conversation_of(call.messages)
    new, copy = dialect.rewrite(call, tail, kind, body, "other-model", {"store", "metadata", "user"})
    again = dialect.read(call.operation, new, "", kind, copy)
    assert not again.unread, (again.unread, copy[:300])
    if call.model is not None and not call.unnamed:
        assert again.model == "other-model", (call.model, again.model)
        assert again.stream == call.stream
    kept = dialect.rewrite(call, tail, kind, body, None, ())
    assert kept == (tail, body)
    dialect.rewrite_query(call, "model=a&model=b&x", "m")
    dialect.address_at("x.test", "/openai/v1", tail, "api-version=1", alike=rng.random() < 0.5)


def seals(rng: random.Random) -> None:
    """What is left out for others leaves JSON that reads as the same call."""
    dialect = _dialect(rng)
    call, tail, kind, body = _call(rng, dialect)
    target = Target(rng.choice(ISSUERS), rng.choice([None, "m", "gemini-3-pro"]), own=rng.random() < 0.2)
    sealed.carries(call, target)
    sealed.may_demand(call, target)
    for name in call.sealed:
        sealed.is_foreign(name, rng.choice([None, *ISSUERS]), target.issuer)
    if call.unread or kind != JSON:
        return
    names = set(call.sealed) if rng.random() < 0.7 else {n for n in call.sealed if rng.random() < 0.5}
    copy = unsealed(call, target, body, names)
    again = dialect.read(call.operation, tail, "", kind, copy)
    assert not again.unread or call.unread, again.unread
    assert (again.model, again.stream) == (call.model, call.stream)
    left = set(again.sealed) & names
    assert not left or not set(call.sealed) - names, left


def answers(rng: random.Random) -> None:
    """Whole answers and errors are judged."""
    dialect = _dialect(rng)
    call, _, _, _ = _call(rng, dialect)
    body = odd_json(rng, rng.choice(ANSWERS[dialect.name]))
    body = garbled(rng, body) if rng.random() < 0.6 else body
    kind = rng.choice([JSON, SSE, "text/html", "", "application/json; charset=utf-16", "\0"])
    answer = dialect.judge_answer(call, kind, body)
    assert answer.usage is None or 0 <= answer.usage.cached <= answer.usage.input
    status, _, error = rng.choice(corpus.errors(dialect.name))
    dialect.read_error(status or 500, _fields(rng), garbled(rng, error))
    dialect.is_stream(call, kind, body[:64] or b"x")
    transcript.read(body)


def _reader(rng: random.Random) -> tuple[Dialect, Call, StreamReader, bytes]:
    dialect = _dialect(rng)
    tail, name = rng.choice(STREAMS[dialect.name])
    data = corpus.stream(name)
    kind = JSON if name.endswith(".json") else SSE
    operation = dialect.operation("POST", tail)
    assert operation is not None
    call = Call(dialect.name, operation, "m", True)
    return dialect, call, dialect.reader(call, kind), garbled(rng, data)


def streams(rng: random.Random) -> None:
    """The events of a stream give its bytes back, wherever it was cut; skimming comes to the same."""
    dialect, call, reader, data = _reader(rng)
    parts = pieces(rng, data)
    events = [event for part in parts for event in reader.feed(part)]
    assert reader.pending <= len(data)
    error = reader.error_event(rng.choice([*ErrorKind]), "w\n\u2028")
    assert error == b"" or error.endswith((b"\n\n", b"\r\n\r\n", b"]")), error[-20:]
    events += reader.close()
    assert b"".join(event.raw for event in events) == data
    assert reader.bug is None, reader.bug
    whole = dialect.reader(call, JSON if data.lstrip()[:1] in (b"[", b"{") else SSE)
    if type(whole) is type(reader):
        other = whole.feed(data) + whole.close()
        if data.count(b"\r") == 0 and not data.lstrip().startswith((b"[", b"{")):
            assert [(e.raw, e.mark) for e in other] == [(e.raw, e.mark) for e in events]
            assert (whole.finished, whole.content, whole.usage) == (reader.finished, reader.content, reader.usage)
    skimming = dialect.reader(call, JSON if data.lstrip()[:1] in (b"[", b"{") else SSE)
    for part in parts:
        if not skimming.skim(part):
            skimming.feed(part)
    skimming.close()
    if type(skimming) is type(reader) and data.lstrip()[:1] not in (b"[", b"{"):
        assert (skimming.finished, skimming.content) == (reader.finished, reader.content)


def scanners(rng: random.Random) -> None:
    """Whatever comes, in whatever pieces, is given back byte for byte."""
    data = garbled(rng, corpus.stream(rng.choice([name for of in STREAMS.values() for _, name in of])), 8)
    for scanner in (EventScanner(), ArrayScanner()):
        got = b""
        for part in pieces(rng, data):
            got += b"".join(scanned.raw for scanned in scanner.feed(part))
            if rng.random() < 0.05:
                got += scanner.give()
        rest = scanner.close()
        got += b"" if rest is None else rest.raw
        assert got == data


def decoding(rng: random.Random) -> None:
    """What is encoded comes out again, however it was cut; nothing else than the two errors is raised."""
    body = garbled(
        rng, rng.choice([corpus.stream("openai.responses.stream.sse"), b"", b"a" * 100_000, rng.randbytes(99)])
    )
    name, pack = rng.choice(
        [
            ("gzip", gzip.compress),
            ("deflate", zlib.compress),
            ("deflate", lambda b: zlib.compress(b)[2:-4]),
            ("br", brotli.compress),
            ("zstd", zstd.compress),
            ("gzip", lambda b: gzip.compress(b[:9]) + gzip.compress(b[9:])),
        ]
    )
    sent = pack(body)
    found = decoder(name)
    assert found is not None
    try:
        got = b"".join(found(part) for part in pieces(rng, sent))
    except TooMuchError:
        got = body
    assert got == body
    odd = garbled(rng, sent)
    found = decoder(rng.choice([name, "gzip, br", "", "x-gzip", "compress", name.upper()]))
    size = 0
    try:
        for part in pieces(rng, odd):
            size += len(found(part)) if found is not None else 0
    except (EncodingError, TooMuchError):
        pass
    assert size <= 64 << 20
    decoded_start(name, odd)


def _fields(rng: random.Random) -> Mapping[str, str]:
    return {
        rng.choice(HEADERS): rng.choice(VALUES) if rng.random() < 0.7 else garbled(rng, b"12").decode("latin-1")
        for _ in range(rng.randint(0, 6))
    }


KEYS = Keys(Searcher([KEY]), Searcher([KEY], any_case=True))


def watches(rng: random.Random) -> None:
    """What becomes of an answer: nothing is added, nothing repeats a key, and what broke off never looks whole."""
    dialect, call, _, data = _reader(rng)
    array = data.lstrip()[:1] in (b"[", b"{")
    call = replace(call, stream=rng.random() < 0.8)
    status = rng.choice([200, 200, 200, 200, 400, 404, 429, 500, 503, 301, 101, 204])
    if status >= 400 or not call.stream:
        data = garbled(rng, odd_json(rng, rng.choice(ANSWERS[dialect.name])))
    leaks = rng.random() < 0.3
    if leaks:
        at = rng.randint(0, len(data))
        data = data[:at] + KEY + data[at:]
    encoding = rng.choice(["", "", "", "", "gzip", "br", "identity", "x"])
    sent = gzip.compress(data) if encoding == "gzip" else brotli.compress(data) if encoding == "br" else data
    kind = rng.choice([SSE, SSE, JSON, "", "text/html", "audio/mpeg"]) if not array else JSON
    fields = [
        (b"Content-Type", kind.encode()),
        *((k.encode(), v.encode("utf-8", "replace")) for k, v in _fields(rng).items()),
    ]
    if encoding:
        fields.append((b"content-encoding", encoding.encode()))
    own = rng.random() < 0.5
    watch = Watch(
        *(dialect, call),
        own_provider=own,
        own_credential=own,
        status=status,
        fields=tuple(fields),
        wall_now=NOW,
        unwrap=rng.random() < 0.3,
        sieve=Leaks(KEYS, lambda: b"").sieve(),
    )
    timeouts = TimeoutSettings()
    hold = rng.choice([200, 10_000_000])
    holding = Holding(watch, timeouts, complete=rng.random() < 0.3, hold_bytes=hold, now=0.0)
    held, passed, do, now = b"", b"", None, 0.0
    steps = [holding.begin()]
    for part in [None, *pieces(rng, sent)]:
        now += rng.choice([0.001, 0.1, 2.0])
        step = steps[-1] if part is None else holding.feed(part, now)
        do = step.do
        held += step.data
        if do is Do.RELEASE:
            held, passed = b"", held + step.told
        elif holding.released and do in (Do.FORWARD, Do.BREAK):
            held, passed = b"", passed + held + step.told
        if do in (Do.FAIL, Do.BREAK):
            break
    cut = rng.random() < 0.5
    if do not in (Do.FAIL, Do.BREAK):
        step = holding.broke(now + 1) if cut else rng.choice([holding.end, holding.expired])(now + 1)
        if step.do is not Do.FAIL:
            passed += (b"" if holding.released and not held else held) + step.data + step.told
        whole_by_dialect = watch.finished or watch.shape is not watching.Shape.STREAM
        if cut and holding.released and watch.shape is watching.Shape.STREAM and not whole_by_dialect:
            assert step.do is Do.BREAK, (step, watch.shape)
        if cut and not holding.released:
            assert step.do is Do.FAIL, step
    if encoding in ("", "identity"):
        assert KEY not in passed, passed[-300:]
    watch.judge_end()
    watch.error_event(ErrorKind.SERVER, "x")


def leaks(rng: random.Random) -> None:
    """Not a byte of a key's forms goes on, wherever a body is cut; without one all does."""
    forms = [
        KEY,
        b"".join(b"\\u%04x" % c if rng.random() < 0.3 else bytes([c]) for c in KEY),
        b"".join(b"%%%02X" % c if rng.random() < 0.3 else bytes([c]) for c in KEY),
        base64.b64encode(rng.randbytes(rng.randint(0, 5)) + KEY),
        quote(base64.b64encode(KEY + b"??>>").decode(), safe="").encode(),
        KEY.decode().encode("utf-16-le"),
    ]
    around = garbled(rng, corpus.stream("openai.chat_completions.stream.sse"))
    sieve = Leaks(KEYS, lambda: b"").sieve()
    got = b""
    for part in pieces(rng, around):
        passed = sieve.feed(part)
        assert passed is not None
        got += passed
    assert got + sieve.rest() == around
    at = rng.randint(0, len(around))
    form = rng.choice(forms)
    data = around[:at] + b"\n" + form + b"\n" + around[at:]
    sieve = Leaks(KEYS, lambda: b"").sieve()
    got, hit = b"", False
    for part in pieces(rng, data):
        passed = sieve.feed(part)
        if passed is None:
            hit = True
            break
        got += passed
    assert hit, form
    assert len(got) <= at + 1 + len(form), (len(got), at)
    assert not Leaks(KEYS, lambda: KEY).in_words(KEY)


def limits(rng: random.Random) -> None:
    """No time from outside is negative, or longer than a month."""
    headers = _fields(rng)
    _, _, error = rng.choice(corpus.errors(rng.choice([*DIALECTS])))
    for found in (
        ratelimits.retry_after(headers, NOW, garbled(rng, error)),
        ratelimits.exhausted(headers, NOW),
        ratelimits.delay_in_body(
            odd_json(rng, {"retry_after": 5, "error": {"resets_at": 1.0, "retryDelay": "9s"}}), NOW
        ),
        ratelimits.delay_in_text(garbled(rng, b"Please try again in 6m0s.").decode("latin-1"), NOW),
        *(ratelimits.point_in_time(value, NOW) for value in headers.values()),
    ):
        assert found is None or 0 <= found <= MAX_SECONDS, found
    for window in windows.windows(headers, NOW):
        windows.nearly_used_up((window,), "m")
        assert window.resets_in is None or 0 <= window.resets_in <= MAX_SECONDS
    windows.limit(headers, NOW, "claude-opus-4-5")


_FRAMES = [
    {"type": "response.create", "model": "m", "input": "hi", "event_id": "e", "stream_id": "s"},
    {"type": "response.created", "response": {"id": "r1"}},
    {"type": "response.output_text.delta", "delta": "well", "response_id": "r1"},
    {"type": "response.completed", "response": {"id": "r1", "output": [{"type": "message"}], "usage": {}}},
    {"type": "response.done", "response": {"id": "r1", "status": "failed", "status_details": {"error": {}}}},
    {"type": "error", "status": 429, "error": {"code": "rate_limit_exceeded"}, "headers": {"Retry-After": 30}},
    {"type": "codex.rate_limits", "rate_limits": {"primary": {"used_percent": 5}}, "chunks": [{"type": "error"}]},
]


def frames(rng: random.Random) -> None:
    """Messages of a WebSocket, of both sides, in any order: what is open is bounded, and each ends once."""
    reader = FrameReader(rng.choice(["responses.websocket", "realtime.websocket"]))
    for _ in range(rng.randint(1, 40)):
        content = odd_json(rng, rng.choice(_FRAMES))
        content = garbled(rng, content) if rng.random() < 0.4 else content
        is_object(content)
        if rng.random() < 0.4:
            is_ambiguous(content)
            reader.asked(content)
        else:
            for said in reader.came(content) if rng.random() < 0.9 else reader.unread():
                assert said.reply is None or said.reply not in reader.open or said.sign.name not in ("ENDED", "FAILED")
        if reader.open and rng.random() < 0.05:
            reader.give_up(rng.choice(reader.open))
        assert len(reader.open) <= 64


def forwarding(rng: random.Random) -> None:
    """Nothing goes on but what is on the list, as it stood."""
    dialect = _dialect(rng)
    allowed = AllowList(dialect.name)
    path = "/v1/x?" + "&".join(
        garbled(rng, rng.choice([b"alt=sse", b"api-version=1", b"key=K", b"beta=true", b"sig=K", b"a"]), 2).decode(
            "latin-1"
        )
        for _ in range(rng.randint(0, 6))
    )
    forwarded, kept = allowed.divided(path)
    for part in forwarded.partition("?")[2].split("&"):
        assert not part or part in path.partition("?")[2].split("&")
        assert not part.startswith(("key", "sig"))
    assert len(kept) <= path.count("&") + 1
    name = garbled(
        rng,
        rng.choice(
            [b"Accept", b"X-Stainless-Lang", b"Authorization", b"Sec-WebSocket-Protocol", b"Host", b"Connection"]
        ),
        2,
    )
    kind = allowed.kind_of(name)
    assert kind is allowed.kind_of(name)
    value = garbled(rng, rng.choice([b"a", b"user:pw@host", b"realtime, openai-insecure-api-key.K", b"keep-alive"]), 2)
    going = allowed.forwarded_part(kind, (name, value))
    if going is not None and kind is FieldKind.SUBPROTOCOL:
        assert b"openai-insecure-api-key" not in going[1]


_CONFIG = f"""
mode = "enforce"
[[providers]]
name = "a"
dialect = "openai"
base_url = "https://a.test/v1?api-version=1"
api_key = "{KEY.decode()}"
models = {{ "gpt-4o" = "my" }}
only = ["gpt-*"]
headers = {{ "X-Team" = "${{TEAM}}" }}
weight = 1.5
[[providers]]
name = "b"
base_urls = {{ openai = "http://127.0.0.1:9/v1", anthropic = "https://b.test" }}
api_key = "${{B_KEY}}"
[[routes]]
intercept = ["https://api.openai.com/v1"]
providers = ["a", "b"]
strategy = "weighted"
[circuit]
failure_threshold = 3
[timeouts]
idle = 60.5
[proxy]
allow_clients = ["10.0.0.0/8"]
hosts = ["me.test"]
"""


def configs(rng: random.Random) -> None:
    """A file is read, or everything wrong with it is told, without a key."""
    text = garbled(rng, _CONFIG.encode(), 6).decode("utf-8", "replace")
    try:
        found = reading.parse(text, {"TEAM": "t", "B_KEY": KEY.decode()})
    except ConfigError as e:
        wrong = str(e)
    else:
        wrong = "\n".join([repr(found), *reading.describe(found), *reading.hosts(found)])
    assert KEY.decode() not in wrong


def addresses(rng: random.Random) -> None:
    """A base URL has one meaning, and no path leads out of it."""
    text = garbled(rng, rng.choice([b"https://a.test/v1", b"http://[::1]:80/x?y=1", b"https://b\xc3\xbccher.test/"]), 3)
    try:
        base = BaseURL.parse(text.decode("utf-8", "replace"))
    except ValueError:
        return
    assert 0 < base.port < 65536
    assert "@" not in str(base)
    assert str(BaseURL.parse(str(base))) == str(base)
    tail = base.tail_of(
        base.scheme, base.host, base.port, base.path + garbled(rng, b"/chat/completions").decode("latin-1")
    )
    assert tail is None or base.join(tail).startswith(base.path + "/")
    base.merged("a=1&api-version=2")


ROOMS: dict[str, Room] = {
    room.__name__: room
    for room in (
        *(requests, seals, answers, streams, scanners, decoding, watches, leaks, limits, frames, forwarding),
        *(configs, addresses),
    )
}
