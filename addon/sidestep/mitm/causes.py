"""Why a connection could not be made, out of what mitmproxy says of it.

Its text is never quoted: it names addresses, and may hold a server's own words.
"""

from __future__ import annotations

import re

_CAUSES = tuple(
    (re.compile(pattern, re.IGNORECASE), words)
    for pattern, words in (
        (r"hostname mismatch|doesn't match|IP address mismatch", "its certificate is another host's"),
        (r"certificate verify failed|local issuer|self[- ]signed", "its certificate is not trusted"),
        (r"refused HTTP CONNECT", "the proxy in between refused"),
        (r"connect(?:ion)? (?:call failed|refused)|errno 111", "connection refused"),
        (r"getaddrinfo|name or service|nodename|name resolution|no address associated", "its name was not found"),
        (r"timed? ?out|timeout", "timed out connecting"),
        (r"reset by peer|connection reset", "connection reset"),
        (r"unreachable|no route to host", "its network cannot be reached"),
        (r"\bssl\b|\btls\b|handshake|wrong version|alert", "no TLS with it"),
        (r"closed", "connection closed"),
    )
)


def cause_of(error: str | None) -> str:
    """In a few words; empty where it is not known."""
    return next((words for pattern, words in _CAUSES if error and pattern.search(error)), "")
