"""Products with packed matrices, against the matrices that they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("tinygrad")
from exo_node.engine.tinygrad.backend import select_backend
from exo_node.models.quantizing import quantize
from exo_node.packing import Packing

pytestmark = pytest.mark.engine_tinygrad


@pytest.mark.parametrize(
    ("bits", "group_size", "tile", "counts"),
    [(4, 32, 16, (1, 6, 8)), (4, 128, 4, (1, 2)), (8, 64, 16, (1, 4)), (8, 64, 1, (1, 6)), (4, 32, 1, (1,))],
)
def test_equals_the_widened_matrix(bits: int, group_size: int, tile: int, counts: tuple[int, ...]) -> None:
    """One row and several, in tiles or not; single rows of the matrix come out exactly."""
    device = select_backend("CPU").device
    from tinygrad import Tensor, TinyJit, dtypes

    from exo_node.engine.tinygrad.packed import PackedMatrix, product, rows_of

    rng = np.random.default_rng(0)
    rows, columns = 48, 128  # of groups of 128 one only
    made = quantize(
        rng.standard_normal((rows * columns // group_size, group_size)).astype(np.float32), Packing(bits, group_size)
    )
    integers, scales, biases = made[0].reshape(rows, -1), made[1].reshape(rows, -1), made[2].reshape(rows, -1)
    unpacked = np.stack([integers & 15, integers >> 4], axis=-1).reshape(rows, -1) if bits == 4 else integers
    widened = unpacked * scales.repeat(group_size, axis=1) + biases.repeat(group_size, axis=1)

    def held(part: Any) -> Tensor:
        if tile > 1:
            part = np.ascontiguousarray(part.reshape(rows // tile, tile, -1).transpose(0, 2, 1))
        return Tensor(part, device=device).contiguous().realize()

    matrix = PackedMatrix(held(integers), held(scales), held(biases), Packing(bits, group_size))
    for n in counts:
        x = rng.standard_normal((n, columns)).astype(np.float32)
        run = TinyJit(lambda given: product(given, matrix, dtypes.float32).contiguous().realize())
        wanted = x @ widened.T
        got = run(Tensor(x, device=device).contiguous().realize()).numpy()
        assert np.abs(got - wanted).max() <= 3e-6 * np.abs(wanted).max()
    ids = [47, 0, 3]
    got = rows_of(matrix, Tensor(ids, device=device, dtype=dtypes.int32)).numpy()
    assert np.abs(got - widened[ids]).max() <= 1e-6
