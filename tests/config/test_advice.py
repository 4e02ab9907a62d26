from __future__ import annotations

import pytest

from sidestep.config import reading
from sidestep.config.advice import advice


@pytest.mark.parametrize(
    ("more", "issuer", "told"),
    [("", "b", True), ('issuer = "b"', "b", False), ('issuer = "anthropic"', "anthropic", False)],
)
def test_advice(more: str, issuer: str, told: bool) -> None:
    """Of a stand-in of the user's own it is told that its issuer is not known, unless the file says it."""
    text = (
        '[[providers]]\nname = "anthropic"\n[[providers]]\nname = "b"\ndialect = "anthropic"\n'
        f'base_url = "https://b.example"\napi_key = "k"\n{more}\n'
    )
    settings = reading.parse(text, {})
    assert settings.providers[1].issuer == issuer
    assert [line.partition(":")[0] for line in advice(settings)] == (["b has no issuer"] if told else [])
    alone = text.partition("\n[[")[2]
    assert advice(reading.parse(f"[[{alone}", {})) == []
