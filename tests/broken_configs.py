"""Configurations that stop the start: a name, the text, and what the message must say."""

from __future__ import annotations

P = '[[providers]]\nname = "p"\ndialect = "openai"\nbase_url = "https://p.test/v1"\napi_key = "k"\n'
R = '[[routes]]\nintercept = ["https://api.openai.com/v1"]\n'

BROKEN: list[tuple[str, str, tuple[str, ...]]] = [
    ("no toml", "mode = ", ("expected TOML", "line 1")),
    ("unknown top key", 'mod = "off"\n', ("mod:", "expected a known key, found 'mod'", "did you mean 'mode'")),
    ("mode", 'mode = "on"\n', ("mode:", "expected one of enforce, observe, off, found 'on'")),
    ("providers no tables", "providers = 3\n", ("providers:", "expected tables headed [[providers]]", "found 3")),
    ("provider without name", "[[providers]]\nweight = 1\n", ("providers[0].name:", "expected a name, found nothing")),
    ("provider name type", "[[providers]]\nname = 7\n", ("providers[0].name:", "expected a string, found 7")),
    (
        "unknown provider",
        '[[providers]]\nname = "opnai"\ndialect = "openai"\napi_key = "k"\n',
        ("providers[0].base_url:", "no name of the catalog", "did you mean 'openai'"),
    ),
    (
        "no dialect",
        '[[providers]]\nname = "p"\nbase_url = "https://p.test"\napi_key = "k"\n',
        ("providers[0].dialect:", "expected one of openai, anthropic, gemini, found nothing"),
    ),
    (
        "bad dialect",
        P.replace('"openai"', '"cohere"'),
        ("providers[0].dialect:", "expected one of openai, anthropic, gemini, found 'cohere'"),
    ),
    (
        "bad url",
        P.replace("https://p.test/v1", "p.test"),
        ("providers[0].base_url:", "http:// or https://", "'p.test'"),
    ),
    ("url with a key", P.replace("/v1", "/v1?key=1"), ("providers[0].base_url:", "without a key in its query")),
    (
        "intercept with query",
        P + R.replace("/v1", "/v1?x=1") + 'providers = ["p"]\n',
        ("routes[0].intercept[0]:", "expected a URL without query", "told apart by their path"),
    ),
    ("url with password", P.replace("p.test", "u:pw@p.test"), ("providers[0].base_url:", "without a user name")),
    ("url port", P.replace("p.test", "p.test:99999"), ("providers[0].base_url:", "expected an http or https URL")),
    (
        "missing variable",
        P.replace('"k"', '"${NOT_SET_ANYWHERE}"'),
        ("providers[0].api_key:", "expected the environment variable 'NOT_SET_ANYWHERE', found it unset"),
    ),
    (
        "reference elsewhere",
        P.replace("p.test", "${HOST}"),
        ("providers[0].base_url:", "expected no ${…} here"),
    ),
    (
        "no key",
        P.replace('api_key = "k"\n', ""),
        ("providers[0].api_key:", 'expected a key or auth = "none"', "only to the host that the app addressed"),
    ),
    (
        "catalog key unset",
        '[[providers]]\nname = "openrouter"\n',
        ("providers[0].api_key:", "OPENROUTER_API_KEY is not set"),
    ),
    ("empty key", P.replace('"k"', '""'), ("providers[0].api_key:", "expected a key, found an empty string")),
    ("key type", P.replace('"k"', "5"), ("providers[0].api_key:", "expected a string, found int")),
    ("key and none", P + 'auth = "none"\n', ("providers[0].api_key:", "expected no key")),
    ("auth", P + 'auth = "x key"\n', ("providers[0].auth:", "expected bearer, none or a header name, found 'x key'")),
    ("duplicate", P + P, ("providers[1].name:", "found 'p' twice")),
    ("unknown field", P + "wieght = 2\n", ("providers[0].wieght:", "did you mean 'weight'")),
    ("weight", P + "weight = 0\n", ("providers[0].weight:", "expected a number greater than 0, found 0")),
    ("weight type", P + 'weight = "2"\n', ("providers[0].weight:", "expected a number", "found '2'")),
    ("models", P + 'models = ["a"]\n', ("providers[0].models:", "expected a table of names")),
    (
        "model glob",
        P + 'models = { "gpt-4o" = "x-*" }\n',
        ("providers[0].models.gpt-4o:", "expected exactly one * in 'gpt-4o'"),
    ),
    ("model empty", P + 'models = { "a" = "" }\n', ("providers[0].models.a:", "expected the provider's name")),
    ("only", P + 'only = "gpt"\n', ("providers[0].only:", "expected an array of strings, found 'gpt'")),
    ("header name", P + 'headers = { "X Y" = "1" }\n', ("providers[0].headers.X Y:", "expected a header name")),
    (
        "header host",
        P + 'headers = { Host = "1" }\n',
        ("providers[0].headers.Host:", "expected a header that may be set"),
    ),
    ("price", P + "price = { input = -1, output = 1 }\n", ("providers[0].price.input:", "of at least 0, found -1")),
    ("half a price", P + "price = { input = 1 }\n", ("providers[0].price.output:", "found nothing")),
    (
        "window",
        P + 'context_window = { "m" = 0 }\n',
        ("providers[0].context_window.m:", "expected a whole number of tokens of at least 1, found 0"),
    ),
    (
        "provider circuit",
        P + "circuit = { open_seconds = 0 }\n",
        ("providers[0].circuit.open_seconds:", "expected a number greater than 0, found 0"),
    ),
    ("circuit range", "[circuit]\nfailure_rate = 1.5\n", ("circuit.failure_rate:", "at most 1", "found 1.5")),
    ("circuit type", "[circuit]\nfailure_threshold = 2.5\n", ("circuit.failure_threshold:", "a whole number", "2.5")),
    ("circuit bool", "[circuit]\nfailure_threshold = true\n", ("circuit.failure_threshold:", "found True")),
    ("circuit scope", '[circuit]\nscope = "all"\n', ("circuit.scope:", "'provider', 'model'", "found 'all'")),
    ("circuit key", "[circuit]\nopen_secs = 1\n", ("circuit.open_secs:", "did you mean 'open_seconds'")),
    ("attempts", "[attempts]\nmax = 0\n", ("attempts.max:", "of at least 1, found 0")),
    ("timeouts", "[timeouts]\nidle = -1\n", ("timeouts.idle:", "greater than 0, found -1")),
    ("sealed", '[routing]\nsealed = "keep"\n', ("routing.sealed:", "'drop', 'pin'", "found 'keep'")),
    ("stream", '[stream]\ncommit = "never"\n', ("stream.commit:", "'first_content', 'complete'", "found 'never'")),
    ("proxy", '[proxy]\nallow_clients = ["10.0.0.0/99"]\n', ("proxy.allow_clients[0]:", "expected a network")),
    ("table", "circuit = 5\n", ("circuit:", "expected a table, found 5")),
    ("route strategy", P + R + 'providers = ["p"]\nstrategy = "random"\n', ("routes[0].strategy:", "found 'random'")),
    (
        "route provider",
        P + R + 'providers = ["q"]\n',
        ("routes[0].providers[0]:", "expected a known provider, found 'q'"),
    ),
    ("route empty", P + R + "providers = []\n", ("routes[0].providers:", "expected at least one provider")),
    ("route twice", P + R + 'providers = ["p", "p"]\n', ("routes[0].providers[1]:", "found 'p' again")),
    (
        "route dialects",
        P + P.replace('"p"', '"q"').replace('"openai"', '"anthropic"') + R + 'providers = ["p", "q"]\n',
        ("routes[0].providers:", "expected providers of one dialect, found anthropic, openai"),
    ),
    (
        "route intercept",
        P + '[[routes]]\nproviders = ["p"]\n',
        ("routes[0].intercept:", "expected at least one base URL"),
    ),
    (
        "intercept twice",
        P + (R + 'providers = ["p"]\n') * 2,
        ("routes[1].intercept[0]:", "which routes[0].intercept[0] has too", "would never get a call"),
    ),
    (
        "several at once",
        'mode = "x"\n[circuit]\nmin_requests = 0\n' + P + "weight = -1\n",
        ("mode:", "circuit.min_requests:", "providers[0].weight:"),
    ),
]
