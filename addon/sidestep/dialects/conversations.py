"""Which conversation a call belongs to, told by its opening and its last words.

Pure: no mitmproxy, no clock, no I/O.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

import msgspec

from sidestep.dialects.base import Conversation
from sidestep.dialects.common import UNREADABLE, encode, items_of, text_of, value_of

OPENING_MESSAGES = 8
"""Messages of the user before the first answer that are looked into: agents send their surroundings as some."""
END_LETTERS = 16_384
"""Of a text longer than two of these, only so much of its beginning and of its end is looked at: bodies may have
megabytes, and a conversation is told by less."""
END_BYTES = 65_536
"""The same for whatever else a message holds."""
_ANSWERING = ("assistant", "model", "tool", "function")  # no set: what is looked for need not be hashable
_RESULTS = (b'"tool_result"', b'"functionResponse"', b'"function_response"')
"""What a message of the user's holds that is a tool's."""
_KEY = secrets.token_bytes(32)
"""Digests of what people say are keyed: no one can look for a sentence in the memory of another process."""


class _Turn(msgspec.Struct):
    role: Any = None
    type: Any = None


_turn = msgspec.json.Decoder(_Turn)


def share_digests(key: bytes) -> None:
    """From now on digests are the same in all processes that have this key of 16 to 64 bytes."""
    global _KEY
    _KEY = key


def conversation_of(messages: msgspec.Raw | None) -> Conversation | None:
    """Which conversation these messages belong to; None where there are none.

    What the user said before the first answer stands for it, without the cache marks that wander from turn to turn.
    Not the system prompt: coding agents put the date, or a checksum of the request, into it.
    """
    if messages is None:
        return None
    items = items_of(messages)
    if not items:
        said = text_of(messages)  # a Responses call may have one string for its input
        if said is None:
            return None
        items = [msgspec.Raw(encode({"content": said}))]
    opening: list[msgspec.Raw] = []
    answer = None
    for item in items:
        speaker = _speaker(item)
        if speaker == "user" and len(opening) < OPENING_MESSAGES:
            opening.append(item)
        elif speaker == "answer" and opening:
            answer = item
            break
    gists = [_gist(item) for item in opening or items[:1]]
    return Conversation(
        opening=_keyed(gists),
        answered=None if answer is None else _keyed([*gists, _gist(answer)]),
        length=len(items),
        end=_keyed([bytes(items[-1])]),
        opens_turn=_opens_turn(items),
    )


def _opens_turn(items: list[msgspec.Raw]) -> bool:
    """Whether it is the user who has spoken last, a system that reminds of something aside."""
    for item in items[: -OPENING_MESSAGES - 1 : -1]:
        if speaker := _speaker(item):
            # Within a text the quotes would be escaped.
            return speaker == "user" and not any(word in bytes(item) for word in _RESULTS)
    return False


def _speaker(item: msgspec.Raw) -> str:
    """`user`, `answer` (of the model, or of a tool that it called), or another speaker."""
    try:
        turn = _turn.decode(item)
    except UNREADABLE:
        return ""
    if turn.role is None:
        # An item of the Responses API that is no message is a piece of an answer; Gemini's user needs no role.
        return "user" if turn.type in (None, "message") else "" if turn.type == "item_reference" else "answer"
    return "user" if turn.role == "user" else "answer" if turn.role in _ANSWERING else ""


def _gist(item: msgspec.Raw) -> bytes:
    """What a message says, the same whether its text stands alone or in a block, and whatever is cached of it."""
    message = value_of(item)
    if not isinstance(message, dict):
        return bytes(item)
    content = message.get("content", message.get("parts"))
    if content is None:
        content = {k: v for k, v in message.items() if k != "status"}
    blocks = [_without_marks(block) for block in (content if isinstance(content, list) else [content])]
    try:
        return encode([blocks, message.get("tool_calls")])
    except (ValueError, OverflowError, RecursionError):
        return bytes(item)


def _without_marks(block: Any) -> Any:
    text = block.get("text") if isinstance(block, dict) else block
    if isinstance(text, str):
        return text if len(text) <= 2 * END_LETTERS else [text[:END_LETTERS], len(text), text[-END_LETTERS:]]
    return {k: v for k, v in block.items() if k != "cache_control"} if isinstance(block, dict) else block


def _keyed(parts: list[bytes]) -> bytes:
    """A digest that means nothing outside this process, or its fleet. Of what is long, its ends and its length are
    taken."""
    digest = hashlib.blake2b(key=_KEY, digest_size=16)
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part if len(part) <= 2 * END_BYTES else part[:END_BYTES] + part[-END_BYTES:])
    return digest.digest()
