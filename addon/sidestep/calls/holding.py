"""The policy of one answer: when it is held back, let go, given up, or ended in band.

Pure: no mitmproxy, no clock, no I/O. Fed with what comes of an answer, a `Holding` says what is to be done about it (a
`Step`) and until when the next sign of it must have come (`deadline`); `mitm.stream` carries that out. Times are
seconds of a monotonic clock.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from sidestep.breaker import judging
from sidestep.breaker.outcomes import ErrorFacts, ErrorKind, Kind, Outcome, Then
from sidestep.calls.decoding import EncodingError
from sidestep.calls.watching import Piece, Shape, Watch
from sidestep.config.settings import TimeoutSettings
from sidestep.dialects.reader import HALF_A_CALL

ERROR_BODY_SECONDS = 5.0
"""An error body that does not come in this time is judged by its status alone."""

_READ_ON = frozenset({Shape.STREAM, Shape.WHOLE})
"""What is read on once the app sees it."""
VOUCHED = "let go before its first content: its signs of life could not be told otherwise"
WITHHELD = ErrorFacts(ErrorKind.SERVER, "the answer was cut off here: it repeats a provider's key")
TOO_LARGE = "answer larger than hold_bytes: let go before it was known to be good"


class Do(enum.Enum):
    """What becomes of the answer."""

    HOLD = "hold"
    """The app sees nothing of it yet."""
    RELEASE = "release"
    """The app gets what was held back, and from now on what comes."""
    FORWARD = "forward"
    """The app sees the answer already, and gets this too."""
    FAIL = "fail"
    """The app has seen nothing: another attempt may answer."""
    BREAK = "break"
    """The app has seen a part: an error in band, or a cut connection, ends it."""


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done now.

    `data`: what goes on of the bytes that were fed. `outcome`: what the attempt is given; with `ended` as the last word
    on it. `error`: what the provider gave up with, with BREAK, and with RELEASE where it came together with the first
    content. `told`: that error as it came, where the official SDK raises from it. `note`: something that the attempt's
    story should tell. `goes_on`: with RELEASE, the error is told as it came, and what follows it goes on.
    """

    do: Do
    data: bytes = b""
    outcome: Outcome | None = None
    ended: bool = False
    error: ErrorFacts | None = None
    told: bytes = b""
    note: str = ""
    goes_on: bool = False


class Holding:
    """One answer, from its head to its end. State: when its head came, whether the app sees it, how much is held,
    whether it has ended, the deadline (None: nothing bounds it)."""

    def __init__(self, watch: Watch, timeouts: TimeoutSettings, *, complete: bool, hold_bytes: int, now: float) -> None:
        """Its head has come at `now`. `complete`: a stream is held to its end. `hold_bytes`: what is held at most."""
        self.watch = watch
        self.released = False
        self.ended = False
        self._timeouts = timeouts
        self._complete = complete and watch.shape is Shape.STREAM
        self._hold_bytes = hold_bytes
        self._held = 0
        self._opened = now
        self.deadline: float | None = now + self._seconds_to_first_sign()

    def _seconds_to_first_sign(self) -> float:
        match self.watch.shape:
            case Shape.STREAM:
                return self._timeouts.first_content
            case Shape.ERROR:
                return min(self._timeouts.idle, ERROR_BODY_SECONDS)
            case _:
                return self._timeouts.idle

    # --- what comes of it

    def begin(self) -> Step:
        """What its head alone says."""
        watch = self.watch
        if watch.call.is_websocket and 200 <= watch.status < 300:
            return Step(Do.FAIL, outcome=replace(judging.NO_SOCKET, status=watch.status))
        if watch.shape is not Shape.OPAQUE:
            return Step(Do.HOLD)
        # That a WebSocket is taken says nothing yet of what is asked for over it.
        outcome = None if watch.status == 101 else watch.judge_end()
        if outcome is not None and outcome.kind is Kind.FAILURE:
            return Step(Do.FAIL, outcome=outcome)
        self.released = True
        self.deadline = None
        return Step(Do.RELEASE, outcome=outcome)

    def feed(self, data: bytes, now: float) -> Step:
        """Some bytes of its body have come."""
        self.watch.seconds = now - self._opened
        return self._kept_back(self._flow(data, now) if self.released else self._hold(data, now))

    @property
    def skimmable(self) -> bool:
        return self.released and self.watch.skimmable

    def end(self, now: float) -> Step:
        """It has ended by itself."""
        return self._kept_back(self._end(now))

    def _end(self, now: float) -> Step:
        self.ended = True
        rest = self.watch.rest()
        if not self.released:
            if rest.error is not None and not self.watch.begun:
                return self._refused(rest, rest.error, now)
            return self._judged(self.watch.judge_end(), now, rest.forward)
        self.deadline = None
        match self.watch.shape:
            case Shape.OPAQUE:
                return Step(Do.FORWARD, rest.forward)
            case Shape.STREAM if rest.error is not None:
                return self._broken(rest)
        outcome = self.watch.judge_end()
        if self.watch.shape is Shape.STREAM and outcome.kind is Kind.FAILURE and not self.watch.gave_up:
            return Step(Do.BREAK, outcome=judging.TRUNCATED)
        return Step(Do.FORWARD, rest.forward, outcome, ended=True)

    def broke(self, now: float) -> Step:
        """Its connection broke."""
        watch = self.watch
        if self.released:
            if self._may_end:
                return self.end(now)  # that its transport ended badly is not the app's concern
            return Step(Do.BREAK, outcome=judging.TRUNCATED)
        if watch.shape is Shape.ERROR:
            return Step(Do.FAIL, outcome=watch.judge_end())
        if watch.shape is Shape.STREAM and watch.begun:
            return Step(Do.FAIL, outcome=judging.CUT_STREAM)
        return Step(Do.FAIL, outcome=judging.judge_no_answer(watch.status))

    def expired(self, now: float) -> Step:
        """Its deadline has passed."""
        watch = self.watch
        if self.released:
            return self.end(now) if self._may_end else Step(Do.BREAK, outcome=judging.STALLED)
        if watch.shape is Shape.ERROR:
            return self._judged(watch.judge_end(), now)
        return Step(Do.FAIL, outcome=judging.TIMEOUT)

    @property
    def _may_end(self) -> bool:
        """Whether it is whole though its transport has not ended: all that it has to say is there, be it an error, and
        no length was announced that it would fall short of."""
        watch = self.watch
        said = watch.finished or watch.gave_up
        return watch.shape is Shape.STREAM and said and (watch.announced is None or watch.unwraps)

    def vouch(self, now: float) -> Step:
        """It is alive but has no content yet, and the app must not be kept waiting for it: let go before its time."""
        self.watch.follow()
        return self._kept_back(self._release(None, Piece(b""), now, VOUCHED))

    def _kept_back(self, step: Step) -> Step:
        """Nothing goes on of an answer that repeats a key. An error that is held is not lost by that: what it says is
        left out of it."""
        if not self.watch.leaked:
            return step
        is_error = self.watch.shape is Shape.ERROR
        match step.do:
            case Do.FORWARD | Do.BREAK:
                return replace(
                    step, do=Do.BREAK, data=b"", told=b"", outcome=judging.STREAM_ERROR, error=step.error or WITHHELD
                )
            case Do.RELEASE if not is_error:
                return Step(Do.FAIL, outcome=judging.LEAKED)
            case Do.HOLD if self.watch.shape is not Shape.WHOLE and not is_error:
                return Step(Do.FAIL, outcome=judging.LEAKED)
        return step

    # --- held back

    def _hold(self, data: bytes, now: float) -> Step:
        watch = self.watch
        piece = self._read(data)
        self._held += len(piece.forward)
        if watch.shape is Shape.WHOLE:
            self.deadline = now + self._timeouts.idle
        outcome = watch.opening if piece.content else None
        if self._complete and self._held <= self._hold_bytes:
            return self._hold_whole(piece, outcome, now)
        if piece.content:
            return self._release(outcome, piece, now)
        if piece.error is not None:
            return self._refused(piece, piece.error, now)
        if self._held > self._hold_bytes:
            if watch.shape is Shape.ERROR:
                return self._judged(watch.judge_end(), now, piece.forward)
            if watch.shape is Shape.WHOLE:
                watch.let_flow()
                outcome = judging.SUCCESS
            return self._release(outcome, piece, now, TOO_LARGE)
        return Step(Do.HOLD, piece.forward, note=_note(piece))

    def _hold_whole(self, piece: Piece, outcome: Outcome | None, now: float) -> Step:
        """`commit = "complete"`: nothing is let go before the stream's end."""
        watch = self.watch
        if piece.error is not None:
            if not watch.begun:
                return self._refused(piece, piece.error, now)
            broke = watch.judge_break(piece.error)
            if broke.kind is Kind.NEUTRAL and broke.then is Then.HAND_OVER:
                return self._release(outcome, piece, now)
            return Step(Do.FAIL, piece.forward, broke if broke.kind is Kind.NEUTRAL else judging.BROKEN_STREAM)
        if watch.finished:
            return self._release(outcome, piece, now)
        if watch.begun:
            self.deadline = now + self._timeouts.idle
        return Step(Do.HOLD, piece.forward, outcome, note=_note(piece))

    def _refused(self, piece: Piece, error: ErrorFacts, now: float) -> Step:
        """An error has come in place of content: about the request itself, then it is the app's; or of the provider."""
        return self._judged(self.watch.judge_error_event(error), now, piece.forward + piece.told)

    def _judged(self, outcome: Outcome, now: float, rest: bytes = b"") -> Step:
        """A whole answer has its outcome: the app gets it, or another attempt may answer."""
        if outcome.reason == "truncated":
            return Step(Do.FAIL, rest, judging.CUT_STREAM)
        if outcome.kind is Kind.SUCCESS or outcome.then is Then.HAND_OVER:
            self.released = True
            self.deadline = None if self.ended else now + self._timeouts.idle
            return Step(Do.RELEASE, rest, outcome, ended=self.ended)
        return Step(Do.FAIL, rest, outcome)

    def _release(self, outcome: Outcome | None, piece: Piece, now: float, note: str = "") -> Step:
        self.released = True
        self.deadline = now + self._timeouts.idle
        if piece.error is None:
            return Step(Do.RELEASE, piece.forward, outcome, note=note or _note(piece))
        goes_on = self._goes_on(piece.error)
        told = piece.told if piece.raises or goes_on else b""
        # What came in one compressed piece with the error holds it.
        data = piece.forward if goes_on or self.watch.plain else b""
        return Step(Do.RELEASE, data, outcome, False, piece.error, told, note or _note(piece), goes_on)

    def _goes_on(self, error: ErrorFacts) -> bool:
        """Whether a provider's error goes on as it came, and what follows it: it is about the request itself, or no
        event of ours could end the stream. Not where half a call of a tool would look whole."""
        if error is HALF_A_CALL:
            return False
        return not self.watch.extensible or self.watch.judge_break(error).kind is Kind.NEUTRAL

    # --- flowing

    def _flow(self, data: bytes, now: float) -> Step:
        watch = self.watch
        if self.deadline is not None:
            self.deadline = now + self._timeouts.idle
        if watch.shape is Shape.WHOLE:  # let go before its end, it is judged there all the same
            self._held += len(data)
            if self._held > self._hold_bytes:
                watch.let_flow()
        if watch.shape not in _READ_ON and not watch.unwraps:
            return Step(Do.FORWARD, watch.pass_on(data))
        piece = self._read(data)
        if piece.error is not None:
            return self._broken(piece)
        outcome = watch.opening if piece.content else None
        return Step(Do.FORWARD, piece.forward, outcome, note=_note(piece))

    def _broken(self, piece: Piece) -> Step:
        """The provider has ended its answer with an error, after content."""
        assert piece.error is not None
        goes_on = self._goes_on(piece.error)
        told = piece.told if piece.raises or goes_on else b""
        do = Do.FORWARD if goes_on else Do.BREAK
        outcome = self.watch.judge_break(piece.error)
        return Step(do, piece.forward, outcome, error=piece.error, told=told, note=_note(piece))

    def _read(self, data: bytes) -> Piece:
        try:
            return self.watch.feed(data)
        except EncodingError:
            return Piece(data, error=ErrorFacts(ErrorKind.SERVER, "the answer is not in its content encoding"))


def _note(piece: Piece) -> str:
    return f"{piece.dropped} event(s) that no SDK could read dropped" if piece.dropped else ""
