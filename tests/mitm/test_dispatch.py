"""Hooks reach with the shorter dispatch whom they reach without it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from mitmproxy import exceptions, hooks, http, options
from mitmproxy.addonmanager import AddonManager
from mitmproxy.proxy.layers.http._hooks import HttpRequestHook
from mitmproxy.tools.dump import DumpMaster
from mitmproxy.tools.web.master import WebMaster

from sidestep.mitm.dispatch import Dispatch, listening
from support.flows import flow_of


def with_master(test: Callable[[AddonManager], Awaitable[None]], kind: type[Any] = DumpMaster) -> None:
    async def run() -> None:
        await test(kind(options.Options(), with_termlog=False).addons)

    asyncio.run(run())


class Script:
    """What a user's addon is to mitmproxy."""

    def __init__(self, name: str = "script") -> None:
        self.name = name
        self.seen: list[http.HTTPFlow] = []

    def request(self, flow: http.HTTPFlow) -> None:
        self.seen.append(flow)


class Late:
    """An addon that grows a hook after it was asked for it."""


async def call(manager: AddonManager) -> http.HTTPFlow:
    flow = flow_of()
    await manager.handle_lifecycle(HttpRequestHook(flow))
    return flow


@pytest.mark.parametrize("kind", [DumpMaster, WebMaster])
def test_who_is_left_out_has_no_such_hook(kind: type[Any]) -> None:
    """For every hook that there is, all of mitmproxy's addons that have it are still there, and in order."""

    async def test(manager: AddonManager) -> None:
        assert len(hooks.all_hooks) > 30
        for name, kind in hooks.all_hooks.items():
            event = kind.__new__(kind)
            event.__class__.name = name
            everybody = [found for a in manager.chain for found in manager._iter_hooks(a, event)]
            shorter = listening(manager.chain, name)
            assert [found for a in shorter for found in manager._iter_hooks(a, event)] == everybody
        assert len(listening(manager.chain, "requestheaders")) < len(manager.chain) / 3

    with_master(test, kind)


def test_addons_come_and_go() -> None:
    async def test(manager: AddonManager) -> None:
        Dispatch(manager).install()
        await call(manager)
        script = Script()
        manager.add(script)
        flow = await call(manager)
        assert script.seen == [flow]
        manager.remove(script)
        await call(manager)
        assert script.seen == [flow]

    with_master(test)


def test_an_addon_may_grow_a_hook() -> None:
    async def test(manager: AddonManager) -> None:
        Dispatch(manager).install()
        late, seen = Late(), list[http.HTTPFlow]()
        manager.add(late)
        await call(manager)
        late.request = seen.append  # type: ignore[attr-defined]
        flow = await call(manager)
        assert seen == [flow]

    with_master(test)


def test_a_script_that_is_loaded_anew() -> None:
    """Scripts live inside an addon of mitmproxy's: what they hold is looked at each time."""

    async def test(manager: AddonManager) -> None:
        Dispatch(manager).install()
        await call(manager)
        loader = manager.get("scriptloader")
        loader.addons.append(before := Script())
        flow = await call(manager)
        loader.addons[:] = [after := Script()]
        again = await call(manager)
        assert (before.seen, after.seen) == ([flow], [again])

    with_master(test)


def test_errors_and_halts_are_what_they_were(caplog: pytest.LogCaptureFixture) -> None:
    class Breaks:
        def request(self, flow: http.HTTPFlow) -> None:
            raise ValueError("a script's mistake")

    class Halts:
        async def request(self, flow: http.HTTPFlow) -> None:
            raise exceptions.AddonHalt

    async def test(manager: AddonManager) -> None:
        Dispatch(manager).install()
        after_error, after_halt = Script("after error"), Script("after halt")
        manager.add(Breaks(), after_error, Halts(), after_halt)
        with caplog.at_level(logging.ERROR):
            flow = await call(manager)
        assert "a script's mistake" in caplog.text
        assert (after_error.seen, after_halt.seen) == ([flow], [])

    with_master(test)


def test_errors_and_halts_of_mitmproxy_s_own_addons(caplog: pytest.LogCaptureFixture) -> None:
    async def test(manager: AddonManager) -> None:
        script = Script()
        manager.add(script)
        Dispatch(manager).install()
        own = manager.get("maplocal")

        def breaks(flow: http.HTTPFlow) -> None:
            raise ValueError("mitmproxy's mistake")

        async def halts(flow: http.HTTPFlow) -> None:
            raise exceptions.AddonHalt

        own.request = breaks
        with caplog.at_level(logging.ERROR):
            flow = await call(manager)
        assert "mitmproxy's mistake" in caplog.text
        assert script.seen == [flow]
        own.request = halts
        await call(manager)
        assert script.seen == [flow]

    with_master(test)


def test_it_is_installed_once_and_leaves_no_trace() -> None:
    async def test(manager: AddonManager) -> None:
        first, second = Dispatch(manager), Dispatch(manager)
        first.install()
        second.install()
        second.remove()
        assert "trigger_event" in vars(manager)
        first.remove()
        assert "trigger_event" not in vars(manager)

    with_master(test)


def test_a_manager_of_somebody_elses_is_left_alone() -> None:
    class Other(AddonManager):
        pass

    async def test(manager: AddonManager) -> None:
        other = Other(manager.master)  # type: ignore[no-untyped-call]
        Dispatch(other).install()
        assert "trigger_event" not in vars(other)

    with_master(test)
