"""Sealed reasoning in Anthropic's Messages: what is sealed, and a copy of a call for a provider that does not take it.

Pure: no mitmproxy, no clock, no I/O. The rules are those of Anthropic's pages on thinking, on preserved thinking and on
compaction, and what is known of the stand-ins that speak the dialect. What is left out depends on the call and on the
pieces to be left out alone, so that every later call of the conversation begins with the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec

from sidestep.dialects.common import UNSIGNED, dicts_in, digest, encode, fields_of, items_of, text_of, value_of

SIGNED = {
    "thinking": ("signature",),
    "redacted_thinking": ("data",),
    "compaction": ("encrypted_content", "signature"),
    "web_search_result": ("encrypted_content",),
    "web_search_result_location": ("encrypted_index",),
    "encrypted_code_execution_result": ("encrypted_stdout",),
    "advisor_redacted_result": ("encrypted_content",),
}
"""Blocks that come back in later calls with something that only their issuer can read, and where that is."""
WORDS = (
    *(b'"signature"', b'"redacted_thinking"', b'"thinking"', b'"compaction"'),
    *(b'"encrypted_content"', b'"encrypted_stdout"', b'"encrypted_index"'),
)
"""What is in the bytes of a conversation that may hold any of them."""
FREE = frozenset({"input"})
"""Fields whose insides are an app's own JSON."""

OFFICIAL = "anthropic"
DEMANDING = frozenset({"deepseek", "moonshot"})
"""Issuers whose models want thinking on every message that calls a tool, as long as thinking is on, which it is by
default: "The `content[].thinking` in the thinking mode must be passed back to the API"."""
ALWAYS_THINKING = ("kimi-k2.7-code",)
"""Models of theirs that refuse to have it switched off; they take thinking without a signature."""
PLACEHOLDER = "(earlier reasoning not available)"
SUMMARY_FOLLOWS = "(The conversation so far was summarised.)"
"""What the user says before a summary: a conversation begins with the user."""

_THINKING = ("thinking", "redacted_thinking")  # no set: what is looked for need not be hashable
_CLEAR_THINKING = "clear_thinking_"


# --- what is sealed


def names(value: Any) -> list[str]:
    """Names for the sealed pieces in some content, in their order."""
    found = []
    for block in dicts_in(value, FREE):
        kind = block.get("type")
        if not isinstance(kind, str) or kind not in SIGNED:
            continue
        signed = [block[where] for where in SIGNED[kind] if isinstance(block.get(where), str) and block[where]]
        if kind == "thinking" and not signed:
            text = block.get("thinking")
            found.append(UNSIGNED + _digest(text if isinstance(text, str) else ""))
        elif kind == "compaction" and not signed and isinstance(block.get("content"), str):
            found.append(_digest(block["content"]))
        found += [_digest(text) for text in signed]
    return found


def _digest(text: str) -> str:
    return digest(text.encode("utf-8", "surrogatepass"))


def is_bound(messages: Any) -> bool:
    """Whether the conversation, which has sealed pieces, goes on from one that cannot be left out: reasoning at its
    very end, a tool of the provider's own that has not finished, or whose sealed result the open turn needs, a summary
    that cannot be read."""
    messages = messages if isinstance(messages, list) else []
    contents = [_blocks(m) for m in messages]
    for content in contents:
        if any(b.get("type") == "compaction" and not isinstance(b.get("content"), str) for b in content):
            return True
    roles = [m.get("role") if isinstance(m, dict) else None for m in messages]
    if roles and roles[-1] == "assistant" and contents[-1]:
        last = contents[-1]
        done = {_text(b.get("tool_use_id")) for b in last}
        if last[-1].get("type") in _THINKING:
            return True
        if any(b.get("type") == "server_tool_use" and _text(b.get("id")) not in done for b in last):
            return True
    for role, content in zip(reversed(roles), reversed(contents), strict=True):
        if role == "user" and not any(b.get("type") == "tool_result" for b in content):
            break
        for block in content:
            kind = block.get("type")
            if kind in ("mcp_tool_use", "mcp_tool_result"):
                return True
            if kind not in (*_THINKING, "text", "compaction") and names(block):
                return True
    return False


def _blocks(message: Any) -> list[dict[str, Any]]:
    content = message.get("content") if isinstance(message, dict) else None
    return [b for b in content if isinstance(b, dict)] if isinstance(content, list) else []


# --- the copy


def unsealed(body: bytes, issuer: str, model: str | None, leave_out: Collection[str]) -> bytes:
    """The body for a provider of this issuer, under its name for the model, without these pieces; the very same bytes
    if nothing changes."""
    fields = fields_of(body)
    if fields is None:
        return body
    messages = [_Message(raw) for raw in items_of(fields.get("messages"))]
    whole = len(messages)
    always_thinks = model is not None and model.startswith(ALWAYS_THINKING)
    for message in messages:
        message.leave_out(leave_out, readable=issuer in DEMANDING and always_thinks)
    messages = _from_summary([m for m in messages if not m.is_emptied], leave_out)
    changes: dict[str, msgspec.Raw | None] = {}
    if issuer in DEMANDING and any(m.calls_a_tool and not m.thinks for m in messages):
        if always_thinks:
            for message in messages:
                message.think()
        else:
            for message in messages:
                message.keep(lambda block: block.kind not in _THINKING)
            messages = [m for m in messages if not m.is_emptied]
            changes = _thinking_off(fields, msgspec.Raw(b'{"type":"disabled"}'))
    elif _kind_of(fields.get("thinking")) == "enabled" and _opens_without_thinking(messages):
        # "Expected `thinking` …, but found `tool_use`. To avoid this requirement, disable `thinking`."
        changes = _thinking_off(fields, None)
    if len(messages) != whole or any(m.is_changed for m in messages):
        changes["messages"] = _encoded([m.encoded() for m in messages])
    if not changes:
        return body
    return encode({k: v for k, v in {**fields, **changes}.items() if v is not None})


class _Block:
    """One block of a message: its own bytes, and what they say."""

    __slots__ = ("kind", "raw", "value")

    def __init__(self, raw: msgspec.Raw) -> None:
        self.raw = raw
        value = value_of(raw)
        self.value: dict[str, Any] = value if isinstance(value, dict) else {}
        self.kind = _text(self.value.get("type"))

    def having(self, name: str, value: Any) -> _Block:
        """The block with another value in one field, or without it (None); the rest byte for byte."""
        fields = {**(fields_of(self.raw) or {}), name: _encoded(value)}
        return _Block(_encoded({k: v for k, v in fields.items() if k != name or value is not None}))


class _Message:
    """One message. State: its blocks, none where its content is a plain text."""

    def __init__(self, raw: msgspec.Raw) -> None:
        self._raw = raw
        self._fields = fields_of(raw) or {}
        self.role = text_of(self._fields.get("role"))
        self.blocks = [_Block(b) for b in items_of(self._fields.get("content"))]
        self._before = [b.raw for b in self.blocks]

    @property
    def is_changed(self) -> bool:
        return [b.raw for b in self.blocks] != self._before

    @property
    def is_emptied(self) -> bool:
        return bool(self._before) and not self.blocks

    @property
    def thinks(self) -> bool:
        return any(b.kind in _THINKING for b in self.blocks)

    @property
    def calls_a_tool(self) -> bool:
        return any(b.kind == "tool_use" for b in self.blocks)

    def encoded(self) -> msgspec.Raw:
        if not self.is_changed:
            return self._raw
        return _encoded({**self._fields, "content": [b.raw for b in self.blocks]})

    def keep(self, wanted: Callable[[_Block], bool]) -> None:
        self.blocks = [b for b in self.blocks if wanted(b)]

    def leave_out(self, pieces: Collection[str], *, readable: bool) -> None:
        """Without these pieces, and without what depends on them. `readable`: where a tool is called, what can be read
        of the reasoning stays, without its signature."""
        foreign = [b for b in self.blocks if any(name in pieces for name in names(b.value))]
        if not foreign:
            return
        thinking = any(b.kind in _THINKING for b in foreign)
        # A tool of the provider's own goes with its result: one without the other is refused.
        results = [b for b in foreign if isinstance(b.value.get("tool_use_id"), str)]
        tools = {b.value["tool_use_id"] for b in results}
        kept: list[_Block] = []
        for block in self.blocks:
            if block.kind in _THINKING:
                # Never a part of a message's reasoning: "the sequence may not be partially dropped".
                if thinking and readable and self.calls_a_tool and (text := block.value.get("thinking")):
                    kept.append(_Block(_encoded({"type": "thinking", "thinking": text})))
                elif not thinking:
                    kept.append(block)
            elif block.kind == "text":
                kept.append(_without_citations(block, pieces))
            elif block.kind == "compaction" or (block not in results and _text(block.value.get("id")) not in tools):
                kept.append(block)
        self.blocks = kept

    def think(self) -> None:
        """Begin with some thinking where a tool is called."""
        if self.calls_a_tool and not self.thinks:
            self.blocks.insert(0, _Block(_encoded({"type": "thinking", "thinking": PLACEHOLDER})))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _encoded(value: Any) -> msgspec.Raw:
    return msgspec.Raw(encode(value))


def _kind_of(raw: msgspec.Raw | None) -> str | None:
    return None if raw is None else text_of((fields_of(raw) or {}).get("type"))


def _without_citations(block: _Block, pieces: Collection[str]) -> _Block:
    cited = block.value.get("citations")
    if not isinstance(cited, list):
        return block
    kept = [c for c in cited if not any(name in pieces for name in names(c))]
    return block if len(kept) == len(cited) else block.having("citations", kept or None)


def _from_summary(messages: list[_Message], pieces: Collection[str]) -> list[_Message]:
    """The conversation from the last summary that is to be left out on, as plain text: Anthropic ignores all before."""
    for at in range(len(messages) - 1, -1, -1):
        message = messages[at]
        for i in range(len(message.blocks) - 1, -1, -1):
            block = message.blocks[i]
            if block.kind != "compaction" or not any(name in pieces for name in names(block.value)):
                continue
            text = _Block(_encoded({"type": "text", "text": block.value.get("content")}))
            message.blocks = [text, *message.blocks[i + 1 :]]
            before = _Message(_encoded({"role": "user", "content": SUMMARY_FOLLOWS}))
            return [before, *messages[at:]]
    return messages


def _opens_without_thinking(messages: list[_Message]) -> bool:
    """Whether the turn goes on after a tool's result, and its last message does not begin with thinking."""
    if not messages or not any(b.kind == "tool_result" for b in messages[-1].blocks):
        return False
    last = next((m for m in reversed(messages) if m.role == "assistant"), None)
    return last is not None and bool(last.blocks) and last.blocks[0].kind not in _THINKING


def _thinking_off(fields: Mapping[str, msgspec.Raw], thinking: msgspec.Raw | None) -> dict[str, msgspec.Raw | None]:
    """What changes with the switch: its other value, and what may only stand beside one that is on."""
    changes: dict[str, msgspec.Raw | None] = {"thinking": thinking}
    management = fields_of(fields["context_management"]) if "context_management" in fields else None
    if management is not None:
        edits = items_of(management.get("edits"))
        kept = [e for e in edits if not (_kind_of(e) or "").startswith(_CLEAR_THINKING)]
        if len(kept) < len(edits):
            # "`clear_thinking_20251015` strategy requires `thinking` to be enabled or adaptive".
            rest = {k: v for k, v in management.items() if k != "edits"} | ({"edits": _encoded(kept)} if kept else {})
            changes["context_management"] = _encoded(rest) if rest else None
    config = fields_of(fields["output_config"]) if thinking is not None and "output_config" in fields else None
    if config is not None and "effort" in config:
        # "thinking options type cannot be disabled when reasoning_effort is set".
        rest = {k: v for k, v in config.items() if k != "effort"}
        changes["output_config"] = _encoded(rest) if rest else None
    return changes
