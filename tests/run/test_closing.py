"""What `sidestep run` says at its end."""

from __future__ import annotations

from typing import Any

import pytest

from sidestep.run.closing import Surroundings, length, lines, spent, unseen, window


@pytest.mark.parametrize(
    ("answers", "tokens", "cost", "saved", "line"),
    [
        (1, (0, 0, 0), 0.0, 0.0, "a gave 1 answer"),
        (2, (1200, 3, 0), 0.0, 0.0, "a gave 2 answers: 1,200 tokens in, 3 out"),
        (2, (1, 0, 0), 0.01234, 0.0, "a gave 2 answers: 1 tokens in, 0 out, $0.0123"),
        (
            *(1, (120_000, 7, 100_000), 0.3, 0.125),
            "a gave 1 answer: 120,000 tokens in (100,000 from the cache), 7 out, $0.3000, $0.1250 saved by the cache",
        ),
    ],
)
def test_what_a_provider_has_given(
    answers: int, tokens: tuple[int, int, int], cost: float, saved: float, line: str
) -> None:
    used = dict(zip(("input", "output", "cached"), tokens, strict=True))
    assert spent({"name": "a", "answers": answers, "tokens": used, "cost": cost, "saved": saved}) == line


HOSTS = ("api.openai.com", "api.anthropic.com")


@pytest.mark.parametrize(
    ("hosts", "around", "why"),
    [
        ([], Surroundings(HOSTS), "nothing came through the proxy. Programs that take none from the environment need"),
        ([], Surroundings(HOSTS, ["api.openai.com"]), "NO_PROXY lets calls to api.openai.com go past Sidestep"),
        (["x.test"], Surroundings(HOSTS, ["api.openai.com"]), "NO_PROXY lets calls to api.openai.com go past Sidestep"),
        ([], Surroundings(HOSTS, old_node="v20.1.0"), "Node.js v20.1.0 does not go through a proxy by itself: "),
        (["a.test", "b.test", "c.test", "d.test"], Surroundings(HOSTS), "the command went to a.test, b.test, c.test "),
        (["a.test"], Surroundings(HOSTS, old_node="v20.1.0"), "the command went to a.test instead"),
        (["a.test", HOSTS[0]], Surroundings(HOSTS), "what went to api.openai.com was none of the calls"),
    ],
)
def test_why_no_call_was_seen(hosts: list[str], around: Surroundings, why: str) -> None:
    assert unseen(hosts, around).startswith(f"no call was seen to api.anthropic.com, api.openai.com; {why}")


def test_without_a_route_no_call_can_be_seen() -> None:
    assert unseen([], Surroundings([])).startswith("no call was seen to any host: there is no route; ")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3_599, "59 min"), (3_600, "1 h"), (7_830, "2 h 10 min")),
        *((86_400, "1 d"), (356_400, "4 d 3 h")),
    ],
)
def test_lengths(seconds: float, text: str) -> None:
    assert length(seconds) == text


@pytest.mark.parametrize(
    ("models", "status", "used", "resets_in", "text"),
    [
        (None, "allowed", 0.62, 7_830, "5h 62 % used, anew in 2 h 10 min"),
        ("opus", "rejected", None, 60, "5h (opus) rejected, anew in 1 min"),
        (None, "rejected", 1.2, None, "5h 120 % used"),
    ],
)
def test_windows(models: str | None, status: str, used: float | None, resets_in: float | None, text: str) -> None:
    told = {"window": "5h", "models": models, "status": status, "used": used, "resets_in": resets_in}
    assert window(told) == text


def test_all_that_is_said() -> None:
    told = {"window": "5h", "models": None, "status": "rejected", "used": 1, "resets_in": 60}
    tokens = dict.fromkeys(("input", "output", "cached"), 0)
    spent_by = {"name": "b", "answers": 1, "tokens": tokens, "cost": 0, "saved": 0}
    summary: dict[str, Any] = {"calls": 2, "failed": 1, "rerouted": [{"from": "a", "to": "b", "count": 1}]}
    summary |= {"providers": [spent_by], "plans": {"a": [[told, {**told, "window": "7d"}]]}}
    assert lines({"summary": summary, "connections": 1}, Surroundings(HOSTS)) == [
        "b gave 1 answer",
        "the plan at a: 5h 100 % used, anew in 1 min; 7d 100 % used, anew in 1 min",
        "2 calls, 1 rerouted, 1 failed (a → b 1)",
    ]
    nothing = lines({"summary": None, "connections": 0, "hosts": []}, Surroundings(HOSTS))
    assert [line[:11] for line in nothing] == ["no call was", "0 calls, 0 "]
    assert nothing[1].endswith("0 failed (nothing came through the proxy)")
