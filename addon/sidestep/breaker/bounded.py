"""A table that cannot fill the memory: bounded in entries and in bytes, the oldest go first.

Pure: no mitmproxy, no clock, no I/O. What apps and providers send (names of models, identifiers, fingerprints) becomes
a key in many places, and any of them may send as much as it likes.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from hashlib import blake2b

NAME_LENGTH = 256
"""Characters of a name that are kept as they are; the longest names of models in use have about a hundred."""
ENTRY_BYTES = 200
"""What an entry takes besides its texts: its place in the table and the objects around them. About what `sys.getsizeof`
and the growth of an `OrderedDict` show in CPython 3.12."""


def short(name: str) -> str:
    """A name as part of a key: one that is too long is cut, and a digest of the whole keeps it apart from others."""
    if len(name) <= NAME_LENGTH:
        return name
    digest = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{name[: NAME_LENGTH - 33]}#{digest}"


def bytes_of(thing: object) -> int:
    """The memory that a text, or a tuple of texts, takes."""
    size = sys.getsizeof(thing)
    return size + sum(bytes_of(part) for part in thing) if isinstance(thing, tuple) else size


class Bounded[K: Hashable, V]:
    """State: the entries, the latest put or used last; the bytes of each, and of all together."""

    __slots__ = ("_bytes", "_entries", "_max_bytes", "_max_entries", "_weigh")

    def __init__(self, entries: int, size: int, weigh: Callable[[V], int] = bytes_of) -> None:
        """At most so many entries, of together at most `size` bytes. `weigh`: the bytes of a value."""
        self._max_entries = entries
        self._max_bytes = size
        self._weigh = weigh
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._bytes = 0

    def put(self, key: K, value: V) -> None:
        """Keep it as the latest entry. One that is larger than the whole table may be is not kept."""
        self.pop(key)
        size = ENTRY_BYTES + bytes_of(key) + self._weigh(value)
        if size > self._max_bytes:
            return
        self._entries[key] = value, size
        self._bytes += size
        while len(self._entries) > self._max_entries or self._bytes > self._max_bytes:
            self.pop(next(iter(self._entries)))

    def get(self, key: K) -> V | None:
        entry = self._entries.get(key)
        return None if entry is None else entry[0]

    def use(self, key: K) -> V | None:
        """The same, and the entry counts as the latest."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def pop(self, key: K) -> V | None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        self._bytes -= entry[1]
        return entry[0]

    def oldest(self) -> tuple[K, V] | None:
        return next(self.items(), None)

    def items(self) -> Iterator[tuple[K, V]]:
        """The entries from the oldest to the latest."""
        return ((key, value) for key, (value, _) in self._entries.items())

    def keep(self, wanted: Callable[[K, V], bool]) -> None:
        """Forget all others."""
        for key in [key for key, value in self.items() if not wanted(key, value)]:
            self.pop(key)

    @property
    def bytes(self) -> int:
        return self._bytes

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"Bounded({len(self)} of {self._max_entries} entries, {self._bytes} of {self._max_bytes} bytes)"
