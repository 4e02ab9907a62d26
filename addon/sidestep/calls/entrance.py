"""Calls that web pages make, in one way or another: they pass as without Sidestep, and our own pages are not for them.

What a page looks like is told in `clients`; here is what is done about it, and said.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from weakref import WeakKeyDictionary

from mitmproxy import http

from sidestep.calls import replies
from sidestep.calls.clients import is_own_name, is_page
from sidestep.calls.flows import Original, authority_of

logger = logging.getLogger(__name__)

SAID = 20
"""Different things that are said of calls that pass."""
_PLAIN_NAME = re.compile(rb"[A-Za-z0-9.-]{1,100}(?=:\d+\Z|\Z)")


class Entrance:
    """State: by what name the server of a reverse mode was called, as long as the request is there; what was said."""

    def __init__(self) -> None:
        self._called: WeakKeyDictionary[http.Request, bytes] = WeakKeyDictionary()
        self._said: set[str] = set()

    def called(self, request: http.Request) -> None:
        """A request has come in reverse mode: mitmproxy is about to put its target's name in place of the one by which
        the app has called."""
        authority = authority_of(request)
        if authority is not None:
            self._called[request] = authority

    def is_page(self, request: http.Request, original: Original, names: Iterable[str]) -> bool:
        """Whether a web page has made this call. `names`: see `is_own_name`."""
        called = self._called.get(request)
        if called is not None and not is_own_name(called, {*names, request.host.lower()}):
            name = _PLAIN_NAME.match(called)
            self._say(
                f"a call by the name {name[0].decode() if name else '?'} passes without a key of ours: a page of the "
                "web may reach this port by such a name. If it is this proxy's, add it to hosts in the [proxy] table"
            )
            return True
        if is_page(original.origin, original.fetch_site, called or authority_of(request) or b""):
            self._say("a call that a web page has made passes without a key of ours")
            return True
        return False

    def refuse_page(self, request: http.Request, names: Iterable[str]) -> http.Response | None:
        """Our own pages are shown to the user: no other page reads them, or their status."""
        called = self._called.get(request)
        if called is not None and not is_own_name(called, {*names, replies.INTERNAL_HOST}):
            return replies.forbidden("this name is none of the proxy's: see hosts in sidestep's [proxy] table")
        told = {name.lower(): value for name, value in request.data.headers.fields}
        if (told.get(b"sec-fetch-mode"), told.get(b"sec-fetch-dest")) == (b"navigate", b"document"):
            told.pop(b"sec-fetch-site", None)  # a link that was followed: the user reads it
        if is_page(told.get(b"origin"), told.get(b"sec-fetch-site"), called or authority_of(request) or b""):
            return replies.forbidden("other pages of the web may not read this one")
        return None

    def _say(self, text: str) -> None:
        """Once."""
        if text not in self._said and len(self._said) < SAID:
            self._said.add(text)
            logger.warning(f"sidestep: {text}")
