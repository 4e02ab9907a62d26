"""The pages of `sidestep.internal`, and of the proxy's own port: who may see them, what is at which path, the buttons.

No policy: what is said of the providers comes from `status` and `overview`, what is shown in a browser from `page`.
"""

from __future__ import annotations

import hmac
import json
from urllib.parse import unquote

from mitmproxy import http
from mitmproxy.connection import Client
from mitmproxy.net.http.url import parse_authority
from mitmproxy.proxy.mode_specs import RegularMode, UpstreamMode

from sidestep import handover, page, status
from sidestep.breaker.circuit import State
from sidestep.calls.clients import address_of, is_machine
from sidestep.calls.entrance import Entrance
from sidestep.calls.flows import authority_of
from sidestep.calls.shared import Core
from sidestep.config.settings import MODES
from sidestep.routing.engine import Engine

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

HELD: dict[str, tuple[State | None, str]] = {
    "open": (State.FORCED_OPEN, "is held open by hand: it gets no calls"),
    "disable": (State.DISABLED, "is disabled: held by hand, it gets calls, whatever fails"),
    "auto": (None, "is automatic: its circuit decides"),
}
"""How a circuit is held by hand, by the word for it; and what is said of that."""


class RefusedError(Exception):
    """What was asked for cannot be done; why."""


def hold(core: Core, engine: Engine, name: str, how: str) -> None:
    """Hold the circuits of a provider, or give them back; it is told. RefusedError: there is no such provider."""
    if name not in engine.settings.by_name:
        raise RefusedError(f"expected one of {', '.join(engine.settings.by_name)}, found {name!r}")
    state, words = HELD[how]
    engine.hold(name, state)
    core.say(f"{name} {words}")


def set_mode(core: Core, engine: Engine, mode: str) -> None:
    """RefusedError: it is none."""
    if mode not in MODES:
        raise RefusedError(f"expected one of {', '.join(MODES)}, found {mode!r}")
    engine.set_mode(mode)
    core.say(f"mode {mode}")


class Pages:
    """State: what all parts of the addon share, and who is let in."""

    def __init__(self, core: Core, entrance: Entrance) -> None:
        self._core = core
        self._entrance = entrance

    def answer(self, request: http.Request, engine: Engine, *, details: bool) -> http.Response:
        """What is said to a request for a page; to HEAD without its body. `details`: False to a client that may use no
        key, which learns whether calls are served, and nothing else."""
        response = self._entrance.refuse_page(request, engine.settings.proxy.hosts)
        if response is None:
            response = self._page(request, engine) if details else _word(request, self._core, engine)
        response.headers.update(OURS)
        if request.method == "HEAD":
            response.data.content = b""
        return response

    def event(self, engine: Engine) -> bytes:
        """The present picture as an event for a page that looks on."""
        picture = json.dumps(self._core.overview.picture(engine), separators=(",", ":"))
        return f"retry: {RETRY_MS}\ndata: {picture}\n\n".encode()

    def _page(self, request: http.Request, engine: Engine) -> http.Response:
        path = request.path.partition("?")[0]
        if request.method == "POST":
            return self._control(request, engine, path)
        if request.method not in ("GET", "HEAD"):
            return _text(405, "only GET, and POST for what the buttons do", allow="GET, HEAD, POST")
        match path:
            case "/health":
                code, body = status.health(engine, self._core.clock())
                if (share := handover.share) is not None:
                    each = self._core.figures_of_all(engine, share)
                    body["worker"] = share.number
                    body["workers"] = {n: {"calls": f.calls, "failed": f.failed} for n, f in each.items()}
                return _json(code, body)
            case "/metrics":
                text = status.metrics(engine, self._core.clock())
                if (share := handover.share) is not None:
                    each = self._core.figures_of_all(engine, share)
                    text = status.metrics_of({n: f.metrics for n, f in each.items()}).encode()
                return http.Response.make(200, text, {"content-type": status.METRICS_TYPE})
            case "/state":
                return _json(200, self._core.overview.picture(engine))
            case "/stream":
                return http.Response.make(200, self.event(engine), {"content-type": STREAM_TYPE})
        if (found := page.file(path)) is not None:
            return http.Response.make(200, found.content, {"content-type": found.type})
        return _text(404, "this is Sidestep, a proxy: /, /health, /metrics and /state are here")

    def _control(self, request: http.Request, engine: Engine, path: str) -> http.Response:
        """What a button does, or the same from a shell."""
        told = request.headers.get(TOKEN_FIELD, "")
        if not hmac.compare_digest(told.encode(), self._core.token.encode()):
            return _text(403, f"the token in {TOKEN_FIELD} is not the one that the proxy's log tells")
        try:
            match [unquote(part) for part in path.removeprefix("/").split("/")]:
                case ["circuit", how, name] if how in HELD:
                    hold(self._core, engine, name, how)
                case ["mode", mode]:
                    set_mode(self._core, engine, mode)
                case ["token"]:
                    pass  # it is right
                case _:
                    return _text(404, "expected /circuit/open/NAME (or disable, auto) or /mode/MODE")
        except RefusedError as e:
            return _text(404, str(e))
        self._core.overview.changed()
        return _text(200, "done")


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


def _word(request: http.Request, core: Core, engine: Engine) -> http.Response:
    if request.method not in ("GET", "HEAD") or request.path.partition("?")[0] != "/health":
        return _text(403, "only /health is for this client: see allow_clients in sidestep's [proxy] table")
    code, body = status.health(engine, core.clock())
    return _json(code, {"status": body["status"]})


def _json(code: int, body: object) -> http.Response:
    return http.Response.make(code, json.dumps(body, indent=1).encode(), {"content-type": "application/json"})


def _text(code: int, text: str, **fields: str) -> http.Response:
    return http.Response.make(code, f"{text}\n".encode(), {**TEXT, **fields})
