"""On a mitmproxy that lacks what Sidestep relies on, traffic is what it would be without Sidestep."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from support.calls import APP_KEY
from support.provider import Behaviour, Provider
from support.proxy import ADDON, Mitmdump
from support.raw import Wire, chat, to_server
from support.settings import config

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]

FAILURE = (
    b"HTTP/1.1 503 Service Unavailable\r\nServer: own\r\nX-ODD: kept\r\nContent-Type: application/json\r\n"
    b'Content-Length: 18\r\n\r\n{"error":  "down"}'
)
NAME_GONE = """
from mitmproxy.proxy.layers.http import _hooks
del _hooks.HttpErrorHook
"""
MODULE_GONE = """
import sys
import mitmproxy.proxy.layers.http._events
sys.modules["mitmproxy.proxy.layers.http._events"] = None
"""
PARAMETER_MORE = """
from mitmproxy.proxy.layers.http import HttpLayer
before = HttpLayer.make_stream
def make_stream(self, stream_id, priority=0):
    yield from before(self, stream_id)
HttpLayer.make_stream = make_stream
"""
OTHER_VERSION = """
from mitmproxy import version
version.VERSION = "13.1.0"
"""


def started(proxy: Start, tmp_path: Path, change: str, text: str) -> Mitmdump:
    """A proxy in which mitmproxy was changed before Sidestep was loaded."""
    script = tmp_path / "change.py"
    script.write_text(change)
    return proxy(text, "-s", str(ADDON), script=script)


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        (NAME_GONE, "mitmproxy.proxy.layers.http._hooks.HttpErrorHook is not there"),
        (MODULE_GONE, "the module mitmproxy.proxy.layers.http._events is not there"),
        (
            PARAMETER_MORE,
            "mitmproxy.proxy.layers.http.HttpLayer.make_stream takes (stream_id, priority), expected (stream_id)",
        ),
    ],
    ids=["name", "module", "parameter"],
)
def test_it_says_so_and_stands_aside(change: str, missing: str, provider: Make, proxy: Start, tmp_path: Path) -> None:
    """One line names what is missing; the call goes where the app sent it, with the app's credential, and its failed
    answer comes back byte for byte; mitmproxy and its options are as they would be without Sidestep."""
    own, other = provider("own"), provider("other")
    own.default = Behaviour(raw=FAILURE)
    m = started(proxy, tmp_path, change, config("chat", own, other, own=own))
    call = chat(own.url(), key=APP_KEY, stream=True)
    for _ in range(2):
        with Wire(m) as wire:
            assert wire.send(call).exactly(len(FAILURE)) == FAILURE
    assert other.count == 0
    for seen in own.requests:
        assert seen.raw_head + seen.body == to_server(call)
    code, page = m.page("/health")
    assert (code, json.loads(page)["missing"]) == (503, [missing])
    said = [line for line in m.lines if "sidestep: " in line]
    assert len(said) == 1, m.log
    assert f"lacks what Sidestep relies on: {missing}. All traffic passes through untouched" in said[0]
    assert "Supported: mitmproxy>=12.1,<13" in said[0]
    assert m.process.poll() is None


def test_another_version_that_has_it_all(provider: Make, proxy: Start, tmp_path: Path) -> None:
    """Outside the tested range, with all names there, one line says so and calls fail over as ever."""
    own, other = provider("own"), provider("other")
    own.default = Behaviour(status=503)
    m = started(proxy, tmp_path, OTHER_VERSION, config("chat", own, other, own=own))
    with Wire(m) as wire:
        status, headers, _ = wire.send(chat(own.url(), key=APP_KEY)).answer()
    assert (status, headers["x-sidestep-provider"]) == (200, "other")
    assert len([line for line in m.lines if "13.1.0 is outside the tested range (>=12.1,<13)" in line]) == 1
