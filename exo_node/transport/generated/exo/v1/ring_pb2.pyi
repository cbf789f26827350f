from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Epoch(_message.Message):
    __slots__ = ("counter", "coordinator")
    COUNTER_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_FIELD_NUMBER: _ClassVar[int]
    counter: int
    coordinator: str
    def __init__(self, counter: _Optional[int] = ..., coordinator: _Optional[str] = ...) -> None: ...

class FenceRequest(_message.Message):
    __slots__ = ("instance_id", "epoch")
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    instance_id: str
    epoch: Epoch
    def __init__(self, instance_id: _Optional[str] = ..., epoch: _Optional[_Union[Epoch, _Mapping]] = ...) -> None: ...

class FenceResponse(_message.Message):
    __slots__ = ("held", "highest")
    HELD_FIELD_NUMBER: _ClassVar[int]
    HIGHEST_FIELD_NUMBER: _ClassVar[int]
    held: _containers.RepeatedCompositeFieldContainer[KeptSequence]
    highest: int
    def __init__(self, held: _Optional[_Iterable[_Union[KeptSequence, _Mapping]]] = ..., highest: _Optional[int] = ...) -> None: ...

class KeptSequence(_message.Message):
    __slots__ = ("sequence", "length", "most", "logged", "lost_from")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    MOST_FIELD_NUMBER: _ClassVar[int]
    LOGGED_FIELD_NUMBER: _ClassVar[int]
    LOST_FROM_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    length: int
    most: int
    logged: int
    lost_from: int
    def __init__(self, sequence: _Optional[int] = ..., length: _Optional[int] = ..., most: _Optional[int] = ..., logged: _Optional[int] = ..., lost_from: _Optional[int] = ...) -> None: ...

class ConfigureRequest(_message.Message):
    __slots__ = ("instance_id", "epoch", "stage", "n_stages", "next_address", "wire_dtype", "slots", "context", "max_chunk", "rollback_depth", "kv_tokens", "int8_rows", "whole_tokens", "kept", "kept_from", "next_sequence", "silence_ms")
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    N_STAGES_FIELD_NUMBER: _ClassVar[int]
    NEXT_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    WIRE_DTYPE_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    MAX_CHUNK_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_DEPTH_FIELD_NUMBER: _ClassVar[int]
    KV_TOKENS_FIELD_NUMBER: _ClassVar[int]
    INT8_ROWS_FIELD_NUMBER: _ClassVar[int]
    WHOLE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    KEPT_FROM_FIELD_NUMBER: _ClassVar[int]
    NEXT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SILENCE_MS_FIELD_NUMBER: _ClassVar[int]
    instance_id: str
    epoch: Epoch
    stage: int
    n_stages: int
    next_address: str
    wire_dtype: str
    slots: int
    context: int
    max_chunk: int
    rollback_depth: int
    kv_tokens: int
    int8_rows: bool
    whole_tokens: int
    kept: _containers.RepeatedCompositeFieldContainer[KeptSequence]
    kept_from: int
    next_sequence: int
    silence_ms: int
    def __init__(self, instance_id: _Optional[str] = ..., epoch: _Optional[_Union[Epoch, _Mapping]] = ..., stage: _Optional[int] = ..., n_stages: _Optional[int] = ..., next_address: _Optional[str] = ..., wire_dtype: _Optional[str] = ..., slots: _Optional[int] = ..., context: _Optional[int] = ..., max_chunk: _Optional[int] = ..., rollback_depth: _Optional[int] = ..., kv_tokens: _Optional[int] = ..., int8_rows: _Optional[bool] = ..., whole_tokens: _Optional[int] = ..., kept: _Optional[_Iterable[_Union[KeptSequence, _Mapping]]] = ..., kept_from: _Optional[int] = ..., next_sequence: _Optional[int] = ..., silence_ms: _Optional[int] = ...) -> None: ...

class ConfigureResponse(_message.Message):
    __slots__ = ("epoch",)
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    epoch: Epoch
    def __init__(self, epoch: _Optional[_Union[Epoch, _Mapping]] = ...) -> None: ...

class StepMessage(_message.Message):
    __slots__ = ("instance_id", "epoch", "step", "ops", "rows", "dtype", "shape", "data", "reports", "error", "padding", "int8_rows")
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    OPS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    INT8_ROWS_FIELD_NUMBER: _ClassVar[int]
    instance_id: str
    epoch: Epoch
    step: int
    ops: _containers.RepeatedCompositeFieldContainer[Op]
    rows: _containers.RepeatedCompositeFieldContainer[Row]
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    reports: _containers.RepeatedCompositeFieldContainer[StageReport]
    error: StageError
    padding: bytes
    int8_rows: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, instance_id: _Optional[str] = ..., epoch: _Optional[_Union[Epoch, _Mapping]] = ..., step: _Optional[int] = ..., ops: _Optional[_Iterable[_Union[Op, _Mapping]]] = ..., rows: _Optional[_Iterable[_Union[Row, _Mapping]]] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ..., reports: _Optional[_Iterable[_Union[StageReport, _Mapping]]] = ..., error: _Optional[_Union[StageError, _Mapping]] = ..., padding: _Optional[bytes] = ..., int8_rows: _Optional[_Iterable[int]] = ...) -> None: ...

class Op(_message.Message):
    __slots__ = ("drop", "copy", "rename")
    DROP_FIELD_NUMBER: _ClassVar[int]
    COPY_FIELD_NUMBER: _ClassVar[int]
    RENAME_FIELD_NUMBER: _ClassVar[int]
    drop: int
    copy: Copy
    rename: Rename
    def __init__(self, drop: _Optional[int] = ..., copy: _Optional[_Union[Copy, _Mapping]] = ..., rename: _Optional[_Union[Rename, _Mapping]] = ...) -> None: ...

class Rename(_message.Message):
    __slots__ = ("target", "source", "length")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    target: int
    source: int
    length: int
    def __init__(self, target: _Optional[int] = ..., source: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...

class Copy(_message.Message):
    __slots__ = ("target", "source", "length")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    target: int
    source: int
    length: int
    def __init__(self, target: _Optional[int] = ..., source: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...

class Row(_message.Message):
    __slots__ = ("sequence", "position", "length", "n_outputs", "rollback", "first_stage", "last_stage")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    N_OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_FIELD_NUMBER: _ClassVar[int]
    FIRST_STAGE_FIELD_NUMBER: _ClassVar[int]
    LAST_STAGE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    position: int
    length: int
    n_outputs: int
    rollback: bool
    first_stage: int
    last_stage: int
    def __init__(self, sequence: _Optional[int] = ..., position: _Optional[int] = ..., length: _Optional[int] = ..., n_outputs: _Optional[int] = ..., rollback: _Optional[bool] = ..., first_stage: _Optional[int] = ..., last_stage: _Optional[int] = ...) -> None: ...

class StageReport(_message.Message):
    __slots__ = ("stage", "queue_us", "engine_us", "codec_us", "sequences", "cached_tokens")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    ENGINE_US_FIELD_NUMBER: _ClassVar[int]
    CODEC_US_FIELD_NUMBER: _ClassVar[int]
    SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    stage: int
    queue_us: int
    engine_us: int
    codec_us: int
    sequences: int
    cached_tokens: int
    def __init__(self, stage: _Optional[int] = ..., queue_us: _Optional[int] = ..., engine_us: _Optional[int] = ..., codec_us: _Optional[int] = ..., sequences: _Optional[int] = ..., cached_tokens: _Optional[int] = ...) -> None: ...

class StageError(_message.Message):
    __slots__ = ("stage", "code", "message")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    stage: int
    code: str
    message: str
    def __init__(self, stage: _Optional[int] = ..., code: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class StepsSummary(_message.Message):
    __slots__ = ("steps",)
    STEPS_FIELD_NUMBER: _ClassVar[int]
    steps: int
    def __init__(self, steps: _Optional[int] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty", "logit_bias", "top_logprobs", "seed")
    class LogitBiasEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: float
        def __init__(self, key: _Optional[int] = ..., value: _Optional[float] = ...) -> None: ...
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    frequency_penalty: float
    presence_penalty: float
    repetition_penalty: float
    logit_bias: _containers.ScalarMap[int, float]
    top_logprobs: int
    seed: int
    def __init__(self, temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., top_k: _Optional[int] = ..., min_p: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., presence_penalty: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., logit_bias: _Optional[_Mapping[int, float]] = ..., top_logprobs: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("instance_id", "request_id", "prompt_ids", "generated_ids", "sampling", "max_tokens", "stop_ids", "timeout_ms", "attempt", "grammar", "prompt_logprobs", "pooling", "client", "priority", "sequence")
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_IDS_FIELD_NUMBER: _ClassVar[int]
    GENERATED_IDS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STOP_IDS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    GRAMMAR_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    POOLING_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    instance_id: str
    request_id: str
    prompt_ids: _containers.RepeatedScalarFieldContainer[int]
    generated_ids: _containers.RepeatedScalarFieldContainer[int]
    sampling: Sampling
    max_tokens: int
    stop_ids: _containers.RepeatedScalarFieldContainer[int]
    timeout_ms: int
    attempt: int
    grammar: Grammar
    prompt_logprobs: int
    pooling: Pooling
    client: str
    priority: str
    sequence: int
    def __init__(self, instance_id: _Optional[str] = ..., request_id: _Optional[str] = ..., prompt_ids: _Optional[_Iterable[int]] = ..., generated_ids: _Optional[_Iterable[int]] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., max_tokens: _Optional[int] = ..., stop_ids: _Optional[_Iterable[int]] = ..., timeout_ms: _Optional[int] = ..., attempt: _Optional[int] = ..., grammar: _Optional[_Union[Grammar, _Mapping]] = ..., prompt_logprobs: _Optional[int] = ..., pooling: _Optional[_Union[Pooling, _Mapping]] = ..., client: _Optional[str] = ..., priority: _Optional[str] = ..., sequence: _Optional[int] = ...) -> None: ...

class Pooling(_message.Message):
    __slots__ = ("mode", "dimensions")
    MODE_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    mode: str
    dimensions: int
    def __init__(self, mode: _Optional[str] = ..., dimensions: _Optional[int] = ...) -> None: ...

class Grammar(_message.Message):
    __slots__ = ("kind", "text", "field", "begun")
    KIND_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    BEGUN_FIELD_NUMBER: _ClassVar[int]
    kind: str
    text: str
    field: str
    begun: int
    def __init__(self, kind: _Optional[str] = ..., text: _Optional[str] = ..., field: _Optional[str] = ..., begun: _Optional[int] = ...) -> None: ...

class TokenLogprobs(_message.Message):
    __slots__ = ("logprob", "top_ids", "top_logprobs")
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    TOP_IDS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    logprob: float
    top_ids: _containers.RepeatedScalarFieldContainer[int]
    top_logprobs: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, logprob: _Optional[float] = ..., top_ids: _Optional[_Iterable[int]] = ..., top_logprobs: _Optional[_Iterable[float]] = ...) -> None: ...

class GenerateDelta(_message.Message):
    __slots__ = ("epoch", "index", "ids", "logprobs", "finish_reason", "prefill_us", "queue_us", "prompt_logprobs", "embedding", "cached_tokens", "sequence", "replayed_tokens")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    PREFILL_US_FIELD_NUMBER: _ClassVar[int]
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    epoch: Epoch
    index: int
    ids: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _containers.RepeatedCompositeFieldContainer[TokenLogprobs]
    finish_reason: str
    prefill_us: int
    queue_us: int
    prompt_logprobs: _containers.RepeatedCompositeFieldContainer[TokenLogprobs]
    embedding: bytes
    cached_tokens: int
    sequence: int
    replayed_tokens: int
    def __init__(self, epoch: _Optional[_Union[Epoch, _Mapping]] = ..., index: _Optional[int] = ..., ids: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[_Union[TokenLogprobs, _Mapping]]] = ..., finish_reason: _Optional[str] = ..., prefill_us: _Optional[int] = ..., queue_us: _Optional[int] = ..., prompt_logprobs: _Optional[_Iterable[_Union[TokenLogprobs, _Mapping]]] = ..., embedding: _Optional[bytes] = ..., cached_tokens: _Optional[int] = ..., sequence: _Optional[int] = ..., replayed_tokens: _Optional[int] = ...) -> None: ...

class StatsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RunnerStats(_message.Message):
    __slots__ = ("epoch", "stage", "slots", "slots_used", "cached_tokens", "steps", "tokens", "weight_bytes", "kv_bytes", "rss_bytes", "waiting", "running", "info", "hops", "scheduling", "kv_bytes_used", "computed_tokens")
    class InfoEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_USED_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    KV_BYTES_FIELD_NUMBER: _ClassVar[int]
    RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    INFO_FIELD_NUMBER: _ClassVar[int]
    HOPS_FIELD_NUMBER: _ClassVar[int]
    SCHEDULING_FIELD_NUMBER: _ClassVar[int]
    KV_BYTES_USED_FIELD_NUMBER: _ClassVar[int]
    COMPUTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    epoch: Epoch
    stage: int
    slots: int
    slots_used: int
    cached_tokens: int
    steps: int
    tokens: int
    weight_bytes: int
    kv_bytes: int
    rss_bytes: int
    waiting: int
    running: int
    info: _containers.ScalarMap[str, str]
    hops: _containers.RepeatedCompositeFieldContainer[HopSample]
    scheduling: Scheduling
    kv_bytes_used: int
    computed_tokens: int
    def __init__(self, epoch: _Optional[_Union[Epoch, _Mapping]] = ..., stage: _Optional[int] = ..., slots: _Optional[int] = ..., slots_used: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., steps: _Optional[int] = ..., tokens: _Optional[int] = ..., weight_bytes: _Optional[int] = ..., kv_bytes: _Optional[int] = ..., rss_bytes: _Optional[int] = ..., waiting: _Optional[int] = ..., running: _Optional[int] = ..., info: _Optional[_Mapping[str, str]] = ..., hops: _Optional[_Iterable[_Union[HopSample, _Mapping]]] = ..., scheduling: _Optional[_Union[Scheduling, _Mapping]] = ..., kv_bytes_used: _Optional[int] = ..., computed_tokens: _Optional[int] = ...) -> None: ...

class Scheduling(_message.Message):
    __slots__ = ("kv_tokens", "kv_tokens_used", "prompt_tokens", "prefix_hit_tokens", "evictions", "preemptions", "drafted_tokens", "accepted_tokens", "micro_batches")
    KV_TOKENS_FIELD_NUMBER: _ClassVar[int]
    KV_TOKENS_USED_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREFIX_HIT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    EVICTIONS_FIELD_NUMBER: _ClassVar[int]
    PREEMPTIONS_FIELD_NUMBER: _ClassVar[int]
    DRAFTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MICRO_BATCHES_FIELD_NUMBER: _ClassVar[int]
    kv_tokens: int
    kv_tokens_used: int
    prompt_tokens: int
    prefix_hit_tokens: int
    evictions: int
    preemptions: int
    drafted_tokens: int
    accepted_tokens: int
    micro_batches: int
    def __init__(self, kv_tokens: _Optional[int] = ..., kv_tokens_used: _Optional[int] = ..., prompt_tokens: _Optional[int] = ..., prefix_hit_tokens: _Optional[int] = ..., evictions: _Optional[int] = ..., preemptions: _Optional[int] = ..., drafted_tokens: _Optional[int] = ..., accepted_tokens: _Optional[int] = ..., micro_batches: _Optional[int] = ...) -> None: ...

class HopSample(_message.Message):
    __slots__ = ("step", "total_us", "reports")
    STEP_FIELD_NUMBER: _ClassVar[int]
    TOTAL_US_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    step: int
    total_us: int
    reports: _containers.RepeatedCompositeFieldContainer[StageReport]
    def __init__(self, step: _Optional[int] = ..., total_us: _Optional[int] = ..., reports: _Optional[_Iterable[_Union[StageReport, _Mapping]]] = ...) -> None: ...
