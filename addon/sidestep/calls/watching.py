"""Watches one attempt's answer go by and says what to do with it: hold, let go, or give up.

Pure: no mitmproxy, no clock, no I/O. The same watch serves the failover stream, which can still act on it,
and the response hooks, which only record.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from sidestep.breaker import judging, windows
from sidestep.breaker.outcomes import NO_ERROR, ErrorFacts, ErrorKind, Kind, Outcome
from sidestep.breaker.ratelimits import delay_in_text, retry_after
from sidestep.calls.decoding import IDENTITY, EncodingError, TooMuchError, decoded_start, decoder
from sidestep.dialects import common
from sidestep.dialects.base import Call, Dialect, Event, Mark, StreamReader, Usage
from sidestep.dialects.bounds import is_crowded
from sidestep.dialects.sse import Start, look_at
from sidestep.leaks import Sieve

ERROR_VALUES = 10_000
ERROR_START = 4_096
"""Of an error with more values than that, so many bytes of its beginning are looked at: it is read as words."""
ERROR_BODY_BYTES = 1 << 20
"""An error body is held to be read and perhaps handed on; more than this says nothing new."""


LONG_EVENT_BYTES = 64 << 10
"""An event that is longer, amid an answer, goes on as it comes: a picture of some megabytes takes its time, and an app
with a slow line must see that it comes."""
MAX_EVENT_BYTES = 32 << 20
"""A single event that is longer is not read: it and what follows go on as they come."""
EVENT_STREAM = "text/event-stream"
_SOUND = ("audio/", "image/", "video/")
_LINES = ("ndjson", "jsonl", "json-lines", "json-seq", "stream+json")
"""Types of documents that are sent line by line, which is no form of any dialect."""

_DOCUMENT = re.compile(rb'\s*(?:<(?:!doctype|html|head|\?xml)\b|\{\s*"|(?:data|event):)', re.IGNORECASE)
"""How a page, an error or a stream of events begins where sound was asked for."""

WORK_AT_ONCE = 10_000
WORK_A_SECOND = 20_000
"""What is read of a stream, in events: so many at once, and so many more for each second since it was opened. No model
speaks as fast; an event takes 2 to 5 microseconds, in which other calls wait. What comes faster is passed on unread."""
BULK = 4096
"""Bytes in one piece of a stream from which on it is first told how much there is to read in them."""
TOLD_BYTES = 1_024
"""Of a header field that tells a time, or a limit."""
DECODED_AT_ONCE = 8 << 20
"""What one piece of a compressed stream may become: its events are all there at the same time."""


class Shape(enum.Enum):
    """How an answer is to be read."""

    ERROR = "error"
    """A status of 400 or more: held whole, then judged."""
    STREAM = "stream"
    """Events: held until the first content. Whether it is one, the first bytes show: it may turn out to be another."""
    WHOLE = "whole"
    """One document: held to its end, then judged."""
    FLOWING = "flowing"
    """Bytes that go on piece by piece, let go with the first of them: sound, and what is not read any further."""
    OPAQUE = "opaque"
    """Not read: 1xx, 3xx, an encoding that is not known."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What came of some bytes: those to pass on, and the news, if any."""

    forward: bytes
    content: bool = False
    """The answer has begun, or it is one that is not read: from here on its outcome is `Watch.opening`."""
    error: ErrorFacts | None = None
    """The provider gave up in band; nothing after it matters."""
    dropped: int = 0
    """Events that no SDK could read, left out of `forward`."""
    told: bytes = b""
    """Of an `error`: its event and all that came after it, as they came. What follows is to be passed on unread."""
    raises: bool = False
    """The official SDK raises its own API error from `told`."""


NOTHING = Piece(b"")


class Watch:
    """State: the shape, the decoder, the stream's reader or the bytes collected, whether content was seen, what the
    provider gave up with, whether the answer is one that is not read, whether it repeats a key."""

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
        sieve: Sieve | None = None,
    ) -> None:
        """`unwrap`: a compressed stream is passed on decoded. `fields`: the answer's header fields.
        `wall_now`: Unix time, against which dates in headers are read. `sieve`: finds what must not go on."""
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
        self._body = bytearray()
        self._content = False
        self._start = b""
        self._told: ErrorFacts | None = None
        self.bug: Exception | None = None
        """One of ours in the reading of this answer, which goes on as it came."""
        self._sieve = sieve
        self._find = None if sieve is None else sieve.find
        self._followed = False
        self.leaked = False
        """The answer repeats a key: of what had not been passed on by then, nothing may be."""
        self.unread = False
        """The answer is in a form that is not read here."""
        self._content_type = self._encoding = ""
        self.announced: bytes | None = None
        """The length of its body, as its head says it."""
        self.tells_limits = False
        """Whether any header speaks of rate limits, or of a plan's windows."""
        for name, value in fields:
            if name[:1] in b"xXaArR":
                lowered = name.lower()
                self.tells_limits = self.tells_limits or b"ratelimit" in lowered or lowered.startswith(b"x-codex-")
            elif len(name) == 12 and name.lower() == b"content-type":
                self._content_type = value.decode("latin-1")
            elif len(name) == 16 and name.lower() == b"content-encoding":
                self._encoding = value.decode("latin-1").strip().lower()
            elif len(name) == 14 and name.lower() == b"content-length":
                self.announced = value
        self._decode = decoder(self._encoding, at_once=DECODED_AT_ONCE)
        self._reader: StreamReader | None = None
        self.shape = self._shape()
        self._unwrap = unwrap and self.shape is Shape.STREAM
        self._skims_to = WORK_AT_ONCE
        self._bulk_work = 0
        self.seconds = 0.0
        """How long ago it was opened. It says how much may be read of it."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The answer's header fields by lower-case name, without those that are too long to tell anything."""
        short = ((k, v) for k, v in self._fields if len(v) <= TOLD_BYTES)
        return {k.decode("latin-1").lower(): v.decode("utf-8", "surrogateescape") for k, v in short}

    def _shape(self) -> Shape:
        if self.status >= 400:
            return Shape.ERROR
        if self.status < 200 or self.status >= 300:
            return Shape.OPAQUE
        if self._decode is None:
            self.unread = True
            return Shape.OPAQUE
        kind = common.media_type(self._content_type)
        # What is asked for is not known of a request that could not be read. And a whisper that is asked to stream
        # answers whole at OpenAI, at vLLM and Speaches it streams.
        unsure = self.call.model is None or self.call.operation == "audio/transcriptions"
        if self.call.stream or (unsure and kind == EVENT_STREAM):
            return Shape.FLOWING if kind.startswith(_SOUND) else Shape.STREAM
        sound = self.call.operation == "audio/speech" or (
            self.call.operation.startswith("audio/") and kind == "application/octet-stream"
        )
        return Shape.FLOWING if sound or kind.startswith(_SOUND) else Shape.WHOLE

    @property
    def plain(self) -> bool:
        """Whether bytes may be left out of or added to the answer: not inside a content encoding."""
        return self._unwrap or self._encoding in IDENTITY

    @property
    def unwraps(self) -> bool:
        """Whether it is passed on decoded."""
        return self._unwrap and self._encoding not in IDENTITY

    @property
    def extensible(self) -> bool:
        """Whether an event of ours can end it: neither its length nor an encoding speaks against it."""
        return self.plain and self.announced is None

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
    def opening(self) -> Outcome:
        """The outcome of an answer that begins now."""
        return judging.UNREAD if self.unread else judging.SUCCESS

    @property
    def finished(self) -> bool:
        """Whatever ends the stream now, the answer is whole: its terminal event has come, or at least the reason
        why it stopped. Many servers of the OpenAI dialect leave `[DONE]` out."""
        reader = self._reader
        return reader is not None and (reader.finished or reader.answered or reader.bug is not None)

    @property
    def gave_up(self) -> bool:
        """The provider has ended the stream with an error."""
        return self._told is not None

    def feed(self, data: bytes) -> Piece:
        """What some bytes of the body mean. EncodingError: they are not in it."""
        return self._sifted(self._meaning(data))

    def pass_on(self, data: bytes) -> bytes:
        """Bytes of a body that go on unread."""
        return self._sifted(Piece(data)).forward

    def _sifted(self, piece: Piece) -> Piece:
        sieve, forward = self._sieve, piece.forward
        if sieve is None or not self.plain:  # what is in an encoding is looked through where it is decoded
            return piece
        passed = sieve.feed(forward) if forward else forward
        if passed is None or (piece.told and sieve.finds(piece.told)):
            self.leaked = True
            passed = b""
        return piece if passed is forward else replace(piece, forward=passed)

    def _look_through(self, decoded: bytes) -> None:
        """The same for what goes on in its encoding."""
        if self._sieve is not None and self._sieve.feed(decoded) is None:
            self.leaked = True

    def _meaning(self, data: bytes) -> Piece:
        match self.shape:
            case Shape.STREAM:
                return self._feed_stream(data)
            case Shape.FLOWING if not self._content and self.plain and _DOCUMENT.match(data):
                self.shape = Shape.WHOLE
                return self._meaning(data)
            case Shape.FLOWING:
                began, self._content = not self._content and bool(data), self._content or bool(data)
                return Piece(self._as_it_goes(data), content=began)
            case Shape.OPAQUE:
                return Piece(data)
            case _:
                self._body += data
                if self._followed:
                    self._follow(data)
                return Piece(data)

    def follow(self) -> None:
        """From here on the app sees a whole answer as it comes: one in an encoding is looked through beside that, not
        at its end."""
        if self.shape is Shape.WHOLE and not self.plain and not self._followed:
            self._followed = True
            self._follow(bytes(self._body))

    def _follow(self, data: bytes) -> None:
        if self._decode is not None:
            with suppress(EncodingError, TooMuchError):
                self._look_through(self._decode(data))

    @property
    def skimmable(self) -> bool:
        """Whether `skim` may be asked: a stream as it is, whose content has begun."""
        return self._content and self._reader is not None and self._encoding in IDENTITY

    def skim(self, data: bytes) -> bool:
        """`feed`, for bytes that turn out to be whole events with nothing to be done about: they are to be passed
        on. False: nothing was taken in, and `feed` must have them."""
        reader, find = self._reader, self._find
        assert reader is not None
        if reader.work > self._skims_to or (find is not None and find(data)):  # no key goes over the borders of events
            return False
        return reader.skim(data)

    def _as_it_goes(self, data: bytes) -> bytes:
        """Bytes that are passed on unread."""
        if not self._unwrap or self._encoding in IDENTITY:
            return data
        assert self._decode is not None
        try:
            return self._decode(data)
        except TooMuchError as e:
            raise EncodingError("more than is decoded") from e

    def _feed_stream(self, data: bytes) -> Piece:
        assert self._decode is not None
        if self._told is not None:
            if not self.plain:
                self._follow(data)
            return Piece(self._as_it_goes(data))
        try:
            decoded = data if self._encoding in IDENTITY else self._decode(data)
        except TooMuchError:
            return self._give_up_reading(data)
        if not self.plain:
            self._look_through(decoded)
        if self._reader is None:
            self._body += data
            self._start += decoded
            turned = self._look(data)
            if turned is not None:
                return turned
            decoded, self._start = self._start, b""
        reader = self._reader
        assert reader is not None
        if self._is_too_fast(reader, decoded):
            return self._stop_reading(decoded, data)
        piece = self._read(reader.feed(decoded), data)
        if reader.pending > LONG_EVENT_BYTES and self._content and self.plain and piece.error is None:
            piece = replace(piece, forward=piece.forward + reader.give())
        if reader.pending > MAX_EVENT_BYTES and piece.error is None:
            rest = self._stop_reading(b"", data)
            forward = piece.forward + rest.forward if self.plain else data
            return Piece(forward, piece.content or rest.content, None, piece.dropped)
        return piece

    def _is_too_fast(self, reader: StreamReader, decoded: bytes) -> bool:
        """Whether more has come than is read of a stream in its time."""
        allowed = WORK_AT_ONCE + int(self.seconds * WORK_A_SECOND)
        reader.limit = allowed
        self._skims_to = min(allowed, reader.work + WORK_AT_ONCE)
        if len(decoded) >= BULK:
            self._bulk_work += reader.work_in(decoded)  # also of an event that is not complete
        return max(reader.work, self._bulk_work) > allowed

    def _stop_reading(self, decoded: bytes, data: bytes) -> Piece:
        """From here on it goes on unread: what was held back of an event, `decoded`, and whatever comes."""
        assert self._reader is not None
        rest = self._reader.release()
        began = self._flow_unread()
        return Piece(rest + decoded if self.plain else data, content=began)

    def _look(self, data: bytes) -> Piece | None:
        """What the first bytes show the answer to be; None if it is a stream, whose reader is now there. `data`: the
        latest of them."""
        start, found = self._start, look_at(self._start)
        if found is None:
            return Piece(b"" if self.plain else data)
        first = start.lstrip(common.LEADING)[:1]
        if found is Start.EVENTS or (
            found is Start.OTHER and self.dialect.is_stream(self.call, self._content_type, start)
        ):
            form = EVENT_STREAM if found is Start.EVENTS or first not in b"{[" else "application/json"
            self._reader = self.dialect.reader(self.call, form)
            self._body.clear()
            return None
        # Its bytes go on as they came, in whatever encoding they are.
        forward = bytes(self._body) if self.plain else data
        self._unwrap = False
        self._start = b""
        kind = common.media_type(self._content_type)
        if found is Start.UNREADABLE or (first != b"<" and any(word in kind for word in _LINES)):
            return Piece(forward, content=self._flow_unread())
        if self.call.operation.startswith("audio/") and first not in b"{<":
            self.shape = Shape.FLOWING
            self._content = True
            return Piece(forward, content=True)
        self.shape = Shape.WHOLE
        if not self.plain:
            self._followed = True  # its decoder is on the way
            self._look_through(start)
        return Piece(forward)

    def _read(self, events: list[Event], data: bytes) -> Piece:
        """What some events mean; `data`: the bytes that completed them."""
        reader, plain = self._reader, self.plain
        assert reader is not None
        forward: list[bytes] = []
        content = False
        dropped = 0
        for at, event in enumerate(events):
            mark = event.mark
            if mark is Mark.ERROR:
                self._told = event.error or NO_ERROR
                told = b"".join(e.raw for e in events[at:]) + reader.release() if plain else b""
                kept = b"".join(forward) if plain else data
                return Piece(kept, content, self._told, dropped, told, event.raises)
            if mark is Mark.MALFORMED:
                dropped += 1
                if plain:
                    if self.announced is not None:  # its length was announced: blank lines mean nothing
                        forward.append(b"\n" * len(event.raw))
                    continue
            elif not self._content and (mark is Mark.CONTENT or mark is Mark.TERMINAL):
                content = self._content = True
            forward.append(event.raw)
        return Piece(b"".join(forward) if plain else data, content, None, dropped)

    def _flow_unread(self) -> bool:
        """From here on nothing is read. Whether the answer begins with it."""
        self.note_usage()
        self._reader = None
        began = not self._content
        self.unread = self.unread or began
        self.let_flow()
        return began

    def _give_up_reading(self, data: bytes) -> Piece:
        """A compressed stream becomes more than is read: it goes on as it is."""
        if self._unwrap:
            return Piece(b"", error=ErrorFacts(ErrorKind.SERVER, "a compressed stream that is too large to be read"))
        return Piece(data, content=self._flow_unread())

    def rest(self) -> Piece:
        """The end of an answer: what was held back because its event, or what might have been a key, was not whole."""
        piece = self._rest()
        if piece is not NOTHING:
            piece = self._sifted(piece)
        sieve = self._sieve
        if sieve is None or self.leaked or not self.plain or not (rest := sieve.rest()):
            return piece
        return replace(piece, forward=piece.forward + rest)

    def _rest(self) -> Piece:
        reader = self._reader
        if reader is None:
            if self.shape is not Shape.STREAM:
                return NOTHING
            # It ended before its first bytes showed what it is.
            held = bytes(self._body) if self.plain else b""
            self.shape = Shape.WHOLE
            self._unwrap = False
            return Piece(held)
        events = reader.close()
        if any(e.mark in (Mark.CONTENT, Mark.TERMINAL) for e in events):
            self._content = True
        error = next((e for e in events if e.mark is Mark.ERROR), None)
        kept = [
            b"\n" * len(e.raw) if e.mark is Mark.MALFORMED else e.raw
            for e in events
            if e.mark is not Mark.ERROR and (self.announced is not None or e.mark is not Mark.MALFORMED)
        ]
        forward = b"".join(kept) if self.plain else b""
        if error is None:
            return Piece(forward)
        self._told = error.error or NO_ERROR
        return Piece(forward, error=self._told, told=error.raw if self.plain else b"", raises=error.raises)

    def note_usage(self) -> None:
        """Take over what the stream's reader has gathered so far."""
        reader = self._reader
        if reader is not None:
            self.usage, self.model, self.ids = reader.usage, reader.model, reader.ids
            self.bug = self.bug or reader.bug

    def error_event(self, kind: ErrorKind, message: str) -> bytes:
        """The event that ends this stream so that the app's SDK raises its own API error."""
        if self._reader is not None:
            return self._reader.error_event(kind, message)
        return self.dialect.phrase_error_event(self.call, kind, message)

    def judge_error_event(self, error: ErrorFacts) -> Outcome:
        """The outcome of an error event that came in place of content.

        HAND_OVER: it is the provider's answer to this request. What was held, `forward` and `told` are the app's, and
        whatever follows.
        """
        seconds = None
        if error.kind in (ErrorKind.RATE_LIMIT, ErrorKind.QUOTA):
            seconds = retry_after(self.headers, self._wall_now)
            if seconds is None:
                seconds = delay_in_text(error.message, self._wall_now)
        return self._no_answer(error, seconds)

    def judge_break(self, error: ErrorFacts) -> Outcome:
        """The outcome of an error event after content: the provider has broken down, unless it is about the request
        itself (NEUTRAL), which is no worse for being told late."""
        outcome = self.judge_error_event(error)
        return outcome if outcome.kind is Kind.NEUTRAL else judging.STREAM_ERROR

    def _no_answer(self, error: ErrorFacts | None, seconds: float | None = None, cause: str = "") -> Outcome:
        outcome = judging.judge_no_answer(
            self.status,
            error,
            own_provider=self._own_provider,
            own_credential=self._own_credential,
            retry_after=seconds,
            cause=cause,
        )
        return self._by_plan(outcome)

    def judge_end(self) -> Outcome:
        """The outcome of an answer that has ended by itself."""
        try:
            return self._judge_end()
        except Exception as e:
            self.bug = e
            return self._by_status(NO_ERROR) if self.shape is Shape.ERROR else judging.UNREAD

    def _judge_end(self) -> Outcome:
        match self.shape:
            case Shape.ERROR:
                return self._judge_error()
            case Shape.STREAM:
                if self._told is not None:
                    return self.judge_break(self._told) if self._content else self.judge_error_event(self._told)
                if not self._content:
                    return judging.judge_no_answer(self.status)
                return judging.SUCCESS if self.finished else judging.TRUNCATED
            case Shape.WHOLE:
                return self._judge_whole()
            case Shape.FLOWING:
                return self.opening if self._content else judging.judge_no_answer(self.status)
            case Shape.OPAQUE:
                if self.unread:
                    return judging.UNREAD
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
        # Of a long one its beginning says what it is.
        headers, body = self.headers, decoded_start(self._encoding, bytes(self._body))[:ERROR_BODY_BYTES]
        if is_crowded(body, ERROR_VALUES):
            body = body[:ERROR_START]
        error = self.dialect.read_error(self.status, headers, body)
        if error.kind is ErrorKind.NONE and len(self._body) > ERROR_BODY_BYTES:
            error = ErrorFacts(ErrorKind.INVALID)  # more than is read or kept: its status alone decides
        if self.call.is_websocket and not self._own_credential:
            refused = judging.judge_handshake(self.status, error, in_form="json" in self._content_type)
            if refused is not None:
                return refused
        return self._by_plan(self._by_status(error, retry_after(headers, self._wall_now, body)))

    def _by_status(self, error: ErrorFacts, seconds: float | None = None) -> Outcome:
        return judging.judge_status(
            self.status,
            error,
            own_provider=self._own_provider,
            own_credential=self._own_credential,
            retry_after=seconds,
        )

    def _by_plan(self, outcome: Outcome) -> Outcome:
        """The outcome of a limit, as a plan's windows explain it if they do."""
        if not self.tells_limits or outcome.reason not in ("rate_limit", "quota"):
            return outcome
        used_up = outcome.reason == "quota"
        limit = windows.limit(self.headers, self._wall_now, self.call.model, used_up=used_up)
        return outcome if limit is None else judging.judge_plan(outcome, limit, self.call.model)

    def _judge_whole(self) -> Outcome:
        body = self._decoded()
        if body is None:
            self.unread = True
            return judging.UNREAD
        if not self.plain:
            self._look_through(body)
        if not self.call.stream and body[:1] != b"{" and look_at(body[:64]) is Start.EVENTS:
            return self._judge_unasked_stream(body)
        answer = self.dialect.judge_answer(self.call, self._content_type, body)
        if answer.unread:
            self.unread = True
            return judging.UNREAD
        if not answer.good:
            error, seconds = answer.error, None
            if error is not None and error.kind in (ErrorKind.RATE_LIMIT, ErrorKind.QUOTA):
                seconds = retry_after(self.headers, self._wall_now, body)
            return self._no_answer(error, seconds, common.nothing_in_words(body))
        if self.call.stream:
            return judging.OTHER_FORM
        self.usage, self.model, self.ids = answer.usage, answer.model, answer.ids
        self._content = True
        return Outcome(Kind.SUCCESS, "ok", status=self.status)

    def _judge_unasked_stream(self, body: bytes) -> Outcome:
        """A stream for a call that asked for none."""
        reader = self.dialect.reader(self.call, EVENT_STREAM)
        if reader.work_in(body) > WORK_AT_ONCE:
            self.unread = True
            return judging.UNREAD
        events = reader.feed(body) + reader.close()
        if not reader.content:
            error = next((e.error for e in events if e.mark is Mark.ERROR), None)
            return judging.judge_no_answer(self.status) if error is None else self.judge_error_event(error)
        return judging.OTHER_FORM
