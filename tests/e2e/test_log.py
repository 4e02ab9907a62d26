"""The log says what was done, and why in words."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable

import pytest
import trustme

from support.calls import Client
from support.h2provider import server_context
from support.provider import Behaviour, Provider
from support.proxy import Mitmdump
from support.raw import Wire, chat
from support.settings import config, key_of, table

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]
APP = "http://app.test/v1"


def _free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("refused", "connection refused"),
        ("untrusted", "its certificate is not trusted"),
        ("no name", "its name was not found"),
        ("503", "answered 503"),
    ],
)
def test_a_reroute_is_told_with_its_cause(fault: str, why: str, provider: Make, proxy: Start) -> None:
    b = provider("b")
    with Provider("a", server_context(trustme.CA()) if fault == "untrusted" else None) as a:
        a.default = Behaviour(status=503)
        bases = {"refused": f"http://127.0.0.1:{_free()}/v1", "no name": "http://nowhere.invalid/v1"}
        tables = [
            f'[[providers]]\nname = "{name}"\ndialect = "openai"\nbase_url = "{base}"\napi_key = "{key_of(name)}"\n'
            for name, base in (("a", bases.get(fault, a.url())), ("b", b.url()))
        ]
        route = f'[[routes]]\nintercept = ["{APP}"]\nproviders = ["a", "b"]\n'
        m = proxy("\n".join([table("attempts", {"backoff_seconds": 0.01}), *tables, route]))
        with Client(m, {"openai": APP}) as app:
            assert app.call("chat", stream=False).provider == "b"
        m.wait_for_log(rf"sidestep: a call to app\.test \(gpt-4o\) was answered by b: a: {why}", 5)
        assert not any(key_of("a") in line for line in m.lines)


def test_a_call_that_failed_and_a_circuit_that_opened_are_told(provider: Make, proxy: Start) -> None:
    a = provider("a")
    a.default = Behaviour(status=500)
    tables = f'[[providers]]\nname = "a"\ndialect = "openai"\nbase_url = "{a.url()}"\napi_key = "{key_of("a")}"\n'
    route = f'[[routes]]\nintercept = ["{APP}"]\nproviders = ["a"]\n'
    m = proxy("\n".join([table("attempts", {"backoff_seconds": 0.01}), tables, route]))
    with Client(m, {"openai": APP}) as app:
        for _ in range(2):
            assert app.call("chat", stream=False).status in (500, 503)
        app.call("chat", stream=False)
    m.wait_for_log(r"sidestep: a call to app\.test \(gpt-4o\) failed: a: answered 500", 5)
    m.wait_for_log(r"sidestep: a \(gpt-4o\) is not asked for 1\d s: answered 500", 5)


def test_the_log_as_json_is_an_object_a_line(provider: Make, proxy: Start) -> None:
    """Each line of it, mitmproxy's own too, once the addon is loaded; of a call with who was asked and who answered."""
    a, b = provider("a"), provider("b")
    a.default = Behaviour(status=503)
    tables = [
        f'[[providers]]\nname = "{p.name}"\ndialect = "openai"\nbase_url = "{p.url()}"\napi_key = "{key_of(p.name)}"\n'
        for p in (a, b)
    ]
    route = f'[[routes]]\nintercept = ["{APP}"]\nproviders = ["a", "b"]\n'
    text = "\n".join([table("attempts", {"backoff_seconds": 0.01}), *tables, route])
    m = proxy(text, "--set", "sidestep_log=json")
    with Client(m, {"openai": APP}) as app:
        app.call("chat", stream=True)
    m.wait_for_log('"event": "rerouted"', 5)
    first = next(i for i, line in enumerate(m.lines) if line.startswith("{"))
    assert first <= 2, "what comes before the addon is loaded has mitmproxy's form"
    lines = [json.loads(line) for line in m.lines[first:]]
    assert {line["source"] for line in lines} == {"mitmproxy", "sidestep"}
    told = next(line for line in lines if line.get("event") == "rerouted")
    assert (told["level"], told["route"], told["model"], told["provider"]) == ("info", "openai", "gpt-4o", "b")
    assert told["attempts"] == "a:503, a:503, b:200"
    assert told["text"] == "a call to app.test (gpt-4o) was answered by b: a: answered 503"
    assert told["time"].endswith("+00:00")


def test_a_conversation_is_shown_in_place_of_its_json(provider: Make, proxy: Start) -> None:
    """With bodies in its output, mitmdump prints the conversation, and not the JSON."""
    a = provider("a")
    m = proxy(config("chat", a, own=a), "--set", "flow_detail=3")
    with Wire(m) as wire:
        wire.send(chat(a.url())).answer()
    m.wait_for_log(r"── user\s+hi")
    m.wait_for_log(r"── assistant\s+a w1 w2")
