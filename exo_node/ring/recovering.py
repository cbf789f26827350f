"""The asker's side of a recovery: finds the node that coordinates it, and does not let go until there is an answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Collection
from dataclasses import dataclass, field

from exo_node.cluster.placement import rendezvous
from exo_node.cluster.replacing import kind_of
from exo_node.errors import KEY_DROPPED, PeerUnavailable, RingBroken, Unauthorized
from exo_node.ring.members import ClusterView
from exo_node.ring.registry import InstanceRegistry
from exo_node.transport.convert import instance_from_pb, instance_to_pb
from exo_node.transport.generated.exo.v1 import node_pb2
from exo_node.types import Instance

log = logging.getLogger("exo.recovery")

TRIES = 8
AGAIN = ("stale_epoch", KEY_DROPPED)  # another coordinator was faster; the cluster's key has changed meanwhile
PAUSE_S = 0.25  # a coordinator that is gone is known as gone after 0.2 s
BEHIND_S = 5.0  # another coordinator was faster: its instance is told of within this


@dataclass(frozen=True, slots=True)
class Recovered:
    """An instance that serves (again), and what bringing it back took its coordinator; empty where nothing did."""

    instance: Instance
    times: node_pb2.RecoveryTimes = field(default_factory=node_pb2.RecoveryTimes)


class RecoveryClient:
    """Asks for recoveries on behalf of this node's requests."""

    def __init__(
        self,
        cluster: ClusterView,
        registry: InstanceRegistry,
        recover: Callable[[node_pb2.RecoverRequest], AsyncGenerator[node_pb2.PlaceProgress, None]],
    ) -> None:
        """`recover`: this node as the coordinator (recovery.py)."""
        self._cluster = cluster
        self._registry = registry
        self._recover = recover

    async def resume(self, instance: Instance) -> Recovered:
        """For a request: another ready instance of the very same model, which needs no waiting, else as `recover`."""
        self._registry.lose(instance)
        other = self._like(instance)
        return await self.recover(instance) if other is None else Recovered(other)

    async def recover(self, instance: Instance, *, avoid: Collection[str] = ()) -> Recovered:
        """The instance as it serves again. `avoid`: nodes that are to hold nothing of it afterwards.

        Raises `ExoError` where it cannot be brought back.
        """
        for left in reversed(range(TRIES)):
            if not avoid and (newer := self._newer(instance)) is not None:
                return Recovered(newer)
            coordinator = rendezvous(instance.model_id, sorted(self._cluster.nodes()))
            request = node_pb2.RecoverRequest(instance=instance_to_pb(instance), avoid=sorted(avoid))
            try:
                return await self._ask(coordinator, request)
            except (PeerUnavailable, RingBroken, Unauthorized) as error:
                if not left or not (isinstance(error, PeerUnavailable) or error.code in AGAIN):
                    raise
                log.info("recovery of %s by %s: %s", instance.instance_id[:8], coordinator, error.message)
                if isinstance(error, RingBroken) and (ahead := await self._ahead(instance)) is not None:
                    return Recovered(ahead)
            await asyncio.sleep(PAUSE_S)
        raise AssertionError("unreachable: the last try raises")

    def _newer(self, instance: Instance) -> Instance | None:
        """A later epoch of the instance, if one serves."""
        newest = self._registry.newest(instance)
        serves = newest.epoch > instance.epoch and newest.state == "ready" and not self._registry.is_lost(newest)
        return newest if serves else None

    def _like(self, instance: Instance) -> Instance | None:
        """A ready instance that makes the same text: another engine's bits differ, and another kind of device's."""

        def kinds(ring: Instance) -> set[tuple[str, str]]:
            return {(at.engine, kind_of(at.device)) for at in ring.assignments}

        alike = (
            one
            for one in self._registry.all()
            if one.state == "ready" and one.digest == instance.digest and one.instance_id != instance.instance_id
        )
        return next((one for one in alike if one.context >= instance.context and kinds(one) == kinds(instance)), None)

    async def _ask(self, coordinator: str, request: node_pb2.RecoverRequest) -> Recovered:
        if coordinator == self._cluster.node_id:
            source = self._recover(request)
        else:
            source = self._cluster.peer(coordinator).stream("Recover", request, None)
        async with contextlib.aclosing(source) as updates:
            async for update in updates:
                if update.HasField("instance"):
                    return Recovered(self._registry.remember(instance_from_pb(update.instance)), update.times)
        raise PeerUnavailable(f"node {coordinator} ended the recovery without an answer")

    async def _ahead(self, instance: Instance) -> Instance | None:
        """The epoch that another coordinator has made, once it is told of."""
        deadline = time.monotonic() + BEHIND_S
        while time.monotonic() < deadline:
            if (newest := self._newer(instance)) is not None:
                return newest
            # Polled, because a view of the cluster has no event of its own and this takes a moment at most.
            await asyncio.sleep(0.05)
        return None
