"""Who has no say changes nothing: clients without rights, requests that go to strangers, calls that cannot be read."""

from __future__ import annotations

import gzip
import json
import random
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from support.h2client import H2Client
from support.h2provider import H2Provider, server_context
from support.namespaces import SERVER, Networks, networks
from support.provider import Behaviour, Provider
from support.proxy import Mitmdump
from support.raw import Wire, chat, request, to_server
from support.settings import key_of, route, table
from support.ways import connect, listening, plain, socks5, tls
from support.wireguard import ADDRESS, WireGuard, open_tun

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]


def said(status: int, body: bytes) -> Behaviour:
    """An answer to whatever is asked."""
    head = f"HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return Behaviour(raw=head.encode() + b"connection: close\r\n\r\n" + body)


GOOD = said(200, b'{"choices":[{"message":{"content":"x"}}]}')
DOWN = said(503, b"{}")
SPENT = Behaviour(status=429, headers={"retry-after": "86400"})
JSON = ("Content-Type", "application/json")
OPENAI = "https://api.openai.com/v1"


def known(m: Mitmdump) -> dict[str, Any]:
    """What is known of the providers and of calls, without times."""
    health = m.health()
    counted = [line for line in m.page("/metrics")[1].decode().splitlines() if line.startswith("sidestep_")]
    return {"health": health, "metrics": counted}


# --- a request that goes to another address than the intercept's (threat 2)


def behind_connect(m: Mitmdump, stranger: Provider, sent: bytes) -> None:
    with Wire.over(connect(("127.0.0.1", m.port), (stranger.host, stranger.port))) as wire:
        wire.send(to_server(sent)).answer()


def in_absolute_form(m: Mitmdump, stranger: Provider, sent: bytes) -> None:
    head, _, body = sent.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    lines[0] = f"POST {stranger.origin}/v1/chat/completions HTTP/1.1".encode()
    with Wire(m) as wire:
        wire.send(b"\r\n".join(lines) + b"\r\n\r\n" + body).answer()


def behind_socks(m: Mitmdump, stranger: Provider, sent: bytes) -> None:
    address = listening(m, "SOCKS v5 proxy")
    with Wire.over(socks5(address, (stranger.host, stranger.port))) as wire:
        wire.send(to_server(sent)).answer()


@pytest.mark.parametrize("way", [behind_connect, in_absolute_form, behind_socks])
def test_a_host_field_makes_no_server(provider: Make, proxy: Start, way: Callable[..., None]) -> None:
    """A request that goes to a stranger and names an intercept in `Host` is the stranger's: no key, no evidence."""
    own, a, stranger = provider("own"), provider("a"), provider("stranger")
    stranger.default = SPENT
    base = f"http://api.test:{stranger.port}/v1"
    text = route("chat", own, a, intercept=base) + table("attempts", {"wait_seconds": 0})
    text = text.replace(f'base_url = "{own.url()}"\napi_key = "{key_of("own")}"', f'base_url = "{base}"')
    m = proxy(text, "--mode", "regular@127.0.0.1:0", "--mode", "socks5@127.0.0.2:0")
    before = known(m)
    for _ in range(3):
        way(m, stranger, chat(base))
    assert known(m) == before
    assert (own.count, a.count, stranger.count) == (0, 0, 3)
    for seen in stranger.requests:
        assert seen.header("authorization") == "Bearer sk-app"
        assert seen.header("host") == f"api.test:{stranger.port}"


@pytest.mark.parametrize("alpn", ["http/1.1", "h2"])
@pytest.mark.parametrize("sni", ["api.test", "stranger.test"])
def test_a_stranger_s_certificate_makes_no_provider(
    proxy: Start, provider: Make, tmp_path: Path, alpn: str, sni: str
) -> None:
    """Inside TLS it is the name of the server that counts. An app that gives an address has its provider asked by
    name."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    a = provider("a")
    kind = H2Provider("stranger", ca) if alpn == "h2" else Provider("stranger")
    kind.tls = server_context(ca, "stranger.test", alpn)
    with kind as stranger:
        stranger.default = SPENT
        base = f"https://api.test:{stranger.port}/v1"
        text = route("chat", stranger, a, intercept=base).replace(stranger.url(), base)
        text = text.replace(f'api_key = "{key_of("stranger")}"\n', "")
        m = proxy(text, "--set", f"ssl_verify_upstream_trusted_ca={tmp_path / 'ca.pem'}")
        sock = tls(connect(("127.0.0.1", m.port), ("127.0.0.1", stranger.port)), m.ca, sni, alpn)
        if alpn == "h2":
            assert isinstance(sock, ssl.SSLSocket)
            with H2Client.over(sock, f"api.test:{stranger.port}") as app:
                app.answer(app.chat())
        else:
            with Wire.over(sock) as wire:
                wire.send(to_server(chat(base))).answer()
        health = m.health()["providers"]["stranger"]
        assert health["cooldown"] is None
        # With the right name in TLS it is the provider by that name that was asked, which is not there.
        by_name = sni == "api.test"
        assert (health["totals"]["failure"] > 0, a.count, stranger.count) == (by_name, by_name, not by_name)


def test_a_right_address_with_the_right_name_is_routed(provider: Make, proxy: Start) -> None:
    """CONNECT to the intercept's own host, whatever the case of its name."""
    a = provider("a")
    m = proxy(route("chat", a, intercept="http://api.test/v1"))
    with Wire.over(connect(("127.0.0.1", m.port), ("API.test", 80))) as wire:
        assert wire.send(to_server(chat("http://api.test/v1"))).answer()[0] == 200
    assert a.count == 1


# --- clients without rights


@pytest.fixture
def net() -> Iterator[Networks]:
    with networks() as made:
        yield made


def test_a_client_without_rights_changes_nothing(net: Networks, provider: Make, proxy: Start) -> None:
    """A thousand hostile requests from another machine: what is known, and other apps' waits, stay as they were."""
    net.join_by_cable()
    own, a = provider("own", host=SERVER), provider("a")
    own.default = SPENT
    text = route("chat", own, a, own=own) + route("messages", a, suffix="m")
    m = proxy(text, listen="0.0.0.0")
    app = chat(own.url())

    def call() -> float:
        began = time.monotonic()
        with Wire(m) as wire:
            assert wire.send(app).answer()[0] == 200
        return time.monotonic() - began

    own.default = Behaviour()
    quick = sorted(call() for _ in range(50))[48]
    own.default = SPENT
    before = known(m)
    random_ = random.Random(7)
    hostile = list(hostile_requests(own, random_))
    for i in range(1000):
        with net.as_client():
            sock = socket.create_connection((SERVER, m.port), timeout=15)
        with Wire.over(sock) as wire:
            wire.sock.sendall(hostile[i % len(hostile)])
            wire.sock.recv(64)
    assert known(m) == before
    assert a.count == 0
    assert {seen.header("authorization") for seen in own.requests[50:]} <= {"Bearer sk-app", None}
    own.default = Behaviour()
    assert sorted(call() for _ in range(50))[48] < quick + 0.05


def hostile_requests(own: Provider, random_: random.Random) -> Iterator[bytes]:
    """Of each kind a few, in one way or another."""
    base = own.url()
    for i in range(5):
        name = "".join(random_.choices("abcdefgh", k=40))
        yield chat(base, model=f"{name}{i}")
        yield chat(base, stream=True, previous_response_id=name)
        yield request(f"{base}/chat/completions", gzip.compress(b"[" * 1_000_000), ("Content-Encoding", "gzip"), JSON)
        yield request(f"{base}/chat/completions", b"\xff\xfe" + "{}".encode("utf-16-le"), JSON)
        yield request(f"{base}/responses", b'{"model":"a","model":"b"}', (f"X-{name}", "x" * 5000), JSON)
        yield chat("https://api.anthropic.com/v1")
        yield request("https://api.anthropic.com/v1/messages", b"{}", JSON)
        yield request(f"http://sidestep.internal/health?{name}", b"", method="GET")
        yield chat(base).replace(b"Host: ", b"Host: user@")


def test_what_a_stranger_is_told(net: Networks, provider: Make, proxy: Start) -> None:
    """403 where only a key of ours could answer; of the pages how it is, in a word; its own calls pass."""
    net.join_by_cable()
    own, a = provider("own", host=SERVER), provider("a")
    m = proxy(route("chat", own, a, own=own) + route("messages", a, suffix="m"), listen="0.0.0.0")

    def ask(sent: bytes) -> tuple[int, dict[str, str], bytes]:
        with net.as_client():
            sock = socket.create_connection((SERVER, m.port), timeout=15)
        with Wire.over(sock) as wire:
            return wire.send(sent).answer()

    status, headers, _ = ask(chat(own.url()))
    assert (status, [name for name in headers if name.startswith("x-sidestep")]) == (200, [])
    status, headers, body = ask(request("https://api.anthropic.com/v1/messages", b'{"model": "m"}', JSON))
    assert (status, list(json.loads(body)["error"])) == (403, ["type", "message"])
    assert headers["x-sidestep-request-id"].startswith("sx-")
    at = "http://sidestep.internal"
    pages = {path: ask(request(at + path, b"", method="GET")) for path in ("/", "/health", "/metrics")}
    assert {path: page[0] for path, page in pages.items()} == {"/": 403, "/health": 200, "/metrics": 403}
    assert json.loads(pages["/health"][2]) == {"status": "ok"}
    assert (own.count, a.count) == (1, 0)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "10.0.0.1"])
def test_an_address_inside_a_tunnel_proves_nothing(net: Networks, provider: Make, proxy: Start, address: str) -> None:
    """A WireGuard peer may give itself the address it likes: loopback too (threat 5)."""
    tun = open_tun(net, ADDRESS)
    a = provider("a", host=SERVER)
    text = route("chat", a, intercept=f"http://{SERVER}:{a.port}/v1")
    modes = ("--mode", "regular@127.0.0.1:8080", "--mode", "wireguard@127.0.0.1:51820")
    m = proxy(text, *modes)
    m.wait_for_log("WireGuard server listening")
    keys = json.loads((m.confdir / "wireguard.conf").read_text())
    with WireGuard(tun, ("127.0.0.1", 51820), keys["client_key"], keys["server_key"], source=address):
        with net.as_client():
            sock = plain((SERVER, a.port))
        with Wire.over(sock) as wire:
            status, _, body = wire.send(to_server(chat(a.url()))).answer()
    assert (status, a.count) == (403, 0), body
    assert "allow_clients" in json.loads(body)["error"]["message"]


# --- what cannot be read (threat 16)

MODEL = b'"messages":[{"role":"user","content":"hi"}]'
UNREAD = {
    "a byte order mark": b'\xef\xbb\xbf{"model":"dear",' + MODEL + b"}",
    "UTF-16": ('{"model":"dear",' + MODEL.decode() + "}").encode("utf-16"),
    "UTF-16 without a mark": ('{"model":"dear",' + MODEL.decode() + "}").encode("utf-16-le"),
    "NaN": b'{"model":"dear","temperature":NaN,' + MODEL + b"}",
    "a comment": b'{"model":"dear",/* */' + MODEL + b"}",
    "a model twice": b'{"model":"dear","model":"cheap",' + MODEL + b"}",
    "a model twice, far apart": b'{ "model" : "dear" , ' + MODEL + b' , "model": "cheap" }',
    "a model twice, escaped": b'{"mod\\u0065l":"dear",' + MODEL + b',"model":"cheap"}',
    "a model twice, in another case": b'{"Model":"dear",' + MODEL + b',"model":"cheap"}',
    "a model in capitals": b'{"MODEL":"dear",' + MODEL + b"}",
    "a model in a list": b'{"model":["dear"],' + MODEL + b"}",
    "a list": b'[{"model":"dear",' + MODEL + b"}]",
    "deep": b'{"model":"dear","x":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "half a surrogate": b'{"model":"dear","x":"\\ud83d",' + MODEL + b"}",
    "two objects": b'{"model":"cheap",' + MODEL + b'}{"model":"dear"}',
    "nothing": b"",
}


@pytest.mark.parametrize("failing", [False, True])
def test_what_cannot_be_read_goes_to_its_own_provider_or_nowhere(provider: Make, proxy: Start, failing: bool) -> None:
    """With the app's own credential, as it is; no key of ours, past no `only` and unmapped."""
    own, a = provider("own"), provider("a")
    own.default = DOWN if failing else GOOD
    extra = {"a": 'only = ["cheap"]\nmodels = { "cheap" = "mapped" }\n'}
    m = proxy(route("chat", own, a, own=own, extra=extra))
    before = known(m)
    url = f"{own.url()}/chat/completions"
    bodies: list[tuple[bytes, tuple[tuple[str, str], ...]]] = [(body, ()) for body in UNREAD.values()]
    bodies.append((b'\x1f\x8b{"model":"dear",' + MODEL + b"}", (("Content-Encoding", "gzip"),)))
    bodies.append((b'{"model":"dear",' + MODEL + b"}", (("Content-Encoding", "lzma"),)))
    charset = [("Content-Type", "application/json; charset=utf-16")]

    def ask(body: bytes, *fields: tuple[str, str]) -> int:
        with Wire(m) as wire:
            return wire.send(request(url, body, *fields)).answer()[0]

    for body, more in bodies:
        assert ask(body, ("Authorization", "Bearer sk-app"), *more) == (503 if failing else 200), body
    assert ask(b'{"model":"cheap"}', *charset) == (503 if failing else 200)
    assert a.count == 0
    assert [seen.body for seen in own.requests[:-1]] == [body for body, _ in bodies]
    assert {seen.header("authorization") for seen in own.requests[:-1]} == {"Bearer sk-app"}
    assert known(m) == before


FORM = "multipart/form-data; boundary=b"


def part(name: str, value: str, more: str = "") -> str:
    return f"--b\r\nContent-Disposition: form-data; {name}\r\n{more}\r\n{value}\r\n"


FORMS = {
    "a model twice": part('name="model"', "dear") + part('name="model"', "cheap"),
    "an extended name": part("name*=utf-8''model", "dear") + part('name="model"', "cheap"),
    "an escaped name": part('name="mod\\el"', "dear") + part('name="model"', "cheap"),
    "two names": part('name="x"; name="model"', "dear"),
    "a name on the next line": part('\r\n name="model"', "dear"),
    "another head": part('name="x"', "dear", 'Content-Disposition: form-data; name="model"\r\n'),
    "base64": part('name="model"', "ZGVhcg==", "Content-Transfer-Encoding: base64\r\n"),
    "another character set": part('name="model"', "+AGQ-ear", "Content-Type: text/plain; charset=utf-7\r\n"),
    "no end": part('name="model"', "cheap") + part('name="model"', "dear")[:-2],
}


def test_forms_that_cannot_be_read(provider: Make, proxy: Start) -> None:
    """As with JSON; what all servers read alike fails over as ever."""
    own, a = provider("own"), provider("a")
    own.default = DOWN
    a.default = said(200, b'{"text":"hi"}')
    m = proxy(route("chat", own, a, own=own, extra={"a": 'only = ["cheap"]\n'}))
    url = f"{own.url()}/audio/transcriptions"
    sound = part('name="file"; filename="a \\"b\\"; name=model.wav"', "RIFF", "Content-Type: audio/wav\r\n")

    def ask(form: str) -> int:
        with Wire(m) as wire:
            return wire.send(request(url, form.encode(), ("Content-Type", FORM))).answer()[0]

    for name, form in FORMS.items():
        assert ask(sound + form + ("" if name == "no end" else "--b--\r\n")) == 503, name
    assert a.count == 0
    good = sound + part('name="model"', "cheap") + "--b--\r\n"
    assert ask(good) == 200
    assert a.requests[0].body == good.encode()


# --- what an answer says of its host

OF_A_HOST = {
    "Set-Cookie": "a=b",
    "Alt-Svc": 'h3="evil.test:443"',
    "Strict-Transport-Security": "max-age=99999999; includeSubDomains",
    "NEL": '{"report_to":"x","max_age":99999999,"success_fraction":1}',
    "Report-To": '{"group":"x","max_age":99999999,"endpoints":[{"url":"https://evil.test"}]}',
    "Reporting-Endpoints": 'x="https://evil.test"',
    "Clear-Site-Data": '"*"',
    "Proxy-Authenticate": "Basic realm=x",
}


@pytest.mark.parametrize("stream", [False, True])
def test_a_stand_in_says_nothing_of_the_apps_own_host(provider: Make, proxy: Start, stream: bool) -> None:
    """An app takes it for its own host's word: to send cookies, to go elsewhere, to tell others of its addresses."""
    own, a = provider("own"), provider("a")
    own.default = a.default = Behaviour(headers=OF_A_HOST | {"X-Other": "1"})
    m = proxy(table("attempts", {"per_provider": 1}) + route("chat", own, a, own=own))
    for who, expected in ((own, {name.lower() for name in OF_A_HOST}), (a, set())):
        with Wire(m) as wire:
            _, headers, _ = wire.send(chat(own.url(), stream=stream, user=who.name)).answer()
        assert headers["x-sidestep-provider"] == who.name
        assert headers["x-other"] == "1"
        assert {name for name in headers if name in {h.lower() for h in OF_A_HOST}} == expected
        own.default = Behaviour(status=503)


# --- paths that lead out of a base URL (threat 17)

OUTSIDE = [
    *("/v1beta/../../admin/models/g:generateContent", "/v1beta/%2e%2e/%2e%2e/models/g:generateContent"),
    *("/v1beta/..%2f..%2fadmin/models/g:generateContent", "/v1beta/models/..%2f..%2fadmin:generateContent"),
    *("/v1beta/..;/models/g:generateContent", "/v1beta/.%2E/models/g:generateContent"),
    *("/v1beta/models/%252e%252e:generateContent", "/v1beta\\..\\..\\models/models/g:generateContent"),
]


@pytest.mark.parametrize("whose", ["own", "stand-in"])
def test_no_path_leads_out_of_a_base_url(provider: Make, proxy: Start, whose: str) -> None:
    """It goes where the app sent it, with what the app sent: no key of ours leaves its base URL."""
    own, a = provider("own"), provider("a")
    own.default = GOOD
    text = route("gemini", own, a, intercept=f"{own.origin}/gemini").replace(
        f'base_url = "{own.origin}"', f'base_url = "{own.origin}/gemini"'
    )
    if whose == "stand-in":
        text = text.replace(f'api_key = "{key_of("own")}"\n', "")
        own.default = DOWN
    m = proxy(text)
    body = json.dumps({"contents": [{"parts": [{"text": "hi"}]}]}).encode()
    for path in OUTSIDE:
        with Wire(m) as wire:
            wire.send(request(f"{own.origin}/gemini{path}", body, ("x-goog-api-key", "app-key"))).answer()
    assert a.count == 0
    assert [seen.path for seen in own.requests] == [f"/gemini{path}" for path in OUTSIDE]
    assert {seen.header("x-goog-api-key") for seen in own.requests} == {"app-key"}
