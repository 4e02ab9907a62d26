"""Why a connection could not be made, in words of our own."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sidestep.mitm.causes import cause_of, issuer_of


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("[Errno 111] Connect call failed ('127.0.0.1', 9)", "connection refused"),
        ("Multiple exceptions: [Errno 111] Connect call failed ('::1', 9, 0, 0)", "connection refused"),
        ("[Errno -2] Name or service not known", "its name was not found"),
        ("[Errno -3] Temporary failure in name resolution", "its name was not found"),
        ("[Errno 104] Connection reset by peer", "connection reset"),
        ("[Errno 101] Network is unreachable", "its network cannot be reached"),
        ("[Errno 110] Connect call failed ('192.0.2.1', 443)", "timed out connecting"),
        ("[Errno 113] Connect call failed ('192.0.2.1', 443)", "its network cannot be reached"),
        (
            "Multiple exceptions: [Errno 101] Connect call failed ('::1', 9, 0, 0), [Errno 111] Connect call failed",
            "connection refused",
        ),
        ("Certificate verify failed: certificate has expired", "its certificate has expired"),
        ("Certificate verify failed: certificate is not yet valid", "its certificate is not valid yet"),
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


def issued(issuer: x509.Name, subject: str = "a.test") -> x509.Certificate:
    key, day = ec.generate_private_key(ec.SECP256R1()), datetime.datetime(2026, 1, 1)
    builder = x509.CertificateBuilder(issuer, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
    builder = builder.public_key(key.public_key()).serial_number(1).not_valid_before(day).not_valid_after(day)
    return builder.sign(key, hashes.SHA256())


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({"COMMON_NAME": "R11", "ORGANIZATION_NAME": "Let's Encrypt"}, "R11 of Let's Encrypt"),
        ({"COMMON_NAME": "Zscaler Root CA"}, "Zscaler Root CA"),
        ({"ORGANIZATION_NAME": "Corp", "ORGANIZATIONAL_UNIT_NAME": "IT"}, "Corp of IT"),
        ({"COMMON_NAME": "Corp", "ORGANIZATION_NAME": "Corp"}, "Corp"),
        ({"COMMON_NAME": "a.test"}, "itself"),
        ({"COMMON_NAME": "red\x1b[31m\nsidestep: all is well"}, "red?[31m?sidestep: all is well"),
        ({"COMMON_NAME": "x" * 64}, "x" * 60),
        ({"COUNTRY_NAME": "DE"}, ""),
    ],
)
def test_an_issuer_is_named_in_few_words_that_do_nothing(names: dict[str, str], words: str) -> None:
    issuer = x509.Name([x509.NameAttribute(getattr(NameOID, name), value) for name, value in names.items()])
    assert issuer_of(issued(issuer)) == words
