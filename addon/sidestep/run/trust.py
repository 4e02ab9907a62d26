"""The certificates that a child has to trust: mitmproxy's CA beside all that the child trusted before.

Certificates are DER bytes in here; files are written once, named by what they hold.
"""

from __future__ import annotations

import hashlib
import os
import re
import ssl
import stat
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import certifi
import platformdirs

from sidestep.config.trusting import users_folder

CA_FILE = "mitmproxy-ca-cert.pem"
DEFAULT_CONFDIR = Path("~/.mitmproxy")
JAVA_PASSWORD = "changeit"  # noqa: S105  # Java's own default; the store holds no secret
"""What opens the trust store for Java."""

BUNDLE_VARIABLES = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
    "DENO_CERT",
    "NIX_SSL_CERT_FILE",
    "PIP_CERT",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
)
"""Variables that name a PEM file of certificates, one kind of client each."""

# Where systems keep their roots, as Go's crypto/x509 looks for them: a Python that was built elsewhere does not know.
_SYSTEM_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")
_FOLDER_FILES = 1000
"""A folder named by SSL_CERT_DIR with more files is no folder of certificates."""


class TrustError(Exception):
    """There is no CA to trust, or nowhere to write."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Files to name to clients: the CA and all other roots, as PEM and as a PKCS12 trust store for Java, None where
    `cryptography` cannot write one (before 45; mitmproxy 12.1 wants an older one)."""

    bundle: Path
    java: Path | None


def folder_of(confdir: Path) -> Path:
    """The folder itself. TrustError: it is said to lie in a home, and there is none."""
    try:
        return confdir.expanduser().absolute()
    except RuntimeError:
        # For mitmproxy it would be a folder of that name in the one that one stands in.
        raise TrustError(f"there is no home for {confdir}; --confdir names another folder") from None


def ca_file(confdir: Path) -> Path:
    """Where mitmproxy keeps its CA's certificate. TrustError: nowhere."""
    return folder_of(confdir) / CA_FILE


def create_ca(confdir: Path) -> None:
    """Make mitmproxy's CA, as its first start would. TrustError: there is no place for it."""
    from mitmproxy.certs import CertStore
    from mitmproxy.options import CONF_BASENAME, KEY_SIZE

    check_place(confdir)
    CertStore.from_store(folder_of(confdir), CONF_BASENAME, KEY_SIZE)


def check_place(confdir: Path) -> None:
    """TrustError: mitmproxy has no CA there, and could not make one."""
    folder = folder_of(confdir)
    if ca_file(confdir).exists():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as e:
        raise TrustError(
            f"mitmproxy's CA cannot be kept in {folder}: {e.strerror}; --confdir names another folder"
        ) from None


def another_place() -> Path:
    """A folder for a CA that cannot be kept at home."""
    return _temporary() / "mitmproxy"


def text_of(path: Path) -> str:
    """The text of a file, empty where it cannot be read."""
    return _read(path).decode("utf-8", "replace")


def prepare(confdir: Path, env: Mapping[str, str]) -> Trust:
    """Make the files. TrustError: there is no CA yet."""
    ca = ca_file(confdir)
    own = certificates(_read(ca))
    if not own:
        raise TrustError(f"expected mitmproxy's CA in {ca}, found none")
    everything = (*own, *other_roots(env, own))
    name = _name_of(everything)
    return Trust(
        _keep(f"bundle-{name}.pem", lambda: to_pem(everything)),
        _keep(f"java-{name}.p12", lambda: java_store(everything)) if can_write_java_stores() else None,
    )


def upstream_roots(confdir: Path, env: Mapping[str, str]) -> Path | None:
    """A file of roots for the proxy's own way to the providers; None: mitmproxy's own, certifi's, are all there are."""
    roots = other_roots(env, certificates(_read(ca_file(confdir))))
    if set(roots) <= set(certificates(_read(Path(certifi.where())))):
        return None
    return _keep(f"roots-{_name_of(roots)}.pem", lambda: to_pem(roots))


def other_roots(env: Mapping[str, str], own: Iterable[bytes]) -> tuple[bytes, ...]:
    """The user's, the system's and certifi's roots without the `own` ones, each once."""
    found: dict[bytes, None] = {}
    for name in BUNDLE_VARIABLES:
        if path := env.get(name):
            found |= dict.fromkeys(_from_path(Path(path)))
    for folder in env.get("SSL_CERT_DIR", "").split(os.pathsep):
        if folder:
            found |= dict.fromkeys(_from_path(Path(folder)))
    found |= dict.fromkeys(_system_roots())
    found |= dict.fromkeys(certificates(_read(Path(certifi.where()))))
    return tuple(c for c in found if c not in frozenset(own))


def certificates(pem: bytes) -> tuple[bytes, ...]:
    """The certificates in a PEM text, without those that cannot be decoded."""
    found = []
    for block in _CERTIFICATE.findall(pem):
        try:
            found.append(ssl.PEM_cert_to_DER_cert(block.decode("ascii")))
        except ValueError:
            continue
    return tuple(found)


def to_pem(ders: Iterable[bytes]) -> bytes:
    return "".join(ssl.DER_cert_to_PEM_cert(der) for der in ders).encode("ascii")


def can_write_java_stores() -> bool:
    return _java_writer() is not None


def _java_writer() -> Callable[..., bytes] | None:
    from cryptography.hazmat.primitives.serialization import pkcs12

    return getattr(pkcs12, "serialize_java_truststore", None)


def java_store(ders: Iterable[bytes]) -> bytes:
    """A PKCS12 file whose certificates Java takes for trusted roots."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12

    entries = []
    with warnings.catch_warnings():
        # Some old roots break rules of today, and are there all the same.
        warnings.simplefilter("ignore")
        for der in ders:
            try:
                certificate = x509.load_der_x509_certificate(der)
            except ValueError:
                continue
            entries.append(pkcs12.PKCS12Certificate(certificate, hashlib.sha256(der).hexdigest()[:16].encode()))
        serialize = _java_writer()
        assert serialize is not None
        return serialize(entries, BestAvailableEncryption(JAVA_PASSWORD.encode()))


def _system_roots() -> tuple[bytes, ...]:
    # What the system's store gives in memory (Windows), then its files.
    found = list(ssl.create_default_context().get_ca_certs(binary_form=True))
    built_in = ssl.get_default_verify_paths().openssl_cafile
    for path in (built_in, *_SYSTEM_FILES):
        if ders := certificates(_read(Path(path))):
            found.extend(ders)
            break
    return tuple(found)


def _from_path(path: Path) -> tuple[bytes, ...]:
    """The certificates of a file, or of all files of a folder."""
    if not path.is_dir():
        return certificates(_read(path))
    try:
        files = sorted(path.iterdir())
    except OSError:
        return ()
    if len(files) > _FOLDER_FILES:
        return ()
    return tuple(der for file in files if file.is_file() for der in certificates(_read(file)))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _name_of(ders: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for der in ders:
        digest.update(hashlib.sha256(der).digest())
    return digest.hexdigest()[:16]


def _keep(name: str, content: Callable[[], bytes]) -> Path:
    """A file with this content, whose name says what it holds: in the user's cache, or where that cannot be written
    in a folder for temporary files."""
    data: bytes | None = None
    for place in (_cache, _temporary):
        if (folder := place()) is None:
            continue
        path = folder / name
        if path.is_file():
            return path
        data = content() if data is None else data
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
                file.write(data)
            os.replace(file.name, path)
        except OSError as e:
            problem = TrustError(f"{folder} cannot be written: {e.strerror}")
        else:
            return path
    raise problem


def _cache() -> Path | None:
    folder = users_folder(platformdirs.user_cache_path)
    return None if folder is None else folder / "trust"


def _temporary() -> Path:
    """A folder for temporary files that is the user's alone, the same each time if it can be: nothing piles up."""
    if not hasattr(os, "getuid"):
        return Path(tempfile.gettempdir()) / "sidestep"
    folder = Path(tempfile.gettempdir()) / f"sidestep-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
            return folder
        # Somebody else was there first.
        return Path(tempfile.mkdtemp(prefix="sidestep-"))
    except OSError:
        return folder
