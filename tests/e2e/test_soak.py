"""A short form of ./scripts/soak."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support import hostility, soak

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what a process holds is told by /proc")


def test_after_failures_and_leaving_clients_all_is_as_it_was(tmp_path: Path) -> None:
    """Memory, descriptors, tasks, permits, calls in flight, the tables of what is under way."""
    _, _, report = soak.run(tmp_path, seconds=10, seed=3, rate=15)
    assert report.findings == []
    assert report.kinds.keys() == set(hostility.ORDER)
