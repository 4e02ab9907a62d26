"""A call whose sealed reasoning its next provider does not take: whether it can go there, and the copy that can.

Pure: no mitmproxy, no clock, no I/O, no provider; each dialect's grammar is in the room of its name. Who issued which
piece is told by the caller, as the names of the pieces to be left out.

A stand-in's copy is without what its dialect's official API alone takes, too (`plain_anthropic`, `plain_openai`).

What is left out, what goes with it, what a stand-in demands, and what cannot be left out and stays with its issuer:

anthropic
    thinking, a whole message's at a time; with it go messages that hold nothing else, and, where a tool's result is
    answered, the switch `thinking: enabled` and `clear_thinking`. Sealed results of server tools; with them the tools'
    calls, and citations. Summaries that can be read; with them all before, and they stay as text.
    DeepSeek and Kimi demand thinking where a tool is called: it is switched off, and the effort goes; where it cannot
    be, what can be read of it stays unsigned.
    Stays: an open turn's server and MCP tools, summaries that cannot be read, reasoning at the very end.
openai, Responses
    reasoning items; with them the ids of what followed. OpenRouter demands that nothing be stored.
    Stays: compactions, approvals, what is named by an id.
openai, chat
    OpenRouter's details of reasoning, LiteLLM's blocks, signatures of Gemini beside calls of tools; with them all
    reasoning of the message. DeepSeek and Kimi demand `reasoning_content` where a tool is called.
gemini
    signatures; Gemini 3 demands a dummy on the first call of each step of the turn under way.
    Stays: cached content, files, whatever goes to image models.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sidestep.dialects import plain_anthropic, plain_openai, sealed_anthropic, sealed_gemini, sealed_openai
from sidestep.dialects.base import Call
from sidestep.dialects.common import UNSIGNED


@dataclass(frozen=True, slots=True)
class Target:
    """Where a copy goes: whose seals are honoured there, and what the model is called there. `own`: the app itself
    addressed it, and knows what else it takes."""

    issuer: str
    model: str | None
    own: bool = False


_SIGNERS = frozenset({sealed_anthropic.OFFICIAL, sealed_openai.OFFICIAL})
"""Issuers that sign all of their reasoning: what bears no signature is none of theirs, and is refused."""


_AZURE = ".azure.com"
"""How the issuers end that are Azure's resources."""


def is_foreign(name: str, issuer: str | None, target: str) -> bool:
    """Whether a piece of this issuer (None: unknown) is not taken by a provider whose issuer is `target`."""
    if issuer is None:
        return name.startswith(UNSIGNED) and target in _SIGNERS
    return issuer != target


def carries(call: Call, target: Target) -> bool:
    """Whether the call can go to the target at all, once its sealed reasoning has been left out."""
    return call.dialect != "gemini" or sealed_gemini.carries(target.model)


def may_demand(call: Call, target: Target) -> bool:
    """Whether the target refuses calls for what is *not* sealed in them, so that it needs a copy of any."""
    if target.own:
        return False
    if call.dialect == "anthropic":
        return True
    if call.operation.startswith("responses"):
        return target.issuer != sealed_openai.OFFICIAL
    return call.operation == "chat/completions" and target.issuer in sealed_openai.DEMANDING


def unsealed(call: Call, target: Target, body: bytes, leave_out: Collection[str]) -> bytes:
    """The body as the target takes it, without these pieces; the very same bytes if nothing changes. What is not
    touched stays byte for byte."""
    match call.dialect:
        case "anthropic":
            body = sealed_anthropic.unsealed(body, target.issuer, target.model, leave_out)
            if target.own:
                return body
            return plain_anthropic.plain(body, claude=target.issuer == sealed_anthropic.OFFICIAL)
        case "openai":
            body = sealed_openai.unsealed(call.operation, body, target.issuer, leave_out)
            if target.own or target.issuer == sealed_openai.OFFICIAL or not call.operation.startswith("responses"):
                return body
            return plain_openai.plain(body, groups=target.issuer.endswith(_AZURE))
        case _:
            return sealed_gemini.unsealed(body, target.model, leave_out)
