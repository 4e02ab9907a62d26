"""A mitmproxy script that notes a thousand times a second of CPU where the proxy is, and writes it down at the end.

`scripts/bench --profile` loads it. SIDESTEP_SAMPLES names the file that it writes.
"""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType

SECONDS = 0.001


def _name(code: CodeType) -> str:
    path = Path(code.co_filename)
    return f"{path.parent.name}/{path.name}:{code.co_qualname}"


class Sampler:
    """State: how often each function was found at work itself, and anywhere on the stack."""

    def __init__(self) -> None:
        self.own: Counter[str] = Counter()
        self.within: Counter[str] = Counter()

    def running(self) -> None:
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, SECONDS, SECONDS)

    def done(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        Path(os.environ["SIDESTEP_SAMPLES"]).write_text(json.dumps([dict(self.own), dict(self.within)]))

    def _sample(self, number: int, frame: FrameType | None) -> None:
        if frame is None:
            return
        self.own[_name(frame.f_code)] += 1
        seen = set()
        at: FrameType | None = frame
        while at is not None:
            seen.add(_name(at.f_code))
            at = at.f_back
        self.within.update(seen)


addons = [Sampler()]
