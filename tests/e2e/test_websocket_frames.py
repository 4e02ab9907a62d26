"""What goes over a WebSocket through a real mitmdump: it passes as it is, it counts as a stream's events do, and what
was issued over it binds what comes later."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import io
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from support.proxy import Mitmdump
from support.raw import Wire, request
from support.settings import key_of, table
from support.talker import Talker, Turn, crc, said
from support.waiting import until

Start = Callable[..., Mitmdump]
Make = Callable[..., Talker]

APP_KEY = "sk-app-CANARY-0123456789"
CREATE = {"type": "response.create", "model": "gpt-5", "input": "hi", "store": False}
OVERLOADED = {"type": "error", "status": 503, "error": {"code": "server_is_overloaded", "message": "try later"}}
FAILED = {"type": "response.failed", "response": {"id": "resp_1", "error": {"code": "server_error", "message": "x"}}}
SPENT = {"type": "error", "status": 429, "error": {"type": "usage_limit_reached", "resets_in_seconds": 1_000}}
POLICY = {"type": "response.failed", "response": {"id": "resp_1", "error": {"code": "bio_policy", "message": "no"}}}
FAST = [
    table("timeouts", {"connect": 1, "first_byte": 5, "headers": 5}),
    table("attempts", {"backoff_seconds": 0.02, "wait_seconds": 0}),
]


@pytest.fixture
def talker(stack: ExitStack) -> Make:
    """Make a provider that ends with the test."""

    def make(name: str, *turns: Turn, **more: Any) -> Talker:
        return stack.enter_context(Talker(name, *turns, **more))

    return make


def config(
    *providers: Talker, own: Talker | None = None, circuit: dict[str, Any] | None = None, extra: str = ""
) -> str:
    """A route of `app.test`, or of the own provider's address, to these."""
    texts = [*FAST, table("circuit", circuit or {"open_seconds": 60}), extra]
    for p in providers:
        key = "" if p is own else f'api_key = "{key_of(p.name)}"\n'
        texts.append(f'[[providers]]\nname = "{p.name}"\ndialect = "openai"\nbase_url = "{p.base}"\n{key}')
    names = ", ".join(f'"{p.name}"' for p in providers)
    intercept = "http://app.test/v1" if own is None else own.base
    return "\n".join([*texts, f'[[routes]]\nintercept = ["{intercept}"]\nproviders = [{names}]\n'])


def dial(m: Mitmdump, base: str = "ws://app.test/v1", path: str = "/responses", **more: Any) -> ClientConnection:
    """A WebSocket of an app behind the proxy."""
    headers = {"Authorization": f"Bearer {APP_KEY}", **more.pop("headers", {})}
    url = base.replace("http://", "ws://") + path
    ws: ClientConnection = connect(url, proxy=m.url, additional_headers=headers, max_size=None, **more)
    return ws


def ask(ws: ClientConnection, message: Any = CREATE) -> list[Any]:
    """What comes of a response, up to its end."""
    ws.send(message if isinstance(message, (str, bytes)) else json.dumps(message))
    heard = []
    while True:
        heard.append(json.loads(ws.recv(10)))
        if heard[-1]["type"] in ("response.completed", "response.failed", "response.done", "error"):
            return heard


def post(m: Mitmdump, url: str = "http://app.test/v1", **body: Any) -> tuple[int, dict[str, str], bytes]:
    """The same over HTTP."""
    data = json.dumps({"model": "gpt-5", "input": "hi", "stream": True, **body}).encode()
    with Wire(m) as wire:
        wire.send(request(f"{url}/responses", data, ("Authorization", f"Bearer {APP_KEY}")))
        return wire.answer()


def refusal(m: Mitmdump, **more: Any) -> dict[str, Any]:
    """The answer to a handshake that was refused."""
    with pytest.raises(InvalidStatus) as caught:
        dial(m, **more)
    assert caught.value.response.status_code == 426
    assert caught.value.response.body is not None
    return dict(json.loads(caught.value.response.body)["error"])


def at_rest(m: Mitmdump) -> dict[str, Any]:
    """What `/health` says of the providers once nothing is under way."""
    until(lambda: m.health()["in_flight"] == 0, "no attempt is in flight")
    providers: dict[str, Any] = m.health()["providers"]
    assert [p["permits_out"] for p in providers.values()] == [0] * len(providers)
    assert [p["in_flight"] for p in providers.values()] == [0] * len(providers)
    return providers


def stories(saved: Path) -> list[dict[str, Any]]:
    with saved.open("rb") as f:
        flows = list(io.FlowReader(f).stream())
    return [flow.metadata["sidestep"] for flow in flows if "sidestep" in flow.metadata]


def results(m: Mitmdump) -> dict[str, int]:
    """How many calls came to what."""
    lines = [
        line for line in m.page("/metrics")[1].decode().splitlines() if line.startswith("sidestep_requests_total{")
    ]
    found = {line.split('result="')[1].split('"')[0]: int(float(line.rpartition(" ")[2])) for line in lines}
    return {name: count for name, count in found.items() if count}


# --- what counts


def test_a_provider_that_fails_in_frames_is_left(talker: Make, proxy: Start) -> None:
    """Each failure counts once, though each handshake was taken; then the handshake gets its 426 at once, without a
    word to anybody, and the same call over HTTP is answered by the next provider."""
    a = talker("a", *[[OVERLOADED]] * 3)
    b = talker("b", status=404)
    m = proxy(config(a, b, own=a))
    for failures in range(1, 4):
        with dial(m, a.base) as ws:
            assert ask(ws) == [OVERLOADED]
        status = at_rest(m)["a"]
        assert (status["failure_count"], status["failures"], status["successes"]) == (failures, failures, 0)
    assert (status["state"], status["models"]) == ("open", {"": "closed", "gpt-5": "open"})
    assert "a's circuit is open" in refusal(m, base=a.base)["message"]
    assert (len(a.handshakes), len(a.calls)) == (3, 0)
    code, headers, body = post(m, a.base)
    assert (code, headers["x-sidestep-provider"], b"from b" in body) == (200, "b", True)
    assert len(a.handshakes) + len(a.calls) == 3
    assert results(m) == {"failed": 4, "rerouted": 1}


def test_good_responses_between_keep_the_circuit_closed(talker: Make, proxy: Start) -> None:
    """A success at the first content is one, and a response that fails after it takes that back."""
    broken = [*said()[:2], FAILED]
    a = talker("a", [FAILED], [FAILED], said(), broken, broken)
    m = proxy(config(a))
    with dial(m) as ws:
        for state, count in (("closed", 1), ("closed", 2), ("closed", 0), ("closed", 1), ("closed", 2)):
            ask(ws)
            status = at_rest(m)["a"]
            assert (status["state"], status["failure_count"]) == (state, count)
    assert (status["successes"], status["failures"]) == (1, 4)
    assert status["totals"]["success"] == 1


def test_a_probe_is_a_response_and_no_handshake(talker: Make, proxy: Start) -> None:
    """A handshake through a half-open circuit takes no place from anybody; the first response is the probe."""
    a = talker("a", [OVERLOADED], [OVERLOADED], said())
    m = proxy(config(a, circuit={"failure_threshold": 1, "open_seconds": 0.3}))
    with dial(m) as ws:
        ask(ws)
    assert at_rest(m)["a"]["state"] == "open"
    until(lambda: m.provider("a")["state"] == "half_open", "the open time is over")
    with dial(m) as idle, dial(m) as ws:
        assert (m.provider("a")["state"], m.provider("a")["permits_out"]) == ("half_open", 0)
        ask(ws)
        assert at_rest(m)["a"]["totals"]["failure"] == 2
        until(lambda: m.provider("a")["state"] == "half_open", "it had opened again, and that time is over")
        assert ask(idle) == said()
        assert at_rest(m)["a"]["state"] == "closed"


def test_a_spent_plan_is_left_at_the_next_handshake(talker: Make, proxy: Start) -> None:
    """A quota told in a frame is a cooldown, of no circuit. Where only another provider could take the call, over
    HTTP, the handshake is answered 426; with nobody else it goes out all the same."""
    a = talker("a", [SPENT], [SPENT])
    b = talker("b", status=404)
    m = proxy(config(a, b, own=a))
    with dial(m, a.base) as ws:
        assert ask(ws) == [SPENT]
    status = at_rest(m)["a"]
    assert (status["state"], status["cooldown"]["reason"], status["failures"]) == ("closed", "quota", 0)
    assert 900 < status["cooldown"]["seconds"] <= 1_000
    refusal(m, base=a.base)
    assert (len(a.handshakes), len(b.handshakes)) == (1, 1)
    assert post(m, a.base)[1]["x-sidestep-provider"] == "b"
    m.config.write_text(config(a, own=a))
    m.wait_for_log("reloaded|read again|configuration", 10)
    until(lambda: "b" not in m.health()["providers"], "the configuration is taken over")
    with dial(m, a.base) as ws:
        assert ask(ws) == [SPENT]


def test_what_is_about_the_request_blames_nobody(talker: Make, proxy: Start) -> None:
    """Told in frames as it is: the provider's own words reach the app, and its circuit does not move."""
    expired = {"type": "error", "status": 429, "error": {"code": "websocket_connection_limit_reached"}}
    forgotten = {"type": "error", "status": 400, "error": {"code": "previous_response_not_found"}}
    a = talker("a", *[[frame] for frame in (POLICY, expired, forgotten)] * 4)
    m = proxy(config(a, circuit={"failure_threshold": 1}))
    for _ in range(4):
        with dial(m) as ws:
            assert [ask(ws)[-1] for _ in range(3)] == [POLICY, expired, forgotten]
    status = at_rest(m)["a"]
    assert (status["state"], status["failures"], status["cooldown"]) == ("closed", 0, None)
    assert status["totals"]["neutral"] == 12


def test_only_looked_on(talker: Make, proxy: Start) -> None:
    """Mode `observe` counts what goes over the app's own WebSocket, and changes nothing."""
    a = talker("a", said(), [OVERLOADED])
    m = proxy('mode = "observe"\n' + config(a, own=a))
    with dial(m, a.base) as ws:
        assert ask(ws) == said()
        assert ask(ws) == [OVERLOADED]
        assert "x-sidestep-provider" not in ws.response.headers  # type: ignore[union-attr]
    status = at_rest(m)["a"]
    assert (status["successes"], status["failures"]) == (1, 1)
    assert a.handshakes[0]["authorization"] == f"Bearer {APP_KEY}"


# --- how it ends


def test_every_end_leaves_nothing_behind(
    talker: Make, proxy: Start, stack: ExitStack, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    """Whoever ends it, and when: no permit is out, nothing is under way, and the story says how it was."""
    go, read = threading.Event(), threading.Event()
    created, delta, _ = said()
    ends: list[tuple[str, list[Any], str, str, str]] = [
        # who ends it, what the provider says, outcome, reason, result
        ("app", [created, delta], "success", "ok", "left"),
        ("app", [created], "neutral", "client_gone", "left"),
        ("app", [], "neutral", "client_gone", "left"),
        ("abruptly", [created], "neutral", "client_gone", "left"),
        ("provider", [created, read, "reset"], "failure", "bad_response", "failed"),
        ("provider", [created, delta, read, "reset"], "failure", "truncated", "failed"),
        ("provider", [created, delta, "vanish"], "failure", "truncated", "failed"),
        ("provider", [created, delta, (1000, "")], "failure", "truncated", "failed"),
        ("provider", [created, delta, (1011, "")], "failure", "stream_error", "failed"),
        ("provider", [created, (4429, "slow down")], "cooldown", "rate_limit", "failed"),
        ("provider", [*said(), (1001, "")], "success", "ok", "rerouted"),
        ("provider", [*said(), "vanish"], "success", "ok", "rerouted"),
        ("proxy", [created, delta, go], "success", "ok", "left"),
    ]
    saved = tmp_path / "saved.mitm"
    a = talker("a", *[end[1] for end in ends])
    m = proxy(config(a, circuit={"failure_threshold": 100}), "-w", str(saved))
    for i, (who, heard, *_) in enumerate(ends):
        frames = [w for w in heard if isinstance(w, dict)]
        with subtests.test(f"{i} {who}"):
            ws = stack.enter_context(dial(m))
            read.clear()
            ws.send(json.dumps(CREATE))
            assert [json.loads(ws.recv(10)) for _ in frames] == frames
            read.set()
            if who == "provider":
                with pytest.raises(ConnectionClosed):
                    ws.recv(10)
            elif who == "abruptly":
                ws.socket.shutdown(socket.SHUT_RDWR)
            elif who == "proxy":
                assert m.health()["in_flight"] == 1
                m.stop()
                go.set()
                continue
            if who == "app":
                ws.close()
            at_rest(m)
    told = [(s["attempts"][0]["outcome"], s["attempts"][0]["reason"], s["result"]) for s in stories(saved)]
    assert told == [end[2:] for end in ends]
    assert all(len(s["attempts"]) == 1 for s in stories(saved))


def test_an_idle_socket_is_nothing_under_way(talker: Make, proxy: Start) -> None:
    """Neither before the first response nor between two; and that it is cut then is nobody's failure."""
    go = threading.Event()
    a = talker("a", said(), [go, *said()], [*said(), "vanish"])
    m = proxy(config(a))
    with dial(m) as ws:
        at_rest(m)
        ask(ws)
        at_rest(m)
        ws.send(json.dumps(CREATE))
        until(lambda: m.health()["in_flight"] == 1, "something was asked for")
        go.set()
        assert [json.loads(ws.recv(10)) for _ in said()] == said()
        at_rest(m)
        ask(ws)
        with pytest.raises(ConnectionClosed):
            ws.recv(10)
    status = at_rest(m)["a"]
    assert (status["successes"], status["failures"], status["totals"]["success"]) == (3, 0, 3)
    assert results(m) == {"rerouted": 1}


# --- what passes


def test_what_passes_is_untouched(talker: Make, proxy: Start) -> None:
    """Compressed or not: text and bytes, messages of 5 MB, which are judged by their edges, and what is no JSON, which
    the app's own provider alone gets."""
    huge = {"type": "response.image_generation_call.partial_image", "partial_image_b64": "A" * (5 << 20)}
    end = {"type": "response.completed", "response": {"id": "resp_1", "output": [{"result": "B" * (6 << 20)}]}}
    heard: list[Any] = [
        "\u2028 no JSON \U0001f600",
        b"\x00\xff" * 1_000,
        '{"type": "response.output_text.delta"}',
        huge,
        end,
    ]
    a = talker("a", said(), heard, said(), heard)
    m = proxy(config(a, own=a))
    for compression in ("deflate", None):
        a.heard.clear()
        with dial(m, a.base, compression=compression) as ws:
            assert a.compressed is (compression is not None)
            assert ask(ws) == said()
            odd = json.dumps({**CREATE, "input": "C" * (5 << 20)})
            ws.send(odd)
            for message in heard:
                expected = json.dumps(message) if isinstance(message, dict) else message
                assert crc(ws.recv(30)) == crc(expected)
            ws.send("{ 'odd' : }")
            ws.send(b"\xff" * 70_000)
        until(lambda: len(a.heard) == 4, "all has arrived")
        assert [crc(h) for h in a.heard] == [crc(h) for h in (json.dumps(CREATE), odd, "{ 'odd' : }", b"\xff" * 70_000)]
        at_rest(m)


def test_a_101_that_answers_no_handshake(talker: Make, proxy: Start, subtests: pytest.Subtests) -> None:
    """It is its provider's failure, and never the app's: no client may speak over it."""
    a, b = talker("a"), talker("b")
    m = proxy(config(a, b, circuit={"failure_threshold": 100}))
    for i, (accept, upgrade) in enumerate([("bm90IGEgdG9rZW4=", "websocket"), ("", "websocket"), (None, "h2c")], 1):
        with subtests.test(f"{accept} {upgrade}"):
            a.accept, a.upgrade = accept, upgrade
            with dial(m) as ws:
                assert ws.response is not None
                assert ws.response.headers["x-sidestep-attempts"] == "a:bad_response, b:101"
                assert ask(ws) == said()
            assert at_rest(m)["a"]["failures"] == i
    assert a.heard == []


def test_a_stand_in_without_websockets_leaves_the_client_to_http(
    talker: Make, proxy: Start, subtests: pytest.Subtests
) -> None:
    """Whatever it says to a handshake: that it takes none is no failure, and no refusal of a key."""
    a, b = talker("a", status=503, http=503), talker("b")
    m = proxy(config(a, b, own=a, circuit={"failure_threshold": 100}))
    for status, kind in (
        (200, "application/json"),
        (200, "text/html"),
        (204, ""),
        (400, "text/plain"),
        (403, ""),
        (404, ""),
        (426, "application/json"),
        (501, ""),
    ):
        with subtests.test(f"{status} {kind}"):
            b.status, b.kind = status, kind
            b.body = b"" if status == 204 else b'{"object": "list", "data": [1]}'
            refusal(m, base=a.base)
            told = at_rest(m)["b"]
            assert (told["cooldown"], told["failures"]) == (None, 0)
            assert post(m, a.base)[1]["x-sidestep-provider"] == "b"


# --- what binds


def test_what_was_issued_over_a_websocket_is_asked_of_its_issuer(talker: Make, proxy: Start) -> None:
    """A later call that names it goes to no other, though another one comes first; nor does it fail over."""
    sealed = {"id": "rs_1", "type": "reasoning", "encrypted_content": "gAAA", "summary": []}
    *begun, end = said()
    assert isinstance(end, dict)
    end["response"]["output"].append(sealed)
    a, b = talker("a", status=503), talker("b", [*begun, end])
    m = proxy(config(a, b))
    with dial(m) as ws:
        assert ws.response is not None
        assert ws.response.headers["x-sidestep-provider"] == "b"
        ask(ws, {**CREATE, "previous_response_id": "resp_0"})
    for body in (
        {"previous_response_id": "resp_1"},
        {"previous_response_id": "resp_0"},
        {"input": [{"type": "item_reference", "id": "msg_resp_1"}]},
    ):
        assert post(m, **body)[1]["x-sidestep-provider"] == "b", body
    assert post(m)[1]["x-sidestep-provider"] == "a"
    post(m, input=[sealed, {"role": "user", "content": "go on"}])
    assert b.calls[-1]["input"][0] == sealed, "its issuer comes first"
    b.http = 503
    assert post(m, previous_response_id="resp_1")[0] == 503
    assert len(a.calls) == 1


def test_a_handshake_that_names_its_conversation_goes_to_who_holds_it(talker: Make, proxy: Start) -> None:
    """Or, where that is not to be asked now, to nobody: its client comes over HTTP, with all of the conversation."""
    a, b = talker("a", status=503), talker("b", said(), said(), [OVERLOADED])
    m = proxy(config(a, b, circuit={"failure_threshold": 5}))
    with dial(m, headers={"session-id": "s1"}) as ws:
        ask(ws)
    a.status = 101
    with dial(m, headers={"session-id": "s1"}) as ws:
        assert ws.response is not None
        assert ws.response.headers["x-sidestep-provider"] == "b"
        ask(ws)
        with pytest.raises(ConnectionClosed):
            ask(ws)
    handshakes = len(b.handshakes)
    refusal(m, headers={"session-id": "s1"})
    assert len(b.handshakes) == handshakes
    with dial(m, headers={"session-id": "s2"}) as ws:
        assert ws.response is not None
        assert ws.response.headers["x-sidestep-provider"] == "a"


def test_a_client_that_comes_back_is_spared_the_failure(talker: Make, proxy: Start, tmp_path: Path) -> None:
    """A coding agent gives up at the error; where its socket is closed in its place, with the code of a restart, it
    asks again, is told 426, and has its answer over HTTP."""
    saved = tmp_path / "saved.mitm"
    a, b = talker("a", said(), [OVERLOADED, *said()], http=503), talker("b", status=404)
    m = proxy(config(a, b), "-w", str(saved))
    with dial(m, headers={"session-id": "s1"}) as ws:
        assert ask(ws) == said()
        ws.send(json.dumps(CREATE))
        with pytest.raises(ConnectionClosed) as caught:
            ws.recv(10)
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1012, "")
    status = at_rest(m)["a"]
    assert (status["failure_count"], status["totals"]["failure"]) == (1, 1)
    until(lambda: a.closed_with == [1001], "the provider's side is closed as well")
    refusal(m, headers={"session-id": "s1"})
    assert post(m)[1]["x-sidestep-provider"] == "b"
    assert results(m) == {"answered": 2, "rerouted": 1}, "what it has over HTTP is counted there"
    m.stop()
    (story,) = [s for s in stories(saved) if s["operation"] == "responses.websocket" and len(s["attempts"]) > 1]
    assert ([t["reason"] for t in story["attempts"]], story["result"]) == (["ok", "bad_response"], "answered")


def test_a_provider_that_is_silent_has_failed(talker: Make, proxy: Start) -> None:
    """Though its socket is there. A client that comes back is sent to HTTP; any other waits as long as it likes."""
    go, never = threading.Event(), threading.Event()
    a, b = talker("a", [go, *said()], [never], http=503), talker("b", status=404)
    fast = table("timeouts", {"connect": 1, "first_byte": 0.5, "headers": 5})
    m = proxy(config(a, b).replace(FAST[0], fast))
    with dial(m) as ws:
        ws.send(json.dumps(CREATE))
        until(lambda: m.provider("a")["totals"]["failure"] == 1, "it has been silent for too long")
        go.set()
        assert [json.loads(ws.recv(10)) for _ in said()] == said()
    with dial(m, headers={"session-id": "s1"}) as ws:
        ws.send(json.dumps(CREATE))
        with pytest.raises(ConnectionClosed):
            ws.recv(10)
    refusal(m, headers={"session-id": "s1"})
    never.set()
    told = at_rest(m)["a"]
    assert (told["totals"]["failure"], told["totals"]["success"]) == (2, 1)


def test_sealed_reasoning_is_left_out_of_a_message_for_who_did_not_issue_it(talker: Make, proxy: Start) -> None:
    """As of a call: Codex sends the whole conversation again over each new socket."""
    sealed = {"id": "rs_1", "type": "reasoning", "encrypted_content": "gAAA", "summary": []}
    *begun, end = said()
    assert isinstance(end, dict)
    end["response"]["output"].append(sealed)
    a, b = talker("a", [*begun, end]), talker("b")
    m = proxy(config(a, b))
    history = {**CREATE, "input": [{"role": "user", "content": "hi"}, sealed, {"role": "user", "content": "go on"}]}
    with dial(m) as ws:
        ask(ws)
        assert ask(ws, history) == said()
        assert json.loads(a.heard[-1]) == history
    a.status = 503
    with dial(m) as ws:
        ask(ws, history)
    assert json.loads(b.heard[-1]) == {**history, "input": [history["input"][0], history["input"][2]]}  # type: ignore[index]


def test_a_client_that_comes_back_is_spared_the_refusal_of_what_is_sealed(talker: Make, proxy: Start) -> None:
    """A proxy that never saw who sealed it: the socket is closed in place of the refusal, and it is left out of what is
    asked over the next one. A refusal that stays is the app's, and so it is for a client that does not come back."""
    refused = {
        "type": "error",
        "status": 400,
        "error": {"message": "The encrypted content gAAA could not be verified."},
    }
    sealed = {"id": "rs_1", "type": "reasoning", "encrypted_content": "gAAA", "summary": []}
    history = {**CREATE, "input": [{"role": "user", "content": "hi"}, sealed, {"role": "user", "content": "go on"}]}
    a, b = talker("a", [refused], [refused], said(), [refused]), talker("b", status=404)
    m = proxy(config(a, b))
    with dial(m) as ws:
        assert ask(ws, history) == [refused]
    with dial(m, headers={"session-id": "s1"}) as ws:
        ws.send(json.dumps(history))
        with pytest.raises(ConnectionClosed):
            ws.recv(10)
    with dial(m, headers={"session-id": "s1"}) as ws:
        assert ask(ws, history) == said()
        assert json.loads(a.heard[-1]) == {**history, "input": [history["input"][0], history["input"][2]]}  # type: ignore[index]
        assert ask(ws, history) == [refused]
    assert at_rest(m)["a"]["failure_count"] == 0


@pytest.mark.filterwarnings("ignore:connect.* must be used as a context manager:DeprecationWarning")
def test_the_official_sdk(talker: Make, proxy: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """It connects, asks twice and reads the answers."""
    openai = pytest.importorskip("openai")
    a, b = talker("a", status=503), talker("b")
    m = proxy(config(a, b))
    monkeypatch.setenv("http_proxy", m.url)
    client = openai.OpenAI(api_key=APP_KEY, base_url="http://app.test/v1")
    with client.responses.connect() as connection:
        for _ in range(2):
            connection.response.create(model="gpt-5", input="hi")
            events = []
            for event in connection:
                events.append(event.type)
                if event.type == "response.completed":
                    break
            assert events == [frame["type"] for frame in said() if isinstance(frame, dict)]
    assert at_rest(m)["b"]["totals"]["success"] == 2
