"""A WireGuard client in user space: one tunnel to one peer, enough for a test (whitepaper, section 5).

Needs no kernel module, only a TUN device. No rekeying, no cookies, no roaming.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import hmac
import os
import select
import socket
import struct
import threading
import time
from typing import Self

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from support.namespaces import Networks, ip, skipping
from support.ways import Address

ADDRESS = "10.0.0.1"
"""The client's address within the tunnel; mitmproxy's configuration gives it this one."""
_TUNSETIFF, _TUN, _NO_PACKET_INFO = 0x400454CA, 0x1, 0x1000


def open_tun(networks: Networks, address: str = ADDRESS) -> int:
    """A TUN device that all of the client's traffic goes to."""
    with networks.as_client():
        with skipping("a TUN device"):
            tun = os.open("/dev/net/tun", os.O_RDWR)
            fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", b"wg0", _TUN | _NO_PACKET_INFO))
        ip(f"addr add {address}/32 dev wg0")
        ip("link set wg0 mtu 1420 up")
        ip("route add default dev wg0")
    return tun


class WireGuard:
    """Use as a context manager: carries packets between a TUN device and the peer, on a thread."""

    def __init__(self, tun: int, peer: Address, client_key: str, server_key: str, source: str = ADDRESS) -> None:
        """The server's private key, as it stands in mitmproxy's file: its public one is derived. `source`: the address
        that the client gives itself."""
        self._tun = tun
        self._source = source
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.connect(peer)
        self._udp.settimeout(10)
        self._static = X25519PrivateKey.from_private_bytes(base64.b64decode(client_key))
        self._peer = X25519PrivateKey.from_private_bytes(base64.b64decode(server_key)).public_key()
        self._wake, self._stop = os.pipe()
        self._sent = 0
        self._thread = threading.Thread(target=self._carry, daemon=True)

    def __enter__(self) -> Self:
        self._shake()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._stop)
        self._thread.join(5)
        os.close(self._wake)
        os.close(self._tun)
        self._udp.close()

    def _shake(self) -> None:
        """Noise_IKpsk2: one message there, one back, and the two keys."""
        chain = _hash(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s")
        digest = _hash(_hash(chain, b"WireGuard v1 zx2c4 Jason@zx2c4.com"), _raw(self._peer))
        ephemeral = X25519PrivateKey.generate()
        mine = _raw(ephemeral.public_key())
        (chain,) = _derive(chain, mine, 1)
        digest = _hash(digest, mine)
        chain, key = _derive(chain, ephemeral.exchange(self._peer), 2)
        static = _seal(key, 0, _raw(self._static.public_key()), digest)
        digest = _hash(digest, static)
        chain, key = _derive(chain, self._static.exchange(self._peer), 2)
        now = time.time_ns()
        stamp = _seal(key, 0, struct.pack("!QI", (1 << 62) + 10 + now // 10**9, now % 10**9), digest)
        digest = _hash(digest, stamp)
        message = struct.pack("<II", 1, 1) + mine + static + stamp
        mac = hashlib.blake2s(message, key=_hash(b"mac1----", _raw(self._peer)), digest_size=16).digest()
        self._udp.send(message + mac + bytes(16))

        answer = self._udp.recv(2048)
        kind, self._theirs, receiver = struct.unpack_from("<III", answer)
        assert (kind, receiver, len(answer)) == (2, 1, 92), answer
        their = answer[12:44]
        (chain,) = _derive(chain, their, 1)
        digest = _hash(digest, their)
        for own in (ephemeral, self._static):
            (chain,) = _derive(chain, own.exchange(X25519PublicKey.from_public_bytes(their)), 1)
        chain, temporary, key = _derive(chain, bytes(32), 3)
        digest = _hash(digest, temporary)
        assert ChaCha20Poly1305(key).decrypt(bytes(12), answer[44:60], digest) == b""
        send, receive = _derive(chain, b"", 2)
        self._sending, self._receiving = ChaCha20Poly1305(send), ChaCha20Poly1305(receive)

    def _carry(self) -> None:
        with contextlib.suppress(ConnectionRefusedError):  # the proxy ended before its client
            self._carry_packets()

    def _carry_packets(self) -> None:
        while True:
            sources: list[int | socket.socket] = [self._tun, self._udp, self._wake]
            ready, _, _ = select.select(sources, [], [])
            if self._wake in ready:
                return
            if self._tun in ready:
                packet = self._readdressed(os.read(self._tun, 65536), 12, self._source)
                padded = packet + bytes(-len(packet) % 16)
                sealed = self._sending.encrypt(_nonce(self._sent), padded, b"")
                self._udp.send(struct.pack("<IIQ", 4, self._theirs, self._sent) + sealed)
                self._sent += 1
            if self._udp in ready:
                self._received(self._udp.recv(65536))

    def _received(self, data: bytes) -> None:
        kind, receiver, counter = struct.unpack_from("<IIQ", data)
        if (kind, receiver) != (4, 1):
            return
        packet = self._receiving.decrypt(_nonce(counter), data[16:], b"")
        if packet and packet[0] >> 4 == 4:  # an empty one keeps the tunnel alive
            os.write(self._tun, self._readdressed(packet[: struct.unpack_from("!H", packet, 2)[0]], 16, ADDRESS))

    def _readdressed(self, packet: bytes, at: int, address: str) -> bytes:
        """A packet of TCP over IPv4 with another source (at 12) or destination (at 16)."""
        if self._source == ADDRESS or packet[0] >> 4 != 4 or packet[9] != socket.IPPROTO_TCP:
            return packet
        size = 4 * (packet[0] & 15)
        head, segment = bytearray(packet[:size]), bytearray(packet[size:])
        head[at : at + 4] = socket.inet_aton(address)
        head[10:12] = segment[16:18] = b"\0\0"
        head[10:12] = _checksum(bytes(head))
        segment[16:18] = _checksum(bytes(head[12:20]) + struct.pack("!HH", 6, len(segment)) + bytes(segment))
        return bytes(head + segment)


def _checksum(data: bytes) -> bytes:
    """The Internet's (RFC 1071)."""
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def _hash(*parts: bytes) -> bytes:
    return hashlib.blake2s(b"".join(parts)).digest()


def _derive(key: bytes, data: bytes, count: int) -> list[bytes]:
    """HKDF with BLAKE2s."""
    secret = hmac.digest(key, data, "blake2s")
    found = [b""]
    for i in range(1, count + 1):
        found.append(hmac.digest(secret, found[-1] + bytes([i]), "blake2s"))
    return found[1:]


def _nonce(counter: int) -> bytes:
    return struct.pack("<IQ", 0, counter)


def _seal(key: bytes, counter: int, data: bytes, beside: bytes) -> bytes:
    return ChaCha20Poly1305(key).encrypt(_nonce(counter), data, beside)


def _raw(key: X25519PublicKey) -> bytes:
    return key.public_bytes_raw()
