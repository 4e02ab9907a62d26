"""Sealed reasoning in the OpenAI dialect: what is sealed, and a copy of a call for a provider that does not take it.

Pure: no mitmproxy, no clock, no I/O. The rules are those of OpenAI's guide to reasoning, of the error messages that
OpenAI and Azure give, and of DeepSeek's and Moonshot's pages on thinking. See `sealed_anthropic` for what the same copy
in every later call is good for.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from sidestep.dialects.common import UNSIGNED, dicts_in, digest, encode, fields_of, items_of, value_of

OFFICIAL = "openai"
STATELESS = frozenset({"openrouter"})
"""Issuers that refuse `store: true` with a 400, for they store nothing."""
DEMANDING = {"deepseek": "", "moonshot": "."}
"""Issuers whose chat models want `reasoning_content` on every message that calls a tool, and the least that they
take for it."""


_OWN_JSON = frozenset({"arguments", "content", "input"})
"""Fields of a message in which an app's or a model's own words may look like anything."""
_BESIDE = ("reasoning_details", "thinking_blocks", "reasoning", "reasoning_content")
"""Where a chat's message holds the reasoning before it, by OpenRouter, LiteLLM and others."""
_DUMMIES = frozenset({"skip_thought_signature_validator", "context_engineering_is_the_way_to_go"})
"""What stands for a signature by Google's documentation: nobody has issued it."""
CHAT_WORDS = (b'"reasoning_details"', b'"thinking_blocks"', b'"thought_signature"', b'"thought_signatures"')
"""What is in the bytes of a chat in which something is sealed."""
SEALING = frozenset({"reasoning_details", "thinking_blocks", "tool_calls", "extra_content", "provider_specific_fields"})
"""The fields of a chat's message, or of a piece of one, that may hold what is sealed."""


# --- what is sealed


def names(item: Any) -> list[str]:
    """Names for what is sealed in one item of a Responses conversation."""
    if not isinstance(item, dict):
        return []
    sealed = item.get("encrypted_content")
    if isinstance(sealed, str) and sealed:
        return [_digest(sealed)]
    content = item.get("content")
    if item.get("type") != "reasoning" or not isinstance(content, list):
        return []
    text = "".join(p["text"] for p in content if isinstance(p, dict) and isinstance(p.get("text"), str))
    return [UNSIGNED + _digest(text)] if text else []


def reasoning(items: Any) -> list[str]:
    """The names of all reasoning in a Responses conversation, the newest first."""
    found = (
        [i for i in items if isinstance(i, dict) and i.get("type") == "reasoning"] if isinstance(items, list) else []
    )
    return [name for item in reversed(found) for name in names(item)]


def chat_names(message: Any) -> list[str]:
    """Names for what is sealed in one message of a chat, or in a piece of one that is streamed: OpenRouter's details,
    LiteLLM's blocks, the signatures of Gemini behind this dialect."""
    found: list[str] = []
    for part in dicts_in(message, _OWN_JSON):
        seals = [part.get("signature"), part.get("thought_signature")]
        if part.get("type") in ("reasoning.encrypted", "redacted_thinking"):
            seals.append(part.get("data"))
        more = part.get("thought_signatures")
        seals += more if isinstance(more, list) else []
        found += [_digest(s) for s in seals if isinstance(s, str) and s and s not in _DUMMIES]
    return found


def _digest(text: str) -> str:
    return digest(text.encode("utf-8", "surrogatepass"))


def is_bound(items: Any) -> bool:
    """Whether the conversation waits for leave to call a remote tool: the request for it lives with its issuer."""
    kinds = ("mcp_approval_request", "mcp_approval_response")
    return isinstance(items, list) and any(isinstance(i, dict) and i.get("type") in kinds for i in items)


# --- the copy


def unsealed(operation: str, body: bytes, issuer: str, leave_out: Collection[str]) -> bytes:
    """The body for a provider of this issuer without these pieces; the very same bytes if nothing changes."""
    fields = fields_of(body)
    if fields is None:
        return body
    if operation == "chat/completions":
        return _chat(body, fields, issuer, leave_out)
    before = items_of(fields.get("input"))
    items = _without_reasoning(before, leave_out)
    changes: dict[str, msgspec.Raw] = {}
    if items != before:
        changes["input"] = msgspec.Raw(encode(items))
    if issuer in STATELESS and value_of(fields.get("store")) is True:
        changes["store"] = msgspec.Raw(b"false")
    return encode({**fields, **changes}) if changes else body


def _without_reasoning(items: list[msgspec.Raw], leave_out: Collection[str]) -> list[msgspec.Raw]:
    """Whole items go, never the blob alone, for what is left of one is looked up by its id. What followed loses its
    id as well, up to the next reasoning that stays: "was provided without its required 'reasoning' item"."""
    kept: list[msgspec.Raw] = []
    orphaned = False
    for raw in items:
        item = value_of(raw)
        if isinstance(item, dict) and item.get("type") == "reasoning":
            orphaned = any(name in leave_out for name in names(item))
            if not orphaned:
                kept.append(raw)
        elif orphaned and isinstance(item, dict) and "id" in item:
            kept.append(msgspec.Raw(encode({k: v for k, v in (fields_of(raw) or {}).items() if k != "id"})))
        else:
            kept.append(raw)
    return kept


def _chat(body: bytes, fields: dict[str, msgspec.Raw], issuer: str, leave_out: Collection[str]) -> bytes:
    """A chat without foreign seals, and with the least reasoning that its issuer takes on messages that call a tool."""
    least = DEMANDING.get(issuer)
    messages: list[Any] = items_of(fields.get("messages"))
    changed = False
    for i, raw in enumerate(messages):
        message = fields_of(raw) or {}
        is_foreign = leave_out and not SEALING.isdisjoint(message) and _bears(value_of(raw), leave_out)
        if is_foreign:
            message = _without_seals(message, keep=() if least is None else ("reasoning_content",))
        lacks = least is not None and value_of(message.get("tool_calls")) and "reasoning_content" not in message
        if lacks:
            message = {**message, "reasoning_content": msgspec.Raw(encode(least))}
        if is_foreign or lacks:
            messages[i] = message
            changed = True
    return encode({**fields, "messages": messages}) if changed else body


def _bears(message: Any, leave_out: Collection[str]) -> bool:
    return any(name in leave_out for name in chat_names(message))


def _without_seals(message: dict[str, msgspec.Raw], keep: Collection[str]) -> dict[str, msgspec.Raw]:
    """All reasoning goes, for what is left of it is refused where a part is missing; a call of a tool stays."""
    left = {k: v for k, v in message.items() if k in keep or k not in (*_BESIDE, *_EXTRAS)}
    if "tool_calls" in left:
        calls = [_without_extras(value_of(call)) for call in items_of(left["tool_calls"])]
        left["tool_calls"] = msgspec.Raw(encode(calls))
    return left


_EXTRAS = ("extra_content", "provider_specific_fields")


def _without_extras(call: Any) -> Any:
    if not isinstance(call, dict):
        return call
    return {k: _without_extras(v) for k, v in call.items() if k not in _EXTRAS}
