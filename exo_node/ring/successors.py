"""Who holds which layers of a ring that has lost stages, or is to leave nodes: asks the nodes, then plans (pure)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from exo_node.cluster.placement import PlacementPlan, plan_placement
from exo_node.cluster.replacing import Replacement, replace_stages, stage_size
from exo_node.engine.select import check_supported
from exo_node.errors import ExoError, InvalidRequest, NoCapacity
from exo_node.ring.describing import describe
from exo_node.ring.loading import RULES, Shelf
from exo_node.ring.members import Member
from exo_node.types import Instance, ModelSpec, NodeInfo, Spare

log = logging.getLogger("exo.recovery")


@dataclass(frozen=True, slots=True)
class Successors:
    """The ring to come. `kept`: stages whose runner goes on; `same_cut`: every stage holds the layers that it held."""

    shelf: Shelf
    kept: frozenset[int]
    same_cut: bool


async def successors(
    member: Callable[[str], Member],
    here: str,
    old: Instance,
    lost: Collection[int],
    nodes: Mapping[str, NodeInfo],
    spares: Sequence[Spare],
    *,
    epoch: int,
    running: bool,
) -> Successors:
    """Another place for each of the `lost` stages of `old`, on `nodes`; where there is none a new cut.

    `spares`: those that live. `running`: the ring serves until its successors are loaded, so its memory is not free.
    Raises `NoCapacity` where it fits no more, and what `describe` raises.
    """
    if not nodes:
        raise NoCapacity(f"no node is left that could take a part of {old.model_id}")
    spec, holders = await describe(member, here, old.model_id, nodes, (), quantize=old.quantize)
    if spec.digest != old.digest:
        raise NoCapacity(f"the files of {old.model_id} have changed since it was loaded: it cannot be brought back")
    usable = {name: node for name, node in nodes.items() if name in holders}
    draft = None
    if old.draft_model:
        draft, old = await _draft(member, here, old, nodes)
    freed: dict[str, int] = {}
    if not running:
        for stage in lost:
            node_id = old.assignments[stage].node_id
            if node_id in usable:
                size = stage_size(old, stage, spec, usable[node_id], RULES, draft)
                freed[node_id] = freed.get(node_id, 0) + size
    found = replace_stages(old, lost, spec, usable, spares, RULES, draft=draft, freed=freed)
    if found is not None and _supported(found, spec):
        return _same_cut(old, found, lost, spec, draft, usable, nodes, epoch)
    plan = _anew(old, spec, draft, usable, lost, running=running)
    return _new_cut(old, plan, lost, spec, draft, nodes, epoch)


async def _draft(
    member: Callable[[str], Member], here: str, old: Instance, nodes: Mapping[str, NodeInfo]
) -> tuple[ModelSpec | None, Instance]:
    """The draft model where somebody has it still; else the ring goes on without guesses."""
    try:
        draft, _ = await describe(member, here, old.draft_model, nodes, ())
    except ExoError as error:
        log.warning("%s goes on without its draft model %s: %s", old.model_id, old.draft_model, error.message)
        return None, replace(old, draft_model="")
    return draft, old


def _supported(found: Replacement, spec: ModelSpec) -> bool:
    try:
        for stage in found.sizes:
            check_supported(found.assignments[stage].engine, spec.config, found.assignments[stage].shard)
    except ExoError:
        return False
    return True


def _same_cut(
    old: Instance,
    found: Replacement,
    lost: Collection[int],
    spec: ModelSpec,
    draft: ModelSpec | None,
    usable: Mapping[str, NodeInfo],
    nodes: Mapping[str, NodeInfo],
    epoch: int,
) -> Successors:
    left = tuple(spare for spare in old.spares if spare not in found.used and spare.assignment.node_id in nodes)
    instance = replace(old, assignments=found.assignments, epoch=epoch, state="loading", spares=left)
    stages = dict(enumerate(found.assignments))
    shelf = Shelf(instance=instance, stages=stages, sizes=found.sizes, spec=spec, draft=draft, nodes=nodes)
    kept = frozenset(range(len(found.assignments))) - frozenset(lost)
    return Successors(shelf, kept, same_cut=True)


def _anew(
    old: Instance,
    spec: ModelSpec,
    draft: ModelSpec | None,
    usable: Mapping[str, NodeInfo],
    lost: Collection[int],
    *,
    running: bool,
) -> PlacementPlan:
    """Another cut, over as many nodes as were asked for if they are there; the same engine where it can be."""
    nodes = list(usable.values())
    if not running:
        for stage in range(len(old.assignments)):
            nodes = [
                replace(node, memory_free=node.memory_free + stage_size(old, stage, spec, node, RULES, draft))
                if node.node_id == old.assignments[stage].node_id
                else node
                for node in nodes
            ]
    engines = {one.engine for one in old.assignments}
    wishes = [(old.min_nodes, tuple(engines) if len(engines) == 1 else ()), (old.min_nodes, ()), (1, ())]
    problem: ExoError | None = None
    for min_nodes, engine in wishes:
        try:
            plan = plan_placement(
                spec, nodes, min_nodes=min_nodes, engines=engine, slots=old.slots, context=old.context, draft=draft,
                rules=RULES,
            )  # fmt: skip
            for one in plan.assignments:
                check_supported(one.engine, spec.config, one.shard)
            return plan
        except (NoCapacity, InvalidRequest) as error:
            problem = error
    raise NoCapacity(f"{old.model_id} lost a part and does not fit what is left: {problem}") from problem


def _new_cut(
    old: Instance,
    plan: PlacementPlan,
    lost: Collection[int],
    spec: ModelSpec,
    draft: ModelSpec | None,
    nodes: Mapping[str, NodeInfo],
    epoch: int,
) -> Successors:
    """Runners that would hold the same as before stay; spares of the old cut are of no use."""
    instance = replace(
        old, assignments=plan.assignments, epoch=epoch, state="loading", slots=plan.slots, context=plan.context,
        kv_tokens=plan.kv_tokens, spares=(),
    )  # fmt: skip
    same_pool = (plan.slots, plan.context, plan.kv_tokens) == (old.slots, old.context, old.kv_tokens)
    kept = frozenset(
        stage
        for stage, (new, was) in enumerate(zip(plan.assignments, old.assignments, strict=False))
        if same_pool and new == was and stage not in lost
    )
    sizes = {stage: size for stage, size in enumerate(plan.stage_bytes) if stage not in kept}
    stages = dict(enumerate(plan.assignments))
    shelf = Shelf(instance=instance, stages=stages, sizes=sizes, spec=spec, draft=draft, nodes=nodes)
    return Successors(shelf, kept, same_cut=False)
