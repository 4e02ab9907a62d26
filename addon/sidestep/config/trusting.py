"""Which files of folders the user trusts, and what with: kept in a folder of the user's own, a record a file.

A folder that one stands in may not choose where prompts and environment variables go. So its `sidestep.toml` is read
only where there is a record of it, and used only as far as that goes: the record holds the file's place and what it
reached when the user said so (`reach`). What is compared is the very text that is used then.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import platformdirs

from sidestep.config import reach, reading
from sidestep.config.problems import ConfigError

MAX_RECORD_BYTES = 4 << 20
_FOREIGN = "the record of it could have been written by others"


class _Record(msgspec.Struct, frozen=True):
    place: str
    reach: list[str]


@dataclass(frozen=True, slots=True)
class Untrusted:
    """A file that is not used. `reached`: what it reaches beyond what it was trusted with; empty where it was not even
    read. `why`: what is wrong with its record, if anything is."""

    path: Path
    reached: tuple[str, ...] = ()
    why: str = ""

    def __str__(self) -> str:
        command = f"look at it, then: sidestep trust {shown(self.path, quoted=True)}"
        if self.reached:
            new = "; ".join(map(reach.in_words, self.reached))
            return f"{shown(self.path)} reaches more than it is trusted with, so it is not used ({new}); {command}"
        why = f" ({self.why})" if self.why else ""
        return f"{shown(self.path)} is not trusted, so it is not read{why}; {command}"


@dataclass(frozen=True, slots=True)
class Trusted:
    """A file that may be used, with the text that was looked at. `broken`: it cannot be used as it is."""

    text: str
    broken: ConfigError | None = None


def judge(path: Path) -> Trusted | Untrusted:
    """Whether a folder's file may be used. It is opened only where there is a record of it."""
    recorded = _recall(_place(path))
    if not isinstance(recorded, frozenset):
        return Untrusted(path, why=recorded)
    try:
        text = reading.text_of(path)
    except ConfigError as e:
        return Trusted("", e)
    try:
        new = reach.reach(text, str(path)) - recorded
    except ConfigError as e:
        return Trusted(text, e)
    return Untrusted(path, tuple(sorted(new))) if new else Trusted(text)


def trust(path: Path, text: str) -> frozenset[str]:
    """Trust a file with all that this text of it reaches, which is returned. ConfigError: it cannot be read; OSError:
    the record cannot be kept."""
    reached = reach.reach(text, str(path))
    place = _place(path)
    kept = _kept_at(place)
    if kept is None:
        raise OSError("there is no home to remember it in: HOME is not set")
    kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(dir=kept.parent)  # for its owner alone
    try:
        with os.fdopen(number, "wb") as file:
            file.write(msgspec.json.encode(_Record(shown(place), sorted(reached))))
        os.replace(name, kept)
    except OSError:
        os.unlink(name)
        raise
    return reached


def revoke(path: Path) -> bool:
    """Trust a file no longer. Whether it was. OSError: its record cannot be taken away."""
    kept = _kept_at(_place(path))
    if kept is None or not kept.exists():
        return False
    kept.unlink()
    return True


def record_of(path: Path) -> Path | None:
    """Where the record of a file is, or would be; None where nothing can be kept."""
    return _kept_at(_place(path))


def others_may_write(path: Path) -> str:
    """In what way other users of the machine may write a file; empty if they may not."""
    try:
        return _foreign(path.stat(), group=False)
    except OSError:
        return ""  # it is gone


def shown(path: Path, *, quoted: bool = False) -> str:
    """A path as it can be put on a terminal, and, `quoted`, into a shell: its names are the folder's to choose."""
    text = str(path)
    if not text.isprintable():
        escaped = text.encode("unicode_escape").decode("ascii")
        return "$'" + escaped.replace("'", "\\'") + "'" if quoted else escaped
    return shlex.quote(text) if quoted else text


def _place(path: Path) -> Path:
    """What a record is of: the name of the file in its folder. A link is the folder's to turn, so that it is not
    followed."""
    return path.parent.resolve() / path.name


def users_folder(of: Callable[[str], Path]) -> Path | None:
    """A folder of the user's own, by one of platformdirs' functions; None where there is no home: it would lie in the
    folder that one stands in."""
    try:
        folder = of("sidestep")
    except RuntimeError:  # what newer platformdirs say to that
        return None
    return folder if folder.is_absolute() else None


def _kept_at(place: Path) -> Path | None:
    folder = users_folder(platformdirs.user_state_path)
    return None if folder is None else folder / "trusted" / f"{hashlib.sha256(os.fsencode(place)).hexdigest()}.json"


def _recall(place: Path) -> frozenset[str] | str:
    """What a file is trusted with; why it is not, else, which is empty where there is no record."""
    kept = _kept_at(place)
    if kept is None:
        return "there is no home to remember it in"
    try:
        with open(os.open(kept, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb") as file:
            if _foreign(os.fstat(file.fileno()), group=True):
                return _FOREIGN
            record = msgspec.json.decode(file.read(MAX_RECORD_BYTES), type=_Record)
    except FileNotFoundError:
        return ""
    except OSError as e:
        return f"the record of it cannot be read: {e.strerror}"
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "the record of it cannot be read"
    return frozenset(record.reach) if record.place == shown(place) else ""


def _foreign(found: os.stat_result, *, group: bool) -> str:
    """How others than the user and root may write what was found; empty if they may not. `group`: those of its group
    count as others."""
    if not hasattr(os, "geteuid"):
        return ""  # Windows: the folder's access list says it
    if found.st_uid not in (0, os.geteuid()):
        return f"it belongs to user {found.st_uid}"
    others = stat.S_IWOTH | (stat.S_IWGRP if group else 0)
    return f"its mode is {stat.S_IMODE(found.st_mode):04o}" if found.st_mode & others else ""
