"""Makes mitmproxy's hooks cheaper: its built-in addons are not asked for hooks that they do not have.

mitmproxy offers every hook, and an `update` after each hook of a flow, to each of its 34 addons, most of which have no
such method: at four hooks a call that takes about as long as all that Sidestep does.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from mitmproxy import hooks
from mitmproxy.addonmanager import AddonManager


class Dispatch:
    """In place of an addon manager's `trigger_event`, which it calls with a shorter chain. State: the chain as it
    was when last looked at, and by hook a stand-in for the manager that holds those of that chain that may listen."""

    def __init__(self, manager: AddonManager) -> None:
        self._manager = manager
        self._chain: list[Any] = []
        self._stand_ins: dict[str, AddonManager] = {}

    def install(self) -> None:
        """Until `remove`. A manager that is not mitmproxy's own, or whose method is replaced already, is left alone."""
        if type(self._manager) is AddonManager and "trigger_event" not in vars(self._manager):
            self._manager.trigger_event = self._trigger  # type: ignore[method-assign]

    def remove(self) -> None:
        if vars(self._manager).get("trigger_event") == self._trigger:
            del self._manager.trigger_event

    async def _trigger(self, event: hooks.Hook) -> None:
        manager = self._manager
        if manager.chain != self._chain:
            self._chain = list(manager.chain)
            self._stand_ins.clear()
        stand_in = self._stand_ins.get(event.name)
        if stand_in is None:
            stand_in = self._stand_ins[event.name] = copy.copy(manager)
            stand_in.chain = listening(self._chain, event.name)
        await AddonManager.trigger_event(stand_in, event)


def listening(chain: Sequence[Any], name: str) -> list[Any]:
    """Who in a chain may have the hook: all but those of mitmproxy's own addons that neither have it nor hold others.

    Only they are known not to grow a method later, as a script may that is loaded anew."""
    return [a for a in chain if hasattr(a, "addons") or hasattr(a, name) or not _is_built_in(a)]


def _is_built_in(addon: object) -> bool:
    return type(addon).__module__.startswith("mitmproxy.")
