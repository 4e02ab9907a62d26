"""What error bodies and error events say, in the words of those who speak the dialects.

Pure: no mitmproxy, no clock, no I/O. Nothing here raises, whatever shape an error has. Codes are believed
before messages, and of a message only the beginning is read: further on it may quote a prompt.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from sidestep.breaker.outcomes import NO_ERROR, ErrorFacts, ErrorKind

MAX_MESSAGE = 2_000
"""Characters kept of a provider's error message."""
_READ = 400
"""Characters of a message that its kind is judged by."""
_TEXT_BYTES = 4_000

_any = msgspec.json.Decoder()


def _words(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


# Codes: what stands in `code`, `type`, `status` or a detail's `reason`.
_QUOTA_CODES = _words(
    *("insufficient_quota", "insufficient_balance", "insufficient_credits", "insufficient_user_quota"),
    *("exceeded_current_quota", "billing_", "quota_exceeded_permanently", "payment_required", "credits_exhausted"),
)
_MODEL_CODES = _words(
    *("model_not_found", "modelnotfound", "model_not_available", "model_not_supported", "model_not_exist"),
    *("unknown_model", "invalid_model", "model_decommissioned", "deploymentnotfound"),
)
_CONTEXT_CODES = _words(
    *("context_length_exceeded", "context_window_exceeded", "exceed_context_size", "model_max_prompt_tokens_exceeded"),
)
_CREDENTIAL_CODES = _words(
    *("invalid_api_key", "api_key_invalid", "authentication_error", "invalid_authentication", "unauthenticated"),
)
_RATE_CODES = _words("rate_limit", "resource_exhausted", "too_many_requests", "throttl", "ratelimit")
_OVERLOAD_CODES = _words("overloaded", r"\bunavailable\b", "server_busy", "slow_down", "capacity")
_INVALID_CODES = _words("invalid_request", "invalid_argument", "badrequest", "bad_request", "content_filter")

# Messages.
_QUOTA = _words(
    *(r"insufficient (?:account )?(?:balance|credits?|funds|quota)", "credit balance is too low"),
    *("requires more credits", "out of credits", "used all available credits", "reached its monthly spending limit"),
    *("not enough credits", "billing hard limit has been reached", "account is not active, please check your billing"),
)
_NAME = r"(?:[`'\"][^`'\"]{1,100}[`'\"]|[\w./:@+-]+)"
_GONE = (
    r"(?:is |was |has been |does )?(?:not (?:be )?(?:found|exist|available|recognized)|deprecated|decommissioned|"
    r"not supported by any provider|not a valid model|not support the requested)"
)
_MODEL = _words(
    rf"\bmodel:? (?:{_NAME} )?{_GONE}",
    rf"\bmodels/\S+ {_GONE}",
    rf"\b{_NAME} is not a valid model",
    r"(?:invalid|unknown|unrecognized|not found the) model\b",
    r"no such model",
    r"unable to access model",
    r"no endpoints found for",
    r"model identifier is invalid",
    r"deployment for this resource does not exist",
    r"^model: ",
)
_CONTEXT = _words(
    *("maximum context length", "context length is only", "context window", "context limit", "available context size"),
    *("prompt is too long", r"input is too long for", "maximum prompt length is", "maximum input length is"),
    *(r"input token count.{0,40}exceeds", "input tokens exceed", "too large for model with", "too many input tokens"),
    *("reduce the length of the", r"exceeded model token limit", "range of input length should be"),
    *("request too large for model", "too many tokens: ", "greater than the context length"),
)
_CREDENTIAL = _words(
    *("api key not valid", "api key not found", "api key expired", "invalid api key", "incorrect api key"),
    *("invalid x-api-key", "no auth credentials found", "invalid authentication"),
)
_SEALED = _words(
    # Claude and those that speak its dialect; each is the leading clause of what they say.
    *(
        "invalid `?signature`? in `?thinking`? block",
        r"thinking\.signature: ",
        r"signature: extra inputs are not permitted",
    ),
    *("`?thinking`? or `?redacted_thinking`?", r"content\[\]\.thinking"),
    # OpenAI, Azure, xAI, vLLM; and chat.
    *("encrypted.content", "required 'reasoning' item", "'rs_[^']*' (?:of type 'reasoning'|not found)"),
    *("reasoning_content`? in the thinking mode must be passed back", "reasoning_content is missing"),
    # Gemini, and Amazon Bedrock's own form.
    *("thought.signature", r"reasoningtext\.signature"),
)
_RATE = _words(r"\brate.?limit", "too many requests")
_OVERLOADED = _words("overloaded", r"\bat capacity\b", "server is busy", "try again later")


def facts_in(status: int, body: bytes) -> ErrorFacts:
    """What an error body says. `status` 0: it came in a 2xx, or in a stream; its own code then stands for one."""
    message, words, code = _read(body)
    if not status:
        if not message and not words:
            return NO_ERROR
        status = code
    return ErrorFacts(_kind(status, message[:_READ], words), message)


def _kind(status: int, text: str, words: str) -> ErrorKind:
    about_request = status in (0, 400, 404, 413, 422)
    if status == 402 or _QUOTA_CODES.search(words) or (status in (0, 400, 403, 429) and _QUOTA.search(text)):
        return ErrorKind.QUOTA
    if about_request:
        # The length first: its message often names the model.
        if _CONTEXT_CODES.search(words) or (status != 404 and _CONTEXT.search(text)):
            return ErrorKind.CONTEXT_TOO_LONG
        if _MODEL_CODES.search(words) or _MODEL.search(text):
            return ErrorKind.UNKNOWN_MODEL
        if status == 400 and (_SEALED.search(words) or _SEALED.search(text)):
            return ErrorKind.SEALED
    if status == 429 or _RATE_CODES.search(words):
        return ErrorKind.RATE_LIMIT
    if status in (401, 403) or _CREDENTIAL_CODES.search(words) or (about_request and _CREDENTIAL.search(text)):
        return ErrorKind.CREDENTIAL
    if status in (503, 529) or _OVERLOAD_CODES.search(words):
        return ErrorKind.OVERLOADED
    if 400 <= status < 500 or _INVALID_CODES.search(words):
        return ErrorKind.INVALID
    if not status and not words:
        if _RATE.search(text):
            return ErrorKind.RATE_LIMIT
        if _OVERLOADED.search(text):
            return ErrorKind.OVERLOADED
    return ErrorKind.SERVER


def _read(body: bytes) -> tuple[str, str, int]:
    """The message of an error body, its codes in one string, and the HTTP status among them, else 0."""
    try:
        data = _any.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = body[:_TEXT_BYTES].decode("utf-8", "replace").strip()
        return ("" if text.startswith("<") else text[:MAX_MESSAGE]), "", 0
    words: list[str] = []
    code = 0
    for _ in range(8):  # an error wrapped in another one's message, in a list, in an object
        if isinstance(data, str):
            try:
                inner = _any.decode(data) if data.lstrip().startswith(("{", "[")) else None
            except (msgspec.DecodeError, RecursionError):
                inner = None
            if inner is None:
                return data[:MAX_MESSAGE], " ".join(words), code
            data = inner
        if isinstance(data, list):
            data = data[0] if data else None
        if not isinstance(data, dict):
            break
        code = _note(data, words) or code
        errors = data.get("errors")
        inner = data.get("error") or (errors if isinstance(errors, list) and errors else None)
        if isinstance(inner, (dict, list, str)) and not (isinstance(inner, str) and data.get("message")):
            data = inner
            continue
        message = next((data[k] for k in ("message", "detail", "msg", "error_description") if data.get(k)), "")
        raw = _raw_of(data)
        if isinstance(message, str) and raw and len(message) < _READ // 2:
            message = f"{message} {raw}"
        if isinstance(message, (str, list, dict)) and message:
            data = message
            continue
        break
    return "", " ".join(words), code


def _note(data: dict[str, Any], words: list[str]) -> int:
    """Collects an error's codes. Returns the HTTP status among them, else 0."""
    status = 0
    for key in ("code", "type", "status"):
        value = data.get(key)
        if isinstance(value, str) and value not in ("error", "message"):
            words.append(value[:100])
            if key == "code" and re.fullmatch(r"[45]\d\d", value):
                status = int(value)
        elif isinstance(value, int) and 400 <= value < 600:
            status = value
    details = data.get("details")
    for detail in details if isinstance(details, list) else ():
        reason = detail.get("reason") if isinstance(detail, dict) else None
        if isinstance(reason, str):
            words.append(reason[:100])
    return status


def _raw_of(data: dict[str, Any]) -> str:
    """What an aggregator hands on of the error of the provider behind it."""
    metadata = data.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    return raw[:_READ] if isinstance(raw, str) else ""
