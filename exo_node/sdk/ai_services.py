"""Document 004's provider: `get_ai_provider("litellm-gpt4")` and its calls, served by a node that has the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from exo_node.sdk.client import AsyncClient
from exo_node.sdk.errors import not_found
from exo_node.sdk.service import LiteLLMConfig, LiteLLMService


class AIProvider:
    """Answers have the document's keys (readable by attribute too).

    Where several records have a model of the same name, the calls go to this record's. `models`: the record's default
    model by kind of call ("chat", "embedding", "rerank"); the node's own default where it names none.
    """

    def __init__(self, system_name: str, service: LiteLLMService, models: Mapping[str, str] | None = None) -> None:
        self.system_name = system_name
        self._service = service
        self._models = models or {}

    async def create_chat_completion(
        self, messages: Sequence[Mapping[str, Any]], model: str | None = None, **parameters: Any
    ) -> Any:
        model = model or self._models.get("chat")
        return await self._service.achat_completion(messages, model, **self._own(parameters))

    async def batch_completions(self, requests: Sequence[Mapping[str, Any]]) -> list[Any]:
        """In parallel over the deployments; in order; where one failed, an object with `error`."""
        bodies = [self._own({"model": self._models.get("chat"), **one}) for one in requests]
        answer = await self._service.abatch_completions(bodies)
        return [one.get("response") or one for one in answer.data]

    async def get_embeddings(self, text: str | Sequence[str], llm: str | None = None, **parameters: Any) -> Any:
        """The vector of a text, or one for each of several. `llm` None: the record's `embedding_model`."""
        llm = llm or self._models.get("embedding")
        answer = await self._service.acreate_embedding(text, llm, **self._own(parameters))
        vectors = [item.embedding for item in answer.data]
        return vectors[0] if isinstance(text, str) else vectors

    async def rerank(self, query: str, documents: Sequence[str], llm: str | None = None, **parameters: Any) -> Any:
        """Cohere's answer. `llm` None: the record's `rerank_model`."""
        llm = llm or self._models.get("rerank")
        return await self._service.arerank(query, documents, llm, **self._own(parameters))

    def get_router_stats(self) -> Any:
        """`healthy_deployments`, `model_list`, `routing_strategy`, and what else the node tells. Blocks."""
        return self._service.router_stats()

    def _own(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        return {**parameters, "exo": {"record": self.system_name, **(parameters.get("exo") or {})}}


async def get_ai_provider(system_name: str, **config: Any) -> AIProvider:
    """The provider whose record the node was given (`exo --litellm-config records.json`). `config`: `LiteLLMConfig`.

    Raises `NotFoundError` when the node has no record of that name.
    """
    chosen = LiteLLMConfig(**config)
    async with AsyncClient(chosen.base_url, chosen.api_key, chosen.timeout_s) as client:
        stats = await client.request("GET", "/v1/router/stats")
        if system_name not in stats["records"]:
            there = ", ".join(stats["records"]) or "none"
            raise not_found(f"the node at {client.root} has no provider {system_name!r}; it has: {there}")
        models = stats.get("record_models", {}).get(system_name)
    return AIProvider(system_name, LiteLLMService(chosen), models)
