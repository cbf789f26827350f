"""What is answered about routing: deployments, providers, prices, the router itself."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from exo_node.api.schemas.answers import ErrorDetail

Object = dict[str, Any]


class DeploymentView(Struct, kw_only=True):
    """Limits are per minute, the timeout in seconds."""

    id: str
    model_name: str
    model: str
    provider: str
    upstream_model: str
    transport: str
    api_base: str | None
    key: Annotated[str, Meta(description="present, missing, invalid or keyless.")]
    usable: bool
    reason: str | None
    rpm: int | None
    tpm: int | None
    weight: float | None
    order: int | None
    timeout: float | None
    context_window: int | None
    capabilities: list[str]
    pricing: Object | None
    task_types: list[str]
    fallbacks: list[str]
    added_at_run_time: bool


class Deployments(Struct, kw_only=True):
    object: Literal["list"]
    data: list[DeploymentView]


class DeploymentDeleted(Struct, kw_only=True):
    id: str
    object: Literal["deployment.deleted"]
    deleted: bool


class ProviderView(Struct, kw_only=True):
    id: str
    name: str
    format: Annotated[str, Meta(description="A model's name as an example.")]
    features: list[str]
    api_key_required: bool
    key: Annotated[str, Meta(description="present, missing, invalid or keyless.")]
    configured: bool
    reason: str | None
    key_variables: list[str]
    address_variables: list[str]
    transport: str
    deployments: int


class Providers(Struct, kw_only=True):
    object: Literal["list"]
    data: list[ProviderView]


class ProviderCheck(Struct, kw_only=True):
    id: str
    ok: bool
    latency_s: float | None
    deployment: str | None
    costs: Annotated[bool, Meta(description="Whether the check was a paid call.")]
    detail: Annotated[str, Meta(description="What is wrong, or not known.")]


class PricePerMillion(Struct, kw_only=True):
    """USD."""

    input: float
    output: float
    per_request: float


class ModelCost(Struct, kw_only=True):
    """USD; null where no price is known."""

    model: str
    input_cost: float | None
    output_cost: float | None
    total_cost: float | None
    currency: str
    price_per_million: PricePerMillion | None
    price_source: str | None


class CostEstimate(ModelCost, kw_only=True, tag_field="object", tag="cost.estimate"):
    """Of one model."""

    input_tokens: int
    output_tokens: int


class CostComparison(Struct, kw_only=True, tag_field="object", tag="list"):
    """Of several models, the cheapest first."""

    input_tokens: int
    output_tokens: int
    currency: str
    cheapest: str | None
    data: list[ModelCost]


Cost = CostEstimate | CostComparison


class PlanStep(Struct, kw_only=True):
    backend: str
    kind: str
    provider: str
    model: str
    tier: int
    equivalent: bool
    predicted_ttft_ms: float
    predicted_total_ms: float
    predicted_cost: float | None
    reason: str


class Plan(Struct, kw_only=True):
    """Who would be asked, in order, and why the others would not."""

    model: str
    strategy: str
    reason: str
    cascade: bool
    explored: bool
    prompt_tokens: int
    steps: list[PlanStep]
    rejected: dict[str, str]


class RouterStats(Struct, kw_only=True):
    healthy_deployments: list[str]
    model_list: list[str]
    routing_strategy: str
    strategy: str
    requests: dict[str, int]
    breakers: list[Object]
    profile: list[Object]
    cache: dict[str, int]
    limits: Object
    callbacks: dict[str, int]
    litellm: Object
    memory: Object
    sources: list[str]
    records: list[str]
    record_models: dict[str, dict[str, str]]
    notes: list[str]


class Reloaded(Struct, kw_only=True):
    object: Literal["config.reload"]
    deployments: int
    sources: list[str]
    notes: list[str]


class SpendTotal(Struct, kw_only=True):
    requests: int
    failed: int
    cached: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cost: float
    estimated: Annotated[int, Meta(description="Calls of which some tokens are estimates.")]
    unpriced: Annotated[int, Meta(description="Calls whose cost lacks something.")]


class Spend(Struct, kw_only=True):
    """`data` are calls, or with `group_by` their sums."""

    object: Literal["list"]
    currency: str
    since: str | None
    until: str | None
    group_by: str | None
    data: list[Object]
    total: SpendTotal


class Act(Struct, kw_only=True):
    """`key_id`, `key_name` and `address` say who: empty where no key was needed, and for the command line."""

    at: Annotated[float, Meta(description="Seconds since 1970.")]
    time: str
    node: str
    key_id: str
    key_name: str
    address: str
    act: Annotated[str, Meta(description="A route, or a verb of the command line.")]
    what: Annotated[str, Meta(description="What it was done to.")]
    status: int
    error_code: str


class Audit(Struct, kw_only=True):
    object: Literal["list"]
    data: list[Act]


class BatchCounts(Struct, kw_only=True):
    total: int
    succeeded: int
    failed: int


class BatchResult(Struct, kw_only=True):
    """One request's own answer or error."""

    index: int
    status: int
    response: Object | None
    error: ErrorDetail | None
    headers: dict[str, str]


class BatchResults(Struct, kw_only=True):
    object: Literal["list"]
    counts: BatchCounts
    data: list[BatchResult]
