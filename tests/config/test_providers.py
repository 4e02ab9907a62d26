"""One provider in several dialects: which endpoints it has, in which routes it stands, and with which key."""

from __future__ import annotations

import re
from typing import Any

import pytest

from sidestep.config import reading
from sidestep.config.problems import ConfigError
from sidestep.config.settings import Secret, Settings

OPENAI, CLAUDE = "https://api.openai.com/v1", "https://api.anthropic.com"
MINE = """
[[providers]]
name = "mine"
base_urls = { openai = "https://mine.example/v1", anthropic = "https://mine.example/anthropic" }
api_key = "${MINE_KEY}"
"""
HOME = """
[[providers]]
name = "home"
base_urls = { openai = "https://home.example/v1", anthropic = "https://home.example" }
"""
ENV = {"MINE_KEY": "k-mine", "DEEPSEEK_API_KEY": "k-deepseek", "ZAI_API_KEY": "k-zai"}


def named(*names: str) -> str:
    return "".join(f'[[providers]]\nname = "{name}"\n' for name in names)


def route(intercepts: list[str], *providers: str, more: str = "") -> str:
    return f"[[routes]]\nintercept = {intercepts!r}\nproviders = {list(providers)!r}\n{more}\n"


def routes(settings: Settings) -> list[tuple[str, str, list[str], list[str]]]:
    return [
        (r.name, r.dialect, [str(b) for b in r.intercepts], [f"{p.name} {p.base_url}" for p in r.providers])
        for r in settings.routes
    ]


CASES: list[tuple[str, str, list[tuple[str, str, list[str], list[str]]]]] = [
    (
        "it stands in for each dialect that has a provider of its own",
        named("openai", "anthropic", "deepseek"),
        [
            ("openai", "openai", [OPENAI], [f"openai {OPENAI}", "deepseek https://api.deepseek.com"]),
            (
                "anthropic",
                "anthropic",
                [CLAUDE],
                [f"anthropic {CLAUDE}", "deepseek https://api.deepseek.com/anthropic"],
            ),
        ],
    ),
    (
        "no dialect is routed for a stand-in's sake alone",
        named("openai", "deepseek"),
        [("openai", "openai", [OPENAI], [f"openai {OPENAI}", "deepseek https://api.deepseek.com"])],
    ),
    (
        "but one that its table names is",
        MINE,
        [
            ("openai", "openai", [OPENAI], ["mine https://mine.example/v1"]),
            ("anthropic", "anthropic", [CLAUDE], ["mine https://mine.example/anthropic"]),
        ],
    ),
    (
        "a dialect may be chosen, and a base URL is that of one dialect alone",
        '[[providers]]\nname = "deepseek"\ndialect = "anthropic"\n[[providers]]\nname = "zai"\n'
        'base_url = "https://mirror.example/v4"\n',
        [
            ("openai", "openai", [OPENAI], ["zai https://mirror.example/v4"]),
            ("anthropic", "anthropic", [CLAUDE], ["deepseek https://api.deepseek.com/anthropic"]),
        ],
    ),
    (
        "an earlier name is of one dialect",
        named("anthropic", "zai-anthropic"),
        [("anthropic", "anthropic", [CLAUDE], [f"anthropic {CLAUDE}", "zai-anthropic https://api.z.ai/api/anthropic"])],
    ),
    (
        "an intercept tells the dialect: an official one, the catalog's, the providers' own",
        MINE
        + HOME
        + named("deepseek")
        + route([CLAUDE], "mine", "deepseek")
        + route(["https://api.z.ai/api/anthropic"], "deepseek")
        + route(["https://home.example"], "home", "mine")
        + route(["https://home.example/v1"], "home", "mine"),
        [
            (
                "anthropic",
                "anthropic",
                [CLAUDE],
                ["mine https://mine.example/anthropic", "deepseek https://api.deepseek.com/anthropic"],
            ),
            (
                "anthropic-2",
                "anthropic",
                ["https://api.z.ai/api/anthropic"],
                ["deepseek https://api.deepseek.com/anthropic"],
            ),
            (
                "anthropic-3",
                "anthropic",
                ["https://home.example"],
                ["home https://home.example", "mine https://mine.example/anthropic"],
            ),
            (
                "openai",
                "openai",
                ["https://home.example/v1"],
                ["home https://home.example/v1", "mine https://mine.example/v1"],
            ),
        ],
    ),
    (
        "one that nothing tells of is of the first dialect that all speak, or of the one that the route names",
        MINE
        + route(["https://gateway.example/v1"], "mine")
        + route(["https://gateway.example"], "mine", more='dialect = "anthropic"'),
        [
            ("openai", "openai", ["https://gateway.example/v1"], ["mine https://mine.example/v1"]),
            ("anthropic", "anthropic", ["https://gateway.example"], ["mine https://mine.example/anthropic"]),
        ],
    ),
    (
        "intercepts of two dialects make two routes; one of which nothing is known goes with the first",
        named("deepseek") + route([CLAUDE, OPENAI, "https://gateway.example"], "deepseek", more='name = "all"'),
        [
            (
                "all",
                "anthropic",
                [CLAUDE, "https://gateway.example"],
                ["deepseek https://api.deepseek.com/anthropic"],
            ),
            ("all-openai", "openai", [OPENAI], ["deepseek https://api.deepseek.com"]),
        ],
    ),
    (
        "a base that is known for two dialects is of both: the call tells them apart",
        MINE.replace("https://mine.example/anthropic", "https://mine.example/v1")
        + route(["https://mine.example/v1"], "mine"),
        [
            ("openai", "openai", ["https://mine.example/v1"], ["mine https://mine.example/v1"]),
            ("anthropic", "anthropic", ["https://mine.example/v1"], ["mine https://mine.example/v1"]),
        ],
    ),
    (
        "what all speak counts: with one of one dialect there is no other",
        named("deepseek", "groq") + route(["https://gateway.example"], "deepseek", "groq"),
        [
            (
                "openai",
                "openai",
                ["https://gateway.example"],
                ["deepseek https://api.deepseek.com", "groq https://api.groq.com/openai/v1"],
            )
        ],
    ),
]


@pytest.mark.parametrize(("text", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_routes(text: str, expected: list[tuple[str, str, list[str], list[str]]]) -> None:
    """A provider serves every route whose dialect it speaks, with the endpoint of that dialect."""
    assert routes(reading.parse(text, {**ENV, "GROQ_API_KEY": "k-groq"})) == expected


def test_one_name_one_key() -> None:
    """All endpoints of a name have its key and its settings; what the catalog knows of each is its own."""
    text = named("openai", "anthropic", "zai") + 'weight = 2\ncircuit = { open_seconds = 7 }\ndrop_fields = ["store"]\n'
    settings = reading.parse(text, ENV)
    assert {n: [p.dialect for p in alike] for n, alike in settings.by_name.items()} == {
        "openai": ["openai"],
        "anthropic": ["anthropic"],
        "zai": ["openai", "anthropic"],
    }
    chat, messages = settings.by_name["zai"]
    shared = [f for f in chat.__struct_fields__ if f not in ("dialect", "base_url", "only", "issuer", "auth")]
    assert [getattr(chat, f) for f in shared] == [getattr(messages, f) for f in shared]
    assert (chat.api_key, chat.key_from, chat.weight, chat.circuit.open_seconds) == (
        Secret("k-zai"),
        "ZAI_API_KEY",
        2,
        7,
    )
    assert (chat.auth, messages.auth) == ("bearer", "bearer")
    (mine, claude) = reading.parse(MINE, ENV).providers
    assert (mine.auth, claude.auth) == ("bearer", "x-api-key")
    (mine, claude) = reading.parse(MINE + 'auth = "api-key"\nissuer = "anthropic"\n', ENV).providers
    assert (mine.auth, claude.auth, mine.issuer, claude.issuer) == ("api-key", "api-key", "anthropic", "anthropic")


def test_a_key_where_one_is_needed() -> None:
    """Where an app addresses it, its own credential stays; where another host is addressed the same provider needs a
    key, which it has in the file or by the environment."""
    text = HOME.replace('name = "home"', 'name = "deepseek"')
    text += route(["https://home.example/v1"], "deepseek") + route([CLAUDE], "deepseek")
    chat, messages = reading.parse(text, ENV).providers
    assert (chat.api_key, chat.key_from, messages.api_key) == (None, "", Secret("k-deepseek"))
    with pytest.raises(ConfigError) as caught:
        reading.parse(text, {})
    assert (
        str(caught.value)
        .removesuffix(" (line 2, deepseek)")
        .endswith(
            "providers[0].api_key: expected a key, found none: DEEPSEEK_API_KEY is not set; the app's own credential "
            f"goes only to the host that the app addressed, and calls to {CLAUDE} may reach this one"
        )
    )


def test_a_key_of_ones_own_beside_the_apps() -> None:
    """`NAME-key` is the vendor again with the key of the variable that no app sees; for all its dialects."""
    env = {"SIDESTEP_ANTHROPIC_API_KEY": "k-mine", "ANTHROPIC_API_KEY": "k-app"}
    own, keyed = reading.parse(named("anthropic", "anthropic-key"), env).routes[-1].providers
    assert (own.base_url, own.api_key) == (keyed.base_url, None)
    assert (keyed.api_key, keyed.key_from, keyed.auth) == (
        Secret("k-mine"),
        "SIDESTEP_ANTHROPIC_API_KEY",
        "x-api-key",
    )
    with pytest.raises(ConfigError) as caught:
        reading.parse(named("anthropic-key"), {"ANTHROPIC_API_KEY": "k-app"})
    assert "found none: SIDESTEP_ANTHROPIC_API_KEY is not set" in str(caught.value)


WRONG: list[tuple[str, str, list[str]]] = [
    (
        "both",
        MINE + 'base_url = "https://x.example"\n',
        ["providers[0].base_urls: expected either base_url or base_urls, found both"],
    ),
    (
        "a dialect beside them",
        MINE + 'dialect = "openai"\n',
        ["providers[0].dialect: expected none, since base_urls names the dialects, found 'openai'"],
    ),
    (
        "no dialect's",
        MINE.replace("openai =", "open-ai ="),
        ["providers[0].base_urls.open-ai: expected a known key, found 'open-ai'; did you mean 'openai'?"],
    ),
    (
        "none",
        '[[providers]]\nname = "a"\nbase_urls = {}\n',
        ["providers[0].base_urls: expected at least one base URL, found an empty table"],
    ),
    (
        "no table",
        '[[providers]]\nname = "a"\nbase_urls = "https://a.example"\n',
        ["providers[0].base_urls: expected a table of base URLs by dialect, found 'https://a.example'"],
    ),
    (
        "no URLs",
        MINE.replace('"https://mine.example/v1"', "1").replace("https://mine.example/anthropic", "mine.example"),
        [
            "providers[0].base_urls.openai: expected a string, found 1",
            "providers[0].base_urls.anthropic: expected a URL that begins with http:// or https://, found "
            "'mine.example'",
        ],
    ),
    (
        "a reference",
        MINE.replace("https://mine.example/v1", "https://${HOST}/v1"),
        [
            "providers[0].base_urls.openai: expected no ${…} here, found 'https://${HOST}/v1'; references expand in "
            "api_key and headers only"
        ],
    ),
    (
        "a dialect that the catalog does not know of it",
        '[[providers]]\nname = "deepseek"\ndialect = "gemini"\n',
        [
            "providers[0].base_url: expected a URL, since the catalog knows 'deepseek' for openai and anthropic alone, "
            "found nothing"
        ],
    ),
    (
        "a dialect that not all of a route speak",
        MINE + named("deepseek") + route([CLAUDE], "mine", "deepseek", more='dialect = "gemini"'),
        ["routes[0].dialect: expected one that all its providers speak, found 'gemini'"],
    ),
    (
        "no dialect in common",
        MINE + named("vertex") + "api_key = 'k'\n" + route([CLAUDE], "mine", "vertex"),
        ["routes[0].providers: expected providers of one dialect, found anthropic, gemini, openai"],
    ),
]


@pytest.mark.parametrize(("text", "lines"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_wrong(text: str, lines: list[str]) -> None:
    """Each mistake is reported once, with its place, what was expected and what was found."""
    with pytest.raises(ConfigError) as caught:
        reading.parse(text, ENV, "f")
    found = [re.sub(r" \(line \d+(, \w+)?\)$", "", line) for line in str(caught.value).splitlines()]
    assert found == [f"f: {line}" for line in lines]


def test_the_order_without_a_configuration() -> None:
    """The app's own credential, a key of one's own at the same vendor, the others whose keys are set."""
    env: dict[str, Any] = {
        "GROQ_API_KEY": "k",
        "DEEPSEEK_API_KEY": "k",
        "SIDESTEP_OPENAI_API_KEY": "k",
        "SIDESTEP_ANTHROPIC_API_KEY": "k",
        "SIDESTEP_GEMINI_API_KEY": "k",
        "SIDESTEP_OPENROUTER_API_KEY": "k",
        "OPENROUTER_API_KEY": "k",
    }
    found = reading.default(env)
    assert {r.name: [p.name for p in r.providers] for r in found.routes} == {
        "openai": ["openai", "openai-key", "anthropic-key", "gemini-key", "openrouter", "groq", "deepseek"],
        "anthropic": ["anthropic", "anthropic-key", "openrouter", "deepseek"],
        "gemini": ["gemini", "gemini-key"],
        "chatgpt": ["chatgpt", "openai-key", "anthropic-key", "gemini-key", "openrouter", "groq", "deepseek"],
        "code-assist": ["code-assist", "gemini-key"],
    }
    assert {p.key_from for p in found.providers if p.name == "openrouter"} == {"SIDESTEP_OPENROUTER_API_KEY"}
