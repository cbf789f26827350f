"""What `InstanceManager` needs to know before it places; its acts run in the integration tests."""

from __future__ import annotations

from typing import Any, cast

from exo_node.errors import PeerUnavailable
from exo_node.ring.instances import connected
from exo_node.types import NodeInfo


def node(node_id: str) -> NodeInfo:
    return NodeInfo(
        node_id=node_id,
        boot_id="",
        name="",
        version="",
        addresses=(),
        grpc_port=0,
        api_port=0,
        engines=(),
        devices=(),
        memory_total=0,
        memory_free=0,
    )


class Cluster:
    """Nodes a and b; `ways` are the links that have been told."""

    node_id = "a"

    def __init__(self, *ways: tuple[str, str]) -> None:
        self.ways = ways

    def nodes(self) -> dict[str, NodeInfo]:
        return {"a": node("a"), "b": node("b")}

    def address(self, seen_from: str, node_id: str) -> str:
        if (seen_from, node_id) not in self.ways:
            raise PeerUnavailable(f"{seen_from} {node_id}")
        return "10.0.0.1"


def test_a_ring_needs_ways_in_both_directions() -> None:
    """A coordinator that knows a node but not yet all ways between the nodes waits a moment before it places."""
    assert connected(cast(Any, Cluster(("a", "b"), ("b", "a"))), ["a", "b"])
    assert not connected(cast(Any, Cluster(("a", "b"))), ["a", "b"])
    assert not connected(cast(Any, Cluster(("a", "b"), ("b", "a"))), ["a", "b", "c"])
    assert connected(cast(Any, Cluster()), ["a"])
