"""Makes mitmproxy's hooks cheaper: its built-in addons are not asked for hooks that they do not have, and where nobody
has to wait for an answer there is no task made to wait for it.

mitmproxy offers every hook, and an `update` after each hook of a flow, to each of its 34 addons, most of which have no
such method, and does so in a task of its own each time, which takes turns with all others: at four hooks a call that
takes longer than all that Sidestep does.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import types
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mitmproxy import exceptions, flow, hooks
from mitmproxy.addonmanager import AddonManager, safecall


class Dispatch:
    """In place of an addon manager's `handle_lifecycle` and `trigger_event`. State: the chain as it was when last
    looked at, and by hook those of it that may listen, with whether they can be asked without looking at what they
    hold; hooks that were begun and not done with at once."""

    def __init__(self, manager: AddonManager) -> None:
        self._manager = manager
        self._chain: list[Any] = []
        self._found: dict[str, list[tuple[Any, bool]]] = {}
        self._begun: dict[hooks.Hook, asyncio.Task[None]] = {}

    def install(self) -> None:
        """Until `remove`. A manager that is not mitmproxy's own, or whose method is replaced already, is left alone."""
        manager = self._manager
        if type(manager) is AddonManager and vars(manager).keys().isdisjoint(_REPLACED):
            manager.trigger_event = self._trigger  # type: ignore[method-assign]
            manager.handle_lifecycle = self._lifecycle  # type: ignore[method-assign]

    def remove(self) -> None:
        if vars(self._manager).get("trigger_event") == self._trigger:
            del self._manager.trigger_event
            del self._manager.handle_lifecycle

    def at_once(self, event: hooks.Hook) -> bool:
        """Ask here and now whoever listens. False: mitmproxy is to give the hook to the manager, and to wait: for an
        answer that takes its time (it has been asked for, and is not asked for again), or for a user who looks at the
        flow."""
        if vars(self._manager).get("handle_lifecycle") != self._lifecycle:
            return False
        # Eagerly: where no addon waits for anything it is over when it is made.
        task = asyncio.Task(self._lifecycle(event), loop=asyncio.get_running_loop(), eager_start=True)
        message = _arguments(event)[0]
        is_looked_at = isinstance(message, flow.Flow) and message.intercepted
        if task.done() and task.exception() is None and not is_looked_at:
            return True
        self._begun[event] = task
        return False

    async def _lifecycle(self, event: hooks.Hook) -> None:
        if (begun := self._begun.pop(event, None)) is not None:
            await begun
            return
        arguments = _arguments(event)
        await self._ask(event.name, arguments)
        if isinstance(arguments[0], flow.Flow):
            await self._ask("update", [arguments[:1]])

    async def _trigger(self, event: hooks.Hook) -> None:
        await self._ask(event.name, _arguments(event))

    def _listening(self, name: str) -> list[tuple[Any, bool]]:
        chain = self._manager.chain
        if chain != self._chain:
            self._chain = list(chain)
            self._found.clear()
        found = self._found.get(name)
        if found is None:
            found = self._found[name] = [(a, _is_lone(a, name)) for a in listening(self._chain, name)]
        return found

    async def _ask(self, name: str, arguments: list[Any]) -> None:
        for addon, is_lone in self._listening(name):
            try:
                for function in (getattr(addon, name),) if is_lone else _functions(addon, name):
                    answer = function(*arguments)
                    if answer is not None and inspect.isawaitable(answer):
                        await answer
            except exceptions.AddonHalt:
                return
            except exceptions.OptionsError:
                raise
            except Exception:
                with safecall():  # tells of it
                    raise


_REPLACED = frozenset({"trigger_event", "handle_lifecycle", "invoke_addon", "_iter_hooks"})
"""What is done here in place of an addon manager."""


def _functions(addon: object, name: str) -> Iterator[Callable[..., Any]]:
    """The functions of an addon, and of those that it holds, that listen to a hook: as mitmproxy looks for them."""
    left = [addon]
    while left:
        at: Any = left.pop()
        if function := getattr(at, name, None):
            if callable(function):
                yield function
            elif not isinstance(function, types.ModuleType):  # a script may import what is called like a hook
                raise exceptions.AddonManagerError(f"Addon handler {name} ({at}) not callable")
        if held := getattr(at, "addons", None):
            left += reversed([*held])


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
