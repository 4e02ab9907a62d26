"""What a model costs and how much it takes, by the price list of `genai-prices`.

Pure: the list is data that comes with the package; nothing is fetched.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from sidestep.config.settings import Provider
from sidestep.dialects.base import Usage

SAMPLE_TOKENS = 1_000
"""A look-up costs a third of a millisecond: the rates are read once a model, off an amount below all price steps."""


@dataclass(frozen=True, slots=True)
class Rates:
    """USD per token, and the context window in tokens where the list knows it."""

    input: float
    cached: float
    output: float
    context_window: int | None


@lru_cache(maxsize=1024)
def rates(base_url: str, model: str) -> Rates | None:
    """The rates of a model at a provider; where the list does not know the provider, at the model's maker."""
    import genai_prices

    def price(given: int, cached: int, made: int, url: str | None) -> tuple[float, int | None]:
        tokens = genai_prices.Usage(input_tokens=given, cache_read_tokens=cached, output_tokens=made)
        found = genai_prices.calc_price(tokens, model, provider_api_url=url)
        return float(found.total_price) / SAMPLE_TOKENS, found.model.context_window

    for url in (base_url, None):
        try:
            given, window = price(SAMPLE_TOKENS, 0, 0, url)
            cached, _ = price(SAMPLE_TOKENS, SAMPLE_TOKENS, 0, url)
            made, _ = price(0, 0, SAMPLE_TOKENS, url)
        except (LookupError, ValueError):
            continue
        return Rates(given, cached, made, window)
    return None


def cost(provider: Provider, model: str | None, usage: Usage) -> float | None:
    """What an answer cost, in USD; None if it is not known. A provider's own price wins over the list's."""
    found = rates_at(provider, model)
    if found is None:
        return None
    return (usage.input - usage.cached) * found.input + usage.cached * found.cached + usage.output * found.output


def saved(provider: Provider, model: str | None, usage: Usage) -> float:
    """What of the cost, in USD, the prompt cache has spared, as far as that is known."""
    found = rates_at(provider, model) if usage.cached else None
    return 0.0 if found is None else usage.cached * (found.input - found.cached)


def rates_at(provider: Provider, model: str | None) -> Rates | None:
    """The rates that `cost` goes by; None if they are not known."""
    if provider.price is not None:
        given, made = provider.price.input / 1e6, provider.price.output / 1e6
        return Rates(given, given, made, None)
    return None if provider.auth == "none" or model is None else rates(str(provider.base_url), model)


def context_window(provider: Provider, model: str | None) -> int | None:
    """How many tokens a provider's model takes, None if it is not known."""
    if model is None:
        return None
    configured = provider.context_window.get(model)
    if configured is not None:
        return configured
    found = rates(str(provider.base_url), model)
    return None if found is None else found.context_window
