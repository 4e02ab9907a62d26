"""Whether answering a call does something on its way, so that two providers must not answer it at once.

Pure: no mitmproxy, no clock, no I/O. What only reads (searches of the web or of files, pages that are fetched) and what
the app does itself (functions, a shell or an editor of its own) may be asked for twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from sidestep.dialects.bodies import NotReadError, value_in
from sidestep.dialects.common import has_any

_WORDS = (
    *(b'"mcp"', b'"mcp_servers"', b'"mcpServers"', b'"code_interpreter"', b'"code_execution', b'"codeExecution"'),
    b'"shell"',
)
"""What is in the bytes of such a call; others are not looked into."""
_KINDS = frozenset({"mcp", "code_interpreter"})
_FIELDS = ("codeExecution", "code_execution", "mcpServers", "mcp_servers")
"""Gemini names a tool by a field."""


def acts(fields: Mapping[str, msgspec.Raw], body: bytes) -> bool:
    """Whether the provider runs code for it, or calls somebody's server (MCP), of which nobody knows what it does."""
    if not has_any(body, _WORDS):
        return False
    try:
        servers, tools = value_in(fields.get("mcp_servers")), value_in(fields.get("tools"))
    except NotReadError:
        return True
    return bool(servers) or any(_acts(tool) for tool in (tools if isinstance(tools, list) else ()))


def _acts(tool: Any) -> bool:
    if not isinstance(tool, dict):
        return False
    kind = tool.get("type")
    if kind == "shell":  # the app's own, unless it is told where it is to be
        environment = tool.get("environment")
        return isinstance(environment, dict) and environment.get("type") != "local"
    if isinstance(kind, str) and (kind in _KINDS or kind.startswith("code_execution")):
        return True
    return kind is None and any(name in tool for name in _FIELDS)
