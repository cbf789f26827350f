"""A real ring whose prompts travel as int8: the setting reaches the runners, and trained models say what they said."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.harness import SHARED_MODELS, NodeProcess, expected_text, nodes
from tests.integration.test_demo_text import ANSWERS

pytestmark = pytest.mark.engine_mlx
MLX = ["--inference-engine", "mlx"]


def place(cluster: list[NodeProcess], model: str) -> list[str]:
    """The model over all nodes in their order; how each of its stages sends."""
    wanted = {"model": model, "min_nodes": len(cluster), "nodes": [one.node_id for one in cluster]}
    status, instance = cluster[0].request("POST", "/v1/instances", wanted)
    assert status == 200, instance
    _, stats = cluster[0].request("GET", f"/v1/instances/{instance['id']}/stats")
    return [stage["info"]["wire"] for stage in stats["stages"]]


def test_prompts_as_int8_give_the_pinned_answers(tmp_path: Path) -> None:
    """The demo answers as pinned; stories go on as published, from their first word and after a part."""
    models = ["--models-dir", str(SHARED_MODELS)] if SHARED_MODELS.is_dir() else []
    with nodes(tmp_path / "home", *[[*MLX, *models, "--wire-int8", "on"]] * 2) as cluster:
        assert place(cluster, "demo") == ["float32, prompts as int8", "float32"]
        for question, expected in ANSWERS.items():
            answer = (
                cluster[1]
                .client()
                .chat.completions.create(model="demo", messages=[{"role": "user", "content": question}], temperature=0)
            )
            assert answer.choices[0].message.content == expected
        if not models:
            return
        assert place(cluster, "stories260K")[0] == "float32, prompts as int8"
        text = expected_text()
        for begun in ("", " ".join(text.split(" ")[:12])):
            more = (
                cluster[0]
                .client()
                .completions.create(
                    model="stories260K", prompt=begun, temperature=0, max_tokens=256 - 4 * len(begun.split())
                )
            )
            assert text.startswith(begun + more.choices[0].text)
            assert len(more.choices[0].text) > 300


def test_one_node_that_says_no_decides_for_the_ring(tmp_path: Path) -> None:
    """Where one node is reproducible, hidden states travel as they are."""
    with nodes(tmp_path / "home", [*MLX, "--wire-int8", "on"], [*MLX, "--reproducible"]) as cluster:
        assert place(cluster, "demo") == ["float32", "float32"]
