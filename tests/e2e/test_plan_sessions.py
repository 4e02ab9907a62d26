"""Sessions of coding agents that are logged in with a plan, without the agents: their calls as they make them, with
nothing but keys in the environment. The real agents have the same sessions in `scripts/apps.py`."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from support.agents import logged_in, turn
from support.proxy import Mitmdump
from support.strict import final_words
from support.vendors import CHAINS, Vendors

Start = Callable[..., Mitmdump]


def start(proxy: Start, vendors: Vendors, folder: Path) -> Mitmdump:
    options = ("--mode", f"upstream:{vendors.way.url}", "--set", f"ssl_verify_upstream_trusted_ca={vendors.trusted}")
    m = proxy(None, *options, env={**vendors.keys, "XDG_CONFIG_HOME": str(folder)})
    if "OLLAMA_HOST" in vendors.keys:
        m.wait_for_log("ollama answers at")
    return m


def asked(trails: list[str]) -> set[str]:
    return {each.partition(":")[0] for trail in trails for each in trail.split(", ")}


@pytest.mark.parametrize("dialect", CHAINS)
def test_a_session_goes_on_when_its_plan_is_used_up(dialect: str, proxy: Start, tmp_path: Path) -> None:
    """The plan, a key at the same vendor, another provider, a server of this machine: each fails amid a turn, and the
    next one goes on from there. Once the window has begun anew the next turn is the plan's."""
    agent = logged_in(dialect)
    with Vendors(tmp_path, dialect) as vendors:
        m = start(proxy, vendors, tmp_path)
        names = [link.name for link in vendors.chain]
        for name, after in pairwise(names):
            vendors.switch_off(name, seconds=12)
            told, trails = turn(m, agent, f"until {name} refuses")
            assert told == final_words(after)
            assert {name, after} <= asked(trails)
            if time.time() > vendors.resets_at - 2:
                break  # so busy is this machine
        vendors.wait_for_reset()
        told, trails = turn(m, agent, "and now?")
        assert (told, asked(trails)) == (final_words(names[0]), {names[0]})
        assert vendors.astray == vendors.refusals == []


@pytest.mark.parametrize("dialect", ["openai", "gemini"])
def test_a_session_that_began_away_comes_home(dialect: str, proxy: Start, tmp_path: Path) -> None:
    """None of its reasoning is home's by then. The turn that is under way is brought to its end where it began."""
    agent = logged_in(dialect)
    with Vendors(tmp_path, dialect) as vendors:
        m = start(proxy, vendors, tmp_path)
        names = [link.name for link in vendors.chain]
        vendors.switch_off(names[0], after=0, seconds=8)
        vendors.switch_off(names[1], after=0)
        vendors.who[names[2]].then = vendors.wait_for_reset
        told, trails = turn(m, agent, "go")
        assert told == final_words(names[2]), trails
        told, trails = turn(m, agent, "again")
        assert (told, asked(trails)) == (final_words(names[0]), {names[0]})
        assert vendors.astray == vendors.refusals == []
