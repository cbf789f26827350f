"""Has nodes hold the shards of an instance: memory is set aside, shards are loaded, the instance is made known."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from exo_node.cluster.stage_memory import LOG_BYTES, MemoryRules, compute_dtype_on
from exo_node.engine.select import kept_by_layer, state_bytes
from exo_node.errors import ExoError, PeerUnavailable
from exo_node.ring.connecting import MAX_CHUNK, SPARE_STAGE
from exo_node.ring.leases import LEASE_MS
from exo_node.ring.members import Member
from exo_node.transport.convert import instance_to_pb, shard_to_pb
from exo_node.transport.generated.exo.v1 import node_pb2
from exo_node.types import Assignment, Dtype, Instance, ModelSpec, NodeInfo

log = logging.getLogger("exo.placing")

# What a runner's process takes beside weights and KV: 71 MB with MLX, 150 MB with tinygrad (RSS with a tiny model).
RUNNER_BYTES = 160 * 10**6

RULES = MemoryRules(
    overhead=RUNNER_BYTES,
    log=LOG_BYTES,
    kept=lambda one, engine, context: kept_by_layer(engine, one.config, context, MAX_CHUNK),
    states=lambda one, engine, element: state_bytes(engine, one.config, element),
)


@dataclass(slots=True)
class Work:
    """What has been reserved so far, so that it can be undone: (node id, stage). `failed`: nodes that could not."""

    reserved: list[tuple[str, int]] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)

    @contextlib.contextmanager
    def asking(self, node_id: str) -> Iterator[None]:
        """What fails in this block is that node's."""
        try:
            yield
        except ExoError:
            self.failed.add(node_id)
            raise


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """What is loaded: which stages (spares have numbers of their own, `SPARE_STAGE`) of an instance, and of what.

    `sizes`: bytes of each stage; those without an entry are loaded already, and their node only says so.
    """

    instance: Instance
    stages: Mapping[int, Assignment]
    sizes: Mapping[int, int]
    spec: ModelSpec
    draft: ModelSpec | None
    nodes: Mapping[str, NodeInfo]

    def aside(self) -> Shelf:
        """Only what must be loaded, as spares: the ring that is there goes on meanwhile."""
        stages = {SPARE_STAGE + stage: self.stages[stage] for stage in self.sizes}
        return replace(self, stages=stages, sizes={SPARE_STAGE + stage: size for stage, size in self.sizes.items()})

    def dtypes(self) -> list[Dtype]:
        """What each stage of the ring computes in."""
        return [compute_dtype(self.spec, self.nodes[one.node_id], one.device) for one in self.instance.assignments]


class ShardLoader:
    """A coordinator's acts on the nodes that hold, or are to hold, the shards of an instance."""

    def __init__(self, node_id: str, member: Callable[[str], Member]) -> None:
        self._node_id = node_id
        self._member = member

    async def reserve(self, shelf: Shelf, work: Work) -> None:
        """Set memory aside in node-id order, so that two coordinators cannot each hold what the other wants."""
        for stage in sorted(shelf.sizes, key=lambda stage: (shelf.stages[stage].node_id, stage)):
            one = shelf.stages[stage]
            work.reserved.append((one.node_id, stage))
            request = node_pb2.ReserveShardRequest(
                instance_id=shelf.instance.instance_id,
                coordinator=self._node_id,
                bytes=shelf.sizes[stage],
                device=one.device,
                lease_ms=LEASE_MS,
                stage=stage,
            )
            with work.asking(one.node_id):
                await self._member(one.node_id).reserve_shard(request)

    async def load(
        self, shelf: Shelf, work: Work, report: Callable[[node_pb2.PlaceProgress], None]
    ) -> Mapping[int, node_pb2.ShardReady]:
        """Load every stage, all at once; the first failure cancels the others."""
        done = dict.fromkeys(shelf.stages, 0)
        total = dict(done)

        async def load(stage: int, one: Assignment) -> node_pb2.ShardReady:
            with work.asking(one.node_id):
                return await loaded(stage, one)

        async def loaded(stage: int, one: Assignment) -> node_pb2.ShardReady:
            async with contextlib.aclosing(self._member(one.node_id).load_shard(_request(shelf, stage))) as updates:
                async for update in updates:
                    if update.HasField("ready"):
                        return update.ready
                    done[stage], total[stage] = update.done, update.total
                    report(
                        node_pb2.PlaceProgress(
                            stage=update.stage,
                            detail=one.node_id,
                            done=sum(done.values()),
                            total=sum(total.values()),
                        )
                    )
            raise PeerUnavailable(f"node {one.node_id} ended the load without an answer")

        tasks = {stage: asyncio.create_task(load(stage, one)) for stage, one in shelf.stages.items()}
        try:
            return dict(zip(tasks, await asyncio.gather(*tasks.values()), strict=True))
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)

    async def commit(self, instance: Instance) -> None:
        """Tell every node of the ring what it is part of."""
        message = node_pb2.CommitInstanceRequest(instance=instance_to_pb(instance), lease_ms=LEASE_MS)
        # The head's node last: it starts to serve (and to watch the others) with this message.
        head = instance.assignments[0].node_id
        others = {one.node_id for one in (*instance.assignments, *(spare.assignment for spare in instance.spares))}
        await asyncio.gather(*(self._member(node_id).commit_instance(message) for node_id in sorted(others - {head})))
        await self._member(head).commit_instance(message)

    async def unload(self, instance_id: str, stages: Sequence[tuple[str, int]], *, at_once: bool = False) -> None:
        """End runners and undo reservations, (node id, stage), as far as their nodes can be reached."""

        async def unload(node_id: str, stage: int) -> None:
            try:
                await self._member(node_id).unload_shard(
                    node_pb2.UnloadShardRequest(instance_id=instance_id, stage=stage, at_once=at_once)
                )
            except ExoError as error:  # a dead node holds nothing; a live one lets the lease run out
                log.warning("cannot undo shard %d on %s: %s", stage, node_id, error)

        await asyncio.gather(*(unload(node_id, stage) for node_id, stage in stages))


def _request(shelf: Shelf, stage: int) -> node_pb2.LoadShardRequest:
    one, instance, draft = shelf.stages[stage], shelf.instance, shelf.draft
    is_head = stage % SPARE_STAGE == 0
    return node_pb2.LoadShardRequest(
        instance_id=instance.instance_id,
        shard=shard_to_pb(one.shard),
        digest=instance.digest,
        engine=one.engine,
        device=one.device,
        is_head=is_head,
        compute_dtype=compute_dtype(shelf.spec, shelf.nodes[one.node_id], one.device),
        slots=instance.slots,
        context=instance.context,
        kv_tokens=instance.kv_tokens,
        max_chunk=MAX_CHUNK,
        token=instance.token,
        lease_ms=LEASE_MS,
        stage=stage,
        quantize=instance.quantize,
        draft=draft_message(draft, shelf.nodes[one.node_id], one.device) if draft is not None and is_head else None,
    )


def draft_message(draft: ModelSpec, node: NodeInfo, device: str) -> node_pb2.DraftModel:
    """What the head's node is told of the draft model."""
    dtype = compute_dtype(draft, node, device)
    return node_pb2.DraftModel(model_id=draft.model_id, digest=draft.digest, compute_dtype=dtype)


def compute_dtype(spec: ModelSpec, node: NodeInfo, device: str) -> Dtype:
    """What a stage computes in: the same rule by which the plan counted its bytes."""
    return compute_dtype_on(spec, next(one for one in node.devices if one.id == device))
