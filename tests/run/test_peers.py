"""Whose a connection is, by the kernel's word: asked of real sockets of this process."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from sidestep.run import peers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells")
LISTENER = ("127.0.0.1", 0)


@pytest.fixture(scope="module")
def kernel() -> Iterator[peers.Kernel]:
    try:
        made = peers.Kernel()
    except OSError as e:
        pytest.skip(f"this kernel does not tell: {e}")
    yield made
    made.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(LISTENER) as made:
        yield made


def connect(listener: socket.socket, family: int = socket.AF_INET) -> tuple[socket.socket, socket.socket]:
    client = socket.socket(family)
    host = "::ffff:127.0.0.1" if family == socket.AF_INET6 else "127.0.0.1"
    client.connect((host, listener.getsockname()[1]))
    return client, listener.accept()[0]


def owner(kernel: peers.Kernel, accepted: socket.socket) -> peers.Owner | None:
    return kernel.owner(accepted.getpeername(), accepted.getsockname())


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_the_user_of_a_program(kernel: peers.Kernel, listener: socket.socket, family: int) -> None:
    """Also of one that speaks IPv6 to an IPv4 address, and of one that has said its last word; not of one that left."""
    client, accepted = connect(listener, family)
    with accepted:
        with client:
            found = owner(kernel, accepted)
            assert found is not None
            assert (found.uid, found.inode) == (os.getuid(), os.fstat(client.fileno()).st_ino)
            client.shutdown(socket.SHUT_WR)
            assert owner(kernel, accepted) == found
        assert owner(kernel, accepted) is None


def test_a_listener_is_nobodys_other_end(kernel: peers.Kernel, listener: socket.socket) -> None:
    """Where the end has gone and another program listens at its port, that one is no answer."""
    assert kernel.owner(listener.getsockname(), ("127.0.0.1", 9)) is None


def test_a_late_answer_is_not_taken_for_another(kernel: peers.Kernel, listener: socket.socket) -> None:
    client, accepted = connect(listener)
    with client, accepted:
        gone = accepted.getpeername()[0], 9
        kernel._diag.send(_question(kernel, gone, accepted.getsockname()))
        found = owner(kernel, accepted)
    assert found is not None


def _question(kernel: peers.Kernel, peer: Any, own: Any) -> bytes:
    sent: list[bytes] = []

    class Diag:
        def send(self, data: bytes) -> None:
            sent.append(data)

        def recv(self, size: int) -> bytes:
            return struct.pack("=IHHIIi", 20, 2, 0, kernel._asked, 0, -2)

    real, kernel._diag = kernel._diag, Diag()  # type: ignore[assignment]
    try:
        assert kernel.owner(peer, own) is None
    finally:
        kernel._diag = real
    return sent[0]


def test_what_the_kernel_refuses_is_told(kernel: peers.Kernel) -> None:
    with pytest.raises(OSError, match="not permitted"):
        peers._owner(peers._ERROR, struct.pack("=i", -1))


HOLDS = """
import socket, subprocess, sys
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print("there", flush=True)
sys.stdin.read()
"""


def test_what_descends_from_a_process(kernel: peers.Kernel, listener: socket.socket) -> None:
    """Its child's child, by the socket that it holds; another process of the same parent does not."""
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLDS!r}, sys.argv[1]])"
    command = [sys.executable, "-c", program, str(listener.getsockname()[1])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        accepted = listener.accept()[0]
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"there\n"
        found = owner(kernel, accepted)
        assert found is not None
        assert peers.descends(found.inode, parent.pid)
        assert peers.descends(found.inode, os.getpid())
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
            assert not peers.descends(found.inode, other.pid)
            other.communicate(b"\n")
        assert not peers.descends(found.inode + (1 << 40), parent.pid)
        parent.communicate()
    accepted.close()
