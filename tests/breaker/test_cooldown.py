"""The deadlines until which a provider is passed over."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestep.breaker import cooldown as cooldown_room
from sidestep.breaker.cooldown import (
    ANNOUNCED_MAX_SECONDS,
    FORESEEN,
    Cooldown,
    Cooldowns,
    Cooling,
    Source,
    Subject,
    subject,
)
from sidestep.breaker.outcomes import Kind, Outcome, Then
from support.searching import searching


def remaining(cooldown: Cooldown, now: float) -> float:
    cooling = cooldown.cooling(now)
    return 0 if cooling is None else cooling.seconds


def reason_of(cooldown: Cooldown, now: float) -> str:
    cooling = cooldown.cooling(now)
    return "" if cooling is None else cooling.reason


def test_a_new_one_passes_nobody_over() -> None:
    """Before the first cooldown nothing remains and there is no reason."""
    cooldown = Cooldown()
    assert (remaining(cooldown, 0), reason_of(cooldown, 0)) == (0, "")


def test_lasts_until_its_deadline() -> None:
    """It remains, with its reason, until the deadline and not a moment longer."""
    cooldown = Cooldown()
    cooldown.start(100, 30, "quota")
    assert (remaining(cooldown, 110), reason_of(cooldown, 110)) == (20, "quota")
    assert (remaining(cooldown, 130), reason_of(cooldown, 130)) == (0, "")
    assert (remaining(cooldown, 500), reason_of(cooldown, 500)) == (0, "")


@pytest.mark.parametrize("first_is_later", [True, False])
def test_the_later_deadline_keeps_its_reason(first_is_later: bool) -> None:
    """Of two deadlines the later wins, in either order, and its reason stays with it."""
    cooldown = Cooldown()
    both = [(600.0, "quota"), (3.0, "rate_limit")]
    for seconds, reason in both if first_is_later else reversed(both):
        cooldown.start(0, seconds, reason)
    assert (remaining(cooldown, 0), reason_of(cooldown, 0)) == (600, "quota")


def test_unannounced_ones_double_to_a_minute() -> None:
    """Consecutive refusals that name no time cost 5, 10, 20, 40, 60, 60 … seconds."""
    cooldown, now, found = Cooldown(), 0.0, []
    for _ in range(6):
        cooldown.start(now, None, "rate_limit")
        found.append(remaining(cooldown, now))
        now += remaining(cooldown, now)
    assert found == [5, 10, 20, 40, 60, 60]


def test_a_burst_doubles_once() -> None:
    """A hundred refusals while one backoff runs are one: only one that comes after its end doubles."""
    cooldown = Cooldown()
    for i in range(100):
        cooldown.start(i / 25, None, "rate_limit")
    assert remaining(cooldown, 0) == 5
    cooldown.start(5, None, "rate_limit")
    assert remaining(cooldown, 5) == 10


def test_a_success_ends_the_doubling() -> None:
    """After a success the next unannounced cooldown is 5 seconds again; a running one goes on."""
    cooldown = Cooldown()
    cooldown.start(0, None, "rate_limit")
    cooldown.start(5, None, "rate_limit")
    cooldown.succeeded()
    assert remaining(cooldown, 5) == 10
    cooldown.start(15, None, "rate_limit")
    assert remaining(cooldown, 15) == 5


def test_announced_ones_do_not_double() -> None:
    """An announced length is neither doubled nor does it lengthen the next unannounced one."""
    cooldown = Cooldown()
    cooldown.start(0, 2, "rate_limit")
    cooldown.start(2, 2, "rate_limit")
    assert remaining(cooldown, 2) == 2
    cooldown.start(4, None, "rate_limit")
    assert remaining(cooldown, 4) == 5


def test_believed_up_to_a_day() -> None:
    """A broken header cannot ban a provider for more than a day."""
    cooldown = Cooldown()
    cooldown.start(0, 1e12, "rate_limit")
    assert remaining(cooldown, 0) == ANNOUNCED_MAX_SECONDS == 86_400


@pytest.mark.parametrize("seconds", [math.inf, -math.inf, math.nan])
def test_no_number_is_no_announcement(seconds: float) -> None:
    """A length that is no finite number counts as none: the own backoff applies."""
    cooldown = Cooldown()
    cooldown.start(0, seconds, "rate_limit")
    assert remaining(cooldown, 0) == 5


@pytest.mark.parametrize("seconds", [-1.0, -1e300, 0.0])
def test_a_time_gone_by_passes_nobody_over(seconds: float) -> None:
    """An end in the past starts nothing and shortens nothing."""
    cooldown = Cooldown()
    cooldown.start(10, seconds, "rate_limit")
    assert remaining(cooldown, 10) == 0
    cooldown.start(10, 30, "quota")
    cooldown.start(20, seconds, "rate_limit")
    assert (remaining(cooldown, 20), reason_of(cooldown, 20)) == (20, "quota")


ANY_SECONDS = st.one_of(st.none(), st.floats(), st.floats(-10, 1000))


@searching(2)
@given(st.lists(st.tuples(st.floats(0, 100), ANY_SECONDS, st.booleans()), max_size=30))
def test_a_deadline_is_never_moved_forward_and_always_ends(
    steps: list[tuple[float, float | None, bool]],
) -> None:
    """Whatever comes: no new cooldown ends a running one earlier, the later deadline wins, all end in a day."""
    cooldown, now = Cooldown(), 1000.0
    for number, (pause, seconds, success) in enumerate(steps):
        now += pause
        before, reason = remaining(cooldown, now), reason_of(cooldown, now)
        if success:
            cooldown.succeeded()
            assert remaining(cooldown, now) == before
        cooldown.start(now, seconds, str(number))
        after = remaining(cooldown, now)
        assert before <= after <= max(before, ANNOUNCED_MAX_SECONDS)
        if seconds is None or not math.isfinite(seconds):
            assert after > 0
            assert after <= max(before, 60)
        else:
            announced = min(max(seconds, 0), ANNOUNCED_MAX_SECONDS)
            assert after == pytest.approx(max(before, announced))
        assert reason_of(cooldown, now) == (str(number) if after > before else reason)
    assert remaining(cooldown, now + ANNOUNCED_MAX_SECONDS + 1) == 0


@pytest.mark.parametrize(
    ("seconds", "left"), [(-5, 0), (0, 0), (0.5, 0.5), (86_400, 86_400), (86_401, 86_400), (math.inf, 86_400)]
)
def test_a_foreseen_limit_lasts_as_long_as_was_told(seconds: float, left: float) -> None:
    """From the head of the answer on that told it; believed up to a day, and a time gone by passes nobody over."""
    cooldown = Cooldown()
    cooldown.foresee(100, seconds)
    assert cooldown.cooling(100) == (Cooling(left, FORESEEN, Source.FORESEEN) if left else None)
    cooldown.foresee(90, 5)
    assert remaining(cooldown, 100) == left, "an older word shortens nothing"


@pytest.mark.parametrize(("asked_at", "ends"), [(9.0, False), (10.0, False), (10.1, True)])
def test_a_foreseen_limit_ends_with_a_good_answer_to_a_later_call(asked_at: float, ends: bool) -> None:
    """One that was asked before that, or at the same time, says nothing of it; a refusal's limit stays in any case."""
    cooldown = Cooldown()
    cooldown.foresee(10, 50)
    cooldown.foresee(5, 100)
    cooldown.succeeded(asked_at)
    assert remaining(cooldown, 20) == (0 if ends else 85)
    cooldown.start(20, 7, "rate_limit")
    cooldown.succeeded(20)
    assert cooldown.cooling(20) == Cooling(7, "rate_limit", Source.ANNOUNCED)


@pytest.mark.parametrize(
    ("announced", "source"), [(4.0, Source.GUESSED), (5.0, Source.GUESSED), (5.1, Source.ANNOUNCED)]
)
def test_which_word_a_limit_goes_by(announced: float, source: Source) -> None:
    """The later one's: of one that was announced, and one that was guessed."""
    cooldown = Cooldown()
    cooldown.start(0, None, "guessed")
    cooldown.start(0, announced, "announced")
    cooling = cooldown.cooling(1)
    assert cooling is not None
    assert cooling.source is source
    assert cooling.reason == ("announced" if source is Source.ANNOUNCED else "guessed")


def test_so_many_families_are_told_apart() -> None:
    """A limit of a further one is taken for one of the very model."""
    cooldowns = Cooldowns()
    for i in range(cooldown_room.MAX_FAMILIES):
        asked = subject("a", "x", "chat", f"m-family{i}x")
        assert cooldowns.start(asked, replace(LIMITED, family=f"family{i}x"), 0) == asked.of_family(f"family{i}x")
    other = subject("a", "x", "chat", "m-another")
    assert cooldowns.start(other, replace(LIMITED, family="another"), 0) == other
    assert cooldowns.start(CHAT, replace(LIMITED, family="family0x"), 0) == CHAT.of_family("family0x")
    assert cooldowns.find(subject("a", "x", "other", "N-FAMILY3X"), 0) is not None
    assert cooldowns.find(subject("a", "x", "other", "n-another"), 0) is None
    assert cooldowns.find(subject("a", "x", "other", None), 0) is None


# --- what a limit belongs to

CHAT = subject("a", "x", "chat", "m")
LIMITED = Outcome(Kind.COOLDOWN, "rate_limit", Then.NEXT, 429, 30)
OTHERS = [
    subject("b", "x", "chat", "m"),
    subject("a", "y", "chat", "m"),
    subject("a", "x", "embeddings", "m"),
    subject("a", "x", "chat", "n"),
    subject("a", "x", "chat", None),
]


@pytest.mark.parametrize("other", OTHERS)
def test_a_limit_is_no_reason_for_another_subject(other: Subject) -> None:
    """Another provider, key, operation or model: the evidence names none of them."""
    cooldowns = Cooldowns()
    assert cooldowns.start(CHAT, LIMITED, 0) == CHAT
    cooldowns.foresee(CHAT, 0, 60)
    assert cooldowns.find(CHAT, 0) == Cooling(60, "rate_limit", Source.ANNOUNCED)
    assert cooldowns.find(other, 0) is None


def test_a_limit_of_the_account_is_one_for_all_that_its_key_asks() -> None:
    """Every operation and model of the same key there; not another key, and not another provider."""
    cooldowns = Cooldowns()
    assert cooldowns.start(CHAT, replace(LIMITED, account=True), 0) == Subject("a", "x")
    assert [cooldowns.find(other, 0) is not None for other in OTHERS] == [False, False, True, True, True]


def test_a_request_that_is_too_large_says_nothing_of_smaller_ones() -> None:
    """No limit begins."""
    cooldowns = Cooldowns()
    assert cooldowns.start(CHAT, replace(LIMITED, size_limited=True), 0) is None
    assert cooldowns.find(CHAT, 0) is None


def test_the_latest_of_two_limits_counts() -> None:
    """Of the call's own and the account's; the weightier of their sources."""
    cooldowns = Cooldowns()
    cooldowns.start(CHAT, replace(LIMITED, account=True), 0)
    cooldowns.foresee(CHAT, 0, 60)
    assert cooldowns.find(CHAT, 0) == Cooling(60, FORESEEN, Source.ANNOUNCED)
    cooldowns.start(CHAT, replace(LIMITED, cooldown_seconds=90), 0)
    assert cooldowns.find(CHAT, 0) == Cooling(90, "rate_limit", Source.ANNOUNCED)
    assert list(cooldowns.of("a", 0)) == [CHAT, CHAT.account]
    cooldowns.keep(lambda name: name != "a")
    assert cooldowns.find(CHAT, 0) is None


def test_a_success_is_one_for_the_account_too() -> None:
    """The next limit that names no time starts small again, whichever of both it is."""
    for account in (False, True):
        guess = replace(LIMITED, cooldown_seconds=None, account=account)
        cooldowns = Cooldowns()
        cooldowns.start(CHAT, guess, 0)
        cooldowns.start(CHAT, guess, 5)
        cooldowns.succeeded(CHAT, 14)
        cooldowns.start(CHAT, guess, 20)
        assert cooldowns.find(CHAT, 20) == Cooling(5, "rate_limit", Source.GUESSED)


def test_made_up_names_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits not asked about for longest go first, and a long name takes the room of a short one."""
    monkeypatch.setattr(cooldown_room, "MAX_COOLDOWNS", 10)
    cooldowns = Cooldowns()
    cooldowns.start(CHAT, LIMITED, 0)
    for i in range(100):
        cooldowns.start(subject("a", "x" * 10_000 + str(i), "chat", "m" * 10_000 + str(i)), LIMITED, 0)
        assert cooldowns.find(CHAT, 0) is not None
    found = cooldowns.of("a", 0)
    assert len(found) == 10
    assert all(len(each.credential) <= 256 and len(each.model or "") <= 256 for each in found)


SUBJECTS = [subject(p, c, o, m) for p in "ab" for c in "xy" for o in ("chat", "embeddings") for m in ("m", "n")]
STEPS = st.tuples(
    st.floats(0, 20),
    st.sampled_from(SUBJECTS),
    st.sampled_from(["start", "start", "account", "foresee", "succeed", "too large"]),
    st.one_of(st.none(), st.floats(0, 100)),
)


@searching(2)
@given(st.lists(STEPS, max_size=30))
def test_blame_never_crosses_and_deadlines_never_shorten(
    steps: list[tuple[float, Subject, str, float | None]],
) -> None:
    """Whatever comes: a limit changes what it belongs to and nothing else, and only a limit foreseen ends early."""
    cooldowns, now = Cooldowns(), 1000.0
    refused = dict.fromkeys(SUBJECTS, 0.0)
    for pause, each, what, seconds in steps:
        now += pause
        before = {s: cooldowns.find(s, now) for s in SUBJECTS}
        if what == "succeed":
            cooldowns.succeeded(each, now)
        elif what == "foresee":
            cooldowns.foresee(each, now, seconds or 0)
        else:
            outcome = replace(LIMITED, cooldown_seconds=seconds, account=what == "account")
            cooldowns.start(each, replace(outcome, size_limited=what == "too large"), now)
        wide = what == "account"
        for other in SUBJECTS:
            after = cooldowns.find(other, now)
            if other != each and not (wide and other.account == each.account):
                assert after == before[other]
                continue
            if what in ("start", "account") and after is not None:
                asked = 0 if seconds is None else seconds
                refused[other] = max(refused[other], now + asked)
            left = 0 if after is None else after.seconds
            assert now + left >= refused[other] - 1e-6
            if what != "succeed":
                assert left >= (0 if (was := before[other]) is None else was.seconds)
