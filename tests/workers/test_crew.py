"""A supervisor's decisions: who is started, replaced, ended, and when it gives up."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidestep.workers.crew import EARLY_ENDS, EARLY_SECONDS, KILL_SECONDS, Action, Crew, End, Say, Start
from support.searching import searching


def apart_from_words(actions: list[Action]) -> list[Action]:
    return [action for action in actions if not isinstance(action, Say)]


def served(count: int = 2) -> Crew:
    """All serve since 0."""
    crew = Crew(count)
    crew.begin()
    crew.ready(1, 0.0)
    for number in range(2, count + 1):
        crew.ready(number, 0.0)
    return crew


def test_the_first_one_starts_alone() -> None:
    crew = Crew(3)
    assert crew.begin() == [Start(1)]
    assert crew.ready(1, 1.0) == [Start(2), Start(3)]
    assert crew.ready(2, 2.0) == crew.ready(3, 2.0) == []


@pytest.mark.parametrize(("code", "told"), [(1, 1), (0, 0), (2, 2), (-9, 137)])
def test_what_the_first_one_says_before_it_serves_is_said_once(code: int, told: int) -> None:
    """An error in the configuration, or the answer to `--version`."""
    crew = Crew(3)
    crew.begin()
    assert crew.ended(1, code, 1.0) == []
    assert (crew.is_over, crew.code) == (True, told)


def test_one_that_dies_is_replaced() -> None:
    crew = served()
    said, start = crew.ended(2, -9, 100.0)
    assert said == Say("worker 2 was killed by signal 9; it is replaced")
    assert start == Start(2)
    assert not crew.is_stopping
    assert crew.ready(2, 102.0) == []


def test_one_that_is_shut_down_ends_all() -> None:
    """mitmproxy has a command for it."""
    crew = served(3)
    assert apart_from_words(crew.ended(2, 0, 100.0)) == [End(1), End(3)]
    assert not crew.is_over
    assert crew.ended(1, 0, 101.0) == crew.ended(3, 0, 101.0) == []
    assert (crew.is_over, crew.code) == (True, 0)


def test_early_ends_in_a_row_are_too_many() -> None:
    crew = served()
    for _ in range(EARLY_ENDS * 2 - 1):
        assert apart_from_words(crew.ended(2, 3, 1.0)) == [Start(2)]
    assert apart_from_words(crew.ended(2, 3, 1.0)) == [End(1)]
    crew.ended(1, 0, 2.0)
    assert (crew.is_over, crew.code) == (True, 3)


def test_one_that_has_worked_for_long_ends_the_row() -> None:
    crew = served()
    for _ in range(EARLY_ENDS * 2 - 1):
        crew.ended(2, 3, 1.0)
    crew.ready(2, 10.0)
    assert apart_from_words(crew.ended(2, 3, 10.0 + EARLY_SECONDS)) == [Start(2)]
    assert apart_from_words(crew.ended(2, 3, 20.0)) == [Start(2)]
    assert crew.early == 1


def test_stopped_twice_they_are_killed() -> None:
    crew = served()
    assert crew.stop(5.0) == [End(1), End(2)]
    assert crew.ended(1, 0, 5.5) == []
    assert crew.stop(6.0) == [End(2, at_once=True)]
    assert crew.ended(2, -9, 6.0) == []
    assert (crew.is_over, crew.code) == (True, 0)


def test_who_does_not_end_is_killed() -> None:
    crew = served()
    crew.stop(5.0)
    assert crew.expired(5.0 + KILL_SECONDS - 0.1) == []
    assert crew.expired(5.0 + KILL_SECONDS) == [End(1, at_once=True), End(2, at_once=True)]
    assert crew.expired(5.0 + KILL_SECONDS) == [], "not again and again"


class CrewMachine(RuleBasedStateMachine):
    """Whatever happens in whatever order: never two of a number, none is lost, and all end in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.crew = Crew(3)
        self.now = 0.0
        self.running: set[int] = set()
        self.carry_out(self.crew.begin())

    def carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Start(number):
                    assert number not in self.running
                    assert not self.crew.is_stopping
                    self.running.add(number)
                case End(number):
                    assert number in self.running

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def one_is_ready(self, data: st.DataObject) -> None:
        self.carry_out(self.crew.ready(data.draw(st.sampled_from(sorted(self.running))), self.now))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), code=st.sampled_from([0, 1, 3, -9, -15]))
    def one_ends(self, data: st.DataObject, code: int) -> None:
        number = data.draw(st.sampled_from(sorted(self.running)))
        self.running.discard(number)
        self.carry_out(self.crew.ended(number, code, self.now))

    @rule(seconds=st.sampled_from([0.5, 10.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.carry_out(self.crew.expired(self.now))

    @rule()
    def it_is_stopped(self) -> None:
        self.carry_out(self.crew.stop(self.now))

    @invariant()
    def it_is_over_when_none_is_left(self) -> None:
        assert self.crew.is_over is (self.crew.is_stopping and not self.running)
        assert self.running or self.crew.is_stopping, "somebody serves as long as the whole is not to end"


CrewMachine.TestCase.settings = searching(0.6, stateful_step_count=40)
TestCrewMachine = CrewMachine.TestCase
