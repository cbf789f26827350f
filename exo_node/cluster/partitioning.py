"""Cutting a model's layers into contiguous ranges, one a stage. Pure.

Two ways: exo's named strategy on fractions of memory (`RingMemoryWeightedPartitioningStrategy`), kept to compare with,
and the exact cut in bytes (`cut_layers`) that placement uses.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from exo_node.cluster.topology import Topology
from exo_node.types import Shard


@dataclass(frozen=True, slots=True)
class Partition:
    """A node's part of a model as fractions: `[start, end)` of [0, 1)."""

    node_id: str
    start: float
    end: float


class PartitioningStrategy(ABC):
    """Decides each node's part from the topology alone."""

    @abstractmethod
    def partition(self, topology: Topology) -> list[Partition]:
        """Parts in ring order; they cover [0, 1) without gap or overlap. Empty for an empty topology."""


class RingMemoryWeightedPartitioningStrategy(PartitioningStrategy):
    """Parts proportional to total memory; ring order is memory descending, then id (exo's only strategy)."""

    def partition(self, topology: Topology) -> list[Partition]:
        nodes = sorted(topology.nodes.values(), key=lambda node: (-node.memory_total, node.node_id))
        total = sum(node.memory_total for node in nodes)
        if not total:
            return []
        ends = [end / total for end in accumulate(node.memory_total for node in nodes)]
        starts = [0.0, *ends[:-1]]
        return [Partition(node.node_id, start, end) for node, start, end in zip(nodes, starts, ends, strict=True)]


def map_partitions_to_shards(partitions: Sequence[Partition], n_layers: int, model_id: str) -> list[Shard]:
    """Half-open shards that cover all layers in order. A part too small for one layer is dropped, so the list may be
    shorter than `partitions`; use `assign_partitions` to know whose shards they are."""
    return [shard for _, shard in assign_partitions(partitions, n_layers, model_id)]


def assign_partitions(partitions: Sequence[Partition], n_layers: int, model_id: str) -> list[tuple[str, Shard]]:
    """(node id, shard) for every part that rounds to at least one layer; the last one ends at `n_layers`."""
    ends = [min(n_layers, math.floor(partition.end * n_layers + 0.5)) for partition in partitions]
    if not ends:
        return []
    ends[-1] = n_layers
    starts = [0, *ends[:-1]]
    return [
        (partition.node_id, Shard(model_id, start, end, n_layers))
        for partition, start, end in zip(partitions, starts, ends, strict=True)
        if end > start
    ]


@dataclass(frozen=True, slots=True)
class StageLimit:
    """What one stage may hold: `capacity` bytes for `fixed` bytes (embedding, LM head) plus its layers.

    `layer_bytes[i]` is what layer i costs on this stage (weights as held there, and KV).
    """

    capacity: int
    fixed: int
    layer_bytes: tuple[int, ...]


def cut_layers(stages: Sequence[StageLimit]) -> list[tuple[int, int]] | None:
    """The half-open layer range of each stage: every stage at least one layer, no capacity exceeded, and among all such
    cuts the one with the least sum of used^2 / capacity, which is memory-proportional. None if there is no such cut.

    Dynamic programming over (stage, last layer), O(stages * layers^2); ties go to the earlier border.
    """
    if not stages:
        return None
    n_layers = len(stages[0].layer_bytes)
    best: list[float] = [0.0] + [math.inf] * n_layers
    borders: list[list[int]] = []
    for stage in stages:
        sums = [0, *accumulate(stage.layer_bytes)]
        following, border = [math.inf] * (n_layers + 1), [0] * (n_layers + 1)
        for end in range(1, n_layers + 1):
            for start in range(end - 1, -1, -1):
                used = stage.fixed + sums[end] - sums[start]
                if used > stage.capacity:
                    break  # an earlier start only adds layers
                cost = best[start] + used * used / stage.capacity
                if cost <= following[end] and cost < math.inf:
                    following[end], border[end] = cost, start
        best = following
        borders.append(border)
    if math.isinf(best[n_layers]):
        return None
    cuts: list[tuple[int, int]] = []
    end = n_layers
    for border in reversed(borders):
        cuts.append((border[end], end))
        end = border[end]
    return cuts[::-1]
