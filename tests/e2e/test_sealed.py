"""Conversations with sealed reasoning go on where their provider fails, and come home: a real mitmdump, real servers.

Each provider seals what it answers with its own name, and refuses with a 400 what another one has sealed, as the real
ones do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest

from support.provider import Behaviour, Provider, Seen
from support.proxy import Mitmdump
from support.raw import Wire, request
from support.settings import route, table

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
            events: list[Json] = [*done, {"type": "response.completed", "response": {**body, "output": []}}]
            data = b"".join(map(event, events))
    else:
        thought, said = items[0]["content"]
        body = {"type": "message", "role": "assistant", "content": [thought, said], "stop_reason": "end_turn"}
        data = json.dumps(body).encode()
        if stream:
            start: Json = {"index": 0, "type": "content_block_start"}
            delta: Json = {"index": 0, "type": "content_block_delta"}
            events = [
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
            ]
            data = b"".join(map(event, events))
    return Behaviour(body=data, headers={"content-type": "text/event-stream"} if stream else {})


def is_strict(api: str, provider: Provider, stream: bool, row: int) -> None:
    """The provider answers what holds no other one's seals, and refuses the rest."""

    def choose(seen: Seen) -> Behaviour:
        if seen.body.count(b"SEAL-") > seen.body.count(b"SEAL-" + provider.name.encode()):
            message = REFUSALS[api]
            return Behaviour(status=400, body=json.dumps({"error": {"message": message}}).encode())
        return answer(api, provider.name, 100 * row + provider.count, stream=stream)

    provider.chooser = choose


@dataclass
class Row:
    """Two strict providers of one API, the first addressed by the app; all rows are behind one proxy."""

    number: int
    api: str
    stream: bool
    a: Provider
    b: Provider
    m: Mitmdump | None = None

    def ask(self, talk: Talk) -> tuple[int, str, bytes]:
        """Status, attempts and body of what the app gets."""
        path = PATHS[self.api]
        if self.api == "gemini":
            path += "streamGenerateContent?alt=sse" if self.stream else "generateContent"
        dialect = "openai" if self.api == "responses" else "other"
        sent = request(self.a.url(dialect) + path, talk.body(self.stream), ("content-type", "application/json"))
        assert self.m is not None
        with Wire(self.m) as wire:
            status, headers, body = wire.send(sent).answer()
        return status, headers["x-sidestep-attempts"].replace(f".{self.number}:", ":"), body

    def answered(self, by: str, number: int) -> list[Json]:
        """What the app keeps of the answer with this number of one of them."""
        return answered(self.api, by, 100 * self.number + number)

    def got(self, provider: Provider) -> list[Json]:
        """The conversation as a provider got it last."""
        body = provider.requests[-1].json
        found: list[Json] = body.get("messages") or body.get("input") or body.get("contents")
        return found

    def log(self, pattern: str) -> str:
        assert self.m is not None
        return self.m.wait_for_log(pattern)[1]


WAYS = ("home", "restart", "pin", "stays")
Take = Callable[[str, str, bool], Row]


@pytest.fixture(scope="module")
def row(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Take]:
    """A row for each way, API and kind of answer."""
    folder = tmp_path_factory.mktemp("sealed")
    script = folder / "story.py"
    script.write_text(STORY)
    rows: dict[tuple[str, str, bool], Row] = {}
    texts = [table(name, values) for name, values in FAST.items()]
    with ExitStack() as stack:
        for number, (way, api, stream) in enumerate(product(WAYS, PATHS, (False, True))):
            a, b = (stack.enter_context(Provider(name)) for name in "ab")
            for each in (a, b):
                is_strict(api, each, stream, number)
            extra = 'routing = { sealed = "pin" }\n' if way == "pin" else ""
            texts.append(route(api, a, b, own=a, suffix=f".{number}", extra=extra))
            rows[way, api, stream] = Row(number, api, stream, a, b)
        m = stack.enter_context(Mitmdump(folder / "proxy", "\n".join(texts), "-s", str(script)))

        def take(way: str, api: str, stream: bool) -> Row:
            found = rows[way, api, stream]
            found.m = m
            return found

        yield take


BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
APIS = pytest.mark.parametrize("api", PATHS)


@APIS
@BOTH
def test_a_session_goes_on_and_comes_home(api: str, stream: bool, row: Take) -> None:
    """After two good turns the first provider fails: the second one answers a copy without the first one's reasoning;
    once home is well it gets its own reasoning back untouched, the stand-in's never, and the same in every later
    call."""
    world = row("home", api, stream)
    talk = Talk(api, (asks(api, "one"),))
    for number in (1, 2):
        assert world.ask(talk)[:2] == (200, "a:200")
        talk = talk.said(*world.answered("a", number), asks(api, "more"))
    own = talk

    world.a.then(DOWN)
    assert world.ask(talk)[:2] == (200, "a:503, b:200")
    first, second = world.answered("a", 1), world.answered("a", 2)
    one, more = asks(api, "one"), asks(api, "more")
    assert world.a.requests[-1].body == own.body(stream)
    assert world.got(world.b) == [one, *left_out(api, first), more, *left_out(api, second), more]
    story = json.loads(world.log(rf'STORY (\{{.*"provider": "a\.{world.number}"[^}}]*"reason": "http_5xx".*\}})'))
    assert [a["notes"] for a in story["attempts"]] == [[], ["reasoning of another issuer left out"]]
    if api != "responses":
        world.log(rf"(b\.{world.number} has no issuer)")

    third = world.answered("b", 1)
    talk = talk.said(*third, more)
    assert world.ask(talk)[:2] == (200, "a:200")
    home = [one, *first, more, *second, more, *left_out(api, third), more]
    assert world.got(world.a) == home
    fourth = world.answered("a", world.a.count)
    talk = talk.said(*fourth, more)
    assert world.ask(talk)[:2] == (200, "a:200")
    assert world.got(world.a) == [*home, *fourth, more]


@APIS
@BOTH
def test_the_strict_rule(api: str, stream: bool, row: Take) -> None:
    """With `sealed = "pin"` no other issuer's provider is asked, and the app gets its own provider's failure."""
    world = row("pin", api, stream)
    talk = Talk(api, (asks(api, "one"),))
    assert world.ask(talk)[:2] == (200, "a:200")
    world.a.then(DOWN)
    assert world.ask(talk.said(*world.answered("a", 1), asks(api, "more")))[:2] == (503, "a:503")
    assert world.b.count == 0


@APIS
@BOTH
def test_what_a_proxy_that_is_gone_has_seen(api: str, stream: bool, row: Take) -> None:
    """A conversation that goes on behind a proxy that never saw a stand-in's reasoning: home refuses it, is asked once
    more without, and never gets it again."""
    world = row("restart", api, stream)
    foreign = world.answered("b", 1)
    one, more = asks(api, "one"), asks(api, "more")
    talk = Talk(api, (one, *foreign, more))
    assert world.ask(talk)[:2] == (200, "a:400, a:200")
    assert world.got(world.a) == [one, *left_out(api, foreign), more]
    own = world.answered("a", world.a.count)
    assert world.ask(talk.said(*own, more))[:2] == (200, "a:200")
    assert world.got(world.a) == [one, *left_out(api, foreign), more, *own, more]


def test_a_refusal_that_stays_reaches_the_app(row: Take) -> None:
    """Where the repeat is refused as well the app gets a provider's own words, and no third attempt is made."""
    world = row("stays", "messages", False)
    body = json.dumps({"error": {"type": "invalid_request_error", "message": REFUSALS["messages"]}}).encode()
    world.a.chooser = None
    world.a.default = Behaviour(status=400, body=body)
    talk = Talk("messages", (asks("messages", "one"), *world.answered("a", 1), asks("messages", "more")))
    assert world.ask(talk) == (400, "a:400, a:400", body)
    assert (world.a.count, world.b.count) == (2, 0)
    assert world.m is not None
    assert world.m.provider(f"a.{world.number}")["state"] == "closed"
