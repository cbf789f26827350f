"""Document 002's service: chat, tools, vision, embeddings, batches, sync and async, through a node of this cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any
from urllib.parse import quote

from exo_node.sdk.callbacks import Watch
from exo_node.sdk.client import CHAT, TIMEOUT_S, AsyncClient, Client, address, compact, headers
from exo_node.sdk.replies import Reply
from exo_node.sdk.tools import (
    MAX_ROUNDS,
    Conversation,
    Handlers,
    ToolDefinition,
    arun_tools,
    as_openai,
    astream_tools,
    run_tools,
    stream_tools,
)

BATCH = "/v1/batch/completions"
# What concerns the node rather than one call: told to it by `_setup_litellm` and `update_config`.
NODE_FIELDS = ("ollama_base_url", "enable_caching", "enable_cost_tracking")


@dataclass(frozen=True, slots=True, kw_only=True)
class LiteLLMConfig:
    """Defaults of calls that do not say; None: the node decides.

    `base_url` None: EXO_API_BASE or this machine's node.
    """

    default_provider: str | None = None
    default_model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    ollama_base_url: str | None = None
    enable_caching: bool | None = None
    enable_cost_tracking: bool | None = None
    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    timeout_s: float = TIMEOUT_S


class LiteLLMService:
    """Every method takes OpenAI's parameters as keywords and gives OpenAI's objects (readable by attribute and by key).

    Raises the exceptions of `exo_node.sdk` (`RateLimitError`, ...).
    """

    def __init__(self, config: LiteLLMConfig | None = None) -> None:
        self.config = config or LiteLLMConfig()
        self._client: tuple[Any, Client] | None = None

    # -- chat

    def chat_completion(
        self,
        messages: Sequence[Mapping[str, Any]],
        model: str | None = None,
        provider: str | None = None,
        stream: bool = False,
        **parameters: Any,
    ) -> Any:
        """The completion, or with `stream=True` an iterator of its chunks."""
        body = self._body(messages, model, provider, parameters)
        if stream:
            return Watch(body).stream(self._sync().stream(CHAT, body))
        return Watch(body).whole(lambda: self._sync().request("POST", CHAT, body))

    async def achat_completion(
        self,
        messages: Sequence[Mapping[str, Any]],
        model: str | None = None,
        provider: str | None = None,
        stream: bool = False,
        **parameters: Any,
    ) -> Any:
        """Like `chat_completion`; with `stream=True` an async iterator."""
        body = self._body(messages, model, provider, parameters)
        if stream:
            return Watch(body).astream(self._astream(body))
        async with self._async() as client:
            return await Watch(body).awhole(client.request("POST", CHAT, body))

    def chat_with_tools(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[ToolDefinition | Mapping[str, Any]],
        tool_handlers: Handlers,
        model: str | None = None,
        provider: str | None = None,
        max_rounds: int = MAX_ROUNDS,
        stream: bool = False,
        **parameters: Any,
    ) -> Any:
        """Ask, run the tools that the model calls, ask again, for at most `max_rounds` answers.

        Returns `{"response", "messages", "tool_calls", "rounds", "usage"}`, or with `stream=True` an iterator of every
        round's chunks. Handlers of one round run side by side, each with the call's arguments as keywords; what one
        raises is told to the model. Raises `RuntimeError` when the rounds are used up.
        """
        conversation = Conversation(messages, tool_handlers, max_rounds)
        extra = {**parameters, "tools": as_openai(tools)}
        if stream:
            return stream_tools(
                lambda all_: self.chat_completion(all_, model, provider, stream=True, **extra), conversation
            )
        return run_tools(lambda all_: self.chat_completion(all_, model, provider, **extra), conversation)

    async def achat_with_tools(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[ToolDefinition | Mapping[str, Any]],
        tool_handlers: Handlers,
        model: str | None = None,
        provider: str | None = None,
        max_rounds: int = MAX_ROUNDS,
        stream: bool = False,
        **parameters: Any,
    ) -> Any:
        """Like `chat_with_tools`; handlers may be coroutines; with `stream=True` an async iterator."""
        conversation = Conversation(messages, tool_handlers, max_rounds)
        extra = {**parameters, "tools": as_openai(tools)}
        if stream:

            def ask(all_: list[dict[str, Any]]) -> AsyncIterator[Reply]:
                body = self._body(all_, model, provider, extra)
                return Watch(body).astream(self._astream(body))

            return astream_tools(ask, conversation)
        return await arun_tools(lambda all_: self.achat_completion(all_, model, provider, **extra), conversation)

    # -- the rest

    def vision_completion(
        self,
        prompt: str,
        image_url: str,
        model: str | None = None,
        provider: str | None = None,
        **parameters: Any,
    ) -> Any:
        """Ask about a picture: an https: address or a data: URL."""
        return self.chat_completion(_picture(prompt, image_url), model, provider, **parameters)

    async def avision_completion(
        self,
        prompt: str,
        image_url: str,
        model: str | None = None,
        provider: str | None = None,
        **parameters: Any,
    ) -> Any:
        return await self.achat_completion(_picture(prompt, image_url), model, provider, **parameters)

    def create_embedding(
        self, input: str | Sequence[str], model: str | None = None, provider: str | None = None, **parameters: Any
    ) -> Any:
        """OpenAI's list of embeddings: `[item.embedding for item in answer.data]`."""
        body = self._embedding(input, model, provider, parameters)
        return Watch(body, "embedding").whole(lambda: self._sync().request("POST", "/v1/embeddings", body))

    async def acreate_embedding(
        self, input: str | Sequence[str], model: str | None = None, provider: str | None = None, **parameters: Any
    ) -> Any:
        body = self._embedding(input, model, provider, parameters)
        async with self._async() as client:
            return await Watch(body, "embedding").awhole(client.request("POST", "/v1/embeddings", body))

    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        model: str | None = None,
        provider: str | None = None,
        **parameters: Any,
    ) -> Any:
        """Cohere's answer: `results[].{index, relevance_score}`, best first."""
        body = {**parameters, "query": query, "documents": list(documents), "model": model, "provider": provider}
        return Watch(body, "rerank").whole(lambda: self._sync().request("POST", "/v1/rerank", body))

    async def arerank(
        self,
        query: str,
        documents: Sequence[str],
        model: str | None = None,
        provider: str | None = None,
        **parameters: Any,
    ) -> Any:
        body = {**parameters, "query": query, "documents": list(documents), "model": model, "provider": provider}
        async with self._async() as client:
            return await Watch(body, "rerank").awhole(client.request("POST", "/v1/rerank", body))

    def batch_completions(self, requests: Sequence[Mapping[str, Any]], **options: Any) -> Any:
        """Many chats in parallel; `data` in order, each with its `response`, or its own `error` where it failed."""
        bodies = self._batch(requests)
        watches = [Watch(body) for body in bodies]
        return _told(watches, self._sync().request("POST", BATCH, {**options, "requests": bodies}))

    async def abatch_completions(self, requests: Sequence[Mapping[str, Any]], **options: Any) -> Any:
        bodies = self._batch(requests)
        watches = [Watch(body) for body in bodies]
        async with self._async() as client:
            return _told(watches, await client.request("POST", BATCH, {**options, "requests": bodies}))

    def router_stats(self) -> Any:
        """`healthy_deployments`, `model_list`, `routing_strategy`, and what else the node tells."""
        return self._sync().request("GET", "/v1/router/stats")

    def list_models(self, provider: str | None = None) -> Any:
        suffix = f"?provider={quote(provider, safe='')}" if provider else ""
        return self._sync().request("GET", f"/v1/models{suffix}")

    def list_providers(self) -> Any:
        return self._sync().request("GET", "/v1/providers")

    def estimate_cost(self, model: str, input_tokens: int, output_tokens: int) -> Any:
        body = {"model": model, "input_tokens": input_tokens, "output_tokens": output_tokens}
        return self._sync().request("POST", "/v1/cost/estimate", body)

    # -- configuration

    def update_config(self, **changes: Any) -> LiteLLMConfig:
        """Change the defaults; those that concern the node are told to it. Raises `TypeError` for an unknown name."""
        known = {field.name for field in fields(LiteLLMConfig)}
        for name in changes:
            if name not in known:
                raise TypeError(f"unknown setting {name!r}; known: {', '.join(sorted(known))}")
        before, self.config = self.config, replace(self.config, **changes)
        try:
            self._tell_node(changes)
        except BaseException:
            self.config = before  # the node refused: nothing has changed
            raise
        return self.config

    def _setup_litellm(self) -> None:
        """Tell the node what of the configuration concerns it (the document's name for it)."""
        self._tell_node(asdict(self.config))

    def _tell_node(self, changes: Mapping[str, Any]) -> None:
        told = {name: changes[name] for name in NODE_FIELDS if changes.get(name) is not None}
        if told:
            self._sync().request("POST", "/v1/config", told)

    def close(self) -> None:
        if self._client is not None:
            self._client[1].close()
            self._client = None

    # -- parts

    def _sync(self) -> Client:
        """The client of the current configuration and environment."""
        config = self.config
        wanted = (address(config.base_url), headers(config.api_key).get("Authorization"), config.timeout_s)
        if self._client is None or self._client[0] != wanted:
            self.close()
            self._client = (wanted, Client(config.base_url, config.api_key, config.timeout_s))
        return self._client[1]

    def _async(self) -> AsyncClient:
        return AsyncClient(self.config.base_url, self.config.api_key, self.config.timeout_s)

    async def _astream(self, body: Mapping[str, Any]) -> AsyncIterator[Reply]:
        async with self._async() as client:
            async for chunk in client.stream(CHAT, body):
                yield chunk

    def _body(
        self,
        messages: Sequence[Mapping[str, Any]],
        model: str | None,
        provider: str | None,
        parameters: Mapping[str, Any],
    ) -> dict[str, Any]:
        config = self.config
        named = model or config.default_model
        # A provider in the name, or no name at all, says more than the default provider.
        default = config.default_provider if named and "/" not in named else None
        defaults = {"temperature": config.temperature, "max_tokens": config.max_tokens}
        body = {**defaults, **parameters, "messages": list(messages), "model": named, "provider": provider or default}
        return compact(body)

    def _embedding(
        self, input: str | Sequence[str], model: str | None, provider: str | None, parameters: Mapping[str, Any]
    ) -> dict[str, Any]:
        return {**parameters, "input": input, "model": model, "provider": provider or self.config.default_provider}

    def _batch(self, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [self._body(one["messages"], one.get("model"), one.get("provider"), _others(one)) for one in requests]


def get_litellm_service() -> LiteLLMService:
    """The process's service: the same object at every call."""
    if not _SHARED:
        _SHARED.append(LiteLLMService())
    return _SHARED[0]


_SHARED: list[LiteLLMService] = []


def _told(watches: Sequence[Watch], answer: Any) -> Any:
    """The batch's answer, its successes told to the callbacks."""
    for watch, one in zip(watches, answer["data"], strict=True):
        if one["error"] is None:
            watch.tell(one["response"])
    return answer


def _others(request: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in request.items() if name not in ("messages", "model", "provider")}


def _picture(prompt: str, image_url: str) -> list[dict[str, Any]]:
    parts = [{"type": "text", "text": prompt}, {"type": "image_url", "image_url": {"url": image_url}}]
    return [{"role": "user", "content": parts}]
