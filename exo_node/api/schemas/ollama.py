"""Ollama's requests and answers: https://docs.ollama.com/api . What options mean: `dialects/ollama_options.py`."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

Object = dict[str, Any]
KeepAlive = Annotated[
    float | str, Meta(description="How long the model stays loaded after this: seconds, or a duration like 5m; 0: not.")
]
Options = Annotated[Object, Meta(description="num_predict, temperature, top_k, top_p, min_p, seed, stop, ...")]
Format = Annotated[str | Object, Meta(description='"json", or a JSON schema that the answer must match.')]
Think = Annotated[bool | str, Meta(description="Whether the model thinks first, or low, medium, high.")]
TopLogprobs = Annotated[int, Meta(ge=0, le=20)]


class OllamaNamed(Struct, kw_only=True):
    """A model, by either name of the field."""

    model: str | None = None
    name: Annotated[str, Meta(description="Older name of model.")] | None = None


class OllamaCopyRequest(Struct, kw_only=True):
    """`POST /api/copy`."""

    source: Annotated[str, Meta(min_length=1, description="A model on this node, or a copy.")]
    destination: Annotated[
        str, Meta(min_length=1, description="Its new name: name, name:tag or namespace/name:tag; `:latest` is nothing.")
    ]


class OllamaGeneration(OllamaNamed, kw_only=True):
    """What chat and generate share."""

    stream: Annotated[bool, Meta(description="Lines of JSON unless false.")] | None = None
    options: Options | None = None
    format: Format | None = None
    keep_alive: KeepAlive | None = None
    think: Think | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None


class OllamaChatRequest(OllamaGeneration, kw_only=True):
    """`POST /api/chat`. Without messages the model is only loaded, or with `keep_alive` 0 unloaded."""

    messages: list[Object] | None = None
    tools: list[Object] | None = None


class OllamaGenerateRequest(OllamaGeneration, kw_only=True):
    """`POST /api/generate`. Without a prompt the model is only loaded, or with `keep_alive` 0 unloaded."""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: Annotated[str, Meta(description="Not done but for an empty one.")] | None = None
    context: Annotated[list[int], Meta(description="Not done but for an empty one.")] | None = None
    raw: Annotated[bool, Meta(description="Complete the prompt as it stands.")] | None = None
    images: Annotated[list[str], Meta(description="PNG, JPEG, GIF or WebP in base64.")] | None = None


class OllamaEmbedRequest(OllamaNamed, kw_only=True):
    """`POST /api/embed`."""

    input: str | list[str]
    truncate: bool | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    options: Object | None = None
    keep_alive: KeepAlive | None = None


class OllamaEmbeddingsRequest(OllamaNamed, kw_only=True):
    """`POST /api/embeddings`, the older form."""

    prompt: str | None = None
    options: Object | None = None
    keep_alive: KeepAlive | None = None


class OllamaPullRequest(OllamaNamed, kw_only=True):
    """`POST /api/pull`."""

    stream: bool | None = None
    insecure: bool | None = None


class OllamaMeasured(Struct, kw_only=True):
    """Durations in nanoseconds."""

    model: str
    created_at: str
    done: bool
    done_reason: str | None = None
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None
    logprobs: list[Object] | None = None


class OllamaMessage(Struct, kw_only=True):
    role: str
    content: str
    thinking: str | None = None
    tool_calls: list[Object] | None = None


class OllamaChat(OllamaMeasured, kw_only=True):
    message: OllamaMessage


class OllamaGenerated(OllamaMeasured, kw_only=True):
    response: str
    thinking: str | None = None


class OllamaEmbeddings(Struct, kw_only=True):
    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int | None = None


class OllamaEmbedding(Struct, kw_only=True):
    embedding: list[float]


class OllamaModels(Struct, kw_only=True):
    models: list[Object]


class OllamaModel(Struct, kw_only=True):
    modelfile: str
    parameters: str
    template: str
    details: Object
    model_info: Object
    capabilities: list[str]
    modified_at: str


class OllamaNothing(Struct, kw_only=True):
    """An empty object."""


class OllamaStatus(Struct, kw_only=True):
    status: str


class OllamaVersion(Struct, kw_only=True):
    version: str
    exo_version: str
