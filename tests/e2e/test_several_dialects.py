"""Hosts and providers that speak two dialects, calls that are not chats, and deployments at Azure, as stand-in and as
source."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx2
import openai
import pytest

from support.provider import Behaviour, Provider, text_of
from support.proxy import Mitmdump
from support.raw import Wire, request
from support.settings import key_of, route, table

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]
QUICK = table("circuit", {"failure_threshold": 100}) + table("attempts", {"per_provider": 1, "wait_seconds": 0})
CHAT = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}]}
MESSAGE = {
    "type": "message",
    "role": "assistant",
    "content": [{"type": "text", "text": "a"}],
    "stop_reason": "end_turn",
}
CALLS: list[tuple[str, str, dict[str, Any]]] = [
    ("chat", "/v1/chat/completions", CHAT),
    ("messages", "/v1/messages", MESSAGE),
    ("chat", "/v1/fim/completions", CHAT),
    ("chat", "/v1/rerank", {"results": [{"index": 0, "relevance_score": 0.5}]}),
    ("chat", "/v1/responses/input_tokens", {"object": "response.input_tokens", "input_tokens": 3}),
    ("chat", "/v1/responses/compact", {"id": "r", "output": [{"type": "compaction", "encrypted_content": "x"}]}),
    ("chat", "/v1/images/edits", {"data": [{"b64_json": "x"}]}),
]


def ask(m: Mitmdump, url: str) -> tuple[int, dict[str, str], bytes]:
    sent = request(url, json.dumps({"model": "gpt-4o"}).encode(), ("Content-Type", "application/json"))
    with Wire(m) as wire:
        return wire.send(sent).answer()


def test_the_call_decides(provider: Make, proxy: Start) -> None:
    """Where the base of one dialect is the beginning of another's, each call fails over to those of its own dialect; an
    empty answer of any of them is none."""
    home, chat, messages = provider("home"), provider("chat"), provider("messages")
    text = route("chat", home, chat, own=home) + route("messages", home, messages, own=home, suffix="-anthropic")
    m = proxy(QUICK + text)
    home.default = Behaviour(body=b"{}")
    stand_ins = {"chat": (chat, "chat"), "messages": (messages, "messages-anthropic")}
    for name, path, body in CALLS:
        stand_in, called = stand_ins[name]
        stand_in.default = Behaviour(body=json.dumps(body).encode())
        status, headers, got = ask(m, home.origin + path)
        assert (status, json.loads(got), headers["x-sidestep-provider"]) == (200, body, called), path
        assert stand_in.requests[-1].path == path
    assert (home.count, chat.count, messages.count) == (len(CALLS), len(CALLS) - 1, 1)


BOTH = """
[[providers]]
name = "home"
base_urls = {{ openai = "{home}/v1", anthropic = "{home}" }}

[[providers]]
name = "both"
base_urls = {{ openai = "{both}/v1", anthropic = "{both}/claude" }}
api_key = "{key}"
models = {{ "gpt-4o" = "mine" }}

[[routes]]
intercept = ["{home}/v1", "{home}"]
providers = ["home", "both"]
"""


def test_one_provider_for_all_dialects(provider: Make, proxy: Start) -> None:
    """One table, one name and one key serve the routes of both dialects, each at its own base URL; what is learnt of it
    in one dialect holds in the other, until a reload changes it."""
    home, both = provider("home"), provider("both")
    text = QUICK + BOTH.format(home=home.origin, both=both.origin, key=key_of("both"))
    m = proxy(text)
    home.default = Behaviour(status=503)
    for path, there, body in (
        ("/v1/chat/completions", "/v1/chat/completions", CHAT),
        ("/v1/messages", "/claude/v1/messages", MESSAGE),
    ):
        both.default = Behaviour(body=json.dumps(body).encode())
        status, headers, got = ask(m, home.origin + path)
        assert (status, json.loads(got), headers["x-sidestep-provider"]) == (200, body, "both")
        seen = both.requests[-1]
        assert (seen.path, seen.json["model"]) == (there, "mine")
        key = key_of("both")
        assert (seen.header("authorization") or seen.header("x-api-key")) in (f"Bearer {key}", key)
        assert str(seen.headers).count(key) == 1
    health = m.health()
    assert [*health["providers"]] == ["home", "both"]
    assert {name: route["served_by"] for name, route in health["routes"].items()} == {
        "openai": "home",
        "anthropic": "home",
    }
    assert (health["providers"]["both"]["totals"]["success"], health["providers"]["home"]["failure_count"]) == (2, 2)
    both.default = Behaviour(status=402, body=b"{}")
    assert ask(m, home.origin + "/v1/chat/completions")[0] == 503
    assert m.provider("both")["cooldown"]["reason"] == "quota"
    _, headers, _ = ask(m, home.origin + "/v1/messages")
    assert headers["x-sidestep-attempts"] == "home:503, both:402"
    m.config.write_text(text.replace('"mine"', '"other"'))
    m.wait_for_log("configuration reloaded")
    assert m.provider("both")["cooldown"] is None
    assert m.provider("home")["failure_count"] == home.count == 4


@pytest.mark.parametrize("query", ["", "?api-version=1&beta=true"])
def test_a_deployment_at_azure(query: str, provider: Make, proxy: Start) -> None:
    """The stand-in gets the query of its base URL, and of the call's what does not contradict it."""
    home, azure = provider("home"), provider("azure")
    text = route("chat", home, azure, own=home)
    base = f"{azure.origin}/openai/deployments/d?api-version=2024-10-21"
    m = proxy(QUICK + text.replace(f'"{azure.url()}"', f'"{base}"'))
    home.default = Behaviour(status=500)
    azure.default = Behaviour(body=json.dumps(CHAT).encode())
    status, headers, _ = ask(m, f"{home.origin}/v1/chat/completions{query}")
    assert (status, headers["x-sidestep-provider"]) == (200, "azure")
    more = "&beta=true" if query else ""
    assert azure.requests[-1].path == f"/openai/deployments/d/chat/completions?api-version=2024-10-21{more}"
    assert home.requests[-1].path == f"/v1/chat/completions{query}"
    assert key_of("azure") in str(azure.requests[-1].headers)


DEPLOYMENTS = """
[[providers]]
name = "azure"
dialect = "openai"
base_url = "{home}/openai{in_base}"

[[providers]]
name = "plain"
dialect = "openai"
base_url = "{plain}"
api_key = "{key}"
models = {{ "my-4o" = "gpt-4o" }}

[[routes]]
intercept = ["{home}/openai{in_base}"]
providers = ["azure", "plain"]
"""


@pytest.mark.parametrize("in_base", ["", "/deployments/my-4o"])
@pytest.mark.parametrize("way", ["the SDK", "the SDK, of one deployment", "without a model"])
def test_an_app_at_azure(way: str, in_base: str, provider: Make, proxy: Start) -> None:
    """Its deployment names the model: it gets its call as it was, and a stand-in one as OpenAI has it."""
    home, plain = provider("home"), provider("plain")
    texts = {"home": home.origin, "plain": plain.url(), "in_base": in_base, "key": key_of("plain")}
    m = proxy(QUICK + DEPLOYMENTS.format(**texts))
    path = "/openai/deployments/my-4o/chat/completions?api-version=2024-10-21"
    home.default = Behaviour(status=500)
    said = [{"role": "user", "content": "hi"}]
    if way == "without a model":
        sent = request(
            home.origin + path,
            json.dumps({"messages": said}).encode(),
            ("Content-Type", "application/json"),
            ("api-key", "app-CANARY-123456"),
        )
        with Wire(m) as wire:
            status, headers, _ = wire.send(sent).answer()
        assert (status, headers["x-sidestep-attempts"]) == (200, "azure:500, plain:200")
    else:
        with (
            httpx2.Client(proxy=m.url) as http,
            openai.AzureOpenAI(
                azure_endpoint=home.origin,
                api_version="2024-10-21",
                api_key="app-CANARY-123456",
                http_client=http,
                max_retries=0,
                azure_deployment="my-4o" if "one" in way else None,
            ) as app,
        ):
            answer = app.chat.completions.create(model="my-4o", messages=[{"role": "user", "content": "hi"}])
        assert answer.choices[0].message.content == text_of("plain", Behaviour())
    at_home, elsewhere = home.requests[-1], plain.requests[-1]
    assert (at_home.path, at_home.json["messages"], at_home.header("api-key")) == (path, said, "app-CANARY-123456")
    assert ("model" in at_home.json) == (way != "without a model")
    assert (elsewhere.path, elsewhere.json) == ("/v1/chat/completions", {"messages": said, "model": "gpt-4o"})
    assert (elsewhere.header("api-key"), elsewhere.header("authorization")) == (None, f"Bearer {key_of('plain')}")
