"""Which provider serves a route's calls now, whether it is the one that should, and if not, why not, in words.

Pure: no mitmproxy, no clock, no I/O. It foretells for calls in general what `exchange` decides for each of them; what
is known of a provider's models stands for what will be asked of it.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sidestep.breaker.circuit import Circuit, State
from sidestep.breaker.cooldown import Cooling, Subject
from sidestep.config.settings import Provider, Route
from sidestep.routing.engine import Engine
from sidestep.routing.table import addressed


class Health(enum.StrEnum):
    OK = "ok"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class Serving:
    """`served_by`: the provider that the next call goes to; where a strategy shares calls out, all those that it
    chooses from; None: no provider takes any. `because`: what speaks against those before, None if nothing does."""

    status: Health
    served_by: str | None
    because: str | None
    stays: Mapping[str, int] = field(default_factory=dict)
    """Of providers that new calls do not go to: how many conversations go on there if they go on now (`[routing]
    stick_seconds`) and it takes them."""


class _Level(enum.IntEnum):
    """Which calls go to a provider now."""

    ALL = 0
    SOME = 1
    """Others go past it: a model or a limit of one kind of call."""
    LAST = 2
    """Those that no other provider takes."""
    NONE = 3


@dataclass(frozen=True, slots=True)
class _Standing:
    """`refuses`: a circuit refuses calls, even those that no other provider takes. `seconds`: until more calls go to
    it, as far as that is known."""

    name: str
    level: _Level
    words: str = ""
    refuses: bool = False
    seconds: float = 0.0
    lacks: bool = False
    """It has said of all that it was asked for that it does not have it: calls go to those that may have it."""


def serving(engine: Engine, route: Route, now: float) -> Serving:
    """Where a route's calls go now; in the modes that change nothing, to whom apps send them."""
    found = _served(engine, route, now)
    if engine.mode == "enforce":
        return found
    because = f"mode {engine.mode}: calls go where apps send them"
    if engine.mode == "observe":
        because += f", else to {found.served_by or 'nobody'}" + (f": {found.because}" if found.because else "")
    return Serving(Health.OK, ", ".join(dict.fromkeys(addressed(route, i) for i in route.intercepts)), because)


def _served(engine: Engine, route: Route, now: float) -> Serving:
    """By priority the first provider should have a route's calls, with any other strategy any of them."""
    standings = [_standing(engine, provider, now) for provider in route.providers]
    asked = [s for s in standings if not s.lacks] or standings
    takers = [s for s in asked if s.level is not _Level.NONE]
    staying = engine.conversations.staying(route.name, now)
    in_order = route.strategy == "priority"
    if not takers:
        return Serving(Health.UNHEALTHY, None, _words(standings), staying)
    chosen = [s for s in takers if s.level is not _Level.LAST] or [min(takers, key=lambda s: s.seconds)]
    if in_order:
        chosen = chosen[:1]
    should = standings[:1] if in_order else standings
    # A mere preference moves no call where no other provider would take it.
    alone = len(takers) == 1
    well = any(s in takers and (s.level is _Level.ALL or (alone and not s.refuses)) for s in should)
    passed = standings[: standings.index(chosen[0]) + 1] if in_order else standings
    names = [s.name for s in chosen]
    stays = {name: count for name, count in staying.items() if name not in names}
    return Serving(Health.OK if well else Health.DEGRADED, ", ".join(names), _words(passed), stays)


def overall(routes: Iterable[Serving]) -> Health:
    """The one word for all routes: unhealthy only where no call at all would be taken."""
    found = {r.status for r in routes}
    if found == {Health.UNHEALTHY}:
        return Health.UNHEALTHY
    return Health.OK if found <= {Health.OK} else Health.DEGRADED


def _standing(engine: Engine, provider: Provider, now: float) -> _Standing:
    name, own = provider.name, engine.circuit_of(provider)
    models = engine.circuits_of_models(provider)
    if _is_shut(own, now):
        return _Standing(name, _Level.NONE, _of_circuit(name, own, now), refuses=True)
    passed = {model: c for model, c in models.items() if _is_passed_over(c, now)}
    shut = {model: c for model, c in passed.items() if _is_shut(c, now)}
    words = [_of_models(name, shut or passed, now)] if passed else []
    if models and len(shut) == len(models):
        return _Standing(name, _Level.NONE, words[0], refuses=True)
    cooling = {} if own.state(now) is State.DISABLED else engine.cooldowns.of(name, now)
    if cooling:
        words.append(_of_cooldowns(name, cooling))
    if lacked := engine.lacked_models(name, now):
        words.append(_of_lacked(name, lacked))
    lacks = bool(models) and models.keys() <= lacked.keys()
    limited = {s.model or "" for s in cooling}
    if _is_passed_over(own, now):
        level, words = _Level.LAST, [_of_circuit(name, own, now), *words]
    elif not passed and not cooling:
        level = _Level.ALL
    elif any(s.operation is None for s in cooling) or models.keys() <= passed.keys() | limited:
        level = _Level.LAST
    else:
        level = _Level.SOME
    seconds = max((c.seconds for c in cooling.values()), default=0.0)
    return _Standing(name, level, ". ".join(words), bool(shut), seconds, lacks)


def _is_shut(circuit: Circuit, now: float) -> bool:
    """It would take no call, not even one that no other provider takes. What waits for a probe is not refused."""
    refusal = circuit.refusal(now, insist=True)
    return refusal is not None and refusal.reason in ("open", "forced_open")


def _is_passed_over(circuit: Circuit, now: float) -> bool:
    """The next call goes to another provider. Idle and half-open it gets that call, as a probe; and what it gets less
    of while it recovers it gets all the same."""
    refusal = circuit.refusal(now)
    return refusal is not None and refusal.reason != "recovering"


# --- words


def _words(standings: list[_Standing]) -> str | None:
    return ". ".join(s.words for s in standings if s.words) or None


def _of_circuit(name: str, circuit: Circuit, now: float, of: str = "") -> str:
    seen = circuit.snapshot(now)
    if seen.state is State.FORCED_OPEN:
        return f"{name} is held open by hand"
    if seen.state is State.HALF_OPEN:
        return f"{name} is being probed{of}"
    age, again = int(seen.open_age or 0), math.ceil(seen.retry_after or 0)
    when = f"{age} s ago" if age else "just now"
    return f"{name}'s circuit{of} opened {when}: {seen.last_failure}; tried again in {again} s"


def _of_models(name: str, circuits: dict[str, Circuit], now: float) -> str:
    (model, circuit), *others = circuits.items()
    more = f" (and {len(others)} more)" if others else ""
    return _of_circuit(name, circuit, now, f" for {model or 'calls without a model'}{more}")


def _of_lacked(name: str, lacked: dict[str, float]) -> str:
    (model, seconds), *others = lacked.items()
    more = f" (and {len(others)} more)" if others else ""
    return f"{name} lacks {model}{more}; asked for it again in {math.ceil(seconds)} s"


def _of_cooldowns(name: str, cooling: dict[Subject, Cooling]) -> str:
    """The longest of them. Whose key it is that an app brought along is told of none."""
    (subject, longest), *others = cooling.items()
    whose = ["an app's own key"] if subject.credential else []
    what = ", ".join([*whose, *(word for word in (subject.operation, subject.model) if word)])
    of = f" for {what}" if what else ""
    more = f" (and {len(others)} more limits)" if others else ""
    return f"{name} cools down{of}: {longest.reason}; {math.ceil(longest.seconds)} s to go{more}"
