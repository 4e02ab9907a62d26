"""The `sidestep` command: what it validates, shows and never shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from sidestep.cli import main, script_path

GOOD = '[[providers]]\nname = "p"\ndialect = "openai"\nbase_url = "https://p.test/v1"\napi_key = "${KEY_OF_P}"\n'


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    monkeypatch.setenv("KEY_OF_P", "sk-very-secret")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    return CliRunner()


def test_check_shows_what_would_be_used(runner: CliRunner) -> None:
    """A good file: its providers, their hosts, where prompts may go, and no key."""
    Path("sidestep.toml").write_text(GOOD)
    result = runner.invoke(main, ["check"])
    assert result.exit_code == 0
    assert "no problems" in result.output
    assert "[priority, enforce]" in result.output
    data = json.loads(runner.invoke(main, ["check", "--json"]).output)
    assert data["ok"] is True
    assert data["providers"][0]["base_url"] == "https://p.test/v1"
    assert data["routes"][0]["providers"] == ["p"]
    assert "sk-very-secret" not in result.output + json.dumps(data)


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


def test_script_is_a_file_that_mitmproxy_can_load(runner: CliRunner) -> None:
    """The path that it prints holds the addon."""
    path = Path(runner.invoke(main, ["script"]).output.strip())
    assert path == script_path()
    assert "addons = [Sidestep()]" in path.read_text()
