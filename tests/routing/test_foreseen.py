"""A rate limit that a good answer announces: passed over before the 429, and no app the worse for it."""

from __future__ import annotations

import pytest

from sidestep.breaker import judging
from sidestep.breaker.circuit import State
from sidestep.breaker.cooldown import ANNOUNCED_MAX_SECONDS, FORESEEN, Cooldown, Cooling, Source
from sidestep.breaker.outcomes import Kind, Outcome, Then
from sidestep.breaker.ratelimits import exhausted
from sidestep.routing.engine import Attempt, Refused
from sidestep.routing.exchange import Exhausted, Wait
from support.world import WALL, World, toml

USED_UP = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "60s"}
LEFT = {"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "60s"}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        (USED_UP, 60),
        (LEFT, None),
        ({**USED_UP, "x-ratelimit-limit-requests": "100"}, 60),
        ({**USED_UP, "x-ratelimit-limit-requests": "0"}, None),
        ({**USED_UP, "x-ratelimit-limit-tokens": "0"}, 60),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-limit": "0", "x-ratelimit-reset": "5"}, None),
        ({"x-ratelimit-remaining-tokens-day": "0", "x-ratelimit-reset-tokens-day": "3600"}, 3600),
        (
            {
                "anthropic-ratelimit-requests-limit": "0",
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2026-09-21T14:14:20Z",
            },
            None,
        ),
    ],
)
def test_a_limit_of_zero_says_nothing(headers: dict[str, str], seconds: float | None) -> None:
    """An answer that came in spite of a limit shows that it does not apply."""
    assert exhausted(headers, WALL) == seconds


# --- the cooldown


def test_a_foreseen_end_is_kept_apart() -> None:
    """It holds until its end with a reason of its own, and gives way to what a refusal says."""
    cooldown = Cooldown()
    cooldown.foresee(100, 60)
    assert cooldown.cooling(110) == Cooling(50, FORESEEN, Source.FORESEEN)
    cooldown.start(110, 20, "rate_limit")
    assert cooldown.cooling(120) == Cooling(40, "rate_limit", Source.ANNOUNCED)
    assert cooldown.cooling(130) == Cooling(30, FORESEEN, Source.FORESEEN)
    assert cooldown.cooling(160) is None
    cooldown.start(200, None, "rate_limit")
    cooldown.foresee(200, 60)
    assert cooldown.cooling(201) == Cooling(59, "rate_limit", Source.GUESSED)


def test_the_later_of_two_foreseen_ends_within_a_day() -> None:
    """The later one counts, and none is believed beyond a day."""
    cooldown = Cooldown()
    cooldown.foresee(0, 60)
    cooldown.foresee(10, 20)
    assert cooldown.cooling(10) == Cooling(50, FORESEEN, Source.FORESEEN)
    cooldown.foresee(10, 1e12)
    assert cooldown.cooling(10) == Cooling(ANNOUNCED_MAX_SECONDS, FORESEEN, Source.FORESEEN)


def test_only_a_request_sent_afterwards_shows_that_it_was_none() -> None:
    """An answer to a request sent before says nothing about what is left now."""
    cooldown = Cooldown()
    cooldown.foresee(100, 60)
    cooldown.succeeded(99)
    assert cooldown.cooling(101) is not None
    cooldown.succeeded(101)
    assert cooldown.cooling(101) is None


# --- calls


def test_the_next_provider_answers_until_the_reset() -> None:
    """The answer is a success; then its provider is passed over, and asked again after the reset."""
    world = World(toml("priority", a="", b=""))
    assert world.call(headers=USED_UP) == "a"
    assert world.engine.attempts_total[("a", Kind.SUCCESS, "ok")] == 1
    assert world.call() == "b"
    exchange = world.exchange()
    exchange.next(world.now)
    assert exchange.refused == (Refused("a", "cooldown (limit_foreseen)", 60),)
    world.settle(exchange)
    world.now += 60
    assert world.call(headers=LEFT) == "a"
    assert world.call() == "a"


def test_the_reset_counts_from_the_head_of_the_answer() -> None:
    """However long the answer took after it."""
    world = World(toml("priority", a="", b=""))
    exchange = world.exchange()
    attempt = exchange.next(world.now)
    assert isinstance(attempt, Attempt)
    attempt.headers_at = world.now
    world.now += 50
    world.engine.settle(attempt, judging.SUCCESS, world.now)
    exchange.settled(attempt, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(WALL) + 10)}, world.now, WALL)
    assert world.seconds_limited("a") == pytest.approx(10)
    exchange.settled(attempt, USED_UP, world.now, WALL)
    assert world.seconds_limited("a") == pytest.approx(10)


@pytest.mark.parametrize("names", ["a", "ab"])
def test_it_refuses_nobody_by_itself(names: str) -> None:
    """Where all are at their limits they are asked all the same, at once."""
    world = World(toml("priority", **dict.fromkeys(names, "")))
    for _ in range(5):
        for name in names:
            world.foresee(name, 60)
        assert world.call(headers=USED_UP) == "a"


def test_an_answer_with_something_left_ends_it() -> None:
    """Asked for want of others, it answers and says that there is more: it is in use again."""
    world = World(toml("priority", a="", b=""))
    world.call(headers=USED_UP)
    world.now += 1
    world.engine.hold("b", State.FORCED_OPEN)
    assert world.call(headers=LEFT) == "a"
    world.engine.hold("b", None)
    assert world.call() == "a"


@pytest.mark.parametrize(
    ("outcome", "then"),
    [(judging.TIMEOUT, "a"), (Outcome(Kind.COOLDOWN, "rate_limit", Then.NEXT, 429, 60), "a")],
)
def test_it_is_asked_when_the_others_have_failed(outcome: Outcome, then: str) -> None:
    """Before the app sees a failure, who only foresees a limit is asked."""
    world = World(toml("priority", a="", b=""))
    world.call(headers=USED_UP)
    exchange = world.exchange()
    attempt = exchange.next(world.now)
    assert isinstance(attempt, Attempt)
    assert attempt.candidate.provider.name == "b"
    world.fail(exchange, outcome)
    attempt = exchange.next(world.now)
    assert isinstance(attempt, Attempt)
    assert attempt.candidate.provider.name == then


def test_it_is_asked_rather_than_a_probe_waited_for() -> None:
    """A wait is worse than an answer, too."""
    world = World(toml("priority", "[circuit]\nfailure_threshold = 1\nopen_seconds = 1", a="", b=""))
    assert world.call(failing="b", headers=USED_UP) == "a"
    assert world.call(failing="b") == "ba"
    world.foresee("a", 60)
    world.now += 2
    assert isinstance(world.exchange().next(world.now), Attempt), "the probe of b"
    asked = world.exchange().next(world.now)
    assert isinstance(asked, Attempt)
    assert asked.candidate.provider.name == "a"


def test_an_open_circuit_weighs_more() -> None:
    """Only circuits refuse, and tell their own time."""
    world = World(toml("priority", a=""))
    world.call(headers=USED_UP)
    world.engine.hold("a", State.FORCED_OPEN)
    assert world.exchange().next(world.now) == Exhausted((Refused("a", "forced_open", None),))
    world = World(toml("priority", "[circuit]\nfailure_threshold = 1\nopen_seconds = 2", a=""))
    world.call(headers=USED_UP)
    world.call(failing="a")
    wait = world.exchange().next(world.now)
    assert isinstance(wait, Wait), "for its circuit, which is worth it; for its limit it would not be"
    assert 1.5 < wait.seconds < 2.5


def test_it_is_asked_rather_than_one_that_refused() -> None:
    """What an answer foresees may be wrong, what a refusal said hardly is."""
    world = World(toml("priority", a="", b=""))
    world.call(headers=USED_UP)
    exchange = world.exchange()
    exchange.next(world.now)
    world.fail(exchange, Outcome(Kind.COOLDOWN, "rate_limit", Then.NEXT, 429, 30))
    assert world.call() == "a"
    world.limit("a", 20)
    assert world.call() == "b"


def test_what_would_be_asked() -> None:
    """In mode `observe` it is told apart: only the limit, or the circuit too."""
    world = World(toml("priority", a=""))
    (a,) = world.exchange().plan.candidates
    assert world.exchange().first_choice(world.now) is a
    world.call(headers=USED_UP)
    assert world.exchange().first_choice(world.now) is a
    world.engine.hold("a", State.FORCED_OPEN)
    assert world.exchange().first_choice(world.now) is None


def test_strategies_pass_it_over() -> None:
    """Whoever is at its limit takes no turn and keeps no conversation."""
    world = World(toml("weighted", a="", b="", c=""))
    assert [world.call(headers=USED_UP if i == 0 else None) for i in range(5)] == ["a", "b", "c", "b", "c"]


def test_held_by_hand_it_is_asked() -> None:
    """A circuit that is disabled lets everything through, limits included."""
    world = World(toml("priority", a="", b=""))
    world.call(headers=USED_UP)
    world.engine.hold("a", State.DISABLED)
    assert world.call() == "a"
