"""Ways to a host through a proxy: CONNECT, SOCKS5, TLS inside either; sockets for `raw.Wire`."""

from __future__ import annotations

import base64
import socket
import ssl
import struct
from pathlib import Path

from support.proxy import Mitmdump

Address = tuple[str, int]


def listening(m: Mitmdump, mode: str) -> Address:
    """Where the server of a mode listens, by the words in which mitmproxy says so."""
    found = m.wait_for_log(rf"{mode} listening at \*?([\d.]*):(\d+)")
    return found[1] or "127.0.0.1", int(found[2])


def plain(address: Address) -> socket.socket:
    return socket.create_connection(address, timeout=15)


def connect(proxy: Address, target: Address, credentials: str | None = None) -> socket.socket:
    """A tunnel through an HTTP proxy. `credentials`: user:password."""
    sock = plain(proxy)
    name = f"{target[0]}:{target[1]}"
    auth = "" if credentials is None else f"Proxy-Authorization: {basic(credentials)}\r\n"
    sock.sendall(f"CONNECT {name} HTTP/1.1\r\nHost: {name}\r\n{auth}\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += _exactly(sock, 1)  # what follows belongs to the tunnel
    assert b" 200 " in answer.split(b"\r\n")[0] + b" ", answer
    return sock


def socks5(proxy: Address, target: Address, credentials: str | None = None) -> socket.socket:
    """A tunnel through a SOCKS5 proxy (RFC 1928, 1929); the name is resolved there."""
    sock = plain(proxy)
    method = 0 if credentials is None else 2
    sock.sendall(bytes([5, 1, method]))
    assert _exactly(sock, 2) == bytes([5, method])
    if credentials is not None:
        user, _, password = credentials.encode().partition(b":")
        sock.sendall(bytes([1, len(user)]) + user + bytes([len(password)]) + password)
        assert _exactly(sock, 2) == b"\x01\x00"
    name = target[0].encode()
    sock.sendall(b"\x05\x01\x00\x03" + bytes([len(name)]) + name + struct.pack("!H", target[1]))
    answer = _exactly(sock, 10)
    assert answer[:2] == b"\x05\x00", answer
    return sock


def tls(sock: socket.socket, ca: Path | None, name: str, *alpn: str, sni: bool = True) -> ssl.SSLSocket:
    """TLS as a client who trusts this CA alone; `ca` None: any certificate."""
    context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    if not sni or ca is None:
        context.check_hostname = False
    if ca is None:
        context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    try:
        return context.wrap_socket(sock, server_hostname=name if sni else None)
    except BaseException:
        sock.close()
        raise


def basic(credentials: str) -> str:
    return "Basic " + base64.b64encode(credentials.encode()).decode()


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise EOFError(data)
        data += more
    return data
