"""Watches over the instances whose head is on this node: leases, lost shards, taking down."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from exo_node.errors import ExoError
from exo_node.ring.connecting import SPARE_STAGE
from exo_node.ring.leases import RENEW_EVERY_S, renew
from exo_node.ring.members import ClusterView, Member
from exo_node.ring.registry import STATE_LAG_S, InstanceRegistry
from exo_node.ring.shard_host import ShardHost
from exo_node.ring.supervisor import ShardKey
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
        recover: Callable[[Instance], Awaitable[Any]],
        changed: Callable[[], None],
    ) -> None:
        self._cluster = cluster
        self._host = host
        self._registry = registry
        self._member = member
        self._changed = changed
        self._recover = recover
        self._recovering: dict[str, asyncio.Task[None]] = {}
        self._leaving: set[str] = set()
        # When we first saw an epoch of ours, and the stages that were ever listed since.
        self._seen: dict[tuple[str, int], tuple[float, set[int]]] = {}
        self._wake = asyncio.Event()

    def notice(self) -> None:
        """A peer's state, our own shards, or a request's luck have changed: look at our instances soon."""
        self._wake.set()

    async def watch(self) -> None:
        """Runs for ever: renews the leases of our instances, has those that have lost a shard brought back, and takes
        down what others have brought back without us."""
        try:
            while True:
                self._wake.clear()
                self._look()
                superseded = self._registry.superseded()
                await asyncio.gather(
                    renew(self._member, self._registry.owned()),
                    *(self._host.drop_instance(one.instance_id) for one in superseded),
                )
                known = self._registry.tidy()
                self._leaving &= {instance_id for instance_id, _ in known}
                self._seen = {one: seen for one, seen in self._seen.items() if one in known}
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RENEW_EVERY_S):
                        await self._wake.wait()
        finally:
            for task in self._recovering.values():
                task.cancel()
            await asyncio.gather(*self._recovering.values(), return_exceptions=True)

    def _look(self) -> None:
        """Begin what is to be done about those that are broken."""
        live = self._cluster.states().keys()
        for instance in self._host.take_ended():
            if instance.assignments[0].node_id == self._cluster.node_id:
                self._bring_back(instance, "lost its head")
        for instance in self._registry.owned():
            missing = missing_stages(instance, self._cluster.node_id, self._host, self._cluster.states())
            key = instance.instance_id, instance.epoch
            born, listed = self._seen.setdefault(key, (time.monotonic(), set()))
            listed.update({*range(len(instance.assignments))}.difference(missing))
            if time.monotonic() - born < STATE_LAG_S:  # its node's state may be older than the epoch
                places = [(stage, instance.assignments[stage].node_id) for stage in missing]
                missing = [stage for stage, node_id in places if stage in listed or node_id not in live]
            if missing and instance.instance_id not in self._leaving:
                self._bring_back(instance, f"lost stages {missing}")
        for instance in self._registry.orphans():
            self._bring_back(instance, "lost the node of its head")
        for instance in self._registry.broken_ones():  # others' too: a runner that hangs looks alive to its daemon
            self._bring_back(instance, "is broken, as a request found")

    def _bring_back(self, instance: Instance, why: str) -> None:
        """Have it recovered, once at a time; nobody need be waiting for it."""
        instance_id = instance.instance_id
        if instance_id in self._recovering:
            return
        log.error("instance %s of %s %s", instance_id[:8], instance.model_id, why)
        self._registry.lose(instance)

        async def bring_back() -> None:
            try:
                if not await self._is_back(instance):
                    await self.remove(instance_id)
                    await self._unload_others(instance)
            finally:
                del self._recovering[instance_id]
                self._wake.set()

        self._recovering[instance_id] = asyncio.create_task(bring_back(), name=f"recovery of {instance_id}")

    async def _is_back(self, instance: Instance) -> bool:
        """Whether its recovery has come to a good end."""
        try:
            await self._recover(instance)
        except ExoError as error:
            log.error("instance %s of %s is gone: %s", instance.instance_id[:8], instance.model_id, error.message)
            return False
        except Exception:  # our bug: the next try would end alike, and begin at once
            log.exception("instance %s of %s is gone", instance.instance_id[:8], instance.model_id)
            return False
        return True

    async def remove(self, instance_id: str, *, for_good: bool = True) -> bool:
        """Take down an instance whose head is here: the head first, so that nobody is served half an answer.

        `for_good`: somebody wants it, so nobody is to bring it back.
        """
        instance = next((one for one in self._registry.owned() if one.instance_id == instance_id), None)
        if instance is None:
            return False
        self._leaving.add(instance_id)
        if for_good:
            self._registry.removed.append(instance_id)
            self._changed()
        await self._host.drop_instance(instance_id)
        self._changed()
        await self._unload_others(instance)
        return True

    async def _unload_others(self, instance: Instance) -> None:
        """End the runners of an instance on other nodes, spares too."""
        here = self._cluster.node_id
        places = [(one.node_id, stage) for stage, one in enumerate(instance.assignments)]
        places += [(one.assignment.node_id, SPARE_STAGE + one.stage) for one in instance.spares]
        await asyncio.gather(
            *(self._unload(node_id, instance.instance_id, stage) for node_id, stage in places if node_id != here)
        )

    async def _unload(self, node_id: str, instance_id: str, stage: int) -> None:
        try:
            await self._member(node_id).unload_shard(node_pb2.UnloadShardRequest(instance_id=instance_id, stage=stage))
        except ExoError as error:  # a dead node holds nothing; a live one lets the lease run out
            log.info("cannot unload stage %d on %s: %s", stage, node_id, error)


def missing_stages(instance: Instance, here: str, host: ShardHost, states: Mapping[str, NodeState]) -> list[int]:
    """Stages of an instance whose runner is gone: its node left the cluster, or no longer lists the shard."""
    held = holders(here, host, states)
    return [i for i, one in enumerate(instance.assignments) if not held(one.node_id, (instance.instance_id, i))]


def holders(here: str, host: ShardHost, states: Mapping[str, NodeState]) -> Callable[[str, ShardKey], bool]:
    """Whether a node lists the runner of a shard as alive."""
    local = set(host.shards())

    def held(node_id: str, key: ShardKey) -> bool:
        if node_id == here:
            return key in local
        state = states.get(node_id)
        return state is not None and key in state.shards

    return held
