"""Base URLs: parsed once, compared and joined as whole path segments.

Pure: no mitmproxy, no I/O, no name look-ups. What a path means is a dialect's business.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import quote, unquote_plus, urlsplit

DEFAULT_PORTS = {"http": 80, "https": 443}
CREDENTIAL_PARAMETERS = frozenset({"key", "api-key", "apikey", "code", "sig", "auth", "jwt", "password"})
"""Query parameters that bear a credential; Gemini's is `key`, Azure's functions take `code`, its storage `sig`."""
CREDENTIAL_ENDINGS = ("-key", "token", "secret", "signature", "password")
"""So do those whose names end like this, a `_` for the `-` as well: `subscription-key`, `access_token`."""
_PLAIN = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


@dataclass(frozen=True, slots=True)
class BaseURL:
    """What one gives an official SDK as base URL. `host` is in lower case, an IPv6 one without its brackets, an
    international one in its own letters, as mitmproxy has it; `path` has no slash at its end, and is escaped as it is
    sent; the root is empty. `query`, without its `?`, goes with every call that is sent there
    (Azure's `api-version`); it bears no credential, and is not shown."""

    scheme: str
    host: str
    port: int
    path: str
    query: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str) -> BaseURL:
        """ValueError: what was expected and what was found. It quotes no password and no query: they may be keys."""
        found = text.partition("?")[0].partition("#")[0]
        query = text[len(found) + 1 :]
        if "@" in found:
            raise ValueError("expected a URL without a user name or password, found one with '@' in it")
        if not text.isprintable() or any(c.isspace() or c == "\\" for c in text):
            raise ValueError(f"expected a URL without spaces and backslashes, found {found!r}")
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as e:
            reason = str(e) if found == text else "it cannot be read"
            raise ValueError(f"expected an http or https URL, found {found!r}: {reason}") from None
        if parts.scheme not in DEFAULT_PORTS or "://" not in text:
            raise ValueError(f"expected a URL that begins with http:// or https://, found {found!r}")
        if not parts.hostname:
            raise ValueError(f"expected a URL with a host name, found {found!r}")
        if "*" in parts.hostname or parts.netloc.lower() in ("http:", "https:"):
            raise ValueError(f"expected a URL with the name of one host, found {found!r}")
        if "#" in text:
            raise ValueError(f"expected a URL without a fragment, found one after {found!r}")
        if any(is_credential(part) for part in query.split("&")):
            raise ValueError(f"expected a URL without a key in its query, found one after {found!r}")
        if port == 0:
            raise ValueError(f"expected a port from 1 to 65535, found {found!r}")
        port = port or DEFAULT_PORTS[parts.scheme]
        host = canonical(parts.hostname)
        try:
            host.encode("ascii" if host.isascii() else "idna")
        except UnicodeError:
            raise ValueError(f"expected a URL with a host name, found {found!r}") from None
        path = parts.path if parts.path.isascii() else quote(parts.path, safe="/%:@!$&'()*+,;=~")
        return cls(parts.scheme, host, port, path.rstrip("/"), query)

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port."""
        return self.scheme, self.host, self.port

    @property
    def authority(self) -> str:
        """Host, and port where it is not the scheme's own, as in a Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"

    def tail_of(self, scheme: str, host: str, port: int, path: str) -> str | None:
        """The rest of a path that lies under this base, from its slash on; None if the URL does not.

        `path` has no query. ws and wss count as http and https. The base itself has no tail: no call goes there.
        """
        if port != self.port or _bare(host) != self.host or _PLAIN.get(scheme) != self.scheme:
            return None
        if not path.startswith(self.path):
            return None
        tail = path[len(self.path) :]
        return tail if tail.startswith("/") else None

    @property
    def place(self) -> BaseURL:
        """The same without its query: calls are told apart by origin and path alone."""
        return BaseURL(self.scheme, self.host, self.port, self.path) if self.query else self

    def join(self, tail: str) -> str:
        """The path of this base with a tail."""
        return self.path + tail

    def merged(self, query: str) -> str:
        """The query of a call that goes here: with this base's own, which counts where both name the same."""
        if not self.query:
            return query
        own = {parameter_of(part) for part in self.query.split("&")}
        return "&".join([self.query, *(part for part in query.split("&") if part and parameter_of(part) not in own)])


def canonical(host: str) -> str:
    """A host name in lower case, an international one in its own letters; as it is where it is none."""
    host = host.lower()
    if "xn--" not in host and host.isascii():
        return host
    try:
        return host.encode("idna").decode("idna")
    except UnicodeError:
        return host


def is_credential(part: str) -> bool:
    """Whether a parameter of a query, with its value, bears a credential."""
    name = parameter_of(part).lower().replace("_", "-")
    return name in CREDENTIAL_PARAMETERS or name.endswith(CREDENTIAL_ENDINGS)


def parameter_of(part: str) -> str:
    """The name of a parameter of a query, as a server reads it."""
    return unquote_plus(part.partition("=")[0])


def _bare(host: str) -> str:
    return canonical(host).removeprefix("[").removesuffix("]")
