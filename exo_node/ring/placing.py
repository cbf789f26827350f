"""Places a model on the cluster: the acts of the node that coordinates it.

describe -> plan (pure, cluster/placement.py) -> reserve in node-id order, all or nothing -> load all shards at once ->
configure the ring, followers first -> commit: from there the head's daemon owns the instance. Any failure undoes all.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import secrets
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from weakref import WeakValueDictionary

from exo_node.cluster.placement import PlacementPlan, plan_placement
from exo_node.cluster.replacing import spare_for
from exo_node.engine.select import able, check_supported
from exo_node.errors import InvalidRequest, ModelNotFound
from exo_node.models.vocabulary import PADDING, other_vocabulary
from exo_node.ring.connecting import SPARE_STAGE, connect
from exo_node.ring.describing import describe
from exo_node.ring.leases import renewed
from exo_node.ring.loading import RULES, ShardLoader, Shelf, Work
from exo_node.ring.members import ClusterView, Member
from exo_node.ring.reporting import reported
from exo_node.transport.client import SILENCE_S
from exo_node.transport.convert import instance_to_pb
from exo_node.transport.generated.exo.v1 import node_pb2
from exo_node.types import Assignment, Instance, ModelSpec, NodeInfo, Spare

log = logging.getLogger("exo.placing")

TOKEN_BYTES = 32


class Placer:
    """Coordinates placements. One at a time per model; several models at once."""

    def __init__(
        self,
        cluster: ClusterView,
        member: Callable[[str], Member],
        *,
        changed: Callable[[], None],
        silence_s: float = SILENCE_S,
    ) -> None:
        """`silence_s`: see `connect`."""
        self._silence_s = silence_s
        self._cluster = cluster
        self._member = member
        self._changed = changed
        self._loader = ShardLoader(cluster.node_id, member)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # of what somebody asks for now
        self.loading: dict[str, Instance] = {}

    def lock(self, model: str) -> asyncio.Lock:
        """Held while a model is being placed."""
        return self._locks.setdefault(model, asyncio.Lock())

    async def place(self, request: node_pb2.PlaceModelRequest) -> AsyncGenerator[node_pb2.PlaceProgress, None]:
        """Place a model; the last message holds the ready instance. Raises `ExoError`; then nothing is left behind."""
        yield node_pb2.PlaceProgress(stage="describing", detail=request.model)
        nodes = self._candidates(request.nodes)
        spec, holders = await describe(
            self._member, self._cluster.node_id, request.model, nodes, request.nodes, quantize=request.quantize
        )
        usable = {node_id: node for node_id, node in nodes.items() if node_id in holders}
        draft, draft_holders = None, set(usable)
        if request.draft_model:
            draft, draft_holders = await describe(
                self._member, self._cluster.node_id, request.draft_model, nodes, request.nodes[:1]
            )
            check_sizes(spec, draft)
        plan = self._plan(request, spec, usable, draft)
        if draft is not None and (head := plan.assignments[0].node_id) not in draft_holders:
            raise ModelNotFound(
                f"draft model {draft.model_id} is not on {head}, which would hold the head, and cannot be fetched "
                "there: copy its folder to that node's --models-dir, or name first a node that has it",
                param="draft_model",
            )
        instance = Instance(
            instance_id=request.instance_id or str(uuid.uuid4()),
            model_id=spec.model_id,
            digest=spec.digest,
            assignments=tuple(plan.assignments),
            addresses=(),
            coordinator=self._cluster.node_id,
            epoch=1,
            context=plan.context,
            slots=plan.slots,
            kv_tokens=plan.kv_tokens,
            state="loading",
            token=secrets.token_bytes(TOKEN_BYTES),
            quantize=request.quantize,
            draft_model=draft.model_id if draft is not None else "",
            min_nodes=request.min_nodes or 1,
        )
        self.loading[instance.instance_id] = instance
        self._changed()
        work = Work()
        try:
            stages = dict(enumerate(instance.assignments))
            sizes = dict(enumerate(plan.stage_bytes))
            if request.spares:
                others = self._candidates(())
                _, able = await describe(
                    self._member, self._cluster.node_id, request.model, others, (), quantize=request.quantize
                )
                usable = {**{node_id: node for node_id, node in others.items() if node_id in able}, **usable}
                spares = self._spares(instance, spec, usable, draft, sizes)
                instance = dataclasses.replace(
                    instance, spares=tuple(Spare(stage, one) for stage, (one, _) in spares.items())
                )
                stages |= {SPARE_STAGE + stage: one for stage, (one, _) in spares.items()}
                sizes |= {SPARE_STAGE + stage: size for stage, (_, size) in spares.items()}
            shelf = Shelf(instance=instance, stages=stages, sizes=sizes, spec=spec, draft=draft, nodes=usable)
            await self._loader.reserve(shelf, work)
            ready: dict[int, node_pb2.ShardReady] = {}

            async def load(report: Callable[[node_pb2.PlaceProgress], None]) -> None:
                ready.update(await self._loader.load(shelf, work, report))

            async with renewed(self._member, instance), contextlib.aclosing(reported(load)) as updates:
                async for update in updates:
                    yield update
                yield node_pb2.PlaceProgress(stage="connecting")
                instance = await connect(self._cluster, instance, shelf.dtypes(), ready, silence_s=self._silence_s)
                await self._loader.commit(instance)
        except BaseException:
            await asyncio.shield(self._loader.unload(instance.instance_id, work.reserved))
            raise
        finally:
            self.loading.pop(instance.instance_id, None)
            self._changed()
        yield node_pb2.PlaceProgress(stage="ready", instance=instance_to_pb(instance))

    async def preview(self, request: node_pb2.PlaceModelRequest) -> tuple[ModelSpec, PlacementPlan]:
        """What `place` would do now. Nothing is fetched for it. Raises as `place` does before it reserves anything."""
        nodes = self._candidates(request.nodes)
        spec, holders = await describe(
            self._member,
            self._cluster.node_id,
            request.model,
            nodes,
            request.nodes,
            quantize=request.quantize,
            fetch=False,
        )
        return spec, self._plan(request, spec, {one: node for one, node in nodes.items() if one in holders})

    def _plan(
        self,
        request: node_pb2.PlaceModelRequest,
        spec: ModelSpec,
        nodes: Mapping[str, NodeInfo],
        draft: ModelSpec | None = None,
    ) -> PlacementPlan:
        places = list(nodes.values())
        if not request.engines:
            places = able(places, spec.config, len(set(request.nodes)) or request.min_nodes)
        plan = plan_placement(
            spec,
            places,
            min_nodes=request.min_nodes or 1,
            node_ids=tuple(request.nodes),
            engines=tuple(request.engines),
            slots=request.slots,
            context=min(request.context, spec.max_context),
            draft=draft,
            rules=RULES,
        )
        for one in plan.assignments:
            check_supported(one.engine, spec.config, one.shard)
        if draft is not None:
            check_supported(plan.assignments[0].engine, draft.config, draft.whole)
        return plan

    def _spares(
        self,
        instance: Instance,
        spec: ModelSpec,
        nodes: Mapping[str, NodeInfo],
        draft: ModelSpec | None,
        sizes: Mapping[int, int],
    ) -> dict[int, tuple[Assignment, int]]:
        """For each stage a second place for its layers, and their bytes, as far as there is room beside the ring."""
        free = {node_id: node.memory_free for node_id, node in nodes.items()}
        for stage, one in enumerate(instance.assignments):
            free[one.node_id] -= sizes[stage]
        taken = {(one.node_id, one.device) for one in instance.assignments}
        found: dict[int, tuple[Assignment, int]] = {}
        for stage in range(len(instance.assignments)):
            spare = spare_for(instance, stage, spec, nodes, taken, RULES, draft, free)
            if spare is None:
                log.warning("no room for a spare of stage %d of %s", stage, instance.model_id)
                continue
            found[stage] = spare
            free[spare[0].node_id] -= spare[1]
            taken.add((spare[0].node_id, spare[0].device))
        return found

    def _candidates(self, wanted: Sequence[str]) -> Mapping[str, NodeInfo]:
        nodes = self._cluster.nodes()
        unknown = [node_id for node_id in wanted if node_id not in nodes]
        if unknown:
            raise InvalidRequest(
                f"no such node: {', '.join(unknown)}; the cluster has {', '.join(sorted(nodes))}", param="nodes"
            )
        draining = self._cluster.draining()
        if named := [node_id for node_id in wanted if node_id in draining]:
            raise InvalidRequest(
                f"{', '.join(named)} takes no shards: it is being drained ('exo drain --undo' ends that)", param="nodes"
            )
        if wanted:
            return {node_id: nodes[node_id] for node_id in wanted}
        return {node_id: node for node_id, node in nodes.items() if node_id not in draining}


def check_sizes(spec: ModelSpec, draft: ModelSpec) -> None:
    """Raises `InvalidRequest` where the sizes of the vocabularies show already that they are different ones."""
    sizes = [int(one.config["vocab_size"]) for one in (spec, draft)]
    if abs(sizes[0] - sizes[1]) > PADDING:
        raise other_vocabulary(spec.model_id, draft.model_id, f"{sizes[0]} and {sizes[1]} tokens")
