"""Rings of real nodes that several test files share: starting one takes longer than most tests on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.harness import ROOT, SHARED_MODELS, NodeProcess, nodes

DEMO = ROOT / "exo_node" / "models" / "demo"
MARKS = {"mlx": pytest.mark.engine_mlx, "tinygrad": pytest.mark.engine_tinygrad}


class SharedRing:
    """A cluster of one node per engine, all seeing each other. Who uses it leaves nothing behind but instances."""

    def __init__(self, cluster: list[NodeProcess], engines: list[str]) -> None:
        self.cluster = cluster
        self.engines = engines
        self._instances: dict[str, dict[str, Any]] = {}

    def place(self, model: str) -> dict[str, Any]:
        """The model's instance over all nodes, in the order in which they were started."""
        if model not in self._instances:
            wanted = {"model": model, "min_nodes": len(self.cluster), "nodes": [one.node_id for one in self.cluster]}
            status, instance = self.cluster[0].request("POST", "/v1/instances", wanted)
            assert status == 200, instance
            self._instances[model] = instance
        return self._instances[model]


def on_rings(*layouts: str) -> pytest.MarkDecorator:
    """Run a test on rings of these engines, as in "tinygrad-mlx", through the fixture `shared_ring`."""
    params = [pytest.param(one, marks=[MARKS[engine] for engine in sorted({*one.split("-")})]) for one in layouts]
    return pytest.mark.parametrize("shared_ring", params, indirect=True)


@contextmanager
def ring(folder: Path, engines: list[str]) -> Iterator[SharedRing]:
    """The nodes have the demo model, and what lies beside the repository."""
    models = ["--models-dir", str(SHARED_MODELS)] if SHARED_MODELS.is_dir() else []
    with nodes(folder / "home", *(["--inference-engine", engine, *models] for engine in engines)) as cluster:
        yield SharedRing(cluster, engines)
