"""What `sidestep run` says at its end."""

from __future__ import annotations

import pytest

from sidestep.run.running import spent


@pytest.mark.parametrize(
    ("answers", "tokens", "cost", "saved", "line"),
    [
        (1, (0, 0, 0), 0.0, 0.0, "a gave 1 answer"),
        (2, (1200, 3, 0), 0.0, 0.0, "a gave 2 answers: 1,200 tokens in, 3 out"),
        (2, (1, 0, 0), 0.01234, 0.0, "a gave 2 answers: 1 tokens in, 0 out, $0.0123"),
        (
            *(1, (120_000, 7, 100_000), 0.3, 0.125),
            "a gave 1 answer: 120,000 tokens in (100,000 from the cache), 7 out, $0.3000, $0.1250 saved by the cache",
        ),
    ],
)
def test_what_a_provider_has_given(
    answers: int, tokens: tuple[int, int, int], cost: float, saved: float, line: str
) -> None:
    used = dict(zip(("input", "output", "cached"), tokens, strict=True))
    assert spent({"name": "a", "answers": answers, "tokens": used, "cost": cost, "saved": saved}) == line
