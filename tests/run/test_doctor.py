"""What `sidestep doctor` finds, and the cure."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidestep import runtime
from sidestep.run import doctor, trust
from sidestep.run.doctor import Finding
from sidestep.runtime import Running


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration, and no other proxy of this user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(runtime, "running", list)


@pytest.fixture
def port() -> Iterator[int]:
    """One on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found: int = listener.getsockname()[1]
    return found


def examine(env: dict[str, str], port: int, confdir: Path) -> list[Finding]:
    return list(doctor.examine(env, port, confdir))


def about(found: list[Finding], words: str) -> Finding:
    fitting = [f for f in found if words in f.text]
    assert len(fitting) == 1, (words, [f.text for f in found])
    return fitting[0]


def test_a_machine_where_nothing_was_set_up(tmp_path: Path, free: int) -> None:
    found = examine({"PATH": ""}, free, tmp_path / "conf")
    assert about(found, "configuration: the built-in catalog").ok
    assert about(found, "nothing can stand in for").ok is None
    assert about(found, "mitmproxy has no CA").cure.startswith("its first start makes it")
    assert about(found, "sends nothing through a proxy").ok is None
    assert about(found, f"port {free} is free").ok
    assert [f for f in found if f.ok is False] == []


def test_keys_that_are_set_are_named_and_never_shown(tmp_path: Path, free: int) -> None:
    found = examine({"GROQ_API_KEY": "gsk-CANARY", "PATH": ""}, free, tmp_path)
    assert about(found, "GROQ_API_KEY is set").ok
    assert about(found, "openai calls may go to openai, groq").ok
    assert "CANARY" not in str(found)


def test_problems_of_a_configuration_are_told(tmp_path: Path, free: int) -> None:
    path = tmp_path / "config" / "sidestep" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text("mode = 5\n")
    assert about(examine({"PATH": ""}, free, tmp_path), "the configuration has problems").ok is False


def test_bundles_are_looked_into(tmp_path: Path, free: int) -> None:
    ca = trust.ca_file(tmp_path)
    ca.write_text("-----ours-----\n")
    good, bad = tmp_path / "good.pem", tmp_path / "bad.pem"
    good.write_text("-----other-----\n-----ours-----\n")
    bad.write_text("-----other-----\n")
    env = {"SSL_CERT_FILE": str(good), "REQUESTS_CA_BUNDLE": str(bad), "CURL_CA_BUNDLE": "/not/there.pem", "PATH": ""}
    found = examine(env, free, tmp_path)
    assert about(found, "mitmproxy's CA").ok
    assert about(found, "good.pem holds it (SSL_CERT_FILE)").ok
    assert about(found, "does not hold it (REQUESTS_CA_BUNDLE)").ok is None
    unreadable = about(found, "/not/there.pem cannot be read")
    assert (unreadable.ok, "unset CURL_CA_BUNDLE" in unreadable.cure) == (False, True)


@pytest.mark.parametrize(
    ("url", "words", "ok"),
    [
        ("http://127.0.0.1:{free}", "where nobody listens", False),
        ("http://127.0.0.1:{port}", "has a proxy already", True),
        ("http://localhost.:{free}", "which does not answer", False),
        ("ftp://127.0.0.1:{port}", "ftp://", False),
    ],
)
def test_proxies_that_the_shell_knows(tmp_path: Path, port: int, free: int, url: str, words: str, ok: bool) -> None:
    env = {"HTTPS_PROXY": url.format(port=port, free=free), "PATH": "", "NO_PROXY": "api.openai.com"}
    found = examine(env, free, tmp_path)
    assert about(found, words).ok is ok
    assert ("NO_PROXY lets calls to api.openai.com go past" in str(found)) == ("ftp" not in url)


def test_a_proxy_of_ours_that_runs(tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{port}"
    monkeypatch.setattr(runtime, "running", lambda: [Running(1, url, "", source="my.toml")])
    found = examine({"HTTPS_PROXY": url, "PATH": ""}, port, tmp_path)
    assert about(found, f"a proxy with Sidestep runs at {url} (my.toml)").ok
    assert about(found, f"this shell's calls go through {url}").ok
    assert f"port {port}" not in str(found)


def test_a_port_that_another_has(tmp_path: Path, port: int) -> None:
    taken = about(examine({"PATH": ""}, port, tmp_path), f"another program listens on port {port}")
    assert (taken.ok, f"--listen-port {port + 1}" in taken.cure) == (False, True)


@pytest.mark.parametrize(
    ("says", "ok"),
    [("v24.1.0", True), ("v22.21.0", True), ("v22.20.0", None), ("v23.5.0", None), ("v20.9.0", None), ("huh", "none")],
)
def test_nodes_that_know_proxies(tmp_path: Path, free: int, says: str, ok: bool | str | None) -> None:
    node = tmp_path / "node"
    node.write_text(f"#!/bin/sh\necho {says}\n")
    node.chmod(0o755)
    found = [f.ok for f in examine({"PATH": str(tmp_path)}, free, tmp_path) if "Node.js" in f.text]
    assert found == ([] if ok == "none" else [ok])


@pytest.mark.parametrize(("line", "told"), [("ignore_hosts: ['x']", True), ("ignore_hosts: []", False), ("", False)])
def test_mitmproxys_own_options_that_leave_hosts_out(tmp_path: Path, free: int, line: str, told: bool) -> None:
    (trust.folder_of(tmp_path) / "config.yaml").write_text(line + "\n")
    assert ("sets ignore_hosts" in str(examine({"PATH": ""}, free, tmp_path))) is told


@pytest.mark.parametrize(
    ("version", "old"),
    [("v20.19.5", True), ("v22.20.0", True), ("v22.21.0", False), ("v23.9.0", True), ("v24.0.0", False), ("?", False)],
)
def test_a_node_that_takes_no_proxy(version: str, old: bool, tmp_path: Path) -> None:
    """Whether it is the program itself, or what a script names in its first line."""
    (tmp_path / "bin").mkdir()
    texts = {
        "bin/node": f"#!/bin/sh\necho {version}\n",
        "tool": "#!/usr/bin/env node\n",
        "other": "#!/bin/sh\n# node\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path / 'bin'}:/bin:/usr/bin"}
    told = version if old else ""
    assert [doctor.old_node_of(str(tmp_path / name), env) for name in texts] == [told, told, ""]
    assert doctor.old_node_of(str(tmp_path / "tool"), {"PATH": str(tmp_path)}) == ""
    assert doctor.old_node_of(str(tmp_path / "none"), env) == ""
