"""One process of a group: its own network, names of things, what is not its to hear."""

from __future__ import annotations

import re
from dataclasses import replace
from io import StringIO
from typing import Any

import msgspec
import pytest
from rich.console import Console

from sidestep import handover, status
from sidestep.addon import fleet_of
from sidestep.breaker.circuit import State
from sidestep.breaker.cooldown import Cooling, Source, Subject, subject
from sidestep.breaker.outcomes import Kind, Outcome
from sidestep.breaker.windows import MAX_WINDOWS, Standing, Window
from sidestep.config import reading
from sidestep.config.settings import Settings
from sidestep.fleet.ledger import News
from sidestep.fleet.member import MAX_SUBJECTS, Member
from sidestep.fleet.names import Names
from sidestep.fleet.scripts import Script
from sidestep.overview import Overview
from sidestep.routing.engine import Attempt, Engine
from sidestep.routing.table import Candidate
from sidestep.run import showing

SUCCESS = Outcome(Kind.SUCCESS, "success", status=200)
REFUSED = Outcome(Kind.FAILURE, "connect")


def settings(*names: str, more: str = "") -> Settings:
    text = 'circuit = { failure_threshold = 2 }\n[fleet]\nurl = "redis://h"\nsecret = "0123456789abcdef"\n'
    for name in names:
        place = name.partition("-")[0]
        text += f'[[providers]]\nname = "{name}"\ndialect = "openai"\nbase_url = "http://{place}.test/v1"\n{more}'
        text += f'api_key = "pk-{name}"\n'
    return reading.parse(text, {})


class Process:
    def __init__(self, of: Settings) -> None:
        assert of.fleet is not None
        self.now = 100.0
        self.settings = of
        self.engine = Engine(of, jitter=lambda: 0.5)
        self.bugs: list[Exception] = []
        self.member = Member(of.fleet, lambda: self.now, lambda *_: None, lambda _, e: self.bugs.append(e))
        self.said: list[tuple[Any, list[Any]]] = []
        self.answers: list[Any] = []
        self.member.carrier.say = self._say  # type: ignore[method-assign,assignment]
        self.member.join(self.engine)

    def _say(self, command: Any, keys: Any, arguments: list[Any], answered: Any = None) -> bool:
        self.said.append((command, arguments))
        self.answers.append(answered)
        return True

    def call(self, name: str, outcome: Outcome, model: str = "m") -> None:
        self.now += 0.1
        candidate = Candidate(self.engine.settings.by_name[name][0], model, own=False)
        attempt = self.engine.admit(candidate, subject(name, "", "chat", model), self.now, 60)
        assert isinstance(attempt, Attempt), attempt
        self.engine.settle(attempt, outcome, self.now)

    def told(self) -> list[str]:
        """The first words of what it has told of circuits."""
        return [a[4].split(" ")[0] for command, a in self.said if command is Script.TELL]


def test_a_process_with_a_dead_network_tells_nobody() -> None:
    """All its providers fail at once. What it told of the first one before that was clear, it takes back; when one of
    them answers, it tells of the others that are still open."""
    process = Process(settings("a", "b"))
    process.call("a", SUCCESS)
    process.call("b", SUCCESS)
    for _ in range(2):
        process.call("a", REFUSED)
    assert process.told() == ["open"]
    for _ in range(2):
        process.call("b", REFUSED)
    assert process.told() == ["open", "closed"]
    process.member._turn()
    assert process.told() == ["open", "closed"]
    process.now += 10
    process.engine.reconfigure(settings("a", "b", "c"))
    process.member.join(process.engine)
    process.call("c", SUCCESS)
    process.member._turn()
    assert process.told() == ["open", "closed", "open", "open"]
    assert process.bugs == []


def test_one_that_fails_beside_one_that_answers_is_told() -> None:
    process = Process(settings("a", "b"))
    for _ in range(2):
        process.call("a", REFUSED)
        process.call("b", SUCCESS)
    assert process.told() == ["open"]


def test_a_circuit_that_is_made_later_hears_what_was_told_before() -> None:
    process = Process(settings("a"))
    names = process.member.names
    answer = ["e", 1, [names.circuit("a", "m"), 1, 9000, "you.1", "open 500"]]
    process.member._pulled(answer, process.now)
    guard = process.engine.guard(process.settings.providers[0], "m")
    assert [c.state(process.now) for c in guard.circuits] == [State.CLOSED, State.OPEN]


def test_a_family_of_models_is_limited_elsewhere() -> None:
    """A window for one family alone: whoever asks for a model of it, and for no other, is told."""
    process = Process(settings("a"))
    names, engine = process.member.names, process.engine
    limit = names.limit(Subject("a").of_family("opus"))
    process.member._pulled(["e", 1, [limit, 1, 9000, "you.1", "limit 2 quota opus"]], process.now)
    for model, found in (("claude-opus-4", Cooling(9, "quota", Source.ANNOUNCED)), ("claude-haiku-4", None)):
        asked = subject("a", "", "messages", model)
        process.member.asked(asked, process.now)
        assert engine.cooldowns.find(asked, process.now) == found


def test_what_is_seen_of_it() -> None:
    """In `/health`, `/metrics` and `sidestep status`: alone until the store has answered, and without its password."""
    process = Process(settings("a"))

    def seen() -> tuple[str, str, str]:
        body = status.health(process.engine, process.now)[1]["fleet"]
        console = Console(file=StringIO(), width=200)
        picture = Overview(lambda: process.now, lambda: process.now).picture(process.engine)
        console.print(showing.status(picture))
        shown = re.findall(r"fleet: (.*?) *\n", console.file.getvalue())  # type: ignore[attr-defined]
        metrics = status.metrics(process.engine, process.now).decode()
        return body["state"], re.findall(r"^sidestep_fleet_together (.*)", metrics, re.MULTILINE)[0], shown[0]

    place = "group sidestep by redis://h:6379/0"
    assert seen() == ("alone", "0.0", f"alone, {place}: the store has not answered yet")
    process.member._pulled(["", 0, []], process.now)
    assert seen() == ("together", "1.0", f"together, {place}")
    process.member.carrier._failures = 2
    process.now += 40
    assert seen() == ("alone", "0.0", f"alone, {place}: the store has not answered for 40 s")


def test_who_is_there_and_what_is_shared_is_told_in_words() -> None:
    """Each tells of itself from time to time; workers of one port are one, with the worst of their states; what
    somebody else has written there is not shown."""
    process = Process(settings("a"))
    process.member.name = "0a"
    process.member._turn()
    process.now += 4
    process.member._turn()
    here = [(i, a) for i, (command, a) in enumerate(process.said) if command is Script.HERE]
    assert [a for _, a in here] == [["0a", 15_000, "ok 0 0", 64]]
    told = ["0a", "ok 0 0", "bb/1", "ok 3 0", "bb/2", "degraded 4 1", "cc", "unhealthy 1 1", "<b>", "ok 1 1", "dd", "x"]
    process.answers[here[0][0]](ConnectionError(), process.now)
    process.answers[here[0][0]](told, process.now)
    news = [("o", "open 5"), ("l", "limit 2 quota"), ("m", "limit 2 quota"), ("h", "hold open"), ("i", "hold auto")]
    entries: list[Any] = []
    for i, (entry, payload) in enumerate(news):
        entries += [entry, i + 1, 0 if entry in "hi" else 9000, "you.1", payload]
    process.member._pulled(["e", 9, entries], process.now)
    words = status.fleet_in_words(process.member.status)
    assert words.partition("; ")[2] == (
        "this is 0a, beside 2 others (bb with 2 workers: degraded, 7 calls; cc: unhealthy, 1 call); "
        "shared: 1 open circuit, 2 limits, 1 hold"
    )
    process.now += 10
    assert "shared: 1 hold" in status.fleet_in_words(process.member.status)
    process.answers[here[0][0]]([f"{i:02x}" if n else "ok 1 1" for i in range(20) for n in (1, 0)], process.now)
    assert "beside 19 others (00: ok, 1 call; " in status.fleet_in_words(process.member.status)
    assert "; 11 more)" in status.fleet_in_words(process.member.status)
    process.member.carrier._failures = 2
    assert "beside" not in status.fleet_in_words(process.member.status)


def test_a_worker_has_what_its_supervisor_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless its configuration names a store."""
    without = msgspec.structs.replace(settings("a"), fleet=None)
    assert fleet_of(without) is None
    share = handover.Share(1, 2, 7, "token", "/run/f", ("unix:///run/s", "x" * 64))
    monkeypatch.setattr(handover, "share", share)
    assert "x" * 64 not in repr(share)
    given = fleet_of(without)
    assert given is not None
    assert (given.url.reveal(), given.secret.reveal()) == ("unix:///run/s", "x" * 64)
    assert "x" * 64 not in repr(given)
    assert fleet_of(settings("a")) == settings("a").fleet


def test_a_limit_that_is_foreseen_anew_with_each_answer_is_told_now_and_then() -> None:
    process = Process(settings("a"))
    limited = subject("a", "", "chat", "m")
    told = 0
    for i in range(100):
        process.now += 0.1
        process.engine.foresee(limited, process.now, 60, process.now)
        for command, arguments in process.said[told:]:
            assert command is Script.LATER
            answer = [1, i + 1, arguments[1], *arguments[3:5], ""]
            message = process.member.ledger._said[arguments[0]]
            process.member._hear(message)(answer, process.now)
        told = len(process.said)
    assert 1 <= told <= 3


@pytest.mark.parametrize(
    "payload",
    [
        *("", "open", "open x", "limit 9 quota", "limit 2 QUOTA!", "hold up", "mode on", "new word", "limit"),
        *("open -1", "open 1e999", "open nan", "open \u0663", f"open {'9' * 5_000}", f"limit 2 {'q' * 99}", "open 0 0"),
        *("limit 2 \x1b[31m", "hold auto\n", "mode \x1b]0;x", "closed \u202e"),
    ],
)
def test_what_is_not_understood_changes_nothing(payload: str) -> None:
    """Of a later version, or written by somebody else."""
    process = Process(settings("a"))
    process.call("a", SUCCESS)
    names = process.member.names
    for entry in (names.circuit("a", "m"), names.hand("a"), names.mode, names.limit(Subject("a")), "x"):
        process.member._apply(News(entry, payload, 9))
    guard = process.engine.guard(process.settings.providers[0], "m")
    assert {c.state(process.now) for c in guard.circuits} == {State.CLOSED}
    assert (process.engine.mode, process.bugs) == ("enforce", [])


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        "a b c d e f",
        "aa bb -1 00 1 1",
        f"aa bb {'9' * 5_000} 00 1 1",
        f"aa bb 1 00 1 {'9' * 5_000}",
        "aa bb 1 0 1 1",
        "aa bb 1 zz 1 1",
        "aa bb 1 00 1 -1",
        "aa bb 1 00 1 1 5",
        "\ufffd",
    ],
)
def test_a_stay_of_another_form_is_none(value: str) -> None:
    """Of a later version, or written by somebody else; so are hints."""
    process = Process(settings("a"))
    digest = process.member.names.digest_of("a")
    assert process.member._stay_in(value) is None
    assert process.member._stay_in(value.replace("aa", digest).replace("bb", digest)) is None
    found = process.member._stay_in(f"{digest} {digest} 3 00ff 900 800")
    assert found is not None
    assert (found.provider, found.length, found.end) == ("a", 3, b"\x00\xff")
    assert (found.prompt, found.cached) == (900, 800)
    process.member._hinted(value)
    process.member._hinted("9" * 5_000)
    assert process.said == []
    process.member._hinted("9")
    assert [command for command, _ in process.said] == [Script.PULL]


HOUR = Window("5h", "", Standing.ALLOWED, 0.5, 900.0)


def test_a_plan_is_told_where_it_has_been_used_for_a_percent_more() -> None:
    """Its windows by digests of the account alone; each for as long as it lasts, which may be weeks; nothing of one
    that names no end, or has a name that is none."""
    process = Process(settings("a"))
    account = Subject("a", "fingerprint-of-a-key")
    week = Window("7d_opus", "opus", Standing.WARNING, None, 900_000.0)
    odd = (Window("5h", "", Standing.ALLOWED, 0.5, None), Window("a|b", "", Standing.ALLOWED, 0.5, 900.0))
    process.engine.plan_told(account, (HOUR, week, *odd), process.now)
    names = process.member.names
    whose = names.limit(account)
    assert {command for command, _ in process.said} == {Script.WINDOW}
    assert [(a[:4], a[5]) for _, a in process.said] == [
        ([names.window(account, "5h"), 900_000, 50, 60_000], f"plan 50 {whose} 5h - allowed 50"),
        (
            [names.window(account, "7d_opus"), 900_000_000, 1_000_000, 60_000],
            f"plan 1000000 {whose} 7d_opus opus warning -",
        ),
    ]
    for i, (_, a) in enumerate(process.said):
        process.answers[i]([1, i + 1, a[1], a[4], a[5], ""], process.now)
    for used, count in ((0.5, 2), (0.509, 2), (0.51, 3)):
        process.engine.plan_told(account, (replace(HOUR, used=used),), process.now)
        assert len(process.said) == count


def test_a_plan_of_an_account_that_is_not_known_here_yet_is_known_once_it_is() -> None:
    """It moves new conversations here, too; the account's own answer says otherwise."""
    one, two = Process(settings("a")), Process(settings("a"))
    asked = subject("a", "fingerprint", "messages", "claude-opus-4-8")
    told = (replace(HOUR, used=0.99), Window("7d_opus", "opus", Standing.REJECTED, None, 9_000.0))
    one.engine.plan_told(asked, told, one.now)
    entries: list[Any] = []
    for i, (_, a) in enumerate(one.said):
        entries += [a[0], i + 1, a[1], a[4], a[5]]
    two.member._pulled(["e", 9, entries], two.now)
    assert two.engine.plans.windows(asked.account, two.now) == ()
    two.member.asked(asked, two.now)
    assert two.engine.plans.windows(asked.account, two.now) == told
    haiku = asked._replace(model="claude-haiku-4")
    assert two.engine.plans.nearly_used_up(haiku, two.now) == told[0]
    two.engine.plan_told(asked, (HOUR,), two.now)
    assert two.engine.plans.nearly_used_up(haiku, two.now) is None
    later = entries[4].replace("99", "60")
    two.member._pulled(["e", 10, [entries[0], 10, 900_000, "you.9", later]], two.now)
    assert [w.used for w in two.engine.plans.windows(asked.account, two.now)] == [0.6]


@pytest.mark.parametrize(
    "words",
    [
        "x 5h - allowed 50 more",
        "5h - allowed",
        "5H! - allowed 50",
        "5h OPUS! allowed 50",
        "5h - lavish 50",
        "5h - allowed x",
        f"5h - allowed {'9' * 5_000}",
    ],
)
def test_a_plan_of_another_form_is_none(words: str) -> None:
    process = Process(settings("a"))
    asked = subject("a", "", "chat", "m")
    process.member.asked(asked, process.now)
    account = process.member.names.limit(asked.account)
    process.member._apply(News("w", f"plan 50 {account} {words}", 900.0))
    assert process.engine.plans.windows(asked.account, process.now) == ()
    process.member._apply(News("w", f"plan 50 {account} 5h - allowed 50", 900.0))
    assert process.engine.plans.windows(asked.account, process.now) == (HOUR,)
    assert process.bugs == []


def test_plans_of_accounts_that_are_never_asked_for_are_bounded() -> None:
    process = Process(settings("a"))
    for i in range(MAX_SUBJECTS + 5):
        process.member._apply(News(f"w{i}", f"plan 50 k{i} 5h - allowed 50", 900.0))
    for i in range(100):
        process.member._apply(News(f"w{i}", "plan 50 k 5h - allowed 50", 900.0))
    assert len(process.member._plans) == 6
    assert len(process.member._plans["k"]) == MAX_WINDOWS


def test_the_same_thing_has_the_same_name_everywhere() -> None:
    """Whatever a configuration calls a provider; another group's secret, place, model or key makes another name, and so
    does a second provider of one place."""

    def names(secret: str, *providers: str, more: str = "") -> Names:
        found = Names("g", secret)
        found.learn(settings(*providers, more=more))
        return found

    one, two = names("s", "a", "b"), names("s", "b", "a", "a-2")
    assert one.circuit("a", "m") == two.circuit("a", "m")
    assert one.limit(Subject("a")) == two.limit(Subject("a"))
    assert one.name_of(two.digest_of("b")) == "b"
    other = names("t", "a", "b")
    different = [
        one.circuit("a", "m"),
        one.circuit("a", None),
        one.circuit("a", ""),
        one.circuit("b", "m"),
        two.circuit("a-2", "m"),
        other.circuit("a", "m"),
        one.limit(Subject("a")),
        two.limit(Subject("a-2")),
        one.limit(Subject("a", "fingerprint")),
        one.limit(Subject("a", "", "chat")),
        one.limit(Subject("a", "", "chat", "m")),
        one.hand("a"),
        one.mode,
        one.stays,
    ]
    assert len(set(different)) == len(different)
