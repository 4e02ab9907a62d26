"""Sessions of coding agents, without the agents: their calls as they make them, with nothing but keys in the
environment, or names of the catalog.

Both providers are strict about what another has signed or sealed (`support.strict`); the real agents have the same
sessions in `scripts/apps.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support.calls import APP_KEY
from support.provider import Behaviour
from support.proxy import Mitmdump
from support.raw import Wire, request
from support.sessions import KEYS, STAND_INS, Place
from support.strict import STEPS, final_words

Json = dict[str, Any]
Start = Callable[..., Mitmdump]
KIND = ("Content-Type", "application/json")


@dataclass
class ClaudeCode:
    """2.1.197: what it says as the system comes after the user's words, and some of its tools are deferred."""

    dialect = "anthropic"
    messages: list[Json] = field(default_factory=list)

    def asks(self, words: str) -> None:
        said: list[Json] = [{"type": "text", "text": words}]
        self.messages.append({"role": "user", "content": said})
        if len(self.messages) == 1:
            self.messages.append({"role": "system", "content": "The following deferred tools are now available."})

    def request(self) -> bytes:
        everywhere = {"type": "ephemeral", "scope": "global"}
        body = {
            "model": "claude-opus-4-8",
            "max_tokens": 64000,
            "thinking": {"type": "adaptive"},
            "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
            "output_config": {"effort": "high"},
            "system": [
                {"type": "text", "text": f"x-anthropic-billing-header: cch={len(self.messages)};"},
                {"type": "text", "text": "You are an agent", "cache_control": everywhere},
            ],
            "tools": [
                {"name": "Bash", "input_schema": {"type": "object"}},
                {"name": "TaskCreate", "input_schema": {"type": "object"}, "defer_loading": True},
            ],
            "messages": self.messages,
        }
        key = ("x-api-key", APP_KEY)
        return request("https://api.anthropic.com/v1/messages?beta=true", json.dumps(body).encode(), key, KIND)

    def hears(self, answer: bytes) -> str | None:
        """What it was told at last; None: it goes on with what its tools have said."""
        content = json.loads(answer)["content"]
        self.messages.append({"role": "assistant", "content": content})
        calls = [block["id"] for block in content if block["type"] == "tool_use"]
        if not calls:
            return str(content[-1]["text"])
        found = [{"type": "tool_reference", "tool_name": "TaskCreate"}]
        results = [{"type": "tool_result", "tool_use_id": each, "content": found} for each in calls]
        self.messages.append({"role": "user", "content": results})
        return None


@dataclass
class Codex:
    """0.169: its tools come amid the conversation, in groups, and each of its items bears metadata."""

    dialect = "openai"
    items: list[Json] = field(default_factory=list)

    def _says(self, item: Json) -> None:
        self.items.append({**item, "internal_chat_message_metadata_passthrough": {"turn_id": "t"}})

    def asks(self, words: str) -> None:
        if not self.items:
            group = {"type": "namespace", "name": "functions", "tools": [{"type": "custom", "name": "exec"}]}
            more = {"type": "namespace", "name": "collaboration", "tools": [{"type": "function", "name": "wait_agent"}]}
            self.items.append({"type": "additional_tools", "id": "at_1", "role": "developer", "tools": [group, more]})
        self._says({"type": "message", "id": f"msg_{len(self.items)}", "role": "user", "content": words})

    def request(self) -> bytes:
        body = {
            "model": "gpt-6.1-sol",
            "stream": True,
            "store": False,
            "input": self.items,
            "include": ["reasoning.encrypted_content"],
            "reasoning": {"effort": "low", "context": "all_turns"},
        }
        key = ("authorization", f"Bearer {APP_KEY}")
        return request("https://api.openai.com/v1/responses", json.dumps(body).encode(), key, KIND)

    def hears(self, answer: bytes) -> str | None:
        last = json.loads(answer.rpartition(b"data: ")[2])
        assert last["type"] == "response.completed", last
        output = last["response"]["output"]
        for item in output:
            self._says(item)
        if "call_id" not in output[-1]:
            return str(output[-1]["content"][0]["text"])
        kind = f"{output[-1]['type']}_output"
        self._says({"type": kind, "id": f"o_{len(self.items)}", "call_id": output[-1]["call_id"], "output": "said"})
        return None


@dataclass
class GeminiAgent:
    """What Gemini CLI and pydantic-ai have in common."""

    dialect = "gemini"
    contents: list[Json] = field(default_factory=list)

    def asks(self, words: str) -> None:
        self.contents.append({"role": "user", "parts": [{"text": words}]})

    def request(self) -> bytes:
        body = {"contents": self.contents, "tools": [{"functionDeclarations": [{"name": "say"}]}]}
        url = "https://generativelanguage.googleapis.com/v1beta/models/gemini-3-pro-preview:generateContent"
        return request(url, json.dumps(body).encode(), ("x-goog-api-key", APP_KEY), KIND)

    def hears(self, answer: bytes) -> str | None:
        content = json.loads(answer)["candidates"][0]["content"]
        self.contents.append(content)
        calls = [p["functionCall"]["name"] for p in content["parts"] if "functionCall" in p]
        if not calls:
            return str(content["parts"][-1]["text"])
        results = [{"functionResponse": {"name": name, "response": {"output": "said"}}} for name in calls]
        self.contents.append({"role": "user", "parts": results})
        return None


Agent = ClaudeCode | Codex | GeminiAgent


def turn(m: Mitmdump, agent: Agent, words: str) -> tuple[str, list[str]]:
    """What the agent is told at last, and who was asked on the way."""
    agent.asks(words)
    trails = []
    for _ in range(STEPS + 1):
        with Wire(m) as wire:
            status, headers, body = wire.send(agent.request()).answer()
        assert status == 200, body
        trails.append(headers["x-sidestep-attempts"])
        if (told := agent.hears(body)) is not None:
            return told, trails
    raise AssertionError("it was never told anything")


SESSIONS: list[tuple[type[Agent], str]] = [
    (ClaudeCode, "openrouter with Claude"),
    (ClaudeCode, "deepseek-anthropic"),
    (ClaudeCode, "a gateway"),
    (Codex, "openrouter"),
    (Codex, "azure"),
    (GeminiAgent, "vertex"),
]


@pytest.mark.parametrize(("kind", "stand_in"), SESSIONS, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_an_agents_session_goes_on(kind: type[Agent], stand_in: str, proxy: Start, tmp_path: Path) -> None:
    """After two good answers its provider fails: the other one answers, and refuses nothing of what it gets. Behind a
    proxy that has seen nothing of all that the session goes on as well, at home and then again elsewhere."""
    agent = kind()
    with Place(tmp_path, kind.dialect, stand_in, "503") as place:
        keys = {**KEYS, "XDG_CONFIG_HOME": str(tmp_path)}
        options = ("--mode", f"upstream:{place.way.url}", "--set", f"ssl_verify_upstream_trusted_ca={place.trusted}")
        named = stand_in.partition(" ")[0]
        own, other = agent.dialect, "mine" if STAND_INS[stand_in].toml.startswith('name = "mine"') else named

        def start() -> Mitmdump:
            return proxy(place.config, *options, env=keys)

        told, trails = turn(start(), agent, "go")
        assert told == final_words("b")
        assert trails[:3] == [f"{own}:200", f"{own}:200", f"{own}:503, {own}:503, {other}:200"]
        m = start()
        place.heal()
        assert turn(m, agent, "again")[0] == final_words("a")
        place.a.fault = Behaviour(status=503)
        assert turn(m, agent, "once more")[0] == final_words("b")
        assert place.b.refusals == place.astray == []
        assert len(place.a.refusals) <= 1
