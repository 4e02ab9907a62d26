"""Requests and answers of all dialects as a conversation to read; streamed answers put together again.

Pure: no mitmproxy, no I/O. It goes by the shape of what it is given: for people's eyes, not for decisions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sidestep.dialects.sse import EventScanner

Turn = tuple[str, str]
"""Who speaks, or what it is, and the words."""


@dataclass(slots=True)
class Transcript:
    """`facts`: what else is worth a line: model, why it stopped, usage, an error."""

    turns: list[Turn] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)

    def say(self, who: str, words: Any) -> None:
        if words not in (None, "", [], {}):
            self.turns.append((who, words if isinstance(words, str) else json.dumps(words, ensure_ascii=False)))

    def go_on(self, who: str, words: Any) -> None:
        """A further piece of what the same one says."""
        if not isinstance(words, str) or not words:
            return
        if self.turns and self.turns[-1][0] == who:
            self.turns[-1] = (who, self.turns[-1][1] + words)
        else:
            self.turns.append((who, words))

    def note(self, name: str, value: Any) -> None:
        if value not in (None, "", [], {}):
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            self.facts = [(n, v) for n, v in self.facts if n != name] + [(name, text)]

    def __str__(self) -> str:
        parts = [f"{name}: {value}" for name, value in self.facts]
        text = "\n\n".join(["\n".join(parts), *(f"── {who}\n{words}" for who, words in self.turns)]).strip()
        # Half a surrogate, as a text has that was cut amid a letter, fits into no page.
        return text.encode("utf-8", "replace").decode("utf-8")


def read(body: bytes) -> Transcript | None:
    """What a body says, None if it is no LLM call or answer."""
    found = Transcript()
    start = body[:64].lstrip()
    if start.startswith((b"{", b"[")):
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            return None
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                _document(found, item)
    elif start.startswith((b"data:", b"event:", b":")):
        for event in _events(body):
            _event(found, event)
    return found if found.turns or any(name == "error" for name, _ in found.facts) else None


def read_messages(messages: Iterable[bytes], lane: Any = None) -> Transcript:
    """The answer that a provider has sent over a WebSocket, an event a message, put together again. `lane`: the
    `stream_id` of the one that is meant, of several at a time."""
    found = Transcript()
    output: list[dict[str, Any]] = []
    for message in messages:
        try:
            value = json.loads(message)
        except (ValueError, RecursionError):
            continue
        for event in (_dict(value), *_dicts(_dict(value).get("chunks"))):
            if event.get("stream_id") == lane:
                _event(found, event)
                output = _dicts(_dict(event.get("response")).get("output")) or output
    if not found.turns:
        for item in output:
            _item(found, item)
    return found


def _events(body: bytes) -> Iterator[dict[str, Any]]:
    scanner = EventScanner()
    scanned = scanner.feed(body)
    rest = scanner.close()
    for each in [*scanned, *([rest] if rest is not None else [])]:
        try:
            value = json.loads(each.data)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


def _document(found: Transcript, body: dict[str, Any]) -> None:
    """A whole request or answer."""
    found.note("model", body.get("model") or body.get("modelVersion"))
    found.note("error", body.get("error"))
    # Requests.
    found.say("instructions", body.get("instructions"))
    for name in ("system", "systemInstruction", "system_instruction"):
        _content(found, "system", body.get(name))
    tools = [t.get("name") or _dict(t.get("function")).get("name") or t.get("type") for t in _dicts(body.get("tools"))]
    found.note("tools", ", ".join(str(t) for t in tools if t))
    for message in _dicts(body.get("messages")):
        _message(found, message)
    if isinstance(body.get("input"), str):
        found.say("user", body["input"])
    for item in [*_dicts(body.get("input")), *_dicts(body.get("output"))]:
        _item(found, item)
    for content in _dicts(body.get("contents")):
        _content(found, str(content.get("role", "user")), content.get("parts"))
    # Answers.
    for choice in _dicts(body.get("choices")):
        for message in _dicts([choice.get("message")]):
            _message(found, message)
        found.say("assistant", choice.get("text"))
        found.note("finish", choice.get("finish_reason"))
    for candidate in _dicts(body.get("candidates")):
        _candidate(found, candidate)
    if body.get("type") == "message":
        _content(found, str(body.get("role", "assistant")), body.get("content"))
        found.note("finish", body.get("stop_reason"))
    found.note("usage", _usage(body.get("usage") or body.get("usageMetadata")))


_TOKENS = {
    "in": ("prompt_tokens", "input_tokens", "promptTokenCount"),
    "out": ("completion_tokens", "output_tokens", "candidatesTokenCount"),
    "read from a cache": ("cache_read_input_tokens", "cached_tokens", "cachedContentTokenCount"),
    "written to a cache": ("cache_creation_input_tokens",),
    "for reasoning": ("reasoning_tokens", "thoughtsTokenCount"),
}
"""What each dialect calls the tokens that it has counted."""
_DETAILS = ("prompt_tokens_details", "input_tokens_details", "completion_tokens_details", "output_tokens_details")


def _usage(told: Any) -> Any:
    """Tokens in words; what has other names, as it came."""
    if not isinstance(told, dict):
        return told
    flat = {**told, **{name: n for part in _DETAILS for name, n in _dict(told.get(part)).items()}}
    words = []
    for what, names in _TOKENS.items():
        count = next((flat[name] for name in names if isinstance(flat.get(name), int) and flat[name]), None)
        if count is not None:
            words.append(f"{count} {what}")
    return f"tokens: {', '.join(words)}" if words else told


def _message(found: Transcript, message: dict[str, Any]) -> None:
    role = str(message.get("role", "assistant"))
    found.say(f"{role}, thinking", message.get("reasoning_content") or message.get("reasoning"))
    _content(found, role, message.get("content"))
    found.say(f"{role}, refusal", message.get("refusal"))
    for call in _dicts(message.get("tool_calls")):
        function = _dict(call.get("function"))
        found.say(f"{role} calls {function.get('name')}", function.get("arguments"))


def _content(found: Transcript, role: str, content: Any) -> None:
    if isinstance(content, str):
        found.say(role, content)
        return
    if isinstance(content, dict):
        content = content.get("parts", [content])
    for part in _dicts(content):
        kind = part.get("type")
        call = part.get("functionCall") or (part if kind == "tool_use" else None)
        result = part.get("functionResponse") or (part if kind in ("tool_result", "function_call_output") else None)
        if isinstance(call, dict):
            found.say(f"{role} calls {call.get('name')}", call.get("args", call.get("input")))
        elif isinstance(result, dict):
            found.say(f"{role}, result", result.get("response", result.get("content")))
        elif kind == "thinking" or part.get("thought"):
            found.say(f"{role}, thinking", part.get("thinking") or part.get("text"))
        elif isinstance(part.get("text"), str):
            found.say(role, part["text"])
        else:
            found.say(role, f"({kind or ', '.join(part)})")


def _item(found: Transcript, item: dict[str, Any]) -> None:
    """An item of the Responses API."""
    match item.get("type", "message"):
        case "message":
            _content(found, str(item.get("role", "assistant")), item.get("content"))
        case "reasoning":
            _content(found, "assistant, thinking", item.get("summary") or item.get("content"))
        case "function_call" | "custom_tool_call":
            found.say(f"assistant calls {item.get('name')}", item.get("arguments") or item.get("input"))
        case "function_call_output" | "custom_tool_call_output":
            found.say("tool", item.get("output"))
        case kind:
            found.say("assistant", f"({kind})")


def _candidate(found: Transcript, candidate: dict[str, Any]) -> None:
    content = candidate.get("content")
    for part in _dicts(content.get("parts") if isinstance(content, dict) else None):
        if isinstance(part.get("text"), str):
            found.go_on("model, thinking" if part.get("thought") else "model", part["text"])
        else:
            _content(found, "model", [part])
    found.note("finish", candidate.get("finishReason"))


def _event(found: Transcript, event: dict[str, Any]) -> None:
    """One event of a stream."""
    kind = str(event.get("type", ""))
    found.note("model", event.get("model") or event.get("modelVersion"))
    found.note("error", event.get("error"))
    for choice in _dicts(event.get("choices")):
        given = choice.get("delta")
        piece = given if isinstance(given, dict) else {"content": choice.get("text")}
        found.go_on("assistant, thinking", piece.get("reasoning_content") or piece.get("reasoning"))
        found.go_on("assistant", piece.get("content"))
        for call in _dicts(piece.get("tool_calls")):
            function = _dict(call.get("function"))
            _call(found, function.get("name"), function.get("arguments"))
        found.note("finish", choice.get("finish_reason"))
    for candidate in _dicts(event.get("candidates")):
        _candidate(found, candidate)
    delta = event.get("delta")
    if kind.startswith("response."):
        _response_event(found, kind, event)
    elif kind == "message_start" and isinstance(event.get("message"), dict):
        found.note("model", event["message"].get("model"))
    elif kind == "content_block_start" and isinstance(event.get("content_block"), dict):
        if event["content_block"].get("type") == "tool_use":
            _call(found, event["content_block"].get("name"), "")
    elif isinstance(delta, dict):
        found.go_on("assistant", delta.get("text"))
        found.go_on("assistant, thinking", delta.get("thinking"))
        _call(found, None, delta.get("partial_json"))
        found.note("finish", delta.get("stop_reason"))
    found.note("usage", _usage(event.get("usage") or event.get("usageMetadata")))


def _response_event(found: Transcript, kind: str, event: dict[str, Any]) -> None:
    item, response = event.get("item"), event.get("response")
    if kind == "response.output_text.delta":
        found.go_on("assistant", event.get("delta"))
    elif kind.startswith("response.reasoning") and kind.endswith(".delta"):
        found.go_on("assistant, thinking", event.get("delta"))
    elif kind == "response.output_item.added" and isinstance(item, dict) and item.get("type") == "function_call":
        _call(found, item.get("name"), "")
    elif kind == "response.function_call_arguments.delta":
        _call(found, None, event.get("delta"))
    elif isinstance(response, dict):
        found.note("model", response.get("model"))
        found.note("finish", response.get("status"))
        found.note("usage", _usage(response.get("usage")))
        found.note("error", response.get("error"))


def _call(found: Transcript, name: Any, arguments: Any) -> None:
    """A tool call that begins (with its name), or a further piece of its arguments."""
    if isinstance(name, str) and name:
        found.turns.append((f"assistant calls {name}", ""))
    if isinstance(arguments, str) and found.turns and found.turns[-1][0].startswith("assistant calls "):
        found.go_on(found.turns[-1][0], arguments)
