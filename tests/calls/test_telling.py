"""What the log says, and how often."""

from __future__ import annotations

import logging

import pytest

from sidestep.breaker import judging
from sidestep.breaker.circuit import State
from sidestep.breaker.outcomes import Kind, Outcome, Then
from sidestep.calls.shared import QUIET_SECONDS, Core
from support.flows import ask
from support.world import World, toml


def test_of_one_kind_one_line_in_ten_seconds(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    core, now = Core(), [100.0]
    core.clock = lambda: now[0]
    for _ in range(5):
        core.tell("a", "this")
    core.tell("b", "that", logging.WARNING)
    now[0] += QUIET_SECONDS
    core.tell("a", "this")
    core.tell("a", "this")
    now[0] += QUIET_SECONDS
    core.tell("a", "this")
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("INFO", "sidestep: this"),
        ("WARNING", "sidestep: that"),
        ("INFO", "sidestep: this (and 4 more like this before)"),
        ("INFO", "sidestep: this (and 1 more like this before)"),
    ]


def told(w: World) -> list[str]:
    lines: list[str] = []
    w.engine.tell = lambda kind, text: lines.append(text)
    return lines


def test_a_circuit_s_changes_with_why_and_what_next() -> None:
    w = World(toml("priority", "[circuit]\nfailure_threshold = 1\nopen_seconds = 20\nscope = 'provider'", a=""))
    lines = told(w)
    refused = Outcome(Kind.FAILURE, "connect", Then.RETRY, cause="its certificate is not trusted")
    exchange = w.exchange()
    ask(w, exchange)
    w.fail(exchange, refused)
    w.now += 20
    again = w.exchange()
    ask(w, again)
    w.settle(again)
    assert lines == ["a is not asked for 20 s: its certificate is not trusted", "a is asked again: it answers"]
    assert w.engine.circuit_of(w.engine.settings.providers[0]).state(w.now) is State.CLOSED


@pytest.mark.parametrize(
    ("outcome", "line"),
    [
        (Outcome(Kind.COOLDOWN, "rate_limit", Then.NEXT, 429, 12.4), "a is passed over for 13 s: a rate limit"),
        (
            Outcome(Kind.COOLDOWN, "quota", Then.NEXT, 402, 600, account=True),
            "a is passed over for 600 s: the account is spent or barred",
        ),
    ],
)
def test_a_cooldown(outcome: Outcome, line: str) -> None:
    w = World(toml("priority", a="", b=""))
    lines = told(w)
    exchange = w.exchange()
    ask(w, exchange)
    w.fail(exchange, outcome)
    assert lines == [line]


def test_cooldowns_of_other_causes_are_of_another_kind() -> None:
    """Of a kind one line is written in a while: the second would say what the first did not."""
    w = World(toml("priority", a="", b=""))
    kinds: list[str] = []
    w.engine.tell = lambda kind, line: kinds.append(kind)
    exchange = w.exchange()
    for reason in ("rate_limit", "quota", "rate_limit"):
        ask(w, exchange)
        w.fail(exchange, Outcome(Kind.COOLDOWN, reason, Then.NEXT, 429, 1.0))
        w.now += 60
        exchange = w.exchange()
    assert kinds[0] != kinds[1]
    assert kinds[0] == kinds[2]


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Outcome(Kind.FAILURE, "http_5xx", Then.RETRY, 529), "answered 529"),
        (judging.TIMEOUT, "said nothing in time"),
        (judging.CONNECT, "could not be reached"),
        (judging.SLOW, "far slower than usual"),
        (Outcome(Kind.NEUTRAL, "conflict", Then.NEXT, 409), "answered 409"),
    ],
)
def test_words(outcome: Outcome, words: str) -> None:
    assert outcome.words == words
