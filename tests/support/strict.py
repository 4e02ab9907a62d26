"""Providers that are as strict as the real ones about reasoning, for agents that go on for several turns.

Each seals or signs what it thinks; it refuses, in the words of the real one, what another has sealed, what has lost its
companion, and a turn that lacks what it demands. What it answers depends on the conversation alone: as often as the
agent shall, it is made to run a harmless tool, then it is told who answered.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from support.provider import Behaviour, Seen

Json = dict[str, Any]
STEPS = 3
"""How many times a prompt makes its agent run a tool."""
DUMMIES = {"context_engineering_is_the_way_to_go", "skip_thought_signature_validator"}
"""What Google takes in place of a signature, as text or as base64."""
_TOOLS: dict[str, Callable[[str], Any]] = {
    "Bash": lambda word: {"command": f"echo {word}", "description": "Says a word"},
    "run_shell_command": lambda word: {"command": f"echo {word}", "description": "Says a word"},
    "exec_command": lambda word: {"cmd": f"echo {word}"},
    "shell_command": lambda word: {"command": f"echo {word}"},
    "say": lambda word: {"word": word},
    "exec": lambda word: f"const r = await tools.exec_command({{cmd: 'echo {word}'}}); text(r.output)",
}
"""The tools of the agents that say a word, and how each is told to."""


def word_of(step: int) -> str:
    """What a tool shall say in this step."""
    return f"said-{step}"


def final_words(name: str) -> str:
    """What the provider of this name answers when nothing is left to be done."""
    return f"that is all, says {name}"


@dataclass(frozen=True)
class Seal:
    """Whose seals look how: made without a secret, but told apart from all others, and from those that were changed."""

    issuer: str
    shape: str = ""
    """How each begins."""

    def make(self, *about: object) -> str:
        body = f"{self.issuer}|{'|'.join(map(str, about))}"
        return self.shape + base64.b64encode(f"{body}|{_check(body)}".encode()).decode()

    def knows(self, seal: object) -> bool:
        if not isinstance(seal, str) or not seal.startswith(self.shape):
            return False
        try:
            body, _, check = base64.b64decode(seal.removeprefix(self.shape), validate=True).decode().rpartition("|")
        except ValueError:
            return False
        return body.startswith(f"{self.issuer}|") and check == _check(body)


def _check(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:200]


class RefusedError(Exception):
    """A 400, and what it says."""


@dataclass
class Strict:
    """What a provider of one dialect is. Use it as a `Provider`'s `chooser`. `fault`: how it answers once it has given
    `good` answers to calls that offer tools; None: it never fails. `then`: called with the last good one of them."""

    name: str
    seal: Seal
    fault: Behaviour | None = None
    good: int = 2
    then: Callable[[], None] = lambda: None
    answered: int = 0
    failed: int = 0
    refusals: list[str] = field(default_factory=list)

    def __call__(self, seen: Seen) -> Behaviour:
        if seen.method != "POST" or self.PATH not in seen.path:
            return Behaviour(status=404)
        body = self.opened(seen.json)
        tool = _tool_in(body)
        if self.fault is not None and tool is not None and self.answered >= self.good:
            self.failed += 1
            return self.fault
        try:
            self.check(body)
        except RefusedError as e:
            self.refusals.append(str(e))
            return Behaviour(status=400, body=self.error(str(e)))
        if tool is not None:
            self.answered += 1
            if self.answered == self.good:
                self.then()
        data = self.answer(seen, body, tool)
        return Behaviour(body=data, headers={"content-type": "text/event-stream"} if self.streams(seen, body) else {})

    PATH = ""
    """What is in the path of each call that it answers."""

    def opened(self, body: Json) -> Json:
        """The call in what was sent."""
        return body

    def streams(self, seen: Seen, body: Json) -> bool:
        return body.get("stream") is True

    def check(self, body: Json) -> None:
        raise NotImplementedError

    def error(self, message: str) -> bytes:
        raise NotImplementedError

    def answer(self, seen: Seen, body: Json, tool: str | None) -> bytes:
        raise NotImplementedError


def _tool_in(body: Json) -> str | None:
    """The tool of the agent that can say something; None: it offers none, or has it left."""
    names = set(_names(body.get("tools"))) | {
        n for i in _dicts(body.get("input")) if i.get("type") == "additional_tools" for n in _names(i.get("tools"))
    }
    return next((name for name in _TOOLS if name in names), None)


def _names(tools: Any) -> Iterator[str]:
    for tool in _dicts(tools):
        if isinstance(tool.get("name"), str):
            yield tool["name"]
        for inside in ("tools", "functionDeclarations"):
            yield from _names(tool.get(inside))


def _dicts(value: Any) -> list[Json]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _instance(schema: Json) -> Any:
    """Something that a schema allows, of those that agents have."""
    kind = str(schema.get("type")).lower()
    if "enum" in schema:
        return schema["enum"][0]
    if kind == "object":
        return {name: _instance(schema["properties"][name]) for name in schema.get("required", ())}
    return {"string": "x", "array": [], "boolean": True}.get(kind, 1)


def sse(events: list[Json], *, named: bool = True) -> bytes:
    """These events as a stream."""
    return b"".join(
        (f"event: {e['type']}\n" if named else "").encode() + b"data: " + json.dumps(e).encode() + b"\n\n"
        for e in events
    )


# --- Anthropic's Messages


class Claude(Strict):
    """Claude, at Anthropic or elsewhere."""

    PATH = "/v1/messages"

    def error(self, message: str) -> bytes:
        return json.dumps({"type": "error", "error": {"type": "invalid_request_error", "message": message}}).encode()

    def check(self, body: Json) -> None:
        messages = body["messages"]
        for m, message in enumerate(messages):
            content = _dicts(message.get("content"))
            if isinstance(message.get("content"), list) and not content:
                raise RefusedError(f"messages.{m}: all messages must have non-empty content")
            thinks = False
            for c, block in enumerate(content):
                where = f"messages.{m}.content.{c}"
                if block.get("type") == "thinking":
                    if "signature" not in block:
                        raise RefusedError(f"{where}.thinking.signature: Field required")
                    if not self.seal.knows(block["signature"]):
                        raise RefusedError(f"{where}: Invalid `signature` in `thinking` block")
                    if "cache_control" in block:
                        raise RefusedError(f"{where}.thinking.cache_control: Extra inputs are not permitted")
                elif block.get("type") == "redacted_thinking" and not self.seal.knows(block.get("data")):
                    raise RefusedError(f"{where}: Invalid `data` in `redacted_thinking` block")
                thinks = thinks or block.get("type") in ("thinking", "redacted_thinking")
            if thinks and content[0]["type"] not in ("thinking", "redacted_thinking"):
                raise RefusedError(
                    f"messages.{m}.content.0.type: If an assistant message contains any thinking blocks, the first "
                    f"block must be thinking or redacted_thinking. Found {content[0]['type']}."
                )
        self.check_tools(messages)
        self.check_switches(body)

    def check_tools(self, messages: list[Json]) -> None:
        """Each call of a tool has its result in the next message of the user."""
        for m, message in enumerate(messages):
            calls = {b["id"] for b in _dicts(message.get("content")) if b.get("type") == "tool_use"}
            follows = next((n for n in messages[m + 1 :] if n.get("role") == "user"), {})
            results = {b["tool_use_id"] for b in _dicts(follows.get("content")) if b.get("type") == "tool_result"}
            if missing := calls - results:
                raise RefusedError(
                    f"messages.{m}: `tool_use` ids were found without `tool_result` blocks immediately after: "
                    f"{', '.join(sorted(missing))}."
                )

    def check_switches(self, body: Json) -> None:
        kind = (body.get("thinking") or {}).get("type", "disabled")
        edits = _dicts((body.get("context_management") or {}).get("edits"))
        if kind == "disabled" and any(e.get("type") == "clear_thinking_20251015" for e in edits):
            raise RefusedError("`clear_thinking_20251015` strategy requires `thinking` to be enabled or adaptive")
        last = next((m for m in reversed(body["messages"]) if m.get("role") == "assistant"), None)
        opened = last is not None and any(b.get("type") == "tool_use" for b in _dicts(last.get("content")))
        if kind == "enabled" and opened and last is not None:
            first = _dicts(last["content"])[0]["type"]
            if first not in ("thinking", "redacted_thinking"):
                raise RefusedError(
                    f"messages.{body['messages'].index(last)}.content.0.type: Expected `thinking` or "
                    f"`redacted_thinking`, but found `{first}`. When `thinking` is enabled, a final `assistant` "
                    "message must start with a thinking block (preceeding the lastmost set of `tool_use` and "
                    "`tool_result` blocks). To avoid this requirement, disable `thinking`."
                )

    @staticmethod
    def step(messages: list[Json]) -> int:
        """How many answers of tools there were since the user's last words."""
        found = 0
        for message in reversed(messages):
            if message.get("role") != "user":
                continue
            if not any(b.get("type") == "tool_result" for b in _dicts(message.get("content"))):
                break
            found += 1
        return found

    def thought(self, at: tuple[int, int]) -> list[Json]:
        """What it thinks before it speaks."""
        thinking = {"type": "thinking", "thinking": f"hm {at}", "signature": self.seal.make("thinking", *at)}
        redacted = {"type": "redacted_thinking", "data": self.seal.make("redacted", *at)}
        return [thinking, redacted] if at[1] == 1 else [thinking]

    def answer(self, seen: Seen, body: Json, tool: str | None) -> bytes:
        at = len(body["messages"]), self.step(body["messages"])
        content: list[Json] = []
        if (body.get("thinking") or {}).get("type") in self.THINKS:
            content += self.thought(at)
        if tool is None or at[1] >= STEPS:
            content.append({"type": "text", "text": final_words(self.name)})
        else:
            content.append({"type": "text", "text": "let me see"})
            for n in range(2 if at[1] == 0 else 1):
                said = _TOOLS[tool](word_of(at[1]))
                content.append(
                    {"type": "tool_use", "id": f"toolu_{self.name}{at[0]}s{at[1]}n{n}", "name": tool, "input": said}
                )
        stop = "tool_use" if content[-1]["type"] == "tool_use" else "end_turn"
        usage = {"input_tokens": 9, "output_tokens": 9}
        message = {"id": f"msg_{at[0]}s{at[1]}", "type": "message", "role": "assistant", "model": body["model"]}
        if not self.streams(seen, body):
            return json.dumps(
                {**message, "content": content, "stop_reason": stop, "stop_sequence": None, "usage": usage}
            ).encode()
        empty = {**message, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
        events: list[Json] = [{"type": "message_start", "message": empty}, {"type": "ping"}]
        for index, block in enumerate(content):
            events += self.block(index, block)
        end = {"stop_reason": stop, "stop_sequence": None}
        events += [{"type": "message_delta", "delta": end, "usage": {"output_tokens": 9}}, {"type": "message_stop"}]
        return sse(events)

    THINKS: tuple[str | None, ...] = ("enabled", "adaptive")
    """With which switches it thinks."""

    @staticmethod
    def block(index: int, block: Json) -> list[Json]:
        kind = block["type"]
        begun = dict(block)
        deltas: list[Json] = []
        if kind == "thinking":
            begun = {"type": kind, "thinking": "", "signature": ""}
            deltas = [{"type": "thinking_delta", "thinking": block["thinking"]}]
            if "signature" in block:
                deltas.append({"type": "signature_delta", "signature": block["signature"]})
        elif kind == "text":
            begun["text"] = ""
            deltas = [{"type": "text_delta", "text": block["text"]}]
        elif kind == "tool_use":
            begun["input"] = {}
            deltas = [{"type": "input_json_delta", "partial_json": json.dumps(block["input"])}]
        return [
            {"type": "content_block_start", "index": index, "content_block": begun},
            *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
            {"type": "content_block_stop", "index": index},
        ]


class DeepSeek(Claude):
    """DeepSeek's Messages: it reads no signature, gives none, and wants its thinking back where a tool was called."""

    THINKS = ("enabled", "adaptive", None)

    def check(self, body: Json) -> None:
        thinks = (body.get("thinking") or {}).get("type") != "disabled"
        if not thinks and (body.get("output_config") or {}).get("effort"):
            raise RefusedError("thinking options type cannot be disabled when reasoning_effort is set")
        for m, message in enumerate(body["messages"]):
            if message.get("role") not in ("user", "assistant"):
                raise RefusedError(
                    f"Failed to deserialize the JSON body into the target type: messages[{m}].role: unknown variant "
                    f"`{message.get('role')}`, expected `user` or `assistant`"
                )
            kinds = {b.get("type") for b in _dicts(message.get("content"))}
            if "redacted_thinking" in kinds:
                raise RefusedError(f"messages[{m}]: redacted_thinking is not supported")
            if thinks and "tool_use" in kinds and "thinking" not in kinds:
                raise RefusedError("The `content[].thinking` in the thinking mode must be passed back to the API.")
        self.check_tools(body["messages"])

    def thought(self, at: tuple[int, int]) -> list[Json]:
        return [{"type": "thinking", "thinking": f"hm {at}"}]


# --- OpenAI's Responses


class GPT(Strict):
    """Responses, at OpenAI or elsewhere."""

    PATH = "/responses"
    stateless = False
    """It stores nothing, and says so."""
    lite = True
    """It takes what Codex says to OpenAI alone."""
    frames: list[str] | None = None
    """It takes WebSockets too, over which it fails with these messages; none: it cuts the connection."""

    def error(self, message: str) -> bytes:
        code = "invalid_encrypted_content" if "encrypted content" in message else None
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
        return json.dumps({"error": error}).encode()

    def check(self, body: Json) -> None:
        items = _dicts(body.get("input"))
        present = {i.get("id") for i in items if i.get("type") == "reasoning"}
        if self.stateless and (body.get("store") is True or body.get("previous_response_id")):
            raise RefusedError("Invalid Responses API request: store and previous_response_id are not supported")
        for n, item in enumerate(items):
            given = item.get("id")
            if not self.lite and "internal_chat_message_metadata_passthrough" in item:
                raise RefusedError(f"Unknown parameter: 'input[{n}].internal_chat_message_metadata_passthrough'.")
            if not self.lite and item.get("type") == "additional_tools":
                raise RefusedError("Unsupported Responses API input item type: 'additional_tools'")
            if given == "":
                raise RefusedError(f"Invalid 'input[{n}].id': ''. Expected an ID that begins with 'rs'.")
            if item.get("type") == "reasoning":
                if not item.get("encrypted_content"):
                    raise RefusedError(
                        f"Item with id '{given}' not found. Items are not persisted when `store` is set to false."
                    )
                if not self.seal.knows(item["encrypted_content"]):
                    raise RefusedError(
                        f"The encrypted content {item['encrypted_content'][:4]}...{item['encrypted_content'][-2:]} "
                        "could not be verified. Reason: Encrypted content could not be decrypted or parsed."
                    )
                follower = items[n + 1] if n + 1 < len(items) else {}
                if not (follower.get("id") or "").endswith(str(given).removeprefix("rs_")):
                    raise RefusedError(
                        f"Item '{given}' of type 'reasoning' was provided without its required following item."
                    )
            elif isinstance(given, str) and "_of_" in given:
                needed = "rs_of_" + given.partition("_of_")[2]
                if needed not in present:
                    raise RefusedError(
                        f"Item '{given}' of type '{item.get('type')}' was provided without its required 'reasoning' "
                        f"item: '{needed}'."
                    )
        calls = {i.get("call_id") for i in items if str(i.get("type")).endswith("_call")}
        answers = {i.get("call_id") for i in items if str(i.get("type")).endswith("_call_output")}
        if calls != answers:
            raise RefusedError(f"No tool output found for function call {', '.join(map(str, calls ^ answers))}.")

    def __call__(self, seen: Seen) -> Behaviour:
        if seen.method == "GET" and (seen.header("upgrade") or "").lower() == "websocket":
            return Behaviour(status=426) if self.frames is None else Behaviour(talk=self.talk())
        return super().__call__(seen)

    def talk(self) -> Callable[[str], list[str] | None]:
        """What is said to each message of a WebSocket, which goes on from what was said before."""
        before: list[Json] = []

        def hear(message: str) -> list[str] | None:
            body: Json = json.loads(message)
            items = (before if body.pop("previous_response_id", None) else []) + _dicts(body.get("input"))
            body["input"] = items
            if body.get("generate") is False:
                before[:] = items
                warm = {"id": "resp_warm", "object": "response", "created_at": 1, "model": body["model"], "output": []}
                kinds = {"response.created": "in_progress", "response.completed": "completed"}
                return [json.dumps({"type": k, "response": {**warm, "status": v}}) for k, v in kinds.items()]
            if self.fault is not None and self.answered >= self.good:
                self.failed += 1
                return self.frames or None
            try:
                self.check(body)
            except RefusedError as e:
                self.refusals.append(str(e))
                return [json.dumps({"type": "error", "status": 400, **json.loads(self.error(str(e)))})]
            self.answered += 1
            events = self.events(body, _tool_in(body))
            before[:] = [*items, *events[-1]["response"]["output"]]
            return [json.dumps(e) for e in events]

        return hear

    @staticmethod
    def step(items: list[Json]) -> int:
        found = 0
        for item in reversed(items):
            if item.get("role") == "user":
                break
            found += str(item.get("type")).endswith("_call_output")
        return found

    def answer(self, seen: Seen, body: Json, tool: str | None) -> bytes:
        return sse(self.events(body, tool))

    def events(self, body: Json, tool: str | None) -> list[Json]:
        items = _dicts(body.get("input"))
        at = f"{self.name}{len(items)}"
        step = self.step(items)
        thinks = {
            "type": "reasoning",
            "id": f"rs_of_{at}",
            "summary": [],
            "encrypted_content": self.seal.make("reasoning", at),
        }
        if tool is None or step >= STEPS:
            words = [{"type": "output_text", "text": final_words(self.name), "annotations": []}]
            said: Json = {"type": "message", "id": f"msg_of_{at}", "role": "assistant", "content": words}
        elif isinstance(argument := _TOOLS[tool](word_of(step)), str):
            said = {"type": "custom_tool_call", "id": f"ctc_of_{at}", "call_id": f"call_{at}", "name": tool}
            said["input"] = argument
        else:
            said = {"type": "function_call", "id": f"fc_of_{at}", "call_id": f"call_{at}", "name": tool}
            said["arguments"] = json.dumps(argument)
        said["status"] = "completed"
        usage = {
            "input_tokens": 9,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 9,
            "output_tokens_details": {"reasoning_tokens": 3},
            "total_tokens": 18,
        }
        response: Json = {"id": f"resp_{at}", "object": "response", "created_at": 1, "model": body["model"]}
        events: list[Json] = [{"type": "response.created", "response": {**response, "status": "in_progress"}}]
        for index, item in enumerate((thinks, said)):
            begun = {k: v for k, v in item.items() if k != "encrypted_content"}
            events.append({"type": "response.output_item.added", "output_index": index, "item": begun})
            if item.get("type") == "message":
                place = {"item_id": item["id"], "output_index": index, "content_index": 0}
                text = item["content"][0]["text"]
                events.append({"type": "response.output_text.delta", "delta": text, **place})
            events.append({"type": "response.output_item.done", "output_index": index, "item": item})
        done = {**response, "status": "completed", "output": [thinks, said], "usage": usage}
        events.append({"type": "response.completed", "response": done})
        return [{**e, "sequence_number": n} for n, e in enumerate(events)]


class Stateless(GPT):
    """As OpenRouter serves them."""

    stateless = True
    lite = False


class Azure(GPT):
    """As a resource of Azure's serves them: it seals for itself alone."""

    lite = False


# --- Gemini


class Gemini(Strict):
    """Gemini 3, at either of Google's platforms."""

    PATH = "/models/"
    corrupted = "Corrupted thought signature."

    def error(self, message: str) -> bytes:
        return json.dumps({"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}}).encode()

    def streams(self, seen: Seen, body: Json) -> bool:
        return ":streamGenerateContent" in seen.path

    def check(self, body: Json) -> None:
        contents = body["contents"]
        turn = self.turn(contents)
        for n, content in enumerate(contents):
            needs_one = n >= turn and content.get("role") == "model"
            if not _dicts(content.get("parts")):
                raise RefusedError("* GenerateContentRequest.contents: contents.parts must not be empty.")
            for part in _dicts(content.get("parts")):
                signature = part.get("thoughtSignature", part.get("thought_signature"))
                calls = "functionCall" in part or "function_call" in part
                if signature is not None and not self.takes(signature):
                    raise RefusedError(self.corrupted)
                if calls and needs_one and signature is None:
                    raise RefusedError(
                        "Function call is missing a thought_signature in functionCall parts. This is required for "
                        "tools to work correctly, and missing thought_signature may lead to degraded model performance."
                    )
                needs_one = needs_one and not calls

    def takes(self, signature: object) -> bool:
        dummies = DUMMIES | {base64.b64encode(d.encode()).decode() for d in DUMMIES}
        return self.seal.knows(signature) or signature in dummies

    @staticmethod
    def turn(contents: list[Json]) -> int:
        """Where the answer to the user's last words begins."""
        for n in range(len(contents) - 1, -1, -1):
            parts = _dicts(contents[n].get("parts"))
            if contents[n].get("role") in ("user", None) and not any("functionResponse" in p for p in parts):
                return n + 1
        return 0

    def answer(self, seen: Seen, body: Json, tool: str | None) -> bytes:
        contents = body["contents"]
        step = sum(c.get("role") == "model" for c in contents[self.turn(contents) :])
        seal = self.seal.make("signature", len(contents))
        parts: list[Json] = [{"text": f"hm {step}", "thought": True}]
        wanted = (body.get("generationConfig") or {}).get("responseJsonSchema")
        if wanted is not None:
            parts = [{"text": json.dumps(_instance(wanted)), "thoughtSignature": seal}]
        elif tool is None or step >= STEPS:
            parts.append({"text": final_words(self.name), "thoughtSignature": seal})
        else:
            said = {"name": tool, "args": _TOOLS[tool](word_of(step))}
            parts.append({"functionCall": said, "thoughtSignature": seal})
            if step == 0:
                parts.append({"functionCall": said})
        usage = {"promptTokenCount": 9, "candidatesTokenCount": 9, "totalTokenCount": 18}
        pieces = [
            {"candidates": [{"content": {"role": "model", "parts": [part]}, "index": 0}], "usageMetadata": usage}
            for part in parts
        ]
        pieces[-1]["candidates"][0]["finishReason"] = "STOP"  # type: ignore[index]
        if self.streams(seen, body):
            return sse([self.closed(piece) for piece in pieces], named=False)
        whole = {"content": {"role": "model", "parts": parts}, "finishReason": "STOP", "index": 0}
        return json.dumps(self.closed({"candidates": [whole], "usageMetadata": usage})).encode()

    def closed(self, answer: Json) -> Json:
        """What is sent of an answer."""
        return answer


class Vertex(Gemini):
    """The same at Google's other platform."""

    corrupted = "Thought signature is not valid."


class CodeAssist(Gemini):
    """The same for a Google login: calls and answers come in envelopes."""

    PATH = "enerateContent"

    def opened(self, body: Json) -> Json:
        inner: Json = body["request"]
        return inner

    def closed(self, answer: Json) -> Json:
        return {"response": answer, "traceId": "t"}
