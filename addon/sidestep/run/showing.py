"""How a proxy is and what happens in it, as text for a terminal."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sidestep.overview import lines_of, of_workers
from sidestep.run import closing
from sidestep.run.tables import Fitted, Prose

COLOURS = {"ok": "green", "degraded": "yellow", "unhealthy": "bold red"}
STATES = {"closed": "green", "disabled": "yellow", "half_open": "yellow", "open": "red", "forced_open": "red"}
RESULTS = {"answered": "green", "rerouted": "yellow", "failed": "red", "left": "dim"}
REMEMBERED = 10_000
"""Calls and events: many times what one picture holds."""
BAR = 20
"""Letters that a window of a plan takes."""
NEAR = 0.8
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
    if (workers := of_workers(picture)) is not None:
        parts.append(Prose(Text(workers[1], "" if workers[0] else "yellow")))
    if (fleet := picture.get("fleet")) is not None:
        colour = "" if fleet["state"] == "together" else "yellow"
        parts.append(Prose(Text(f"fleet: {fleet['words']}", colour)))
    rows = []
    for p in picture["providers"]:
        share = "-" if p["error_share"] is None else f"{p['error_share']:.0%}"
        words = Text(p["words"], STATES.get(p["state"], "") if p["words"] not in ("well", "not asked yet") else "")
        times = f"{span(p['p50_ms'])} / {span(p['p95_ms'])}" if p["attempts"] else "-"
        rows.append((p["name"], words, times, share, money(p["cost"])))
    table = Fitted(("provider", "how it is", "p50 / p95", "failed", "cost"), rows, below="how it is")
    parts += ["", table, ""]
    bars = [_bars(p["name"], told) for p in picture["providers"] for told in p["plans"]]
    parts += [*bars, ""] if bars else []
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


def _when(told: dict[str, Any]) -> tuple[str, str]:
    """And at which worker."""
    workers = [told["worker"], *told.get("also", ())] if "worker" in told else []
    worker = f"[{', '.join(map(str, workers))}] " if workers else ""
    return f"{clock(told['at'])}  {worker}", "dim"


def _bars(name: str, told: list[dict[str, Any]]) -> RenderableType:
    """The windows of one plan, each with what is used of it."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
    for number, window in enumerate(told):
        used = window["used"] if window["used"] is not None else float(window["status"] != "allowed")
        full = min(BAR, round(used * BAR))
        bad = window["status"] == "rejected" or used >= 1
        colour = "red" if bad else "yellow" if window["status"] != "allowed" or used >= NEAR else "green"
        bar = Text.assemble(("█" * full, colour), ("░" * (BAR - full), "dim"))
        table.add_row(Text(f"the plan at {name}" if not number else ""), bar, Text(closing.window(window)))
    return table


def event(told: dict[str, Any]) -> Text:
    return Text.assemble(_when(told), (told["text"], LEVELS.get(told["level"], "")))


def call(told: dict[str, Any]) -> Text:
    """A call in a line: what came of it, who answered, after what."""
    line = Text.assemble(_when(told), (f"{told['result']:<9}", RESULTS.get(told["result"], "")))
    line.append(f" {told['route']}" + (f" {told['model']}" if told["model"] else ""))
    line.append(f" → {told['provider'] or 'nobody'}, {span(told['ms'])}")
    before = [a for a in told["attempts"] if a["outcome"] != "success"]
    why = [f"{a['provider']}: {a['words']}" for a in before]
    why += [f"{r['provider']} is {r['reason']}" for r in told["refused"]]
    if why:
        line.append(f" ({'; '.join(dict.fromkeys(why))})", "dim")
    return line


class News:
    """What of a picture has not been told yet. State: the calls and events that were told, the latest last."""

    def __init__(self, *, before: int) -> None:
        """`before`: so many of what was there already are told, too."""
        self._before: int | None = before
        self._told: dict[tuple[Any, ...], None] = {}

    def of(self, picture: dict[str, Any]) -> list[Text]:
        # What a worker has counted may come late, after what another one has, and comes once more when it is replaced.
        most, self._before = self._before, None
        told = [(c["at"], call(c)) for c in self._new(picture, "calls")[:most]]
        told += [(e["at"], event(e)) for e in self._new(picture, "events")[:most]]
        for key in tuple(self._told)[: max(0, len(self._told) - REMEMBERED)]:
            del self._told[key]
        return [line for _, line in sorted(told, key=lambda each: each[0])]

    def _new(self, picture: dict[str, Any], what: str) -> list[dict[str, Any]]:
        found = []
        for each in picture[what]:
            key = what, each.get("worker"), each.get("run", picture.get("run")), each["number"]
            if key not in self._told:
                found.append(each)
            self._told[key] = None
        return found
