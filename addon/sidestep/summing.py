"""The pictures of several workers of one port as one: what is counted is added up, what they know of a provider is told
as the worst of them has it, with its number where they differ.

Pure: no mitmproxy, no clock, no I/O. A picture is what `overview` makes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sidestep.breaker.circuit import State
from sidestep.routing.recent import CALLS, FINE, MINUTES, added, quantile
from sidestep.routing.serving import Health, Serving, overall
from sidestep.status import fleet_in_words

EVENTS = 200
WORST_FIRST = (State.FORCED_OPEN, State.OPEN, State.HALF_OPEN, State.CLOSED, State.DISABLED)
ADDED = ("attempts", "failed", "cost", "saved")
"""Of a provider, what is counted since the start."""

Picture = dict[str, Any]
Told = list[tuple[int, dict[str, Any]]]
"""Of each worker, by number."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one worker has left. `lives`: False of one that has ended, whose counts still count."""

    number: int
    picture: Picture
    parts: dict[str, Any]
    lives: bool = True


def whole(found: Sequence[Part]) -> tuple[Picture, dict[str, Any]]:
    """All of them as one, and what it takes to add that to others. The first is the one that is asked."""
    asked, living = found[0], [p for p in found if p.lives]
    minute = max(p.parts["minute"] for p in found)
    minutes: dict[int, list[int]] = {}
    waits: dict[str, list[int]] = {}
    for part in found:
        for number, counts in part.parts["minutes"].items():
            minutes[int(number)] = _sum(minutes.get(int(number)), counts)
        for name, counts in part.parts["waits"].items():
            waits[name] = _sum(waits.get(name), counts)
    routes = [_route(_of(living, "routes", r["name"])) for r in asked.picture["routes"]]
    accounts: dict[str, list[str]] = {}
    providers = []
    for name in dict.fromkeys(p["name"] for part in living for p in part.picture["providers"]):
        plans = _plans(living, name)
        accounts[name] = list(plans)
        told = _of(living, "providers", name)
        counted = _of([p for p in found if not p.lives], "providers", name)
        providers.append({**_provider(told, counted, waits.get(name, ())), "plans": list(plans.values())})
    picture = {
        **asked.picture,
        "started": min(p.picture["started"] for p in found),
        "status": str(overall(Serving(Health(r["status"]), None, None) for r in routes)),
        "in_flight": sum(p.picture["in_flight"] for p in living),
        "totals": _added([p.picture["totals"] for p in found]),
        "hour": _hour(found, minute, minutes),
        "routes": routes,
        "providers": providers,
        "calls": _latest(found, "calls", CALLS),
        "events": _latest(found, "events", EVENTS),
    }
    if fleets := [(p.number, p.picture["fleet"]) for p in living if "fleet" in p.picture]:
        picture["fleet"] = _fleet(fleets)
    kept = {number: counts for number, counts in minutes.items() if number > minute - MINUTES}
    return picture, {"minute": minute, "minutes": kept, "waits": waits, "accounts": accounts}


def _of(found: Iterable[Part], what: str, name: str) -> Told:
    return [(p.number, each) for p in found for each in p.picture[what] if each["name"] == name]


def _sum(before: Sequence[int] | None, counts: Sequence[int]) -> list[int]:
    return list(counts) if before is None else added((before, counts), len(FINE) + 1)


def _added(totals: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Numbers by name, and within one more such."""
    result: dict[str, Any] = {}
    for each in totals:
        for name, value in each.items():
            if isinstance(value, dict):
                result[name] = _added([result.get(name, {}), value])
            else:
                result[name] = round(result.get(name, 0) + value, 6)
    return result


def _hour(found: Sequence[Part], minute: int, minutes: dict[int, list[int]]) -> dict[str, Any]:
    def summed(what: str) -> list[int]:
        counts = [0] * MINUTES
        for part in found:
            late = minute - part.parts["minute"]  # it was left in an earlier minute, perhaps
            for place, count in enumerate(part.picture["hour"][what]):
                if 0 <= place - late < MINUTES:
                    counts[place - late] += count
        return counts

    shown = [minutes.get(n, ()) for n in range(minute - MINUTES + 1, minute + 1)]
    waits = added(shown, len(FINE) + 1)
    return {
        **{what: summed(what) for what in ("calls", "failed", "rerouted")},
        "p50_ms": [_ms(0.5, counts) for counts in shown],
        "p50": _ms(0.5, waits),
        "p95": _ms(0.95, waits),
    }


def _ms(share: float, counts: Sequence[int]) -> int | None:
    seconds = quantile(share, counts, FINE)
    return None if seconds is None else round(seconds * 1000)


def _route(told: Told) -> dict[str, Any]:
    """As the one that is asked has it, where they agree."""
    routes = [r for _, r in told]
    stays = _added([r.get("stays", {}) for r in routes])
    since = min((r["since"] for r in routes if r["since"] is not None), default=None)
    result = {**routes[0], "since": since} | ({"stays": stays} if stays else {})
    if len({(r["status"], r["served_by"]) for r in routes}) == 1:
        return result
    served = dict.fromkeys(name for r in routes if r["served_by"] for name in r["served_by"].split(", "))
    words = [f"at worker {n}: {r['because']}" for n, r in told if r["because"] and r["status"] != Health.OK]
    return result | {
        "status": str(Health.DEGRADED if len({r["status"] for r in routes}) > 1 else routes[0]["status"]),
        "served_by": ", ".join(served) or None,
        "because": ". ".join(words) or routes[0]["because"],
    }


def _provider(told: Told, counted: Told, waits: Sequence[int]) -> dict[str, Any]:
    """The worst of them speaks. `counted`: what is added of workers that have ended."""
    number, worst = min(told, key=_badness)
    everywhere = [p for _, p in (*told, *counted)]
    sums: dict[str, Any] = {what: round(sum(p[what] for p in everywhere), 6) for what in ADDED}
    errors = [p["last_error"] for p in everywhere if p["last_error"] is not None]
    words = worst["words"]
    if len({(p["state"], p["cooldown"] is None) for _, p in told}) > 1:
        words += f" (at worker {number})"
    return {
        **worst,
        **sums,
        "words": words,
        "in_flight": sum(p["in_flight"] for _, p in told),
        "failures_in_a_row": max(p["failures_in_a_row"] for _, p in told),
        "error_share": round(sums["failed"] / sums["attempts"], 4) if sums["attempts"] else None,
        "p50_ms": _ms(0.5, waits),
        "p95_ms": _ms(0.95, waits),
        "tokens": _added([p["tokens"] for p in everywhere]),
        "last_error": max(errors, key=lambda e: e["at"], default=None),
    }


def _badness(told: tuple[int, dict[str, Any]]) -> tuple[int, float, int]:
    _, p = told
    seconds = 0.0 if p["cooldown"] is None else p["cooldown"]["seconds"]
    return WORST_FIRST.index(p["state"]), -seconds, -p["attempts"]


def _plans(living: Sequence[Part], name: str) -> dict[str, Any]:
    """Each account's windows once, as the worker has them that knows of more use."""
    found: dict[str, Any] = {}
    for part in living:
        for _, p in _of([part], "providers", name):
            for account, windows in zip(part.parts["accounts"].get(name, ()), p["plans"], strict=False):
                if account not in found or _used(windows) > _used(found[account]):
                    found[account] = windows
    return found


def _used(windows: Iterable[dict[str, Any]]) -> float:
    return max((w["used"] or 0.0 for w in windows), default=0.0)


def _latest(found: Sequence[Part], what: str, most: int) -> list[dict[str, Any]]:
    """With the worker of each, and what it has counted in."""
    each = [
        {"worker": part.number, "run": part.picture["run"], **entry} for part in found for entry in part.picture[what]
    ]
    return sorted(each, key=lambda e: e["at"], reverse=True)[:most]


def _fleet(told: Told) -> dict[str, Any]:
    """As the one that is asked has it; `alone` where any is, and which."""
    alone = [(n, fleet) for n, fleet in told if fleet["state"] != "together"]
    if not alone:
        return told[0][1]
    fleet = {**alone[0][1], "alone": [n for n, _ in alone]}
    return fleet | {"words": fleet_in_words(fleet)}
