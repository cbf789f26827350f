"""The control plane's calls about models and instances, on top of transport's `ControlServicer`. Thin by intent."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from exo_node.ring.instances import InstanceManager
from exo_node.ring.shard_host import ShardHost
from exo_node.transport.generated.exo.v1 import node_pb2
from exo_node.transport.node_servicer import Context, ControlServicer


class NodeServicer(ControlServicer):
    """Everything that a daemon answers to its peers. `attach` what it serves before the server starts."""

    def __init__(self, *, host: ShardHost, instances: InstanceManager, **control: Any) -> None:
        """`control` are the arguments of `ControlServicer`."""
        super().__init__(**control)
        self._host = host
        self._instances = instances

    async def DescribeModel(
        self, request: node_pb2.DescribeModelRequest, context: Context
    ) -> node_pb2.DescribeModelResponse:
        return await self._host.describe_model(request)

    async def ReserveShard(
        self, request: node_pb2.ReserveShardRequest, context: Context
    ) -> node_pb2.ReserveShardResponse:
        return await self._host.reserve_shard(request)

    async def LoadShard(
        self, request: node_pb2.LoadShardRequest, context: Context
    ) -> AsyncGenerator[node_pb2.LoadProgress, None]:
        async with contextlib.aclosing(self._host.load_shard(request)) as updates:
            async for update in updates:
                yield update

    async def UnloadShard(self, request: node_pb2.UnloadShardRequest, context: Context) -> node_pb2.UnloadShardResponse:
        return await self._host.unload_shard(request)

    async def CommitInstance(
        self, request: node_pb2.CommitInstanceRequest, context: Context
    ) -> node_pb2.CommitInstanceResponse:
        return await self._host.commit_instance(request)

    async def RenewLease(self, request: node_pb2.RenewLeaseRequest, context: Context) -> node_pb2.RenewLeaseResponse:
        return await self._host.renew_lease(request)

    async def PlaceModel(
        self, request: node_pb2.PlaceModelRequest, context: Context
    ) -> AsyncGenerator[node_pb2.PlaceProgress, None]:
        async with contextlib.aclosing(self._instances.coordinate(request)) as updates:
            async for update in updates:
                yield update

    async def Recover(
        self, request: node_pb2.RecoverRequest, context: Context
    ) -> AsyncGenerator[node_pb2.PlaceProgress, None]:
        async with contextlib.aclosing(self._instances.recovery.recover(request)) as updates:
            async for update in updates:
                yield update

    async def Drain(self, request: node_pb2.DrainRequest, context: Context) -> node_pb2.DrainResponse:
        return await self._instances.drainer.drain(request.drain)

    async def RemoveInstance(
        self, request: node_pb2.RemoveInstanceRequest, context: Context
    ) -> node_pb2.RemoveInstanceResponse:
        return node_pb2.RemoveInstanceResponse(found=await self._instances.remove_owned(request.instance_id))
