"""Why a connection could not be made, in words of our own."""

from __future__ import annotations

import pytest

from sidestep.mitm.causes import cause_of


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("[Errno 111] Connect call failed ('127.0.0.1', 9)", "connection refused"),
        ("Multiple exceptions: [Errno 111] Connect call failed ('::1', 9, 0, 0)", "connection refused"),
        ("[Errno -2] Name or service not known", "its name was not found"),
        ("[Errno -3] Temporary failure in name resolution", "its name was not found"),
        ("[Errno 104] Connection reset by peer", "connection reset"),
        ("[Errno 101] Network is unreachable", "its network cannot be reached"),
        ("[Errno 110] Connect call failed: timed out", "connection refused"),
        ("Connection timed out", "timed out connecting"),
        ("Certificate verify failed: self-signed certificate in certificate chain", "its certificate is not trusted"),
        ("Certificate verify failed: unable to get local issuer certificate", "its certificate is not trusted"),
        ("Certificate verify failed: hostname mismatch", "its certificate is another host's"),
        ("OpenSSL Error([('SSL routines', '', 'wrong version number')])", "no TLS with it"),
        ("The remote server speaks no TLS", "no TLS with it"),
        (
            "Upstream proxy 10.0.0.1:3128 refused HTTP CONNECT request: 407 words of theirs",
            "the proxy in between refused",
        ),
        ("server closed connection", "connection closed"),
        ("something that nobody has foreseen", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_causes(said: str | None, cause: str) -> None:
    assert cause_of(said) == cause
