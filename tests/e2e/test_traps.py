"""mitmproxy's traps: informational answers, replays, stored errors, a layer's own bug."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.calls import Client
from support.provider import Behaviour, Provider, text_of
from support.proxy import Mitmdump
from support.raw import Wire, chat
from support.settings import config, key_of
from support.waiting import until

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]
GOOD = Behaviour()


def test_an_early_hint_is_not_the_answer(provider: Make, proxy: Start) -> None:
    """A 103 before the answer is passed over, whole and streamed."""
    a = provider("a")
    a.default = Behaviour(informational=True)
    m = proxy(config("chat", a))
    with Client(m) as app:
        for stream in (False, True):
            result = app.call("chat", stream=stream)
            assert (result.error, result.text) == (None, text_of("a", GOOD))


def test_a_refused_connection_is_tried_afresh(provider: Make, proxy: Start) -> None:
    """mitmproxy keeps the error of a failed connect for the client connection's life; a later probe is a real one."""
    a = provider("a")
    a.refuse()
    extra: dict[str, Any] = {
        "circuit": {"failure_threshold": 1, "open_seconds": 0.2},
        "attempts": {"per_provider": 1, "wait_seconds": 0},
    }
    m = proxy(config("chat", a, own=a, **extra))
    with Wire(m) as wire:
        status, headers, _ = wire.send(chat(a.url())).answer()
        assert (status, headers["x-sidestep-attempts"]) == (502, "a:connect")
        until(lambda: m.provider("a")["state"] == "half_open", "a is half-open")
        a.listen_again()
        assert wire.send(chat(a.url())).answer()[0] == 200


def test_a_replay_fails_over_and_bears_its_credential(provider: Make, proxy: Start, tmp_path: Path) -> None:
    """`replay.client` sends a call as the app did, through our layer, with the credentials that the flow lacks."""
    own, b = provider("own"), provider("b")
    own.then(Behaviour(status=503), Behaviour(status=503), Behaviour(), Behaviour(status=503), Behaviour(status=503))
    script = tmp_path / "replayer.py"
    script.write_text(
        "import asyncio\n"
        "from mitmproxy import ctx\n"
        "class Replayer:\n"
        "    count = 0\n"
        "    def response(self, flow):\n"
        "        if self.count < 2 and 'chat' in flow.request.path:\n"
        "            self.count += 1\n"
        "            self.again(flow)\n"
        "    def again(self, flow):\n"
        "        loop = asyncio.get_running_loop()\n"
        "        if flow.live or ctx.master.addons.get('clientplayback').inflight is not None:\n"
        "            loop.call_later(0.01, self.again, flow)\n"
        "        else:\n"
        "            ctx.master.commands.call('replay.client', [flow])\n"
        "addons = [Replayer()]\n"
    )
    text = config("chat", own, b, own=own, circuit={"failure_threshold": 9})
    text = text.replace('name = "b"', 'name = "b"\nmodels = { "*" = "a-much-longer-name-for-*" }')
    m = proxy(text, "-s", str(script))
    with Wire(m) as wire:
        assert wire.send(chat(own.url(), key="app-secret-77")).answer()[1]["x-sidestep-provider"] == "b"
        until(lambda: (own.count, b.count) == (5, 2), "both replays have gone their way", 20)
    assert all(seen.header("authorization") == "Bearer app-secret-77" for seen in own.requests)
    assert all(seen.header("authorization") == f"Bearer {key_of('b')}" for seen in b.requests)
    assert {seen.json["model"] for seen in own.requests} == {"gpt-4o"}
    assert {seen.json["model"] for seen in b.requests} == {"a-much-longer-name-for-gpt-4o"}
    assert len({seen.body for seen in own.requests}) == 1
    until(lambda: m.health()["in_flight"] == 0, "all is over")


EDITS = {
    "a header": ("flow.request.headers['x-edited'] = 'yes'", "own"),
    "a credential": ("flow.request.headers['authorization'] = 'Bearer edited-key'", "own"),
    "a header that is taken off": ("del flow.request.headers['user-agent']", "own"),
    "the host": ("flow.request.host, flow.request.port = '127.0.0.1', {port}", "c"),
    "the path": ("flow.request.path = '/v1/edited?a=1'", "own"),
    "the method": ("flow.request.method = 'PUT'", "own"),
    "the body": ("flow.request.content = flow.request.content.replace(b'hi', b'edited')", "own"),
}


@pytest.mark.parametrize("first", [Behaviour(), Behaviour(status=503)], ids=["answered", "rerouted"])
@pytest.mark.parametrize("what", EDITS)
def test_a_replay_keeps_what_was_edited(
    provider: Make, proxy: Start, tmp_path: Path, what: str, first: Behaviour
) -> None:
    """Whoever answered at first: what was edited goes out as it was edited; the app's credential goes to the host that
    the app addressed, and nowhere else."""
    own, b, c = provider("own"), provider("b"), provider("c")
    own.then(first)
    edit, to = EDITS[what]
    script = tmp_path / "editor.py"
    script.write_text(
        "import asyncio\n"
        "from mitmproxy import ctx\n"
        "class Editor:\n"
        "    done = False\n"
        "    def response(self, flow):\n"
        "        if not self.done:\n"
        "            self.done = True\n"
        "            self.again(flow)\n"
        "    def again(self, flow):\n"
        "        if flow.live or ctx.master.addons.get('clientplayback').inflight is not None:\n"
        "            asyncio.get_running_loop().call_later(0.01, self.again, flow)\n"
        "        else:\n"
        f"            {edit.format(port=c.port)}\n"
        "            ctx.master.commands.call('replay.client', [flow])\n"
        "addons = [Editor()]\n"
    )
    m = proxy(config("chat", own, b, own=own, attempts={"per_provider": 1}), "-s", str(script))
    at_b = first.status == 503
    sent = chat(own.url(), key="app-secret-77").replace(b"\r\n\r\n", b"\r\nUser-Agent: x\r\n\r\n", 1)
    with Wire(m) as wire:
        assert wire.send(sent).answer()[0] == 200
        # A path is meant of the host that the flow shows.
        target = {"own": own, "c": c}["c" if to == "c" else "own"] if not (at_b and what == "the path") else b
        until(lambda: target.count == {"own": 2, "b": 2, "c": 1}[target.name], "the replay has gone out", 20)
    seen = target.requests[-1]
    app_key = {"a credential": "Bearer edited-key", "the host": None}.get(what, "Bearer app-secret-77")
    assert seen.header("authorization") == (None if target is b else app_key)
    assert seen.header("host") == target.origin.removeprefix("http://")
    match what:
        case "a header":
            assert seen.header("x-edited") == "yes"
        case "a header that is taken off":
            assert seen.header("user-agent") is None
        case "the path":
            assert seen.path == "/v1/edited?a=1"
        case "the method":
            assert seen.method == "PUT"
        case "the body":
            assert seen.json["messages"][0]["content"] == "edited"
    for other in (b, c):
        assert not [s for s in other.requests if "app-secret-77" in (s.header("authorization") or "")]
    until(lambda: m.health()["in_flight"] == 0, "all is over")


def test_a_bug_of_ours_ends_one_call_and_no_other(provider: Make, proxy: Start, tmp_path: Path) -> None:
    """An exception in a hook lets the request through as it would have gone; one amid a stream ends it with an error.
    Each is logged once, without the text of the exception."""
    a, b = provider("a"), provider("b")
    script = tmp_path / "saboteur.py"
    script.write_text(
        "from sidestep.calls.hooks import Calls\n"
        "from sidestep.calls.watching import Watch\n"
        "plan, feed = Calls._plan, Watch.feed\n"
        "def bad_plan(self, session):\n"
        "    if any(name == b'plan' for name, _ in session.original.whole): raise RuntimeError('SECRET TEXT')\n"
        "    return plan(self, session)\n"
        "def bad_feed(self, data):\n"
        "    if b'w3' in data and b'delta' in data: raise RuntimeError('SECRET TEXT')\n"
        "    return feed(self, data)\n"
        "def bad_skim(self, data): raise RuntimeError('SECRET TEXT')\n"
        "Calls._plan, Watch.feed, Watch.skim = bad_plan, bad_feed, bad_skim\n"
    )
    m = proxy(config("chat", b, a, own=a), "-s", str(script))
    m.may_complain = True
    sent = chat(a.url(), key="my-own-key")
    with Wire(m) as wire:
        for _ in range(2):
            status, headers, _ = wire.send(sent.replace(b"Content-Type", b"plan: 1\r\nContent-Type")).answer()
            assert status == 200
            assert "x-sidestep-provider" not in headers
        assert wire.send(sent).answer()[1]["x-sidestep-provider"] == "b"
    assert [seen.header("authorization") for seen in a.requests] == ["Bearer my-own-key"] * 2
    b.default = Behaviour(gate=threading.Event(), gate_at=3)
    with Wire(m) as wire:
        wire.send(chat(a.url(), stream=True)).until(b"w2")
        b.default.gate.set()  # type: ignore[union-attr]
        assert b"0\r\n\r\n" not in wire.rest()
    until(lambda: m.health()["in_flight"] == 0, "nothing is left behind")
    assert m.provider("b")["permits_out"] == 0
    assert m.log.count("internal error in request (RuntimeError") == 1
    assert "one call was ended" in m.log
    assert "SECRET TEXT" not in m.log
    assert "mitmproxy has crashed" not in m.log
