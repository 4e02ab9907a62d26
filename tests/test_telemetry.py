"""What OpenTelemetry is told of a call: names, sums, errors; which signals its variables ask for."""

from __future__ import annotations

import pytest

from sidestep.breaker import judging
from sidestep.breaker.outcomes import Result
from sidestep.config import reading
from sidestep.dialects.base import Usage
from sidestep.routing.engine import Attempt
from sidestep.telemetry import MODELS, OTHER_MODEL, Instrument, Key, Models, provider_kind, trace, wanted
from support.world import World, toml

PLACE = "http://127.0.0.1:4318"


@pytest.mark.parametrize(
    ("environ", "signals"),
    [
        ({}, set()),
        ({"OTEL_SERVICE_NAME": "app"}, set()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": PLACE}, {"traces", "metrics"}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": PLACE, "OTEL_SDK_DISABLED": "TRUE"}, set()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": PLACE, "OTEL_METRICS_EXPORTER": "none"}, {"traces"}),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": PLACE}, {"traces"}),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": PLACE}, {"metrics"}),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, {"traces"}),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_EXPORTER_OTLP_ENDPOINT": PLACE}, {"metrics"}),
    ],
)
def test_what_the_variables_ask_for(environ: dict[str, str], signals: set[str]) -> None:
    assert wanted(environ) == signals


@pytest.mark.parametrize(
    ("base_url", "kind"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://east.openai.azure.com/openai/v1", "azure.ai.openai"),
        ("https://api.mistral.ai/v1", "mistral_ai"),
        ("https://notapi.openai.com.test/v1", "mine"),
    ],
)
def test_the_conventions_word_for_a_provider(base_url: str, kind: str) -> None:
    text = f'[[providers]]\nname = "mine"\ndialect = "openai"\nbase_url = "{base_url}"\napi_key = "k"\n'
    assert provider_kind(reading.parse(text, {}).providers[0]) == kind


def test_usage_and_cost_are_those_of_all_attempts_and_told_once() -> None:
    """The first provider broke its answer off, with usage, while it was held back; the second answered."""
    world = World(toml(a="", b=""))
    exchange = world.exchange({"stream": True})
    first = exchange.next(world.now)
    assert isinstance(first, Attempt)
    first.usage, first.cost = Usage(10, 2), 0.5
    world.now += 2
    world.fail(exchange, judging.CUT_STREAM)
    second = exchange.next(world.now)
    assert isinstance(second, Attempt)
    second.usage, second.cost = Usage(10, 30, 4), 1.5
    world.now += 1
    world.settle(exchange)
    world.engine.ended(second, world.now)
    told = trace(exchange, second, Result.REROUTED, 200, world.now + 2)

    about = told.call.attributes
    assert (about[Key.INPUT], about[Key.OUTPUT], about[Key.CACHED], about[Key.COST]) == (20, 32, 4, 2)
    assert (about[Key.FIRST_CHUNK], told.call.ended - told.call.started, told.call.error) == (3, 5, "")
    measured = [(m.instrument, m.value) for m in told.measures]
    assert [v for i, v in measured if i is Instrument.TOKENS] == [10, 2, 10, 30]
    assert [v for i, v in measured if i in (Instrument.DURATION, Instrument.FIRST_CHUNK)] == [3, 5]
    assert [s.error for s in told.attempts] == ["truncated", ""]
    assert [s.ended - s.started for s in told.attempts] == [2, 1]


def test_a_call_that_nobody_would_take() -> None:
    world = World(toml(a=""))
    exchange = world.exchange()
    told = trace(exchange, None, Result.FAILED, 503, world.now)
    assert (told.call.error, told.attempts) == ("503", ())
    left = trace(exchange, None, Result.LEFT, None, world.now)
    assert left.call.error == ""
    assert Key.STATUS not in left.call.attributes


def test_names_that_an_app_makes_up_are_bounded() -> None:
    world = World(toml(a=""))
    told = trace(world.exchange({"model": "x" * 500}), None, Result.LEFT, None, world.now)
    assert told.call.name == "chat " + "x" * 80
    models = Models()
    seen = [models.told({Key.REQUEST_MODEL: f"m{i % (2 * MODELS)}"})[Key.REQUEST_MODEL] for i in range(4 * MODELS)]
    assert len(set(seen)) == MODELS + 1
    assert seen[-1] == OTHER_MODEL
    assert models.told({}) == {}
