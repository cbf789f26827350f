"""view.py: addresses between nodes, and the JSON of statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from exo_node.errors import PeerUnavailable
from exo_node.transport.generated.exo.v1 import ring_pb2
from exo_node.types import NodeInfo, NodeState, PeerLink
from exo_node.view import NodeView, stats_json


def node(node_id: str) -> NodeInfo:
    return NodeInfo(
        node_id=node_id,
        boot_id="",
        name=node_id,
        version="",
        addresses=(),
        grpc_port=1,
        api_port=2,
        engines=(),
        devices=(),
        memory_total=0,
        memory_free=0,
    )


class Members:
    """b is linked with us (a) and with c."""

    def states(self) -> Mapping[str, NodeState]:
        links = (PeerLink("c", address="10.0.0.3"), PeerLink("a", address="10.0.0.1"))
        return {"b": NodeState(node=node("b"), links=links), "c": NodeState(node=node("c"))}

    def peer(self, node_id: str) -> Any:
        raise PeerUnavailable(node_id)

    def links(self) -> tuple[PeerLink, ...]:
        return (PeerLink("b", address="fe80::2%eth0"), PeerLink("c", address="10.9.9.3"))


@pytest.fixture
def view() -> NodeView:
    return NodeView("a", Members(), lambda: node("a"))


def test_each_node_has_its_own_way_to_another(view: NodeView) -> None:
    """A node reaches itself by loopback, and its peers at the addresses that it told; nobody guesses."""
    assert view.address("a", "a") == "127.0.0.1"
    assert view.address("a", "b") == "fe80::2%eth0"
    assert view.address("b", "c") == "10.0.0.3"
    assert view.address("b", "a") == "10.0.0.1"
    with pytest.raises(PeerUnavailable, match="c"):
        view.address("c", "b")


def test_nodes_are_ourselves_and_the_live_peers(view: NodeView) -> None:
    """Both the ring's and the API's view hold the same nodes."""
    assert sorted(view.nodes()) == ["a", "b", "c"]
    assert sorted(view.topology_view().links) == ["a", "b", "c"]


def test_statistics_are_json_ready() -> None:
    """A runner's report with a hop becomes plain numbers."""
    stats = ring_pb2.RunnerStats(slots=4, slots_used=1, info={"blas": "x"})
    stats.hops.add(step=3, total_us=9).reports.add(stage=1, engine_us=4)
    found = stats_json("a", stats)
    assert (found["node_id"], found["slots_used"], found["info"]) == ("a", 1, {"blas": "x"})
    assert found["hops"] == [
        {"step": 3, "total_us": 9, "stages": [{"stage": 1, "queue_us": 0, "engine_us": 4, "codec_us": 0}]}
    ]
