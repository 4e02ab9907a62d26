"""Conversations with sealed reasoning go on where their provider fails, and come home: a real mitmdump, real servers.

Each provider seals what it answers with its own name, and refuses with a 400 what another one has sealed, as the real
ones do.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from support.provider import Behaviour, Provider, Seen
from support.proxy import Mitmdump
from support.raw import Wire, request
from support.settings import config

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]
Json = dict[str, Any]

STORY = """
import json, logging
def response(flow):
    logging.info("STORY " + json.dumps(flow.metadata.get("sidestep")))
"""
FAST: Json = {"attempts": {"per_provider": 1, "wait_seconds": 0, "backoff_seconds": 0}, "routing": {"stick_seconds": 0}}
DOWN = Behaviour(status=503)
REFUSALS = {
    "messages": "messages.1.content.0: Invalid `signature` in `thinking` block",
    "responses": "The encrypted content SEA...== could not be verified. Reason: unknown",
    "gemini": "Corrupted thought signature.",
}
PATHS = {"messages": "/v1/messages", "responses": "/responses", "gemini": "/v1beta/models/gemini-3-pro:"}


@dataclass(frozen=True)
class Talk:
    """A conversation of one API, as the app keeps it."""

    api: str
    turns: tuple[Json, ...]

    def said(self, *more: Json) -> Talk:
        return Talk(self.api, (*self.turns, *more))

    def body(self, stream: bool) -> bytes:
        field = {"messages": "messages", "responses": "input", "gemini": "contents"}[self.api]
        body: Json = {field: list(self.turns)}
        if self.api != "gemini":
            body |= {"model": "m", "stream": stream}
        if self.api == "messages":
            body |= {"max_tokens": 99, "thinking": {"type": "adaptive"}}
        return json.dumps(body).encode()


def asks(api: str, words: str) -> Json:
    """What the user says."""
    return {"role": "user", "parts": [{"text": words}]} if api == "gemini" else {"role": "user", "content": words}


def answered(api: str, by: str, number: int) -> list[Json]:
    """What the app keeps of a provider's answer."""
    seal, words = f"SEAL-{by}-{number}", f"{by}{number}"
    if api == "messages":
        thought = {"type": "thinking", "thinking": f"hm {words}", "signature": seal}
        return [{"role": "assistant", "content": [thought, {"type": "text", "text": words}]}]
    if api == "gemini":
        return [{"role": "model", "parts": [{"text": words, "thoughtSignature": seal}]}]
    return [
        {"type": "reasoning", "id": f"rs_{by}{number}", "summary": [], "encrypted_content": seal},
        {
            "type": "message",
            "id": f"msg_{by}{number}",
            "role": "assistant",
            "content": [{"type": "output_text", "text": words, "annotations": []}],
        },
    ]


def left_out(api: str, items: list[Json]) -> list[Json]:
    """The same without its reasoning."""
    if api == "messages":
        return [{"role": "assistant", "content": items[0]["content"][1:]}]
    if api == "gemini":
        return [{"role": "model", "parts": [{"text": items[0]["parts"][0]["text"]}]}]
    return [{k: v for k, v in items[1].items() if k != "id"}]


def event(data: Json) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (str(data.get("type", "x")).encode(), json.dumps(data).encode())


def answer(api: str, by: str, number: int, *, stream: bool) -> Behaviour:
    """How a provider gives that answer."""
    items = answered(api, by, number)
    if api == "gemini":
        body: Json = {"candidates": [{"content": items[0], "finishReason": "STOP", "index": 0}]}
        data = b"data: " + json.dumps(body).encode() + b"\n\n" if stream else json.dumps(body).encode()
    elif api == "responses":
        body = {"id": f"resp_{by}{number}", "object": "response", "status": "completed", "output": items}
        data = json.dumps(body).encode()
        if stream:
            done = [{"type": "response.output_item.done", "item": item} for item in items]
            events = [*done, {"type": "response.completed", "response": {**body, "output": []}}]
            data = b"".join(map(event, events))
    else:
        thought, said = items[0]["content"]
        body = {"type": "message", "role": "assistant", "content": [thought, said], "stop_reason": "end_turn"}
        data = json.dumps(body).encode()
        if stream:
            start = {"index": 0, "type": "content_block_start"}
            delta = {"index": 0, "type": "content_block_delta"}
            data = b"".join(
                map(
                    event,
                    [
                        {"type": "message_start", "message": {**body, "content": [], "stop_reason": None}},
                        {**start, "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
                        {**delta, "delta": {"type": "thinking_delta", "thinking": thought["thinking"]}},
                        {**delta, "delta": {"type": "signature_delta", "signature": thought["signature"]}},
                        {"type": "content_block_stop", "index": 0},
                        {**start, "index": 1, "content_block": {"type": "text", "text": ""}},
                        {**delta, "index": 1, "delta": {"type": "text_delta", "text": said["text"]}},
                        {"type": "content_block_stop", "index": 1},
                        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {}},
                        {"type": "message_stop"},
                    ],
                )
            )
    return Behaviour(body=data, headers={"content-type": "text/event-stream"} if stream else {})


def is_strict(api: str, provider: Provider, stream: bool) -> None:
    """The provider answers what holds no other one's seals, and refuses the rest."""

    def choose(seen: Seen) -> Behaviour:
        if seen.body.count(b"SEAL-") > seen.body.count(b"SEAL-" + provider.name.encode()):
            message = REFUSALS[api]
            return Behaviour(status=400, body=json.dumps({"error": {"message": message}}).encode())
        return answer(api, provider.name, provider.count, stream=stream)

    provider.chooser = choose


class World:
    """Two strict providers, the first addressed by the app, behind one proxy."""

    def __init__(self, api: str, stream: bool, provider: Make, proxy: Start, script: Any, **tables: Any) -> None:
        self.api, self.stream = api, stream
        self.a, self.b = provider("a"), provider("b")
        for each in (self.a, self.b):
            is_strict(api, each, stream)
        script.write_text(STORY)
        self._settings = {**FAST, **tables}
        text = config(api, self.a, self.b, own=self.a, **self._settings)
        self.m = proxy(text, "-s", str(script))

    def ask(self, talk: Talk, m: Mitmdump | None = None) -> tuple[int, str, bytes]:
        """Status, attempts and body of what the app gets."""
        path = PATHS[self.api]
        if self.api == "gemini":
            path += "streamGenerateContent?alt=sse" if self.stream else "generateContent"
        dialect = "openai" if self.api == "responses" else "other"
        sent = request(self.a.url(dialect) + path, talk.body(self.stream), ("content-type", "application/json"))
        with Wire(m or self.m) as wire:
            status, headers, body = wire.send(sent).answer()
        return status, headers["x-sidestep-attempts"], body

    def got(self, provider: Provider) -> list[Json]:
        """The conversation as a provider got it last."""
        body = provider.requests[-1].json
        found: list[Json] = body.get("messages") or body.get("input") or body.get("contents")
        return found


BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
APIS = pytest.mark.parametrize("api", PATHS)


@APIS
@BOTH
def test_a_session_goes_on_and_comes_home(api: str, stream: bool, provider: Make, proxy: Start, tmp_path: Any) -> None:
    """After two good turns the first provider fails: the second one answers a copy without the first one's reasoning;
    once home is well it gets its own reasoning back untouched, the stand-in's never, and the same in every later
    call."""
    world = World(api, stream, provider, proxy, tmp_path / "story.py")
    talk = Talk(api, (asks(api, "one"),))
    for number in (1, 2):
        assert world.ask(talk)[:2] == (200, "a:200")
        talk = talk.said(*answered(api, "a", number), asks(api, "more"))
    own = talk

    world.a.then(DOWN)
    assert world.ask(talk)[:2] == (200, "a:503, b:200")
    first, second = answered(api, "a", 1), answered(api, "a", 2)
    one, more = asks(api, "one"), asks(api, "more")
    assert world.a.requests[-1].body == own.body(stream)
    assert world.got(world.b) == [one, *left_out(api, first), more, *left_out(api, second), more]
    story = json.loads(world.m.wait_for_log(r"STORY (\{.*a:503, b:200.*|\{.*\"reason\": \"http_5xx\".*\})")[1])
    assert [a["notes"] for a in story["attempts"]] == [[], ["reasoning of another issuer left out"]]
    if api != "responses":
        world.m.wait_for_log("b has no issuer")

    third = answered(api, "b", 1)
    talk = talk.said(*third, more)
    assert world.ask(talk)[:2] == (200, "a:200")
    home = [one, *first, more, *second, more, *left_out(api, third), more]
    assert world.got(world.a) == home
    fourth = answered(api, "a", world.a.count)
    talk = talk.said(*fourth, more)
    assert world.ask(talk)[:2] == (200, "a:200")
    assert world.got(world.a) == [*home, *fourth, more]


@APIS
def test_the_strict_rule(api: str, provider: Make, proxy: Start, tmp_path: Any) -> None:
    """With `sealed = "pin"` no other issuer's provider is asked, and the app gets its own provider's failure."""
    world = World(api, False, provider, proxy, tmp_path / "story.py", routing={"sealed": "pin", "stick_seconds": 0})
    talk = Talk(api, (asks(api, "one"),))
    assert world.ask(talk)[:2] == (200, "a:200")
    world.a.then(DOWN)
    assert world.ask(talk.said(*answered(api, "a", 1), asks(api, "more")))[:2] == (503, "a:503")
    assert world.b.count == 0


@APIS
@BOTH
def test_what_a_proxy_that_is_gone_has_seen(
    api: str, stream: bool, provider: Make, proxy: Start, tmp_path: Any
) -> None:
    """A conversation that goes on behind a proxy that never saw a stand-in's reasoning: home refuses it, is asked once
    more without, and never gets it again."""
    world = World(api, stream, provider, proxy, tmp_path / "story.py")
    foreign = answered(api, "b", 1)
    one, more = asks(api, "one"), asks(api, "more")
    talk = Talk(api, (one, *foreign, more))
    assert world.ask(talk)[:2] == (200, "a:400, a:200")
    assert world.got(world.a) == [one, *left_out(api, foreign), more]
    own = answered(api, "a", world.a.count)
    assert world.ask(talk.said(*own, more))[:2] == (200, "a:200")
    assert world.got(world.a) == [one, *left_out(api, foreign), more, *own, more]


def test_a_refusal_that_stays_reaches_the_app(provider: Make, proxy: Start, tmp_path: Any) -> None:
    """Where the repeat is refused as well the app gets a provider's own words, and no third attempt is made."""
    world = World("messages", False, provider, proxy, tmp_path / "story.py")
    body = json.dumps({"error": {"type": "invalid_request_error", "message": REFUSALS["messages"]}}).encode()
    world.a.chooser = None
    world.a.default = Behaviour(status=400, body=body)
    talk = Talk("messages", (asks("messages", "one"), *answered("messages", "a", 1), asks("messages", "more")))
    assert world.ask(talk) == (400, "a:400, a:400", body)
    assert (world.a.count, world.b.count) == (2, 0)
    assert world.m.provider("a")["state"] == "closed"
