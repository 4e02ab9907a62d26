"""Servers of this machine: which are looked for, and what is made of their answers."""

from __future__ import annotations

import pytest

from sidestep.config import local, reading
from sidestep.config.settings import Settings

LISTED = ("nomic-embed-text:latest", "qwen3-coder:30b", "llama3.2:latest")
OWN = '[[providers]]\nname = "openai"\n'
NAMED = OWN + '[[providers]]\nname = "ollama"\n'


def chains(settings: Settings) -> dict[str, list[str]]:
    return {r.name: [p.name for p in r.providers] for r in settings.routes}


def wanted(settings: Settings) -> list[str]:
    return [f"{p.name} {p.base_url}" for p in local.looked_for(settings)]


ALL = [
    "ollama http://localhost:11434/v1",
    "lm-studio http://localhost:1234/v1",
    "llama.cpp http://localhost:8080/v1",
    "vllm http://localhost:8000/v1",
]


@pytest.mark.parametrize(
    ("text", "looked_for"),
    [
        (None, ALL),
        ("local = true\n", ALL),
        ("local = false\n", []),
        ("", []),
        (OWN, []),
        ("local = false\n" + OWN, []),
        ("local = true\n" + OWN, ALL),
        (NAMED, ALL[:1]),
        ("local = true\n" + NAMED, ALL),
        # What the file says of models, or a key, stands.
        (NAMED + 'models = { "gpt-*" = "qwen3" }\n', []),
        (NAMED + 'api_key = "k"\n', []),
        (NAMED + 'base_url = "http://127.0.0.1:9/v1"\n', ["ollama http://127.0.0.1:9/v1"]),
    ],
)
def test_which_are_looked_for(text: str | None, looked_for: list[str]) -> None:
    """Without a file all; in a file those that it names, and with `local = true` the others as well."""
    settings = reading.default({}) if text is None else reading.parse(text, {})
    assert wanted(settings) == looked_for


def test_a_file_that_only_says_whether_local_ones_are_used() -> None:
    """It changes that, and nothing else of what holds without a file."""
    env = {"GROQ_API_KEY": "k"}
    for text, found in (("local = true", local.looked_for(reading.default(env))), ("local = false", [])):
        settings = reading.parse(text, env)
        assert chains(settings) == chains(reading.default(env))
        assert local.looked_for(settings) == found


def test_one_that_answers_is_asked_last() -> None:
    """In each dialect that is routed, after all others; one that lists none that talks is not."""
    settings = reading.default({"GROQ_API_KEY": "k"})
    found = local.with_found(settings, {"ollama": LISTED, "vllm": ["m"], "lm-studio": ["bge-m3"], "llama.cpp": []})
    assert chains(found) == {
        "openai": ["openai", "groq", "ollama", "vllm"],
        "anthropic": ["anthropic", "ollama", "vllm"],
        "gemini": ["gemini"],
        "chatgpt": ["chatgpt", "groq", "ollama", "vllm"],
        "code-assist": ["code-assist"],
    }
    assert [str(p.base_url) for p in found.by_name["ollama"]] == ["http://localhost:11434/v1", "http://localhost:11434"]
    assert local.with_found(settings, {}) == settings
    assert local.with_found(reading.parse("local = false", {}), {"ollama": LISTED}) == reading.parse(
        "local = false", {}
    )


@pytest.mark.parametrize(
    ("asked", "called"),
    [
        ("gpt-4o", "qwen3-coder:30b"),
        ("claude-opus-4-8", "qwen3-coder:30b"),
        ("codex-mini-latest", "qwen3-coder:30b"),
        ("llama3.2:latest", "llama3.2:latest"),
        ("llama3.2", "llama3.2:latest"),
        ("qwen3-coder:30b", "qwen3-coder:30b"),
        ("nomic-embed-text", "nomic-embed-text:latest"),
        # No other model gives the same numbers, nor hears or speaks.
        ("text-embedding-3-small", None),
        ("whisper-1", None),
        ("tts-1", None),
        ("qwen3-coder:480b", None),
    ],
)
@pytest.mark.parametrize("text", ["local = true", NAMED])
def test_models(text: str, asked: str, called: str | None) -> None:
    """A model that it lists keeps its name; one that talks and is not there is replaced by the first that talks."""
    provider = local.with_found(reading.parse(text, {}), {"ollama": LISTED}).by_name["ollama"][0]
    assert (provider.target_model(asked) if provider.serves(asked) else None) == called


def test_what_the_file_says_it_may_be_asked_for_stands() -> None:
    text = NAMED + 'only = ["o3*"]\n'
    (provider,) = local.with_found(reading.parse(text, {}), {"ollama": LISTED}).by_name["ollama"]
    assert (provider.only, provider.target_model("o3-mini")) == (("o3*",), "qwen3-coder:30b")


def test_what_a_server_says_has_a_range() -> None:
    """Names that no call could hold, globs and endless lists change nothing."""
    odd = ["", "a" * 300, "a*", "[ab]", "a\nb", "é", *(f"m{i}" for i in range(10_000))]
    provider = local.with_found(reading.default({}), {"vllm": odd}).by_name["vllm"][0]
    assert provider.target_model("gpt-4o") == "m0"
    assert len(provider.models) == local.MAX_MODELS + 1


def test_time_to_load_a_model() -> None:
    """It is no failure, and no reason to ask another beside it; a longer patience of the file's stands."""
    text = "local = true\n[timeouts]\nfirst_byte = 400\nidle = 5\n" + OWN
    own, *_, server = local.with_found(reading.parse(text, {}), {"ollama": LISTED}).providers
    assert (own.timeouts.first_byte, own.timeouts.idle, own.hedge.enabled) == (400, 5, True)
    assert (server.timeouts.first_byte, server.timeouts.idle, server.hedge.enabled) == (400, 300, False)
    text = NAMED + "timeouts = { first_byte = 1 }\nhedge = { enabled = true }\n"
    server = reading.parse(text, {}).providers[-1]
    assert (server.timeouts.first_byte, server.hedge.enabled) == (1, True)


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("", 11434),
        ("127.0.0.1:5000", 5000),
        ("http://127.0.0.1:5000/", 5000),
        ("0.0.0.0:5000", 5000),
        (":5000", 5000),
        ("[::1]:5000", 5000),
        ("localhost", 11434),
        # Another machine is used where it is named, and nowhere else.
        ("gpu.example:5000", 11434),
        ("https://localhost:5000", 11434),
        ("127.0.0.1:99999", 11434),
        ("127.0.0.1:0", 11434),
        ("rubbish rubbish", 11434),
    ],
)
def test_where_ollama_listens(host: str, port: int) -> None:
    settings = reading.default({"OLLAMA_HOST": host})
    assert [str(p.base_url) for p in settings.local if p.name == "ollama"] == [
        f"http://localhost:{port}/v1",
        f"http://localhost:{port}",
    ]


def test_what_is_told() -> None:
    """A line a server that answers: where, how many models it has, and which one it is asked for."""
    settings = reading.parse("local = true\n" + NAMED, {})
    found = {"ollama": LISTED, "vllm": ["m"], "lm-studio": ["bge-m3"]}
    assert local.describe(settings, found) == [
        "ollama answers at http://localhost:11434 and has 3 models: it is asked for qwen3-coder:30b where it lacks "
        "what a call asks for",
        "lm-studio answers at http://localhost:1234 and has 1 model: it is not asked, for none of its models talks",
        "vllm answers at http://localhost:8000 and has 1 model: it is asked last, for m where it lacks what a call "
        "asks for",
    ]
    assert local.describe(settings, {}) == []
