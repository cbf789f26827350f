from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.checkpoints import FAMILIES, make_checkpoint, reference_logits, reference_states
from tests.unit.engine.tinygrad.harness import Pair, Ring, tokens

pytestmark = [pytest.mark.engine_tinygrad, pytest.mark.reference]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.mark.parametrize("family", FAMILIES)
def test_logits(family: str, pair_of: Callable[[str], Pair]) -> None:
    """Every family gives transformers' float32 logits, whole and split in three (a head without layers among them):
    a prompt longer than the window in several chunks, then single steps; of phi3_longrope with its long factors."""
    pair = pair_of(family)
    ids = tokens(40 if pair.context == 64 else 150)
    wanted = reference_logits(pair.path, ids)
    for ring in pair.rings:
        parts = [ring.prefill(1, ids[:21]), ring.prefill(1, ids[21:-5])]
        parts += [ring.prefill(1, [token]) for token in ids[-5:]]
        assert np.abs(np.concatenate(parts) - wanted).max() <= 5e-4


def test_read_off_a_prompt(pair_of: Callable[[str], Pair]) -> None:
    """The same logits in one product, the hidden states behind the final norm, and of chosen outputs alone."""
    pair = pair_of("llama")
    ids = tokens(40)
    ring, head = pair.batched, pair.batched.engines[0]
    ring.prefill(0, ids)
    assert np.abs(head.scores(ring.home, range(3, 40)) - reference_logits(pair.path, ids)[3:]).max() <= 5e-4
    assert np.abs(head.states(ring.home, range(3, 40)) - reference_states(pair.path, ids)[3:]).max() <= 5e-4
    assert np.array_equal(head.logits(ring.home, [5, 2]), head.logits(ring.home)[[5, 2]])


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
    path = make_checkpoint("llama", root, num_hidden_layers=1, **overrides)
    ids = tokens(20)
    assert np.abs(Ring(path, ((0, 1),), reproducible=True).prefill(0, ids) - reference_logits(path, ids)).max() <= 5e-4


def test_short_factors_and_long_chunks(root: Path) -> None:
    """Within longrope's original context its short factors hold; a row is cut into chunks of both lengths."""
    path = make_checkpoint("phi3_longrope", root, num_hidden_layers=1)
    ids = tokens(42)
    logits = Ring(path, ((0, 1),), max_chunk=16, reproducible=True).prefill(0, ids)
    assert np.abs(logits - reference_logits(path, ids)).max() <= 5e-4


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_checkpoints(dtype: str, root: Path) -> None:
    """bfloat16 and float16 checkpoints, held narrow or widened at load, give the logits of their upcast weights."""
    path = make_checkpoint("llama", root, dtype=dtype, num_hidden_layers=1)
    ids = tokens(20)
    expected = reference_logits(path, ids)
    narrow = Ring(path, ((0, 1),), reproducible=True, compute=dtype)  # type: ignore[arg-type]
    wide = Ring(path, ((0, 1),), reproducible=True, compute="float32")
    assert narrow.reports[0].weight_bytes < 0.6 * wide.reports[0].weight_bytes
    for ring in (narrow, wide):
        assert np.abs(ring.prefill(0, ids) - expected).max() <= 5e-4
