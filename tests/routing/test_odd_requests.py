"""Whatever stands in an app's request where a word, a list or a number is expected: the call is planned, told from
others and written anew for another provider all the same."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest

from sidestep.config import reading
from sidestep.dialects import sealed
from sidestep.routing import table
from sidestep.routing.engine import Attempt, Engine
from sidestep.routing.exchange import Exchange
from support.odd import with_odd_values

CONFIG = "".join(
    f'[[providers]]\nname = "{dialect}"\n[[providers]]\nname = "other-{dialect}"\ndialect = "{dialect}"\n'
    f'base_url = "https://other.test/{dialect}"\napi_key = "k"\nmodels = {{ "*" = "x" }}\ndrop_fields = ["store"]\n'
    for dialect in ("openai", "anthropic", "gemini")
)
TOOLS = [{"type": "function", "name": "f", "function": {"name": "f", "parameters": {}}, "input_schema": {}}]
CHAT: dict[str, Any] = {
    "model": "m",
    "stream": True,
    "store": True,
    "max_tokens": 5,
    "n": 1,
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "file", "file": {"file_id": "f"}}]},
        {
            "role": "assistant",
            "content": "a",
            "reasoning_details": [{"type": "x", "data": "y", "signature": "s"}],
            "tool_calls": [{"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            "audio": {"id": "a"},
        },
        {"role": "tool", "tool_call_id": "t", "content": "r"},
    ],
    "tools": TOOLS,
    "stream_options": {"include_usage": True},
}
RESPONSES: dict[str, Any] = {
    "model": "m",
    "stream": True,
    "max_output_tokens": 5,
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}, {"type": "input_file", "file_id": "f"}]},
        {"type": "reasoning", "id": "rs", "encrypted_content": "zzz", "summary": []},
        {"type": "message", "id": "m", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]},
        {"type": "function_call", "id": "fc", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "o"},
    ],
    "previous_response_id": "r",
    "conversation": {"id": "c"},
    "include": ["reasoning.encrypted_content"],
    "tools": [{"type": "file_search", "vector_store_ids": ["v"]}, {"type": "code_interpreter", "container": "c"}],
    "reasoning": {"effort": "high"},
}
THOUGHT = [
    {"type": "thinking", "thinking": "t", "signature": "s"},
    {"type": "redacted_thinking", "data": "d"},
    {"type": "tool_use", "id": "t", "name": "f", "input": {}},
    {"type": "server_tool_use", "id": "u", "name": "web_search", "input": {}},
    {"type": "web_search_tool_result", "tool_use_id": "u", "content": [{"encrypted_content": "e"}]},
]
MESSAGES: dict[str, Any] = {
    "model": "m",
    "max_tokens": 5,
    "stream": True,
    "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    "messages": [
        {"role": "user", "content": [{"type": "document", "source": {"type": "file", "file_id": "f"}}]},
        {"role": "assistant", "content": THOUGHT},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": []}]},
        {"role": "assistant", "content": THOUGHT},
    ],
    "tools": TOOLS,
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "container": {"id": "c"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015"}]},
    "output_config": {"effort": "low"},
}
GENERATE: dict[str, Any] = {
    "contents": [
        {"role": "user", "parts": [{"text": "hi"}, {"fileData": {"fileUri": "https://generativelanguage/files/x"}}]},
        {"role": "model", "parts": [{"text": "a", "thoughtSignature": "s"}, {"functionCall": {"name": "f"}}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {}}}]},
    ],
    "generationConfig": {"maxOutputTokens": 5, "candidateCount": 1, "thinkingConfig": {"thinkingBudget": 5}},
    "cachedContent": "c",
    "systemInstruction": {"parts": [{"text": "s"}]},
}
REQUESTS = {
    "https://api.openai.com/v1/chat/completions": CHAT,
    "https://api.openai.com/v1/responses": RESPONSES,
    "https://api.openai.com/v1/embeddings": {"model": "m", "input": ["a"], "dimensions": 3},
    "https://api.anthropic.com/v1/messages": MESSAGES,
    "https://generativelanguage.googleapis.com/v1beta/models/m:streamGenerateContent": GENERATE,
}


@pytest.mark.parametrize("url", REQUESTS)
def test_in_a_request(url: str) -> None:
    engine, parts = Engine(reading.parse(CONFIG, {})), urlsplit(url)
    match = engine.routes.match("POST", parts.scheme, str(parts.hostname), 443, parts.path)
    assert match is not None
    dialect, drop = match.dialect, frozenset({"store"})
    for where, body in with_odd_values(REQUESTS[url]):
        try:
            call = match.read("", "application/json", body)
            candidates = engine.routes.candidates(match, call.model)
            home, issuer_of = match.home_issuer if call.sealed else "", engine.issuer_of
            plan = table.plan(
                candidates, call, home_issuer=home, issuer_of=issuer_of, knows_model=engine.lacking_models(1.0)
            )
            exchange = Exchange(engine, match, call, plan, 1.0, body_bytes=len(body))
            assert exchange.asked.conversation is None or exchange.asked.conversation.length
            for candidate in candidates:
                sealed.may_demand(call, candidate.target)
                copy = sealed.unsealed(call, candidate.target, body, frozenset(call.sealed))
                dialect.rewrite(call, match.tail, "application/json", copy, "other", drop)
            attempt = exchange.next(1.0)
            assert isinstance(attempt, Attempt) or plan.passthrough
        except Exception as e:
            raise AssertionError(where) from e
