"""mitmweb in a real Chromium: what became of each kind of call is on the first screen, and its story comes first."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.sync.client import connect

from support.browser import found, free_port
from support.calls import Client
from support.cdp import Tab, tab
from support.provider import Behaviour, Provider
from support.proxy import Mitmdump, by_hand
from support.settings import key_of, route, table
from support.talker import Talker, said
from support.waiting import until

Make = Callable[..., Provider]
pytestmark = pytest.mark.skipif(found() is None, reason="there is no Chromium")

APP = "http://app.test/v1"
SOCKET = "http://socket.test/v1"
PICTURES = os.environ.get("SIDESTEP_PICTURES")
FAILED = {"type": "response.failed", "response": {"id": "resp_1", "error": {"code": "server_error", "message": "x"}}}
ROWS = "[...document.querySelectorAll('.flow-table tbody tr')].map((r) => r.innerText.replaceAll('\\n', ' '))"
OPEN = """
(() => {
    const tabs = [...document.querySelectorAll("nav a, nav button")];
    const found = tabs.find((e) => /^NAME$/i.test(e.innerText.trim()));
    found?.click();
    return found !== undefined;
})()
"""


def settings(a: Provider, b: Provider, talker: Talker) -> str:
    tables = [
        table("attempts", {"backoff_seconds": 0.01}),
        table("circuit", {"failure_threshold": 50}),
        table("hedge", {"after_seconds": 0.3}),
        route("chat", a, b, intercept=APP),
        f'[[providers]]\nname = "c"\ndialect = "openai"\nbase_url = "{talker.base}"\napi_key = "{key_of("c")}"\n',
        f'[[routes]]\nname = "sockets"\nintercept = ["{SOCKET}"]\nproviders = ["c"]\n',
    ]
    return "\n".join(tables)


@pytest.fixture
def mitmweb(provider: Make, stack: ExitStack, tmp_path: Path) -> tuple[Mitmdump, Tab, Provider, Provider]:
    """mitmweb with Sidestep, shown in a browser, with two providers and one for WebSockets."""
    a, b = provider("a"), provider("b")
    talker = stack.enter_context(Talker("c", said("well done"), [*said("half a w")[:2], FAILED]))
    port = free_port()
    options = ["--set", "web_open_browser=false", "--set", f"web_port={port}", "--set", "web_password=look"]
    options += ["--set", "store_streamed_bodies=true", "--set", "web_host=127.0.0.1"]
    m = stack.enter_context(by_hand("web", tmp_path / "m", settings(a, b, talker), *options))
    (tmp_path / "browser").mkdir()
    page = stack.enter_context(tab(tmp_path / "browser"))
    page.size(1400, 900)
    page.open(f"http://127.0.0.1:{port}/?token=look")
    page.shows("mitmproxy", seconds=30)
    return m, page, a, b


def select(page: Tab, row: int) -> None:
    page.run(f"[...document.querySelectorAll('.flow-table tbody tr')].filter((r) => r.innerText).at({row}).click()")


def rows(page: Tab) -> list[str]:
    shown: list[str] = page.run(ROWS)
    return [re.sub(r"\s+", " ", row) for row in shown if row.strip()]


def test_calls_are_told_on_the_first_screen(
    mitmweb: tuple[Mitmdump, Tab, Provider, Provider], stack: ExitStack, tmp_path: Path
) -> None:
    """A WebSocket's while it is open."""
    m, page, a, _ = mitmweb
    told: list[tuple[str, str, tuple[str, ...]]] = []

    def call(name: str, comment: str, *story: str) -> None:
        told.append((name, comment, story))

    with Client(m, {"openai": APP}) as app:

        def chat(words: str, *, stream: bool = False) -> str | None:
            return app.call("chat", stream=stream, messages=[{"role": "user", "content": words}]).attempts

        a.script.extend([Behaviour(status=503)] * 2)
        assert chat("tell me of reroutes") == "a:503, a:503, b:200"
        call(
            "rerouted",
            "app.test → b after a:503, a:503",
            "rerouted: openai gpt-4o → b",
            "1. a 503 an error of the server",
            "assistant",
        )
        assert chat("tell me in a stream", stream=True) == "a:200"
        call("streamed", "", "rerouted: openai gpt-4o → a", "assistant")
        a.script.append(Behaviour(cut_after=3))
        chat("tell me of breaks", stream=True)
        call("broken", "app.test → a, which failed: a:truncated", "failed: openai gpt-4o → a", "broke off its answer")
        a.script.append(Behaviour(silent=True))
        assert chat("tell me late", stream=True) == "a:slow, b:200"
        call("hedged", "app.test → b after a:slow", "1. a far slower than usual", "2. b 200 good")
        first = app.openai.responses.create(model="gpt-4o", input="remember me")
        again = app.call("responses", stream=False, previous_response_id=first.id, input="who am I?")
        assert again.error is None
        call("pinned", "", "rerouted: openai gpt-4o → a")
    sock = stack.enter_context(connect("ws://socket.test/v1/responses", proxy=m.url))
    for words, end in (("hi there", "response.completed"), ("and now", "response.failed")):
        sock.send(json.dumps({"type": "response.create", "model": "gpt-5", "input": words, "store": False}))
        while json.loads(sock.recv(10))["type"] != end:
            pass
    call("socket", "socket.test → c: 2 responses of gpt-5, 1 failed (c:stream_error); 7 tokens in, 3 out")

    until(lambda: "1 failed" in " ".join(rows(page)), "all calls are listed", 20)
    listed = rows(page)
    assert "Comment" in page.text(".flow-table thead")
    keep(page, "mitmweb", tmp_path)
    for name, comment, _ in told:
        assert not comment or any(comment in row for row in listed), (name, "\n".join(listed))
    keep(page, "mitmweb", tmp_path)
    for place, (name, _, story) in enumerate(told[:-1]):
        row = place if name != "pinned" else place + 1
        select(page, row)
        until(lambda: page.run(OPEN.replace("NAME", "response")), "there is a response to look at")
        page.shows(story[0], ".flow-detail")
        shown = page.text(".flow-detail")
        for words in story:
            assert words in shown, (name, words, shown)
        keep(page, f"mitmweb-{name}", tmp_path)
    select(page, -1)
    until(lambda: page.run(OPEN.replace("NAME", "websocket")), "there are frames to look at")
    page.shows("c gpt-5 good", ".flow-detail")
    shown = page.text(".flow-detail")
    places = [shown.index(words) for words in ("hi there", "well done", "and now", "half a w")]
    assert places == sorted(places)
    for words in ("first message after", "7 tokens in, 3 out", "── user hi there", "── assistant well done"):
        assert words in shown, (words, shown)
    assert "c gpt-5 ended its stream with an error" in shown
    assert "── assistant half a w" in shown, "what came of the answer that broke off"
    keep(page, "mitmweb-socket", tmp_path)


def keep(page: Tab, name: str, tmp_path: Path) -> None:
    assert page.picture(Path(PICTURES or tmp_path) / f"{name}.png").stat().st_size > 10_000
