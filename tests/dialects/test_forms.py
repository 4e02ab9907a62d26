"""Single fields of a form."""

from __future__ import annotations

import pytest

from sidestep.dialects.bodies import NotReadError
from sidestep.dialects.forms import MAX_HEAD, MAX_PARTS, Form

TYPE = "multipart/form-data; boundary=b"
PART = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--b--\r\n'


@pytest.mark.parametrize("before", [b"", b"to be ignored\r\n", b"\r\n"])
def test_a_field_after_a_preamble(before: bytes) -> None:
    """What stands before the first boundary is no part of the form, and stays."""
    form = Form(TYPE, before + PART)
    assert (form.text("model"), form.text("mode")) == ("m", None)
    assert form.with_text("model", "n") == before + PART.replace(b"\r\nm\r\n", b"\r\nn\r\n")
    assert form.without("model") == before + b"--b--\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + b"--b--\r\n"


def part(name: bytes, value: bytes, more: bytes = b"") -> bytes:
    return more + b'Content-Disposition: form-data; name="' + name + b'"\r\n\r\n' + value


LONGEST = MAX_HEAD - len(part(b"a", b"")) - len(b"\r\nX: \r\n")
"""Of a value of a field beside: all of them lie within so many bytes, with their line ends."""


@pytest.mark.parametrize(
    ("body", "read"),
    [
        (form(*[part(b"a%d" % i, b"x") for i in range(MAX_PARTS)]), True),
        (form(*[part(b"a%d" % i, b"x") for i in range(MAX_PARTS + 2)]), False),
        (form(part(b"a", b"x", b"X: " + b"y" * LONGEST + b"\r\n")), True),
        (form(part(b"a", b"x", b"X: " + b"y" * (LONGEST + 1) + b"\r\n")), False),
        (form(part(b"a", b"x"))[:-4] + b"\r\n", False),
        (form(part(b"a", b"x")) + form(part(b"a", b"y")), False),
        (form(part(b"a", b"x")).replace(b"--b\r\n", b"--b  \t\r\n", 1), True),
        (form(part(b"a", b"x")).replace(b"--b\r\n", b"--b \n", 1), False),
        (form(b"\r\nno fields", part(b"a", b"x")), True),
        (form(b" folded: x\r\n" + part(b"a", b"x")), False),
        (form(b"no fields", part(b"a", b"x")), False),
        (form(part(b"a", b"x", b"Content-Transfer-Encoding: base64\r\n")), False),
    ],
)
def test_what_every_reader_takes_for_the_same_form(body: bytes, read: bool) -> None:
    """Whole, with a blank line in each part, in no unusual spelling, and not more than is read."""
    if read:
        assert Form(TYPE, body).text("missing") is None
        return
    with pytest.raises(NotReadError):
        Form(TYPE, body)


@pytest.mark.parametrize(("value", "after"), [(b"x", b"new"), (b"new", b"new"), (b"", b"new")])
def test_a_field_is_replaced_or_added(value: bytes, after: bytes) -> None:
    """Where there is none it comes first; one that says it already stays, and all else too."""
    body = form(part(b"f", b"1"), part(b"a", value))
    assert Form(TYPE, body).with_text("a", "new") == form(part(b"f", b"1"), part(b"a", after))
    assert Form(TYPE, body).with_text("b", "new") == body
    added = Form(TYPE, body).with_text("b", "new", add=True)
    assert added == form(part(b"b", b"new"), part(b"f", b"1"), part(b"a", value))
    assert Form(TYPE, added).text("b") == "new"


def test_a_field_that_is_there_twice() -> None:
    """Which of them counts is not known; both can be left out."""
    body = form(part(b"a", b"1"), part(b"f", b"2"), part(b"a", b"3"))
    for ask in (lambda: Form(TYPE, body).text("a"), lambda: Form(TYPE, body).with_text("a", "x")):
        with pytest.raises(NotReadError):
            ask()
    assert Form(TYPE, body).without("a") == form(part(b"f", b"2"))
