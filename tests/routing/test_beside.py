"""Whether a second attempt is made beside a late one, at whom, and what it costs."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from sidestep.breaker import judging
from sidestep.breaker.outcomes import Kind, Outcome
from sidestep.routing.engine import Attempt
from sidestep.routing.exchange import Exchange
from sidestep.routing.lateness import kind_of
from sidestep.routing.repeats import said_in
from sidestep.routing.table import Plan
from support.flows import ask
from support.world import World, answer, toml, user

STREAM = {"stream": True}


def world(top: str = "", **providers: str) -> World:
    return World(toml("priority", top, **(providers or dict.fromkeys("abc", ""))))


def begun(w: World, body: dict[str, Any] | None = None) -> tuple[Exchange, Attempt]:
    """A call whose first attempt is under way."""
    exchange = w.exchange(STREAM if body is None else body)
    ask(w, exchange)
    return exchange, exchange.attempts[0]


def beside(w: World, exchange: Exchange, late: Attempt) -> str | None:
    attempt = exchange.beside(late, w.now)
    return None if attempt is None else attempt.candidate.provider.name


def test_the_next_in_order_is_asked_beside_and_only_once() -> None:
    w = world()
    exchange, late = begun(w)
    assert beside(w, exchange, late) == "b"
    assert exchange.trail == "a:pending, b:pending"
    assert len(w.engine.in_flight) == 2
    assert exchange.late_at(late, None, w.now) is None
    assert beside(w, exchange, late) is None


def test_who_is_at_another_address_is_asked_first() -> None:
    """Where an address hangs, it hangs for all who are there."""
    w = world(a="", c="")
    text = toml("priority", "", a="", b="", c="").replace("http://b.test", "http://a.test")
    w.reload(text)
    exchange, late = begun(w)
    assert beside(w, exchange, late) == "c"


def test_one_that_is_not_to_be_hedged_is_not_asked_beside_either() -> None:
    """Such as a server of this machine: it would be the quicker, and far from the better."""
    w = world(a="", b="hedge = { enabled = false }", c="")
    exchange, late = begun(w)
    assert beside(w, exchange, late) == "c"
    w = world(a="", b="hedge = { enabled = false }")
    exchange, late = begun(w)
    assert beside(w, exchange, late) is None
    assert repr(w.engine.budget) == "Budget(3.00 of 3)"


@pytest.mark.parametrize("against", ["cooldown", "open", "half-open", "has failed this call"])
def test_who_has_anything_against_it_is_not_asked(against: str) -> None:
    """And nothing is spent."""
    w = world(a="", b="circuit = { failure_threshold = 1, open_seconds = 5 }")
    if against in ("open", "half-open"):
        exchange = w.exchange(STREAM)
        exchange.plan = Plan(exchange.plan.candidates[1:])
        ask(w, exchange)
        w.fail(exchange, judging.CONNECT)
        w.now += 5 if against == "half-open" else 0
    elif against == "cooldown":
        w.limit("b", 60)
    exchange, late = begun(w)
    if against == "has failed this call":
        exchange.failed(exchange.attempts[0], judging.KILLED, w.now)
        exchange._spent = {"b": w.now}
    assert beside(w, exchange, late) is None
    assert repr(w.engine.budget) == "Budget(3.00 of 3)"


@pytest.mark.parametrize(
    "body",
    [{**STREAM, "previous_response_id": "resp_1"}, {**STREAM, "conversation": "conv_1"}],
)
def test_a_pinned_call_gets_none(body: dict[str, Any]) -> None:
    w = world()
    exchange = w.exchange(body, path="/v1/responses")
    if exchange.plan.candidates:
        ask(w, exchange)
        assert exchange.late_at(exchange.attempts[0], None, w.now) is None


def test_a_call_that_does_something_gets_none() -> None:
    """Two providers would do it twice: what `dialects/acting.py` says."""
    w = world()
    exchange, late = begun(w, {**STREAM, "tools": [{"type": "mcp", "server_url": "https://mcp.test"}]})
    assert exchange.late_at(late, None, w.now) is None
    assert beside(w, exchange, late) is None
    assert repr(w.engine.budget) == "Budget(3.00 of 3)"


def test_a_lone_provider_earns_and_gets_nothing() -> None:
    w = world(a="")
    exchange, late = begun(w)
    assert not exchange.may_hedge
    assert exchange.late_at(late, None, w.now) is None


def test_no_more_attempts_than_a_request_may_have() -> None:
    w = world("[attempts]\nmax = 1")
    exchange, late = begun(w)
    assert beside(w, exchange, late) is None


def test_when_it_is_late() -> None:
    """While too little is known ten seconds without a byte; then four times the usual, from its start."""
    w = world()
    exchange, late = begun(w)
    assert exchange.late_at(late, None, w.now) == w.now + 10
    assert exchange.late_at(late, w.now + 4, w.now + 4) == w.now + 14
    kind = kind_of("a", "m", stream=True, body_bytes=exchange.asked.body_bytes)
    for _ in range(50):
        w.engine.times.began(kind, 1.0, 2.0, w.now)
    assert exchange.late_at(late, w.now + 4, w.now) == pytest.approx(w.now + 4, rel=1e-3)
    late.headers_at = w.now + 1
    assert exchange.late_at(late, w.now + 4, w.now) == pytest.approx(w.now + 8, rel=1e-3)


def test_a_whole_answer_is_late_by_what_was_learnt_alone() -> None:
    w = world()
    exchange, late = begun(w, {})
    assert exchange.late_at(late, None, w.now) is None
    for _ in range(50):
        w.engine.times.began(kind_of("a", "m", stream=False, body_bytes=exchange.asked.body_bytes), 2.0, 2.0, w.now)
    assert exchange.late_at(late, None, w.now) == pytest.approx(w.now + 8, rel=1e-3)


def test_what_answers_teaches_and_so_does_what_is_outpaced() -> None:
    w = world()
    for _ in range(30):
        exchange, attempt = begun(w)
        attempt.headers_at, attempt.content_at = w.now + 1, w.now + 2
        w.engine.settle(attempt, judging.SUCCESS, w.now + 2)
        exchange.settled(attempt, {}, w.now + 2, 0.0)
        w.engine.ended(attempt, w.now + 2)
    exchange, late = begun(w)
    late.headers_at = w.now
    assert exchange.late_at(late, None, w.now) == pytest.approx(w.now + 8, rel=1e-2)
    for _ in range(100):
        exchange.outpaced(late, 0, w.now + 9)
    again, attempt = begun(w)
    attempt.headers_at = attempt.content_at = w.now + 30
    w.engine.settle(attempt, judging.SUCCESS, w.now + 30)
    again.settled(attempt, {}, w.now + 30, 0.0)
    exchange.outpaced(late, 0, w.now + 9)
    kind = kind_of("a", "m", stream=True, body_bytes=exchange.asked.body_bytes)
    learnt = w.engine.times._of.get(kind)
    assert learnt is not None
    assert learnt[1].sketch.quantile(0.95) == pytest.approx(30, rel=0.1)


# --- the budget


def test_a_request_earns_its_share() -> None:
    w = world()
    for _ in range(3):
        assert w.engine.budget.take()
    for _ in range(20):
        w.exchange(STREAM)
    assert w.engine.budget.take()
    assert not w.engine.budget.take()


def test_with_nothing_to_spend_nobody_is_asked() -> None:
    w = world("[hedge]\nmax_share = 0")
    while w.engine.budget.take():
        pass
    exchange, late = begun(w)
    assert beside(w, exchange, late) is None


@pytest.mark.parametrize(
    ("ends", "sent", "result", "left"),
    [
        (judging.SUCCESS, True, "won", 2),
        (judging.HEDGE_LOST, True, "lost", 2),
        (judging.HEDGE_LOST, False, "unsent", 3),
        (judging.CONNECT, False, "unsent", 3),
        (judging.TIMEOUT, True, "failed", 2),
    ],
)
def test_what_came_of_it_is_counted(ends: Outcome, sent: bool, result: str, left: int) -> None:
    w = world()
    exchange, late = begun(w)
    hedge = exchange.beside(late, w.now)
    assert hedge is not None
    w.engine.settle(hedge, ends, w.now)
    w.engine.ended(hedge, w.now)
    w.engine.hedge_ended(hedge, sent=sent)
    assert dict(w.engine.hedges_total) == {("b", result): 1}
    assert repr(w.engine.budget) == f"Budget({left}.00 of 3)"


@pytest.mark.parametrize(("outcome", "left"), [(judging.CONNECT, 3), (judging.KILLED, 2)])
def test_spent_beside_one_that_fails_is_given_back(outcome: Outcome, left: int) -> None:
    w = world()
    exchange, late = begun(w)
    exchange.beside(late, w.now)
    exchange.failed(late, outcome, w.now)
    assert repr(w.engine.budget) == f"Budget({left}.00 of 3)"


# --- slow streams


def test_a_stream_is_slow_by_what_its_like_has_shown() -> None:
    w = world()
    for _ in range(30):
        exchange, attempt = begun(w)
        attempt.content_at = w.now
        assert not exchange.streamed(attempt, 10_240, w.now + 5.0)
    exchange, attempt = begun(w)
    attempt.content_at = w.now
    assert exchange.slow_at(attempt, 10_240, w.now) == pytest.approx(w.now + 5 + 20, rel=1e-2)
    assert not exchange.streamed(attempt, 10_240, w.now + 20)
    assert exchange.streamed(attempt, 10_240, w.now + 30)
    assert not exchange.streamed(attempt, 100, w.now + 4)


def test_a_whole_stream_of_which_too_little_is_known_is_slow_by_the_same_limit() -> None:
    w = world()
    exchange, attempt = begun(w)
    attempt.content_at = w.now + 3
    assert exchange.slow_at(attempt, 10_240, w.now + 5) == w.now + 10
    assert not exchange.streamed(attempt, 10_240, w.now + 500)


def test_a_slow_stream_counts_for_the_rate_and_not_in_a_row() -> None:
    w = world("[circuit]\nmin_requests = 4")
    provider = w.engine.settings.providers[0]
    for i in range(4):
        exchange, attempt = begun(w)
        w.settle(exchange)
        if i % 2:
            w.engine.slowed(attempt, w.now)
        w.engine.ended(attempt, w.now)
        circuit = w.engine.circuits_of_models(provider)["m"]
        seen = circuit.snapshot(w.now)
        assert seen.failure_count == 0
    assert (str(seen.state), seen.last_failure) == ("open", "far slower than usual")


def test_kinds_of_outcomes_have_a_word_for_it() -> None:
    assert (str(Kind.SLOW), judging.SLOW.label) == ("slow", "slow")


# --- calls that are made again


def test_a_call_that_is_made_again_starts_where_it_has_not_just_failed() -> None:
    w = world()
    call = ("responses", "fingerprint", b"the same")
    w.engine.repeats.failed(*call, frozenset("a"), w.now)
    assert w.engine.repeats.failed_at(*call, w.now + 29) == {"a"}
    assert w.engine.repeats.failed_at(*call, w.now + 31) == frozenset()
    for place, other in enumerate(("embeddings", "another's", b"another")):
        changed = (*call[:place], other, *call[place + 1 :])
        assert w.engine.repeats.failed_at(*changed, w.now) == frozenset()  # type: ignore[call-arg, arg-type]
    usual = w.exchange(STREAM)
    again = Exchange(w.engine, usual.match, usual.call, usual.plan, w.now, failed_at=frozenset("a"))
    assert [c.provider.name for c in again.plan.candidates] == ["b", "c", "a"]
    w.engine.repeats.failed(*call, frozenset("a"), w.now)
    w.engine.repeats.answered(*call)
    assert not w.engine.repeats


def test_what_is_said_again() -> None:
    """A first turn is made again as it was; a later one in another form, or with a part of the answer."""
    first = [user("hi")]
    later = [*first, answer("yes"), user("so?")]
    other = [user("hi"), answer("no"), user("so?")]
    said = {
        name: said_in(msgspec.Raw(json.dumps(messages).encode()), name.encode())
        for name, messages in {"1": first, "2": first, "3": later, "4": [*later, answer("a part")], "5": other}.items()
    }
    assert (said["1"], said["2"]) == (b"1", b"2")
    assert said["3"] == said["4"]
    assert said["5"] not in (said["3"], b"5")
    assert said_in(None, b"no messages") == b"no messages"


def test_what_has_just_failed_comes_last_whatever_it_honours() -> None:
    """Another provider answers a copy without the reasoning, rather than that the same one fails again; where a
    call is bound to its issuer it stays there."""
    text = toml("priority", a='issuer = "x"', b='issuer = "y"').replace("openai", "anthropic")
    w = World(text.replace("http://app.test/v1", "http://app.test"))
    thought = {"role": "assistant", "content": [{"type": "thinking", "thinking": "t", "signature": "s"}]}
    for messages, order in (([user("hi"), thought, user("so?")], "ba"), ([user("hi"), thought], "a")):
        usual = w.exchange({"messages": messages}, "/v1/messages")
        again = Exchange(w.engine, usual.match, usual.call, usual.plan, w.now, failed_at=frozenset("a"))
        assert "".join(c.provider.name for c in again.plan.candidates) == order


def test_who_failed_a_request() -> None:
    w = world("attempts = { per_provider = 1 }")
    exchange, _ = begun(w)
    w.fail(exchange, judging.CONNECT)
    ask(w, exchange)
    w.settle(exchange, judging.CLIENT_GONE)
    assert exchange.failed_at(w.now + 1) == {"a"}
    assert exchange.failed_at(w.now + 5) == {"a", "b"}
