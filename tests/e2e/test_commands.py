"""The command as its own process: odd encodings, odd interpreters, no home."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sidestep.config import catalog

SOURCE = Path(__file__).parents[2] / "addon"
GOOD = '[[providers]]\nname = "p"\ndialect = "openai"\nbase_url = "https://p.test/v1"\napi_key = "${KEY_OF_P}"\n'


def test_an_odd_encoding_ends_no_command(tmp_path: Path) -> None:
    """What an encoding has no letter for is shown in some other way."""
    (tmp_path / "é.toml").write_text(GOOD)
    for arguments in (["providers"], ["check", "é.toml"], ["explain", "https://example.com/é"]):
        command = [sys.executable, "-m", "sidestep.cli", *arguments]
        env = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONIOENCODING": "ascii", "KEY_OF_P": "k"}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr


def test_mitmproxy_need_not_lie_beside_the_interpreter(tmp_path: Path) -> None:
    """`sidestep dump` starts the mitmproxy that it can import, as that names itself."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(Path(sys.executable).resolve())
    packages = Path(str(importlib.metadata.distribution("mitmproxy").locate_file(""))).resolve()
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), str(packages)])}
    command = [str(python), "-m", "sidestep.cli", "dump", "--help"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("usage: mitmdump "), done.stderr


def test_python_m_is_the_same_command(tmp_path: Path) -> None:
    """`python -m sidestep` does what `sidestep` does, and names itself as it was called."""
    command = [sys.executable, "-m", "sidestep", "providers", "--json"]
    env = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert [row["name"] for row in json.loads(done.stdout)] == list(catalog.CATALOG), done.stderr
    wrong = subprocess.run([*command[:3], "no-such"], env=env, capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stderr.split("\n")[0]) == (
        2,
        "Usage: python -m sidestep [OPTIONS] COMMAND [ARGS]...",
    )


@pytest.mark.parametrize("arguments", [["env"], ["run", "--", "true"], ["init"], ["trust"], ["check"]])
def test_without_a_home(arguments: list[str], tmp_path: Path) -> None:
    """As in a container whose user has none: a line that says so, or what needs none; never a folder named `~` that
    lies in the one that one stands in."""
    for folder in (".mitmproxy", ".config/sidestep", ".local/state/sidestep", ".cache"):
        (tmp_path / "~" / folder).mkdir(parents=True)
    (tmp_path / "~" / ".config" / "sidestep" / "config.toml").write_text("theirs = 1")
    (tmp_path / "sidestep.toml").write_text("theirs = 1" if arguments == ["check"] else "")
    homeless = "import pwd, sys\npwd.getpwuid = {}.__getitem__\nfrom sidestep.cli import main\nmain(sys.argv[1:])"
    env = {k: v for k, v in os.environ.items() if k != "HOME" and not k.startswith("XDG_")}
    done = subprocess.run(
        [sys.executable, "-c", homeless, *arguments, *(["--force"] if arguments == ["init"] else [])],
        cwd=tmp_path,
        env={**env, "PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert "Traceback" not in done.stderr
    assert "theirs" not in done.stdout + done.stderr
    assert "no home" in done.stderr
    assert done.returncode == {"check": 0, "init": 0, "run": 0}.get(arguments[0], 1)
    assert not [file for file in (tmp_path / "~").rglob("*") if file.is_file() and file.name != "config.toml"]
