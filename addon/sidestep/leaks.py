"""Finds the providers' keys, and the values of their own headers, in what a provider says: in each piece of an answer
as it passes, and in the forms that JSON, URLs and base64 give them.

Pure: no mitmproxy, no clock, no I/O. Nearly all that is looked through holds nothing, and is to cost nearly nothing:
a piece of a stream is a few hundred bytes, and a microsecond is much for one. `Searcher.find` is that quick look,
`Sieve` what carries it over the borders of pieces. What is not found is told in SECURITY.md.
"""

from __future__ import annotations

import base64
import re
from binascii import a2b_qp
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from sidestep.config.settings import Provider
from sidestep.credentials import SECRET_LENGTH, is_credential_header

TELLING_LENGTH = 16
"""Shorter words of natural language (`lm-studio`, `not-needed`) and shorter numbers are not looked for in content: an
answer may well hold them, and nothing of an answer is to be taken for a key that is none."""

_PIECES = re.compile(r"""[^\0- "',;\\{}\x7f-\U0010ffff]+""")
"""What a value is made of, at blanks, quotes, commas, semicolons, braces and backslashes: a scheme and its credential,
a cookie's pairs, what is inside JSON. None of these is in a key, and JSON escapes some of them."""
_PAIR = re.compile(r"\A[\w-]+=(?=[^=])")
_WORDS = re.compile(r"(?:(?:[A-Z]?[a-z]{1,14}|[A-Z]{1,14})(?:[-_.:/+]+|\Z))+")
_BETWEEN_WORDS = re.compile(r"[-_.:/+]+")
_NO_KEY = frozenset({"needed", "no", "none", "not", "placeholder", "required", "unused", "your"})
"""Words in what stands in place of a key where none is needed: `sk-no-key-required`, `your-api-key-goes-here`."""
_RANDOM = re.compile(r"\d{9}|(?![A-Za-z]{12}|\d{12})[A-Za-z\d]{12}")
"""What no model, version, region or date is called (`gpt-4o-2024-08-06`, `europe-west1`, `20241022`)."""

_OPEN_ESCAPE = re.compile(r"(?:\\+(?:u0?)?|[%=][2-7]?)\Z")
"""The beginning of an escape, as `plain` leaves it."""
_WIDEST = 32
"""Bytes of one character: an escape of eight, in UTF-32."""
_BLANKS = " \n\r\t"
_ROUNDS = 3
"""How many kinds of escapes may be one inside another."""

_RARE = "QZXJKzYWUGHqFBNvLDRVPwSEOM98765432xkTICjb10yAfgpmuhdclrisonate"
"""From the rarest character to the most frequent one, as they are in streams: first what is in the frame of no event of
any dialect. Only the speed depends on it."""
_RANK = {character: rank for rank, character in enumerate(_RARE)}
_RARE_ENOUGH = 8
"""How much rarity weighs against needing fewer different characters."""
FRAGMENT = 4
"""Characters by which a needle is recognised, before it is compared as a whole."""


def plain(data: bytes) -> bytes:
    """A text with its characters as they are meant: without the escapes of JSON, also of JSON in JSON, which doubles
    the backslashes, and of URLs; and in ASCII, for UTF-16 and UTF-32 are ASCII with zeros.

    A percent sign that begins no escape comes out as something else, alike in a text and in what is looked for there.
    """
    data = data.replace(b"\0", b"")
    for _ in range(_ROUNDS):
        before = data
        for _ in range(_ROUNDS):
            data = data.replace(b"\\\\", b"\\")
        data = data.replace(b"\\/", b"/")
        if b"%" in data or b"\\u00" in data:
            # As quoted-printable, which differs in its mark alone, and is read many times faster than anything written
            # here could.
            data = data.replace(b"=", b"=3D").replace(b"%", b"=").replace(b"\\u00", b"=")
            data = a2b_qp(data.replace(b"==", b"=3D=").replace(b"==", b"=3D="))
        if data == before:
            break
    return data


def _needles(secret: bytes) -> Iterator[str]:
    """The strings that a plain text holds where it holds a secret: itself, or its base64 in one of the three places
    that it may have in a group of three bytes, without the characters that depend on its neighbours."""
    yield plain(secret).decode("latin-1")
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + secret).decode("ascii")
        found = encoded[-(-before * 8 // 6) : (before + len(secret)) * 8 // 6]
        yield found
        yield found.translate(_URL_SAFE)


_URL_SAFE = str.maketrans("+/", "-_")


class Searcher:
    """Looks for all secrets at once. Each needle is recognised by a short fragment that begins with a rare character;
    a few such characters are enough for all needles, and most texts hold none of them, or nothing that goes on so.
    """

    __slots__ = ("_any_case", "_ends", "_groups", "_inside", "_longest", "_needles")

    def __init__(self, secrets: Iterable[bytes], *, any_case: bool = False) -> None:
        """`any_case`: whatever the letters' case, as HTTP/2 changes it in the names of header fields. What is searched
        is to be given in lower case then."""
        self._any_case = any_case
        needles: dict[str, bytes] = {}
        for secret in secrets:
            for needle in _needles(secret):
                if len(needle) >= FRAGMENT:
                    needles.setdefault(needle.lower() if any_case else needle, secret)
        self._needles = tuple(needles.items())
        self._groups = tuple(_groups(list(needles)))
        self._longest = max(map(len, needles), default=0)
        self._inside = frozenset("".join(needles).encode("latin-1")) | frozenset(b"01234567u%\\\0")
        """The bytes that all this is made of, and its escapes."""
        self._ends: dict[str, tuple[str, ...]] | None = None

    def find(self, data: bytes) -> tuple[bytes, ...]:
        """The secrets that `data` holds whole; nearly always none. In lower case, if case is not to count."""
        text = data.decode("latin-1")
        if "%" in text or "\0" in text or ("\\" in text and ("\\u00" in text or "\\/" in text)):
            # What looks like an escape may be none.
            text = f"{text}\n{self._in_case(plain(data)).decode('latin-1')}"
        for probe, search in self._groups:
            if probe in text and (search is None or search(text) is not None):
                break
        else:
            return ()
        return tuple({secret for needle, secret in self._needles if needle in text})

    def _in_case(self, data: bytes) -> bytes:
        return data.lower() if self._any_case else data

    def open_end(self, data: bytes) -> int:
        """How many bytes at the end of `data` may be the beginning of a secret that goes on in what follows. No key
        holds a blank or a line end, so that whole events and lines have no such end."""
        if not data or data[-1] not in self._inside:
            return 0
        tail = data[-_WIDEST * self._longest :]
        begun = self._begun(tail.decode("latin-1"))
        if b"%" not in tail and b"\\" not in tail and b"\0" not in tail:
            return begun
        text = plain(tail + b" ").decode("latin-1")[:-1]
        if _OPEN_ESCAPE.search(text, max(0, len(text) - 12)) is None and not self._begun(text):
            return begun
        # It is not known which bytes have become which characters.
        return len(tail) - 1 - max(tail.rfind(blank.encode()) for blank in _BLANKS)

    def _begun(self, text: str) -> int:
        """The length of the longest end of a text that a needle begins with."""
        if self._ends is None:
            ends: defaultdict[str, set[str]] = defaultdict(set)
            for needle, _ in self._needles:
                for size in range(1, len(needle)):
                    ends[needle[size - 1]].add(needle[:size])
            self._ends = {last: tuple(sorted(found, key=len, reverse=True)) for last, found in ends.items()}
        ends_so = self._ends.get(text[-1:], ())
        if not text.endswith(ends_so):
            return 0
        return next(len(end) for end in ends_so if text.endswith(end))


def _groups(needles: list[str]) -> Iterator[tuple[str, Callable[[str], object] | None]]:
    """Characters such that each needle holds one of them, rare ones and few, and what finds the fragments that begin
    with it; where there is but one such fragment, itself."""
    fragments: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for needle in needles:
        for at in range(len(needle) - FRAGMENT + 1):
            fragments[needle[at]].setdefault(needle, needle[at + 1 : at + FRAGMENT])
    left = set(needles)
    while left:
        found = {rare: left & of.keys() for rare, of in fragments.items()}
        rare = max(sorted(found), key=lambda c: len(found[c]) / (_RARE_ENOUGH + _RANK.get(c, len(_RARE))))
        rests = sorted({fragments[rare][needle] for needle in found[rare]})
        if len(rests) == 1:
            yield rare + rests[0], None
        else:
            yield rare, re.compile(f"{re.escape(rare)}(?:{'|'.join(map(re.escape, rests))})").search
        left -= found[rare]


@dataclass(frozen=True, slots=True)
class Keys:
    """What must be repeated to no app, of all providers. `content`: what is looked for in content, where a hit ends the
    call. `words`: what is looked for in short texts that are about a call (heads, errors): there a hit costs little,
    so that short words count as well, and so does every case."""

    content: Searcher
    words: Searcher

    @classmethod
    def of(cls, providers: Iterable[Provider]) -> Self:
        found = secrets_of(providers)
        telling = [secret for secret in found if _is_telling(secret.decode("latin-1"))]
        return cls(Searcher(telling), Searcher(found, any_case=True))


def secrets_of(providers: Iterable[Provider]) -> tuple[bytes, ...]:
    """The strings that must appear nowhere: the providers' keys, and of their own headers the values that are secrets
    by the header's name or by their looks. The others name a model, a region, an app, and answers name these as
    well."""
    found: list[str] = []
    for provider in providers:
        if provider.api_key is not None:
            found += _parts(provider.api_key.reveal())
        for name, value in provider.headers:
            named = is_credential_header(name.lower().encode("latin-1"))
            found += [p for p in _parts(value.reveal()) if (_is_telling(p) if named else _RANDOM.search(p))]
    return tuple(part.encode("latin-1", "replace") for part in dict.fromkeys(found))


def _parts(value: str) -> list[str]:
    """What would be a key by itself in a value: a credential without its scheme, a cookie without its name."""
    parts = [part for part in _PIECES.findall(value) if len(part) >= SECRET_LENGTH]
    return parts + [bare for part in parts if SECRET_LENGTH <= len(bare := _PAIR.sub("", part)) < len(part)]


def _is_telling(secret: str) -> bool:
    """Whether nobody would write it but who knows it."""
    if len(secret) < TELLING_LENGTH:
        return _WORDS.fullmatch(secret) is None and any(c.isalpha() for c in secret)
    return _WORDS.fullmatch(secret) is None or _NO_KEY.isdisjoint(_BETWEEN_WORDS.split(secret.lower()))


class Leaks:
    """The same for one call: what the app itself has said is no secret to it. State: which secrets it has said."""

    __slots__ = ("_keys", "_said", "_said_by_app")

    def __init__(self, keys: Keys, said_by_app: Callable[[], bytes]) -> None:
        """`said_by_app`: all that it has sent, asked for only where a secret is found."""
        self._keys = keys
        self._said_by_app = said_by_app
        self._said: set[bytes] = set()

    def in_words(self, text: bytes) -> bool:
        """Whether a head, or an error, repeats a secret."""
        return self._are_new(self._keys.words.find(text.lower()))

    def sieve(self) -> Sieve:
        """For one answer."""
        return Sieve(self._keys.content, self._are_new)

    def _are_new(self, found: tuple[bytes, ...]) -> bool:
        """Whether some of these are no app's own words."""
        if not found:
            return False
        if not self._said.issuperset(found):
            self._said.update(self._keys.words.find(self._said_by_app().lower()))
        return not self._said.issuperset(found)


class Sieve:
    """Lets a body through, a piece at a time, up to the first secret in it: not even the beginning of one goes on.

    State: the end of what has come, as long as it may be the beginning of a secret.
    """

    __slots__ = ("_are_new", "_held", "_searcher", "find")

    def __init__(self, searcher: Searcher, are_new: Callable[[tuple[bytes, ...]], bool]) -> None:
        self._searcher = searcher
        self._are_new = are_new
        self._held = b""
        self.find = searcher.find
        """A quick look at a piece that no secret can go over the borders of. Whether what it finds matters, `feed`
        says."""

    def feed(self, data: bytes) -> bytes | None:
        """What goes on now, None: a secret has come."""
        if self._held:
            data = self._held + data
        if self.finds(data):
            return None
        if not (size := self._searcher.open_end(data)):
            self._held = b""
            return data
        self._held = data[-size:]
        return data[:-size]

    def finds(self, data: bytes) -> bool:
        """Whether a secret is in a text that is whole."""
        return self._are_new(self.find(data))

    def rest(self) -> bytes:
        """What is left at the end: it was none."""
        held, self._held = self._held, b""
        return held
