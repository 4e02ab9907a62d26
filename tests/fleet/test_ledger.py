"""How news is weighed: generations, another life of the store, what is told again."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sidestep.fleet import ledger as ledger_room
from sidestep.fleet.ledger import PULLED_AT_ONCE, Ledger, Message, News, is_suspect
from sidestep.fleet.scripts import Script


def entry(name: str, generation: int, ms: int, token: str, payload: str) -> list[Any]:
    return [name, generation, ms, token, payload]


def pulled(
    ledger: Ledger, epoch: str, version: int, *entries: list[Any], sent: float = 0, now: float = 0
) -> list[News]:
    return ledger.pulled([epoch, version, [part for entry in entries for part in entry]], sent, now)[0]


def test_what_is_left_counts_from_when_it_was_asked_for() -> None:
    """An answer that took two seconds leaves two seconds less."""
    [news] = pulled(Ledger("me"), "e", 1, entry("c1", 1, 5000, "you.1", "open 0"), sent=10, now=12)
    assert news == News("c1", "open 0", 3)


def test_an_older_generation_is_no_news() -> None:
    """Doubled, or overtaken by a newer one."""
    ledger = Ledger("me")
    assert pulled(ledger, "e", 5, entry("c1", 5, 5000, "you.2", "closed"))
    assert not pulled(ledger, "e", 5, entry("c1", 5, 5000, "you.2", "closed"))
    assert not pulled(ledger, "e", 4, entry("c1", 4, 5000, "you.1", "open 0"))
    assert ledger.version == 5


def test_its_own_word_and_what_is_over_are_no_news() -> None:
    ledger = Ledger("me")
    assert not pulled(ledger, "e", 2, entry("c1", 1, 5000, "me.1", "open 0"), entry("c2", 2, 5000, "you.1", "x"), now=6)


def test_what_stays_has_no_end() -> None:
    [news] = pulled(Ledger("me"), "e", 1, entry("h1", 1, 0, "you.1", "hold auto"))
    assert news.seconds == math.inf


def test_another_life_of_the_store_is_heard_anew_and_told_again() -> None:
    """Generations of the one before count for nothing; what still holds is told, what is over is not."""
    ledger = Ledger("me")
    pulled(ledger, "one", 90, entry("c9", 90, 50_000, "you.1", "open 0"))
    ledger.tell("c1", "open 0", until=30)
    ledger.tell("c2", "open 0", until=5)
    ledger.hand("h1", "hold disabled")
    assert ledger.retell(9) == []
    assert pulled(ledger, "two", 3, entry("c9", 3, 50_000, "you.2", "closed"), now=10)
    again = ledger.retell(10)
    assert [(m.script, m.entry, m.epoch) for m in again] == [(Script.TELL, "c1", "two"), (Script.HAND, "h1", "two")]
    assert ledger.retell(10) == []


def test_a_tell_says_what_it_has_heard() -> None:
    ledger = Ledger("me")
    pulled(ledger, "e", 7, entry("c1", 7, 5000, "you.1", "closed"))
    message = ledger.tell("c1", "open 5", until=15)
    assert (message.base, message.epoch, message.token) == (7, "e", "me.1")


def test_a_refusal_is_the_news() -> None:
    """Somebody else had told in between: that is what holds, and this process's own word is told no more."""
    ledger = Ledger("me")
    pulled(ledger, "e", 1)
    said = ledger.tell("c1", "open 5", until=15)
    news, again = ledger.answered(said, [0, 4, 5000, "you.1", "closed", "e"], 0, 0)
    assert (news, again) == (News("c1", "closed", 5), None)
    ledger.lost()
    assert ledger.retell(1) == []


def test_an_earlier_word_of_its_own_is_no_refusal() -> None:
    """What it told before had not come back yet: the later word is said once more, on top of it."""
    ledger = Ledger("me")
    pulled(ledger, "e", 1)
    ledger.tell("c1", "open 5", until=15)
    closed = ledger.tell("c1", "closed", until=60)
    news, again = ledger.answered(closed, [0, 4, 5000, "me.1", "open 5", "e"], 0, 0)
    assert news is None
    assert again is not None
    assert (again.payload, again.base) == ("closed", 4)


def test_an_answer_of_another_life_is_not_learnt() -> None:
    ledger = Ledger("me")
    pulled(ledger, "e", 1)
    said = ledger.tell("c1", "open 5", until=15)
    assert ledger.answered(said, [1, 900, 5000, "me.1", "open 5", "other"], 0, 0) == (None, None)
    assert ledger.tell("c1", "closed", until=15).base == 0


def test_a_limit_that_is_known_is_not_told() -> None:
    """All processes that meet one limit know it from the first one's word."""
    ledger = Ledger("me")
    pulled(ledger, "e", 1, entry("k1", 1, 60_000, "you.1", "limit 2 rate_limit"))
    assert ledger.later("k1", "limit 2 rate_limit", until=60.02) is None
    assert ledger.later("k1", "limit 2 rate_limit", until=61) is not None


def test_what_another_user_has_set_since_is_not_overruled() -> None:
    """Held here, given back at another process: what is told again is not the hold."""
    ledger = Ledger("me")
    pulled(ledger, "e", 1)
    ledger.hand("h1", "hold disabled")
    pulled(ledger, "e", 3, entry("h1", 2, 0, "me.1", "hold disabled"), entry("h1", 3, 0, "you.1", "hold auto"))
    ledger.lost()
    assert ledger.retell(1) == []


def test_a_limit_of_its_own_is_told_again_although_another_was_told_since() -> None:
    """To a store that has begun anew: whoever told the longer one may be gone."""
    ledger = Ledger("me")
    pulled(ledger, "one", 1)
    ledger.later("k1", "limit 2 rate_limit", until=30)
    pulled(ledger, "one", 2, entry("k1", 2, 60_000, "you.1", "limit 2 rate_limit"))
    pulled(ledger, "two", 0)
    assert [(m.script, m.entry, m.until) for m in ledger.retell(1)] == [(Script.LATER, "k1", 30)]


def test_what_was_lost_is_told_again() -> None:
    ledger = Ledger("me")
    ledger.tell("c1", "open 5", until=15)
    ledger.lost()
    assert [m.entry for m in ledger.retell(1)] == ["c1"]


def test_a_process_whose_providers_have_all_failed_at_once_is_suspect() -> None:
    never = -math.inf
    assert is_suspect([(90, 99), (95, 98)], 100)
    assert is_suspect([(never, 99), (never, 98), (1, 2)], 100)  # the last was not asked for long
    assert not is_suspect([(90, 99)], 100)  # with one alone nothing can be told
    assert not is_suspect([(90, 99), (98, 95)], 100)  # one answers
    assert not is_suspect([(90, 99), (never, 80)], 100)  # it failed while the other one still answered
    assert not is_suspect([], 100)


def test_what_stays_for_ever_has_a_bound_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever writes to the store fills nobody's memory: neither with entries nor with long ones."""
    monkeypatch.setattr(ledger_room, "MAX_ENTRIES", 900)
    ledger = Ledger("me")
    for first in range(0, 3 * 900, 300):
        made = [entry(f"c{i}", i + 1, 0, "you.1", "hold auto") for i in range(first, first + 300)]
        pulled(ledger, "e", first + 300, *made)
    assert ledger.shared <= 900 + 300
    for long in (
        entry("c" * 1_000, 1, 0, "t", "p"),
        entry("c", 1, 0, "t" * 1_000, "p"),
        entry("c", 1, 0, "t", "p" * 1_000),
    ):
        assert pulled(ledger, "e", 99_999, *[long]) == []


def test_a_store_that_runs_in_a_circle_is_not_followed() -> None:
    """A full answer asks for the next one, as long as the version goes on."""
    ledger = Ledger("me")
    full = [part for i in range(300) for part in entry(f"c{i}", 1, 0, "you.1", "closed")]
    assert [ledger.pulled(["e", version, full], 0, 0)[1] for version in (1, 1, 0, 2)] == [True, False, False, True]


def test_what_was_said_before_the_first_pull_is_told_then() -> None:
    """It may have gone to a store that was not there yet."""
    ledger = Ledger("me")
    ledger.tell("c1", "open 5", until=15)
    pulled(ledger, "e", 1)
    assert [m.entry for m in ledger.retell(1)] == ["c1"]


def test_what_is_as_good_as_over_is_not_told_again() -> None:
    ledger = Ledger("me")
    ledger.tell("c1", "open 5", until=10.5)
    ledger.tell("c2", "open 5", until=10.6)
    ledger.lost()
    assert [m.entry for m in ledger.retell(10)] == ["c2"]


def test_the_version_does_not_run_back() -> None:
    """An answer that was overtaken."""
    ledger = Ledger("me")
    assert ledger.pull() == Message(Script.PULL, base=0)
    pulled(ledger, "e", 7)
    pulled(ledger, "e", 6)
    assert (ledger.version, ledger.pull()) == (7, Message(Script.PULL, epoch="e", base=7))


def test_a_full_answer_says_that_there_is_more() -> None:
    ledger = Ledger("me")
    for count, more in ((PULLED_AT_ONCE - 1, False), (PULLED_AT_ONCE, True)):
        told = [part for i in range(count) for part in entry(f"c{i}", i + 1, 5000, "you.1", "x")]
        assert ledger.pulled([f"e{count}", count, told], 0, 0)[1] is more
        assert ledger.shared == count


def test_a_limit_that_ends_a_little_later_is_no_news() -> None:
    """By fifty milliseconds, or by what whoever tells it thinks little."""
    ledger = Ledger("me")
    pulled(ledger, "e", 1, entry("k1", 1, 60_000, "you.1", "limit"))
    assert ledger.later("k1", "limit", until=62, grain=2) is None
    assert ledger.later("k1", "limit", until=60.04, grain=0.01) is None
    assert ledger.later("k2", "limit", until=1) is not None
    assert ledger.later("k1", "limit", until=62.1, grain=2) is not None


def test_a_limit_of_its_own_is_told_again_whatever_others_say_of_it() -> None:
    """Of two, the later one holds: the store says which."""
    ledger = Ledger("me")
    pulled(ledger, "e", 1)
    ledger.later("k1", "limit", until=90)
    pulled(ledger, "e", 2, entry("k1", 2, 60_000, "you.1", "limit"))
    ledger.lost()
    assert [m.entry for m in ledger.retell(1)] == ["k1"]


def test_only_the_last_word_on_a_circuit_is_said_once_more() -> None:
    ledger = Ledger("me")
    pulled(ledger, "e", 1)
    ledger.hand("h1", "hold auto")
    first, held = ledger.tell("c1", "open 5", until=15), ledger.hand("h1", "hold disabled")
    ledger.tell("c1", "closed", until=60)
    assert ledger.answered(first, [0, 4, 5000, "me.7", "closed", "e"], 0, 0) == (None, None)
    assert ledger.answered(held, [0, 4, 0, "me.1", "hold auto", "e"], 0, 0) == (None, None)
    last = ledger.tell("c1", "open 9", until=15)
    assert ledger.answered(last, [1, 9, 5000, last.token, "open 9", "e"], 0, 0) == (None, None)


def test_what_is_known_of_an_entry() -> None:
    """Of another process, as long as it holds."""
    ledger = Ledger("me")
    theirs, own = entry("c1", 1, 5000, "you.1", "open 0"), entry("c2", 2, 5000, "me.1", "open 0")
    assert pulled(ledger, "e", 2, theirs, own) == [News("c1", "open 0", 5)]
    assert ledger.known("c1", 2) == News("c1", "open 0", 3)
    assert ledger.known("c1", 5) is None
    assert ledger.known("c2", 2) is None
    assert ledger.known("c3", 2) is None
    assert pulled(ledger, "e", 3, entry("c4", 3, 5000, "you.1", "open 0"), now=5) == []


def test_so_much_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is over goes first; what is beyond that is told once and not again."""
    monkeypatch.setattr(ledger_room, "MAX_ENTRIES", 2)
    ledger = Ledger("me")
    for name, until in (("c1", 5), ("c2", 60), ("c3", 60)):
        assert ledger.tell(name, "open 0", until).entry == name
    ledger.lost()
    assert [m.entry for m in ledger.retell(0)] == ["c1", "c2"]
    pulled(ledger, "e", 2, entry("d1", 1, 5000, "you.1", "x"), entry("d2", 2, 60_000, "you.1", "x"), now=5)
    assert ledger.shared == 2
    ledger.tell("c3", "open 0", 60)
    ledger.lost()
    assert [m.entry for m in ledger.retell(5)] == ["c2", "c3"]
    pulled(ledger, "e", 3, entry("d3", 3, 60_000, "you.1", "x"), now=5)
    assert (ledger.shared, ledger.known("d1", 4), ledger.known("d3", 5)) == (2, None, News("d3", "x", 55))


def test_what_was_long_ago_tells_nothing_of_the_network() -> None:
    assert not is_suspect([(30, 99), (30, 40)], 100)
    assert is_suspect([(30, 99), (30, 41)], 100)
    assert not is_suspect([(90, 99), (80, 90)], 100)  # it failed as the other one answered
