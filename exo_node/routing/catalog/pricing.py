"""What a call costs. Pure.

The configuration's price wins, then the shipped table's, then LiteLLM's (asked through a function, while its sidecar
runs). The ring and self-hosted providers cost nothing and say so; a price that nobody knows is None, never 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from exo_node.routing.catalog.capabilities import Facts
from exo_node.routing.catalog.tables import Tables
from exo_node.routing.deployment import Deployment, Price

Source = Literal["configured", "shipped", "litellm", "local"]
FREE = Price(0.0, 0.0)
# "provider/model" -> its price in LiteLLM's map; None: not there, or the sidecar does not run. Must not wait.
PriceLookup = Callable[[str], Price | None]


@dataclass(frozen=True, slots=True)
class Priced:
    price: Price
    source: Source


@dataclass(frozen=True, slots=True)
class Estimate:
    """USD; None where no price is known. `source`: whose price, "" without one."""

    model: str
    input: float | None
    output: float | None
    total: float | None
    price: Price | None
    source: Source | Literal[""]

    def as_dict(self) -> dict[str, Any]:
        price = None
        if self.price is not None:
            price = {"input": self.price.input, "output": self.price.output, "per_request": self.price.per_request}
        return {
            "model": self.model,
            "input_cost": self.input,
            "output_cost": self.output,
            "total_cost": self.total,
            "currency": "USD",
            "price_per_million": price,
            "price_source": self.source or None,
        }


def cost_of(model: str, priced: Priced | None, prompt_tokens: int, completion_tokens: int) -> Estimate:
    if priced is None:
        return Estimate(model, None, None, None, None, "")
    price = priced.price
    paid_in, paid_out = price.input * prompt_tokens / 1e6, price.output * completion_tokens / 1e6
    total = round(paid_in + paid_out + price.per_request, 15)  # without the dust of the sum
    return Estimate(model, paid_in, paid_out, total, price, priced.source)


class Pricing:
    def __init__(self, tables: Tables, facts: Facts, lookup: PriceLookup | None = None) -> None:
        self._tables = tables
        self._facts = facts
        self._lookup = lookup

    def of(self, deployment: Deployment) -> Priced | None:
        """A deployment's price per million tokens, and whose it is."""
        if deployment.price is not None:
            return Priced(deployment.price, "configured")
        base = deployment.params.get("base_model")  # LiteLLM's word for what an Azure deployment really is
        for provider, model in self._names(deployment, base if isinstance(base, str) else ""):
            if (found := self.of_model(provider, model)) is not None:
                return found
        return None

    def of_model(self, provider: str, model: str) -> Priced | None:
        """The price of a provider's model, as far as anyone knows."""
        known = self._tables.provider(provider)
        if known is not None and known.keyless and not known.paid:
            return Priced(FREE, "local")
        row = self._facts.own(provider, model)
        if (row is None or row.price is None) and (provider == "litellm_proxy" or known is None or known.list_price):
            row = self._facts.makers(provider, model)
        if row is not None and row.price is not None:
            return Priced(row.price, "shipped")
        if self._lookup is not None and (price := self._lookup(f"{provider}/{model}")) is not None:
            return Priced(price, "litellm")
        return None

    def _names(self, deployment: Deployment, base: str) -> list[tuple[str, str]]:
        names = [(deployment.provider, deployment.upstream_model)]
        if base:
            prefix, slash, rest = base.partition("/")
            names.insert(0, (prefix, rest) if slash else (deployment.provider, base))
        return names
