"""The addon as people meet it: starting, broken files, reloads, commands, modes, pages, clients, stories."""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mitmproxy import io

from broken_configs import BROKEN
from support.calls import Client
from support.provider import Behaviour, Provider, text_of
from support.proxy import Mitmdump
from support.raw import Wire, chat, request
from support.settings import config, key_of
from support.waiting import until

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]
GOOD = Behaviour()


def test_a_broken_file_stops_the_start(tmp_path: Path) -> None:
    """mitmdump ends with an error that says what is wrong where, and nothing else."""
    rows = BROKEN[::4]
    assert len(rows) >= 12

    def start(row: int) -> tuple[int, str]:
        m = Mitmdump(tmp_path / str(row), rows[row][1]).start()
        code = m.process.wait(60)
        m.stop()
        return code, m.log

    with ThreadPoolExecutor(4) as pool:
        ends = list(pool.map(start, range(len(rows))))
    for (name, _, expected), (code, log) in zip(rows, ends, strict=True):
        assert code != 0, name
        assert all(words in log for words in expected), (name, log)
        assert "Traceback" not in log
        assert "sidestep.toml: " in log


def test_at_a_reload_a_broken_file_leaves_the_old_one_in_force(provider: Make, proxy: Start) -> None:
    """The file is watched: a good change is taken over, a bad one is reported, circuits of the unchanged are kept."""
    a, b = provider("a"), provider("b")
    a.default = Behaviour(status=503)
    text = config("chat", a, b, circuit={"failure_threshold": 1, "open_seconds": 60}, attempts={"per_provider": 1})
    m = proxy(text)
    with Client(m) as app:
        assert app.call("chat", stream=False).attempts == "a:503, b:200"
        for _, broken, expected in BROKEN[::8]:
            del m.lines[:]
            m.config.write_text(broken)
            m.wait_for_log("the old one stays in force", 10)
            until(lambda words=expected: all(w in m.log for w in words), f"{expected} in the log")  # type: ignore[misc]
        assert app.call("chat", stream=False).text == text_of("b", GOOD)
        m.config.write_text(text.replace('providers = ["a", "b"]', 'providers = ["b", "a"]'))
        m.wait_for_log("configuration reloaded")
        assert app.call("chat", stream=False).attempts == "b:200"
    assert m.provider("a")["state"] == "open", "the circuit of an unchanged provider was lost"
    m.may_complain = True


def test_the_start_says_where_prompts_may_go(provider: Make, proxy: Start) -> None:
    """One line a route, and the option that was set for the user."""
    a = provider("a")
    m = proxy(config("chat", a))
    assert "calls to https://api.openai.com/v1 may go to" in m.log
    assert "connection_strategy set to lazy" in m.log


def test_the_users_connection_strategy_is_kept(provider: Make, proxy: Start) -> None:
    """Who sets the option, even to its default, keeps it."""
    m = proxy(config("chat", provider("a")), "--set", "connection_strategy=eager")
    m.health()
    assert "connection_strategy set" not in m.log


def test_a_call_to_an_unreachable_host_over_connect_and_tls(provider: Make, proxy: Start) -> None:
    """The app's own host cannot be reached, and its calls are answered all the same, over CONNECT and TLS."""
    a = provider("a")
    m = proxy(config("messages", a))
    with Client(m) as app:
        for stream in (False, True):
            assert app.call("messages", stream=stream).text == text_of("a", GOOD)
    assert a.requests[0].header("x-api-key") == key_of("a")


def test_own_calls_leave_and_return_byte_for_byte(provider: Make, proxy: Start) -> None:
    """What the own provider answers is on the wire as without Sidestep: order, case, body, credential."""
    a = provider("a")
    body = b'{ "stream" :false,"model":"gpt-4o",\n"unknown": [1.0, 1e5], "messages":[]}'
    sent = request(
        f"{a.url()}/chat/completions?beta=1&key=own-key-123",
        body,
        ("X-Zeta", "1"),
        ("AUTHORIZATION", "Bearer own-secret-1234"),
        ("x-alpha", "2"),
        ("Cookie", "c=1"),
        ("openai-organization", "org-9"),
        ("Accept-Encoding", "gzip, br"),
    )
    m = proxy(config("chat", a, own=a))
    bare = Mitmdump(m.folder.parent / "bare", None, script=None)
    with bare:
        for through in (m, bare):
            with Wire(through) as wire:
                wire.send(sent).answer()
    ours, without = a.requests
    assert ours.raw_head == without.raw_head
    assert ours.body == without.body == body
    assert b"AUTHORIZATION: Bearer own-secret-1234\r\nx-alpha" in ours.raw_head


def test_rewriting(provider: Make, proxy: Start) -> None:
    """Another provider gets its base, model, headers and credential, and none of the app's."""
    a = provider("a")
    extra = 'models = { "gpt-*" = "x/gpt-*" }\ndrop_fields = ["store"]\nheaders = { "X-Title" = "side" }\n'
    extra += 'auth = "api-key"\n'
    m = proxy(config("chat", a, extra=extra))
    app_headers = [
        ("Authorization", "Bearer app-secret-1"),
        ("X-Api-Key", "app-secret-2"),
        ("Cookie", "app-secret-3"),
        ("OpenAI-Project", "app-secret-4"),
        ("X-Custom-Auth-Token", "app-secret-5"),
        ("User-Agent", "app-secret-1 again"),
        ("X-Plain", "nothing"),
        ("Traceparent", "kept"),
    ]
    body = b'{"model": "gpt-4o", "store": true, "seed": 1.50, "messages": []}'
    sent = request(
        "http://api.openai.com:443/v1/chat/completions?key=app-secret-6&v=2&api-version=2", body, *app_headers
    )
    with Wire(m) as wire:
        # An absolute-form request for https is not what clients send: go over the http port of the same route.
        wire.send(sent.replace(b"http://api.openai.com:443", b"https://api.openai.com")).answer()
    seen = a.requests[0]
    assert seen.path == "/v1/chat/completions?api-version=2"
    assert seen.body == b'{"model":"x/gpt-4o","seed":1.50,"messages":[]}'
    assert seen.header("api-key") == key_of("a")
    assert seen.header("authorization") is None
    assert seen.header("x-title") == "side"
    assert seen.header("traceparent") == "kept"
    assert seen.header("x-plain") is None
    assert seen.header("host") == f"127.0.0.1:{a.port}"
    assert b"app-secret" not in seen.raw_head


def test_what_is_not_routed_is_not_touched(provider: Make, proxy: Start) -> None:
    """Model lists, files and stored responses go where they were going and touch no circuit."""
    a, b = provider("a"), provider("b")
    a.default = Behaviour(status=503)
    m = proxy(config("chat", b, a, own=a))
    with Wire(m) as wire:
        for method, path in (
            ("GET", "/models"),
            ("POST", "/files"),
            ("GET", "/responses/r1"),
            ("POST", "/responses/r1/cancel"),
        ):
            sent = request(f"{a.url()}{path}", b"", ("Authorization", "Bearer mine"), method=method)
            status, headers, _ = wire.send(sent).answer()
            assert status == 503
            assert not [h for h in headers if h.startswith("x-sidestep")]
    assert (a.count, b.count) == (4, 0)
    assert all(r.header("authorization") == "Bearer mine" for r in a.requests)
    assert m.provider("a")["failures"] == 0


def test_a_pinned_call_stays_with_its_holder(provider: Make, proxy: Start) -> None:
    """A previous response pins to who issued it, else to the own provider; it never fails over."""
    a, b = provider("a"), provider("b")
    a.then(Behaviour(status=503), Behaviour(status=503))
    m = proxy(config("responses", a, b, own=a, circuit={"failure_threshold": 5}))
    bases = {"openai": a.url()}
    with Client(m, bases) as app:
        first = app.call("responses", stream=False)
        assert first.provider == "b"
        again = app.call("responses", stream=False, previous_response_id="resp_b")
        assert again.provider == "b"
        assert b.requests[-1].json["previous_response_id"] == "resp_b"
        unknown = app.call("responses", stream=False, previous_response_id="resp_of_somebody")
        assert unknown.provider == "a"
        a.default = Behaviour(status=503)
        failed = app.call("responses", stream=False, previous_response_id="resp_of_somebody")
        assert failed.status == 503
        assert failed.attempts == "a:503, a:503"


def test_modes(provider: Make, proxy: Start, tmp_path: Path) -> None:
    """`observe` judges and changes nothing; `off` does not even look."""
    a, b = provider("a"), provider("b")
    text = config("chat", a, b, own=a, circuit={"failure_threshold": 2, "open_seconds": 60})
    m = proxy('mode = "observe"\n' + text)
    with Wire(m) as wire:
        for stream in (False, True):
            a.then(Behaviour(status=503, body=b"own words"))
            status, headers, body = wire.send(chat(a.url(), stream=stream)).answer()
            assert (status, body) == (503, b"own words")
            assert not [h for h in headers if h.startswith("x-sidestep")]
        assert m.provider("a")["state"] == "open"
        assert wire.send(chat(a.url(), stream=True)).answer()[0] == 200
    assert "sidestep would have asked b" in m.log
    assert (a.count, b.count) == (3, 0)
    assert m.health()["in_flight"] == 0
    m.config.write_text('mode = "off"\n' + text)
    m.wait_for_log("configuration reloaded")
    before = m.provider("a")
    a.then(Behaviour(status=503))
    with Wire(m) as wire:
        assert wire.send(chat(a.url())).answer()[0] == 503
    assert m.provider("a")["failures"] == before["failures"]


def test_pages(provider: Make, proxy: Start) -> None:
    """The addon answers for `sidestep.internal` itself, also in reverse mode under another port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    m = proxy(config("chat", provider("a")), "--mode", "regular", "--mode", f"reverse:http://sidestep.internal@{port}")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
        assert json.load(answer)["status"] == "ok"
    status, body = m.page("/health")
    assert status == 200
    assert json.loads(body)["status"] == "ok"
    state = json.loads(body)["providers"]["a"]
    assert (state["state"], state["failure_count"]) == ("closed", 0)
    assert b"sidestep_circuit_state" in m.page("/metrics")[1]
    status, page = m.page("/")
    assert status == 200
    assert b"<title>Sidestep</title>" in page
    assert m.page("/nothing")[0] == 404


def test_the_story_survives_saving(provider: Make, proxy: Start, tmp_path: Path) -> None:
    """Comment, marker and metadata are on the flow that `-w` saves: plain data that can be read again."""
    a, b = provider("a"), provider("b")
    a.default = Behaviour(status=503)
    flows_file = tmp_path / "saved.mitm"
    m = proxy(config("chat", a, b), "-w", str(flows_file))
    with Client(m) as app:
        sent = app.call("chat", stream=True)
    m.stop()
    with flows_file.open("rb") as f:
        saved = [flow for flow in io.FlowReader(f).stream() if "sidestep" in flow.metadata]
    (flow,) = saved
    assert flow.comment == "api.openai.com → b after a:503, a:503"
    assert flow.marked
    story = flow.metadata["sidestep"]
    assert story["request_id"] == sent.headers["x-sidestep-request-id"]
    assert (story["route"], story["model"], story["provider"]) == ("openai", "gpt-4o", "b")
    assert [(t["provider"], t["outcome"], t["status"]) for t in story["attempts"]] == [
        ("a", "failure", 503),
        ("a", "failure", 503),
        ("b", "success", 200),
    ]
    assert story["attempts"][2]["content_ms"] >= story["attempts"][2]["headers_ms"] > 0


def test_provider_keys_are_for_trusted_clients_only(provider: Make, proxy: Start, tmp_path: Path) -> None:
    """A client that is not on the loopback interface gets 403, unless it is allowed."""
    a = provider("a")
    script = tmp_path / "stranger.py"
    script.write_text(
        "class Stranger:\n"
        "    def client_connected(self, client):\n"
        "        client.peername = ('192.0.2.7', 5555)\n"
        "addons = [Stranger()]\n"
    )
    m = proxy(config("chat", a), "-s", str(script))
    sent = chat("https://api.openai.com/v1")
    with Wire(m) as wire:
        status, _, body = wire.send(sent).answer()
        assert status == 403
        assert "allow_clients" in json.loads(body)["error"]["message"]
    assert a.count == 0
    m.config.write_text(m.config.read_text() + '[proxy]\nallow_clients = ["192.0.2.0/24"]\n')
    m.wait_for_log("configuration reloaded")
    with Wire(m) as wire:
        assert wire.send(sent).answer()[0] == 200
