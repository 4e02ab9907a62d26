"""What two processes tell each other besides circuits and limits: where conversations stay, who issued an identifier,
what is set by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from sidestep.breaker.circuit import State
from sidestep.config import reading
from sidestep.config.settings import Settings
from sidestep.dialects.base import Conversation
from sidestep.fleet.member import ISSUED_MS, MAX_IDS, Member
from sidestep.fleet.scripts import Script
from sidestep.routing.engine import Engine
from sidestep.routing.sticking import Stay

CONVERSATION = Conversation(b"opening", b"answered", 3, b"end")
SCOPE = ("r", "m")


def settings(*names: str) -> Settings:
    text = '[fleet]\nurl = "redis://h"\nsecret = "0123456789abcdef"\n'
    for name in names:
        text += f'[[providers]]\nname = "{name}"\ndialect = "openai"\nbase_url = "http://{name[0]}.test/v1"\n'
        text += f'api_key = "pk-{name}"\n'
    return reading.parse(text, {})


class Shelf:
    """What a store keeps of plain keys and of what was last told of each entry; one for all. State also: whether it is
    out of reach."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.lives: list[int] = []
        self.entries: list[tuple[str, str]] = []
        self.alone = False
        self.error: Exception | None = None

    def say(self, command: Any, keys: Sequence[str], arguments: Sequence[Any], answered: Any = None) -> bool:
        if self.alone:
            return False
        answer: Any = None
        match command:
            case "SET":
                self.values[keys[0]] = arguments[0]
                self.lives.append(arguments[2])
            case "MGET":
                answer = [self.values.get(key) for key in keys]
            case Script.HAND:
                self.entries.append((arguments[0], arguments[2]))
            case Script.LATER:
                self.entries.append((arguments[0], arguments[4]))
        if answered is not None and command not in (Script.HAND, Script.LATER):
            answered(self.error or answer, 0.0)
        return True


class Process:
    def __init__(self, shelf: Shelf, *names: str) -> None:
        of = settings(*names)
        assert of.fleet is not None
        self.now = 100.0
        self.bugs: list[Exception] = []
        self.engine = Engine(of)
        self.member = Member(of.fleet, lambda: self.now, lambda *_: None, lambda _, e: self.bugs.append(e))
        self.member.carrier = shelf  # type: ignore[assignment]
        self.member.join(self.engine)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def pulled(process: Process, shelf: Shelf) -> None:
    """It hears all that was told."""
    told = [part for n, (entry, payload) in enumerate(shelf.entries, 1) for part in (entry, n, 0, "you.1", payload)]
    process.member._pulled(["e", len(shelf.entries), told], process.now)


def test_where_a_conversation_stays_is_known_to_the_other(shelf: Shelf) -> None:
    """By its latest answer, for as long as it counts here; the other looks only once any stays anywhere. Each calls the
    providers what it likes."""
    one, two = Process(shelf, "a", "b"), Process(shelf, "b-2", "a-2")
    assert not two.member.any_stays(two.now)
    one.member.stays(SCOPE, CONVERSATION, Stay("b", one.now + 60, 3, b"end", "a"))
    assert shelf.lives == [60_000]
    pulled(two, shelf)
    assert two.member.any_stays(two.now)
    question = two.member.where(SCOPE, CONVERSATION, two.now)
    assert question is not None
    assert (question.answered, question.seconds(two.now)) == (True, 0.0)
    found = two.engine.conversations.latest(SCOPE, CONVERSATION)
    assert found is not None
    assert (found.provider, found.home, found.length, found.end) == ("b-2", "a-2", 3, b"end")
    later = Conversation(b"opening", b"another", 5, b"end")
    assert two.member.where(("other", "m"), later, two.now) is not None
    assert two.engine.conversations.latest(("other", "m"), later) is None
    assert one.bugs == two.bugs == []


@pytest.mark.parametrize(
    "stay", [Stay("b", 100.5, 3, b"end", "a"), Stay("x", 160, 3, b"end", "a"), Stay("b", 160, 3, b"", "x")]
)
def test_a_stay_that_is_over_or_with_somebody_unknown_is_not_told(stay: Stay, shelf: Shelf) -> None:
    Process(shelf, "a", "b").member.stays(SCOPE, CONVERSATION, stay)
    assert (shelf.values, shelf.entries) == ({}, [])


def test_who_issued_an_identifier_is_known_to_the_other(shelf: Shelf) -> None:
    one, two = Process(shelf, "a", "b"), Process(shelf, "b-2", "a-2")
    one.member.issued(["resp_1"], "b")
    one.member.issued(["resp_2"], "unknown")
    assert shelf.lives == [ISSUED_MS]
    question = two.member.issuers(["resp_1", "resp_2"], two.now)
    assert question is not None
    assert question.answered
    issuer = two.engine.issuer_of("resp_1")
    assert issuer is not None
    assert issuer.provider == "b-2"
    assert two.engine.issuer_of("resp_2") is None
    one.member.issued([f"resp_{n}" for n in range(MAX_IDS + 9)], "a")
    assert len(shelf.values) == MAX_IDS


@pytest.mark.parametrize("ask", [lambda m: m.where(SCOPE, CONVERSATION, 100.0), lambda m: m.issuers(["x"], 100.0)])
def test_nobody_can_be_asked(ask: Callable[[Member], Any], shelf: Shelf) -> None:
    """No question is waited for; an error is an answer."""
    process = Process(shelf, "a", "b")
    shelf.error = ConnectionError()
    question = ask(process.member)
    assert question.answered
    shelf.alone = True
    assert ask(process.member) is None
    assert process.bugs == []


def test_what_is_set_by_hand_is_set_at_the_other(shelf: Shelf) -> None:
    """And is not told back by that."""
    one, two = Process(shelf, "a", "b"), Process(shelf, "b-2", "a-2")
    one.engine.hold("a", State.DISABLED)
    one.engine.set_mode("observe")
    told = len(shelf.entries)
    pulled(two, shelf)
    assert (two.engine.held, two.engine.mode) == ({"a-2": State.DISABLED}, "observe")
    one.engine.hold("a", None)
    pulled(two, shelf)
    assert two.engine.held == {}
    assert len(shelf.entries) == told + 1


async def test_its_tasks_run_until_it_is_stopped(shelf: Shelf) -> None:
    """A bug in one turn ends none of them."""
    process = Process(shelf, "a")
    turned = asyncio.Event()

    async def forever(*_: Any) -> None:
        await asyncio.Event().wait()

    def turn() -> None:
        turned.set()
        raise KeyError

    shelf.run = shelf.listen = forever  # type: ignore[attr-defined]
    process.member._turn = turn  # type: ignore[method-assign]
    process.member.start()
    await turned.wait()
    tasks = process.member._tasks
    assert [type(bug) for bug in process.bugs] == [KeyError]
    assert not any(task.done() for task in tasks)
    process.member.stop()
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)
    process.member._tick = _broken  # type: ignore[method-assign]
    process.member.start()
    await asyncio.wait(process.member._tasks, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(0)
    assert [type(bug) for bug in process.bugs] == [KeyError, ValueError]
    process.member.stop()


async def _broken() -> None:
    raise ValueError


def test_a_bug_of_its_own_costs_no_call(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the engine tells or asks."""
    process = Process(shelf, "a", "b")
    member, now = process.member, process.now

    def broken(*_: Any) -> Any:
        raise KeyError

    for of, name in ((member.names, "stay"), (member.names, "issued"), (member.names, "hand"), (member, "_say")):
        monkeypatch.setattr(of, name, broken)
    member.stays(SCOPE, CONVERSATION, Stay("b", now + 60, 3, b"end", "a"))
    assert member.where(SCOPE, CONVERSATION, now) is None
    member.issued(["x"], "a")
    assert member.issuers(["x"], now) is None
    member.mode_set("observe", told=False)
    assert [type(bug) for bug in process.bugs] == [KeyError] * 5
