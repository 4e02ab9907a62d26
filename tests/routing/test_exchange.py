"""What a request does when no provider can answer it at once: reluctant providers, waits, a second round in company."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sidestep.breaker import judging
from sidestep.breaker.circuit import State
from sidestep.breaker.outcomes import Kind, Outcome, Then
from sidestep.routing.engine import Attempt, Refused
from sidestep.routing.exchange import Exchange, Exhausted, Wait
from support.flows import ask
from support.world import World, toml

DOWN = Outcome(Kind.FAILURE, "http_5xx", Then.NEXT, 503)
SILENT = Outcome(Kind.FAILURE, "timeout", Then.NEXT)
LIMITED = Outcome(Kind.COOLDOWN, "rate_limit", Then.NEXT, 429)
SPENT = Outcome(Kind.COOLDOWN, "quota", Then.NEXT, 429, 600, account=True)
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
OWN = """
[[providers]]
name = "own"
dialect = "openai"
base_url = "http://app.test/v1"
"""
ALONE = f"""{OWN}
[[routes]]
intercept = ["http://app.test/v1"]
providers = ["own"]
"""


def limited(seconds: float) -> Outcome:
    """A refusal that names its time."""
    return Outcome(Kind.COOLDOWN, "rate_limit", Then.WAIT, 429, seconds)


def world(others: int = 1, text: str = TEXT) -> World:
    """A request is under way, and so many others."""
    made = World(text)
    made.engine.live = set(range(1 + others))
    return made


def asked(w: World, exchange: Exchange) -> str:
    answer = exchange.next(w.now)
    assert isinstance(answer, Attempt), answer
    return answer.candidate.provider.name


def all_fail(w: World, *outcomes: Outcome, body: dict[str, Any] | None = None) -> Exchange:
    """A request to which the providers, in their order, answer so."""
    exchange = w.exchange(body)
    for outcome in outcomes:
        asked(w, exchange)
        w.fail(exchange, outcome)
    return exchange


def both_silent(w: World, times: int) -> Exchange:
    """Both circuits are open, for a time that was doubled so often; the last request that asked."""
    exchange = w.exchange()
    for turn in range(1 + times):
        if turn:
            w.now += 2 * 2 ** (turn - 1)
        exchange = w.exchange()
        for name in "ab":
            assert asked(w, exchange) == name
            w.fail(exchange, SILENT)
    return exchange


# --- a cooldown is a preference


@pytest.mark.parametrize("outcome", [LIMITED, SPENT, limited(60)])
def test_with_no_other_provider_a_limit_refuses_none(outcome: Outcome) -> None:
    """The request that met it gets its answer; the next one is sent at once, and gets the provider's own answer."""
    w = world(0, ALONE)
    exchange = all_fail(w, outcome)
    assert exchange.next(w.now) == Exhausted(())
    for _ in range(3):
        exchange = all_fail(w, outcome)
        assert exchange.next(w.now) == Exhausted(())
    last = w.exchange()
    assert asked(w, last) == "own"
    w.settle(last)


def test_one_without_a_limit_is_asked_first() -> None:
    """A limit sends calls to the next provider while that can answer."""
    w = world(0)
    all_fail(w, LIMITED)
    exchange = w.exchange()
    assert asked(w, exchange) == "b"
    assert exchange.refused == (Refused("a", "cooldown (rate_limit)", 5),)
    w.fail(exchange, DOWN)
    assert asked(w, exchange) == "a", "before the app sees a failure"


def test_the_shortest_limit_is_asked_first() -> None:
    """A limit that ends soon rather than an account that is spent, and then that one too: the app gets the answer of
    a provider."""
    w = world(0)
    all_fail(w, SPENT, limited(60))
    exchange = w.exchange()
    assert asked(w, exchange) == "b"
    assert [r.provider for r in exchange.refused] == ["a"]
    w.fail(exchange, limited(60))
    assert asked(w, exchange) == "a"
    w.fail(exchange, SPENT)
    assert exchange.next(w.now) == Exhausted(())


def test_of_equal_limits_the_own_provider_is_asked_first() -> None:
    """Its answer is the one that the app would have had."""
    text = TEXT.replace('providers = ["a", "b"]', 'providers = ["a", "own"]') + OWN
    w = world(0, text)
    all_fail(w, SPENT, SPENT)
    assert asked(w, w.exchange()) == "own"


def test_a_time_that_comes_soon_is_waited_for_once() -> None:
    """At most `wait_seconds`, for a time that a refusal named; a guess is not worth a wait."""
    w = world(0)
    all_fail(w, limited(4), SPENT)
    w.now += 2
    exchange = w.exchange()
    wait = exchange.next(w.now)
    assert isinstance(wait, Wait)
    assert (wait.reason, round(wait.seconds, 1)) == ("rate_limit", 2)
    w.now += wait.seconds
    all_fail(w, limited(2))
    assert asked(w, exchange) == "a", "it has waited once"
    w = world(0)
    all_fail(w, LIMITED, LIMITED)
    w.now += 3
    assert asked(w, w.exchange()) == "a"


@pytest.mark.parametrize(
    ("seconds", "before_the_end", "wait"),
    [(3.0, 100.0, 3.0), (3.001, 100.0, None), (2.0, 2.001, 2.0), (2.0, 2.0, None), (2.0, 1.0, None)],
)
def test_which_limits_are_waited_for(seconds: float, before_the_end: float, wait: float | None) -> None:
    """One of up to `wait_seconds` that ends before the request's time does; a moment longer, for timers fire early."""
    w = World("attempts = { wait_seconds = 3 }\n" + ALONE)
    w.engine.live = {0}
    w.limit("own", seconds)
    exchange = w.exchange()
    exchange.deadline = w.now + before_the_end
    found = exchange.next(w.now)
    if wait is None:
        assert isinstance(found, Attempt)
    else:
        assert isinstance(found, Wait)
        assert (found.reason, found.on_change, round(found.seconds, 6)) == ("rate_limit", True, wait + 0.005)


def test_the_limit_of_one_that_is_refused_is_not_waited_for() -> None:
    """Its circuit would refuse it then: the others are asked at once."""
    w = world(0)
    all_fail(w, limited(4), SPENT)
    w.now += 2
    w.engine.hold("a", State.FORCED_OPEN)
    assert asked(w, w.exchange()) == "b"


def test_a_limit_that_this_request_met_is_waited_out_or_left() -> None:
    """Alone, a request asks the provider that limited it again only where the time named is short."""
    w = world(0)
    exchange = w.exchange()
    assert asked(w, exchange) == "a"
    w.fail(exchange, limited(2))
    assert exchange.next(w.now) == Wait(2, "rate_limit")
    w.now += 2
    assert asked(w, exchange) == "a"
    w.fail(exchange, limited(2))
    assert asked(w, exchange) == "b"
    w.fail(exchange, LIMITED)
    assert exchange.next(w.now) == Exhausted(())


def test_only_circuits_refuse() -> None:
    """An open circuit and one held open refuse, whatever limits there are; the refusal tells of the circuit."""
    w = world(0)
    all_fail(w, SPENT, SPENT)
    w.engine.hold("a", State.FORCED_OPEN)
    w.engine.hold("b", State.FORCED_OPEN)
    refused = (Refused("a", "forced_open", None), Refused("b", "forced_open", None))
    assert w.exchange().next(w.now) == Exhausted(refused)
    w.engine.hold("b", None)
    assert asked(w, w.exchange()) == "b"


# --- the other preferences


def test_a_provider_that_recovers_takes_what_others_cannot() -> None:
    """While its ramp is full the next provider answers; with no other it takes all."""
    w = world(0)
    all_fail(w, DOWN)
    w.now += 2.5
    assert w.call() == "a"
    names = [asked(w, w.exchange()) for _ in range(4)]
    assert names == ["a", "a", "b", "b"]
    w.engine.hold("b", State.FORCED_OPEN)
    assert asked(w, w.exchange()) == "a"


@pytest.mark.parametrize("others", [0, 1])
def test_with_no_other_provider_a_doubled_open_time_is_not_waited_for(others: int) -> None:
    """Doubling spares apps a slow probe while others answer them: here none does, and one request probes after the
    plain open time. The second finds the place taken."""
    w = world(others)
    both_silent(w, 2)
    w.now += 1.9
    wait = w.exchange().next(w.now)
    assert isinstance(wait, Wait)
    w.now += 0.2
    assert asked(w, w.exchange()) == "a"
    assert asked(w, w.exchange()) == "b"
    third = w.exchange().next(w.now)
    assert isinstance(third, Wait)
    assert third.reason == "probe"


def test_with_another_provider_a_doubled_open_time_is_kept() -> None:
    """The other one answers, and a slow probe costs none of these apps a wait."""
    w = world()
    all_fail(w, SILENT)
    w.now += 2
    all_fail(w, SILENT)
    w.now += 2.5
    assert asked(w, w.exchange()) == "b"
    w.now += 2
    assert asked(w, w.exchange()) == "a"


def test_a_limit_rather_than_a_slow_probe() -> None:
    """For want of others the one that answers soon is asked first."""
    w = world(0)
    all_fail(w, SILENT, SPENT)
    w.now += 2
    w.engine.hold("b", State.FORCED_OPEN)
    all_fail(w, SILENT)
    w.engine.hold("b", None)
    w.now += 2.5
    assert asked(w, w.exchange()) == "b"


# --- all refuse


def test_all_open_for_long_is_told_at_once() -> None:
    """No attempt is made, and the app is told when the first may be asked."""
    w = world(0, TEXT.replace("open_seconds = 2", "open_seconds = 20"))
    all_fail(w, DOWN, DOWN)
    answer = w.exchange().next(w.now)
    assert isinstance(answer, Exhausted)
    assert answer.retry_after == 20
    assert answer.refused == (Refused("a", "open", 20), Refused("b", "open", 20))


def test_all_open_for_a_moment_is_waited_for_once() -> None:
    """Until the first may be asked; where another's probe has failed meanwhile the app is told."""
    w = world(0)
    all_fail(w, DOWN, DOWN)
    exchange, other = w.exchange(), w.exchange()
    wait = exchange.next(w.now)
    assert isinstance(wait, Wait)
    assert 2 < wait.seconds < 2.1
    w.now += wait.seconds
    for _ in "ab":
        asked(w, other)
        w.fail(other, DOWN)
    assert isinstance(exchange.next(w.now), Exhausted)
    assert isinstance(other.next(w.now), Exhausted), "nor does it come back to those that failed it"


# --- in company


def test_in_company_a_provider_that_failed_is_asked_again_after_its_open_time() -> None:
    """Where many share the providers, no other request may be left to find out which of them has recovered."""
    w = world()
    exchange = all_fail(w, DOWN, DOWN)
    wait = exchange.next(w.now)
    assert isinstance(wait, Wait)
    assert (wait.reason, wait.on_change, round(wait.seconds, 1)) == ("refused", True, 2)
    w.now += wait.seconds
    assert asked(w, exchange) == "a"
    assert asked(w, w.exchange()) == "b"


def test_alone_a_provider_that_failed_is_not_asked_again() -> None:
    """However long the others took to fail."""
    w = world(0, TEXT.replace("failure_threshold = 1", "failure_threshold = 9"))
    exchange = all_fail(w, DOWN)
    assert asked(w, exchange) == "b"
    w.now += 60
    w.fail(exchange, SILENT)
    assert exchange.next(w.now) == Exhausted(())


def test_in_company_it_is_tried_as_at_first() -> None:
    """Once more at the same provider, and after each attempt there is a whole wait for the next."""
    w = world(text=TEXT.replace("failure_threshold = 1", "failure_threshold = 9"))
    exchange = all_fail(w, DOWN, DOWN)
    waited = 0.0
    for _ in range(4):
        while isinstance(answer := exchange.next(w.now), Wait):
            w.now += answer.seconds
            waited += answer.seconds
        assert isinstance(answer, Attempt)
        w.now += 1
        w.fail(exchange, DOWN)
    assert waited < 9
    w.now += 2.5
    assert asked(w, exchange) == "a"
    w.fail(exchange, replace(DOWN, then=Then.RETRY))
    wait = exchange.next(w.now)
    assert isinstance(wait, Wait)
    assert wait.reason == "backoff"


def test_each_attempt_in_company_has_a_whole_wait_after_it() -> None:
    """The bound is that of a wait, not of the request, which has its own."""
    w = world()
    exchange = all_fail(w, DOWN, DOWN)
    for _ in range(5):
        wait = exchange.next(w.now)
        assert isinstance(wait, Wait)
        w.now += wait.seconds
        for name in "ab":
            assert asked(w, exchange) == name
            w.fail(exchange, DOWN)
    assert w.now > 1009


def test_in_company_those_not_asked_yet_come_first() -> None:
    """One that failed this request comes after one that only would rather not be asked."""
    w = world()
    all_fail(w, DOWN, SPENT)
    w.now += 2
    exchange = all_fail(w, DOWN)
    w.now += 2.5
    assert asked(w, exchange) == "b"
    w.fail(exchange, SPENT)
    assert asked(w, exchange) == "a"


@pytest.mark.parametrize(
    "outcome",
    [
        SPENT,
        limited(60),
        Outcome(Kind.NEUTRAL, "size_limited", Then.NEXT, 429, size_limited=True),
        Outcome(Kind.NEUTRAL, "unknown_model", Then.NEXT, 404),
    ],
)
def test_what_does_not_pass_soon_is_not_asked_again(outcome: Outcome) -> None:
    """A spent account, a request that is too large or a missing model is the same in two seconds."""
    w = world()
    exchange = all_fail(w, outcome, outcome)
    assert isinstance(exchange.next(w.now), Exhausted)
    w.now += 9
    assert isinstance(exchange.next(w.now), Exhausted)


def test_one_that_lost_its_company_looks_again_by_itself() -> None:
    """No circuit is open, so that none will be probed, and the others have gone. A request that was always alone gets
    its answer at once."""
    w = world(0, TEXT.replace("failure_threshold = 1", "failure_threshold = 9"))
    exchange = all_fail(w, SILENT, SILENT)
    assert isinstance(exchange.next(w.now), Exhausted)
    exchange = w.exchange()
    w.engine.live = {0, 1}
    asked(w, exchange)
    w.fail(exchange, SILENT)
    w.engine.live = {0}
    asked(w, exchange)
    w.fail(exchange, SILENT)
    wait = exchange.next(w.now)
    assert isinstance(wait, Wait)
    w.now += wait.seconds
    assert asked(w, exchange) == "a"


def test_the_wait_in_company_ends() -> None:
    """Three times `wait_seconds`, when every probe of others fails."""
    w = world()
    exchange = all_fail(w, DOWN, DOWN)
    waited = 0.0
    while isinstance(answer := exchange.next(w.now), Wait):
        w.now += answer.seconds
        waited += answer.seconds
        if answer.seconds > 2:
            all_fail(w, DOWN, DOWN)
    assert isinstance(answer, Exhausted)
    assert 9 <= waited <= 9.1


def test_in_company_a_long_open_time_is_told_at_once() -> None:
    """Others under way are no reason to wait for what will not come soon."""
    w = world(text=TEXT.replace("open_seconds = 2", "open_seconds = 20"))
    exchange = all_fail(w, DOWN, DOWN)
    assert exchange.next(w.now) == Exhausted(())
    assert isinstance(w.exchange().next(w.now), Exhausted)


# --- the last word


TOO_LONG = Outcome(Kind.NEUTRAL, "context_too_long", Then.LARGER, 400)
LACKING = Outcome(Kind.NEUTRAL, "unknown_model", Then.NEXT, 404)
OUR_KEY = Outcome(Kind.COOLDOWN, "credential", Then.NEXT, 401, 600, account=True)


def test_whose_answer_the_app_gets_in_the_end() -> None:
    """The original 400 about the length, then its own provider's answer, then any other; last what is about a
    credential or a model name of ours."""
    text = TEXT.replace('providers = ["a", "b"]', 'providers = ["own", "a", "b"]') + OWN
    text = text.replace('base_url = "http://a.test/v1"\n', 'base_url = "http://a.test/v1"\nmodels = { "m" = "n" }\n')
    w = world(0, text)
    exchange = w.exchange()
    ranks = {}
    for name in ("own", "a", "b"):
        assert asked(w, exchange) == name
        ranks[name] = [exchange.rank(exchange.attempts[-1], outcome) for outcome in (TOO_LONG, DOWN, LACKING, OUR_KEY)]
        w.fail(exchange, DOWN)
    assert ranks == {"own": [3, 2, 2, 0], "a": [3, 1, 0, 0], "b": [3, 1, 0, 0]}


def test_success_after_all() -> None:
    """A call that was sent for want of others is a success like any other."""
    w = world(0, ALONE)
    all_fail(w, SPENT)
    assert w.call() == "own"
    assert w.engine.attempts_total[("own", Kind.SUCCESS, judging.SUCCESS.reason)] == 1


# --- how long an attempt may last

TIMES = "[timeouts]\nconnect = 1\nfirst_byte = 10\nfirst_content = 100\nheaders = 1000\nidle = 10000\n"


@pytest.mark.parametrize(
    ("path", "body", "seconds"),
    [
        ("/v1/chat/completions", {"stream": True}, 1 + 110 + 10_000 + 30),
        ("/v1/chat/completions", {"stream": False}, 1 + 1_000 + 10_000 + 30),
    ],
)
def test_a_lease_is_as_long_as_an_attempt_may_take(path: str, body: dict[str, Any], seconds: float) -> None:
    """Its connect, what comes until its content, a pause after that, and a margin."""
    w = World(toml("priority", TIMES, a=""))
    attempt = ask(w, w.exchange(body, path))
    assert attempt.permit is not None
    assert attempt.permit.reaching.lease_until == w.now + seconds


def test_responses_over_a_socket() -> None:
    """The first stands in the place of the handshake, each further one is an attempt; of very many the oldest good ones
    go, for those that failed say more."""
    w = World(toml("priority", TIMES, a=""))
    exchange = w.exchange()
    shake = ask(w, exchange)
    candidate = exchange.plan.candidates[0]
    first = exchange.over_socket(candidate, "responses", w.now + 1, shake)
    assert first is shake
    assert first.subject.operation == "responses"
    assert exchange.attempts == [shake]
    second = exchange.over_socket(candidate, "responses", w.now + 2, None)
    assert (second.started, second.status, second.subject) == (w.now + 2, 101, first.subject)
    assert exchange.attempts == [shake, second]
    assert second.permit is not None
    assert second.permit.reaching.lease_until == w.now + 2 + 110 + 10_000 + 30
    shake.outcome, second.outcome = DOWN, judging.SUCCESS
    further = [exchange.over_socket(candidate, "responses", w.now, None) for _ in range(48)]
    assert exchange.attempts == [shake, second, *further]
    further.append(exchange.over_socket(candidate, "responses", w.now, None))
    assert exchange.attempts == [shake, *further]
    further.append(exchange.over_socket(candidate, "responses", w.now, None))
    assert exchange.attempts == further
