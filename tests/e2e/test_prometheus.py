"""A real Prometheus: it takes `/metrics` without a complaint, and answers each query of the dashboard."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.calls import Client
from support.dashboard import queries
from support.provider import Behaviour, Provider
from support.proxy import Mitmdump
from support.settings import route, table
from support.waiting import until

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]
APP = "http://app.test/v1"
NEEDS = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")), reason="Prometheus is not here"
)
PRICE = "price = { input = 2.0, output = 10.0 }\n"
UNEVENTFUL = ("sidestep_hedges_total",)
"""Of what has not happened there is no series."""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def busy(provider: Make, proxy: Start) -> tuple[Mitmdump, Callable[[], None]]:
    """A proxy whose first provider fails for a while, and what makes calls through it."""
    a, b = provider("a"), provider("b")
    limits = table("attempts", {"backoff_seconds": 0.01}) + table("circuit", {"failure_threshold": 2})
    m = proxy(limits + route("chat", a, b, intercept=APP, extra=PRICE))
    rounds = iter(range(1000))

    def calls() -> None:
        a.default = Behaviour(status=503 if next(rounds) % 2 else 200)
        with Client(m, {"openai": APP}) as app:
            for stream in (True, False):
                said = [{"role": "user", "content": f"{next(rounds)}"}]
                app.call("chat", stream=stream, messages=said)

    return m, calls


@NEEDS
def test_promtool_has_nothing_to_say(provider: Make, proxy: Start) -> None:
    m, calls = busy(provider, proxy)
    for metrics in ("before any call", "after some"):
        told = subprocess.run(["promtool", "check", "metrics"], input=m.page("/metrics")[1], capture_output=True)
        assert (told.returncode, told.stdout, told.stderr) == (0, b"", b""), metrics
        calls()


@NEEDS
def test_the_dashboards_queries(provider: Make, proxy: Start, tmp_path: Path) -> None:
    m, calls = busy(provider, proxy)
    port = free_port()
    (tmp_path / "prometheus.yml").write_text(
        f"global: {{ scrape_interval: 200ms, scrape_timeout: 200ms }}\n"
        f"scrape_configs: [ {{ job_name: sidestep, static_configs: [ {{ targets: ['127.0.0.1:{m.port}'] }} ] }} ]\n"
    )
    command = ["prometheus", f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    try:
        until(lambda: ask(port, "up") == [1.0], "it scrapes", 30)
        answers: dict[str, list[float]] = {}

        def all_answered() -> bool:
            calls()
            answers.update({q: ask(port, q) for q in queries() if not answers.get(q)})
            return all(found or any(name in q for name in UNEVENTFUL) for q, found in answers.items())

        until(all_answered, "each query has an answer", 30)
        assert len(answers) == len(set(queries()))
    except AssertionError as e:
        raise AssertionError(
            [q for q in answers if not answers[q]] if answers else (tmp_path / "log").read_text()
        ) from e
    finally:
        server.terminate()
        server.wait(10)


def ask(port: int, query: str) -> list[float]:
    """The values that Prometheus finds now; it refuses no query."""
    url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            told: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as e:
        if e.code != 503:
            raise
        return []  # it has only begun
    except OSError:
        return []
    assert told["status"] == "success", told
    return [float(series["value"][1]) for series in told["data"]["result"]]
