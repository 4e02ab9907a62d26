"""What the engine tells those who share what it knows, and how long a call waits for what they know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from sidestep import status
from sidestep.breaker.circuit import Circuit, State
from sidestep.breaker.cooldown import Subject
from sidestep.breaker.windows import Standing, Window
from sidestep.dialects.base import Conversation
from sidestep.routing.engine import Attempt
from sidestep.routing.exchange import Wait
from sidestep.routing.sharing import Question
from sidestep.routing.sticking import Scope, Stay
from support.world import World, answer, toml, user

LATER: dict[str, Any] = {"messages": [user("hi"), answer("hello"), user("and?")]}


class Others:
    """State: what was said, in order; the question that is asked next, and the seconds that a probe waits for."""

    def __init__(self) -> None:
        self.status: dict[str, Any] = {"state": "together", "members": [1, 2], "entries": 3, "sent": 7, "errors": 1}
        self.said: list[tuple[Any, ...]] = []
        self.question: Question | None = None
        self.claimed = 0.0
        self.has_any = True

    def guards(self, provider: str, model: str | None, circuit: Circuit) -> None:
        self.said.append(("guards", provider, model))

    def claim(self, circuit: Circuit, now: float) -> float:
        self.said.append(("claim",))
        return self.claimed

    def asked(self, subject: Subject, now: float) -> None:
        pass

    def limited(self, subject: Subject, now: float) -> None:
        self.said.append(("limited", subject.provider))

    def planned(self, account: Subject, told: Sequence[Window], now: float) -> None:
        self.said.append(("planned", account, *told))

    def stays(self, scope: Scope, conversation: Conversation, stay: Stay) -> None:
        self.said.append(("stays", stay.provider, stay.cached))

    def any_stays(self, now: float) -> bool:
        return self.has_any

    def where(self, scope: Scope, conversation: Conversation, now: float) -> Question | None:
        self.said.append(("where", conversation.answered is not None))
        self.asked_for = scope, conversation
        return self.question

    def issued(self, ids: Sequence[str], provider: str) -> None:
        self.said.append(("issued", *ids, provider))

    def issuers(self, ids: Sequence[str], now: float) -> Question | None:
        self.said.append(("issuers", *ids))
        return self.question

    def held(self, provider: str, state: State | None, *, told: bool) -> None:
        self.said.append(("held", provider, state, told))

    def mode_set(self, mode: str, *, told: bool) -> None:
        self.said.append(("mode", mode, told))

    def heard(self, what: str) -> list[tuple[Any, ...]]:
        return [said for said in self.said if said[0] == what]


@pytest.fixture
def others() -> Others:
    return Others()


@pytest.fixture
def w(others: Others) -> World:
    world = World(toml(top="circuit = { failure_threshold = 1, open_seconds = 20 }", a="", b=""))
    world.engine.sharing = others
    return world


def test_what_it_finds_out_is_told(w: World, others: Others) -> None:
    assert w.call(LATER, failing="a") == "ab"
    assert {said[1] for said in others.heard("guards")} == {"a", "b"}
    assert others.heard("stays") == [("stays", "b", 0), ("stays", "b", 150_000)]
    window = Window("5h", "", Standing.ALLOWED, 0.5, 900.0)
    w.engine.plan_told(w.subject("a"), (window,), w.now)
    w.engine.plan_told(w.subject("a"), (), w.now)
    assert others.heard("planned") == [("planned", Subject("a"), window)]
    assert w.engine.plans.windows(Subject("a"), w.now) == (window,)
    w.engine.hold("a", State.FORCED_OPEN)
    w.engine.hold("b", State.DISABLED, told=True)
    held = [("held", "a", State.FORCED_OPEN, False), ("held", "b", State.DISABLED, True)]
    assert others.heard("held") == held, "what was heard is not told again"
    w.engine.set_mode("observe")
    w.engine.set_mode("off", told=True)
    assert others.heard("mode") == [("mode", "observe", False), ("mode", "off", True)]


def test_who_has_issued_what(w: World, others: Others) -> None:
    b = w.engine.settings.by_name["b"][0]
    w.engine.told_issued(["heard"], b)
    w.engine.issued(("heard", "new"), b)
    assert others.heard("issued") == [("issued", "new", "b")]
    assert w.engine.ask_issuers(["heard", "new"], w.now) is None
    others.question = Question(w.now + 0.1)
    assert w.engine.ask_issuers(["new", "unknown"], w.now) is others.question
    assert others.heard("issuers") == [("issuers", "unknown")]
    w.engine.sharing = None
    assert w.engine.ask_issuers(["unknown"], w.now) is None


def test_a_conversation_that_stays_elsewhere_goes_on_there(w: World, others: Others) -> None:
    """It waits for the answer, and no longer than that takes."""
    others.question = Question(w.now + 0.02)
    exchange = w.exchange(LATER)
    for after, left in ((0.0, 0.02), (0.01, 0.01)):
        wait = exchange.next(w.now + after)
        assert isinstance(wait, Wait)
        assert wait.seconds == pytest.approx(left)
        assert (wait.reason, wait.on_change) == ("fleet", True)
    scope, conversation = others.asked_for
    assert conversation.answered is not None
    stay = Stay("b", w.now + 60, conversation.length, conversation.end, "b")
    w.engine.conversations.told(scope, conversation.answered, stay)
    others.question.answered = True
    found = exchange.next(w.now + 0.01)
    assert isinstance(found, Attempt)
    assert found.candidate.provider.name == "b"


def test_an_answer_that_does_not_come_is_waited_for_no_longer(w: World, others: Others) -> None:
    others.question = Question(w.now + 0.02)
    exchange = w.exchange(LATER)
    assert isinstance(exchange.next(w.now), Wait)
    found = exchange.next(w.now + 0.02)
    assert isinstance(found, Attempt)
    assert found.candidate.provider.name == "a"


def test_where_none_stays_anywhere_nobody_is_asked(w: World, others: Others) -> None:
    others.has_any = False
    assert isinstance(w.exchange(LATER).next(w.now), Attempt)
    assert others.heard("where") == []


def test_a_first_turn_asks_nobody(w: World, others: Others) -> None:
    assert isinstance(w.exchange().next(w.now), Attempt)
    assert others.heard("where") == []


def test_a_conversation_that_is_known_here_asks_nobody(w: World, others: Others) -> None:
    assert w.call(LATER, failing="a") == "ab"
    others.said.clear()
    assert w.call({"messages": [*LATER["messages"], answer("so"), user("more?")]}) == "b"
    assert others.heard("where") == []


def test_a_probe_waits_for_the_others(w: World, others: Others) -> None:
    assert w.call(failing="a") == "ab"
    w.now += 30
    others.claimed = 0.1
    exchange = w.exchange()
    assert exchange.next(w.now) == Wait(0.1, "claim", on_change=True)
    others.claimed = 0.0
    found = exchange.next(w.now)
    assert isinstance(found, Attempt)
    assert found.candidate.provider.name == "a"
    assert others.heard("claim")


def test_it_is_seen(w: World, others: Others) -> None:
    code, body = status.health(w.engine, w.now)
    assert (code, body["fleet"]) == (200, others.status)
    text = status.metrics(w.engine, w.now).decode()
    assert "\nsidestep_fleet_together 1.0\n" in text
    assert "\nsidestep_fleet_entries 3.0\n" in text
    assert "\nsidestep_fleet_members 2.0\n" in text
    assert "\nsidestep_fleet_commands_total 7.0\n" in text
