"""What a configuration reaches, and which edits reach more."""

from __future__ import annotations

import os
from hashlib import sha256

import pytest

from sidestep.config.problems import ConfigError
from sidestep.config.reach import in_words, reach

BASE = """
[[providers]]
name = "openai"
[[providers]]
name = "east"
dialect = "openai"
base_url = "https://east.test/v1?api-version=1"
api_key = "${EAST_KEY}"
headers = { "X-Team" = "${TEAM} blue" }
[[providers]]
name = "groq"
[[providers]]
name = "west"
dialect = "openai"
base_url = "https://west.test/v1"
auth = "none"
"""
CALLS = "https://api.openai.com/v1"


def header(name: str, value: str) -> str:
    return f"the header {name}?{sha256(value.encode()).hexdigest()}"


REACHED = {
    f"{CALLS} → https://api.openai.com/v1",
    f"{CALLS} → https://east.test/v1?api-version=1",
    f"{CALLS} → https://api.groq.com/openai/v1",
    f"{CALLS} → https://west.test/v1",
    "${EAST_KEY} → https://east.test/v1?api-version=1",
    "${TEAM} → https://east.test/v1?api-version=1",
    f"{header('X-Team', '${TEAM} blue')} → https://east.test/v1?api-version=1",
    "${GROQ_API_KEY} → https://api.groq.com/openai/v1",
}


def test_all_that_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where calls go and which variables go along, whatever is in the environment, of which nothing is read."""
    for environment in ({}, {"EAST_KEY": "a-secret", "GROQ_API_KEY": "a-secret", "TEAM": "t"}):
        monkeypatch.setattr(os, "environ", environment)
        assert reach(BASE, "f") == REACHED
    shown = [in_words(r) for r in REACHED]
    assert "api-version" not in str(shown), "a query is not shown"
    assert "the header X-Team → https://east.test/v1" in shown, "nor what stands for a header's value"


def test_servers_of_this_machine_are_reached_by_calls_of_their_own_dialect() -> None:
    """Each in the dialect of the route."""
    for name, calls, path in (("openai", CALLS, "/v1"), ("anthropic", "https://api.anthropic.com", "")):
        found = reach(f'local = true\n[[providers]]\nname = "{name}"\n', "f")
        here = {f"{calls} → http://localhost:{port}{path}" for port in (11434, 1234, 8080, 8000)}
        assert {r for r in found if "localhost" in r} == here


def edited(old: str, new: str) -> set[str]:
    """What an edit reaches beyond what was reached before."""
    assert old in BASE
    return set(reach(BASE.replace(old, new, 1), "f") - REACHED)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\n[[providers]]", '\nmode = "observe"\n[[providers]]'),
        ('"west"', '"the west"'),
        ('auth = "none"', 'auth = "none"\nmodels = { "a" = "b" }\nonly = ["a"]\ndrop_fields = ["store"]\nweight = 2'),
        ('headers = { "X-Team" = "${TEAM} blue" }', ""),
        ("\n[[providers]]", "\n[circuit]\nopen_seconds = 5\n[timeouts]\nidle = 5\n[[providers]]"),
        (
            "\n[[providers]]",
            '\n[[routes]]\nintercept = ["https://api.openai.com/v1/"]\nproviders = ["openai", "west"]\n[[providers]]',
        ),
        ('api_key = "${EAST_KEY}"', 'api_key = "${TEAM}"'),
    ],
)
def test_an_edit_that_reaches_nothing_new(old: str, new: str) -> None:
    """How calls are treated, and where they no longer go, is nobody's harm."""
    assert edited(old, new) == set()


EAST = "https://east.test/v1?api-version=1"
MORE = [
    # Another host, another port, another scheme, another tenant of a host that serves many, by path or query.
    ("https://west.test", "https://evil.test", [f"{CALLS} → https://evil.test/v1"]),
    ("https://west.test", "https://west.test:8443", [f"{CALLS} → https://west.test:8443/v1"]),
    ("https://west.test", "http://west.test", [f"{CALLS} → http://west.test/v1"]),
    ("https://west.test/v1", "https://west.test/evil/v1", [f"{CALLS} → https://west.test/evil/v1"]),
    ("https://west.test/v1", "https://west.test/v1?to=evil", [f"{CALLS} → https://west.test/v1?to=evil"]),
    # A variable more, also one that only the catalog names, and one to where it did not go.
    ("${TEAM} blue", "${TEAM} ${HOME}", [f"${{HOME}} → {EAST}", f"{header('X-Team', '${TEAM} ${HOME}')} → {EAST}"]),
    ('auth = "none"', 'api_key = "${TEAM}"', ["${TEAM} → https://west.test/v1"]),
    (
        'name = "groq"',
        'name = "groq"\nheaders = { X = "${EAST_KEY}" }',
        [
            "${EAST_KEY} → https://api.groq.com/openai/v1",
            f"{header('X', '${EAST_KEY}')} → https://api.groq.com/openai/v1",
        ],
    ),
    (
        'name = "groq"',
        'name = "groq"\nbase_url = "https://evil.test/v1"',
        ["${GROQ_API_KEY} → https://evil.test/v1", f"{CALLS} → https://evil.test/v1"],
    ),
    # What tells a relay where calls go on to, or to whom they are shown.
    (
        'auth = "none"',
        'auth = "none"\nheaders = { "Target-URL" = "https://evil.test" }',
        [f"{header('Target-URL', 'https://evil.test')} → https://west.test/v1"],
    ),
    ("${TEAM} blue", "${TEAM} red", [f"{header('X-Team', '${TEAM} red')} → {EAST}"]),
    # Whose key it is, the calls can be read there.
    ("${EAST_KEY}", "sk-evil", [f"a key written in the file → {EAST}"]),
    ('name = "openai"', 'name = "openai"\napi_key = "sk-evil"', [f"a key written in the file → {CALLS}"]),
    # Calls that were none of its business, other people's calls, and a provider of no route, which can be probed.
    (
        "\n[[pro",
        '\n[[routes]]\nintercept = ["https://llm.corp.test/v1"]\nproviders = ["west"]\n'
        f'[[routes]]\nintercept = ["{CALLS}"]\nproviders = ["openai"]\n[[pro',
        ["https://llm.corp.test/v1 → https://west.test/v1"],
    ),
    ("\n[[pro", '\nproxy = { allow_clients = ["0.0.0.0/0"] }\n[[pro', ["0.0.0.0/0 → the providers' keys"]),
    ("\n[[pro", '\nproxy = { hosts = ["evil.test"] }\n[[pro', ["evil.test → the providers' keys"]),
    (
        "\n[[pro",
        '\nproxy = { forward_headers = ["X-Badge"], forward_parameters = ["seat"] }\n[[pro',
        ["seat → other providers than the app's own", "x-badge → other providers than the app's own"],
    ),
    (
        "\n[[pro",
        f'\n[[routes]]\nintercept = ["{CALLS}"]\nproviders = ["openai"]\n[[providers]]\nname = "x"\n'
        'dialect = "openai"\nbase_url = "https://evil.test"\napi_key = "${HOME}"\n[[pro',
        ["${HOME} → https://evil.test"],
    ),
]


@pytest.mark.parametrize(("old", "new", "reached"), MORE)
def test_an_edit_that_reaches_more(old: str, new: str, reached: list[str]) -> None:
    """Another address, a variable that goes along, a key of somebody's, other calls, other clients, web pages under a
    name, what more of the app's goes along."""
    assert sorted(edited(old, new)) == reached


def test_what_cannot_be_read() -> None:
    """It reaches nothing that could be told."""
    with pytest.raises(ConfigError):
        reach("[[providers", "f")


@pytest.mark.parametrize("name", ["ÜBER", "a b", "A", "x → y", "a\\nb"])
def test_odd_names_of_variables(name: str) -> None:
    """Each is told apart from others, in letters that every terminal has."""
    found = [r for r in reach(BASE.replace("EAST_KEY", name), "f") if r not in REACHED]
    assert len(found) == 1
    assert found[0].count(" → ") == 1
    assert found[0].isprintable()
