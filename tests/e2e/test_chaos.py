"""A short chaos run: the long one is ./scripts/chaos."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import chaos


@pytest.mark.parametrize("commit", ["complete", "first_content"])
def test_chaos(commit: str, tmp_path: Path) -> None:
    """While one of three providers is healthy at each moment the app sees whole answers only; with `first_content`
    the only errors are streams broken after content."""
    report = chaos.run(tmp_path / "proxy", requests=200, seed=4, commit=commit, at_once=8, patience=2)
    assert report.errors == []
    assert sum(report.answered_by.values()) + report.broken_streams == report.requests
    providers = report.health["providers"]
    assert isinstance(providers, dict)
    assert sum(p["permits_out"] + p["in_flight"] for p in providers.values()) == 0
