"""Which file is the configuration."""

from __future__ import annotations

from pathlib import Path

import platformdirs
import pytest

from sidestep.config.locating import Choice, Places, choose, places, stamps
from sidestep.config.problems import ConfigError
from sidestep.config.trusting import revoke, trust

TEXT = '[[providers]]\nname = "p"\ndialect = "openai"\nbase_url = "https://p.test/v1"\napi_key = "${KEY}"\n'


@pytest.fixture
def users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The user's configuration folder, empty."""
    monkeypatch.setattr(platformdirs, "user_config_path", lambda name: tmp_path / "user" / name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "user" / "sidestep"
    folder.mkdir(parents=True)
    return folder


def test_the_order_of_the_files(users: Path, tmp_path: Path) -> None:
    """A path that was asked for, else ./sidestep.toml where it is trusted, else sidestep/config.toml in the user's
    configuration folder, else none."""
    here = tmp_path / "here"
    here.mkdir()
    assert choose(places("", here)) == Choice(None)
    (users / "config.toml").touch()
    assert choose(places("", here)) == Choice(users / "config.toml")
    file = here / "sidestep.toml"
    file.write_text(TEXT)
    chosen = choose(places("", here))
    assert (chosen.path, chosen.untrusted and chosen.untrusted.path) == (users / "config.toml", file)
    trust(file, TEXT)
    chosen = choose(places("", here))
    assert (chosen.path, chosen.untrusted) == (file, None)
    assert chosen.settings({"KEY": "k"}).providers[0].name == "p"
    assert chosen.raw()["providers"][0]["api_key"] == "${KEY}"
    asked = tmp_path / "asked.toml"
    assert choose(places(str(asked), here)) == Choice(asked), "whether or not it is there: reading it says so"
    assert places("~/x.toml") == Places(named=Path("~/x.toml").expanduser())
    revoke(file)
    (users / "config.toml").unlink()
    chosen = choose(places("", here))
    assert chosen.path is None
    assert chosen.untrusted is not None
    assert chosen.settings({}).source == "the built-in catalog"


def test_a_file_that_is_named_is_trusted(users: Path, tmp_path: Path) -> None:
    """By whoever names it; it is read each time."""
    file = tmp_path / "sidestep.toml"
    file.write_text(TEXT)
    chosen = choose(places(str(file), tmp_path))
    assert chosen.settings({"KEY": "k"}).providers[0].name == "p"
    assert chosen.raw()["providers"][0]["name"] == "p"
    file.write_text(TEXT.replace('"p"', '"q"'))
    assert chosen.settings({"KEY": "k"}).providers[0].name == "q"


def test_every_problem_of_a_trusted_file(users: Path, tmp_path: Path) -> None:
    """Also those that lie in the environment are told beside the others."""
    file = tmp_path / "sidestep.toml"
    trust(file, TEXT)
    file.write_text(f'mode = "no"\n{TEXT}')
    with pytest.raises(ConfigError) as caught:
        choose(places("", tmp_path)).settings({})
    assert [p.path for p in caught.value.problems] == ["mode", "providers[0].api_key"]
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        choose(places("", tmp_path)).settings({})


def test_without_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder of the user's that would lie in the one that one stands in is none."""
    monkeypatch.setattr(platformdirs, "user_state_path", lambda name: Path("state") / name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "sidestep").mkdir(parents=True)
    (tmp_path / "conf" / "sidestep" / "config.toml").touch()

    def raises(_: str) -> Path:
        raise RuntimeError("could not determine the home directory")

    for conf in (lambda name: Path("conf") / name, raises):
        monkeypatch.setattr(platformdirs, "user_config_path", conf)
        assert choose(places("")) == Choice(None)
        assert places("").watched == (tmp_path / "sidestep.toml",)


def test_stamps(users: Path, tmp_path: Path) -> None:
    """They tell that a file was written, replaced, came or went, also by way of a link or with its folder, and that it
    was trusted; what is no file is none."""
    here = tmp_path / "here"
    looked_for = places("", here)
    watched = looked_for.watched
    assert watched[:2] == (here / "sidestep.toml", users / "config.toml")
    assert stamps(watched) == dict.fromkeys(watched)
    here.mkdir()
    (here / "sidestep.toml").mkdir()
    assert choose(looked_for) == Choice(None)
    assert stamps(watched) == dict.fromkeys(watched)
    (here / "sidestep.toml").rmdir()
    seen = [stamps(watched)]
    for text in ("a", "bb"):
        (tmp_path / text).write_text(text)
        (here / "sidestep.toml").unlink(missing_ok=True)
        (here / "sidestep.toml").symlink_to(tmp_path / text)
        seen.append(stamps(watched))
    (tmp_path / "bb").write_text("ccc")
    seen.append(stamps(watched))
    assert len({str(s) for s in seen}) == 4
    assert seen[-1] == stamps(watched), "what does not change has the same"
    (tmp_path / "bb").unlink()
    assert stamps(watched) == seen[0]
    trust(here / "sidestep.toml", TEXT)
    assert stamps(watched) != seen[0]
