"""One door for an attempt's end: whatever ended it, what it taught and what it cost is kept."""

from __future__ import annotations

import pytest
from mitmproxy import http

from sidestep.breaker import judging
from sidestep.breaker.outcomes import Outcome
from sidestep.calls.flight import Flight
from sidestep.calls.session import Session
from sidestep.routing.engine import Attempt
from support.flows import flow_of, session_of
from support.world import World, answer, toml, user

CUT = (
    b'data: {"id":"c1","choices":[{"index":0,"delta":{"content":"half an"}}]}\n\n'
    b'data: {"id":"c1","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'
)
PRICE = "price = { input = 1_000_000, output = 0 }"
TURN = {"stream": True, "messages": [user("hi"), answer("well?"), user("go on")]}


@pytest.mark.parametrize("outcome", [judging.CUT_STREAM, judging.TRUNCATED, judging.BROKEN_STREAM, judging.STALLED])
def test_a_stream_that_broke_after_content_keeps_no_conversation_and_its_tokens_and_cost(outcome: Outcome) -> None:
    """With `commit = "complete"` the answer has counted as a success before it breaks, unseen by the app."""
    world = World(toml("weighted", "", a=PRICE, b=""), random=lambda: 0.0)
    exchange = world.exchange(TURN)
    match = exchange.match
    flow = flow_of()
    session = Session(flow, match, world.engine, lambda: world.now, acting=True)
    session.exchange = exchange
    attempt = exchange.next(world.now)
    assert isinstance(attempt, Attempt)
    flight = Flight(session, exchange, attempt)
    session.prepare(flight)
    session.show(flight)
    response = http.Response.make(200, b"", {"content-type": "text/event-stream"})
    watch = flight.open(response)
    assert watch.feed(CUT).content
    flight.settle(judging.SUCCESS)
    assert world.exchange(TURN).plan.candidates[0] is attempt.candidate

    flight.finish(outcome)
    exchange.failed(attempt, outcome, world.now)

    assert len(world.engine.conversations) == 0
    assert attempt.usage is not None
    assert (attempt.usage.input, attempt.usage.output, attempt.cost) == (7, 3, 7.0)
    name = attempt.candidate.provider.name
    assert world.engine.tokens_total == {(name, "input"): 7, (name, "output"): 3}
    assert world.engine.attempts_total == {(name, "failure", outcome.reason): 1}
    assert not world.engine.in_flight


@pytest.mark.parametrize("wished", [True, False])
def test_a_head_of_ours_tells_of_the_call_only_where_headers_are_wished(wished: bool) -> None:
    """An app that waits for a stream that is held back whole gets one before any provider has answered."""
    world = World(toml(top="" if wished else "[proxy]\nresponse_headers = false", a=""))
    exchange = world.exchange({"stream": True})
    head = session_of(world, exchange, flow_of()).made_up_response().headers
    assert head.get("x-sidestep-request-id") == (exchange.id if wished else None)
