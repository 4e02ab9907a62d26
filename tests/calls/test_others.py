"""Workers that ask one another for their figures, and follow what a user does at one."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mitmproxy import http

from sidestep import siblings
from sidestep.breaker.circuit import State
from sidestep.calls.entrance import Entrance
from sidestep.calls.others import ANSWER_SECONDS, SILENT_SECONDS, Others
from sidestep.calls.pages import Later, Pages
from sidestep.calls.shared import Core
from sidestep.handover import Share
from support.flows import flow_of
from support.world import World, toml


class Worker:
    """State: what one process has."""

    def __init__(self, folder: Path, number: int, workers: int = 2) -> None:
        self.world = World(toml("priority", a="", b=""))
        self.core = Core()
        self.core.clock = lambda: self.world.now
        self.core.engine = self.engine = self.world.engine
        self.others = self.core.others = Others(self.core, Share(number, workers, 1, "token", str(folder)))
        self.pages = Pages(self.core, Entrance())

    def ask(self, path: str, method: str = "GET") -> Later:
        request = flow_of(method, f"http://sidestep.internal{path}").request
        request.headers["x-sidestep-token"] = self.core.token
        shown = self.pages.answer(request, self.engine, details=True)
        assert isinstance(shown, Later)
        return shown

    def hear(self) -> None:
        """What others have said, as when the loop turns; and leave what they have asked for."""
        self.world.now += 1
        self.others._hear()

    def state(self) -> dict[str, object]:
        told: dict[str, object] = json.loads(said(self.ask("/state").make()))
        return told


def said(response: http.Response | None) -> bytes:
    assert response is not None
    return response.content or b""


@pytest.fixture
def both(tmp_path: Path) -> Iterator[tuple[Worker, Worker]]:
    """Started in a loop whose timers are up at once."""
    loop = asyncio.new_event_loop()

    class Timers:
        @staticmethod
        def add_reader(*_: object) -> None: ...

        @staticmethod
        def call_later(_: float, act: Callable[[], object]) -> asyncio.TimerHandle:
            act()
            return loop.call_later(0, lambda: None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "get_running_loop", Timers)
        workers = Worker(tmp_path, 1), Worker(tmp_path, 2)
        for w in workers:
            w.others.start(w.engine)
            w.others._leave(metrics=True)
        yield workers
        for w in workers:
            if w.others._door is not None:
                w.others._door.close()
    loop.close()


def test_a_page_waits_until_the_others_have_answered(both: tuple[Worker, Worker]) -> None:
    one, two = both
    two.engine.requests_total["openai", "answered"] = 3
    later = one.ask("/state")
    assert later.look() is None
    two.hear()
    told = json.loads(said(later.look()))
    assert told["totals"]["calls"] == 3
    assert [w["state"] for w in told["workers"]] == ["serves", "serves"]


def test_one_that_does_not_answer_is_waited_for_a_moment(both: tuple[Worker, Worker]) -> None:
    """And shown as that, until it answers."""
    one, two = both
    later = one.ask("/state")
    one.world.now += ANSWER_SECONDS
    told = json.loads(said(later.look()))
    assert told["workers"][1] | {"calls": 0} == {
        "number": 2,
        "state": "silent",
        "silent_seconds": 1,
        "calls": 0,
        "failed": 0,
        "in_flight": 0,
        "mode": "enforce",
    }
    one.world.now += 10
    later = one.ask("/health")
    two.hear()
    assert json.loads(said(later.look()))["workers"]["2"]["state"] == "serves"
    one.ask("/health")
    one.world.now += SILENT_SECONDS / 2
    assert one.others.workers(one.engine)[2]["state"] == "serves"


def test_one_that_is_not_there_is_not_waited_for(both: tuple[Worker, Worker]) -> None:
    one, two = both
    two.engine.requests_total["openai", "answered"] = 3
    two.core.overview.changed()
    two.others._leave(metrics=False)
    siblings.ended(str(two.others._folder), 2)
    told = json.loads(said(one.ask("/state").look()))
    assert (told["workers"][1], told["totals"]["calls"]) == ({"number": 2, "state": "starting"}, 3)


def test_metrics_are_those_of_all(both: tuple[Worker, Worker]) -> None:
    one, two = both
    two.engine.requests_total["openai", "answered"] = 3
    later = one.ask("/metrics")
    assert later.look() is None
    two.hear()
    assert b'sidestep_requests_total{worker="2",result="answered",route="openai"} 3.0' in said(later.look())


def test_what_is_done_at_one_is_done_at_all(both: tuple[Worker, Worker]) -> None:
    """And told where, once the others have followed."""
    one, two = both
    later = one.ask("/circuit/open/a", "POST")
    assert later.look() is None
    left = siblings.left(one.others._folder, 1)
    assert left is not None
    assert left.held == {"a": "open"}, "whoever starts now takes it over"
    two.hear()
    assert said(later.look()) == b"done on 2 workers\n"
    assert two.engine.held == {"a": State.FORCED_OPEN}
    later = two.ask("/mode/off", "POST")
    one.hear()
    assert (said(later.look()), one.engine.mode) == (b"done on 2 workers\n", "off")
    one.ask("/circuit/auto/a", "POST")
    two.hear()
    assert two.engine.held == {}


def test_where_one_does_not_follow_that_is_told(both: tuple[Worker, Worker]) -> None:
    one, two = both
    later = one.ask("/circuit/open/a", "POST")
    one.world.now += ANSWER_SECONDS
    assert said(later.look()) == (b"done on 1 of 2 workers: worker 2 does not answer, and follows when it does\n")
    siblings.ended(str(two.others._folder), 2)
    assert said(one.ask("/mode/off", "POST").look()) == (
        b"done on 1 of 2 workers: worker 2 is being started, and takes it over\n"
    )


def test_nonsense_changes_nothing(both: tuple[Worker, Worker]) -> None:
    """A provider that there is not here, a word that is none, bytes that are no message."""
    one, two = both
    assert one.others._door is not None
    one.others.ask(hold=("x", "open"))
    one.others.ask(hold=("a", "ajar"))
    one.others.ask(mode="wild")
    one.others._door.socket.sendto(b"{", str(one.others._folder / "2.s"))
    two.hear()
    assert (two.engine.held, two.engine.mode) == ({}, "enforce")


def test_one_in_the_place_of_another_knows_what_a_user_has_set(both: tuple[Worker, Worker], tmp_path: Path) -> None:
    """From another that runs; or, where none does, from what the one before it has left."""
    _, two = both
    two.engine.hold("a", State.FORCED_OPEN)
    two.engine.set_mode("observe")
    two.others._leave(metrics=False)
    siblings.ended(str(tmp_path), 1)
    successor = Worker(tmp_path, 1)
    successor.others.start(successor.engine)
    assert (successor.engine.held, successor.engine.mode) == ({"a": State.FORCED_OPEN}, "observe")
    successor.others._leave(metrics=False)
    two.engine.hold("a", None)
    for number in (1, 2):
        siblings.ended(str(tmp_path), number)
    last = Worker(tmp_path, 1)
    last.others.start(last.engine)
    assert last.engine.held == {"a": State.FORCED_OPEN}
    for w in (successor, last):
        assert w.others._door is not None
        w.others._door.close()


def test_an_event_asks_for_the_next_one(both: tuple[Worker, Worker]) -> None:
    one, two = both
    two.engine.requests_total["openai", "answered"] = 3
    assert b'"totals":{"calls":0' in one.pages.event(one.engine)
    two.hear()
    assert b'"totals":{"calls":3' in one.pages.event(one.engine)


def test_figures_are_left_now_and_then_until_the_folder_is_gone(tmp_path: Path) -> None:
    async def run() -> None:
        w = Worker(tmp_path / "f", 1, 1)
        w.others.start(w.engine)  # there is no folder: nobody can ask
        await w.others.run()
        (tmp_path / "f").mkdir()
        w.others.start(w.engine)
        task = asyncio.create_task(w.others.run())
        await asyncio.sleep(0)
        assert siblings.left(tmp_path / "f", 1) is not None
        assert json.loads(said(w.ask("/state").look()))["workers"][0]["state"] == "serves"
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(run())
