"""What a request does when nobody can answer it at once, while others look for somebody too."""

from __future__ import annotations

from sidestep.breaker import judging
from sidestep.breaker.outcomes import Kind, Outcome, Then
from sidestep.routing.engine import Attempt
from sidestep.routing.exchange import Exchange, Exhausted, Wait
from support.world import World

DOWN = Outcome(Kind.FAILURE, "503", Then.NEXT)
SILENT = Outcome(Kind.FAILURE, "timeout", Then.NEXT)
TEXT = """
circuit = { failure_threshold = 1, open_seconds = 2, probe_wait_seconds = 10 }
attempts = { max = 12, wait_seconds = 3 }

[[providers]]
name = "a"
dialect = "openai"
base_url = "http://a.test/v1"
auth = "none"

[[providers]]
name = "b"
dialect = "openai"
base_url = "http://b.test/v1"
auth = "none"

[[routes]]
intercept = ["http://app.test/v1"]
providers = ["a", "b"]
"""


def world(others: int = 1) -> World:
    """A request is under way, and so many others."""
    made = World(TEXT)
    made.engine.live = set(range(1 + others))
    return made


def asked(w: World, exchange: Exchange) -> str:
    answer = exchange.next(w.now)
    assert isinstance(answer, Attempt), answer
    return answer.candidate.provider.name


def fail(w: World, exchange: Exchange, outcome: Outcome) -> None:
    w.fail(exchange, outcome)


def both_silent(w: World, times: int) -> Exchange:
    """Both circuits are open, for a time that was doubled so often; the last request that asked."""
    exchange = w.exchange()
    for turn in range(1 + times):
        if turn:
            w.now += 2 * 2 ** (turn - 1)
        exchange = w.exchange()
        for name in "ab":
            assert asked(w, exchange) == name
            fail(w, exchange, SILENT)
    return exchange


def test_alone_nobody_probes_before_a_doubled_open_time_is_over() -> None:
    w = world(others=0)
    exchange = both_silent(w, 2)
    assert isinstance(exchange.next(w.now), Exhausted)
    w.now += 2
    answer = w.exchange().next(w.now)
    assert isinstance(answer, Exhausted)
    assert answer.retry_after == 6


def test_where_nobody_answers_others_a_doubled_open_time_is_not_waited_for() -> None:
    """Who has asked everybody waits for the plain open time, and probes; the second finds the place taken."""
    w = world()
    exchange = both_silent(w, 2)
    assert isinstance(exchange.next(w.now), Wait)
    w.now += 1.9
    assert isinstance(exchange.next(w.now), Wait)
    w.now += 0.1
    assert asked(w, exchange) == "a"
    other = w.exchange()
    assert asked(w, other) == "b"
    third = w.exchange().next(w.now)
    assert isinstance(third, Wait)
    assert third.reason == "probe"


def test_a_request_that_arrives_while_all_are_open_for_long_looks_as_well() -> None:
    """Others are at it: it is not refused because a slow probe of theirs doubled the open time."""
    w = world()
    both_silent(w, 2)
    w.now += 1
    exchange = w.exchange()
    assert isinstance(exchange.next(w.now), Wait)
    w.now += 1
    assert asked(w, exchange) == "a"


def test_where_nobody_has_answered_for_long_the_app_is_told_at_once() -> None:
    """Others are at it as well, but there is nothing to wait for. At first nobody can know that."""
    w = world()
    exchange = both_silent(w, 5)
    assert w.now > 1060
    assert isinstance(exchange.next(w.now), Exhausted)
    w.now += 2
    assert isinstance(w.exchange().next(w.now), Exhausted)


def test_an_open_time_that_was_not_doubled_is_kept() -> None:
    w = world()
    w.engine.reconfigure(World(TEXT.replace("open_seconds = 2", "open_seconds = 20")).engine.settings)
    exchange = w.exchange()
    for name in "ab":
        assert asked(w, exchange) == name
        fail(w, exchange, DOWN)
    assert isinstance(w.exchange().next(w.now), Exhausted)


def test_who_found_a_provider_well_is_followed() -> None:
    """A request that has failed everywhere asks again the provider that has answered somebody else since."""
    w = world()
    exchange = both_silent(w, 0)
    assert isinstance(exchange.next(w.now), Wait)
    w.now += 2
    finder = w.exchange()
    assert asked(w, finder) == "a"
    w.settle(finder, judging.SUCCESS)
    assert asked(w, exchange) == "a"


def test_a_probe_that_meets_a_rate_limit_is_not_repeated_at_once() -> None:
    """It leaves the circuit half-open, with its place free: but the provider is known to cool down."""
    w = world()
    exchange = both_silent(w, 0)
    w.now += 2
    assert asked(w, exchange) == "a"
    fail(w, exchange, Outcome(Kind.COOLDOWN, "rate_limit", Then.NEXT, 429))
    assert asked(w, exchange) == "b"
    fail(w, exchange, SILENT)
    assert isinstance(exchange.next(w.now), Wait)


def test_who_is_left_alone_looks_again_by_itself() -> None:
    """No circuit is open, so nobody will probe; the others have gone. After `open_seconds` it may be well again."""
    w = world()
    w.engine.reconfigure(World(TEXT.replace("failure_threshold = 1", "failure_threshold = 9")).engine.settings)
    exchange = w.exchange()
    for name in "ab":
        assert asked(w, exchange) == name
        fail(w, exchange, SILENT)
    w.engine.live = {0}
    waited = 0.0
    while isinstance(answer := exchange.next(w.now), Wait):
        w.now += answer.seconds
        waited += answer.seconds
    assert isinstance(answer, Attempt)
    assert 2 <= waited < 2.5
    w.engine.live = {0}
    alone = w.exchange()
    for name in "ab":
        assert asked(w, alone) == name
        fail(w, alone, SILENT)
        w.now += 10
    assert isinstance(alone.next(w.now), Exhausted)


def test_the_wait_for_others_ends() -> None:
    """Three times `wait_seconds`, when nothing happens at all."""
    w = world()
    exchange = both_silent(w, 0)
    for circuit in w.engine._circuits.values():
        circuit.admit(w.now + 2, 100)
    w.now += 2
    waited = 0.0
    while isinstance(answer := exchange.next(w.now), Wait):
        w.now += answer.seconds
        waited += answer.seconds
    assert isinstance(answer, Exhausted)
    assert 9 <= waited <= 20
