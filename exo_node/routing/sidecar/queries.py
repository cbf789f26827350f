"""What LiteLLM knows: prices, windows, capabilities, providers. Nothing here uses the network.

`get_model_info("ollama/...")` would call Ollama while the event loop waits, so the table behind it is read instead.
Prices are USD per million tokens.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from exo_node.routing.configuration.deployment_section import SUPPORTS


class Knowledge:
    """LiteLLM's tables, by our words."""

    def __init__(self, litellm: Any) -> None:
        self._litellm = litellm
        self._costs: Mapping[str, Mapping[str, Any]] = litellm.model_cost

    def provider(self, model: str) -> tuple[str, str] | None:
        """(provider, the model's name there); None for a name that LiteLLM does not know."""
        try:
            name, provider, _, _ = self._litellm.get_llm_provider(model)
        except self._litellm.exceptions.BadRequestError:
            return None
        return provider, name

    def row(self, model: str) -> Mapping[str, Any] | None:
        """The model's row of the price map, by its full name or without its provider."""
        return next((self._costs[name] for name in self._names(model) if name in self._costs), None)

    def _names(self, model: str) -> Iterator[str]:
        yield model
        if (found := self.provider(model)) is not None:
            provider, name = found
            yield f"{provider}/{name}"
            # "openai/gpt-4o" is filed as "gpt-4o"; a row of another provider is another price.
            if self._costs.get(name, {}).get("litellm_provider") in (provider, f"{provider}_chat"):
                yield name

    def facts(self) -> dict[str, list[Any]]:
        """Every row of the table, for who keeps a copy: {name: [provider, mode, context, can, cannot, input, output]}.

        A row filed without its provider ("gpt-4o") is there with it too. What a row does not say is null or left out.
        """
        found: dict[str, list[Any]] = {}
        for name, row in self._costs.items():
            provider = _provider_of(row)
            price = _price(row)
            said = {ours: row.get(theirs) for theirs, ours in SUPPORTS.items()}
            facts = [
                provider,
                row.get("mode") or "",
                _whole(row.get("max_input_tokens") or row.get("max_tokens")),
                [ours for ours, can in said.items() if can is True],
                [ours for ours, can in said.items() if can is False],
                price and price["input"],
                price and price["output"],
                price and price["cached"],
            ]
            found[name] = facts
            if provider and not name.startswith(f"{provider}/"):
                found.setdefault(f"{provider}/{name}", facts)
        return found

    def tools(self, model: str) -> bool:
        """Whether the model takes tools natively: by its row, else by what its provider's translation takes."""
        row = self.row(model)
        if row is not None and row.get("mode") == "chat":
            return bool(row.get("supports_function_calling"))
        found = self.provider(model)
        if found is None:
            return True
        known = self._litellm.get_supported_openai_params(model=found[1], custom_llm_provider=found[0])
        return known is None or "tools" in known


def _provider_of(row: Mapping[str, Any]) -> str:
    """LiteLLM's prefix for a row: its table also tells families of a provider apart ("vertex_ai-language-models")."""
    said = str(row.get("litellm_provider") or "")
    said = "vertex_ai" if said.startswith("vertex_ai-") else said
    return said.removesuffix("_chat").removesuffix("_converse") if said != "ollama_chat" else said


def _price(row: Mapping[str, Any]) -> dict[str, float | None] | None:
    given, made = row.get("input_cost_per_token"), row.get("output_cost_per_token")
    if given is None and made is None:
        return None
    found = row.get("cache_read_input_token_cost")
    cached = None if found is None else float(found) * 1e6
    return {"input": float(given or 0) * 1e6, "output": float(made or 0) * 1e6, "cached": cached}


def _whole(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None  # some rows hold prose


def resident_bytes() -> int:
    """Memory of this process (0 where the platform does not say)."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
