"""Prices that exo-node ships, for programs that compare costs without asking a node."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from exo_node.routing.catalog.capabilities import Facts
from exo_node.routing.catalog.equivalents import Equivalents
from exo_node.routing.catalog.tables import ModelFacts, Tables, load_tables


class ShippedModels:
    """The shipped table by the names that people use: "gpt-4o", "groq/llama-3.3-70b-versatile"."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._facts = Facts(tables, Equivalents(tables))

    def chat(self) -> Mapping[str, ModelFacts]:
        """Priced models that answer in text; without their provider where the name alone says it."""
        found = {}
        for key, facts in self._tables.models.items():
            if facts.price is None or facts.can & {"embedding", "rerank"}:
                continue
            provider, _, model = self._tables.spelled[key].partition("/")
            maker = self._tables.maker_of(model)
            found[model if maker is not None and maker.id == provider else f"{provider}/{model}"] = facts
        return found

    def find(self, model: str) -> ModelFacts | None:
        """What is known of "provider/model" or of a model whose name says its maker; dates are seen through."""
        prefix, slash, rest = model.partition("/")
        provider = self._tables.provider(prefix) if slash else None
        if provider is None:
            provider, rest = self._tables.maker_of(model), model
        return None if provider is None else self._facts.find(provider.id, rest)


@cache
def shipped_models() -> ShippedModels:
    """Read once in a process, when first asked for."""
    return ShippedModels(load_tables())
