"""Where the configuration is, and reading it. The only room besides `reading` that touches a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import platformdirs

from sidestep.config import reading
from sidestep.config.settings import Settings


def find_config(option: str, folder: Path | None = None) -> Path | None:
    """The configuration file to read; None: there is none, the catalog serves.

    A path that was asked for is returned even if nothing is there: reading it says so.
    """
    if option:
        return Path(option).expanduser().absolute()
    here = (folder or Path.cwd()) / "sidestep.toml"
    for candidate in (here, Path(platformdirs.user_config_dir("sidestep")) / "config.toml"):
        if candidate.is_file():
            return candidate
    return None


def load_settings(path: Path | None, env: Mapping[str, str]) -> Settings:
    """The settings of a file, or those without one. ConfigError: all that is wrong with it."""
    return reading.default(env) if path is None else reading.load(path, env)
