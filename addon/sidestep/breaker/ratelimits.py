"""When a provider wants to be asked again, as its headers and bodies say it.

Pure: no mitmproxy, no clock. Headers come by lower-case name; `wall_now` is Unix time in seconds. A value
that cannot be read is as good as none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import msgspec

_NUMBER = re.compile(r"\d{1,20}(?:\.\d*)?|\.\d+")
_DURATION = re.compile(r"(\d{1,20}(?:\.\d*)?)(ns|us|µs|ms|s|m|h|d)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
EPOCH_SECONDS = 1e9
"""A plain number above this is a point in time, not a length: seconds, or milliseconds above 1e12."""


def retry_after(headers: Mapping[str, str], wall_now: float) -> float | None:
    """Seconds until the provider wants to be asked again, None if it does not say. Never negative.

    What it says outright comes first, then the resets of its limits: of those that are used up, else of those
    of which it does not say what remains. The latest one counts.
    """
    if (value := _number(headers.get("retry-after-ms"))) is not None:
        return value / 1000
    if (text := headers.get("retry-after")) is not None:
        if (value := _number(text)) is not None:
            return value
        if (date := _http_date(text)) is not None:
            return max(0.0, date - wall_now)
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


def retry_delay_in_body(body: bytes) -> float | None:
    """Google's RetryInfo: `error.details[].retryDelay`, such as `"34s"`."""
    if b"retryDelay" not in body:
        return None
    try:
        data = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if isinstance(data, list) and data:
        data = data[0]
    error = data.get("error") if isinstance(data, dict) else None
    details = error.get("details") if isinstance(error, dict) else None
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str) and (seconds := _duration(delay)) is not None:
            return seconds
    return None


def _limits(headers: Mapping[str, str], wall_now: float) -> list[tuple[float | None, float, float | None]]:
    """Of each announced limit: what remains, if that is told, seconds until its reset, and the limit, if told."""
    found = []
    for name, text in headers.items():
        if name.startswith("x-ratelimit-reset"):
            before, after = "x-ratelimit-", name.removeprefix("x-ratelimit-reset")
        elif name.startswith("anthropic-ratelimit-") and name.endswith("-reset"):
            before, after = name.removesuffix("reset"), ""
        else:
            continue
        seconds = _when(text, wall_now)
        if seconds is not None:
            remaining, limit = (_number(headers.get(f"{before}{word}{after}")) for word in ("remaining", "limit"))
            found.append((remaining, seconds, limit))
    return found


def _when(text: str, wall_now: float) -> float | None:
    value = _number(text)
    if value is not None:
        if value > EPOCH_SECONDS * 1000:
            value /= 1000
        return max(0.0, value - wall_now) if value > EPOCH_SECONDS else value
    if (seconds := _duration(text)) is not None:
        return seconds
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return max(0.0, at.timestamp() - wall_now) if at.tzinfo is not None else None


def _duration(text: str) -> float | None:
    """Go's notation: `6m0s`, `20ms`, `1h2m3.5s`."""
    text = text.strip()
    parts = _DURATION.findall(text)
    if not parts or "".join(n + u for n, u in parts) != text:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _number(text: str | None) -> float | None:
    if text is None or _NUMBER.fullmatch(text.strip()) is None:
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def _http_date(text: str) -> float | None:
    try:
        at = parsedate_to_datetime(text)
        return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
