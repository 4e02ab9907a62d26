"""How the log looks: coloured on a terminal, or as JSON lines (`sidestep_log = "json"`), each an object of its own."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

from mitmproxy import ctx
from mitmproxy.addons.termlog import TermLog
from mitmproxy.utils import human

from sidestep import handover

FACTS = "sidestep"
"""Under this name a record of ours bears what it is about, as plain data."""

_COLOURS = {"answered": 32, "rerouted": 33, "failed": 31, "cooldown": 33, "hedge": 36, "open": 31, "closed": 32}
"""ANSI colours, by what a line tells."""


class JsonLines(logging.Formatter):
    """One object a line: `time` (RFC 3339, UTC), `level`, `source` (`sidestep` or `mitmproxy`), `text`, and where a
    line is about a call, a circuit or a cooldown, `event` with its facts."""

    def format(self, record: logging.LogRecord) -> str:
        ours = record.name.startswith("sidestep")
        text = record.getMessage()
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "source": "sidestep" if ours else "mitmproxy",
            "text": text.removeprefix("sidestep: ") if ours else text,
        }
        if handover.share is not None:
            told["worker"] = handover.share.number
        if record.exc_info:
            told["trace"] = self.formatException(record.exc_info)
        if client := vars(record).get("client"):
            told["client"] = human.format_address(client)
        return json.dumps({**told, **vars(record).get(FACTS, {})}, ensure_ascii=False)


class Coloured(logging.Formatter):
    """Another form, with a colour for what a line of ours tells."""

    def __init__(self, plain: logging.Formatter) -> None:
        super().__init__()
        self._plain = plain

    def format(self, record: logging.LogRecord) -> str:
        colour = _COLOURS.get(vars(record).get(FACTS, {}).get("event", ""))
        line = self._plain.format(record)
        if colour is None or record.levelno != logging.INFO:
            return line
        text = record.getMessage()
        return line.replace(text, f"\x1b[{colour}m{text}\x1b[0m")


class Dress:
    """State: mitmproxy's own form, while another one is in its place."""

    def __init__(self) -> None:
        self._plain: logging.Formatter | None = None

    def put_on(self, form: str) -> None:
        """Give mitmproxy's log this form, `text` or `json`."""
        terminal = ctx.master.addons.get("termlog")
        if not isinstance(terminal, TermLog):
            return  # it is no program with a terminal of its own
        self.take_off()
        handler = terminal.logger
        self._plain = handler.formatter
        if form == "json":
            handler.setFormatter(JsonLines())
        elif handler.has_vt_codes and self._plain is not None:
            handler.setFormatter(Coloured(self._plain))

    def take_off(self) -> None:
        terminal = ctx.master.addons.get("termlog")
        if isinstance(terminal, TermLog) and self._plain is not None:
            terminal.logger.setFormatter(self._plain)
        self._plain = None
