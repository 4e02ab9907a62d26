"""What `sidestep run` loads into mitmproxy beside the addon: it says when the proxy is ready, lets no program of
another user in, passes errors on, tells at the end what was rerouted, and ends the proxy when `sidestep run` is gone.

They talk over a socket pair, a JSON object or a word a line. Loaded by its path, into a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from mitmproxy import ctx
from mitmproxy.addonmanager import Loader
from mitmproxy.connection import Client
from mitmproxy.http import HTTPFlow

from sidestep import status
from sidestep.calls.clients import is_listed
from sidestep.config.advice import in_the_clear
from sidestep.config.reading import hosts
from sidestep.handover import CONTROL_FD, FORCED_OPTIONS
from sidestep.run import peers

if TYPE_CHECKING:
    from sidestep.routing.engine import Engine

QUIET_SECONDS = 2.0
"""How long to wait at the end for connections to close: programs that the command left behind may hold some."""
HOSTS = 20
"""So many of the hosts that the command went to are told."""
MESSAGES = 100
"""Errors passed on; the log has them all."""

logger = logging.getLogger("sidestep.run.companion")  # whatever name it is loaded by


class _Errors(logging.Handler):
    """All errors, and our own warnings."""

    def __init__(self, companion: Companion) -> None:
        super().__init__(logging.WARNING)
        self._companion = companion
        self._left = MESSAGES

    def emit(self, record: logging.LogRecord) -> None:
        if (record.levelno >= logging.ERROR or record.name.startswith("sidestep")) and self._left > 0:
            self._left -= 1
            kind = "error" if record.levelno >= logging.ERROR else "warning"
            self._companion.say_from_anywhere({kind: record.getMessage()})


class Companion:
    """State: the socket to `sidestep run`, the options that it wants, client connections that are open, how many there
    ever were; the process that started this one, what tells whose a connection is, and the users that were told
    of."""

    def __init__(self, sock: socket.socket, options: dict[str, Any]) -> None:
        self._sock = sock
        self._options = options
        self._writer: asyncio.StreamWriter | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._clients: set[str] = set()
        self._connections = 0
        self._hosts: Counter[str] = Counter()
        self._quiet = asyncio.Event()
        self._keep = False
        self._starter = os.getppid()
        self._told_users: set[int] = set()
        self._kernel: peers.Kernel | None = None
        self._errors = _Errors(self)
        # From now on: what the addon has to say of its configuration comes before `load`.
        logging.getLogger().addHandler(self._errors)

    def load(self, _: Loader) -> None:
        ctx.options.update_defer(**self._options)
        # Before the port is there.
        try:
            self._kernel = peers.Kernel()
        except OSError as e:
            logger.info(f"sidestep: this system does not say whose connections are, so that all users may come ({e})")

    def running(self) -> None:
        # The port is for one command on this machine: no user of mitmproxy has to log in at it.
        ctx.options.update(proxyauth=None)
        self._loop = asyncio.get_running_loop()
        self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        check = ctx.master.addons.get("errorcheck")
        if check is None or not check.logger.has_errored:
            self._task = asyncio.get_running_loop().create_task(self._serve())

    async def _serve(self) -> None:
        try:
            await self._talk()
        except Exception:
            # Nobody would end this process then.
            logger.exception("sidestep: the proxy that was started for a command ends")
            self._keep = False
        if not self._keep:
            ctx.master.shutdown()

    async def _talk(self) -> None:
        reader, self._writer = await asyncio.open_connection(sock=self._sock)
        port = ctx.master.addons.get("proxyserver").listen_addrs()[0][1]
        master: Any = ctx.master
        web = master.web_url if "web_port" in ctx.options else None  # that option is mitmweb's
        self._say({"ready": {"port": port, "web": web, "serves": _serves()}})
        try:
            while line := await reader.readline():
                match line.strip():
                    case b"report":
                        await self._report()
                    case b"keep":
                        self._keep = True
        except ConnectionError:
            pass
        self._writer.close()
        self._writer = None

    async def _report(self) -> None:
        if self._clients:
            self._quiet.clear()
            try:
                async with asyncio.timeout(QUIET_SECONDS):
                    await self._quiet.wait()
            except TimeoutError:
                pass
        engine = _engine()
        summary = None if engine is None else status.summary(engine, time.monotonic())
        hosts = [host for host, _ in self._hosts.most_common(HOSTS)]
        self._say({"report": {"summary": summary, "connections": self._connections, "hosts": hosts}})

    def http_connect(self, flow: HTTPFlow) -> None:
        """Where the command's tunnels lead: names alone, for when none of its calls is seen."""
        if flow.request.host in self._hosts or len(self._hosts) < HOSTS:
            self._hosts[flow.request.host] += 1

    async def client_connected(self, client: Client) -> None:
        if self._kernel is not None and not await self._may_come(client, self._kernel):
            client.error = "of another user of this machine"
            return
        self._clients.add(client.id)
        self._connections += 1

    async def _may_come(self, client: Client, kernel: peers.Kernel) -> bool:
        """Whether a program has any business at the port of this user's command.

        All programs of this user may use it, and root's, which could look into this process as well. Where root has
        started it, its command may go on as any other user (`su`, apt): what descends from it may. A password would
        have to be sent, which not every program can, and would be in the environment of all of them.
        """
        try:
            found = kernel.owner(client.peername[:2], client.sockname[:2])
            if found is None:
                return False  # it has closed its end: nobody waits for an answer
            engine = _engine()
            listed = () if engine is None else engine.settings.proxy.allow_clients
            if found.uid in (os.getuid(), 0) or is_listed(client, listed):
                return True
            may_descend = os.getuid() == 0 and os.getppid() == self._starter
            if may_descend and await asyncio.to_thread(peers.descends, found.inode, self._starter):
                return True
        except OSError as e:
            logger.warning(f"sidestep: a program was refused: whose it is was not told ({e})")
            return False
        self._tell_refused(found.uid)
        return False

    def _tell_refused(self, user: int) -> None:
        if user not in self._told_users and len(self._told_users) < MESSAGES:
            self._told_users.add(user)
            logger.warning(
                f"sidestep: a program of another user of this machine (uid {user}) was refused; with "
                'allow_clients = ["127.0.0.1"] in the [proxy] table all of them may use the port'
            )

    def client_disconnected(self, client: Client) -> None:
        self._clients.discard(client.id)
        if not self._clients and self._loop is not None:
            # After the other addons' hooks: what they count is to be in the report.
            self._loop.call_soon(self._quiet.set)

    def done(self) -> None:
        logging.getLogger().removeHandler(self._errors)
        if self._kernel is not None:
            self._kernel.close()
        if self._task is not None:
            self._task.cancel()

    def say_from_anywhere(self, message: dict[str, Any]) -> None:
        """Errors are logged on other threads too, and before there is a loop."""
        if self._writer is None or self._loop is None:
            with contextlib.suppress(OSError):
                self._sock.sendall(_line(message))
        else:
            self._loop.call_soon_threadsafe(self._say, message)

    def _say(self, message: dict[str, Any]) -> None:
        if self._writer is not None:
            self._writer.write(_line(message))


def _engine() -> Engine | None:
    addon = ctx.master.addons.get("sidestep")
    engine: Engine | None = None if addon is None else addon.engine
    return engine


def _serves() -> str:
    """By which file calls go, and to which hosts."""
    engine = _engine()
    if engine is None:
        return "no configuration: calls go where the app sends them"
    settings = engine.settings
    mode = "" if settings.mode == "enforce" else f" (mode {settings.mode})"
    local = " and servers of this machine that answer" if settings.local else ""
    serves = f"{settings.source}: calls may go to {', '.join(hosts(settings)) or 'no provider'}{local}{mode}"
    return "\n".join([serves, *in_the_clear(settings)])


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _addons() -> list[Companion]:
    number = os.environ.pop(CONTROL_FD, "")
    options = json.loads(os.environ.pop(FORCED_OPTIONS, "{}"))
    return [Companion(socket.socket(fileno=int(number)), options)] if number else []


addons = _addons()
