"""Nothing but keys in the environment: each dialect's official host fails over to the same model elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from support.calls import APP_KEY, DIALECT, OFFICIAL, Client
from support.internet import Internet
from support.provider import Behaviour, Provider, text_of
from support.proxy import Mitmdump

OTHER_KEY = "key-of-the-other-provider-0123456789"
CASES = [
    ("chat", "OPENAI_API_KEY", "OPENROUTER_API_KEY", "openrouter", "openrouter.ai", "/api/v1/chat/completions"),
    ("responses", "OPENAI_API_KEY", "OPENROUTER_API_KEY", "openrouter", "openrouter.ai", "/api/v1/responses"),
    (
        "messages",
        "ANTHROPIC_API_KEY",
        "OPENROUTER_API_KEY",
        "openrouter-anthropic",
        "openrouter.ai",
        "/api/v1/messages",
    ),
    (
        *("gemini", "GEMINI_API_KEY", "GOOGLE_VERTEX_API_KEY", "vertex", "aiplatform.googleapis.com"),
        r"/v1(beta1)?/publishers/google/models/gemini-2.5-pro:",
    ),
    (
        *("gemini", "GEMINI_API_KEY", "AIHUBMIX_API_KEY", "aihubmix-gemini", "aihubmix.com"),
        r"/gemini/v1(beta)?/models/gemini-2.5-pro:",
    ),
]
MODELS = {"chat": "openai/gpt-4o", "responses": "openai/gpt-4o", "messages": "anthropic/claude-opus-4.8"}


@pytest.mark.parametrize(("api", "own_key", "other_key", "name", "host", "path"), CASES, ids=lambda v: str(v)[:12])
def test_keys_in_the_environment_are_enough(
    api: str,
    own_key: str,
    other_key: str,
    name: str,
    host: str,
    path: str,
    provider: Callable[..., Provider],
    proxy: Callable[..., Mitmdump],
    tmp_path: Path,
) -> None:
    """While the official host answers, it alone is asked, with the app's key; when it fails, the other one is, with
    the key of the environment and its own name for the model."""
    official = OFFICIAL[DIALECT[api]].split("/")[2]
    internet = Internet(tmp_path)
    own, other = provider("own", tls=internet.tls(official)), provider("other", tls=internet.tls(host))
    internet.places = {official: own.port, host: other.port}
    keys = {own_key: "key-in-the-environment-9876543210", other_key: OTHER_KEY}
    m = proxy(None, *internet.options(), env={**keys, "XDG_CONFIG_HOME": str(tmp_path)})
    with Client(m) as app:
        for stream in (False, True):
            healthy = app.call(api, stream=stream)
            assert healthy.error is None, m.log
            assert healthy.text == text_of("own", Behaviour())
            assert healthy.provider == DIALECT[api]
        assert other.count == 0
        own.default = Behaviour(status=503)
        for stream in (False, True):
            rerouted = app.call(api, stream=stream)
            assert rerouted.error is None, m.log
            assert (rerouted.text, rerouted.provider) == (text_of("other", Behaviour()), name)
    assert other.count == 2
    for seen in own.requests:
        assert APP_KEY in str(seen.headers)
        assert OTHER_KEY not in str(seen.headers)
        assert "key-in-the-environment" not in str(seen.headers)
    for seen in other.requests:
        assert OTHER_KEY in str(seen.headers)
        assert APP_KEY not in str(seen.headers) + seen.path
        assert re.match(path, seen.path)
        assert seen.header("host") == host
        if api in MODELS:
            assert seen.json["model"] == MODELS[api]
