"""Servers of this machine: which are looked for, and what is made of those that answer.

Pure: what they answered is an argument.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from sidestep.config import catalog
from sidestep.config.model_names import CHAT_FAMILIES
from sidestep.config.settings import Provider, Settings

MAX_MODELS = 200
MAX_NAME = 200

_TALKS_NOT = re.compile(r"embed|\bbge|\bgte\b|\be5-|minilm|rerank|whisper|\btts\b|clip|stable-diffusion", re.IGNORECASE)
"""Models of other kinds, as their makers call them. A server's list does not tell of which kind one is."""
_LATEST = ":latest"
"""What Ollama takes a name without a tag for."""

OLLAMA_PORT = 11434
_HOST = re.compile(r"(?:http://)?(?P<host>[^/:@\[\]]*|\[[0-9a-fA-F:]*\])(?::(?P<port>\d{1,5}))?/?")
_HERE = {"", "localhost", "127.0.0.1", "0.0.0.0", "[::1]", "[::]"}  # noqa: S104  # what it listens at, not we

Found = Mapping[str, Sequence[str]]
"""The names of servers that answer, with the models that each lists."""


def tables(env: Mapping[str, str], without: Collection[str]) -> list[dict[str, Any]]:
    """The servers of this machine that the catalog knows, as a file would name them. Where Ollama listens, its own
    variable says (docs.ollama.com/faq); only on this machine, for another one has to be named."""
    tables: list[dict[str, Any]] = [
        {"name": name} for name, entry in catalog.CATALOG.items() if entry.is_local and name not in without
    ]
    found = _HOST.fullmatch(env.get("OLLAMA_HOST", "").strip())
    port = int(found["port"] or OLLAMA_PORT) if found is not None and found["host"] in _HERE else 0
    if 0 < port < 1 << 16 and port != OLLAMA_PORT:
        for table in tables:
            if table["name"] == "ollama":
                origin = f"http://localhost:{port}"
                table["base_urls"] = {"openai": f"{origin}/v1", "anthropic": origin}
    return tables


def looked_for(settings: Settings) -> list[Provider]:
    """The servers to ask for their models, one endpoint of each: those that are used if they answer, and those that the
    configuration names without saying what models are called there."""
    found: dict[str, Provider] = {}
    for provider in (*settings.providers, *settings.local):
        entry = catalog.entry_of(provider.name)
        if entry is not None and entry.is_local and provider.auth == "none" and not provider.models:
            found.setdefault(provider.name, provider)
    return list(found.values())


def with_found(settings: Settings, found: Found) -> Settings:
    """The settings with what was found: servers that answer are asked last, and each is asked for a model that it has.
    One that lists none is not used by itself."""
    wanted = {p.name for p in looked_for(settings)}
    models = {name: good for name, listed in found.items() if name in wanted and (good := _good(listed))}
    if not models:
        return settings

    def mapped(providers: Iterable[Provider]) -> tuple[Provider, ...]:
        return tuple(_mapped(p, models[p.name]) if p.name in models else p for p in providers)

    usable = [p for p in settings.local if default_model(models.get(p.name, ())) is not None]
    added = mapped(msgspec.structs.replace(p, last_resort=True) for p in usable)
    routes = tuple(
        msgspec.structs.replace(
            route, providers=(*mapped(route.providers), *(p for p in added if p.dialect == route.dialect))
        )
        for route in settings.routes
    )
    return msgspec.structs.replace(settings, providers=(*mapped(settings.providers), *added), routes=routes)


def default_model(listed: Iterable[str]) -> str | None:
    """The model that stands for those that a server does not have: the first that talks."""
    return next((name for name in _good(listed) if not _TALKS_NOT.search(name)), None)


def describe(settings: Settings, found: Found) -> list[str]:
    """A line a server that answers: what it is asked for."""
    lines = []
    for provider in looked_for(settings):
        if (listed := found.get(provider.name)) is None:
            continue
        model, count = default_model(listed), len(_good(listed))
        use = "it is not asked, for none of its models talks"
        if model is not None:
            use = f"it is asked last, for {model} where it lacks what a call asks for"
            if provider in settings.providers:
                use = f"it is asked for {model} where it lacks what a call asks for"
        models = f"{count} model{'' if count == 1 else 's'}"
        lines.append(f"{provider.name} answers at {address(provider)} and has {models}: {use}")
    return lines


def address(provider: Provider) -> str:
    """Where a server listens, whatever is asked for there."""
    return f"{provider.base_url.scheme}://{provider.base_url.authority}"


def _good(listed: Iterable[str]) -> list[str]:
    """Names that can be asked for, and told."""
    names = (n for n in listed if 0 < len(n) <= MAX_NAME and n.isascii() and n.isprintable() and not set(n) & {*"*?["})
    return list(dict.fromkeys(names))[:MAX_MODELS]


def _mapped(provider: Provider, listed: Sequence[str]) -> Provider:
    names = {name: name for name in listed}
    for name in listed:
        if name.endswith(_LATEST):
            names.setdefault(name.removesuffix(_LATEST), name)
    default = default_model(listed)
    others = {} if default is None else dict.fromkeys(("*",), default)
    only = provider.only
    if only is None:
        # Nothing stands in for a model that embeds or hears: what comes of another one is of no use to the app.
        only = (*names, *(() if default is None else CHAT_FAMILIES))
    return msgspec.structs.replace(provider, models=tuple({**names, **others}.items()), only=only)
