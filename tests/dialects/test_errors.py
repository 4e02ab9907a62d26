"""What errors say, in whatever shape: their kind and their message."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidestep.breaker.outcomes import NO_ERROR, ErrorFacts, ErrorKind
from sidestep.dialects.errors import facts_in

K = ErrorKind


def openrouter(raw: str) -> dict[str, Any]:
    """An aggregator hands on what the provider behind it said."""
    return {"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": raw}}}


def wrapped(times: int) -> Any:
    """An error inside so many others."""
    return {"message": "x"} if not times else {"error": wrapped(times - 1)}


SHAPES: list[tuple[int, Any, ErrorKind, str]] = [
    # Where the message stands.
    (400, {"error": {"message": "x"}}, K.INVALID, "x"),
    (400, {"error": "x"}, K.INVALID, "x"),
    (400, {"error": "x", "message": "y"}, K.INVALID, "y"),
    (400, {"error": {"detail": "x"}}, K.INVALID, "x"),
    (400, {"msg": "x"}, K.INVALID, "x"),
    (400, {"error_description": "x"}, K.INVALID, "x"),
    (400, {"base_resp": {"status_msg": "x"}}, K.INVALID, "x"),
    (400, {"errors": [{"message": "x"}, {"message": "y"}]}, K.INVALID, "x"),
    (400, {"errors": [], "message": "x"}, K.INVALID, "x"),
    (400, {"errors": "y", "message": "x"}, K.INVALID, "x"),
    (400, [{"error": {"message": "x"}}], K.INVALID, "x"),
    (400, {"detail": [{"msg": "x"}]}, K.INVALID, "x"),
    (400, {"error": {"message": '{"error": {"message": "x"}}'}}, K.INVALID, "x"),
    (400, {"error": {"message": " [5]"}}, K.NONE, ""),
    (400, {"error": {"message": "{x"}}, K.INVALID, "{x"),
    (400, wrapped(7), K.NONE, ""),
    (400, wrapped(6), K.INVALID, "x"),
    (400, {"message": "x" * 3000}, K.INVALID, "x" * 2_000),
    (400, [], K.NONE, ""),
    (400, 5, K.NONE, ""),
    (400, {}, K.NONE, ""),
    (400, "x", K.INVALID, "x"),
    # Codes: only words, and numbers of a provider's own.
    (0, {"code": "error", "type": "message"}, K.NONE, ""),
    (0, {"code": 429, "message": "x"}, K.RATE_LIMIT, "x"),
    (0, {"status": "401", "message": "x"}, K.SERVER, "x"),
    (0, {"code": "401", "message": "x"}, K.CREDENTIAL, "x"),
    (0, {"status_code": 400, "message": "x"}, K.INVALID, "x"),
    (0, {"code": 399, "message": "x"}, K.SERVER, "x"),
    (0, {"code": 600, "message": "x is required"}, K.INVALID, "x is required"),
    (0, {"code": 599, "message": "x is required"}, K.SERVER, "x is required"),
    (0, {"code": True}, K.NONE, ""),
    (0, {"code": 999}, K.NONE, ""),
    (0, {"code": 1000}, K.SERVER, ""),
    (0, {"code": 999_999}, K.SERVER, ""),
    (0, {"code": 1_000_000}, K.NONE, ""),
    (0, {"code": 1008, "message": "x"}, K.QUOTA, "x"),
    (0, {"code": 1302, "message": "x"}, K.RATE_LIMIT, "x"),
    (0, {"details": [5, {"reason": 5}, {"reason": "API_KEY_INVALID"}]}, K.CREDENTIAL, ""),
    (0, {"details": "API_KEY_INVALID"}, K.NONE, ""),
    (0, {"type": "x" * 100 + "rate_limit", "message": "x"}, K.SERVER, "x"),
    (0, {"code": "unknown_error", "message": "x is required"}, K.INVALID, "x is required"),
    (0, {"code": "some_error", "message": "x is required"}, K.SERVER, "x is required"),
    # What an aggregator hands on.
    (400, openrouter("ERROR"), K.RELAYED, "Provider returned error ERROR"),
    (400, openrouter(""), K.RELAYED, "Provider returned error"),
    (400, openrouter("a sentence"), K.INVALID, "Provider returned error a sentence"),
    (
        400,
        openrouter('{"error": {"type": "overloaded_error"}}'),
        K.RELAYED,
        'Provider returned error {"error": {"type": "overloaded_error"}}',
    ),
    (
        400,
        openrouter('{"code": "model_not_found"}'),
        K.UNKNOWN_MODEL,
        'Provider returned error {"code": "model_not_found"}',
    ),
    (0, openrouter('{"code": 429}'), K.RATE_LIMIT, 'Provider returned error {"code": 429}'),
    (400, openrouter('{"code": 502}'), K.RELAYED, 'Provider returned error {"code": 502}'),
    (400, {"message": "x", "metadata": {"raw": "is overdue"}}, K.QUOTA, "x is overdue"),
    (400, {"message": "x", "metadata": {"raw": 5}}, K.INVALID, "x"),
    (400, {"message": "x", "metadata": "is overdue"}, K.INVALID, "x"),
    (400, {"message": "x" * 200, "metadata": {"raw": "y"}}, K.INVALID, "x" * 200),
    (400, {"message": "x" * 199, "metadata": {"raw": "y"}}, K.INVALID, "x" * 199 + " y"),
    (400, {"code": 503, "message": "x"}, K.RELAYED, "x"),
    (400, {"code": 499, "message": "x"}, K.INVALID, "x"),
    (400, {"code": 500, "message": "x"}, K.RELAYED, "x"),
]


@pytest.mark.parametrize(("status", "body", "kind", "message"), SHAPES)
def test_shapes(status: int, body: Any, kind: ErrorKind, message: str) -> None:
    """The innermost message is the one that counts, with the codes found on the way to it."""
    expected = NO_ERROR if kind is K.NONE and not status else ErrorFacts(kind, message)
    assert facts_in(status, json.dumps(body).encode()) == expected


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, K.LACKS) for status in (404, 405, 406, 410, 411, 413, 414, 415, 416, 417, 426, 431, 451)),
        *((status, K.INVALID) for status in (400, 407, 412, 418, 422, 423, 430, 432, 450, 452, 499)),
        *((status, K.SERVER) for status in (500, 501, 502, 504, 505, 520, 528, 530, 599)),
        *((status, K.OVERLOADED) for status in (503, 529)),
        (401, K.CREDENTIAL),
        (402, K.QUOTA),
        (403, K.CREDENTIAL),
        (429, K.RATE_LIMIT),
        (600, K.INVALID),
    ],
)
def test_statuses(status: int, kind: ErrorKind) -> None:
    """Of an error in words that say nothing, its status decides."""
    assert facts_in(status, b'{"message": "x"}') == ErrorFacts(kind, "x")


WORDS: list[tuple[int, str, str, ErrorKind]] = [
    # Status, code, message. What holds for some statuses only:
    (400, "", "maximum context length", K.CONTEXT_TOO_LONG),
    (404, "", "maximum context length", K.LACKS),
    (404, "context_length_exceeded", "", K.CONTEXT_TOO_LONG),
    (409, "context_length_exceeded", "", K.INVALID),
    (404, "", "no such model", K.UNKNOWN_MODEL),
    (409, "", "no such model", K.INVALID),
    (400, "", "signature: extra inputs are not permitted", K.SEALED),
    (400, "encrypted_content", "", K.SEALED),
    (422, "", "signature: extra inputs are not permitted", K.LACKS),
    (400, "", "invalid api key", K.CREDENTIAL),
    (409, "", "invalid api key", K.INVALID),
    (409, "invalid_api_key", "", K.CREDENTIAL),
    (400, "rate_limit", "", K.RATE_LIMIT),
    (400, "", "rate limit", K.RATE_LIMIT),
    (403, "content_filter", "", K.INVALID),
    (403, "", "was flagged", K.INVALID),
    (403, "not_implemented", "", K.LACKS),
    (403, "", "unsupported", K.LACKS),
    (400, "upstream_x", "", K.RELAYED),
    (400, "server_error", "", K.INVALID),
    (400, "", "bad gateway", K.RELAYED),
    (500, "overloaded", "", K.OVERLOADED),
    (500, "", "insufficient funds", K.SERVER),
    (429, "insufficient_quota", "", K.QUOTA),
    (429, "", "insufficient funds", K.QUOTA),
    (429, "", "request too large: limit 5, requested 6", K.SIZE_LIMITED),
    # Google's word for any limit is OpenAI's for an account that is spent.
    (429, "", "you exceeded your current quota, check your plan and billing", K.QUOTA),
    (429, "", "you exceeded your current quota", K.QUOTA),
    (429, "RESOURCE_EXHAUSTED", "you exceeded your current quota, check your plan and billing", K.RATE_LIMIT),
    (429, "RESOURCE_EXHAUSTED", "insufficient funds", K.QUOTA),
    # Within a 2xx there is no status: codes first, then the message.
    (0, "content_filter", "overloaded", K.INVALID),
    (0, "overloaded_error", "", K.OVERLOADED),
    (0, "internal_server_error", "", K.SERVER),
    (0, "unknown_parameter", "", K.LACKS),
    (0, "invalid_request", "x", K.INVALID),
    (0, "invalid_request", "unsupported", K.LACKS),
    (0, "invalid_request", "unsupported by our content policy", K.INVALID),
    (0, "", "rate limit", K.RATE_LIMIT),
    (0, "", "was flagged", K.INVALID),
    (0, "", "server is busy", K.OVERLOADED),
    (0, "", "internal error", K.SERVER),
    (0, "", "unsupported", K.LACKS),
    (0, "", "x is required", K.INVALID),
    (0, "", "x", K.SERVER),
    (0, "", "no such model", K.UNKNOWN_MODEL),
    (0, "", "maximum context length", K.CONTEXT_TOO_LONG),
    # What the provider could not get of what the request names is no failure of its own, whatever it was told.
    (400, "invalid_image_url", "Error while downloading https://x.test/y.png. Upstream status code: 503.", K.LACKS),
    (400, "", "Fetching image failed with HTTP status 503 Service Unavailable.", K.LACKS),
    (400, "", "Failed to download the file: upstream request timed out", K.LACKS),
    (400, "", "Error fetching the upstream: HTTP 503", K.RELAYED),
    (400, "", "Function id 'x': DEGRADED function cannot be invoked", K.RELAYED),
    # Lengths, in the words of SGLang, LM Studio, and Hugging Face's server.
    (400, "", "The input (9 tokens) is longer than the model's context length (8 tokens).", K.CONTEXT_TOO_LONG),
    (0, "BadRequest", "Input length (9 tokens) exceeds the maximum allowed length (8 tokens).", K.CONTEXT_TOO_LONG),
    (0, "", "the model is loaded with context length of only 8 tokens", K.CONTEXT_TOO_LONG),
    (0, "", "Reached context length of 8 tokens with model (arch: x)", K.CONTEXT_TOO_LONG),
    (422, "validation", "`inputs` tokens + `max_new_tokens` must be <= 8. Given: 9", K.CONTEXT_TOO_LONG),
    (422, "validation", "`inputs` must have less than 8 tokens. Given: 9", K.CONTEXT_TOO_LONG),
    (400, "invalid_request_error", "The long context beta is not yet available for this subscription.", K.LACKS),
    (400, "unavailable_model", "Unavailable model: x", K.UNKNOWN_MODEL),
    (403, "token_quota_reached", "x", K.QUOTA),
    # Further on it may quote a prompt.
    (400, "", "x" * 400 + " insufficient funds", K.INVALID),
    (400, "", "x" * 381 + " insufficient funds", K.QUOTA),
]


@pytest.mark.parametrize(("status", "code", "message", "kind"), WORDS)
def test_words(status: int, code: str, message: str, kind: ErrorKind) -> None:
    """Codes are believed before messages, and both as far as the status allows."""
    error = {"error": {"code": code, "message": message}}
    assert facts_in(status, json.dumps(error).encode()) == ErrorFacts(kind, message)


@pytest.mark.parametrize(
    ("status", "body", "facts"),
    [
        (403, b" <html>", ErrorFacts(K.PAGE)),
        (403, b"error code: 1020", ErrorFacts(K.PAGE)),
        (403, b"error code: 10", ErrorFacts(K.CREDENTIAL, "error code: 10")),
        (400, b" hello \n", ErrorFacts(K.INVALID, "hello")),
        (400, b"x\xff", ErrorFacts(K.INVALID, "x\ufffd")),
        (400, b"x" * 5_000, ErrorFacts(K.INVALID, "x" * 2_000)),
        (400, b" " * 4_000 + b"x", ErrorFacts(K.NONE)),
        (400, b"", ErrorFacts(K.NONE)),
        (0, b"", NO_ERROR),
        (0, b"hello", ErrorFacts(K.SERVER, "hello")),
    ],
)
def test_what_is_no_json(status: int, body: bytes, facts: ErrorFacts) -> None:
    """A page is told from words."""
    assert facts_in(status, body) == facts
