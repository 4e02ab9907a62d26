"""Sidestep: a mitmproxy addon that sends an unchanged app's LLM calls to a provider that works."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidestep.addon import Sidestep

__all__ = ["Sidestep"]


def __getattr__(name: str) -> object:
    # The rooms below the shell can be used, and tested, without loading mitmproxy.
    if name == "Sidestep":
        from sidestep.addon import Sidestep

        return Sidestep
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
