"""The dashboard for Grafana, as Grafana and Prometheus would take it."""

from __future__ import annotations

import json
import re
from typing import Any

from support.proxy import ROOT

TEXT = (ROOT / "addon" / "sidestep" / "page" / "grafana.json").read_text()


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(TEXT)["panels"]
    return found


def queries() -> list[str]:
    """Each query, with what Grafana puts in place of its variables."""
    found = [target["expr"] for panel in panels() for target in panel["targets"]]
    return [re.sub(r"\$__rate_interval|\$__range", "1m", q).replace("$instance", ".*") for q in found]
