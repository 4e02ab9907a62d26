"""Two attempts of one call, event by event: one answer, one winner, no permit out, none of the loser's bytes."""

from __future__ import annotations

import pytest
from mitmproxy.connection import ConnectionState

from sidestep.breaker.circuit import State
from sidestep.routing.lateness import kind_of
from support.driver import Driver
from support.world import toml

LATE = 10.0
"""`after_seconds` by default: nothing has been learnt yet."""


def asked(*, stream: bool = True) -> bytes:
    body = b'{"model":"m","stream":%s,"messages":[{"role":"user","content":"hi"}]}' % (b"true" if stream else b"false")
    return (
        b"POST http://app.test/v1/chat/completions HTTP/1.1\r\nHost: app.test\r\nAuthorization: Bearer app-key-0123\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    )


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
PING = chunk(b": ping\n\n")
END = chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
BROKEN = b"HTTP/1.1 503 no\r\nContent-Length: 0\r\n\r\n"
MISTAKE = b'{"error":{"message":"no such field","type":"invalid_request_error"}}'


def said(word: bytes) -> bytes:
    return chunk(b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % word)


def refused(body: bytes) -> bytes:
    return b"HTTP/1.1 400 no\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


@pytest.fixture
def driver() -> Driver:
    return Driver(toml("priority", "attempts = { per_provider = 1 }", a="", b="", c=""))


def late(driver: Driver, call: bytes | None = None) -> None:
    """A call whose first provider has said nothing for so long that a second one is asked."""
    driver.says(driver.client, asked() if call is None else call)
    driver.passes(LATE + 0.1)
    assert [s.address for s in driver.servers] == [("a.test", 80), ("b.test", 80)]
    assert driver.answer() == b""


def trail(driver: Driver) -> list[tuple[str, str, str]]:
    """What was counted of attempts that are over: provider, kind and reason."""
    return sorted((name, str(kind), reason) for name, kind, reason in driver.engine.attempts_total)


def is_clean(driver: Driver) -> bool:
    """Nothing is left of the call: no attempt, no permit, no stream."""
    circuits = [driver.engine.guard(p, "m") for p in driver.engine.settings.providers]
    permits = [c.snapshot(driver.now).permits_out for guard in circuits for c in guard.circuits]
    return not driver.engine.in_flight and not any(permits) and not driver.layer.streams and not driver.calls.sessions


def test_who_brings_content_first_is_the_answer_and_the_late_one_is_cancelled(driver: Driver) -> None:
    late(driver)
    a, b = driver.servers
    driver.says(b, HEAD + said(b"from b"))
    got = driver.answer()
    assert b"from b" in got
    assert b"x-sidestep-provider: b\r\n" in got
    assert b"x-sidestep-attempts: a:slow, b:200\r\n" in got
    assert driver.closed == [a]
    driver.says(b, END)
    assert driver.hooks == ["requestheaders", "request", "responseheaders", "response"]
    assert trail(driver) == [("a", "slow", "slow"), ("b", "success", "ok")]
    assert dict(driver.engine.hedges_total) == {("b", "won"): 1}
    assert is_clean(driver)


USAGE = chunk(b'data: {"choices":[],"usage":{"prompt_tokens":31,"completion_tokens":2,"total_tokens":33}}\n\n')


@pytest.mark.parametrize(("winner", "loser"), [(1, "a"), (0, "b")])
def test_the_prompt_that_was_read_in_vain_is_told(driver: Driver, winner: int, loser: str) -> None:
    late(driver)
    driver.says(driver.servers[winner], HEAD + said(b"good") + USAGE + END)
    assert dict(driver.engine.wasted_tokens) == {loser: 31}


def test_the_late_one_wins_where_it_is_first_after_all(driver: Driver) -> None:
    late(driver)
    a, b = driver.servers
    driver.says(a, HEAD + said(b"from a"))
    got = driver.answer()
    assert b"from a" in got
    assert b"x-sidestep-provider: a\r\n" in got
    assert driver.closed == [b]
    driver.says(a, END)
    assert trail(driver) == [("a", "success", "ok"), ("b", "neutral", "hedge_lost")]
    assert dict(driver.engine.hedges_total) == {("b", "lost"): 1}
    assert is_clean(driver)


def test_what_the_loser_still_says_reaches_nobody(driver: Driver) -> None:
    late(driver)
    a, b = driver.servers
    driver.says(a, HEAD + PING)
    driver.answer()
    driver.says(b, HEAD + said(b"from b"))
    driver.answer()
    a.state = ConnectionState.OPEN
    driver.says(a, said(b"from a") + END)
    assert driver.answer() == b""
    driver.says(b, END)
    assert b"from a" not in driver.answer()
    assert is_clean(driver)


def test_both_in_the_same_instant(driver: Driver) -> None:
    late(driver)
    a, b = driver.servers
    driver.says(a, HEAD)
    driver.says(b, HEAD)
    driver.says(a, said(b"from a") + END)
    driver.says(b, said(b"from b") + END)
    got = driver.answer()
    assert (b"from a" in got, b"from b" in got) == (True, False)
    assert is_clean(driver)


@pytest.mark.parametrize("first", [0, 1])
def test_where_one_fails_the_other_goes_on_and_no_third_is_asked(driver: Driver, first: int) -> None:
    late(driver)
    driver.says(driver.servers[first], BROKEN)
    assert (driver.answer(), len(driver.servers)) == (b"", 2)
    other = driver.servers[1 - first]
    driver.says(other, HEAD + said(b"good") + END)
    got = driver.answer()
    assert b"good" in got
    assert (b"x-sidestep-provider: " + (b"b", b"a")[first]) in got
    assert "sidestep_next" not in driver.hooks
    assert is_clean(driver)


@pytest.mark.parametrize("first", [0, 1])
def test_where_both_fail_the_next_is_asked(driver: Driver, first: int) -> None:
    late(driver)
    driver.says(driver.servers[first], BROKEN)
    driver.says(driver.servers[1 - first], BROKEN)
    assert driver.servers[2].address == ("c.test", 80)
    driver.says(driver.servers[2], HEAD + said(b"from c") + END)
    assert b"from c" in driver.answer()
    assert driver.hooks.count("sidestep_next") == 1
    assert is_clean(driver)


def test_where_all_fail_the_app_gets_the_best_of_them(driver: Driver) -> None:
    late(driver)
    for at in (0, 1, 2):
        driver.says(driver.servers[at], BROKEN)
    assert driver.answer().startswith(b"HTTP/1.1 503 ")
    assert is_clean(driver)


def test_a_refusal_by_a_stand_in_does_not_end_a_call_that_its_own_provider_may_answer(driver: Driver) -> None:
    late(driver)
    driver.says(driver.servers[1], refused(MISTAKE))
    assert driver.answer() == b""
    driver.says(driver.servers[0], HEAD + said(b"from a") + END)
    assert b"from a" in driver.answer()
    assert is_clean(driver)


def test_a_refusal_by_the_late_one_is_the_app_s(driver: Driver) -> None:
    """At once, as it would be if no other had been asked."""
    late(driver)
    driver.says(driver.servers[0], refused(MISTAKE))
    assert driver.answer().endswith(MISTAKE)
    assert driver.servers[1] in driver.closed
    assert is_clean(driver)


def test_a_second_one_is_asked_once_a_call(driver: Driver) -> None:
    late(driver)
    for _ in range(10):
        driver.passes(5)
    assert len(driver.servers) == 2


def test_an_app_that_leaves_takes_both_along(driver: Driver) -> None:
    late(driver)
    a, b = driver.servers
    driver.leaves(driver.client)
    assert set(driver.closed) >= {a, b}
    assert trail(driver) == [("a", "neutral", "client_gone"), ("b", "neutral", "client_gone")]
    assert is_clean(driver)


def test_a_connect_that_hangs_is_late_as_well(driver: Driver) -> None:
    driver.connects = False
    driver.layer.connecting_for = lambda asking: 1.0  # type: ignore[method-assign]  # its clock is the system's
    known(driver)
    driver.says(driver.client, asked())
    (hanging,) = driver.opening
    driver.connects = True
    driver.passes(LATE_WHEN_KNOWN + 0.1)
    (b,) = driver.servers
    driver.says(b, HEAD + said(b"from b") + END)
    assert b"from b" in driver.answer()
    assert hanging.connection in driver.closed
    assert ("a", "slow", "slow") in trail(driver)
    assert is_clean(driver)


LATE_WHEN_KNOWN = 2.2
"""Four times half a second, as near as the sketch has it."""


def known(driver: Driver, *, stream: bool = True) -> None:
    """`a` usually brings content after half a second."""
    kind = kind_of("a", "m", stream=stream, body_bytes=len(asked(stream=stream)))
    for _ in range(50):
        driver.engine.times.began(kind, 0.4, 0.5, driver.now)


@pytest.mark.parametrize("stream", [True, False])
def test_what_is_late_is_learnt(driver: Driver, stream: bool) -> None:
    known(driver, stream=stream)
    driver.says(driver.client, asked(stream=stream))
    driver.passes(1.4)
    assert len(driver.servers) == 1
    driver.passes(0.8)
    assert len(driver.servers) == 2


def test_a_whole_answer_is_late_where_it_breaks_off_in_silence(driver: Driver) -> None:
    """As long as it comes, however slowly, it is not."""
    known(driver, stream=False)
    driver.says(driver.client, asked(stream=False))
    a = driver.servers[0]
    driver.says(a, b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n")
    driver.passes(1.5)
    driver.says(a, b'{"choices": [{')
    driver.passes(1.5)
    driver.says(a, b'"message": {')
    driver.passes(LATE_WHEN_KNOWN - 0.3)
    assert len(driver.servers) == 1
    driver.passes(0.4)
    assert len(driver.servers) == 2


def test_of_whole_answers_nothing_is_late_before_one_was_seen(driver: Driver) -> None:
    driver.says(driver.client, asked(stream=False))
    driver.passes(60)
    assert len(driver.servers) == 1


def test_a_provider_that_gives_signs_of_life_is_not_late_while_too_little_is_known(driver: Driver) -> None:
    driver.says(driver.client, asked())
    driver.says(driver.servers[0], HEAD)
    for _ in range(4):
        driver.passes(5)
        driver.says(driver.servers[0], PING)
    assert len(driver.servers) == 1
    driver.passes(LATE + 0.1)
    assert len(driver.servers) == 2


def test_the_app_sees_one_stream_where_the_late_one_gives_signs_of_life(driver: Driver) -> None:
    driver.says(driver.client, asked())
    a = driver.servers[0]
    driver.says(a, HEAD)
    driver.passes(3)
    driver.says(a, PING)
    driver.passes(LATE + 0.1)
    driver.says(a, PING)
    driver.says(driver.servers[1], HEAD + said(b"from b") + END)
    got = driver.answer()
    assert got.count(b"HTTP/1.1 200") == 1
    assert (got.count(b"from b"), got.endswith(b"0\r\n\r\n")) == (1, True)
    assert is_clean(driver)


def test_the_budget_bounds_second_attempts(driver: Driver) -> None:
    """Three at once, then a twentieth of the requests."""
    for _ in range(5):
        driver.says(driver.client, asked())
        driver.passes(LATE + 0.1)
        before = len(driver.servers)
        driver.says(driver.servers[-1], HEAD + said(b"x") + END)
        driver.answer()
        assert before == len(driver.servers)
    assert sum(driver.engine.hedges_total.values()) == 3


def test_with_nothing_to_spend_no_call_waits_for_one_that_hangs(driver: Driver) -> None:
    """It goes to the next provider at once, and back when the first answers again."""
    for _ in range(3):
        driver.says(driver.client, asked())
        driver.passes(LATE + 0.1)
        driver.says(driver.servers[-1], HEAD + said(b"x") + END)
        driver.answer()
    asked_of = []
    for _ in range(25):
        driver.says(driver.client, asked())
        asked_of.append(driver.servers[-1].address)
        driver.says(driver.servers[-1], HEAD + said(b"x") + END)
        driver.answer()
    assert asked_of[:3] == [("b.test", 80)] * 3
    assert asked_of[-1] == ("a.test", 80)
    assert len(driver.engine.hanging) == 0


@pytest.mark.parametrize(("seconds", "hangs"), [(LATE - 1, 1), (LATE + 1, 0)])
def test_one_that_is_as_slow_as_all_are_does_not_hang(seconds: float, hangs: int, driver: Driver) -> None:
    driver.says(driver.client, asked())
    driver.passes(LATE + 0.1)
    driver.passes(seconds)
    driver.says(driver.servers[-1], HEAD + said(b"x") + END)
    driver.answer()
    assert len(driver.engine.hanging) == hangs


def test_what_was_spent_beside_one_that_then_failed_is_given_back(driver: Driver) -> None:
    late(driver)
    driver.says(driver.servers[0], BROKEN)
    assert repr(driver.engine.budget) == "Budget(3.00 of 3)"


def test_a_slow_one_counts_for_the_rate_of_its_circuit_and_opens_none_by_itself(driver: Driver) -> None:
    late(driver)
    driver.says(driver.servers[1], HEAD + said(b"x") + END)
    (circuit,) = driver.engine.circuits_of_models(driver.engine.settings.providers[0]).values()
    seen = circuit.snapshot(driver.now)
    assert (seen.failures, seen.failure_count, str(seen.state)) == (1, 0, "closed")


@pytest.mark.parametrize("what", ["hedge = { enabled = false }", "hedge = { after_seconds = 100 }"])
def test_it_can_be_turned_off_and_set(what: str) -> None:
    driver = Driver(toml("priority", "attempts = { per_provider = 1 }", a=what, b=""))
    driver.says(driver.client, asked())
    driver.passes(50)
    assert len(driver.servers) == 1


def test_a_stand_in_whose_circuit_is_not_closed_is_not_asked(driver: Driver) -> None:
    driver.says(driver.client, asked())
    for name in ("b", "c"):
        driver.engine.hold(name, State.FORCED_OPEN)
    driver.passes(LATE + 0.1)
    assert len(driver.servers) == 1
    assert repr(driver.engine.budget) == "Budget(3.00 of 3)"
    driver.engine.hold("b", None)
    driver.passes(2.1)
    assert driver.servers[-1].address == ("b.test", 80)


def test_a_whole_stream_that_comes_far_too_slowly_is_overtaken() -> None:
    """`commit = "complete"`: who is through first is the answer."""
    driver = Driver(toml("priority", 'stream = { commit = "complete" }', a="", b=""))
    kind = kind_of("a", "m", stream=True, body_bytes=len(asked()))
    for _ in range(50):
        driver.engine.times.paced(kind, 10_240, 1.0, driver.now)
    driver.says(driver.client, asked())
    a = driver.servers[0]
    driver.says(a, HEAD + said(b"from a"))
    for _ in range(4):
        driver.passes(1)
        driver.says(a, said(b"a"))
    assert len(driver.servers) == 1
    driver.passes(3)
    assert len(driver.servers) == 2
    b = driver.servers[1]
    driver.says(b, HEAD + said(b"from b"))
    driver.says(a, said(b"still a"))
    driver.says(b, END)
    got = driver.answer()
    assert (got.count(b"from b"), got.count(b"from a"), got.count(b"still a")) == (1, 0, 0)
    assert ("a", "slow", "slow") in trail(driver)
    assert is_clean(driver)


@pytest.mark.parametrize(("end", "status"), [(b"0\r\n\r\n", b"502"), (END, b"200")])
def test_a_part_of_a_stream_is_nobody_s_last_word(end: bytes, status: bytes) -> None:
    """`commit = "complete"`: given to the app as it came, it would look whole."""
    driver = Driver(toml("priority", 'stream = { commit = "complete" }\nattempts = { per_provider = 1 }', a=""))
    driver.says(driver.client, asked())
    driver.says(driver.servers[0], HEAD + said(b"from a") + end)
    assert driver.answer().startswith(b"HTTP/1.1 " + status)
    assert is_clean(driver)


def test_an_app_that_gave_up_and_asks_again_starts_at_another() -> None:
    driver = Driver(toml("priority", "attempts = { per_provider = 1 }\n[hedge]\nenabled = false", a="", b=""))
    driver.says(driver.client, asked())
    driver.passes(5)
    driver.leaves(driver.client)
    again = Driver("", driver.engine)
    again.now = driver.now
    again.says(again.client, asked())
    assert again.servers[-1].address == ("b.test", 80)
