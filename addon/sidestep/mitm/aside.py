"""What is left of Sidestep on a mitmproxy that lacks what it needs: it says so, and touches no call.

Only mitmproxy's documented names may be used here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from mitmproxy import http

from sidestep.calls.replies import INTERNAL_HOST
from sidestep.mitm.expected import SUPPORTED

SAID = 8
"""So many of the things that are missing are named in the log; the page names them all."""


class Aside:
    """In place of all other parts. State: mitmproxy's version, what it lacks."""

    name = "sidestep.aside"

    def __init__(self, version: str, lacking: Sequence[str]) -> None:
        self._version = version
        self._lacking = lacking

    def __str__(self) -> str:
        said, unsaid = self._lacking[:SAID], self._lacking[SAID:]
        more = f"; and {len(unsaid)} more" if unsaid else ""
        return (
            f"mitmproxy {self._version} lacks what Sidestep relies on: {'; '.join(said)}{more}. All traffic passes "
            f"through untouched, without failover. Supported: mitmproxy{SUPPORTED}"
        )

    def request(self, flow: http.HTTPFlow) -> None:
        """The pages of `sidestep.internal` say so too."""
        if INTERNAL_HOST in (flow.request.host, flow.request.pretty_host) and flow.response is None:
            body = json.dumps({"status": "unhealthy", "reason": str(self), "missing": self._lacking}, indent=1)
            flow.response = http.Response.make(503, body, {"content-type": "application/json"})
