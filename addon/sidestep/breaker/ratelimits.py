"""When a provider wants to be asked again, as its headers and bodies say it.

Pure: no mitmproxy, no clock. Headers come by lower-case name; `wall_now` is Unix time in seconds. A value
that cannot be read is as good as none, and none is greater than MAX_SECONDS.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from sidestep.breaker.numbers import MAX_LENGTH, decimal

_DURATION = re.compile(r"([0-9]{1,20}(?:\.[0-9]{0,20})?)(ns|us|µs|ms|s|m|h|d)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
EPOCH_SECONDS = 365 * 86400.0
"""A plain number above this, a year, is a point in time, not a length: seconds, or milliseconds above a thousand times
that."""
MAX_SECONDS = 31 * 86400.0
"""No limit is waited for longer: the longest that providers announce is a month's."""

_STEP = (
    r"(\d{1,6}(?:\.\d{1,9})?)\s{0,2}(milliseconds?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)(?![a-z])"
)
_STEP_OF = re.compile(_STEP, re.IGNORECASE)
_SOME_STEPS = rf"(?:{_STEP}[\s,]{{0,2}}(?:and )?){{1,5}}"
_STEPS = re.compile(_SOME_STEPS, re.IGNORECASE)
_TOLD = re.compile(
    r"\b(?:again|retry|wait|resets?|reset after|replenished|available)\b[^.\d]{0,40}?" rf"({_SOME_STEPS})",
    re.IGNORECASE,
)
"""`try again in 7m12.5s`, `Please retry after 30 seconds`, `Quota will be replenished in 10 days`."""
_TOLD_DATE = re.compile(r"\bregain access on (\d{4}-\d\d-\d\d)(?: at (\d\d:\d\d))? UTC", re.IGNORECASE)
"""Anthropic's word for a limit that the account's owner has set."""
_TEXT = 2_000
_MAX_VISITS = 200
"""Values looked at in an error body."""


def retry_after(headers: Mapping[str, str], wall_now: float, body: bytes = b"") -> float | None:
    """Seconds until the provider wants to be asked again, None if it does not say. Never negative.

    What its headers say outright comes first, then what the error's body says, then the resets of its limits: of those
    that are used up, else of those of which it does not say what remains. The latest one counts.
    """
    if (value := decimal(headers.get("retry-after-ms"))) is not None:
        return min(value / 1000, MAX_SECONDS)
    if (text := headers.get("retry-after")) is not None and (seconds := _retry_after(text, wall_now)) is not None:
        return seconds
    if body and (seconds := delay_in_body(body, wall_now)) is not None:
        return seconds
    limits = _limits(headers, wall_now)
    used_up = [seconds for remaining, seconds, _ in limits if remaining == 0]
    return max(used_up or [seconds for remaining, seconds, _ in limits if remaining is None], default=None)


def exhausted(headers: Mapping[str, str], wall_now: float) -> float | None:
    """Seconds until the reset of a limit that a good answer says is used up; None if none is.

    A limit of zero says nothing: the answer came in spite of it.
    """
    if "0" not in headers.values():
        return None  # nearly every answer, and each is asked
    used_up = (seconds for remaining, seconds, limit in _limits(headers, wall_now) if remaining == 0 and limit != 0)
    return max(used_up, default=None)


def delay_in_body(body: bytes, wall_now: float) -> float | None:
    """Seconds until an error's body says that it is worth asking again: Google's `retryDelay` and `quotaResetDelay`,
    the ChatGPT backend's `resets_at` and `resets_in_seconds`, headers that an aggregator hands on, plain words."""
    try:
        data = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return delay_in_text(body[:_TEXT].decode("utf-8", "replace"), wall_now)
    found = list(_delays(data, wall_now))
    return max(found, default=None)


def delay_in_text(text: str, wall_now: float) -> float | None:
    """Seconds that a message asks to wait, in words."""
    text = text[:_TEXT]
    if (told := _TOLD.search(text)) is not None:
        return _steps(told[1])
    if (date := _TOLD_DATE.search(text)) is not None:
        return _iso(f"{date[1]}T{date[2] or '00:00'}:00Z", wall_now)
    return None


def _steps(text: str) -> float:
    return _clamped(sum(float(number) * _UNITS[_unit(unit.lower())] for number, unit in _STEP_OF.findall(text)))


def _unit(word: str) -> str:
    return "ms" if word.startswith(("ms", "milli")) else word[0]


_LENGTHS = frozenset({"retrydelay", "quotaresetdelay", "resets_in_seconds", "retry_after_seconds", "retry_after"})
_TIMES = frozenset({"resets_at", "reset_at", "quotaresettimestamp", "x-ratelimit-reset", "retry-after"})


_WORDS = frozenset({"message", "detail", "msg", "error", "raw", "body"})
"""Where words stand, or as a text the body of another answer: that of the provider behind an aggregator."""


def _quoted(text: str) -> Any:
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None


def _delays(data: Any, wall_now: float) -> Iterator[float]:
    stack = [data]
    for _ in range(_MAX_VISITS):
        if not stack:
            return
        value = stack.pop()
        if isinstance(value, list):
            stack += value[:_MAX_VISITS]
        elif isinstance(value, str):
            if (quoted := _quoted(value)) is not None:
                stack.append(quoted)
            elif (seconds := delay_in_text(value, wall_now)) is not None:
                yield seconds
        elif isinstance(value, dict):
            for name, item in value.items():
                word = name.lower()
                if word in _LENGTHS or word in _TIMES:
                    if (seconds := _value(item, wall_now)) is not None:
                        yield seconds
                elif word == "retry_after_ms" and (ms := decimal(_as_text(item))) is not None:
                    yield _clamped(ms / 1000)
                elif isinstance(item, (dict, list)) or word in _WORDS:
                    stack.append(item)


def _value(item: Any, wall_now: float) -> float | None:
    text = _as_text(item)
    return None if text is None else _when(text, wall_now)


def _as_text(item: Any) -> str | None:
    """A number or a text as text. What is neither may be as large as the body."""
    return str(item) if isinstance(item, (int, float, str)) else None


def _retry_after(text: str, wall_now: float) -> float | None:
    """The header's value: seconds, a date, and against the rules a duration or a point in time. Of two fields that
    were joined by a comma the greater."""
    if len(text) > MAX_LENGTH:
        return None
    if (seconds := _when(text, wall_now)) is not None:
        return seconds
    if (date := _http_date(text)) is not None:
        return _clamped(date - wall_now)
    parts = [_when(part, wall_now) for part in text.split(",")[:8]] if "," in text else []
    if (seconds := max((p for p in parts if p is not None), default=None)) is not None:
        return seconds
    return _steps(text) if _STEPS.fullmatch(text.strip()) else None


def _limits(headers: Mapping[str, str], wall_now: float) -> list[tuple[float | None, float, float | None]]:
    """Of each announced limit: what remains, if that is told, seconds until its reset, and the limit, if told."""
    found = []
    for name, text in headers.items():
        if ("ratelimit" not in name and "rate-limit" not in name) or "-unified-" in name:
            continue  # the latter are a plan's windows
        if name == "ratelimit":
            found += _structured(text)
            continue
        if "timeremaining" in name:
            seconds, remaining, limit = _when(text, wall_now), None, None
        elif "reset" in name:
            seconds = _when(text, wall_now)
            remaining, limit = (decimal(headers.get(name.replace("reset", word))) for word in ("remaining", "limit"))
        else:
            continue
        if seconds is not None:
            found.append((remaining, seconds, limit))
    return found


_ITEM = re.compile(r"[;\s](r|t)=([0-9]{1,12})")
_ONE_LIMIT = re.compile(r"\b(remaining|reset)=([0-9]{1,12})\b")


def _structured(text: str) -> list[tuple[float | None, float, float | None]]:
    """The IETF draft's `"default";r=0;t=40`, several of them joined by commas; before its seventh edition
    `limit=10, remaining=0, reset=40`."""
    found: list[tuple[float | None, float, float | None]] = []
    one = dict(_ONE_LIMIT.findall(text[:_TEXT]))
    if "reset" in one:
        found.append((float(one["remaining"]) if "remaining" in one else None, _clamped(float(one["reset"])), None))
    for policy in text[:_TEXT].split(","):
        told = dict(_ITEM.findall(policy))
        if "t" in told:
            found.append((float(told["r"]) if "r" in told else None, _clamped(float(told["t"])), None))
    return found


def _when(text: str, wall_now: float) -> float | None:
    """Seconds until what a number, a duration or a date says."""
    if len(text) > MAX_LENGTH:
        return None
    value = decimal(text)
    if value is not None:
        if value > EPOCH_SECONDS * 1000:
            value /= 1000
        return _clamped(value - wall_now if value > EPOCH_SECONDS else value)
    if (seconds := _duration(text)) is not None:
        return _clamped(seconds)
    return _iso(text, wall_now)


def point_in_time(text: str | None, wall_now: float) -> float | None:
    """Seconds until what a header's value says: a number, a duration or a date. None if that cannot be read."""
    return None if text is None else _when(text, wall_now)


def _iso(text: str, wall_now: float) -> float | None:
    try:
        at = datetime.fromisoformat(text.strip())
        return _clamped(at.timestamp() - wall_now) if at.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def _clamped(seconds: float) -> float:
    return min(max(0.0, seconds), MAX_SECONDS)


def _duration(text: str) -> float | None:
    """Go's notation: `6m0s`, `20ms`, `1h2m3.5s`."""
    text = text.strip()
    parts = _DURATION.findall(text)
    if not parts or "".join(n + u for n, u in parts) != text:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _http_date(text: str) -> float | None:
    try:
        at = parsedate_to_datetime(text)
        return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
