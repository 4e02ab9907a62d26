"""Good answers that say something else than plain text, or nothing, and mean it: each is its provider's own word."""

from __future__ import annotations

import json
from typing import Any

from support.provider import Behaviour, grammar

Pieces = list[Any]
"""What an answer is made of: bytes as they are, all else as JSON, in a stream as an event."""

_TEXT = "A w1 w2 w3 w4 w5"
_ARGUMENTS = '{"path": "/a", "n": 1}'
_ONE = Behaviour(tokens=6)


def _chunk(delta: Any, finish: str | None = None, **more: Any) -> dict[str, Any]:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **more}


def _chat(message: Any, finish: str | None, **more: Any) -> dict[str, Any]:
    choices = [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}]
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, **more}


_DONE = b"data: [DONE]\n\n"
_ROLE = _chunk({"role": "assistant", "content": None})
_CALL = {"index": 0, "id": "t1", "type": "function", "function": {"name": "f", "arguments": ""}}
_COUNTS = {"prompt_tokens": 7, "completion_tokens": 6, "total_tokens": 13}
_NONE_MADE = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}


def _arguments(text: str) -> dict[str, Any]:
    return _chunk({"tool_calls": [{"index": 0, "function": {"arguments": text}}]})


_CHAT_STREAMS: dict[str, Pieces] = {
    "tool call": [
        _chunk({"role": "assistant", "content": None, "tool_calls": [_CALL]}),
        _arguments(_ARGUMENTS[:8]),
        _arguments(_ARGUMENTS[8:]),
        _chunk({}, "tool_calls"),
        _DONE,
    ],
    "tool call in one piece": [_chunk({"role": "assistant", "tool_calls": [_CALL]}, "tool_calls"), _DONE],
    "reasoning first": [
        _ROLE,
        _chunk({"reasoning_content": "hm"}),
        _chunk({"content": _TEXT}),
        _chunk({}, "stop"),
        _DONE,
    ],
    "reasoning details": [
        _chunk({"role": "assistant", "content": "", "reasoning": "hm", "reasoning_details": [{"text": "hm"}]}),
        _chunk({"content": _TEXT}, "stop"),
        _DONE,
    ],
    "reasoning alone": [_ROLE, _chunk({"reasoning_content": "hm"}), _chunk({}, "length"), _DONE],
    "refusal": [_ROLE, _chunk({"refusal": "I cannot"}), _chunk({}, "stop"), _DONE],
    "two choices": [
        {**_ROLE, "choices": [{**_ROLE["choices"][0], "index": i} for i in (0, 1)]},
        _chunk({"content": _TEXT}),
        {**_ROLE, "choices": [{"index": 1, "delta": {"content": "B"}, "finish_reason": "stop"}]},
        _chunk({}, "stop"),
        _DONE,
    ],
    "usage last": [
        _ROLE,
        _chunk({"content": _TEXT}),
        _chunk({}, "stop"),
        {**_ROLE, "choices": [], "usage": _COUNTS},
        _DONE,
    ],
    "usage in each": [_chunk({"content": _TEXT}, usage=_COUNTS), _chunk({}, "stop", usage=_COUNTS), _DONE],
    "all in one": [_chunk({"role": "assistant", "content": _TEXT}, "stop"), _DONE],
    "an empty reason in each": [
        _chunk({"content": _TEXT}, ""),
        _chunk({"content": "."}, ""),
        _chunk({}, "stop"),
        _DONE,
    ],
    "a null error in each": [_chunk({"content": _TEXT}, error=None), _chunk({}, "stop", error=None), _DONE],
    "filtered": [
        {"choices": [], "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}]},
        _ROLE,
        _chunk({}, "content_filter"),
        _DONE,
    ],
    "cut at its length": [_ROLE, _chunk({}, "length"), _DONE],
    "nothing to say": [_ROLE, _chunk({}, "stop", usage=_NONE_MADE), _DONE],
    "no end": [_ROLE, _chunk({"content": _TEXT}), _chunk({}, "stop")],
    "sound": [
        _chunk({"audio": {"id": "a", "data": "UklGRg=="}}),
        _chunk({"audio": {"transcript": "A"}}, "stop"),
        _DONE,
    ],
    "a reason of its own": [_chunk({"content": _TEXT}), _chunk({}, "eos_token"), _DONE],
    "sensitive": [_ROLE, _chunk({"content": _TEXT}), _chunk({}, "sensitive"), _DONE],
    "more after its end": [_chunk({"content": _TEXT}, "stop"), _DONE, b": bye\n\n", _DONE],
    "citations": [_chunk({"content": _TEXT}, citations=["http://x.test"]), _chunk({}, "stop"), _DONE],
}
_CHAT_ANSWERS: dict[str, Pieces] = {
    "tool call": [_chat({"content": None, "tool_calls": [_CALL]}, "tool_calls")],
    "tool call, another reason": [_chat({"content": "", "tool_calls": [_CALL]}, "stop", usage=_NONE_MADE)],
    "function call": [_chat({"content": None, "function_call": {"name": "f", "arguments": "{}"}}, "function_call")],
    "refusal": [_chat({"content": None, "refusal": "I cannot"}, "stop")],
    "reasoning alone": [_chat({"content": None, "reasoning_content": "hm"}, "length", usage=_COUNTS)],
    "parts": [_chat({"content": [{"type": "text", "text": _TEXT}]}, "stop")],
    "sound": [_chat({"content": None, "audio": {"id": "a", "data": "UklGRg==", "transcript": "A"}}, "stop")],
    "filtered": [_chat({"content": ""}, "content_filter", usage={**_NONE_MADE, "completion_tokens": 0})],
    "cut at its length": [_chat({"content": ""}, "length", usage=_COUNTS)],
    "nothing to say": [_chat({"content": ""}, "stop", usage=_NONE_MADE)],
    "no reason": [_chat({"content": _TEXT}, None)],
    "an empty error": [_chat({"content": _TEXT}, "stop", error={"code": 0, "message": ""})],
    "a null error": [_chat({"content": _TEXT}, "stop", error=None, usage=None, base_resp={"status_code": 0})],
    "a reason of its own": [_chat({"content": _TEXT}, "eos_token")],
}

_WHOLE = grammar("responses", "A", b"{}", _ONE).whole()
_WAITING = {**_WHOLE, "status": "in_progress", "output": [], "usage": None}


def _item(kind: str, **more: Any) -> dict[str, Any]:
    return {"id": f"{kind}_1", "type": kind, "status": "completed", **more}


def _responded(*items: Any, status: str = "completed", **more: Any) -> dict[str, Any]:
    return {**_WHOLE, "status": status, "output": list(items), **more}


def _response(*events: Any, ends: Any = None) -> Pieces:
    last = ends or _WHOLE
    end = {"type": f"response.{last['status']}", "response": last}
    return [{"type": "response.created", "response": _WAITING}, *events, end]


_TOOL = _item("function_call", call_id="t1", name="f", arguments=_ARGUMENTS)
_SUMMARY = _item("reasoning", summary=[{"type": "summary_text", "text": "hm"}])
_REFUSAL = _item("message", role="assistant", content=[{"type": "refusal", "refusal": "I cannot"}])
_FILTERED = _responded(status="incomplete", incomplete_details={"reason": "content_filter"})
_TOO_LONG = _responded(status="incomplete", incomplete_details={"reason": "max_output_tokens"})
_DRAWN = _item("image_generation_call", result="AAAA")
_RESPONSE_STREAMS: dict[str, Pieces] = {
    "tool call": _response(
        {"type": "response.output_item.added", "output_index": 0, "item": {**_TOOL, "arguments": ""}},
        {"type": "response.function_call_arguments.delta", "item_id": "f", "delta": _ARGUMENTS[:8]},
        {"type": "response.function_call_arguments.delta", "item_id": "f", "delta": _ARGUMENTS[8:]},
        {"type": "response.function_call_arguments.done", "item_id": "f", "arguments": _ARGUMENTS},
        {"type": "response.output_item.done", "output_index": 0, "item": _TOOL},
        ends=_responded(_TOOL),
    ),
    "tool call in one piece": _response({"type": "response.output_item.done", "item": _TOOL}, ends=_responded(_TOOL)),
    "reasoning first": _response(
        {"type": "response.reasoning_summary_text.delta", "delta": "hm"},
        {"type": "response.output_item.done", "item": _SUMMARY},
        {"type": "response.output_text.delta", "delta": _TEXT},
        ends=_responded(_SUMMARY, *_WHOLE["output"]),
    ),
    "refusal": _response({"type": "response.refusal.delta", "delta": "I cannot"}, ends=_responded(_REFUSAL)),
    "search": _response(
        {"type": "response.web_search_call.searching", "item_id": "ws"},
        {"type": "response.output_item.done", "item": _item("web_search_call")},
        {"type": "response.output_text.delta", "delta": _TEXT},
    ),
    "picture": _response(
        {"type": "response.image_generation_call.partial_image", "partial_image_b64": "AAAA"},
        ends=_responded(_DRAWN),
    ),
    "filtered": _response(ends=_FILTERED),
    "cut at its length": _response(ends=_TOO_LONG),
    "nothing but its end": _response(),
    "no names": [
        b"data: " + json.dumps(e).encode() + b"\n\n"
        for e in _response({"type": "response.output_text.delta", "delta": "A"})
    ],
    "an end of another kind": [*_response({"type": "response.output_text.delta", "delta": _TEXT}), _DONE],
    "an empty error": _response({"type": "response.output_text.delta", "delta": _TEXT, "error": None}),
}
_RESPONSE_ANSWERS: dict[str, Pieces] = {
    "tool call": [_responded(_TOOL)],
    "reasoning alone": [_responded(_SUMMARY, status="incomplete", incomplete_details={"reason": "max_output_tokens"})],
    "refusal": [_responded(_REFUSAL)],
    "picture": [_responded(_DRAWN)],
    "filtered": [_FILTERED],
    "cut at its length": [_TOO_LONG],
    "in the background": [_responded(status="queued", usage=None, background=True)],
    "nothing to say": [_responded(_item("message", role="assistant", content=[]))],
    "a null error": [{**_WHOLE, "error": None, "incomplete_details": None}],
}


def _message(content: Any, stop: str | None, made: int = 6, **more: Any) -> dict[str, Any]:
    usage = {"input_tokens": 7, "output_tokens": made}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": content}
    return {**message, "stop_reason": stop, "stop_sequence": None, "usage": usage, **more}


def _block(at: int, block: Any, *deltas: Any) -> Pieces:
    pieces = [{"type": "content_block_delta", "index": at, "delta": d} for d in deltas]
    start = {"type": "content_block_start", "index": at, "content_block": block}
    return [start, *pieces, {"type": "content_block_stop", "index": at}]


def _messages(*pieces: Any, stop: str = "end_turn", made: int = 6) -> Pieces:
    start = {"type": "message_start", "message": _message([], None, 1)}
    delta = {"stop_reason": stop, "stop_sequence": None}
    end = {"type": "message_delta", "delta": delta, "usage": {"output_tokens": made}}
    return [start, *pieces, end, {"type": "message_stop"}]


_SAID = _block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": _TEXT})
_USE = {"type": "tool_use", "id": "t1", "name": "f", "input": {}}
_THINKS = {"type": "thinking", "thinking": "", "signature": ""}
_SEARCHED = {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []}
_MESSAGE_STREAMS: dict[str, Pieces] = {
    "tool call": _messages(
        *_block(
            0, _USE, *({"type": "input_json_delta", "partial_json": p} for p in ("", _ARGUMENTS[:8], _ARGUMENTS[8:]))
        ),
        stop="tool_use",
    ),
    "tool call without arguments": _messages(*_block(0, _USE), stop="tool_use"),
    "thinking first": _messages(
        *_block(
            0, _THINKS, {"type": "thinking_delta", "thinking": "hm"}, {"type": "signature_delta", "signature": "s"}
        ),
        *_block(1, {"type": "text", "text": ""}, {"type": "text_delta", "text": _TEXT}),
    ),
    "hidden thinking": _messages(*_block(0, {"type": "redacted_thinking", "data": "x"}), *_SAID),
    "search": _messages(
        *_block(0, {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}}),
        *_block(1, _SEARCHED),
        *_SAID,
    ),
    "refusal": _messages(stop="refusal", made=0),
    "cut at its length": _messages(stop="max_tokens", made=0),
    "pause": _messages(*_SAID, stop="pause_turn"),
    "nothing to say": _messages(made=2),
    "text at once": _messages(*_block(0, {"type": "text", "text": _TEXT})),
    "a reason of its own": _messages(*_SAID, stop="guardrail_intervened"),
    "an end of another kind": [*_messages(*_SAID), _DONE],
    "citations": _messages(
        *_block(0, {"type": "text", "text": ""}, {"type": "citations_delta", "citation": {"url": "http://x.test"}}),
        *_SAID,
    ),
}
_MESSAGE_ANSWERS: dict[str, Pieces] = {
    "tool call": [_message([_USE], "tool_use")],
    "thinking first": [
        _message([{**_THINKS, "thinking": "hm", "signature": "s"}, {"type": "text", "text": _TEXT}], "end_turn")
    ],
    "hidden thinking": [_message([{"type": "redacted_thinking", "data": "x"}], "max_tokens")],
    "refusal": [_message([], "refusal", 0)],
    "cut at its length": [_message([], "max_tokens", 0)],
    "nothing to say": [_message([], "end_turn", 2)],
    "no reason": [_message([{"type": "text", "text": _TEXT}], None)],
    "a null error": [_message([{"type": "text", "text": _TEXT}], "end_turn", error=None)],
}


def _gemini(parts: Any, finish: str | None = None, **more: Any) -> dict[str, Any]:
    candidate = {"index": 0, **({} if parts is None else {"content": {"role": "model", "parts": parts}})}
    usage = {"promptTokenCount": 7, "candidatesTokenCount": 6, "totalTokenCount": 13}
    ended = {"finishReason": finish} if finish else {}
    return {"candidates": [{**candidate, **ended}], "usageMetadata": usage, "modelVersion": "m", **more}


_UNMADE = {"promptTokenCount": 7, "totalTokenCount": 7}
_BLOCKED = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": _UNMADE}
_SPOKEN = _gemini([{"text": _TEXT}])
_GEMINI_STREAMS: dict[str, Pieces] = {
    "tool call": [_gemini([{"functionCall": {"name": "f", "args": {}}, "thoughtSignature": "s"}], "STOP")],
    "thought first": [_gemini([{"text": "hm", "thought": True}]), _SPOKEN, _gemini([{"text": ""}], "STOP")],
    "picture": [_gemini([{"inlineData": {"mimeType": "image/png", "data": "AAAA"}}], "STOP")],
    "code": [
        _gemini([{"executableCode": {"code": "1"}}]),
        _gemini([{"codeExecutionResult": {}}, {"text": "A"}], "STOP"),
    ],
    "unsafe": [_SPOKEN, _gemini(None, "SAFETY")],
    "unsafe at once": [_gemini(None, "SAFETY", usageMetadata=_UNMADE)],
    "recited": [_gemini(None, "RECITATION", usageMetadata=_UNMADE)],
    "blocked": [_BLOCKED],
    "cut at its length": [_gemini(None, "MAX_TOKENS", usageMetadata=_UNMADE)],
    "an end by itself": [_SPOKEN, _gemini([{"text": ""}], "STOP")],
    "an end without content": [_SPOKEN, _gemini(None, "STOP")],
    "usage last": [_SPOKEN, _gemini(None, "STOP"), {"usageMetadata": _UNMADE, "modelVersion": "m"}],
    "a reason in each": [_gemini([{"text": _TEXT}], "STOP"), _gemini([{"text": "."}], "STOP")],
    "found": [_gemini([{"text": _TEXT}]), {"candidates": [{"finishReason": "STOP", "groundingMetadata": {"x": 1}}]}],
    "another reason": [_SPOKEN, _gemini(None, "OTHER")],
}
_GEMINI_ANSWERS: dict[str, Pieces] = {name: pieces for name, pieces in _GEMINI_STREAMS.items() if len(pieces) == 1} | {
    "no reason": [_SPOKEN],
    "thought alone": [_gemini([{"text": "hm", "thought": True}], "MAX_TOKENS")],
}

CONTENTS: dict[tuple[str, bool], dict[str, Pieces]] = {
    ("chat", True): _CHAT_STREAMS,
    ("chat", False): _CHAT_ANSWERS,
    ("responses", True): _RESPONSE_STREAMS,
    ("responses", False): _RESPONSE_ANSWERS,
    ("messages", True): _MESSAGE_STREAMS,
    ("messages", False): _MESSAGE_ANSWERS,
    ("gemini", True): _GEMINI_STREAMS,
    ("gemini", False): _GEMINI_ANSWERS,
}
"""By API and whether it is a stream, then by what it says."""
