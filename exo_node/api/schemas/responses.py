"""Requests of OpenAI's Responses API: https://platform.openai.com/docs/api-reference/responses ."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from exo_node.api.schemas.openai import Model, Provider, ServiceTier, Temperature, TopP, User

Object = dict[str, Any]


class ResponseInput(Struct, kw_only=True):
    """What makes the prompt."""

    model: Model | None = None
    input: (
        Annotated[str | list[Object], Meta(description="Text, or items: messages, tool calls, their outputs.")] | None
    ) = None
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: list[Object] | None = None
    tool_choice: str | Object | None = None
    parallel_tool_calls: bool | None = None
    text: Annotated[Object, Meta(description="format (text, json_object, json_schema) and verbosity.")] | None = None
    reasoning: Object | None = None
    truncation: str | None = None


class ResponseRequest(ResponseInput, kw_only=True):
    """`POST /v1/responses`."""

    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_tool_calls: Annotated[int, Meta(ge=1)] | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    include: list[str] | None = None
    stream: bool | None = None
    stream_options: Object | None = None
    store: bool | None = None
    background: bool | None = None
    metadata: Object | None = None
    service_tier: ServiceTier | None = None
    user: User | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    exo: Object | None = None
    provider: Provider | None = None


class Response(Struct, kw_only=True):
    """A response; the rest of its fields repeat the request."""

    id: str
    object: Literal["response"]
    created_at: float
    status: str
    model: str
    output: list[Object]
    usage: Object | None = None
    error: Object | None = None


class RetrieveQuery(Struct, kw_only=True):
    stream: (
        Annotated[bool, Meta(description="The events of a response created with background and stream, to its end.")]
        | None
    ) = None
    starting_after: (
        Annotated[int, Meta(ge=0, le=2**53, description="Only events with a higher sequence_number.")] | None
    ) = None


class Deleted(Struct, kw_only=True):
    id: str
    deleted: bool
    object: str | None = None


class InputTokens(Struct, kw_only=True):
    input_tokens: int
