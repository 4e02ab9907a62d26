"""A user of mitmweb, in a real Chromium, takes hold of calls: intercepts, resumes, aborts and deletes them, at each
stage, over both HTTP versions, with two attempts of one call under way: one answer, nothing left out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import pytest
import trustme

from support.apps import App, H1App, H2App
from support.browser import found, free_port
from support.cdp import Tab, tab
from support.h2client import Stream, said
from support.h2provider import H2Provider
from support.provider import Behaviour, Provider, text_of
from support.proxy import Mitmdump, by_hand
from support.settings import route, table
from support.waiting import until

pytestmark = pytest.mark.skipif(found() is None, reason="there is no Chromium")
Version = Literal["h1", "h2"]
VERSIONS: tuple[Version, ...] = ("h1", "h2")
GOOD = Behaviour()
HELD = {"before the head": Behaviour(silent=True), "after the head": Behaviour(headers_then_silent=True)}
BUTTON = "[...document.querySelectorAll('button')].find((e) => e.innerText.trim() === 'NAME')"
INTERCEPT = "[...document.querySelectorAll('input')].find((e) => e.placeholder === 'Intercept')"
ROWS = "[...document.querySelectorAll('.flow-table tbody tr')].filter((r) => r.innerText)"


@dataclass
class Desk:
    """A user before mitmweb. State: what is asked, and the page; how many calls there were."""

    m: Mitmdump
    page: Tab
    pairs: dict[Version, tuple[Provider, Provider]]
    calls: int = 0

    def pair(self, version: Version, a: Behaviour = GOOD, b: Behaviour = GOOD) -> tuple[Provider, Provider]:
        for p, behaviour in zip(self.pairs[version], (a, b), strict=True):
            p.requests.clear()
            p.default = behaviour
            p.arrived = threading.Semaphore(0)
        return self.pairs[version]

    def app(self, version: Version) -> App:
        return (H1App if version == "h1" else H2App)(self.m, f"{version}.test")

    def ask(self, app: App) -> None:
        """Send a call, of whose model nothing has been learnt, and select it."""
        self.calls += 1
        before = self.page.run(f"{ROWS}.length")
        app.send(stream=True, model=f"model-{self.calls}", user=f"user {self.calls}")
        until(lambda: self.page.run(f"{ROWS}.length") > before, "the call is listed")
        self.page.run(f"{ROWS}.at(-1).click()")

    def intercepts(self, what: str) -> None:
        """Write it into the field."""
        self.opens("Flow List")
        until(lambda: self.page.run(f"{INTERCEPT} !== undefined"), "there is the field")
        self.page.run(f"{INTERCEPT}.focus(), {INTERCEPT}.select()")
        self.page.key("Delete", 46)
        self.page.write(what)
        self.page.key("Enter", 13)
        self.page.run(f"{INTERCEPT}?.blur()")

    def opens(self, menu: str) -> None:
        self.page.run(f"[...document.querySelectorAll('header a')].find((e) => e.innerText === '{menu}').click()")

    def presses(self, name: str) -> None:
        """A button of the selected call."""
        self.opens("Flow")
        button = BUTTON.replace("NAME", name)
        until(lambda: self.page.run(f"{button}?.disabled === false"), f"{name} can be pressed", 5)
        before = self.page.run(f"{ROWS}.length")
        self.page.run(f"{button}.click()")
        if name == "Delete":  # after which another call is selected
            until(lambda: self.page.run(f"{ROWS}.length") < before, "it was deleted", 5)
        else:
            until(lambda: self.page.run(f"{button}?.disabled !== false"), "it was pressed", 5)

    def is_clean(self, version: Version) -> None:
        until(lambda: self.m.health()["in_flight"] == 0, "no attempt is in flight")
        providers = self.m.health()["providers"]
        assert [name for name, p in providers.items() if p["permits_out"] or p["in_flight"]] == []
        assert {p["state"] for p in providers.values()} == {"closed"}
        for p in self.pairs[version]:
            until(lambda p=p: p.in_flight == 0, f"no request stays with {p.name}")  # type: ignore[misc]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder, ca = tmp_path_factory.mktemp("desk"), trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    with ExitStack() as stack:
        makes: dict[Version, Callable[[str], Provider]] = {"h1": Provider, "h2": lambda name: H2Provider(name, ca)}
        pairs: dict[Version, tuple[Provider, Provider]] = {}
        texts = [
            table("hedge", {"after_seconds": 0.4, "max_share": 1}),
            table("attempts", {"per_provider": 1}),
            table("circuit", {"failure_threshold": 10_000, "min_requests": 10_000}),
        ]
        for version, make in makes.items():
            a, b = (stack.enter_context(make(name)) for name in "ab")
            pairs[version] = a, b
            scheme = "http" if version == "h1" else "https"
            texts.append(route("chat", a, b, intercept=f"{scheme}://{version}.test/v1", suffix=f"-{version}"))
        port = free_port()
        options = ["--set", "web_open_browser=false", "--set", f"web_port={port}", "--set", "web_password=look"]
        options += ["--set", "web_host=127.0.0.1", "--set", f"ssl_verify_upstream_trusted_ca={folder / 'ca.pem'}"]
        m = stack.enter_context(by_hand("web", folder / "m", "\n".join(texts), *options))
        (folder / "browser").mkdir()
        page = stack.enter_context(tab(folder / "browser"))
        page.size(1400, 900)
        page.open(f"http://127.0.0.1:{port}/?token=look")
        page.shows("mitmproxy", seconds=30)
        yield Desk(m, page, pairs)


def is_cut(app: App, version: Version) -> bytes:
    """What has come of an answer that does not end well."""
    try:
        answer: Stream = app.answer()
    except EOFError as e:
        assert version == "h1"  # a cut connection
        return str(e).encode()
    assert answer.reset is not None, answer
    return answer.body


def both_are_asked(a: Provider, b: Provider) -> None:
    a.wait_for_request()
    b.wait_for_request()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_request_that_is_held_and_resumed(version: Version, desk: Desk) -> None:
    """The first provider is silent, so that a second one is asked beside it; nobody is before the user says so."""
    a, b = desk.pair(version, Behaviour(silent=True))
    desk.intercepts("~q")
    with desk.app(version) as app:
        desk.ask(app)
        until(lambda: "Resume" in desk.page.text(), "it is intercepted")
        assert (a.count, b.count) == (0, 0)
        desk.presses("Resume")
        answer = app.answer()
    assert (answer.status, said(answer)) == (200, text_of("b", GOOD))
    assert answer.headers["x-sidestep-attempts"] == f"a-{version}:slow, b-{version}:200"
    assert (a.count, b.count) == (1, 1)
    desk.is_clean(version)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_request_that_is_held_and_aborted(version: Version, desk: Desk) -> None:
    """mitmproxy itself lets an app wait whose call is aborted while it is intercepted (`Flow.kill` wakes nobody), until
    it leaves."""
    a, b = desk.pair(version)
    desk.intercepts("~q")
    with desk.app(version) as app:
        desk.ask(app)
        desk.presses("Abort")
    assert (a.count, b.count) == (0, 0)
    desk.is_clean(version)


@pytest.mark.parametrize("stage", HELD)
@pytest.mark.parametrize("version", VERSIONS)
def test_two_attempts_are_deleted(version: Version, stage: str, desk: Desk) -> None:
    """While the app has seen nothing. So a call is killed that is under way: Abort is for those that are held."""
    a, b = desk.pair(version, HELD[stage], HELD[stage])
    desk.intercepts("")
    with desk.app(version) as app:
        desk.ask(app)
        both_are_asked(a, b)
        desk.presses("Delete")
        assert b"data:" not in is_cut(app, version)
        for p in (a, b):
            assert p.requests[0].client_left.wait(5)
        desk.is_clean(version)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_answer_is_deleted_amid_its_content(version: Version, desk: Desk) -> None:
    """Of the second attempt, which has won. mitmproxy looks whether a call was killed at its hooks alone: what its
    provider still says goes on, and does not end well."""
    goes_on = threading.Event()
    a, b = desk.pair(version, Behaviour(silent=True), Behaviour(gate=goes_on, gate_at=2))
    desk.intercepts("")
    with desk.app(version) as app:
        desk.ask(app)
        both_are_asked(a, b)
        app.until(b"w1")
        desk.presses("Delete")
        assert a.requests[0].client_left.wait(5)
        goes_on.set()
        is_cut(app, version)
        desk.is_clean(version)


@pytest.mark.parametrize("act", ["Resume", "Abort"])
@pytest.mark.parametrize("version", VERSIONS)
def test_an_answer_that_is_held(version: Version, act: str, desk: Desk) -> None:
    """At its end, for it has flowed to the app meanwhile."""
    desk.pair(version, Behaviour(headers_then_silent=True))
    desk.intercepts("~s")
    with desk.app(version) as app:
        desk.ask(app)
        app.until(b"[DONE]")
        desk.presses(act)
        if act == "Resume":
            answer = app.answer()
            assert (answer.status, said(answer)) == (200, text_of("b", GOOD))
            assert answer.body.count(b"[DONE]") == 1
            assert answer.headers["x-sidestep-attempts"] == f"a-{version}:slow, b-{version}:200"
    desk.intercepts("")
    desk.is_clean(version)
