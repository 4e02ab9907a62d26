"""Trust in a folder's file: what it is bound to, and what is not believed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import platformdirs
import pytest

from sidestep.config import trusting
from sidestep.config.problems import ConfigError
from sidestep.config.trusting import Trusted, Untrusted, judge, revoke, trust

TEXT = '[[providers]]\nname = "p"\ndialect = "openai"\nbase_url = "https://p.test/v1"\napi_key = "${KEY}"\n'
EVIL = TEXT.replace("p.test", "evil.test")


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "sidestep" / "trusted"


@pytest.fixture
def file(state: Path, tmp_path: Path) -> Path:
    path = tmp_path / "here" / "sidestep.toml"
    path.parent.mkdir()
    path.write_text(TEXT)
    return path


def test_a_file_that_nobody_trusts(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, with the command that trusts it, and is not even opened."""

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("it was opened")

    monkeypatch.setattr(Path, "open", opened)
    judged = judge(file)
    assert isinstance(judged, Untrusted)
    assert str(judged) == f"{file} is not trusted, so it is not read; look at it, then: sidestep trust {file}"


def test_trust_and_its_end(file: Path, state: Path) -> None:
    """It holds for what the file reached then, in a record of the user's alone, until it is revoked."""
    assert revoke(file) is False
    trust(file, TEXT)
    assert judge(file) == Trusted(TEXT)
    (record,) = state.iterdir()
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    file.write_text(f"[circuit]\nopen_seconds = 5\n{TEXT}")
    assert isinstance(judge(file), Trusted)
    file.write_text(EVIL)
    judged = judge(file)
    assert isinstance(judged, Untrusted)
    assert judged.reached == ("${KEY} → https://evil.test/v1", "https://api.openai.com/v1 → https://evil.test/v1")
    assert "${KEY} → https://evil.test/v1; https://api" in str(judged)
    assert str(judged).endswith(f"sidestep trust {file}")
    trust(file, EVIL)
    assert isinstance(judge(file), Trusted)
    assert revoke(file) is True
    assert list(state.iterdir()) == []
    assert isinstance(judge(file), Untrusted)


def test_what_is_trusted_is_what_was_looked_at(file: Path) -> None:
    """The text that is compared is the one that is used: whatever is put in its place meanwhile."""
    trust(file, TEXT)
    judged = judge(file)
    file.write_text(EVIL)
    assert judged == Trusted(TEXT)


def test_another_place_is_another_file(file: Path, tmp_path: Path) -> None:
    """Neither a copy nor a link to a trusted file is trusted: the folder would choose whose settings are used."""
    trust(file, TEXT)
    for name in ("copied", "linked"):
        other = tmp_path / name / "sidestep.toml"
        other.parent.mkdir()
        if name == "copied":
            other.write_text(TEXT)
        else:
            other.symlink_to(file)
        assert isinstance(judge(other), Untrusted)
    (tmp_path / "way").symlink_to(file.parent)
    assert isinstance(judge(tmp_path / "way" / "sidestep.toml"), Trusted), "another way to the same folder"


def test_a_link_that_is_turned(file: Path, tmp_path: Path) -> None:
    """A trusted place that is a link now to another file is judged by what is there."""
    trust(file, TEXT)
    (tmp_path / "evil.toml").write_text(EVIL)
    file.unlink()
    file.symlink_to(tmp_path / "evil.toml")
    assert isinstance(judge(file), Untrusted)


@pytest.mark.parametrize("text", ["[[providers", 'mode = "no"\n', "\0", "x" * 100])
def test_a_trusted_file_that_is_broken(text: str, file: Path) -> None:
    """It is a mistake to be told, not a matter of trust; nothing of it is used."""
    trust(file, TEXT)
    file.write_text(text)
    judged = judge(file)
    assert isinstance(judged, Trusted)
    assert judged.broken is not None
    file.unlink()
    file.mkdir()
    judged = judge(file)
    assert isinstance(judged, Trusted)
    assert judged.broken is not None
    with pytest.raises(ConfigError):
        trust(file, text)


UNREAD = "the record of it cannot be read"
SPOILT = {
    **dict.fromkeys(("mode", "group", "owner"), trusting._FOREIGN),
    **dict.fromkeys(("link", "folder"), f"{UNREAD}: "),
    **dict.fromkeys(("text", "json"), UNREAD),
    "place": "",
}


@pytest.mark.parametrize("spoilt", SPOILT)
def test_a_record_that_is_not_believed(spoilt: str, file: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that others could have written, or that is of another file; it is told why."""
    trust(file, TEXT)
    (record,) = state.iterdir()
    match spoilt:
        case "mode":
            record.chmod(0o602)
        case "group":
            record.chmod(0o620)
        case "owner":
            monkeypatch.setattr(os, "geteuid", lambda: record.stat().st_uid + 1)
            if record.stat().st_uid == 0:
                os.chown(record, 4711, -1)
        case "link":
            record.rename(state / "elsewhere")
            record.symlink_to(state / "elsewhere")
        case "text":
            record.write_text("\0")
        case "json":
            record.write_text('{"place": 1}')
        case "place":
            record.write_text(record.read_text().replace("here", "there"))
        case _:
            record.unlink()
            record.mkdir()
    judged = judge(file)
    assert isinstance(judged, Untrusted)
    assert not judged.reached
    assert SPOILT[spoilt] in str(judged)


def test_without_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where nothing of the user's can be kept nothing is trusted: the folder itself would hold the record."""
    monkeypatch.setattr(platformdirs, "user_state_path", lambda name: Path("state") / name)
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "sidestep.toml"
    file.write_text(TEXT)
    with pytest.raises(OSError, match="HOME is not set"):
        trust(file, TEXT)
    judged = judge(file)
    assert isinstance(judged, Untrusted)
    assert "there is no home" in str(judged)
    assert trusting.record_of(file) is None
    assert revoke(file) is False


def test_a_record_that_cannot_be_kept(file: Path, state: Path) -> None:
    """An error, and nothing half written is left."""
    trust(file, TEXT)
    (record,) = state.iterdir()
    record.unlink()
    record.mkdir()
    (record / "x").touch()
    with pytest.raises(OSError, match="irectory"):
        trust(file, TEXT)
    assert list(state.iterdir()) == [record]


def test_names_that_a_terminal_would_obey(file: Path, tmp_path: Path) -> None:
    """A folder's name is shown in letters alone, and what a shell is given means the same name."""
    folder = tmp_path / "a\x1b[2J'\n;b"
    folder.mkdir()
    words = str(judge(folder / "sidestep.toml"))
    assert words.isprintable()
    assert r"sidestep trust $'" in words
    assert r"a\x1b[2J\'\n;b/sidestep.toml'" in words
    quoted = str(judge(tmp_path / "it's; here" / "sidestep.toml"))
    assert """/it'"'"'s; here/sidestep.toml'""" in quoted


@pytest.mark.parametrize(("mode", "words"), [(0o644, ""), (0o664, ""), (0o666, "its mode is 0666")])
def test_who_else_may_write_a_file(mode: int, words: str, file: Path) -> None:
    file.chmod(mode)
    assert trusting.others_may_write(file) == words
