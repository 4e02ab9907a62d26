"""What an answer cost and how much a model takes, by a provider's own words or by the price list."""

from __future__ import annotations

import pytest

from sidestep.config import reading
from sidestep.config.settings import Provider
from sidestep.dialects.base import Usage
from sidestep.routing.prices import context_window, cost, rates, saved

OPENAI = "https://api.openai.com/v1"
MODEL = "gpt-4o"
MILLION = Usage(1_000_000, 1_000_000)


def provider(more: str = "", base_url: str = OPENAI) -> Provider:
    text = f'[[providers]]\nname = "p"\ndialect = "openai"\nbase_url = "{base_url}"\n{more}\n'
    (found,) = reading.parse(text, {}).providers
    return found


def test_the_list_knows_the_models_of_the_great_providers() -> None:
    """What a million tokens of GPT-4o cost by OpenAI's own list, cached input at half the price."""
    found = rates(OPENAI, MODEL)
    assert found is not None
    assert (found.input, found.cached, found.output) == pytest.approx((2.5e-6, 1.25e-6, 10e-6))
    assert found.context_window == 128_000


def test_a_provider_that_the_list_does_not_know_costs_what_the_models_maker_takes() -> None:
    assert rates("https://unheard.of.test/v1", MODEL) == rates(OPENAI, MODEL)


def test_nobody_knows_what_a_made_up_model_costs() -> None:
    assert rates(OPENAI, "no-such-model-at-all") is None
    assert cost(provider(), "no-such-model-at-all", MILLION) is None
    assert context_window(provider(), "no-such-model-at-all") is None


def test_cached_input_costs_what_cached_input_costs() -> None:
    """It is part of the input, and paid for once."""
    assert cost(provider(), MODEL, Usage(1_000_000, 0)) == pytest.approx(2.5)
    assert cost(provider(), MODEL, Usage(0, 1_000_000)) == pytest.approx(10)
    assert cost(provider(), MODEL, Usage(1_000_000, 100_000, cached=400_000)) == pytest.approx(1.5 + 0.5 + 1)


def test_what_the_cache_has_saved() -> None:
    assert saved(provider(), MODEL, Usage(1_000_000, 100_000, cached=400_000)) == pytest.approx(0.5)
    assert saved(provider(), "no-such-model-at-all", Usage(1_000, 0, cached=900)) == 0
    assert saved(provider("price = { input = 3, output = 5 }"), MODEL, Usage(1_000, 0, cached=900)) == 0


@pytest.mark.parametrize("model", [MODEL, "no-such-model-at-all", None])
@pytest.mark.parametrize("more", ["", 'auth = "none"'])
def test_a_providers_own_price_wins(model: str | None, more: str) -> None:
    """USD per million tokens, for all its models; without one of output that is free."""
    own = provider(f"price = {{ input = 3, output = 5 }}\n{more}")
    assert cost(own, model, Usage(200_000, 100_000, cached=50_000)) == pytest.approx(0.6 + 0.5, rel=1e-9)
    assert cost(own, model, MILLION) == pytest.approx(3 + 5, rel=1e-9)


def test_what_cannot_be_told_is_not_guessed() -> None:
    """A local server takes no money that the list would know, and a call without a model has no price."""
    assert cost(provider('auth = "none"'), MODEL, MILLION) is None
    assert cost(provider(), None, MILLION) is None
    assert context_window(provider(), None) is None


def test_how_many_tokens_a_model_takes() -> None:
    """As the configuration has it, for that model; else by the list."""
    own = provider('context_window = { "gpt-4o" = 7 }')
    assert context_window(own, MODEL) == 7
    assert context_window(own, "gpt-4o-mini") == 128_000
    assert context_window(provider(), MODEL) == 128_000
