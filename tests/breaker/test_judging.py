"""The outcome table, row by row: what a provider said, and what is made of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from sidestep.breaker import judging
from sidestep.breaker.outcomes import NO_ERROR, ErrorFacts, ErrorKind, Kind, Outcome, Then
from sidestep.dialects.errors import facts_in

SUCCESS, FAILURE, COOLDOWN, NEUTRAL = Kind.SUCCESS, Kind.FAILURE, Kind.COOLDOWN, Kind.NEUTRAL
HAND, RETRY, NEXT, WAIT, LARGER = Then.HAND_OVER, Then.RETRY, Then.NEXT, Then.WAIT, Then.LARGER
REPAIR = Then.REPAIR

OWN = (True, True)
"""The own provider, with the app's own credential."""
KEYED = (True, False)
"""The own provider, with a key of ours."""
OTHER = (False, False)
"""Another provider, with a key of ours."""


def said(message: str, name: str | None = None, code: Any = None, **more: Any) -> bytes:
    return json.dumps({"error": {"message": message, "type": name, "code": code, **more}}).encode()


PAGE = b"<html><head><title>403 Forbidden</title></head></html>"
TPM = "Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Requested 45000."
CONTEXT = said("This model's maximum context length is 8192 tokens.", code="context_length_exceeded")
MODEL = said("The model `x` does not exist", code="model_not_found")
INVALID = said("messages: at least one message is required", "invalid_request_error")
FIELD = said("Unrecognized request argument supplied: store", "invalid_request_error")
KEY = said("Incorrect API key provided", code="invalid_api_key")
SPENT = said("You exceeded your current quota, please check your plan and billing details.", code="insufficient_quota")
SIGNATURE = said("messages.1.content.0: Invalid `signature` in `thinking` block", "invalid_request_error", 400)
POLICY = said("Your request was flagged by our safety system", code="content_policy_violation")

# Status, whose provider and credential, the body, seconds that were announced; kind, reason, then, seconds, account.
ANSWERS: list[tuple[Any, ...]] = [
    (200, OWN, b"", None, SUCCESS, "ok", HAND, None, False),
    (302, OWN, b"", None, SUCCESS, "ok", HAND, None, False),
    # The provider has failed.
    (500, OWN, b"", None, FAILURE, "http_5xx", RETRY, None, False),
    (502, OTHER, PAGE, None, FAILURE, "http_5xx", RETRY, None, False),
    (503, OWN, said("overloaded"), 7.0, FAILURE, "http_5xx", RETRY, None, False),
    (520, OWN, b"", None, FAILURE, "http_5xx", RETRY, None, False),
    (529, OWN, said("Overloaded", "overloaded_error"), None, FAILURE, "http_5xx", RETRY, None, False),
    (501, OWN, b"", None, FAILURE, "http_5xx", HAND, None, False),
    (505, KEYED, b"", None, FAILURE, "http_5xx", HAND, None, False),
    (501, OTHER, b"", None, FAILURE, "http_5xx", NEXT, None, False),
    (505, OTHER, PAGE, None, FAILURE, "http_5xx", NEXT, None, False),
    # A server that has to load the model first is well.
    (503, OTHER, said("Loading model", "unavailable_error", 503), None, COOLDOWN, "loading", WAIT, 3.0, False),
    (503, OTHER, said("Model acme/llama is currently loading"), 20.0, COOLDOWN, "loading", WAIT, 20.0, False),
    (503, OTHER, said("the model is loaded; out of memory"), None, FAILURE, "http_5xx", RETRY, None, False),
    (500, OTHER, said("error loading model"), None, FAILURE, "http_5xx", RETRY, None, False),
    # Limits.
    (429, OWN, said("Rate limit reached"), None, COOLDOWN, "rate_limit", NEXT, None, False),
    (429, OTHER, said("Rate limit reached"), 3.0, COOLDOWN, "rate_limit", WAIT, 3.0, False),
    (429, OWN, b"", 0.0, COOLDOWN, "rate_limit", WAIT, 0.0, False),
    (429, OWN, PAGE, None, COOLDOWN, "rate_limit", NEXT, None, False),
    (429, OWN, said("busy", "engine_overloaded_error"), None, COOLDOWN, "rate_limit", NEXT, None, False),
    (429, OWN, said("You exceeded your current quota", status="RESOURCE_EXHAUSTED"), 50.0,
     COOLDOWN, "rate_limit", WAIT, 50.0, False),
    (400, OWN, said("Detected high-frequency non-compliant requests from you."), None,
     COOLDOWN, "rate_limit", NEXT, None, False),
    (403, OTHER, said("Rate limit exceeded", code="rate_limit_exceeded"), 9.0,
     COOLDOWN, "rate_limit", WAIT, 9.0, False),
    (429, OWN, said(TPM, "tokens", "rate_limit_exceeded"), None, NEUTRAL, "size_limited", NEXT, None, False),
    (413, OTHER, said(TPM, "tokens", "rate_limit_exceeded"), 9.0, NEUTRAL, "size_limited", NEXT, None, False),
    # Accounts that are spent or barred.
    (402, OWN, b"", None, COOLDOWN, "quota", NEXT, 600.0, True),
    (402, OTHER, said("Insufficient credits"), 30.0, COOLDOWN, "quota", NEXT, 30.0, True),
    (429, OWN, SPENT, None, COOLDOWN, "quota", NEXT, 600.0, True),
    (429, OTHER, said("You exceeded your current quota, please check your plan"), None,
     COOLDOWN, "quota", NEXT, 600.0, True),
    (429, OTHER, said("Your prepayment credits are depleted.", status="RESOURCE_EXHAUSTED"), None,
     COOLDOWN, "quota", NEXT, 600.0, True),
    (429, OWN, said("The usage limit has been reached", "usage_limit_reached"), 7200.0,
     COOLDOWN, "quota", NEXT, 7200.0, True),
    (400, OWN, said("Your credit balance is too low to access the Anthropic API.", "invalid_request_error"), None,
     COOLDOWN, "quota", NEXT, 600.0, True),
    (400, OWN, said("Billing hard limit has been reached", code="billing_hard_limit_reached"), None,
     COOLDOWN, "quota", NEXT, 600.0, True),
    (400, OWN, said("This organization has been disabled."), None, COOLDOWN, "quota", NEXT, 600.0, True),
    (400, OWN, said("You're out of extra usage."), None, COOLDOWN, "quota", NEXT, 600.0, True),
    (400, OTHER, said("Access denied", "Arrearage", "Arrearage"), None, COOLDOWN, "quota", NEXT, 600.0, True),
    (400, OTHER, said("Budget has been exceeded! Current cost: 2, Max budget: 1", "budget_exceeded"), None,
     COOLDOWN, "quota", NEXT, 600.0, True),
    (401, OWN, said("The OpenAI account associated with this API key has been deactivated.",
                    code="account_deactivated"), None, COOLDOWN, "quota", NEXT, 600.0, True),
    (403, OWN, said("Key limit exceeded (monthly limit).", code=403), None, COOLDOWN, "quota", NEXT, 600.0, True),
    (403, OTHER, said("Permission denied: Consumer 'project_number:1' has been suspended.", code=403), None,
     COOLDOWN, "quota", NEXT, 600.0, True),
    (403, OTHER, b'{"code":30001,"message":"Sorry, your account balance is insufficient","data":null}', None,
     COOLDOWN, "quota", NEXT, 600.0, True),
    (412, OTHER, said("Account x is suspended, possibly due to failure to pay past invoices"), None,
     COOLDOWN, "quota", NEXT, 600.0, True),
    (400, OWN, said("User location is not supported for the API use.", status="FAILED_PRECONDITION"), None,
     COOLDOWN, "quota", NEXT, 600.0, True),
    (403, OWN, said("OAuth authentication is currently not allowed for this organization.", "permission_error"), None,
     COOLDOWN, "quota", NEXT, 600.0, True),
    (403, OWN, said("Your organization has disabled access by subscription."), None,
     COOLDOWN, "quota", NEXT, 600.0, True),
    (400, OWN, said("The free tier is not available in your country.", status="FAILED_PRECONDITION"), None,
     COOLDOWN, "quota", NEXT, 600.0, True),
    (403, OWN, said("Your API key was reported as leaked.", code=403), None, COOLDOWN, "quota", NEXT, 600.0, True),
    (400, OWN, said("This API key has been disabled", "invalid_request_error"), None,
     COOLDOWN, "quota", NEXT, 600.0, True),
    (403, OTHER, said("no", code="api_key_revoked"), None, COOLDOWN, "quota", NEXT, 600.0, True),
    # Credentials.
    (401, OWN, said("This API key has been disabled"), None, NEUTRAL, "client_error", HAND, None, False),
    (400, OTHER, b'{"base_resp":{"status_code":1004,"status_msg":"login fail: carry the secret key"}}', None,
     COOLDOWN, "credential", NEXT, 600.0, True),
    (400, OTHER, said("The api_key is invalid"), None, COOLDOWN, "credential", NEXT, 600.0, True),
    (401, OWN, KEY, None, NEUTRAL, "client_error", HAND, None, False),
    (403, OWN, said("no permission"), None, NEUTRAL, "client_error", HAND, None, False),
    (401, KEYED, KEY, None, COOLDOWN, "credential", NEXT, 600.0, True),
    (403, OTHER, said("no permission", "permission_error"), None, COOLDOWN, "credential", NEXT, 600.0, True),
    (401, OTHER, b"", None, COOLDOWN, "credential", NEXT, 600.0, True),
    (400, OTHER, said("API key not valid. Please pass a valid API key."), None,
     COOLDOWN, "credential", NEXT, 600.0, True),
    (400, OWN, said("API key not valid. Please pass a valid API key."), None,
     NEUTRAL, "client_error", HAND, None, False),
    # What one provider lacks.
    (404, OWN, MODEL, None, NEUTRAL, "client_error", HAND, None, False),
    (404, OTHER, MODEL, None, NEUTRAL, "unknown_model", NEXT, None, False),
    (403, OTHER, said("Project `p` does not have access to model `m`", code="model_not_found"), None,
     NEUTRAL, "unknown_model", NEXT, None, False),
    (400, OTHER, said("模型不存在，请检查模型代码。", code="1211"), None, NEUTRAL, "unknown_model", NEXT, None, False),
    (404, OTHER, b"404 page not found", None, NEUTRAL, "lacks", NEXT, None, False),
    (404, OTHER, b'{"detail":"Not Found"}', None, NEUTRAL, "lacks", NEXT, None, False),
    (404, OWN, b'{"detail":"Not Found"}', None, NEUTRAL, "client_error", HAND, None, False),
    (405, OTHER, b"", None, NEUTRAL, "lacks", NEXT, None, False),
    (415, OTHER, said("Unsupported Media Type"), None, NEUTRAL, "lacks", NEXT, None, False),
    (413, OTHER, b"", None, NEUTRAL, "lacks", NEXT, None, False),
    (413, OWN, b"", None, NEUTRAL, "client_error", HAND, None, False),
    (400, OTHER, FIELD, None, NEUTRAL, "lacks", NEXT, None, False),
    (400, OWN, FIELD, None, NEUTRAL, "client_error", HAND, None, False),
    (400, OTHER, said("Unexpected value(s) `context-1m` for the `anthropic-beta` header."), None,
     NEUTRAL, "lacks", NEXT, None, False),
    (400, OTHER, said("max_tokens is too large: 50000. This model supports at most 4096.", code="invalid_value"), None,
     NEUTRAL, "lacks", NEXT, None, False),
    (400, OTHER, said("This response_format type is unavailable now", "invalid_request_error"), None,
     NEUTRAL, "lacks", NEXT, None, False),
    (400, OTHER, said("Invalid max_tokens value, the valid range of max_tokens is [1, 8192]", "invalid_request_error"),
     None, NEUTRAL, "lacks", NEXT, None, False),
    (400, OTHER, said('"auto" tool choice requires --enable-auto-tool-choice to be set', "BadRequestError"), None,
     NEUTRAL, "lacks", NEXT, None, False),
    (400, OTHER, said("tools.0.input_schema: JSON schema is invalid.", "invalid_request_error"), None,
     NEUTRAL, "lacks", NEXT, None, False),
    (400, OWN, said("tools.0.input_schema: JSON schema is invalid.", "invalid_request_error"), None,
     NEUTRAL, "client_error", HAND, None, False),
    (422, OTHER, b'{"detail":[{"loc":["body","model"],"msg":"value is not a valid enumeration member"}]}', None,
     NEUTRAL, "lacks", NEXT, None, False),
    (403, OTHER, said("Model access is denied due to missing rights"), None,
     NEUTRAL, "unknown_model", NEXT, None, False),
    (422, OTHER, b'{"detail":[{"type":"extra_forbidden","msg":"Extra inputs are not permitted"}]}', None,
     NEUTRAL, "lacks", NEXT, None, False),
    (400, OTHER, b"", None, NEUTRAL, "lacks", NEXT, None, False),
    # The app's own mistakes.
    (400, OWN, INVALID, None, NEUTRAL, "client_error", HAND, None, False),
    (400, OTHER, INVALID, None, NEUTRAL, "client_error", HAND, None, False),
    (422, OTHER, INVALID, 5.0, NEUTRAL, "client_error", HAND, None, False),
    (400, OTHER, POLICY, None, NEUTRAL, "client_error", HAND, None, False),
    (403, OTHER, said("Your chosen model requires moderation and your input was flagged", code=403), None,
     NEUTRAL, "client_error", HAND, None, False),
    (400, OTHER, said("no", "server_error"), None, NEUTRAL, "client_error", HAND, None, False),
    (404, OTHER, said("no", status="INTERNAL"), None, NEUTRAL, "lacks", NEXT, None, False),
    (418, OWN, b"", None, NEUTRAL, "client_error", HAND, None, False),
    # The length.
    (400, OWN, CONTEXT, None, NEUTRAL, "context_too_long", LARGER, None, False),
    (413, OTHER, said("prompt is too long: 209000 tokens > 200000 maximum"), None,
     NEUTRAL, "context_too_long", LARGER, None, False),
    # Reasoning that it does not take.
    *[(400, who, SIGNATURE, None, NEUTRAL, "sealed_refused", REPAIR, None, False) for who in (OWN, KEYED, OTHER)],
    (422, OWN, SIGNATURE, None, NEUTRAL, "client_error", HAND, None, False),
    # One moment, one connection, something in between.
    *[(status, who, b"", None, NEUTRAL, "conflict", NEXT, None, False)
      for status in (408, 409, 421, 424, 425, 499) for who in (OWN, OTHER)],
    (403, OTHER, PAGE, None, NEUTRAL, "page", NEXT, None, False),
    (403, OWN, PAGE, None, NEUTRAL, "page", NEXT, None, False),
    (400, OWN, b"\n<!DOCTYPE html><title>x</title>", None, NEUTRAL, "page", NEXT, None, False),
    (403, OTHER, b"error code: 1010", None, NEUTRAL, "page", NEXT, None, False),
    # A failure that an aggregator relays.
    (400, OTHER, said("Provider returned error", code=502, metadata={"raw": "x y"}), None,
     FAILURE, "http_5xx", NEXT, None, False),
    (400, OWN, said("Provider returned error", code=400, metadata={"raw": "ERROR"}), None,
     FAILURE, "http_5xx", NEXT, None, False),
    (400, OTHER, said("Provider returned error", code=400, metadata={"raw": json.dumps({"error": {"code": 503}})}),
     None, FAILURE, "http_5xx", NEXT, None, False),
    (400, OTHER, said("Provider returned error", code=400, metadata={"raw": INVALID.decode()}), None,
     NEUTRAL, "client_error", HAND, None, False),
    (400, OTHER, said("litellm.ServiceUnavailableError: VertexAIException - x"), None,
     FAILURE, "http_5xx", NEXT, None, False),
    (404, OTHER, said("bad response status code 502", "upstream_error", "bad_response_status_code"), None,
     FAILURE, "http_5xx", NEXT, None, False),
    (403, OTHER, said("upstream connect error or disconnect/reset before headers"), None,
     FAILURE, "http_5xx", NEXT, None, False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "who", "body", "announced", "kind", "reason", "then", "seconds", "account"),
    ANSWERS,
    ids=[f"{row[0]}-{'own' if row[1][0] else 'other'}-{row[5]}-{i}" for i, row in enumerate(ANSWERS)],
)
def test_whole_answers(
    status: int,
    who: tuple[bool, bool],
    body: bytes,
    announced: float | None,
    kind: Kind,
    reason: str,
    then: Then,
    seconds: float | None,
    account: bool,
) -> None:
    """Each row of the table is as it says, whole: kind, reason, what follows, how long, and whose limit it is."""
    found = judging.judge_status(
        status, facts_in(status, body), own_provider=who[0], own_credential=who[1], retry_after=announced
    )
    limited, open_ended = reason == "size_limited", reason == "quota" and not announced
    assert found == Outcome(kind, reason, then, status, seconds, account, limited, open_ended)


# The error in a 2xx, whose provider and credential, seconds that were announced; kind, reason, then, seconds, account.
NO_ANSWERS: list[tuple[Any, ...]] = [
    (b"", OWN, None, FAILURE, "bad_response", NEXT, None, False),
    (said("The server had an error", "server_error"), OWN, None, FAILURE, "bad_response", NEXT, None, False),
    (said("Overloaded", "overloaded_error"), OTHER, None, FAILURE, "bad_response", NEXT, None, False),
    (said("what it is cannot be told"), OTHER, None, FAILURE, "bad_response", NEXT, None, False),
    (said("Provider returned error", code=502), OTHER, None, FAILURE, "bad_response", NEXT, None, False),
    (CONTEXT, OWN, None, NEUTRAL, "context_too_long", HAND, None, False),
    (CONTEXT, OTHER, None, NEUTRAL, "context_too_long", HAND, None, False),
    (INVALID, OWN, None, NEUTRAL, "client_error", HAND, None, False),
    (INVALID, OTHER, None, NEUTRAL, "client_error", HAND, None, False),
    (POLICY, OTHER, None, NEUTRAL, "client_error", HAND, None, False),
    (said("Invalid prompt: it may violate our usage policy", code="invalid_prompt"), OWN, None,
     NEUTRAL, "client_error", HAND, None, False),
    (MODEL, OWN, None, NEUTRAL, "client_error", HAND, None, False),
    (MODEL, OTHER, None, NEUTRAL, "unknown_model", NEXT, None, False),
    (FIELD, OTHER, None, NEUTRAL, "lacks", NEXT, None, False),
    (SIGNATURE, OWN, None, NEUTRAL, "client_error", HAND, None, False),
    (SIGNATURE, OTHER, None, NEUTRAL, "lacks", NEXT, None, False),
    (KEY, OWN, None, NEUTRAL, "client_error", HAND, None, False),
    (KEY, OTHER, None, COOLDOWN, "credential", NEXT, 600.0, True),
    (SPENT, OWN, None, COOLDOWN, "quota", NEXT, 600.0, True),
    (b'{"choices":null,"base_resp":{"status_code":1008,"status_msg":"insufficient balance"}}', OWN, None,
     COOLDOWN, "quota", NEXT, 600.0, True),
    (said("Rate limit exceeded", code=429), OWN, None, COOLDOWN, "rate_limit", NEXT, None, False),
    (said("slow down", code="rate_limit_exceeded"), OTHER, 2.0, COOLDOWN, "rate_limit", WAIT, 2.0, False),
    (said(TPM), OWN, None, NEUTRAL, "size_limited", NEXT, None, False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "who", "announced", "kind", "reason", "then", "seconds", "account"),
    NO_ANSWERS,
    ids=[f"{'own' if row[1][0] else 'other'}-{row[4]}-{i}" for i, row in enumerate(NO_ANSWERS)],
)
def test_errors_told_in_a_200(
    body: bytes,
    who: tuple[bool, bool],
    announced: float | None,
    kind: Kind,
    reason: str,
    then: Then,
    seconds: float | None,
    account: bool,
) -> None:
    """The request's own fault reaches the app and blames nobody; all else is as if its status had said so."""
    error = facts_in(0, body)
    found = judging.judge_no_answer(
        200, None if error is NO_ERROR else error, own_provider=who[0], own_credential=who[1], retry_after=announced
    )
    limited, open_ended = reason == "size_limited", reason == "quota" and not announced
    assert found == Outcome(kind, reason, then, 200, seconds, account, limited, open_ended)


@pytest.mark.parametrize("kind", ErrorKind)
@pytest.mark.parametrize("who", [OWN, KEYED, OTHER])
def test_every_error_has_an_outcome(kind: ErrorKind, who: tuple[bool, bool]) -> None:
    """No 4xx is a failure of the provider's but one that it relays, none is a success; the app's own key cools nothing
    down for a credential."""
    for status in range(200, 600):
        error = ErrorFacts(kind)
        found = judging.judge_status(status, error, own_provider=who[0], own_credential=who[1])
        if 400 <= status < 500:
            assert found.kind is not Kind.SUCCESS
            assert found.kind is not Kind.FAILURE or kind is ErrorKind.RELAYED
        if who[1]:
            assert found.reason != "credential"
        assert found.account is (found.reason in ("quota", "credential"))


@pytest.mark.parametrize(
    ("status", "kind", "in_form", "refused"),
    [
        (400, ErrorKind.NONE, False, True),
        (400, ErrorKind.NONE, True, False),
        *((status, ErrorKind.NONE, form, True) for status in (403, 501, 505) for form in (True, False)),
        *((status, ErrorKind.NONE, False, False) for status in (401, 404, 429, 500, 503)),
        (403, ErrorKind.QUOTA, False, False),
        (400, ErrorKind.RATE_LIMIT, False, False),
        (403, ErrorKind.CREDENTIAL, True, True),
    ],
)
def test_a_handshake_that_takes_no_socket(status: int, kind: ErrorKind, in_form: bool, refused: bool) -> None:
    """It is no failure of the provider's; a limit is one all the same, and what is said in form is read."""
    found = judging.judge_handshake(status, ErrorFacts(kind), in_form=in_form)
    assert found == (replace(judging.NO_SOCKET, status=status) if refused else None)


@pytest.mark.parametrize(
    ("waited", "byte_came", "outcome"),
    [
        (59.9, False, judging.CLIENT_GONE),
        (60.0, False, judging.TIMEOUT),
        (60.0, True, judging.CLIENT_GONE),
    ],
)
def test_a_client_that_left(waited: float, byte_came: bool, outcome: Outcome) -> None:
    """Its leaving says something of a provider that was silent for as long as it may be, and of no other."""
    assert judging.judge_client_gone(waited, 60.0, byte_came=byte_came) == outcome
