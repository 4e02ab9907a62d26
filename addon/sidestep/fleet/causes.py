"""What is wrong with a store, in words, and which errors say that another server has to be asked.

Pure, and without the client library: what its errors say is only looked at, never quoted, for it may hold a user's name
or a server's own words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sidestep.config.stores import Host

_CAUSES = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        # What the servers say begins with a word of their own; the client takes some of these words off.
        (r"NOAUTH\b|Authentication required", "it wants a password"),
        (r"without any password configured", "it wants no password, and the URL has one"),
        (r"WRONGPASS\b|^AuthenticationError|invalid password", "it refuses this user or password"),
        (r"^NoPermissionError|NOPERM\b", "its user may not do that (ACL)"),
        (r"^OutOfMemoryError|OOM\b", "it has no memory left (maxmemory)"),
        (r"^ReadOnlyError|READONLY\b", "it is a replica"),
        (r"MASTERDOWN\b", "it is a replica without its master"),
        (r"(?:MOVED|ASK) \d+ |TRYAGAIN\b", "another node of the Cluster has the group's keys"),
        (r"CLUSTERDOWN\b", "its Cluster is down"),
        (r"SELECT is not allowed in cluster mode", "a Cluster has the database 0 alone"),
        (r"DB index is out of range|Invalid Database", "it has no database of this number"),
        (r"MISCONF\b", "it cannot save to its disk"),
        (r"^BusyLoadingError|LOADING\b", "it is starting"),
        (r"^NoScriptError|NOSCRIPT\b", "it has begun anew"),
        (r"max number of clients", "it takes no more connections"),
        (r"^NoMasterError", "the Sentinels know no master of this name"),
        (r"(?i)hostname mismatch|doesn't match|IP address mismatch", "its certificate is another host's"),
        (
            r"(?i)certificate verify failed",
            "its certificate is not trusted (a CA of your own is named in the URL: ?ssl_ca_certs=/path/to/ca.pem)",
        ),
        (r"(?i)no certificate or crl found|X509", "a file that the URL names is no certificate"),
        (r"(?i)certificate required|alert bad certificate", "it wants a certificate (ssl_certfile, ssl_keyfile)"),
        (r"(?i)alert unknown ca", "it does not trust the certificate of ssl_certfile"),
        (r"(?i)wrong version number|record layer failure", "it speaks no TLS (redis://, not rediss://)"),
        (r"^(?:FileNotFoundError|PermissionError)", "a file that the URL names is not there, or may not be opened"),
        (r"(?i)connect call failed|connection refused", "connection refused"),
        (r"^gaierror|(?i:name or service|name resolution)", "its name was not found"),
        (r"(?i)unreachable|no route to host", "its network cannot be reached"),
        (r"(?i)timeout|timed out", "no answer in time"),
        (
            r"(?i)reset by peer|closed|broken pipe|^IncompleteReadError",
            "it closed the connection (a server that wants TLS, or a certificate, does so)",
        ),
        (r"^SSL", "no TLS with it"),
    )
)
_MOVED = re.compile(r"MOVED \d+ (.*):(\d+)\s*")
_ELSEWHERE = re.compile(r"NoScriptError|ReadOnlyError|ResponseError: (?:MOVED|MASTERDOWN|CLUSTERDOWN)\b")


class ElsewhereError(Exception):
    """What was said has to be said to another server: `node`, or whichever is found anew."""

    def __init__(self, node: Host | None) -> None:
        super().__init__()
        self.node = node


class NoMasterError(Exception):
    """The Sentinels that answer know none of that name."""


def cause_of(error: BaseException) -> str:
    """In a few words; the error's type where it is not known."""
    for each in reversed([*_behind(error)]):  # the first of them names no host
        text = f"{type(each).__name__}: {each}"
        for pattern, words in _CAUSES:
            if pattern.search(text):
                return words
    return type(error).__name__


def elsewhere(error: Exception) -> ElsewhereError | None:
    """Whether an answer says that its server is not, or no longer, the one to be asked. It is none for good: the rest
    are refusals of one command."""
    if _ELSEWHERE.match(f"{type(error).__name__}: {error}") is None:
        return None
    moved = _MOVED.match(str(error))
    found = ElsewhereError(None if moved is None else (moved[1].strip("[]"), int(moved[2])))
    found.__cause__ = error
    return found


def _behind(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
