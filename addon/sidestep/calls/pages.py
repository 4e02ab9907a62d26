"""The pages of `sidestep.internal`, and of the proxy's own port: who may see them, what is at which path, the buttons.

No policy: what is said of the providers comes from `status` and `overview`, what is shown in a browser from `page`.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from mitmproxy import http
from mitmproxy.connection import Client
from mitmproxy.net.http.url import parse_authority
from mitmproxy.proxy.mode_specs import RegularMode, UpstreamMode

from sidestep import page, status
from sidestep.calls.clients import address_of, is_machine
from sidestep.calls.entrance import Entrance
from sidestep.calls.flows import authority_of
from sidestep.calls.others import ANSWER_SECONDS, HELD
from sidestep.calls.shared import Core
from sidestep.config.settings import MODES
from sidestep.credentials import as_bytes
from sidestep.routing.engine import Engine
from sidestep.siblings import Figures

TOKEN_FIELD = "x-sidestep-token"  # noqa: S105  # a name
"""The header field that a button's request bears: no page of another site can send it unasked."""
STREAM_TYPE = "text/event-stream"
RETRY_MS = 1000
"""How soon a page that has lost its stream asks again."""
TEXT = {"content-type": "text/plain; charset=utf-8"}

OURS = {
    # No other page may load, frame or keep one of ours; without this it could tell 200 from 503 by what loads.
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}

SAID = {
    "open": "is held open by hand: it gets no calls",
    "disable": "is disabled: held by hand, it gets calls, whatever fails",
    "auto": "is automatic: its circuit decides",
}
"""What is said where a circuit is held by hand, or given back."""


OF_ALL = ("/health", "/metrics", "/state", "/stream")
"""What tells of all workers, where there are several."""

Acted = tuple[Callable[[], bool], Callable[[], http.Response]]
"""Whether all workers have followed, and what is said then, or when they have had their time."""


@dataclass(frozen=True, slots=True)
class Later:
    """An answer that others are waited for. `look`: None while they are; `make`: without them."""

    look: Callable[[], http.Response | None]
    make: Callable[[], http.Response]


class RefusedError(Exception):
    """What was asked for cannot be done; why."""


def hold(core: Core, engine: Engine, name: str, how: str) -> None:
    """Hold the circuits of a provider, or give them back; it is told. RefusedError: there is no such provider."""
    if name not in engine.settings.by_name:
        raise RefusedError(f"expected one of {', '.join(engine.settings.by_name)}, found {name!r}")
    engine.hold(name, HELD[how])
    core.say(f"{name} {SAID[how]}")
    core.overview.changed()
    if core.others is not None:
        core.others.ask(hold=(name, how))


def set_mode(core: Core, engine: Engine, mode: str) -> None:
    """RefusedError: it is none."""
    if mode not in MODES:
        raise RefusedError(f"expected one of {', '.join(MODES)}, found {mode!r}")
    engine.set_mode(mode)
    core.say(f"mode {mode}")
    core.overview.changed()
    if core.others is not None:
        core.others.ask(mode=mode)


class Pages:
    """State: what all parts of the addon share, and who is let in."""

    def __init__(self, core: Core, entrance: Entrance) -> None:
        self._core = core
        self._entrance = entrance

    def answer(self, request: http.Request, engine: Engine, *, details: bool) -> http.Response | Later:
        """What is said to a request for a page; to HEAD without its body. `details`: False to a client that may use no
        key, which learns whether calls are served, and nothing else. Where the figures of other workers belong to it,
        it is said a moment later."""
        refused = self._entrance.refuse_page(request, engine.settings.proxy.hosts)
        if refused is not None:
            return _dressed(request, refused)
        if not details:
            return _dressed(request, _word(request, self._core, engine))
        path = request.path.partition("?")[0]
        if request.method == "POST":
            done = self._control(request, engine, path)
            return self._later(request, *done) if isinstance(done, tuple) else _dressed(request, done)
        if path in OF_ALL and self._core.others is not None:
            have_answered = self._core.others.ask(metrics=path == "/metrics")
            return self._later(request, have_answered, lambda: self._page(request, engine))
        return _dressed(request, self._page(request, engine))

    def _later(self, request: http.Request, is_ready: Callable[[], bool], make: Callable[[], http.Response]) -> Later:
        until = self._core.clock() + ANSWER_SECONDS

        def made() -> http.Response:
            return _dressed(request, make())

        def look() -> http.Response | None:
            return made() if is_ready() or self._core.clock() >= until else None

        return Later(look, made)

    def event(self, engine: Engine) -> bytes:
        """The present picture as an event for a page that looks on."""
        picture = json.dumps(self._picture(engine), separators=(",", ":"))
        if self._core.others is not None:
            self._core.others.ask()  # for the next one
        return f"retry: {RETRY_MS}\ndata: {picture}\n\n".encode()

    def _picture(self, engine: Engine) -> dict[str, Any]:
        others = self._core.others
        return self._core.overview.picture(engine) if others is None else others.picture(engine)

    def _page(self, request: http.Request, engine: Engine) -> http.Response:
        path = request.path.partition("?")[0]
        if request.method not in ("GET", "HEAD"):
            return _text(405, "only GET, and POST for what the buttons do", allow="GET, HEAD, POST")
        match path:
            case "/health":
                code, body = status.health(engine, self._core.clock())
                if (others := self._core.others) is not None:
                    body["worker"], body["workers"] = others.number, others.workers(engine)
                return _json(code, body)
            case "/metrics":
                others = self._core.others
                text = status.metrics(engine, self._core.clock()) if others is None else others.metrics(engine).encode()
                return http.Response.make(200, text, {"content-type": status.METRICS_TYPE})
            case "/state":
                return _json(200, self._picture(engine))
            case "/stream":
                return http.Response.make(200, self.event(engine), {"content-type": STREAM_TYPE})
        if (found := page.file(path)) is not None:
            return http.Response.make(200, found.content, {"content-type": found.type})
        return _text(404, "this is Sidestep, a proxy: /, /health, /metrics and /state are here")

    def _control(self, request: http.Request, engine: Engine, path: str) -> http.Response | Acted:
        """What a button does, or the same from a shell."""
        told = request.headers.get(TOKEN_FIELD, "")
        if not hmac.compare_digest(as_bytes(told), self._core.token.encode()):
            return _text(403, f"the token in {TOKEN_FIELD} is not the one that the proxy's log tells")
        try:
            match [unquote(part) for part in path.removeprefix("/").split("/")]:
                case ["circuit", how, name] if how in HELD:
                    hold(self._core, engine, name, how)
                    return self._done(engine, lambda told: told.held.get(name, "auto") == how)
                case ["mode", mode]:
                    set_mode(self._core, engine, mode)
                    return self._done(engine, lambda told: told.mode == mode)
                case ["token"]:
                    return _text(200, "done")  # it is right
                case _:
                    return _text(404, "expected /circuit/open/NAME (or disable, auto) or /mode/MODE")
        except RefusedError as e:
            return _text(404, str(e))

    def _done(self, engine: Engine, follows: Callable[[Figures], bool]) -> http.Response | Acted:
        """It is told where: at all workers, and by the store at other proxies."""
        others, elsewhere = self._core.others, ""
        if engine.sharing is not None:
            elsewhere = status.told_in_words(engine.sharing.status)
        if others is None:
            return _text(200, f"done {elsewhere}".rstrip())
        return (
            lambda: others.all_follow(follows),
            lambda: _text(200, f"done {others.where(follows)} {elsewhere}".rstrip()),
        )


def asks_the_proxy(request: http.Request, client: Client, names: frozenset[str] | tuple[str, ...]) -> bool:
    """Whether a request that came to a proxy's port is for that very port: by an address or a name of this machine.
    By any other name it goes where that leads, which a page of the web may choose (DNS rebinding). `names`: the user's
    for this machine."""
    if not isinstance(client.proxy_mode, (RegularMode, UpstreamMode)) or client.tls or not client.sockname:
        return False
    host, port = request.data.host, request.data.port
    if not host:
        try:
            host, found = parse_authority((authority_of(request) or b"").decode("latin-1"), check=True)
        except ValueError:
            return False
        port = 80 if found is None else found
    if port != client.sockname[1]:
        return False
    address = address_of(host)
    if address is not None:
        return address.is_loopback or address == address_of(client.sockname[0])
    return is_machine(host.lower().removesuffix("."), names)


def _dressed(request: http.Request, response: http.Response) -> http.Response:
    response.headers.update(OURS)
    if request.method == "HEAD":
        response.data.content = b""
    return response


def _word(request: http.Request, core: Core, engine: Engine) -> http.Response:
    if request.method not in ("GET", "HEAD") or request.path.partition("?")[0] != "/health":
        return _text(403, "only /health is for this client: see allow_clients in sidestep's [proxy] table")
    code, body = status.health(engine, core.clock())
    return _json(code, {"status": body["status"]})


def _json(code: int, body: object) -> http.Response:
    return http.Response.make(code, json.dumps(body, indent=1).encode(), {"content-type": "application/json"})


def _text(code: int, text: str, **fields: str) -> http.Response:
    return http.Response.make(code, f"{text}\n".encode(), {**TEXT, **fields})
