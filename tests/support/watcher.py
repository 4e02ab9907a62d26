"""Loaded into mitmdump beside Sidestep: `http://watch.test/` tells what the process holds, and what its flows say.

As JSON: tasks of the event loop, entries of each of Sidestep's tables; the errors, comments and metadata of the flows
that have ended since it was last asked. What is free is given back to the system first, so that resident memory says
something.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
from collections import deque
from typing import Any

from mitmproxy import flow, http

from support.tables import sizes

HOST = "watch.test"


class Watcher:
    def __init__(self) -> None:
        self.ended: deque[tuple[flow.Error | None, str, dict[str, Any]]] = deque(maxlen=1_000)

    def request(self, flow: http.HTTPFlow) -> None:
        if flow.request.host != HOST:
            return
        gc.collect()
        if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
            libc.malloc_trim(0)
        told = [f"{error} {comment} {metadata}" for error, comment, metadata in self.ended]
        self.ended.clear()
        found = {"tasks": len(asyncio.all_tasks()), "tables": sizes(), "flows": told}
        flow.response = http.Response.make(200, json.dumps(found), {"content-type": "application/json"})

    def response(self, flow: http.HTTPFlow) -> None:
        if flow.request.host != HOST:
            self.ended.append((flow.error, flow.comment, flow.metadata))

    error = response


addons = [Watcher()]
