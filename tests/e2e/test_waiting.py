"""Waiting where it is worth it, other providers where it is not; commands; models that take more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support.calls import Client
from support.provider import Behaviour, Provider, text_of
from support.proxy import Mitmdump
from support.raw import Wire, chat
from support.settings import config, route, table

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]
GOOD = Behaviour()
SPENT = Behaviour(status=429, body=b'{"error": {"message": "no credit", "code": "insufficient_quota"}}')


@pytest.mark.parametrize(
    "headers", [{"retry-after": "1"}, {"retry-after-ms": "700"}, {"x-ratelimit-reset-requests": "0.8s"}]
)
def test_a_short_retry_after_is_waited_out(headers: dict[str, str], provider: Make, proxy: Start) -> None:
    """The same provider is asked again once its time has come, not before; nobody else is."""
    a, b = provider("a"), provider("b")
    a.then(Behaviour(status=429, headers=headers))
    m = proxy(config("chat", a, b))
    with Client(m) as app:
        result = app.call("chat", stream=True)
    assert (result.text, result.attempts) == (text_of("a", GOOD), "a:429, a:200")
    assert 0.7 <= a.requests[1].at - a.requests[0].at < 1.8
    assert b.count == 0


def test_when_all_are_refused_for_a_moment_the_request_waits(provider: Make, proxy: Start) -> None:
    """A circuit that may be asked within `wait_seconds` is waited for, once."""
    a = provider("a")
    a.then(Behaviour(status=503))
    m = proxy(config("chat", a, circuit={"failure_threshold": 1, "open_seconds": 1}, attempts={"per_provider": 1}))
    with Client(m) as app:
        assert app.call("chat", stream=False).status == 503
        result = app.call("chat", stream=False)
    assert (result.text, result.attempts) == (text_of("a", GOOD), "a:200")
    assert a.requests[1].at - a.requests[0].at > 0.85


def test_a_cooldown_passes_a_provider_over_and_leaves_its_circuit_alone(provider: Make, proxy: Start) -> None:
    """Until the announced end the next provider answers, and the first is not asked."""
    a, b = provider("a"), provider("b")
    a.then(Behaviour(status=429, headers={"retry-after": "60"}))
    m = proxy(config("chat", a, b))
    with Client(m) as app:
        assert app.call("chat", stream=False).attempts == "a:429, b:200"
        assert app.call("chat", stream=False).attempts == "b:200"
    status = m.provider("a")
    assert (status["state"], status["failures"], a.count) == ("closed", 0, 1)
    assert 55 < status["cooldown"]["seconds"] <= 60


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_provider_alone_is_asked_whatever_its_limits(stream: bool, provider: Make, proxy: Start) -> None:
    """After a 429 for one model: the same model, another, another app's key; each is sent at once and answered, and
    what the provider says is what the app gets."""
    a = provider("a")
    limit = Behaviour(status=429, headers={"retry-after": "60"}, body=b'{"error": {"message": "slow down"}}')
    m = proxy(config("chat", a, own=a))
    with Wire(m) as wire:
        for more in ({}, {}, {"model": "other"}, {"key": "sk-another"}):
            a.then(limit)
            status, headers, body = wire.send(chat(a.url(), stream=stream, **more)).answer()
            assert (status, headers["retry-after"], body) == (429, "60", limit.body)
        for more in ({}, {"model": "other"}, {"key": "sk-another"}):
            assert wire.send(chat(a.url(), stream=stream, **more)).answer()[0] == 200
    assert a.count == 7
    assert m.provider("a")["cooldown"]["limits"] == 3


def test_the_spent_key_of_one_app_moves_no_other(provider: Make, proxy: Start) -> None:
    """Two apps with keys of their own: the one without quota is answered elsewhere, the other at home."""
    a, b = provider("a"), provider("b")
    a.chooser = lambda seen: SPENT if "sk-spent" in (seen.header("authorization") or "") else GOOD
    m = proxy(config("chat", a, b, own=a))
    with Wire(m) as wire:
        found = []
        for key in ("sk-spent", "sk-good") * 2:
            status, headers, _ = wire.send(chat(a.url(), key=key)).answer()
            found.append((status, headers["x-sidestep-attempts"]))
    assert found == [(200, "a:429, b:200"), (200, "a:200"), (200, "b:200"), (200, "a:200")]


def test_a_context_that_is_too_long(provider: Make, proxy: Start) -> None:
    """A provider whose model takes more is asked; with none the original 400 comes back byte for byte."""
    a, b = provider("a"), provider("b")
    body = b'{"error": {"message": "too long", "type": "invalid_request_error", "code": "context_length_exceeded"}}'
    a.default = Behaviour(status=400, body=body)
    small, large = 'context_window = { "gpt-4o" = 1000 }\n', 'context_window = { "gpt-4o" = 9000 }\n'
    text = route("chat", a, extra=small) + route("chat", b, intercept="http://unused.test/v1", extra=large)
    text = text.replace('providers = ["a"]', 'providers = ["a", "b"]')
    m = proxy(text)
    with Client(m) as app:
        assert app.call("chat", stream=False).attempts == "a:400, b:200"
        b.default = Behaviour(status=503)
        result = app.call("chat", stream=False)
        assert result.status == 400
        assert "too long" in str(result.error)
    m.config.write_text(text.replace("9000", "900"))
    m.wait_for_log("configuration reloaded")
    with Client(m) as app:
        result = app.call("chat", stream=False)
        assert (result.status, result.attempts) == (400, "a:400")
    assert m.provider("a")["failures"] == 0


def test_commands(provider: Make, proxy: Start, tmp_path: Path) -> None:
    """Circuits are held and given back by hand, the mode is set, and wrong names are said to be wrong."""
    a, b = provider("a"), provider("b")
    script = tmp_path / "commander.py"
    script.write_text(
        "from mitmproxy import ctx, exceptions\n"
        "class Commander:\n"
        "    def request(self, flow):\n"
        "        words = flow.request.headers.get('run', '').split()\n"
        "        if words:\n"
        "            try: print('RAN', ctx.master.commands.call(words[0], *words[1:]))\n"
        "            except exceptions.CommandError as e: print('REFUSED', e)\n"
        "addons = [Commander()]\n"
    )
    m = proxy(config("chat", a, b), "-s", str(script))

    def run(app: Client, words: str) -> None:
        app.http.get(f"http://127.0.0.1:{a.port}/elsewhere", headers={"run": words})

    with Client(m) as app:
        run(app, "sidestep.circuit.open a")
        assert app.call("chat", stream=False).attempts == "b:200"
        assert m.provider("a")["state"] == "forced_open"
        run(app, "sidestep.circuit.disable a")
        assert app.call("chat", stream=False).attempts == "a:200"
        run(app, "sidestep.circuit.auto a")
        assert m.provider("a")["state"] == "closed"
        run(app, "sidestep.circuit.open c")
        m.wait_for_log(r"REFUSED expected one of a, b, found 'c'")
        run(app, "sidestep.mode sideways")
        m.wait_for_log(r"REFUSED expected one of enforce, observe, off, found 'sideways'")
        run(app, "sidestep.mode observe")
        assert m.health()["mode"] == "observe"
        run(app, "sidestep.status")
        m.wait_for_log(r'RAN {\s+"status": "ok"')
        run(app, "sidestep.reload")
        m.wait_for_log("RAN None")


def test_a_time_limit_for_the_whole_request(provider: Make, proxy: Start) -> None:
    """However many providers there are, after `total_seconds` the app has an answer."""
    a, b = provider("a"), provider("b")
    a.default = b.default = Behaviour(silent=True)
    tables = [table("attempts", {"total_seconds": 2}), table("timeouts", {"headers": 1, "first_byte": 1})]
    m = proxy("\n".join([*tables, route("chat", a, b)]))
    with Client(m, timeout=5) as app:
        result = app.call("chat", stream=False)
    assert (result.status, result.attempts) == (504, "a:timeout, b:timeout")
