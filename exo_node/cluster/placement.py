"""Which nodes hold which layers of a model. Pure: `plan_placement(spec, nodes, ...) -> PlacementPlan`.

Memory-proportional over free memory, on the smallest number of nodes that fits unless told otherwise; the KV pool is
part of what must fit, and is made smaller before a model is refused.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from exo_node.cluster.partitioning import StageLimit, cut_layers
from exo_node.cluster.stage_memory import GROWING, KvPool, MemoryRules, Seat, stage_limit
from exo_node.errors import InvalidRequest, NoCapacity
from exo_node.types import Assignment, Device, ModelSpec, NodeInfo, Shard

MIN_CONTEXT = 256  # shorter is no use for a chat; below it we say that the model does not fit
DEFAULT_RULES = MemoryRules()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementPlan:
    """The ring of an instance, head first. `stage_bytes[i]`: weights and KV pool of stage i. `reasons`: why so.

    `kv_tokens`: memory for so many tokens on each stage, over all of its `slots` sequences of `context` at most.
    """

    assignments: tuple[Assignment, ...]
    stage_bytes: tuple[int, ...]
    context: int
    slots: int
    kv_tokens: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Place:
    """One device that may take a stage, with the engine that would run there."""

    node: NodeInfo
    device: Device
    engine: str
    capacity: int


def plan_placement(
    spec: ModelSpec,
    nodes: Sequence[NodeInfo],
    *,
    min_nodes: int = 1,
    node_ids: Sequence[str] = (),
    engines: Sequence[str] = (),
    slots: int,
    context: int,
    draft: ModelSpec | None = None,
    rules: MemoryRules = DEFAULT_RULES,
) -> PlacementPlan:
    """Place `spec` on `nodes`.

    `node_ids` gives the stages in ring order, one entry a stage; a node may be named once per device. Without it the
    ring goes by free memory, largest first, then id. `engines` has one entry per entry of `node_ids`, or one for all.
    Memory for `slots` sequences of `context` tokens each is wanted; it is halved down to one whole sequence, then the
    context, until the model fits. Where every engine takes memory as sequences grow, all slots stay: many short
    sequences share what one long one may fill. Others have fewer slots.
    On the head a `draft` model with its KV pool (`draft_pool`) takes memory too.

    Raises `InvalidRequest` for a request that contradicts itself or the model, `NoCapacity` with what is missing.
    """
    _check(spec, nodes, min_nodes, node_ids, engines, slots, context)
    reasons: list[str] = []
    if node_ids:
        choices = [_named_places(nodes, node_ids, engines)]
        reasons.append(f"ring order as asked: {', '.join(node_ids)}")
    else:
        choices = list(_choices(nodes, min_nodes, spec.n_layers, engines[0] if engines else None, reasons))

    def slots_of(places: Sequence[_Place], whole: int) -> int:
        return slots if all(place.engine in GROWING for place in places) else whole

    def limits(places: Sequence[_Place], whole: int, context: int) -> list[StageLimit]:
        pool = KvPool(slots_of(places, whole), context, whole * context)
        # A draft model's sequences are those that are wanted, however few the model's own have room.
        drafting = None if draft is None else (draft, KvPool(slots, context, slots * context))
        return [
            stage_limit(
                spec,
                Seat(place.device, place.engine, place.capacity),
                pool,
                rules,
                draft=drafting,
                is_head=not i,
                sends=i < len(places) - 1,
            )
            for i, place in enumerate(places)
        ]

    for whole, some_context in _pools(slots, min(context, spec.max_context)):
        for places in choices:
            stages = limits(places, whole, some_context)
            cuts = cut_layers(stages)
            if cuts is not None:
                break
        else:
            continue
        if (whole, some_context) != (slots, context):
            reasons.append(f"KV pool made smaller to fit: {whole} sequences of {some_context} tokens")
        return _plan(spec, places, stages, cuts, slots_of(places, whole), some_context, whole * some_context, reasons)
    floor_slots, floor_context = list(_pools(slots, min(context, spec.max_context)))[-1]
    last = choices[-1]
    stages = limits(last, floor_slots, floor_context)
    raise _no_capacity(spec, draft, last, stages, floor_slots, floor_context)


def rendezvous(model_id: str, node_ids: Sequence[str]) -> str:
    """The node that coordinates a model: the highest hash wins, so a change of members moves few models
    (Thaler and Ravishankar 1998). Every node computes the same from the same members."""
    if not node_ids:
        raise ValueError("no nodes")
    return max(node_ids, key=lambda node_id: (hashlib.sha256(f"{model_id}\0{node_id}".encode()).digest(), node_id))


def _check(
    spec: ModelSpec,
    nodes: Sequence[NodeInfo],
    min_nodes: int,
    node_ids: Sequence[str],
    engines: Sequence[str],
    slots: int,
    context: int,
) -> None:
    if slots < 1 or context < 1:
        raise InvalidRequest(f"slots {slots} and context {context} must be at least 1", param="slots")
    if min_nodes < 1:
        raise InvalidRequest(f"min_nodes {min_nodes} must be at least 1", param="min_nodes")
    if min_nodes > spec.n_layers:
        raise InvalidRequest(
            f"min_nodes {min_nodes}: {spec.model_id} has {spec.n_layers} layers, and every node takes at least one",
            param="min_nodes",
        )
    if len(node_ids) > spec.n_layers:
        raise InvalidRequest(f"nodes has {len(node_ids)} stages, {spec.model_id} {spec.n_layers} layers", param="nodes")
    if node_ids and len(set(node_ids)) < min_nodes:
        raise InvalidRequest(
            f"min_nodes {min_nodes} contradicts nodes, which names {len(set(node_ids))}", param="min_nodes"
        )
    if len(engines) > 1 and len(engines) != len(node_ids):
        raise InvalidRequest(
            f"engines has {len(engines)} entries, nodes {len(node_ids)}: give one for all or one for each",
            param="engines",
        )
    if min_nodes > len(nodes):
        raise NoCapacity(
            f"min_nodes {min_nodes}: {len(nodes)} node(s) can hold {spec.model_id}; start more, or ask for fewer",
            param="min_nodes",
        )


def _places(node: NodeInfo, engine: str) -> list[_Place]:
    """The node's devices, the freest first, and how much each may take."""
    # CPU and Apple GPUs use the machine's memory, which the node accounts for; a discrete GPU has its own beside it.
    free = [
        node.memory_free if device.kind in ("cpu", "metal") else min(device.memory_free, node.memory_free)
        for device in node.devices
    ]
    order = sorted(range(len(free)), key=lambda i: (-free[i], i))
    return [_Place(node, node.devices[i], engine, free[i]) for i in order]


def _share(places: Sequence[_Place]) -> list[_Place]:
    """Never promise more of a node than it has free when several of its devices are used."""
    asked: Counter[str] = Counter()
    for place in places:
        asked[place.node.node_id] += place.capacity
    return [
        _Place(p.node, p.device, p.engine, p.capacity * p.node.memory_free // asked[p.node.node_id])
        if asked[p.node.node_id] > p.node.memory_free
        else p
        for p in places
    ]


def _named_places(nodes: Sequence[NodeInfo], node_ids: Sequence[str], engines: Sequence[str]) -> list[_Place]:
    by_id = {node.node_id: node for node in nodes}
    used: Counter[str] = Counter()
    places: list[_Place] = []
    for i, node_id in enumerate(node_ids):
        node = by_id.get(node_id)
        if node is None:
            raise InvalidRequest(f"no node {node_id!r}; there are {', '.join(sorted(by_id)) or 'none'}", param="nodes")
        wanted = engines[i] if len(engines) > 1 else engines[0] if engines else None
        if wanted is not None and wanted not in node.engines:
            raise InvalidRequest(
                f"node {node_id!r} cannot run engine {wanted!r}; it has {', '.join(node.engines) or 'none'}",
                param="engines",
            )
        if wanted is None and not node.engines:
            raise InvalidRequest(f"node {node_id!r} has no engine: install exo-node[mlx] or [tinygrad]", param="nodes")
        if used[node_id] == len(node.devices):
            raise InvalidRequest(
                f"node {node_id!r} is named {node_ids.count(node_id)} times, it has {len(node.devices)} device(s)",
                param="nodes",
            )
        places.append(_places(node, wanted or node.engines[0])[used[node_id]])
        used[node_id] += 1
    return _share(places)


def _choices(
    nodes: Sequence[NodeInfo], min_nodes: int, n_layers: int, engine: str | None, reasons: list[str]
) -> Iterator[list[_Place]]:
    """Sets of places to try, the fewest nodes first, then the fewest stages."""
    able = [node for node in nodes if node.devices and (engine in node.engines if engine else node.engines)]
    if not able:
        wanted = f"engine {engine!r}" if engine else "an engine (install exo-node[mlx] or [tinygrad])"
        raise InvalidRequest(f"no node has {wanted}", param="engines")
    if len(able) < min_nodes:
        wanted = f"engine {engine!r}" if engine else "an engine"
        raise NoCapacity(f"min_nodes {min_nodes}: {len(able)} of {len(nodes)} nodes have {wanted}", param="min_nodes")
    able.sort(key=lambda node: (-node.memory_free, node.node_id))
    reasons.append("ring order by free memory: " + ", ".join(node.node_id for node in able))
    for count in range(min_nodes, len(able) + 1):
        by_node = [_places(node, engine or node.engines[0]) for node in able[:count]]
        for depth in range(1, max(len(places) for places in by_node) + 1):
            chosen = [place for places in by_node for place in places[:depth]]
            if len(chosen) <= n_layers:
                yield _share(chosen)


def _pools(slots: int, context: int) -> Iterator[tuple[int, int]]:
    """(slots, context) as wanted, then smaller: slots halve down to one, then the context down to `MIN_CONTEXT`."""
    yield slots, context
    while slots > 1:
        slots //= 2
        yield slots, context
    while context > MIN_CONTEXT:
        context = max(MIN_CONTEXT, context // 2)
        yield slots, context


def _plan(
    spec: ModelSpec,
    places: Sequence[_Place],
    stages: Sequence[StageLimit],
    cuts: Sequence[tuple[int, int]],
    slots: int,
    context: int,
    kv_tokens: int,
    reasons: Sequence[str],
) -> PlacementPlan:
    used = tuple(
        stage.fixed + sum(stage.layer_bytes[start:end]) for stage, (start, end) in zip(stages, cuts, strict=True)
    )
    taken = [
        f"{place.node.node_id} {place.device.id} ({place.engine}): layers {start}-{end - 1}, "
        f"{gib(size)} of {gib(place.capacity)} free"
        for place, (start, end), size in zip(places, cuts, used, strict=True)
    ]
    return PlacementPlan(
        assignments=tuple(
            Assignment(
                place.node.node_id, Shard(spec.model_id, start, end, spec.n_layers), place.engine, place.device.id
            )
            for place, (start, end) in zip(places, cuts, strict=True)
        ),
        stage_bytes=used,
        context=context,
        slots=slots,
        kv_tokens=kv_tokens,
        reasons=(*reasons, *taken),
    )


def _no_capacity(
    spec: ModelSpec,
    draft: ModelSpec | None,
    places: Sequence[_Place],
    stages: Sequence[StageLimit],
    slots: int,
    context: int,
) -> NoCapacity:
    # The cheapest way to hold everything: each layer where it costs least; an honest lower bound in mixed rings.
    n_layers = spec.n_layers
    need = sum(stage.fixed for stage in stages)
    need += sum(min(stage.layer_bytes[i] for stage in stages) for i in range(n_layers))
    have = sum(stage.capacity for stage in stages)
    free = ", ".join(f"{place.node.node_id} {gib(place.capacity)}" for place in places)
    name = spec.model_id + (f" with draft model {draft.model_id}" if draft is not None else "")
    wanted = f"{name} needs {need:,} bytes for {slots} sequence(s) of {context} tokens"
    if need > have:
        problem = f"{wanted}, {have:,} are free ({free}): {need - have:,} bytes are missing"
    else:
        first = stages[0].fixed + min(stages[0].layer_bytes)
        problem = (
            f"{wanted} and {have:,} are free ({free}), but no cut between layers fits: the first node needs "
            f"{first:,} bytes at least, every other {min(map(min, (s.layer_bytes for s in stages))):,}"
        )
    return NoCapacity(f"{problem}; add nodes, unload a model, raise --memory-limit, or use a smaller model")


def gib(size: int) -> str:
    """Bytes for people.

    >>> gib(3 * 2**29)
    '1.50 GiB'
    """
    return f"{size / 2**30:.2f} GiB" if size >= 2**27 else f"{size / 2**20:.1f} MiB"
