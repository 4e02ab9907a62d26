"""What a debugger and a log line show of a request and its attempts."""

from __future__ import annotations

from sidestep.breaker.outcomes import Kind, Outcome, Then
from sidestep.routing.engine import Attempt
from support.world import World, toml

DOWN = Outcome(Kind.FAILURE, "http_5xx", Then.NEXT, status=503)


def test_a_request_and_its_attempts_say_what_an_operator_would_ask() -> None:
    """A request shows its number, route, model, trail and the end of its budget; an attempt its provider, the model
    as that calls it, the latest word on it and the status."""
    world = World(toml(a='models = { "m" = "m-at-a" }', b=""))
    exchange = world.exchange()
    shown = f"Exchange({exchange.id}, route={exchange.match.route.name}, model='m', [{{}}], deadline=1600.000)"
    assert repr(exchange) == shown.format("")
    attempt = exchange.next(world.now)
    assert repr(attempt) == "Attempt(a, model='m-at-a', pending, status=None)"
    assert repr(exchange) == shown.format("a:pending")
    assert isinstance(attempt, Attempt)
    attempt.status = 503
    world.fail(exchange, DOWN)
    exchange.next(world.now)
    world.settle(exchange)
    assert repr(exchange) == shown.format("a:503, b:200")
    assert [repr(a) for a in exchange.attempts] == [
        "Attempt(a, model='m-at-a', failure 503, status=503)",
        "Attempt(b, model='m', success 200, status=None)",
    ]


def test_neither_shows_a_key_or_a_prompt() -> None:
    """Their text may reach a log."""
    world = World(toml(a="").replace('api_key = "k"', 'api_key = "sk-CANARY"'))
    exchange = world.exchange({"messages": [{"role": "user", "content": "CANARY prompt"}]})
    assert "CANARY" not in repr(exchange) + repr(exchange.next(world.now))
