"""The page, in a real Chromium: what a person sees during an outage and after it, what the buttons do and for whom."""

from __future__ import annotations

import contextlib
import http.client
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.browser import found
from support.calls import Client
from support.cdp import Tab, tab
from support.provider import Behaviour, Provider
from support.proxy import Mitmdump
from support.raw import chat
from support.settings import key_of, table
from support.waiting import until
from support.workers import wires_at_both, workers

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]

needs_chromium = pytest.mark.skipif(found() is None, reason="there is no Chromium")

AXE = os.environ.get("SIDESTEP_AXE")
"""`axe.min.js` of the npm package axe-core, which looks for what keeps people from using a page."""
VIOLATIONS = """
axe.run(document, {resultTypes: ["violations"]}).then((found) =>
    found.violations.flatMap((v) => v.nodes.map((n) => `${v.id}: ${n.html.slice(0, 200)} ${n.failureSummary}`)))
"""

PICTURES = os.environ.get("SIDESTEP_PICTURES")
"""Where pictures of the page are kept, to be looked at; else with the test's other files."""

CONTRAST = """
(() => {
    const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
    const part = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
    const behind = (e) => {
        for (; e; e = e.parentElement) {
            const c = rgb(getComputedStyle(e).backgroundColor);
            if (c.length < 4 || c[3] > 0) return c;
        }
    };
    const bad = [];
    for (const e of document.querySelectorAll("body *")) {
        const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
        if (!own || !e.checkVisibility() || e.matches(".skip, noscript *")) continue;
        const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) bad.push(`${e.tagName}.${e.className} ${e.innerText.slice(0, 30)} ${ratio.toFixed(2)}`);
    }
    return bad;
})()
"""
"""Texts whose contrast is below that of WCAG 2.2, 1.4.3 (AA)."""

NAMELESS = """
[...document.querySelectorAll("button, a, input, [role=img], [role=group], section")].filter((e) =>
    e.checkVisibility() && !(e.innerText || e.getAttribute("aria-label") || e.getAttribute("aria-labelledby")
    || (e.id && document.querySelector(`label[for=${e.id}]`)))).map((e) => e.outerHTML)
"""


def settings(*providers: Provider, circuit: dict[str, Any] | None = None) -> str:
    tables = [
        f'[[providers]]\nname = "{p.name}"\ndialect = "openai"\nbase_url = "{p.url()}"\napi_key = "{key_of(p.name)}"\n'
        for p in providers
    ]
    names = ", ".join(f'"{p.name}"' for p in providers)
    route = f'[[routes]]\nname = "OpenAI"\nintercept = ["{providers[0].url()}"]\nproviders = [{names}]\n'
    limits = {"failure_threshold": 2, "open_seconds": 2, **(circuit or {})}
    return "\n".join([table("attempts", {"backoff_seconds": 0.01}), table("circuit", limits), *tables, route])


@contextlib.contextmanager
def looking(m: Mitmdump, folder: Path, token: str = "") -> Iterator[Tab]:
    """A browser that shows the page."""
    folder.mkdir(exist_ok=True)
    with tab(folder) as page:
        page.size(1280, 900)
        page.open(f"{m.url}/{f'#{token}' if token else ''}")
        yield page
        assert not page.complaints, page.complaints


def keep(page: Tab, name: str, tmp_path: Path) -> None:
    picture = page.picture(Path(PICTURES or tmp_path) / f"{name}.png")
    assert picture.stat().st_size > 10_000


def ask(m: Mitmdump, own: Provider, *words: str, stream: bool = True) -> list[str | None]:
    with Client(m, {"openai": own.url()}) as app:
        return [
            app.call("chat", stream=stream, messages=[{"role": "user", "content": word}]).provider for word in words
        ]


@needs_chromium
def test_several_workers_are_shown_as_one(provider: Make, tmp_path: Path) -> None:
    """How each is, what all have counted, and at which of them a call was; a button acts on all, and tells on how
    many."""
    a, b = provider("openai"), provider("azure-east")
    with workers(tmp_path, settings(a, b)) as m, contextlib.ExitStack() as stack:
        for number, wire in wires_at_both(m, stack).items():
            assert wire.send(chat(a.url(), user=f"{number}")).answer()[0] == 200
        with looking(m, tmp_path / "browser", m.token) as page:
            for text in ("worker 1: 1 call, 0 failed", "worker 2: 1 call, 0 failed"):
                page.shows(text, "#workers")
            page.shows("together, group sidestep by a Valkey of its own", "#fleet")
            for text in ("OpenAI gpt-4o → openai [1]", "OpenAI gpt-4o → openai [2]"):
                page.shows(text, "#calls")
            page.shows("2 since the start", "#numbers")
            page.shows("Hold open", "#providers")
            page.click("[data-key='openai open']")
            page.shows("openai is held open: it gets no calls (on 2 workers).", "#said")
            assert page.run(CONTRAST) == []
            keep(page, "workers", tmp_path)


@needs_chromium
def test_an_outage_and_its_end_are_seen_as_they_happen(provider: Make, proxy: Start, tmp_path: Path) -> None:
    """Without a reload: the verdict in words, the provider's state, the calls with their attempts, the events; on a
    large screen and a phone, light and dark, readable and without a scroll to the side. No look is a flow."""
    openai, azure = provider("openai"), provider("azure-east")
    saved = tmp_path / "flows"
    m = proxy(settings(openai, azure, circuit={"open_seconds": 10}), "-w", str(saved))
    with looking(m, tmp_path / "browser") as page:
        page.shows("all is well", "header")
        page.shows("OpenAI calls: served by openai", "#routes")
        page.shows("No call yet", "#calls")
        assert ask(m, openai, "one", "two") == ["openai", "openai"]
        page.shows("answered OpenAI gpt-4o → openai", "#calls")
        openai.default = Behaviour(status=503)
        assert ask(m, openai, "three", "four", "five") == ["azure-east"] * 3
        page.shows("works around a failure", "header")
        page.shows("OpenAI calls: served by azure-east since", "#routes")
        page.shows("because openai's circuit for gpt-4o opened", "#routes")
        page.shows("not asked: answered 503; tried again in", "#providers")
        page.shows("rerouted OpenAI gpt-4o → azure-east", "#calls")
        page.shows("openai (gpt-4o) is not asked for", "#events")
        for scheme in ("light", "dark"):
            page.prefers(scheme)
            for name, width, height in (("wide", 1280, 900), ("phone", 375, 812)):
                page.size(width, height, mobile=name == "phone")
                assert page.run("document.documentElement.scrollWidth <= innerWidth"), (name, "wider than the screen")
                assert page.run(CONTRAST) == [], scheme
                keep(page, f"outage-{name}-{scheme}", tmp_path)
        assert page.run(NAMELESS) == []
        page.size(1280, 900)
        page.prefers("light")
        openai.default = Behaviour()
        until(lambda: ask(m, openai, os.urandom(4).hex()) == ["openai"], "it has recovered", 20)
        page.shows("all is well", "header")
        page.shows("OpenAI calls: served by openai", "#routes")
        page.shows("openai (gpt-4o) is asked again", "#events")
        keep(page, "recovered", tmp_path)
    assert m.stop() == 0
    assert b"page.js" not in saved.read_bytes()
    assert b"/stream" not in saved.read_bytes()


@needs_chromium
@pytest.mark.skipif(AXE is None, reason="SIDESTEP_AXE names no axe.min.js (npm: axe-core)")
def test_axe_finds_nothing(provider: Make, proxy: Start, tmp_path: Path) -> None:
    """At first, amid an outage with open details and buttons, when the proxy is gone; on a phone and in the dark."""
    assert AXE is not None
    openai, azure = provider("openai"), provider("azure-east")
    m = proxy(settings(openai, azure, circuit={"open_seconds": 60}))
    with looking(m, tmp_path / "browser", m.token) as page:
        page.shows("No call yet", "#calls")
        page.run(Path(AXE).read_text() + "; undefined")
        assert page.run(VIOLATIONS) == []
        openai.default = Behaviour(status=503)
        assert ask(m, openai, "one", "two", "three") == ["azure-east"] * 3
        page.shows("rerouted OpenAI gpt-4o → azure-east", "#calls")
        page.run("document.querySelectorAll('details').forEach((d) => d.open = true)")
        for width, scheme in ((1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")):
            page.size(width, 844, mobile=width < 400)
            page.prefers(scheme)
            assert page.run(VIOLATIONS) == [], (width, scheme)
        m.stop()
        page.shows("The proxy has not answered", "#gone")
        assert page.run(VIOLATIONS) == []
        page.complaints.clear()


@needs_chromium
def test_the_buttons_need_the_token(provider: Make, proxy: Start, tmp_path: Path) -> None:
    """Without it there are none to press; a wrong one is refused; with it, typed by keyboard alone, they work, and what
    they did is told; and locked again they are gone."""
    a, b = provider("a"), provider("b")
    m = proxy(settings(a, b))
    with looking(m, tmp_path / "browser") as page:
        page.shows("OpenAI calls: served by a", "#routes")
        assert "Hold open" not in page.text()
        assert page.run("[...document.querySelectorAll('#modes button')].every((b) => b.disabled)")
        page.run("document.getElementById('unlock').focus()")
        page.key("Enter", 13)
        page.shows("The token stands in the proxy's log", "#ask")
        keep(page, "token", tmp_path)
        page.write("wrong")
        page.key("Enter", 13)
        page.shows("This is not the token", "#ask")
        page.complaints.clear()  # a browser says of each 403 that it was one
        page.run("document.getElementById('token').value = ''")
        page.write(m.token)
        page.key("Enter", 13)
        page.shows("Hold open", "#providers")
        page.click("[data-key='a open']")
        page.shows("OpenAI calls: served by b", "#routes")
        page.shows("held open by hand: it gets no calls", "#providers")
        page.shows("a is held open by hand", "#events")
        assert ask(m, a, "held") == ["b"]
        keep(page, "held", tmp_path)
        page.click("[data-key='a auto']")
        page.shows("OpenAI calls: served by a", "#routes")
        page.click("[data-key='mode observe']")
        page.shows("mode observe: calls go where apps send them", "#routes")
        assert m.health()["mode"] == "observe"
        page.click("#unlock")
        assert "Hold open" not in page.text()


@needs_chromium
def test_the_page_says_when_the_proxy_is_gone_and_comes_back(provider: Make, tmp_path: Path) -> None:
    a = provider("a")
    folder = tmp_path / "proxy"
    with Mitmdump(folder, settings(a)) as m, looking(m, tmp_path / "browser", m.token) as page:
        page.shows("Hold open", "#providers")
        assert page.run("location.hash") == "", "the token stays in no address"
        m.stop()
        page.shows("The proxy has not answered since", "#gone")
        keep(page, "gone", tmp_path)
        page.complaints.clear()
        with Mitmdump(folder, settings(a), "--listen-port", str(m.port)) as again:
            page.shows("all is well", "header", 15)
            assert page.text("#gone") == ""
            page.complaints.clear()
            again.stop()


@needs_chromium
def test_words_from_outside_are_text(provider: Make, proxy: Start, tmp_path: Path) -> None:
    """A model that an app makes up may look like markup."""
    a = provider("a")
    m = proxy(settings(a))
    with looking(m, tmp_path / "browser") as page, Client(m, {"openai": a.url()}) as app:
        page.shows("all is well", "header")
        app.call("chat", stream=False, model="<img src=x onerror=document.title='taken'>")
        page.shows("<img src=x", "#calls")
        assert page.run("document.images.length") == 0
        assert "taken" not in page.run("document.title")


def get(m: Mitmdump, path: str, method: str = "GET", **headers: str) -> tuple[int, str, dict[str, str]]:
    """The proxy's own port, asked directly."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", m.port, timeout=10)) as connection:
        connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), {k.lower(): v for k, v in answer.getheaders()}


@pytest.fixture
def m(provider: Make, proxy: Start) -> Mitmdump:
    return proxy(settings(provider("a"), provider("b")))


def test_the_proxys_own_port_shows_the_pages(m: Mitmdump) -> None:
    """By an address or a name of this machine; a name that may be anybody's leads where it leads, as ever."""
    for path, kind in {
        "/": "text/html",
        "/page.js": "text/javascript",
        "/page.css": "text/css",
        "/icon.svg": "image/svg+xml",
        "/health": "application/json",
        "/metrics": "text/plain",
        "/state": "application/json",
    }.items():
        status, text, headers = get(m, path)
        assert (status, headers["content-type"].partition(";")[0]) == (200, kind)
        assert "default-src 'none'; script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert text
    assert get(m, "/health", host=f"localhost:{m.port}")[0] == 200
    assert get(m, "/v1/chat/completions")[0] == 404
    assert get(m, "/health", host=f"rebind.example:{m.port}")[0] == 502
    assert get(m, "/health", host="127.0.0.1:1")[0] == 502, "another port is another server"
    assert get(m, "/health", origin="http://evil.example")[0] == 403
    assert get(m, "/health", sec_fetch_site="cross-site", sec_fetch_mode="no-cors")[0] == 403
    assert get(m, "/health", sec_fetch_site="same-origin")[0] == 200


def test_controls_without_a_right_token_change_nothing(m: Mitmdump) -> None:
    for path in ("/circuit/open/a", "/mode/off", "/token"):
        assert get(m, path, "POST")[0] == 403
        assert get(m, path, "POST", x_sidestep_token="no")[0] == 403
        assert get(m, path, "POST", x_sidestep_token=m.token, origin="http://evil.example")[0] == 403
        assert get(m, path)[0] == 404
    assert m.health()["mode"] == "enforce"
    assert m.provider("a")["state"] == "closed"
    for path in ("/circuit/open/nobody", "/circuit/break/a", "/mode/fast", "/", "/circuit/open/a/b"):
        assert get(m, path, "POST", x_sidestep_token=m.token)[0] == 404
    assert get(m, "/circuit/open/a", "POST", x_sidestep_token=m.token)[0] == 200
    assert m.provider("a")["state"] == "forced_open"


def test_a_stream_of_events_lasts_until_it_is_left(m: Mitmdump) -> None:
    """It begins with the whole picture; a change follows by itself; whoever leaves costs nothing more."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", m.port, timeout=10)) as connection:
        connection.request("GET", "/stream")
        answer = connection.getresponse()
        assert answer.getheader("content-type") == "text/event-stream"
        assert answer.readline() == b"retry: 1000\n"
        assert answer.readline().startswith(b'data: {"now":')
        get(m, "/mode/observe", "POST", x_sidestep_token=m.token)
        while b'"mode":"observe"' not in (line := answer.readline()):
            assert line
