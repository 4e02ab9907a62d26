"""Which environment variables hold keys, and whether they are set. Never what is in them.

Pure: the environment and the parsed file are arguments.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sidestep.config import catalog

_REFERENCE = re.compile(r"\$\{([^}]*)\}")


def is_set(env: Mapping[str, str], name: str) -> bool:
    """Whether a variable holds a key: one that is blank is as good as none."""
    return bool(env.get(name, "").strip())


def of_catalog(env: Mapping[str, str]) -> dict[str, bool]:
    """All that the catalog's providers look for."""
    return _found(dict.fromkeys(name for entry in catalog.CATALOG.values() for name in entry.env), env)


def of_file(data: Mapping[str, Any], keyed: Collection[str], env: Mapping[str, str]) -> dict[str, bool]:
    """Those that a configuration names, itself or by providers of the catalog. `keyed`: the providers with a key; the
    others take the app's own credential."""
    names: dict[str, None] = {}
    tables = data.get("providers")
    for table in tables if isinstance(tables, list) else ():
        if not isinstance(table, dict):
            continue
        headers = table.get("headers")
        for text in (table.get("api_key"), *(headers.values() if isinstance(headers, dict) else ())):
            if isinstance(text, str):
                names |= dict.fromkeys(_REFERENCE.findall(text))
        entry = catalog.CATALOG.get(str(table.get("name")))
        if entry is not None and "api_key" not in table and table["name"] in keyed:
            names |= dict.fromkeys(entry.env)
    return _found(names, env)


def _found(names: Iterable[str], env: Mapping[str, str]) -> dict[str, bool]:
    return {name: is_set(env, name) for name in names}
