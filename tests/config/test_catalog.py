from __future__ import annotations

import fnmatch

import pytest

from sidestep.config import reading
from sidestep.config.catalog import (
    ALIASES,
    AUTH_BY_DIALECT,
    CATALOG,
    OFFICIAL,
    Entry,
    entry_of,
    issuer_at,
    variables_of,
)
from sidestep.config.settings import DIALECT_NAMES, Provider
from sidestep.config.urls import BaseURL
from support.corpus import FOLDER

ENTRIES = pytest.mark.parametrize(("name", "entry"), CATALOG.items(), ids=list(CATALOG))
ENDPOINTS = [(name, dialect) for name, entry in CATALOG.items() for dialect in entry.endpoints]
LOCAL = {name for name, entry in CATALOG.items() if entry.is_local}


@ENTRIES
def test_entry(name: str, entry: Entry) -> None:
    """Every entry is a sound provider, encrypted or local, each of whose endpoints has a page that can be opened."""
    assert {type(variable) for variable in variables_of(name, entry)} <= {str}
    assert entry.endpoints
    for dialect, endpoint in entry.endpoints.items():
        base = BaseURL.parse(endpoint.base_url)
        assert str(base) == endpoint.base_url
        assert dialect in DIALECT_NAMES
        assert endpoint.source.startswith("https://")
        assert base.scheme == "https" or (base.host == "localhost" and name in LOCAL)
        assert (endpoint.auth == "none") == (name in LOCAL)
        assert endpoint.only != ()


@pytest.mark.parametrize(("name", "dialect"), [e for e in ENDPOINTS if not CATALOG[e[0]].is_plan])
def test_entry_as_a_file_would_have_it(name: str, dialect: str) -> None:
    """What the catalog says is what a configuration file may say, and naming an entry fills in all of it."""
    entry = CATALOG[name]
    endpoint = entry.endpoints[dialect]
    models = ", ".join(f'"{glob}" = "{target}"' for glob, target in endpoint.models)
    only = "" if endpoint.only is None else f"only = {list(endpoint.only)!r}\n"
    key = 'api_key = "k"\n' if entry.env else ""
    issuer = endpoint.issuer or issuer_at(dialect, BaseURL.parse(endpoint.base_url).host) or name
    tables = "" if entry.env else "timeouts = { first_byte = 300, idle = 300 }\nhedge = { enabled = false }\n"
    written = (
        f'[[providers]]\nname = "x"\ndialect = "{dialect}"\nbase_url = "{endpoint.base_url}"\n{key}{only}'
        f'auth = "{endpoint.auth or AUTH_BY_DIALECT[dialect]}"\nissuer = "{issuer}"\nmodels = {{ {models} }}\n{tables}'
    )
    (named,) = reading.parse(f'[[providers]]\nname = "{name}"\ndialect = "{dialect}"\n{key}', {}).providers
    (spelt,) = reading.parse(written, {}).providers
    assert {**_fields(named), "name": "x"} == _fields(spelt)


def _fields(provider: Provider) -> dict[str, object]:
    return {field: getattr(provider, field) for field in provider.__struct_fields__}


def test_official() -> None:
    """Each dialect's own provider bears its name and has its official base URL; with a key of the user's own it is
    another one, at the same place."""
    assert {dialect: CATALOG[dialect].base_urls[dialect] for dialect in DIALECT_NAMES} == OFFICIAL
    assert {dialect: CATALOG[f"{dialect}-key"].base_urls[dialect] for dialect in DIALECT_NAMES} == OFFICIAL


@pytest.mark.parametrize(
    ("name", "variables"),
    [
        ("openai", ["SIDESTEP_OPENAI_API_KEY", "OPENAI_API_KEY"]),
        ("anthropic-key", ["SIDESTEP_ANTHROPIC_API_KEY"]),
        ("openrouter-anthropic", ["SIDESTEP_OPENROUTER_API_KEY", "OPENROUTER_API_KEY"]),
        ("vertex", ["SIDESTEP_VERTEX_API_KEY", "GOOGLE_VERTEX_API_KEY", "VERTEX_API_KEY"]),
        ("ollama", []),
    ],
)
def test_variables(name: str, variables: list[str]) -> None:
    """A key for Sidestep alone comes before one of the usual name; with a key of one's own there is no other."""
    entry = entry_of(name)
    assert entry is not None
    assert list(variables_of(name, entry)) == variables


@pytest.mark.parametrize("name", ALIASES)
def test_earlier_names(name: str) -> None:
    """They are still good for the one endpoint that they stood for."""
    of, dialect = ALIASES[name]
    (provider,) = reading.parse(f'[[providers]]\nname = "{name}"\napi_key = "k"\n', {}).providers
    assert (provider.name, provider.dialect, str(provider.base_url)) == (name, dialect, CATALOG[of].base_urls[dialect])


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
        *(
            (f"claude-{family}-{version.replace('.', '-')}{date}", f"anthropic/claude-{family}-{version}")
            for family in ("opus", "sonnet", "haiku", "fable", "mythos")
            for version in ("4", "4.1", "4.5", "4.6", "4.7", "4.8", "5", "5.1", "5.2", "5.5")
            for date in ("-20261101", "-latest", "" if "." in version else "-0")
        ),
        *((f"claude-3-{v}-sonnet-20250101", f"anthropic/claude-3.{v}-sonnet") for v in (5, 7)),
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
        if (endpoint := entry.endpoints.get("openai")) is not None
        and name not in LOCAL
        and not entry.is_plan
        and (endpoint.only is None or any(fnmatch.fnmatchcase(model, glob) for glob in endpoint.only))
    }
    assert askable <= {"openai", "openai-key", "openrouter"}
    assert ("openrouter" in askable) == model.startswith(("gpt", "o3"))


@pytest.mark.parametrize("name", [n for n, e in CATALOG.items() if "anthropic" in e.endpoints and n not in LOCAL])
def test_who_stands_in_for_claude(name: str) -> None:
    """Claude's thinking is honoured, and Claude asked for, only where Claude is served; of a reseller it is not known
    where that is."""
    endpoint = CATALOG[name].endpoints["anthropic"]
    serves = endpoint.only is None or any(fnmatch.fnmatchcase("claude-opus-4-6", glob) for glob in endpoint.only)
    assert serves == (endpoint.issuer == "anthropic" or name == "aihubmix")


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


@pytest.mark.parametrize(("name", "dialect"), ENDPOINTS)
def test_the_catalogs_issuers_are_those_of_their_hosts(name: str, dialect: str) -> None:
    """An entry and a provider of the user's own at the same host honour the same reasoning."""
    endpoint = CATALOG[name].endpoints[dialect]
    found = issuer_at(dialect, BaseURL.parse(endpoint.base_url).host)
    assert endpoint.issuer in (None, found)
