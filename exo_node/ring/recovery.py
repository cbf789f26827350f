"""Brings a broken ring back, or moves it off a node: the acts of the node that coordinates its model.

fence those who are left (nothing of the old epoch gets in or out any more, they say what they hold) -> plan: the same
cut with other nodes in the lost places (pure, cluster/replacing.py), else a new cut over all who are left -> load what
is missing while the others stay as they are -> configure the new epoch, in which they keep what they hold -> commit.
What fails meanwhile is one more loss: another round, in a newer epoch. A node that is drained gives its shards away the
same way, but the ring runs until its successors are loaded. When no round succeeds the instance is taken down.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from exo_node.errors import KEY_DROPPED, DeadlineExceeded, ExoError, NoCapacity, PeerUnavailable, RingBroken
from exo_node.ring.caretaker import holders, missing_stages
from exo_node.ring.connecting import NOTHING, SPARE_STAGE, Outliving, connect
from exo_node.ring.dialling import dial
from exo_node.ring.fencing import fence
from exo_node.ring.keeping import read_kept, surviving
from exo_node.ring.leases import renewed
from exo_node.ring.loading import ShardLoader, Shelf, Work
from exo_node.ring.members import ClusterView, Member
from exo_node.ring.placing import Placer
from exo_node.ring.registry import InstanceRegistry
from exo_node.ring.reporting import reported
from exo_node.ring.shard_host import ShardHost
from exo_node.ring.successors import Successors, successors
from exo_node.transport.convert import instance_from_pb, instance_to_pb
from exo_node.transport.generated.exo.v1 import node_pb2, ring_pb2
from exo_node.transport.ring_client import RingClient
from exo_node.types import Instance, Spare

log = logging.getLogger("exo.recovery")

ROUNDS = 6  # each is for one more loss in the middle of the one before
TIMES_KEPT = 64
PATIENCE_S = 2.0  # for a node to say whether it has the model: as long as it takes only where it fits nowhere else
PAUSE_S = 0.3  # before another round: a lost node is known as lost to everybody after 0.2 s


@dataclass(slots=True)
class _Round:
    """One attempt: what is known, and what has been done that must be undone where it fails."""

    old: Instance
    epoch: int
    lost: set[int]
    times: node_pb2.RecoveryTimes = field(default_factory=node_pb2.RecoveryTimes)
    held: dict[int, ring_pb2.FenceResponse] = field(default_factory=dict)
    work: Work = field(default_factory=Work)
    unfit: Counter[str] = field(default_factory=Counter)  # nodes where it came to nothing in the rounds before


class Recovery:
    """Coordinates recoveries. One at a time per model, and none beside a placement of it."""

    def __init__(
        self,
        cluster: ClusterView,
        host: ShardHost,
        member: Callable[[str], Member],
        registry: InstanceRegistry,
        placer: Placer,
        *,
        silence_s: float,
        changed: Callable[[], None],
    ) -> None:
        """`silence_s`: how long a runner that is asked may say nothing."""
        self._cluster = cluster
        self._host = host
        self._member = member
        self._registry = registry
        self._placer = placer
        self._loader = ShardLoader(cluster.node_id, member)
        self._silence_s = silence_s
        self._took: dict[tuple[str, int], node_pb2.RecoveryTimes] = {}  # by (instance, epoch), for those who ask late
        self._changed = changed
        self._running: set[asyncio.Task[None]] = set()

    async def recover(self, request: node_pb2.RecoverRequest) -> AsyncGenerator[node_pb2.PlaceProgress, None]:
        """Bring an instance back; the last message holds it, ready. Compare-and-set: where its epoch is newer already
        than the asker's, it is answered as it is. Raises `ExoError`; then it is gone, but for a drain that failed.

        One that has begun goes on when its asker goes away, a client with little patience perhaps: others wait for it,
        or will. A drain ends then.
        """
        source = self._bring_back(request) if request.avoid else self._going_on(request)
        async with contextlib.aclosing(source) as updates:
            async for update in updates:
                yield update

    async def close(self) -> None:
        """End what is under way; the process ends."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _going_on(self, request: node_pb2.RecoverRequest) -> AsyncGenerator[node_pb2.PlaceProgress, None]:
        """As `_bring_back`, whose end it is not when this one is closed."""
        updates: asyncio.Queue[node_pb2.PlaceProgress | None] = asyncio.Queue()

        async def run() -> None:
            try:
                async with contextlib.aclosing(self._bring_back(request)) as source:
                    async for update in source:
                        updates.put_nowait(update)
            finally:
                updates.put_nowait(None)

        def ended(task: asyncio.Task[None]) -> None:
            self._running.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, ExoError):
                log.error("recovery of %s failed", request.instance.instance_id[:8], exc_info=error)  # our bug

        task = asyncio.create_task(run(), name=f"coordination of {request.instance.instance_id}")
        self._running.add(task)
        task.add_done_callback(ended)
        while (update := await updates.get()) is not None:
            yield update
        await asyncio.wait((task,))
        task.result()

    async def _bring_back(self, request: node_pb2.RecoverRequest) -> AsyncGenerator[node_pb2.PlaceProgress, None]:
        told = instance_from_pb(request.instance)
        async with self._placer.lock(told.model_id):
            current = self._registry.newest(told)
            if self._is_done(current, told, request.avoid):
                times = self._took.get((current.instance_id, current.epoch))
                yield node_pb2.PlaceProgress(stage="ready", instance=instance_to_pb(current), times=times)
                return
            self._check_wanted(told)
            moves = bool(request.avoid) and not self._registry.is_lost(current)
            if not moves:
                self._registry.lose(current)
            epoch = max(current.epoch, self._registry.lost.get(current.instance_id, 0))
            unfit: Counter[str] = Counter()
            for left in reversed(range(ROUNDS)):
                epoch += 1
                one = _Round(current, epoch, self._missing(current), unfit=unfit)
                try:
                    rounds = self._round(one, set(request.avoid), moves=moves)
                    async with contextlib.aclosing(rounds) as updates:
                        async for update in updates:
                            yield update
                    return
                except ExoError as error:
                    log.warning("recovery of %s, epoch %d: %s", current.instance_id[:8], epoch, error.message)
                    if moves and not one.held:
                        raise  # the ring runs as before
                    if not left or not (one.work.failed or _another_try(error)):
                        await self._give_up(one)
                        if isinstance(error, PeerUnavailable):  # to the asker that would be us, and it would ask again
                            raise RingBroken(error.message, code="given_up") from error
                        raise
                    unfit.update(one.work.failed)
                moves = False
                await asyncio.sleep(PAUSE_S)
                current = self._registry.newest(told)
                if self._is_done(current, told, ()):  # another coordinator was faster
                    yield node_pb2.PlaceProgress(stage="ready", instance=instance_to_pb(current))
                    return

    def _is_done(self, current: Instance, told: Instance, avoid: Collection[str]) -> bool:
        if current.state != "ready" or self._registry.is_lost(current):
            return False
        if avoid:
            members = (*current.assignments, *(spare.assignment for spare in current.spares))
            return all(at.node_id not in avoid for at in members)
        return current.epoch > told.epoch

    def _check_wanted(self, instance: Instance) -> None:
        if self._registry.was_removed(instance.instance_id):
            raise RingBroken(f"{instance.model_id} was taken off the cluster", code="instance_removed")

    def _missing(self, instance: Instance) -> set[int]:
        """Stages whose node is gone, or no longer lists them."""
        return set(missing_stages(instance, self._cluster.node_id, self._host, self._cluster.states()))

    async def _round(
        self, one: _Round, avoid: set[str], *, moves: bool
    ) -> AsyncGenerator[node_pb2.PlaceProgress, None]:
        old, times = one.old, one.times
        try:
            async with renewed(self._member, old):
                begun = time.perf_counter_ns()
                if not moves:
                    self._show(one)
                    yield node_pb2.PlaceProgress(stage="fencing", detail=old.instance_id)
                    await self._fence(one)
                begun = _lap(times, "fence_us", begun)
                leaving = {stage for stage, at in enumerate(old.assignments) if at.node_id in avoid}
                found = await self._plan(one, one.lost | leaving, avoid, moves=moves)
                begun = _lap(times, "plan_us", begun)
                if not moves:
                    await self._unload(old, [stage for stage in range(len(old.assignments)) if stage not in found.kept])
                    await self._unload_spares(old, set(old.spares) - {*found.used, *found.shelf.instance.spares})
                    # From its load on a spare is none any more: where this fails the next round would not know it.
                    one.work.reserved += [(spare.assignment.node_id, spare.stage) for spare in found.used]
                ready: dict[int, node_pb2.ShardReady] = {}
                async with contextlib.aclosing(
                    self._load(one, found.shelf.aside() if moves else found.shelf, ready)
                ) as updates:
                    async for update in updates:
                        yield update
                times.loaded.extend(sorted(found.shelf.sizes))
                begun = _lap(times, "load_us", begun)
                yield node_pb2.PlaceProgress(stage="connecting")
                if moves:
                    ready = await self._step_in(one, found)
                rest = outliving(found, one.held, ready)
                new = await connect(
                    self._cluster, found.shelf.instance, found.shelf.dtypes(), ready, rest, silence_s=self._silence_s
                )
                await self._loader.commit(new)
                _lap(times, "connect_us", begun)
        except BaseException:
            if one.held:  # whoever goes on must begin above this epoch
                self._registry.lose(replace(old, epoch=one.epoch))
            await asyncio.shield(self._loader.unload(old.instance_id, one.work.reserved))
            raise
        finally:
            self._placer.loading.pop(old.instance_id, None)
            self._changed()
        self._registry.remember(new)
        if moves:
            await self._unload_spares(old, set(old.spares) - {*found.used, *new.spares})
        self._took[new.instance_id, new.epoch] = times
        while len(self._took) > TIMES_KEPT:
            del self._took[next(iter(self._took))]
        log.info("instance %s of %s goes on as epoch %d", new.instance_id[:8], new.model_id, new.epoch)
        yield node_pb2.PlaceProgress(stage="ready", instance=instance_to_pb(new), times=times)

    def _show(self, one: _Round) -> None:
        """Say that the instance loads: who asks for it waits for that."""
        loading = replace(one.old, epoch=one.epoch, state="loading", coordinator=self._cluster.node_id)
        self._placer.loading[one.old.instance_id] = loading
        self._changed()

    async def _fence(self, one: _Round) -> None:
        """End the old epoch on every stage that is left; those that do not answer are lost too."""
        old = one.old
        request = ring_pb2.FenceRequest(
            instance_id=old.instance_id,
            epoch=ring_pb2.Epoch(counter=one.epoch, coordinator=self._cluster.node_id),
        )
        clients: dict[int, RingClient] = {}
        try:
            for stage in set(range(len(old.assignments))) - one.lost:
                with contextlib.suppress(PeerUnavailable):  # its node has just gone
                    clients[stage] = dial(self._cluster, old, stage, self._silence_s)
            one.held = await fence(clients, request, self._silence_s)
        finally:
            await asyncio.gather(*(client.close() for client in clients.values()))
        one.lost |= set(range(len(old.assignments))) - one.held.keys()

    async def _plan(self, one: _Round, lost: set[int], avoid: set[str], *, moves: bool) -> Successors:
        """Who holds what from now on. Raises `NoCapacity` where the nodes that are left cannot."""
        old, known = one.old, self._cluster.nodes()
        # A fence takes as long as the longest running step: nodes may have gone since they answered it.
        lost = lost | {stage for stage, at in enumerate(old.assignments) if at.node_id not in known}
        outside = avoid | set(self._cluster.draining())
        nodes = {name: node for name, node in known.items() if name not in outside}
        held = holders(self._cluster.node_id, self._host, self._cluster.states())
        loaded = [stage for stage, at in enumerate(old.assignments) if held(at.node_id, (old.instance_id, stage))]
        spares = [
            spare
            for spare in old.spares
            if spare.assignment.node_id in nodes
            and held(spare.assignment.node_id, (old.instance_id, SPARE_STAGE + spare.stage))
        ]
        fit = {name: node for name, node in nodes.items() if one.unfit[name] < 2}
        tries = ((fit, PATIENCE_S), (nodes, PATIENCE_S), (nodes, None))
        for some, patience_s in tries[fit == nodes :]:
            try:
                return await successors(
                    self._member, self._cluster.node_id, old, lost, some, spares, known=known, loaded=loaded,
                    epoch=one.epoch, running=moves, unfit=[*one.unfit], patience_s=patience_s,
                )  # fmt: skip
            except NoCapacity:
                if patience_s is None:
                    raise
        raise AssertionError("unreachable: the last try raises")

    async def _step_in(self, one: _Round, found: Successors) -> dict[int, node_pb2.ShardReady]:
        """The successors that wait aside take the places of those that leave; from here on nothing is served."""
        self._check_wanted(one.old)
        self._show(one)
        await self._fence(one)
        if one.lost & found.kept:
            raise PeerUnavailable("a stage that was to stay was lost just now")
        old = one.old
        await self._unload(old, [stage for stage in range(len(old.assignments)) if stage not in found.kept])
        stages = found.shelf.stages.items()
        one.work.reserved += [(at.node_id, stage) for stage, at in stages if stage not in found.kept]
        return dict(await self._loader.load(found.shelf, one.work, lambda progress: None))

    async def _load(
        self, one: _Round, shelf: Shelf, ready: dict[int, node_pb2.ShardReady]
    ) -> AsyncGenerator[node_pb2.PlaceProgress, None]:
        await self._loader.reserve(shelf, one.work)

        async def load(report: Callable[[node_pb2.PlaceProgress], None]) -> None:
            ready.update(await self._loader.load(shelf, one.work, report))

        async with contextlib.aclosing(reported(load)) as updates:
            async for update in updates:
                yield update

    async def _unload(self, instance: Instance, stages: Collection[int]) -> None:
        """Have the nodes that are still there end these runners, which hang perhaps."""
        there = self._cluster.nodes()
        places = [(instance.assignments[stage].node_id, stage) for stage in stages]
        places = [(node_id, stage) for node_id, stage in places if node_id in there]
        await self._loader.unload(instance.instance_id, places, at_once=True)

    async def _give_up(self, one: _Round) -> None:
        """Nobody is to serve half a ring: end what is left of it."""
        old = one.old
        self._registry.lose(replace(old, epoch=one.epoch))
        await self._unload(old, range(len(old.assignments)))
        await self._unload_spares(old, old.spares)
        self._changed()

    async def _unload_spares(self, instance: Instance, spares: Collection[Spare]) -> None:
        """Have the nodes that are still there end these."""
        there = self._cluster.nodes()
        places = [(spare.assignment.node_id, SPARE_STAGE + spare.stage) for spare in spares]
        await self._loader.unload(instance.instance_id, [at for at in places if at[0] in there], at_once=True)


def outliving(
    found: Successors, held: Mapping[int, ring_pb2.FenceResponse], ready: Mapping[int, node_pb2.ShardReady]
) -> Outliving:
    """What the stages may keep that are neither new nor were left unfenced (keeping.py)."""
    if not found.same_cut or not held:
        return NOTHING
    stages = range(len(found.shelf.instance.assignments))
    following = max(answer.highest for answer in held.values()) + 1
    there = [stage for stage in stages if stage in found.kept and stage in held]
    bounded = [ready[stage] for stage in there if ready[stage].rollback_depth >= 0]
    kept, first = surviving(
        [read_kept(held[stage].held) if stage in there else None for stage in stages],
        min((shard.rollback_depth for shard in bounded), default=None),
        min((shard.whole_tokens for shard in bounded), default=0),
    )
    return Outliving(kept, first, following)


def _another_try(error: ExoError) -> bool:
    """Whether the next round may end better: somebody else was lost in this one, or the cluster's key has changed."""
    lost = (PeerUnavailable, RingBroken, DeadlineExceeded)
    return isinstance(error, lost) or error.code in ("reservation_lost", KEY_DROPPED)


def _lap(times: node_pb2.RecoveryTimes, name: str, begun: int) -> int:
    now = time.perf_counter_ns()
    setattr(times, name, getattr(times, name) + (now - begun) // 1000)
    return now
