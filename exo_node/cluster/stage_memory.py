"""What a stage of a ring takes: weights, KV pool, states, and what stands beside them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from exo_node.cluster.partitioning import StageLimit
from exo_node.types import DTYPE_BYTES, Device, Dtype, ModelSpec

DRAFT_SLOTS = 4  # sequences that a draft model guesses for: with more to compute in a step its guesses rarely pay

LOG_BYTES = 64 * 2**20  # of what a stage keeps of what it sent on (ring/boundary_log.py): 8,192 tokens of 4096 bfloat16

GROWING = frozenset({"mlx"})  # engines whose sequences take KV memory as they grow, not when the shard is loaded


def compute_dtype_on(spec: ModelSpec, device: Device) -> Dtype:
    """float32 on a CPU, where everything narrower is slower (ENGINES.md), else as stored."""
    return "float32" if device.kind == "cpu" else spec.dtype


def kept_whole(spec: ModelSpec, engine: str, context: int) -> Sequence[int]:
    """Every layer keeps all tokens of a sequence."""
    return (context,) * spec.n_layers


def no_states(spec: ModelSpec, engine: str, element: int) -> Sequence[int]:
    """Every layer holds keys and values by token."""
    return (0,) * spec.n_layers


def draft_pool(draft: ModelSpec, slots: int, context: int) -> tuple[int, int]:
    """(slots, context) of a draft model beside one with these."""
    return min(DRAFT_SLOTS, slots), min(context, draft.max_context)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRules:
    """How engines use memory.

    `overhead`: bytes that a runner takes beside its model. `log`: most bytes that a stage which sends hidden states on
    keeps of them. `kept`(spec, engine, context): tokens of one sequence that each layer keeps, fewer where it has a
    window. `states`(spec, engine, bytes of an element): for each layer the bytes that it holds of one sequence whatever
    its length; 0 = keys and values by token.
    """

    overhead: int = 0
    log: int = 0
    compute_dtype: Callable[[ModelSpec, Device], Dtype] = compute_dtype_on
    kept: Callable[[ModelSpec, str, int], Sequence[int]] = kept_whole
    states: Callable[[ModelSpec, str, int], Sequence[int]] = no_states


@dataclass(frozen=True, slots=True)
class KvPool:
    """Memory for `tokens` over all sequences on each stage; `slots` of them at once, each of `context` at most."""

    slots: int
    context: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Seat:
    """One device that may take a stage, with the engine that would run there and the bytes that it has free."""

    device: Device
    engine: str
    capacity: int


def stage_limit(
    spec: ModelSpec, seat: Seat, pool: KvPool, rules: MemoryRules, *, draft: tuple[ModelSpec, KvPool] | None = None,
    is_head: bool, sends: bool,
) -> StageLimit:  # fmt: skip
    """What each layer would take there, and what comes on top. `draft`: a model that guesses ahead, on the head.
    `sends`: another stage comes after this one."""
    element, stored = DTYPE_BYTES[rules.compute_dtype(spec, seat.device)], DTYPE_BYTES[spec.dtype]
    tokens = [min(pool.tokens, pool.slots * one) for one in rules.kept(spec, seat.engine, pool.context)]
    pools = _pools(spec, rules.states(spec, seat.engine, element), tokens, element, pool.slots)

    def held(size: int, packed: int) -> int:
        return (size - packed) * element // stored + packed

    packed = spec.layer_packed or (0,) * spec.n_layers
    layers = tuple(held(size, narrow) + kv for size, narrow, kv in zip(spec.layer_bytes, packed, pools, strict=True))
    fixed = rules.overhead
    if sends:  # at most, whatever the others compute in
        fixed += min(rules.log, pool.tokens * spec.hidden_size * DTYPE_BYTES["float32"])
    if is_head:
        # The LM head counts 0 in head_bytes when tied, so the embedding is counted once (ARCHITECTURE 3.1).
        fixed += held(spec.embed_bytes + spec.head_bytes, spec.outer_packed)
        if draft is not None:
            fixed += _draft_bytes(*draft, seat, rules)
    return StageLimit(seat.capacity, fixed, layers)


def _draft_bytes(draft: ModelSpec, pool: KvPool, seat: Seat, rules: MemoryRules) -> int:
    """A whole model with its pool."""
    element = DTYPE_BYTES[rules.compute_dtype(draft, seat.device)]
    slots, context = draft_pool(draft, pool.slots, pool.context)
    states = rules.states(draft, seat.engine, element)
    held = sum(_pools(draft, states, [slots * context] * draft.n_layers, element, slots))
    packed = sum(draft.layer_packed) + draft.outer_packed
    return (draft.total_bytes - packed) * element // DTYPE_BYTES[draft.dtype] + packed + held


def _pools(spec: ModelSpec, states: Sequence[int], kv_tokens: Sequence[int], element: int, slots: int) -> list[int]:
    """For each layer the bytes of its pool: states of so many sequences, or keys and values of so many tokens."""
    return [
        one * slots if one else spec.kv_width * tokens * element for one, tokens in zip(states, kv_tokens, strict=True)
    ]
