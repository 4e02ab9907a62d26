"""Sealed reasoning in the Gemini dialect: what is sealed, and a copy of a call for a provider that does not take it.

Pure: no mitmproxy, no clock, no I/O. The rules are those of Google's pages on thought signatures; see
`sealed_anthropic` for what the same copy in every later call is good for.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Collection
from typing import Any

import msgspec

from sidestep.dialects.common import dicts_in, digest, encode, fields_of, items_of, text_of, value_of

FREE = frozenset({"args", "response", "parameters", "parametersJsonSchema", "responseSchema", "responseJsonSchema"})
"""Fields whose insides are an app's own JSON."""
DUMMY = "skip_thought_signature_validator"
"""What Google's documentation gives to apps that have no signature; both of its platforms take it."""
_DUMMIES = (DUMMY, "context_engineering_is_the_way_to_go")
DUMMIES = frozenset(_DUMMIES) | {b64encode(d.encode()).decode() for d in _DUMMIES}
"""In both forms in which they are met: SDKs whose field holds bytes send them in base64."""
DUMMIES |= {d.rstrip("=") for d in DUMMIES}

_FIELDS = ("thoughtSignature", "thought_signature")
_CALLS = ("functionCall", "function_call")
_RESULTS = ("functionResponse", "function_response")
_NOT_CHECKED = re.compile(r"gemini-[12]\b")
"""Older models take a call without any signature."""
_IMAGES = re.compile(r"gemini-(?![12]\b).*image")
"""What these do with a dummy the documentation tells in two ways."""


def names(value: Any) -> list[str]:
    """Names for the signatures in some content, in their order. Dummies are none."""
    found = []
    for part in dicts_in(value, FREE):
        signed = next((part[f] for f in _FIELDS if part.get(f)), None)
        if isinstance(signed, str) and signed not in DUMMIES:
            found.append(_digest(signed))
    return found


def _digest(text: str) -> str:
    return digest(text.encode("utf-8", "surrogatepass"))


def carries(model: str | None) -> bool:
    """Whether a conversation whose signatures must be left out can go to this model."""
    return model is None or _IMAGES.search(model) is None


def unsealed(body: bytes, model: str | None, leave_out: Collection[str]) -> bytes:
    """The body for another issuer's provider, under its name for the model, without these signatures: where the turn
    under way needs one, a dummy stands for it. The very same bytes if nothing changes."""
    fields = fields_of(body)
    contents = items_of(fields.get("contents")) if fields is not None else []
    if fields is None or not contents:
        return body
    checked = model is None or _NOT_CHECKED.search(model) is None
    turn = _turn_under_way(contents)
    copies = [_content(raw, leave_out, needs_one=checked and i >= turn) for i, raw in enumerate(contents)]
    if copies == contents:
        return body
    return encode({**fields, "contents": copies})


def _turn_under_way(contents: list[msgspec.Raw]) -> int:
    """Where the model's answer to the user's last words begins: results of functions are no words of the user."""
    for at in range(len(contents) - 1, -1, -1):
        content = fields_of(contents[at]) or {}
        parts = [value_of(p) for p in items_of(content.get("parts"))]
        results = any(isinstance(p, dict) and any(r in p for r in _RESULTS) for p in parts)
        if text_of(content.get("role")) in ("user", None) and not results:
            return at + 1
    return 0


def _content(raw: msgspec.Raw, leave_out: Collection[str], *, needs_one: bool) -> msgspec.Raw:
    """One message of the conversation. `needs_one`: its first function call must bear a signature."""
    content = fields_of(raw) or {}
    needs_one = needs_one and text_of(content.get("role")) == "model"
    before = items_of(content.get("parts"))
    parts: list[msgspec.Raw] = []
    for part_raw in before:
        part = fields_of(part_raw) or {}
        signature = next((f for f in _FIELDS if text_of(part.get(f))), None)
        foreign = signature is not None and any(n in leave_out for n in names(value_of(part_raw)))
        calls = any(c in part for c in _CALLS)
        if calls and needs_one and (foreign or signature is None):
            part[signature or _FIELDS[0]] = msgspec.Raw(encode(DUMMY))
            part_raw = msgspec.Raw(encode(part))
        elif foreign:
            part_raw = msgspec.Raw(encode({k: v for k, v in part.items() if k != signature}))
        needs_one = needs_one and not calls
        parts.append(part_raw)
    return raw if parts == before else msgspec.Raw(encode({**content, "parts": parts}))
