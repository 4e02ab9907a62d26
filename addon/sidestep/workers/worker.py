"""One of several mitmdump processes on one port: it listens at its supervisor's sockets, says when it is ready, and
lets calls end before it does. Started by the supervisor, with mitmdump's own arguments.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from typing import Any

from mitmproxy import ctx, exceptions, http, version
from mitmproxy.tools import dump
from mitmproxy.tools import main as tools

from sidestep import handover
from sidestep.mitm import listening
from sidestep.mitm.expected import FACTS_OF_WORKERS, missing
from sidestep.workers.crew import DRAIN_SECONDS

LAST_WORDS_SECONDS = 0.1
"""The end of an answer is told before its last bytes have left."""
LOOK_SECONDS = 0.05
KEPT_LETTERS = 30_000
LONE_OPTIONS = {
    "rfile": "-r",
    "client_replay": "-C",
    "server_replay": "-S",
}
"""Options whose work one process alone can do, and how the command line names them."""
WRITTEN_OPTIONS = {"save_stream_file": "-w", "hardump": "--set hardump"}

logger = logging.getLogger("sidestep.workers")


class Line:
    """To the supervisor. Requests are rare and answered at once: whoever asks waits."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._asking, self._saying = threading.Lock(), threading.Lock()

    def share(self) -> handover.Share:
        """What the supervisor said at first."""
        heard = b""
        while not heard.endswith(b"\n"):
            if not (data := self.sock.recv(65536)):
                raise OSError("the supervisor is gone")
            heard += data
        told = json.loads(heard)
        return handover.Share(**{**told, **{name: told[name] and tuple(told[name]) for name in ("store", "kept")}})

    def listen(self, key: tuple[str, str, int]) -> list[socket.socket]:
        with self._asking:
            self._say({"listen": key})
            told, descriptors, *_ = socket.recv_fds(self.sock, 4096, 16)
        if not told:
            raise OSError("the supervisor is gone")
        if refusal := json.loads(told):
            raise OSError(refusal["errno"], refusal["error"])
        return [socket.socket(fileno=descriptor) for descriptor in descriptors]

    def release(self, key: tuple[str, str, int]) -> None:
        with contextlib.suppress(OSError):
            self._say({"release": key})

    def ready(self) -> None:
        with contextlib.suppress(OSError):
            self._say({"ready": True})

    def keep(self, kept: handover.Kept) -> None:
        """The configuration that is in force. One that is very large is not kept: it would have to be waited for."""
        with contextlib.suppress(OSError):
            self._say({"keep": kept if len(kept[1] or "") <= KEPT_LETTERS else None})

    def is_cut(self) -> bool:
        """Whether the supervisor is gone. It says nothing unasked."""
        try:
            return not self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _say(self, message: dict[str, Any]) -> None:
        with self._saying:
            self.sock.sendall(json.dumps(message, ensure_ascii=False).encode("utf-8", "replace") + b"\n")


class Companion:
    """State: the line, calls under way, whether all is to end."""

    name = "sidestep.worker"

    def __init__(self, line: Line, number: int) -> None:
        self._line = line
        self._number = number
        self._calls: set[str] = set()
        self._draining: asyncio.Task[None] | None = None

    def configure(self, updated: set[str]) -> None:
        if "mode" in updated and (spec := listening.unshared(ctx.options.mode)) is not None:
            raise exceptions.OptionsError(f"mode {spec}: one process alone can serve it; start without --workers")
        for name, flag in LONE_OPTIONS.items():
            if name in updated and getattr(ctx.options, name):
                raise exceptions.OptionsError(f"{flag}: one process alone can do it; start without --workers")
        for name, flag in WRITTEN_OPTIONS.items():
            if name in updated and getattr(ctx.options, name) in ("-", "+-"):
                raise exceptions.OptionsError(f"{flag} -: several processes cannot write to one stream; name a file")

    def running(self) -> None:
        if ctx.options.hardump:
            ctx.options.update(hardump=f"{ctx.options.hardump}.{self._number}")
        loop = asyncio.get_running_loop()
        # mitmproxy itself would cut all calls.
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._drain)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        loop.add_reader(self._line.sock, self._look)
        # After the other addons, of which one may stop the start.
        loop.call_soon(self._begin)

    def _begin(self) -> None:
        check = ctx.master.addons.get("errorcheck")
        if check is None or not check.logger.has_errored:
            self._line.ready()

    def _look(self) -> None:
        if self._line.is_cut():
            asyncio.get_running_loop().remove_reader(self._line.sock)
            logger.warning("sidestep: the supervisor is gone: this worker ends")
            self._drain()

    def _drain(self) -> None:
        if self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(self._end())

    async def _end(self) -> None:
        listening.stop_listening()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while self._calls:
                    await asyncio.sleep(LOOK_SECONDS)
                await asyncio.sleep(LAST_WORDS_SECONDS)
        ctx.master.shutdown()

    # --- calls under way

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        self._calls.add(flow.id)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        if self._draining is not None and flow.response is not None and not flow.request.is_http2:
            # The client's next call is for a worker that stays.
            flow.response.headers["connection"] = "close"

    def response(self, flow: http.HTTPFlow) -> None:
        if flow.websocket is None:
            self._calls.discard(flow.id)

    def error(self, flow: http.HTTPFlow) -> None:
        self._calls.discard(flow.id)

    def websocket_end(self, flow: http.HTTPFlow) -> None:
        self._calls.discard(flow.id)


def main(arguments: Sequence[str]) -> None:
    """mitmdump with these arguments, as one of several."""
    line = Line(socket.socket(fileno=int(os.environ.pop(handover.WORKER))))
    handover.share = share = line.share()
    handover.keep = line.keep
    if lacking := missing(FACTS_OF_WORKERS):
        raise SystemExit(f"sidestep: mitmproxy {version.VERSION} lacks what --workers relies on: {'; '.join(lacking)}")
    listening.share_sockets(line)
    listening.write_apart(share.number)
    listening.sign_log(share.number)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)  # a line is not cut by another worker's

    class Master(dump.DumpMaster):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            self.addons.add(Companion(line, share.number))

    dump.DumpMaster = Master  # type: ignore[misc]
    sys.argv[0] = "mitmdump"
    tools.mitmdump(list(arguments))
