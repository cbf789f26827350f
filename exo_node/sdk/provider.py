"""Document 001's provider: an upstream that speaks OpenAI's API (a LiteLLM proxy, or a node) with prices beside it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exo_node.sdk.callbacks import Watch
from exo_node.sdk.client import CHAT, TIMEOUT_S, AsyncClient
from exo_node.sdk.prices import shipped_models
from exo_node.sdk.replies import Reply

PER_THOUSAND = 1000.0  # document 001's prices are USD per 1,000 tokens, the shipped ones per million


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

    `custom_models`: name -> `{"pricing": {"input", "output"} (USD per 1,000 tokens), "rate_limits", "metadata"}`. The
    limits are told by `get_model_info`; the upstream enforces its own.
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
        self._available: frozenset[str] | None = None  # what the upstream listed last
        for name, record in (custom_models or {}).items():
            self.add_custom_model(name, **record)

    # -- calls

    async def chat_completion(self, messages: Sequence[Message], model: str, **parameters: Any) -> Reply:
        """OpenAI's completion. Raises the exceptions of `exo_node.sdk`."""
        body = {**parameters, "messages": plain(messages), "model": model}
        async with self._client() as client:
            answer: Reply = await Watch(body).awhole(client.request("POST", CHAT, body))
            return answer

    async def stream_chat_completion(
        self, messages: Sequence[Message], model: str, **parameters: Any
    ) -> AsyncIterator[Reply]:
        """OpenAI's chunks."""
        body = {**parameters, "messages": plain(messages), "model": model}
        async with self._client() as client:
            async for chunk in Watch(body).astream(client.stream(CHAT, body)):
                yield chunk

    async def health_check(self) -> bool:
        """Whether the upstream answers and takes our key; never raises."""
        try:
            await self.get_available_models()
        except Exception:  # whatever is wrong with it, it is not healthy
            return False
        return True

    async def get_available_models(self) -> list[Reply]:
        """What the upstream lists: objects with an `id`."""
        async with self._client() as client:
            found = list((await client.request("GET", "/v1/models"))["data"])
        self._available = frozenset(one["id"] for one in found)
        return found

    # -- what is known of models

    def add_custom_model(
        self,
        model_name: str,
        pricing: Mapping[str, float] | None = None,
        rate_limits: Mapping[str, int] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Raises `ValueError` for prices that are no prices."""
        if pricing is not None:
            for side in ("input", "output"):
                price = pricing.get(side)
                if isinstance(price, bool) or not isinstance(price, int | float) or not 0 <= price < float("inf"):
                    raise ValueError(f"{model_name}: pricing.{side} must be USD per 1,000 tokens, got {price!r}")
        self._custom[model_name] = {
            "pricing": dict(pricing or {}),
            "rate_limits": dict(rate_limits or {}),
            "metadata": dict(metadata or {}),
        }

    def get_supported_models(self) -> list[str]:
        """Models with a known price: the custom ones, then shipped ones, of these only what the upstream has listed
        (`get_available_models`, `health_check`), if it was ever asked."""
        custom = [name for name, record in self._custom.items() if record["pricing"]]
        if self._available is None:
            return [*custom, *(name for name in shipped_models().chat() if name not in self._custom)]
        listed = [name for name in sorted(self._available - self._custom.keys()) if self.get_model_info(name)]
        return [*custom, *listed]

    def get_model_info(self, model: str) -> dict[str, Any] | None:
        """`pricing` (USD per 1,000 tokens), `rate_limits`, `metadata`; None for an unknown model."""
        if model in self._custom:
            return {"name": model, **self._custom[model]}
        facts = shipped_models().find(model)
        if facts is None or facts.price is None:
            return None
        metadata = {} if facts.context is None else {"context_window": facts.context}
        pricing = {"input": facts.price.input / PER_THOUSAND, "output": facts.price.output / PER_THOUSAND}
        return {"name": model, "pricing": pricing, "rate_limits": {}, "metadata": metadata}

    def calculate_cost(self, prompt_tokens: int, completion_tokens: int, model: str) -> float:
        """USD. Raises `ValueError` where no price is known: an unknown price is not 0."""
        info = self.get_model_info(model)
        if info is None or not info["pricing"]:
            raise ValueError(f"no price is known for {model!r}: add it with add_custom_model(pricing=...)")
        pricing = info["pricing"]
        total = pricing["input"] * prompt_tokens + pricing["output"] * completion_tokens
        return float(total / PER_THOUSAND)

    def _client(self) -> AsyncClient:
        return AsyncClient(self.base_url, self._api_key, self._timeout_s)
