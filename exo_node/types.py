"""The words of the project as types (README "Words"). Pure data: no I/O, no framework, nothing below imports up."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Dtype = Literal["float32", "float16", "bfloat16"]
DTYPE_BYTES: Mapping[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2}
Utf8 = bytes  # an alias, since a field below is called `bytes`
FinishReason = Literal["stop", "length", "tool_calls"]
Priority = Literal["high", "normal", "low"]  # for a slot of a local model, the most urgent first


@dataclass(frozen=True, slots=True)
class Shard:
    """A half-open layer range `[start_layer, end_layer)` of one model with `n_layers` layers.

    `start_layer == end_layer == 0` is a head without layers (embedding, norm and LM head only).
    """

    model_id: str
    start_layer: int
    end_layer: int
    n_layers: int

    def __post_init__(self) -> None:
        if not 0 <= self.start_layer <= self.end_layer <= self.n_layers:
            raise ValueError(f"not a layer range: {self}")

    @property
    def n_owned(self) -> int:
        """How many layers the shard holds."""
        return self.end_layer - self.start_layer

    @property
    def is_first(self) -> bool:
        return self.start_layer == 0

    @property
    def is_last(self) -> bool:
        return self.end_layer == self.n_layers


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a node knows of a model's files without loading them.

    `config` is the normalised config.json (models/config.py). Sizes are bytes as stored in the files:
    `layer_bytes[i]` of layer i, `embed_bytes` of the input embedding, `head_bytes` of final norm and LM head (the LM
    head counts 0 when tied). Of these `layer_packed[i]` and `outer_packed` are quantized matrices' integers, which stay
    so wide whatever is computed in. `n_params` counts parameters; `kv_width` is the number of K plus V elements per
    token and layer (2 * kv_heads * head_dim). `digest` names the content (ARCHITECTURE 3.13); empty until computed.
    """

    model_id: str
    path: str
    architecture: str
    config: Mapping[str, Any]
    n_layers: int
    hidden_size: int
    vocab_size: int
    max_context: int
    dtype: Dtype
    layer_bytes: tuple[int, ...]
    embed_bytes: int
    head_bytes: int
    n_params: int
    kv_width: int
    layer_packed: tuple[int, ...] = ()
    outer_packed: int = 0
    digest: str = ""

    @property
    def total_bytes(self) -> int:
        return sum(self.layer_bytes) + self.embed_bytes + self.head_bytes

    @property
    def whole(self) -> Shard:
        """All its layers."""
        return Shard(self.model_id, 0, self.n_layers, self.n_layers)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor in a checkpoint: safetensors dtype string ("F32", "BF16", "F16", "U32", ...) and shape."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the head draws a token. Defaults are the neutral values (OpenAI's defaults); `temperature=0` is greedy."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0 = off
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    top_logprobs: int | None = None  # None = no logprobs; 0 = the chosen token's only
    seed: int = 0  # fixed by the API node before the request leaves it


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the answer's text must match from its first to its last character (llguidance's grammars).

    `text` is a JSON schema as JSON ("json_schema"; "json" is any object and has no text), a regular expression
    ("regex", the whole text), or a Lark grammar or llama.cpp's GBNF ("lark"). The sequence ends when nothing may
    follow. `field` is the request's field that asked for it, for errors. "may_call" is a Lark grammar of an answer that
    may call tools: arguments whose schema cannot be held are any object, and where nothing can be held the answer is
    not bound; the schemas in its rules `strict_N` are held or refused.
    """

    kind: Literal["json_schema", "json", "regex", "lark", "may_call"]
    text: str = ""
    field: str = "response_format"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """The functions that an answer may call. `tools` are OpenAI's function tools, checked: `{"type": "function",
    "function": {"name", "description", "parameters"}}`, with `parameters` always a JSON schema of an object.

    `choice`: "auto", "required" (at least one call), "none", or a function's name (that one is called).
    """

    tools: tuple[Mapping[str, Any], ...]
    choice: str = "auto"
    named: bool = False  # `choice` is a name, even one of the words above
    parallel: bool = True  # several calls in one answer are allowed
    strict: frozenset[str] = frozenset()  # names of those whose schema is held or refused


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One sequence to generate, as a dialect parsed it. Exactly one of `messages` and `prompt` is given.

    `sampling_given` names the sampling fields that the caller set, so that a backend may fill the others from the
    model's generation_config.json (temperature only). `seed` None means: the API node draws one.

    `prefix` and `prefix_ids` are the part of the answer that the caller already has: the model goes on after it and
    only what is new is yielded. The ids (exact) win over the text where both are given. Its first `prefilled`
    characters are the request's own (Anthropic's prefill): usage counts them with the prompt, and nowhere the rest.

    `grammar` binds the answer proper: what a model says for itself before it (reasoning) is free. `tool_use` and
    `template_options` are for `messages` only; a grammar and a `tool_use` that may call exclude each other unless the
    choice is "auto": then the answer is a call, or matches the grammar.
    """

    request_id: str
    model: str
    messages: tuple[Mapping[str, Any], ...] | None = None
    prompt: str | tuple[int, ...] | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    sampling_given: frozenset[str] = frozenset()
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    timeout_s: float | None = None
    prefix: str = ""
    prefix_ids: tuple[int, ...] = ()
    prefilled: int = 0
    grammar: Grammar | None = None
    tool_use: ToolUse | None = None
    template_options: Mapping[str, Any] = field(default_factory=dict)  # for the chat template: enable_thinking, ...
    ignore_eos: bool = False  # the model's own ends are never drawn: the answer has `max_tokens` tokens
    template_hints: Mapping[str, Any] = field(default_factory=dict)  # the same, but for templates that know them
    echo: bool = False  # `prompt` only: its text comes back in `TokenDelta.echo`
    prompt_logprobs: int | None = None  # `prompt` only: its tokens come back too, with so many alternatives each
    client: str = ""  # whose request it is (an API key's id): local slots are shared out fairly among clients
    priority: Priority = "normal"
    suffix: str = ""  # `prompt` only: what stands after the answer, for models that fill in the middle


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRequest:
    """Texts (or their token ids) of which a model is to make one vector each.

    `pooling`: how a text's hidden states become one; None: as the model's own files say, else their mean.
    `dimensions`: only so many of the first; None: all.
    """

    request_id: str
    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    pooling: Literal["mean", "last"] | None = None
    dimensions: int | None = None
    timeout_s: float | None = None
    client: str = ""  # as in `GenerationRequest`
    priority: Priority = "normal"


@dataclass(frozen=True, slots=True)
class Embeddings:
    """`vectors[i]`: input i's, of length 1, little-endian float32 as bytes."""

    vectors: tuple[bytes, ...]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call. The first one of an `index` has `id` and `name`; `arguments` is JSON text, in pieces."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """log-probability of one emitted token under the model's raw distribution, with the most likely alternatives.

    `token`/`bytes` are the token's text and UTF-8 bytes; `top` lists (token text, bytes, logprob), most likely first.
    A prompt's first token follows nothing: its `logprob` is NaN.
    """

    token: str
    token_id: int
    logprob: float
    bytes: Utf8
    top: tuple[tuple[str, Utf8, float], ...] = ()
    offset: int = 0  # characters of certain text before it, with an echoed prompt's


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0  # of the completion's


@dataclass(frozen=True, slots=True)
class TokenDelta:
    """A piece of an answer. `text` may be empty while a UTF-8 character or a possible stop string is incomplete.

    The last delta of a stream has `finish_reason` and `usage`; a stream that ends without one is a failure.
    """

    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    reasoning: str = ""  # what the model thinks before it answers, without its markers
    tool_calls: tuple[ToolCallDelta, ...] = ()
    stopped_by: str = ""  # the stop string that ended the answer
    echo: str = ""  # on the first delta: the prompt's text, where asked for
    echoed: tuple[TokenLogprob, ...] = ()  # on the first delta: the prompt's tokens, where asked for
    mean_logprob: float | None = None  # on the last delta, of all drawn tokens (an end too), where logprobs were asked


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A model of the list; `copies` are names given to it on this node, which are listed as models of their own."""

    id: str
    created: int
    owned_by: str
    context_length: int | None
    loaded: bool
    local_path: str | None = None
    aliases: tuple[str, ...] = ()
    size: int | None = None  # bytes of its weights' files on this node
    copies: tuple[str, ...] = ()


class Backend(Protocol):
    """Anything that turns a `GenerationRequest` into a stream of `TokenDelta` (the ring)."""

    def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenDelta, None]:
        """Yield deltas in order; closing the generator cancels the sequence on every shard.

        Raises `ExoError` subclasses; after the first delta too.
        """
        ...

    async def models(self) -> list[ModelCard]: ...

    async def encode(self, request: GenerationRequest) -> tuple[list[int], str]:
        """The prompt's ids as the model would read them, and their text with its markers. Raises as `count_tokens`."""
        ...

    async def count_tokens(self, request: GenerationRequest) -> int:
        """Tokens of the prompt, as the model would read it (chat template, tools and `prefix` included).

        Loads the model where it is not loaded. Raises as `generate` does, except for a prompt that is too long.
        """
        ...

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """One vector per input, in order. Raises `ExoError` subclasses; cancelling it cancels every sequence."""
        ...


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator (or the CPU) that can hold a shard. `id` is the engine's name: "CPU", "METAL", "CUDA:0"."""

    id: str
    kind: Literal["cpu", "metal", "cuda", "amd"]
    name: str
    memory_total: int  # bytes
    memory_free: int  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInfo:
    """What a node says of itself to its peers. `addresses` are literal IPs (scoped for link-local IPv6), best first."""

    node_id: str
    boot_id: str  # new at every start: the same node_id with another boot_id is a restarted node
    name: str
    version: str
    addresses: tuple[str, ...]
    grpc_port: int
    api_port: int
    engines: tuple[str, ...]  # usable, preferred first
    devices: tuple[Device, ...]
    memory_total: int
    memory_free: int  # bytes that a placement may use (after --memory-limit and reservations)
    chip: str = ""
    blas: str = ""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A shard of an instance on a node, run by `engine` on `device`. Its position in the ring is its list index."""

    node_id: str
    shard: Shard
    engine: str
    device: str


@dataclass(frozen=True, slots=True)
class Spare:
    """A runner in no ring that holds the layers of `stage`, to take its place."""

    stage: int
    assignment: Assignment


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One model placed on the cluster: an ordered ring of shards. `addresses[i]` is the host:port of runner i."""

    instance_id: str
    model_id: str
    digest: str
    assignments: tuple[Assignment, ...]
    addresses: tuple[str, ...]
    coordinator: str
    epoch: int
    context: int  # tokens a sequence may hold
    slots: int  # sequences in flight at once
    state: Literal["loading", "ready", "failed"]
    token: bytes = b""  # secret of the data plane: only members see it
    error: str = ""
    quantize: int = 0  # bits into which its weights were packed on load; 0 = as stored
    kv_tokens: int = 0  # tokens that every stage's KV memory holds over all sequences; 0 = slots * context
    draft_model: str = ""  # guesses ahead on the head; empty = none
    spares: tuple[Spare, ...] = ()
    min_nodes: int = 1  # as asked for: a recovery keeps to it where it can


@dataclass(frozen=True, slots=True)
class Papers:
    """What a process shows on its connections and whom it lets in: PEM texts, made by cluster/certificates.py.

    `fingerprint` names the cluster key that signed `certificate`; `roots` has the authority of each key that is
    trusted, by fingerprint: one, or two while the key changes.
    """

    fingerprint: str
    certificate: str
    key: str = field(repr=False)
    roots: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PeerLink:
    """What a node knows of its way to another: round trip in microseconds and bytes/s by probe; 0 = not measured.

    `address` is the IP literal at which the telling node reaches the other.
    """

    to_id: str
    description: str = ""
    rtt_us: int = 0
    bytes_per_s: int = 0
    address: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedDeployment:
    """An external target that a node calls for its peers too. No parameters: keys never leave their node.

    Prices are USD per million tokens, None when unknown (`price_cached`: as `price_input`; `price_per_request`: USD of
    each call beside them, `price_per_image` of each that is made); `context` 0: unknown. Its owner's timers hold for
    its borrowers, too, where it says them.
    """

    id: str
    model_name: str
    litellm_model: str
    provider: str
    upstream_model: str
    capabilities: tuple[str, ...] = ()
    context: int = 0
    price_input: float | None = None
    price_output: float | None = None
    price_cached: float | None = None
    price_per_request: float = 0.0
    timeout_s: float | None = None
    stream_timeout_s: float | None = None
    price_per_image: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """What a node says on its control stream: itself, its instances (head here, or being placed by it), its links.

    `shards` are the runners alive on the node, as (instance id, stage). `leaving`: a clean exit follows; nothing else
    comes after it. `draining`: it takes no new shards. `removed`: instances that it has taken down on purpose of late.
    """

    node: NodeInfo
    instances: tuple[Instance, ...] = ()
    links: tuple[PeerLink, ...] = ()
    leaving: bool = False
    shards: tuple[tuple[str, int], ...] = ()
    deployments: tuple[SharedDeployment, ...] = ()
    draining: bool = False
    removed: tuple[str, ...] = ()
