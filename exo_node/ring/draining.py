"""Empties a node before it leaves: it takes no new shards, and others take over those that it holds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from exo_node.errors import ExoError, NotFound
from exo_node.ring.members import ClusterView
from exo_node.transport.generated.exo.v1 import node_pb2
from exo_node.types import Instance

DRAIN_TIMEOUT_S = 24 * 3600.0  # others may have to fetch the model first


class Drainer:
    """Whether this node is being drained, and the acts."""

    def __init__(
        self,
        cluster: ClusterView,
        instances: Callable[[], Iterable[Instance]],
        move: Callable[[Instance, str], Awaitable[Any]],
        changed: Callable[[], None],
    ) -> None:
        """`move(instance, node id)`: have an instance leave a node; raises `ExoError` where it cannot."""
        self.draining = False
        self._cluster = cluster
        self._instances = instances
        self._move = move
        self._changed = changed

    async def drain(self, drain: bool) -> node_pb2.DrainResponse:
        """Take no new shards from now on and give away those that are here, one instance after the other; or take them
        again. Requests go on meanwhile; a move costs them no more than a replay."""
        self.draining = drain
        self._changed()
        answer = node_pb2.DrainResponse()
        if not drain:
            return answer
        here = self._cluster.node_id
        for one in self._instances():
            members = [*one.assignments, *(spare.assignment for spare in one.spares)]
            if all(at.node_id != here for at in members):
                continue
            if one.state != "ready":
                again = "is loading or being brought back: drain once more when it is ready"
                answer.failed[one.instance_id] = f"{one.model_id} {again}"
                continue
            try:
                await self._move(one, here)
            except ExoError as error:
                answer.failed[one.instance_id] = error.message
            else:
                answer.moved.append(one.instance_id)
        return answer

    async def drain_at(self, node_id: str, drain: bool) -> node_pb2.DrainResponse:
        """Have a node do so. Raises `NotFound`, `PeerUnavailable`."""
        if node_id == self._cluster.node_id:
            return await self.drain(drain)
        if node_id not in self._cluster.nodes():
            there = ", ".join(sorted(self._cluster.nodes()))
            raise NotFound(f"no such node: {node_id}; the cluster has {there}", param="node")
        peer = self._cluster.peer(node_id)
        answer: node_pb2.DrainResponse = await peer.call(
            "Drain", node_pb2.DrainRequest(drain=drain), timeout=DRAIN_TIMEOUT_S
        )
        return answer
