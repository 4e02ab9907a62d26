"""The outcome table: from what a provider did to an outcome and what follows from it.

Pure: no mitmproxy, no clock, no I/O, no provider, no circuit. Reading an error body is the dialect's part;
this room only knows what its words mean.
"""

from __future__ import annotations

from sidestep.breaker.outcomes import NO_ERROR, ErrorFacts, ErrorKind, Kind, Outcome, Then

QUOTA_SECONDS = 600.0
"""Cooldown after `insufficient_quota` or 402: nobody tops up an account within seconds."""
CREDENTIAL_SECONDS = 600.0
"""Cooldown after a 401 or 403 to a credential of ours."""
UNKNOWN_MODEL_SECONDS = 600.0
"""How long a model is not asked of a provider that said it does not know it."""

HANDED_TO_THE_APP = frozenset({501, 505})
"""5xx that speak of the request's method or version: another provider would say the same."""
TRY_ELSEWHERE = frozenset({408, 409, 425})

SUCCESS = Outcome(Kind.SUCCESS, "ok", Then.HAND_OVER, 200)
CONNECT = Outcome(Kind.FAILURE, "connect", Then.RETRY)
TIMEOUT = Outcome(Kind.FAILURE, "timeout", Then.NEXT)
TRUNCATED = Outcome(Kind.FAILURE, "truncated", Then.HAND_OVER)
CUT_STREAM = Outcome(Kind.FAILURE, "truncated", Then.NEXT)
BROKEN_STREAM = Outcome(Kind.FAILURE, "stream_error", Then.NEXT)
"""The same two while the whole stream is still held back: somebody else can answer."""
STALLED = Outcome(Kind.FAILURE, "timeout", Then.HAND_OVER)
STREAM_ERROR = Outcome(Kind.FAILURE, "stream_error", Then.HAND_OVER)
CLIENT_GONE = Outcome(Kind.NEUTRAL, "client_gone", Then.HAND_OVER)
KILLED = Outcome(Kind.NEUTRAL, "killed", Then.HAND_OVER)
QUEUED = Outcome(Kind.NEUTRAL, "queued", Then.NEXT)
"""The request's time ran out while it waited inside mitmproxy: nobody's fault."""
OURS = Outcome(Kind.NEUTRAL, "internal", Then.HAND_OVER)
"""An exception of ours ended the attempt: nobody's vote."""


def judge_status(
    status: int,
    error: ErrorFacts = NO_ERROR,
    *,
    own_provider: bool,
    own_credential: bool,
    retry_after: float | None = None,
) -> Outcome:
    """The outcome of a whole answer with this status; 1xx to 3xx count as success.

    `own_provider`: the app addressed this provider itself. `own_credential`: the attempt bore the app's own
    credential. `retry_after`: seconds until the provider wants to be asked again, if it said.
    """
    if status < 400:
        return Outcome(Kind.SUCCESS, "ok", Then.HAND_OVER, status)
    if status == 402 or (status in (400, 403, 429) and error.kind is ErrorKind.QUOTA):
        return Outcome(Kind.COOLDOWN, "quota", Then.NEXT, status, QUOTA_SECONDS)
    if status == 429:
        then = Then.NEXT if retry_after is None else Then.WAIT
        return Outcome(Kind.COOLDOWN, "rate_limit", then, status, retry_after)
    if status >= 500:
        then = Then.HAND_OVER if status in HANDED_TO_THE_APP else Then.RETRY
        return Outcome(Kind.FAILURE, "http_5xx", then, status)
    if status in (401, 403) or (status == 400 and error.kind is ErrorKind.CREDENTIAL):
        if own_credential:
            return Outcome(Kind.NEUTRAL, "client_error", Then.HAND_OVER, status)
        return Outcome(Kind.COOLDOWN, "credential", Then.NEXT, status, CREDENTIAL_SECONDS)
    if status in (400, 404) and error.kind is ErrorKind.UNKNOWN_MODEL and not own_provider:
        return Outcome(Kind.NEUTRAL, "unknown_model", Then.NEXT, status)
    if status in (400, 413) and error.kind is ErrorKind.CONTEXT_TOO_LONG:
        return Outcome(Kind.NEUTRAL, "context_too_long", Then.LARGER, status)
    if status == 400 and error.kind is ErrorKind.SEALED:
        return Outcome(Kind.NEUTRAL, "sealed_refused", Then.REPAIR, status)
    if status in TRY_ELSEWHERE:
        return Outcome(Kind.NEUTRAL, "conflict", Then.NEXT, status)
    return Outcome(Kind.NEUTRAL, "client_error", Then.HAND_OVER, status)


def judge_no_answer(
    status: int,
    error: ErrorFacts | None = None,
    *,
    own_credential: bool = False,
    retry_after: float | None = None,
) -> Outcome:
    """The outcome of a 2xx that was no answer: `bad_response`, or the cooldown that its error names."""
    kind = ErrorKind.NONE if error is None else error.kind
    if kind is ErrorKind.QUOTA:
        return Outcome(Kind.COOLDOWN, "quota", Then.NEXT, status, QUOTA_SECONDS)
    if kind is ErrorKind.RATE_LIMIT:
        return Outcome(Kind.COOLDOWN, "rate_limit", Then.NEXT, status, retry_after)
    if kind is ErrorKind.CREDENTIAL and not own_credential:
        return Outcome(Kind.COOLDOWN, "credential", Then.NEXT, status, CREDENTIAL_SECONDS)
    return Outcome(Kind.FAILURE, "bad_response", Then.NEXT, status)


def judge_client_gone(waited: float, first_byte: float, *, byte_came: bool) -> Outcome:
    """A client that gave up on a silent provider says something about that provider, any other nothing.

    `waited`: seconds since the attempt was sent. `first_byte`: the configured limit for the first byte.
    """
    if not byte_came and waited >= first_byte:
        return TIMEOUT
    return CLIENT_GONE
