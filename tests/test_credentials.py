"""What stands for a credential where only its sameness counts."""

from __future__ import annotations

import pytest

from sidestep.credentials import fingerprint

KEY = (b"Authorization", b"Bearer sk-CANARY-0123456789")


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ([(b"authorization", b"Bearer sk-other")], b"/"),
        ([KEY, (b"openai-organization", b"org")], b"/"),
        ([KEY], b"/?key=k"),
        ([], b"/?key=k"),
        ([], b"/?key=l"),
        ([(b"x-api-key", KEY[1])], b"/"),
        ([], b"/?a=b"),
    ],
)
def test_another_credential_has_another_fingerprint(fields: list[tuple[bytes, bytes]], path: bytes) -> None:
    """A key, an organisation, a parameter: whatever names an account."""
    assert fingerprint(fields, path) != fingerprint([KEY], b"/")


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ([(b"authorization", KEY[1])], b"/"),
        ([KEY], b"/other?alt=sse"),
        ([(b"cookie", b"renewed"), KEY], b"/"),
    ],
)
def test_the_same_credential_has_the_same_fingerprint(fields: list[tuple[bytes, bytes]], path: bytes) -> None:
    """In whatever call; a cookie, which servers renew, is no other account."""
    assert fingerprint(fields, path) == fingerprint([KEY], b"/")


def test_the_order_of_the_fields_does_not_count() -> None:
    """An app may write its headers as it likes."""
    fields = [KEY, (b"openai-organization", b"org")]
    assert fingerprint(fields, b"/") == fingerprint(reversed(fields), b"/")


def test_nothing_of_a_credential_is_in_its_fingerprint() -> None:
    """It is a keyed digest of a fixed length, and empty where there is no credential."""
    found = fingerprint([KEY], b"/?key=CANARY")
    assert len(found) == 32
    assert "CANARY" not in found
    assert fingerprint([(b"cookie", b"a=b")], b"/?alt=sse") == ""
