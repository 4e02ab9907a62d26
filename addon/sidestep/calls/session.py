"""One routed flow: its exchange, the request as the app sent it, the attempt under way.

What the layer and the hooks share about a flow while it is live. No sending, no waiting, no mitmproxy.proxy.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from mitmproxy import http

from sidestep import credentials
from sidestep.breaker import judging
from sidestep.breaker.outcomes import ErrorFacts, ErrorKind, Kind, Outcome
from sidestep.calls import flows
from sidestep.calls.decoding import decoded_start
from sidestep.calls.watching import Watch
from sidestep.config.advice import without_issuer
from sidestep.config.settings import Provider, TimeoutSettings
from sidestep.dialects.base import Call
from sidestep.no_proxy import is_direct
from sidestep.routing import prices
from sidestep.routing.engine import Attempt, Engine
from sidestep.routing.exchange import Exchange
from sidestep.routing.table import Match

logger = logging.getLogger(__name__)

Clock = Callable[[], float]

LEFT_OUT = "reasoning of another issuer left out"
NOTES = 20
"""Notes kept of one attempt."""


class Session:
    """State: the call and exchange once the body was read, the attempt under way and its watch, what was
    answered. `acting` is False where Sidestep only looks on (mode `observe`)."""

    def __init__(self, flow: http.HTTPFlow, match: Match, engine: Engine, clock: Clock, *, acting: bool) -> None:
        self.flow = flow
        self.match = match
        self.engine = engine
        self.clock = clock
        self.acting = acting
        self.original = flows.Original.take(flow.request)
        self.call: Call | None = None
        self.exchange: Exchange | None = None
        self.attempt: Attempt | None = None
        self.watch: Watch | None = None
        self.answered_by: Provider | None = None
        self.direct_hosts: str | None = None
        """The user's NO_PROXY, where it is `sidestep run` that has put a proxy of the user's behind this one."""
        self.advice: str | None = None
        """In mode `observe`: what would have been done."""

    @property
    def timeouts(self) -> TimeoutSettings:
        assert self.attempt is not None
        return self.attempt.candidate.provider.timeouts

    @property
    def exchange_deadline(self) -> float:
        """When the request's budget ends (monotonic seconds)."""
        assert self.exchange is not None
        return self.exchange.deadline

    @property
    def is_websocket(self) -> bool:
        """The call is the handshake of a WebSocket."""
        return self.call is not None and self.call.operation.endswith(".websocket")

    @property
    def streaming(self) -> bool:
        return self.call is not None and self.call.stream

    def begin(self, attempt: Attempt) -> None:
        """Make the flow's request the one for this attempt."""
        assert self.call is not None
        self.attempt = attempt
        self.watch = None
        flows.point_at(self.flow.request, self.original, self.match, self.call, attempt.candidate)
        self.original.sent_body = self.flow.request.data.content
        if attempt.candidate.leaves_out:
            self.note(LEFT_OUT)
            line = without_issuer(attempt.candidate.provider)
            if line is not None and line not in self.engine.advised:
                self.engine.advised.add(line)
                logger.warning(f"sidestep: {line}")

    def outgoing(self, *, to_http1: bool, to_proxy: bool) -> http.Request:
        """The request's head as it is sent, with the credential."""
        assert self.attempt is not None
        candidate = self.attempt.candidate
        return flows.outgoing(self.flow.request, self.original, candidate, to_http1=to_http1, to_proxy=to_proxy)

    def passes_proxy_by(self) -> bool:
        """Whether the attempt goes to its host directly, though there is a proxy behind this one."""
        request = self.flow.request
        return self.direct_hosts is not None and is_direct(self.direct_hosts, request.host, request.port)

    def release(self) -> None:
        """Give the flow back as the app sent it, credential included: it goes where it was going."""
        self.drop(judging.OURS)
        self.original.restore(self.flow.request, credentials=True)

    def open_watch(self, response: http.Response) -> Watch:
        """Watch the answer whose head has come."""
        assert self.attempt is not None
        assert self.call is not None
        now = self.clock()
        self.attempt.headers_at = now
        self.attempt.status = response.status_code
        self.watch = Watch(
            self.match.dialect,
            self.call,
            own_provider=self.attempt.candidate.own,
            own_credential=self.attempt.candidate.own_credential,
            status=response.status_code,
            fields=response.data.headers.fields,
            wall_now=time.time(),
            unwrap=self.acting and self.complete,
        )
        return self.watch

    # --- what the layer asks

    @property
    def _secrets(self) -> tuple[bytes, ...]:
        return credentials.secrets_of(self.engine.settings.providers)

    @property
    def hold_bytes(self) -> int:
        assert self.attempt is not None
        return self.attempt.candidate.provider.stream.hold_bytes

    @property
    def complete(self) -> bool:
        """The whole stream is to be held back, and failover works until its end."""
        attempt = self.attempt
        stream = self.engine.settings.stream if attempt is None else attempt.candidate.provider.stream
        return self.streaming and stream.commit == "complete"

    @property
    def keep_alive(self) -> bytes:
        """What keeps the app waiting, empty if nothing does."""
        assert self.call is not None
        if self.call.dialect == "gemini" and b"alt=sse" not in self.original.path:
            return b""  # a JSON array has no place for it
        return self.match.dialect.keep_alive(self.call)

    def made_up_response(self) -> http.Response:
        """Headers for an app that waits, before anybody has answered."""
        assert self.exchange is not None
        fields = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
        fields["x-sidestep-request-id"] = self.exchange.id
        if self.flow.request.http_version != "HTTP/1.0":
            fields["transfer-encoding"] = "chunked"
        headers = http.Headers([(k.encode(), v.encode()) for k, v in fields.items()])
        return http.Response(b"HTTP/1.1", 200, b"OK", headers, None, None, time.time(), None)

    def phrase_nobody(self) -> tuple[ErrorKind, str]:
        """What the app is told in band when nobody gave an answer."""
        assert self.exchange is not None
        return ErrorKind.SERVER, f"no provider gave an answer: {self.exchange.trail}"

    def note(self, text: str) -> None:
        """Something about the attempt under way that its story should tell. Never a quotation."""
        if self.attempt is not None and len(self.attempt.notes) < NOTES:
            self.attempt.notes.append(text)

    def phrase_broken(self, outcome: Outcome, error: ErrorFacts | None) -> tuple[ErrorKind, str]:
        """What the app is told of a stream that broke after content."""
        assert self.attempt is not None
        provider = self.attempt.candidate.provider
        if error is None:
            how = "went silent" if outcome.reason == "timeout" else "ended before its end"
            return ErrorKind.SERVER, f"the stream from {provider.name} {how}"
        if not error.message or credentials.bears_secret(error.message.encode("utf-8", "replace"), self._secrets):
            return error.kind, f"{provider.name} ended the stream with an error"
        return error.kind, error.message

    def error_event(self, kind: ErrorKind, message: str) -> bytes:
        """What ends the stream so that the app's SDK raises its own API error."""
        assert self.call is not None
        if self.watch is not None:
            return self.watch.error_event(kind, message)
        return self.match.dialect.phrase_error_event(self.call, kind, message)

    def without_key(self, response: http.Response, body: bytes, provider: Provider) -> bytes | None:
        """An error body in place of one that repeats our key; None if it does not."""
        assert self.watch is not None or self.call is not None
        readable = decoded_start(response.headers.get("content-encoding", ""), body)
        if not credentials.bears_secret(readable, self._secrets) and not credentials.bears_secret(body, self._secrets):
            return None
        text = f"{provider.name} answered {response.status_code}; its words are withheld: they repeat its key"
        replaced = self.match.dialect.phrase_error(response.status_code, ErrorKind.SERVER, text)
        response.headers.pop("content-encoding", None)
        response.headers["content-type"] = "application/json"
        if "content-length" in response.headers:
            response.headers["content-length"] = str(len(replaced))
        return replaced

    @staticmethod
    def scrub(response: http.Response, provider: Provider) -> None:
        """Take our key out of the head of an answer that repeats it."""
        if provider.api_key is None:
            return
        secret = provider.api_key.reveal().encode("utf-8", "replace")
        data = response.data
        if len(secret) < credentials.SECRET_LENGTH:
            return
        if secret in data.reason:
            data.reason = b""
        if any(secret in value for _, value in data.headers.fields):
            data.headers.fields = tuple(f for f in data.headers.fields if secret not in f[1])

    def app_frame(self, content: bytes) -> bytes:
        """A message that the app sends over its WebSocket, as it goes to the provider that took the handshake. With
        the Responses API each call has its model in there, not in the handshake; the very same bytes where there is
        nothing to change."""
        if self.attempt is None or self.call is None or self.call.operation != "responses.websocket":
            return content
        provider = self.attempt.candidate.provider
        if not provider.models and not provider.drop_fields:
            return content
        dialect, tail = self.match.dialect, self.match.tail
        call = dialect.read("responses", tail, "", "", content)
        model = None if call.model is None else provider.target_model(call.model)
        return dialect.rewrite(call, tail, "", content, model, provider.drop_fields)[1]

    # --- settling: each attempt once; a success at first content may be taken back

    def settle(self, outcome: Outcome) -> None:
        """Give the attempt under way its outcome."""
        attempt = self.attempt
        if attempt is None:
            return
        now = self.clock()
        if outcome.kind is Kind.SUCCESS and attempt.content_at is None:
            attempt.content_at = now
        earlier = attempt.outcome
        # An attempt that is over has had its last word: what breaks once the app has gone blames nobody.
        over = attempt not in self.engine.in_flight
        if earlier is None or (earlier.kind is Kind.SUCCESS and outcome.kind is Kind.FAILURE and not over):
            self.engine.settle(attempt, outcome, now)
            if self.exchange is not None:
                self.exchange.settled(
                    attempt, self.watch.headers if self.watch and self.watch.tells_limits else {}, now, time.time()
                )

    def end(self, outcome: Outcome) -> None:
        """The attempt under way is over, with this as the last word on it."""
        attempt = self.attempt
        if attempt is None:
            return
        self.settle(outcome)
        watch = self.watch
        if watch is not None:
            watch.note_usage()
            attempt.usage = watch.usage
            if watch.usage is not None:
                candidate = attempt.candidate
                attempt.cost = prices.cost(candidate.provider, candidate.model, watch.usage)
            if watch.ids:
                self.engine.issued(watch.ids, attempt.candidate.provider)
        self.engine.ended(attempt, self.clock())

    def drop(self, outcome: Outcome) -> None:
        """Whatever is still open of this flow is closed with this outcome."""
        if self.attempt is not None and self.attempt in self.engine.in_flight:
            self.end(outcome)

    def client_gone(self) -> Outcome:
        """What the app's leaving says of the provider."""
        attempt = self.attempt
        if attempt is None:
            return judging.CLIENT_GONE
        waited = self.clock() - attempt.started
        return judging.judge_client_gone(waited, self.timeouts.first_byte, byte_came=attempt.headers_at is not None)
