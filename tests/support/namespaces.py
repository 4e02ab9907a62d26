"""Networks of a test's own: a namespace for the proxy, one for its clients, and what leads the one into the other.

Needs root on Linux and the `ip` tool; where the machine refuses, the test skips with what it said. The calling thread,
and whatever it starts, is in the proxy's namespace meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator

import pytest

CLIENT = "192.0.2.2"
GATEWAY = "192.0.2.1"
SERVER = "203.0.113.1"
"""An address of the proxy's namespace that clients reach only by way of the proxy."""


_REFUSALS = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.ENOENT}
"""What a kernel says that lacks something or does not let us; anything else is a mistake of ours and fails the test."""
_REFUSED = ("Operation not permitted", "Permission denied", "Unknown device type", "Operation not supported")


@contextlib.contextmanager
def skipping(what: str) -> Iterator[None]:
    """Skip the test where the machine refuses this."""
    try:
        yield
    except OSError as e:
        if e.errno in _REFUSALS:
            pytest.skip(f"{what}: {e.strerror}")
        raise


class Networks:
    """State: the two namespaces, as open files."""

    def __init__(self, proxy: int, client: int) -> None:
        self.proxy = proxy
        self.client = client

    @contextlib.contextmanager
    def as_client(self) -> Iterator[None]:
        """Sockets made here are the client's; they stay so afterwards."""
        os.setns(self.client, os.CLONE_NEWNET)
        try:
            yield
        finally:
            os.setns(self.proxy, os.CLONE_NEWNET)

    def path(self, namespace: int) -> str:
        """A name by which the `ip` tool finds a namespace."""
        return f"/proc/{os.getpid()}/fd/{namespace}"

    def join_by_cable(self) -> None:
        """A link from the client to the proxy's namespace, which is its gateway to everything."""
        ip(f"link add p0 type veth peer name c0 netns {self.path(self.client)}")
        ip(f"addr add {GATEWAY}/30 dev p0")
        ip("link set p0 up")
        with self.as_client():
            ip(f"addr add {CLIENT}/30 dev c0")
            ip("link set c0 up")
            ip(f"route add default via {GATEWAY}")


@contextlib.contextmanager
def networks() -> Iterator[Networks]:
    """Two namespaces with a loopback interface each."""
    if not hasattr(os, "unshare"):
        pytest.skip("this system has no network namespaces")
    if shutil.which("ip") is None:
        pytest.skip("there is no ip tool")
    outside = _current()
    opened = [outside]
    try:
        for _ in range(2):
            with skipping("a network namespace"):
                os.unshare(os.CLONE_NEWNET)
            opened.append(_current())
            ip("link set lo up")
        _, proxy, client = opened
        os.setns(proxy, os.CLONE_NEWNET)
        ip(f"addr add {SERVER}/32 dev lo")
        yield Networks(proxy, client)
    finally:
        if len(opened) > 1:
            os.setns(outside, os.CLONE_NEWNET)
        for fd in opened:
            os.close(fd)


def ip(arguments: str) -> None:
    ran = subprocess.run(["ip", *arguments.split()], capture_output=True, text=True)
    if ran.returncode and any(words in ran.stderr for words in _REFUSED):
        pytest.skip(f"ip {arguments}: {ran.stderr.strip()}")
    assert ran.returncode == 0, (arguments, ran.stderr)


def _current() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY)


# --- nftables over netlink: its tool is seldom installed, the kernel's part nearly always

_NEWTABLE, _NEWCHAIN, _NEWRULE = 0xA00, 0xA03, 0xA06
_NETFILTER, _ERROR = 12, 2
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_REQUEST, _ACK, _CREATE, _APPEND = 0x1, 0x4, 0x400, 0x800
_META_L4PROTO = 16
_PROTO_SPECIFIED = 2


def redirect_all_tcp(port: int) -> None:
    """What comes in by TCP goes to this port of ours, as `nft … redirect to :port` has it."""
    table, chain = _text(1, "sidestep"), "in"
    hook = _nest(4, _number(1, 0), _number(2, -100))  # prerouting, where destinations are changed
    rule = _nest(
        4,
        _expression("meta", _number(1, 1), _number(2, _META_L4PROTO)),
        _expression("cmp", _number(1, 1), _number(2, 0), _nest(3, _attribute(1, bytes([socket.IPPROTO_TCP])))),
        _expression("immediate", _number(1, 1), _nest(2, _attribute(1, struct.pack("!H", port)))),
        _expression("redir", _number(1, 1), _number(2, 1), _number(3, _PROTO_SPECIFIED)),
    )
    messages = [
        _message(_BATCH_BEGIN, _REQUEST, b"", batch=True),
        _message(_NEWTABLE, _REQUEST | _CREATE | _ACK, table),
        _message(_NEWCHAIN, _REQUEST | _CREATE | _ACK, table + _text(3, chain) + hook + _text(7, "nat")),
        _message(_NEWRULE, _REQUEST | _CREATE | _APPEND | _ACK, table + _text(2, chain) + rule),
        _message(_BATCH_END, _REQUEST, b"", batch=True),
    ]
    with skipping("an nftables redirect"), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER) as netlink:
        netlink.settimeout(5)
        netlink.send(b"".join(messages))
        for _ in range(3):
            answer = netlink.recv(65536)
            (kind,), (code,) = struct.unpack_from("=H", answer, 4), struct.unpack_from("=i", answer, 16)
            if kind == _ERROR and code:
                raise OSError(-code, os.strerror(-code))


def _message(kind: int, flags: int, attributes: bytes, *, batch: bool = False) -> bytes:
    family, subsystem = (0, 10) if batch else (socket.AF_INET, 0)
    payload = struct.pack("!BBH", family, 0, subsystem) + attributes
    return struct.pack("=IHHII", 16 + len(payload), kind, flags, 1, 0) + payload


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("!i", value))


def _nest(kind: int, *attributes: bytes) -> bytes:
    return _attribute(kind | 0x8000, b"".join(attributes))


def _expression(name: str, *data: bytes) -> bytes:
    return _nest(1, _text(1, name), _nest(2, *data))
