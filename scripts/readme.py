"""Runs every command of the README as it is printed, in order, in one shell with an empty home.

Programs that are not ours (coding agents, an app) are stand-ins that make one call; that no provider is reached from
there is no mistake: what is looked at is that each command is there, takes what it is given and ends as it should.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console

from sidestep.run.steps import steps

ROOT = Path(__file__).resolve().parents[1]
END = "-- ended with"
SECONDS = 300
LISTENS = "listening at"
APP = """
import json, os, urllib.request
base = os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1")
body = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}).encode()
call = urllib.request.Request(f"{base}/chat/completions", body, {"content-type": "application/json"})
try:
    print(urllib.request.urlopen(call, timeout=60).status)
except OSError as e:
    print(type(e).__name__, e)
"""


@dataclass(frozen=True)
class Way:
    """How a command is run. `codes`: with which it may end; `serves`: it stays, on this port, until another takes it;
    `seconds`: it goes on until it is ended; `left_out`: why it is not run."""

    codes: tuple[int, ...] = (0,)
    serves: int = 0
    seconds: int = 0
    left_out: str = ""


WAYS: dict[str, Way] = {
    "./scripts/demo": Way(left_out="CI runs the demo's steps as tests"),
    "./scripts/test": Way(left_out="CI runs it"),
    "mitmdump -s": Way(serves=8080),
    "mitmdump -s addon/main.py --mode reverse": Way(serves=8081),
    "OTEL_EXPORTER_OTLP_ENDPOINT": Way(serves=8080),
    "sidestep tail": Way(seconds=3),
    "sidestep doctor": Way(codes=(0, 1)),
    "sidestep check --probe": Way(codes=(0, 1)),
    **dict.fromkeys(("pip install", "sidestep script", "export ", "sidestep run ", "sidestep explain "), Way()),
    **dict.fromkeys(
        (
            "eval ",
            "pip uninstall",
            "rm -rf ~/",
            "python my_app.py",
            "OPENAI_BASE_URL=",
            "sidestep status",
            "sidestep circuit ",
        ),
        Way(),
    ),
    **dict.fromkeys(("sidestep mode ", "curl ", "sidestep dashboard", "sidestep init"), Way()),
}
"""By how a command begins; of several the longest."""


def commands() -> list[str]:
    """What the README says to type."""
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [
        line[2:].partition("  # ")[0].strip() for block in blocks for line in block.splitlines() if line[:2] == "$ "
    ]


def way_of(command: str) -> Way | None:
    found = [start for start in WAYS if command.startswith(start)]
    return WAYS[max(found, key=len)] if found else None


class Shell:
    """State: a bash that goes from command to command, its folder, where its output goes, its servers by port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "output"
        kept = {k: v for k, v in os.environ.items() if k.startswith("PIP_") or k in ("LANG", "LC_ALL", "TERM")}
        path = f"{folder / 'venv' / 'bin'}:{folder / 'bin'}:/usr/local/bin:/usr/bin:/bin"
        home = {"HOME": str(folder / "home"), "TMPDIR": str(folder), "XDG_RUNTIME_DIR": str(folder / "run")}
        self._file = self.output.open("wb")
        self._bash = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            stdin=subprocess.PIPE,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            cwd=folder / "checkout",
            env={**kept, **home, "PATH": path, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        self._servers: dict[int, int] = {}

    def run(self, command: str, way: Way) -> tuple[int, str]:
        """The exit code, and what was said."""
        command = command.replace("=…", "=sk-example")
        if way.serves:
            return self._serve(command, way.serves)
        if way.seconds:
            command = f"timeout {way.seconds} {command}; [ $? = 124 ]"
        return self._say(command)

    def _serve(self, command: str, port: int) -> tuple[int, str]:
        if port in self._servers:
            before = self._servers.pop(port)
            self._say(f"kill {before}; wait {before}")
        log = self.folder / f"server-{port}-{len(list(self.folder.glob('server-*')))}.log"
        waiting = f"for i in $(seq 300); do grep -q '{LISTENS}' {log} && break; sleep 0.1; done; grep '{LISTENS}' {log}"
        log.touch()
        code, said = self._say(f"{command} >{log} 2>&1 & {waiting} && echo pid $!")
        if code:
            return code, said + log.read_text()
        self._servers[port] = int(re.findall(r"^pid (\d+)$", said, re.MULTILINE)[-1])
        return code, said

    def _say(self, command: str) -> tuple[int, str]:
        assert self._bash.stdin is not None
        before = self.output.stat().st_size
        self._bash.stdin.write(f"{command}\ncode=$?; echo; echo '{END}' $code\n".encode())
        self._bash.stdin.flush()
        for _ in range(SECONDS * 20):
            said = self.output.read_bytes()[before:].decode("utf-8", "replace")
            if found := re.search(rf"^{END} (\d+)$", said, re.MULTILINE):
                return int(found[1]), said[: found.start()].strip()
            try:
                self._bash.wait(0.05)
                return 1, said + "\nthe shell has ended"
            except subprocess.TimeoutExpired:
                continue
        return 1, f"it has not ended within {SECONDS} s"

    def close(self) -> None:
        """With all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._bash.pid, signal.SIGTERM)
            time.sleep(1)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._bash.pid, signal.SIGKILL)
        self._bash.wait()
        self._file.close()


def prepare(folder: Path) -> None:
    for name in ("home", "bin", "run"):
        (folder / name).mkdir(mode=0o700)
    hidden = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, folder / "checkout", ignore=hidden)
    (folder / "checkout" / "my_app.py").write_text(APP)
    for name in ("claude", "codex", "gemini"):
        agent = folder / "bin" / name
        agent.write_text(f"#!/bin/sh\nexec python {folder / 'checkout' / 'my_app.py'}\n")
        agent.chmod(0o755)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)


@click.command()
@click.option("--list", "only_list", is_flag=True, help="Only say what would be done with each command.")
def main(only_list: bool) -> None:
    """Run every command of the README."""
    found = [(command, way_of(command)) for command in commands()]
    unknown = [command for command, way in found if way is None]
    for command, way in found if only_list else ():
        click.echo(f"{command}: {'unknown' if way is None else way.left_out or 'run'}")
    if unknown:
        raise click.ClickException(f"scripts/readme.py does not know how to run: {', '.join(unknown)}")
    if only_list:
        return
    console = Console(highlight=False)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="sidestep-readme-") as place:
        folder = Path(place)
        with steps(console, len(found)) as step:
            prepare(folder)
            shell = Shell(folder)
            try:
                for command, way in found:
                    assert way is not None
                    step(command)
                    if way.left_out:
                        console.print(f"left out  {command}: {way.left_out}", markup=False)
                    else:
                        code, said = shell.run(command, way)
                        good = code in way.codes and "Traceback" not in said
                        failed += not good
                        console.print(f"{'good' if good else 'BAD'}  {command}", markup=False, soft_wrap=True)
                        if not good:
                            console.print(f"{said}\nit ended with {code}", markup=False, soft_wrap=True)
            finally:
                shell.close()
    console.print(f"{len(found) - failed} passed, {failed} failed")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
