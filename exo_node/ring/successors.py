"""Who holds which layers of a ring that has lost stages, or is to leave nodes: asks the nodes, then plans (pure)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from exo_node.cluster.placement import PlacementPlan, plan_placement
from exo_node.cluster.replacing import Place, Replacement, given_back, replace_stages, stage_size
from exo_node.engine.select import able, check_supported
from exo_node.errors import ExoError, InvalidRequest, NoCapacity
from exo_node.ring.describing import describe
from exo_node.ring.loading import RULES, Shelf
from exo_node.ring.members import Member
from exo_node.types import Instance, ModelSpec, NodeInfo, Spare

log = logging.getLogger("exo.recovery")


@dataclass(frozen=True, slots=True)
class Successors:
    """The ring to come. `kept`: stages whose runner goes on; `same_cut`: every stage holds the layers that it held;
    `used`: spares that step in."""

    shelf: Shelf
    kept: frozenset[int]
    same_cut: bool
    used: tuple[Spare, ...] = ()


async def successors(
    member: Callable[[str], Member],
    here: str,
    old: Instance,
    lost: Collection[int],
    nodes: Mapping[str, NodeInfo],
    spares: Sequence[Spare],
    *,
    known: Mapping[str, NodeInfo],
    loaded: Collection[int],
    epoch: int,
    running: bool,
    unfit: Collection[str] = (),
    patience_s: float | None = None,
) -> Successors:
    """Another place for each of the `lost` stages of `old`, on `nodes`; where there is none a new cut.

    `spares`: those that live. `known`: all live nodes, those too that keep what they hold and take nothing. `loaded`:
    stages that their nodes list still. `running`: the ring serves until its successors are loaded, so its memory is not
    free. `unfit`: see `replace_stages`; `patience_s`: `describe`. Raises `NoCapacity` where it fits no more, and
    what `describe` raises.
    """
    if not nodes:
        raise NoCapacity(f"no node is left that could take a part of {old.model_id}")
    spec, holders = await describe(member, here, old.model_id, nodes, (), quantize=old.quantize, patience_s=patience_s)
    if spec.digest != old.digest:
        raise NoCapacity(f"the files of {old.model_id} have changed since it was loaded: it cannot be brought back")
    usable = {name: node for name, node in nodes.items() if name in holders}
    draft = None
    if old.draft_model:
        draft, old = await _draft(member, here, old, nodes, patience_s)

    def freed(stages: Collection[int], spares: Sequence[Spare]) -> Mapping[Place, int]:
        """What these take that may be given back."""
        places = [(stage, old.assignments[stage]) for stage in stages if stage in loaded]
        places += [(one.stage, one.assignment) for one in spares]
        found: Counter[Place] = Counter()
        for stage, at in () if running else places:
            if at.node_id in usable:
                found[at.node_id, at.device] += stage_size(old, stage, at, spec, usable[at.node_id], RULES, draft)
        return found

    # Where no place is left, the memory of spares that wait for another stage's loss is of more use to this one.
    for waiting in (spares, ()):
        given = [one for one in spares if one not in waiting]
        found = replace_stages(
            old, lost, spec, usable, waiting, RULES, draft=draft, freed=freed(lost, given), unfit=unfit
        )
        if found is not None and _supported(found, spec):
            return _same_cut(old, found, lost, spec, draft, waiting, known, epoch)
    grown = given_back(usable, freed(range(len(old.assignments)), spares))
    return _new_cut(old, _anew(old, spec, draft, [*grown.values()]), lost, spec, draft, known, epoch)


async def _draft(
    member: Callable[[str], Member], here: str, old: Instance, nodes: Mapping[str, NodeInfo], patience_s: float | None
) -> tuple[ModelSpec | None, Instance]:
    """The draft model where somebody has it still; else the ring goes on without guesses."""
    try:
        draft, _ = await describe(member, here, old.draft_model, nodes, (), fetch=False, patience_s=patience_s)
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
    spares: Sequence[Spare],
    nodes: Mapping[str, NodeInfo],
    epoch: int,
) -> Successors:
    left = tuple(spare for spare in spares if spare not in found.used)
    instance = replace(old, assignments=found.assignments, epoch=epoch, state="loading", spares=left)
    stages = dict(enumerate(found.assignments))
    shelf = Shelf(instance=instance, stages=stages, sizes=found.sizes, spec=spec, draft=draft, nodes=nodes)
    kept = frozenset(range(len(found.assignments))) - frozenset(lost)
    return Successors(shelf, kept, same_cut=True, used=found.used)


def _anew(old: Instance, spec: ModelSpec, draft: ModelSpec | None, nodes: Sequence[NodeInfo]) -> PlacementPlan:
    """Another cut, over as many nodes as were asked for if they are there; the same engine where it can be."""
    engines = {one.engine for one in old.assignments}
    wishes = [(old.min_nodes, tuple(engines) if len(engines) == 1 else ()), (old.min_nodes, ()), (1, ())]
    problem: ExoError | None = None
    for min_nodes, engine in wishes:
        places = list(nodes) if engine else able(nodes, spec.config, min_nodes)
        try:
            plan = plan_placement(
                spec, places, min_nodes=min_nodes, engines=engine, slots=old.slots, context=old.context,
                draft=draft, rules=RULES,
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
