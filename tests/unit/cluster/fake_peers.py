"""A network of fake peers: what membership needs of a connection, without sockets. Real ones: tests/integration."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator
from typing import Any

from exo_node.errors import ExoError, PeerUnavailable
from exo_node.types import NodeInfo, NodeState, PeerLink


def node_info(node_id: str, boot_id: str = "b1", port: int = 1) -> NodeInfo:
    return NodeInfo(
        node_id=node_id, boot_id=boot_id, name=node_id, version="1", addresses=("10.0.0.9",), grpc_port=port,
        api_port=2, engines=(), devices=(), memory_total=0, memory_free=0,
    )  # fmt: skip


@dataclasses.dataclass
class FakeNode:
    """What answers at one address. `refuse` makes every dial fail; `connections` counts the successful ones."""

    info: NodeInfo
    refuse: ExoError | None = None
    connections: int = 0
    queues: list[asyncio.Queue[NodeState | Exception]] = dataclasses.field(default_factory=list)
    links: tuple[PeerLink, ...] = ()
    nodes: dict[str, NodeInfo] = dataclasses.field(default_factory=dict)  # what CollectTopology answers

    def tell(self, **fields: Any) -> None:
        for queue in self.queues:
            queue.put_nowait(NodeState(node=self.info, **fields))

    def cut(self) -> None:
        """Break every control stream."""
        queues, self.queues = self.queues, []
        for queue in queues:
            queue.put_nowait(PeerUnavailable("stream broken"))


@dataclasses.dataclass
class FakeHandle:
    node: FakeNode | None
    address: str
    port: int

    @property
    def info(self) -> NodeInfo:
        assert self.node is not None
        return self.node.info

    async def connect(self, timeout: float) -> NodeInfo:
        await asyncio.sleep(0)
        if self.node is None:
            raise PeerUnavailable(f"nobody at {self.address}:{self.port}")
        if self.node.refuse is not None:
            raise self.node.refuse
        self.node.connections += 1
        return self.node.info

    async def close(self) -> None: ...

    async def renew(self) -> None: ...

    async def watch(self, silence: float) -> AsyncGenerator[NodeState, None]:
        assert self.node is not None
        queue: asyncio.Queue[NodeState | Exception] = asyncio.Queue()
        self.node.queues.append(queue)
        yield NodeState(node=self.info, links=self.node.links)
        while True:
            told = await queue.get()
            if isinstance(told, Exception):
                raise told
            yield told

    async def health_check(self, timeout: float) -> bool:
        return self.node is not None and self.node.refuse is None and bool(self.node.queues)

    async def probe_link(self) -> PeerLink:
        return PeerLink(self.info.node_id, rtt_us=7, bytes_per_s=8)

    async def collect_topology(self, visited: set[str] | None = None, max_depth: int = 4) -> Any:
        assert self.node is not None
        return self.node

    async def call(self, method: str, request: Any, timeout: float) -> Any:
        raise NotImplementedError

    def stream(self, method: str, request: Any, timeout: float | None) -> AsyncGenerator[Any, None]:
        raise NotImplementedError


class FakeNetwork:
    """Nodes by port."""

    def __init__(self, **nodes: FakeNode) -> None:
        self.by_port = {node.info.grpc_port: node for node in nodes.values()}

    def dial(self, address: str, port: int, node_id: str) -> Any:
        return FakeHandle(self.by_port.get(port), address, port)


async def soon(condition: Any) -> None:
    """Let the tasks run until `condition()` holds (30 s at most)."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the condition is about many tasks
            await asyncio.sleep(0.001)
