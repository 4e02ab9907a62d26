"""A provider that repeats a key: the app does not get it, whatever the answer, the place and the form; nor does anybody
who looks at flows, files, logs and pages."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import anthropic
import openai
import pytest
import trustme
from google import genai
from mitmproxy import io

from support.calls import Client
from support.h2client import H2Client, said
from support.h2provider import H2Provider
from support.provider import Behaviour, Provider, text_of
from support.proxy import Mitmdump
from support.raw import Wire, chat
from support.settings import inline, key_of, route, table
from support.waiting import until

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]

APP = "http://app.test/v1"
GOOD = text_of("a", Behaviour())
KEY = key_of("a")
OWN = "own-CANARY-9876543210-of-b"
FORMS = {
    "plain": KEY,
    "in a URL": "".join(f"%{ord(c):02X}" for c in KEY),
    "base64": base64.b64encode(f"key={KEY}".encode()).decode(),
    "base64 in a URL": quote(base64.urlsafe_b64encode(f"my key={KEY}!".encode()).decode(), safe=""),
    "escaped": "".join(f"\\u{ord(c):04x}" for c in KEY),
    "escaped in part": KEY.replace("A", "\\u0041").replace("-", "\\u002D"),
    "another provider's": key_of("b"),
    "an own header's": OWN,
}
PATIENT = [
    table("attempts", {"per_provider": 1, "wait_seconds": 0}),
    table("circuit", {"failure_threshold": 1000, "min_requests": 1000}),
]


def settings(a: Provider, b: Provider, *more: str) -> str:
    """A route to `a`, and one that has nothing to do with it."""
    own_header = f'headers = {{ "X-Gateway" = "{OWN}" }}\n'
    other = route("chat", b, intercept="http://other.test/v1", extra=own_header)
    return "\n".join([*PATIENT, *more, route("chat", a, intercept=APP), other])


def leaked(*texts: bytes) -> list[str]:
    """The forms of keys that are in these."""
    return [f"{name}: {form}" for name, form in FORMS.items() for text in texts if form.encode() in text]


def document(content: str) -> bytes:
    return b'{"id":"c","choices":[{"index":0,"message":{"role":"assistant","content":"%s"}}]}' % content.encode()


def event(content: str) -> bytes:
    return b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % content.encode()


def head(status: str, *fields: str, length: int | None = None) -> bytes:
    sent = [*fields, "connection: close"] + ([] if length is None else [f"content-length: {length}"])
    return "\r\n".join([f"HTTP/1.1 {status}", *sent, "", ""]).encode()


@pytest.mark.parametrize("stream", [False, True])
def test_no_form_of_a_key_gets_to_the_app_or_to_anybody_who_looks_on(
    provider: Make, proxy: Start, tmp_path: Path, stream: bool
) -> None:
    """In a good 200, in an event, in a comment, in an error, in a header; own, another's and an own header's."""
    a, b = provider("a"), provider("b")
    saved = tmp_path / "saved.mitm"
    m = proxy(settings(a, b), "-w", str(saved), "--set", "flow_detail=4", "--set", "store_streamed_bodies=true")
    m.may_complain = True  # mitmproxy's own view of a body that is no JSON
    answers = []
    for form in FORMS.values():
        error = json.dumps({"error": {"message": "?", "type": "invalid_request_error"}}).replace("?", form).encode()
        behaviours = [
            Behaviour(amid=event(f"it is {form}")) if stream else Behaviour(body=document(f"it is {form}")),
            Behaviour(amid=f": {form}\n\n".encode())
            if stream
            else Behaviour(body=document("x").replace(b'"c"', b'"%s"' % form.encode())),
            Behaviour(status=400, body=error),
            Behaviour(status=500, body=error),
            Behaviour(body=error),
            Behaviour(headers={"x-echo": f"Bearer {form}"}),
        ]
        if form.isascii() and "/" not in form and "\\" not in form and "=" not in form:
            behaviours.append(Behaviour(headers={form: "1"}))
        for behaviour in behaviours:
            a.default = behaviour
            with Wire(m) as wire:
                wire.send(chat(APP, stream=stream))
                got_head = wire.until(b"\r\n\r\n")
                wire.sock.shutdown(1)
                answers.append((behaviour, got_head + wire.rest()))
    pages = [m.page(path)[1] for path in ("/", "/health", "/metrics")]
    assert m.health()["in_flight"] == 0
    m.stop()
    for behaviour, answer in answers:
        assert not leaked(answer), behaviour
        if behaviour.headers:
            assert answer.startswith(b"HTTP/1.1 200")
        else:
            assert b'"error"' in answer, (behaviour, answer)
    with saved.open("rb") as f:
        assert len([flow for flow in io.FlowReader(f).stream() if "sidestep" in flow.metadata]) == len(answers)
    assert not leaked(saved.read_bytes(), m.log.encode(), *pages)
    assert "a repeats a provider's key" in m.log


@pytest.mark.parametrize("api", ["chat", "responses", "messages", "gemini"])
def test_a_stream_ends_in_its_own_dialect(provider: Make, proxy: Start, api: str) -> None:
    """In a comment, an event's name, a field of which nobody knows: what came before has been read, and the official
    SDK raises."""
    a = provider("a")
    m = proxy("\n".join([*PATIENT, route(api, a)]))
    with Client(m) as app:
        for amid in (f": it was {KEY}\n\n", f"event: {KEY}\ndata: {{}}\n\n", f'data: {{"debug":"{KEY}"}}\n\n'):
            a.default = Behaviour(amid=amid.encode(), pace=0.1)
            result = app.call(api, stream=True)
            assert result.pieces <= 3
            assert GOOD.startswith(result.text)
            if api != "responses":  # whose SDK hands errors over as events
                assert isinstance(result.error, (openai.APIError, anthropic.APIError, genai.errors.APIError))
                assert "repeats a provider's key" in str(result.error)
    until(lambda: m.health()["in_flight"] == 0, "all is over")


def test_where_another_provider_can_answer_the_app_sees_nothing_of_it(provider: Make, proxy: Start) -> None:
    """Whole or streamed."""
    a, b = provider("a"), provider("b")
    first = event(KEY) + b"data: [DONE]\n\n"
    stream = head("200 OK", "content-type: text/event-stream", length=len(first)) + first
    m = proxy("\n".join([*PATIENT, route("chat", a, b)]))
    with Client(m) as app:
        for behaviour in (Behaviour(body=document(KEY)), Behaviour(raw=stream)):
            a.default = behaviour
            result = app.call("chat", stream=behaviour.raw is not None)
            assert result.error is None
            assert result.text == text_of("b", Behaviour())
            assert result.headers["x-sidestep-attempts"] == "a:bad_response, b:200"


@pytest.mark.parametrize("encoding", ["ascii", "utf-16-le"])
@pytest.mark.parametrize("late", [True, False], ids=["after a while", "beyond what is held"])
def test_the_part_of_an_error_that_is_not_held_is_cut(provider: Make, proxy: Start, late: bool, encoding: str) -> None:
    """After 5 s (here 0.3), or after `hold_bytes`, an error goes on as it comes: up to a key."""
    a = provider("a")
    own = inline(timeouts={"idle": 0.3}, stream={"hold_bytes": 100_000})
    m = proxy("\n".join([*PATIENT, route("chat", a, intercept=APP, extra=own)]))
    text = f"the key {KEY} is wrong".encode(encoding)
    before = b"." * (1000 if late else 1 << 20)
    length = len(before) + len(text) + 5
    sent = head("400 No", "content-type: text/plain", length=length) + before
    for at in (0, 14, 23, len(text)):
        gate = threading.Event()
        a.default = Behaviour(raw=sent + text[:at], rest=text[at:] + b" more", gate=gate)
        with Wire(m) as wire:
            assert wire.send(chat(APP)).until(b"\r\n\r\n").startswith(b"HTTP/1.1 400")
            came = wire.exactly(len(before)) if at < len(text) else b""
            gate.set()
            body = came + wire.rest()
        assert "CANARY".encode(encoding) not in body
        assert b"more" not in body
        if at == len(text):  # it was among what was held, or came before what was to come
            assert late is (b"withheld" in body)
        else:
            assert body.startswith(before)
            assert len(body) <= len(before + "the key ".encode(encoding))
    until(lambda: m.health()["in_flight"] == 0, "all is over")


def test_over_http2_names_of_fields_and_trailers_are_looked_at_too(proxy: Start, tmp_path: Path) -> None:
    """Names are in lower case there."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with H2Provider("a", authority) as a:
        body = document("well")
        chunked = b"%x\r\n%s\r\n0\r\nx-checksum: 1\r\n%s: 1\r\nx-echo: %s\r\n\r\n" % (
            len(body),
            body,
            KEY.encode(),
            KEY.encode(),
        )
        fields = (
            "content-type: application/json",
            "transfer-encoding: chunked",
            "x-other: 1",
            f"{KEY}: 1",
            f"x-echo: {KEY}",
        )
        a.default = Behaviour(raw=head("200 OK", *fields) + chunked)
        text = "\n".join([*PATIENT, route("chat", a, intercept="https://app.test/v1")])
        m = proxy(text, "--set", f"ssl_verify_upstream_trusted_ca={tmp_path / 'ca.pem'}")
        with H2Client(m, "app.test") as app:
            for stream in (False, True):
                if stream:
                    body = event("well") + b"data: [DONE]\n\n"
                    chunked = b"%x\r\n%s\r\n0\r\nx-checksum: 1\r\n%s: 1\r\n\r\n" % (len(body), body, KEY.encode())
                    fields = ("content-type: text/event-stream", *fields[1:])
                    a.default = Behaviour(raw=head("200 OK", *fields) + chunked)
                answer = app.answer(app.chat(stream=stream))
                assert (answer.status, said(answer)) == (200, "well")
                assert answer.headers["x-other"] == "1"
                assert answer.trailers == {"x-checksum": "1"}
                assert "canary" not in repr(answer).lower()


def test_a_replay_keeps_no_key_either(provider: Make, proxy: Start, tmp_path: Path) -> None:
    """`replay.client` asks again: what comes then is in the flow alone, and in what is saved of it."""
    a, b = provider("a"), provider("b")
    saved = tmp_path / "saved.mitm"
    a.then(Behaviour(), Behaviour(body=document(KEY)))
    a.default = Behaviour(headers={"x-echo": KEY})
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
        "        # Not live any more, it may be in flight yet: a replay is refused then.\n"
        "        if flow.live or ctx.master.commands.call('replay.client.count'):\n"
        "            asyncio.get_running_loop().call_later(0.01, self.again, flow)\n"
        "        else:\n"
        "            ctx.master.commands.call('replay.client', [flow])\n"
        "addons = [Replayer()]\n"
    )
    m = proxy(settings(a, b), "-s", str(script), "-w", str(saved))
    with Wire(m) as wire:
        assert wire.send(chat(APP)).answer()[0] == 200
        until(lambda: a.count == 3, "both replays have gone their way", 20)
    until(lambda: m.health()["in_flight"] == 0, "all is over")
    m.stop()
    with saved.open("rb") as f:
        statuses = [flow.response.status_code for flow in io.FlowReader(f).stream() if flow.response]  # type: ignore[attr-defined]
    assert 502 in statuses
    assert not leaked(saved.read_bytes(), m.log.encode())


def test_the_app_s_own_credential_may_come_back_from_its_own_host(provider: Make, proxy: Start) -> None:
    """Byte for byte as ever, also where a provider of the configuration has the same key."""
    own, b = provider("own"), provider("b")
    secret = key_of("b")
    error = b'{"error":{"message":"Incorrect API key provided: %s","type":"invalid_request_error"}}' % secret.encode()
    m = proxy("\n".join([*PATIENT, route("chat", own, b, own=own)]))
    good = document(secret)
    for status, body in ((200, good), (400, error)):
        own.then(Behaviour(status=status, body=body, headers={"x-echo": secret}))
        with Wire(m) as wire:
            got, headers, answer = wire.send(chat(own.url(), key=secret)).answer()
        assert (got, headers["x-echo"], answer) == (status, secret, body)
    own.then(Behaviour(body=good))
    with Wire(m) as wire:
        _, headers, answer = wire.send(chat(own.url(), key="sk-another-one")).answer()
    assert headers["x-sidestep-provider"] == "b"
    assert secret.encode() not in answer
