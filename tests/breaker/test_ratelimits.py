"""When a provider wants to be asked again."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestep.breaker.ratelimits import MAX_SECONDS, delay_in_body, exhausted, retry_after

NOW = 1_790_000_000.0  # 2026-09-21T14:13:20Z


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "20"}, 20.0),
        ({"retry-after": " 0.5 "}, 0.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "Mon, 21 Sep 2026 14:13:50 GMT"}, 30.0),
        ({"retry-after": "Mon, 21 Sep 2026 14:13:50 -0000"}, 30.0),
        ({"retry-after": "Mon, 21 Sep 2020 14:13:50 GMT"}, 0.0),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "1e400"}, None),
        ({"retry-after": "tomorrow"}, None),
        ({"retry-after": ""}, None),
        ({"x-ratelimit-reset-requests": "6m0s"}, 360.0),
        ({"x-ratelimit-reset-tokens": "20ms"}, 0.02),
        ({"x-ratelimit-reset-tokens": "1h2m3.5s"}, 3723.5),
        ({"x-ratelimit-reset-tokens": "7.66s", "x-ratelimit-reset-requests": "2m59.56s"}, 179.56),
        ({"x-ratelimit-reset": "12"}, 12.0),
        ({"x-ratelimit-reset": "1790000007"}, 7.0),
        ({"x-ratelimit-reset": "1790000007500"}, 7.5),
        ({"x-ratelimit-reset": "1780000000"}, 0.0),
        ({"x-ratelimit-reset": "6m0"}, None),
        ({"anthropic-ratelimit-tokens-reset": "2026-09-21T14:14:20Z"}, 60.0),
        ({"anthropic-ratelimit-tokens-reset": "2026-09-21T16:14:20.5+02:00"}, 60.5),
        ({"anthropic-ratelimit-tokens-reset": "2026-09-21T14:14:20"}, None),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "8s",
                "x-ratelimit-remaining-tokens": "500",
                "x-ratelimit-reset-tokens": "6m",
            },
            8.0,
        ),
        ({"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "24h"}, None),
        (
            {
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2026-09-21T14:13:21Z",
                "anthropic-ratelimit-tokens-remaining": "0",
                "anthropic-ratelimit-tokens-reset": "2026-09-21T14:13:25Z",
            },
            5.0,
        ),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    """A provider's own word comes first, then the reset of what is used up; nonsense is as good as nothing."""
    found = retry_after(headers, NOW)
    assert found == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"x-ratelimit-reset-requests": "8s"}, None),
        ({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "8s"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "8s"}, 8.0),
        ({"x-ratelimit-remaining-requests": "0"}, None),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1790000003000"}, 3.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "8s", "x-ratelimit-limit": "0"}, None),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "8s", "x-ratelimit-limit": "1"}, 8.0),
        (
            {
                "x-ratelimit-remaining-a": "0",
                "x-ratelimit-reset-a": "8s",
                "x-ratelimit-remaining-b": "0",
                "x-ratelimit-reset-b": "9s",
            },
            9.0,
        ),
        (
            {
                "anthropic-ratelimit-tokens-remaining": "0",
                "anthropic-ratelimit-tokens-reset": "2026-09-21T14:13:25Z",
            },
            5.0,
        ),
    ],
)
def test_exhausted(headers: dict[str, str], seconds: float | None) -> None:
    """An answer that succeeded tells of a used-up limit only by a remainder of zero and a reset."""
    assert exhausted(headers, NOW) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "30s"}, 30.0),
        ({"retry-after": "1m30s"}, 90.0),
        ({"retry-after": "1790000040"}, 40.0),
        ({"retry-after": "1790000040000"}, 40.0),
        ({"retry-after": "2026-09-21T14:14:00Z"}, 40.0),
        ({"retry-after": "20, 40"}, 40.0),
        ({"retry-after": "30\x00"}, None),
        ({"retry-after": "30\x1f"}, None),
        ({"retry-after": "99999999999999999999"}, MAX_SECONDS),
        ({"retry-after": "9999-12-31T23:59:59+00:00"}, MAX_SECONDS),
        ({"retry-after-ms": "9" * 20}, MAX_SECONDS),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "40"}, 40.0),
        ({"ratelimit": '"hour";r=9;t=3000, "minute";r=0;t=40'}, 40.0),
        ({"ratelimit": '"minute";r=x;t=y'}, None),
        ({"ratelimit": "limit=10, remaining=0, reset=40"}, 40.0),
        ({"ratelimit": "limit=10, remaining=5, reset=40"}, None),
        ({"ratelimit": "limit=10, reset=40"}, 40.0),
        ({"retry-after": "20 seconds"}, 20.0),
        ({"retry-after": " 1 minute, 30 secs "}, 90.0),
        ({"retry-after": "in 20 seconds or so"}, None),
        ({"ratelimitbysize-remaining": "0", "ratelimitbysize-reset": "40"}, 40.0),
        ({"x-ratelimitbysize-remaining-minute": "0", "x-ratelimitbysize-reset-minute": "40"}, 40.0),
        ({"x-ratelimit-timeremaining": "40"}, 40.0),
        ({"x-ratelimit-timeremaining": "40", "x-ratelimit-reset": "30", "x-ratelimit-remaining": "5"}, 40.0),
        ({"ratelimit": '"a";t=9, "b";r=5;t=40'}, 9.0),
        ({"ratelimit": '"a";r=0, "b";t=9999999'}, MAX_SECONDS),
        ({"ratelimit-policy": '"a";q=5;w=60'}, None),
        ({"retry-after": "1, 2, 3, 4, 5, 6, 7, 8, 9"}, 8.0),
        ({"retry-after": "9, x, 20"}, 20.0),
        ({"retry-after": "x, y"}, None),
        ({"retry-after": " " * 199 + "5"}, 5.0),
        ({"retry-after": " " * 200 + "5"}, None),
        ({"retry-after": "31536000"}, MAX_SECONDS),
        ({"retry-after": "31536001"}, 0.0),
        *(
            ({"x-ratelimit-reset": f"2{unit}"}, 2 * seconds)
            for unit, seconds in (("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1), ("m", 60))
        ),
        ({"x-ratelimit-reset": "2h"}, 7_200.0),
        ({"x-ratelimit-reset": "2d"}, 172_800.0),
        ({"x-ratelimit-reset": "2d-"}, None),
        ({"x-rate-limit-reset": "7"}, 7.0),
        ({"anthropic-ratelimit-unified-reset": "7"}, None),
    ],
)
def test_retry_after_in_odd_forms(headers: dict[str, str], seconds: float | None) -> None:
    """A length is read in each form in which it is told, against the rules or not; none is longer than a month."""
    found = retry_after(headers, NOW)
    assert found == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        (b'{"error":{"details":[{"@type":"x"},{"retryDelay":"34s"}]}}', 34.0),
        (b'[{"error":{"details":[{"retryDelay":"1.5s"}]}}]', 1.5),
        (b'{"error":{"details":[{"retryDelay":34}]}}', 34.0),
        (b'{"error":{"details":[{"metadata":{"quotaResetDelay":"2h0m0s"}}]}}', 7200.0),
        (b'{"error":{"type":"usage_limit_reached","resets_in_seconds":7200}}', 7200.0),
        (b'{"error":{"code":"usage_limit_reached","resets_at":1790007200}}', 7200.0),
        (b'{"error":{"resets_at":1790007200000}}', 7200.0),
        (b'{"error":{"metadata":{"headers":{"X-RateLimit-Reset":"1790000060000"}}}}', 60.0),
        (b'{"error":{"message":"Please try again in 6m0s."}}', 360.0),
        (b'{"error":{"message":"Please try again in 7m12.5s. Visit"}}', 432.5),
        (b'{"error":{"message":"Please try again in 1.2s."}}', 1.2),
        (b'{"error":{"message":"Please try again in 20ms."}}', 0.02),
        (b'{"error":{"message":"Please retry after 30 seconds."}}', 30.0),
        (b'{"error":{"message":"Please retry in 41.3s."}}', 41.3),
        (b'{"error":{"message":"Please wait 1 minute and 30 seconds"}}', 90.0),
        (b'{"error":{"message":"Quota will be replenished in 10 days."}}', 864000.0),
        (b'{"error":{"message":"You will regain access on 2026-09-22 at 00:00 UTC."}}', 35200.0),
        (b"try again in 5 minutes", 300.0),
        (b'{"error":{"message":"try again later, 5 of us are here"}}', None),
        (b'{"error":{"resets_at":true,"resets_in_seconds":null}}', None),
        (b'{"error":{"retry_after_ms":1500}}', 1.5),
        (b'{"error":{"retry_after_ms":true}}', None),
        (b'{"error":{"retry_after_ms":1e20}}', None),
        (b'{"error":{"retry_after_ms":10000000000}}', MAX_SECONDS),
        (b'{"a":{"retryDelay":"3s"},"b":[{"Retry-After":"7"}],"c":"try again in 9s"}', 7.0),
        (b'{"detail":"try again in 9s","msg":["retry in 2s"],"raw":"try again in 10s"}', 10.0),
        (b'{"error":{"message":"You will regain access on 2026-09-22 UTC."}}', 35200.0),
        (b'{"error":{"message":"You will regain access on 2026-13-22 UTC."}}', None),
        (b'{"error":{"message":"Please try again in 2 milliseconds"}}', 0.002),
        (b'{"error":{"message":"Please try again in 2 minutes"}}', 120.0),
        (b'{"error":{"message":"' + b" " * 1_980 + b'try again in 9s"}}', 9.0),
        (b'{"error":{"message":"' + b" " * 1_990 + b'try again in 9s"}}', None),
        (b'{"error":{"resets_in_seconds":[5],"retryDelay":{"seconds":5}}}', None),
        (b'{"error":{"resets_in_seconds":-5}}', None),
        (b'{"error":{"resets_in_seconds":1e308}}', None),
        (b'{"error":{"details":[{"retryDelay":"34', None),
        (rb'{"error":{"metadata":{"raw":"{\"error\":{\"details\":[{\"retryDelay\":\"34s\"}]}}"}}}', 34.0),
        (rb'{"type":"error","body":" {\"error\":{\"resets_in_seconds\":50}}"}', 50.0),
        (rb'{"error":{"message":"[1] try again in 5s"}}', 5.0),
        (rb'{"error":{"message":"{try again in 5s"}}', 5.0),
        (b"[]", None),
        (b"", None),
    ],
)
def test_delay_in_body(body: bytes, seconds: float | None) -> None:
    """What an error's body says of the wait is read wherever its provider puts it."""
    found = delay_in_body(body, NOW)
    assert found == (None if seconds is None else pytest.approx(seconds))
    if seconds is not None:
        assert retry_after({"x-ratelimit-reset": "1"}, NOW, body) == found


NAMES = st.sampled_from(
    [
        *("retry-after", "retry-after-ms", "x-ratelimit-reset", "x-ratelimit-remaining"),
        *("anthropic-ratelimit-tokens-reset", "anthropic-ratelimit-tokens-remaining", "ratelimit"),
        *("anthropic-ratelimit-unified-5h-status", "x-ratelimit-timeremaining"),
    ]
)
TEXTS = st.text(max_size=30) | st.from_regex(r"[0-9.]{1,15}(ms|s|m|h)?", fullmatch=True) | st.datetimes().map(str)


BODIES = st.binary(max_size=50) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | TEXTS.map("try again in ".__add__),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["error", "details", "retryDelay", "resets_at", "retry_after_ms"]), inner)
    ),
    max_leaves=10,
).map(lambda value: json.dumps(value).encode())


@given(st.dictionaries(NAMES, TEXTS), BODIES)
def test_nothing_raises(headers: dict[str, str], body: bytes) -> None:
    """Whatever a provider sends, the answer is a time that is not negative and has a bound, or none."""
    for found in (retry_after(headers, NOW, body), exhausted(headers, NOW), delay_in_body(body, NOW)):
        assert found is None or 0 <= found <= MAX_SECONDS
