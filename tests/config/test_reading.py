from __future__ import annotations

import copy
import json
import os
import pickle
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broken_configs import BROKEN
from sidestep.breaker.circuit import CircuitSettings
from sidestep.config import reading
from sidestep.config.problems import ConfigError
from sidestep.config.settings import TABLES, Price, Provider, Secret, Settings
from sidestep.config.urls import BaseURL

CANARY = "sk-CANARY-0123456789"

# The contract's block, in full.
CONTRACT = """
mode = "enforce"
local = false

[[providers]]
name = "openai"
[[providers]]
name = "azure-east"
dialect = "openai"
base_url = "https://example.openai.azure.com/openai/v1"
api_key = "${AZURE_KEY}"
auth = "api-key"
models = { "gpt-4o" = "my-gpt4o" }
only = ["gpt-4o*"]
drop_fields = ["store"]
headers = { "X-Title" = "sidestep", "X-Team" = "${TEAM}" }
issuer = "anthropic"
weight = 1
price = { input = 2.5, output = 10 }
context_window = { "my-gpt4o" = 128000 }

[[routes]]
intercept = ["https://api.openai.com/v1"]
providers = ["openai", "azure-east"]
strategy = "priority"

[circuit]
failure_threshold = 3
failure_rate = 0.5
window_seconds = 60
min_requests = 20
open_seconds = 15
open_seconds_max = 300
half_open_probes = 1
probe_wait_seconds = 10
scope = "model"

[attempts]
max = 6
per_provider = 2
backoff_seconds = 0.25
wait_seconds = 3
wait_for_reset_seconds = 0
total_seconds = 600

[timeouts]
connect = 5
first_byte = 60
headers = 600
first_content = 300
idle = 60

[stream]
commit = "first_content"
hold_bytes = 10_485_760

[routing]
stick_seconds = 300
sealed = "drop"

[hedge]
enabled = true
after_seconds = 10
max_share = 0.05

[proxy]
allow_clients = []
hosts = []
forward_headers = []
forward_parameters = []
response_headers = true
tunnel_others = false
"""
ENV = {"AZURE_KEY": CANARY, "TEAM": CANARY + "-team"}


def problems(text: str, env: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        reading.parse(text, env or {}, "sidestep.toml")
    return str(caught.value)


def provider(more: str = "", env: dict[str, str] | None = None) -> Provider:
    text = '[[providers]]\nname = "p"\ndialect = "openai"\nbase_url = "https://p.example/v1"\napi_key = "k"\n'
    return reading.parse(text + more, env or {}).providers[0]


# --- what is right


def test_defaults() -> None:
    """Every value of the contract's tables is the default, and none is missing there."""
    written = reading.parse(CONTRACT, ENV)
    empty = reading.parse("", {})
    tables = (*TABLES, "proxy")
    assert [getattr(written, t) for t in tables] == [getattr(empty, t) for t in tables]
    assert (written.mode, written.routes[0].strategy) == (empty.mode, "priority")
    data = tomllib.loads(CONTRACT)
    assert {t: set(data[t]) for t in tables} == {t: set(getattr(empty, t).__struct_fields__) for t in tables}


def test_contract() -> None:
    """A provider that says everything is what it says; a name of the catalog fills in all the rest."""
    own, azure = reading.parse(CONTRACT, ENV).routes[0].providers
    assert (own.name, str(own.base_url), own.auth, own.api_key, own.issuer) == (
        "openai",
        "https://api.openai.com/v1",
        "bearer",
        None,
        "openai",
    )
    assert {f: getattr(azure, f) for f in azure.__struct_fields__ if f not in TABLES} == {
        "name": "azure-east",
        "dialect": "openai",
        "base_url": BaseURL("https", "example.openai.azure.com", 443, "/openai/v1"),
        "api_key": Secret(CANARY),
        "key_from": "AZURE_KEY",
        "auth": "api-key",
        "models": (("gpt-4o", "my-gpt4o"),),
        "only": ("gpt-4o*",),
        "drop_fields": frozenset({"store"}),
        "headers": (("X-Title", Secret("sidestep")), ("X-Team", Secret(CANARY + "-team"))),
        "issuer": "anthropic",
        "issuer_is_known": True,
        "weight": 1.0,
        "price": Price(2.5, 10),
        "context_window": {"my-gpt4o": 128000},
        "last_resort": False,
    }


def test_tables_of_a_provider() -> None:
    """A provider's own table changes what it names; the rest is the file's, and then the default."""
    text = "[providers.circuit]\nopen_seconds = 1\n[circuit]\nopen_seconds = 2\nmin_requests = 7\n"
    assert provider(text).circuit == CircuitSettings(open_seconds=1, min_requests=7)
    assert reading.parse("[circuit]\nopen_seconds = 2", {}).circuit == CircuitSettings(open_seconds=2)


@pytest.mark.parametrize(
    ("dialect", "more", "auth"),
    [
        ("openai", "", "bearer"),
        ("anthropic", "", "x-api-key"),
        ("gemini", "", "x-goog-api-key"),
        ("openai", 'auth = "Bearer"', "bearer"),
        ("openai", 'auth = "X-Key"', "X-Key"),
    ],
)
def test_auth(dialect: str, more: str, auth: str) -> None:
    """How a key is sent is the dialect's way, a scheme word, or a header's name."""
    text = f'[[providers]]\nname = "p"\ndialect = "{dialect}"\nbase_url = "https://p.example"\napi_key = "k"\n{more}'
    assert reading.parse(text, {}).providers[0].auth == auth


@pytest.mark.parametrize(
    ("models", "asked", "called"),
    [
        ('"gpt-4o" = "mine"', "gpt-4o", "mine"),
        ('"gpt-4o" = "mine"', "gpt-4o-mini", "gpt-4o-mini"),
        ('"gpt-*" = "openai/gpt-*"', "gpt-4o", "openai/gpt-4o"),
        ('"*" = "openai/*"', "gpt-4o", "openai/gpt-4o"),
        ('"*-latest" = "*"', "claude-latest", "claude"),
        ('"a-*-z" = "*"', "a-b-z", "b"),
        ('"gpt-*" = "one", "gpt-4o" = "two"', "gpt-4o", "two"),
        ('"gpt-*" = "one", "gpt-4*" = "two"', "gpt-4o", "one"),
        ('"gpt-4?" = "one"', "gpt-4o", "one"),
        ('"gpt-*-*" = "one"', "gpt-4o-mini", "one"),
        ('"gpt-*" = "one"', "GPT-4o", "GPT-4o"),
    ],
)
def test_models(models: str, asked: str, called: str) -> None:
    """An exact name counts before a glob, globs in their order, and `*` on the right is what the glob matched."""
    assert provider(f"models = {{ {models} }}").target_model(asked) == called


@pytest.mark.parametrize(
    ("only", "model", "serves"),
    [
        ("", "anything", True),
        ("", None, True),
        ('only = ["gpt-4o*"]', "gpt-4o-mini", True),
        ('only = ["gpt-4o*"]', "gpt-5", False),
        ('only = ["gpt-4o*"]', None, True),
        ('only = ["o1", "o3*"]', "o3-mini", True),
        ('only = ["o1", "o3*"]', "o1-mini", False),
    ],
)
def test_serves(only: str, model: str | None, serves: bool) -> None:
    """A provider is asked for the models in `only`, for all without it, and for a call that names none."""
    assert provider(only).serves(model) is serves


def test_models_widen_the_catalog() -> None:
    """Who says what a model is called at a provider of the catalog means it to be asked for there."""
    text = '[[providers]]\nname = "groq"\napi_key = "k"\nmodels = { "gpt-4o" = "llama-3.3-70b-versatile" }\n'
    groq = reading.parse(text, {}).providers[0]
    assert (groq.serves("gpt-4o"), groq.serves("gpt-4"), groq.serves("llama-3.3-70b-versatile")) == (True, False, True)
    assert reading.parse(text + 'only = ["llama*"]', {}).providers[0].serves("gpt-4o") is False


# --- credentials


def test_own_credential_stays() -> None:
    """A key that happens to be in the environment does not replace the app's own; one in the file does."""
    env = {"OPENAI_API_KEY": CANARY}
    text = '[[providers]]\nname = "openai"\n'
    assert reading.parse(text, env).providers[0].api_key is None
    assert reading.parse(text + 'api_key = "${OPENAI_API_KEY}"', env).providers[0].api_key == Secret(CANARY)


@pytest.mark.parametrize(
    ("name", "env", "key"),
    [
        ("groq", {"GROQ_API_KEY": " k\n"}, "k"),
        ("gemini-openai", {"GOOGLE_API_KEY": "two"}, "two"),
        ("gemini-openai", {"GEMINI_API_KEY": "one", "GOOGLE_API_KEY": "two"}, "one"),
        ("gemini-openai", {"GEMINI_API_KEY": "", "GOOGLE_API_KEY": "two"}, "two"),
    ],
)
def test_key_of_the_catalog(name: str, env: dict[str, str], key: str) -> None:
    """A provider of the catalog takes its key from the first of its variables that is set."""
    assert reading.parse(f'[[providers]]\nname = "{name}"', env).providers[0].api_key == Secret(key)


def test_own_credential_only_where_all_calls_are_addressed() -> None:
    """Where calls to another host may reach a provider, it needs a key of its own, from the environment at last."""
    text = (
        '[[providers]]\nname = "openai"\n'
        '[[routes]]\nintercept = ["https://api.openai.com/v1"]\nproviders = ["openai"]\n'
        '[[routes]]\nintercept = ["https://x.example/v1"]\nproviders = ["openai"]\n'
    )
    assert "calls to https://x.example/v1 may reach this one" in problems(text)
    assert reading.parse(text, {"OPENAI_API_KEY": "k"}).providers[0].api_key == Secret("k")


def test_local_needs_no_key_but_may_have_one() -> None:
    """A local provider of the catalog has no credential, unless it is given one."""
    text = '[[providers]]\nname = "vllm"\n'
    bare, keyed = (reading.parse(t, {}).providers[0] for t in (text, text + 'api_key = "k"'))
    assert (bare.api_key, bare.auth) == (None, "none")
    assert (keyed.api_key, keyed.auth) == (Secret("k"), "bearer")


def test_secret() -> None:
    """A secret shows itself to who asks by name only, is compared by value, and cannot be saved."""
    secret = Secret(CANARY)
    assert secret.reveal() == CANARY
    assert (repr(secret), str(secret), f"{secret}", f"{[secret]}") == ("Secret(…)",) * 3 + ("[Secret(…)]",)
    assert secret == Secret(CANARY)
    assert secret != Secret("x")
    assert secret != CANARY
    assert hash(secret) == hash(Secret(CANARY))
    assert (bool(secret), bool(Secret(""))) == (True, False)
    for save in (pickle.dumps, copy.deepcopy, json.dumps, msgspec.json.encode, msgspec.to_builtins):
        with pytest.raises(TypeError):
            save(secret)


def test_no_secret_is_shown() -> None:
    """No key or header value stands in the repr of settings, nor in what is said of where calls may go."""
    settings = reading.parse(CONTRACT, ENV)
    shown = f"{settings!r} {settings} {settings.routes[0].providers!r} {reading.describe(settings)}"
    assert "azure-east" in shown
    assert CANARY not in shown


@pytest.mark.parametrize(
    "text",
    [
        CONTRACT.replace("weight = 1", "weight = -1").replace("idle = 60", "idle = 0"),
        CONTRACT.replace("${AZURE_KEY}", "${AZURE_KEY}\\n${MISSING}"),
        CONTRACT.replace("${AZURE_KEY}", "ä${AZURE_KEY}"),
        CONTRACT.replace("${TEAM}", "ä${TEAM}"),
        CONTRACT.replace('auth = "api-key"', 'auth = "none"'),
        CONTRACT.replace("[[providers]]", "[providers]", 1).split("[[providers]]")[0] + f'api_key = "{CANARY}"',
        CONTRACT.replace("/openai/v1", f"/openai/v1?key={CANARY}"),
        CONTRACT.replace("https://example", f"https://me:{CANARY}@example"),
        CONTRACT.replace('api_key = "${AZURE_KEY}"', f'apikey = "{CANARY}"'),
        CONTRACT.replace('api_key = "${AZURE_KEY}"', f'api_key = ["{CANARY}"]'),
        CONTRACT.replace('api_key = "${AZURE_KEY}"', f"api_key = {CANARY}"),
        CONTRACT.replace('"X-Title" = "sidestep"', f'"X-Title" = ["{CANARY}"]'),
        CONTRACT.replace('"X-Title" = "sidestep"', f'"Authorization" = "{CANARY}"'),
    ],
)
def test_no_secret_in_an_error(text: str) -> None:
    """Whatever is wrong with a configuration, the error quotes neither a key nor a header's value."""
    assert text != CONTRACT
    with pytest.raises(ConfigError) as caught:
        reading.parse(text, ENV)
    assert CANARY not in f"{caught.value} {caught.value!r} {caught.value.problems!r}"


# --- what is wrong

A = '[[providers]]\nname = "a"\ndialect = "openai"\nbase_url = "https://a.example/v1"\napi_key = "sk-a"\n'
B = A.replace("a.example", "b.example").replace('"a"', '"b"')
C = A.replace('"a"', '"c"').replace("openai", "anthropic")
ROUTE = '[[routes]]\nintercept = ["https://api.openai.com/v1"]\nproviders = ["a"]\n'
NOT_YOURS = "the app's own credential goes only to the host that the app addressed"

# What is wrong, the text, and each whole line of the error after the file's name.
EXACT: list[tuple[str, str, list[str]]] = [
    (
        "no TOML",
        "\n[[providers]\n",
        ["expected TOML, found a mistake: Expected ']]' at the end of an array declaration (at line 2, column 12)"],
    ),
    ("cut TOML", "\nmode =", ["expected TOML, found a mistake: Invalid value (at the end, line 2)"]),
    ("unknown table", "[circuits]\n", ["circuits: expected a known key, found 'circuits'; did you mean 'circuit'?"]),
    (
        "unknown key",
        "[proxy]\nx = 1\n",
        [
            "proxy.x: expected a known key, found 'x'; known are allow_clients, forward_headers, "
            "forward_parameters, hosts, response_headers, tunnel_others"
        ],
    ),
    (
        "key of a provider",
        A.replace("api_key", "apikey"),
        [
            "providers[0].apikey: expected a known key, found 'apikey'; did you mean 'api_key'?",
            f'providers[0].api_key: expected a key or auth = "none", found nothing; {NOT_YOURS}, and calls '
            "to https://api.openai.com/v1 may reach this one",
        ],
    ),
    (
        "key of a route",
        A + ROUTE + 'strategie = "fastest"\n',
        ["routes[0].strategie: expected a known key, found 'strategie'; did you mean 'strategy'?"],
    ),
    (
        "text for a number",
        '[circuit]\nopen_seconds = "abc"\n',
        ["circuit.open_seconds: expected a number greater than 0, found 'abc'"],
    ),
    ("zero", "[timeouts]\nconnect = 0\n", ["timeouts.connect: expected a number greater than 0, found 0"]),
    (
        "negative",
        "[attempts]\nwait_seconds = -1\n",
        ["attempts.wait_seconds: expected a number of at least 0, found -1"],
    ),
    (
        "infinite",
        "[timeouts]\nidle = inf\n",
        ["timeouts.idle: expected a number greater than 0 and at most 31536000, found inf"],
    ),
    ("no number", "[timeouts]\nidle = nan\n", ["timeouts.idle: expected a number greater than 0, found nan"]),
    ("fraction", "[attempts]\nmax = 1.5\n", ["attempts.max: expected a whole number of at least 1, found 1.5"]),
    (
        "boolean for a number",
        "[timeouts]\nidle = true\n",
        ["timeouts.idle: expected a number greater than 0, found true"],
    ),
    (
        "number for a boolean",
        "[proxy]\nresponse_headers = 1\n",
        ["proxy.response_headers: expected true or false, found 1"],
    ),
    (
        "rate",
        "[circuit]\nfailure_rate = 50\n",
        ["circuit.failure_rate: expected a number greater than 0 and at most 1, found 50"],
    ),
    ("scope", '[circuit]\nscope = "host"\n', ["circuit.scope: expected one of 'provider', 'model', found 'host'"]),
    ("table that is none", "circuit = [3]\n", ["circuit: expected a table, found an array"]),
    ("one provider", '[providers]\nname = "a"\n', ["providers: expected tables headed [[providers]], found a table"]),
    ("provider that is none", "providers = [1]\n", ["providers[0]: expected a table headed [[providers]], found 1"]),
    (
        "table of a provider",
        A + "[providers.circuit]\nopen_seconds = -2\n",
        ["providers[0].circuit.open_seconds: expected a number greater than 0, found -2"],
    ),
    (
        "mode",
        'mode = "enforced"\n',
        ["mode: expected one of enforce, observe, off, found 'enforced'; did you mean 'enforce'?"],
    ),
    (
        "mode of a variable",
        'mode = "${M}"\n',
        ["mode: expected no ${…} here, found '${M}'; references expand in api_key and headers only"],
    ),
    (
        "name",
        A.replace('"a"', '"a:b"'),
        ["providers[0].name: expected a name of ASCII characters without commas and colons, found 'a:b'"],
    ),
    (
        "name that is empty",
        A.replace('"a"', '""'),
        ["providers[0].name: expected a name of ASCII characters without commas and colons, found ''"],
    ),
    (
        "name beside the catalog",
        '[[providers]]\nname = "opanai"\ndialect = "openai"\n',
        [
            "providers[0].base_url: expected a URL, since 'opanai' is no name of the catalog, found "
            "nothing; did you mean 'openai'?"
        ],
    ),
    (
        "no dialect",
        A.replace('dialect = "openai"\n', ""),
        ["providers[0].dialect: expected one of openai, anthropic, gemini, found nothing"],
    ),
    (
        "dialect",
        A.replace('"openai"', '"open-ai"'),
        ["providers[0].dialect: expected one of openai, anthropic, gemini, found 'open-ai'; did you mean 'openai'?"],
    ),
    ("name twice", A + A, ["providers[1].name: expected a name of its own, found 'a' twice; providers[0] has it too"]),
    (
        "no key of the catalog",
        '[[providers]]\nname = "gemini-openai"\n',
        [
            "providers[0].api_key: expected a key, found none: GEMINI_API_KEY or GOOGLE_API_KEY is not set; "
            f"{NOT_YOURS}, and calls to https://api.openai.com/v1 may reach this one"
        ],
    ),
    (
        "variable",
        A.replace("sk-a", "${NO}${NO}"),
        ["providers[0].api_key: expected the environment variable 'NO', found it unset"],
    ),
    (
        "variable in a header",
        A + 'headers = { X-Team = "${NO}" }\n',
        ["providers[0].headers.X-Team: expected the environment variable 'NO', found it unset"],
    ),
    (
        "variable without braces",
        A.replace("sk-a", "$AZURE_KEY"),
        ["providers[0].api_key: expected a key, or a reference written ${NAME}, found a $ without its braces"],
    ),
    (
        "variable elsewhere",
        A.replace("https://a.", "https://${H}."),
        [
            "providers[0].base_url: expected no ${…} here, found 'https://${H}.example/v1'; references "
            "expand in api_key and headers only"
        ],
    ),
    (
        "variables in a list",
        A + 'only = ["a", "${M}", "${N}"]\n',
        [
            "providers[0].only[1]: expected no ${…} here, found '${M}'; references expand in api_key and headers only",
            "providers[0].only[2]: expected no ${…} here, found '${N}'; references expand in api_key and headers only",
        ],
    ),
    ("empty key", A.replace("sk-a", " "), ["providers[0].api_key: expected a key, found an empty string"]),
    (
        "key in two lines",
        A.replace("sk-a", "sk\\na"),
        ["providers[0].api_key: expected a key of printable ASCII characters, found others"],
    ),
    ("key that is a number", A.replace('"sk-a"', "1"), ["providers[0].api_key: expected a string, found int"]),
    (
        "key without use",
        A + 'auth = "none"\n',
        ['providers[0].api_key: expected no key, since auth = "none", found one'],
    ),
    (
        "URL",
        A.replace("https://", ""),
        ["providers[0].base_url: expected a URL that begins with http:// or https://, found 'a.example/v1'"],
    ),
    (
        "URL that is a number",
        A.replace('"https://a.example/v1"', "1"),
        ["providers[0].base_url: expected a string, found 1"],
    ),
    (
        "URL with a query",
        A.replace("/v1", "/v1?key=hidden"),
        ["providers[0].base_url: expected a URL without a key in its query, found one after 'https://a.example/v1'"],
    ),
    (
        "auth",
        A + 'auth = "Bearer token"\n',
        ["providers[0].auth: expected bearer, none or a header name, found 'Bearer token'"],
    ),
    (
        "auth that frames",
        A + 'auth = "Host"\n',
        ["providers[0].auth: expected bearer, none or a header name, found 'Host'"],
    ),
    (
        "header name",
        A + 'headers = { "X Title" = "t" }\n',
        ["providers[0].headers.X Title: expected a header name, found 'X Title'"],
    ),
    (
        "header that frames",
        A + 'headers = { Content-Length = "1" }\n',
        ["providers[0].headers.Content-Length: expected a header that may be set, found 'Content-Length'"],
    ),
    (
        "header that is a credential",
        A + 'headers = { Authorization = "t" }\n',
        [
            "providers[0].headers.Authorization: expected a header that is no credential, found "
            "'Authorization'; a key belongs in api_key and auth"
        ],
    ),
    (
        "header that is the credential",
        A + 'auth = "X-Key"\nheaders = { x-key = "t" }\n',
        [
            "providers[0].headers.x-key: expected a header that is no credential, found 'x-key'; a key "
            "belongs in api_key and auth"
        ],
    ),
    (
        "header in two lines",
        A + 'headers = { X-A = "a\\r\\nb: c" }\n',
        ["providers[0].headers.X-A: expected printable ASCII text, found others"],
    ),
    (
        "header that is a number",
        A + "headers = { X-A = 1 }\n",
        ["providers[0].headers.X-A: expected a string, found int"],
    ),
    ("headers that are none", A + 'headers = ["a"]\n', ["providers[0].headers: expected a table, found an array"]),
    (
        "two stars",
        A + 'models = { "*-4o-*" = "my-*" }\n',
        ["providers[0].models.*-4o-*: expected exactly one * in '*-4o-*', found 2; 'my-*' repeats what it stood for"],
    ),
    (
        "star and more",
        A + 'models = { "gpt-?o*" = "my-*" }\n',
        [
            "providers[0].models.gpt-?o*: expected exactly one * in 'gpt-?o*', found ? or [ beside it; "
            "'my-*' repeats what it stood for"
        ],
    ),
    (
        "two stars on the right",
        A + 'models = { "gpt-*" = "*/*" }\n',
        ["providers[0].models.gpt-*: expected at most one * on the right, found '*/*'"],
    ),
    (
        "model to nothing",
        A + 'models = { "gpt-4o" = "" }\n',
        ["providers[0].models.gpt-4o: expected the provider's name of the model, found ''"],
    ),
    ("only nothing", A + "only = []\n", ["providers[0].only: expected at least one model, found an empty array"]),
    ("only a text", A + 'only = "gpt-4o"\n', ["providers[0].only: expected an array of strings, found 'gpt-4o'"]),
    ("weight", A + "weight = 0\n", ["providers[0].weight: expected a number greater than 0, found 0"]),
    (
        "price",
        A + "price = { input = -1 }\n",
        [
            "providers[0].price.input: expected a number of at least 0, found -1",
            "providers[0].price.output: expected a number of at least 0, found nothing",
        ],
    ),
    ("price that is one", A + "price = 3\n", ["providers[0].price: expected a table, found 3"]),
    (
        "context window",
        A + 'context_window = { "m" = 0 }\n',
        ["providers[0].context_window.m: expected a whole number of tokens of at least 1, found 0"],
    ),
    (
        "network",
        '[proxy]\nallow_clients = ["10.0.0.0/8", "office"]\n',
        ["proxy.allow_clients[1]: expected a network such as 10.0.0.0/8, found 'office'"],
    ),
    (
        "names of the proxy",
        '[proxy]\nhosts = ["box.lan", "box:80", "Box", "*.lan", ""]\n',
        [
            f"proxy.hosts[{i}]: expected a host name in lower case, without a port, found {found!r}"
            for i, found in [(1, "box:80"), (2, "Box"), (3, "*.lan"), (4, "")]
        ],
    ),
    (
        "headers for other providers",
        '[proxy]\nforward_headers = ["X-Team", "x team", "Host", "Cookie"]\n',
        [
            "proxy.forward_headers[1]: expected a header name, found 'x team'",
            "proxy.forward_headers[2]: expected a header name, found 'Host'",
            "proxy.forward_headers[3]: expected a header that is no credential, found 'Cookie'; "
            "the app's own credential goes only to the host that the app addressed",
        ],
    ),
    (
        "parameters for other providers",
        '[proxy]\nforward_parameters = ["team", "a=b", "", "api_key"]\n',
        [
            "proxy.forward_parameters[1]: expected the name of a query parameter, found 'a=b'",
            "proxy.forward_parameters[2]: expected the name of a query parameter, found ''",
            "proxy.forward_parameters[3]: expected a parameter that is no credential, found 'api_key'; "
            "the app's own credential goes only to the host that the app addressed",
        ],
    ),
    (
        "route to nobody known",
        A + ROUTE.replace('"a"', '"azure", "a"'),
        ["routes[0].providers[0]: expected a known provider, found 'azure'; it needs a [[providers]] table"],
    ),
    (
        "route to a misspelt one",
        A.replace('"a"', '"azure-east"') + ROUTE.replace('"a"', '"azure-aest"'),
        [
            "routes[0].providers[0]: expected a known provider, found 'azure-aest'; did you mean 'azure-east'?",
        ],
    ),
    (
        "route to one twice",
        A + ROUTE.replace('"a"', '"a", "a"'),
        ["routes[0].providers[1]: expected each provider once, found 'a' again"],
    ),
    (
        "route to nobody",
        A + ROUTE.replace('"a"', ""),
        ["routes[0].providers: expected at least one provider, found none"],
    ),
    (
        "route from nowhere",
        A + '[[routes]]\nproviders = ["a"]\n',
        ["routes[0].intercept: expected at least one base URL, found none"],
    ),
    (
        "route from no URL",
        A + ROUTE.replace("https://api", "ftp://api"),
        [
            "routes[0].intercept[0]: expected a URL that begins with http:// or https://, found "
            "'ftp://api.openai.com/v1'"
        ],
    ),
    (
        "two dialects",
        A + C + ROUTE.replace('"a"', '"a", "c"'),
        ["routes[0].providers: expected providers of one dialect, found anthropic, openai"],
    ),
    (
        "two routes from one place",
        A + B + ROUTE + ROUTE.replace('"a"', '"b"').replace("/v1", "/v1/"),
        [
            "routes[1].intercept[0]: expected a base URL of its own, found 'https://api.openai.com/v1/', "
            "which routes[0].intercept[0] has too; this one would never get a call"
        ],
    ),
    (
        "two routes of one name",
        A + B + ROUTE + 'name = "r"\n' + ROUTE.replace('"a"', '"b"').replace("api.", "api2.") + 'name = "r"\n',
        ["routes[1].name: expected a name of its own, found 'r' again"],
    ),
    (
        "strategy",
        A + ROUTE + 'strategy = "cheap"\n',
        [
            "routes[0].strategy: expected one of priority, weighted, cheapest, fastest, found 'cheap'; did "
            "you mean 'cheapest'?"
        ],
    ),
]


@pytest.mark.parametrize(("text", "lines"), [e[1:] for e in EXACT], ids=[e[0] for e in EXACT])
def test_wrong(text: str, lines: list[str]) -> None:
    """Each mistake is reported once, with file, key path, what was expected and what was found, and nothing else is."""
    found = [re.sub(r" \(line \d+(, [\w:-]+)?\)$", "", line) for line in problems(text).splitlines()]
    assert found == [f"sidestep.toml: {line}" for line in lines]


@pytest.mark.parametrize(("text", "words"), [b[1:] for b in BROKEN], ids=[b[0] for b in BROKEN])
def test_broken(text: str, words: tuple[str, ...]) -> None:
    """What mitmdump is started with in vain is refused here, in the same words."""
    message = problems(text)
    assert [w for w in words if w not in message] == []


def test_blank_keys() -> None:
    """Where a key comes from a variable that holds nothing, that variable is named."""
    found = "providers[0].api_key: expected a key, found"
    text = A.replace("sk-a", "${BLANK}")
    assert f"{found} an empty string; the environment variable BLANK is blank" in problems(text, {"BLANK": " "})
    text = '[[providers]]\nname = "gemini-openai"\n'
    assert f"{found} none: GOOGLE_API_KEY is blank; " in problems(text, {"GOOGLE_API_KEY": ""})


def test_keys_that_cannot_be_sent() -> None:
    """The variable that holds one is named, also where there is no file to look into."""
    found = "providers[{}].api_key: expected a key of printable ASCII characters, found others"
    env = {"GOOD": "k", "BAD": "k\u00e9y"}
    hint = "; the environment variable BAD holds them"
    assert f"{found.format(0)}{hint}" in problems(A.replace("sk-a", "${GOOD}${BAD}"), env)
    with pytest.raises(ConfigError) as caught:
        reading.default({"XAI_API_KEY": "k\u00e9y"})
    told = f"the built-in catalog: {found.format(5)}; the environment variable XAI_API_KEY holds them"
    assert str(caught.value) == told


@pytest.mark.parametrize(
    ("table", "most"),
    [
        (
            f"[attempts]\nmax = {10**400}",
            "attempts.max: expected a whole number of at least 1 and at most 1000000000000",
        ),
        ("[timeouts]\nconnect = 1e300", "timeouts.connect: expected a number greater than 0 and at most 31536000"),
        (
            "[attempts]\nwait_seconds = 1e9",
            "attempts.wait_seconds: expected a number of at least 0 and at most 31536000",
        ),
        (
            "[routing]\nstick_seconds = 1e9",
            "routing.stick_seconds: expected a number of at least 0 and at most 31536000",
        ),
        (
            '[[providers]]\nname = "xai"\nweight = 1e10',
            "providers[0].weight: expected a number greater than 0 and at most ",
        ),
    ],
)
def test_numbers_have_a_range(table: str, most: str) -> None:
    """No sum of them overflows, and no timer is set for longer than timers can be."""
    assert most in problems(table, {"XAI_API_KEY": "k"})


def test_two_dialects_at_one_base() -> None:
    """Two routes may share a base, for the call tells them apart, but only where their dialects differ."""
    route = '[[routes]]\nintercept = ["https://a.example/v1"]\nproviders = ["{}"]\n'
    other = A.replace('"a"', '"c"').replace('"openai"', '"anthropic"')
    both = A + other + route.format("a") + route.format("c")
    assert [r.dialect for r in reading.parse(both, {}).routes] == ["openai", "anthropic"]
    assert "routes[2].intercept[0]: expected a base URL of its own" in problems(both + route.format("a"))


def test_a_mistake_has_a_line_and_a_name() -> None:
    """That of its key; of what is missing, that of its table. What stands in a longer text is no key."""
    text = f'''mod = "enforce"
{A}
[[providers]]
name = "azure-east"
dialect = "openai"
"base_url" = """
weight = 1
"""
weigth = 3
circuit.open_second = 1

  [providers.attempts]
  max = "many"

[circuit]
failure_threshold = "three"
[[routes]]
providers = ["a"]
'''
    found = {
        match[1]: match[2]
        for line in problems(text).splitlines()
        if (match := re.fullmatch(r"sidestep.toml: (\S+): .* \((line .*)\)", line))
    }
    assert found == {
        "mod": "line 1",
        "circuit.failure_threshold": "line 21",
        "providers[1].base_url": "line 11, azure-east",
        "providers[1].weigth": "line 14, azure-east",
        "providers[1].circuit.open_second": "line 15, azure-east",
        "providers[1].attempts.max": "line 18, azure-east",
        "routes[0].intercept": "line 22",
    }


def test_all_problems_at_once() -> None:
    """Mistakes all over a file are reported together, each with its key path."""
    text = CONTRACT
    for right, wrong in {
        '"enforce"': '"on"',
        "failure_threshold = 3": "failure_threshold = 0",
        "hold_bytes = 10_485_760": 'hold_bytes = "many"',
        "allow_clients = []": "allow_clients = 1",
        "weight = 1": "weigth = 1",
        "input = 2.5": "input = -2.5",
        '"priority"': '"first"',
        '"openai", "azure-east"': '"openai", "azure-west"',
    }.items():
        text = text.replace(right, wrong)
    assert [line.split(": ")[1] for line in problems(text, ENV).splitlines()] == [
        "mode",
        "circuit.failure_threshold",
        "stream.hold_bytes",
        "proxy.allow_clients",
        "providers[1].weigth",
        "providers[1].price.input",
        "routes[0].strategy",
        "routes[0].providers[1]",
    ]


def test_a_broken_provider_breaks_no_route() -> None:
    """A mistake in a provider is not reported again at each route that names it."""
    text = CONTRACT.replace("weight = 1", "weight = 0").replace('dialect = "openai"', 'dialect = "opanai"')
    assert [p.split(": ")[1] for p in problems(text, ENV).splitlines()] == [
        "providers[1].dialect",
        "providers[1].weight",
    ]


# --- files


def test_load(tmp_path: Path) -> None:
    """A file is read as UTF-8, with or without its mark, and is the source of its settings."""
    path = tmp_path / "sidestep.toml"
    path.write_bytes(b"\xef\xbb\xbfmode = 'off' # \xc3\xa4\n")
    settings = reading.load(path, {})
    assert (settings.mode, settings.source) == ("off", str(path))


def test_load_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is missing, a folder, unreadable or no UTF-8 is named with what was found there."""
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b"# caf\xe9\n")
    refused = tmp_path / "refused.toml"

    huge = tmp_path / "huge.toml"
    huge.write_bytes(b"#" * (reading.MAX_FILE_BYTES + 1))

    def open_it(path: str, flags: int) -> int:
        if path == str(refused):
            raise PermissionError(13, "Permission denied")
        return before(path, flags)

    before = os.open
    monkeypatch.setattr(os, "open", open_it)
    for path, words in {
        tmp_path / "no.toml": "expected a file, found nothing there",
        tmp_path: "expected a file, found a folder",
        refused: "expected a file, found one that cannot be read: Permission denied",
        huge: "expected a file of at most 4 MB, found a larger one",
        latin: "expected UTF-8 text, found byte 0xe9 at offset 5",
        Path("a\0b"): "expected a file, found a path that cannot be read: embedded null byte",
    }.items():
        with pytest.raises(ConfigError) as caught:
            reading.load(path, {})
        assert str(caught.value) == f"{path}: {words}"


# --- routes


def test_default_routes() -> None:
    """Without routes there is one a dialect that has providers, from its official base URL, in file order."""
    text = "".join(f'[[providers]]\nname = "{n}"\n' for n in ("anthropic", "groq", "openai", "deepseek-anthropic"))
    settings = reading.parse(text, {"GROQ_API_KEY": "k", "DEEPSEEK_API_KEY": "k"})
    assert _routes(settings) == [
        ("openai", ["https://api.openai.com/v1"], ["groq", "openai"]),
        ("anthropic", ["https://api.anthropic.com"], ["anthropic", "deepseek-anthropic"]),
    ]


def test_route_names() -> None:
    """A route without a name has its dialect's, with a number where that is taken."""
    text = "".join(
        f'[[providers]]\nname = "{n}"\ndialect = "openai"\nbase_url = "https://{n}.example"\napi_key = "k"\n'
        f'[[routes]]\nintercept = ["https://{n}.test"]\nproviders = ["{n}"]\n{more}\n'
        for n, more in {"a": "", "b": 'name = "openai-2"', "c": "", "d": ""}.items()
    )
    assert [r.name for r in reading.parse(text, {}).routes] == ["openai", "openai-2", "openai-3", "openai-4"]


def test_default() -> None:
    """Without a configuration each dialect's own provider comes first, with the app's credential, then those of the
    catalog whose keys are in the environment; a local one never."""
    assert _routes(reading.default({})) == [
        ("openai", ["https://api.openai.com/v1"], ["openai"]),
        ("anthropic", ["https://api.anthropic.com"], ["anthropic"]),
        ("gemini", ["https://generativelanguage.googleapis.com"], ["gemini"]),
        ("chatgpt", ["https://chatgpt.com/backend-api/codex"], ["chatgpt"]),
        ("code-assist", ["https://cloudcode-pa.googleapis.com"], ["code-assist"]),
    ]
    settings = reading.default({"OPENROUTER_API_KEY": CANARY, "OPENAI_API_KEY": CANARY, "GROQ_API_KEY": " "})
    assert _routes(settings) == [
        ("openai", ["https://api.openai.com/v1"], ["openai", "openrouter"]),
        ("anthropic", ["https://api.anthropic.com"], ["anthropic", "openrouter"]),
        ("gemini", ["https://generativelanguage.googleapis.com"], ["gemini"]),
        ("chatgpt", ["https://chatgpt.com/backend-api/codex"], ["chatgpt", "openrouter"]),
        ("code-assist", ["https://cloudcode-pa.googleapis.com"], ["code-assist"]),
    ]
    assert {(p.name, p.dialect) for p in settings.providers if p.api_key} == {
        ("openrouter", "openai"),
        ("openrouter", "anthropic"),
    }


def test_describe() -> None:
    """A line a route says where its calls may go, in order."""
    assert reading.describe(reading.parse(CONTRACT, ENV)) == [
        "calls to https://api.openai.com/v1 may go to openai (api.openai.com), "
        "azure-east (example.openai.azure.com) [priority, enforce]"
    ]


def _routes(settings: Settings) -> list[tuple[str, list[str], list[str]]]:
    return [(r.name, [str(b) for b in r.intercepts], [p.name for p in r.providers]) for r in settings.routes]


# --- values


def test_compared_by_value() -> None:
    """The same text gives equal settings; a changed provider differs, the others do not."""
    before, same = reading.parse(CONTRACT, ENV), reading.parse(CONTRACT, ENV)
    after = reading.parse(CONTRACT, {**ENV, "AZURE_KEY": "another"})
    assert before == same
    assert [a == b for a, b in zip(before.providers, after.providers, strict=True)] == [True, False]


def test_immutable() -> None:
    """Nothing in settings can be changed."""
    settings = reading.parse(CONTRACT, ENV)
    azure: Any = settings.providers[1]
    with pytest.raises(AttributeError):
        azure.weight = 2
    with pytest.raises(TypeError):
        azure.context_window["x"] = 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_not_waited_for_but_read(tmp_path: Path) -> None:
    """In a folder of somebody's it keeps nobody waiting; a shell's `<(…)` is one, too."""
    pipe = tmp_path / "sidestep.toml"
    os.mkfifo(pipe)
    assert reading.text_of(pipe) == ""
    read, write = os.pipe()
    os.write(write, b'mode = "off"\n')
    os.close(write)
    assert reading.text_of(Path(f"/dev/fd/{read}")) == 'mode = "off"\n'
    os.close(read)
