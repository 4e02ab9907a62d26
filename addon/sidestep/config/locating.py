"""Which file is the configuration, and whether it has changed."""

from __future__ import annotations

import stat
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from sidestep.config import reading, trusting
from sidestep.config.settings import Settings
from sidestep.config.trusting import Trusted, Untrusted

FILE = "sidestep.toml"
"""What a folder's configuration is called."""

Stamp = tuple[int, int, int]
"""What changes when a file is written or replaced: the time in ns, its size, its number in the file system."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where the configuration is looked for: where the user says, else in a folder, whose file has to be trusted, then
    in the user's own. `record`: of the trust in the folder's."""

    named: Path | None = None
    folders: Path | None = None
    users: Path | None = None
    record: Path | None = None

    @property
    def watched(self) -> tuple[Path, ...]:
        """Where a change may change what is used."""
        return tuple(place for place in (self.named, self.folders, self.users, self.record) if place is not None)


@dataclass(frozen=True, slots=True)
class Choice:
    """What is used: a file, or the catalog (None). `untrusted`: the folder's file that was passed over. `read`: its
    text, where that had to be looked at."""

    path: Path | None
    untrusted: Untrusted | None = None
    read: Trusted | None = None

    def text(self) -> str | None:
        """The file's; None: the catalog is used. ConfigError: it cannot be read."""
        if self.path is None:
            return None
        return reading.text_of(self.path) if self.read is None else self.read.text

    def settings(self, env: Mapping[str, str], text: str | None = None) -> Settings:
        """ConfigError: all that is wrong with the file. `text`: as above, where it was read already."""
        text = self.text() if text is None else text
        if self.path is None or text is None:
            return reading.default(env)
        settings = reading.parse(text, env, str(self.path))
        if self.read is not None and self.read.broken is not None:
            raise self.read.broken
        return settings

    def raw(self) -> dict[str, Any]:
        """The file's tables as they are, of a file whose settings were read."""
        assert self.path is not None
        return tomllib.loads(reading.text_of(self.path) if self.read is None else self.read.text)


def places(option: str, folder: Path | None = None) -> Places:
    """Where the configuration is looked for; the first one that is there counts."""
    if option:
        return Places(named=Path(option).expanduser().absolute())
    here = (folder or Path.cwd()) / FILE
    own = trusting.users_folder(platformdirs.user_config_path)
    return Places(None, here, None if own is None else own / "config.toml", trusting.record_of(here))


def choose(looked_for: Places) -> Choice:
    """The configuration to read. A path that was asked for is chosen even if nothing is there: reading it says so."""
    if looked_for.named is not None:
        return Choice(looked_for.named)
    untrusted = None
    if looked_for.folders is not None and looked_for.folders.is_file():
        judged = trusting.judge(looked_for.folders)
        if isinstance(judged, Trusted):
            return Choice(looked_for.folders, read=judged)
        untrusted = judged
    if looked_for.users is not None and looked_for.users.is_file():
        return Choice(looked_for.users, untrusted)
    return Choice(None, untrusted)


def stamps(looked_for: Iterable[Path]) -> dict[Path, Stamp | None]:
    """A stamp of what is at each place; None: no file that can be seen."""
    return {place: _stamp(place) for place in looked_for}


def _stamp(place: Path) -> Stamp | None:
    try:
        found = place.stat()
    except (OSError, ValueError):
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino) if stat.S_ISREG(found.st_mode) else None
