"""What in an OpenAI call depends on something that one provider holds or signed.

Pure: no mitmproxy, no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from sidestep.dialects import sealed_openai
from sidestep.dialects.base import Pin, PinKind
from sidestep.dialects.bodies import value_in
from sidestep.dialects.common import bounded, dicts_in, has_any, texts

_RESPONSE_WORDS = (
    *(b'"previous_response_id"', b'"conversation"', b'"file_id"', b'"file_ids"', b'"item_reference"'),
    *(b'"container"', b'"container_id"', b'"vector_store_ids"', b'"prompt"', b'"background"', b'"reasoning"'),
    # An item that is nothing but an id is a reference as well.
    *(b'"compaction"', b'"skill_id"', b'"tunnel_id"', b'"id"'),
)
_STATE_WORDS = {
    "responses": _RESPONSE_WORDS,
    "responses/compact": _RESPONSE_WORDS,
    "responses/input_tokens": _RESPONSE_WORDS,
    "chat/completions": (b'"file_id"', b'"audio"', b'"voice"', *sealed_openai.CHAT_WORDS),
    "audio/speech": (b'"voice"',),
    "images/edits": (b'"file_id"',),
}
"""What is in the bytes of a call that may refer to something; others are not looked into."""
_NOT_REFERENCES = frozenset({"arguments", "annotations", "results", "parameters", "json_schema", "schema"})
"""Fields whose insides are an app's own JSON, or quote what an earlier answer was made from."""


def pin_of(operation: str, fields: Mapping[str, msgspec.Raw], body: bytes) -> tuple[Pin | None, tuple[str, ...]]:
    """What ties the call to one provider or issuer, and the names of its sealed reasoning, the newest first."""
    if not has_any(body, _STATE_WORDS.get(operation, ())):
        return None, ()
    sealed: list[str] = []
    items: Any = None
    ids: list[str] = []
    reasons: list[str] = []

    def needs(reason: str, *found: Any) -> None:
        if any(found):
            reasons.append(reason)
            ids.extend(texts(*found))

    if operation.startswith("responses"):
        needs("previous_response_id", value_in(fields.get("previous_response_id")))
        conversation = value_in(fields.get("conversation"))
        needs("conversation", conversation.get("id") if isinstance(conversation, dict) else conversation)
        prompt = value_in(fields.get("prompt"))
        needs("prompt", isinstance(prompt, dict) and prompt.get("id"))
        if value_in(fields.get("background")) is True:
            # The answer is fetched later, by its id, from where the app sent this.
            reasons.append("background")
        items = value_in(fields.get("input"))
        sealed = sealed_openai.reasoning(items)
        _references_need(needs, items)
        _items_need(needs, items)
        _tools_need(needs, value_in(fields.get("tools")))
    elif operation == "chat/completions":
        messages = value_in(fields.get("messages"))
        _items_need(needs, messages)
        if has_any(body, sealed_openai.CHAT_WORDS):
            found = [
                name for m in (messages if isinstance(messages, list) else ()) for name in sealed_openai.chat_names(m)
            ]
            sealed = list(dict.fromkeys(reversed(found)))
        audio = value_in(fields.get("audio"))
        voice = audio.get("voice") if isinstance(audio, dict) else None
        needs("voice", isinstance(voice, dict) and voice.get("id"))
    elif operation == "images/edits":
        _items_need(needs, [value_in(fields.get("images")), value_in(fields.get("mask"))])
    elif operation == "audio/speech":
        voice = value_in(fields.get("voice"))
        needs("voice", isinstance(voice, dict) and voice.get("id"))
    if reasons:
        return Pin(PinKind.STATE, reasons[0], bounded(ids)), tuple(sealed)
    if sealed and sealed_openai.is_bound(items):
        return Pin(PinKind.SIGNATURE, "mcp_approval", tuple(sealed)), tuple(sealed)
    return None, tuple(sealed)


def _references_need(needs: Callable[..., None], items: Any) -> None:
    """A reference to a stored item may lack its type: then it is told by its id and nothing else."""
    for item in items if isinstance(items, list) else ():
        if isinstance(item, dict) and item.get("type") is None and item.keys() <= {"id", "type"}:
            needs("item_reference", item.get("id"))


def _items_need(needs: Callable[..., None], conversation: Any) -> None:
    """What the items of a conversation, or the parts of its messages, refer to."""
    for item in dicts_in(conversation, _NOT_REFERENCES):
        file_id = item.get("file_id")
        needs("file_id", isinstance(file_id, str) and file_id)
        match item.get("type"):
            case "item_reference":
                needs("item_reference", item.get("id"))
            case "reasoning" if not item.get("content") and not item.get("encrypted_content"):
                # Without its content it is looked up by its id.
                needs("reasoning", item.get("id"))
            case "image_generation_call" if not item.get("result"):
                # So an image is named that is to be worked on further.
                needs("image_generation_call", item.get("id"))
            case "program":
                needs("fingerprint", item.get("fingerprint") and (item.get("id") or True))
            case "compaction" | "context_compaction" if item.get("encrypted_content"):
                # What was said before is in there alone.
                needs("encrypted_content", True, *sealed_openai.names(item), item.get("id"))
            case "container_reference":
                needs("container", item.get("container_id"))
        audio = item.get("audio")
        if item.get("role") == "assistant" and isinstance(audio, dict):
            needs("audio", audio.get("id"))


def _tools_need(needs: Callable[..., None], tools: Any) -> None:
    for tool in tools if isinstance(tools, list) else ():
        if not isinstance(tool, dict):
            continue
        container = tool.get("container")
        if isinstance(container, dict):
            _container_needs(needs, container)
        else:
            needs("container", container)
        needs("tunnel_id", tool.get("type") == "mcp" and tool.get("tunnel_id"))
        stores = tool.get("vector_store_ids")
        needs("vector_store_ids", *(stores if isinstance(stores, list) else ()))
        environment = tool.get("environment")
        if isinstance(environment, dict):
            needs("container", environment.get("container_id"))
            _container_needs(needs, environment)
        mask = tool.get("input_image_mask")
        if isinstance(mask, dict):
            needs("file_id", mask.get("file_id"))


def _container_needs(needs: Callable[..., None], container: Mapping[str, Any]) -> None:
    """What is to be put into a container that is made for the call: uploaded files, and skills that are not inline."""
    files, skills = container.get("file_ids"), container.get("skills")
    needs("file_id", *(files if isinstance(files, list) else ()))
    for skill in skills if isinstance(skills, list) else ():
        needs("skill", isinstance(skill, dict) and skill.get("skill_id"))
