"""A proxy that runs, asked from a shell: how it is, what happens, and to hold a provider by hand."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

from sidestep import runtime
from sidestep.runtime import Running

ASK_SECONDS = 5.0
SILENT_SECONDS = 30.0
"""A stream of events has a sign of life in less."""
PICTURE_BYTES = 16 << 20
TOKEN_FIELD = "x-sidestep-token"  # noqa: S105  # a name


class AskError(Exception):
    """Why there is no answer, in words."""


def find(url: str | None) -> Running:
    """The proxy that is meant: the one at this address, or the only one of this user's that answers."""
    known = runtime.running()
    if url is not None:
        url = url.rstrip("/") if "://" in url else f"http://{url}".rstrip("/")
        if urlsplit(url).scheme != "http" or not urlsplit(url).hostname:
            raise AskError(f"expected the address of a proxy, as http://127.0.0.1:8080, found {url}")
        return next((r for r in known if r.url == url), Running(0, url, ""))
    answering = [r for r in known if _answers(r)]
    if not answering:
        raise AskError(
            "no proxy of yours with Sidestep runs here. Start one (sidestep dump, sidestep web, sidestep run), or name "
            "one that runs elsewhere or as another user: --url http://HOST:PORT"
        )
    if len(answering) > 1:
        listed = "\n".join(f"  --url {r.url}   ({r.source}, process {r.pid})" for r in answering)
        raise AskError(f"{len(answering)} proxies run; say which:\n{listed}")
    return answering[0]


def _answers(proxy: Running) -> bool:
    try:
        picture(proxy)
    except AskError:
        return False
    return True


def _open(proxy: Running, method: str, path: str, timeout: float) -> tuple[http.client.HTTPConnection, Any]:
    parts = urlsplit(proxy.url)
    try:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=timeout)
        connection.request(method, path, headers={TOKEN_FIELD: proxy.token} if proxy.token else {})
        return connection, connection.getresponse()
    except (OSError, http.client.HTTPException, ValueError) as e:
        why = getattr(e, "strerror", None) or "no HTTP proxy" if not isinstance(e, TimeoutError) else "it says nothing"
        raise AskError(f"{proxy.url} does not answer: {why}") from None


def _ask(proxy: Running, method: str, path: str) -> str:
    connection, answer = _open(proxy, method, path, ASK_SECONDS)
    with contextlib.closing(connection):
        try:
            text: str = answer.read(PICTURE_BYTES).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            raise AskError(f"{proxy.url} broke off its answer") from None
    if answer.status != 200:
        raise AskError(_plain(text.strip()[:500]) if answer.status < 500 else f"{proxy.url} is no proxy with Sidestep")
    return text


def picture(proxy: Running) -> dict[str, Any]:
    """All that there is to see now."""
    return picture_in(_ask(proxy, "GET", "/state"), proxy.url)


def picture_in(text: str | bytes, url: str) -> dict[str, Any]:
    """A picture in JSON, as it can be put on a terminal. AskError: it is none; whatever listens there has said so."""
    try:
        found = json.loads(text)
        shown = _plain(found)
    except (ValueError, RecursionError):
        shown = None
    if not isinstance(shown, dict) or "routes" not in shown:
        raise AskError(f"{url} is no proxy with Sidestep")
    return shown


def _plain(told: Any) -> Any:
    """The same without control characters: the other end need not be what it is taken for."""
    if isinstance(told, str):
        return told if told.isprintable() else "".join(c if c.isprintable() else "?" for c in told)
    if isinstance(told, dict):
        return {_plain(key): _plain(value) for key, value in told.items()}
    return [_plain(each) for each in told] if isinstance(told, list) else told


def pictures(proxy: Running) -> Iterator[dict[str, Any]]:
    """The same as it changes, until the proxy is gone (AskError)."""
    connection, answer = _open(proxy, "GET", "/stream", SILENT_SECONDS)
    with contextlib.closing(connection):
        if answer.status != 200:
            raise AskError(f"{proxy.url} is no proxy with Sidestep")
        try:
            while line := answer.readline(PICTURE_BYTES):
                if line.startswith(b"data: "):
                    yield picture_in(line[6:], proxy.url)
        except (OSError, http.client.HTTPException):
            pass
    raise AskError(f"the proxy at {proxy.url} is gone")


def lasting(proxy: Running, again: float) -> Iterator[dict[str, Any] | str]:
    """The same for ever: while the proxy is gone, that in words, once; it is looked for every `again` seconds."""
    gone = False
    while True:
        try:
            for found in pictures(proxy):
                gone = False
                yield found
        except AskError as e:
            if not gone:
                gone = True
                yield f"{e}; it is waited for (Ctrl-C ends that)"
            time.sleep(again)
            if proxy.pid:
                # Started anew it has another token, and perhaps another port.
                proxy = next((r for r in reversed(runtime.running()) if r.source == proxy.source), proxy)


def hold(proxy: Running, how: str, name: str) -> str:
    """At how many workers, in words; empty where there is one process."""
    return _control(proxy, f"/circuit/{how}/{quote(name, safe='')}")


def set_mode(proxy: Running, mode: str) -> str:
    """As above."""
    return _control(proxy, f"/mode/{mode}")


def _control(proxy: Running, path: str) -> str:
    if not proxy.token:
        raise AskError(
            "the token of that proxy is not known here: it is in its log, after the # of the line 'what happens is "
            "shown at'; give it with --token or in SIDESTEP_TOKEN"
        )
    return _ask(proxy, "POST", path).strip().removeprefix("done").strip()
