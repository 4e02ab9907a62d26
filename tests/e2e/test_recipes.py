"""The README's recipes, as far as they go without a daemon: what is in them is run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme
from ruamel.yaml import YAML

from support.browser import free_port
from support.h2provider import server_context
from support.provider import Provider
from support.proxy import ROOT
from support.settings import key_of
from support.waiting import until

TEXT = (ROOT / "README.md").read_text()
APP = """
import json, urllib.request
body = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}).encode()
call = urllib.request.Request("https://api.openai.com/v1/chat/completions", body, {"content-type": "application/json"})
print(urllib.request.urlopen(call, timeout=20).headers["x-sidestep-provider"])
"""


def block(kind: str) -> str:
    """The first one of a kind."""
    return str(re.findall(rf"^```{kind}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)[0])


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with the `sidestep` command, as pipx puts it there."""
    command = tmp_path / "home/.local/bin/sidestep"
    command.parent.mkdir(parents=True)
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT / "addon"} exec {sys.executable} -m sidestep "$@"\n')
    command.chmod(0o755)
    (tmp_path / "run").mkdir(mode=0o700)
    return tmp_path / "home"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd")
def test_systemd_has_nothing_to_say(home: Path, tmp_path: Path) -> None:
    unit = tmp_path / "sidestep.service"
    unit.write_text(block("ini"))
    env = {"PATH": os.defpath, "HOME": str(home), "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    done = subprocess.run(["systemd-analyze", "verify", "--user", unit], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.fixture
def containers(home: Path, tmp_path: Path, stack: ExitStack) -> Iterator[tuple[str, dict[str, str]]]:
    """The proxy's container and what the app's is given: the volumes are folders, the port is a free one. Gives the
    health check and the app's environment."""
    services = YAML(typ="safe").load(block("yaml"))["services"]
    ca, port = trustme.CA(), free_port()
    a = stack.enter_context(Provider("a", server_context(ca)))
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/sidestep.toml").write_text(
        f'[[providers]]\nname = "a"\ndialect = "openai"\nbase_url = "{a.url()}"\napi_key = "{key_of("a")}"\n'
        '[proxy]\nallow_clients = ["172.16.0.0/12"]\n'
    )
    ca.cert_pem.write_to_path(str(tmp_path / "provider.pem"))
    places = {name: str(tmp_path / name.strip("/")) for name in ("/ca", "/shown", "/etc/sidestep.toml")}
    (tmp_path / "shown").mkdir()

    def here(text: str) -> str:
        for name, place in places.items():
            text = re.sub(rf"(?<=[ =]){name}(?=[ /]|$|')", place, text)
        return text.replace("sidestep dump", f"sidestep dump --listen-port {port}").replace(":8080", f":{port}")

    path = f"{home / '.local/bin'}:{Path(sys.executable).parent}:{os.defpath}"
    env = {"PATH": path, "HOME": str(home), "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    env |= {"SSL_CERT_FILE": str(tmp_path / "provider.pem")}
    with (tmp_path / "log").open("wb") as log:
        command = here(services["sidestep"]["command"])
        proxy = subprocess.Popen(["sh", "-c", f"exec {command}"], env=env, stdout=log, stderr=log)
    try:
        kind, program, option, check = services["sidestep"]["healthcheck"]["test"]
        assert (kind, program, option) == ("CMD", "python", "-c")
        app = {name: here(f" {value}".replace("//sidestep", "//127.0.0.1")).strip() for name, value in
               services["app"]["environment"].items()}  # fmt: skip
        yield here(check), app
    finally:
        proxy.terminate()
        proxy.wait(20)


def test_the_containers_work_together(containers: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    """Healthy once it serves; the app, which has the certificate alone, is answered by a provider of the file's."""
    check, env = containers

    def healthy() -> bool:
        return subprocess.run([sys.executable, "-c", check], capture_output=True).returncode == 0

    until(healthy, "it is healthy", 30)
    assert env["SSL_CERT_FILE"] == str(tmp_path / "shown/ca.pem")
    assert [p.name for p in (tmp_path / "shown").iterdir()] == ["ca.pem"], "with its key one could read all"
    done = subprocess.run([sys.executable, "-c", APP], env={"PATH": os.defpath, **env}, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("a\n", "")
