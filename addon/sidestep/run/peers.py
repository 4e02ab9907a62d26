"""Whose a connection on this machine is: the kernel knows the user of each of its sockets. Linux alone tells."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

Address = tuple[str, int]

_NETLINK_SOCK_DIAG = 4
_BY_FAMILY, _REQUEST, _ERROR = 20, 1, 2
_ALL_STATES = 0xFFFFFFFF
_HEAD = struct.Struct("=IHHII")
_ASKED = struct.Struct("=BBBxI")
_PORTS = struct.Struct("!HH")
_ANY = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
"""No interface in particular, and no cookie."""
_USER = struct.Struct("=II")
_USER_AT = 4 + 48 + 12
"""Of `struct inet_diag_msg`: what comes before the user and the inode (linux/inet_diag.h, sock_diag(7))."""
_LISTENS = 10
_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Owner:
    """Of a socket: its user, and the number by which /proc knows it."""

    uid: int
    inode: int


class Kernel:
    """What is asked whose a connection is. State: the socket to ask by, which is open from the start, so that who uses
    all others up learns nothing by it; the number of the last question."""

    def __init__(self) -> None:
        """OSError: it cannot be asked, or does not tell."""
        try:
            self._diag = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
        except AttributeError:
            raise OSError("no netlink here") from None
        self._diag.settimeout(_SECONDS)
        self._asked = 0
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.create_connection(listener.getsockname(), timeout=_SECONDS) as one,
        ):
            found = self.owner(one.getsockname(), one.getpeername())
        if found is None or found.uid != os.getuid():
            self.close()
            raise OSError("what it tells of one of our own connections is not so")

    def close(self) -> None:
        self._diag.close()

    def owner(self, peer: Address, own: Address) -> Owner | None:
        """Whose the other end of a connection is, of which both ends are on this machine. None: it has gone. OSError:
        the kernel did not tell.

        It looks one connection up, however many there are; /proc/net/tcp, which says the same, grows with them. A
        program that speaks IPv6 to an IPv4 address is found by the IPv4 address.
        """
        family = socket.AF_INET6 if ":" in peer[0] else socket.AF_INET
        ends = [socket.inet_pton(family, host).ljust(16, b"\0") for host, _ in (peer, own)]
        asked = _ASKED.pack(family, socket.IPPROTO_TCP, 0, _ALL_STATES)
        asked += _PORTS.pack(peer[1], own[1]) + b"".join(ends) + _ANY
        self._asked = (self._asked + 1) % (1 << 32)
        self._diag.send(_HEAD.pack(_HEAD.size + len(asked), _BY_FAMILY, _REQUEST, self._asked, 0) + asked)
        while True:
            told = self._diag.recv(8192)
            size, kind, _, number, _ = _HEAD.unpack_from(told)
            if number == self._asked:  # no late answer to an earlier question
                return _owner(kind, told[_HEAD.size : size])


def _owner(kind: int, told: bytes) -> Owner | None:
    if kind == _ERROR:
        number = -struct.unpack_from("=i", told)[0]
        if number == errno.ENOENT:
            return None
        raise OSError(number, os.strerror(number))
    uid, inode = _USER.unpack_from(told, _USER_AT)
    # What no program holds any more has no inode, and is said to be root's.
    return Owner(uid, inode) if inode and told[1] != _LISTENS else None


def descends(inode: int, ancestor: int) -> bool:
    """Whether a process that has this one as parent, or parent's parent, and so on, holds the socket. Processes of
    other users can be looked into by root alone."""
    parents = {int(pid): _parent(pid) for pid in os.listdir("/proc") if pid.isdigit()}
    wanted = f"socket:[{inode}]"
    return any(wanted in _held(pid) for pid in parents if ancestor in _line(pid, parents))


def _parent(pid: str) -> int:
    with suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
        # The name, in parentheses, may hold anything.
        return int(file.read().rpartition(b")")[2].split()[1])
    return 0


def _line(pid: int, parents: dict[int, int]) -> Iterator[int]:
    """A process's parent, its parent's, and so on. A number that is used anew meanwhile cannot make it endless."""
    for _ in parents:
        pid = parents.get(pid, 0)
        yield pid


def _held(pid: int) -> Iterator[str]:
    """What a process has open."""
    folder = f"/proc/{pid}/fd"
    with suppress(OSError):
        for number in os.listdir(folder):
            with suppress(OSError):
                yield os.readlink(f"{folder}/{number}")
