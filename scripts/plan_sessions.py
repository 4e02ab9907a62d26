"""Sessions of coding agents that are logged in with a plan, for `apps.py`: nothing but keys in the environment.

The plan's window is used up amid the first turn, then each one that may stand in is switched off amid a turn; when the
window has begun anew the plan is to answer the next turn. All turns are one session, behind one `sidestep run`. The
logins are made up; who answers for the vendors is `support.vendors`.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from support.proxy import clean_env
from support.strict import final_words
from support.vendors import Vendors, log_in

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 400
WINDOW_SECONDS = 100
"""After so long the plan's window begins anew: by then it is another one's turn."""
END = "-- ended with"
LOOP = f'while read -r line; do eval "$line" </dev/null 2>&1; echo "{END} $?"; done'


@dataclass(frozen=True)
class Told:
    """What became of a session: by turn who answered last; who was to; what `sidestep run` said; what was wrong."""

    by: list[str]
    wanted: list[str]
    said: str
    wrong: list[str]

    @property
    def good(self) -> bool:
        return self.by == self.wanted and not self.wrong


PROMPTS = ("go", "again")
"""What stands in an agent's arguments for its first prompt, and for those after it."""


def session(
    dialect: str,
    program: Sequence[str],
    first: Sequence[str],
    again: Sequence[str],
    env: Mapping[str, str],
    *,
    sockets: bool = False,
) -> Told:
    """A session of this program, a turn for each of the chain. `sockets`: its plan takes WebSockets."""
    with tempfile.TemporaryDirectory() as name, Vendors(Path(name), dialect, sockets=sockets) as vendors:
        home, work = Path(name) / "home", Path(name) / "work"
        work.mkdir()
        own = log_in(dialect, home)
        base = clean_env(HOME=str(home), TERM="dumb", PYTHONPATH=str(ROOT / "addon"))
        log = Path(name) / "stderr"
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "sidestep.cli", "run", "--", "bash", "-c", LOOP],
                cwd=work,
                env={**base, **env, **own, **vendors.env},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        timer = threading.Timer(SECONDS, process.kill)
        timer.start()
        names = [link.name for link in vendors.chain]
        by: list[str] = []
        wrong: list[str] = []
        wanted = [*names[1:], names[0]]
        for turn, who in enumerate(wanted):
            if turn < len(names) - 1:
                vendors.switch_off(names[turn], seconds=WINDOW_SECONDS)
            else:
                vendors.wait_for_reset()
            arguments = first if turn == 0 else again
            said = [f"turn {turn} of it" if a in PROMPTS else a for a in arguments]
            code, text = _turn(process, [*program, *said])
            by.append(next((n for n in names if final_words(n) in text.splitlines()), "nobody"))
            wrong += [f"turn {turn}: exit code {code}"] if code != "0" else []
            if by[-1] != who or code != "0":
                wrong.append(text[-3000:])
                break
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)
        timer.cancel()
        end = log.read_text()
        last = vendors.answers[names[0]][-1].body.decode("utf-8", "replace") if vendors.answers[names[0]] else ""
        if by == wanted and not sockets:  # over a WebSocket a call says what is new alone
            wrong += [
                f"not the same session: turn {n} is missing" for n in range(len(wanted)) if f"turn {n} of" not in last
            ]
        wrong += [f"a credential astray: {path}" for path in vendors.astray]
        wrong += [f"refused: {text}" for text in vendors.refusals]
        if wrong:
            wrong.append(end[-3000:])
        calls = re.findall(r"sidestep: (\d+ calls?, \d+ rerouted)", end)
        return Told(by, wanted, calls[-1] if calls else "", wrong)


def _turn(process: subprocess.Popen[str], command: Sequence[str]) -> tuple[str, str]:
    """The exit code of this command, and what it said."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(shlex.join(command) + "\n")
    process.stdin.flush()
    lines: list[str] = []
    for line in process.stdout:
        if line.startswith(END):
            return line.removeprefix(END).strip(), "".join(lines)
        lines.append(line)
    return "none", "".join(lines)
