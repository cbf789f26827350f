"""A control plane as a daemon builds it, without a daemon: shared by the tests of this folder."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from exo_node.cluster.identity import ClusterKey, KeyStore
from exo_node.key_rotation import KeyRing
from exo_node.signals import ChangeSignal
from exo_node.transport.client import GRPCPeerHandle
from exo_node.transport.convert import TopologyView
from exo_node.transport.generated.exo.v1.node_pb2_grpc import add_NodeServiceServicer_to_server
from exo_node.transport.handshake import Party
from exo_node.transport.node_servicer import ControlServicer
from exo_node.transport.server import bind, create_server
from exo_node.transport.sessions import SessionInterceptor
from exo_node.types import Device, NodeInfo, NodeState, PeerLink
from tests.papers import FINGERPRINT, KEY, identity


def party(node_id: str, boot_id: str = "boot-1", **fields: object) -> Party:
    return dataclasses.replace(Party(node_id, boot_id, FINGERPRINT, "0.1.0"), **fields)  # type: ignore[arg-type]


def node_info(me: Party, port: int = 0, addresses: tuple[str, ...] = ("127.0.0.1",)) -> NodeInfo:
    return NodeInfo(
        node_id=me.node_id,
        boot_id=me.boot_id,
        name=me.node_id,
        version=me.version,
        addresses=addresses,
        grpc_port=port,
        api_port=0,
        engines=("fake",),
        devices=(Device("CPU", "cpu", "chip", 2**34, 2**33),),
        memory_total=2**34,
        memory_free=2**33,
        chip="chip",
    )


@dataclasses.dataclass
class ControlNode:
    """One node's server; `links` is what it says of its peers, `seen` who shook hands with it."""

    me: Party
    key: ClusterKey = KEY
    beat_s: float = 0.1
    port: int = 0
    links: tuple[PeerLink, ...] = ()
    view: TopologyView = dataclasses.field(default_factory=TopologyView)
    changes: ChangeSignal = dataclasses.field(default_factory=ChangeSignal)
    seen: list[tuple[NodeInfo, str]] = dataclasses.field(default_factory=list)
    on_peer: Callable[[NodeInfo, str], None] | None = None
    own_links: Callable[[], tuple[PeerLink, ...]] | None = None
    servicer: ControlServicer | None = None

    def __post_init__(self) -> None:
        self.identity = identity(self.me, self.key)
        self.keys = KeyRing(self.key, self.identity, KeyStore(Path(os.environ["EXO_HOME"]) / self.me.node_id))
        self.gate = self.keys.gate

    def info(self) -> NodeInfo:
        return node_info(self.me, self.port)

    def state(self) -> NodeState:
        return NodeState(node=self.info(), links=self.own_links() if self.own_links else self.links)

    def topology(self) -> TopologyView:
        """`view`, or the links of a node that has members; what it knows of them came with their greetings."""
        known = {node.node_id: node for node, _ in self.seen}
        return self.view if self.own_links is None else TopologyView(known, {self.me.node_id: self.own_links()})

    def handle(self, address: str, port: int, node_id: str = "") -> GRPCPeerHandle:
        return GRPCPeerHandle(address, port, node_id, identity=self.identity, describe=self.info)

    def greeted(self, node: NodeInfo, ip: str) -> None:
        self.seen.append((node, ip))
        if self.on_peer is not None:
            self.on_peer(node, ip)

    @contextlib.asynccontextmanager
    async def serving(self, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[ControlNode, None]:
        servicer = self.servicer = ControlServicer(
            identity=self.identity,
            describe=self.info,
            state=self.state,
            topology=self.topology,
            changes=self.changes,
            on_peer=self.greeted,
            rotate=self.keys.take,
            beat_s=self.beat_s,
        )
        server = create_server([self.gate, SessionInterceptor(servicer.sessions)])
        add_NodeServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
        self.port = bind(server, host, port, self.identity.tls.server_credentials())
        await server.start()
        try:
            yield self
        finally:
            await servicer.leave()
            await server.stop(0.2)


async def serve_forever(node_id: str) -> None:
    async with ControlNode(party(node_id)).serving() as node:
        print(node.port, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":  # a child process that a test kills
    asyncio.run(serve_forever(sys.argv[1]))
