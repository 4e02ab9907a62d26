"""A WebSocket after its handshake: what passes is what the circuits, the cooldowns and the story come to know."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.websocket import WebSocketData, WebSocketMessage
from wsproto.frame_protocol import Opcode

from sidestep.breaker import judging
from sidestep.breaker.circuit import State
from sidestep.breaker.outcomes import Kind, Result
from sidestep.calls import frames, story
from sidestep.calls.flight import Flight
from sidestep.calls.flows import Original
from sidestep.calls.frames import Frames, conversation_of
from sidestep.calls.session import Session
from sidestep.dialects import sealed_openai
from sidestep.forwarding import AllowList
from sidestep.routing import table
from sidestep.routing.engine import Attempt
from sidestep.routing.exchange import Exchange, Exhausted
from support.flows import flow_of
from support.world import World, toml

CREATE = {"type": "response.create", "model": "m", "input": "hi"}
CREATED = {"type": "response.created", "response": {"id": "r1"}}
DELTA = {"type": "response.output_text.delta", "delta": "well"}
MESSAGE = {"id": "i1", "type": "message", "content": [{"type": "output_text", "text": "well"}]}
COMPLETED = {
    "type": "response.completed",
    "response": {"id": "r1", "output": [MESSAGE], "usage": {"input_tokens": 7, "output_tokens": 3}},
}
HOLLOW = {"type": "response.completed", "response": {"id": "r1", "output": []}}
OVERLOADED = {"type": "error", "status": 503, "error": {"code": "server_is_overloaded"}}
FAILED = {"type": "response.failed", "response": {"id": "r1", "error": {"code": "server_error", "message": "x"}}}
LIMITED = {"type": "error", "status": 429, "error": {"code": "rate_limit_exceeded"}, "headers": {"Retry-After": 30}}
SPENT = {"type": "error", "status": 429, "error": {"type": "usage_limit_reached", "resets_in_seconds": 1_000}}
POLICY = {"type": "response.failed", "response": {"id": "r1", "error": {"code": "bio_policy", "message": "no"}}}
INVALID = {"type": "error", "status": 400, "error": {"code": "previous_response_not_found"}}
EXPIRED = {"type": "error", "status": 429, "error": {"code": "websocket_connection_limit_reached"}}
NO_MODEL = {"type": "error", "status": 404, "error": {"code": "model_not_found"}}
NO_KEY = {"type": "error", "status": 401, "error": {"code": "invalid_api_key"}}

RESPONSES = "/v1/responses"
REALTIME = "/v1/realtime?model=m"
VANISHED = 1006


class Socket:
    """A handshake that a provider has taken, and what goes over it. State: the world, the session and its frames."""

    def __init__(self, world: World, path: str = RESPONSES, *, conversation: str = "", acting: bool = True) -> None:
        self.world = world
        self.exchange = handshake(world, path, conversation)
        attempt = self.exchange.next(world.now)
        assert isinstance(attempt, Attempt), attempt
        flow = flow_of("GET", f"http://app.test{path}")
        self.session = Session(flow, self.exchange.match, world.engine, lambda: world.now, acting=acting)
        self.session.exchange = self.exchange
        self.session.conversation = conversation
        self.flight = self.session.flight = Flight(self.session, self.exchange, attempt)
        self.session.answer = attempt
        world.engine.live.add(self.session)
        flow.response = http.Response.make(101, b"", {"upgrade": "websocket"})
        self.flight.answers(flow.response, bodiless=True)
        self.frames = self.session.frames = Frames(self.session, self.flight)

    def say(self, *messages: Any) -> bytes:
        """The app says this, and what the provider gets of the last of it."""
        sent = b""
        for message in messages:
            raw = message if isinstance(message, bytes) else json.dumps(message).encode()
            sent = self.frames.sent(raw, is_text=not isinstance(message, bytes))
        return sent

    def hear(self, *messages: Any) -> list[bool]:
        """The provider says this; which of it the app gets."""
        raws = [m if isinstance(m, bytes) else json.dumps(m).encode() for m in messages]
        return [self.frames.came(r, is_text=not isinstance(m, bytes)) for r, m in zip(raws, messages, strict=True)]

    def close(self, code: int | None = 1000, reason: str = "", *, by_client: bool = False) -> None:
        self.frames.ended(code, reason, by_client=by_client)

    @property
    def outcomes(self) -> list[str]:
        """Of all attempts, as `kind reason`."""
        return [f"{a.outcome.kind} {a.outcome.reason}" if a.outcome else "pending" for a in self.exchange.attempts]

    @property
    def result(self) -> Result:
        return story.result(self.session)


def handshake(world: World, path: str = RESPONSES, conversation: str = "") -> Exchange:
    engine = world.engine
    match = engine.routes.match("GET", "http", "app.test", 80, path)
    assert match is not None
    call = match.dialect.read(match.operation, match.tail, path.partition("?")[2], "", b"")
    candidates = engine.routes.candidates(match, call.model)
    plan = table.plan(candidates, call, home_issuer=match.home_issuer, issuer_of=engine.issuer_of, knows_model=None)
    return Exchange(engine, match, call, plan, world.now, jitter=lambda: 0.5, conversation=conversation)


def counts(world: World, name: str = "a", model: str | None = "m") -> tuple[int, int]:
    """Successes and failures in the circuit of the model there."""
    provider = next(p for p in world.engine.settings.providers if p.name == name)
    circuit = world.engine.guard(provider, model).answering
    assert circuit is not None
    snapshot = circuit.snapshot(world.now)
    return snapshot.successes, snapshot.failures


def at_rest(world: World) -> bool:
    """Nothing is under way, and no permit is out."""
    engine = world.engine
    out = [c.snapshot(world.now).permits_out for p in engine.settings.providers for c in _circuits(world, p)]
    return not engine.in_flight and not engine.out and not engine.live and not any(out)


def _circuits(world: World, provider: Any) -> list[Any]:
    return [world.engine.circuit_of(provider), *world.engine.circuits_of_models(provider).values()]


def world(*names: str, top: str = "", **more: str) -> World:
    return World(toml("priority", top, **{name: more.get(name, "") for name in names or ("a",)}))


OK = "success ok"

TURNS: list[tuple[str, list[Any], str, tuple[int, int], Result]] = [
    # name, what the provider says, the outcome, successes and failures, what came of the call
    ("whole", [CREATED, DELTA, COMPLETED], OK, (1, 0), Result.REROUTED),
    ("nothing but its end", [COMPLETED], OK, (1, 0), Result.REROUTED),
    ("hollow", [CREATED, HOLLOW], "failure bad_response", (0, 1), Result.FAILED),
    ("an error at once", [OVERLOADED], "failure bad_response", (0, 1), Result.FAILED),
    ("failed before content", [CREATED, FAILED], "failure bad_response", (0, 1), Result.FAILED),
    ("an error after content", [CREATED, DELTA, OVERLOADED], "failure stream_error", (0, 1), Result.FAILED),
    ("failed after content", [CREATED, DELTA, FAILED], "failure stream_error", (0, 1), Result.FAILED),
    ("a limit", [LIMITED], "cooldown rate_limit", (0, 0), Result.FAILED),
    ("a limit after content", [DELTA, LIMITED], "failure stream_error", (0, 1), Result.FAILED),
    ("spent", [CREATED, SPENT], "cooldown quota", (0, 0), Result.FAILED),
    ("against a policy", [CREATED, POLICY], "neutral client_error", (0, 0), Result.REROUTED),
    ("against a policy, after content", [CREATED, DELTA, POLICY], OK, (1, 0), Result.REROUTED),
    ("invalid", [INVALID], "neutral client_error", (0, 0), Result.REROUTED),
    ("the socket's hour is over", [EXPIRED], "neutral client_error", (0, 0), Result.REROUTED),
    ("no such model", [NO_MODEL], "neutral unknown_model", (0, 0), Result.FAILED),
    ("our key is refused", [NO_KEY], "cooldown credential", (0, 0), Result.FAILED),
    ("not understood", [b"\x00"], "neutral unread", (0, 0), Result.REROUTED),
    ("cancelled", [{"type": "response.cancelled"}], "neutral cancelled", (0, 0), Result.REROUTED),
]


@pytest.mark.parametrize(("heard", "outcome", "counted", "result"), [t[1:] for t in TURNS], ids=[t[0] for t in TURNS])
def test_what_comes_of_a_response(heard: Sequence[Any], outcome: str, counted: tuple[int, int], result: Result) -> None:
    """Its end is an attempt's end, at once: the socket may stay open for long."""
    w = world()
    socket = Socket(w)
    socket.say(CREATE)
    assert not at_rest(w)
    socket.hear(*heard)
    assert socket.outcomes == [outcome]
    assert counts(w) == counted
    assert at_rest(w)
    socket.close()
    assert (socket.outcomes, socket.result) == ([outcome], result)
    assert at_rest(w)


def test_success_counts_at_the_first_content_and_is_taken_back() -> None:
    w = world()
    socket = Socket(w)
    socket.say(CREATE)
    socket.hear(CREATED)
    assert (counts(w), socket.outcomes) == ((0, 0), ["pending"])
    socket.hear(DELTA)
    assert (counts(w), socket.outcomes) == ((1, 0), [OK])
    assert _circuits(w, w.engine.settings.providers[0])[0].snapshot(w.now).permits_out == 0, "given back at once"
    assert len(w.engine.in_flight) == 1
    socket.hear(FAILED)
    assert (counts(w), at_rest(w)) == ((0, 1), True)


def test_a_handshake_alone_counts_nothing() -> None:
    """That it was taken is neither a success, nor resets what failed before it; and an idle socket holds no permit."""
    w = world()
    for failed in range(1, 3):
        socket = Socket(w)
        assert at_rest(w), "idle"
        socket.say(CREATE)
        socket.hear(OVERLOADED)
        socket.close()
        assert counts(w) == (0, failed)
    socket = Socket(w)
    socket.close(by_client=True)
    assert (socket.outcomes, socket.result, counts(w)) == (["neutral opened"], Result.REROUTED, (0, 2))
    assert w.engine.attempts_total[("a", "neutral", "opened")] == 1
    assert at_rest(w)


def test_warming_up_counts_nothing() -> None:
    """Codex begins with a response that is to hold nothing."""
    w = world()
    socket = Socket(w)
    socket.say({**CREATE, "generate": False})
    socket.hear(CREATED, HOLLOW)
    assert (socket.outcomes, counts(w), at_rest(w)) == (["neutral opened"], (0, 0), True)
    socket.say(CREATE)
    socket.hear(CREATED, DELTA, COMPLETED)
    assert (socket.outcomes, counts(w), at_rest(w)) == (["neutral opened", OK], (1, 0), True)
    assert socket.result is Result.REROUTED


def test_each_response_is_an_attempt_of_its_own() -> None:
    """With its time, its tokens and its model; one that failed makes the call a failed one, whatever followed."""
    w = world(a='models = { "m" = "ours" }\nprice = { input = 1_000_000, output = 0 }')
    socket = Socket(w)
    socket.say(CREATE)
    w.now += 1
    socket.hear(DELTA)
    w.now += 1
    socket.hear(COMPLETED)
    socket.say(CREATE)
    socket.hear(FAILED)
    socket.say(CREATE)
    socket.hear(COMPLETED)
    socket.close(by_client=True)
    assert socket.outcomes == [OK, "failure bad_response", OK]
    assert [a.candidate.model for a in socket.exchange.attempts] == ["ours"] * 3
    assert counts(w, model="ours") == (2, 1)
    assert w.engine.attempts_total == {("a", "success", "ok"): 2, ("a", "failure", "bad_response"): 1}
    assert w.engine.tokens_total == {("a", "input"): 14, ("a", "output"): 6}
    assert w.engine.cost_total == {"a": 14.0}
    assert socket.result is Result.FAILED
    story.tell(socket.session, socket.result)
    told = socket.session.flow.metadata["sidestep"]
    assert [t["outcome"] for t in told["attempts"]] == ["success", "failure", "success"]
    assert (told["attempts"][0]["content_ms"], told["attempts"][0]["end_ms"]) == (1000.0, 2000.0)
    assert socket.session.flow.marked == story.FAILED


def test_a_socket_on_which_much_is_asked_keeps_what_failed() -> None:
    w = world()
    socket = Socket(w)
    socket.say(CREATE)
    socket.hear(FAILED)
    for _ in range(200):
        socket.say(CREATE)
        socket.hear(COMPLETED)
    socket.close()
    assert len(socket.exchange.attempts) == 50
    assert socket.outcomes[0] == "failure bad_response"
    assert w.engine.attempts_total[("a", "success", "ok")] == 200
    assert socket.result is Result.FAILED


def test_an_error_after_an_end_or_before_anything_was_asked() -> None:
    """A limit and a failure count, whatever they are about; what refuses a message of the app's does not."""
    w = world()
    socket = Socket(w)
    socket.hear(INVALID)
    assert (socket.outcomes, at_rest(w)) == (["pending"], True)
    socket.hear(SPENT)
    assert (socket.outcomes, at_rest(w)) == (["cooldown quota"], True)
    socket.hear(OVERLOADED, INVALID)
    assert socket.outcomes == ["cooldown quota", "failure bad_response"]
    assert at_rest(w)


# --- how it ends


CLOSES: list[tuple[int | None, str, str, str]] = [
    # code, reason, the outcome before content, after it
    (VANISHED, "", "failure bad_response", "failure truncated"),
    (1000, "", "failure bad_response", "failure truncated"),
    (1001, "", "failure bad_response", "failure truncated"),
    (1005, "", "failure bad_response", "failure truncated"),
    (1011, "", "failure bad_response", "failure stream_error"),
    (1011, "keepalive ping timeout", "neutral client_error", OK),
    (1011, "insufficient_quota", "cooldown quota", "failure stream_error"),
    (1012, "service restart", "failure bad_response", "failure stream_error"),
    (1013, "try again later", "failure bad_response", "failure stream_error"),
    (1014, "", "failure bad_response", "failure stream_error"),
    (1008, "", "neutral client_error", OK),
    (1009, "message too big", "neutral client_error", OK),
    (3000, "invalid_request_error.invalid_api_key", "cooldown credential", "failure stream_error"),
    (4000, "invalid_request_error.bad", "neutral client_error", OK),
    (4000, "enough", "failure bad_response", "failure truncated"),
    (4401, "", "cooldown credential", "failure stream_error"),
    (4429, "try again in 30 s", "cooldown rate_limit", "failure stream_error"),
    (4500, "", "failure bad_response", "failure stream_error"),
    (4503, "", "failure bad_response", "failure stream_error"),
]


@pytest.mark.parametrize(("code", "reason", "before", "after"), CLOSES)
@pytest.mark.parametrize("content", [False, True])
def test_a_close_amid_a_response(code: int | None, reason: str, before: str, after: str, content: bool) -> None:
    w = world()
    socket = Socket(w)
    socket.say(CREATE)
    socket.hear(CREATED, *([DELTA] if content else []))
    socket.close(code, reason)
    assert socket.outcomes == [after if content else before]
    assert at_rest(w)
    notes = " ".join(socket.exchange.attempts[0].notes)
    assert bool(notes) is (code not in (1000, 1001, 1005))
    assert not reason or reason not in notes


@pytest.mark.parametrize(
    ("code", "reason", "outcome"),
    [
        (VANISHED, "", None),
        (1000, "", None),
        (1001, "", None),
        (1008, "", None),
        (4000, "enough", None),
        (1011, "keepalive ping timeout", None),
        (1011, "", "failure bad_response"),
        (1013, "", "failure bad_response"),
        (4500, "", "failure bad_response"),
        (4429, "", "cooldown rate_limit"),
        (1000, "insufficient_quota", "cooldown quota"),
    ],
)
@pytest.mark.parametrize("asked", [False, True])
def test_a_close_while_nothing_is_under_way(code: int, reason: str, outcome: str | None, asked: bool) -> None:
    """An idle connection that breaks is nobody's failure; a provider that closes for troubles of its own has them."""
    w = world()
    socket = Socket(w)
    if asked:
        socket.say(CREATE)
        socket.hear(COMPLETED)
    socket.close(code, reason)
    before = [OK] if asked else []
    assert socket.outcomes == [*before, outcome] if outcome else before or ["neutral opened"]
    assert at_rest(w)


LEAVING: list[tuple[float, list[Any], float, str, Result]] = [
    # seconds until the provider says something, what it says, seconds until the app leaves, the outcome, the result
    (0, [], 5, "neutral client_gone", Result.LEFT),
    (0, [], 61, "failure timeout", Result.FAILED),
    (61, [CREATED], 5, "neutral client_gone", Result.LEFT),
    (1, [CREATED, DELTA], 5, OK, Result.LEFT),
    (1, [CREATED, DELTA], 61, "failure timeout", Result.FAILED),
    (1, [CREATED, DELTA, COMPLETED], 61, OK, Result.REROUTED),
]


@pytest.mark.parametrize(("first", "heard", "then", "outcome", "result"), LEAVING)
def test_an_app_that_leaves(first: float, heard: Sequence[Any], then: float, outcome: str, result: Result) -> None:
    """It says something of its provider only where that was silent for as long as may be."""
    w = world()
    socket = Socket(w)
    w.now += 1_000  # a socket may idle for long before anything is asked
    socket.say(CREATE)
    w.now += first
    socket.hear(*heard)
    w.now += then
    socket.close(1006, by_client=True)
    assert (socket.outcomes, socket.result, at_rest(w)) == ([outcome], result, True)


@pytest.mark.parametrize("heard", [[], [CREATED], [CREATED, DELTA], [COMPLETED]])
@pytest.mark.parametrize("asked", [False, True])
def test_what_is_dropped_blames_nobody(heard: Sequence[Any], asked: bool) -> None:
    """The proxy shuts down, or the user kills the flow."""
    w = world()
    socket = Socket(w)
    if asked:
        socket.say(CREATE)
        socket.hear(*heard)
    socket.session.drop(judging.KILLED)
    socket.session.drop(judging.KILLED)
    assert at_rest(w)
    assert (socket.result is Result.LEFT) is (asked and heard != [COMPLETED])
    assert not any(kind == Kind.FAILURE for _, kind, _ in w.engine.attempts_total)
    assert w.engine.attempts_total.total() == 1


SILENCE: list[tuple[list[Any], float, str | None]] = [
    # what is said at once, seconds of silence, the outcome
    ([], 59, None),
    ([], 61, "failure timeout"),
    ([CREATED], 299, None),
    ([CREATED], 301, "failure timeout"),
    ([CREATED, DELTA], 301, None),
    ([COMPLETED], 301, None),
    ([{"type": "not known"}], 299, None),
    ([{"chunks": [CREATED, DELTA]}], 301, None),
]


@pytest.mark.parametrize(("heard", "seconds", "outcome"), SILENCE)
@pytest.mark.parametrize("conversation", ["", "c"])
def test_a_provider_that_is_silent(
    heard: Sequence[Any], seconds: float, outcome: str | None, conversation: str
) -> None:
    """It has failed; what it says yet is the app's, unless the app is sent elsewhere."""
    w = world("a", "b")
    socket = Socket(w, conversation=conversation)
    w.now += 1_000
    socket.say(CREATE)
    socket.hear(*heard)
    due = socket.flight.deadline
    w.now += seconds
    assert (due is not None and due <= w.now) is (outcome is not None)
    before = socket.outcomes
    socket.frames.expired()
    assert socket.outcomes == ([outcome] if outcome else before)
    assert socket.frames.closes is bool(conversation and outcome)
    if outcome:
        assert socket.flight.deadline is None
        assert socket.hear(CREATED, DELTA, COMPLETED) == [not conversation] * 3
        assert socket.outcomes == [outcome] if conversation else [outcome, OK]
        assert at_rest(w)


# --- talk that is not understood


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (1000, OK),
        (1008, OK),
        (4000, OK),
        (VANISHED, "failure truncated"),
        (1011, "failure stream_error"),
    ],
)
def test_talk_that_is_not_understood(code: int, outcome: str) -> None:
    """Of a server that speaks otherwise all is one attempt: good with its first word, broken where the end says so."""
    w = world()
    socket = Socket(w)
    socket.say(b"\x00hello")
    assert not at_rest(w)
    socket.hear(b"\x00well")
    assert (counts(w, model=None), len(w.engine.in_flight)) == ((1, 0), 1)
    socket.say(b"\x00more")
    socket.hear(b"\x00and more")
    socket.close(code)
    assert (socket.outcomes, at_rest(w)) == ([outcome], True)


def test_talk_that_is_not_answered() -> None:
    w = world()
    socket = Socket(w)
    socket.say(b"\x00hello")
    socket.close()
    assert (socket.outcomes, counts(w, model=None), at_rest(w)) == (["neutral opened"], (0, 0), True)


# --- circuits, cooldowns, and the next handshake


def fail(w: World, times: int, frame: Any = OVERLOADED, conversation: str = "") -> None:
    for _ in range(times):
        socket = Socket(w, conversation=conversation)
        socket.say(CREATE)
        socket.hear(frame)
        socket.close(by_client=True)


def test_the_next_handshake_knows_the_circuit_of_the_model_that_it_will_ask_for() -> None:
    """It names none: what its app has asked for before is what it will ask for. It takes no probe's place."""
    w = world()
    fail(w, 3)
    exchange = handshake(w)
    assert isinstance(exchange.next(w.now), Exhausted)
    assert [r.reason for r in exchange.refused] == ["open"]
    w.now += 20
    socket = Socket(w)
    assert at_rest(w)
    (circuit,) = [c for m, c in w.engine.circuits_of_models(w.engine.settings.providers[0]).items() if m == "m"]
    assert circuit.state(w.now) is State.HALF_OPEN
    socket.say(CREATE)
    assert circuit.snapshot(w.now).probes_out == 1
    assert isinstance(handshake(w).next(w.now), Exhausted) is False, "it waits for the probe"
    socket.hear(DELTA)
    assert circuit.state(w.now) is State.CLOSED


def test_what_a_socket_teaches_counts_for_calls_over_http_and_the_other_way_round() -> None:
    w = world("a", "b")
    body, path = {"model": "m", "input": "hi"}, RESPONSES
    fail(w, 3)
    assert w.exchange(body, path).next(w.now).candidate.provider.name == "b"  # type: ignore[union-attr]
    v = world("a", "b")
    for _ in range(3):
        exchange = v.exchange(body, path)
        exchange.next(v.now)
        v.fail(exchange, judging.BROKEN_STREAM)
    assert Socket(v).flight.provider.name == "b"


def test_an_app_that_asks_for_another_model_has_its_handshake() -> None:
    """Blame is as narrow as the evidence: another app's model is no reason."""
    w = world()
    fail(w, 3)
    exchange = handshake(w)
    assert isinstance(exchange.next(w.now), Exhausted)
    w.exchange({"model": "n", "input": "hi"}, RESPONSES)
    socket = Socket(w)
    socket.say({**CREATE, "model": "n"})
    socket.hear(COMPLETED)
    assert counts(w, model="n") == (1, 0)


def test_a_limit_told_in_a_frame_sends_the_next_handshake_elsewhere() -> None:
    """And belongs to the operation and the model; where nobody else takes it, the handshake goes out all the same."""
    w = world("a", "b")
    fail(w, 1, LIMITED)
    assert Socket(w).flight.provider.name == "b"
    cooling = w.engine.cooldowns.of("a", w.now)
    assert [(s.operation, s.model, c.seconds) for s, c in cooling.items()] == [("responses", "m", 30.0)]
    w = world()
    fail(w, 1, SPENT)
    assert [(s.operation, c.seconds) for s, c in w.engine.cooldowns.of("a", w.now).items()] == [(None, 1_000.0)]
    assert Socket(w).flight.provider.name == "a"


def test_a_plan_that_is_used_up() -> None:
    """Its windows stand in the error frame, as the fields of an answer's head; or in an event of their own."""
    w = world("a", "b")
    told = {"x-codex-primary-used-percent": "100.0", "x-codex-primary-window-minutes": 300}
    fail(w, 1, {**SPENT, "headers": {**told, "x-codex-primary-reset-after-seconds": 500}})
    assert [(s.operation, c.reason, c.seconds) for s, c in w.engine.cooldowns.of("a", w.now).items()] == [
        (None, "plan", 500.0)
    ]
    w = world("a", "b")
    socket = Socket(w)
    socket.say(CREATE)
    primary = {"used_percent": 99, "window_minutes": 300, "reset_after_seconds": 500}
    socket.hear({"type": "codex.rate_limits", "rate_limits": {"primary": primary}}, COMPLETED)
    assert socket.outcomes == [OK]
    window = w.engine.plans.nearly_used_up(socket.exchange.attempts[0].subject, w.now)
    assert window is not None
    assert (window.name, window.used) == ("primary", 0.99)


def test_a_handshake_that_only_others_could_take_over_http_is_ended() -> None:
    """`a` is limited and `b` takes no WebSocket: its client comes over HTTP, where `b` answers."""
    w = world("a", "b")
    fail(w, 1, LIMITED)
    exchange = handshake(w)
    attempt = exchange.next(w.now)
    assert isinstance(attempt, Attempt)
    assert attempt.candidate.provider.name == "b"
    attempt.status = 404
    w.fail(exchange, judging.judge_status(404, own_provider=False, own_credential=False))
    assert isinstance(exchange.next(w.now), Exhausted)


def test_a_conversation_whose_response_failed_goes_on_over_http() -> None:
    """Over a WebSocket a failure cannot be taken back. Only where there is a choice, and for a while."""
    w = world("a", "b")
    fail(w, 1, conversation="socket:1")
    assert isinstance(handshake(w, conversation="socket:1").next(w.now), Exhausted)
    assert Socket(w, conversation="socket:2").flight.provider.name == "a"
    w.now += 16
    assert Socket(w, conversation="socket:1").flight.provider.name == "a"
    w = world("a")
    fail(w, 1, conversation="socket:1")
    assert Socket(w, conversation="socket:1").flight.provider.name == "a"


KEPT_BACK: list[tuple[str, list[str], str, dict[str, Any], list[Any], list[bool]]] = [
    # name, providers, conversation, what is asked, what is said, what of it the app gets
    ("overloaded", ["a", "b"], "c", CREATE, [OVERLOADED], [False]),
    ("spent", ["a", "b"], "c", CREATE, [CREATED, SPENT], [True, False]),
    ("our key is refused", ["a", "b"], "c", CREATE, [NO_KEY], [False]),
    ("hollow", ["a", "b"], "c", CREATE, [CREATED, HOLLOW], [True, False]),
    ("what follows", ["a", "b"], "c", CREATE, [FAILED, CREATED, DELTA], [False, False, False]),
    ("after content", ["a", "b"], "c", CREATE, [DELTA, OVERLOADED], [True, True]),
    ("about the request", ["a", "b"], "c", CREATE, [POLICY], [True]),
    ("the socket's hour is over", ["a", "b"], "c", CREATE, [EXPIRED], [True]),
    ("nobody else", ["a"], "c", CREATE, [OVERLOADED], [True]),
    ("nobody else has the model", ["a", "b"], "c", {**CREATE, "model": "x"}, [OVERLOADED], [True]),
    ("a client that may not come back", ["a", "b"], "", CREATE, [OVERLOADED], [True]),
    ("without a response", ["a", "b"], "c", {"type": "session.update"}, [OVERLOADED], [True]),
]


@pytest.mark.parametrize(
    ("names", "conversation", "ask", "said", "gets"), [k[1:] for k in KEPT_BACK], ids=[k[0] for k in KEPT_BACK]
)
def test_what_of_a_failure_is_kept_back(
    names: list[str], conversation: str, ask: dict[str, Any], said: Sequence[Any], gets: list[bool]
) -> None:
    """A provider's failure in place of a response, where another provider would take the call over HTTP."""
    w = world(*names, b='only = ["m"]')
    socket = Socket(w, conversation=conversation)
    socket.say(ask)
    assert socket.hear(*said) == gets
    assert socket.frames.closes is not all(gets)
    totals = dict(w.engine.attempts_total)
    if socket.frames.closes:
        assert isinstance(handshake(w, conversation=conversation).next(w.now), Exhausted)
        socket.close(1012)
        assert (dict(w.engine.attempts_total), socket.result) == (totals, Result.ANSWERED), "it comes again"
        assert "kept back" in " ".join(socket.exchange.attempts[0].notes)
    assert at_rest(w)


def test_nothing_is_kept_back_where_no_other_would_take_the_call() -> None:
    """Its circuit is open, another response is under way, or Sidestep only looks on."""
    w = world("a", "b")
    w.engine.hold("b", State.FORCED_OPEN)
    socket = Socket(w, conversation="c")
    socket.say(CREATE)
    assert socket.hear(OVERLOADED) == [True]
    w = world("a", "b")
    socket = Socket(w, conversation="c")
    socket.say({**CREATE, "stream_id": "x"}, {**CREATE, "stream_id": "y"})
    assert socket.hear({**OVERLOADED, "stream_id": "x"}, {**OVERLOADED, "stream_id": "y"}) == [True, False]
    socket = Socket(world("a", "b"), conversation="c", acting=False)
    socket.say(CREATE)
    assert socket.hear(OVERLOADED) == [True]


# --- what binds


def test_what_was_issued_over_a_socket_binds_later_calls() -> None:
    """The response, its items, its sealed reasoning, the conversation that it went on from."""
    w = world("a", "b")
    sealed = {"id": "rs1", "type": "reasoning", "encrypted_content": "gAAA", "summary": []}
    response = {"id": "r7", "conversation": {"id": "c1"}, "output": [sealed, MESSAGE], "usage": {"output_tokens": 1}}
    socket = Socket(w)
    socket.say({**CREATE, "previous_response_id": "r6"})
    socket.hear({"type": "response.created", "response": {"id": "r7"}}, DELTA)
    socket.hear({"type": "response.completed", "response": response})
    for body in (
        {"previous_response_id": "r7"},
        {"previous_response_id": "r6"},
        {"conversation": "c1"},
        {"input": [{"type": "item_reference", "id": "i1"}]},
        {"input": [{"type": "reasoning", "id": "rs1"}]},
    ):
        exchange = w.exchange({"model": "m", **body}, RESPONSES)
        assert ([c.provider.name for c in exchange.plan.candidates], exchange.plan.pinned) == (["a"], True), body
    call = {"model": "m", "input": [sealed, {"role": "user", "content": "go on"}]}
    assert [(c.provider.name, len(c.leaves_out)) for c in w.exchange(call, RESPONSES).plan.candidates] == [
        ("a", 0),
        ("b", 1),
    ]


def test_what_a_refused_call_named_is_nobodys() -> None:
    w = world("a", "b")
    socket = Socket(w)
    socket.say({**CREATE, "previous_response_id": "r6"})
    socket.hear(INVALID)
    assert w.engine.issuer_of("r6") is None


def test_a_conversation_is_bound_by_its_first_content() -> None:
    w = world("a", "b")
    socket = Socket(w, conversation="socket:1")
    socket.say(CREATE)
    assert w.engine.issuer_of("socket:1") is None
    socket.hear(DELTA)
    issued = w.engine.issuer_of("socket:1")
    assert issued is not None
    assert issued.provider == "a"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, False),
        ({"Session-ID": "s1"}, True),
        ({"session_id": "s1"}, True),
        ({"thread-id": "t1", "authorization": "Bearer k"}, True),
        ({"x-client-request-id": "q1"}, False),
        ({"session-id": ""}, False),
    ],
)
def test_which_handshakes_name_their_conversation(fields: dict[str, str], named: bool) -> None:
    """By header fields that are the conversation's, not the request's; no two routes share a name."""

    def name(route: str = "r", **more: str) -> str:
        told = tuple((k.encode(), v.encode()) for k, v in {**fields, **more}.items())
        request = http.Request.make("GET", "http://app.test/v1/responses", b"", told)
        return conversation_of(Original.take(request, AllowList("openai")), route)

    assert bool(name()) is named
    if named:
        assert name() == name(other="x") != name("another")
        assert "s1" not in name()
        assert "t1" not in name()


# --- what is sent


def test_a_message_that_needs_no_change_is_the_very_same() -> None:
    w = world(a='models = { "x" = "y" }')
    socket = Socket(w)
    for message in (b'{"type": "response.create", "model": "m"}', b'{"type":"session.update","model":"x"}', b"x", b""):
        assert socket.frames.sent(message, is_text=True) is message


def test_sealed_reasoning_of_another_issuer_is_left_out_of_a_message() -> None:
    """As it is left out of a call over HTTP: also on the way home."""
    w = world("a", "b")
    sealed = {"id": "rs1", "type": "reasoning", "encrypted_content": "gAAA", "summary": []}
    w.engine.issued(("r0",), w.engine.settings.providers[1])
    other = Socket(w)
    other.say(CREATE)
    b = w.engine.settings.providers[1]
    w.engine.issued(tuple(sealed_openai.names(sealed)), b)
    call = {**CREATE, "input": [sealed, {"id": "m1", "role": "assistant", "content": "hm"}]}
    got = json.loads(other.say(call))
    assert got == {**CREATE, "input": [{"role": "assistant", "content": "hm"}]}
    assert "left out" in " ".join(other.exchange.attempts[-1].notes)
    quiet = Socket(w, acting=False)
    assert json.loads(quiet.say(call)) == call


@pytest.mark.parametrize(
    ("conversation", "sealed", "closes"), [("c", "drop", True), ("", "drop", False), ("c", "pin", False)]
)
def test_a_refusal_of_sealed_reasoning(conversation: str, sealed: str, closes: bool) -> None:
    """It is kept back where the client comes again, and then finds the reasoning left out; else it is the app's."""
    w = world("a", "b", top=f'[routing]\nsealed = "{sealed}"')
    socket = Socket(w, conversation=conversation)
    reasoning = {"id": "rs1", "type": "reasoning", "encrypted_content": "gAAA", "summary": []}
    socket.say({**CREATE, "input": [reasoning]})
    refusal = {"type": "error", "status": 400, "error": {"code": "invalid_encrypted_content", "message": "no"}}
    assert socket.hear(refusal) == [not closes]
    assert socket.frames.closes is closes


def test_a_stand_in_gets_what_it_demands() -> None:
    """OpenRouter refuses to store."""
    w = world(a='issuer = "openrouter"')
    assert json.loads(Socket(w).say({**CREATE, "store": True})) == {**CREATE, "store": False}


def test_realtime_has_its_model_from_the_handshake() -> None:
    w = world()
    socket = Socket(w, REALTIME)
    socket.hear({"type": "session.created", "session": {}})
    assert at_rest(w)
    socket.say({"type": "input_audio_buffer.append", "audio": "AAAA"})
    assert at_rest(w)
    socket.hear({**CREATED, "response": {"id": "r1"}})
    socket.hear({"type": "response.output_audio.delta", "response_id": "r1", "delta": "AAAA"})
    assert counts(w) == (1, 0)
    socket.hear({"type": "error", "error": {"type": "invalid_request_error", "code": "x", "message": "no"}})
    done = {"id": "r1", "status": "failed", "status_details": {"error": {"code": "server_error"}}}
    socket.hear({"type": "response.done", "response": done})
    assert (socket.outcomes, counts(w), at_rest(w)) == (["failure stream_error"], (0, 1), True)
    assert {(s.operation, s.model) for s in [socket.exchange.attempts[0].subject]} == {("realtime.websocket", "m")}


def test_what_is_asked_for_without_a_model_is_asked_of_the_one_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Realtime's is the handshake's; a message that is too long to be read goes to no provider with a key of ours."""
    w = world(a='models = { "m" = "ours" }')
    socket = Socket(w, REALTIME)
    socket.say({"type": "response.create"})
    socket.hear(DELTA)
    assert counts(w, model="ours") == (1, 0)
    socket = Socket(w, REALTIME)
    socket.say({"type": "response.create"})
    w.now += 61
    socket.close(1006, by_client=True)
    assert socket.outcomes == ["failure timeout"]
    monkeypatch.setattr(frames, "ASKED_BYTES", 100)
    w = world(a='models = { "m" = "ours" }')
    socket = Socket(w)
    assert json.loads(socket.say(CREATE))["model"] == "ours"
    socket.hear(COMPLETED)
    assert not socket.frames.closes
    socket.say({**CREATE, "input": "A" * 200})
    assert socket.frames.closes
    assert counts(w, model="ours") == (1, 0)


AMBIGUOUS = [
    b'{"type":"response.create","model":"m","model":"n"}',
    b'{"type":"response.create","model":"m","Model":"n"}',
    b'{"type":"response.create","model":["m"]}',
    b'\xef\xbb\xbf{"type":"response.create","model":"m"}',
    b'{"type":"response.create","model":"m","x":NaN}',
    b'{"type":"session.update","type":"response.create","model":"m"}',
    b'{"type":"\\u0072esponse.create","model":"m"}',
    b'{"type":"response.create","model":"m","input":[' + b"[]," * 200_000 + b"[]]}",
]


@pytest.mark.parametrize("message", AMBIGUOUS)
def test_a_message_that_servers_may_read_in_different_ways(message: bytes) -> None:
    """With a key of ours it goes to no provider: the socket is closed, for the client to come back over HTTP, where the
    call goes home. What goes to the app's own, and what only looks on, passes as it is."""
    socket = Socket(world())
    socket.say(CREATE)
    socket.hear(COMPLETED)
    assert socket.frames.sent(message, is_text=True) is message
    assert socket.frames.closes
    assert "kept back" in " ".join(note for attempt in socket.exchange.attempts for note in attempt.notes)
    socket.close(frames.COME_AGAIN)
    assert (counts(socket.world), at_rest(socket.world)) == ((1, 0), True)
    own = 'base_url = "http://app.test/v1"'
    home = toml("priority", a="").replace('base_url = "http://a.test/v1"\napi_key = "k"', own)
    for harmless in (Socket(world(), acting=False), Socket(World(home)), Socket(world(), REALTIME)):
        harmless.frames.sent(message, is_text=True)
        assert not harmless.frames.closes


def test_of_several_responses_at_a_time_each_has_its_own_end() -> None:
    w = world()
    socket = Socket(w)
    socket.say({**CREATE, "stream_id": "x"}, {**CREATE, "stream_id": "y"})
    assert len(w.engine.in_flight) == 2
    socket.hear({**DELTA, "stream_id": "y"}, {**OVERLOADED, "stream_id": "x"})
    assert (socket.outcomes, len(w.engine.in_flight)) == (["failure bad_response", OK], 1)
    socket.hear({**COMPLETED, "stream_id": "y"})
    assert at_rest(w)


# --- what is told of it


def test_each_response_is_told_while_the_socket_is_open() -> None:
    """With its times since it was asked for, in words and figures."""
    w = world()
    socket = Socket(w)
    flow = socket.session.flow
    flow.websocket = WebSocketData()
    w.now += 1

    def over(by_client: bool, at: float, said: Any) -> None:
        assert flow.websocket is not None
        message = WebSocketMessage(Opcode.TEXT, by_client, json.dumps(said).encode(), at)
        flow.websocket.messages.append(message)
        socket.say(said) if by_client else socket.hear(said)

    over(True, 10.0, CREATE)
    under_way = flow.metadata["sidestep"]["responses"]
    assert [(r["asked"], r["ended"], r["outcome"], r["end_ms"]) for r in under_way] == [(10.0, None, None, None)]
    w.now += 0.25
    over(False, 10.25, CREATED)
    w.now += 0.5
    over(False, 10.75, DELTA)
    over(False, 10.8, COMPLETED)
    over(True, 11.0, CREATE)
    over(False, 11.5, OVERLOADED)
    first, second = flow.metadata["sidestep"]["responses"]
    times = [first[key] for key in ("started_ms", "headers_ms", "content_ms", "end_ms")]
    assert times == [1000.0, 250.0, 750.0, 750.0]
    assert (first["asked"], first["ended"], first["provider"], first["model"]) == (10.0, 10.8, "a", "m")
    assert (first["outcome"], first["tokens"]) == ("success", {"input": 7, "output": 3, "cached": 0})
    assert (second["asked"], second["ended"], second["outcome"]) == (11.0, 11.5, "failure")
    assert flow.comment == "app.test → a: 2 responses of m, 1 failed (a:bad_response); 7 tokens in, 3 out"
    assert flow.marked == story.FAILED


def test_a_comment_says_what_came_before_the_handshake() -> None:
    w = world("a", "b")
    w.engine.hold("a", State.FORCED_OPEN)
    socket = Socket(w)
    socket.say(CREATE)
    assert socket.session.flow.comment == "app.test → b: 1 response of m; its handshake after a is held open by hand"


def test_a_socket_tells_of_its_last_responses_alone() -> None:
    socket = Socket(world())
    for _ in range(frames.TOLD_RESPONSES + 5):
        socket.say(CREATE)
        socket.hear(COMPLETED)
    assert len(socket.session.flow.metadata["sidestep"]["responses"]) == frames.TOLD_RESPONSES
