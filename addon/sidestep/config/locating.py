"""Which file is the configuration, and whether it has changed. The only room besides `reading` that touches a file."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

import platformdirs

from sidestep.config import reading
from sidestep.config.settings import Settings

Stamp = tuple[int, int, int]
"""What changes when a file is written or replaced: the time in ns, its size, its number in the file system."""


def places(option: str, folder: Path | None = None) -> tuple[Path, ...]:
    """Where the configuration is looked for, the first one that is there counts: where the option says, else in this
    folder and in the user's."""
    if option:
        return (Path(option).expanduser().absolute(),)
    here = (folder or Path.cwd()) / "sidestep.toml"
    return here, Path(platformdirs.user_config_dir("sidestep")) / "config.toml"


def found_in(looked_for: tuple[Path, ...]) -> Path | None:
    """The configuration file to read; None: there is none, the catalog serves.

    A path that was asked for is returned even if nothing is there: reading it says so.
    """
    if len(looked_for) == 1:
        return looked_for[0]
    return next((place for place in looked_for if place.is_file()), None)


def find_config(option: str, folder: Path | None = None) -> Path | None:
    """The configuration file to read, see `found_in`."""
    return found_in(places(option, folder))


def stamps(looked_for: Iterable[Path]) -> dict[Path, Stamp | None]:
    """A stamp of what is at each place; None: no file that can be seen."""
    return {place: _stamp(place) for place in looked_for}


def _stamp(place: Path) -> Stamp | None:
    try:
        found = place.stat()
    except (OSError, ValueError):
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def load_settings(path: Path | None, env: Mapping[str, str]) -> Settings:
    """The settings of a file, or those without one. ConfigError: all that is wrong with it."""
    return reading.default(env) if path is None else reading.load(path, env)
