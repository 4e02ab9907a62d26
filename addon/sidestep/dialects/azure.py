"""Azure's older addresses in the OpenAI dialect: `…/openai/deployments/NAME/chat/completions?api-version=…`.

The deployment in the path names the model, and the body need not. Grammar after Microsoft's REST reference of Azure
OpenAI and OpenAI's Python SDK (`openai.lib.azure`). Its newer ones (`…/openai/v1/…`) are OpenAI's own.

Pure: no mitmproxy, no clock, no I/O.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from sidestep.dialects.bodies import NotReadError
from sidestep.dialects.common import is_model

_DEPLOYMENT = re.compile(r"(?P<before>(?:/openai)?/deployments/)(?P<name>[^/]+)(?P<tail>/.+)")
_VERSION = "api-version"


def bare(tail: str) -> str:
    """A tail without the deployment that it begins with, as OpenAI itself has it; as it is where that is no name."""
    found = _DEPLOYMENT.fullmatch(tail)
    return tail if found is None or not is_model(unquote(found["name"])) else found["tail"]


def model_of(named: str | None, base: str, tail: str) -> tuple[str | None, bool]:
    """The model that a call asks for, and whether its address alone names it. `named`: what its body says, which the
    SDK sets to the deployment unless the app says otherwise; `base`: the path of the base URL before the tail.
    NotReadError: it would lead out of the base URL where it stands in a path."""
    found = _DEPLOYMENT.fullmatch(tail)
    if named:
        if found is not None and not is_model(named):
            raise NotReadError("its model is no name")
        return named, False
    if found is not None:
        return unquote(found["name"]), True
    _, mark, name = base.rpartition("/deployments/")
    return (unquote(name), True) if mark and name and "/" not in name else (named, False)


def renamed(tail: str, name: str) -> str:
    """A tail with another deployment; as it is if there is none."""
    found = _DEPLOYMENT.fullmatch(tail)
    return tail if found is None else f"{found['before']}{quote(name, safe='')}{found['tail']}"


def address_at(base: str, tail: str, query: str) -> tuple[str, str]:
    """Tail and query at a base URL with this path whose API is not laid out like that of the intercept."""
    if "/deployments/" not in base:
        query = "&".join(part for part in query.split("&") if part.partition("=")[0].lower() != _VERSION)
    return bare(tail), query
