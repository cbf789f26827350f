"""ring/instances.py: which stages of an instance are lost, and which id a new one may have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from exo_node.errors import InvalidRequest, PeerUnavailable
from exo_node.ring.caretaker import missing_stages
from exo_node.ring.instances import check_draft, check_id, check_precision, connected
from exo_node.transport.generated.exo.v1 import node_pb2
from exo_node.types import Assignment, Instance, NodeInfo, NodeState, Shard


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


INSTANCE = Instance(
    instance_id="i",
    model_id="m",
    digest="d",
    assignments=(
        Assignment("a", Shard("m", 0, 1, 3), "mlx", "CPU"),
        Assignment("b", Shard("m", 1, 2, 3), "mlx", "CPU"),
        Assignment("a", Shard("m", 2, 3, 3), "mlx", "CPU:1"),
    ),
    addresses=("", "", ""),
    coordinator="a",
    epoch=1,
    context=8,
    slots=1,
    state="ready",
)


class Host:
    """Lists the shards of node a."""

    def __init__(self, *shards: tuple[str, int]) -> None:
        self._shards = shards

    def shards(self) -> list[tuple[str, int]]:
        return list(self._shards)


def missing(host: Host, states: dict[str, NodeState]) -> list[int]:
    return missing_stages(INSTANCE, "a", cast(Any, host), states)


def test_nothing_is_missing_while_every_runner_is_listed() -> None:
    """Our own runners count as we host them, a peer's as it lists them."""
    assert missing(Host(("i", 0), ("i", 2)), {"b": NodeState(node=node("b"), shards=(("i", 1),))}) == []


def test_a_gone_node_and_an_ended_runner_are_missing() -> None:
    """A node that left, a peer's runner that ended, and one of our own that ended are each named."""
    assert missing(Host(("i", 0), ("i", 2)), {}) == [1]
    assert missing(Host(("i", 0), ("i", 2)), {"b": NodeState(node=node("b"))}) == [1]
    assert missing(Host(("i", 0)), {"b": NodeState(node=node("b"), shards=(("i", 1),))}) == [2]


TAKEN = "8fe382c3-a4fe-4a6b-8e0a-b9ac973ae6fc"


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


@pytest.mark.parametrize("wanted", ["x", "8FE382C3-A4FE-4A6B-8E0A-B9AC973AE6FC", "../../etc", TAKEN])
def test_an_instances_id_is_a_new_uuid(wanted: str) -> None:
    """A caller may choose the id of an instance, but neither another's nor what is no UUID."""
    check_id("", [])
    check_id(TAKEN, [])
    with pytest.raises(InvalidRequest):
        check_id(wanted, [replace(INSTANCE, instance_id=TAKEN)])


@pytest.mark.parametrize(
    ("held", "bits", "reuse", "fine"),
    [(0, 0, False, True), (4, 4, False, True), (4, 0, True, True), (4, 4, True, True),
     (0, 4, False, False), (0, 4, True, False), (4, 0, False, False), (4, 8, True, False)],
)  # fmt: skip
def test_a_model_is_held_in_one_precision(held: int, bits: int, reuse: bool, fine: bool) -> None:
    """Instances of one model hold the same weights; who takes what is there and says no bits is content."""
    request = node_pb2.PlaceModelRequest(model="m", reuse=reuse, quantize=bits)
    there = [replace(INSTANCE, quantize=held)]
    if fine:
        check_precision(request, there)
        return
    with pytest.raises(InvalidRequest, match="exo unload m") as caught:
        check_precision(request, there)
    assert (caught.value.status, caught.value.param) == (409, "quantize")
    request.exclude.append(INSTANCE.instance_id)  # the asker found it broken
    check_precision(request, there)


def test_a_draft_model_that_is_not_there_is_not_passed_off() -> None:
    """What is loaded is taken only with the draft model that was asked for, under any of its names."""
    check_draft(replace(INSTANCE, draft_model="org/d"), {"d", "org/d"})
    for there, said in (("", "without a draft model"), ("other", "with draft model other")):
        with pytest.raises(InvalidRequest, match=said) as caught:
            check_draft(replace(INSTANCE, draft_model=there), {"d"})
        assert (caught.value.status, caught.value.param) == (409, "draft_model")
