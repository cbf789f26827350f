"""Published text through real daemons, real mDNS, both engines, whole and split."""

from __future__ import annotations

import pytest

from tests.integration.harness import SHARED_MODELS, expected_text
from tests.integration.shared_rings import SharedRing, on_rings

needs_stories = pytest.mark.skipif(
    not (SHARED_MODELS / "stories260K").is_dir(), reason="the folder ../shared/models/stories260K is not here"
)


@needs_stories
@on_rings(
    "mlx",
    "tinygrad",
    "mlx-mlx-mlx",
    "tinygrad-mlx-tinygrad",
    "mlx-tinygrad-mlx-tinygrad-mlx",  # one layer each
)
def test_published_greedy_text(shared_ring: SharedRing) -> None:
    """stories260K greedy from BOS gives exactly the published 256 tokens on every layout, asked at every node."""
    cluster, instance = shared_ring.cluster, shared_ring.place("stories260K")
    shards = instance["shards"]
    assert isinstance(shards, list)
    assert [shard["engine"] for shard in shards] == shared_ring.engines
    assert [shard["node_id"] for shard in shards] == [node.node_id for node in cluster]
    if len(cluster) == 5:
        assert [(shard["start_layer"], shard["end_layer"]) for shard in shards] == [(i, i + 1) for i in range(5)]
    for node in (cluster[0], cluster[-1]):
        answer = node.client().completions.create(model="stories260K", prompt="", temperature=0, max_tokens=256)
        assert answer.choices[0].text == expected_text()
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 256
