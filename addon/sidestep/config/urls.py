"""Base URLs: parsed once, compared and joined as whole path segments.

Pure: no mitmproxy, no I/O, no name look-ups. What a path means is a dialect's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

DEFAULT_PORTS = {"http": 80, "https": 443}
_PLAIN = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


@dataclass(frozen=True, slots=True)
class BaseURL:
    """What one gives an official SDK as base URL. `host` is in lower case, an IPv6 one without its brackets;
    `path` has no slash at its end; the root is empty."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, text: str) -> BaseURL:
        """ValueError: what was expected and what was found. It quotes no password and no query: they may be keys."""
        found = text.partition("?")[0].partition("#")[0]
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
        if found != text:
            raise ValueError(f"expected a URL without query and fragment, found one after {found!r}")
        if port == 0:
            raise ValueError(f"expected a port from 1 to 65535, found {found!r}")
        return cls(parts.scheme, parts.hostname.lower(), port or DEFAULT_PORTS[parts.scheme], parts.path.rstrip("/"))

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

    def join(self, tail: str) -> str:
        """The path of this base with a tail."""
        return self.path + tail


def _bare(host: str) -> str:
    return host.lower().removeprefix("[").removesuffix("]")
