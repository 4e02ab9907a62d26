"""Who may probe."""

from __future__ import annotations

from sidestep.fleet.claims import ALONE, ANSWER_SECONDS, LEASE_SECONDS, UNUSED_SECONDS, Claim, Claims, Release


def asked(claims: Claims, now: float = 0.0) -> Claim:
    seconds, claim = claims.ask("c", now)
    assert seconds == ANSWER_SECONDS
    assert claim is not None
    return claim


def test_granted_used_given_back() -> None:
    claims = Claims("me")
    claim = asked(claims)
    assert claims.ask("c", 0.04) == (ANSWER_SECONDS - 0.04, None)  # whoever comes meanwhile waits with it
    assert claims.answered(claim, granted=True, now=0.05) is None
    assert claims.ask("c", 0.05) == (0.0, None)
    assert claims.take("c", 0.05) == claim.token
    assert claims.due(1.0) == [claim]  # its lease is made longer as long as it is out
    assert claims.give_back(claim.token) == Release("c", claim.token)
    assert claims.give_back(claim.token) is None
    assert claims.due(2.0) == []


def test_taken_elsewhere() -> None:
    """It is asked for anew by whoever comes next."""
    claims = Claims("me")
    claim = asked(claims)
    assert claims.answered(claim, granted=False, now=0.05) is None
    assert asked(claims, 0.06) != claim


def test_nobody_answers() -> None:
    """After a tenth of a second as if alone; a grant that comes later is given back at once."""
    claims = Claims("me")
    claim = asked(claims)
    assert claims.ask("c", ANSWER_SECONDS) == (0.0, None)
    assert claims.take("c", ANSWER_SECONDS) == ALONE
    assert claims.answered(claim, granted=True, now=0.3) == Release("c", claim.token)
    assert claims.answered(claim, granted=False, now=0.3) is None


def test_an_error_is_as_if_alone() -> None:
    """And what a store that stood still may grant later is given back as long as that may be."""
    claims = Claims("me")
    claim = asked(claims)
    claims.answered(claim, granted=None, now=0.01)
    assert claims.ask("c", 0.02) == (0.0, None)
    assert claims.take("c", 0.02) == ALONE
    assert claims.due(9) == [Release("c", claim.token)]
    assert claims.due(0.01 + LEASE_SECONDS) == []


def test_a_renewal_without_an_answer_gives_nothing_back() -> None:
    claims = Claims("me")
    claim = asked(claims)
    claims.answered(claim, granted=True, now=0.01)
    claims.take("c", 0.02)
    claims.answered(claim, granted=None, now=1)
    assert claims.due(2) == [claim]


def test_granted_and_not_used_is_given_back() -> None:
    claims = Claims("me")
    claim = asked(claims)
    claims.answered(claim, granted=True, now=0.05)
    assert claims.due(UNUSED_SECONDS - 0.01) == []
    assert claims.due(UNUSED_SECONDS) == [Release("c", claim.token)]
    assert claims.take("c", 1.1) == ALONE


def test_a_doubled_answer_gives_nothing_back_that_is_in_use() -> None:
    claims = Claims("me")
    claim = asked(claims)
    claims.answered(claim, granted=True, now=0.05)
    assert claims.answered(claim, granted=True, now=0.06) is None
    claims.take("c", 0.07)
    assert claims.answered(claim, granted=True, now=0.08) is None


def test_a_grant_whose_lease_is_over_is_none() -> None:
    """The loop stood still for long."""
    claims = Claims("me")
    claims.answered(asked(claims), granted=True, now=0.05)
    assert claims.take("c", LEASE_SECONDS) == ALONE


def test_a_word_holds_for_so_long() -> None:
    """Granted, as long as its lease; where nobody answered, a second. Then it is asked for anew."""
    claims = Claims("me")
    claims.answered(asked(claims), granted=True, now=0.05)
    assert claims.ask("c", LEASE_SECONDS - 0.01) == (0.0, None)
    assert asked(claims, LEASE_SECONDS).token == "me.2"
    claims.alone("c", 20.0)
    assert claims.ask("c", 20.0 + UNUSED_SECONDS - 0.01) == (0.0, None)
    assert asked(claims, 20.0 + UNUSED_SECONDS).token == "me.3"


def test_whoever_has_left_without_an_answer_or_alone_gives_nothing_back() -> None:
    claims = Claims("me")
    asked(claims)
    assert claims.due(UNUSED_SECONDS) == []
    assert asked(claims, UNUSED_SECONDS).token == "me.2"
    claims.alone("c", 2.0)
    assert claims.due(2.0 + UNUSED_SECONDS) == []
    assert asked(claims, 2.0 + UNUSED_SECONDS).token == "me.3"


def test_a_grant_is_taken_until_its_lease_is_over() -> None:
    claims = Claims("me")
    claim = asked(claims)
    claims.answered(claim, granted=True, now=0.05)
    assert claims.take("c", LEASE_SECONDS - 0.01) == claim.token
    assert claims.take("c", LEASE_SECONDS - 0.01) == ALONE, "once"


def test_an_answer_to_what_was_asked_before_changes_nothing() -> None:
    """It was given up meanwhile, and asked for anew."""
    claims = Claims("me")
    first = asked(claims)
    claims.due(UNUSED_SECONDS)
    second = asked(claims, UNUSED_SECONDS)
    assert claims.answered(first, granted=True, now=1.05) == Release("c", first.token)
    assert claims.answered(first, granted=False, now=1.05) is None
    assert claims.answered(second, granted=True, now=1.05) is None
    assert claims.take("c", 1.05) == second.token
