"""Sidestep's own answers: whole errors in each dialect."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mitmproxy import http

from sidestep.breaker import judging
from sidestep.breaker.circuit import State
from sidestep.breaker.outcomes import ErrorKind, Kind, Outcome, Then
from sidestep.calls import replies
from sidestep.dialects import DIALECTS
from sidestep.routing.engine import Refused
from sidestep.routing.exchange import Exchange, Exhausted
from support.flows import ask
from support.world import World, toml

DOWN = Outcome(Kind.FAILURE, "http_5xx", Then.NEXT, 503)


def told(response: http.Response) -> tuple[int, dict[str, str], Any]:
    """Status, header fields by name, and the body read."""
    return response.status_code, dict(response.headers.items()), json.loads(response.content or b"null")


def message(response: http.Response) -> str:
    """What an error says, which begins with whose it is."""
    whose, _, text = str(told(response)[2]["error"]["message"]).partition(": ")
    assert whose == "sidestep"
    return text


def opened(a: float, b: float) -> World:
    """Both circuits are open, and may be probed after so many seconds."""
    circuit = 'circuit = {{ failure_threshold = 1, open_seconds = {}, scope = "provider" }}'
    world = World(toml("priority", "[attempts]\nwait_seconds = 0", a=circuit.format(a), b=circuit.format(b)))
    assert world.call(failing="ab") == "ab-"
    return world


def ended(world: World, path: str = "/v1/chat/completions") -> Exchange:
    """A request that nobody may answer now."""
    exchange = world.exchange(path=path)
    assert isinstance(exchange.next(world.now), Exhausted)
    return exchange


# --- errors


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_error_is_the_dialects_own_with_more_header_fields(dialect: str) -> None:
    made = replies.error(DIALECTS[dialect], 503, ErrorKind.OVERLOADED, "no", retry_after="7", x_y="z")
    code, fields, body = told(made)
    assert code == 503
    assert body == json.loads(DIALECTS[dialect].phrase_error(503, ErrorKind.OVERLOADED, "no"))
    assert fields == {
        "content-type": "application/json",
        "retry-after": "7",
        "x-y": "z",
        "content-length": str(len(made.content or b"")),
    }


@pytest.mark.parametrize(("a", "b", "first"), [(20, 30, "20"), (30, 20, "20"), (7.2, 100, "8"), (0.2, 5, "1")])
def test_where_nobody_may_be_asked_the_app_is_told_when_the_first_may(a: float, b: float, first: str) -> None:
    """503 with whole seconds, at least one, until the earliest time, and each provider's reason."""
    code, fields, body = told(made := replies.exhausted(ended(opened(a, b))))
    assert (code, fields["retry-after"]) == (503, first)
    seconds = [int(-(-s // 1)) for s in (a, b)]
    text = (
        f"no provider may be asked now: a's circuit is open, may be asked in {seconds[0]} s;"
        f" b's circuit is open, may be asked in {seconds[1]} s"
    )
    assert message(made) == text
    assert body == json.loads(DIALECTS["openai"].phrase_error(503, ErrorKind.OVERLOADED, text))


def test_an_app_is_told_to_wait_a_second_at_least() -> None:
    """Nought would have it ask again at once."""
    exchange = ended(opened(20, 30))
    exchange.refused = (Refused("a", "open", 0.0), Refused("b", "open", 9.0))
    assert told(replies.exhausted(exchange))[1]["retry-after"] == "1"


def test_a_probe_may_be_over_at_any_moment() -> None:
    """How long it may take at most is no time until it is worth asking again."""
    exchange = ended(opened(20, 30))
    exchange.refused = (Refused("a", "probing", 694.0), Refused("b", "open", 9.0))
    assert told(made := replies.exhausted(exchange))[1]["retry-after"] == "1"
    why = "a is being tried again; b's circuit is open, may be asked in 9 s"
    assert message(made) == f"no provider may be asked now: {why}"


def test_without_a_known_time_there_is_no_retry_after() -> None:
    """Held open by hand, nobody can tell."""
    world = World(toml("priority", "", a="", b=""))
    world.engine.hold("a", State.FORCED_OPEN)
    world.engine.hold("b", State.FORCED_OPEN)
    code, fields, _ = told(made := replies.exhausted(ended(world)))
    assert (code, sorted(fields)) == (503, ["content-length", "content-type"])
    assert message(made) == "no provider may be asked now: a is held open by hand; b is held open by hand"


@pytest.mark.parametrize(("outcome", "code", "word"), [(DOWN, 502, "503"), (judging.TIMEOUT, 504, "timeout")])
def test_where_all_have_failed_the_app_is_told_how(outcome: Outcome, code: int, word: str) -> None:
    """502, or 504 where the last was silent; who was asked, and who was not and why."""
    world = World(toml("priority", '[circuit]\nscope = "provider"', a="", b=""))
    exchange = world.exchange()
    for _ in "ab":
        ask(world, exchange)
        world.fail(exchange, outcome)
    assert isinstance(exchange.next(world.now), Exhausted)
    found = told(made := replies.exhausted(exchange))
    assert message(made) == f"no provider gave an answer: a:{word}, b:{word}"
    assert found[0] == code
    assert found[2] == json.loads(DIALECTS["openai"].phrase_error(code, ErrorKind.SERVER, message(made)))
    exchange = world.exchange()
    ask(world, exchange)
    world.fail(exchange, outcome)
    world.engine.hold("b", State.FORCED_OPEN)
    assert isinstance(exchange.next(world.now), Exhausted)
    made = replies.exhausted(exchange)
    assert made.status_code == code
    assert message(made) == f"no provider gave an answer: a:{word}; not asked: b is held open by hand"


def test_a_handshake_is_sent_back_to_http() -> None:
    """426, on which the clients that can come back over HTTP; with the reasons where there are any."""
    world = World(toml("priority", "", a=""))
    match = world.engine.routes.match("GET", "ws", "app.test", 80, "/v1/realtime")
    assert match is not None
    call = match.read("model=m", "", b"")
    plan = world.exchange().plan
    exchange = Exchange(world.engine, match, call, plan, world.now)
    assert replies.exhausted(exchange).status_code == 426
    assert message(replies.exhausted(exchange)) == "no provider takes this WebSocket now: see HTTP"
    world.engine.hold("a", State.FORCED_OPEN)
    assert isinstance(exchange.next(world.now), Exhausted)
    assert message(replies.exhausted(exchange)) == "no provider takes this WebSocket now: a is held open by hand"
    world.engine.hold("a", None)
    failed = Exchange(world.engine, match, call, plan, world.now)
    ask(world, failed)
    world.fail(failed, judging.TIMEOUT)
    assert message(replies.exhausted(failed)) == "no provider takes this WebSocket now: a:timeout"


def test_in_place_of_a_page() -> None:
    made = replies.forbidden("not for you")
    assert (made.status_code, made.content, made.headers["content-type"]) == (403, b"not for you\n", "text/plain")
