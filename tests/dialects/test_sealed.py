"""What a provider of another issuer gets of a conversation with sealed reasoning: whole bodies, before and after.

The rows follow what the vendors' pages and error messages say; `...` marks nothing: each body is compared whole.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestep.breaker.outcomes import ErrorKind
from sidestep.dialects import DIALECTS, sealed
from sidestep.dialects.base import Call, PinKind
from sidestep.dialects.common import UNSIGNED, digest
from sidestep.dialects.errors import facts_in
from sidestep.dialects.sealed import Target, unsealed

JSON = "application/json"
TAILS = {
    "messages": ("anthropic", "messages", "/v1/messages"),
    "responses": ("openai", "responses", "/responses"),
    "chat": ("openai", "chat/completions", "/chat/completions"),
    "gemini": ("gemini", "generateContent", "/v1beta/models/gemini-3-pro:generateContent"),
}
ALL = "all"


def read(api: str, body: Any) -> Call:
    dialect, operation, tail = TAILS[api]
    return DIALECTS[dialect].read(operation, tail, "", JSON, json.dumps(body).encode())


def copy_for(api: str, body: Any, issuer: str, model: str = "m", out: tuple[str, ...] | str = ALL) -> Any:
    """The body as the target gets it. `out`: what is sealed with these is left out."""
    call = read(api, body)
    names = frozenset(call.sealed if out == ALL else [digest(o.encode()) for o in out])
    return json.loads(unsealed(call, Target(issuer, model), json.dumps(body).encode(), names))


def thinking(signature: str | None = "S", text: str = "t") -> dict[str, Any]:
    return {"type": "thinking", "thinking": text, **({} if signature is None else {"signature": signature})}


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content[0] if isinstance(content[0], str) else list(content)}


def model(*content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(content)}


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


USE = {"type": "tool_use", "id": "t1", "name": "f", "input": {"signature": "mine"}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "1"}
CLEAR = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
SEARCH = {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}}
FOUND = {
    "type": "web_search_tool_result",
    "tool_use_id": "s1",
    "content": [{"type": "web_search_result", "encrypted_content": "E"}],
}
CITED = [
    {"type": "web_search_result_location", "encrypted_index": "I"},
    {"type": "char_location", "cited_text": "x"},
]
MANUAL = {"type": "enabled", "budget_tokens": 2000}
ADAPTIVE = {"type": "adaptive"}
OPEN = [user("a"), model(thinking(), USE), user(RESULT)]
OPEN_AFTER = [user("a"), model(USE), user(RESULT)]

MESSAGES: dict[str, tuple[str, str, dict[str, Any], tuple[str, ...] | str, dict[str, Any]]] = {
    # name: issuer, model, before, what is left out, after
    "A1 finished turn": (
        *("vllm", "m", {"messages": [user("hi"), model(thinking(), text("yo")), user("go")]}, ALL),
        {"messages": [user("hi"), model(text("yo")), user("go")]},
    ),
    "A2 open tool turn, manual": (
        *("anthropic", "claude-opus-4-5", {"thinking": MANUAL, "context_management": CLEAR, "messages": OPEN}, ALL),
        {"messages": OPEN_AFTER},
    ),
    "A2 other edits stay": (
        *("anthropic", "claude-opus-4-5"),
        {"thinking": MANUAL, "context_management": {"edits": [*CLEAR["edits"], {"type": "x"}]}, "messages": OPEN},
        *(ALL, {"context_management": {"edits": [{"type": "x"}]}, "messages": OPEN_AFTER}),
    ),
    "A3 open tool turn, adaptive": (
        *("anthropic", "claude-opus-4-7", {"thinking": ADAPTIVE, "messages": OPEN}, ALL),
        {"thinking": ADAPTIVE, "messages": OPEN_AFTER},
    ),
    "A4 always on": (
        *("anthropic", "claude-fable-5-1", {"thinking": ADAPTIVE, "context_management": CLEAR, "messages": OPEN}, ALL),
        {"thinking": ADAPTIVE, "context_management": CLEAR, "messages": OPEN_AFTER},
    ),
    "A5 thinking is demanded": (
        *("deepseek", "deepseek-chat"),
        {"output_config": {"effort": "high"}, "context_management": CLEAR, "messages": OPEN},
        *(ALL, {"messages": OPEN_AFTER, "thinking": {"type": "disabled"}}),
    ),
    "A5 all of it goes with the switch": (
        *("moonshot", "kimi-k2", {"messages": [*OPEN, model(thinking("K"), text("x")), user("b")]}, ("S",)),
        {"messages": [*OPEN_AFTER, model(text("x")), user("b")], "thinking": {"type": "disabled"}},
    ),
    "A5 not without a tool": (
        *("deepseek", "deepseek-chat", {"thinking": ADAPTIVE, "messages": [user("a"), model(thinking(), text("x"))]}),
        *(ALL, {"thinking": ADAPTIVE, "messages": [user("a"), model(text("x"))]}),
    ),
    "A6 demanded and always on": (
        *("moonshot", "kimi-k2.7-code"),
        {"thinking": MANUAL, "messages": [user("a"), model({"type": "redacted_thinking", "data": "X"}, USE)]},
        ALL,
        {
            "thinking": MANUAL,
            "messages": [user("a"), model({"type": "thinking", "thinking": "(earlier reasoning not available)"}, USE)],
        },
    ),
    "A6 what can be read stays": (
        *("moonshot", "kimi-k2.7-code", {"messages": OPEN}, ALL),
        {"messages": [user("a"), model(thinking(None), USE), user(RESULT)]},
    ),
    "A7 nothing but thinking": (
        *("vllm", "m", {"messages": [user("a"), model(thinking()), user("b")]}, ALL),
        {"messages": [user("a"), user("b")]},
    ),
    "A8 cache marks": (
        "vllm",
        "m",
        {
            "system": [text("s", cache_control={"type": "ephemeral", "ttl": "1h"})],
            "messages": [model(thinking(), text("x", cache_control={"type": "ephemeral", "ttl": "1h"}))],
        },
        ALL,
        {
            "system": [text("s", cache_control={"type": "ephemeral"})],
            "messages": [model(text("x", cache_control={"type": "ephemeral"}))],
        },
    ),
    "A10 a readable summary": (
        "vllm",
        "m",
        {"messages": [user("old"), model({"type": "compaction", "content": "Summary"}, text("ok")), user("go")]},
        ALL,
        {
            "messages": [
                user("(The conversation so far was summarised.)"),
                model(text("Summary"), text("ok")),
                user("go"),
            ]
        },
    ),
    "A11 nothing foreign": (
        *("anthropic", "claude-opus-4-5", {"thinking": MANUAL, "context_management": CLEAR, "messages": OPEN}, ()),
        {"thinking": MANUAL, "context_management": CLEAR, "messages": OPEN},
    ),
    "A12 home, manual": (
        "anthropic",
        "claude-opus-4-5",
        {
            "thinking": MANUAL,
            "context_management": CLEAR,
            "messages": [user("a"), model(thinking(), text("x")), user("b"), model(thinking("Z"), USE), user(RESULT)],
        },
        ("Z",),
        {"messages": [user("a"), model(thinking(), text("x")), user("b"), model(USE), user(RESULT)]},
    ),
    "A12 home, the turn is over": (
        "anthropic",
        "claude-opus-4-5",
        {
            "thinking": MANUAL,
            "messages": [user("a"), model(thinking("Z"), USE), user(RESULT), model(text("x")), user("b")],
        },
        ("Z",),
        {"thinking": MANUAL, "messages": [user("a"), model(USE), user(RESULT), model(text("x")), user("b")]},
    ),
    "A13 home, another one's signature": (
        *("anthropic", "claude-opus-4-5", {"messages": [user("a"), model(thinking("ce70" * 16), text("x"))]}, ALL),
        {"messages": [user("a"), model(text("x"))]},
    ),
    "a message of two issuers loses all its thinking": (
        *("anthropic", "claude-opus-4-5", {"messages": [user("a"), model(thinking(), thinking("Z"), text("x"))]}),
        *(("Z",), {"messages": [user("a"), model(text("x"))]}),
    ),
    "a server's tool goes with its result": (
        *("vllm", "m"),
        {"messages": [user("a"), model(thinking(), SEARCH, FOUND, text("x", citations=CITED)), user("b")]},
        *(ALL, {"messages": [user("a"), model(text("x", citations=CITED[1:])), user("b")]}),
    ),
}


@pytest.mark.parametrize("row", MESSAGES)
def test_messages(row: str) -> None:
    """Of Messages, what is sealed goes, with all that depends on it, and what a stand-in demands comes."""
    issuer, name, before, out, after = MESSAGES[row]
    assert copy_for("messages", before, issuer, name, out) == after


REASONING = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "H"}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": "{}"}
CALL_AFTER = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "1"}
FOREIGN = {"type": "reasoning", "id": "x", "summary": [], "encrypted_content": "plain summary"}
MESSAGE = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]}
STATELESS = {"include": ["reasoning.encrypted_content"]}

RESPONSES: dict[str, tuple[str, dict[str, Any], tuple[str, ...] | str, dict[str, Any]]] = {
    "O1 to O3 whole items, and the ids after them": (
        *("xai", {"input": [REASONING, CALL, OUTPUT]}, ALL),
        {"input": [CALL_AFTER, OUTPUT]},
    ),
    "O6 nothing is stored": (
        *("openrouter", {"store": True, **STATELESS, "input": [REASONING, CALL, OUTPUT]}, ALL),
        {"store": False, **STATELESS, "input": [CALL_AFTER, OUTPUT]},
    ),
    "O7 home": (
        *("openai", {"input": [REASONING, CALL, OUTPUT, FOREIGN, {**MESSAGE, "id": "x2"}]}, ("plain summary",)),
        {"input": [REASONING, CALL, OUTPUT, MESSAGE]},
    ),
    "O7 home's own ids after it stay": (
        *("openai", {"input": [FOREIGN, {**MESSAGE, "id": "x2"}, REASONING, CALL, OUTPUT]}, ("plain summary",)),
        {"input": [MESSAGE, REASONING, CALL, OUTPUT]},
    ),
    "O8 the same resource": (
        *("east.openai.azure.com", {"input": [REASONING, CALL, OUTPUT]}, ()),
        {"input": [REASONING, CALL, OUTPUT]},
    ),
    "reasoning that nobody signed": (
        *(
            "openai",
            {"input": [{"type": "reasoning", "id": "r", "content": [{"type": "reasoning_text", "text": "t"}]}]},
        ),
        *(ALL, {"input": []}),
    ),
}


@pytest.mark.parametrize("row", RESPONSES)
def test_responses(row: str) -> None:
    """Of Responses, reasoning items go whole, and what followed them is not looked up by its id."""
    issuer, before, out, after = RESPONSES[row]
    assert copy_for("responses", before, issuer, out=out) == after


def part(signature: str | None = None, **more: Any) -> dict[str, Any]:
    return {**more, **({} if signature is None else {"thoughtSignature": signature})}


F: dict[str, Any] = {"functionCall": {"name": "f", "args": {"thoughtSignature": "mine"}}}
R: dict[str, Any] = {"functionResponse": {"name": "f", "response": {}}}
DUMMY = "skip_thought_signature_validator"


def turn(role: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": role, "parts": list(parts)}


GEMINI: dict[str, tuple[str, list[Any], tuple[str, ...] | str, list[Any]]] = {
    "G1 the turn under way": (
        *("gemini-3-pro", [turn("user", {"text": "a"}), turn("model", part("VTX", **F)), turn("user", R)], ALL),
        [turn("user", {"text": "a"}), turn("model", part(DUMMY, **F)), turn("user", R)],
    ),
    "G2 parallel calls": (
        *(
            "gemini-3-pro",
            [turn("model", part("X", text="t"), part("AIS", **F), part(None, **F)), turn("user", R)],
            ALL,
        ),
        [turn("model", part(None, text="t"), part(DUMMY, **F), part(None, **F)), turn("user", R)],
    ),
    "G2 each step": (
        *(
            "gemini-3-pro",
            [turn("model", part("A", **F)), turn("user", R), turn("model", part("B", **F)), turn("user", R)],
        ),
        *(ALL, [turn("model", part(DUMMY, **F)), turn("user", R), turn("model", part(DUMMY, **F)), turn("user", R)]),
    ),
    "G2 home's own stays": (
        *(
            "gemini-3-pro",
            [turn("model", part("A", **F)), turn("user", R), turn("model", part("B", **F)), turn("user", R)],
        ),
        *(("B",), [turn("model", part("A", **F)), turn("user", R), turn("model", part(DUMMY, **F)), turn("user", R)]),
    ),
    "G2 words beside a result": (
        *("gemini-3-pro", [turn("user", {"text": "a"}), turn("model", part("X", **F)), turn("user", R, {"text": "b"})]),
        *(ALL, [turn("user", {"text": "a"}), turn("model", part(DUMMY, **F)), turn("user", R, {"text": "b"})]),
    ),
    "G3 a user who said nothing": (
        *("gemini-3-pro", [turn("model", part("X", **F)), turn("user", R), turn("user")], ALL),
        [turn("model", part(None, **F)), turn("user", R), turn("user")],
    ),
    "G3 an older turn": (
        *("gemini-3-pro", [turn("model", part("X", **F)), turn("user", R), turn("user", {"text": "b"})], ALL),
        [turn("model", part(None, **F)), turn("user", R), turn("user", {"text": "b"})],
    ),
    "an older model needs none": (
        *("gemini-2.5-pro", [turn("user", {"text": "a"}), turn("model", part("X", **F)), turn("user", R)], ALL),
        [turn("user", {"text": "a"}), turn("model", part(None, **F)), turn("user", R)],
    ),
}


@pytest.mark.parametrize("row", GEMINI)
def test_gemini(row: str) -> None:
    """Of Gemini's calls, a dummy stands where a signature must be, and none anywhere else."""
    name, before, out, after = GEMINI[row]
    assert copy_for("gemini", {"contents": before}, "google", name, out) == {"contents": after}


ASKED = {"role": "user", "content": "a"}
CALLING: dict[str, Any] = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"signature": "x"}'}}
BY_GOOGLE = {**CALLING, "extra_content": {"google": {"thought_signature": "S"}}}
BY_LITELLM = {**CALLING, "provider_specific_fields": {"thought_signature": "S"}}
DETAILS = [
    {"type": "reasoning.text", "text": "hm", "signature": None},
    {"type": "reasoning.encrypted", "data": "S", "id": "rs_1"},
]
THOUGHTS = [{"type": "thinking", "thinking": "hm", "signature": "S"}, {"type": "redacted_thinking", "data": "T"}]


def said(**more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": "x", **more}


CHATS: dict[str, tuple[str, dict[str, Any], tuple[str, ...] | str, dict[str, Any]]] = {
    "OpenRouter's details": ("openai", said(reasoning="hm", reasoning_details=DETAILS), ALL, said()),
    "home's own stay": ("openrouter", said(reasoning_details=DETAILS), ("Z",), said(reasoning_details=DETAILS)),
    "details without a seal": ("openai", said(reasoning_details=DETAILS[:1]), ALL, said(reasoning_details=DETAILS[:1])),
    "LiteLLM's blocks": ("openai", said(thinking_blocks=THOUGHTS, reasoning_content="hm"), ("T",), said()),
    "Gemini's signature": ("openai", said(tool_calls=[BY_GOOGLE]), ALL, said(tool_calls=[CALLING])),
    "Gemini's signature, by LiteLLM": ("openai", said(tool_calls=[BY_LITELLM]), ALL, said(tool_calls=[CALLING])),
    "Gemini's signature of text": ("openai", said(extra_content={"google": {"thought_signature": "S"}}), ALL, said()),
    "signatures in a list": ("openai", said(provider_specific_fields={"thought_signatures": ["S"]}), ALL, said()),
    "a demand stays met": (
        "deepseek",
        said(tool_calls=[BY_GOOGLE], reasoning_content="hm", reasoning_details=DETAILS),
        *(ALL, said(tool_calls=[CALLING], reasoning_content="hm")),
    ),
    "a demand is met": (
        "deepseek",
        said(tool_calls=[BY_GOOGLE], reasoning_details=DETAILS),
        *(ALL, said(tool_calls=[CALLING], reasoning_content="")),
    ),
}


@pytest.mark.parametrize("row", CHATS)
def test_chats(row: str) -> None:
    """Of a chat, all reasoning of a message goes with what is sealed in it; the calls of tools stay."""
    issuer, before, out, after = CHATS[row]
    assert copy_for("chat", {"messages": [ASKED, before, ASKED]}, issuer, out=out) == {
        "messages": [ASKED, after, ASKED]
    }


def test_what_is_sealed_in_a_chat() -> None:
    """The newest first; neither what a tool is called with nor a dummy is a seal."""
    dummy = {**CALLING, "extra_content": {"google": {"thought_signature": "skip_thought_signature_validator"}}}
    talk = [ASKED, said(reasoning_details=DETAILS), said(thinking_blocks=THOUGHTS, tool_calls=[dummy]), 5]
    assert read("chat", {"messages": talk}).sealed == (digest(b"T"), digest(b"S"))
    assert read("chat", {"messages": "reasoning_details"}).sealed == ()


@pytest.mark.parametrize("whole", [True, False])
def test_who_sealed_it_in_a_chat(whole: bool) -> None:
    """An answer's seals are known by the names that the next call has for them, whole and streamed."""
    openai, call = DIALECTS["openai"], read("chat", {"model": "m"})
    message = said(reasoning_details=DETAILS, tool_calls=[{**BY_GOOGLE, "extra_content": {"thought_signature": "T"}}])
    if whole:
        body = {"choices": [{"message": message, "finish_reason": "tool_calls"}]}
        ids = openai.judge_answer(call, JSON, json.dumps(body).encode()).ids
    else:
        reader = openai.reader(call, "text/event-stream")
        for field in ("reasoning_details", "tool_calls"):
            chunk = {"choices": [{"index": 0, "delta": {field: message[field]}}]}
            reader.feed(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        ids = reader.ids
    assert ids == (digest(b"S"), digest(b"T"))


@pytest.mark.parametrize(("issuer", "least"), [("deepseek", ""), ("moonshot", "."), ("groq", None)])
def test_chat(issuer: str, least: str | None) -> None:
    """C1, C2: where a chat model demands reasoning beside a tool call, it gets the least that it takes."""
    called = {"role": "assistant", "tool_calls": [{"id": "1"}]}
    said = {"role": "assistant", "content": "x"}
    after = called if least is None else {**called, "reasoning_content": least}
    assert copy_for("chat", {"messages": [called, said]}, issuer) == {"messages": [after, said]}
    kept = {**called, "reasoning_content": "mine"}
    assert copy_for("chat", {"messages": [kept]}, issuer) == {"messages": [kept]}


@pytest.mark.parametrize(
    ("api", "body", "kind"),
    [
        ("messages", {"container": "cont_1", "messages": [model(thinking())]}, PinKind.STATE),  # A9
        (
            "messages",
            {"messages": [model({"type": "image", "source": {"type": "file", "file_id": "f"}})]},
            PinKind.STATE,
        ),
        ("messages", {"messages": [user("a"), model(thinking(), SEARCH)]}, PinKind.SIGNATURE),
        ("messages", {"messages": [user("a"), model(thinking())]}, PinKind.SIGNATURE),
        ("messages", {"messages": [user("a"), model(SEARCH, FOUND, USE), user(RESULT)]}, PinKind.SIGNATURE),
        ("messages", {"messages": [model({"type": "compaction", "encrypted_content": "x"})]}, PinKind.SIGNATURE),
        *(
            ("messages", {"messages": [user("a"), model(thinking(), text("x")), *after]}, kind)
            for after, kind in (
                ([model({"type": "mcp_tool_use", "id": "m"}), user(RESULT)], PinKind.SIGNATURE),
                ([user({"type": "mcp_tool_result"}, RESULT)], PinKind.SIGNATURE),
                ([user(RESULT), model(FOUND, text("y"))], PinKind.SIGNATURE),
                ([user(RESULT), model({"type": "server_tool_use", "id": "s2"}, FOUND)], PinKind.SIGNATURE),
                ([user(RESULT), model({"type": "compaction", "content": "c"}, text("y"))], None),
                ([model({"type": "mcp_tool_use", "id": "m"}), user("b")], None),
                ([model(FOUND), user("b"), model(text("y")), user(RESULT)], None),
                ([user("b"), 5, {"role": "assistant", "content": "x"}], None),
            )
        ),
        ("responses", {"previous_response_id": "resp_1"}, PinKind.STATE),  # O4
        ("responses", {"input": [{"type": "compaction", "encrypted_content": "H"}]}, PinKind.STATE),  # O5
        ("responses", {"input": [REASONING, {"type": "mcp_approval_response"}]}, PinKind.SIGNATURE),
        ("gemini", {"cachedContent": "cachedContents/1"}, PinKind.STATE),  # G4
        ("messages", {"messages": OPEN}, None),
        ("messages", {"messages": [user("a"), model(SEARCH, FOUND, text("x")), user("b")]}, None),
        ("responses", {"input": [REASONING]}, None),
        ("gemini", {"contents": [turn("model", part("X", **F))]}, None),
    ],
    ids=lambda v: json.dumps(v)[:60] if isinstance(v, dict) else "",
)
def test_what_cannot_be_left_out_stays(api: str, body: Any, kind: PinKind | None) -> None:
    """What lives with a provider, or goes on from what only its issuer can read, is pinned; reasoning alone is not."""
    pin = read(api, body).pin
    assert (None if pin is None else pin.kind) == kind


def test_where_a_copy_cannot_go() -> None:
    """What Gemini's image models do with a dummy is told in two ways: nothing is left out for them."""
    call = read("gemini", {"contents": []})
    names = ("gemini-3-pro-image-preview", "gemini-3-pro", "gemini-2.5-flash-image")
    assert [sealed.carries(call, Target("google", name)) for name in names] == [False, True, True]


@pytest.mark.parametrize(
    ("name", "issuer", "target", "foreign"),
    [
        ("n", "anthropic", "anthropic", False),
        ("n", "glm", "anthropic", True),
        ("n", None, "anthropic", False),
        (UNSIGNED + "n", None, "anthropic", True),
        (UNSIGNED + "n", None, "glm", False),
        (UNSIGNED + "n", "glm", "glm", False),
        (UNSIGNED + "n", "glm", "deepseek", True),
    ],
)
def test_whose_it_is(name: str, issuer: str | None, target: str, foreign: bool) -> None:
    """What was seen decides; what an issuer signs without exception is not its own when unsigned."""
    assert sealed.is_foreign(name, issuer, target) is foreign


@pytest.mark.parametrize("api", TAILS)
@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"null", b'{"messages": 1, "input": "x", "contents": {}}'])
def test_bodies_of_other_shapes(api: str, body: bytes) -> None:
    """They go as they are."""
    dialect, operation, _ = TAILS[api]
    call = Call(dialect, operation, "m", stream=False, sealed=("x",))
    assert unsealed(call, Target("deepseek", "m"), body, {"x"}) is body


@pytest.mark.parametrize(
    ("api", "issuers"),
    [
        ("messages", ("anthropic", "openai", "deepseek", "moonshot", "openrouter", "zai")),
        ("responses", ("anthropic", "deepseek", "moonshot", "openrouter", "zai")),
        ("chat", ("deepseek", "moonshot")),
        ("gemini", ()),
    ],
)
def test_who_demands_something(api: str, issuers: tuple[str, ...]) -> None:
    """Some stand-ins need a copy of calls in which nothing is sealed, too; the app's own provider never."""
    call = read(api, {})
    known = ("anthropic", "openai", "deepseek", "moonshot", "openrouter", "zai")
    assert tuple(i for i in known if sealed.may_demand(call, Target(i, "m"))) == issuers
    assert not any(sealed.may_demand(call, Target(i, "m", own=True)) for i in known)


def test_what_is_not_touched_stays_byte_for_byte() -> None:
    """Spaces, escapes and the order of keys outlive the copy wherever nothing was left out."""
    kept = b'{ "role":"user",  "content" : "\\u00e9 1e5" }'
    said = b'{ "text":"x", "type" : "text"}'
    seal = b'{"content":[{"type":"thinking","thinking":"t","signature":"S"},' + said + b'],"role":"assistant"}'
    body = b'{"zeta": 1.0, "messages": [' + kept + b", " + seal + b'], "tools" : [ ]}'
    call = DIALECTS["anthropic"].read("messages", "/v1/messages", "", JSON, body)
    out = unsealed(call, Target("vllm", "m"), body, set(call.sealed))
    after = b'{"content":[' + said + b'],"role":"assistant"}'
    assert out == b'{"zeta":1.0,"messages":[' + kept + b"," + after + b'],"tools":[ ]}'


BLOCKS = st.sampled_from([thinking("S"), thinking("Z"), thinking(None), text("x"), USE, RESULT, SEARCH, FOUND])
TALK = st.lists(
    st.builds(lambda r, b: {"role": r, "content": b}, st.sampled_from(["user", "assistant"]), st.lists(BLOCKS))
)


@given(TALK, st.sampled_from(["anthropic", "vllm"]))
def test_later_calls_begin_alike(talk: list[dict[str, Any]], issuer: str) -> None:
    """The copy of a longer conversation begins with the copy of the shorter one, so that prompt caches hold, and a copy
    needs none of its own."""
    body = {"messages": talk}
    whole = copy_for("messages", body, issuer, out=("Z",))["messages"]
    for end in range(len(talk)):
        part_of = copy_for("messages", {"messages": copy.deepcopy(talk[:end])}, issuer, out=("Z",))["messages"]
        assert whole[: len(part_of)] == part_of
    assert copy_for("messages", {"messages": whole}, issuer, out=("Z",))["messages"] == whole


@pytest.mark.parametrize(
    ("message", "refused"),
    [
        ("messages.1.content.0: Invalid `signature` in `thinking` block", True),
        ("messages.1.content.0.thinking.signature: Field required", True),
        ("messages.1.content.0: signature: Extra inputs are not permitted", True),
        ("messages.1.content.0.type: Expected `thinking` or `redacted_thinking`, but found `tool_use`.", True),
        ("`thinking` or `redacted_thinking` blocks in the latest assistant message cannot be modified.", True),
        ("The `content[].thinking` in the thinking mode must be passed back to the API.", True),
        ("thinking is enabled but reasoning_content is missing in assistant tool call message at index 2", True),
        ("The encrypted content gAAA...== could not be verified. Reason: x", True),
        ("Could not decrypt the provided encrypted_content. Ensure the value is unmodified", True),
        ("Item 'fc_1' of type 'function_call' was provided without its required 'reasoning' item: 'rs_1'.", True),
        ("Item with id 'rs_1' not found. Items are not persisted when `store` is set to false.", True),
        ("Function call is missing a thought_signature in functionCall parts.", True),
        ("Corrupted thought signature.", True),
        ("thinking.type: Field required", False),
        ("messages: at least one message is required", False),
        ("The signature of the function f does not fit", False),
        ("Item with id 'msg_1' not found.", False),
    ],
)
def test_refusals(message: str, refused: bool) -> None:
    """A 400 that names sealed parts is told from others, and only a 400."""
    body = json.dumps({"error": {"type": "invalid_request_error", "message": message}}).encode()
    assert (facts_in(400, body).kind is ErrorKind.SEALED) is refused
    assert facts_in(404, body).kind is not ErrorKind.SEALED
