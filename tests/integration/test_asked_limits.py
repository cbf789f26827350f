"""`--max-context` and `--max-sequences` are those of the node that a model is asked of."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.harness import nodes


@pytest.mark.engine_mlx
def test_whoever_coordinates(tmp_path: Path) -> None:
    """Two nodes with different limits: each gets what it allows, by a load and by a first request."""
    engine = ["--inference-engine", "mlx"]
    small = [*engine, "--max-context", "700", "--max-sequences", "3"]
    with nodes(tmp_path / "home", small, engine) as both:
        for node, wanted in zip(both, ((3, 700), (8, 1024)), strict=True):  # one of them does not coordinate
            status, told = node.request("POST", "/v1/instances", {"model": "demo", "nodes": [both[0].node_id]})
            assert (status, told["slots"], told["context"]) == (200, *wanted), told
            assert node.request("DELETE", f"/v1/instances/{told['id']}")[0] == 200
            answer = node.client().chat.completions.create(
                model="demo", messages=[{"role": "user", "content": "Hi"}], max_tokens=2
            )
            assert answer.choices[0].message.content
            (served,) = node.request("GET", "/v1/instances")[1]["data"]
            assert (served["slots"], served["context"]) == wanted
            assert node.request("DELETE", f"/v1/instances/{served['id']}")[0] == 200
