"""Places a model on the cluster: the acts of the node that coordinates it.

describe -> plan (pure, cluster/placement.py) -> reserve in node-id order, all or nothing -> load all shards at once ->
configure the ring, followers first -> commit: from there the head's daemon owns the instance. Any failure undoes all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from exo_node.cluster.placement import PlacementPlan, compute_dtype_on, plan_placement
from exo_node.engine.select import check_supported, kept_by_layer, state_bytes
from exo_node.errors import ExoError, InvalidRequest, ModelNotFound, PeerUnavailable
from exo_node.models.vocabulary import PADDING, other_vocabulary
from exo_node.ring.connecting import MAX_CHUNK, connect
from exo_node.ring.describing import describe
from exo_node.ring.leases import LEASE_MS, renewed
from exo_node.ring.members import ClusterView, Member
from exo_node.transport.client import SILENCE_S
from exo_node.transport.convert import instance_to_pb, shard_to_pb
from exo_node.transport.generated.exo.v1 import node_pb2
from exo_node.types import Assignment, Dtype, Instance, ModelSpec, NodeInfo

log = logging.getLogger("exo.placing")

TOKEN_BYTES = 32
# What a runner's process takes beside weights and KV: 71 MB with MLX, 150 MB with tinygrad (RSS with a tiny model).
RUNNER_BYTES = 160 * 10**6


@dataclass(slots=True)
class _Work:
    """What has been done so far, so that it can be undone."""

    reserved: list[tuple[str, int]] = field(default_factory=list)  # (node id, stage)


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
        self._locks: dict[str, asyncio.Lock] = {}
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
        )
        self.loading[instance.instance_id] = instance
        self._changed()
        work = _Work()
        try:
            await self._reserve(instance, plan, work)
            progress: asyncio.Queue[node_pb2.PlaceProgress] = asyncio.Queue()
            async with renewed(self._member, instance):
                loading = asyncio.create_task(self._load_all(instance, spec, draft, usable, progress.put_nowait))
                try:
                    while not loading.done() or not progress.empty():
                        getting = asyncio.ensure_future(progress.get())
                        await asyncio.wait((loading, getting), return_when=asyncio.FIRST_COMPLETED)
                        if getting.done():
                            yield getting.result()
                        else:
                            getting.cancel()
                    ready = loading.result()
                finally:
                    loading.cancel()
                    with contextlib.suppress(asyncio.CancelledError, ExoError):
                        await loading
                yield node_pb2.PlaceProgress(stage="connecting")
                dtypes = [compute_dtype(spec, usable[one.node_id], one.device) for one in instance.assignments]
                instance = await connect(self._cluster, instance, dtypes, ready, silence_s=self._silence_s)
                await self._commit(instance)
        except BaseException:
            await asyncio.shield(self._undo(instance, work))
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
        plan = plan_placement(
            spec,
            list(nodes.values()),
            min_nodes=request.min_nodes or 1,
            node_ids=tuple(request.nodes),
            engines=tuple(request.engines),
            slots=request.slots,
            context=min(request.context, spec.max_context),
            overhead=RUNNER_BYTES,
            draft=draft,
            kept=lambda one, engine, context: kept_by_layer(engine, one.config, context, MAX_CHUNK),
            states=lambda one, engine, element: state_bytes(engine, one.config, element),
        )
        for one in plan.assignments:
            check_supported(one.engine, spec.config, one.shard)
        if draft is not None:
            check_supported(plan.assignments[0].engine, draft.config, draft.whole)
        return plan

    def _candidates(self, wanted: Sequence[str]) -> Mapping[str, NodeInfo]:
        nodes = self._cluster.nodes()
        unknown = [node_id for node_id in wanted if node_id not in nodes]
        if unknown:
            raise InvalidRequest(
                f"no such node: {', '.join(unknown)}; the cluster has {', '.join(sorted(nodes))}", param="nodes"
            )
        return {node_id: nodes[node_id] for node_id in wanted} if wanted else nodes

    async def _reserve(self, instance: Instance, plan: PlacementPlan, work: _Work) -> None:
        """In node-id order, so that two coordinators cannot each hold what the other wants."""
        order = sorted(range(len(instance.assignments)), key=lambda stage: (instance.assignments[stage].node_id, stage))
        for stage in order:
            one = instance.assignments[stage]
            work.reserved.append((one.node_id, stage))
            await self._member(one.node_id).reserve_shard(
                node_pb2.ReserveShardRequest(
                    instance_id=instance.instance_id,
                    coordinator=self._cluster.node_id,
                    bytes=plan.stage_bytes[stage],
                    device=one.device,
                    lease_ms=LEASE_MS,
                )
            )

    async def _load_all(
        self,
        instance: Instance,
        spec: ModelSpec,
        draft: ModelSpec | None,
        nodes: Mapping[str, NodeInfo],
        report: Callable[[node_pb2.PlaceProgress], None],
    ) -> list[node_pb2.ShardReady]:
        """Load every shard, all at once; the first failure cancels the others."""
        done = [0] * len(instance.assignments)
        total = [0] * len(instance.assignments)

        async def load(stage: int, one: Assignment) -> node_pb2.ShardReady:
            request = node_pb2.LoadShardRequest(
                instance_id=instance.instance_id,
                shard=shard_to_pb(one.shard),
                digest=instance.digest,
                engine=one.engine,
                device=one.device,
                is_head=stage == 0,
                compute_dtype=compute_dtype(spec, nodes[one.node_id], one.device),
                slots=instance.slots,
                context=instance.context,
                kv_tokens=instance.kv_tokens,
                max_chunk=MAX_CHUNK,
                token=instance.token,
                lease_ms=LEASE_MS,
                stage=stage,
                quantize=instance.quantize,
                draft=draft_message(draft, nodes[one.node_id], one.device) if draft is not None and not stage else None,
            )
            async with contextlib.aclosing(self._member(one.node_id).load_shard(request)) as updates:
                async for update in updates:
                    if update.HasField("ready"):
                        return update.ready
                    done[stage], total[stage] = update.done, update.total
                    report(
                        node_pb2.PlaceProgress(stage=update.stage, detail=one.node_id, done=sum(done), total=sum(total))
                    )
            raise PeerUnavailable(f"node {one.node_id} ended the load without an answer")

        tasks = [asyncio.create_task(load(stage, one)) for stage, one in enumerate(instance.assignments)]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _commit(self, instance: Instance) -> None:
        message = node_pb2.CommitInstanceRequest(instance=instance_to_pb(instance), lease_ms=LEASE_MS)
        # The head's node last: it starts to serve (and to watch the others) with this message.
        followers = {one.node_id for one in instance.assignments[1:]} - {instance.assignments[0].node_id}
        await asyncio.gather(*(self._member(node_id).commit_instance(message) for node_id in sorted(followers)))
        await self._member(instance.assignments[0].node_id).commit_instance(message)

    async def _undo(self, instance: Instance, work: _Work) -> None:
        for node_id, stage in work.reserved:
            try:
                await self._member(node_id).unload_shard(
                    node_pb2.UnloadShardRequest(instance_id=instance.instance_id, stage=stage)
                )
            except ExoError as error:  # its lease will run out
                log.warning("cannot undo shard %d on %s: %s", stage, node_id, error)


def draft_message(draft: ModelSpec, node: NodeInfo, device: str) -> node_pb2.DraftModel:
    """What the head's node is told of the draft model."""
    dtype = compute_dtype(draft, node, device)
    return node_pb2.DraftModel(model_id=draft.model_id, digest=draft.digest, compute_dtype=dtype)


def check_sizes(spec: ModelSpec, draft: ModelSpec) -> None:
    """Raises `InvalidRequest` where the sizes of the vocabularies show already that they are different ones."""
    sizes = [int(one.config["vocab_size"]) for one in (spec, draft)]
    if abs(sizes[0] - sizes[1]) > PADDING:
        raise other_vocabulary(spec.model_id, draft.model_id, f"{sizes[0]} and {sizes[1]} tokens")


def compute_dtype(spec: ModelSpec, node: NodeInfo, device: str) -> Dtype:
    """What a stage computes in: the same rule by which the plan counted its bytes."""
    return compute_dtype_on(spec, next(one for one in node.devices if one.id == device))
