"""Configuration texts for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from support.calls import DIALECT, OFFICIAL
from support.provider import Provider


def key_of(name: str) -> str:
    """The key that a test gives a provider: a string that nothing else holds."""
    return f"pk-{name}-CANARY-9876543210"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_text, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def table(name: str, values: Mapping[str, Any]) -> str:
    """A TOML table."""
    return f"[{name}]\n" + "".join(f"{k} = {_text(v)}\n" for k, v in values.items())


def inline(**tables: Mapping[str, Any]) -> str:
    """Tables of one provider's own."""
    return "".join(
        f"{name} = {{ {', '.join(f'{k} = {_text(v)}' for k, v in values.items())} }}\n"
        for name, values in tables.items()
    )


def route(
    api: str,
    *providers: Provider,
    own: Provider | None = None,
    intercept: str | tuple[str, ...] | None = None,
    suffix: str = "",
    extra: str | Mapping[str, str] = "",
) -> str:
    """A route of an API to these providers, in order, and the providers themselves.

    `own`: the provider that the app addresses, with the app's own credential. `suffix` is added to the providers'
    names, so that one server can stand for several providers. `extra`: more TOML for each, or for some by name.
    """
    dialect = DIALECT[api]
    lines = []
    for p in providers:
        name = p.name + suffix
        key = "" if p is own else f'api_key = "{key_of(p.name)}"\n'
        base = f'dialect = "{dialect}"\nbase_url = "{p.url(dialect)}"\n'
        more = extra if isinstance(extra, str) else extra.get(p.name, "")
        lines.append(f'[[providers]]\nname = "{name}"\n{base}{key}{more}')
    if intercept is None:
        intercept = own.url(dialect) if own is not None else OFFICIAL[dialect]
    bases = ", ".join(f'"{base}"' for base in ((intercept,) if isinstance(intercept, str) else intercept))
    names = ", ".join(f'"{p.name}{suffix}"' for p in providers)
    lines.append(f"[[routes]]\nintercept = [{bases}]\nproviders = [{names}]\n")
    return "\n".join(lines)


def config(api: str, *providers: Provider, own: Provider | None = None, extra: str = "", **tables: Any) -> str:
    """A whole configuration with one route."""
    texts = [table(name, values) for name, values in tables.items()]
    return "\n".join([*texts, route(api, *providers, own=own, extra=extra)])
