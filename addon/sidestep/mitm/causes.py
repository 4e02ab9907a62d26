"""Why a connection could not be made, out of what mitmproxy says of it.

Its text is never quoted: it names addresses, and may hold a server's own words.
"""

from __future__ import annotations

import errno
import re

from cryptography import x509
from cryptography.x509.oid import NameOID

UNTRUSTED = "its certificate is not trusted"
RESET = "connection reset"
CLOSED = "connection closed"
NAME_LENGTH = 60
"""Characters of an issuer's name that are told."""


def _numbers(*names: str) -> str:
    """What asyncio says of these errors: `[Errno 111] Connect call failed`, whatever the number means. Of a name with
    several addresses it says them all; the one that came furthest is told, and so stands first."""
    return "|".join(rf"errno {number}\]" for name in names if (number := getattr(errno, name, None)) is not None)


_CAUSES = tuple(
    (re.compile(pattern, re.IGNORECASE), words)
    for pattern, words in (
        (r"hostname mismatch|doesn't match|IP address mismatch", "its certificate is another host's"),
        (r"has expired", "its certificate has expired"),
        (r"not yet valid", "its certificate is not valid yet"),
        (r"certificate verify failed|local issuer|self[- ]signed", UNTRUSTED),
        (r"refused HTTP CONNECT", "the proxy in between refused"),
        (_numbers("ECONNREFUSED"), "connection refused"),
        (_numbers("ETIMEDOUT"), "timed out connecting"),
        (_numbers("EHOSTUNREACH", "ENETUNREACH", "EHOSTDOWN", "ENETDOWN"), "its network cannot be reached"),
        (r"connection refused", "connection refused"),
        (r"getaddrinfo|name or service|nodename|name resolution|no address associated", "its name was not found"),
        (r"timed? ?out|timeout", "timed out connecting"),
        (r"reset by peer|connection reset", RESET),
        (r"unreachable|no route to host", "its network cannot be reached"),
        (r"\bssl\b|\btls\b|handshake|wrong version|alert", "no TLS with it"),
        (r"closed", CLOSED),
    )
)


def cause_of(error: str | None) -> str:
    """In a few words; empty where it is not known."""
    return next((words for pattern, words in _CAUSES if error and pattern.search(error)), "")


def issuer_of(certificate: x509.Certificate) -> str:
    """By whom a certificate says that it was issued: its organization, and the name within; empty if it has neither.

    Whoever stands in between chooses these words: they are short, and nothing of them acts on a terminal.
    """
    if certificate.issuer == certificate.subject:
        return "itself"
    words = []
    for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME):
        for attribute in certificate.issuer.get_attributes_for_oid(oid)[:1]:
            text = "".join(c if c.isprintable() else "?" for c in str(attribute.value))[:NAME_LENGTH].strip()
            if text and text not in words:
                words.append(text)
    return " of ".join(words[:2])
