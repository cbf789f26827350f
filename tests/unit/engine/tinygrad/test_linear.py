"""Products with float matrices, in rows and in tiles, against numpy's."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("tinygrad")
from exo_node.engine.tinygrad.backend import select_backend
from exo_node.engine.tinygrad.weights import from_float32, to_float32
from exo_node.types import Dtype

pytestmark = pytest.mark.engine_tinygrad


@pytest.mark.parametrize(
    ("dtype", "tile", "n", "width"),
    [
        ("float32", 1, 3, 32),
        ("float32", 4, 6, 33),
        ("bfloat16", 16, 4, 32),
        ("float16", 4, 1, 32),
        ("bfloat16", 1, 1, 32),
    ],
)
def test_equals_numpy(dtype: Dtype, tile: int, n: int, width: int) -> None:
    """One row and several, an odd width, narrow weights, a bias; rows of the matrix come out exactly."""
    device = select_backend("CPU").device
    from tinygrad import Tensor, dtypes

    from exo_node.engine.tinygrad.linear import linear, rows_of

    rng = np.random.default_rng(0)
    stored = from_float32(rng.standard_normal((32, width)).astype(np.float32), dtype)
    exact = to_float32(stored, dtype)
    x, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((n, width), (32,)))
    held = stored if tile == 1 else np.ascontiguousarray(stored.reshape(32 // tile, tile, width).transpose(0, 2, 1))
    weight = Tensor(held, device=device).realize()
    got = linear(Tensor(x, device=device).realize(), weight, Tensor(bias, device=device), dtypes.float32).numpy()
    wanted = x @ exact.T + bias
    assert np.abs(got - wanted).max() <= 2e-6 * np.abs(wanted).max()
    ids = [31, 0, 5]
    assert np.array_equal(rows_of(weight, Tensor(ids, device=device, dtype=dtypes.int32)).numpy(), exact[ids])


def test_bfloat16_widens_exactly() -> None:
    """bfloat16 tensors and their raw bits give the same float32, infinities included."""
    select_backend("CPU")
    from tinygrad import Tensor, dtypes

    from exo_node.engine.tinygrad.linear import widened

    values = np.array([1.0, -2.5, 3.0e38, 2e-38, np.inf, 0.0], dtype=np.float32)
    bits = from_float32(values, "bfloat16")
    raw = Tensor(bits, device="CPU").realize()
    for weight in (raw, raw.bitcast(dtypes.bfloat16)):
        assert np.array_equal(widened(weight, dtypes.float32).numpy(), to_float32(bits, "bfloat16"))
