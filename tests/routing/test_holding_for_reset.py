"""`wait_for_reset_seconds`: a call is held until the first limit ends that was named, if that is soon enough."""

from __future__ import annotations

import pytest

from sidestep.breaker import judging
from sidestep.breaker.outcomes import ErrorFacts, ErrorKind, Kind, Outcome, Then
from sidestep.routing.engine import Attempt
from sidestep.routing.exchange import RESET, WAIT_MARGIN_SECONDS, Exchange, Exhausted, Next, Wait
from support.world import World, toml

TOP = "[attempts]\nwait_for_reset_seconds = 600\ntotal_seconds = 100\n"


def limited(seconds: float | None, reason: str = "rate_limit") -> Outcome:
    return Outcome(Kind.COOLDOWN, reason, Then.NEXT, 429, seconds)


def spent(seconds: float | None) -> Outcome:
    return judging.judge_no_answer(200, ErrorFacts(ErrorKind.QUOTA), retry_after=seconds)


def world(top: str = TOP, **providers: str) -> World:
    return World(toml("priority", top, **(providers or dict.fromkeys("ab", ""))))


def name_of(step: Next) -> str:
    assert isinstance(step, Attempt), step
    return step.candidate.provider.name


def held(step: Next) -> float:
    """For how long."""
    assert isinstance(step, Wait), step
    assert (step.reason, step.on_change) == (RESET, True)
    return step.seconds - WAIT_MARGIN_SECONDS


def refused(w: World, exchange: Exchange, *limits: float | None) -> None:
    """Each provider in turn says until when its limit holds."""
    for seconds in limits:
        name_of(exchange.next(w.now))
        w.engine.cooldowns.start(exchange.attempts[-1].subject, limited(seconds), w.now)
        w.fail(exchange, limited(seconds))


def test_by_default_nothing_is_held() -> None:
    w = world("")
    exchange = w.exchange()
    refused(w, exchange, 30, 40)
    assert isinstance(exchange.next(w.now), Exhausted)


def test_it_is_held_until_the_first_limit_ends() -> None:
    w = world()
    exchange = w.exchange()
    refused(w, exchange, 300, 40)
    assert held(exchange.next(w.now)) == pytest.approx(40)
    w.now += 40
    assert name_of(exchange.next(w.now)) == "b"


@pytest.mark.parametrize(
    ("outcome", "is_held"),
    [
        (limited(40), True),
        (limited(40, "plan"), True),
        (spent(40), True),
        (spent(judging.QUOTA_SECONDS), True),
        (spent(None), False),
        (spent(0), False),
        (limited(judging.CREDENTIAL_SECONDS, "credential"), False),
    ],
    ids=["rate limit", "plan", "spent", "spent for as long as one that tells nothing", "open", "over", "credential"],
)
def test_what_may_be_waited_for(outcome: Outcome, is_held: bool) -> None:
    """What a call has met itself: a window, or an account, whose end is told."""
    w = world(a="")
    exchange = w.exchange()
    w.engine.cooldowns.start(exchange.next(w.now).subject, outcome, w.now)  # type: ignore[union-attr]
    w.fail(exchange, outcome)
    step = exchange.next(w.now)
    if not is_held:
        assert isinstance(step, Exhausted)
        return
    seconds = outcome.cooldown_seconds
    assert seconds is not None
    assert held(step) == pytest.approx(seconds)
    w.now += seconds
    assert name_of(exchange.next(w.now)) == "a"


def test_no_call_waits_for_a_key_to_be_another() -> None:
    w = world(a="")
    w.engine.cooldowns.start(w.exchange().next(w.now).subject, limited(500, "credential"), w.now)  # type: ignore[union-attr]
    assert name_of(w.exchange().next(w.now)) == "a"


def test_limits_that_others_have_met_are_waited_for_as_well() -> None:
    """Nobody is asked against a limit, as one would be for want of others."""
    w = world()
    w.limit("a", 50)
    w.limit("b", 90)
    exchange = w.exchange()
    assert held(exchange.next(w.now)) == pytest.approx(50)
    w.now += 50
    assert name_of(exchange.next(w.now)) == "a"


def test_who_is_not_limited_is_asked_first() -> None:
    """A last resort, or one that is recovering, is better than a long wait."""
    w = world(a="", b="")
    w.limit("a", 50)
    w.foresee("b", 50)
    assert name_of(w.exchange().next(w.now)) == "b"


@pytest.mark.parametrize(("seconds", "is_held"), [(600, True), (601, False), (None, False)])
def test_only_what_ends_soon_enough(seconds: float | None, is_held: bool) -> None:
    """And only what was named: a guess is no reset."""
    w = world(a="")
    exchange = w.exchange()
    refused(w, exchange, seconds)
    step = exchange.next(w.now)
    assert isinstance(step, Wait if is_held else Exhausted)


def test_all_of_it_together_is_bounded() -> None:
    """A provider that names another time whenever it is asked holds no call for ever."""
    w = world(a="")
    exchange = w.exchange()
    refused(w, exchange, 400)
    assert held(exchange.next(w.now)) == pytest.approx(400)
    w.now += 400.01
    refused(w, exchange, 100)
    assert held(exchange.next(w.now)) == pytest.approx(100)
    w.now += 100.01
    refused(w, exchange, 101)
    assert isinstance(exchange.next(w.now), Exhausted)


def test_the_call_has_its_own_time_after_it() -> None:
    """`total_seconds` does not run while it is held."""
    w = world(a="")
    exchange = w.exchange()
    w.now += 30
    refused(w, exchange, 500)
    held(exchange.next(w.now))
    w.now += 500.01
    assert name_of(exchange.next(w.now)) == "a"
    assert exchange.deadline == pytest.approx(w.now + 70, abs=0.1)


def test_one_that_had_failed_is_asked_as_soon_as_it_may_be_well() -> None:
    """Not so often that no attempt is left for the end of the limit."""
    w = world(TOP + "max = 5\nper_provider = 1\n[circuit]\nfailure_threshold = 1\nopen_seconds = 20\n")
    exchange = w.exchange()
    refused(w, exchange, 300)
    since = w.now
    for _ in range(3):
        assert name_of(exchange.next(w.now)) == "b"
        w.fail(exchange, judging.TIMEOUT)
        step = exchange.next(w.now)
        assert isinstance(step, Wait)
        w.now += step.seconds
    assert w.now == pytest.approx(since + 300, abs=1)
    assert name_of(exchange.next(w.now)) == "a"


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_its_circuit_s_own_time_is_waited_for(jitter: float) -> None:
    """Which is ten per cent longer or shorter than what a failure is worth by itself."""
    top = TOP + "per_provider = 1\n[circuit]\nfailure_threshold = 1\nopen_seconds = 20\nscope = 'provider'\n"
    w = World(toml("priority", top, a="", b=""), random=lambda: jitter)
    exchange = w.exchange()
    refused(w, exchange, 300)
    since = w.now
    assert name_of(exchange.next(w.now)) == "b"
    w.fail(exchange, judging.TIMEOUT)
    while isinstance(step := exchange.next(w.now), Wait):
        w.now += step.seconds
    assert name_of(step) == "b"
    assert w.now - since < 23


def test_one_provider_s_own_setting() -> None:
    w = world("", a="", b="attempts = { wait_for_reset_seconds = 60 }")
    exchange = w.exchange()
    refused(w, exchange, 70, 50)
    assert held(exchange.next(w.now)) == pytest.approx(50)


def test_who_cannot_answer_this_call_is_not_waited_for() -> None:
    w = world()
    exchange = w.exchange()
    refused(w, exchange, 500)
    w.limit("b", 40)
    assert held(exchange.next(w.now)) == pytest.approx(40)
    w.now += 40.01
    assert name_of(exchange.next(w.now)) == "b"
    w.fail(exchange, Outcome(Kind.NEUTRAL, "conflict", Then.NEXT, 409))
    w.limit("b", 20)
    assert held(exchange.next(w.now)) == pytest.approx(459.99)


def test_no_handshake_is_held() -> None:
    w = world()
    w.limit("a", 50)
    engine = w.engine
    match = engine.routes.match("GET", "http", "app.test", 80, "/v1/responses")
    assert match is not None
    call = match.read("", "", b"")
    candidates = engine.routes.candidates(match, call.model)
    exchange = Exchange(engine, match, call, type(w.exchange().plan)(candidates), w.now)
    for c in candidates:
        engine.cooldowns.start(exchange.subject(c), limited(50), w.now)
    step = exchange.next(w.now)
    assert not (isinstance(step, Wait) and step.reason == RESET)
