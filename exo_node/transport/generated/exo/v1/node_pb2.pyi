from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ResponsePart(_message.Message):
    __slots__ = ("id", "term", "head", "head_at", "head_size", "said", "said_at", "ids", "ids_at", "ids_model", "model_id", "row", "row_at", "row_size")
    ID_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    HEAD_AT_FIELD_NUMBER: _ClassVar[int]
    HEAD_SIZE_FIELD_NUMBER: _ClassVar[int]
    SAID_FIELD_NUMBER: _ClassVar[int]
    SAID_AT_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    IDS_AT_FIELD_NUMBER: _ClassVar[int]
    IDS_MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    ROW_AT_FIELD_NUMBER: _ClassVar[int]
    ROW_SIZE_FIELD_NUMBER: _ClassVar[int]
    id: str
    term: int
    head: bytes
    head_at: int
    head_size: int
    said: bytes
    said_at: int
    ids: _containers.RepeatedScalarFieldContainer[int]
    ids_at: int
    ids_model: str
    model_id: str
    row: bytes
    row_at: int
    row_size: int
    def __init__(self, id: _Optional[str] = ..., term: _Optional[int] = ..., head: _Optional[bytes] = ..., head_at: _Optional[int] = ..., head_size: _Optional[int] = ..., said: _Optional[bytes] = ..., said_at: _Optional[int] = ..., ids: _Optional[_Iterable[int]] = ..., ids_at: _Optional[int] = ..., ids_model: _Optional[str] = ..., model_id: _Optional[str] = ..., row: _Optional[bytes] = ..., row_at: _Optional[int] = ..., row_size: _Optional[int] = ...) -> None: ...

class MirrorResponsesRequest(_message.Message):
    __slots__ = ("node_id", "boot_id", "parts")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    boot_id: str
    parts: _containers.RepeatedCompositeFieldContainer[ResponsePart]
    def __init__(self, node_id: _Optional[str] = ..., boot_id: _Optional[str] = ..., parts: _Optional[_Iterable[_Union[ResponsePart, _Mapping]]] = ...) -> None: ...

class MirrorResponsesResponse(_message.Message):
    __slots__ = ("refused",)
    class RefusedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    refused: _containers.ScalarMap[str, str]
    def __init__(self, refused: _Optional[_Mapping[str, str]] = ...) -> None: ...

class AskResponseRequest(_message.Message):
    __slots__ = ("id", "asker", "act")
    ID_FIELD_NUMBER: _ClassVar[int]
    ASKER_FIELD_NUMBER: _ClassVar[int]
    ACT_FIELD_NUMBER: _ClassVar[int]
    id: str
    asker: str
    act: str
    def __init__(self, id: _Optional[str] = ..., asker: _Optional[str] = ..., act: _Optional[str] = ...) -> None: ...

class AskResponseResponse(_message.Message):
    __slots__ = ("state", "term", "body_json")
    STATE_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    BODY_JSON_FIELD_NUMBER: _ClassVar[int]
    state: str
    term: int
    body_json: bytes
    def __init__(self, state: _Optional[str] = ..., term: _Optional[int] = ..., body_json: _Optional[bytes] = ...) -> None: ...

class FollowResponseRequest(_message.Message):
    __slots__ = ("id", "asker", "after")
    ID_FIELD_NUMBER: _ClassVar[int]
    ASKER_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    id: str
    asker: str
    after: int
    def __init__(self, id: _Optional[str] = ..., asker: _Optional[str] = ..., after: _Optional[int] = ...) -> None: ...

class ResponseEvents(_message.Message):
    __slots__ = ("last", "frames")
    LAST_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    last: int
    frames: bytes
    def __init__(self, last: _Optional[int] = ..., frames: _Optional[bytes] = ...) -> None: ...

class HandshakeMessage(_message.Message):
    __slots__ = ("hello", "challenge", "proof", "welcome")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    challenge: Challenge
    proof: Proof
    welcome: Welcome
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., challenge: _Optional[_Union[Challenge, _Mapping]] = ..., proof: _Optional[_Union[Proof, _Mapping]] = ..., welcome: _Optional[_Union[Welcome, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("node_id", "boot_id", "cluster_fingerprint", "protocol_min", "protocol_max", "version", "nonce")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_MIN_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_MAX_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    boot_id: str
    cluster_fingerprint: str
    protocol_min: int
    protocol_max: int
    version: str
    nonce: bytes
    def __init__(self, node_id: _Optional[str] = ..., boot_id: _Optional[str] = ..., cluster_fingerprint: _Optional[str] = ..., protocol_min: _Optional[int] = ..., protocol_max: _Optional[int] = ..., version: _Optional[str] = ..., nonce: _Optional[bytes] = ...) -> None: ...

class Challenge(_message.Message):
    __slots__ = ("node_id", "boot_id", "cluster_fingerprint", "protocol_min", "protocol_max", "version", "nonce", "proof")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_MIN_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_MAX_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    boot_id: str
    cluster_fingerprint: str
    protocol_min: int
    protocol_max: int
    version: str
    nonce: bytes
    proof: bytes
    def __init__(self, node_id: _Optional[str] = ..., boot_id: _Optional[str] = ..., cluster_fingerprint: _Optional[str] = ..., protocol_min: _Optional[int] = ..., protocol_max: _Optional[int] = ..., version: _Optional[str] = ..., nonce: _Optional[bytes] = ..., proof: _Optional[bytes] = ...) -> None: ...

class Proof(_message.Message):
    __slots__ = ("proof", "node")
    PROOF_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    proof: bytes
    node: NodeDescription
    def __init__(self, proof: _Optional[bytes] = ..., node: _Optional[_Union[NodeDescription, _Mapping]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("session_id", "protocol", "node")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    protocol: int
    node: NodeDescription
    def __init__(self, session_id: _Optional[str] = ..., protocol: _Optional[int] = ..., node: _Optional[_Union[NodeDescription, _Mapping]] = ...) -> None: ...

class DeviceDescription(_message.Message):
    __slots__ = ("id", "kind", "name", "memory_total", "memory_free")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TOTAL_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FREE_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: str
    name: str
    memory_total: int
    memory_free: int
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[str] = ..., name: _Optional[str] = ..., memory_total: _Optional[int] = ..., memory_free: _Optional[int] = ...) -> None: ...

class NodeDescription(_message.Message):
    __slots__ = ("node_id", "boot_id", "name", "version", "addresses", "grpc_port", "api_port", "engines", "devices", "memory_total", "memory_free", "chip", "blas")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    GRPC_PORT_FIELD_NUMBER: _ClassVar[int]
    API_PORT_FIELD_NUMBER: _ClassVar[int]
    ENGINES_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TOTAL_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FREE_FIELD_NUMBER: _ClassVar[int]
    CHIP_FIELD_NUMBER: _ClassVar[int]
    BLAS_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    boot_id: str
    name: str
    version: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    grpc_port: int
    api_port: int
    engines: _containers.RepeatedScalarFieldContainer[str]
    devices: _containers.RepeatedCompositeFieldContainer[DeviceDescription]
    memory_total: int
    memory_free: int
    chip: str
    blas: str
    def __init__(self, node_id: _Optional[str] = ..., boot_id: _Optional[str] = ..., name: _Optional[str] = ..., version: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ..., grpc_port: _Optional[int] = ..., api_port: _Optional[int] = ..., engines: _Optional[_Iterable[str]] = ..., devices: _Optional[_Iterable[_Union[DeviceDescription, _Mapping]]] = ..., memory_total: _Optional[int] = ..., memory_free: _Optional[int] = ..., chip: _Optional[str] = ..., blas: _Optional[str] = ...) -> None: ...

class HealthCheckRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HealthCheckResponse(_message.Message):
    __slots__ = ("is_healthy", "detail")
    IS_HEALTHY_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    is_healthy: bool
    detail: str
    def __init__(self, is_healthy: _Optional[bool] = ..., detail: _Optional[str] = ...) -> None: ...

class CollectTopologyRequest(_message.Message):
    __slots__ = ("visited", "max_depth")
    VISITED_FIELD_NUMBER: _ClassVar[int]
    MAX_DEPTH_FIELD_NUMBER: _ClassVar[int]
    visited: _containers.RepeatedScalarFieldContainer[str]
    max_depth: int
    def __init__(self, visited: _Optional[_Iterable[str]] = ..., max_depth: _Optional[int] = ...) -> None: ...

class TopologyView(_message.Message):
    __slots__ = ("nodes", "peer_graph")
    class NodesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: NodeDescription
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[NodeDescription, _Mapping]] = ...) -> None: ...
    class PeerGraphEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: PeerLinks
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[PeerLinks, _Mapping]] = ...) -> None: ...
    NODES_FIELD_NUMBER: _ClassVar[int]
    PEER_GRAPH_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.MessageMap[str, NodeDescription]
    peer_graph: _containers.MessageMap[str, PeerLinks]
    def __init__(self, nodes: _Optional[_Mapping[str, NodeDescription]] = ..., peer_graph: _Optional[_Mapping[str, PeerLinks]] = ...) -> None: ...

class PeerLinks(_message.Message):
    __slots__ = ("links",)
    LINKS_FIELD_NUMBER: _ClassVar[int]
    links: _containers.RepeatedCompositeFieldContainer[PeerLink]
    def __init__(self, links: _Optional[_Iterable[_Union[PeerLink, _Mapping]]] = ...) -> None: ...

class PeerLink(_message.Message):
    __slots__ = ("to_id", "description", "rtt_us", "bytes_per_s", "address")
    TO_ID_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    RTT_US_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    to_id: str
    description: str
    rtt_us: int
    bytes_per_s: int
    address: str
    def __init__(self, to_id: _Optional[str] = ..., description: _Optional[str] = ..., rtt_us: _Optional[int] = ..., bytes_per_s: _Optional[int] = ..., address: _Optional[str] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class NodeState(_message.Message):
    __slots__ = ("node", "instances", "links", "leaving", "shards", "deployments", "draining", "removed")
    NODE_FIELD_NUMBER: _ClassVar[int]
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENTS_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    node: NodeDescription
    instances: _containers.RepeatedCompositeFieldContainer[InstanceDescription]
    links: _containers.RepeatedCompositeFieldContainer[PeerLink]
    leaving: bool
    shards: _containers.RepeatedCompositeFieldContainer[HostedShard]
    deployments: _containers.RepeatedCompositeFieldContainer[DeploymentDescription]
    draining: bool
    removed: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, node: _Optional[_Union[NodeDescription, _Mapping]] = ..., instances: _Optional[_Iterable[_Union[InstanceDescription, _Mapping]]] = ..., links: _Optional[_Iterable[_Union[PeerLink, _Mapping]]] = ..., leaving: _Optional[bool] = ..., shards: _Optional[_Iterable[_Union[HostedShard, _Mapping]]] = ..., deployments: _Optional[_Iterable[_Union[DeploymentDescription, _Mapping]]] = ..., draining: _Optional[bool] = ..., removed: _Optional[_Iterable[str]] = ...) -> None: ...

class DeploymentDescription(_message.Message):
    __slots__ = ("id", "model_name", "litellm_model", "provider", "upstream_model", "capabilities", "context", "price_input", "price_output", "price_cached", "price_per_request", "timeout_s", "stream_timeout_s", "price_per_image")
    ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    LITELLM_MODEL_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_MODEL_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    PRICE_INPUT_FIELD_NUMBER: _ClassVar[int]
    PRICE_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    PRICE_CACHED_FIELD_NUMBER: _ClassVar[int]
    PRICE_PER_REQUEST_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    STREAM_TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    PRICE_PER_IMAGE_FIELD_NUMBER: _ClassVar[int]
    id: str
    model_name: str
    litellm_model: str
    provider: str
    upstream_model: str
    capabilities: _containers.RepeatedScalarFieldContainer[str]
    context: int
    price_input: float
    price_output: float
    price_cached: float
    price_per_request: float
    timeout_s: float
    stream_timeout_s: float
    price_per_image: float
    def __init__(self, id: _Optional[str] = ..., model_name: _Optional[str] = ..., litellm_model: _Optional[str] = ..., provider: _Optional[str] = ..., upstream_model: _Optional[str] = ..., capabilities: _Optional[_Iterable[str]] = ..., context: _Optional[int] = ..., price_input: _Optional[float] = ..., price_output: _Optional[float] = ..., price_cached: _Optional[float] = ..., price_per_request: _Optional[float] = ..., timeout_s: _Optional[float] = ..., stream_timeout_s: _Optional[float] = ..., price_per_image: _Optional[float] = ...) -> None: ...

class RelayRequest(_message.Message):
    __slots__ = ("deployment_id", "kind", "body_json", "stream", "prompt_tokens", "max_tokens", "request_id", "partial_text", "first_ms", "idle_ms", "files")
    DEPLOYMENT_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    BODY_JSON_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_TEXT_FIELD_NUMBER: _ClassVar[int]
    FIRST_MS_FIELD_NUMBER: _ClassVar[int]
    IDLE_MS_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    deployment_id: str
    kind: str
    body_json: bytes
    stream: bool
    prompt_tokens: int
    max_tokens: int
    request_id: str
    partial_text: str
    first_ms: int
    idle_ms: int
    files: _containers.RepeatedCompositeFieldContainer[RelayFile]
    def __init__(self, deployment_id: _Optional[str] = ..., kind: _Optional[str] = ..., body_json: _Optional[bytes] = ..., stream: _Optional[bool] = ..., prompt_tokens: _Optional[int] = ..., max_tokens: _Optional[int] = ..., request_id: _Optional[str] = ..., partial_text: _Optional[str] = ..., first_ms: _Optional[int] = ..., idle_ms: _Optional[int] = ..., files: _Optional[_Iterable[_Union[RelayFile, _Mapping]]] = ...) -> None: ...

class RelayFile(_message.Message):
    __slots__ = ("field", "filename", "content_type", "data")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    FILENAME_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    field: str
    filename: str
    content_type: str
    data: bytes
    def __init__(self, field: _Optional[str] = ..., filename: _Optional[str] = ..., content_type: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class RelayChunk(_message.Message):
    __slots__ = ("frames", "whole", "error")
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    frames: bytes
    whole: RelayWhole
    error: RelayError
    def __init__(self, frames: _Optional[bytes] = ..., whole: _Optional[_Union[RelayWhole, _Mapping]] = ..., error: _Optional[_Union[RelayError, _Mapping]] = ...) -> None: ...

class RelayWhole(_message.Message):
    __slots__ = ("raw", "content_type")
    RAW_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    raw: bytes
    content_type: str
    def __init__(self, raw: _Optional[bytes] = ..., content_type: _Optional[str] = ...) -> None: ...

class RelayError(_message.Message):
    __slots__ = ("cause", "message", "status", "code", "param", "retry_after", "upstream_status")
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    PARAM_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_FIELD_NUMBER: _ClassVar[int]
    UPSTREAM_STATUS_FIELD_NUMBER: _ClassVar[int]
    cause: str
    message: str
    status: int
    code: str
    param: str
    retry_after: float
    upstream_status: int
    def __init__(self, cause: _Optional[str] = ..., message: _Optional[str] = ..., status: _Optional[int] = ..., code: _Optional[str] = ..., param: _Optional[str] = ..., retry_after: _Optional[float] = ..., upstream_status: _Optional[int] = ...) -> None: ...

class CollectProfileRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CollectProfileResponse(_message.Message):
    __slots__ = ("rows_json",)
    ROWS_JSON_FIELD_NUMBER: _ClassVar[int]
    rows_json: bytes
    def __init__(self, rows_json: _Optional[bytes] = ...) -> None: ...

class HostedShard(_message.Message):
    __slots__ = ("instance_id", "stage")
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    instance_id: str
    stage: int
    def __init__(self, instance_id: _Optional[str] = ..., stage: _Optional[int] = ...) -> None: ...

class DescribeModelRequest(_message.Message):
    __slots__ = ("model", "want_tokenizer", "fetch", "quantize")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WANT_TOKENIZER_FIELD_NUMBER: _ClassVar[int]
    FETCH_FIELD_NUMBER: _ClassVar[int]
    QUANTIZE_FIELD_NUMBER: _ClassVar[int]
    model: str
    want_tokenizer: bool
    fetch: bool
    quantize: int
    def __init__(self, model: _Optional[str] = ..., want_tokenizer: _Optional[bool] = ..., fetch: _Optional[bool] = ..., quantize: _Optional[int] = ...) -> None: ...

class DescribeModelResponse(_message.Message):
    __slots__ = ("availability", "spec_json", "tokenizer_files", "detail", "code")
    class TokenizerFilesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    AVAILABILITY_FIELD_NUMBER: _ClassVar[int]
    SPEC_JSON_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FILES_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    availability: str
    spec_json: str
    tokenizer_files: _containers.ScalarMap[str, bytes]
    detail: str
    code: str
    def __init__(self, availability: _Optional[str] = ..., spec_json: _Optional[str] = ..., tokenizer_files: _Optional[_Mapping[str, bytes]] = ..., detail: _Optional[str] = ..., code: _Optional[str] = ...) -> None: ...

class CommitInstanceRequest(_message.Message):
    __slots__ = ("instance", "lease_ms")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    instance: InstanceDescription
    lease_ms: int
    def __init__(self, instance: _Optional[_Union[InstanceDescription, _Mapping]] = ..., lease_ms: _Optional[int] = ...) -> None: ...

class CommitInstanceResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ProbeLinkRequest(_message.Message):
    __slots__ = ("payload", "reply_bytes")
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    REPLY_BYTES_FIELD_NUMBER: _ClassVar[int]
    payload: bytes
    reply_bytes: int
    def __init__(self, payload: _Optional[bytes] = ..., reply_bytes: _Optional[int] = ...) -> None: ...

class ProbeLinkResponse(_message.Message):
    __slots__ = ("payload",)
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    payload: bytes
    def __init__(self, payload: _Optional[bytes] = ...) -> None: ...

class ShardDescription(_message.Message):
    __slots__ = ("model_id", "start_layer", "end_layer", "n_layers")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    START_LAYER_FIELD_NUMBER: _ClassVar[int]
    END_LAYER_FIELD_NUMBER: _ClassVar[int]
    N_LAYERS_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    start_layer: int
    end_layer: int
    n_layers: int
    def __init__(self, model_id: _Optional[str] = ..., start_layer: _Optional[int] = ..., end_layer: _Optional[int] = ..., n_layers: _Optional[int] = ...) -> None: ...

class AssignmentDescription(_message.Message):
    __slots__ = ("node_id", "shard", "engine", "device")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    shard: ShardDescription
    engine: str
    device: str
    def __init__(self, node_id: _Optional[str] = ..., shard: _Optional[_Union[ShardDescription, _Mapping]] = ..., engine: _Optional[str] = ..., device: _Optional[str] = ...) -> None: ...

class InstanceDescription(_message.Message):
    __slots__ = ("instance_id", "model_id", "digest", "assignments", "addresses", "coordinator", "epoch", "context", "slots", "state", "token", "error", "quantize", "kv_tokens", "draft_model", "spares", "min_nodes")
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    QUANTIZE_FIELD_NUMBER: _ClassVar[int]
    KV_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DRAFT_MODEL_FIELD_NUMBER: _ClassVar[int]
    SPARES_FIELD_NUMBER: _ClassVar[int]
    MIN_NODES_FIELD_NUMBER: _ClassVar[int]
    instance_id: str
    model_id: str
    digest: str
    assignments: _containers.RepeatedCompositeFieldContainer[AssignmentDescription]
    addresses: _containers.RepeatedScalarFieldContainer[str]
    coordinator: str
    epoch: int
    context: int
    slots: int
    state: str
    token: bytes
    error: str
    quantize: int
    kv_tokens: int
    draft_model: str
    spares: _containers.RepeatedCompositeFieldContainer[SpareDescription]
    min_nodes: int
    def __init__(self, instance_id: _Optional[str] = ..., model_id: _Optional[str] = ..., digest: _Optional[str] = ..., assignments: _Optional[_Iterable[_Union[AssignmentDescription, _Mapping]]] = ..., addresses: _Optional[_Iterable[str]] = ..., coordinator: _Optional[str] = ..., epoch: _Optional[int] = ..., context: _Optional[int] = ..., slots: _Optional[int] = ..., state: _Optional[str] = ..., token: _Optional[bytes] = ..., error: _Optional[str] = ..., quantize: _Optional[int] = ..., kv_tokens: _Optional[int] = ..., draft_model: _Optional[str] = ..., spares: _Optional[_Iterable[_Union[SpareDescription, _Mapping]]] = ..., min_nodes: _Optional[int] = ...) -> None: ...

class SpareDescription(_message.Message):
    __slots__ = ("stage", "assignment")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENT_FIELD_NUMBER: _ClassVar[int]
    stage: int
    assignment: AssignmentDescription
    def __init__(self, stage: _Optional[int] = ..., assignment: _Optional[_Union[AssignmentDescription, _Mapping]] = ...) -> None: ...

class RecoverRequest(_message.Message):
    __slots__ = ("instance", "avoid")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    AVOID_FIELD_NUMBER: _ClassVar[int]
    instance: InstanceDescription
    avoid: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, instance: _Optional[_Union[InstanceDescription, _Mapping]] = ..., avoid: _Optional[_Iterable[str]] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("drain",)
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    drain: bool
    def __init__(self, drain: _Optional[bool] = ...) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ("moved", "failed")
    class FailedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MOVED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    moved: _containers.RepeatedScalarFieldContainer[str]
    failed: _containers.ScalarMap[str, str]
    def __init__(self, moved: _Optional[_Iterable[str]] = ..., failed: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ReserveShardRequest(_message.Message):
    __slots__ = ("instance_id", "coordinator", "bytes", "device", "lease_ms", "stage")
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    instance_id: str
    coordinator: str
    bytes: int
    device: str
    lease_ms: int
    stage: int
    def __init__(self, instance_id: _Optional[str] = ..., coordinator: _Optional[str] = ..., bytes: _Optional[int] = ..., device: _Optional[str] = ..., lease_ms: _Optional[int] = ..., stage: _Optional[int] = ...) -> None: ...

class ReserveShardResponse(_message.Message):
    __slots__ = ("memory_free",)
    MEMORY_FREE_FIELD_NUMBER: _ClassVar[int]
    memory_free: int
    def __init__(self, memory_free: _Optional[int] = ...) -> None: ...

class DraftModel(_message.Message):
    __slots__ = ("model_id", "digest", "compute_dtype")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_DTYPE_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    digest: str
    compute_dtype: str
    def __init__(self, model_id: _Optional[str] = ..., digest: _Optional[str] = ..., compute_dtype: _Optional[str] = ...) -> None: ...

class LoadShardRequest(_message.Message):
    __slots__ = ("instance_id", "shard", "digest", "engine", "device", "is_head", "compute_dtype", "slots", "context", "max_chunk", "token", "lease_ms", "stage", "quantize", "kv_tokens", "draft")
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    IS_HEAD_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_DTYPE_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    MAX_CHUNK_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    QUANTIZE_FIELD_NUMBER: _ClassVar[int]
    KV_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DRAFT_FIELD_NUMBER: _ClassVar[int]
    instance_id: str
    shard: ShardDescription
    digest: str
    engine: str
    device: str
    is_head: bool
    compute_dtype: str
    slots: int
    context: int
    max_chunk: int
    token: bytes
    lease_ms: int
    stage: int
    quantize: int
    kv_tokens: int
    draft: DraftModel
    def __init__(self, instance_id: _Optional[str] = ..., shard: _Optional[_Union[ShardDescription, _Mapping]] = ..., digest: _Optional[str] = ..., engine: _Optional[str] = ..., device: _Optional[str] = ..., is_head: _Optional[bool] = ..., compute_dtype: _Optional[str] = ..., slots: _Optional[int] = ..., context: _Optional[int] = ..., max_chunk: _Optional[int] = ..., token: _Optional[bytes] = ..., lease_ms: _Optional[int] = ..., stage: _Optional[int] = ..., quantize: _Optional[int] = ..., kv_tokens: _Optional[int] = ..., draft: _Optional[_Union[DraftModel, _Mapping]] = ...) -> None: ...

class LoadProgress(_message.Message):
    __slots__ = ("stage", "done", "total", "ready")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    stage: str
    done: int
    total: int
    ready: ShardReady
    def __init__(self, stage: _Optional[str] = ..., done: _Optional[int] = ..., total: _Optional[int] = ..., ready: _Optional[_Union[ShardReady, _Mapping]] = ...) -> None: ...

class ShardReady(_message.Message):
    __slots__ = ("port", "weight_bytes", "kv_bytes", "rollback_depth", "seconds", "info", "wire_int8", "whole_tokens")
    class InfoEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PORT_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    KV_BYTES_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_DEPTH_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    WIRE_INT8_FIELD_NUMBER: _ClassVar[int]
    WHOLE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    port: int
    weight_bytes: int
    kv_bytes: int
    rollback_depth: int
    seconds: float
    info: _containers.ScalarMap[str, str]
    wire_int8: str
    whole_tokens: int
    def __init__(self, port: _Optional[int] = ..., weight_bytes: _Optional[int] = ..., kv_bytes: _Optional[int] = ..., rollback_depth: _Optional[int] = ..., seconds: _Optional[float] = ..., info: _Optional[_Mapping[str, str]] = ..., wire_int8: _Optional[str] = ..., whole_tokens: _Optional[int] = ...) -> None: ...

class UnloadShardRequest(_message.Message):
    __slots__ = ("instance_id", "stage", "at_once")
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    AT_ONCE_FIELD_NUMBER: _ClassVar[int]
    instance_id: str
    stage: int
    at_once: bool
    def __init__(self, instance_id: _Optional[str] = ..., stage: _Optional[int] = ..., at_once: _Optional[bool] = ...) -> None: ...

class UnloadShardResponse(_message.Message):
    __slots__ = ("found",)
    FOUND_FIELD_NUMBER: _ClassVar[int]
    found: bool
    def __init__(self, found: _Optional[bool] = ...) -> None: ...

class RenewLeaseRequest(_message.Message):
    __slots__ = ("instance_ids", "lease_ms")
    INSTANCE_IDS_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    instance_ids: _containers.RepeatedScalarFieldContainer[str]
    lease_ms: int
    def __init__(self, instance_ids: _Optional[_Iterable[str]] = ..., lease_ms: _Optional[int] = ...) -> None: ...

class RenewLeaseResponse(_message.Message):
    __slots__ = ("unknown",)
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    unknown: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, unknown: _Optional[_Iterable[str]] = ...) -> None: ...

class PlaceModelRequest(_message.Message):
    __slots__ = ("model", "min_nodes", "nodes", "engines", "reuse", "exclude", "seen", "instance_id", "quantize", "draft_model", "slots", "context", "spares")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MIN_NODES_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    ENGINES_FIELD_NUMBER: _ClassVar[int]
    REUSE_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    QUANTIZE_FIELD_NUMBER: _ClassVar[int]
    DRAFT_MODEL_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    SPARES_FIELD_NUMBER: _ClassVar[int]
    model: str
    min_nodes: int
    nodes: _containers.RepeatedScalarFieldContainer[str]
    engines: _containers.RepeatedScalarFieldContainer[str]
    reuse: bool
    exclude: _containers.RepeatedScalarFieldContainer[str]
    seen: _containers.RepeatedScalarFieldContainer[str]
    instance_id: str
    quantize: int
    draft_model: str
    slots: int
    context: int
    spares: bool
    def __init__(self, model: _Optional[str] = ..., min_nodes: _Optional[int] = ..., nodes: _Optional[_Iterable[str]] = ..., engines: _Optional[_Iterable[str]] = ..., reuse: _Optional[bool] = ..., exclude: _Optional[_Iterable[str]] = ..., seen: _Optional[_Iterable[str]] = ..., instance_id: _Optional[str] = ..., quantize: _Optional[int] = ..., draft_model: _Optional[str] = ..., slots: _Optional[int] = ..., context: _Optional[int] = ..., spares: _Optional[bool] = ...) -> None: ...

class PlaceProgress(_message.Message):
    __slots__ = ("stage", "detail", "done", "total", "instance", "times")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    stage: str
    detail: str
    done: int
    total: int
    instance: InstanceDescription
    times: RecoveryTimes
    def __init__(self, stage: _Optional[str] = ..., detail: _Optional[str] = ..., done: _Optional[int] = ..., total: _Optional[int] = ..., instance: _Optional[_Union[InstanceDescription, _Mapping]] = ..., times: _Optional[_Union[RecoveryTimes, _Mapping]] = ...) -> None: ...

class RecoveryTimes(_message.Message):
    __slots__ = ("fence_us", "plan_us", "load_us", "connect_us", "loaded")
    FENCE_US_FIELD_NUMBER: _ClassVar[int]
    PLAN_US_FIELD_NUMBER: _ClassVar[int]
    LOAD_US_FIELD_NUMBER: _ClassVar[int]
    CONNECT_US_FIELD_NUMBER: _ClassVar[int]
    LOADED_FIELD_NUMBER: _ClassVar[int]
    fence_us: int
    plan_us: int
    load_us: int
    connect_us: int
    loaded: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, fence_us: _Optional[int] = ..., plan_us: _Optional[int] = ..., load_us: _Optional[int] = ..., connect_us: _Optional[int] = ..., loaded: _Optional[_Iterable[int]] = ...) -> None: ...

class RotateKeyRequest(_message.Message):
    __slots__ = ("key", "commit", "patience_ms")
    KEY_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    PATIENCE_MS_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    commit: str
    patience_ms: int
    def __init__(self, key: _Optional[bytes] = ..., commit: _Optional[str] = ..., patience_ms: _Optional[int] = ...) -> None: ...

class RotateKeyResponse(_message.Message):
    __slots__ = ("fingerprint", "configured")
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    CONFIGURED_FIELD_NUMBER: _ClassVar[int]
    fingerprint: str
    configured: bool
    def __init__(self, fingerprint: _Optional[str] = ..., configured: _Optional[bool] = ...) -> None: ...

class RemoveInstanceRequest(_message.Message):
    __slots__ = ("instance_id",)
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    instance_id: str
    def __init__(self, instance_id: _Optional[str] = ...) -> None: ...

class RemoveInstanceResponse(_message.Message):
    __slots__ = ("found",)
    FOUND_FIELD_NUMBER: _ClassVar[int]
    found: bool
    def __init__(self, found: _Optional[bool] = ...) -> None: ...
