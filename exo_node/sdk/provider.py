"""Document 001's provider: an upstream that speaks OpenAI's API (a LiteLLM proxy, or a node) with prices beside it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exo_node.routing.pricing import shipped_prices
from exo_node.sdk.client import TIMEOUT_S, AsyncClient
from exo_node.sdk.replies import Reply

PER_THOUSAND = 1000.0  # document 001's prices are USD per 1,000 tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatMessage:
    role: str
    content: Any

    def to_openai(self) -> dict[str, Any]:
        return {"role": self.role, "content": self.content}


Message = ChatMessage | Mapping[str, Any]


def plain(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [one.to_openai() if isinstance(one, ChatMessage) else dict(one) for one in messages]


class LiteLLMProvider:
    """`base_url` None: LITELLM_BASE_URL, then EXO_API_BASE, then this machine's node; `api_key` None: LITELLM_API_KEY.

    `custom_models`: name -> `{"pricing": {"input", "output"} (USD per 1,000 tokens), "rate_limits", "metadata"}`.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        custom_models: Mapping[str, Mapping[str, Any]] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.base_url = base_url or os.environ.get("LITELLM_BASE_URL") or os.environ.get("LITELLM_URL")
        self._api_key = api_key or os.environ.get("LITELLM_API_KEY") or os.environ.get("LITELLM_MASTER_KEY")
        self._timeout_s = timeout_s
        self._custom: dict[str, dict[str, Any]] = {}
        for name, record in (custom_models or {}).items():
            self.add_custom_model(name, **record)

    # -- calls

    async def chat_completion(self, messages: Sequence[Message], model: str, **parameters: Any) -> Reply:
        async with self._client() as client:
            body = {**parameters, "messages": plain(messages), "model": model}
            answer: Reply = await client.request("POST", "/v1/chat/completions", body)
            return answer

    async def stream_chat_completion(
        self, messages: Sequence[Message], model: str, **parameters: Any
    ) -> AsyncIterator[Reply]:
        async with self._client() as client:
            body = {**parameters, "messages": plain(messages), "model": model}
            async for chunk in client.stream("/v1/chat/completions", body):
                yield chunk

    async def health_check(self) -> bool:
        """Whether the upstream answers and takes our key; never raises."""
        try:
            async with self._client() as client:
                await client.request("GET", "/v1/models")
        except Exception:  # whatever is wrong with it, it is not healthy
            return False
        return True

    async def get_available_models(self) -> list[Reply]:
        """What the upstream lists: objects with an `id`."""
        async with self._client() as client:
            return list((await client.request("GET", "/v1/models")).data)

    # -- what is known of models

    def add_custom_model(
        self,
        model_name: str,
        pricing: Mapping[str, float] | None = None,
        rate_limits: Mapping[str, int] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Raises `ValueError` for prices that are no prices."""
        for side in ("input", "output"):
            price = (pricing or {}).get(side, 0.0)
            if not isinstance(price, int | float) or price < 0:
                raise ValueError(f"{model_name}: pricing.{side} must be USD per 1,000 tokens, got {price!r}")
        self._custom[model_name] = {
            "pricing": dict(pricing or {}),
            "rate_limits": dict(rate_limits or {}),
            "metadata": dict(metadata or {}),
        }

    def get_supported_models(self) -> list[str]:
        """Models whose price is known: the custom ones, then the shipped table."""
        return [*self._custom, *(name for name in shipped_prices() if name not in self._custom)]

    def get_model_info(self, model: str) -> dict[str, Any] | None:
        """`pricing` (USD per 1,000 tokens), `rate_limits`, `metadata`; None for an unknown model."""
        if model in self._custom:
            return {"name": model, **self._custom[model]}
        price = shipped_prices().get(model)
        if price is None:
            return None
        pricing = {"input": price.input / PER_THOUSAND, "output": price.output / PER_THOUSAND}
        return {"name": model, "pricing": pricing, "rate_limits": {}, "metadata": {}}

    def calculate_cost(self, prompt_tokens: int, completion_tokens: int, model: str) -> float:
        """USD. Raises `ValueError` where no price is known: an unknown price is not 0."""
        info = self.get_model_info(model)
        if info is None or not info["pricing"]:
            raise ValueError(f"no price is known for {model!r}: add it with add_custom_model(pricing=...)")
        pricing = info["pricing"]
        total = pricing.get("input", 0.0) * prompt_tokens + pricing.get("output", 0.0) * completion_tokens
        return float(total / PER_THOUSAND)

    def _client(self) -> AsyncClient:
        return AsyncClient(self.base_url, self._api_key, self._timeout_s)
