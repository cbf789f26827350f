"""Experts on a CPU: rows taken together, against mlx-lm's own layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from exo_node.engine.mlx.experts import ROWS, prepare_experts
from exo_node.engine.mlx.modules import import_model_file
from exo_node.engine.mlx.quantized import WIDEN_ROWS

mx: Any = pytest.importorskip("mlx.core")
nn: Any = pytest.importorskip("mlx.nn")
pytestmark = pytest.mark.engine_mlx

EXPERTS, CHOSEN = 5, 2
TOLERANCE = 2e-5  # relative to the largest element: products in another order


@pytest.mark.parametrize("bits", (0, 4))
def test_rows_taken_together(bits: int) -> None:
    """As many tokens as pay and one less, so many that packed matrices are widened, and some of a batch, each a token
    by itself; one expert is chosen by none, one by nearly all."""
    mx.set_default_device(mx.cpu)
    layer = import_model_file("switch_layers").SwitchGLU(64, 32, EXPERTS)
    if bits:
        nn.quantize(layer, group_size=32, bits=bits)
    plain = type(layer)
    for shape in ((1, -(-ROWS * EXPERTS // CHOSEN)), (1, 9), (1, 3 * WIDEN_ROWS), (20, 1)):
        draw = np.random.default_rng(len(shape) + shape[1])
        x = mx.array(draw.standard_normal((*shape, 64)).astype(np.float32))
        rest = draw.choice([0, 2, 4], shape)
        chosen = mx.array(np.stack([np.where(draw.random(shape) < 0.8, 3, 0), np.where(rest == 0, 4, rest)], -1))
        wanted = plain.__call__(layer, x, chosen)
        prepare_experts(nn.Sequential(layer), (), mx.float32)
        assert type(layer) is not plain
        got = layer(x, chosen)
        assert got.shape == wanted.shape == (*shape, CHOSEN, 64)
        assert mx.abs(got - wanted).max() <= TOLERANCE * mx.abs(wanted).max()
