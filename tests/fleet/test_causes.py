"""What is wrong with a store, in words: what was said is looked at, and never quoted."""

from __future__ import annotations

import ssl

import pytest
from valkey import exceptions as said

from sidestep.fleet.causes import NoMasterError, cause_of, elsewhere

HOST = "timeout-closed.MOVED.test"
"""A host whose name has words of causes in it."""


def behind(first: Exception) -> Exception:
    """As the client tells of an error in connecting."""
    try:
        try:
            raise first
        except Exception:
            raise said.ConnectionError(f"Error 1 connecting to {HOST}:6379. {first}.")  # noqa: B904
    except said.ConnectionError as e:
        return e


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (said.AuthenticationError("Authentication required."), "it wants a password"),
        (said.AuthenticationError("invalid username-password pair or user is disabled."), "it refuses this user"),
        (said.ResponseError("ERR AUTH <password> called without any password configured"), "it wants no password"),
        (said.NoPermissionError("User CANARY has no permissions to run the 'evalsha' command"), "its user may not"),
        (said.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), "it has no memory left"),
        (said.ReadOnlyError("You can't write against a read only replica."), "it is a replica"),
        (said.ResponseError("MOVED 1234 CANARY:6379"), "another node of the Cluster"),
        (said.ResponseError("CLUSTERDOWN Hash slot not served"), "its Cluster is down"),
        (said.ResponseError("SELECT is not allowed in cluster mode"), "a Cluster has the database 0 alone"),
        (said.ResponseError("DB index is out of range"), "it has no database of this number"),
        (said.ResponseError("MISCONF Redis is configured to save RDB snapshots"), "it cannot save to its disk"),
        (said.BusyLoadingError("Redis is loading the dataset in memory"), "it is starting"),
        (said.ConnectionError("max number of clients reached"), "it takes no more connections"),
        (NoMasterError("CANARY"), "the Sentinels know no master of this name"),
        (behind(ssl.SSLError(1, "certificate verify failed: Hostname mismatch")), "its certificate is another host's"),
        (behind(ssl.SSLError(1, "certificate verify failed: self-signed")), "its certificate is not trusted (a CA of"),
        (ssl.SSLError(1, "[SSL] tlsv13 alert certificate required"), "it wants a certificate ("),
        (ssl.SSLError(1, "[SSL] tlsv1 alert unknown ca"), "it does not trust the certificate of ssl_certfile"),
        (ssl.SSLError(1, "[X509: NO_CERTIFICATE_OR_CRL_FOUND]"), "a file that the URL names is no certificate"),
        (behind(ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number")), "it speaks no TLS ("),
        (behind(ssl.SSLError(1, "something else")), "no TLS with it"),
        (behind(FileNotFoundError(2, "No such file")), "a file that the URL names is not there"),
        (behind(ConnectionRefusedError(111, "Connect call failed")), "connection refused"),
        (behind(OSError(-2, "Name or service not known")), "its name was not found"),
        (behind(OSError(113, "No route to host")), "its network cannot be reached"),
        (behind(TimeoutError()), "no answer in time"),
        (TimeoutError(), "no answer in time"),
        (behind(ConnectionResetError(104, "Connection reset by peer")), "it closed the connection ("),
        (said.ConnectionError("Connection closed by server."), "it closed the connection ("),
        (said.ResponseError("ERR CANARY \x1b]0;x\x07"), "ResponseError"),
        (KeyError("CANARY"), "KeyError"),
    ],
)
def test_a_cause_has_its_words(error: Exception, words: str) -> None:
    assert cause_of(error).startswith(words)
    assert "CANARY" not in cause_of(error)


@pytest.mark.parametrize(
    ("error", "node"),
    [
        (said.NoScriptError("No matching script."), None),
        (said.ReadOnlyError("You can't write"), None),
        (said.ResponseError("MOVED 12 10.0.0.1:7001"), ("10.0.0.1", 7001)),
        (said.ResponseError("MOVED 12 [::1]:7001"), ("::1", 7001)),
        (said.ResponseError("MOVED 12 :7001"), ("", 7001)),
        (said.ResponseError("CLUSTERDOWN Hash slot not served"), None),
        (said.ResponseError("MASTERDOWN Link with MASTER is down"), None),
    ],
)
def test_another_server_is_to_be_asked(error: Exception, node: tuple[str, int] | None) -> None:
    found = elsewhere(error)
    assert found is not None
    assert found.node == node
    assert cause_of(found) == cause_of(error) != "ElsewhereError"


@pytest.mark.parametrize(
    "error", [said.OutOfMemoryError("MOVED"), said.ResponseError("ERR MOVED 1 h:1"), said.NoPermissionError("x")]
)
def test_one_command_alone_is_refused(error: Exception) -> None:
    assert elsewhere(error) is None
