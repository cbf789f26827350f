"""Cutting layers: properties."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from exo_node.cluster.partitioning import (
    Partition,
    RingMemoryWeightedPartitioningStrategy,
    StageLimit,
    assign_partitions,
    cut_layers,
    map_partitions_to_shards,
)
from exo_node.cluster.topology import NodeSeen, Topology
from exo_node.types import NodeInfo


def node(node_id: str, memory: int) -> NodeInfo:
    return NodeInfo(
        node_id=node_id, boot_id="b", name=node_id, version="1", addresses=(), grpc_port=1, api_port=2, engines=(),
        devices=(), memory_total=memory, memory_free=memory,
    )  # fmt: skip


def topology(memories: list[int]) -> Topology:
    found = Topology("n0")
    for i, memory in enumerate(memories):
        found = found.apply(NodeSeen(node(f"n{i}", memory)))
    return found


def test_proportional() -> None:
    """Parts follow total memory, the largest node first, equal ones by id."""
    parts = RingMemoryWeightedPartitioningStrategy().partition(topology([4, 8, 4]))
    assert parts == [Partition("n1", 0.0, 0.5), Partition("n0", 0.5, 0.75), Partition("n2", 0.75, 1.0)]
    shards = map_partitions_to_shards(parts, 8, "m")
    assert [(s.start_layer, s.end_layer) for s in shards] == [(0, 4), (4, 6), (6, 8)]


@given(st.lists(st.integers(1, 2**40), min_size=1, max_size=8), st.integers(1, 100))
def test_strategy_covers_every_layer(memories: list[int], n_layers: int) -> None:
    """All layers, in order, each once; every node that is used has at least one."""
    parts = RingMemoryWeightedPartitioningStrategy().partition(topology(memories))
    assigned = assign_partitions(parts, n_layers, "m")
    assert [i for _, shard in assigned for i in range(shard.start_layer, shard.end_layer)] == list(range(n_layers))
    assert all(shard.n_owned >= 1 for _, shard in assigned)
    assert len({node_id for node_id, _ in assigned}) == len(assigned)


def test_empty_topology() -> None:
    """Nobody there: no parts, no shards."""
    assert RingMemoryWeightedPartitioningStrategy().partition(Topology("me")) == []
    assert map_partitions_to_shards([], 8, "m") == []


def brute_force(stages: list[StageLimit]) -> list[list[tuple[int, int]]]:
    n = len(stages[0].layer_bytes)
    found = []
    for inner in itertools.combinations(range(1, n), len(stages) - 1):
        borders = [0, *inner, n]
        cut = list(itertools.pairwise(borders))
        if all(s.fixed + sum(s.layer_bytes[a:b]) <= s.capacity for s, (a, b) in zip(stages, cut, strict=True)):
            found.append(cut)
    return found


@st.composite
def stage_lists(draw: st.DrawFn) -> list[StageLimit]:
    n = draw(st.integers(1, 7))
    sizes = st.lists(st.integers(0, 20), min_size=n, max_size=n).map(tuple)
    return draw(st.lists(st.builds(StageLimit, st.integers(1, 60), st.integers(0, 10), sizes), min_size=1, max_size=4))


@given(stage_lists())
def test_cut_is_exact(stages: list[StageLimit]) -> None:
    """A cut is found iff one exists, holds every capacity, and no other has a lower cost; the same every time."""

    def cost(cut: list[tuple[int, int]]) -> float:
        pairs = zip(stages, cut, strict=True)
        return sum((s.fixed + sum(s.layer_bytes[a:b])) ** 2 / s.capacity for s, (a, b) in pairs)

    cut, possible = cut_layers(stages), brute_force(stages)
    assert (cut is None) == (not possible)
    assert cut == cut_layers(stages)
    if cut is not None:
        assert cut in possible
        assert cost(cut) <= min(map(cost, possible)) * (1 + 1e-9)


def test_cut_is_proportional() -> None:
    """With plenty of room, bytes follow capacity."""
    layers = (10,) * 12
    stages = [StageLimit(capacity, 0, layers) for capacity in (6000, 3000, 3000)]
    assert cut_layers(stages) == [(0, 6), (6, 9), (9, 12)]
