"""How a shell finds a proxy that runs: a file for its user alone, that is ignored once the proxy is gone."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sidestep import runtime
from sidestep.runtime import Running


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))


def gone() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_proxy_is_found_by_what_it_leaves() -> None:
    """Only its user may read that; another one replaces its own."""
    told = Running(os.getpid(), "http://127.0.0.1:8080", "secret", "here.toml", 1.0)
    path = runtime.record(told)
    assert path is not None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert runtime.running() == [told]
    assert "secret" not in repr(told)
    assert runtime.record(told) == path


def test_one_without_a_page_is_known_by_its_ports() -> None:
    """No shell can ask it; other proxies see that it is one."""
    runtime.record(Running(os.getpid(), "", "secret", ports=(8081, 8082)))
    assert runtime.running() == []
    assert runtime.ports() == {8081, 8082}


def test_what_is_left_of_proxies_that_are_gone_is_cleared_away() -> None:
    old = runtime.record(Running(gone(), "http://127.0.0.1:8080", "secret"))
    assert old is not None
    (old.parent / "odd.json").write_text("no JSON")
    assert runtime.running() == []
    assert not old.exists()


def test_nothing_is_left_where_others_may_look(tmp_path: Path) -> None:
    """Nor is anything believed that lies there, or leads elsewhere."""
    place = runtime.folder()
    assert place is not None
    place.mkdir()
    place.chmod(0o755)
    assert runtime.record(Running(os.getpid(), "http://127.0.0.1:1", "secret")) is None
    place.chmod(0o700)
    assert runtime.record(Running(os.getpid(), "http://127.0.0.1:1", "secret")) is not None
    target = tmp_path / "elsewhere.json"
    (place / f"{os.getpid()}.json").rename(target)
    (place / f"{os.getpid()}.json").symlink_to(target)
    assert runtime.running() == []
