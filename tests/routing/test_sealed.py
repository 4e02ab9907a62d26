"""Which providers a call with sealed reasoning goes to, in which order, and what each of them does not get."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sidestep.breaker import judging
from sidestep.breaker.circuit import State
from sidestep.breaker.outcomes import ErrorFacts, ErrorKind
from sidestep.dialects.common import UNSIGNED, digest
from sidestep.routing.engine import Attempt, Engine
from sidestep.routing.exchange import Exchange, Exhausted
from support.world import World, user

PATH = "/v1/messages"
REFUSED = judging.judge_status(400, ErrorFacts(ErrorKind.SEALED), own_provider=True, own_credential=True)
NAMES = {letter: digest(letter.encode()) for letter in "STU"}
LETTERS = {name: letter for letter, name in NAMES.items()} | {UNSIGNED + digest(b"hm"): "-"}


def world(top: str = "", own: str | None = "a", **issuers: str | None) -> World:
    """A route for `http://app.test` to these providers, each with its issuer; the app addresses `own`."""
    tables = [
        f'[[providers]]\nname = "{name}"\ndialect = "anthropic"\napi_key = "k"\n'
        f'base_url = "http://{"app" if name == own else name}.test"\n' + (f'issuer = "{issuer}"\n' if issuer else "")
        for name, issuer in issuers.items()
    ]
    names = ", ".join(f'"{name}"' for name in issuers)
    route = f'[[routes]]\nintercept = ["http://app.test"]\nproviders = [{names}]\n'
    return World("\n".join([top, *tables, route]))


def talk(*seals: str) -> dict[str, Any]:
    """A conversation with an answer for each of these: a letter is a signature, `-` none."""
    messages: list[dict[str, Any]] = [user("hi")]
    for seal in seals:
        signature = {} if seal == "-" else {"signature": seal}
        thought = {"type": "thinking", "thinking": "hm", **signature}
        messages += [{"role": "assistant", "content": [thought, {"type": "text", "text": "yo"}]}, user("go on")]
    return {"messages": messages}


def issued(engine: Engine, **by: str) -> None:
    """These providers were seen to issue these pieces, one letter each."""
    for provider in engine.settings.providers:
        engine.issued(tuple(NAMES[letter] for letter in by.get(provider.name, "")), provider)


def planned(exchange: Exchange) -> list[str]:
    """The candidates in their order, each with what it does not get."""
    out = []
    for c in exchange.plan.candidates:
        left = "".join(sorted(LETTERS[name] for name in c.leaves_out))
        out.append(f"{c.provider.name} without {left}" if left else c.provider.name)
    return out


PLANS: list[tuple[str, World, dict[str, str], tuple[str, ...], list[str]]] = [
    ("none", world(a=None, b=None), {}, (), ["a", "b"]),
    ("unseen: the own provider's", world(a=None, b=None), {}, ("S",), ["a", "b without S"]),
    ("unseen: the own provider's issuer", world(a="x", b="y", c="x"), {}, ("S",), ["a", "c", "b without S"]),
    ("seen: its issuer first", world(a=None, b=None), {"b": "S"}, ("S",), ["b", "a without S"]),
    ("of two: both get a copy", world(a="x", b="y"), {"a": "S", "b": "T"}, ("S", "T"), ["a without T", "b without S"]),
    (
        "those that honour some come before those that honour none",
        *(world(a="x", c="z", b="y"), {"a": "S", "b": "T"}, ("S", "T")),
        ["a without T", "b without S", "c without ST"],
    ),
    ("without one: the official issuer", world(own=None, b="glm", c="anthropic"), {}, ("S",), ["c", "b without S"]),
    ("no own provider, none honours it", world(own=None, b="glm", c="kimi"), {}, ("S",), ["b", "c without S"]),
    ("unsigned is not Claude's", world(a="anthropic", b="glm"), {}, ("-",), ["a without -", "b"]),
    ("strict", world("routing = { sealed = 'pin' }", a="x", b="y", c="x"), {}, ("S",), ["a", "c"]),
    ("strict, of two: the latest", world("routing = { sealed = 'pin' }", a="x", b="y"), {"b": "T"}, ("S", "T"), ["b"]),
]  # fmt: skip


@pytest.mark.parametrize(("made", "seen", "seals", "order"), [p[1:] for p in PLANS], ids=[p[0] for p in PLANS])
def test_plans(made: World, seen: dict[str, str], seals: tuple[str, ...], order: list[str]) -> None:
    """Those that take the call whole come first, in their order; then those that get a copy, unless it is pinned."""
    issued(made.engine, **seen)
    exchange = made.exchange(talk(*seals), PATH)
    assert planned(exchange) == order
    assert not exchange.plan.passthrough


def test_one_provider_may_be_strict() -> None:
    """What is left out is each provider's own setting."""
    text = 'base_url = "http://b.test"\nrouting = { sealed = "pin" }'
    made = World(
        '[[providers]]\nname = "a"\ndialect = "anthropic"\napi_key = "k"\nbase_url = "http://app.test"\n'
        f'[[providers]]\nname = "b"\ndialect = "anthropic"\napi_key = "k"\n{text}\n'
        '[[routes]]\nintercept = ["http://app.test"]\nproviders = ["a", "b"]\n'
    )
    assert planned(made.exchange(talk("S"), PATH)) == ["a"]


def test_what_goes_on_from_a_seal_goes_to_no_other() -> None:
    """Reasoning at the very end of the call cannot be left out: the call goes to those that honour it, as it is."""
    made = world(a="x", b="y", c="x")
    body = talk("S")
    body["messages"] = [user("hi"), {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "S"}]}]
    assert planned(made.exchange(body, PATH)) == ["a", "c"]


def test_what_goes_on_from_a_seal_may_have_more_of_others() -> None:
    """Those that may have it get a copy without what another one thought before, as ever."""
    made = world(a="x", b="y")
    issued(made.engine, a="SU", b="T")
    body = talk("S", "T")
    body["messages"].append({"role": "assistant", "content": [{"type": "redacted_thinking", "data": "U"}]})
    assert planned(made.exchange(body, PATH)) == ["a without T"]


def test_a_container_stays_with_its_provider_and_gets_a_copy_too() -> None:
    """What one provider holds decides where the call goes, and what it has not issued is left out all the same."""
    made = world(a="x", b="y")
    issued(made.engine, a="S", b="T")
    exchange = made.exchange({**talk("S", "T"), "container": "cont_1"}, PATH)
    assert (planned(exchange), exchange.plan.pinned) == (["a without T"], True)


def test_a_stay_does_not_come_before_the_issuer() -> None:
    """The provider that stood in last keeps no conversation whose reasoning it does not take, once home is well."""
    made = world(a="x", b="y")
    made.engine.hold("a", State.FORCED_OPEN)
    exchange = made.exchange(talk("S"), PATH)
    attempt = exchange.next(made.now)
    assert isinstance(attempt, Attempt)
    assert attempt.candidate.leaves_out == {NAMES["S"]}
    made.settle(exchange)
    made.engine.ended(attempt, made.now)
    made.engine.hold("a", None)
    assert planned(made.exchange(talk("S"), PATH)) == ["a", "b without S"]


def ask(made: World, exchange: Exchange) -> str:
    attempt = exchange.next(made.now)
    if isinstance(attempt, Exhausted):
        return "none"
    assert isinstance(attempt, Attempt)
    left = "".join(sorted(LETTERS[name] for name in attempt.candidate.leaves_out))
    return f"{attempt.candidate.provider.name} without {left}"


def test_a_refusal_is_repaired_once() -> None:
    """A provider that refuses what it was not seen to issue is asked once more without that, and gets it in no later
    call; what it has issued itself it keeps."""
    made = world(a="x", b="y")
    issued(made.engine, a="S")
    exchange = made.exchange(talk("S", "T"), PATH)
    assert ask(made, exchange) == "a without "
    made.fail(exchange, REFUSED)
    assert exchange.may_move_on(exchange.attempts[-1], REFUSED)
    assert ask(made, exchange) == "a without T"
    made.fail(exchange, REFUSED)
    assert not exchange.may_move_on(exchange.attempts[-1], REFUSED)
    assert planned(made.exchange(talk("S", "T", "U"), PATH)) == ["a without T", "b without STU"]


def test_a_request_that_comes_back_to_a_provider_brings_the_repaired_copy() -> None:
    """What was refused once is not sent there again, in whatever round the provider is asked."""
    made = world(a="x")
    issued(made.engine, a="S")
    made.engine.live |= {"this request", "another"}
    exchange = made.exchange(talk("S", "T"), PATH)
    ask(made, exchange)
    made.fail(exchange, REFUSED)
    assert ask(made, exchange) == "a without T"
    made.fail(exchange, judging.TIMEOUT)
    made.now += made.engine.settings.providers[0].circuit.open_seconds
    assert ask(made, exchange) == "a without T"


def test_a_refusal_of_its_own_reasoning() -> None:
    """Where all of it was its own, the repeat goes without any, and nothing is learnt from that."""
    made = world(a="x", b="y")
    issued(made.engine, a="S")
    exchange = made.exchange(talk("S"), PATH)
    ask(made, exchange)
    made.fail(exchange, REFUSED)
    assert ask(made, exchange) == "a without S"
    assert planned(made.exchange(talk("S"), PATH)) == ["a", "b without S"]


@pytest.mark.parametrize(("top", "seals"), [("routing = { sealed = 'pin' }", ("S",)), ("", ())])
def test_a_refusal_that_is_not_repaired(top: str, seals: tuple[str, ...]) -> None:
    """With nothing to leave out, or where nothing is to be left out, the app gets the refusal."""
    made = world(top, a="x")
    exchange = made.exchange(talk(*seals), PATH)
    assert ask(made, exchange) == "a without "
    made.fail(exchange, REFUSED)
    assert not exchange.may_move_on(exchange.attempts[-1], REFUSED)


def away(made: World, body: dict[str, Any], issues: str, **unwell: str) -> None:
    """A call is answered by the first that is well, which caches nothing and issues this piece."""
    for name in unwell:
        made.engine.hold(name, State.FORCED_OPEN)
    exchange = made.exchange(body, PATH)
    attempt = exchange.next(made.now)
    assert isinstance(attempt, Attempt)
    made.settle(exchange)
    made.used(exchange, 0)
    made.engine.ended(attempt, made.now)
    made.engine.issued((NAMES[issues],), attempt.candidate.provider)
    for name in unwell:
        made.engine.hold(name, None)


def amid(body: dict[str, Any]) -> dict[str, Any]:
    """The same where it is a tool that has spoken last."""
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "4"}]}
    reminder = {"role": "system", "content": "mind the time"}
    return {"messages": [*body["messages"][:-1], result, reminder]}


def test_a_conversation_that_began_away_comes_home_at_the_users_next_words() -> None:
    """Though home has issued none of its reasoning, which a turn that is under way needs."""
    made = world(a="x", b="y")
    away(made, talk(), "T", a="")
    assert planned(made.exchange(amid(talk("T")), PATH)) == ["b", "a without T"]
    assert planned(made.exchange(talk("T"), PATH)) == ["a without T", "b"]


def test_its_home_is_the_routes_first_whose_reasoning_ever_it_holds() -> None:
    """In a turn away from home all that is sealed may be others'."""
    made = world(a="x", b="y", c="z")
    away(made, talk(), "S", a="")
    away(made, amid(talk("S")), "T", a="", b="")
    away(made, amid(talk("S", "T")), "U", a="", b="")
    assert planned(made.exchange(talk("S", "T", "U"), PATH)) == ["a without STU", "b without TU", "c without S"]


def test_a_last_resort_is_one_also_where_it_has_issued_all() -> None:
    made = world(a="x", b="y", c="z")
    settings = made.engine.settings
    last = {"b": msgspec.structs.replace(settings.providers[1], last_resort=True)}
    providers = tuple(last.get(p.name, p) for p in settings.providers)
    routes = tuple(msgspec.structs.replace(r, providers=providers) for r in settings.routes)
    made.engine.reconfigure(msgspec.structs.replace(settings, providers=providers, routes=routes))
    issued(made.engine, b="S")
    assert planned(made.exchange(talk("S"), PATH)) == ["a without S", "c without S", "b"]
    away(made, talk("S"), "T", a="", c="")
    assert planned(made.exchange(amid(talk("S", "T")), PATH)) == ["a without ST", "c without ST", "b"]
