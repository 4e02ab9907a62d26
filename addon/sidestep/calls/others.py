"""The other workers of this port: what all have to show as one picture, and what a user does at one, done at all.

Nobody waits for anybody: each leaves its figures in a file, from time to time and when it is asked to. Whoever shows a
page asks, and looks for a moment whether there is an answer (`Later`); one that gives none is shown as that.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sidestep import overview, siblings, status
from sidestep.breaker.circuit import State
from sidestep.calls.shared import Core
from sidestep.config.settings import MODES
from sidestep.handover import Share
from sidestep.routing.engine import Engine
from sidestep.siblings import Asked, Door, Figures, Said
from sidestep.summing import Part, whole

LEAVE_SECONDS = 5.0
"""How old the figures may be that are left of one that is killed."""
LEAST_SECONDS = 0.1
"""Between two times when figures are left."""
ANSWER_SECONDS = 1.0
"""How long a page waits for the figures of the others, and the answer to a button until they have followed."""
SILENT_SECONDS = 0.9
"""One that has been asked for so long without an answer is shown as one that does not answer."""

HELD = {"open": State.FORCED_OPEN, "disable": State.DISABLED, "auto": None}
"""How a circuit is held by hand, by the word for it."""
_WORDS = {state: word for word, state in HELD.items()}


class Others:
    """State: where this worker is asked; of each worker what it has asked last, and the first question to it that it
    has not answered, with its time; when this one left its figures last, and its last metrics; what the one before it
    had left."""

    def __init__(self, core: Core, share: Share) -> None:
        self._core = core
        self._folder = Path(share.folder)
        self.number = share.number
        self.all = range(1, share.workers + 1)
        self._door: Door | None = None
        self._life = secrets.token_hex(4)
        self._count = 0
        self._heard: dict[int, Asked] = {}
        self._open: dict[int, tuple[int, float]] = {}
        self._left_at = -math.inf
        self._leaves: asyncio.TimerHandle | None = None
        self._metrics = ""
        before = siblings.left_before(self._folder, self.number)
        self._before = None if before is None else Part(self.number, before.picture, before.parts, lives=False)

    # --- its life

    def start(self, engine: Engine) -> None:
        """Before this worker serves: it holds what the others hold, and can be asked."""
        known = [f for n in self.all if n != self.number and (f := siblings.left(self._folder, n))]
        last = siblings.left_before(self._folder, self.number)
        for found in (*known, *([] if last is None else [last]))[:1]:
            self._take_over(engine, found)
        try:
            self._door = Door(self._folder, self.number)
        except OSError as e:
            self._core.tell("workers", f"workers do not hear one another: {e.strerror}")
            return
        asyncio.get_running_loop().add_reader(self._door.socket, self._hear)

    @staticmethod
    def _take_over(engine: Engine, found: Figures) -> None:
        for name, word in found.held.items():
            if word in HELD and name in engine.settings.by_name:
                engine.hold(name, HELD[word], told=True)
        if found.mode in MODES:
            engine.set_mode(found.mode, told=True)

    async def run(self) -> None:
        """Until it is cancelled, or the supervisor is gone."""
        try:
            while self._leave(metrics=True):
                await asyncio.sleep(LEAVE_SECONDS)
        finally:
            if self._door is not None:
                asyncio.get_running_loop().remove_reader(self._door.socket)
                self._door.close()

    def _leave(self, *, metrics: bool) -> bool:
        """False: there is nowhere to leave it."""
        engine = self._core.engine
        if engine is None:
            return True
        self._left_at = self._core.clock()
        try:
            siblings.leave(self._folder, self.number, self._figures(engine, metrics=metrics))
        except OSError:
            return self._folder.is_dir()
        except Exception as e:
            self._core.log_bug("figures", e)
        return True

    def _figures(self, engine: Engine, *, metrics: bool) -> Figures:
        now = self._core.clock()
        if metrics or not self._metrics:
            self._metrics = status.metrics(engine, now).decode()
        picture, parts = self._own(engine)
        held = {name: _WORDS[state] for name, state in engine.held.items()}
        return Figures(picture, parts, self._metrics, held, engine.mode, dict(self._heard))

    def _own(self, engine: Engine) -> tuple[dict[str, Any], dict[str, Any]]:
        """With what those before it have counted."""
        now = self._core.clock()
        own = Part(self.number, self._core.overview.picture(engine), overview.parts(engine, now))
        return (own.picture, own.parts) if self._before is None else whole((own, self._before))

    # --- what others say

    def _hear(self) -> None:
        assert self._door is not None
        try:
            told = self._door.hear()
            for said in told:
                self._heard[said.worker] = said.asked
                self._do(said)
            if told:
                self._leave_soon(metrics=any(said.metrics for said in told))
        except Exception as e:
            self._core.log_bug("figures", e)

    def _do(self, said: Said) -> None:
        engine = self._core.engine
        if engine is None:
            return
        if said.hold is not None and said.hold[1] in HELD and said.hold[0] in engine.settings.by_name:
            engine.hold(said.hold[0], HELD[said.hold[1]], told=True)
            self._core.overview.changed()
        if said.mode in MODES:
            engine.set_mode(said.mode, told=True)
            self._core.overview.changed()

    def _leave_soon(self, *, metrics: bool) -> None:
        if self._leaves is not None:
            self._leaves.cancel()
        wait = max(0.0, self._left_at + LEAST_SECONDS - self._core.clock())
        loop = asyncio.get_running_loop()
        self._leaves = loop.call_later(wait, lambda: self._leave(metrics=metrics))

    # --- what this one asks of the others

    def ask(
        self, *, metrics: bool = False, hold: tuple[str, str] | None = None, mode: str | None = None
    ) -> Callable[[], bool]:
        """All others are to leave their figures, and to do what a user has asked for here; whether they have left
        them."""
        if hold is not None or mode is not None:
            self._leave(metrics=False)  # whoever starts now takes it over
        self._count += 1
        asked, now = self._count, self._core.clock()
        waiting = {number for number in self.all if number != self.number and self._door is not None}
        for number in waiting:
            self._open.setdefault(number, (asked, now))
            assert self._door is not None
            self._door.say(number, Said(self.number, Asked(self._life, asked), metrics, hold, mode))

        def have_answered() -> bool:
            for number in tuple(waiting):
                found = siblings.left(self._folder, number)
                if found is None or self._answered(found) >= asked:
                    waiting.discard(number)
            return not waiting

        return have_answered

    def _answered(self, found: Figures) -> int:
        """Which question of this worker's was the last before these figures were left; 0: none."""
        heard = found.heard.get(self.number)
        return heard.count if heard is not None and heard.life == self._life else 0

    def _left(self, engine: Engine) -> dict[int, Figures | None]:
        """By each; None: it is not there now. Notes who has answered."""
        found: dict[int, Figures | None] = {self.number: self._figures(engine, metrics=False)}
        for number in self.all:
            if number == self.number:
                continue
            figures = found[number] = siblings.left(self._folder, number)
            if number in self._open:
                answered = self._count if figures is None else self._answered(figures)
                if answered >= self._count:
                    del self._open[number]
                elif answered >= self._open[number][0]:
                    self._open[number] = answered + 1, self._core.clock()
        return found

    # --- what is shown

    def picture(self, engine: Engine) -> dict[str, Any]:
        """Of all, as one."""
        left = self._left(engine)
        own = left.pop(self.number)
        assert own is not None
        found = [Part(self.number, own.picture, own.parts)]
        for number, figures in left.items():
            if figures is not None:
                found.append(Part(number, figures.picture, figures.parts))
            elif (last := siblings.left_before(self._folder, number)) is not None:
                found.append(Part(number, last.picture, last.parts, lives=False))
        shown, _ = whole(found)
        shown["worker"] = self.number
        shown["workers"] = self._workers({**left, self.number: own})
        return shown

    def workers(self, engine: Engine) -> dict[int, dict[str, Any]]:
        """How each is, by number."""
        return {w["number"]: w for w in self._workers(self._left(engine))}

    def _workers(self, left: dict[int, Figures | None]) -> list[dict[str, Any]]:
        return [self._worker(number, left[number]) for number in self.all]

    def _worker(self, number: int, figures: Figures | None) -> dict[str, Any]:
        """`serves`, `silent` where it does not answer, `starting` where there is none."""
        if figures is None:
            return {"number": number, "state": "starting"}
        now, p = self._core.clock(), figures.picture
        since = now - self._open[number][1] if number in self._open else 0.0
        told = {
            "number": number,
            "state": "silent" if since >= SILENT_SECONDS else "serves",
            "calls": p["totals"]["calls"],
            "failed": p["totals"]["failed"],
            "in_flight": p["in_flight"],
            "mode": figures.mode,
        }
        return told | ({"silent_seconds": round(since)} if since >= SILENT_SECONDS else {})

    def metrics(self, engine: Engine) -> str:
        own = status.metrics(engine, self._core.clock()).decode()
        left = {n: f.metrics for n, f in self._left(engine).items() if f is not None}
        return status.metrics_of({**left, self.number: own})

    def all_follow(self, follows: Callable[[Figures], bool]) -> bool:
        """Whether something holds at all others that run."""
        found = [siblings.left(self._folder, number) for number in self.all if number != self.number]
        return all(figures is None or follows(figures) for figures in found)

    def where(self, follows: Callable[[Figures], bool]) -> str:
        """At how many workers it holds now, in words."""
        behind = []
        for number in self.all:
            if number != self.number:
                figures = siblings.left(self._folder, number)
                if figures is None:
                    behind.append(f"worker {number} is being started, and takes it over")
                elif not follows(figures):
                    behind.append(f"worker {number} does not answer, and follows when it does")
        count = len(self.all)
        if not behind:
            return f"on {count} workers" if count > 1 else "on 1 worker"
        return f"on {count - len(behind)} of {count} workers: {'; '.join(behind)}"
