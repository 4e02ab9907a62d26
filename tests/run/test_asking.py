"""What a proxy says of itself to a shell, which need not be one."""

from __future__ import annotations

import json

import pytest

from sidestep.run.asking import AskError, picture_in

URL = "http://127.0.0.1:8080"


def test_a_picture_is_shown_as_text() -> None:
    """Whatever listens at the address may have written it: a terminal carries nothing of it out."""
    name = "m\x1b]0;x\x07\x9b31m\n\u2028\u202eß"
    told = {"routes": [{"name": name, "stays": {name: 1}}], "now": 1.5, "mode": None, "ok": True}
    plain = "m?]0;x??31m???ß"
    assert picture_in(json.dumps(told), URL) == {
        "routes": [{"name": plain, "stays": {plain: 1}}],
        "now": 1.5,
        "mode": None,
        "ok": True,
    }


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", "7", '"routes"', "[" * 100_000, b"\xff", '{"routes": ' + "9" * 5_000]
)
def test_what_is_no_picture(text: str | bytes) -> None:
    with pytest.raises(AskError, match="no proxy with Sidestep"):
        picture_in(text, URL)
