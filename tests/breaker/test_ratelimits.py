"""When a provider wants to be asked again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestep.breaker.ratelimits import exhausted, retry_after, retry_delay_in_body

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
    ("body", "seconds"),
    [
        (b'{"error":{"details":[{"@type":"x"},{"retryDelay":"34s"}]}}', 34.0),
        (b'[{"error":{"details":[{"retryDelay":"1.5s"}]}}]', 1.5),
        (b'{"error":{"details":[{"retryDelay":34}]}}', None),
        (b'{"error":{"details":{"retryDelay":"34s"}}}', None),
        (b'{"retryDelay":"34s"}', None),
        (b'{"error":{"details":[{"retryDelay":"34', None),
        (b'[] "retryDelay"', None),
        (b"", None),
    ],
)
def test_retry_delay_in_body(body: bytes, seconds: float | None) -> None:
    """Google's RetryInfo is read where it stands, and nowhere else."""
    assert retry_delay_in_body(body) == seconds


NAMES = st.sampled_from(
    [
        *("retry-after", "retry-after-ms", "x-ratelimit-reset", "x-ratelimit-remaining"),
        *("anthropic-ratelimit-tokens-reset", "anthropic-ratelimit-tokens-remaining"),
    ]
)
TEXTS = st.text(max_size=30) | st.from_regex(r"[0-9.]{1,15}(ms|s|m|h)?", fullmatch=True) | st.datetimes().map(str)


@given(st.dictionaries(NAMES, TEXTS), st.binary(max_size=50))
def test_nothing_raises(headers: dict[str, str], body: bytes) -> None:
    """Whatever a provider sends, the answer is a time that is not negative, or none."""
    for found in (retry_after(headers, NOW), exhausted(headers, NOW), retry_delay_in_body(body + b'"retryDelay"')):
        assert found is None or found >= 0
