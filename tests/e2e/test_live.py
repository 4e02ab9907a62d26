"""A proxy that runs, looked at and steered from a shell: found by itself, or by its address."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from support.calls import Client
from support.provider import Behaviour, Provider
from support.proxy import ROOT, Mitmdump, clean_env
from support.settings import key_of, table
from support.waiting import until

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]


def settings(*providers: Provider) -> str:
    tables = [
        f'[[providers]]\nname = "{p.name}"\ndialect = "openai"\nbase_url = "{p.url()}"\napi_key = "{key_of(p.name)}"\n'
        for p in providers
    ]
    names = ", ".join(f'"{p.name}"' for p in providers)
    route = f'[[routes]]\nname = "chat"\nintercept = ["{providers[0].url()}"]\nproviders = [{names}]\n'
    limits = table("attempts", {"backoff_seconds": 0.01}) + table("circuit", {"failure_threshold": 2})
    return "\n".join([limits, *tables, route])


def shell(m: Mitmdump, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sidestep", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env(m, **more), cwd=m.folder, timeout=60)


def env(m: Mitmdump, **more: str) -> dict[str, str]:
    home = {"HOME": str(m.folder), "XDG_RUNTIME_DIR": str(m.folder / "run"), "PYTHONPATH": str(ROOT / "addon")}
    return clean_env(**{**home, "PYTHONUNBUFFERED": "1", **more})


def ask(m: Mitmdump, own: Provider, *words: str) -> list[str | None]:
    with Client(m, {"openai": own.url()}) as app:
        return [app.call("chat", stream=True, messages=[{"role": "user", "content": w}]).provider for w in words]


def test_status_and_controls(provider: Make, proxy: Start) -> None:
    """How it is in words and as JSON; a provider is held and given back, the mode is set, and each says what it did."""
    a, b = provider("a"), provider("b")
    m = proxy(settings(a, b))
    told = shell(m, "status")
    assert (told.returncode, told.stderr) == (0, "")
    assert "ok  chat calls are served by a\n" in told.stdout
    assert shell(m, "circuit", "open", "a").stdout == "a is held open: it gets no calls\n"
    assert ask(m, a, "held") == ["b"]
    told = shell(m, "status", "--url", m.url)
    assert "degraded  chat calls are served by b: a is held open by hand" in told.stdout
    assert "held open by hand: it gets no calls" in told.stdout
    picture = json.loads(shell(m, "status", "--json").stdout)
    assert (picture["status"], picture["totals"]["rerouted"], picture["calls"][0]["provider"]) == ("degraded", 1, "b")
    assert shell(m, "circuit", "auto", "a").returncode == 0
    assert shell(m, "mode", "observe").stdout == "mode observe\n"
    assert m.health()["mode"] == "observe"
    for name in ("a", "b"):
        shell(m, "circuit", "open", name)
    shell(m, "mode", "enforce")
    assert shell(m, "status").returncode == 1, "no provider takes calls"
    assert m.token not in told.stdout + json.dumps(picture)


def test_what_cannot_be_done_is_said(provider: Make, proxy: Start, tmp_path: Path) -> None:
    """No such provider, no token, no proxy there, none at all."""
    a = provider("a")
    m = proxy(settings(a))
    told = shell(m, "circuit", "open", "nobody")
    assert (told.returncode, told.stderr) == (1, "Error: expected one of a, found 'nobody'\n")
    elsewhere = {"XDG_RUNTIME_DIR": str(tmp_path)}
    told = shell(m, "circuit", "open", "a", "--url", m.url, **elsewhere)
    assert told.returncode == 1
    assert "the token of that proxy is not known here" in told.stderr
    told = shell(m, "circuit", "open", "a", "--url", m.url, "--token", "wrong", **elsewhere)
    assert "is not the one that the proxy's log tells" in told.stderr
    assert shell(m, "circuit", "open", "a", "--url", m.url, **elsewhere, SIDESTEP_TOKEN=m.token).returncode == 0
    assert "is no proxy with Sidestep" in shell(m, "status", "--url", a.origin).stderr
    assert "does not answer" in shell(m, "status", "--url", "http://127.0.0.1:1").stderr
    assert "no proxy of yours with Sidestep runs here" in shell(m, "status", **elsewhere).stderr


def test_of_several_proxies_one_has_to_be_named(provider: Make, proxy: Start, tmp_path: Path) -> None:
    a = provider("a")
    m = proxy(settings(a))
    shared = {"XDG_RUNTIME_DIR": str(m.folder / "run")}
    with Mitmdump(tmp_path / "other", settings(a), env=shared) as other:
        told = shell(m, "status")
        assert told.returncode == 1
        assert all(f"--url {each.url} " in told.stderr for each in (m, other))
    until(lambda: shell(m, "status").returncode == 0, "the other one has left nothing behind")


def test_tail_tells_calls_and_events_as_they_come(provider: Make, proxy: Start) -> None:
    a, b = provider("a"), provider("b")
    m = proxy(settings(a, b))
    command = [sys.executable, "-m", "sidestep", "tail"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env(m), cwd=m.folder) as process:
        assert process.stdout is not None
        ask(m, a, "good")
        assert "answered  chat gpt-4o → a, " in process.stdout.readline()
        a.default = Behaviour(status=503)
        ask(m, a, "bad")
        lines = [process.stdout.readline() for _ in range(3)]
        process.terminate()
    assert any("rerouted  chat gpt-4o → b, " in line and "(a: answered 503)" in line for line in lines)
    assert any("a (gpt-4o) is not asked for" in line for line in lines)


def test_doctor_names_what_is_wrong_and_the_cure(provider: Make, proxy: Start) -> None:
    """A proxy that is set and does not answer; a port that is taken; a bundle that is not there; what runs."""
    a = provider("a")
    m = proxy(settings(a))
    dead = {"HTTPS_PROXY": "http://127.0.0.1:1", "SSL_CERT_FILE": "/nowhere.pem"}
    told = shell(m, "doctor", "--port", str(a.port), "--confdir", str(m.confdir), **dead)
    assert told.returncode == 1
    assert f"a proxy with Sidestep runs at {m.url}" in told.stdout
    assert "this shell has a proxy already, http://127.0.0.1:1, which does not answer" in told.stdout
    assert f"another program listens on port {a.port}" in told.stdout
    assert "SSL_CERT_FILE: /nowhere.pem cannot be read" in told.stdout
    assert "→" in told.stdout
    fine = {"HTTPS_PROXY": m.url, "OPENAI_API_KEY": "sk-CANARY-of-the-user"}
    told = shell(m, "doctor", "--port", str(m.port), "--confdir", str(m.confdir), **fine)
    assert f"this shell's calls go through {m.url}" in told.stdout
    assert "OPENAI_API_KEY is set" in told.stdout
    assert "CANARY" not in told.stdout + told.stderr
    assert (told.returncode, "bad " in told.stdout) == (0, False), told.stdout


def test_a_proxy_that_is_killed_leaves_nothing_that_misleads(provider: Make, tmp_path: Path) -> None:
    m = Mitmdump(tmp_path / "proxy", settings(provider("a")))
    with m:
        pid = m.process.pid
        place = next(m.folder.joinpath("run").rglob(f"{pid}.json"))
        assert place.stat().st_mode & 0o077 == 0
        m._stopped = True
        os.kill(pid, 9)
        m.process.wait()
    assert place.exists()
    assert "no proxy of yours" in shell(m, "status").stderr
    assert not place.exists()
