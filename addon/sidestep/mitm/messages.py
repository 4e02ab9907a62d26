"""Makes mitmproxy's messages and options cheaper.

Each message checks the types of its fields by way of `typing`, every time it is made: with two messages a call that
takes about as long as reading the request does. Fields of exactly the types that are named are let through at once
here; for all others mitmproxy's own check decides.

And header fields are looked up some twenty times a call, each time through six functions: here it is one. As often an
option is read, and copied twice, with all that it may hold: what holds nothing is given out as it is.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from mitmproxy.http import Headers, MessageData
from mitmproxy.optmanager import _Option, unset

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


class QuickLookup:
    """In place of how header fields are looked up. State: mitmproxy's own way, while this one is in its place."""

    def __init__(self) -> None:
        self._own: Any = None

    def install(self) -> None:
        """Until `remove`. What is not mitmproxy's own any more is left alone."""
        own: Any = vars(Headers).get("get_all")
        if own is None or own.__module__ != Headers.__module__ or not vars(Headers).keys().isdisjoint(_DERIVED):
            return
        self._own = own

        def get_all(fields: Headers, name: str | bytes) -> list[str]:
            key = name.encode("utf-8", "surrogateescape") if isinstance(name, str) else name
            if not isinstance(key, bytes):
                return list(own(fields, name))  # which raises
            key, size = key.lower(), len(key)
            return [
                v.decode("utf-8", "surrogateescape") for k, v in fields.fields if len(k) == size and k.lower() == key
            ]

        def get(fields: Headers, name: str | bytes, default: Any = None) -> Any:
            values = get_all(fields, name)
            return ", ".join(values) if values else default

        def contains(fields: Headers, name: str | bytes) -> bool:
            return bool(get_all(fields, name))

        for name, way in (("get_all", get_all), *zip(_DERIVED, (get, contains), strict=True)):
            setattr(Headers, name, way)

    def remove(self) -> None:
        if self._own is not None:
            setattr(Headers, "get_all", self._own)  # noqa: B010
            for name in _DERIVED:
                delattr(Headers, name)
            self._own = None


class QuickOptions:
    """In place of how an option's value is read. State: mitmproxy's own way, while this one is in its place."""

    def __init__(self) -> None:
        self._own: Any = None

    def install(self) -> None:
        """Until `remove`. What is not mitmproxy's own any more is left alone."""
        own: Any = vars(_Option).get("current")
        if own is None or own.__module__ != _Option.__module__:
            return
        self._own = own

        def current(option: _Option) -> Any:
            value = option._default if option.value is unset else option.value
            return value if type(value) in _ATOMS else own(option)

        setattr(_Option, "current", current)  # noqa: B010

    def remove(self) -> None:
        if self._own is not None:
            setattr(_Option, "current", self._own)  # noqa: B010
            self._own = None


_ATOMS = frozenset({bool, float, int, str, type(None)})
"""Types whose values nobody can change."""
_DERIVED = ("get", "__contains__")
"""What a `Mapping` makes of looking one up."""


@lru_cache(maxsize=16)
def _types(kind: type[MessageData]) -> tuple[tuple[str, tuple[object, ...]], ...]:
    """The types of each field of a kind of message."""
    hints = typing.get_type_hints(kind)
    return tuple((name, typing.get_args(hint) or (hint,)) for name, hint in hints.items())
