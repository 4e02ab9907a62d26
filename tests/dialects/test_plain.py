"""What a stand-in gets of what the official API alone takes: whole bodies of agents, before and after."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestep.dialects import DIALECTS, sealed
from sidestep.dialects.sealed import Target

Json = dict[str, Any]
APIS = {"messages": ("anthropic", "messages", "/v1/messages"), "responses": ("openai", "responses", "/responses")}


def sent(api: str, body: Json, issuer: str, *, own: bool = False) -> Json:
    """The body as a provider gets it, with all its reasoning."""
    dialect, operation, tail = APIS[api]
    raw = json.dumps(body).encode()
    call = DIALECTS[dialect].read(operation, tail, "", "application/json", raw)
    found: Json = json.loads(sealed.unsealed(call, Target(issuer, "m", own), raw, ()))
    return found


def text(words: str, **more: Any) -> Json:
    return {"type": "text", "text": words, **more}


def says(role: str, *content: Any) -> Json:
    return {"role": role, "content": content[0] if isinstance(content[0], str) else list(content)}


def reminder(words: str, **more: Any) -> Json:
    return text(f"<system-reminder>\n{words}\n</system-reminder>", **more)


HOUR = {"type": "ephemeral", "ttl": "1h"}
EVERYWHERE = {"type": "ephemeral", "scope": "global"}
PLAIN_MARK = {"type": "ephemeral"}
USE = {"type": "tool_use", "id": "t1", "name": "ToolSearch", "input": {"content": [{"type": "tool_reference"}]}}


def result(*content: Json, **more: Any) -> Json:
    return {"type": "tool_result", "tool_use_id": "t1", "content": list(content), **more}


FOUND = {"type": "tool_reference", "tool_name": "TaskCreate"}
BILLING = text("x-anthropic-billing-header: cc_version=2.1.197.0df; cch=3fdd6;")
TASK: Json = {"name": "TaskCreate", "input_schema": {"properties": {"defer_loading": {}}}}
CLAUDE_CODE: Json = {
    "system": [BILLING, text("You are", cache_control=EVERYWHERE), text("Be", cache_control=HOUR)],
    "tools": [{"name": "Bash", "cache_control": EVERYWHERE}, {**TASK, "defer_loading": True}],
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "high"},
    "messages": [
        says("user", text("hi", cache_control=HOUR)),
        says("system", "Tools are now available"),
        says("assistant", USE),
        says("user", result(FOUND, text("x", cache_control=HOUR)), text("Tool loaded.", cache_control=EVERYWHERE)),
    ],
}

MESSAGES: dict[str, tuple[str, Json, Json]] = {
    "all of it": (
        "zai",
        CLAUDE_CODE,
        {
            "system": [text("You are", cache_control=PLAIN_MARK), text("Be", cache_control=PLAIN_MARK)],
            "tools": [{"name": "Bash", "cache_control": PLAIN_MARK}, TASK],
            "output_config": {"effort": "high"},
            "messages": [
                says("user", text("hi", cache_control=PLAIN_MARK), reminder("Tools are now available")),
                says("assistant", USE),
                says(
                    "user",
                    result(text("TaskCreate"), text("x", cache_control=PLAIN_MARK)),
                    text("Tool loaded.", cache_control=PLAIN_MARK),
                ),
            ],
        },
    ),
    "Claude elsewhere": (
        "anthropic",
        CLAUDE_CODE,
        {
            **CLAUDE_CODE,
            "system": [BILLING, text("You are", cache_control=PLAIN_MARK), text("Be", cache_control=HOUR)],
            "tools": [{"name": "Bash", "cache_control": PLAIN_MARK}, {**TASK, "defer_loading": True}],
            "messages": [
                *CLAUDE_CODE["messages"][:3],
                says(
                    "user",
                    result(FOUND, text("x", cache_control=HOUR)),
                    text("Tool loaded.", cache_control=PLAIN_MARK),
                ),
            ],
        },
    ),
    "a system prompt in words": (
        *("vllm", {"system": "s", "messages": [says("user", "hi"), says("system", "a"), says("system", text("b"))]}),
        {"system": "s", "messages": [says("user", text("hi"), reminder("a"), reminder("b"))]},
    ),
    "after an answer": (
        *("vllm", {"messages": [says("assistant", "x"), says("system", text("a", cache_control=HOUR))]}),
        {"messages": [says("assistant", "x"), says("user", reminder("a", cache_control=PLAIN_MARK))]},
    ),
    "at the beginning": (
        *("vllm", {"messages": [says("system", "a"), says("system", "b"), says("assistant", "x")]}),
        {"messages": [says("user", reminder("a"), reminder("b")), says("assistant", "x")]},
    ),
    "a directive without words": (
        *("vllm", {"messages": [says("user", "hi"), {"role": "system", "content": []}]}),
        {"messages": [says("user", "hi")]},
    ),
}


@pytest.mark.parametrize("row", MESSAGES)
def test_messages(row: str) -> None:
    """What Claude Code says to Anthropic's API alone is said otherwise, or not at all; where Claude's thinking is bound
    to its conversation, that stays as it is."""
    issuer, before, after = MESSAGES[row]
    assert sent("messages", before, issuer) == after


KEPT = {"internal_chat_message_metadata_passthrough": {"turn_id": "t"}}
ASKED = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "namespace"}]}
EXEC = {"type": "custom", "name": "exec"}
WAIT = {"type": "function", "name": "wait"}
SPAWN = {"type": "namespace", "name": "collaboration", "tools": [{"type": "function", "name": "spawn_agent"}]}
MORE = {
    "type": "additional_tools",
    "id": "at_1",
    "role": "developer",
    "tools": [{"type": "namespace", "name": "functions", "tools": [EXEC, WAIT]}, SPAWN],
}
SPAWNED = {"type": "function_call", "call_id": "c", "name": "spawn_agent", "arguments": '{"namespace": 1}'}
CODEX: Json = {"input": [MORE, {**ASKED, **KEPT}, {**SPAWNED, "namespace": "collaboration", **KEPT}]}
RESPONSES: dict[str, tuple[str, Json, Json]] = {
    "OpenRouter": ("openrouter", CODEX, {"input": [ASKED, SPAWNED], "tools": [EXEC, WAIT]}),
    "Azure": (
        *("east.openai.azure.com", CODEX),
        {"input": [ASKED, {**SPAWNED, "namespace": "collaboration"}], "tools": MORE["tools"]},
    ),
    "OpenAI": ("openai", CODEX, CODEX),
    "tools of its own": (
        *("groq", {"tools": [WAIT, SPAWN], "input": [{**MORE, "tools": [EXEC]}]}),
        {"tools": [WAIT, EXEC], "input": []},
    ),
}


@pytest.mark.parametrize("row", RESPONSES)
def test_responses(row: str) -> None:
    """What Codex says to OpenAI's API alone is left out; tools that are called by their own names stay."""
    issuer, before, after = RESPONSES[row]
    assert sent("responses", before, issuer) == after


@pytest.mark.parametrize(("api", "body"), [("messages", CLAUDE_CODE), ("responses", CODEX)])
def test_the_own_provider_gets_what_the_app_sends(api: str, body: Json) -> None:
    """Whoever it is: the app knows what it takes."""
    assert sent(api, body, "vllm", own=True) == body


@pytest.mark.parametrize("body", [b'{ "system":"s", "messages" : [{"role":"user","content":"hi"}]}', b'{"input": "x"}'])
@pytest.mark.parametrize("api", APIS)
def test_what_is_plain_stays_byte_for_byte(api: str, body: bytes) -> None:
    dialect, operation, tail = APIS[api]
    call = DIALECTS[dialect].read(operation, tail, "", "application/json", body)
    assert sealed.unsealed(call, Target("vllm", "m"), body, ()) is body


SAID = st.sampled_from([text("x"), text("y", cache_control=HOUR), USE, result(FOUND), "words"])
TALK = st.lists(st.builds(says, st.sampled_from(["user", "system", "assistant"]), SAID), max_size=8)


@given(TALK, st.sampled_from(["anthropic", "vllm"]))
def test_later_calls_begin_alike(talk: list[Json], issuer: str) -> None:
    """The copy of a longer conversation begins with the copy of the shorter one, so that prompt caches hold, and a copy
    needs none of its own. What the system says comes with the user's words before it."""
    whole = sent("messages", {"messages": talk}, issuer)["messages"]
    for end in range(len(talk)):
        if talk[end]["role"] != "system":
            begun = sent("messages", {"messages": copy.deepcopy(talk[:end])}, issuer)["messages"]
            assert whole[: len(begun)] == begun
    assert sent("messages", {"messages": whole}, issuer)["messages"] == whole
    if issuer != "anthropic":
        assert "system" not in {m["role"] for m in whole}
