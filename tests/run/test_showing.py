"""How a proxy is, in lines."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from sidestep.run import showing

PROVIDER: dict[str, Any] = {
    "name": "a",
    "state": "open",
    "words": "not asked: answered 503; tried again in 12 s",
    "error_share": 0.5,
    "p50_ms": 5,
    "p95_ms": 1200,
    "attempts": 4,
    "cost": 0.25,
    "plans": [],
}
FAILED = {"provider": "a", "outcome": "failure", "words": "answered 503"}


def call(number: int, at: float, provider: str | None = "b") -> dict[str, Any]:
    return {
        "number": number,
        "at": at,
        "result": "rerouted" if provider else "failed",
        "route": "openai",
        "model": "m",
        "provider": provider,
        "ms": 12.4,
        "attempts": [FAILED, FAILED, {"provider": "b", "outcome": "success", "words": "good"}],
        "refused": [{"provider": "c", "reason": "open: it has failed"}],
    }


def event(number: int, at: float) -> dict[str, Any]:
    return {"number": number, "at": at, "level": "warning", "text": f"event {number}"}


def picture(calls: list[dict[str, Any]], events: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "mode": "observe",
        "totals": {"calls": len(calls), "rerouted": 1, "failed": 0, "cost": 0.25},
        "hour": {"calls": [1, 2], "failed": [0, 1], "p50": 7, "p95": None},
        "routes": [
            {
                "name": "openai",
                "status": "degraded",
                "served_by": "b",
                "because": "a answered 503",
                "since": 1.0,
                "providers": ["a", "b"],
            }
        ],
        "providers": [PROVIDER, {**PROVIDER, "name": "b", "state": "closed", "words": "not asked yet", "attempts": 0}],
        "calls": calls,
        "events": events,
    }


def printed(shown: Any) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(shown)
        return console.export_text()


@pytest.mark.parametrize(("ms", "text"), [(None, "-"), (5.4, "5 ms"), (999.0, "999 ms"), (1200.0, "1.20 s")])
def test_times(ms: float | None, text: str) -> None:
    assert showing.span(ms) == text


def test_a_picture_tells_all_that_one_wants_to_know() -> None:
    text = printed(showing.status(picture([], [event(2, 20.0), event(1, 10.0)])))
    for words in ("degraded", "a answered 503", "mode observe", "tried again in 12 s", "5 ms / 1.20 s", "50%", "$0.25"):
        assert words in text
    assert "last hour: 3 calls, 1 failed, first content after 7 ms (p95 -)" in text
    assert text.index("event 1") < text.index("event 2")
    assert "event" not in printed(showing.status(picture([], [event(1, 1.0)]), events=0))


@pytest.mark.parametrize(
    ("used", "status", "bar"),
    [(0.0, "allowed", 0), (0.5, "allowed", 10), (0.97, "warning", 19), (1.3, "rejected", 20), (None, "rejected", 20)],
)
def test_windows_of_plans_have_bars(used: float | None, status: str, bar: int) -> None:
    told = {"window": "5h", "models": None, "status": status, "used": used, "resets_in": 3_600}
    shown = picture([], [])
    shown["providers"] = [{**PROVIDER, "plans": [[told, {**told, "window": "7d"}]]}, {**PROVIDER, "name": "b"}]
    first, second = (line for line in printed(showing.status(shown)).splitlines() if "anew in 1 h" in line)
    assert first.startswith("the plan at a " + "█" * bar + "░" * (20 - bar) + " 5h ")
    assert second.startswith(" " * 14)
    assert " 7d " in second


def test_a_call_in_a_line() -> None:
    assert str(showing.call(call(1, 0.0))).partition("  ")[2] == (
        "rerouted  openai m → b, 12 ms (a: answered 503; c is open: it has failed)"
    )
    assert "→ nobody" in str(showing.call(call(1, 0.0, None)))


def test_news_are_told_once_and_in_order() -> None:
    news = showing.News(before=1)
    first = picture([call(2, 5.0), call(1, 1.0)], [event(7, 3.0), event(6, 2.0)])
    assert [str(t).partition("  ")[2].split()[0] for t in news.of(first)] == ["event", "rerouted"]
    assert news.of(first) == []
    later = picture([call(3, 9.0), call(2, 5.0), call(1, 1.0)], [event(8, 8.0), event(7, 3.0)])
    assert [str(t).partition("  ")[2].split()[0] for t in news.of(later)] == ["event", "rerouted"]
    # Started anew it counts from the beginning.
    assert len(news.of(picture([call(1, 1.0)], []) | {"run": "another"})) == 1


def test_names_are_shown_as_they_are() -> None:
    """Also those that look like markup, which would change others or be an error."""
    name = "a[/b][red]:x:"
    shown = picture([call(1, 1.0, name)], [event(1, 2.0)])
    window = {"window": "[/b]5h", "models": "[red]", "status": "allowed", "used": 0.5, "resets_in": 60}
    shown["providers"] = [{**PROVIDER, "name": name, "words": name, "plans": [[window]]}]
    shown["routes"][0] |= {"name": name, "because": name}
    shown["events"][0]["text"] = shown["calls"][0]["model"] = name
    console = Console(width=200, markup=True)
    with console.capture() as captured:
        console.print(showing.status(shown))
        for line in showing.News(before=9).of(shown):
            console.print(line)
    assert captured.get().count(name) >= 7
    assert "[/b]5h" in captured.get()


@pytest.mark.parametrize(("dollars", "words"), [(0, "$0.00"), (0.0004, "$0.0004"), (0.01, "$0.01"), (12.5, "$12.50")])
def test_less_than_a_cent_is_told(dollars: float, words: str) -> None:
    assert showing.money(dollars) == words
