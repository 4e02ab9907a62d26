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


def test_what_is_no_function_is_told_of_and_a_module_is_not(caplog: pytest.LogCaptureFixture) -> None:
    class Names:
        request = asyncio  # a module, as after `from mitmproxy import log`

    class Wrong:
        request = "not a function"

    async def test(manager: AddonManager) -> None:
        Dispatch(manager).install()
        script = Script()
        manager.chain += [Names(), script]
        await call(manager)
        assert len(script.seen) == 1
        assert "not callable" not in caplog.text
        manager.chain[-1:] = [Wrong(), script]
        await call(manager)
        assert len(script.seen) == 2
        assert "not callable" in caplog.text

    with_master(test)


def test_after_each_hook_of_a_flow_comes_an_update() -> None:
    class Script:
        seen: list[object]

        def update(self, flows: list[http.HTTPFlow]) -> None:
            self.seen.append(flows)

        def request(self, flow: http.HTTPFlow) -> None:
            self.seen.append(flow)

    async def test(manager: AddonManager) -> None:
        Dispatch(manager).install()
        manager.add(script := Script())
        script.seen = []
        flow = await call(manager)
        assert script.seen == [flow, [flow]]

    with_master(test)


# --- at once


class Waits(Script):
    async def request(self, flow: http.HTTPFlow) -> None:  # type: ignore[override]
        self.seen.append(flow)
        await asyncio.sleep(0)
        self.seen.append(flow)


def test_hooks_that_nobody_waits_for_are_over_at_once() -> None:
    async def test(manager: AddonManager) -> None:
        dispatch = Dispatch(manager)
        manager.add(script := Script())
        event = HttpRequestHook(flow_of())
        assert not dispatch.at_once(event)
        assert script.seen == []  # it is not installed
        dispatch.install()
        assert dispatch.at_once(event)
        assert script.seen == [event.flow]
        dispatch.remove()
        assert not dispatch.at_once(event)
        assert script.seen == [event.flow]

    with_master(test)


def test_a_hook_that_waits_is_begun_and_goes_on_where_mitmproxy_waits_for_it() -> None:
    async def test(manager: AddonManager) -> None:
        dispatch = Dispatch(manager)
        dispatch.install()
        manager.add(waits := Waits("waits"), after := Script("after"))
        event = HttpRequestHook(flow_of())
        assert not dispatch.at_once(event)
        assert (waits.seen, after.seen) == ([event.flow], [])
        await manager.handle_lifecycle(event)
        assert (waits.seen, after.seen) == ([event.flow] * 2, [event.flow])
        await manager.handle_lifecycle(event)  # it is asked for anew
        assert len(after.seen) == 2

    with_master(test)


def test_a_flow_that_a_user_looks_at_is_waited_for() -> None:
    class Holds(Script):
        def request(self, flow: http.HTTPFlow) -> None:
            super().request(flow)
            flow.intercept()

    async def test(manager: AddonManager) -> None:
        dispatch = Dispatch(manager)
        dispatch.install()
        manager.add(holds := Holds())
        event = HttpRequestHook(flow_of())
        assert not dispatch.at_once(event)
        await manager.handle_lifecycle(event)
        assert holds.seen == [event.flow]

    with_master(test)


def test_an_error_that_mitmproxy_raises_is_raised_where_it_waits() -> None:
    class Refuses:
        def request(self, flow: http.HTTPFlow) -> None:
            raise exceptions.OptionsError("no")

    async def test(manager: AddonManager) -> None:
        dispatch = Dispatch(manager)
        dispatch.install()
        manager.add(Refuses())
        event = HttpRequestHook(flow_of())
        assert not dispatch.at_once(event)
        with pytest.raises(exceptions.OptionsError):
            await manager.handle_lifecycle(event)

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
