"""Several processes on one port, as `sidestep dump --workers N` starts them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import io

from support.provider import Behaviour, Provider
from support.proxy import by_hand, children
from support.raw import Wire, chat, request
from support.settings import config
from support.waiting import until
from support.workers import pids, wires_at_both, workers

Make = Callable[..., Provider]


def health(wire: Wire) -> Any:
    """As the worker at the other end has it."""
    return json.loads(wire.send(request("http://sidestep.internal/health", b"", method="GET")).answer()[2])


def test_both_answer_on_one_port(provider: Make, tmp_path: Path) -> None:
    """The configuration is read and the CA made before the second one starts; a shell finds one proxy."""
    a, b = provider("a"), provider("b")
    a.default = Behaviour(status=500)
    with workers(tmp_path, config("chat", a, b, own=a)) as m, ExitStack() as stack:
        for number, wire in wires_at_both(m, stack).items():
            for _ in range(2):
                status, headers, _ = wire.send(chat(a.url(), user=f"{number}")).answer()
                assert (status, headers["x-sidestep-provider"]) == (200, "b")
        ports = set(re.findall(r"listening at \S*:(\d+)", m.log))
        assert ports == {str(m.port)}
        tokens = set(re.findall(r"what happens is shown at \S+/#(\S+)", m.log))
        assert len(tokens) == 1
        shown = subprocess.run(
            [sys.executable, "-m", "sidestep", "status"], env=m._env, capture_output=True, text=True, check=False
        )
        assert shown.returncode == 0, shown.stderr


def test_what_one_has_learnt_the_other_knows(provider: Make, tmp_path: Path) -> None:
    """By a store of their own, which is replaced when it dies, and ends with them."""
    a, b = provider("a"), provider("b")
    text = config("chat", a, b, own=a, circuit={"open_seconds": 60}, attempts={"per_provider": 1})
    with workers(tmp_path, text) as m, ExitStack() as stack:
        both = wires_at_both(m, stack)
        (store,) = children(m, "valkey-server")
        os.kill(store, signal.SIGKILL)
        m.wait_for_log("lost with its server, which is started anew")
        a.default = Behaviour(status=503)
        for n in range(3):
            assert both[1].send(chat(a.url(), user=f"{n}")).answer()[0] == 200
        until(lambda: health(both[2])["fleet"]["entries"], "the other one has heard of it")
        asked = a.count
        assert both[2].send(chat(a.url(), user="last")).answer()[1]["x-sidestep-attempts"] == "b:200"
        assert a.count == asked
        (store,) = children(m, "valkey-server")
    until(lambda: not Path(f"/proc/{store}").exists(), "it is gone")


def test_one_shows_the_figures_of_all(provider: Make, tmp_path: Path) -> None:
    """Whichever is asked: a scrape that reached them in turns would see counters run back."""
    a = provider("a")
    with workers(tmp_path, config("chat", a, own=a)) as m, ExitStack() as stack:
        both = wires_at_both(m, stack)
        for number, wire in both.items():
            for n in range(number):
                assert wire.send(chat(a.url(), user=f"{number} {n}")).answer()[0] == 200
        for number, wire in both.items():
            found = health(wire)
            assert found["worker"] == number
            told = {n: (w["state"], w["calls"], w["failed"]) for n, w in found["workers"].items()}
            assert told == {"1": ("serves", 1, 0), "2": ("serves", 2, 0)}
            text = wire.send(request("http://sidestep.internal/metrics", b"", method="GET")).answer()[2].decode()
            found = re.findall(
                r'^sidestep_requests_total{worker="(\d)",.*result="answered".* (\S+)$', text, re.MULTILINE
            )
            assert dict(found) == {"1": "1.0", "2": "2.0"}


def test_one_that_is_killed_is_replaced(provider: Make, tmp_path: Path) -> None:
    """The streams of the other one go on, and so does every call that comes afterwards."""
    a = provider("a")
    gate = threading.Event()
    a.default = Behaviour(gate=gate, gate_at=2)
    with workers(tmp_path, config("chat", a, own=a)) as m, ExitStack() as stack:
        both = wires_at_both(m, stack)
        for number, wire in both.items():
            wire.send(chat(a.url(), stream=True, user=f"{number}")).until(b"w1")
        os.kill(pids(m)[2], signal.SIGKILL)
        m.wait_for_log(r"worker 2 was killed by signal 9; it is replaced")
        a.default = Behaviour()
        for n in range(10):
            with Wire(m) as wire:
                assert wire.send(chat(a.url(), user=f"after {n}")).answer()[0] == 200
        gate.set()
        both[1].until(b"[DONE]")
        with pytest.raises((EOFError, ConnectionError)):
            both[2].until(b"[DONE]")
        until(lambda: len(re.findall(r"\[2\].*what happens is shown", m.log)) == 2, "its successor", 60)
        wires_at_both(m, stack)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_calls_end_before_the_workers_do(number: int, provider: Make, tmp_path: Path) -> None:
    a = provider("a")
    gate = threading.Event()
    a.default = Behaviour(gate=gate, gate_at=2)
    with workers(tmp_path, config("chat", a, own=a)) as m, ExitStack() as stack:
        both = wires_at_both(m, stack)
        for n, wire in both.items():
            wire.send(chat(a.url(), stream=True, user=f"{n}")).until(b"w1")
        m.may_complain = True  # mitmproxy does, of connections that are open at its end
        m.process.send_signal(number)
        m.wait_for_log("calls may end")

        def is_refused() -> bool:
            try:
                Wire(m).sock.close()
            except ConnectionRefusedError:
                return True
            return False

        until(is_refused, "nobody listens any more")
        assert m.process.poll() is None
        gate.set()
        for wire in both.values():
            wire.until(b"[DONE]")
        assert m.process.wait(10) == 0


def test_a_second_signal_ends_them_at_once(provider: Make, tmp_path: Path) -> None:
    a = provider("a")
    a.default = Behaviour(gate=threading.Event(), gate_at=2)
    with workers(tmp_path, config("chat", a, own=a)) as m, Wire(m) as wire:
        wire.send(chat(a.url(), stream=True)).until(b"w1")
        for _ in range(2):
            m.process.send_signal(signal.SIGTERM)
            m.wait_for_log("calls may end")
        assert m.process.wait(10) == 0


def test_without_their_supervisor_they_end(provider: Make, tmp_path: Path) -> None:
    a = provider("a")
    with workers(tmp_path, config("chat", a, own=a)) as m:
        found = {*pids(m).values(), *children(m, "valkey-server")}
        m._stopped = True
        m.process.kill()
        until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in found), "they are gone")


def start(folder: Path, *options: str, text: str = "") -> tuple[int, str]:
    """The exit code and what is said, of one that is not to stay."""
    m = by_hand("dump", folder, text, "--workers", "2", *options).start()
    code = m.process.wait(60)
    m.stop()
    return code, m.log


def test_a_port_that_is_taken_is_told_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, log = start(tmp_path, "--listen-port", str(taken.getsockname()[1]))
    assert code == 1
    assert log.count("failed to listen on") == 1
    assert "Traceback" not in log


def test_a_broken_configuration_is_told_once(tmp_path: Path) -> None:
    code, log = start(tmp_path, text="[circuit]\nopen_seconds = -1\n")
    assert code == 1
    assert log.count("circuit.open_seconds") == 1
    assert "Traceback" not in log


def test_what_mitmdump_is_asked_is_answered_once(tmp_path: Path) -> None:
    code, log = start(tmp_path, "--version")
    assert code == 0
    assert log.count("Mitmproxy:") == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--mode", "local"), "mode local: one process alone can serve it; start without --workers"),
        (("--mode", "wireguard"), "mode wireguard: one process alone can serve it"),
        (("--mode", "dns"), "mode dns: one process alone can serve it"),
        (("--mode", "reverse:quic://x.test"), "mode reverse:quic://x.test: one process alone can serve it"),
        (("-w", "-"), "-w -: several processes cannot write to one stream; name a file"),
        (("--set", "hardump=-"), "--set hardump -: several processes cannot write to one stream; name a file"),
        (("-C", "flows"), "-C: one process alone can do it; start without --workers"),
        (("-r", "flows"), "-r: one process alone can do it; start without --workers"),
    ],
    ids=lambda x: "" if isinstance(x, str) else " ".join(x),
)
def test_what_cannot_be_shared_is_refused(options: tuple[str, ...], told: str, tmp_path: Path) -> None:
    (tmp_path / "flows").touch()
    code, log = start(tmp_path, *options)
    assert (code, log.count(told)) == (1, 1), log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("web", "--workers", "2"), "--workers: mitmweb shows what one process sees"),
        (("console", "--workers=2"), "--workers: mitmproxy shows what one process sees"),
        (("dump", "--workers", "x"), "'x' is not a valid integer range"),
        (("dump", "--workers", "-1"), "-1 is not in the range 0<=x<=256"),
    ],
)
def test_who_has_no_workers(arguments: tuple[str, ...], told: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sidestep", *arguments], capture_output=True, text=True, check=False, env=os.environ
    )
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr


def test_each_writes_to_a_file_of_its_own(provider: Make, tmp_path: Path) -> None:
    a = provider("a")
    har = str(tmp_path / "all.har")
    with (
        workers(tmp_path, config("chat", a, own=a), "-w", str(tmp_path / "flows"), "--set", f"hardump={har}") as m,
        ExitStack() as stack,
    ):
        for number, wire in wires_at_both(m, stack).items():
            for n in range(number):
                assert wire.send(chat(a.url(), user=f"{number} {n}")).answer()[0] == 200
    for number in (1, 2):
        with (tmp_path / f"flows.{number}").open("rb") as file:
            assert len(list(io.FlowReader(file).stream())) == number
        assert (tmp_path / f"all.har.{number}").read_text().count('"startedDateTime"') == number
    assert not (tmp_path / "flows").exists()
