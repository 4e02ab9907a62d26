"""Watches one attempt's answer go by and says what to do with it: hold, let go, or give up.

Pure: no mitmproxy, no clock, no I/O. The same watch serves the failover stream, which can still act on it,
and the response hooks, which only record.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from sidestep.breaker import judging
from sidestep.breaker.outcomes import NO_ERROR, ErrorFacts, ErrorKind, Kind, Outcome
from sidestep.breaker.ratelimits import retry_after, retry_delay_in_body
from sidestep.calls.decoding import IDENTITY, EncodingError, TooMuchError, decoder
from sidestep.dialects.base import Answer, Call, Dialect, Mark, StreamReader, Usage

ERROR_BODY_BYTES = 1 << 20
"""An error body is held to be read and perhaps handed on; more than this says nothing new."""


MAX_EVENT_BYTES = 16 << 20
"""A single event that is longer never ends."""

DECODED_AT_ONCE = 8 << 20
"""What one piece of a compressed stream may become: its events are all there at the same time."""


class Shape(enum.Enum):
    """How an answer is to be read."""

    ERROR = "error"
    """A status of 400 or more: held whole, then judged."""
    STREAM = "stream"
    """Events: held until the first content."""
    WHOLE = "whole"
    """One document: held to its end, then judged."""
    FLOWING = "flowing"
    """Bytes that make sense piece by piece (audio): let go with the first of them."""
    OPAQUE = "opaque"
    """Not read: 1xx, 3xx, an encoding that is not known."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What came of some bytes: those to pass on, and the news, if any."""

    forward: bytes
    content: bool = False
    """The answer has begun: from here on it is a success."""
    error: ErrorFacts | None = None
    """The provider gave up in band; nothing after it matters."""
    dropped: int = 0
    """Events that were no valid JSON, left out of `forward`."""


class Watch:
    """State: the shape, the decoder, the stream's reader or the bytes collected, whether content was seen."""

    def __init__(
        self,
        dialect: Dialect,
        call: Call,
        *,
        own_provider: bool,
        own_credential: bool,
        status: int,
        fields: tuple[tuple[bytes, bytes], ...],
        wall_now: float,
        unwrap: bool = False,
    ) -> None:
        """`unwrap`: a compressed stream is passed on decoded. `fields`: the answer's header fields.
        `wall_now`: Unix time, against which dates in headers are read."""
        self.dialect = dialect
        self.call = call
        self.status = status
        self._fields = fields
        self.usage: Usage | None = None
        self.model: str | None = None
        self.ids: tuple[str, ...] = ()
        self._own_provider = own_provider
        self._own_credential = own_credential
        self._wall_now = wall_now
        self._unwrap = False
        self._body = bytearray()
        self._content = False
        self._content_type = self._encoding = ""
        self.tells_limits = False
        """Whether any header speaks of rate limits."""
        for name, value in fields:
            if name[:1] in b"xXaA":
                self.tells_limits = self.tells_limits or b"ratelimit" in name.lower()
            elif len(name) == 12 and name.lower() == b"content-type":
                self._content_type = value.decode("latin-1")
            elif len(name) == 16 and name.lower() == b"content-encoding":
                self._encoding = value.decode("latin-1").strip().lower()
        self._decode = decoder(self._encoding, at_once=DECODED_AT_ONCE)
        self._reader: StreamReader | None = None
        self.shape = self._shape()
        if self.shape is Shape.STREAM:
            self._unwrap = unwrap
            self._reader = dialect.reader(call, self._content_type)

    @property
    def headers(self) -> Mapping[str, str]:
        """The answer's header fields by lower-case name."""
        return {k.decode("latin-1").lower(): v.decode("utf-8", "surrogateescape") for k, v in self._fields}

    def _shape(self) -> Shape:
        if self.status >= 400:
            return Shape.ERROR
        if self.status < 200 or self.status >= 300 or self._decode is None:
            return Shape.OPAQUE
        if self.dialect.is_stream(self.call, self._content_type):
            return Shape.STREAM
        kind = self._content_type.partition(";")[0].strip().lower()
        if kind.startswith(("audio/", "image/", "video/")) or kind == "application/octet-stream":
            return Shape.FLOWING
        return Shape.WHOLE

    @property
    def plain(self) -> bool:
        """Whether bytes may be left out of or added to the answer: not inside a content encoding."""
        return self._unwrap or self._encoding in IDENTITY

    def let_flow(self) -> None:
        """The answer is too large to be held whole: it is taken for good and goes on piece by piece."""
        self.shape = Shape.FLOWING
        self._content = True
        self._body.clear()

    @property
    def begun(self) -> bool:
        """Content has been seen."""
        return self._content

    @property
    def finished(self) -> bool:
        """Whatever ends the stream now, the answer is whole: its terminal event has come, or at least the reason
        why it stopped. Many who speak the OpenAI dialect leave `[DONE]` out."""
        return self._reader is not None and (self._reader.finished or self._reader.answered)

    def feed(self, data: bytes) -> Piece:
        """What some bytes of the body mean. EncodingError: they are not in it."""
        match self.shape:
            case Shape.STREAM:
                return self._feed_stream(data)
            case Shape.FLOWING:
                began, self._content = not self._content and bool(data), self._content or bool(data)
                return Piece(data, content=began)
            case Shape.OPAQUE:
                return Piece(data)
            case _:
                self._body += data
                return Piece(data)

    @property
    def skimmable(self) -> bool:
        """Whether `skim` may be asked: a stream as it is, whose content has begun."""
        return self._content and self._reader is not None and self._encoding in IDENTITY

    def skim(self, data: bytes) -> bool:
        """`feed`, for bytes that turn out to be whole events with nothing to be done about: they are to be passed
        on. False: nothing was taken in, and `feed` must have them."""
        assert self._reader is not None
        return self._reader.skim(data)

    def _feed_stream(self, data: bytes) -> Piece:
        reader = self._reader
        assert reader is not None
        assert self._decode is not None
        plain = self.plain
        try:
            events = reader.feed(data if self._encoding in IDENTITY else self._decode(data))
        except TooMuchError:
            return self._give_up_reading(data)
        if reader.pending > MAX_EVENT_BYTES:
            return Piece(b"", error=ErrorFacts(ErrorKind.SERVER, "an event without an end"))
        forward: list[bytes] = []
        content = False
        dropped = 0
        for event in events:
            mark = event.mark
            if mark is Mark.ERROR and not reader.finished:
                self.note_usage()
                return Piece(b"".join(forward) if plain else data, content, event.error or NO_ERROR, dropped)
            if mark is Mark.MALFORMED:
                dropped += 1
                if plain:
                    continue
            elif not self._content and (mark is Mark.CONTENT or mark is Mark.TERMINAL):
                content = self._content = True
            forward.append(event.raw)
        return Piece(b"".join(forward) if plain else data, content, None, dropped)

    def _give_up_reading(self, data: bytes) -> Piece:
        """A compressed stream becomes more than is read: it goes on as it is, judged by its status alone."""
        if self._unwrap:
            return Piece(b"", error=ErrorFacts(ErrorKind.SERVER, "a compressed stream that is too large to be read"))
        self.note_usage()
        self._reader = None
        began = not self._content
        self.let_flow()
        return Piece(data, content=began)

    def rest(self) -> Piece:
        """The end of a stream: what was held back because its event was not complete."""
        reader = self._reader
        if reader is None:
            return Piece(b"")
        events = reader.close()
        self.note_usage()
        if any(e.mark in (Mark.CONTENT, Mark.TERMINAL) for e in events):
            self._content = True
        error = next((e.error or NO_ERROR for e in events if e.mark is Mark.ERROR), None)
        kept = [e.raw for e in events if e.mark not in (Mark.MALFORMED, Mark.ERROR)]
        return Piece(b"".join(kept) if self.plain else b"", error=None if self.finished else error)

    def note_usage(self) -> None:
        """Take over what the stream's reader has gathered so far."""
        reader = self._reader
        if reader is not None:
            self.usage, self.model, self.ids = reader.usage, reader.model, reader.ids

    def error_event(self, kind: ErrorKind, message: str) -> bytes:
        """The event that ends this stream so that the app's SDK raises its own API error."""
        if self._reader is not None:
            return self._reader.error_event(kind, message)
        return self.dialect.phrase_error_event(self.call, kind, message)

    def judge_error_event(self, error: ErrorFacts) -> Outcome:
        """The outcome of an error event that came in place of content."""
        return judging.judge_no_answer(self.status, error, own_credential=self._own_credential)

    def judge_end(self) -> Outcome:
        """The outcome of an answer that has ended by itself."""
        match self.shape:
            case Shape.ERROR:
                return self._judge_error()
            case Shape.STREAM:
                self.note_usage()
                if not self._content:
                    return judging.judge_no_answer(self.status)
                return judging.SUCCESS if self.finished else judging.TRUNCATED
            case Shape.WHOLE:
                return self._judge_whole()
            case Shape.FLOWING:
                return judging.SUCCESS if self._content else judging.judge_no_answer(self.status)
            case Shape.OPAQUE:
                if 300 <= self.status < 400 and not self._own_provider:
                    # An app that followed it would take its own key to a host that it never addressed.
                    return judging.judge_no_answer(self.status)
                return Outcome(Kind.SUCCESS, "ok", status=self.status)

    def _decoded(self) -> bytes | None:
        """What was collected of the body, decoded as far as that goes; None if it becomes more than is read."""
        body = bytes(self._body)
        if self.plain or self._decode is None:
            return body
        decode = decoder(self._encoding)
        assert decode is not None
        try:
            return decode(body)
        except TooMuchError:
            return None
        except EncodingError:
            return b""

    def _judge_error(self) -> Outcome:
        headers, body = self.headers, self._decoded() or b""
        error = self.dialect.read_error(self.status, headers, body)
        seconds = retry_after(headers, self._wall_now)
        if seconds is None and self.status == 429:
            seconds = retry_delay_in_body(body)
        return judging.judge_status(
            self.status,
            error,
            own_provider=self._own_provider,
            own_credential=self._own_credential,
            retry_after=seconds,
        )

    def _judge_whole(self) -> Outcome:
        body = self._decoded()
        if self.call.stream:
            # A stream was asked for: the SDKs read anything else as an empty answer, without an error.
            answer = Answer(good=False, error=self.dialect.read_error(self.status, self.headers, body or b""))
        elif body is None:
            answer = Answer(good=True)
        else:
            answer = self.dialect.judge_answer(self.call, self._content_type, body)
        if not answer.good:
            return judging.judge_no_answer(self.status, answer.error, own_credential=self._own_credential)
        self.usage, self.model, self.ids = answer.usage, answer.model, answer.ids
        self._content = True
        return Outcome(Kind.SUCCESS, "ok", status=self.status)
