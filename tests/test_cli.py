"""The `sidestep` command: what it validates, shows and never shows."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import json
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NoReturn

import pytest
from click.testing import CliRunner

from sidestep import no_proxy
from sidestep.cli import main, script_path
from sidestep.config import catalog, trusting
from sidestep.run import asking, environment, trust
from sidestep.run.trust import can_write_java_stores

SOURCE = Path(__file__).parents[1] / "addon"
GOOD = '[[providers]]\nname = "p"\ndialect = "openai"\nbase_url = "https://p.test/v1"\napi_key = "${KEY_OF_P}"\n'


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    monkeypatch.setenv("KEY_OF_P", "sk-very-secret")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for key in {v for name, entry in catalog.CATALOG.items() for v in catalog.variables_of(name, entry)}:
        monkeypatch.delenv(key, raising=False)
    for name in [name for name in os.environ if name.lower().endswith("_proxy") or name == "JAVA_TOOL_OPTIONS"]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return CliRunner()


def trusted(text: str) -> None:
    """The folder's configuration."""
    Path("sidestep.toml").write_text(text)
    trusting.trust(Path("sidestep.toml"), text)


def test_check_shows_what_would_be_used(runner: CliRunner) -> None:
    """A good file: its providers, their hosts, where prompts may go, and no key."""
    trusted(GOOD)
    result = runner.invoke(main, ["check"])
    assert result.exit_code == 0
    assert "no problems" in result.output
    assert "[priority, enforce]" in result.output
    data = json.loads(runner.invoke(main, ["check", "--json"]).output)
    assert data["ok"] is True
    assert data["providers"][0]["base_url"] == "https://p.test/v1"
    assert data["routes"][0]["providers"] == ["p"]
    assert "sk-very-secret" not in result.output + json.dumps(data)


def test_check_gives_advice(runner: CliRunner) -> None:
    """What is no problem but worth a look is told, to people and to programs."""
    more = '[[providers]]\nname = "own"\ndialect = "anthropic"\nbase_url = "https://own.test"\napi_key = "k"\n'
    trusted(f'[[providers]]\nname = "anthropic"\n{more}')
    result = runner.invoke(main, ["check"])
    assert result.exit_code == 0
    assert "note: own has no issuer" in result.output
    assert len(json.loads(runner.invoke(main, ["check", "--json"]).output)["advice"]) == 1


@pytest.mark.parametrize("words", [[], ["circuit"]])
def test_without_a_command_the_help_is_told_once(words: list[str], runner: CliRunner) -> None:
    told = runner.invoke(main, words)
    assert told.output.count("Usage:") == 1
    assert "Error" not in told.output


def test_check_reports_every_problem(runner: CliRunner) -> None:
    """A bad file: exit code 1 and each problem with its place."""
    Path("bad.toml").write_text('mode = "x"\n[circuit]\nopen_seconds = 0\n')
    result = runner.invoke(main, ["check", "bad.toml"])
    assert result.exit_code == 1
    assert "mode:" in result.output
    assert "circuit.open_seconds:" in result.output
    data = json.loads(runner.invoke(main, ["check", "bad.toml", "--json"]).output)
    assert (data["ok"], len(data["problems"])) == (False, 2)


def test_providers_tells_whose_key_is_set(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalog, with a yes where a key is in the environment, and not the key."""
    monkeypatch.setenv("GROQ_API_KEY", "gsk-secret")
    rows = {r["name"]: r for r in json.loads(runner.invoke(main, ["providers", "--json"]).output)}
    assert rows["groq"]["key_is_set"] is True
    assert "gsk-secret" not in runner.invoke(main, ["providers"]).output


def test_a_program_gets_a_line_for_each_row(runner: CliRunner) -> None:
    """Where no terminal shows a table, all of a row stands in one line, whatever the variable COLUMNS says."""
    lines = runner.invoke(main, ["providers"], env={"COLUMNS": "40"}).output.splitlines()
    rows = [(name, e, dialect, base) for name, e in catalog.CATALOG.items() for dialect, base in e.base_urls.items()]
    for line, (name, entry, dialect, base) in zip(lines[1:], rows, strict=True):
        assert line.split()[:3] == [name, dialect, base]
        assert " or ".join(entry.env) in line


def test_the_package_says_that_it_is_typed() -> None:
    """Type checkers read the annotations of an installed package only beside this marker, which the wheel takes along
    with all that is in the package's folder."""
    assert (importlib.resources.files("sidestep") / "py.typed").is_file()


def test_script_is_a_file_that_mitmproxy_can_load(runner: CliRunner) -> None:
    """The path that it prints holds the addon."""
    path = Path(runner.invoke(main, ["script"]).output.strip())
    assert path == script_path()
    assert "addons = [Sidestep()]" in path.read_text()


# --- keys and probes


def test_check_tells_which_keys_are_set(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file all of the catalog's, with one those that it names; by name alone."""
    monkeypatch.setenv("GROQ_API_KEY", "gsk-secret")
    whole = runner.invoke(main, ["check"]).output
    assert "keys that are set: GROQ_API_KEY\n" in whole
    assert "OPENROUTER_API_KEY" in whole.partition("keys that are not set: ")[2]
    monkeypatch.setenv("GEMINI_API_KEY", "g-secret")
    trusted(GOOD + "".join(f'[[providers]]\nname = "{n}"\n' for n in ("openai", "gemini-openai")))
    data = json.loads(runner.invoke(main, ["check", "--json"]).output)
    # OpenAI's own provider takes the app's credential.
    assert data["keys"] == {"KEY_OF_P": True, "GEMINI_API_KEY": True, "GOOGLE_API_KEY": False}
    assert "secret" not in whole + json.dumps(data)


class Models(BaseHTTPRequestHandler):
    """A provider for each first segment of a path; it knows one key."""

    asked: list[tuple[str, dict[str, str]]]

    def do_GET(self) -> None:
        self.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
        key = self.headers.get("authorization") or self.headers.get("x-api-key") or self.headers.get("x-goog-api-key")
        match self.path.split("/")[1]:
            case "html":
                self._answer(200, b"<html>sk-very-secret</html>")
            case "moved":
                self._answer(302, b"", location="/good/models")
            case "rubbish":
                self.wfile.write(b"sk-very-secret\r\n\r\n")
            case "none":
                self._answer(404, b"")
            case "deep":
                self._answer(200, b"[" * 100_000)
            case _ if key is None or "sk-very-secret" not in key:
                self._answer(401, f'{{"error": "no such key: {key}"}}'.encode())
            case _:
                self._answer(200, b'{"data": [{"id": "m-1"}, {"id": "m-2"}]}')

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def models() -> Iterator[tuple[str, list[tuple[str, dict[str, str]]]]]:
    asked: list[tuple[str, dict[str, str]]] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Models,), {"asked": asked})) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def test_check_probes(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, models: tuple[str, list[tuple[str, dict[str, str]]]]
) -> None:
    """Each provider is asked for its models as its dialect has it, with its key and nobody else's; what fails is said
    in a word and makes the exit code 1; no key is shown, whatever the provider says."""
    monkeypatch.setenv("WRONG", "sk-wrong-secret")
    url, asked = models
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    rows = [
        ("good", "openai", f"{url}/good", "KEY_OF_P"),
        ("claude", "anthropic", f"{url}/claude", "KEY_OF_P"),
        ("gem", "gemini", f"{url}/gem", "KEY_OF_P"),
        ("azure", "openai", f"{url}/good/openai/deployments/d?api-version=1", "KEY_OF_P"),
        ("wrong", "openai", f"{url}/wrong", "WRONG"),
        ("html", "openai", f"{url}/html", "KEY_OF_P"),
        ("moved", "openai", f"{url}/moved", "KEY_OF_P"),
        ("rubbish", "openai", f"{url}/rubbish", "KEY_OF_P"),
        ("none", "openai", f"{url}/none", "KEY_OF_P"),
        ("deep", "openai", f"{url}/deep", "KEY_OF_P"),
        ("nobody", "openai", nobody, "KEY_OF_P"),
    ]
    text = "".join(
        f'[[providers]]\nname = "{n}"\ndialect = "{d}"\nbase_url = "{u}"\napi_key = "${{{k}}}"\n' for n, d, u, k in rows
    )
    Path("all.toml").write_text(text + '[[providers]]\nname = "openai"\n')
    result = runner.invoke(main, ["check", "all.toml", "--probe", "--json"])
    data = json.loads(result.output)
    assert (result.exit_code, data["ok"]) == (1, False)
    assert {p["provider"]: (p["ok"], p["text"]) for p in data["probes"]} == {
        "good": (True, "2 models"),
        "claude": (True, "2 models"),
        "gem": (True, "2 models"),
        "azure": (True, "2 models"),
        "wrong": (False, "HTTP 401 Unauthorized: the key is refused"),
        "html": (False, "HTTP 200, but no list of models"),
        "moved": (False, "HTTP 302 Found: is base_url right? A key follows no redirect"),
        "rubbish": (False, "no HTTP answer (BadStatusLine)"),
        "none": (False, "HTTP 404 Not Found: is base_url right?"),
        "deep": (False, "HTTP 200, but no list of models"),
        "nobody": (False, "Connection refused"),
        "openai": (None, "not asked: it takes the app's own credential"),
    }
    heads = dict(asked)
    assert set(heads) >= {
        "/good/models",
        "/claude/v1/models",
        "/gem/v1beta/models",
        "/good/openai/models?api-version=1",
    }
    assert heads["/claude/v1/models"]["anthropic-version"] == "2023-06-01"
    shown = runner.invoke(main, ["check", "all.toml", "--probe"]).output
    assert "wrong: failed, HTTP 401" in shown
    assert "note: nobody: base_url: expected a base URL with its version" in shown
    assert "secret" not in result.output + shown

    Path("good.toml").write_text(text.partition('[[providers]]\nname = "wrong"')[0])
    assert runner.invoke(main, ["check", "good.toml", "--probe"]).exit_code == 0


# --- explain


ROUTED = (
    GOOD
    + """
models = { "gpt-*" = "big-*" }
only = ["gpt-*"]
[[providers]]
name = "openai"
[[routes]]
intercept = ["https://api.openai.com/v1"]
providers = ["openai", "p"]
"""
)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["https://api.openai.com/v1/files"], "/files under https://api.openai.com/v1 is none of the openai calls"),
        (["https://api.openai.com/v1/models", "--method", "get"], "is none of the openai calls"),
        (["https://api.openai.com/v1/chat/completions", "--method", "GET"], "a POST is"),
        (["https://api.openai.com/v1/responses", "--method", "GET"], "a POST is"),
        (["https://api.openai.com/v1/realtime"], "a WebSocket handshake (wss://) is"),
        (["https://api.openai.com/v2/chat/completions"], "does not lie under https://api.openai.com/v1"),
        (["https://api.openai.com/v1/chat/completions/"], "is none of the openai calls"),
        (
            ["http://api.openai.com/v1/chat/completions"],
            "calls are looked for at https://api.openai.com/v1, not at http://",
        ),
        (["https://example.com/v1/chat/completions"], "no intercept has the host example.com; there are: https://api"),
    ],
)
def test_explain_says_why_not(arguments: list[str], words: str, runner: CliRunner) -> None:
    """A call that goes where it was going, and why."""
    trusted(ROUTED)
    result = runner.invoke(main, ["explain", *arguments])
    assert result.exit_code == 0
    assert "It goes where the app sent it: " in result.output
    assert words in result.output
    assert json.loads(runner.invoke(main, ["explain", "--json", *arguments]).output)["routed"] is False


def test_explain_names_who_would_be_asked(runner: CliRunner) -> None:
    """The providers in their order, the model that each would be asked for, whose credential it would get, who would
    not be asked; a query, which may hold a key, is not repeated."""
    trusted(ROUTED)
    url = "api.openai.com/v1/chat/completions?key=sk-in-query"
    result = runner.invoke(main, ["explain", url, "--model", "gpt-4o", "--json"])
    found = json.loads(result.output)
    assert found["routed"] is True
    own = {"name": "openai", "base_url": "https://api.openai.com/v1", "model": "gpt-4o", "own": True}
    assert found["providers"] == [
        own | {"credential": "the app's own", "why": "the app addressed it: with the app's own credential"},
        {
            "name": "p",
            "base_url": "https://p.test/v1",
            "model": "big-4o",
            "own": False,
            "credential": "a key of yours (bearer)",
            "why": "your key in KEY_OF_P",
        },
    ]
    other = runner.invoke(main, ["explain", url, "--model", "o3"]).output
    assert "not p: it may only be asked for gpt-*" in other
    assert "secret" not in result.output + other
    assert "in-query" not in result.output + other


def test_explain_shows_the_chain(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file: each link with its reason, a server of this machine that answers at the end, and what is missing
    for more; no key."""
    models = json.dumps({"data": [{"id": "qwen3"}]}).encode()

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(models)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("SIDESTEP_ANTHROPIC_API_KEY", "sk-secret-1")
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-secret-2")
    arguments = ["explain", "https://api.anthropic.com/v1/messages", "--model", "claude-opus-4-8"]
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{server.server_port}")
        result = runner.invoke(main, arguments)
        data = json.loads(runner.invoke(main, [*arguments, "--json"]).output)
        server.shutdown()
    assert [(p["name"], p["model"], p["why"]) for p in data["providers"]] == [
        ("anthropic", "claude-opus-4-8", "the app addressed it: with the app's own credential"),
        ("anthropic-key", "claude-opus-4-8", "the app addressed it: with your key in SIDESTEP_ANTHROPIC_API_KEY"),
        ("openrouter", "anthropic/claude-opus-4.8", "your key in OPENROUTER_API_KEY"),
        ("ollama", "qwen3", "it answers on this machine: for what nobody else takes"),
    ]
    assert {p["name"]: p["why"] for p in data["missing"]} == {
        "aihubmix": "AIHUBMIX_API_KEY is not set",
        **{
            name: f"no server with a chat model answers at {catalog.CATALOG[name].base_urls['anthropic']}"
            for name in ("lm-studio", "llama.cpp", "vllm")
        },
    }
    assert "could stand in as well: aihubmix (AIHUBMIX_API_KEY is not set), lm-studio (" in result.output
    assert "secret" not in result.output + json.dumps(data)


def test_explain_tells_what_a_file_leaves_out(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is set is of no use where no table names its provider."""
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-secret")
    Path("some.toml").write_text('[[providers]]\nname = "openai"\n')
    arguments = ["explain", "https://api.openai.com/v1/chat/completions", "--model", "gpt-4o", "--config", "some.toml"]
    missing = json.loads(runner.invoke(main, [*arguments, "--json"]).output)["missing"]
    named = f"{Path('some.toml').absolute()} does not name it"
    assert {p["name"]: p["why"] for p in missing} == {
        "openai-key": "SIDESTEP_OPENAI_API_KEY is not set",
        **dict.fromkeys(("openrouter", "ollama", "lm-studio", "llama.cpp", "vllm"), named),
    }
    on_embedding = [*arguments[:3], "text-embedding-3-small", *arguments[4:], "--json"]
    assert [p["name"] for p in json.loads(runner.invoke(main, on_embedding).output)["missing"]] == ["openai-key"]


def test_explain_reads_the_model_from_the_url(runner: CliRunner) -> None:
    """Gemini has it in the path, a WebSocket in the query."""
    for url, operation, model in (
        (f"{catalog.OFFICIAL['gemini']}/v1beta/models/gemini-9:generateContent", "generateContent", "gemini-9"),
        ("wss://api.openai.com/v1/realtime?model=gpt-rt", "realtime.websocket", "gpt-rt"),
    ):
        found = json.loads(runner.invoke(main, ["explain", url, "--json"]).output)
        assert (found["routed"], found["operation"], found["model"]) == (True, operation, model)


def test_explain_tells_a_program_of_every_problem(runner: CliRunner) -> None:
    """With a bad file what `--json` prints is JSON as well."""
    Path("bad.toml").write_text('mode = "x"\n[circuit]\nopen_seconds = 0\n')
    result = runner.invoke(main, ["explain", "https://api.openai.com/v1", "--config", "bad.toml", "--json"])
    data = json.loads(result.stdout)
    assert (result.exit_code, data["ok"], len(data["problems"])) == (1, False, 2)


def test_explain_wants_a_url(runner: CliRunner) -> None:
    result = runner.invoke(main, ["explain", "https://user:sk-very-secret@api.openai.com/v1"])
    assert result.exit_code == 2
    assert "secret" not in result.output


# --- init


def test_init_writes_what_check_accepts(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file from the keys that are set, which holds none of them; one that is there is kept unless forced."""
    for variables in ({}, {"OPENROUTER_API_KEY": "sk-or-secret", "GROQ_API_KEY": "gsk-secret", "XAI_API_KEY": "é"}):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert runner.invoke(main, ["init", "new.toml", "--force"]).exit_code == 0
        text = Path("new.toml").read_text()
        assert "secret" not in text
        result = runner.invoke(main, ["check", "new.toml", "--json"])
        assert result.exit_code == 0, result.output
    names = [p["name"] for p in json.loads(result.output)["providers"]]
    assert {"openai", "anthropic", "gemini", "chatgpt", "code-assist", "openrouter", "groq"} == set(names)
    Path("new.toml").write_text("mine")
    refused = runner.invoke(main, ["init", "new.toml"])
    assert refused.exit_code == 1
    assert "--force" in refused.output
    assert Path("new.toml").read_text() == "mine"
    assert "`sidestep check`" in runner.invoke(main, ["init"]).output
    assert Path("sidestep.toml").exists()
    assert "`sidestep check 'a file.toml'`" in runner.invoke(main, ["init", "a file.toml"]).output


# --- env


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A confdir with a certificate that stands for mitmproxy's."""
    folder = tmp_path / "conf"
    folder.mkdir()
    (folder / trust.CA_FILE).write_bytes(trust.to_pem([b"the CA"]))
    return folder


def test_env_for_every_shell(runner: CliRunner, monkeypatch: pytest.MonkeyPatch, conf: Path) -> None:
    """What is printed sets, in a real sh, just what the JSON says, whatever is in it; the other shells quote it too."""
    monkeypatch.setenv("NO_PROXY", "it's.example, *.b")
    arguments = ["env", "--port", "9", "--confdir", str(conf)]
    found = json.loads(runner.invoke(main, [*arguments, "--shell", "json"]).stdout)
    assert found["HTTPS_PROXY"] == found["http_proxy"] == "http://127.0.0.1:9"
    assert found["NO_PROXY"] == "it's.example,*.b,localhost,127.0.0.1,::1"
    assert b"the CA" in trust.certificates(Path(found["SSL_CERT_FILE"]).read_bytes())
    script = runner.invoke(main, arguments).stdout + "env -0"
    said = subprocess.run(["sh", "-c", script], capture_output=True, check=True, env={"PATH": os.environ["PATH"]})
    lines = dict(line.split("=", 1) for line in said.stdout.decode().split("\0") if line)
    assert {k: lines[k] for k in found} == found
    assert "set -gx NO_PROXY 'it\\'s.example" in runner.invoke(main, [*arguments, "--shell", "fish"]).stdout
    assert "$env:NO_PROXY = 'it''s.example" in runner.invoke(main, [*arguments, "--shell", "powershell"]).stdout


@pytest.mark.parametrize("port", ["0", "-1", "65536", "http"])
def test_env_for_a_port_that_is_none(port: str, runner: CliRunner, conf: Path) -> None:
    result = runner.invoke(main, ["env", "--confdir", str(conf), "--port", port])
    assert (result.exit_code, result.stdout) == (2, "")


def test_env_twice_is_as_once(runner: CliRunner, monkeypatch: pytest.MonkeyPatch, conf: Path) -> None:
    """A shell that was set up already can be set up again: nothing piles up."""
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Dmine='a b' -Dhttps.proxyPort=1")
    arguments = ["env", "--confdir", str(conf), "--shell", "json"]
    first = json.loads(runner.invoke(main, arguments).stdout)
    if can_write_java_stores():
        assert first["JAVA_TOOL_OPTIONS"].startswith("-Dmine='a b' -Dhttp.proxyHost=")
    for name, value in first.items():
        monkeypatch.setenv(name, value)
    assert json.loads(runner.invoke(main, arguments).stdout) == first


@pytest.mark.parametrize(
    ("shell", "line"), [("sh", "unset {}"), ("fish", "set -e {}"), ("powershell", "Remove-Item Env:{}")]
)
def test_env_is_undone(shell: str, line: str, runner: CliRunner, monkeypatch: pytest.MonkeyPatch, conf: Path) -> None:
    """What a shell has from it is taken away, and nothing that the user has set since."""
    options = ["env", "--confdir", str(conf), "--port", "8123"]
    given = json.loads(runner.invoke(main, [*options, "--shell", "json"]).stdout)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PIP_CERT", "mine.pem")
    undone = runner.invoke(main, [*options, "--shell", shell, "--unset"]).stdout.splitlines()
    assert line.format("HTTPS_PROXY") in undone
    assert line.format("SSL_CERT_FILE") in undone
    assert line.format("PIP_CERT") not in undone
    names = [n for n in given if n != "PIP_CERT" and (shell != "powershell" or n.isupper())]
    assert sorted(undone) == sorted(map(line.format, names))


def test_env_says_that_nobody_listens(runner: CliRunner, conf: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        assert runner.invoke(main, ["env", "--confdir", str(conf), "--port", port]).stderr == ""
    told = runner.invoke(main, ["env", "--confdir", str(conf), "--port", port]).stderr
    assert told == f"note: nobody listens on port {port} yet, and until then programs reach nothing\n"


def test_env_without_a_ca(runner: CliRunner, tmp_path: Path) -> None:
    """It says where it looked and how to make one; on demand it makes one."""
    arguments = ["env", "--confdir", str(tmp_path / "new")]
    result = runner.invoke(main, arguments)
    assert result.exit_code == 1
    assert "mitmproxy-ca-cert.pem, found none" in result.output
    assert "--create-ca" in result.output
    assert runner.invoke(main, [*arguments, "--create-ca"]).exit_code == 0
    assert runner.invoke(main, arguments).exit_code == 0


def test_env_where_no_ca_can_be_kept(runner: CliRunner, tmp_path: Path) -> None:
    """It says in a line what is wrong and what to do."""
    (tmp_path / "file").touch()
    result = runner.invoke(main, ["env", "--confdir", str(tmp_path / "file" / "conf"), "--create-ca"])
    assert result.exit_code == 1
    [line] = result.output.splitlines()
    assert line.startswith(f"Error: mitmproxy's CA cannot be kept in {tmp_path / 'file' / 'conf'}: ")
    assert line.endswith("; --confdir names another folder")


def test_files_of_a_user_without_a_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, conf: Path) -> None:
    """They are kept among the temporary ones, in a folder that is the user's alone, and written once; a folder of that
    name that others may write to is not used."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for mode in (None, 0o777):
        temporary = tmp_path / f"tmp {mode}"
        temporary.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        folder = temporary / f"sidestep-{os.getuid()}"
        if mode is not None:
            folder.mkdir()
            folder.chmod(mode)
        first, second = (trust.prepare(conf, {}).bundle for _ in range(2))
        assert first.read_bytes() == second.read_bytes()
        assert first.parent.stat().st_mode & 0o777 == 0o700
        assert (first == second, first.parent == folder) == (mode is None, mode is None)


def test_a_bundle_keeps_what_was_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, conf: Path) -> None:
    """The CA, the user's own of every variable, the system's and certifi's, each once; another set is another file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "hashed"
    folder.mkdir()
    (folder / "0a1b.0").write_bytes(trust.to_pem([b"of a folder"]))
    own = {"SSL_CERT_DIR": str(folder)}
    for name in trust.BUNDLE_VARIABLES:
        (tmp_path / name).write_bytes(trust.to_pem([name.encode(), b"of all"]))
        own[name] = str(tmp_path / name)
    found = trust.certificates(trust.prepare(conf, own).bundle.read_bytes())
    assert len(found) == len(set(found)) > 100
    assert found[0] == b"the CA"
    assert {name.encode() for name in trust.BUNDLE_VARIABLES} | {b"of all", b"of a folder"} < set(found)
    assert trust.prepare(conf, own) == trust.prepare(conf, own) != trust.prepare(conf, {})
    upstream = trust.upstream_roots(conf, own)
    assert upstream is not None
    assert set(trust.certificates(upstream.read_bytes())) == set(found) - {b"the CA"}


@pytest.mark.parametrize(
    ("env", "url", "auth"),
    [
        ({}, None, None),
        ({"HTTP_PROXY": "http://only-plain"}, None, None),
        ({"https_proxy": "http://corp:3128"}, "http://corp:3128", None),
        ({"HTTPS_PROXY": "corp:3128"}, "http://corp:3128", None),
        ({"ALL_PROXY": "https://corp"}, "https://corp:443", None),
        ({"HTTPS_PROXY": "http://a%40b:p%3Aw@[::1]:8/"}, "http://[::1]:8", "a@b:p:w"),
    ],
)
def test_the_users_own_proxy(env: dict[str, str], url: str | None, auth: str | None) -> None:
    """It stays in front; its password is apart from its URL, and not in what a repr shows."""
    found = environment.upstream(env)
    assert (found and found.url, found and found.auth) == (url, auth)
    assert auth is None or auth not in repr(found)


@pytest.mark.parametrize(
    ("users", "host", "port", "direct"),
    [
        ("", "api.openai.com", 443, False),
        ("", "localhost", 80, True),
        ("", "127.8.0.1", 80, True),
        ("", "::1", 80, True),
        ("*", "api.openai.com", 443, True),
        ("a.test, corp.example", "LLM.corp.example", 443, True),
        (".corp.example", "corp.example", 443, True),
        ("*.corp.example", "llm.corp.example", 443, True),
        ("corp.example", "notcorp.example", 443, False),
        ("corp.example:8080", "corp.example", 8080, True),
        ("corp.example:8080", "corp.example", 443, False),
        ("10.0.0.0/8", "10.1.2.3", 80, True),
        ("10.0.0.0/8", "11.1.2.3", 80, False),
        ("10.0.0.0/99, 10.1.2.3", "10.1.2.3", 80, True),
        ("2.3", "10.1.2.3", 80, False),
        ("fe80::1", "fe80::1", 80, True),
        ("[fe80::1]:81", "fe80::1", 80, False),
        (", ,", "a.test", 80, False),
    ],
)
def test_who_is_reached_without_the_users_proxy(users: str, host: str, port: int, direct: bool) -> None:
    """This machine always, and whom NO_PROXY names, as curl, Go and Python read it."""
    assert no_proxy.is_direct(users, host, port) is direct


def test_intercepted_loopback_hosts_are_not_passed_by() -> None:
    assert no_proxy.no_proxy({"no_proxy": "a.b"}, {"127.0.0.1"}) == ["a.b", "localhost", "::1"]


# --- trust


def test_trust_tells_what_a_file_reaches_and_ends_with_revoke(runner: CliRunner) -> None:
    Path("sidestep.toml").write_text(GOOD)
    before = runner.invoke(main, ["check"])
    assert "sidestep trust" in before.output
    result = runner.invoke(main, ["trust"])
    assert result.exit_code == 0
    first, *reached = result.output.splitlines()
    assert first.endswith("sidestep.toml is trusted with:")
    assert any("p.test" in line for line in reached)
    assert any("KEY_OF_P" in line for line in reached)
    assert "sk-very-secret" not in result.output
    assert "note:" not in runner.invoke(main, ["check"]).output
    assert "is not trusted any more" in runner.invoke(main, ["trust", "--revoke"]).output
    assert "was not trusted" in runner.invoke(main, ["trust", "--revoke"]).output
    assert "sidestep trust" in runner.invoke(main, ["check"]).output


def test_trust_of_a_folder_is_of_its_file(runner: CliRunner) -> None:
    Path("folder").mkdir()
    Path("folder/sidestep.toml").write_text(GOOD)
    result = runner.invoke(main, ["trust", "folder"])
    assert (result.exit_code, "folder/sidestep.toml is trusted with:" in result.output) == (0, True)


def test_trust_of_another_name_says_where_it_is_used(runner: CliRunner) -> None:
    Path("mine.toml").write_text(GOOD)
    Path("mine.toml").chmod(0o666)
    output = runner.invoke(main, ["trust", "mine.toml"]).output
    assert "in a folder only sidestep.toml is looked for" in output
    assert "others may write it" in output


@pytest.mark.parametrize(("text", "told"), [("no = [toml", "TOML"), (None, "found nothing there")])
def test_what_cannot_be_trusted(text: str | None, told: str, runner: CliRunner) -> None:
    if text is not None:
        Path("sidestep.toml").write_text(text)
    result = runner.invoke(main, ["trust"])
    assert result.exit_code == 1
    assert told in result.output


def test_who_has_seen_enough_ends_it_without_a_word(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(asking, "find", interrupted)
    result = runner.invoke(main, ["tail"])
    assert (result.exit_code, result.output) == (130, "\n")


def test_trust_that_cannot_be_kept_is_told(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    Path("sidestep.toml").write_text(GOOD)
    monkeypatch.setattr(trusting, "trust", fails)
    result = runner.invoke(main, ["trust"])
    assert (result.exit_code, "could not be trusted: Permission denied" in result.output) == (1, True)
    Path("sidestep.toml").unlink()
    result = runner.invoke(main, ["init"])
    assert result.exit_code == 0
    assert "it could not be trusted, so name it with --config: Permission denied" in result.output
