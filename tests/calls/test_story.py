"""What mitmweb shows of a routed flow: whole header fields, comments and metadata."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.flow import Error

from sidestep.breaker import judging
from sidestep.breaker.circuit import State
from sidestep.breaker.outcomes import Kind, Outcome, Result, Then
from sidestep.calls import story
from sidestep.calls.session import Session
from sidestep.dialects.base import Usage
from sidestep.routing.engine import Refused
from sidestep.routing.exchange import Exchange, Exhausted
from support.flows import answered, ask, flow_of, session_of
from support.world import World

DOWN = Outcome(Kind.FAILURE, "http_5xx", Then.NEXT, 503)
AWAY = ":twisted_rightwards_arrows:"
LACKS = Outcome(Kind.NEUTRAL, "unknown_model", Then.NEXT, 404)
TOO_LONG = Outcome(Kind.NEUTRAL, "context_too_long", Then.LARGER, 400)
MISTAKEN = Outcome(Kind.NEUTRAL, "client_error", Then.HAND_OVER, 400)
TEXT = """
circuit = { scope = "provider" }

[[providers]]
name = "home"
dialect = "openai"
base_url = "http://app.test/v1"

[[providers]]
name = "away"
dialect = "openai"
base_url = "http://away.test/v1"
api_key = "secret-key"
models = { m = "my-m" }

[[routes]]
name = "chat"
intercept = ["http://app.test/v1"]
providers = ["home", "away"]
"""


class Told:
    """A call with its session. State: the world, the exchange, the flow."""

    def __init__(self, *, acting: bool = True) -> None:
        self.world = World(TEXT)
        self.exchange: Exchange = self.world.exchange()
        self.flow: http.HTTPFlow = flow_of()
        self.session: Session = session_of(self.world, self.exchange, self.flow, acting=acting)

    def fails(self, outcome: Outcome, status: int | None = None) -> Told:
        """The next attempt ends so, before the app saw a byte."""
        attempt = ask(self.world, self.exchange)
        attempt.status = status
        self.world.now += 0.50002
        self.world.fail(self.exchange, outcome)
        return self

    def answers(self, outcome: Outcome = judging.SUCCESS, status: int = 200) -> Told:
        """The next attempt has its answer, and the app gets it."""
        attempt = ask(self.world, self.exchange)
        self.world.now += 0.12342
        attempt.headers_at, attempt.status = self.world.now, status
        self.world.now += 0.1
        attempt.content_at = self.world.now
        self.world.engine.settle(attempt, outcome, self.world.now)
        self.world.now += 1
        self.world.engine.ended(attempt, self.world.now)
        answered(self.flow, status)
        self.session.answer = attempt
        return self

    def gets(self, name: str, status: int) -> Told:
        """Nobody could do better: the app gets the answer that this provider had given."""
        self.session.answer = next(a for a in self.exchange.attempts if a.candidate.provider.name == name)
        answered(self.flow, status)
        return self

    def ends(self, words: str = "Client disconnected.") -> Told:
        """The flow has ended with an error."""
        self.flow.error = Error(words)
        return self

    def nobody(self) -> Told:
        """There is nobody left to ask."""
        assert isinstance(self.exchange.next(self.world.now), Exhausted)
        return self

    def by_a_script(self, status: int) -> Told:
        """Another addon has answered, or a host that is no provider where Sidestep only looks on."""
        answered(self.flow, status)
        return self

    def ours(self, status: int) -> Told:
        """Sidestep refuses it."""
        self.session.broken_off = True
        return self.by_a_script(status)

    def left(self) -> Told:
        """No other hook told of it."""
        self.session.app_left = True
        return self

    def shown(self) -> tuple[str, str]:
        """Comment and marker."""
        story.tell(self.session, story.result(self.session))
        return self.flow.comment, self.flow.marked

    def metadata(self) -> dict[str, Any]:
        story.tell(self.session, story.result(self.session))
        found: dict[str, Any] = self.flow.metadata["sidestep"]
        return found


# --- what came of it


@pytest.mark.parametrize(
    ("told", "result", "comment", "mark"),
    [
        (lambda: Told().answers(), Result.ANSWERED, "", ""),
        (lambda: Told().answers(MISTAKEN, 400), Result.ANSWERED, "", ""),
        (lambda: Told().answers(judging.UNREAD), Result.ANSWERED, "", ""),
        (lambda: Told().answers(DOWN, 503), Result.FAILED, "app.test → home, which failed: home:503", ":red_circle:"),
        (lambda: Told().fails(DOWN, 503).answers(), Result.REROUTED, "app.test → away after home:503", AWAY),
        (
            lambda: Told().fails(DOWN, 503).answers(judging.UNREAD),
            Result.REROUTED,
            "app.test → away after home:503",
            AWAY,
        ),
        (
            lambda: Told().fails(DOWN, 503).answers(MISTAKEN, 400),
            Result.REROUTED,
            "app.test → away after home:503",
            AWAY,
        ),
        (
            lambda: Told().fails(DOWN, 503).answers(TOO_LONG, 400),
            Result.REROUTED,
            "app.test → away after home:503",
            AWAY,
        ),
        (
            lambda: Told().fails(DOWN, 503).fails(LACKS, 404).gets("home", 503),
            Result.FAILED,
            "app.test → home, which failed: home:503; no better: away:404",
            ":red_circle:",
        ),
        (
            lambda: Told().fails(judging.TIMEOUT).fails(LACKS, 404).gets("away", 404),
            Result.FAILED,
            "app.test → away after home:timeout, which failed: away:404",
            ":red_circle:",
        ),
        (
            lambda: Told().fails(judging.OTHER_FORM, 200).fails(DOWN, 503).gets("home", 200),
            Result.ANSWERED,
            "",
            "",
        ),
        (
            lambda: Told().fails(DOWN, 503).fails(judging.OTHER_FORM, 200).gets("away", 200),
            Result.REROUTED,
            "app.test → away after home:503",
            AWAY,
        ),
        (
            lambda: Told().fails(DOWN, 503).fails(judging.TIMEOUT).nobody(),
            Result.FAILED,
            "app.test → nobody (home:503, away:timeout)",
            ":red_circle:",
        ),
        (lambda: Told().by_a_script(200), Result.ANSWERED, "", ""),
        (lambda: Told().by_a_script(500), Result.FAILED, "app.test → nobody", ":red_circle:"),
        (lambda: Told().ours(403), Result.FAILED, "app.test → nobody", ":red_circle:"),
        (lambda: Told().answers().ends(), Result.LEFT, "app.test → home, but the app left", ""),
        (
            lambda: Told().fails(DOWN, 503).answers().ends(Error.KILLED_MESSAGE),
            Result.LEFT,
            "app.test → away after home:503, killed by hand",
            "",
        ),
        (
            lambda: Told().fails(DOWN, 503).fails(judging.CLIENT_GONE).ends(),
            Result.LEFT,
            "app.test → nobody (home:503), but the app left",
            "",
        ),
        (
            lambda: Told().fails(DOWN, 503).left(),
            Result.LEFT,
            "app.test → nobody (home:503), but the app left",
            "",
        ),
        (
            lambda: Told().answers(judging.TRUNCATED).ends("the stream from home ended before its end"),
            Result.FAILED,
            "app.test → home, which failed: home:truncated",
            ":red_circle:",
        ),
    ],
)
def test_what_came_of_a_call_is_what_the_app_got(
    told: Callable[[], Told], result: Result, comment: str, mark: str
) -> None:
    """An answer that the last attempt did not give, one that broke off, one that the app did not wait for: comment,
    marker and metadata say the same of each."""
    call = told()
    assert story.result(call.session) is result
    assert call.shown() == (comment, mark)
    assert call.metadata()["result"] == str(result)


def test_an_error_that_sidestep_ends_an_answer_with_is_a_failure() -> None:
    """Also where the last word on its provider was good, or nobody has answered: the app has not left."""
    for call in (Told().answers(), Told().fails(DOWN, 503)):
        call.ends("sidestep: internal error").session.broken_off = True
        assert story.result(call.session) is Result.FAILED


def test_an_error_put_in_place_of_a_good_answer_is_a_failure() -> None:
    """What counts is the status that the app got, whoever gave it: another addon may have changed it."""
    call = Told().answers()
    answered(call.flow, 502)
    assert story.result(call.session) is Result.FAILED


# --- comment and marker


def test_a_call_that_its_own_provider_answers_bears_no_mark() -> None:
    """What is as without Sidestep looks as without Sidestep; so do the app's own mistakes."""
    assert Told().answers().shown() == ("", "")
    assert Told().answers(MISTAKEN, 400).shown() == ("", "")


@pytest.mark.parametrize(
    ("outcome", "status", "word"),
    [
        (DOWN, 503, "503"),
        (judging.TIMEOUT, None, "timeout"),
        (Outcome(Kind.COOLDOWN, "quota", Then.NEXT, 402, 9), 402, "402"),
    ],
)
def test_a_rerouted_call_says_after_what(outcome: Outcome, status: int | None, word: str) -> None:
    told = Told().fails(outcome, status).answers()
    assert told.shown() == (f"app.test → away after home:{word}", ":twisted_rightwards_arrows:")


def test_all_failed_attempts_are_named_in_their_order() -> None:
    told = Told()
    told.fails(Outcome(Kind.FAILURE, "http_5xx", Then.RETRY, 503), 503)
    told.world.now += 1
    told.fails(DOWN, 503).answers()
    assert told.shown()[0] == "app.test → away after home:503, home:503"


def test_a_neutral_end_is_no_failure_to_be_told() -> None:
    """The attempt is in the metadata all the same."""
    told = Told().fails(Outcome(Kind.NEUTRAL, "conflict", Then.NEXT, 409), 409).answers()
    assert told.shown() == ("app.test → away", ":twisted_rightwards_arrows:")
    assert [a["reason"] for a in told.metadata()["attempts"]] == ["conflict", "ok"]


def test_a_call_that_went_elsewhere_at_once_says_for_which_reason() -> None:
    """Its own provider was not asked."""
    told = Told()
    told.world.engine.hold("home", State.FORCED_OPEN)
    told.answers()
    told.exchange.refused = (Refused("home", "forced_open", None),)
    assert told.shown() == ("app.test → away as home is held open by hand", ":twisted_rightwards_arrows:")
    assert told.metadata()["refused"] == [{"provider": "home", "reason": "forced_open"}]


def test_an_answer_that_failed_in_the_apps_hands_says_so() -> None:
    """A stream that broke after content: who answered, and how it ended."""
    told = Told().answers(judging.STALLED)
    assert told.shown() == ("app.test → home, which failed: home:timeout", ":red_circle:")
    told = Told().fails(DOWN, 503).answers(judging.TRUNCATED)
    assert told.shown() == ("app.test → away after home:503, which failed: away:truncated", ":red_circle:")


def test_a_call_that_nobody_answered_says_why() -> None:
    """What failed; where nobody was asked, why not; else nothing more."""
    assert Told().fails(DOWN, 503).fails(judging.TIMEOUT).nobody().shown() == (
        "app.test → nobody (home:503, away:timeout)",
        ":red_circle:",
    )
    told = Told()
    for name in ("home", "away"):
        told.world.engine.hold(name, State.FORCED_OPEN)
    assert told.nobody().shown() == ("app.test → nobody (home: forced_open, away: forced_open)", ":red_circle:")
    assert Told().shown() == ("app.test → nobody", ":red_circle:")


def test_an_onlooker_marks_nothing_and_gives_its_advice() -> None:
    """In mode `observe` the flow went where the app sent it."""
    told = Told(acting=False).fails(DOWN, 503)
    assert told.shown() == ("", "")
    assert "advice" not in told.metadata()
    told.session.advice = "would ask away after home:503"
    assert told.shown() == ("would ask away after home:503", "")
    assert told.metadata()["advice"] == "would ask away after home:503"


def test_advice_does_not_hide_what_happened() -> None:
    told = Told().fails(DOWN, 503).answers()
    told.session.advice = "advice"
    assert told.shown()[0] == "app.test → away after home:503"


# --- metadata


def test_the_whole_story_is_plain_data() -> None:
    """Names, statuses, times and counts; never a key. It survives being saved, and may be told again."""
    told = Told().fails(judging.TIMEOUT).answers()
    last = told.exchange.attempts[-1]
    last.usage, last.cost = Usage(7, 3, cached=5), 0.25
    last.notes.append("an event was dropped")
    story.tell(told.session, story.result(told.session))
    found = told.metadata()
    assert found == {
        "request_id": told.exchange.id,
        "result": "rerouted",
        "route": "chat",
        "dialect": "openai",
        "operation": "chat/completions",
        "model": "m",
        "url": "http://app.test/v1/chat/completions",
        "provider": "away",
        "attempts": [
            {
                "provider": "home",
                "model": "m",
                "outcome": "failure",
                "reason": "timeout",
                "cause": None,
                "status": None,
                "started_ms": 0.0,
                "headers_ms": None,
                "content_ms": None,
                "end_ms": 500.0,
                "tokens": None,
                "cost": None,
                "notes": [],
            },
            {
                "provider": "away",
                "model": "my-m",
                "outcome": "success",
                "reason": "ok",
                "cause": None,
                "status": 200,
                "started_ms": 500.0,
                "headers_ms": 123.4,
                "content_ms": 223.4,
                "end_ms": 1223.4,
                "tokens": {"input": 7, "output": 3, "cached": 5},
                "cost": 0.25,
                "notes": ["an event was dropped"],
            },
        ],
        "refused": [],
    }
    assert json.loads(json.dumps(found)) == found
    assert "secret-key" not in json.dumps(found)
    assert found["attempts"][1]["notes"] is not last.notes, "what is told later does not change it"


def test_an_attempt_under_way_has_no_outcome_yet() -> None:
    told = Told()
    ask(told.world, told.exchange)
    found = told.metadata()
    assert found["provider"] is None
    assert [(a["outcome"], a["reason"], a["end_ms"]) for a in found["attempts"]] == [(None, None, None)]


def test_a_call_that_was_never_planned_has_no_story() -> None:
    """Its body was not read: the flow stays as it is."""
    flow = flow_of()
    session = session_of(World(TEXT), None, flow)
    story.tell(session, story.result(session))
    assert (flow.metadata, flow.comment, flow.marked) == ({}, "", "")
    assert story.headers(session) == ()


# --- header fields


def test_the_fields_of_an_answer() -> None:
    """Who asked for it, who answered, and what was tried before, in this order."""
    told = Told().fails(DOWN, 503).answers()
    assert story.headers(told.session) == (
        (b"x-sidestep-request-id", told.exchange.id.encode()),
        (b"x-sidestep-provider", b"away"),
        (b"x-sidestep-attempts", b"home:503, away:200"),
    )


def test_the_fields_of_an_error_of_our_own() -> None:
    """Nobody answered."""
    told = Told().fails(judging.TIMEOUT).fails(DOWN, 503).nobody()
    assert story.headers(told.session) == (
        (b"x-sidestep-request-id", told.exchange.id.encode()),
        (b"x-sidestep-attempts", b"home:timeout, away:503"),
    )


@pytest.mark.parametrize(
    ("outcome", "status", "word"),
    [
        (None, None, "home:pending"),
        (None, 206, "home:206"),
        (judging.SUCCESS, 201, "home:201"),
        (judging.SUCCESS, None, "home:200"),
        (DOWN, 503, "home:503"),
        (judging.judge_no_answer(200), 200, "home:bad_response"),
        (MISTAKEN, 400, "home:400"),
    ],
)
def test_each_attempt_is_named_by_what_is_known_of_it(outcome: Outcome | None, status: int | None, word: str) -> None:
    """One not judged yet by the status that is going out; a 200 that was no answer is not called 200."""
    told = Told()
    attempt = ask(told.world, told.exchange)
    attempt.outcome, attempt.status = outcome, status
    assert story.trail(told.exchange.attempts) == word


@pytest.mark.parametrize(
    ("stays_with", "why"),
    [("away", "its conversation stays there"), ("home", "see its flow"), (None, "see its flow")],
)
def test_a_line_says_why_a_call_was_answered_elsewhere_that_nobody_failed(stays_with: str | None, why: str) -> None:
    told = Told()
    told.exchange.stays_with = stays_with
    told.fails(judging.HEDGE_LOST, 200).answers()
    assert story.line(told.session, Result.REROUTED)[1] == f"a call to app.test (m) was answered by away: {why}"


def test_a_line_says_what_sent_a_call_on_that_is_nobodys_failure() -> None:
    """It is there for whoever has no flows to look at."""
    told = Told().fails(LACKS, 404).answers()
    line = story.line(told.session, Result.REROUTED)[1]
    assert line == "a call to app.test (m) was answered by away: home: does not have the model"


def test_a_line_says_that_a_route_sends_its_calls_elsewhere() -> None:
    told = Told().answers()
    line = story.line(told.session, Result.REROUTED)[1]
    assert line == "a call to app.test (m) was answered by home: its route sends it there"


def test_lines_are_of_one_kind_where_what_was_done_and_why_are_alike() -> None:
    """Whatever the model: of a kind one line is written in a while."""
    neutral = Outcome(Kind.NEUTRAL, "conflict", Then.NEXT, 409)
    kinds = [
        story.line(told.session, came)[0]
        for told, came in (
            (Told().fails(DOWN, 503).answers(), Result.REROUTED),
            (Told().fails(DOWN, 503).answers(), Result.REROUTED),
            (Told().fails(DOWN, 503).fails(DOWN, 503).nobody(), Result.FAILED),
            (Told().fails(neutral, 409).answers(), Result.REROUTED),
        )
    ]
    assert len(set(kinds)) == 3
    assert kinds[0] == kinds[1]
