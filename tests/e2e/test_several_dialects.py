"""One host that speaks two dialects, calls that are not chats, and a stand-in whose base URL bears a query."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from support.provider import Behaviour, Provider
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
