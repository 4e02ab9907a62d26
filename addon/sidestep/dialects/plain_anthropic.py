"""Anthropic's Messages as a stand-in takes them: without what its own API alone knows.

Pure: no mitmproxy, no clock, no I/O. Claude Code leaves most of it out itself where its base URL is another's, which
its requests show; the rest is what Kimi, DeepSeek, LM Studio and llama.cpp refuse ("unsupported content type …
tool_reference", "messages[1].role: unknown variant `system`").
"""

from __future__ import annotations

from typing import Any

import msgspec

from sidestep.dialects.common import encode, fields_of, items_of, text_of, value_of

MARKS_OF_A_PLATFORM = frozenset({"scope"})
"""What only the Claude API knows of a cache mark, not the other platforms that serve Claude."""
BILLING = "x-anthropic-billing-header:"
"""How the block of a system prompt begins that Claude Code puts there for Anthropic's accounts. It changes with each
call: no provider could keep a cache of what follows it."""
REMINDER = "<system-reminder>\n{}\n</system-reminder>"
"""The form in which Claude Code itself says to a model amid a conversation what it may not say as the system."""

_Fields = dict[str, msgspec.Raw]


def plain(body: bytes, *, claude: bool) -> bytes:
    """The body for a provider that is not the Claude API; the very same bytes if nothing changes. `claude`: it serves
    Claude, which finds its thinking bound to system prompt, tools and messages: those stay as they are."""
    fields = fields_of(body)
    if fields is None:
        return body
    changes: dict[str, msgspec.Raw | None] = {}
    for name in ("system", "tools", "messages"):
        before = items_of(fields.get(name))
        after = [_marks(item, claude=claude) for item in before]
        if not claude:
            after = _OTHERS[name](after)
        if after != before:
            changes[name] = _encoded(after)
    if not claude and "context_management" in fields:
        changes["context_management"] = None  # it is for a server of Anthropic's to carry out
    if not changes:
        return body
    return encode({k: v for k, v in {**fields, **changes}.items() if v is not None})


def _encoded(value: Any) -> msgspec.Raw:
    return msgspec.Raw(encode(value))


def _marks(raw: msgspec.Raw, *, claude: bool) -> msgspec.Raw:
    """A block, a tool or a message, whose cache marks say no more than is understood: that there is one, and at Claude
    for how long."""
    if b'"cache_control"' not in bytes(raw):
        return raw
    fields = fields_of(raw) or {}
    changes: _Fields = {}
    mark = value_of(fields.get("cache_control"))
    if isinstance(mark, dict):
        kept = {k: v for k, v in mark.items() if (k not in MARKS_OF_A_PLATFORM if claude else k == "type")}
        if kept != mark:
            changes["cache_control"] = _encoded(kept)
    before = items_of(fields.get("content"))
    after = [_marks(item, claude=claude) for item in before]
    if after != before:
        changes["content"] = _encoded(after)
    return _encoded({**fields, **changes}) if changes else raw


# --- for others than Claude


def _system(blocks: list[msgspec.Raw]) -> list[msgspec.Raw]:
    return [b for b in blocks if not (text_of((fields_of(b) or {}).get("text")) or "").startswith(BILLING)]


def _tools(tools: list[msgspec.Raw]) -> list[msgspec.Raw]:
    """Those that are to be looked for first are there at once."""
    found = []
    for raw in tools:
        fields = fields_of(raw) or {}
        kept = {k: v for k, v in fields.items() if k != "defer_loading"}
        found.append(raw if len(kept) == len(fields) else _encoded(kept))
    return found


def _messages(messages: list[msgspec.Raw]) -> list[msgspec.Raw]:
    """What the system says amid the conversation is added to what the user has said before it: two messages of the
    user in a row are refused where a model's template wants turns."""
    found: list[msgspec.Raw] = []
    role = None
    for raw in map(_without_references, messages):
        fields = fields_of(raw) or {}
        if text_of(fields.get("role")) != "system":
            role = text_of(fields.get("role"))
            found.append(raw)
            continue
        said = [_reminder(block) for block in _blocks(fields.get("content"))]
        if not said:
            continue
        if role == "user" and found:
            before = fields_of(found.pop()) or {}
        else:
            before, role = {"role": _encoded("user")}, "user"
        found.append(_encoded({**before, "content": [*_blocks(before.get("content")), *said]}))
    return found


def _blocks(content: msgspec.Raw | None) -> list[msgspec.Raw]:
    """Some content as blocks, which a text may stand for."""
    text = text_of(content)
    return items_of(content) if text is None else [_encoded({"type": "text", "text": text})]


def _reminder(block: msgspec.Raw) -> msgspec.Raw:
    fields = fields_of(block) or {}
    text = text_of(fields.get("text"))
    return block if text is None else _encoded({**fields, "text": REMINDER.format(text)})


def _without_references(raw: msgspec.Raw) -> msgspec.Raw:
    """A message, or the result of a tool in it, that names the tools which were found, in place of referring to
    them."""
    if b'"tool_reference"' not in bytes(raw):
        return raw
    fields = fields_of(raw) or {}
    if text_of(fields.get("type")) == "tool_reference":
        return _encoded({"type": "text", "text": text_of(fields.get("tool_name")) or ""})
    before = items_of(fields.get("content"))
    after = [_without_references(item) for item in before]
    return raw if after == before else _encoded({**fields, "content": after})


_OTHERS = {"system": _system, "tools": _tools, "messages": _messages}
