"""What a dialect can do: the protocol that `openai`, `anthropic` and `gemini` keep.

Pure: no mitmproxy, no clock, no I/O. A dialect recognises calls, reads them, rewrites them, judges what
comes back, and phrases errors. It knows no provider, no circuit and no configuration.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from sidestep.breaker.outcomes import ErrorFacts, ErrorKind


class PinKind(enum.StrEnum):
    """Why a call can be answered by one provider only."""

    STATE = "state"
    """It names something that one provider holds: `previous_response_id`, a file, a container, a cache."""
    SIGNATURE = "signature"
    """It goes on from sealed reasoning that cannot be left out, honoured by every provider of the same issuer."""


@dataclass(frozen=True, slots=True)
class Pin:
    """What ties a call to one provider. `ids` are the identifiers found, to look up their issuer."""

    kind: PinKind
    reason: str
    ids: tuple[str, ...] = ()


WEBSOCKET = ".websocket"
"""How the operation of a WebSocket's handshake ends."""


@dataclass(frozen=True, slots=True)
class Call:
    """What one routed request asks for."""

    dialect: str
    operation: str
    """A word of the contract's table: `chat/completions`, `responses`, `messages`, `generateContent`, …"""
    model: str | None
    stream: bool
    pin: Pin | None = None
    sealed: tuple[str, ...] = ()
    """Names of the pieces of reasoning that only their issuer can read, and of what a stand-in has thought unsigned:
    the newest first, for that was issued by the provider that answered last."""
    max_output_tokens: int | None = None
    unread: str = ""
    """Why it is not known what the call asks for; empty: it is known. It goes where the app sent it, as it is."""
    messages: msgspec.Raw | None = field(default=None, repr=False, compare=False)
    """The conversation that an answer is asked for, a view of the body: read only where it matters which it is."""
    unnamed: bool = False
    """The body does not name the model, the address does, in a form that is not every provider's."""

    in_envelope: bool = False
    """The request is inside another document, and so is each answer (`dialects/code_assist.py`)."""
    acts: bool = False
    """Answering it does something on its way: two providers must not be asked at once (`dialects/acting.py`)."""

    @property
    def is_websocket(self) -> bool:
        """It is the handshake of a WebSocket."""
        return self.operation.endswith(WEBSOCKET)


@dataclass(frozen=True, slots=True)
class Conversation:
    """What tells a conversation from others and its turns from one another, without a word of it."""

    opening: bytes
    """A digest of the user's first message."""
    answered: bytes | None
    """A digest of that and the first answer to it; None before there is one, in the first turn."""
    length: int
    """Messages, answers and tool results, all told."""
    end: bytes
    """A digest of the last one."""
    opens_turn: bool = True
    """The user has spoken last: no answer is under way that goes on from a tool's result."""


class Mark(enum.Enum):
    """What one event of a stream means for the attempt."""

    LIFECYCLE = "lifecycle"
    """Says nothing yet: a ping, a comment, `message_start`, a role-only delta, a usage report."""
    CONTENT = "content"
    """The first or a further piece of an answer: text, refusal, reasoning, tool call, audio, …"""
    TERMINAL = "terminal"
    """The event after which the answer is whole. It may bear content too; one that comes before any content,
    and bears none, is LIFECYCLE."""
    ERROR = "error"
    """The provider gave up in band."""
    MALFORMED = "malformed"
    """No JSON that any SDK could read: to be dropped, for they crash on it."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream, with exactly the bytes that made it up."""

    raw: bytes
    mark: Mark
    error: ErrorFacts | None = None
    raises: bool = False
    """An ERROR from which the official SDK raises its own API error, so that nothing need be put in its place."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts as the provider reported them; `input` includes cached input, and is never less than it."""

    input: int
    output: int
    cached: int = 0

    def __post_init__(self) -> None:
        if self.cached > self.input:
            object.__setattr__(self, "cached", self.input)


class StreamReader(Protocol):
    """Reads one answer's stream. The `raw` of all events, in order, is the input, byte for byte."""

    finished: bool
    """The terminal event has been seen: whatever ends the stream now, the answer is whole."""
    content: bool
    """Content has been seen."""
    usage: Usage | None
    model: str | None
    work: int
    """What reading has taken so far, in events."""
    limit: int
    """Once it has taken more, what is hard to read is not read."""
    bug: Exception | None
    """A bug of ours in the reading of an event, which went on as it came: what is not seen may have been there."""

    @property
    def answered(self) -> bool:
        """The provider has said why it stopped, of every choice seen: nothing but bookkeeping and the
        terminal event was to come. Some servers leave their dialect's terminal event out."""
        ...

    @property
    def ids(self) -> tuple[str, ...]:
        """Identifiers that a later call may be pinned by (a response id, …)."""
        ...

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes."""
        ...

    def work_in(self, data: bytes) -> int:
        """About what reading these bytes would take, in events; nothing is taken in."""
        ...

    def skim(self, data: bytes) -> bool:
        """`feed` in short: True if `data` is nothing but whole events, none of them MALFORMED or an ERROR. False:
        `feed` must have it; what was read of it is read again, to the same end."""
        ...

    def close(self) -> list[Event]:
        """What is left at the end: a last event, if it is a whole one that lacks its blank line."""
        ...

    @property
    def pending(self) -> int:
        """Bytes held back because their event is not complete."""
        ...

    def give(self) -> bytes:
        """Those bytes, ahead of the end of their event, whose raw will be the rest: it cannot be MALFORMED then."""
        ...

    def release(self) -> bytes:
        """Those bytes: nothing more is to be read."""
        ...

    def error_event(self, kind: ErrorKind, message: str) -> bytes:
        """Bytes that end this stream, after the raws given out so far (those marked MALFORMED left out), so that
        the official SDK raises its own API error; empty where nothing valid can follow."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What a whole 2xx body turned out to be. `error` is set when it is no answer and says why; `unread` when it is
    in a form that is not known here, so that it may be one for all we know."""

    good: bool
    error: ErrorFacts | None = None
    usage: Usage | None = None
    model: str | None = None
    ids: tuple[str, ...] = ()
    unread: bool = False


class Dialect(Protocol):
    """One API family."""

    name: str

    def operation(self, method: str, tail: str) -> str | None:
        """The routed operation that `tail` (the path after the base URL, with its leading `/`, no query)
        names, None if the call is not routed. A WebSocket handshake comes as method `GET`."""
        ...

    def read(self, operation: str, tail: str, query: str, content_type: str, body: bytes, base: str = "") -> Call:
        """What the request asks for. Never raises: of what cannot be read it says so (`unread`). `base`: the path of
        the base URL before the tail."""
        ...

    def rewrite(
        self, call: Call, tail: str, content_type: str, body: bytes, model: str | None, drop: Collection[str]
    ) -> tuple[str, bytes]:
        """Tail and body with another model and without the top-level fields in `drop`; every other
        value byte for byte. `model` None: as it is; else a body that names none gets it where the address did."""
        ...

    def address_at(self, host: str, base: str, tail: str, query: str, *, alike: bool) -> tuple[str, str]:
        """What tail and query, without its `?`, are at another base URL of the same dialect, with this host and path.
        `alike`: the path is that of the intercept."""
        ...

    def rewrite_query(self, call: Call, query: str, model: str) -> str:
        """The query, without its `?`, with another model where it names one; the rest byte for byte."""
        ...

    def reader(self, call: Call, content_type: str) -> StreamReader:
        """A reader for a streamed answer of this call."""
        ...

    def judge_answer(self, call: Call, content_type: str, body: bytes) -> Answer:
        """Whether a whole 2xx body is an answer to this call."""
        ...

    def is_stream(self, call: Call, content_type: str, start: bytes) -> bool:
        """Whether an answer that is no event stream by its first bytes is one of this dialect's streams all the
        same. `start`: its first bytes, at least one that is no blank."""
        ...

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> ErrorFacts:
        """What an error answer says."""
        ...

    def phrase_error(self, status: int, kind: ErrorKind, message: str) -> bytes:
        """A JSON error body that the dialect's official SDK raises as its own API error."""
        ...

    def phrase_error_event(self, call: Call, kind: ErrorKind, message: str) -> bytes:
        """An event that the official SDK raises as its own API error, to be sent after a complete event of a
        stream of this call; `StreamReader.error_event` knows where a stream stands."""
        ...

    def keep_alive(self, call: Call) -> bytes:
        """Bytes that an SDK ignores while a stream is being held back; empty if there are none."""
        ...
