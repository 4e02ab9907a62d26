"""OpenAI's Responses as a stand-in takes them: without what Codex says to OpenAI's own API alone.

Pure: no mitmproxy, no clock, no I/O. What is known of it is what Codex itself leaves out where its provider is another
one, and what Azure, OpenRouter and gateways refuse.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sidestep.dialects.common import encode, fields_of, items_of, text_of

INTERNAL = "internal_chat_message_metadata_passthrough"
"""On items of a conversation. "Unknown parameter", says Azure; Codex sends it to OpenAI alone."""
MORE_TOOLS = "additional_tools"
"""An item that adds tools amid the conversation; Codex has all of its tools in one. Known to OpenAI alone."""
GROUP = "namespace"
"""A tool that holds others, in requests; the name of its group beside a call's own. Known to OpenAI and Azure."""
OWN_GROUP = "functions"
"""The group whose tools are called by their own names alone."""
_WORDS = tuple(f'"{word}"'.encode() for word in (INTERNAL, MORE_TOOLS, GROUP))

_Fields = dict[str, msgspec.Raw]


def plain(body: bytes, *, groups: bool) -> bytes:
    """The body for a provider that is not OpenAI's API; the very same bytes if nothing changes. `groups`: it knows
    groups of tools; another gets those that are called by their own names, and no others, for their calls would not
    find back."""
    if not any(word in body for word in _WORDS):
        return body
    fields = fields_of(body)
    if fields is None:
        return body
    before, tools_before = items_of(fields.get("input")), items_of(fields.get("tools"))
    items: list[msgspec.Raw] = []
    tools = list(tools_before)
    for raw in before:
        item = fields_of(raw) or {}
        if text_of(item.get("type")) == MORE_TOOLS:
            tools += items_of(item.get("tools"))
            continue
        out = {INTERNAL} if groups else {INTERNAL, GROUP}
        items.append(_encoded({k: v for k, v in item.items() if k not in out}) if out & item.keys() else raw)
    if not groups:
        tools = [tool for raw in tools for tool in _ungrouped(raw)]
    changes: _Fields = {}
    if items != before:
        changes["input"] = _encoded(items)
    if tools != tools_before:
        changes["tools"] = _encoded(tools)
    return encode({**fields, **changes}) if changes else body


def _encoded(value: Any) -> msgspec.Raw:
    return msgspec.Raw(encode(value))


def _ungrouped(raw: msgspec.Raw) -> list[msgspec.Raw]:
    tool = fields_of(raw) or {}
    if text_of(tool.get("type")) != GROUP:
        return [raw]
    return items_of(tool.get("tools")) if text_of(tool.get("name")) == OWN_GROUP else []
