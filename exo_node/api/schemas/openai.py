"""OpenAI's requests as every backend takes them. A backend's own limits are checked where it is asked.

Field meanings: https://platform.openai.com/docs/api-reference . Fields that are not declared go to the backend as sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from exo_node.routing.call import CallKind

MAX_INPUTS = 2048  # texts of one embeddings request, OpenAI's

Object = dict[str, Any]
Model = Annotated[str, Meta(description="A model's name, an alias, or `provider/model`. Default: the node's own.")]
User = Annotated[str, Meta(description="Whom the request is for: limits and budgets may be set per user.")]
Provider = Annotated[str | Object, Meta(description="A provider's name; an object goes to OpenRouter.")]
Temperature = Annotated[float, Meta(ge=0, le=2, description="0 always takes the likeliest token.")]
TopP = Annotated[float, Meta(ge=0, le=1, description="Draw from the likeliest tokens that make up this share.")]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Choices = Annotated[int, Meta(ge=1, le=128, description="How many answers to make.")]
Positive = Annotated[int, Meta(ge=1)]
Text = Annotated[str, Meta(min_length=1)]
ServiceTier = Annotated[
    str,
    Meta(description="Local models: flex lets others go first, priority (an admin's key) goes before them."),
]
NonEmpty = Annotated[list[Any], Meta(min_length=1)]


class Wishes(Struct, kw_only=True, forbid_unknown_fields=True):
    """What a request says of its own routing; taken out before it goes anywhere."""

    provider: str | None = None
    strategy: str | None = None
    max_cost: Annotated[float, Meta(ge=0, le=1e9, description="USD for this request, as predicted.")] | None = None
    fallbacks: list[str] | None = None
    continuation: Literal["off", "same-model", "any"] | None = None
    equivalents: Literal["off", "failover", "latency"] | None = None
    no_cache: bool | None = None
    cache_ttl: Annotated[float, Meta(ge=0, le=1e9, description="Seconds.")] | None = None
    record: str | None = None


class Request(Struct, kw_only=True):
    """What all requests share."""

    model: Model | None = None
    user: User | None = None
    exo: Annotated[Object, Meta(description="Wishes for the routing: see Wishes.")] | None = None
    provider: Provider | None = None
    extra_body: Annotated[Object, Meta(description="Fields to add to this object.")] | None = None


class Generation(Request, kw_only=True):
    """What chats and completions share."""

    temperature: Temperature | None = None
    top_p: TopP | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    n: Choices | None = None
    max_tokens: Annotated[int, Meta(ge=1, description="Older name of max_completion_tokens.")] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    logit_bias: Annotated[dict[str, float], Meta(description="Token id -> -100 to 100.")] | None = None
    stream: bool | None = None
    stream_options: Object | None = None
    top_k: Annotated[int, Meta(ge=-1, description="Not OpenAI's; of vLLM, llama.cpp, mlx_lm.")] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1, description="Not OpenAI's; of vLLM, llama.cpp, mlx_lm.")] | None = None
    ignore_eos: Annotated[bool, Meta(description="Not OpenAI's: never end before max_tokens.")] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, description="Not OpenAI's; of vLLM and mlx_lm.")] | None = None


class Message(Struct, kw_only=True):
    """One message of a chat; assistants' may have `tool_calls` and `reasoning_content`, tools' a `tool_call_id`."""

    role: Annotated[str, Meta(min_length=1, examples=["system", "developer", "user", "assistant", "tool"])]
    content: Annotated[str | list[Object], Meta(description="Text, or parts: text, image_url, input_audio.")] | None = (
        None
    )
    name: str | None = None
    tool_calls: list[Object] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class ChatRequest(Generation, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Positive | None = None
    tools: list[Object] | None = None
    tool_choice: Annotated[str | Object, Meta(description="none, auto, required, or a named function.")] | None = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[list[Object], Meta(description="Older form of tools.")] | None = None
    function_call: str | Object | None = None
    response_format: Annotated[Object, Meta(description="type: text, json_object or json_schema.")] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    reasoning_effort: Annotated[str, Meta(examples=["none", "minimal", "low", "medium", "high"])] | None = None
    modalities: list[str] | None = None
    audio: Object | None = None
    prediction: Object | None = None
    metadata: Object | None = None
    store: bool | None = None
    service_tier: ServiceTier | None = None
    verbosity: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    web_search_options: Object | None = None
    chat_template_kwargs: Annotated[Object, Meta(description="Not OpenAI's: options of a chat template.")] | None = None


class CompletionRequest(Generation, kw_only=True):
    """`POST /v1/completions`."""

    prompt: Annotated[str | list[Any], Meta(description="Text, token ids, or an array of either.")]
    suffix: str | None = None
    echo: bool | None = None
    best_of: Positive | None = None
    logprobs: Annotated[int, Meta(ge=0)] | None = None
    max_tokens: Annotated[int, Meta(ge=0, description="0 with echo: only the prompt's own logprobs.")] | None = None
    max_completion_tokens: Positive | None = None


class EmbeddingRequest(Request, kw_only=True):
    """`POST /v1/embeddings`."""

    input: Annotated[Text | NonEmpty, Meta(description="Text, token ids, or an array of either.")]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Positive | None = None
    pooling: Annotated[str, Meta(description="Not OpenAI's: mean or last, for local models.")] | None = None
    stream: bool | None = None


class RerankRequest(Request, kw_only=True):
    """`POST /v1/rerank` (Cohere's)."""

    query: Text
    documents: Annotated[list[str | Object], Meta(min_length=1)]
    top_n: Positive | None = None
    return_documents: bool | None = None
    rank_fields: list[str] | None = None
    stream: bool | None = None


class ImageRequest(Request, kw_only=True):
    """`POST /v1/images/generations`."""

    prompt: Text
    n: Annotated[int, Meta(ge=1, le=10)] | None = None
    size: str | None = None
    quality: str | None = None
    style: str | None = None
    response_format: str | None = None
    stream: bool | None = None


class SpeechRequest(Request, kw_only=True):
    """`POST /v1/audio/speech`."""

    input: Text
    voice: str | Object
    speed: Annotated[float, Meta(ge=0.25, le=4)] | None = None
    response_format: str | None = None
    stream_format: str | None = None


class TranscriptionRequest(Request, kw_only=True):
    """The fields beside the file of `POST /v1/audio/transcriptions`."""

    language: str | None = None
    prompt: str | None = None
    response_format: str | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    stream: bool | None = None


class ModerationRequest(Request, kw_only=True):
    """`POST /v1/moderations`."""

    input: str | list[str | Object]
    stream: bool | None = None


REQUESTS: Mapping[CallKind, type[Request]] = {
    "chat": ChatRequest,
    "completion": CompletionRequest,
    "embedding": EmbeddingRequest,
    "rerank": RerankRequest,
    "image": ImageRequest,
    "speech": SpeechRequest,
    "transcription": TranscriptionRequest,
    "moderation": ModerationRequest,
}
