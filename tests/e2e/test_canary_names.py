"""Credentials stay put under whatever name: each place of a request that can bear one holds a string that nothing else
holds, and after failures of every kind only the app's own host has seen it, byte for byte."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import trustme
from mitmproxy import io

from support.h2client import H2Client
from support.h2provider import H2Provider
from support.provider import Behaviour, Provider
from support.proxy import Mitmdump
from support.raw import Wire
from support.settings import route, table

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]

MARK = "FINCH"
"""In every string that must go nowhere."""
KNOWN = [
    *("Api-Key", "X-Api-Key", "X-Goog-Api-Key", "OpenAI-Organization", "OpenAI-Project", "ChatGPT-Account-Id"),
    *("X-Goog-User-Project", "Ocp-Apim-Subscription-Key", "X-Functions-Key", "CF-Access-Client-Id"),
    *("CF-Access-Client-Secret", "X-Portkey-Config", "X-Portkey-Virtual-Key", "X-User-Jwt", "X-Request-Sig", "X-Pass"),
    *("X-Session-Id", "X-Account", "X-Organization", "X-Goog-IAP-JWT-Assertion", "X-MS-Client-Principal"),
    *("X-Client-Cert", "X-Amz-Security-Token", "Helicone-Auth", "X-Client-Secret", "X-Credential", "X-Auth-Request"),
]
"""Names of credentials that have been seen to go out, and each word that they have."""
UNKNOWN = [
    *("X-Acme", "X-Acme-Pin", "X-Badge", "X-Customer", "X-Device", "X-Employee", "X-Grant", "X-License", "X-Member"),
    *("X-Nonce", "X-Owner", "X-Person", "X-Robot", "X-Seat", "X-Team", "X-Tenant", "X-Ticket", "X-User", "X-Visitor"),
    *("X-Whoami", "Baggage", "From", "Forwarded", "Idempotency-Key", "X-Stainless-Auth"),
]
"""Names that no list of credentials has."""
PARAMETERS = ["key", "subscription-key", "code", "sig", "client_secret", "access_token", "token", "jwt", "who", "seat"]
NONCE = base64.b64encode(b"sixteen bytes !!").decode()
ACCEPT = base64.b64encode(hashlib.sha1(f"{NONCE}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()).decode()

FAILURES = [
    Behaviour(status=503),
    Behaviour(status=500, body=b"<html>no</html>"),
    Behaviour(reset=True),
    Behaviour(silent=True),
    Behaviour(cut_after=0),
    Behaviour(cut_after=2),
    Behaviour(stall_after=2),
    Behaviour(error_after=0),
    Behaviour(error_after=2),
    Behaviour(malformed_at=2),
    Behaviour(body=b"<html>nope</html>", headers={"content-type": "text/html"}),
    Behaviour(status=400),
    Behaviour(status=404),
    Behaviour(status=408),
    Behaviour(status=401, code="invalid_api_key"),
    Behaviour(status=429),
    Behaviour(),
]
TURNS = [(FAILURES[0], Behaviour()), *((failure, failure) for failure in FAILURES)]
"""What own and its stand-in do: the stand-in answers once, and fails in each way."""
TABLES = [
    table("circuit", {"failure_threshold": 1000, "min_requests": 1000}),
    table("timeouts", {"first_byte": 0.2, "headers": 0.2, "first_content": 0.2, "idle": 0.2}),
    table("attempts", {"per_provider": 1, "backoff_seconds": 0.01, "wait_seconds": 0}),
]


class Canaries:
    """The fields and the query of one call; each call has others."""

    def __init__(self, number: int, *, lower: bool) -> None:
        def canary(place: str) -> str:
            return f"{MARK}-{number}-{place.lower()}"

        basic = base64.b64encode(f"user:{canary('userinfo')}".encode()).decode()
        self.user = canary("user")
        password = canary("userinfo" if number % 2 else "authorization")
        fields = [
            ("Authorization", f"Basic {basic}" if number % 2 else f"Bearer {password}"),
            *((name, canary(name)) for name in KNOWN + UNKNOWN),
            ("Cookie", f"session={canary('cookie')}; theme=dark"),
            ("Referer", f"https://app.test/page?key={canary('key')}"),
            ("User-Agent", f"app/1.0 ({canary('key')})" if number % 3 == 0 else "app/1.0"),
            ("X-Forwarded-User", canary("forwarded-user")),
            # Copies, of a part of what bears a credential, under names that go to any provider.
            ("Pragma", canary("cookie")),
            ("Accept-Language", f"en, {password}"),
        ]
        self.fields = [(k.lower() if lower else k, v) for k, v in fields]
        self.query = "&".join(f"{name}={canary(name)}" for name in PARAMETERS) + f"&{canary('bare')}"
        self.query += f"&beta=%46{password[1:]}&intent={canary('key')}"
        self.type = f"application/json; of={canary('type')}; charset=utf-8"
        self.trailers = tuple((f"x-trailer-{i}", canary(f"trailer-{i}")) for i in range(3))

    @property
    def lines(self) -> list[bytes]:
        return [f"{k}: {v}".encode() for k, v in self.fields]


def body(stream: bool) -> bytes:
    asked = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
    return json.dumps({**asked, "stream": True} if stream else asked).encode()


def is_nowhere(m: Mitmdump, saved: Path, others: list[Provider], pages: list[bytes], flows: int) -> None:
    """No stand-in, log, flow, page or metric has seen a string."""
    m.stop()
    with saved.open("rb") as f:
        assert len([flow for flow in io.FlowReader(f).stream() if "sidestep" in flow.metadata]) == flows
    seen = {p.name: b"\n".join(s.raw_head + s.body for s in p.requests) for p in others}
    places = {"the log": m.log.encode(), "a flow": saved.read_bytes(), "a page": b"\n".join(pages), **seen}
    for where, text in places.items():
        at = text.find(MARK.encode())
        assert at < 0, (where, text[max(0, at - 200) : at + 60])
    for p in others:
        assert p.requests


def start(proxy: Start, own: Provider, a: Provider, saved: Path, *options: str) -> Mitmdump:
    """The app addresses `own`, with its own credential; `a` stands in for it. Everything is logged and saved."""
    text = "\n".join([*TABLES, route("chat", own, a, own=own)])
    m = proxy(text, "-w", str(saved), "--set", "termlog_verbosity=debug", "--set", "flow_detail=4", *options)
    m.may_complain = True  # mitmproxy's own view of a body that is no JSON
    return m


def pages_of(m: Mitmdump) -> list[bytes]:
    return [m.page(path)[1] for path in ("/", "/health", "/metrics")]


def test_over_http1(provider: Make, proxy: Start, tmp_path: Path) -> None:
    """Header fields, the query, cookies, a user in `Host` and in `Authorization`."""
    own, a = provider("own"), provider("a")
    saved = tmp_path / "saved.mitm"
    m = start(proxy, own, a, saved)
    sent: list[Canaries] = []
    for mine, other in TURNS:
        own.default, a.default = mine, other
        for stream in (False, True):
            call = Canaries(len(sent), lower=False)
            sent.append(call)
            data = body(stream)
            authority = f"{own.host}:{own.port}"
            user = f"user:{call.user}@" if len(sent) % 2 else ""
            head = f"POST http://{authority}/v1/chat/completions?{call.query} HTTP/1.1\r\nHost: {user}{authority}\r\n"
            tail = f"\r\nContent-Type: {call.type}\r\nContent-Length: {len(data)}\r\n\r\n"
            with Wire(m) as wire, suppress(EOFError, ConnectionError):
                wire.send(head.encode() + b"\r\n".join(call.lines) + tail.encode() + data).answer()
    pages = pages_of(m)
    is_nowhere(m, saved, [a], pages, len(sent))
    assert own.count == len(sent)
    for seen, call in zip(own.requests, sent, strict=True):
        lines = seen.raw_head.split(b"\r\n")
        assert lines[0] == f"POST /v1/chat/completions?{call.query} HTTP/1.1".encode()
        assert lines[1].startswith(b"Host: ")
        assert (call.user.encode() in lines[1]) == (sent.index(call) % 2 == 0)
        assert lines[2 : 2 + len(call.lines)] == call.lines
        assert seen.header("content-type") == call.type


def test_over_http2(proxy: Start, tmp_path: Path) -> None:
    """Trailers as well."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with H2Provider("own", ca) as own, H2Provider("a", ca) as a:
        saved = tmp_path / "saved.mitm"
        m = start(proxy, own, a, saved, "--set", f"ssl_verify_upstream_trusted_ca={tmp_path / 'ca.pem'}")
        sent: list[Canaries] = []
        for mine, other in TURNS:
            own.default, a.default = mine, other
            with H2Client(m, own.host, own.port) as app:
                app.host = f"{own.host}:{own.port}"
                for stream in (False, True):
                    call = Canaries(len(sent), lower=True)
                    sent.append(call)
                    path = f"/v1/chat/completions?{call.query}"
                    fields = [*call.fields, ("content-type", "application/json")]
                    app.answer(app.send(path, body(stream), *fields, trailers=call.trailers))
        pages = pages_of(m)
        is_nowhere(m, saved, [a], pages, len(sent))
        assert own.count == len(sent)
        for seen, call in zip(own.requests, sent, strict=True):
            assert seen.path == f"/v1/chat/completions?{call.query}"
            # The cookie comes last: so HTTP/2 is sent by mitmproxy, which may part it.
            fields = [(k, v) for k, v in call.fields if k != "cookie"]
            assert [field for field in seen.headers if field in fields] == fields
            assert "; ".join(v for k, v in seen.headers if k == "cookie") == dict(call.fields)["cookie"]
            assert [(k, v) for k, v in seen.headers if k.startswith("trailer-")] == [
                (f"trailer-{k}", v) for k, v in call.trailers
            ]


def test_over_a_websocket(provider: Make, proxy: Start, tmp_path: Path) -> None:
    """In a handshake, subprotocols as well; the stand-in takes it, or nobody does."""
    own, a = provider("own"), provider("a")
    saved = tmp_path / "saved.mitm"
    m = start(proxy, own, a, saved)
    lines = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n".encode()
    takes = Behaviour(raw=b"HTTP/1.1 101 Switching Protocols\r\n" + lines + b"\x88\x02\x03\xe8")
    failures = [*FAILURES[:4], Behaviour(status=401), Behaviour(status=404), takes]
    sent: list[Canaries] = []
    for failure in failures:
        for mine, other in ((failure, takes), (failure, failure)):
            own.default, a.default = mine, other
            call = Canaries(len(sent), lower=False)
            sent.append(call)
            authority = f"{own.host}:{own.port}"
            head = [
                f"GET http://{authority}/v1/realtime?model=gpt-realtime&{call.query} HTTP/1.1",
                f"Host: {authority}",
                *(line.decode() for line in call.lines),
                "Connection: Upgrade",
                "Upgrade: websocket",
                "Sec-WebSocket-Version: 13",
                f"Sec-WebSocket-Key: {NONCE}",
                f"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.{call.user}, {call.user}",
            ]
            with Wire(m) as wire, suppress(EOFError, ConnectionError):
                wire.send("\r\n".join(head).encode() + b"\r\n\r\n").head()
    pages = pages_of(m)
    is_nowhere(m, saved, [a], pages, len(sent))
    assert own.count == len(sent)
    for seen, call in zip(own.requests, sent, strict=True):
        lines_seen = seen.raw_head.split(b"\r\n")
        assert lines_seen[0].endswith(b"?model=gpt-realtime&%s HTTP/1.1" % call.query.encode())
        assert lines_seen[2 : 2 + len(call.lines)] == call.lines
        assert seen.header("sec-websocket-protocol") == f"realtime, openai-insecure-api-key.{call.user}, {call.user}"
    assert {seen.header("sec-websocket-protocol") for seen in a.requests} == {"realtime"}
