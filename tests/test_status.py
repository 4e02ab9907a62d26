"""What people and machines see of the engine: whole answers, and the facts on the page."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sidestep import status
from sidestep.breaker import judging
from sidestep.breaker.circuit import State
from sidestep.breaker.cooldown import Subject
from sidestep.breaker.outcomes import Kind, Outcome, Then
from sidestep.breaker.windows import Standing, Window
from sidestep.dialects.base import Usage
from sidestep.routing.lateness import kind_of
from support.flows import ask
from support.world import World, toml

ANNOUNCED = Outcome(Kind.COOLDOWN, "rate_limit", Then.NEXT, 429, 7.5)
TOTALS = {"success": 0, "failure": 0, "cooldown": 0, "neutral": 0, "slow": 0, "unread": 0}
IDLE: dict[str, Any] = {
    "state": "closed",
    "failure_count": 0,
    "successes": 0,
    "failures": 0,
    "window_seconds": 60,
    "totals": TOTALS,
    "retry_after": None,
    "permits_out": 0,
    "in_flight": 0,
    "cooldown": None,
}


def world(names: str = "abc", scope: str = "provider", strategy: str = "priority") -> World:
    circuit = f'[circuit]\nfailure_threshold = 2\nopen_seconds = 20\nscope = "{scope}"'
    return World(toml(strategy, circuit, **dict.fromkeys(names, "")))


def busy() -> World:
    """One provider whose circuit is open, one that cools down, one that is being asked."""
    w = world()
    assert w.call(failing="a") == "ab"
    exchange = w.exchange()
    ask(w, exchange)
    w.fail(exchange, judging.TIMEOUT)
    ask(w, exchange)
    w.fail(exchange, ANNOUNCED)
    ask(w, exchange)
    w.now += 0.25
    return w


def providers(w: World) -> dict[str, Any]:
    found: dict[str, Any] = status.health(w.engine, w.now)[1]["providers"]
    return found


# --- several workers


def test_metrics_of_several_workers_are_those_of_one_proxy() -> None:
    """Each family once, each sample with its worker."""
    w = busy()
    one = status.metrics(w.engine, w.now).decode()
    assert w.call() == "c"
    two = status.metrics(w.engine, w.now).decode()
    text = status.metrics_of({1: one, 3: two})
    families = [line for line in text.splitlines() if line.startswith("# ")]
    assert len(families) == len(set(families)) == one.count("# ")
    samples = [line for line in text.splitlines() if not line.startswith("# ")]
    for number, alone in ((1, one), (3, two)):
        own = [line for line in samples if f'worker="{number}"' in line]
        plain = [line.replace(f'worker="{number}",', "").replace(f'{{worker="{number}"}}', "") for line in own]
        assert plain == [line for line in alone.splitlines() if not line.startswith("# ")]
    parsed = {family.name: family for family in text_string_to_metric_families(text)}
    calls = [s for s in parsed["sidestep_requests"].samples if s.name.endswith("_total")]
    assert {s.labels["worker"] for s in calls} <= {"1", "3"}
    assert sum(s.value for s in parsed["sidestep_attempts_in_flight"].samples) == 2


# --- health


def test_at_first_all_is_well() -> None:
    """Every provider is there before any was asked."""
    w = world()
    body = {
        "status": "ok",
        "mode": "enforce",
        "in_flight": 0,
        "routes": {"openai": {"status": "ok", "served_by": "a", "because": None}},
        "providers": dict.fromkeys("abc", IDLE),
    }
    assert status.health(w.engine, w.now) == (200, body)


def test_each_provider_with_its_circuit_its_counts_and_its_cooldown() -> None:
    """Seconds from now; counts are of the window, of failures in a row, and in all."""
    w = busy()
    assert status.health(w.engine, w.now) == (
        200,
        {
            "status": "degraded",
            "mode": "enforce",
            "in_flight": 1,
            "routes": {
                "openai": {
                    "status": "degraded",
                    "served_by": "c",
                    "because": "a's circuit opened just now: said nothing in time; tried again in 20 s."
                    " b cools down for chat/completions, m: rate_limit; 8 s to go",
                    "stays": {"b": 1},
                }
            },
            "providers": {
                "a": {
                    **IDLE,
                    "state": "open",
                    "failure_count": 2,
                    "failures": 2,
                    "totals": {**TOTALS, "failure": 2},
                    "retry_after": 19.75,
                },
                "b": {
                    **IDLE,
                    "successes": 1,
                    "totals": {**TOTALS, "success": 1, "cooldown": 1},
                    "cooldown": {"seconds": 7.25, "reason": "rate_limit", "limits": 1},
                },
                "c": {**IDLE, "permits_out": 1, "in_flight": 1},
            },
        },
    )
    w.now += 7.25
    assert providers(w)["b"]["cooldown"] is None


@pytest.mark.parametrize(
    ("held", "code", "word"),
    [
        ({}, 200, "ok"),
        ({"a": State.DISABLED}, 200, "ok"),
        ({"a": State.FORCED_OPEN}, 200, "degraded"),
        (dict.fromkeys("abc", State.DISABLED), 200, "ok"),
        (dict.fromkeys("abc", State.FORCED_OPEN), 503, "unhealthy"),
    ],
)
def test_how_it_is_going(held: dict[str, State], code: int, word: str) -> None:
    """Unhealthy only when no provider would take a call: that is what a health check acts on."""
    w = world()
    for name, state in held.items():
        w.engine.hold(name, state)
    found, body = status.health(w.engine, w.now)
    assert (found, body["status"]) == (code, word)
    assert {n: p["state"] for n, p in body["providers"].items()} == {
        **dict.fromkeys("abc", "closed"),
        **{n: str(s) for n, s in held.items()},
    }


def fail_model(w: World, model: str, times: int = 2) -> None:
    for _ in range(times):
        exchange = w.exchange({"model": model})
        ask(w, exchange)
        w.fail(exchange, Outcome(Kind.FAILURE, "http_5xx", Then.NEXT, 503))


def test_with_a_circuit_per_model_a_provider_is_as_its_worst_model() -> None:
    """Its counts are those of all its models, its time that of the first that may be asked again. While one model can
    be asked it is not down."""
    w = world("a", scope="model")
    assert providers(w)["a"] == {**IDLE, "models": {}}
    fail_model(w, "m")
    w.now += 5
    fail_model(w, "n")
    both = {"m": "open", "n": "open"}
    found = {**IDLE, "state": "open", "failure_count": 4, "failures": 4, "retry_after": 15.0, "models": both}
    found["totals"] = {**TOTALS, "failure": 4}
    assert providers(w)["a"] == found
    assert status.health(w.engine, w.now)[0] == 503
    fail_model(w, "o", times=1)
    assert providers(w)["a"]["models"] == {**both, "o": "closed"}
    assert (providers(w)["a"]["state"], status.health(w.engine, w.now)[0]) == ("open", 200)
    w.now += 15
    assert providers(w)["a"]["models"] == {"m": "half_open", "n": "open", "o": "closed"}


@pytest.mark.parametrize(("times", "state"), [(2, "open"), (1, "half_open")])
def test_the_worst_of_several_models(times: int, state: str) -> None:
    """Open is worse than half-open, which is worse than closed."""
    w = world("a", scope="model")
    fail_model(w, "m")
    w.now += 20
    fail_model(w, "n", times)
    assert providers(w)["a"]["state"] == state


def test_while_it_is_probed_no_time_is_told() -> None:
    """The probe may be over at any moment."""
    w = world("a")
    assert w.call(failing="a") == "a-"
    w.call(failing="a")
    w.now += 20
    ask(w, w.exchange())
    found = providers(w)["a"]
    assert (found["state"], found["permits_out"], found["retry_after"]) == ("half_open", 1, None)


def test_the_time_to_first_content_where_it_is_measured() -> None:
    """In milliseconds, of a provider over all its models."""
    w = world("ab", strategy="fastest")
    exchange = w.exchange()
    attempt = ask(w, exchange)
    w.now += 0.1234
    w.settle(exchange, judging.SUCCESS)
    name = attempt.candidate.provider.name
    assert providers(w)[name]["first_content_ms"] == 123.4
    assert [n for n, p in providers(w).items() if "first_content_ms" in p] == [name]


def test_totals_are_of_all_attempts_since_the_start() -> None:
    """What a closing circuit forgets, and what the window has lost, is still in them; what was not read counts as
    neutral, and by itself."""
    w = world("a")
    w.call(failing="a")
    w.call(failing="a")
    w.now += 20
    w.call()
    w.now += 100
    w.engine.attempts_total[("a", Kind.NEUTRAL, "unread")] = 3
    w.engine.attempts_total[("a", Kind.NEUTRAL, "conflict")] = 1
    found = {**TOTALS, "success": 1, "failure": 2, "neutral": 4, "unread": 3}
    assert providers(w)["a"] == {**IDLE, "totals": found}


def test_what_came_of_all_requests() -> None:
    """For `sidestep run` to say at its end; the most frequent reroute first."""
    w = world()
    nothing: dict[str, Any] = {"calls": 0, "failed": 0, "causes": [], "rerouted": [], "providers": [], "plans": {}}
    assert status.summary(w.engine, w.now) == nothing
    w.engine.requests_total.update({("r", "answered"): 5, ("s", "failed"): 2, ("r", "failed"): 1})
    w.engine.rerouted.update({("a", "b"): 1, ("a", "c"): 3})
    for cause in ("b too", "a said no", "a said no"):
        w.engine.recent.failed(cause)
    w.engine.attempts_total.update({("b", Kind.SUCCESS, "ok"): 4, ("b", Kind.FAILURE, "http_5xx"): 9})
    w.engine.tokens_total["b", "input"] = 70
    w.engine.cost_total["b"] = 0.1234567  # type: ignore[assignment]
    tokens = {"input": 70, "output": 0, "cached": 0}
    w.engine.plans.told(Subject("b", "f"), (Window("5h", "opus", Standing.WARNING, 0.91234, 60.4),), w.now)
    window = {"window": "5h", "models": "opus", "status": "warning", "used": 0.9123, "resets_in": 50}
    assert status.summary(w.engine, w.now + 10) == {
        "calls": 8,
        "failed": 3,
        "causes": [{"text": "a said no", "count": 2}, {"text": "b too", "count": 1}],
        "rerouted": [{"from": "a", "to": "c", "count": 3}, {"from": "a", "to": "b", "count": 1}],
        "providers": [{"name": "b", "answers": 4, "tokens": tokens, "cost": 0.123457, "saved": 0}],
        "plans": {"b": [[window]]},
    }


def test_what_is_usual_is_told_once_enough_is_known() -> None:
    w = world()
    kind = kind_of("a", "m", stream=True, body_bytes=20_000)
    for _ in range(19):
        w.engine.times.began(kind, 0.5, 1.0, w.now)
    provider = w.engine.settings.providers[0]
    assert "usual_first_content" not in status.provider_status(w.engine, provider, w.now)
    w.engine.times.began(kind, 0.5, 1.0, w.now)
    (told,) = status.provider_status(w.engine, provider, w.now)["usual_first_content"]
    assert 950 < told.pop("p50_ms") <= told.pop("p95_ms") < 1_100
    assert told == {"model": "m", "streamed": True, "request_bytes_from": 16_384}


# --- metrics


BOUNDS = ("0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "20.0", "30.0", "60.0", "120.0", "300.0", "600.0")


def histogram(name: str, within: int, seconds: float, *, number: int = 1, slow: int = 0, **labels: str) -> list[str]:
    """The lines of some values, which were within all bounds or none; `slow` of them not within the first two."""

    def line(what: str, value: float, **more: str) -> str:
        told = ",".join(f'{k}="{v}"' for k, v in sorted({**labels, **more}.items()))
        return f"{name}_{what}{{{told}}} {float(value)}"

    return [
        f"# TYPE {name} histogram",
        *(line("bucket", within - (slow if place < 2 else 0), le=bound) for place, bound in enumerate(BOUNDS)),
        line("bucket", number, le="+Inf"),
        line("count", number),
        line("sum", seconds),
    ]


def test_every_metric() -> None:
    """All lines, save those that explain them: names and labels are what dashboards are made of."""
    w = busy()
    w.engine.requests_total.update({("r", "answered"): 5, ("q", "failed"): 2})
    w.engine.rerouted.update({("a", "b"): 2, ("a", "c"): 3})
    w.engine.attempts_total[("b", Kind.NEUTRAL, "unread")] = 2
    w.engine.hedges_total[("b", "won")] = 2
    w.engine.wasted_tokens["a"] = 7
    attempt = next(iter(w.engine.in_flight))
    attempt.usage, attempt.cost = Usage(10, 4), 0.5
    w.engine.settle(attempt, judging.SUCCESS, w.now)
    w.engine.ended(attempt, w.now)
    ask(w, w.exchange())
    w.engine.durations.took(("r", "answered"), 700.0)
    lines = [line for line in status.metrics(w.engine, w.now).decode().splitlines() if not line.startswith("# HELP")]
    states = ("closed", "open", "half_open", "forced_open", "disabled")
    state = {"a": "open", "b": "closed", "c": "closed"}
    assert lines == [
        "# TYPE sidestep_attempts_total counter",
        'sidestep_attempts_total{outcome="failure",provider="a",reason="timeout"} 2.0',
        'sidestep_attempts_total{outcome="cooldown",provider="b",reason="rate_limit"} 1.0',
        'sidestep_attempts_total{outcome="neutral",provider="b",reason="unread"} 2.0',
        'sidestep_attempts_total{outcome="success",provider="b",reason="ok"} 1.0',
        'sidestep_attempts_total{outcome="success",provider="c",reason="ok"} 1.0',
        "# TYPE sidestep_requests_total counter",
        'sidestep_requests_total{result="failed",route="q"} 2.0',
        'sidestep_requests_total{result="answered",route="r"} 5.0',
        *histogram("sidestep_time_to_first_content_seconds", 1, 0, provider="b", form="whole"),
        *histogram("sidestep_call_duration_seconds", 0, 700, route="r", result="answered"),
        *histogram("sidestep_attempt_duration_seconds", 2, 0, number=2, provider="a", outcome="failure"),
        *histogram("sidestep_attempt_duration_seconds", 1, 0, provider="b", outcome="success")[1:],
        *histogram("sidestep_attempt_duration_seconds", 1, 0, provider="b", outcome="cooldown")[1:],
        *histogram("sidestep_attempt_duration_seconds", 1, 0.25, slow=1, provider="c", outcome="success")[1:],
        "# TYPE sidestep_rerouted_total counter",
        "sidestep_rerouted_total 5.0",
        "# TYPE sidestep_unread_total counter",
        'sidestep_unread_total{provider="a"} 0.0',
        'sidestep_unread_total{provider="b"} 2.0',
        'sidestep_unread_total{provider="c"} 0.0',
        "# TYPE sidestep_tokens_total counter",
        'sidestep_tokens_total{direction="input",provider="b"} 200000.0',
        'sidestep_tokens_total{direction="output",provider="b"} 10.0',
        'sidestep_tokens_total{direction="input",provider="c"} 10.0',
        'sidestep_tokens_total{direction="output",provider="c"} 4.0',
        "# TYPE sidestep_cost_usd_total counter",
        'sidestep_cost_usd_total{provider="c"} 0.5',
        "# TYPE sidestep_cached_tokens_total counter",
        'sidestep_cached_tokens_total{provider="b"} 150000.0',
        "# TYPE sidestep_cache_saved_usd_total counter",
        'sidestep_cache_saved_usd_total{provider="b"} 0.0',
        "# TYPE sidestep_hedges_total counter",
        'sidestep_hedges_total{provider="b",result="won"} 2.0',
        "# TYPE sidestep_hedge_wasted_tokens_total counter",
        'sidestep_hedge_wasted_tokens_total{provider="a"} 7.0',
        "# TYPE sidestep_circuit_state gauge",
        *[
            f'sidestep_circuit_state{{provider="{name}",state="{each}"}} {float(state[name] == each)}'
            for name in "abc"
            for each in states
        ],
        "# TYPE sidestep_circuit_failures gauge",
        'sidestep_circuit_failures{provider="a"} 2.0',
        'sidestep_circuit_failures{provider="b"} 0.0',
        'sidestep_circuit_failures{provider="c"} 0.0',
        "# TYPE sidestep_permits_out gauge",
        'sidestep_permits_out{provider="a"} 0.0',
        'sidestep_permits_out{provider="b"} 0.0',
        'sidestep_permits_out{provider="c"} 1.0',
        "# TYPE sidestep_cooldown_seconds gauge",
        'sidestep_cooldown_seconds{provider="a"} 0.0',
        'sidestep_cooldown_seconds{provider="b"} 7.25',
        'sidestep_cooldown_seconds{provider="c"} 0.0',
        "# TYPE sidestep_attempts_in_flight gauge",
        "sidestep_attempts_in_flight 1.0",
    ]


def test_a_provider_of_several_dialects_is_told_once() -> None:
    """In health, in the metrics, of which no series may come twice."""
    text = toml("priority", "", a="").replace('dialect = "openai"\nbase_url = "http://a.test/v1"', BASES)
    w = World(text + '[[routes]]\nintercept = ["http://claude.test"]\ndialect = "anthropic"\nproviders = ["a"]\n')
    assert len(w.engine.settings.providers) == 2
    assert w.call() == "a"
    assert list(providers(w)) == ["a"]
    lines = status.metrics(w.engine, w.now).decode().splitlines()
    series = [line.rpartition(" ")[0] for line in lines if line[0] != "#"]
    assert sorted(set(series)) == sorted(series)


BASES = 'base_urls = { openai = "http://a.test/v1", anthropic = "http://a.test" }'
