"""Published text through real daemons, real mDNS, both engines, whole and split."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.harness import SHARED_MODELS, NodeProcess, expected_text, nodes

needs_stories = pytest.mark.skipif(
    not (SHARED_MODELS / "stories260K").is_dir(), reason="the folder ../shared/models/stories260K is not here"
)

LAYOUTS = {
    "one-mlx": ["mlx"],
    "one-tinygrad": ["tinygrad"],
    "three-mlx": ["mlx"] * 3,
    "three-tinygrad": ["tinygrad"] * 3,
    "tinygrad-mlx-tinygrad": ["tinygrad", "mlx", "tinygrad"],
    "mlx-tinygrad-mlx": ["mlx", "tinygrad", "mlx"],
    "five-mixed-one-layer-each": ["mlx", "tinygrad", "mlx", "tinygrad", "mlx"],
}


def place(cluster: list[NodeProcess], model: str) -> dict[str, object]:
    """Place the model over all nodes, in the order in which they were started."""
    status, instance = cluster[0].request(
        "POST",
        "/v1/instances",
        {"model": model, "min_nodes": len(cluster), "nodes": [node.node_id for node in cluster]},
    )
    assert status == 200, instance
    assert isinstance(instance, dict)
    return instance


@needs_stories
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_published_greedy_text(layout: str, tmp_path: Path) -> None:
    """stories260K greedy from BOS gives exactly the published 256 tokens on every layout, asked at every node."""
    engines = LAYOUTS[layout]
    arguments = [["--inference-engine", engine, "--models-dir", str(SHARED_MODELS)] for engine in engines]
    with nodes(tmp_path / "home", *arguments) as cluster:
        instance = place(cluster, "stories260K")
        shards = instance["shards"]
        assert isinstance(shards, list)
        assert [shard["engine"] for shard in shards] == engines
        assert [shard["node_id"] for shard in shards] == [node.node_id for node in cluster]
        if len(cluster) == 5:
            assert [(shard["start_layer"], shard["end_layer"]) for shard in shards] == [(i, i + 1) for i in range(5)]
        for node in (cluster[0], cluster[-1]):
            answer = node.client().completions.create(model="stories260K", prompt="", temperature=0, max_tokens=256)
            assert answer.choices[0].text == expected_text()
            assert answer.usage is not None
            assert answer.usage.completion_tokens == 256
