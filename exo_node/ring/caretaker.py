"""Watches over the instances whose head is on this node: leases, lost shards, taking down."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping

from exo_node.errors import ExoError
from exo_node.ring.leases import RENEW_EVERY_S, renew
from exo_node.ring.members import TABLE_TIMEOUT_S, ClusterView, Member
from exo_node.ring.registry import STATE_LAG_S, InstanceRegistry
from exo_node.ring.shard_host import ShardHost
from exo_node.transport.generated.exo.v1 import node_pb2
from exo_node.types import Instance, NodeState

log = logging.getLogger("exo.instances")


class Caretaker:
    """The owner's duties for every instance whose head is here."""

    def __init__(
        self,
        *,
        cluster: ClusterView,
        host: ShardHost,
        registry: InstanceRegistry,
        member: Callable[[str], Member],
        changed: Callable[[], None],
    ) -> None:
        self._cluster = cluster
        self._host = host
        self._registry = registry
        self._member = member
        self._changed = changed
        self._born: dict[str, float] = {}  # when we first saw an instance of ours
        self._wake = asyncio.Event()

    def notice(self) -> None:
        """A peer's state, our own shards, or a request's luck have changed: look at our instances soon."""
        self._wake.set()

    async def watch(self) -> None:
        """Runs for ever: renews the leases of our instances and takes down those that have lost a shard."""
        while True:
            self._wake.clear()
            live = self._cluster.states().keys()
            ended = [one for one in self._host.take_ended() if one.assignments[0].node_id == self._cluster.node_id]
            for instance in ended:
                self._lose(instance, "lost its head")
            broken: list[str] = []
            for instance in self._registry.owned():
                missing = missing_stages(instance, self._cluster.node_id, self._host, self._cluster.states())
                born = self._born.setdefault(instance.instance_id, time.monotonic())
                if time.monotonic() - born < STATE_LAG_S:
                    missing = [stage for stage in missing if instance.assignments[stage].node_id not in live]
                if missing or instance.instance_id in self._registry.lost:
                    why = f"lost stages {missing}" if missing else "is broken, as a request found"
                    self._lose(instance, why)
                    broken.append(instance.instance_id)
            await asyncio.gather(
                renew(self._member, self._registry.owned()),
                self._report_lost(),
                *map(self.remove, broken),
                *map(self._unload_others, ended),
            )
            known = self._registry.tidy()
            self._born = {one: when for one, when in self._born.items() if one in known}
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RENEW_EVERY_S):
                    await self._wake.wait()

    async def remove(self, instance_id: str) -> bool:
        """Take down an instance whose head is here: the head first, so that nobody is served half an answer."""
        instance = next((one for one in self._registry.owned() if one.instance_id == instance_id), None)
        if instance is None:
            return False
        await self._host.drop_instance(instance_id)
        self._changed()
        await self._unload_others(instance)
        return True

    def _lose(self, instance: Instance, why: str) -> None:
        log.error("instance %s of %s %s", instance.instance_id[:8], instance.model_id, why)
        self._registry.lose(instance)

    async def _unload_others(self, instance: Instance) -> None:
        """End the runners of an instance on other nodes."""
        here = self._cluster.node_id
        await asyncio.gather(
            *(
                self._unload(one.node_id, instance.instance_id, stage)
                for stage, one in enumerate(instance.assignments)
                if one.node_id != here
            )
        )

    async def _report_lost(self) -> None:
        """Have broken instances of other nodes taken down: a runner that hangs looks alive to its daemon."""
        lost = [one for state in self._cluster.states().values() for one in state.instances]
        lost = [one for one in lost if one.instance_id in self._registry.lost and one.state == "ready"]

        async def report(instance: Instance) -> None:
            request = node_pb2.RemoveInstanceRequest(instance_id=instance.instance_id)
            with contextlib.suppress(ExoError):  # its node is gone, or asked again in the next round
                await self._cluster.peer(instance.assignments[0].node_id).call(
                    "RemoveInstance", request, timeout=TABLE_TIMEOUT_S
                )

        await asyncio.gather(*map(report, lost))

    async def _unload(self, node_id: str, instance_id: str, stage: int) -> None:
        try:
            await self._member(node_id).unload_shard(node_pb2.UnloadShardRequest(instance_id=instance_id, stage=stage))
        except ExoError as error:  # a dead node holds nothing; a live one lets the lease run out
            log.info("cannot unload stage %d on %s: %s", stage, node_id, error)


def missing_stages(instance: Instance, here: str, host: ShardHost, states: Mapping[str, NodeState]) -> list[int]:
    """Stages of an instance whose runner is gone: its node left the cluster, or no longer lists the shard."""
    local = set(host.shards())
    missing = []
    for stage, one in enumerate(instance.assignments):
        if one.node_id == here:
            alive = (instance.instance_id, stage) in local
        else:
            state = states.get(one.node_id)
            alive = state is not None and (instance.instance_id, stage) in state.shards
        if not alive:
            missing.append(stage)
    return missing
