"""Where a call would go and why, as data: whole answers."""

from __future__ import annotations

from typing import Any

import pytest

from sidestep.config import reading
from sidestep.routing.explaining import explain, order

TEXT = """
[[providers]]
name = "home"
dialect = "openai"
base_url = "https://home.test/v1"

[[providers]]
name = "keyed"
dialect = "openai"
base_url = "https://keyed.test/v1"
api_key = "secret-key"
auth = "api-key"
models = { "gpt-*" = "my-*" }
only = ["gpt-*", "o3"]

[[providers]]
name = "local"
dialect = "openai"
base_url = "http://127.0.0.1:8000/v1"
auth = "none"
only = ["llama"]

[[providers]]
name = "google"
dialect = "gemini"
base_url = "https://gemini.test"
api_key = "secret-key"

[[routes]]
name = "chat"
intercept = ["https://home.test/v1"]
providers = ["home", "keyed", "local"]
strategy = "weighted"

[[routes]]
name = "deep"
intercept = ["https://home.test/v1/deep", "https://deep.test:8443/v1"]
providers = ["local"]

[[routes]]
name = "google"
intercept = ["https://gemini.test"]
providers = ["google"]
"""
SETTINGS = reading.parse(TEXT, {})
HOME: dict[str, Any] = {
    "name": "home",
    "base_url": "https://home.test/v1",
    "model": "gpt-4o",
    "own": True,
    "credential": "the app's own",
    "why": "the app addressed it: with the app's own credential",
}
KEYED: dict[str, Any] = {
    "name": "keyed",
    "base_url": "https://keyed.test/v1",
    "model": "my-4o",
    "own": False,
    "credential": "a key of yours (api-key)",
    "why": "a key in the file",
}
LOCAL: dict[str, Any] = {
    "name": "local",
    "base_url": "http://127.0.0.1:8000/v1",
    "model": "llama",
    "own": False,
    "credential": "none",
    "why": "it needs no key",
}


def test_who_would_be_asked_and_who_would_not() -> None:
    """The whole answer; neither the query nor a key is in it."""
    url = "https://home.test/v1/chat/completions?key=secret-key#part"
    assert explain(SETTINGS, url, "gpt-4o") == {
        "url": "https://home.test/v1/chat/completions",
        "method": "POST",
        "model": "gpt-4o",
        "mode": "enforce",
        "routed": True,
        "route": "chat",
        "intercept": "https://home.test/v1",
        "operation": "chat/completions",
        "strategy": "weighted",
        "providers": [HOME, KEYED],
        "rejected": [{"name": "local", "why": "it may only be asked for llama"}],
    }


def test_without_a_model_all_may_be_asked() -> None:
    """A URL without a scheme is one of https."""
    found = explain(SETTINGS, "home.test/v1/embeddings", None)
    assert (found["url"], found["model"], found["rejected"]) == ("https://home.test/v1/embeddings", None, [])
    assert found["providers"] == [{**p, "model": None} for p in (HOME, KEYED, LOCAL)]


def test_a_model_that_no_provider_may_be_asked_for() -> None:
    """It is not routed, and each provider says why."""
    found = explain(SETTINGS, "https://home.test/v1/deep/chat/completions", "gpt-4o")
    assert found == {
        "url": "https://home.test/v1/deep/chat/completions",
        "method": "POST",
        "model": "gpt-4o",
        "mode": "enforce",
        "routed": False,
        "route": "deep",
        "intercept": "https://home.test/v1/deep",
        "operation": "chat/completions",
        "strategy": "priority",
        "providers": [],
        "rejected": [{"name": "local", "why": "it may only be asked for llama"}],
        "why": "no provider of its route may be asked for this model",
    }


@pytest.mark.parametrize(
    ("url", "model", "operation", "asked"),
    [
        ("wss://home.test/v1/realtime?model=gpt-4o", None, "realtime.websocket", "gpt-4o"),
        ("wss://home.test/v1/realtime?key=k&model=gpt-4o", "o3", "realtime.websocket", "o3"),
        ("WSS://home.test/v1/responses", None, "responses.websocket", None),
        ("https://gemini.test/v1beta/models/gemini-pro:generateContent", None, "generateContent", "gemini-pro"),
    ],
)
def test_handshakes_and_models_in_the_url(url: str, model: str | None, operation: str, asked: str | None) -> None:
    """The model that was given wins over the one in the URL."""
    found = explain(SETTINGS, url, model)
    assert (found["routed"], found["operation"], found["model"]) == (True, operation, asked)
    assert found["method"] == ("GET" if "wss" in url.lower() else "POST")


@pytest.mark.parametrize(
    ("url", "method", "why"),
    [
        (
            "http://home.test/v1/chat/completions",
            None,
            "calls are looked for at https://home.test/v1, not at http://home.test",
        ),
        (
            "https://nowhere.test:81/v1/chat/completions",
            None,
            "no intercept has the host nowhere.test:81; there are: https://home.test/v1, https://home.test/v1/deep,"
            " https://deep.test:8443/v1, https://gemini.test",
        ),
        (
            "https://home.test/v2/chat/completions",
            None,
            "it does not lie under https://home.test/v1 or https://home.test/v1/deep",
        ),
        (
            "http://deep.test:8443/v1/embeddings",
            None,
            "it does not lie under https://deep.test:8443/v1",
        ),
        (
            "https://home.test/v1/files",
            None,
            "/files under https://home.test/v1 is none of the openai calls that another provider could answer",
        ),
        (
            "https://home.test/v1/deep/files/",
            None,
            "/files/ under https://home.test/v1/deep is none of the openai calls that another provider could answer",
        ),
        (
            "https://home.test/v1/deep/embeddings",
            "GET",
            "GET /embeddings under https://home.test/v1/deep is none of the calls that another provider could answer;"
            " a POST is",
        ),
        (
            "https://home.test/v1/realtime",
            None,
            "POST /realtime under https://home.test/v1 is none of the calls that another provider could answer;"
            " a WebSocket handshake (wss://) is",
        ),
        (
            "https://home.test/v1/realtime",
            "GET",
            "GET /realtime under https://home.test/v1 is none of the calls that another provider could answer;"
            " a WebSocket handshake (wss://) is",
        ),
    ],
)
def test_why_a_call_is_not_routed(url: str, method: str | None, why: str) -> None:
    """What is said is what was looked at, and what would be routed instead."""
    found = explain(SETTINGS, url, "gpt-4o", method)
    assert found == {
        "url": url.rstrip("/"),
        "method": method or "POST",
        "model": "gpt-4o",
        "mode": "enforce",
        "routed": False,
        "why": why,
    }


TWO = """
[[providers]]
name = "a"
dialect = "anthropic"
base_url = "https://two.test/api"

[[providers]]
name = "o"
dialect = "openai"
base_url = "https://two.test/api/v1"

[[providers]]
name = "g"
dialect = "gemini"
base_url = "https://two.test/api"

[[routes]]
intercept = ["https://two.test/api"]
providers = ["a"]

[[routes]]
intercept = ["https://two.test/api/v1"]
providers = ["o"]

[[routes]]
intercept = ["https://two.test/api"]
providers = ["g"]
"""


@pytest.mark.parametrize(
    ("path", "route", "operation"),
    [
        ("/api/v1/messages", "anthropic", "messages"),
        ("/api/v1/chat/completions", "openai", "chat/completions"),
        ("/api/v1/models/m:generateContent", "gemini", "generateContent"),
    ],
)
def test_one_host_with_several_dialects(path: str, route: str, operation: str) -> None:
    """The call decides which of them it belongs to, whether one's base is the beginning of another's or the same."""
    found = explain(reading.parse(TWO, {}), f"https://two.test{path}", None)
    assert (found["routed"], found["route"], found["operation"]) == (True, route, operation)
    assert [p["own"] for p in found["providers"]] == [True]


def test_what_no_dialect_of_a_host_knows() -> None:
    """Each of them is named with what it was asked for."""
    found = explain(reading.parse(TWO, {}), "https://two.test/api/v1/files", None)
    assert sorted(found["why"].removesuffix(" that another provider could answer").split(", and ")) == [
        "/files under https://two.test/api/v1 is none of the openai calls",
        "/v1/files under https://two.test/api is none of the anthropic calls",
        "/v1/files under https://two.test/api is none of the gemini calls",
    ]


def test_switched_off_nothing_is_routed() -> None:
    found = explain(reading.parse(f'mode = "off"\n{TEXT}', {}), "https://home.test/v1/chat/completions", "gpt-4o")
    assert (found["routed"], found["mode"], found["why"]) == (False, "off", 'mode is "off"')


@pytest.mark.parametrize("url", ["ftp://home.test/v1", "https://user@home.test/v1", "https://"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        explain(SETTINGS, url, None)


def test_what_an_order_means() -> None:
    """Each strategy has its words."""
    assert [order(s) for s in ("priority", "weighted", "cheapest", "fastest")] == [
        "asked in this order",
        "calls are shared out among them by weight",
        "the cheapest for the call first",
        "the fastest of late first",
    ]


def test_a_deployment_in_the_path_is_the_model() -> None:
    """Where it is not said which."""
    text = TEXT.replace("https://home.test/v1", "https://home.test/openai")
    url = "https://home.test/openai/deployments/gpt-4o/chat/completions?api-version=1"
    for model, asked in ((None, "gpt-4o"), ("gpt-5", "gpt-5")):
        found = explain(reading.parse(text, {}), url, model)
        assert (found["operation"], found["model"]) == ("chat/completions", asked)
        assert [p["model"] for p in found["providers"]] == [asked, asked.replace("gpt", "my")]
