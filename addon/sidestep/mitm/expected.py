"""Each private or undocumented name of mitmproxy that Sidestep relies on, what it must be, and which file needs it.

`missing` looks whether the mitmproxy that is running has them all. Its inside is named here by text alone: this room
must load on a mitmproxy on which the other rooms of this folder do not.

Parameters are compared whole: where mitmproxy hands one argument more to a method that is overridden here, every call
would fail.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Literal

LOWEST, BEYOND = (12, 1), (13, 0)
SUPPORTED = ">=12.1,<13"
"""The same range as it is written in a requirement, and in this package's own."""

# --- what a name can be


@dataclass(frozen=True, slots=True)
class Value:
    """It is there: a constant, a member of an enumeration, a property, an attribute of the class itself."""

    def fault(self, found: object) -> str | None:
        return None


@dataclass(frozen=True, slots=True)
class Made:
    """A class derived from `base`. Its instances can be made `of` these arguments, in this order, and keep them under
    these names."""

    of: tuple[str, ...] = ()
    base: str = "object"

    def fault(self, found: object) -> str | None:
        if not isinstance(found, type):
            return "is not a class"
        if self.base not in [c.__qualname__ for c in found.__mro__]:
            return f"is not derived from {self.base}"
        if not self.of:
            return None
        maker = found.__init__  # type: ignore[misc]
        given, needed = _parameters(maker) if isinstance(maker, FunctionType) else ((), 0)
        if given[: len(self.of)] != self.of or needed > len(self.of):
            return f"is made of {_listed(given)}, expected {_listed(self.of)}"
        lost = tuple(name for name in self.of if not _assigns(found, "__init__", name))
        return f"does not keep {_listed(lost)}" if lost else None


@dataclass(frozen=True, slots=True)
class Function:
    """A function, or a method, of this kind with exactly these parameters, `self` left out."""

    takes: tuple[str, ...] = ()
    kind: Literal["plain function", "generator", "coroutine"] = "plain function"

    def fault(self, found: object) -> str | None:
        function = inspect.unwrap(found) if callable(found) else found
        if not isinstance(function, FunctionType):
            return "is not a function"
        if (given := _parameters(function)[0]) != self.takes:
            return f"takes {_listed(given)}, expected {_listed(self.takes)}"
        return None if _kind(function.__code__) == self.kind else f"is not a {self.kind}"


@dataclass(frozen=True, slots=True)
class Kept:
    """An attribute that this method gives to an instance."""

    by: str = "__init__"


What = Value | Made | Function | Kept


@dataclass(frozen=True, slots=True)
class Fact:
    """State: a module, a name in it, what that must be, the files of Sidestep that rely on it."""

    module: str
    name: str
    what: What
    needed_by: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


def _step(*takes: str) -> Function:
    """A method of a layer that handles something: it yields commands."""
    return Function(takes, "generator")


def _facts(module: str, needed_by: str, names: Mapping[str, What]) -> Iterator[Fact]:
    """Facts of one module. `needed_by`: rooms of this folder, or other files of the package."""
    files = tuple(f if "." in f else f"mitm/{f}.py" for f in needed_by.split())
    for name, what in names.items():
        yield Fact(module, name, what, files)


# --- the table

_HTTP = "mitmproxy.proxy.layers.http"

FACTS: tuple[Fact, ...] = (
    # The layers of all protocols, what they are told and what they ask for.
    *_facts(
        "mitmproxy.proxy.layer",
        "layer stream flights protocols",
        {
            "CommandGenerator": Value(),
            "Layer": Made(),
            "Layer.handle_event": _step("event"),
            "Layer._handle_event": _step("event"),
            "Layer.context": Kept(),
            "Layer._paused": Kept(),
            "Layer._paused_event_queue": Kept(),
        },
    ),
    *_facts(
        "mitmproxy.proxy.layer",
        "connections",
        {"NextLayer": Made(), "NextLayer.layer": Kept(), "NextLayer.context": Kept()},
    ),
    *_facts(
        "mitmproxy.proxy.context",
        "layer stream protocols connections",
        {
            "Context": Made(),
            "Context.client": Kept(),
            "Context.server": Kept(),
            "Context.options": Kept(),
            "Context.layers": Kept(),
            "Context.fork": Function(),
        },
    ),
    *_facts(
        "mitmproxy.proxy.commands",
        "layer stream protocols",
        {
            "Command": Made(),
            "Command.blocking": Value(),
            "CloseConnection": Made(("connection",), "Command"),
            "Log": Made(("message", "level"), "Command"),
            "RequestWakeup": Made(("delay",), "Command"),
            "SendData": Made(("connection", "data"), "Command"),
            "StartHook": Made(base="Command"),
        },
    ),
    *_facts(
        "mitmproxy.proxy.events",
        "layer stream flights protocols handlers",
        {
            "Event": Made(),
            "Start": Made(base="Event"),
            "Wakeup": Made(("command",), "CommandCompleted"),
            "HookCompleted": Made(("command", "reply"), "CommandCompleted"),
            "ConnectionEvent": Made(("connection",), "Event"),
            "ConnectionClosed": Made(("connection",), "ConnectionEvent"),
            "DataReceived": Made(("connection", "data"), "ConnectionEvent"),
        },
    ),
    *_facts(
        "mitmproxy.proxy.tunnel",
        "layer connections",
        {
            "TunnelLayer": Made(base="Layer"),
            "TunnelLayer.tunnel_connection": Kept(),
            "TunnelLayer.child_layer": Kept(),
        },
    ),
    *_facts(
        "mitmproxy.proxy.layers.tls",
        "connections",
        {"ClientTLSLayer": Made(base="TunnelLayer"), "ServerTLSLayer": Made(base="TunnelLayer")},
    ),
    *_facts(f"{_HTTP}._upstream_proxy", "layer", {"HttpUpstreamProxy": Made(base="TunnelLayer")}),
    # HTTP, the layer of one client connection.
    *_facts(
        _HTTP,
        "layer connections",
        {
            "HttpLayer": Made(base="Layer"),
            "HttpLayer._handle_event": _step("event"),
            "HttpLayer.make_stream": _step("stream_id"),
            "HttpLayer.get_connection": _step("event", "reuse"),
            "HttpLayer.register_connection": _step("command"),
            "HttpLayer.event_to_child": _step("child", "event"),
            "HttpLayer.streams": Kept(),
            "HttpLayer.connections": Kept(),
            "HttpLayer.command_sources": Kept(),
            "HttpLayer.waiting_for_establishment": Kept(),
        },
    ),
    *_facts(
        _HTTP,
        "layer stream flights",
        {
            "GetHttpConnection": Made(("address", "tls", "via", "transport_protocol"), "Command"),
            "GetHttpConnection.blocking": Value(),
            "GetHttpConnectionCompleted": Made(("command", "reply"), "CommandCompleted"),
            "RegisterHttpConnection": Made(("connection", "err"), "Command"),
            "SendHttp": Made(("event", "connection"), "Command"),
            "DropStream": Made(("stream_id",), "Command"),
            "HTTPMode": Made(),
            "HTTPMode.upstream": Value(),
        },
    ),
    # HTTP, the stream of one request.
    *_facts(
        _HTTP,
        "stream layer flights",
        {
            "HttpStream": Made(("context", "stream_id"), "Layer"),
            "HttpStream._handle_event": _step("event"),
            "HttpStream.state_wait_for_request_headers": _step("event"),
            "HttpStream.state_consume_request_body": _step("event"),
            "HttpStream.state_wait_for_response_headers": _step("event"),
            "HttpStream.state_done": _step("_"),
            "HttpStream.state_errored": _step("_"),
            "HttpStream.check_body_size": _step("request"),
            "HttpStream.check_killed": _step("emit_error_hook"),
            "HttpStream.handle_protocol_error": _step("event"),
            "HttpStream.make_server_connection": _step(),
            "HttpStream.send_response": _step("already_streamed"),
            "HttpStream.flow_done": _step(),
            "HttpStream.client_state": Kept(),
            "HttpStream.server_state": Kept(),
            "HttpStream.stream_id": Kept(),
            "HttpStream.request_body_buf": Kept(),
            "HttpStream.response_body_buf": Kept(),
            "HttpStream.flow": Kept("state_wait_for_request_headers"),
            "HttpStream.child_layer": Value(),
            "HttpStream.mode": Value(),
        },
    ),
    *_facts(
        "mitmproxy.proxy.utils",
        "stream",
        {
            "ReceiveBuffer.clear": Function(),
            "ReceiveBuffer.__iadd__": Function(("other",)),
            "ReceiveBuffer.__len__": Function(),
            "ReceiveBuffer.__bytes__": Function(),
        },
    ),
    *_facts(f"{_HTTP}._base", "stream protocols", {"HttpEvent": Made(("stream_id",), "Event")}),
    *_facts(f"{_HTTP}._base", "protocols", {"ReceiveHttp": Made(("event",), "Command")}),
    *_facts(
        f"{_HTTP}._events",
        "stream flights protocols",
        {
            "ErrorCode": Made(),
            "ErrorCode.CANCEL": Value(),
            "ErrorCode.GENERIC_SERVER_ERROR": Value(),
            "RequestHeaders": Made(("stream_id", "request", "end_stream"), "HttpEvent"),
            "RequestData": Made(("stream_id", "data"), "HttpEvent"),
            "RequestTrailers": Made(("stream_id", "trailers"), "HttpEvent"),
            "RequestEndOfMessage": Made(("stream_id",), "HttpEvent"),
            "RequestProtocolError": Made(("stream_id", "message", "code"), "HttpEvent"),
            "ResponseHeaders": Made(("stream_id", "response", "end_stream"), "HttpEvent"),
            "ResponseData": Made(("stream_id", "data"), "HttpEvent"),
            "ResponseTrailers": Made(("stream_id", "trailers"), "HttpEvent"),
            "ResponseEndOfMessage": Made(("stream_id",), "HttpEvent"),
            "ResponseProtocolError": Made(("stream_id", "message", "code"), "HttpEvent"),
        },
    ),
    *_facts(
        f"{_HTTP}._hooks",
        "stream",
        {
            "HttpErrorHook": Made(("flow",), "StartHook"),
            "HttpRequestHeadersHook": Made(("flow",), "StartHook"),
            "HttpRequestHook": Made(("flow",), "StartHook"),
            "HttpResponseHeadersHook": Made(("flow",), "StartHook"),
        },
    ),
    # HTTP and WebSockets on the wire.
    *_facts(
        f"{_HTTP}._http1",
        "protocols layer",
        {
            "Http1Client": Made(base="Layer"),
            "Http1Client.read_headers": _step("event"),
            "Http1Client.read_body": _step("event"),
            "Http1Client.request": Value(),
            "Http1Client.stream_id": Value(),
            "Http1Client.state": Value(),
            "Http1Client.buf": Kept(),
            "Http1Client.body_reader": Kept("read_headers"),
            "Http1Client.conn": Kept(),
            "Http1Client.done": _step("event"),
            "Http1Client.mark_done": _step("request", "response"),
            "Http1Server": Made(base="Layer"),
            "Http1Server.read_headers": _step("event"),
            "Http1Server.send": _step("event"),
            "Http1Server.state": Value(),
            "Http1Server.response": Value(),
            "Http1Server.conn": Kept(),
        },
    ),
    *_facts("mitmproxy.net.http.validate", "stream", {"validate_headers": Function(("message",))}),
    *_facts(
        "h11._receivebuffer",
        "protocols",
        {
            "ReceiveBuffer.__bytes__": Function(),
            "ReceiveBuffer.maybe_extract_at_most": Function(("count",)),
            "ReceiveBuffer.maybe_extract_lines": Function(),
        },
    ),
    *_facts(
        "h11._readers",
        "protocols",
        {
            "ChunkedReader": Made(),
            "ChunkedReader.__call__": Function(("buf",)),
            **{f"ChunkedReader.{n}": Kept() for n in ("_bytes_in_chunk", "_bytes_to_discard", "_reading_trailer")},
        },
    ),
    *_facts(
        f"{_HTTP}._http2",
        "protocols layer",
        {
            "Http2Client": Made(base="Layer"),
            "Http2Client.stream_queue": Kept(),
            "Http2Client.protocol_error": _step("message", "error_code"),
            "Http2Client.close_connection": _step("msg"),
        },
    ),
    *_facts(
        f"{_HTTP}._http2",
        "protocols",
        {
            "Http2Server": Made(base="Layer"),
            "Http2Server.handle_h2_event": _step("event"),
            "Http2Server.protocol_error": _step("message", "error_code"),
            "Http2Server.streams": Kept(),
            "StreamState": Made(),
            "StreamState.HEADERS_RECEIVED": Value(),
        },
    ),
    *_facts("h2.events", "protocols", {"Event": Made(), "StreamReset": Made(base="Event")}),
    *_facts(
        "mitmproxy.proxy.layers.websocket",
        "protocols",
        {
            "WebsocketEndHook": Made(("flow",), "StartHook"),
            "WebsocketLayer": Made(base="Layer"),
            "WebsocketLayer._handle_event": _step("_"),
            "WebsocketLayer.relay_messages": _step("event"),
            "WebsocketLayer.done": _step("_"),
            "WebsocketLayer.flow": Kept(),
            "WebsocketLayer.client_ws": Kept("start"),
            "WebsocketLayer.server_ws": Kept("start"),
            "WebsocketConnection": Made(base="Connection"),
            "WebsocketConnection.events": Function((), "generator"),
            "WebsocketConnection.conn": Kept(),
            "WebsocketConnection.state": Value(),
        },
    ),
    # Below the layers: sockets and their tasks.
    *_facts(
        "mitmproxy.proxy.server",
        "handlers",
        {
            "ConnectionHandler": Made(),
            "ConnectionHandler.transports": Kept(),
            "ConnectionHandler.server_event": Function(("event",), "coroutine"),
            "ConnectionIO": Made(("handler", "reader", "writer")),
        },
    ),
    *_facts("mitmproxy.addons.proxyserver", "handlers listening", {"Proxyserver": Made()}),
    *_facts("mitmproxy.addons.proxyserver", "handlers", {"Proxyserver.connections": Kept()}),
    *_facts("mitmproxy.addons.proxyserver", "handlers run/companion.py", {"Proxyserver.listen_addrs": Function()}),
    *_facts("mitmproxy.addons.proxyserver", "addon.py listening", {"Proxyserver.servers": Kept()}),
    *_facts(
        "mitmproxy.proxy.mode_servers",
        "handlers",
        {"ProxyConnectionHandler": Made(), "ProxyConnectionHandler.handle_hook": Function(("hook",), "coroutine")},
    ),
    *_facts("mitmproxy.proxy.mode_servers", "addon.py", {"ServerInstance.listen_addrs": Value()}),
    *_facts("mitmproxy.proxy.mode_servers", "addon.py listening", {"ServerInstance.mode": Kept()}),
    *_facts("mitmproxy.addons.termlog", "terminal", {"TermLog": Made(), "TermLog.logger": Kept()}),
    *_facts("mitmproxy.addons.termlog", "terminal", {"TermLogHandler.has_vt_codes": Kept()}),
    *_facts("mitmproxy.utils.human", "terminal", {"format_address": Function(("address",))}),
    *_facts("mitmproxy.addons.proxyauth", "pages", {"ProxyAuth.requestheaders": Function(("f",))}),
    # Beside the layers: addons, hooks, options, the parts of a message.
    *_facts("mitmproxy.addons.next_layer", "connections", {"NextLayer.next_layer": Function(("nextlayer",))}),
    *_facts(
        "mitmproxy.addons.clientplayback",
        "connections",
        {
            "ReplayHandler": Made(),
            "ReplayHandler.__init__": Function(("flow", "options")),
            "ReplayHandler.layer": Kept(),
        },
    ),
    *_facts(
        "mitmproxy.addonmanager",
        "dispatch handlers connections",
        {
            "AddonManager": Made(),
            "AddonManager.chain": Kept(),
            "AddonManager.get": Function(("name",)),
            "AddonManager.handle_lifecycle": Function(("event",), "coroutine"),
            "AddonManager.trigger_event": Function(("event",), "coroutine"),
            "safecall": Function((), "generator"),
        },
    ),
    *_facts("mitmproxy.hooks", "dispatch", {"Hook": Made(), "UpdateHook": Made(("flows",), "Hook")}),
    *_facts(
        "mitmproxy.optmanager",
        "addon.py messages calls/clients.py",
        {
            "unset": Value(),
            "OptManager._options": Kept(),
            "OptManager.__contains__": Function(("k",)),
            "_Option.value": Kept(),
        },
    ),
    *_facts(
        "mitmproxy.optmanager",
        "messages",
        {"_Option": Made(), "_Option.current": Function(), "_Option._default": Kept()},
    ),
    *_facts(
        "mitmproxy.http",
        "stream messages calls/flows.py calls/hooks.py calls/pages.py calls/session.py",
        {
            "Headers": Made(),
            "Headers.get_all": Function(("name",)),
            "MessageData": Made(),
            "RequestData": Made(),
            **{f"RequestData.{name}": Kept() for name in ("host", "port", "scheme", "authority", "path")},
            **{f"RequestData.{name}": Kept() for name in ("headers", "content", "trailers")},
            "ResponseData": Made(),
            **{f"ResponseData.{name}": Kept() for name in ("headers", "content", "reason")},
        },
    ),
    *_facts(
        "mitmproxy.net.http.url", "calls/flows.py calls/pages.py", {"parse_authority": Function(("authority", "check"))}
    ),
)


FACTS_OF_RUN: tuple[Fact, ...] = (
    # What `sidestep run` relies on beside those. It is not looked for at a start: where it is missing no command is
    # started, and the reason is said.
    *_facts(
        "mitmproxy.addons.errorcheck",
        "run/companion.py",
        {"ErrorCheck.logger": Kept(), "ErrorCheckHandler.has_errored": Kept()},
    ),
    *_facts("mitmproxy.tools.web.master", "run/companion.py", {"WebMaster.web_url": Value()}),
    *_facts("mitmproxy.tools.main", "run/proxy.py cli.py", {"mitmdump": Value(), "mitmweb": Value()}),
    *_facts("mitmproxy.options", "run/trust.py", {"CONF_BASENAME": Value(), "KEY_SIZE": Value()}),
)

FACTS_OF_WORKERS: tuple[Fact, ...] = (
    # What several processes on one port rely on beside those: without it no worker starts.
    *_facts(
        "mitmproxy.tools.dump",
        "workers/worker.py",
        {"DumpMaster": Made()},
    ),
    *_facts(
        "mitmproxy.proxy.mode_servers",
        "listening",
        {
            "AsyncioServerInstance": Made(base="ServerInstance"),
            "AsyncioServerInstance.listen": Function(("host", "port"), "coroutine"),
            "AsyncioServerInstance._servers": Kept(),
            "AsyncioServerInstance._stop": Function((), "coroutine"),
            "ServerInstance.handle_stream": Function(("reader", "writer"), "coroutine"),
        },
    ),
    *_facts("mitmproxy.addons.save", "listening", {"_path": Function(("path",))}),
)

# --- the check


def missing(facts: Iterable[Fact] = FACTS) -> list[str]:
    """What this mitmproxy lacks, or has otherwise than the table says, in words; empty on one that is known."""
    faults = dict.fromkeys(_fault(fact) for fact in facts)
    return [fault for fault in faults if fault is not None]


def is_supported(version: str) -> bool:
    """Whether a version of mitmproxy is one of those that Sidestep is tested with."""
    major, _, rest = version.partition(".")
    minor = rest.partition(".")[0]
    if not (major.isdecimal() and minor.isdecimal()):
        return False
    return LOWEST <= (int(major), int(minor)) < BEYOND


def _fault(fact: Fact) -> str | None:
    try:
        found: object = importlib.import_module(fact.module)
    except ImportError:
        return f"the module {fact.module} is not there"
    at, what = fact.module, fact.what
    *owners, last = fact.name.split(".")
    for name in owners if isinstance(what, Kept) else (*owners, last):
        at += f".{name}"
        if not hasattr(found, name):
            return f"{at} is not there"
        found = getattr(found, name)
    if isinstance(what, Kept):
        if not isinstance(found, type):
            return f"{at} is not a class"
        return None if _assigns(found, what.by, last) else f"{at} does not set {last}"
    fault = what.fault(found)
    return None if fault is None else f"{at} {fault}"


def _assigns(owner: type, method: str, name: str) -> bool:
    """Whether a method of a class, or of one that it is derived from, knows an attribute of this name."""
    for cls in owner.__mro__:
        function = vars(cls).get(method)
        function = inspect.unwrap(function) if callable(function) else function
        if isinstance(function, FunctionType) and name in function.__code__.co_names:
            return True
    return False


def _parameters(function: FunctionType) -> tuple[tuple[str, ...], int]:
    """Their names without `self`, and how many of them have to be given."""
    code = function.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    names = names[1:] if names[:1] == ("self",) else names
    return names, len(names) - len(function.__defaults__ or ()) - len(function.__kwdefaults__ or ())


def _kind(code: CodeType) -> str:
    if code.co_flags & inspect.CO_GENERATOR:
        return "generator"
    return "coroutine" if code.co_flags & inspect.CO_COROUTINE else "plain function"


def _listed(names: tuple[str, ...]) -> str:
    return f"({', '.join(names)})"
