"""Requests for Sidestep's own pages, answered in mitmproxy's HTTP layer: no hook tells of them, so that no look at a
page is recorded as a flow. One page is a stream of events, which lasts as long as somebody looks.
"""

from __future__ import annotations

from typing import Any, Protocol

from mitmproxy import ctx, http
from mitmproxy.connection import Client
from mitmproxy.proxy import commands, events, layer
from mitmproxy.proxy.layers.http import DropStream, HTTPMode, HttpStream, SendHttp
from mitmproxy.proxy.layers.http._events import (
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
)

from sidestep.calls.pages import STREAM_TYPE, Later
from sidestep.mitm.handlers import client_is_slow

Commands = layer.CommandGenerator[None]

TICK_SECONDS = 0.5
"""So often a page that looks on is told what has changed."""
LOOK_SECONDS = 0.02
"""So often it is looked whether an answer is there that others are waited for."""
SIGN_SECONDS = 15.0
"""After so long without a change it is told that the proxy is still there."""
STREAM_BYTES = 64 << 20
"""After so much a stream ends, and the page asks for another: over HTTP/2 mitmproxy keeps what is not read."""
STREAMS = 16
"""Pages that may look on at once; more of them ask again and again instead."""


class Host(Protocol):
    """What shows the pages."""

    def is_own(self, request: http.Request, client: Client, server: str | None) -> bool:
        """Whether a request is for a page of Sidestep's. `server`: the host to which the client's connection goes, None
        where each request says that itself."""
        ...

    def show(self, flow: http.HTTPFlow) -> http.Response | Later:
        """The page that was asked for."""
        ...

    def look(self, later: Later) -> http.Response | None:
        """The same where others are waited for, once it is there."""
        ...

    def event(self) -> bytes:
        """What those who look on are told now."""
        ...


class PageStream(HttpStream):
    """One request. State, where it is for a page: that it is, its answer while others are waited for, and of a stream
    of events the last one, how many seconds ago something was sent, and how many bytes there have been."""

    is_page: bool = False
    later: Later | None = None
    last_event: bytes | None = None
    silent: float = 0.0
    sent: int = 0
    looking: int = 0
    """Of the class: how many streams of events there are."""
    parent: Any

    def state_wait_for_request_headers(self, event: RequestHeaders) -> Commands:
        address = self.context.server.address
        server = address[0] if self.mode is HTTPMode.transparent and address is not None else None
        host: Host = self.parent.conductor
        request = event.request
        # What comes through a tunnel is what may be for a page.
        may_be = event.replay_flow is None and request.method != "CONNECT"
        if not may_be or not host.is_own(request, self.context.client, server):
            yield from super().state_wait_for_request_headers(event)
            return
        self.is_page = True
        self.flow = http.HTTPFlow(self.context.client, self.context.server)
        self.flow.request = request
        self.client_state = self.state_page
        self.server_state = self.state_done

    def state_page(self, event: events.Event) -> Commands:
        """Nothing of a body is read."""
        if not isinstance(event, RequestEndOfMessage):
            return
        host: Host = self.parent.conductor
        self.client_state = self.state_done
        if ctx.options.proxyauth:
            # It would have been asked by a hook.
            ctx.master.addons.get("proxyauth").requestheaders(self.flow)
        shown = self.flow.response or host.show(self.flow)
        if isinstance(shown, Later):
            self.later = shown
            yield commands.RequestWakeup(LOOK_SECONDS)
        else:
            yield from self._send_page(shown)

    def _look(self, later: Later) -> Commands:
        host: Host = self.parent.conductor
        response = host.look(later)
        if response is None:
            yield commands.RequestWakeup(LOOK_SECONDS)
            return
        self.later = None
        yield from self._send_page(response)

    def _send_page(self, response: http.Response) -> Commands:
        client, is_get = self.context.client, self.flow.request.method == "GET"
        follows = response.status_code == 200 and response.headers.get("content-type") == STREAM_TYPE and is_get
        if follows and PageStream.looking < STREAMS and self.flow.request.http_version != "HTTP/1.0":
            del response.headers["content-length"]
            response.headers["transfer-encoding"] = "chunked"
            PageStream.looking += 1
            self.last_event = response.content or b""
            yield SendHttp(ResponseHeaders(self.stream_id, response), client)
            yield SendHttp(ResponseData(self.stream_id, self.last_event), client)
            yield commands.RequestWakeup(TICK_SECONDS)
            return
        content = response.raw_content
        yield SendHttp(ResponseHeaders(self.stream_id, response, end_stream=not content), client)
        if content:
            yield SendHttp(ResponseData(self.stream_id, content), client)
        yield DropStream(self.stream_id)
        yield SendHttp(ResponseEndOfMessage(self.stream_id), client)

    def page_event(self, event: events.Event) -> Commands:
        """What comes once it is known to be for a page: time passes, the client leaves, the rest of the request."""
        if isinstance(event, events.Wakeup):
            if self.later is not None:
                yield from self._look(self.later)
            elif self.last_event is not None:
                yield from self._send_news(self.last_event)
        elif isinstance(event, (RequestProtocolError, ResponseProtocolError)):
            self._ends()
            self.later = None
            self.client_state = self.server_state = self.state_errored
            yield DropStream(self.stream_id)
        else:
            yield from self.client_state(event)

    def _send_news(self, before: bytes) -> Commands:
        host: Host = self.parent.conductor
        client = self.context.client
        self.silent += TICK_SECONDS
        if not client_is_slow(client):
            now = host.event()
            if now != before or self.silent >= SIGN_SECONDS:
                data = b": nothing has changed\n\n" if now == before else now
                self.last_event, self.silent = now, 0.0
                self.sent += len(data)
                yield SendHttp(ResponseData(self.stream_id, data), client)
        if self.sent < STREAM_BYTES:
            yield commands.RequestWakeup(TICK_SECONDS)
        else:
            self._ends()
            yield DropStream(self.stream_id)
            yield SendHttp(ResponseEndOfMessage(self.stream_id), client)

    def _ends(self) -> None:
        if self.last_event is not None:
            self.last_event = None
            PageStream.looking -= 1
