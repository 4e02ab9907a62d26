"""The whole picture, for the page and for a shell: what of the engine a person wants to see, as plain data.

Pure: no mitmproxy, no clock. Made when somebody looks, at most twice a second. Names, statuses, times and counts;
no key, no prompt and no body can be read here.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from sidestep import status
from sidestep.breaker.circuit import State
from sidestep.breaker.outcomes import NAMES, Result, reason_in_words
from sidestep.config.settings import Provider, Route
from sidestep.routing.engine import Engine
from sidestep.routing.recent import FINE, added, quantile
from sidestep.routing.serving import Serving, serving

EVENTS = 200
REFUSALS = {"open": "open: it has failed", "forced_open": "held open by hand", "probing": "being tried again"}
"""Why a provider was not asked, where that word alone does not say it."""
WORKERS = {
    "silent": "worker {number} has not answered for {silent_seconds} s: what it counted until then is in here",
    "starting": "worker {number} is being started",
}
"""How a worker is that does not serve."""
KEPT_SECONDS = 0.5
"""For so long a picture serves all who look."""


class Overview:
    """State: what was told in the log, each with its number, its time and how bad it is; of each route who serves it
    and since when; when all began, and a name for what has been counted since; the last picture and when it was taken.
    Times are seconds of the monotonic clock."""

    def __init__(self, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self._clock = clock
        self._wall = wall
        self._began = clock()
        self._run = f"{int(wall() * 1000):x}"
        self._events: deque[tuple[int, float, str, str]] = deque(maxlen=EVENTS)
        self._told = 0
        self._served: dict[str, tuple[str | None, float | None]] = {}
        self._taken_at = -math.inf
        self._picture: dict[str, Any] = {}

    def told(self, text: str, level: str = "info") -> None:
        """Something that a person would want to know. `level`: info, warning, error."""
        self._told += 1
        self._events.append((self._told, self._clock(), level, text))
        self._taken_at = -math.inf

    def look(self, engine: Engine) -> None:
        """Something has changed that may decide who serves: it is noted since when."""
        now = self._clock()
        for route in engine.settings.routes:
            self._note(route.name, serving(engine, route, now), now)

    def _note(self, name: str, found: Serving, now: float) -> float | None:
        """Since when it is served by whom it is; None: it has been from the start."""
        by, since = self._served.get(name, (found.served_by, None))
        if by != found.served_by:
            since = now
        self._served[name] = found.served_by, since
        return since

    def picture(self, engine: Engine) -> dict[str, Any]:
        """All of it. Times are seconds since 1970, so that they can be shown as a clock's."""
        now = self._clock()
        if now - self._taken_at >= KEPT_SECONDS:
            self._taken_at, self._picture = now, self._take(engine, now)
        return self._picture

    def changed(self) -> None:
        """The last picture is out of date."""
        self._taken_at = -math.inf

    def _take(self, engine: Engine, now: float) -> dict[str, Any]:
        wall = self._wall()

        def at(when: float) -> float:
            return round(wall - (now - when), 2)

        def since(route: Route) -> float | None:
            changed = self._note(route.name, serving(engine, route, now), now)
            return None if changed is None else at(changed)

        _, health = status.health(engine, now)
        names = engine.settings.by_name
        return {
            "now": round(wall, 2),
            "started": at(self._began),
            "run": self._run,
            "status": health["status"],
            "mode": engine.mode,
            "in_flight": health["in_flight"],
            "source": engine.settings.source,
            "totals": _totals(engine),
            "hour": _hour(engine, now),
            **({"fleet": _fleet(health["fleet"])} if "fleet" in health else {}),
            "routes": [
                {
                    "name": route.name,
                    "intercepts": [str(base) for base in route.intercepts],
                    "providers": [p.name for p in route.providers],
                    "strategy": route.strategy,
                    **health["routes"][route.name],
                    "since": since(route),
                }
                for route in engine.settings.routes
            ],
            "providers": [
                _provider(engine, provider, health["providers"][name], now, at)
                for name, (provider, *_) in names.items()
            ],
            "calls": [
                {"number": number, "at": at(when), **_call(story)}
                for number, when, story in reversed(engine.recent.calls)
            ],
            "events": [
                {"number": number, "at": at(when), "level": level, "text": text}
                for number, when, level, text in reversed(self._events)
            ],
        }


def _fleet(fleet: dict[str, Any]) -> dict[str, Any]:
    return fleet | {"words": status.fleet_in_words(fleet)}


def parts(engine: Engine, now: float) -> dict[str, Any]:
    """What it takes to add a picture to those of other workers: the minute in which it was taken, of each minute and of
    each provider how many answers began within each bound of `FINE`, and whose the windows of plans are."""
    return {
        "minute": int(now // 60),
        "minutes": {m.number: m.waits for m in engine.recent.hour(now) if any(m.waits)},
        "waits": dict(engine.recent.waits),
        "accounts": {name: engine.plans.accounts(name, now) for name in engine.settings.by_name},
    }


def _totals(engine: Engine) -> dict[str, Any]:
    came = dict.fromkeys(map(str, Result), 0)
    for (_, result), count in engine.requests_total.items():
        came[result] += count
    tokens = {"input": 0, "output": 0, "cached": engine.cached_tokens.total()}
    for (_, direction), count in engine.tokens_total.items():
        tokens[direction] += count
    return {
        "calls": sum(came.values()),
        **came,
        "tokens": tokens,
        "cost": round(sum(engine.cost_total.values()), 6),
        "saved": round(sum(engine.saved_total.values()), 6),
    }


def _hour(engine: Engine, now: float) -> dict[str, Any]:
    minutes = engine.recent.hour(now)
    waits = added((m.waits for m in minutes), len(FINE) + 1)
    return {
        "calls": [m.calls for m in minutes],
        "failed": [m.failed for m in minutes],
        "rerouted": [m.rerouted for m in minutes],
        "p50_ms": [_ms(quantile(0.5, m.waits, FINE)) for m in minutes],
        "p50": _ms(quantile(0.5, waits, FINE)),
        "p95": _ms(quantile(0.95, waits, FINE)),
    }


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _provider(
    engine: Engine, provider: Provider, told: dict[str, Any], now: float, at: Callable[[float], float]
) -> dict[str, Any]:
    name = provider.name
    totals = told["totals"]
    ended = sum(count for outcome, count in totals.items() if outcome != "unread")
    failed = totals["failure"] + totals["cooldown"]
    waits = engine.recent.waits.get(name, ())
    error = engine.last_error.get(name)
    return {
        "name": name,
        "place": str(provider.base_url),
        "state": told["state"],
        "words": in_words(engine, provider, told, now, asked=bool(ended or told["in_flight"])),
        "retry_after": told["retry_after"],
        "cooldown": told["cooldown"],
        "in_flight": told["in_flight"],
        "failures_in_a_row": told["failure_count"],
        "attempts": ended,
        "failed": failed,
        "error_share": round(failed / ended, 4) if ended else None,
        "p50_ms": _ms(quantile(0.5, waits, FINE)),
        "p95_ms": _ms(quantile(0.95, waits, FINE)),
        **status.spent(engine, name),
        "last_error": None if error is None else {"at": at(error[0]), "words": error[1]},
        "plans": told.get("plans", []),
    }


def in_words(engine: Engine, provider: Provider, told: dict[str, Any], now: float, *, asked: bool) -> str:
    """How a provider is, in a few words."""
    name, cooling = provider.name, told["cooldown"]
    if told["state"] == State.FORCED_OPEN:
        return "held open by hand: it gets no calls"
    parts = ["held by hand: it gets calls, whatever fails"] if told["state"] == State.DISABLED else []
    if told["state"] == State.OPEN:
        parts.append(f"not asked: {_why(engine, provider, now)}" + _again(told["retry_after"]))
    elif told["state"] == State.HALF_OPEN:
        parts.append("being tried again: the next call shows whether it is well")
    if cooling is not None and told["state"] != State.DISABLED:
        parts.append(f"passed over for {_span(cooling['seconds'])}: {NAMES.get(cooling['reason'], cooling['reason'])}")
    if lacked := engine.lacked_models(name, now):
        parts.append(f"has no {next(iter(lacked))}" + (f" and {len(lacked) - 1} more" if len(lacked) > 1 else ""))
    return "; ".join(parts) or ("well" if asked else "not asked yet")


def _why(engine: Engine, provider: Provider, now: float) -> str:
    for circuit in (engine.circuit_of(provider), *engine.circuits_of_models(provider).values()):
        seen = circuit.snapshot(now)
        if seen.state is State.OPEN:
            return seen.last_failure
    return "its circuit is open"


def _again(seconds: float | None) -> str:
    return "" if seconds is None else f"; tried again in {_span(seconds)}"


def _span(seconds: float) -> str:
    """`12 s`, `3 min`, `2 h`: for people."""
    whole = max(1, math.ceil(seconds))
    if whole < 120:
        return f"{whole} s"
    return f"{round(whole / 60)} min" if whole < 7200 else f"{round(whole / 3600)} h"


def _call(story: dict[str, Any]) -> dict[str, Any]:
    attempts = [_attempt(a) for a in story["attempts"]]
    return {
        "id": story["request_id"],
        "result": story["result"],
        "route": story["route"],
        "operation": story["operation"],
        "model": story["model"],
        "provider": story["provider"],
        "ms": max((a["started_ms"] + (a["end_ms"] or 0) for a in attempts), default=0),
        "attempts": attempts,
        "refused": [r | {"reason": REFUSALS.get(r["reason"], r["reason"])} for r in story["refused"]],
    }


def _attempt(attempt: dict[str, Any]) -> dict[str, Any]:
    kept = ("provider", "model", "outcome", "status", "started_ms", "content_ms", "end_ms", "tokens", "cost", "notes")
    return {name: attempt[name] for name in kept} | {"words": _words(attempt)}


def _words(attempt: dict[str, Any]) -> str:
    """How an attempt ended: never a quotation."""
    reason: str | None = attempt["reason"]
    status: int | None = attempt["status"]
    if reason is None:
        return "not over"
    if status is not None and (reason == "http_5xx" or status >= 400):
        return f"answered {status}" + (f" ({NAMES[reason]})" if reason in NAMES else "")
    return reason_in_words(reason, status, attempt["cause"])


# --- in lines, for a terminal


def lines_of(picture: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Each route's verdict: how it is, and that in a sentence."""
    for route in picture["routes"]:
        yield route["status"], verdict(route)


def of_workers(picture: dict[str, Any]) -> tuple[bool, str] | None:
    """How the workers of the port are: whether all serve, and that in a sentence; None: there is one process."""
    workers = picture.get("workers")
    if not workers:
        return None
    serving = [w for w in workers if w["state"] == "serves"]
    words = [WORKERS[w["state"]].format(**w) for w in workers if w["state"] != "serves"]
    # The mode follows within a moment; where it does not, that is to be seen.
    modes = [f"worker {w['number']} has mode {w['mode']}" for w in serving if w["mode"] != picture["mode"]]
    count = f"{len(serving)} of {len(workers)}" if words else str(len(workers))
    shares = ", ".join(f"{w['calls']}" for w in workers if "calls" in w)
    text = f"{count} workers serve (calls: {shares})"
    return not words and not modes, "; ".join([text, *words, *modes])


def verdict(route: dict[str, Any]) -> str:
    """A route in a sentence."""
    by = route["served_by"]
    because = f": {route['because']}" if route["because"] else ""
    if by is None:
        return f"no provider takes {route['name']} calls{because}"
    stays = "".join(
        f"; {count} conversation{' stays' if count == 1 else 's stay'} with {name}"
        for name, count in route.get("stays", {}).items()
    )
    return f"{route['name']} calls are served by {by}{because}{stays}"
