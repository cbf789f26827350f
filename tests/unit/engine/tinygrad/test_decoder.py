from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.checkpoints import FAMILIES, make_checkpoint, reference_logits, reference_states
from tests.unit.engine.tinygrad.harness import THREE, WHOLE, Ring, tokens

pytestmark = [pytest.mark.engine_tinygrad, pytest.mark.reference]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.mark.parametrize("cuts", [WHOLE, THREE], ids=["whole", "three"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits(family: str, cuts: tuple[tuple[int, int], ...], root: Path) -> None:
    """Every family gives transformers' float32 logits, whole and split in three (a head without layers among them):
    a prompt longer than the window in two chunks, then single steps."""
    path = make_checkpoint(family, root)
    ids = tokens(40)
    ring = Ring(path, cuts)
    parts = [ring.prefill(1, ids[:21]), ring.prefill(1, ids[21:33])]
    parts += [ring.prefill(1, [token]) for token in ids[33:]]
    wanted = reference_logits(path, ids)
    assert np.abs(np.concatenate(parts) - wanted).max() <= 5e-4
    if cuts == THREE:  # the same read off a prompt in one product, and its hidden states behind the final norm
        ring.prefill(2, ids)
        head = ring.engines[0]
        assert np.abs(head.scores(ring.home, range(3, 40)) - wanted[3:]).max() <= 5e-4
        assert np.abs(head.states(ring.home, range(3, 40)) - reference_states(path, ids)[3:]).max() <= 5e-4
        assert np.array_equal(head.logits(ring.home, [5, 2]), head.logits(ring.home)[[5, 2]])


@pytest.mark.parametrize("family", ["mistral", "phi3_longrope"])
def test_long_chunk(family: str, root: Path) -> None:
    """A row longer than the longest compiled chunk is cut and gives the same logits; beyond longrope's original context
    its long factors are used."""
    path = make_checkpoint(family, root)
    ids = tokens(150)
    logits = Ring(path, slots=1, context=200, max_chunk=150).prefill(0, ids)
    assert np.abs(logits - reference_logits(path, ids)).max() <= 5e-4


@pytest.mark.parametrize(
    "overrides",
    [
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0}, "hidden_act": "gelu"},
    ],
    ids=["biases", "linear-rope-gelu"],
)
def test_variants(overrides: dict[str, Any], root: Path) -> None:
    """Biases everywhere, tied embeddings, linear rope scaling, an exact GELU: read from the config and right."""
    path = make_checkpoint("llama", root, num_hidden_layers=2, **overrides)
    ids = tokens(20)
    assert np.abs(Ring(path, ((0, 2),)).prefill(0, ids) - reference_logits(path, ids)).max() <= 5e-4


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_checkpoints(dtype: str, root: Path) -> None:
    """bfloat16 and float16 checkpoints, held narrow or widened at load, give the logits of their upcast weights."""
    path = make_checkpoint("llama", root, dtype=dtype, num_hidden_layers=2)
    ids = tokens(20)
    expected = reference_logits(path, ids)
    narrow = Ring(path, ((0, 2),), compute=dtype)  # type: ignore[arg-type]
    wide = Ring(path, ((0, 2),), compute="float32")
    assert narrow.reports[0].weight_bytes < 0.6 * wide.reports[0].weight_bytes
    for ring in (narrow, wide):
        assert np.abs(ring.prefill(0, ids) - expected).max() <= 5e-4
