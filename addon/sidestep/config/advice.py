"""What is no mistake in a configuration but worth a look, in words.

Pure: no environment, no I/O.
"""

from __future__ import annotations

from sidestep.config import catalog
from sidestep.config.settings import Provider, Settings


def advice(settings: Settings) -> list[str]:
    """A line for each thing that is no mistake but worth a look."""
    stand_ins = {p.name: p for route in settings.routes if len(route.providers) > 1 for p in route.providers}
    return [line for p in stand_ins.values() if (line := without_issuer(p)) is not None]


def without_issuer(provider: Provider) -> str | None:
    """What is to be said of a provider of which it is not known whose reasoning it honours; None where it is known, or
    where apps' reasoning is every provider's own."""
    if provider.issuer_is_known or provider.dialect == "openai":
        return None
    usual = catalog.OFFICIAL_ISSUERS[provider.dialect]
    models = {"anthropic": "Claude", "gemini": "Gemini"}[provider.dialect]
    return (
        f"{provider.name} has no issuer: what other providers signed is left out of the calls that it gets; "
        f'issuer = "{usual}" if it serves {models} and takes what that has signed elsewhere'
    )
