"""Single fields of a form."""

from __future__ import annotations

import pytest

from sidestep.dialects.forms import Form

TYPE = "multipart/form-data; boundary=b"
PART = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--b--\r\n'


@pytest.mark.parametrize("before", [b"", b"to be ignored\r\n", b"\r\n"])
def test_a_field_after_a_preamble(before: bytes) -> None:
    """What stands before the first boundary is no part of the form, and stays."""
    form = Form(TYPE, before + PART)
    assert (form.text("model"), form.text("mode")) == ("m", None)
    assert form.with_text("model", "n") == before + PART.replace(b"\r\nm\r\n", b"\r\nn\r\n")
    assert form.without("model") == before + b"--b--\r\n"
