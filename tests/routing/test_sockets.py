"""What is known of a WebSocket at its handshake, and when it is better refused."""

from __future__ import annotations

from typing import Any

import pytest

from sidestep.breaker import judging
from sidestep.breaker.outcomes import Kind, Outcome
from sidestep.dialects.base import Call
from sidestep.dialects.openai_frames import REALTIME, RESPONSES
from sidestep.routing.sockets import Handshake, Sockets
from sidestep.routing.table import Plan
from support.world import World, toml

ASKER = ("openai", "key")
NEUTRAL = Outcome(Kind.NEUTRAL, "lacks", status=404)


def call(operation: str, model: str | None) -> Call:
    return Call("openai", operation, model, stream=False)


def test_a_handshake_is_expected_to_ask_for_what_the_app_asked_for_last() -> None:
    """Over HTTP or a socket, of the Responses API; what names a model itself needs no guess."""
    one, two = (World(text).engine.settings.routes[0] for text in (toml(a=""), toml(a="", b="")))
    sockets = Sockets()
    assert sockets.met(call(RESPONSES, None), two, ASKER, "c") == Handshake(None, "c", True)
    for operation, model in (("responses", "m"), ("responses", None), ("chat/completions", "n"), (REALTIME, "n")):
        assert sockets.met(call(operation, model), two, ASKER, "c") is None
    assert sockets.met(call(RESPONSES, None), one, ASKER, "") == Handshake("m", "", False)
    assert sockets.met(call(RESPONSES, None), one, ("openai", "another"), "") == Handshake(None, "", False)
    assert sockets.met(call(RESPONSES, "n"), one, ASKER, "") == Handshake(None, "", False)
    sockets.asks(ASKER, "x" * 1000)
    found = sockets.met(call(RESPONSES, None), two, ASKER, "")
    assert found is not None
    assert found.expected is not None
    assert len(found.expected) == 256


def test_what_is_likely_to_be_asked_first() -> None:
    """By the provider's own name for it."""
    candidate = World(toml(a='models = { "m" = "mine" }')).exchange().plan.candidates[0]
    first = Handshake("m", "", True).first_call(candidate)
    assert first is not None
    assert (first.provider, first.model) == (candidate.provider, "mine")
    assert Handshake(None, "", True).first_call(candidate) is None


@pytest.mark.parametrize(
    ("has_choice", "pinned", "ends", "better"),
    [
        (True, False, [], False),
        (True, False, [None, judging.TIMEOUT], False),
        (True, False, [judging.TIMEOUT, NEUTRAL], True),
        (True, False, [Outcome(Kind.NEUTRAL, "client_gone")], False),
        (True, True, [], True),
        (False, True, [NEUTRAL], False),
        (False, False, [NEUTRAL], False),
    ],
)
def test_when_it_is_better_asked_over_http(has_choice: bool, pinned: bool, ends: list[Any], better: bool) -> None:
    """Where another provider may take the calls, though none takes the socket, or only one may have it."""
    assert Handshake("m", "", has_choice).better_over_http(Plan((), pinned=pinned), ends) is better


def test_a_conversation_is_broken_until_its_time() -> None:
    sockets = Sockets()
    sockets.failed("c", 100.0)
    assert [sockets.is_broken("c", now) for now in (0.0, 99.9, 100.0)] == [True, True, False]
    assert not sockets.is_broken("d", 0.0)
