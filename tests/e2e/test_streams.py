"""Streams: honest ends, and `commit = "complete"`, in four APIs."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.calls import APIS, DIALECT, SDK_ERROR, Client, Result
from support.provider import Behaviour, Provider, text_of
from support.proxy import Mitmdump
from support.raw import Wire, request
from support.settings import inline, route, table

Start = Callable[..., Mitmdump]

GOOD = Behaviour()
IDLE = 0.5
FAST = [
    table("attempts", {"backoff_seconds": 0.02}),
    table("circuit", {"failure_threshold": 100}),
]
AFTER_CONTENT = {
    "cut": Behaviour(cut_after=3),
    "ended early": Behaviour(end_after=3),
    "stalled": Behaviour(stall_after=3),
    "error event": Behaviour(error_after=3, message="it died"),
}
"""What can go wrong once the app has seen content: first three words of six, then this."""


def _routes(api: str, a: Provider, b: Provider, count: int) -> tuple[list[str], list[str]]:
    path = "/v1" if DIALECT[api] == "openai" else ""
    hosts = [f"http://row{i}.test{path}" for i in range(count)]
    extra = {"a": inline(timeouts={"idle": IDLE})}
    return hosts, [route(api, a, b, intercept=host, suffix=str(i), extra=extra) for i, host in enumerate(hosts)]


@pytest.mark.parametrize("api", APIS)
def test_a_stream_that_breaks_after_content_ends_in_the_sdks_own_error(
    api: str, proxy: Start, subtests: pytest.Subtests
) -> None:
    """What came stays, an API error of the SDK follows within `idle`, and its early success is undone."""
    with Provider("a") as a, Provider("b") as b:
        hosts, routes = _routes(api, a, b, len(AFTER_CONTENT))
        m = proxy("\n".join(FAST + routes))
        for i, (name, behaviour) in enumerate(AFTER_CONTENT.items()):
            with subtests.test(name), Client(m, {DIALECT[api]: hosts[i]}) as app:
                a.default = behaviour
                began = time.monotonic()
                result = app.call(api, stream=True)
                assert time.monotonic() - began < IDLE + 4
                assert isinstance(result.error, SDK_ERROR[api])
                assert result.text == "a w1 w2"
                status = m.provider(f"a{i}")
                assert (status["failures"], status["successes"], status["permits_out"]) == (1, 0, 0)
        assert b.count == 0


@pytest.mark.parametrize("api", APIS)
def test_complete_fails_over_until_the_last_event(api: str, proxy: Start, subtests: pytest.Subtests) -> None:
    """With `commit = "complete"` the app gets one whole answer even where a stream breaks after content."""
    with Provider("a") as a, Provider("b") as b:
        hosts, routes = _routes(api, a, b, len(AFTER_CONTENT))
        m = proxy("\n".join([*FAST, table("stream", {"commit": "complete"}), *routes]))
        for i, (name, behaviour) in enumerate(AFTER_CONTENT.items()):
            with subtests.test(name), Client(m, {DIALECT[api]: hosts[i]}) as app:
                a.default = behaviour
                result = app.call(api, stream=True)
                assert result.error is None
                assert result.text == text_of("b", GOOD)
                status = m.provider(f"a{i}")
                assert (status["failures"], status["successes"], status["permits_out"]) == (1, 0, 0)


def test_complete_keeps_a_patient_app_waiting(proxy: Start) -> None:
    """Signs of life, which every SDK ignores, come while the whole stream is held back, even before any provider has
    answered; an end without an answer is then an error of the SDK. All APIs at once, for it takes its time."""
    apis = ("chat", "messages", "gemini")
    with Provider("a") as a, Provider("b") as b:
        slow = [table("timeouts", {"first_byte": 6, "first_content": 6, "idle": 6}), table("attempts", {"max": 2})]
        routes = [route(api, a, b, suffix=api) for api in apis]
        m = proxy("\n".join([*slow, table("stream", {"commit": "complete"}), *routes]))

        def call(api: str) -> Result:
            with Client(m, timeout=5.6) as app:
                return app.call(api, stream=True)

        a.default = Behaviour(silent=True)
        with ThreadPoolExecutor(len(apis)) as pool:
            for result in pool.map(call, apis):
                assert (result.error, result.text) == (None, text_of("b", GOOD))
            b.default = Behaviour(status=500)
            for api, result in zip(apis, pool.map(call, apis), strict=True):
                assert isinstance(result.error, SDK_ERROR[api])
                assert "answered 500: it went wrong" in str(result.error)
        metrics = m.page("/metrics")[1].decode()
        results = re.findall(r'sidestep_requests_total\{result="(\w+)",.*\} (.*)', metrics)
        assert sorted(results) == [("failed", "1.0")] * len(apis) + [("rerouted", "1.0")] * len(apis)


@pytest.mark.parametrize("api", APIS)
def test_an_event_that_is_no_json_is_dropped(api: str, proxy: Start) -> None:
    """The SDKs crash on it: the rest of the answer arrives, the app sees no error, nobody is blamed."""
    with Provider("a") as a, Provider("b") as b:
        hosts, routes = _routes(api, a, b, 1)
        m = proxy("\n".join(FAST + routes))
        with Client(m, {DIALECT[api]: hosts[0]}) as app:
            a.default = Behaviour(malformed_at=2)
            result = app.call(api, stream=True)
        assert result.error is None
        assert result.text == "a w1 w3 w4 w5"
        assert m.provider("a0")["failures"] == 0


def test_a_missing_done_is_no_harm(proxy: Start) -> None:
    """A stream that said why it stopped is whole, `[DONE]` or not."""
    with Provider("a") as a, Provider("b") as b:
        hosts, routes = _routes("chat", a, b, 1)
        m = proxy("\n".join(FAST + routes))
        with Client(m, {"openai": hosts[0]}) as app:
            a.default = Behaviour(no_done=True)
            result = app.call("chat", stream=True)
        assert (result.error, result.text) == (None, text_of("a", GOOD))
        assert m.provider("a0")["successes"] == 1


ASKED: list[dict[str, object]] = [
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"},
]
CLAUDE_CODE = ("User-Agent", "claude-cli/2.1.197 (external, sdk-cli)")


def _reads(m: Mitmdump, url: str, *headers: tuple[str, str]) -> bytes:
    """What a client reads of a stream, to the end of its connection, frames and all."""
    body = {"model": "m", "max_tokens": 9, "stream": True, "messages": ASKED}
    sent = request(f"{url}/v1/messages", json.dumps(body).encode(), *headers, ("Connection", "close"))
    with Wire(m) as wire:
        return wire.send(sent).rest()


def test_an_agent_that_asks_again_when_cut_is_cut(proxy: Start, subtests: pytest.Subtests) -> None:
    """Claude Code gives up on an error event where a cut connection makes it ask again: its broken streams are cut, as
    they would be without Sidestep, and so is a provider's own error while another may answer. What breaks off is then
    asked for at the next provider."""
    broken = {name: (b, True) for name, b in AFTER_CONTENT.items()}
    broken["an error about the request"] = Behaviour(error_after=3, code="invalid_request_error", message="no"), False
    with Provider("a") as a, Provider("b") as b:
        hosts, routes = _routes("messages", a, b, len(broken))
        alone = route("messages", a, intercept="http://alone.test", suffix="-alone")
        m = proxy("\n".join([*FAST, *routes, alone]))
        for i, (name, (behaviour, cut)) in enumerate(broken.items()):
            with subtests.test(name):
                a.default = behaviour
                heard = _reads(m, hosts[i], CLAUDE_CODE)
                assert b"a w1 w2" in b"".join(re.findall(rb'"text": "([^"]*)"', heard))
                assert (b"event: error" not in heard, not heard.endswith(b"0\r\n\r\n")) == (cut, cut)
                assert m.provider(f"a{i}")["failures"] == cut  # what is wrong with a request blames nobody
                again = _reads(m, hosts[i], CLAUDE_CODE)
                assert f"x-sidestep-attempts: {'b' if cut else 'a'}{i}:200".encode() in again
                assert (b"message_stop" in again) == cut
        for name, behaviour, cut in (
            ("cut", AFTER_CONTENT["cut"], True),
            ("told", AFTER_CONTENT["error event"], False),
        ):
            with subtests.test(f"alone, {name}"):
                a.default = behaviour
                heard = _reads(m, "http://alone.test", CLAUDE_CODE)
                assert (b"event: error" not in heard, not heard.endswith(b"0\r\n\r\n")) == (cut, cut)
        with subtests.test("others"):
            assert b"event: error" in _reads(m, "http://alone.test", ("User-Agent", "anthropic-sdk"))
