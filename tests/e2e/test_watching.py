"""The configuration while the proxy runs: files that come, go and change, in every place where one is looked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sidestep.config.trusting import trust
from support.provider import Provider
from support.proxy import Mitmdump
from support.settings import table
from support.waiting import until

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]
ROUTED = '[[providers]]\nname = "{0}"\ndialect = "openai"\nbase_url = "http://{0}.test/v1"\napi_key = "k"\n'


def names(m: Mitmdump) -> set[str]:
    return set(m.health()["providers"])


@pytest.mark.parametrize("way", ["removed", "its folder moved away"])
def test_a_file_that_vanishes(way: str, proxy: Start) -> None:
    """Its settings stay in force, which is said once; once it is there again it is read, and at each later change."""
    m = proxy(ROUTED.format("a"))
    away = m.folder.with_name("away")
    if way == "removed":
        m.config.unlink()
    else:
        m.folder.rename(away)
    m.wait_for_log(r"sidestep\.toml is gone; its settings stay in force, and it is looked for")
    assert names(m) == {"a"}
    if way != "removed":
        away.rename(m.folder)
    m.config.write_text(ROUTED.format("b"))
    m.wait_for_log(r"configuration reloaded from .*sidestep\.toml")
    assert names(m) == {"b"}
    del m.lines[:]
    replaced = m.config.with_suffix(".new")
    replaced.write_text(ROUTED.format("c"))
    replaced.rename(m.config)
    m.wait_for_log("configuration reloaded")
    assert names(m) == {"c"}
    assert m.log.count("is gone") == 0, "it was said again"


def test_a_file_that_appears(proxy: Start, tmp_path: Path) -> None:
    """Where one is looked for it is taken over, the folder's before the user's; from there nothing leads back to the
    catalog in silence, nor to a file that was there all along."""
    users = tmp_path / "config" / "sidestep" / "config.toml"
    m = proxy(None, env={"XDG_CONFIG_HOME": str(tmp_path / "config")})
    assert names(m) == {"openai", "anthropic", "gemini", "chatgpt", "code-assist"}
    users.parent.mkdir(parents=True)
    users.write_text(ROUTED.format("users"))
    m.wait_for_log(r"configuration reloaded from .*config\.toml")
    assert names(m) == {"users"}
    m.config.write_text(ROUTED.format("here"))
    trust(m.config, ROUTED.format("here"))
    m.wait_for_log(r"configuration reloaded from .*sidestep\.toml")
    assert names(m) == {"here"}
    m.config.unlink()
    m.wait_for_log(r"sidestep\.toml is gone")
    assert names(m) == {"here"}
    del m.lines[:]
    users.write_text(ROUTED.format("changed"))
    m.wait_for_log(r"configuration reloaded from .*config\.toml")
    assert names(m) == {"changed"}
    users.unlink()
    m.wait_for_log(r"config\.toml is gone")
    assert names(m) == {"changed"}


def test_a_link_that_is_turned(proxy: Start, tmp_path: Path) -> None:
    """As volumes of containers are brought up to date: the file itself is a link into a folder that is exchanged."""
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "f.toml").write_text(ROUTED.format(name))
    (tmp_path / "data").symlink_to("a")
    (tmp_path / "f.toml").symlink_to("data/f.toml")
    m = proxy(None, "--set", f"sidestep_config={tmp_path / 'f.toml'}")
    assert names(m) == {"a"}
    (tmp_path / "turned").symlink_to("b")
    os.replace(tmp_path / "turned", tmp_path / "data")
    m.wait_for_log("configuration reloaded")
    assert names(m) == {"b"}


def test_a_file_without_providers(proxy: Start) -> None:
    """It routes nothing, and says so."""
    m = proxy(ROUTED.format("a"))
    m.config.write_text(table("circuit", {"open_seconds": 5}))
    m.wait_for_log("no calls are routed: there are no")
    until(lambda: not names(m), "no provider")
