"""What people and machines see of the engine: health, metrics, the status page. Pure reading, no policy.

Pure: no mitmproxy, no clock. No key, no prompt and no body can be read here, for the engine holds none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from sidestep.breaker.circuit import State
from sidestep.breaker.judging import UNREAD
from sidestep.breaker.outcomes import Kind, Result
from sidestep.config.settings import Provider
from sidestep.routing.engine import Engine
from sidestep.routing.histograms import BOUNDS, Histograms
from sidestep.routing.lateness import SIZES
from sidestep.routing.serving import Health, Serving, overall, serving

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

MODELS_LISTED = 100
"""Of one provider, the worst first: an app that makes up models must not make the page endless."""

PLANS_LISTED = 20
MEMBERS_NAMED = 8
"""Of the other proxies of a fleet."""
KINDS_LISTED = 20
"""Of one provider, the kinds of calls seen latest."""

_BOUNDS = (*map(str, BOUNDS), "+Inf")
_WORST_FIRST = (State.FORCED_OPEN, State.OPEN, State.HALF_OPEN, State.CLOSED, State.DISABLED)


def provider_status(engine: Engine, provider: Provider, now: float) -> dict[str, Any]:
    """One provider's line in `/health`. Histograms are seconds from now.

    Its state is the worst of its circuits: its own, and those of its models. Each attempt succeeds in the circuit of
    its model and fails in one of both, so that no attempt is counted twice. `failure_count`: in a row; `successes` and
    `failures`: what the circuits have counted since they last closed, in the last `window_seconds`; `totals`: all
    attempts that have ended since the start.
    """
    own = engine.circuit_of(provider).snapshot(now)
    models = {model: circuit.snapshot(now) for model, circuit in engine.circuits_of_models(provider).items()}
    snapshots = [own, *models.values()]
    counted = list(models.values()) if provider.circuit.scope == "model" else [own]
    states = {s.state for s in snapshots}
    # A probe that is out may be over at any moment: its lease is no time until it is asked again.
    waits = {s: s.retry_after for s in snapshots if s.retry_after is not None and s.state is not State.HALF_OPEN}
    retry = waits.get(own, min(waits.values(), default=None))
    cooling = engine.cooldowns.of(provider.name, now)
    longest = next(iter(cooling.values()), None)
    status: dict[str, Any] = {
        "state": str(next(s for s in _WORST_FIRST if s in states)),
        "failure_count": sum(s.failure_count for s in snapshots),
        "successes": sum(s.successes for s in counted),
        "failures": sum(s.failures for s in snapshots),
        "window_seconds": provider.circuit.window_seconds,
        "totals": _totals(engine, provider.name),
        "retry_after": None if retry is None else round(retry, 3),
        "permits_out": own.permits_out,
        "in_flight": engine.out[provider.name],
        "cooldown": None
        if longest is None
        else {"seconds": round(longest.seconds, 3), "reason": longest.reason, "limits": len(cooling)},
    }
    if (seconds := engine.strategist.paces.overall(provider.name)) is not None:
        status["first_content_ms"] = round(seconds * 1000, 1)
    if told := plans(engine, provider.name, now):
        status["plans"] = told
    if usual := engine.times.usual(provider.name, now):
        latest = tuple(usual.items())[-KINDS_LISTED:]
        status["usual_first_content"] = [
            {
                "model": kind.model,
                "streamed": kind.stream,
                "request_bytes_from": (0, *SIZES)[kind.size],
                "p50_ms": round(p50 * 1000),
                "p95_ms": round(p95 * 1000),
            }
            for kind, (p50, p95) in reversed(latest)
        ]
    if provider.circuit.scope == "model":
        worst = sorted(models.items(), key=lambda item: _WORST_FIRST.index(item[1].state))
        status["models"] = {model: str(s.state) for model, s in worst[:MODELS_LISTED]}
    return status


def plans(engine: Engine, name: str, now: float) -> list[list[dict[str, Any]]]:
    """The windows of each account at a provider."""
    return [
        [
            {
                "window": w.name,
                "models": w.family or None,
                "status": str(w.standing),
                "used": None if w.used is None else round(w.used, 4),
                "resets_in": None if w.resets_in is None else round(w.resets_in),
            }
            for w in told
        ]
        for told in engine.plans.of(name, now)[:PLANS_LISTED]
    ]


def _totals(engine: Engine, name: str) -> dict[str, int]:
    """Attempts at a provider that have ended since the start, by outcome; those that are neutral hold the unread."""
    totals = dict.fromkeys(map(str, Kind), 0)
    for (provider, outcome, _), count in engine.attempts_total.items():
        if provider == name:
            totals[outcome] += count
    return {**totals, "unread": _unread(engine, name)}


def _unread(engine: Engine, name: str) -> int:
    return engine.attempts_total[(name, Kind.NEUTRAL, UNREAD.reason)]


def _routes(engine: Engine, now: float) -> dict[str, Serving]:
    return {route.name: serving(engine, route, now) for route in engine.settings.routes}


def health(engine: Engine, now: float) -> tuple[int, dict[str, Any]]:
    """HTTP status and body of `/health`."""
    routes = _routes(engine, now)
    word = overall(routes.values())
    body = {
        "status": str(word),
        "mode": engine.mode,
        "in_flight": len(engine.in_flight),
        "routes": {
            name: {"status": str(r.status), "served_by": r.served_by, "because": r.because}
            | ({"stays": dict(r.stays)} if r.stays else {})
            for name, r in routes.items()
        },
        "providers": {name: provider_status(engine, p, now) for name, (p, *_) in engine.settings.by_name.items()},
    }
    if engine.sharing is not None:
        body["fleet"] = engine.sharing.status
    return (503 if word is Health.UNHEALTHY else 200), body


def fleet_in_words(fleet: Mapping[str, Any]) -> str:
    """How it is with those that share what they know: within reach or since when not, who is there, what is shared."""
    text = f"{fleet['state']}, group {fleet['group']} by {fleet['store']}"
    if fleet["state"] != "together":
        ago = fleet["heard_seconds_ago"]
        text += ": the store has not answered" + (" yet" if ago is None else f" for {round(ago)} s")
        if "alone" in fleet:
            text += f" at worker {', '.join(map(str, fleet['alone']))}"
    own = fleet["name"].partition("/")[0]
    others: dict[str, list[Mapping[str, Any]]] = {}
    for member in fleet["members"]:
        others.setdefault(member["name"].partition("/")[0], []).append(member)
    others.pop(own, None)
    if others:
        words = [_member(name, each) for name, each in list(others.items())[:MEMBERS_NAMED]]
        words += [f"{len(others) - len(words)} more"] if len(others) > len(words) else []
        text += f"; this is {own}, beside {_count(len(others), 'other')} ({'; '.join(words)})"
    if fleet["shared"]:
        text += "; shared: " + ", ".join(_count(n, word) for word, n in fleet["shared"].items())
    return text


def _member(name: str, workers: list[Mapping[str, Any]]) -> str:
    worst = max((w["status"] for w in workers), key=[*map(str, Health)].index)
    many = f" with {len(workers)} workers" if len(workers) > 1 else ""
    return f"{name}{many}: {worst}, {_count(sum(w['calls'] for w in workers), 'call')}"


def _count(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def _results(engine: Engine) -> Counter[str]:
    """What came of all calls, over all routes."""
    came: Counter[str] = Counter()
    for (_, result), count in engine.requests_total.items():
        came[result] += count
    return came


def summary(engine: Engine, now: float) -> dict[str, Any]:
    """What came of all requests so far, for `sidestep run` to say at its end."""
    came = _results(engine)
    return {
        "calls": came.total(),
        "failed": came[Result.FAILED],
        "causes": [{"text": text, "count": count} for text, count in engine.recent.causes.most_common()],
        "rerouted": [{"from": a, "to": b, "count": count} for (a, b), count in engine.rerouted.most_common()],
        "providers": [found for name in engine.settings.by_name if (found := _answers(engine, name))["answers"]],
        "plans": {name: told for name in engine.settings.by_name if (told := plans(engine, name, now))},
    }


def _answers(engine: Engine, name: str) -> dict[str, Any]:
    """How many calls a provider has answered, and what for."""
    good = (n for (of, outcome, _), n in engine.attempts_total.items() if (of, outcome) == (name, Kind.SUCCESS))
    return {"name": name, "answers": sum(good), **spent(engine, name)}


def spent(engine: Engine, name: str) -> dict[str, Any]:
    """The tokens of a provider's answers, those of their prompts that came from its cache, what all that cost, and what
    the cache has saved, in USD."""
    tokens = {way: engine.tokens_total[name, way] for way in ("input", "output")}
    return {
        "tokens": tokens | {"cached": engine.cached_tokens[name]},
        "cost": round(engine.cost_total[name], 6),
        "saved": round(engine.saved_total[name], 6),
    }


def _histogram(name: str, text: str, labels: list[str], times: Histograms) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for key, counts, total in times:
        family.add_metric(key, list(zip(_BOUNDS, counts, strict=True)), total)
    return family


class _EngineCollector(Collector):
    """Reads the engine when it is scraped; keeps nothing."""

    def __init__(self, engine: Engine, now: float) -> None:
        self._engine = engine
        self._now = now

    def collect(self) -> Iterator[Metric]:
        engine = self._engine
        attempts = CounterMetricFamily(
            "sidestep_attempts",
            "Attempts by provider, outcome and reason.",
            labels=["provider", "outcome", "reason"],
        )
        for (name, outcome, reason), count in sorted(engine.attempts_total.items()):
            attempts.add_metric([name, str(outcome), reason], count)
        yield attempts
        requests = CounterMetricFamily(
            "sidestep_requests",
            "Routed requests by route and by what the app got: answered, rerouted, failed, or it left before.",
            labels=["route", "result"],
        )
        for (route, result), count in sorted(engine.requests_total.items()):
            requests.add_metric([route, result], count)
        yield requests
        yield _histogram(
            "sidestep_time_to_first_content_seconds",
            "From the sending of an attempt to its first content; of a whole answer, to its end.",
            ["provider", "form"],
            engine.first_content,
        )
        yield _histogram(
            "sidestep_call_duration_seconds",
            "From a routed request's arrival to its end, whoever was asked meanwhile.",
            ["route", "result"],
            engine.durations,
        )
        yield _histogram(
            "sidestep_attempt_duration_seconds",
            "From the sending of an attempt to its end, by provider and outcome.",
            ["provider", "outcome"],
            engine.attempt_durations,
        )
        yield CounterMetricFamily(
            "sidestep_rerouted",
            "Requests answered by another provider than their own.",
            value=engine.rerouted_total,
        )
        unread = CounterMetricFamily(
            "sidestep_unread", "Answers that went on in a form that is not read here.", labels=["provider"]
        )
        for name in engine.settings.by_name:
            unread.add_metric([name], _unread(engine, name))
        yield unread
        tokens = CounterMetricFamily(
            "sidestep_tokens", "Tokens as reported by the provider.", labels=["provider", "direction"]
        )
        for (name, direction), count in sorted(engine.tokens_total.items()):
            tokens.add_metric([name, direction], count)
        yield tokens
        cost = CounterMetricFamily("sidestep_cost_usd", "Cost in USD by the price list.", labels=["provider"])
        for name, dollars in sorted(engine.cost_total.items()):
            cost.add_metric([name], dollars)
        yield cost
        cached = CounterMetricFamily(
            "sidestep_cached_tokens", "Of the input tokens, those that came from the prompt cache.", labels=["provider"]
        )
        for name, count in sorted(engine.cached_tokens.items()):
            cached.add_metric([name], count)
        yield cached
        saved = CounterMetricFamily(
            "sidestep_cache_saved_usd", "What the prompt cache has saved in USD by the price list.", labels=["provider"]
        )
        for name, dollars in sorted(engine.saved_total.items()):
            saved.add_metric([name], dollars)
        yield saved
        hedges = CounterMetricFamily(
            "sidestep_hedges",
            "Attempts made beside a late one, by what came of them: won, lost, failed, or unsent.",
            labels=["provider", "result"],
        )
        for (name, result), count in sorted(engine.hedges_total.items()):
            hedges.add_metric([name, result], count)
        yield hedges
        wasted = CounterMetricFamily(
            "sidestep_hedge_wasted_tokens",
            "Tokens of prompts that went to a provider for an answer that another one gave first.",
            labels=["provider"],
        )
        for name, count in sorted(engine.wasted_tokens.items()):
            wasted.add_metric([name], count)
        yield wasted
        yield from self._gauges()

    def _gauges(self) -> Iterator[Metric]:
        engine, now = self._engine, self._now
        state = GaugeMetricFamily(
            "sidestep_circuit_state",
            "1 for the state that a provider's circuit is in.",
            labels=["provider", "state"],
        )
        failures = GaugeMetricFamily("sidestep_circuit_failures", "Consecutive failures.", labels=["provider"])
        permits = GaugeMetricFamily("sidestep_permits_out", "Permits not settled yet.", labels=["provider"])
        cooldown = GaugeMetricFamily("sidestep_cooldown_seconds", "Seconds until a cooldown ends.", labels=["provider"])
        for name, (provider, *_) in engine.settings.by_name.items():
            status = provider_status(engine, provider, now)
            for each in State:
                state.add_metric([name, str(each)], float(status["state"] == each))
            failures.add_metric([name], status["failure_count"])
            permits.add_metric([name], status["permits_out"])
            cooldown.add_metric([name], (status["cooldown"] or {"seconds": 0})["seconds"])
        yield state
        yield failures
        yield permits
        yield cooldown
        yield GaugeMetricFamily("sidestep_attempts_in_flight", "Attempts under way.", value=len(engine.in_flight))
        if engine.sharing is not None:
            shared = engine.sharing.status
            yield GaugeMetricFamily(
                "sidestep_fleet_together",
                "1 while the store that the fleet shares is within reach.",
                value=float(shared["state"] == "together"),
            )
            yield GaugeMetricFamily(
                "sidestep_fleet_members",
                "Processes of the fleet that were there a moment ago, this one included.",
                value=len(shared["members"]),
            )
            yield GaugeMetricFamily(
                "sidestep_fleet_entries",
                "What is known of the fleet: circuits, limits, holds.",
                value=shared["entries"],
            )
            yield CounterMetricFamily(
                "sidestep_fleet_commands", "Commands that were sent to the store.", value=shared["sent"]
            )
            yield CounterMetricFamily(
                "sidestep_fleet_errors", "Round trips to the store that failed.", value=shared["errors"]
            )


def metrics_of(workers: Mapping[int, str]) -> str:
    """The metrics of several workers as those of one proxy, with a label for the worker: whichever is asked answers for
    all, so that what is counted never runs back."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for number, text in workers.items():
        family = ""
        for line in text.splitlines():
            if line.startswith("# "):
                _, what, name = line.split(" ", 3)[:3]
                family = name if what == "HELP" else family
                if line not in heads.setdefault(family, []):
                    heads[family].append(line)
                continue
            name, brace, rest = line.partition("{")
            if not brace:
                name, _, rest = line.partition(" ")
                rest = f"}} {rest}"
            comma = "," if brace else ""
            samples.setdefault(family, []).append(f'{name}{{worker="{number}"{comma}{rest}')
    return "".join(f"{line}\n" for family in heads for line in (*heads[family], *samples.get(family, ())))


def metrics(engine: Engine, now: float) -> bytes:
    """The body of `/metrics` in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_EngineCollector(engine, now))
    return generate_latest(registry)
