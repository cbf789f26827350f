"""Prices: the configuration's, the shipped, LiteLLM's; never a silent zero."""

from __future__ import annotations

import pytest

from exo_node.routing.catalog.pricing import Priced, Pricing, cost_of
from exo_node.routing.deployment import Price
from tests.unit.routing.catalog_world import FACTS, TABLES, made


def test_whose_price_counts() -> None:
    """Configured wins over shipped, shipped over LiteLLM's."""
    asked: list[str] = []

    def lookup(name: str) -> Price | None:
        asked.append(name)
        return Price(7, 8) if name == "openai/brand-new" else None

    pricing = Pricing(TABLES, FACTS, lookup)
    assert pricing.of(made("openai", "gpt-4o", price=Price(1, 2))) == Priced(Price(1, 2), "configured")
    assert pricing.of(made("openai", "gpt-4o")) == Priced(Price(2.5, 10, cached=1.25), "shipped")
    assert asked == []
    assert pricing.of(made("openai", "brand-new")) == Priced(Price(7, 8), "litellm")
    assert pricing.of(made("openai", "nobody-knows")) is None


@pytest.mark.parametrize(
    ("provider", "model", "price"),
    [
        ("anthropic", "claude-3-opus-20240229", (15, 75)), ("anthropic", "claude-3-5-sonnet-20241022", (3, 15)),
        ("anthropic", "claude-3-haiku-20240307", (0.25, 1.25)), ("gemini", "gemini-2.0-flash-exp", (0.1, 0.4)),
        ("groq", "llama-3.3-70b-versatile", (0.59, 0.79)), ("cohere", "command-r", (0.15, 0.6)),
        ("openai", "gpt-4o-2024-08-06", (2.5, 10)), ("azure", "gpt-4o-deployment", (2.5, 10)),
        ("openrouter", "anthropic/claude-3.5-sonnet", (3, 15)), ("litellm_proxy", "gpt-4", (30, 60)),
        ("bedrock", "anthropic.claude-3-sonnet-20240229-v1:0", (3, 15)),
    ],
)  # fmt: skip
def test_shipped_prices(provider: str, model: str, price: tuple[float, float]) -> None:
    """Prices per million tokens, through dates and through hosts that sell at list price."""
    found = Pricing(TABLES, FACTS).of(made(provider, model))
    assert found is not None and (found.price.input, found.price.output, found.source) == (*price, "shipped")


def test_a_host_with_prices_of_its_own_is_not_given_the_makers() -> None:
    """The same open model costs different sums at different hosts: where the host's is unknown, none is claimed."""
    assert Pricing(TABLES, FACTS).of(made("nvidia_nim", "meta/llama-3.3-70b-instruct")) is None


def test_what_runs_at_home_is_free_and_says_so() -> None:
    """Self-hosted providers cost nothing, by name; a keyless proxy is not one of them."""
    pricing = Pricing(TABLES, FACTS)
    assert pricing.of(made("ollama", "llama3")) == Priced(Price(0, 0), "local")
    assert pricing.of(made("hosted_vllm", "m")) == Priced(Price(0, 0), "local")
    assert pricing.of(made("litellm_proxy", "house-model")) is None


def test_azures_base_model() -> None:
    """LiteLLM's `base_model` says what an Azure deployment of any name is."""
    one = made("azure", "prod-1", params={"base_model": "azure/gpt-4o-mini"})
    assert Pricing(TABLES, FACTS).of(one) == Priced(Price(0.15, 0.6, cached=0.075), "shipped")


def test_an_estimate() -> None:
    """The documents' example: gpt-4o with 1000 and 500 tokens costs 0.0025 and 0.005 USD."""
    one = cost_of("gpt-4o", Priced(Price(2.5, 10), "shipped"), 1000, 500)
    assert (one.input, one.output, one.total) == pytest.approx((0.0025, 0.005, 0.0075))
    unknown = cost_of("x", None, 1000, 500)
    assert unknown.total is None and unknown.as_dict()["total_cost"] is None


def test_a_price_per_request() -> None:
    """It counts whatever the tokens cost."""
    assert cost_of("b", Priced(Price(0, 0, per_request=0.001), "shipped"), 1000, 1000).total == 0.001


def test_no_dust_in_sums() -> None:
    """0.1 and 0.2 of a thousandth make 0.3 of it."""
    assert cost_of("m", Priced(Price(0.1, 0.4), "configured"), 1000, 500).total == 0.0003
