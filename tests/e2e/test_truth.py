"""What is told of a call is what its app got, alike in metrics, marker and metadata, and health is of the routes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mitmproxy import io

from support.provider import Behaviour, Provider
from support.proxy import Mitmdump
from support.raw import Wire, chat
from support.settings import config
from support.waiting import until

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]

DOWN = Behaviour(status=503)
LACKS = Behaviour(status=404, code="model_not_found", message="The model `m` does not exist")
INVALID = Behaviour(status=400, code="invalid_value", message="Invalid 'temperature'")
FAILED, AWAY = ":red_circle:", ":twisted_rightwards_arrows:"
ENDS = [
    # what the own provider does, what the stand-in does, the status that the app gets, what came of it, marker
    (Behaviour(), DOWN, 200, "answered", ""),
    (INVALID, Behaviour(), 400, "answered", ""),
    (Behaviour(body=b"words", headers={"content-type": "text/plain"}), DOWN, 200, "answered", ""),
    (DOWN, Behaviour(), 200, "rerouted", AWAY),
    (Behaviour(cut_after=3, cut_by="close"), Behaviour(), 200, "failed", FAILED),
    (Behaviour(stall_after=3), Behaviour(), 200, "left", ""),
    (DOWN, LACKS, 503, "failed", FAILED),
]


def test_what_is_told_is_what_the_app_got(provider: Make, proxy: Start, tmp_path: Path) -> None:
    """Where nobody could do better, the first provider's 503 is a failure, whoever was asked last; an app that leaves
    is none, and an answer that is not read is an answer."""
    own, other = provider("own"), provider("other")
    saved = tmp_path / "saved.mitm"
    tables: dict[str, Any] = {"attempts": {"per_provider": 1, "wait_seconds": 0}, "circuit": {"failure_threshold": 100}}
    m = proxy(config("chat", own, other, own=own, **tables), "-w", str(saved))
    for number, (first, second, status, result, _) in enumerate(ENDS):
        own.default, other.default = first, second
        stream = first.cut_after is not None or first.stall_after is not None
        with Wire(m) as wire:
            wire.send(chat(own.url(), stream=stream, user=f"{number}"))  # the same again would not be asked of it first
            if not stream:
                assert wire.answer()[0] == status
                continue
            assert wire.head()[0] == status
            wire.until(b"data: " if result == "left" else b'"error"')
            if result == "left":
                wire.reset()
            until(lambda: m.health()["in_flight"] == 0, "the attempt is over")
    metrics = m.page("/metrics")[1].decode()
    health = m.health()
    m.stop()
    with saved.open("rb") as f:
        flows = [flow for flow in io.FlowReader(f).stream() if "sidestep" in flow.metadata]
    flows.sort(key=lambda flow: flow.timestamp_created)
    assert [(f.metadata["sidestep"]["result"], f.marked) for f in flows] == [end[3:] for end in ENDS]
    counted = {r: float(n) for r, n in re.findall(r'sidestep_requests_total\{result="(\w+)",.*\} (.*)', metrics)}
    assert counted == Counter(end[3] for end in ENDS)
    assert "sidestep_rerouted_total 1.0" in metrics
    timed = {r: float(n) for r, n in re.findall(r'call_duration_seconds_count\{result="(\w+)",.*\} (.*)', metrics)}
    assert timed == counted
    forms = re.findall(r'first_content_seconds_count\{form="(\w+)",provider="(\w+)"\} (.*)', metrics)
    assert sorted(forms) == [("streamed", "own", "2.0"), ("whole", "other", "1.0"), ("whole", "own", "1.0")]
    assert 'sidestep_unread_total{provider="own"} 1.0' in metrics
    own_totals = {"success": 2, "failure": 3, "cooldown": 0, "neutral": 2, "slow": 0, "unread": 1}
    assert health["providers"]["own"]["totals"] == own_totals
    assert health["routes"] == {"openai": {"status": "ok", "served_by": "own", "because": None}}


def test_an_app_that_leaves_while_its_call_waits_has_left(provider: Make, proxy: Start, tmp_path: Path) -> None:
    """No answer of any kind was on its way: it is counted all the same, as what it is, and nobody is asked again."""
    own = provider("own")
    own.then(Behaviour(status=429, headers={"retry-after": "2"}))
    saved = tmp_path / "saved.mitm"
    m = proxy(config("chat", own, own=own, attempts={"wait_seconds": 3}), "-w", str(saved))
    with Wire(m) as wire:
        wire.send(chat(own.url()))
        own.wait_for_request()
        until(lambda: m.provider("own")["totals"]["cooldown"] == 1 and not m.health()["in_flight"], "it waits")
        wire.reset()
    until(lambda: 'sidestep_requests_total{result="left",route="openai"} 1.0' in m.page("/metrics")[1].decode(), "left")
    until(lambda: m.provider("own")["cooldown"] is None, "the wait is over")
    with Wire(m) as wire:
        assert wire.send(chat(own.url())).answer()[0] == 200
    m.stop()
    assert own.count == 2, "the call of an app that had left was sent again"
    with saved.open("rb") as f:
        flows = [flow for flow in io.FlowReader(f).stream() if "sidestep" in flow.metadata]
    flows.sort(key=lambda flow: flow.timestamp_created)
    assert [(f.metadata["sidestep"]["result"], f.comment) for f in flows] == [
        ("left", "127.0.0.1 → nobody (own:429), but the app left"),
        ("answered", ""),
    ]


def test_what_a_stand_in_does_not_do(provider: Make, proxy: Start) -> None:
    """Its 501 is no last word while another may answer, and never stands for the own provider's failure; the own
    provider's is the app's at once, as without Sidestep."""
    own, second, third = provider("own"), provider("second"), provider("third")
    tables: dict[str, Any] = {"attempts": {"per_provider": 1, "wait_seconds": 0}, "circuit": {"failure_threshold": 9}}
    m = proxy(config("chat", own, second, third, own=own, **tables))
    second.default = Behaviour(status=501)
    found: list[tuple[int, str, str]] = []
    with Wire(m) as wire:
        for mine, last in ((DOWN, Behaviour()), (DOWN, DOWN), (Behaviour(status=501), Behaviour())):
            own.default, third.default = mine, last
            status, headers, _ = wire.send(chat(own.url(), user=f"{len(found)}")).answer()
            found.append((status, headers["x-sidestep-provider"], headers["x-sidestep-attempts"]))
    assert found == [
        (200, "third", "own:503, second:501, third:200"),
        (503, "own", "own:503, second:501, third:503"),
        (501, "own", "own:501"),
    ]
