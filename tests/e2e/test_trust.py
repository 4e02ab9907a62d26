"""A folder that one stands in may not choose where prompts and environment variables go."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.calls import Client
from support.provider import Provider, text_of
from support.proxy import Mitmdump, clean_env
from support.settings import route

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]
SOURCE = Path(__file__).parents[2] / "addon"
SIDESTEP = [sys.executable, "-m", "sidestep.cli"]
CANARY = "env-CANARY-0123456789"
GOES_OUT = 'headers = { "X-Theirs" = "${SOMETHING_SECRET}" }\n'


def sidestep(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The command, as somebody runs it who stands in this folder, without a terminal."""
    return subprocess.run(
        [*SIDESTEP, *arguments],
        cwd=folder,
        env=clean_env(HOME=str(folder.parent), PYTHONPATH=str(SOURCE), SOMETHING_SECRET=CANARY, **env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a proxy of `proxy` is started."""
    folder = tmp_path / "proxy"
    folder.mkdir()
    return folder


def test_a_proxy_that_is_started_in_a_folder(provider: Make, proxy: Start, folder: Path) -> None:
    """The folder's file is named, with the command that trusts it, and has no say until then; a later edit that
    reaches more has none either, while the settings that were trusted stay in force; one that does not is taken over.
    """
    own, theirs, more = provider("own"), provider("theirs"), provider("more")
    file = folder / "sidestep.toml"
    file.write_text(route("chat", theirs, intercept=own.url(), extra=GOES_OUT))
    m = proxy(None, env={"SOMETHING_SECRET": CANARY})
    m.wait_for_log(rf"{file} is not trusted, so it is not read; look at it, then: sidestep trust {file}")
    assert m.log.index("is not trusted") < m.log.index("listening at")
    assert set(m.health()["providers"]) == {"openai", "anthropic", "gemini", "chatgpt", "code-assist"}
    with Client(m, {"openai": own.url()}) as app:
        assert app.call("chat", stream=False).text == text_of("own", own.default)
        assert (own.count, theirs.count) == (1, 0)

        done = sidestep(folder, "trust")
        assert done.returncode == 0, done.stderr
        assert f"  ${{SOMETHING_SECRET}} → {theirs.url()}\n" in done.stdout
        assert f"  {own.url()} → {theirs.url()}\n" in done.stdout
        m.wait_for_log(f"configuration reloaded from {file}")
        m.wait_for_log(rf"calls to {own.url()} may go to theirs \(127\.0\.0\.1\)")
        assert app.call("chat", stream=False).text == text_of("theirs", theirs.default)
        assert theirs.requests[-1].header("x-theirs") == CANARY

        del m.lines[:]
        file.write_text(route("chat", more, theirs, intercept=own.url(), extra=GOES_OUT))
        m.wait_for_log(rf"reaches more than it is trusted with.*{more.url()}.*sidestep trust {file}")
        m.wait_for_log("the old one stays in force")
        assert app.call("chat", stream=False).text == text_of("theirs", theirs.default)

        file.write_text(f"[circuit]\nopen_seconds = 5\n{route('chat', theirs, intercept=own.url(), suffix='-2')}")
        m.wait_for_log("configuration reloaded")
        assert app.call("chat", stream=False).provider == "theirs-2"
    assert more.count == 0
    assert sidestep(folder, "trust", "--revoke").returncode == 0
    assert "theirs-2" in m.health()["providers"], "what was trusted is in force until the proxy ends"


@pytest.mark.parametrize("way", ["a file", "a link to a file that is trusted elsewhere", "one that is changed since"])
def test_run_in_a_folder(way: str, provider: Make, tmp_path: Path, folder: Path) -> None:
    """The folder's file is named before the command starts, and where calls go instead; nothing of it is read, and no
    variable goes anywhere. With `--config` it is used, and what it reaches is named as well."""
    theirs = provider("theirs")
    text = route("chat", theirs, extra=GOES_OUT)
    file = folder / "sidestep.toml"
    if way == "a file":
        file.write_text(text)
    elif way == "one that is changed since":
        file.write_text(text.replace(str(theirs.port), "9"))
        assert sidestep(folder, "trust").returncode == 0
        file.write_text(text)
    else:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "sidestep.toml").write_text(text)
        assert sidestep(tmp_path / "elsewhere", "trust").returncode == 0
        file.symlink_to(tmp_path / "elsewhere" / "sidestep.toml")
    call = ["curl", "-sS", "-m", "5", "https://api.openai.com/v1/chat/completions", "-d", '{"model": "m"}']
    conf = ["--confdir", str(tmp_path / "conf")]
    done = sidestep(folder, "run", *conf, "--", "sh", "-c", "echo started >&2; exit 3")
    assert done.returncode == 3
    untrusted, serves, started, *_ = done.stderr.splitlines()
    assert untrusted.startswith(f"sidestep: {file} ")
    assert untrusted.endswith(f"sidestep trust {file}")
    assert serves == (
        "sidestep: the built-in catalog: calls may go to "
        "api.openai.com, api.anthropic.com, generativelanguage.googleapis.com, chatgpt.com, "
        "cloudcode-pa.googleapis.com "
        "and servers of this machine that answer"
    )
    assert started == "started"
    assert theirs.count == 0
    done = sidestep(folder, "run", "--config", "sidestep.toml", *conf, "--", *call)
    assert text_of("theirs", theirs.default) in done.stdout, done.stderr
    assert done.stderr.splitlines()[0] == f"sidestep: {file}: calls may go to 127.0.0.1:{theirs.port}"
    assert theirs.requests[0].header("x-theirs") == CANARY


def test_a_probe_in_a_folder(provider: Make, folder: Path) -> None:
    """A check sends no key to where an untrusted file says; it tells what would be used in its place."""
    theirs = provider("theirs")
    (folder / "sidestep.toml").write_text(route("chat", theirs, extra=GOES_OUT))
    done = sidestep(folder, "check", "--probe", "--json", GROQ_API_KEY="")
    assert json.loads(done.stdout)["source"] == "the built-in catalog"
    assert "is not trusted, so it is not read" in done.stderr
    assert theirs.count == 0
    done = sidestep(folder, "explain", "https://api.openai.com/v1/chat/completions", "--json")
    assert [p["name"] for p in json.loads(done.stdout)["providers"]] == ["openai"]
    assert "is not trusted" in done.stderr


def test_what_init_writes_is_trusted(folder: Path) -> None:
    """By whoever has it written; a link that the folder has put in its place is not written through."""
    done = sidestep(folder, "init", GROQ_API_KEY="gsk-secret")
    assert done.returncode == 0
    check = sidestep(folder, "check", "--json", GROQ_API_KEY="gsk-secret")
    assert json.loads(check.stdout)["source"] == str(folder / "sidestep.toml")
    assert check.stderr == ""
    precious = folder / "precious"
    precious.write_text("precious")
    (folder / "sidestep.toml").unlink()
    (folder / "sidestep.toml").symlink_to(precious)
    assert sidestep(folder, "init", "--force").returncode == 1
    assert precious.read_text() == "precious"


def test_what_cannot_be_trusted(folder: Path) -> None:
    """A file that is not there, one that cannot be read: the problem is told, and nothing is recorded."""
    done = sidestep(folder, "trust")
    assert (done.returncode, done.stderr) == (
        1,
        "Error: sidestep.toml: expected a file, found nothing there; `sidestep init` writes one\n",
    )
    (folder / "sidestep.toml").write_text('mode = "no"')
    done = sidestep(folder, "trust", ".")
    assert done.returncode == 1
    assert "mode: expected one of enforce" in done.stderr
    (folder / "sidestep.toml").write_text("")
    (folder / "file").touch()
    done = sidestep(folder, "trust", XDG_STATE_HOME=str(folder / "file"))
    assert (done.returncode, done.stderr) == (1, "Error: sidestep.toml could not be trusted: Not a directory\n")
    done = sidestep(folder, "init", "--force", XDG_STATE_HOME=str(folder / "file"))
    assert (done.returncode, done.stderr) == (
        0,
        "note: it could not be trusted, so name it with --config: Not a directory\n",
    )
    assert sidestep(folder, "trust", "--revoke").stdout == "sidestep.toml was not trusted\n"


def test_what_trust_tells(folder: Path) -> None:
    """That others may write the file, and that a file of another name is not looked for."""
    file = folder / "other.toml"
    file.write_text("")
    file.chmod(0o666)
    done = sidestep(folder, "trust", "other.toml")
    assert done.returncode == 0
    assert "others may write it (its mode is 0666)" in done.stderr
    assert "only sidestep.toml is looked for" in done.stderr


def test_a_key_that_goes_out_in_the_clear_is_told_before(proxy: Start, tmp_path: Path) -> None:
    """By the addon and by `sidestep run`: whose it is and where it goes, without the key."""
    text = f'[[providers]]\nname = "far"\ndialect = "openai"\nbase_url = "http://far.test/v1"\napi_key = "{CANARY}"\n'
    told = "far: base_url: expected https, for its key goes to another machine, found 'http://far.test/v1'"
    m = proxy(text)
    m.wait_for_log(re.escape(f"sidestep: {told}"))
    (tmp_path / "far.toml").write_text(text)
    options = ["run", "--config", str(tmp_path / "far.toml"), "--confdir", str(tmp_path / "conf")]
    done = sidestep(tmp_path, *options, "--", "true")
    assert f"sidestep: {told}" in [line.partition(": whoever")[0] for line in done.stderr.splitlines()]
    assert CANARY not in m.log + done.stderr
