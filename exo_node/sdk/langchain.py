"""A LangChain chat model over a node. Needs `exo-node[langchain]` (langchain-core)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolCallChunk,
    ToolMessage,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import SecretStr

from exo_node.sdk.service import LiteLLMConfig, LiteLLMService
from exo_node.sdk.tools import arguments_of

USAGE = {"stream_options": {"include_usage": True}}
ROLES: Mapping[type[BaseMessage], str] = {HumanMessage: "user", SystemMessage: "system", AIMessage: "assistant"}


class ChatExo(BaseChatModel):
    """`ChatExo(model="openai/gpt-4o")`; `base_url` None: EXO_API_BASE or this machine's node."""

    model: str
    base_url: str | None = None
    api_key: SecretStr | None = None
    temperature: float | None = None
    max_tokens: int | None = None

    @property
    def _llm_type(self) -> str:
        return "exo"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model, "base_url": self.base_url}

    def _service(self) -> LiteLLMService:
        key = None if self.api_key is None else self.api_key.get_secret_value()
        return LiteLLMService(LiteLLMConfig(base_url=self.base_url, api_key=key))

    def _parameters(self, stop: list[str] | None, given: Mapping[str, Any]) -> dict[str, Any]:
        own = {"temperature": self.temperature, "max_tokens": self.max_tokens, "stop": stop}
        return {name: value for name, value in {**own, **given}.items() if value is not None}

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        service = self._service()
        try:
            asked = [as_openai(one) for one in messages]
            return _result(service.chat_completion(asked, self.model, **self._parameters(stop, kwargs)))
        finally:
            service.close()

    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        asked = [as_openai(one) for one in messages]
        return _result(await self._service().achat_completion(asked, self.model, **self._parameters(stop, kwargs)))

    def _stream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        service = self._service()
        try:
            asked = [as_openai(one) for one in messages]
            parameters = {**USAGE, **self._parameters(stop, kwargs)}
            used: Any = None
            for chunk in service.chat_completion(asked, self.model, stream=True, **parameters):
                used = chunk.usage or used
                yield from _chunks(chunk)
            yield from _reported(used)
        finally:
            service.close()

    async def _astream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        asked = [as_openai(one) for one in messages]
        parameters = {**USAGE, **self._parameters(stop, kwargs)}
        used: Any = None
        async for chunk in await self._service().achat_completion(asked, self.model, stream=True, **parameters):
            used = chunk.usage or used
            for piece in _chunks(chunk):
                yield piece
        for piece in _reported(used):
            yield piece

    def bind_tools(self, tools: Sequence[Any], *, tool_choice: Any = None, **kwargs: Any) -> Any:
        """LangChain's way to give a model tools."""
        bound = {"tools": [convert_to_openai_tool(tool) for tool in tools], **kwargs}
        if tool_choice is not None:
            bound["tool_choice"] = tool_choice
        return self.bind(**bound)


class LLMChain:
    """The chain of document 002 (LangChain 1.0 has it no more): a prompt, filled in, asked; the answer's text."""

    def __init__(self, llm: Any, prompt: Any) -> None:
        self._chain = prompt | llm

    def run(self, *one: Any, **inputs: Any) -> str:
        """The prompt's variables by name, or the only one's value."""
        answer: BaseMessage = self._chain.invoke(one[0] if one else inputs)
        return str(answer.content)


def as_openai(message: BaseMessage) -> dict[str, Any]:
    """Raises `ValueError` for a kind of message that OpenAI's API does not have."""
    if isinstance(message, ToolMessage):
        return {"role": "tool", "tool_call_id": message.tool_call_id, "content": message.content}
    if isinstance(message, ChatMessage):
        return {"role": message.role, "content": message.content}
    for cls, role in ROLES.items():
        if isinstance(message, cls):
            told: dict[str, Any] = {"role": role, "content": message.content}
            if isinstance(message, AIMessage) and (calls := [*_called(message)]):
                told["tool_calls"] = calls
            return told
    raise ValueError(f"a message of type {message.type!r} cannot be sent")


def _called(message: AIMessage) -> Iterator[dict[str, Any]]:
    """A message's tool calls as OpenAI has them, those with arguments that are no JSON object as they came."""
    said: list[tuple[Any, str]] = [(call, json.dumps(call["args"])) for call in message.tool_calls]
    said += [(call, call["args"] or "") for call in message.invalid_tool_calls]
    for call, arguments in said:
        yield {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": arguments}}


def _usage(used: Mapping[str, Any] | None) -> Any:
    if not used:
        return None
    return {
        "input_tokens": used["prompt_tokens"],
        "output_tokens": used["completion_tokens"],
        "total_tokens": used["prompt_tokens"] + used["completion_tokens"],
    }


def _result(answer: Any) -> ChatResult:
    choice = answer.choices[0]
    calls: list[Any] = []
    invalid: list[Any] = []  # LangChain's agents tell the model of these
    for one in choice.message.tool_calls or ():
        call = {"name": one.function.name, "id": one.id}
        try:
            calls.append({**call, "args": arguments_of(one)})
        except ValueError as error:
            invalid.append({**call, "args": one.function.arguments, "error": str(error)})
    told: dict[str, Any] = {"model_name": answer.model, "finish_reason": choice.finish_reason}
    message = AIMessage(
        content=choice.message.content or "",
        tool_calls=calls,
        invalid_tool_calls=invalid,
        response_metadata=told,
        usage_metadata=_usage(answer.usage),
    )
    return ChatResult(generations=[ChatGeneration(message=message)])


def _chunks(chunk: Any) -> Iterator[ChatGenerationChunk]:
    for choice in chunk.choices:
        pieces = [
            ToolCallChunk(
                name=one.function.get("name"),
                args=one.function.get("arguments"),
                id=one.get("id"),
                index=one.get("index", 0),
                type="tool_call_chunk",
            )
            for one in choice.delta.tool_calls or ()
        ]
        yield ChatGenerationChunk(
            message=AIMessageChunk(content=choice.delta.content or "", tool_call_chunks=pieces),
            generation_info={"finish_reason": choice.finish_reason} if choice.finish_reason else None,
        )


def _reported(used: Any) -> Iterator[ChatGenerationChunk]:
    """The stream's last report, once: LangChain adds the chunks' usage up, and providers send it at the end, with the
    last choice, or with every chunk, how much it is so far."""
    if used:
        yield ChatGenerationChunk(message=AIMessageChunk(content="", usage_metadata=_usage(used)))
