"""Quantized weights through real nodes: mlx-lm's folders and `--quantize`, on a ring of both engines."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.harness import ROOT, NodeProcess, nodes
from tests.quantized import quantize_checkpoint

pytestmark = [pytest.mark.engine_mlx, pytest.mark.engine_tinygrad]
DEMO = ROOT / "exo_node" / "models" / "demo"
QUESTION, ANSWER = "What is 7 + 5?", "7 + 5 = 12."


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeProcess]]:
    """A node of each engine; `demo-q8` is the bundled model as mlx-lm quantizes it."""
    pytest.importorskip("mlx.core")
    pytest.importorskip("tinygrad")
    root = tmp_path_factory.mktemp("quantized")
    shutil.copytree(DEMO, root / "models" / "demo-plain")
    made = quantize_checkpoint(root / "models" / "demo-plain", bits=8, group_size=32)
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        if (DEMO / name).exists():
            shutil.copy(DEMO / name, made / name)
    made.rename(root / "models" / "demo-q8")
    settings = ["--models-dir", str(root / "models")]
    with nodes(
        root / "home", ["--inference-engine", "mlx", *settings], ["--inference-engine", "tinygrad", *settings]
    ) as both:
        yield both


def _load(node: NodeProcess, **body: Any) -> tuple[int, Any]:
    return node.request("POST", "/v1/instances", body)


def _ask(node: NodeProcess, model: str) -> str | None:
    answer = node.client().chat.completions.create(
        model=model, messages=[{"role": "user", "content": QUESTION}], temperature=0, max_tokens=20
    )
    return answer.choices[0].message.content


def _weight_bytes(node: NodeProcess, instance: str) -> list[int]:
    return [stage["weight_bytes"] for stage in node.request("GET", f"/v1/instances/{instance}/stats")[1]["stages"]]


def test_one_download_on_a_mixed_ring(cluster: list[NodeProcess]) -> None:
    """A folder of mlx-lm's runs over both engines; nobody quantizes it a second time."""
    first, second = cluster
    status, told = _load(first, model="demo-q8", quantize=4)
    assert (status, "already (8 bits)" in told["error"]["message"]) == (400, True)
    status, instance = _load(first, model="demo-q8", nodes=[second.node_id, first.node_id])
    assert (status, [shard["engine"] for shard in instance["shards"]]) == (200, ["tinygrad", "mlx"])
    assert _ask(second, "demo-q8") == ANSWER
    assert sum(_weight_bytes(first, instance["id"])) < 0.35 * (DEMO / "model.safetensors").stat().st_size


def test_quantize_on_load_on_a_mixed_ring(cluster: list[NodeProcess]) -> None:
    """A full-precision folder loads in 8 bits on both engines; in another precision it is not loaded beside that."""
    first, second = cluster
    status, told = _load(first, model="demo", quantize=6)
    assert (status, told["error"]["param"]) == (400, "quantize")
    status, instance = _load(first, model="demo", quantize=8, nodes=[first.node_id, second.node_id])
    assert (status, instance["quantize"]) == (200, 8)
    assert [_ask(node, "demo") for node in cluster] == [ANSWER] * 2
    assert sum(_weight_bytes(first, instance["id"])) < 0.35 * (DEMO / "model.safetensors").stat().st_size
    for body in ({"quantize": 4}, {}, {"quantize": 4, "reuse": True}):
        status, told = _load(second, model="demo", **body)
        assert (status, told["error"]["param"]) == (409, "quantize")
    assert _load(second, model="demo", reuse=True)[1]["id"] == instance["id"]
    assert first.request("DELETE", f"/v1/instances/{instance['id']}")[0] == 200


@pytest.mark.soak
def test_exo_run(cluster: list[NodeProcess]) -> None:
    """`exo run --quantize` loads and asks; the status tells the bits."""
    first = cluster[0]
    environment = {**os.environ, "EXO_HOME": str(first.home), "COLUMNS": "200"}
    at = ["--api-port", first.api.rpartition(":")[2]]

    def exo(*line: str) -> str:
        command = [sys.executable, "-m", "exo_node", *line, *at]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    line = ["run", "demo-plain", "--quantize", "4", "--prompt", QUESTION, "--temperature", "0", "--max-tokens", "20"]
    assert exo(*line).strip()
    assert "quantized to 4 bits" in exo("status")
    (instance,) = [one for one in first.request("GET", "/v1/instances")[1]["data"] if one["model"] == "demo-plain"]
    assert instance["quantize"] == 4
    assert json.loads(exo("load", "demo", "--quantize", "8", "--json"))["quantize"] == 8
