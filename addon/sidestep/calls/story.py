"""What mitmweb shows of a routed flow: comment, marker, metadata, response headers. Plain data only.

Never a key, a prompt or a body: names, statuses, times and counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from sidestep.breaker.outcomes import Kind, Outcome, Result, Then, refusal_in_words
from sidestep.calls.session import Session
from sidestep.routing.engine import Attempt

MODEL_LENGTH = 80
"""Characters of a model's name that a line shows."""
URL_LENGTH = 300
REROUTED = ":twisted_rightwards_arrows:"
FAILED = ":red_circle:"
_MARKS = {Result.REROUTED: REROUTED, Result.FAILED: FAILED}

_BAD = frozenset({Kind.FAILURE, Kind.COOLDOWN, Kind.SLOW})
_ABOUT_THE_REQUEST = frozenset({Then.HAND_OVER, Then.LARGER})
"""A neutral answer that says something of the request itself, which any provider might have said."""


def is_broken(attempt: Attempt | None) -> bool:
    """Whether its answer is a failure."""
    return attempt is not None and attempt.outcome is not None and attempt.outcome.kind in _BAD


def result(session: Session) -> Result:
    """What came of a call that is over, by what the app got."""
    flow, answer = session.flow, session.answer
    if session.comes_again:
        return Result.ANSWERED
    outcome = None if answer is None else answer.outcome
    broken = is_broken(answer) or session.broken_off
    if (flow.error is not None or session.app_left) and not broken:
        return Result.LEFT  # all that is left: what a provider or Sidestep breaks off is known
    if broken or flow.response is None or flow.response.status_code >= 500:
        return Result.FAILED
    if answer is None or outcome is None or not _stood_in(session, answer):
        return Result.ANSWERED  # also by another addon, or, where Sidestep only looks on, by a host that is no provider
    good = outcome.kind is Kind.SUCCESS or outcome.then in _ABOUT_THE_REQUEST or outcome.reason == "other_form"
    # That a stand-in does not take the call is no answer to it.
    return Result.REROUTED if good else Result.FAILED


def _stood_in(session: Session, answer: Attempt) -> bool:
    """Whether another provider than the addressed one answered; one at the same address with a key of ours is another,
    for another account pays."""
    return not answer.candidate.own or answer.candidate.provider.name != session.match.addressed


def headers(session: Session) -> tuple[tuple[bytes, bytes], ...]:
    """The `x-sidestep-*` header fields of the answer."""
    exchange = session.exchange
    if exchange is None:
        return ()
    told = (b"x-sidestep-attempts", trail(exchange.attempts).encode())
    identity = (b"x-sidestep-request-id", exchange.id.encode())
    if session.answered_by is None:
        return identity, told
    return identity, (b"x-sidestep-provider", session.answered_by.name.encode()), told


def trail(attempts: list[Attempt]) -> str:
    """`openai:503, azure:200`: an attempt not judged yet is named by the status that is going out."""
    words = []
    for attempt in attempts:
        if attempt.outcome is None and attempt.status is not None:
            words.append(f"{attempt.candidate.provider.name}:{attempt.status}")
        elif attempt.outcome is not None and attempt.outcome.kind is Kind.SUCCESS:
            words.append(f"{attempt.candidate.provider.name}:{attempt.status or 200}")
        else:
            words.append(attempt.label)
    return ", ".join(words)


def tell(session: Session, came: Result) -> dict[str, Any] | None:
    """Write the story on the flow, at its end, and it may be told again; what was written."""
    flow, exchange = session.flow, session.exchange
    if exchange is None:
        return None
    told = flow.metadata["sidestep"] = {
        "request_id": exchange.id,
        "result": str(came),
        "route": exchange.match.route.name,
        "dialect": exchange.call.dialect,
        "operation": exchange.call.operation,
        "model": exchange.call.model,
        "url": _url(session),
        "provider": None if session.answered_by is None else session.answered_by.name,
        "attempts": [_attempt(a, exchange.arrived) for a in exchange.attempts],
        "refused": [{"provider": r.provider, "reason": r.reason} for r in exchange.refused],
    }
    if session.advice is not None:
        told["advice"] = session.advice
    if session.frames is not None:
        told["responses"] = [dict(each) for each in session.frames.told]
    comment = _comment(session, came)
    if session.acting and comment:
        flow.comment = comment
        flow.marked = _MARKS.get(came, "")
    elif session.advice is not None:
        flow.comment = session.advice
    return told


def _comment(session: Session, came: Result) -> str:
    """The story in a line; empty where there is nothing to tell that is not as without Sidestep."""
    exchange, answer, error = session.exchange, session.answer, session.flow.error
    assert exchange is not None
    attempts = exchange.attempts
    if session.frames is not None and session.frames.told:
        return _of_a_socket(session, session.frames.told)
    if came is Result.ANSWERED and len(attempts) == 1:
        return ""
    place = attempts.index(answer) if answer in attempts else len(attempts)
    before = ", ".join(a.label for a in attempts[:place] if a.outcome is not None and a.outcome.kind in _BAD)
    if came is Result.ANSWERED and not before:
        return ""
    refused = exchange.refused
    host = session.match.intercept.host  # the request's own host may be an address
    name = "nobody" if session.answered_by is None else session.answered_by.name
    comment = f"{host} → {name}"
    if answer is None:
        why = before or ", ".join(f"{r.provider}: {r.reason}" for r in refused)
        comment += f" ({why})" if why else ""
    elif before:
        comment += f" after {before}"
    elif refused and _stood_in(session, answer):
        comment += f" as {', '.join(refusal_in_words(r.provider, r.reason) for r in refused)}"
    if came is Result.LEFT:
        killed = error is not None and error.msg == error.KILLED_MESSAGE
        comment += ", killed by hand" if killed else ", but the app left"
    elif came is Result.FAILED and answer is not None:
        comment += f", which failed: {answer.label}"
        if others := ", ".join(a.label for a in attempts[place + 1 :]):
            comment += f"; no better: {others}"
    return comment


def _of_a_socket(session: Session, responses: Collection[Mapping[str, Any]]) -> str:
    """What has been asked over a WebSocket, and what came of it."""
    exchange, by = session.exchange, session.answered_by
    assert exchange is not None
    count, names = len(responses), Counter(r["model"] for r in responses if r["model"])
    name = "nobody" if by is None else by.name
    text = f"{session.match.intercept.host} → {name}: {count} response{'' if count == 1 else 's'}"
    text += f" of {', '.join(names)}" if names else ""
    broken = Counter(r["label"] for r in responses if r["outcome"] in _BAD)
    if broken:
        text += f", {broken.total()} failed ({', '.join(broken)})"
    tokens = [r["tokens"] for r in responses if r["tokens"] is not None]
    if tokens:
        text += f"; {sum(t['input'] for t in tokens):,} tokens in, {sum(t['output'] for t in tokens):,} out"
    before = [a.label for a in exchange.attempts if a.candidate.provider is not by and is_broken(a)]
    before += [refusal_in_words(r.provider, r.reason) for r in exchange.refused]
    return text + (f"; its handshake after {', '.join(dict.fromkeys(before))}" if before else "")


def response(attempt: Attempt, asked: float, heard: float | None, arrived: float) -> dict[str, Any]:
    """The story of one response over a WebSocket. Its times are those since it was asked for, which itself is told as
    the time since the handshake came."""

    def ms(at: float | None) -> float | None:
        return None if at is None else round((at - asked) * 1000, 1)

    return {
        **_attempt(attempt, arrived),
        "label": attempt.label,
        "started_ms": round((asked - arrived) * 1000, 1),
        "headers_ms": ms(heard),
        "content_ms": ms(attempt.content_at),
        "end_ms": ms(attempt.ended_at),
    }


def _moved_on(outcome: Outcome) -> bool:
    """Whether an attempt that ended so is why its call went on to another one."""
    moves = outcome.then is not Then.HAND_OVER and outcome.reason != "hedge_lost"
    return outcome.kind in _BAD or (outcome.kind is Kind.NEUTRAL and moves)


def line(session: Session, came: Result) -> tuple[str, str]:
    """A line of the log, and of what kind it is."""
    exchange = session.exchange
    assert exchange is not None
    causes = dict.fromkeys(
        f"{a.candidate.provider.name}: {a.outcome.words}"
        for a in exchange.attempts
        if a.outcome is not None and _moved_on(a.outcome)
    )
    causes.update(dict.fromkeys(refusal_in_words(r.provider, r.reason) for r in exchange.refused))
    why = "; ".join(causes)
    host = session.match.intercept.host
    model = (exchange.call.model or "")[:MODEL_LENGTH]
    if not model.isprintable():
        model = "".join(c if c.isprintable() else "?" for c in model)
    by = "nobody" if session.answered_by is None else session.answered_by.name
    what = f"was answered by {by}" if came is Result.REROUTED else "failed"
    stays = session.answered_by is not None and exchange.stays_with == by
    if not why and stays:
        why = "its conversation stays there"
    elif not why:
        at_once = came is Result.REROUTED and len(exchange.attempts) == 1
        why = "its route sends it there" if at_once else "see its flow"
    text = f"a call to {host}{f' ({model})' if model else ''} {what}: {why}"
    return f"{exchange.match.route.name} {what} {'; '.join(sorted(causes)) or why}", text


def _url(session: Session) -> str:
    """What the app called, without its query, which may hold its key."""
    original, base = session.original, session.match.intercept
    path = original.path.partition(b"?")[0][:URL_LENGTH].decode("ascii", "replace")
    return f"{base.scheme}://{base.host}{'' if base.port in (80, 443) else f':{base.port}'}{path}"


def facts(session: Session, came: Result) -> dict[str, Any]:
    """What a program that reads the log is told of a call."""
    exchange = session.exchange
    assert exchange is not None
    return {
        "event": str(came),
        "request_id": exchange.id,
        "route": exchange.match.route.name,
        "model": (exchange.call.model or "")[:MODEL_LENGTH] or None,
        "provider": None if session.answered_by is None else session.answered_by.name,
        "attempts": trail(exchange.attempts),
    }


def _attempt(attempt: Attempt, arrived: float) -> dict[str, Any]:
    outcome = attempt.outcome

    def ms(at: float | None) -> float | None:
        return None if at is None else round((at - attempt.started) * 1000, 1)

    usage = attempt.usage
    return {
        "provider": attempt.candidate.provider.name,
        "model": attempt.candidate.model,
        "outcome": None if outcome is None else str(outcome.kind),
        "reason": None if outcome is None else outcome.reason,
        "cause": (outcome.cause or None) if outcome is not None else None,
        "status": attempt.status,
        "started_ms": round((attempt.started - arrived) * 1000, 1),
        "headers_ms": ms(attempt.headers_at),
        "content_ms": ms(attempt.content_at),
        "end_ms": ms(attempt.ended_at),
        "tokens": None if usage is None else {"input": usage.input, "output": usage.output, "cached": usage.cached},
        "cost": attempt.cost,
        "notes": list(attempt.notes),
    }
