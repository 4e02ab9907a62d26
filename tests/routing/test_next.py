"""What follows from how an attempt ended: the same again, another, a wait, or the end."""

from __future__ import annotations

import pytest

from sidestep.breaker import judging
from sidestep.breaker.circuit import State
from sidestep.breaker.outcomes import Kind, Outcome, Then
from sidestep.dialects.base import Call, Pin, PinKind
from sidestep.routing import table
from sidestep.routing.engine import Attempt, Refused
from sidestep.routing.exchange import Exchange, Exhausted, Wait
from support.world import World, toml

DOWN = Outcome(Kind.FAILURE, "http_5xx", Then.RETRY, 503)
NOT_HERE = Outcome(Kind.NEUTRAL, "conflict", Then.NEXT, 409)
TOO_LONG = Outcome(Kind.NEUTRAL, "context_too_long", Then.LARGER, 400)
REFUSED = Outcome(Kind.NEUTRAL, "client_error", Then.HAND_OVER, 400)
TOP = '[circuit]\nfailure_threshold = 9\nscope = "provider"\n'


def limited(seconds: float | None) -> Outcome:
    return Outcome(Kind.COOLDOWN, "rate_limit", Then.WAIT, 429, seconds)


def asked(w: World, exchange: Exchange) -> str:
    attempt = exchange.next(w.now)
    assert isinstance(attempt, Attempt), attempt
    return attempt.candidate.provider.name


def world(top: str = TOP, **providers: str) -> World:
    return World(toml("priority", top, **(providers or dict.fromkeys("ab", ""))))


# --- nobody may be asked


def opened(a: float, b: float) -> World:
    """Both circuits have just opened, for so many seconds."""
    circuit = 'circuit = {{ failure_threshold = 1, open_seconds = {}, scope = "provider" }}'
    w = world("[attempts]\nwait_seconds = 3", a=circuit.format(a), b=circuit.format(b))
    assert w.call(failing="ab") == "ab-"
    return w


@pytest.mark.parametrize(("a", "b", "first"), [(20, 30, 20), (30, 20, 20), (4, 90, 4)])
def test_who_is_refused_is_told_when_the_first_may_be_asked(a: float, b: float, first: float) -> None:
    """The earliest of the times, whatever the order of the providers, and each provider's own reason."""
    w = opened(a, b)
    found = w.exchange().next(w.now)
    assert found == Exhausted((Refused("a", "open", a), Refused("b", "open", b)))
    assert isinstance(found, Exhausted)
    assert found.retry_after == first


@pytest.mark.parametrize(("a", "b"), [(2, 30), (30, 2), (2, 2.5)])
def test_a_request_waits_for_the_first_that_may_be_asked(a: float, b: float) -> None:
    """Where that is at most `wait_seconds` away; a moment longer, for timers may fire early."""
    w = opened(a, b)
    exchange = w.exchange()
    wait = exchange.next(w.now)
    assert isinstance(wait, Wait)
    assert (round(wait.seconds, 6), wait.reason, wait.on_change) == (2.005, "refused", True)
    w.now += wait.seconds
    assert asked(w, exchange) == ("a" if a == 2 else "b")


@pytest.mark.parametrize(("a", "b", "seconds"), [(3, 3, 1), (0, 3, 1), (3, 0, 2), (0, 0, None)])
def test_each_provider_may_be_worth_another_wait(a: float, b: float, seconds: float | None) -> None:
    """`wait_seconds` can be set on one provider: so long a request waits for that one, be it open or limited."""
    circuit = 'circuit = {{ failure_threshold = 1, open_seconds = {}, scope = "provider" }}'
    waits = {"a": f"attempts = {{ wait_seconds = {a} }}", "b": f"attempts = {{ wait_seconds = {b} }}"}
    w = world("", a=circuit.format(2) + "\n" + waits["a"], b=circuit.format(1) + "\n" + waits["b"])
    assert w.call(failing="ab") == "ab-"
    found = w.exchange().next(w.now)
    assert (round(found.seconds, 6) if isinstance(found, Wait) else None) == (seconds and seconds + 0.005)
    limits = world("", **waits)
    limits.limit("a", 2)
    limits.limit("b", 1)
    found = limits.exchange().next(w.now)
    assert isinstance(found, Attempt if b == 0 else Wait)


def test_a_request_that_has_waited_once_is_refused() -> None:
    """Another waits no longer than that either: what it waited for has been taken meanwhile."""
    w = opened(2, 30)
    exchange = w.exchange()
    assert isinstance(exchange.next(w.now), Wait)
    w.now += 2.1
    w.call(failing="a")
    found = exchange.next(w.now)
    assert isinstance(found, Exhausted)
    assert [(r.provider, r.reason) for r in found.refused] == [("a", "open"), ("b", "open")]


def test_where_no_time_is_known_none_is_told() -> None:
    """One held by hand opens when somebody says so; the others' times still count."""
    w = world()
    w.engine.hold("a", State.FORCED_OPEN)
    w.engine.hold("b", State.FORCED_OPEN)
    found = w.exchange().next(w.now)
    assert found == Exhausted((Refused("a", "forced_open", None), Refused("b", "forced_open", None)))
    assert isinstance(found, Exhausted)
    assert found.retry_after is None
    assert Exhausted((Refused("a", "forced_open", None), Refused("b", "open", 7.0))).retry_after == 7.0


def test_a_wait_would_not_outlast_the_budget() -> None:
    """A request that has no time left to wait is told at once."""
    w = opened(2, 30)
    w.reload(toml("priority", "[attempts]\nwait_seconds = 3\ntotal_seconds = 1", a="", b=""))
    for name in "ab":
        w.engine.hold(name, State.FORCED_OPEN)
    exchange = w.exchange()
    assert isinstance(exchange.next(w.now), Exhausted)
    w.engine.hold("a", None)
    w.now += 1
    assert isinstance(exchange.next(w.now), Exhausted), "its time is over, though one may be asked again"


# --- once more


def test_a_provider_that_failed_quickly_is_asked_once_more_after_a_pause() -> None:
    """Then the next; `per_provider` bounds the tries, and the trail tells them all."""
    w = world()
    exchange = w.exchange()
    assert exchange.trail == ""
    assert asked(w, exchange) == "a"
    w.fail(exchange, DOWN)
    assert exchange.next(w.now) == Wait(0.25, "backoff")
    w.now += 0.25
    assert asked(w, exchange) == "a"
    w.fail(exchange, DOWN)
    assert asked(w, exchange) == "b"
    assert exchange.trail == "a:503, a:503, b:pending"


def test_one_that_cannot_be_asked_again_gives_way_to_the_next() -> None:
    """Its circuit may open during the pause."""
    w = world()
    exchange = w.exchange()
    assert asked(w, exchange) == "a"
    w.fail(exchange, DOWN)
    w.engine.hold("a", State.FORCED_OPEN)
    w.now += 0.25
    assert asked(w, exchange) == "b"


@pytest.mark.parametrize("outcome", [judging.TIMEOUT, NOT_HERE])
def test_a_silent_provider_is_not_asked_again(outcome: Outcome) -> None:
    w = world()
    exchange = w.exchange()
    assert asked(w, exchange) == "a"
    w.fail(exchange, outcome)
    assert asked(w, exchange) == "b"
    w.fail(exchange, outcome)
    assert isinstance(exchange.next(w.now), Exhausted)


@pytest.mark.parametrize(("seconds", "waits"), [(0.5, True), (3, True), (3.1, False), (None, False)])
def test_a_short_rate_limit_is_waited_out(seconds: float | None, waits: bool) -> None:
    """At most `wait_seconds`; a longer one, or one without a time, sends the call to the next."""
    w = world()
    exchange = w.exchange()
    assert asked(w, exchange) == "a"
    w.fail(exchange, limited(seconds))
    if not waits:
        assert asked(w, exchange) == "b"
        return
    assert seconds is not None
    assert exchange.next(w.now) == Wait(seconds, "rate_limit")
    w.now += seconds
    assert asked(w, exchange) == "a"
    w.fail(exchange, limited(seconds))
    assert asked(w, exchange) == "b", "it has been tried `per_provider` times"


def test_no_rate_limit_is_waited_out_beyond_the_budget() -> None:
    w = world(f"{TOP}[attempts]\ntotal_seconds = 2")
    exchange = w.exchange()
    assert asked(w, exchange) == "a"
    w.fail(exchange, limited(2))
    assert asked(w, exchange) == "b"


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_attempts_are_bounded_over_all_providers(limit: int) -> None:
    w = world(f"{TOP}[attempts]\nmax = {limit}\nbackoff_seconds = 0")
    exchange = w.exchange()
    for name in {1: "a", 2: "ab", 3: "aab"}[limit]:
        assert asked(w, exchange) == name
        w.fail(exchange, DOWN)
    assert isinstance(exchange.next(w.now), Exhausted)


# --- a context that is too long


def windows(**tokens: int | None) -> World:
    tables = {n: "" if t is None else f'context_window = {{ "m" = {t} }}' for n, t in tokens.items()}
    return world(TOP, **tables)


@pytest.mark.parametrize(
    ("tokens", "then"),
    [
        ({"a": 100, "b": 100, "c": 101}, "c"),
        ({"a": 100, "b": 99, "c": 100}, "-"),
        ({"a": 100, "b": None, "c": None}, "-"),
        ({"a": None, "b": 50, "c": 60}, "bc"),
        ({"a": 100, "b": 200, "c": 300}, "bc"),
    ],
)
def test_a_context_that_is_too_long_goes_to_those_known_to_take_more(tokens: dict[str, int | None], then: str) -> None:
    """Each that says the same rules out all that take no more than it; one of which nothing is known is not asked."""
    w = windows(**tokens)
    exchange = w.exchange()
    assert asked(w, exchange) == "a"
    w.fail(exchange, TOO_LONG)
    for name in then.strip("-"):
        assert asked(w, exchange) == name
        w.fail(exchange, TOO_LONG)
    assert isinstance(exchange.next(w.now), Exhausted)


# --- the app's answer


@pytest.mark.parametrize(
    ("outcome", "free", "pinned"),
    [(DOWN, True, True), (judging.TIMEOUT, True, True), (TOO_LONG, True, False), (REFUSED, False, False)],
)
def test_which_outcomes_the_app_gets_at_once(outcome: Outcome, free: bool, pinned: bool) -> None:
    """Its own mistakes; of a pinned call also that it is too long, for nobody else may answer that."""
    w = world()
    free_call = w.exchange()
    assert asked(w, free_call) == "a"
    assert free_call.may_move_on(free_call.attempts[-1], outcome) is free
    w.engine.issued(("resp_1",), w.engine.settings.providers[1])
    match = w.engine.routes.match("POST", "http", "app.test", 80, "/v1/responses")
    assert match is not None
    call = Call("openai", "responses", "m", stream=False, pin=Pin(PinKind.STATE, "previous_response_id", ("resp_1",)))
    candidates = w.engine.routes.candidates(match, "m")
    plan = table.plan(candidates, call, home_issuer="", issuer_of=w.engine.issuer_of, knows_model=None)
    exchange = Exchange(w.engine, match, call, plan, w.now)
    assert asked(w, exchange) == "b"
    assert exchange.may_move_on(exchange.attempts[-1], outcome) is pinned


def test_an_answer_that_would_blame_the_app_for_our_configuration_is_the_last_choice() -> None:
    """And the original words about a context that is too long are the first."""
    w = world()
    credential = Outcome(Kind.COOLDOWN, "credential", Then.NEXT, 401, 600)
    model = Outcome(Kind.NEUTRAL, "unknown_model", Then.NEXT, 404)
    exchange = w.exchange()
    assert asked(w, exchange) == "a"

    def rank(outcome: Outcome) -> int:
        return exchange.rank(exchange.attempts[-1], outcome)

    mistake = Outcome(Kind.NEUTRAL, "client_error", Then.HAND_OVER, 400)
    assert rank(TOO_LONG) == rank(mistake) > rank(DOWN) > rank(credential) == rank(model)
    assert rank(NOT_HERE) == rank(DOWN)


# --- attempts enough for all


@pytest.mark.parametrize(
    ("names", "asked_in_order"),
    [
        ("abc", "aabbcc-"),
        ("abcd", "aabbcd-"),
        ("abcdef", "abcdef-"),
        # More than can be asked anyway: a second try is as good.
        ("abcdefg", "aabbcc-"),
    ],
)
def test_a_second_try_leaves_room_for_those_who_had_none(names: str, asked_in_order: str) -> None:
    """No failure is the app's that another provider could have answered, as far as `max` attempts reach."""
    w = world("[attempts]\nbackoff_seconds = 0\n" + TOP, **dict.fromkeys(names, ""))
    exchange, order = w.exchange(), ""
    while isinstance(attempt := exchange.next(w.now), Attempt | Wait):
        if isinstance(attempt, Wait):
            w.now += attempt.seconds
            continue
        order += attempt.candidate.provider.name
        w.fail(exchange, DOWN)
    assert order + "-" == asked_in_order


def test_who_would_refuse_needs_no_room() -> None:
    """A provider whose circuit is open takes no attempt from the others."""
    w = world("[attempts]\nbackoff_seconds = 0\nmax = 3\n" + TOP, **dict.fromkeys("abc", ""))
    w.engine.hold("c", State.FORCED_OPEN)
    exchange = w.exchange()
    assert asked(w, exchange) == "a"
    w.fail(exchange, DOWN)
    assert asked(w, exchange) == "a"
    w.fail(exchange, DOWN)
    assert asked(w, exchange) == "b"
