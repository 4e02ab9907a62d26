"""`sidestep run` on a machine that is shared: its port is for the user whose command it is, and for root.

The other users are real ones: programs with another uid, on the same loopback interface. Needs root.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.provider import Provider
from support.proxy import clean_env
from support.settings import key_of, route
from support.waiting import until

SIDESTEP = [sys.executable, "-m", "sidestep.cli"]
SOURCE = Path(__file__).parents[2] / "addon"
ROOT, OWNER, OTHER = 0, 61_001, 61_002
CALL = """
import contextlib, encodings.idna, json, os, socket, sys  # before it cannot read them any more
port, uid, family, way = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
if uid:
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
if family == "6":  # as Java does: IPv6 to an IPv4 address
    s = socket.socket(socket.AF_INET6)
    s.connect(("::ffff:127.0.0.1", port))
else:
    s = socket.create_connection(("127.0.0.1", port))
s.settimeout(20)
body = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], "user": way + family}).encode()
if way == "page":
    request = f"GET /state HTTP/1.1\\r\\nHost: 127.0.0.1:{port}\\r\\n\\r\\n".encode()
else:
    request = b"POST http://app.test/v1/chat/completions HTTP/1.1\\r\\nHost: app.test\\r\\nConnection: close\\r\\n"
    request += b"Content-Type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body
with contextlib.suppress(OSError):
    s.sendall(request)
    if way == "leaves":
        sys.exit()
    if way == "half":
        s.shutdown(socket.SHUT_WR)
    got = b""
    while piece := s.recv(4096):
        got += piece
        if way == "page" and b'"providers"' in got:
            break
    print(got.decode("latin-1").partition(" ")[2][:3])
"""


def call(port: int, uid: int, family: str = "4", way: str = "call") -> str:
    """The status that a program of this user is answered with; "" where its connection was closed."""
    command = [sys.executable, "-c", CALL, str(port), str(uid), family, way]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True, cwd="/").stdout.strip()


def as_user(uid: int) -> list[str]:
    """What goes before a command. It may read all files, as Python and the sources may lie where root alone can."""
    read = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search") if uid else ()
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *read]


class Run:
    """`sidestep run` of one user. State: its process, the port of its proxy, what it has said."""

    def __init__(self, folder: Path, config: str, uid: int) -> None:
        home = folder / f"home-{uid}"
        home.mkdir()
        file = home / "settings.toml"
        file.write_text(config)
        for path in (home, file):
            os.chown(path, uid, uid)
        self.env = clean_env(HOME=str(home), PYTHONPATH=str(SOURCE), TMPDIR=str(home), OPENAI_API_KEY="sk-app")
        command = [*SIDESTEP, "run", "--config", str(file), "--"]
        # `sh` waits for what it is told to do, a line each.
        script = 'echo "$HTTPS_PROXY"; while read -r line; do eval "$line"; done'
        self.process = subprocess.Popen(
            [*as_user(uid), *command, "sh", "-c", script],
            env=self.env,
            cwd=home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        url = self.process.stdout.readline().strip()
        if not url:
            raise AssertionError(self.process.communicate()[1])
        self.port = int(url.rpartition(":")[2])

    def child(self, command: list[str]) -> str:
        """What a program says that the command starts."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(shlex.join(command) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def close(self) -> str:
        """What it has said."""
        return self.process.communicate(timeout=30)[1]


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that every user may go into, as those of pytest are not."""
    if sys.platform != "linux" or os.getuid() != ROOT or shutil.which("setpriv") is None:
        pytest.skip("needs programs of other users: Linux, as root, with setpriv")
    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def b(provider: Callable[..., Provider]) -> Provider:
    return provider("b")


def config(b: Provider, more: str = "") -> str:
    return more + route("chat", b).replace("https://api.openai.com/v1", "http://app.test/v1")


@contextlib.contextmanager
def run(*given: Any) -> Iterator[Run]:
    made = Run(*given)
    try:
        yield made
    finally:
        if made.process.returncode is None:
            made.close()


def test_programs_of_other_users_are_refused(folder: Path, b: Provider) -> None:
    """Calls, pages and half-closed connections, whichever IP version they speak; no key is used, and it is told once.
    The user's own programs and root's may, wherever they were started."""
    with run(folder, config(b), OWNER) as r:
        for family in "46":
            assert [call(r.port, OTHER, family, way) for way in ("call", "page", "half", "leaves")] == [""] * 4
        assert b.count == 0
        assert [call(r.port, uid, family) for uid in (OWNER, ROOT) for family in "46"] == ["200"] * 4
        assert [call(r.port, uid, "4", "page") for uid in (OWNER, ROOT)] == ["200"] * 2
        assert b.requests[-1].header("authorization") == f"Bearer {key_of('b')}"
        status = subprocess.run(
            [*as_user(OWNER), *SIDESTEP, "status", "--json", "--url", f"http://127.0.0.1:{r.port}"],
            env=r.env,
            capture_output=True,
            text=True,
            cwd="/",
        )
        assert json.loads(status.stdout)["status"] == "ok", status.stderr
        assert b.count == 4
        said = r.close()
    refused = [line for line in said.splitlines() if "another user" in line]
    assert refused == [
        f"sidestep: a program of another user of this machine (uid {OTHER}) was refused; with "
        'allow_clients = ["127.0.0.1"] in the [proxy] table all of them may use the port'
    ]
    assert "sidestep: 4 calls, 4 rerouted, 0 failed" in said


def test_the_command_of_root_may_go_on_as_another_user(folder: Path, b: Provider) -> None:
    """As `su` and apt do; a program of the same other user that it has not started may not."""
    program = folder / "call.py"
    program.write_text(CALL)
    with run(folder, config(b), ROOT) as r:
        assert call(r.port, OTHER) == ""
        for family in "46":
            assert r.child([sys.executable, str(program), str(r.port), str(OTHER), family, "call"]) == "200"
        assert call(r.port, OTHER) == ""
        assert b.count == 2


def test_all_may_where_that_was_asked_for(folder: Path, b: Provider) -> None:
    with run(folder, config(b, '[proxy]\nallow_clients = ["127.0.0.1"]\n'), ROOT) as r:
        assert [call(r.port, OTHER, family) for family in "46"] == ["200"] * 2
        assert "another user" not in r.close()


def test_one_that_leaves_at_once_uses_no_key(folder: Path, b: Provider) -> None:
    """The kernel says of a socket that nothing holds any more that it is root's."""
    with run(folder, config(b), ROOT) as r:
        for _ in range(20):
            call(r.port, OTHER, "4", "leaves")
        assert call(r.port, ROOT) == "200"
        until(lambda: b.in_flight == 0, "all calls have ended")
        assert b.count == 1
