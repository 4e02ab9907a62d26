"""Sessions of coding agents, without the agents: their calls as they make them, with nothing but keys in the
environment, or names of the catalog.

Both providers are strict about what another has signed or sealed (`support.strict`); the real agents have the same
sessions in `scripts/apps.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support.agents import Agent, ClaudeCode, Codex, GeminiAgent, turn
from support.provider import Behaviour
from support.proxy import Mitmdump
from support.sessions import KEYS, STAND_INS, Place
from support.strict import final_words

Start = Callable[..., Mitmdump]


SESSIONS: list[tuple[type[Agent], str]] = [
    (ClaudeCode, "openrouter with Claude"),
    (ClaudeCode, "deepseek-anthropic"),
    (ClaudeCode, "a gateway"),
    (Codex, "openrouter"),
    (Codex, "azure"),
    (GeminiAgent, "vertex"),
]


@pytest.mark.parametrize(("kind", "stand_in"), SESSIONS, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_an_agents_session_goes_on(kind: type[Agent], stand_in: str, proxy: Start, tmp_path: Path) -> None:
    """After two good answers its provider fails: the other one answers, and refuses nothing of what it gets. Behind a
    proxy that has seen nothing of all that the session goes on as well, at home and then again elsewhere."""
    agent = kind()
    with Place(tmp_path, kind.dialect, stand_in, "503") as place:
        keys = {**KEYS, "XDG_CONFIG_HOME": str(tmp_path)}
        options = ("--mode", f"upstream:{place.way.url}", "--set", f"ssl_verify_upstream_trusted_ca={place.trusted}")
        named = stand_in.partition(" ")[0]
        own, other = agent.dialect, "mine" if STAND_INS[stand_in].toml.startswith('name = "mine"') else named

        def start() -> Mitmdump:
            return proxy(place.config, *options, env=keys)

        told, trails = turn(start(), agent, "go")
        assert told == final_words("b")
        assert trails[:3] == [f"{own}:200", f"{own}:200", f"{own}:503, {own}:503, {other}:200"]
        m = start()
        place.heal()
        assert turn(m, agent, "again")[0] == final_words("a")
        place.a.fault = Behaviour(status=503)
        assert turn(m, agent, "once more")[0] == final_words("b")
        assert place.b.refusals == place.astray == []
        assert len(place.a.refusals) <= 1
