"""The log says what was done, and why in words."""

from __future__ import annotations

import datetime
import json
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Literal

import pytest
import trustme

from support.calls import Client
from support.corporate import ConnectProxy
from support.holes import Hole
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


Unwell = Callable[[ExitStack], str]
"""Makes a provider at which one thing is wrong; its base URL."""


def _secure(ca: trustme.CA, host: str = "127.0.0.1", **more: Any) -> Unwell:
    def unwell(stack: ExitStack) -> str:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert(host, **more).configure_cert(context)
        return stack.enter_context(Provider("a", context)).url()

    return unwell


def _itself(stack: ExitStack) -> str:
    """A certificate that nobody has signed but its own key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca = trustme.CA(organization_name="Alone")
    with ca.private_key_pem.tempfile() as key, ca.cert_pem.tempfile() as certificate:
        context.load_cert_chain(certificate, key)
    return stack.enter_context(Provider("a", context)).url()


def _plain(stack: ExitStack) -> str:
    """Where TLS is meant, and a server takes it for a bad request."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

    def serve() -> None:
        with suppress(OSError):
            while True:
                with listener.accept()[0] as sock:
                    sock.recv(1)
                    sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                    sock.recv(65536)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    stack.callback(listener.shutdown, socket.SHUT_RDWR)
    return f"https://127.0.0.1:{listener.getsockname()[1]}/v1"


def _hole(kind: Literal["mute", "full"], scheme: str, *, slammed: bool = False) -> Unwell:
    def unwell(stack: ExitStack) -> str:
        hole = Hole(kind)
        stack.callback(hole.close)
        hole.slam() if slammed else hole.fill()
        return f"{scheme}://127.0.0.1:{hole.port}/v1"

    return unwell


def _behaving(behaviour: Behaviour) -> Unwell:
    def unwell(stack: ExitStack) -> str:
        a = stack.enter_context(Provider("a"))
        a.default = behaviour
        return a.url()

    return unwell


CORPORATE = trustme.CA(organization_name="Zscaler Inc.", organization_unit_name="Zscaler Root CA")
KNOWN = trustme.CA()
PAST = datetime.datetime(2020, 1, 1)
FAULTS: dict[str, tuple[Unwell, str]] = {
    "refused": (lambda _: f"http://127.0.0.1:{_free()}/v1", "connection refused"),
    "no name": (lambda _: "http://nowhere.invalid/v1", "its name was not found"),
    "untrusted": (_secure(CORPORATE), r"its certificate is not trusted: issued by Zscaler Inc\. of Zscaler Root CA"),
    "signed by itself": (_itself, "its certificate is not trusted: issued by itself"),
    "another host's": (_secure(KNOWN, "elsewhere.test"), "its certificate is another host's"),
    "expired": (_secure(KNOWN, not_before=PAST, not_after=PAST), "its certificate has expired"),
    "no TLS": (_plain, "no TLS with it"),
    "full": (_hole("full", "http"), "timed out connecting"),
    "silent in its handshake": (_hole("mute", "https"), "timed out connecting"),
    "reset in its handshake": (_hole("mute", "https", slammed=True), "connection reset"),
    "reset": (_behaving(Behaviour(reset=True)), "connection reset"),
    "no way there": (lambda _: "http://255.255.255.255/v1", "its network cannot be reached"),
    "closed": (_behaving(Behaviour(raw=b"")), "connection closed"),
    "503": (_behaving(Behaviour(status=503)), "answered 503"),
}


def _settings(base: str, b: Provider) -> str:
    tables = [table("attempts", {"backoff_seconds": 0.01}), table("timeouts", {"connect": 0.5})]
    tables += [
        f'[[providers]]\nname = "{name}"\ndialect = "openai"\nbase_url = "{url}"\napi_key = "{key_of(name)}"\n'
        for name, url in (("a", base), ("b", b.url()))
    ]
    return "\n".join([*tables, f'[[routes]]\nintercept = ["{APP}"]\nproviders = ["a", "b"]\n'])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_reroute_is_told_with_its_cause(
    fault: str, provider: Make, proxy: Start, stack: ExitStack, tmp_path: Path
) -> None:
    """Each cause by a fault of its own; and no key with it."""
    unwell, why = FAULTS[fault]
    KNOWN.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    trust = f"ssl_verify_upstream_trusted_ca={tmp_path / 'ca.pem'}"
    m = proxy(_settings(unwell(stack), provider("b")), "--set", trust)
    with Client(m, {"openai": APP}) as app:
        assert app.call("chat", stream=False).provider == "b"
    m.wait_for_log(rf"sidestep: a call to app\.test \(gpt-4o\) was answered by b: a: {why}(?=\n|$)", 5)
    assert not any(key_of("a") in line for line in m.lines)


def test_a_proxy_in_between_that_refuses_is_told(proxy: Start, stack: ExitStack) -> None:
    """With a password that nobody has given it."""
    between = stack.enter_context(ConnectProxy("user:password"))
    base = _secure(KNOWN)(stack)
    tables = f'[[providers]]\nname = "a"\ndialect = "openai"\nbase_url = "{base}"\napi_key = "{key_of("a")}"\n'
    route = f'[[routes]]\nintercept = ["{APP}"]\nproviders = ["a"]\n'
    text = "\n".join([table("attempts", {"backoff_seconds": 0.01}), tables, route])
    m = proxy(text, "--mode", f"upstream:{between.url}", port_in="HTTP\\(S\\) proxy.*")
    with Client(m, {"openai": APP}) as app:
        assert app.call("chat", stream=False).status == 502
    m.wait_for_log(r"sidestep: a call to app\.test \(gpt-4o\) failed: a: the proxy in between refused", 5)
    assert between.refusals


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
