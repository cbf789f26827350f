"""The graph of facts and its JSON."""

from __future__ import annotations

from exo_node.cluster.topology import LinkMeasured, LinksSeen, NodeGone, NodeSeen, Topology
from exo_node.types import Device, NodeInfo, PeerLink


def node(node_id: str) -> NodeInfo:
    return NodeInfo(
        node_id=node_id, boot_id="b", name=node_id, version="1", addresses=("10.0.0.1",), grpc_port=1, api_port=2,
        engines=("mlx",), devices=(Device("CPU", "cpu", "Some CPU", 2**33, 2**32),), memory_total=2**33,
        memory_free=2**32, chip="Some chip",
    )  # fmt: skip


def test_events() -> None:
    """Facts are added, replaced and forgotten; links to nodes that are not there do not show."""
    start = Topology("a")
    both = start.apply(NodeSeen(node("a"))).apply(NodeSeen(node("b")))
    linked = both.apply(LinksSeen("a", (PeerLink("b"), PeerLink("ghost"))))
    assert linked.links("a") == (PeerLink("b"),)
    measured = linked.apply(LinkMeasured("a", PeerLink("b", "eth0", 120, 10**9)))
    assert measured.link("a", "b") == PeerLink("b", "eth0", 120, 10**9)
    assert measured.apply(NodeGone("b")).links("a") == ()
    assert measured.apply(NodeGone("a")).links("a") == ()
    assert not start.nodes


def test_json_has_exos_shape() -> None:
    """`nodes` by id with model, chip, memory in MiB and flops; `peer_graph`; `active_node_id`."""
    found = Topology("a").apply(NodeSeen(node("a"))).apply(NodeSeen(node("b")))
    found = found.apply(LinkMeasured("a", PeerLink("b", "eth0")))
    data = found.to_json()
    assert set(data) == {"nodes", "peer_graph", "active_node_id"}
    assert data["active_node_id"] == "a"
    assert set(data["nodes"]) == {"a", "b"}
    exo = {"model": "Some CPU", "chip": "Some chip", "memory": 8192, "flops": {"fp32": 0.0, "fp16": 0.0, "int8": 0.0}}
    assert exo.items() <= data["nodes"]["a"].items()
    assert {"from_id": "a", "to_id": "b", "description": "eth0"}.items() <= data["peer_graph"]["a"][0].items()
    assert data["peer_graph"]["b"] == []
