from __future__ import annotations

import pytest

from sidestep.config import catalog, reading
from sidestep.config.advice import advice, left_out


@pytest.mark.parametrize(
    ("more", "issuer", "told"),
    [("", "b", True), ('issuer = "b"', "b", False), ('issuer = "anthropic"', "anthropic", False)],
)
def test_advice(more: str, issuer: str, told: bool) -> None:
    """Of a stand-in of the user's own it is told that its issuer is not known, unless the file says it."""
    text = (
        '[[providers]]\nname = "anthropic"\n[[providers]]\nname = "b"\ndialect = "anthropic"\n'
        f'base_url = "https://b.example"\napi_key = "k"\n{more}\n'
    )
    settings = reading.parse(text, {})
    assert settings.providers[1].issuer == issuer
    assert [line.partition(":")[0] for line in advice(settings)] == (["b has no issuer"] if told else [])
    alone = text.partition("\n[[")[2]
    assert advice(reading.parse(f"[[{alone}", {})) == []


OTHER = '[[providers]]\nname = "p"\ndialect = "{}"\nbase_url = "{}"\napi_key = "k"\nissuer = "p"\n'


@pytest.mark.parametrize(
    ("dialect", "base", "better"),
    [
        ("openai", "https://p.test/v1/chat/completions", "https://p.test/v1"),
        ("openai", "https://p.test/v1/responses/compact", "https://p.test/v1"),
        ("openai", "https://p.test/v1/models", "https://p.test/v1"),
        ("openai", "https://p.test/v1/fim/completions?x=1", "https://p.test/v1"),
        ("openai", "https://p.test", "https://p.test/v1"),
        ("openai", "https://api.openai.com", "https://api.openai.com/v1"),
        ("openai", "https://openrouter.ai/api", "https://openrouter.ai/api/v1"),
        ("openai", "https://openrouter.ai/api/v1", None),
        ("openai", "https://api.deepseek.com", None),
        ("openai", "https://x.openai.azure.com/openai/deployments/gpt-4o?api-version=2024-10-21", None),
        ("openai", "https://x.openai.azure.com/openai/v1", None),
        ("openai", "https://x.openai.azure.com/openai", None),
        ("openai", "https://x.openai.azure.com", None),
        ("anthropic", "https://p.test/v1/messages", "https://p.test"),
        ("anthropic", "https://p.test/v1/messages/count_tokens", "https://p.test"),
        ("anthropic", "https://p.test/a/v1", "https://p.test/a"),
        ("anthropic", "https://p.test/anthropic", None),
        ("anthropic", "https://v1", None),
        ("gemini", "https://p.test/v1beta/models", "https://p.test"),
        ("gemini", "https://p.test/v1beta", "https://p.test"),
        ("gemini", "https://p.test/gemini", None),
    ],
)
def test_base_urls(dialect: str, base: str, better: str | None) -> None:
    """Of a base URL that no official SDK would be given it is told what is expected and what was found, at the
    provider and at the intercept alike."""
    bare = base.partition("?")[0]
    text = OTHER.format(dialect, base) + f'[[routes]]\nname = "r"\nintercept = ["{bare}"]\nproviders = ["p"]\n'
    lines = advice(reading.parse(text, {}))
    if better is None:
        assert lines == []
    else:
        assert [line.partition(": expected")[0] for line in lines] == ["p: base_url", "route r: intercept"]
        assert all(line.endswith(f"such as '{better}', found '{bare}'") for line in lines)


@pytest.mark.parametrize(
    ("base", "intercept", "told"),
    [
        ("https://x.openai.azure.com/openai", "https://api.openai.com/v1", True),
        ("https://x.openai.azure.com", "https://y.openai.azure.com/openai", True),
        ("https://x.openai.azure.com/openai", "https://y.openai.azure.com/openai", False),
        ("https://x.openai.azure.com/openai/v1", "https://api.openai.com/v1", False),
    ],
)
def test_a_stand_in_at_azure_needs_its_deployment(base: str, intercept: str, told: bool) -> None:
    """Where the calls that it gets do not say which."""
    text = OTHER.format("openai", base) + f'[[routes]]\nintercept = ["{intercept}"]\nproviders = ["p"]\n'
    better = "https://x.openai.azure.com/openai/deployments/NAME?api-version=2024-10-21"
    expected = f"p: base_url: expected a base URL with '/openai/v1', or with the deployment, such as '{better}'"
    lines = advice(reading.parse(text, {}))
    assert lines == ([f"{expected}, found '{base}'"] if told else [])


@pytest.mark.parametrize("name", ["max", "total_seconds"])
def test_what_bounds_a_whole_request_is_no_providers(name: str) -> None:
    """It would change nothing, and that is told."""
    text = OTHER.format("openai", "https://p.test/v1") + f"attempts = {{ {name} = 5, per_provider = 1 }}\n"
    assert [line.partition(": expected")[0] for line in advice(reading.parse(text, {}))] == [f"p: attempts.{name}"]


def test_the_catalog_takes_its_own_advice() -> None:
    """Nothing is to be said of any provider of the catalog."""
    env = {name: "k" for entry in catalog.CATALOG.values() for name in entry.env}
    text = "".join(f'[[providers]]\nname = "{name}"\n' for name in catalog.CATALOG)
    assert advice(reading.parse(text, env)) == []
    assert advice(reading.default(env)) == []


@pytest.mark.parametrize(
    ("base", "told"),
    [
        ("http://10.0.0.5:8000/v1", True),
        ("http://p.test/v1", True),
        ("https://p.test/v1", False),
        ("http://localhost:8000/v1", False),
        ("http://p.localhost/v1", False),
        ("http://127.0.0.2/v1", False),
        ("http://[::1]/v1", False),
    ],
)
def test_a_key_in_the_clear(base: str, told: bool) -> None:
    """A key that goes to another machine over plain http is told, one that stays on this machine is not."""
    lines = advice(reading.parse(OTHER.format("openai", base), {}))
    assert [line.partition(": whoever")[0] for line in lines] == [
        f"p: base_url: expected https, for its key goes to another machine, found '{base}'"
    ] * told
    bare = OTHER.format("openai", base).replace('api_key = "k"', 'auth = "none"')
    assert advice(reading.parse(bare, {})) == []
    lines = advice(reading.parse(bare + 'headers = { X-Badge = "${B}" }\n', {"B": "b"}))
    assert ["for its own headers go to another machine" in line for line in lines] == [True] * told


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://:p@store.test/0", True),
        ("valkey://u:p@10.0.0.5:6380", True),
        ("rediss://:p@store.test/0", False),
        ("valkeys://:p@store.test/0", False),
        ("redis://store.test/0", False),
        ("redis://:p@127.0.0.1/0", False),
        ("redis://:p@[::1]/0", False),
        ("redis://:p@localhost/0", False),
        ("unix://:p@/run/valkey.sock", False),
    ],
)
def test_a_password_of_the_store_in_the_clear(url: str, told: bool) -> None:
    text = f'[fleet]\nurl = "{url}"\nsecret = "0123456789abcdef"\n' + OTHER.format("openai", "https://p.test/v1")
    lines = advice(reading.parse(text, {}))
    assert [line.partition(",")[0] for line in lines] == ["fleet.url: expected rediss://"] * told
    assert ":p@" not in "".join(lines)


def test_a_provider_in_no_route() -> None:
    """It is never asked, and that is told."""
    text = OTHER.format("openai", "https://p.test/v1")
    text += text.replace('"p"', '"q"') + '[[routes]]\nintercept = ["https://a.test/v1"]\nproviders = ["q"]\n'
    assert advice(reading.parse(text, {})) == [
        "p: expected in the providers of a route, found in none: it is never asked"
    ]


@pytest.mark.parametrize("text", ["", "\n# mine\n", "[circuit]\nopen_seconds = 5\n"])
def test_an_empty_file(text: str) -> None:
    """It routes nothing, which is told in `check` and at the start; with the mode off that is what was asked for."""
    assert advice(reading.parse(text, {}, "f.toml")) == [
        "f.toml: expected [[providers]], found none: no call is routed"
    ]
    assert reading.describe(reading.parse(text, {}, "f.toml")) == [
        "no calls are routed: there are no [[providers]] in f.toml"
    ]
    assert advice(reading.parse('mode = "off"\n' + text, {})) == []


@pytest.mark.parametrize(
    ("allow", "ignore", "lines"),
    [
        ([], [], []),
        (["openai"], [], []),
        (["corp"], [], ["allow_hosts"]),
        ([], ["OpenAI.com:443$"], ["ignore_hosts"]),
        ([], ["corp"], []),
    ],
)
def test_hosts_that_mitmproxy_leaves_out(allow: list[str], ignore: list[str], lines: list[str]) -> None:
    settings = reading.parse('[[providers]]\nname = "openai"\n', {})
    said = "mitmproxy's option {} leaves out api.openai.com: what goes there passes unopened, without failover"
    assert left_out(settings, allow, ignore) == [said.format(line) for line in lines]
