"""The command's own streams, closed or read by a program that has had enough: no traceback, what a shell expects."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sidestep.config import catalog
from support.provider import Provider
from support.proxy import ROOT, Mitmdump
from support.settings import config
from support.waiting import until

SIDESTEP = f"{sys.executable} -m sidestep"


def sh(line: str, home: Path, stdout: Any = subprocess.PIPE, stderr: Any = subprocess.PIPE) -> Any:
    """What it prints to both, and its exit status; there are no proxies but those of `home`."""
    private = {"HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run")}
    (home / "run").mkdir(mode=0o700, exist_ok=True)
    done = subprocess.run(
        ["bash", "-c", line],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "addon"), **private},
        cwd=home,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout, done.stderr, done.returncode


@pytest.fixture
def unread() -> Iterator[int]:
    """A pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize("command", ["--help", "providers", "check", "explain https://api.openai.com/v1/responses"])
def test_a_reader_that_has_had_enough(command: str, tmp_path: Path, unread: int) -> None:
    assert sh(f"exec {SIDESTEP} {command}", tmp_path, stdout=unread) == (None, "", 141)


@pytest.mark.parametrize(("command", "code"), [("status", 1), ("circuit open a", 1), ("nonsense", 2)])
def test_errors_that_cannot_be_told(command: str, code: int, tmp_path: Path, unread: int) -> None:
    """The exit status is all that is left to say it with."""
    assert sh(f"{SIDESTEP} {command} 2>&-", tmp_path) == ("", "", code)
    assert sh(f"{SIDESTEP} {command} >&- 2>&-", tmp_path) == ("", "", code)
    assert sh(f"{SIDESTEP} {command}", tmp_path, stderr=unread) == ("", None, 141)


@pytest.mark.parametrize("command", ["providers", "check", "explain https://api.openai.com/v1/responses", "init"])
def test_a_closed_stdout(command: str, tmp_path: Path) -> None:
    assert sh(f"{SIDESTEP} {command} >&-", tmp_path) == ("", "", 0)


def test_what_asks_a_proxy(provider: Callable[..., Provider], proxy: Callable[..., Mitmdump]) -> None:
    """Also what would go on for ever: it ends with its reader."""
    m = proxy(config("chat", provider("a")))
    until(lambda: sh(f"{SIDESTEP} status", m.folder)[2] == 0, "it is found")
    out, err, _ = sh(f"{SIDESTEP} status | head -n 1", m.folder)
    assert (len(out.splitlines()), err) == (1, "")
    changes = f"while {SIDESTEP} mode observe; do {SIDESTEP} mode enforce; done >/dev/null 2>&1 & trap 'kill %1' EXIT"
    for command, first in (("status --watch --json", "{"), ("tail", "")):
        watching = f"{{ {SIDESTEP} {command}; echo $? >&2; }} | head -n 1"
        out, err, _ = sh(f"{changes}; {watching}", m.folder)
        assert (out.startswith(first), len(out.splitlines()), err) == (True, 1, "141\n")
    assert sh(f"{SIDESTEP} mode observe 2>&- >&-", m.folder) == ("", "", 0)


def test_a_command_runs_although_nothing_can_be_told(tmp_path: Path, unread: int) -> None:
    """Its own output and exit status come through, where nobody reads what is said of it."""
    (tmp_path / "sidestep.toml").write_text("local = false\n")
    run = f"exec {SIDESTEP} run --config sidestep.toml -- sh -c 'echo ran; exit 3'"
    assert sh(run, tmp_path, stderr=unread) == ("ran\n", None, 3)


def test_a_proxy_starts_with_closed_streams(tmp_path: Path) -> None:
    """Become mitmdump, it writes into nothing."""
    assert sh(f"{SIDESTEP} dump --version >&- 2>&-", tmp_path) == ("", "", 0)


# --- terminals


def on_a_terminal(folder: Path, width: int, *arguments: str, **more: str) -> str:
    """What a terminal of this width is sent, without colours."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    command = [sys.executable, "-m", "sidestep", *arguments]
    env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")} | {"PYTHONPATH": str(ROOT / "addon")}
    with subprocess.Popen(command, stdout=slave, stderr=slave, env={**env, "TERM": "xterm", **more}, cwd=folder):
        os.close(slave)
        shown = b""
        with contextlib.suppress(OSError):  # so a terminal ends
            while data := os.read(master, 65536):
                shown += data
    os.close(master)
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode())


WORDY = """
[[providers]]
name = "azure-east-with-a-long-name"
dialect = "openai"
base_url = "https://a-resource-of-ours-with-a-long-name.openai.azure.com/openai/v1"
api_key = "k"
models = { "gpt-4o" = "our-deployment-of-gpt-4o-in-the-east" }
"""


@pytest.mark.parametrize("width", [80, 50])
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "wordy.toml"),
        ("check", "nothing-of-this-name-in-this-folder-or-anywhere-else.toml"),
        ("explain", "https://api.openai.com/v1/chat/completions", "--model", "gpt-4o", "--config", "wordy.toml"),
        ("explain", "https://api.openai.com/v1/files/of-some-length", "--config", "wordy.toml"),
        ("explain", "ftp://no-address-that-calls-go-to.example.test/v1/chat/completions"),
        ("doctor", "--confdir", "conf"),
        ("status", "--url", "http://no-proxy-of-this-name.invalid:8080"),
        ("env", "--confdir", "no-ca-is-kept-in-this-folder"),
        ("--help",),
        ("run", "--help"),
        ("trust", "--help"),
        ("run", "--config", "nothing-of-this-name-in-this-folder-or-anywhere-else.toml", "--", "true"),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_no_word_is_cut_at_a_terminals_edge(arguments: tuple[str, ...], width: int, tmp_path: Path) -> None:
    """The same words as on a terminal that is wide enough, and no line longer than the terminal but for such a word."""
    (tmp_path / "wordy.toml").write_text(WORDY)
    alone = {"XDG_RUNTIME_DIR": str(tmp_path)}
    narrow, wide = (on_a_terminal(tmp_path, columns, *arguments, **alone) for columns in (width, 2000))

    def words(text: str) -> set[str]:
        return set(text.split()) - {"provider:", "dialect:", "URL:", "base", "credential:", "why:", "models:", "model:"}

    assert words(wide) - words(narrow) <= {"provider", "dialect", "URL", "credential", "why", "models", "model"}
    assert words(narrow) <= words(wide)
    for line in narrow.splitlines():
        assert len(line.rstrip()) <= width or len(line.split()) == 1, line


def test_a_terminal_cuts_no_name(tmp_path: Path) -> None:
    """With 80 columns the names of all providers, their addresses and variables can be copied."""
    lines = on_a_terminal(tmp_path, 80, "providers").splitlines()
    assert max(map(len, lines)) <= 80
    words = {word for line in lines for word in line.split()}
    entries = catalog.CATALOG.values()
    assert words >= {*catalog.CATALOG, *(name for e in entries for name in e.env)}
    assert words >= {base for entry in entries for base in entry.base_urls.values()}
