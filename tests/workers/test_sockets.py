"""Sockets that a supervisor makes."""

from __future__ import annotations

import errno
import socket

import pytest

from sidestep.workers.sockets import bind


@pytest.mark.parametrize(("host", "families"), [("127.0.0.1", 1), ("", None), ("localhost", None)])
def test_all_addresses_of_a_host_have_one_port(host: str, families: int | None) -> None:
    found = bind(host, 0)
    try:
        ports = {listener.getsockname()[1] for listener in found}
        assert len(ports) == 1
        assert families is None or len(found) == families
        for listener in found:
            address = "::1" if listener.family == socket.AF_INET6 else "127.0.0.1"
            socket.create_connection((address, ports.copy().pop()), 5).close()
    finally:
        for listener in found:
            listener.close()


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use") as e:
        bind("127.0.0.1", taken.getsockname()[1])
    assert e.value.errno == errno.EADDRINUSE


def test_an_address_of_another_machine() -> None:
    with pytest.raises(OSError, match="assign") as e:
        bind("192.0.2.1", 0)
    assert e.value.errno == errno.EADDRNOTAVAIL
