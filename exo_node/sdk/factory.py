"""Document 002's provider factory: a provider bound to one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from exo_node.sdk.client import address
from exo_node.sdk.service import LiteLLMConfig, LiteLLMService


class BoundProvider:
    """A service with a model of its own."""

    def __init__(self, service: LiteLLMService, model: str) -> None:
        self.model = model
        self._service = service

    def chat_completion(self, messages: Sequence[Mapping[str, Any]], **parameters: Any) -> Any:
        return self._service.chat_completion(messages, self.model, **parameters)

    async def achat_completion(self, messages: Sequence[Mapping[str, Any]], **parameters: Any) -> Any:
        return await self._service.achat_completion(messages, self.model, **parameters)

    def get_langchain_llm(self, **parameters: Any) -> Any:
        """A LangChain chat model. Raises `ImportError` without `exo-node[langchain]`."""
        from pydantic import SecretStr  # langchain-core's

        from exo_node.sdk.langchain import ChatExo

        config = self._service.config
        key = None if config.api_key is None else SecretStr(config.api_key)
        own = {"temperature": config.temperature, "max_tokens": config.max_tokens, **parameters}
        return ChatExo(model=self.model, base_url=address(config.base_url), api_key=key, **own)


class ProviderFactory:
    @staticmethod
    def create(provider_name: str = "litellm", model: str = "", **config: Any) -> BoundProvider:
        """`provider_name` "litellm" leaves the provider to the model's name; any other is put before it.

        `config` are fields of `LiteLLMConfig`. Raises `ValueError` without a model.
        """
        if not model:
            raise ValueError("ProviderFactory.create needs model=..., for example 'openai/gpt-4o'")
        named = model if provider_name == "litellm" or "/" in model else f"{provider_name}/{model}"
        return BoundProvider(LiteLLMService(LiteLLMConfig(**config)), named)
