"""Sidestep's own answers: whole errors in each dialect, and the pages of `sidestep.internal`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mitmproxy import http

from sidestep import status
from sidestep.breaker import judging
from sidestep.breaker.circuit import State
from sidestep.breaker.outcomes import ErrorKind, Kind, Outcome, Then
from sidestep.calls import replies
from sidestep.dialects import DIALECTS
from sidestep.routing.engine import Refused
from sidestep.routing.exchange import Exchange, Exhausted
from support.flows import ask, flow_of
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
        f"no provider may be asked now: a is open, may be asked in {seconds[0]} s;"
        f" b is open, may be asked in {seconds[1]} s"
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
    assert message(made) == "no provider may be asked now: a is being probed; b is open, may be asked in 9 s"


def test_without_a_known_time_there_is_no_retry_after() -> None:
    """Held open by hand, nobody can tell."""
    world = World(toml("priority", "", a="", b=""))
    world.engine.hold("a", State.FORCED_OPEN)
    world.engine.hold("b", State.FORCED_OPEN)
    code, fields, _ = told(made := replies.exhausted(ended(world)))
    assert (code, sorted(fields)) == (503, ["content-length", "content-type"])
    assert message(made) == "no provider may be asked now: a is forced_open; b is forced_open"


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
    assert message(made) == f"no provider gave an answer: a:{word}; not asked: b is forced_open"


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
    assert message(replies.exhausted(exchange)) == "no provider takes this WebSocket now: a is forced_open"


# --- pages


def visit(world: World, path: str, method: str = "GET", *, details: bool = True) -> http.Response:
    request = flow_of(method, f"http://sidestep.internal{path}").request
    return replies.page(request, world.engine, world.now, details=details)


GUARDED = {
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
"""So that no page of the web learns anything from ours."""


@pytest.mark.parametrize("query", ["", "?x=1"])
def test_the_three_pages(query: str) -> None:
    """Each is what `status` says, with its type; a query changes nothing."""
    world = opened(20, 30)
    health = visit(world, f"/health{query}")
    fields = {"content-type": "application/json", "content-length": str(len(health.content or b"")), **GUARDED}
    assert told(health) == (
        503,
        fields,
        status.health(world.engine, world.now)[1],
    )
    metrics = visit(world, f"/metrics{query}")
    assert (metrics.status_code, metrics.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert metrics.content == status.metrics(world.engine, world.now)
    page = visit(world, f"/{query}")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.content == status.page(world.engine, world.now)


def test_strangers_learn_how_it_is_in_a_word() -> None:
    """Without details: the status code and its word, and no other page."""
    world = opened(20, 30)

    def see(path: str) -> http.Response:
        request = flow_of("GET", f"http://sidestep.internal{path}").request
        return replies.page(request, world.engine, world.now, details=False)

    assert (see("/health").status_code, json.loads(see("/health").content or b"")) == (503, {"status": "unhealthy"})
    assert [see(path).status_code for path in ("/", "/metrics", "/nothing")] == [403, 403, 403]


def test_health_is_fine_where_calls_are_answered() -> None:
    world = World(toml("priority", "", a=""))
    assert told(visit(world, "/health"))[0] == 200


def test_other_pages_and_methods() -> None:
    """What there is, and how to ask for it."""
    world = World(toml("priority", "", a=""))
    missing = visit(world, "/nothing")
    assert (missing.status_code, missing.content) == (404, b"/, /health and /metrics are here\n")
    posted = visit(world, "/health", "POST")
    assert (posted.status_code, posted.headers["allow"], posted.content) == (405, "GET, HEAD", b"only GET\n")


@pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/nothing"])
def test_head_is_get_without_the_body(path: str) -> None:
    """Header fields and all."""
    world = World(toml("priority", "", a=""))
    whole, head = visit(world, path), visit(world, path, "HEAD")
    assert (head.status_code, head.headers.fields) == (whole.status_code, whole.headers.fields)
    assert head.raw_content == b""


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/", "/health", "/health?x=1", "/metrics", "/nothing"])
def test_a_client_without_rights_learns_one_word(path: str, method: str) -> None:
    """Whether its calls are served, by status and word; no provider, no route, no count."""
    for world in (opened(20, 30), World(toml("priority", "", a=""))):
        page = visit(world, path, method, details=False)
        code, body = status.health(world.engine, world.now)
        if path.startswith("/health"):
            assert page.status_code == code
            assert method == "HEAD" or json.loads(page.content or b"") == {"status": body["status"]}
        else:
            assert page.status_code == 403
        assert not any(name.encode() in (page.content or b"") for name in ("app.test", "metrics", "closed", '"a"'))
    assert visit(world, path, "POST", details=False).status_code == 403
