"""Makes mitmproxy's hooks cheaper: its built-in addons are not asked for hooks that they do not have.

mitmproxy offers every hook, and an `update` after each hook of a flow, to each of its 34 addons, most of which have no
such method: at four hooks a call that takes about as long as all that Sidestep does.
"""

from __future__ import annotations

import dataclasses
import inspect
import weakref
from collections.abc import Sequence
from typing import Any

from mitmproxy import exceptions, flow, hooks
from mitmproxy.addonmanager import AddonManager, safecall


class Dispatch:
    """In place of an addon manager's `handle_lifecycle` and `trigger_event`. State: the chain as it was when last
    looked at, and by hook those of it that may listen, with whether they can be asked without mitmproxy looking at what
    they hold."""

    def __init__(self, manager: AddonManager) -> None:
        self._manager = manager
        self._chain: list[Any] = []
        self._found: dict[str, list[tuple[Any, bool]]] = {}

    def install(self) -> None:
        """Until `remove`. A manager that is not mitmproxy's own, or whose method is replaced already, is left alone."""
        manager = self._manager
        if type(manager) is AddonManager and vars(manager).keys().isdisjoint(("trigger_event", "handle_lifecycle")):
            manager.trigger_event = self._trigger  # type: ignore[method-assign]
            manager.handle_lifecycle = self._lifecycle  # type: ignore[method-assign]

    def remove(self) -> None:
        if vars(self._manager).get("trigger_event") == self._trigger:
            del self._manager.trigger_event
            del self._manager.handle_lifecycle

    async def _lifecycle(self, event: hooks.Hook) -> None:
        message = _arguments(event)[0]
        await self._trigger(event)
        if isinstance(message, flow.Flow) and self._listening("update"):
            await self._trigger(hooks.UpdateHook([message]))

    def _listening(self, name: str) -> list[tuple[Any, bool]]:
        chain = self._manager.chain
        if chain != self._chain:
            self._chain = list(chain)
            self._found.clear()
        found = self._found.get(name)
        if found is None:
            found = self._found[name] = [(a, _is_lone(a, name)) for a in listening(self._chain, name)]
        return found

    async def _trigger(self, event: hooks.Hook) -> None:
        name = event.name
        found = self._listening(name)
        arguments = _arguments(event) if found else []
        for addon, is_lone in found:
            try:
                if is_lone:
                    answer = getattr(addon, name)(*arguments)
                    if answer is not None and inspect.isawaitable(answer):
                        await answer
                else:
                    with safecall():
                        await self._manager.invoke_addon(addon, event)
            except exceptions.AddonHalt:
                return
            except exceptions.OptionsError:
                raise
            except Exception:
                with safecall():  # tells of it
                    raise


def _arguments(event: hooks.Hook) -> list[Any]:
    """As `Hook.args`, which takes longer than most hooks do: it looks through the dataclass each time."""
    kind = type(event)
    names = _names.get(kind)
    if names is None:
        names = _names[kind] = tuple(field.name for field in dataclasses.fields(kind))  # type: ignore[arg-type]
    return [getattr(event, name) for name in names]


_names: weakref.WeakKeyDictionary[type[hooks.Hook], tuple[str, ...]] = weakref.WeakKeyDictionary()


def listening(chain: Sequence[Any], name: str) -> list[Any]:
    """Who in a chain may have the hook: all but those of mitmproxy's own addons that neither have it nor hold others.

    Only they are known not to grow a method later, as a script may that is loaded anew."""
    return [a for a in chain if hasattr(a, "addons") or hasattr(a, name) or not _is_built_in(a)]


def _is_lone(addon: object, name: str) -> bool:
    """Whether it is mitmproxy's own, holds no others, and has the hook."""
    return _is_built_in(addon) and not hasattr(addon, "addons") and callable(getattr(addon, name))


def _is_built_in(addon: object) -> bool:
    return type(addon).__module__.startswith("mitmproxy.")
