"""What an OpenTelemetry collector is told of calls: each once, whoever was asked meanwhile."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.calls import Client
from support.collector import Collector
from support.provider import Behaviour, Provider
from support.proxy import Mitmdump
from support.settings import key_of, route, table
from support.waiting import until

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]
APP = "http://app.test/v1"
HOSTS = {"openai": APP}
PRICE = "price = { input = 2.0, output = 10.0 }\n"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def settings(*providers: Provider, **tables: dict[str, Any]) -> str:
    quick = {"attempts": {"backoff_seconds": 0.01}, **tables}
    return "\n".join([*(table(n, t) for n, t in quick.items()), route("chat", *providers, intercept=APP, extra=PRICE)])


def metric(m: Mitmdump, name: str) -> float:
    """The sum of a metric over its labels, as `/metrics` has it."""
    found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", m.page("/metrics")[1].decode(), re.MULTILINE)
    return sum(map(float, found))


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_failover(provider: Make, proxy: Start, collector: Collector) -> None:
    """One span with usage and cost, one below it for each attempt, below the app's own; nothing is sent on for it."""
    a, b = provider("a"), provider("b")
    a.default = Behaviour(status=503)
    m = proxy(settings(a, b), env=collector.env())
    m.wait_for_log("OpenTelemetry is told of calls: metrics and traces by OTLP")
    before = time.time_ns()
    with Client(m, HOSTS) as app:
        traced = app.call(
            "chat", stream=False, messages=said("one"), extra_headers={"traceparent": PARENT, "tracestate": "x=1"}
        )
        plain = app.call("chat", messages=said("two"), stream=True, stream_options={"include_usage": True})
    assert (traced.provider, plain.provider) == ("b", "b")
    until(lambda: len(collector.calls()) == 2, "both calls are told")
    first, second = collector.calls()

    assert (first.trace_id, first.parent) == (TRACE, SPAN)
    assert second.trace_id != TRACE
    assert second.parent == ""
    assert first.name == f"chat {first.attributes['gen_ai.request.model']}"
    assert first.attributes["sidestep.request_id"] == traced.headers["x-sidestep-request-id"]
    assert (first.attributes["sidestep.provider"], first.attributes["sidestep.result"]) == ("b", "rerouted")
    assert first.attributes["gen_ai.request.stream"] is False
    assert "gen_ai.response.time_to_first_chunk" not in first.attributes
    assert second.attributes["gen_ai.response.time_to_first_chunk"] > 0
    assert before < first.start < first.end < time.time_ns()
    assert first.resource["service.name"] == "sidestep"
    assert not first.failed

    attempts = collector.attempts(first)
    assert [s.name for s in attempts] == ["attempt a", "attempt a", "attempt b"]
    assert [s.attributes.get("error.type") for s in attempts] == ["503", "503", None]
    assert [s.failed for s in attempts] == [True, True, False]
    assert attempts[2].attributes["server.port"] == b.port
    assert all(first.start <= s.start <= s.end <= first.end for s in attempts)
    assert not any("usage" in key or "cost" in key for s in attempts for key in s.attributes)

    for way in ("input", "output"):
        told = sum(s.attributes[f"gen_ai.usage.{way}_tokens"] for s in collector.calls())
        assert told == metric(m, "sidestep_tokens_total") - metric_of_other(m, way) > 0
    cost = sum(s.attributes["sidestep.cost_usd"] for s in collector.calls())
    assert cost == pytest.approx(metric(m, "sidestep_cost_usd_total"))
    until(lambda: collector.total("gen_ai.client.operation.duration")[0] == 2, "both calls are measured")
    assert collector.total("sidestep.cost")[1] == pytest.approx(cost)
    assert collector.total("sidestep.attempts")[1] == metric(m, "sidestep_attempts_total") == len(collector.spans) - 2
    assert collector.total("gen_ai.client.token.usage")[1] == metric(m, "sidestep_tokens_total")
    assert collector.total("gen_ai.client.operation.time_to_first_chunk")[0] == 1

    assert {r.header("traceparent") for r in (*a.requests, *b.requests)} == {PARENT, None}
    assert {r.header("tracestate") for r in (*a.requests, *b.requests)} == {"x=1", None}
    assert not any(r.header("baggage") for r in (*a.requests, *b.requests))


def metric_of_other(m: Mitmdump, way: str) -> float:
    """Tokens of the other direction."""
    found = re.findall(r'^sidestep_tokens_total{direction="(\w+)".* (\S+)$', m.page("/metrics")[1].decode(), re.M)
    return sum(float(value) for direction, value in found if direction != way)


def test_a_hedge(provider: Make, proxy: Start, collector: Collector) -> None:
    """The late attempt and the one beside it are two spans of one call, whose usage and cost count once."""
    a, b = provider("a"), provider("b")
    a.default = Behaviour(silent=True)
    m = proxy(settings(a, b, hedge={"after_seconds": 0.3}), env=collector.env())
    with Client(m, HOSTS) as app:
        result = app.call("chat", stream=True, stream_options={"include_usage": True})
    assert result.attempts == "a:slow, b:200"
    until(lambda: len(collector.spans) == 3, "the call is told")
    (call,) = collector.calls()
    late, beside = collector.attempts(call)
    assert (late.attributes["sidestep.outcome"], late.attributes["sidestep.hedge"]) == ("slow", False)
    assert (beside.attributes["sidestep.outcome"], beside.attributes["sidestep.hedge"]) == ("success", True)
    tokens = call.attributes["gen_ai.usage.input_tokens"] + call.attributes["gen_ai.usage.output_tokens"]
    assert tokens == metric(m, "sidestep_tokens_total") > 0
    until(lambda: collector.total("sidestep.attempts")[1] == 2, "the attempts are measured")
    assert collector.total("gen_ai.client.token.usage")[1] == tokens
    assert collector.total("gen_ai.client.operation.duration")[0] == 1


def test_failed_and_refused_calls(provider: Make, proxy: Start, collector: Collector) -> None:
    """What an app gets as an error is one; no key and no prompt is told."""
    a = provider("a")
    a.script.extend([Behaviour(status=400), Behaviour(status=503), Behaviour(status=503)])
    m = proxy(settings(a), env=collector.env())
    with Client(m, HOSTS) as app:
        for text in ("SECRET one", "SECRET two"):
            app.call("chat", stream=False, messages=said(text))
    until(lambda: len(collector.calls()) == 2, "both calls are told")
    asked, failed = collector.calls()
    assert (asked.attributes["error.type"], asked.attributes["sidestep.result"], asked.failed) == (
        "400",
        "rerouted",
        True,
    )
    assert (failed.attributes["error.type"], failed.attributes["sidestep.result"]) == ("503", "failed")
    everything = repr(collector.spans) + repr(collector.measures)
    assert not any(word in everything for word in ("SECRET", "CANARY", key_of("a")))


@pytest.mark.parametrize("kind", ["refuses", "is gone"])
def test_a_collector_that_takes_nothing(kind: str, provider: Make, proxy: Start) -> None:
    """Calls go on, the log says so in our words, and the end is not kept waiting."""
    a = provider("a")
    with Collector(status=400) as collector:
        env = collector.env(OTEL_EXPORTER_OTLP_TIMEOUT="1")
        if kind == "is gone":
            env["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:1/?key=CANARY"
        m = proxy(settings(a), env=env)
        with Client(m, HOSTS) as app:
            assert app.call("chat", stream=False).provider == "a"
        m.wait_for_log("OpenTelemetry: .* could not be sent", 20)
        assert "CANARY" not in m.log
        with Client(m, HOSTS) as app:
            assert app.call("chat", stream=False, messages=said("again")).provider == "a"
        before = time.monotonic()
        assert m.stop() == 0
        assert time.monotonic() - before < 8


@pytest.mark.parametrize(
    "env", [{}, {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}]
)
def test_nothing_is_imported_unasked(env: dict[str, str], provider: Make, proxy: Start) -> None:
    a = provider("a")
    m = proxy(settings(a), env=env)
    with Client(m, HOSTS) as app:
        app.call("chat", stream=False)
    maps = Path(f"/proc/{m.process.pid}/maps")
    assert not maps.exists() or "_upb" not in maps.read_text(), "protobuf is loaded"
    assert "OpenTelemetry" not in m.log


def test_without_the_extra(provider: Make, proxy: Start, collector: Collector, tmp_path: Path) -> None:
    """Variables that are meant for the app alone change nothing but a line in the log."""
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").write_text("raise ImportError('not here')\n")
    a = provider("a")
    m = proxy(settings(a), env=collector.env(PYTHONPATH=str(tmp_path)))
    m.wait_for_log(r"install sidestep\[otel\]")
    with Client(m, HOSTS) as app:
        assert app.call("chat", stream=False).provider == "a"
    assert not collector.paths
