"""The README: each command can be run by `./scripts/readme`, its recipes can be read, what it names is there."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys

from ruamel.yaml import YAML

from sidestep.config import reading
from support.proxy import ROOT

TEXT = (ROOT / "README.md").read_text()


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def test_each_command_is_run() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "readme.py"), "--list"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (told.returncode, told.stderr) == (0, "")
    assert len(told.stdout.splitlines()) == sum(
        block.count("\n$ ") + block.startswith("$ ") for block in blocks("console")
    )
    assert "unknown" not in told.stdout


def test_recipes_can_be_read() -> None:
    for compose in blocks("yaml"):
        services = YAML(typ="safe").load(compose)["services"]
        assert services["app"]["environment"]["HTTPS_PROXY"] == "http://sidestep:8080"
        assert {name for service in services.values() for name in service.get("depends_on", {})} <= set(services)
    [unit] = blocks("ini")
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(unit)
    assert parser["Service"]["ExecStart"].startswith("%h/.local/bin/sidestep dump")


def test_the_proxies_of_the_recipe_find_their_store() -> None:
    """By the name and with the password that the recipe gives it."""
    [text] = re.findall(r"`\[fleet\] url = (\".*?\")`", TEXT)
    services = YAML(typ="safe").load(blocks("yaml")[-1])["services"]
    settings = reading.parse(f'[fleet]\nurl = {text}\nsecret = "0123456789abcdef"', {"FLEET_PASSWORD": "x"}).fleet
    assert settings is not None
    assert settings.place == "redis://valkey:6379/0"
    assert "FLEET_PASSWORD" in services["sidestep"]["environment"]
    assert "--requirepass ${FLEET_PASSWORD:?}" in services["valkey"]["command"]


def test_what_it_names_is_there() -> None:
    named = re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT)
    assert len(named) == 3
    assert [path for path in named if not (ROOT / path).exists()] == []
