"""Whatever becomes of the messages of several processes: no circuit is stuck, one probe at a time, no limit is cut
short.

Real engines and members; the store is a model of the scripts, and what lies between them loses, doubles and delays.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidestep.breaker.circuit import Circuit, State
from sidestep.breaker.cooldown import Subject, subject
from sidestep.breaker.outcomes import Kind, Outcome
from sidestep.breaker.windows import Standing, Window
from sidestep.config import reading
from sidestep.fleet.claims import LEASE_SECONDS
from sidestep.fleet.member import Member
from sidestep.fleet.scripts import Script
from sidestep.routing.engine import Attempt, Engine
from sidestep.routing.table import Candidate
from support.searching import searching

OPEN_SECONDS = 2.0
SETTINGS = reading.parse(
    f"""
    circuit = {{ failure_threshold = 2, open_seconds = {OPEN_SECONDS}, open_seconds_max = 4 }}
    [fleet]
    url = "redis://nowhere"
    secret = "{"s" * 16}"
    [[providers]]
    name = "a"
    dialect = "openai"
    base_url = "http://127.0.0.1:1/v1"
    api_key = "pk-a"
    """,
    {},
)
PROVIDER = SETTINGS.providers[0]
CANDIDATE = Candidate(PROVIDER, "m", own=False)
LIMITED = subject("a", "", "chat", "m")
SUCCESS = Outcome(Kind.SUCCESS, "success", status=200)
FAILURE = Outcome(Kind.FAILURE, "http_5xx", status=500)
GONE = Outcome(Kind.NEUTRAL, "client_gone")
PROCESSES = 3
WINDOW_SECONDS = 300.0
CLOCKS = (0.0, -3_000.0, 100_000.0)
"""By how much each process's clock is ahead of the store's: nothing that is told may be a time."""


class World:
    """The scripts in Python. State: one life of a store, and its clock."""

    def __init__(self) -> None:
        self.now = 10_000.0
        self.life = 0
        self.late = 0.0
        """For how long a message was under way to the store at most."""
        self.clear()

    def clear(self) -> None:
        self.life += 1
        self.epoch, self.version = "", 0
        self.entries: dict[str, tuple[int, float, str, str]] = {}
        self.probes: dict[str, dict[str, float]] = {}
        self.claimed: dict[str, float] = {}
        """When each token's lease ends by its last claim, whatever was released since."""

    def run(self, script: Script, keys: Sequence[str], a: Sequence[Any]) -> list[Any]:
        match script:
            case Script.PULL:
                since = a[1] if a[0] == self.epoch else 0
                news = sorted((v, i) for i, (v, till, _, _) in self.entries.items() if v > since and till > self.now)
                told: list[Any] = []
                for v, i in news:
                    told += [i, v, self._left(self.entries[i][1]), *self.entries[i][2:]]
                return [self.epoch, self.version, told]
            case Script.TELL:
                found, base = self._get(a[0]), a[1] if a[7] == self.epoch else 0
                if found and found[2] == a[3]:
                    return [1, *self._told(found)]
                if found and found[0] > base:
                    return [0, *self._told(found)]
                return [1, *self._told(self._put(a[0], a[2], a[3], a[4], a[5]))]
            case Script.LATER:
                found = self._get(a[0])
                if found and found[1] + a[2] / 1000 >= self.now + a[1] / 1000:
                    return [0, *self._told(found)]
                return [1, *self._told(self._put(a[0], a[1], a[3], a[4], a[5]))]
            case Script.HERE:
                return [a[0], a[2]]
            case Script.WINDOW:
                found, ends, same = self._get(a[0]), self.now + a[1] / 1000, a[3] / 1000
                if found:
                    known = int(found[3].split(" ")[1])
                    if ends < found[1] - same or (ends <= found[1] + same and a[2] <= known):
                        return [0, *self._told(found)]
                    ends = max(ends, found[1])
                return [1, *self._told(self._put(a[0], (ends - self.now) * 1000, a[4], a[5], a[6]))]
            case Script.CLAIM:
                out = self.probes.setdefault(keys[0], {})
                for token in [t for t, until in out.items() if until <= self.now]:
                    del out[token]
                if a[2] not in out and len(out) >= a[0]:
                    return [0, round((min(out.values()) - self.now) * 1000)]
                out[a[2]] = self.claimed[a[2]] = self.now + a[1] / 1000
                return [1, 0]
            case _:
                return [int(self.probes.get(keys[0], {}).pop(a[0], None) is not None)]

    def _left(self, till: float) -> int:
        return round((till - self.now) * 1000)

    def _get(self, entry: str) -> tuple[int, float, str, str] | None:
        found = self.entries.get(entry)
        return found if found and found[1] > self.now else None

    def _put(self, entry: str, ms: float, token: str, payload: str, epoch: str) -> tuple[int, float, str, str]:
        self.epoch = self.epoch or epoch
        self.version += 1
        self.entries[entry] = self.version, self.now + ms / 1000, token, payload
        return self.entries[entry]

    def _told(self, found: tuple[int, float, str, str]) -> list[Any]:
        return [found[0], self._left(found[1]), found[2], found[3], self.epoch]


@dataclass
class Sent:
    script: Script
    keys: Sequence[str]
    arguments: Sequence[Any]
    answered: Callable[[Any, float], None] | None
    at: float
    answer: Any = None


class Net:
    """In place of a carrier. State: what is under way to the store, and back."""

    alone = False
    sent = errors = refused = dropped = 0

    def __init__(self, world: World, clock: Callable[[], float]) -> None:
        self.world = world
        self.clock = clock
        self.out: list[Sent] = []
        self.back: list[Sent] = []

    def say(self, command: Script, keys: Sequence[str], arguments: Sequence[Any], answered: Any = None) -> bool:
        if self.alone:
            return False
        self.out.append(Sent(command, keys, arguments, answered, self.clock()))
        return True

    def arrive(self, nth: int, *, twice: bool = False) -> None:
        message = self.out.pop(nth % len(self.out))
        self.world.late = max(self.world.late, self.clock() - message.at)
        for _ in range(1 + twice):
            message.answer = self.world.run(message.script, message.keys, message.arguments)
        self.back.append(message)

    def answer(self, nth: int, *, lost: bool = False) -> None:
        message = self.back.pop(nth % len(self.back))
        if message.answered is not None:
            message.answered(ConnectionError("lost") if lost else message.answer, message.at)

    def lose(self, nth: int) -> None:
        message = self.out.pop(nth % len(self.out))
        if message.answered is not None:
            message.answered(ConnectionError("lost"), message.at)


@dataclass
class Process:
    world: World
    ahead: float = 0.0
    bugs: list[Exception] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert SETTINGS.fleet is not None
        self.engine = Engine(SETTINGS, jitter=lambda: 0.5)
        self.member = Member(SETTINGS.fleet, lambda: self.now, lambda *_: None, self._bug)
        self.net = Net(self.world, lambda: self.now)
        self.member.carrier = self.net  # type: ignore[assignment]
        self.member.join(self.engine)

    @property
    def now(self) -> float:
        return self.world.now + self.ahead

    def _bug(self, where: str, error: Exception) -> None:
        self.bugs.append(error)

    def begin(self) -> None:
        if self.engine.until_claimed(CANDIDATE, LIMITED, self.now):
            return
        attempt = self.engine.admit(CANDIDATE, LIMITED, self.now, 60)
        if isinstance(attempt, Attempt):
            self.attempts.append(attempt)

    def end(self, outcome: Outcome) -> None:
        attempt = self.attempts.pop(0)
        self.engine.settle(attempt, outcome, self.now)
        self.engine.ended(attempt, self.now)

    @property
    def circuits(self) -> tuple[Circuit, ...]:
        return self.engine.guard(PROVIDER, "m").circuits

    def limit_until(self, of: Subject) -> float | None:
        """By the store's clock, as the next one."""
        met = self.engine.cooldowns.met(of, self.now)
        return None if met is None else self.world.now + met.seconds

    @property
    def heard_until(self) -> float:
        """When the last circuit that another process has opened here may be asked again."""
        ends = [c.snapshot(self.now).retry_after or 0.0 for c in self.circuits if c.is_hearsay]
        return self.world.now + max(ends, default=-math.inf)

    @property
    def opened_until(self) -> float:
        """Of those that it has opened itself."""
        ends = [c.own_opening[1] for c in self.circuits if c.own_opening is not None]
        return max(ends, default=-math.inf) - self.ahead


processes = st.integers(0, PROCESSES - 1)
nths = st.integers(0, 50)


class Interleavings(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.all = [Process(self.world, ahead) for ahead in CLOCKS]
        self.limits: dict[int, float] = {}
        self.left = self.all
        """The processes that are there at the end; the others die with what they have under way."""
        self.used, self.resets_at = 10, self.world.now + WINDOW_SECONDS
        self.windows: dict[int, tuple[int, float]] = {}
        self.stored: tuple[int, float] = (0, 0.0)
        self.latest = -math.inf
        """When the last end is of all that any process has found out itself, by the store's clock."""
        # Where it becomes interesting: all are open, and their time has come.
        for process in self.all:
            for _ in range(2):
                process.begin()
                process.end(FAILURE)
            self._flush(process)
        self.world.now += OPEN_SECONDS + 0.1

    @rule(i=processes, reached=st.booleans())
    def begins(self, i: int, reached: bool) -> None:
        self.all[i].begin()
        if reached:
            self._flush(self.all[i])
            self.all[i].begin()

    @rule(i=processes, outcome=st.sampled_from([SUCCESS, FAILURE, FAILURE, GONE]))
    def ends(self, i: int, outcome: Outcome) -> None:
        if self.all[i].attempts:
            self.all[i].end(outcome)

    @rule(i=processes, seconds=st.floats(1, 30))
    def is_limited(self, i: int, seconds: float) -> None:
        process = self.all[i]
        process.begin()
        if process.attempts:
            process.end(Outcome(Kind.COOLDOWN, "rate_limit", status=429, cooldown_seconds=seconds))
            self.latest = max(self.latest, self.world.now + seconds)

    @rule(i=processes, percent=st.integers(0, 3), anew=st.booleans())
    def answers_tell_of_a_plan(self, i: int, percent: int, anew: bool) -> None:
        """Of the one window that its vendor has: what is used only grows until it begins anew."""
        process, now = self.all[i], self.world.now
        if self.resets_at <= now or (anew and not percent):
            self.used, self.resets_at = 0, max(now, self.resets_at) + WINDOW_SECONDS
        self.used = min(100, self.used + percent)
        standing = Standing.REJECTED if self.used == 100 else Standing.ALLOWED
        told = (Window("5h", "", standing, self.used / 100, self.resets_at - now),)
        process.engine.plan_told(LIMITED, told, process.now)

    @rule(i=processes)
    def ticks(self, i: int) -> None:
        self.all[i].member._turn()

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.5, 1.0, 2.5, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.now += seconds

    @rule(i=processes, nth=nths, twice=st.booleans())
    def arrives(self, i: int, nth: int, twice: bool) -> None:
        if self.all[i].net.out:
            self.all[i].net.arrive(nth, twice=twice)

    @rule(i=processes, nth=nths, lost=st.booleans())
    def is_answered(self, i: int, nth: int, lost: bool) -> None:
        if self.all[i].net.back:
            self.all[i].net.answer(nth, lost=lost)

    @rule(i=processes, nth=nths)
    def is_lost(self, i: int, nth: int) -> None:
        if self.all[i].net.out:
            self.all[i].net.lose(nth)

    @rule(i=processes)
    def is_well_connected(self, i: int) -> None:
        self._flush(self.all[i])

    @rule(i=processes)
    def will_be_left_alone(self, i: int) -> None:
        self.left = [self.all[i]]

    @precondition(lambda self: self.world.entries)
    @rule()
    def store_begins_anew(self) -> None:
        self.world.clear()

    @staticmethod
    def _flush(process: Process) -> None:
        net = process.net
        while net.out or net.back:
            if net.out:
                net.arrive(0)
            while net.back:
                net.answer(0)

    @invariant()
    def one_live_probe_a_lease(self) -> None:
        """Of probes that were claimed; those of processes that could not ask are each their own."""
        claims = [
            permit.claim
            for process in self.all
            for attempt in process.attempts
            if attempt.permit is not None
            for permit in (attempt.permit.reaching, attempt.permit.answering)
            if permit is not None and permit.claim and not permit.settled
        ]
        live = [c for c in claims if self.world.claimed.get(c, 0) > self.world.now]
        keys = [key for key, out in self.world.probes.items() for c in live if c in out]
        assert len(keys) == len(live), "a probe that is out was given back"
        assert len(keys) == len(set(keys))

    @invariant()
    def no_limit_is_cut_short(self) -> None:
        for i, process in enumerate(self.all):
            until = process.limit_until(LIMITED)
            if self.limits.get(i, 0) > self.world.now:
                assert until is not None
                assert until >= self.limits[i] - 1e-6
            self.limits[i] = until or 0.0

    @invariant()
    def no_window_is_cut_short_or_less_used(self) -> None:
        """Neither here nor in the store, whatever is heard in whatever order. The end of what was heard late is late by
        that, until the account's own answer says when it is."""
        now, late = self.world.now, self.world.late + 1e-3
        for i, process in enumerate(self.all):
            found = process.engine.plans.windows(LIMITED.account, process.now)
            level, ends = (found[0].level, now + (found[0].resets_in or 0)) if found else (0, 0.0)
            if (known := self.windows.get(i, (0, 0.0)))[1] > now + late:
                assert ends >= known[1] - late
                assert level >= known[0] or ends > known[1] - late
            self.windows[i] = level, ends
        entry = self.all[0].member.names.window(LIMITED.account, "5h")
        if (found_there := self.world._get(entry)) is None:
            self.stored = 0, 0.0
            return
        level, ends = int(found_there[3].split(" ")[1]), found_there[1]
        assert ends >= self.stored[1] - late
        assert level >= self.stored[0] or ends > self.stored[1] + 1e-3
        self.stored = level, ends

    @invariant()
    def nothing_is_heard_for_longer_than_it_was_told(self) -> None:
        """Whatever each one's clock says: but for what the message was under way, to the millisecond in which it is
        told."""
        self.latest = max(self.latest, *(process.opened_until for process in self.all))
        latest = max(self.latest, self.world.now) + self.world.late + 0.001
        for process in self.all:
            assert process.heard_until <= latest
            assert (process.limit_until(LIMITED) or 0.0) <= latest

    @invariant()
    def no_bug(self) -> None:
        assert [bug for process in self.all for bug in process.bugs] == []

    def teardown(self) -> None:
        """Once messages arrive again and the provider is well, all circuits close, by the time that the last open time
        and the last lease are over, also where one process alone is left."""
        for process in self.left:
            while process.attempts:
                process.end(GONE)
        for _ in range(round(LEASE_SECONDS + 4 + OPEN_SECONDS + 20)):
            for process in self.left:
                process.member._turn()
                self._flush(process)
                for _ in range(3):
                    process.begin()
                    self._flush(process)
                while process.attempts:
                    process.end(SUCCESS)
                self._flush(process)
            self.world.now += 1
        self.resets_at = max(self.resets_at, self.world.now) + WINDOW_SECONDS  # one that all hear of
        told = (Window("5h", "", Standing.WARNING, 0.99, self.resets_at - self.world.now),)
        self.left[0].engine.plan_told(LIMITED, told, self.left[0].now)
        for process in (*self.left, *self.left):
            self._flush(process)
            process.member._turn()
            self._flush(process)
        known = [process.engine.plans.nearly_used_up(LIMITED, process.now) for process in self.left]
        assert [w and (w.standing, w.used) for w in known] == [(Standing.WARNING, 0.99)] * len(self.left)
        assert {c.state(process.now) for process in self.left for c in process.circuits} == {State.CLOSED}


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = searching(1.5, stateful_step_count=60)


def test_what_is_told_ends_at_the_same_time_at_all() -> None:
    """An opening and a limit, told by each to the others, whose clocks are hours apart."""
    for first in range(PROCESSES):
        world = World()
        teller, *others = [Process(world, CLOCKS[(first + i) % PROCESSES]) for i in range(PROCESSES)]
        for process in (teller, *others):
            process.begin()
            process.end(SUCCESS)
        world.now += 1
        outcomes = FAILURE, Outcome(Kind.COOLDOWN, "rate_limit", status=429, cooldown_seconds=9), FAILURE
        for _ in outcomes:
            teller.begin()
        for outcome in outcomes:
            teller.end(outcome)
        Interleavings._flush(teller)
        ends = teller.opened_until, teller.limit_until(LIMITED)
        assert ends[0] > world.now
        for process in others:
            process.member._turn()
            world.now += 0.2  # what is under way is as old as that
            Interleavings._flush(process)
            found = process.heard_until, process.limit_until(LIMITED)
            assert found == pytest.approx(ends, abs=0.21)
            assert min(a - b for a, b in zip(ends, found, strict=True)) > -0.001  # type: ignore[operator]


def test_names_in_messages_are_digests() -> None:
    """Nothing that is said names the provider, its host, its key or a model."""
    world = World()
    process = Process(world)
    for _ in range(2):
        process.begin()
        process.end(FAILURE)
    process.engine.hold("a", State.DISABLED)
    said = repr([(m.keys, m.arguments) for m in process.net.out])
    assert len(process.net.out) == 2
    assert not re.search(r"127\.0\.0\.1|pk-a|'a'|'m'|chat", said)
