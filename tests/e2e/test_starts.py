"""What keeps a proxy or a command from working is met, or told with its cure."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme

from support.calls import Client
from support.provider import Provider
from support.proxy import ROOT, Mitmdump, by_hand, clean_env
from support.settings import config

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]
APP = {"openai": "http://app.test/v1"}


@pytest.fixture(scope="module")
def private() -> trustme.CA:
    """A CA that no list of roots holds."""
    return trustme.CA()


@pytest.mark.parametrize(("option", "name"), [(False, "a"), (True, None)])
def test_a_private_ca_is_trusted(
    option: bool, name: str | None, provider: Make, stack: ExitStack, tmp_path: Path, private: trustme.CA
) -> None:
    """`sidestep dump` trusts what SSL_CERT_FILE names, unless mitmproxy's own option says what."""
    private.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    private.issue_cert("127.0.0.1").configure_cert(server)
    text = config("chat", provider("a", tls=server), attempts={"backoff_seconds": 0.01}).replace(
        "https://api.openai.com/v1", APP["openai"]
    )
    options = ("--set", f"ssl_verify_upstream_trusted_ca={trustme_other(tmp_path)}") if option else ()
    m = stack.enter_context(by_hand("dump", tmp_path / "m", text, *options, SSL_CERT_FILE=str(tmp_path / "ca.pem")))
    m.wait_for_log("calls to http://app.test/v1 may go to a")
    with Client(m, APP) as app:
        assert app.call("chat", stream=False).provider == name


def trustme_other(folder: Path) -> Path:
    trustme.CA().cert_pem.write_to_path(str(folder / "other.pem"))
    return folder / "other.pem"


def test_hosts_that_mitmproxy_leaves_out_are_told(provider: Make, stack: ExitStack, tmp_path: Path) -> None:
    """By which option, wherever its user has set it."""
    with Mitmdump(tmp_path / "m", config("chat", provider("a")), "--set", "ignore_hosts=openai") as m:
        m.wait_for_log("mitmproxy's option ignore_hosts leaves out api.openai.com: what goes there passes unopened")


def shell(*arguments: str, closed: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", "-c", f'exec "$0" -m sidestep "$@" {closed}', sys.executable, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=clean_env(PYTHONPATH=str(ROOT / "addon"), **env), timeout=60
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("arguments", ["providers", "explain https://api.openai.com/v1/responses", "script"])
def test_output_that_nobody_takes(arguments: str, closed: str) -> None:
    told = shell(*arguments.split(), closed=closed)
    assert (told.returncode, told.stderr) == (0, "")


@pytest.mark.skipif(
    sys.platform != "linux" or os.getuid() != 0, reason="a home that cannot be written: as root, by unshare"
)
def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    """`sidestep run` keeps its CA elsewhere and says where; `sidestep dump` says what to do."""
    home = tmp_path / "home"
    home.mkdir()
    script = f"""
        mount -t tmpfs -o ro none {home} || exit 77
        "$0" -m sidestep run -- sh -c 'test -s "$SSL_CERT_FILE" && exit 3'
        echo "run $?"
        "$0" -m sidestep dump
        echo "dump $?"
    """
    env = clean_env(PYTHONPATH=str(ROOT / "addon"), HOME=str(home), TMPDIR=str(tmp_path))
    command = ["unshare", "--mount", "sh", "-c", script, sys.executable]
    told = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
    if told.returncode == 77 or "unshare:" in told.stderr:
        pytest.skip("no mounts here")
    assert told.stdout.split("\n") == ["run 3", "dump 1", ""]
    assert f"cannot be kept in {home}/.mitmproxy: Read-only file system: it is kept in {tmp_path}" in told.stderr
    assert f"cannot be kept in {home}/.mitmproxy: Read-only file system; --set confdir=… names another" in told.stderr
    assert "Traceback" not in told.stderr
