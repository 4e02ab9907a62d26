"""Which file is the configuration."""

from __future__ import annotations

from pathlib import Path

import platformdirs
import pytest

from sidestep.config.locating import find_config, found_in, places, stamps


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


def test_stamps(users: Path, tmp_path: Path) -> None:
    """They tell that a file was written, replaced, came or went, also by way of a link or with its folder; what is no
    file is none."""
    here = tmp_path / "here"
    looked_for = places("", here)
    assert looked_for == (here / "sidestep.toml", users / "config.toml")
    assert stamps(looked_for) == dict.fromkeys(looked_for)
    here.mkdir()
    (here / "sidestep.toml").mkdir()
    assert found_in(looked_for) is None
    assert stamps(looked_for) == dict.fromkeys(looked_for)
    (here / "sidestep.toml").rmdir()
    seen = [stamps(looked_for)]
    for text in ("a", "bb"):
        (tmp_path / text).write_text(text)
        (here / "sidestep.toml").unlink(missing_ok=True)
        (here / "sidestep.toml").symlink_to(tmp_path / text)
        seen.append(stamps(looked_for))
    (tmp_path / "bb").write_text("ccc")
    seen.append(stamps(looked_for))
    assert len({str(s) for s in seen}) == 4
    assert seen[-1] == stamps(looked_for), "what does not change has the same"
    (tmp_path / "bb").unlink()
    assert stamps(looked_for) == seen[0]
    assert places("~/x.toml") == (Path("~/x.toml").expanduser(),)
