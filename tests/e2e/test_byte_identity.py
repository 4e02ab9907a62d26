"""A call that its own provider answers leaves and returns byte for byte as it does without Sidestep."""

from __future__ import annotations

import gzip
import socket
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import brotli  # type: ignore[import-untyped]
import pytest
import trustme

from support import corpus
from support.encodings import zstd
from support.h2client import H2Client
from support.h2provider import H2Provider, server_context
from support.internet import Internet
from support.provider import Behaviour, Provider
from support.proxy import Mitmdump
from support.raw import Wire

KEY = "sk-app-CANARY-0123456789"


@dataclass
class Canned:
    """A server that answers the n-th request with the n-th bytes, and keeps what came, byte for byte."""

    answers: list[bytes]
    seen: list[bytes] = field(default_factory=list)
    port: int = 0

    @contextmanager
    def serve(self) -> Iterator[Canned]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.port = server.getsockname()[1]
            thread = threading.Thread(target=self._run, args=(server,), daemon=True)
            thread.start()
            yield self
            server.shutdown(socket.SHUT_RDWR)
        thread.join(5)

    def _run(self, server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                request = b""
                while not request.endswith(b"\r\n\r\n"):
                    request += stream.readline()
                fields = dict(line.lower().split(b": ", 1) for line in request.split(b"\r\n")[1:] if line)
                request += stream.read(int(fields.get(b"content-length", b"0")))
                self.seen.append(request)
                connection.sendall(self.answers[len(self.seen) - 1])


def head(path: str, host: str, size: int, *more: str) -> bytes:
    lines = [
        f"POST http://{host}{path} HTTP/1.1",
        f"hOsT: {host}",
        "accept-ENCODING: gzip, deflate, br, zstd",
        f"Authorization:  Bearer {KEY}",
        "X-Odd: a",
        "x-odd: b,  c",
        "cookie: session=1; other=2",
        "OpenAI-Organization: org",
        "x-unknown-header: \xfc",
        *more,
        f"content-length: {size}",
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def body(path: str, stream: bool) -> bytes:
    """A request as nobody would write it: odd spaces, unknown fields, keys twice, escapes."""
    flag = b"true" if stream else b"false"
    content = b'"content" :"\\u00e9\\ud83d\\ude00 \xc3\xa9"'
    messages = b'[ {"role":"user",' + content + b"} ]"
    return (
        b'{ "unknown_field":1.0e0, "model":"gpt-4o" ,"model":"gpt-4o","max_tokens": 99,"input":"hi",'
        b'"stream":' + flag + b',"messages":' + messages + b',"contents":[{"parts":[{"text":"hi"}]}],\r\n\t"end":null}'
    )


def whole(data: bytes, *more: str) -> bytes:
    lines = [
        "HTTP/1.1 200 All Right",
        "Content-TYPE: application/json",
        "X-Request-Id: r",
        "set-cookie: a=1",
        "Set-Cookie: b=2",
        *more,
    ]
    return "\r\n".join([*lines, f"content-length: {len(data)}"]).encode() + b"\r\n\r\n" + data


def chunked(data: bytes, kind: str, *more: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"content-type: {kind}", "Transfer-Encoding: chunked", *more]
    third = len(data) // 3
    pieces = [data[:third], data[third : 2 * third], data[2 * third :]]
    framed = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces if p)
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + framed + b"0\r\n\r\n"


ANSWER = (
    b' {"id":"c","object":"chat.completion", "choices":[{"index":0,"message":{"role":"assistant","content":"\\u00e9"},\
"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1} }\n'
)
MESSAGE = (
    b'{"type":"message","id":"m","content":[{"type":"text","text":"hi"}],"usage":{"input_tokens":1,"output_tokens":1}}'
)
GEMINI = b'{"candidates":[{"content":{"parts":[{"text":"hi"}]},"finishReason":"STOP"}]}'
RESPONSE = b'{"id":"resp_1","object":"response","status":"completed","output":[{"type":"message","content":[]}]}'

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages?beta=true"
GENERATE = "/gemini/v1beta/models/gemini-2.5-pro:"
COMPRESSED = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstd.compress,
}
FORM = (
    b'--X\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--X\r\nContent-Disposition: form-data; '
    b'name="file"; filename="a.mp3"\r\n\r\n\x00\xff\r\n--X--\r\n'
)


def cases() -> Iterator[tuple[str, str, bytes, tuple[str, ...], bytes]]:
    """Name, path, request body, more request headers, the whole answer."""
    for path, answer in ((CHAT, ANSWER), (RESPONSES, RESPONSE), (MESSAGES, MESSAGE)):
        yield f"{path} whole", path, body(path, False), (), whole(answer)
    yield "gemini whole", GENERATE + f"generateContent?key={KEY}", body("", False), (), whole(GEMINI)
    yield "unnamed path", "/v1/models/unknown?a=%20b&c", b"{}", (), whole(b"{}")
    sse = "text/event-stream; charset=utf-8"
    for file, path in (
        ("openai.chat_completions.stream.sse", CHAT),
        ("openai.responses.stream.sse", RESPONSES),
        ("anthropic.messages.stream.sse", MESSAGES),
        ("gemini.streamGenerateContent.stream.sse", GENERATE + "streamGenerateContent?alt=sse"),
        ("openai.completions.stream.sse", "/v1/completions"),
    ):
        data = corpus.stream(file)
        yield f"{file} streamed", path, body(path, True), (), chunked(data, sse)
        for name, compress in COMPRESSED.items():
            answer = chunked(compress(data), sse, f"content-encoding: {name}")
            yield f"{file} streamed as {name}", path, body(path, True), (), answer
    array = corpus.stream("gemini.streamGenerateContent.stream.json")
    yield "array", GENERATE + "streamGenerateContent", body("", True), (), chunked(array, "application/json")
    for name, compress in COMPRESSED.items():
        request = compress(body(CHAT, False))
        answer = whole(compress(ANSWER), f"Content-Encoding: {name}")
        yield f"{name} both ways", CHAT, request, (f"content-encoding: {name}",), answer
    kind = "content-type: multipart/form-data; boundary=X"
    yield "form", "/v1/audio/transcriptions", FORM, (kind,), whole(b'{"text":"hi"}')
    yield "sound", "/v1/audio/speech", b'{"model":"tts-1","input":"hi"}', (), chunked(b"\x00\xff" * 999, "audio/mpeg")
    for status, _, error in corpus.errors("openai"):
        if 400 <= status < 500 and status not in (402, 408, 409, 425, 429):
            answer = whole(error).replace(b"200 All Right", b"%d Sorry" % status)
            yield f"error {status}", CHAT, body(CHAT, False), (), answer


CASES = list(cases())


def own(host: str) -> str:
    """Each dialect's own provider, with the app's own credential, at one host."""
    bases = {"openai": f"{host}/v1", "anthropic": host, "gemini": f"{host}/gemini"}
    text = "[circuit]\nfailure_threshold = 1000\nmin_requests = 1000\n"
    for dialect, base in bases.items():
        text += f'[[providers]]\nname = "{dialect}-own"\ndialect = "{dialect}"\nbase_url = "{base}"\n'
        text += f'[[routes]]\nintercept = ["{base}"]\nproviders = ["{dialect}-own"]\n'
    return text


def got(wire: Wire, request: bytes) -> tuple[bytes, bytes]:
    """Head without our headers, and body without its chunks' frames, as the client got them."""
    first = wire.send(request).until(b"\r\n\r\n")
    lines = [line for line in first.split(b"\r\n") if not line.lower().startswith(b"x-sidestep-")]
    fields = dict(line.lower().split(b": ", 1) for line in lines[1:] if line)
    if fields.get(b"transfer-encoding") != b"chunked":
        return b"\r\n".join(lines), wire.exactly(int(fields[b"content-length"]))
    data = b""
    while size := int(wire.until(b"\r\n"), 16):
        data += wire.exactly(size)
        wire.until(b"\r\n")
    wire.until(b"\r\n")
    return b"\r\n".join(lines), data


def test_http1(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """What the provider sees and what the app gets is the same through a bare mitmdump and through Sidestep."""
    server = Canned([answer for *_, answer in CASES for _ in range(2)])
    with server.serve():
        host = f"127.0.0.1:{server.port}"
        bare = Mitmdump(tmp_path / "bare", None, "--set", "connection_strategy=lazy", script=None)
        with bare, Mitmdump(tmp_path / "ours", own(f"http://{host}")) as ours:
            for name, path, content, more, _ in CASES:
                request = head(path, host, len(content), *more) + content
                with subtests.test(name), Wire(bare) as one, Wire(ours) as two:
                    without, within = got(one, request), got(two, request)
                    assert server.seen[-1] == server.seen[-2]
                    assert within == without
            status = ours.health()["providers"]
    assert sum(p["successes"] for p in status.values()) >= 30, "Sidestep has looked at them"
    assert len(server.seen) == 2 * len(CASES)


BEHAVIOURS = [Behaviour(), Behaviour(content_encoding="gzip"), Behaviour(status=400), Behaviour(pace=0.001)]


@pytest.mark.parametrize("version", ["h1", "h2"])
def test_http2(version: str, tmp_path: Path, subtests: pytest.Subtests) -> None:
    """The same with a client over HTTP/2, whole and streamed, to servers of both versions."""
    internet = Internet(tmp_path)
    ca = trustme.CA()
    provider = Provider("p", tls=internet.tls("llm.test")) if version == "h1" else H2Provider("p", ca)
    if version == "h2":
        provider.tls = server_context(ca, "llm.test", "h2")
    with provider:
        internet.places = {"llm.test": provider.port}
        options = internet.options(ca)
        bare = Mitmdump(tmp_path / "bare", None, *options, "--set", "connection_strategy=lazy", script=None)
        with bare, Mitmdump(tmp_path / "ours", own("https://llm.test"), *options) as ours:
            for behaviour in BEHAVIOURS:
                for stream in (False, True):
                    with subtests.test(str(behaviour), stream=stream):
                        provider.default = behaviour
                        found = []
                        for m in (bare, ours):
                            with H2Client(m, "llm.test") as app:
                                answer = app.answer(app.chat(stream=stream, key=KEY, unknown=[1.0, None]))
                            ours_only = [k for k in answer.headers if k.startswith("x-sidestep-")]
                            assert bool(ours_only) == (m is ours)
                            kept = [(k, v) for k, v in answer.headers.items() if k not in ours_only]
                            seen = provider.requests[-1]
                            found.append((answer.status, kept, bytes(answer.body), seen.raw_head, seen.body))
                        assert found[0] == found[1]
