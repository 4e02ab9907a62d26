"""Which servers of this machine answer, and what they have: real servers on loopback."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sidestep import probing
from sidestep.config import reading
from sidestep.config.settings import Provider

LIST = json.dumps({"object": "list", "data": [{"id": "a"}, {"id": "b"}, {"name": "c"}, 5]}).encode()


@contextmanager
def server(status: int, body: bytes) -> Iterator[tuple[int, list[str]]]:
    """Its port, and what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            if status == 302:
                self.send_header("location", "/v1/elsewhere")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
        yield listening.server_port, asked
        listening.shutdown()


def ollama_at(port: int) -> Provider:
    text = f'[[providers]]\nname = "ollama"\nbase_url = "http://127.0.0.1:{port}/v1"\n'
    return reading.parse(text, {}).providers[0]


@pytest.mark.parametrize(
    ("status", "body", "found"),
    [
        (200, LIST, {"ollama": ("a", "b", "c", "")}),
        (200, b'{"data": []}', {"ollama": ()}),
        (503, b'{"error": {"message": "Loading model"}}', {"ollama": None}),
        # Whoever else listens there.
        (200, b"<html>a page</html>", {}),
        (200, b'{"data": {}}', {}),
        (200, b"[" * 100_000, {}),
        (404, b"", {}),
        (302, b"", {}),
        (500, LIST, {}),
    ],
)
def test_models_of_a_server(
    status: int, body: bytes, found: dict[str, tuple[str, ...] | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a list of models is one; what is not ready yet is told apart. No proxy is asked, no redirect followed."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with server(status, body) as (port, asked):
        assert probing.models_of([ollama_at(port)]) == found
    assert asked == ["/v1/models"]


def test_who_does_not_answer_is_not_waited_for() -> None:
    """Nobody listens, or somebody who says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
        closed.close()
        assert probing.models_of([ollama_at(port)], 0.2) == {}
        assert probing.models_of([ollama_at(silent.getsockname()[1])], 0.2) == {}
