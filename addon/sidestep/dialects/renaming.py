"""The model's name in an answer of Anthropic's Messages, as the app knows it.

Claude Code goes on with a session (`--continue`, `--resume`) under the name that its last answer bears. The name that a
stand-in has for a model is not known at home, where the session would then never come back to. Pure: no mitmproxy, no
clock, no I/O.
"""

from __future__ import annotations

import re

import msgspec

from sidestep.dialects import common

MAX_START = 8 << 10
"""The first event is not as long; of a longer one the name stays as it is."""
MAX_WHOLE = 1 << 20
"""The same of a document."""
_MODEL = re.compile(rb'"model"\s*:\s*("(?:[^"\\]|\\.)*")')
"""Within a string the quotes would be escaped."""


class Renamer:
    """Puts a model's name into an answer as it flows. State: what is kept until the name was found, and whether it
    was, or will not be."""

    def __init__(self, name: str, *, stream: bool) -> None:
        self._name = common.encode(name)
        self._stream = stream
        self._kept = b""
        self.done = False

    def feed(self, data: bytes) -> bytes:
        """The same bytes, as far as the name in them is known; of a document nothing before its end."""
        if self.done:
            return data
        self._kept += data
        if not self._stream:
            self.done = len(self._kept) > MAX_WHOLE
            return self._all() if self.done else b""
        # Signs of life come before it, and are wanted at once.
        before, found_start, _ = self._kept.partition(b"message_start")
        line = before.rfind(b"\n") + 1
        ready, self._kept = self._kept[:line], self._kept[line:]
        if not found_start:
            self.done = len(self._kept) > MAX_START
            return ready + self._all() if self.done else ready
        start, content, _ = self._kept.partition(b"content_block")
        if (found := _MODEL.search(start)) is not None:
            self._kept = self._kept[: found.start(1)] + self._name + self._kept[found.end(1) :]
            self.done = True
        elif len(self._kept) > MAX_START or content:
            self.done = True
        return ready + self._all() if self.done else ready

    def end(self) -> bytes:
        """What is left at the end."""
        kept, self.done = self._all(), True
        fields = None if self._stream else common.fields_of(kept)
        if fields is None or "model" not in fields:
            return kept
        return common.encode({**fields, "model": msgspec.Raw(self._name)})

    def _all(self) -> bytes:
        kept, self._kept = self._kept, b""
        return kept
