"""The main job on real input: programs that know nothing of it keep their answers while a provider is down.

What is real: mitmdump with TLS interception, the official SDKs, HTTP servers that speak the providers' formats
(llmock). What is claimed at the end is checked against what the servers themselves say they were asked, not against
what the addon says it did.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
SERVERS = ("primary", "backup")
DIALECTS = ("openai", "anthropic")
PROGRAMS = ("openai_whole", "openai_streamed", "anthropic_whole", "anthropic_streamed")
BASES = {"openai": "/v1", "anthropic": "/anthropic"}
OPEN_SECONDS = 5.0
ROUNDS = 3
"""Questions to each program in each phase."""
PATIENCE = 30.0
"""Seconds after which a part that says nothing has failed."""
CONFIG = """\
[circuit]
open_seconds = {open_seconds}
{providers}
[[routes]]
intercept = ["https://api.openai.com/v1"]
providers = ["primary-openai", "backup-openai"]

[[routes]]
intercept = ["https://api.anthropic.com"]
providers = ["primary-anthropic", "backup-anthropic"]
"""
PROVIDER = """
[[providers]]
name = "{server}-{dialect}"
dialect = "{dialect}"
base_url = "{base_url}"
api_key = "demo-key-of-{server}"
"""
STYLES = {"closed": "green", "half_open": "yellow", "open": "red"}


class DemoError(Exception):
    """The demo itself could not go on."""


def environment(**more: str) -> dict[str, str]:
    """What a program needs to start at all, with nobody's keys, proxies or certificates."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT")
    return {**{k: os.environ[k] for k in kept if k in os.environ}, "PYTHONUNBUFFERED": "1", **more}


class Process:
    """A program of the demo; what it prints is kept, and ends with it."""

    def __init__(self, name: str, command: list[str], env: dict[str, str], *, talks: bool = False) -> None:
        self.name = name
        self.output: list[str] = []
        self.errors: list[str] = []
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._command = command
        self._env = env
        self._talks = talks

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE if self._talks else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if self._talks else subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=self._env,
        )
        self._threads = [threading.Thread(target=self._read, daemon=True)]
        if self._talks:
            self._threads.append(threading.Thread(target=self._read_errors, daemon=True))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()
        else:
            self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)
        for thread in self._threads:
            thread.join(5)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line.rstrip("\n"))
            self._lines.put(self.output[-1])
        self._lines.put(None)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors.extend(line.rstrip("\n") for line in self.process.stderr)

    def line(self) -> str | None:
        """The next line of output; None when it has ended."""
        try:
            line = self._lines.get(timeout=PATIENCE)
        except queue.Empty:
            return None
        if line is None:
            self._lines.put(None)
        return line

    def until(self, pattern: str) -> re.Match[str]:
        while (line := self.line()) is not None:
            if found := re.search(pattern, line):
                return found
        raise DemoError(f"{self.name} said nothing like {pattern!r}:\n" + "\n".join(self.output[-20:]))

    def ask(self, question: str) -> str:
        """A question in, an answer out; RuntimeError with the program's last words if there is none."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(question + "\n")
            self.process.stdin.flush()
            answer = self.line()
        except BrokenPipeError:
            answer = None
        if answer is None:
            for thread in self._threads[1:]:
                thread.join(1)
            raise RuntimeError(self.errors[-1] if self.errors else "no answer in time")
        return answer


_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def fetch(url: str, method: str = "GET", body: Any = None, opener: urllib.request.OpenerDirector = _direct) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)
    try:
        with opener.open(request, timeout=10) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as e:
        with e:
            return json.load(e)


class Server:
    """A stand-in provider: an llmock server, and the journal of what it was asked."""

    def __init__(self, name: str) -> None:
        self.name = name
        # llmock cannot tell which port it was given when asked for any.
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.origin = f"http://127.0.0.1:{self.port}"
        command = [str(BIN / "llmock"), "serve", "--port", str(self.port), "--stream-chunk-delay-ms", "5"]
        self.process = Process(name, command, environment())

    def wait(self) -> None:
        """Until it takes orders."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return self.heal()
            except OSError:
                if time.monotonic() > end or self.process.process.poll() is not None:
                    raise DemoError(f"{self.name} did not start:\n" + "\n".join(self.process.output[-20:])) from None
                time.sleep(0.05)

    def _behave(self, *behaviours: dict[str, Any]) -> None:
        fetch(f"{self.origin}/_llmock/scenario", "DELETE")
        fetch(f"{self.origin}/_llmock/scenario", "POST", {"behaviors": list(behaviours)})

    def heal(self) -> None:
        self._behave({"type": "reply", "text": f"Good day from the {self.name}.", "times": None})

    def fail(self) -> None:
        self._behave({"type": "fail", "status": 503, "times": None})

    def journal(self) -> list[dict[str, Any]]:
        requests: list[dict[str, Any]] = fetch(f"{self.origin}/_llmock/requests")["requests"]
        return requests


def question_of(request: dict[str, Any]) -> str:
    content = request["body"]["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


@dataclass
class Call:
    """A question that a program asked, and what it experienced."""

    number: int
    phase: str
    program: str
    question: str
    seconds: float | None = None
    answer: str | None = None
    error: str | None = None

    @property
    def answered_by(self) -> str | None:
        """Who wrote the text that the program got."""
        return next((s for s in SERVERS if self.answer == f"Good day from the {s}."), None)


class Demo:
    """State: the running parts, the calls so far, the latest health, the checks made."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.calls: list[Call] = []
        self.checks: list[tuple[bool, str]] = []
        self.phase = "starting"
        self.health: dict[str, Any] = {}
        self.servers = {name: Server(name) for name in SERVERS}
        self.programs: dict[str, Process] = {}
        self.proxy: Process | None = None
        self._numbers = threading.Lock()
        self._live: Live | None = None

    # --- the parts

    def start(self, stack: ExitStack) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sidestep-demo-")))
        for server in self.servers.values():
            stack.enter_context(server.process)
        providers = "".join(
            PROVIDER.format(server=s.name, dialect=d, base_url=s.origin + BASES[d])
            for d in DIALECTS
            for s in self.servers.values()
        )
        config = folder / "sidestep.toml"
        config.write_text(CONFIG.format(open_seconds=OPEN_SECONDS, providers=providers))
        command = [str(BIN / "mitmdump"), "-s", str(ROOT / "addon" / "main.py"), "--listen-host", "127.0.0.1"]
        command += ["--listen-port", "0", "--set", f"confdir={folder}", "--set", f"sidestep_config={config}"]
        self.proxy = stack.enter_context(Process("mitmdump", [*command, "--set", "flow_detail=0"], environment()))
        for server in self.servers.values():
            server.wait()
        url = f"http://127.0.0.1:{self.proxy.until(r'proxy listening at .*:(\d+)')[1]}"
        self._through = urllib.request.build_opener(urllib.request.ProxyHandler({"http": url}))
        self.look()
        given = {
            "HTTPS_PROXY": url,
            "SSL_CERT_FILE": str(folder / "mitmproxy-ca-cert.pem"),
            "OPENAI_API_KEY": "sk-dummy",
            "ANTHROPIC_API_KEY": "sk-ant-dummy",
        }
        for name in PROGRAMS:
            source = ROOT / "scripts" / "demo_apps" / f"{name}.py"
            program = Process(name, [sys.executable, str(source)], environment(**given), talks=True)
            self.programs[name] = stack.enter_context(program)
        for program in self.programs.values():
            program.until("^ready$")
        self.say("the programs know of proxy and CA by environment variables alone: " + ", ".join(given))

    def look(self) -> dict[str, Any]:
        """Each provider's circuit, by the addon's own page."""
        self.health = fetch("http://sidestep.internal/health", opener=self._through)["providers"]
        return self.health

    def states(self, server: str) -> dict[str, str]:
        return {d: self.look()[f"{server}-{d}"]["state"] for d in DIALECTS}

    # --- asking

    def ask(self, program: str) -> Call:
        with self._numbers:
            number = len(self.calls) + 1
            call = Call(number, self.phase, program, f"question {number}")
            self.calls.append(call)
        begun = time.monotonic()
        try:
            call.answer = self.programs[program].ask(call.question)
        except RuntimeError as e:
            call.error = str(e)
        call.seconds = time.monotonic() - begun
        if self._live is None:
            self.console.print(f"  {experience(call)}")
        return call

    def round(self) -> list[Call]:
        """One question to every program, all at the same time."""
        with ThreadPoolExecutor(len(PROGRAMS)) as pool:
            return list(pool.map(self.ask, PROGRAMS))

    def rounds(self) -> list[Call]:
        return [call for _ in range(ROUNDS) for call in self.round()]

    # --- showing

    def say(self, text: str) -> None:
        self.console.print(f"[dim]{escape(text)}[/dim]")

    def enter(self, phase: str) -> None:
        self.phase = phase
        self.console.print(f"[bold cyan]▸ {escape(phase)}[/bold cyan]")

    def check(self, holds: bool, claim: str) -> None:
        self.checks.append((holds, claim))
        self.console.print(f"  {'[green]✓' if holds else '[bold red]✗'}[/] {escape(claim)}")

    def picture(self) -> Group:
        circuits = Table("provider", "circuit", "failures in a row", "answered", "failed", title=self.phase)
        for name, p in self.health.items():
            style = STYLES.get(p["state"], "red")
            counts = map(str, (p["failure_count"], p["totals"]["success"], p["totals"]["failure"]))
            circuits.add_row(name, f"[{style}]{p['state']}[/]", *counts)
        latest = Table("call", "program", "answered by", "seconds", title="latest calls")
        for call in self.calls[-8:]:
            by = call.answered_by or (escape(call.error or call.answer or "…"))
            style = {"primary": "green", "backup": "yellow"}.get(by, "" if call.seconds is None else "red")
            took = "" if call.seconds is None else f"{call.seconds:.2f}"
            latest.add_row(str(call.number), call.program, f"[{style}]{by}[/]" if style else by, took)
        return Group(circuits, latest)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The tables, kept up to date while the demo runs; nothing where the output is no terminal."""
        if not self.console.is_terminal:
            yield
            return
        over = threading.Event()

        def keep_looking() -> None:
            while not over.wait(0.2):
                try:
                    self.look()
                except (OSError, ValueError):
                    return

        thread = threading.Thread(target=keep_looking, daemon=True)
        with Live(console=self.console, get_renderable=self.picture, refresh_per_second=8, transient=True) as live:
            self._live = live
            thread.start()
            try:
                yield
            finally:
                over.set()
                thread.join(10)
                self._live = None

    # --- the story

    def play(self) -> None:
        self.healthy()
        self.outage()
        self.still_down()
        self.recovery()
        self.afterwards()

    def healthy(self) -> None:
        self.enter("healthy: both providers work")
        calls = self.rounds()
        self.check(all_by(calls, "primary"), f"all {len(calls)} calls were answered by the primary")
        self.check(not self.servers["backup"].journal(), "the backup was not asked anything")
        self.check(all(p["state"] == "closed" for p in self.look().values()), "every circuit is closed")

    def outage(self) -> None:
        self.enter("outage: the primary answers everything with 503")
        primary, backup = self.servers["primary"], self.servers["backup"]
        before = len(primary.journal())
        primary.fail()
        calls = self.rounds()
        self.check(all_by(calls, "backup"), f"all {len(calls)} calls were answered by the backup; no program saw a 503")
        refused = {question_of(r) for r in primary.journal()[before:] if r["status"] == 503}
        moved = refused & {question_of(r) for r in backup.journal() if r["status"] == 200}
        self.check(bool(moved), f"{len(moved)} of them met the 503s first and moved on within the same call")
        opened = self.states("primary")
        self.check(set(opened.values()) == {"open"}, "the primary's circuits opened")
        asked = len(primary.journal())
        calls = self.round()
        held = len(primary.journal()) == asked
        self.check(
            held and all_by(calls, "backup"),
            f"{len(calls)} more calls went straight to the backup and left the primary alone",
        )

    def still_down(self) -> None:
        self.enter(f"still down: after {OPEN_SECONDS:g} s the primary is tried again")
        primary = self.servers["primary"]
        self.wait_until_due()
        asked = len(primary.journal())
        calls = self.round()
        probes = len(primary.journal()) - asked
        self.check(
            probes == len(DIALECTS) and all_by(calls, "backup"),
            f"one probe for each circuit ({probes}) failed, and all {len(calls)} programs had their answers",
        )
        self.check(set(self.states("primary").values()) == {"open"}, "the circuits opened again")

    def recovery(self) -> None:
        self.enter("recovery: the primary works again")
        self.servers["primary"].heal()
        healed = time.monotonic()
        self.wait_until_due()
        calls = self.round()
        self.check(all(c.answered_by for c in calls), "while it was probed, every call was answered")
        closed = set(self.states("primary").values()) == {"closed"}
        self.check(closed, f"the circuits closed, {time.monotonic() - healed:.1f} s after the primary recovered")
        asked = len(self.servers["backup"].journal())
        calls = self.rounds()
        self.check(all_by(calls, "primary"), f"the primary is in use again: it answered all {len(calls)} calls")
        self.check(len(self.servers["backup"].journal()) == asked, "the backup was left alone again")

    def wait_until_due(self) -> None:
        """Until every open circuit of the primary would be asked again."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            left = [self.look()[f"primary-{d}"]["retry_after"] or 0 for d in DIALECTS]
            if not any(left):
                return
            time.sleep(min(max(left), 0.5))
        raise DemoError("the primary's circuits never came to be asked again")

    def afterwards(self) -> None:
        self.enter("afterwards")
        requests = [r for s in self.servers.values() for r in s.journal()]
        good = [question_of(r) for r in requests if r["status"] == 200 and r["completed"]]
        once = sorted(good) == sorted(c.question for c in self.calls)
        self.check(once, f"each of the {len(self.calls)} questions was answered exactly once, by the servers' journals")
        again = sum(1 for r in requests if r["sdk_retry_count"])
        self.check(again == 0, "no SDK had to repeat a request of its own")
        at_rest = all(p["permits_out"] == 0 and p["in_flight"] == 0 for p in self.look().values())
        self.check(at_rest, "nothing is left in flight")
        alive = all(p.process.poll() is None for p in self.programs.values())
        unharmed = all(call.error is None for call in self.calls)
        self.check(alive and unharmed, "the four programs still run, and none of them met an error")
        assert self.proxy is not None
        words = ("Traceback", "mitmproxy has crashed", "Addon error", "internal error")
        self.check(not any(w in line for line in self.proxy.output for w in words), "mitmdump's log holds no crash")

    def experiences(self) -> Table:
        """What each call experienced, by the programs' output and the servers' journals."""
        trails: dict[str, list[tuple[float, str]]] = {}
        for name, server in self.servers.items():
            for r in server.journal():
                trails.setdefault(question_of(r), []).append((r["started_at"], f"{name} {r['status']}"))
        table = Table("call", "phase", "program", "the servers saw", "seconds", "the program got")
        for call in self.calls:
            trail = ", ".join(text for _, text in sorted(trails.get(call.question, [])))
            phase = call.phase.partition(":")[0]
            took = "" if call.seconds is None else f"{call.seconds:.2f}"
            got = escape(call.answer or "") if call.error is None else f"[red]{escape(call.error)}[/]"
            table.add_row(str(call.number), phase, call.program, trail, took, got)
        return table


def all_by(calls: list[Call], server: str) -> bool:
    return bool(calls) and all(call.answered_by == server for call in calls)


def experience(call: Call) -> str:
    got = escape(call.answer or "") if call.error is None else f"[red]{escape(call.error)}[/]"
    return f"{call.number:3} {call.program:<18} {call.seconds or 0:5.2f} s  {got}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--plain", action="store_true", help="no live table, as if the output were no terminal")
    plain = parser.parse_args().plain
    width = None if sys.stdout.isatty() else 120
    console = Console(highlight=False, force_terminal=False if plain else None, width=width)
    begun = time.monotonic()
    demo = Demo(console)
    finished = False
    try:
        with ExitStack() as stack:
            demo.start(stack)
            try:
                with demo.shown():
                    demo.play()
                finished = True
            finally:
                if demo.calls:
                    console.print(demo.experiences())
    except (DemoError, OSError, ValueError, KeyError) as e:
        console.print(f"[bold red]The demo broke off:[/] {escape(f'{type(e).__name__}: {e}')}")
    except KeyboardInterrupt:
        console.print("interrupted")
    good = sum(holds for holds, _ in demo.checks)
    console.print(f"{good} of {len(demo.checks)} claims observed in {time.monotonic() - begun:.0f} s")
    if finished and good == len(demo.checks):
        return 0
    if demo.proxy is not None:
        console.print("[bold]mitmdump's last lines:[/]")
        console.print("\n".join(demo.proxy.output[-30:]), markup=False)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
