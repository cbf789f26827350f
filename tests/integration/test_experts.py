"""A mixture of experts on real nodes, of which one has no engine that runs it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exo_node.models.tokenizer import Tokenizer
from tests.checkpoints import make_checkpoint, reference_logits
from tests.integration.harness import ROOT, NodeProcess, nodes

pytestmark = [pytest.mark.reference, pytest.mark.engine_mlx, pytest.mark.engine_tinygrad]
DEMO = ROOT / "exo_node" / "models" / "demo"
TEXT, ANSWER = "Once upon a time there was a small ring of three machines. ", 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights and the demo model's words."""
    pytest.importorskip("mlx.core")
    pytest.importorskip("tinygrad")
    root = tmp_path_factory.mktemp("models")
    vocab = json.loads((DEMO / "config.json").read_text())["vocab_size"]
    made = make_checkpoint("qwen3_moe", root, vocab_size=vocab, num_hidden_layers=3, mlp_only_layers=[1])
    shutil.copy(DEMO / "tokenizer.json", made)
    return made.rename(root / "experts")


@pytest.fixture(scope="module")
def cluster(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeProcess]]:
    """A node with tinygrad, two with MLX."""
    engines = ("tinygrad", "mlx", "mlx")
    settings = (["--inference-engine", engine, "--models-dir", str(model.parent)] for engine in engines)
    with nodes(tmp_path_factory.mktemp("home"), *settings) as three:
        yield three


def test_a_ring_of_two(cluster: list[NodeProcess], model: Path) -> None:
    """The node that does not run it says so when it is named, and is passed over else. The log-probabilities of a
    prompt and its answer over two shards are transformers'."""
    first = cluster[0]

    def load(**body: Any) -> tuple[int, Any]:
        return first.request("POST", "/v1/instances", {"model": "experts", **body})

    status, told = load(nodes=[first.node_id])
    assert (status, "Qwen3MoeForCausalLM is not run" in told["error"]["message"]) == (400, True)
    status, whole = load(min_nodes=2)
    assert (status, [shard["engine"] for shard in whole["shards"]]) == (200, ["mlx", "mlx"])
    asked = {"model": "experts", "prompt": TEXT, "max_tokens": ANSWER, "temperature": 0, "ignore_eos": True}
    status, answer = first.request("POST", "/v1/completions", {**asked, "echo": True, "logprobs": 1})
    assert status == 200, answer
    ids = Tokenizer.load(DEMO).prompt_ids(TEXT)
    for _ in range(ANSWER):
        ids.append(int(reference_logits(model, ids)[-1].argmax()))
    wide = reference_logits(model, ids).astype(np.float64)
    exact = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
    told = answer["choices"][0]["logprobs"]["token_logprobs"]
    np.testing.assert_allclose(told[1:], exact[np.arange(len(ids) - 1), ids[1:]], atol=1e-4)
