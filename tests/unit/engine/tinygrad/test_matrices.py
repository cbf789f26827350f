"""Quantized folders on the tinygrad engine, against mlx-lm and against the full-precision weights they stand for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.quantized import mlx_lm_logits, quantize_checkpoint, widened_checkpoint
from tests.unit.engine.tinygrad.harness import THREE, Ring, tokens, two_layers

pytest.importorskip("mlx.core")  # makes the folders
pytestmark = pytest.mark.engine_tinygrad

IDS = tokens(12)  # within the windows of these checkpoints: mlx-lm's gemma2 and llama files have none
TOLERANCE = 3e-5  # relative to the largest logit: products in another order, and grouped


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quantized")


def _decoded(ring: Ring) -> np.ndarray:
    """Logits of every position: a prompt in one row, then token by token."""
    return np.concatenate([ring.step([(0, IDS[:9], 9)]), *(ring.step([(0, [one], 1)]) for one in IDS[9:])])


@pytest.mark.parametrize(("family", "bits"), [("gemma2", 8), ("phi3", 4)])
def test_equals_mlx_lm(family: str, bits: int, root: Path) -> None:
    """Logits of the whole: a tied LM head, and stacked projections as they are stored (llama is below)."""
    path = quantize_checkpoint(two_layers(family, root), bits=bits)
    wanted, ring = mlx_lm_logits(path, IDS), Ring(path, reproducible=True)
    got = _decoded(ring)
    assert np.abs(got - wanted).max() <= TOLERANCE * np.abs(wanted).max()


def test_shards_and_layers_of_their_own(root: Path) -> None:
    """Three shards; parts of one stacked matrix with other bits, other groups, or not quantized; bfloat16 scales."""
    path = quantize_checkpoint(
        two_layers("llama", root, dtype="bfloat16"),
        bits=4,
        layers={"v_proj": {"group_size": 64, "bits": 8}, "lm_head": {"group_size": 32, "bits": 8}},
        keep=("up_proj", "embed_tokens"),
    )
    got = _decoded(Ring(path, THREE, reproducible=True))
    wanted = _decoded(Ring(widened_checkpoint(path), reproducible=True))
    assert np.abs(got - wanted).max() <= TOLERANCE * np.abs(wanted).max()


def test_weights_stay_packed(root: Path) -> None:
    """What is held is what is stored; several rows share a step."""
    path = quantize_checkpoint(two_layers("llama", root), bits=4)
    ring = Ring(path)
    stored = sum(ring.source.info(name).nbytes for name in ring.source.names())
    assert ring.reports[0].weight_bytes == stored
    assert set(ring.source.released) == set(ring.source.names())
    wanted = mlx_lm_logits(path, IDS)
    for slot in (0, 1):
        ring.step([(slot, IDS[:11], 1)])
    both = ring.step([(0, IDS[11:], 1), (1, IDS[11:], 1)])
    assert np.abs(both - wanted[-1]).max() <= TOLERANCE * np.abs(wanted).max()
