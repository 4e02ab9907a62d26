"""A real headless Chromium, and a web server whose pages try what they can: each reports what it has come to know."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
)
"""As root, and without calls of its own to its maker."""


def found() -> str | None:
    """The browser's program; None if there is none."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


def free_port() -> int:
    """One of this machine, for what cannot say which it has taken."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def chromium(folder: Path, url: str, *flags: str) -> Iterator[None]:
    """The browser shows this page meanwhile."""
    program = found()
    assert program is not None
    command = [program, *_QUIET, f"--user-data-dir={folder}", *flags, url]
    with (folder.parent / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, cwd=folder.parent, start_new_session=True
        )
        try:
            yield
        finally:
            # Its helpers as well: they would stay behind.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


class Attacker:
    """Use as a context manager: serves one page at every path, and takes reports. Its name is any that the browser is
    told to look up as 127.0.0.1."""

    def __init__(self, page: str, port: int = 0) -> None:
        reports: queue.Queue[dict[str, Any]] = queue.Queue()
        self._reports = reports
        self.served = 0
        attacker = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(page.encode())
                attacker.served += 1

            def do_POST(self) -> None:
                reports.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self._answer(b"")

            def _answer(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("content-type", "text/html; charset=utf-8")
                self.send_header("content-length", str(len(body)))
                self.send_header("connection", "close")
                self.end_headers()
                self.wfile.write(body)
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join(5)
            self._server.server_close()

    def report(self, timeout: float = 60) -> dict[str, Any]:
        """What a page says that it knows."""
        return self._reports.get(timeout=timeout)
