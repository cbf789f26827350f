"""Requests that are this node's own: the cluster, routing, and routes of the documents behind the mission."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from exo_node.api.schemas.openai import Model

Object = dict[str, Any]


class Health(Struct, kw_only=True):
    status: str
    node_id: str | None = None
    nodes: int | None = None
    instances: int | None = None


class PlaceRequest(Struct, kw_only=True):
    """`POST /v1/instances`."""

    model: Annotated[str, Meta(min_length=1)]
    min_nodes: Annotated[int, Meta(ge=1, le=1024)] | None = None
    nodes: Annotated[list[str], Meta(description="Node ids in ring order.")] | None = None
    engines: Annotated[list[str], Meta(description="mlx or tinygrad: one, or one for each node.")] | None = None
    quantize: Annotated[Literal[4, 8], Meta(description="Pack full-precision weights into so many bits.")] | None = None
    draft_model: Annotated[str, Meta(min_length=1, description="Guesses ahead for it, on the head.")] | None = None
    spares: Annotated[bool, Meta(description="Load each stage once more, on another node with room.")] | None = None
    reuse: Annotated[bool, Meta(description="An instance that is ready already is good enough.")] | None = None
    stream: bool | None = None


class RotateRequest(Struct, kw_only=True):
    """`POST /v1/cluster/key`."""

    phrase: (
        Annotated[str, Meta(min_length=1, description="As of --cluster-key; without it the key is random.")] | None
    ) = None
    without: (
        Annotated[list[str], Meta(description="Members that are not told the new key, and so shut out.")] | None
    ) = None
    patience_s: Annotated[float, Meta(ge=0, le=3600, description="For calls in progress (30).")] | None = None


class DrainRequest(Struct, kw_only=True):
    """`POST /v1/nodes/{id}/drain`; may be empty."""

    undo: Annotated[bool, Meta(description="Take shards again.")] | None = None


class DeploymentRequest(Struct, kw_only=True):
    """An entry of LiteLLM's `model_list`; `id` may name it."""

    model_name: str | None = None
    litellm_params: Object | None = None
    model_info: Object | None = None
    id: str | None = None


class CostQuery(Struct, kw_only=True):
    model: str | None = None
    models: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    provider: str | None = None


class CostRequest(Struct, kw_only=True):
    """`POST /v1/cost/estimate`: one `model`, or several `models` to compare; tokens under OpenAI's names or ours."""

    model: str | None = None
    models: list[str] | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    provider: Annotated[str, Meta(description="Stands before models that name none.")] | None = None


class Defaults(Struct, kw_only=True):
    """`POST /v1/config`; null takes a default away."""

    default_provider: str | None = None
    default_model: str | None = None
    ollama_base_url: str | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    enable_caching: bool | None = None
    enable_cost_tracking: bool | None = None


class ModelNamed(Struct, kw_only=True):
    """`POST /download`."""

    model: Annotated[str, Meta(min_length=1)]


class ModelIdNamed(Struct, kw_only=True):
    """`POST /models/add`."""

    model_id: Annotated[str, Meta(min_length=1)]


class ModelPlaced(Struct, kw_only=True):
    """`POST /place_instance`."""

    model_id: Annotated[str, Meta(min_length=1)]
    sharding: Literal["Pipeline"] | None = None
    instance_meta: Literal["MlxRing"] | None = None
    min_nodes: Annotated[int, Meta(ge=1, le=1024)] | None = None


class InstanceGiven(Struct, kw_only=True):
    """`POST /instance`."""

    instance: Annotated[Object, Meta(description="As /instance/previews gave it.")]


class DownloadWanted(Struct, kw_only=True):
    """`POST /download/start`."""

    targetNodeId: str
    shardMetadata: Annotated[Object, Meta(description='{"PipelineShardMetadata": {"modelCard": {"modelId": ...}}}')]


class DownloadEnded(Struct, kw_only=True):
    """`POST /download/cancel`."""

    targetNodeId: str
    modelId: str


class SpendQuestion(Struct, kw_only=True):
    since: Annotated[str, Meta(description='A date, a time, or an age such as "7d".')] | None = None
    until: str | None = None
    key: str | None = None
    model: str | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    group_by: Literal["day", "key", "model", "provider", "user"] | None = None


class AuditQuestion(Struct, kw_only=True):
    since: Annotated[str, Meta(description='A date, a time, or an age such as "7d".')] | None = None
    until: str | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] | None = None


class BatchRequest(Struct, kw_only=True):
    """`POST /v1/batch/completions`: many chats or completions at once, answered together in order."""

    requests: Annotated[list[Any], Meta(min_length=1)]
    model: Model | None = None
    max_concurrency: Annotated[int, Meta(ge=1)] | None = None


class VisionRequest(Struct, kw_only=True):
    """`POST /v1/vision`; other fields are a chat's."""

    prompt: Annotated[str, Meta(min_length=1)]
    model: Model | None = None
    image_url: (
        Annotated[str | list[str] | Object, Meta(description='A URL, or a data: URL; also {"url": ...}.')] | None
    ) = None
    image: Annotated[str | list[str], Meta(description="Base64.")] | None = None
    image_base64: str | list[str] | None = None
    detail: Literal["auto", "low", "high"] | None = None
    stream: bool | None = None
