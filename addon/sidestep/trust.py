"""What programs have to trust to be intercepted: mitmproxy's certificate authority, beside all they trusted before.

Files only; no process, no mitmproxy master. All of it is public: the authority's key stays where mitmproxy has it.
"""

from __future__ import annotations

import os
import re
import ssl
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

import certifi
import platformdirs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12
from mitmproxy.certs import CertStore
from mitmproxy.options import CONF_BASENAME, CONF_DIR, KEY_SIZE

BUNDLE_VARIABLES = (
    *("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "AWS_CA_BUNDLE", "PIP_CERT"),
    *("GIT_SSL_CAINFO", "CARGO_HTTP_CAINFO", "NIX_SSL_CERT_FILE", "DENO_CERT", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"),
)
"""Where programs look for the certificates that they trust: Python, curl, Node, the AWS SDKs, pip, git, Cargo, Nix,
Deno, gRPC. Go and Rust's native roots follow SSL_CERT_FILE."""
JAVA_PASSWORD = "changeit"  # noqa: S105  # Java's own default, for a store that holds nothing secret
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def authority(confdir: Path | None = None) -> Path:
    """The certificate of mitmproxy's authority, made together with its key if there is none yet."""
    folder = Path(CONF_DIR if confdir is None else confdir).expanduser()
    CertStore.from_store(folder, CONF_BASENAME, KEY_SIZE)
    return folder / f"{CONF_BASENAME}-ca-cert.pem"


def cache() -> Path:
    """The folder for what can be made again."""
    folder = Path(platformdirs.user_cache_dir("sidestep"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def bundle(ca: Path, env: Mapping[str, str]) -> Path:
    """A file with the authority, the roots of the system and of certifi, and whatever the environment adds to them."""
    named = [env[name] for name in BUNDLE_VARIABLES if env.get(name)]
    out = cache() / f"ca-bundle-{ca.stat().st_mtime_ns:x}.pem"
    system = ssl.get_default_verify_paths().cafile
    paths = [ca, *map(Path, [certifi.where(), *([system] if system else []), *named])]
    found: dict[bytes, None] = {}
    for path in paths:
        if path != out and path.is_file():
            found.update(dict.fromkeys(_CERTIFICATE.findall(path.read_bytes())))
    _write(out, b"\n".join(found) + b"\n")
    return out


def java_store(bundle: Path) -> Path | None:
    """The same certificates as Java reads them; None where `cryptography` (before 45) cannot write such a store."""
    serialize = getattr(pkcs12, "serialize_java_truststore", None)
    if serialize is None:
        return None
    out = bundle.with_suffix(".p12")
    if out.is_file() and out.stat().st_mtime_ns >= bundle.stat().st_mtime_ns:
        return out
    certificates = []
    for number, pem in enumerate(_CERTIFICATE.findall(bundle.read_bytes())):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of roots with odd serial numbers, of which there are a few
                certificate = x509.load_pem_x509_certificate(pem)
        except ValueError:
            continue  # one that is in nobody's format any more is trusted by nobody
        certificates.append(pkcs12.PKCS12Certificate(certificate, str(number).encode()))
    _write(out, serialize(certificates, BestAvailableEncryption(JAVA_PASSWORD.encode())))
    return out


def _write(path: Path, data: bytes) -> None:
    """In one step, for others may be reading; not at all if it is there already."""
    if path.is_file() and path.read_bytes() == data:
        return
    handle, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    Path(name).replace(path)
