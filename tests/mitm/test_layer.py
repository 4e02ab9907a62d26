"""Attempts inside mitmproxy's layers, event by event: connects, idle connections, and apps that leave."""

from __future__ import annotations

import gzip
import time

import pytest
from mitmproxy.proxy.layers.http import GetHttpConnection

from sidestep.mitm import protocols
from support.driver import Driver
from support.world import toml

BODY = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
CALL = (
    b"POST http://app.test/v1/chat/completions HTTP/1.1\r\nHost: app.test\r\nAuthorization: Bearer app-key-0123\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
)
GOOD = b'{"id":"c","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"hi"}}]}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(GOOD), GOOD)
BROKEN = b"HTTP/1.1 503 no\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
def driver() -> Driver:
    return Driver(toml("priority", "attempts = { per_provider = 1 }", a="", b=""))


def states(driver: Driver) -> dict[str, tuple[int, int]]:
    """Failures, and permits of the circuit for reaching it that are out, by provider."""
    found = {}
    for provider in driver.engine.settings.providers:
        own = driver.engine.circuit_of(provider).snapshot(driver.now)
        models = [c.snapshot(driver.now) for c in driver.engine.circuits_of_models(provider).values()]
        found[provider.name] = (own.failures + sum(m.failures for m in models), own.permits_out)
    return found


CLEAN = {"a": (0, 0), "b": (0, 0)}


def test_a_call_and_its_answer(driver: Driver) -> None:
    driver.says(driver.client, CALL)
    (server,) = driver.servers
    assert b"app-key" not in driver.sent[server]
    assert driver.sent[server].endswith(BODY)
    driver.says(server, ANSWER)
    assert driver.answer().endswith(GOOD)
    assert driver.hooks == ["requestheaders", "request", "responseheaders", "response"]
    assert (states(driver), driver.engine.in_flight) == (CLEAN, set())


def test_hooks_that_are_over_at_once_pause_nothing() -> None:
    """Only the next attempt is made once all that its failed one's server has said is taken in."""
    driver = Driver(toml("priority", "attempts = { per_provider = 1 }", a="", b=""), at_once=True)
    driver.says(driver.client, CALL)
    driver.says(driver.servers[0], BROKEN)
    driver.says(driver.servers[1], ANSWER)
    assert driver.answer().endswith(GOOD)
    assert driver.hooks == ["requestheaders", "request", "sidestep_next", "responseheaders", "response"]
    assert driver.later == ["sidestep_next"]
    driver.says(driver.client, CALL)
    driver.says(driver.servers[0], ANSWER)
    assert driver.answer().endswith(GOOD)


def test_a_client_that_does_not_wait_for_answers() -> None:
    """Its next call is read while the answer before it ends: only then its connection is ready for another."""
    driver = Driver(toml(a=""), at_once=True)
    driver.says(driver.client, CALL + CALL)
    for _ in range(2):
        assert driver.sent[driver.servers[0]].count(b"POST ") == 1
        driver.sent[driver.servers[0]] = b""
        driver.says(driver.servers[0], ANSWER)
        assert driver.answer().endswith(GOOD)
    assert len(driver.servers) == 1


def test_the_next_attempt_takes_the_connection_of_the_failed_one() -> None:
    """It is not asked for amid the end of the failed answer, when the connection is not ready for another request."""
    text = toml("priority", "attempts = { per_provider = 1 }", a="", b="").replace("http://b.test/", "http://a.test/")
    driver = Driver(text, at_once=True)
    for broken in (BROKEN, b"HTTP/1.1 503 no\r\nContent-Length: 2\r\n\r\n{}"):
        driver.says(driver.client, CALL)
        (server,) = driver.servers
        assert driver.sent.pop(server).count(b"POST ") == 1
        driver.says(server, broken)
        assert (driver.answer(), driver.sent.pop(server).count(b"POST ")) == (b"", 1)
        driver.says(server, ANSWER)
        assert driver.answer().endswith(GOOD)
    assert (len(driver.servers), driver.closed) == (1, [])
    assert states(driver) == {"a": (2, 0), "b": (0, 0)}


@pytest.mark.parametrize("by_user", [False, True])
def test_an_unread_call_that_ends_before_its_answer_leaves_nothing(by_user: bool, driver: Driver) -> None:
    """Whether its app leaves or a user kills its flow."""
    driver.says(driver.client, CALL.replace(b'{"model"', b'["model"'))
    (server,) = driver.servers
    assert driver.calls._passing
    if by_user:
        (stream,) = driver.layer.streams.values()
        stream.flow.kill()
        driver.says(server, ANSWER)
    else:
        driver.leaves(driver.client)
    assert driver.hooks[-1] == "error"
    assert (driver.calls._passing, driver.calls.sessions) == (set(), {})


def test_a_503_moves_on_before_the_app_has_seen_a_byte(driver: Driver) -> None:
    driver.says(driver.client, CALL)
    driver.says(driver.servers[0], BROKEN)
    assert driver.answer() == b""
    driver.says(driver.servers[1], ANSWER)
    assert driver.answer().endswith(GOOD)
    assert driver.hooks == ["requestheaders", "request", "sidestep_next", "responseheaders", "response"]
    assert states(driver) == {"a": (1, 0), "b": (0, 0)}


def test_an_idle_connection_that_ends_at_reuse_is_no_failure(driver: Driver) -> None:
    """The same attempt goes out once more, on a connection that is made for it; a second end is a failure."""
    driver.says(driver.client, CALL)
    driver.says(driver.servers[0], ANSWER)
    driver.answer()
    driver.says(driver.client, CALL)
    assert len(driver.servers) == 1
    driver.leaves(driver.servers[0])
    assert len(driver.servers) == 2
    assert (driver.answer(), states(driver)["a"]) == (b"", (0, 1))
    driver.leaves(driver.servers[1])
    assert states(driver)["a"] == (1, 0)


def test_a_server_that_has_worked_on_a_request_before_it_ends_has_failed(driver: Driver) -> None:
    driver.says(driver.client, CALL)
    driver.says(driver.servers[0], ANSWER)
    driver.says(driver.client, CALL)
    driver.now += 3
    driver.leaves(driver.servers[0])
    assert states(driver)["a"] == (1, 0)


def test_a_connect_that_is_late_is_broken_off(driver: Driver) -> None:
    """The next provider is asked, and what the late one reports afterwards changes nothing."""
    driver.connects = False
    driver.says(driver.client, CALL)
    (late,) = driver.opening
    driver.layer.connecting_for = lambda asking: 5.0  # type: ignore[method-assign]  # its clock is the system's
    driver.connects = True
    driver.passes(5.1)
    assert driver.closed == [late.connection]
    driver.feed(driver.connected(late))
    assert driver.sent[late.connection] == b""
    driver.says(driver.servers[0], ANSWER)
    assert driver.answer().endswith(GOOD)
    assert states(driver) == {"a": (1, 0), "b": (0, 0)}


def test_an_app_that_leaves_amid_a_connect_takes_its_request_along(driver: Driver) -> None:
    """At once, not when the connect is over: the permit is back, and nothing is sent."""
    driver.connects = False
    driver.says(driver.client, CALL)
    (asked,) = driver.opening
    driver.leaves(driver.client)
    assert (states(driver), driver.engine.in_flight) == (CLEAN, set())
    assert asked.connection in driver.closed
    driver.feed(driver.connected(asked))
    assert driver.sent[asked.connection] == b""
    assert not driver.layer.streams


def test_what_is_withdrawn_is_found_by_identity(driver: Driver) -> None:
    """Commands that ask for the same address are equal: another request's must stay."""
    driver.connects = False
    driver.says(driver.client, CALL)
    (connection,) = driver.layer.waiting_for_establishment
    (first,) = driver.layer.waiting_for_establishment[connection]
    second = GetHttpConnection(first.address, first.tls, first.via, first.transport_protocol)
    assert second == first
    driver.layer.waiting_for_establishment[connection].append(second)
    assert list(driver.layer.withdraw(first)) == []
    assert driver.layer.waiting_for_establishment[connection][0] is second


def _streamed(driver: Driver, *pieces: bytes) -> bytes:
    """What an app that asks for a stream is sent of an answer in these pieces, head and all."""
    more = b'"stream":true,'
    length = b"%d" % (len(BODY) + len(more))
    driver.says(driver.client, CALL.replace(b'"m",', b'"m",' + more).replace(b"%d" % len(BODY), length))
    for piece in pieces:
        driver.says(driver.servers[-1], piece)
    return driver.answer()


WORD = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
FAILED = b'data: {"error":{"message":"m"}}\n\n'


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize("together", [False, True])
def test_an_error_where_no_event_of_ours_could_end_the_stream(together: bool, encoded: bool, driver: Driver) -> None:
    """Its provider's own goes on, and all that follows, also where it comes together with the first word."""
    parts = [gzip.compress(p, mtime=0) if encoded else p for p in (WORD, FAILED, b"data: [DONE]\n\n")]
    fields = b"Content-Encoding: gzip\r\n" if encoded else b""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n" % len(b"".join(parts))
    pieces = [parts[0] + parts[1], parts[2]] if together else parts
    assert _streamed(driver, head + fields + b"\r\n", *pieces).endswith(b"\r\n\r\n" + b"".join(parts))
    assert driver.client not in driver.closed
    assert states(driver)["a"] == (1, 0)


@pytest.mark.parametrize("junk", [b"data: [DONE", b"data: {not json\n\n", b"data: {}\n\ndata: {"])
def test_a_stream_without_a_word_is_handed_over_as_it_came(junk: bytes) -> None:
    """What a good stream would be rid of stays: it may be all that there is to see of what went wrong."""
    alone = Driver(toml("priority", "attempts = { per_provider = 1 }", a=""))
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % len(junk)
    assert _streamed(alone, head, junk[:5], junk[5:]).endswith(b"\r\n\r\n" + junk)
    assert states(alone)["a"] == (1, 0)


@pytest.mark.parametrize(
    ("kind", "flows"),
    [(b"text/event-stream; charset=utf-8", True), (b"application/x-ndjson", True), (b"image/png", False)],
)
def test_a_stream_of_a_call_that_is_not_routed(kind: bytes, flows: bool, driver: Driver) -> None:
    """It flows, though mitmproxy would collect it, and bears no mark of ours."""
    driver.says(driver.client, b"GET http://app.test/v1/responses/r?stream=true HTTP/1.1\r\nHost: app.test\r\n\r\n")
    head = b"HTTP/1.1 200 OK\r\nContent-Type: " + kind + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    driver.says(driver.servers[0], head + b"3\r\none\r\n")
    assert (b"one" in driver.answer()) is flows
    driver.says(driver.servers[0], b"3\r\ntwo\r\n0\r\n\r\n")
    assert b"two" in (last := driver.answer())
    assert b"x-sidestep" not in last


# --- heads without an end


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("interim", [b"103 Early Hints\r\nlink: </a>", b"100 Continue", b"199 x"])
def test_some_informational_heads_are_passed_over(driver: Driver, interim: bytes, size: int) -> None:
    """However they are cut; and again before the next answer on the same connection."""
    came = (b"HTTP/1.1 " + interim + b"\r\n\r\n") * protocols.MAX_INFORMATIONAL + ANSWER
    for _ in range(2):
        driver.says(driver.client, CALL)
        for at in range(0, len(came), size):
            driver.says(driver.servers[0], came[at : at + size])
        assert driver.answer().endswith(GOOD)
    assert (len(driver.servers), states(driver)) == (1, CLEAN)


@pytest.mark.parametrize("size", [50, 1 << 20])
@pytest.mark.parametrize(
    "came",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" * (protocols.MAX_INFORMATIONAL + 1),
        b"HTTP/1.1 100 Continue\r\n\r\n" * (protocols.MAX_INFORMATIONAL + 1) + ANSWER,
        b"HTTP/1.1 103 Hints\r\nlink: " + b"a" * protocols.MAX_HEAD_BYTES,
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * protocols.MAX_HEAD_BYTES,
        b"\0" * (protocols.MAX_HEAD_BYTES + 1),
    ],
    ids=["informational", "informational, then an answer", "a long informational one", "a long one", "no head"],
)
def test_a_head_without_an_end_is_no_answer(driver: Driver, came: bytes, size: int) -> None:
    """The provider has failed, at once, and the next one answers."""
    driver.says(driver.client, CALL)
    for at in range(0, len(came), size):
        if driver.servers[0] not in driver.closed:
            driver.says(driver.servers[0], came[at : at + size])
    driver.says(driver.servers[1], ANSWER)
    assert driver.answer().endswith(GOOD)
    assert driver.closed == [driver.servers[0]]
    assert states(driver) == {"a": (1, 0), "b": (0, 0)}


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\nx: ", b"HTTP/1.1 103 Hints\r\nlink: "])
def test_a_head_that_grows_byte_by_byte_takes_no_time(driver: Driver, start: bytes) -> None:
    """What has come before is not gone through again."""
    driver.says(driver.client, CALL)
    driver.says(driver.servers[0], start + b"a" * (protocols.MAX_HEAD_BYTES - 20_000))
    began = time.process_time()
    for _ in range(10_000):
        driver.says(driver.servers[0], b"a")
    assert time.process_time() - began < 1.2
    assert not driver.closed
