"""The shared words: how an attempt ended, what its error said, and what follows from both.

Pure: no mitmproxy, no clock, no I/O. Every other room may import this one; it imports none.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Kind(enum.StrEnum):
    """How an attempt ended, as its circuit sees it."""

    SUCCESS = "success"
    FAILURE = "failure"
    COOLDOWN = "cooldown"
    NEUTRAL = "neutral"
    SLOW = "slow"
    """It was late, and another attempt beside it answered first: it counts towards the failure rate alone."""


class Result(enum.StrEnum):
    """What came of a call, by what the app got: exactly one of these."""

    ANSWERED = "answered"
    """By the provider that the app addressed, as without Sidestep: also with an error about the request itself."""
    REROUTED = "rerouted"
    """Answered by another one."""
    FAILED = "failed"
    """The app got a failure, a provider's or ours, or an answer that broke off."""
    LEFT = "left"
    """The app left, or the call was killed by hand, before its end: neither answered nor failed."""


class Then(enum.StrEnum):
    """What follows while the client has seen nothing."""

    HAND_OVER = "hand_over"
    """The app gets this answer as it came."""
    RETRY = "retry"
    """Once more at the same provider, then the next."""
    NEXT = "next"
    """The next provider; never the same again within this request."""
    WAIT = "wait"
    """Wait out a short cooldown and ask the same again, else the next."""
    REPAIR = "repair"
    """The same provider at once, with a copy of the call without sealed reasoning; else the app gets this answer."""
    LARGER = "larger"
    """A provider whose model takes a longer context, else the app gets this answer."""


class ErrorKind(enum.StrEnum):
    """What a provider's error body or error event says, in one word."""

    NONE = "none"
    """No error was recognised."""
    UNKNOWN_MODEL = "unknown_model"
    CONTEXT_TOO_LONG = "context_too_long"
    QUOTA = "quota"
    """Out of credit: waiting a little does not help."""
    RATE_LIMIT = "rate_limit"
    OVERLOADED = "overloaded"
    LOADING = "loading"
    """It is well, and has to load the model first."""
    SIZE_LIMITED = "size_limited"
    """The request alone is larger than a rate limit allows: smaller ones are welcome."""
    CREDENTIAL = "credential"
    SEALED = "sealed"
    """It does not take the sealed reasoning of the call, or misses some."""
    LACKS = "lacks"
    """An endpoint, a field, a value, a beta or a size that this provider does not take; another may."""
    INVALID = "invalid"
    """Any other error about the request itself: malformed, or against a policy."""
    RELAYED = "relayed"
    """An aggregator's word that the provider behind it has failed, whatever status it bears."""
    PAGE = "page"
    """A page of a firewall or a delivery network: nothing that the provider itself has said."""
    OUTPUT = "output"
    """The model has made an output that could not be used; the provider is well."""
    SERVER = "server"
    """Any other error on the provider's side."""


@dataclass(frozen=True, slots=True)
class ErrorFacts:
    """What was read from a provider's error. `message` may quote a prompt: never log it."""

    kind: ErrorKind
    message: str = ""


NO_ERROR = ErrorFacts(ErrorKind.NONE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt ended.

    `reason` is a word of the outcome table (`connect`, `timeout`, `http_5xx`, …). `status` is the HTTP
    status of the answer, None if there was none. `cooldown_seconds` is set by a cooldown whose end the
    provider announced; None leaves the length to the cooldown's own backoff. `account`: the limit is the account's
    (credit, credential, plan), whatever model or operation was asked for. `family`: it is that of the models whose
    names hold this word. `cause`: what its reason leaves open, in words. `size_limited`: the request is too large
    for a rate limit, which says nothing of smaller ones. `open_ended`: nobody has told when the limit ends.
    """

    kind: Kind
    reason: str
    then: Then = Then.HAND_OVER
    status: int | None = None
    cooldown_seconds: float | None = None
    account: bool = False
    size_limited: bool = False
    open_ended: bool = False
    family: str = ""
    cause: str = field(default="", compare=False)

    @property
    def words(self) -> str:
        """What happened, for a person: never a quotation."""
        return reason_in_words(self.reason, self.status, self.cause)

    @property
    def slow(self) -> bool:
        """Whether finding out cost the app a wait."""
        return self.reason == "timeout"

    @property
    def alive(self) -> bool:
        """Whether the provider gave an HTTP answer that shows it working: below 500, save 429."""
        return self.status is not None and self.status < 500 and self.status != 429

    @property
    def label(self) -> str:
        """What `x-sidestep-attempts` and the flow's comment show: the status, else the reason.

        A 2xx that is no answer for the app is named by its reason: `openai:200` would read as a success.
        """
        answered = self.kind is Kind.SUCCESS or (self.kind is Kind.NEUTRAL and self.then is Then.HAND_OVER)
        if self.status is None or (self.status < 300 and not answered):
            return self.reason
        return str(self.status)


NAMES = {
    "connect": "could not be reached",
    "timeout": "said nothing in time",
    "bad_response": "gave no answer in its 200",
    "truncated": "broke off its answer",
    "stream_error": "ended its stream with an error",
    "rate_limit": "a rate limit",
    "limit_foreseen": "a rate limit, foreseen",
    "quota": "the account is spent or barred",
    "plan": "a window of the plan is used up",
    "credential": "its key is refused",
    "slow": "far slower than usual",
    "loading": "loads the model first",
    "unknown_model": "does not have the model",
    "lacks": "does not take such a call",
    "size_limited": "the call alone is larger than its limit",
    "context_too_long": "the prompt is too long for its model",
    "sealed_refused": "does not take the reasoning in the call",
    "page": "a firewall's page came in its place",
    "bad_output": "its model made nothing that can be used",
    "other_form": "answered in another form than was asked for",
    "queued": "its turn did not come in time",
}
"""What a reason means, where its own word does not say it."""


_REFUSALS = {
    "open": "{}'s circuit is open",
    "forced_open": "{} is held open by hand",
    "probing": "{} is being tried again",
    "recovering": "{} is given calls again little by little",
}


def refusal_in_words(provider: str, reason: str) -> str:
    """Why a provider was not asked."""
    return _REFUSALS.get(reason, f"{{}} is {reason}").format(provider)


def reason_in_words(reason: str, status: int | None, cause: str | None = None) -> str:
    """What an attempt that ended so has met: never a quotation."""
    if cause:
        return cause
    if reason in ("http_5xx", "conflict") and status is not None:
        return f"answered {status}"
    if reason == "bad_response" and status is not None and 300 <= status < 400:
        return f"answered {status}, which is not followed"
    if reason == "bad_response" and status == 101:
        return "gave no answer over its WebSocket"
    return NAMES.get(reason, reason)
