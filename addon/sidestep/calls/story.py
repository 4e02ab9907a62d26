"""What mitmweb shows of a routed flow: comment, marker, metadata, response headers. Plain data only.

Never a key, a prompt or a body: names, statuses, times and counts.
"""

from __future__ import annotations

from typing import Any

from mitmproxy import http

from sidestep.breaker.outcomes import Kind
from sidestep.calls.session import Session
from sidestep.routing.engine import Attempt

REROUTED = ":twisted_rightwards_arrows:"
FAILED = ":red_circle:"


def headers(session: Session) -> tuple[tuple[bytes, bytes], ...]:
    """The `x-sidestep-*` header fields of the answer."""
    exchange = session.exchange
    if exchange is None:
        return ()
    told = (b"x-sidestep-attempts", trail(exchange.attempts, session.flow.response).encode())
    identity = (b"x-sidestep-request-id", exchange.id.encode())
    if session.answered_by is None:
        return identity, told
    return identity, (b"x-sidestep-provider", session.answered_by.name.encode()), told


def trail(attempts: list[Attempt], response: http.Response | None) -> str:
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


def tell(session: Session) -> None:
    """Write the story on the flow: at its end, and it may be told again."""
    flow, exchange = session.flow, session.exchange
    if exchange is None:
        return
    attempts = exchange.attempts
    flow.metadata["sidestep"] = {
        "request_id": exchange.id,
        "route": exchange.match.route.name,
        "dialect": exchange.call.dialect,
        "operation": exchange.call.operation,
        "model": exchange.call.model,
        "provider": None if session.answered_by is None else session.answered_by.name,
        "attempts": [_attempt(a, exchange.arrived) for a in attempts],
        "refused": [{"provider": r.provider, "reason": r.reason} for r in exchange.refused],
    }
    if session.advice is not None:
        flow.metadata["sidestep"]["advice"] = session.advice
    failed = [a for a in attempts if a.outcome is not None and a.outcome.kind in (Kind.FAILURE, Kind.COOLDOWN)]
    app_host = session.match.intercept.host  # the request's own host may be an address
    last = attempts[-1] if attempts else None
    rerouted = session.answered_by is not None and last is not None and not last.candidate.own
    if session.answered_by is None:
        why = ", ".join(a.label for a in failed) or ", ".join(f"{r.provider}: {r.reason}" for r in exchange.refused)
        comment = f"{app_host} → nobody ({why})" if why else f"{app_host} → nobody"
    else:
        comment = f"{app_host} → {session.answered_by.name}"
        before = [a.label for a in failed if a is not last]
        if before:
            comment += f" after {', '.join(before)}"
        elif exchange.refused and rerouted:
            comment += f" for {', '.join(f'{r.provider} is {r.reason}' for r in exchange.refused)}"
        if last is not None and last in failed:
            comment += f", which failed: {last.label}"
    if session.acting and (rerouted or failed or session.answered_by is None):
        flow.comment = comment
        answered = session.answered_by is not None and last is not None and last not in failed
        flow.marked = REROUTED if answered else FAILED
    elif session.advice is not None:
        flow.comment = session.advice


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
        "status": attempt.status,
        "started_ms": round((attempt.started - arrived) * 1000, 1),
        "headers_ms": ms(attempt.headers_at),
        "content_ms": ms(attempt.content_at),
        "end_ms": ms(attempt.ended_at),
        "tokens": None if usage is None else {"input": usage.input, "output": usage.output, "cached": usage.cached},
        "cost": attempt.cost,
        "notes": list(attempt.notes),
    }
