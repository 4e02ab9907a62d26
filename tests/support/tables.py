"""Loaded into mitmdump beside Sidestep: tells how large each of its tables is, for tests that fill them.

`http://tables.test/` answers with JSON: of every container that hangs on Sidestep's objects and modules its entries, of
every bounded table its bytes as well, of every kept function its results.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from typing import Any

from mitmproxy import ctx, http

CONTAINERS = (dict, set, list, deque)


def sizes() -> dict[str, int]:
    found: dict[str, int] = {}
    _look("addon", ctx.master.addons.get("sidestep"), found, set())
    for name, module in list(sys.modules.items()):
        if module is not None and name.partition(".")[0] == "sidestep":
            for key, value in list(vars(module).items()):
                where = f"{name}.{key}"
                if hasattr(value, "cache_info"):
                    if value.__module__ == name:
                        found[where] = value.cache_info().currsize
                elif isinstance(value, CONTAINERS) and not key.startswith("__"):
                    found[where] = len(value)
    return found


def _look(where: str, thing: Any, found: dict[str, int], seen: set[int]) -> None:
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, CONTAINERS):
        found[where] = len(thing)
        if not isinstance(thing, list):
            return
    if isinstance(thing, list):
        for i, item in enumerate(thing):
            _look(f"{where}[{i}]", item, found, seen)
    elif type(thing).__module__.partition(".")[0] == "sidestep":
        if hasattr(thing, "bytes") and hasattr(thing, "__len__"):
            found[where], found[f"{where} bytes"] = len(thing), thing.bytes
            return
        names = [*getattr(thing, "__dict__", ()), *getattr(type(thing), "__slots__", ())]
        for name in names:
            if hasattr(thing, name):
                _look(f"{where}.{name}", getattr(thing, name), found, seen)


class Tables:
    def request(self, flow: http.HTTPFlow) -> None:
        if flow.request.host == "tables.test":
            flow.response = http.Response.make(200, json.dumps(sizes()), {"content-type": "application/json"})


addons = [Tables()]
