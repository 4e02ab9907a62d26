"""What people have reported of providers and of gateways before them, as kinds: in every API in which the form differs,
whole and streamed, all of them behind one proxy.

A raw client asks: what is counted, and what an app gets to see, must be right byte for byte.
"""

from __future__ import annotations

import gzip
import itertools
import json
import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import brotli  # type: ignore[import-untyped]
import pytest

from support.calls import APIS, Result
from support.encodings import zstd
from support.rawreading import Reading
from support.recipes import STREAM_TYPE, WHOLE_TYPE, WIRES, Act, Part, Recipe, Step, plain
from support.reports import Ask, Reports, Row, before, behind_one_proxy, changed, encoded, event, good, holding, told

FORMS = [(api, stream) for api in APIS for stream in (False, True)]
IMPATIENT = "timeouts = { first_byte = 2, headers = 2, first_content = 2, idle = 2 }\n"
TWICE = (Ask(),) * 2
THRICE = (Ask(),) * 3
COMPLETE = 'stream = { commit = "complete" }\n'


def _with_stand_in(name: str, recipe: Recipe, **more: Any) -> Row:
    return Row(name, recipe, (good(recipe),), **more)


def _down(recipe: Recipe) -> Recipe:
    return replace(holding(recipe.api, recipe.stream, {"error": {"message": "down"}}, status=503), wire=recipe.wire)


# --- an error about the request itself, told inside a 200

ABOUT_THE_REQUEST: dict[str, list[dict[str, Any]]] = {
    "chat": [
        {
            "message": "The prompt was filtered by our content management policy.",
            "code": "content_filter",
            "param": None,
        },
        {"message": "You asked for 140000 tokens: the maximum context length is 131072.", "code": 400},
        {"message": "Invalid 'tools[0].function.name'", "type": "invalid_request_error", "code": "invalid_value"},
        {"message": "Content violates usage guidelines.", "code": "a code of its own"},
    ],
    "responses": [
        {"code": "invalid_prompt", "message": "Your prompt was flagged as potentially violating our usage policy."},
        {"code": "context_length_exceeded", "message": "The conversation is too long for this model."},
        {"code": "image_content_policy_violation", "message": "This image cannot be shown."},
    ],
    "messages": [
        {"type": "invalid_request_error", "message": "Output blocked by content filtering policy"},
        {"type": "invalid_request_error", "message": "messages.3: `tool_use` ids were found without `tool_result`"},
        {"type": "request_too_large", "message": "Request exceeds the maximum size"},
    ],
    "gemini": [
        {"code": 400, "message": "The input token count exceeds the maximum number", "status": "INVALID_ARGUMENT"},
        {"code": 400, "message": "Request contains an invalid argument.", "status": "INVALID_ARGUMENT"},
        {"code": 404, "message": "models/none is not found for API version v1beta", "status": "NOT_FOUND"},
    ],
}
"""For each API a refusal by policy, a request that is too long, and one that is wrong; of Gemini's policy below."""


def _refused() -> Iterator[Row]:
    for api, errors in ABOUT_THE_REQUEST.items():
        for number, error in enumerate(errors):
            yield _with_stand_in(f"error {number}", told(api, False, error), asks=THRICE)
            yield _with_stand_in(f"error {number} at once", told(api, True, error), asks=THRICE)
            yield _with_stand_in(f"error {number} after signs of life", told(api, True, error, late=True), asks=THRICE)
            held = told(api, True, error, late=True)
            yield _with_stand_in(f"error {number}, held to its end", held, extra=COMPLETE, asks=THRICE)
            spoken = told(api, True, error, after=True)
            yield _with_stand_in(f"error {number} after its first word", spoken, asks=THRICE)
            yield _with_stand_in(f"error {number} after its first word, held", spoken, extra=COMPLETE, asks=THRICE)
    blocked = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 9}}
    for stream in (False, True):
        yield _with_stand_in("prompt blocked", holding("gemini", stream, blocked), asks=THRICE)
    top = {"type": "error", "code": "invalid_prompt", "message": "It violates our policy.", "param": None}
    yield _with_stand_in("error event", holding("responses", True, *before("responses"), top), asks=THRICE)
    # Without `alt=sse` a stream is an array.
    array = holding("gemini", True, encoded([{"error": ABOUT_THE_REQUEST["gemini"][0]}]))
    array.content_type = WHOLE_TYPE
    yield _with_stand_in("array", array, asks=(Ask(path="/v1beta/models/gemini-2.5-pro:streamGenerateContent"),) * 3)
    for wire in WIRES[1:]:
        over = told("responses", True, ABOUT_THE_REQUEST["responses"][0], late=True)
        yield _with_stand_in(wire, replace(over, wire=wire), asks=THRICE)


# --- JSON that the SDKs read, though it is none

LITERALS = ("NaN", "Infinity", "-Infinity")


def _put_first(text: bytes, data: bytes) -> bytes:
    return data.replace(b"{", text, 1)


def _lenient() -> Iterator[Row]:
    for (api, stream), literal in itertools.product(FORMS, LITERALS):
        text = b'{"avg_logprobs": [' + literal.encode() + b"], "
        yield _with_stand_in(literal, changed(api, stream, partial(_put_first, text)))
    vectors = b'{"object": "list", "model": "m", "data": [{"object": "embedding", "index": 0, "embedding": [NaN, 1]}]}'
    body = b'{"model": "m", "input": "hi"}'
    yield _with_stand_in("embedding", holding("chat", False, vectors), asks=(Ask(body, "/embeddings"),))


# --- what could be a stream, or a whole answer, under another type; and what is large


def _unusual() -> Iterator[Row]:
    types = (None, "", "text/json", "text/event_stream", "application/octet-stream", "application/vnd.x+json", "x")
    for (api, stream), kind in itertools.product(FORMS, types):
        recipe = plain(api, stream=stream)
        recipe.content_type = kind
        yield _with_stand_in(f"type {kind}", recipe)
    picture = "A" * 20_000_000
    image: dict[str, Any] = {"inlineData": {"mimeType": "image/png", "data": picture}}
    spoken = {"candidates": [{"content": {"role": "model", "parts": [image]}, "finishReason": "STOP", "index": 0}]}
    for stream in (False, True):
        yield _with_stand_in("picture of 20 MB", holding("gemini", stream, spoken))
    for kind in ("image_generation.partial_image", "image_generation.completed"):
        shown = {"type": kind, "b64_json": picture, "partial_image_index": 0}
        last = {"type": "image_generation.completed", "b64_json": "AAAA"}
        drawn = holding("responses", True, shown, last)
        ask = b'{"model": "gpt-image-1", "prompt": "a cat", "stream": true}'
        yield _with_stand_in(f"{kind} of 20 MB", drawn, asks=(Ask(ask, "/images/generations"),))
    partial = {"type": "response.image_generation_call.partial_image", "partial_image_b64": picture}
    made = plain("responses", stream=True)
    made.parts[3:3] = [Part(event("responses", partial))]
    yield _with_stand_in("picture of 20 MB", made)


# --- framing


def _with_broken_event(api: str, at: int) -> Recipe:
    """A good stream amid which comes an event that no SDK could read."""
    recipe = plain(api, stream=True)
    first = next(i for i, p in enumerate(recipe.parts) if p.content)
    broken = recipe.grammar.malformed()
    recipe.parts.insert(first + at, Part(broken, broken=True))
    return recipe


def _framed() -> Iterator[Row]:
    encodings = ("", "gzip", "deflate", "br", "zstd")
    for api, framing, encoding in itertools.product(APIS, ("length", "chunked", "close"), encodings):
        for extra in ("", COMPLETE):
            if framing != "length" and (encoding not in ("", "br") or extra):
                continue
            recipe = _with_broken_event(api, at=2)
            recipe.framing, recipe.encoding = framing, encoding
            name = f"{framing} {encoding or 'plain'}{' held to its end' if extra else ''}"
            yield _with_stand_in(name, recipe, extra=extra)


def _with_trailers() -> Iterator[Row]:
    for (api, stream), wire in itertools.product(FORMS, WIRES[:2]):
        recipe = plain(api, stream=stream)
        recipe.framing, recipe.wire = "trailers", wire
        yield _with_stand_in(f"trailers {wire}", recipe, asks=TWICE)
        if api == "chat":
            pressed = replace(recipe, encoding="gzip")
            yield _with_stand_in(f"trailers {wire} gzip", pressed, asks=TWICE)
            if stream:
                yield _with_stand_in(
                    f"trailers {wire} gzip, held to its end", replace(pressed), extra=COMPLETE, asks=TWICE
                )


def _half_a_call() -> Iterator[Row]:
    """A tool call, one piece of whose arguments nobody can read."""
    function = {"name": "remove", "arguments": '{"path": "/a'}
    opening: dict[str, Any] = {"tool_calls": [{"index": 0, "id": "t1", "type": "function", "function": function}]}
    closing: dict[str, Any] = {"tool_calls": [{"index": 0, "function": {"arguments": '"}'}}]}

    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}

    chat: list[Any] = [
        chunk(opening),
        b"data: {not json\n\n",
        chunk(closing),
        chunk({}, "tool_calls"),
        b"data: [DONE]\n\n",
    ]
    tool: dict[str, Any] = {"type": "function_call", "id": "fc_1", "call_id": "t1", "name": "remove", "arguments": ""}
    delta: dict[str, Any] = {"type": "response.function_call_arguments.delta", "item_id": "fc_1", "output_index": 0}
    responses: list[Any] = [
        {"type": "response.output_item.added", "output_index": 0, "item": tool},
        {**delta, "delta": '{"path": "/a'},
        b'event: response.function_call_arguments.delta\ndata: {"type": "resp\n\n',
        {**delta, "delta": '"}'},
        *(p.data for p in plain("responses", stream=True).parts[-2:]),
    ]
    block: dict[str, Any] = {"type": "tool_use", "id": "t1", "name": "remove", "input": {}}
    piece: dict[str, Any] = {"type": "content_block_delta", "index": 0}
    messages: list[Any] = [
        plain("messages", stream=True).parts[0].data,
        {"type": "content_block_start", "index": 0, "content_block": block},
        {**piece, "delta": {"type": "input_json_delta", "partial_json": '{"path": "/a'}},
        b'event: content_block_delta\ndata: {"type": "content_block_delta", "ind\n\n',
        {**piece, "delta": {"type": "input_json_delta", "partial_json": '"}'}},
        *(p.data for p in plain("messages", stream=True).parts[-3:]),
    ]
    for api, pieces in (("chat", chat), ("responses", responses), ("messages", messages)):
        for framing, slowly, encoding in itertools.product(("chunked", "length"), (False, True), ("", "gzip")):
            recipe = holding(api, True, *pieces)
            recipe.framing, recipe.encoding = framing, encoding
            if slowly:
                recipe.parts = [replace(p, wait=0.05) for p in recipe.parts]
            name = f"{framing}{' slowly' if slowly else ''}{f' in {encoding}' if encoding else ''}"
            yield _with_stand_in(name, recipe)


# --- the other form than the one that was asked for


def _other_form() -> Iterator[Row]:
    for api, stream in FORMS:
        recipe = plain(api, stream=not stream)
        recipe.stream, stand_in = stream, good(plain(api, stream=stream))
        if api == "gemini" and stream:
            continue  # one object in place of a stream is what its SDK reads
        yield Row("other form", recipe, (stand_in,))


def _other_form_alone() -> Iterator[Row]:
    for row in _other_form():
        yield replace(row, others=())


# --- a frame of an answer with nothing in it


def _hollow_bodies() -> Iterator[tuple[str, bool, Any]]:
    chat = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
    nothing = {"prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 9}
    stop: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}
    frames: list[Any] = [[], {}, "", [{}], [[]], [{**stop, "message": []}], [{**stop, "finish_reason": None}]]
    for choices in frames:
        yield "chat", False, {**chat, "choices": choices}
    yield "chat", False, {**chat, "choices": [stop], "usage": nothing}
    yield "chat", False, {**chat, "choices": [{**stop, "finish_reason": "tool_calls"}]}
    parts = {**stop, "message": {"role": "assistant", "content": [{"type": "text", "text": ""}]}}
    yield "chat", False, {**chat, "choices": [parts], "usage": nothing}
    unwell = {"status_code": 1000, "status_msg": "unknown error"}
    yield "chat", False, {**chat, "choices": [stop], "base_resp": unwell}
    for body in (b"{}", b"null", b"[]", b'""', b"  \n", b"<!doctype html><p>sign in", {"success": False, "data": None}):
        for api in APIS:
            yield api, False, body
    response = plain("responses", stream=False).grammar.whole()
    yield "responses", False, {**response, "output": [], "usage": None}
    yield "responses", False, {k: v for k, v in response.items() if k != "output"}
    no_tokens = {"input_tokens": 9, "output_tokens": 0, "total_tokens": 9}
    part = {"type": "output_text", "text": "", "annotations": []}
    mute: dict[str, Any] = {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": []}
    thoughtless = {"type": "reasoning", "id": "rs_1", "summary": []}
    for item in (mute, {**mute, "content": [part]}, thoughtless):
        yield "responses", False, {**response, "output": [item], "usage": no_tokens}
    yield "responses", False, {**response, "output": [None]}
    yield "responses", False, {**response, "output": [{}]}
    message = plain("messages", stream=False).grammar.whole()
    none_made = {"input_tokens": 9, "output_tokens": 0}
    for content, stop_reason in (
        ([], "end_turn"),
        ([{"type": "text", "text": ""}], "end_turn"),
        ([{}], "end_turn"),
        ([], "tool_use"),
        ({}, None),
        ("", None),
    ):
        yield "messages", False, {**message, "content": content, "stop_reason": stop_reason, "usage": none_made}
    counts = {"promptTokenCount": 9, "totalTokenCount": 9}
    none_said: list[Any] = [[], None, [{}], [{"index": 0}], [{"content": {"role": "model"}, "finishReason": "STOP"}]]
    for candidates in none_said:
        yield "gemini", False, {"candidates": candidates, "usageMetadata": counts}
    # Streams
    for data in (b"data: [DONE]\n\n", b": bye\n\n", b"data: {}\n\n", b"data: null\n\n", b""):
        for api in APIS:
            yield api, True, [data]
    chunk = {**chat, "object": "chat.completion.chunk"}
    end = {"index": 0, "delta": {}, "finish_reason": "stop"}
    yield "chat", True, [*before("chat"), {**chunk, "choices": [end], "usage": nothing}, b"data: [DONE]\n\n"]
    yield "chat", True, [*before("chat"), {**chunk, "choices": [], "usage": nothing}, b"data: [DONE]\n\n"]
    called = {**end, "finish_reason": "tool_calls"}
    yield "chat", True, [*before("chat"), {**chunk, "choices": [called]}, b"data: [DONE]\n\n"]
    yield "chat", True, [*before("chat"), {**chunk, "choices": [end], "base_resp": unwell}]
    done = {"type": "response.completed", "sequence_number": 9, "response": {**response, "output": [], "usage": None}}
    yield "responses", True, [*before("responses"), done]
    said = [
        {"type": "response.output_text.done", "item_id": "msg_1", "text": ""},
        {"type": "response.content_part.done", "item_id": "msg_1", "part": part},
        {"type": "response.output_item.done", "item": {**mute, "content": [part]}},
    ]
    whole = {**response, "output": [{**mute, "content": [part]}], "usage": no_tokens}
    yield "responses", True, [*before("responses"), *said, {"type": "response.completed", "response": whole}]
    yield "messages", True, [*before("messages"), {"type": "message_stop"}]
    over = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 0}}
    yield "messages", True, [*before("messages"), over, {"type": "message_stop"}]
    empty: dict[str, Any] = {
        "candidates": [{"content": {"role": "model", "parts": [{"text": ""}]}, "finishReason": "STOP"}]
    }
    yield "gemini", True, [{**empty, "usageMetadata": counts}]
    yield "gemini", True, [b"[]"]


_CAT = b'{"model": "gpt-image-1", "prompt": "a cat"}'
_INPUT = b'{"model": "m", "input": "hi"}'
_TO_COUNT = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}'
_AT = "/v1beta/models/m:"
OTHERS: dict[str, tuple[str, Ask, Any, list[Any]]] = {
    "embeddings": (
        "chat",
        Ask(_INPUT, "/embeddings"),
        {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}]},
        [
            {"data": []},
            {"data": None},
            {"data": [{"object": "embedding", "index": 0, "embedding": []}]},
            {"data": [None]},
        ],
    ),
    "images": (
        "chat",
        Ask(_CAT, "/images/generations"),
        {"created": 1, "data": [{"b64_json": "AAAA"}]},
        [{"created": 1, "data": [{}]}, {"data": [{"b64_json": "", "url": None, "revised_prompt": "a cat"}]}],
    ),
    "moderations": (
        "chat",
        Ask(_INPUT, "/moderations"),
        {"results": [{"flagged": False}]},
        [{"results": []}, {"results": [{}]}],
    ),
    "input_tokens": ("chat", Ask(_INPUT, "/responses/input_tokens"), {"input_tokens": 3}, [{"input_tokens": None}]),
    "count_tokens": (
        "messages",
        Ask(_TO_COUNT, "/v1/messages/count_tokens"),
        {"input_tokens": 3},
        [{"input_tokens": None}],
    ),
    "embedContent": (
        "gemini",
        Ask(b'{"content": {"parts": [{"text": "hi"}]}}', f"{_AT}embedContent"),
        {"embedding": {"values": [0.5]}},
        [{"embedding": {}}, {"embedding": {"values": []}}],
    ),
    "batchEmbedContents": (
        "gemini",
        Ask(b'{"requests": []}', f"{_AT}batchEmbedContents"),
        {"embeddings": [{"values": [0.5]}]},
        [{"embeddings": []}, {"embeddings": [{}]}],
    ),
    "countTokens": ("gemini", Ask(b'{"contents": []}', f"{_AT}countTokens"), {"totalTokens": 3}, []),
}
"""Of other operations: what is asked, a good answer, and frames of one with nothing in them."""


def _hollow() -> Iterator[Row]:
    for number, (api, stream, body) in enumerate(_hollow_bodies()):
        recipe = holding(api, stream, *(body if stream else [body]))
        yield _with_stand_in(f"hollow {number}", recipe)
    for operation, (api, ask, good_answer, frames) in OTHERS.items():
        for number, data in enumerate((*frames, {}, b"", b"<html>sign in")):
            recipe, stand_in = holding(api, False, data), holding(api, False, good_answer)
            yield Row(f"{operation} {number}", recipe, (stand_in,), asks=(ask,))
    for api, pieces in (("chat", [b"data: [DONE]\n\n"]), ("messages", [{"type": "message_stop"}])):
        yield _with_stand_in("held to its end", holding(api, True, *before(api), *pieces), extra=COMPLETE)


def _hollow_alone() -> Iterator[Row]:
    return (replace(row, others=()) for row in _hollow())


# --- a reason for the end that says that the provider has broken down

REASONS = {
    "chat": ("network_error", "abort", "error", "insufficient_system_resource", "server_error"),
    "messages": ("error", "network_error", "abort"),
    "gemini": ("ERROR", "NETWORK_ERROR"),
}
_USUAL = {"chat": b'"stop"', "messages": b'"end_turn"', "gemini": b'"STOP"'}


def _put_reason(usual: bytes, word: bytes, data: bytes) -> bytes:
    return data.replace(usual, word)


def _broken_down(*, content: bool) -> Iterator[Row]:
    for api, reasons in REASONS.items():
        for reason, stream in itertools.product(reasons, (False, True)):
            if content and not stream:
                continue
            word = json.dumps(reason).encode()
            recipe = changed(api, stream, partial(_put_reason, _USUAL[api], word))
            if not content and stream:
                last = next(p for p in recipe.parts if word in p.data)
                recipe.parts = [p for p in recipe.parts if not p.content or p is last]
                if api == "gemini":
                    recipe.parts = [Part(event(api, {"candidates": [{"finishReason": reason, "index": 0}]}))]
            if api == "gemini":
                recipe.text = recipe.text.rpartition(" ")[0]  # its last word comes with the reason
            yield _with_stand_in(reason, recipe)
    server = {"code": "server_error", "message": "An error occurred while processing your request."}
    if content:
        late = told("responses", True, server)
        late.parts = [*plain("responses", stream=True).parts[:7], *late.parts]
        late.text = "A w1 w2"
        yield _with_stand_in("failed", late)
        return
    for stream in (False, True):
        yield _with_stand_in("failed", told("responses", stream, server, late=stream))


# --- accounts that are spent or barred, and limits, told in other ways

SPENT: list[tuple[str, int, dict[str, Any]]] = [
    ("chat", 400, {"message": "Your account balance is insufficient", "type": "invalid_request_error"}),
    ("chat", 403, {"message": "This team has been suspended.", "code": "permission_denied"}),
    ("chat", 200, {"message": "Insufficient credits. Add more at the console.", "code": 402}),
    ("responses", 200, {"code": "insufficient_quota", "message": "You exceeded your current quota."}),
    ("responses", 403, {"message": "Your organization was deactivated.", "type": "invalid_request_error"}),
    ("messages", 400, {"type": "invalid_request_error", "message": "Your credit balance is too low to use the API."}),
    ("messages", 200, {"type": "billing_error", "message": "Payment is required."}),
    (
        "gemini",
        403,
        {"code": 403, "message": "This API requires billing to be enabled.", "status": "PERMISSION_DENIED"},
    ),
    ("gemini", 200, {"code": 400, "message": "User location is not supported", "status": "FAILED_PRECONDITION"}),
]
LIMITED: list[tuple[str, dict[str, Any], float]] = [
    ("chat", {"message": "Rate limit reached. Please try again in 40s.", "code": "rate_limit_exceeded"}, 40),
    ("responses", {"code": "rate_limit_exceeded", "message": "Please try again in 1m10s."}, 70),
    ("messages", {"type": "rate_limit_error", "message": "Too many requests, retry after 40 seconds."}, 40),
    ("gemini", {"code": 429, "message": "Please retry in 40s.", "status": "RESOURCE_EXHAUSTED"}, 40),
]


def _failing(api: str, stream: bool, status: int, error: dict[str, Any]) -> Recipe:
    if status < 400:
        return told(api, stream, error, late=stream)
    return holding(
        api, stream, {"type": "error", "error": error} if api == "messages" else {"error": error}, status=status
    )


def _spent() -> Iterator[Row]:
    for (number, (api, status, error)), stream in itertools.product(enumerate(SPENT), (False, True)):
        yield _with_stand_in(f"account {number} told in {status}", _failing(api, stream, status, error))


def _limited() -> Iterator[Row]:
    for (api, error, seconds), stream in itertools.product(LIMITED, (False, True)):
        yield _with_stand_in(f"limit of {seconds} s", _failing(api, stream, 200, error))


# --- failures of a provider behind an aggregator, told in a 4xx

RELAYED: list[tuple[str, int, Any]] = [
    ("chat", 400, {"error": {"message": "Provider returned error", "code": 502, "metadata": {"raw": "bad gateway"}}}),
    (
        "chat",
        400,
        {"error": {"message": "Provider returned error", "metadata": {"raw": "ERROR", "provider_name": "X"}}},
    ),
    ("chat", 404, {"error": {"message": "upstream returned status code 503", "type": "upstream_error"}}),
    ("chat", 422, {"error": {"message": "litellm.InternalServerError: OpenAIException - Connection error."}}),
    ("responses", 400, {"error": {"message": "The server had an error while processing your request."}}),
    ("messages", 400, {"type": "error", "error": {"type": "upstream_error", "message": "error code: 529 overloaded"}}),
    ("messages", 403, {"error": {"message": "upstream service temporarily unavailable", "type": "new_api_error"}}),
    ("gemini", 400, {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}),
    ("gemini", 400, {"error": {"code": 400, "message": "Deadline expired.", "status": "DEADLINE_EXCEEDED"}}),
    ("chat", 401, {"error": {"message": "litellm.ServiceUnavailableError: upstream is down", "code": "401"}}),
    ("chat", 410, {"error": "Request timed out"}),
    ("chat", 498, {"error": {"message": "Flex tier capacity exceeded", "code": "capacity_exceeded"}}),
    ("responses", 400, {"error": {"message": "status_code=500, do request failed", "type": "new_api_error"}}),
    ("messages", 400, {"__type": "ServiceUnavailableException", "message": "Unable to process your request."}),
]


def _relayed() -> Iterator[Row]:
    for (number, (api, status, body)), stream in itertools.product(enumerate(RELAYED), (False, True)):
        yield _with_stand_in(f"relayed {number} in {status}", holding(api, stream, body, status=status))


# --- what a stand-in does not have

LACKING: list[tuple[str, int, Any]] = [
    ("responses", 404, b"<html>nginx</html>"),
    ("responses", 404, {"error": "no handler for this route"}),
    (
        "chat",
        422,
        {"detail": [{"type": "extra_forbidden", "loc": ["body", "store"], "msg": "Extra inputs are not permitted"}]},
    ),
    ("chat", 400, {"error": {"message": 'json: unknown field "reasoning_effort"'}}),
    ("chat", 415, {"error": {"message": "Unsupported Media Type"}}),
    ("chat", 404, {"error": {"message": "No endpoints found that support image input", "code": 404}}),
    ("chat", 400, {"error": {"message": "Model does not support function calling", "code": 20037}}),
    (
        "messages",
        400,
        {
            "type": "error",
            "error": {"type": "invalid_request_error", "message": "thinking.type: adaptive is not supported"},
        },
    ),
    ("messages", 404, {"type": "error", "error": {"type": "not_found_error", "message": "model: claude-opus-4-8"}}),
    (
        "messages",
        413,
        {"type": "error", "error": {"type": "request_too_large", "message": "Request exceeds the maximum size"}},
    ),
    (
        "gemini",
        404,
        {"error": {"code": 404, "message": "models/x is not found for API version v1beta", "status": "NOT_FOUND"}},
    ),
    (
        "gemini",
        400,
        {
            "error": {
                "code": 400,
                "message": 'Unknown name "thinkingConfig": Cannot find field.',
                "status": "INVALID_ARGUMENT",
            }
        },
    ),
]


def _lacking() -> Iterator[Row]:
    for (number, (api, status, body)), stream in itertools.product(enumerate(LACKING), (False, True)):
        own = plain(api, stream=stream)
        row = Row(
            f"lacks {number} told in {status}", _down(own), (holding(api, stream, body, status=status), good(own, "C"))
        )
        yield row
    for api, error in (
        ("chat", {"message": "This model does not support tools", "code": 400}),
        ("responses", {"code": "unsupported_parameter", "message": "Unsupported parameter: 'store'"}),
        ("messages", {"type": "not_found_error", "message": "model: claude-opus-4-8"}),
        ("gemini", {"code": 404, "message": "models/x is not found", "status": "NOT_FOUND"}),
    ):
        for stream in (False, True):
            own = plain(api, stream=stream)
            yield Row("lacks, told in a 200", _down(own), (told(api, stream, error), good(own, "C")))


# --- heads

HEADS: list[tuple[str, bytes, bytes]] = [
    ("a NUL in a value", b"HTTP/1.1 200 OK", b"x-a: 1\x002\r\n"),
    ("a bare CR in a value", b"HTTP/1.1 200 OK", b"x-a: 1\r2\r\n"),
    ("a control character in a value", b"HTTP/1.1 200 OK", b"x-a: 1\x012\r\n"),
    ("letters beyond ASCII in a value", b"HTTP/1.1 200 OK", "x-a: é\r\n".encode()),
    ("letters beyond ASCII in a name", b"HTTP/1.1 200 OK", "x-é: 1\r\n".encode()),
    ("brackets in a name", b"HTTP/1.1 200 OK", b"x(a): 1\r\n"),
    ("a line without a colon", b"HTTP/1.1 200 OK", b"nonsense\r\n"),
    ("a folded line", b"HTTP/1.1 200 OK", b"x-a: 1\r\n 2\r\n"),
    ("a folded first line", b"HTTP/1.1 200 OK\r\n x", b""),
    ("a length that is negative", b"HTTP/1.1 200 OK", b"content-length: -5\r\n"),
    ("a length that is no number", b"HTTP/1.1 200 OK", b"content-length: many\r\n"),
    ("a length with a sign", b"HTTP/1.1 200 OK", b"content-length: +5\r\n"),
    ("a transfer encoding that is none", b"HTTP/1.1 200 OK", b"transfer-encoding: banana\r\n"),
    ("gzip as transfer encoding", b"HTTP/1.1 200 OK", b"transfer-encoding: gzip, chunked\r\n"),
    ("no reason", b"HTTP/1.1 200", b""),
    ("an odd reason", "HTTP/1.1 200 Très bien".encode("latin-1"), b""),
    ("another protocol", b"ICY 200 OK", b""),
    ("another version", b"HTTP/2 200 OK", b""),
    ("a version from the future", b"HTTP/3.7 200 OK", b""),
    ("a small version", b"HTTP/1.0 200 OK", b""),
    ("lower case", b"http/1.1 200 ok", b""),
    ("a status that is a word", b"HTTP/1.1 OK", b""),
    ("a status of two digits", b"HTTP/1.1 99 Low", b""),
    ("a status beyond 600", b"HTTP/1.1 999 Denied", b""),
    ("no status line", b"", b""),
    ("something else", b"220 mail.test ESMTP", b""),
    ("a long value", b"HTTP/1.1 200 OK", b"x-a: " + b"y" * 200_000 + b"\r\n"),
    ("two types", b"HTTP/1.1 200 OK", b"content-type: text/plain\r\n"),
]


def _headed() -> Iterator[Row]:
    for (api, stream), (name, line, more) in itertools.product((("chat", False), ("messages", True)), HEADS):
        recipe = plain(api, stream=stream)
        body = b"".join(p.data for p in recipe.parts)
        head = line + b"\r\ncontent-type: " + (STREAM_TYPE if stream else WHOLE_TYPE).encode() + b"\r\n"
        own_framing = b"length" in more or b"transfer" in more or line.startswith(b"HTTP/1.0")
        head += more + (b"" if own_framing else b"content-length: %d\r\n" % len(body)) + b"\r\n"
        steps: list[Step] = [head, body, Act.CLOSE]
        recipe.instead = steps
        yield _with_stand_in(name, recipe, extra=IMPATIENT)


# --- compressed requests

COMPRESS = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstd.compress,
}


def _compressed_requests() -> Iterator[Row]:
    for api, encoding in itertools.product(APIS, COMPRESS):
        own = plain(api, stream=True)
        fields = (("Content-Encoding", encoding),)
        body = COMPRESS[encoding](own.request())
        mapped = 'models = { "*" = "x-*" }\n'
        yield Row(encoding, _down(own), (good(own),), asks=(Ask(body, headers=fields),))
        yield Row(
            f"{encoding}, mapped", _down(own), (good(own),), asks=(Ask(body, headers=fields),), others_extra=mapped
        )


def _compressed_to_its_own() -> Iterator[Row]:
    for api, encoding in itertools.product(APIS, COMPRESS):
        own = plain(api, stream=True)
        ask = Ask(COMPRESS[encoding](own.request()), headers=(("Content-Encoding", encoding),))
        yield Row(encoding, own, asks=(ask,))


# --- limits that name less than the provider

APART = ("another model", "another operation", "another key", "nothing else")
"""What tells the call that was limited from the next one."""
_SECOND = Ask(headers=(("X-Turn", "1"),))
_OTHER_PATH = {
    "chat": "/embeddings",
    "responses": "/embeddings",
    "messages": "/v1/messages/count_tokens",
    "gemini": "/v1beta/models/gemini-2.5-pro:countTokens",
}


def _limited_apart() -> Iterator[Row]:
    for (api, stream), apart, others in itertools.product(FORMS, APART, (True, False)):
        recipe = plain(api, stream=stream)
        recipe.earlier = _failing(api, stream, 429, {"message": "Too many requests", "type": "rate_limit_error"})
        recipe.earlier.headers.append(("Retry-After", "60"))
        first = Ask(headers=(("X-Turn", "0"),))
        match apart:
            case "another model":
                body = recipe.request().replace(b"gpt-4o", b"gpt-5").replace(b"opus", b"sonnet")
                first = replace(first, body=body, path=recipe.path.replace("pro", "flash"))
            case "another operation":
                first = replace(first, path=_OTHER_PATH[api])
            case "another key":
                first = replace(first, key="sk-another-app")
        yield Row(apart, recipe, (good(recipe),) if others else (), asks=(first, _SECOND))
    for api, stream in FORMS[:4]:
        recipe = plain(api, stream=stream)
        too_much = "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 45000."
        recipe.earlier = _failing(api, stream, 429, {"message": too_much, "code": "rate_limit_exceeded"})
        yield Row("a smaller request", recipe, (good(recipe),), asks=(Ask(headers=(("X-Turn", "0"),)), _SECOND))


KINDS = {
    "limited apart": list(_limited_apart()),
    "refused": list(_refused()),
    "lenient": list(_lenient()),
    "unusual": list(_unusual()),
    "framed": list(_framed()),
    "trailers": list(_with_trailers()),
    "half a call": list(_half_a_call()),
    "other form": list(_other_form()),
    "other form alone": list(_other_form_alone()),
    "hollow": list(_hollow()),
    "hollow alone": list(_hollow_alone()),
    "broken down": list(_broken_down(content=False)),
    "broken down late": list(_broken_down(content=True)),
    "spent": list(_spent()),
    "limited": list(_limited()),
    "relayed": list(_relayed()),
    "lacking": list(_lacking()),
    "heads": list(_headed()),
    "compressed": list(_compressed_requests()),
    "compressed, own": list(_compressed_to_its_own()),
}


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reports]:
    folder = tmp_path_factory.mktemp("reports")
    attempts = {"backoff_seconds": 0.02, "per_provider": 1}
    with behind_one_proxy(folder, KINDS, attempts=attempts) as made:
        yield made


def of(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", KINDS[kind], ids=str)


def is_own(row: Row, got: Reading, status: int = 200) -> None:
    """The app has its own provider's answer, byte for byte."""
    assert (got.status, got.end, got.extra) == (status, "clean", b""), got
    assert got.header("x-sidestep-provider") == row.provider(0), got
    assert got.body == row.sent, got


def is_by(row: Row, got: Reading, at: int = 1) -> None:
    """The app has another provider's answer, byte for byte."""
    assert (got.status, got.end, got.extra) == (200, "clean", b""), got
    assert got.header("x-sidestep-provider") == row.provider(at), got
    assert got.body == b"".join(p.data for p in row.others[at - 1].parts), got


@of("refused")
def test_an_error_about_the_request_inside_a_200(row: Row, reports: Reports) -> None:
    """The provider's own words reach the app, nobody else is asked, and no circuit opens however often it comes."""
    for got in reports.readings(row):
        is_own(row, got)
    assert reports.asked(row, 1) == 0
    status = reports.status(row)
    assert (status["state"], status["failures"], status["cooldown"]) == ("closed", 0, None)


@of("lenient")
def test_numbers_that_are_no_json(row: Row, reports: Reports) -> None:
    """What the SDKs read goes on as it came, and is a success or at least no failure."""
    is_own(row, reports.readings(row)[0])
    assert (reports.status(row)["failures"], reports.asked(row, 1)) == (0, 0)


@of("unusual")
def test_unusual_types_and_sizes(row: Row, reports: Reports) -> None:
    """Whatever an answer calls itself, and however large one event is, it goes on as it came."""
    is_own(row, reports.readings(row)[0])
    assert (reports.status(row)["failures"], reports.asked(row, 1)) == (0, 0)


@of("framed")
def test_a_broken_event_leaves_the_framing_right(row: Row, reports: Reports) -> None:
    """Whatever the length was announced as, in whatever encoding: the message ends where it says, its words whole."""
    (got,) = reports.readings(row)
    assert (got.status, got.end, got.extra) == (200, "clean", b""), got
    assert got.header("x-sidestep-provider") == row.provider(0)
    body = _decoded(got)
    broken = next(p.data for p in row.recipe.parts if p.broken)
    if row.recipe.encoding and not row.extra:
        assert got.body == row.sent  # nothing can be left out of what is compressed
        return
    assert broken not in body
    kept = [p.data for p in row.recipe.parts if not p.broken]
    assert body.replace(b"\n" * len(broken), b"") == b"".join(kept)


def _decoded(got: Reading) -> bytes:
    match got.header("content-encoding"):
        case None:
            return got.body
        case "gzip":
            return gzip.decompress(got.body)
        case "deflate":
            return zlib.decompress(got.body)
        case "br":
            return bytes(brotli.decompress(got.body))
        case other:
            assert other == "zstd"
            return bytes(zstd.decompress(got.body))


@of("trailers")
def test_an_answer_with_trailers(row: Row, reports: Reports) -> None:
    """It reaches an HTTP/1 and an HTTP/2 app whole, and its connection serves on."""
    for got in reports.readings(row):
        assert (got.status, got.end, got.extra) == (200, "clean", b""), got
        assert _decoded(got) == b"".join(p.data for p in row.recipe.parts)
        assert got.header("x-sidestep-provider") == row.provider(0)
    status = reports.status(row)
    assert (status["failures"], status["successes"]) == (0, 2)


@of("half a call")
def test_half_a_tool_call_never_looks_complete(row: Row, reports: Reports) -> None:
    """Where a piece of its arguments is lost the stream ends in an error, or is cut where no error fits in."""
    (got,) = reports.readings(row)
    assert got.status == 200
    body = zlib.decompressobj(31).decompress(got.body) if row.recipe.encoding else got.body
    assert not any(word in body for word in (b'tool_calls"}', b"response.completed", b"message_stop"))
    if row.recipe.framing == "length" or row.recipe.encoding:
        assert got.end == "cut", got
    else:
        assert got.end == "clean", got
        assert b'"error"' in got.body.split(b"\n\n")[-2], got
    assert reports.status(row)["failures"] == 1


@of("other form")
def test_the_other_form_than_asked_for(row: Row, reports: Reports) -> None:
    """The next provider is asked, for the SDKs cannot read it; the first one is not blamed."""
    is_by(row, reports.readings(row)[0])
    assert reports.status(row)["failures"] == 0


@of("other form alone")
def test_the_other_form_is_better_than_none(row: Row, reports: Reports) -> None:
    """With nobody else left the app gets it as it came: some apps can read it."""
    is_own(row, reports.readings(row)[0])


@of("hollow")
def test_a_hollow_answer_is_none(row: Row, reports: Reports) -> None:
    """A frame with nothing in it is a failure, and the next provider answers."""
    is_by(row, reports.readings(row)[0])
    assert (reports.status(row)["failures"], reports.status(row)["successes"]) == (1, 0)


@of("hollow alone")
def test_a_hollow_answer_is_the_last_word(row: Row, reports: Reports) -> None:
    """With nobody else left the app gets it as it came."""
    is_own(row, reports.readings(row)[0])
    assert reports.status(row)["failures"] == 1


@of("broken down")
def test_an_end_that_says_that_the_provider_broke_down(row: Row, reports: Reports) -> None:
    """Before content, and in a whole answer, the next provider answers, and the first has failed."""
    is_by(row, reports.readings(row)[0])
    assert (reports.status(row)["failures"], reports.status(row)["successes"]) == (1, 0)


@of("broken down late")
def test_an_end_that_says_so_after_content(row: Row, reports: Reports) -> None:
    """The words that came stay, and the official SDK raises its own error."""
    result: Result = reports.call(row)
    assert result.error is not None
    assert result.text == row.recipe.text
    assert reports.m.settled()[row.provider(0)]["failures"] == 1


@of("spent")
def test_an_account_that_is_spent_or_barred(row: Row, reports: Reports) -> None:
    """Whatever status it is told with, the next provider answers; it is a cooldown and no failure."""
    is_by(row, reports.readings(row)[0])
    status = reports.status(row)
    assert (status["failures"], status["state"], status["cooldown"]["reason"]) == (0, "closed", "quota")


@of("limited")
def test_a_limit_told_inside_a_200(row: Row, reports: Reports) -> None:
    """It lasts as long as its words say."""
    is_by(row, reports.readings(row)[0])
    status = reports.status(row)
    wanted = next(seconds for api, _, seconds in LIMITED if api == row.api)
    assert status["failures"] == 0
    assert wanted - 15 < status["cooldown"]["seconds"] <= wanted


@of("limited apart")
def test_a_limit_moves_no_more_than_it_names(row: Row, reports: Reports) -> None:
    """Another model, operation or app's key, or less of it, is sent to the same provider at once. The same goes to the
    next one; with nobody else left it is sent all the same, for a limit never refuses."""
    first, then = reports.readings(row)
    limited = row.recipe.earlier
    assert limited is not None
    if not row.others:
        assert (first.status, first.body) == (429, b"".join(p.data for p in limited.parts)), first
    if row.others and row.name == "nothing else":
        is_by(row, then)
    else:
        is_own(row, then)
    assert (reports.status(row)["failures"], reports.status(row)["state"]) == (0, "closed")


@of("relayed")
def test_a_failure_behind_an_aggregator(row: Row, reports: Reports) -> None:
    """It is a failure, whatever 4xx wraps it, and the next provider answers."""
    is_by(row, reports.readings(row)[0])
    assert reports.status(row)["failures"] >= 1


@of("lacking")
def test_what_a_stand_in_lacks_the_third_provider_has(row: Row, reports: Reports) -> None:
    """The third answers; the second is neither blamed nor passed over for its other models."""
    is_by(row, reports.readings(row)[0], at=2)
    status = reports.status(row, 1)
    assert (status["state"], status["cooldown"]) == ("closed", None)
    assert status["failures"] == 0


@of("heads")
def test_odd_heads(row: Row, reports: Reports) -> None:
    """The app gets one whole good answer: of its own provider, or of the next; then the first has failed."""
    (got,) = reports.readings(row)
    assert (got.status, got.end, got.extra) in ((200, "clean", b""), (200, "cut", b"")), got
    own = got.header("x-sidestep-provider") == row.provider(0)
    assert got.body == b"".join(p.data for p in (row.recipe if own else row.others[0]).parts), got
    status = reports.status(row)
    assert (status["failures"], status["successes"]) == ((0, 1) if own else (1, 0)), got


@of("compressed")
def test_a_stand_in_gets_a_request_that_it_can_read(row: Row, reports: Reports) -> None:
    """The body is sent plain, with a length and without an encoding, and with the model that is called there."""
    is_by(row, reports.readings(row)[0])
    (seen,) = reports.seen(row, 1)
    assert seen.header("content-encoding") is None
    assert seen.header("content-length") == str(len(seen.body))
    wanted = json.loads(row.recipe.request())
    if "mapped" in row.name and row.api != "gemini":
        wanted["model"] = f"x-{wanted['model']}"
    assert seen.json == wanted


@of("compressed, own")
def test_the_own_provider_gets_the_request_as_it_was(row: Row, reports: Reports) -> None:
    """Byte for byte, in its encoding."""
    is_own(row, reports.readings(row)[0])
    (seen,) = reports.seen(row)
    assert (seen.body, seen.header("content-encoding")) == (row.asks[0].body, row.name)
