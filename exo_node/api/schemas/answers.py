"""What is answered in OpenAI's shapes. Providers may add fields of their own; none of these is left out."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

Object = dict[str, Any]


class ErrorDetail(Struct, kw_only=True):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(Struct, kw_only=True):
    """OpenAI's error object."""

    error: ErrorDetail


class AnthropicErrorDetail(Struct, kw_only=True):
    type: str
    message: str


class AnthropicError(Struct, kw_only=True):
    """Anthropic's error object."""

    type: Literal["error"]
    error: AnthropicErrorDetail
    request_id: str | None = None


class OllamaError(Struct, kw_only=True):
    """Ollama's error object."""

    error: str


class Usage(Struct, kw_only=True):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int | None = None
    prompt_tokens_details: Object | None = None
    completion_tokens_details: Object | None = None


class AnswerMessage(Struct, kw_only=True):
    role: str
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Object] | None = None


class ChatChoice(Struct, kw_only=True):
    index: int
    message: AnswerMessage
    finish_reason: str | None
    logprobs: Object | None = None


class ChatCompletion(Struct, kw_only=True):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage | None = None


class TextChoice(Struct, kw_only=True):
    index: int
    text: str
    finish_reason: str | None
    logprobs: Object | None = None


class Completion(Struct, kw_only=True):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None = None


class Embedding(Struct, kw_only=True):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str  # base64 of little-endian float32


class Embeddings(Struct, kw_only=True):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage | None = None


class Ranked(Struct, kw_only=True):
    index: int
    relevance_score: float
    document: Object | str | None = None


class Reranked(Struct, kw_only=True):
    results: list[Ranked]
    id: str | None = None


class Images(Struct, kw_only=True):
    data: list[Object]
    created: int | None = None


class Moderations(Struct, kw_only=True):
    results: list[Object]
    id: str | None = None
    model: str | None = None


class Transcription(Struct, kw_only=True):
    text: str


class ModelRow(Struct, kw_only=True):
    id: str
    object: str
    created: int
    owned_by: str


class Models(Struct, kw_only=True):
    object: Literal["list"]
    data: list[ModelRow]


class Listing(Struct, kw_only=True):
    """A list of rows."""

    object: Literal["list"]
    data: list[Object]
