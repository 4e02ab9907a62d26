"""A short form of ./scripts/fuzz, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.proxy import ROOT, clean_env

SCRIPT = ROOT / "scripts" / "fuzz.py"


def fuzz(*options: str) -> subprocess.CompletedProcess[str]:
    paths = f"{ROOT / 'addon'}:{ROOT / 'tests'}"
    command = [sys.executable, str(SCRIPT), *options]
    return subprocess.run(command, capture_output=True, text=True, env=clean_env(PYTHONPATH=paths), timeout=80)


@pytest.mark.parametrize("options", [("--pure", "3000", "--live", "0"), ("--pure", "0", "--live", "100")])
def test_odd_inputs_do_no_harm(options: tuple[str, ...]) -> None:
    """Nothing raises, hangs, grows, looks whole that is not, or tells what it must not."""
    ran = fuzz(*options, "--seed", "11")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ": 0 findings" in ran.stdout


@pytest.mark.parametrize("case", ["streams:17", "cut:4"])
def test_one_case_is_run_again(case: str) -> None:
    ran = fuzz("--case", case, "--seed", "11")
    assert (ran.returncode, ran.stdout) == (0, f"case {case} of seed 11: 0 findings\n")
