"""What becomes of an answer, at every place where it may be cut: held, released, given up, ended in band."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from sidestep.breaker import judging
from sidestep.breaker.outcomes import ErrorKind, Kind, Outcome
from sidestep.calls.holding import ERROR_BODY_SECONDS, VOUCHED, Do, Holding, Step
from sidestep.calls.watching import Shape, Watch
from sidestep.config.settings import TimeoutSettings
from sidestep.dialects import DIALECTS
from sidestep.dialects.base import Call, Mark
from support import corpus

STREAMS = sorted(p.name for p in corpus.FOLDER.glob("*.sse"))
TIMEOUTS = TimeoutSettings(first_content=300, idle=60)
SSE = "text/event-stream"
PING = b": ping\n\n"


def call_of(name: str, stream: bool = True) -> Call:
    dialect, operation = name.split(".")[:2]
    operation = operation.replace("_", "/", 1) if dialect == "openai" else operation
    return Call(dialect, operation, "m", stream=stream)


@dataclass
class Run:
    """An answer that is fed step by step, and what the app and the circuit see of it."""

    holding: Holding
    app: bytes = b""
    held: list[bytes] = field(default_factory=list)
    given: list[str] = field(default_factory=list)
    """The outcomes that the attempt was given, in order; with a full stop behind the last word."""
    last: Do = Do.HOLD
    reason: str = ""

    def take(self, step: Step) -> None:
        self.last = step.do
        self.reason = "" if step.outcome is None else step.outcome.reason
        if step.do in (Do.HOLD, Do.RELEASE, Do.FAIL):
            self.held.append(step.data)
            if step.do is Do.RELEASE:
                self.app += b"".join(self.held)
        else:
            self.app += step.data
        if step.outcome is not None and step.do is not Do.BREAK:
            self.given.append(step.outcome.reason + ("." if step.ended or step.do is Do.FAIL else ""))
        if step.error is not None and (step.goes_on or step.do is Do.FORWARD):
            self.app += step.told
        elif step.error is not None and step.do is Do.RELEASE:
            self.last, self.reason = Do.BREAK, "stream_error"  # so says `Step.error`, and so does the stream

    @property
    def over(self) -> bool:
        return self.last in (Do.FAIL, Do.BREAK)


def begin(
    name: str,
    *,
    stream: bool = True,
    status: int = 200,
    kind: str = SSE,
    complete: bool = False,
    hold: int = 1 << 20,
    length: bytes | None = None,
) -> Run:
    call = call_of(name, stream)
    watch = Watch(
        DIALECTS[call.dialect],
        call,
        own_provider=False,
        own_credential=False,
        status=status,
        fields=((b"content-type", kind.encode()), *([(b"content-length", length)] if length else [])),
        wall_now=0.0,
        unwrap=complete,
    )
    run = Run(Holding(watch, TIMEOUTS, complete=complete, hold_bytes=hold, now=0.0))
    run.take(run.holding.begin())
    return run


def finish(run: Run, parts: list[bytes], ending: str) -> Run:
    for at, part in enumerate(parts):
        if run.over:
            return run
        run.take(run.holding.feed(part, float(at)))
    if not run.over:
        match ending:
            case "end":
                run.take(run.holding.end(1e3))
            case "broke":
                run.take(run.holding.broke(1e3))
            case "silent":
                run.take(run.holding.expired(1e3))
    return run


def events_of(name: str) -> list[tuple[bytes, Mark]]:
    call = call_of(name)
    reader = DIALECTS[call.dialect].reader(call, SSE)
    return [(e.raw, e.mark) for e in corpus.run(reader, [corpus.stream(name)])]


def joined(events: list[tuple[bytes, Mark]]) -> bytes:
    return b"".join(raw for raw, _ in events)


def before_content(name: str) -> bytes:
    events = events_of(name)
    first = next(i for i, (_, mark) in enumerate(events) if mark in (Mark.CONTENT, Mark.TERMINAL))
    return joined(events[:first])


def with_content(name: str) -> bytes:
    """The stream up to its first content."""
    events = events_of(name)
    first = next(i for i, (_, mark) in enumerate(events) if mark in (Mark.CONTENT, Mark.TERMINAL))
    return joined(events[: first + 1])


def is_short(name: str) -> bool:
    """Its first content is all that there is, or what says that it is whole."""
    run = finish(begin(name), [with_content(name)], "")
    return run.holding.watch.finished


def error_event(name: str) -> bytes:
    call = call_of(name)
    return DIALECTS[call.dialect].phrase_error_event(call, ErrorKind.SERVER, "it broke")


@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize("name", STREAMS)
def test_a_good_stream_reaches_the_app_byte_for_byte_at_every_cut(name: str, complete: bool) -> None:
    data = corpus.stream(name)
    for parts in corpus.cuts(data):
        run = finish(begin(name, complete=complete), parts, "end")
        assert (run.app, run.given, run.last) == (data, ["ok", "ok."], Do.FORWARD)


@pytest.mark.parametrize("name", STREAMS)
def test_nothing_is_released_before_the_first_content(name: str) -> None:
    """At every cut: what the app has seen is nothing, or a beginning with content in it."""
    data, before = corpus.stream(name), len(before_content(name))
    for at in range(1, len(data)):
        run = finish(begin(name), [data[:at]], "")
        assert run.app in (b"", data[: len(run.app)])
        assert not run.app or len(run.app) > before


FIRST = [
    # what comes, how it goes on, then: outcome in place of content
    ("nothing", "end", "bad_response"),
    ("nothing", "broke", "bad_response"),
    ("nothing", "silent", "timeout"),
    ("lifecycle", "end", "bad_response"),
    ("lifecycle", "broke", "bad_response"),
    ("lifecycle", "silent", "timeout"),
    ("pings", "end", "bad_response"),
    ("pings", "silent", "timeout"),
    ("error", "end", "bad_response"),
]


@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize(("what", "ending", "reason"), FIRST)
@pytest.mark.parametrize("name", STREAMS)
def test_what_fails_before_content_is_never_seen(
    name: str, what: str, ending: str, reason: str, complete: bool
) -> None:
    data = {
        "nothing": b"",
        "lifecycle": before_content(name),
        "pings": PING * 3,
        "error": before_content(name) + error_event(name),
    }[what]
    cuts = corpus.cuts(data) if data else iter([[]])
    for parts in cuts:
        run = finish(begin(name, complete=complete), parts, ending)
        assert (run.app, run.given, run.last) == (b"", [reason + "."], Do.FAIL)


@pytest.mark.parametrize(("ending", "reason"), [("broke", "truncated"), ("silent", "timeout")])
@pytest.mark.parametrize("name", STREAMS)
def test_a_whole_stream_that_falls_short_of_its_length(name: str, ending: str, reason: str) -> None:
    """The app would wait for the rest, or take the next answer for it: it is told that there is none. Without a length
    the same stream ends well."""
    data = corpus.stream(name)
    short = finish(begin(name, length=b"%d" % (len(data) + 1)), [data], ending)
    assert (short.app, short.last, short.reason) == (data, Do.BREAK, reason)
    free = finish(begin(name), [data], ending)
    assert (free.app, free.last, free.reason) == (data, Do.FORWARD, "ok")


AFTER = [("end", "truncated"), ("broke", "truncated"), ("silent", "timeout"), ("error", "stream_error")]


@pytest.mark.parametrize(("ending", "reason"), AFTER)
@pytest.mark.parametrize("name", [n for n in STREAMS if not is_short(n)])
def test_what_breaks_after_content_is_ended_in_band(name: str, ending: str, reason: str) -> None:
    """The app has what came before; the attempt's success is taken back by the last word."""
    good = with_content(name)
    data = good + (error_event(name) if ending == "error" else b"")
    for parts in corpus.cuts(data):
        run = finish(begin(name), parts, ending)
        assert (run.app, run.last) == (good, Do.BREAK)
        assert run.given == ["ok"]
        assert run.reason == reason or (ending == "error" and parts == [data])


@pytest.mark.parametrize(("ending", "reason"), [*AFTER[:2], ("silent", "timeout"), ("error", "stream_error")])
@pytest.mark.parametrize("name", [n for n in STREAMS if not is_short(n)])
def test_held_whole_it_fails_over_after_content_too(name: str, ending: str, reason: str) -> None:
    data = with_content(name) + (error_event(name) if ending == "error" else b"")
    for parts in corpus.cuts(data):
        run = finish(begin(name, complete=True), parts, ending)
        assert (run.app, run.last, run.reason) == (b"", Do.FAIL, reason)
        assert run.given in (["ok", f"{reason}."], [f"{reason}."])


@pytest.mark.parametrize("ending", ["broke", "silent"])
@pytest.mark.parametrize("name", STREAMS)
def test_a_whole_answer_whose_connection_ends_badly_is_whole(name: str, ending: str) -> None:
    run = finish(begin(name), [corpus.stream(name)], ending)
    assert (run.app, run.given, run.last) == (corpus.stream(name), ["ok", "ok."], Do.FORWARD)
    assert run.holding.ended


@pytest.mark.parametrize("name", [n for n in STREAMS if not is_short(n)])
def test_an_event_that_is_no_json_is_left_out_and_told(name: str) -> None:
    data, good = corpus.stream(name), with_content(name)
    run = begin(name)
    # The SDK of the Anthropic dialect passes over events without a name of its own.
    named = b"event: content_block_delta\n" if name.startswith("anthropic") else b""
    for part in (good, named + b"data: {broken\n\n"):
        step = run.holding.feed(part, 1.0)
        run.take(step)
    assert step.note == "1 event(s) that no SDK could read dropped"
    assert finish(run, [data[len(good) :]], "end").app == data


REFUSALS = [
    (
        "anthropic.messages.stream.sse",
        b'event: error\ndata: {"type":"error","error":{"type":"invalid_request_error","message":"messages: bad"}}\n\n',
    ),
    (
        "openai.chat_completions.stream.sse",
        b'data: {"error":{"message":"Invalid value","type":"invalid_request_error","code":"invalid_value"}}\n\n',
    ),
    (
        "gemini.streamGenerateContent.stream.sse",
        b'data: {"error":{"code":400,"message":"bad","status":"INVALID_ARGUMENT"}}\n\n',
    ),
]


@pytest.mark.parametrize(("name", "refusal"), REFUSALS)
def test_what_is_wrong_with_the_request_is_the_apps_to_read(name: str, refusal: bytes) -> None:
    """Told inside a 200, in place of content: handed over as it came, with all that follows; no provider is blamed."""
    data = before_content(name) + refusal + b"data: [DONE]\n\n"
    for parts in corpus.cuts(data):
        run = finish(begin(name), parts, "end")
        assert (run.app, run.last) == (data, Do.FORWARD)
        assert run.given[0].rstrip(".") == "client_error"


@pytest.mark.parametrize("ending", ["end", "broke", "silent"])
@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize(("name", "refusal"), REFUSALS)
def test_what_is_wrong_with_the_request_may_be_told_late(
    name: str, refusal: bytes, complete: bool, ending: str
) -> None:
    """After content it is still the app's to read, as it came, and takes no success back."""
    data = with_content(name) + refusal + b"data: [DONE]\n\n"
    for parts in corpus.cuts(data):
        run = finish(begin(name, complete=complete), parts, ending)
        assert (run.app, run.last) == (data, Do.FORWARD)
        assert {r.rstrip(".") for r in run.given} <= {"ok", "client_error"}


def test_the_providers_own_error_ends_a_stream_where_the_sdk_raises_from_it() -> None:
    name = "anthropic.messages.stream.sse"
    own = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
    run = begin(name)
    run.take(run.holding.feed(with_content(name), 1.0))
    step = run.holding.feed(own, 2.0)
    assert (step.do, step.told, step.error and step.error.message) == (Do.BREAK, own, "Overloaded")


WHOLE = "openai.chat_completions"
GOOD = b'{"id":"c","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"hi"}}]}'


@pytest.mark.parametrize(
    ("status", "body", "ending", "do", "given"),
    [
        (200, GOOD, "end", Do.RELEASE, "ok."),
        (200, GOOD, "broke", Do.FAIL, "bad_response."),
        (200, GOOD, "silent", Do.FAIL, "timeout."),
        (200, b"", "end", Do.FAIL, "bad_response."),
        (200, b"<html>no</html>", "end", Do.FAIL, "bad_response."),
        (200, b'{"error":{"message":"boom"}}', "end", Do.FAIL, "bad_response."),
        (400, b'{"error":{"message":"no"}}', "end", Do.RELEASE, "client_error."),
        (400, b'{"error":{"message":"no"}}', "silent", Do.RELEASE, "client_error"),
        (400, b'{"error":{"message":"no"}}', "broke", Do.FAIL, "client_error."),
        (500, b'{"error":{"message":"no"}}', "end", Do.FAIL, "http_5xx."),
        (500, b"", "broke", Do.FAIL, "http_5xx."),
        (500, b"", "silent", Do.FAIL, "http_5xx."),
        (429, b"{}", "end", Do.FAIL, "rate_limit."),
    ],
)
def test_a_whole_answer_is_held_to_its_end(status: int, body: bytes, ending: str, do: Do, given: str) -> None:
    for parts in corpus.cuts(body) if body else iter([[]]):
        run = finish(begin(WHOLE, stream=False, status=status, kind="application/json"), parts, ending)
        assert (run.last, run.given) == (do, [given])
        assert run.app == (body if do is Do.RELEASE else b"")


def test_an_error_body_without_end_is_judged_by_its_status() -> None:
    run = begin(WHOLE, stream=False, status=400, kind="text/plain", hold=1000)
    piece = b"x" * 500
    run = finish(run, [piece, piece, b"!", piece], "end")
    assert run.app == piece + piece + b"!" + piece
    assert run.given == ["client_error", "client_error."]


@pytest.mark.parametrize("stream", [True, False])
def test_more_than_may_be_held_is_let_go(stream: bool) -> None:
    kind = SSE if stream else "application/json"
    run = begin(WHOLE, stream=stream, kind=kind, hold=100)
    step = run.holding.feed(PING * 20, 5.0)
    assert step.do is Do.RELEASE
    assert "larger than hold_bytes" in step.note
    assert (step.outcome is None) is stream
    assert run.holding.deadline == 65.0


@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize(("size", "do"), [(100, Do.HOLD), (101, Do.RELEASE)])
def test_so_much_is_held_and_no_more(size: int, do: Do, complete: bool) -> None:
    """Of streams and of whole answers, in one piece or two."""
    for stream, kind in ((True, SSE), (False, "application/json")):
        for first in (size, 50):
            run = begin(WHOLE, stream=stream, kind=kind, hold=100, complete=complete)
            data = b":" + b" " * (size - 3) + b"\n\n" if stream else b" " * size
            finish(run, [part for part in (data[:first], data[first:]) if part], "")
            assert run.last is do
            assert run.app == (data if do is Do.RELEASE else b"")


def test_an_answer_let_go_before_its_end_is_judged_there_while_it_may_be_held() -> None:
    """What has come of it until then counts, and what comes after."""
    bad = b'{"error":{"message":"boom"}}'
    for hold, given in ((len(bad), ["bad_response."]), (len(bad) - 1, ["ok."])):
        run = begin(WHOLE, stream=False, kind="application/json", hold=hold)
        run.take(run.holding.feed(bad[:9], 1.0))
        run.take(run.holding.vouch(2.0))
        assert (run.last, run.app, run.holding.deadline) == (Do.RELEASE, bad[:9], 62.0)
        run.take(run.holding.feed(bad[9:], 3.0))
        assert (run.last, run.holding.deadline) == (Do.FORWARD, 63.0)
        run.take(run.holding.end(4.0))
        assert (run.app, run.given, run.last, run.holding.ended) == (bad, given, Do.FORWARD, True)


@pytest.mark.parametrize("body", [b"", b"da"])
def test_a_stream_let_go_that_never_showed_what_it_is(body: bytes) -> None:
    """Nothing is to be ended in band of what is none: it goes on as it came, and is judged as a document."""
    run = begin("openai.chat_completions")
    run.take(run.holding.feed(body, 1.0))
    step = run.holding.vouch(2.0)
    run.take(step)
    assert step.note == VOUCHED
    run.take(run.holding.end(3.0))
    assert (run.app, run.given, run.last) == (body, ["bad_response."], Do.FORWARD)


@pytest.mark.parametrize(
    ("status", "do", "reason"),
    [
        (101, Do.RELEASE, ""),
        *((status, Do.FAIL, judging.NO_SOCKET.reason) for status in (200, 299)),
        (300, Do.FAIL, "bad_response"),
        (400, Do.HOLD, ""),
    ],
)
def test_an_answer_to_a_handshake(status: int, do: Do, reason: str) -> None:
    """A document in place of a socket: none is taken here."""
    call = Call("openai", "responses.websocket", None, stream=False)
    watch = Watch(
        DIALECTS["openai"], call, own_provider=False, own_credential=False, status=status, fields=(), wall_now=0.0
    )
    run = Run(Holding(watch, TIMEOUTS, complete=False, hold_bytes=1000, now=0.0))
    step = run.holding.begin()
    run.take(step)
    assert (run.last, run.reason) == (do, reason)
    assert step.outcome is None or step.outcome.status == status


def test_what_was_too_large_to_be_held_is_taken_for_good() -> None:
    """Whole or not, it is not looked at any more."""
    run = begin(WHOLE, stream=False, kind="application/json", hold=100)
    finish(run, [b"x" * 101], "end")
    assert (run.app, run.given) == (b"x" * 101, ["ok", "ok."])
    assert run.holding.watch.shape is Shape.FLOWING


@pytest.mark.parametrize(
    ("status", "kind", "do", "outcome"),
    [
        (101, "", Do.RELEASE, None),  # what is asked for over it is judged
        (204, "application/json", Do.HOLD, None),
        (302, "text/html", Do.FAIL, Outcome(Kind.FAILURE, "bad_response", status=302)),
    ],
)
def test_what_the_head_alone_says(status: int, kind: str, do: Do, outcome: Outcome | None) -> None:
    run = begin(WHOLE, stream=False, status=status, kind=kind)
    assert run.last is do
    assert run.reason == ("" if outcome is None else outcome.reason)


def test_audio_is_released_with_its_first_byte() -> None:
    run = begin("openai.audio_speech", stream=False, kind="audio/mpeg")
    assert run.last is Do.HOLD
    run.take(run.holding.feed(b"\x01", 1.0))
    assert (run.last, run.app, run.given) == (Do.RELEASE, b"\x01", ["ok"])
    run.take(run.holding.feed(b"\x02", 2.0))
    run.take(run.holding.end(3.0))
    assert (run.app, run.given) == (b"\x01\x02", ["ok", "ok."])


# --- until when


def test_the_deadline_of_each_stage() -> None:
    """Until the first content of a stream; then, and for a whole answer from its head on, between bytes."""
    name = "anthropic.messages.stream.sse"
    run = begin(name)
    assert run.holding.deadline == 300
    run.take(run.holding.feed(before_content(name), 7.0))
    assert run.holding.deadline == 300  # pings and lifecycle events promise nothing
    run.take(run.holding.feed(with_content(name)[len(before_content(name)) :], 10.0))
    assert run.holding.deadline == 70
    run.take(run.holding.feed(PING, 20.0))
    assert run.holding.deadline == 80
    assert run.holding.skimmable
    run.take(run.holding.end(30.0))
    assert run.holding.deadline is None

    whole = begin(WHOLE, stream=False, kind="application/json")
    assert whole.holding.deadline == 60
    whole.take(whole.holding.feed(b"{", 9.0))
    assert whole.holding.deadline == 69

    error = begin(WHOLE, stream=False, status=500, kind="application/json")
    error.take(error.holding.feed(b"{", 4.0))
    assert error.holding.deadline == ERROR_BODY_SECONDS

    opaque = begin(WHOLE, stream=False, status=101)
    assert opaque.holding.deadline is None


def test_held_whole_the_deadline_moves_once_content_has_come() -> None:
    name = "anthropic.messages.stream.sse"
    run = begin(name, complete=True)
    run.take(run.holding.feed(before_content(name), 7.0))
    assert run.holding.deadline == 300
    run.take(run.holding.feed(with_content(name)[len(before_content(name)) :], 10.0))
    assert (run.last, run.holding.deadline) == (Do.HOLD, 70)


def test_what_is_not_in_its_encoding_is_a_broken_answer() -> None:
    call = call_of("openai.chat_completions.stream.sse")
    fields = ((b"content-type", SSE.encode()), (b"content-encoding", b"gzip"))
    watch = Watch(
        DIALECTS["openai"], call, own_provider=False, own_credential=False, status=200, fields=fields, wall_now=0.0
    )
    run = Run(Holding(watch, TIMEOUTS, complete=False, hold_bytes=1000, now=0.0))
    run.take(run.holding.begin())
    run.take(run.holding.feed(b"no gzip at all", 1.0))
    assert (run.last, run.given) == (Do.FAIL, ["bad_response."])
