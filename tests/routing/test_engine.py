"""What is known of the providers: what a settled attempt changes, whom it wakes, and what is forgotten."""

from __future__ import annotations

import pytest

from sidestep.breaker import judging
from sidestep.breaker.circuit import State
from sidestep.breaker.outcomes import Kind, Outcome, Then
from sidestep.dialects.base import Usage
from sidestep.routing import engine as engines
from sidestep.routing.engine import Attempt, Refused
from sidestep.routing.exchange import Exchange, Exhausted, Wait
from sidestep.routing.table import NOBODY, Issued
from support.world import World, toml

DOWN = Outcome(Kind.FAILURE, "http_5xx", Then.NEXT, 503)
NO_SUCH_MODEL = Outcome(Kind.NEUTRAL, "unknown_model", Then.NEXT, 404)
CIRCUIT = '[circuit]\nfailure_threshold = 1\nopen_seconds = 20\nscope = "provider"'


def world(names: str = "ab", top: str = CIRCUIT) -> World:
    return World(toml("priority", top, **dict.fromkeys(names, "")))


def begin(w: World, exchange: Exchange | None = None) -> Attempt:
    attempt = (exchange or w.exchange()).next(w.now)
    assert isinstance(attempt, Attempt), attempt
    return attempt


# --- waking


def test_who_waits_for_a_probe_is_woken_when_it_closes_the_circuit() -> None:
    """By then there is room: whoever is woken and asks at once gets its attempt."""
    w = world("a")
    w.call(failing="a")
    w.now += 20
    prober, waiter = w.exchange(), w.exchange()
    probe = begin(w, prober)
    assert waiter.next(w.now) == Wait(10.0, "probe", on_change=True)
    woken: list[object] = []
    w.engine.changed.add(lambda: woken.append(waiter.next(w.now)))
    w.engine.settle(probe, judging.SUCCESS, w.now)
    (attempt,) = woken
    assert isinstance(attempt, Attempt)
    assert attempt.candidate.provider.name == "a"


@pytest.mark.parametrize("outcome", [judging.SUCCESS, DOWN, judging.CLIENT_GONE, NO_SUCH_MODEL])
def test_every_settled_attempt_wakes_those_who_wait_once(outcome: Outcome) -> None:
    """Whatever became of it, its place is free."""
    w = world()
    woken: list[int] = []
    w.engine.changed.add(lambda: woken.append(1))
    attempt = begin(w)
    assert woken == []
    w.engine.settle(attempt, outcome, w.now)
    assert woken == [1]


def test_a_circuit_held_by_hand_wakes_those_who_wait() -> None:
    """When it is held, and when it is given back; a listener may leave while it is told."""
    w = world("a")
    woken: list[type] = []

    def listener() -> None:
        woken.append(type(w.exchange().next(w.now)))
        if len(woken) == 2:
            w.engine.changed.discard(listener)

    w.engine.changed.add(listener)
    w.engine.hold("a", State.FORCED_OPEN)
    w.engine.hold("a", None)
    w.engine.hold("a", State.FORCED_OPEN)
    assert woken == [Exhausted, Attempt]


# --- settling


def test_a_failure_that_opens_a_circuit_is_in_the_journal() -> None:
    """Each change with its time, its states and its reason."""
    w = world()
    w.call(failing="a")
    w.now += 20
    w.call()
    assert list(w.engine.journal) == [
        (1000.0, "a: closed → open (timeout)"),
        (1020.0, "a: half_open → closed (ok)"),
    ]


def test_a_cooldown_is_in_the_journal_and_changes_no_circuit() -> None:
    w = world()
    attempt = begin(w)
    w.engine.settle(attempt, Outcome(Kind.COOLDOWN, "quota", Then.NEXT, 402, 600), w.now)
    assert list(w.engine.journal) == [(1000.0, "a: cooldown (quota)")]
    assert w.call() == "b"


def test_the_second_word_on_an_attempt_only_takes_back_a_success() -> None:
    """A stream that breaks after content has failed; whatever is said after a failure, or kindly, changes nothing."""
    w = world()
    broken, failed, left = begin(w), begin(w), begin(w)
    w.engine.settle(left, judging.SUCCESS, w.now)
    w.engine.settle(left, judging.CLIENT_GONE, w.now)
    assert left.outcome == judging.SUCCESS
    assert list(w.engine.journal) == []
    w.engine.settle(broken, judging.SUCCESS, w.now)
    w.engine.settle(broken, judging.TRUNCATED, w.now)
    assert broken.outcome == judging.TRUNCATED
    assert w.call() == "b"
    w.engine.settle(failed, DOWN, w.now)
    w.engine.settle(failed, judging.SUCCESS, w.now)
    assert failed.outcome == DOWN
    assert [text for _, text in w.engine.journal] == ["a: closed → open (truncated)"]


def test_what_an_attempt_that_is_over_leaves_behind() -> None:
    """Counts by provider, outcome and reason, tokens and cost; once, however often its end is told."""
    w = world()
    done, dropped = begin(w), begin(w)
    assert (w.engine.out, w.engine.in_flight) == ({"a": 2}, {done, dropped})
    done.usage, done.cost = Usage(7, 3, cached=5), 0.25
    w.engine.settle(done, judging.SUCCESS, w.now)
    w.now += 4
    for _ in range(2):
        w.engine.ended(done, w.now)
        w.now += 1
    assert done.ended_at == 1004.0
    assert (w.engine.out, w.engine.in_flight) == ({"a": 1}, {dropped})
    w.engine.ended(dropped, w.now)
    assert w.engine.attempts_total == {("a", Kind.SUCCESS, "ok"): 1}, "one that nobody judged is not counted"
    assert w.engine.tokens_total == {("a", "input"): 7, ("a", "output"): 3}
    assert w.engine.cost_total == {"a": 0.25}
    assert dict(w.engine.out) == {}


def test_the_label_of_an_attempt() -> None:
    w = world()
    attempt = begin(w)
    assert attempt.label == "a:pending"
    w.engine.settle(attempt, DOWN, w.now)
    assert attempt.label == "a:503"


# --- mode `observe`


def test_an_onlooker_makes_its_attempt_whatever_the_circuit_says() -> None:
    """Without a permit it is no vote, but it is counted as every attempt is."""
    w = world("a")
    exchange = w.exchange()
    (candidate,) = exchange.plan.candidates
    seen = exchange.look_on(candidate, w.now)
    assert seen.permit is not None
    w.engine.settle(seen, DOWN, w.now)
    w.engine.ended(seen, w.now)
    blind = exchange.look_on(candidate, w.now)
    assert exchange.attempts == [seen, blind]
    assert blind.permit is None
    assert (w.engine.out, w.engine.in_flight) == ({"a": 1}, {blind})
    w.engine.settle(blind, judging.SUCCESS, w.now)
    w.engine.ended(blind, w.now)
    assert isinstance(w.exchange().next(w.now), Exhausted), "its circuit is still open"
    assert w.engine.attempts_total == {("a", "failure", "http_5xx"): 1, ("a", "success", "ok"): 1}


# --- what providers said


def test_a_model_that_a_provider_lacks_is_not_asked_of_it_for_ten_minutes() -> None:
    """That model alone, and of that provider alone."""
    w = world()
    assert w.engine.lacking_models(w.now) is None
    exchange = w.exchange()
    begin(w, exchange)
    w.fail(exchange, NO_SUCH_MODEL)
    assert w.order() == "b"
    assert w.order({"model": "other"}) == "ab"
    w.now += 599.9
    assert w.order() == "b"
    w.now += 0.1
    assert w.order() == "ab"


def test_models_that_are_lacking_are_forgotten_beyond_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest first."""
    monkeypatch.setattr(engines, "UNKNOWN_MODELS", 2)
    w = world()
    for model in "123":
        w.engine.hold("b", State.FORCED_OPEN)
        exchange = w.exchange({"model": model})
        begin(w, exchange)
        w.fail(exchange, NO_SUCH_MODEL)
    assert [w.order({"model": model}) for model in "123"] == ["ab", "b", "b"]


def test_who_issued_an_identifier_is_remembered_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The latest issuer counts, and an identifier that is seen again, or asked for, is young again."""
    monkeypatch.setattr(engines, "ISSUED_IDS", 3)
    w = world()
    a, b = (c.provider for c in w.exchange().plan.candidates)
    w.engine.issued(("1", "2", "3"), a)
    w.engine.issued(("1",), b)
    w.engine.issued(("4",), a)
    seen_at_a, seen_at_b = Issued("a", a.issuer), Issued("b", b.issuer)
    assert [w.engine.issuer_of(i) for i in "4312"] == [seen_at_a, seen_at_a, seen_at_b, None]
    w.engine.issued(("5",), a)
    assert [w.engine.issuer_of(i) for i in "1345"] == [seen_at_b, seen_at_a, None, seen_at_a]


def test_what_a_provider_refused_has_no_issuer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is remembered as such within the same bound."""
    monkeypatch.setattr(engines, "ISSUED_IDS", 1)
    w = world()
    w.engine.issued(("1",), w.engine.settings.providers[0])
    w.engine.disown(["1"], "nobody")
    assert w.engine.issuer_of("1") == NOBODY
    w.engine.disown(["2"], "nobody")
    assert [w.engine.issuer_of(i) for i in "12"] == [None, NOBODY]


# --- circuits

PER_MODEL = '[circuit]\nfailure_threshold = 1\nopen_seconds = 20\nscope = "model"'


def fail_with(w: World, model: str) -> None:
    exchange = w.exchange({"model": model})
    begin(w, exchange)
    w.fail(exchange, DOWN)


def test_with_a_circuit_per_model_the_others_are_still_asked() -> None:
    w = world("a", PER_MODEL)
    fail_with(w, "1")
    assert w.exchange({"model": "1"}).next(w.now) == Exhausted((Refused("a", "open", 20.0),))
    assert w.call({"model": "2"}) == "a"


def test_circuits_per_model_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest goes first, with what it knew."""
    monkeypatch.setattr(engines, "MAX_CIRCUITS", 2)
    w = world("a", PER_MODEL)
    for model in "123":
        fail_with(w, model)
    assert [w.call({"model": model}) for model in "31"] == ["-", "a"]


def test_a_circuit_made_while_its_provider_is_held_is_held_too() -> None:
    """All models of a provider, those first asked for later as well."""
    w = world("ab", PER_MODEL)
    assert w.call() == "a"
    w.engine.hold("a", State.FORCED_OPEN)
    assert (w.call(), w.call({"model": "new"})) == ("b", "b")
    w.engine.hold("a", None)
    assert (w.call(), w.call({"model": "new"}), w.call({"model": "newer"})) == ("a", "a", "a")


# --- another configuration


def reasons(w: World) -> dict[str, str]:
    """Why each provider refuses the usual call."""
    found = w.exchange().next(w.now)
    assert isinstance(found, Exhausted), found
    return {r.provider: r.reason for r in found.refused}


def test_a_reload_keeps_what_is_known_of_unchanged_providers() -> None:
    """Of a changed one it forgets circuit, cooldown and missing models; what is held by hand stays held."""
    w = world("abc")
    for _ in "abc":
        w.engine.settle(begin(w), DOWN, w.now)
    w.engine.hold("c", State.FORCED_OPEN)
    assert reasons(w) == {"a": "open", "b": "open", "c": "forced_open"}
    w.reload(toml("priority", CIRCUIT, a="", b="weight = 2", c="weight = 2"))
    assert w.call() == "b"
    w.engine.hold("b", State.FORCED_OPEN)
    assert reasons(w) == {"a": "open", "b": "forced_open", "c": "forced_open"}


def test_a_reload_forgets_what_a_provider_that_has_gone_said() -> None:
    """Should one of its name come back, it begins anew."""
    w = world("ab")
    w.engine.hold("b", State.FORCED_OPEN)
    w.reload(toml("priority", CIRCUIT, a=""))
    w.reload(toml("priority", CIRCUIT, a="", b=""))
    w.engine.hold("a", State.FORCED_OPEN)
    assert w.call() == "b"


def test_a_reload_keeps_the_last_errors_of_those_that_stay() -> None:
    """Of a provider that was changed too: it is what an operator looks for."""
    w = world("ab")
    for _ in "ab":
        w.engine.settle(begin(w), DOWN, w.now)
    w.reload(toml("priority", CIRCUIT, a="weight = 2"))
    assert list(w.engine.last_error) == ["a"]


def test_a_reload_takes_over_the_mode_only_where_it_was_changed() -> None:
    """A mode set by command stays in force when the file says what it said before."""
    w = world()
    w.engine.mode = "observe"
    w.reload(toml("priority", CIRCUIT, a=""))
    assert w.engine.mode == "observe"
    w.reload(toml("priority", f'mode = "off"\n{CIRCUIT}', a=""))
    assert w.engine.mode == "off"


# --- one provider, several dialects

BOTH = """
[circuit]
failure_threshold = 1
open_seconds = 20
[[providers]]
name = "a"
base_urls = { openai = "http://a.test/v1", anthropic = "http://a.test" }
api_key = "k"
[[providers]]
name = "b"
dialect = "openai"
base_url = "http://b.test/v1"
api_key = "k"
[[routes]]
intercept = ["http://app.test/v1"]
providers = ["a", "b"]
"""
CLAUDE = '[[routes]]\ndialect = "anthropic"\nintercept = ["http://claude.test"]\nproviders = ["a"]\n'


def test_what_is_known_of_a_provider_is_known_of_its_name() -> None:
    """Its circuits are those of all its dialects; a dialect that is added changes nothing, another base URL does."""
    w = World(BOTH + CLAUDE)
    assert [p.dialect for p in w.engine.settings.by_name["a"]] == ["openai", "anthropic"]
    assert w.call(failing="a") == "ab"
    chat, messages = w.engine.settings.by_name["a"]
    assert w.engine.guard(messages, "m").refusal(w.now) == w.engine.guard(chat, "m").refusal(w.now)
    assert w.engine.guard(messages, "m").refusal(w.now) is not None
    w.engine.hold("a", State.DISABLED)
    assert {str(w.engine.circuit_of(p).state(w.now)) for p in (chat, messages)} == {"disabled"}
    w.engine.hold("a", None)
    assert w.call(failing="a") == "ab"
    other = (BOTH + CLAUDE).replace("/a.test/v1", "/a.test/v2")
    for text, kept in ((BOTH, True), (BOTH + CLAUDE, True), (other, False)):
        w.reload(text)
        refusal = w.engine.guard(w.engine.settings.by_name["a"][0], "m").refusal(w.now)
        assert (refusal is not None) is kept
