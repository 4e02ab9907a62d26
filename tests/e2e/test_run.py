"""`sidestep run` and `sidestep env`: unchanged programs in front of a broken provider."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

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
        return clean_env(**own, **more)

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

    def processes(self) -> list[str]:
        """Command lines of all that was started from here and still runs."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if f"MARKER={self.marker}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except (OSError, ValueError):
                continue
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


def test_an_unchanged_script_gets_its_answers(ab: tuple[Provider, Provider], shell: Shell) -> None:
    """The official SDK, with nothing but `sidestep run --` in front; one line at the end says what was rerouted."""
    done = shell.run(sys.executable, "-c", ASK)
    text = text_of("b", Behaviour())
    assert (done.stdout, done.returncode) == (f"{text}\n{text}\n", 0), done.stderr
    assert done.stderr == "sidestep: 2 calls, 2 rerouted (api.openai.com → b 2)\n"
    assert all(seen.header("authorization") == f"Bearer {key_of('b')}" for seen in ab[1].requests)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["sh", "-c", "exit 3"], 3),
        (["sh", "-c", "kill -TERM $$"], 128 + signal.SIGTERM),
        (["no-such-command-anywhere"], 127),
        (["/"], 126),
    ],
)
def test_it_exits_as_the_command_does(
    command: list[str], code: int, ab: tuple[Provider, Provider], shell: Shell
) -> None:
    assert shell.run(*command).returncode == code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_reach_the_command_once(number: signal.Signals, ab: tuple[Provider, Provider], shell: Shell) -> None:
    """The command decides what becomes of it; when it has ended nothing is left running."""
    script = (
        "import signal, time\n"
        "got = []\n"
        f"signal.signal({int(number)}, lambda *_: got.append(1))\n"
        "print('ready', flush=True)\n"
        "while not got: time.sleep(0.01)\n"
        "time.sleep(0.2)\n"
        "print(len(got)); raise SystemExit(7)\n"
    )
    with subprocess.Popen(
        shell.command(sys.executable, "-c", script),
        env=shell.env(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, _ = process.communicate(timeout=20)
    assert out == "1\n"
    assert process.returncode == 7


def test_curl(ab: tuple[Provider, Provider], shell: Shell) -> None:
    done = shell.run(*CURL)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == text_of("b", Behaviour()), done.stderr


def test_a_child_finds_all_that_it_needs(ab: tuple[Provider, Provider], shell: Shell, tmp_path: Path) -> None:
    """What was in the environment is kept and added to; a certificate that was trusted before still is."""
    own = tmp_path / "own.pem"
    own.write_text("-----BEGIN CERTIFICATE-----\nZm9v\n-----END CERTIFICATE-----\n")
    before = {"NO_PROXY": "intern.example", "JAVA_TOOL_OPTIONS": "-Dmine=1", "NODE_EXTRA_CA_CERTS": str(own)}
    script = "import json, os; print(json.dumps(dict(os.environ)))"
    env = json.loads(shell.run(sys.executable, "-c", script, **before).stdout)
    assert env["HTTPS_PROXY"] == env["https_proxy"] == env["HTTP_PROXY"]
    assert set(env["NO_PROXY"].split(",")) == {"localhost", "127.0.0.1", "::1", "intern.example"}
    assert env["NODE_USE_ENV_PROXY"] == "1"
    assert env["JAVA_TOOL_OPTIONS"].startswith("-Dmine=1 ")
    bundle = Path(env["SSL_CERT_FILE"]).read_text()
    assert "Zm9v" in bundle
    assert bundle.count("BEGIN CERTIFICATE") > 50, "the system's roots"
    names = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO", "AWS_CA_BUNDLE")
    assert {env[name] for name in names} == {env["SSL_CERT_FILE"]}


def test_a_bad_configuration_starts_nothing(shell: Shell, tmp_path: Path) -> None:
    shell.config.write_text("[[providers]]\nname = 1\n")
    done = shell.run("touch", str(tmp_path / "ran"))
    assert done.returncode == 1
    assert "providers[0].name" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_a_proxy_that_is_there_already_stays_in_front(ab: tuple[Provider, Provider], shell: Shell) -> None:
    """A company's proxy gets all that leaves, with the password that the environment has for it; no command line shows
    that password."""
    with ConnectProxy("user:secret-word") as corporate:
        shown = "import pathlib; print([p.read_bytes() for p in pathlib.Path('/proc').glob('[0-9]*/cmdline')])"
        proxy = {"HTTPS_PROXY": corporate.url.replace("//", "//user:secret-word@")}
        done = shell.run(sys.executable, "-c", ASK + shown, **proxy)
    assert text_of("b", Behaviour()) in done.stdout, done.stderr
    assert corporate.tunnels, "it went through"
    assert "secret-word" not in done.stdout


def test_a_proxy_that_cannot_be_used_is_named(ab: tuple[Provider, Provider], shell: Shell) -> None:
    done = shell.run("true", HTTPS_PROXY="socks5://user:secret-word@127.0.0.1:1")
    assert done.returncode == 1
    assert "HTTPS_PROXY: expected the URL of an http or https proxy, found socks5://" in done.stderr
    assert "secret-word" not in done.stderr


def test_keep_and_web(ab: tuple[Provider, Provider], shell: Shell) -> None:
    """mitmweb's page is named with its token; the proxy that was kept still answers, and ends when it is told to."""
    done = shell.run("true", options=("--web", "--keep"))
    assert done.returncode == 0, done.stderr
    assert "mitmweb is at http://127.0.0.1:" in done.stderr
    number = int(done.stderr.rsplit("kill ", 1)[1])
    address = done.stderr.split("still listens at ")[1].split(";")[0]
    answer = subprocess.run(
        ["curl", "-sS", "-x", address, "http://sidestep.internal/health"], capture_output=True, text=True, check=True
    )
    assert json.loads(answer.stdout)["status"] == "ok"
    os.kill(number, signal.SIGTERM)
    until(lambda: shell.processes() == [], "the proxy has ended")


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
