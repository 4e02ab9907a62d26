"""The calls of coding agents, without the agents: as they make them, and as they go on from what they are told."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from support.calls import APP_KEY
from support.proxy import Mitmdump
from support.raw import Wire, request
from support.strict import STEPS
from support.vendors import ACCOUNT, LOGINS

Json = dict[str, Any]
KIND = ("Content-Type", "application/json")


@dataclass
class ClaudeCode:
    """2.1.197: what it says as the system comes after the user's words, and some of its tools are deferred. A session
    goes on with the model that its last answer names."""

    dialect = "anthropic"
    login: str = ""
    """A plan's; without one it has a key."""
    model: str = "claude-opus-4-8"
    messages: list[Json] = field(default_factory=list)

    def asks(self, words: str) -> None:
        said: list[Json] = [{"type": "text", "text": words}]
        self.messages.append({"role": "user", "content": said})
        if len(self.messages) == 1:
            self.messages.append({"role": "system", "content": "The following deferred tools are now available."})

    def request(self) -> bytes:
        everywhere = {"type": "ephemeral", "scope": "global"}
        body = {
            "model": self.model,
            "stream": True,
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
        beta = ("anthropic-beta", "oauth-2025-04-20")
        keys = [("authorization", f"Bearer {self.login}"), beta] if self.login else [("x-api-key", APP_KEY)]
        return request("https://api.anthropic.com/v1/messages?beta=true", json.dumps(body).encode(), *keys, KIND)

    def hears(self, answer: bytes) -> str | None:
        """What it was told at last; None: it goes on with what its tools have said."""
        content = self._content(answer)
        self.messages.append({"role": "assistant", "content": content})
        calls = [block["id"] for block in content if block["type"] == "tool_use"]
        if not calls:
            return str(content[-1]["text"])
        found = [{"type": "tool_reference", "tool_name": "TaskCreate"}]
        results = [{"type": "tool_result", "tool_use_id": each, "content": found} for each in calls]
        self.messages.append({"role": "user", "content": results})
        return None

    def _content(self, answer: bytes) -> list[Json]:
        """The blocks of a stream."""
        blocks: list[Json] = []
        events = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith(b"data: ")]
        for event in events:
            if event["type"] == "message_start":
                self.model = event["message"]["model"]
            elif event["type"] == "content_block_start":
                blocks.append(event["content_block"])
            elif event["type"] == "content_block_delta":
                for name, piece in event["delta"].items():
                    if name == "partial_json":
                        blocks[-1]["input"] = json.loads(piece)
                    elif name != "type":
                        blocks[-1][name] = blocks[-1].get(name, "") + piece
        assert events[-1]["type"] == "message_stop", answer
        return blocks


@dataclass
class Codex:
    """0.171: its tools come amid the conversation, in groups, and each of its items bears metadata."""

    dialect = "openai"
    login: str = ""
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
        data, key = json.dumps(body).encode(), ("authorization", f"Bearer {self.login or APP_KEY}")
        if not self.login:
            return request("https://api.openai.com/v1/responses", data, key, KIND)
        account = ("chatgpt-account-id", ACCOUNT)
        return request("https://chatgpt.com/backend-api/codex/responses", data, key, account, KIND)

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
    """What Gemini CLI and pydantic-ai have in common. Logged in, it is Gemini CLI alone."""

    dialect = "gemini"
    login: str = ""
    contents: list[Json] = field(default_factory=list)

    def asks(self, words: str) -> None:
        self.contents.append({"role": "user", "parts": [{"text": words}]})

    def request(self) -> bytes:
        body = {"contents": self.contents, "tools": [{"functionDeclarations": [{"name": "say"}]}]}
        if self.login:
            enveloped = {"model": "gemini-3-pro-preview", "project": ACCOUNT, "user_prompt_id": "p", "request": body}
            url = "https://cloudcode-pa.googleapis.com/v1internal:generateContent"
            key = ("authorization", f"Bearer {self.login}")
            return request(url, json.dumps(enveloped).encode(), key, KIND)
        url = "https://generativelanguage.googleapis.com/v1beta/models/gemini-3-pro-preview:generateContent"
        return request(url, json.dumps(body).encode(), ("x-goog-api-key", APP_KEY), KIND)

    def hears(self, answer: bytes) -> str | None:
        told = json.loads(answer)
        content = (told["response"] if self.login else told)["candidates"][0]["content"]
        self.contents.append(content)
        calls = [p["functionCall"]["name"] for p in content["parts"] if "functionCall" in p]
        if not calls:
            return str(content["parts"][-1]["text"])
        results = [{"functionResponse": {"name": name, "response": {"output": "said"}}} for name in calls]
        self.contents.append({"role": "user", "parts": results})
        return None


Agent = ClaudeCode | Codex | GeminiAgent


def logged_in(dialect: str) -> Agent:
    """The agent of a dialect, with a plan."""
    kinds: dict[str, type[Agent]] = {"anthropic": ClaudeCode, "openai": Codex, "gemini": GeminiAgent}
    return kinds[dialect](login=LOGINS[dialect])


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
