"""What follows from how an attempt ended."""

from __future__ import annotations

import pytest

from sidestep.breaker import judging
from sidestep.breaker.outcomes import Kind, Outcome, Then


@pytest.mark.parametrize(
    ("status", "alive"),
    [(None, False), (200, True), (404, True), (428, True), (429, False), (430, True), (499, True), (500, False)],
)
def test_an_answer_below_500_shows_a_provider_working(status: int | None, alive: bool) -> None:
    """Save 429: some send it in place of a 503."""
    assert Outcome(Kind.NEUTRAL, "client_error", status=status).alive is alive


def test_only_a_timeout_is_slow() -> None:
    assert [Outcome(Kind.FAILURE, reason).slow for reason in ("timeout", "connect")] == [True, False]


@pytest.mark.parametrize(
    ("kind", "then", "status", "label"),
    [
        (Kind.SUCCESS, Then.HAND_OVER, 200, "200"),
        (Kind.SUCCESS, Then.NEXT, 200, "200"),
        (Kind.NEUTRAL, Then.HAND_OVER, 200, "200"),
        (Kind.NEUTRAL, Then.NEXT, 200, "why"),
        (Kind.FAILURE, Then.HAND_OVER, 299, "why"),
        (Kind.FAILURE, Then.HAND_OVER, 300, "300"),
        (Kind.COOLDOWN, Then.NEXT, 429, "429"),
        (Kind.FAILURE, Then.NEXT, None, "why"),
    ],
)
def test_labels(kind: Kind, then: Then, status: int | None, label: str) -> None:
    """A 2xx that is no answer for the app is named by its reason."""
    assert Outcome(kind, "why", then, status).label == label


def test_a_redirect_that_is_no_answer_is_told_as_one() -> None:
    assert judging.judge_no_answer(307).words == "answered 307, which is not followed"
    assert judging.judge_no_answer(200).words == "gave no answer in its 200"


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Outcome(Kind.FAILURE, "connect", cause="its name is not known"), "its name is not known"),
        (Outcome(Kind.FAILURE, "connect"), "could not be reached"),
        (Outcome(Kind.FAILURE, "http_5xx", status=503), "answered 503"),
        (Outcome(Kind.FAILURE, "http_5xx"), "http_5xx"),
        (Outcome(Kind.FAILURE, "bad_response", status=200), "gave no answer in its 200"),
        (Outcome(Kind.NEUTRAL, "lacks", status=404), "does not take such a call"),
        (Outcome(Kind.NEUTRAL, "conflict", status=409), "answered 409"),
        (Outcome(Kind.NEUTRAL, "client_gone"), "client_gone"),
        (judging.LEAKED, "gave an answer that repeats a key"),
        (judging.BAD_HEAD, "gave an answer that cannot be passed on"),
    ],
)
def test_words(outcome: Outcome, words: str) -> None:
    """What is known of the cause comes first; a reason without words of its own is its own word."""
    assert outcome.words == words
