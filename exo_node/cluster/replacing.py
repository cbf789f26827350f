"""Who takes the place of lost stages. Pure: the ring keeps its cut, so that whoever is left keeps what it holds.

A lost stage goes, in this order: to a spare that holds its layers already; to its own node, where only the runner
ended; to the freest node outside the ring, then inside, that has the model, an engine and the memory.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from exo_node.cluster.stage_memory import KvPool, MemoryRules, Seat, stage_limit
from exo_node.types import Assignment, Device, Instance, ModelSpec, NodeInfo, Spare

Place = tuple[str, str]  # (node id, device)


@dataclass(frozen=True, slots=True)
class Replacement:
    """The ring as it is to be. `sizes`: bytes of each stage that must be loaded; `used`: spares that step in."""

    assignments: tuple[Assignment, ...]
    sizes: Mapping[int, int]
    used: tuple[Spare, ...]


def replace_stages(
    instance: Instance,
    lost: Collection[int],
    spec: ModelSpec,
    nodes: Mapping[str, NodeInfo],
    spares: Sequence[Spare],
    rules: MemoryRules,
    *,
    draft: ModelSpec | None = None,
    freed: Mapping[Place, int],
    unfit: Collection[str] = (),
) -> Replacement | None:
    """The instance with each of its `lost` stages somewhere else; None where one finds no place.

    `nodes`: those that may take one: alive, with the model. `spares`: those of the instance that are alive. `freed`:
    bytes that lost stages hold there still, which are given back first. `unfit`: nodes that are taken last.
    """
    nodes = given_back(nodes, freed)
    free = {node_id: node.memory_free for node_id, node in nodes.items()}
    assignments = list(instance.assignments)
    taken = {(one.node_id, one.device) for stage, one in enumerate(assignments) if stage not in lost}
    taken |= {(one.assignment.node_id, one.assignment.device) for one in spares}
    sizes: dict[int, int] = {}
    used: list[Spare] = []
    for stage in sorted(lost):
        spare = next((one for one in spares if one.stage == stage), None)
        if spare is not None:
            assignments[stage] = spare.assignment
            used.append(spare)
            continue
        found = _place(instance, stage, spec, nodes, free, taken, rules, draft, unfit)
        if found is None:
            return None
        assignments[stage], sizes[stage] = found
        free[found[0].node_id] -= found[1]
        taken.add((found[0].node_id, found[0].device))
    return Replacement(tuple(assignments), sizes, tuple(used))


def kind_of(device: str) -> str:
    """Of a device's id, what its bits depend on: the same engine computes alike on "CUDA:0" and "CUDA:1"."""
    return device.partition(":")[0]


def given_back(nodes: Mapping[str, NodeInfo], freed: Mapping[Place, int]) -> dict[str, NodeInfo]:
    """The nodes as they are once they have these bytes back. A discrete GPU tells its own memory beside its node's."""
    found = {}
    for node_id, node in nodes.items():
        back = {one.id: freed.get((node_id, one.id), 0) for one in node.devices}
        devices = tuple(replace(one, memory_free=one.memory_free + back[one.id]) for one in node.devices)
        found[node_id] = replace(node, memory_free=node.memory_free + sum(back.values()), devices=devices)
    return found


def spare_for(
    instance: Instance, stage: int, spec: ModelSpec, nodes: Mapping[str, NodeInfo], taken: Collection[tuple[str, str]],
    rules: MemoryRules, draft: ModelSpec | None, free: Mapping[str, int],
) -> tuple[Assignment, int] | None:  # fmt: skip
    """Where the layers of a stage may be held once more: never on its own node, which they are to outlive."""
    own = instance.assignments[stage].node_id
    others = {node_id: node for node_id, node in nodes.items() if node_id != own}
    return _place(instance, stage, spec, others, free, taken, rules, draft)


def stage_size(
    instance: Instance, stage: int, at: Assignment, spec: ModelSpec, node: NodeInfo, rules: MemoryRules,
    draft: ModelSpec | None,
) -> int:  # fmt: skip
    """Bytes that a stage, or a spare of it, takes where it is."""
    device = next((one for one in node.devices if one.id == at.device), None)
    return 0 if device is None else _size(instance, stage, spec, Seat(device, at.engine, 0), rules, draft)


def _size(
    instance: Instance, stage: int, spec: ModelSpec, seat: Seat, rules: MemoryRules, draft: ModelSpec | None
) -> int:
    shard = instance.assignments[stage].shard
    pool = KvPool(instance.slots, instance.context, instance.kv_tokens or instance.slots * instance.context)
    drafting = None if draft is None else (draft, pool)
    sends = stage < len(instance.assignments) - 1
    limit = stage_limit(spec, seat, pool, rules, draft=drafting, is_head=stage == 0, sends=sends)
    return limit.fixed + sum(limit.layer_bytes[shard.start_layer : shard.end_layer])


def _place(
    instance: Instance,
    stage: int,
    spec: ModelSpec,
    nodes: Mapping[str, NodeInfo],
    free: Mapping[str, int],
    taken: Collection[tuple[str, str]],
    rules: MemoryRules,
    draft: ModelSpec | None,
    unfit: Collection[str] = (),
) -> tuple[Assignment, int] | None:
    old = instance.assignments[stage]
    members = {one.node_id for one in instance.assignments}

    def rank(node_id: str) -> tuple[bool, bool, bool, int, str]:
        return node_id in unfit, node_id != old.node_id, node_id in members, -free[node_id], node_id

    # The same engine on the same kind of device first: another one's bits differ.
    for same_engine, same_kind in ((True, True), (True, False), (False, False)):
        for node_id in sorted(nodes, key=rank):
            node = nodes[node_id]
            engines = [one for one in node.engines if (one == old.engine) == same_engine]
            held = {at for owner, at in taken if owner == node_id}
            device = _device(node, old.device, held, same_kind=same_kind)
            if not engines or device is None:
                continue
            size = _size(instance, stage, spec, Seat(device, engines[0], free[node_id]), rules, draft)
            if size <= free[node_id] and (device.kind in ("cpu", "metal") or size <= device.memory_free):
                return Assignment(node_id, old.shard, engines[0], device.id), size
    return None


def _device(node: NodeInfo, wanted: str, taken: Collection[str], *, same_kind: bool) -> Device | None:
    """A device that holds no stage of this instance, the one of that name first; `same_kind`: of that one's kind."""
    open_ones = [one for one in node.devices if one.id not in taken]
    if same_kind:
        open_ones = [one for one in open_ones if kind_of(one.id) == kind_of(wanted)]
    return next((one for one in open_ones if one.id == wanted), open_ones[0] if open_ones else None)
