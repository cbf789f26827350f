"""Quantized folders on the MLX engine, against mlx-lm's own quantized model."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exo_node.engine.mlx.quantized import WIDEN_ROWS
from exo_node.errors import CheckpointError
from tests.checkpoints import EXPERTS, FAMILIES, HYBRIDS, MORE_FAMILIES, make_checkpoint
from tests.quantized import mlx_lm_logits, quantize_checkpoint, widened_checkpoint
from tests.unit.engine.mlx.ring import LocalRing, ids_of, read_config

mx: Any = pytest.importorskip("mlx.core")
pytestmark = pytest.mark.engine_mlx

ALL = FAMILIES + MORE_FAMILIES + HYBRIDS + EXPERTS
IDS = ids_of(12)  # within the windows of these checkpoints: mlx-lm's gemma2 and llama files have none
TOLERANCE = 2e-5  # relative to the largest logit: products in another order


@pytest.mark.parametrize(("family", "bits"), list(zip(ALL, cycle((4, 8)), strict=False)))
def test_equals_mlx_lm(family: str, bits: int, checkpoints: Path) -> None:
    """Logits of the whole and of three shards, a prompt in two pieces and then token by token."""
    path = quantize_checkpoint(make_checkpoint(family, checkpoints), bits=bits)
    wanted = mlx_lm_logits(path, IDS)
    for cut in ((0, 7), (0, 0, 3, 7)):
        ring = LocalRing(path, cut)
        got = ring.run(0, IDS, [5, 3])
        assert np.abs(got - wanted).max() <= TOLERANCE * np.abs(wanted).max()


def test_a_long_chunk_is_widened(checkpoints: Path) -> None:
    """Enough rows at once are multiplied in floating point, with the same result; biases of linear layers are kept."""
    path = quantize_checkpoint(make_checkpoint("qwen2", checkpoints), bits=4)
    ids = ids_of(WIDEN_ROWS * 2)
    wanted, got = mlx_lm_logits(path, ids), LocalRing(path, (0, 7)).run(0, ids, [len(ids)])
    assert np.abs(got - wanted).max() <= TOLERANCE * np.abs(wanted).max()


def test_layers_of_their_own(checkpoints: Path) -> None:
    """Other bits and groups for some modules, and some not quantized, as mlx-lm's recipes write them."""
    path = quantize_checkpoint(
        make_checkpoint("llama", checkpoints),
        bits=4,
        layers={"v_proj": {"group_size": 64, "bits": 8}, "lm_head": {"group_size": 32, "bits": 8}},
        keep=("o_proj", "embed_tokens"),
    )
    wanted, got = mlx_lm_logits(path, IDS), LocalRing(path, (0, 3, 7)).run(0, IDS, [12])
    assert np.abs(got - wanted).max() <= TOLERANCE * np.abs(wanted).max()


@pytest.mark.parametrize("router", ({"layers": {"mlp.gate": {"group_size": 64, "bits": 8}}}, {"keep": ("mlp.gate",)}))
def test_a_router_wider_than_its_experts(router: dict[str, Any], checkpoints: Path) -> None:
    """As mlx-lm leaves it, or in full precision; a prompt long enough for its tokens to be sorted by expert. The same
    weights in floating point, all experts' in one tensor, give the same logits."""
    path, ids = quantize_checkpoint(make_checkpoint("qwen3_moe", checkpoints), bits=4, **router), ids_of(40)
    wanted, got = mlx_lm_logits(path, ids), LocalRing(path, (0, 3, 7)).run(0, ids, [38])
    assert np.abs(got - wanted).max() <= TOLERANCE * np.abs(wanted).max()
    got = LocalRing(widened_checkpoint(path), (0, 3, 7)).run(0, ids, [38])
    assert np.abs(got - wanted).max() <= TOLERANCE * np.abs(wanted).max()


def test_experts_quantized_on_load(checkpoints: Path) -> None:
    """Expert by expert, as they are stored: the bits of a folder that was quantized so."""
    path, ids = make_checkpoint("qwen3_moe", checkpoints), ids_of(40)
    (path / "tokenizer.json").write_text("{}")
    folder = LocalRing(quantize_checkpoint(path, bits=4, group_size=32, keep=("mlp.gate",)), (0, 3, 7))
    loaded = LocalRing(path, (0, 3, 7), quantize=4)
    assert np.array_equal(loaded.run(0, ids, [38]), folder.run(0, ids, [38]))
    assert [one.weight_bytes for one in loaded.reports] == [one.weight_bytes for one in folder.reports]


def test_weights_stay_packed(checkpoints: Path) -> None:
    """A shard holds its packed tensors, scales and biases, and nothing wider; several rows share a step."""
    path = quantize_checkpoint(make_checkpoint("llama", checkpoints), bits=4)
    ring = LocalRing(path, (0, 3, 7))
    stored = sum(array.nbytes for array in mx.load(str(path / "model.safetensors")).values())
    assert sum(report.weight_bytes for report in ring.reports) == stored
    wanted = mlx_lm_logits(path, IDS)
    for slot in (0, 1):
        ring.step((slot, IDS[:11], 1))
    both = ring.step((0, IDS[11:], 1), (1, IDS[11:], 1))
    assert np.abs(both - wanted[-1]).max() <= TOLERANCE * np.abs(wanted).max()


def test_scales_in_half_precision_are_widened_exactly(checkpoints: Path) -> None:
    """Scales stored in bfloat16, computed with in float32: as the float32 weights that they stand for."""
    path = quantize_checkpoint(make_checkpoint("llama", checkpoints, dtype="bfloat16"), bits=8)
    got = LocalRing(path, (0, 7)).run(0, IDS, [12])
    wanted = LocalRing(widened_checkpoint(path), (0, 7)).run(0, IDS, [12])
    assert np.abs(got - wanted).max() <= TOLERANCE * np.abs(wanted).max()


def test_shapes_that_are_no_packing(checkpoints: Path) -> None:
    """A config of other columns than the tensors were packed from is refused before anything is read."""
    path = quantize_checkpoint(make_checkpoint("llama", checkpoints), bits=4)
    with pytest.raises(CheckpointError, match="no packing of 192 columns"):
        LocalRing(path, (0, 7), config={**read_config(path), "intermediate_size": 192})
