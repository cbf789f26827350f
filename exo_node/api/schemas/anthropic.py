"""Anthropic's requests: https://docs.anthropic.com/en/api/messages ."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from exo_node.api.schemas.openai import Model

Object = dict[str, Any]


class AnthropicTurn(Struct, kw_only=True):
    """One message: text, or blocks (text, image, tool_use, tool_result, thinking)."""

    role: str
    content: str | list[Object]


class CountTokensRequest(Struct, kw_only=True):
    """`POST /v1/messages/count_tokens`: what makes the prompt."""

    messages: Annotated[list[AnthropicTurn], Meta(min_length=1)]
    model: Model | None = None
    system: str | list[Object] | None = None
    tools: list[Object] | None = None
    tool_choice: Annotated[Object, Meta(description="type: auto, any, tool (with name) or none.")] | None = None
    thinking: Object | None = None
    output_config: Annotated[Object, Meta(description="format (a JSON schema) and effort.")] | None = None


class MessagesRequest(CountTokensRequest, kw_only=True):
    """`POST /v1/messages`."""

    max_tokens: Annotated[int, Meta(ge=1)]
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    metadata: Object | None = None
    service_tier: str | None = None


class AnthropicUsage(Struct, kw_only=True):
    input_tokens: int
    output_tokens: int


class AnthropicMessage(Struct, kw_only=True):
    """A whole answer."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[Object]
    stop_reason: str | None
    stop_sequence: str | None
    usage: AnthropicUsage


class TokenCount(Struct, kw_only=True):
    input_tokens: int
