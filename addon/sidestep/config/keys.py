"""Which environment variables hold keys, and whether they are set. Never what is in them.

Pure: the environment and the parsed file are arguments.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sidestep.config import catalog
from sidestep.config.catalog import Entry

_OWN = re.compile(r"SIDESTEP_\w+_API_KEY")
_REFERENCE = re.compile(r"\$\{([^}]*)\}")


def is_set(env: Mapping[str, str], name: str) -> bool:
    """Whether a variable holds a key: one that is blank is as good as none."""
    return bool(env.get(name, "").strip())


def variable_of(name: str, entry: Entry, env: Mapping[str, str]) -> str | None:
    """The variable with the key of a provider of the catalog; None: none is set."""
    return next((v for v in catalog.variables_of(name, entry) if is_set(env, v)), None)


def is_for_sidestep(variable: str) -> bool:
    """Whether a variable holds a key for Sidestep alone, which no app is to see."""
    return _OWN.fullmatch(variable) is not None


def of_catalog(env: Mapping[str, str]) -> dict[str, bool]:
    """All that the catalog's providers look for; of those for Sidestep alone the vendors', and what is set."""
    names = dict.fromkeys(
        variable
        for name, entry in catalog.CATALOG.items()
        for variable in catalog.variables_of(name, entry)
        if variable in entry.env or is_set(env, variable)
    )
    return _found(names, env)


def of_file(data: Mapping[str, Any], keyed: Collection[str], env: Mapping[str, str]) -> dict[str, bool]:
    """Those that a configuration names, itself or by providers of the catalog. `keyed`: the providers with a key; the
    others take the app's own credential."""
    names: dict[str, None] = {}
    tables = data.get("providers")
    if not tables and "local" in data:
        return of_catalog(env)
    for table in tables if isinstance(tables, list) else ():
        if not isinstance(table, dict):
            continue
        headers = table.get("headers")
        for text in (table.get("api_key"), *(headers.values() if isinstance(headers, dict) else ())):
            if isinstance(text, str):
                names |= dict.fromkeys(_REFERENCE.findall(text))
        name = str(table.get("name"))
        entry = catalog.entry_of(name)
        if entry is not None and "api_key" not in table and name in keyed:
            own = (v for v in catalog.variables_of(name, entry) if v in entry.env or is_set(env, v))
            names |= dict.fromkeys(own)
    return _found(names, env)


def _found(names: Iterable[str], env: Mapping[str, str]) -> dict[str, bool]:
    return {name: is_set(env, name) for name in names}
