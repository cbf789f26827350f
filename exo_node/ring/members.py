"""One face for every member of the cluster, ourselves included: what a coordinator may ask of a node."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Collection, Mapping
from typing import Any, Protocol

from exo_node.transport.generated.exo.v1 import node_pb2
from exo_node.transport.tls import TlsIdentity
from exo_node.types import NodeInfo, NodeState

# Seconds. Hashing a model of 100 GB at 1 GB/s takes 100 s, fetching it far longer: those calls report progress or are
# bounded by the caller's own deadline; the others only touch tables.
TABLE_TIMEOUT_S = 5.0
DESCRIBE_TIMEOUT_S = 600.0
UNLOAD_TIMEOUT_S = 15.0


class Member(Protocol):
    """What `ShardHost` offers, here or over gRPC."""

    async def describe_model(self, request: node_pb2.DescribeModelRequest) -> node_pb2.DescribeModelResponse: ...

    async def reserve_shard(self, request: node_pb2.ReserveShardRequest) -> node_pb2.ReserveShardResponse: ...

    def load_shard(self, request: node_pb2.LoadShardRequest) -> AsyncGenerator[node_pb2.LoadProgress, None]: ...

    async def unload_shard(self, request: node_pb2.UnloadShardRequest) -> node_pb2.UnloadShardResponse: ...

    async def commit_instance(self, request: node_pb2.CommitInstanceRequest) -> node_pb2.CommitInstanceResponse: ...

    async def renew_lease(self, request: node_pb2.RenewLeaseRequest) -> node_pb2.RenewLeaseResponse: ...


class Peer(Protocol):
    """An authenticated connection to another daemon (transport/client.py). Both raise `ExoError` subclasses."""

    async def call(self, method: str, request: Any, timeout: float) -> Any: ...

    def stream(self, method: str, request: Any, timeout: float | None) -> AsyncGenerator[Any, None]: ...


class ClusterView(Protocol):
    """The cluster as this node sees it now (daemon.py joins membership and our own state)."""

    node_id: str

    @property
    def tls(self) -> TlsIdentity:
        """What this node shows to runners, and whom it believes."""
        ...

    def nodes(self) -> Mapping[str, NodeInfo]:
        """Live nodes by id, ourselves included."""
        ...

    def states(self) -> Mapping[str, NodeState]:
        """The latest state that each live peer told, without ourselves."""
        ...

    def draining(self) -> Collection[str]:
        """Nodes that take no new shards."""
        ...

    def peer(self, node_id: str) -> Peer:
        """Raises `PeerUnavailable` when the node is not connected."""
        ...

    def address(self, seen_from: str, node_id: str) -> str:
        """The IP literal at which one node reaches another (a loopback address for itself)."""
        ...

    def bytes_per_s(self, seen_from: str, node_id: str) -> int:
        """What the probe of the way from one node to another has measured; 0 = nothing yet, or they are the same."""
        ...


class RemoteMember:
    """A peer's `ShardHost`, through its NodeService."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    async def describe_model(self, request: node_pb2.DescribeModelRequest) -> node_pb2.DescribeModelResponse:
        answer: node_pb2.DescribeModelResponse = await self._peer.call(
            "DescribeModel", request, timeout=DESCRIBE_TIMEOUT_S
        )
        return answer

    async def reserve_shard(self, request: node_pb2.ReserveShardRequest) -> node_pb2.ReserveShardResponse:
        answer: node_pb2.ReserveShardResponse = await self._peer.call("ReserveShard", request, timeout=TABLE_TIMEOUT_S)
        return answer

    async def load_shard(self, request: node_pb2.LoadShardRequest) -> AsyncGenerator[node_pb2.LoadProgress, None]:
        async with contextlib.aclosing(self._peer.stream("LoadShard", request, None)) as updates:
            async for progress in updates:
                yield progress

    async def unload_shard(self, request: node_pb2.UnloadShardRequest) -> node_pb2.UnloadShardResponse:
        answer: node_pb2.UnloadShardResponse = await self._peer.call("UnloadShard", request, timeout=UNLOAD_TIMEOUT_S)
        return answer

    async def commit_instance(self, request: node_pb2.CommitInstanceRequest) -> node_pb2.CommitInstanceResponse:
        answer: node_pb2.CommitInstanceResponse = await self._peer.call(
            "CommitInstance", request, timeout=TABLE_TIMEOUT_S
        )
        return answer

    async def renew_lease(self, request: node_pb2.RenewLeaseRequest) -> node_pb2.RenewLeaseResponse:
        answer: node_pb2.RenewLeaseResponse = await self._peer.call("RenewLease", request, timeout=TABLE_TIMEOUT_S)
        return answer
