"""The outcome table: from what a provider did to an outcome and what follows from it.

Pure: no mitmproxy, no clock, no I/O, no provider, no circuit. Reading an error body is the dialect's part;
this room only knows what its words mean.
"""

from __future__ import annotations

from dataclasses import replace

from sidestep.breaker.outcomes import NO_ERROR, ErrorFacts, ErrorKind, Kind, Outcome, Then
from sidestep.breaker.windows import PlanLimit, bars

QUOTA_SECONDS = 600.0
"""Cooldown of an account that is spent or barred, where its end is not announced: it is not topped up in seconds."""
CREDENTIAL_SECONDS = 600.0
"""Cooldown after a 401 or 403 to a credential of ours."""
UNKNOWN_MODEL_SECONDS = 600.0
"""How long a model is not asked of a provider that said it does not know it."""

LOADING_SECONDS = 3.0
"""After how long a server that loads a model first is asked again. It takes 10 to 60 s; until then others are asked."""

NOT_DONE_HERE = frozenset({501, 505})
"""5xx that speak of what is asked for, its method or version: to ask the same provider again is of no use. The own
provider's word on it is the app's; what a stand-in does not do, the next one may."""
TRY_ELSEWHERE = frozenset({408, 409, 421, 424, 425, 499})
"""4xx about one connection, one moment, or something behind the provider: neither its failure nor the app's."""

_REFUSALS = frozenset(
    {ErrorKind.CREDENTIAL, ErrorKind.INVALID, ErrorKind.LACKS, ErrorKind.SEALED, ErrorKind.UNKNOWN_MODEL}
)
"""Errors about the request itself, or about the key that asks."""

SUCCESS = Outcome(Kind.SUCCESS, "ok", Then.HAND_OVER, 200)
BAD_HEAD = Outcome(Kind.FAILURE, "bad_response", Then.NEXT, cause="gave an answer that cannot be passed on")
"""An answer whose head cannot be passed on."""
LEAKED = Outcome(Kind.FAILURE, "bad_response", Then.NEXT, cause="gave an answer that repeats a key")
"""An answer that repeats a key: the app must not have it, and another provider can give one."""
UNREAD = Outcome(Kind.NEUTRAL, "unread", Then.HAND_OVER, 200)
"""A 2xx in a form that is not read here: it goes on as it comes, and says neither good nor bad of its provider."""
OTHER_FORM = Outcome(Kind.NEUTRAL, "other_form", Then.NEXT, 200)
"""A good answer that came whole where a stream was asked for, or the other way round: the official SDKs cannot read
it, some apps can. Another provider is asked; with none left it is the app's."""
CONNECT = Outcome(Kind.FAILURE, "connect", Then.RETRY)
TIMEOUT = Outcome(Kind.FAILURE, "timeout", Then.NEXT)
TRUNCATED = Outcome(Kind.FAILURE, "truncated", Then.HAND_OVER)
CUT_STREAM = Outcome(Kind.FAILURE, "truncated", Then.NEXT)
BROKEN_STREAM = Outcome(Kind.FAILURE, "stream_error", Then.NEXT)
"""The same two while the whole stream is still held back: another provider can answer."""
STALLED = Outcome(Kind.FAILURE, "timeout", Then.HAND_OVER)
STREAM_ERROR = Outcome(Kind.FAILURE, "stream_error", Then.HAND_OVER)
CLIENT_GONE = Outcome(Kind.NEUTRAL, "client_gone", Then.HAND_OVER)
KILLED = Outcome(Kind.NEUTRAL, "killed", Then.HAND_OVER)
QUEUED = Outcome(Kind.NEUTRAL, "queued", Then.NEXT)
"""The request's time ran out while it waited inside mitmproxy: no provider's fault."""
SLOW = Outcome(Kind.SLOW, "slow", Then.NEXT)
HEDGE_LOST = Outcome(Kind.NEUTRAL, "hedge_lost", Then.NEXT)
"""Asked beside a late attempt that has answered after all."""
OPENED = Outcome(Kind.NEUTRAL, "opened", Then.HAND_OVER)
"""A WebSocket was taken, and nothing that was asked for over it has come to anything: no word on any model."""
CANCELLED = Outcome(Kind.NEUTRAL, "cancelled", Then.HAND_OVER)
"""The app, or who speaks to it, has cut a response short before there was any of it."""
NO_SOCKET = Outcome(Kind.NEUTRAL, "lacks", Then.NEXT)
"""An answer to a WebSocket's handshake that is none: this provider takes calls over HTTP alone."""
INTERNAL = Outcome(Kind.NEUTRAL, "internal", Then.HAND_OVER)
"""An exception of ours ended the attempt: it says nothing of the provider."""


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
    if status == 503 and error.kind is ErrorKind.LOADING:
        return Outcome(Kind.COOLDOWN, "loading", Then.WAIT, status, retry_after or LOADING_SECONDS)
    if status >= 500:
        then = Then.RETRY if status not in NOT_DONE_HERE else Then.HAND_OVER if own_provider else Then.NEXT
        return Outcome(Kind.FAILURE, "http_5xx", then, status)
    kind = error.kind
    if status == 402:
        kind = ErrorKind.QUOTA
    elif status == 429 and kind not in (ErrorKind.QUOTA, ErrorKind.SIZE_LIMITED):
        kind = ErrorKind.RATE_LIMIT
    if (limited := _limited(status, kind, retry_after)) is not None:
        return limited
    if kind is ErrorKind.SEALED:
        return Outcome(Kind.NEUTRAL, "sealed_refused", Then.REPAIR, status)
    if status in TRY_ELSEWHERE:
        return Outcome(Kind.NEUTRAL, "conflict", Then.NEXT, status)
    if kind is ErrorKind.PAGE:
        return Outcome(Kind.NEUTRAL, "page", Then.NEXT, status)
    if kind is ErrorKind.RELAYED:
        return Outcome(Kind.FAILURE, "http_5xx", Then.NEXT, status)
    if kind is ErrorKind.CONTEXT_TOO_LONG:
        return Outcome(Kind.NEUTRAL, "context_too_long", Then.LARGER, status)
    return _judge_refusal(status, kind, own_provider=own_provider, own_credential=own_credential)


def judge_no_answer(
    status: int,
    error: ErrorFacts | None = None,
    *,
    own_provider: bool = True,
    own_credential: bool = False,
    retry_after: float | None = None,
    cause: str = "",
) -> Outcome:
    """The outcome of a 2xx that was no answer: `bad_response`, by `cause` where that is known, or what the error inside
    says.

    Where that is about the request itself, it is the provider's answer to it: the app gets it as it came, at once.
    """
    kind = ErrorKind.NONE if error is None else error.kind
    if (limited := _limited(status, kind, retry_after)) is not None:
        return limited
    if kind is ErrorKind.CONTEXT_TOO_LONG:
        return Outcome(Kind.NEUTRAL, "context_too_long", Then.HAND_OVER, status)
    if kind is ErrorKind.OUTPUT:
        return Outcome(Kind.NEUTRAL, "bad_output", Then.NEXT, status)
    if kind in _REFUSALS:
        return _judge_refusal(status, kind, own_provider=own_provider, own_credential=own_credential)
    return Outcome(Kind.FAILURE, "bad_response", Then.NEXT, status, cause=cause)


def judge_plan(limited: Outcome, limit: PlanLimit, model: str | None) -> Outcome:
    """The outcome of a refusal that a plan's windows explain: they say until when, and for which models. A family by
    whose name the model that was asked for is not known holds that model, as far as it is known."""
    seconds = limited.cooldown_seconds if limit.seconds is None else limit.seconds
    then = Then.NEXT if seconds is None else Then.WAIT
    family = limit.family if bars(limit.family, model) else ""
    return Outcome(Kind.COOLDOWN, "plan", then, limited.status, seconds, account=not limit.family, family=family)


def ends(outcome: Outcome) -> bool:
    """Whether a limit is one that begins anew: an account that is spent does so only where its end was told."""
    return outcome.reason in ("rate_limit", "plan", "quota") and not outcome.open_ended


def _limited(status: int, kind: ErrorKind, retry_after: float | None) -> Outcome | None:
    """The outcome of a limit, whatever status it is told with; None if the error names none."""
    if kind is ErrorKind.QUOTA:
        told = bool(retry_after)  # not where it came after a time that is over
        seconds = retry_after if told else QUOTA_SECONDS
        return Outcome(Kind.COOLDOWN, "quota", Then.NEXT, status, seconds, account=True, open_ended=not told)
    if kind is ErrorKind.SIZE_LIMITED:
        return Outcome(Kind.NEUTRAL, "size_limited", Then.NEXT, status, size_limited=True)
    if kind is ErrorKind.RATE_LIMIT:
        then = Then.NEXT if retry_after is None else Then.WAIT
        return Outcome(Kind.COOLDOWN, "rate_limit", then, status, retry_after)
    return None


def _judge_refusal(status: int, kind: ErrorKind, *, own_provider: bool, own_credential: bool) -> Outcome:
    """A refusal of this request, or of the key that asks."""
    if kind is ErrorKind.CREDENTIAL and not own_credential:
        return Outcome(Kind.COOLDOWN, "credential", Then.NEXT, status, CREDENTIAL_SECONDS, account=True)
    if not own_provider and kind is ErrorKind.UNKNOWN_MODEL:
        return Outcome(Kind.NEUTRAL, "unknown_model", Then.NEXT, status)
    if not own_provider and kind is not ErrorKind.CREDENTIAL and kind is not ErrorKind.INVALID:
        # Not plainly the app's own mistake: what this provider does not take, the next one may.
        return Outcome(Kind.NEUTRAL, "lacks", Then.NEXT, status)
    return Outcome(Kind.NEUTRAL, "client_error", Then.HAND_OVER, status)


def judge_handshake(status: int, error: ErrorFacts, *, in_form: bool) -> Outcome | None:
    """The outcome of an answer to a WebSocket's handshake that says no more than that none is taken here: frameworks
    say so with a 403, or in words of their own. None: it says something else. `in_form`: it is a document as the
    dialect's errors are."""
    unspoken = status == 400 and not in_form
    if not (unspoken or status == 403 or status in NOT_DONE_HERE):
        return None
    return None if error.kind in (ErrorKind.QUOTA, ErrorKind.RATE_LIMIT) else replace(NO_SOCKET, status=status)


def judge_client_gone(waited: float, first_byte: float, *, byte_came: bool) -> Outcome:
    """A client that gave up on a silent provider says something about that provider, any other nothing.

    `waited`: seconds since the attempt was sent. `first_byte`: the configured limit for the first byte.
    """
    if not byte_came and waited >= first_byte:
        return TIMEOUT
    return CLIENT_GONE
