"""What `sidestep run` says once its command has ended: who has answered what, how people's plans are, and why no call
may have been seen.

Pure: what the proxy has reported comes in, lines come out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

HOSTS_NAMED = 3
NODE_CURE = "Node.js 24 (or 22.21) does with NODE_USE_ENV_PROXY=1; programs with a proxy setting of their own do"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What else may say why no call came. `intercepted`: the hosts whose calls are taken; `passed`: those that NO_PROXY
    lets pass by; `old_node`: the version of the Node.js that ran the command, where it knows no proxy."""

    intercepted: Collection[str]
    passed: Collection[str] = ()
    old_node: str = ""


def lines(report: Mapping[str, Any], around: Surroundings) -> list[str]:
    """All of it, the sum at last."""
    summary = report["summary"] or {}
    found = [] if summary.get("calls") else [unseen(report.get("hosts", ()), around)]
    for each in summary.get("providers", ()):
        found.append(spent(each))
    for name, plans in summary.get("plans", {}).items():
        found += [f"the plan at {name}: {'; '.join(map(window, told))}" for told in plans]
    return [*found, _sum(report)]


def unseen(hosts: Sequence[str], around: Surroundings) -> str:
    """Why no call was seen, as far as it can be told. `hosts`: to which the command went through the proxy, the one it
    asked for most first."""
    places = ", ".join(sorted(around.intercepted)) or "any host: there is no route"
    taken = [host for host in hosts if host in around.intercepted]
    if around.passed:
        why = f"NO_PROXY lets calls to {', '.join(sorted(around.passed))} go past Sidestep"
    elif taken:
        why = f"what went to {', '.join(taken[:HOSTS_NAMED])} was none of the calls that are routed"
    elif hosts:
        why = (
            f"the command went to {', '.join(hosts[:HOSTS_NAMED])} instead: a route of yours may have that for its "
            "intercept (sidestep init)"
        )
    elif around.old_node:
        why = f"Node.js {around.old_node} does not go through a proxy by itself: {NODE_CURE}"
    else:
        why = (
            "nothing came through the proxy. Programs that take none from the environment need a base URL; sidestep "
            "doctor looks for other causes"
        )
    return f"no call was seen to {places}; {why}"


def spent(told: Mapping[str, Any]) -> str:
    """What one provider has answered, and what for where that is known."""
    count, tokens, cost = told["answers"], told["tokens"], told["cost"]
    line = f"{told['name']} gave {count} answer{'' if count == 1 else 's'}"
    if any(tokens.values()):
        cached = f" ({tokens['cached']:,} from the cache)" if tokens["cached"] else ""
        line += f": {tokens['input']:,} tokens in{cached}, {tokens['output']:,} out"
    line += f", ${cost:.4f}" if cost else ""
    return line + (f", ${told['saved']:.4f} saved by the cache" if told["saved"] >= 0.0001 else "")


def window(told: Mapping[str, Any]) -> str:
    """One window of a plan: `5h 62 % used, anew in 2 h 10 min`."""
    name = told["window"] + (f" ({told['models']})" if told["models"] else "")
    used = told["status"] if told["used"] is None else f"{told['used']:.0%}".replace("%", " % used")
    return f"{name} {used}" + ("" if told["resets_in"] is None else f", anew in {length(told['resets_in'])}")


def length(seconds: float) -> str:
    """A length of time in its two largest units: `48 s`, `12 min`, `2 h 10 min`, `4 d 3 h`."""
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86_400)
    if minutes < 1:
        return f"{int(seconds)} s"
    if hours < 1:
        return f"{minutes} min"
    if days < 1:
        return f"{hours} h" + (f" {minutes % 60} min" if minutes % 60 else "")
    return f"{days} d" + (f" {hours % 24} h" if hours % 24 else "")


def _sum(report: Mapping[str, Any]) -> str:
    summary = report["summary"] or {"calls": 0, "failed": 0, "rerouted": []}
    calls, rerouted = summary["calls"], summary["rerouted"]
    line = f"{calls} call{'' if calls == 1 else 's'}"
    line += f", {sum(r['count'] for r in rerouted)} rerouted, {summary['failed']} failed"
    if rerouted:
        line += f" ({', '.join(f'{r["from"]} → {r["to"]} {r["count"]}' for r in rerouted)})"
    elif not report.get("connections"):
        line += " (nothing came through the proxy)"
    return line
