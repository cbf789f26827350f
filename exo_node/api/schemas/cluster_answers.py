"""What is answered about the node and its cluster (as api/views.py makes it)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

Object = dict[str, Any]


class Welcome(Struct, kw_only=True):
    """Where to go from here."""

    message: str
    docs: str
    models: str
    chat: str
    topology: str
    health: str
    metrics: str


class OpenAPI(Struct, kw_only=True):
    """This document."""

    openapi: str
    info: Object
    paths: Object
    components: Object


class ShardView(Struct, kw_only=True):
    node_id: str
    engine: str
    device: str
    start_layer: int
    end_layer: Annotated[int, Meta(description="The first layer that is the next shard's.")]
    n_layers: Annotated[int, Meta(description="Of the whole model.")]


class SpareView(ShardView, kw_only=True):
    """Holds the layers of `stage` too, to take its place."""

    stage: int


class InstanceView(Struct, kw_only=True):
    """A model that is placed; its shards are in ring order, the head first."""

    id: str
    object: Literal["instance"]
    model: str
    digest: str
    state: Literal["loading", "ready", "failed"]
    error: str | None
    coordinator: Annotated[str, Meta(description="A node's id.")]
    epoch: int
    context: Annotated[int, Meta(description="Tokens of the longest sequence.")]
    slots: Annotated[int, Meta(description="Sequences at once.")]
    quantize: int | None
    draft_model: str | None
    shards: list[ShardView]
    spares: list[SpareView]


class Instances(Struct, kw_only=True):
    object: Literal["list"]
    data: list[InstanceView]


class KeyRotated(Struct, kw_only=True):
    object: Literal["cluster.key"]
    fingerprint: str
    nodes: list[str]
    configured: list[str]
    failed: dict[str, str]
    patience_s: float


class InstanceDeleted(Struct, kw_only=True):
    id: str
    object: Literal["instance.deleted"]
    deleted: bool


class StageStats(Struct, kw_only=True):
    """What a runner reports; the head also what its scheduler holds and its last steps, in microseconds."""

    node_id: str
    stage: int
    slots: int
    slots_used: int
    cached_tokens: int
    steps: int
    tokens: int
    weight_bytes: int
    kv_bytes: int
    kv_bytes_used: int
    rss_bytes: int
    waiting: int
    running: int
    info: dict[str, str]
    hops: list[Object]
    scheduling: dict[str, int] | None = None


class InstanceStats(Struct, kw_only=True):
    id: str
    object: Literal["instance.stats"]
    stages: list[StageStats]


class RecoveryView(Struct, kw_only=True):
    """How one answer got over one loss; `loaded` are the stages that were loaded for it. `noticed_s` is on the clock
    that a machine's processes share (monotonic)."""

    instance_id: str
    model: str
    request_id: str
    epoch: int
    cause: str
    noticed_s: float
    fence_ms: float
    plan_ms: float
    load_ms: float
    connect_ms: float
    loaded: list[int]
    waited_ms: float
    replayed_tokens: int
    known_tokens: int
    gap_ms: float


class Recoveries(Struct, kw_only=True):
    object: Literal["list"]
    data: list[RecoveryView]


class NodeDrained(Struct, kw_only=True):
    """`moved`: instances that have left the node; `failed`: by instance, why it could not."""

    id: str
    object: Literal["node.drained"]
    draining: bool
    moved: list[str]
    failed: dict[str, str]


class DeviceView(Struct, kw_only=True):
    """Memory in bytes."""

    id: str
    kind: str
    name: str
    memory_total: int
    memory_free: int


class NodeView(Struct, kw_only=True):
    """`memory` is in MB, as exo has it; the other sizes are in bytes."""

    model: str
    chip: str
    memory: int
    name: str
    version: str
    addresses: list[str]
    grpc_port: int
    api_port: int
    engines: list[str]
    blas: str
    memory_total: int
    memory_free: int
    devices: list[DeviceView]


class LinkView(Struct, kw_only=True):
    from_id: str
    to_id: str
    description: str


class Stranger(Struct, kw_only=True):
    """An announced node that does not hold this cluster's key."""

    node_id: str
    cluster: str
    address: str


class Topology(Struct, kw_only=True):
    nodes: dict[str, NodeView]
    peer_graph: dict[str, list[LinkView]]
    active_node_id: Annotated[str, Meta(description="The node that answers.")]
    instances: list[InstanceView]
    other_clusters: list[Stranger] = []
    problems: Annotated[dict[str, str], Meta(description="Why nodes are not members, by id or address.")] = {}
