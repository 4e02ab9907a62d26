from __future__ import annotations

import fnmatch

import pytest

from sidestep.config import reading
from sidestep.config.catalog import AUTH_BY_DIALECT, CATALOG, OFFICIAL, Entry, issuer_at
from sidestep.config.settings import DIALECT_NAMES, Provider
from sidestep.config.urls import BaseURL
from support.corpus import FOLDER

ENTRIES = pytest.mark.parametrize(("name", "entry"), CATALOG.items(), ids=list(CATALOG))
LOCAL = {name for name, entry in CATALOG.items() if entry.auth == "none"}


@ENTRIES
def test_entry(name: str, entry: Entry) -> None:
    """Every entry is a sound provider, encrypted or local, whose source is a page that can be opened."""
    base = BaseURL.parse(entry.base_url)
    assert str(base) == entry.base_url
    assert entry.dialect in DIALECT_NAMES
    assert entry.source.startswith("https://")
    assert base.scheme == "https" or (base.host == "localhost" and name in LOCAL)
    assert bool(entry.env) == (name not in LOCAL)
    assert entry.only != ()


@ENTRIES
def test_entry_as_a_file_would_have_it(name: str, entry: Entry) -> None:
    """What the catalog says is what a configuration file may say, and naming an entry fills in all of it."""
    models = ", ".join(f'"{glob}" = "{target}"' for glob, target in entry.models)
    only = "" if entry.only is None else f"only = {list(entry.only)!r}\n"
    key = 'api_key = "k"\n' if entry.env else ""
    written = (
        f'[[providers]]\nname = "x"\ndialect = "{entry.dialect}"\nbase_url = "{entry.base_url}"\n{key}{only}'
        f'auth = "{entry.auth or AUTH_BY_DIALECT[entry.dialect]}"\nissuer = "{entry.issuer or name}"\n'
        f"models = {{ {models} }}\n"
    )
    named = reading.parse(f'[[providers]]\nname = "{name}"\n{key}', {}).providers[0]
    spelt = reading.parse(written, {}).providers[0]
    assert {**_fields(named), "name": "x"} == _fields(spelt)


def _fields(provider: Provider) -> dict[str, object]:
    return {field: getattr(provider, field) for field in provider.__struct_fields__}


def test_official() -> None:
    """Each dialect's own provider bears its name and has its official base URL."""
    assert {dialect: CATALOG[dialect].base_url for dialect in DIALECT_NAMES} == OFFICIAL


@pytest.mark.parametrize(
    ("asked", "called"),
    [
        ("gpt-4o", "openai/gpt-4o"),
        ("gpt-5.4-mini", "openai/gpt-5.4-mini"),
        ("o1", "openai/o1"),
        ("o3-mini", "openai/o3-mini"),
        ("o4-mini", "openai/o4-mini"),
        ("chatgpt-4o-latest", "openai/chatgpt-4o-latest"),
        ("gemini-2.5-flash", "google/gemini-2.5-flash"),
        ("claude-3-haiku-20240307", "anthropic/claude-3-haiku"),
        ("claude-3-5-haiku-20241022", "anthropic/claude-3.5-haiku"),
        ("claude-3-7-sonnet-latest", "anthropic/claude-3.7-sonnet"),
        ("claude-sonnet-4-20250514", "anthropic/claude-sonnet-4"),
        ("claude-opus-4-0", "anthropic/claude-opus-4"),
        ("claude-opus-4-1-20250805", "anthropic/claude-opus-4.1"),
        ("claude-haiku-4-5-20251001", "anthropic/claude-haiku-4.5"),
        ("claude-sonnet-4-6", "anthropic/claude-sonnet-4.6"),
        ("claude-opus-4-6", "anthropic/claude-opus-4.6"),
        ("claude-opus-4-6-20260205", "anthropic/claude-opus-4.6"),
        ("claude-sonnet-5-20260401", "anthropic/claude-sonnet-5"),
        ("claude-haiku-5-5-latest", "anthropic/claude-haiku-5.5"),
        ("claude-fable-5-2", "anthropic/claude-fable-5.2"),
        ("gemini-2.0-flash", "google/gemini-2.0-flash-001"),
        ("anthropic/claude-opus-4.6", "anthropic/claude-opus-4.6"),
        ("deepseek/deepseek-r1", "deepseek/deepseek-r1"),
    ],
)
def test_openrouter_names(asked: str, called: str) -> None:
    """OpenRouter is asked for a well-known model by its own name of it."""
    provider = reading.parse('[[providers]]\nname = "openrouter"\napi_key = "k"', {}).providers[0]
    assert provider.serves(asked)
    assert provider.target_model(asked) == called


def test_openrouter_has_every_model_by_the_name_that_it_is_asked_for() -> None:
    """As recorded from the model lists of genai-prices 0.2.3 in November 2026: the maker's name, and OpenRouter's."""
    provider = reading.parse('[[providers]]\nname = "openrouter"\napi_key = "k"', {}).providers[0]
    recorded = [line.split("\t") for line in (FOLDER / "openrouter_models.tsv").read_text().splitlines()]
    assert len(recorded) > 100
    assert [(asked, provider.target_model(asked)) for asked, _ in recorded] == [(a, b) for a, b in recorded]
    assert all(provider.serves(asked) for asked, _ in recorded)


@pytest.mark.parametrize("model", ["gpt-4o", "o3-mini", "text-embedding-3-small", "whisper-1", "dall-e-3"])
def test_models_that_others_lack(model: str) -> None:
    """Who does not serve OpenAI's own models is not asked for them."""
    askable = {
        name
        for name, entry in CATALOG.items()
        if entry.dialect == "openai"
        and name not in LOCAL
        and (entry.only is None or any(fnmatch.fnmatchcase(model, glob) for glob in entry.only))
    }
    assert askable <= {"openai", "openrouter"}
    assert ("openrouter" in askable) == model.startswith(("gpt", "o3"))


@pytest.mark.parametrize("name", [n for n, e in CATALOG.items() if e.dialect == "anthropic"])
def test_who_stands_in_for_claude(name: str) -> None:
    """Claude's thinking is honoured, and Claude asked for, only where Claude is served."""
    entry = CATALOG[name]
    serves = entry.only is None or any(fnmatch.fnmatchcase("claude-opus-4-6", glob) for glob in entry.only)
    assert serves == (entry.issuer == "anthropic")


@pytest.mark.parametrize(
    ("dialect", "host", "issuer"),
    [
        ("anthropic", "api.anthropic.com", "anthropic"),
        ("anthropic", "bedrock-runtime.us-east-1.amazonaws.com", "anthropic"),
        ("anthropic", "bedrock-mantle.us-east-1.api.aws", "anthropic"),
        ("anthropic", "us-east5-aiplatform.googleapis.com", "anthropic"),
        ("anthropic", "openrouter.ai", "anthropic"),
        ("openai", "openrouter.ai", "openrouter"),
        ("anthropic", "east.services.ai.azure.com", "east.services.ai.azure.com"),
        ("openai", "east.openai.azure.com", "east.openai.azure.com"),
        ("gemini", "aiplatform.googleapis.com", "google-vertex"),
        ("gemini", "generativelanguage.googleapis.com", "google"),
        ("openai", "api.moonshot.cn", "moonshot"),
        ("anthropic", "api.deepseek.com", "deepseek"),
        ("anthropic", "llm.example", None),
    ],
)
def test_issuers(dialect: str, host: str, issuer: str | None) -> None:
    """A platform's host tells whose reasoning is honoured there; of Azure, each resource reads its own alone."""
    assert issuer_at(dialect, host) == issuer


@pytest.mark.parametrize("name", CATALOG)
def test_the_catalogs_issuers_are_those_of_their_hosts(name: str) -> None:
    """An entry and a provider of the user's own at the same host honour the same reasoning."""
    entry = CATALOG[name]
    found = issuer_at(entry.dialect, BaseURL.parse(entry.base_url).host)
    assert found in (None, entry.issuer or name)
