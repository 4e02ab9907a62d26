"""Which file is the configuration."""

from __future__ import annotations

from pathlib import Path

import platformdirs
import pytest

from sidestep.config.locating import find_config


@pytest.fixture
def users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The user's configuration folder, empty."""
    monkeypatch.setattr(platformdirs, "user_config_dir", lambda name: str(tmp_path / "user" / name))
    folder = tmp_path / "user" / "sidestep"
    folder.mkdir(parents=True)
    return folder


def test_the_order_of_the_files(users: Path, tmp_path: Path) -> None:
    """A path that was asked for, else ./sidestep.toml, else sidestep/config.toml in the user's configuration folder,
    else none."""
    here = tmp_path / "here"
    here.mkdir()
    assert find_config("", here) is None
    (users / "config.toml").touch()
    assert find_config("", here) == users / "config.toml"
    (here / "sidestep.toml").touch()
    assert find_config("", here) == here / "sidestep.toml"
    asked = tmp_path / "asked.toml"
    assert find_config(str(asked), here) == asked, "whether or not it is there: reading it says so"
