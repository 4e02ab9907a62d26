"""What is said to the store, and what it answers. With `connecting` the only room that knows the client library.

One task of its own talks to the store, so that no task of a call is ever inside the client: one that is cancelled there
would leave half an answer on the connection. What is said waits in a bounded queue; a store that is slow or gone is
given up for a second after two failures, and what was to be said is dropped: what still holds is told again later.

Imported while mitmproxy starts, never while it serves: importing the client takes a tenth of a second and more.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from valkey.exceptions import ResponseError

from sidestep.config.stores import Host, address_of
from sidestep.fleet.causes import ElsewhereError, cause_of, elsewhere
from sidestep.fleet.connecting import Connector, close
from sidestep.fleet.scripts import Script

QUEUE = 1_000
BATCH = 64
"""Commands of one round trip."""
ANSWER_SECONDS = 0.5
"""Of a whole batch; connecting included."""
ALONE_AFTER = 2
"""Failures in a row."""
ALONE_SECONDS = 1.0

logger = logging.getLogger(__name__)

Command = Script | str
Answered = Callable[[Any, float], None]
"""Told the answer, or the error in its place, and when the command was sent."""


@dataclass(frozen=True, slots=True)
class _Item:
    command: Command
    keys: tuple[str, ...]
    arguments: tuple[str | int, ...]
    answered: Answered | None


class Carrier:
    """State: the connection, and of a Cluster the node that is to be asked; what is to be sent, failures in a row and
    until when the store is not asked for them; how many commands were sent, refused by the store, or dropped."""

    def __init__(
        self,
        url: str,
        clock: Callable[[], float],
        tell: Callable[[str, str, int], None],
        bug: Callable[[str, Exception], None],
    ) -> None:
        """`tell`: told of what kind news is, in words, and the level of the log. `bug`: told of bugs of ours."""
        self._connector = Connector(address_of(url))
        self._node: Host | None = None
        self._clock = clock
        self._tell = tell
        self._bug = bug
        self._client: Any = None
        self._queue: deque[_Item] = deque()
        self._news = asyncio.Event()
        self._failures = 0
        self._alone_until = 0.0
        self.sent = 0
        self.errors = 0
        self.dropped = 0
        self.refused = 0

    @property
    def alone(self) -> bool:
        """Whether the store is given up for now."""
        return self._failures >= ALONE_AFTER

    def say(
        self, command: Command, keys: Sequence[str], arguments: Sequence[str | int], answered: Answered | None = None
    ) -> bool:
        """Have a command sent. False: it is dropped, and there will be no answer."""
        if (self.alone and self._clock() < self._alone_until) or len(self._queue) >= QUEUE:
            self.dropped += 1
            return False
        self._queue.append(_Item(command, tuple(keys), tuple(arguments), answered))
        self._news.set()
        return True

    async def run(self) -> None:
        """Until it is cancelled."""
        try:
            while True:
                if not self._queue:
                    self._news.clear()
                    await self._news.wait()
                if (left := self._alone_until - self._clock()) > 0:
                    await asyncio.sleep(left)
                await self._turn()
        finally:
            await self._close()

    async def _turn(self) -> None:
        items = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
        sent = self._clock()  # what is left of anything counts from here: it is never told longer than it is
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answers: list[Any] = await self._send(items)
        except Exception as e:
            answers = [e] * len(items)
            self._node = e.node if isinstance(e, ElsewhereError) else None
            self._failed(e)
            await self._close()
            if self.alone:  # what waits behind it would be old by then
                answers += [e] * len(self._queue)
                items += self._queue
                self._queue.clear()
        else:
            if self.alone:
                self._tell("fleet together", "fleet: with the others again", logging.INFO)
            self._failures = 0
            for refusal in (answer for answer in answers if isinstance(answer, ResponseError)):
                self.refused += 1
                self._tell("fleet refused", f"fleet: the store refuses: {cause_of(refusal)}", logging.WARNING)
        for item, answer in zip(items, answers, strict=True):
            if item.answered is not None:
                try:
                    item.answered(answer, sent)
                except Exception as e:  # else nothing would be sent any more
                    self._bug("fleet", e)

    def _failed(self, error: Exception) -> None:
        self.errors += 1
        self._failures += 1
        if self._failures == ALONE_AFTER:
            text = f"fleet: alone, each process decides by itself: {cause_of(error)}"
            self._tell("fleet alone", text, logging.WARNING)
        if self.alone:
            self._alone_until = self._clock() + ALONE_SECONDS

    async def _send(self, items: Sequence[_Item]) -> list[Any]:
        if self._client is None:
            self._client = await self._connector.open(self._node)
            loading = self._client.pipeline(transaction=False)
            for script in Script:
                loading.execute_command("SCRIPT", "LOAD", script.value)
            await loading.execute()
        sending = self._client.pipeline(transaction=False)
        for item in items:
            if isinstance(item.command, Script):
                # Not `evalsha`: it is blocked in a pipeline of a Cluster's client.
                sending.execute_command("EVALSHA", item.command.sha, len(item.keys), *item.keys, *item.arguments)
            else:
                sending.execute_command(item.command, *item.keys, *item.arguments)
        self.sent += len(items)
        answers: list[Any] = await sending.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, ResponseError) and (error := elsewhere(answer)) is not None:
                raise error  # connecting finds the server that is to be asked, and brings the scripts
        return answers

    async def _close(self) -> None:
        client, self._client = self._client, None
        await close(client)

    async def listen(self, channel: str, heard: Callable[[str], None]) -> None:
        """Tell each message of a channel, until it is cancelled, on a connection of its own. What is missed while that
        is down is a hint that comes late, no more."""
        while True:
            client = None
            try:
                client = await self._connector.open()
                async with client.pubsub() as messages:
                    await messages.subscribe(channel)
                    while True:
                        message = await messages.get_message(ignore_subscribe_messages=True, timeout=30)
                        if message is not None:
                            heard(str(message["data"]))
            except Exception as e:
                logger.debug("sidestep: fleet: no hints: %s", cause_of(e))
            finally:
                await close(client)
            await asyncio.sleep(ALONE_SECONDS)
