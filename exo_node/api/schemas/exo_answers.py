"""What exo's own paths answer (as api/exo/shapes.py makes it); names and nesting are exo's."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from exo_node.api.schemas.answers import ChatCompletion

Object = dict[str, Any]
Part = Object | list[Any] | str | float | bool  # of the state


class Bytes(Struct, kw_only=True):
    inBytes: int


class ModelCardNamed(Struct, kw_only=True):
    modelId: str


class ShardMetadata(Struct, kw_only=True):
    modelCard: ModelCardNamed
    deviceRank: int
    worldSize: int
    startLayer: int | None = None
    endLayer: int | None = None
    nLayers: int | None = None


class TaggedShard(Struct, kw_only=True):
    PipelineShardMetadata: ShardMetadata


class ShardAssignments(Struct, kw_only=True):
    modelId: str
    runnerToShard: dict[str, TaggedShard]
    nodeToRunner: dict[str, str]


class ExoInstance(Struct, kw_only=True):
    instanceId: str
    shardAssignments: ShardAssignments


class TaggedInstance(Struct, kw_only=True):
    MlxRingInstance: ExoInstance


class Preview(Struct, kw_only=True):
    """A placement, or the `error` why there is none."""

    model_id: str
    sharding: str
    instance_meta: str
    error: str | None
    instance: TaggedInstance | None
    memory_delta_by_node: Annotated[dict[str, int], Meta(description="Bytes.")] | None


class Previews(Struct, kw_only=True):
    previews: list[Preview]


class Completed(Struct, kw_only=True):
    nodeId: str
    shardMetadata: TaggedShard
    total: Bytes
    readOnly: bool


class Progress(Struct, kw_only=True):
    """Bytes a second, milliseconds."""

    total: Bytes
    downloaded: Bytes
    speed: float
    etaMs: int


class Ongoing(Struct, kw_only=True):
    nodeId: str
    shardMetadata: TaggedShard
    downloadProgress: Progress


class Failed(Struct, kw_only=True):
    nodeId: str
    shardMetadata: TaggedShard
    errorMessage: str


class TaggedDownload(Struct, kw_only=True):
    """One of these."""

    DownloadCompleted: Completed | None = None
    DownloadOngoing: Ongoing | None = None
    DownloadFailed: Failed | None = None


class FailedRunner(Struct, kw_only=True):
    errorMessage: str | None


class TaggedRunner(Struct, kw_only=True):
    """One of these."""

    RunnerLoading: Object | None = None
    RunnerReady: Object | None = None
    RunnerFailed: FailedRunner | None = None


class Disk(Struct, kw_only=True):
    total: Bytes
    available: Bytes


class Memory(Struct, kw_only=True):
    ramTotal: Bytes
    ramAvailable: Bytes


class Identity(Struct, kw_only=True):
    modelId: str
    chipId: str
    friendlyName: str


class Connections(Struct, kw_only=True):
    nodes: list[str]
    connections: dict[str, Object]


class State(Struct, kw_only=True):
    """Tables by id: of instances, of runners, of nodes."""

    instances: dict[str, TaggedInstance]
    runners: dict[str, TaggedRunner]
    downloads: dict[str, list[TaggedDownload]]
    nodeDisk: dict[str, Disk]
    topology: Connections
    nodeIdentities: dict[str, Identity]
    nodeMemory: dict[str, Memory]


class Placed(Struct, kw_only=True):
    message: str
    command_id: Annotated[str, Meta(description="The instance's id.")]
    model_card: ModelCardNamed


class Removed(Struct, kw_only=True):
    message: str
    command_id: str
    instance_id: str


class Commanded(Struct, kw_only=True):
    command_id: str


class Done(Struct, kw_only=True):
    status: str
    message: str


class Detail(Struct, kw_only=True):
    detail: str


class Encoded(Struct, kw_only=True):
    """`length` in characters."""

    length: int
    num_tokens: int
    encoded_tokens: list[int]
    encoded_prompt: str


class PoolRow(Struct, kw_only=True):
    """Sizes in bytes."""

    name: str
    downloaded: bool
    download_percentage: float
    total_size: int | None
    total_downloaded: int
    loading: bool
    loaded: bool


class DownloadProgress(Struct, kw_only=True):
    """Bytes, bytes a second, seconds."""

    repo_id: str
    status: str
    downloaded_bytes: int
    downloaded_bytes_this_session: int
    total_bytes: int
    overall_speed: float
    overall_eta: float | None


class GenerationStats(Struct, kw_only=True):
    """Rates in tokens a second."""

    prompt_tokens: int
    generation_tokens: int
    prompt_tps: float
    generation_tps: float
    peak_memory_usage: Bytes


class BenchCompletion(ChatCompletion, kw_only=True):
    generation_stats: GenerationStats


PoolRows = dict[str, PoolRow]
Downloading = dict[str, DownloadProgress]
Held = list[TaggedDownload]
