"""Makes mitmproxy's messages cheaper: each checks the types of its fields by way of `typing`, every time it is made.

With two messages a call that takes about as long as reading the request does. Fields of exactly the types that are
named are let through at once here; for all others mitmproxy's own check decides.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from functools import lru_cache

from mitmproxy.http import MessageData

Check = Callable[[MessageData], None]


class QuickCheck:
    """In place of the check of a message's fields. State: mitmproxy's own check, while this one is in its place."""

    def __init__(self) -> None:
        self._own: Check | None = None

    def install(self) -> None:
        """Until `remove`. Without a check (`python -O`), or with one that is not mitmproxy's, all is left alone."""
        own = vars(MessageData).get("__post_init__")
        if own is None or own.__module__ != MessageData.__module__:
            return
        self._own = own

        def check(data: MessageData) -> None:
            values = vars(data)
            for name, types in _types(type(data)):
                if type(values[name]) not in types:
                    own(data)
                    return

        MessageData.__post_init__ = check  # type: ignore[method-assign]

    def remove(self) -> None:
        if self._own is not None:
            MessageData.__post_init__ = self._own  # type: ignore[method-assign]
            self._own = None


@lru_cache(maxsize=16)
def _types(kind: type[MessageData]) -> tuple[tuple[str, tuple[object, ...]], ...]:
    """The types of each field of a kind of message."""
    hints = typing.get_type_hints(kind)
    return tuple((name, typing.get_args(hint) or (hint,)) for name, hint in hints.items())
