"""JSON that only the official SDKs can read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidestep.dialects import DIALECTS, lenient
from sidestep.dialects.base import Call
from sidestep.dialects.lenient import UnreadableError, loads, strict


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"[NaN, Infinity, -Infinity]", [None, None, None]),
        (b"[NaN, 1e999, 1.5]", [None, None, 1.5]),
        (b"[NaN, " + b"9" * 300 + b"]", [None, int("9" * 300)]),
        (b"[NaN, " + b"9" * 301 + b"]", [None, None]),
        (b'"\x01"', "\x01"),
    ],
)
def test_loads(data: bytes, value: Any) -> None:
    """Numbers that are none are None."""
    assert loads(data) == value


def test_what_is_too_long_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lenient, "MAX_BYTES", 5)
    assert strict(b"[NaN]") == b"[null]"
    with pytest.raises(UnreadableError):
        strict(b"[NaN ]")


SAID = "w\xe9"
ANSWERS: dict[tuple[str, str], Any] = {
    ("openai", "chat/completions"): {"choices": [{"message": {"content": SAID}}]},
    ("openai", "responses"): {"output": [{"type": "message", "content": [{"type": "output_text", "text": SAID}]}]},
    ("openai", "images/generations"): {"data": [{"b64_json": SAID}]},
    ("anthropic", "messages"): {"content": [{"type": "text", "text": SAID}]},
    ("gemini", "generateContent"): {"candidates": [{"content": {"parts": [{"text": SAID}]}}]},
}


@pytest.mark.parametrize("declared", ["iso-8859-1", "windows-1252", ""])
@pytest.mark.parametrize(("dialect", "operation"), ANSWERS)
def test_whole_answers_in_another_character_set(dialect: str, operation: str, declared: str) -> None:
    """They are answers, all of them, however deep the letters stand that are no UTF-8."""
    call = Call(dialect, operation, "m", stream=False)
    body = json.dumps(ANSWERS[dialect, operation], ensure_ascii=False).encode("latin-1")
    kind = f"application/json; charset={declared}" if declared else "application/json"
    assert DIALECTS[dialect].judge_answer(call, kind, body).good
