"""The hosts of the real world on this machine: a script for mitmdump that finds them at local servers."""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme

SCRIPT = """
class Internet:
    places = {places}
    def server_connect(self, data):
        host = data.server.address[0]
        if host in self.places:
            data.server.address = ("127.0.0.1", self.places[host])
        elif host != "127.0.0.1":
            data.server.error = "no such host on this machine: " + host
addons = [Internet()]
"""


class Internet:
    """A certificate authority, and which local port answers for which host."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ca = trustme.CA()
        self.places: dict[str, int] = {}

    def tls(self, *hosts: str) -> ssl.SSLContext:
        """What a server needs to be these hosts."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(*hosts).configure_cert(context)
        return context

    def options(self, *more: trustme.CA) -> list[str]:
        """For mitmdump: trust and find all hosts in `places`. `more`: authorities to trust beside."""
        script, bundle = self._folder / "internet.py", self._folder / "internet-ca.pem"
        script.write_text(SCRIPT.format(places=self.places))
        bundle.write_bytes(b"".join(ca.cert_pem.bytes() for ca in (self._ca, *more)))
        return ["-s", str(script), "--set", f"ssl_verify_upstream_trusted_ca={bundle}"]
