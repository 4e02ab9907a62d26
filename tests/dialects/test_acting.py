"""Which calls do something on their way to an answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidestep.dialects.anthropic import Anthropic
from sidestep.dialects.base import Call
from sidestep.dialects.gemini import Gemini
from sidestep.dialects.openai import OpenAI

MCP = {"type": "mcp", "server_label": "x", "server_url": "https://mcp.test"}
FUNCTION = {"type": "function", "function": {"name": "code_execution", "parameters": {"type": "object"}}}
OPENAI: list[tuple[dict[str, Any], bool]] = [
    ({}, False),
    ({"tools": [FUNCTION]}, False),
    ({"tools": [{"type": "function", "name": "mcp"}]}, False),
    ({"tools": [{"type": "custom", "name": "shell"}]}, False),
    ({"tools": [{"type": "web_search"}, {"type": "file_search"}, {"type": "image_generation"}]}, False),
    ({"tools": [{"type": "web_search"}, MCP]}, True),
    ({"tools": [{"type": "mcp", "connector_id": "connector_gmail"}]}, True),
    ({"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}, True),
    ({"tools": [{"type": "code_execution"}]}, True),
    ({"tools": [{"type": "shell"}]}, False),
    ({"tools": [{"type": "shell", "environment": {"type": "local"}}]}, False),
    ({"tools": [{"type": "shell", "environment": {"type": "container_auto"}}]}, True),
    ({"tools": [{"type": "computer_use_preview"}, {"type": "apply_patch"}]}, False),
    ({"tools": {"type": "mcp"}}, False),
    ({"tools": ["mcp", 5, {"type": ["mcp"]}]}, False),
    ({"metadata": {"type": "mcp"}}, False),
    ({"messages": [{"role": "user", "content": '"mcp"'}], "input": '"code_interpreter"'}, False),
]
ANTHROPIC: list[tuple[dict[str, Any], bool]] = [
    ({}, False),
    ({"mcp_servers": []}, False),
    ({"mcp_servers": [{"type": "url", "url": "https://mcp.test", "name": "x"}]}, True),
    ({"tools": [{"type": "code_execution_20250825", "name": "code_execution"}]}, True),
    ({"tools": [{"type": "code_execution_20270101", "name": "code_execution"}]}, True),
    ({"tools": [{"name": "code_execution", "input_schema": {"type": "object"}}]}, False),
    ({"tools": [{"type": "custom", "name": "code_execution", "input_schema": {"type": "object"}}]}, False),
    ({"tools": [{"type": "bash_20250124", "name": "bash"}, {"type": "memory_20250818", "name": "memory"}]}, False),
    ({"tools": [{"type": "web_search_20250305", "name": "x"}, {"type": "web_fetch_20250910", "name": "y"}]}, False),
    ({"container": {"skills": [{"type": "anthropic", "skill_id": "pptx"}]}}, False),
]
GEMINI: list[tuple[dict[str, Any], bool]] = [
    ({}, False),
    ({"tools": [{"functionDeclarations": [{"name": "code_execution"}]}]}, False),
    ({"tools": [{"googleSearch": {}}, {"urlContext": {}}]}, False),
    ({"tools": [{"codeExecution": {}}]}, True),
    ({"tools": [{"googleSearch": {}, "code_execution": {}}]}, True),
    ({"tools": [{"mcpServers": [{"name": "x", "streamableHttpTransport": {"url": "https://mcp.test"}}]}]}, True),
]


def body_of(more: dict[str, Any]) -> bytes:
    return json.dumps({"model": "m", **more}).encode()


@pytest.mark.parametrize("operation", ["chat/completions", "responses"])
@pytest.mark.parametrize(("body", "acts"), OPENAI)
def test_openai(body: dict[str, Any], acts: bool, operation: str) -> None:
    call = OpenAI().read(operation, f"/{operation}", "", "application/json", body_of(body))
    assert (call.unread, call.acts) == ("", acts)


@pytest.mark.parametrize(("body", "acts"), ANTHROPIC)
def test_anthropic(body: dict[str, Any], acts: bool) -> None:
    call = Anthropic().read("messages", "/v1/messages", "", "application/json", body_of(body))
    assert (call.unread, call.acts) == ("", acts)


@pytest.mark.parametrize(("body", "acts"), GEMINI)
def test_gemini(body: dict[str, Any], acts: bool) -> None:
    tail = "/v1beta/models/m:generateContent"
    call = Gemini().read("generateContent", tail, "", "application/json", json.dumps(body).encode())
    assert (call.unread, call.acts) == ("", acts)


def test_gemini_in_an_envelope() -> None:
    body = body_of({"request": {"tools": [{"codeExecution": {}}]}})
    call = Gemini().read("generateContent", "/v1internal:generateContent", "", "application/json", body)
    assert (call.in_envelope, call.acts) == (True, True)


def test_what_cannot_be_read_may_do_anything() -> None:
    call = _read(b'{"model":"m","tools":[{"type":"mcp","x":' + b"[" * 3000 + b"]" * 3000 + b"}]}")
    assert call.unread or call.acts


def _read(body: bytes) -> Call:
    return OpenAI().read("chat/completions", "/chat/completions", "", "application/json", body)
