"""No key gets to the app in what a provider says: in any place of an answer, in any form, at any cut."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Callable
from urllib.parse import quote

import pytest
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.utilities import generate_accept_token

from sidestep.breaker.outcomes import Kind
from sidestep.leaks import Searcher
from support.driver import Driver

KEYS = {
    "its own key": b"sk-a/CANARY+9876543210Zq",
    "another's key": b"sk-b/CANARY+8765432109Xz",
    "another's own header": b"own-b-CANARY-7654321098",
}
KEY = KEYS["its own key"]
FORMS = {
    "plain": KEY.decode(),
    "escaped": KEY.decode().replace("/", "\\/"),
    "escaped wholly": "".join(f"\\u{code:04x}" for code in KEY),
    "escaped twice": "".join(f"\\\\u{code:04X}" if i % 2 else chr(code) for i, code in enumerate(KEY)),
    "in a URL": quote(KEY, safe=""),
    "in a URL wholly": "".join(f"%{code:02x}" for code in KEY),
    "base64": base64.b64encode(b"Basic:" + KEY).decode(),
    "base64, one on": base64.b64encode(b"basic::" + KEY + b"!").decode(),
    "base64, two on": base64.urlsafe_b64encode(b"basic:::" + KEY).decode(),
}
BODY = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
STREAMED = BODY[:-1] + b',"stream":true}'
EVENTS = {"content-type": "text/event-stream", "transfer-encoding": "chunked"}
ANYTHING = Searcher(KEYS.values(), any_case=True)

Fields = dict[str, str]


def settings(*names: str) -> str:
    found = ["attempts = { per_provider = 1, wait_seconds = 0 }"]
    for name in ("a", "b"):
        found.append(f'[[providers]]\nname = "{name}"\ndialect = "openai"\nbase_url = "http://{name}.test/v1"')
    found[1] += f'\napi_key = "{KEY.decode()}"'
    found[2] += f'\napi_key = "{KEYS["another's key"].decode()}"'
    found[2] += f'\nheaders = {{ X-Own = "Token {KEYS["another's own header"].decode()}" }}'
    found.append(f'[[routes]]\nintercept = ["http://app.test/v1"]\nproviders = {json.dumps(names)}')
    found.append('[[routes]]\nintercept = ["http://other.test/v1"]\nproviders = ["a", "b"]')
    return "\n".join(found)


def call(body: bytes, path: str = "chat/completions", key: bytes = b"app-key-0123") -> bytes:
    head = b"POST http://app.test/v1/%s HTTP/1.1\r\nHost: app.test\r\nAuthorization: Bearer %s\r\n" % (
        path.encode(),
        key,
    )
    return head + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def head_of(fields: Fields, status: str = "200 OK") -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


END = b"0\r\n\r\n"


def event(content: str, finish: str = "null") -> bytes:
    return b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":%s}]}\n\n' % (
        content.encode(),
        finish.encode(),
    )


def whole(content: str, **fields: str) -> bytes:
    body = b'{"id":"c","choices":[{"index":0,"message":{"role":"assistant","content":"%s"}}]}' % content.encode()
    return head_of({"content-type": "application/json", "content-length": str(len(body)), **fields}) + body


def asked(*names: str, body: bytes = BODY, path: str = "chat/completions", key: bytes = b"app-key-0123") -> Driver:
    """A call that is under way at the first of these providers."""
    driver = Driver(settings(*names))
    driver.says(driver.client, call(body, path, key))
    return driver


def body_of(answer: bytes) -> bytes:
    """A body without its chunks."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"chunked" not in head.lower():
        return body
    found = b""
    while body and not body.startswith(b"0\r\n"):
        size, _, body = body.partition(b"\r\n")
        found += body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]
    return found


def holds_none(answer: bytes) -> bool:
    return not ANYTHING.find(answer.lower()) and not ANYTHING.find(body_of(answer).lower())


# --- where an answer is held back


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_another_provider_answers_in_place_of_one_that_repeats_a_key(form: str) -> None:
    driver = asked("a", "b")
    driver.says(driver.servers[0], whole(f"your key is {form}"))
    assert driver.answer() == b""
    driver.says(driver.servers[1], whole("all is well"))
    answer = driver.answer()
    assert b"x-sidestep-attempts: a:bad_response, b:200" in answer
    assert answer.endswith(b'"all is well"}}]}')
    (a, _) = driver.calls.core.engine.attempts_total.items()  # type: ignore[union-attr]
    assert a == (("a", Kind.FAILURE, "bad_response"), 1)


@pytest.mark.parametrize("secret", KEYS.values(), ids=KEYS)
def test_no_provider_s_key_is_in_a_good_answer(secret: bytes) -> None:
    """That of the provider that answers, another one's, the value of an own header: with nobody else left there is an
    error of ours."""
    driver = asked("a")
    driver.says(driver.servers[0], whole(f"your key is {secret.decode()}"))
    answer = driver.answer()
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert "a:bad_response" in json.loads(body_of(answer))["error"]["message"]
    assert holds_none(answer)
    assert (driver.engine.in_flight, driver.layer.streams) == (set(), {})


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_first_content_of_a_stream_may_hold_a_key(form: str) -> None:
    """Nothing has been seen of it: another provider answers."""
    driver = asked("a", "b", body=STREAMED)
    driver.says(driver.servers[0], head_of(EVENTS) + chunk(event(f"it is {form}")))
    assert driver.answer() == b""
    driver.says(driver.servers[1], head_of(EVENTS) + chunk(event("well")) + chunk(b"data: [DONE]\n\n") + END)
    assert b"well" in driver.answer()


@pytest.mark.parametrize("commit", ["first_content", "complete"])
def test_a_stream_that_is_held_back_is_given_up_at_once(commit: str) -> None:
    """Before its first content, or, where it is held whole, before its end."""
    text = settings("a", "b").replace('name = "a"', f'name = "a"\nstream = {{ commit = "{commit}" }}', 1)
    driver = Driver(text)
    driver.says(driver.client, call(STREAMED))
    first = event("well") if commit == "complete" else b""
    driver.says(driver.servers[0], head_of(EVENTS) + (chunk(first) if first else b""))
    driver.says(driver.servers[0], chunk(f": {FORMS['escaped wholly']}\n\n".encode()))
    assert driver.servers[0] in driver.closed
    driver.says(driver.servers[1], head_of(EVENTS) + chunk(event("good") + b"data: [DONE]\n\n") + END)
    assert body_of(driver.answer()) == event("good") + b"data: [DONE]\n\n"


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress], ids=["gzip", "deflate"])
def test_a_compressed_answer_is_looked_through_as_it_is_read(pack: object) -> None:
    assert callable(pack)
    driver = asked("a", "b")
    encoding = "gzip" if pack is gzip.compress else "deflate"
    packed = pack(whole(f"it is {FORMS['escaped wholly']}").partition(b"\r\n\r\n")[2])
    fields = {"content-type": "application/json", "content-encoding": encoding, "content-length": str(len(packed))}
    driver.says(driver.servers[0], head_of(fields) + packed)
    assert driver.answer() == b""
    driver.says(driver.servers[1], whole("well"))
    assert b"well" in driver.answer()


# --- where it flows


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("place", ["content", "comment", "field", "name"])
def test_a_stream_ends_with_an_error_before_the_event_that_holds_a_key(place: str, form: str) -> None:
    """In the content of an event, in a comment, in a field of its own, in an event's name."""
    driver = asked("a", body=STREAMED)
    (server,) = driver.servers
    good = event("all") + event("is")
    driver.says(server, head_of(EVENTS) + chunk(event("well")) + chunk(good))
    bad = {
        "content": event(f"it is {form}"),
        "comment": f": {form}\n\n".encode(),
        "field": event("x").replace(b'"id":"c"', f'"debug":{{"sent":"{form}"}}'.encode()),
        "name": f"event: {form}\n".encode() + event("x"),
    }[place]
    driver.says(server, chunk(bad) + chunk(event("more")))
    answer = driver.answer()
    assert holds_none(answer)
    body = body_of(answer)
    assert body.startswith(event("well") + good)
    last = json.loads(body.removeprefix(event("well") + good).removeprefix(b"data: "))
    assert "repeats a provider's key" in last["error"]["message"]
    assert answer.endswith(END)
    assert server in driver.closed
    assert (driver.engine.in_flight, driver.layer.streams) == (set(), {})


@pytest.mark.parametrize("form", ["plain", "escaped wholly", "in a URL", "base64, one on"])
def test_wherever_a_stream_is_cut_up(form: str) -> None:
    """At every border of the key's first and last signs, and at some between (tests/test_leaks.py has them all)."""
    first, rest = event("well"), event(f"it is {FORMS[form]}") + event("more")
    begins = rest.index(FORMS[form].encode())
    ends = begins + len(FORMS[form])
    for at in sorted({*range(begins - 2, begins + 9), *range(ends - 8, ends + 3), *range(1, len(rest), 7)}):
        driver = asked("a", body=STREAMED)
        (server,) = driver.servers
        driver.says(server, head_of(EVENTS) + chunk(first))
        driver.says(server, chunk(rest[:at]))
        driver.says(server, chunk(rest[at:]))
        answer = driver.answer()
        assert holds_none(answer), at
        assert b"repeats a provider's key" in answer, at
        assert b"more" not in answer, at


def test_a_compressed_stream_is_cut() -> None:
    """Nothing can be said inside a content encoding."""
    driver = asked("a", body=STREAMED)
    (server,) = driver.servers
    packer = zlib.compressobj(wbits=31)
    good = packer.compress(event("well")) + packer.flush(zlib.Z_SYNC_FLUSH)
    bad = packer.compress(event(f"it is {FORMS['in a URL']}")) + packer.flush(zlib.Z_SYNC_FLUSH)
    driver.says(server, head_of({**EVENTS, "content-encoding": "gzip"}) + chunk(good))
    driver.says(server, chunk(bad) + END)
    answer = driver.answer()
    assert body_of(answer) == good
    assert not answer.endswith(END)
    assert driver.client in driver.closed


@pytest.mark.parametrize("stream", [False, True])
def test_a_compressed_document_that_is_let_go_before_its_end_is_cut(stream: bool) -> None:
    """Where the app is told that its answer is coming; also where a stream was asked for."""
    driver = asked("a", body=STREAMED if stream else BODY)
    (server,) = driver.servers
    packer = zlib.compressobj(wbits=31)
    start = b'{"id":"c","choices":[{"index":0,"message":{"role":"assistant","content":"well '
    parts = [packer.compress(p) + packer.flush(zlib.Z_SYNC_FLUSH) for p in (start, b"it ", KEY[:9], KEY[9:], b"more")]
    fields = {"content-type": "application/json", "content-encoding": "gzip", "transfer-encoding": "chunked"}
    driver.says(server, head_of(fields) + chunk(parts[0]))
    driver.passes(10)
    driver.says(server, chunk(parts[1]))
    assert body_of(driver.answer()) == b"".join(parts[:2])
    for part in parts[2:]:
        driver.says(server, chunk(part))
    sent = body_of(driver.answer())
    assert b"".join(parts[2:]).startswith(sent)
    assert KEY not in zlib.decompressobj(wbits=31).decompress(b"".join(parts[:2]) + sent)
    assert driver.client in driver.closed


def test_a_compressed_stream_is_looked_through_after_its_error_too() -> None:
    """Where nothing of ours can end it, its own error goes on, and what follows that."""
    driver = asked("a", body=STREAMED)
    (server,) = driver.servers
    packer = zlib.compressobj(wbits=31)

    def packed(data: bytes) -> bytes:
        return packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)

    good = packed(event("well"))
    error = packed(b'data: {"error":{"message":"it died","code":500}}\n\n')
    driver.says(server, head_of({**EVENTS, "content-encoding": "gzip"}) + chunk(good))
    driver.says(server, chunk(error) + chunk(packed(f": {FORMS['base64']}\n\n".encode())))
    assert body_of(driver.answer()) == good + error
    assert driver.client in driver.closed


@pytest.mark.parametrize("form", [*FORMS, "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("kind", ["sound", "error", "error in chunks"])
def test_what_flows_unread_is_cut_before_a_key(kind: str, form: str) -> None:
    """Sound, and an error beyond what is held of it; also where its pieces part in a key."""
    text = f" {FORMS[form]} ".encode() if form in FORMS else f" {KEY.decode()} ".encode(form)
    before = b"\1\2\3" * 500
    for at in range(0, len(text), 7):
        if kind == "sound":
            driver = asked("a", path="audio/speech")
            driver.says(driver.servers[0], head_of({"content-type": "audio/mpeg", "content-length": "9999"}))
        else:
            driver = asked("a")
            length = {"transfer-encoding": "chunked"} if "chunks" in kind else {"content-length": "9999"}
            driver.says(driver.servers[0], head_of({"content-type": "text/plain", **length}, "400 No"))
        framed = chunk if "chunks" in kind else bytes
        (server,) = driver.servers
        driver.says(server, framed(before))
        if kind != "sound":
            assert driver.answer() == b""
            driver.passes(5.1)  # an error that does not end is handed over as it comes
        driver.says(server, framed(text[:at]) if at else b"")
        driver.says(server, framed(text[at:]))
        driver.says(server, framed(b"more"))
        answer = driver.answer()
        assert holds_none(answer), at
        assert body_of(answer).startswith(before)
        assert b"more" not in answer
        # In base64 the key comes after "Basic:".
        assert len(body_of(answer)) <= len(before) + (12 if "base64" in form else 3)
        assert driver.client in driver.closed
        assert (driver.engine.in_flight, driver.layer.streams) == (set(), {})


@pytest.mark.parametrize("text", [KEY[:-1], b"sk-", b"\\u0073\\u006", b"%73%6"])
def test_what_only_begins_like_a_key_goes_on_byte_for_byte(text: bytes) -> None:
    """However much of a key it is, and with the length that was announced."""
    for at in range(len(text)):
        driver = asked("a", path="audio/speech")
        (server,) = driver.servers
        body = b"\1\2\3" + text + b"\4" + text
        driver.says(server, head_of({"content-type": "audio/mpeg", "content-length": str(len(body))}))
        for piece in (body[: 3 + at], body[3 + at : -2], body[-2:]):
            driver.says(server, piece)
        answer = driver.answer()
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert body_of(answer) == body
        assert driver.closed == []


# --- heads


@pytest.mark.parametrize("form", ["plain", "escaped wholly", "in a URL", "base64"])
@pytest.mark.parametrize("status", ["200 OK", "400 No"])
@pytest.mark.parametrize("secret", KEYS.values(), ids=KEYS)
def test_a_head_loses_what_repeats_a_key(form: str, status: str, secret: bytes) -> None:
    """Fields by their value or by their name, and the reason phrase."""
    body = whole("hi").partition(b"\r\n\r\n")[2]
    name = secret.decode() if b"/" not in secret else "x-name"
    fields = {
        "x-echo": f"Bearer {FORMS[form]}",
        "x-echo-of-another": secret.decode(),
        name: "1",
        "x-other": "1",
        "content-type": "application/json",
        "content-length": str(len(body)),
    }
    driver = asked("a")
    driver.says(driver.servers[0], head_of(fields, f"{status} {FORMS[form]}") + body)
    answer = driver.answer()
    assert answer.startswith(b"HTTP/1.1 " + status[:3].encode())
    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert holds_none(answer)
    assert b"x-echo" not in head
    assert FORMS[form].lower().encode() not in head
    assert b"x-other: 1" in head
    assert answer.endswith(body)


def test_a_header_s_name_is_looked_at_in_any_case() -> None:
    body = whole("hi").partition(b"\r\n\r\n")[2]
    own = KEYS["another's own header"]
    for name in (own, own.lower(), own.upper()):
        driver = asked("a")
        fields = {name.decode(): "1", "content-length": str(len(body)), "content-type": "application/json"}
        driver.says(driver.servers[0], head_of(fields) + body)
        answer = driver.answer()
        assert b"canary" not in answer.lower()
        assert answer.endswith(body)


# --- errors that are held


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("status", ["400 No", "500 No"])
def test_an_error_that_repeats_a_key_is_withheld(status: str, form: str) -> None:
    body = b'{"error":{"message":"bad key %s","type":"invalid_request_error"}}' % form.encode()
    driver = asked("a")
    fields = {"content-type": "application/json", "content-length": str(len(body))}
    driver.says(driver.servers[0], head_of(fields, status) + body)
    answer = driver.answer()
    assert answer.startswith(b"HTTP/1.1 " + status[:3].encode())
    assert "its words are withheld" in json.loads(body_of(answer))["error"]["message"]
    assert holds_none(answer)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_an_error_inside_a_200_that_repeats_a_key_is_none_of_the_app_s(form: str) -> None:
    """About the request itself, it would be handed over as it came."""
    body = b'{"error":{"message":"bad request with %s","type":"invalid_request_error"}}' % form.encode()
    for stream in (False, True):
        driver = asked("a", body=STREAMED if stream else BODY)
        if stream:
            driver.says(driver.servers[0], head_of(EVENTS) + chunk(b"data: " + body + b"\n\n") + END)
        else:
            fields = {"content-type": "application/json", "content-length": str(len(body))}
            driver.says(driver.servers[0], head_of(fields) + body)
        answer = driver.answer()
        assert holds_none(answer)
        assert b'"error"' in answer


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_an_error_event_amid_a_stream_is_told_without_the_key(form: str) -> None:
    driver = asked("a", body=STREAMED)
    (server,) = driver.servers
    driver.says(server, head_of(EVENTS) + chunk(event("well")))
    driver.says(server, chunk(b'data: {"error":{"message":"died with %s","code":500}}\n\n' % form.encode()))
    answer = driver.answer()
    assert holds_none(answer)
    assert body_of(answer).startswith(event("well"))
    assert b'"error"' in answer


# --- what the app knows


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_app_itself_has_sent_may_come_back(stream: bool) -> None:
    """A key in a file that a coding agent reads, or the app's own that is a provider's too: byte for byte."""
    said = {
        "in its body": asked("a", body=(STREAMED if stream else BODY).replace(b"hi", KEY)),
        "as its credential": asked("a", body=STREAMED if stream else BODY, key=KEY),
    }
    for driver in said.values():
        (server,) = driver.servers
        if not stream:
            reply = whole(f"it is {FORMS['plain']}", **{"x-echo": FORMS["plain"]})
            driver.says(server, reply)
            answer = driver.answer()
            assert FORMS["plain"].encode() in answer.partition(b"\r\n\r\n")[0]
            assert body_of(answer) == body_of(reply)
        else:
            sent = event("well") + event(f"it is {FORMS['base64']}") + event("", '"stop"') + b"data: [DONE]\n\n"
            driver.says(server, head_of(EVENTS))
            for at in range(0, len(sent), 50):
                driver.says(server, chunk(sent[at : at + 50]))
            driver.says(server, END)
            assert body_of(driver.answer()) == sent


def test_what_another_app_has_sent_may_not() -> None:
    driver = asked("a", body=BODY.replace(b"hi", KEYS["another's key"]))
    driver.says(driver.servers[0], whole(FORMS["plain"]))
    assert driver.answer().startswith(b"HTTP/1.1 502 ")


# --- over a WebSocket


HANDSHAKE = (
    b"GET http://app.test/v1/realtime?model=m HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c2l4dGVlbiBieXRlcyAhIQ==\r\n\r\n"
)
TAKEN = {
    "connection": "Upgrade",
    "upgrade": "websocket",
    "sec-websocket-accept": generate_accept_token(b"c2l4dGVlbiBieXRlcyAhIQ==").decode(),
}


class Socket:
    """A WebSocket through the layers, both ends at hand. State: the driver, the protocol's state at each end."""

    def __init__(self) -> None:
        self.driver = Driver(settings("a"))
        self.driver.says(self.driver.client, HANDSHAKE)
        (self.server,) = self.driver.servers
        self.driver.says(self.server, head_of(TAKEN, "101 Switching Protocols"))
        assert self.driver.answer().startswith(b"HTTP/1.1 101 ")
        self.app, self.provider = Connection(ConnectionType.CLIENT), Connection(ConnectionType.SERVER)

    def asks(self, *events: Event) -> None:
        self.driver.says(self.driver.client, b"".join(self.app.send(event) for event in events))

    def tells(self, *events: Event) -> list[Event]:
        """The provider says something: what the app hears."""
        self.driver.says(self.server, b"".join(self.provider.send(event) for event in events))
        self.app.receive_data(self.driver.answer())
        return list(self.app.events())


CLOSED = CloseConnection(1011, "sidestep: it repeats a provider's key")


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(
    "say",
    [
        lambda form: [TextMessage(f'{{"type":"x","sent":"{form}"}}')],
        lambda form: [TextMessage(f'{{"{form[:9]}', message_finished=False), TextMessage(form[9:])],
        lambda form: [BytesMessage(form.encode())],
        lambda form: [Ping(form.encode()[-125:])],
        lambda form: [CloseConnection(1008, form[-123:])],
    ],
    ids=["text", "frames", "binary", "ping", "close"],
)
def test_a_websocket_is_closed_before_the_message_that_holds_a_key(
    say: Callable[[str], list[Event]], form: str
) -> None:
    """Text, binary, in frames, as the words of a ping or of a close."""
    if say("") == [Ping(b"")] and len(form) > 125:
        return  # no ping is so long
    if isinstance(say("")[0], CloseConnection) and len(form) > 123:
        return
    ws = Socket()
    assert ws.tells(TextMessage("well")) == [TextMessage("well")]
    assert ws.tells(TextMessage("so"), *say(form)) == [TextMessage("so"), CLOSED]
    assert ws.tells() == []
    assert {ws.server, ws.driver.client} <= set(ws.driver.closed)
    assert ws.driver.hooks[-1] == "websocket_end"
    assert ws.driver.engine.in_flight == set()


def test_a_websocket_may_bring_back_what_the_app_has_said_over_it() -> None:
    ws = Socket()
    ws.asks(TextMessage(f"remember {FORMS['plain']}"))
    assert ws.tells(TextMessage(FORMS["in a URL"])) == [TextMessage(FORMS["in a URL"])]


def test_the_end_of_one_message_and_the_start_of_the_next_are_no_key() -> None:
    ws = Socket()
    told = [TextMessage(KEY[:9].decode()), TextMessage(KEY[9:].decode())]
    assert ws.tells(*told) == told
