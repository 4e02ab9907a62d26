"""How a proxy is and what happens in it, as text for a terminal."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from sidestep.overview import lines_of
from sidestep.run.tables import Fitted, Prose

COLOURS = {"ok": "green", "degraded": "yellow", "unhealthy": "bold red"}
STATES = {"closed": "green", "disabled": "yellow", "half_open": "yellow", "open": "red", "forced_open": "red"}
RESULTS = {"answered": "green", "rerouted": "yellow", "failed": "red", "left": "dim"}
LEVELS = {"warning": "yellow", "error": "red"}


def span(ms: float | None) -> str:
    """`5 ms`, `1.20 s`."""
    if ms is None:
        return "-"
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.2f} s"


def money(dollars: float) -> str:
    """`$1.20`; less than a cent is told, too."""
    return f"${dollars:.4f}" if 0 < dollars < 0.01 else f"${dollars:.2f}"


def clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))


def status(picture: dict[str, Any], *, events: int = 5) -> RenderableType:
    """The verdicts, the providers, the numbers, the last events."""
    totals, hour = picture["totals"], picture["hour"]
    parts: list[RenderableType] = []
    for state, line in lines_of(picture):
        parts.append(Prose(Text.assemble((f"{state}  ", COLOURS.get(state, "")), line), len(state) + 2))
    if picture["mode"] != "enforce":
        parts.append(Text(f"mode {picture['mode']}", "yellow"))
    if (fleet := picture.get("fleet")) is not None:
        colour = "" if fleet["state"] == "together" else "yellow"
        parts.append(Text(f"fleet: {fleet['state']}, group {fleet['group']} by {fleet['store']}", colour))
    rows = []
    for p in picture["providers"]:
        share = "-" if p["error_share"] is None else f"{p['error_share']:.0%}"
        words = Text(p["words"], STATES.get(p["state"], "") if p["words"] not in ("well", "not asked yet") else "")
        times = f"{span(p['p50_ms'])} / {span(p['p95_ms'])}" if p["attempts"] else "-"
        rows.append((p["name"], words, times, share, money(p["cost"])))
    table = Fitted(("provider", "how it is", "p50 / p95", "failed", "cost"), rows, below="how it is")
    parts += ["", table, ""]
    numbers = (
        f"last hour: {sum(hour['calls'])} calls, {sum(hour['failed'])} failed, first content after {span(hour['p50'])} "
        f"(p95 {span(hour['p95'])}); since the start: {totals['calls']} calls, {totals['rerouted']} rerouted, "
        f"{totals['failed']} failed, {money(totals['cost'])}"
    )
    parts.append(Prose(numbers))
    if picture["events"] and events:
        parts.append("")
        parts += [Prose(event(e), 10) for e in reversed(picture["events"][:events])]
    return Group(*parts)


def event(told: dict[str, Any]) -> Text:
    return Text.assemble((f"{clock(told['at'])}  ", "dim"), (told["text"], LEVELS.get(told["level"], "")))


def call(told: dict[str, Any]) -> Text:
    """A call in a line: what came of it, who answered, after what."""
    line = Text.assemble((f"{clock(told['at'])}  ", "dim"), (f"{told['result']:<9}", RESULTS.get(told["result"], "")))
    line.append(f" {told['route']}" + (f" {told['model']}" if told["model"] else ""))
    line.append(f" → {told['provider'] or 'nobody'}, {span(told['ms'])}")
    before = [a for a in told["attempts"] if a["outcome"] != "success"]
    why = [f"{a['provider']}: {a['words']}" for a in before]
    why += [f"{r['provider']} is {r['reason']}" for r in told["refused"]]
    if why:
        line.append(f" ({'; '.join(dict.fromkeys(why))})", "dim")
    return line


class News:
    """What of a picture has not been told yet. State: the numbers of the last call and the last event told."""

    def __init__(self, *, before: int) -> None:
        """`before`: so many of what was there already are told, too."""
        self._before = before
        self._call = self._event = -1

    def of(self, picture: dict[str, Any]) -> list[Text]:
        if self._call < 0 or picture["totals"]["calls"] < self._call:
            calls, events = picture["calls"][: self._before], picture["events"][: self._before]
        else:
            calls = [c for c in picture["calls"] if c["number"] > self._call]
            events = [e for e in picture["events"] if e["number"] > self._event]
        self._call = max((c["number"] for c in picture["calls"]), default=0)
        self._event = max((e["number"] for e in picture["events"]), default=0)
        told = [(c["at"], call(c)) for c in calls] + [(e["at"], event(e)) for e in events]
        return [line for _, line in sorted(told, key=lambda each: each[0])]
