"""Judges two readings of one answer, one behind a bare proxy and one behind Sidestep.

`NAMED` is the whole list of differences that are no harm to an app, each with its reason. Whatever else differs is
worse.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from support.calls import Result
from support.rawreading import Reading
from support.recipes import Part, Recipe, plain

LATE_SECONDS = 0.35
"""What a busy machine may add."""
HELD_SECONDS = 5.0
"""How long signs of life may be held back before content: by then an app's own watchdog could care."""
BACKOFF_SECONDS = 0.6
"""The pause before the same provider is asked again, with its jitter, and what the second attempt adds."""
WAIT_SECONDS = 3.0
"""The longest wait for a limit to end, `attempts.wait_seconds`."""


@dataclass(frozen=True)
class Verdict:
    """`name`: of a difference that is none for the worse; `kind`: what differs, where it is for the worse."""

    name: str = ""
    kind: str = ""
    late: bool = False

    @property
    def worse(self) -> bool:
        return bool(self.kind)


@dataclass(frozen=True)
class Named:
    """A difference that no app suffers from."""

    name: str
    reason: str
    holds: Callable[[Recipe, Reading, Reading], bool]


EQUAL = Verdict()


# --- what is looked for


def same(one: Reading, other: Reading) -> bool:
    return (
        one.status == other.status
        and one.shown == other.shown
        and one.body == other.body
        and one.end == other.end
        and one.extra == other.extra
    )


_SIGNS = re.compile(rb"\A(?:\s+|:[^\r\n]*[\r\n]+|event: ping\s+data: [^\r\n]*\s+)*")


def _rid(body: bytes) -> bytes:
    """A body without the signs of life before it."""
    return _SIGNS.sub(b"", body, count=1)


def is_good(recipe: Recipe, reading: Reading) -> bool:
    """The whole answer, as its provider meant it; signs of life before it mean nothing."""
    whole = b"".join(p.data for p in recipe.encoded())
    same = reading.body == whole or _rid(reading.body) == _rid(whole)
    return reading.status == recipe.status and same and reading.end == "clean"


def is_own_error(recipe: Recipe, reading: Reading) -> bool:
    """An error of Sidestep's own that the dialect's SDK raises: whole, or alone behind signs of life."""
    if reading.status == 200 and reading.end == "clean" and reading.header("x-sidestep-request-id"):
        event = _rid(reading.body)
        return event != reading.body and is_error_event(recipe.api, event) and len(_events(event)) == 1
    if reading.status not in (502, 503, 504) or reading.end != "clean" or not reading.header("x-sidestep-request-id"):
        return False
    try:
        return "error" in json.loads(reading.body)
    except ValueError:
        return False


def is_proxys_page(reading: Reading) -> bool:
    return reading.status == 502 and b"<html>" in reading.body and b"Bad Gateway" in reading.body


_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")


def _events(body: bytes) -> list[bytes]:
    """The events of a stream with the blank line that ends each; what is left over is the last."""
    found, at = [], 0
    for match in _EVENT_END.finditer(body):
        found.append(body[at : match.end()])
        at = match.end()
    return [*found, body[at:]] if body[at:] else found


def is_error_event(api: str, event: bytes) -> bool:
    if event.startswith(b"event: error"):
        return True
    data = b"".join(line[5:] for line in event.splitlines() if line.startswith(b"data:"))
    try:
        told = json.loads(data)
    except ValueError:
        return False
    if not isinstance(told, dict):
        return False
    if api == "responses":
        return told.get("type") in ("error", "response.failed") or "error" in told
    return "error" in told


def _array_ends_in_band(bare: Reading, side: Reading) -> bool:
    """The same of a stream that is one JSON array."""
    try:
        told = json.loads(side.body)
    except ValueError:
        return False
    if side.end != "clean" or not isinstance(told, list) or not told or "error" not in told[-1]:
        return False
    kept = side.body[: side.body.rindex(b'{"error"')].rstrip(b", \n[")
    rest = bare.body[len(kept) :].lstrip(b", \r\n[")
    try:
        lost, _ = json.JSONDecoder().raw_decode(rest.decode())
    except ValueError:
        lost = {"error": None}
    return bare.body.startswith(kept) and "error" in lost


def ends_in_band(recipe: Recipe, bare: Reading, side: Reading) -> bool:
    """Sidestep's stream is the bare one up to its last whole event, and then an error event."""
    if recipe.form == "array":
        return _array_ends_in_band(bare, side)
    events = _events(side.body)
    if side.status != 200 or side.end != "clean" or not events or not is_error_event(recipe.api, events[-1]):
        return False
    kept, whole = b"".join(events[:-1]), bare.body
    rest = _events(whole[len(kept) :])
    # What comes behind an error is of no use: the SDKs raise from it, or crash.
    until = itertools.takewhile(lambda e: not is_error_event(recipe.api, e), rest)
    return whole.startswith(kept) and not any(_EVENT_END.search(e) for e in until)


def _without(parts: list[Part]) -> bytes:
    return b"".join(p.data for p in parts if not p.broken)


def _blanked(parts: list[Part]) -> bytes:
    """Where a length was announced, blank lines keep it."""
    return b"".join(b"\n" * len(p.data) if p.broken else p.data for p in parts)


def _late(recipe: Recipe, bare: Reading, side: Reading) -> tuple[float, float]:
    """By how many seconds Sidestep's answer is behind the bare one at most: before its content, and from there on.
    Of a whole answer all but its end is before its content, and of one with an error's status, which no client reads
    word by word, whatever its form."""
    content_at = recipe.content_at if bare.status < 400 else len(bare.body)
    before, after = 0.0, 0.0
    for at, size in [(bare.head_at, 0), *bare.arrivals]:
        came = side.came_at(size)
        if came is None:
            continue
        if size < content_at:
            before = max(before, came - at)
        else:
            after = max(after, came - at)
    if bare.end == "clean":
        after = max(after, side.done_at - bare.done_at)
    return before, after


def _asked_again(bare: Reading, side: Reading) -> float:
    """The seconds that further attempts may take."""
    return (len(side.attempts) - 1) * (BACKOFF_SECONDS + bare.done_at) if len(side.attempts) > 1 else 0.0


# --- the names


def _faulty(*faults: str) -> Callable[[Recipe], bool]:
    return lambda recipe: bool(recipe.faults & set(faults))


def _all(*conditions: Callable[..., bool]) -> Callable[[Recipe, Reading, Reading], bool]:
    def holds(recipe: Recipe, bare: Reading, side: Reading) -> bool:
        return all(c(recipe) if c.__code__.co_argcount == 1 else c(recipe, bare, side) for c in conditions)

    return holds


def _says_why_it_stopped(recipe: Recipe, bare: Reading, side: Reading) -> bool:
    """A stream of which nothing but bookkeeping is missing."""
    if "whole all the same" in recipe.faults:
        return True
    whole = plain(recipe.api, stream=recipe.stream)
    ends = [p.data for p in whole.parts if p.comes_with in ("finish", "terminal")] or [whole.parts[-1].data]
    last = next((e for e in ends if b"stop_reason" in e or b"finish_reason" in e), ends[-1])
    return recipe.stream and last.rstrip() in bare.body


def _own_error(recipe: Recipe, bare: Reading, side: Reading) -> bool:
    return is_own_error(recipe, side)


def _good(recipe: Recipe, bare: Reading, side: Reading) -> bool:
    return is_good(recipe, side) and not is_good(recipe, bare)


NAMED = (
    Named(
        "cut_stream_became_api_error",
        "The official SDKs take a stream that was cut for a whole one, or raise what is no API error; an error event"
        " of the dialect raises the API error that apps handle.",
        _all(_faulty("unfinished"), ends_in_band, lambda r, b, s: b.end == "cut"),
    ),
    Named(
        "unfinished_stream_became_api_error",
        "A stream that ends in good order without its terminal event looks complete to every SDK and is not.",
        _all(
            _faulty("unfinished"),
            lambda r, b, s: r.stream and b.end == "clean" and "error event" not in r.faults,
            lambda r, b, s: ends_in_band(r, b, s) or is_own_error(r, s),
        ),
    ),
    Named(
        "unfinished_stream_became_cut",
        "Where nothing can be added (a length, a content encoding), a stream that is not whole is cut: that much every"
        " client notices.",
        _all(
            _faulty("unfinished"),
            lambda r, b, s: r.stream and "error event" not in r.faults,
            lambda r, b, s: (b.end, s.end) == ("clean", "cut") and b.body.startswith(s.body),
        ),
    ),
    Named(
        "error_event_that_the_sdk_raises",
        "The Responses SDK hands an `error` event to the app without raising, and others crash at one that is not in"
        " the form of their dialect: there an error of the dialect's own ends the stream.",
        _all(_faulty("error event"), ends_in_band, lambda r, b, s: not b.body.startswith(s.body)),
    ),
    Named(
        "nothing_behind_an_error",
        "The provider's own error ends the stream: the SDKs raise from it, and read nothing that comes behind.",
        _all(
            _faulty("error event"),
            lambda r, b, s: b.body.startswith(s.body) and any(is_error_event(r.api, e) for e in _events(s.body)),
            lambda r, b, s: (s.status, s.end) == (b.status, "clean"),
        ),
    ),
    Named(
        "cut_answer_became_api_error",
        "Of an answer that was cut before an app could use any of it an error of the dialect says so, and the SDKs"
        " ask again.",
        _all(_faulty("unfinished", "first attempt fails"), _own_error, lambda r, b, s: b.end in ("cut", "no answer")),
    ),
    Named(
        "proxys_page_became_api_error",
        "No provider gave an answer: mitmproxy's HTML page is none, an error of the dialect is one.",
        _all(_own_error, lambda r, b, s: is_proxys_page(b)),
    ),
    Named(
        "left_to_mitmproxy",
        "A call that is not routed is mitmproxy's own business: a whole answer is collected, and where it was cut there"
        " is a page.",
        lambda r, b, s: (
            (b.end != "clean" and is_proxys_page(s) and not s.header("x-sidestep-request-id"))
            or (b.end != "clean" and not s.body and (r.api == "models" or r.method != "POST"))
        ),
    ),
    Named(
        "answered_by_a_second_attempt",
        "A provider that fails once is asked once more before the app sees a byte.",
        _all(_faulty("first attempt fails"), _good),
    ),
    Named(
        "fresh_connection",
        "An idle connection that breaks when it is used again is replaced by a fresh one.",
        _all(_faulty("idle connection breaks"), _good),
    ),
    Named(
        "cut_behind_its_end",
        "All that the provider had to say has come, and why it stopped: that the transport ended badly afterwards is of"
        " no concern to an app.",
        _all(
            _says_why_it_stopped,
            lambda r, b, s: (s.status, s.shown, s.body) == (b.status, b.shown, b.body),
            lambda r, b, s: s.end == "clean",
        ),
    ),
    Named(
        "unparsable_event_left_out",
        "An event that is no JSON crashes the SDKs amid a good stream.",
        _all(
            _faulty("malformed"),
            lambda r, b, s: _rid(s.body) in map(_rid, (_without(r.parts), _blanked(r.parts))) and s.status == b.status,
            lambda r, b, s: s.end == b.end or (s.end == "clean" and r.framing == "trailers"),
        ),
    ),
    Named(
        "signs_of_life_came_first",
        "While an answer is held back the app gets signs of life, which no SDK takes for words.",
        lambda r, b, s: s.body != b.body and _rid(s.body) == _rid(b.body) and (s.status, s.end) == (b.status, b.end),
    ),
    Named(
        "interim_answer_passed_over",
        "mitmproxy takes an interim answer (1xx) for the final one.",
        _all(
            _faulty("interim"),
            lambda r, b, s: s.status == r.status or ("unfinished" in r.faults and is_own_error(r, s)),
            lambda r, b, s: r.faults != {"interim"} or r.method == "HEAD" or is_good(r, s),
        ),
    ),
    Named(
        "answer_that_the_bare_proxy_loses",
        "The provider's answer came whole and mitmproxy alone breaks it.",
        _good,
    ),
    Named(
        "held_until_content",
        "Before its content an answer may be held back for as long as no app's own watchdog cares.",
        lambda r, b, s: (
            s.end == b.end == "stalled"
            and b.body.startswith(s.body)
            and (b.done_at < HELD_SECONDS or _keeps_waiting(b, s))
            and (not r.stream or not any(p.content for p in r.parts))
        ),
    ),
    Named(
        "half_an_event_held",
        "No client can use half an event.",
        lambda r, b, s: (
            r.stream
            and (b.status, b.shown, b.end) == (s.status, s.shown, s.end)
            and b.body.startswith(s.body)
            and (b.end != "clean" or _is_half(b.body[len(s.body) :]))
            and not _EVENT_END.search(b.body[len(s.body) :])
        ),
    ),
)


def _keeps_waiting(bare: Reading, side: Reading) -> bool:
    """Whether for all that came alone something has come within the time that a watchdog gives, or could have."""
    patient = HELD_SECONDS + LATE_SECONDS
    told = [at for at, _ in bare.arrivals if at + patient < bare.done_at]
    return all(any(at <= sign + LATE_SECONDS and sign < at + patient for sign, _ in side.arrivals) for at in told)


def _is_half(event: bytes) -> bool:
    """Whether an event without its end lacks a part of its data too."""
    data = event.rpartition(b"data:")[2].strip()
    try:
        json.loads(data)
    except ValueError:
        return data != b"[DONE]"
    return False


def judge_request(so_far: Verdict, sent: list[bytes], passed: list[bytes]) -> Verdict:
    """The verdict on what reached the provider: the app's request byte for byte, each time."""
    if sent and any(request != sent[0] for request in passed):
        return Verdict(kind="the request was changed")
    return so_far


def _judge_spare(recipe: Recipe, side: Reading) -> Verdict:
    """The verdict on an answer of a stand-in's."""
    if not recipe.faults:
        return Verdict(kind=f"a good answer was passed over ({'+'.join(side.attempts)})")
    good = plain(recipe.api, stream=recipe.stream, by="S")
    whole = b"".join(p.data for p in good.parts)
    if (side.status, side.end) == (200, "clean") and _rid(side.body) == _rid(whole):
        return Verdict("answered_by_a_stand_in")
    return Verdict(kind="a stand-in's answer was changed")


def _named(recipe: Recipe, bare: Reading, side: Reading) -> str | None:
    """Why Sidestep's reading is better; signs of life before an answer change none of the reasons."""
    for one, other in ((bare, side), (_behind_signs(bare), _behind_signs(side))):
        for named in NAMED:
            if named.holds(recipe, one, other):
                return named.name
    return None


def _behind_signs(reading: Reading) -> Reading:
    return replace(reading, body=_rid(reading.body))


def judge(recipe: Recipe, bare: Reading, side: Reading) -> Verdict:
    """The verdict on what a raw client read."""
    if side.extra and side.extra != bare.extra:
        return Verdict(kind="bytes behind the end of the message")
    by = side.header("x-sidestep-provider")
    if (by or "").startswith("spare-") or (by is None and recipe.spare and b"S w1 w2" in side.body):
        return _judge_spare(recipe, side)  # where a head went before it says no provider
    alike = same(bare, side)
    name = "" if alike else _named(recipe, bare, side)
    if name is None:
        return Verdict(kind=difference(recipe, bare, side))
    if not alike:
        return Verdict(name)  # more than the bare proxy gave: its time is no measure
    if recipe.api == "models" or recipe.method != "POST":
        return EQUAL  # it is not routed, so that mitmproxy collects it
    before, after = _late(recipe, bare, side)
    again = _asked_again(bare, side)
    if after > LATE_SECONDS:
        if after <= LATE_SECONDS + again and _faulty("status", "first attempt fails", "unfinished")(recipe):
            return Verdict("asked_again_in_vain")
        if recipe.status == 429 and after <= LATE_SECONDS + WAIT_SECONDS + again:
            return Verdict("limit_waited_out")
        return Verdict(kind=f"late by {'seconds' if after > 1 else 'less than a second'}", late=True)
    if before > LATE_SECONDS + again:
        if before > LATE_SECONDS + HELD_SECONDS:
            return Verdict(kind="no sign of life in time", late=True)
        return Verdict("signs_of_life_held")
    return EQUAL


SPARE_NAMES = {
    "answered_by_a_stand_in": "What is no good answer is never seen where another provider has one.",
}
LATE_NAMES = {
    "asked_again_in_vain": "A provider that fails is asked once more; the second failure is the app's, half a second"
    " later.",
    "limit_waited_out": "A limit that ends in at most `attempts.wait_seconds` is waited out, and the same asked again.",
    "signs_of_life_held": "What comes before content reaches the app within 5 s, before its own watchdog could care.",
}
"""Differences in time alone, with their reasons."""


def difference(recipe: Recipe, bare: Reading, side: Reading) -> str:
    """What differs, in words that are the same for the same cause."""
    trail = "+".join(side.attempts) or "untouched"
    if bare.status != side.status:
        own = " of our own" if is_own_error(recipe, side) else ""
        return f"status {bare.status} became {side.status}{own} ({trail})"
    if bare.end != side.end:
        return f"end {bare.end} became {side.end} ({trail})"
    if bare.body != side.body:
        how = "changed"
        if ends_in_band(recipe, bare, side):
            how = "error event of our own at its end"
        elif bare.body.startswith(side.body):
            how = "shorter"
        elif len(side.body) < len(bare.body):
            how = "a part is missing"
        return f"body: {how} ({trail})"
    was, now = dict(bare.shown), dict(side.shown)
    names = sorted({k for k in was.keys() | now.keys() if was.get(k) != now.get(k)})
    return f"headers: {', '.join(names) or 'their order'} ({trail})"


# --- the SDKs


def _error(result: Result) -> str:
    return type(result.error).__name__ if result.error is not None else ""


def _is_api_error(result: Result) -> bool:
    return type(result.error).__module__.partition(".")[0] in ("openai", "anthropic", "google")


SDK_NAMES = {
    "sdk_raises_its_own_error": "What ended a broken answer is the SDK's own API error, which apps handle, and not an"
    " answer that looks whole or another library's error.",
    "sdk_reads_an_answer": "The app has an answer where it had an error.",
}


def judge_sdk(recipe: Recipe, bare: Result, side: Result) -> Verdict:
    """The verdict on what the official SDK made of it."""
    if (bare.text, _error(bare), bare.status) == (side.text, _error(side), side.status):
        return EQUAL
    if bare.error is not None and side.error is None and side.text == recipe.text:
        return Verdict("sdk_reads_an_answer")
    broken = _faulty("unfinished", "first attempt fails", "malformed", "interim", "no head", "error event")
    words = side.text or ""
    said = recipe.text.startswith(words) or (bare.text or "").startswith(words)
    if broken(recipe) and said and _is_api_error(side):
        return Verdict("sdk_raises_its_own_error")
    was, now = (f"{_error(r) or 'no error'} {r.status}, text {len(r.text or '')}" for r in (bare, side))
    return Verdict(kind=f"{was} became {now}")
