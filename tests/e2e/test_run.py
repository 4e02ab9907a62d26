"""`sidestep run` and `sidestep env`: unchanged programs in front of a broken provider."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sidestep.run.trust import can_write_java_stores
from support.corporate import ConnectProxy
from support.provider import Behaviour, Provider, text_of
from support.proxy import Mitmdump, clean_env
from support.settings import key_of, route
from support.waiting import until

SIDESTEP = [sys.executable, "-m", "sidestep.cli"]
SOURCE = Path(__file__).parents[2] / "addon"
ASK = """
import openai
for stream in (False, True):
    answer = openai.OpenAI(max_retries=0).chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": "hi"}], stream=stream)
    if stream:
        print("".join(c.delta.content or "" for chunk in answer for c in chunk.choices))
    else:
        print(answer.choices[0].message.content)
"""
CURL = ["curl", "-sS", "https://api.openai.com/v1/chat/completions", "-H", "content-type: application/json"]
CURL += ["-H", "authorization: Bearer sk-app", "-d", '{"model": "gpt-4o", "messages": [{"role": "user"}]}']


@dataclass
class Shell:
    """Runs `sidestep` as somebody would whose home is this folder."""

    home: Path
    config: Path
    marker: str

    def env(self, **more: str) -> dict[str, str]:
        own = {"HOME": str(self.home), "PYTHONPATH": str(SOURCE), "OPENAI_API_KEY": "sk-app", "MARKER": self.marker}
        return clean_env(**own, TMPDIR=str(self.config.parent), **more)

    @property
    def logs(self) -> list[Path]:
        """Logs of proxies that were not taken away."""
        return list(self.config.parent.glob("sidestep-*.log"))

    def command(self, *command: str, options: tuple[str, ...] = ()) -> list[str]:
        return [*SIDESTEP, "run", "--config", str(self.config), *options, "--", *command]

    def run(self, *command: str, options: tuple[str, ...] = (), **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*command, options=options),
            env=self.env(**more),
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*command),
            env=self.env(),
            cwd=self.home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def processes(self, word: str = "") -> list[int]:
        """What was started from here and still runs, with this word in its command line but not `sidestep run`."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if f"MARKER={self.marker}".encode() not in (entry / "environ").read_bytes().split(b"\0"):
                    continue
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if not word or (word.encode() in line and b"sidestep.cli" not in line):
                found.append(int(entry.name))
        return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def shell(home: Path, tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(home, tmp_path / "sidestep.toml", str(tmp_path))
    yield shell
    assert shell.processes() == []


@pytest.fixture
def ab(provider: Callable[..., Provider], shell: Shell) -> tuple[Provider, Provider]:
    """The first one is broken."""
    a, b = provider("a"), provider("b")
    a.default = Behaviour(status=503)
    shell.config.write_text(route("chat", a, b))
    return a, b


def test_keys_for_sidestep_alone_reach_no_command(ab: tuple[Provider, Provider], shell: Shell) -> None:
    """The proxy uses them, the command has not got them; all other variables are its own."""
    _, b = ab
    shell.config.write_text(shell.config.read_text().replace(key_of("b"), "${SIDESTEP_B_API_KEY}"))
    keys = {"SIDESTEP_B_API_KEY": "sk-b-ALONE-0123456789", "SIDESTEP_OPENAI_API_KEY": "sk-o-ALONE-0123456789"}
    keys["SIDESTEP_TOKEN"] = "t-ALONE-0123456789"
    done = shell.run("sh", "-c", f"env; {shlex.join(CURL)}", options=(), **keys, B_API_KEY="mine")
    assert b.requests[-1].header("authorization") == "Bearer sk-b-ALONE-0123456789", done.stderr
    assert "B_API_KEY=mine\n" in done.stdout
    assert "HTTPS_PROXY=" in done.stdout
    assert "ALONE" not in done.stdout + done.stderr
    assert not re.search(r"^SIDESTEP_(\w*API_KEY|TOKEN)", done.stdout, re.MULTILINE)


def test_a_command_waits_as_long_as_its_calls_may_be_held(ab: tuple[Provider, Provider], shell: Shell) -> None:
    assert "API_TIMEOUT_MS" not in shell.run("env").stdout
    shell.config.write_text(shell.config.read_text() + "\n[attempts]\nwait_for_reset_seconds = 900\n")
    assert "API_TIMEOUT_MS=1500000\n" in shell.run("env").stdout
    assert "API_TIMEOUT_MS=7\n" in shell.run("env", API_TIMEOUT_MS="7").stdout


def test_an_unchanged_script_gets_its_answers(ab: tuple[Provider, Provider], shell: Shell) -> None:
    """The official SDK, with nothing but `sidestep run --` in front; a line before says where calls may go, one at the
    end what was rerouted."""
    done = shell.run(sys.executable, "-c", ASK)
    text = text_of("b", Behaviour())
    assert (done.stdout, done.returncode) == (f"{text}\n{text}\n", 0), done.stderr
    hosts = ", ".join(f"127.0.0.1:{p.port}" for p in ab)
    assert done.stderr.splitlines() == [
        f"sidestep: {shell.config}: calls may go to {hosts}",
        "sidestep: b gave 2 answers: 7 tokens in, 6 out, $0.0001",
        "sidestep: 2 calls, 2 rerouted, 0 failed (api.openai.com → b 2)",
    ]
    assert all(seen.header("authorization") == f"Bearer {key_of('b')}" for seen in ab[1].requests)
    assert shell.logs == []


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["no-such-command-anywhere"], 127),
        (["/"], 126),
        (["/etc/passwd"], 126),
        ([""], 127),
        (["folder"], 127),
        (["./folder"], 126),
        (["./says-seven"], 7),
    ],
)
def test_it_exits_as_the_command_does(
    command: list[str], code: int, ab: tuple[Provider, Provider], shell: Shell
) -> None:
    """A script that names no interpreter is run as every shell runs it; only a path can name a folder."""
    (shell.home / "folder").mkdir(exist_ok=True)
    script = shell.home / "says-seven"
    script.write_text("exit 7\n")
    script.chmod(0o755)
    assert shell.run(*command).returncode == code


COUNT = """
import os, signal, sys
def end(*_):
    print(got, flush=True)
    sys.exit(7)
got = []
for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"):
    signal.signal(getattr(signal, name), lambda number, _: (got.append(number), print("got", flush=True)))
signal.signal(signal.SIGUSR1, end)
print("ready", os.getpid(), flush=True)
while True:
    signal.pause()
"""
"""Says each signal that it gets, and at SIGUSR1 all that it got."""


def test_signals_reach_the_command_once(ab: tuple[Provider, Provider], shell: Shell) -> None:
    """The command decides what becomes of each; the proxy does not end before it, and nothing is left running."""
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT]
    with shell.start(sys.executable, "-c", COUNT) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready")
        for number in numbers:
            process.send_signal(number)
            assert process.stdout.readline() == "got\n"
        process.send_signal(signal.SIGUSR1)
        out, err = process.communicate(timeout=20)
    assert (out, process.returncode) == (f"{[int(n) for n in numbers]}\n", 7)
    assert err.endswith("sidestep: 0 calls, 0 rerouted, 0 failed (nothing came through the proxy)\n")


def test_a_terminal_and_its_keys_are_the_commands(ab: tuple[Provider, Provider], shell: Shell) -> None:
    """Ctrl-C reaches the command once, which is in the terminal's foreground; a signal to `sidestep run` alone does
    as well."""
    master, slave = os.openpty()
    with os.fdopen(master, "r+b", buffering=0) as terminal:
        process = subprocess.Popen(
            [sys.executable, "-c", IN_TERMINAL, *shell.command(sys.executable, "-c", COUNT)],
            env=shell.env(),
            cwd=shell.home,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        screen = Screen(terminal)
        screen.until("ready")
        terminal.write(b"\x03")
        screen.until("got")
        # Two signals of a kind that wait together are one to the kernel.
        until(lambda: not _waits(process.pid, signal.SIGINT), "the first SIGINT was taken")
        process.send_signal(signal.SIGINT)
        screen.until("got")
        process.send_signal(signal.SIGUSR1)
        screen.until("[2, 2]")
        screen.until("0 calls")
        assert process.wait(20) == 7


def _waits(process: int, number: signal.Signals) -> bool:
    """Whether a process has been sent a signal that it has not taken yet; not known but on Linux."""
    status = Path(f"/proc/{process}/status")
    if not status.exists():
        return False
    pending = [
        int(line.split()[1], 16) for line in status.read_text().splitlines() if line[:7] in ("SigPnd:", "ShdPnd:")
    ]
    return any(mask >> (number - 1) & 1 for mask in pending)


IN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Screen:
    """What came on a terminal and was not looked at yet."""

    def __init__(self, terminal: io.FileIO) -> None:
        self._terminal = terminal
        self._text = ""

    def until(self, words: str) -> None:
        while words not in self._text:
            self._text += self._terminal.read(4096).decode()
        self._text = self._text.partition(words)[2]


def test_the_proxy_does_not_outlive_its_killed_starter(ab: tuple[Provider, Provider], shell: Shell) -> None:
    """Even SIGKILL leaves no proxy behind."""
    with shell.start("cat") as process:
        until(lambda: len(shell.processes("cat")) == 1, "the command runs")
        assert len(shell.processes("mitmproxy")) == 1
        process.kill()
        process.communicate(timeout=20)
    until(lambda: shell.processes() == [], "all have ended")


def test_a_proxy_that_dies_is_told(ab: tuple[Provider, Provider], shell: Shell) -> None:
    """The command goes on to its end; the last line says what happened, and where the log is."""
    with shell.start("cat") as process:
        until(lambda: len(shell.processes("cat")) == 1, "the command runs")
        (mitmproxy,) = shell.processes("mitmproxy")
        os.kill(mitmproxy, signal.SIGKILL)
        out, err = process.communicate("still here", timeout=20)
    assert (out, process.returncode) == ("still here", 0)
    _, log, last = err.splitlines()
    assert last == "sidestep: the proxy ended before the command"
    assert shell.logs == [Path(log.removeprefix("sidestep: the proxy's log: "))]


def test_errors_of_the_proxy_are_shown(ab: tuple[Provider, Provider], shell: Shell) -> None:
    """A key that a provider refuses is an error; without a terminal it is shown as it comes."""
    ab[0].default = Behaviour(status=401)
    done = shell.run(*CURL)
    *errors, log, last = done.stderr.splitlines()
    assert any("a" in line and "401" in line for line in errors), done.stderr
    assert last == "sidestep: 1 call, 1 rerouted, 0 failed (api.openai.com → b 1)"
    assert shell.logs == [Path(log.removeprefix("sidestep: the proxy's log: "))]
    assert key_of("a") not in shell.logs[0].read_text() + done.stderr


def test_the_log_of_a_call_that_failed_is_kept_and_named(ab: tuple[Provider, Provider], shell: Shell) -> None:
    """With a line for each way in which calls have failed."""
    for p in ab:
        p.default = Behaviour(status=500)
    done = shell.run(*CURL)
    why, log, last = done.stderr.splitlines()[1:]
    assert why == "sidestep: a call to api.openai.com (gpt-4o) failed: a: answered 500; b: answered 500"
    assert last == "sidestep: 1 call, 0 rerouted, 1 failed"
    assert shell.logs == [Path(log.removeprefix("sidestep: the proxy's log: "))]


def test_a_proxy_that_cannot_start_says_why(ab: tuple[Provider, Provider], shell: Shell, tmp_path: Path) -> None:
    """The command is not run, mitmproxy's own words are shown, the exit code is 125."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text("scripts: 1\n")
    done = shell.run("touch", str(tmp_path / "ran"), options=("--confdir", str(tmp_path / "conf")))
    assert done.returncode == 125
    assert "the proxy did not start" in done.stderr
    assert "scripts" in done.stderr
    assert not (tmp_path / "ran").exists()
    assert shell.logs == [Path(done.stderr.rpartition("its log: ")[2].strip())]


def test_a_folder_that_can_keep_no_ca_is_named(ab: tuple[Provider, Provider], shell: Shell, tmp_path: Path) -> None:
    """In a line, before anything is started."""
    (tmp_path / "file").touch()
    done = shell.run("touch", str(tmp_path / "ran"), options=("--confdir", str(tmp_path / "file" / "conf")))
    assert done.returncode == 125
    [line] = done.stderr.splitlines()
    assert line.startswith(f"sidestep: mitmproxy's CA cannot be kept in {tmp_path / 'file' / 'conf'}: ")
    assert not (tmp_path / "ran").exists()
    assert shell.logs == []


@pytest.mark.parametrize("closed", ["2>&-", "<&- 2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed(closed: str, ab: tuple[Provider, Provider], shell: Shell, tmp_path: Path) -> None:
    """Whoever closes some of the three gets the command's own output in the others, and its exit code."""
    told = tmp_path / "told"
    inner = f'echo out; "$@" > {told}; exit 3'
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *shell.command("sh", "-c", inner, "sh", *CURL)],
        env=shell.env(),
        cwd=shell.home,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("" if ">&- 2" in closed else "out\n", "", 3)
    assert text_of("b", Behaviour()) in told.read_text()


def test_curl_and_an_end_by_a_signal(ab: tuple[Provider, Provider], shell: Shell) -> None:
    done = shell.run("sh", "-c", '"$@"; kill -TERM $$', "sh", *CURL)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == text_of("b", Behaviour()), done.stderr
    assert done.returncode == 128 + signal.SIGTERM


JAVA = """
import java.net.URI;
import java.net.http.*;
import static java.net.http.HttpRequest.BodyPublishers.ofString;
class Ask {
    public static void main(String[] a) throws Exception {
        var url = URI.create("https://api.openai.com/v1/chat/completions");
        var body = ofString("{\\"model\\": \\"gpt-4o\\", \\"messages\\": []}");
        var ask = HttpRequest.newBuilder(url).header("content-type", "application/json").POST(body).build();
        System.out.println(HttpClient.newHttpClient().send(ask, HttpResponse.BodyHandlers.ofString()).body());
    }
}
"""


@pytest.mark.skipif(shutil.which("javac") is None, reason="there is no JDK")
@pytest.mark.skipif(not can_write_java_stores(), reason="this cryptography writes no trust stores for Java")
def test_java(ab: tuple[Provider, Provider], shell: Shell, tmp_path: Path) -> None:
    """Java goes through the proxy and takes the trust store, whose path here has a space in it."""
    source = tmp_path / "Ask.java"
    source.write_text(JAVA)
    done = shell.run("java", str(source), XDG_CACHE_HOME=str(tmp_path / "a cache"))
    assert text_of("b", Behaviour()) in done.stdout, done.stderr


def test_a_child_finds_all_that_it_needs(ab: tuple[Provider, Provider], shell: Shell, tmp_path: Path) -> None:
    """What was in the environment is kept and added to; a certificate that was trusted before still is."""
    own = tmp_path / "own.pem"
    own.write_text("-----BEGIN CERTIFICATE-----\nZm9v\n-----END CERTIFICATE-----\n")
    before: dict[str, Any] = {
        "NO_PROXY": "intern.example",
        "JAVA_TOOL_OPTIONS": "-Dmine=1",
        "NODE_EXTRA_CA_CERTS": str(own),
    }
    script = "import json, os; print(json.dumps(dict(os.environ)))"
    env = json.loads(shell.run(sys.executable, "-c", script, **before).stdout)
    assert env["HTTPS_PROXY"] == env["https_proxy"] == env["HTTP_PROXY"]
    assert set(env["NO_PROXY"].split(",")) == {"localhost", "127.0.0.1", "::1", "intern.example"}
    assert env["NODE_USE_ENV_PROXY"] == "1"
    assert env["JAVA_TOOL_OPTIONS"].startswith("-Dmine=1")
    assert ("trustStore" in env["JAVA_TOOL_OPTIONS"]) == can_write_java_stores()
    bundle = Path(env["SSL_CERT_FILE"]).read_text()
    assert "\nZm9v\n" in bundle
    assert bundle.count("BEGIN CERTIFICATE") > 50, "the system's roots"
    names = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO", "AWS_CA_BUNDLE")
    assert {env[name] for name in names} == {env["SSL_CERT_FILE"]}


def test_hosts_that_the_user_wants_no_proxy_for_are_named(ab: tuple[Provider, Provider], shell: Shell) -> None:
    """Their calls go where they always went; nobody has to find out why nothing is rerouted."""
    done = shell.run("true", NO_PROXY="intern.example,.openai.com")
    warning, _, unseen, last = done.stderr.splitlines()
    why = "NO_PROXY lets calls to api.openai.com go past Sidestep"
    assert unseen == f"sidestep: no call was seen to api.openai.com; {why}"
    assert warning == "sidestep: calls to api.openai.com go past Sidestep: NO_PROXY says so"
    assert last == "sidestep: 0 calls, 0 rerouted, 0 failed (nothing came through the proxy)"


def test_why_no_call_was_seen(ab: tuple[Provider, Provider], shell: Shell) -> None:
    """The likeliest reason: where the command went instead, or that its Node.js takes no proxy."""
    elsewhere = shell.run("curl", "-sS", "https://no.such.host.test/v1").stderr.splitlines()[-2]
    assert "; the command went to no.such.host.test instead: " in elsewhere
    listed = shell.run(*CURL[:2], "https://api.openai.com/v1/models").stderr.splitlines()[-2]
    assert listed.endswith("; what went to api.openai.com was none of the calls that are routed")
    node = shutil.which("node")
    if node is not None and re.match(r"v(1\d|20)\.", subprocess.check_output([node, "--version"], text=True)):
        program = shell.home / "program"
        program.write_text("#!/usr/bin/env node\n")
        program.chmod(0o755)
        for command in (["node", "-e", "1"], [str(program)]):
            assert "; Node.js v" in shell.run(*command).stderr.splitlines()[-2]


def test_how_much_of_a_plan_is_used_is_told_at_the_end(ab: tuple[Provider, Provider], shell: Shell) -> None:
    told = {"5h-status": "allowed", "5h-utilization": "0.5", "5h-reset": str(int(time.time()) + 9_030)}
    ab[0].default = Behaviour(headers={f"anthropic-ratelimit-unified-{k}": v for k, v in told.items()})
    lines = shell.run(*CURL).stderr.splitlines()
    assert re.fullmatch(r"sidestep: the plan at a: 5h 50 % used, anew in 2 h (29|30) min", lines[-2]), lines
    assert "the plan" not in shell.run(*CURL, options=("-q",)).stderr


def test_quiet(ab: tuple[Provider, Provider], shell: Shell) -> None:
    """Where calls may go and who has answered stays untold; that one failed does not."""
    _, b = ab
    assert shell.run(*CURL, options=("--quiet",)).stderr == ""
    assert shell.run("true", options=("-q",), NO_PROXY="api.openai.com").stderr == ""
    assert b.count == 1
    b.default = Behaviour(status=503)
    lines = shell.run(*CURL, options=("-q",)).stderr.splitlines()
    assert "failed: " in lines[0]
    assert not [line for line in lines if "rerouted" in line or "calls may go" in line]
    for log in shell.logs:
        log.unlink()


def test_mitmproxys_own_configuration_does_not_stop_it(
    ab: tuple[Provider, Provider], shell: Shell, tmp_path: Path
) -> None:
    """What somebody has set for other uses of mitmproxy, in the folder of its CA; nor do keys get into the log."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text(
        "server: false\nconnection_strategy: eager\nmode: [socks5]\nlisten_port: 1\nproxyauth: a:b\n"
        "sidestep_config: /nowhere.toml\nsidestep_tunnel_others: 'false'\nflow_detail: 4\n"
    )
    ab[0].default = Behaviour(status=401)  # an error, which leaves the log
    curl = [word.replace("/completions", "/completions?key=sk-in-query") for word in CURL]
    done = shell.run(*curl, options=("--confdir", str(tmp_path / "conf")))
    assert text_of("b", Behaviour()) in done.stdout, done.stderr
    assert "sk-in-query" not in shell.logs[0].read_text()


def test_a_bad_configuration_starts_nothing(shell: Shell, tmp_path: Path) -> None:
    shell.config.write_text("[[providers]]\nname = 1\n")
    done = shell.run("touch", str(tmp_path / "ran"))
    assert done.returncode == 125
    assert "providers[0].name" in done.stderr
    assert not (tmp_path / "ran").exists()


def _far(text: str, *providers: Provider) -> tuple[str, dict[str, tuple[str, int]]]:
    """The configuration with these providers at names that only a company's proxy knows, and where they lead."""
    names = {}
    for p in providers:
        names[f"{p.name}.corp.test:{p.port}"] = ("127.0.0.1", p.port)
        text = text.replace(f"127.0.0.1:{p.port}", f"{p.name}.corp.test:{p.port}")
    return text, names


def test_a_proxy_that_is_there_already_stays_in_front(ab: tuple[Provider, Provider], shell: Shell) -> None:
    """A company's proxy gets all that leaves, with the password that the environment has for it; no command line shows
    that password."""
    text, names = _far(shell.config.read_text(), *ab)
    shell.config.write_text(text)
    with ConnectProxy("user:secret-word", names) as corporate:
        shown = "import pathlib; print([p.read_bytes() for p in pathlib.Path('/proc').glob('[0-9]*/cmdline')])"
        proxy: dict[str, Any] = {"HTTPS_PROXY": corporate.url.replace("//", "//user:secret-word@")}
        done = shell.run(sys.executable, "-c", ASK + shown, **proxy)
    assert text_of("b", Behaviour()) in done.stdout, done.stderr
    assert set(corporate.tunnels) == set(names)
    assert "secret-word" not in done.stdout


@pytest.mark.parametrize("intercept", ["https://api.openai.com/v1", "http://llm.test/v1"])
def test_providers_on_this_machine_need_no_proxy(
    intercept: str, provider: Callable[..., Provider], shell: Shell
) -> None:
    """Where there is a company's proxy a provider at a loopback address is asked without it, and the next one with it
    again."""
    a, b, c = provider("a"), provider("b"), provider("c")
    a.default = b.default = Behaviour(status=503)
    text, names = _far(route("chat", a, b, c, intercept=intercept), a, c)
    shell.config.write_text(text)
    with ConnectProxy(None, names) as corporate:
        curl = [word.replace("https://api.openai.com/v1", intercept) for word in CURL]
        done = shell.run(*curl, HTTPS_PROXY=corporate.url)
    assert text_of("c", Behaviour()) in done.stdout, done.stderr
    assert {seen.path for seen in b.requests} == {"/v1/chat/completions"}
    reached = {target.partition("://")[2].partition("/")[0] or target for target in corporate.forwarded}
    assert {*corporate.tunnels, *reached} == set(names)


def test_a_proxy_that_cannot_be_used_is_named(ab: tuple[Provider, Provider], shell: Shell) -> None:
    done = shell.run("true", HTTPS_PROXY="socks5://user:secret-word@127.0.0.1:1")
    assert done.returncode == 125
    assert "expected an http:// or https:// proxy in HTTPS_PROXY" in done.stderr
    assert "found socks5://" in done.stderr
    assert "secret-word" not in done.stderr


def test_keep_and_web(ab: tuple[Provider, Provider], shell: Shell) -> None:
    """mitmweb's page is named with its token; the proxy that was kept still answers, and ends when it is told to."""
    done = shell.run("true", options=("--web", "--keep"))
    assert done.returncode == 0, done.stderr
    assert "mitmweb is at http://127.0.0.1:" in done.stderr
    number = int(done.stderr.rpartition("kill ")[2].partition(";")[0])
    address = done.stderr.partition("stays at ")[2].partition(",")[0]
    answer = subprocess.run(
        ["curl", "-sS", "-x", address, "http://sidestep.internal/health"], capture_output=True, text=True, check=True
    )
    assert json.loads(answer.stdout)["status"] == "ok"
    os.kill(number, signal.SIGTERM)
    until(lambda: shell.processes() == [], "the proxy has ended")
    assert shell.logs == [Path(done.stderr.rpartition("its log: ")[2].strip())]


def test_env_for_a_proxy_that_runs(
    ab: tuple[Provider, Provider], shell: Shell, proxy: Callable[..., Mitmdump], home: Path
) -> None:
    """A shell that has evaluated the variables reaches the proxy with curl."""
    m = proxy(route("chat", *ab))
    script = f'eval "$({" ".join(SIDESTEP)} env --port {m.port} --confdir {m.confdir})"; exec "$@"'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *CURL], env=shell.env(), capture_output=True, text=True, timeout=30, check=False
    )
    assert text_of("b", Behaviour()) in done.stdout, done.stderr
