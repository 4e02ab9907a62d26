"""A bug of ours where an answer is read or counted: the answer goes on as it came, nothing is held for good, and it is
logged once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sidestep import status
from sidestep.calls import watching
from sidestep.dialects.openai import OpenAI
from sidestep.dialects.openai_streams import ChatReader
from sidestep.routing import exchange, prices
from support.driver import Driver
from support.world import toml

SAID = '{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":%s}'
WHOLE = b'{"id":"c","choices":[{"index":0,"message":{"role":"assistant","content":"hi"}}],"usage":{"prompt_tokens":1}}'
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n'
EVENTS = [EVENT % b"one", EVENT % b"two", EVENT % b"three"]
END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


def call(*, stream: bool) -> bytes:
    body = (SAID % str(stream).lower()).encode()
    return b"POST http://app.test/v1/chat/completions HTTP/1.1\r\nHost: app.test\r\nContent-Length: %d\r\n\r\n%s" % (
        len(body),
        body,
    )


def head(kind: bytes, length: int | None = None, code: bytes = b"200 OK", more: bytes = b"") -> bytes:
    framing = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
    return b"HTTP/1.1 %s\r\nContent-Type: %s\r\n%s%s\r\n\r\n" % (code, kind, more, framing)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def fails(*_: object, **__: object) -> Any:
    raise OverflowError("sk-a-secret and a prompt")


def assert_clean(driver: Driver, log: str, where: str) -> None:
    engine = driver.engine
    assert engine.in_flight == set()
    assert not engine.out
    for provider in engine.settings.providers:
        assert status.provider_status(engine, provider, driver.now)["permits_out"] == 0
    assert b"sidestep_attempts_in_flight 0" in status.metrics(engine, driver.now)
    assert not driver.calls.sessions
    assert log.count("internal error") == 1, log
    assert f"internal error in {where} (OverflowError at test_bugs.py:" in log
    assert "secret" not in log


@pytest.fixture
def driver() -> Driver:
    return Driver(toml("priority", "attempts = { per_provider = 1 }", a="", b=""))


Patch = Callable[[pytest.MonkeyPatch], None]
COUNTING: dict[str, tuple[Patch, str]] = {
    "the price": (lambda m: m.setattr(prices, "cost", fails), "finish"),
    "the limits that it tells": (lambda m: m.setattr(exchange, "exhausted", fails), "settled"),
    "the plan that it tells": (lambda m: m.setattr(exchange, "windows", fails), "settled"),
}


@pytest.mark.parametrize("what", COUNTING)
@pytest.mark.parametrize("stream", [False, True])
def test_what_an_answer_teaches(
    what: str, stream: bool, driver: Driver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is lost, and nothing else."""
    patch, where = COUNTING[what]
    patch(monkeypatch)
    limits = b"x-ratelimit-remaining-requests: 0\r\nx-codex-primary-used-percent: 1\r\n"
    for _ in range(2):
        driver.says(driver.client, call(stream=stream))
        if stream:
            driver.says(driver.servers[-1], head(b"text/event-stream", more=limits) + chunk(EVENTS[0]))
            assert EVENTS[0] in driver.answer()
            usage = b'data: {"choices":[],"usage":{"prompt_tokens":1}}\n\n'
            driver.says(driver.servers[-1], chunk(END.replace(b"data: [DONE]", usage + b"data: [DONE]")) + chunk(b""))
            assert b"[DONE]" in driver.answer()
        else:
            driver.says(driver.servers[-1], head(b"application/json", len(WHOLE), more=limits) + WHOLE)
            assert driver.answer().endswith(WHOLE)
    assert len(driver.servers) == 1
    assert_clean(driver, caplog.text, where)
    assert driver.engine.attempts_total.total() == 2


@pytest.mark.parametrize("failing", [0, 1, 2, 3])
def test_an_event_that_we_fail_on(
    failing: int, driver: Driver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whichever it is, the first, or the one that ends the answer: all events go on, and no error comes after them."""
    read, seen = ChatReader.read, []

    def once(reader: ChatReader, name: bytes, data: bytes) -> Any:
        seen.append(data)
        return fails() if data in (*EVENTS, END)[failing] else read(reader, name, data)

    monkeypatch.setattr(ChatReader, "read", once)
    driver.says(driver.client, call(stream=True))
    driver.says(driver.servers[-1], head(b"text/event-stream"))
    for event in (*EVENTS, END):
        driver.says(driver.servers[-1], chunk(event))
    driver.says(driver.servers[-1], chunk(b""))
    answer = driver.answer()
    assert [e for e in (*EVENTS, *END.split(b"\n\n")) if e not in answer] == []
    assert b"error" not in answer
    assert len(driver.servers) == 1
    assert_clean(driver, caplog.text, "reading")


def test_a_whole_answer_that_we_fail_on(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is the app's, unread."""
    monkeypatch.setattr(OpenAI, "judge_answer", fails)
    driver.says(driver.client, call(stream=False))
    driver.says(driver.servers[-1], head(b"application/json", len(WHOLE)) + WHOLE)
    assert driver.answer().endswith(WHOLE)
    assert len(driver.servers) == 1
    assert_clean(driver, caplog.text, "reading")


@pytest.mark.parametrize(("name", "of"), [("read_error", OpenAI), ("retry_after", watching)])
def test_an_error_that_we_fail_on(
    name: str, of: object, driver: Driver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its status says enough: another provider is asked."""
    monkeypatch.setattr(of, name, fails)
    driver.says(driver.client, call(stream=False))
    driver.says(driver.servers[-1], head(b"application/json", 2, b"503 Oh") + b"{}")
    driver.says(driver.servers[-1], head(b"application/json", len(WHOLE)) + WHOLE)
    assert driver.answer().endswith(WHOLE)
    assert len(driver.servers) == 2
    assert_clean(driver, caplog.text, "reading")


@pytest.mark.parametrize("code", [b"0", b"099", b"-1", b"1000", b"9" * 400])
def test_a_status_that_is_none(code: bytes, driver: Driver) -> None:
    """It is no answer: another provider is asked, and nothing counts with that number."""
    driver.says(driver.client, call(stream=False))
    driver.says(driver.servers[-1], head(b"application/json", len(WHOLE), code + b" OK") + WHOLE)
    driver.says(driver.servers[-1], head(b"application/json", len(WHOLE)) + WHOLE)
    assert driver.answer().startswith(b"HTTP/1.1 200 OK")
    assert len(driver.servers) == 2
    assert {reason for _, _, reason in driver.engine.attempts_total} == {"bad_response", "ok"}
